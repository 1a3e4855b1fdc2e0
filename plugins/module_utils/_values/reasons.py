# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A reason: why a part of a host has to change. Programs read the fields, people read the text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

# The parts of a host, in the order in which a run changes them, and their names in a plan.
PARTS = {
    "snapshot": "snapshot",
    "version": "cluster version",
    "packages": "packages",
    "kubelet": "kubelet",
    "ca": "CA",
    "certificates": "certificates",
    "config": "configuration",
    "image": "image",
    "membership": "membership",
    "data": "data directory",
    "database": "database",
    "manifest": "manifest",
    "record": "record",
    "backup": "backup schedule",
    "apiserver": "kube-apiserver",
}


@dataclass(frozen=True)
class Reason:
    """Why a part has to change. part: a key of PARTS. code: stable, for programs. text: for people. restarts: the change restarts etcd."""

    part: str
    code: str
    text: str
    restarts: bool = False

    def as_dict(self) -> dict[str, Any]:
        """As plain data, for the result of a module."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Reason:
        """From plain data."""
        return cls(str(data["part"]), str(data["code"]), str(data["text"]), bool(data["restarts"]))


def as_data(reasons: Iterable[Reason]) -> list[dict[str, Any]]:
    """Reasons as plain data."""
    return [reason.as_dict() for reason in reasons]


def texts(reasons: Iterable[Reason]) -> list[str]:
    """The texts of reasons."""
    return [reason.text for reason in reasons]


def reported(reasons: Iterable[Reason]) -> dict[str, Any]:
    """The result of a module that makes changes: texts for people (`reasons`), and the same as data (`changes`)."""
    found = list(reasons)
    return {"changed": bool(found), "reasons": texts(found), "changes": as_data(found)}
