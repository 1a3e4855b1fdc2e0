# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The plan of a run as plain data, for roles, and in sentences."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from ansible_collections.kubeadm.etcd.plugins.module_utils._control.cluster import Cluster
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.departure import Departing
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.identity import entry_of
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.steps import (
    ARCHIVE,
    HAND_OVER,
    JOIN,
    KINDS,
    LEAVE,
    REPLACE,
    SNAPSHOT,
    TURN,
    Step,
    hosts_of,
    reasons_of,
)
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.view import View
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
    return [f"cluster {cluster.name}: {what}", *merged(note(text, host) for host, _part, text in reasons_of(steps))]


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
