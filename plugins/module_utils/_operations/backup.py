# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The operation backup: a verified snapshot."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ansible_collections.kubeadm.etcd.plugins.module_utils._control.backup import Backup, backup
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.plan import apart_plan, step_lines
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.steps import BACKUP
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.view import View, lockstep_problems
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.wish import Wish

if TYPE_CHECKING:
    # Python 3.8 cannot evaluate them.
    Observation = Mapping[str, Any]
    Observations = Mapping[str, Observation]


def plan(view: View, _wish: Wish) -> dict[str, Any]:
    """The plan of a run that takes a snapshot: see RETURN of the module etcd_plan."""
    problems = [*view.cluster.problems, *lockstep_problems(view)]
    found = Backup() if problems else backup(view.cluster, view.observations)
    problems += found.problems
    lines = step_lines(view.cluster, "a snapshot is taken", found.steps)
    return apart_plan(view, BACKUP, problems, found.steps, lines, found.warnings)
