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
  - A certificate is issued again only for a reason, which is returned. A certificate that only expires soon keeps its key, so
    that one rename replaces it.
author:
  - The kubeadm.etcd maintainers (@kubeadm)
extends_documentation_fragment:
  - kubeadm.etcd.attributes
requirements:
  - cryptography 3.3 or later on the host
options:
  halted:
    description:
      - Why nothing must be changed any more, for example because another member has failed in this run. If it is not empty, the module fails with it
        and changes nothing.
    type: str
    default: ""
  step:
    description:
      - V(transport) makes a key pair and returns its public half, to which P(kubeadm.etcd.seal#filter) encrypts your CA's key, and V(send) that of
        another host. On the CA host.
      - V(ca) makes the CA if there is none, or brings in O(ca_cert) and its key. On the CA host.
      - V(request) makes keys and certificate requests for what has to be issued. On each member.
      - V(sign) signs O(requests). On the CA host; writes nothing.
      - V(collect) writes O(requests) to files under O(signing_dir) for a CA that signs elsewhere, and reads what it has signed.
        On the controller, delegated to localhost.
      - V(install) puts O(ca_cert) and O(certificates) into place. On each member.
      - V(send) encrypts ca.key for O(recipient), the key of another host (V(transport)). On the host that has it; writes nothing.
      - V(receive) writes the key that V(send) returned, unless there is one, and proves that it signs for the ca.crt of this host. On the new CA host.
      - V(remove) removes ca.key if it is the key O(ca_public_key) that V(receive) has proven. On the host that had it. With O(ca_host), it
        ends the move instead. Until then, or for five minutes if a run was killed, no run removes the ca.key that was received.
      - V(export) returns ca.key, encrypted with a passphrase. On the CA host; writes nothing.
      - V(next) makes the CA that takes over, or writes O(ca_cert) and its key, as ca-next.crt and ca-next.key beside the CA in use. On the CA host.
      - V(trust) has ca.crt hold the certificates in O(ca_cert), of which one has to be there already. On each member.
      - V(exchange) lets the CA of V(next) sign. Its certificate comes first in ca.crt, and the pair that signed before is archived. On the CA host.
      - V(renew_ca) gives the CA in use another certificate with the same key, name and extensions, or O(ca_cert). On the CA host.
    type: str
    required: true
    choices: [transport, ca, request, sign, collect, install, send, receive, remove, export, next, trust, exchange, renew_ca]
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
    description: IP address of the member. Needed for V(server) and V(peer) only.
    type: str
    default: ""
  known_addresses:
    description:
      - Addresses at which the member is known now, if O(address) is about to change. Certificates have them besides, until the member
        has moved.
    type: list
    elements: str
    default: []
  kinds:
    description:
      - Certificates that the host is to have. A member has all of them, a control plane host V(apiserver-etcd-client).
      - With V(request) and V(install). Other certificates on the host are not checked.
    type: list
    elements: str
    choices: [server, peer, healthcheck-client, apiserver-etcd-client]
    default: [server, peer, healthcheck-client, apiserver-etcd-client]
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
    description: Certificates that expire sooner than this are issued again.
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
  renew:
    description: Certificates to be issued again although nothing is wrong with them, or V(all).
    type: list
    elements: str
    choices: [all, server, peer, healthcheck-client, apiserver-etcd-client]
    default: []
  renew_keys:
    description:
      - Whether certificates named by O(renew) get a new key.
      - Key and certificate are then two renames, back to back. With the same key it is one, and no handshake can meet half a pair.
    type: bool
    default: false
  first_ca_only:
    description:
      - Whether a certificate is kept only if the first CA in ca.crt has signed it. Otherwise those of the others in ca.crt do as well, as they do
        while a CA is rotated.
      - With V(true), V(install) also has ca.crt hold the same CAs as O(ca_cert).
    type: bool
    default: false
  next_ca:
    description: Whether V(sign) signs with the CA of V(next), while that in ca.crt is still in use.
    type: bool
    default: false
  alone:
    description: Whether V(exchange) takes the former CA out of ca.crt at once. Members that run do not trust the new one then.
    type: bool
    default: false
  elsewhere:
    description: Whether the CA of V(next) signs elsewhere. Then V(exchange) leaves no ca.key; that of the former CA is archived.
    type: bool
    default: false
  ca_cert:
    description:
      - CA certificate, PEM. With V(ca), your own. With other steps, the signing CA, which is used instead of the one on the host.
      - With V(ca) and without O(ca_key), its key is on the host already, or it signs elsewhere.
      - Your own may be an intermediate CA, followed by its issuers. Only the signing certificate is installed. With the root in
        C(ca.crt), etcd would accept every client certificate that leads to that root.
    type: str
  ca_key:
    description:
      - Private key of your own CA, PEM. It is written as kubeadm needs it, not encrypted.
      - Ansible may write arguments of modules to files on the host. O(sealed_key) keeps the key out of them.
    type: str
  sealed_key:
    description:
      - The same, encrypted by P(kubeadm.etcd.seal#filter) to what V(transport) returned, without passphrase. Not a secret.
      - With V(receive), the key as V(send) returned it in RV(sealed_key).
    type: str
  recipient:
    description: Public key (PEM) of the host that is to get ca.key, RV(transport_key) there. With V(send).
    type: str
  ca_public_key:
    description: The key that may be removed, RV(ca_public_key) of the CA host. With V(remove).
    type: str
  sealed_passphrase:
    description: Passphrase for V(export), encrypted by P(kubeadm.etcd.seal#filter) to what V(transport) returned. Not a secret.
    type: str
  sealed_copy:
    description: What V(export) returned before, encrypted likewise. It is checked and returned as it is.
    type: str
  ca_key_passphrase:
    description: Passphrase of O(ca_key), if the key is encrypted.
    type: str
  requests:
    description: The requests to sign, by host.
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
        default: ""
      known_addresses:
        description: Addresses at which the member is known now, and which its certificates may have besides.
        type: list
        elements: str
        default: []
      kinds:
        description: Certificates that this host may have. A request for another one is refused.
        type: list
        elements: str
        choices: [server, peer, healthcheck-client, apiserver-etcd-client]
        default: [server, peer, healthcheck-client, apiserver-etcd-client]
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
      serials:
        description: Serial numbers (hexadecimal) of the certificates in use, which V(collect) does not take once more.
        type: dict
        default: {}
  signing_dir:
    description:
      - Directory for V(collect). Requests are written to C(MEMBER/KIND.csr) under it, certificates are read from C(MEMBER/KIND.crt).
    type: path
  certificates:
    description: Certificates of this host as V(sign) returned them in RV(signed).
    type: dict
    default: {}
  replace_ca:
    description: >-
      Whether V(install) may replace a ca.crt by that of another CA. Only if the cluster has no data, or if the certificates of the
      host are known to be from the new CA.
    type: bool
    default: false
  remove_ca_key:
    description: Whether V(install) removes a ca.key from a host that is not the CA host.
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

- name: Make a key to which the key of your own CA is encrypted on its way
  kubeadm.etcd.etcd_pki:
    step: transport
    name: infra0
    address: 10.0.0.6
  register: transport

- name: Bring in your own CA
  kubeadm.etcd.etcd_pki:
    step: ca
    name: infra0
    address: 10.0.0.6
    ca_cert: "{{ lookup('ansible.builtin.file', '/srv/pki/ca.crt') }}"
    sealed_key: "{{ lookup('ansible.builtin.file', '/srv/pki/ca.key') | kubeadm.etcd.seal(transport.transport_key) }}"

- name: Bring the CA's key from infra0 to infra1, after V(transport) on infra1
  kubeadm.etcd.etcd_pki:
    step: send
    name: infra0
    address: 10.0.0.6
    recipient: "{{ hostvars.infra1.transport.transport_key }}"
  register: sent

- name: Receive it on infra1
  kubeadm.etcd.etcd_pki:
    step: receive
    name: infra1
    address: 10.0.0.7
    ca_cert: "{{ hostvars.infra0.sent.ca_cert }}"
    sealed_key: "{{ hostvars.infra0.sent.sealed_key }}"
  register: received

- name: Remove it from infra0
  kubeadm.etcd.etcd_pki:
    step: remove
    name: infra0
    address: 10.0.0.6
    ca_public_key: "{{ hostvars.infra1.received.ca_public_key }}"

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
    certificates: "{{ signed.signed.infra0 }}"
  register: installed

- name: Show how long they last
  ansible.builtin.debug:
    msg: "{{ installed.certificates | items2dict(key_name='kind', value_name='days_left') }}"

- name: Fail if a certificate expires within 60 days or is invalid, and change nothing
  kubeadm.etcd.etcd_pki:
    step: install
    name: infra0
    address: 10.0.0.6
    renewal_window: 1440h
  check_mode: true
  register: would
  failed_when: would.reasons | length > 0

- name: Ask for a new peer certificate, over the same key
  kubeadm.etcd.etcd_pki:
    step: request
    name: infra0
    address: 10.0.0.6
    renew: [peer]
  register: again

- name: Make a key and a request for a kube-apiserver, on its host
  kubeadm.etcd.etcd_pki:
    step: request
    name: control0
    kinds: [apiserver-etcd-client]
    ca_cert: "{{ authority.ca_cert }}"
  check_mode: true

- name: Make a new CA beside the one in use
  kubeadm.etcd.etcd_pki:
    step: next
    name: infra0
    address: 10.0.0.6
  register: next

- name: Have a member trust both, from its next start on
  kubeadm.etcd.etcd_pki:
    step: trust
    name: infra1
    address: 10.0.0.7
    ca_cert: "{{ authority.ca_cert }}{{ next.ca_cert }}"

- name: Let the new CA sign
  kubeadm.etcd.etcd_pki:
    step: exchange
    name: infra0
    address: 10.0.0.6

- name: Give the CA another certificate before it expires
  kubeadm.etcd.etcd_pki:
    step: renew_ca
    name: infra0
    address: 10.0.0.6

- name: Collect the certificates that an external CA has signed
  kubeadm.etcd.etcd_pki:
    step: collect
    name: infra0
    address: 10.0.0.6
    ca_cert: "{{ authority.ca_cert }}"
    signing_dir: "{{ playbook_dir }}/etcd-signing"
    requests:
      - host: infra0
        name: infra0
        address: 10.0.0.6
        csrs: "{{ again.csrs }}"
  delegate_to: localhost
  become: false
  register: collected

- name: Show the requests that it has not signed yet
  ansible.builtin.debug:
    msg: "{{ collected.waiting }}"
"""

RETURN = r"""
reasons:
  description: Why something was changed, or would be in check mode. Each begins with the file, below O(pki_dir).
  returned: always
  type: list
  elements: str
  sample:
    - "etcd/server.crt: issued again, its names and addresses lack etcd.example.com"
    - "etcd/peer.crt: renewed, 61 days left of 365"
changes:
  description:
    - The same as RV(reasons) for programs. C(part) and C(code) are stable, C(text) is the sentence in RV(reasons), C(restarts) is whether the change
      restarts etcd.
  returned: always
  type: list
  elements: dict
ca_cert:
  description: The CA certificate, PEM. Empty in check mode if it would be made.
  returned: with O(step=ca), O(step=send), O(step=next), and O(step=exchange) and O(step=renew_ca), which return all that ca.crt holds
  type: str
transport_key:
  description: Public key (PEM) for P(kubeadm.etcd.seal#filter), or for O(recipient).
  returned: with O(step=transport)
  type: str
sealed_key:
  description: The CA's key, readable by the host of O(recipient) only. Empty in check mode.
  returned: with O(step=send)
  type: str
ca_public_key:
  description: SHA-256 of the public half of the CA's key that this host can sign with, hexadecimal.
  returned: with O(step=receive)
  type: str
exported:
  description: The CA's key as PKCS#8 (PEM), encrypted with the passphrase. Empty in check mode. Keep it out of logs (C(no_log)).
  returned: with O(step=export)
  type: str
csrs:
  description: Requests (PEM) by certificate - server, peer, healthcheck-client, apiserver-etcd-client.
  returned: with O(step=request)
  type: dict
signed:
  description: Certificates (PEM) by host and name. With V(collect) all of them or none.
  returned: with O(step=sign) and O(step=collect)
  type: dict
waiting:
  description: Files that are not there yet, or not taken, and why. Below O(signing_dir).
  returned: with O(step=collect)
  type: list
  elements: str
  sample:
    - "infra0/server.crt: missing"
    - "infra1/peer.crt: its names and addresses lack localhost"
certificates:
  description: The certificates of the host as they are afterwards; in check mode as they are.
  returned: with O(step=install)
  type: list
  elements: dict
  contains:
    kind:
      description: Its name - server, peer, healthcheck-client or apiserver-etcd-client.
      type: str
    reasons:
      description:
        - Why it is not kept, as codes. Empty if it is kept.
        - >-
          C(missing), C(unreadable), C(key-missing), C(key-unreadable), C(key-algorithm), C(key-mismatch), C(other-ca), C(issuer-key), C(subject),
          C(sans), C(usages), C(key-usages), C(signature),
          C(authority), C(not-yet-valid), C(expired), C(window), C(asked-for).
      type: list
      elements: str
    days_left:
      description: Days until it ends.
      type: int
    subject:
      description: Common name.
      type: str
    issuer:
      description: Common name of the CA.
      type: str
    sans:
      description: Names and addresses.
      type: list
      elements: str
    algorithm:
      description: Algorithm of its key.
      type: str
    usages:
      description: Extended key usages.
      type: list
      elements: str
    not_before:
      description: When it begins (ISO 8601, UTC).
      type: str
    not_after:
      description: When it ends (ISO 8601, UTC).
      type: str
    serial:
      description: Serial number, hexadecimal.
      type: str
    authority_key_id:
      description: Identifier of the key that signed it, hexadecimal.
      type: str
"""

import contextlib
from datetime import datetime, timezone
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.kubeadm.etcd.plugins.module_utils._host.facts import cryptography_problem
from ansible_collections.kubeadm.etcd.plugins.module_utils._host.files import ensure_directory, locked
from ansible_collections.kubeadm.etcd.plugins.module_utils._pki import move as _move
from ansible_collections.kubeadm.etcd.plugins.module_utils._pki import rotate as _rotate
from ansible_collections.kubeadm.etcd.plugins.module_utils._pki import state as _pki
from ansible_collections.kubeadm.etcd.plugins.module_utils._pki import steps as _pki_steps
from ansible_collections.kubeadm.etcd.plugins.module_utils._pki.x509 import CRYPTOGRAPHY_VERSION
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.errors import stated_errors

STEPS = (
    *("transport", "ca", "request", "sign", "collect", "install", "send", "receive", "remove", "export"),
    *("next", "trust", "exchange", "renew_ca"),
)
# They change nothing on the host, and do not wait for those that do.
ONLY_READ = ("sign", "collect", "send")


def run(params: dict[str, Any], check: bool) -> dict[str, Any]:
    """One step, from the options of the module."""
    now = datetime.now(timezone.utc)
    spec = _pki.PkiSpec.from_params(params)
    if params["step"] == "transport":
        return _pki_steps.step_transport(spec, check)
    if params["step"] == "ca":
        sealed = params["sealed_key"]
        key = next(iter(_pki_steps.unsealed(spec, [sealed], check)), None) if sealed else params["ca_key"]
        passphrase = params["ca_key_passphrase"] or ""
        return _pki_steps.step_ca(spec, params["ca_cert"], key, passphrase, check, now, has_key=bool(sealed and check))
    if params["step"] == "send":
        return _move.step_send(spec, params["recipient"], check)
    if params["step"] == "receive":
        return _move.step_receive(spec, params["sealed_key"] or "", params["ca_cert"], check)
    if params["step"] == "remove":
        return _move.step_remove(spec, params["ca_public_key"] or "", check)
    if params["step"] == "export":
        return _move.step_export(spec, params["sealed_passphrase"], params["sealed_copy"] or "", check)
    if params["step"] == "next":
        sealed = params["sealed_key"]
        key = next(iter(_pki_steps.unsealed(spec, [sealed], check)), None) if sealed else params["ca_key"]
        return _rotate.step_next(spec, params["ca_cert"], key, params["ca_key_passphrase"] or "", check, now)
    if params["step"] == "trust":
        return _rotate.step_trust(spec, params["ca_cert"], check)
    if params["step"] == "renew_ca":
        return _rotate.step_renew(spec, params["ca_cert"], check, now)
    if params["step"] == "exchange":
        return _rotate.step_exchange(spec, check, params["alone"], params["elsewhere"])
    if params["step"] == "request":
        return _pki_steps.step_request(spec, params["ca_cert"], check, now)
    if params["step"] == "sign":
        return _pki_steps.step_sign(spec, params["requests"], check, now, params["next_ca"])
    if params["step"] == "collect":
        return _pki_steps.step_collect(spec, params["signing_dir"], params["ca_cert"], params["requests"], check, now)
    return _pki_steps.step_install(
        spec,
        params["ca_cert"],
        params["certificates"],
        check,
        now,
        replace_ca=params["replace_ca"],
        remove_ca_key=params["remove_ca_key"],
    )


def run_alone(params: dict[str, Any], check: bool) -> dict[str, Any]:
    """The same, while no other run changes the PKI of this host. What only reads does not wait."""
    with contextlib.ExitStack() as stack:
        if not check and params["step"] not in ONLY_READ:
            ensure_directory(params["work_dir"], 0o700)
            stack.enter_context(locked(_pki.PkiSpec.from_params(params).lock))
        return run(params, check)


def main() -> None:
    member = {
        "host": {"type": "str", "required": True},
        "csrs": {"type": "dict", "required": True},
        "serials": {"type": "dict", "default": {}},
        **{
            key: _pki.ARGUMENTS[key]
            for key in ("name", "address", "known_addresses", "kinds", "server_cert_sans", "peer_cert_sans")
        },
    }
    module = AnsibleModule(
        argument_spec={
            **_pki.ARGUMENTS,
            "halted": {"type": "str", "default": ""},
            "step": {"type": "str", "required": True, "choices": list(STEPS)},
            "ca_cert": {"type": "str"},
            "ca_key": {"type": "str", "no_log": True},
            "ca_key_passphrase": {"type": "str", "no_log": True},
            # Readable by the host that they were sealed for, and by nobody else.
            "sealed_key": {"type": "str", "no_log": False},
            "sealed_passphrase": {"type": "str", "no_log": False},
            "sealed_copy": {"type": "str"},
            "recipient": {"type": "str"},
            "ca_public_key": {"type": "str", "no_log": False},
            "requests": {"type": "list", "elements": "dict", "default": [], "options": member},
            "certificates": {"type": "dict", "default": {}},
            "signing_dir": {"type": "path"},
            "next_ca": {"type": "bool", "default": False},
            "alone": {"type": "bool", "default": False},
            "elsewhere": {"type": "bool", "default": False},
            "replace_ca": {"type": "bool", "default": False},
            "remove_ca_key": {"type": "bool", "default": False},
        },
        required_if=[
            ("step", "collect", ("signing_dir", "ca_cert")),
            ("step", "send", ("recipient",)),
            ("step", "trust", ("ca_cert",)),
            ("step", "export", ("sealed_passphrase",)),
        ],
        mutually_exclusive=[("ca_key", "sealed_key")],
        supports_check_mode=True,
    )
    with stated_errors(module.fail_json):
        problem = module.params["halted"] or cryptography_problem(CRYPTOGRAPHY_VERSION)
        if problem:
            module.fail_json(msg=problem)
        result = run_alone(module.params, module.check_mode)
        module.exit_json(**result)


if __name__ == "__main__":
    main()
