# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The database of a member is defragmented, and the alarm NOSPACE is disarmed afterwards.

etcd copies what is in use to a new file and answers nothing meanwhile: no client, no probe, not even its status. It still votes. So a
member is defragmented in a turn like any other change: under the cluster lock, beside members that are all healthy, and with a proof.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from ansible_collections.kubeadm.etcd.plugins.module_utils._etcd.client import (
    EtcdClient,
    EtcdUnreachableError,
    Status,
)
from ansible_collections.kubeadm.etcd.plugins.module_utils._etcd.lock import (
    ClusterLock,
    Holder,
    LockRefusedError,
    cluster_lock,
)
from ansible_collections.kubeadm.etcd.plugins.module_utils._etcd.membership import Membership
from ansible_collections.kubeadm.etcd.plugins.module_utils._host.facts import free_bytes, process_started
from ansible_collections.kubeadm.etcd.plugins.module_utils._member import processes as _processes
from ansible_collections.kubeadm.etcd.plugins.module_utils._member import rollout as _rollout
from ansible_collections.kubeadm.etcd.plugins.module_utils._member.turn import hold_host_lock
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.database import (
    LEAST_UNUSED,
    PROBE_LASTS,
    Database,
    mib,
)
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.errors import EtcdError
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.members import client_urls
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.paths import credentials_in
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.reasons import Reason, reported

# etcd calls the new file so, beside the present one (server/storage/backend/backend.go, Defrag).
UNFINISHED = "db.tmp."

# How long a member may take to be healthy again: a large database that is read anew after the kubelet has ended etcd.
BACK_AGAIN = 300.0


@dataclass(frozen=True)
class DefragmentSpec:
    """A member and how it is defragmented. threshold: percent. compact_revision: 0 for no compaction. timeout: seconds for each request."""

    member: str
    members: list[tuple[str, str]]
    client_port: int = 2379
    metrics_port: int = 2381
    threshold: int = 45
    compact_revision: int = 0
    allow_interruption: bool = False
    work_dir: str = "/etc/kubernetes/kubeadm-etcd"
    data_dir: str = "/var/lib/etcd"
    pki_dir: str = "/etc/kubernetes/pki"
    timeout: float = 900.0

    @property
    def target(self) -> _rollout.Target:
        """The member and how to ask it."""
        return _rollout.make_target(self.member, self.members, self.client_port, self.metrics_port, self.pki_dir)


def is_due(spec: DefragmentSpec, database: Database) -> bool:
    """Whether there is anything to do. What a compaction frees is not known before."""
    return bool(spec.compact_revision) or database.is_fragmented(spec.threshold)


def defragment(spec: DefragmentSpec, check: bool) -> dict[str, Any]:
    """Defragment the member of this host if that is due, or look whether it would be (check). Returns the module's result."""
    with contextlib.ExitStack() as stack:
        if not check:
            hold_host_lock(stack, spec.work_dir, spec.timeout)
        target, _process = locate(spec)
        before = look(target)
        if not is_due(spec, before):
            return result([], before, before)
        if not check:
            lock = hold_lock(stack, target)
            check_gate(spec)
            # Another run may have been here while this one waited.
            before = look(target)
            return act(spec, target, before, lock) if is_due(spec, before) else result([], before, before)
        check_gate(spec)
        reasons = [Reason("database", "fragmented", f"defragmented, {before}")]
        return result(reasons, before, before)


def result(reasons: Sequence[Reason], before: Database, after: Database, seconds: float = 0.0) -> dict[str, Any]:
    """What the module returns."""
    sizes = {
        name: {"size": database.size, "in_use": database.in_use}
        for name, database in (("before", before), ("after", after))
    }
    return {**reported(reasons), **sizes, "seconds": round(seconds, 1)}


def locate(spec: DefragmentSpec) -> tuple[_rollout.Target, _processes.Process]:
    """The member as it runs. EtcdError if it does not."""
    process = _processes.find_etcd_process(spec.member)
    if process is None:
        raise EtcdError(f"{spec.member} is not defragmented: its etcd does not run. Run site.yml to start it.")
    target = spec.target
    urls = [_processes.client_url_of(process.argv, target.urls[0]), *target.urls[1:]]
    return replace(target, urls=urls, metrics=_processes.metrics_of(process.argv, target.metrics)), process


def look(target: _rollout.Target) -> Database:
    """The database of the member, as it reports it."""
    with EtcdClient(target.urls[0], *target.credentials, timeout=_processes.ANSWER) as client:
        return database_of(client.status())


def database_of(status: Status) -> Database:
    """The database of a member. Its quota is 0 if it does not report one."""
    return Database(status.db_size, status.db_size_in_use, status.quota or 0, status.revision)


# --- Lock and gate ---------------------------------------------------------------------------------------------------


def hold_lock(stack: contextlib.ExitStack, target: _rollout.Target) -> ClusterLock | None:
    """The cluster lock. None with the alarm NOSPACE, with which etcd refuses it: this is what ends the alarm, and it has its gate."""
    holder = Holder(socket.gethostname(), target.name, "defragmentation")
    # The member itself does not answer meanwhile.
    urls = [*target.urls[1:], target.urls[0]]
    try:
        return stack.enter_context(
            cluster_lock(urls, target.credentials, holder, while_waiting=_rollout.check_controller)
        )
    except LockRefusedError as exc:
        if exc.alarm != "NOSPACE":
            raise
        return None


def gate_problems(
    name: str, answer: str | None, others: Sequence[_rollout.Other], allow_interruption: bool
) -> list[str]:
    """Why a member may not be blocked now. answer: what it says of its health, None if it is healthy."""
    problems = [f"{name} is not healthy ({answer})"] if answer else []
    problems += [f"{other.name} {other.problem}" for other in others if other.problem]
    voters = 1 + len([other for other in others if other.voter])
    if not allow_interruption and voters - 1 < voters // 2 + 1:
        problems.append(
            f"the cluster has {voters} voting member{'s' if voters > 1 else ''} and no quorum while {name} is blocked. Add members, or set"
            " etcd_allow_interruption: true for this run"
        )
    return problems


def check_gate(spec: DefragmentSpec) -> None:
    """EtcdError if the member may not be blocked."""

    def look() -> list[str]:
        target, process = locate(spec)
        others, silence = _rollout.look_at_others(target, process)
        answer = _rollout.ask_health(target.urls[0], target)
        return [silence] if silence else gate_problems(spec.member, answer, others, spec.allow_interruption)

    problems = _rollout.lasting(look)
    if problems:
        raise EtcdError(f"{spec.member} is not defragmented: {'; '.join(problems)}.")


# --- Act and proof ---------------------------------------------------------------------------------------------------


def act(spec: DefragmentSpec, target: _rollout.Target, before: Database, lock: ClusterLock | None) -> dict[str, Any]:
    """Compact, defragment, and wait until the member is healthy again."""
    begin = time.monotonic()
    reasons = []
    _target, process = locate(spec)
    now = before
    if spec.compact_revision:
        if compact(spec, target):
            reasons.append(Reason("database", "compacted", f"compacted to revision {spec.compact_revision}"))
        # What was freed shows with the next write only, and there is none with the alarm NOSPACE: this may still be the former figure.
        now = look(target)
    left = remove_unfinished(spec.data_dir, process_started(process.pid))
    if left:
        text = f"removed {mib(left)} of files that a former defragmentation has left"
        reasons.append(Reason("database", "unfinished", text))
    check_disk(spec, now)
    if lock:
        lock.check()
    _rollout.check_controller()
    prove(spec, target, process, request(spec, target))
    after = look(target)
    text = f"defragmented, {mib(before.size)} -> {mib(after.size)}"
    reasons.append(Reason("database", "fragmented", text))
    return result(reasons, before, after, time.monotonic() - begin)


def check_disk(spec: DefragmentSpec, database: Database) -> None:
    """EtcdError if the new file has no room beside the old one."""
    needed, free = database.in_use + LEAST_UNUSED, free_bytes(spec.data_dir)
    if free < needed:
        raise EtcdError(
            f"{spec.member} is not defragmented: etcd writes the new file beside the present one, which needs {mib(needed)}, and {mib(free)} are free"
            f" on the filesystem of {spec.data_dir}. Free space there, and run again."
        )


def remove_unfinished(data_dir: str, started: float) -> int:
    """Remove the new files of defragmentations in which etcd has ended, and return their bytes. started: when the present etcd did.

    etcd 3.5 and 3.6 remove them when they start, and 3.7 does not (seen with 3.7.0 and 3.7.3). A file that the present etcd has written is not
    touched: another client may have begun a defragmentation.
    """
    directory, removed = os.path.join(data_dir, "member", "snap"), 0
    # What cannot be listed or removed shows when the disk is checked.
    with contextlib.suppress(OSError):
        for name in os.listdir(directory):
            path = os.path.join(directory, name)
            if name.startswith(UNFINISHED) and os.path.isfile(path) and os.path.getmtime(path) < started:
                size = os.path.getsize(path)
                os.unlink(path)
                removed += size
    return removed


def compact(spec: DefragmentSpec, target: _rollout.Target) -> bool:
    """Compact, and wait until the database of this member is through with it. Returns whether this has begun it."""
    with EtcdClient(target.urls[0], *target.credentials, timeout=spec.timeout) as client:
        return client.compact(spec.compact_revision)


def request(spec: DefragmentSpec, target: _rollout.Target) -> str:
    """Defragment, and return what went wrong; '' if nothing did. On a connection of its own, which is not repeated if it is lost."""
    try:
        with EtcdClient(target.urls[0], *target.credentials, timeout=spec.timeout) as client:
            client.defragment()
    except EtcdUnreachableError as exc:
        return str(exc).rstrip(".")
    return ""


def prove(spec: DefragmentSpec, target: _rollout.Target, process: _processes.Process, problem: str) -> None:
    """Wait until the member is healthy and has caught up. EtcdError if it does not, or if the request failed (problem)."""
    begin = time.monotonic()
    while True:
        _rollout.check_controller()
        now = _processes.find_etcd_process(spec.member)
        trouble = _rollout.service_problem(target) if now else "etcd does not run"
        if not trouble:
            break
        if time.monotonic() - begin > BACK_AGAIN:
            raise EtcdError(
                f"{spec.member} is not healthy {BACK_AGAIN:.0f} s after its defragmentation{f' ({problem})' if problem else ''}: {trouble}. No further"
                " member is defragmented. Run health.yml to see why."
            )
        time.sleep(_rollout.POLL)
    if now and (now.pid, now.started) != (process.pid, process.started):
        remove_unfinished(spec.data_dir, process_started(now.pid))
        raise EtcdError(
            f"{spec.member}: etcd ended while its database was being defragmented, and is healthy again with the database that it had. If that took"
            f' longer than {PROBE_LASTS} s, the kubelet has ended it, because its liveness probe had failed: see docs/size.md, "Large databases".'
            f"{' ' + problem + '.' if problem else ''}"
        )
    if problem:
        raise EtcdError(
            f"{spec.member} is not defragmented: {problem}. It is healthy. Correct the cause, and run again."
        )


# --- The alarm -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DisarmSpec:
    """The cluster whose alarm NOSPACE is disarmed. quota: bytes, for members that do not report theirs; 0 for no limit."""

    members: list[tuple[str, str]]
    client_port: int = 2379
    quota: int = 0
    pki_dir: str = "/etc/kubernetes/pki"
    timeout: float = 60.0


def full_members(databases: Sequence[tuple[str, Database]]) -> list[str]:
    """Members whose database has reached its quota, with the figures."""
    return [
        f"{name} ({mib(item.size)} of {mib(item.quota)}, {mib(item.in_use)} of them in use)"
        for name, item in databases
        if item.quota and item.size >= item.quota
    ]


def disarm(spec: DisarmSpec, check: bool) -> dict[str, Any]:
    """Disarm the alarm NOSPACE if every database is below its quota, or look whether it is raised (check). Returns the module's result."""
    urls = client_urls(spec.members, spec.client_port)
    acts = Membership(urls, credentials_in(spec.pki_dir), _rollout.check_controller)
    raised = [alarm for alarm in acts.alarms() if alarm.kind == "NOSPACE"]
    if raised and not check:
        full = full_members(look_at_all(spec, acts))
        if full:
            raise EtcdError(
                f"alarm NOSPACE stays, because the database has no room yet: {', '.join(full)}. Raise quota-backend-bytes in etcd_extra_args, run"
                " site.yml, and defragment.yml again. Or delete what is not needed, which etcd accepts, and run defragment.yml with"
                " -e etcd_compact_keep_revisions=0."
            )
        for alarm in raised:
            acts.disarm(alarm.member_id, spec.timeout, ["NOSPACE"])
    return reported(
        [Reason("database", "disarmed", f"alarm NOSPACE of member {a.member_id:x}: disarmed") for a in raised]
    )


def look_at_all(spec: DisarmSpec, acts: Membership) -> list[tuple[str, Database]]:
    """The databases of all members. EtcdError if one does not answer."""
    found = []
    for member in acts.members():
        name = member.name or f"{member.id:x}"
        if not member.started:
            continue
        with EtcdClient(member.client_urls[0], *acts.credentials, timeout=_processes.ANSWER) as client:
            status = client.status()
        quota = spec.quota if status.quota is None else max(0, status.quota)
        found.append((name, Database(status.db_size, status.db_size_in_use, quota, status.revision)))
    return found
