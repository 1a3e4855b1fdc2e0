#!/usr/bin/python
# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: etcd_pki
short_description: The PKI of one host of an etcd cluster
version_added: 0.1.0
description:
  - Makes or brings in the CA, makes keys and requests, signs the requests of many members, and installs certificates;
    names, usages, key formats, modes and periods are those of kubeadm.
  - Private keys are made on the host that uses them. None is in any result, diff or message.
  - Certificates are issued again for a reason only. It is returned. A certificate that only ends soon keeps its key, so
    that its replacement is one rename.
author:
  - The kubeadm.etcd maintainers (@kubeadm)
extends_documentation_fragment:
  - kubeadm.etcd.attributes
requirements:
  - cryptography 3.3 or later on the host
options:
  step:
    description:
      - V(ca) makes the CA where there is none, or brings in O(ca_cert) and O(ca_key). On the CA host.
      - V(request) makes keys and certificate requests for what has to be issued. On each member.
      - V(sign) signs O(requests). On the CA host; writes nothing.
      - V(install) puts O(ca_cert) and O(certificates) into place. On each member.
    type: str
    required: true
    choices: [ca, request, sign, install]
  pki_dir:
    description: Where certificates and keys are.
    type: path
    default: /etc/kubernetes/pki
  work_dir:
    description: Directory under which keys wait for their certificate, in C(pending), between V(request) and V(install).
    type: path
    default: /etc/kubernetes/kubeadm-etcd
  name:
    description: Name of the member.
    type: str
    required: true
  address:
    description: IP address of the member.
    type: str
    required: true
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
    description: Algorithm of keys.
    type: str
    choices: [RSA-2048, RSA-3072, RSA-4096, ECDSA-P256, ECDSA-P384]
    default: RSA-2048
  certificate_validity_period:
    description: How long certificates are valid, in hours, minutes and seconds. They end with the CA at the latest.
    type: str
    default: 8760h
  ca_certificate_validity_period:
    description: How long the CA is valid.
    type: str
    default: 87600h
  renewal_window:
    description: Certificates that end sooner than this are issued again.
    type: str
    default: 2160h
  kubernetes_version:
    description: Version of kubeadm whose certificates are to be matched.
    type: str
    default: ""
  ca_host:
    description: Whether the CA's key belongs on this host.
    type: bool
    default: false
  force:
    description: Issue all certificates again.
    type: bool
    default: false
  ca_cert:
    description: CA certificate, PEM. With V(ca) your own, else the one that counts in place of that on the host.
    type: str
  ca_key:
    description: Private key of your own CA, PEM, not encrypted.
    type: str
  requests:
    description: What is to be signed, and for whom.
    type: list
    elements: dict
    default: []
    suboptions:
      host:
        description: Key of the result.
        type: str
        required: true
      name:
        description: Name of the member. A request for another one is refused.
        type: str
        required: true
      address:
        description: IP address of the member.
        type: str
        required: true
      server_cert_sans:
        description: Further names and addresses that the server certificate may have.
        type: list
        elements: str
        default: []
      peer_cert_sans:
        description: Further names and addresses that the peer certificate may have.
        type: list
        elements: str
        default: []
      csrs:
        description: Requests as V(request) returned them.
        type: dict
        required: true
  certificates:
    description: Certificates as V(sign) returned them for this host.
    type: dict
    default: {}
  replace_ca:
    description: Whether V(install) may replace a ca.crt by another one. Only where no cluster has data.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: Make the CA
  kubeadm.etcd.etcd_pki:
    step: ca
    name: infra0
    address: 10.0.0.6
  register: authority

- name: Make keys and requests
  kubeadm.etcd.etcd_pki:
    step: request
    name: infra0
    address: 10.0.0.6
    ca_cert: "{{ authority.ca_cert }}"
  register: asked

- name: Sign them
  kubeadm.etcd.etcd_pki:
    step: sign
    name: infra0
    address: 10.0.0.6
    requests:
      - host: infra0
        name: infra0
        address: 10.0.0.6
        csrs: "{{ asked.csrs }}"
  register: signed

- name: Install the certificates
  kubeadm.etcd.etcd_pki:
    step: install
    name: infra0
    address: 10.0.0.6
    ca_cert: "{{ authority.ca_cert }}"
    certificates: "{{ signed.certificates.infra0 }}"
"""

RETURN = r"""
reasons:
  description: Why something was changed, or would be in check mode. Each begins with the file, below O(pki_dir).
  returned: always
  type: list
  elements: str
  sample: ["etcd/server.crt: names and addresses are without etcd.example.com"]
ca_cert:
  description: The CA certificate, PEM. Empty in check mode where it would be made.
  returned: with O(step=ca)
  type: str
csrs:
  description: Requests (PEM) by certificate - server, peer, healthcheck-client, apiserver-etcd-client.
  returned: with O(step=request)
  type: dict
certificates:
  description: Certificates (PEM) by host and certificate.
  returned: with O(step=sign)
  type: dict
"""

from datetime import datetime, timezone
from typing import Any

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible_collections.kubeadm.etcd.plugins.module_utils import _pki
from ansible_collections.kubeadm.etcd.plugins.module_utils._errors import EtcdError


def run(params: dict[str, Any], check: bool) -> dict[str, Any]:
    """One step, from the options of the module."""
    now = datetime.now(timezone.utc)
    spec = _pki.PkiSpec.from_params(params)
    if params["step"] == "ca":
        return _pki.step_ca(spec, params["ca_cert"], params["ca_key"], check, now)
    if params["step"] == "request":
        return _pki.step_request(spec, params["ca_cert"], check, now)
    if params["step"] == "sign":
        return _pki.step_sign(spec, params["requests"], check, now)
    return _pki.step_install(spec, params["ca_cert"], params["certificates"], params["replace_ca"], check, now)


def main() -> None:
    member = {
        "host": {"type": "str", "required": True},
        "csrs": {"type": "dict", "required": True},
        **{key: _pki.ARGUMENTS[key] for key in ("name", "address", "server_cert_sans", "peer_cert_sans")},
    }
    module = AnsibleModule(
        argument_spec={
            **_pki.ARGUMENTS,
            "step": {"type": "str", "required": True, "choices": ["ca", "request", "sign", "install"]},
            "ca_cert": {"type": "str"},
            "ca_key": {"type": "str", "no_log": True},
            "requests": {"type": "list", "elements": "dict", "default": [], "options": member},
            "certificates": {"type": "dict", "default": {}},
            "replace_ca": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    if not _pki.HAS_CRYPTOGRAPHY:
        module.fail_json(msg=missing_required_lib("cryptography", reason="(package python3-cryptography)"))
    try:
        result = run(module.params, module.check_mode)
    except EtcdError as exc:
        module.fail_json(msg=str(exc))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
