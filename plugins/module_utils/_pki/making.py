# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""X.509 primitives: make keys, certificates and requests, and encrypt a key for its way to another host. x509.py reads them."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import ipaddress
import os
from collections.abc import Iterable
from datetime import datetime
from typing import Any

from ansible_collections.kubeadm.etcd.plugins.module_utils._pki.x509 import USAGES

# Whether it is there, and how old it may be, x509.py knows.
with contextlib.suppress(ImportError):
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec, rsa
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF
    from cryptography.x509.oid import NameOID


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


# Rounds of PBKDF2 for a copy that may be found by others. The library's own form has 2048, and no way to say so.
_ROUNDS = 600_000


def encrypted_pem(key: Any, passphrase: str) -> str:
    """A private key as PKCS#8, encrypted with a passphrase: PBES2 with PBKDF2-HMAC-SHA256 and AES-256-CBC (RFC 8018, A.4)."""
    salt, start = os.urandom(16), os.urandom(16)
    data = key.private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    data += bytes([16 - len(data) % 16]) * (16 - len(data) % 16)
    secret = hashlib.pbkdf2_hmac("sha256", passphrase.encode(), salt, _ROUNDS, 32)
    cipher = Cipher(algorithms.AES(secret), modes.CBC(start)).encryptor()
    pkcs5 = bytes.fromhex("2a864886f70d0105")
    hmac_sha256 = _der(0x30, _der(0x06, bytes.fromhex("2a864886f70d0209")), _der(0x05))
    derivation = _der(0x30, _der(0x04, salt), _der(0x02, _ROUNDS.to_bytes(3, "big")), hmac_sha256)
    encryption = _der(0x30, _der(0x06, bytes.fromhex("60864801650304012a")), _der(0x04, start))
    scheme = _der(0x30, _der(0x30, _der(0x06, pkcs5 + b"\x0c"), derivation), encryption)
    whole = _der(
        0x30, _der(0x30, _der(0x06, pkcs5 + b"\x0d"), scheme), _der(0x04, cipher.update(data) + cipher.finalize())
    )
    text = base64.b64encode(whole).decode()
    lines = [text[number : number + 64] for number in range(0, len(text), 64)]
    label = "ENCRYPTED PRIVATE KEY"
    return "\n".join([f"-----BEGIN {label}-----", *lines, f"-----END {label}-----", ""])


def _der(tag: int, *parts: bytes) -> bytes:
    """A value in DER: tag, length, contents."""
    contents = b"".join(parts)
    length = len(contents)
    if length < 0x80:
        return bytes([tag, length]) + contents
    size = (length.bit_length() + 7) // 8
    return bytes([tag, 0x80 | size]) + length.to_bytes(size, "big") + contents


def serial_number() -> int:
    """Random, 63 bits, not zero (kubeadm, pki_helpers.go)."""
    return (int.from_bytes(os.urandom(8), "big") >> 1) or 1


def signature_hash(key: Any) -> Any:
    """The hash that Go uses with a key: SHA-384 for P-384, SHA-512 for P-521, otherwise SHA-256."""
    size = key.curve.key_size if isinstance(key, ec.EllipticCurvePrivateKey) else 256
    return {384: hashes.SHA384(), 521: hashes.SHA512()}.get(size, hashes.SHA256())


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


def extensions(
    signs: bool, usages: Iterable[str], sans: list[str], key_id: bytes = b"", issuer_key_id: bytes = b""
) -> list[tuple[Any, bool]]:
    """Extensions in Go's order, each with whether it is critical. Empty ones are omitted."""
    rest = dict.fromkeys(
        ("content_commitment", "data_encipherment", "key_agreement", "crl_sign", "encipher_only", "decipher_only"),
        False,
    )
    key_usage = x509.KeyUsage(digital_signature=True, key_encipherment=True, key_cert_sign=signs, **rest)
    usage_ids = [x509.ObjectIdentifier(USAGES[name]) for name in usages]
    return [
        (key_usage, True),
        *([(x509.ExtendedKeyUsage(usage_ids), False)] if usage_ids else []),
        (x509.BasicConstraints(ca=signs, path_length=None), True),
        *([(x509.SubjectKeyIdentifier(key_id), False)] if key_id else []),
        *([(x509.AuthorityKeyIdentifier(issuer_key_id, None, None), False)] if issuer_key_id else []),
        *([(san_extension(sans), False)] if sans else []),
    ]


def make_certificate(
    subject: Any, issuer: Any, public_key: Any, signer: Any, period: tuple[datetime, datetime], wanted: list[Any]
) -> Any:
    """A signed certificate. subject, issuer: names; signer: the issuer's private key; wanted: its extensions."""
    builder = x509.CertificateBuilder(
        issuer_name=issuer,
        subject_name=subject,
        public_key=public_key,
        serial_number=serial_number(),
        not_valid_before=period[0].replace(microsecond=0, tzinfo=None),
        not_valid_after=period[1].replace(microsecond=0, tzinfo=None),
    )
    for extension, critical in wanted:
        builder = builder.add_extension(extension, critical)
    return builder.sign(signer, signature_hash(signer))


def renewed(certificate: Any, key: Any, period: tuple[datetime, datetime]) -> Any:
    """Another certificate of a CA that has signed itself: the same name, key and extensions."""
    wanted = [(item.value, item.critical) for item in certificate.extensions]
    return make_certificate(certificate.subject, certificate.subject, key.public_key(), key, period, wanted)


def make_request(subject: Any, key: Any, wanted: list[Any]) -> str:
    """A signed certificate request (PEM)."""
    builder = x509.CertificateSigningRequestBuilder(subject_name=subject)
    for extension, critical in wanted:
        builder = builder.add_extension(extension, critical)
    pem: bytes = builder.sign(key, signature_hash(key)).public_bytes(serialization.Encoding.PEM)
    return pem.decode()


def load_request(data: bytes | None) -> Any:
    """The certificate request in PEM data; None if there is no valid one."""
    try:
        return x509.load_pem_x509_csr(data or b"")
    except ValueError:
        return None


def key_identifier(public: Any, sha256: bool) -> bytes:
    """A key's identifier: SHA-256 of its bits cut to 20 bytes (RFC 7093), or SHA-1 (RFC 5280, 4.2.1.2)."""
    if sha256:
        return hashlib.sha256(public_bits(public)).digest()[:20]
    digest: bytes = x509.SubjectKeyIdentifier.from_public_key(public).digest
    return digest


def public_bits(public: Any) -> bytes:
    """The key bits of a SubjectPublicKeyInfo, from which key identifiers are derived (RFC 5280, 4.2.1.2)."""
    if isinstance(public, rsa.RSAPublicKey):
        pkcs1: bytes = public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.PKCS1)
        return pkcs1
    point: bytes = public.public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)
    return point


# --- Transfer of a private key -----------------------------------------------------------------------------------------


def public_pem(public: Any) -> str:
    """A public key as PEM."""
    pem: bytes = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return pem.decode()


# Bytes of an uncompressed point of P-256, and of the nonce of AES-GCM.
_POINT, _NONCE = 65, 12


def seal(data: bytes, recipient: str) -> str:
    """Encrypt data to a P-256 public key (PEM); base64 text. ValueError if the recipient is not such a key.

    ECIES: an ephemeral key for each text, ECDH, HKDF-SHA256, AES-256-GCM (SEC 1, 5.1; algorithms that FIPS 140 allows).
    """
    public = serialization.load_pem_public_key(recipient.encode())
    if not isinstance(public, ec.EllipticCurvePublicKey) or public.curve.name != "secp256r1":
        raise ValueError("not a key of P-256")
    once, nonce = ec.generate_private_key(ec.SECP256R1()), os.urandom(_NONCE)
    point = public_bits(once.public_key())
    sealed = _shared(once, public, point).encrypt(nonce, data, point)
    return base64.b64encode(point + nonce + sealed).decode()


def unseal(text: str, key: Any) -> bytes | None:
    """Decrypt the text of seal(); None if it was sealed for another key, or was changed."""
    try:
        raw = base64.b64decode(text, validate=True)
        point, nonce, sealed = raw[:_POINT], raw[_POINT : _POINT + _NONCE], raw[_POINT + _NONCE :]
        public = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), point)
        data: bytes = _shared(key, public, point).decrypt(nonce, sealed, point)
    except Exception:
        # ValueError, InvalidTag or UnsupportedAlgorithm, depending on the fault and on the version of the library.
        return None
    return data


def _shared(key: Any, public: Any, point: bytes) -> Any:
    """The cipher that both sides derive from their own private key and the other side's public key."""
    secret = key.exchange(ec.ECDH(), public)
    return AESGCM(HKDF(hashes.SHA256(), 32, None, b"kubeadm.etcd sealed key" + point).derive(secret))
