"""Downgrades by one minor version: the downgrade API of etcd, and how the collection uses it."""

from __future__ import annotations

import shutil
import signal
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from ansible_collections.kubeadm.etcd.plugins.module_utils._etcd.client import Status
from ansible_collections.kubeadm.etcd.plugins.module_utils._etcd.lock import Holder, LockBusyError, cluster_lock
from ansible_collections.kubeadm.etcd.plugins.module_utils._member import backup as _backup
from ansible_collections.kubeadm.etcd.plugins.module_utils._member import downgrade as _downgrade
from ansible_collections.kubeadm.etcd.plugins.module_utils._member import rollout as _rollout
from ansible_collections.kubeadm.etcd.plugins.module_utils._member.downgrade import DowngradeSpec, change_downgrade
from ansible_collections.kubeadm.etcd.plugins.module_utils._member.restore import is_too_new
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.errors import EtcdError
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.versions import CANCEL, etcd_version_in

from .conftest import ADDRESSES, Cluster, Make, Member, restore, wait_until
from .test_membership import join, small, start_learner, writing
from .test_snapshot import programs, spec_for, with_programs
from .test_upgrade import MIDDLE, NEW, OLD, cluster_version, restart, roll
from .test_upgrade import writing as writing_through_all

__all__ = ["programs"]

PATHS = [(NEW, MIDDLE), pytest.param(MIDDLE, OLD, marks=pytest.mark.long)]


def spec(cluster: Cluster, version: str) -> DowngradeSpec:
    """As the module has it on the host of the first member."""
    names = [member.name for member in cluster.members]
    member = cluster[0]
    return DowngradeSpec(member.name, [(name, ADDRESSES[name]) for name in names], version, pki_dir=str(member.pki))


def status(member: Member) -> Status:
    """What a member reports."""
    with member.client() as client:
        return client.status()


def lower(cluster: Cluster, member: Member, version: str) -> None:
    """As a turn does it: wait until its data is ready, restart, wait until it is well and, for the last one, until etcd has ended the downgrade."""
    target = spec(cluster, version[:3]).target
    url = member.endpoint
    wanted = etcd_version_in(version)
    assert wanted
    _rollout.wait_until_lowered(replace(target, name=member.name, urls=[url]), wanted)
    restart(cluster, member, version)
    cluster.wait([member])
    _rollout.wait_for_end_of_downgrade(target)


@pytest.mark.parametrize(("high", "low"), PATHS)
def test_a_downgrade_and_an_upgrade_lose_no_write(make_cluster: Make, high: str, low: str) -> None:
    """While a client writes, each member is downgraded and upgraded again. etcd ends the downgrade itself."""
    cluster = make_cluster(3, high)
    cluster.found()
    wished = spec(cluster, low[:3])
    assert change_downgrade(wished, check=True)["changed"]
    assert not status(cluster[0]).downgrade
    with writing(cluster) as counted:
        first = change_downgrade(wished, check=False)
        assert first["reasons"] == [f"cluster version: {high[:3]} -> {low[:3]}"]
        assert not change_downgrade(wished, check=False)["changed"]
        for member in cluster.members:
            assert (status(member).downgrade, status(member).storage_version) == (f"{low[:3]}.0", f"{low[:3]}.0")
            assert cluster_version(member) == f"{low[:3]}.0"
        for member in sorted(cluster.members, key=lambda item: item.leads()):
            lower(cluster, member, low)
        assert cluster_version(cluster[0]) == f"{low[:3]}.0"
    print(f"{high} -> {low}: {counted}")
    assert cluster.agree() and counted["acknowledged"] > 100
    # etcd 3.5 ends it too, but does not report it. If it did not, the next upgrade would wait forever.
    with writing_through_all(cluster):
        roll(cluster, high)
    assert cluster.agree() and not any(status(member).downgrade for member in cluster.members)


@pytest.mark.long
@pytest.mark.parametrize(("high", "low"), PATHS)
def test_a_downgrade_is_cancelled_half_way(make_cluster: Make, high: str, low: str) -> None:
    """The member that has the older version is upgraded again. Before any has it, the cluster has its former version back at once."""
    cluster = make_cluster(3, high)
    cluster.found()
    first = next(member for member in cluster.members if not member.leads())
    with writing(cluster):
        change_downgrade(spec(cluster, low[:3]), check=False)
        assert change_downgrade(spec(cluster, CANCEL), check=False)["changed"]
        assert cluster_version(cluster[0]) == f"{high[:3]}.0"
        assert not change_downgrade(spec(cluster, CANCEL), check=False)["changed"]
        change_downgrade(spec(cluster, low[:3]), check=False)
        lower(cluster, first, low)
        # A member with the newer version may restart meanwhile, and that with the older one.
        other = next(member for member in cluster.members if member is not first)
        restart(cluster, other, high)
        cluster.wait([other])
        restart(cluster, first, low)
        cluster.wait([first])
        change_downgrade(spec(cluster, CANCEL), check=False)
        assert cluster_version(other) == f"{low[:3]}.0" and not status(other).downgrade
        restart(cluster, first, high)
        cluster.wait([first])
        wait_until("the newer version is not back", lambda: cluster_version(other) == f"{high[:3]}.0")
    assert cluster.agree()


def test_a_member_that_is_not_ready_does_not_start(make_cluster: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """The turn does not stop it either. etcd allows only the next lower minor version."""
    cluster = make_cluster(3, NEW)
    cluster.found()
    member = next(member for member in cluster.members if not member.leads())
    target = replace(spec(cluster, "3.6").target, name=member.name, urls=[member.endpoint])
    wanted = etcd_version_in(MIDDLE)
    assert wanted
    # etcd writes it some seconds after the cluster was founded.
    wait_until("the data has no version", lambda: status(member).storage_version)
    monkeypatch.setattr(_rollout, "AGREES", 1.0)
    with pytest.raises(EtcdError, match=r"is not touched: its data is of version 3\.7"):
        _rollout.wait_until_lowered(target, wanted)
    with pytest.raises(EtcdError, match="invalid downgrade target version"):
        change_downgrade(spec(cluster, "3.5"), check=True)
    restart(cluster, member, MIDDLE)
    assert 'version "3.7.0" is not supported' in member.last_words().replace("\\", "")
    restart(cluster, member, NEW)
    cluster.wait()
    assert cluster.agree()


@pytest.mark.long
def test_a_member_that_is_down_keeps_a_downgrade_from_being_enabled(make_cluster: Make) -> None:
    """The module refuses. etcd would enable the downgrade, and lower the cluster version as soon as all members are up."""
    cluster = make_cluster(3, NEW)
    cluster.found()
    down = next(member for member in cluster.members if not member.leads())
    down.signal(signal.SIGTERM)
    there = [member for member in cluster.members if member is not down]
    wished = replace(spec(cluster, "3.6"), timeout=6.0)
    with pytest.raises(EtcdError, match=f"not enabled: {down.name} is not healthy"):
        change_downgrade(wished, check=False)
    assert not any(status(member).downgrade for member in there)
    with there[0].client() as client:
        client.downgrade("ENABLE", "3.6")
    with pytest.raises(EtcdError, match=r"etcd is not ready for it after 6 s: the cluster has version 3\.7"):
        change_downgrade(wished, check=False)
    restart(cluster, down, NEW)
    cluster.wait()
    assert not change_downgrade(spec(cluster, "3.6"), check=False)["changed"]
    assert {cluster_version(member) for member in cluster.members} == {"3.6.0"}


@pytest.mark.long
@pytest.mark.parametrize(("high", "low"), PATHS)
def test_members_that_have_joined_and_left(make_cluster: Make, high: str, low: str) -> None:
    """etcd 3.5 and 3.6 read the membership from the former store when they start: it is that of the newer version."""
    cluster, joiners = small(make_cluster, high, 3, 4)
    join(cluster, joiners[0])
    gone = cluster[1]
    cluster.etcdctl("member", "remove", f"{status(gone).member_id:x}", endpoints=[cluster[0]])
    gone.signal(signal.SIGTERM)
    cluster.members.remove(gone)
    wait_until("the cluster is not well", lambda: all(member.healthy() for member in cluster.members))
    before = members_of(cluster)
    change_downgrade(spec(cluster, low[:3]), check=False)
    for member in sorted(cluster.members, key=lambda item: item.leads()):
        lower(cluster, member, low)
    for member in cluster.members:
        restart(cluster, member, low)
        cluster.wait([member])
        assert members_of(cluster) == before
    assert len(before) == 3 and cluster.agree()


def members_of(cluster: Cluster) -> list[str]:
    """The membership as each member knows it itself, if they agree."""
    found = []
    for member in cluster.members:
        with member.client() as client:
            found.append(sorted(f"{item.id:x} {item.name} {item.is_learner}" for item in client.members()))
    assert all(item == found[0] for item in found), found
    return found[0]


@pytest.mark.long
@pytest.mark.parametrize(("high", "low"), PATHS)
def test_no_member_joins_during_a_downgrade(make_cluster: Make, high: str, low: str) -> None:
    """etcd refuses it with either version. To replace a member, the downgrade must be cancelled first."""
    cluster, joiners = small(make_cluster, high, 3, 4)
    change_downgrade(spec(cluster, low[:3]), check=False)
    first = next(member for member in cluster.members if not member.leads())
    lower(cluster, first, low)
    joiner = joiners[0]
    for number, version in enumerate((high, low), 1):
        joiner.version = version
        acts, entry = start_learner(cluster, joiner)
        assert joiner.last_words().count("incompatible with current running cluster") >= number
        acts.remove(entry.id, 30)
        joiner.lose()
        shutil.rmtree(joiner.data.with_name("volume"))
        # etcd answers "member not found" to an addition that follows a removal within a tenth of a second.
        time.sleep(2)
    change_downgrade(spec(cluster, CANCEL), check=False)
    joiner.version = high
    join(cluster, joiner)
    assert cluster.agree()


@pytest.mark.long
@pytest.mark.parametrize(("high", "low"), PATHS)
@pytest.mark.parametrize("lowers_first", [False, True])
@pytest.mark.usefixtures("programs")
def test_a_snapshot_from_the_middle(
    make_cluster: Make, tmp_path: Path, high: str, low: str, lowers_first: bool
) -> None:
    """Taken once it is enabled, or of the first member that was lowered: both versions start on it, in the middle of the downgrade. The description tells."""
    with_programs(tmp_path, high)
    cluster = make_cluster(3, high)
    cluster.found()
    assert _backup.take(spec_for(cluster, cluster[0]))["snapshot"]["downgrade"] == ""
    change_downgrade(spec(cluster, low[:3]), check=False)
    first = next(member for member in cluster.members if not member.leads())
    if lowers_first:
        lower(cluster, first, low)
    taken = _backup.take(spec_for(cluster, first))
    assert taken["snapshot"]["downgrade"] == low[:3]
    told = _backup.describe(str(tmp_path / "image"), taken["path"])
    assert not any(is_too_new(told["storage"], version) for version in (high, low))
    for version in (low, high):
        cluster.power_cut()
        for member in cluster.members:
            member.version = version
            restore(member, Path(taken["path"]), cluster.names)
            member.start("existing", cluster.names)
        cluster.wait()
        if version == low:
            wait_until(
                "the downgrade has not ended", lambda: not any(status(item).downgrade for item in cluster.members)
            )
    assert {status(member).downgrade for member in cluster.members} == {f"{low[:3]}.0"} and cluster.agree()
    assert change_downgrade(spec(cluster, CANCEL), check=False)["changed"]
    wait_until("the newer version is not back", lambda: cluster_version(cluster[0]) == f"{high[:3]}.0")


def test_the_lock_keeps_two_runs_apart(make_cluster: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = make_cluster(1, NEW)
    cluster.found()
    holder = Holder("elsewhere", "infra1", "a test")
    monkeypatch.setattr(_downgrade, "cluster_lock", partial(cluster_lock, patience=0.5))
    with cluster_lock([cluster[0].endpoint], cluster[0].files, holder), pytest.raises(LockBusyError):
        change_downgrade(spec(cluster, "3.6"), check=False)
    assert not status(cluster[0]).downgrade


def test_metrics_show_an_unfinished_downgrade(make_cluster: Make) -> None:
    """The alert EtcdVersionChangeUnfinished compares these."""
    cluster = make_cluster(1, NEW)
    cluster.found()
    change_downgrade(spec(cluster, "3.6"), check=False)
    with cluster[0].client() as client:
        _code, text = client.request("GET", "/metrics")
    assert 'etcd_cluster_version{cluster_version="3.6"} 1' in text
    assert 'etcd_cluster_version{cluster_version="3.7"} 0' in text
    assert f'etcd_server_version{{server_version="{NEW}"}} 1' in text


@pytest.mark.long
def test_etcd_3_5_does_not_report_an_enabled_downgrade(make_cluster: Make) -> None:
    """If a downgrade is enabled when members get 3.6 again, the cluster keeps version 3.5 until it is cancelled."""
    cluster = make_cluster(3, MIDDLE)
    cluster.found()
    change_downgrade(spec(cluster, "3.5"), check=False)
    slow = {"experimental-downgrade-check-time": "1h"}
    for member in sorted(cluster.members, key=lambda item: item.leads()):
        restart(cluster, member, OLD, **slow)
        cluster.wait([member])
    assert not status(cluster[0]).downgrade
    with cluster[0].client() as client:
        assert client.enabled_downgrade(client.status()) == "3.5.0"
    assert cluster.look().downgrade == "3.5"
    for member in sorted(cluster.members, key=lambda item: item.leads()):
        restart(cluster, member, MIDDLE)
        cluster.wait([member])
    time.sleep(10)
    assert cluster_version(cluster[0]) == "3.5.0"
    assert change_downgrade(spec(cluster, CANCEL), check=False)["changed"]
    assert cluster_version(cluster[0]) == "3.6.0"
    # 3.5 alone: it cancels, and does not answer.
    change_downgrade(spec(cluster, "3.5"), check=False)
    for member in sorted(cluster.members, key=lambda item: item.leads()):
        restart(cluster, member, OLD, **slow)
        cluster.wait([member])
    assert change_downgrade(spec(cluster, CANCEL), check=False)["changed"]
    with cluster[0].client() as client:
        assert client.enabled_downgrade(client.status()) == ""
