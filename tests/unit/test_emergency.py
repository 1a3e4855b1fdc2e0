"""A new CA at once: the message names the price, the phase is read from the hosts, and a killed run is finished."""

from __future__ import annotations

import copy
from random import Random
from typing import Any

import pytest
from ansible_collections.kubeadm.etcd.plugins.module_utils._control import authority as _authority
from ansible_collections.kubeadm.etcd.plugins.module_utils._control import emergency as _emergency
from ansible_collections.kubeadm.etcd.plugins.module_utils._control import rotation as _rotation
from test_decision import CLUSTER, FRESH, HOSTS
from test_rotate_ca import ALL_UP, DAY, ca, plane, rotated, seen, steps

NEXT = {"next_ca": {**ca("new"), "has_key": True}}
FORMER = {"former_cas": [{**ca("old"), "age": 5.0}]}


def at(
    of_ca_host: dict[str, Any], *hosts: tuple[str, str | None, str], record: str = "old", **trusts: str
) -> dict[str, Any]:
    """Observations. hosts: the CAs in ca.crt, the loaded CAs, the issuers. trusts: by host, the result of a probe."""
    found = seen(states=ALL_UP, **dict(zip(HOSTS, hosts)))
    pki = found["infra0"]["pki"]
    pki.pop("next_ca", None)
    pki.update(copy.deepcopy(of_ca_host))
    pki["ca_public_key"] = f"{pki['cas'][0]['id']}-k"
    for host, item in found.items():
        item["etcd"]["record"]["ca"] = f"{record}-k"
        item["etcd"]["trusts"] = trusts.get(host, "installed")
    return found


OLD, CUT, DONE = ("old", "old", "old"), ("new", "old", "new"), ("new", "new", "new")


def emergency(
    found: dict[str, Any], phase: str = "cut", planes: dict[str, Any] | None = None, **wishes: Any
) -> dict[str, Any]:
    return rotated(found, planes, **{"ca_compromised": "etcd", "phase": phase, **wishes})


@pytest.mark.parametrize(
    ("found", "phases", "expected"),
    [
        (at({}, OLD, OLD, OLD), ["new", "cut"], ""),
        (at(NEXT, OLD, OLD, OLD), ["cut"], "exchange_ca:0 certificates:012 start:012 record:012"),
        # Killed after the exchange, between the files of hosts, between the restarts.
        (at(FORMER, ("new", "old", "old"), OLD, OLD), ["cut"], "certificates:012 start:012 record:012"),
        (at({**NEXT, **FORMER}, ("new", "old", "old"), OLD, OLD), ["cut"], "exchange_ca:0 certificates:012 start:012 record:012"),
        (at(FORMER, CUT, OLD, CUT), ["cut"], "certificates:1 start:012 record:012"),
        (at(FORMER, CUT, ("new", "old", "new old"), CUT), ["cut"], "certificates:1 start:012 record:012"),
        (at(FORMER, CUT, CUT, CUT, record="new"), ["cut"], "start:012"),
        (at(FORMER, DONE, CUT, ("new", None, "new"), record="new"), ["cut"], "start:12"),
        (at(FORMER, DONE, DONE, DONE, record="new"), [], ""),
        # In the middle of a rotation, members that trust both CAs still trust the stolen one.
        (at(NEXT, *[("old new", "old new", "old")] * 3), ["cut"], "exchange_ca:0 certificates:012 start:012 record:012"),
        (at(FORMER, *[("new old", "old new", "old")] * 3), ["cut"], "certificates:012 start:012 record:012"),
        (at(FORMER, *[("new", "old new", "new")] * 3, record="new"), ["cut"], "start:012"),
        # Long after a rotation, another one begins.
        (at({"former_cas": [{**ca("old"), "age": DAY + 5}]}, DONE, DONE, DONE), ["new", "cut"], ""),
    ],
)  # fmt: skip
def test_what_is_left(found: dict[str, Any], phases: list[str], expected: str) -> None:
    whole = emergency(found, phase="", backup_before_change=True)
    assert whole["problems"] == [] and whole["phases"] == phases
    assert steps(whole) == ("snapshot:1" if phases else "")
    said = (
        f"by {'a' if phases[0] == 'new' else 'the'} new CA, in the phases {', '.join(phases)}"
        if phases
        else "every member trusts only the new CA"
    )
    assert said in whole["lines"][0]
    price = [text for text in whole["notices"] if "restart at the same time" in text]
    assert bool(price) == bool(phases) and all("no quorum for some 15 seconds" in text for text in price)
    plan = emergency(found)
    assert plan["problems"] == [] and steps(plan) == expected and bool(plan["lines"]) == bool(expected)
    assert plan["signs_next"] == ("exchange_ca" in expected) and plan["replace_ca"] == plan["certificates"]
    assert plan["trusted_ca"] == ("<new>" if "cut" in phases[:1] or not phases else "")
    if phases[:1] == ["new"]:
        assert steps(emergency(found, phase="new")) == "next_ca:0"


def test_the_price_and_the_name() -> None:
    planes = {"control0": plane("old", "old"), "control1": None}
    for wrong in ("true", "other"):
        # etcd_allow_interruption does not name the cluster.
        found = at({}, OLD, OLD, OLD)
        [problem] = emergency(found, phase="", planes=planes, ca_compromised=wrong, allow_interruption=True)["problems"]
        assert f"etcd_ca_compromised is '{wrong}', and this is cluster 'etcd'" in problem
        assert "All 3 members restart at the same time and then trust only a new CA" in problem
        assert (
            "kube-apiserver on control0, control1 (control_plane.yml -e etcd_update_apiserver=true), and all clients outside"
            in problem
        )
        assert problem.endswith("-e etcd_ca_compromised=etcd")
    # No kube-apiserver is waited for.
    plan = emergency(at(NEXT, OLD, OLD, OLD), planes=planes)
    assert plan["problems"] == [] and plan["start"] == HOSTS


def test_members_that_reject_each_other_do_not_stop_an_emergency() -> None:
    found = at(FORMER, CUT, CUT, OLD, infra0="former", infra1="former")
    for item in found.values():
        item["etcd"].update(ready=False, members=None, answers=False)
    plan = emergency(found, phase="", backup_before_change=True)
    assert plan["problems"] == [] and plan["steps"] == [] and plan["phases"] == ["cut"]
    assert emergency(found)["start"] == HOSTS


@pytest.mark.parametrize(
    ("found", "wishes", "words"),
    [
        (seen(states=(*ALL_UP[:2], None)), {}, "infra2: this host is not part of the run, or could not be observed"),
        (seen(), {"lost": ("infra1",)}, "infra1 cannot be reached"),
        (at({}, OLD, OLD, OLD), {"until": "trust"}, "Remove etcd_until"),
        (at({"next_ca": {**ca("new"), "has_key": False}}, OLD, OLD, OLD), {}, "ca-next.key is not the key of the new CA"),
        (at(NEXT, OLD, OLD, OLD), {"own_ca": {"fingerprint": "x", "id": "x", "key": True}}, "a rotation to another CA than etcd_ca_cert has begun"),
        (at({}, OLD, OLD, OLD), {"own_ca": {"fingerprint": "x", "id": "old", "key": True}}, "etcd_ca_cert is the CA in use"),
        (seen(states=(ALL_UP[0], ALL_UP[1], FRESH)), {}, "has lost its data"),
        (seen(states=(FRESH, FRESH, FRESH)), {}, "has not been founded yet"),
    ],
)  # fmt: skip
def test_refused(found: dict[str, Any], wishes: dict[str, Any], words: str) -> None:
    for phase in ("", "new", "cut"):
        plan = emergency(found, phase=phase, **wishes)
        assert any(words in text for text in plan["problems"]), plan["problems"]
        assert plan["steps"] == []


def test_the_key_that_signs_is_that_of_the_new_ca() -> None:
    found = at(FORMER, CUT, OLD, OLD)
    found["infra0"]["pki"]["ca_public_key"] = "old-k"
    [problem] = emergency(found)["problems"]
    assert problem.startswith("infra0: /etc/kubernetes/pki/etcd/ca.key is not the key of the new CA")


# --- Put on the hosts by hand --------------------------------------------------------------------------------------------

HAND = ("hand", "old", "hand")


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (at({}, HAND, HAND, HAND), "start:012 record:012"),
        # With the same name as the former one, which is what etcd names.
        (at({}, *[("hand", "hand", "hand")] * 3, infra0="former", infra1="former", infra2="former"), "start:012 record:012"),
        # On some hosts, or without certificates.
        (at({}, HAND, ("old", "old", "hand"), OLD), "certificates:12 start:012 record:012"),
        (at({}, ("hand", "old", "old"), OLD, OLD), "certificates:012 start:012 record:012"),
        # Killed between the restarts: then it is in use.
        (at({}, *[("hand", None, "hand")] * 3), "start:012 record:012"),
    ],
)  # fmt: skip
def test_a_ca_that_was_put_there_by_hand(found: dict[str, Any], expected: str) -> None:
    [problem] = rotated(found, backup_before_change=True)["problems"]
    assert "no running member of cluster 'etcd' trusts the ca.crt of infra0 (the hand CA)" in problem
    assert "put them back" in problem and problem.endswith("-e etcd_allow_interruption=true")
    for wishes in ({"allow_interruption": True}, {"ca_compromised": "etcd"}):
        assert rotated(found, **wishes)["phases"] == ["cut"]
        plan = rotated(found, phase="cut", **wishes)
        assert plan["problems"] == [] and steps(plan) == expected and plan["trusted_ca"] == "<hand>"


def test_a_ca_that_members_trust_was_not_put_there_by_hand() -> None:
    """Nor is a cluster whose members do not say, or that does not run, by its record."""
    for found in (at({}, OLD, OLD, OLD), at({}, *[("old", None, "old")] * 3)):
        assert "cut" not in rotated(found, allow_interruption=True)["phases"]


# --- For other runs ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("found", "is_cut"),
    [
        (at(NEXT, OLD, OLD, OLD), False),
        (at(FORMER, ("new", "old", "old"), OLD, OLD), True),
        (at(FORMER, CUT, OLD, CUT), True),
        (at(FORMER, DONE, CUT, CUT), True),
        # A quorum trusts it: the one that does not is restarted by any run.
        (at(FORMER, DONE, DONE, CUT), False),
        (at(FORMER, DONE, DONE, DONE), False),
        (at(FORMER, *[("new", "old new", "new")] * 3), False),
    ],
)  # fmt: skip
def test_other_runs_are_refused_meanwhile(found: dict[str, Any], is_cut: bool) -> None:
    """Other runs would issue certificates by a CA that members do not trust yet."""
    assert _rotation.rotation_of(CLUSTER, found).is_cut == is_cut
    codes = [problem.code for problem in _authority.ca_problems(copy.deepcopy(CLUSTER), found)]
    assert ("emergency-begun" in codes) == is_cut
    problems = rotated(found)["problems"]
    assert [text.endswith("-e etcd_ca_compromised=etcd") for text in problems] == ([True] if is_cut else [])


@pytest.mark.parametrize("seed", range(60))
def test_an_emergency_ends_in_spite_of_kills(seed: int) -> None:
    """Killed at random, members restarting at random, it ends with the new CA alone, and no member ever loads both."""
    random = Random(seed)
    hosts = {host: list(OLD) for host in HOSTS}
    of_ca_host: dict[str, Any] = {}
    for _run in range(100):
        found = at(of_ca_host, *(tuple(hosts[host]) for host in HOSTS))  # type: ignore[arg-type]
        cut = _emergency.cut_of(CLUSTER, found, _rotation.rotation_of(CLUSTER, found))
        if not cut.phases:
            break
        acts = [("next", "")] if not cut.target else [("exchange", "infra0")] * cut.exchange
        acts += (
            [("install", host) for host in cut.issue] + [("start", host) for host in cut.restart] if cut.target else []
        )
        for kind, host in acts[: random.choice([1, 2, 3, 99])]:
            if kind == "next":
                of_ca_host = NEXT
            elif kind == "exchange" and hosts[host][0] == "old":
                # Killed before the new files are removed.
                hosts[host][0], of_ca_host = "new", {**NEXT, **FORMER} if random.random() < 0.5 else FORMER
            elif kind == "exchange":
                of_ca_host = FORMER
            elif kind == "install":
                hosts[host][0] = hosts[host][2] = "new"
            else:
                hosts[host][1] = hosts[host][0]
            if random.random() < 0.2:
                crashed = random.choice(HOSTS)
                hosts[crashed][1] = hosts[crashed][0]
            assert {item[1] for item in hosts.values()} <= {"old", "new"}
    assert [tuple(item) for item in hosts.values()] == [DONE] * 3 and of_ca_host == FORMER
