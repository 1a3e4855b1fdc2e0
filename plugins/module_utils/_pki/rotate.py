# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The files of a rotation of the CA, on hosts: a new CA beside the one in use, both in ca.crt, the new one in its place.

The first certificate in ca.crt signs, and ca.key is its key, at every moment: kubeadm reads it so, and so do we. Which phase comes next is
decided in _control/rotate_ca.py.
"""

from __future__ import annotations

import contextlib
import glob
import os
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from ansible_collections.kubeadm.etcd.plugins.module_utils._host.files import (
    Replacement,
    ensure_directory,
    read_or_say,
    replace_files,
    sync_directory,
)
from ansible_collections.kubeadm.etcd.plugins.module_utils._pki import making as _making
from ansible_collections.kubeadm.etcd.plugins.module_utils._pki import x509 as _x509
from ansible_collections.kubeadm.etcd.plugins.module_utils._pki.move import check_pair
from ansible_collections.kubeadm.etcd.plugins.module_utils._pki.state import (
    BACKDATE,
    NEXT,
    PkiSpec,
    authority_problems,
    check_own_ca,
    next_ca,
    signing_certificate,
)
from ansible_collections.kubeadm.etcd.plugins.module_utils._pki.steps import make_authority, make_directories
from ansible_collections.kubeadm.etcd.plugins.module_utils._pki.x509 import (
    authority_id,
    certificate_fingerprint,
    certificate_pem,
    common_name,
    load_certificate,
    load_certificates,
    name_id,
    not_after,
)
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.errors import EtcdError
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.reasons import Reason, reported


def pem_of(certificates: Sequence[Any]) -> str:
    """Certificates as the text of a ca.crt."""
    return "".join(map(certificate_pem, certificates))


def stored_cas(spec: PkiSpec) -> list[Any]:
    """Certificates in ca.crt. EtcdError if there are none."""
    path = spec.path("etcd/ca.crt")
    data, problem = read_or_say(path)
    found, unreadable = _x509.parse_certificates(data)
    if not found:
        raise EtcdError(f"{path} is {problem or unreadable}. Copy it back from another member, and run again.")
    return found


def step_next(
    spec: PkiSpec, ca_cert: str | None, ca_key: str | None, passphrase: str, check: bool, now: datetime
) -> dict[str, Any]:
    """Make the CA that takes over, or write the user's own, beside the one in use. On the CA host. What is there already is kept."""
    cert_path, key_path = spec.path(NEXT + ".crt"), spec.path(NEXT + ".key")
    present = next_ca(spec)
    if ca_cert:
        problems = check_own_ca(ca_cert, ca_key, passphrase, now)
        if problems:
            raise EtcdError(" ".join(problems))
    given = load_certificate(signing_certificate(ca_cert).encode()) if ca_cert else None
    if present and given is not None and present["id"] != authority_id(given):
        raise EtcdError(
            f"a rotation to the CA in {cert_path} has begun, which is not etcd_ca_cert. Finish it first, without etcd_ca_cert and etcd_ca_key. If that CA"
            " is not wanted, and no ca.crt contains it yet, move this file and its key away."
        )
    # A CA that signs elsewhere has no key here.
    if present and (present["has_key"] or (given is not None and not ca_key)):
        return {**reported([]), "ca_cert": present["cert"]}
    if present and given is None:
        raise EtcdError(f"{key_path} is missing, or not the key of {cert_path}. Put it back, and run again.")
    if given is not None:
        key = _x509.load_key(ca_key.encode(), passphrase) if ca_key else None
        certificate = given
    else:
        key = _x509.load_key(read_or_say(key_path)[0]) or _making.make_key(spec.algorithm)
        # A name of its own: by that a running etcd tells which CA it trusts, and Go finds out which one has signed.
        certificate = make_authority(spec, key, now, f"etcd-ca {now:%Y-%m-%d %H:%M:%S}")
    problems = new_name_problems(certificate, stored_cas(spec))
    if problems:
        raise EtcdError(" ".join(problems))
    if key is not None:
        check_pair(certificate, key, cert_path, key_path)
    problems = authority_problems(certificate, key, now, cert_path, key_path)
    if problems:
        raise EtcdError(" ".join(problems))
    if not check:
        make_directories(spec)
        keys = [] if key is None else [Replacement(key_path, _making.key_pem(key), 0o600)]
        replace_files([*keys, Replacement(cert_path, certificate_pem(certificate).encode(), 0o644)])
    text = f"{NEXT}.crt: {'made' if given is None else 'written'}, {common_name(certificate.subject)}"
    return {**reported([Reason("ca", "next", text)]), "ca_cert": "" if check else certificate_pem(certificate)}


def step_renew(spec: PkiSpec, ca_cert: str | None, check: bool, now: datetime) -> dict[str, Any]:
    """Put another certificate of the CA in use in its place: the user's own, or one that is made. Key, name and extensions stay, so nothing is issued again."""
    stored = stored_cas(spec)
    former, path = stored[0], spec.path("etcd/ca.crt")
    if ca_cert:
        problems = check_own_ca(ca_cert, None, "", now)
        if problems:
            raise EtcdError(" ".join(problems))
        certificate = load_certificate(signing_certificate(ca_cert).encode())
    else:
        key_path = spec.path("etcd/ca.key")
        key = _x509.load_key(read_or_say(key_path)[0])
        if key is None:
            raise EtcdError(f"{key_path} is missing or invalid. Put it back, and run again.")
        check_pair(former, key, path, key_path)
        certificate = _making.renewed(former, key, (now - BACKDATE, now + spec.ca_validity))
    if authority_id(certificate) != authority_id(former):
        raise EtcdError(
            f"etcd_ca_cert is another CA than {path}: its key, its name or its key identifier differs. Nothing was changed."
        )
    if not_after(certificate) <= not_after(former):
        return {**reported([]), "ca_cert": pem_of(stored)}
    wanted = [certificate, *stored[1:]]
    if not check:
        replace_files([Replacement(path, pem_of(wanted).encode(), 0o644)])
    text = f"etcd/ca.crt: another certificate of {common_name(former.subject)}, until {not_after(certificate):%Y-%m-%d} instead of {not_after(former):%Y-%m-%d}"
    return {**reported([Reason("ca", "renewed", text)]), "ca_cert": pem_of(wanted)}


def new_name_problems(certificate: Any, stored: Sequence[Any]) -> list[str]:
    """Why a certificate cannot be a new CA beside these: running members could not tell one from the other."""
    if authority_id(certificate) in map(authority_id, stored):
        return [
            "etcd_ca_cert is the CA in use, so there is nothing to replace. For another certificate of the same CA, see docs/certificates.md,"
            ' "The CA expires".'
        ]
    if name_id(certificate) in map(name_id, stored):
        return [
            f"the new CA is called {common_name(certificate.subject)}, like the CA in use. etcd and clients report only the names of the CAs that they trust."
            " Make the new CA with another name."
        ]
    return []


def step_trust(spec: PkiSpec, ca_cert: str, check: bool) -> dict[str, Any]:
    """Write ca.crt with exactly these certificates. Never a ca.crt that has none of the present ones."""
    wanted, stored = load_certificates(ca_cert.encode()), stored_cas(spec)
    if not {*map(authority_id, wanted)} & {*map(authority_id, stored)}:
        raise EtcdError(
            f"{spec.path('etcd/ca.crt')} contains none of the CAs of this rotation. It is not replaced, because members that trust different CAs reject"
            " each other. Put back the ca.crt of another member, and run again."
        )
    if [*map(certificate_fingerprint, wanted)] == [*map(certificate_fingerprint, stored)]:
        return reported([])
    if not check:
        replace_files([Replacement(spec.path("etcd/ca.crt"), pem_of(wanted).encode(), 0o644)])
    names = " and ".join(common_name(item.subject) for item in wanted)
    before, after = (" and ".join(common_name(item.subject) for item in items) + "\n" for items in (stored, wanted))
    return {
        **reported([Reason("ca", "trust", f"etcd/ca.crt: holds {names}")]),
        "diff": {"before": before, "after": after},
    }


def step_exchange(spec: PkiSpec, check: bool, alone: bool = False, elsewhere: bool = False) -> dict[str, Any]:
    """Let the new CA sign on the CA host: its certificate comes first in ca.crt, ca.key is its key, and the former pair is archived.

    A run that was killed in between is finished: nothing is removed before its successor is in place. alone: ca.crt does not hold the former CA any
    more, and need not hold the new one yet. elsewhere: the new CA has no key here, so there is no ca.key afterwards.
    """
    present, stored = next_ca(spec), stored_cas(spec)
    if present is None:
        return {**reported([]), "ca_cert": pem_of(stored)}
    certificate = load_certificate(present["cert"].encode())
    former = [item for item in stored if authority_id(item) != present["id"]]
    wanted = [certificate, *([] if alone else former)]
    if len(former) == len(stored) and not alone:
        raise EtcdError(
            f"{spec.path('etcd/ca.crt')} does not contain the new CA yet, and all members have to trust it first. Run again."
        )
    reasons = [Reason("ca", "exchanged", f"etcd/ca.key: {present['subject']} signs from now on")]
    if check:
        return {**reported(reasons), "ca_cert": pem_of(wanted)}
    key_path = spec.path("etcd/ca.key")
    key_data = read_or_say(spec.path(NEXT + ".key"))[0]
    if authority_id(stored[0]) != present["id"]:
        key = _x509.load_key(key_data)
        if key is None and not elsewhere:
            raise EtcdError(
                f"{spec.path(NEXT + '.key')} is missing or invalid. Put it back, and run again. If this CA signs elsewhere, set etcd_ca_cert to a copy"
                f" of {spec.path(NEXT + '.crt')}."
            )
        if key is not None:
            check_pair(certificate, key, spec.path(NEXT + ".crt"), spec.path(NEXT + ".key"))
        archive(spec, former[0], read_or_say(key_path)[0])
        keys = [] if key is None else [Replacement(key_path, key_data or b"", 0o600)]
        replace_files([*keys, Replacement(spec.path("etcd/ca.crt"), pem_of(wanted).encode(), 0o644)])
    if elsewhere:
        remove_archived_key(spec)
    for end in (".key", ".crt"):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(spec.path(NEXT + end))
    sync_directory(spec.path("etcd"))
    return {**reported(reasons), "ca_cert": pem_of(wanted)}


def remove_archived_key(spec: PkiSpec) -> None:
    """Remove ca.key, if it is the key of a CA that was archived with it."""
    path = spec.path("etcd/ca.key")
    data = read_or_say(path)[0]
    kept = [read_or_say(place)[0] for place in glob.glob(os.path.join(glob.escape(spec.former), "*.key"))]
    if data and data in kept:
        os.unlink(path)


def archive(spec: PkiSpec, authority: Any, key_data: bytes | None) -> None:
    """Keep a CA that is replaced, for root only. Its key too, which may be the only copy: of a company's CA, it may be needed elsewhere.

    key_data: what ca.key holds. It is not kept if it is not the key of this CA.
    """
    ensure_directory(spec.work_dir, 0o700)
    ensure_directory(spec.former, 0o700)
    place = os.path.join(spec.former, certificate_fingerprint(authority)[:16])
    key = _x509.load_key(key_data)
    files = [Replacement(place + ".crt", certificate_pem(authority).encode(), 0o600)]
    if key is not None and _x509.same_key(key.public_key(), authority.public_key()):
        files.insert(0, Replacement(place + ".key", key_data or b"", 0o600))
    replace_files(files)
