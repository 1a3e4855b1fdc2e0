"""Predicts what a run does to a cluster, from a small state: hosts with a standing, and an inventory.

The model is written from docs/members.md and docs/operations.md, and imports nothing of the collection. tests/unit/test_model.py compares it with
the plan, test_random.py with real hosts.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum


class Standing(Enum):
    """The role of a host in the cluster. EMPTIED: a member without its data. FORMER: the member has left, its host is not cleared."""

    FRESH = "fresh"
    LEARNER = "learner"
    VOTER = "voter"
    EMPTIED = "emptied"
    REMOVED = "removed"
    FORMER = "former"


VOTING = (Standing.VOTER, Standing.EMPTIED)
LISTED = (*VOTING, Standing.LEARNER)
# What site.yml does not join.
LEFT = (Standing.REMOVED, Standing.FORMER)


class Why(Enum):
    """Why a run fails. The reasons up to CA_KEY are found before any change."""

    UNREACHABLE = "a host of the inventory does not answer"
    REMOVED = "the inventory has a host whose member was removed"
    FORMER = "the inventory has a host with data of a member that left"
    LOST_DATA = "a member has lost its data"
    INTERRUPTION = "one or two members cannot restart without an interruption"
    NO_MEMBER = "no member has this name"
    NO_HELPER = "no other member is ready"
    QUORUM = "the others would be no quorum"
    UNWELL = "a healthy member does not leave, and none is replaced, while another one is not healthy or a learner"
    ABSENT = "the host that is to join anew does not answer"
    HEALTHY = "a healthy member is not replaced unless told"
    UNCONNECTED = "nothing joins or restarts while hosts of the inventory do not reach each other"
    CA_KEY = "the host has the only key of the CA"
    CUT_OFF = "a host of the inventory does not reach the members"
    JOIN_UNWELL = "no member joins while another one is not well"
    ENDS_UNWELL = "at the end, a member is not healthy"


BEFORE = frozenset(list(Why)[: list(Why).index(Why.CA_KEY) + 1])


@dataclass(frozen=True)
class Host:
    """One host. is_cut: only the controller's ssh reaches it. is_stopped: its kubelet and etcd do not run. is_bare: wiped, with its member listed."""

    standing: Standing = Standing.FRESH
    is_on: bool = True
    is_cut: bool = False
    is_stopped: bool = False
    is_bare: bool = False

    @property
    def takes_part(self) -> bool:
        """Whether its member can answer the others, if it has one with data."""
        return self.is_on and not self.is_cut and not self.is_stopped


@dataclass(frozen=True)
class State:
    """wanted: the hosts of the inventory. is_rolled: all members run with the latest configuration."""

    hosts: Mapping[str, Host]
    wanted: frozenset[str]
    ca_host: str
    is_rolled: bool = True

    def those(self, *standings: Standing) -> list[str]:
        """Hosts of a standing."""
        return [name for name, host in self.hosts.items() if host.standing in standings]

    @property
    def reached(self) -> list[str]:
        """Voting members whose process takes part."""
        return [name for name in self.those(Standing.VOTER) if self.hosts[name].takes_part]

    @property
    def stopped(self) -> list[str]:
        """Members with data that do not run, on hosts that answer."""
        return [name for name in self.those(Standing.VOTER) if self.hosts[name].is_stopped]

    @property
    def has_quorum(self) -> bool:
        """Whether writes are served."""
        return len(self.reached) > len(self.those(*VOTING)) // 2

    @property
    def ready(self) -> list[str]:
        """Members that serve a linearizable read."""
        return self.reached if self.has_quorum else []

    def survives(self, host: str) -> bool:
        """Whether the cluster serves writes while this member restarts."""
        return len([name for name in self.reached if name != host]) > len(self.those(*VOTING)) // 2

    def altered(self, name: str, **fields: object) -> State:
        """The state with one host changed."""
        return replace(self, hosts={**self.hosts, name: replace(self.hosts[name], **fields)})  # type: ignore[arg-type]


@dataclass(frozen=True)
class Operation:
    """A run of a playbook. action: site, roll (site.yml with another flag of etcd), remove, replace. wanted: hosts of its inventory."""

    action: str
    wanted: frozenset[str]
    host: str = ""
    is_forced: bool = False

    def __str__(self) -> str:
        what = " ".join([self.action, self.host, "by force" if self.is_forced else ""]).strip()
        return f"{what} of {','.join(sorted(self.wanted))}"


@dataclass(frozen=True)
class Expected:
    """The expected result of a run.

    refusals: if not empty, nothing changes, and the run names some of these reasons and no other. failures: reasons for which the run may fail later.
    must_fail: the run cannot succeed. starts: members that are started. after: possible standings of hosts, first that of a success.
    """

    refusals: frozenset[Why] = frozenset()
    failures: frozenset[Why] = frozenset()
    must_fail: bool = False
    starts: tuple[str, ...] = ()
    after: Mapping[str, tuple[Standing, ...]] = field(default_factory=dict)


def refused(*reasons: Why) -> Expected:
    """A run that changes nothing."""
    return Expected(refusals=frozenset(reasons), must_fail=True)


def expect(state: State, operation: Operation) -> Expected:
    """The expected result of a run in a state."""
    expected = expect_from_all(state, operation)
    if expected.refusals and has_cut(state, operation):
        # A warning, if it is for another reason that nothing is done.
        return replace(expected, refusals=expected.refusals | {Why.UNCONNECTED})
    return expected


def expect_from_all(state: State, operation: Operation) -> Expected:
    """The expected result, which the hosts that answer tell."""
    departs = operation.action in ("remove", "replace")
    if departs and operation.host not in operation.wanted and state.hosts[operation.host].standing not in LISTED:
        return refused(Why.NO_MEMBER)
    needed = operation.wanted - {operation.host} if departs else operation.wanted
    if not all(state.hosts[name].is_on for name in needed):
        return refused(Why.UNREACHABLE)
    return expect_departure(state, operation) if departs else expect_site(state, operation)


def has_cut(state: State, operation: Operation) -> bool:
    """Whether the inventory of a run has a host that does not reach the others."""
    return any(state.hosts[name].is_cut for name in operation.wanted)


def expect_site(state: State, operation: Operation) -> Expected:
    """site.yml: joins what is new, repairs, rolls."""
    wanted = [name for name in state.hosts if name in operation.wanted]
    standings = {state.hosts[name].standing for name in wanted}
    reasons = {
        why
        for standing, why in (
            (Standing.REMOVED, Why.REMOVED),
            # Clearing may have got as far as the record, or not.
            (Standing.FORMER, Why.FORMER),
            (Standing.FORMER, Why.REMOVED),
            (Standing.EMPTIED, Why.LOST_DATA),
        )
        if standing in standings
    }
    if reasons and state.ready and set(state.stopped) & operation.wanted:
        # Only stopped members are started: the others can be replaced only when they run.
        starts = tuple(name for name in state.stopped if name in operation.wanted)
        return Expected(failures=frozenset({Why.ENDS_UNWELL}), must_fail=True, starts=starts)
    if reasons:
        return refused(*reasons)
    joining = [name for name in wanted if state.hosts[name].standing in (Standing.FRESH, Standing.LEARNER)]
    size = len(state.those(*LISTED)) + len([name for name in joining if state.hosts[name].standing is Standing.FRESH])
    rolls = operation.action == "roll" or not state.is_rolled
    after = {name: (Standing.VOTER, state.hosts[name].standing, Standing.LEARNER) for name in joining}
    if rolls and size <= 2 and not operation.is_forced and state.ready:
        return refused(Why.INTERRUPTION)
    if has_cut(state, operation):
        if rolls or Standing.FRESH in standings:
            return refused(Why.UNCONNECTED)
        # Whether a learner has data, and so has only to be started, is not known here.
        failures = {Why.UNCONNECTED, Why.CUT_OFF, Why.JOIN_UNWELL, Why.ENDS_UNWELL}
        return Expected(failures=frozenset(failures), must_fail=True, after=after)
    return Expected(starts=tuple(state.stopped), after=after)


def expect_departure(state: State, operation: Operation) -> Expected:
    """remove_member.yml and replace_member.yml: the member leaves, its host is cleared, and joins anew if it is replaced."""
    name, replaces = operation.host, operation.action == "replace"
    host = state.hosts[name]
    if not [other for other in state.ready if other != name]:
        return refused(Why.NO_HELPER)
    is_ready = name in state.ready
    rest = [other for other in state.those(*VOTING) if other != name]
    unwell = [other for other in rest if other not in state.ready]
    reasons = set()
    if host.standing in LISTED:
        if len(rest) - len(unwell) <= len(rest) // 2:
            reasons.add(Why.QUORUM)
        elif unwell and is_ready:
            reasons.add(Why.UNWELL)
    if replaces:
        if has_cut(state, operation):
            reasons.add(Why.UNCONNECTED)
        if Why.QUORUM not in reasons and (
            unwell or [other for other in state.those(Standing.LEARNER) if other != name]
        ):
            reasons.add(Why.UNWELL)
        if not host.is_on:
            reasons.add(Why.ABSENT)
        elif is_ready and not operation.is_forced:
            reasons.add(Why.HEALTHY)
    elif name == state.ca_host and host.is_on:
        reasons.add(Why.CA_KEY)
    if reasons:
        return refused(*reasons)
    return carried_out(state, name, replaces, bool(unwell))


def carried_out(state: State, name: str, replaces: bool, is_unwell: bool) -> Expected:
    """The result of a departure that is not refused. is_unwell: another voting member is not healthy."""
    host = state.hosts[name]
    learner = any(other != name for other in state.those(Standing.LEARNER))
    before = host.standing
    # Nothing of the member is on the host, so nothing there records that it has left.
    left = Standing.FRESH if host.is_bare else Standing.FORMER
    cleared = Standing.FRESH if before is Standing.FRESH or host.is_bare else Standing.REMOVED
    if host.is_cut:
        return Expected(
            failures=frozenset({Why.CUT_OFF, Why.ENDS_UNWELL}), must_fail=True, after={name: (before, left)}
        )
    if not replaces:
        ended = cleared if host.is_on else left
        failures = frozenset({Why.ENDS_UNWELL}) if is_unwell or learner else frozenset()
        return Expected(failures=failures, after={name: (ended,)})
    joined = (Standing.VOTER, before, left, cleared, Standing.FORMER, Standing.REMOVED, Standing.LEARNER)
    return Expected(after={name: joined})


def interrupted(state: State, operation: Operation) -> Mapping[str, tuple[Standing, ...]]:
    """Possible standings of hosts after a run that was killed, or that failed because of another run."""
    expected = expect(state, operation)
    if expected.refusals:
        return {}
    name = operation.host
    departs = operation.action in ("remove", "replace")
    left = (Standing.FRESH if state.hosts[name].is_bare else Standing.FORMER,) if departs else ()
    return {
        host: tuple(dict.fromkeys([*standings, state.hosts[host].standing, *left]))
        for host, standings in {
            **expected.after,
            **({name: (*expected.after.get(name, ()), Standing.REMOVED)} if departs else {}),
        }.items()
    }


def contradictions(
    state: State, observed: Mapping[str, Standing], allowed: Mapping[str, Iterable[Standing]]
) -> list[str]:
    """Hosts in a state that the model does not allow. observed: all hosts that could be observed."""
    return [
        f"{name} was {state.hosts[name].standing.value} and is {standing.value}"
        for name, standing in observed.items()
        if standing not in tuple(allowed.get(name, (state.hosts[name].standing,)))
    ]


def settled(state: State, observed: Mapping[str, Standing], started: Iterable[str] = ()) -> State:
    """The state with what was observed. started: hosts whose kubelet runs. Only members are told to be stopped."""
    hosts = {}
    for name, host in state.hosts.items():
        standing = observed.get(name, host.standing)
        is_stopped = host.is_stopped and standing is Standing.VOTER and name not in started
        is_bare = host.is_bare and standing is Standing.EMPTIED
        hosts[name] = replace(host, standing=standing, is_stopped=is_stopped, is_bare=is_bare)
    return replace(state, hosts=hosts)


# --- Steps ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Step:
    """One step. kind: run, killed, both (two controllers), or an event: kill, stop, off, on, cut, heal, empty, wipe, forget.

    number: of the task at which the controller is killed, or of seconds between two controllers.
    """

    kind: str
    operations: tuple[Operation, ...] = ()
    host: str = ""
    number: int = 0

    def __str__(self) -> str:
        what = " and ".join(map(str, self.operations)) or self.host
        return " ".join([self.kind, what, f"at {self.number}" if self.number else ""]).strip()


def happened(state: State, step: Step) -> State:
    """The state after an event."""
    name = step.host
    if step.kind in ("off", "on"):
        return state.altered(name, is_on=step.kind == "on", is_stopped=False)
    if step.kind == "stop":
        return state.altered(name, is_stopped=True)
    if step.kind in ("cut", "heal"):
        return state.altered(name, is_cut=step.kind == "cut")
    if step.kind == "empty":
        return state.altered(name, standing=Standing.EMPTIED)
    if step.kind == "wipe":
        is_listed = state.hosts[name].standing in LISTED
        return state.altered(name, standing=Standing.EMPTIED if is_listed else Standing.FRESH, is_bare=is_listed)
    if step.kind == "forget":
        return replace(state, wanted=state.wanted - {name})
    return state


def events(state: State) -> list[tuple[float, Step]]:
    """Possible events, with weights. Data is lost only if a quorum of healthy members stays."""
    found = []
    for name, host in state.hosts.items():
        standing = host.standing
        if not host.is_on:
            found.append((6.0, Step("on", host=name)))
            continue
        if host.is_cut:
            found.append((6.0, Step("heal", host=name)))
            continue
        if host.is_stopped:
            continue
        if standing is Standing.VOTER:
            # Sometimes so many that quorum is lost: those hosts come back.
            rare = 1.0 if state.survives(name) else 0.1
            found += [(0.6, Step("kill", host=name)), (0.4 * rare, Step("off", host=name))]
            found.append((1.2 * rare, Step("cut", host=name)))
            if state.survives(name) or all(state.hosts[other].standing is Standing.VOTER for other in state.wanted):
                found.append((0.8 * rare, Step("stop", host=name)))
            if state.survives(name):
                found.append((0.4, Step("empty", host=name)))
                found += [(0.2, Step("wipe", host=name))] if name != state.ca_host else []
        elif standing in LEFT and name != state.ca_host:
            found.append((0.6, Step("wipe", host=name)))
        # Without etcd_ca_host, the first host of the inventory is the CA host.
        if standing in LEFT and name in state.wanted and name != state.ca_host:
            found.append((2.0, Step("forget", host=name)))
    return found


def operations(state: State) -> list[tuple[float, Operation]]:
    """Possible runs, with weights."""
    wanted = state.wanted
    found = [(0.7, Operation("site", wanted)), (0.7, Operation("roll", wanted))]
    small = len(state.those(*LISTED)) <= 2
    if small:
        found.append((0.3, Operation("roll", wanted, is_forced=True)))
    if (state.those(Standing.LEARNER) or state.stopped) and not expect(state, found[0][1]).refusals:
        found.append((6.0, Operation("site", wanted)))
    for name, host in state.hosts.items():
        standing = host.standing
        if standing is Standing.FRESH and host.is_on:
            found.append((2.0, Operation("site", wanted | {name})))
        if standing in LEFT and host.is_on:
            found += [(0.3, Operation("site", wanted | {name})), (1.5, Operation("replace", wanted | {name}, name))]
        if standing is Standing.VOTER:
            found += [
                ((0.2 if small else 0.8), Operation("remove", wanted, name)),
                (0.3, Operation("replace", wanted, name)),
                (0.5, Operation("replace", wanted, name, is_forced=True)),
            ]
        if standing is Standing.LEARNER:
            found.append((1.0, Operation("remove", wanted, name)))
        if standing is Standing.EMPTIED:
            found += [(4.0, Operation("replace", wanted, name)), (1.0, Operation("remove", wanted, name))]
        if standing in LEFT and name in wanted:
            found.append((0.5, Operation("remove", wanted, name)))
    return [item for item in found if can_be_tried(state, item[1])]


def can_be_tried(state: State, operation: Operation) -> bool:
    """Whether the model can predict a run. It cannot tell which members of a cluster without quorum count as ready."""
    cut = [name for name in operation.wanted if state.hosts[name].is_cut]
    # Other tests cover changes to a cluster that a run has to start; here it is started unchanged.
    is_plain = operation.action == "site" and state.is_rolled and operation.wanted <= set(state.those(Standing.VOTER))
    if state.stopped and not state.has_quorum and not is_plain:
        return False
    # A CA host that does not answer cannot sign, which the model leaves out.
    ca_is_gone = operation.host == state.ca_host and not state.hosts[state.ca_host].is_on
    return not (cut and not state.has_quorum) and not ca_is_gone


def pick(chance: random.Random, weighted: list[tuple[float, Step]]) -> Step:
    """One of them, by weight."""
    return chance.choices([step for _weight, step in weighted], [weight for weight, _step in weighted])[0]


# A run has about this many tasks.
TASKS = 45


def choose(state: State, chance: random.Random, former: Step | None = None) -> Step:
    """The next step. former: the previous one; if it was killed, a run often finishes it."""
    runs = operations(state)
    if former and former.kind == "killed" and chance.random() < 0.6:
        again = [operation for _weight, operation in runs if operation == former.operations[0]]
        if again:
            return Step("run", (again[0],))
    weighted: list[tuple[float, Step]] = []
    for weight, operation in runs:
        weighted.append((weight, Step("run", (operation,))))
        if not expect(state, operation).refusals:
            weighted.append((0.5 * weight, Step("killed", (operation,), number=chance.randint(1, TASKS))))
    acting = [operation for _weight, operation in runs if not expect(state, operation).refusals]
    if len(acting) > 1 and len(state.reached) == len(state.those(*VOTING)) > 2:
        pair = (chance.choice(acting), chance.choice(acting))
        weighted.append((2.0, Step("both", pair, number=chance.choice([0, 0, 2, 7, 20]))))
    return pick(chance, [*weighted, *events(state)])


def finishing(state: State) -> Step | None:
    """The next step towards a complete cluster; None if site.yml does the rest."""
    for name, host in state.hosts.items():
        if not host.is_on:
            return Step("on", host=name)
        if host.is_cut:
            return Step("heal", host=name)
    if state.stopped:
        return Step("run", (Operation("site", state.wanted),))
    emptied = sorted(state.those(Standing.EMPTIED), key=lambda name: name == state.ca_host)
    for name in state.those(Standing.LEARNER):
        finish = Operation("site", state.wanted | {name})
        if not expect(state, finish).must_fail:
            return Step("run", (finish,))
        # site.yml refuses, and no other member joins before this one has.
        if name != state.ca_host:
            return Step("run", (Operation("remove", finish.wanted, name),))
        # This host has the only CA key, so the member that blocks its join is removed.
        if emptied:
            return Step("run", (Operation("remove", state.wanted, emptied[0]),))
        return Step("forget", host=next(name for name in state.those(*LEFT) if name in state.wanted))
    if emptied:
        # No member is replaced beside another one that is not healthy.
        return Step("run", (Operation("replace" if len(emptied) == 1 else "remove", state.wanted, emptied[0]),))
    for name in state.those(*LEFT):
        if name in state.wanted:
            return Step("run", (Operation("replace", state.wanted, name),))
    return None


def together(state: State, pair: tuple[Operation, ...]) -> Mapping[str, tuple[Standing, ...]]:
    """Possible standings of hosts after two runs at once, in either order."""
    found: dict[str, tuple[Standing, ...]] = {}
    for first, second in (pair, pair[::-1]):
        allowed = interrupted(state, first)
        begun = settled(state, {name: standings[0] for name, standings in expect(state, first).after.items()})
        for changes in (allowed, interrupted(state, second), interrupted(begun, second), expect(begun, second).after):
            for name, standings in changes.items():
                found[name] = tuple(dict.fromkeys([*found.get(name, ()), *standings]))
    return found
