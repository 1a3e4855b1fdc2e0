#!/usr/bin/python
# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: kubeadm_etcd_config
short_description: Write the kubeadm configuration of one etcd member
version_added: 0.1.0
description:
  - Writes C(kubeadmcfg.yaml) of one member, in kubeadm's API v1beta4, for kubeadm 1.32 to 1.37.
  - Everything is checked before anything is written, by this module and by C(kubeadm config validate).
    All problems come in one message.
  - Once the member has data, a file that differs in C(initial-cluster), C(initial-cluster-state) and C(initial-cluster-token) only is
    left as it is, because etcd reads them only while it has no data.
author:
  - The kubeadm.etcd maintainers (@kubeadm)
extends_documentation_fragment:
  - kubeadm.etcd.attributes
  - kubeadm.etcd.members
options:
  path:
    description: The file. A missing directory is made with mode 0700, the file has mode 0600.
    type: path
    default: /etc/kubernetes/kubeadm-etcd/kubeadmcfg.yaml
  name:
    description: Name of the member and of its node, an RFC 1123 name in lower case.
    type: str
    required: true
  address:
    description: IP address, v4 or v6, under which the other members reach this one.
    type: str
    required: true
  members:
    description: All members of the cluster, this one included.
  initial_cluster_state:
    description: V(new) where the cluster is being founded, V(existing) from then on.
    type: str
    choices: [new, existing]
    default: new
  initial_cluster_token:
    description: Token that goes into the ids of a cluster that is being founded. Not written with O(initial_cluster_state=existing).
    type: str
    default: ""
  published:
    description:
      - Whether the member has been a started member of the running cluster. With O(initial_cluster_state=existing) its C(initial-cluster)
        then names itself only, so that etcd refuses to start without its data.
    type: bool
    default: false
  kubernetes_version:
    description: Version to pin, such as V(v1.36.3). Empty means that of the kubeadm found.
    type: str
    default: ""
  image_repository:
    description: Registry and path of the etcd image. Empty means kubeadm's own.
    type: str
    default: ""
  image_tag:
    description:
      - Tag of the etcd image. Empty means the one that kubeadm chooses.
      - Tags of an etcd that would not start with the flags that this kubeadm writes are refused.
    type: str
    default: ""
  extra_args:
    description:
      - Further flags of etcd, name without dashes to value. A list of values repeats the flag.
      - C(feature-gates) replaces what kubeadm writes, V(InitialCorruptCheck=true). Name it again to keep it.
    type: dict
    default: {}
  extra_envs:
    description: Further environment variables of etcd, name to value. Reasons and diff do not show the values.
    type: dict
    default: {}
  server_cert_sans:
    description: Further names and addresses in the server certificate.
    type: list
    elements: str
    default: []
  peer_cert_sans:
    description: Further names and addresses in the peer certificate.
    type: list
    elements: str
    default: []
  encryption_algorithm:
    description: Algorithm of all keys. ECDSA-P384 needs kubeadm 1.34.
    type: str
    choices: [RSA-2048, RSA-3072, RSA-4096, ECDSA-P256, ECDSA-P384]
    default: RSA-2048
  certificate_validity_period:
    description: How long certificates are valid, in hours, minutes and seconds.
    type: str
    default: 8760h
  ca_certificate_validity_period:
    description: How long a CA is valid, in hours, minutes and seconds.
    type: str
    default: 87600h
  pki_dir:
    description: Directory of the certificates.
    type: path
    default: /etc/kubernetes/pki
  data_dir:
    description: Data directory of etcd.
    type: path
    default: /var/lib/etcd
  client_port:
    description: Port for clients.
    type: int
    default: 2379
  peer_port:
    description: Port for the other members.
    type: int
    default: 2380
  metrics_port:
    description: Port on the loopback address for metrics and probes.
    type: int
    default: 2381
  metrics_exposed:
    description: Whether etcd also listens on O(address) at O(metrics_port), without TLS, for metrics.
    type: bool
    default: false
  startup_timeout:
    description:
      - How long the kubelet lets etcd take to start before it kills it, in hours, minutes and seconds. Empty means kubeadm's four minutes.
      - Written as C(timeouts.controlPlaneComponentHealthCheck), of which kubeadm makes the startup probe.
    type: str
    default: ""
  allow_untested_kubeadm:
    description: Whether a kubeadm newer than those that this collection was tested with is used, as if it were the newest of them.
    type: bool
    default: false
  kubeadm:
    description: The program.
    type: str
    default: kubeadm
"""

EXAMPLES = r"""
- name: Write kubeadmcfg.yaml of infra0
  kubeadm.etcd.kubeadm_etcd_config:
    name: infra0
    address: 10.0.0.6
    members:
      - name: infra0
        address: 10.0.0.6
      - name: infra1
        address: 10.0.0.7
      - name: infra2
        address: 10.0.0.8
    extra_args:
      quota-backend-bytes: "8589934592"
      auto-compaction-retention: "1"
"""

RETURN = r"""
path:
  description: The file.
  returned: always
  type: str
  sample: /etc/kubernetes/kubeadm-etcd/kubeadmcfg.yaml
content:
  description: Its text as wanted, with the values of O(extra_envs).
  returned: always
  type: str
kubernetes_version:
  description: The version pinned in it.
  returned: always
  type: str
  sample: v1.36.3
reasons:
  description: Why the file was changed, one sentence each. Empty where it was not.
  returned: always
  type: list
  elements: str
  sample: ["kubeadmcfg.yaml: missing"]
changes:
  description:
    - The same as RV(reasons) for programs. C(part) and C(code) are stable, C(text) is the sentence in RV(reasons), C(restarts) is whether the change
      restarts etcd.
  returned: always
  type: list
  elements: dict
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.kubeadm.etcd.plugins.module_utils._host import kubeadm as _kubeadm
from ansible_collections.kubeadm.etcd.plugins.module_utils._host.wal import read_wal
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.errors import stated_errors
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.reasons import reported


def apply(params: dict[str, Any], check_mode: bool) -> dict[str, Any]:
    """Write the file where it differs; the module's result."""
    found = _kubeadm.find_kubeadm_version(params["kubeadm"])
    spec = _kubeadm.ConfigSpec.from_params(params).completed(found)
    _kubeadm.raise_problems([problem.text for problem in _kubeadm.config_problems(spec, found)])
    wal = read_wal(spec.data_dir)
    state = _kubeadm.config_state(spec, bool(wal and wal.formed))
    if not check_mode:
        state.write()
    return {
        **reported(state.reasons),
        "path": spec.path,
        "content": state.text,
        "kubernetes_version": spec.kubernetes_version,
        "diff": state.diff,
    }


def main() -> None:
    module = AnsibleModule(argument_spec=_kubeadm.CONFIG_ARGUMENTS, supports_check_mode=True)
    with stated_errors(module.fail_json):
        result = apply(module.params, module.check_mode)
        module.exit_json(**result)


if __name__ == "__main__":
    main()
