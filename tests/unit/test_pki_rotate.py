"""The files of a CA rotation."""

from __future__ import annotations

import contextlib
import os
import stat
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("cryptography")

from ansible_collections.kubeadm.etcd.plugins.module_utils._host import files as _files
from ansible_collections.kubeadm.etcd.plugins.module_utils._pki import rotate as _rotate
from ansible_collections.kubeadm.etcd.plugins.module_utils._pki import state as _pki
from ansible_collections.kubeadm.etcd.plugins.module_utils._pki import steps as _pki_steps
from ansible_collections.kubeadm.etcd.plugins.module_utils._pki import x509 as _x509
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.errors import EtcdError
from test_pki import LATER, MEMBER, NOW, anybody, files, issue, openssl, own_ca, spec

__all__ = ["anybody"]


@pytest.fixture(autouse=True)
def mine(anybody: None, monkeypatch: pytest.MonkeyPatch) -> None:
    me = (os.getuid(), os.getgid())
    monkeypatch.setattr(_rotate, "Replacement", lambda *a: _files.Replacement(*a, *me))
    monkeypatch.setattr(_rotate, "ensure_directory", _pki_steps.ensure_directory)


@pytest.fixture
def host(tmp_path: Path) -> _pki.PkiSpec:
    """A member that is the CA host, with all of its files."""
    issue(tmp_path)
    return spec(tmp_path, ca_host=True)


def text(host: _pki.PkiSpec, name: str = "etcd/ca.crt") -> str:
    return Path(host.path(name)).read_text()


def next_one(host: _pki.PkiSpec, **changes: Any) -> str:
    given = {"ca_cert": None, "ca_key": None, "passphrase": "", "check": False, **changes}
    return str(_rotate.step_next(host, **given, now=LATER if given["ca_cert"] else NOW)["ca_cert"])


def observed(host: _pki.PkiSpec) -> _pki.PkiState:
    return _pki.observe(host, NOW + timedelta(minutes=1))


def trusted(host: _pki.PkiSpec) -> tuple[str, str]:
    """The former and the new CA, after both are in ca.crt."""
    old, new = text(host), next_one(host)
    assert _rotate.step_trust(host, old + new, False)["changed"]
    return old, new


def reissued(host: _pki.PkiSpec, ca: str, **changes: Any) -> list[str]:
    """Request, sign and install as a run does; the reasons to issue."""
    wanted = replace(host, **changes)
    asked = _pki_steps.step_request(wanted, ca, False, NOW)
    entry = {**MEMBER, "host": "infra0", "csrs": asked["csrs"]}
    signed = _pki_steps.step_sign(wanted, [entry] if asked["csrs"] else [], False, NOW)["signed"].get("infra0", {})
    _pki_steps.step_install(wanted, ca, signed, False, NOW, replace_ca=wanted.first_ca_only)
    found: list[str] = asked["reasons"]
    return found


def test_a_new_ca_beside_the_one_in_use(host: _pki.PkiSpec, tmp_path: Path) -> None:
    before = files(tmp_path)
    assert _rotate.step_next(host, None, None, "", True, NOW)["changed"] and files(tmp_path) == before
    new = next_one(host)
    after = files(tmp_path)
    assert {name: data for name, data in after.items() if "ca-next" not in name} == before
    assert stat.S_IMODE(os.stat(host.path("etcd/ca-next.key")).st_mode) == 0o600
    assert next_one(host) == new and files(tmp_path) == after
    found = observed(host)
    assert found.next_ca and found.next_ca["has_key"] and found.next_ca["subject"].startswith("etcd-ca 2")
    # The files of the new CA are no reason to issue or repair.
    assert found.reasons == [] and found.due == [] and [item["subject"] for item in found.cas] == ["etcd-ca"]


def test_killed_between_its_key_and_its_certificate(host: _pki.PkiSpec) -> None:
    next_one(host)
    key = text(host, "etcd/ca-next.key")
    os.unlink(host.path("etcd/ca-next.crt"))
    next_one(host)
    assert text(host, "etcd/ca-next.key") == key and (observed(host).next_ca or {})["has_key"]
    os.unlink(host.path("etcd/ca-next.key"))
    with pytest.raises(EtcdError, match=r"ca-next\.key is missing"):
        next_one(host)


def test_the_users_own(host: _pki.PkiSpec, tmp_path: Path) -> None:
    cert, key = own_ca(tmp_path / "own")
    new = next_one(host, ca_cert=cert, ca_key=key)
    assert new == _pki.signing_certificate(cert) and (observed(host).next_ca or {})["subject"] == "mine"
    with pytest.raises(EtcdError, match="which is not etcd_ca_cert"):
        next_one(host, ca_cert=own_ca(tmp_path / "third")[0])


def test_a_ca_that_cannot_take_over(host: _pki.PkiSpec, tmp_path: Path) -> None:
    before = files(tmp_path)
    with pytest.raises(EtcdError, match="is the CA in use, so there is nothing to replace"):
        next_one(host, ca_cert=text(host), ca_key=text(host, "etcd/ca.key"))
    issue(tmp_path / "other")
    other = tmp_path / "other/pki/etcd"
    with pytest.raises(EtcdError, match="called etcd-ca, like the CA in use"):
        next_one(host, ca_cert=(other / "ca.crt").read_text(), ca_key=(other / "ca.key").read_text())
    assert {name: data for name, data in files(tmp_path).items() if name in before} == before
    assert not Path(host.path("etcd/ca-next.crt")).exists()


def test_ca_crt_never_loses_all_that_it_holds(host: _pki.PkiSpec, tmp_path: Path) -> None:
    old, new = text(host), next_one(host)
    with pytest.raises(EtcdError, match="contains none of the CAs of this rotation"):
        _rotate.step_trust(host, new, False)
    assert text(host) == old
    _rotate.step_trust(host, old + new, True)
    assert text(host) == old
    said = _rotate.step_trust(host, old + new, False)
    assert said["reasons"][0].startswith("etcd/ca.crt: holds etcd-ca and etcd-ca 2") and text(host) == old + new
    assert not _rotate.step_trust(host, old + new, False)["changed"]


def test_with_both_in_ca_crt_the_first_one_signs_and_nothing_is_due(host: _pki.PkiSpec) -> None:
    """Another run renews by the one that signs, and leaves ca.crt."""
    old, new = trusted(host)
    found = observed(host)
    assert found.reasons == [] and found.foreign == [] and found.warnings == []
    assert [item["id"] for item in found.cas] == [
        _x509.authority_id(_x509.load_certificate(p.encode())) for p in (old, new)
    ]
    # A renewal on a host that has one, or both the other way round.
    for stored in (old, new + old):
        Path(host.path("etcd/ca.crt")).write_text(stored if stored == old else old + new)
        assert reissued(host, old + new, renew=("server",)) == ["etcd/server.crt: renewed, requested"]
    assert text(host) == old + new


def test_a_control_plane_host_follows_to_the_end(host: _pki.PkiSpec) -> None:
    """Its ca.crt is still in the order of the phase trust when the former CA is dropped."""
    _old, new = trusted(host)
    bundle = _rotate.step_exchange(host, False)["ca_cert"]
    reissued(host, bundle, first_ca_only=True)
    Path(host.path("etcd/ca.crt")).write_text("".join(reversed([new, bundle[len(new) :]])))
    wanted = replace(host, first_ca_only=True)
    assert _pki_steps.step_install(wanted, new, {}, False, NOW)["changed"] and text(host) == new


def exchanged(host: _pki.PkiSpec) -> tuple[str, str, str]:
    old, new = trusted(host)
    before = text(host, "etcd/ca.key")
    bundle = _rotate.step_exchange(host, False)["ca_cert"]
    assert bundle == new + old == text(host)
    return old, new, before


def test_the_new_one_signs(host: _pki.PkiSpec, tmp_path: Path) -> None:
    old, new, former_key = exchanged(host)
    kept = {name: data.decode() for name, data in files(tmp_path).items() if "former-ca" in name}
    assert sorted(kept.values()) == sorted([old, former_key])
    assert stat.S_IMODE(os.stat(host.former).st_mode) == 0o700
    assert all(stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600 for name in kept)
    assert not [name for name in files(tmp_path) if "ca-next" in name]
    # site.yml leaves certificates of either; a renewal is by the new one; the phase issues all.
    found = observed(host)
    assert (
        found.reasons == []
        and found.ca_problems == []
        and [item["subject"] for item in found.former_cas] == ["etcd-ca"]
    )
    first = {item["kind"]: item["ca_id"] for item in found.certificates}
    assert reissued(host, new + old) == []
    assert reissued(host, new + old, renew=("peer",)) == ["etcd/peer.crt: renewed, requested"]
    second = {item["kind"]: item["ca_id"] for item in observed(host).certificates}
    assert [kind for kind in first if first[kind] != second[kind]] == ["peer"]
    assert len(reissued(host, new + old, first_ca_only=True)) == 3
    assert {item["ca_id"] for item in observed(host).certificates} == {second["peer"]}
    only = tmp_path / "only.crt"
    only.write_text(new)
    for name in ("etcd/server", "etcd/peer", "etcd/healthcheck-client", "apiserver-etcd-client"):
        assert ": OK" in openssl("verify", "-CAfile", str(only), host.path(name + ".crt"))
    assert _rotate.step_trust(host, new, False)["changed"] and observed(host).reasons == []


@pytest.mark.parametrize("done", range(5))
def test_an_exchange_that_was_killed(host: _pki.PkiSpec, done: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """After each of its renames and removals. No key is lost, and the next run finishes it."""
    old, new = trusted(host)
    keys = {text(host, "etcd/ca.key"), text(host, "etcd/ca-next.key")}
    left = [done]

    def killed(original: Any) -> Any:
        def act(*arguments: Any) -> None:
            if not left[0]:
                raise KeyboardInterrupt
            left[0] -= 1
            original(*arguments)

        return act

    def replace_files(items: list[Any]) -> None:
        for item in items:
            killed(_files.replace_files)([item])

    with monkeypatch.context() as patched:
        patched.setattr(_rotate, "replace_files", replace_files)
        patched.setattr(_rotate.os, "unlink", killed(os.unlink))
        with pytest.raises(KeyboardInterrupt):
            _rotate.step_exchange(host, False)
    there = {path.read_text() for path in Path(host.pki_dir).parent.rglob("*.key")}
    assert keys <= there
    assert _rotate.step_exchange(host, False)["ca_cert"] == new + old == text(host)
    assert text(host, "etcd/ca.key") in keys and observed(host).ca_problems == [] and observed(host).next_ca is None
    assert keys <= {path.read_text() for path in Path(host.pki_dir).parent.rglob("*.key")}


@pytest.mark.parametrize("done", range(4))
def test_a_ca_that_signs_elsewhere(
    host: _pki.PkiSpec, tmp_path: Path, done: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its key is never on the host. The key of the former CA is archived, whenever the run is killed."""
    old, key = text(host), text(host, "etcd/ca.key")
    cert = own_ca(tmp_path / "own")[0]
    new = next_one(host, ca_cert=cert)
    assert next_one(host, ca_cert=cert) == new and (observed(host).next_ca or {})["has_key"] is False
    assert not Path(host.path("etcd/ca-next.key")).exists()
    _rotate.step_trust(host, old + new, False)
    with pytest.raises(EtcdError, match="If this CA signs elsewhere, set etcd_ca_cert"):
        _rotate.step_exchange(host, False)
    left, unlink = [done], os.unlink

    def killed(path: str) -> None:
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        unlink(path)

    with monkeypatch.context() as patched, contextlib.suppress(KeyboardInterrupt):
        patched.setattr(_rotate.os, "unlink", killed)
        _rotate.step_exchange(host, False, elsewhere=True)
    assert _rotate.step_exchange(host, False, elsewhere=True)["ca_cert"] == new + old == text(host)
    assert not Path(host.path("etcd/ca.key")).exists() and observed(host).next_ca is None
    assert key in [path.read_text() for path in Path(host.former).glob("*.key")]
    # openssl has made it after NOW.
    found = _pki.observe(host, LATER)
    assert found.ca_problems == [] and found.foreign == []


def test_an_exchange_before_its_time(host: _pki.PkiSpec) -> None:
    old = text(host)
    next_one(host)
    with pytest.raises(EtcdError, match="does not contain the new CA yet"):
        _rotate.step_exchange(host, False)
    assert text(host) == old
    trusted(host)
    assert _rotate.step_exchange(host, True)["changed"] and text(host).startswith(old)


def test_an_emergency_takes_the_former_ca_out_at_once(host: _pki.PkiSpec, tmp_path: Path) -> None:
    """Certificates that the new CA has signed before are installed afterwards. After a kill in between, the next run signs with ca.key."""
    old, new = text(host), next_one(host)
    keys = {text(host, "etcd/ca.key"), text(host, "etcd/ca-next.key")}
    wanted = replace(host, first_ca_only=True)
    csrs = _pki_steps.step_request(wanted, new, False, NOW)["csrs"]
    entry = {**MEMBER, "host": "infra0", "csrs": csrs}
    before = files(tmp_path)
    signed = _pki_steps.step_sign(wanted, [entry], False, NOW, by_next=True)["signed"]["infra0"]
    assert files(tmp_path) == before and len(signed) == 4
    assert _rotate.step_exchange(host, False, alone=True)["ca_cert"] == new == text(host)
    assert keys <= {path.read_text() for path in Path(host.pki_dir).parent.rglob("*.key")}
    assert old in [data.decode() for name, data in files(tmp_path).items() if "former-ca" in name]
    assert observed(host).next_ca is None and observed(host).ca_problems == []
    again = _pki_steps.step_sign(wanted, [entry], False, NOW)["signed"]["infra0"]
    for certificates in (signed, again):
        _pki_steps.step_install(wanted, new, certificates, False, NOW, replace_ca=True)
        assert observed(host).reasons == [] and observed(host).foreign == [] and text(host) == new
    os.unlink(host.path("etcd/ca.key"))
    with pytest.raises(EtcdError, match=r"ca\.key is missing or cannot be used"):
        _pki_steps.step_sign(wanted, [entry], False, NOW)


def test_another_certificate_over_the_same_key(host: _pki.PkiSpec, tmp_path: Path) -> None:
    """All certificates of the CA stay valid, for openssl too. A new one is made only if it expires later."""
    before, key = text(host), text(host, "etcd/ca.key")
    assert not _rotate.step_renew(host, None, False, NOW)["changed"] and text(host) == before
    assert _rotate.step_renew(host, None, True, LATER)["changed"] and text(host) == before
    stray = next_one(host)
    Path(host.path("etcd/ca.crt")).write_text(before + stray)
    said = _rotate.step_renew(host, None, False, LATER)
    assert said["ca_cert"] == text(host) and text(host).endswith(stray) and text(host, "etcd/ca.key") == key
    first, former = (_x509.load_certificate(item.encode()) for item in (text(host), before))
    assert _x509.authority_id(first) == _x509.authority_id(former) and first.serial_number != former.serial_number
    assert [(e.oid, e.critical, e.value) for e in first.extensions] == [
        (e.oid, e.critical, e.value) for e in former.extensions
    ]
    only = tmp_path / "only.crt"
    only.write_text(_x509.certificate_pem(first))
    for name in ("etcd/server", "etcd/peer", "etcd/healthcheck-client", "apiserver-etcd-client"):
        assert ": OK" in openssl("verify", "-no_check_time", "-CAfile", str(only), host.path(name + ".crt"))
    found = _pki.observe(host, LATER)
    assert found.foreign == [] and found.ca_self_signed and abs(found.ca_gain) < 400
    # The user's own, which may be older.
    assert not _rotate.step_renew(host, before, False, LATER)["changed"]
    with pytest.raises(EtcdError, match="is another CA than"):
        _rotate.step_renew(host, own_ca(tmp_path / "own")[0], False, LATER)
    os.unlink(host.path("etcd/ca.key"))
    with pytest.raises(EtcdError, match=r"ca\.key is missing"):
        _rotate.step_renew(host, None, False, LATER + timedelta(days=9))


def test_a_rotation_without_the_key_of_the_former_ca(host: _pki.PkiSpec, tmp_path: Path) -> None:
    os.unlink(host.path("etcd/ca.key"))
    old, _new = trusted(host)
    _rotate.step_exchange(host, False)
    kept = [data.decode() for name, data in files(tmp_path).items() if "former-ca" in name]
    assert kept == [old] and observed(host).ca_problems == []


@pytest.mark.parametrize(
    ("stored", "wanted", "first_only", "whole", "expected"),
    [
        ("ab", "ab", True, False, False),
        # The order is left to the rotation.
        ("ab", "ba", True, False, False),
        ("ab", "ba", True, True, True),
        ("a", "ba", True, False, True),
        ("ab", "b", True, False, True),
        ("ab", "b", False, False, False),
        ("a", "b", False, False, True),
    ],
)
def test_when_ca_crt_is_written(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stored: str,
    wanted: str,
    first_only: bool,
    whole: bool,
    expected: bool,
) -> None:
    monkeypatch.setattr(_pki._x509, "certificate_fingerprint", lambda item: item)
    held = [{"fingerprint": item} for item in stored]
    assert _pki.ca_differs(replace(spec(tmp_path), first_ca_only=first_only), held, list(wanted), whole) is expected
