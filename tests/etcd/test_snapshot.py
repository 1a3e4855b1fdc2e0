"""Snapshots of real etcd: taken by the code of the module and the timer, proven with etcd's own tools."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.wish import wanted_snapshot
from ansible_collections.kubeadm.etcd.plugins.module_utils._etcd import snapshot as _snapshot
from ansible_collections.kubeadm.etcd.plugins.module_utils._etcd.client import EtcdUnreachableError
from ansible_collections.kubeadm.etcd.plugins.module_utils._etcd.restore import (
    SECONDS,
    cluster_id,
    member_id,
    read_snapshot_file,
    restore_token,
)
from ansible_collections.kubeadm.etcd.plugins.module_utils._member import backup as _backup
from ansible_collections.kubeadm.etcd.plugins.module_utils._member import drill as _drill
from ansible_collections.kubeadm.etcd.plugins.module_utils._member import restore as _restore
from ansible_collections.kubeadm.etcd.plugins.module_utils._member import snapshots as _snapshots
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.errors import EtcdError

from .conftest import ADDRESSES, VERSIONS, Cluster, Make, Member, encoded, program, restore, wait_until
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
    for name in ("etcd", "etcdctl", "etcdutl"):
        (tmp_path / "image/usr/local/bin" / name).symlink_to(program(name, version))


def spec_for(cluster: Cluster, member: Member, **how: Any) -> _snapshots.BackupSpec:
    """The options that the host of a member would get."""
    members = [(item.name, ADDRESSES[item.name]) for item in cluster.members]
    wanted = {"dir": str(cluster.directory / f"backups-{member.name}"), **how}
    return _snapshots.BackupSpec("etcd", member.name, members, pki_dir=str(member.pki), **wanted)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.usefixtures("programs")
def test_snapshot_under_load(make_cluster: Make, tmp_path: Path, version: str) -> None:
    """etcdutl accepts it, and every key up to its revision is restored from it."""
    with_programs(tmp_path, version)
    cluster = make_cluster(3, version)
    cluster.found()
    with writing(cluster) as counted:
        wait_until("nothing is written", lambda: counted["acknowledged"] > 100)
        before = counted["acknowledged"]
        done = _backup.take(spec_for(cluster, cluster[1]))
    path, told = Path(done["path"]), done["snapshot"]
    assert path.name == told["file"] and path.stat().st_mode & 0o777 == 0o600
    assert told["key_count"] >= before and told["hash_kv"] != 0 and told["member"] == "infra1"
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
        assert _snapshot.count_keys(client, told["revision"]) == told["key_count"]
        assert client.hash_kv(told["revision"]) == (told["hash_kv"], told["compact_revision"])


@pytest.mark.usefixtures("programs")
def test_follower_with_the_lowest_name(make_cluster: Make, tmp_path: Path) -> None:
    """All hosts choose the same member, and skip one that is down. The host of that member reports why it took none."""
    with_programs(tmp_path, "3.6.14")
    cluster = make_cluster(3, "3.6.14")
    cluster.found()
    followers = [member.name for member in cluster.members if not member.leads()]
    assert {_backup.source(spec_for(cluster, member)).name for member in cluster.members} == {followers[0]}  # type: ignore[union-attr]
    lines = {member.name: _backup.scheduled_backup(spec_for(cluster, member)) for member in cluster.members}
    taken = {member.name: _snapshot.read_directory(spec_for(cluster, member).dir, "etcd") for member in cluster.members}
    assert [name for name, found in taken.items() if found] == [followers[0]], (lines, taken)
    first = next(member for member in cluster.members if member.name == followers[0])
    first.signal(signal.SIGKILL)
    wait_until("no other follower", lambda: _backup.source(spec_for(cluster, first)).name != first.name)  # type: ignore[union-attr]
    with pytest.raises(EtcdUnreachableError):
        _backup.take(spec_for(cluster, first))
    state = _snapshots.State.read(spec_for(cluster, first).dir, _snapshots.BACKUP)
    assert state.error and state.succeeded and state.attempted > state.succeeded - 60
    assert len(_snapshot.read_directory(spec_for(cluster, first).dir, "etcd")) == 1
    for member in cluster.members:
        member.signal(signal.SIGKILL)
    with pytest.raises(EtcdError, match="no member of the cluster is healthy"):
        _backup.scheduled_backup(spec_for(cluster, first))


@pytest.mark.usefixtures("programs")
def test_a_member_that_stops_during_its_snapshot(
    make_cluster: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No new file has a final name, no temporary file is left, and earlier snapshots are unchanged."""
    with_programs(tmp_path, "3.6.14")
    cluster = make_cluster(1, "3.6.14")
    cluster.found()
    spec = spec_for(cluster, cluster[0])
    first = _backup.take(spec)["path"]
    with cluster[0].client(timeout=30.0) as client:
        for number in range(200):
            client.call("kv/put", {"key": str(number).encode().hex(), "value": "A" * (1 << 20)})
    killed: list[bool] = []

    def kill() -> None:
        """Once a part of it is there."""
        part = Path(spec.dir) / ".kubeadm-etcd--snapshot.part"
        wait_until("nothing is written", lambda: part.exists() and part.stat().st_size > 1 << 20, every=0.001)
        cluster[0].signal(signal.SIGKILL)
        killed.append(True)

    thread = threading.Thread(target=kill)
    thread.start()
    with pytest.raises(EtcdError, match="no snapshot was taken"):
        _backup.take(spec)
    thread.join()
    assert killed and sorted(os.listdir(spec.dir)) == sorted(
        [".lock", "backup-state.json", "etcd-backup.prom", Path(first).name, Path(first).name + ".json"]
    )
    assert _snapshots.State.read(spec.dir, _snapshots.BACKUP).error
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
def test_a_snapshot_is_encrypted_split_and_sent(
    make_cluster: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: int
) -> None:
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
    name = Path(done["path"]).name
    sent = sorted(away.glob(f"{name}.cms*"))
    assert len(sent) == -(-Path(done["path"]).stat().st_size // part)
    assert {*away.iterdir()} == {*sent, away / f"{name}.json.cms"}
    assert all(file.stat().st_mode & 0o77 == 0 for file in away.iterdir())
    # The command of docs/backup.md.
    opened, description = tmp_path / "opened.db", tmp_path / "opened.db.json"
    for target, files in ((opened, sent), (description, [away / f"{name}.json.cms"])):
        with target.open("wb") as out:
            for file in files:
                argv = ["openssl", "cms", "-decrypt", "-binary", "-inform", "DER", "-in", file, "-inkey", key]
                subprocess.run(argv, check=True, stdout=out, timeout=60)
    assert opened.read_bytes() == Path(done["path"]).read_bytes()
    # The description is that of this file, whatever its name is.
    assert wanted_snapshot(str(opened), "drill").description == json.loads(Path(f"{done['path']}.json").read_text())
    assert not [name for name in os.listdir(spec.dir) if ".cms" in name or name.endswith(".crt")]
    failing = dataclasses.replace(spec, command=["sh", "-c", "echo no bucket >&2; exit 3"])
    with pytest.raises(EtcdError, match="ended with 3: no bucket"):
        _backup.take(failing)
    assert len(_snapshot.read_directory(spec.dir, "etcd")) == 2 or done["snapshot"]["revision"]
    assert "kubeadm_etcd_backup_last_failed{" in (Path(spec.dir) / "etcd-backup.prom").read_text()


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.usefixtures("programs")
def test_a_drill_compares_the_restored_data_with_the_snapshot(
    make_cluster: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    """A difference from the recorded description is an error. Nothing of the restored member is left."""
    with_programs(tmp_path, version)
    monkeypatch.setattr(_drill, "image_root", _backup.image_root)
    monkeypatch.setattr(_drill, "RUN_DIR", str(tmp_path / "run"))
    cluster = make_cluster(1, version)
    cluster.found()
    for number in range(20):
        cluster[0].put(f"k{number}")
    cluster.etcdctl("del", "k3")
    spec = spec_for(cluster, cluster[0])
    with pytest.raises(EtcdError, match="has no snapshot"):
        _drill.newest_snapshot(spec)
    cluster.etcdctl("compaction", "10")
    # Variables of a host that keep etcd's programs from working.
    for name, value in (
        ("ETCD_NAME", "other"),
        ("ETCDCTL_ENDPOINTS", "127.0.0.1:1"),
        ("https_proxy", "http://127.0.0.1:1"),
    ):
        monkeypatch.setenv(name, value)
    taken = _backup.take(spec)
    before = sorted(os.listdir(spec.dir))
    done = _drill.drill(spec, "", "")
    assert done["compared"] and done["key_count"] == 22 == taken["snapshot"]["key_count"] and done["read"] == 20
    assert done["revision"] == taken["snapshot"]["revision"]
    assert sorted(os.listdir(spec.dir)) == sorted([*before, ".lock-drill"]) and os.listdir(tmp_path / "run") == []
    # A copy of it from the controller, with what its description says there, and that of an older delivery.
    copy, source = tmp_path / "restore-x.db", f"/srv/{taken['snapshot']['file']}"
    shutil.copy(taken["path"], copy)
    told = {key: value for key, value in taken["snapshot"].items() if key != "file"}
    done = _drill.drill(spec, str(copy), "", source=source, description=told)
    assert done["compared"] and done["lines"][0].startswith(f"{source}: restored in ")
    assert not _drill.drill(spec, str(copy), "", source=source)["compared"]
    for wrong, words in (
        ({**told, "key_count": 21}, "22 keys instead of 21"),
        ({**told, "sha256": "0" * 64}, "is not the snapshot that this run was planned with"),
        ({"cluster": 5}, "the description of .* is damaged"),
    ):
        with pytest.raises(EtcdError, match=words):
            _drill.drill(spec, str(copy), "", source=source, description=wrong)
    with pytest.raises(EtcdError, match="instead of 7, which its name says"):
        _drill.drill(spec, str(copy), "", source="/srv/etcd-20261127T090000Z-r7.db")
    # The database itself, of a member that is stopped.
    cluster[0].signal(signal.SIGTERM)
    raw = cluster[0].data / "member/snap/db"
    done = _drill.drill(spec, str(raw), "")
    assert not done["compared"] and done["key_count"] == 22
    # What was recorded is of another database.
    description = Path(taken["path"] + ".json")
    told = json.loads(description.read_text())
    for field in ("key_count", "hash_kv"):
        description.write_text(json.dumps({**told, field: told[field] + 1}))
        with pytest.raises(EtcdError, match=f"instead of {told[field] + 1}"):
            _drill.drill(spec, "", "")
    content = bytearray(Path(taken["path"]).read_bytes())
    content[9000] ^= 1
    Path(taken["path"]).write_bytes(content)
    with pytest.raises(EtcdError, match="SHA-256"):
        _drill.drill(spec, "", "")
    (tmp_path / "image/usr/local/bin/etcd").unlink()
    with pytest.raises(EtcdError, match="has no program etcd"):
        _drill.drill(spec, str(raw), "")


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.usefixtures("programs")
def test_ids_of_a_restored_cluster(
    make_cluster: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    """Our ids are those of etcdutl, from a snapshot and from a database, with and without keys of Kubernetes."""
    with_programs(tmp_path, version)
    monkeypatch.setattr(_restore, "image_root", _backup.image_root)
    monkeypatch.setattr(_restore, "_have_images", lambda _spec: None)
    monkeypatch.setattr(_restore._processes, "find_etcd_process", lambda _name: None)
    cluster = make_cluster(3, version)
    cluster.found()
    cluster[0].put("/registry/x")
    path = _backup.take(spec_for(cluster, cluster[0]))["path"]
    # The database of a member that is killed lacks what it has not committed (every 100 ms).
    time.sleep(0.5)
    cluster.power_cut()
    members = [(name, ADDRESSES[name]) for name in cluster.names]
    urls = _restore.peer_urls_of(members, 2380)
    revisions: list[int] = []
    moment = int(time.time() / SECONDS)
    raw = tmp_path / "db"
    raw.write_bytes((cluster[1].data / "member/snap/db").read_bytes())
    for number, file in enumerate((path, str(raw))):
        token = restore_token(read_snapshot_file(file).identity, urls, ["c1"], moment + number)
        for member in cluster.members:
            spec = _restore.RestoreSpec(
                file, token, member.name, members, "", data_dir=str(member.data), work_dir=str(member.directory / "work"),
                manifests_dir=str(member.directory / "none"),
            )  # fmt: skip
            with pytest.raises(EtcdError, match="does not have the snapshot of this run"):
                _restore.replace_data(spec, False)
            assert [reason.code for reason in _restore.prepare(spec, False)] == ["prepared"]
            assert _restore.prepare(spec, False) == [] and _restore.stop(spec, False) == [] and not spec.is_replaced
            assert [reason.code for reason in _restore.replace_data(spec, False)] == ["archived", "replaced"]
            assert spec.is_replaced and not spec.is_prepared
        for member in cluster.members:
            member.start("existing", cluster.names)
        cluster.wait()
        with cluster[0].client() as client:
            status = client.status()
            assert f"{status.cluster_id:x}" == cluster_id(urls, token)
            revisions.append(int(client.call("kv/range", {"key": "AA=="})["header"]["revision"]))
            # Of the same snapshot: the later one has the later revision, whatever was written in between.
            assert 0 < revisions[-1] - revisions[0] - number * SECONDS * 1_000_000 + 1_000_000 < 2_000_000
            assert abs(revisions[0] / 1_000_000 - time.time()) < 300
            assert {member.id for member in client.members()} == {member_id([url], token) for url in urls.values()}
        cluster.power_cut()


COLLECTIONS = Path(__file__).resolve().parents[2] / ".collections"

# What a host would do, in a process of its own, and what it and its children held in memory at most: their own pages, since those of the
# mapped database are the kernel's to take back.
MEASURE = """
import contextlib, json, os, sys, threading, time
from ansible_collections.kubeadm.etcd.plugins.module_utils._member import backup, drill, restore, snapshots
action, root, run_dir, words, path = sys.argv[1:]
for module in (backup, drill, restore):
    module.image_root = lambda *_arguments: contextlib.nullcontext(root)
drill.RUN_DIR, restore._have_images = run_dir, lambda _spec: None
most, done = {}, threading.Event()

def held(number):
    try:
        with open(f"/proc/{number}/status") as file:
            told = dict(line.split(":", 1) for line in file)
        most[told["Name"].strip()] = max(most.get(told["Name"].strip(), 0), int(told["RssAnon"].split()[0]) >> 10)
        children = ""
        for thread in os.listdir(f"/proc/{number}/task"):
            with open(f"/proc/{number}/task/{thread}/children") as file:
                children += file.read() + " "
    except (OSError, KeyError):
        return
    for child in children.split():
        held(child)

def watch():
    while not done.wait(0.05):
        held(os.getpid())

thread = threading.Thread(target=watch)
thread.start()
begin = time.monotonic()
try:
    if action == "backup":
        print(backup.take(snapshots.BackupSpec(**json.loads(words)))["path"])
    elif action == "drill":
        assert drill.drill(snapshots.BackupSpec(**json.loads(words)), path, "")["compared"]
    else:
        spec = restore.RestoreSpec(snapshot=path, **json.loads(words))
        if not spec.is_replaced:
            restore.prepare(spec, False)
            restore.replace_data(spec, False)
        print(spec.data_dir)
finally:
    done.set()
    thread.join()
print(json.dumps([time.monotonic() - begin, most]))
"""


def measured(tmp_path: Path, action: str, spec: Any, path: str = "") -> tuple[float, dict[str, int], str]:
    """Seconds, MiB by program, and the first line of the output."""
    run_dir = tmp_path / "run"
    argv = [sys.executable, "-c", MEASURE, action, str(tmp_path / "image"), str(run_dir)]
    argv += [json.dumps(dataclasses.asdict(spec) if dataclasses.is_dataclass(spec) else spec), path]  # type: ignore[arg-type]
    environment = {**os.environ, "PYTHONPATH": str(COLLECTIONS)}
    lines = subprocess.check_output(argv, timeout=1800, text=True, env=environment).splitlines()
    seconds, most = json.loads(lines[-1])
    return seconds, most, lines[0]


@pytest.mark.long
@pytest.mark.usefixtures("programs")
def test_two_gibibytes(make_cluster: Make, tmp_path: Path) -> None:
    """Backup, drill and restore, against `etcdctl snapshot save` in the same run, alternately; memory does not grow with the size."""
    gibibytes = float(os.environ.get("KUBEADM_ETCD_GIB", "2"))
    cluster = make_cluster(1, "3.6.14")
    cluster.found(**{"quota-backend-bytes": str(8 << 30), "unsafe-no-fsync": "true"})
    member = cluster[0]
    value = os.urandom(760 << 10).hex()[: 1 << 20]
    with member.client(timeout=60.0) as client:
        # Kubernetes' prefix: a restore looks for it.
        for number in range(int(gibibytes * 1024 / 0.75)):
            client.call("kv/put", {"key": encoded(f"/registry/{number}"), "value": value})
        size = client.status().db_size
    with_programs(tmp_path, "3.6.14")
    spec = spec_for(cluster, member, keep=1)
    seconds: dict[str, list[float]] = {"etcdctl": [], "backup": [], "drill": [], "restore": []}
    most: dict[str, int] = {}
    for turn in range(3):
        begin = time.monotonic()
        cluster.etcdctl("snapshot", "save", str(tmp_path / "theirs.db"), endpoints=[member], timeout=900)
        seconds["etcdctl"].append(time.monotonic() - begin)
        (tmp_path / "theirs.db").unlink()
        restored = {
            "token": "bench-1",
            "member": "infra9",
            "members": [["infra9", "10.77.0.9"]],
            "image": "",
            "data_dir": str(tmp_path / f"restored{turn}"),
            "work_dir": str(tmp_path / "work"),
            "manifests_dir": str(tmp_path / "none"),
        }
        path = ""
        for action in ("backup", "drill", "restore"):
            taken, used, line = measured(tmp_path, action, restored if action == "restore" else spec, path)
            path = path if action != "backup" else line
            seconds[action].append(taken)
            for name, mebibytes in used.items():
                most[f"{action}: {name}"] = max(most.get(f"{action}: {name}", 0), mebibytes)
        shutil.rmtree(tmp_path / f"restored{turn}")
        print({action: round(found[-1], 1) for action, found in seconds.items()}, most, flush=True)
    median = {action: sorted(found)[1] for action, found in seconds.items()}
    print(f"{size / (1 << 30):.2f} GiB:")
    for action, found in seconds.items():
        ratio = median[action] / median["etcdctl"]
        print(f"  {action}: {[round(item, 1) for item in found]} s, {ratio:.2f} times etcdctl")
    print(f"  MiB: {most}")
    assert max(most.values()) < 150 and median["backup"] < 1.5 * median["etcdctl"], (most, median)
