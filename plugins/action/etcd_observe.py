# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Resolves the cluster of a host and observes the host, in one task. Documented in plugins/modules/etcd_observe.py."""

from __future__ import annotations

import time
from typing import Any

from ansible.errors import AnsibleConnectionFailure
from ansible.plugins.action import ActionBase
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.backup import recipient_problems
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.look import (
    WANTED,
    asks_health,
    host_arguments,
    look_of,
    may_be_gone,
    resolved,
    unreachable,
)
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.variables import FIXED
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.problems import problems_of
from ansible_collections.kubeadm.etcd.plugins.plugin_utils.play import (
    controller_path,
    file_text,
    inventory_variables,
    plain,
    read_once,
    variable_options,
)

# Read here once, and not in each of the processes that Ansible forks.
variable_options()


class ActionModule(ActionBase):
    """See the documentation of the module."""

    TRANSFERS_FILES = False
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """The cluster, and what M(kubeadm.etcd.etcd_host_info) has seen."""
        super().run(tmp, task_vars)
        variables = task_vars or {}
        _validation, args = self.validate_argument_spec(  # type: ignore[no-untyped-call]
            argument_spec={
                "operation": {"type": "str", "default": "converge"},
                "health": {"type": "bool", "default": False},
                "reads_log": {"type": "bool", "default": False},
                "again": {"type": "bool", "default": False},
            }
        )
        host = str(variables["inventory_hostname"])
        options = variable_options()
        names = [name for name in variables if name.startswith("etcd_")]
        values = {
            name: plain(self._templar.template(variables[name])) for name in names if name in options or name in FIXED
        }
        groups = variables["groups"]
        members = [str(item) for item in groups.get(str(values["etcd_group"]), [])]
        planes = [str(item) for item in groups.get(str(values["etcd_control_plane_group"]), [])]
        look = look_of(host, members, planes, args["operation"])
        hostvars = read_once(variables["hostvars"], look.hosts)
        inventory = {item: plain(inventory_variables(hostvars[item])) for item in look.hosts}
        before = {item: variables["hostvars"].raw_get(item).get("__etcd_host") or {} for item in look.hosts}
        cluster = resolved(
            look,
            inventory,
            before,
            options,
            values,
            names,
        )
        result: dict[str, Any] = {"changed": False, "cluster": cluster}
        recipient = ""
        if values["etcd_backup_recipient"] and not cluster["problems"]:
            path = controller_path(str(values["etcd_backup_recipient"]))
            recipient = file_text(path, self._loader, self._templar, variables).strip() + "\n"
            problems = problems_of("inventory", recipient_problems(path, recipient))
            cluster["problems"] += [problem.as_dict() for problem in problems]
        arguments = host_arguments(
            look,
            cluster,
            values,
            inventory.get(cluster["ca_host"], {}),
            time.time(),
            args["health"] and asks_health(host, cluster, variables["ansible_play_batch"]),
            recipient,
            args["reads_log"],
        )
        if arguments is not None:
            result["wanted"] = {part: arguments[part] for part in WANTED if part in arguments}
            try:
                result.update(
                    self._execute_module(
                        module_name="kubeadm.etcd.etcd_host_info", module_args=arguments, task_vars=variables
                    )
                )
            except AnsibleConnectionFailure as exc:
                if not may_be_gone(host, args["operation"], cluster, str(values.get("etcd_member", ""))):
                    raise
                result.update(unreachable(str(exc)))
        package = (result.get("facts") or {}).get("cryptography_package") if arguments else None
        result["installs"] = bool(arguments and arguments["install_dependencies"] and package)
        result["incomplete"] = not args["again"] and (not cluster["known"] or result["installs"])
        return result
