#!/usr/bin/python
# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: etcd_apiserver_info
short_description: Warn if the kube-apiserver of a control plane host uses a member that leaves
version_added: 0.1.0
description:
  - Reads the manifest of kube-apiserver, and the ConfigMap C(kubeadm-config) if kube-apiserver answers. Warns if one of them has a URL of the member.
  - Changes nothing, and fails neither for that nor if the host cannot be reached.
author:
  - The kubeadm.etcd maintainers (@kubeadm)
extends_documentation_fragment:
  - kubeadm.etcd.attributes
options:
  name:
    description: Name of this host in the inventory, for the warning.
    type: str
    required: true
  leaving:
    description: Client URLs of the member that leaves.
    type: list
    elements: str
    required: true
  manifests_dir:
    description: Directory of static pod manifests.
    type: path
    default: /etc/kubernetes/manifests
"""

EXAMPLES = r"""
- name: Look whether kube-apiserver uses a member
  kubeadm.etcd.etcd_apiserver_info:
    name: "{{ inventory_hostname }}"
    leaving: ["https://10.0.0.8:2379"]
"""

RETURN = r"""
warning:
  description: What is warned of. Empty if kube-apiserver does not use the member, or if there is none.
  returned: always
  type: str
  sample: >-
    kube-apiserver uses the member that leaves: https://10.0.0.8:2379 is in /etc/kubernetes/manifests/kube-apiserver.yaml (--etcd-servers). Afterwards run
    control_plane.yml with -e etcd_update_apiserver=true, or change it by hand.
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.kubeadm.etcd.plugins.module_utils._host.apiserver import PLACES_ARGUMENTS
from ansible_collections.kubeadm.etcd.plugins.module_utils._member.apiserver import leaving_warning, places_of
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.errors import EtcdError, stated_errors, system_errors


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "leaving": {"type": "list", "elements": "str", "required": True},
            "manifests_dir": PLACES_ARGUMENTS["manifests_dir"],
        },
        supports_check_mode=True,
    )
    with stated_errors(module.fail_json):
        defaults = {name: argument["default"] for name, argument in PLACES_ARGUMENTS.items()}
        try:
            with system_errors():
                warning = leaving_warning(places_of({**defaults, **module.params}), module.params["leaving"])
        except EtcdError as exc:
            warning = f"whether kube-apiserver uses the member that leaves could not be read: {exc}"
        module.exit_json(changed=False, warning=warning)


if __name__ == "__main__":
    main()
