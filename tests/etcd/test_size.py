"""Defragmentation with real etcd while a client writes, and a full database that accepts writes again."""

from __future__ import annotations

import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.cluster import Cluster as Inventory
from ansible_collections.kubeadm.etcd.plugins.module_utils._member import defragment as _defragment
from ansible_collections.kubeadm.etcd.plugins.module_utils._member import timers as _timers
from ansible_collections.kubeadm.etcd.plugins.module_utils._member.observe import observe_database
from ansible_collections.kubeadm.etcd.plugins.module_utils._member.processes import Process
from ansible_collections.kubeadm.etcd.plugins.module_utils._member.snapshots import BackupSpec, State
from ansible_collections.kubeadm.etcd.plugins.module_utils._operations import defragment as _operation
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.database import Database
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.errors import EtcdError
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.members import Member as Listed

from .conftest import ADDRESSES, Cluster, Make, Member, each_version, encoded, other_versions_long, peer_url, wait_until
from .test_membership import membership, writing

QUOTA = 96 << 20
BLOB = os.urandom(192 << 10).hex()


@pytest.fixture
def cluster(make_cluster: Make, version: str, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    """Three members with a small quota. Processes of labs on this machine have the same names, so ours are found by their pid."""
    made = make_cluster(3, version)
    made.found(**{"quota-backend-bytes": str(QUOTA)})

    def find(name: str, proc_root: str = "/proc") -> Process | None:
        member = next(member for member in made.members if member.name == name)
        if not member.running or member.process is None:
            return None
        fields = Path(f"/proc/{member.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        argv = Path(f"/proc/{member.process.pid}/cmdline").read_text().split("\0")
        return Process(member.process.pid, int(fields[19]), argv)

    monkeypatch.setattr(_defragment._processes, "find_etcd_process", find)
    return made


def database(member: Member) -> Database:
    """What an observation has of the member."""
    with member.client() as client:
        return observe_database(client, client.status(), QUOTA)


def databases(cluster: Cluster) -> dict[str, Database]:
    return {member.name: database(member) for member in cluster.members}


def planned(cluster: Cluster, **wishes: Any) -> _operation.Defragmentation:
    """The plan of a run, of what the members say."""
    found = {}
    for member in cluster.members:
        with member.client() as client:
            listed, status = client.members(), client.status()
        names = {item.id: item.name for item in listed}
        found[member.name] = {
            "facts": {"disk_free": 1 << 40},
            "etcd": {
                "ready": member.healthy(),
                "leader": member.leads(),
                "database": database(member).as_dict(),
                "members": [{"id": f"{m.id:x}", "name": m.name, "client_urls": m.client_urls} for m in listed],
                "alarms": [{"kind": alarm.kind, "member": names[alarm.member_id]} for alarm in status.alarms],
            },
        }
    members = [Listed(name, name, ADDRESSES[name]) for name in cluster.names]
    options = {"threshold": 45, "keep_revisions": 10, "allow_interruption": False, **wishes}
    plan = _operation.defragment(Inventory("etcd", members, "infra0"), found, **options)
    print("\n".join(plan.lines), plan.problems)
    return plan


def spec(cluster: Cluster, name: str, limits: _operation.Limits) -> _defragment.DefragmentSpec:
    member = next(member for member in cluster.members if member.name == name)
    return _defragment.DefragmentSpec(
        name,
        [(other, ADDRESSES[other]) for other in cluster.names],
        threshold=limits.threshold,
        compact_revision=limits.compact_revision,
        work_dir=str(member.directory / name / "work"),
        data_dir=str(member.data),
        pki_dir=str(member.pki),
    )


def carried_out(cluster: Cluster, plan: _operation.Defragmentation) -> list[dict[str, Any]]:
    """What the roles do with a plan."""
    assert plan.problems == []
    turns = [step for step in plan.steps if step.kind == "defragment"]
    done = [_defragment.defragment(spec(cluster, step.member, plan.limits), check=False) for step in turns]
    if any(step.kind == "disarm" for step in plan.steps):
        done.append(disarmed(cluster, plan.limits))
    return done


def disarmed(cluster: Cluster, limits: _operation.Limits, check: bool = False) -> dict[str, Any]:
    members = [(name, ADDRESSES[name]) for name in cluster.names]
    return _defragment.disarm(
        _defragment.DisarmSpec(members, quota=limits.quota, pki_dir=str(cluster[0].pki)), check=check
    )


def fill(member: Member, keys: range, name: str = "big") -> int:
    """Write large values until etcd takes no more; the number of those that it took."""
    with member.client(timeout=30.0) as client:
        for count, number in enumerate(keys):
            try:
                client.call("kv/put", {"key": encoded(f"{name}{number}"), "value": encoded(BLOB)})
            except EtcdError:
                return count
    return len(keys)


def delete(member: Member, keys: range, name: str = "big") -> int:
    """Delete them, and return the revision."""
    with member.client(timeout=30.0) as client:
        for number in keys:
            client.call("kv/deleterange", {"key": encoded(f"{name}{number}")})
        return client.status().revision


def fragment(cluster: Cluster) -> None:
    """50 MiB, and most of it deleted and compacted: on every member."""
    assert fill(cluster[0], range(100)) == 100
    revision = delete(cluster[0], range(90))
    for member in cluster.members:
        with member.client(timeout=30.0) as client:
            client.compact(revision)

    def shows() -> bool:
        # With the next write.
        cluster.write("written")
        return all(item.is_fragmented(45) for item in databases(cluster).values())

    wait_until("the databases are not fragmented", shows)


@each_version
def test_fragmented_databases(cluster: Cluster) -> None:
    """Followers first, the leader last, while a client writes. No acknowledged write is lost."""
    assert planned(cluster).steps == []
    fragment(cluster)
    before = databases(cluster)
    plan = planned(cluster)
    order = [step.member for step in plan.steps]
    leader = next(member.name for member in cluster.members if member.leads())
    assert sorted(order) == cluster.names and order[-1] == leader and plan.limits.compact_revision == 0
    checked = _defragment.defragment(spec(cluster, order[0], plan.limits), check=True)
    assert checked["changed"] and databases(cluster)[order[0]].size == before[order[0]].size
    with writing(cluster) as counted:
        done = carried_out(cluster, plan)
    after = databases(cluster)
    assert [item["changed"] for item in done] == [True] * 3 and counted["acknowledged"] > 10
    for name in cluster.names:
        assert after[name].size < before[name].size // 2 and after[name].unused < 8 << 20, (before, after)
    assert next(member.name for member in cluster.members if member.leads()) == leader
    assert cluster.agree() and cluster.values("big95") == [BLOB] * 3
    # Settled: by the plan, and for a run that planned before this one had ended.
    assert planned(cluster).steps == []
    assert not _defragment.defragment(spec(cluster, order[0], plan.limits), check=False)["changed"]


@other_versions_long
def test_fragmented_databases_by_timers(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """The timers of three hosts at the same moment: still one member at a time, and the leader last."""
    monkeypatch.setattr(_timers, "LOOKS", 0.5)
    fragment(cluster)
    before = databases(cluster)
    leader = next(member.name for member in cluster.members if member.leads())
    with writing(cluster) as counted, ThreadPoolExecutor() as pool:
        said = list(pool.map(lambda name: _timers.run_job("defragment", timed(cluster, name)), cluster.names))
    after = databases(cluster)
    assert all("defragmented, " in line for line in said) and counted["acknowledged"] > 10, said
    assert all(after[name].size < before[name].size // 2 for name in cluster.names)
    succeeded = {name: State.read(timed(cluster, name).dir, "defragment").succeeded for name in cluster.names}
    assert max(succeeded, key=lambda name: succeeded[name]) == leader and cluster.agree()
    assert all("nothing to defragment" in _timers.run_job("defragment", timed(cluster, n)) for n in cluster.names)


def timed(cluster: Cluster, name: str) -> BackupSpec:
    """What the timers of a member's host are given."""
    wanted = spec(cluster, name, _operation.Limits(45, 0, QUOTA))
    directory = Path(wanted.work_dir).parent / "backups"
    return BackupSpec(
        "etcd",
        name,
        wanted.members,
        dir=str(directory),
        work_dir=wanted.work_dir,
        data_dir=wanted.data_dir,
        pki_dir=wanted.pki_dir,
    )


@each_version
def test_a_full_database(cluster: Cluster) -> None:
    """The database is full of history. It is compacted to the revision in the plan, defragmented on all members, and accepts writes again."""
    for _round in range(20):
        if fill(cluster[0], range(20)) < 20:
            break
    assert not cluster[0].put("refused")
    plan = planned(cluster)
    latest = database(cluster[0]).revision
    assert plan.limits == _operation.Limits(0, latest - 10, QUOTA)
    assert [step.kind for step in plan.steps] == ["defragment"] * 3 + ["disarm"]
    # etcd raises the alarm when the next write would not fit, which may be a little below the quota.
    if any(item.size >= QUOTA for item in databases(cluster).values()):
        with pytest.raises(EtcdError, match=r"alarm NOSPACE stays, .* no room yet: infra.* Raise quota-backend-bytes"):
            disarmed(cluster, plan.limits)
    assert disarmed(cluster, plan.limits, check=True)["changed"]
    # A run is killed after the compaction, which does not show in the size yet. The next run continues.
    first = _defragment.defragment(spec(cluster, plan.steps[0].member, plan.limits), check=False)
    assert [item["code"] for item in first["changes"]] == ["compacted", "fragmented"]
    done = carried_out(cluster, planned(cluster))
    assert all(item["code"] != "compacted" for result in done for item in result["changes"])
    assert cluster.look().alarms == [] and cluster[0].put("taken") and cluster.agree()
    assert all(item.size < QUOTA // 2 for item in databases(cluster).values())
    assert planned(cluster).steps == [] and not disarmed(cluster, plan.limits)["changed"]


@other_versions_long
def test_a_database_that_is_full_of_keys(cluster: Cluster) -> None:
    """Deleted keys are part of the history of kube-apiserver. They are freed only if no history is kept."""
    with cluster[0].client() as client:
        client.call("kv/put", {"key": encoded("compact_rev_key"), "value": encoded("1")})
        kept = client.status().revision
    count = fill(cluster[0], range(400))
    assert count < 400
    latest = delete(cluster[0], range(count // 2))
    # kube-apiserver would compact up to its last mark.
    assert planned(cluster).limits.compact_revision == kept
    plan = planned(cluster, keep_revisions=0)
    assert plan.limits.compact_revision == latest
    carried_out(cluster, plan)
    assert cluster[0].put("taken") and cluster.values(f"big{count - 1}") == [BLOB] * 3


@other_versions_long
def test_no_member_is_defragmented_beside_one_that_is_down_or_a_learner(cluster: Cluster) -> None:
    """No member is blocked beside one that is down, or that has not joined."""
    fragment(cluster)
    limits = _operation.Limits(45)
    cluster[2].signal(signal.SIGKILL)
    with pytest.raises(EtcdError, match="infra0 is not defragmented: infra2 is not healthy"):
        _defragment.defragment(spec(cluster, "infra0", limits), check=False)
    with pytest.raises(EtcdError, match="infra2 is not defragmented: its etcd does not run"):
        _defragment.defragment(spec(cluster, "infra2", limits), check=False)
    cluster.start_as_published([cluster[2]])
    cluster.wait()
    learner = membership(cluster).add_learner("infra4", [peer_url("infra4")], 30)
    with pytest.raises(EtcdError, match=f"member {learner.id:x} is a member but has never started"):
        _defragment.defragment(spec(cluster, "infra0", limits), check=True)
    membership(cluster).remove(learner.id, 30)
    assert _defragment.defragment(spec(cluster, "infra0", limits), check=False)["changed"]


@other_versions_long
def test_etcd_ends_during_its_defragmentation(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the kubelet had stopped it: the database is unchanged, the member comes back, and the run fails with the cause."""
    fragment(cluster)
    before, disk, prove = database(cluster[0]), _defragment.check_disk, _defragment.prove
    snap = cluster[0].data / "member/snap"

    def stop(*arguments: Any) -> None:
        disk(*arguments)
        # What etcd would have written. Versions before 3.7 remove it when they start.
        (snap / "db.tmp.4102111993").write_bytes(bytes(5 << 20))
        assert cluster[0].process
        cluster[0].process.send_signal(signal.SIGSTOP)
        threading.Timer(1.0, cluster[0].signal, [signal.SIGKILL]).start()

    def restart(*arguments: Any) -> None:
        # Not by the other thread: etcd ends with the thread that has started it.
        wait_until("infra0 still runs", lambda: not cluster[0].running)
        cluster.start_as_published([cluster[0]])
        prove(*arguments)

    # Stopped with the lock and the gate behind it.
    monkeypatch.setattr(_defragment.ClusterLock, "check", lambda _lock: None)
    monkeypatch.setattr(_defragment, "check_disk", stop)
    monkeypatch.setattr(_defragment, "prove", restart)
    with pytest.raises(
        EtcdError, match="infra0: etcd ended while its database was being defragmented, and is healthy again"
    ):
        _defragment.defragment(spec(cluster, "infra0", _operation.Limits(45)), check=False)
    assert database(cluster[0]).size >= before.size and cluster.agree()
    assert not list(snap.glob("db.tmp.*"))
