# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Sizes of a member's database file, and what they mean."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

# Defragmentation blocks a member, so it has to free at least this much.
LEAST_UNUSED = 16 << 20

# The kubelet ends an etcd whose liveness probe has failed for so many seconds (kubeadm's manifest: 8 times, after 15 s each).
PROBE_LASTS = 120

# A database that is this full, of its quota, is nearly full.
NEARLY_FULL = 0.8

# With NOSPACE: if so much of the quota is in use, defragmentation alone frees too little. A file that has just become full has a fifth of unused
# pages, since large values need adjoining ones (seen with etcd 3.5 to 3.7).
COMPACTS_FROM = 0.7

# etcd refuses writes at its quota, which is 2 GiB by default (server/storage/quota.go).
DEFAULT_QUOTA = 2 << 30


@dataclass(frozen=True)
class Database:
    """The database of a member. size, in_use, quota: bytes; a quota of 0 is no limit. revision: the latest one.

    next_compaction: the revision that kube-apiserver compacts to next; 0 if there is none, or if nobody has asked.
    """

    size: int
    in_use: int
    quota: int = 0
    revision: int = 0
    next_compaction: int = 0

    def as_dict(self) -> dict[str, int]:
        """As plain data, for the result of a module."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Database:
        """From plain data."""
        return cls(**{key: int(value) for key, value in data.items()})

    @property
    def unused(self) -> int:
        """Bytes that defragmentation frees."""
        return max(0, self.size - self.in_use)

    @property
    def fragmentation(self) -> int:
        """The unused part of the file in percent."""
        return 100 * self.unused // self.size if self.size else 0

    def is_fragmented(self, threshold: int) -> bool:
        """Whether defragmentation is worth it. threshold: percent of the file that is not in use."""
        return self.unused >= LEAST_UNUSED and 100 * self.unused >= threshold * self.size

    @property
    def is_used_up(self) -> bool:
        """Whether what is in use has nearly reached the quota, so that defragmentation alone does not help."""
        return bool(self.quota) and self.in_use >= COMPACTS_FROM * self.quota

    def __str__(self) -> str:
        return f"{self.unused >> 20} of {self.size >> 20} MiB ({self.fragmentation} %) are not in use"


def mib(size: int) -> str:
    """A size for people."""
    return f"{size >> 20} MiB"


def quota_of(value: Any) -> int:
    """The value of --quota-backend-bytes in bytes, as etcd reads it; 0: no limit, or an invalid value.

    The last value of a repeated flag (a list) counts. None and 0 mean etcd's default, a negative value means no limit.
    """
    if isinstance(value, (list, tuple)):
        return quota_of(value[-1] if value else None)
    if value is None:
        return DEFAULT_QUOTA
    try:
        # As Go's flag.Int64: decimal, or with the prefix of another base.
        number = int(str(value).strip(), 0)
    except ValueError:
        return 0
    return max(0, number) if number else DEFAULT_QUOTA
