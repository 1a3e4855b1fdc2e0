# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Plans a run from all observations, shows the plan, and refuses before the first change. Documented in plugins/modules/etcd_plan.py."""

from __future__ import annotations

import os
from dataclasses import asdict
from functools import partial
from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.external import external_stanza
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.move_ca import check_export
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.restore import wanted_snapshot
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.rotation import OTHER_PHASES, PHASES
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.run import (
    Wish,
    is_incomplete,
    is_lockstep,
    not_in_lockstep,
    plan_run,
    refusal,
)
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.steps import HAND_OVER, REPORT
from ansible_collections.kubeadm.etcd.plugins.plugin_utils.play import (
    controller_path,
    failure,
    file_text,
    plain,
    read_once,
    show,
    variable_options,
)

OPTIONS: dict[str, dict[str, Any]] = {
    "operation": {"type": "str", "default": "converge"},
    "client_port": {"type": "int", "default": 2379},
    "member": {"type": "str", "default": ""},
    "replace_healthy": {"type": "bool", "default": False},
    "wipe_keys": {"type": "bool", "default": False},
    "runtime_endpoint": {"type": "str", "default": ""},
    "ca_cert": {"type": "path", "default": ""},
    "ca_key": {"type": "path", "default": ""},
    "ca_key_passphrase": {"type": "str", "default": "", "no_log": True},
    "image_archive": {"type": "path", "default": ""},
    "external_file": {"type": "path", "default": ""},
    "signing_dir": {"type": "path", "default": ""},
    "allow_interruption": {"type": "bool", "default": False},
    "allow_untested_kubeadm": {"type": "bool", "default": False},
    "remove_stray_ca_keys": {"type": "bool", "default": False},
    "backup_before_change": {"type": "bool", "default": False},
    "snapshot": {"type": "path", "default": ""},
    "replace_healthy_cluster": {"type": "str", "default": ""},
    "ca_host": {"type": "str", "default": ""},
    "ca_export": {"type": "path", "default": ""},
    "ca_export_passphrase": {"type": "str", "default": "", "no_log": True},
    "defragment_threshold": {"type": "int", "default": 45},
    "compact_keep_revisions": {"type": "int", "default": 1000},
    "until": {"type": "str", "default": "", "choices": ["", *PHASES]},
    "phase": {"type": "str", "default": "", "choices": ["", *PHASES, *OTHER_PHASES]},
    "ca_compromised": {"type": "str", "default": ""},
    "ca_same_key": {"type": "bool", "default": False},
    "downgrade": {"type": "str", "default": ""},
}

# The variable of an option, if it is not called etcd_OPTION.
_VARIABLES = {"runtime_endpoint": "etcd_container_runtime_endpoint", "external_file": "etcd_external_config_file"}
# A control plane host takes these from the CA host.
_OF_SIGNER = ("client_port", "ca_cert", "ca_key", "ca_key_passphrase", "signing_dir")


class ActionModule(ActionBase):
    """See the documentation of the module."""

    TRANSFERS_FILES = False
    _requires_connection = False
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """The plan. Failed if the run is refused; the message is shown once for each cluster."""
        super().run(tmp, task_vars)
        variables = task_vars or {}
        host = str(variables["inventory_hostname"])
        cluster = (variables.get("__etcd_host") or {}).get("cluster") or {}
        # An invalid value is a problem of the inventory, which the plan shows with all others.
        invalid = cluster.get("invalid", [])
        given = {key: value for key, value in self._task.args.items() if f"etcd_{key}" not in invalid}
        self._task.args = {**self.of_variables(cluster, variables, invalid), **given}
        operations = [*variable_options()["etcd_operation"]["choices"], REPORT]
        spec = {**OPTIONS, "operation": {**OPTIONS["operation"], "choices": operations}}
        _validation, args = self.validate_argument_spec(argument_spec=spec)  # type: ignore[no-untyped-call]
        strategy = str(self._task.get_play().strategy)
        if not is_lockstep(strategy):
            return failure(f"Nothing has been changed. {not_in_lockstep(strategy)}")
        batch, there = list(variables["ansible_play_batch"]), list(variables["ansible_play_hosts"])
        hostvars = read_once(variables["hostvars"], batch)
        # A result has no templates.
        seen = {item: plain(variables["hostvars"].raw_get(item).get("__etcd_host") or {}) for item in batch}
        if args["operation"] != REPORT and is_incomplete(host, seen):
            return {"changed": False, "incomplete": True, "finished": False}
        own_ca = self.own_ca(args, variables)
        archive = controller_path(args["image_archive"])
        # Of the other clusters only what the inventory says is known here. What this one has of the play, they have too.
        unset = "" if "etcd_external_config_file" in hostvars[host] else args["external_file"]
        files = {
            seen[item].get("cluster", {}).get("name", ""): str(hostvars[item].get("etcd_external_config_file", unset))
            for item in batch
        }
        wish = Wish(
            **{
                name: args[name]
                for name in (
                    "operation",
                    "runtime_endpoint",
                    "external_file",
                    "allow_interruption",
                    "allow_untested_kubeadm",
                    "remove_stray_ca_keys",
                    "member",
                    "replace_healthy",
                    "wipe_keys",
                    "ca_host",
                    "backup_before_change",
                    "replace_healthy_cluster",
                    "defragment_threshold",
                    "compact_keep_revisions",
                    "until",
                    "phase",
                    "ca_compromised",
                    "ca_same_key",
                    "downgrade",
                )
            },
            own_ca=own_ca,
            check=bool(self._task.check_mode),
            snapshot=wanted_snapshot(controller_path(args["snapshot"]), args["operation"]),
            image_archive=archive,
            external_files=files,
            signing_dir=controller_path(args["signing_dir"]),
            limit=str(variables.get("ansible_limit", "")),
            ca_export=check_export(controller_path(args["ca_export"]), args["ca_export_passphrase"]),
        )
        lost = [item for item in variables["ansible_play_hosts_all"] if item not in there]
        plan = plan_run(host, seen, lost, wish, partial(archive_problems, archive))
        speaks = plan["speaker"] == host
        members = [item["host"] for item in seen[host].get("cluster", {}).get("members", [])]
        if args["operation"] == REPORT:
            return {"changed": False, **plan, "own_ca": own_ca}
        if speaks:
            show([f"WARNING: {text}" for text in plan["notices"]], "COLOR_WARN")
        # In a hand-over, the members go on.
        if plan["problems"] and (args["operation"] != HAND_OVER or speaks or host not in members):
            return failure(refusal(plan, seen[host]["cluster"], speaks))
        # In a hand-over, members other than the CA host are not observed.
        version = seen[host].get("facts", {}).get("kubeadm_version", "") if args["operation"] == HAND_OVER else ""
        external = external_stanza(plan["members"], args["client_port"], version)
        if speaks:
            show([*plan["lines"], *([*plan["table"], *external.splitlines()] if plan.get("finished") else [])])
        part = ["control-plane"] if args["operation"] == HAND_OVER else []
        signing_dir = os.path.join(wish.signing_dir, seen[host]["cluster"]["name"], *part)
        return {
            "changed": False,
            "incomplete": False,
            "finished": False,
            **plan,
            "external": external,
            "client_port": args["client_port"],
            "own_ca": own_ca,
            "signing_dir": signing_dir,
            "ca_export": asdict(wish.ca_export),
        }

    def of_variables(self, cluster: dict[str, Any], variables: dict[str, Any], invalid: list[str]) -> dict[str, Any]:
        """Options from the variables of the play. The task does not name them: Ansible would compile a template for each."""
        if self._task.args.get("operation") == REPORT:
            return {}
        signer = variables["hostvars"][cluster["ca_host"]] if cluster.get("ca_host") in variables["hostvars"] else {}
        names = {
            option: name
            for option in OPTIONS
            if option not in ("operation", "phase")
            and (name := _VARIABLES.get(option, f"etcd_{option}")) not in invalid
        }
        return {
            option: signer[name]
            if option in _OF_SIGNER and name in signer
            else plain(self._templar.template(variables[name]))
            for option, name in names.items()
        }

    def own_ca(self, args: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        """Your own CA, checked here, where its files are. Nothing of the key is returned."""
        cert, key = controller_path(args["ca_cert"]), controller_path(args["ca_key"])
        if not cert and not key:
            return {}
        # Nothing of it is loaded in a run that needs none of it.
        from ansible_collections.kubeadm.etcd.plugins.module_utils._control.own_ca import check_own_ca

        texts = [file_text(path, self._loader, self._templar, variables) for path in (cert, key)]
        return check_own_ca(texts[0], texts[1], args["ca_key_passphrase"], cert, key)


def archive_problems(path: str, images: list[str]) -> list[str]:
    """What is wrong with the image archive, for the images that hosts lack."""
    from ansible_collections.kubeadm.etcd.plugins.module_utils._control.archive import archive_problems as judge

    return list(judge(path, images))
