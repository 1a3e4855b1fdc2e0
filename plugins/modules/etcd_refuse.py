# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: etcd_refuse
short_description: Refuse a run before anything is changed
version_added: 0.1.0
description:
  - Fails if the hosts of the play do not wait for each other (C(strategy) is C(free) or C(host_pinned)), because members would restart at the
    same time, or if there is a reason to refuse the run. Used by the role C(kubeadm.etcd.preflight).
  - Runs on the controller and changes nothing.
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
  reason:
    description: Why the run is refused, in full. Empty if it is not.
    type: str
    default: ""
  observed:
    description:
      - For each host of the cluster, the observations that its plan was made of. If they differ, the hosts did not wait for each other, whatever the
        strategy is called.
    type: list
    elements: dict
    default: []
"""

EXAMPLES = r"""
- name: Refuse the run if a problem was found
  kubeadm.etcd.etcd_refuse:
    reason: "{{ problems | join('\n') }}"
"""

RETURN = r"""
msg:
  description: Why the run is refused.
  returned: on failure
  type: str
"""
