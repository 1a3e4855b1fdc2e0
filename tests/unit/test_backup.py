"""Snapshots: the member that gives one, the ones that are kept, the timer, and the plans of backup and restore."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import subprocess
import sys
import time
import zipfile
from dataclasses import asdict, replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.backup import recipient_problems
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.wanted import program as wanted_program
from ansible_collections.kubeadm.etcd.plugins.module_utils._etcd import snapshot as _snapshot
from ansible_collections.kubeadm.etcd.plugins.module_utils._etcd.snapshot import Snapshot, Source, kept, source_of
from ansible_collections.kubeadm.etcd.plugins.module_utils._host.files import Replacement
from ansible_collections.kubeadm.etcd.plugins.module_utils._member import backup as _backup
from ansible_collections.kubeadm.etcd.plugins.module_utils._member import schedule as _schedule
from ansible_collections.kubeadm.etcd.plugins.module_utils._member import set_schedule as _set_schedule
from ansible_collections.kubeadm.etcd.plugins.module_utils._member import snapshots as _snapshots
from ansible_collections.kubeadm.etcd.plugins.module_utils._member import sources as _sources
from ansible_collections.kubeadm.etcd.plugins.module_utils._member import timers as _timers
from ansible_collections.kubeadm.etcd.plugins.module_utils._pki.x509 import load_certificate
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.errors import EtcdError
from cryptography import x509
from cryptography.hazmat.backends import default_backend
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

DAY = 86400.0
NOW = 1795770000.0


def taken(age: float, revision: int, cluster: str = "etcd") -> Snapshot:
    """A snapshot of some days ago."""
    return Snapshot(cluster, NOW - age * DAY, revision, 20480, "x")


WELL = [Source("infra0", is_leader=True), Source("infra1"), Source("infra2")]


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        (WELL, "infra1"),
        (WELL[::-1], "infra1"),
        ([WELL[0], Source("infra1", "it is down"), WELL[2]], "infra2"),
        # A learner may lack what was written.
        ([WELL[0], Source("infra1", is_learner=True)], "infra0"),
        ([WELL[0], Source("infra1", "it is down")], "infra0"),
        ([Source("infra0", "it is down")], None),
        ([], None),
    ],
)
def test_the_member_that_gives_a_snapshot(members: list[Source], expected: str | None) -> None:
    chosen = source_of(members)
    assert (chosen.name if chosen else None) == expected


ALL = [taken(age, 100 - age) for age in range(10)]


# A file that was copied there, without a description.
UNKNOWN = replace(taken(0, 999999), sha256="")


@pytest.mark.parametrize(
    ("snapshots", "keep", "days", "expected"),
    [
        (ALL, 0, 0, ALL),
        (ALL, 3, 0, ALL[:3]),
        (ALL, 0, 4, ALL[:5]),
        (ALL, 3, 4, ALL[:3]),
        (ALL, 8, 4, ALL[:5]),
        # The newest stays, however old it is.
        (ALL[5:], 24, 2, [ALL[5]]),
        # The clock was set back: the newest by its revision stays as well.
        ([taken(0, 5), taken(1, 4), taken(9, 6)], 1, 0, [taken(0, 5), taken(9, 6)]),
        # Nothing was written between them.
        ([taken(age, 7) for age in range(4)], 2, 0, [taken(0, 7), taken(1, 7)]),
        # The clock was a year ahead: the snapshots of that time are removed first, unless none is newer.
        ([taken(-365, 6), taken(0, 9), taken(1, 8), taken(2, 7)], 2, 0, [taken(0, 9), taken(1, 8)]),
        ([taken(-365, 9), taken(0, 8), taken(1, 7)], 1, 0, [taken(0, 8), taken(-365, 9)]),
        # The clock is a year behind now: earlier snapshots stay because of the number to keep.
        ([taken(-365, 7), taken(-366, 8), taken(0, 9)], 2, 0, [taken(0, 9), taken(-366, 8)]),
        # The clock is a year ahead now: all snapshots are too old, and the newest one stays.
        ([taken(365, 9), taken(366, 8)], 24, 7, [taken(365, 9)]),
        # A file without a verified description does not take the place of a verified snapshot.
        ([UNKNOWN, taken(1, 9), taken(2, 8)], 1, 0, [UNKNOWN, taken(1, 9)]),
        ([], 1, 1, []),
    ],
)
def test_which_snapshots_are_kept(snapshots: list[Snapshot], keep: int, days: int, expected: list[Snapshot]) -> None:
    assert kept(snapshots, keep, days, NOW) == expected


WHOLE = b"".join(bytes([number % 251]) * 512 for number in range(3000))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (WHOLE + hashlib.sha256(WHOLE).digest(), ""),
        (WHOLE[:512] + hashlib.sha256(WHOLE[:512]).digest(), ""),
        (WHOLE + hashlib.sha256(WHOLE[1:]).digest(), "its SHA-256 does not match"),
        (WHOLE[:-1] + b"?" + hashlib.sha256(WHOLE).digest(), "its SHA-256 does not match"),
        (WHOLE[:-512] + hashlib.sha256(WHOLE).digest(), "its SHA-256 does not match"),
        (WHOLE, "it is cut off"),
        (WHOLE + hashlib.sha256(WHOLE).digest()[:-1], "it is cut off"),
        (hashlib.sha256(b"").digest(), "it is empty"),
        (b"", "it is empty"),
    ],
)
def test_a_snapshot_is_checked(tmp_path: Path, content: bytes, expected: str) -> None:
    path = tmp_path / "x.db"
    path.write_bytes(content)
    if not expected:
        assert _snapshot.check_file(str(path)) == hashlib.sha256(content[:-32]).hexdigest()
        return
    with pytest.raises(EtcdError, match=f"snapshot {path} is damaged: {expected}. Use another one"):
        _snapshot.check_file(str(path))
    path.unlink()
    with pytest.raises(EtcdError, match="cannot be read: No such file"):
        _snapshot.check_file(str(path))


def files(directory: Path, *snapshots: Snapshot) -> None:
    directory.mkdir(exist_ok=True)
    for item in snapshots:
        (directory / item.file_name).write_bytes(b"x" * (item.size + 32))
        (directory / f"{item.file_name}.json").write_text(item.as_text())


def spec(directory: Path, **how: Any) -> _snapshots.BackupSpec:
    return _snapshots.BackupSpec("etcd", "infra0", [("infra0", "10.0.0.6")], dir=str(directory), **how)


def test_a_directory_of_snapshots(tmp_path: Path) -> None:
    """A description counts only if it is of that file. Other files are never removed."""
    there = tmp_path / "backups"
    files(there, *ALL[:4], taken(2, 7, "other"))
    (there / f"{ALL[1].file_name}.json").write_text("{")
    (there / f"{ALL[2].file_name}.json").write_text(replace(ALL[2], revision=3).as_text())
    # Cut off since.
    os.truncate(there / ALL[3].file_name, 5000)
    (there / "mine.db").write_text("")
    (there / "etcd-20261127T000000Z-r1.db.part").write_text("")
    found = _snapshot.read_directory(str(there), "etcd")
    assert [(item.revision, item.sha256) for item in found] == [(100, "x"), (99, ""), (98, ""), (97, "")]
    assert found[1].taken == ALL[1].taken and found[1].size == 20480
    removed = _backup.prune(spec(there, keep=2), NOW)
    assert [Path(path).name for path in removed] == [item.file_name for item in ALL[2:4]]
    left = sorted(path.name for path in there.iterdir())
    assert left == sorted(
        [
            *(name for item in (*ALL[:2], taken(2, 7, "other")) for name in (item.file_name, f"{item.file_name}.json")),
            "mine.db",
            "etcd-20261127T000000Z-r1.db.part",
        ]
    )
    assert _snapshot.read_directory(str(tmp_path / "none"), "etcd") == []


@pytest.mark.parametrize(
    ("name", "description"),
    [
        ("etcd-20269999T999999Z-r5.db", None),
        ("etcd-20261127T000000Z-r5.db", {"taken": "noon"}),
        ("etcd-20261127T000000Z-r5.db", {"taken": 1e30}),
        ("etcd-20261127T000000Z-r5.db", {"revision": "5"}),
        ("etcd-20261127T000000Z-r5.db", {"seconds": None}),
        ("etcd-20261127T000000Z-r5.db", {"member": []}),
        ("etcd-20261127T000000Z-r5.db", []),
        ("etcd-20261127T000000Z-r5.db", 5),
    ],
)
def test_names_and_descriptions_that_mean_nothing(tmp_path: Path, name: str, description: Any) -> None:
    """Every run reads the directory. An unknown file there must not end it."""
    there = tmp_path / "backups"
    files(there, *ALL[:3])
    (there / name).write_bytes(b"x" * 1032)
    if description is not None:
        data = {**asdict(taken(0, 5)), "taken": 1764201600.0, "size": 1000}
        text = {**data, **description} if isinstance(description, dict) else description
        (there / f"{name}.json").write_text(json.dumps(text))
    # As a pipe, which would be read for ever, and as a directory.
    (there / "etcd-20261129T000000Z-r7.db").write_bytes(b"x" * 1032)
    os.mkfifo(there / "etcd-20261129T000000Z-r7.db.json")
    (there / "etcd-20261128T000000Z-r6.db").mkdir()
    found = [item.revision for item in _snapshot.read_directory(str(there), "etcd") if item.sha256]
    assert found == [100, 99, 98]
    _backup.prune(spec(there, keep=1), NOW)
    assert (there / ALL[0].file_name).exists() and not (there / ALL[1].file_name).exists()
    assert (there / "etcd-20261128T000000Z-r6.db").is_dir()


def test_copies_that_killed_restores_have_left(tmp_path: Path) -> None:
    there = tmp_path / "backups"
    there.mkdir()
    names = [f"restore-{'ab' * 16}-ab43f60.db", f"restore-{'ab' * 16}.db", "restore-of-mine.db"]
    for name in names:
        (there / name).write_text("x")
        os.utime(there / name, (NOW - 2 * DAY,) * 2)
    (there / f"restore-{'cd' * 16}.db").write_text("in use")
    os.utime(there / f"restore-{'cd' * 16}.db", (NOW - 60,) * 2)
    _backup.prune(spec(there), NOW)
    assert sorted(os.listdir(there)) == ["restore-" + "cd" * 16 + ".db", "restore-of-mine.db"]


def test_what_a_program_prints_is_not_in_the_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The output may contain a secret. Only the journal and the run show it."""
    there = tmp_path / "back ups"
    files(there, ALL[0])
    monkeypatch.setattr(_backup, "_take", lambda *_: (str(there / ALL[0].file_name), ALL[0]))
    script = """test -f "$1" && echo token=hunter2 >&2 && exit 3"""
    with pytest.raises(EtcdError, match="sh ended with 3: token=hunter2"):
        _backup.take(spec(there, command=["sh", "-c", script, "x", "{file}"]))
    error = _snapshots.State.read(str(there), "backup").error
    assert "sh ended with 3" in error and "journalctl" in error and "hunter2" not in error


SENT = """case "$1" in $0) exit 3;; esac; echo "${1##*/}" >> "${1%/*}/sent"
"""


@pytest.mark.parametrize(
    ("fails", "sent", "words"),
    [
        ("none", [f"{ALL[0].file_name}.json", ALL[0].file_name], ""),
        # The snapshot is worth more.
        (
            "*.json",
            [ALL[0].file_name],
            f"could not send its description .*{ALL[0].file_name}.json away: sh ended with 3",
        ),
        ("*.db", [f"{ALL[0].file_name}.json"], "could not send it away: sh ended with 3"),
        ("*", [], "could not send it away: sh ended with 3"),
    ],
)
def test_the_description_is_sent_with_the_snapshot(tmp_path: Path, fails: str, sent: list[str], words: str) -> None:
    """Before it: a command that gives all files one name leaves the snapshot there."""
    there = tmp_path / "backups"
    files(there, ALL[0])
    path = there / ALL[0].file_name
    wanted = spec(there, command=["sh", "-c", SENT, fails, "{file}"])
    with pytest.raises(EtcdError, match=words) if words else contextlib.nullcontext():
        assert _backup.send(wanted, str(path)) is True
    assert ((there / "sent").read_text().split() if (there / "sent").exists() else []) == sent
    # Without one that fits, the snapshot is sent alone.
    if not words:
        path.with_name(f"{path.name}.json").write_text(ALL[1].as_text())
        _backup.send(wanted, str(path))
        assert (there / "sent").read_text().split() == [*sent, path.name]


def test_a_description_is_removed_before_its_snapshot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that is killed between them leaves a snapshot, which the next run counts, and no description that stays for ever."""
    there = tmp_path / "backups"
    files(there, *ALL[:3])
    remove = _backup._remove

    def killed(path: str) -> None:
        remove(path)
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_backup, "_remove", killed)
        with pytest.raises(KeyboardInterrupt):
            _backup.prune(spec(there, keep=1), NOW)
    assert (there / ALL[1].file_name).exists() and not (there / f"{ALL[1].file_name}.json").exists()
    _backup.prune(spec(there, keep=1), NOW)
    assert sorted(os.listdir(there)) == [ALL[0].file_name, f"{ALL[0].file_name}.json"]


def test_a_new_snapshot_does_not_get_a_former_description(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The snapshot of this second was moved away by hand, its description was not, and the clock was set back."""
    clock = Clock(tmp_path / "backups", monkeypatch, 0)
    clock.hour(0)
    (left,) = clock.names()
    (tmp_path / "backups" / left).unlink()
    clock.taken.clear()
    clock.hour(-3601)
    (name,) = clock.names()
    assert name != left and (tmp_path / "backups" / f"{left}.json").exists()


@pytest.mark.parametrize("job", ["backup", "drill"])
def test_a_system_error_is_in_the_metrics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, job: str) -> None:
    """A read-only disk, or a file in place of the directory. The metrics may be on another disk, and the service prints the cause."""
    figures = tmp_path / "figures"
    figures.mkdir()
    monkeypatch.setattr(_backup, "source", lambda _spec: _snapshot.Source("infra0"))

    def refuse(*_arguments: Any) -> None:
        raise OSError(30, "Read-only file system", "/var/backups/etcd/.x")

    def attempt(words: str) -> None:
        (figures / f"etcd-{job}.prom").unlink(missing_ok=True)
        with pytest.raises(EtcdError, match=words):
            _timers.run_job(job, spec(tmp_path / "backups", textfile_dir=str(figures)))
        assert 'last_failed{cluster="etcd",member="infra0"} 1' in (figures / f"etcd-{job}.prom").read_text()

    (tmp_path / "backups").write_text("")
    attempt("backups cannot be created: File exists")
    (tmp_path / "backups").unlink()
    monkeypatch.setattr(_backup, "prune", refuse)
    monkeypatch.setattr(_timers, "read_directory", refuse)
    attempt("/var/backups/etcd/.x: Read-only file system .mount it")


def test_times_ahead_of_the_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The alert on missing snapshots compares with the present, and would not fire until then."""
    state = _snapshots.State(attempted=NOW + 9 * DAY, succeeded=NOW + 9 * DAY, file="x", size=5)
    (tmp_path / _snapshots.state_name("backup")).write_text(json.dumps(asdict(state)))
    monkeypatch.setattr(_backup.time, "time", lambda: NOW)
    read = _snapshots.State.read(str(tmp_path), "backup")
    assert (read.attempted, read.succeeded, read.file, read.size) == (NOW, NOW, "x", 5)


class Clock:
    """A host whose clock can be set. Each hour it takes a snapshot of a member with so many changes in between."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch, changes: int, **how: Any) -> None:
        self.now, self.revision, self.changes = NOW, 100, changes
        self.spec = spec(directory, **how)
        self.taken: list[str] = []
        # How long a snapshot takes, in seconds.
        self.lasts = 1.0
        monkeypatch.setattr(_backup.time, "time", lambda: self.now)
        fakes: list[tuple[Any, str, Any]] = [
            (_backup._processes, "find_etcd_process", lambda _name: None),
            (_backup, "EtcdClient", self.client),
            (_backup, "check_space", lambda *_: None),
            (_backup, "image_root", lambda *_: contextlib.nullcontext("")),
            (_backup, "save", self.save),
            (_backup, "check_file", lambda _path: "x"),
            (_backup, "describe", self.describe),
            (_backup, "count_keys", lambda *_: 5),
        ]
        for target, name, fake in fakes:
            monkeypatch.setattr(target, name, fake)

    def client(self, *_: Any, **__: Any) -> Any:
        told = {"hash_kv": (1, 1), "enabled_downgrade": ""}
        status = SimpleNamespace(cluster_id=1, version="3.6.14", db_size=1000)
        fake = SimpleNamespace(status=lambda: status, **{name: lambda *_, it=it: it for name, it in told.items()})
        return contextlib.nullcontext(fake)

    def save(self, _spec: Any, _root: str, path: str) -> None:
        # Until there is another one, the last one stays, whatever the clock said.
        assert set(self.taken[-1:]) <= set(self.names())
        self.now += self.lasts
        Path(path).write_bytes(b"x" * 1056)

    def describe(self, *_: Any) -> dict[str, Any]:
        return {"revision": self.revision, "version": "3.6.14", "hash": 1, "total_keys": 5}

    def names(self) -> list[str]:
        return sorted(name for name in os.listdir(self.spec.dir) if name.endswith(".db"))

    def hour(self, step: float) -> None:
        """The clock is set forward or back, and the timer runs."""
        self.now += 3600.0 + step
        self.revision += self.changes
        before = self.names() if self.taken else []
        done = _backup.take(self.spec)
        name = Path(done["path"]).name
        assert name not in before and name not in map(os.path.basename, done["removed"])
        self.taken.append(name)
        assert name in self.names()
        state = _snapshots.State.read(self.spec.dir, "backup")
        assert os.path.basename(state.file) == name and state.error == "" and state.succeeded <= self.now
        assert not self.spec.keep or len(self.names()) <= self.spec.keep + 3


STEPS: dict[str, list[float]] = {
    "a day back": [-DAY],
    "a year back": [-365 * DAY],
    "a year forward": [365 * DAY],
    "a year forward, and right again": [365 * DAY, 0, -365 * DAY],
    "a year back, and right again": [-365 * DAY, 0, 365 * DAY],
    "a little back": [-3600 - 120],
    "to the same second": [-3600 - 1],
    "back with each snapshot": [-3700] * 6,
    "forward with each snapshot": [9 * DAY] * 6,
    "of 1970": [-NOW],
    "of 1970, and right again": [-NOW, NOW],
    "back and forth": [-DAY, DAY, -DAY, DAY, -DAY, DAY],
}


@pytest.mark.parametrize("steps", STEPS.values(), ids=list(STEPS))
@pytest.mark.parametrize(
    ("changes", "keep", "days"), [(7, 3, 0), (0, 3, 0), (7, 3, 2), (0, 1, 0), (0, 0, 2), (7, 0, 0)]
)
def test_a_clock_that_is_set_between_snapshots(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: list[float], changes: int, keep: int, days: int
) -> None:
    """A snapshot is never removed by the run that took it or written over, and once the clock is right, the latest ones are there and no others."""
    clock = Clock(tmp_path / "backups", monkeypatch, changes, keep=keep, keep_days=days)
    for step in (0, 0, 0, 0, *steps):
        clock.hour(step)
    for _hour in range(10):
        clock.hour(0)
    if keep:
        # One more may be left whose time is ahead of the clock for good, or which has the highest revision.
        assert set(clock.taken[-keep:]) <= set(clock.names()) and len(clock.names()) <= keep + 2
    elif not days:
        assert clock.names() == sorted(clock.taken)


@pytest.mark.parametrize("zone", ["UTC", "Pacific/Kiritimati", "America/St_Johns", "XXX+23:59:59"])
def test_names_are_in_utc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, zone: str) -> None:
    """Whatever the time zone of the host is, also in the hour that a zone has twice."""
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        for moment in (NOW, NOW + 1, 1793494800.0, 1793498400.0):
            name = replace(ALL[0], taken=moment).file_name
            assert name == datetime.fromtimestamp(moment, timezone.utc).strftime("etcd-%Y%m%dT%H%M%SZ-r100.db")
            (tmp_path / name).write_bytes(b"x" * 1056)
            (found,) = _snapshot.read_directory(str(tmp_path), "etcd")
            assert (found.taken, found.file_name) == (moment, name)
            (tmp_path / name).unlink()
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize("changes", [0, 7])
def test_a_snapshot_that_takes_long_is_not_removed_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: int
) -> None:
    """Its time is that of its end. Against the time of its beginning, it would be one from the future."""
    clock = Clock(tmp_path / "backups", monkeypatch, changes, keep=2, keep_days=1)
    for lasts in (1.0, 1.0, 1.0, 900.0, 900.0, 366 * DAY):
        clock.lasts = lasts
        clock.hour(0)
        assert clock.taken[-1] in clock.names()


def test_names_that_only_resemble(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each would be counted, and removing it would remove the snapshot that really has the name."""
    clock = Clock(tmp_path / "backups", monkeypatch, 1, keep=3)
    for _hour in range(3):
        clock.hour(0)
    there = tmp_path / "backups"
    good = clock.names()
    strange = [
        good[-1].replace("-r", "-r00"),
        "etcd-20991127T095960Z-r999.db",
        "etcd-\uff12\uff10\uff12\uff16" + "1127T095900Z-r999.db",
    ]
    for name in strange:
        (there / name).write_bytes(b"x" * 1056)
    assert [item.file_name for item in _snapshot.read_directory(str(there), "etcd")] == good[::-1]
    clock.hour(0)
    assert set(clock.names()) == {*good[1:], clock.taken[-1], *strange}


def test_a_full_disk_does_not_hide_the_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They may be on another one."""
    there, figures = tmp_path / "backups", tmp_path / "figures"
    for directory in (there, figures):
        directory.mkdir()
    write = _backup.replace_file

    def on_a_full_disk(path: str, content: bytes, mode: int) -> Any:
        if path.startswith(str(there)):
            raise EtcdError(f"{path} cannot be written: No space left on device.")
        return write(path, content, mode)

    monkeypatch.setattr(_backup, "replace_file", on_a_full_disk)
    _backup.write_state(spec(there, textfile_dir=str(figures)), "backup", _snapshots.State(error="no room"))
    assert os.listdir(there) == [] and "last_failed{" in (figures / "etcd-backup.prom").read_text()
    assert 'member="infra0"} 1' in (figures / "etcd-backup.prom").read_text()


def test_snapshots_that_are_too_many_are_removed_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They may fill the disk. Old ones within the number to keep stay until there is a new one."""
    there = tmp_path / "backups"
    files(there, *ALL[:5])

    def full(_spec: Any, _waiting: Any) -> Any:
        raise EtcdError("no room")

    monkeypatch.setattr(_backup, "_take", full)
    monkeypatch.setattr(_backup.time, "time", lambda: NOW)
    with pytest.raises(EtcdError, match="no room"):
        _backup.take(spec(there, keep=3, keep_days=1))
    assert [item.revision for item in _snapshot.read_directory(str(there), "etcd")] == [100, 99, 98]
    assert _snapshots.State.read(str(there), "backup").error == "no room"


def test_files_that_were_left(tmp_path: Path) -> None:
    """Encrypted copies with the certificate, and copies for a restore, are removed after a day. Files of the user stay, as do directories and links."""
    there = tmp_path / "backups"
    files(there, ALL[0])
    name, token = ALL[0].file_name, "ab" * 16
    ages = {
        f"{name}.cms": 2.0,
        f"{name}.cms-01": 2.0,
        f"{name}.cms.crt": 2.0,
        f"{name}.json.cms": 2.0,
        f"{name}.json.cms.crt": 2.0,
        # The clock was ahead.
        f"restore-{token}.db": -365.0,
        "etcd-20260101T000000Z-r5.db.cms": 0.5,
        "x.db.cms": 2.0,
        "restore-2025.db": 2.0,
        "restore-1-2.db": 2.0,
        "z.cms": 2.0,
    }
    for left, age in ages.items():
        (there / left).write_text("x")
        os.utime(there / left, (NOW - age * DAY,) * 2)
    (there / f"restore-{token}-5.db").mkdir()
    os.utime(there / f"restore-{token}-5.db", (NOW - 2 * DAY,) * 2)
    link = "etcd-20260101T000000Z-r6.db.cms"
    (there / link).symlink_to(there / "gone")
    os.utime(there / link, (NOW - 2 * DAY,) * 2, follow_symlinks=False)
    before = set(os.listdir(there))
    assert _backup.prune(spec(there), NOW) == []
    assert before - set(os.listdir(there)) == {*list(ages)[:6], link}


def test_a_snapshot_is_taken_while_another_job_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The state of another job is written without the lock of snapshots, and the certificate of a copy is read for as long as it is encrypted."""
    there = tmp_path / "backups"
    files(there, ALL[0])
    fresh = (".kubeadm-etcd-0123456789abcdef", f"{ALL[0].file_name}.cms.crt")
    old = (".kubeadm-etcd-fedcba9876543210", ".kubeadm-etcd--snapshot", ".kubeadm-etcd--snapshot.part")
    for name in (*fresh, *old):
        (there / name).write_text("x")
    os.utime(there / old[0], (time.time() - 61,) * 2)
    _backup.remove_unfinished(str(there))
    assert set(os.listdir(there)) == {ALL[0].file_name, f"{ALL[0].file_name}.json", *fresh}
    # A file that is renamed between the look and the removal.
    monkeypatch.setattr(_backup, "strays", lambda _directory: [str(there / name) for name in old])
    _backup.remove_unfinished(str(there))


def certificate(*key: str) -> str:
    """By the command of docs/backup.md, with a key of a kind."""
    argv = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        *key,
        "-nodes",
        "-days",
        "3650",
        "-subj",
        "/CN=etcd-backup",
        "-keyout",
        "/dev/null",
    ]
    return subprocess.run(argv, check=True, capture_output=True, text=True, timeout=60).stdout


RSA = certificate("rsa:2048")
# Old versions of the library cannot read it.
PSS = certificate("rsa-pss", "-pkeyopt", "rsa_keygen_bits:2048")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (RSA, ""),
        (certificate("ec", "-pkeyopt", "ec_paramgen_curve:P-256"), ""),
        (
            PSS,
            "has a key of the kind RSA-PSS-2048, which openssl" if load_certificate(PSS.encode()) else "is not a cert",
        ),
        (certificate("ed25519"), "has a key of the kind Ed25519PublicKey, which openssl cannot encrypt to"),
        ("-----BEGIN CERTIFICATE-----\nx\n", "is not a certificate"),
        (f"{RSA}-----BEGIN PRIVATE KEY-----\n", "has a private key in it"),
        ("hello\n", "is not a certificate"),
        ("\n", "cannot be read on the controller"),
    ],
    # Workers would not agree on certificates.
    ids=["rsa", "ec", "rsa-pss", "ed25519", "broken", "with a key", "text", "empty"],
)
def test_recipients(text: str, expected: str) -> None:
    found = recipient_problems("/srv/backup.crt", text)
    assert (expected in found[0] and "/srv/backup.crt" in found[0]) if expected else found == []


@pytest.mark.parametrize(("begins", "ends"), [(-800, -400), (400, 800)], ids=["expired", "not yet valid"])
def test_a_recipient_outside_of_its_time(tmp_path: Path, begins: int, ends: int) -> None:
    """It is accepted, and its key decrypts: a snapshot in plain text, or none, would be worse."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "etcd-backup")])
    now = datetime.now(timezone.utc)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(5)
        .not_valid_before(now + timedelta(days=begins))
        .not_valid_after(now + timedelta(days=ends))
        .sign(key, hashes.SHA256(), default_backend())
    )
    text = made.public_bytes(serialization.Encoding.PEM).decode()
    plain, private = tmp_path / ALL[0].file_name, tmp_path / "key"
    plain.write_bytes(WHOLE)
    private.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    assert recipient_problems("/srv/backup.crt", text) == []
    (sealed,) = _backup.encrypt(text, str(plain))
    # As docs/backup.md has it.
    argv = ["openssl", "cms", "-decrypt", "-binary", "-inform", "DER", "-in", sealed, "-inkey", str(private)]
    assert subprocess.run(argv, check=True, capture_output=True, timeout=60).stdout == WHOLE
    assert sorted(os.listdir(tmp_path)) == sorted(["key", plain.name, Path(sealed).name])


@pytest.mark.parametrize(
    ("stdout", "stderr", "expected"),
    [
        ("", '2026-11-28T03:58:46Z\twarn\twal.go:147\t{"error": "x"}\nError: no space left on device\n', "Error: no space left on device"),
        ("", "panic: page 3 already freed\n\ngoroutine 1 [running]:\nmain.main()\n", "panic: page 3 already freed"),
        ("", "unexpected fault address 0x7f\nfatal error: fault\n", "unexpected fault address 0x7f"),
        ("", "is not installed", "is not installed"),
        ("on the other output\n", "", "on the other output"),
        ("", "", "it ended with 3"),
        ("", f"Error: {'x' * 900}", f"Error: {'x' * 393}"),
    ],
)  # fmt: skip
def test_the_error_of_a_program_of_etcd(stdout: str, stderr: str, expected: str) -> None:
    assert _backup.error_of(_backup.Done(3, stdout, stderr)) == expected


def test_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An encrypted copy needs room too."""
    status = type("Status", (), {"db_size": 100 << 20})()
    monkeypatch.setattr(_backup, "free_bytes", lambda _path: 200 << 20)
    _backup.check_space(spec(tmp_path), status)
    with pytest.raises(EtcdError, match="has 200 MiB free and 264 MiB are needed"):
        _backup.check_space(spec(tmp_path, recipient="PEM"), status)


def test_metrics(tmp_path: Path) -> None:
    lines = _backup.metrics(spec(tmp_path), "backup", _snapshots.State(5.0, 4.0, "no room", "f", 20480, 7, 0.5))
    labels = '{cluster="etcd",member="infra0"}'
    assert f"kubeadm_etcd_backup_last_success_timestamp_seconds{labels} 4.0" in lines
    assert f"kubeadm_etcd_backup_last_failed{labels} 1" in lines
    assert f"kubeadm_etcd_backup_size_bytes{labels} 20480" in lines
    assert sum(line.startswith("# TYPE") for line in lines) == len(lines) / 3


# --- The timer -------------------------------------------------------------------------------------------------------


def test_the_program_of_the_timer_runs_alone(tmp_path: Path) -> None:
    """It has all modules that it needs, and the same digest each time, from the controller and from the file on the host."""
    files = _sources.program_files()
    packed = _sources.packed(files)
    assert wanted_program() == _sources.digest(files) == _sources.digest_of_zip(packed)
    assert _sources.digest_of_zip(packed[:-1]) == _sources.digest_of_zip(b"") == ""
    names = zipfile.ZipFile(io.BytesIO(packed)).namelist()
    assert any(name.endswith("_member/backup.py") for name in names)
    assert not any("_control" in name for name in names)
    program, config = tmp_path / "timers.pyz", tmp_path / "timers.json"
    program.write_bytes(packed)
    config.write_text(
        json.dumps(
            {
                "cluster": "etcd",
                "member": "infra0",
                "members": [{"name": "infra0", "address": "127.0.0.1"}],
                "client_port": 1,
                "pki_dir": str(tmp_path),
                "dir": str(tmp_path / "backups"),
            }
        )
    )
    argv = [sys.executable, "-I", str(program), "backup", str(config)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, cwd="/", check=False)
    assert (
        done.returncode == 1 and "no member of the cluster is healthy" in done.stderr and "Traceback" not in done.stderr
    )
    state = json.loads((tmp_path / "backups" / "backup-state.json").read_text())
    assert state["error"] and state["succeeded"] == 0


PROGRAM = {"__main__.py": "pass"}


def test_sources_of_both_loaders(tmp_path: Path) -> None:
    """On a host they are in an archive. The digest is the same."""
    files = _sources.program_files()
    before = _sources.digest(files)
    name = _sources.__name__.replace(".", "/") + ".py"
    (tmp_path / "sent.zip").write_bytes(_sources.packed({**files, name: Path(_sources.__file__).read_text()}))
    code = f"import {_sources.__name__} as s; print(s.__file__, s.digest(s.program_files()))"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "sent.zip")}
    done = subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True)
    assert done.stdout.split() == [str(tmp_path / "sent.zip" / name), before]


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A host without systemd, whose units are in a directory."""
    units = tmp_path / "units"
    units.mkdir()
    monkeypatch.setattr(_schedule, "UNIT_DIR", str(units))
    monkeypatch.setattr(_set_schedule, "program_files", lambda _main: PROGRAM)
    monkeypatch.setattr(_set_schedule, "replace_files", lambda items: [write(item) for item in items])
    monkeypatch.setattr(_set_schedule, "ensure_directory", lambda path, _mode: Path(path).mkdir(exist_ok=True))
    return tmp_path


def write(item: Replacement) -> None:
    Path(item.path).write_bytes(item.data)


def test_the_timer_is_installed_changed_and_removed(host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    state = {"active": False}

    def systemctl(*words: str) -> None:
        told.append(" ".join(words))
        state["active"] = words[0] == "restart" or (state["active"] and words[0] != "disable")

    def run(argv: list[str], _timeout: float) -> Any:
        code = int(not state["active"]) if argv[1] == "is-active" else int("wrong" in argv)
        return type("Done", (), {"code": code, "stderr": "Failed to parse", "stdout": ""})()

    for module in (_schedule, _set_schedule):
        monkeypatch.setattr(module, "systemctl", systemctl)
    monkeypatch.setattr(_schedule, "run", run)
    program = _sources.digest(PROGRAM)
    given = {"schedule": "hourly", "command": ["cp", "{file}", "/mnt"], "work_dir": str(host)}
    wanted = spec(host / "backups", **given, program=program)
    none = replace(wanted, schedule="")
    units = host / "units"

    def changed(spec: _snapshots.BackupSpec, check: bool = False) -> list[str]:
        return [reason.code for reason in _set_schedule.set_schedule(spec, check)]

    assert changed(none) == [] and told == []
    assert changed(wanted, True) == ["new"] and not list(units.iterdir())
    with pytest.raises(EtcdError, match=r"etcd_backup_schedule 'wrong'.*Failed to parse"):
        changed(replace(wanted, schedule="wrong"))
    assert changed(wanted) == ["new"]
    assert told == ["daemon-reload", "enable kubeadm-etcd-backup.timer", "restart kubeadm-etcd-backup.timer"]
    assert "OnCalendar=hourly" in (units / "kubeadm-etcd-backup.timer").read_text()
    assert json.loads((host / "timers.json").read_text())["command"] == ["cp", "{file}", "/mnt"]
    # As it will be read by the service.
    assert _snapshots.BackupSpec.from_params(json.loads((host / "timers.json").read_text())) == wanted
    assert changed(wanted) == []
    # A run by hand has no expected digest of the program.
    assert changed(replace(wanted, program="")) == []
    # A volume that is gone, or a collector that was removed and installed again.
    (host / "backups").rmdir()
    assert changed(wanted) == ["no-directory"] and (host / "backups").is_dir()
    assert changed(replace(wanted, keep=3)) == ["differs"]
    state["active"] = False
    assert [reason.code for reason in _schedule.schedule_reasons(replace(wanted, keep=3))] == ["inactive"]
    (host / "timers.pyz").unlink()
    assert changed(replace(wanted, keep=3)) == ["missing"]
    # Another version of the collection.
    other = _schedule.schedule_reasons(replace(wanted, keep=3, program="other"))
    assert other[0].text == f"{host}/timers.pyz: differs"
    (host / "timers.pyz").write_bytes(b"cut off")
    assert changed(replace(wanted, keep=3)) == ["differs"]
    # Another timer comes, and the first one goes.
    both = replace(wanted, defragment_schedule="daily")
    told.clear()
    assert changed(both) == ["new"] and changed(both) == []
    assert told[-1] == "restart kubeadm-etcd-backup.timer kubeadm-etcd-defragment.timer"
    assert " defragment " in (units / "kubeadm-etcd-defragment.service").read_text()
    drill = replace(none, drill_schedule="weekly")
    assert changed(drill) == ["removed", "new", "removed"] and changed(drill) == []
    assert sorted(path.name for path in units.iterdir()) == ["kubeadm-etcd-drill.service", "kubeadm-etcd-drill.timer"]
    assert changed(none) == ["removed"]
    assert _schedule.present_files(str(host)) == [] and changed(none) == []


NEW, OLD = "etcd-20261127T100000Z-r9.db", "etcd-20261126T100000Z-r5.db"


@pytest.fixture
def rehearsed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The snapshots whose restore was rehearsed. One called broken fails."""
    paths: list[str] = []

    def drill(_spec: Any, path: str, _image: str) -> dict[str, Any]:
        paths.append(path)
        if Path(path).read_text() == "broken":
            raise EtcdError("etcdutl cannot restore it")
        return {"revision": 9, "seconds": 1.5, "lines": ["restored"]}

    monkeypatch.setattr(_timers, "drill", drill)
    return paths


def test_each_snapshot_is_rehearsed_once(tmp_path: Path, rehearsed: list[str]) -> None:
    it = spec(tmp_path)
    assert "no snapshot" in _timers.run_job("drill", it) and rehearsed == []
    snapshot(tmp_path, OLD)
    assert _timers.run_job("drill", it) == "restored"
    assert "already" in _timers.run_job("drill", it) and rehearsed == [str(tmp_path / OLD)]
    state = _snapshots.State.read(it.dir, "drill")
    assert state.succeeded > 0 and (state.revision, state.error) == (9, "")
    snapshot(tmp_path, NEW, "broken")
    with pytest.raises(EtcdError):
        _timers.run_job("drill", it)
    failed = _snapshots.State.read(it.dir, "drill")
    assert failed.error and failed.succeeded == state.succeeded
    # It is tried again, and the metrics say that it fails.
    with pytest.raises(EtcdError):
        _timers.run_job("drill", it)
    assert "kubeadm_etcd_drill_last_failed{" in (tmp_path / "etcd-drill.prom").read_text()


def snapshot(directory: Path, name: str, text: str = "x") -> None:
    (directory / name).write_text(text)


@pytest.mark.parametrize("looks", [0, 2, 99])
def test_a_leader_is_defragmented_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, looks: int) -> None:
    """It waits while others are to be defragmented, but not for ever."""
    waiting = [["infra1"]] * looks + [[]]
    now = [0.0]
    monkeypatch.setattr(_timers, "fragmented_before_leader", lambda _spec: waiting.pop(0))
    monkeypatch.setattr(_timers.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(_timers.time, "sleep", lambda seconds: now.__setitem__(0, now[0] + 60 * seconds))
    sizes = {"before": {"size": 64 << 20}, "after": {"size": 8 << 20}}
    monkeypatch.setattr(_timers._defragment, "defragment", lambda *_given: {"changed": True, "seconds": 1.0, **sizes})
    line = _timers.run_job("defragment", spec(tmp_path))
    assert ("is the leader, and the others come first: infra1" in line) is (looks == 99)
    assert ("64 MiB -> 8 MiB" in line) is (looks != 99)
    assert (_snapshots.State.read(str(tmp_path), "defragment").size == 8 << 20) is (looks != 99)


def test_a_directory_that_every_user_may_write_to(tmp_path: Path) -> None:
    """Any of them could put a snapshot there. It is refused before anything is written, and before a timer is installed."""
    tmp_path.chmod(0o1777)
    wanted = spec(tmp_path)
    for attempt in (lambda: _backup.take(wanted), lambda: _timers.run_job("drill", wanted)):
        with pytest.raises(
            EtcdError, match=rf"etcd_backup_dir {tmp_path}: every user .* \(mode 1777\), .* chmod o-w {tmp_path}$"
        ):
            attempt()
    scheduled = _schedule.schedule_problems(spec(tmp_path, schedule="hourly"))
    assert [item.code for item in scheduled if "chmod o-w" in item.text] == ["backup-directory"]
    assert _schedule.schedule_problems(wanted) == []
    # The choice of the user.
    tmp_path.chmod(0o770)
    _snapshots.own_directory(str(tmp_path))
    assert tmp_path.stat().st_mode & 0o777 == 0o770


@pytest.mark.parametrize("content", [b"", b"[1]", b"{}", b"\0\0", b"\xff\xfe", b"[" * 200000, None])
def test_a_damaged_configuration_of_the_timers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes | None
) -> None:
    """The journal gets a message, not a traceback. None: the file is missing."""
    path = tmp_path / "timers.json"
    if content is not None:
        path.write_bytes(content)
    assert _timers.main(["backup", str(path)]) == 1
    words = "No such file or directory. Correct this" if content is None else "is damaged. Run site.yml"
    said = capsys.readouterr().err
    assert str(path) in said and words in said
