# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A secret on its way to the CA host: encrypted on the controller, so that no argument of a module has it in clear."""

from __future__ import annotations

DOCUMENTATION = r"""
name: seal
short_description: Encrypt a private key or a passphrase for one host
version_added: 0.1.0
author:
  - The kubeadm.etcd maintainers (@kubeadm)
description:
  - Encrypts a private key, or another text, to the public key that M(kubeadm.etcd.etcd_pki) made on the host which is to have it
    (O(kubeadm.etcd.etcd_pki#module:step=transport)).
  - Ansible may keep arguments of modules in files on the host and on the controller. The result is of no use in them.
  - ECDH with P-256, HKDF with SHA-256, AES-256-GCM.
positional: recipient, passphrase
options:
  _input:
    description: Private key (PEM), or with O(text) any text.
    type: str
    required: true
  recipient:
    description: Public key (PEM) of the host, RV(kubeadm.etcd.etcd_pki#module:transport_key).
    type: str
    required: true
  passphrase:
    description: Passphrase of the private key, if that is encrypted. The host does not need it.
    type: str
    default: ""
  text:
    description: Whether the input is a text that is encrypted as it is, such as a passphrase.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: Bring in your own CA
  kubeadm.etcd.etcd_pki:
    step: ca
    name: infra0
    address: 10.0.0.6
    ca_cert: "{{ lookup('ansible.builtin.file', '/srv/pki/ca.crt') }}"
    sealed_key: "{{ lookup('ansible.builtin.file', '/srv/pki/ca.key') | kubeadm.etcd.seal(transport.transport_key) }}"
"""

RETURN = r"""
_value:
  description: The encrypted key, as base64 text. Only the host can read it.
  type: str
"""

from typing import Any


def seal(secret: str, recipient: str, passphrase: str = "", text: bool = False) -> str:
    """See DOCUMENTATION."""
    # When it is called: see cluster.py.
    from ansible.errors import AnsibleFilterError
    from ansible_collections.kubeadm.etcd.plugins.module_utils._pki import making as _making
    from ansible_collections.kubeadm.etcd.plugins.module_utils._pki import x509 as _x509

    data = str(secret).encode()
    if not text:
        private = _x509.load_key(data, str(passphrase or ""))
        if private is None:
            raise AnsibleFilterError("the CA's key is not a private key in PEM form, or its passphrase is wrong.")
        data = _making.key_pem(private)
    try:
        return _making.seal(data, str(recipient))
    except ValueError as exc:
        raise AnsibleFilterError(f"the CA host returned no key to encrypt to: {exc}.") from exc


class FilterModule:
    """Filters of the collection."""

    def filters(self) -> dict[str, Any]:
        return {"seal": seal}
