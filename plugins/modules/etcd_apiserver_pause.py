#!/usr/bin/python
# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: etcd_apiserver_pause
short_description: Stop kube-apiserver while etcd is restored, and start it afterwards
version_added: 0.1.0
description:
  - Moves the manifest of a kube-apiserver that uses the cluster to O(work_dir) and waits until it has ended, or moves it back and waits until it is ready.
  - A kube-apiserver that uses other addresses, a host without one, and one that was not stopped by this module are left alone.
  - A host that cannot be reached is a warning.
author:
  - The kubeadm.etcd maintainers (@kubeadm)
extends_documentation_fragment:
  - kubeadm.etcd.attributes
options:
  name:
    description: Name of this host in the inventory, for the warning.
    type: str
    required: true
  state:
    description: What is wanted.
    type: str
    choices: [started, stopped]
    required: true
  addresses:
    description: Addresses of the members of the cluster. A kube-apiserver with an endpoint at one of them is stopped.
    type: list
    elements: str
    default: []
  timeout:
    description: Seconds to wait until kube-apiserver is ready.
    type: int
    default: 300
  manifests_dir:
    description: Directory of static pod manifests.
    type: path
    default: /etc/kubernetes/manifests
  work_dir:
    description: Directory that the manifest is moved to.
    type: path
    default: /etc/kubernetes/kubeadm-etcd
  runtime_endpoint:
    description: Socket of the container runtime.
    type: str
    default: unix:///var/run/containerd/containerd.sock
"""

EXAMPLES = r"""
- name: Stop kube-apiserver if it uses the cluster
  kubeadm.etcd.etcd_apiserver_pause:
    name: "{{ inventory_hostname }}"
    state: stopped
    addresses: [10.0.0.6, 10.0.0.7, 10.0.0.8]
"""

RETURN = r"""
warning:
  description: Why the host was not asked.
  returned: if it cannot be reached
  type: str
reasons:
  description: What was changed, one sentence each. Empty if nothing was.
  returned: always
  type: list
  elements: str
changes:
  description:
    - The same as RV(reasons) for programs. C(part) and C(code) are stable, C(text) is the sentence in RV(reasons), C(restarts) is whether the change
      restarts etcd.
  returned: always
  type: list
  elements: dict
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.kubeadm.etcd.plugins.module_utils._host.apiserver import PLACES_ARGUMENTS
from ansible_collections.kubeadm.etcd.plugins.module_utils._member.apiserver import places_of
from ansible_collections.kubeadm.etcd.plugins.module_utils._member.apiserver_pause import STATES, STOPPED, pause, resume
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.errors import stated_errors
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.reasons import reported


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "state": {"type": "str", "choices": list(STATES), "required": True},
            "addresses": {"type": "list", "elements": "str", "default": []},
            "timeout": {"type": "int", "default": 300},
            **{name: argument for name, argument in PLACES_ARGUMENTS.items() if name != "kubeadm"},
        },
        supports_check_mode=True,
    )
    with stated_errors(module.fail_json):
        # Nothing is rendered.
        params, places = module.params, places_of({**module.params, "kubeadm": ""})
        stops = params["state"] == STOPPED
        reasons = (
            pause(places, params["addresses"], module.check_mode)
            if stops
            else resume(places, params["timeout"], module.check_mode)
        )
        module.exit_json(**reported(reasons))


if __name__ == "__main__":
    main()
