# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Packages that a member is to have, as people write them in etcd_packages: NAME=VERSION. The one definition."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from ansible_collections.kubeadm.etcd.plugins.module_utils._values.formats import shown

# Both become words of a command line, so neither may begin with a dash.
_WANTED = re.compile(r"([A-Za-z0-9][A-Za-z0-9.+_-]*)=([A-Za-z0-9*][A-Za-z0-9.+~^:_*-]*)")


@dataclass(frozen=True)
class WantedPackage:
    """A package. pattern: its version, with * for anything."""

    name: str
    pattern: str

    def __str__(self) -> str:
        return f"{self.name}={self.pattern}"

    def admits(self, version: str) -> bool:
        """Whether a version is the wanted one. A pattern without a revision admits every revision, and one without an epoch every epoch."""
        known = {version, version.split(":", 1)[-1]}
        patterns = {self.pattern} if "-" in self.pattern else {self.pattern, f"{self.pattern}-*"}
        return any(fnmatchcase(text, pattern) for text in known for pattern in patterns)


def parse_packages(texts: Iterable[str]) -> tuple[WantedPackage, ...]:
    """The packages of a valid list."""
    found = (_WANTED.fullmatch(text) for text in texts)
    return tuple(WantedPackage(match.group(1), match.group(2)) for match in found if match)


def packages_problems(variable: str, packages: Any) -> list[str]:
    """Why a value is not a list of packages with their versions, each named once."""
    if not isinstance(packages, list):
        return [
            f"{variable} {shown(packages)} is not a list. Write for example ['kubelet=1.37.2-*', 'kubeadm=1.37.2-*']."
        ]
    problems = [
        f"{variable} has {shown(item)}, which is not NAME=VERSION. Write for example kubelet=1.37.2-*."
        for item in packages
        if not isinstance(item, str) or not _WANTED.fullmatch(item)
    ]
    if problems:
        return problems
    names = [package.name for package in parse_packages(packages)]
    doubled = sorted({name for name in names if names.count(name) > 1})
    return [f"{variable} names {name} more than once. Remove all but one." for name in doubled]


def program_version_of(version: str) -> str | None:
    """The version of a program by that of its package: v1.37.2 of 1.37.2-1.1 or 0:1.37.2-150500.1.1; None if it is none."""
    match = re.match(r"(?:\d+:)?(\d+\.\d+\.\d+)(?:[-+~].*)?$", version)
    return f"v{match.group(1)}" if match else None
