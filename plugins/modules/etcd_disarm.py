#!/usr/bin/python
# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: etcd_disarm
short_description: Disarm the alarm NOSPACE of an etcd cluster
version_added: 0.1.0
description:
  - Disarms the alarm NOSPACE of every member if the database of each is below its quota, so that the cluster takes writes again.
  - Fails, and says what else can be done, if the database of a member has no room yet. In check mode, it only looks whether the alarm is raised.
  - Leaves other alarms as they are.
author:
  - The kubeadm.etcd maintainers (@kubeadm)
extends_documentation_fragment:
  - kubeadm.etcd.attributes
  - kubeadm.etcd.members
options:
  members:
    description: Members of the cluster that are asked for the membership.
  client_port:
    description: Port for clients.
    type: int
    default: 2379
  quota:
    description: Quota in bytes, for members of etcd 3.5, which do not report theirs. V(0) means no limit.
    type: int
    default: 0
  pki_dir:
    description: Directory of the certificates. The one for health checks is used to ask the cluster.
    type: path
    default: /etc/kubernetes/pki
  timeout:
    description: Seconds for which a change that etcd does not accept yet is repeated.
    type: int
    default: 60
"""

EXAMPLES = r"""
- name: Take writes again, if there is room
  kubeadm.etcd.etcd_disarm:
    members: "{{ members }}"
    quota: 2147483648
"""

RETURN = r"""
reasons:
  description: What was changed, one sentence each. Empty if the alarm is not raised.
  returned: always
  type: list
  elements: str
  sample: ["alarm NOSPACE of member f5e0c1e5dc2f1ba3: disarmed"]
changes:
  description:
    - The same as RV(reasons) for programs. C(part) and C(code) are stable, C(text) is the sentence in RV(reasons), C(restarts) is whether the change
      restarts etcd.
  returned: always
  type: list
  elements: dict
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.kubeadm.etcd.plugins.module_utils._member.defragment import DisarmSpec, disarm
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.errors import stated_errors
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.members import MEMBERS_ARGUMENT, by_name


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "members": MEMBERS_ARGUMENT,
            "client_port": {"type": "int", "default": 2379},
            "quota": {"type": "int", "default": 0},
            "pki_dir": {"type": "path", "default": "/etc/kubernetes/pki"},
            "timeout": {"type": "int", "default": 60},
        },
        supports_check_mode=True,
    )
    with stated_errors(module.fail_json):
        result = disarm(
            DisarmSpec(**{**module.params, "members": by_name(module.params["members"])}), module.check_mode
        )
        module.exit_json(**result)


if __name__ == "__main__":
    main()
