# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The operations remove and replace: a member leaves, and if it is replaced, its host joins anew."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ansible_collections.kubeadm.etcd.plugins.module_utils._control.alarms import departed_with_alarm
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.backup import Backup, backup
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.decision import NOTHING, REFUSE, ROLLING, Decision
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.departure import (
    Departing,
    Departure,
    after_departure,
    depart,
    departing_in,
    name_problem,
)
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.identity import membership
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.steps import REPLACE
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.view import View
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.wish import Wish
from ansible_collections.kubeadm.etcd.plugins.module_utils._operations import converge
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.problems import Problem


def plan(view: View, wish: Wish) -> dict[str, Any]:
    """The plan of a run that has a member leave: see RETURN of the module etcd_plan."""
    leaving, problem = departing_of(view, wish)
    if problem:
        view.cluster.problems.append(Problem(problem, code="member"))
    if leaving.host not in view.observations:
        # It need not be there any more.
        view = view.without(leaving.host)
    cluster, observations = view.cluster, converge.with_image(view.observations, wish.image_archive)
    departure, taken = Departure(), Backup()
    if leaving.name:
        departure = depart(cluster, observations, leaving, wish.operation, wish.replace_healthy, wish.wipe_keys)
        # No snapshot if the departure is refused, or if the member has left in an earlier run.
        if wish.backup_before_change and leaving.is_listed and not departure.problems:
            taken = backup(cluster, observations, leaving.host)
    after = after_departure(observations, leaving, wish.operation)
    decision = decision_after(departure, leaving, wish.operation)
    return converge.plan(view, wish, converge.Leave(leaving, departure.steps, after, decision, taken))


def departing_of(view: View, wish: Wish) -> tuple[Departing, str]:
    """The member of this cluster that the run is about, without a name if it is one of another cluster; and why the name means no member."""
    clusters = {
        name: (cluster, [*(membership(observations) or []), *departed_with_alarm(observations)])
        for name, (cluster, observations) in view.clusters.items()
    }
    listed = clusters[view.cluster.name][1]
    leaving = departing_in(view.cluster, listed, wish.member, clusters)
    if leaving and not leaving.entry:
        # It has left in a run that did not get as far as its alarm.
        leaving = replace(leaving, entry=next((entry for entry in listed if entry.get("has_left")), None))
    return leaving or Departing(None, None), name_problem(wish.member, clusters)


def decision_after(departure: Departure, leaving: Departing, operation: str) -> Decision:
    """What happens to the members after the departure: a replaced member joins again."""
    action = ROLLING if operation == REPLACE and leaving.host else NOTHING
    joins = [leaving.host] if action == ROLLING else []
    if departure.problems:
        action, joins = REFUSE, []
    return Decision(action, order=joins, join=joins, problems=departure.problems, warnings=departure.warnings)
