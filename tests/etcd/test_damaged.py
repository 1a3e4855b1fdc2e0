"""Snapshots that no cluster may be restored from, a clock that was wrong, and two timers at once: with real etcd."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from ansible_collections.kubeadm.etcd.plugins.module_utils._etcd.restore import read_snapshot_file
from ansible_collections.kubeadm.etcd.plugins.module_utils._etcd.snapshot import check_file, read_directory
from ansible_collections.kubeadm.etcd.plugins.module_utils._member import backup as _backup
from ansible_collections.kubeadm.etcd.plugins.module_utils._member import drill as _drill
from ansible_collections.kubeadm.etcd.plugins.module_utils._member import restore as _restore
from ansible_collections.kubeadm.etcd.plugins.module_utils._member import snapshots as _snapshots
from ansible_collections.kubeadm.etcd.plugins.module_utils._member.ending import has_data
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.errors import EtcdError

from .conftest import VERSIONS, Cluster, Make, encoded, program, wait_until
from .test_snapshot import COLLECTIONS, MEASURE, programs, spec_for, with_programs

__all__ = ["programs"]
YEAR = 365 * 86400.0


def restore_spec(tmp_path: Path, snapshot: Path) -> _restore.RestoreSpec:
    """One member, on a host where nothing runs."""
    return _restore.RestoreSpec(
        str(snapshot), "token-1", "infra0", [("infra0", "10.77.0.1")], "", data_dir=str(tmp_path / "data"),
        work_dir=str(tmp_path / "work"), manifests_dir=str(tmp_path / "none"),
    )  # fmt: skip


@pytest.fixture
def snapshot(make_cluster: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, programs: None) -> Path:
    """A snapshot of some hundred pages, taken from etcd 3.7."""
    with_programs(tmp_path, "3.7.3")
    monkeypatch.setattr(_restore, "image_root", _backup.image_root)
    monkeypatch.setattr(_restore, "_have_images", lambda _spec: None)
    monkeypatch.setattr(_restore._processes, "find_etcd_process", lambda _name: None)
    cluster = make_cluster(1, "3.7.3")
    cluster.found()
    with cluster[0].client() as client:
        for number in range(300):
            client.call("kv/put", {"key": encoded(f"/registry/{number}"), "value": encoded("v" * 5000)})
    # Written some seconds after the version of the cluster.
    wait_until(
        "no storage version", lambda: '"storageVersion":"3.7.0"' in cluster.etcdctl("endpoint", "status", "-w", "json")
    )
    return Path(_backup.take(spec_for(cluster, cluster[0]))["path"])


def cut(size: int) -> Callable[[bytes], bytes]:
    return lambda content: content[:size]


def flipped(offset: int) -> Callable[[bytes], bytes]:
    return lambda content: content[:offset] + bytes([content[offset] ^ 1]) + content[offset + 1 :]


DAMAGES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (cut(0), "is not a snapshot"),
    "a part": (cut(100_001), "is cut off"),
    # Many copies are cut off. This one looks like a database without a digest.
    "a part, at the end of a page": (cut(40 * 4096), "is cut off"),
    "a part that ends as a snapshot would": (cut(40 * 4096 + 32), "is cut off"),
    "a bit": (flipped(20 * 4096 + 5), "its SHA-256 does not match"),
    "the digest": (flipped(-7), "its SHA-256 does not match"),
    "the first page": (lambda content: b"\0" * 4096 + content[4096:], "its SHA-256 does not match"),
    "both first pages": (lambda content: b"\0" * 8192 + content[8192:], "is not a snapshot"),
    # Pages that lead nowhere, in a database that has no digest.
    "pages of a database": (lambda content: content[: 20 * 4096] + b"\xff" * (30 * 4096) + content[50 * 4096 : -32], "cannot"),
    "more at the end": (lambda content: content + b"\0" * 512, "its SHA-256 does not match"),
}  # fmt: skip


def test_damaged_snapshots(snapshot: Path, tmp_path: Path) -> None:
    """Each is refused before a member stops. The message names file and defect, and no file is left."""
    whole = snapshot.read_bytes()
    assert len(whole) > 100 * 4096
    target = tmp_path / "damaged.db"
    for name, (damage, words) in DAMAGES.items():
        target.write_bytes(damage(whole))
        with pytest.raises(EtcdError, match=words) as caught:
            _restore.prepare(restore_spec(tmp_path, target), False)
        assert str(target) in str(caught.value), name
        assert not (tmp_path / "data").exists() and not list(tmp_path.glob("data.restored*")), name
    # The database alone is good.
    target.write_bytes(whole[:-32])
    assert read_snapshot_file(str(target)).is_database
    assert [reason.code for reason in _restore.prepare(restore_spec(tmp_path, target), False)] == ["prepared"]


def test_data_of_a_newer_etcd(snapshot: Path, tmp_path: Path) -> None:
    """etcdutl of 3.6 restores it, but etcd 3.6 does not start on it. So it is refused before the members are stopped."""
    for path in (tmp_path / "image/usr/local/bin").iterdir():
        path.unlink()
    with_programs(tmp_path, "3.6.14")
    with pytest.raises(EtcdError, match=r"needs etcd 3\.7\.0, and the image has etcd 3\.6\.14"):
        _restore.prepare(restore_spec(tmp_path, snapshot), False)
    assert not list(tmp_path.glob("data*"))
    data = tmp_path / "by-hand"
    argv = [program("etcdutl", "3.6.14"), "snapshot", "restore", str(snapshot), "--data-dir", str(data)]
    subprocess.run(argv, check=True, capture_output=True, timeout=60)
    done = subprocess.run(
        [program("etcd", "3.6.14"), "--data-dir", str(data)], check=False, capture_output=True, text=True, timeout=60
    )
    assert done.returncode != 0 and "is not supported" in done.stderr


def test_encrypted_to_another_key(snapshot: Path, tmp_path: Path) -> None:
    """openssl cannot decrypt it, and the file that it leaves is not accepted as a snapshot."""
    for name in ("ours", "theirs"):
        argv = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={name}"]
        argv += ["-keyout", str(tmp_path / f"{name}.key"), "-out", str(tmp_path / f"{name}.crt")]
        subprocess.run(argv, check=True, capture_output=True, timeout=60)
    (sealed,) = _backup.encrypt((tmp_path / "theirs.crt").read_text(), str(snapshot))
    with pytest.raises(EtcdError, match="It is encrypted: open it first"):
        read_snapshot_file(sealed)
    opened = tmp_path / "opened.db"
    with opened.open("wb") as out:
        argv = [
            "openssl",
            "cms",
            "-decrypt",
            "-binary",
            "-inform",
            "DER",
            "-in",
            sealed,
            "-inkey",
            str(tmp_path / "ours.key"),
        ]
        done = subprocess.run(argv, check=False, stdout=out, stderr=subprocess.PIPE, timeout=60)
    with pytest.raises(EtcdError, match="is not a snapshot"):
        read_snapshot_file(str(opened))
    print(done)


def one(make_cluster: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str = "3.6.14") -> Cluster:
    with_programs(tmp_path, version)
    monkeypatch.setattr(_drill, "image_root", _backup.image_root)
    monkeypatch.setattr(_drill, "RUN_DIR", str(tmp_path / "run"))
    cluster = make_cluster(1, version)
    cluster.found()
    return cluster


@pytest.mark.parametrize("step", [YEAR, -YEAR], ids=["ahead", "behind"])
def test_a_clock_that_was_wrong(
    make_cluster: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, programs: None, step: float
) -> None:
    """The clock is wrong for two snapshots. The timer still works, the newest good snapshot is kept, and the drill uses the latest one."""
    cluster = one(make_cluster, tmp_path, monkeypatch)
    real, shift = time.time, [0.0]
    monkeypatch.setattr(time, "time", lambda: real() + shift[0])
    spec = spec_for(cluster, cluster[0], keep=2, keep_days=30)

    def tick(wrong_by: float) -> str:
        shift[0] += 3600.0 + wrong_by
        cluster[0].put(f"at {shift[0]}")
        assert "verified" in _backup.scheduled_backup(spec)
        state = _snapshots.State.read(spec.dir, _snapshots.BACKUP)
        assert not state.error and state.succeeded <= time.time()
        found = read_directory(spec.dir, "etcd")
        # The latest snapshot has the newest time and revision. Only older ones were removed.
        assert os.path.join(spec.dir, found[0].file_name) == state.file == _drill.newest_snapshot(spec)
        assert found[0].revision == max(item.revision for item in found) and 1 <= len(found) <= 3
        return found[0].file_name

    for wrong_by in (0.0, 0.0, step, 0.0, -step, 0.0, 0.0):
        tick(wrong_by)
    # Those of the time when the clock was wrong are gone.
    assert len(read_directory(spec.dir, "etcd")) == 2
    assert _drill.drill(spec, "", "")["compared"]


def test_two_rehearsals_and_two_snapshots_on_one_host(
    make_cluster: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, programs: None
) -> None:
    """Two rehearsals and two snapshots on one host, of timers and of playbooks."""
    cluster = one(make_cluster, tmp_path, monkeypatch)
    spec = spec_for(cluster, cluster[0])
    _backup.take(spec)
    done: list[str] = []
    failed: list[BaseException] = []

    def act(function: Callable[[], object]) -> None:
        try:
            done.append(str(function()))
        except BaseException as exc:
            failed.append(exc)

    functions: list[Callable[[], object]] = [lambda: _drill.drill(spec, "", "")["compared"]] * 2
    functions += [lambda: _backup.scheduled_backup(spec), lambda: _backup.take(spec)["path"]]
    threads = [threading.Thread(target=act, args=(function,)) for function in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed and len(done) == 4, failed
    assert not [name for name in os.listdir(spec.dir) if name.startswith((".drill-", ".kubeadm-etcd-"))]


# A rehearsal that stops where its member serves, and says so.
WAITING = """
import contextlib, json, sys, time
from ansible_collections.kubeadm.etcd.plugins.module_utils._member import backup, drill, snapshots
root, run_dir, words = sys.argv[1:]
for module in (backup, drill):
    module.image_root = lambda *_arguments: contextlib.nullcontext(root)
drill.RUN_DIR = run_dir
drill.look = lambda *_arguments: print("serves", flush=True) or time.sleep(600)
drill.drill(snapshots.BackupSpec(**json.loads(words)), "", "")
"""


def test_a_rehearsal_that_is_killed(
    make_cluster: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, programs: None
) -> None:
    """Its member would run for ever, on data that is removed. The next rehearsal ends it."""
    cluster = one(make_cluster, tmp_path, monkeypatch)
    spec = spec_for(cluster, cluster[0])
    _backup.take(spec)

    def members() -> list[str]:
        done = subprocess.run(
            ["pgrep", "-f", f"data-dir={spec.dir}/.drill-"], capture_output=True, text=True, check=False
        )
        return done.stdout.split()

    argv = [sys.executable, "-c", WAITING, str(tmp_path / "image"), str(tmp_path / "run")]
    with subprocess.Popen(
        [*argv, json.dumps(dataclasses.asdict(spec))],
        env={**os.environ, "PYTHONPATH": str(COLLECTIONS)}, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout and process.stdout.readline() == "serves\n"
        process.kill()
    try:
        assert len(members()) == 1
        assert _drill.drill(spec, "", "")["compared"]
        wait_until("the member still runs", lambda: members() == [])
        assert not [name for name in os.listdir(spec.dir) if name.startswith(".drill-")]
    finally:
        for number in members():
            os.kill(int(number), signal.SIGKILL)


@pytest.mark.parametrize("version", VERSIONS)
def test_as_little_room_as_is_accepted(
    make_cluster: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, programs: None, version: str
) -> None:
    """A restored member runs with it: etcd makes the next file of its log at once, and does not start if there is no room. With less, it is refused."""
    cluster = one(make_cluster, tmp_path, monkeypatch, version)
    spec = spec_for(cluster, cluster[0])
    path = _backup.take(spec)["path"]
    small = tmp_path / "small"
    small.mkdir()
    needed = _restore.space_for(read_snapshot_file(path))
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={needed + (64 << 10)}", "tmpfs", small], check=True, timeout=10
    )
    try:
        there = dataclasses.replace(spec, dir=str(small))
        assert _drill.drill(there, path, "")["compared"]
        with (small / "other").open("wb") as file:
            file.write(bytes(128 << 10))
        with pytest.raises(EtcdError, match=r"the rehearsal needs 18\d MiB"):
            _drill.drill(there, path, "")
    finally:
        subprocess.run(["umount", small], check=True, timeout=10)


def test_snapshots_that_were_exchanged(
    make_cluster: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, programs: None
) -> None:
    """Each has the name of the other one. The rehearsal notices it with their descriptions and without."""
    cluster = one(make_cluster, tmp_path, monkeypatch)
    spec = spec_for(cluster, cluster[0])
    older, newer = Path(_backup.take(spec)["path"]), tmp_path / "aside"
    cluster[0].put("later")
    latest = Path(_backup.take(spec)["path"])
    assert _drill.drill(spec, "", "")["path"] == str(latest)
    for source, target in ((older, newer), (latest, older), (newer, latest)):
        source.rename(target)
    for descriptions in (True, False):
        with pytest.raises(EtcdError, match="is not the snapshot that" if descriptions else "instead of"):
            _drill.drill(spec, "", "")
        for path in (older, latest) if descriptions else ():
            Path(f"{path}.json").unlink()


@pytest.mark.long
def test_a_snapshot_or_restore_that_is_killed(
    make_cluster: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, programs: None
) -> None:
    """Each attempt lives a tenth longer than the one before. Files with a final name are complete, older snapshots stay, and the next run succeeds."""
    cluster = one(make_cluster, tmp_path, monkeypatch)
    with cluster[0].client(timeout=30.0) as client:
        for number in range(100):
            client.call("kv/put", {"key": encoded(f"/registry/{number}"), "value": encoded("v" * 100_000)})
    spec = spec_for(cluster, cluster[0], keep=0)
    older = Path(_backup.take(spec)["path"])
    content = older.read_bytes()
    # A name that no member on this machine has.
    target = dataclasses.replace(restore_spec(tmp_path, older), member="infra9", members=[("infra9", "10.77.0.9")])
    restored = dataclasses.asdict(target)
    del restored["snapshot"]
    killed = {"backup": 0, "restore": 0}
    for action, words in (("backup", dataclasses.asdict(spec)), ("restore", restored)):
        argv = [
            sys.executable,
            "-c",
            MEASURE,
            action,
            str(tmp_path / "image"),
            str(tmp_path / "run"),
            json.dumps(words),
        ]
        environment = {**os.environ, "PYTHONPATH": str(COLLECTIONS)}
        delay, ended = 0.05, False
        while not ended:
            with subprocess.Popen(
                [*argv, str(older)], env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True
            ) as process:
                try:
                    process.communicate(timeout=delay)
                    ended = process.returncode == 0
                except subprocess.TimeoutExpired:
                    # With its children, as if the host had ended.
                    os.killpg(process.pid, signal.SIGKILL)
                    killed[action] += 1
            assert older.read_bytes() == content
            for item in read_directory(spec.dir, "etcd"):
                check_file(os.path.join(spec.dir, item.file_name))
            if (tmp_path / "data").exists():
                # All of it, or nothing.
                assert target.is_replaced or not has_data(str(tmp_path / "data"))
            delay *= 1.1
            assert delay < 30, action
        assert killed[action] > 10, (action, killed)
    assert target.is_replaced and not list(tmp_path.glob("data.restored*/member"))
    # What is not a minute old may be of a job that writes its state at this moment.
    for left in Path(spec.dir).glob(".kubeadm-etcd-*"):
        assert "snapshot" not in left.name
        os.utime(left, (time.time() - 61,) * 2)
    _backup.take(spec)
    assert not list(Path(spec.dir).glob(".kubeadm-etcd-*"))
    print(f"killed {killed}")
