#!/usr/bin/python
# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: etcd_member_leave
short_description: Remove a member from the membership of an etcd cluster
version_added: 0.1.0
description:
  - Runs on the host of another member, so the host of the member that leaves may be gone for good.
  - Holds the cluster lock while it works. Fails, and changes nothing, if the member is the last one, if the rest would be no quorum, or if the member
    is healthy and another one is not.
  - If the member is the leader, another member becomes the leader first. Alarms that the member has raised are disarmed.
  - Changes nothing on the host of the member. M(kubeadm.etcd.etcd_member_clear) does that.
author:
  - The kubeadm.etcd maintainers (@kubeadm)
extends_documentation_fragment:
  - kubeadm.etcd.attributes
  - kubeadm.etcd.members
options:
  member:
    description: Name of the member that leaves, for messages.
    type: str
    required: true
  member_id:
    description: Its id, hexadecimal. If the membership does not have it any more, its alarms are disarmed, if there are any.
    type: str
    required: true
  members:
    description: Members of the cluster that are asked. The member that leaves is not asked.
  client_port:
    description: Port for clients.
    type: int
    default: 2379
  pki_dir:
    description: Directory of the certificates. The one for health checks is used to ask the cluster.
    type: path
    default: /etc/kubernetes/pki
  timeout:
    description: Seconds for which a change that etcd does not accept yet is repeated.
    type: int
    default: 60
  joins_anew:
    description: Whether the host of the member joins anew afterwards. Then the module fails as well if another member is a learner or not healthy.
    type: bool
    default: false
  work_dir:
    description:
      - Directory of the record of this host. While the module runs, M(kubeadm.etcd.etcd_member_clear) does not remove the keys of this host.
      - The module fails, and changes nothing, if the record says that the member of this host was removed, and its keys are gone.
    type: path
    default: /etc/kubernetes/kubeadm-etcd
"""

EXAMPLES = r"""
- name: Remove infra2 from the membership
  kubeadm.etcd.etcd_member_leave:
    member: infra2
    member_id: f5e0c1e5dc2f1ba3
    members: "{{ members }}"
"""

RETURN = r"""
reasons:
  description: What was changed, one sentence each. Empty if the membership does not have the member.
  returned: always
  type: list
  elements: str
  sample: ["member f5e0c1e5dc2f1ba3 (infra2) leaves the membership"]
changes:
  description:
    - The same as RV(reasons) for programs. C(part) and C(code) are stable, C(text) is the sentence in RV(reasons), C(restarts) is whether the change
      restarts etcd.
  returned: always
  type: list
  elements: dict
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.kubeadm.etcd.plugins.module_utils._member.departure import LeaveSpec, leave
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.errors import stated_errors
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.members import MEMBERS_ARGUMENT, by_name


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "member": {"type": "str", "required": True},
            "member_id": {"type": "str", "required": True},
            "members": MEMBERS_ARGUMENT,
            "client_port": {"type": "int", "default": 2379},
            "pki_dir": {"type": "path", "default": "/etc/kubernetes/pki"},
            "timeout": {"type": "int", "default": 60},
            "joins_anew": {"type": "bool", "default": False},
            "work_dir": {"type": "path", "default": "/etc/kubernetes/kubeadm-etcd"},
        },
        supports_check_mode=True,
    )
    with stated_errors(module.fail_json):
        result = leave(LeaveSpec(**{**module.params, "members": by_name(module.params["members"])}), module.check_mode)
        module.exit_json(**result)


if __name__ == "__main__":
    main()
