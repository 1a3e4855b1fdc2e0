# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Reads etcd's log: why etcd ended, or why a running member is not healthy.

The kubelet keeps the logs in /var/log/pods, with time, stream and tag before each line. etcd logs JSON (zap).
"""

from __future__ import annotations

import glob
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from ansible_collections.kubeadm.etcd.plugins.module_utils._host.files import read_text
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.problems import printable

# Only messages of the last seconds before the end of a log describe the present state.
RECENT = 60.0

# The number of different messages to show.
MOST = 3

_LEVELS = ("warn", "error", "dpanic", "panic", "fatal")
_ENDS = ("panic", "fatal")

# Messages of every start.
_NOISE = (
    "Running http and grpc server on single port. This is not recommended for production.",
    "simple token is not cryptographically signed",
)
# Messages that any loss of quorum causes.
_CONSEQUENCES = (
    "/health error",
    "Health check error",
    "apply request took too long",
    "failed to publish local member to cluster through raft",
    "serving /health false",
    "serving /health false due to an alarm",
    "serving /health false; no leader",
    "timed out waiting for read index response (local node might have slow network)",
    "waiting for ReadIndex response took too long, retrying",
)


@dataclass(frozen=True)
class Message:
    """A repeated message of a log: how often it occurs, and the text of its last occurrence."""

    count: int
    text: str


def split(line: str) -> tuple[str, str]:
    """Time and text of a line (time, stream, F or P, text)."""
    fields = [*line.split(" ", 3), "", "", ""]
    return fields[0], printable(fields[3])


def in_words(entry: Mapping[str, Any], most: int = 400) -> str:
    """An entry of etcd's log as text: its message, then its fields."""
    skipped = ("level", "ts", "caller", "stacktrace", "msg")
    details = [f"{key}: {value}" for key, value in entry.items() if key not in skipped and value not in ("", None, [])]
    # JSON may contain control characters for a terminal, and anyone who can reach a port can have them logged.
    return printable("; ".join([str(entry.get("msg", "")), *details]))[:most]


def entry_of(text: str) -> dict[str, Any] | None:
    """An entry of etcd's log; None if the line is not JSON."""
    try:
        entry = json.loads(text)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) else None


def cause_of_death(log: str) -> str | None:
    """Why etcd ended; None if its log has no reason.

    A Go panic and an unknown flag are plain text, the latter followed by the usage.
    """
    lines = [split(line)[1] for line in log.splitlines()]
    for line in reversed(lines):
        entry = entry_of(line)
        if entry and entry.get("level") in _ENDS:
            return in_words(entry)
    plain = [line for line in lines if line.strip() and not line.startswith("{")]
    return next((line[:400] for line in plain if line.startswith("panic:")), plain[0][:400] if plain else None)


def seconds_of(stamp: str) -> float | None:
    """The time of a line in seconds from a fixed moment; None if it has none. All lines of a log have the same time zone."""
    try:
        return (datetime.strptime(stamp[:19], "%Y-%m-%dT%H:%M:%S") - datetime(2000, 1, 1)).total_seconds()
    except ValueError:
        return None


def complaints(log: str) -> list[Message]:
    """Warnings and errors from the last minute of a log, the most frequent first.

    Messages that only follow from a lost quorum are omitted if there are others.
    """
    lines = [split(line) for line in log.splitlines()]
    times = [seconds_of(stamp) for stamp, _text in lines]
    last = max((time for time in times if time is not None), default=0.0)
    found: dict[str, Message] = {}
    for (_stamp, text), time in zip(lines, times):
        entry = entry_of(text) if time is not None and time >= last - RECENT else None
        if entry is None or entry.get("level") not in _LEVELS or is_noise(entry):
            continue
        said = str(entry.get("msg", ""))
        count = found[said].count if said in found else 0
        found[said] = Message(count + 1, in_words(entry))
    telling = [said for said in found if said not in _CONSEQUENCES] or list(found)
    return sorted((found[said] for said in telling), key=lambda message: -message.count)[:MOST]


def is_noise(entry: Mapping[str, Any]) -> bool:
    """Whether an entry is irrelevant: it occurs at every start, or is about a connection that only probed the port."""
    said = str(entry.get("msg", ""))
    return said in _NOISE or (said.startswith("rejected connection on") and entry.get("error") == "EOF")


def last_lines(log: str, count: int = 5) -> str:
    """The last lines of a log as a block of text; empty if there are none."""
    lines = [split(line)[1][:300] for line in log.splitlines()[-count:]]
    return "".join(["\nThe last lines of its log:\n", *(f"  {line}\n" for line in lines)]) if lines else ""


def log_paths(since: float, root: str = "/var/log/pods") -> list[str]:
    """Logs of etcd containers with lines after `since` (Unix seconds), the most recently written first."""
    found = []
    for path in glob.glob(f"{root}/kube-system_etcd-*/etcd/*.log"):
        try:
            found.append((os.stat(path).st_mtime, path))
        except OSError:
            # The kubelet has removed it with its pod.
            continue
    return [path for written, path in sorted(found, reverse=True) if written >= since]


def last_words(paths: list[str]) -> str:
    """The most recent log that is not empty: the log of a new container may still be."""
    return next((text for text in map(read_text, paths) if text), "")


def explain_member(running: bool, listening: bool, log: str, error_code: str) -> list[str]:
    """Messages on why a member is not healthy, from what its own host knows.

    running: whether its etcd runs. listening: whether etcd listens on its client port. error_code: how a connection from another host to
    that port failed (etcd_health), '' if it succeeded or was not tried.
    """
    if not running:
        if not log:
            return [
                "etcd is not running and has not written a log, so the kubelet has not started its container. See `journalctl -u kubelet` and"
                " `crictl ps -a --name etcd` on this host."
            ]
        cause = cause_of_death(log)
        return [f"etcd is not running. Its log says: {cause}." if cause else f"etcd is not running.{last_lines(log)}"]
    said = []
    if not listening:
        said.append("etcd is running, but does not listen on its client port yet.")
    elif error_code in ("refused", "silent", "unreachable"):
        said.append(
            "etcd is running and listens on its client port, but connections from other hosts fail: a firewall rejects or drops them. Allow them."
        )
    said += [
        f"etcd's log says{f' ({message.count} times in the last minute)' if message.count > 1 else ''}: {message.text}"
        for message in complaints(log)
    ]
    return said or [f"etcd is running, and its log has no warning in the last minute.{last_lines(log)}"]
