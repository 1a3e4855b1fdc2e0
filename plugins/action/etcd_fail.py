# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Fails with a message of several lines, printed as text. Documented in plugins/modules/etcd_fail.py."""

from __future__ import annotations

from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.kubeadm.etcd.plugins.plugin_utils.play import failure


class ActionModule(ActionBase):
    """See the documentation of the module."""

    TRANSFERS_FILES = False
    _requires_connection = False
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """The result: failed."""
        super().run(tmp, task_vars)
        _validation, args = self.validate_argument_spec(  # type: ignore[no-untyped-call]
            argument_spec={"text": {"type": "str", "required": True}}
        )
        return failure(args["text"])
