# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The steps of etcd_pki: make the CA, make requests, sign them here or collect them from elsewhere, install the files.

Private keys are written to their final path or to the pending directory, and never leave the host.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from ansible_collections.kubeadm.etcd.plugins.module_utils._host.files import (
    Replacement,
    directory_problem,
    ensure_directory,
    mode_problem,
    protect_directory,
    read_bytes,
    read_or_say,
    remove_strays,
    replace_file,
    replace_files,
    set_mode,
    sync_directory,
)
from ansible_collections.kubeadm.etcd.plugins.module_utils._pki import making as _making
from ansible_collections.kubeadm.etcd.plugins.module_utils._pki import x509 as _x509
from ansible_collections.kubeadm.etcd.plugins.module_utils._pki.state import (
    BACKDATE,
    LEAVES,
    NEXT,
    RENEWED,
    Leaf,
    PkiSpec,
    authority_problems,
    ca_differs,
    check_own_ca,
    directories,
    file_modes,
    judge,
    leaf_flaws,
    leaf_reason,
    observe,
    signing_certificate,
    wanted_usages,
)
from ansible_collections.kubeadm.etcd.plugins.module_utils._pki.x509 import (
    algorithm_of,
    authority_id,
    certificate_pem,
    common_name,
    describe,
    load_certificate,
    load_certificates,
    not_after,
    sans_of,
)
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.errors import EtcdError
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.reasons import Reason, reported

# --- Making ------------------------------------------------------------------------------------------------------------


def make_authority(spec: PkiSpec, key: Any, now: datetime, name_text: str = "etcd-ca") -> Any:
    """A CA certificate as kubeadm makes it."""
    name, public = _making.subject_name(name_text), key.public_key()
    extensions = _making.extensions(True, (), ["etcd-ca"], key_id=_making.key_identifier(public, spec.sha256_ski))
    return _making.make_certificate(name, name, public, key, (now - BACKDATE, now + spec.ca_validity), extensions)


def make_request(spec: PkiSpec, kind: str, key: Any) -> str:
    """A certificate request (PEM) for a leaf. It contains all extensions of the leaf, because other CAs copy them from the request."""
    extensions = _making.extensions(False, wanted_usages(kind), spec.wanted_sans(kind))
    return _making.make_request(_making.subject_name(spec.common_name(kind)), key, extensions)


def request_problems(spec: PkiSpec, kind: str, request: Any) -> list[str]:
    """Why a request is refused: a member only gets the certificates that the inventory gives it."""
    if not request.is_signature_valid:
        return ["its signature does not match its key"]
    problems = []
    if common_name(request.subject) != spec.common_name(kind):
        problems.append(f"it asks for the name {common_name(request.subject)}, not {spec.common_name(kind)}")
    if sorted(sans_of(request)) != sorted(spec.wanted_sans(kind)):
        problems.append(f"it asks for {', '.join(sans_of(request))}, not {', '.join(spec.wanted_sans(kind))}")
    if algorithm_of(request.public_key()) != spec.algorithm:
        problems.append(f"its key is {algorithm_of(request.public_key())}, not {spec.algorithm}")
    return problems


def sign_leaf(spec: PkiSpec, kind: str, public_key: Any, authority: Any, key: Any, now: datetime) -> str:
    """A leaf (PEM) as kubeadm makes it. It ends with its CA at the latest: after that, it would be rejected anyway."""
    # As kubeadm, omit the authority key identifier if the user's own CA has no key identifier.
    issuer_key_id = bytes.fromhex(_x509.key_identifier_of(authority) or "")
    extensions = _making.extensions(False, wanted_usages(kind), spec.wanted_sans(kind), issuer_key_id=issuer_key_id)
    subject, period = (
        _making.subject_name(spec.common_name(kind)),
        (now - BACKDATE, min(now + spec.validity, not_after(authority))),
    )
    return certificate_pem(_making.make_certificate(subject, authority.subject, public_key, key, period, extensions))


# --- The steps ------------------------------------------------------------------------------------------------------


def step_transport(spec: PkiSpec, check: bool) -> dict[str, Any]:
    """Make a key pair, to which the controller encrypts a private key or a passphrase for its transfer (_making.seal). Root alone can read the private half.

    The step that gets the secret removes it. If a run is killed, the next one replaces it, or step_install removes it.
    """
    key = _making.make_key("ECDSA-P256")
    if not check:
        make_directories(spec)
        # Do not write through a symbolic link.
        with contextlib.suppress(FileNotFoundError):
            os.unlink(spec.transport)
        replace_files([Replacement(spec.transport, _making.key_pem(key), 0o600)])
    return {**reported([]), "transport_key": _making.public_pem(key.public_key())}


def unsealed(spec: PkiSpec, sealed: list[str], check: bool) -> list[str]:
    """The secrets that were sealed for this host. Empty in check mode, which makes no transport key.

    The transport key is removed, whether or not the rest of the run succeeds.
    """
    if check:
        return []
    key = _x509.load_key(read_or_say(spec.transport)[0])
    with contextlib.suppress(FileNotFoundError):
        os.unlink(spec.transport)
    data = [None if key is None else _making.unseal(text, key) for text in sealed]
    opened = [item.decode() for item in data if item is not None]
    if len(opened) < len(sealed):
        raise EtcdError(
            "the secret sent to this host was encrypted for another run and cannot be decrypted. Let other runs on this host end, then run again."
        )
    return opened


# Seconds for which a run may rely on a ca.key that it has proven. After that, other runs may remove the key, in case the run was killed.
_CLAIMED = 300.0


def drop_ca_key(spec: PkiSpec) -> None:
    """Remove ca.key from this host. EtcdError while another run relies on it: otherwise each could remove the copy that the other one keeps."""
    path = spec.path("etcd/ca.key")
    if os.path.islink(path):
        raise EtcdError(f"{path} is not removed: it is a link to {os.path.realpath(path)}. Remove both by hand.")
    try:
        age = time.time() - os.stat(spec.claim).st_mtime
    except FileNotFoundError:
        age = _CLAIMED
    if age < _CLAIMED:
        raise EtcdError(
            f"{path} is not removed: another run is bringing the CA's key to this host. Let it end, and run again with the etcd_ca_host that you"
            f" want. If it was killed, wait for {_CLAIMED / 60:.0f} minutes first."
        )
    os.unlink(path)
    sync_directory(os.path.dirname(path))


def step_ca(
    spec: PkiSpec,
    ca_cert: str | None,
    ca_key: str | None,
    passphrase: str,
    check: bool,
    now: datetime,
    has_key: bool = False,
) -> dict[str, Any]:
    """Make the CA, or install the user's own; repair modes. Never replaces the CA on the host by another one.

    ca_cert without ca_key: the key is on the host already, or the CA signs elsewhere. has_key: in check mode, the user's key exists but is
    not sent.
    """
    if (ca_key or has_key) and not ca_cert:
        raise EtcdError("ca_key is set and ca_cert is not. Set both, or neither to have a CA made.")
    cert_path, key_path = spec.path("etcd/ca.crt"), spec.path("etcd/ca.key")
    (stored_cert, cert_problem), (stored_key, key_problem) = read_or_say(cert_path), read_or_say(key_path)
    own: tuple[bytes | None, bytes] | None = None
    if ca_cert:
        problems = check_own_ca(ca_cert, ca_key, passphrase, now)
        if problems:
            raise EtcdError(" ".join(problems))
        key = _making.key_pem(_x509.load_key(ca_key.encode(), passphrase)) if ca_key else b"" if has_key else None
        own = (key, signing_certificate(ca_cert).encode())
    before, unreadable = load_certificate(stored_cert), _x509.parse_certificates(stored_cert)[1]
    # The CA certificate on the host after this step, if it is kept or renewed.
    stored = before
    reasons: list[Reason] = []

    def found(code: str, text: str) -> None:
        reasons.append(Reason("ca", code, f"etcd/{text}"))

    pair: tuple[bytes | None, bytes] | None = None
    if cert_problem == "missing":
        found("missing", "ca.crt: missing" + ("" if key_problem == "missing" else ", its key exists"))
        pair = _beside_stored_key(own, stored_key, cert_path, key_path, now) if own else None
        pair = pair or _new_authority(spec, stored_key, key_problem, now)
    elif before is None:
        raise EtcdError(
            f"{cert_path} is {cert_problem or unreadable}. Copy it back from another member: all have the same file."
        )
    elif own and authority_id(before) != authority_id(load_certificate(own[1])):
        raise EtcdError(
            f"{cert_path} is not the CA in etcd_ca_cert, and the run does not replace it. If no member uses it, move it and ca.key away. If"
            " members use it, remove etcd_ca_cert and etcd_ca_key."
        )
    elif own:
        if own[0] is not None and key_problem == "missing":
            found("key-missing", "ca.key: missing")
            pair = (own[0], stored_cert or b"")
        if not_after(load_certificate(own[1])) > not_after(before):
            found("renewed", f"ca.crt: {RENEWED}")
            stored = load_certificate(own[1])
            pair = (pair[0] if pair else None, own[1])
    # Modes are repaired whatever lies there: who signs with it asks again.
    if own and stored is not None:
        problems = authority_problems(stored, _x509.load_key(stored_key), now, cert_path, key_path)
        if problems:
            raise EtcdError(" ".join(problems))
    if pair is not None and not check:
        make_directories(spec)
        files = [Replacement(key_path, pair[0], 0o600)] if pair[0] else []
        # Written after etcd has started, it would look renewed (trusted_ca).
        files += [] if pair[1] == stored_cert else [Replacement(cert_path, pair[1], 0o644)]
        replace_files(files)
    for path, mode in ((cert_path, 0o644), (key_path, 0o600)):
        problem = mode_problem(path, mode) if pair is None or check else None
        if problem:
            found("mode", f"{os.path.basename(path)}: {problem}")
            if not check:
                set_mode(path, mode)
    # Not the text of the file: it may contain the key as well.
    text = pair[1] if pair else "".join(map(certificate_pem, _x509.load_certificates(stored_cert))).encode()
    # Check mode does not show a new CA: the real run would make a different one.
    shown = (text or b"").decode() if not (check and pair and not ca_cert) else ""
    after = describe("ca", load_certificate(text)) if shown else {"kind": "ca", "subject": "etcd-ca"}
    was = describe("ca", before) if before is not None else {}
    return {
        **reported(reasons),
        "ca_cert": shown,
        "diff": {"before": _shown(was), "after": _shown(after) if reasons else _shown(was)},
    }


def _beside_stored_key(
    own: tuple[bytes | None, bytes], stored_key: bytes | None, cert_path: str, key_path: str, now: datetime
) -> tuple[bytes | None, bytes]:
    """A user's own CA for a host that has a ca.key. EtcdError if that is the key of another CA: it is never replaced."""
    key = _x509.load_key(stored_key)
    problems = authority_problems(load_certificate(own[1]), key, now, "the given CA certificate", key_path)
    if problems:
        raise EtcdError(" ".join(problems) + f" Nothing was written to {cert_path}.")
    return own if stored_key is None else (None, own[1])


def _new_authority(spec: PkiSpec, stored_key: bytes | None, key_problem: str, now: datetime) -> tuple[bytes, bytes]:
    """Key and certificate of a new CA. An existing ca.key is kept: it is from a killed run, or the user put it there."""
    key = _x509.load_key(stored_key)
    directory = spec.path("etcd")
    if key_problem == "missing":
        key = _making.make_key(spec.algorithm)
        stored_key = _making.key_pem(key)
    elif key is None:
        raise EtcdError(
            f"{directory}/ca.key is not a private key, and ca.crt is missing. Restore both files. Only if this cluster has never run, move"
            " ca.key away, and the next run makes a new CA."
        )
    elif any(os.path.exists(spec.path(place + ".crt")) for place, *_rest in LEAVES.values()):
        raise EtcdError(
            f"{directory}/ca.crt is missing, but ca.key and certificates exist. The members trust the former ca.crt: copy it back from one of"
            " them. Only if this cluster has never run and no copy is left, move ca.key and the certificates away, and the next run makes a new"
            " CA."
        )
    return stored_key or b"", certificate_pem(make_authority(spec, key, now)).encode()


def make_directories(spec: PkiSpec) -> None:
    """Make the directories of certificates and keys."""
    ensure_directory(spec.pki_dir, 0o755)
    ensure_directory(spec.path("etcd"), 0o755)
    ensure_directory(spec.work_dir, 0o700)


def step_request(spec: PkiSpec, ca_cert: str | None, check: bool, now: datetime) -> dict[str, Any]:
    """Make keys and requests for the leaves that have to be issued. A usable key is kept.

    A new key stays in the directory `pending` until its certificate is installed. A key from an earlier run is used if it is there.
    """
    authorities = load_certificates(ca_cert.encode() if ca_cert else read_or_say(spec.path("etcd/ca.crt"))[0])
    due = {kind: found for kind, found in judge(spec, authorities, now).items() if found[1]}
    reasons = [leaf_reason(kind, found) for kind, (_leaf, found) in due.items()]
    keys = {kind: leaf.key for kind, (leaf, found) in due.items() if not any(reason.new_key for reason in found)}
    made = []
    for kind in (kind for kind in due if kind not in keys):
        waiting = _x509.load_key(read_bytes(os.path.join(spec.pending, kind + ".key")))
        if waiting is not None and algorithm_of(waiting.public_key()) == spec.algorithm:
            keys[kind] = waiting
        else:
            made.append(kind)
    if check:
        return {**reported(reasons), "changed": bool(made), "csrs": {}}
    if made:
        ensure_directory(spec.work_dir, 0o700)
        ensure_directory(spec.pending, 0o700)
        # OpenSSL releases the interpreter lock while it generates an RSA key, so threads help.
        with ThreadPoolExecutor(max_workers=len(made)) as pool:
            keys.update(zip(made, pool.map(_making.make_key, [spec.algorithm] * len(made))))
        replace_files(
            [
                Replacement(os.path.join(spec.pending, kind + ".key"), _making.key_pem(keys[kind]), 0o600)
                for kind in made
            ]
        )
    csrs = {kind: make_request(spec, kind, keys[kind]) for kind in due}
    return {**reported(reasons), "changed": bool(made), "csrs": csrs}


def step_sign(
    spec: PkiSpec, requests: list[Mapping[str, Any]], check: bool, now: datetime, by_next: bool = False
) -> dict[str, Any]:
    """Sign the requests of all members. Refuses requests that ask for more than the inventory gives the member.

    by_next: by the CA beside the one in use.
    """
    cert_path, key_path = (spec.path((NEXT if by_next else "etcd/ca") + end) for end in (".crt", ".key"))
    authority = load_certificate(read_or_say(cert_path)[0])
    key = _x509.load_key(read_or_say(key_path)[0])
    if authority is None or key is None:
        if check:
            return {**reported([]), "signed": {}}
        raise EtcdError(
            f"{cert_path} or {key_path} is missing or cannot be used, so no certificate can be issued. Put both back on this host, or set"
            " etcd_ca_host to the host that has them."
        )
    problems = authority_problems(authority, key, now, cert_path, key_path)
    if problems:
        raise EtcdError(" ".join(problems))
    signed: dict[str, dict[str, str]] = {}
    reasons: list[Reason] = []
    for asked in accepted_requests(spec, requests):
        if not check:
            certificate = sign_leaf(asked.member, asked.kind, asked.request.public_key(), authority, key, now)
            signed.setdefault(asked.host, {})[asked.kind] = certificate
            reasons.append(Reason("certificates", "signed", f"{asked.host}: {asked.kind}"))
    return {**reported(reasons), "changed": False, "signed": signed}


@dataclass(frozen=True)
class Asked:
    """A request that may be signed. serial: serial number of the certificate in use, hexadecimal."""

    host: str
    kind: str
    member: PkiSpec
    pem: str
    request: Any
    serial: str | None


def accepted_requests(spec: PkiSpec, requests: list[Mapping[str, Any]]) -> list[Asked]:
    """The requests of all members. EtcdError names each request that asks for more than the inventory gives the member."""
    accepted: list[Asked] = []
    problems: list[str] = []
    for entry in requests:
        member = PkiSpec.from_params(
            {
                **entry,
                "encryption_algorithm": spec.algorithm,
                "certificate_validity_period": f"{int(spec.validity.total_seconds())}s",
                "renewal_window": f"{int(spec.renewal_window.total_seconds())}s",
            }
        )
        for kind, pem in entry["csrs"].items():
            if kind not in member.kinds:
                problems.append(
                    f"{entry['host']}: the request for {kind} is refused: this host may only have {', '.join(member.kinds)}."
                )
                continue
            request = _making.load_request(pem.encode())
            found = ["it is not a PEM request"] if request is None else request_problems(member, kind, request)
            problems += [f"{entry['host']}: the request for {kind} is refused: {text}." for text in found]
            serial = (entry.get("serials") or {}).get(kind)
            accepted.append(Asked(entry["host"], kind, member, pem, request, serial))
    if problems:
        raise EtcdError(" ".join(problems))
    return accepted


def step_collect(
    spec: PkiSpec, signing_dir: str, ca_cert: str | None, requests: list[Mapping[str, Any]], check: bool, now: datetime
) -> dict[str, Any]:
    """External signing, on the controller: write the requests as files, and read and check the certificates signed elsewhere.

    signing_dir: directory of the cluster, with a directory per member. KIND.csr is written there, and KIND.crt is read. `waiting` lists the
    certificates that are missing or not accepted, with the reason.
    """
    authority = load_certificate((ca_cert or "").encode())
    if authority is None:
        raise EtcdError("ca_cert is not a PEM certificate. Give the certificate of the CA that signs.")
    signed: dict[str, dict[str, str]] = {}
    waiting: list[str] = []
    reasons: list[Reason] = []
    files: list[tuple[str, str]] = []
    for asked in accepted_requests(spec, requests):
        name = f"{asked.member.name}/{asked.kind}"
        place = os.path.join(signing_dir, asked.member.name, asked.kind)
        data, problem = read_or_say(place + ".crt")
        certificate = load_certificate(data)
        if certificate is not None:
            # The request stands in for its key: it has the same public key, and its signature proves that the key matches.
            leaf = Leaf(asked.kind, certificate, "", asked.request)
            problem = "; ".join(reason.text for reason in leaf_flaws(asked.member, leaf, authority, now))
            if asked.serial == f"{certificate.serial_number:x}":
                problem = "this is the certificate in use; save the new one"
        elif not problem:
            problem = "not a PEM certificate"
        if not problem:
            signed.setdefault(asked.host, {})[asked.kind] = certificate_pem(certificate)
            continue
        waiting.append(f"{name}.crt: {problem}")
        stored = _making.load_request(read_or_say(place + ".csr")[0])
        # Signatures differ each time, so a stored request with the same content is kept.
        if stored is None or stored.tbs_certrequest_bytes != asked.request.tbs_certrequest_bytes:
            text = f"{name}.csr: {'new request' if stored is None else 'new key or new contents'}"
            reasons.append(Reason("certificates", "request", text))
            files.append((place + ".csr", asked.pem))
    if not check:
        for path, text in files:
            ensure_directory(os.path.dirname(path), 0o755, uid=os.getuid(), gid=os.getgid())
            replace_file(path, text.encode(), 0o644, uid=os.getuid(), gid=os.getgid())
    return {
        **reported(reasons),
        "signed": {} if waiting else signed,
        "waiting": waiting,
        "diff": {"before": "", "after": "".join(f"{path}\n" for path, _text in files)},
    }


def step_install(
    spec: PkiSpec,
    ca_cert: str | None,
    certificates: Mapping[str, str],
    check: bool,
    now: datetime,
    replace_ca: bool = False,
    remove_ca_key: bool = False,
) -> dict[str, Any]:
    """Install certificates and keys, each pair back to back, after all of them have been checked."""
    before = observe(spec, now, ca_cert, replace_ca)
    reasons = list(before.reasons)
    diff_before = _shown(*before.certificates)
    stray = remove_ca_key and before.ca_key and not spec.ca_host
    given = load_certificate((ca_cert or before.ca_cert or "").encode())
    if stray and (given is None or before.ca_public_key != _x509.public_fingerprint(given.public_key())):
        raise EtcdError(
            f"{spec.path('etcd/ca.key')} is not the key of {spec.path('etcd/ca.crt')}, so it may be the only copy of another CA's key. The run"
            " does not remove it. Move it to the place where that CA is kept."
        )
    if stray:
        text = "etcd/ca.key: removed, it belongs on the CA host only"
        reasons.append(Reason("certificates", "ca-key-removed", text))
    if os.path.isdir(spec.pending) and not certificates:
        reasons.append(Reason("certificates", "left-behind", "pending: keys left over from a run that was killed"))
    if not reasons and not certificates:
        return _installed(reasons, before.certificates, diff_before, diff_before)
    if check:
        authorities = load_certificates((ca_cert or before.ca_cert or "").encode())
        due = {kind: found for kind, (_leaf, found) in judge(spec, authorities, now).items() if found}
        known = {item["kind"]: item for item in before.certificates}
        after = [_planned(spec, kind) if kind in due else known[kind] for kind in spec.kinds]
        return _installed(reasons, before.certificates, diff_before, _shown(*after))
    pem = ca_cert or before.ca_cert
    authorities = load_certificates(pem.encode() if pem else None)
    authority = next(iter(authorities), None)
    if authority is None or pem is None:
        raise EtcdError(
            f"{spec.path('etcd/ca.crt')} is missing, and ca_cert is not set. Set ca_cert to the certificate of the CA host."
        )
    stored_ids = {item["id"] for item in before.cas}
    if stored_ids and not stored_ids & {*map(authority_id, authorities)} and not replace_ca:
        raise EtcdError(
            f"{spec.path('etcd/ca.crt')} is not the CA in ca_cert, and it is not replaced: members that trust different CAs reject each other."
            " Set replace_ca only if the cluster has no data."
        )
    lacking = [
        kind for kind, (_leaf, found) in judge(spec, authorities, now).items() if found and kind not in certificates
    ]
    if lacking:
        raise EtcdError(
            f"this host needs certificates ({', '.join(lacking)}), and none were issued. The CA host issues them: include it in the same run."
        )
    files = []
    if ca_differs(spec, before.cas, authorities, replace_ca):
        files.append(Replacement(spec.path("etcd/ca.crt"), _ended(pem), 0o644))
    for kind, text in certificates.items():
        files += _pair(spec, kind, text, authority, now)
    make_directories(spec)
    replace_files(files)
    for directory in directories(spec):
        if directory_problem(directory):
            protect_directory(directory)
    for name, mode in file_modes(spec).items():
        if mode_problem(spec.path(name), mode):
            set_mode(spec.path(name), mode)
    if stray:
        drop_ca_key(spec)
    shutil.rmtree(spec.pending, ignore_errors=True)
    for directory in directories(spec):
        remove_strays(directory)
    after_state = observe(spec, now, ca_cert, replace_ca)
    return _installed(reasons, after_state.certificates, diff_before, _shown(*after_state.certificates))


def _pair(spec: PkiSpec, kind: str, text: str, authority: Any, now: datetime) -> list[Replacement]:
    """The files of one leaf: its certificate, and its key if that is new. EtcdError if the certificate is not acceptable."""
    place = spec.path(LEAVES[kind][0])
    certificate = load_certificate(text.encode())
    waiting = read_or_say(os.path.join(spec.pending, kind + ".key"))[0]
    key = _x509.load_key(waiting)
    # A pending key may be from a killed run that wanted a new key, while this run keeps the old one.
    if key is None or (certificate and not _x509.same_key(key.public_key(), certificate.public_key())):
        waiting = None
        key = _x509.load_key(read_or_say(place + ".key")[0])
    leaf = Leaf(kind, certificate, "" if certificate else "not a PEM certificate", key, "" if key else "missing")
    found = [r.text for r in leaf_flaws(spec, leaf, authority, now) if r.code not in ("window", "asked-for")]
    if found:
        raise EtcdError(f"the certificate for {kind} is not installed: {'; '.join(found)}.")
    files = [Replacement(place + ".crt", _ended(text), 0o644)]
    return [Replacement(place + ".key", waiting, 0o600), *files] if waiting else files


def _planned(spec: PkiSpec, kind: str) -> dict[str, Any]:
    """What check mode shows of a certificate that does not exist yet."""
    return {
        "kind": kind,
        "subject": spec.common_name(kind),
        "sans": spec.wanted_sans(kind),
        "algorithm": spec.algorithm,
    }


def _installed(reasons: list[Reason], found: list[dict[str, Any]], before: str, after: str) -> dict[str, Any]:
    return {
        **reported(reasons),
        "certificates": found,
        # The diff includes the reasons: dates alone do not explain why a certificate changes.
        "diff": {"before": before, "after": after + "".join(f"# {reason.text}\n" for reason in reasons)},
    }


def _ended(text: str) -> bytes:
    """PEM text that ends with exactly one newline, as kubeadm writes it."""
    return text.strip().encode() + b"\n"


def _shown(*certificates: Mapping[str, Any]) -> str:
    """Certificates as text for a diff: selected fields only, so that no secret can leak."""
    lines = []
    for item in certificates:
        lines.append(f"{item.get('kind', '')}:")
        for key, value in item.items():
            if key != "kind":
                lines.append(f"  {key}: {', '.join(value) if isinstance(value, list) else value}")
    return "\n".join(lines) + "\n" if lines else ""
