"""The PKI of a host with real files in a temporary directory, checked with openssl."""

from __future__ import annotations

import base64
import dataclasses
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

from ansible_collections.kubeadm.etcd.plugins.module_utils._host import files as _files
from ansible_collections.kubeadm.etcd.plugins.module_utils._pki import making as _making
from ansible_collections.kubeadm.etcd.plugins.module_utils._pki import move as _move
from ansible_collections.kubeadm.etcd.plugins.module_utils._pki import state as _pki
from ansible_collections.kubeadm.etcd.plugins.module_utils._pki import steps as _pki_steps
from ansible_collections.kubeadm.etcd.plugins.module_utils._pki import x509 as _x509
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.errors import EtcdError
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.reasons import texts

NOW = datetime.now(timezone.utc).replace(microsecond=0)
# Certificates of openssl are valid from the current second on.
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
    """Files belong to root on hosts, and here to the user of the tests."""
    me = (os.getuid(), os.getgid())
    owners = {"uid": me[0], "gid": me[1]}
    for name in ("ensure_directory", "mode_problem", "set_mode", "directory_problem", "protect_directory"):
        original = getattr(_files, name)
        more = {"uid": me[0]} if name in ("directory_problem", "protect_directory") else owners
        for module in (_pki, _pki_steps):
            monkeypatch.setattr(
                module, name, lambda *a, _f=original, _m=more, **k: _f(*a, **{**_m, **k}), raising=False
            )
    for module in (_pki_steps, _move):
        monkeypatch.setattr(module, "Replacement", lambda *a: _files.Replacement(*a, *me))


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
            "etcd/server.crt: issued again, its names and addresses lack new.example.com",
        ),
        ({"peer_cert_sans": ["10.9.9.9"]}, "etcd/peer.crt: issued again, its names and addresses lack 10.9.9.9"),
        ({"name": "other"}, "etcd/server.crt: issued again, the subject is infra0, not other"),
        ({"address": "10.0.0.7"}, "lack 10.0.0.7 and have 10.0.0.6 in excess"),
        ({"encryption_algorithm": "ECDSA-P384"}, "key is ECDSA-P256, not ECDSA-P384"),
        ({"renew": ["server"]}, "etcd/server.crt: renewed, requested"),
        ({"renew": ["all"], "renew_keys": True}, "etcd/server.crt: renewed, requested with a new key"),
        ({"renewal_window": "8759h"}, "etcd/peer.crt: renewed, 364 days left of 365"),
    ],
)
def test_reasons_from_what_is_wanted(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    issue(tmp_path)
    later = NOW + timedelta(hours=2)
    reasons = texts(_pki.observe(spec(tmp_path, ca_host=True, **change), later).reasons)
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
        ("server.crt", "remove", "etcd/server.crt: issued, the certificate is missing"),
        ("server.crt", "garbage", "etcd/server.crt: issued again, not a PEM certificate"),
        ("server.crt", "empty", "etcd/server.crt: issued again, empty"),
        ("server.crt", "directory", "etcd/server.crt: issued again, a directory"),
        ("server.crt", "link", "etcd/server.crt: issued again, a broken symbolic link"),
        ("server.key", "directory", "etcd/server.crt: issued again, key: a directory"),
        ("server.key", "link", "etcd/server.crt: issued again, key: a broken symbolic link"),
        ("server.crt", "peer.crt", "etcd/server.crt: issued again, its key belongs to another certificate"),
        ("server.crt", "healthcheck-client.crt", "usages are clientAuth"),
        ("server.key", "remove", "etcd/server.crt: issued again, the key is missing"),
        ("server.key", "garbage", "etcd/server.crt: issued again, key: not a usable private key"),
        ("server.key", "peer.key", "etcd/server.crt: issued again, its key belongs to another certificate"),
        ("server.key", "mode", "etcd/server.key: mode is 0640, not 0600"),
        ("ca.crt", "mode", "etcd/ca.crt: mode is 0640, not 0644"),
    ],
)
def test_wrong_files_are_found_and_repaired(tmp_path: Path, name: str, how: str, words: str) -> None:
    issue(tmp_path)
    damage(tmp_path / "pki" / "etcd" / name, how)
    assert any(words in reason.text for reason in _pki.observe(spec(tmp_path, ca_host=True), NOW).reasons)
    issue(tmp_path)
    assert _pki.observe(spec(tmp_path, ca_host=True), NOW).reasons == []


def test_expired_and_not_yet_valid(tmp_path: Path) -> None:
    issue(tmp_path)
    assert any(
        "expired on" in r.text for r in _pki.observe(spec(tmp_path, ca_host=True), NOW + timedelta(days=366)).reasons
    )
    assert any(
        "not valid before" in r.text
        for r in _pki.observe(spec(tmp_path, ca_host=True), NOW - timedelta(days=1)).reasons
    )


def test_renewal_keeps_the_key(tmp_path: Path) -> None:
    """So that only one file changes, and a running etcd never reads a certificate without its key."""
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
    assert any("signed by another CA" in r.text for r in _pki.observe(spec(tmp_path / "a", ca_host=True), NOW).reasons)


def test_check_mode_says_what_and_does_nothing(tmp_path: Path) -> None:
    it = spec(tmp_path)
    assert _pki_steps.step_ca(it, None, None, "", True, NOW)["changed"]
    assert _pki_steps.step_request(it, None, True, NOW)["csrs"] == {}
    result = _pki_steps.step_install(it, None, {}, True, NOW)
    assert result["changed"] and "infra0" in result["diff"]["after"]
    assert files(tmp_path) == {}


@pytest.mark.parametrize("after", ["request", "key of the CA", "one pair"])
def test_killed_half_way(tmp_path: Path, after: str) -> None:
    """The next run finishes it and leaves no temporary files."""
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


def test_new_keys_of_a_run_that_was_stopped(tmp_path: Path) -> None:
    """A run that asked for new keys was stopped. The next one, which asks for none, ignores them."""
    issue(tmp_path)
    before = (tmp_path / "pki/etcd/peer.key").read_bytes()
    _pki_steps.step_request(spec(tmp_path, renew=["all"], renew_keys=True), None, False, NOW)
    assert (tmp_path / "work/pending/peer.key").exists()
    issue(tmp_path, renew=["all"])
    assert (tmp_path / "pki/etcd/peer.key").read_bytes() == before
    assert _pki.observe(spec(tmp_path, ca_host=True), NOW).reasons == [] and os.listdir(tmp_path / "work") == []


FORGED = [
    ({"name": "infra1"}, "it asks for the name infra1, not infra0"),
    ({"address": "10.0.0.7"}, "it asks for infra0, localhost, 10.0.0.7"),
    ({"server_cert_sans": ["mallory.example.com"]}, "it asks for infra0, localhost, mallory.example.com"),
    ({"encryption_algorithm": "RSA-2048"}, "its key is RSA-2048, not ECDSA-P256"),
]


def entry(csrs: dict[str, str], **changes: Any) -> list[dict[str, Any]]:
    """The facts about infra0 that the CA host gets with the requests."""
    return [{**MEMBER, "host": "infra0", "csrs": csrs, **changes}]


@pytest.mark.parametrize(("asks", "words"), FORGED)
@pytest.mark.parametrize("step", ["sign", "collect"])
def test_forged_requests_are_refused(tmp_path: Path, step: str, asks: dict[str, Any], words: str) -> None:
    """A member cannot get the names of another one. Then nothing is signed for any member."""
    ca = issue(tmp_path)["ca"]["ca_cert"]
    it = spec(tmp_path, ca_host=True)
    honest = _pki_steps.step_request(spec(tmp_path / "honest", name="infra1"), None, False, NOW)["csrs"]
    thief = _pki_steps.step_request(spec(tmp_path / "thief", **asks), None, False, NOW)["csrs"]
    asked = [*entry(honest, host="infra1", name="infra1"), *entry(thief)]
    arguments = (asked, False, NOW) if step == "sign" else (str(tmp_path / "signing"), ca, asked, False, NOW)
    with pytest.raises(EtcdError, match=re.escape(f"infra0: the request for server is refused: {words}")):
        getattr(_pki_steps, f"step_{step}")(it, *arguments)
    assert not (tmp_path / "signing").exists()


def test_only_the_key_of_a_request_is_taken(tmp_path: Path) -> None:
    """A request may ask to be a CA, or for other usages. The certificate is the one that kubeadm would sign."""
    issue(tmp_path)
    key = _making.make_key("ECDSA-P256")
    it = spec(tmp_path, ca_host=True)
    greedy = _making.make_request(
        _making.subject_name("kube-etcd-healthcheck-client"), key, _making.extensions(True, ["serverAuth"], [])
    )
    signed = _pki_steps.step_sign(it, entry({"healthcheck-client": greedy}), False, NOW)["signed"]["infra0"]
    certificate = _x509.load_certificate(signed["healthcheck-client"].encode())
    assert not _x509.is_authority(certificate) and _x509.usages_of(certificate) == ["clientAuth"]
    assert _x509.key_usages_of(certificate) == ["digitalSignature", "keyEncipherment"]


@pytest.mark.parametrize("how", ["signature", "garbage"])
def test_a_request_proves_that_its_sender_has_the_key(tmp_path: Path, how: str) -> None:
    """A request with the public key of another host has no valid signature."""
    issue(tmp_path)
    csrs = _pki_steps.step_request(spec(tmp_path / "other"), None, False, NOW)["csrs"]
    if how == "garbage":
        csrs["server"] = "garbage"
        words = "it is not a PEM request"
    else:
        # The last byte of the signature, well inside of its DER form.
        der = bytearray(base64.b64decode("".join(csrs["server"].splitlines()[1:-1])))
        der[-1] ^= 1
        body = base64.b64encode(bytes(der)).decode()
        csrs["server"] = f"-----BEGIN CERTIFICATE REQUEST-----\n{body}\n-----END CERTIFICATE REQUEST-----\n"
        words = "its signature does not match its key"
    with pytest.raises(EtcdError, match=f"infra0: the request for server is refused: {words}"):
        _pki_steps.step_sign(spec(tmp_path, ca_host=True), entry(csrs), False, NOW)


def test_leaves_end_with_their_ca(tmp_path: Path) -> None:
    issue(tmp_path, ca_certificate_validity_period="100h", renewal_window="1h")
    ends = {
        _x509.not_after(_x509.load_certificate(path.read_bytes())) for path in (tmp_path / "pki/etcd").glob("*.crt")
    }
    assert ends == {NOW + timedelta(hours=100)}


def test_ca_key_that_does_not_belong_here(tmp_path: Path) -> None:
    """Reported, and removed only on request, never on the CA host."""
    issue(tmp_path)
    member = spec(tmp_path)
    seen = _pki.observe(member, NOW)
    assert seen.reasons == [] and "etcd/ca.key exists, although" in seen.warnings[0]
    for it, remove, left in ((member, False, True), (spec(tmp_path, ca_host=True), True, True), (member, True, False)):
        result = _pki_steps.step_install(it, None, {}, False, NOW, remove_ca_key=remove)
        assert (tmp_path / "pki/etcd/ca.key").exists() == left
        assert result["reasons"] == ([] if left else ["etcd/ca.key: removed, it belongs on the CA host only"])


# --- A CA that signs elsewhere ---------------------------------------------------------------------------------------


def elsewhere(where: Path) -> tuple[dict[str, Any], dict[str, str], dict[str, str]]:
    """A CA on another machine: the first result of collect, the requests, and the signed certificates."""
    ca = issue(where / "ca")["ca"]["ca_cert"]
    csrs = _pki_steps.step_request(spec(where), ca, False, NOW)["csrs"]
    signed = _pki_steps.step_sign(spec(where / "ca", ca_host=True), entry(csrs), False, NOW)["signed"]["infra0"]
    return {"ca": ca, "first": collect(where, ca, csrs)}, csrs, signed


def collect(where: Path, ca: str, csrs: dict[str, str], check: bool = False, now: datetime = NOW, **more: Any) -> Any:
    return _pki_steps.step_collect(spec(where), str(where / "signing"), ca, entry(csrs, **more), check, now)


def test_requests_are_collected_and_certificates_taken(tmp_path: Path) -> None:
    found, csrs, signed = elsewhere(tmp_path)
    first = found["first"]
    assert first["changed"] and first["signed"] == {}
    assert first["waiting"] == [f"infra0/{kind}.crt: missing" for kind in _pki.LEAVES]
    place = tmp_path / "signing" / "infra0"
    assert {path.name: path.read_text() for path in place.iterdir()} == {f"{k}.csr": text for k, text in csrs.items()}
    assert "CA:FALSE" in openssl("req", "-in", str(place / "server.csr"), "-noout", "-text", "-verify")
    for kind, text in list(signed.items())[1:]:
        (place / f"{kind}.crt").write_text(text)
    # All or nothing: with one missing, no member gets any.
    waiting = collect(tmp_path, found["ca"], csrs)
    assert waiting["waiting"] == ["infra0/server.crt: missing"]
    assert waiting["signed"] == {} and not waiting["changed"]
    (place / "server.crt").write_text("their text\n" + signed["server"])
    done = collect(tmp_path, found["ca"], csrs)
    assert done["signed"] == {"infra0": signed} and done["waiting"] == [] and not done["changed"]
    _pki_steps.step_install(spec(tmp_path), found["ca"], done["signed"]["infra0"], False, NOW)
    assert _pki.observe(spec(tmp_path), NOW).reasons == []


def test_same_requests_are_left_alone_and_others_replaced(tmp_path: Path) -> None:
    """ECDSA signatures differ each time, so requests are compared without their signatures."""
    found, csrs, _signed = elsewhere(tmp_path)
    path = tmp_path / "signing/infra0/server.csr"
    again = _pki_steps.step_request(spec(tmp_path), found["ca"], False, NOW)["csrs"]
    assert again["server"] != csrs["server"]
    assert not collect(tmp_path, found["ca"], again)["changed"] and path.read_text() == csrs["server"]
    shutil.rmtree(tmp_path / "work")
    other = _pki_steps.step_request(spec(tmp_path), found["ca"], False, NOW)["csrs"]
    seen = collect(tmp_path, found["ca"], other, check=True)
    assert "infra0/server.csr: new key or new contents" in seen["reasons"]
    assert path.read_text() == csrs["server"]
    collect(tmp_path, found["ca"], other)
    assert path.read_text() == other["server"]


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("empty", "empty"),
        ("garbage", "not a PEM certificate"),
        ("peer", "its key belongs to another certificate"),
        ("foreign", "signed by another CA (etcd-ca)"),
        ("usages", "its extended key usages are serverAuth"),
        ("late", "expired on"),
        ("window", "89 days left of 365"),
        ("in use", "this is the certificate in use"),
    ],
)
def test_certificates_that_are_not_accepted(tmp_path: Path, how: str, words: str) -> None:
    found, csrs, signed = elsewhere(tmp_path)
    place = tmp_path / "signing" / "infra0"
    for kind, text in signed.items():
        (place / f"{kind}.crt").write_text(text)
    now, more = NOW, {}
    path = place / "server.crt"
    if how in ("empty", "garbage"):
        path.write_text("" if how == "empty" else "garbage")
    elif how == "peer":
        path.write_text(signed["peer"])
    elif how == "foreign":
        issue(tmp_path / "foreign")
        other = _pki_steps.step_sign(spec(tmp_path / "foreign", ca_host=True), entry(csrs), False, NOW)["signed"]
        path.write_text(other["infra0"]["server"])
    elif how == "usages":
        (tmp_path / "ext").write_text(
            "subjectAltName=DNS:infra0,DNS:localhost,IP:10.0.0.6,IP:127.0.0.1,IP:::1\nbasicConstraints=critical,CA:FALSE\n"
            "keyUsage=critical,digitalSignature,keyEncipherment\nextendedKeyUsage=serverAuth\n"
        )
        authority = [str(tmp_path / "ca/pki/etcd" / name) for name in ("ca.crt", "ca.key")]
        openssl(
            *("x509", "-req", "-in", str(place / "server.csr"), "-out", str(path), "-days", "365", "-set_serial", "9"),
            *("-CA", authority[0], "-CAkey", authority[1], "-extfile", str(tmp_path / "ext")),
        )
        now = LATER
    elif how == "late":
        now = NOW + timedelta(days=366)
    elif how == "window":
        now = NOW + timedelta(days=276)
    else:
        serial = _x509.load_certificate(signed["server"].encode()).serial_number
        more = {"serials": {"server": f"{serial:x}"}}
    result = collect(tmp_path, found["ca"], csrs, now=now, **more)
    assert result["signed"] == {}
    assert result["waiting"][0].startswith(f"infra0/server.crt: {words}"), result["waiting"]


def test_own_ca_without_its_key(tmp_path: Path) -> None:
    """Its certificate is installed. A key that is on the host already must match, and stays."""
    cert, key = own_ca(tmp_path)
    alone = spec(tmp_path / "alone", ca_host=True)
    assert _pki_steps.step_ca(alone, cert, None, "", False, LATER)["changed"]
    assert set(files(tmp_path / "alone")) == {"pki/etcd/ca.crt"}
    assert not _pki_steps.step_ca(alone, cert, None, "", False, LATER)["changed"]
    _other, other_key = own_ca(tmp_path / "other")
    for name, text in (("fits", key), ("foreign", other_key)):
        (tmp_path / name / "pki/etcd").mkdir(parents=True)
        (tmp_path / name / "pki/etcd/ca.key").write_text(text)
    _pki_steps.step_ca(spec(tmp_path / "fits", ca_host=True), cert, None, "", False, LATER)
    assert (tmp_path / "fits/pki/etcd/ca.key").read_text() == key
    before = files(tmp_path / "foreign")
    for given in (None, key):
        with pytest.raises(EtcdError, match=r"ca.key is not the key of the given CA certificate"):
            _pki_steps.step_ca(spec(tmp_path / "foreign", ca_host=True), cert, given, "", False, LATER)
        assert files(tmp_path / "foreign") == before
    with pytest.raises(EtcdError, match="ca_key is set and ca_cert is not"):
        _pki_steps.step_ca(alone, None, key, "", False, LATER)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("-addext", "keyUsage=critical,cRLSign"), "must not sign certificates (its key usage lacks keyCertSign)"),
        (("-addext", "extendedKeyUsage=serverAuth"), "may only sign for serverAuth"),
        (("-addext", "extendedKeyUsage=serverAuth,clientAuth"), ""),
        (("-addext", "extendedKeyUsage=anyExtendedKeyUsage"), ""),
        (("-addext", "nameConstraints=permitted;DNS:example.com"), "do not allow localhost"),
        (("-newkey", "rsa:1024"), "has an RSA key of 1024 bits, which is too weak"),
        (("-newkey", "ed25519"), "has a key that kubeadm does not support (Ed25519PublicKey)"),
    ],
)
def test_ca_that_etcd_would_not_accept(tmp_path: Path, arguments: tuple[str, ...], words: str) -> None:
    cert, key = own_ca(tmp_path, *arguments)
    problems = _pki.check_own_ca(cert, key, "", LATER)
    assert [words in text for text in problems] == ([True] if words else []), problems
    # The same without the key, except for problems of the key itself.
    assert bool(_pki.check_own_ca(cert, None, "", LATER)) == bool(words)


def test_intermediate_is_what_is_installed(tmp_path: Path) -> None:
    """The root in the same file is left out: members would accept all clients that it has signed."""
    root, root_key = own_ca(tmp_path / "root")
    (tmp_path / "ext").write_text("basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign\n")
    request = ("req", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=between", "-keyout", f"{tmp_path}/k", "-out")
    openssl(*request, f"{tmp_path}/r")
    openssl(
        *(
            "x509",
            "-req",
            "-in",
            f"{tmp_path}/r",
            "-CA",
            f"{tmp_path}/root/own.crt",
            "-CAkey",
            f"{tmp_path}/root/own.key",
        ),
        *("-set_serial", "3", "-days", "800", "-extfile", f"{tmp_path}/ext", "-out", f"{tmp_path}/c"),
    )
    cert, key = (tmp_path / "c").read_text(), (tmp_path / "k").read_text()
    it = spec(tmp_path, ca_host=True)
    _pki_steps.step_ca(it, cert + root, key, "", False, LATER)
    assert (tmp_path / "pki/etcd/ca.crt").read_text() == cert
    assert not _pki_steps.step_ca(it, cert + root, key, "", False, LATER)["changed"]
    for bundle, words in (
        (root + cert, "etcd_ca_key is not the key of etcd_ca_cert"),
        (
            cert + own_ca(tmp_path / "stranger")[0],
            "certificate 1 (between) is not signed by the next one in the file (mine)",
        ),
    ):
        found = " ".join(_pki.check_own_ca(bundle, key, "", LATER))
        assert words in found or "is not signed by the next one in the file" in found, found
    assert root_key


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
    with pytest.raises(EtcdError, match="is not the CA in ca_cert"):
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
    with pytest.raises(EtcdError, match="is not the CA in etcd_ca_cert"):
        _pki_steps.step_ca(it, other_cert, other_key, "", False, LATER)


def test_what_is_wrong_with_an_own_ca(tmp_path: Path) -> None:
    cert, key = own_ca(tmp_path)
    _other, other_key = own_ca(tmp_path / "other")
    leaf, leaf_key = own_ca(tmp_path / "leaf", "-addext", "basicConstraints=critical,CA:FALSE")
    locked = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nx\n-----END ENCRYPTED PRIVATE KEY-----\n"
    assert _pki.check_own_ca(cert, key, "", LATER) == []
    for arguments, words in (
        (("garbage", key, LATER), "etcd_ca_cert is not a PEM certificate"),
        ((cert, "garbage", LATER), "etcd_ca_key is not a private key"),
        ((cert, locked, LATER), "is encrypted"),
        ((cert, other_key, LATER), "is not the key of"),
        ((leaf, leaf_key, LATER), "is not a CA certificate"),
        ((cert, key, NOW + timedelta(days=901)), "expired on"),
    ):
        assert any(words in text for text in _pki.check_own_ca(*arguments[:2], "", arguments[2])), words


# --- A CA whose certificate is renewed, or ends -------------------------------------------------------------------------


def renewed(where: Path, days: int = 3650, subject: str = "") -> str:
    """A new certificate of the CA with the same key, by the command of the warning."""
    pki = where / "pki/etcd"
    more = ("-subj", subject) if subject else ()
    if subject:
        openssl(
            *("req", "-x509", "-new", "-key", str(pki / "ca.key"), "-days", str(days), "-out", str(where / "new")),
            *more,
        )
    else:
        openssl(
            *("x509", "-in", str(pki / "ca.crt"), "-signkey", str(pki / "ca.key"), "-days", str(days)),
            *("-set_serial", "0x77", "-out", str(where / "new")),
        )
    return (where / "new").read_text()


def test_a_renewed_certificate_of_the_same_ca(tmp_path: Path) -> None:
    """Members get it. Their certificates stay valid and are not issued again."""
    old = issue(tmp_path)["ca"]["ca_cert"]
    before = files(tmp_path)
    new = renewed(tmp_path)
    ids = [_x509.authority_id(_x509.load_certificate(text.encode())) for text in (old, new)]
    assert ids[0] == ids[1] and old != new
    seen = _pki.observe(spec(tmp_path), LATER, new)
    assert (
        texts(seen.reasons) == ["etcd/ca.crt: another certificate of the same CA"]
        and seen.foreign == []
        and seen.usable
    )
    result = _pki_steps.step_install(spec(tmp_path), new, {}, False, LATER)
    assert result["changed"] and (tmp_path / "pki/etcd/ca.crt").read_text() == new
    changed = {name for name, data in files(tmp_path).items() if before.get(name) != data}
    assert changed == {"pki/etcd/ca.crt", "new"}
    assert not _pki_steps.step_install(spec(tmp_path), new, {}, False, LATER)["changed"]


def test_own_ca_that_was_renewed_is_brought_in(tmp_path: Path) -> None:
    """The later of two certificates of a CA stays, whichever of them is in the inventory."""
    issue(tmp_path)
    new = renewed(tmp_path)
    old = (tmp_path / "pki/etcd/ca.crt").read_text()
    it = spec(tmp_path, ca_host=True)
    for check in (True, False):
        result = _pki_steps.step_ca(it, new, None, "", check, LATER)
        assert result["reasons"] == ["etcd/ca.crt: another certificate of the same CA"]
    assert (tmp_path / "pki/etcd/ca.crt").read_text() == new
    assert not _pki_steps.step_ca(it, old, None, "", False, LATER)["changed"]
    assert (tmp_path / "pki/etcd/ca.crt").read_text() == new


def test_the_same_key_under_another_name_is_another_ca(tmp_path: Path) -> None:
    """Go compares the bytes of names: etcd-ca as UTF8String is not the etcd-ca of kubeadm, a PrintableString."""
    issue(tmp_path)
    authority = _x509.load_certificate((tmp_path / "pki/etcd/ca.crt").read_bytes())
    leaf = _x509.load_certificate((tmp_path / "pki/etcd/server.crt").read_bytes())
    assert _x509.signed_by(leaf, authority)
    (tmp_path / "c").write_text(
        "[req]\ndistinguished_name=dn\nprompt=no\nstring_mask=pkix\n[dn]\nCN=etcd-ca\n[v3]\nbasicConstraints=critical,CA:TRUE\n"
    )
    for mask, same in (("pkix", False), ("utf8only", True)):
        text = (tmp_path / "c").read_text().replace("pkix", mask)
        (tmp_path / mask).write_text(text)
        openssl(
            *("req", "-x509", "-new", "-key", str(tmp_path / "pki/etcd/ca.key"), "-config", str(tmp_path / mask)),
            *("-extensions", "v3", "-days", "9", "-out", str(tmp_path / f"{mask}.crt")),
        )
        other = _x509.load_certificate((tmp_path / f"{mask}.crt").read_bytes())
        assert _x509.common_name(other.subject) == "etcd-ca" and _x509.signed_by(leaf, other) is same
        assert _x509.authority_id(other) != _x509.authority_id(authority)


def test_leaves_under_a_ca_that_ends_soon(tmp_path: Path) -> None:
    """They expire with the CA. The run warns, and does not issue them again, since new ones would not last longer."""
    periods = {"ca_certificate_validity_period": "1440h"}
    issue(tmp_path, **periods)
    before = files(tmp_path)
    issue(tmp_path, now=LATER, **periods)
    assert files(tmp_path) == before
    seen = _pki.observe(spec(tmp_path, ca_host=True), LATER)
    assert seen.reasons == [] and "in 59 days, and no certificate can last longer" in seen.warnings[0], seen.warnings
    assert "rotate_ca.yml -e etcd_ca_same_key=true" in seen.warnings[0]
    # In the last third of their life too.
    assert _pki.observe(spec(tmp_path, ca_host=True), NOW + timedelta(days=55)).reasons == []
    # Reported once, at the host that can renew it.
    assert "expires on" not in str(_pki.observe(spec(tmp_path), LATER).warnings)
    # With a renewed CA they are due in the last third of their life, and at once if they are asked for.
    (tmp_path / "pki/etcd/ca.crt").write_text(renewed(tmp_path))
    assert "the CA issued certificates for 60 days" in _pki.observe(spec(tmp_path, ca_host=True), LATER).warnings[0]
    assert len(_pki.observe(spec(tmp_path, ca_host=True), NOW + timedelta(days=41)).reasons) == 4
    issue(tmp_path, now=LATER, renew=["all"], **periods)
    assert _pki.observe(spec(tmp_path, ca_host=True), LATER).warnings == []


def test_no_warning_for_a_ca_that_is_far_from_its_end(tmp_path: Path) -> None:
    issue(tmp_path)
    assert _pki.observe(spec(tmp_path, ca_host=True), NOW + timedelta(days=300)).warnings == []


@pytest.mark.parametrize(
    ("life", "age", "due"),
    [
        (32, 1, False),
        (32, 20, False),
        (32, 22, True),
        (90, 59, False),
        (91, 59, False),
        (91, 61, True),
        (300, 209, False),
        (300, 211, True),
    ],
)
def test_certificates_whose_life_is_shorter_than_the_window(tmp_path: Path, life: int, age: int, due: bool) -> None:
    """An external CA decides on the validity. The certificate is kept until its last third, with a warning that names the variable."""
    short = {"certificate_validity_period": f"{life * 24}h", "renewal_window": "1h"}
    found, csrs, _signed = elsewhere(tmp_path)
    authority = spec(tmp_path / "ca", ca_host=True, **short)
    signed = _pki_steps.step_sign(authority, entry(csrs), False, NOW)["signed"]["infra0"]
    for kind, text in signed.items():
        (tmp_path / "signing/infra0" / f"{kind}.crt").write_text(text)
    taken = collect(tmp_path, found["ca"], csrs)
    assert taken["waiting"] == []
    _pki_steps.step_install(spec(tmp_path), found["ca"], taken["signed"]["infra0"], False, NOW)
    seen = _pki.observe(spec(tmp_path), NOW + timedelta(days=age))
    assert bool(seen.reasons) == due
    assert bool(seen.warnings) == (life < 270)
    if life < 270:
        assert f"for {life} days, too short for etcd_certificate_renewal_window (90 days)" in seen.warnings[0]


@pytest.mark.parametrize("name", ["MÜLLER GmbH", "Société"])
def test_ca_with_a_name_that_is_not_utf_8(tmp_path: Path, name: str) -> None:
    """Names of old CAs are not always UTF-8. The CA is refused on the controller, and no such file gives a traceback."""
    (tmp_path / "c").write_bytes(
        f"[req]\ndistinguished_name=dn\nprompt=no\nstring_mask=default\n[dn]\nO={name}\nCN=old\n[v3]\nbasicConstraints=CA:TRUE\n".encode(
            "latin-1"
        )
    )
    cert, key = tmp_path / "ca.crt", tmp_path / "ca.key"
    openssl(
        *("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-config", str(tmp_path / "c"), "-extensions", "v3"),
        *("-days", "900", "-keyout", str(key), "-out", str(cert)),
    )
    for given in (key.read_text(), None):
        problems = _pki.check_own_ca(cert.read_text(), given, "", LATER)
        assert len(problems) == 1 and "etcd_ca_cert is a certificate with a name that is not in UTF-8" in problems[0]
    with pytest.raises(EtcdError, match="not in UTF-8"):
        _pki_steps.step_ca(spec(tmp_path, ca_host=True), cert.read_text(), key.read_text(), "", False, LATER)
    issue(tmp_path / "a")
    for place in ("ca.crt", "server.crt"):
        shutil.copy(cert, tmp_path / "a/pki/etcd" / place)
        seen = _pki.observe(spec(tmp_path / "a", ca_host=True), LATER)
        said = [*texts(seen.reasons), *(problem.text for problem in seen.ca_problems)]
        assert any("not in UTF-8" in text for text in said), said


# --- A CA's key on its way ---------------------------------------------------------------------------------------------


def test_the_users_ca_key_travels_sealed(tmp_path: Path) -> None:
    """Only the host can open it, and only once. No result has any part of a key, and no temporary key is left."""
    cert, key = own_ca(tmp_path)
    it = spec(tmp_path, ca_host=True)
    transport = _pki_steps.step_transport(it, False)
    waiting = Path(it.transport)
    assert stat.S_IMODE(waiting.stat().st_mode) == 0o600 and "PRIVATE" not in repr(transport)
    sealed = _making.seal(_making.key_pem(_x509.load_key(key.encode())), transport["transport_key"])
    assert key.splitlines()[1] not in sealed
    (opened,) = _pki_steps.unsealed(it, [sealed], False)
    assert not waiting.exists() and opened
    assert _pki_steps.step_ca(it, cert, opened, "", False, LATER)["reasons"] == ["etcd/ca.crt: missing"]
    assert (
        _x509.load_key((tmp_path / "pki/etcd/ca.key").read_bytes()).private_numbers()
        == _x509.load_key(key.encode()).private_numbers()
    )
    with pytest.raises(EtcdError, match="encrypted for another run"):
        _pki_steps.unsealed(it, [sealed], False)


@pytest.mark.parametrize("how", ["another host", "changed", "cut off", "no base64", "empty"])
def test_a_sealed_key_that_cannot_be_opened(tmp_path: Path, how: str) -> None:
    """The transport key is still removed."""
    it, other = spec(tmp_path), spec(tmp_path / "other")
    ours, theirs = (_pki_steps.step_transport(host, False)["transport_key"] for host in (it, other))
    sealed = _making.seal(b"secret", theirs if how == "another host" else ours)
    raw = bytearray(base64.b64decode(sealed))
    raw[-1] ^= 1
    sealed = {
        "changed": base64.b64encode(bytes(raw)).decode(),
        "cut off": sealed[:80],
        "no base64": "?" + sealed,
        "empty": "",
    }.get(how, sealed)
    with pytest.raises(EtcdError, match="cannot be decrypted"):
        _pki_steps.unsealed(it, [sealed], False)
    assert not Path(it.transport).exists()


def test_nothing_is_sealed_for_an_invalid_transport_key() -> None:
    for recipient in ("", _making.public_pem(_making.make_key("RSA-2048").public_key())):
        with pytest.raises(ValueError, match=r"\w"):
            _making.seal(b"secret", recipient)


def test_check_mode_of_a_ca_whose_key_is_sent(tmp_path: Path) -> None:
    """It reports the changes of the real run, and makes no transport key on the host."""
    cert, key = own_ca(tmp_path)
    (tmp_path / "pki/etcd").mkdir(parents=True)
    (tmp_path / "pki/etcd/ca.crt").write_text(cert)
    it = spec(tmp_path, ca_host=True)
    assert _pki_steps.step_transport(it, True)["transport_key"] and not Path(it.transport).exists()
    assert _pki_steps.unsealed(it, ["x"], True) == []
    check = _pki_steps.step_ca(it, cert, None, "", True, LATER, has_key=True)
    before = os.stat(tmp_path / "pki/etcd/ca.crt").st_mtime_ns
    real = _pki_steps.step_ca(it, cert, key, "", False, LATER)
    assert check["reasons"] == real["reasons"] == ["etcd/ca.key: missing"]
    # Its time tells whether a running etcd has read it.
    assert os.stat(tmp_path / "pki/etcd/ca.crt").st_mtime_ns == before and (tmp_path / "pki/etcd/ca.key").exists()


def test_a_transport_key_of_a_killed_run_is_swept(tmp_path: Path) -> None:
    issue(tmp_path)
    it = spec(tmp_path, ca_host=True)
    _pki_steps.step_transport(it, False)
    assert texts(_pki.observe(it, NOW).reasons) == [
        "work/.kubeadm-etcd-transport.key: left over from a run that was killed"
    ]
    issue(tmp_path)
    assert not Path(it.transport).exists() and _pki.observe(it, NOW).reasons == []


# --- Where keys are ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["pki", "pki/etcd", "work"])
def test_directory_of_keys_that_others_may_write_to(tmp_path: Path, name: str) -> None:
    issue(tmp_path)
    (tmp_path / "work").mkdir(exist_ok=True)
    (tmp_path / name).chmod(0o777)
    seen = _pki.observe(spec(tmp_path, ca_host=True), NOW)
    assert (
        texts(seen.reasons) == [f"{tmp_path / name}: mode is 0777, writable by users other than root"] and seen.usable
    )
    issue(tmp_path)
    assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o755
    assert _pki.observe(spec(tmp_path, ca_host=True), NOW).reasons == []


@pytest.mark.parametrize("name", ["pki", "pki/etcd"])
def test_file_in_the_place_of_a_directory(tmp_path: Path, name: str) -> None:
    """A clear error. The file stays."""
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text("somebody's")
    seen = _pki.observe(spec(tmp_path, ca_host=True), NOW)
    assert f"{tmp_path / name} is not a directory" in " ".join(problem.text for problem in seen.ca_problems)


@pytest.mark.parametrize("how", ["another CA", "encrypted", "directory"])
def test_ca_key_that_is_not_a_copy_is_not_removed(tmp_path: Path, how: str) -> None:
    """It may be the only key of another CA."""
    issue(tmp_path)
    path = tmp_path / "pki/etcd/ca.key"
    path.unlink()
    if how == "directory":
        path.mkdir()
    elif how == "another CA":
        path.write_bytes(_making.key_pem(_making.make_key("ECDSA-P256")))
    else:
        path.write_text("-----BEGIN ENCRYPTED PRIVATE KEY-----\nx\n-----END ENCRYPTED PRIVATE KEY-----\n")
    warning = _pki.observe(spec(tmp_path), NOW).warnings[0]
    assert "ca.key exists, although this is not the CA host" in warning and "etcd_remove_stray_ca_keys" not in warning
    with pytest.raises(EtcdError, match="does not remove it"):
        _pki_steps.step_install(spec(tmp_path), None, {}, False, NOW, remove_ca_key=True)
    assert path.exists()


def test_requests_over_keys_that_stay_change_nothing(tmp_path: Path) -> None:
    """Check mode agrees: returning a request does not change the host."""
    issue(tmp_path)
    for options, changed in (({"renew": ["all"]}, False), ({"renew": ["all"], "renew_keys": True}, True)):
        results = [_pki_steps.step_request(spec(tmp_path, **options), None, check, NOW) for check in (True, False)]
        assert [result["changed"] for result in results] == [changed, changed]
        assert results[0]["reasons"] == results[1]["reasons"]


# --- Members that move -----------------------------------------------------------------------------------------------------


def test_leaves_keep_the_addresses_at_which_the_member_is_known(tmp_path: Path) -> None:
    """Until it has moved: then they are issued without them, and a further run changes nothing."""
    issue(tmp_path)
    moving = {"address": "10.0.0.66", "known_addresses": ["10.0.0.6", "10.0.0.66", "2001:DB8::1"]}
    assert spec(tmp_path, **moving).wanted_sans("peer") == [
        *("infra0", "localhost", "10.0.0.66", "127.0.0.1", "::1", "10.0.0.6", "2001:db8::1")
    ]
    assert spec(tmp_path, **moving).wanted_sans("healthcheck-client") == []
    reasons = issue(tmp_path, **moving)["install"]["reasons"]
    assert [reason.split(":")[0] for reason in reasons] == ["etcd/server.crt", "etcd/peer.crt"]
    assert "lack 10.0.0.66, 2001:db8::1" in reasons[0] and "in excess" not in reasons[0]
    moved = {"address": "10.0.0.66"}
    assert "have 10.0.0.6, 2001:db8::1 in excess" in issue(tmp_path, **moved)["install"]["reasons"][0]
    assert issue(tmp_path, **moved)["install"]["reasons"] == []


def test_a_member_does_not_choose_its_former_addresses(tmp_path: Path) -> None:
    """The signer takes them from the controller, not from the request."""
    issue(tmp_path)
    moving = spec(tmp_path / "member", address="10.0.0.66", known_addresses=["10.0.0.6"])
    csrs = _pki_steps.step_request(moving, None, False, NOW)["csrs"]
    it = spec(tmp_path, ca_host=True)
    with pytest.raises(EtcdError, match=r"it asks for infra0, localhost, 10.0.0.66, 127.0.0.1, ::1, 10.0.0.6, not"):
        _pki_steps.step_sign(it, entry(csrs, address="10.0.0.66"), False, NOW)
    known = entry(csrs, address="10.0.0.66", known_addresses=["10.0.0.6"])
    assert list(_pki_steps.step_sign(it, known, False, NOW)["signed"]["infra0"]) == list(csrs)


# --- What a running etcd trusts ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("loaded", "leaves", "since", "expected"),
    [
        # The CA that the process has read, the signer of the leaves, and the time of ca.crt.
        ("installed", "installed", "before", _pki.INSTALLED),
        # Renewed with the same key, even if backdated: the process has read the former certificate.
        ("installed", "installed", "after", _pki.EARLIER),
        # Exchanged by hand while it runs: the leaves are still those of the former CA, or have been issued by the new one.
        ("former", "former", "after", _pki.FORMER),
        ("former", "installed", "after", _pki.FORMER),
        # Exchanged while it did not run.
        ("installed", "former", "before", _pki.INSTALLED),
        ("installed", "former", "after", _pki.UNTRUSTED),
        ("nobody asks", "installed", "before", _pki.UNKNOWN),
        ("installed", "expired", "after", _pki.UNKNOWN),
        # Exchanged, and the leaves removed to be made again.
        ("former", "none", "after", _pki.UNPROVEN),
        ("installed", "none", "before", _pki.UNKNOWN),
    ],
)
def test_which_ca_runs(tmp_path: Path, loaded: str, leaves: str, since: str, expected: str) -> None:
    issue(tmp_path / "former")
    issue(tmp_path / "installed")
    where = tmp_path / ("former" if leaves == "former" else "installed")
    shutil.copytree(where / "pki", tmp_path / "pki")
    shutil.copy(tmp_path / "installed/pki/etcd/ca.crt", tmp_path / "pki/etcd/ca.crt")
    for path in [*(tmp_path / "pki").rglob("*.crt")] if leaves == "none" else []:
        if path.name != "ca.crt":
            path.unlink()
    trusted = _x509.load_certificate(
        (tmp_path / loaded.replace("nobody asks", "former") / "pki/etcd/ca.crt").read_bytes()
    )

    def accepts(cert: str, key: str) -> bool | None:
        assert key == cert.replace(".crt", ".key")
        return (
            None
            if loaded == "nobody asks"
            else _x509.signed_by(_x509.load_certificate(Path(cert).read_bytes()), trusted)
        )

    touched = os.stat(tmp_path / "pki/etcd/ca.crt").st_ctime
    started = touched + (60 if since == "before" else -60)
    now = NOW + timedelta(days=366 if leaves == "expired" else 0)
    assert _pki.trusted_ca(str(tmp_path / "pki"), started, accepts, now) == expected
    # A process with another mounted directory has not read this file.
    stale = _pki.trusted_ca(str(tmp_path / "pki"), started, accepts, now, stale=True)
    assert stale == (_pki.UNTRUSTED if (loaded, leaves, since) == ("installed", "former", "before") else expected)
    assert _pki.trusted_ca(str(tmp_path / "pki"), 0.0, accepts, now) == _pki.UNKNOWN


def test_a_member_that_runs_with_an_earlier_certificate_of_its_ca(tmp_path: Path) -> None:
    issue(tmp_path)
    (tmp_path / "pki/etcd/ca.crt").write_text(renewed(tmp_path))
    begin = _x509.not_before(_x509.load_certificate((tmp_path / "pki/etcd/ca.crt").read_bytes())).timestamp()
    found = [_pki.trusted_ca(str(tmp_path / "pki"), begin + s, lambda *_a: True, LATER) for s in (-600, 600)]
    assert found == [_pki.EARLIER, _pki.INSTALLED]
    (tmp_path / "pki/etcd/ca.crt").unlink()
    assert _pki.trusted_ca(str(tmp_path / "pki"), begin, lambda *_a: True, LATER) == _pki.UNKNOWN


@pytest.mark.parametrize(("text", "hours"), [("8760h", 8760.0), ("1h30m", 1.5), ("90s", 0.025), ("8760h0m0s", 8760.0)])
def test_durations(tmp_path: Path, text: str, hours: float) -> None:
    it = spec(tmp_path, certificate_validity_period=text, renewal_window="1s")
    assert it.validity == timedelta(hours=hours)


@pytest.mark.parametrize("text", ["", "365d", "1y", "3600", "0s", "-5h", "9999999h", "h"])
def test_bad_durations(tmp_path: Path, text: str) -> None:
    with pytest.raises(EtcdError, match=r"etcd_certificate_validity_period .* is not a period. Write hours"):
        spec(tmp_path, certificate_validity_period=text)


@pytest.mark.parametrize(
    "san", ["UPPER.example.com", "münchen.example", "bad_name", "a..b", "a.", "10.0.0.0/24", " x", ""]
)
def test_bad_sans(tmp_path: Path, san: str) -> None:
    with pytest.raises(EtcdError, match=r"etcd_server_cert_sans: .* is neither"):
        spec(tmp_path, server_cert_sans=[san])


def test_window_that_would_renew_for_ever(tmp_path: Path) -> None:
    with pytest.raises(EtcdError, match="every run would renew"):
        spec(tmp_path, certificate_validity_period="100h", renewal_window="100h")


@pytest.mark.parametrize(("version", "sha256"), [("v1.34.4", False), ("v1.35.0", True), ("v1.36.3", True)])
def test_key_identifier_of_the_ca(tmp_path: Path, version: str, sha256: bool) -> None:
    it = spec(tmp_path, kubernetes_version=version)
    certificate = _pki_steps.make_authority(it, _making.make_key("ECDSA-P256"), NOW)
    sha1 = _x509.x509.SubjectKeyIdentifier.from_public_key(certificate.public_key())
    found = certificate.extensions.get_extension_for_class(_x509.x509.SubjectKeyIdentifier).value
    assert (found != sha1) is sha256 and len(found.digest) == 20


PLANE = {"name": "control0", "address": "", "kinds": ["apiserver-etcd-client"]}


def test_a_control_plane_host_gets_one_certificate(tmp_path: Path) -> None:
    """Its own key, the certificate and ca.crt. Other files in the directory are ignored."""
    it = spec(tmp_path / "ca", ca_host=True)
    ca_cert = _pki_steps.step_ca(it, None, None, "", False, NOW)["ca_cert"]
    plane = spec(tmp_path / "plane", **PLANE)
    (tmp_path / "plane/pki/etcd").mkdir(parents=True)
    (tmp_path / "plane/pki/etcd/server.crt").write_text("garbage")
    assert texts(_pki.observe(plane, NOW).reasons) == [
        "etcd/ca.crt: missing",
        "apiserver-etcd-client.crt: issued, the certificate is missing, the key is missing",
    ]
    asked = _pki_steps.step_request(plane, ca_cert, False, NOW)
    assert list(asked["csrs"]) == ["apiserver-etcd-client"]
    planned = _pki_steps.step_install(plane, ca_cert, {}, True, NOW)
    assert planned["changed"] and "server:" not in planned["diff"]["after"]
    signed = _pki_steps.step_sign(it, [{**PLANE, "host": "control0", "csrs": asked["csrs"]}], False, NOW)["signed"]
    installed = _pki_steps.step_install(plane, ca_cert, signed["control0"], False, NOW)
    assert [item["kind"] for item in installed["certificates"]] == ["apiserver-etcd-client"]
    assert sorted(files(tmp_path / "plane/pki")) == [
        "apiserver-etcd-client.crt",
        "apiserver-etcd-client.key",
        "etcd/ca.crt",
        "etcd/server.crt",
    ]
    assert _pki.observe(plane, NOW).reasons == []
    certificate = str(tmp_path / "plane/pki/apiserver-etcd-client.crt")
    assert ": OK" in openssl(
        "verify", "-CAfile", str(tmp_path / "ca/pki/etcd/ca.crt"), "-purpose", "sslclient", certificate
    )
    assert "CN = kube-apiserver-etcd-client" in openssl("x509", "-in", certificate, "-noout", "-subject")


def test_a_control_plane_host_cannot_become_a_member(tmp_path: Path) -> None:
    """The CA host signs only what the inventory gives a host, whatever the request asks for."""
    it = spec(tmp_path / "ca", ca_host=True)
    _pki_steps.step_ca(it, None, None, "", False, NOW)
    greedy = spec(tmp_path / "plane", name="control0", address="10.0.0.9")
    csrs = _pki_steps.step_request(greedy, None, False, NOW)["csrs"]
    with pytest.raises(EtcdError) as error:
        _pki_steps.step_sign(
            it, [{**PLANE, "address": "10.0.0.9", "host": "control0", "csrs": {**csrs, "x": "y"}}], False, NOW
        )
    for kind in ("server", "peer", "healthcheck-client", "x"):
        assert f"control0: the request for {kind} is refused: this host may only have apiserver-etcd-client." in str(
            error.value
        )


def test_server_and_peer_certificates_need_an_address(tmp_path: Path) -> None:
    for kinds in (["server"], ["peer", "apiserver-etcd-client"]):
        with pytest.raises(EtcdError, match="is not an IP address"):
            spec(tmp_path, address="", kinds=kinds)
    assert spec(tmp_path, address="", kinds=["healthcheck-client"]).wanted_sans("healthcheck-client") == []


def test_a_key_in_the_file_of_a_certificate_stays_there(tmp_path: Path) -> None:
    """A PEM with certificate and key, as many tools write it: the observation and the CA step return the certificate only."""
    issue(tmp_path)
    path = tmp_path / "pki/etcd/ca.crt"
    certificate = path.read_text()
    path.write_text((tmp_path / "pki/etcd/ca.key").read_text() + certificate)
    seen = _pki.observe(spec(tmp_path, ca_host=True), NOW)
    assert "PRIVATE" not in str(dataclasses.asdict(seen)) and "contains a private key" in seen.warnings[0]
    assert seen.ca_cert == certificate and seen.reasons == []
    result = _pki_steps.step_ca(spec(tmp_path, ca_host=True), None, None, "", False, NOW)
    assert "PRIVATE" not in str(result) and result["ca_cert"] == certificate


def test_a_transport_key_is_not_written_through_a_link(tmp_path: Path) -> None:
    it = spec(tmp_path, ca_host=True)
    outside = tmp_path / "outside"
    outside.write_text("x")
    Path(it.transport).parent.mkdir(parents=True)
    Path(it.transport).symlink_to(outside)
    _pki_steps.step_transport(it, False)
    assert outside.read_text() == "x" and not Path(it.transport).is_symlink()


def test_reasons_to_issue_and_reasons_to_repair(tmp_path: Path) -> None:
    issue(tmp_path)
    (tmp_path / "pki").chmod(0o777)
    (tmp_path / "pki/etcd/.kubeadm-etcd-0123").write_text("x")
    seen = _pki.observe(spec(tmp_path, ca_host=True), NOW)
    assert len(seen.reasons) == 2 and seen.due == []
    (tmp_path / "pki/etcd/peer.crt").unlink()
    assert _pki.observe(spec(tmp_path, ca_host=True), NOW).due == ["peer"]


def test_addresses_are_compared_and_not_their_spelling() -> None:
    assert _pki.split_sans(["fd00::0:1", "a"]) == (["a"], ["fd00::1"])


def test_a_leaf_that_ends_with_its_ca(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CA may round down by seconds."""
    monkeypatch.setattr(_pki, "not_after", lambda end: end)
    minute = timedelta(minutes=1)
    assert _pki.ends_with_its_ca(NOW - minute, NOW) and _pki.ends_with_its_ca(NOW + minute, NOW)
    assert not _pki.ends_with_its_ca(NOW - minute - timedelta(seconds=1), NOW) and not _pki.ends_with_its_ca(NOW, None)


def test_the_window_of_a_ca_begins_with_its_first_second(tmp_path: Path) -> None:
    issue(tmp_path)
    it = spec(tmp_path, ca_host=True)
    authority = _x509.load_certificate((tmp_path / "pki/etcd/ca.crt").read_bytes())
    end, second = _x509.not_after(authority), timedelta(seconds=1)
    moments = [end - it.renewal_window - second, end - it.renewal_window, end - second, end]
    assert [bool(_pki.authority_warnings(it, authority, moment)) for moment in moments] == [False, True, True, False]


def test_leaves_are_judged_by_the_ca_that_is_wanted(tmp_path: Path) -> None:
    issue(tmp_path)
    issue(tmp_path / "other")
    wanted = (tmp_path / "other/pki/etcd/ca.crt").read_text()
    state = _pki.observe(spec(tmp_path), NOW, wanted)
    assert len(state.due) == 4 and not state.usable
    assert _pki.observe(spec(tmp_path), NOW, (tmp_path / "pki/etcd/ca.crt").read_text()).due == []
    asked = _pki.observe(spec(tmp_path, renew=["server"]), NOW)
    assert asked.due == ["server"] and asked.usable


def test_a_ca_host_without_a_ca_and_one_without_its_key(tmp_path: Path) -> None:
    """The first run makes a CA. A key that is kept elsewhere is no broken key."""
    assert _pki.observe(spec(tmp_path, ca_host=True), NOW).ca_problems == []
    issue(tmp_path)
    key = tmp_path / "pki/etcd/ca.key"
    key.unlink()
    assert [item.code for item in _pki.observe(spec(tmp_path, ca_host=True), NOW).ca_problems] == []


def test_modes_of_the_ca_are_repaired(tmp_path: Path) -> None:
    issue(tmp_path)
    files = {tmp_path / "pki/etcd/ca.key": 0o600, tmp_path / "pki/etcd/ca.crt": 0o644}
    for path, mode in files.items():
        path.chmod(0o640)
        it = spec(tmp_path, ca_host=True)
        check = _pki_steps.step_ca(it, None, None, "", True, NOW)
        assert check["reasons"] == [f"etcd/{path.name}: mode is 0640, not {mode:04o}"]
        assert stat.S_IMODE(path.stat().st_mode) == 0o640
        assert _pki_steps.step_ca(it, None, None, "", False, NOW)["reasons"] == check["reasons"]
        assert stat.S_IMODE(path.stat().st_mode) == mode


def test_the_mode_of_a_key_of_another_ca_is_repaired(tmp_path: Path) -> None:
    """It is still a private key. Other checks refuse to sign with it."""
    issue(tmp_path)
    path = tmp_path / "pki/etcd/ca.key"
    foreign = (tmp_path / "pki/etcd/server.key").read_bytes()
    path.write_bytes(foreign)
    path.chmod(0o644)
    done = _pki_steps.step_ca(spec(tmp_path, ca_host=True), None, None, "", False, NOW)
    assert done["reasons"] == ["etcd/ca.key: mode is 0644, not 0600"] and path.read_bytes() == foreign
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_nothing_is_signed_with_the_key_of_another_ca(tmp_path: Path) -> None:
    issue(tmp_path)
    issue(tmp_path / "other")
    shutil.copy(tmp_path / "other/pki/etcd/ca.key", tmp_path / "pki/etcd/ca.key")
    with pytest.raises(EtcdError, match=r"ca\.key"):
        _pki_steps.step_sign(spec(tmp_path, ca_host=True), [], False, NOW)
