# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Fails before the first change, if there is a reason or if the hosts of the play do not wait for each other.

An action plugin, because nothing else can tell the strategy of a play. Documented in plugins/modules/etcd_refuse.py.
"""

from __future__ import annotations

from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.run import is_lockstep, not_in_lockstep


class ActionModule(ActionBase):
    """See the documentation of the module."""

    TRANSFERS_FILES = False
    _requires_connection = False
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """The result: failed if the run is refused."""
        super().run(tmp, task_vars)
        _validation, args = self.validate_argument_spec(  # type: ignore[no-untyped-call]
            argument_spec={
                "reason": {"type": "str", "default": ""},
                "observed": {"type": "list", "elements": "dict", "default": []},
            }
        )
        strategy = str(self._task.get_play().strategy)
        apart = any(item != args["observed"][0] for item in args["observed"])
        if apart or not is_lockstep(strategy):
            return {"failed": True, "msg": f"Nothing has been changed. {not_in_lockstep(strategy)}"}
        return {"failed": True, "msg": args["reason"]} if args["reason"] else {"changed": False}
