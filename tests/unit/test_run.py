"""The plan of a run, by the function that the play calls."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.view import View, is_lockstep, not_in_lockstep
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.wish import Wish
from ansible_collections.kubeadm.etcd.plugins.module_utils._operations import converge as _converge
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.problems import (
    FOUND,
    PROCESSES,
    RESTART,
    SIGN,
    START,
)
from test_decision import BORN, CLUSTER, DOWN, FRESH, HOSTS, listing, observed, up, why
from test_preflight import GOOD

ADDRESSES = ["10.0.0.6", "10.0.0.7", "10.0.0.8"]
PKI = {"ca_fingerprint": "f", "ca_id": "f", "ca_key": False, "ca_problems": [], "warnings": [], "certificates": []}
ALL_UP = (up(leader=True), up(), up())


def observations(*states: dict[str, Any] | None, differs: str = "", due: str = "", **problems: Any) -> dict[str, Any]:
    """Observations as hosts return them. due: numbers of hosts with a certificate that ends soon. problems: by host, (text, stops)."""
    found: dict[str, Any] = copy.deepcopy(observed(*states, differs=differs))
    for host, item in found.items():
        number = host[-1]
        item["facts"] = {**GOOD, "addresses": [ADDRESSES[int(number)]], "peers": {}}
        item["kubelet"] = {"allows_swap": False}
        item["config"], item["images"] = {"image": "x"}, ["x"]
        item["pki"] = {**PKI, "ca_key": number == "0"}
        item["reasons"]["certificates"] = why("etcd/server.crt: renewed, 2 days left of 365") if number in due else []
        item["etcd"] = {**item["etcd"], "nonce": f"n{number}"}
        item["problems"] = [{"text": text, "stops": list(stops)} for text, stops in problems.get(host, [])]
    return found


def planned(found: dict[str, Any], **wishes: Any) -> dict[str, Any]:
    there = {"members": [host for host in HOSTS if host in found], **wishes.pop("there", {})}
    return _converge.plan(View(copy.deepcopy(CLUSTER), found, **there), Wish(**wishes))


def acts(plan: dict[str, Any]) -> bool:
    """Whether a plan changes any host."""
    return bool(plan["order"] or plan["start"] or plan["image"])


def test_a_settled_cluster() -> None:
    plan = planned(observations(*ALL_UP))
    assert plan["settled"] and plan["action"] == "nothing" and plan["problems"] == plan["held"] == plan["record"] == []


@pytest.mark.parametrize(
    ("changes", "first"),
    [
        ({}, True),
        # The kubelet would start etcd before its turn.
        ({"facts": {"etcd_manifest": True}}, False),
        # The turn installs another kubelet.
        ({"reasons": {"packages": why("x", part="packages")}}, False),
        ({"reasons": {"kubelet": []}}, False),
    ],
)
def test_the_kubelet_of_a_host_that_joins_is_started_before_its_turn(changes: dict[str, Any], first: bool) -> None:
    members = listing("01", "01")
    found = observations(up(members, leader=True), up(members), FRESH)
    found["infra2"]["reasons"].update(kubelet=why("missing", part="kubelet"), packages=[])
    found["infra2"]["facts"] = {**found["infra2"]["facts"], "etcd_manifest": False}
    for part, values in changes.items():
        found["infra2"][part].update(values)
    # A member that runs has its kubelet changed in its turn.
    found["infra1"]["reasons"]["kubelet"] = why("differs", part="kubelet", restarts=True)
    plan = planned(found)
    assert plan["problems"] == [] and plan["join"] == ["infra2"] and "infra1" in plan["order"]
    assert plan["kubelet"] == (["infra2"] if first else [])


@pytest.mark.parametrize("part", ["kubelet", "ca", "certificates", "config", "manifest", "record"])
def test_what_differs_is_not_settled(part: str) -> None:
    found = observations(*ALL_UP)
    # The CA is made on the CA host.
    found["infra0"]["reasons"][part] = why("differs", part=part)
    plan = planned(found)
    assert not plan["settled"] and plan["problems"] == []
    # A member that is changed gets the record that it lacks.
    assert plan["record"] == (["infra0"] if part in ("record", "kubelet", "manifest") else [])


DISK = ("the disk is nearly full", (FOUND, START))
SWAP = ("swap is on", PROCESSES)
CLOCK = ("the clock is off", (SIGN, FOUND))
WORSE = ("unknown", (FOUND, START, RESTART, SIGN))


@pytest.mark.parametrize(
    ("problem", "found", "outcome"),
    [
        # The problem stops nothing that is due: a warning. A problem that stops everything is still refused.
        (SWAP, {}, "warned"),
        (CLOCK, {}, "warned"),
        (WORSE, {}, "refused"),
        # A restart is due on that host, or on another one.
        (SWAP, {"differs": "1"}, "refused"),
        (SWAP, {"differs": "0"}, "warned"),
        (DISK, {"differs": "1"}, "warned"),
        # A certificate ends in two days.
        (SWAP, {"due": "1"}, "warned"),
        (DISK, {"due": "12"}, "warned"),
        (CLOCK, {"due": "1"}, "refused"),
        # Both: certificates are issued, the restart is left out, and the run fails at its end.
        (SWAP, {"due": "1", "differs": "1"}, "held"),
        (SWAP, {"due": "0", "differs": "12"}, "held"),
        (CLOCK, {"due": "0", "differs": "1"}, "refused"),
    ],
)
def test_what_a_problem_stops(problem: tuple[str, Any], found: dict[str, str], outcome: str) -> None:
    plan = planned(observations(*ALL_UP, **found, infra1=[problem]))
    said = f"infra1: {problem[0]}"
    assert (said in plan["problems"], said in plan["held"], said in plan["notices"]) == (
        outcome == "refused",
        outcome == "held",
        outcome == "warned",
    ), plan
    assert acts(plan) == (outcome == "warned" and "differs" in found)
    if outcome == "held":
        assert plan["certificates"] and not plan["settled"] and plan["action"] == "nothing"


def test_any_problem_keeps_a_cluster_from_being_founded() -> None:
    for stops in (PROCESSES, (SIGN,), (RESTART,), (FOUND,)):
        plan = planned(observations(FRESH, FRESH, FRESH, due="012", infra2=[("x", stops)]))
        assert plan["action"] == "refuse" and plan["problems"] == ["infra2: x"] and not plan["held"]


@pytest.mark.parametrize("wishes", [{}, {"operation": "renew"}], ids=["site.yml", "renew_certificates.yml"])
@pytest.mark.parametrize(
    ("found", "left_out"),
    [
        (observations(up(leader=True), DOWN, up(), due="0", infra1=[SWAP]), True),
        (observations(up(leader=True), up(), FRESH, due="01"), True),
        (observations(up(leader=True), DOWN, up(), due="0"), False),
    ],
    ids=[
        "a member that must not be started",
        "a member without data",
        "a member that is down",
    ],
)
def test_renewal_in_spite_of_problems_of_members(found: dict[str, Any], left_out: bool, wishes: dict[str, Any]) -> None:
    """A problem that keeps a member from starting does not stop a renewal."""
    plan = planned(found, **wishes)
    assert plan["problems"] == [] and plan["certificates"], plan
    assert bool(plan["held"]) == (left_out and not wishes)
    assert not (wishes and acts(plan)) and not (left_out and acts(plan))


def test_a_renewal_beside_a_restart_that_is_not_allowed() -> None:
    single = copy.deepcopy(CLUSTER)
    del single.members[1:]
    found = observations(up(listing("0", "0"), leader=True), differs="0", due="0")
    plan = _converge.plan(View(single, found, ["infra0"]), Wish())
    assert plan["problems"] == [] and plan["certificates"] and "etcd_allow_interruption" in plan["held"][0]
    found = observations(up(listing("0", "0"), leader=True), differs="0")
    plan = _converge.plan(View(single, found, ["infra0"]), Wish())
    assert "etcd_allow_interruption" in plan["problems"][0] and not plan["held"]


def test_a_corrupt_cluster_is_left_alone() -> None:
    state = {**up(leader=True), "alarms": [{"kind": "CORRUPT", "member": "infra1"}]}
    plan = planned(observations(state, up(), up(), due="012", differs="0"))
    assert plan["action"] == "refuse" and "CORRUPT" in plan["problems"][0] and not acts(plan)


def test_hosts_that_do_not_wait_for_each_other() -> None:
    """The strategies free and host_pinned. Failed hosts are reported as failed."""
    found = observations(*ALL_UP[:2], differs="0")
    plan = planned(found, there={"members": HOSTS, "unobserved": ["infra2"]})
    assert plan["action"] == "refuse" and "free or host_pinned" in plan["problems"][0]
    plan = planned(found, there={"members": HOSTS, "lost": ["infra2"]})
    assert plan["action"] == "refuse" and "strategy" not in " ".join(plan["problems"])


@pytest.mark.parametrize(
    ("strategy", "together"),
    [
        ("linear", True),
        ("ansible.builtin.linear", True),
        ("ansible.builtin.debug", True),
        ("mitogen.mitogen_linear", True),
        ("free", False),
        ("ansible.builtin.host_pinned", False),
        ("mitogen_free", False),
    ],
)
def test_strategies(strategy: str, together: bool) -> None:
    assert is_lockstep(strategy) == together
    assert f"runs with strategy {strategy}." in not_in_lockstep(strategy)


def test_a_token_for_a_new_cluster() -> None:
    found = observations(FRESH, FRESH, FRESH)
    plan = planned(found)
    assert plan["action"] == "bootstrap" and len(plan["token"]) == 32
    # The same on all hosts, whose plans are made one by one, and another one for another cluster.
    assert planned(dict(reversed(found.items())))["token"] == plan["token"]
    found["infra1"]["etcd"]["nonce"] = "another"
    assert planned(found)["token"] != plan["token"]
    # A first run that was killed has begun with one.
    found["infra2"]["etcd"]["token"] = "begun"
    assert planned(found)["token"] == "begun"
    assert planned(observations(*ALL_UP))["token"] == ""


def test_hosts_that_get_a_record() -> None:
    assert planned(observations(FRESH, FRESH, FRESH))["record"] == HOSTS
    states = (
        DOWN,
        {**DOWN, "member_id": "1", "record": {"name": "infra1", "cluster_id": "c1", "member_id": "1"}},
        DOWN,
    )
    assert planned(observations(*states))["record"] == ["infra0", "infra2"]
    found = observations(*ALL_UP, due="0")
    found["infra1"]["reasons"]["record"] = why("member.json: missing", part="record")
    assert planned(found)["record"] == ["infra1"]
    assert planned(found, operation="renew")["record"] == []


def test_a_host_whose_manifest_cannot_be_judged() -> None:
    """Without kubeadm, or with a second etcd pod, the run cannot tell whether a change is due."""
    found = observations(*ALL_UP, infra1=[("no kubeadm", PROCESSES)])
    assert planned(found)["problems"] == [] and planned(found)["notices"] == ["infra1: no kubeadm"]
    found["infra1"]["config"] = {}
    assert planned(found)["problems"] == ["infra1: no kubeadm"]
    # Renewals continue.
    found["infra1"]["reasons"]["certificates"] = why("etcd/server.crt: renewed")
    plan = planned(found)
    assert plan["problems"] == [] and plan["held"] == ["infra1: no kubeadm"] and plan["certificates"]
    assert planned(found, operation="renew")["held"] == []


""


@pytest.mark.parametrize(
    "found",
    [
        # The inventory has its hosts mixed up: the data is that of another member, or of another cluster.
        observations(up(leader=True), up(), {**up(), "member_id": "9"}, due="012"),
        observations(up(leader=True), up(), {**DOWN, "cluster_id": "c2"}, due="0"),
        # A member that was renamed in the inventory runs, under the name that the cluster knows.
        observations(*[{**up(listing(names="01")), "running": False}] * 3, due="2"),
    ],
)
@pytest.mark.parametrize("wishes", [{}, {"operation": "renew"}], ids=["site.yml", "renew_certificates.yml"])
def test_no_certificate_is_issued_for_the_wrong_host(found: dict[str, Any], wishes: dict[str, Any]) -> None:
    plan = planned(found, **wishes)
    assert plan["action"] == "refuse" and plan["problems"] and not plan["held"], plan


@pytest.mark.parametrize("published", ["012", ""])
def test_data_in_another_directory_is_not_lost(published: str) -> None:
    """etcd_data_dir was changed while members run. Replacing them, as if their data were lost, would lose it."""
    elsewhere = ("the member's data is in /var/lib/etcd", PROCESSES)
    state = {
        **FRESH,
        "running": True,
        "ready": True,
        "members": listing(published) if published else None,
        "data_elsewhere": True,
    }
    found = observations(*[state] * 3, infra0=[elsewhere], infra1=[elsewhere], infra2=[elsewhere])
    for host, item in found.items():
        item["etcd"]["record"] = {"cluster_id": "c1", "member_id": host[-1], "data_dir": "/var/lib/etcd", "ca": ""}
    plan = planned(found)
    assert plan["action"] == "refuse" and plan["problems"] == [
        "infra0, infra1, infra2: the member's data is in /var/lib/etcd"
    ], plan


@pytest.mark.parametrize("authority", [True, False])
def test_members_that_run_without_their_data_are_not_founded_again(authority: bool) -> None:
    """Their certificates are still renewed by the same CA, so that a snapshot can be saved."""
    state = {**FRESH, "running": True, "ready": True}
    found = observations(state, state, state, due="012")
    if not authority:
        found["infra0"]["pki"] = {**PKI, "ca_id": None, "ca_fingerprint": None}
        found["infra0"]["reasons"]["ca"] = why("etcd/ca.crt: missing", part="ca")
    plan = planned(found)
    said = plan["held"] if authority else plan["problems"]
    assert not acts(plan) and plan["action"] in ("nothing", "refuse")
    # A plan that is refused has no steps.
    assert bool(plan["certificates"]) == authority
    assert "etcd_data_dir there is empty" in " ".join(said) and bool(plan["problems"]) == (not authority)


def test_a_member_that_became_ready_during_its_observation() -> None:
    """Another run founds the cluster: the log was read before its first leader, the membership after that."""
    plan = planned(observations(up(leader=True), {**up(), "formed": False}, up()))
    assert (plan["action"], plan["problems"], plan["published"]) == ("nothing", [], HOSTS)


def test_a_new_cluster_takes_the_token_of_the_hosts_that_have_data() -> None:
    """The ids in their logs depend on it. A host without data may have the manifest of an earlier attempt."""
    states = [{**FRESH, "token": "emptied"}, {**BORN, "token": "begun"}, FRESH]
    found = observations(*states)
    for host in HOSTS[:2]:
        found[host]["facts"]["etcd_manifest"] = True
    plan = planned(found)
    assert (plan["action"], plan["token"]) == ("bootstrap", "begun")
    # Begun by hand, as the page says: without a token.
    del found["infra0"]["etcd"]["token"], found["infra1"]["etcd"]["token"]
    assert planned(found)["token"] == ""


def test_a_member_that_was_restored_or_added_again_is_recorded_by_the_run_that_starts_it() -> None:
    record = {"name": "x", "cluster_id": "former", "member_id": "former", "data_dir": "/var/lib/etcd", "ca": ""}
    restored = {**DOWN, "restored": True, "member_id": "1", "record": record}
    assert (
        planned(observations({**restored, "member_id": "0"}, restored, {**restored, "member_id": "2"}))["record"]
        == HOSTS
    )
    # Added again to the same cluster.
    again = {**restored, "record": {**record, "cluster_id": "c1"}}
    assert planned(observations({**restored, "member_id": "0"}, again, {**again, "member_id": "2"}))["record"] == HOSTS
    added = {**FRESH, "record": {**record, "cluster_id": "c1"}}
    running = {**up(listing("01")), "members_of": "c1"}
    plan = planned(observations(running, running, added))
    assert (plan["order"], plan["record"]) == (["infra2"], ["infra2"])


@pytest.mark.parametrize(("host", "refused"), [("infra2", True), ("infra0", False)])
def test_what_keeps_a_member_from_its_first_start(host: str, refused: bool) -> None:
    """A first run was killed before the third member, whose host lacks the library for certificates. It would start without certificates."""
    running = up(listing("01"))
    found = observations(running, running, FRESH)
    found[host]["pki"], found[host]["facts"]["cryptography_problem"] = {}, "no cryptography"
    found["infra0"]["pki"] = {**PKI, "ca_key": True}
    plan = planned(found)
    assert plan["problems"] == ([f"{host}: no cryptography"] if refused else []) and acts(plan) != refused
    # A member that has its data starts with the certificates that it has.
    found["infra2"]["etcd"] = {**DOWN, "members": listing()}
    assert planned(found)["problems"] == [] and acts(planned(found))


HUNG = {**DOWN, "running": True, "members": listing()}


@pytest.mark.parametrize(
    ("states", "started"),
    [
        ((up(leader=True), up(), DOWN), ["infra2"]),
        ((HUNG, HUNG, DOWN), ["infra2"]),
        ((DOWN, DOWN, DOWN), HOSTS),
        # The CA host is gone, and was left out.
        ((None, HUNG, DOWN), ["infra2", "infra1"]),
    ],
)
def test_a_certificate_that_cannot_be_renewed_keeps_no_member_down(states: Any, started: list[str]) -> None:
    """Stopped members are started, running ones wait for the next run, and no certificate is issued."""
    found = observations(*states, due="1", differs="1", infra1=[CLOCK])
    for item in found.values():
        item["pki"]["usable"] = True
    plan = planned(found)
    assert plan["problems"] == [] and plan["start"] + plan["order"] == started, plan
    assert not plan["certificates"] and not plan["settled"] and "infra1: the clock is off" in plan["notices"]
    assert not any("certificates" in line for line in plan["lines"])
    # renew_certificates.yml only issues certificates.
    assert planned(found, operation="renew")["problems"]
    # Without usable certificates it would not come up.
    found["infra2"]["reasons"]["certificates"] = why("etcd/server.crt: missing", part="certificates")
    found["infra2"]["pki"]["usable"] = False
    assert planned(found)["problems"] and not acts(planned(found))


def test_a_cluster_that_is_down_can_be_started_without_the_host_that_has_a_problem() -> None:
    """The message has the option, and with it the others are started."""
    found = observations(DOWN, DOWN, DOWN, infra2=[SWAP])
    plan = planned(found)
    assert plan["action"] == "refuse" and plan["problems"][0] == "infra2: swap is on"
    assert plan["problems"][1].endswith("leave infra2 out of this run: --limit 'all:!infra2'.")
    del found["infra2"]
    assert planned(found)["start"] == ["infra0", "infra1"]
    # They would be no quorum, and here the cluster runs.
    assert len(planned(observations(DOWN, DOWN, DOWN, infra1=[SWAP], infra2=[SWAP]))["problems"]) == 1
    assert len(planned(observations(up(leader=True), up(), DOWN, infra2=[SWAP]))["problems"]) == 1
    # Without the CA host, the missing certificate cannot be issued.
    found = observations(DOWN, DOWN, DOWN, due="1", infra0=[("the CA has expired", (FOUND, SIGN))])
    assert planned(found)["problems"] == ["infra0: the CA has expired"]


def test_a_copy_of_the_ca_key_that_is_removed_is_in_the_plan() -> None:
    found = observations(*ALL_UP)
    found["infra0"]["pki"]["ca_public_key"] = found["infra1"]["pki"]["ca_public_key"] = "p"
    plan = planned(found, remove_stray_ca_keys=True)
    assert plan["lines"][1:] == ["infra1: certificates: etcd/ca.key: removed, it belongs on the CA host only"]
    assert plan["lines"][0] == "cluster etcd: no member is restarted" and plan["remove_ca_key"] == ["infra1"]


def test_a_renewal_that_cannot_be_signed_is_refused() -> None:
    """Even if the CA itself is all that is due."""
    found = observations(*ALL_UP, infra0=[("no signing", (SIGN,))])
    assert planned(found, operation="renew")["problems"] == []
    found["infra0"]["reasons"]["ca"] = why("ca.crt: renewed", part="ca")
    assert planned(found, operation="renew")["problems"] == ["infra0: no signing"]
    assert planned(found)["problems"] == []
