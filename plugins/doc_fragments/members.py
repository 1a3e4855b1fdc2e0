# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The members of a cluster. Each module says itself which of them it is to be given."""

from __future__ import annotations


class ModuleDocFragment:
    """The option MEMBERS_ARGUMENT."""

    DOCUMENTATION = r"""
options:
  members:
    description: Members of the cluster.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: Name of the member.
        type: str
        required: true
      address:
        description: IP address of the member.
        type: str
        required: true
"""
