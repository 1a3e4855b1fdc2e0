# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: etcd_observe
short_description: Resolve the cluster of a host, and observe the host
version_added: 0.1.0
description:
  - Reads the members of the host's etcd cluster from the inventory, and runs M(kubeadm.etcd.etcd_host_info) on the host with the variables of the
    role C(kubeadm.etcd.etcd). That role uses it, and registers the result as C(__etcd_host).
  - For V(hand_over) of O(operation), members other than the CA host are observed only if the address of a member is not known yet.
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
    description:
      - The operation of the run, a value of the variable C(etcd_operation). Only V(hand_over) observes the control plane hosts.
    type: str
    default: converge
  health:
    description: Whether the first host of each cluster also asks all members for their health, so that a run with nothing to do needs no further call.
    type: bool
    default: false
  reads_log:
    description: Whether the logs of members on etcd 3.6 are searched for what etcd 3.7 cannot read, although 3.7 is not wanted. For the report.
    type: bool
    default: false
  again:
    description: Whether this is the second look, which is the last one.
    type: bool
    default: false
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
  description: Whether the run installs the library cryptography - the host lacks it, and the variables allow it.
  returned: always
  type: bool
incomplete:
  description:
    - Whether the host has to be looked at again - the library was missing, or the address of a member, which the other hosts know by now.
  returned: always
  type: bool
wanted:
  description: What the host is to have - the options C(pki), C(config), C(kubelet) and C(backup) that M(kubeadm.etcd.etcd_host_info) was given.
  returned: if the host is observed
  type: dict
facts:
  description: This and all other values are those of M(kubeadm.etcd.etcd_host_info).
  returned: if the host is observed
  type: dict
"""
