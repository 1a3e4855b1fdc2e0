# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What one run does to one cluster: observations, inventory and wishes in, the plan out. Runs on the controller, pure.

The action plugin `etcd_plan` calls `plan_run`, and so do the tests.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from types import ModuleType
from typing import Any

from ansible_collections.kubeadm.etcd.plugins.module_utils._control.backup import fetch_problems
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.plan import ending, read_off
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.stages import carried_out
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.steps import (
    BACKUP,
    CONVERGE,
    DEFRAGMENT,
    DRILL,
    HAND_OVER,
    MOVE_CA,
    REMOVE,
    RENEW,
    REPLACE,
    REPORT,
    RESTORE,
    ROTATE_CA,
    SNAPSHOT,
    Step,
    hosts_of,
)
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.view import no_archive, view_of
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.wish import Wish
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.problems import merged

# The file in this folder that plans each operation: its function plan. A new one has a file here, a line, its name in roles/etcd/meta/argument_specs.yml,
# and a playbook.
OPERATIONS: Mapping[str, str] = {
    CONVERGE: "converge",
    RENEW: "converge",
    REMOVE: "departure",
    REPLACE: "departure",
    HAND_OVER: "hand_over",
    MOVE_CA: "move_ca",
    ROTATE_CA: "rotate_ca",
    DEFRAGMENT: "defragment",
    BACKUP: "backup",
    RESTORE: "restore",
    DRILL: "drill",
    # Of health.yml: it shows and refuses nothing.
    REPORT: "converge",
}


def loaded(operation: str) -> ModuleType:
    """The module that plans an operation."""
    return import_module(f"{__name__.rsplit('.', 1)[0]}.{OPERATIONS[operation]}")


# Ansible compiles what it loads of a collection in each run anew. What site.yml needs is loaded once, and not by each process that Ansible forks;
# what few runs need, by these.
loaded(CONVERGE)


def plan_run(
    host: str,
    seen: Mapping[str, Mapping[str, Any]],
    lost: list[str],
    wish: Wish,
    archive_problems: Callable[[list[str]], list[str]] = no_archive,
) -> dict[str, Any]:
    """The plan of a run for the cluster of a host, as plain data: see RETURN of the module etcd_plan. The arguments are those of view_of."""
    view = view_of(host, seen, lost, archive_problems)
    plan: dict[str, Any] = loaded(wish.operation).plan(view, wish)
    steps = [Step.from_dict(step) for step in plan["steps"]]
    taken = hosts_of(carried_out(steps, wish.stages), SNAPSHOT)
    problems = merged(fetch_problems(taken, view.observations, wish.fetch_dirs))
    if problems:
        plan = {**plan, **read_off([]), "problems": problems}
    return {**plan, "ending": ending(plan, view.cluster.name, wish)}
