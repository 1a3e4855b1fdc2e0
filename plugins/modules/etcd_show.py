# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: etcd_show
short_description: Print lines as text
version_added: 0.1.0
description:
  - Prints lines without quotes and escaped line ends, which M(ansible.builtin.debug) does not, unless the callback prints for programs.
  - Runs on the controller and changes nothing. Used by the roles of this collection.
author:
  - The kubeadm.etcd maintainers (@kubeadm)
attributes:
  check_mode:
    description: Can run in check mode and return what would be changed, without changing anything.
    support: full
  diff_mode:
    description: Returns what has changed, or would be changed in check mode.
    support: none
  platform:
    description: Target systems.
    platforms: posix
    support: full
options:
  lines:
    description: The lines.
    type: list
    elements: str
    required: true
"""

EXAMPLES = r"""
- name: Show the members
  kubeadm.etcd.etcd_show:
    lines: "{{ health.table }}"
"""

RETURN = r"""
lines:
  description: The lines.
  returned: always
  type: list
  elements: str
"""
