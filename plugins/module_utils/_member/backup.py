# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A snapshot is taken on the host of a member, proven, kept, and sent away. The module etcd_snapshot and the timer run the same code.

A file gets its name after it was verified. What a killed run leaves has a temporary name, and the next one removes it.
"""

from __future__ import annotations

import calendar
import contextlib
import json
import os
import re
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, replace
from typing import Any, BinaryIO

from ansible_collections.kubeadm.etcd.plugins.module_utils._etcd.client import EtcdClient, Status, side_by_side
from ansible_collections.kubeadm.etcd.plugins.module_utils._etcd.snapshot import (
    BEGIN,
    DESCRIPTION,
    DIGEST,
    ENCRYPTED,
    Snapshot,
    Source,
    as_data,
    check_file,
    count_keys,
    described_in,
    is_description,
    kept,
    read_directory,
    source_of,
)
from ansible_collections.kubeadm.etcd.plugins.module_utils._host.facts import free_bytes
from ansible_collections.kubeadm.etcd.plugins.module_utils._host.files import (
    TEMPORARY,
    locked,
    open_file,
    replace_file,
    sha256_of,
    strays,
    sync_directory,
)
from ansible_collections.kubeadm.etcd.plugins.module_utils._host.image import bare, image_root, run_alone
from ansible_collections.kubeadm.etcd.plugins.module_utils._host.process import Done, feed, run
from ansible_collections.kubeadm.etcd.plugins.module_utils._member import processes as _processes
from ansible_collections.kubeadm.etcd.plugins.module_utils._member import rollout as _rollout
from ansible_collections.kubeadm.etcd.plugins.module_utils._member.snapshots import (
    BACKUP,
    BackupSpec,
    State,
    own_directory,
    state_name,
)
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.errors import EtcdError, system_errors
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.versions import branch_in

# What has to stay free on the filesystem beside a snapshot, in bytes.
SPARE = 64 << 20

# Seconds for one member's answer, for etcdutl to read a snapshot of 8 GiB on a slow disk, and for what sends a snapshot away.
ANSWER, READS, SENDS = 5.0, 1800.0, 6 * 3600.0

# Seconds for what sends the description of a snapshot away, which has less than a kilobyte.
SENDS_DESCRIPTION = 600.0

MINUTE, DAY = 60.0, 86400.0

# What is there for a while only: encrypted copies of snapshots with the certificate, and the copies of the file that restore.yml and restore_drill.yml
# bring (roles/restore/vars). Not a file of the user with a similar name.
RESTORED = re.compile(r"restore-[0-9a-f]{32}(-[0-9a-f]+)?\.db\Z")
_COPY = re.compile(rf"{BEGIN}({re.escape(DESCRIPTION)})?\.cms(-\d+|\.crt)?\Z")

# How the errors of etcd's programs begin.
_ERRORS = ("Error:", "panic:", "unexpected fault")

# The snapshot that is being taken, until it has its name.
_UNFINISHED = f"{TEMPORARY}-snapshot"

# Bytes of a snapshot that travel to the controller at once.
MOVED = 16 << 20

# A larger encrypted copy has parts, .cms-01 and so on, of this size before encryption.
PART = 256 << 20


class SendError(EtcdError):
    """A snapshot could not be sent away. recorded: the message for the report, without what the program has printed, which may be secret."""

    def __init__(self, text: str, recorded: str) -> None:
        super().__init__(text)
        self.recorded = recorded


def metrics_name(job: str) -> str:
    """The file that says the same to the textfile collector of node_exporter."""
    return f"etcd-{job}.prom"


def source(spec: BackupSpec) -> Source | None:
    """The member that a snapshot is taken from at this moment; every member is asked."""

    def ask(name: str) -> Source:
        try:
            with EtcdClient(spec.url(name), *spec.credentials, timeout=ANSWER) as client:
                status = client.status()
                well, said = client.health()
        except EtcdError as exc:
            return Source(name, str(exc))
        corrupt = any(alarm.kind == "CORRUPT" and alarm.member_id in (0, status.member_id) for alarm in status.alarms)
        problem = "" if well and not corrupt else "alarm CORRUPT" if corrupt else said or "it is not healthy"
        return Source(name, problem, status.leader == status.member_id, status.is_learner)

    found = side_by_side(ask, [name for name, _address in spec.members], 2 * ANSWER)
    return source_of([item for item in found if item])


def take(spec: BackupSpec, while_waiting: Callable[[], None] = lambda: None) -> dict[str, Any]:
    """Take a snapshot of the member on this host, whatever the other members are. Returns the module's result. EtcdError if there is none."""
    now = time.time()
    with recorded(spec, BACKUP, now), contextlib.ExitStack() as stack:
        own_directory(spec.dir)
        stack.enter_context(locked(os.path.join(spec.dir, ".lock"), 60.0, READS))
        remove_unfinished(spec.dir)
        # Those beyond etcd_backup_keep may be what fills the disk. No snapshot may come of this, so their age does not count yet.
        removed = prune(replace(spec, keep_days=0), now)
        path, snapshot = _take(spec, while_waiting)
        # A snapshot may take many minutes, and the clock may be set meanwhile.
        removed += prune(spec, time.time(), path)
        sent = send(spec, path)
        write_state(spec, BACKUP, State(now, time.time(), "", path, snapshot.size, snapshot.revision, snapshot.seconds))
    return {
        "changed": True,
        "path": path,
        "snapshot": as_data([snapshot])[0],
        "lines": lines_of(path, snapshot),
        "removed": removed,
        "sent": sent,
    }


@contextlib.contextmanager
def recorded(spec: BackupSpec, job: str, now: float) -> Iterator[None]:
    """An attempt of a job, whose error is written down. EtcdError for those of the system too, such as a disk that cannot be read any more."""
    try:
        with system_errors(spec.dir):
            yield
    except _rollout.AbandonedError:
        raise
    except EtcdError as exc:
        text = exc.recorded if isinstance(exc, SendError) else str(exc)
        write_state(spec, job, replace(State.read(spec.dir, job), attempted=now, error=text))
        raise


def _take(spec: BackupSpec, while_waiting: Callable[[], None]) -> tuple[str, Snapshot]:
    """Save, verify, describe and name one snapshot."""
    process = _processes.find_etcd_process(spec.member)
    begin = time.monotonic()
    temporary = os.path.join(spec.dir, _UNFINISHED)
    with contextlib.ExitStack() as stack:
        client = stack.enter_context(EtcdClient(spec.url(spec.member), *spec.credentials, timeout=ANSWER))
        status = client.status()
        check_space(spec, status)
        stack.callback(remove_unfinished, spec.dir)
        root = stack.enter_context(image_root("", process.pid if process else 0))
        save(spec, root, temporary)
        while_waiting()
        size, sha256 = os.path.getsize(temporary) - DIGEST, check_file(temporary)
        told = describe(root, temporary)
        revision = told["revision"]
        hashed, compacted = client.hash_kv(revision)
        snapshot = Snapshot(
            spec.cluster,
            float(int(time.time())),
            revision,
            size,
            sha256,
            member=spec.member,
            cluster_id=f"{status.cluster_id:x}",
            etcd_version=status.version,
            etcdutl_version=told["version"],
            hash=told["hash"],
            total_keys=told["total_keys"],
            hash_kv=hashed,
            compact_revision=compacted,
            key_count=count_keys(client, revision),
            seconds=round(time.monotonic() - begin, 3),
            downgrade=branch_in(client.enabled_downgrade(status)),
        )
        # Of the same second and revision: an idle cluster, and a clock that was set back.
        while any(os.path.lexists(os.path.join(spec.dir, snapshot.file_name + end)) for end in ("", DESCRIPTION)):
            snapshot = replace(snapshot, taken=snapshot.taken + 1)
        path = os.path.join(spec.dir, snapshot.file_name)
        os.rename(temporary, path)
    replace_file(path + DESCRIPTION, snapshot.as_text().encode(), 0o600)
    sync_directory(spec.dir)
    return path, snapshot


def save(spec: BackupSpec, root: str, path: str) -> None:
    """Save a snapshot of this member to a file, and synchronize that to the disk. EtcdError if the member stops, or the disk is full.

    By etcdctl: etcd's JSON gateway sends the same four times slower, as base64 in JSON (measured with etcd 3.6.14).
    """
    ca, cert, key = spec.credentials
    argv = [f"--endpoints={spec.url(spec.member)}", f"--cacert={ca}", f"--cert={cert}", f"--key={key}"]
    done = run([*bare(root, "etcdctl"), *argv, "snapshot", "save", path], READS)
    if done.code != 0:
        raise EtcdError(f"{spec.member}: no snapshot was taken: {error_of(done)}. The older snapshots are untouched.")


def error_of(done: Done) -> str:
    """The error of etcdctl or etcdutl, which comes after lines of the log, or before a stack."""
    lines = (done.stderr or done.stdout).strip().splitlines() or [f"it ended with {done.code}"]
    return next((line for line in lines if line.startswith(_ERRORS)), lines[-1])[:400]


def lines_of(path: str, snapshot: Snapshot) -> list[str]:
    """A snapshot, for people."""
    keys = f", {snapshot.key_count} keys" if snapshot.key_count >= 0 else ""
    return [
        f"{path}: revision {snapshot.revision}{keys}, {snapshot.size / (1 << 20):.1f} MiB in {snapshot.seconds:.1f} s, verified"
    ]


def check_space(spec: BackupSpec, status: Status) -> None:
    """EtcdError if the filesystem has no room for the snapshot, and for the encrypted copy."""
    needed = status.db_size * (2 if spec.recipient else 1) + SPARE
    free = free_bytes(spec.dir)
    if free < needed:
        raise EtcdError(
            f"{spec.member}: no snapshot is taken, because {spec.dir} has {free >> 20} MiB free and {needed >> 20} MiB are needed. Free some space, lower"
            " etcd_backup_keep, or set etcd_backup_dir to a larger filesystem. The older snapshots are untouched."
        )


def describe(root: str, path: str) -> dict[str, Any]:
    """What `etcdutl snapshot status` tells of a file: revision, hash, total_keys, storage; and its version. EtcdError if it cannot read it.

    storage: the version of etcd that the data needs ('' before 3.6).
    """
    version = run_alone(root, "etcdutl", ["version"], 60.0).stdout.split()
    done = run_alone(root, "etcdutl", ["snapshot", "status", path, "-w", "json"], READS)
    try:
        told = json.loads(done.stdout)
        return {
            "revision": int(told["revision"]),
            "hash": int(told["hash"]),
            "total_keys": int(told["totalKey"]),
            "version": version[2] if len(version) > 2 else "",
            "storage": str(told.get("version") or ""),
        }
    except (KeyError, TypeError, ValueError):
        raise EtcdError(f"etcdutl cannot read the snapshot {path}: {error_of(done)}. Use another one.") from None


def prune(spec: BackupSpec, now: float, latest: str = "") -> list[str]:
    """Remove the snapshots that are not kept any more, and return their paths. Files that are no snapshot of this cluster stay.

    latest: the path of the one that was just taken; '' if it is the one of the last success. It stays, whatever the clock was when it got its name.
    """
    found = read_directory(spec.dir, spec.cluster)
    keep = {item.file_name for item in kept(found, spec.keep, spec.keep_days, now)}
    keep.add(os.path.basename(latest or State.read(spec.dir, BACKUP).file))
    removed = [os.path.join(spec.dir, item.file_name) for item in found if item.file_name not in keep]
    for name in os.listdir(spec.dir):
        # What is older was left by a run that was killed.
        path = os.path.join(spec.dir, name)
        if (_COPY.match(name) or RESTORED.match(name)) and is_left(path, now, DAY):
            _remove(path)
    for path in removed:
        # No description is left without its snapshot, whenever the run is killed.
        for name in (path + DESCRIPTION, path):
            _remove(name)
    return removed


def remove_unfinished(directory: str) -> None:
    """Remove the temporary files of runs that were killed. One of the last minute may be of another job, which writes its state without the lock."""
    for path in strays(directory):
        if os.path.basename(path).startswith(_UNFINISHED) or is_left(path, time.time(), MINUTE):
            _remove(path)


def is_left(path: str, now: float, seconds: float) -> bool:
    """Whether a file is older than so many seconds, or as far ahead of the clock, which was wrong then. False for a directory, or if it is not there."""
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return False
    return not stat.S_ISDIR(found.st_mode) and abs(now - found.st_mtime) > seconds


def send(spec: BackupSpec, path: str) -> bool:
    """Run the command that sends a snapshot away, once for each file. Returns whether there is a command. EtcdError if it fails.

    The description comes first: if the command gives all files one name, what remains is the snapshot, which is sent even if its description is not.
    """
    if not spec.command:
        return False
    failure: SendError | None = None
    with sealed(spec.recipient, path) as files:
        for file in files:
            try:
                send_file(spec, path, file)
            except SendError as exc:
                if not is_description(file):
                    raise
                failure = exc
    if failure:
        raise failure
    return True


def send_file(spec: BackupSpec, path: str, file: str) -> None:
    """Run the command for one file of a snapshot. SendError if it fails."""
    argv = [item.replace("{file}", file) for item in spec.command]
    done = run(argv, SENDS_DESCRIPTION if is_description(file) else SENDS)
    if done.code == 0:
        return
    what = f"its description {file}" if is_description(file) else "it"
    ended = f"{spec.member}: the snapshot {path} was taken, and etcd_backup_command could not send {what} away: {argv[0]} ended with {done.code}"
    printed = (done.stderr or done.stdout).strip()[-400:] or "no output"
    raise SendError(
        f"{ended}: {printed}",
        f"{ended}. What it printed is in journalctl -u kubeadm-etcd-backup, or in the output of the run.",
    )


@contextlib.contextmanager
def sealed(recipient: str, path: str) -> Iterator[list[str]]:
    """The files that may leave the host, for as long."""
    files = outgoing(recipient, path)
    try:
        yield files
    finally:
        discard(recipient, files)


def prepare(recipient: str, path: str) -> list[dict[str, Any]]:
    """Make the files that may leave the host for the controller, and return their paths, sizes and SHA-256. They stay until discard."""
    files = outgoing(recipient, path)
    return [{"path": name, "size": os.path.getsize(name), "sha256": sha256_of(name)} for name in files]


def read_piece(path: str, offset: int) -> bytes:
    """The bytes of a file from an offset on, at most MOVED."""
    with open_file(path) as file:
        file.seek(offset)
        return file.read(MOVED)


def outgoing(recipient: str, path: str) -> list[str]:
    """The description of a snapshot, if it has one, and the snapshot; with a recipient, copies that only it can read, which discard removes.

    The description has the SHA-256 of the snapshot, so it is encrypted too. One that is of another snapshot stays.
    """
    files = [*([path + DESCRIPTION] if described_in(path) else []), path]
    if not recipient:
        return files
    copies: list[str] = []
    try:
        for file in files:
            copies += encrypt(recipient, file)
    except BaseException:
        discard(recipient, copies)
        raise
    return copies


def discard(recipient: str, files: Iterable[str]) -> None:
    """Remove the encrypted copies of outgoing."""
    for path in files if recipient else ():
        _remove(path)


def encrypt(recipient: str, path: str) -> list[str]:
    """Encrypt a file to a certificate (PEM) as CMS, DER, and return the paths of the encrypted copies.

    In parts of PART bytes, since openssl reads a whole CMS file into memory to decrypt it, and not more than 1.5 GiB (crypto/buffer/buffer.c,
    LIMIT_BEFORE_EXPANSION). EtcdError if openssl is missing or fails; then no copy is left.
    """
    # Not a temporary name: a snapshot that is taken meanwhile removes those.
    certificate = f"{path}{ENCRYPTED}.crt"
    count = max(1, -(-os.path.getsize(path) // PART))
    copies = [f"{path}{ENCRYPTED}{f'-{number + 1:02}' if count > 1 else ''}" for number in range(count)]
    argv = ["openssl", "cms", "-encrypt", "-binary", "-stream", "-aes-256-cbc", "-outform", "DER"]
    try:
        replace_file(certificate, recipient.encode(), 0o600)
        with open_file(path) as file:
            for copy in copies:
                _remove(copy)
                os.close(os.open(copy, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
                done = feed([*argv, "-out", copy, certificate], pieces_of(file, PART), SENDS)
                if done.code != 0:
                    raise EtcdError(f"{path} cannot be encrypted: openssl {done.stderr.strip()[-300:] or done.code}")
    except BaseException:
        discard(recipient, copies)
        raise
    finally:
        _remove(certificate)
    return copies


def pieces_of(file: BinaryIO, size: int) -> Iterator[bytes]:
    """The next bytes of a file, up to a size, in pieces of a megabyte."""
    while size > 0:
        piece = file.read(min(size, 1 << 20))
        if not piece:
            return
        size -= len(piece)
        yield piece


def _remove(path: str) -> None:
    """Remove a file. A directory in its place stays, and does not end each run."""
    with contextlib.suppress(FileNotFoundError, IsADirectoryError):
        os.unlink(path)


def write_state(spec: BackupSpec, job: str, state: State) -> None:
    """Write what the attempt of a job came to. A full disk does not hide the error that it has caused, nor what another disk has room for."""
    text = json.dumps(asdict(state), indent=2) + "\n"
    figures = "\n".join(metrics(spec, job, state)) + "\n"
    # The textfile collector need not run as root.
    for path, content, mode in (
        (os.path.join(spec.dir, state_name(job)), text, 0o600),
        (os.path.join(spec.textfile_dir or spec.dir, metrics_name(job)), figures, 0o644),
    ):
        with contextlib.suppress(EtcdError, OSError):
            replace_file(path, content.encode(), mode)


_MOMENT = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d) UTC")

_METRICS = (
    ("last_attempt_timestamp_seconds", "attempted", "when it was last tried on this host"),
    ("last_success_timestamp_seconds", "succeeded", "when it last succeeded on this host"),
    ("size_bytes", "size", "size of the snapshot or the database then"),
    ("revision", "revision", "revision of the snapshot or the database then"),
    ("duration_seconds", "seconds", "how long it took then"),
)


def period_of(schedule: str) -> float:
    """Seconds between the next two times of a schedule; 0 if there is none, or if systemd cannot tell."""
    if not schedule:
        return 0.0
    done = run(["systemd-analyze", "calendar", "--iterations=2", schedule], ANSWER, environment={"TZ": "UTC"})
    times = [calendar.timegm(time.strptime(text, "%Y-%m-%d %H:%M:%S")) for text in _MOMENT.findall(done.stdout)[:2]]
    return float(times[1] - times[0]) if len(times) == 2 else 0.0


def metrics(spec: BackupSpec, job: str, state: State) -> list[str]:
    """The lines for the textfile collector."""
    labels = f'{{cluster="{spec.cluster}",member="{spec.member}"}}'
    values = {name: (getattr(state, key), words) for name, key, words in _METRICS}
    values["last_failed"] = (int(bool(state.error)), "whether the last attempt on this host failed")
    values["period_seconds"] = (
        period_of(spec.schedules[job]),
        "seconds between two times of the schedule, 0 if there is none",
    )
    lines = []
    for name, (value, words) in values.items():
        full = f"kubeadm_etcd_{job}_{name}"
        lines += [f"# HELP {full} {words}", f"# TYPE {full} gauge", f"{full}{labels} {value}"]
    return lines


# --- The timer -------------------------------------------------------------------------------------------------------


def scheduled_backup(spec: BackupSpec) -> str:
    """One run of the timer: a snapshot if this member is the one to give it. Returns a line for the journal."""
    chosen = source(spec)
    if chosen and chosen.name == spec.member:
        return str(take(spec)["lines"][0])
    with recorded(spec, BACKUP, time.time()):
        own_directory(spec.dir)
        if chosen is None:
            raise EtcdError(
                "no member of the cluster is healthy, so no snapshot is taken. Run site.yml, or look at etcd's log."
            )
        # The state of this host stays good: another one takes it.
        with locked(os.path.join(spec.dir, ".lock"), 60.0):
            prune(spec, time.time())
            write_state(spec, BACKUP, replace(State.read(spec.dir, BACKUP), attempted=time.time(), error=""))
    return f"{chosen.name} takes the snapshot this time."
