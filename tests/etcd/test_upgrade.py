"""Upgrades of etcd member by member: what etcd does, and whether the collection predicts it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from ansible_collections.kubeadm.etcd.plugins.module_utils._etcd.client import EtcdClient
from ansible_collections.kubeadm.etcd.plugins.module_utils._host.wal import count_beyond, unreadable_by_3_7
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.errors import EtcdError

from .conftest import Cluster, Make, Member, encoded, wait_until
from .test_membership import join, small, start_learner

OLD, MIDDLE, NEW = "3.5.35", "3.6.14", "3.7.3"
PANIC = "unmarshal should never fail"


def restart(cluster: Cluster, member: Member, version: str, **extra: str) -> None:
    """As the kubelet does when the manifest has changed."""
    member.signal(signal.SIGTERM)
    member.version = version
    cluster.start_as_published([member], **extra)


def roll(cluster: Cluster, version: str) -> None:
    """One member after the other, the leader last, until the cluster has agreed on its version."""
    for member in sorted(cluster.members, key=lambda item: item.leads()):
        restart(cluster, member, version)
        cluster.wait([member])
    wait_until(f"the cluster version is not {version[:3]}", lambda: cluster_version(cluster[0]) == f"{version[:3]}.0")


def cluster_version(member: Member) -> str:
    """As the member knows it."""
    with member.client() as client:
        return client.cluster_version()


def unreadable(cluster: Cluster) -> list[bool]:
    """Which members etcd 3.7 would not start on."""
    return [bool(unreadable_by_3_7(str(member.data))) for member in cluster.members]


def make_readable(cluster: Cluster, member: Member) -> None:
    """As the turn does it."""
    with member.client() as client:
        count = count_beyond(client.status().raft_applied_index, unreadable_by_3_7(str(member.data)))
    restart(cluster, member, MIDDLE, **{"snapshot-count": str(count)})
    cluster.wait([member])
    wait_until("no raft snapshot is newer", lambda: not unreadable_by_3_7(str(member.data)))


def panics(cluster: Cluster, member: Member) -> bool:
    """Whether 3.7 panics on the data of a member, in these words."""
    restart(cluster, member, NEW)
    wait_until("it is neither ready nor ended", lambda: not member.running or member.healthy())
    return not member.running and PANIC in member.log.read_text()


def fill(cluster: Cluster, count: int) -> None:
    """Writes by a few clients, as fast as possible."""

    def write(number: int) -> None:
        with cluster[0].client() as client:
            for _write in range(count // 8 + 1):
                client.call("kv/put", {"key": encoded(f"fill {number}"), "value": encoded("there")})

    writers = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()


@contextmanager
def writing(cluster: Cluster) -> Iterator[list[str]]:
    """A client writes through all members. At the end, all acknowledged writes are there."""
    acknowledged: list[str] = []
    stopped = threading.Event()

    def write() -> None:
        number = 0
        while not stopped.is_set():
            member = cluster[number % len(cluster.members)]
            number += 1
            try:
                with EtcdClient(member.endpoint, *member.files, timeout=2.0) as client:
                    client.call("kv/put", {"key": encoded(f"w{number}"), "value": encoded("there")})
            except EtcdError:
                continue
            acknowledged.append(f"w{number}")

    writer = threading.Thread(target=write)
    writer.start()
    try:
        yield acknowledged
    finally:
        stopped.set()
        writer.join()
    kept = set(cluster.etcdctl("get", "--prefix", "w", "--keys-only", endpoints=[cluster[0]]).split())
    assert len(acknowledged) > 100 and not set(acknowledged) - kept


def test_born_on_3_5_with_few_writes(make_cluster: Make) -> None:
    """3.7 panics, as predicted. The member goes back to 3.6, is restarted on it once more, and then 3.7 starts. The same for each member.

    A client writes all the time, and loses nothing.
    """
    cluster = make_cluster(3, OLD)
    cluster.found()
    with writing(cluster):
        roll(cluster, MIDDLE)
        assert unreadable(cluster) == [True, True, True]
        first = next(member for member in cluster.members if not member.leads())
        assert panics(cluster, first)
        restart(cluster, first, MIDDLE)
        cluster.wait()
        for member in cluster.members:
            if unreadable_by_3_7(str(member.data)):
                make_readable(cluster, member)
        assert unreadable(cluster) == [False, False, False]
        roll(cluster, NEW)
    assert cluster.agree()


@pytest.mark.long
def test_a_raft_snapshot_that_is_older_than_the_entries(make_cluster: Make) -> None:
    """With more than 512 KiB of log, a restart on 3.6 writes a raft snapshot in the middle of it, and 3.7 still panics."""
    cluster = make_cluster(3, OLD)
    cluster.found()
    for number in range(40):
        assert cluster[0].put(f"large {number}", "x" * 30000)
    # Each start of 3.5 writes an entry.
    roll(cluster, OLD)
    roll(cluster, MIDDLE)
    roll(cluster, MIDDLE)
    assert all(list((member.data / "member" / "snap").glob("*.snap")) for member in cluster.members)
    assert unreadable(cluster) == [True, True, True]
    first = next(member for member in cluster.members if not member.leads())
    assert panics(cluster, first)
    restart(cluster, first, MIDDLE)
    cluster.wait()
    for member in cluster.members:
        make_readable(cluster, member)
    roll(cluster, NEW)
    assert cluster.agree()


@pytest.mark.long
def test_3_7_does_not_join_beside_entries_of_3_5(make_cluster: Make) -> None:
    """The leader sends them to the new member, which panics. A leader with a later raft snapshot sends that instead."""
    cluster, joiners = small(make_cluster, OLD, 1, 2)
    restart(cluster, cluster[0], MIDDLE)
    cluster.wait()
    wait_until("the cluster has not 3.6", lambda: cluster_version(cluster[0]) == "3.6.0")
    assert unreadable(cluster) == [True]
    joiner = joiners[0]
    joiner.version = NEW
    acts, entry = start_learner(cluster, joiner)
    wait_until("it does not panic", lambda: PANIC in joiner.log.read_text() and not joiner.running)
    acts.remove(entry.id, 30)
    make_readable(cluster, cluster[0])
    joiner.lose()
    join(cluster, joiner)
    assert cluster.agree()


def test_etcd_3_7_starts_after_many_writes(make_cluster: Make) -> None:
    """After that many writes etcd has made a raft snapshot, and 3.7 can read the rest."""
    cluster = make_cluster(3, OLD)
    cluster.found()
    fill(cluster, 10100)
    # etcd writes its database first.
    wait_until("no raft snapshot is newer", lambda: not any(unreadable(cluster)))
    with writing(cluster):
        roll(cluster, MIDDLE)
        roll(cluster, NEW)
    assert cluster.agree()


def test_a_member_goes_back_to_its_former_version(make_cluster: Make) -> None:
    """A member may have its former version back until the last one has the new version and the cluster has agreed on it."""
    cluster = make_cluster(3, OLD)
    cluster.found()
    first, second, third = cluster.members
    for member in (first, second):
        restart(cluster, member, MIDDLE)
        cluster.wait([member])
    assert cluster_version(first) == "3.5.0"
    restart(cluster, first, OLD)
    cluster.wait()
    cluster.write("both ways")
    for member in (first, third):
        restart(cluster, member, MIDDLE)
        cluster.wait([member])
    wait_until("the cluster version is not 3.6", lambda: cluster_version(first) == "3.6.0")
    restart(cluster, first, OLD)
    assert "invalid downgrade" in first.last_words()
    restart(cluster, first, MIDDLE)
    cluster.wait()
    assert cluster.agree() and cluster.values("both ways") == ["there"] * 3


@pytest.mark.long
def test_born_on_3_6(make_cluster: Make) -> None:
    """Nothing to warn of. 3.7 goes back to 3.6 until the cluster version is 3.7."""
    cluster = make_cluster(3, MIDDLE)
    cluster.found()
    assert unreadable(cluster) == [False, False, False]
    first = cluster[0]
    restart(cluster, first, NEW)
    cluster.wait([first])
    restart(cluster, first, MIDDLE)
    cluster.wait()
    roll(cluster, NEW)
    restart(cluster, first, MIDDLE)
    assert 'version "3.7.0" is not supported' in first.last_words().replace("\\", "")
