# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Every variable of the collection: its scope, and how its value is checked. Runs on the controller.

Type, default, choices and description are in roles/etcd/meta/argument_specs.yml, which Ansible reads. A test compares both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ansible_collections.kubeadm.etcd.plugins.module_utils._values import formats
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.packages import packages_problems

# A host may have a value of its own. The members of a cluster have one value. A run has one, usually from -e. A file or group of the controller.
HOST, CLUSTER, RUN, CONTROLLER = ("host", "cluster", "run", "controller")


@dataclass(frozen=True)
class Variable:
    """One variable.

    check: what its value has to look like; truth values and choices are checked by the argument specs.
    agreed: a run is refused if members of one cluster differ, since initial-cluster, certificates or clients are made from it.
    read_by_peers: the other members read it from the inventory, so a value that only the play has is refused.
    overrules_clients: a control plane host uses the value of the CA host, and is refused if it has another.
    flag: the flag of etcd that the value is given to. With the default, the flag is left out, and etcd has its own.
    """

    scope: str
    check: Callable[[str, Any], list[str]] | None = None
    agreed: bool = False
    read_by_peers: bool = False
    overrules_clients: bool = False
    flag: str = ""


VARIABLES: dict[str, Variable] = {
    "etcd_group": Variable(CONTROLLER, formats.needed_text_problems),
    "etcd_control_plane_group": Variable(CONTROLLER, formats.needed_text_problems),
    "etcd_operation": Variable(RUN),
    "etcd_member": Variable(RUN, formats.text_problems),
    "etcd_replace_healthy": Variable(RUN),
    "etcd_wipe_keys": Variable(RUN),
    "etcd_cluster_name": Variable(CLUSTER, formats.cluster_name_problems, read_by_peers=True),
    # Name and address of a member are judged with the membership, which knows their defaults.
    "etcd_member_name": Variable(HOST, formats.text_problems, read_by_peers=True),
    "etcd_address": Variable(HOST, formats.text_problems, read_by_peers=True),
    "etcd_ca_host": Variable(CLUSTER, formats.text_problems, agreed=True, read_by_peers=True, overrules_clients=True),
    "etcd_ca_cert": Variable(CLUSTER, formats.text_problems, overrules_clients=True),
    "etcd_ca_key": Variable(CLUSTER, formats.text_problems),
    "etcd_ca_key_passphrase": Variable(CLUSTER),
    "etcd_ca_export": Variable(CONTROLLER, formats.text_problems),
    "etcd_ca_export_passphrase": Variable(RUN),
    "etcd_signing_dir": Variable(CLUSTER, formats.needed_text_problems, overrules_clients=True),
    "etcd_until": Variable(RUN),
    "etcd_ca_compromised": Variable(RUN, formats.cluster_named_problems),
    "etcd_ca_same_key": Variable(RUN),
    "etcd_remove_stray_ca_keys": Variable(RUN),
    "etcd_kubernetes_version": Variable(CLUSTER, formats.version_problems, agreed=True),
    "etcd_allow_untested_kubeadm": Variable(HOST),
    "etcd_packages": Variable(HOST, packages_problems),
    "etcd_image_repository": Variable(HOST, formats.repository_problems),
    "etcd_image_tag": Variable(HOST, formats.tag_problems),
    "etcd_downgrade": Variable(RUN, formats.downgrade_problems),
    "etcd_image_archive": Variable(CONTROLLER, formats.text_problems),
    "etcd_extra_args": Variable(HOST, formats.flags_problems),
    "etcd_extra_envs": Variable(HOST, formats.environment_problems),
    "etcd_server_cert_sans": Variable(HOST, formats.san_problems, read_by_peers=True),
    "etcd_peer_cert_sans": Variable(HOST, formats.san_problems, read_by_peers=True),
    "etcd_encryption_algorithm": Variable(CLUSTER, agreed=True, overrules_clients=True),
    "etcd_certificate_validity_period": Variable(CLUSTER, formats.duration_problems, overrules_clients=True),
    "etcd_ca_certificate_validity_period": Variable(CLUSTER, formats.duration_problems),
    "etcd_certificate_renewal_window": Variable(CLUSTER, formats.duration_problems, overrules_clients=True),
    "etcd_renew_certificates": Variable(RUN),
    "etcd_renew_keys": Variable(RUN),
    "etcd_cgroup_driver": Variable(HOST),
    "etcd_container_runtime_endpoint": Variable(HOST, formats.endpoint_problems),
    "etcd_kubelet_config": Variable(HOST, formats.fields_problems),
    "etcd_client_port": Variable(CLUSTER, formats.port_problems, agreed=True, overrules_clients=True),
    "etcd_peer_port": Variable(CLUSTER, formats.port_problems, agreed=True),
    "etcd_metrics_port": Variable(HOST, formats.port_problems),
    "etcd_metrics_exposed": Variable(HOST),
    "etcd_data_dir": Variable(HOST, formats.data_dir_problems),
    "etcd_snapshot": Variable(CONTROLLER, formats.text_problems),
    "etcd_replace_healthy_cluster": Variable(RUN, formats.cluster_named_problems),
    "etcd_backup_schedule": Variable(CLUSTER, formats.schedule_problems),
    "etcd_drill_schedule": Variable(CLUSTER, formats.schedule_problems),
    "etcd_defragment_schedule": Variable(CLUSTER, formats.schedule_problems),
    "etcd_backup_dir": Variable(HOST, formats.backup_dir_problems),
    "etcd_backup_keep": Variable(HOST, formats.count_problems),
    "etcd_backup_keep_days": Variable(HOST, formats.count_problems),
    "etcd_backup_command": Variable(HOST, formats.argv_problems),
    "etcd_backup_recipient": Variable(CONTROLLER, formats.text_problems),
    "etcd_backup_textfile_dir": Variable(HOST, formats.textfile_dir_problems),
    "etcd_backup_fetch_dir": Variable(CONTROLLER, formats.text_problems),
    "etcd_backup_before_change": Variable(RUN),
    "etcd_startup_timeout": Variable(HOST, formats.startup_problems),
    "etcd_install_dependencies": Variable(HOST),
    "etcd_allow_interruption": Variable(RUN),
    "etcd_defragment_threshold": Variable(RUN, formats.percent_problems),
    "etcd_compact_keep_revisions": Variable(RUN, formats.revisions_problems),
    "etcd_update_apiserver": Variable(HOST),
    "etcd_health_timeout": Variable(RUN, formats.timeout_problems),
    "etcd_external_config_file": Variable(CONTROLLER, formats.text_problems),
    "etcd_report_html": Variable(CONTROLLER, formats.text_problems),
    "etcd_report_json": Variable(CONTROLLER, formats.text_problems),
    "etcd_prometheus_dir": Variable(CONTROLLER, formats.text_problems),
}

# Variables of the roles, which are the same for everybody.
FIXED = ("etcd_manifests_dir", "etcd_pki_dir", "etcd_work_dir")


# What the members read of each other in the inventory.
READ_BY_PEERS = [name for name, variable in VARIABLES.items() if variable.read_by_peers]
AGREED = [name for name, variable in VARIABLES.items() if variable.agreed]
OVERRULES_CLIENTS = [name for name, variable in VARIABLES.items() if variable.overrules_clients]


def flags_by_variable(values: Mapping[str, Any], options: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Flags of etcd that variables of ours are set to. values: of a host. options: the variables as argument_specs.yml describes them."""
    found = {}
    for name, variable in VARIABLES.items():
        if not variable.flag or name not in values:
            continue
        value, option = values[name], options[name]
        if option["type"] == "bool":
            value = formats.TRUTH.get(str(value).lower(), value)
        if str(value) != str(option["default"]):
            found[name] = {variable.flag: value}
    return found


def extra_args(values: Mapping[str, Any], options: Mapping[str, Mapping[str, Any]]) -> tuple[dict[str, Any], list[str]]:
    """All flags of etcd that variables of a host are set to, and which of them etcd_extra_args sets once more."""
    given = values.get("etcd_extra_args")
    flags = dict(given) if isinstance(given, Mapping) else {}
    problems = []
    for name, own in flags_by_variable(values, options).items():
        problems += [
            f"{name} and etcd_extra_args.{flag} set the same flag of etcd. Remove one of them."
            for flag in own
            if flag in flags
        ]
        flags.update(own)
    return flags, problems
