# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What etcd's own log says: why it ended, or what keeps a member that runs from being healthy.

Logs are files of the kubelet (/var/log/pods), each line with time, stream and tag before it. etcd logs JSON (zap).
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

# Seconds before the last line of a log that count for what is wrong now.
RECENT = 60.0

# How many different messages are shown.
MOST = 3

_LEVELS = ("warn", "error", "dpanic", "panic", "fatal")
_ENDS = ("panic", "fatal")

# What is logged at every start.
_NOISE = (
    "Running http and grpc server on single port. This is not recommended for production.",
    "simple token is not cryptographically signed",
)
# What follows from a missing quorum, whatever its cause.
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
    """What a log says several times: how often, and the last of its lines in words."""

    count: int
    text: str


def split(line: str) -> tuple[str, str]:
    """Time and text of a line (time, stream, F or P, text)."""
    fields = [*line.split(" ", 3), "", "", ""]
    return fields[0], printable(fields[3])


def in_words(entry: Mapping[str, Any], most: int = 400) -> str:
    """An entry of etcd's log: its message, then its fields."""
    skipped = ("level", "ts", "caller", "stacktrace", "msg")
    details = [f"{key}: {value}" for key, value in entry.items() if key not in skipped and value not in ("", None, [])]
    # JSON may hold what a terminal takes for commands, and anyone who reaches a port can have it logged.
    return printable("; ".join([str(entry.get("msg", "")), *details]))[:most]


def entry_of(text: str) -> dict[str, Any] | None:
    """An entry of etcd's log; None if a line is none."""
    try:
        entry = json.loads(text)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) else None


def cause_of_death(log: str) -> str | None:
    """Why etcd ended; None if its log does not say.

    A panic of Go and a flag that it does not know are plain text, the latter followed by its usage.
    """
    lines = [split(line)[1] for line in log.splitlines()]
    for line in reversed(lines):
        entry = entry_of(line)
        if entry and entry.get("level") in _ENDS:
            return in_words(entry)
    plain = [line for line in lines if line.strip() and not line.startswith("{")]
    return next((line[:400] for line in plain if line.startswith("panic:")), plain[0][:400] if plain else None)


def seconds_of(stamp: str) -> float | None:
    """The time of a line in seconds since any moment; None if there is none. All lines of a log have one time zone."""
    try:
        return (datetime.strptime(stamp[:19], "%Y-%m-%dT%H:%M:%S") - datetime(2000, 1, 1)).total_seconds()
    except ValueError:
        return None


def complaints(log: str) -> list[Message]:
    """Warnings and errors of the last minute of a log, the most frequent ones first.

    What only follows from a missing quorum is left out if there is anything else.
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
    """Whether an entry says nothing: of every start, or of a connection that only tried whether the port is open."""
    said = str(entry.get("msg", ""))
    return said in _NOISE or (said.startswith("rejected connection on") and entry.get("error") == "EOF")


def last_lines(log: str, count: int = 5) -> str:
    """The last lines of a log, one below the other; empty if there are none."""
    lines = [split(line)[1][:300] for line in log.splitlines()[-count:]]
    return "".join(["\nThe last lines of its log:\n", *(f"  {line}\n" for line in lines)]) if lines else ""


def log_paths(since: float, root: str = "/var/log/pods") -> list[str]:
    """Logs of etcd containers, those that wrote last first; without those that wrote nothing after `since` (Unix seconds)."""
    found = []
    for path in glob.glob(f"{root}/kube-system_etcd-*/etcd/*.log"):
        try:
            found.append((os.stat(path).st_mtime, path))
        except OSError:
            # The kubelet removes it with its pod.
            continue
    return [path for written, path in sorted(found, reverse=True) if written >= since]


def last_words(paths: list[str]) -> str:
    """The log that wrote last and has something in it: that of a container that has just been made is still empty."""
    return next((text for text in map(read_text, paths) if text), "")


def explain_member(running: bool, listening: bool, log: str, error_code: str = "") -> list[str]:
    """Sentences on why a member is not healthy, as far as its own host knows.

    running: whether its etcd runs. listening: whether that listens on its client port. error_code: how the connection of another
    host to that port failed (etcd_health), '' if it did not, or if no other host has tried.
    """
    if not running:
        if not log:
            return [
                "etcd does not run and has not written a log: the kubelet has not started its container. See `journalctl -u kubelet` and"
                " `crictl ps -a --name etcd`."
            ]
        cause = cause_of_death(log)
        return [f"etcd does not run. Its log says: {cause}." if cause else f"etcd does not run.{last_lines(log)}"]
    said = []
    if not listening:
        said.append("etcd runs, and does not listen on its client port yet.")
    elif error_code in ("refused", "silent", "unreachable"):
        said.append(
            "etcd runs and listens on its client port, and connections of other hosts do not get there: a firewall rejects or drops them."
        )
    said += [
        f"etcd's log says{f' ({message.count} times in the last minute)' if message.count > 1 else ''}: {message.text}"
        for message in complaints(log)
    ]
    return said or [f"etcd runs, and its log has no warning of the last minute.{last_lines(log)}"]
