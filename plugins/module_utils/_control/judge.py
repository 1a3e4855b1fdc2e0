# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Which problems there are, and which of them stops which part of a run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ansible_collections.kubeadm.etcd.plugins.module_utils._control.authority import needs_signing
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.cluster import Cluster
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.decision import NOTHING, REFUSE, START_ALL, Decision
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.preflight import (
    cluster_problems,
    cluster_warnings,
    host_problems,
    host_warnings,
    unknown_address_problems,
)
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.steps import RENEW
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.view import View, exists, lockstep_problems
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.wish import Wish
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.problems import (
    EVERYTHING,
    FOUND,
    PROCESSES,
    RESTART,
    SIGN,
    START,
    Problem,
    note,
    problems_of,
)

if TYPE_CHECKING:
    # Python 3.8 cannot evaluate them.
    Observation = Mapping[str, Any]
    Observations = Mapping[str, Observation]


def judge(cluster: Cluster, observations: Observations, wish: Wish) -> tuple[list[Problem], list[Problem]]:
    """Problems and warnings of the hosts and of what they have in common."""
    facts = {host: observation["facts"] for host, observation in observations.items()}
    problems = [
        *cluster.problems,
        *problems_of("own-ca", wish.own_ca.get("problems", [])),
        *unknown_address_problems(cluster),
    ]
    warnings = [*map(note, cluster.warnings)]
    for member in cluster.members:
        if member.host not in observations:
            continue
        observation = observations[member.host]
        problems += host_problems(
            member,
            facts[member.host],
            wish.runtime_endpoint,
            observation["kubelet"]["allows_swap"],
            wish.allow_untested_kubeadm,
        )
        problems += [Problem.from_dict(item, member.host) for item in observation["problems"]]
        if wish.image_archive and observation["images"] is None:
            text = "etcd_image_archive needs containerd and its program ctr. Let the runtime pull the image instead."
            problems.append(Problem(text, PROCESSES, member.host, code="image-archive"))
        noticed = [
            *host_warnings(facts[member.host]),
            *observation["pki"].get("warnings", []),
            *observation["kubelet"].get("warnings", []),
        ]
        warnings += [note(text, member.host) for text in noticed]
    return problems + cluster_problems(cluster, facts), [*warnings, *map(note, cluster_warnings(facts))]


def touched(decision: Decision, observations: Observations) -> dict[str, tuple[str, ...]]:
    """What a decision does to the member of each host that it touches: RESTART if it is ready, else START, and FOUND if it starts for the first time.

    A host whose manifest could not be compared counts as restarted, so that the reason is a problem and not only a warning.
    """
    unjudged = [host for host, item in observations.items() if not item["config"]]
    etcd = {
        host: observations[host]["etcd"]
        for host in [*decision.start, *decision.order, *unjudged]
        if host in observations
    }
    first = {host for host, state in etcd.items() if host not in unjudged and not state["has_data"]}
    return {
        host: (RESTART,) if state.get("ready") else (FOUND, START) if host in first else (START,)
        for host, state in etcd.items()
    }


@dataclass(frozen=True)
class Outcome:
    """A decision after all problems have been weighed. refusals: the run changes nothing. held: it issues certificates only, and then fails.

    unsigned: it issues no certificate, and starts what is down.
    """

    decision: Decision
    refusals: list[Problem] = field(default_factory=list)
    held: list[Problem] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)
    unsigned: bool = False


def weigh(decision: Decision, problems: list[Problem], observations: Observations, signs: bool, wish: Wish) -> Outcome:
    """Which problems stop which part of a decision. signs: whether certificates of a cluster that exists are due.

    A cluster that does not exist yet is founded without any problem, or not at all. One that exists gets its certificates whatever keeps its
    processes from being restarted, and what is down is started though certificates cannot be renewed. What stops nothing that is due is a warning.
    """
    everything = [*problems, *decision.problems]
    if not everything:
        return Outcome(decision)
    nothing = replace(decision, action=NOTHING, order=[], start=[], problems=[])
    if not exists(observations):
        return Outcome(replace(nothing, action=REFUSE), refusals=everything)
    acts = touched(decision, observations)
    if wish.operation == RENEW:
        processes: list[Problem] = []
    else:
        processes = [
            *(
                p
                for p in problems
                if any({*steps} & {*p.stops} and p.host in ("", host) for host, steps in acts.items())
            ),
            *decision.problems,
        ]
    whole = [problem for problem in everything if set(problem.stops) >= set(EVERYTHING)]
    signing = [problem for problem in everything if SIGN in problem.stops] if signs else []
    # The quorum may need what is down, and has no use for a certificate that is renewed in time.
    down = [host for host, steps in acts.items() if steps == (START,)]
    start, order = ([host for host in hosts if host in down] for hosts in (decision.start, decision.order))
    can_start = all(
        not needs_signing(observations[host]) or observations[host]["pki"].get("usable") for host in [*start, *order]
    )
    if signing and (start or order) and can_start and not whole and not processes and wish.operation != RENEW:
        return Outcome(replace(decision, start=start, order=order), warnings=everything, unsigned=True)
    refusals = [*whole, *signing, *([] if signs else processes)]
    if refusals:
        refusals += processes
        return Outcome(replace(nothing, action=REFUSE), refusals, warnings=[p for p in everything if p not in refusals])
    return Outcome(
        nothing if processes else replace(decision, problems=[]) if decision.action != REFUSE else nothing,
        held=processes,
        warnings=[problem for problem in everything if problem not in processes],
    )


def attendance_problems(view: View, limit: str, exists: bool = True) -> list[Problem]:
    """Hosts that have failed in this run, and hosts that were not observed before the plan. limit, exists: as for lost_problems."""
    return [*problems_of("lost", lost_problems(view.lost, limit, exists)), *lockstep_problems(view)]


def lost_problems(lost: list[str], limit: str = "", exists: bool = True) -> list[str]:
    """Why a run does not continue without hosts that it began with.

    limit: what the run was limited to. exists: whether there is a cluster already; a new one is founded by all hosts, so that a limit is no way.
    """
    if not lost:
        return []
    if not exists:
        return [
            f"{', '.join(lost)} cannot be reached, or could not be observed (see above), and a new cluster needs all of its hosts."
            " Repair that and run again with all of them."
        ]
    return [
        f"{', '.join(lost)} cannot be reached, or could not be observed (see above), and the plan depends on the state of every"
        f" member. Repair that, or leave these hosts out of the run: {limit_without(limit, lost)}."
    ]


def limit_without(limit: str, hosts: Iterable[str]) -> str:
    """The option that leaves hosts out of a run. limit: what it is limited to already, which stays so."""
    separator = "," if "," in limit else ":"
    return f"--limit '{separator.join([limit or 'all', *('!' + host for host in hosts)])}'"


def start_without_problems(
    cluster: Cluster, decision: Decision, problems: list[Problem], observations: Mapping[str, Observation], limit: str
) -> list[Problem]:
    """The way to start a cluster that is down although some of its hosts have problems: the others may be a quorum without them."""
    hosts = list(dict.fromkeys(problem.host for problem in problems))
    # Who signs is needed by all.
    if any(START not in problem.stops for problem in problems):
        return []
    rest = [
        member.host
        for member in cluster.members
        if member.host not in hosts and (member.host not in observations or observations[member.host]["etcd"]["formed"])
    ]
    if decision.action != START_ALL or not hosts or "" in hosts or len(rest) <= len(cluster.members) // 2:
        return []
    return [
        Problem(
            f"cluster {cluster.name!r} does not answer, and {', '.join(rest)} can be a quorum without {', '.join(hosts)}. To start them first, leave"
            f" {', '.join(hosts)} out of this run: {limit_without(limit, hosts)}.",
            code="way-out",
        )
    ]
