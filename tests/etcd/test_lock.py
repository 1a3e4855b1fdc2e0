"""The cluster lock with real etcd: never two holders, even if members, holders or answers are lost."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from ansible_collections.kubeadm.etcd.plugins.module_utils._etcd import lock as _lock
from ansible_collections.kubeadm.etcd.plugins.module_utils._etcd.client import EtcdClient, EtcdUnreachableError
from ansible_collections.kubeadm.etcd.plugins.module_utils._etcd.lock import (
    ClusterLock,
    Holder,
    LockBusyError,
    LockLostError,
    LockRefusedError,
    LockUnconfirmedError,
    NoQuorumError,
    Record,
    cluster_lock,
)

from .conftest import ROOT, Cluster, Make, Member, other_versions_long, overfill, wait_until

# Short, but long enough for the renewing thread on a busy machine.
TTL = 5
KEY = "kubeadm.etcd/lock"

# A separate process. It takes the lock a number of times, and fails if another process has it too.
CONTENDER = """
import json, os, sys, time
sys.path[:0] = sys.argv[1:3]
from ansible_collections.kubeadm.etcd.plugins.module_utils._etcd.lock import Holder, cluster_lock
urls, files, inside, name, rounds, pause = json.loads(sys.argv[3])
for _ in range(rounds):
    with cluster_lock(urls, tuple(files), Holder(name, name, "test"), patience=30, ttl=5, poll=0.01) as lock:
        os.close(os.open(inside, os.O_CREAT | os.O_EXCL))
        print("inside", flush=True)
        time.sleep(pause)
        lock.check()
        os.unlink(inside)
print("done", flush=True)
"""


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is so slow here as a production cluster may be."""
    monkeypatch.setattr(_lock, "ELECTION", 5.0)
    monkeypatch.setattr(_lock, "ANSWER", 2.0)
    monkeypatch.setattr(_lock, "CONFIRM", 2.0)


def taken(
    cluster: Cluster,
    host: str = "infra0",
    urls: list[str] | None = None,
    patience: float = 0.0,
    ttl: int = TTL,
) -> contextlib.AbstractContextManager[ClusterLock]:
    """The lock, asked for at all members."""
    urls = [member.endpoint for member in cluster.members] if urls is None else urls
    return cluster_lock(urls, cluster[0].files, Holder(host, host, "test"), patience=patience, ttl=ttl, poll=0.1)


def contender(
    cluster: Cluster, name: str, rounds: int, pause: float = 0.002, inside: int | None = None
) -> subprocess.Popen[str]:
    """Start it. inside: a process in whose network it runs."""
    number = int(name[-1])
    enter = [] if inside is None else ["nsenter", f"--net=/proc/{inside}/ns/net"]
    urls = [member.endpoint for member in cluster.members[number:] + cluster.members[:number]]
    arguments = json.dumps([urls, cluster[0].files, str(cluster.directory / "inside"), name, rounds, pause])
    return subprocess.Popen(
        [*enter, sys.executable, "-c", CONTENDER, str(ROOT / ".collections"), str(ROOT), arguments],
        text=True,
        stdout=subprocess.PIPE,
    )


def standing(cluster: Cluster, member: Member | None = None) -> dict[str, Any] | None:
    """The value of the key, by a client that we did not write."""
    text = cluster.etcdctl("get", "--print-value-only", KEY, endpoints=None if member is None else [member])
    return json.loads(text) if text.strip() else None


def leader(cluster: Cluster) -> Member:
    return next(member for member in cluster.members if member.running and member.leads())


@other_versions_long
def test_one_at_a_time(make_cluster: Make, version: str) -> None:
    """Three runs, each asking another member first, take the lock 51 times."""
    cluster = make_cluster(3, version)
    cluster.found()
    begin = time.monotonic()
    runs = [contender(cluster, f"infra{number}", 17) for number in range(3)]
    said = [run.communicate(timeout=60)[0].split() for run in runs]
    assert said == [["inside"] * 17 + ["done"]] * 3
    assert time.monotonic() - begin < 30 and standing(cluster) is None


@other_versions_long
def test_the_key_names_the_holder_that_another_run_waits_for(make_cluster: Make, version: str) -> None:
    cluster = make_cluster(1, version)
    cluster.found()
    with taken(cluster, "infra0") as lock:
        value = standing(cluster)
        assert value is not None and (value["host"], value["ttl"]) == ("infra0", TTL)
        assert Record.parse(json.dumps(value)) == lock.record and value["since"].startswith("20")
        with pytest.raises(LockBusyError, match="host infra0, which works on member infra0") as raised, taken(
            cluster, "infra1", patience=0.5
        ):
            pass
        assert raised.value.record == lock.record
        lock.check()
    assert standing(cluster) is None and cluster.etcdctl("lease", "list").split() == ["found", "0", "leases"]


def test_a_holder_that_was_killed(make_cluster: Make) -> None:
    cluster = make_cluster(3, "3.6.14")
    cluster.found()
    holder = contender(cluster, "infra1", 1, pause=60)
    assert holder.stdout and holder.stdout.readline() == "inside\n"
    time.sleep(TTL)
    begin = time.monotonic()
    holder.kill()
    holder.wait()
    with taken(cluster, patience=30) as lock:
        lock.check()
        # Renewed every 0.8 s until it was killed; etcd looks for leases that have ended twice a second.
        assert TTL - 2 < time.monotonic() - begin < TTL + 3


@pytest.mark.long
def test_a_holder_that_was_suspended(make_cluster: Make) -> None:
    """Another run gets the lock. The suspended one notices this before its next act."""
    cluster = make_cluster(3, "3.6.14")
    cluster.found()
    holder = contender(cluster, "infra1", 1, pause=1)
    assert holder.stdout and holder.stdout.readline() == "inside\n"
    holder.send_signal(signal.SIGSTOP)
    with taken(cluster, patience=30) as lock:
        holder.send_signal(signal.SIGCONT)
        assert holder.wait(30) != 0
        lock.check()
    assert "done" not in holder.stdout.read()


@other_versions_long
def test_the_holders_own_member_restarts(make_cluster: Make, version: str) -> None:
    cluster = make_cluster(3, version)
    cluster.found()
    with taken(cluster) as lock:
        cluster[0].signal(signal.SIGKILL)
        lock.check()
        time.sleep(TTL + 2)
        lock.check()
        cluster.start_as_published([cluster[0]])
        lock.check()
        cluster.wait()
        lock.check()
        value = standing(cluster)
        assert value is not None and value["nonce"] == lock.record.nonce


@other_versions_long
def test_one_leader_after_the_other_is_killed(make_cluster: Make, version: str) -> None:
    """No check fails during the elections, and no other run gets in."""
    cluster = make_cluster(3, version)
    cluster.found()
    waiting = None
    try:
        with taken(cluster) as lock:
            waiting = contender(cluster, "infra1", 1)
            for _number in range(3):
                killed = leader(cluster)
                killed.signal(signal.SIGKILL)
                lock.check()
                wait_until(
                    "no new leader", lambda: any(m.running and m.healthy() and m.leads() for m in cluster.members)
                )
                lock.check()
                cluster.start_as_published([killed])
                cluster.wait()
                lock.check()
            assert waiting.poll() is None
        assert waiting.communicate(timeout=30)[0].split() == ["inside", "done"]
    finally:
        if waiting:
            waiting.kill()


@pytest.mark.parametrize(
    ("version", "count"),
    [
        ("3.6.14", 1),
        *(pytest.param(version, 1, marks=pytest.mark.long) for version in ("3.5.35", "3.7.3")),
        ("3.6.14", 2),
    ],
)
def test_a_cluster_that_stops_while_its_member_restarts(make_cluster: Make, version: str, count: int) -> None:
    """The lock survives, although the lease was not renewed for longer than it lasts."""
    cluster = make_cluster(count, version)
    cluster.found()
    with taken(cluster) as lock:
        cluster[0].signal(signal.SIGKILL)
        lock.check()
        time.sleep(TTL + 3)
        with pytest.raises(LockUnconfirmedError, match="no member has confirmed"):
            lock.check(patience=0.5)
        with pytest.raises(NoQuorumError, match="infra1"), taken(cluster, "infra1"):
            pass
        cluster.start_as_published([cluster[0]])
        lock.check(patience=30)
        with pytest.raises(LockBusyError), taken(cluster, "infra1"):
            pass
        value = standing(cluster)
        assert value is not None and value["nonce"] == lock.record.nonce


def test_no_lock_without_quorum(make_cluster: Make) -> None:
    cluster = make_cluster(3, "3.6.14")
    cluster.found()
    for member in cluster.members[1:]:
        member.signal(signal.SIGKILL)
    begin = time.monotonic()
    with pytest.raises(NoQuorumError, match="the cluster has no quorum"), taken(cluster):
        pass
    assert time.monotonic() - begin < 30
    cluster.start_as_published(cluster.members[1:])
    cluster.wait()
    with taken(cluster, patience=20) as lock:
        lock.check()


def check_for_ever(lock: ClusterLock) -> None:
    while True:
        lock.check(patience=0)


@contextlib.contextmanager
def cut_off(member: int) -> Iterator[None]:
    """Take a member off the network: packets to it are lost."""
    subprocess.run(["ip", "link", "set", f"m{member}", "down"], check=True)
    try:
        yield
    finally:
        subprocess.run(["ip", "link", "set", f"m{member}", "up"], check=True)


@pytest.mark.long
def test_a_minority_that_is_cut_off(make_cluster: Make) -> None:
    """The holder continues with the majority, even if its member is in the minority. A minority gives no lock."""
    cluster = make_cluster(3, "3.6.14")
    cluster.found()
    number = cluster.members.index(leader(cluster))
    with taken(cluster, urls=[cluster[(number + i) % 3].endpoint for i in range(3)], ttl=12) as lock:
        with cut_off(number):
            lock.check()
            time.sleep(13)
            lock.check()
            with pytest.raises(NoQuorumError), taken(cluster, urls=[cluster[number].endpoint]):
                pass
        lock.check()
    cluster.wait()


def test_a_holder_that_reaches_no_member(make_cluster: Make) -> None:
    """Its check fails before another run, on the other side, has the lock."""
    cluster = make_cluster(1, "3.6.14")
    cluster.found()
    with taken(cluster) as lock:
        with cut_off(0):
            cut = time.monotonic()
            waiting = contender(cluster, "infra0", 1, inside=cluster[0].namespace)
            with pytest.raises(LockUnconfirmedError, match="no member has confirmed"):
                check_for_ever(lock)
            assert time.monotonic() - cut < TTL + 2 and not (cluster.directory / "inside").exists()
            assert waiting.communicate(timeout=30)[0].split() == ["inside", "done"]
        with pytest.raises(LockLostError, match="its lease has expired"):
            lock.check(patience=10)


def test_a_key_that_was_deleted_by_hand(make_cluster: Make) -> None:
    cluster = make_cluster(1, "3.6.14")
    cluster.found()
    with taken(cluster) as lock:
        cluster.etcdctl("del", KEY)
        with taken(cluster, "infra1") as second:
            with pytest.raises(LockLostError, match=r"another run holds it now .host infra1"):
                lock.check()
            second.check()
        with pytest.raises(LockLostError):
            lock.check()


# --- Alarms -----------------------------------------------------------------------------------------------------------


@other_versions_long
def test_the_lock_under_alarm_nospace(make_cluster: Make, version: str) -> None:
    """A lock that is held stays, and a new one is refused. etcd still accepts some writes, but none that expires."""
    cluster = make_cluster(1, version)
    cluster.found(**{"quota-backend-bytes": "2000000"})
    with taken(cluster) as lock:
        overfill(cluster[0])
        assert "NOSPACE" in cluster.etcdctl("alarm", "list")
        time.sleep(TTL + 1)
        lock.check()
        with pytest.raises(LockBusyError), taken(cluster, "infra1"):
            pass
    assert standing(cluster) is None
    with pytest.raises(LockRefusedError, match="alarm NOSPACE") as raised, taken(cluster, "infra1"):
        pass
    assert raised.value.alarm == "NOSPACE"
    # etcd still allows to add a role, but a role as lock would outlive a killed run.
    cluster.etcdctl("role", "add", "lock")
    # The turn that raises the quota goes without a lock. The alarm ends by hand.
    cluster[0].signal(signal.SIGTERM)
    cluster.start_as_published(**{"quota-backend-bytes": "20000000"})
    cluster.wait()
    cluster.etcdctl("alarm", "disarm")
    with taken(cluster) as lock:
        lock.check()


@other_versions_long
def test_the_lock_under_alarm_corrupt(make_cluster: Make, version: str) -> None:
    """The key of a turn that has ended cannot be removed, and is not mistaken for that of an active run."""
    cluster = make_cluster(1, version)
    cluster.found()
    alarm = {"memberID": "0", "alarm": "CORRUPT"}
    with cluster[0].client() as client, taken(cluster) as lock:
        client.call("maintenance/alarm", {"action": "ACTIVATE", **alarm})
        time.sleep(TTL + 1)
        lock.check()
        with pytest.raises(LockBusyError), taken(cluster, "infra1"):
            pass
    assert standing(cluster) is not None
    with pytest.raises(LockRefusedError, match="has expired, and etcd cannot delete it") as raised, taken(
        cluster, "infra1", patience=20
    ):
        pass
    assert raised.value.alarm == "CORRUPT"
    with cluster[0].client() as client:
        client.call("maintenance/alarm", {"action": "DEACTIVATE", **alarm})
        with taken(cluster, "infra1", patience=20) as lock:
            client.call("maintenance/alarm", {"action": "ACTIVATE", **alarm})
            lock.check()
            client.call("maintenance/alarm", {"action": "DEACTIVATE", **alarm})
        with taken(cluster):
            client.call("maintenance/alarm", {"action": "GET"})


# --- Lost answers -----------------------------------------------------------------------------------------------------


class Lossy(EtcdClient):
    """Does what it is asked to, and loses the first answers."""

    losses: dict[str, int]

    def call(self, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        answer = super().call(path, body)
        if self.losses.get(path, 0) > 0:
            self.losses[path] -= 1
            raise EtcdUnreachableError(f"{self.endpoint} does not answer in time.", "timeout")
        return answer


def test_the_lock_in_spite_of_lost_answers(make_cluster: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers of one or all members are lost once or twice. The lock is taken once, without waiting for a lease to expire, and released."""
    cluster = make_cluster(3, "3.6.14")
    cluster.found()
    monkeypatch.setattr(_lock, "EtcdClient", Lossy)
    for path in ("lease/grant", "kv/txn", "lease/revoke", "kv/range", "lease/keepalive"):
        for losses in (1, 3, 4):
            monkeypatch.setattr(Lossy, "losses", {path: losses}, raising=False)
            begin = time.monotonic()
            with taken(cluster, ttl=60) as lock:
                lock.check()
                value = standing(cluster)
                assert value is not None and value["nonce"] == lock.record.nonce
            assert Lossy.losses[path] < losses and time.monotonic() - begin < 30
            assert standing(cluster) is None


@other_versions_long
def test_an_attempt_whose_outcome_comes_late(make_cluster: Make, monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    """The transaction is asked for without a quorum, which comes back a moment later."""
    cluster = make_cluster(3, version)
    cluster.found()
    asked = leader(cluster)
    others = [member for member in cluster.members if member is not asked]
    stopped = []

    class Late(EtcdClient):
        def call(self, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
            if path != "kv/txn" or stopped:
                return super().call(path, body)
            stopped.append(path)
            for member in others:
                member.signal(signal.SIGSTOP)
            try:
                self.timeout = 0.3
                return super().call(path, body)
            finally:
                for member in others:
                    member.signal(signal.SIGCONT)

    monkeypatch.setattr(_lock, "EtcdClient", Late)
    with taken(cluster, urls=[asked.endpoint], patience=2) as lock:
        assert stopped
        lock.check()
        value = standing(cluster)
        assert value is not None and value["nonce"] == lock.record.nonce
    assert standing(cluster) is None


@pytest.mark.long
def test_an_attempt_that_is_applied_after_we_gave_up(make_cluster: Make) -> None:
    """Its lease is gone by then, so it fails, and the lock is free."""
    cluster = make_cluster(1, "3.6.14")
    cluster.found()
    with taken(cluster) as lock:
        value, lease = lock.record.dump(), lock.lease
    with cluster[0].client() as client, pytest.raises(EtcdUnreachableError, match="lease not found"):
        client.call("kv/put", {"key": _lock.encode(KEY), "value": _lock.encode(value), "lease": str(lease)})
    assert Record.parse(value) == lock.record and standing(cluster) is None
