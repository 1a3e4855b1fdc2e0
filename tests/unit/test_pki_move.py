"""Moving the CA's key to another host, and a copy of it for a safe, with real files."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("cryptography")

from ansible_collections.kubeadm.etcd.plugins.module_utils._pki import making as _making
from ansible_collections.kubeadm.etcd.plugins.module_utils._pki import move as _move
from ansible_collections.kubeadm.etcd.plugins.module_utils._pki import state as _pki
from ansible_collections.kubeadm.etcd.plugins.module_utils._pki import steps as _pki_steps
from ansible_collections.kubeadm.etcd.plugins.module_utils._pki import x509 as _x509
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.errors import EtcdError
from test_pki import NOW, anybody, files, issue, spec

__all__ = ["anybody"]

PASSPHRASE = "correct horse battery staple"


@pytest.fixture
def hosts(tmp_path: Path) -> tuple[_pki.PkiSpec, _pki.PkiSpec]:
    """Two hosts of a cluster: the first one has the CA's key, the second one is to have it."""
    issue(tmp_path / "old")
    (tmp_path / "new/pki/etcd").mkdir(parents=True)
    shutil.copy(tmp_path / "old/pki/etcd/ca.crt", tmp_path / "new/pki/etcd/ca.crt")
    return spec(tmp_path / "old"), spec(tmp_path / "new")


def key_of(host: _pki.PkiSpec) -> bytes | None:
    path = Path(host.path("etcd/ca.key"))
    return path.read_bytes() if path.exists() else None


def sent(old: _pki.PkiSpec, new: _pki.PkiSpec) -> dict[str, Any]:
    return _move.step_send(old, _pki_steps.step_transport(new, False)["transport_key"], False)


def received(old: _pki.PkiSpec, new: _pki.PkiSpec) -> dict[str, Any]:
    message = sent(old, new)
    return _move.step_receive(new, message["sealed_key"], message["ca_cert"], False)


def test_the_key_moves_to_another_host(hosts: tuple[_pki.PkiSpec, _pki.PkiSpec]) -> None:
    old, new = hosts
    before = key_of(old)
    assert before
    message = sent(old, new)
    assert "PRIVATE" not in repr(message) and before.decode().splitlines()[1] not in repr(message)
    result = _move.step_receive(new, message["sealed_key"], message["ca_cert"], False)
    assert result["reasons"] == ["etcd/ca.key: brought here, this is the CA host"] and key_of(new) == before
    assert stat.S_IMODE(os.stat(new.path("etcd/ca.key")).st_mode) == 0o600 and not Path(new.transport).exists()
    assert "PRIVATE" not in repr(result)
    removed = _move.step_remove(old, result["ca_public_key"], False)
    assert removed["changed"] and key_of(old) is None
    # Again: nothing is left to do.
    assert not _move.step_remove(old, result["ca_public_key"], False)["changed"]
    again = _move.step_receive(new, "", None, False)
    assert not again["changed"] and again["ca_public_key"] == result["ca_public_key"]
    assert Path(new.claim).exists()
    end = spec(Path(new.pki_dir).parent, ca_host=True)
    assert not _move.step_remove(end, "", False)["changed"] and not Path(new.claim).exists() and key_of(new) == before


def test_check_mode_is_true_to_the_run(hosts: tuple[_pki.PkiSpec, _pki.PkiSpec], tmp_path: Path) -> None:
    old, new = hosts
    before = files(tmp_path)
    message = _move.step_send(old, _pki_steps.step_transport(new, True)["transport_key"], True)
    would = _move.step_receive(new, message["sealed_key"], message["ca_cert"], True)
    would_remove = _move.step_remove(old, would["ca_public_key"], True)
    _move.step_remove(spec(tmp_path / "new", ca_host=True), "", True)
    assert _move.step_export(old, "x", "", True)["exported"] == "" and files(tmp_path) == before
    did = received(old, new)
    assert (would["reasons"], would["ca_public_key"]) == (did["reasons"], did["ca_public_key"])
    assert would_remove["reasons"] == _move.step_remove(old, did["ca_public_key"], False)["reasons"]


def test_the_certificate_comes_along(hosts: tuple[_pki.PkiSpec, _pki.PkiSpec]) -> None:
    """To a host that has none, and to one with an earlier certificate of the same CA: the CA host's counts for all members."""
    old, new = hosts
    Path(new.path("etcd/ca.crt")).unlink()
    assert received(old, new)["reasons"][0] == "etcd/ca.crt: missing"
    Path(new.path("etcd/ca.key")).unlink()
    key = _x509.load_key(key_of(old))
    later = spec(Path(old.pki_dir).parent, ca_certificate_validity_period="99999h")
    Path(old.path("etcd/ca.crt")).write_text(_x509.certificate_pem(_pki_steps.make_authority(later, key, NOW)))
    assert received(old, new)["reasons"][0] == f"etcd/ca.crt: {_pki.RENEWED}"
    assert Path(new.path("etcd/ca.crt")).read_bytes() == Path(old.path("etcd/ca.crt")).read_bytes()


def test_what_is_never_replaced(hosts: tuple[_pki.PkiSpec, _pki.PkiSpec], tmp_path: Path) -> None:
    old, new = hosts
    issue(tmp_path / "other")
    other = spec(tmp_path / "other")
    before = files(tmp_path / "new")
    for source, words in ((other, "is not the CA whose key was sent"),):
        with pytest.raises(EtcdError, match=words):
            received(source, new)
        Path(new.transport).unlink()
    # Another key of the same sender, with the right certificate.
    message = sent(other, new)
    ours = Path(old.path("etcd/ca.crt")).read_text()
    with pytest.raises(EtcdError, match="the key that was sent is not the key of"):
        _move.step_receive(new, message["sealed_key"], ours, False)
    after = files(tmp_path / "new")
    assert {name: data for name, data in after.items() if "work" not in name} == before
    shutil.copy(other.path("etcd/ca.key"), new.path("etcd/ca.key"))
    with pytest.raises(EtcdError, match=r"ca\.key is not the key of"):
        received(old, new)
    assert key_of(new) == key_of(other) and key_of(old)


def test_a_key_that_the_ca_host_does_not_have_stays(hosts: tuple[_pki.PkiSpec, _pki.PkiSpec], tmp_path: Path) -> None:
    old, _new = hosts
    key = key_of(old)
    for proven in ("", "0" * 64):
        with pytest.raises(EtcdError, match="is not the key that the CA host has"):
            _move.step_remove(old, proven, False)
    public = _x509.public_fingerprint(_x509.load_key(key).public_key())
    target = tmp_path / "elsewhere.key"
    Path(old.path("etcd/ca.key")).rename(target)
    Path(old.path("etcd/ca.key")).symlink_to(target)
    with pytest.raises(EtcdError, match="it is a link to"):
        _move.step_remove(old, public, False)
    assert key_of(old) == key


def test_two_runs_in_opposite_directions(hosts: tuple[_pki.PkiSpec, _pki.PkiSpec], tmp_path: Path) -> None:
    """Both have seen the key on both hosts. Each verifies one copy before the other run removes the other copy."""
    old, new = hosts
    public = received(old, new)["ca_public_key"]
    _move.step_receive(old, "", None, False)
    for host in hosts:
        with pytest.raises(EtcdError, match="another run is bringing the CA's key to this host"):
            _move.step_remove(host, public, False)
    assert key_of(old) and key_of(new)
    # So does one that removes stray keys.
    with pytest.raises(EtcdError, match="another run is bringing"):
        _pki_steps.step_install(old, None, {}, False, NOW, remove_ca_key=True)
    # The claim of a killed run expires.
    ago = time.time() - 301
    os.utime(old.claim, (ago, ago))
    assert _move.step_remove(old, public, False)["changed"] and key_of(old) is None and key_of(new)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ("missing key", "ca.key: missing. Run again"),
        ("encrypted key", "no private key in PEM form without a passphrase"),
        ("missing certificate", "ca.crt: missing. Put back a copy"),
        ("another key", "ca.key is not the key of"),
    ],
)
def test_a_pair_that_cannot_sign_is_not_sent(hosts: tuple[_pki.PkiSpec, _pki.PkiSpec], damage: str, words: str) -> None:
    old, new = hosts
    key, cert = Path(old.path("etcd/ca.key")), Path(old.path("etcd/ca.crt"))
    if damage == "missing key":
        key.unlink()
    elif damage == "missing certificate":
        cert.unlink()
    else:
        made = _making.make_key("ECDSA-P256")
        loaded = _x509.load_key(key.read_bytes())
        key.write_bytes(
            _making.key_pem(made) if damage == "another key" else _making.encrypted_pem(loaded, PASSPHRASE).encode()
        )
    with pytest.raises(EtcdError, match=words):
        sent(old, new)


def test_nothing_is_sent_to_an_invalid_transport_key(hosts: tuple[_pki.PkiSpec, _pki.PkiSpec]) -> None:
    with pytest.raises(EtcdError, match="recipient is not a valid public key"):
        _move.step_send(hosts[0], "x", False)


# --- A copy for a safe -------------------------------------------------------------------------------------------------


def exported(host: _pki.PkiSpec, passphrase: str, copy: str = "") -> str:
    public = _pki_steps.step_transport(host, False)["transport_key"]
    sealed = [_making.seal(text.encode(), public) for text in (passphrase, copy)]
    result = _move.step_export(host, sealed[0], sealed[1] if copy else "", False)
    assert not Path(host.transport).exists() and not result["changed"]
    return str(result["exported"])


@pytest.mark.parametrize("algorithm", ["ECDSA-P256", "RSA-2048"])
def test_a_copy_opens_with_openssl(tmp_path: Path, algorithm: str) -> None:
    issue(tmp_path, encryption_algorithm=algorithm)
    host, copy = spec(tmp_path), tmp_path / "copy.pem"
    copy.write_text(exported(host, PASSPHRASE))
    assert copy.read_text().startswith("-----BEGIN ENCRYPTED PRIVATE" + " KEY-----")
    command = ["openssl", "pkey", "-in", str(copy), "-pubout", "-passin"]
    opened = subprocess.run([*command, f"pass:{PASSPHRASE}"], check=True, capture_output=True).stdout
    plain = ["openssl", "pkey", "-in", host.path("etcd/ca.key"), "-pubout"]
    assert opened == subprocess.run(plain, check=True, capture_output=True).stdout
    assert subprocess.run([*command, "pass:wrong"], check=False, capture_output=True).returncode != 0
    # Encryption gives a different text each time, so an existing copy is verified instead.
    assert exported(host, PASSPHRASE, copy.read_text()) == copy.read_text()


def test_a_file_that_is_no_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_making, "_ROUNDS", 1 << 16)
    for name in ("a", "b"):
        issue(tmp_path / name)
    host = spec(tmp_path / "a")
    key = key_of(host)
    assert key
    theirs = exported(spec(tmp_path / "b"), PASSPHRASE)
    for copy, words in (
        (exported(host, "another passphrase"), "opens with this passphrase"),
        (key.decode(), "opens with this passphrase"),
        ("a text\n", "opens with this passphrase"),
        (theirs, "the key of another CA"),
    ):
        with pytest.raises(EtcdError, match=words):
            exported(host, PASSPHRASE, copy)
