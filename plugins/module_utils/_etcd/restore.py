# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a restored cluster is: which ids its members get, and what kind of file it is made from.

etcd makes ids of peer URLs and the initial-cluster-token (server/etcdserver/api/membership/member.go, computeMemberID; cluster.go, genID). So a
run can tell data that was restored for it from any other, without remembering anything.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from ansible_collections.kubeadm.etcd.plugins.module_utils._etcd.snapshot import (
    DESCRIPTION,
    DIGEST,
    PAGE,
    Snapshot,
    description_beside,
)
from ansible_collections.kubeadm.etcd.plugins.module_utils._host.files import open_file
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.errors import EtcdError, reason_of

# How much the revision grows at least if Kubernetes' keys are in a snapshot, so that no watch takes an old revision for a new one (etcd, "Disaster
# recovery").
BUMP = 1_000_000_000

# It becomes the microseconds since 1970, in steps of so many seconds. No cluster writes as fast as that, so a revision is not used twice either if the
# same snapshot is restored once more, or an older one.
SECONDS, PER_SECOND = 10, 1_000_000

# A restore that has begun is continued within so many steps, six hours. Later, it begins anew.
LASTS = 6 * 3600 // SECONDS

# Kubernetes' keys begin so (kube-apiserver, --etcd-prefix).
KUBERNETES = b"/registry/"

# A meta page of bbolt after its header: magic, version, size of a page, flags, root, sequence, freelist, number of pages, transaction, checksum
# (bbolt, internal/common/meta.go). The checksum is FNV-1a of what stands before it.
_HEADER, _META, _MAGIC = 16, struct.Struct("<4I6Q"), 0xED0CDAED
_PAGES = (0, 4096, 8192, 16384, 65536)

# Of a database without a digest, what its identity is made of, in bytes from both ends.
ENDS = 1 << 20


@dataclass(frozen=True)
class SnapshotFile:
    """A file to restore from. identity: hexadecimal, the same for the same content. is_database: it is a copy of member/snap/db, without a digest."""

    path: str
    size: int
    identity: str
    is_database: bool


def read_snapshot_file(path: str) -> SnapshotFile:
    """What kind of file it is, without reading all of it. EtcdError if it is neither a snapshot nor a database."""
    if os.path.exists(path) and not os.path.isfile(path):
        raise EtcdError(f"{path} is not a file. Name a snapshot that backup.yml has made.")
    try:
        size = os.path.getsize(path)
        with open_file(path) as file:
            begin = file.read(ENDS)
            file.seek(max(0, size - ENDS))
            end = file.read()
    except OSError as exc:
        raise EtcdError(f"snapshot {path} cannot be read: {reason_of(exc)}.") from exc
    magic = _MAGIC.to_bytes(4, "little")
    if magic not in [begin[page + _HEADER :][:4] for page in _PAGES]:
        what = "Name a file that backup.yml has made."
        if begin[:1] == b"\x30":
            what = "It is encrypted: open it first, as docs/backup.md shows."
        elif path.endswith(DESCRIPTION):
            what = f"It is a description. Name the file beside it: {path[: -len(DESCRIPTION)]}"
        raise EtcdError(f"{path} is not a snapshot of etcd. {what}")
    # A copy that ended early often ends with a page: it would look like a database without a digest.
    if size % PAGE not in (0, DIGEST) or size < database_size(begin):
        raise EtcdError(f"snapshot {path} is cut off ({size} bytes). Use another one.")
    if size % PAGE == DIGEST:
        return SnapshotFile(path, size, end[-DIGEST:].hex(), False)
    return SnapshotFile(path, size, hashlib.sha256(begin + end + str(size).encode()).hexdigest(), True)


def recorded(file: SnapshotFile) -> tuple[Snapshot | None, str]:
    """What the description beside a file says of it, and why the file is not the snapshot that it describes.

    A description of another snapshot, by its name and by its digest, says nothing. A file that was renamed with its description is known by its digest.
    """
    known = description_beside(file.path)
    if known is None:
        return None, ""
    if not file.is_database and (known.sha256, known.size) == (file.identity, file.size - DIGEST):
        return known, ""
    if known.file_name != os.path.basename(file.path):
        return None, ""
    return None, (
        f"{file.path} is not the snapshot that {file.path}{DESCRIPTION} describes: its size or its SHA-256 is another one. It was cut off, or another file has"
        " its name. Use another snapshot. If you know where this file comes from, and want to use it, move the description away."
    )


def database_size(begin: bytes) -> int:
    """The bytes that a database has at least, by its newest meta page; 0 if no meta page is valid. begin: of the file."""
    newest = (-1, 0)
    for page in _PAGES:
        data = begin[page + _HEADER :][: _META.size]
        if len(data) < _META.size:
            continue
        magic, _version, page_size, *_between, pages, transaction, checksum = _META.unpack(data)
        if magic == _MAGIC and checksum == _fnv(data[:-8]):
            newest = max(newest, (transaction, pages * page_size))
    return newest[1]


def _fnv(data: bytes) -> int:
    found = 0xCBF29CE484222325
    for byte in data:
        found = (found ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return found


def has_kubernetes(path: str) -> bool:
    """Whether the database has keys of Kubernetes."""
    rest = b""
    with open_file(path) as file:
        for piece in iter(lambda: file.read(1 << 20), b""):
            if KUBERNETES in rest + piece:
                return True
            rest = piece[-len(KUBERNETES) :]
    return False


def member_id(peer_urls: Iterable[str], token: str) -> int:
    """The id of a member of a cluster that is founded or restored with a token."""
    return _number("".join(sorted(peer_urls)).encode() + token.encode())


def cluster_id(members: Mapping[str, str], token: str) -> str:
    """The id of a cluster that is founded or restored with a token, hexadecimal. members: peer URL by name."""
    ids = sorted(member_id([url], token) for url in members.values())
    return f"{_number(b''.join(number.to_bytes(8, 'big') for number in ids)):x}"


def _number(data: bytes) -> int:
    return int.from_bytes(hashlib.new("sha1", data).digest()[:8], "big")  # noqa: S324  etcd's choice; nothing is protected by it.


def restore_token(identity: str, members: Mapping[str, str], data: Collection[str | None], moment: int) -> str:
    """The token of a restore, the same on each run until it is finished.

    identity: of the snapshot. data: ids of the clusters that the data of hosts is of. moment: since 1970, in these steps, which is a part of the token.
    If one of the ids is that of a token of the last hours, that restore is continued.
    """
    recent = (new_token(identity, then) for then in range(moment, max(-1, moment - LASTS), -1))
    return next((token for token in recent if cluster_id(members, token) in data), new_token(identity, moment))


def new_token(identity: str, moment: int) -> str:
    """The token of a restore that begins at a moment."""
    return f"{identity[:32]}-{moment:x}"


def bump_of(token: str, revision: int) -> int:
    """How much the revision of a snapshot grows in the restore with this token: the same on all members."""
    return max(BUMP, int(token.rsplit("-", 1)[1], 16) * SECONDS * PER_SECOND - revision)
