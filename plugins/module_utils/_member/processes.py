# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The etcd, or the kube-apiserver, that runs on a host: its process, what it was started with, and whether that is what its manifest says."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from ansible_collections.kubeadm.etcd.plugins.module_utils._etcd.client import probe
from ansible_collections.kubeadm.etcd.plugins.module_utils._host.facts import process_started
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.errors import EtcdError
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.members import is_ours

# How long a member that does not answer is asked again before it counts as down: an election takes about 2 s.
PATIENCE = 6.0

# For one answer.
ANSWER = 5.0

# The kubelet sees a new manifest within 20 s even where it cannot watch the directory (fileCheckFrequency), and gives
# the old pod 30 s to end.
SETTLED_AFTER = 60.0


@dataclass(frozen=True)
class Process:
    """A running program. started: clock ticks since boot (proc(5), field 22 of stat), which tells a reused pid apart."""

    pid: int
    started: int
    argv: list[str]


def find_processes(is_wanted: Callable[[list[str]], bool], proc_root: str = "/proc") -> list[Process]:
    """All processes with a command line that is wanted."""
    found = []
    for entry in os.listdir(proc_root):
        if not entry.isdigit():
            continue
        try:
            with open(os.path.join(proc_root, entry, "cmdline"), "rb") as handle:
                argv = [part.decode("utf-8", errors="replace") for part in handle.read().split(b"\0") if part]
            if not is_wanted(argv):
                continue
            with open(os.path.join(proc_root, entry, "stat"), encoding="utf-8", errors="replace") as text:
                # The second field is the program's name, which may hold blanks and brackets.
                fields = text.read().rsplit(")", 1)[1].split()
        except OSError:
            # It ended while we looked.
            continue
        # A zombie keeps its entry, but neither its command line nor its sockets.
        found.append(Process(int(entry), int(fields[19]), argv))
    return found


def find_process(is_wanted: Callable[[list[str]], bool], proc_root: str = "/proc") -> Process | None:
    """The process with a command line that is wanted, the youngest where there are two; None where none runs."""
    return max(find_processes(is_wanted, proc_root), key=lambda process: process.started, default=None)


def find_etcd_process(name: str, proc_root: str = "/proc") -> Process | None:
    """The etcd of a member as the manifest starts it; None where none runs."""
    return find_process(lambda argv: is_ours(argv, name), proc_root)


def is_expanded(argument: str) -> bool:
    """Whether the kubelet makes another text of an argument: $(NAME), and $$ for a single $ (third_party/forked/golang/expansion)."""
    return "$(" in argument or "$$" in argument


def missing_arguments(wanted: list[str], argv: list[str]) -> list[str]:
    """What of a manifest a process was not started with, without what the kubelet expands."""
    lacking = Counter(item for item in wanted if not is_expanded(item)) - Counter(argv)
    return sorted(lacking.elements())


def process_problem(
    process: Process | None, old: Process | None, wanted: list[str], program: str = "etcd"
) -> str | None:
    """Why this is not yet the process of the new manifest; None if it is. old: the process before the change."""
    if process is None:
        return f"no {program} process runs"
    if old is not None and (process.pid, process.started) == (old.pid, old.started):
        return f"the old process (pid {process.pid}) still runs"
    lacking = missing_arguments(wanted, process.argv)
    if lacking:
        return f"the process (pid {process.pid}) runs without {' '.join(lacking)}"
    return None


def value_of_flag(argv: list[str], flag: str) -> str | None:
    """The value of --flag=value in a command line; None where it is not there."""
    prefix = f"--{flag}="
    return next((item[len(prefix) :] for item in argv if item.startswith(prefix)), None)


def metrics_of(argv: list[str], default: str) -> str:
    """/readyz of a process: by its own command line, since the port may be what is being changed."""
    urls = value_of_flag(argv, "listen-metrics-urls")
    return f"{urls.split(',')[0].rstrip('/')}/readyz" if urls else default


def client_url_of(argv: list[str], default: str) -> str:
    """Where clients reach a process: by its own command line, since that may be what is being changed."""
    return (value_of_flag(argv, "advertise-client-urls") or default).split(",")[0]


def is_ready(url: str) -> bool:
    """Whether a running member can serve a linearizable read. Asked again for some seconds: it may be an election."""
    deadline = time.monotonic() + PATIENCE
    while True:
        if probe(url, ANSWER)[0]:
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(1.0)


def stale_directory(process: Process | None, pki_dir: str, proc_root: str = "/proc") -> str:
    """Why a running etcd no longer sees its certificates: their directory was removed and made again; empty where it does.

    A container keeps the directory that existed when it was made (a bind mount), even if another directory now has its name.
    """
    path = os.path.join(pki_dir, "etcd")
    if process is None:
        return ""
    try:
        seen = os.stat(f"{proc_root}/{process.pid}/root{path}")
    except OSError:
        # It has just ended, or is no container with that mount.
        return ""
    try:
        if os.path.samestat(seen, os.stat(path)):
            return ""
    except OSError:
        # Gone, and not made again yet.
        pass
    return f"etcd: runs with a former {path}, which was removed or replaced; it is restarted to see the files that are there"


def younger_than(path: str) -> Callable[[Process], bool]:
    """Whether a process can be that of a manifest that an earlier run may have replaced a moment ago.

    The kubelet has acted on a manifest that is older than a minute, or its content has not changed (kubeadm rewrites it with the same
    content, which starts no process). EtcdError if the manifest has just been removed.
    """
    try:
        written = os.stat(path).st_mtime
    except OSError as exc:
        raise EtcdError(
            f"{path} cannot be read: {exc.strerror}. Another run or program is changing it. Run again when it has ended."
        ) from exc
    return lambda process: process_started(process.pid) >= written or abs(time.time() - written) > SETTLED_AFTER


def stop(process: Process) -> None:
    """End an etcd: the kubelet makes a new container at once, as it does where it has just ended by itself."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(process.pid, signal.SIGTERM)
