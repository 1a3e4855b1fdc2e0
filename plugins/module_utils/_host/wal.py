# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Reads the identity of a member's data from the head of its write-ahead log, and what etcd 3.7 cannot read from the rest of it.

This works while etcd is not running. It shows which member the data belongs to, and whether its cluster ever had a leader. A run that was
killed while a new cluster started leaves members with a log but without a leader: these may be started as a new cluster. A member whose
cluster has had a leader may hold user data.

Format: etcd server/storage/wal (encoder.go: frame length, record.proto: type, crc, data), etcdserverpb.Metadata,
raftpb.HardState. This file never writes.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable
from dataclasses import dataclass

from ansible_collections.kubeadm.etcd.plugins.module_utils._host.files import open_file
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.errors import reason_of

RECORD_METADATA = 1
RECORD_ENTRY = 2
RECORD_STATE = 3

# Bootstrap writes the initial members as entries of term 1; the first election makes it 2 (raft, Bootstrap).
BOOTSTRAP_TERM = 1

# The first leader appears within the first few records, so the rest of a log is not read.
READ_LIMIT = 1 << 20


# The maximum size of an etcd database that has never applied an entry (bbolt allocates 16 MiB at once: seen with 3.6.14).
NEW_DATABASE = 32 << 20

# The key in the bucket `meta` that etcd writes with the first entry it applies (server/storage/schema/cindex.go). Zero is never written.
APPLIED = b"consistent_index"


@dataclass(frozen=True)
class Wal:
    """The identity of the data in a data directory.

    member_id, cluster_id: hexadecimal ('' if unknown). formed: whether its cluster has had a leader; assumed if the data cannot be read.
    restored: whether `etcdutl snapshot restore` wrote it, and it has had no leader since. problem: why the identity is unknown ('': it is
    known).
    """

    member_id: str
    cluster_id: str
    formed: bool
    restored: bool = False
    problem: str = ""


def parse_varint(data: bytes, position: int) -> tuple[int, int]:
    """A protobuf varint and the position after it. IndexError at the end of data."""
    value = shift = 0
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7


def parse_fields(data: bytes) -> dict[int, int | bytes]:
    """Fields of a flat protobuf message that uses varints (0) and byte strings (2) only. ValueError otherwise."""
    fields: dict[int, int | bytes] = {}
    position = 0
    while position < len(data):
        key, position = parse_varint(data, position)
        value, position = parse_varint(data, position)
        if key & 7 == 0:
            fields[key >> 3] = value
        elif key & 7 == 2:
            fields[key >> 3] = data[position : position + value]
            position += value
        else:
            raise ValueError(f"wire type {key & 7}")
    return fields


def records(data: bytes) -> list[tuple[int, bytes]]:
    """Type and payload of the records in (the head of) a segment, up to the zeros after the last record."""
    found: list[tuple[int, bytes]] = []
    position = 0
    while position + 8 <= len(data):
        (length,) = struct.unpack_from("<Q", data, position)
        size = length & ((1 << 56) - 1)
        # The top byte contains the number of bytes that pad the record to a multiple of eight.
        padding = (length >> 56) & 7 if length >> 63 else 0
        position += 8
        if size == 0 or position + size > len(data):
            break
        try:
            fields = parse_fields(data[position : position + size])
        except (ValueError, IndexError):
            break
        kind, payload = fields.get(1, 0), fields.get(3, b"")
        if isinstance(kind, int) and isinstance(payload, bytes):
            found.append((kind, payload))
        position += size + padding
    return found


def parse_wal(data: bytes, later_segments: bool, has_snapshot: bool = False) -> Wal | None:
    """Parse the head of the oldest segment; None if it has no metadata record (an empty or foreign file).

    has_snapshot: whether there is a raft snapshot beside the log.
    """
    member_id = cluster_id = term = 0
    for kind, payload in records(data):
        if kind not in (RECORD_METADATA, RECORD_STATE):
            continue
        try:
            fields = parse_fields(payload)
        except (ValueError, IndexError):
            continue
        first, second = fields.get(1, 0), fields.get(2, 0)
        if not isinstance(first, int) or not isinstance(second, int):
            continue
        if kind == RECORD_METADATA:
            member_id, cluster_id = first, second
        else:
            term = max(term, first)
    if not member_id:
        return None
    led = later_segments or term > BOOTSTRAP_TERM
    # A restored member has a log of term 1, like a new one, and a raft snapshot, which a new one does not have before 10,000 writes.
    return Wal(f"{member_id:x}", f"{cluster_id:x}", formed=led or has_snapshot, restored=has_snapshot and not led)


def names_in(directory: str, ending: str) -> list[str]:
    """Sorted names in a directory with this ending; none if the directory is not there. OSError if it cannot be listed."""
    try:
        return sorted(name for name in os.listdir(directory) if name.endswith(ending))
    except (FileNotFoundError, NotADirectoryError):
        return []


def has_applied(path: str) -> bool:
    """Whether a database of etcd has ever applied an entry. False if it is not there. OSError if it cannot be read."""
    try:
        if os.stat(path).st_size > NEW_DATABASE:
            return True
        with open_file(path) as handle:
            return APPLIED in handle.read(NEW_DATABASE)
    except (FileNotFoundError, NotADirectoryError):
        return False


def read_wal(data_dir: str) -> Wal | None:
    """The identity of the data in a directory; None if it never contained any. Never raises.

    If the log is missing beside data, or cannot be read, the data counts as formed, with an unknown identity.
    """
    member_dir = os.path.join(data_dir, "member")
    log_dir, snap_dir = (os.path.join(member_dir, name) for name in ("wal", "snap"))
    for path in (data_dir, member_dir, log_dir, snap_dir):
        if os.path.islink(path) and not os.path.exists(path):
            problem = f"{path} links to {os.readlink(path)}, which does not exist: a volume may not be mounted"
            return Wal("", "", formed=True, problem=problem)
    try:
        segments = names_in(log_dir, ".wal")
        if not segments:
            database = os.path.join(snap_dir, "db")
            problem = f"{database} contains data, but {log_dir} has no log: a volume may not be mounted"
            return Wal("", "", formed=True, problem=problem) if has_applied(database) else None
        with open_file(os.path.join(log_dir, segments[0])) as handle:
            data = handle.read(READ_LIMIT)
        # If the first segment (number 0) was purged, or a second one exists, the cluster has had a leader.
        later = len(segments) > 1 or not segments[0].startswith("0000000000000000-")
        wal = parse_wal(data, later, bool(names_in(snap_dir, ".snap")))
    except OSError as exc:
        return Wal("", "", formed=True, problem=f"{exc.filename or data_dir} cannot be read: {reason_of(exc)}")
    return wal or Wal(
        "", "", formed=True, problem=f"{os.path.join(log_dir, segments[0])} is not a write-ahead log of etcd"
    )


# --- What etcd 3.7 cannot read ---------------------------------------------------------------------------------------

# How a request of etcd's former API (v2) looks in the log. etcd 3.5 writes one when it founds a cluster and each time it starts; they are
# always PUT: 3.6 panics at others (server/etcdserver/apply_v2.go). Field 2 is the method, field 3 the path.
_FORMER = b"\x12\x03PUT\x1a"


def index_in(name: str) -> int:
    """The index in the name of a segment (0-1.wal) or of a raft snapshot (term-1.snap). ValueError if it has none."""
    return int(name.rsplit(".", 1)[0].split("-")[1], 16)


def is_former(request: bytes) -> bool:
    """Whether a request in the log is one of the former API: its id (field 1), then its method (field 2), which requests of today do not have."""
    try:
        return request[:1] == b"\x08" and request[parse_varint(request, 1)[1]] == _FORMER[0]
    except IndexError:
        return False


def holds(path: str, pattern: bytes) -> bool:
    """Whether a file holds these bytes."""
    end = b""
    with open_file(path) as handle:
        for block in iter(lambda: handle.read(READ_LIMIT), b""):
            if pattern in end + block:
                return True
            end = block[1 - len(pattern) :]
    return False


def content(path: str) -> bytes:
    """All of a file. It is not mapped: etcd cuts a segment off when it is full, and who reads behind that would die."""
    with open_file(path) as handle:
        return handle.read()


def former_requests(segments: Iterable[bytes], after: int) -> list[int]:
    """Indexes of the entries of the former API in a log, after an index. What was written again by a later leader counts once, as it is then."""
    found: dict[int, bool] = {}
    for data in segments:
        for kind, payload in records(data):
            if kind != RECORD_ENTRY:
                continue
            try:
                fields = parse_fields(payload)
            except (ValueError, IndexError):
                # etcd is writing it.
                continue
            index, request = fields.get(3, 0), fields.get(4, b"")
            if isinstance(index, int) and isinstance(request, bytes):
                found[index] = not fields.get(1) and is_former(request)
    return sorted(index for index, former in found.items() if former and index > after)


def unreadable_by_3_7(data_dir: str) -> list[int]:
    """Indexes of entries at which etcd 3.7 would panic when it starts on this data ("unmarshal should never fail"). Never raises.

    etcd reads its log from the newest raft snapshot (member/snap/*.snap) on, and 3.7 has no reader for entries of the former API (v2). They do no harm
    once a raft snapshot is newer. Whether there is a snapshot at all proves nothing: seen in tests/etcd/test_upgrade.py. A log that cannot be
    read has none: see `read_wal`.
    """
    log_dir, snap_dir = (os.path.join(data_dir, "member", name) for name in ("wal", "snap"))
    try:
        snapshot = max((index_in(name) for name in names_in(snap_dir, ".snap")), default=0)
        names = names_in(log_dir, ".wal")
        # The segment that the snapshot is in, and all after it.
        first = max((number for number, name in enumerate(names) if index_in(name) <= snapshot + 1), default=0)
        paths = [os.path.join(log_dir, name) for name in names[first:]]
        # Few have any of these, and a search is much faster than a look at each entry.
        if not any(holds(path, _FORMER) for path in paths):
            return []
        return former_requests(map(content, paths), snapshot)
    except (OSError, ValueError, IndexError):
        return []


def count_beyond(applied: int, entries: list[int]) -> int:
    """The value of --snapshot-count with which etcd writes a raft snapshot newer than these entries when it starts again, and few more than that.

    applied: the index that the member has applied. etcd writes a snapshot whenever it has applied more than so many entries since the last one, and
    applies at least one more when it starts: that of its client URLs (server/etcdserver/server.go, shouldSnapshotToDisk, publishV3).
    """
    return max(1, applied - entries[-1])
