# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a host is to have, as options of modules, from variables. The observation and the roles that act are given the same. Runs on the controller, pure.

Not templates: Ansible compiles each on each host in each task, which was most of the cost of a run with nothing to do.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from ansible_collections.kubeadm.etcd.plugins.module_utils._member.sources import digest, program_files

_PKI = {
    "pki_dir": "etcd_pki_dir",
    "work_dir": "etcd_work_dir",
    "encryption_algorithm": "etcd_encryption_algorithm",
    "certificate_validity_period": "etcd_certificate_validity_period",
    "renewal_window": "etcd_certificate_renewal_window",
    "renew": "etcd_renew_certificates",
    "renew_keys": "etcd_renew_keys",
}
_MEMBER_PKI = {
    **_PKI,
    "server_cert_sans": "etcd_server_cert_sans",
    "peer_cert_sans": "etcd_peer_cert_sans",
    "ca_certificate_validity_period": "etcd_ca_certificate_validity_period",
    "kubernetes_version": "etcd_kubernetes_version",
}
_CONFIG = {
    "kubernetes_version": "etcd_kubernetes_version",
    "image_repository": "etcd_image_repository",
    "image_tag": "etcd_image_tag",
    "extra_envs": "etcd_extra_envs",
    "server_cert_sans": "etcd_server_cert_sans",
    "peer_cert_sans": "etcd_peer_cert_sans",
    "encryption_algorithm": "etcd_encryption_algorithm",
    "certificate_validity_period": "etcd_certificate_validity_period",
    "ca_certificate_validity_period": "etcd_ca_certificate_validity_period",
    "pki_dir": "etcd_pki_dir",
    "data_dir": "etcd_data_dir",
    "client_port": "etcd_client_port",
    "peer_port": "etcd_peer_port",
    "metrics_port": "etcd_metrics_port",
    "metrics_exposed": "etcd_metrics_exposed",
    "startup_timeout": "etcd_startup_timeout",
    "allow_untested_kubeadm": "etcd_allow_untested_kubeadm",
}
# What is known of a configuration although some variable is wrong, or an address is not known yet.
PLACES = {key: _CONFIG[key] for key in ("data_dir", "client_port", "peer_port", "metrics_port")}
KUBELET = {
    "cgroup_driver": "etcd_cgroup_driver",
    "runtime_endpoint": "etcd_container_runtime_endpoint",
    "extra": "etcd_kubelet_config",
}
_BACKUP = {
    "client_port": "etcd_client_port",
    "pki_dir": "etcd_pki_dir",
    "dir": "etcd_backup_dir",
    "keep": "etcd_backup_keep",
    "keep_days": "etcd_backup_keep_days",
    "command": "etcd_backup_command",
    "textfile_dir": "etcd_backup_textfile_dir",
    "schedule": "etcd_backup_schedule",
    "drill_schedule": "etcd_drill_schedule",
    "defragment_schedule": "etcd_defragment_schedule",
    "defragment_threshold": "etcd_defragment_threshold",
    "metrics_port": "etcd_metrics_port",
    "data_dir": "etcd_data_dir",
    "work_dir": "etcd_work_dir",
}
_SCHEDULES = ("etcd_backup_schedule", "etcd_drill_schedule", "etcd_defragment_schedule")
_APISERVER = {
    "update": "etcd_update_apiserver",
    "manifests_dir": "etcd_manifests_dir",
    "work_dir": "etcd_work_dir",
    "runtime_endpoint": "etcd_container_runtime_endpoint",
}
# A control plane host takes these from the CA host.
_OF_SIGNER = ("etcd_encryption_algorithm", "etcd_certificate_validity_period", "etcd_certificate_renewal_window")


def options_of(table: Mapping[str, str], values: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a module from variables. table: the variable of each option."""
    return {option: values[name] for option, name in table.items()}


def listed(cluster: Mapping[str, Any]) -> list[dict[str, str]]:
    """Name and address of all members."""
    return [{"name": item["name"], "address": item["address"]} for item in cluster["members"]]


def wanted_pki(member: Mapping[str, Any], cluster: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """The certificates of a member."""
    return {
        **options_of(_MEMBER_PKI, values),
        "name": member["name"],
        "address": member["address"],
        "ca_host": member["host"] == cluster["ca_host"],
    }


def wanted_client_pki(host: str, signer: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """The certificate of a control plane host. signer: variables of the CA host."""
    of_signer = {name: signer[name] for name in _OF_SIGNER if name in signer}
    return {**options_of(_PKI, {**values, **of_signer}), "name": host.lower(), "kinds": ["apiserver-etcd-client"]}


def wanted_config(member: Mapping[str, Any], cluster: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """The kubeadm configuration of a member, without what the plan decides."""
    return {
        **options_of(_CONFIG, values),
        "path": f"{values['etcd_work_dir']}/kubeadmcfg.yaml",
        "name": member["name"],
        "address": member["address"],
        "members": listed(cluster),
        # etcd_extra_args, and the variables that are flags.
        "extra_args": cluster["extra_args"],
    }


def wanted_kubelet(values: Mapping[str, Any]) -> dict[str, Any]:
    """The kubelet of a member."""
    return {
        **options_of(KUBELET, values),
        "manifests_dir": values["etcd_manifests_dir"],
        "config_path": f"{values['etcd_work_dir']}/kubelet.yaml",
    }


def wanted_backup(
    member: Mapping[str, Any], cluster: Mapping[str, Any], values: Mapping[str, Any], recipient: str
) -> dict[str, Any]:
    """The snapshots of a member. recipient: the certificate that they are encrypted to, as text."""
    return {
        **options_of(_BACKUP, values),
        "cluster": cluster["name"],
        "member": member["name"],
        "members": listed(cluster),
        "recipient": recipient,
        "program": program() if any(values[name] for name in _SCHEDULES) else "",
    }


@lru_cache(maxsize=None)
def program() -> str:
    """The digest of the program of the timers."""
    return digest(program_files())


def wanted_apiserver(values: Mapping[str, Any]) -> dict[str, Any]:
    """kube-apiserver of a control plane host."""
    return options_of(_APISERVER, values)
