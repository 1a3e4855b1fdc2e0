# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The PKI of one host: what is there, why it differs from what is wanted, and the four steps that mend it.

Certificates are as kubeadm makes them (kubeadm certs.go and pki_helpers.go; figures were read off certificates of
kubeadm 1.29 to 1.37). Private keys are written to their place or to the pending directory, and go nowhere else.
"""

from __future__ import annotations

import hashlib
import ipaddress
import os
import re
import shutil
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import Any

from ansible_collections.kubeadm.etcd.plugins.module_utils._cluster import is_address
from ansible_collections.kubeadm.etcd.plugins.module_utils._errors import EtcdError
from ansible_collections.kubeadm.etcd.plugins.module_utils._files import (
    ensure_directory,
    mode_problem,
    read_bytes,
    remove_strays,
    replace_file,
    set_mode,
)
from ansible_collections.kubeadm.etcd.plugins.module_utils._kubeadm import (
    CONFIG_ARGUMENTS,
    duration_problems,
    duration_seconds,
    san_problems,
)

CRYPTOGRAPHY_VERSION: str | None
try:
    import cryptography
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    CRYPTOGRAPHY_VERSION = str(cryptography.__version__)
except ImportError:
    CRYPTOGRAPHY_VERSION = None

HAS_CRYPTOGRAPHY = CRYPTOGRAPHY_VERSION is not None

ARGUMENTS: dict[str, dict[str, Any]] = {
    "pki_dir": {"type": "path", "default": "/etc/kubernetes/pki"},
    "work_dir": {"type": "path", "default": "/etc/kubernetes/kubeadm-etcd"},
    **{
        key: CONFIG_ARGUMENTS[key]
        for key in (
            *("name", "address", "server_cert_sans", "peer_cert_sans", "encryption_algorithm", "kubernetes_version"),
            *("certificate_validity_period", "ca_certificate_validity_period"),
        )
    },
    "renewal_window": {"type": "str", "default": "2160h"},
    "ca_host": {"type": "bool", "default": False},
    "force": {"type": "bool", "default": False},
}

# kubeadm names of the leaves, their place under pki_dir, common name ('' = the member's), and whether they serve.
LEAVES = {
    "server": ("etcd/server", "", True),
    "peer": ("etcd/peer", "", True),
    "healthcheck-client": ("etcd/healthcheck-client", "kube-etcd-healthcheck-client", False),
    "apiserver-etcd-client": ("apiserver-etcd-client", "kube-apiserver-etcd-client", False),
}

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
    force: bool = False

    @classmethod
    def from_params(cls, params: Mapping[str, Any]) -> PkiSpec:
        """From options of the module; missing ones get their default. EtcdError names what is wrong."""
        value = {key: params.get(key, argument.get("default")) for key, argument in ARGUMENTS.items()}
        value = {key: ARGUMENTS[key].get("default") if item is None else item for key, item in value.items()}
        problems = [] if is_address(value["address"]) else [f"etcd_address {value['address']!r} is no IP address."]
        periods = ("certificate_validity_period", "ca_certificate_validity_period", "renewal_window")
        for key in periods:
            variable = "etcd_certificate_renewal_window" if key == "renewal_window" else f"etcd_{key}"
            problems += duration_problems(variable, str(value[key]))
        for key in ("server_cert_sans", "peer_cert_sans"):
            problems += san_problems(f"etcd_{key}", list(value[key]))
        if problems:
            raise EtcdError("\n".join(problems))
        validity, ca_validity, window = (timedelta(seconds=duration_seconds(value[key]) or 0) for key in periods)
        if window >= validity:
            raise EtcdError(
                f"etcd_certificate_renewal_window ({value['renewal_window']}) is not shorter than"
                f" etcd_certificate_validity_period ({value['certificate_validity_period']}): every run would re-issue"
                " every certificate. Make it shorter."
            )
        minor = re.match(r"v?1\.(\d+)", value["kubernetes_version"] or "")
        return cls(
            pki_dir=value["pki_dir"],
            work_dir=value["work_dir"],
            name=value["name"],
            address=str(ipaddress.ip_address(value["address"])),
            sans={kind: split_sans(list(value[f"{kind}_cert_sans"])) for kind in ("server", "peer")},
            algorithm=value["encryption_algorithm"],
            validity=validity,
            ca_validity=ca_validity,
            renewal_window=window,
            sha256_ski=bool(minor and int(minor.group(1)) >= SHA256_SKI_MINOR),
            ca_host=bool(value["ca_host"]),
            force=bool(value["force"]),
        )

    def path(self, name: str) -> str:
        """A file under pki_dir."""
        return os.path.join(self.pki_dir, name)

    @property
    def pending(self) -> str:
        """Where keys wait for their certificate."""
        return os.path.join(self.work_dir, "pending")

    def common_name(self, kind: str) -> str:
        """The subject of a leaf."""
        return LEAVES[kind][1] or self.name

    def wanted_sans(self, kind: str) -> list[str]:
        """SANs of a leaf in kubeadm's order: names sorted; addresses own, loopback, further ones. No duplicates."""
        if kind not in self.sans:
            return []
        names, addresses = self.sans[kind]
        return [
            *sorted({self.name, "localhost", *names}),
            *dict.fromkeys([self.address, "127.0.0.1", "::1", *addresses]),
        ]


@dataclass
class PkiState:
    """What is on a host. Certificates only, never a key."""

    ca_cert: str | None = None
    ca_key: bool = False
    ca_fingerprint: str | None = None
    ca_not_after: str | None = None
    ca_problems: list[str] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    certificates: list[dict[str, Any]] = field(default_factory=list)


# --- Reading -----------------------------------------------------------------------------------------------------------


def load_certificate(data: bytes | None) -> Any:
    """The first certificate in PEM data; None where there is none."""
    try:
        return x509.load_pem_x509_certificate(data) if data else None
    except ValueError:
        return None


def load_key(data: bytes | None) -> Any:
    """A private key from PEM data; None where there is none that can be used without a password."""
    try:
        return serialization.load_pem_private_key(data, None) if data else None
    except (ValueError, TypeError):
        return None


def fingerprint(pem: str) -> str:
    """SHA-256 of a certificate (its DER form), hexadecimal."""
    der: bytes = load_certificate(pem.encode()).public_bytes(serialization.Encoding.DER)
    return hashlib.sha256(der).hexdigest()


def not_before(certificate: Any) -> datetime:
    """Aware, whatever the version of cryptography (42 brought the _utc properties)."""
    found: datetime = getattr(certificate, "not_valid_before_utc", None) or certificate.not_valid_before.replace(
        tzinfo=timezone.utc
    )
    return found


def not_after(certificate: Any) -> datetime:
    """Aware, whatever the version of cryptography."""
    found: datetime = getattr(certificate, "not_valid_after_utc", None) or certificate.not_valid_after.replace(
        tzinfo=timezone.utc
    )
    return found


def common_name(name: Any) -> str:
    """The subject as text, only its common name where that is all there is."""
    parts = list(name)
    if len(parts) == 1 and parts[0].oid == NameOID.COMMON_NAME:
        return str(parts[0].value)
    return str(name.rfc4514_string())


def sans_of(thing: Any) -> list[str]:
    """SANs of a certificate or request, as text, in order."""
    try:
        extension = thing.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return [str(item.value) for item in extension]


def algorithm_of(public_key: Any) -> str:
    """Algorithm of a key, in kubeadm's words where it has some."""
    if isinstance(public_key, rsa.RSAPublicKey):
        return f"RSA-{public_key.key_size}"
    if isinstance(public_key, ec.EllipticCurvePublicKey):
        return {"secp256r1": "ECDSA-P256", "secp384r1": "ECDSA-P384", "secp521r1": "ECDSA-P521"}.get(
            public_key.curve.name, public_key.curve.name
        )
    return type(public_key).__name__.lstrip("_")


def usages_of(certificate: Any) -> list[str]:
    """Extended key usages by their names."""
    names = {ExtendedKeyUsageOID.SERVER_AUTH: "serverAuth", ExtendedKeyUsageOID.CLIENT_AUTH: "clientAuth"}
    try:
        found = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return []
    return [names.get(item, item.dotted_string) for item in found]


def wanted_usages(kind: str) -> list[str]:
    """Extended key usages of a leaf. A server needs clientAuth too: etcd's gateway dials its own listener."""
    return ["serverAuth", "clientAuth"] if LEAVES[kind][2] else ["clientAuth"]


def is_authority(certificate: Any) -> bool:
    """Whether a certificate may sign others."""
    try:
        return bool(certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca)
    except x509.ExtensionNotFound:
        return False


def signed_by(certificate: Any, authority: Any) -> bool:
    """Whether a certificate bears the signature of an authority."""
    public = authority.public_key()
    data, signature, algorithm = (
        certificate.tbs_certificate_bytes,
        certificate.signature,
        certificate.signature_hash_algorithm,
    )
    if certificate.issuer != authority.subject:
        return False
    try:
        if isinstance(public, rsa.RSAPublicKey):
            public.verify(signature, data, padding.PKCS1v15(), algorithm)
        else:
            public.verify(signature, data, ec.ECDSA(algorithm))
    except Exception:
        return False
    return True


def same_key(one: Any, other: Any) -> bool:
    """Whether two public keys are the same."""
    form = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return bool(one.public_bytes(*form) == other.public_bytes(*form))


def describe(kind: str, certificate: Any) -> dict[str, Any]:
    """What a certificate says, for results and diffs."""
    return {
        "kind": kind,
        "subject": common_name(certificate.subject),
        "issuer": common_name(certificate.issuer),
        "sans": sans_of(certificate),
        "algorithm": algorithm_of(certificate.public_key()),
        "usages": usages_of(certificate),
        "not_before": not_before(certificate).isoformat(),
        "not_after": not_after(certificate).isoformat(),
        "serial": f"{certificate.serial_number:x}",
    }


# --- Judging -----------------------------------------------------------------------------------------------------------


def leaf_reasons(
    spec: PkiSpec, kind: str, certificate: Any, key: Any, key_there: bool, authority: Any, now: datetime
) -> tuple[list[str], bool]:
    """Why a leaf has to be re-issued, in order; and whether its key has to be a new one."""
    if certificate is None:
        return ["missing or no certificate"], True
    new_key = []
    if not key_there:
        new_key.append("its key is missing")
    elif key is None:
        new_key.append("its key cannot be read")
    elif not same_key(key.public_key(), certificate.public_key()):
        new_key.append("its key is another one")
    if algorithm_of(certificate.public_key()) != spec.algorithm:
        new_key.append(f"algorithm is {algorithm_of(certificate.public_key())}, not {spec.algorithm}")
    reasons = []
    if common_name(certificate.subject) != spec.common_name(kind):
        reasons.append(f"subject is {common_name(certificate.subject)}, not {spec.common_name(kind)}")
    found, wanted = sans_of(certificate), spec.wanted_sans(kind)
    if sorted(found) != sorted(wanted):
        lost, gained = [s for s in wanted if s not in found], [s for s in found if s not in wanted]
        words = [f"without {', '.join(lost)}"] if lost else []
        words += [f"with {', '.join(gained)}"] if gained else []
        reasons.append(f"names and addresses are {' and '.join(words) or 'repeated'}")
    if sorted(usages_of(certificate)) != sorted(wanted_usages(kind)):
        reasons.append(f"usages are {', '.join(usages_of(certificate)) or 'none'}")
    if authority is not None and not signed_by(certificate, authority):
        reasons.append("signed by another CA")
    if now < not_before(certificate):
        reasons.append(f"not valid before {not_before(certificate):%Y-%m-%d %H:%M} UTC")
    elif now >= not_after(certificate):
        reasons.append(f"expired on {not_after(certificate):%Y-%m-%d}")
    elif now >= not_after(certificate) - spec.renewal_window:
        reasons.append(f"ends on {not_after(certificate):%Y-%m-%d}, inside the renewal window")
    if spec.force and not reasons and not new_key:
        reasons.append("forced")
    return [*new_key, *reasons], bool(new_key)


def mode_reasons(spec: PkiSpec) -> list[str]:
    """Files whose mode or owner is not kubeadm's. Repaired without being written again."""
    files = [
        (f"{place}{end}", mode)
        for place, _cn, _serves in LEAVES.values()
        for end, mode in ((".crt", 0o644), (".key", 0o600))
    ]
    files += [("etcd/ca.crt", 0o644)]
    found = [(name, mode_problem(spec.path(name), mode)) for name, mode in files]
    return [f"{name}: {problem}" for name, problem in found if problem]


def authority_problems(certificate: Any, key: Any, now: datetime, cert_name: str, key_name: str) -> list[str]:
    """Why a pair cannot be the CA. key None: not looked at."""
    if certificate is None:
        return [f"{cert_name} is no PEM certificate."]
    problems = []
    if not is_authority(certificate):
        problems.append(
            f"{cert_name} is no CA certificate (basicConstraints CA:TRUE is missing). Use one that may sign."
        )
    if now >= not_after(certificate):
        problems.append(f"{cert_name} expired on {not_after(certificate):%Y-%m-%d}. Use a CA that is valid.")
    if now < not_before(certificate):
        problems.append(f"{cert_name} is not valid before {not_before(certificate):%Y-%m-%d %H:%M} UTC.")
    if algorithm_of(certificate.public_key()).split("-")[0] not in ("RSA", "ECDSA"):
        problems.append(f"{cert_name} has a key that kubeadm does not take. Use RSA or ECDSA.")
    elif key is not None and not same_key(key.public_key(), certificate.public_key()):
        problems.append(f"{key_name} does not belong to {cert_name}: it is the key of another certificate.")
    return problems


def check_own_ca(cert_pem: str, key_pem: str, now: datetime) -> list[str]:
    """Problems of a user's own CA, in words. Says nothing of the key but that it does not fit."""
    if "ENCRYPTED" in key_pem:
        return ["etcd_ca_key is encrypted. Decrypt it first: openssl pkey -in ca.key -out ca-plain.key"]
    key = load_key(key_pem.encode())
    problems = authority_problems(load_certificate(cert_pem.encode()), key, now, "etcd_ca_cert", "etcd_ca_key")
    if key is None:
        problems.append("etcd_ca_key is no private key in PEM form. Name the file that holds the CA's key.")
    return problems


def observe(spec: PkiSpec, now: datetime, ca_cert: str | None = None) -> PkiState:
    """What is on the host, and why its leaves have to be re-issued. ca_cert: the CA that counts, else the one there."""
    state = PkiState()
    stored = read_bytes(spec.path("etcd/ca.crt"))
    authority = load_certificate(stored)
    key_data = read_bytes(spec.path("etcd/ca.key"))
    state.ca_key = key_data is not None
    if stored is not None:
        key = load_key(key_data)
        state.ca_problems = authority_problems(authority, key, now, "etcd/ca.crt", "etcd/ca.key")
        if key_data is not None and key is None:
            state.ca_problems.append("etcd/ca.key is no private key that can be read without a password.")
    if authority is not None and stored is not None:
        state.ca_cert = stored.decode("ascii", errors="replace")
        state.ca_fingerprint = fingerprint(state.ca_cert)
        state.ca_not_after = not_after(authority).isoformat()
    if state.ca_key and not spec.ca_host:
        state.ca_problems.append(
            "etcd/ca.key is here, although this is not the CA host. Move it there, or set etcd_ca_host."
        )
    wanted = load_certificate(ca_cert.encode()) if ca_cert else authority
    if ca_cert and state.ca_fingerprint != fingerprint(ca_cert):
        state.reasons.append("etcd/ca.crt: " + ("missing" if authority is None else "another CA"))
    elif not ca_cert and authority is None and not spec.ca_host:
        state.reasons.append("etcd/ca.crt: missing")
    for kind, (place, _cn, _serves) in LEAVES.items():
        certificate = load_certificate(read_bytes(spec.path(place + ".crt")))
        key_data = read_bytes(spec.path(place + ".key"))
        reasons, _new = leaf_reasons(spec, kind, certificate, load_key(key_data), key_data is not None, wanted, now)
        state.reasons += [f"{place}.crt: {reason}" for reason in reasons]
        if certificate is not None:
            state.certificates.append(describe(kind, certificate))
    state.reasons += mode_reasons(spec)
    if os.path.isdir(spec.pending):
        state.reasons.append("pending: keys that an interrupted run left behind")
    return state


# --- Making ------------------------------------------------------------------------------------------------------------


def make_key(algorithm: str) -> Any:
    """A new private key."""
    if algorithm.startswith("RSA-"):
        return rsa.generate_private_key(public_exponent=65537, key_size=int(algorithm[4:]))
    return ec.generate_private_key({"ECDSA-P256": ec.SECP256R1, "ECDSA-P384": ec.SECP384R1}[algorithm]())


def key_pem(key: Any) -> bytes:
    """A private key as kubeadm writes it: PKCS#1 for RSA, SEC 1 for EC."""
    data: bytes = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )
    return data


def serial_number() -> int:
    """Random, 63 bits, not zero (kubeadm, pki_helpers.go)."""
    return (int.from_bytes(os.urandom(8), "big") >> 1) or 1


def signature_hash(key: Any) -> Any:
    """What Go chooses for a key: SHA-256, for P-384 and P-521 their own."""
    size = key.curve.key_size if isinstance(key, ec.EllipticCurvePrivateKey) else 256
    return {384: hashes.SHA384(), 521: hashes.SHA512()}.get(size, hashes.SHA256())


def key_usage(signs: bool) -> Any:
    """digitalSignature and keyEncipherment; keyCertSign for a CA."""
    rest = dict.fromkeys(
        ("content_commitment", "data_encipherment", "key_agreement", "crl_sign", "encipher_only", "decipher_only"),
        False,
    )
    return x509.KeyUsage(digital_signature=True, key_encipherment=True, key_cert_sign=signs, **rest)


def subject_name(text: str) -> Any:
    """A name that is a common name only."""
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def san_extension(sans: list[str]) -> Any:
    """SANs in the given order."""
    items: list[Any] = []
    for san in sans:
        try:
            items.append(x509.IPAddress(ipaddress.ip_address(san)))
        except ValueError:
            items.append(x509.DNSName(san))
    return x509.SubjectAlternativeName(items)


def make_authority(spec: PkiSpec, key: Any, now: datetime) -> Any:
    """A CA certificate as kubeadm makes it."""
    public = key.public_key()
    if spec.sha256_ski:
        identifier = x509.SubjectKeyIdentifier(hashlib.sha256(_public_bits(public)).digest()[:20])
    else:
        identifier = x509.SubjectKeyIdentifier.from_public_key(public)
    now = now.replace(microsecond=0)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject_name("etcd-ca"))
        .issuer_name(subject_name("etcd-ca"))
        .public_key(public)
        .serial_number(serial_number())
        .not_valid_before(now - BACKDATE)
        .not_valid_after(now + spec.ca_validity)
        .add_extension(key_usage(signs=True), critical=True)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(identifier, critical=False)
        .add_extension(san_extension(["etcd-ca"]), critical=False)
    )
    return builder.sign(key, signature_hash(key))


def _public_bits(public: Any) -> bytes:
    """The key bits inside a SubjectPublicKeyInfo, of which identifiers are made (RFC 5280, 4.2.1.2)."""
    if isinstance(public, rsa.RSAPublicKey):
        pkcs1: bytes = public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.PKCS1)
        return pkcs1
    point: bytes = public.public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)
    return point


def make_request(spec: PkiSpec, kind: str, key: Any) -> str:
    """A certificate request (PEM) with the subject and SANs of a leaf."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject_name(spec.common_name(kind)))
    sans = spec.wanted_sans(kind)
    if sans:
        builder = builder.add_extension(san_extension(sans), critical=False)
    pem: bytes = builder.sign(key, signature_hash(key)).public_bytes(serialization.Encoding.PEM)
    return pem.decode()


def request_problems(spec: PkiSpec, kind: str, request: Any) -> list[str]:
    """Why a request is not signed: a member must not get a certificate that the inventory does not give it."""
    if not request.is_signature_valid:
        return ["its signature does not fit its key"]
    problems = []
    if common_name(request.subject) != spec.common_name(kind):
        problems.append(f"it asks for the name {common_name(request.subject)}, not {spec.common_name(kind)}")
    if sorted(sans_of(request)) != sorted(spec.wanted_sans(kind)):
        problems.append(f"it asks for {', '.join(sans_of(request))}, not {', '.join(spec.wanted_sans(kind))}")
    if algorithm_of(request.public_key()) != spec.algorithm:
        problems.append(f"its key is {algorithm_of(request.public_key())}, not {spec.algorithm}")
    return problems


def sign_leaf(spec: PkiSpec, kind: str, public_key: Any, authority: Any, key: Any, now: datetime) -> str:
    """A leaf (PEM) as kubeadm makes it. It ends with its CA at the latest: nobody would accept it longer."""
    usages = {"serverAuth": ExtendedKeyUsageOID.SERVER_AUTH, "clientAuth": ExtendedKeyUsageOID.CLIENT_AUTH}
    now = now.replace(microsecond=0)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject_name(spec.common_name(kind)))
        .issuer_name(authority.subject)
        .public_key(public_key)
        .serial_number(serial_number())
        .not_valid_before(now - BACKDATE)
        .not_valid_after(min(now + spec.validity, not_after(authority)))
        .add_extension(key_usage(signs=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([usages[name] for name in wanted_usages(kind)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    )
    try:
        identifier = authority.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        builder = builder.add_extension(x509.AuthorityKeyIdentifier(identifier.digest, None, None), critical=False)
    except x509.ExtensionNotFound:
        # kubeadm leaves it out too, where an own CA has no identifier.
        pass
    sans = spec.wanted_sans(kind)
    if sans:
        builder = builder.add_extension(san_extension(sans), critical=False)
    pem: bytes = builder.sign(key, signature_hash(key)).public_bytes(serialization.Encoding.PEM)
    return pem.decode()


# --- The four steps ------------------------------------------------------------------------------------------------------


def step_ca(spec: PkiSpec, ca_cert: str | None, ca_key: str | None, check: bool, now: datetime) -> dict[str, Any]:
    """Make the CA, or bring in the user's own; repair modes. Never replaces a CA that is there."""
    cert_path, key_path = spec.path("etcd/ca.crt"), spec.path("etcd/ca.key")
    stored_cert, stored_key = read_bytes(cert_path), read_bytes(key_path)
    if bool(ca_cert) != bool(ca_key):
        raise EtcdError("ca_cert and ca_key belong together. Give both, or neither to have a CA made.")
    if ca_cert and ca_key:
        problems = check_own_ca(ca_cert, ca_key, now)
        if problems:
            raise EtcdError(" ".join(problems))
    reasons = []
    pair: tuple[bytes, bytes] | None = None
    if stored_cert is None and stored_key is not None:
        # The key is renamed into place first. What a kill in between leaves is finished here: the same key, a new
        # certificate. Nothing has been signed with it yet, since signing needs the certificate.
        key = load_key(stored_key)
        if key is None:
            raise EtcdError(
                f"{key_path} is no private key, and {cert_path} is missing. Restore both, or move the key away."
            )
        reasons.append("etcd/ca.crt: missing, its key is there")
        if not ca_cert:
            pair = (stored_key, make_authority(spec, key, now).public_bytes(serialization.Encoding.PEM))
    elif stored_cert is None:
        reasons.append("etcd/ca.crt: missing")
        if not ca_cert:
            key = make_key(spec.algorithm)
            pair = (key_pem(key), make_authority(spec, key, now).public_bytes(serialization.Encoding.PEM))
    if ca_cert and ca_key:
        if stored_cert is not None and (
            load_certificate(stored_cert) is None or fingerprint(stored_cert.decode()) != fingerprint(ca_cert)
        ):
            raise EtcdError(
                f"{cert_path} is another CA than the given one. It is not replaced: move it and ca.key away if no"
                " member uses them, or leave out etcd_ca_cert and etcd_ca_key."
            )
        if stored_cert is None or stored_key is None:
            reasons = reasons or ["etcd/ca.key: missing"]
            pair = (_ended(ca_key), _ended(ca_cert))
    if stored_cert is not None:
        problems = authority_problems(load_certificate(stored_cert), load_key(stored_key), now, cert_path, key_path)
        if problems:
            raise EtcdError(" ".join(problems))
    if pair is not None and not check:
        ensure_directory(spec.pki_dir, 0o755)
        ensure_directory(spec.path("etcd"), 0o755)
        ensure_directory(spec.work_dir, 0o700)
        replace_file(key_path, pair[0], 0o600, staging_dir=spec.work_dir)
        replace_file(cert_path, pair[1], 0o644, staging_dir=spec.work_dir)
    for path, mode in ((cert_path, 0o644), (key_path, 0o600)):
        problem = mode_problem(path, mode) if pair is None or check else None
        if problem:
            reasons.append(f"etcd/{os.path.basename(path)}: {problem}")
            if not check:
                set_mode(path, mode)
    text = pair[1] if pair else stored_cert
    # In check mode the CA that would be made is not shown: the real run makes another one.
    shown = (text or b"").decode() if not (check and pair and not ca_cert) else ""
    after = describe("ca", load_certificate(text)) if shown else {"kind": "ca", "subject": "etcd-ca"}
    before = describe("ca", load_certificate(stored_cert)) if stored_cert else {}
    return {
        "changed": bool(reasons),
        "reasons": reasons,
        "ca_cert": shown,
        "diff": {"before": _shown(before), "after": _shown(after) if reasons else _shown(before)},
    }


def step_request(spec: PkiSpec, ca_cert: str | None, check: bool, now: datetime) -> dict[str, Any]:
    """Keys and requests for the leaves that have to be issued. A key that is still good is kept."""
    authority = load_certificate(ca_cert.encode() if ca_cert else read_bytes(spec.path("etcd/ca.crt")))
    due: dict[str, Any] = {}
    reasons = []
    for kind, (place, _cn, _serves) in LEAVES.items():
        key_data = read_bytes(spec.path(place + ".key"))
        key = load_key(key_data)
        certificate = load_certificate(read_bytes(spec.path(place + ".crt")))
        found, new_key = leaf_reasons(spec, kind, certificate, key, key_data is not None, authority, now)
        if found:
            reasons += [f"{place}.crt: {reason}" for reason in found]
            due[kind] = None if new_key else key
    if check:
        return {"changed": bool(due), "reasons": reasons, "csrs": {}}
    interrupted = os.path.isdir(spec.pending)
    if interrupted:
        reasons.append("pending: keys that an interrupted run left behind")
        shutil.rmtree(spec.pending)
    fresh = [kind for kind, key in due.items() if key is None]
    if fresh:
        ensure_directory(spec.work_dir, 0o700)
        ensure_directory(spec.pending, 0o700)
        # OpenSSL lets other threads run while it looks for primes.
        with ThreadPoolExecutor(max_workers=len(fresh)) as pool:
            for kind, key in zip(fresh, pool.map(make_key, [spec.algorithm] * len(fresh))):
                due[kind] = key
                replace_file(os.path.join(spec.pending, kind + ".key"), key_pem(key), 0o600)
    csrs = {kind: make_request(spec, kind, key) for kind, key in due.items()}
    return {"changed": bool(fresh) or interrupted, "reasons": reasons, "csrs": csrs}


def step_sign(spec: PkiSpec, requests: list[Mapping[str, Any]], check: bool, now: datetime) -> dict[str, Any]:
    """Sign the requests of all members. Refuses a request for more than the inventory gives its member."""
    authority = load_certificate(read_bytes(spec.path("etcd/ca.crt")))
    key = load_key(read_bytes(spec.path("etcd/ca.key")))
    if authority is None or key is None:
        if check:
            return {"changed": False, "reasons": [], "certificates": {}}
        raise EtcdError(f"{spec.path('etcd')} holds no CA certificate with its key: nothing can be signed here.")
    problems = authority_problems(authority, key, now, spec.path("etcd/ca.crt"), spec.path("etcd/ca.key"))
    certificates: dict[str, dict[str, str]] = {}
    reasons = []
    for entry in requests:
        member = PkiSpec.from_params(
            {
                **entry,
                "encryption_algorithm": spec.algorithm,
                "certificate_validity_period": f"{int(spec.validity.total_seconds())}s",
                "renewal_window": "1s",
            }
        )
        for kind, pem in entry["csrs"].items():
            try:
                request = x509.load_pem_x509_csr(pem.encode())
            except ValueError:
                problems.append(f"{entry['host']}: the request for {kind} cannot be read.")
                continue
            found = request_problems(member, kind, request)
            problems += [f"{entry['host']}: the request for {kind} is refused: {text}." for text in found]
            if not problems and not check:
                signed = sign_leaf(member, kind, request.public_key(), authority, key, now)
                certificates.setdefault(entry["host"], {})[kind] = signed
                reasons.append(f"{entry['host']}: {kind}")
    if problems:
        raise EtcdError(" ".join(problems))
    return {"changed": False, "reasons": reasons, "certificates": certificates}


def step_install(
    spec: PkiSpec, ca_cert: str | None, certificates: Mapping[str, str], replace_ca: bool, check: bool, now: datetime
) -> dict[str, Any]:
    """Put certificates and keys into place, each pair back to back, after all of them have been checked."""
    before = observe(spec, now, ca_cert)
    diff_before = _shown(*before.certificates)
    if check:
        after = [
            {
                "kind": kind,
                "subject": spec.common_name(kind),
                "sans": spec.wanted_sans(kind),
                "algorithm": spec.algorithm,
            }
            for kind, (place, _cn, _serves) in LEAVES.items()
            if any(reason.startswith(f"{place}.crt: ") and ": mode " not in reason for reason in before.reasons)
        ]
        kept = [item for item in before.certificates if item["kind"] not in [new["kind"] for new in after]]
        diff = {
            "before": diff_before,
            "after": _shown(*sorted(kept + after, key=lambda item: list(LEAVES).index(item["kind"]))),
        }
        return {"changed": bool(before.reasons), "reasons": before.reasons, "diff": diff}
    pem = ca_cert or before.ca_cert
    authority = load_certificate(pem.encode() if pem else None)
    if authority is None or pem is None:
        raise EtcdError(f"{spec.path('etcd/ca.crt')} is missing, and no ca_cert was given.")
    if before.ca_cert and before.ca_fingerprint != fingerprint(pem) and not replace_ca:
        raise EtcdError(
            f"{spec.path('etcd/ca.crt')} is another CA than the given one. It is not replaced: members that trust"
            " different CAs do not talk to each other. Set replace_ca only where no cluster has data."
        )
    ready: list[tuple[str, str, bytes | None]] = []
    for kind, text in certificates.items():
        certificate = load_certificate(text.encode())
        waiting = read_bytes(os.path.join(spec.pending, kind + ".key"))
        key = load_key(waiting if waiting is not None else read_bytes(spec.path(LEAVES[kind][0] + ".key")))
        reasons, _new = leaf_reasons(spec, kind, certificate, key, key is not None, authority, now)
        reasons = [reason for reason in reasons if "renewal window" not in reason and reason != "forced"]
        if reasons:
            raise EtcdError(f"the certificate for {kind} is not installed: {'; '.join(reasons)}.")
        ready.append((kind, text, waiting))
    ensure_directory(spec.pki_dir, 0o755)
    ensure_directory(spec.path("etcd"), 0o755)
    ensure_directory(spec.work_dir, 0o700)
    if before.ca_fingerprint != fingerprint(pem):
        replace_file(spec.path("etcd/ca.crt"), _ended(pem), 0o644, staging_dir=spec.work_dir)
    for kind, text, waiting in ready:
        place = spec.path(LEAVES[kind][0])
        if waiting is not None:
            replace_file(place + ".key", waiting, 0o600, staging_dir=spec.work_dir)
        replace_file(place + ".crt", _ended(text), 0o644, staging_dir=spec.work_dir)
    for name, mode in [
        (LEAVES[kind][0] + end, mode) for kind in LEAVES for end, mode in ((".crt", 0o644), (".key", 0o600))
    ]:
        if mode_problem(spec.path(name), mode):
            set_mode(spec.path(name), mode)
    if mode_problem(spec.path("etcd/ca.crt"), 0o644):
        set_mode(spec.path("etcd/ca.crt"), 0o644)
    shutil.rmtree(spec.pending, ignore_errors=True)
    remove_strays(spec.work_dir)
    after_state = observe(spec, now, ca_cert)
    return {
        "changed": bool(before.reasons),
        "reasons": before.reasons,
        "diff": {"before": diff_before, "after": _shown(*after_state.certificates)},
    }


def _ended(text: str) -> bytes:
    """PEM text with one line end at its end, as kubeadm writes it."""
    return text.strip().encode() + b"\n"


def _shown(*certificates: Mapping[str, Any]) -> str:
    """Certificates as text for a diff. Facts only: what is not here cannot leak."""
    lines = []
    for item in certificates:
        lines.append(f"{item.get('kind', '')}:")
        for key, value in item.items():
            if key != "kind":
                lines.append(f"  {key}: {', '.join(value) if isinstance(value, list) else value}")
    return "\n".join(lines) + "\n" if lines else ""
