"""The identity of the data on a host: contradictions are refused."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.kubeadm.etcd.plugins.module_utils._control import decision as _decision
from ansible_collections.kubeadm.etcd.plugins.module_utils._control import identity as _identity
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.members import Member
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.problems import SIGN, merged
from test_decision import BORN, CLUSTER, DOWN, FRESH, listing, observed, up


def recorded(state: dict[str, Any], number: int, **changes: str) -> dict[str, Any]:
    """A state of a member beside its record."""
    record = {
        "name": f"infra{number}",
        "cluster_id": "c1",
        "member_id": f"{number}",
        "data_dir": "/var/lib/etcd",
        "ca": "",
    }
    return {"member_id": f"{number}" if state["has_data"] else None, **state, "record": {**record, **changes}}


RUNNING = {**up(), "members_of": "c1"}


@pytest.mark.parametrize(
    ("states", "words"),
    [
        # Volumes that are not mounted: on one host, on all, with and without members that answer.
        (
            [recorded(FRESH, 0), recorded(FRESH, 1), recorded(FRESH, 2)],
            "infra0: the data of this host is missing: according to its record (member.json), it was member 0",
        ),
        ([recorded(FRESH, 0), FRESH, FRESH], "infra0: the data of this host is missing"),
        ([recorded(DOWN, 0), recorded(DOWN, 1), recorded(FRESH, 2)], "infra2: the data of this host is missing"),
        # Two of three were started empty by their kubelets, and found a cluster beside the first host, which has not come back.
        (
            [recorded(FRESH, 0), *[{**up(listing("12")), "cluster_id": "c2", "members_of": "c2"}] * 2],
            "infra0: the data of this host is missing",
        ),
        # Emptied and started again since: the logs that etcd has written have never seen a leader.
        (
            [recorded(BORN, 0), recorded(BORN, 1), recorded(BORN, 2)],
            "a log without a leader was written since",
        ),
        ([recorded({**BORN, "members": listing("")}, n) for n in range(3)], "infra0: the data of this host is missing"),
        # Another volume, and the data of another member.
        (
            [recorded({**DOWN, "cluster_id": "c2"}, 0), recorded(DOWN, 1), recorded(DOWN, 2)],
            "belong to different clusters",
        ),
        (
            [recorded({**DOWN, "cluster_id": "c2"}, n) for n in range(3)],
            "infra0: the data directory belongs to member 0 of cluster c2",
        ),
        (
            [recorded(DOWN, 0, member_id="7"), recorded(DOWN, 1), recorded(DOWN, 2)],
            "infra0: the data directory belongs to member 0",
        ),
        # Restored snapshots beside newer data.
        (
            [{**DOWN, "restored": True}, DOWN, DOWN],
            "infra0: the data directory is a restored snapshot, and infra1, infra2 would",
        ),
        (
            [{**DOWN, "restored": True}, {**DOWN, "restored": True}, None],
            "infra0, infra1: the data directory is a restored",
        ),
        (
            [RUNNING, RUNNING, {**DOWN, "restored": True}],
            "infra2: the data directory is a restored snapshot, and the members that answer",
        ),
    ],
)
def test_contradictions_are_refused(states: list[dict[str, Any] | None], words: str) -> None:
    decision = _decision.decide(CLUSTER, observed(*states))
    assert decision.action == "refuse" and words in " ".join(merged(decision.problems)), decision
    # Certificates are renewed in spite of an unmounted volume, but not if hosts are confused.
    assert bool([problem for problem in decision.problems if SIGN in problem.stops]) == ("different clusters" in words)


@pytest.mark.parametrize(
    ("states", "action"),
    [
        ([recorded(RUNNING, n) for n in range(3)], "nothing"),
        ([recorded(DOWN, n) for n in range(3)], "start"),
        # What runs proves which data is right; the record is renewed.
        ([recorded(RUNNING, 0, cluster_id="old", member_id="9"), RUNNING, RUNNING], "nothing"),
        ([recorded(RUNNING, 0), RUNNING, recorded({**DOWN, "members": listing()}, 2, cluster_id="old")], "rolling"),
        # Removed and added again: it has another id, and has not started yet.
        (
            [
                {**up(listing("01")), "members_of": "c1"},
                {**up(listing("01")), "members_of": "c1"},
                recorded(FRESH, 2, member_id="former"),
            ],
            "rolling",
        ),
        # The same snapshot was restored on all hosts: a new cluster, even if the records differ.
        ([recorded({**DOWN, "restored": True, "cluster_id": "c9"}, n) for n in range(3)], "start"),
    ],
)
def test_data_without_a_contradiction_is_accepted(states: list[dict[str, Any]], action: str) -> None:
    decision = _decision.decide(CLUSTER, observed(*states))
    assert (decision.action, decision.problems) == (action, []), decision


def test_members_with_only_themselves_in_initial_cluster() -> None:
    """Members that have run before. A new one needs the full list to join."""
    one = {**up(listing("01")), "members_of": "c1"}
    assert _decision.decide(CLUSTER, observed(one, one, FRESH)).published == ["infra0", "infra1"]
    assert _decision.decide(CLUSTER, observed(DOWN, DOWN, DOWN)).published == ["infra0", "infra1", "infra2"]
    assert _decision.decide(CLUSTER, observed(FRESH, FRESH, FRESH)).published == []
    assert _decision.decide(CLUSTER, observed(BORN, BORN, BORN)).published == []


def test_a_minority_of_logs_that_were_led_does_not_start() -> None:
    """Two members that may have lost their data would outvote the one that has it."""
    assert _decision.decide(CLUSTER, observed(DOWN, DOWN, BORN)).start == ["infra0", "infra1"]
    assert _decision.decide(CLUSTER, observed(DOWN, BORN, BORN)).action == "refuse"
    # The others may be led: this run does not see them.
    assert _decision.decide(CLUSTER, observed(DOWN, BORN, None)).start == ["infra0"]


@pytest.mark.parametrize("spelling", ["fd00::7", "fd00:0:0:0:0:0:0:7", "FD00::7"])
def test_an_address_has_many_spellings(spelling: str) -> None:
    entry = {"id": "1", "name": "", "peer_urls": [f"https://[{spelling}]:2380"]}
    assert _identity.entry_of(Member("b", "b", "fd00::7"), [entry]) is entry
    assert _identity.entry_of(Member("b", "b", "fd00::71"), [entry]) is None


@pytest.mark.parametrize("running", [True, False])
def test_a_live_member_that_the_inventory_takes_for_another_is_not_to_be_stopped(running: bool) -> None:
    """Two hosts were swapped in the inventory. A process with the other name does not count as this member."""
    states = [{**(up() if running else DOWN), "members": listing(), "member_id": number} for number in "021"]
    texts = merged(_decision.decide(CLUSTER, observed(*states)).problems)
    assert len(texts) == 2 and "the inventory mixes up the hosts of infra2 and infra1" in texts[0]
    assert all("do not touch it: correct ansible_host" in text and "Only if infra" in text for text in texts)
    # The data of a member that is not in the membership is old.
    states[1]["member_id"] = "9"
    assert (
        "is from before infra1 was removed and added again"
        in merged(_decision.decide(CLUSTER, observed(*states)).problems)[0]
    )


def test_a_member_keeps_its_name_while_the_cluster_is_down() -> None:
    states = [recorded(DOWN, 0), recorded(DOWN, 1, name="infra2"), recorded(DOWN, 2, name="infra1")]
    states[1]["record"]["member_id"], states[2]["record"]["member_id"] = "1", "2"
    problems = _decision.decide(CLUSTER, observed(*states)).problems
    assert [problem.host for problem in problems] == ["infra1", "infra2"] and SIGN in problems[0].stops
    assert (
        "Set etcd_member_name: infra2 for this host. If this is the wrong host, correct ansible_host"
        in problems[0].text
    )
    # What runs counts more.
    alive = [recorded({**RUNNING, "members": listing()}, n) for n in range(3)]
    alive[1]["record"]["name"] = "former"
    assert _decision.decide(CLUSTER, observed(*alive)).action == "nothing"
