# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Checks of a user's own CA, on the controller, so that its key need not be sent anywhere for the check."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

from ansible_collections.kubeadm.etcd.plugins.module_utils._pki import state as _pki
from ansible_collections.kubeadm.etcd.plugins.module_utils._pki import x509 as _x509


def reading_problem(variable: str, path: str) -> str:
    """Why the file that a variable names could not be read."""
    try:
        with open(path, encoding="utf-8") as handle:
            begin = handle.read(100)
        # With the vault password, the lookup would have decrypted the file.
        reason = (
            "it is encrypted by ansible-vault, and its password is missing (--vault-id)"
            if "$ANSIBLE_VAULT" in begin
            else "it is empty"
        )
    except OSError as exc:
        reason = str(exc.strerror)
    except UnicodeDecodeError:
        reason = "it is not text"
    return f"{variable}: {path} cannot be read on the controller: {reason}. Set it to a readable PEM file."


def check_own_ca(
    cert: str | None, key: str | None = "", passphrase: str = "", cert_file: str = "", key_file: str = ""
) -> dict[str, Any]:
    """The signing certificate (cert), its fingerprint, the id that a renewal keeps (id), its end (not_after), the fingerprint of its public key,
    whether its key is given (key), and problems.

    cert, key: PEM texts, empty if missing or unreadable. Without a key, it is on the CA host already, or the CA signs elsewhere.
    """
    problems: list[str] = []
    nothing: dict[str, Any] = {
        "cert": "",
        "fingerprint": None,
        "id": None,
        "not_after": None,
        "public_key": None,
        "key": False,
        "problems": problems,
    }
    if not (cert or cert_file):
        if key or key_file:
            problems.append(
                "etcd_ca_key is set and etcd_ca_cert is not. Set both, or neither to have a CA made on the CA host."
            )
        return nothing
    files = (("etcd_ca_cert", cert, cert_file), ("etcd_ca_key", key, key_file))
    problems += [reading_problem(variable, path) for variable, text, path in files if path and not text]
    if not problems:
        # Before ansible-core 2.19, vault values have a type of their own.
        key_pem = str(key) if key else None
        problems += _pki.check_own_ca(str(cert), key_pem, str(passphrase or ""), datetime.now(timezone.utc))
    if problems:
        return nothing
    pem = _pki.signing_certificate(str(cert))
    certificate = _x509.load_certificate(pem.encode())
    return {
        "cert": pem,
        "fingerprint": _x509.fingerprint(pem),
        "id": _x509.authority_id(certificate),
        "not_after": _x509.not_after(certificate).isoformat(),
        "public_key": _x509.public_fingerprint(certificate.public_key()),
        "key": bool(key),
        "problems": [],
    }
