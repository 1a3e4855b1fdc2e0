"""A member whose volume is not mounted: with only itself in initial-cluster, etcd does not start, even if the others run."""

from __future__ import annotations

import signal
import time

import pytest
from ansible_collections.kubeadm.etcd.plugins.module_utils._etcd.membership import entry_of
from ansible_collections.kubeadm.etcd.plugins.module_utils._host.wal import read_wal
from ansible_collections.kubeadm.etcd.plugins.module_utils._member.turn import peers_of
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.members import urls_while_joining

from .conftest import Cluster, Make, each_version, other_versions_long, peer_url, takes_no_write, wait_until
from .test_membership import join, membership, small, start_learner

REFUSED = "cannot fetch cluster info"


def whole(cluster: Cluster, *keys: str) -> bool:
    """Whether all members run, agree, and have all that was acknowledged."""
    cluster.wait()
    return cluster.agree() and all(set(cluster.values(key)) == {"there"} for key in keys)


@each_version
@pytest.mark.parametrize("count", [1, 3, 5])
def test_all_start_again_after_a_power_cut(make_cluster: Make, version: str, count: int) -> None:
    cluster = make_cluster(count, version)
    cluster.found()
    cluster.write("before")
    ids = cluster.etcdctl("member", "list")
    cluster.power_cut()
    cluster.start_as_published()
    assert whole(cluster, "before") and cluster.etcdctl("member", "list") == ids


@each_version
def test_one_of_three_without_its_data_while_the_others_run(make_cluster: Make, version: str) -> None:
    cluster = make_cluster(3, version)
    cluster.found()
    cluster[1].signal(signal.SIGKILL)
    cluster[1].lose()
    cluster.start_as_published([cluster[1]])
    assert REFUSED in cluster[1].last_words()
    cluster.write("meanwhile")
    cluster[1].find()
    cluster.start_as_published([cluster[1]])
    assert whole(cluster, "meanwhile")


@each_version
def test_one_of_three_without_its_data_after_a_power_cut_and_another_a_write_behind(
    make_cluster: Make, version: str
) -> None:
    """The write is on the lost volume and on the member that starts last. The first two members must not form a quorum without it."""
    cluster = make_cluster(3, version)
    first, lost, behind = cluster.members
    cluster.found()
    behind.signal(signal.SIGKILL)
    cluster.write("acknowledged")
    cluster.power_cut()
    lost.lose()
    cluster.start_as_published([lost, behind])
    assert REFUSED in lost.last_words() and takes_no_write([lost, behind])
    cluster.start_as_published([first])
    cluster.wait([first, behind])
    assert cluster.values("acknowledged") == ["there", "there"]
    lost.find()
    cluster.start_as_published([lost])
    assert whole(cluster, "acknowledged")


@each_version
def test_one_two_or_all_members_without_their_data_after_a_power_cut(make_cluster: Make, version: str) -> None:
    """Members that start empty do not found a cluster. With the volumes back, all writes are there."""
    cluster = make_cluster(3, version)
    cluster.found()
    for lost in (1, 2, 3):
        cluster.write(f"acknowledged {lost}")
        empty = cluster.members[:lost]
        cluster.power_cut()
        for member in empty:
            member.lose()
        cluster.start_as_published()
        assert all(REFUSED in member.last_words() for member in empty)
        # One of three has no quorum, and its own membership may be out of date.
        assert lost == 1 or takes_no_write(cluster.members, 2.0)
        for member in empty:
            member.find()
        cluster.start_as_published(empty)
        assert whole(cluster, *(f"acknowledged {number}" for number in range(1, lost + 1)))


@each_version
def test_the_only_member_without_its_data(make_cluster: Make, version: str) -> None:
    cluster = make_cluster(1, version)
    cluster.found()
    cluster.write("acknowledged")
    cluster.power_cut()
    cluster[0].lose()
    cluster.start_as_published()
    assert REFUSED in cluster[0].last_words()
    # The failed start leaves an empty database, which does not count as data.
    assert read_wal(str(cluster[0].data)) is None
    cluster[0].find()
    cluster.start_as_published()
    assert whole(cluster, "acknowledged")


JOINED = "no match found for existing member"


@each_version
def test_a_member_that_has_joined_and_not_restarted_since(make_cluster: Make, version: str) -> None:
    """Its manifest has the full list, and the kubelet restarts etcd with it even if the data directory is empty. It does not join empty."""
    cluster, joiners = small(make_cluster, version, 2, 3)
    lost = joiners[0]
    join(cluster, lost)
    # The cluster lock is released after a join. A member learns with that write that the change of the peer URLs is committed.
    cluster.write("released")
    wait_until("it lags", lambda: cluster.values("released") == ["there"] * 3)
    cluster[1].signal(signal.SIGKILL)
    cluster.write("acknowledged")
    cluster.power_cut()
    lost.lose()
    # As in test_why_the_full_list_will_not_do: the member that has the write comes last.
    cluster.start_as_published([cluster[1]])
    # etcd 3.5 reads the changes of the membership from its log when it starts. For some milliseconds, it tells the membership of the join.
    time.sleep(1.0)

    for _attempt in range(3):
        if not lost.running:
            lost.start("existing", [])
            lost.last_words()
    assert takes_no_write([lost, cluster[1]])
    cluster.start_as_published([cluster[0]])
    cluster.wait(cluster.members[:2])
    leader, other = sorted(cluster.members[:2], key=lambda member: not member.leads())
    number = next(entry.id for entry in membership(cluster).members() if entry.name == other.name)
    # An empty member that gets further than this one panics until the leader changes.
    for act in (lambda: None, lambda: cluster.etcdctl("move-leader", f"{number:x}", endpoints=[leader])):
        act()
        lost.start("existing", [])
        assert JOINED in lost.last_words().rsplit("cannot", 1)[-1]
    assert cluster.values("acknowledged") == ["there", "there"]
    lost.find()
    lost.start("existing", [])
    assert whole(cluster, "acknowledged")


@other_versions_long
def test_a_learner_without_its_data(make_cluster: Make, version: str) -> None:
    """A learner may restart until it has its data. After that it does not join empty, promoted or not."""
    cluster, joiners = small(make_cluster, version, 3, 4)
    lost = joiners[0]
    acts, entry = start_learner(cluster, lost)
    lost.signal(signal.SIGKILL)
    lost.start("existing", [])
    acts.promote(entry.id, [peer_url(lost.name)], 60)
    lost.signal(signal.SIGKILL)
    lost.lose()
    lost.start("existing", [])
    assert JOINED in lost.last_words()
    lost.find()
    lost.start("existing", [])
    cluster.members.append(lost)
    cluster.names.append(lost.name)
    assert whole(cluster, "a third")


@other_versions_long
def test_a_member_that_a_killed_first_run_has_left_unstarted(make_cluster: Make, version: str) -> None:
    """It is started with the full list too, and has the further URL until it runs, as the turn does it."""
    cluster = make_cluster(3, version)
    late = cluster[2]
    for member in cluster.members[:2]:
        member.start("new", cluster.names)
    cluster.wait(cluster.members[:2])
    urls = [peer_url(late.name)]
    with cluster[0].client() as client:
        listed = client.members()
        entry = entry_of(listed, late.name, urls)
        assert entry and not entry.started and not entry.is_learner
        client.update_member(entry.id, urls_while_joining(urls))
        late.peers = peers_of(client.members(linearizable=True), entry.id, late.name)
        late.start("existing", cluster.names)
        cluster.wait()
        client.update_member(entry.id, urls)
    cluster.write("acknowledged")
    late.signal(signal.SIGKILL)
    late.lose()
    late.start("existing", cluster.names)
    assert JOINED in late.last_words()
    late.find()
    late.start("existing", cluster.names)
    assert whole(cluster, "acknowledged")


@each_version
def test_why_the_full_list_will_not_do(make_cluster: Make, version: str) -> None:
    """With the full list of kubeadm's page, an empty member votes, and an acknowledged write is lost.

    If this test fails, etcd has a check of its own, and the full list is safe.
    """
    cluster = make_cluster(3, version)
    first, lost, behind = cluster.members
    cluster.found()
    behind.signal(signal.SIGKILL)
    cluster.write("acknowledged")
    cluster.power_cut()
    lost.lose()
    behind.start("existing", cluster.names)

    def votes() -> bool:
        """As the kubelet does: again and again, until a peer is there that tells it the membership."""
        if not lost.running:
            lost.start("existing", cluster.names)
        return lost.healthy()

    wait_until("the empty member has not joined", votes)
    cluster.wait([lost, behind])
    first.start("existing", cluster.names)
    cluster.wait()
    # The first one forgets it as well, or is healthy with data of its own.
    assert cluster.values("acknowledged")[1:] == ["", ""]


@each_version
def test_why_the_state_new_will_not_do(make_cluster: Make, version: str) -> None:
    """Two members that lost their data make a quorum of their own, and acknowledge writes as the cluster that was."""
    cluster = make_cluster(3, version)
    cluster.found()
    cluster.write("acknowledged")
    cluster.power_cut()
    for member in cluster.members[:2]:
        member.lose()
        member.start("new", cluster.names)
    cluster.wait(cluster.members[:2])
    assert cluster.values("acknowledged") == ["", ""] and cluster[0].put("from another cluster")
