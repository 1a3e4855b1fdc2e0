"""Reading the head of a write-ahead log. tests/integration compares it with what a real etcd says of itself."""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from ansible_collections.kubeadm.etcd.plugins.module_utils._host import wal as _wal


def varint(value: int) -> bytes:
    out = b""
    while value > 0x7F:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def record(kind: int, payload: bytes) -> bytes:
    body = b"\x08" + varint(kind) + b"\x10" + varint(123) + b"\x1a" + varint(len(payload)) + payload
    padding = -len(body) % 8
    length = len(body) | ((0x80 | padding) << 56 if padding else 0)
    return struct.pack("<Q", length) + body + b"\0" * padding


def metadata(member: int, cluster: int) -> bytes:
    return record(1, b"\x08" + varint(member) + b"\x10" + varint(cluster))


def state(term: int) -> bytes:
    return record(3, b"\x08" + varint(term) + b"\x10\x00" + b"\x18" + varint(3))


MEMBER, OTHER = 0xF000000000000001, 0xCDF818194E3A8C32


@pytest.mark.parametrize(
    ("data", "later", "formed"),
    [
        (metadata(MEMBER, OTHER), False, False),
        (metadata(MEMBER, OTHER) + state(1), False, False),
        (metadata(MEMBER, OTHER) + state(1) + state(2), False, True),
        (metadata(MEMBER, OTHER) + state(1), True, True),
        (metadata(MEMBER, OTHER) + state(1) + b"\0" * 64 + state(9), False, False),
        (metadata(MEMBER, OTHER) + state(1) + state(2)[:9], False, False),
        (metadata(MEMBER, OTHER) + b"\xff" * 80, False, False),
    ],
)
def test_the_head_of_a_log(data: bytes, later: bool, formed: bool) -> None:
    assert _wal.parse_wal(data, later) == _wal.Wal("f000000000000001", "cdf818194e3a8c32", formed)


@pytest.mark.parametrize("data", [b"", b"\0" * 64, b"garbage that is no log at all", state(3)])
def test_heads_of_logs_that_cannot_be_read(data: bytes) -> None:
    assert _wal.parse_wal(data, False) is None


def test_the_log_of_a_data_directory(tmp_path: Path) -> None:
    assert _wal.read_wal(str(tmp_path)) is None
    folder = tmp_path / "member" / "wal"
    folder.mkdir(parents=True)
    (folder / "0000000000000000-0000000000000000.wal").write_bytes(metadata(1, 2) + state(1))
    assert _wal.read_wal(str(tmp_path)) == _wal.Wal("1", "2", False)
    (folder / "0000000000000001-0000000000000400.wal").write_bytes(b"")
    assert _wal.read_wal(str(tmp_path)) == _wal.Wal("1", "2", True)


def test_a_restored_snapshot_is_data(tmp_path: Path) -> None:
    """etcdutl writes a log of term 1, like a new member, and a raft snapshot."""
    folder = tmp_path / "member" / "wal"
    folder.mkdir(parents=True)
    (folder / "0000000000000000-0000000000000000.wal").write_bytes(metadata(1, 2) + state(1))
    snapshots = tmp_path / "member" / "snap"
    snapshots.mkdir()
    (snapshots / "db").write_bytes(b"x")
    assert _wal.read_wal(str(tmp_path)) == _wal.Wal("1", "2", False)
    (snapshots / "0000000000000001-0000000000000003.snap").write_bytes(b"x")
    assert _wal.read_wal(str(tmp_path)) == _wal.Wal("1", "2", True, restored=True)
    # With its first leader it is data like any other.
    (folder / "0000000000000000-0000000000000000.wal").write_bytes(metadata(1, 2) + state(1) + state(2))
    assert _wal.read_wal(str(tmp_path)) == _wal.Wal("1", "2", True)


@pytest.mark.parametrize("make", [lambda path: path.write_bytes(b"\0" * 64), lambda path: path.mkdir(), os.mkfifo])
def test_a_log_that_cannot_be_read_is_data(tmp_path: Path, make: Callable[[Path], object]) -> None:
    folder = tmp_path / "member" / "wal"
    folder.mkdir(parents=True)
    make(folder / "0000000000000000-0000000000000000.wal")
    wal = _wal.read_wal(str(tmp_path))
    assert wal is not None and (wal.member_id, wal.formed) == ("", True)
    assert "0000000000000000-0000000000000000.wal" in wal.problem


@pytest.mark.parametrize(
    ("database", "is_data"),
    [(b"", False), (b"\0" * 4096, False), (b"\0" * 4000 + b"consistent_index" + b"\0" * 80, True)],
)
def test_a_database_without_its_log(tmp_path: Path, database: bytes, is_data: bool) -> None:
    """The log is on its own volume, which is not mounted. The empty database of a failed start is not data."""
    (tmp_path / "member" / "snap").mkdir(parents=True)
    (tmp_path / "member" / "wal").mkdir()
    (tmp_path / "member" / "snap" / "db").write_bytes(database)
    wal = _wal.read_wal(str(tmp_path))
    assert (wal is not None) == is_data
    assert wal is None or (wal.formed and "a volume may not be mounted" in wal.problem)


def test_a_large_database_is_data(tmp_path: Path) -> None:
    (tmp_path / "member" / "snap").mkdir(parents=True)
    with open(tmp_path / "member" / "snap" / "db", "wb") as handle:
        handle.truncate(_wal.NEW_DATABASE + 1)
    assert _wal.read_wal(str(tmp_path)) is not None


@pytest.mark.parametrize("error", [errno.EACCES, errno.EIO, errno.ESTALE])
def test_a_directory_that_cannot_be_listed_is_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int) -> None:
    def fails(path: str) -> list[str]:
        raise OSError(error, os.strerror(error), path)

    monkeypatch.setattr(_wal.os, "listdir", fails)
    wal = _wal.read_wal(str(tmp_path))
    assert wal is not None and wal.formed and os.strerror(error) in wal.problem


@pytest.mark.parametrize("place", ["", "member", "member/wal", "member/snap"])
def test_a_link_to_a_volume_that_is_not_mounted_is_data(tmp_path: Path, place: str) -> None:
    data = tmp_path / "data"
    link = data / place
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(tmp_path / "volume" / "etcd")
    wal = _wal.read_wal(str(data))
    assert wal is not None and wal.formed and f"links to {tmp_path}/volume/etcd" in wal.problem
    (tmp_path / "volume" / "etcd").mkdir(parents=True)
    assert _wal.read_wal(str(data)) is None


# --- What etcd 3.7 cannot read ---------------------------------------------------------------------------------------


def entry(index: int, request: bytes, kind: int = 0) -> bytes:
    fields = b"\x08" + varint(kind) + b"\x10\x02\x18" + varint(index) + b"\x22" + varint(len(request)) + request
    return record(2, fields)


# The entry that etcd 3.5 writes when it starts; a put whose value looks like one; the empty entry of a new leader.
FORMER = b"\x08" + varint(7587891) + b"\x12\x03PUT\x1a\x0a/0/version\x22\x053.5.0"
PUT = b"\x22" + varint(len(FORMER) + 5) + b"\x0a\x01k\x12" + varint(len(FORMER)) + FORMER + b"\xa2\x06\x02\x08\x01"
WITH_ID = b"\x08\x05" + PUT


def log_of(tmp_path: Path, *segments: bytes, snapshots: tuple[int, ...] = ()) -> str:
    """A data directory. Segments have 100 entries each."""
    for name in ("wal", "snap"):
        (tmp_path / "member" / name).mkdir(parents=True)
    for number, data in enumerate(segments):
        path = tmp_path / "member" / "wal" / f"{number:016x}-{number * 100:016x}.wal"
        path.write_bytes(metadata(1, 2) + data + b"\0" * 64)
    for index in snapshots:
        (tmp_path / "member" / "snap" / f"{2:016x}-{index:016x}.snap").write_bytes(b"x")
    return str(tmp_path)


@pytest.mark.parametrize(
    ("data", "snapshots", "found"),
    [
        (entry(4, FORMER) + entry(5, PUT) + entry(6, b""), (), [4]),
        (entry(4, FORMER) + entry(7, FORMER) + entry(8, PUT), (5,), [7]),
        # The newest snapshot counts, and it may be the entry itself.
        (entry(4, FORMER) + entry(7, FORMER) + entry(8, PUT), (3, 7), []),
        # Values are not read as entries, and neither are changes of the membership.
        (entry(5, PUT) + entry(6, WITH_ID) + entry(7, FORMER, kind=1), (), []),
        # A later leader has written another entry at the same place.
        (entry(4, FORMER) + entry(5, PUT) + entry(4, PUT), (), []),
        (entry(4, PUT) + entry(4, FORMER), (), [4]),
        # Cut off.
        (entry(4, FORMER) + entry(5, FORMER)[:11], (), [4]),
        (entry(4, b"\x08\xff"), (), []),
        # Being written: the record is there, the entry in it is not complete.
        (entry(4, FORMER) + record(2, b"\x08\x00\x10\xff") + entry(6, FORMER), (), [4, 6]),
        (entry(4, FORMER) + record(2, b"\x0b\x00"), (), [4]),
    ],
)
def test_what_3_7_cannot_read(tmp_path: Path, data: bytes, snapshots: tuple[int, ...], found: list[int]) -> None:
    assert _wal.unreadable_by_3_7(log_of(tmp_path, data, snapshots=snapshots)) == found


@pytest.mark.parametrize("at", [0, 1, 5, 6, 7])
def test_bytes_on_the_edge_of_a_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    monkeypatch.setattr(_wal, "READ_LIMIT", 6)
    (tmp_path / "x").write_bytes(b"." * at + b"1234" + b"." * 5)
    assert _wal.holds(str(tmp_path / "x"), b"1234") and not _wal.holds(str(tmp_path / "x"), b"12345")


def test_segments_before_the_snapshot_are_not_read(tmp_path: Path) -> None:
    """Those that hold it, and all after it, are."""
    segments = [entry(4, FORMER), entry(150, FORMER), entry(160, PUT) + entry(230, FORMER)]
    data_dir = log_of(tmp_path, *segments, snapshots=(140,))
    (tmp_path / "member" / "wal" / f"{0:016x}-{0:016x}.wal").write_bytes(b"")
    assert _wal.unreadable_by_3_7(data_dir) == [150, 230]
    # A segment that was just made.
    (tmp_path / "member" / "wal" / f"{3:016x}-{300:016x}.wal").write_bytes(b"")
    assert _wal.unreadable_by_3_7(data_dir) == [150, 230]


@pytest.mark.parametrize("name", ["x.wal", "0-1.wal"])
def test_a_log_that_cannot_be_searched(tmp_path: Path, name: str) -> None:
    (tmp_path / "member" / "wal").mkdir(parents=True)
    (tmp_path / "member" / "wal" / name).write_bytes(b"")
    assert _wal.unreadable_by_3_7(str(tmp_path)) == []


def test_no_data_has_nothing_unreadable(tmp_path: Path) -> None:
    assert _wal.unreadable_by_3_7(str(tmp_path)) == []


@pytest.mark.parametrize(("applied", "count"), [(30, 10), (20, 1), (12, 1)])
def test_the_count_that_has_a_snapshot_written(applied: int, count: int) -> None:
    """The start applies one more entry, so the snapshot is after the last unreadable one."""
    assert _wal.count_beyond(applied, [4, 20]) == count
