# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Prints lines as text. Documented in plugins/modules/etcd_show.py."""

from __future__ import annotations

from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.kubeadm.etcd.plugins.plugin_utils.play import show


class ActionModule(ActionBase):
    """See the documentation of the module."""

    TRANSFERS_FILES = False
    _requires_connection = False
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """The lines, for callbacks that print for programs."""
        super().run(tmp, task_vars)
        _validation, args = self.validate_argument_spec(  # type: ignore[no-untyped-call]
            argument_spec={"lines": {"type": "list", "elements": "str", "required": True}}
        )
        show(args["lines"])
        return {"changed": False, "lines": args["lines"]}
