# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The cluster lock: a run holds it while it changes a member, so that two members of a cluster never change at the same time.

The lock is one key in etcd itself, under a lease that a thread keeps alive. It is taken by a transaction that requires that the key
does not exist, and it ends with the lease: by revocation, or `ttl` seconds after its holder has died.

The key is the truth, the lease is only its timer:

* The lock is ours if a linearizable read shows the key with our nonce. Any request may be repeated, because its outcome is read again:
  the id of the lease and the nonce are chosen here. A transaction that is applied late, after we gave up, fails because its lease is gone.
* The lock is lost if a linearizable read shows the key without our nonce.
* A confirmation is a renewed lease and a read of our key after it. It holds from the moment *before* its first request was sent. The
  lock counts as held for two thirds of `ttl` from then on. The last third is for the act that follows a check to take effect.
* If no member answers for longer than that, the lock is *unconfirmed*, which is not the same as lost. A quorum that we cannot reach may have
  given it to another run. If there is no quorum at all, no lease ends and no transaction succeeds, and the next leader gives every lease
  its full `ttl` again (lessor.Promote in server/lease/lessor.go). So a cluster of one or two members, which stops while a turn restarts a
  member, comes back with the lock as it was, however long that took, and the next check confirms it. The two cases look alike from here:
  a turn whose cluster needs its own member for a quorum may wait with check(patience=...), any other turn stops.

Alarms: with NOSPACE, etcd refuses leases and keys, but reads, renews and revokes them. With CORRUPT, it refuses to revoke them too, so a
key whose holder has ended stays until the alarm is disarmed. Both seen with etcd 3.5, 3.6 and 3.7 (tests/etcd/test_lock.py). The writes
that etcd still takes under NOSPACE and that succeed only once, such as adding a role, do not end with their holder: a run that is killed
would lock the cluster for ever. So there is no lock then (LockRefusedError), and a turn that raises the quota has its gate only.
"""

from __future__ import annotations

import base64
import contextlib
import json
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from typing import Any

from ansible_collections.kubeadm.etcd.plugins.module_utils._etcd.client import EtcdClient, EtcdUnreachableError
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.errors import EtcdError
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.formats import object_in

# Kubernetes has its keys under /registry.
KEY = "kubeadm.etcd/lock"

# An act may still take effect this long after its holder has died: the kubelet sees a new manifest within 20 s, and gives the old pod 30 s.
TTL = 60

# How long to wait for another holder: long enough for several turns of other members, and for the lock of a run that has died.
PATIENCE = 300.0

POLL = 0.5

# Timeout for one answer of one member.
ANSWER = 3.0

# If no member answers for this long, there is no quorum. An election takes about 2 s.
ELECTION = 10.0

# How long a check waits for a confirmation, and a release for its answer.
CONFIRM = 6.0

# The lease is renewed this many times in the time for which one confirmation holds.
BEATS = 4

# Codes of EtcdUnreachableError that are the decision of a quorum. After any other code, the next member is asked.
_DECIDED = ("not-found", "precondition", "exhausted", "out-of-range", "grpc")


class LockError(EtcdError):
    """The cluster lock is not held."""


class LockBusyError(LockError):
    """Other runs have held the lock for the whole waiting time. record: of the last one."""

    def __init__(self, text: str, record: Record) -> None:
        super().__init__(text)
        self.record = record


class NoQuorumError(LockError):
    """No reachable member has a quorum, so the lock cannot be taken."""


class LockRefusedError(LockError):
    """etcd refuses the lock to every run because of an alarm (NOSPACE or CORRUPT)."""

    def __init__(self, text: str, alarm: str) -> None:
        super().__init__(text)
        self.alarm = alarm


class LockLostError(LockError):
    """The lock was held, and is not held any more: stop before the next act."""


class LockUnconfirmedError(LockLostError):
    """No member has confirmed the lock for too long. Another run may hold it, unless the whole cluster is down (see above)."""


class SilentError(Exception):
    """No member answered. The text has the error of each."""


def clock() -> float:
    """Seconds that also pass while the host is suspended, as they do for the lease."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@dataclass(frozen=True)
class Holder:
    """Who asks for the lock. host: where the module runs. purpose: what the turn does, for people."""

    host: str
    member: str
    purpose: str


@dataclass(frozen=True)
class Record:
    """The value of the key. since: UTC, by the holder's clock. nonce: new each time that the lock is taken."""

    host: str
    member: str
    purpose: str
    since: str
    ttl: int
    nonce: str

    def dump(self) -> str:
        """As JSON."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def parse(cls, text: str) -> Record:
        """From JSON. Accepts any text, since a person may have written the key; missing fields are "unknown"."""
        try:
            data = object_in(text)
        except ValueError:
            data = {}
        known = {name: str(data.get(name, "unknown")) for name in ("host", "member", "purpose", "since", "nonce")}
        ttl = data.get("ttl")
        return cls(ttl=ttl if isinstance(ttl, int) else TTL, **known)

    def __str__(self) -> str:
        return f"host {self.host}, which works on member {self.member} ({self.purpose}) since {self.since}"


@dataclass(frozen=True)
class Standing:
    """The present value of the key in etcd, and the lease that it expires with (0: none)."""

    record: Record
    lease: int


def encode(text: str) -> str:
    """A key or a value in the encoding of the gateway."""
    return base64.b64encode(text.encode()).decode()


def read_standing(answer: Mapping[str, Any]) -> Standing | None:
    """The key in the answer to a range request; None if it does not exist."""
    for item in answer.get("kvs", []):
        text = base64.b64decode(item.get("value", "")).decode("utf-8", errors="replace")
        return Standing(Record.parse(text), int(item.get("lease", 0)))
    return None


class Members:
    """All members as one server. The member that answered last is asked first.

    Each request uses a new connection, so certificates may be replaced while the lock is held, and threads share nothing.
    """

    def __init__(self, urls: Sequence[str], credentials: tuple[str, str, str]) -> None:
        self.urls = list(urls)
        self.credentials = credentials

    def call(self, path: str, body: Mapping[str, Any], deadline: float) -> dict[str, Any]:
        """One call of the gateway. EtcdUnreachableError if a quorum has refused it, SilentError if no member answers in time."""
        answers = []
        urls = self.urls
        for number, url in enumerate(urls):
            left = deadline - clock()
            if left <= 0:
                break
            # Leave time to ask the next member if this one is silent.
            timeout = min(ANSWER, left / 2 if url != urls[-1] else left)
            try:
                with EtcdClient(url, *self.credentials, timeout=timeout) as client:
                    answer = client.call(path, body)
            except EtcdUnreachableError as exc:
                if exc.code in _DECIDED:
                    raise
                answers.append(str(exc).rstrip("."))
                continue
            if "error" in answer:
                # Streaming calls such as lease/keepalive return errors in this form.
                answers.append(f"{url}: {answer['error'].get('message')}")
                continue
            self.urls = urls[number:] + urls[:number]
            return answer
        raise SilentError("; ".join(answers) or "no time is left to ask any member")

    def read(self, deadline: float) -> Standing | None:
        """The key, by a linearizable read."""
        return read_standing(self.call("kv/range", {"key": encode(KEY)}, deadline))

    def alarms(self, deadline: float) -> list[str]:
        """Kinds of the alarms that are raised."""
        return [str(item.get("alarm")) for item in self.call("maintenance/alarm", {}, deadline).get("alarms", [])]


def at_work(urls: Sequence[str], credentials: tuple[str, str, str]) -> list[str]:
    """Which run holds the lock, as a sentence for a run that waits in vain. Empty if none does, or if no member tells. urls, credentials: as for
    cluster_lock."""
    try:
        standing = Members(urls, credentials).read(clock() + CONFIRM)
    except (EtcdError, SilentError):
        return []
    return [f"Another run holds the cluster lock ({standing.record}). Run again when it has ended."] if standing else []


class ClusterLock:
    """The lock of one turn. Use cluster_lock, which releases it."""

    def __init__(self, members: Members, holder: Holder, ttl: int) -> None:
        self.members = members
        self.ttl = ttl
        self.record = Record(**asdict(holder), since="", ttl=ttl, nonce=secrets.token_hex(8))
        # etcd's ids are positive. 0: no lease was asked for yet.
        self.lease = 0
        self._granted = False
        # When the first request of the last confirmation was sent.
        self._confirmed = 0.0
        self._lost = ""
        self._answer = ""
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="cluster-lock", daemon=True)

    # --- Taking it -------------------------------------------------------------------------------------------------

    def _acquire(self, patience: float, poll: float, while_waiting: Callable[[], None]) -> None:
        begin = heard = clock()
        while True:
            while_waiting()
            standing = None
            try:
                standing = self._attempt()
                heard = clock()
                if standing and standing.record.nonce == self.record.nonce:
                    if self._start(standing):
                        return
                    standing = None
                if standing:
                    self._check_expiry(standing)
            except EtcdUnreachableError as exc:
                # NOSPACE, CORRUPT, or something that passes, such as too many requests.
                self._answer = str(exc)
                with contextlib.suppress(EtcdUnreachableError, SilentError):
                    self._check_alarms(self._answer)
            except SilentError as exc:
                self._answer = str(exc)
            if clock() - heard > ELECTION:
                raise NoQuorumError(
                    f"{self.record.host}: the cluster lock cannot be taken, because the cluster has no quorum: {self._answer}."
                    " Run health.yml to see which members are down, start them, and run again."
                )
            if standing and clock() - begin >= patience:
                raise LockBusyError(self._busy(standing, clock() - begin), standing.record)
            time.sleep(poll)

    def _start(self, standing: Standing) -> bool:
        """Start renewing the lease, and return True; False if it has expired already, because it was granted long before the key was free."""
        self.record, self.lease = standing.record, standing.lease
        # If no member answers now, check() judges by the time of the grant.
        self._beat(clock() + CONFIRM)
        if self._lost:
            self._lost, self._granted = "", False
            return False
        self._thread.start()
        return True

    def _attempt(self) -> Standing | None:
        """The key, after an attempt to put ours if there was none. None: try again. As Members.call otherwise."""
        deadline = clock() + ELECTION
        standing = self.members.read(deadline)
        if standing:
            return standing
        if not self._granted:
            self._grant(deadline)
        now = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC")
        self.record = replace(self.record, since=now, ttl=self.ttl)
        body = {
            "compare": [{"key": encode(KEY), "target": "CREATE", "result": "EQUAL", "create_revision": "0"}],
            "success": [
                {"request_put": {"key": encode(KEY), "value": encode(self.record.dump()), "lease": str(self.lease)}}
            ],
            "failure": [{"request_range": {"key": encode(KEY)}}],
        }
        try:
            answer = self.members.call("kv/txn", body, deadline)
        except EtcdUnreachableError as exc:
            if exc.code != "not-found":
                raise
            # The lease has expired during the wait.
            self._granted = False
            return None
        if answer.get("succeeded"):
            return Standing(self.record, self.lease)
        return read_standing(answer["responses"][0]["response_range"])

    def _grant(self, deadline: float) -> None:
        self.lease = 1 + secrets.randbits(62)
        self._confirmed = clock()
        try:
            answer = self.members.call("lease/grant", {"ID": str(self.lease), "TTL": str(self.ttl)}, deadline)
            # etcd grants a longer TTL if its election timeout is long.
            self.ttl = max(self.ttl, int(answer.get("TTL", 0)))
        except EtcdUnreachableError as exc:
            # The id exists: it is from our own request, whose answer was lost.
            if exc.code != "precondition":
                raise
        self._granted = True

    def _check_alarms(self, answer: str) -> None:
        """LockRefusedError if a request was refused because of an alarm."""
        raised = self.members.alarms(clock() + ANSWER)
        for alarm in ("CORRUPT", "NOSPACE"):
            if alarm in raised:
                raise LockRefusedError(
                    f"{self.record.host}: the cluster lock cannot be taken: etcd refuses all writes while alarm {alarm} is raised. {answer}",
                    alarm,
                )

    def _check_expiry(self, standing: Standing) -> None:
        """LockRefusedError if the holder has ended, and etcd does not remove its key because of the alarm CORRUPT."""
        answer = self.members.call("lease/timetolive", {"ID": str(standing.lease)}, clock() + ANSWER)
        if int(answer.get("TTL", 0)) <= 0 and "CORRUPT" in self.members.alarms(clock() + ANSWER):
            self._check_alarms(f"The lock of {standing.record} has expired, and etcd cannot delete it.")

    def _busy(self, standing: Standing, waited: float) -> str:
        return (
            f"{self.record.host}: another run holds the cluster lock ({standing.record}), so this run changes no member. It waited"
            f" {waited:.0f} s. Run again when the other run has ended. If that run has died, its lock expires {standing.record.ttl} s later,"
            " provided that the cluster has a leader."
        )

    # --- Keeping it ------------------------------------------------------------------------------------------------

    @property
    def _valid_until(self) -> float:
        return self._confirmed + self.ttl * 2 / 3

    def _keep(self) -> None:
        pause = self.ttl * 2 / 3 / BEATS
        while not self._ended.wait(pause if self._beat(clock() + pause) else min(1.0, pause)):
            pass

    def _beat(self, deadline: float) -> bool:
        """Ask for a confirmation, and return whether it came."""
        sent = clock()
        try:
            answer = self.members.call("lease/keepalive", {"ID": str(self.lease)}, deadline)
            standing = self.members.read(deadline)
        except (EtcdUnreachableError, SilentError) as exc:
            self._answer = str(exc)
            return False
        if standing is None:
            self._lost = "its lease has expired, or its key was deleted"
            return False
        if standing.record.nonce != self.record.nonce:
            self._lost = f"another run holds it now ({standing.record})"
            return False
        # A newly elected leader may not know an existing lease yet.
        if int(answer.get("result", {}).get("TTL", 0)) <= 0:
            return False
        self._confirmed = max(self._confirmed, sent)
        return True

    def check(self, patience: float = CONFIRM) -> None:
        """Return if the lock is held; call this before each act. LockLostError or LockUnconfirmedError if not.

        Asks the cluster. If no member answers, the time since the last confirmation decides. If that is too long, it asks again for
        `patience` seconds: the time that a cluster may need to come up.
        """
        deadline = clock() + patience
        while True:
            self._beat(max(deadline, clock() + POLL))
            if self._lost:
                raise LockLostError(
                    f"{self.record.host}: the cluster lock was lost while {self.record.member} was being changed: {self._lost}. Another run"
                    " may change a member now, so this run stops. Run again when no other run is active."
                )
            if clock() < self._valid_until:
                return
            if clock() > deadline:
                raise LockUnconfirmedError(
                    f"{self.record.host}: no member has confirmed the cluster lock for {clock() - self._confirmed:.0f} s, and it expires after"
                    f" {self.ttl} s: {self._answer}. Another run may hold it now. Run health.yml to see which members are down."
                )
            time.sleep(POLL)

    def release(self) -> bool:
        """Release the lock, and return whether that is certain. If not, it expires after `ttl` seconds."""
        self._ended.set()
        released = not self.lease
        deadline = clock() + CONFIRM
        while not released and clock() < deadline:
            try:
                self.members.call("lease/revoke", {"ID": str(self.lease)}, deadline)
                released = True
            except EtcdUnreachableError as exc:
                released = exc.code == "not-found"
            except SilentError:
                pass
            if not released:
                time.sleep(POLL)
        if self._thread.is_alive():
            self._thread.join(ANSWER)
        return released


def _nothing() -> None:
    """The default for while_waiting."""


@contextlib.contextmanager
def cluster_lock(
    urls: Sequence[str],
    credentials: tuple[str, str, str],
    holder: Holder,
    patience: float = PATIENCE,
    ttl: int = TTL,
    poll: float = POLL,
    while_waiting: Callable[[], None] = _nothing,
) -> Iterator[ClusterLock]:
    """Hold the lock of a cluster. Call check() of the yielded lock before each act.

    urls: client URLs of all members. Any of them will do, so the member that restarts is not needed. credentials: files of CA, certificate
    and key. patience: how long to wait for another holder, in seconds. ttl: seconds after which the lock of a dead holder expires.
    while_waiting: called before each attempt; an exception from it ends the wait.
    LockBusyError, NoQuorumError or LockRefusedError if it cannot be taken.
    """
    lock = ClusterLock(Members(urls, credentials), holder, ttl)
    try:
        lock._acquire(patience, poll, while_waiting)
        yield lock
    finally:
        lock.release()
