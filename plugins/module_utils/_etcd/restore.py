# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a restored cluster is: which ids its members get, and what kind of file it is made from.

etcd makes ids of peer URLs and the initial-cluster-token (server/etcdserver/api/membership/member.go, computeMemberID; cluster.go, genID). So a
run can tell data that was restored for it from any other, without remembering anything.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ansible_collections.kubeadm.etcd.plugins.module_utils._etcd.snapshot import DIGEST, PAGE
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.errors import EtcdError

# How much the revision grows if Kubernetes' keys are in a snapshot: more than a cluster writes in the time that is lost (etcd, "Disaster
# recovery"), so that no watch cache takes an old revision for a new one.
BUMP = 1_000_000_000

# Kubernetes' keys begin so (kube-apiserver, --etcd-prefix).
KUBERNETES = b"/registry/"

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
    try:
        size = os.path.getsize(path)
        with open(path, "rb") as file:
            begin = file.read(ENDS)
            file.seek(max(0, size - ENDS))
            end = file.read()
    except OSError as exc:
        raise EtcdError(f"snapshot {path} cannot be read: {exc.strerror}.") from exc
    # The magic number of bbolt, in its first or second page (bbolt, internal/common/types.go).
    magic = (0xED0CDAED).to_bytes(4, "little")
    if magic not in (begin[16:20], *(begin[page + 16 : page + 20] for page in (4096, 8192, 16384, 65536))):
        what = (
            "It is encrypted: open it first, as docs/backup.md shows."
            if begin[:1] == b"\x30"
            else "Name a file that backup.yml has made."
        )
        raise EtcdError(f"{path} is not a snapshot of etcd. {what}")
    if size % PAGE == DIGEST:
        return SnapshotFile(path, size, end[-DIGEST:].hex(), False)
    if size % PAGE:
        raise EtcdError(f"snapshot {path} is cut off ({size} bytes). Use another one.")
    return SnapshotFile(path, size, hashlib.sha256(begin + end + str(size).encode()).hexdigest(), True)


def has_kubernetes(path: str) -> bool:
    """Whether the database has keys of Kubernetes."""
    rest = b""
    with open(path, "rb") as file:
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


def restore_token(identity: str, members: Mapping[str, str], before: Iterable[str]) -> str:
    """The token of a restore, the same on each run until it is finished. identity: of the snapshot. before: ids of clusters in records of hosts.

    A record keeps the id of the former cluster until the restored member runs. Some may have the new id already: what is the id of a cluster with
    a token that is made of the others, is that of this restore.
    """
    known = sorted(set(before))
    for new in known:
        token = _token(identity, (item for item in known if item != new))
        if cluster_id(members, token) == new:
            return token
    return _token(identity, known)


def _token(identity: str, ids: Iterable[str]) -> str:
    return hashlib.sha256(" ".join([identity, *ids]).encode()).hexdigest()[:32]
