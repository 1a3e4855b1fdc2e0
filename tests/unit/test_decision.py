"""The decision table of docs/operations.md, exhaustively where it is small."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import dataclass
from typing import Any

import pytest
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.alarms import (
    alarm_warnings,
    alarmed,
    departed_with_alarm,
)
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.cluster import Cluster
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.decision import (
    EVERYTHING,
    Decision,
    decide,
    member_view,
    without_restarts,
)
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.identity import entry_of
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.judge import lost_problems
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.plan import make_steps, plan_lines
from ansible_collections.kubeadm.etcd.plugins.module_utils._operations.converge import image_reasons, only_certificates
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.members import Member, urls_while_joining
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.problems import merged
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.reasons import Reason

HOSTS = ["infra0", "infra1", "infra2"]
CLUSTER = Cluster("etcd", [Member(h, h, f"10.0.0.{6 + i}") for i, h in enumerate(HOSTS)], "infra0")

FRESH = {"has_data": False, "formed": False, "ready": False, "members": None, "cluster_id": None}
BORN = {**FRESH, "has_data": True, "cluster_id": "c1"}
DOWN = {**BORN, "formed": True}


def listing(published: str = "012", names: str = "012") -> list[dict[str, Any]]:
    return [
        {
            "id": f"{i}",
            "name": f"infra{i}",
            "peer_urls": [f"https://10.0.0.{6 + int(i)}:2380"],
            "client_urls": ["https://x:2379"] if i in published else [],
        }
        for i in names
    ]


def up(members: list[dict[str, Any]] | None = None, leader: bool = False) -> dict[str, Any]:
    return {**DOWN, "ready": True, "members": members or listing(), "leader": leader}


def why(*said: str, part: str = "certificates", code: str = "x", restarts: bool = False) -> list[dict[str, Any]]:
    """Reasons in the form of an observation."""
    return [Reason(part, code, text, restarts).as_dict() for text in said]


RECORD = {"name": "infra2", "cluster_id": "c1", "member_id": "2", "data_dir": "/var/lib/etcd", "ca": "", "removed": ""}

# Under another address.
LISTED_2 = {**listing(names="2")[0], "peer_urls": ["https://10.0.0.99:2380"]}

# A manifest that differs.
OTHER_MANIFEST = why("x", part="manifest", restarts=True)


def observed(*states: dict[str, Any] | None, differs: str = "") -> dict[str, Any]:
    """Observations by host; None: not part of the run. differs: numbers of the hosts whose manifest differs."""
    return {
        HOSTS[i]: {
            "etcd": state,
            "reasons": {
                "kubelet": [],
                "manifest": OTHER_MANIFEST if str(i) in differs else [],
                "certificates": [],
                "ca": [],
            },
            "pki": {"ca_fingerprint": None, "ca_id": None, "ca_key": False, "ca_problems": []},
        }
        for i, state in enumerate(states)
        if state is not None
    }


@pytest.mark.parametrize(
    ("observations", "action", "hosts"),
    [
        (observed(FRESH, FRESH, FRESH), "bootstrap", HOSTS),
        (observed(BORN, FRESH, FRESH), "bootstrap", HOSTS),
        (observed(BORN, BORN, FRESH), "bootstrap", HOSTS),
        (observed(BORN, BORN, BORN), "bootstrap", HOSTS),
        # The kubelet has just started it: it has not written its log yet.
        (observed(FRESH, {**FRESH, "running": True, "age": 3}, FRESH), "bootstrap", HOSTS),
        # A member that waits for the others reports the list it was started with.
        (observed({**BORN, "members": listing("")}, FRESH, FRESH), "bootstrap", HOSTS),
        # The ids in that list come from its flags, and do not show the data.
        (observed({**BORN, "member_id": "9", "members": listing("")}, FRESH, FRESH), "bootstrap", HOSTS),
        (observed(DOWN, DOWN, DOWN), "start", HOSTS),
        # They have a leader, and have not published themselves yet.
        (observed(*[{**up(listing("")), "formed": False}] * 3), "nothing", []),
        (observed(up(leader=True), up(), up()), "nothing", []),
        (observed(up(leader=True), up(), up(), differs="012"), "rolling", ["infra1", "infra2", "infra0"]),
        (observed(up(), up(), up(leader=True), differs="02"), "rolling", ["infra0", "infra2"]),
        (observed(up(leader=True), DOWN, up(), differs="02"), "rolling", ["infra1", "infra2", "infra0"]),
        # Killed after a quorum had formed, before the third member was started.
        (observed(up(listing("01")), up(listing("01")), FRESH), "rolling", ["infra2"]),
        # A run with --limit on a running cluster.
        (observed(up(), None, None), "nothing", []),
        # There, a stopped member is repaired as usual: the others may run.
        (observed(None, {**DOWN, "members": listing()}, None), "rolling", ["infra1"]),
        # The gate of a member that runs and is not ready waits for the stopped one.
        (
            observed(up(leader=True), {**DOWN, "running": True}, DOWN, differs="012"),
            "rolling",
            ["infra2", "infra1", "infra0"],
        ),
    ],
)
def test_the_action_for_each_state(observations: dict[str, Any], action: str, hosts: list[str]) -> None:
    decision = decide(CLUSTER, observations)
    assert (decision.action, decision.start + decision.order) == (action, hosts), decision
    assert decision.problems == []
    assert decision.state == ("new" if action == "bootstrap" else "existing")


@pytest.mark.parametrize(
    ("observations", "words"),
    [
        # A cluster answers that has none of the members of the inventory, which are fresh: it has been founded.
        (
            observed(*[{**FRESH, "members": [{**LISTED_2, "name": "infra9", "id": "9", "client_urls": ["x"]}]}] * 3),
            "infra0, infra1, infra2: this host joins cluster 'etcd', and no member that this run has seen is ready",
        ),
        (observed(up(), up(), FRESH), "infra2: member 2 (https://10.0.0.8:2380) has lost its data"),
        # Which volume is missing is known from the record.
        (
            observed(up(), up(), {**FRESH, "record": {"data_dir": "/srv/etcd", "member_id": "2", "cluster_id": "c1"}}),
            "its data directory is empty (/srv/etcd). If a volume is not mounted",
        ),
        # A host with data does not join.
        (
            observed(up(listing(names="01")), up(listing(names="01")), DOWN),
            "cluster 'etcd' has no member infra2, and this host has data that has seen a leader",
        ),
        (
            observed(up(listing(names="01")), up(listing(names="01")), BORN),
            "this host has data or a record of an earlier member",
        ),
        (
            observed(
                up(listing(names="01")),
                up(listing(names="01")),
                {**FRESH, "record": {**RECORD, "removed": "2026-11-27"}},
            ),
            "member infra2 was removed from cluster 'etcd' on 2026-11-27, and the inventory still has it",
        ),
        # It has lost its data, and left after that.
        (
            observed(
                {**up(listing(names="01")), "members_of": "c1"}, up(listing(names="01")), {**FRESH, "record": RECORD}
            ),
            "this host has data or a record of an earlier member, so it does not join. If that belongs to another",
        ),
        # Its name in the membership differs: the listed member lacks its data.
        (
            observed(
                {**up([*listing(names="01"), {**LISTED_2, "name": "x"}]), "members_of": "c1"},
                up(listing(names="01")),
                {**FRESH, "record": RECORD},
            ),
            "infra2: the data of this host is missing",
        ),
        (observed(DOWN, FRESH, FRESH), "infra1, infra2 have none"),
        (observed(FRESH, FRESH, None), "infra2 are not part of this run"),
        (observed(DOWN, {**DOWN, "cluster_id": "c2"}, DOWN), "belong to different clusters"),
        (
            observed({**up(), "cluster_id": None, "members_of": "c1"}, {**DOWN, "cluster_id": "c2"}, None),
            "the members that answer: cluster id c1",
        ),
        # With --limit to the host that is not a member.
        (
            observed(None, {**DOWN, "cluster_id": "c2", "members": listing(), "members_of": "c1"}, None),
            "different clusters",
        ),
        (
            observed(up(), {**DOWN, "member_id": "0"}, up()),
            "infra1: the data directory belongs to member 0 (infra0), but infra1 is member 1",
        ),
        (
            observed(DOWN, {**DOWN, "member_id": "a"}, {**DOWN, "member_id": "a"}),
            "infra1 and infra2 have the data directory of the same",
        ),
        (
            observed(FRESH, FRESH, {**FRESH, **BORN, "members": listing()}),
            "infra0: member 0 (https://10.0.0.6:2380) has lost its data",
        ),
        # The data of members that have published was lost, and they were started empty since: their logs have never seen a leader.
        (observed(*[{**BORN, "running": True, "members": listing()}] * 3), "infra0: member 0"),
        (
            observed(up(leader=True), up(), {**BORN, "member_id": "2", "members": listing()}),
            "it was started empty since",
        ),
        (observed(DOWN, BORN, BORN), "only infra0 have data that has seen a leader"),
        # A volume that is not mounted.
        (observed(FRESH, {**FRESH, "founded": True}, FRESH), "was founded before (initial-cluster-state=existing"),
        # The membership of an isolated member is out of date: the others know that infra2 has published.
        (
            observed({**DOWN, "running": True, "members": listing("01")}, up(leader=True), FRESH),
            "infra2: member 2 (https://10.0.0.8:2380) has lost its data",
        ),
        # Without quorum, no member can be replaced.
        (observed(DOWN, FRESH, FRESH), "infra0 cannot be a quorum: restore a snapshot on all hosts. Keep the data"),
        (observed(DOWN, BORN, BORN), "infra0 cannot be a quorum"),
        (observed(DOWN, DOWN, FRESH), "start the members that have data: `systemctl start kubelet` on infra0, infra1"),
        (
            observed({**DOWN, "running": True, "members": listing()}, FRESH, FRESH),
            "If the data is lost, infra0 cannot be a quorum",
        ),
        (
            observed({**DOWN, "running": True, "members": listing()}, DOWN, FRESH),
            "If the data is lost, start the members that have data: `systemctl start kubelet` on infra0, infra1",
        ),
        # The data was removed under members that run, and no certificate is left to ask them with.
        (
            observed(*[{**FRESH, "running": True, "ready": True}] * 3),
            "Do not stop etcd: it may be the last to have the data",
        ),
        (
            observed(FRESH, {**FRESH, "running": True, "age": 90}, FRESH),
            "etcd runs on infra1, and etcd_data_dir there is empty",
        ),
        # Members that listen at another address than their peers connect to.
        (observed(DOWN, {**DOWN, "moved": True}, DOWN), "the members have other addresses in the data of infra1"),
        (observed(BORN, {**BORN, "moved": True}, FRESH), "the members have other addresses in the data of infra1"),
        (
            observed({**DOWN, "running": True, "members": listing()}, {**DOWN, "moved": True}, DOWN),
            "the members have other addresses in the data of infra1",
        ),
    ],
)
def test_states_that_are_refused(observations: dict[str, Any], words: str) -> None:
    decision = decide(CLUSTER, observations)
    assert decision.action == "refuse" and words in merged(decision.problems)[0]
    assert decision.start == decision.order == []


def test_a_member_that_runs_without_its_data_is_not_stopped_before_a_snapshot() -> None:
    emptied = {**up(), "running": True, "has_data": False, "formed": False}
    text = merged(decide(CLUSTER, observed(emptied, up(leader=True), up())).problems)[0]
    assert text.index("First save a snapshot") < text.index("stop etcd (mv") < text.index("replace_member.yml")


def test_a_member_that_lost_its_data_under_another_address_is_to_be_replaced() -> None:
    """The host was built anew, with another address than the cluster remembers."""
    rebuilt = Cluster("etcd", [*CLUSTER.members[:2], Member("infra2", "infra2", "10.0.0.99")], "infra0")
    text = merged(decide(rebuilt, observed(up(leader=True), up(), FRESH)).problems)[0]
    assert "member 2 (https://10.0.0.8:2380)" in text and "replace_member.yml -e etcd_member=infra2" in text


def test_hosts_outside_of_the_run_may_have_quorum() -> None:
    text = merged(decide(CLUSTER, observed(FRESH, {**DOWN, "members": listing()}, None)).problems)[0]
    assert "replace the member while the others are healthy" in text and "systemctl start" not in text


def test_a_learner_does_not_count_as_a_voter() -> None:
    members = [listing(names="0")[0], {**listing("", "1")[0], "is_learner": True}]
    decision = decide(Cluster("etcd", CLUSTER.members[:2], "infra0"), observed(up(members, leader=True), BORN))
    assert decision.join == ["infra1"] and "has one member" in merged(decision.warnings)[0]


def test_small_clusters_are_changed_only_with_etcd_allow_interruption() -> None:
    pair = Cluster("etcd", CLUSTER.members[:2], "infra0")
    observations = observed(up(listing(names="01"), leader=True), up(listing(names="01")), differs="01")
    decision = decide(pair, observations)
    assert decision.action == "refuse" and "etcd_allow_interruption" in merged(decision.problems)[0]
    decision = decide(pair, observations, allow_interruption=True)
    assert (decision.action, decision.order, decision.gated) == ("rolling", ["infra1", "infra0"], False)
    # A member without its certificates still votes.
    stale = {**DOWN, "running": True, "stale": "etcd: runs with a former directory"}
    without = observed(up(listing(names="01"), leader=True), stale, differs="1")
    assert decide(pair, without).action == "refuse"
    assert decide(pair, without, allow_interruption=True).order == ["infra1"]
    # A member that does not run or work cannot be interrupted.
    for state in (DOWN, {**DOWN, "running": True}):
        assert decide(pair, observed(up(listing(names="01")), state, differs="1")).order == ["infra1"]
    # A change of the kubelet, or of a mode, restarts no member.
    for observation in observations.values():
        observation["reasons"]["manifest"] = why("mode", part="manifest")
    assert decide(pair, observations).order == ["infra1", "infra0"]


def test_members_with_a_changed_address() -> None:
    """A running cluster must learn the new address. A cluster without data knows none yet."""
    assert decide(CLUSTER, observed(*[{**up(), "moved": True}] * 3, differs="012")).action == "rolling"
    assert decide(CLUSTER, observed(*[{**FRESH, "moved": True}] * 3)).action == "bootstrap"
    for state, words in ((DOWN, "restore a snapshot"), (BORN, "move the data directories")):
        assert words in merged(decide(CLUSTER, observed(*[{**state, "moved": True}] * 3)).problems)[0]


def test_unknown_member_is_reported_and_left_alone() -> None:
    decision = decide(CLUSTER, observed(*[up(listing(names="0129"))] * 3))
    assert decision.action == "nothing" and "infra9" in decision.warnings[0].text


def test_address_that_begins_like_another_is_another_member() -> None:
    entry = {"name": "", "peer_urls": ["https://10.0.0.71:2380"]}
    assert entry_of(Member("infra1", "infra1", "10.0.0.7"), [entry]) is None


@dataclass(frozen=True)
class Seen:
    """One possible member. data: None (not part of the run), fresh, born (no leader yet), down, hung (runs, not
    ready) or up. listed: not in the membership, listed but never started, or published."""

    data: str | None
    listed: str
    differs: bool = False
    leader: bool = False


STATES = [
    *[Seen(data, listed) for data in (None, "fresh", "born") for listed in ("no", "unstarted", "published")],
    *[Seen(data, "published", differs) for data in ("down", "hung", "up") for differs in (False, True)],
    Seen("down", "no", True),
    Seen("up", "no", True),
    Seen("up", "published", True, leader=True),
    Seen("up", "published", False, leader=True),
]


def cluster_of(size: int) -> Cluster:
    return Cluster("etcd", [Member(f"infra{i}", f"infra{i}", f"10.0.0.{6 + i}") for i in range(size)], "infra0")


def observe(states: tuple[Seen, ...], answers: bool) -> dict[str, Any]:
    """Observations of a cluster. answers: whether a member returns the membership."""
    members = [
        {
            "id": f"{i}",
            "name": f"infra{i}" if state.listed == "published" else "",
            "peer_urls": [f"https://10.0.0.{6 + i}:2380"],
            "client_urls": ["https://x:2379"] if state.listed == "published" else [],
        }
        for i, state in enumerate(states)
        if state.listed != "no"
    ]
    return {
        f"infra{i}": {
            "etcd": {
                "has_data": state.data != "fresh",
                "formed": state.data in ("down", "hung", "up"),
                "running": state.data in ("hung", "up"),
                "ready": state.data == "up",
                "leader": state.leader,
                "members": members if answers else None,
                "alarms": [],
                "cluster_id": None,
            },
            "reasons": {
                "kubelet": [],
                "manifest": OTHER_MANIFEST if state.differs else [],
                "certificates": [],
                "ca": [],
            },
            "pki": {},
        }
        for i, state in enumerate(states)
        if state.data is not None
    }


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5])
def test_every_combination(size: int) -> None:
    """For every combination of states, what a plan must do and must not do.

    Hosts are alike but for the order in which they are written, so combinations stand for all arrangements.
    """
    cluster = cluster_of(size)
    actions: Counter[str] = Counter()
    for states in itertools.combinations_with_replacement(STATES, size):
        if all(state.data is None for state in states) or sum(state.leader for state in states) > 1:
            continue
        # Whether an interruption is allowed matters in a cluster that answers only: decide_without_cluster does not know it.
        for answers, allowed in ((True, True), (True, False), (False, False)):
            decision = decide(cluster, observe(states, answers), allow_interruption=allowed)
            actions[decision.action] += 1
            check_invariants(states, answers, allowed, decision)
    assert set(actions) == {"bootstrap", "nothing", "rolling", "start", "refuse"}, actions


def check_invariants(states: tuple[Seen, ...], answers: bool, allowed: bool, decision: Decision) -> None:
    case = (states, answers, allowed, decision)
    by_host = {f"infra{i}": state for i, state in enumerate(states)}
    touched = decision.order + decision.start
    ready = [host for host, state in by_host.items() if state.data == "up"]
    listed = [host for host, state in by_host.items() if state.listed != "no"]
    # A refusal has problems and changes no host. Other decisions have none.
    assert bool(decision.problems) == (decision.action == "refuse"), case
    assert not (touched and decision.action in ("refuse", "nothing")), case
    # Each host at most once, and only hosts that were observed.
    assert len(touched) == len(set(touched)), case
    assert all(by_host[host].data is not None for host in touched), case
    assert not (decision.order and decision.start), case
    # A cluster is founded only if all hosts were observed and no data has seen a leader.
    assert (decision.state == "new") == (decision.action == "bootstrap"), case
    if decision.action == "bootstrap":
        assert all(state.data in ("fresh", "born") for state in states), case
        assert not (answers and any(state.listed == "published" for state in states)), case
    # A ready member is never started together with others.
    assert not set(decision.start) & set(ready), case
    # No member that has published starts empty, and no host starts that is not in the membership of a cluster that answers.
    for host in touched if decision.action != "bootstrap" else []:
        state = by_host[host]
        if answers and listed:
            assert state.listed != "no" or host in decision.join, case
            assert not (state.data == "fresh" and state.listed == "published"), case
    # A host that joins is fresh or an unfinished learner, and a working member returns the membership.
    for host in decision.join:
        assert by_host[host].data == "fresh" and by_host[host].listed == "no" and ready and answers, case
    if decision.join:
        assert all(state.listed != "unstarted" for state in states if state.data is None), case
    # Members start together only if all were observed, or if the rest cannot be a quorum.
    if decision.action == "start" and answers and listed and None in [state.data for state in states]:
        assert len(listed) - len(decision.start) <= len(listed) // 2, case
    if decision.action != "rolling":
        return
    # Members that are down come first, then working ones, the leader last.
    working = [host for host in decision.order if host in ready]
    assert [host for host in decision.order if host not in decision.join][-len(working) :] == working or not working, (
        case
    )
    assert all(by_host[host].differs for host in working), case
    assert not [host for host in working[:-1] if by_host[host].leader], case
    # One run changes all hosts that differ. If another host has a problem, it only starts stopped members.
    is_held = any("replace_member.yml" in warning.text for warning in decision.warnings)
    assert not (is_held and (working or decision.join)), case
    assert set(working) == {host for host in ready if by_host[host].differs and not is_held}, case
    # After the repairs, the others have quorum while one restarts. The gate asks members that were not observed.
    unknown = [host for host in listed if by_host[host].data is None]
    up = set(ready) | set(decision.order)
    size = len({*listed, *decision.join})
    for host in working:
        left = len(up - {host}) + len(unknown)
        assert left >= size // 2 + 1 or (allowed and not decision.gated), case
    # A turn has no gate only if the cluster is too small for one.
    assert decision.gated or size <= 2, case
    # A small cluster grows before one of its members restarts, another one afterwards.
    kinds = [host in decision.join for host in decision.order if host in [*decision.join, *working]]
    assert kinds == sorted(kinds, reverse=len(listed) <= 2), case


def test_a_member_keeps_its_name() -> None:
    """If the inventory has another name, the message names the one that the cluster has."""
    members = listing()
    members[2]["name"] = "old2"
    decision = decide(CLUSTER, observed(up(members), up(members), DOWN))
    assert decision.action == "refuse" and "set etcd_member_name: old2" in merged(decision.problems)[0]


@pytest.mark.parametrize(
    ("kind", "member", "action"),
    [
        ("CORRUPT", "infra1", "refuse"),
        ("CORRUPT", "", "refuse"),
        ("9", "", "refuse"),
        ("NOSPACE", "infra1", "rolling"),
        ("NOSPACE", "", "rolling"),
    ],
)
def test_alarms(kind: str, member: str, action: str) -> None:
    """An alarm other than NOSPACE on any host stops every change. With NOSPACE the run continues, since it may repair it."""
    state = {"alarms": [{"kind": kind, "member": member}]}
    for observations in (
        observed({**up(leader=True), **state}, up(), up(), differs="1"),
        observed(up(leader=True), up(), {**up(), **state}, differs="1"),
    ):
        decision = decide(CLUSTER, observations)
        assert decision.action == action
        said = merged(decision.problems) + alarm_warnings(CLUSTER, observations)
        assert len(said) == 1 and kind in said[0] and (member or "the whole cluster") in said[0]


@pytest.mark.parametrize(("differs", "order"), [("", ["infra1"]), ("1", ["infra1"]), ("0", ["infra1", "infra0"])])
def test_a_join_that_ended_after_the_promotion_is_finished(differs: str, order: list[str]) -> None:
    """The member votes, and has the further peer URL of its join. If it does not run, that comes first."""
    members = listing()
    members[1]["peer_urls"] = urls_while_joining(members[1]["peer_urls"])
    decision = decide(CLUSTER, observed(up(members, leader=True), up(members), up(members), differs=differs))
    assert (decision.order, decision.join, decision.problems) == (order, ["infra1"], [])
    decision = decide(CLUSTER, observed(up(members, leader=True), DOWN, up(members)))
    assert (decision.order, decision.join) == (["infra1"], [])
    down = {**DOWN, "members": members}
    assert decide(CLUSTER, observed(down, down, down)).start == HOSTS
    # One that moves as well: its turn gives the cluster its new URLs, without the further one.
    moves = {**up(members), "moved": True}
    decision = decide(CLUSTER, observed(up(members, leader=True), moves, up(members), differs="1"))
    assert (decision.order, decision.join, decision.problems) == (["infra1"], [], [])


def test_alarms_are_sorted() -> None:
    alarms = [{"kind": kind, "member": member} for kind in ("NOSPACE", "CORRUPT") for member in ("b", "a", "")]
    found = alarmed(observed({**up(), "alarms": alarms}, {**up(), "alarms": alarms[:2]}, up()))
    assert found == [(kind, member) for kind in ("CORRUPT", "NOSPACE") for member in ("", "a", "b")]


@pytest.mark.parametrize(
    ("url", "address", "same"),
    [
        ("https://10.0.0.6:2380", "10.0.0.6", True),
        ("https://[fd00::6]:2380", "fd00::6", True),
        # As it was written by hand.
        ("https://[fd00:0:0::6]:2380", "fd00::6", True),
        ("https://10.0.0.60:2380", "10.0.0.6", False),
        ("https://infra0.example:2380", "10.0.0.6", False),
    ],
)
def test_a_member_that_has_not_started_is_known_by_its_address(url: str, address: str, same: bool) -> None:
    entry = {"name": "", "peer_urls": [url]}
    assert (entry_of(Member("infra0", "infra0", address), [entry]) is entry) is same


def test_without_quorum_only_members_that_are_down_are_started() -> None:
    alone = {**DOWN, "running": True, "members": listing()}
    decision = decide(CLUSTER, observed(alone, DOWN, DOWN))
    assert (decision.action, decision.start) == ("start", ["infra1", "infra2"])
    # One host outside of the run cannot be a quorum. Two could.
    five = cluster_of(5)
    members = [{"id": f"{i}", "name": f"infra{i}", "client_urls": ["https://x:2379"]} for i in range(5)]
    for stopped, action in ((3, "start"), (2, "rolling")):
        states = [{**DOWN, "members": members, "running": i >= stopped} for i in range(4)]
        looked_at = {f"infra{i}": {**observed(DOWN)["infra0"], "etcd": state} for i, state in enumerate(states)}
        assert decide(five, looked_at).action == action
    # During an election all members run, and none is started.
    decision = decide(CLUSTER, observed(alone, alone, alone))
    assert (decision.action, decision.order) == ("rolling", HOSTS)


def lines_of(cluster: Cluster, decision: Decision, observations: dict[str, Any]) -> list[str]:
    due = [host for host, item in observations.items() if item["reasons"]["certificates"]]
    names = {member.host: member.name for member in cluster.members}
    steps = make_steps(decision, observations, names, certificates=due)
    return plan_lines(cluster, decision, steps, [h for h, item in observations.items() if item["etcd"].get("leader")])


def test_plan_for_people() -> None:
    observations = observed(up(leader=True), up(), up(), differs="01")
    observations["infra2"]["reasons"]["certificates"] = why("peer.crt: 61 days left")
    lines = lines_of(CLUSTER, decide(CLUSTER, observations), observations)
    assert lines == [
        "cluster etcd: one member after the other: infra1, infra0 (the leader, last)",
        "infra2: certificates: peer.crt: 61 days left",
        "infra0, infra1: manifest: x",
    ]
    followers = observed(up(leader=True), up(), up(), differs="12")
    assert lines_of(CLUSTER, decide(CLUSTER, followers), followers)[0].endswith(": infra1, infra2")
    quiet = observed(up(leader=True), up(), up())
    assert lines_of(CLUSTER, decide(CLUSTER, quiet), quiet) == ["cluster etcd: nothing to do"]
    fresh = observed(FRESH, FRESH, FRESH)
    assert "a new cluster of 3 members" in lines_of(CLUSTER, decide(CLUSTER, fresh), fresh)[0]


@pytest.mark.parametrize(
    ("image", "images", "archive", "lacking"),
    [
        ("x/etcd:1", ["a"], "/x.tar", True),
        ("x/etcd:1", None, "/x.tar", True),
        ("x/etcd:1", ["a", "x/etcd:1"], "/x.tar", False),
        ("x/etcd:1", ["a"], "", False),
        (None, ["a"], "/x.tar", False),
    ],
)
def test_a_missing_image_is_a_reason_if_there_is_an_archive(
    image: str | None, images: list[str] | None, archive: str, lacking: bool
) -> None:
    observation = {"config": {"image": image} if image else {}, "images": images}
    reasons = [Reason("image", "missing", "x/etcd:1: missing, imported from /x.tar")] if lacking else []
    assert image_reasons(observation, archive) == reasons


def test_a_run_that_issues_certificates_only() -> None:
    """Other changes are not in its decision, and are no reason to refuse."""
    one = cluster_of(1)
    observations = observed(up(listing("0", "0"), leader=True), differs="0")
    observations["infra0"]["reasons"]["certificates"] = why("peer.crt: renewal is asked for")
    assert decide(one, observations).action == "refuse"
    found = only_certificates(observations)
    decision = without_restarts(one, decide(one, found))
    assert lines_of(one, decision, found) == [
        "cluster etcd: no member is restarted",
        "infra0: certificates: peer.crt: renewal is asked for",
    ]
    for states, action, words in (
        ((FRESH, FRESH, FRESH), "refuse", "Run site.yml first"),
        ((DOWN, DOWN, DOWN), "start", "this run changes certificates only"),
        ((up(leader=True), DOWN, up()), "nothing", "nothing to do"),
    ):
        found = only_certificates(observed(*states, differs="012"))
        decision = without_restarts(CLUSTER, decide(CLUSTER, found))
        assert (decision.action, decision.order, decision.start) == (action, [], [])
        assert words in " ".join([*merged(decision.problems), *lines_of(CLUSTER, decision, found)])


def test_hosts_that_failed_end_the_run() -> None:
    assert lost_problems([]) == [] == lost_problems([], exists=False)
    # A cluster cannot be founded with --limit: an excluded host may have its data.
    told = lost_problems(["infra1"], exists=False)[0]
    assert "--limit" not in told and "a new cluster needs all of its hosts" in told and "inventory" not in told
    assert "--limit 'all:!infra1:!infra2'" in lost_problems(["infra1", "infra2"])[0]
    # A run that was limited to one cluster stays limited.
    assert "--limit 'one:!infra1'" in lost_problems(["infra1"], "one")[0]
    assert "--limit 'infra0,infra1,!infra1'" in lost_problems(["infra1"], "infra0,infra1")[0]


def test_members_that_move_go_first() -> None:
    """Certificates name their former addresses until they have moved. The leader is still the last."""
    moving = {**up(), "moved": True}
    assert decide(CLUSTER, observed(up(), moving, up(leader=True), differs="012")).order == [
        "infra1",
        "infra0",
        "infra2",
    ]
    leading = {**up(leader=True), "moved": True}
    assert decide(CLUSTER, observed(leading, up(), moving, differs="012")).order == ["infra2", "infra1", "infra0"]


def growing(*states: dict[str, Any], learner: int | None = None, differs: str = "") -> tuple[Cluster, dict[str, Any]]:
    """A cluster of these hosts. Those with an empty state are not members yet. learner: the number of one that is."""
    names = "".join(str(i) for i, state in enumerate(states) if state.get("ready") or i == learner)
    published = "".join(name for name in names if states[int(name)]["formed"])
    members = [{**item, "is_learner": item["id"] == str(learner)} for item in listing(published, names)]
    # etcd learns the name of a member when that starts.
    members = [{**item, "name": item["name"] if item["client_urls"] else ""} for item in members]
    found = {
        f"infra{i}": {**observed(FRESH, differs="0" if str(i) in differs else "")["infra0"]} for i in range(len(states))
    }
    for item, state in zip(found.values(), states):
        item["etcd"] = {**state, "members": members if state.get("ready") else None}
    return cluster_of(len(states)), found


LEARNER = {**DOWN, "running": True}


@pytest.mark.parametrize(
    ("case", "order", "join"),
    [
        # From one to three, five, seven.
        (growing(up(), FRESH, FRESH), "12", "12"),
        (growing(up(), up(), up(leader=True), FRESH, FRESH), "34", "34"),
        (growing(*[up()] * 5, FRESH, FRESH), "56", "56"),
        # Members that differ restart before others join, unless they are too few for a restart.
        (growing(up(), up(leader=True), up(), FRESH, differs="01"), "013", "3"),
        (growing(up(), FRESH, FRESH, differs="0"), "120", "12"),
        # An interrupted join is finished first: added and never started, or started and not promoted.
        (growing(up(), up(), FRESH, FRESH, learner=3), "32", "23"),
        (growing(up(), up(), FRESH, LEARNER, learner=3, differs="0"), "302", "23"),
        (growing(up(), up(), FRESH, DOWN, learner=3), "32", "23"),
    ],
)
def test_hosts_that_join(case: tuple[Cluster, dict[str, Any]], order: str, join: str) -> None:
    decision = decide(*case)
    assert decision.problems == []
    assert "".join(host[-1] for host in decision.order) == order
    assert sorted(host[-1] for host in decision.join) == list(join)
    assert decision.gated


def test_the_alarm_of_a_member_that_has_left() -> None:
    """A member that is cut off does not count: it may still list a member that has left."""
    alarms = [{"kind": "CORRUPT", "member": member} for member in ("", "infra1", "2", "a9", "a9")]
    found = observed({**up(), "alarms": alarms}, up(), {**DOWN, "alarms": [{"kind": "CORRUPT", "member": "infra9"}]})
    assert [entry["id"] for entry in departed_with_alarm(found)] == ["a9"]
    assert departed_with_alarm(observed({**DOWN, "alarms": alarms})) == []


@pytest.mark.parametrize("learner", [False, True])
def test_a_run_of_a_joining_host_alone_is_refused(learner: bool) -> None:
    """With --limit. The host has certificates from an earlier run, so it can ask for the membership."""
    members = [*listing("01", "01"), *([{**listing("2", "2")[0], "is_learner": True}] if learner else [])]
    found = {"infra2": {**observed(FRESH)["infra0"], "etcd": {**(LEARNER if learner else FRESH), "members": members}}}
    decision = decide(CLUSTER, found)
    assert (decision.action, decision.order, decision.warnings) == ("refuse", [], [])
    assert [(problem.host, problem.code) for problem in decision.problems] == [("infra2", "no-helper")]
    assert "run it without --limit" in decision.problems[0].text
    # Members that are down are still started.
    decision = decide(CLUSTER, {**found, "infra1": {**observed(DOWN)["infra0"], "etcd": {**DOWN, "members": members}}})
    assert [*decision.start, *decision.order] == ["infra1"] and decision.problems == []


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({**FRESH, "record": RECORD}, "has lost its data"),
        ({**FRESH, "record": {**RECORD, "removed": "2026-11-27"}}, "was removed from cluster"),
    ],
)
def test_stopped_members_start_even_if_another_one_lost_its_data(other: dict[str, Any], words: str) -> None:
    """The other one can be replaced only when all members are healthy."""
    names = "01234" if "lost" in words else "0134"
    members = listing(names, names)
    states = [up(members), DOWN, other, up(members, leader=True), up(members)]
    found = {f"infra{i}": {**observed(FRESH)["infra0"], "etcd": state} for i, state in enumerate(states)}
    found["infra0"]["reasons"] = {**found["infra0"]["reasons"], "manifest": OTHER_MANIFEST}
    decision = decide(cluster_of(5), found)
    assert (decision.action, decision.order, decision.problems) == ("rolling", ["infra1"], [])
    assert [warning.host for warning in decision.warnings if words in warning.text] == ["infra2"]
    # What runs is left: it may be the quorum that is needed.
    found["infra1"]["etcd"] = {**DOWN, "running": True}
    decision = decide(cluster_of(5), found)
    assert (decision.action, decision.order) == ("refuse", []) and words in decision.problems[0].text


def test_the_plan_warns_that_two_members_need_each_other() -> None:
    def notes(*states: dict[str, Any]) -> str:
        return " ".join(merged(decide(*growing(*states)).warnings))

    assert "When infra1 has joined, both are needed for quorum until infra2 has joined" in notes(up(), FRESH, FRESH)
    assert "When infra1 has joined, both are needed for quorum from then on" in notes(up(), FRESH)
    assert "needed for quorum" not in notes(up(), up(), up(), FRESH)


def test_a_down_member_is_repaired_before_another_one_joins() -> None:
    cluster = cluster_of(4)
    states = [up(leader=True), DOWN, up(), FRESH]
    observations = {f"infra{i}": {**observed(state)["infra0"]} for i, state in enumerate(states)}
    decision = decide(cluster, observations)
    assert (decision.order, decision.join) == (["infra1", "infra3"], ["infra3"])


@pytest.mark.parametrize("differs", ["", "0"])
def test_a_learner_whose_host_is_not_in_the_run_holds_up_restarts(differs: str) -> None:
    members = listing()
    members[2]["is_learner"] = True
    decision = decide(CLUSTER, observed(up(members, leader=True), up(members), None, differs=differs))
    assert decision.order == [] and (decision.action == "refuse") == bool(differs)
    said = merged([*decision.problems, *decision.warnings])
    assert "infra2: member infra2 of cluster 'etcd' is a learner" in said[0] and "Run again with its host" in said[0]
    # One that the inventory does not have.
    members = [*listing(), {**listing()[2], "id": "9", "name": "old", "is_learner": True}]
    decision = decide(CLUSTER, observed(up(members, leader=True), up(members), up(members), differs=differs))
    assert decision.order == [] and (decision.action == "refuse") == bool(differs)
    assert "remove_member.yml -e etcd_member=old" in " ".join(merged([*decision.problems, *decision.warnings]))


def test_a_voter_that_is_down_is_started_beside_a_learner_that_is_not_in_the_run() -> None:
    """That restarts no member. Changes of the others wait."""
    cluster = cluster_of(4)
    members = [*listing(), {**listing()[2], "id": "3", "name": "infra3", "is_learner": True}]
    states = [up(members, leader=True), DOWN, up(members)]
    observations = {f"infra{i}": {**observed(state, differs="0")["infra0"]} for i, state in enumerate(states)}
    decision = decide(cluster, observations)
    assert (decision.action, decision.order) == ("rolling", ["infra1"])
    assert "infra3: member infra3 of cluster 'etcd' is a learner" in merged(decision.warnings)[0]


def test_no_member_is_added_beside_one_that_has_never_started_elsewhere() -> None:
    cluster = cluster_of(4)
    members = listing("01")
    states = [up(members, leader=True), up(members)]
    observations = {f"infra{i}": {**observed(state)["infra0"]} for i, state in enumerate(states)}
    observations["infra3"] = observed(FRESH)["infra0"]
    decision = decide(cluster, observations)
    assert (
        decision.action == "refuse" and "https://10.0.0.8:2380 that has never started" in merged(decision.problems)[0]
    )


@pytest.mark.parametrize(("formed", "joins"), [(True, True), (False, False)])
def test_a_learner_that_has_lost_its_data_does_not_join(formed: bool, joins: bool) -> None:
    """It has published: it would take over its former id, without what it has acknowledged."""
    listed = [{**entry, "is_learner": entry["id"] == "2"} for entry in listing()]
    state = {**DOWN, "formed": formed, "has_data": formed}
    found = observed(state)["infra0"]
    assert member_view(Member("infra2", "infra2", "10.0.0.8"), found, listed).joins is joins


@pytest.mark.parametrize("learner", [LEARNER, DOWN], ids=["running", "stopped"])
@pytest.mark.parametrize(
    ("urls", "port", "is_refused"),
    [
        (["https://10.0.0.99:2380"], 2380, True),
        (["https://10.0.0.9:2390"], 2380, True),
        # The further URL of a join leads to no place.
        (urls_while_joining(["https://10.0.0.99:2380"]), 2380, True),
        (["https://10.0.0.9:2380"], 2380, False),
        # By hand, with the name of the host. Only its turn can tell.
        (["https://infra3.example.com:2380"], 2380, False),
        # The host could not tell what is wanted.
        (["https://10.0.0.99:2380"], None, False),
    ],
)
def test_a_learner_that_has_started_elsewhere_is_refused(
    learner: dict[str, Any], urls: list[str], port: int | None, is_refused: bool
) -> None:
    cluster, found = growing(up(), up(), up(leader=True), {**learner, "moved": True}, learner=3)
    for item in found.values():
        item["config"] = {"peer_port": port} if port else {}
        for entry in item["etcd"]["members"] or []:
            if entry["is_learner"]:
                entry["peer_urls"] = urls
    decision = decide(cluster, found)
    if is_refused:
        assert (decision.action, decision.order, decision.start) == ("refuse", [], []), decision
        assert merged(decision.problems) == [
            f"infra3: infra3 is a learner at {', '.join(urls)}, and the inventory has it at https://10.0.0.9:2380. The peer URLs of a learner must"
            " not change (docs/members.md). Put etcd_address and etcd_peer_port back, and change them when it has joined. Or have the host join anew"
            " with an empty data directory: replace_member.yml -e etcd_member=infra3"
        ]
    else:
        assert (decision.order, decision.join, decision.problems) == (["infra3"], ["infra3"], [])


def test_a_stopped_voter_is_started_beside_a_learner_that_has_started_elsewhere() -> None:
    """The quorum may need it. The learner is a warning then."""
    cluster, found = growing(up(), up(), up(), LEARNER, learner=3)
    for item in found.values():
        item["config"] = {"peer_port": 2390}
    found["infra1"]["etcd"] = DOWN
    for host in ("infra0", "infra2"):
        found[host]["etcd"]["members"][1] = {**listing()[1], "is_learner": False}
    decision = decide(cluster, found)
    assert (decision.action, decision.order) == ("rolling", ["infra1"]) and not decision.problems
    assert "infra3 is a learner at https://10.0.0.9:2380" in " ".join(merged(decision.warnings))


def test_a_member_that_left_keeps_no_stopped_one_from_being_started() -> None:
    """If the data is of a listed member with another name, the inventory has confused hosts, and the run is refused."""
    four = Cluster("etcd", [*CLUSTER.members, Member("infra3", "infra3", "10.0.0.9")], "infra0")
    listed = [*listing(names="012"), {**LISTED_2, "id": "5", "name": "infra5"}]
    for data_of, order, stops in (("9", ["infra2"], None), ("5", [], EVERYTHING)):
        found = observed(up(listed), up(listed), DOWN)
        found["infra3"] = {**found["infra2"], "etcd": {**DOWN, "running": True, "member_id": data_of}}
        decision = decide(four, found)
        assert (decision.order, [p.stops for p in decision.problems] or [None]) == (order, [stops]), decision
