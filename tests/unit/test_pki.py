"""The PKI of a host, on real files in a temporary directory, cross-checked by openssl."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("cryptography")

from ansible_collections.kubeadm.etcd.plugins.module_utils import _files, _pki, _pki_steps, _x509
from ansible_collections.kubeadm.etcd.plugins.module_utils._errors import EtcdError

NOW = datetime.now(timezone.utc).replace(microsecond=0)
# openssl makes certificates that are valid from this second on.
LATER = NOW + timedelta(hours=1)

# Elliptic curves: their keys are made in no time.
MEMBER = {
    "name": "infra0",
    "address": "10.0.0.6",
    "encryption_algorithm": "ECDSA-P256",
    "kubernetes_version": "v1.36.3",
}


@pytest.fixture(autouse=True)
def anybody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files belong to root on hosts; here to whoever runs the tests."""
    me = (os.getuid(), os.getgid())
    for name in ("ensure_directory", "mode_problem", "set_mode"):
        original = getattr(_files, name)
        for module in (_pki, _pki_steps):
            monkeypatch.setattr(
                module, name, lambda *a, _f=original, **k: _f(*a, uid=me[0], gid=me[1], **k), raising=False
            )
    monkeypatch.setattr(_pki_steps, "Replacement", lambda *a: _files.Replacement(*a, *me))


def spec(where: Path, **changes: Any) -> _pki.PkiSpec:
    return _pki.PkiSpec.from_params(
        {**MEMBER, "pki_dir": str(where / "pki"), "work_dir": str(where / "work"), **changes}
    )


def issue(where: Path, now: datetime = NOW, **changes: Any) -> dict[str, dict[str, Any]]:
    """All four steps on one host, and what each returned."""
    it = spec(where, ca_host=True, **changes)
    ca = _pki_steps.step_ca(it, None, None, "", False, now)
    asked = _pki_steps.step_request(it, ca["ca_cert"], False, now)
    entry = {**MEMBER, **changes, "host": "infra0", "csrs": asked["csrs"]}
    signed = _pki_steps.step_sign(it, [entry] if asked["csrs"] else [], False, now)
    certificates = signed["signed"].get("infra0", {})
    installed = _pki_steps.step_install(it, ca["ca_cert"], certificates, False, now)
    return {"ca": ca, "request": asked, "sign": signed, "install": installed}


def files(where: Path) -> dict[str, bytes]:
    return {str(p.relative_to(where)): p.read_bytes() for p in sorted(where.rglob("*")) if p.is_file()}


def openssl(*arguments: str) -> str:
    return subprocess.run(
        ["openssl", *arguments], check=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ).stdout


def test_the_four_steps(tmp_path: Path) -> None:
    results = issue(tmp_path)
    names = {
        "pki/apiserver-etcd-client.crt",
        "pki/apiserver-etcd-client.key",
        *(f"pki/etcd/{n}.{e}" for n in ("ca", "server", "peer", "healthcheck-client") for e in ("crt", "key")),
    }
    assert set(files(tmp_path)) == names
    for name in names:
        mode = stat.S_IMODE((tmp_path / name).stat().st_mode)
        assert mode == (0o600 if name.endswith(".key") else 0o644), name
    assert all(result["reasons"] for result in results.values())
    # And again: nothing.
    before = files(tmp_path)
    again = issue(tmp_path)
    assert files(tmp_path) == before
    assert not any(result["changed"] or result["reasons"] for result in again.values())


def test_no_private_key_in_any_result(tmp_path: Path) -> None:
    results = repr(issue(tmp_path))
    assert "PRIVATE KEY" not in results
    for name, data in files(tmp_path).items():
        if name.endswith(".key"):
            assert data.decode().splitlines()[1] not in results


@pytest.mark.parametrize("algorithm", ["RSA-2048", "ECDSA-P256", "ECDSA-P384"])
def test_openssl_agrees(tmp_path: Path, algorithm: str) -> None:
    issue(tmp_path, encryption_algorithm=algorithm, server_cert_sans=["b.example.com", "a.example.com", "192.0.2.9"])
    pki = tmp_path / "pki"
    authority = str(pki / "etcd" / "ca.crt")
    header = "RSA PRIVATE KEY" if algorithm.startswith("RSA") else "EC PRIVATE KEY"
    for name in ("etcd/server", "etcd/peer", "etcd/healthcheck-client", "apiserver-etcd-client"):
        assert ": OK" in openssl("verify", "-CAfile", authority, str(pki / f"{name}.crt"))
        assert header in (pki / f"{name}.key").read_text()
        public = openssl("x509", "-in", str(pki / f"{name}.crt"), "-noout", "-pubkey")
        assert public == openssl("pkey", "-in", str(pki / f"{name}.key"), "-pubout")
    text = openssl("x509", "-in", str(pki / "etcd" / "server.crt"), "-noout", "-text")
    sans = re.search(r"Subject Alternative Name: *\n *(.*)", text)
    assert sans and sans.group(1) == (
        "DNS:a.example.com, DNS:b.example.com, DNS:infra0, DNS:localhost, IP Address:10.0.0.6, IP Address:127.0.0.1,"
        " IP Address:0:0:0:0:0:0:0:1, IP Address:192.0.2.9"
    )
    assert "TLS Web Server Authentication, TLS Web Client Authentication" in text
    assert re.search(r"Subject: ?CN ?= ?infra0\n", text)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"server_cert_sans": ["new.example.com"]},
            "etcd/server.crt: issued again, names and addresses are without new.example.com",
        ),
        ({"peer_cert_sans": ["10.9.9.9"]}, "etcd/peer.crt: issued again, names and addresses are without 10.9.9.9"),
        ({"name": "other"}, "etcd/server.crt: issued again, subject is infra0, not other"),
        ({"address": "10.0.0.7"}, "without 10.0.0.7 and with 10.0.0.6"),
        ({"encryption_algorithm": "ECDSA-P384"}, "key is ECDSA-P256, not ECDSA-P384"),
        ({"renew": ["server"]}, "etcd/server.crt: renewed, asked for"),
        ({"renew": ["all"], "renew_keys": True}, "etcd/server.crt: renewed, asked for with a new key"),
        ({"renewal_window": "8759h"}, "etcd/peer.crt: renewed, 364 days left of 365"),
    ],
)
def test_reasons_from_what_is_wanted(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    issue(tmp_path)
    later = NOW + timedelta(hours=2)
    reasons = _pki.observe(spec(tmp_path, ca_host=True, **change), later).reasons
    assert any(words in reason for reason in reasons), reasons


def damage(path: Path, how: str) -> None:
    """Make a file wrong."""
    if how == "remove":
        path.unlink()
    elif how == "garbage":
        path.write_text("garbage")
    elif how == "empty":
        path.write_text("")
    elif how == "directory":
        path.unlink()
        path.mkdir()
    elif how == "link":
        path.unlink()
        path.symlink_to("/nowhere/at/all")
    elif how == "mode":
        path.chmod(0o640)
    else:
        shutil.copy(path.with_name(how), path)


@pytest.mark.parametrize(
    ("name", "how", "words"),
    [
        ("server.crt", "remove", "etcd/server.crt: issued, missing"),
        ("server.crt", "garbage", "etcd/server.crt: issued again, no PEM certificate"),
        ("server.crt", "empty", "etcd/server.crt: issued again, empty"),
        ("server.crt", "directory", "etcd/server.crt: issued again, a directory"),
        ("server.crt", "link", "etcd/server.crt: issued again, a link that leads nowhere"),
        ("server.key", "directory", "etcd/server.crt: issued again, key: a directory"),
        ("server.key", "link", "etcd/server.crt: issued again, key: a link that leads nowhere"),
        ("server.crt", "peer.crt", "etcd/server.crt: issued again, its key belongs to another certificate"),
        ("server.crt", "healthcheck-client.crt", "usages are clientAuth"),
        ("server.key", "remove", "etcd/server.crt: issued again, key: missing"),
        ("server.key", "garbage", "etcd/server.crt: issued again, key: no private key that can be used"),
        ("server.key", "peer.key", "etcd/server.crt: issued again, its key belongs to another certificate"),
        ("server.key", "mode", "etcd/server.key: mode is 0640, not 0600"),
        ("ca.crt", "mode", "etcd/ca.crt: mode is 0640, not 0644"),
    ],
)
def test_wrong_files_are_seen_and_mended(tmp_path: Path, name: str, how: str, words: str) -> None:
    issue(tmp_path)
    damage(tmp_path / "pki" / "etcd" / name, how)
    assert any(words in reason for reason in _pki.observe(spec(tmp_path, ca_host=True), NOW).reasons)
    issue(tmp_path)
    assert _pki.observe(spec(tmp_path, ca_host=True), NOW).reasons == []


def test_expired_and_not_yet_valid(tmp_path: Path) -> None:
    issue(tmp_path)
    assert any("expired on" in r for r in _pki.observe(spec(tmp_path, ca_host=True), NOW + timedelta(days=366)).reasons)
    assert any(
        "not valid before" in r for r in _pki.observe(spec(tmp_path, ca_host=True), NOW - timedelta(days=1)).reasons
    )


def test_renewal_keeps_the_key(tmp_path: Path) -> None:
    """So that it is one rename, and no handshake of a running etcd meets half of a pair."""
    issue(tmp_path)
    before = files(tmp_path)
    issue(tmp_path, now=NOW + timedelta(days=300))
    after = files(tmp_path)
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {name for name in before if name.endswith(".crt") and not name.endswith("ca.crt")}


def test_leaf_of_another_ca_is_seen(tmp_path: Path) -> None:
    issue(tmp_path / "a")
    issue(tmp_path / "b")
    shutil.copy(tmp_path / "b/pki/etcd/ca.crt", tmp_path / "a/pki/etcd/ca.crt")
    assert any("signed by another CA" in r for r in _pki.observe(spec(tmp_path / "a", ca_host=True), NOW).reasons)


def test_check_mode_says_what_and_does_nothing(tmp_path: Path) -> None:
    it = spec(tmp_path)
    assert _pki_steps.step_ca(it, None, None, "", True, NOW)["changed"]
    assert _pki_steps.step_request(it, None, True, NOW)["csrs"] == {}
    result = _pki_steps.step_install(it, None, {}, True, NOW)
    assert result["changed"] and "infra0" in result["diff"]["after"]
    assert files(tmp_path) == {}


@pytest.mark.parametrize("after", ["request", "key of the CA", "one pair"])
def test_killed_half_way(tmp_path: Path, after: str) -> None:
    """What a killed run leaves is finished by the next, and nothing is left over."""
    if after == "request":
        _pki_steps.step_request(spec(tmp_path), None, False, NOW)
    elif after == "key of the CA":
        issue(tmp_path)
        for path in (tmp_path / "pki").rglob("*.*"):
            if path.name != "ca.key":
                path.unlink()
    else:
        issue(tmp_path)
        _pki_steps.step_request(spec(tmp_path, renew=["all"], encryption_algorithm="ECDSA-P384"), None, False, NOW)
        (tmp_path / "work/pending/server.key").rename(tmp_path / "pki/etcd/server.key")
    (tmp_path / "work").mkdir(exist_ok=True)
    (tmp_path / "work" / ".kubeadm-etcd-stray").write_text("half a key")
    issue(tmp_path)
    assert _pki.observe(spec(tmp_path, ca_host=True), NOW).reasons == []
    assert os.listdir(tmp_path / "work") == []


def test_request_for_another_members_name_is_refused(tmp_path: Path) -> None:
    issue(tmp_path)
    it = spec(tmp_path, ca_host=True)
    thief = spec(tmp_path / "thief", name="infra1", address="10.0.0.7")
    asked = _pki_steps.step_request(thief, None, False, NOW)
    with pytest.raises(EtcdError, match="infra2: the request for server is refused: it asks for the name infra1"):
        _pki_steps.step_sign(it, [{**MEMBER, "host": "infra2", "name": "infra2", "csrs": asked["csrs"]}], False, NOW)


def test_certificate_that_does_not_fit_is_not_installed(tmp_path: Path) -> None:
    issue(tmp_path / "a")
    issue(tmp_path / "b")
    before = files(tmp_path / "a")
    foreign = (tmp_path / "b/pki/etcd/server.crt").read_text()
    with pytest.raises(EtcdError, match="the certificate for server is not installed"):
        _pki_steps.step_install(spec(tmp_path / "a", ca_host=True), None, {"server": foreign}, False, NOW)
    assert files(tmp_path / "a") == before


def test_another_ca_is_not_put_over_the_one_in_use(tmp_path: Path) -> None:
    issue(tmp_path / "a")
    other = issue(tmp_path / "b")["ca"]["ca_cert"]
    with pytest.raises(EtcdError, match="is another CA than the given one"):
        _pki_steps.step_install(spec(tmp_path / "a", ca_host=True), other, {}, False, NOW)


def own_ca(where: Path, *arguments: str) -> tuple[str, str]:
    """A CA made by openssl: certificate and key as text."""
    where.mkdir(exist_ok=True)
    cert, key = where / "own.crt", where / "own.key"
    openssl(
        *("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", str(key), "-out", str(cert)),
        *("-subj", "/CN=mine", "-days", "900", *arguments),
    )
    return cert.read_text(), key.read_text()


def test_own_ca_is_brought_in(tmp_path: Path) -> None:
    cert, key = own_ca(tmp_path)
    it = spec(tmp_path, ca_host=True)
    result = _pki_steps.step_ca(it, cert, key, "", False, LATER)
    assert result["reasons"] == ["etcd/ca.crt: missing"] and key not in repr(result)
    assert not _pki_steps.step_ca(it, cert, key, "", False, LATER)["changed"]
    other_cert, other_key = own_ca(tmp_path / "other")
    with pytest.raises(EtcdError, match="is another CA than the given one"):
        _pki_steps.step_ca(it, other_cert, other_key, "", False, LATER)


def test_what_is_wrong_with_an_own_ca(tmp_path: Path) -> None:
    cert, key = own_ca(tmp_path)
    _other, other_key = own_ca(tmp_path / "other")
    leaf, leaf_key = own_ca(tmp_path / "leaf", "-addext", "basicConstraints=critical,CA:FALSE")
    locked = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nx\n-----END ENCRYPTED PRIVATE KEY-----\n"
    assert _pki.check_own_ca(cert, key, "", LATER) == []
    for arguments, words in (
        (("garbage", key, LATER), "etcd_ca_cert is no PEM certificate"),
        ((cert, "garbage", LATER), "etcd_ca_key is no private key"),
        ((cert, locked, LATER), "is encrypted"),
        ((cert, other_key, LATER), "does not belong to"),
        ((leaf, leaf_key, LATER), "is no CA certificate"),
        ((cert, key, NOW + timedelta(days=901)), "expired on"),
    ):
        assert any(words in text for text in _pki.check_own_ca(*arguments[:2], "", arguments[2])), words


@pytest.mark.parametrize(("text", "hours"), [("8760h", 8760.0), ("1h30m", 1.5), ("90s", 0.025), ("8760h0m0s", 8760.0)])
def test_durations(tmp_path: Path, text: str, hours: float) -> None:
    it = spec(tmp_path, certificate_validity_period=text, renewal_window="1s")
    assert it.validity == timedelta(hours=hours)


@pytest.mark.parametrize("text", ["", "365d", "1y", "3600", "0s", "-5h", "9999999h", "h"])
def test_bad_durations(tmp_path: Path, text: str) -> None:
    with pytest.raises(EtcdError, match=r"etcd_certificate_validity_period .* is no period. Write hours"):
        spec(tmp_path, certificate_validity_period=text)


@pytest.mark.parametrize(
    "san", ["UPPER.example.com", "münchen.example", "bad_name", "a..b", "a.", "10.0.0.0/24", " x", ""]
)
def test_bad_sans(tmp_path: Path, san: str) -> None:
    with pytest.raises(EtcdError, match=r"etcd_server_cert_sans: .* is neither"):
        spec(tmp_path, server_cert_sans=[san])


def test_window_that_would_renew_for_ever(tmp_path: Path) -> None:
    with pytest.raises(EtcdError, match="every run would re-issue"):
        spec(tmp_path, certificate_validity_period="100h", renewal_window="100h")


@pytest.mark.parametrize(("version", "sha256"), [("v1.34.4", False), ("v1.35.0", True), ("v1.36.3", True)])
def test_key_identifier_of_the_ca(tmp_path: Path, version: str, sha256: bool) -> None:
    it = spec(tmp_path, kubernetes_version=version)
    certificate = _pki_steps.make_authority(it, _x509.make_key("ECDSA-P256"), NOW)
    sha1 = _x509.x509.SubjectKeyIdentifier.from_public_key(certificate.public_key())
    found = certificate.extensions.get_extension_for_class(_x509.x509.SubjectKeyIdentifier).value
    assert (found != sha1) is sha256 and len(found.digest) == 20
