# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Changes of the membership: a learner is added and promoted, a member is removed, a leader hands over.

Every change reads the membership before each attempt, so it can be repeated after a lost answer or by another run. etcd answers
"unhealthy cluster" for some seconds after a change (server/etcdserver/server.go, strictReconfigCheck): that is retried.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from ansible_collections.kubeadm.etcd.plugins.module_utils._etcd.client import (
    Alarm,
    EtcdClient,
    EtcdUnreachableError,
    Member,
    Status,
    members_in,
)
from ansible_collections.kubeadm.etcd.plugins.module_utils._etcd.lock import Members, SilentError, clock
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.errors import EtcdError
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.formats import (
    is_at,
    place_of,
)
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.members import (
    is_elsewhere,
    learner_elsewhere,
    urls_while_joining,
)

T = TypeVar("T")

# Seconds for one answer of a quorum, however many members are asked for it.
ANSWER = 10.0

# Seconds between two attempts.
PAUSE = 1.0


class DepartedError(EtcdError):
    """A member that is to be promoted is not in the membership any more."""


def entry_of(members: Sequence[Member], name: str, peer_urls: Sequence[str]) -> Member | None:
    """The entry of a member, by its name, or by the address of its peer URLs if it has not started; None if there is none.

    etcd lets two members have one name: then the address decides. It is the entry that the plan has found (entry_of in _control/identity.py), never
    that of another member at this address.
    """
    addresses = [place_of(url)[0] for url in peer_urls]

    def is_here(member: Member) -> bool:
        return any(is_at(member.peer_urls, address) for address in addresses)

    found = [member for member in members if (member.name == name if member.name else is_here(member))]
    return next(filter(is_here, found), found[0] if found else None)


class Membership:
    """The membership of a cluster that has a quorum. urls: client URLs of its members. while_waiting: called before each attempt."""

    def __init__(
        self, urls: Sequence[str], credentials: tuple[str, str, str], while_waiting: Callable[[], None] = lambda: None
    ) -> None:
        self.credentials = credentials
        self._server = Members(urls, credentials)
        self._while_waiting = while_waiting

    def _call(self, path: str, **body: Any) -> dict[str, Any]:
        return self._server.call(path, body, clock() + ANSWER)

    def members(self) -> list[Member]:
        """The members as a quorum knows them. EtcdError if none answers."""
        try:
            return self._members()
        except SilentError as exc:
            raise EtcdError(f"no member reports the membership: {exc}.") from exc

    def _members(self) -> list[Member]:
        try:
            return members_in(self._call("cluster/member/list", linearizable=True))
        except (AttributeError, TypeError, ValueError) as exc:
            raise EtcdError("a member reports a membership that is not etcd's.") from exc

    def add_learner(self, name: str, peer_urls: list[str], seconds: float) -> Member:
        """The entry of the member that joins, added as a learner if the membership does not have it. EtcdError if etcd refuses it.

        Until it is promoted, it has a further peer URL (urls_while_joining). Those of a learner are never updated (promote), so one that was added by
        hand and has not started is added again. EtcdError if a learner has started at another place.
        """
        joining = urls_while_joining(peer_urls)

        def added() -> Member | None:
            entry = entry_of(self._members(), name, peer_urls)
            if entry is None:
                self._call("cluster/member/add", peerURLs=joining, isLearner=True)
            elif entry.started and entry.is_learner:
                if is_elsewhere(entry.peer_urls, peer_urls):
                    raise EtcdError(learner_elsewhere(name, entry.peer_urls, peer_urls))
            elif not entry.started and sorted(entry.peer_urls) != sorted(joining):
                if entry.is_learner:
                    self._call("cluster/member/remove", ID=str(entry.id))
                else:
                    self._call("cluster/member/update", ID=str(entry.id), peerURLs=joining)
                return None
            return entry

        return self._until(f"add a learner at {', '.join(peer_urls)}", added, seconds, retried=("not-found",))

    def promote(self, member_id: int, peer_urls: list[str], seconds: float) -> Member:
        """Make a voting member of a learner, as soon as it has caught up. EtcdError if it is not one after some seconds.

        peer_urls: those that it keeps. It gets them afterwards: if the peer URLs of a learner are updated, etcd 3.6 refuses the promotion when it reads
        its log at the next start, and a member may then be a quorum of its own (tests/etcd/test_membership.py). A run that ends before is finished
        by the next one (MemberView.joins).
        """

        def promoted() -> Member | None:
            entry = next((member for member in self._members() if member.id == member_id), None)
            if entry is None:
                raise DepartedError(f"member {member_id:x} has left the membership before it was promoted.")
            if entry.is_learner:
                # "in sync with leader": etcd compares raft indexes (readyPercentThreshold), and refuses until then.
                self._call("cluster/member/promote", ID=str(member_id))
                return None
            if sorted(entry.peer_urls) != sorted(peer_urls):
                self._call("cluster/member/update", ID=str(member_id), peerURLs=peer_urls)
                return None
            return entry

        return self._until(f"promote member {member_id:x}", promoted, seconds, retried=("precondition", "not-found"))

    def remove(self, member_id: int, seconds: float) -> None:
        """Remove a member, if the membership has it. EtcdError if etcd refuses."""

        def removed() -> bool | None:
            if not any(member.id == member_id for member in self._members()):
                return True
            self._call("cluster/member/remove", ID=str(member_id))
            return None

        self._until(f"remove member {member_id:x}", removed, seconds, retried=("not-found",))

    def hand_over(self, member_id: int, seconds: float) -> None:
        """See that a member is not the leader. EtcdError if it stays that."""

        def handed_over() -> bool | None:
            members = self._members()
            if self._status(members).leader != member_id:
                return True
            voters = [member for member in members if member.started and not member.is_learner]
            others = [member for member in voters if member.id != member_id]
            leader = next((member for member in voters if member.id == member_id), None)
            if not others or leader is None:
                raise EtcdError(f"member {member_id:x} is the leader, and no other voting member has started.")
            # etcd transfers the leadership to any member that is named, and would wait for a member that is down.
            heir = next((member for member in others if self._follows(member, member_id)), None)
            if heir is None:
                raise EtcdUnreachableError("no other voting member follows the leader.", "unavailable")
            with EtcdClient(leader.client_urls[0], *self.credentials, timeout=ANSWER) as client:
                client.call("maintenance/transfer-leadership", {"targetID": str(heir.id)})
            return None

        self._until(f"take the leadership from member {member_id:x}", handed_over, seconds, retried=("precondition",))

    def alarms(self) -> list[Alarm]:
        """All alarms that are raised. EtcdError if no member answers."""
        try:
            return self._alarms()
        except SilentError as exc:
            raise EtcdError(f"no member reports the alarms: {exc}.") from exc

    def _alarms(self) -> list[Alarm]:
        raised = self._call("maintenance/alarm", action="GET", memberID="0").get("alarms", [])
        return [Alarm(int(item.get("memberID", 0)), str(item.get("alarm", "NONE"))) for item in raised]

    def disarm(self, member_id: int, seconds: float, kinds: Sequence[str] = ()) -> None:
        """Disarm the alarms that a member has raised. kinds: those only. EtcdError if no member answers."""

        def disarmed() -> bool | None:
            for alarm in self._alarms():
                if alarm.member_id == member_id and alarm.kind in (kinds or [alarm.kind]):
                    self._call("maintenance/alarm", action="DEACTIVATE", memberID=str(member_id), alarm=alarm.kind)
            return True

        self._until(f"disarm the alarms of member {member_id:x}", disarmed, seconds, retried=())

    def _follows(self, member: Member, leader: int) -> bool:
        """Whether a member answers and knows this leader."""
        try:
            with EtcdClient(member.client_urls[0], *self.credentials, timeout=ANSWER / 2) as client:
                return client.status().leader == leader
        except EtcdUnreachableError:
            return False

    def _status(self, members: Sequence[Member]) -> Status:
        """What the first member that knows a leader says of itself. EtcdUnreachableError if none does."""
        failure = EtcdUnreachableError("no member knows a leader.", "unavailable")
        for member in members:
            if not member.started or member.is_learner:
                continue
            try:
                with EtcdClient(member.client_urls[0], *self.credentials, timeout=ANSWER / 2) as client:
                    status = client.status()
            except EtcdUnreachableError as exc:
                failure = exc
                continue
            if status.leader:
                return status
        raise failure

    def _until(self, what: str, attempt: Callable[[], T | None], seconds: float, retried: tuple[str, ...]) -> T:
        """Attempt something until it returns a value. What gets no answer of a quorum is repeated, refusals only if their code is in `retried`."""
        deadline = time.monotonic() + seconds
        while True:
            self._while_waiting()
            is_refused, said = False, ""
            try:
                result = attempt()
                if result is not None:
                    return result
                # The next attempt sees whether it has come about. It has, if etcd has answered.
                time.sleep(0.02)
                continue
            except SilentError as exc:
                said = str(exc)
            except EtcdUnreachableError as exc:
                said = str(exc).rstrip(".")
                is_refused = exc.code in ("precondition", "exhausted", "not-found", "grpc") and exc.code not in retried
            if is_refused or time.monotonic() > deadline:
                raise EtcdError(f"etcd does not {what}: {said}.")
            time.sleep(PAUSE)
