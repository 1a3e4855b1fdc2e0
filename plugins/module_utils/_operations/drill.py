# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The operation drill: the restore of a snapshot is rehearsed beside the cluster. Runs on the controller, pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ansible_collections.kubeadm.etcd.plugins.module_utils._control.cluster import Cluster
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.plan import apart_plan, step_lines
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.steps import (
    DRILL,
    REHEARSE,
    Step,
)
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.view import View, lockstep_problems
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.wish import WantedSnapshot, Wish
from ansible_collections.kubeadm.etcd.plugins.module_utils._etcd.snapshot import order_by_age
from ansible_collections.kubeadm.etcd.plugins.module_utils._operations.restore import (
    Restore,
)
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.problems import Problem, problems_of
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.reasons import Reason

if TYPE_CHECKING:
    # Python 3.8 cannot evaluate them.
    Observation = Mapping[str, Any]
    Observations = Mapping[str, Observation]


def drill(cluster: Cluster, observations: Observations, snapshot: WantedSnapshot) -> Restore:
    """On which host a restore is rehearsed: of a file on the controller, or of the newest snapshot on the hosts."""
    problems = [
        *cluster.problems,
        *problems_of("snapshot", [snapshot.problem] if snapshot.problem else []),
    ]
    hosts = {member.host: member.name for member in cluster.members if member.host in observations}
    newest = [
        (*order_by_age(item["age"]), -item["revision"], host, item["file"])
        for host in hosts
        for item in observations[host]["backup"]["newest"]
    ]
    if not hosts:
        problems.append(Problem(f"no host of cluster {cluster.name!r} could be observed.", code="absent"))
    if not newest and not snapshot.path:
        text = f"no host of cluster {cluster.name!r} has a snapshot. Take one (backup.yml), or name a file: -e etcd_snapshot=FILE"
        problems.append(Problem(text, code="no-snapshot"))
    if problems:
        return Restore(problems)
    file, host = snapshot.path, next(iter(hosts))
    if not file:
        *_order, host, file = min(newest)
    reason = Reason("snapshot", "rehearsed", f"{file} is restored into a throw-away member, compared, and removed")
    return Restore([], [Step(REHEARSE, hosts[host], host, None, (reason,))], [], snapshot.identity[:32])


def plan(view: View, wish: Wish) -> dict[str, Any]:
    """The plan of a run that rehearses a restore: see RETURN of the module etcd_plan."""
    found = drill(view.cluster, view.observations, wish.snapshot)
    problems = [*lockstep_problems(view), *found.problems]
    lines = step_lines(view.cluster, "a restore is rehearsed", found.steps)
    made = apart_plan(view, DRILL, problems, found.steps, lines)
    return {**made, "token": found.token, "description": dict(wish.snapshot.description)}
