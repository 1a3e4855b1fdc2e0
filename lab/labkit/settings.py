"""Where the lab keeps its things, and the versions it works with."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from .process import LabError

LAB_DIRECTORY = Path(__file__).resolve().parent.parent
DEFAULT_KUBERNETES = "1.36.3"
DEFAULT_ETCD = "3.6.14"
DEFAULT_LAB = "lab"
DEFAULT_HOSTS = 3

_VERSION = re.compile(r"v?(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)")
_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")


@dataclass(frozen=True, order=True)
class Version:
    """A released version, three numbers."""

    major: int
    minor: int
    patch: int

    def __str__(self) -> str:
        """The three numbers with dots, without a v."""
        return f"{self.major}.{self.minor}.{self.patch}"


def parse_version(text: str) -> Version:
    """Read "1.36.3" or "v1.36.3"; anything else is an error that says what a version looks like."""
    match = _VERSION.fullmatch(text.strip())
    if not match:
        raise LabError(f"{text!r} is not a version: write three numbers, as in {DEFAULT_KUBERNETES}")
    return Version(int(match[1]), int(match[2]), int(match[3]))


def check_name(name: str) -> str:
    """A lab's name becomes part of container and network names: an RFC 1123 label, not too long."""
    if not _LABEL.fullmatch(name) or len(name) > 30:
        raise LabError(
            f"{name!r} is not a valid name for a lab: use at most 30 lower-case letters, digits and inner hyphens"
        )
    return name


def state_directory() -> Path:
    """The directory of programs, images and labs: $KUBEADM_ETCD_LAB_DIR, else one in the user's cache."""
    chosen = os.environ.get("KUBEADM_ETCD_LAB_DIR")
    if chosen:
        return Path(chosen).absolute()
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache").absolute() / "kubeadm-etcd-lab"
