# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A problem: what is wrong, on which host, and which steps it stops. Messages are assembled last."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

# What a problem can stop. FOUND: founding a cluster. START: starting a member or kubelet that does not run. RESTART: restarting
# a running member or kubelet. SIGN: issuing certificates.
FOUND, START, RESTART, SIGN = "found", "start", "restart", "sign"
EVERYTHING = (FOUND, START, RESTART, SIGN)
# Everything except certificates, which a running member reads at its next handshake.
PROCESSES = (FOUND, START, RESTART)


def printable(text: str) -> str:
    """A text from a host or a log, without control characters that a terminal would interpret."""
    return "".join(char if char.isprintable() or char == "\n" else "\ufffd" for char in text)


@dataclass(frozen=True)
class Problem:
    """What is wrong and what to do (text), the steps that it stops, the inventory host ('': the cluster), and a code for programs."""

    text: str
    stops: tuple[str, ...] = EVERYTHING
    host: str = ""
    code: str = ""

    def as_dict(self) -> dict[str, Any]:
        """As plain data, for the result of a module."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], host: str = "") -> Problem:
        """From plain data. host: the inventory host, if the data does not name it."""
        return cls(
            printable(str(data["text"])),
            tuple(data["stops"]),
            host or str(data.get("host", "")),
            str(data.get("code", "")),
        )


def problems_of(code: str, texts: Iterable[str], host: str = "") -> list[Problem]:
    """Problems of the cluster or of a host, with one code."""
    return [Problem(text, host=host, code=code) for text in texts]


def add_new(problems: list[Problem], more: Iterable[Problem]) -> None:
    """Add those problems to a list that it does not have."""
    problems.extend(problem for problem in more if problem not in problems)


def note(text: str, host: str = "") -> Problem:
    """A problem that stops nothing: a warning."""
    return Problem(text, (), host, code="warning")


def merged(problems: Iterable[Problem]) -> list[str]:
    """Messages for people: each text once, after the hosts that it is about."""
    hosts: dict[str, list[str]] = {}
    for problem in problems:
        named = hosts.setdefault(problem.text, [])
        if problem.host and problem.host not in named:
            named.append(problem.host)
    return [f"{', '.join(named)}: {text}" if named else text for text, named in hosts.items()]
