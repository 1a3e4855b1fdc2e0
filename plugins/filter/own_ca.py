# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A user's own CA, checked on the controller, where its files are: the key is not sent anywhere to be looked at."""

from __future__ import annotations

DOCUMENTATION = r"""
name: own_ca
short_description: Check your own CA on the controller
version_added: 0.1.0
author:
  - The kubeadm.etcd maintainers (@kubeadm)
description:
  - Reads a CA certificate and its key on the controller and says what is wrong with them. Returns nothing of the key.
  - Without a key, the key is on the CA host already, or the CA signs elsewhere.
positional: key, passphrase
options:
  _input:
    description: File with the CA certificate. Empty where there is none.
    type: path
    required: true
  key:
    description: File with the private key. Empty where there is none.
    type: path
    default: ""
  passphrase:
    description: Passphrase of the private key, where that is encrypted.
    type: str
    default: ""
"""

EXAMPLES = r"""
- name: Check a CA
  ansible.builtin.debug:
    msg: "{{ 'pki/ca.crt' | kubeadm.etcd.own_ca('pki/ca.key') }}"
"""

RETURN = r"""
_value:
  description: >-
    The certificate that signs (C(cert), PEM), its C(fingerprint) (SHA-256), that of its public key (C(public_key)), whether
    its key is given (C(key)), and C(problems).
    Empty where no file is named.
  type: dict
"""

import os
from datetime import datetime, timezone
from typing import Any


def read(variable: str, path: str, problems: list[str]) -> str:
    """Text of a file named by a variable; a problem where it cannot be read."""
    try:
        with open(os.path.expanduser(path), encoding="utf-8") as handle:
            return handle.read()
    except (OSError, UnicodeDecodeError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else "it is no text"
        problems.append(f"{variable}: {path} cannot be read on the controller: {reason}. Name a PEM file.")
        return ""


def own_ca(cert: str, key: str = "", passphrase: str = "") -> dict[str, Any]:
    """See DOCUMENTATION."""
    problems: list[str] = []
    nothing: dict[str, Any] = {"cert": "", "fingerprint": None, "public_key": None, "key": False, "problems": problems}
    if not cert:
        if key:
            problems.append(
                "etcd_ca_key is set and etcd_ca_cert is not. Set both, or neither to have a CA made on the CA host."
            )
        return nothing
    # Where there is something to look at: see cluster.py.
    from ansible_collections.kubeadm.etcd.plugins.module_utils import _pki, _x509

    cert_pem = read("etcd_ca_cert", cert, problems)
    key_pem = read("etcd_ca_key", key, problems) if key else None
    if not problems:
        problems += _pki.check_own_ca(cert_pem, key_pem, passphrase, datetime.now(timezone.utc))
    if problems:
        return nothing
    pem = _pki.signing_certificate(cert_pem)
    public = _x509.public_fingerprint(_x509.load_certificate(pem.encode()).public_key())
    return {"cert": pem, "fingerprint": _x509.fingerprint(pem), "public_key": public, "key": bool(key), "problems": []}


class FilterModule:
    """Filters of the collection."""

    def filters(self) -> dict[str, Any]:
        return {"own_ca": own_ca}
