# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A downgrade is enabled for a cluster, or cancelled, by etcd's API. No member is restarted.

etcd's leader then lowers the version of the cluster, and every member writes a raft snapshot and lowers the version of its data. If a member cannot be
reached, the leader waits. etcd 3.5 carries out CANCEL without ever answering it, so a member of the newer version is asked if there is one.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ansible_collections.kubeadm.etcd.plugins.module_utils._etcd.client import EtcdClient, Member, Status
from ansible_collections.kubeadm.etcd.plugins.module_utils._etcd.lock import ClusterLock, Holder, cluster_lock
from ansible_collections.kubeadm.etcd.plugins.module_utils._etcd.membership import Membership
from ansible_collections.kubeadm.etcd.plugins.module_utils._member import rollout as _rollout
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.errors import EtcdError
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.members import client_urls
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.paths import credentials_in
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.reasons import Reason, reported
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.versions import (
    CANCEL,
    EtcdVersion,
    branch_in,
    etcd_version_in,
)

# Seconds between two looks at the members.
POLL = 1.0


@dataclass(frozen=True)
class DowngradeSpec:
    """The cluster, and the minor version that it goes back to, or CANCEL. member: the one of this host. timeout: seconds for all members."""

    member: str
    members: list[tuple[str, str]]
    version: str
    client_port: int = 2379
    pki_dir: str = "/etc/kubernetes/pki"
    timeout: float = 60.0

    @property
    def urls(self) -> list[str]:
        """Client URLs of the members that the inventory has."""
        return client_urls(self.members, self.client_port)

    @property
    def target(self) -> _rollout.Target:
        """The member and how to ask it and the others."""
        return _rollout.make_target(self.member, self.members, self.client_port, 2381, self.pki_dir)


@dataclass(frozen=True)
class Seen:
    """A member: what the membership has of it, what it reports (None: no answer), and why it is not healthy, None if it is."""

    member: Member
    status: Status | None = None
    problem: str | None = None

    @property
    def name(self) -> str:
        """Its name, or its id."""
        return self.member.name or f"member {self.member.id:x}"


def enabled_in(seen: Sequence[Seen]) -> str:
    """The minor version that a downgrade goes to which is enabled, as the members report it; '' if there is none."""
    return next((branch_in(item.status.downgrade) for item in seen if item.status and item.status.downgrade), "")


def gate_problems(seen: Sequence[Seen]) -> list[str]:
    """Why a downgrade is not enabled now: a member that is not well, which the leader would wait for."""
    problems = []
    for item in seen:
        if not item.member.started or item.member.is_learner:
            problems.append(f"{item.name} has not joined completely")
        elif item.problem or not item.status:
            problems.append(f"{item.name} is not healthy ({item.problem or 'no answer'})")
    return problems


def waiting_for(seen: Sequence[Seen], version: str, agreed: str) -> list[str]:
    """What is left to do before members may get the older version. agreed: the version of the cluster."""
    left = [] if branch_in(agreed) == version else [f"the cluster has version {branch_in(agreed) or 'unknown'}"]
    return left + [
        f"the data of {item.name} is of version {branch_in(item.status.storage_version)}"
        for item in seen
        # A member that has the older version already may not report it.
        if item.status and item.status.storage_version and branch_in(item.status.storage_version) != version
    ]


def change_downgrade(spec: DowngradeSpec, check: bool) -> dict[str, Any]:
    """Enable or cancel a downgrade, or look whether that is due (check). Returns the module's result."""
    acts = Membership(spec.urls, credentials_in(spec.pki_dir), _rollout.check_controller)
    with contextlib.ExitStack() as stack:
        lock = None if check else hold_lock(stack, spec, acts)
        return cancel(spec, acts, lock) if spec.version == CANCEL else enable(spec, acts, lock)


def hold_lock(stack: contextlib.ExitStack, spec: DowngradeSpec, acts: Membership) -> ClusterLock:
    """The cluster lock. EtcdError if it cannot be had."""
    urls = [url for member in acts.members() for url in member.client_urls[:1]]
    purpose = "a downgrade is cancelled" if spec.version == CANCEL else f"a downgrade to {spec.version} is enabled"
    holder = Holder(socket.gethostname(), spec.member, purpose)
    return stack.enter_context(cluster_lock(urls, acts.credentials, holder, while_waiting=_rollout.check_controller))


def look(acts: Membership, target: _rollout.Target) -> list[Seen]:
    """All members. EtcdError if none tells the membership."""
    found = []
    for member in acts.members():
        if not member.started:
            found.append(Seen(member))
            continue
        try:
            found.append(
                Seen(
                    member,
                    _rollout.status_with_downgrade(member.client_urls[0], target),
                    _rollout.ask_health(member.client_urls[0], target),
                )
            )
        except EtcdError as exc:
            found.append(Seen(member, problem=str(exc).rstrip(".")))
    return found


def newest(seen: Sequence[Seen]) -> Seen:
    """A member of the newest version that answers."""
    there = [(etcd_version_in(item.status.version) or EtcdVersion(0, 0, 0), item) for item in seen if item.status]
    if not there:
        raise EtcdError("no member answers. Run health.yml to see why.")
    return max(there, key=lambda pair: pair[0])[1]


def ask(acts: Membership, item: Seen, action: str, version: str = "") -> None:
    """One request of the downgrade API. EtcdError with etcd's words if it refuses."""
    with EtcdClient(item.member.client_urls[0], *acts.credentials, timeout=10.0) as client:
        client.downgrade(action, version)


def enable(spec: DowngradeSpec, acts: Membership, lock: ClusterLock | None) -> dict[str, Any]:
    """Have etcd validate and enable the downgrade, and wait until all members are ready for the older version. lock: None in check mode."""
    target, version = spec.target, spec.version
    seen = look(acts, target)
    enabled = enabled_in(seen)
    if enabled not in ("", version):
        raise EtcdError(
            f"a downgrade to {enabled} is under way already. Finish it, or cancel it with -e etcd_downgrade={CANCEL}."
        )
    if enabled:
        if lock:
            wait(spec, acts)
        return reported([])
    problems = _rollout.lasting(lambda: gate_problems(look(acts, target)))
    if problems:
        raise EtcdError(
            f"the downgrade to {version} is not enabled: {'; '.join(problems)}. etcd waits for all members. Run site.yml without etcd_downgrade and with the"
            " version that runs first."
        )
    first = newest(look(acts, target))
    runs = branch_in(first.status.version if first.status else "")
    ask(acts, first, "VALIDATE", version)
    if lock:
        lock.check()
        ask(acts, first, "ENABLE", version)
        wait(spec, acts)
    return reported([Reason("version", "downgrade", f"cluster version: {runs} -> {version}")])


def wait(spec: DowngradeSpec, acts: Membership) -> None:
    """Wait until the cluster and the data of all members are of the older version. EtcdError if they are not in time."""
    deadline = time.monotonic() + spec.timeout
    while True:
        left = waiting_for(look(acts, spec.target), spec.version, _rollout.ask_cluster_version(spec.target))
        if not left:
            return
        _rollout.check_controller()
        if time.monotonic() > deadline:
            raise EtcdError(
                f"the downgrade to {spec.version} is enabled, and etcd is not ready for it after {spec.timeout:.0f} s: {'; '.join(left)}. The log of the"
                f" leader has the reason. No member was changed. Run again to continue, or cancel it with -e etcd_downgrade={CANCEL}."
            )
        time.sleep(POLL)


def cancel(spec: DowngradeSpec, acts: Membership, lock: ClusterLock | None) -> dict[str, Any]:
    """Have etcd forget the downgrade that is enabled, and wait until it has. lock: None in check mode."""
    target = spec.target
    seen = look(acts, target)
    enabled = enabled_in(seen)
    if not enabled:
        return reported([])
    if lock:
        lock.check()
        # 3.5 does it without an answer. The members tell whether it has come about.
        with contextlib.suppress(EtcdError):
            ask(acts, newest(seen), "CANCEL")
        deadline = time.monotonic() + spec.timeout
        while enabled_in(look(acts, target)):
            _rollout.check_controller()
            if time.monotonic() > deadline:
                raise EtcdError(
                    f"the downgrade to {enabled} is still enabled {spec.timeout:.0f} s after it was cancelled. Run again."
                )
            time.sleep(POLL)
        _rollout.wait_for_cluster_version(target)
    return reported([Reason("version", "cancelled", f"downgrade to {enabled}: cancelled")])
