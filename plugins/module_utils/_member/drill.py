# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A restore is rehearsed: a snapshot becomes a throw-away member that only this process can reach, is compared, and removed.

It listens on unix sockets in a directory of root's, in a network namespace of its own. On a port of the host, every user could read the data.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ansible_collections.kubeadm.etcd.plugins.module_utils._etcd.restore import (
    SnapshotFile,
    read_snapshot_file,
    recorded,
)
from ansible_collections.kubeadm.etcd.plugins.module_utils._etcd.snapshot import (
    NAME,
    Snapshot,
    check_file,
    read_directory,
)
from ansible_collections.kubeadm.etcd.plugins.module_utils._host.facts import free_bytes
from ansible_collections.kubeadm.etcd.plugins.module_utils._host.files import locked
from ansible_collections.kubeadm.etcd.plugins.module_utils._host.image import alone, image_root
from ansible_collections.kubeadm.etcd.plugins.module_utils._member import processes as _processes
from ansible_collections.kubeadm.etcd.plugins.module_utils._member.backup import describe, error_of
from ansible_collections.kubeadm.etcd.plugins.module_utils._member.restore import space_for, unpack
from ansible_collections.kubeadm.etcd.plugins.module_utils._member.snapshots import BackupSpec
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.errors import EtcdError, system_errors
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.paths import RUN_DIR

# Where the member lists itself. Nothing listens there.
NOWHERE = "http://127.0.0.1:1"

# Seconds until the member serves, beside those that it needs to read its database.
SERVES = 60.0

# Seconds to wait for another rehearsal on this host.
WAITS = 600.0

# Everything, as a range of keys.
EVERY_KEY = "AA=="

# The data of the member, in its scratch directory.
_DATA = "data"

# How many keys are read with their values: one after the other, since a value may have more than a mebibyte.
READ = 20


@dataclass(frozen=True)
class Drilled:
    """What the restored member told. revision, keys, hash_kv: to be compared. read: how many keys were read with their values."""

    revision: int
    keys: int
    hash_kv: int
    compact_revision: int
    read: int
    seconds: float


class _UnixConnection(http.client.HTTPConnection):
    """HTTP on a unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=30.0)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(30.0)
        self.sock.connect(self.path)


def ask(path: str, method: str, body: Mapping[str, Any]) -> dict[str, Any]:
    """One call of the gateway on a unix socket. OSError or ValueError if it fails."""
    connection = _UnixConnection(path)
    try:
        connection.request("POST", f"/v3/{method}", json.dumps(body))
        answer = connection.getresponse()
        data = json.loads(answer.read())
        if answer.status != 200:
            raise ValueError(str(data))
        return dict(data)
    except http.client.HTTPException as exc:
        raise ValueError(str(exc)) from exc
    finally:
        connection.close()


def newest_snapshot(spec: BackupSpec) -> str:
    """The path of the newest snapshot on this host. EtcdError if there is none."""
    found = read_directory(spec.dir, spec.cluster)
    if not found:
        raise EtcdError(f"{spec.member}: {spec.dir} has no snapshot of cluster {spec.cluster}. Take one: backup.yml")
    return os.path.join(spec.dir, found[0].file_name)


def drill(
    spec: BackupSpec,
    path: str,
    image: str,
    while_waiting: Callable[[], None] = lambda: None,
    source: str = "",
    description: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Rehearse the restore of a snapshot (path: '' for the newest on this host). Returns the module's result. EtcdError if it cannot be restored.

    source: the file on the controller that path is a copy of, '' if it is none. description: what was recorded of it, empty for the file beside path.
    """
    with system_errors(spec.dir):
        file = read_snapshot_file(path or newest_snapshot(spec))
        if not file.is_database:
            check_file(file.path)
        known = _known(spec, file, source, description or {})
        return _drill(spec, file, source or file.path, known, image, while_waiting)


def _known(spec: BackupSpec, file: SnapshotFile, source: str, description: Mapping[str, Any]) -> Snapshot | None:
    """What was recorded of a snapshot; None if nothing was. EtcdError if that is of another snapshot."""
    if not description:
        known, problem = recorded(file)
        if problem:
            raise EtcdError(f"{spec.member}: {problem}")
        return known
    try:
        known = Snapshot.from_data(description)
    except ValueError as exc:
        raise EtcdError(f"{spec.member}: the description of {source or file.path} is damaged: {exc}.") from exc
    if known.sha256 != file.identity:
        raise EtcdError(
            f"{spec.member}: the copy of {source or file.path} is not the snapshot that this run was planned with: the file on the controller has changed"
            " since. Run again."
        )
    return known


def _drill(
    spec: BackupSpec,
    file: SnapshotFile,
    source: str,
    known: Snapshot | None,
    image: str,
    while_waiting: Callable[[], None],
) -> dict[str, Any]:
    path = file.path
    free, needed = free_bytes(spec.dir), space_for(file)
    if free < needed:
        raise EtcdError(
            f"{spec.member}: the rehearsal needs {needed >> 20} MiB in {spec.dir}, and {free >> 20} MiB are free. Free some space."
        )
    process = _processes.find_etcd_process(spec.member)
    begin = time.monotonic()
    with contextlib.ExitStack() as stack:
        # What another one left would be removed, and what it is using too.
        stack.enter_context(locked(os.path.join(spec.dir, ".lock-drill"), WAITS, SERVES))
        scratch = stack.enter_context(directory(spec.dir))
        root = stack.enter_context(image_root(image, process.pid if process else 0))
        told = describe(root, path)
        data = os.path.join(scratch, _DATA)
        done = unpack(root, file, data, "drill", {"drill": NOWHERE})
        if done.code != 0:
            raise EtcdError(f"{spec.member}: etcdutl cannot restore {path}: {error_of(done)}")
        client = stack.enter_context(member(root, data, while_waiting))
        seen = look(client, told["revision"], begin)
    differences = [*name_problems(source, told["revision"]), *compare(known, told, seen)]
    if differences:
        raise EtcdError(
            f"{spec.member}: the member that was restored from {source} is not what the snapshot was: {'; '.join(differences)}."
        )
    compared = "as recorded" if known and known.hash_kv else "nothing was recorded to compare it with"
    line = f"{source}: restored in {seen.seconds:.1f} s: revision {seen.revision}, {seen.keys} keys, {seen.read} of them read, {compared}"
    result = {
        "path": path,
        "revision": seen.revision,
        "key_count": seen.keys,
        "read": seen.read,
        "seconds": round(seen.seconds, 3),
    }
    return {"changed": False, **result, "compared": bool(known and known.hash_kv), "lines": [line]}


@contextlib.contextmanager
def directory(parent: str) -> Iterator[str]:
    """A directory for the data, removed at the end, with those of runs that were killed and what still runs in them."""
    prefix = ".drill-"
    for name in os.listdir(parent):
        if name.startswith(prefix):
            end_members(os.path.join(parent, name, _DATA))
            shutil.rmtree(os.path.join(parent, name), ignore_errors=True)
    path = tempfile.mkdtemp(prefix=prefix, dir=parent)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def end_members(data: str) -> None:
    """End every etcd that a run which was killed has left on this data."""
    wanted = f"--data-dir={data}"
    for process in _processes.find_processes(lambda argv: wanted in argv):
        # It may end at any moment.
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)


@contextlib.contextmanager
def member(root: str, data: str, while_waiting: Callable[[], None]) -> Iterator[str]:
    """Run etcd on the data, and yield the socket of its clients. EtcdError if it does not serve."""
    os.makedirs(RUN_DIR, mode=0o700, exist_ok=True)
    # The path of a socket has 107 bytes at most.
    sockets = tempfile.mkdtemp(prefix="drill-", dir=RUN_DIR)
    client = os.path.join(sockets, "c")
    argv = [*alone(root, "etcd"), "--name=drill", f"--data-dir={data}", "--log-level=warn"]
    argv += [f"--listen-client-urls=unix://{client}", f"--advertise-client-urls={NOWHERE}"]
    argv += [f"--listen-peer-urls=unix://{os.path.join(sockets, 'p')}", f"--initial-advertise-peer-urls={NOWHERE}"]
    argv += [f"--initial-cluster=drill={NOWHERE}"]
    log = os.path.join(sockets, "log")
    try:
        with open(log, "wb") as output:
            # pylint: disable-next=ansible-bad-function
            process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        try:
            deadline = time.monotonic() + SERVES + os.path.getsize(os.path.join(data, "member/snap/db")) / (10 << 20)
            while not _serves(client):
                if process.poll() is not None or time.monotonic() > deadline:
                    with open(log, encoding="utf-8", errors="replace") as text:
                        said = text.read().strip()[-400:]
                    raise EtcdError(f"the restored member does not serve: {said or 'etcd says nothing'}")
                while_waiting()
                time.sleep(0.1)
            yield client
        finally:
            process.kill()
            process.wait()
    finally:
        shutil.rmtree(sockets, ignore_errors=True)


def _serves(client: str) -> bool:
    try:
        ask(client, "kv/range", {"key": EVERY_KEY, "limit": "1"})
    except (OSError, ValueError):
        return False
    return True


def look(client: str, revision: int, begin: float) -> Drilled:
    """Ask the restored member for what can be compared, and read some keys. EtcdError if it does not answer."""
    every = {"key": EVERY_KEY, "range_end": EVERY_KEY}
    try:
        counted = ask(client, "kv/range", {**every, "count_only": True})
        hashed = ask(client, "maintenance/hashkv", {"revision": str(revision)} if revision else {})
        read = read_keys(client, READ)
    except (OSError, ValueError) as exc:
        raise EtcdError(f"the restored member does not answer: {exc}") from exc
    return Drilled(
        int(counted["header"]["revision"]),
        int(counted.get("count", 0)),
        int(hashed.get("hash", 0)),
        int(hashed.get("compact_revision", 0)),
        read,
        time.monotonic() - begin,
    )


def read_keys(client: str, most: int) -> int:
    """Read the first keys with their values, at most so many. Returns how many there were. OSError or ValueError if one cannot be read."""
    after = EVERY_KEY
    for number in range(most):
        found = ask(client, "kv/range", {"key": after, "range_end": EVERY_KEY, "limit": "1"}).get("kvs", [])
        if not found:
            return number
        after = base64.b64encode(base64.b64decode(found[0]["key"]) + b"\0").decode()
    return most


def name_problems(path: str, revision: int) -> list[str]:
    """Whether a snapshot has another revision than its name: a file that was exchanged, whose description is missing."""
    match = NAME.match(os.path.basename(path))
    if not match or int(match["revision"]) == revision:
        return []
    return [f"the file has revision {revision} instead of {match['revision']}, which its name says"]


def compare(known: Snapshot | None, told: Mapping[str, Any], seen: Drilled) -> list[str]:
    """What of a restored member differs from what was recorded of its snapshot. known: None if nothing was. told: by etcdutl, of the file."""
    # An empty database has revision 0 for etcdutl, and 1 for etcd.
    found = []
    if max(1, told["revision"]) != seen.revision:
        found.append(f"revision {seen.revision} instead of {told['revision']}")
    if known is None:
        return found
    if max(1, known.revision) != seen.revision:
        found.append(f"revision {seen.revision} instead of {known.revision}")
    if known.key_count not in (-1, seen.keys):
        found.append(f"{seen.keys} keys instead of {known.key_count}")
    # A member that was compacted differently has another hash of the same keys.
    if known.hash_kv and known.compact_revision == seen.compact_revision and known.hash_kv != seen.hash_kv:
        found.append(f"hash {seen.hash_kv} instead of {known.hash_kv}")
    if known.etcdutl_version == told["version"] and (known.hash, known.total_keys) != (
        told["hash"],
        told["total_keys"],
    ):
        found.append(f"the file has hash {told['hash']} instead of {known.hash}")
    return list(dict.fromkeys(found))
