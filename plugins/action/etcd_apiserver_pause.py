# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Stops or starts the kube-apiserver of a host, which need not be reachable. Documented in plugins/modules/etcd_apiserver_pause.py."""

from __future__ import annotations

from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.kubeadm.etcd.plugins.plugin_utils.play import run_or_warn


class ActionModule(ActionBase):
    """See the documentation of the module."""

    TRANSFERS_FILES = False
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """What the module returns. A host that cannot be reached is a warning: it may be gone with the cluster."""
        super().run(tmp, task_vars)
        text = f"its kube-apiserver is not {self._task.args.get('state')}. If it runs, restart it after the restore"
        return run_or_warn(self, task_vars, text, {"reasons": [], "changes": []})
