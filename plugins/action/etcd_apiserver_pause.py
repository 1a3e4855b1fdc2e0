# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Stops or starts the kube-apiserver of a host, which need not be reachable. Documented in plugins/modules/etcd_apiserver_pause.py."""

from __future__ import annotations

from typing import Any

from ansible.errors import AnsibleConnectionFailure
from ansible.plugins.action import ActionBase
from ansible_collections.kubeadm.etcd.plugins.plugin_utils.play import show


class ActionModule(ActionBase):
    """See the documentation of the module."""

    TRANSFERS_FILES = False
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """What the module returns. A host that cannot be reached is a warning: it may be gone with the cluster."""
        super().run(tmp, task_vars)
        try:
            result: dict[str, Any] = self._execute_module(module_args=self._task.args, task_vars=task_vars or {})
        except AnsibleConnectionFailure as exc:
            text = f"this host cannot be reached, so its kube-apiserver is not {self._task.args.get('state')}. If it runs, restart it after the restore"
            show([f"WARNING: {self._task.args.get('name')}: {text}: {exc}"], "COLOR_WARN")
            result = {"changed": False, "reasons": [], "changes": []}
        return result
