"""Why a certificate is not kept: every reason alone, and every pair of reasons."""

from __future__ import annotations

import functools
import ipaddress
import itertools
import types
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("cryptography")

from ansible_collections.kubeadm.etcd.plugins.module_utils._pki import state as _pki
from ansible_collections.kubeadm.etcd.plugins.module_utils._pki import x509 as _x509
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

NOW = datetime(2030, 5, 1, 12, 0, 0, tzinfo=timezone.utc)
DAY = timedelta(days=1)
SPEC = {
    "name": "infra0",
    "address": "10.0.0.6",
    "encryption_algorithm": "ECDSA-P256",
    "server_cert_sans": ["etcd.example.com", "192.0.2.9"],
}
SANS = ("etcd.example.com", "infra0", "localhost", "10.0.0.6", "127.0.0.1", "::1", "192.0.2.9")


@functools.lru_cache(maxsize=None)
def key(label: str, curve: str = "P256") -> Any:
    """A key of its own for each label."""
    return ec.generate_private_key({"P256": ec.SECP256R1, "P384": ec.SECP384R1}[curve]())


@dataclass(frozen=True)
class Files:
    """What the two files of the server certificate hold."""

    certificate: str = "good"
    key: str = "good"
    subject: str = "infra0"
    sans: tuple[str, ...] = SANS
    usages: tuple[str, ...] = ("serverAuth", "clientAuth")
    key_usages: tuple[str, ...] = ("digital_signature", "key_encipherment")
    authority: bool = False
    signer: str = "ours"
    issuer: str = "etcd-ca"
    curve: str = "P256"
    owner: str = "leaf"
    other_key: bool = False
    days: tuple[int, int] = (-100, 265)


def certificate(it: Files) -> Any:
    """The certificate, put together by the library alone."""
    oids = {"serverAuth": ExtendedKeyUsageOID.SERVER_AUTH, "clientAuth": ExtendedKeyUsageOID.CLIENT_AUTH}
    flags = (
        *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement"),
        *("key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
    )
    names: list[Any] = []
    for san in it.sans:
        try:
            names.append(x509.IPAddress(ipaddress.ip_address(san)))
        except ValueError:
            names.append(x509.DNSName(san))
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, it.subject)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, it.issuer)]))
        .public_key(key(it.owner, it.curve).public_key())
        .serial_number(7)
        .not_valid_before((NOW + it.days[0] * DAY).replace(tzinfo=None))
        .not_valid_after((NOW + it.days[1] * DAY).replace(tzinfo=None))
    )
    wanted: list[Any] = [x509.BasicConstraints(ca=it.authority, path_length=None)]
    wanted += [x509.SubjectAlternativeName(names)] if names else []
    wanted += [x509.ExtendedKeyUsage([oids[name] for name in it.usages])] if it.usages else []
    if it.key_usages:
        wanted.append(x509.KeyUsage(**{flag: flag in it.key_usages for flag in flags}))
    for extension in wanted:
        builder = builder.add_extension(extension, critical=False)
    return builder.sign(key(it.signer, "P256"), hashes.SHA256())


def written(where: Path, it: Files) -> None:
    """The two files."""
    (where / "etcd").mkdir(parents=True, exist_ok=True)
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption())
    contents = {
        "crt": (it.certificate, certificate(it).public_bytes(serialization.Encoding.PEM)),
        "key": (it.key, key("other" if it.other_key else "leaf", it.curve).private_bytes(*form)),
    }
    for end, (state, data) in contents.items():
        if state != "missing":
            (where / "etcd" / f"server.{end}").write_bytes(data if state == "good" else b"garbage")


@functools.lru_cache(maxsize=None)
def authority() -> Any:
    return certificate(Files(subject="etcd-ca", sans=(), authority=True, owner="ours", days=(-400, 3000)))


def judged(where: Path, it: Files, **options: Any) -> list[_pki.Reason]:
    """The reasons for the server certificate."""
    written(where, it)
    spec = _pki.PkiSpec.from_params({**SPEC, "pki_dir": str(where), "work_dir": str(where / "work"), **options})
    return _pki.leaf_flaws(spec, _pki.read_leaf(spec, "server"), authority(), NOW)


# What makes a reason: (fields that differ, options that differ, the words that a person reads, whether the key goes too).
FAULTS: dict[str, tuple[dict[str, Any], dict[str, Any], str, bool]] = {
    "missing": ({"certificate": "missing"}, {}, "the certificate is missing", False),
    "unreadable": ({"certificate": "garbage"}, {}, "not a PEM certificate", False),
    "key-missing": ({"key": "missing"}, {}, "the key is missing", True),
    "key-unreadable": ({"key": "garbage"}, {}, "key: not a usable private key", True),
    "key-algorithm": ({"curve": "P384"}, {}, "the key is ECDSA-P384, not ECDSA-P256", True),
    "key-mismatch": ({"other_key": True}, {}, "its key belongs to another certificate", True),
    # The name of the right CA with the signature of a wrong one: a comparison of names would accept it.
    "other-ca": ({"signer": "theirs"}, {}, "signed by another CA (etcd-ca)", False),
    "subject": ({"subject": "infra1"}, {}, "the subject is infra1, not infra0", True),
    "sans": ({"sans": SANS[1:]}, {}, "its names and addresses lack etcd.example.com", False),
    "usages": (
        {"usages": ("clientAuth",)},
        {},
        "its extended key usages are clientAuth, not serverAuth, clientAuth",
        False,
    ),
    "key-usages": (
        {"key_usages": ("digital_signature",)},
        {},
        "its key usages are digitalSignature, not digitalSignature, keyEncipherment",
        False,
    ),
    "authority": ({"authority": True}, {}, "it may sign other certificates (CA:TRUE)", False),
    "not-yet-valid": ({"days": (1, 365)}, {}, "not valid before 2030-05-02 12:00 UTC", False),
    "expired": ({"days": (-400, -1)}, {}, "expired on 2030-04-30", False),
    "window": ({"days": (-304, 61)}, {}, "61 days left of 365", False),
    "asked-for": ({}, {"renew": ["server"]}, "requested", False),
}

# A missing file has no other reasons.
OF_THE_CERTIFICATE = set(FAULTS) - {"missing", "unreadable", "key-missing", "key-unreadable", "key-algorithm"}
HIDDEN_BY = {
    "missing": OF_THE_CERTIFICATE,
    "unreadable": OF_THE_CERTIFICATE,
    "key-missing": {"key-algorithm", "key-mismatch"},
    "key-unreadable": {"key-algorithm", "key-mismatch"},
}


def test_good_files_have_no_reason(tmp_path: Path) -> None:
    assert judged(tmp_path, Files()) == []


@pytest.mark.parametrize("code", FAULTS)
def test_one_reason(tmp_path: Path, code: str) -> None:
    fields, options, words, new_key = FAULTS[code]
    assert judged(tmp_path, replace(Files(), **fields), **options) == [_pki.Flaw(code, words, new_key)]


PAIRS = [pair for pair in itertools.combinations(FAULTS, 2) if not set(FAULTS[pair[0]][0]) & set(FAULTS[pair[1]][0])]


@pytest.mark.parametrize("pair", PAIRS, ids="+".join)
def test_two_reasons(tmp_path: Path, pair: tuple[str, str]) -> None:
    (fields, options, *_rest), (more_fields, more_options, *_rest) = (FAULTS[code] for code in pair)
    found = judged(tmp_path, replace(Files(), **fields, **more_fields), **options, **more_options)
    expected = set(pair) - HIDDEN_BY.get(pair[0], set()) - HIDDEN_BY.get(pair[1], set())
    assert {(reason.code, reason.text) for reason in found} == {(code, FAULTS[code][2]) for code in expected}
    assert any(reason.new_key for reason in found) == any(FAULTS[code][3] for code in expected)


@pytest.mark.parametrize(
    ("fields", "options", "codes"),
    [
        ({"sans": (*SANS, "more.example.com")}, {}, ["sans"]),
        ({"sans": (*SANS, "infra0")}, {}, ["sans"]),
        ({"sans": ()}, {}, ["sans"]),
        ({"sans": SANS[::-1]}, {}, []),
        ({"usages": ("serverAuth",)}, {}, ["usages"]),
        ({"usages": ()}, {}, ["usages"]),
        ({"usages": ("clientAuth", "serverAuth")}, {}, []),
        ({"key_usages": ()}, {}, ["key-usages"]),
        ({"key_usages": ("digital_signature", "key_encipherment", "key_agreement")}, {}, ["key-usages"]),
        ({"issuer": "mallory"}, {}, ["other-ca"]),
        ({"days": (0, 365)}, {}, []),
        ({"days": (-365, 0)}, {}, ["expired"]),
        ({"days": (-275, 90)}, {}, ["window"]),
        ({"days": (-274, 91)}, {}, []),
        ({}, {"renewal_window": "8000h"}, ["window"]),
        ({}, {"renew": ["all"]}, ["asked-for"]),
        ({}, {"renew": ["peer"]}, []),
        ({}, {"renew_keys": True}, []),
        ({"certificate": "missing", "key": "missing"}, {"renew": ["all"]}, ["missing", "key-missing"]),
    ],
)
def test_reasons_at_the_limits(
    tmp_path: Path, fields: dict[str, Any], options: dict[str, Any], codes: list[str]
) -> None:
    assert [reason.code for reason in judged(tmp_path, replace(Files(), **fields), **options)] == codes


def test_new_key_on_request(tmp_path: Path) -> None:
    assert judged(tmp_path, Files(), renew=["server"], renew_keys=True) == [
        _pki.Flaw("asked-for", "requested with a new key", True)
    ]


def test_ca_that_is_not_known_yet_is_no_reason(tmp_path: Path) -> None:
    written(tmp_path, Files(signer="theirs"))
    spec = _pki.PkiSpec.from_params({**SPEC, "pki_dir": str(tmp_path), "work_dir": str(tmp_path)})
    assert _pki.leaf_flaws(spec, _pki.read_leaf(spec, "server"), None, NOW) == []


@pytest.mark.parametrize(
    ("codes", "verb"),
    [
        (["window"], "renewed"),
        (["asked-for"], "renewed"),
        (["window", "asked-for"], "renewed"),
        (["window", "sans"], "issued again"),
        (["expired"], "issued again"),
        (["missing"], "issued"),
        (["missing", "key-missing"], "issued"),
        (["key-missing"], "issued again"),
    ],
)
def test_a_reason_as_text(codes: list[str], verb: str) -> None:
    reasons = [_pki.Flaw(code, FAULTS[code][2]) for code in codes]
    assert _pki.leaf_reason("server", reasons).text == f"etcd/server.crt: {verb}, " + ", ".join(r.text for r in reasons)


def test_certificate_of_a_weak_signature() -> None:
    """Not every library can sign with SHA-1, so the certificate only claims that signature."""

    class Unknown:
        @property
        def signature_hash_algorithm(self) -> Any:
            raise ValueError

    weak = types.SimpleNamespace(signature_hash_algorithm=hashes.SHA1())
    assert _x509.weak_hash(weak) == "sha1"
    assert _x509.weak_hash(Unknown()) == _x509.weak_hash(authority()) == ""
