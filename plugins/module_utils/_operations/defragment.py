# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The operation defragment: databases are made smaller, member by member, and a database that is full takes writes again.

Runs on the controller, pure, over observations by inventory host. Nothing is remembered between runs: a member that has been
defragmented is not fragmented, and to compact once more changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from ansible_collections.kubeadm.etcd.plugins.module_utils._control.alarms import alarmed, corruption_problems
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.cluster import Cluster
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.decision import (
    NOTHING,
    SURVIVES_NONE,
    without_cluster,
)
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.identity import membership
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.judge import attendance_problems
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.plan import apart_plan
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.steps import (
    DEFRAGMENT,
    DEFRAGMENT_MEMBER,
    DISARM,
    Step,
)
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.view import View, asker, exists
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.wish import Wish
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.database import (
    LEAST_UNUSED,
    PROBE_LASTS,
    Database,
    mib,
)
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.problems import Problem, merged, note
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.reasons import PARTS, Reason

if TYPE_CHECKING:
    # Python 3.8 cannot evaluate it.
    Observation = Mapping[str, Any]
    Observations = Mapping[str, Observation]

# With more than this in use, defragmentation may take longer than the kubelet waits: 27 to 140 MiB were written in a second, on a busy machine.
LARGE = 2 << 30


@dataclass(frozen=True)
class Limits:
    """What the modules are given. threshold: percent. compact_revision: 0 for no compaction. quota: the lowest of all members, 0 if none has one."""

    threshold: int
    compact_revision: int = 0
    quota: int = 0


@dataclass(frozen=True)
class Defragmentation:
    """What is to be done. problems: why nothing is done."""

    problems: list[Problem]
    steps: list[Step] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)
    limits: Limits = Limits(0)

    @property
    def as_options(self) -> dict[str, int]:
        """Options of the modules."""
        return asdict(self.limits)


def defragment(
    cluster: Cluster,
    observations: Observations,
    threshold: int,
    keep_revisions: int,
    allow_interruption: bool,
) -> Defragmentation:
    """Which databases are defragmented in which order, and what is compacted before if the alarm NOSPACE is raised."""
    is_full = any(kind == "NOSPACE" for kind, _member in alarmed(observations))
    absent = cluster.absent(observations)
    problems = [
        *cluster.problems,
        *corruption_problems(cluster, observations),
        *unwell_problems(cluster, observations),
    ]
    if is_full and absent:
        text = (
            f"alarm NOSPACE is raised, and {', '.join(absent)} of cluster {cluster.name!r} are not part of this run. The alarm ends only when the"
            " database of every member has room: run again with all members."
        )
        problems.append(Problem(text, code="absent"))
    if problems:
        return Defragmentation(problems)
    databases = {host: Database.from_dict(item["etcd"]["database"]) for host, item in observations.items()}
    limits = limits_of(databases.values(), is_full, threshold, keep_revisions)
    # What a compaction frees is not known before.
    due = [host for host, item in databases.items() if limits.compact_revision or item.is_fragmented(limits.threshold)]
    leading = [host for host in due if observations[host]["etcd"]["leader"]]
    order = [*(host for host in due if host not in leading), *leading]
    problems = [
        *interruption_problems(cluster, observations, order, allow_interruption),
        *(
            problem
            for host in order
            if not limits.compact_revision
            for problem in disk_problems(host, observations[host]["facts"]["disk_free"], databases[host])
        ),
    ]
    if problems:
        return Defragmentation(problems)
    steps = make_steps(cluster, databases, order, limits, alarmed(observations))
    warnings = [problem for host in order for problem in size_warnings(host, databases[host])]
    return Defragmentation([], steps, plan_lines(cluster, databases, order, leading, limits, steps), warnings, limits)


def limits_of(databases: Iterable[Database], is_full: bool, threshold: int, keep_revisions: int) -> Limits:
    """With the alarm NOSPACE, whatever can be freed is freed, and history goes if what is in use fills the quota without it."""
    found = list(databases)
    quota = min((database.quota for database in found if database.quota), default=0)
    if not is_full:
        return Limits(threshold, 0, quota)
    compacts = any(database.is_used_up for database in found)
    return Limits(0, compact_revision(found, keep_revisions) if compacts else 0, quota)


def compact_revision(databases: Iterable[Database], keep_revisions: int) -> int:
    """The revision up to which history is removed; 0 for none.

    Not more than kube-apiserver would remove by itself, unless keep_revisions is 0: its watches and lists may need the last five minutes.
    """
    found = list(databases)
    latest = max((database.revision for database in found), default=0)
    known = max((database.next_compaction for database in found), default=0)
    return max(0, min(latest - keep_revisions, known if known and keep_revisions else latest))


def unwell_problems(cluster: Cluster, observations: Observations) -> list[Problem]:
    """Members beside which none is blocked: those that are not healthy, learners, and members that have never started."""
    problems = [
        Problem(
            "etcd is not healthy here, and members are defragmented only while all are healthy. Run site.yml to repair it, or health.yml to see why.",
            host=host,
            code="unwell",
        )
        for host, item in observations.items()
        if not (item["etcd"].get("ready") and item["etcd"].get("database"))
    ]
    for entry in membership(observations) or []:
        name = entry.get("name") or entry["id"]
        if entry.get("is_learner") or not entry.get("client_urls"):
            text = (
                f"member {name} of cluster {cluster.name!r} has not joined completely, and members are defragmented only while all are healthy. Run"
                f" site.yml to finish the join, or remove it: remove_member.yml -e etcd_member={name}"
            )
            problems.append(Problem(text, code="learner"))
    return problems


def interruption_problems(
    cluster: Cluster, observations: Observations, order: list[str], allow_interruption: bool
) -> list[Problem]:
    """A cluster of one or two members does not answer while one of them is blocked."""
    size = len(membership(observations) or [])
    if not order or size > SURVIVES_NONE or allow_interruption:
        return []
    text = (
        f"defragmenting {', '.join(order)} would interrupt cluster {cluster.name!r}: it has {size} member(s) and needs all of them for quorum. Set"
        " etcd_allow_interruption: true for this run to accept that, or add members."
    )
    return [Problem(text, code="interruption")]


def disk_problems(host: str, free: int, database: Database) -> list[Problem]:
    """Whether the new file has room beside the old one."""
    if free > database.in_use + LEAST_UNUSED:
        return []
    text = (
        f"etcd writes the defragmented database beside the present one, which needs {mib(database.in_use + LEAST_UNUSED)}, and {mib(free)} of disk"
        " space are free for etcd's data. Free space on the filesystem of etcd_data_dir."
    )
    return [Problem(text, host=host, code="disk")]


def size_warnings(host: str, database: Database) -> list[Problem]:
    """A database that may take longer than the kubelet waits."""
    if database.in_use <= LARGE:
        return []
    text = (
        f"{mib(database.in_use)} are in use. If the disk takes more than {PROBE_LASTS} s to write them, the kubelet kills etcd during the defragmentation."
        ' No data is lost then, but the database stays as large as it is (docs/size.md, "Large databases").'
    )
    return [note(text, host)]


def make_steps(
    cluster: Cluster,
    databases: Mapping[str, Database],
    order: list[str],
    limits: Limits,
    alarms: list[tuple[str, str]],
) -> list[Step]:
    """Turns, and what ends the alarm after them."""
    names = {member.host: member.name for member in cluster.members}
    latest = max((database.revision for database in databases.values()), default=0)
    steps = []
    for number, host in enumerate(order, 1):
        reasons = [Reason("database", "fragmented", f"defragmented, {databases[host]}")]
        if limits.compact_revision:
            text = (
                f"compacted to revision {limits.compact_revision} of {latest}, because keys and history fill the quota"
            )
            reasons.insert(0, Reason("database", "compacted", text))
        steps.append(Step(DEFRAGMENT_MEMBER, names[host], host, number, tuple(reasons)))
    raised = [member or "the whole cluster" for kind, member in alarms if kind == "NOSPACE"]
    if raised:
        text = f"alarm NOSPACE of {', '.join(raised)}: disarmed if every database is below its quota"
        host = next(iter(databases))
        steps.append(Step(DISARM, names[host], host, None, (Reason("database", "disarmed", text),)))
    return steps


def plan_lines(
    cluster: Cluster,
    databases: Mapping[str, Database],
    order: list[str],
    leading: list[str],
    limits: Limits,
    steps: list[Step],
) -> list[str]:
    """The plan for people, with the figures of every member."""
    last = " (the leader, last)" if leading and len(order) > 1 else ""
    done = f"defragmented one after the other: {', '.join(order)}{last}" if order else "no database is defragmented"
    if not steps:
        done = f"nothing to do: no database has at least {limits.threshold} % and {mib(LEAST_UNUSED)} of unused space"
    details = [note(f"{PARTS[reason.part]}: {reason.text}", step.host) for step in steps for reason in step.reasons]
    rest = [
        note(f"{PARTS['database']}: not defragmented, {database}", host)
        for host, database in databases.items()
        if host not in order
    ]
    return [f"cluster {cluster.name}: {done}", *merged([*details, *rest])]


def plan(view: View, wish: Wish) -> dict[str, Any]:
    """The plan of a run that defragments: see RETURN of the module etcd_plan."""
    cluster, observations = view.cluster, view.observations
    problems = attendance_problems(view, wish.limit)
    if not problems and not cluster.problems and not exists(observations):
        problems.append(without_cluster(cluster))
    found = Defragmentation(problems)
    if not problems:
        found = defragment(
            cluster, observations, wish.defragment_threshold, wish.compact_keep_revisions, wish.allow_interruption
        )
    action = DEFRAGMENT if found.steps else NOTHING
    data = apart_plan(view, action, found.problems, found.steps, found.lines, found.warnings)
    return {**data, "asker": asker(view.members, observations), "limits": found.as_options}
