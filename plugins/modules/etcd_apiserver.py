#!/usr/bin/python
# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: etcd_apiserver
short_description: Change how the kube-apiserver of a control plane host reaches etcd
version_added: 0.1.0
description:
  - Changes the etcd endpoints, and the files of CA, certificate and key, that a kube-apiserver made by kubeadm uses. kubeadm renders the manifest
    in a dry run, from the ClusterConfiguration in the ConfigMap C(kubeadm-config), and the module installs it by rename if it differs by meaning.
    The order of the endpoints means nothing.
  - Fails, and changes nothing, if kubeadm would change anything else in the manifest, since the manifest was then edited by hand, or patched.
  - Holds the cluster lock of etcd while it works, so that no member and no other kube-apiserver is restarted at the same time. This API server
    and those in O(others) have to be ready before it is restarted.
  - Waits until the new kube-apiserver is ready. If it does not come up, the previous manifest is put back, and the module fails with the cause in the
    words of the program that knows it. The manifest before the last change is kept as C(kube-apiserver.yaml.previous) in O(work_dir).
  - With O(update_config) the ConfigMap is changed after that, unless it has been changed since it was read.
  - Uses the credentials of an administrator that kubeadm leaves on the host, C(/etc/kubernetes/admin.conf) or C(super-admin.conf).
author:
  - The kubeadm.etcd maintainers (@kubeadm)
extends_documentation_fragment:
  - kubeadm.etcd.attributes
options:
  servers:
    description: URLs of all members.
    type: list
    elements: str
    required: true
  ca:
    description: File of the CA of etcd.
    type: path
    default: /etc/kubernetes/pki/etcd/ca.crt
  cert:
    description: File of the client certificate.
    type: path
    default: /etc/kubernetes/pki/apiserver-etcd-client.crt
  key:
    description: File of its key.
    type: path
    default: /etc/kubernetes/pki/apiserver-etcd-client.key
  update_config:
    description: Whether the ConfigMap C(kubeadm-config) is changed, too. Once for each Kubernetes cluster is enough.
    type: bool
    default: true
  loads_ca:
    description: Restart kube-apiserver if it was started before O(ca) was written, which it reads when it starts. For a rotation of the CA.
    type: bool
    default: false
  others:
    description: URLs of the other API servers of the Kubernetes cluster.
    type: list
    elements: str
    default: []
  manifests_dir:
    description: Directory of static pod manifests.
    type: path
    default: /etc/kubernetes/manifests
  work_dir:
    description: Directory of this collection.
    type: path
    default: /etc/kubernetes/kubeadm-etcd
  runtime_endpoint:
    description: Socket of the container runtime.
    type: str
    default: unix:///var/run/containerd/containerd.sock
  kubeadm:
    description: The program kubeadm.
    type: str
    default: kubeadm
  timeout:
    description: Seconds to wait for kube-apiserver.
    type: int
    default: 300
"""

EXAMPLES = r"""
- name: Give kube-apiserver the endpoints of all members
  kubeadm.etcd.etcd_apiserver:
    servers:
      - https://10.0.0.6:2379
      - https://10.0.0.7:2379
      - https://10.0.0.8:2379
    others:
      - https://10.0.0.21:6443
  throttle: 1
"""

RETURN = r"""
manifest:
  description: The manifest.
  returned: always
  type: str
  sample: /etc/kubernetes/manifests/kube-apiserver.yaml
reasons:
  description: Why something was changed, one sentence each. Empty if nothing was.
  returned: always
  type: list
  elements: str
  sample:
    - "/etc/kubernetes/manifests/kube-apiserver.yaml: --etcd-servers: https://10.0.0.6:2379 -> https://10.0.0.6:2379,https://10.0.0.7:2379"
waited:
  description: Seconds until kube-apiserver was ready. 0 in check mode.
  returned: always
  type: float
  sample: 14.2
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.kubeadm.etcd.plugins.module_utils._host.apiserver import PLACES_ARGUMENTS, EtcdAccess
from ansible_collections.kubeadm.etcd.plugins.module_utils._member.apiserver import places_of
from ansible_collections.kubeadm.etcd.plugins.module_utils._member.apiserver_turn import ApiserverSpec, take_turn
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.errors import stated_errors


def spec_of(params: dict[str, Any]) -> ApiserverSpec:
    """The turn that the options ask for."""
    return ApiserverSpec(
        places_of(params),
        EtcdAccess(tuple(params["servers"]), params["ca"], params["cert"], params["key"]),
        params["update_config"],
        params["others"],
        params["timeout"],
        params["loads_ca"],
    )


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "servers": {"type": "list", "elements": "str", "required": True},
            "ca": {"type": "path", "default": "/etc/kubernetes/pki/etcd/ca.crt"},
            "cert": {"type": "path", "default": "/etc/kubernetes/pki/apiserver-etcd-client.crt"},
            "key": {"type": "path", "default": "/etc/kubernetes/pki/apiserver-etcd-client.key"},
            "update_config": {"type": "bool", "default": True},
            "others": {"type": "list", "elements": "str", "default": []},
            "loads_ca": {"type": "bool", "default": False},
            "timeout": {"type": "int", "default": 300},
            **PLACES_ARGUMENTS,
        },
        supports_check_mode=True,
    )
    with stated_errors(module.fail_json):
        result = take_turn(spec_of(module.params), module.check_mode)
        module.exit_json(**result)


if __name__ == "__main__":
    main()
