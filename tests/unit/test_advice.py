"""A user who follows the messages of site.yml step by step gets a complete cluster."""

from __future__ import annotations

import itertools
import re
from dataclasses import replace

import pytest
from test_model import E, F, L, R, V, X, plan_of, state

from tests.integration.model import Operation, Standing, State, expect

# A command in a message: the playbook, and the member.
COMMAND = re.compile(r"(remove|replace)_member\.yml -e etcd_member=(infra\d)")

# More steps than any state needs.
MOST = 12


def after(at: State, operation: Operation) -> State:
    """The state after a run that ends as it should."""
    expected = expect(at, operation)
    hosts = {
        name: replace(host, standing=expected.after.get(name, (host.standing,))[0]) for name, host in at.hosts.items()
    }
    for name in expected.starts:
        hosts[name] = replace(hosts[name], is_stopped=False)
    return replace(at, hosts=hosts)


def advised(at: State, operation: Operation) -> list[Operation]:
    """The commands in the message of a refused run, in their order. Empty if it is not refused."""
    plan = plan_of(at, operation)
    text = re.sub(r"\s+", " ", " ".join([*plan["problems"], *plan["held"], *plan["notices"]]))
    found = [Operation(action, at.wanted, host) for action, host in COMMAND.findall(text)]
    return list(dict.fromkeys(found))


def is_whole(at: State) -> bool:
    return all(host.standing is V and host.takes_part for name, host in at.hosts.items() if name in at.wanted)


def follow(at: State) -> list[str]:
    """Run site.yml, follow the first advice that is not refused itself, and repeat. Returns the commands and, last, the result."""
    ran: list[str] = []
    for _number in range(MOST):
        if is_whole(at):
            return [*ran, "whole"]
        site = Operation("site", at.wanted)
        if not plan_of(at, site)["problems"]:
            now = after(at, site)
            if now != at:
                at = now
                ran.append("site")
                continue
        queue: list[Operation] = advised(at, site)
        seen: set[Operation] = set()
        taken: Operation | None = None
        moves = False
        while queue and taken is None:
            operation = queue.pop(0)
            if operation in seen:
                continue
            seen.add(operation)
            plan = plan_of(at, operation)
            if plan["problems"]:
                moves = moves or "move_ca.yml -e etcd_ca_host=" in " ".join(plan["problems"])
                queue += advised(at, operation)
            else:
                taken = operation
        if taken is None and moves:
            at = replace(at, ca_host=at.reached[0])
            ran.append("move_ca")
            continue
        if taken is None:
            return [*ran, f"stuck: {plan_of(at, site)['problems']} / {[str(item) for item in seen]}"]
        ran.append(str(taken))
        at = after(at, taken)
    return [*ran, "goes round in circles"]


CASES = [
    case
    for case in itertools.combinations_with_replacement((V, E, L, F, R, X), 4)
    if case.count(L) < 2 and case.count(V) > case.count(E)
] + [(V, V, V, E, E), (V, V, V, E, L), (V, V, V, L, X)]


@pytest.mark.parametrize("stopped", ["", "last"])
@pytest.mark.parametrize("is_turned", [False, True])
@pytest.mark.parametrize("case", CASES, ids=lambda case: "".join(item.value[0] for item in case))
def test_following_the_messages_completes_the_cluster(
    case: tuple[Standing, ...], is_turned: bool, stopped: str
) -> None:
    """is_turned: the member of the CA host is not healthy. stopped: one member is down, and the others have quorum."""
    hosts = case[::-1] if is_turned else case
    number = str(max(i for i, item in enumerate(hosts) if item is V)) if stopped else ""
    at = state(*hosts, wanted="".join(map(str, range(len(hosts)))), stopped=number)
    if not at.has_quorum:
        return
    ran = follow(at)
    assert ran[-1] == "whole", ran
