"""A member leaves, by the functions that the play calls (plan_run, make_plan)."""

from __future__ import annotations

import copy
from dataclasses import asdict
from typing import Any

import pytest
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.cluster import Cluster
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.departure import (
    Departing,
    after_departure,
    departing,
    name_problem,
)
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.wish import Wish
from ansible_collections.kubeadm.etcd.plugins.module_utils._operations import run as _run
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.members import Member
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.problems import Problem
from test_decision import CLUSTER, DOWN, FRESH, LEARNER, RECORD, cluster_of, listing, up, why
from test_preflight import GOOD
from test_run import PKI

HERE = {**GOOD, "peers": {}, "etcd_manifest": True, "kubelet_override": True}
ANSWERS = {"members_of": "c1", "alarms": []}


def seen(cluster: Cluster, *states: dict[str, Any] | None, members: list[dict[str, Any]]) -> dict[str, Any]:
    """What etcd_observe returned. None: the host could not be reached."""
    found: dict[str, Any] = {}
    for number, (member, state) in enumerate(zip(cluster.members, states)):
        data = {**asdict(cluster), "clients": [], "known": True}
        if state is None:
            found[member.host] = {"cluster": copy.deepcopy(data), "unreachable_because": "timed out"}
            continue
        etcd = {"nonce": f"n{number}", "member_id": str(number), **state}
        etcd.update({**ANSWERS, "members": members} if state.get("ready") else {"members": None})
        if not state["has_data"]:
            etcd["member_id"] = None
        found[member.host] = {
            "cluster": copy.deepcopy(data),
            "facts": {**HERE, "addresses": [member.address], "etcd_manifest": state["has_data"]},
            "etcd": etcd,
            "kubelet": {"allows_swap": False},
            "config": {"image": "x"},
            "images": ["x"],
            "pki": {**PKI, "ca_key": number == 0},
            "reasons": {
                part: why("missing", part=part) if part in ("kubelet", "manifest") and not state["has_data"] else []
                for part in ("kubelet", "ca", "certificates", "config", "manifest", "record")
            },
            "problems": [],
        }
    return found


def run(
    operation: str,
    name: str,
    *states: dict[str, Any] | None,
    members: list[dict[str, Any]] | None = None,
    cluster: Cluster | None = None,
    change: dict[str, dict[str, Any]] | None = None,
    **wishes: Any,
) -> dict[str, Any]:
    cluster = cluster or cluster_of(len(states))
    names = "".join(str(i) for i in range(len(states)))
    found = seen(cluster, *states, members=members or listing(names, names))
    for host, parts in (change or {}).items():
        for part, values in parts.items():
            found[host][part].update(values)
    wish = Wish(operation=operation, member=name, **wishes)
    plan: dict[str, Any] = _run.plan_run(cluster.members[0].host, found, [], wish)
    return plan


UP3 = (up(), up(leader=True), up())
HAS_KEY = {"ca_key": True, "ca_public_key": "k", "ca_cert_key": "k"}


def kinds(plan: dict[str, Any]) -> list[tuple[str, str]]:
    return [(step["kind"], step["host"]) for step in plan["steps"]]


def test_a_healthy_member_is_removed_by_another_one() -> None:
    plan = run("remove", "infra2", *UP3)
    assert plan["problems"] == [] and not plan["settled"]
    assert kinds(plan) == [("leave", "infra0"), ("archive", "infra2")]
    assert plan["departing"] == {"name": "infra2", "id": "2", "host": "infra2", "urls": ["https://x:2379"]}
    assert [member["name"] for member in plan["members"]] == ["infra0", "infra1"]
    assert (plan["leave"], plan["archive"], plan["order"], plan["record"]) == (["infra0"], ["infra2"], [], [])
    assert any(
        "Take it out of the inventory and the etcd endpoints" in text and "infra2" in text for text in plan["notices"]
    )
    # The first host can leave too, after its CA key was moved.
    plan = run("remove", "infra0", *UP3, change={"infra1": {"pki": HAS_KEY}})
    assert kinds(plan) == [("leave", "infra1"), ("archive", "infra0")] and plan["speaker"] == "infra1"


def test_members_that_another_run_may_remove_or_add_meanwhile() -> None:
    """All but the one that this run replaces. Other operations expect all members to the end."""

    def watched(*arguments: Any, **wishes: Any) -> tuple[list[str], list[str]]:
        plan = run(*arguments, **wishes)
        return [member["name"] for member in plan["watched"]], plan["may_be_absent"]

    everyone = ["infra0", "infra1", "infra2"]
    assert watched("remove", "infra2", *UP3) == (everyone[:2], everyone[:2])
    assert watched("replace", "infra2", *UP3, replace_healthy=True) == (everyone, everyone[:2])
    assert watched("converge", "", *UP3) == (everyone, [])
    assert watched("remove", "infra9", *UP3, members=listing("0129", "0129")) == (everyone, everyone)
    # A host that has left, and may join again in another run.
    left = {**FRESH, "record": {**RECORD, "name": "infra3", "removed": "2026-11-27"}}
    seen = watched("remove", "infra2", *UP3, left, members=listing("012", "012"))
    assert seen == (["infra0", "infra1", "infra3"], ["infra0", "infra1", "infra3"])


@pytest.mark.parametrize("operation", ["remove", "replace"])
def test_nothing_else_is_changed(operation: str) -> None:
    """Differences on other hosts are left to site.yml."""
    differs = {"manifest": why("x", part="manifest", restarts=True), "certificates": why("y")}
    plan = run(operation, "infra2", *UP3, change={"infra1": {"reasons": differs}}, replace_healthy=True)
    assert plan["problems"] == [] and "infra1" not in {step["host"] for step in plan["steps"]}


def test_a_host_that_joins_anew_gets_the_image() -> None:
    lacks = {"infra2": {"config": {"image": "y"}}}
    plan = run("replace", "infra2", up(), up(leader=True), FRESH, change=lacks, image_archive="/x.tar")
    assert plan["problems"] == [] and plan["image"] == ["infra2"]
    assert run("remove", "infra2", *UP3, change=lacks, image_archive="/x.tar")["image"] == []
    # Its kubelet is stopped when the host is cleared.
    assert (plan["kubelet"], plan["join"]) == ([], ["infra2"])


def test_what_is_wrong_in_the_inventory_of_a_host_that_is_cleared_is_said() -> None:
    wrong = [Problem("unknown variable etcd_x.", host="infra2", code="inventory").as_dict()]
    plan = run("remove", "infra2", *UP3, change={"infra2": {"cluster": {"problems": wrong}}})
    assert plan["problems"] == ["infra2: unknown variable etcd_x."] and plan["settled"]


def test_a_host_that_is_gone_for_good() -> None:
    plan = run("remove", "infra0", None, *UP3[1:])
    assert plan["problems"] == [] and kinds(plan) == [("leave", "infra1")] and plan["speaker"] == "infra1"
    assert any("infra0: this host cannot be reached" in text for text in plan["notices"])


def test_the_end_of_the_run_does_not_wait_for_a_host_that_has_not_joined() -> None:
    """site.yml adds it, or refuses to."""
    left = {**FRESH, "record": {**RECORD, "name": "infra3", "removed": "2026-11-27"}}
    for other in (FRESH, left):
        plan = run("remove", "infra2", *UP3, other, members=listing("012", "012"))
        assert [member["name"] for member in plan["members"]] == ["infra0", "infra1"]
        plan = run("replace", "infra2", *UP3, other, members=listing("012", "012"), replace_healthy=True)
        assert [member["name"] for member in plan["members"]] == ["infra0", "infra1", "infra2"]
        plan = run("remove", "infra3", *UP3, other, members=listing("012", "012"))
        assert [member["name"] for member in plan["members"]] == ["infra0", "infra1", "infra2"]


def test_a_member_that_the_inventory_does_not_have() -> None:
    for name in ("infra9", "9"):
        plan = run("remove", name, *UP3, members=listing("0129", "0129"))
        assert plan["problems"] == [] and kinds(plan) == [("leave", "infra0")]
        assert plan["departing"] == {"name": "infra9", "id": "9", "host": "", "urls": ["https://x:2379"]}
    plan = run("replace", "infra9", *UP3, members=listing("0129", "0129"))
    assert "has no host in the inventory to join anew" in plan["problems"][0]


def departed(*names: str, alarm: str = "a9") -> dict[str, dict[str, Any]]:
    """Hosts whose member tells the alarm of a member that the membership does not have."""
    return {name: {"etcd": {"alarms": [{"kind": "CORRUPT", "member": alarm}]}} for name in names}


def test_the_alarm_of_a_member_that_has_left_is_disarmed() -> None:
    """Its removal was killed before that. Every run reports it, and the same playbook disarms it, given the id or the host of the member."""
    change = departed("infra0", "infra1")
    for operation in ("converge", "remove"):
        plan = run(operation, "infra1", *UP3, change=change)
        assert "remove_member.yml -e etcd_member=a9" in plan["problems"][0] and plan["steps"] == [], plan["problems"]
    plan = run("remove", "a9", *UP3, change=change)
    assert plan["problems"] == [] and kinds(plan) == [("leave", "infra0")] and plan["departing"]["id"] == "a9"
    assert [reason["code"] for reason in plan["steps"][0]["reasons"]] == ["disarmed"]
    # Without a departure, no snapshot and no notice about endpoints.
    assert kinds(run("remove", "a9", *UP3, change=change, backup_before_change=True)) == [("leave", "infra0")]
    assert not [text for text in plan["notices"] if "etcd endpoints" in text]
    # By the host, which is cleared or joins anew as well.
    states = (*UP3[:2], {**FRESH, "record": {**RECORD, "removed": "2026-11-27"}})
    plan = run("replace", "infra2", *states, members=listing("01", "01"), change=change)
    assert plan["problems"] == [] and plan["steps"][0]["kind"] == "leave"
    assert plan["departing"]["id"] == "a9" and plan["join"] == ["infra2"]
    # The alarm of a present member is kept, and a member that is cut off does not count.
    assert (
        "Replace the member that the alarm names"
        in run("remove", "infra0", *UP3, change=departed("infra1", alarm="infra2"))["problems"][0]
    )
    cut = {
        "infra2": {"etcd": {"members": listing("0129", "0129"), "alarms": [{"kind": "NOSPACE", "member": "infra9"}]}}
    }
    plan = run("remove", "infra9", up(), up(), {**DOWN, "running": True}, change=cut)
    assert plan["problems"] and plan["steps"] == []


@pytest.mark.parametrize(
    ("operation", "name", "states", "words"),
    [
        ("remove", "", UP3, "etcd_member is not set"),
        ("remove", "infra", UP3, "no host of the inventory and no member is called infra. Did you mean infra"),
        ("remove", "infra0", (up(),), "infra0: no other member"),
        ("remove", "infra0", (DOWN, DOWN, DOWN), "no other member of cluster 'etcd' that this run has seen is ready"),
        # A healthy member does not leave while another one is not.
        (
            "remove",
            "infra0",
            (up(), up(), DOWN),
            "without infra0, cluster 'etcd' would have no quorum: of its other 2 voting member(s), infra2 would not be healthy",
        ),
        ("remove", "infra0", (*UP3, up(), DOWN), "infra4 of cluster 'etcd' is not healthy, and infra0 is"),
        ("replace", "infra0", UP3, "member infra0 is healthy. To replace it nevertheless"),
        ("replace", "infra0", (None, *UP3[1:]), "infra0: this host cannot be reached"),
    ],
)
def test_what_is_refused(operation: str, name: str, states: Any, words: str) -> None:
    plan = run(operation, name, *states)
    assert plan["problems"] and words.split(": ", 1)[-1] in " ".join(plan["problems"]), plan["problems"]
    assert plan["steps"] == [] and plan["settled"] and plan["order"] == []


def test_a_cluster_that_exists_is_not_founded() -> None:
    """The member that leaves is the only one that answers, and another host was lost."""
    found = seen(cluster_of(2), up(), None, members=listing("0", "0"))
    plan = _run.plan_run("infra0", found, ["infra1"], _run.Wish(operation="remove", member="infra0"))
    assert "leave these hosts out of the run: --limit 'all:!infra1'" in " ".join(plan["problems"])


LOST = {**FRESH, "record": RECORD}


def learning(name: str, names: str = "0123") -> list[dict[str, Any]]:
    """A membership in which one is a learner."""
    return [{**item, "is_learner": item["name"] == name} for item in listing(names, names)]


@pytest.mark.parametrize(
    ("name", "states", "members", "words"),
    [
        # Its join may be finished first, unless the member that is to be replaced keeps it from that.
        (
            "infra2",
            (*UP3, LEARNER),
            learning("infra3"),
            "Run site.yml to finish its join, and replace infra2 afterwards",
        ),
        (
            "infra2",
            (*UP3[:2], LOST, LEARNER),
            learning("infra3"),
            "Remove it (remove_member.yml -e etcd_member=infra3), replace infra2, and then infra3",
        ),
        # After the member has left, its host keeps site.yml from joining others.
        ("infra2", (*UP3[:2], LOST, LEARNER), learning("infra3", "013"), "Remove it (remove_member.yml"),
        # A learner that the inventory does not have.
        ("infra2", UP3, learning("infra9", "0129"), "Remove it (remove_member.yml -e etcd_member=infra9)"),
        # Never started, down, and without its data.
        ("infra4", (*UP3, FRESH, DOWN), listing("0124", "01234"), "infra3 of cluster 'etcd' is not healthy"),
        ("infra4", (*UP3, DOWN, DOWN), listing("01234", "01234"), "Run site.yml to repair infra3 first"),
        (
            "infra4",
            (*UP3, LOST, LOST),
            listing("01234", "01234"),
            "remove it (remove_member.yml -e etcd_member=infra3)",
        ),
    ],
)
def test_none_is_replaced_beside_a_learner_or_another_member_that_is_unwell(
    name: str, states: Any, members: list[dict[str, Any]], words: str
) -> None:
    """It could not join anew, and would be missing until then."""
    plan = run("replace", name, *states, members=members, replace_healthy=True)
    assert words in " ".join(plan["problems"]) and plan["steps"] == [], plan["problems"]


def test_the_way_out_of_a_learner_beside_a_member_without_its_data() -> None:
    """In the order of the messages: the learner leaves, the other member is replaced, then the learner joins again."""
    states = (*UP3[:2], LOST, LEARNER)
    plan = run("converge", "", *states, members=learning("infra3"))
    assert (
        "first remove the learner infra3 (remove_member.yml -e etcd_member=infra3), because no member joins beside it, and then run replace"
        in " ".join(plan["problems"])
    )
    plan = run("remove", "infra3", *states, members=learning("infra3"))
    assert plan["problems"] == [] and kinds(plan) == [("leave", "infra0"), ("archive", "infra3")]
    left = {**FRESH, "record": {**RECORD, "removed": "2026-11-27"}}
    plan = run("replace", "infra2", *UP3[:2], LOST, left, members=listing("012", "012"))
    assert plan["problems"] == [] and plan["join"] == ["infra2"]
    plan = run("replace", "infra3", *UP3, left, members=listing("012", "012"))
    assert plan["problems"] == [] and plan["join"] == ["infra3"]


def test_a_learner_whose_host_is_not_part_of_the_run() -> None:
    """It may be gone for good."""
    found = seen(cluster_of(4), *UP3, LEARNER, members=learning("infra3"))
    del found["infra3"]
    found["infra1"]["reasons"]["manifest"] = why("x", part="manifest", restarts=True)
    plan = _run.plan_run("infra0", found, [], Wish())
    assert (
        "Run again with its host" in plan["problems"][0]
        and "remove_member.yml -e etcd_member=infra3" in plan["problems"][0]
    )


def test_two_members_of_one_name() -> None:
    """A host was added anew by hand, at another address, and its former member is still listed. No message names the live one for removal."""
    former = {**listing("2", "2")[0], "id": "99", "peer_urls": ["https://10.0.0.99:2380"]}
    both = [former, *listing()]
    plan = run("converge", "", *UP3, members=both)
    assert plan["problems"] == [] and any("remove_member.yml -e etcd_member=99" in text for text in plan["notices"])
    plan = run("remove", "99", *UP3, members=both)
    assert plan["problems"] == [] and kinds(plan) == [("leave", "infra0")] and plan["departing"]["id"] == "99"
    # The name means the host of the inventory, and so its live member.
    assert run("remove", "infra2", *UP3, members=both)["departing"]["id"] == "2"
    # A learner with the name of an inventory host that is another member.
    cluster = Cluster("etcd", [*CLUSTER.members[:2], Member("infra9", "infra2", "10.0.0.8")], "infra0")
    lost = (*UP3[:2], {**FRESH, "record": RECORD})
    members = [*listing(), {**listing("9", "9")[0], "id": "77", "is_learner": True}]
    for operation in ("converge", "replace"):
        text = " ".join(run(operation, "infra2", *lost, members=members, cluster=cluster)["problems"])
        assert "remove_member.yml -e etcd_member=77" in text and "etcd_member=infra9 first" not in text, text


@pytest.mark.parametrize("operation", ["remove", "replace"])
def test_a_name_of_two_members_that_the_address_does_not_tell_apart(operation: str) -> None:
    """One of them may be alive. The id says which one is meant."""
    former = [{**item, "id": f"b{item['id']}", "name": "infra2"} for item in listing("45", "45")]
    moved = Cluster("etcd", [*CLUSTER.members[:2], Member("infra2", "infra2", "10.0.0.50")], "infra0")
    lost = (*UP3[:2], FRESH)
    plan = run(operation, "infra2", *lost, members=[*listing("01", "01"), *former], cluster=moved)
    assert plan["steps"] == [] and "infra2 can mean 2 members of cluster 'etcd'" in plan["problems"][0], plan[
        "problems"
    ]
    assert "b4 (https://10.0.0.10:2380); b5" in plan["problems"][0]
    # Beside the inventory.
    elsewhere = [*listing(), *({**item, "name": "old"} for item in former)]
    assert "old can mean 2 members" in run(operation, "old", *UP3, members=elsewhere)["problems"][0]
    if operation == "remove":
        plan = run("remove", "b5", *UP3, members=elsewhere)
        assert plan["problems"] == [] and plan["departing"]["id"] == "b5"


def test_dead_members_of_five_leave_one_by_one() -> None:
    plan = run("remove", "infra4", up(), up(), up(), DOWN, DOWN)
    assert plan["problems"] == [] and kinds(plan) == [("leave", "infra0"), ("archive", "infra4")]
    # With three dead there is no quorum.
    assert run("remove", "infra4", up(), up(), DOWN, DOWN, DOWN)["problems"]


def test_a_removal_that_was_killed_is_finished() -> None:
    members = listing("01", "01")
    # After the membership was changed.
    plan = run("remove", "infra2", *UP3[:2], DOWN, members=members)
    assert plan["problems"] == [] and kinds(plan) == [("archive", "infra2")]
    # After the host was cleared.
    cleared = {**FRESH, "record": {**RECORD, "removed": "2026-11-27"}}
    gone = {"infra2": {"facts": {"etcd_manifest": False, "kubelet_override": False}}}
    plan = run("remove", "infra2", *UP3[:2], cleared, members=members, change=gone)
    assert plan["problems"] == [] and plan["settled"]


def test_a_host_with_data_of_another_member_is_not_cleared() -> None:
    members = listing("01", "01")
    # The inventory calls a live member by another name.
    renamed = Cluster("etcd", [*CLUSTER.members[:2], Member("infra2", "other", "10.0.0.99")], "infra0")
    plan = run("remove", "infra2", *UP3, cluster=renamed)
    assert "that of member infra2 of cluster 'etcd', which stays" in plan["problems"][0]
    # A record that was made without data says nothing of a cluster.
    unknown = {**FRESH, "record": {**RECORD, "cluster_id": "unknown", "removed": "2026-11-27"}}
    assert run("replace", "infra2", *UP3[:2], unknown, members=members)["problems"] == []
    # Data of another cluster.
    plan = run("remove", "infra2", *UP3[:2], {**DOWN, "cluster_id": "c2"}, members=members)
    assert "is of cluster c2, and cluster 'etcd' is c1" in plan["problems"][0] and plan["steps"] == []


def test_a_departure_that_is_refused_has_no_steps() -> None:
    """Even if the run has other problems."""
    found = seen(cluster_of(3), *UP3, members=listing())
    wish = Wish(operation="remove", member="infra2", backup_before_change=True)
    assert kinds(_run.plan_run("infra0", found, [], wish))
    plan = _run.plan_run("infra0", found, ["infra1"], wish)
    assert "infra1 cannot be reached" in plan["problems"][0] and plan["steps"] == [] and plan["settled"]


def test_the_only_ca_key_stays_in_the_inventory() -> None:
    assert "move_ca.yml" in run("remove", "infra0", *UP3)["problems"][0]
    # A key elsewhere is another one, or that of another CA, or cannot be read.
    for mine, other, is_refused in (
        (HAS_KEY, HAS_KEY, False),
        ({}, HAS_KEY, False),
        # Its own is of another CA.
        ({**HAS_KEY, "ca_public_key": "x"}, HAS_KEY, False),
        (HAS_KEY, {"ca_key": True}, True),
        (HAS_KEY, {**HAS_KEY, "ca_public_key": "x"}, True),
        (HAS_KEY, {**HAS_KEY, "ca_public_key": "x", "ca_cert_key": "x"}, True),
    ):
        plan = run("remove", "infra0", *UP3, wipe_keys=True, change={"infra0": {"pki": mine}, "infra1": {"pki": other}})
        assert bool(plan["problems"]) is is_refused, (mine, other)
    # A host that is replaced keeps it.
    assert run("replace", "infra0", *UP3, replace_healthy=True)["problems"] == []


@pytest.mark.parametrize(
    ("alarm", "refused"), [(("CORRUPT", "infra2"), False), (("CORRUPT", "infra1"), True), (("CORRUPT", ""), True)]
)
def test_a_member_whose_data_is_corrupt_may_be_absent(alarm: tuple[str, str], refused: bool) -> None:
    change = {"infra0": {"etcd": {"alarms": [{"kind": alarm[0], "member": alarm[1]}]}}}
    for operation in ("remove", "replace"):
        plan = run(operation, "infra2", *UP3, change=change, replace_healthy=True)
        assert bool(plan["problems"]) == refused, plan["problems"]


@pytest.mark.parametrize(
    ("state", "members", "steps"),
    [
        # It lost its data.
        ({**FRESH, "record": RECORD}, "012", ["leave", "archive", "join"]),
        # The host was rebuilt from nothing.
        (FRESH, "012", ["leave", "join"]),
        # It was started empty since.
        ({**DOWN, "formed": False, "running": True}, "012", ["leave", "archive", "join"]),
        # Killed after the member left, after the host was cleared.
        ({**FRESH, "record": RECORD}, "01", ["archive", "join"]),
        ({**FRESH, "record": {**RECORD, "removed": "x"}}, "01", ["join"]),
        (DOWN, "012", ["leave", "archive", "join"]),
    ],
)
def test_a_member_is_replaced(state: dict[str, Any], members: str, steps: list[str]) -> None:
    change = {"infra2": {"facts": {"etcd_manifest": state["has_data"], "kubelet_override": False}}}
    plan = run("replace", "infra2", *UP3[:2], state, members=listing(members, members), change=change)
    assert plan["problems"] == []
    assert [step["kind"] for step in plan["steps"] if step["kind"] in ("leave", "archive", "join", "turn")] == steps
    assert (plan["order"], plan["join"], plan["record"]) == (["infra2"], ["infra2"], ["infra2"])
    # No other host is changed.
    assert {step["host"] for step in plan["steps"]} <= {"infra0", "infra2"}


def test_a_healthy_member_is_replaced_on_demand() -> None:
    plan = run("replace", "infra1", *UP3, replace_healthy=True)
    assert plan["problems"] == [] and kinds(plan)[:2] == [("leave", "infra0"), ("archive", "infra1")]
    assert plan["join"] == ["infra1"]


def test_a_replaced_member_keeps_its_endpoint() -> None:
    plan = run("replace", "infra2", *UP3, replace_healthy=True)
    assert not any("Take it out" in text for text in plan["notices"])
    plan = run("remove", "infra9", *UP3, members=listing("0129", "0129"))
    assert any("Take it out of the etcd endpoints" in text for text in plan["notices"])


def test_the_membership_after_a_departure() -> None:
    observations = {"infra0": {"etcd": up(), "reasons": {"manifest": ["x"]}}}
    leaving = Departing(None, {"id": "2", "name": "infra2"})
    after = after_departure(observations, leaving, "remove")["infra0"]
    assert [entry["id"] for entry in after["etcd"]["members"]] == ["0", "1"] and after["reasons"] == {"manifest": []}


def test_names_are_matched_exactly_and_in_one_cluster() -> None:
    entries = listing()
    assert departing(CLUSTER, entries, "infra") is None and departing(CLUSTER, entries, "INFRA1") is None
    named = departing(CLUSTER, entries, "1")
    assert named and named.member and named.member.host == "infra1"
    second = Cluster("b", [Member("b0", "infra0", "10.0.1.6")], "b0")
    both = {"a": (CLUSTER, entries), "b": (second, [])}
    # An inventory host says which cluster is meant.
    assert name_problem("infra0", both) == "" and name_problem("b0", both) == ""
    # A host and the member of another host are called the same.
    crossed = Cluster("x", [Member("a1", "a2", "10.0.4.6"), Member("a2", "a1", "10.0.4.7")], "a1")
    assert "can mean two members: a2, whose inventory host it is, and the member of that name on a2" in name_problem(
        "a1", {"x": (crossed, [])}
    )
    third = Cluster("c", [Member("c0", "infra7", "10.0.2.6")], "c0")
    fourth = Cluster("d", [Member("d0", "infra7", "10.0.3.6")], "d0")
    assert "clusters c, d have a member infra7 each" in name_problem("infra7", {"c": (third, []), "d": (fourth, [])})


def test_a_host_means_its_own_cluster() -> None:
    """Two clusters in one play, each with a member of that name: only the one whose host was named loses it."""
    first = cluster_of(3)
    hosts = [Member(f"b{i}", f"infra{i}", f"10.0.1.{6 + i}") for i in range(3)]
    second = Cluster("b", hosts, "b0")
    found = {**seen(first, *UP3, members=listing()), **seen(second, *UP3, members=listing())}
    # A host that failed before it was observed.
    found["b2"] = {}
    wish = Wish(operation="remove", member="infra2")
    plans = {host: _run.plan_run(host, found, [], wish) for host in ("infra0", "b0")}
    assert kinds(plans["infra0"]) == [("leave", "infra0"), ("archive", "infra2")] and plans["infra0"]["problems"] == []
    assert plans["b0"]["settled"] and plans["b0"]["departing"] == {"name": "", "id": "", "host": "", "urls": []}
