# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The operation restore: the whole cluster from one snapshot. Runs on the controller, pure.

The phases are prepare (beside the data), stop, replace; each is taken by all hosts before the next one begins. Which of them a host has behind it
is read off its data: the data of a restore has a cluster id of its own. What was replaced is started by the run that follows, which converges.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ansible_collections.kubeadm.etcd.plugins.module_utils._control.authority import ca_problems
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.backup import backup
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.cluster import Cluster
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.identity import entry_of, membership
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.judge import judge
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.plan import apart_plan, step_lines
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.steps import (
    IMAGE,
    PREPARE,
    REPLACE_DATA,
    RESTORE,
    STOP,
    Step,
    in_order,
)
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.view import View, lockstep_problems
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.wish import WantedSnapshot, Wish
from ansible_collections.kubeadm.etcd.plugins.module_utils._etcd.restore import (
    SECONDS,
    cluster_id,
    new_token,
    restore_token,
)
from ansible_collections.kubeadm.etcd.plugins.module_utils._etcd.snapshot import NAME
from ansible_collections.kubeadm.etcd.plugins.module_utils._operations.converge import image_reasons
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.members import Member, peer_url
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.problems import START, Problem, note, problems_of
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.reasons import Reason
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.versions import CANCEL

if TYPE_CHECKING:
    # Python 3.8 cannot evaluate them.
    Observation = Mapping[str, Any]
    Observations = Mapping[str, Observation]


@dataclass(frozen=True)
class Restore:
    """What is still to be done. problems: why nothing is done. token: the initial-cluster-token of the restored cluster."""

    problems: list[Problem] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)
    token: str = ""


def one_cluster_problems(clusters: Iterable[str]) -> list[str]:
    """Why several clusters cannot be restored from one file."""
    names = sorted(set(clusters))
    if len(names) < 2:
        return []
    return [
        f"etcd_snapshot is a snapshot of one cluster, and this run has the clusters {', '.join(names)}: all of them would get the same data. Run again with"
        " --limit to the hosts of one cluster."
    ]


def restore(
    cluster: Cluster, observations: Observations, absent: list[str], snapshot: WantedSnapshot, replace_healthy: str
) -> Restore:
    """What is to be done so that all members have the data of the snapshot.

    absent: members without an observation. replace_healthy: the name of a cluster that may be replaced although it is healthy.
    """
    problems = [
        *cluster.problems,
        *problems_of("snapshot", [snapshot.problem] if snapshot.problem else []),
    ]
    if absent:
        text = (
            f"{', '.join(absent)} could not be observed, or are not part of this run. All members of the inventory are restored together, because a member"
            " that keeps its former data would diverge from the others. Repair these hosts, or remove them from the inventory, and add them again with"
            " site.yml after the restore."
        )
        problems.append(Problem(text, code="absent"))
    for host, item in observations.items():
        if not item["config"] or not item["config"].get("image"):
            problems.append(
                Problem(
                    "the configuration of this host could not be rendered, so its image is not known. Run site.yml --check, which says why.",
                    host=host,
                    code="config",
                )
            )
    if problems:
        return Restore(problems)
    urls = {
        member.name: peer_url(member.address, observations[member.host]["config"]["peer_port"])
        for member in cluster.members
    }
    data = {item["etcd"].get("cluster_id") for item in observations.values()}
    token = restore_token(snapshot.identity, urls, data, moment_of(observations))
    new = cluster_id(urls, token)
    left = not_of(cluster, observations, new)
    if left:
        problems = healthy_problems(cluster, observations, new, replace_healthy)
    if problems:
        return Restore(problems)
    if has_ended(observations, new, bool(left), replace_healthy == cluster.name):
        # At another moment than the one before.
        token = new_token(
            snapshot.identity,
            moment_of(observations) + (token == new_token(snapshot.identity, moment_of(observations))),
        )
        left = not_of(cluster, observations, cluster_id(urls, token))
    steps = []
    for kind in (PREPARE, STOP, REPLACE_DATA):
        for member in left:
            reasons = reasons_for(kind, observations[member.host], snapshot)
            if reasons:
                steps.append(Step(kind, member.name, member.host, None, tuple(reasons)))
    warnings = [
        *former_members(cluster, observations),
        *of_another(cluster, snapshot),
        *in_a_downgrade(cluster, snapshot),
    ]
    return Restore([], steps, warnings if left else [], token)


def not_of(cluster: Cluster, observations: Observations, new: str) -> list[Member]:
    """Members whose data is not that of the restored cluster."""
    return [member for member in cluster.members if observations[member.host]["etcd"].get("cluster_id") != new]


def has_ended(observations: Observations, new: str, is_partial: bool, is_wanted_again: bool) -> bool:
    """Whether the restore with this id of a cluster is one that came to its end before, so that this run begins another one.

    is_partial: hosts have other data. They must not be added to members that were restored, have run, and may have written more: a quorum of
    others could go on without what these have. is_wanted_again: a healthy cluster is replaced.
    """
    is_recorded = any((item["etcd"].get("record") or {}).get("cluster_id") == new for item in observations.values())
    runs = any(item["etcd"].get("running") and item["etcd"].get("cluster_id") == new for item in observations.values())
    return (is_recorded and (is_partial or is_wanted_again)) or (is_partial and runs)


def moment_of(observations: Observations) -> int:
    """When the hosts were asked, in steps since 1970: each host's plan is made of the same observations, and comes to the same."""
    return int(max((item["facts"].get("asked_at") or 0.0 for item in observations.values()), default=0.0) // SECONDS)


def reasons_for(kind: str, observation: Observation, snapshot: WantedSnapshot) -> list[Reason]:
    """Why a host has a step of a kind. A host whose etcd does not run and that has no manifest is not stopped."""
    if kind == PREPARE:
        return [Reason("data", "prepared", f"{snapshot.path} is restored beside the data directory, and verified")]
    if kind == STOP:
        is_there = observation["etcd"].get("running") or observation["facts"]["etcd_manifest"]
        return [Reason("data", "stopped", "etcd stops: etcd.yaml is moved away", restarts=True)] if is_there else []
    kept = "the former data is renamed and kept, and " if observation["etcd"].get("has_data") else ""
    return [Reason("data", "replaced", f"{kept}the restored data takes its place")]


def healthy_problems(cluster: Cluster, observations: Observations, new: str, replace_healthy: str) -> list[Problem]:
    """Whether a cluster that serves would be replaced. new: the id of the restored cluster."""
    ready = [host for host, item in observations.items() if item["etcd"].get("ready")]
    if not ready or replace_healthy == cluster.name:
        return []
    if any(observations[host]["etcd"].get("cluster_id") == new for host in ready):
        text = (
            f"cluster {cluster.name!r} was already restored from this snapshot, and {', '.join(ready)} run. Other members were not restored. Run site.yml, or"
            " replace these members: replace_member.yml"
        )
    else:
        text = (
            f"cluster {cluster.name!r} is healthy ({', '.join(ready)}). A restore replaces all its data, so all writes since the snapshot are lost. To do it"
            f" nevertheless: -e etcd_replace_healthy_cluster={cluster.name}"
        )
    return [Problem(text, code="healthy")]


def of_another(cluster: Cluster, snapshot: WantedSnapshot) -> list[Problem]:
    """A snapshot that has the name of another cluster. That may be wanted: a cluster is copied so."""
    match = NAME.match(os.path.basename(snapshot.path))
    if not match or match["cluster"] == cluster.name:
        return []
    other = match["cluster"]
    text = f"by its name, {snapshot.path} is a snapshot of cluster {other!r}. Cluster {cluster.name!r} gets the keys of cluster {other!r}."
    return [note(text)]


def in_a_downgrade(cluster: Cluster, snapshot: WantedSnapshot) -> list[Problem]:
    """A snapshot that was taken while a downgrade was under way: etcd keeps that in its data."""
    target = snapshot.description.get("downgrade")
    if not target:
        return []
    text = (
        f"{snapshot.path} was taken while a downgrade to {target} was under way, so the restored cluster {cluster.name!r} is in the middle of it, too."
        f" With etcd {target}, etcd ends it some seconds after all members run. With the newer version, no member can join until it is finished (site.yml"
        f" -e etcd_downgrade={target}) or cancelled (-e etcd_downgrade={CANCEL})."
    )
    return [note(text)]


def former_members(cluster: Cluster, observations: Observations) -> list[Problem]:
    """Members that the inventory does not have: nothing stops them."""
    listed = membership(observations) or []
    others = [entry for entry in listed if not any(entry_of(member, [entry]) for member in cluster.members)]
    return [
        note(
            f"member {entry.get('name') or entry['id']} of the former cluster {cluster.name!r} is not in the inventory. If its host still runs, stop etcd"
            " there, so that no client finds the former data."
        )
        for entry in others
    ]


# Problems of a host that a restore solves.
OF_FORMER_DATA = ("unreadable-data", "restore-under-way")


def start_problems(cluster: Cluster, observations: Observations, wish: Wish) -> list[Problem]:
    """Why members could not be started once their data was replaced: said before anything stops.

    Data that cannot be read is archived, and a restore that has not ended is what this run finishes.
    """
    found = [*judge(cluster, observations, wish)[0], *ca_problems(cluster, observations, wish.own_ca)]
    return [problem for problem in found if START in problem.stops and problem.code not in OF_FORMER_DATA]


def image_steps(observations: Observations, steps: Iterable[Step], archive: str) -> list[Step]:
    """The image archive is imported where data is restored and the image is missing: no member could be started otherwise. archive: '' for none."""
    found = {step.host: (step.member, image_reasons(observations[step.host], archive)) for step in steps}
    return [Step(IMAGE, member, host, None, tuple(reasons)) for host, (member, reasons) in found.items() if reasons]


def plan(view: View, wish: Wish) -> dict[str, Any]:
    """The plan of a run that restores a snapshot: see RETURN of the module etcd_plan."""
    cluster, observations = view.cluster, view.observations
    problems = [*lockstep_problems(view), *problems_of("snapshot", one_cluster_problems(view.clusters))]
    found = Restore()
    if not problems:
        found = restore(cluster, observations, view.absent, wish.snapshot, wish.replace_healthy_cluster)
    problems += found.problems or (start_problems(cluster, observations, wish) if found.steps else [])
    images = image_steps(observations, found.steps, wish.image_archive)
    lacking = [observations[step.host]["config"]["image"] for step in images]
    problems += problems_of("image-archive", view.archive_problems(lacking) if lacking else ())
    steps, warnings = [*images, *found.steps], list(found.warnings)
    if wish.backup_before_change and any(item["etcd"].get("answers") for item in observations.values()) and steps:
        taken = backup(cluster, observations)
        steps, warnings = [*taken.steps, *steps], [*warnings, *taken.warnings]
    what = f"restored from {wish.snapshot.path}" if steps else "has the data of the snapshot"
    lines = step_lines(cluster, what, in_order(steps))
    return {
        **apart_plan(view, RESTORE, problems, in_order(steps), lines, warnings),
        "token": found.token,
        "identity": wish.snapshot.identity,
    }
