# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Plans a run from all observations, shows the plan, and refuses before the first change. Documented in plugins/modules/etcd_plan.py."""

from __future__ import annotations

import os
from dataclasses import asdict
from functools import partial
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible.plugins.action import ActionBase
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.external import external_stanza
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.plan import refusal
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.rotation import OTHER_PHASES, PHASES
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.stages import (
    STAGES,
    is_selected,
    stages_by_roles,
    stages_by_tags,
)
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.steps import CONVERGE, HAND_OVER, REPORT
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.view import (
    is_incomplete,
    is_lockstep,
    not_in_lockstep,
)
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.wish import (
    VARIABLES,
    Wish,
    check_export,
    check_fetch_dir,
    wanted_snapshot,
)
from ansible_collections.kubeadm.etcd.plugins.module_utils._operations.run import OPERATIONS, plan_run
from ansible_collections.kubeadm.etcd.plugins.plugin_utils.play import (
    controller_path,
    failure,
    file_text,
    plain,
    read_once,
    show,
    variable_options,
)

# Variables of the role etcd that are needed beside those of the wish. A control plane host takes some from the CA host.
_OF_SIGNER = ("etcd_client_port", "etcd_ca_cert", "etcd_ca_key", "etcd_ca_key_passphrase", "etcd_signing_dir")
_FILES = ("etcd_snapshot", "etcd_ca_export", "etcd_ca_export_passphrase", "etcd_backup_fetch_dir")
_NEEDED = {*VARIABLES.values(), *_OF_SIGNER, *_FILES}


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
        _validation, args = self.validate_argument_spec(  # type: ignore[no-untyped-call]
            argument_spec={
                "operation": {"type": "str", "default": CONVERGE, "choices": [*OPERATIONS]},
                "phase": {"type": "str", "default": "", "choices": ["", *PHASES, *OTHER_PHASES]},
                "all_stages": {"type": "bool", "default": False},
            }
        )
        values = self.values(args["operation"], cluster, variables)
        strategy = str(self._task.get_play().strategy)
        if not is_lockstep(strategy):
            return failure(f"Nothing has been changed. {not_in_lockstep(strategy)}")
        refused = self.refused(args["phase"], variables)
        batch, there = (
            [item for item in variables["ansible_play_hosts_all"] if item in [*variables[name], *refused]]
            for name in ("ansible_play_batch", "ansible_play_hosts")
        )
        hostvars = read_once(variables["hostvars"], batch)
        # A result has no templates.
        seen = {item: plain(variables["hostvars"].raw_get(item).get("__etcd_host") or {}) for item in batch}
        if args["operation"] != REPORT and is_incomplete(host, seen):
            return {"changed": False, "incomplete": True, "finished": False}
        own_ca = self.own_ca(values, variables)
        # Of the other clusters only what the inventory says is known here. What this one has of the play, they have too.
        unset = "" if "etcd_external_config_file" in hostvars[host] else values["etcd_external_config_file"]
        files = {
            seen[item].get("cluster", {}).get("name", ""): str(hostvars[item].get("etcd_external_config_file", unset))
            for item in batch
        }
        # A snapshot is copied to where the host that takes it says.
        unset = "" if "etcd_backup_fetch_dir" in hostvars[host] else values["etcd_backup_fetch_dir"]
        fetched = {
            item: controller_path(str(hostvars[item].get("etcd_backup_fetch_dir", unset) or "")) for item in batch
        }
        archive, signing_dir, snapshot, export = (
            controller_path(values[name])
            for name in ("etcd_image_archive", "etcd_signing_dir", "etcd_snapshot", "etcd_ca_export")
        )
        wish = Wish(
            **{
                **{field: values[name] for field, name in VARIABLES.items()},
                "operation": args["operation"],
                "phase": args["phase"],
                "stages": self.stages(args["operation"], args["all_stages"], variables),
                "check": bool(self._task.check_mode),
                "limit": str(variables.get("ansible_limit", "")),
                "own_ca": own_ca,
                "external_files": files,
                "fetch_dirs": {item: check_fetch_dir(path) for item, path in fetched.items() if path},
                "image_archive": archive,
                "signing_dir": signing_dir,
                "snapshot": wanted_snapshot(snapshot, args["operation"]),
                "ca_export": check_export(export, values["etcd_ca_export_passphrase"]),
            }
        )
        lost = [item for item in variables["ansible_play_hosts_all"] if item not in there]
        plan = plan_run(host, seen, lost, wish, partial(archive_problems, wish.image_archive))
        speaks = plan["speaker"] == host
        members = [item["host"] for item in seen[host].get("cluster", {}).get("members", [])]
        if args["operation"] == REPORT:
            return {"changed": False, **plan, "own_ca": own_ca}
        if speaks:
            show([f"WARNING: {text}" for text in plan["notices"]], "COLOR_WARN")
        # In a hand-over, the members go on.
        if plan["problems"] and (args["operation"] != HAND_OVER or speaks or host not in members):
            return {**failure(refusal(plan, seen[host]["cluster"], speaks)), "phase": args["phase"]}
        # In a hand-over, members other than the CA host are not observed.
        version = seen[host].get("facts", {}).get("kubeadm_version", "") if args["operation"] == HAND_OVER else ""
        external = external_stanza(plan["members"], values["etcd_client_port"], version)
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
            "client_port": values["etcd_client_port"],
            "own_ca": own_ca,
            "signing_dir": signing_dir,
            "ca_export": asdict(wish.ca_export),
        }

    def stages(self, operation: str, all_stages: bool, variables: dict[str, Any]) -> tuple[str, ...]:
        """The stages that this run has. Other operations than converge have no tags: each of their playbooks runs as a whole."""
        if operation != CONVERGE:
            return STAGES
        tags = [list(variables.get(name, [])) for name in ("ansible_run_tags", "ansible_skip_tags")]
        if all_stages:
            return stages_by_tags(*tags)
        # The tags of a role that is included are those of the task that includes it, which is running.
        own = self._task._role
        including = [role.get_name() for role in own.get_parents()] if own else []
        play = self._task.get_play()
        listed = {role.get_name(): [*play.tags, *role.tags] for role in play.roles}
        selected = [name for name, of_role in listed.items() if is_selected(of_role, *tags)]
        return stages_by_roles([*listed, *including], [*selected, *(name for name in including if name not in listed)])

    def refused(self, phase: str, variables: dict[str, Any]) -> list[str]:
        """Hosts that have failed in this very task. They are part of the run: all hosts of a cluster make the same plan.

        Ansible takes them out of the play at once. It plans for hosts beyond its forks afterwards, for which they would be hosts that do not answer.
        """
        gone = [item for item in variables["ansible_play_hosts_all"] if item not in variables["ansible_play_hosts"]]
        results = {item: variables["hostvars"].raw_get(item).get("__etcd_plan") or {} for item in gone}
        return [item for item, result in results.items() if result.get("failed") and result.get("phase", "") == phase]

    def values(self, operation: str, cluster: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        """Values of the variables that are needed, by name. For a report, and where one is invalid, what a wish is without them.

        The task does not name them: Ansible would compile a template for each.
        """
        options = {name: variable_options()[name] for name in _NEEDED}
        signer = variables["hostvars"][cluster["ca_host"]] if cluster.get("ca_host") in variables["hostvars"] else {}
        # An invalid value is a problem of the inventory, which the plan shows with all others.
        valid = [name for name in options if operation != REPORT and name not in cluster.get("invalid", [])]
        of_signer = {name: signer[name] for name in valid if name in _OF_SIGNER and name in signer}
        given = {
            name: plain(self._templar.template(variables[name]))
            for name in valid
            if name in variables and name not in of_signer
        }
        keys = ("type", "default", "choices", "no_log")
        spec = {name: {key: option[key] for key in keys if key in option} for name, option in options.items()}
        for field, name in VARIABLES.items():
            spec[name]["default"] = getattr(Wish, field)
        result = ArgumentSpecValidator(spec).validate({**given, **of_signer})
        if result.error_messages:
            raise AnsibleActionFail("; ".join(result.error_messages))
        return dict(result.validated_parameters)

    def own_ca(self, values: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        """Your own CA, checked here, where its files are. Nothing of the key is returned."""
        cert, key = controller_path(values["etcd_ca_cert"]), controller_path(values["etcd_ca_key"])
        if not cert and not key:
            return {}
        # Nothing of it is loaded in a run that needs none of it.
        from ansible_collections.kubeadm.etcd.plugins.module_utils._control.own_ca import check_own_ca

        texts = [file_text(path, self._loader, self._templar, variables) for path in (cert, key)]
        return check_own_ca(texts[0], texts[1], values["etcd_ca_key_passphrase"], cert, key)


def archive_problems(path: str, images: list[str]) -> list[str]:
    """What is wrong with the image archive, for the images that hosts lack."""
    from ansible_collections.kubeadm.etcd.plugins.module_utils._control.archive import archive_problems as judge

    return list(judge(path, images))
