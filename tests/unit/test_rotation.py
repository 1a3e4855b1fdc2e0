"""The phase of a rotation for each state of files and members."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.rotation import (
    DROP,
    ISSUE,
    NEW,
    SETTLES,
    TRUST,
    Host,
    Rotation,
    phase_of,
    phases_left,
)

O, N, X = "old", "new", "x"  # noqa: E741
OLD, BOTH, TURNED, ONLY = (O,), (O, N), (N, O), (N,)
FORMER = {O: 10.0}


def h(name: str, cas: tuple[str, ...], loaded: tuple[str, ...] | None, *leaves: str) -> Host:
    return Host(name, cas, None if loaded is None else frozenset(loaded), leaves)


@pytest.mark.parametrize(
    ("signer", "next_ca", "former", "hosts", "expected"),
    [
        # Nothing has begun.
        (OLD, "", {}, [h("a", OLD, OLD, O), h("b", OLD, OLD, O)], {"phase": ""}),
        ((), "", {}, [], {"phase": ""}),
        # A member that does not say what it trusts, or does not run, is no rotation.
        (OLD, "", {}, [h("a", OLD, None, O)], {"phase": ""}),
        # Made, and not trusted by any member.
        (OLD, N, {}, [h("a", OLD, OLD, O), h("b", OLD, OLD, O)], {"phase": TRUST, "write": "ab", "restart": "ab", "ca": BOTH}),
        # Killed between the files, then between the restarts.
        (BOTH, N, {}, [h("a", BOTH, OLD, O), h("b", OLD, OLD, O)], {"phase": TRUST, "write": "b", "restart": "ab"}),
        (BOTH, N, {}, [h("a", BOTH, BOTH, O), h("b", BOTH, OLD, O)], {"phase": TRUST, "write": "", "restart": "b"}),
        # A member that is down does not show what it trusts.
        (BOTH, N, {}, [h("a", BOTH, BOTH, O), h("b", BOTH, None, O)], {"phase": TRUST, "restart": "b"}),
        # All trust both: the new one may sign.
        (BOTH, N, {}, [h("a", BOTH, BOTH, O), h("b", BOTH, BOTH, O)], {"phase": ISSUE, "exchange": True, "issue": "ab", "ca": TURNED}),
        # A leaf of the new CA while it does not sign: another run.
        (BOTH, N, {}, [h("a", BOTH, BOTH, N), h("b", BOTH, BOTH, N)], {"phase": ISSUE, "exchange": True, "issue": ""}),
        # Killed after the exchange, before the new files were removed.
        (TURNED, N, FORMER, [h("a", TURNED, BOTH, O), h("b", BOTH, BOTH, O)], {"phase": ISSUE, "exchange": True, "issue": "ab"}),
        (TURNED, N, FORMER, [h("a", TURNED, BOTH, N), h("b", TURNED, BOTH, N)], {"phase": ISSUE, "exchange": True, "issue": ""}),
        # Killed between the certificates of hosts, and of one host.
        (TURNED, "", FORMER, [h("a", TURNED, BOTH, N, N), h("b", BOTH, BOTH, O, O)], {"phase": ISSUE, "exchange": False, "issue": "b"}),
        (TURNED, "", FORMER, [h("a", TURNED, BOTH, N), h("b", TURNED, BOTH, N, O)], {"phase": ISSUE, "issue": "b"}),
        # A certificate of neither is issued as well.
        (TURNED, "", FORMER, [h("a", TURNED, BOTH, N), h("b", TURNED, BOTH, "")], {"phase": ISSUE, "issue": "b"}),
        # A member has loaded only the old CA: nothing is issued before it trusts both.
        (TURNED, "", FORMER, [h("a", TURNED, BOTH, N), h("b", TURNED, OLD, O)], {"phase": TRUST, "restart": "b", "ca": TURNED}),
        (TURNED, "", FORMER, [h("a", TURNED, BOTH, O), h("b", ONLY, BOTH, O)], {"phase": TRUST, "write": "b", "restart": ""}),
        # All certificates are issued, but one member would refuse them.
        (TURNED, "", FORMER, [h("a", TURNED, BOTH, N), h("b", TURNED, OLD, N)], {"phase": TRUST, "restart": "b"}),
        # All is issued.
        (TURNED, "", FORMER, [h("a", TURNED, BOTH, N), h("b", TURNED, BOTH, N)], {"phase": DROP, "write": "ab", "restart": "ab", "ca": ONLY}),
        # The order in ca.crt is no reason to issue again. The phase drop corrects it.
        (TURNED, "", FORMER, [h("a", TURNED, BOTH, N), h("b", BOTH, BOTH, N)], {"phase": DROP, "write": "ab"}),
        # Killed between the files, between the restarts, with the CA host first or last.
        (ONLY, "", FORMER, [h("a", ONLY, BOTH, N), h("b", TURNED, BOTH, N)], {"phase": DROP, "write": "b", "restart": "ab"}),
        (TURNED, "", FORMER, [h("a", TURNED, BOTH, N), h("b", ONLY, ONLY, N)], {"phase": DROP, "write": "a", "restart": "a"}),
        (ONLY, "", FORMER, [h("a", ONLY, ONLY, N), h("b", ONLY, BOTH, N)], {"phase": DROP, "write": "", "restart": "b"}),
        # Over.
        (ONLY, "", FORMER, [h("a", ONLY, ONLY, N), h("b", ONLY, ONLY, N)], {"phase": "", "recent": True}),
        (ONLY, "", {O: SETTLES + 1}, [h("a", ONLY, ONLY, N)], {"phase": "", "recent": False}),
        # A former CA of long ago does not matter; the one that members still trust does.
        (ONLY, "", {X: 9e9, O: 10.0}, [h("a", ONLY, BOTH, N)], {"phase": DROP, "old": O, "restart": "a"}),
        # A CA was put into ca.crt by hand, with and without a rotation.
        ((O, X), "", {}, [h("a", (O, X), (O, X), O), h("b", OLD, OLD, O)], {"phase": "", "unknown": "a"}),
        ((O, N), X, {}, [h("a", (O, N), BOTH, O)], {"phase": "", "unknown": "a"}),
        (OLD, N, {}, [h("a", (O, X), OLD, O)], {"phase": "", "unknown": "a"}),
        # A CA that was put on a host by hand is no rotation.
        (OLD, "", {}, [h("a", OLD, OLD, O), h("b", (X,), OLD, O)], {"phase": "", "unknown": "b"}),
    ],
)  # fmt: skip
def test_phase(
    signer: tuple[str, ...], next_ca: str, former: dict[str, float], hosts: list[Host], expected: dict[str, Any]
) -> None:
    found = phase_of(signer, next_ca, former, hosts)
    for key, value in expected.items():
        said = getattr(found, key)
        assert (said if not isinstance(said, list) else "".join(said)) == value, (key, found)


@pytest.mark.parametrize(
    ("rotation", "until", "expected"),
    [
        (Rotation(), "", ["new", "trust", "issue", "drop"]),
        (Rotation(), "trust", ["new", "trust"]),
        (Rotation(TRUST), "", ["trust", "issue", "drop"]),
        (Rotation(DROP), "trust", []),
        (Rotation(ISSUE, recent=True), "issue", ["issue"]),
        # A rotation that has just ended is not repeated.
        (Rotation(recent=True), "", []),
        (Rotation(), NEW, ["new"]),
    ],
)
def test_phases_left(rotation: Rotation, until: str, expected: list[str]) -> None:
    assert phases_left(rotation, until) == expected


@pytest.mark.parametrize("seed", range(60))
def test_a_rotation_ends_in_spite_of_kills(seed: int) -> None:
    """Runs are killed and members restart at random: no client is ever refused, and the rotation ends."""
    random = Random(seed)
    names = [f"h{number}" for number in range(random.choice([1, 2, 3, 5]))]
    cas, loaded, leaves = dict.fromkeys(names, OLD), {name: {O} for name in names}, {name: [O, O] for name in names}
    next_ca, former = N, {}  # type: ignore[var-annotated]

    def seen() -> Rotation:
        return phase_of(cas["h0"], next_ca, former, [h(n, cas[n], tuple(loaded[n]), *leaves[n]) for n in names])

    for _run in range(200):
        found = seen()
        if not found.phase:
            break
        steps = [("write", name) for name in found.write] + [("load", name) for name in found.restart]
        if found.phase == ISSUE:
            steps = [("exchange", "h0")] * found.exchange + [
                ("leaf", n) for n in found.issue for leaf in leaves[n] if leaf == O
            ]
        for kind, name in steps[: random.choice([1, 2, 3, 99])]:
            if kind == "write":
                cas[name] = found.ca
            elif kind == "load":
                loaded[name] = {*cas[name]}
            elif kind == "exchange" and cas[name] != TURNED:
                cas[name], former = TURNED, FORMER
            elif kind == "exchange":
                next_ca = ""
            else:
                leaves[name][leaves[name].index(O)] = N
            if random.random() < 0.2:
                crashed = random.choice(names)
                loaded[crashed] = {*cas[crashed]}
            refused = [(a, b) for a in names for b in names if not {*leaves[a]} <= loaded[b]]
            assert refused == [], (kind, name)
    assert {*cas.values()} == {ONLY} and all(item == {N} for item in loaded.values()) and not next_ca
