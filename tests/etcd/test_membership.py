"""Members join and leave with real etcd while a client writes: no acknowledged write is lost, and interrupted changes are finished."""

from __future__ import annotations

import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
from ansible_collections.kubeadm.etcd.plugins.module_utils._etcd import health as _health
from ansible_collections.kubeadm.etcd.plugins.module_utils._etcd.client import EtcdUnreachableError
from ansible_collections.kubeadm.etcd.plugins.module_utils._etcd.client import Member as Entry
from ansible_collections.kubeadm.etcd.plugins.module_utils._etcd.lock import Holder, cluster_lock
from ansible_collections.kubeadm.etcd.plugins.module_utils._etcd.membership import Membership, entry_of
from ansible_collections.kubeadm.etcd.plugins.module_utils._member.departure import LeaveSpec, leave
from ansible_collections.kubeadm.etcd.plugins.module_utils._member.observe import WITHOUT_CORRUPT
from ansible_collections.kubeadm.etcd.plugins.module_utils._member.turn import peers_of
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.errors import EtcdError

from .conftest import ADDRESSES, Cluster, Make, Member, other_versions_long, peer_url, takes_no_write, wait_until


def small(make_cluster: Make, version: str, size: int, most: int) -> tuple[Cluster, list[Member]]:
    """A cluster that runs, and members that may join it."""
    cluster = make_cluster(most, version)
    joiners = cluster.members[size:]
    cluster.members, cluster.names = cluster.members[:size], cluster.names[:size]
    cluster.found()
    return cluster, joiners


def membership(cluster: Cluster) -> Membership:
    return Membership([member.endpoint for member in cluster.members], cluster[0].files)


def start_learner(cluster: Cluster, member: Member) -> tuple[Membership, Entry]:
    """Add a learner, and start it with the membership of that moment."""
    acts = membership(cluster)
    entry = acts.add_learner(member.name, [peer_url(member.name)], 30)
    member.peers = peers_of(acts.members(), entry.id, member.name)
    member.start("existing", [*cluster.names, member.name])
    return acts, entry


def join(cluster: Cluster, member: Member) -> None:
    """What a join does on a host: add a learner, start it with the membership of that moment, promote it."""
    acts, entry = start_learner(cluster, member)
    acts.promote(entry.id, [peer_url(member.name)], 60)
    cluster.members.append(member)
    cluster.names.append(member.name)
    wait_until(f"{member.name} is not healthy", member.healthy)


@contextmanager
def writing(cluster: Cluster) -> Iterator[dict[str, Any]]:
    """A client that writes to whichever member takes it. Sees at the end whether all that was acknowledged is there."""
    done = threading.Event()
    counted: dict[str, Any] = {"acknowledged": 0, "gap": 0.0}

    def write() -> None:
        last = time.monotonic()
        while not done.is_set():
            number = counted["acknowledged"]
            if any(member.running and member.put(f"key{number}") for member in list(cluster.members)):
                now = time.monotonic()
                counted["gap"], last = max(counted["gap"], now - last), now
                counted["acknowledged"] += 1
            else:
                time.sleep(0.02)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield counted
    finally:
        done.set()
        thread.join()
    running = [member for member in cluster.members if member.running]
    with running[0].client(timeout=10.0) as client:
        found = int(client.call("kv/range", {"key": "a2V5", "range_end": "a2V6", "count_only": True})["count"])
    assert found == counted["acknowledged"], (found, counted)


@other_versions_long
def test_from_one_to_five_and_back(make_cluster: Make, version: str) -> None:
    cluster, joiners = small(make_cluster, version, 1, 5)
    with writing(cluster) as counted:
        for member in joiners:
            join(cluster, member)
        assert sorted(item.name for item in membership(cluster).members()) == sorted(cluster.names)
        assert not any(item.is_learner for item in membership(cluster).members())
        cluster.wait()
        while len(cluster.members) > 1:
            leaving = next(member for member in cluster.members if member.leads() or len(cluster.members) == 2)
            entry = entry_of(membership(cluster).members(), leaving.name, [peer_url(leaving.name)])
            assert entry
            cluster.members.remove(leaving)
            cluster.names.remove(leaving.name)
            acts = membership(cluster)
            acts.hand_over(entry.id, 30)
            for _again in range(2):
                acts.remove(entry.id, 30)
            # etcd ends by itself.
            wait_until(f"{leaving.name} still runs", lambda member=leaving: not member.running)
    assert counted["acknowledged"] > 100
    print(f"etcd {version}: {counted['acknowledged']} writes, longest gap {counted['gap']:.2f} s")


@other_versions_long
def test_a_member_that_restarts_knows_who_votes(make_cluster: Make, version: str) -> None:
    """The first one, which has seen the others join, restarts without them. It must not be a quorum of its own."""
    cluster, joiners = small(make_cluster, version, 1, 3)
    for member in joiners:
        join(cluster, member)
    cluster.write("acknowledged")
    first, *others = cluster.members
    cluster.power_cut()
    cluster.start_as_published([first])
    assert takes_no_write([first], 5.0)
    cluster.start_as_published(others)
    cluster.wait()
    assert cluster.agree()


@other_versions_long
def test_why_a_learner_keeps_its_peer_urls(make_cluster: Make, version: str) -> None:
    """A learner whose peer URLs are updated before it is promoted: etcd 3.6 refuses the promotion when it reads its log, and goes on with fewer voters.

    UpdateRaftAttributes writes the member of the latest state into the store that the next entries are validated by. If this test fails,
    etcd has mended it.
    """
    cluster, (joiner,) = small(make_cluster, version, 1, 2)
    acts, entry = start_learner(cluster, joiner)
    wait_until("it has not started", lambda: next(item for item in acts.members() if item.id == entry.id).started)
    with cluster[0].client() as client:
        client.update_member(entry.id, [peer_url(joiner.name)])
    acts.promote(entry.id, [peer_url(joiner.name)], 60)
    wait_until(f"{joiner.name} is not healthy", joiner.healthy)
    # etcd writes its database every 100 ms.
    time.sleep(0.5)
    joiner.signal(signal.SIGKILL)
    cluster.names.append(joiner.name)
    cluster.power_cut()
    cluster.start_as_published()
    assert takes_no_write([cluster[0]], 20.0 if version == "3.6.14" else 5.0) == (version != "3.6.14")


@other_versions_long
def test_a_learner_that_never_starts_leaves_again(make_cluster: Make, version: str) -> None:
    cluster, joiners = small(make_cluster, version, 3, 4)
    acts = membership(cluster)
    urls = [peer_url(joiners[0].name)]
    entry = acts.add_learner(joiners[0].name, urls, 30)
    # Another run, or one whose answer was lost, finds the learner.
    assert acts.add_learner(joiners[0].name, urls, 30) == entry and entry.is_learner and not entry.started
    # It cannot be promoted, and etcd says why.
    with pytest.raises(EtcdError, match="in sync with leader"):
        acts.promote(entry.id, urls, 2)
    # etcd has one learner at a time.
    with pytest.raises(EtcdError, match="too many learner"):
        acts.add_learner("infra9", ["https://10.77.0.99:2380"], 30)
    acts.remove(entry.id, 30)
    assert entry_of(acts.members(), joiners[0].name, urls) is None
    cluster.write("afterwards")


@other_versions_long
def test_a_dead_member_is_replaced(make_cluster: Make, version: str) -> None:
    cluster, _joiners = small(make_cluster, version, 3, 3)
    dead = cluster[2]
    with writing(cluster):
        dead.signal(signal.SIGKILL)
        dead.lose()
        entry = entry_of(membership(cluster).members(), dead.name, [peer_url(dead.name)])
        assert entry
        cluster.members.remove(dead)
        cluster.names.remove(dead.name)
        acts = membership(cluster)
        acts.hand_over(entry.id, 30)
        acts.remove(entry.id, 30)
        join(cluster, dead)
    assert cluster.agree()


@other_versions_long
def test_no_quorum_no_change(make_cluster: Make, version: str) -> None:
    cluster, joiners = small(make_cluster, version, 3, 4)
    for member in cluster.members[1:]:
        member.signal(signal.SIGKILL)
    acts = Membership([cluster[0].endpoint], cluster[0].files)
    with pytest.raises(EtcdError, match="does not add a learner"):
        acts.add_learner(joiners[0].name, [peer_url(joiners[0].name)], 1)
    # etcd itself refuses a removal that would break the quorum.
    cluster.members[1].start("existing", cluster.names, published=True)
    cluster.wait(cluster.members[:2])
    with cluster[0].client() as client:
        entry = next(item for item in client.members() if item.name == cluster.names[1])
    with pytest.raises(EtcdError, match="etcd does not remove"):
        acts.remove(entry.id, 3)


@other_versions_long
def test_a_learner_with_much_to_catch_up(make_cluster: Make, version: str) -> None:
    """It is promoted when it has, and not before."""
    cluster, joiners = small(make_cluster, version, 1, 2)
    big = "x" * 100_000
    for number in range(300):
        assert cluster[0].put(f"big{number}", big)
    member = joiners[0]
    acts, entry = start_learner(cluster, member)
    member.signal(signal.SIGSTOP)
    with pytest.raises(EtcdError, match="does not promote"):
        acts.promote(entry.id, [peer_url(member.name)], 2)
    member.signal(signal.SIGCONT)
    assert not acts.promote(entry.id, [peer_url(member.name)], 60).is_learner
    cluster.members.append(member)
    cluster.wait()
    wait_until("they do not agree", cluster.agree)


def test_a_voting_member_that_was_added_by_hand_and_has_not_started(make_cluster: Make) -> None:
    """From one member to two: the quorum is lost until it starts. The member that runs still tells the membership, and the list has to be that."""
    cluster, (late, _third) = small(make_cluster, "3.6.14", 1, 3)
    cluster.etcdctl("member", "add", "any", f"--peer-urls={peer_url(late.name)}")
    assert takes_no_write([cluster[0]])
    every = [*cluster.names, late.name, "infra2"]
    late.start("existing", every)
    assert "member count is unequal" in late.last_words()
    with cluster[0].client() as client:
        members = client.members()
    mine = entry_of(members, late.name, [peer_url(late.name)])
    assert mine and not mine.started
    late.peers = peers_of(members, mine.id, late.name)
    late.start("existing", every)
    cluster.members.append(late)
    cluster.wait()
    cluster.write("afterwards")


def test_an_answer_that_was_lost(make_cluster: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """The change was made, and the answer never came: it is not made twice."""
    cluster, joiners = small(make_cluster, "3.6.14", 1, 2)
    acts = membership(cluster)
    call, lost = acts._server.call, []

    def losing(path: str, body: Any, deadline: float) -> Any:
        answer = call(path, body, deadline)
        if path != "cluster/member/list" and path not in lost:
            lost.append(path)
            raise EtcdUnreachableError("the connection ended", "closed")
        return answer

    monkeypatch.setattr(acts._server, "call", losing)
    urls = [peer_url(joiners[0].name)]
    entry = acts.add_learner(joiners[0].name, urls, 30)
    assert len(acts.members()) == 2
    joiners[0].peers = peers_of(acts.members(), entry.id, joiners[0].name)
    joiners[0].start("existing", [*cluster.names, joiners[0].name])
    wait_until("it has not started", lambda: entry_of(acts.members(), joiners[0].name, urls).started)  # type: ignore[union-attr]
    assert not acts.promote(entry.id, urls, 60).is_learner
    joiners[0].signal(signal.SIGTERM)
    assert lost == [f"cluster/member/{act}" for act in ("add", "promote", "update")]


# --- A member leaves, by the function that the module calls -----------------------------------------------------------


def leave_spec(cluster: Cluster, leaving: Member, *, timeout: float = 30.0) -> LeaveSpec:
    """A departure as it is asked for on the host of the first member that stays."""
    with cluster[0].client() as client:
        entry = entry_of(client.members(), leaving.name, [peer_url(leaving.name)])
    helper = next(member for member in cluster.members if member is not leaving)
    members = [(member.name, ADDRESSES[member.name]) for member in cluster.members]
    number = f"{entry.id:x}" if entry else "1"
    work_dir = str(helper.directory / f"work-{leaving.name}")
    return LeaveSpec(leaving.name, number, members, pki_dir=str(helper.pki), timeout=timeout, work_dir=work_dir)


def names(cluster: Cluster) -> list[str]:
    return sorted(item.name for item in membership(cluster).members())


@other_versions_long
def test_what_leaves_and_what_does_not(make_cluster: Make, version: str) -> None:
    cluster, _joiners = small(make_cluster, version, 3, 3)
    leader = next(member for member in cluster.members if member.leads())
    others = [member for member in cluster.members if member is not leader]
    spec = leave_spec(cluster, leader)
    with writing(cluster):
        # Check mode says the same, and changes nothing.
        said = leave(spec, check=True)
        assert said["changed"] and names(cluster) == sorted(cluster.names)
        # A healthy member stays while another one is down, and the two that are left would be no quorum.
        others[1].signal(signal.SIGKILL)
        with pytest.raises(EtcdError, match=f"{others[1].name} is not healthy"):
            leave(spec, check=False)
        assert names(cluster) == sorted(cluster.names)
        # The one that is down may leave.
        gone = leave_spec(cluster, others[1])
        assert leave(gone, check=False)["changed"] and not leave(gone, check=False)["changed"]
        cluster.members.remove(others[1])
        wait_until("the two are not healthy", lambda: all(member.healthy() for member in cluster.members))
        # Then the leader, which hands over first.
        assert leave(spec, check=False) == said
        cluster.members.remove(leader)
        # The last one is the cluster.
        number = f"{membership(cluster).members()[0].id:x}"
        asked = [("as it is called elsewhere", ADDRESSES[others[0].name])]
        last = replace(spec, member=others[0].name, member_id=number, members=asked)
        with pytest.raises(EtcdError, match="last voting member"):
            leave(last, check=False)


def test_the_way_out_of_a_learner_beside_a_member_without_its_data(make_cluster: Make) -> None:
    """A learner and a dead member block each other. The learner leaves, the dead member is replaced, then the learner joins again."""
    cluster, joiners = small(make_cluster, "3.6.14", 3, 4)
    dead, learner = cluster[2], joiners[0]
    start_learner(cluster, learner)
    wait_until("the learner has not started", lambda: learner.name in names(cluster))
    with writing(cluster):
        dead.signal(signal.SIGKILL)
        dead.lose()
        anew = replace(leave_spec(cluster, dead), joins_anew=True)
        with pytest.raises(EtcdError, match=f"{dead.name} is not removed: .* is a learner"):
            leave(anew, check=False)
        assert leave(leave_spec(cluster, learner), check=False)["changed"]
        wait_until("the learner still runs", lambda: not learner.running)
        learner.lose()
        assert leave(anew, check=False)["changed"]
        cluster.members.remove(dead)
        cluster.names.remove(dead.name)
        for member in (dead, learner):
            join(cluster, member)
    assert cluster.agree()


def test_two_that_leave_at_once(make_cluster: Make) -> None:
    """Two controllers remove different members. They take turns by the cluster lock, and each gate checks again."""
    cluster, _joiners = small(make_cluster, "3.6.14", 3, 3)
    specs = [leave_spec(cluster, member) for member in cluster.members[1:]]
    said: list[str] = []

    def run(spec: LeaveSpec) -> None:
        try:
            leave(spec, check=False)
        except EtcdError as exc:
            said.append(str(exc))

    threads = [threading.Thread(target=run, args=(spec,)) for spec in specs]
    with writing(cluster):
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        left = names(cluster)
        assert cluster.names[0] in left and len(left) == 3 - (2 - len(said)), said
        cluster.members = [member for member in cluster.members if member.name in left]


@pytest.mark.parametrize("joins_anew", [False, True])
def test_two_that_leave_at_once_both_end_well(make_cluster: Make, *, joins_anew: bool) -> None:
    """Each run sees the member of the other one leave, and maybe come back."""
    cluster, _joiners = small(make_cluster, "3.6.14", 5, 5)
    every, leaving = [*cluster.members], cluster.members[3:]
    specs = {member.name: replace(leave_spec(cluster, member), joins_anew=joins_anew) for member in leaving}
    cluster.members, cluster.names = cluster.members[:3], cluster.names[:3]
    verdicts: dict[str, str] = {}
    everyone_has_ended = threading.Barrier(len(leaving))

    def run(member: Member) -> None:
        spec = specs[member.name]
        leave(spec, check=False)
        member.signal(signal.SIGKILL)
        if joins_anew:
            shutil.rmtree(member.data)
            with cluster_lock(
                [other.endpoint for other in cluster.members], cluster[0].files, Holder("test", member.name, "join")
            ):
                acts, entry = start_learner(cluster, member)
                acts.promote(entry.id, [peer_url(member.name)], 60)
        watched = [other for other in every if joins_anew or other is not member]
        may_be_absent = [other.name for other in watched if other is not member]

        def ask(seconds: float) -> _health.Report:
            seen = _health.look_at_all([(item.name, item.endpoint) for item in watched], cluster[0].files, seconds)
            return _health.evaluate(seen, time.time(), 0.0, may_be_absent=may_be_absent)

        verdicts[member.name] = _health.wait_for("healthy", 60.0, 3.0, ask, lambda _line: None)[0].verdict
        # etcd ends with the thread that has started it.
        everyone_has_ended.wait(120)

    threads = [threading.Thread(target=run, args=(member,)) for member in leaving]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert verdicts == {member.name: "healthy" for member in leaving}
    assert names(cluster) == sorted([*cluster.names, *(member.name for member in leaving if joins_anew)])
    cluster.members = every


def readyz(member: Member, query: str) -> str:
    """The status with which a member answers on its metrics port."""
    enter = ["nsenter", f"--net=/proc/{member.namespace}/ns/net"]
    curl = ["curl", "-s", "-m", "5", "-o", "/dev/null", "-w", "%{http_code}", f"http://127.0.0.1:2381/readyz{query}"]
    return subprocess.run([*enter, *curl], capture_output=True, text=True, timeout=20, check=False).stdout


def test_members_join_in_spite_of_a_full_database(make_cluster: Make) -> None:
    """A member that is replaced has left already. The cluster lock is refused then."""
    cluster, joiners = small(make_cluster, "3.6.14", 1, 2)
    with cluster[0].client() as client:
        client.call(
            "maintenance/alarm", {"action": "ACTIVATE", "memberID": str(client.status().member_id), "alarm": "NOSPACE"}
        )
    assert not cluster[0].put("while it is raised")
    acts, entry = start_learner(cluster, joiners[0])
    assert not acts.promote(entry.id, [peer_url(joiners[0].name)], 60).is_learner
    cluster.members.append(joiners[0])


def test_a_member_with_an_alarm_takes_it_along(make_cluster: Make) -> None:
    """CORRUPT of one member stops the whole cluster. When the member has left, the cluster works again."""
    cluster, _joiners = small(make_cluster, "3.6.14", 3, 3)
    spec = leave_spec(cluster, cluster[2])
    alarm = {"action": "ACTIVATE", "memberID": str(int(spec.member_id, 16)), "alarm": "CORRUPT"}
    with cluster[0].client() as client:
        client.call("maintenance/alarm", alarm)
    assert not cluster[0].put("while it is raised")
    # Without the alarm the members would be ready: the plan finds one that can remove the member.
    assert [readyz(cluster[0], query) for query in ("", f"?{WITHOUT_CORRUPT}")] == ["503", "200"]
    assert leave(spec, check=False)["changed"]
    cluster.members.pop()
    cluster.write("afterwards")
    # As after a removal that was killed before it disarmed the alarm: the member has left, and its alarm still stops the others.
    with cluster[0].client() as client:
        client.call("maintenance/alarm", alarm)
    assert not cluster[0].put("while it is raised again")
    assert leave(spec, check=False)["changed"] and not leave(spec, check=False)["changed"]
    cluster.write("in the end")
