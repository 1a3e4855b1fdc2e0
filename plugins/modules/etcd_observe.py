# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: etcd_observe
short_description: Resolve the cluster of a host, and observe the host
version_added: 0.1.0
description:
  - Reads from the inventory who the members of the host's etcd cluster are, and runs M(kubeadm.etcd.etcd_host_info) on the host with what the
    variables of the role C(kubeadm.etcd.etcd) want of it. Used by that role, which registers the result as C(__etcd_host).
  - In a hand-over, members other than the CA host are observed only if the address of a member is not known yet.
  - Changes nothing.
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
  operation:
    description: What the run is for. V(hand_over) takes the control plane hosts into account, and is the only one that observes them.
    type: str
    choices: [converge, renew, hand_over, move_ca]
    default: converge
"""

EXAMPLES = r"""
- name: Observe the host
  kubeadm.etcd.etcd_observe:
  register: __etcd_host
"""

RETURN = r"""
cluster:
  description:
    - The cluster of the host - its C(name), C(members) (host, name, address, SANs), C(ca_host), whether all addresses are C(known), C(problems),
      C(warnings), variables with an C(invalid) value, and the control plane hosts that use it (C(clients)).
  returned: always
  type: dict
installs:
  description: Whether the host lacks the library cryptography, and the variables allow its installation.
  returned: always
  type: bool
facts:
  description: This and all else as M(kubeadm.etcd.etcd_host_info) returns it.
  returned: if the host is observed
  type: dict
"""
