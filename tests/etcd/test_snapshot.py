"""Snapshots of real etcd: taken by the code of the module and the timer, proven with etcd's own tools."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.kubeadm.etcd.plugins.module_utils._etcd import snapshot as _snapshot
from ansible_collections.kubeadm.etcd.plugins.module_utils._etcd.client import EtcdUnreachableError
from ansible_collections.kubeadm.etcd.plugins.module_utils._member import backup as _backup
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.errors import EtcdError

from .conftest import ADDRESSES, VERSIONS, Cluster, Make, Member, program, restore, wait_until
from .test_membership import writing


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The programs of an etcd image, where a host has them in the container of its member."""

    @contextlib.contextmanager
    def image_root(_image: str, _pid: int = 0) -> Iterator[str]:
        yield str(tmp_path / "image")

    directory = tmp_path / "image" / "usr/local/bin"
    directory.mkdir(parents=True)
    monkeypatch.setattr(_backup, "image_root", image_root)


def with_programs(tmp_path: Path, version: str) -> None:
    for name in ("etcd", "etcdutl"):
        (tmp_path / "image/usr/local/bin" / name).symlink_to(program(name, version))


def spec_for(cluster: Cluster, member: Member, **how: Any) -> _backup.BackupSpec:
    """What the host of a member would be told."""
    members = [(item.name, ADDRESSES[item.name]) for item in cluster.members]
    wanted = {"dir": str(cluster.directory / f"backups-{member.name}"), **how}
    return _backup.BackupSpec("etcd", member.name, members, pki_dir=str(member.pki), **wanted)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.usefixtures("programs")
def test_snapshot_under_load(make_cluster: Make, tmp_path: Path, version: str) -> None:
    """It is what etcdutl takes for one, and every key up to its revision is in what is restored from it."""
    with_programs(tmp_path, version)
    cluster = make_cluster(3, version)
    cluster.found()
    with writing(cluster) as counted:
        wait_until("nothing is written", lambda: counted["acknowledged"] > 100)
        before = counted["acknowledged"]
        done = _backup.take(spec_for(cluster, cluster[1]))
    path, told = Path(done["path"]), done["snapshot"]
    assert path.name == told["file"] and path.stat().st_mode & 0o777 == 0o600
    assert told["keys"] >= before and told["hash_kv"] != 0 and told["member"] == "infra1"
    assert _snapshot.check_file(str(path)) == told["sha256"] == hashlib.sha256(path.read_bytes()[:-32]).hexdigest()
    status = json.loads(
        subprocess.check_output(
            [program("etcdutl", version), "snapshot", "status", str(path), "-w", "json"], timeout=60
        )
    )
    assert (status["revision"], status["hash"], status["totalKey"]) == (
        told["revision"],
        told["hash"],
        told["total_keys"],
    )
    assert json.loads((path.parent / (path.name + ".json")).read_text())["revision"] == told["revision"]
    cluster.power_cut()
    for member in cluster.members:
        restore(member, path, cluster.names)
        member.start("new", cluster.names)
    cluster.wait()
    with cluster[2].client() as client:
        assert _snapshot.count_keys(client, told["revision"]) == told["keys"]
        assert _snapshot.hash_kv(client, told["revision"]) == (told["hash_kv"], told["compact_revision"])


@pytest.mark.usefixtures("programs")
def test_follower_with_the_lowest_name(make_cluster: Make, tmp_path: Path) -> None:
    """All hosts choose the same member; one that is down is passed over, and its host says what it could not do."""
    with_programs(tmp_path, "3.6.14")
    cluster = make_cluster(3, "3.6.14")
    cluster.found()
    followers = [member.name for member in cluster.members if not member.leads()]
    assert {_backup.source(spec_for(cluster, member)).name for member in cluster.members} == {followers[0]}  # type: ignore[union-attr]
    lines = {member.name: _backup.scheduled(spec_for(cluster, member)) for member in cluster.members}
    taken = {member.name: _snapshot.read_directory(spec_for(cluster, member).dir, "etcd") for member in cluster.members}
    assert [name for name, found in taken.items() if found] == [followers[0]], (lines, taken)
    first = next(member for member in cluster.members if member.name == followers[0])
    first.signal(signal.SIGKILL)
    wait_until("no other follower", lambda: _backup.source(spec_for(cluster, first)).name != first.name)  # type: ignore[union-attr]
    with pytest.raises(EtcdUnreachableError):
        _backup.take(spec_for(cluster, first))
    state = _backup.State.read(spec_for(cluster, first).dir)
    assert state.error and state.succeeded and state.attempted > state.succeeded - 60
    assert len(_snapshot.read_directory(spec_for(cluster, first).dir, "etcd")) == 1
    for member in cluster.members:
        member.signal(signal.SIGKILL)
    with pytest.raises(EtcdError, match="no member of the cluster is healthy"):
        _backup.scheduled(spec_for(cluster, first))


@pytest.mark.usefixtures("programs")
def test_member_stops_meanwhile(make_cluster: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No file has a final name, no temporary one is left, and the snapshots before are untouched."""
    with_programs(tmp_path, "3.6.14")
    cluster = make_cluster(1, "3.6.14")
    cluster.found()
    spec = spec_for(cluster, cluster[0])
    first = _backup.take(spec)["path"]
    with cluster[0].client(timeout=30.0) as client:
        for number in range(64):
            client.call("kv/put", {"key": str(number).encode().hex(), "value": "A" * (1 << 20)})
    killed: list[bool] = []

    def kill() -> None:
        if not killed:
            killed.append(True)
            threading.Thread(target=cluster[0].signal, args=(signal.SIGKILL,)).start()

    with pytest.raises(EtcdError):
        _backup.take(spec, kill)
    assert killed and sorted(os.listdir(spec.dir)) == sorted(
        [".lock", "etcd-backup.prom", "state.json", Path(first).name, Path(first).name + ".json"]
    )
    assert _backup.State.read(spec.dir).error
    # The digest is asked for again before it is used.
    damaged = Path(first)
    content = damaged.read_bytes()
    damaged.write_bytes(content[:5000] + b"?" + content[5001:])
    with pytest.raises(EtcdError, match="SHA-256"):
        _snapshot.check_file(first)
    damaged.write_bytes(content[:-100])
    with pytest.raises(EtcdError, match="cut off"):
        _snapshot.check_file(first)


@pytest.mark.usefixtures("programs")
@pytest.mark.parametrize("part", [1 << 30, 9000], ids=["one file", "parts"])
def test_sent_away(make_cluster: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: int) -> None:
    """Encrypted to a certificate, and opened by openssl alone; in parts if it is large; a command that fails is an error, and the snapshot stays."""
    with_programs(tmp_path, "3.7.3")
    cluster = make_cluster(1, "3.7.3")
    cluster.found()
    key, certificate, away = tmp_path / "safe.key", tmp_path / "safe.crt", tmp_path / "away"
    subprocess.run(
        [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-keyout",
            key,
            "-out",
            certificate,
            "-subj",
            "/CN=safe",
        ],
        check=True,
        capture_output=True,
        timeout=60,
    )
    away.mkdir()
    monkeypatch.setattr(_backup, "PART", part)
    spec = spec_for(cluster, cluster[0], recipient=certificate.read_text(), command=["cp", "{file}", str(away)])
    done = _backup.take(spec)
    sent = sorted(away.iterdir())
    assert len(sent) == -(-Path(done["path"]).stat().st_size // part)
    assert all(
        file.name.startswith(Path(done["path"]).name + ".cms") and file.stat().st_mode & 0o77 == 0 for file in sent
    )
    # The command of docs/backup.md.
    opened = tmp_path / "opened.db"
    with opened.open("wb") as out:
        for file in sent:
            argv = ["openssl", "cms", "-decrypt", "-binary", "-inform", "DER", "-in", file, "-inkey", key]
            subprocess.run(argv, check=True, stdout=out, timeout=60)
    assert opened.read_bytes() == Path(done["path"]).read_bytes()
    assert not [name for name in os.listdir(spec.dir) if ".cms" in name or name.endswith(".crt")]
    failing = dataclasses.replace(spec, command=["sh", "-c", "echo no bucket >&2; exit 3"])
    with pytest.raises(EtcdError, match="ended with 3: no bucket"):
        _backup.take(failing)
    assert len(_snapshot.read_directory(spec.dir, "etcd")) == 2 or done["snapshot"]["revision"]
    assert "kubeadm_etcd_backup_last_failed{" in (Path(spec.dir) / "etcd-backup.prom").read_text()
