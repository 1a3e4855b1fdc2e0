# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Runs the module etcd_health, and prints its table as text if that is asked for. Documented in plugins/modules/etcd_health.py."""

from __future__ import annotations

from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.kubeadm.etcd.plugins.plugin_utils.play import show


class ActionModule(ActionBase):
    """See the documentation of the module."""

    TRANSFERS_FILES = False
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """What the module returns."""
        super().run(tmp, task_vars)
        args = {key: value for key, value in self._task.args.items() if key != "show"}
        result: dict[str, Any] = self._execute_module(module_args=args, task_vars=task_vars)
        if result.get("notice"):
            show([f"WARNING: {result['notice']}"], "COLOR_WARN")
        below = self._task.args.get("show")
        fits = result.get("verdict") == "healthy" or args.get("wait_for") != "healthy" or self._task.check_mode
        # What is not as it should be stands in the message of the failure.
        if below is not None and fits and not result.get("failed"):
            lines = below if isinstance(below, list) else [below]
            show([*result.get("table", []), *(str(line) for line in lines)])
        return result
