# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Warns if the kube-apiserver of a host uses a member that leaves. Documented in plugins/modules/etcd_apiserver_info.py."""

from __future__ import annotations

from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.kubeadm.etcd.plugins.plugin_utils.play import run_or_warn


class ActionModule(ActionBase):
    """See the documentation of the module."""

    TRANSFERS_FILES = False
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """What the module returns, shown as a warning. A host that cannot be reached is one, too."""
        super().run(tmp, task_vars)
        text = "whether its kube-apiserver uses the member that leaves is not known"
        return run_or_warn(self, task_vars, text, {})
