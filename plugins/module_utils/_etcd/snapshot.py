# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Snapshots: checked, described, named, and which of them are kept.

A snapshot is the database of a member (bbolt) followed by its SHA-256 (server/etcdserver/api/v3rpc/maintenance.go, Snapshot). What
`etcdutl snapshot restore` checks is the same digest. A copy of member/snap/db has none.
"""

from __future__ import annotations

import base64
import calendar
import hashlib
import json
import os
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from ansible_collections.kubeadm.etcd.plugins.module_utils._host.files import open_file, read_text
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.errors import EtcdError, reason_of
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.formats import object_in

if TYPE_CHECKING:
    # The plan on the controller needs no client.
    from ansible_collections.kubeadm.etcd.plugins.module_utils._etcd.client import EtcdClient

# The digest at the end, in bytes. The database itself is a multiple of bbolt's smallest page.
DIGEST, PAGE = 32, 512

# CLUSTER-TIME-rREVISION.db, TIME in UTC. The names of its copies begin with it.
BEGIN = r"(?P<cluster>.+)-(?P<time>\d{8}T\d{6}Z)-r(?P<revision>\d+)\.db"
NAME = re.compile(rf"{BEGIN}\Z")
TIME = "%Y%m%dT%H%M%SZ"

# Seconds by which the time of a snapshot may be ahead of the clock.
SKEW = 300.0

# Beside a snapshot: what is known of it.
DESCRIPTION = ".json"

# What the name of an encrypted copy has at its end: CMS (RFC 5652).
ENCRYPTED = ".cms"


@dataclass(frozen=True)
class Snapshot:
    """What is known of a snapshot. Sizes in bytes, times in Unix seconds.

    sha256: of the database without its digest. hash, total_keys: as `etcdutl snapshot status` of etcdutl_version tells them. hash_kv: of all keys
    up to the revision, as a member tells it that was last compacted at compact_revision; 0 if that was not known any more. key_count: at the
    revision, -1 if unknown. downgrade: the minor version that a downgrade went to which was under way, '' if there was none.
    """

    cluster: str
    taken: float
    revision: int
    size: int
    sha256: str
    member: str = ""
    cluster_id: str = ""
    etcd_version: str = ""
    etcdutl_version: str = ""
    hash: int = 0
    total_keys: int = 0
    hash_kv: int = 0
    compact_revision: int = 0
    key_count: int = -1
    seconds: float = 0.0
    downgrade: str = ""

    @property
    def file_name(self) -> str:
        """Its name in the directory of snapshots."""
        return f"{self.cluster}-{time.strftime(TIME, time.gmtime(self.taken))}-r{self.revision}.db"

    def as_text(self) -> str:
        """The content of the file beside it."""
        return json.dumps(asdict(self), indent=2) + "\n"

    @classmethod
    def from_text(cls, text: str) -> Snapshot:
        """From the file beside it. ValueError if that is damaged."""
        return cls.from_data(object_in(text))

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> Snapshot:
        """From plain data. ValueError if that is damaged."""
        known: dict[str, Any] = {}
        for name, kind in cls.__dataclass_fields__.items():
            # Annotations are texts.
            wanted = {"str": (str,), "int": (int,), "float": (int, float)}[str(kind.type)]
            if name in data and (not isinstance(data[name], wanted) or isinstance(data[name], bool)):
                raise ValueError(name)
            known.update({name: data[name]} if name in data else {})
        try:
            return cls(**known)
        except TypeError as exc:
            raise ValueError(str(exc)) from exc


def size_problem(size: int) -> str:
    """Why a file of this size is no complete snapshot; '' if it can be one."""
    if size <= DIGEST:
        return "it is empty"
    return "" if size % PAGE == DIGEST else "it is cut off"


def check_file(path: str) -> str:
    """The SHA-256 of the database in a snapshot. EtcdError if it does not match the digest at its end."""
    digest = hashlib.sha256()
    try:
        left = os.path.getsize(path) - DIGEST
        problem = size_problem(left + DIGEST)
        with open_file(path) as file:
            while left > 0 and not problem:
                piece = file.read(min(left, 1 << 20))
                if not piece:
                    problem = "it is cut off"
                digest.update(piece)
                left -= len(piece)
            end = file.read(DIGEST)
    except OSError as exc:
        raise EtcdError(f"snapshot {path} cannot be read: {reason_of(exc)}.") from exc
    if not problem and end != digest.digest():
        problem = "its SHA-256 does not match"
    if problem:
        raise EtcdError(f"snapshot {path} is damaged: {problem}. Use another one.")
    return digest.hexdigest()


def count_keys(client: EtcdClient, revision: int) -> int:
    """How many keys there were at a revision; -1 if the member cannot tell it any more."""
    every = base64.b64encode(b"\0").decode()
    body = {"key": every, "range_end": every, "count_only": True, "serializable": True, "revision": str(revision)}
    try:
        return int(client.call("kv/range", body).get("count", 0))
    except (EtcdError, ValueError, TypeError):
        return -1


# --- Which one, and which are kept -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Source:
    """A member that could give a snapshot. problem: why it is not healthy, '' if it is."""

    name: str
    problem: str = ""
    is_leader: bool = False
    is_learner: bool = False


def source_of(members: Iterable[Source]) -> Source | None:
    """The member that a snapshot is taken from: the healthy follower with the lowest name, else the leader; None if no member is healthy.

    Each host that asks the members comes to the same one, so that a schedule on all of them takes one snapshot.
    """
    healthy = [member for member in members if not member.problem and not member.is_learner]
    return min(healthy, key=lambda member: (member.is_leader, member.name), default=None)


def in_order(snapshots: Iterable[Snapshot], now: float) -> list[Snapshot]:
    """The newest first. Those whose time is ahead of the clock are last: the clock was wrong, then or now, and the next one is newer in any case."""
    return sorted(snapshots, key=lambda item: (not is_ahead(now - item.taken), item.taken, item.revision), reverse=True)


def is_ahead(age: float) -> bool:
    """Whether the clock of its host was wrong when a snapshot was taken: it is from the future. age: in seconds, by that clock."""
    return age < -SKEW


def order_by_age(age: float) -> tuple[bool, float]:
    """What snapshots of several hosts are sorted by, the newest first. age: in seconds, by the clock of its host. One from the future is last."""
    return is_ahead(age), age


def kept(snapshots: Sequence[Snapshot], keep: int, keep_days: int, now: float) -> list[Snapshot]:
    """Those of a cluster's snapshots that are kept: by count and age (0: no limit), and always the newest.

    The newest is that of the highest revision as well as that of the latest time: a clock that was set back makes a new one look old. It is also
    the newest that was verified: a file that only has such a name must not push it out. Snapshots of an earlier cluster (another id) are counted
    with the others.
    """
    ordered = in_order(snapshots, now)
    limit = now - keep_days * 86400
    found = [item for item in ordered[: keep or None] if not keep_days or item.taken >= limit]
    newest = []
    for group in (ordered, [item for item in ordered if item.sha256]):
        newest += [*group[:1], *sorted(group, key=lambda item: -item.revision)[:1]]
    return [item for item in ordered if item in found or item in newest]


def read_directory(directory: str, cluster: str) -> list[Snapshot]:
    """The snapshots of a cluster in a directory, the newest first. A file without a description that fits is described by its name."""
    found = []
    try:
        names = os.listdir(directory)
    except OSError:
        return []
    for name in names:
        match, path = NAME.match(name), os.path.join(directory, name)
        # A directory of such a name could not be removed as a file, and would end each run.
        if match and match["cluster"] == cluster and os.path.isfile(path):
            snapshot = described_in(path) or named(match, path)
            # Of a name that only resembles one (a 60th second, zeros before the revision), another file would be removed.
            found += [snapshot] if snapshot and snapshot.file_name == name else []
    return in_order(found, time.time())


def is_description(path: str) -> bool:
    """Whether a file is the description of a snapshot, or an encrypted copy of that."""
    return path.endswith((DESCRIPTION, DESCRIPTION + ENCRYPTED))


def description_beside(path: str) -> Snapshot | None:
    """What the description beside a file says, whichever snapshot it is of; None if there is none, or if it is damaged."""
    try:
        found = Snapshot.from_text(read_text(path + DESCRIPTION) or "")
        return found if found.file_name else None
    except (EtcdError, OSError, OverflowError, ValueError):
        return None


def described_in(path: str) -> Snapshot | None:
    """What the file beside a snapshot says of it; None if there is none, or if it is that of another one, or of another size."""
    found = description_beside(path)
    try:
        fits = found and found.file_name == os.path.basename(path) and found.size == os.path.getsize(path) - DIGEST
    except OSError:
        return None
    return found if fits else None


def named(match: re.Match[str], path: str) -> Snapshot | None:
    """A snapshot by its name only; None if there is no such time."""
    try:
        taken = calendar_time(match["time"])
    except ValueError:
        return None
    try:
        size = os.path.getsize(path) - DIGEST
    except OSError:
        size = 0
    return Snapshot(match["cluster"], taken, int(match["revision"]), size, "")


def calendar_time(text: str) -> float:
    """Unix seconds of a time in a name."""
    return float(calendar.timegm(time.strptime(text, TIME)))


def as_data(snapshots: Iterable[Snapshot]) -> list[dict[str, Any]]:
    """Snapshots as plain data."""
    return [{**asdict(item), "file": item.file_name} for item in snapshots]
