# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The PKI of one host: its wanted and its present state, and the reasons to change it. _pki/steps.py makes the changes.

Certificates have the form that kubeadm gives them (kubeadm certs.go and pki_helpers.go; values taken from certificates of kubeadm 1.29 to
1.37). Private keys are written to their final path or to the pending directory, and never leave
the host.
"""

from __future__ import annotations

import glob
import ipaddress
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from ansible_collections.kubeadm.etcd.plugins.module_utils._host.files import (
    TEMPORARY,
    directory_problem,
    make_way,
    mode_problem,
    read_or_say,
    strays,
)
from ansible_collections.kubeadm.etcd.plugins.module_utils._host.kubeadm import CONFIG_ARGUMENTS
from ansible_collections.kubeadm.etcd.plugins.module_utils._pki import x509 as _x509
from ansible_collections.kubeadm.etcd.plugins.module_utils._pki.x509 import (
    algorithm_of,
    authority_id,
    certificate_pem,
    common_name,
    describe,
    fingerprint,
    load_certificate,
    not_after,
    not_before,
    sans_of,
    usages_of,
)
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.errors import EtcdError
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.formats import (
    TRUTH,
    duration_problems,
    duration_seconds,
    is_address,
    san_problems,
)
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.problems import FOUND, SIGN, Problem
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.reasons import Reason

LEAF_NAMES = ("server", "peer", "healthcheck-client", "apiserver-etcd-client")

ARGUMENTS: dict[str, dict[str, Any]] = {
    "pki_dir": {"type": "path", "default": "/etc/kubernetes/pki"},
    "work_dir": {"type": "path", "default": "/etc/kubernetes/kubeadm-etcd"},
    **{
        key: CONFIG_ARGUMENTS[key]
        for key in (
            *("name", "server_cert_sans", "peer_cert_sans", "encryption_algorithm", "kubernetes_version"),
            *("certificate_validity_period", "ca_certificate_validity_period"),
        )
    },
    "address": {"type": "str", "default": ""},
    # Addresses that peers and clients still use for the member, if its address is about to change.
    "known_addresses": {"type": "list", "elements": "str", "default": []},
    # A control plane host has apiserver-etcd-client only.
    "kinds": {"type": "list", "elements": "str", "default": list(LEAF_NAMES), "choices": list(LEAF_NAMES)},
    "renewal_window": {"type": "str", "default": "2160h"},
    "ca_host": {"type": "bool", "default": False},
    "renew": {"type": "list", "elements": "str", "default": [], "choices": ["all", *LEAF_NAMES]},
    "renew_keys": {"type": "bool", "default": False},
    # A CA is rotated: one of the others in ca.crt does not do any more.
    "first_ca_only": {"type": "bool", "default": False},
}

# By kubeadm's name of a leaf: its path under pki_dir, its common name ('': the member's name), and whether it is a server certificate.
LEAVES = {
    "server": ("etcd/server", "", True),
    "peer": ("etcd/peer", "", True),
    "healthcheck-client": ("etcd/healthcheck-client", "kube-etcd-healthcheck-client", False),
    "apiserver-etcd-client": ("apiserver-etcd-client", "kube-apiserver-etcd-client", False),
}

_MODES = {".crt": 0o644, ".key": 0o600}

# Clocks of the members may differ a little (kubeadm, CertificateBackdate).
BACKDATE = timedelta(minutes=5)

# Since 1.35, kubeadm derives the CA's key identifier by SHA-256, cut to 20 bytes (RFC 7093). Before, it used SHA-1.
SHA256_SKI_MINOR = 35


def split_sans(sans: list[str]) -> tuple[list[str], list[str]]:
    """DNS names and normalised IP addresses of a list of SANs."""
    names = [san for san in sans if not is_address(san)]
    return names, [str(ipaddress.ip_address(san)) for san in sans if is_address(san)]


@dataclass(frozen=True)
class PkiSpec:
    """The wanted PKI of a host."""

    pki_dir: str
    work_dir: str
    name: str
    address: str
    sans: dict[str, tuple[list[str], list[str]]]
    algorithm: str
    validity: timedelta
    ca_validity: timedelta
    renewal_window: timedelta
    sha256_ski: bool
    ca_host: bool = False
    renew: tuple[str, ...] = ()
    renew_keys: bool = False
    kinds: tuple[str, ...] = LEAF_NAMES
    known: tuple[str, ...] = ()
    first_ca_only: bool = False

    @classmethod
    def from_params(cls, params: Mapping[str, Any]) -> PkiSpec:
        """From options of the module; missing options get their default. EtcdError if a value is invalid."""
        value = {key: params.get(key, argument.get("default")) for key, argument in ARGUMENTS.items()}
        value = {key: ARGUMENTS[key].get("default") if item is None else item for key, item in value.items()}
        # Values inside a mapping have not been converted by Ansible.
        value["kubernetes_version"] = str(value["kubernetes_version"] or "")
        for key in ("server_cert_sans", "peer_cert_sans"):
            value[key] = [str(san) for san in value[key]]
        kinds = tuple(kind for kind in LEAF_NAMES if kind in value["kinds"])
        problems = []
        # Only server certificates contain the address.
        if any(LEAVES[kind][2] for kind in kinds) and not is_address(value["address"]):
            problems.append(f"etcd_address {value['address']!r} is not an IP address. Write an IPv4 or IPv6 address.")
        periods = ("certificate_validity_period", "ca_certificate_validity_period", "renewal_window")
        for key in periods:
            variable = "etcd_certificate_renewal_window" if key == "renewal_window" else f"etcd_{key}"
            problems += duration_problems(variable, str(value[key]))
        for key in ("server_cert_sans", "peer_cert_sans"):
            problems += san_problems(f"etcd_{key}", value[key])
        if problems:
            raise EtcdError(*problems)
        validity, ca_validity, window = (timedelta(seconds=duration_seconds(value[key]) or 0) for key in periods)
        if window >= validity:
            raise EtcdError(
                f"etcd_certificate_renewal_window ({value['renewal_window']}) is not shorter than"
                f" etcd_certificate_validity_period ({value['certificate_validity_period']}): every run would renew every certificate. Set a"
                " shorter window."
            )
        minor = re.match(r"v?1\.(\d+)", value["kubernetes_version"])
        return cls(
            pki_dir=value["pki_dir"],
            work_dir=value["work_dir"],
            name=value["name"],
            address=str(ipaddress.ip_address(value["address"])) if is_address(value["address"]) else "",
            sans={kind: split_sans(value[f"{kind}_cert_sans"]) for kind in ("server", "peer")},
            algorithm=value["encryption_algorithm"],
            validity=validity,
            ca_validity=ca_validity,
            renewal_window=window,
            sha256_ski=bool(minor and int(minor.group(1)) >= SHA256_SKI_MINOR),
            ca_host=TRUTH.get(str(value["ca_host"]).lower(), False),
            renew=tuple(value["renew"]),
            renew_keys=TRUTH.get(str(value["renew_keys"]).lower(), False),
            kinds=kinds,
            known=tuple(str(ipaddress.ip_address(item)) for item in value["known_addresses"] if is_address(item)),
            first_ca_only=TRUTH.get(str(value["first_ca_only"]).lower(), False),
        )

    def path(self, name: str) -> str:
        """A file under pki_dir."""
        return os.path.join(self.pki_dir, name)

    @property
    def pending(self) -> str:
        """The directory of new keys that wait for their certificate."""
        return os.path.join(self.work_dir, "pending")

    @property
    def transport(self) -> str:
        """A key that exists while the CA's key or a passphrase is transferred to this host. A dot file, so it is removed after a killed run."""
        return os.path.join(self.work_dir, TEMPORARY + "transport.key")

    @property
    def claim(self) -> str:
        """A file that exists while a run relies on the ca.key of this host, and removes others. A dot file, as above."""
        return os.path.join(self.work_dir, TEMPORARY + "ca-key-stays")

    @property
    def former(self) -> str:
        """The directory of CAs that this host had before, certificates and keys."""
        return os.path.join(self.work_dir, "former-ca")

    @property
    def lock(self) -> str:
        """The lock file of the run that changes this host."""
        return os.path.join(self.work_dir, "lock")

    def common_name(self, kind: str) -> str:
        """The subject of a leaf."""
        return LEAVES[kind][1] or self.name

    def wanted_sans(self, kind: str) -> list[str]:
        """SANs of a leaf in kubeadm's order, without duplicates: sorted names, own address, loopback, additional addresses, former addresses."""
        if kind not in self.sans:
            return []
        names, addresses = self.sans[kind]
        return [
            *sorted({self.name, "localhost", *names}),
            *dict.fromkeys([self.address, "127.0.0.1", "::1", *addresses, *self.known]),
        ]


@dataclass
class PkiState:
    """The present PKI of a host. Contains certificates, never a private key."""

    # ca.crt: its text, SHA-256 of the certificate and of its public key, and the id that a renewal keeps (_x509.authority_id).
    ca_cert: str | None = None
    ca_fingerprint: str | None = None
    ca_cert_key: str | None = None
    ca_id: str | None = None
    ca_key_id: str | None = None
    ca_subject: str | None = None
    ca_not_before: str | None = None
    ca_not_after: str | None = None
    # Whether it has signed itself, and how much later another certificate would end that is made now, seconds.
    ca_self_signed: bool = False
    ca_gain: float = 0.0
    # Every certificate in ca.crt, in order (see authority_facts); when the file was written (Unix time).
    cas: list[dict[str, Any]] = field(default_factory=list)
    ca_written: float = 0.0
    # On a CA host: the CA that takes over (ca-next.crt) and whether its key is there, and those that were replaced, with their age in seconds.
    next_ca: dict[str, Any] | None = None
    former_cas: list[dict[str, Any]] = field(default_factory=list)
    # ca.key: whether the path exists, and SHA-256 of its public key.
    ca_key: bool = False
    ca_public_key: str | None = None
    # Kinds of the leaves that ca.crt did not sign, and whether a member can start with the present leaves.
    foreign: list[str] = field(default_factory=list)
    usable: bool = True
    # Kinds of the leaves that have to be issued. Other reasons (file modes, files of a killed run) need no CA.
    due: list[str] = field(default_factory=list)
    ca_problems: list[Problem] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    reasons: list[Reason] = field(default_factory=list)
    certificates: list[dict[str, Any]] = field(default_factory=list)


# --- Reading -----------------------------------------------------------------------------------------------------------


def wanted_usages(kind: str) -> list[str]:
    """Extended key usages of a leaf. A server certificate needs clientAuth too: etcd's gateway connects to its own listener."""
    return ["serverAuth", "clientAuth"] if LEAVES[kind][2] else ["clientAuth"]


# --- Judging -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Flaw:
    """Why a certificate has to be issued again. code: stable, for programs; text: for people; new_key: the key is replaced too."""

    code: str
    text: str
    new_key: bool = False


@dataclass(frozen=True)
class Leaf:
    """A certificate and its key on disk. The problems say why one of them is None. The key is never part of an output."""

    kind: str
    certificate: Any = None
    certificate_problem: str = ""
    key: Any = field(default=None, repr=False)
    key_problem: str = ""


def read_leaf(spec: PkiSpec, kind: str) -> Leaf:
    """Read the two files of a leaf. Never raises."""
    place = spec.path(LEAVES[kind][0])
    data, problem = read_or_say(place + ".crt")
    key_data, key_problem = read_or_say(place + ".key")
    certificates, unreadable = _x509.parse_certificates(data)
    certificate, key = next(iter(certificates), None), _x509.load_key(key_data)
    return Leaf(
        kind,
        certificate,
        problem or unreadable,
        key,
        key_problem or ("" if key else "not a usable private key"),
    )


def issuer_of(certificate: Any, authorities: Iterable[Any]) -> Any:
    """The first of these CAs that has signed a certificate; None if none has."""
    return next((item for item in authorities if certificate is not None and _x509.signed_by(certificate, item)), None)


def leaf_flaws(spec: PkiSpec, leaf: Leaf, authority: Any, now: datetime, others: Sequence[Any] = ()) -> list[Flaw]:
    """Every reason why a leaf has to be issued again; empty if it is kept. No other code decides this.

    authority: the wanted CA, or None if it is not known yet. others: CAs beside it in ca.crt, whose leaves do as well while a CA is rotated.
    """
    flaws: list[Flaw] = []
    if authority is not None and not spec.first_ca_only:
        authority = issuer_of(leaf.certificate, others) or authority

    def found(code: str, text: str, new_key: bool = False) -> None:
        flaws.append(Flaw(code, text, new_key))

    if leaf.certificate is None:
        if leaf.certificate_problem == "missing":
            found("missing", "the certificate is missing")
        else:
            found("unreadable", leaf.certificate_problem)
    if leaf.key is None:
        if leaf.key_problem == "missing":
            found("key-missing", "the key is missing", True)
        else:
            found("key-unreadable", f"key: {leaf.key_problem}", True)
    elif algorithm_of(leaf.key.public_key()) != spec.algorithm:
        found("key-algorithm", f"the key is {algorithm_of(leaf.key.public_key())}, not {spec.algorithm}", True)
    certificate = leaf.certificate
    if certificate is not None:
        if leaf.key is not None and not _x509.same_key(leaf.key.public_key(), certificate.public_key()):
            found("key-mismatch", "its key belongs to another certificate", True)
        if authority is not None and not _x509.signed_by(certificate, authority):
            found("other-ca", f"signed by another CA ({common_name(certificate.issuer)})")
        elif authority is not None and _x509.names_another_key(certificate, authority):
            # Go ignores the identifier, OpenSSL (and so Python) checks it.
            found("issuer-key", "its authority key identifier does not match the CA's key")
        flaws += _content_flaws(spec, leaf.kind, certificate)
        flaws += _time_flaws(spec, certificate, authority, now)
    if ("all" in spec.renew or leaf.kind in spec.renew) and certificate is not None:
        found("asked-for", "requested" + (" with a new key" if spec.renew_keys else ""), spec.renew_keys)
    return flaws


def _content_flaws(spec: PkiSpec, kind: str, certificate: Any) -> list[Flaw]:
    """Fields of a certificate that differ from the wanted ones."""
    flaws = []
    subject, wanted_subject = common_name(certificate.subject), spec.common_name(kind)
    if subject != wanted_subject:
        # A certificate with another name may have been copied from another host, with its key: replace the key too.
        flaws.append(Flaw("subject", f"the subject is {subject}, not {wanted_subject}", True))
    sans, wanted = sans_of(certificate), spec.wanted_sans(kind)
    if sorted(sans) != sorted(wanted):
        lost, gained = [s for s in wanted if s not in sans], [s for s in sans if s not in wanted]
        words = [f"lack {', '.join(lost)}"] if lost else []
        words += [f"have {', '.join(gained)} in excess"] if gained else []
        flaws.append(Flaw("sans", f"its names and addresses {' and '.join(words) or 'are repeated'}"))
    usages = sorted(usages_of(certificate))
    if usages != sorted(wanted_usages(kind)):
        flaws.append(
            Flaw(
                "usages",
                f"its extended key usages are {', '.join(usages) or 'missing'}, not {', '.join(wanted_usages(kind))}",
            )
        )
    key_usages = _x509.key_usages_of(certificate)
    if key_usages != ["digitalSignature", "keyEncipherment"]:
        flaws.append(
            Flaw(
                "key-usages",
                f"its key usages are {', '.join(key_usages) or 'missing'}, not digitalSignature, keyEncipherment",
            )
        )
    if _x509.weak_hash(certificate):
        flaws.append(Flaw("signature", f"signed with {_x509.weak_hash(certificate)}, which etcd does not accept"))
    if _x509.is_authority(certificate):
        flaws.append(Flaw("authority", "it may sign other certificates (CA:TRUE)"))
    return flaws


# A CA that limits certificates to its own end may round down by seconds.
_ENDS_WITH_CA = timedelta(minutes=1)


def ends_with_its_ca(certificate: Any, authority: Any) -> bool:
    """Whether a certificate ends together with its CA, so that a renewed one would not last longer."""
    return authority is not None and not_after(certificate) >= not_after(authority) - _ENDS_WITH_CA


def renewal_window(spec: PkiSpec, certificate: Any) -> timedelta:
    """How long before its end a certificate is renewed.

    At most the last third of its life, if the CA issued it for a shorter time than requested (external signing). Otherwise every run would
    request a new one if that whole life were within the window.
    """
    life = not_after(certificate) - not_before(certificate)
    return min(spec.renewal_window, life / 3) if life < spec.validity else spec.renewal_window


def _time_flaws(spec: PkiSpec, certificate: Any, authority: Any, now: datetime) -> list[Flaw]:
    """Whether a certificate is not yet valid, has expired, or is within its renewal window."""
    begin, end = not_before(certificate), not_after(certificate)
    if now < begin:
        return [Flaw("not-yet-valid", f"not valid before {begin:%Y-%m-%d %H:%M} UTC")]
    if now >= end:
        return [Flaw("expired", f"expired on {end:%Y-%m-%d}")]
    if now >= end - renewal_window(spec, certificate) and not ends_with_its_ca(certificate, authority):
        return [Flaw("window", f"{(end - now).days} days left of {(end - begin).days}")]
    return []


def leaf_reason(kind: str, flaws: list[Flaw]) -> Reason:
    """The reason to issue or renew one certificate."""
    codes = {flaw.code for flaw in flaws}
    verb = "renewed" if codes <= {"window", "asked-for"} else "issued" if "missing" in codes else "issued again"
    text = f"{LEAVES[kind][0]}.crt: {verb}, " + ", ".join(flaw.text for flaw in flaws)
    return Reason("certificates", verb.replace(" ", "-"), text)


def judge(spec: PkiSpec, authorities: Sequence[Any], now: datetime) -> dict[str, tuple[Leaf, list[Flaw]]]:
    """Every leaf that the host should have, with the reasons to issue it again. authorities: the certificates in ca.crt; the first signs."""
    leaves = {kind: read_leaf(spec, kind) for kind in spec.kinds}
    first, others = next(iter(authorities), None), authorities[1:]
    return {kind: (leaf, leaf_flaws(spec, leaf, first, now, others)) for kind, leaf in leaves.items()}


def file_modes(spec: PkiSpec) -> dict[str, int]:
    """The mode of every file below pki_dir (kubeadm, pki_helpers.go)."""
    leaves = [(f"{LEAVES[kind][0]}{end}", mode) for kind in spec.kinds for end, mode in _MODES.items()]
    return {**dict(leaves), "etcd/ca.crt": 0o644}


def directories(spec: PkiSpec) -> list[str]:
    """Directories with keys. A user who may write there could replace the files in them."""
    return [spec.pki_dir, spec.path("etcd"), spec.work_dir]


def mode_reasons(spec: PkiSpec) -> list[Reason]:
    """Files with the wrong mode or owner, and directories that others may write to. They are repaired without being rewritten."""
    found = [(path, directory_problem(path)) for path in directories(spec)]
    found += [
        (name, mode_problem(spec.path(name), mode))
        for name, mode in file_modes(spec).items()
        if not os.path.isdir(spec.path(name))
    ]
    return [Reason("certificates", "mode", f"{name}: {problem}") for name, problem in found if problem]


# The shortest RSA key that Go (etcd, kube-apiserver) and current TLS libraries accept.
LEAST_RSA_BITS = 2048


def authority_problems(certificate: Any, key: Any, now: datetime, cert_name: str, key_name: str) -> list[str]:
    """Why a pair cannot be the CA: etcd, kube-apiserver (Go's crypto/x509) or kubeadm would reject it.

    key None: the key is not checked.
    """
    if certificate is None:
        return [f"{cert_name} is not a PEM certificate. Put the CA's certificate there."]
    problems: list[str] = []
    if not _x509.is_authority(certificate):
        problems.append(
            f"{cert_name} is not a CA certificate (basicConstraints CA:TRUE is missing). Use the certificate of a CA."
        )
    key_usages = _x509.key_usages_of(certificate)
    if key_usages and "keyCertSign" not in key_usages:
        problems.append(
            f"{cert_name} must not sign certificates (its key usage lacks keyCertSign). Use a CA certificate with keyCertSign."
        )
    usages = usages_of(certificate)
    if usages and "2.5.29.37.0" not in usages and not {"serverAuth", "clientAuth"} <= set(usages):
        problems.append(
            f"{cert_name} may only sign for {', '.join(usages)}: etcd would reject its certificates. Use a CA for serverAuth and"
            " clientAuth, or a CA without extended key usage."
        )
    forbidden = _x509.forbidden_names(certificate, ["localhost", "127.0.0.1", "::1"])
    if forbidden:
        problems.append(
            f"{cert_name} has name constraints that do not allow {', '.join(forbidden)}, which kubeadm has in every server certificate. Use a CA"
            " without name constraints, or have these names permitted."
        )
    if now >= not_after(certificate):
        problems.append(
            f"{cert_name} expired on {not_after(certificate):%Y-%m-%d}. Use a valid certificate of the same CA."
        )
    if now < not_before(certificate):
        problems.append(
            f"{cert_name} is not valid before {not_before(certificate):%Y-%m-%d %H:%M} UTC. Check this host's clock."
        )
    algorithm = algorithm_of(certificate.public_key())
    if algorithm.split("-")[0] not in ("RSA", "ECDSA"):
        problems.append(
            f"{cert_name} has a key that kubeadm does not support ({algorithm}). Use a CA with an RSA or ECDSA key."
        )
    elif algorithm.startswith("RSA-") and int(algorithm[4:]) < LEAST_RSA_BITS:
        problems.append(
            f"{cert_name} has an RSA key of {algorithm[4:]} bits, which is too weak. Use a CA with at least 2048 bits."
        )
    elif key is not None and not _x509.same_key(key.public_key(), certificate.public_key()):
        problems.append(
            f"{key_name} is not the key of {cert_name}. Use a certificate with its own key. If the certificate file contains several certificates, the first"
            " must be the signing one."
        )
    return problems


def chain_problems(certificates: list[Any], cert_name: str) -> list[str]:
    """Certificates of a chain that the next one has not signed."""
    return [
        f"{cert_name}: certificate {number} ({common_name(lower.subject)}) is not signed by the next one in the file"
        f" ({common_name(upper.subject)}). Put the signing certificate first, then each issuer, up to the root."
        for number, (lower, upper) in enumerate(zip(certificates, certificates[1:]), start=1)
        if not _x509.signed_by(lower, upper)
    ]


def check_own_ca(cert_pem: str, key_pem: str | None, passphrase: str, now: datetime) -> list[str]:
    """Problems of a user's own CA. The messages reveal nothing of the key.

    key_pem None: the key is elsewhere.
    """
    certificates, unreadable = _x509.parse_certificates(cert_pem.encode())
    if unreadable:
        return [f"etcd_ca_cert is {unreadable}. Set it to a PEM file with a CA certificate that can be read."]
    key = None if key_pem is None else _x509.load_key(key_pem.encode(), passphrase)
    problems = authority_problems(certificates[0], key, now, "etcd_ca_cert", "etcd_ca_key")
    problems += chain_problems(certificates, "etcd_ca_cert")
    if key_pem is None:
        return problems
    locked = _x509.is_encrypted(key_pem.encode())
    if locked and not passphrase:
        problems.append("etcd_ca_key is encrypted. Set etcd_ca_key_passphrase (from a vault, not in plain text).")
    elif locked and key is None:
        problems.append("etcd_ca_key cannot be decrypted with etcd_ca_key_passphrase. Correct the passphrase.")
    elif key is None:
        problems.append("etcd_ca_key is not a private key in PEM form. Set it to the file with the CA's key.")
    return problems


def signing_certificate(cert_pem: str) -> str:
    """The content of ca.crt for a user's CA file: the signing certificate, without the certificates above it.

    Go trusts each certificate in ca.crt as it is, so the intermediate is enough (seen with etcd 3.6.14). With its root in the file as well,
    etcd would accept clients with any other certificate of that root, and a client of etcd may do everything.
    """
    return certificate_pem(load_certificate(cert_pem.encode()))


def observe(spec: PkiSpec, now: datetime, ca_cert: str | None = None, whole: bool = False) -> PkiState:
    """The present PKI of the host, and the reasons to change it. ca_cert: the wanted CA; by default the one on the host. whole: see ca_differs."""
    state = PkiState()
    stored, stored_problem = read_or_say(spec.path("etcd/ca.crt"))
    key_data, key_problem = read_or_say(spec.path("etcd/ca.key"))
    authorities, unreadable = _x509.parse_certificates(stored)
    authority = next(iter(authorities), None)
    stored_problem = stored_problem or unreadable
    state.ca_key = key_problem != "missing"
    if authority is not None and stored is not None:
        # Not the text of the file: it may contain the key as well.
        state.ca_cert = "".join(map(certificate_pem, authorities))
        state.ca_fingerprint = fingerprint(state.ca_cert)
        state.ca_cert_key = _x509.public_fingerprint(authority.public_key())
        state.ca_id = authority_id(authority)
        state.ca_key_id = _x509.key_identifier_of(authority)
        state.ca_subject = common_name(authority.subject)
        state.ca_not_before = not_before(authority).isoformat()
        state.ca_not_after = not_after(authority).isoformat()
        state.ca_self_signed = _x509.same_name(authority.subject, authority.issuer)
        state.ca_gain = (now + spec.ca_validity - not_after(authority)).total_seconds()
        state.cas = [authority_facts(item) for item in authorities]
        state.ca_written = os.stat(spec.path("etcd/ca.crt")).st_ctime
    state.next_ca, state.former_cas = next_ca(spec), former_cas(spec, now)
    if stored is not None and b"PRIVATE KEY" in stored:
        state.warnings.append(
            "etcd/ca.crt contains a private key, and every user of the host can read it. Remove the key from the file. If it is the CA's key,"
            " consider it stolen, and plan to change the CA."
        )
    _observe_authority(spec, state, authority, stored_problem, key_data, key_problem, now)
    wanted_cas = _x509.load_certificates(ca_cert.encode()) if ca_cert else authorities
    wanted = next(iter(wanted_cas), None)
    if ca_cert and ca_differs(spec, state.cas, wanted_cas, whole):
        same = authority is not None and authority_id(wanted) == state.ca_id
        text = "etcd/ca.crt: " + (stored_problem or (RENEWED if same else "another CA"))
        state.reasons.append(Reason("certificates", "ca", text))
    elif not ca_cert and authority is None and not spec.ca_host:
        state.reasons.append(Reason("certificates", "ca", f"etcd/ca.crt: {stored_problem}"))
    judged = judge(spec, wanted_cas, now)
    for kind, (leaf, flaws) in judged.items():
        if flaws:
            state.reasons.append(leaf_reason(kind, flaws))
            state.due.append(kind)
            state.usable = state.usable and {flaw.code for flaw in flaws} <= {"window", "asked-for"}
        if leaf.certificate is not None:
            issuer = issuer_of(leaf.certificate, authorities)
            state.certificates.append({**described(leaf, flaws, now), "ca_id": issuer and authority_id(issuer)})
            if authority is not None and issuer is None:
                state.foreign.append(kind)
        for path in (spec.path(LEAVES[kind][0] + end) for end in _MODES):
            try:
                make_way(path)
            except EtcdError as exc:
                state.ca_problems.append(Problem(str(exc), code="in-the-way"))
    state.warnings += _short_warnings(spec, [leaf.certificate for leaf, _flaws in judged.values()], wanted)
    for path in (spec.pki_dir, spec.path("etcd")):
        if os.path.lexists(path) and not os.path.isdir(path):
            text = f"{path} is not a directory, but certificates and keys are stored there. Move the file away, and run again."
            state.ca_problems.append(Problem(text, code="not-a-directory"))
    state.reasons += mode_reasons(spec)
    for path in (path for directory in directories(spec) for path in strays(directory)):
        text = f"{_short(spec, path)}: left over from a run that was killed"
        state.reasons.append(Reason("certificates", "left-behind", text))
    return state


def ca_differs(spec: PkiSpec, stored: Sequence[Mapping[str, Any]], wanted: Sequence[Any], whole: bool) -> bool:
    """Whether ca.crt has to be written. stored: what is in it. wanted: certificates. whole: whether their order matters.

    While a CA is rotated, hosts may differ in the order, and in the CAs beside the one that signs. That is left to the rotation.
    """
    found, given = [item["fingerprint"] for item in stored], [*map(_x509.certificate_fingerprint, wanted)]
    if whole:
        return found != given
    return {*found} != {*given} if spec.first_ca_only else not {*given[:1]} <= {*found}


def authority_facts(certificate: Any) -> dict[str, Any]:
    """A CA for results: what a renewal keeps (id), hashes of its certificate, of its public key (key) and of its name (name), and its name as text.

    cert: the certificate itself, PEM.
    """
    return {
        "id": authority_id(certificate),
        "fingerprint": _x509.certificate_fingerprint(certificate),
        "key": _x509.public_fingerprint(certificate.public_key()),
        "name": _x509.name_id(certificate),
        "subject": common_name(certificate.subject),
        "cert": certificate_pem(certificate),
    }


# On the CA host, the CA that takes over when all trust it.
NEXT = "etcd/ca-next"


def next_ca(spec: PkiSpec) -> dict[str, Any] | None:
    """The CA that takes over on this host, and whether its key is there; None if there is none, or if it cannot be read."""
    certificate = load_certificate(read_or_say(spec.path(NEXT + ".crt"))[0])
    if certificate is None:
        return None
    key = _x509.load_key(read_or_say(spec.path(NEXT + ".key"))[0])
    fits = key is not None and _x509.same_key(key.public_key(), certificate.public_key())
    return {**authority_facts(certificate), "has_key": fits}


def former_cas(spec: PkiSpec, now: datetime) -> list[dict[str, Any]]:
    """CAs that this host had before, and for how many seconds they have been that."""
    found = []
    for path in sorted(glob.glob(os.path.join(glob.escape(spec.former), "*.crt"))):
        certificate = load_certificate(read_or_say(path)[0])
        if certificate is not None:
            found.append({**authority_facts(certificate), "age": now.timestamp() - os.stat(path).st_mtime})
    return found


def _short(spec: PkiSpec, path: str) -> str:
    """A path for a reason: relative to pki_dir, or to the parent of work_dir."""
    inside = path.startswith(spec.pki_dir + os.sep)
    return os.path.relpath(path, spec.pki_dir if inside else os.path.dirname(spec.work_dir))


# The text for a ca.crt that is replaced by another certificate with the same key.
RENEWED = "another certificate of the same CA"


def _short_warnings(spec: PkiSpec, certificates: list[Any], authority: Any) -> list[str]:
    """A warning if the CA issues certificates for a shorter time than the renewal window needs."""
    lives = [
        not_after(certificate) - not_before(certificate)
        for certificate in certificates
        if certificate is not None
        and renewal_window(spec, certificate) < spec.renewal_window
        and not ends_with_its_ca(certificate, authority)
    ]
    if not lives:
        return []
    days = min(lives).total_seconds() / 86400
    return [
        f"the CA issued certificates for {days:.0f} days, too short for etcd_certificate_renewal_window"
        f" ({spec.renewal_window.total_seconds() / 86400:.0f} days). They are renewed in the last third of their life instead, the last"
        f" {days / 3:.0f} days. Set etcd_certificate_renewal_window to that or less, and run site.yml in time."
    ]


def _observe_authority(
    spec: PkiSpec,
    state: PkiState,
    authority: Any,
    problem: str,
    key_data: bytes | None,
    key_problem: str,
    now: datetime,
) -> None:
    """Add the problems and warnings about the CA's files on the host that a run does not repair."""
    key = _x509.load_key(key_data)
    if key is not None:
        state.ca_public_key = _x509.public_fingerprint(key.public_key())
    if not spec.ca_host:
        # A broken or foreign ca.crt of a member is replaced. A stray ca.key is left to the user to judge.
        if state.ca_key:
            state.warnings.append(_stray_warning(spec, state, key, key_problem))
        return
    if authority is not None:
        texts = authority_problems(authority, key, now, "etcd/ca.crt", "etcd/ca.key")
        # Members that run are not affected.
        state.ca_problems += [Problem(text, (FOUND, SIGN), code="ca-unusable") for text in texts]
        state.warnings += authority_warnings(spec, authority, now)
    elif problem != "missing":
        state.ca_problems.append(
            Problem(
                f"etcd/ca.crt is {problem}. Copy it back from another member: all have the same file. Only if this cluster has never run, move"
                " ca.crt and ca.key to another directory, and the next run makes a new CA. Members that run would reject a new CA.",
                code="ca-unusable",
            )
        )
    if state.ca_key and key is None and (key_data is None or not _x509.is_encrypted(key_data)):
        text = (
            f"etcd/ca.key is {key_problem or 'not a private key in PEM form'}. Put a copy of the key back. If the key is lost, move the file away:"
            " the cluster keeps running, but no certificate can be issued."
        )
        state.ca_problems.append(Problem(text, (FOUND, SIGN), code="ca-key-unusable"))
    elif state.ca_key and key is None:
        text = "etcd/ca.key is encrypted, and neither kubeadm nor this collection can use it. Decrypt it on the host (openssl pkey)."
        state.ca_problems.append(Problem(text, (FOUND, SIGN), code="ca-key-encrypted"))


def _stray_warning(spec: PkiSpec, state: PkiState, key: Any, problem: str) -> str:
    """The warning about a ca.key on a host that is not the CA host."""
    path = spec.path("etcd/ca.key")
    if key is None:
        return f"{path} exists, although this is not the CA host, and it is {problem or 'not a readable private key'}. Move it away."
    if state.ca_cert_key not in (None, state.ca_public_key):
        return f"{path} exists, although this is not the CA host, and it is the key of another CA. Move it to the place where that CA is kept."
    removal = (
        "If the CA host has the same key, remove this copy: a run with etcd_remove_stray_ca_keys: true compares the keys and removes it. Otherwise run"
        " move_ca.yml, which moves the key to the CA host, or set etcd_ca_host to this host."
        if spec.kinds == LEAF_NAMES
        else "Remove it by hand, unless an etcd on this host needs it to issue certificates."
    )
    return f"{path} exists, although this is not the CA host. With this key anyone can issue certificates for the cluster. {removal}"


def authority_warnings(spec: PkiSpec, authority: Any, now: datetime) -> list[str]:
    """A warning if the CA expires within the renewal window: its certificate has to be renewed with the same key."""
    end = not_after(authority)
    if not end - spec.renewal_window <= now < end:
        return []
    way_out = (
        "Give it another certificate over the same key"
        if _x509.same_name(authority.subject, authority.issuer)
        else "Have its issuer renew this CA's certificate with the same key, name it in etcd_ca_cert"
    )
    return [
        f"the CA expires on {end:%Y-%m-%d}, in {(end - now).days} days, and no certificate can last longer. {way_out}, and have all members load it before that"
        ' day: rotate_ca.yml -e etcd_ca_same_key=true (docs/certificates.md, "The CA expires").'
    ]


# Which CA a running etcd trusts, compared with the installed ca.crt. INSTALLED: the same certificate. EARLIER: an earlier certificate of
# the same CA. FORMER: another CA, which was there when etcd started. UNTRUSTED: etcd rejects the present leaves, and ca.crt has not signed
# them, so leaves from ca.crt cannot be worse. UNPROVEN: no leaf is left to test with, and ca.crt was written after etcd started.
INSTALLED, EARLIER, FORMER, UNTRUSTED = "installed", "earlier", "former", "untrusted"
UNPROVEN, UNKNOWN = "unproven", "unknown"


def trusted_ca(
    pki_dir: str, started: float, accepts: Callable[[str, str], bool | None], now: datetime, stale: bool = False
) -> str:
    """Which CA a running etcd trusts. started: its start (Unix time). accepts: see accepts_client in _etcd/client.py.
    stale: whether it has mounted a directory other than the present pki_dir.

    etcd reads ca.crt once, when it starts, and the leaves at each handshake. So whether it accepts a client with one of the leaves shows
    whether it trusts the CA of that leaf.
    """
    path = os.path.join(pki_dir, "etcd/ca.crt")
    authorities = _x509.load_certificates(read_or_say(path)[0])
    if not authorities or not started:
        return UNKNOWN
    authority = authorities[0]
    pairs, leaves = [], 0
    for place in (place for place, *_rest in LEAVES.values()):
        cert, key = (os.path.join(pki_dir, place + end) for end in (".crt", ".key"))
        leaf, private = load_certificate(read_or_say(cert)[0]), _x509.load_key(read_or_say(key)[0])
        leaves += leaf is not None
        fits = leaf is not None and private is not None and _x509.same_key(private.public_key(), leaf.public_key())
        # etcd rejects an expired certificate, whichever CA signed it.
        if fits and not_before(leaf) <= now < not_after(leaf) and "clientAuth" in usages_of(leaf):
            pairs.append((issuer_of(leaf, authorities) is None, cert, key))
    refused = False
    for foreign, cert, key in sorted(pairs):
        accepted = accepts(cert, key)
        if accepted and not foreign:
            # A CA may backdate its certificates, so a file that was written since the start counts as renewed too.
            return EARLIER if max(not_before(authority).timestamp(), os.stat(path).st_mtime) > started else INSTALLED
        if accepted or (accepted is False and not foreign):
            return FORMER
        refused = refused or accepted is False
    # etcd does not trust the CA of the leaves. If ca.crt has not changed since etcd started, etcd has read this file.
    if not refused:
        # No leaf is left to test with. If ca.crt was written since the start, etcd may have read another CA.
        return UNPROVEN if not leaves and os.stat(path).st_mtime > started else UNKNOWN
    return INSTALLED if not stale and os.stat(path).st_ctime < started else UNTRUSTED


def described(leaf: Leaf, flaws: list[Flaw], now: datetime) -> dict[str, Any]:
    """A certificate for results: its content, the days until it expires, and the codes of its flaws."""
    days = (not_after(leaf.certificate) - now).total_seconds() // 86400
    return {**describe(leaf.kind, leaf.certificate), "days_left": int(days), "reasons": [flaw.code for flaw in flaws]}
