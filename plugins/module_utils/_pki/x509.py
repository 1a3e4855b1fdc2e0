# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""X.509 primitives: read and compare certificates and keys. They are made in making.py; only these two files use the library cryptography.

What kubeadm expects of them is in state.py and steps.py.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
from datetime import datetime, timezone
from typing import Any

from ansible_collections.kubeadm.etcd.plugins.module_utils._values.formats import is_address

CRYPTOGRAPHY_VERSION: str | None
try:
    import cryptography
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
    from cryptography.x509.oid import NameOID

    CRYPTOGRAPHY_VERSION = str(cryptography.__version__)
    # The option exists since cryptography 39.
    _QUICKLY: dict[str, Any] = (
        {"unsafe_skip_rsa_key_validation": True} if int(CRYPTOGRAPHY_VERSION.split(".", maxsplit=1)[0]) >= 39 else {}
    )
    if not _QUICKLY:
        # cryptography 35 to 38 (Debian 12, RHEL 9) have this flag instead. Older versions ignore it.
        from cryptography.hazmat.backends.openssl.backend import backend

        vars(backend)["_rsa_skip_check_key"] = True
    _RSASSA_PSS = x509.ObjectIdentifier("1.2.840.113549.1.1.10")
except ImportError:
    CRYPTOGRAPHY_VERSION = None

HAS_CRYPTOGRAPHY = CRYPTOGRAPHY_VERSION is not None

# Extended key usages by name (RFC 5280, 4.2.1.12).
USAGES = {"serverAuth": "1.3.6.1.5.5.7.3.1", "clientAuth": "1.3.6.1.5.5.7.3.2"}


# The labels of PEM blocks that hold a private key: PKCS#8, PKCS#1, SEC 1.
_KEY_BLOCK = re.compile(
    rb"-----BEGIN ((?:ENCRYPTED |RSA |EC )?PRIVATE KEY)-----\r?\n.*?-----END \1-----", flags=re.DOTALL
)
_CERTIFICATE_BLOCK = re.compile(rb"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", flags=re.DOTALL)


def load_certificate(data: bytes | None) -> Any:
    """The first certificate in PEM data; None if there is none, or if it cannot be read."""
    return next(iter(load_certificates(data)), None)


def load_certificates(data: bytes | None) -> list[Any]:
    """All certificates in PEM data, in order. Empty if one of them cannot be read."""
    return parse_certificates(data)[0]


def parse_certificates(data: bytes | None) -> tuple[list[Any], str]:
    """All certificates in PEM data, in order; or none, and the problem. All reading of certificates goes through here.

    The library decodes names and keys lazily. Everything is decoded here, so that nothing raises later: names in T61String (old company
    CAs) are not UTF-8, and the library raises ValueError for them.
    """
    blocks = _CERTIFICATE_BLOCK.findall(data or b"")
    if not blocks:
        return [], "not a PEM certificate"
    certificates = []
    for block in blocks:
        try:
            certificate = x509.load_pem_x509_certificate(block)
        except ValueError:
            return [], "not a PEM certificate"
        try:
            names = [(name.public_bytes(), name.rfc4514_string()) for name in (certificate.subject, certificate.issuer)]
            # Older versions read such names as Latin-1 and write them as UTF-8: certificates signed with them would name another CA.
            readable = all(written in certificate.tbs_certificate_bytes for written, _text in names)
        except ValueError:
            readable = False
        if not readable:
            return (
                [],
                "a certificate with a name that is not in UTF-8 (T61String?), which Python's cryptography cannot read",
            )
        try:
            public_fingerprint(certificate.public_key())
        except Exception:
            # UnsupportedAlgorithm or ValueError. Some versions raise other exceptions for RSASSA-PSS keys.
            return [], "a certificate with a key that Python's cryptography cannot read"
        certificates.append(certificate)
    return certificates, ""


def certificate_pem(certificate: Any) -> str:
    """A certificate as PEM with a final newline, as kubeadm writes it."""
    pem: bytes = certificate.public_bytes(serialization.Encoding.PEM)
    return pem.decode()


def load_key(data: bytes | None, passphrase: str = "") -> Any:
    """The first private key in PEM data; None if there is no usable one (with this passphrase).

    Other blocks are skipped: openssl writes EC PARAMETERS before an EC key, and people keep certificates in the same file.
    """
    found = _KEY_BLOCK.search(data or b"")
    if not found:
        return None
    # Before ansible-core 2.19, an inline vault value is a type of its own whose encode() returns the encrypted text.
    passphrase = str(passphrase)
    secret = passphrase.encode() if passphrase and is_encrypted(found.group(0)) else None
    try:
        key = serialization.load_pem_private_key(found.group(0) + b"\n", secret, **_QUICKLY)
    except Exception:
        # ValueError, TypeError or UnsupportedAlgorithm, depending on the version of the library.
        return None
    return key if _fits_itself(key) else None


def _fits_itself(key: Any) -> bool:
    """Whether the numbers of an RSA key are consistent, as Go checks it (crypto/rsa, Validate), but without testing for primes.

    OpenSSL's prime test takes 35 ms for each key that is read, which would be most of the time of a run with nothing to do.
    """
    if not isinstance(key, rsa.RSAPrivateKey):
        return True
    numbers = key.private_numbers()
    exponents = numbers.d * numbers.public_numbers.e
    primes_fit = numbers.p * numbers.q == numbers.public_numbers.n
    return primes_fit and all(exponents % (prime - 1) == 1 for prime in (numbers.p, numbers.q))


def is_encrypted(data: bytes) -> bool:
    """Whether a private key in PEM data needs a passphrase: PKCS#8, or the older form of openssl."""
    return b"BEGIN ENCRYPTED PRIVATE KEY" in data or b"Proc-Type: 4,ENCRYPTED" in data


def fingerprint(pem: str) -> str:
    """SHA-256 of the first certificate in PEM text, hexadecimal."""
    return certificate_fingerprint(load_certificate(pem.encode()))


def certificate_fingerprint(certificate: Any) -> str:
    """SHA-256 of a certificate (its DER form), hexadecimal."""
    der: bytes = certificate.public_bytes(serialization.Encoding.DER)
    return hashlib.sha256(der).hexdigest()


def public_fingerprint(public: Any) -> str:
    """SHA-256 of a public key (its SubjectPublicKeyInfo), hexadecimal."""
    form = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(public.public_bytes(*form)).hexdigest()


def not_before(certificate: Any) -> datetime:
    """The start of validity, timezone-aware with every version of cryptography (the _utc properties exist since 42)."""
    found: datetime = getattr(certificate, "not_valid_before_utc", None) or certificate.not_valid_before.replace(
        tzinfo=timezone.utc
    )
    return found


def not_after(certificate: Any) -> datetime:
    """The end of validity, timezone-aware with every version of cryptography."""
    found: datetime = getattr(certificate, "not_valid_after_utc", None) or certificate.not_valid_after.replace(
        tzinfo=timezone.utc
    )
    return found


def common_name(name: Any) -> str:
    """A name as text: the common name alone if the name has nothing else."""
    parts = list(name)
    if len(parts) == 1 and parts[0].oid == NameOID.COMMON_NAME:
        return str(parts[0].value)
    return str(name.rfc4514_string())


def sans_of(thing: Any) -> list[str]:
    """SANs of a certificate or request, as text, in order."""
    return [str(item.value) for item in extension_of(thing, x509.SubjectAlternativeName) or []]


def algorithm_of(public_key: Any) -> str:
    """The algorithm of a key, in kubeadm's spelling if kubeadm supports it."""
    if isinstance(public_key, rsa.RSAPublicKey):
        return f"RSA-{public_key.key_size}"
    if isinstance(public_key, ec.EllipticCurvePublicKey):
        return {"secp256r1": "ECDSA-P256", "secp384r1": "ECDSA-P384", "secp521r1": "ECDSA-P521"}.get(
            public_key.curve.name, public_key.curve.name
        )
    return type(public_key).__name__.lstrip("_")


# The object identifier rsaEncryption in DER (RFC 8017, appendix A.1).
_PLAIN_RSA = bytes.fromhex("06092a864886f70d010101")


def signs_only(certificate: Any) -> bool:
    """Whether the key of a certificate cannot encrypt: of an algorithm for signatures, RSA-PSS included, whose keys the library shows as RSA."""
    key = certificate.public_key()
    if not isinstance(key, rsa.RSAPublicKey):
        return not isinstance(key, ec.EllipticCurvePublicKey)
    # The library writes it as plain RSA, or as it was.
    written = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return _PLAIN_RSA not in written or written not in certificate.tbs_certificate_bytes


def extension_of(thing: Any, kind: Any) -> Any:
    """The value of an extension of a certificate or request; None if it is missing or invalid."""
    try:
        return thing.extensions.get_extension_for_class(kind).value
    except (x509.ExtensionNotFound, ValueError):
        return None


def key_usages_of(certificate: Any) -> list[str]:
    """Key usages by their names in RFC 5280, sorted; empty if the certificate has none."""
    found = extension_of(certificate, x509.KeyUsage)
    names = {
        "digital_signature": "digitalSignature",
        "content_commitment": "contentCommitment",
        "key_encipherment": "keyEncipherment",
        "data_encipherment": "dataEncipherment",
        "key_agreement": "keyAgreement",
        "key_cert_sign": "keyCertSign",
        "crl_sign": "cRLSign",
    }
    return sorted(text for name, text in names.items() if found is not None and getattr(found, name))


def key_identifier_of(certificate: Any, of_issuer: bool = False) -> str | None:
    """The subject key identifier of a certificate, or its authority key identifier (of_issuer), hexadecimal."""
    found = extension_of(certificate, x509.AuthorityKeyIdentifier if of_issuer else x509.SubjectKeyIdentifier)
    digest = None if found is None else found.key_identifier if of_issuer else found.digest
    return digest.hex() if digest else None


def usages_of(certificate: Any) -> list[str]:
    """Extended key usages by name."""
    names = {oid: name for name, oid in USAGES.items()}
    found = extension_of(certificate, x509.ExtendedKeyUsage)
    return [names.get(item.dotted_string, item.dotted_string) for item in found or []]


def is_authority(certificate: Any) -> bool:
    """Whether a certificate may sign others."""
    found = extension_of(certificate, x509.BasicConstraints)
    return bool(found is not None and found.ca)


def forbidden_names(authority: Any, sans: list[str]) -> list[str]:
    """The SANs that the name constraints of a CA do not allow (RFC 5280, 4.2.1.10)."""
    constraints = extension_of(authority, x509.NameConstraints)
    if constraints is None:
        return []
    return [
        san
        for san in sans
        if any(_covers(tree, san) for tree in constraints.excluded_subtrees or [])
        or not _allowed(constraints.permitted_subtrees or [], san)
    ]


def _allowed(trees: Any, san: str) -> bool:
    """Whether permitted subtrees allow a SAN: a subtree of its type covers it, or there is no subtree of its type."""
    kind = x509.IPAddress if is_address(san) else x509.DNSName
    same = [tree for tree in trees if isinstance(tree, kind)]
    return not same or any(_covers(tree, san) for tree in same)


def _covers(tree: Any, san: str) -> bool:
    """Whether a subtree of name constraints covers a SAN."""
    if isinstance(tree, x509.IPAddress):
        network: Any = tree.value
        return is_address(san) and ipaddress.ip_address(san) in network
    if not isinstance(tree, x509.DNSName) or is_address(san):
        return False
    base = tree.value.lower()
    return not base or san == base.lstrip(".") or san.endswith("." + base.lstrip("."))


def same_name(one: Any, other: Any) -> bool:
    """Whether two names are the same for Go, which compares bytes: one text as PrintableString and as UTF8String differs."""
    return bool(one.public_bytes() == other.public_bytes())


def name_id(certificate: Any) -> str:
    """A hash of the name of a CA, as trusted_names in _etcd/client.py tells it."""
    return hashlib.sha256(certificate.subject.public_bytes()).hexdigest()


def authority_id(certificate: Any) -> str:
    """The identity of a CA, hexadecimal: a hash of its key, name and key identifier, which a renewal keeps.

    If two CA certificates have the same id, each verifies the certificates that the other has signed: for Go by key and name, for OpenSSL
    also by the key identifier.
    """
    parts = (public_fingerprint(certificate.public_key()), certificate.subject.public_bytes().hex())
    return hashlib.sha256(" ".join((*parts, key_identifier_of(certificate) or "")).encode()).hexdigest()


def signed_by(certificate: Any, authority: Any) -> bool:
    """Whether a certificate bears the signature of an authority."""
    if not same_name(certificate.issuer, authority.subject):
        return False
    public, data, signature = authority.public_key(), certificate.tbs_certificate_bytes, certificate.signature
    try:
        algorithm = certificate.signature_hash_algorithm
        if not isinstance(public, rsa.RSAPublicKey):
            public.verify(signature, data, ec.ECDSA(algorithm))
        elif certificate.signature_algorithm_oid == _RSASSA_PSS:
            # Salt as long as the hash: the only form that Go knows (crypto/x509, RFC 4055).
            public.verify(signature, data, padding.PSS(padding.MGF1(algorithm), algorithm.digest_size), algorithm)
        else:
            public.verify(signature, data, padding.PKCS1v15(), algorithm)
    except Exception:
        # InvalidSignature, or an algorithm that the library does not support: neither proves anything.
        return False
    return True


def names_another_key(certificate: Any, authority: Any) -> bool:
    """Whether a certificate's authority key identifier names a key other than this CA's (RFC 5280, 4.2.1.1)."""
    named, key = key_identifier_of(certificate, of_issuer=True), key_identifier_of(authority)
    return bool(named and key and named != key)


def weak_hash(certificate: Any) -> str:
    """The hash of a certificate's signature if Go rejects it (crypto/x509: MD5 and SHA-1), else empty."""
    try:
        name = str(certificate.signature_hash_algorithm.name)
    except Exception:
        return ""
    return name if name in ("md5", "sha1") else ""


def same_key(one: Any, other: Any) -> bool:
    """Whether two public keys are the same."""
    return public_fingerprint(one) == public_fingerprint(other)


def describe(kind: str, certificate: Any) -> dict[str, Any]:
    """The fields of a certificate, for results and diffs."""
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
        "authority_key_id": key_identifier_of(certificate, of_issuer=True),
    }
