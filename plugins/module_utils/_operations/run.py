# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What one run does to one cluster: observations, inventory and wishes in, the plan out. Runs on the controller, pure.

The action plugin `etcd_plan` calls `plan_run`, and so do the tests.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

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
)
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.view import View, no_archive, view_of
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.wish import Wish
from ansible_collections.kubeadm.etcd.plugins.module_utils._operations import (
    backup,
    converge,
    defragment,
    hand_over,
    move_ca,
    restore,
    rotate_ca,
)

# What plans each operation. A new one has a file in this folder, a line here, its name in roles/etcd/meta/argument_specs.yml, and a playbook.
OPERATIONS: Mapping[str, Callable[[View, Wish], dict[str, Any]]] = {
    CONVERGE: converge.plan,
    RENEW: converge.plan,
    REMOVE: converge.plan,
    REPLACE: converge.plan,
    HAND_OVER: hand_over.plan,
    MOVE_CA: move_ca.plan,
    ROTATE_CA: rotate_ca.plan,
    DEFRAGMENT: defragment.plan,
    BACKUP: backup.plan,
    RESTORE: restore.plan,
    DRILL: restore.plan_drill,
    # Of health.yml: it shows and refuses nothing.
    REPORT: converge.plan,
}


def plan_run(
    host: str,
    seen: Mapping[str, Mapping[str, Any]],
    lost: list[str],
    wish: Wish,
    archive_problems: Callable[[list[str]], list[str]] = no_archive,
) -> dict[str, Any]:
    """The plan of a run for the cluster of a host, as plain data: see RETURN of the module etcd_plan. The arguments are those of view_of."""
    return OPERATIONS[wish.operation](view_of(host, seen, lost, archive_problems), wish)
