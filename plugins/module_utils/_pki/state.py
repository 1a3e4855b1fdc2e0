# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The PKI of one host: what it is to be, what is there, and why that is not kept. _pki_steps mends it.

Certificates are as kubeadm makes them (kubeadm certs.go and pki_helpers.go; figures were read off certificates of
kubeadm 1.29 to 1.37). Private keys are written to their place or to the pending directory, and go nowhere else.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Callable, Mapping
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
    # Where peers and clients look for the member now, if that is about to change.
    "known_addresses": {"type": "list", "elements": "str", "default": []},
    # A control plane host has one of them only.
    "kinds": {"type": "list", "elements": "str", "default": list(LEAF_NAMES), "choices": list(LEAF_NAMES)},
    "renewal_window": {"type": "str", "default": "2160h"},
    "ca_host": {"type": "bool", "default": False},
    "renew": {"type": "list", "elements": "str", "default": [], "choices": ["all", *LEAF_NAMES]},
    "renew_keys": {"type": "bool", "default": False},
}

# kubeadm names of the leaves, their place under pki_dir, common name ('' = the member's), and whether they serve.
LEAVES = {
    "server": ("etcd/server", "", True),
    "peer": ("etcd/peer", "", True),
    "healthcheck-client": ("etcd/healthcheck-client", "kube-etcd-healthcheck-client", False),
    "apiserver-etcd-client": ("apiserver-etcd-client", "kube-apiserver-etcd-client", False),
}

_MODES = {".crt": 0o644, ".key": 0o600}

# kubeadm, CertificateBackdate: clocks of the members may differ a little.
BACKDATE = timedelta(minutes=5)

# From 1.35 on kubeadm derives the CA's key identifier by SHA-256, cut to 20 bytes (RFC 7093), before by SHA-1.
SHA256_SKI_MINOR = 35


def split_sans(sans: list[str]) -> tuple[list[str], list[str]]:
    """Names and addresses of a list of SANs. Addresses in one spelling."""
    names = [san for san in sans if not is_address(san)]
    return names, [str(ipaddress.ip_address(san)) for san in sans if is_address(san)]


@dataclass(frozen=True)
class PkiSpec:
    """What the PKI of a host is to be."""

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

    @classmethod
    def from_params(cls, params: Mapping[str, Any]) -> PkiSpec:
        """From options of the module; missing ones get their default. EtcdError names what is wrong."""
        value = {key: params.get(key, argument.get("default")) for key, argument in ARGUMENTS.items()}
        value = {key: ARGUMENTS[key].get("default") if item is None else item for key, item in value.items()}
        # Values inside a mapping have not been converted by Ansible.
        value["kubernetes_version"] = str(value["kubernetes_version"] or "")
        for key in ("server_cert_sans", "peer_cert_sans"):
            value[key] = [str(san) for san in value[key]]
        kinds = tuple(kind for kind in LEAF_NAMES if kind in value["kinds"])
        problems = []
        # Only what serves is called by an address.
        if any(LEAVES[kind][2] for kind in kinds) and not is_address(value["address"]):
            problems.append(f"etcd_address {value['address']!r} is no IP address.")
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
                f" etcd_certificate_validity_period ({value['certificate_validity_period']}): every run would re-issue"
                " every certificate. Make it shorter."
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
        )

    def path(self, name: str) -> str:
        """A file under pki_dir."""
        return os.path.join(self.pki_dir, name)

    @property
    def pending(self) -> str:
        """Where keys wait for their certificate."""
        return os.path.join(self.work_dir, "pending")

    @property
    def transport(self) -> str:
        """A key that exists while the CA's key or a passphrase is on its way here. A dot file, which is swept where a run was killed."""
        return os.path.join(self.work_dir, TEMPORARY + "transport.key")

    @property
    def claim(self) -> str:
        """A file that exists while a run relies on the ca.key of this host, and removes others. A dot file, as above."""
        return os.path.join(self.work_dir, TEMPORARY + "ca-key-stays")

    @property
    def lock(self) -> str:
        """Held by the run that changes this host."""
        return os.path.join(self.work_dir, "lock")

    def common_name(self, kind: str) -> str:
        """The subject of a leaf."""
        return LEAVES[kind][1] or self.name

    def wanted_sans(self, kind: str) -> list[str]:
        """SANs of a leaf in kubeadm's order: names sorted; addresses own, loopback, further ones, former ones. No duplicates."""
        if kind not in self.sans:
            return []
        names, addresses = self.sans[kind]
        return [
            *sorted({self.name, "localhost", *names}),
            *dict.fromkeys([self.address, "127.0.0.1", "::1", *addresses, *self.known]),
        ]


@dataclass
class PkiState:
    """What is on a host. Certificates only, never a key."""

    # Of ca.crt: its text, SHA-256 of the certificate, of its public key, and what a renewal of it keeps (_x509.authority_id).
    ca_cert: str | None = None
    ca_fingerprint: str | None = None
    ca_cert_key: str | None = None
    ca_id: str | None = None
    ca_key_id: str | None = None
    ca_subject: str | None = None
    ca_not_before: str | None = None
    ca_not_after: str | None = None
    # Of ca.key: whether there is something of that name, and SHA-256 of its public half.
    ca_key: bool = False
    ca_public_key: str | None = None
    # Kinds of the leaves that ca.crt did not sign, and whether a member could start with the leaves as they are.
    foreign: list[str] = field(default_factory=list)
    usable: bool = True
    # Kinds of the leaves that have to be issued. Other reasons (modes, files of a killed run) need nobody who signs.
    due: list[str] = field(default_factory=list)
    ca_problems: list[Problem] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    reasons: list[Reason] = field(default_factory=list)
    certificates: list[dict[str, Any]] = field(default_factory=list)


# --- Reading -----------------------------------------------------------------------------------------------------------


def wanted_usages(kind: str) -> list[str]:
    """Extended key usages of a leaf. A server needs clientAuth too: etcd's gateway dials its own listener."""
    return ["serverAuth", "clientAuth"] if LEAVES[kind][2] else ["clientAuth"]


# --- Judging -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Flaw:
    """Why a certificate is not kept. code: stable, for programs; text: for people; new_key: its key cannot be kept."""

    code: str
    text: str
    new_key: bool = False


@dataclass(frozen=True)
class Leaf:
    """A certificate and its key as found. The problems say why one of them is None; the key is in no output."""

    kind: str
    certificate: Any = None
    certificate_problem: str = ""
    key: Any = field(default=None, repr=False)
    key_problem: str = ""


def read_leaf(spec: PkiSpec, kind: str) -> Leaf:
    """What is in the two files of a leaf. Never raises."""
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
        key_problem or ("" if key else "no private key that can be used"),
    )


def leaf_flaws(spec: PkiSpec, leaf: Leaf, authority: Any, now: datetime) -> list[Flaw]:
    """Every reason why a certificate is not kept; none where it is. The one place that decides this.

    authority: the CA that counts, or None where it is not known yet.
    """
    flaws: list[Flaw] = []

    def found(code: str, text: str, new_key: bool = False) -> None:
        flaws.append(Flaw(code, text, new_key))

    if leaf.certificate is None:
        found("missing" if leaf.certificate_problem == "missing" else "unreadable", leaf.certificate_problem)
    if leaf.key is None:
        found("key-missing" if leaf.key_problem == "missing" else "key-unreadable", f"key: {leaf.key_problem}", True)
    elif algorithm_of(leaf.key.public_key()) != spec.algorithm:
        found("key-algorithm", f"key is {algorithm_of(leaf.key.public_key())}, not {spec.algorithm}", True)
    certificate = leaf.certificate
    if certificate is not None:
        if leaf.key is not None and not _x509.same_key(leaf.key.public_key(), certificate.public_key()):
            found("key-mismatch", "its key belongs to another certificate", True)
        if authority is not None and not _x509.signed_by(certificate, authority):
            found("other-ca", f"signed by another CA ({common_name(certificate.issuer)})")
        elif authority is not None and _x509.names_another_key(certificate, authority):
            # Go does not look at it, OpenSSL (and so Python) does.
            found("issuer-key", "its authority key identifier is not that of the CA's key")
        flaws += _content_flaws(spec, leaf.kind, certificate)
        flaws += _time_flaws(spec, certificate, authority, now)
    if ("all" in spec.renew or leaf.kind in spec.renew) and certificate is not None:
        found("asked-for", "asked for" + (" with a new key" if spec.renew_keys else ""), spec.renew_keys)
    return flaws


def _content_flaws(spec: PkiSpec, kind: str, certificate: Any) -> list[Flaw]:
    """Where a certificate says something else than it should."""
    flaws = []
    subject, wanted_subject = common_name(certificate.subject), spec.common_name(kind)
    if subject != wanted_subject:
        # A certificate of another name may have come with its key from another host: that key must not stay.
        flaws.append(Flaw("subject", f"subject is {subject}, not {wanted_subject}", True))
    sans, wanted = sans_of(certificate), spec.wanted_sans(kind)
    if sorted(sans) != sorted(wanted):
        lost, gained = [s for s in wanted if s not in sans], [s for s in sans if s not in wanted]
        words = [f"without {', '.join(lost)}"] if lost else []
        words += [f"with {', '.join(gained)}"] if gained else []
        flaws.append(Flaw("sans", f"names and addresses are {' and '.join(words) or 'repeated'}"))
    usages = sorted(usages_of(certificate))
    if usages != sorted(wanted_usages(kind)):
        flaws.append(Flaw("usages", f"usages are {', '.join(usages) or 'none'}"))
    key_usages = _x509.key_usages_of(certificate)
    if key_usages != ["digitalSignature", "keyEncipherment"]:
        flaws.append(Flaw("key-usages", f"key usages are {', '.join(key_usages) or 'none'}"))
    if _x509.weak_hash(certificate):
        flaws.append(Flaw("signature", f"signed with {_x509.weak_hash(certificate)}, which etcd does not accept"))
    if _x509.is_authority(certificate):
        flaws.append(Flaw("authority", "may sign other certificates (CA:TRUE)"))
    return flaws


# A CA that gives no longer certificates than its own may cut off seconds.
_ENDS_WITH_CA = timedelta(minutes=1)


def ends_with_its_ca(certificate: Any, authority: Any) -> bool:
    """Whether no certificate could last longer than this one, since the CA itself ends then."""
    return authority is not None and not_after(certificate) >= not_after(authority) - _ENDS_WITH_CA


def renewal_window(spec: PkiSpec, certificate: Any) -> timedelta:
    """How long before its end a certificate is to be renewed.

    The last third of its life at most, if the CA gave it a shorter life than was asked for: a CA that signs elsewhere gives what it
    gives, and would be asked again by every run if all of that were within the window.
    """
    life = not_after(certificate) - not_before(certificate)
    return min(spec.renewal_window, life / 3) if life < spec.validity else spec.renewal_window


def _time_flaws(spec: PkiSpec, certificate: Any, authority: Any, now: datetime) -> list[Flaw]:
    """Where it is too early or too late for a certificate, or soon will be."""
    begin, end = not_before(certificate), not_after(certificate)
    if now < begin:
        return [Flaw("not-yet-valid", f"not valid before {begin:%Y-%m-%d %H:%M} UTC")]
    if now >= end:
        return [Flaw("expired", f"expired on {end:%Y-%m-%d}")]
    if now >= end - renewal_window(spec, certificate) and not ends_with_its_ca(certificate, authority):
        return [Flaw("window", f"{(end - now).days} days left of {(end - begin).days}")]
    return []


def leaf_reason(kind: str, flaws: list[Flaw]) -> Reason:
    """What is done to one certificate, and why."""
    codes = {flaw.code for flaw in flaws}
    verb = "renewed" if codes <= {"window", "asked-for"} else "issued" if "missing" in codes else "issued again"
    text = f"{LEAVES[kind][0]}.crt: {verb}, " + ", ".join(flaw.text for flaw in flaws)
    return Reason("certificates", verb.replace(" ", "-"), text)


def judge(spec: PkiSpec, authority: Any, now: datetime) -> dict[str, tuple[Leaf, list[Flaw]]]:
    """Every leaf that the host is to have, and why it is not kept."""
    leaves = {kind: read_leaf(spec, kind) for kind in spec.kinds}
    return {kind: (leaf, leaf_flaws(spec, leaf, authority, now)) for kind, leaf in leaves.items()}


def file_modes(spec: PkiSpec) -> dict[str, int]:
    """Every file that a host has, below pki_dir, and its mode (kubeadm, pki_helpers.go)."""
    leaves = [(f"{LEAVES[kind][0]}{end}", mode) for kind in spec.kinds for end, mode in _MODES.items()]
    return {**dict(leaves), "etcd/ca.crt": 0o644}


def directories(spec: PkiSpec) -> list[str]:
    """Directories that hold keys. Who may write there may put other files in their place."""
    return [spec.pki_dir, spec.path("etcd"), spec.work_dir]


def mode_reasons(spec: PkiSpec) -> list[Reason]:
    """Files whose mode or owner is not kubeadm's, and directories that others may write to. Repaired without being written again."""
    found = [(path, directory_problem(path)) for path in directories(spec)]
    found += [
        (name, mode_problem(spec.path(name), mode))
        for name, mode in file_modes(spec).items()
        if not os.path.isdir(spec.path(name))
    ]
    return [Reason("certificates", "mode", f"{name}: {problem}") for name, problem in found if problem]


# The least that Go (etcd, kube-apiserver) and every TLS library of today accept.
LEAST_RSA_BITS = 2048


def authority_problems(certificate: Any, key: Any, now: datetime, cert_name: str, key_name: str) -> list[str]:
    """Why a pair cannot be the CA: what etcd, kube-apiserver (crypto/x509 of Go) or kubeadm would refuse.

    key None: not looked at.
    """
    if certificate is None:
        return [f"{cert_name} is no PEM certificate."]
    problems: list[str] = []
    if not _x509.is_authority(certificate):
        problems.append(
            f"{cert_name} is no CA certificate (basicConstraints CA:TRUE is missing). Use one that may sign."
        )
    key_usages = _x509.key_usages_of(certificate)
    if key_usages and "keyCertSign" not in key_usages:
        problems.append(f"{cert_name} may not sign certificates (its key usage lacks keyCertSign). Use one that may.")
    usages = usages_of(certificate)
    if usages and "2.5.29.37.0" not in usages and not {"serverAuth", "clientAuth"} <= set(usages):
        problems.append(
            f"{cert_name} may only sign for {', '.join(usages)}: etcd would refuse what it signs. Use a CA for serverAuth and"
            " clientAuth, or one without extended key usage."
        )
    forbidden = _x509.forbidden_names(certificate, ["localhost", "127.0.0.1", "::1"])
    if forbidden:
        problems.append(
            f"{cert_name} has name constraints that do not allow {', '.join(forbidden)}, which are in every server"
            " certificate of kubeadm. Use a CA without them, or have them permitted."
        )
    if now >= not_after(certificate):
        problems.append(f"{cert_name} expired on {not_after(certificate):%Y-%m-%d}. Use a CA that is valid.")
    if now < not_before(certificate):
        problems.append(f"{cert_name} is not valid before {not_before(certificate):%Y-%m-%d %H:%M} UTC.")
    algorithm = algorithm_of(certificate.public_key())
    if algorithm.split("-")[0] not in ("RSA", "ECDSA"):
        problems.append(f"{cert_name} has a key that kubeadm does not take ({algorithm}). Use RSA or ECDSA.")
    elif algorithm.startswith("RSA-") and int(algorithm[4:]) < LEAST_RSA_BITS:
        problems.append(f"{cert_name} has a key of {algorithm[4:]} bits, which is too weak. Use RSA-2048 or more.")
    elif key is not None and not _x509.same_key(key.public_key(), certificate.public_key()):
        problems.append(
            f"{key_name} does not belong to {cert_name}: it is the key of another certificate (where the file holds"
            " several, the first has to be the one that signs)."
        )
    return problems


def chain_problems(certificates: list[Any], cert_name: str) -> list[str]:
    """Where the certificates after the first one do not lead upwards from it, each signed by the next."""
    return [
        f"{cert_name}: certificate {number} ({common_name(lower.subject)}) was not signed by the one after it"
        f" ({common_name(upper.subject)}). The one that signs comes first, then who signed it, up to the root."
        for number, (lower, upper) in enumerate(zip(certificates, certificates[1:]), start=1)
        if not _x509.signed_by(lower, upper)
    ]


def check_own_ca(cert_pem: str, key_pem: str | None, passphrase: str, now: datetime) -> list[str]:
    """Problems of a user's own CA, in words. Says nothing of the key but that it does not fit.

    key_pem None: the key is elsewhere.
    """
    certificates, unreadable = _x509.parse_certificates(cert_pem.encode())
    if unreadable:
        return [f"etcd_ca_cert is {unreadable}. Name a PEM file of a CA that it can read."]
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
        problems.append("etcd_ca_key is no private key in PEM form. Name the file that holds the CA's key.")
    return problems


def signing_certificate(cert_pem: str) -> str:
    """What has to stand in ca.crt of a user's CA file: the certificate that signs, without those above it.

    For Go a certificate in ca.crt is trusted as it is, so the intermediate is enough (seen with etcd 3.6.14); with its
    root beside it, whatever else that root has signed would be let in as a client, and a client of etcd may do all.
    """
    return certificate_pem(load_certificate(cert_pem.encode()))


def observe(spec: PkiSpec, now: datetime, ca_cert: str | None = None) -> PkiState:
    """What is on the host, and why its leaves have to be re-issued. ca_cert: the CA that counts, else the one there."""
    state = PkiState()
    stored, stored_problem = read_or_say(spec.path("etcd/ca.crt"))
    key_data, key_problem = read_or_say(spec.path("etcd/ca.key"))
    authorities, unreadable = _x509.parse_certificates(stored)
    authority = next(iter(authorities), None)
    stored_problem = stored_problem or unreadable
    state.ca_key = key_problem != "missing"
    if authority is not None and stored is not None:
        # Not the text of the file: it may hold the key as well.
        state.ca_cert = "".join(map(certificate_pem, authorities))
        state.ca_fingerprint = fingerprint(state.ca_cert)
        state.ca_cert_key = _x509.public_fingerprint(authority.public_key())
        state.ca_id = authority_id(authority)
        state.ca_key_id = _x509.key_identifier_of(authority)
        state.ca_subject = common_name(authority.subject)
        state.ca_not_before = not_before(authority).isoformat()
        state.ca_not_after = not_after(authority).isoformat()
    if stored is not None and b"PRIVATE KEY" in stored:
        state.warnings.append(
            "etcd/ca.crt holds a private key, and everyone on the host can read it. Take the key out of the file. If it is the CA's, someone"
            " else may have it: exchange the CA."
        )
    if len(authorities) > 1:
        others = ", ".join(common_name(item.subject) for item in authorities[1:])
        state.warnings.append(
            f"etcd/ca.crt also trusts {others}: whoever has a certificate of theirs may read and write all data."
        )
    _observe_authority(spec, state, authority, stored_problem, key_data, key_problem, now)
    wanted = load_certificate(ca_cert.encode()) if ca_cert else authority
    if ca_cert and state.ca_fingerprint != fingerprint(ca_cert):
        same = authority is not None and authority_id(wanted) == state.ca_id
        text = "etcd/ca.crt: " + (stored_problem or (RENEWED if same else "another CA"))
        state.reasons.append(Reason("certificates", "ca", text))
    elif not ca_cert and authority is None and not spec.ca_host:
        state.reasons.append(Reason("certificates", "ca", f"etcd/ca.crt: {stored_problem}"))
    judged = judge(spec, wanted, now)
    for kind, (leaf, flaws) in judged.items():
        if flaws:
            state.reasons.append(leaf_reason(kind, flaws))
            state.due.append(kind)
            state.usable = state.usable and {flaw.code for flaw in flaws} <= {"window", "asked-for"}
        if leaf.certificate is not None:
            state.certificates.append(described(leaf, flaws, now))
            if authority is not None and not _x509.signed_by(leaf.certificate, authority):
                state.foreign.append(kind)
        for path in (spec.path(LEAVES[kind][0] + end) for end in _MODES):
            try:
                make_way(path)
            except EtcdError as exc:
                state.ca_problems.append(Problem(str(exc), code="in-the-way"))
    state.warnings += _short_warnings(spec, [leaf.certificate for leaf, _flaws in judged.values()], wanted)
    for path in (spec.pki_dir, spec.path("etcd")):
        if os.path.lexists(path) and not os.path.isdir(path):
            text = f"{path} is not a directory. Certificates and keys belong there: move it away, and run again."
            state.ca_problems.append(Problem(text, code="not-a-directory"))
    state.reasons += mode_reasons(spec)
    for path in (path for directory in directories(spec) for path in strays(directory)):
        text = f"{_short(spec, path)}: left behind by a run that was killed"
        state.reasons.append(Reason("certificates", "left-behind", text))
    return state


def _short(spec: PkiSpec, path: str) -> str:
    """A path as reasons name it: below pki_dir, others by their directory."""
    inside = path.startswith(spec.pki_dir + os.sep)
    return os.path.relpath(path, spec.pki_dir if inside else os.path.dirname(spec.work_dir))


# What a ca.crt is that another certificate over the same key is to replace.
RENEWED = "another certificate of the same CA"


def _short_warnings(spec: PkiSpec, certificates: list[Any], authority: Any) -> list[str]:
    """Certificates of a CA that gives shorter lives than the window needs."""
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
        f"the CA gave certificates for {days:.0f} days, and etcd_certificate_renewal_window is"
        f" {spec.renewal_window.total_seconds() / 86400:.0f} days. They are renewed in the last third of their life, the last"
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
    """What is wrong with the CA's files on the host, as far as it would not be mended by itself."""
    key = _x509.load_key(key_data)
    if key is not None:
        state.ca_public_key = _x509.public_fingerprint(key.public_key())
    if not spec.ca_host:
        # A broken or foreign ca.crt of a member is replaced; a key that does not belong here is somebody's decision.
        if state.ca_key:
            state.warnings.append(_stray_warning(spec, state, key, key_problem))
        return
    if authority is not None:
        texts = authority_problems(authority, key, now, "etcd/ca.crt", "etcd/ca.key")
        # Members run with it as they are.
        state.ca_problems += [Problem(text, (FOUND, SIGN), code="ca-unusable") for text in texts]
        state.warnings += authority_warnings(spec, authority, now)
    elif problem != "missing":
        state.ca_problems.append(
            Problem(
                f"etcd/ca.crt is {problem}. Put back a copy: every member has the same file. Only if this"
                " cluster has never run, move it and ca.key to another directory, and the next run makes a new CA. Members that run would reject it.",
                code="ca-unusable",
            )
        )
    if state.ca_key and key is None and (key_data is None or not _x509.is_encrypted(key_data)):
        text = (
            f"etcd/ca.key is {key_problem or 'no private key in PEM form'}. Put back a copy of it, or move it away if it is"
            " lost: the cluster goes on without, but nothing can be signed."
        )
        state.ca_problems.append(Problem(text, (FOUND, SIGN), code="ca-key-unusable"))
    elif state.ca_key and key is None:
        text = "etcd/ca.key is encrypted: kubeadm cannot use it so. Decrypt it there (openssl pkey)."
        state.ca_problems.append(Problem(text, (FOUND, SIGN), code="ca-key-encrypted"))


def _stray_warning(spec: PkiSpec, state: PkiState, key: Any, problem: str) -> str:
    """What is called ca.key on a host that is not the CA host."""
    path = spec.path("etcd/ca.key")
    if key is None:
        return f"{path} is here, although this is not the CA host, and it is {problem or 'not a key that can be read'}. Move it away."
    if state.ca_cert_key not in (None, state.ca_public_key):
        return f"{path} is here, although this is not the CA host, and it is the key of another CA. Move it to where that CA is kept."
    removal = (
        "If the CA host has the same key, remove it here (a run with etcd_remove_stray_ca_keys: true compares them and does so). Else run"
        " move_ca.yml, which brings it to the CA host, or set etcd_ca_host."
        if spec.kinds == LEAF_NAMES
        else "Remove it by hand, unless an etcd runs here that has to sign."
    )
    return f"{path} is here, although this is not the CA host. Whoever reads it may sign for everybody. {removal}"


def authority_warnings(spec: PkiSpec, authority: Any, now: datetime) -> list[str]:
    """What to do about a CA that ends within the renewal window: a renewed certificate over the same key takes its place."""
    end = not_after(authority)
    if not end - spec.renewal_window <= now < end:
        return []
    directory = spec.path("etcd")
    way_out = (
        f"Renew the CA's certificate over the same key, on this host: cd {directory} && openssl x509 -in ca.crt -signkey ca.key"
        " -days 3650 -set_serial 0x$(openssl rand -hex 8) -out ca.crt.new && mv ca.crt.new ca.crt"
        if _x509.same_name(authority.subject, authority.issuer)
        else f"Have the CA above it renew this CA's certificate, over the same key, and put that into {directory}/ca.crt (or etcd_ca_cert)"
    )
    return [
        f"the CA ends on {end:%Y-%m-%d}, in {(end - now).days} days, and certificates cannot last longer. {way_out}. Then run"
        f' playbooks/renew_certificates.yml, and restart the members one after the other before {end:%Y-%m-%d} (docs/certificates.md, "The CA expires").'
    ]


# What a running etcd trusts, compared with ca.crt as it is installed: the same certificate, an earlier one of the same CA, the CA
# that was there before, or it cannot be told. UNTRUSTED: it refuses the certificates that are there, which ca.crt has not signed: others
# of ca.crt cannot be worse.
INSTALLED, EARLIER, FORMER, UNTRUSTED = "installed", "earlier", "former", "untrusted"
UNPROVEN, UNKNOWN = "unproven", "unknown"


def trusted_ca(
    pki_dir: str, started: float, accepts: Callable[[str, str], bool | None], now: datetime, stale: bool = False
) -> str:
    """Which CA a running etcd trusts. started: when it was started (Unix time). accepts: see accepts_client in _etcd/client.py.
    stale: whether it sees another directory than pki_dir.

    etcd reads ca.crt once, when it starts, and the leaves at each handshake. So what it says to a client with one of the leaves
    tells whether it trusts who signed that leaf.
    """
    path = os.path.join(pki_dir, "etcd/ca.crt")
    authority = load_certificate(read_or_say(path)[0])
    if authority is None or not started:
        return UNKNOWN
    pairs, leaves = [], 0
    for place in (place for place, *_rest in LEAVES.values()):
        cert, key = (os.path.join(pki_dir, place + end) for end in (".crt", ".key"))
        leaf, private = load_certificate(read_or_say(cert)[0]), _x509.load_key(read_or_say(key)[0])
        leaves += leaf is not None
        fits = leaf is not None and private is not None and _x509.same_key(private.public_key(), leaf.public_key())
        # An expired one is refused whoever signed it.
        if fits and not_before(leaf) <= now < not_after(leaf) and "clientAuth" in usages_of(leaf):
            pairs.append((not _x509.signed_by(leaf, authority), cert, key))
    refused = False
    for foreign, cert, key in sorted(pairs):
        accepted = accepts(cert, key)
        if accepted and not foreign:
            # A CA may date its certificates back: a file that was written since has been renewed as well.
            return EARLIER if max(not_before(authority).timestamp(), os.stat(path).st_mtime) > started else INSTALLED
        if accepted or (accepted is False and not foreign):
            return FORMER
        refused = refused or accepted is False
    # It does not trust who signed the leaves: a ca.crt that has not been touched since its start is what it has read.
    if not refused:
        # Nothing is left that could prove which CA it trusts, and ca.crt was written after it had read another file, or the same.
        return UNPROVEN if not leaves and os.stat(path).st_mtime > started else UNKNOWN
    return INSTALLED if not stale and os.stat(path).st_ctime < started else UNTRUSTED


def described(leaf: Leaf, flaws: list[Flaw], now: datetime) -> dict[str, Any]:
    """A certificate for results: what it says, how long it lasts, and why it is not kept."""
    days = (not_after(leaf.certificate) - now).total_seconds() // 86400
    return {**describe(leaf.kind, leaf.certificate), "days_left": int(days), "reasons": [flaw.code for flaw in flaws]}
