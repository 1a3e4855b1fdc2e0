#!/usr/bin/python
# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: etcd_member_clear
short_description: Clear the host of a member that has left its etcd cluster
version_added: 0.1.0
description:
  - Moves C(etcd.yaml) to O(work_dir) and waits until etcd has ended, stops and disables the kubelet, removes the files that make it a service manager for
    etcd, and marks the record (C(member.json)) as that of a member that has left.
  - Renames the data directory, and never deletes it. If it is a volume, C(member) in it is renamed.
  - Fails, and changes nothing, if the member whose data is in O(data_dir) is still in the membership.
author:
  - The kubeadm.etcd maintainers (@kubeadm)
extends_documentation_fragment:
  - kubeadm.etcd.attributes
  - kubeadm.etcd.members
options:
  member:
    description: Name of the member that has left.
    type: str
    required: true
  members:
    description: Members of the cluster that are asked whether the member has left.
  client_port:
    description: Port for clients.
    type: int
    default: 2379
  wipe_keys:
    description: Whether the private keys and certificates of etcd are removed as well.
    type: bool
    default: false
  manifests_dir:
    description: Directory of static pod manifests.
    type: path
    default: /etc/kubernetes/manifests
  data_dir:
    description: Data directory of etcd.
    type: path
    default: /var/lib/etcd
  work_dir:
    description: Directory of the record and of the manifest that was removed.
    type: path
    default: /etc/kubernetes/kubeadm-etcd
  pki_dir:
    description: Directory of the certificates.
    type: path
    default: /etc/kubernetes/pki
  runtime_endpoint:
    description: Socket of the container runtime.
    type: str
    default: unix:///var/run/containerd/containerd.sock
"""

EXAMPLES = r"""
- name: Clear the host of infra2, which has left the cluster
  kubeadm.etcd.etcd_member_clear:
    member: infra2
    members: "{{ members }}"
"""

RETURN = r"""
archive:
  description: Where the data is kept. Empty if there was none, and in check mode.
  returned: always
  type: str
  sample: /var/lib/etcd.removed-20261127T051700Z
reasons:
  description: What was changed, one sentence each. Empty if nothing was.
  returned: always
  type: list
  elements: str
  sample: ["/var/lib/etcd: renamed, and kept"]
changes:
  description:
    - The same as RV(reasons) for programs. C(part) and C(code) are stable, C(text) is the sentence in RV(reasons), C(restarts) is whether the change
      restarts etcd.
  returned: always
  type: list
  elements: dict
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.kubeadm.etcd.plugins.module_utils._member.departure import ClearSpec, clear
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.errors import stated_errors
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.members import MEMBERS_ARGUMENT, by_name


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "member": {"type": "str", "required": True},
            "members": MEMBERS_ARGUMENT,
            "client_port": {"type": "int", "default": 2379},
            "wipe_keys": {"type": "bool", "default": False},
            "manifests_dir": {"type": "path", "default": "/etc/kubernetes/manifests"},
            "data_dir": {"type": "path", "default": "/var/lib/etcd"},
            "work_dir": {"type": "path", "default": "/etc/kubernetes/kubeadm-etcd"},
            "pki_dir": {"type": "path", "default": "/etc/kubernetes/pki"},
            "runtime_endpoint": {"type": "str", "default": "unix:///var/run/containerd/containerd.sock"},
        },
        supports_check_mode=True,
    )
    with stated_errors(module.fail_json):
        result = clear(ClearSpec(**{**module.params, "members": by_name(module.params["members"])}), module.check_mode)
        module.exit_json(**result)


if __name__ == "__main__":
    main()
