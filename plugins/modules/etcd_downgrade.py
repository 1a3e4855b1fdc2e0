#!/usr/bin/python
# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: etcd_downgrade
short_description: Enable a downgrade of an etcd cluster, or cancel it
version_added: 0.1.0
description:
  - Has etcd validate and enable a downgrade to the minor version before the one that the cluster has, by its downgrade API, and waits until the version of
    the cluster and that of the data of every member have been lowered. Members can then get the older version, one after the other. When the last one has
    it, etcd ends the downgrade itself.
  - Fails, and enables nothing, if a member is not healthy or has not joined completely, or if etcd refuses the version. Changes nothing if that downgrade is
    enabled already.
  - With O(version=cancel), has etcd cancel the downgrade that is enabled. Members that have the older version keep it until they are upgraded.
  - Holds the cluster lock while it works. Restarts no member. In check mode, etcd is only asked to validate the version.
author:
  - The kubeadm.etcd maintainers (@kubeadm)
extends_documentation_fragment:
  - kubeadm.etcd.attributes
  - kubeadm.etcd.members
options:
  halted:
    description: Why nothing may be changed any more. Empty if it may.
    type: str
    default: ""
  member:
    description: Name of the member of this host.
    type: str
    required: true
  members:
    description: Members of the cluster that are asked for the membership, this one included.
  version:
    description: The minor version that the cluster goes back to, for example V(3.6); or V(cancel).
    type: str
    required: true
  client_port:
    description: Port for clients.
    type: int
    default: 2379
  pki_dir:
    description: Directory of the certificates. The one for health checks is used to ask the cluster.
    type: path
    default: /etc/kubernetes/pki
  timeout:
    description: Seconds that all members may take to be ready for the older version.
    type: int
    default: 60
"""

EXAMPLES = r"""
- name: Let members go back from etcd 3.7 to 3.6
  kubeadm.etcd.etcd_downgrade:
    member: "{{ inventory_hostname }}"
    members: "{{ members }}"
    version: "3.6"
"""

RETURN = r"""
reasons:
  description: What was changed, one sentence each. Empty if that was done before.
  returned: always
  type: list
  elements: str
  sample: ["cluster version: 3.7 -> 3.6"]
changes:
  description:
    - The same as RV(reasons) for programs. C(part) and C(code) are stable, C(text) is the sentence in RV(reasons), C(restarts) is whether the change
      restarts etcd.
  returned: always
  type: list
  elements: dict
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.kubeadm.etcd.plugins.module_utils._member.downgrade import DowngradeSpec, change_downgrade
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.errors import stated_errors
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.members import MEMBERS_ARGUMENT, by_name


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "halted": {"type": "str", "default": ""},
            "member": {"type": "str", "required": True},
            "members": MEMBERS_ARGUMENT,
            "version": {"type": "str", "required": True},
            "client_port": {"type": "int", "default": 2379},
            "pki_dir": {"type": "path", "default": "/etc/kubernetes/pki"},
            "timeout": {"type": "int", "default": 60},
        },
        supports_check_mode=True,
    )
    with stated_errors(module.fail_json):
        options = dict(module.params)
        if options.pop("halted"):
            module.fail_json(msg=module.params["halted"])
        spec = DowngradeSpec(**{**options, "members": by_name(options["members"])})
        result = change_downgrade(spec, module.check_mode)
        module.exit_json(**result)


if __name__ == "__main__":
    main()
