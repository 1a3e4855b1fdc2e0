# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Step 1 of the page: the kubelet as service manager for etcd. Which files, what is in them, what still differs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ansible_collections.kubeadm.etcd.plugins.module_utils._yaml import yaml_lines

DROP_IN = "/etc/systemd/system/kubelet.service.d/20-etcd-service-manager.conf"

# From this minor on the kubelet refuses to start on cgroup v1 unless told otherwise (kubernetes PR 134298).
FAIL_CGROUP_V1_MINOR = 35


@dataclass(frozen=True)
class KubeletSpec:
    """What the kubelet of an etcd host is to be. `extra` is merged over our configuration."""

    cgroup_driver: str
    runtime_endpoint: str
    manifests_dir: str
    config_path: str
    program: str = "/usr/bin/kubelet"
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Unit:
    """kubelet.service as systemd and /proc tell.

    started: the start of its process in Unix seconds. replaced: whether that runs another program than a new one would.
    """

    load_state: str
    active: bool
    enabled: bool
    need_reload: bool
    argv: list[str]
    started: float
    replaced: bool = False


def merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """base with the values of over, mappings merged key by key. Neither is changed."""
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        merged[key] = merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def kubelet_config(spec: KubeletSpec, minor: int, cgroup_v1: bool) -> dict[str, Any]:
    """The KubeletConfiguration as data.

    The page's, with the kubelet's own server switched off: nothing on an etcd host asks it, and with AlwaysAllow it
    is one changed line away from running commands as root for anyone.
    """
    config: dict[str, Any] = {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        # The defaults ask an API server, and there is none (kubernetes/website PR 41714).
        "authentication": {"anonymous": {"enabled": False}, "webhook": {"enabled": False}},
        "authorization": {"mode": "AlwaysAllow"},
        "enableServer": False,
        "address": "127.0.0.1",
        "cgroupDriver": spec.cgroup_driver,
        "containerRuntimeEndpoint": spec.runtime_endpoint,
        "staticPodPath": spec.manifests_dir,
    }
    if cgroup_v1 and minor >= FAIL_CGROUP_V1_MINOR:
        config["failCgroupV1"] = False
    return merge(config, spec.extra)


def render_config(config: dict[str, Any]) -> str:
    """The configuration as text."""
    return "\n".join(["---", "# Written by Ansible (kubeadm.etcd).", *yaml_lines(config)]) + "\n"


def render_drop_in(spec: KubeletSpec) -> str:
    """The systemd drop-in. It sorts after kubeadm's 10-kubeadm.conf and replaces its command line."""
    return (
        "# Written by Ansible (kubeadm.etcd): the kubelet of this host runs etcd and nothing else.\n"
        "[Service]\n"
        "ExecStart=\n"
        f"ExecStart={spec.program} --config={spec.config_path}\n"
        "Restart=always\n"
    )


def file_reasons(files: dict[str, str], found: dict[str, str | None]) -> list[str]:
    """Which files have to be written: wanted text by path against the text found there (None: no file)."""
    return [
        f"{path}: " + ("missing" if found.get(path) is None else "content differs")
        for path, text in files.items()
        if found.get(path) != text
    ]


def restart_reasons(unit: Unit, spec: KubeletSpec, newest_file: float) -> list[str]:
    """Why the kubelet has to be (re)started. newest_file: when the newest of our files was written, Unix seconds.

    Derived from what runs, not from what this run has changed: a run that was killed between writing a file and
    restarting the kubelet is finished by the next one.
    """
    reasons = []
    if not unit.enabled:
        reasons.append("kubelet.service: not enabled, etcd would not come back after a reboot")
    if not unit.active:
        return [*reasons, "kubelet.service: not running"]
    if f"--config={spec.config_path}" not in unit.argv:
        reasons.append("kubelet.service: runs without the override")
    elif newest_file > unit.started + 1:
        reasons.append("kubelet.service: runs with an older configuration")
    elif unit.need_reload:
        reasons.append("kubelet.service: unit files changed since systemd read them")
    if unit.replaced:
        reasons.append("kubelet.service: runs a program that was replaced since")
    return reasons


def unit_problems(unit: Unit) -> list[str]:
    """Why the kubelet could not be started, in words."""
    if unit.load_state == "masked":
        return [
            "kubelet.service is masked: somebody has decided that it must not start. `systemctl unmask kubelet`, and run again."
        ]
    if unit.load_state != "loaded":
        return [
            f"systemd has no usable kubelet.service ({unit.load_state}). Install the package kubelet, or the unit beside the"
            " program."
        ]
    return []


def config_problems(spec: KubeletSpec) -> list[str]:
    """What etcd_kubelet_config may not change, in words."""
    problems = []
    for key, value in (("staticPodPath", spec.manifests_dir), ("containerRuntimeEndpoint", spec.runtime_endpoint)):
        if spec.extra.get(key, value) != value:
            hint = "etcd_container_runtime_endpoint" if key.startswith("container") else "nothing: it is fixed"
            problems.append(f"etcd_kubelet_config.{key} cannot be set there; set {hint}.")
    if "cgroupDriver" in spec.extra:
        problems.append("etcd_kubelet_config.cgroupDriver cannot be set there; set etcd_cgroup_driver.")
    # Where a rolling change asks whether the kubelet is back.
    problems += [
        f"etcd_kubelet_config.{key} cannot be set there; set nothing: 127.0.0.1:10248 is asked."
        for key in ("healthzPort", "healthzBindAddress")
        if key in spec.extra
    ]
    return problems
