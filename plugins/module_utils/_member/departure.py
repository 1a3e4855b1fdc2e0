# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A member leaves its cluster, and its former host is cleared.

`leave` runs on the host of another member, so the host of the member that leaves may be gone for good. `clear` runs on that host afterwards.
Both look first at what is there, so what a killed run has begun is finished by the next one.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from ansible_collections.kubeadm.etcd.plugins.module_utils._etcd.client import Member
from ansible_collections.kubeadm.etcd.plugins.module_utils._etcd.lock import (
    ClusterLock,
    Holder,
    LockRefusedError,
    cluster_lock,
)
from ansible_collections.kubeadm.etcd.plugins.module_utils._etcd.membership import Membership
from ansible_collections.kubeadm.etcd.plugins.module_utils._host import service
from ansible_collections.kubeadm.etcd.plugins.module_utils._host.files import ensure_directory, locked
from ansible_collections.kubeadm.etcd.plugins.module_utils._host.kubelet import DATA_DROP_IN, DROP_IN
from ansible_collections.kubeadm.etcd.plugins.module_utils._host.wal import read_wal
from ansible_collections.kubeadm.etcd.plugins.module_utils._member import processes as _processes
from ansible_collections.kubeadm.etcd.plugins.module_utils._member import rollout as _rollout
from ansible_collections.kubeadm.etcd.plugins.module_utils._member.ending import archive_data, end_etcd, has_data
from ansible_collections.kubeadm.etcd.plugins.module_utils._member.join import join_problems
from ansible_collections.kubeadm.etcd.plugins.module_utils._member.record import (
    Record,
    current_record,
    read_record,
    removed_with_keys,
    write_record,
)
from ansible_collections.kubeadm.etcd.plugins.module_utils._member.schedule import present_files, remove_schedule
from ansible_collections.kubeadm.etcd.plugins.module_utils._member.turn import hold_host_lock
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.errors import EtcdError
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.members import client_urls
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.paths import RECORD, UNKNOWN, credentials_in
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.reasons import Reason, reported

# In the work directory: the lock of a run that asks the cluster with the keys of this host, so that they are not removed meanwhile. A run has it
# for as long as it waits for the cluster lock and for its changes, at most.
KEYS_LOCK, KEYS_PATIENCE = "lock-keys", 600.0

# Where the manifest of a member that has left is kept, in the work directory.
REMOVED_MANIFEST = "etcd.yaml.removed"


# --- The membership --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LeaveSpec:
    """Who leaves. member_id: hexadecimal. members: name and address of those that are asked. timeout: seconds for each change.

    joins_anew: whether the host of the member joins anew afterwards, which it does only beside healthy voters. work_dir: of this host, '' for none.
    """

    member: str
    member_id: str
    members: list[tuple[str, str]]
    client_port: int = 2379
    pki_dir: str = "/etc/kubernetes/pki"
    timeout: float = 60.0
    joins_anew: bool = False
    work_dir: str = ""

    @property
    def target(self) -> _rollout.Target:
        """How to ask the other members."""
        urls = urls_of_others(self.member, self.members, self.client_port)
        return _rollout.Target(self.member, urls, "", credentials_in(self.pki_dir))


def urls_of_others(member: str, members: list[tuple[str, str]], client_port: int) -> list[str]:
    """Client URLs of the members that stay."""
    return client_urls([item for item in members if item[0] != member], client_port)


def departure_problems(
    name: str, leaving: Member, others: Sequence[_rollout.Other], is_well: bool, joins_anew: bool = False
) -> list[str]:
    """Why the cluster cannot do without a member. others: the other members. is_well: whether the member itself is healthy.

    joins_anew: see LeaveSpec.
    """
    voters = [other for other in others if other.voter]
    left = len([other for other in voters if not other.problem])
    if not voters:
        return [f"{name} is the last voting member: with it, the cluster ends. Add another member first."]
    problems = [f"{other.name} {other.problem}" for other in voters if other.problem]
    if left < len(voters) // 2 + 1:
        return [
            *problems,
            f"without {name}, {left} of {len(voters)} voting members would be healthy, which is no quorum",
        ]
    if joins_anew:
        return join_problems(others)
    return problems if is_well and not leaving.is_learner else []


def leave(spec: LeaveSpec, check: bool) -> dict[str, Any]:
    """Remove a member from the membership, or look whether it could be (check). Returns the module's result."""
    with contextlib.ExitStack() as stack:
        if spec.work_dir and not check:
            _hold_keys(stack, spec.work_dir)
        if removed_with_keys(spec.work_dir, credentials_in(spec.pki_dir)):
            raise EtcdError(
                f"{spec.member} is not removed: since this run was planned, another run has removed the member of this host, and its keys, with which the"
                " cluster would be asked. The membership is as that run has left it. Run again."
            )
        return _leave(spec, check)


def _hold_keys(stack: contextlib.ExitStack, work_dir: str) -> None:
    """Have the keys of this host stay for as long."""
    ensure_directory(work_dir, 0o700)
    stack.enter_context(locked(os.path.join(work_dir, KEYS_LOCK), KEYS_PATIENCE, KEYS_PATIENCE))


def _leave(spec: LeaveSpec, check: bool) -> dict[str, Any]:
    target = spec.target
    acts = Membership(target.urls, target.credentials, _rollout.check_controller)
    entry = _entry(acts.members(), spec.member_id)
    if entry is None:
        return _disarm_departed(spec, acts, check)
    _check_departure(spec, target, acts)
    if not check:
        with contextlib.ExitStack() as stack:
            lock = _hold_lock(stack, spec, target)
            _check_departure(spec, target, acts)
            acts.hand_over(entry.id, spec.timeout)
            if lock:
                lock.check()
            acts.remove(entry.id, spec.timeout)
            # An alarm of a member that has left would go on stopping the cluster.
            acts.disarm(entry.id, spec.timeout)
    return reported([Reason("membership", "leaves", f"member {spec.member_id} ({spec.member}) leaves the membership")])


def _disarm_departed(spec: LeaveSpec, acts: Membership, check: bool) -> dict[str, Any]:
    """Disarm the alarms of a member that has left, in a run that ended before that. They would go on stopping the cluster."""
    raised = [alarm for alarm in acts.alarms() if f"{alarm.member_id:x}" == spec.member_id]
    if raised and not check:
        acts.disarm(raised[0].member_id, spec.timeout)
    text = f"alarm {{}} of member {spec.member_id}, which has left the membership, is disarmed"
    return reported([Reason("membership", "disarmed", text.format(alarm.kind)) for alarm in raised])


def _entry(members: Sequence[Member], member_id: str) -> Member | None:
    return next((member for member in members if f"{member.id:x}" == member_id), None)


def _hold_lock(stack: contextlib.ExitStack, spec: LeaveSpec, target: _rollout.Target) -> ClusterLock | None:
    """The cluster lock. None if etcd refuses it because of an alarm: the removal may be what ends that, and it has its gate."""
    holder = Holder(socket.gethostname(), spec.member, f"removal of {spec.member}")
    try:
        return stack.enter_context(
            cluster_lock(target.urls, target.credentials, holder, while_waiting=_rollout.check_controller)
        )
    except LockRefusedError:
        return None


def _check_departure(spec: LeaveSpec, target: _rollout.Target, acts: Membership) -> None:
    """EtcdError if the cluster cannot do without the member."""

    def look() -> list[str]:
        members = acts.members()
        leaving = _entry(members, spec.member_id)
        if leaving is None:
            return []
        # One member whose data is corrupt stops all of them. It is that alarm which ends when it leaves.
        corrupt = {alarm.member_id for alarm in acts.alarms() if alarm.kind == "CORRUPT"}
        without = ("NOSPACE", "CORRUPT") if corrupt == {leaving.id} else ("NOSPACE",)
        others = _rollout.describe_others(members, leaving, target, without)
        is_well = leaving.started and _rollout.ask_health(leaving.client_urls[0], target) is None
        return departure_problems(spec.member, leaving, others, is_well, spec.joins_anew)

    problems = _rollout.lasting(look)
    if problems:
        raise EtcdError(f"{spec.member} is not removed: {'; '.join(problems)}.")


# --- The host --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ClearSpec:
    """The host of a former member. members: name and address of those that are asked whether it has left. wipe_keys: also its certificates."""

    member: str
    members: list[tuple[str, str]]
    client_port: int = 2379
    wipe_keys: bool = False
    manifests_dir: str = "/etc/kubernetes/manifests"
    data_dir: str = "/var/lib/etcd"
    work_dir: str = "/etc/kubernetes/kubeadm-etcd"
    pki_dir: str = "/etc/kubernetes/pki"
    runtime_endpoint: str = "unix:///var/run/containerd/containerd.sock"

    @property
    def manifest(self) -> str:
        """Path of the manifest."""
        return os.path.join(self.manifests_dir, "etcd.yaml")

    @property
    def override(self) -> list[str]:
        """Files that make the kubelet a service manager for etcd."""
        ours = [os.path.join(self.work_dir, name) for name in ("kubelet.yaml", "before-kubelet.sh")]
        return [DROP_IN, DATA_DROP_IN, *ours]

    @property
    def key_files(self) -> list[str]:
        """Keys and certificates of etcd."""
        directory = os.path.join(self.pki_dir, "etcd")
        names = sorted(os.listdir(directory)) if os.path.isdir(directory) else []
        inside = [os.path.join(directory, name) for name in names if name.endswith((".key", ".crt"))]
        client = [os.path.join(self.pki_dir, f"apiserver-etcd-client.{end}") for end in ("key", "crt")]
        return [*inside, *(path for path in client if os.path.exists(path))]


def clear_reasons(spec: ClearSpec, record: Record | None) -> list[Reason]:
    """What is left of a member on its host."""
    found = []
    if os.path.exists(spec.manifest):
        found.append(Reason("manifest", "removed", f"{spec.manifest}: moved to {spec.work_dir}", restarts=True))
    override = [path for path in spec.override if os.path.exists(path)]
    if override:
        found.append(Reason("kubelet", "removed", f"kubelet stopped, and removed: {', '.join(override)}"))
    if has_data(spec.data_dir):
        found.append(Reason("data", "archived", f"{spec.data_dir}: renamed, and kept"))
    if (record or found) and not (record and record.removed):
        found.append(Reason("record", "removed", f"{RECORD}: marked as removed"))
    if present_files(spec.work_dir):
        found.append(Reason("backup", "removed", "the timer that takes snapshots: removed"))
    if spec.wipe_keys and spec.key_files:
        found.append(Reason("certificates", "wiped", f"removed: {', '.join(spec.key_files)}"))
    return found


def clear(spec: ClearSpec, check: bool) -> dict[str, Any]:
    """Clear the host of a member that has left, or look what would be done (check). Returns the module's result."""
    if check:
        return {**reported(clear_reasons(spec, read_record(spec.work_dir))), "archive": ""}
    with contextlib.ExitStack() as stack:
        hold_host_lock(stack, spec.work_dir)
        record = read_record(spec.work_dir)
        reasons = clear_reasons(spec, record)
        archive = ""
        if reasons:
            _rollout.check_controller()
            check_has_left(spec)
            kept = os.path.join(spec.work_dir, REMOVED_MANIFEST)
            end_etcd(spec.member, spec.manifest, kept, spec.runtime_endpoint)
            remove_schedule(spec.work_dir)
            _remove_override(spec)
            # Before the data is renamed: it says whose it was.
            _mark_record(spec, record)
            archive = archive_data(spec.data_dir, time.time())
        if spec.wipe_keys and spec.key_files:
            _hold_keys(stack, spec.work_dir)
            for path in spec.key_files:
                os.unlink(path)
    return {**reported(reasons), "archive": archive}


def check_has_left(spec: ClearSpec) -> None:
    """EtcdError if the data here is that of a present member, or if no member answers and it may be."""
    wal = read_wal(spec.data_dir)
    process = _processes.find_etcd_process(spec.member)
    if not (wal or process):
        return
    urls = urls_of_others(spec.member, spec.members, spec.client_port)
    members = Membership(urls, credentials_in(spec.pki_dir), _rollout.check_controller).members()
    here = wal.member_id if wal else ""
    still = next((item for item in members if f"{item.id:x}" == here or (not here and item.name == spec.member)), None)
    if still:
        raise EtcdError(
            f"{spec.member}: nothing is stopped or archived, because the data in {spec.data_dir} is that of member {still.id:x}"
            f" ({still.name}), which is still in the membership. Remove it first: remove_member.yml."
        )


def _remove_override(spec: ClearSpec) -> None:
    """Stop the kubelet, which has nothing else to do, and remove the files that make it run etcd."""
    files = [path for path in spec.override if os.path.exists(path)]
    if not files:
        return
    service.stop()
    for path in files:
        os.unlink(path)
    service.systemctl("daemon-reload")


def _mark_record(spec: ClearSpec, record: Record | None) -> None:
    """Keep in the record that the member has left. Without a record, what its data tells."""
    if record and record.removed:
        return
    known = record or current_record(spec.member, spec.data_dir, spec.pki_dir)
    wal = read_wal(spec.data_dir)
    if known is None:
        ids = (wal.cluster_id, wal.member_id) if wal else ("", "")
        known = Record(spec.member, ids[0] or UNKNOWN, ids[1] or UNKNOWN, os.path.normpath(spec.data_dir))
    write_record(replace(known, removed=time.strftime("%Y-%m-%d", time.gmtime())), spec.work_dir)
