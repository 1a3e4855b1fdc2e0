# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The plan of a run as plain data, for roles, and in sentences."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from ansible_collections.kubeadm.etcd.plugins.module_utils._control.cluster import Cluster
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.decision import (
    BOOTSTRAP,
    NOTHING,
    REFUSE,
    ROLLING,
    START_ALL,
    Decision,
)
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.departure import Departing
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.identity import entry_of
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.stages import STAGES, carried_out, left_out
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.steps import (
    ARCHIVE,
    CA,
    CONFIG,
    HAND_OVER,
    IMAGE,
    JOIN,
    KINDS,
    KUBELET,
    LEAVE,
    RECORD,
    REPLACE,
    REPLACE_CA,
    SCHEDULE,
    SNAPSHOT,
    START,
    TURN,
    Step,
    hosts_of,
    in_order,
    reasons_for,
    reasons_of,
)
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.view import View
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.wish import Wish
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.problems import Problem, merged, note

if TYPE_CHECKING:
    # Python 3.8 cannot evaluate them.
    Observation = Mapping[str, Any]
    Observations = Mapping[str, Observation]


def read_off(steps: list[Step]) -> dict[str, Any]:
    """What the roles ask of a plan, read off its steps: the steps, whether there are any, by kind the hosts that have one, the order of turns, and
    whether a snapshot is taken or a member leaves before them.
    """
    return {
        "steps": [step.as_dict() for step in steps],
        "settled": not steps,
        **{kind: hosts_of(steps, kind) for kind in KINDS},
        "order": hosts_of(steps, TURN, JOIN),
        "departs": bool(hosts_of(steps, SNAPSHOT, LEAVE, ARCHIVE)),
        "first_ca_only": False,
        "signs_next": False,
        "apiservers": [],
    }


def members_after(
    cluster: Cluster, leaving: Departing | None = None, listed: Iterable[Mapping[str, Any]] = (), operation: str = ""
) -> list[dict[str, str]]:
    """Name and address of the members that the cluster has after the run. listed: the membership now. leaving: a member that is removed or replaced.

    Hosts of the inventory that have no member yet join in another run than that: its end does not wait for them.
    """
    present = list(listed)
    return [
        {"name": member.name, "address": member.address}
        for member in cluster.members
        if not leaving or (operation == REPLACE if member == leaving.member else entry_of(member, present))
    ]


def watched(cluster: Cluster, leaving: Departing | None, operation: str) -> dict[str, Any]:
    """The members whose health the end of a run waits for, and the names of those that need not be members: if a member leaves, all others that the run does
    not have join, since another run may remove or add them."""
    stays = [member for member in cluster.members if not leaving or operation == REPLACE or member != leaving.member]
    return {
        "watched": [{"name": member.name, "address": member.address} for member in stays],
        "may_be_absent": [member.name for member in stays if leaving and member != leaving.member],
    }


def departing_data(leaving: Departing | None) -> dict[str, Any]:
    """The member that leaves, as plain data: its name, its id and client URLs (empty if the membership does not have it), its host ('' if there is none)."""
    if leaving is None:
        return {"name": "", "id": "", "host": "", "urls": []}
    entry = leaving.entry or {}
    urls = list(entry.get("client_urls") or [])
    return {"name": leaving.name, "id": str(entry.get("id", "")), "host": leaving.host, "urls": urls}


def apart_plan(
    view: View,
    operation: str,
    problems: list[Problem],
    steps: list[Step],
    lines: list[str],
    warnings: Iterable[Problem] = (),
) -> dict[str, Any]:
    """A plan that leaves members and certificates as they are, as plain data."""
    return {
        **read_off([] if problems else steps),
        "action": operation,
        "known_addresses": {},
        "moves": [],
        "departing": departing_data(None),
        "members": members_after(view.cluster),
        **watched(view.cluster, None, operation),
        "elsewhere": False,
        "copied": [],
        "lines": lines,
        "speaker": view.members[0] if view.members else None,
        "asker": None,
        "problems": merged(problems),
        "held": [],
        "notices": merged(warnings),
    }


def step_lines(cluster: Cluster, what: str, steps: list[Step]) -> list[str]:
    """A plan for people: what is done to the cluster, then to which host and why."""
    return [
        f"cluster {cluster.name}: {what}",
        *merged(note(f"{part}: {text}", host) for host, part, text in reasons_of(steps)),
    ]


def refusal(plan: Mapping[str, Any], cluster: Mapping[str, Any], speaks: bool) -> str:
    """Why nothing is changed. One host of a cluster says it, the others name that host."""
    if not speaks:
        return (
            f"{'' if plan.get('phase') else 'Nothing has been changed here. '}See the message from {plan['speaker']}."
        )
    whose = f"cluster {cluster['name']}" if cluster["name"] else "a cluster"
    what = "the hand-over of " if plan["action"] == HAND_OVER else ""
    count = len(plan["problems"])
    begin = f"The phase {plan['phase']} does not begin." if plan.get("phase") else "Nothing has been changed."
    header = f"{begin} {count} problem(s) {'with' if what else 'in'} {what}{whose}:"
    return "\n- ".join([header, *plan["problems"]])


def make_steps(
    decision: Decision, observations: Mapping[str, Observation], names: Mapping[str, str], **hosts: list[str]
) -> list[Step]:
    """The steps of a plan. names: of members, by host. hosts: by kind, who has a step that the decision on members does not tell."""
    touched = [*decision.start, *decision.order]
    wanted = {
        **hosts,
        CONFIG: [host for host, item in observations.items() if item["reasons"].get("config") and host not in touched],
        START: decision.start,
    }
    steps = [
        Step(kind, names[host], host, None, reasons_for(kind, observations[host]) if host in observations else ())
        for kind in KINDS
        for host in wanted.get(kind, [])
    ]
    turns = [
        Step(JOIN if host in decision.join else TURN, names[host], host, number, reasons_for(TURN, observations[host]))
        for number, host in enumerate(decision.order, 1)
    ]
    return in_order([*steps, *turns])


def plan_lines(
    cluster: Cluster,
    decision: Decision,
    steps: list[Step],
    leading: list[str],
    versions: Iterable[str] = (),
    stages: tuple[str, ...] = STAGES,
) -> list[str]:
    """A plan for people: what is done to the cluster, then to which host and why. leading: hosts whose member is the leader.

    versions: lines on the versions of etcd. stages: those that the run has. What is left to other stages has one line at the end.
    """
    count = len(cluster.members)
    done = carried_out(steps, stages)
    place = {member.host: number for number, member in enumerate(cluster.members)}
    listed, planned = (sorted(some, key=lambda step: place.get(step.host, count)) for some in (done, steps))
    details = merged(note(f"{part}: {text}", host) for host, part, text in reasons_of(listed))
    left = left_out(planned, stages)
    words = (
        member_words(decision, done, leading, count)
        if "static_pod" in stages or decision.action == REFUSE
        else kubelet_words(done)
    )
    if not done and left:
        words = "nothing to do in this run"
    rest = "; ".join(f"{stage} ({', '.join(hosts)})" for stage, hosts in left.items())
    return [
        f"cluster {cluster.name}: {words}",
        *(versions if decision.action != REFUSE and "static_pod" in stages else ()),
        *details,
        *([f"left to other stages: {rest}"] if rest else []),
    ]


def member_words(decision: Decision, steps: list[Step], leading: list[str], count: int) -> str:
    """What is done to the members. count: of the members."""
    order = ", ".join(f"{host} (joins)" if host in decision.join else host for host in decision.order)
    if len(decision.order) > 1 and decision.order[-1] in leading:
        order += " (the leader, last)"
    words = {
        BOOTSTRAP: f"a new cluster of {count} member{'s' if count > 1 else ''}, all started at once",
        START_ALL: f"no member answers; the members that are not ready are started: {', '.join(decision.start)}"
        if decision.start
        else "no member answers, so this run changes certificates only. Run again for all other changes",
        ROLLING: f"one member after the other: {order}" if decision.gated else f"an interruption: {order}",
        NOTHING: "no member is restarted" if steps else "nothing to do",
        REFUSE: "nothing is changed",
    }
    leaving = next((step.member for step in steps if step.kind in (LEAVE, ARCHIVE)), "")
    if leaving:
        words[NOTHING], words[ROLLING] = f"{leaving} leaves", f"{leaving} leaves; then {words[ROLLING]}"
    return words[decision.action]


def kubelet_words(steps: list[Step]) -> str:
    """What is done to the kubelets in a run that changes nothing else of members."""
    at_once, turns = hosts_of(steps, KUBELET, START), hosts_of(steps, TURN)
    words = [
        *([f"kubelets are changed at once: {', '.join(at_once)}"] if at_once else []),
        *([f"one kubelet after the other: {', '.join(turns)}"] if turns else []),
    ]
    return "; ".join(words) or ("no member is restarted" if steps else "nothing to do")


# Steps of these kinds make no member healthy.
_NOT_HEALING = (KUBELET, CA, REPLACE_CA, SNAPSHOT, CONFIG, IMAGE, RECORD, SCHEDULE)


def ending(plan: Mapping[str, Any], cluster: str, wish: Wish) -> dict[str, Any]:
    """What the role health does at the end of a run with this plan, as plain data.

    asks: whether the members are asked for their health. In check mode no member has started that could become healthy, or has left. waits: whether
    they may become healthy yet: a run that starts no member waits for none. proven: whether each host has proven its member by then. tolerates:
    whether members that are not healthy are no failure, since a run without check mode may make them healthy. held: why the run fails at its end although
    they are healthy, '' if it does not.
    """
    kinds = {step.kind for step in carried_out(map(Step.from_dict, plan["steps"]), wish.stages)}
    held = list(plan["held"])
    header = f"The certificates of cluster {cluster} are up to date. Nothing was started or restarted, because of {len(held)} problem(s):"
    return {
        "asks": not (wish.check and kinds & {START, LEAVE}),
        "waits": not held,
        "proven": plan["action"] == BOOTSTRAP and START in kinds,
        "tolerates": bool(wish.check and kinds - {*_NOT_HEALING}),
        "held": "\n- ".join([header, *held]) if held else "",
    }
