# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The CA's key on its way: from one host of the cluster to another one, and as an encrypted copy into a safe.

It leaves a host encrypted only, and is removed only if the CA host has proven that it has it.
"""

from __future__ import annotations

import contextlib
import os
from datetime import timedelta
from typing import Any

from ansible_collections.kubeadm.etcd.plugins.module_utils._host.files import Replacement, read_or_say, replace_files
from ansible_collections.kubeadm.etcd.plugins.module_utils._pki import making as _making
from ansible_collections.kubeadm.etcd.plugins.module_utils._pki import x509 as _x509
from ansible_collections.kubeadm.etcd.plugins.module_utils._pki.state import RENEWED, PkiSpec
from ansible_collections.kubeadm.etcd.plugins.module_utils._pki.steps import drop_ca_key, make_directories, unsealed
from ansible_collections.kubeadm.etcd.plugins.module_utils._pki.x509 import (
    authority_id,
    certificate_pem,
    load_certificate,
    not_after,
)
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.errors import EtcdError
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.reasons import Reason, reported


def proven_pair(spec: PkiSpec) -> tuple[Any, Any]:
    """Certificate and key of the CA as they are on this host. EtcdError unless the key signs what the certificate verifies."""
    cert_path, key_path = spec.path("etcd/ca.crt"), spec.path("etcd/ca.key")
    (cert, cert_problem), (data, key_problem) = read_or_say(cert_path), read_or_say(key_path)
    authority, key = load_certificate(cert), _x509.load_key(data)
    if authority is None:
        raise EtcdError(f"{cert_path}: {cert_problem or 'no PEM certificate'}. Put back a copy: every member has one.")
    if key is None:
        problem = key_problem or "no private key in PEM form without a passphrase"
        raise EtcdError(f"{key_path}: {problem}. Run again: the next run says which host has the CA's key.")
    check_pair(authority, key, cert_path, key_path)
    return authority, key


def check_pair(authority: Any, key: Any, cert_name: str, key_name: str) -> None:
    """EtcdError unless this key signs what this certificate of the CA verifies."""
    name, begin = authority.subject, _x509.not_before(authority)
    probe = None
    if _x509.same_key(key.public_key(), authority.public_key()):
        period = (begin, begin + timedelta(minutes=1))
        probe = _making.make_certificate(_making.subject_name("probe"), name, key.public_key(), key, period, [])
    if probe is None or not _x509.signed_by(probe, authority):
        raise EtcdError(f"{key_name} is not the key of {cert_name}. Use a certificate with its own key.")


def step_send(spec: PkiSpec, recipient: str, check: bool) -> dict[str, Any]:
    """The CA's key, encrypted for the host that made the key recipient (step_transport), and its certificate. On the host that has it."""
    authority, key = proven_pair(spec)
    try:
        sealed = "" if check else _making.seal(_making.key_pem(key), recipient)
    except ValueError as exc:
        raise EtcdError(f"recipient is not a valid public key: {exc}.") from exc
    return {**reported([]), "sealed_key": sealed, "ca_cert": certificate_pem(authority)}


def step_receive(spec: PkiSpec, sealed: str, ca_cert: str | None, check: bool) -> dict[str, Any]:
    """Write the CA's key that step_send has encrypted, if there is none, and prove that this host can sign with what is on its disk.

    ca_cert: the CA of the sender. It is written if this host has none, or an earlier one of the same CA; another one is never replaced.
    """
    cert_path, key_path = spec.path("etcd/ca.crt"), spec.path("etcd/ca.key")
    (stored_cert, cert_problem), (_stored_key, key_problem) = read_or_say(cert_path), read_or_say(key_path)
    stored, given = load_certificate(stored_cert), load_certificate((ca_cert or "").encode())
    authority = stored if stored is not None or cert_problem != "missing" else given
    if authority is None:
        raise EtcdError(f"{cert_path}: {cert_problem or 'no PEM certificate'}. Put back a copy: every member has one.")
    if given is not None and authority_id(given) != authority_id(authority):
        raise EtcdError(
            f"{cert_path} is not the CA whose key was sent. Replace it by a copy of the ca.crt of the other members."
        )
    reasons: list[Reason] = []
    files: list[Replacement] = []
    if given is not None and (stored is None or not_after(given) > not_after(stored)):
        authority = given
        reasons.append(Reason("ca", "renewed", f"etcd/ca.crt: {'missing' if stored is None else RENEWED}"))
        files.append(Replacement(cert_path, certificate_pem(given).encode(), 0o644))
    if key_problem == "missing" and (sealed or check):
        reasons.append(Reason("ca", "moved", "etcd/ca.key: brought here, this is the CA host"))
        for text in unsealed(spec, [sealed], check):
            key = _x509.load_key(text.encode())
            if key is None:
                raise EtcdError("the data sent to this host is not a private key. Run again.")
            check_pair(authority, key, cert_path, "the key that was sent")
            files.insert(0, Replacement(key_path, _making.key_pem(key), 0o600))
    elif not sealed:
        authority, _key = proven_pair(spec)
    if not check:
        make_directories(spec)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(spec.transport)
        # Before the key: whoever finds the key finds the claim.
        replace_files([Replacement(spec.claim, b"", 0o600)])
        replace_files(files)
        authority, _key = proven_pair(spec)
    return {**reported(reasons), "ca_public_key": _x509.public_fingerprint(authority.public_key())}


def step_remove(spec: PkiSpec, ca_public_key: str, check: bool) -> dict[str, Any]:
    """Remove ca.key, which the CA host has proven to have (ca_public_key, as step_receive returned it). On the CA host: end the move."""
    if spec.ca_host:
        with contextlib.suppress(FileNotFoundError):
            if not check:
                os.unlink(spec.claim)
        return reported([])
    path = spec.path("etcd/ca.key")
    data, problem = read_or_say(path)
    if problem == "missing":
        return reported([])
    key = _x509.load_key(data)
    if key is None or _x509.public_fingerprint(key.public_key()) != ca_public_key:
        raise EtcdError(
            f"{path} is not the key that the CA host has, so it is not removed. Move it to where its CA is kept."
        )
    if not check:
        drop_ca_key(spec)
    return reported([Reason("ca", "ca-key-removed", "etcd/ca.key: removed, the CA host has it")])


def step_export(spec: PkiSpec, sealed_passphrase: str, sealed_copy: str, check: bool) -> dict[str, Any]:
    """The CA's key, encrypted with a passphrase (PKCS#8, PEM). sealed_copy: one that was made before, which is checked and returned as it is."""
    if check:
        # The key may come to this host only in the real run.
        return {**reported([]), "exported": ""}
    secrets = unsealed(spec, [sealed_passphrase, *([sealed_copy] if sealed_copy else [])], check)
    _authority, key = proven_pair(spec)
    text = secrets[1] if sealed_copy else _making.encrypted_pem(key, secrets[0])
    opened = _x509.load_key(text.encode(), secrets[0])
    if not _x509.is_encrypted(text.encode()) or opened is None:
        raise EtcdError(
            "the file is not an encrypted private key that opens with this passphrase. It is not replaced: name another file."
        )
    if not _x509.same_key(opened.public_key(), key.public_key()):
        raise EtcdError("the file holds the key of another CA. It is not replaced: name another file.")
    return {**reported([]), "exported": text}
