"""The model of the random sequences (tests/integration/model.py), alone and compared with the plan."""

from __future__ import annotations

import random
import re
from dataclasses import replace
from typing import Any

import pytest
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.wish import Wish
from ansible_collections.kubeadm.etcd.plugins.module_utils._operations import run as _run
from test_decision import DOWN, FRESH, LEARNER, RECORD, cluster_of, listing, up, why
from test_departure import kinds, seen
from test_run import PKI

from tests.integration.model import (
    BEFORE,
    LISTED,
    VOTING,
    Expected,
    Host,
    Operation,
    Standing,
    State,
    Step,
    Why,
    choose,
    contradictions,
    expect,
    finishing,
    happened,
    interrupted,
    settled,
    together,
)
from tests.integration.said import WORDS

NAMES = [f"infra{number}" for number in range(5)]


def state(
    *standings: Standing, wanted: str = "", off: str = "", cut: str = "", stopped: str = "", **fields: Any
) -> State:
    """Hosts of these standings. wanted, off, cut, stopped: numbers of hosts; wanted: those with a member if it is empty."""
    hosts = {
        NAMES[i]: Host(standing, str(i) not in off, str(i) in cut, str(i) in stopped)
        for i, standing in enumerate(standings)
    }
    chosen = [NAMES[int(i)] for i in wanted] or [name for name, host in hosts.items() if host.standing in LISTED]
    return State(hosts, frozenset(chosen), "infra0", **fields)


V, E, L, F, R, X = (
    Standing.VOTER,
    Standing.EMPTIED,
    Standing.LEARNER,
    Standing.FRESH,
    Standing.REMOVED,
    Standing.FORMER,
)


WIPED = Step("wipe", host="infra2")


def asked(at: State, text: str) -> Operation:
    """An operation on the inventory of a state: the action, and the number of its host."""
    action, _blank, rest = text.partition(" ")
    return Operation(action, at.wanted, f"infra{rest[0]}" if rest else "", is_forced=text.endswith("!"))


@pytest.mark.parametrize(
    ("at", "text", "refusals"),
    [
        (state(V, V, V), "site", ""),
        (state(V, V, V, off="2"), "site", "UNREACHABLE"),
        (state(V, V, V, V, V, off="0", cut="3"), "replace 1!", "UNREACHABLE UNCONNECTED"),
        (state(V, V, V, E), "site", "LOST_DATA"),
        (state(V, V, V, E, R, wanted="01234"), "site", "LOST_DATA REMOVED"),
        (state(V, V, V, X, wanted="0123"), "site", "FORMER REMOVED"),
        (state(V, V, V, R), "site", ""),
        (state(V, V, V, V, E, stopped="1"), "site", ""),
        (state(V, V, V, V, X, wanted="01234", stopped="1"), "site", ""),
        (state(V, V), "roll", "INTERRUPTION"),
        (state(V, V), "roll!", ""),
        (state(V, V, F, wanted="012"), "roll", ""),
        (state(V, V, is_rolled=False), "site", "INTERRUPTION"),
        (state(V, V, V), "remove 2", ""),
        (state(V, V, V), "remove 0", "CA_KEY"),
        (state(V, V, V, F), "remove 3", "NO_MEMBER"),
        (state(V), "remove 0", "NO_HELPER"),
        (state(V, V, V, off="2"), "remove 2", ""),
        (state(V, V, V, off="2"), "remove 1", "UNREACHABLE"),
        (state(V, V, off="1"), "remove 1", "NO_HELPER"),
        (state(V, V, E), "remove 1", "QUORUM"),
        (state(V, V, V, V, E), "remove 1", "UNWELL"),
        (state(V, V, V, V, V, cut="4"), "remove 1", "UNWELL UNCONNECTED"),
        # Nothing joins or restarts then; a member that stopped is started, and one leaves.
        (state(V, V, V, cut="2"), "site", ""),
        (state(V, V, V, cut="2"), "roll", "UNCONNECTED"),
        (state(V, V, V, F, wanted="0123", cut="2"), "site", "UNCONNECTED"),
        (state(V, V, V, cut="2"), "remove 2", ""),
        (state(V, V, V, cut="2"), "replace 2", "UNCONNECTED"),
        (state(V, V, E), "remove 2", ""),
        (state(V, V, V), "replace 1", "HEALTHY"),
        (state(V, V, V), "replace 1!", ""),
        (state(V, V, E), "replace 2", ""),
        # No member joins again beside a learner or a member that is not healthy. One of them leaves first.
        (state(V, V, V, E, E), "replace 4", "UNWELL"),
        (state(V, V, V, E, E), "remove 4", ""),
        (state(V, V, V, E, L, wanted="01234"), "replace 3", "UNWELL"),
        (state(V, V, V, E, L, wanted="01234"), "remove 4", ""),
        (state(V, V, V, L, R, wanted="01234"), "replace 4", "UNWELL"),
        (state(V, V, V, off="2"), "replace 2", "ABSENT"),
        (state(V, V, V, R, wanted="0123"), "replace 3", ""),
    ],
)
def test_what_is_refused(at: State, text: str, refusals: str) -> None:
    assert {reason.name for reason in expect(at, asked(at, text)).refusals} == set(refusals.split())


@pytest.mark.parametrize(
    ("at", "text", "host", "after", "must_fail"),
    [
        (state(V, V, V, F, wanted="0123"), "site", 3, (V, F, L), False),
        (state(V, V, V, L, wanted="0123"), "site", 3, (V, L), False),
        (state(V, V, V), "remove 2", 2, (R,), False),
        (state(V, V, V, off="2"), "remove 2", 2, (X,), False),
        (state(V, V, V, cut="2"), "remove 2", 2, (V, X), True),
        (state(V, V, E), "replace 2", 2, (V, E, X, R, L), False),
        (state(V, V, E), "remove 2", 2, (R,), False),
        # Nothing on the host records that its member has left.
        (happened(state(V, V, V), WIPED), "remove 2", 2, (F,), False),
        (happened(state(V, V, V, off="2"), WIPED), "remove 2", 2, (F,), False),
        (happened(state(V, V, V, cut="2"), WIPED), "remove 2", 2, (E, F), True),
    ],
)
def test_what_becomes_of_a_host(at: State, text: str, host: int, after: tuple[Standing, ...], must_fail: bool) -> None:
    expected = expect(at, asked(at, text))
    assert expected.refusals == frozenset() and expected.must_fail is must_fail
    assert tuple(dict.fromkeys(expected.after[NAMES[host]])) == after


def test_what_a_killed_run_may_leave() -> None:
    at = state(V, V, V, F, wanted="0123")
    assert set(interrupted(at, asked(at, "site"))["infra3"]) == {F, L, V}
    assert set(interrupted(at, asked(at, "remove 2"))["infra2"]) == {V, X, R}
    assert interrupted(at, asked(at, "remove 0")) == {}
    # A host that was wiped has nothing of the member that has left.
    wiped = happened(state(V, V, V, V), Step("wipe", host="infra3"))
    assert set(interrupted(wiped, asked(wiped, "replace 3"))["infra3"]) == {F, L, V, E, R, X}
    assert set(interrupted(wiped, asked(wiped, "remove 3"))["infra3"]) == {F, E, R}
    emptied = state(V, V, V, E)
    assert set(interrupted(emptied, asked(emptied, "remove 3"))["infra3"]) == {X, E, R}
    assert contradictions(at, {"infra1": V, "infra2": X, "infra3": R}, {"infra2": (V, X)}) == [
        "infra3 was fresh and is removed"
    ]


def test_two_runs_at_once() -> None:
    """The second may begin when the first has ended."""
    at = state(V, V, V, F, wanted="0123")
    both = (asked(at, "site"), asked(at, "remove 2"))
    assert set(together(at, both)["infra2"]) == {V, X, R} and set(together(at, both)["infra3"]) == {F, L, V}
    twice = (asked(at, "replace 2!"), asked(at, "remove 2"))
    assert set(together(at, twice)["infra2"]) == {V, L, X, R}


# --- Walks ------------------------------------------------------------------------------------------------------------


def outcome(at: State, step: Step, chance: random.Random) -> State:
    """A state that the model allows after a step."""
    if not step.operations:
        return happened(at, step)
    first = expect(at, step.operations[0])
    if step.kind == "both":
        allowed = together(at, step.operations)
    elif step.kind == "killed":
        allowed = interrupted(at, step.operations[0])
    elif first.refusals:
        allowed = {}
    elif first.must_fail:
        allowed = first.after
    else:
        allowed = {name: standings[:1] for name, standings in first.after.items()}
    wanted = at.wanted.union(*(operation.wanted for operation in step.operations))
    starts = first.starts if step.kind == "run" else [name for name in at.stopped if chance.random() < 0.5]
    return replace(
        settled(at, {name: chance.choice(choices) for name, choices in allowed.items()}, starts), wanted=wanted
    )


def walk(seed: int, steps: int) -> list[tuple[State, Step]]:
    """Steps that the model chooses, with outcomes by chance."""
    chance = random.Random(seed)
    at = state(V, V, V, F, F)
    found: list[tuple[State, Step]] = []
    for _number in range(steps):
        step = choose(at, chance, found[-1][1] if found else None)
        found.append((at, step))
        at = outcome(at, step, chance)
    return [*found, (at, Step("end"))]


@pytest.mark.parametrize("seed", range(12))
def test_a_random_walk_loses_no_data_and_can_be_completed(seed: int) -> None:
    chance = random.Random(seed)
    found = walk(seed, 300)
    for at, step in found:
        if step.kind in ("empty", "wipe") and at.hosts[step.host].standing in VOTING:
            assert happened(at, step).has_quorum, (step, at)
        assert set(at.those(*LISTED)) <= at.wanted | set(at.those(L)), (step, at)
    assert len({step.kind for _at, step in found}) > 9
    at = found[-1][0]
    for _number in range(60):
        step = finishing(at)
        if step is None:
            break
        at = outcome(at, step, chance)
    assert finishing(at) is None and not expect(at, Operation("site", at.wanted)).must_fail


# --- The plan ---------------------------------------------------------------------------------------------------------


def as_seen(at: State, operation: Operation) -> tuple[list[str], dict[str, Any]]:
    """What etcd_observe would return for hosts in a state, and which of them were lost."""
    cluster = cluster_of(len(at.hosts))
    numbers = {name: str(number) for number, name in enumerate(at.hosts)}
    members = [
        {**item, "is_learner": at.hosts[item["name"]].standing is L}
        for item in listing("01234", "".join(numbers[name] for name in at.those(*LISTED)))
    ]
    states: list[dict[str, Any] | None] = []
    for name, host in at.hosts.items():
        record = {**RECORD, "name": name, "member_id": numbers[name]}
        # Some have lost their data before they left.
        left = FRESH if (len(at.wanted) + int(numbers[name])) % 2 else {**DOWN, "member_id": f"7{numbers[name]}"}
        etcd: dict[str, dict[str, Any]] = {
            F.value: FRESH,
            L.value: LEARNER,
            V.value: up() if name in at.ready else {**DOWN, "running": not host.is_stopped},
            E.value: {**FRESH, "record": {} if host.is_bare else record},
            R.value: {**FRESH, "record": {**record, "removed": "2026-11-27"}},
            X.value: {**left, "record": {**record, "member_id": f"7{numbers[name]}"}},
        }
        states.append(etcd[host.standing.value] if host.is_on else None)
    found = seen(cluster, *states, members=members)
    shown = {name: item for name, item in found.items() if name in operation.wanted}
    for item in shown.values():
        item["cluster"]["members"] = [m for m in item["cluster"]["members"] if m["host"] in operation.wanted]
    for name in shown:
        if "reasons" in shown[name]:
            shown[name]["facts"]["peers"] = {
                f"10.0.0.{6 + int(numbers[other])} 2380": "silent"
                for other in shown
                if other != name and (at.hosts[name].is_cut or at.hosts[other].is_cut)
            }
            shown[name]["pki"] = {**PKI, "ca_key": name == at.ca_host}
            if at.hosts[name].standing is V:
                differs = operation.action == "roll" or not at.is_rolled
                shown[name]["reasons"]["manifest"] = why("x", part="manifest", restarts=True) if differs else []
    lost = [name for name in shown if not at.hosts[name].is_on]
    return lost, shown


def plan_of(at: State, operation: Operation) -> dict[str, Any]:
    """What the collection plans for a state of the model."""
    lost, shown = as_seen(at, operation)
    names = {"site": "converge", "roll": "converge"}
    wish = Wish(
        operation=names.get(operation.action, operation.action),
        member=operation.host,
        replace_healthy=operation.is_forced,
        allow_interruption=operation.is_forced,
    )
    speaker = next(name for name in shown if name not in lost)
    plan: dict[str, Any] = _run.plan_run(speaker, shown, lost, wish)
    return plan


def named(plan: dict[str, Any]) -> set[Why]:
    """The reasons that a refused plan gives, warnings among them, since a test of hosts reads all that a run prints."""
    problems = [*plan["problems"], *plan["held"]]
    text = re.sub(r"\s+", " ", " ".join([*problems, *(plan["notices"] if problems else [])]))
    return {reason for reason, words in WORDS.items() if reason in BEFORE and re.search(words, text)}


@pytest.mark.parametrize("seed", range(12))
def test_the_plan_refuses_what_the_model_refuses_and_nothing_else(seed: int) -> None:
    """It also joins, removes and replaces the hosts that the model expects."""
    for at, step in walk(seed, 100):
        for operation in step.operations:
            expected: Expected = expect(at, operation)
            plan = plan_of(at, operation)
            problems = [*plan["problems"], *plan["held"]]
            assert bool(problems) is bool(expected.refusals), (operation, at, problems, expected)
            assert named(plan) <= expected.refusals and (not problems or named(plan)), (operation, at, problems)
            if not problems and not expected.must_fail:
                touched = {host for kind, host in kinds(plan) if kind in ("join", "archive")}
                moving = {
                    name for name, after in expected.after.items() if after[0] is not at.hosts[name].standing
                } & operation.wanted
                # A host that was wiped has nothing to clear.
                left = {name for name in moving if at.hosts[name].is_on and expected.after[name][0] is not F}
                assert left <= touched, (operation, at, plan["steps"])
            if not problems:
                assert set(expected.starts) <= {host for kind, host in kinds(plan) if kind in ("turn", "start")}, (
                    at,
                    plan,
                )
