# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a data directory says of its member, read from the head of its write-ahead log.

Needed where etcd does not run: whose data this is, and whether its cluster ever had a leader. A run that was killed
while a new cluster was starting leaves members with a log but without a first leader; those may be started again as
members of a new cluster. A member that has once been led holds people's data.

Format: etcd server/storage/wal (encoder.go: frame length, record.proto: type, crc, data), etcdserverpb.Metadata,
raftpb.HardState. Only read, never written.
"""

from __future__ import annotations

import glob
import os
import struct
from dataclasses import dataclass

RECORD_METADATA = 1
RECORD_STATE = 3

# Bootstrap writes the initial members as entries of term 1; the first election makes it 2 (raft, Bootstrap).
BOOTSTRAP_TERM = 1

# The first leader shows within the first few records. The rest of a log need not be read.
READ_LIMIT = 1 << 20


@dataclass(frozen=True)
class Wal:
    """Head of a write-ahead log: ids as hexadecimal text ('' where it cannot be read), formed = its cluster has had a leader."""

    member_id: str
    cluster_id: str
    formed: bool


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
    """Type and payload of the records in (the head of) a segment. Ends at the zeros behind the last one."""
    found: list[tuple[int, bytes]] = []
    position = 0
    while position + 8 <= len(data):
        (length,) = struct.unpack_from("<Q", data, position)
        size = length & ((1 << 56) - 1)
        # The top byte says how many bytes pad the record to eight.
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


def parse_wal(data: bytes, later_segments: bool) -> Wal | None:
    """Head of the first segment kept; None where it holds no metadata record (an empty or foreign file)."""
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
    return Wal(f"{member_id:x}", f"{cluster_id:x}", formed=later_segments or term > BOOTSTRAP_TERM)


def read_wal(data_dir: str) -> Wal | None:
    """The write-ahead log under a data directory; None where there is none. One that cannot be read is somebody's data."""
    segments = sorted(glob.glob(os.path.join(glob.escape(data_dir), "member", "wal", "*.wal")))
    if not segments:
        return None
    try:
        with open(segments[0], "rb") as handle:
            data = handle.read(READ_LIMIT)
    except OSError:
        data = b""
    # The first segment is number 0; where it has been purged or a second one exists, the cluster has long lived.
    later = len(segments) > 1 or not os.path.basename(segments[0]).startswith("0000000000000000-")
    # What `etcdutl snapshot restore` writes looks like a new member, of term 1, but for the snapshot of raft in it. A member
    # that is new has none before its first 10,000 writes.
    restored = bool(glob.glob(os.path.join(glob.escape(data_dir), "member", "snap", "*.snap")))
    return parse_wal(data, later or restored) or Wal("", "", formed=True)
