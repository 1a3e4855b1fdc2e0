#!/usr/bin/python
# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: etcd_member_defragment
short_description: Defragment the database of the etcd member of a host
version_added: 0.1.0
description:
  - Rewrites the database file of the member, which frees what is not in use. The member answers nothing meanwhile. It is not restarted.
  - Holds the cluster lock while it works, unless the alarm NOSPACE is raised, with which etcd refuses the lock. Fails, and changes nothing, if any
    member is not healthy or has not joined completely, if the rest would be no quorum, or if the disk has no room for the new file.
  - Waits afterwards until the member is healthy and has caught up.
author:
  - The kubeadm.etcd maintainers (@kubeadm)
extends_documentation_fragment:
  - kubeadm.etcd.attributes
  - kubeadm.etcd.members
options:
  member:
    description: Name of the member of this host.
    type: str
    required: true
  members:
    description: All members of the cluster, this one included.
  client_port:
    description: Port for clients.
    type: int
    default: 2379
  metrics_port:
    description: Port of the metrics.
    type: int
    default: 2381
  threshold:
    description: Percent of the database file that is not in use, from which on it is defragmented. Less than 16 MiB are left, whatever their part.
    type: int
    default: 45
  compact_revision:
    description: Remove the history up to this revision first, from the databases of all members. V(0) removes none.
    type: int
    default: 0
  allow_interruption:
    description: Whether the member of a cluster of one or two may be blocked.
    type: bool
    default: false
  work_dir:
    description: Directory of this collection on the host, for a lock.
    type: path
    default: /etc/kubernetes/kubeadm-etcd
  data_dir:
    description: Data directory of etcd, whose filesystem has to have room for the new file.
    type: path
    default: /var/lib/etcd
  pki_dir:
    description: Directory of the certificates. The one for health checks is used to ask the cluster.
    type: path
    default: /etc/kubernetes/pki
  timeout:
    description: Seconds that the compaction, and then the defragmentation, may take.
    type: int
    default: 900
"""

EXAMPLES = r"""
- name: Defragment the member of this host if a third of its database file is not in use
  kubeadm.etcd.etcd_member_defragment:
    member: "{{ inventory_hostname }}"
    members: "{{ members }}"
    threshold: 33
    allow_interruption: "{{ members | length < 3 }}"
"""

RETURN = r"""
reasons:
  description: What was changed, one sentence each. Empty if the database is not fragmented.
  returned: always
  type: list
  elements: str
  sample: ["defragmented, 1300 MiB -> 515 MiB"]
changes:
  description:
    - The same as RV(reasons) for programs. C(part) and C(code) are stable, C(text) is the sentence in RV(reasons), C(restarts) is whether the change
      restarts etcd.
  returned: always
  type: list
  elements: dict
before:
  description: The database before the change.
  returned: always
  type: dict
  contains:
    size:
      description: Bytes of the file.
      type: int
    in_use:
      description: Bytes of it that are in use.
      type: int
after:
  description: The same afterwards.
  returned: always
  type: dict
seconds:
  description: Seconds from the beginning until the member was healthy again.
  returned: always
  type: float
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.kubeadm.etcd.plugins.module_utils._member.defragment import DefragmentSpec, defragment
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.errors import stated_errors
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.members import MEMBERS_ARGUMENT, by_name


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "member": {"type": "str", "required": True},
            "members": MEMBERS_ARGUMENT,
            "client_port": {"type": "int", "default": 2379},
            "metrics_port": {"type": "int", "default": 2381},
            "threshold": {"type": "int", "default": 45},
            "compact_revision": {"type": "int", "default": 0},
            "allow_interruption": {"type": "bool", "default": False},
            "work_dir": {"type": "path", "default": "/etc/kubernetes/kubeadm-etcd"},
            "data_dir": {"type": "path", "default": "/var/lib/etcd"},
            "pki_dir": {"type": "path", "default": "/etc/kubernetes/pki"},
            "timeout": {"type": "int", "default": 900},
        },
        supports_check_mode=True,
    )
    with stated_errors(module.fail_json):
        result = defragment(
            DefragmentSpec(**{**module.params, "members": by_name(module.params["members"])}), module.check_mode
        )
        module.exit_json(**result)


if __name__ == "__main__":
    main()
