"""What read_wal tells of a data directory, for each way in which etcd leaves one behind."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from ansible_collections.kubeadm.etcd.plugins.module_utils._host.wal import read_wal
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.errors import EtcdError

from .conftest import ROOT, VERSIONS, Cluster, Make, Member, each_version, peer_url, restore, wait_until


def identity(member: Member) -> tuple[str, str]:
    """Member and cluster as the running process tells them."""
    with member.client() as client:
        status = client.status()
    return f"{status.member_id:x}", f"{status.cluster_id:x}"


def told(member: Member) -> tuple[str, str, bool]:
    """Member, cluster, and whether its log has seen a leader."""
    wal = read_wal(str(member.data))
    assert wal is not None
    return wal.member_id, wal.cluster_id, wal.formed


def is_restored(member: Member) -> bool:
    """Whether the directory has restored data whose log has not seen a leader."""
    wal = read_wal(str(member.data))
    assert wal is not None and wal.formed
    return wal.restored


def snapshot_of(cluster: Cluster) -> Path:
    """A snapshot of the first member, by etcdctl."""
    snapshot = cluster.directory / "snapshot.db"
    cluster.etcdctl("snapshot", "save", str(snapshot), endpoints=[cluster[0]])
    return snapshot


@each_version
def test_founded_and_led(make_cluster: Make, version: str) -> None:
    cluster = make_cluster(1, version)
    assert read_wal(str(cluster[0].data)) is None
    cluster.found()
    ids = identity(cluster[0])
    assert told(cluster[0]) == (*ids, True)
    cluster.power_cut()
    assert told(cluster[0]) == (*ids, True)


@each_version
def test_founded_and_never_led(make_cluster: Make, version: str) -> None:
    """A killed run has started one member of three. It may be started again with state new."""
    cluster = make_cluster(3, version)
    cluster[0].start("new", cluster.names)
    wait_until("it writes no log", lambda: read_wal(str(cluster[0].data)))
    # Not led, however often it has asked for votes.
    time.sleep(2)
    cluster.power_cut()
    member_id, cluster_id, formed = told(cluster[0])
    assert member_id and cluster_id and not formed


@each_version
def test_wiped_and_crashed(make_cluster: Make, version: str) -> None:
    """With the full initial-cluster, a member without data gets its former id and panics. Its log has not seen a leader."""
    cluster = make_cluster(3, version)
    cluster.found()
    wiped = next(member for member in cluster.members if not member.leads())
    ids = identity(wiped)
    wiped.signal(signal.SIGKILL)
    wiped.lose()
    wiped.start("existing", cluster.names)
    assert "tocommit" in wiped.last_words()
    assert told(wiped) == (*ids, False)


@each_version
def test_joined_as_a_learner(make_cluster: Make, version: str) -> None:
    cluster = make_cluster(2, version)
    first, learner = cluster.members
    founder = Cluster([first], cluster.directory, version, [first.name])
    founder.found()
    founder.etcdctl("member", "add", learner.name, "--learner", f"--peer-urls={peer_url(learner.name)}")
    learner.start("existing", cluster.names)
    wait_until("the learner is not in sync", lambda: promoted(founder, learner))
    assert told(learner) == (*identity(learner), True)


def promoted(cluster: Cluster, learner: Member) -> bool:
    """Whether a learner has become a voter: the leader refuses while it lags behind."""
    try:
        number = identity(learner)[0]
    except EtcdError:
        return False
    return "promoted" in cluster.etcdctl("member", "promote", number, check=False)


@each_version
def test_restored_from_a_snapshot(make_cluster: Make, version: str) -> None:
    """Restored data has the ids of a new member at this address. It counts as restored until its log has seen a leader."""
    cluster = make_cluster(1, version)
    cluster.found()
    assert not is_restored(cluster[0])
    snapshot = snapshot_of(cluster)
    ids = identity(cluster[0])
    cluster.power_cut()
    restore(cluster[0], snapshot, cluster.names)
    assert told(cluster[0]) == (*ids, True) and is_restored(cluster[0])
    cluster.start_as_published()
    cluster.wait()
    assert cluster.values("one") == ["there"] and not is_restored(cluster[0])


def test_a_member_that_took_snapshots_is_not_restored(make_cluster: Make) -> None:
    """A raft snapshot that a follower got from its leader is not taken for a restored one."""
    cluster = make_cluster(3, "3.6.14")
    few = {"snapshot-count": "10", "experimental-snapshot-catchup-entries": "5"}
    cluster.found(**few)
    away = next(member for member in cluster.members if not member.leads())
    away.signal(signal.SIGKILL)
    for number in range(40):
        assert cluster.members[0 if away is not cluster[0] else 1].put(f"meanwhile {number}")
    cluster.start_as_published([away], **few)
    cluster.wait()
    assert all(list((member.data / "member" / "snap").glob("*.snap")) for member in cluster.members)
    cluster.power_cut()
    assert not any(is_restored(member) for member in cluster.members)


@pytest.mark.parametrize("keep", [0, 7, 200], ids=["nothing", "half a frame", "its head"])
def test_a_log_that_was_cut_off(make_cluster: Make, keep: int) -> None:
    """It counts as data, however little can be read."""
    cluster = make_cluster(1, "3.6.14")
    cluster.found()
    ids = identity(cluster[0])
    cluster.power_cut()
    log = next((cluster[0].data / "member" / "wal").glob("0*.wal"))
    os.truncate(log, keep)
    wal = read_wal(str(cluster[0].data))
    # The ids are in the head of the log. The entries that show a leader come later and are cut off.
    assert wal is not None and (wal.member_id, wal.cluster_id) in (("", ""), ids)
    assert wal.formed or keep == 200


def without_log(data: Path) -> None:
    """The log has a volume of its own, which is not mounted."""
    shutil.rmtree(data / "member" / "wal")
    (data / "member" / "wal").mkdir()


def without_log_directory(data: Path) -> None:
    shutil.rmtree(data / "member" / "wal")


def log_in_a_loop(data: Path) -> None:
    """The log is reached by a link that leads nowhere: an error of the filesystem other than "not there"."""
    without_log_directory(data)
    (data / "member" / "wal").symlink_to("wal")


def member_in_a_loop(data: Path) -> None:
    shutil.rmtree(data / "member")
    (data / "member").symlink_to("member")


def linked_away(data: Path) -> None:
    """The data is on a volume that a link leads to, and the volume is not mounted."""
    shutil.rmtree(data / "member")
    (data / "member").symlink_to("/nonexistent/etcd/member")


@pytest.mark.parametrize(
    ("version", "how"),
    [
        *[(version, without_log) for version in VERSIONS],
        *[("3.6.14", how) for how in (without_log_directory, log_in_a_loop, member_in_a_loop, linked_away)],
    ],
)
def test_data_of_which_a_part_is_missing(make_cluster: Make, version: str, how: Callable[[Path], None]) -> None:
    """The directory is not empty, but does not show its member. etcd would found a new cluster in it."""
    cluster = make_cluster(1, version)
    cluster.found()
    cluster.power_cut()
    how(cluster[0].data)
    wal = read_wal(str(cluster[0].data))
    assert wal is not None and wal.formed and not wal.member_id


def test_data_without_permission_to_read_it(make_cluster: Make) -> None:
    """As on a network filesystem on which root is nobody."""
    cluster = make_cluster(1, "3.6.14")
    cluster.found()
    ids = identity(cluster[0])
    script = (
        "import sys, os; sys.path[:0] = sys.argv[1:3]\n"
        "from ansible_collections.kubeadm.etcd.plugins.module_utils._host.wal import read_wal\n"
        "os.setuid(65534); print(read_wal(sys.argv[3]))"
    )
    for directory in cluster[0].data.parents:
        if directory.is_relative_to(cluster.directory.parents[0]):
            directory.chmod(0o755)
    argv = [sys.executable, "-c", script, str(ROOT / ".collections"), str(ROOT), str(cluster[0].data)]
    done = subprocess.run(argv, text=True, stdout=subprocess.PIPE, check=True, timeout=60)
    assert "formed=True" in done.stdout and ids[0] not in done.stdout, done.stdout
