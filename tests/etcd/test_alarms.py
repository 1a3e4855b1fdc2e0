"""Alarms as each etcd reports them: of one member, and of the whole cluster (member 0)."""

from __future__ import annotations

import pytest
from ansible_collections.kubeadm.etcd.plugins.module_utils._etcd.client import Alarm
from ansible_collections.kubeadm.etcd.plugins.module_utils._etcd.health import DEGRADED, VERDICTS

from .conftest import Cluster, Make, each_version, other_versions_long, overfill, restore, wait_until


def alarms(cluster: Cluster) -> list[Alarm]:
    """What our client reads in the status of the first member."""
    with cluster[0].client() as client:
        return client.status().alarms


def at_best_degraded(cluster: Cluster) -> bool:
    report = cluster.look()
    return VERDICTS.index(report.verdict) >= VERDICTS.index(DEGRADED) and "CORRUPT" in " ".join(report.reasons)


@each_version
@pytest.mark.parametrize("whole", [True, False], ids=["whole cluster", "one member"])
def test_a_cluster_with_alarm_corrupt_is_not_healthy(make_cluster: Make, version: str, whole: bool) -> None:
    """Every write is refused, whether the alarm is of one member or of the whole cluster."""
    cluster = make_cluster(1, version)
    cluster.found()
    with cluster[0].client() as client:
        member = 0 if whole else client.status().member_id
        client.call("maintenance/alarm", {"action": "ACTIVATE", "memberID": str(member), "alarm": "CORRUPT"})
        assert not cluster[0].put("refused") and cluster[0].healthy()
        assert "alarm:CORRUPT" in cluster.etcdctl("alarm", "list")
        assert alarms(cluster) == [Alarm(member, "CORRUPT")]
        assert at_best_degraded(cluster)


@each_version
def test_data_that_etcd_itself_finds_corrupt(make_cluster: Make, version: str) -> None:
    """The alarms that etcd raises if a snapshot is restored on one of three members."""
    cluster = make_cluster(3, version)
    cluster.found()
    snapshot = cluster.directory / "snapshot.db"
    cluster.etcdctl("snapshot", "save", str(snapshot), endpoints=[cluster[0]])
    cluster.write("after the snapshot")
    cluster.power_cut()
    restore(cluster[0], snapshot, cluster.names)
    check = {f"{'experimental-' if version.startswith('3.5.') else ''}corrupt-check-time": "5s"}
    for member in cluster.members:
        member.start("existing", cluster.names, **check)
    wait_until("etcd raises no alarm", lambda: "alarm:CORRUPT" in cluster.etcdctl("alarm", "list", check=False))
    # 3.5 cannot tell which member is wrong. From 3.6 on, two that agree outvote the third.
    with cluster[0].client() as client:
        wrong = 0 if version.startswith("3.5.") else client.status().member_id
    assert alarms(cluster) == [Alarm(wrong, "CORRUPT")]
    assert at_best_degraded(cluster)
    [finding] = [found for found in cluster.look().findings if found.code == "data-differs"]
    assert finding.member == cluster[0].name and ("Disarm the alarm" in finding.remedy) is (not wrong)


@other_versions_long
@pytest.mark.parametrize("kind", ["CORRUPT", "NOSPACE"])
def test_an_alarm_is_in_the_snapshot(make_cluster: Make, version: str, kind: str) -> None:
    """A cluster restored from it refuses writes until the alarm, of a member that no longer exists, is disarmed."""
    cluster = make_cluster(1, version)
    cluster.found()
    snapshot = cluster.directory / "snapshot.db"
    with cluster[0].client() as client:
        client.call("maintenance/alarm", {"action": "ACTIVATE", "memberID": "4711", "alarm": kind})
    # Written to the database every 100 ms.
    wait_until("no alarm", lambda: kind in cluster.etcdctl("alarm", "list"))
    cluster.etcdctl("snapshot", "save", str(snapshot), endpoints=[cluster[0]])
    cluster.power_cut()
    restore(cluster[0], snapshot, cluster.names)
    cluster[0].start("new", cluster.names)
    cluster.wait()
    assert alarms(cluster) == [Alarm(4711, kind)] and not cluster[0].put("refused")
    cluster.etcdctl("alarm", "disarm")
    assert cluster[0].put("accepted")


@each_version
def test_a_full_database_raises_nospace_for_one_member(make_cluster: Make, version: str) -> None:
    cluster = make_cluster(1, version)
    cluster.found(**{"quota-backend-bytes": "2000000"})
    overfill(cluster[0])
    with cluster[0].client() as client:
        member = client.status().member_id
    assert alarms(cluster) == [Alarm(member, "NOSPACE")]
    assert "NOSPACE" in " ".join(cluster.look().reasons)
