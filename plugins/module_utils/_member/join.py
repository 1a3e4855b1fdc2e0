# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A member joins a cluster that runs: added as a learner, started, promoted when it has caught up.

Every stage is read from the membership and the host, so the next run finishes an interrupted join. A join whose
etcd does not start is undone, since no other member can be changed while a learner does not start.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ansible_collections.kubeadm.etcd.plugins.module_utils._etcd.client import Member
from ansible_collections.kubeadm.etcd.plugins.module_utils._etcd.lock import (
    Holder,
    LockError,
    LockRefusedError,
    cluster_lock,
)
from ansible_collections.kubeadm.etcd.plugins.module_utils._etcd.membership import DepartedError, Membership, entry_of
from ansible_collections.kubeadm.etcd.plugins.module_utils._host import kubeadm as _kubeadm
from ansible_collections.kubeadm.etcd.plugins.module_utils._host import service
from ansible_collections.kubeadm.etcd.plugins.module_utils._host.packages import Staged
from ansible_collections.kubeadm.etcd.plugins.module_utils._member import processes as _processes
from ansible_collections.kubeadm.etcd.plugins.module_utils._member import rollout as _rollout
from ansible_collections.kubeadm.etcd.plugins.module_utils._member.ending import archive_data, end_etcd
from ansible_collections.kubeadm.etcd.plugins.module_utils._member.record import current_record, write_record
from ansible_collections.kubeadm.etcd.plugins.module_utils._member.turn import (
    KubeletError,
    Turn,
    TurnSpec,
    hold_host_lock,
    peer_urls,
    stage,
)
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.errors import EtcdError, system_errors
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.reasons import Reason

# How long a learner may take to catch up: it is sent the whole database. The kubelet's startup probe asks /readyz, which a learner answers with 503
# (etcd 3.5.19 and later), and would end it before, after kubeadm's four minutes or etcd_startup_timeout (join_timeout).
CATCHES_UP = _kubeadm.JOIN_SECONDS

# For a change of the membership that etcd does not accept yet.
ACCEPTED = 60.0

# Seconds in which most members have caught up.
SOON = 10.0

# Shorter than for a member that runs: a kubelet that cannot make its cgroups has ended half a second after its start, and one that ends later costs this
# host a join, which is taken back.
KUBELET_LASTS = 4.0

# Where the manifest of a join that was taken back is kept, in the work directory.
REFUSED_MANIFEST = "etcd.yaml.refused"


def take_join(spec: TurnSpec, check: bool) -> dict[str, Any]:
    """Have the member of this host join, or look what would be changed (check). Returns the module's result."""
    with contextlib.ExitStack() as stack:
        if not check:
            hold_host_lock(stack, spec.kubelet.work_dir, CATCHES_UP)
        turn = JoinTurn(spec, check, stack.enter_context(stage(spec, check)))
        turn.join(stack)
        return turn.result()


def join_problems(others: Sequence[_rollout.Other]) -> list[str]:
    """Why no member may be added now. A new member can raise the quorum, and with an unhealthy voter, one more failure would stop the cluster."""
    return [f"{other.name} {other.problem}" for other in others if other.problem]


class JoinTurn(Turn):
    """The turn of a member that joins."""

    kubelet_lasts = KUBELET_LASTS

    def __init__(self, spec: TurnSpec, check: bool, staged: Staged | None = None) -> None:
        config = spec.config
        timeout = _kubeadm.join_timeout(config.startup_timeout)
        config = replace(config, initial_cluster_state="existing", startup_timeout=timeout)
        super().__init__(replace(spec, config=config), check, staged)
        self.membership = Membership(
            spec.target.urls[1:], spec.target.credentials, while_waiting=_rollout.check_controller
        )

    def join(self, stack: contextlib.ExitStack) -> None:
        """The whole turn."""
        urls = peer_urls(self.wanted)
        joins = Reason(
            "membership", "joins", f"{self.spec.member} joins at {', '.join(urls)}: a learner until it has caught up"
        )
        if self.check:
            self.reasons.insert(0, joins)
            return
        _rollout.check_controller()
        self.have_images()
        self._prove_running_kubelet()
        holder = Holder(socket.gethostname(), self.spec.member, f"join of {self.spec.member}")
        try:
            self.lock = stack.enter_context(
                cluster_lock(
                    self.spec.target.urls[1:],
                    self.spec.target.credentials,
                    holder,
                    while_waiting=_rollout.check_controller,
                )
            )
        except LockRefusedError as exc:
            # A full database keeps nobody from joining, and a member that was replaced has left already. etcd has one learner at a time.
            if exc.alarm != "NOSPACE":
                raise
        self._check_others(urls)
        self._check_lock()
        entry = self.membership.add_learner(self.spec.member, urls, ACCEPTED)
        self.take_peers(self.membership.members(), entry)
        if not entry.is_learner and self.stops and not self.spec.allow_interruption:
            # Another run has finished the join meanwhile: now it has a vote.
            _rollout.check_gate(self.spec.target)
        self.reasons.insert(0, joins)
        try:
            with system_errors():
                self.act(self.spec.target)
                self.waited = self._wait_until_promoted(entry, urls)
                self._record()
        except (_rollout.AbandonedError, LockError):
            raise
        except EtcdError as exc:
            said = self._said_of_kubelet(exc) if isinstance(exc, KubeletError) else str(exc)
            raise EtcdError(f"{said} {self._taken_back(entry)}") from exc
        self.waited += self._wait_for_member(self.spec.target, self._installed(), self._old())

    def _prove_running_kubelet(self) -> None:
        """EtcdError if the kubelet, which an earlier task may have started, does not last. One that this turn starts is proven then."""
        if not self.kubelet or self.kubelet.restart:
            return
        try:
            self.see_that_kubelet_lasts()
        except KubeletError as exc:
            raise EtcdError(
                f"{self._said_of_kubelet(exc)} It has not joined. Correct the cause, and run again."
            ) from exc

    def _said_of_kubelet(self, exc: KubeletError) -> str:
        return f"{self.spec.member}: the kubelet does not work: {exc}{service.last_lines(self.since)}\n"

    def _check_others(self, urls: list[str]) -> None:
        """EtcdError if another member is not a healthy voter."""

        def look() -> list[str]:
            members = self.membership.members()
            mine = entry_of(members, self.spec.member, urls)
            return join_problems(_rollout.describe_others(members, mine, self.spec.target))

        problems = _rollout.lasting(look)
        if problems:
            raise EtcdError(
                f"{self.spec.member} does not join while another member is unhealthy: {'; '.join(problems)}."
            )

    def _wait_until_promoted(self, entry: Member, urls: list[str]) -> float:
        """Wait until etcd runs as wanted, and promote it as soon as the leader accepts that it has caught up. Returns seconds. urls: its peer URLs."""
        begin = time.monotonic()
        wanted, old = _kubeadm.manifest_arguments(self._installed()), self._old()
        watch = _rollout.Watch(self.causes)
        while True:
            _rollout.check_controller()
            process = _processes.find_etcd_process(self.spec.member)
            problem = _processes.process_problem(process, old, wanted)
            if not problem:
                self._check_lock()
                try:
                    self.membership.promote(entry.id, urls, 0.0)
                    return time.monotonic() - begin
                except DepartedError:
                    raise
                except EtcdError as exc:
                    problem = str(exc).rstrip(".")
            waited = time.monotonic() - begin
            if waited > max(self.spec.timeout, CATCHES_UP) or watch.is_hopeless():
                what = f"it has not joined after {waited:.0f} s: {problem}"
                raise EtcdError(f"{self.spec.member}: {_rollout.told(what, self.causes(), self.since)}")
            # A small database is there at once. A large one takes minutes, in which the leader need not be asked all the time.
            time.sleep(_rollout.POLL if waited < SOON else 1.0)

    def _record(self) -> None:
        """Record that this host has a member that votes. From now on, the kubelet of a host that boots does not start it without its data."""
        config = self.spec.config
        record = current_record(self.spec.member, config.data_dir, config.pki_dir)
        if record:
            write_record(record, self.spec.kubelet.work_dir)

    def _taken_back(self, entry: Member) -> str:
        """The same, with the reason if even that fails: the cause of the failure must not be lost."""
        try:
            with system_errors():
                return self._take_back(entry)
        except _rollout.AbandonedError:
            raise
        except EtcdError as exc:
            return f"The join could not be undone: {exc} Run again."

    def _take_back(self, entry: Member) -> str:
        """Undo a join whose etcd does not start, and return the result for the message."""
        try:
            self._check_lock()
        except LockError as exc:
            return f"{exc} The join was not undone. Run again."
        mine = next((member for member in self.membership.members() if member.id == entry.id), None)
        if mine and not mine.is_learner:
            return "It was promoted, so it stays a member. Correct the cause, and run again."
        if mine and _processes.find_etcd_process(self.spec.member) and not any(cause.final for cause in self.causes()):
            return "It continues to catch up as a learner. Run again to finish the join."
        work_dir = self.spec.kubelet.work_dir
        kept = os.path.join(work_dir, REFUSED_MANIFEST)
        end_etcd(self.spec.member, self.spec.manifest, kept, self.spec.kubelet.runtime_endpoint)
        self.membership.remove(entry.id, ACCEPTED)
        archive = archive_data(self.spec.config.data_dir, time.time())
        data = f", its data is {archive}" if archive else ""
        return f"The join was undone: the learner has left the membership, its manifest is {kept}{data}. Correct the cause, and run again."
