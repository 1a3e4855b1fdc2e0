# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Step 1 of the page: the kubelet as service manager for etcd. Which files, what is in them, what still differs."""

from __future__ import annotations

import os
import re
import shlex
import socket
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.kubeadm.etcd.plugins.module_utils._values.paths import record_path
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.problems import (
    FOUND,
    PROCESSES,
    START,
    Problem,
    printable,
)
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.reasons import Reason
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.to_yaml import yaml_lines

DROP_IN_DIR = "/etc/systemd/system/kubelet.service.d"
# The command line, as the page has it.
DROP_IN = f"{DROP_IN_DIR}/20-etcd-service-manager.conf"
# What has to be true before the kubelet starts. A file of its own: a change of it needs no restart.
DATA_DROP_IN = f"{DROP_IN_DIR}/30-etcd-data.conf"

# What the running kubelet was started with. systemd removes the directory when the kubelet stops (RuntimeDirectory=).
RUNTIME_DIR = "/run/kubeadm-etcd"
STARTED_WITH = f"{RUNTIME_DIR}/kubelet.yaml"

# The page keeps the kubelet's configuration among the drop-ins, where systemd takes it for one.
PAGE_CONFIG = f"{DROP_IN_DIR}/kubelet.conf"

# From this minor on the kubelet refuses to start on cgroup v1 unless told otherwise (kubernetes PR 134298).
FAIL_CGROUP_V1_MINOR = 35


# What etcd_host_info and etcd_member_turn take under `kubelet`.
KUBELET_ARGUMENTS: dict[str, dict[str, Any]] = {
    "cgroup_driver": {"type": "str", "choices": ["systemd", "cgroupfs"], "default": "systemd"},
    "runtime_endpoint": {"type": "str", "default": "unix:///var/run/containerd/containerd.sock"},
    "manifests_dir": {"type": "path", "default": "/etc/kubernetes/manifests"},
    "config_path": {"type": "path", "default": "/etc/kubernetes/kubeadm-etcd/kubelet.yaml"},
    "extra": {"type": "dict", "default": {}},
}


@dataclass(frozen=True)
class KubeletSpec:
    """What the kubelet of an etcd host is to be.

    extra: fields merged over our configuration. data_dirs: etcd's data directory, and where it leads if it is a link.
    """

    cgroup_driver: str
    runtime_endpoint: str
    manifests_dir: str
    config_path: str
    program: str = "/usr/bin/kubelet"
    extra: dict[str, Any] = field(default_factory=dict)
    data_dirs: tuple[str, ...] = ("/var/lib/etcd",)

    @property
    def work_dir(self) -> str:
        """Our directory on the host."""
        return os.path.dirname(self.config_path)

    @property
    def guard_path(self) -> str:
        """Script that systemd runs before the kubelet."""
        return os.path.join(self.work_dir, "before-kubelet.sh")

    @property
    def record_path(self) -> str:
        """The record of the member, which exists once its log has seen a leader."""
        return record_path(self.work_dir)


@dataclass(frozen=True)
class Unit:
    """kubelet.service as systemd and /proc tell.

    started: the start of its process in Unix seconds. replaced: whether that runs another program than a new one would.
    config: the text of the configuration that it was started with; None if that is not known.
    """

    load_state: str
    active: bool
    enabled: bool
    need_reload: bool
    argv: list[str]
    started: float
    replaced: bool = False
    config: str | None = None


@dataclass(frozen=True)
class UnitFile:
    """A drop-in of kubelet.service: where it is, and its text."""

    path: str
    text: str


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

    The kubelet removes no images: on a disk that is 85 % full it would remove that of the sandbox, which containerd protects since 1.7 only, and etcd
    would not start after the next reboot if no registry answers. Evictions are of no use either, since they spare static pods.
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
        # 100 switches it off (pkg/kubelet/kubelet.go, StartGarbageCollection), and so does 0% for an eviction (pkg/kubelet/eviction/helpers.go).
        "imageGCHighThresholdPercent": 100,
        "evictionHard": {"imagefs.available": "0%", "nodefs.available": "0%", "nodefs.inodesFree": "0%"},
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


def render_data_drop_in(spec: KubeletSpec) -> str:
    """The drop-in that keeps the kubelet, and so etcd, from starting without etcd's data (systemd.unit(5), systemd.service(5)).

    A volume that has an entry in /etc/fstab is waited for (RequiresMountsFor=). What systemd does not know of, the script
    finds, again at each start (Restart=always): a condition or an assertion would be checked once.
    """
    directories = " ".join(map(systemd_quoted, spec.data_dirs))
    return (
        "# Written by Ansible (kubeadm.etcd): the kubelet does not start etcd without its data.\n"
        "[Unit]\n"
        f"RequiresMountsFor={directories}\n"
        # These two are those of the package's unit. With systemd's defaults it would give up after five attempts in a second.
        "StartLimitIntervalSec=0\n"
        "[Service]\n"
        "RestartSec=10\n"
        f"RuntimeDirectory={os.path.basename(RUNTIME_DIR)}\n"
        "RuntimeDirectoryMode=0700\n"
        f"ExecStartPre=/bin/sh {systemd_quoted(spec.guard_path)}\n"
    )


def systemd_quoted(text: str) -> str:
    """A word for a unit file: quoted, without specifiers (systemd.syntax(7), systemd.unit(5))."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{escaped}"'


def render_guard(spec: KubeletSpec) -> str:
    """The script that systemd runs before each start of the kubelet. It ends with 1 if etcd would start without its data.

    It asks what would be started, not what the variables say: the data directory is that of the installed manifest
    (kubeadm writes each argument on a line of its own). Without a manifest nothing is started. A member whose log has seen
    a leader has a record; without a log its data is elsewhere, and a manifest of a first run (initial-cluster-state=new)
    could found a second cluster. The directory alone proves nothing: etcd makes it before it fails.
    """
    manifest = os.path.join(spec.manifests_dir, "etcd.yaml")
    return f"""\
# Written by Ansible (kubeadm.etcd). systemd runs it before the kubelet ({os.path.basename(DATA_DROP_IN)}).
record={shlex.quote(spec.record_path)}
manifest={shlex.quote(manifest)}
config={shlex.quote(spec.config_path)}
started_with={shlex.quote(STARTED_WITH)}

# YAML quotes an argument that it could misread.
data=$(sed -n "s/^ *- ['\\"]\\{{0,1\\}}--data-dir=//p" "$manifest" 2>/dev/null | sed "s/['\\"]\\$//")
if [ -e "$record" ] && [ -n "$data" ]; then
    set -- "$data"/member/wal/*.wal
    if ! [ -e "$1" ]; then
        # The prefix is the priority (sd-daemon(3)).
        echo "<3>etcd is not started: this host is a member of a cluster ($record), and its data is missing: there is no" \\
            "$data/member/wal/*.wal. Without its data, the member would forget writes that it has acknowledged. Is the volume of" \\
            "$data mounted? Mount it: the kubelet tries again by itself. If the data is lost, replace the member:" \\
            "docs/recovery.md of the collection kubeadm.etcd, 'A member has lost its data'." >&2
        exit 1
    fi
fi
# For the next run of Ansible: what this kubelet runs with.
cp "$config" "$started_with" || :
"""


def wanted_files(spec: KubeletSpec, config: dict[str, Any]) -> dict[str, str]:
    """The files of the override by path. config: the KubeletConfiguration."""
    return {
        spec.config_path: render_config(config),
        spec.guard_path: render_guard(spec),
        DROP_IN: render_drop_in(spec),
        DATA_DROP_IN: render_data_drop_in(spec),
    }


def file_reasons(files: dict[str, str], found: dict[str, str | None]) -> list[Reason]:
    """Which files have to be written: wanted text by path against the text found there (None: no file)."""
    return [
        Reason("kubelet", "missing", f"{path}: missing")
        if found.get(path) is None
        else Reason("kubelet", "content", f"{path}: content differs")
        for path, text in files.items()
        if found.get(path) != text
    ]


def restart_reasons(
    unit: Unit, config_path: str, config: str, before: str | None, written: float, now: float
) -> list[Reason]:
    """Why the kubelet has to be (re)started: what runs is not what would run.

    config, before: the text of the configuration as it is to be, and as it is (None: no file). written: when that was
    written; now: both in Unix seconds. A kubelet that was started before there was a copy of what it runs with is judged by
    that time, unless a clock that was ahead then makes it worthless.

    Derived from what runs, not from what this run has changed: a run that was killed between writing a file and
    restarting the kubelet is finished by the next one.
    """
    if not unit.active:
        return [Reason("kubelet", "stopped", "kubelet.service: not running")]
    reasons: list[Reason] = []

    def found(code: str, text: str) -> None:
        reasons.append(Reason("kubelet", code, f"kubelet.service: {text}"))

    known = unit.config is not None
    if f"--config={config_path}" not in unit.argv:
        found("without-override", "runs without the override")
    elif unit.config != config if known else (before != config or unit.started + 1 < written <= now):
        found("older-configuration", "runs with an older configuration")
    if unit.replaced:
        found("older-program", "runs a program that was replaced since")
    return reasons


def unit_reasons(unit: Unit) -> list[Reason]:
    """What is to be done with the unit that needs no restart."""
    reasons = []
    if not unit.enabled:
        text = "kubelet.service: not enabled, so etcd would not start after a reboot"
        reasons.append(Reason("kubelet", "disabled", text))
    if unit.need_reload:
        reasons.append(Reason("kubelet", "unread", "kubelet.service: unit files changed since systemd read them"))
    return reasons


def override_problems(drop_ins: list[UnitFile], spec: KubeletSpec) -> list[Problem]:
    """Drop-ins that take effect after ours and start the kubelet with another configuration.

    drop_ins: those of kubelet.service, in the order in which systemd reads them. One that only adds to our command line is
    left alone.
    """
    later = [item for item in drop_ins if os.path.basename(item.path) > os.path.basename(DROP_IN)]
    setting = [(item.path, commands) for item in later for commands in [_exec_start(item.text)] if commands]
    if not setting:
        return []
    path, commands = setting[-1]
    if f"--config={spec.config_path}" in commands[-1].split():
        return []
    return [
        Problem(
            f"{path} sets ExecStart={commands[-1]}, and systemd reads it after {DROP_IN}: the kubelet would not run etcd. Remove"
            f" the lines with ExecStart from {path}, or give it a name that sorts before {os.path.basename(DROP_IN)}. Options of the kubelet"
            " go into etcd_kubelet_config.",
            PROCESSES,
            code="kubelet-override",
        )
    ]


def _exec_start(text: str) -> list[str]:
    """The values of ExecStart= in a unit file, lines that are continued put together (systemd.syntax(7))."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith(("#", ";"))]
    return re.findall(
        r"^[ \t]*ExecStart[ \t]*=[ \t]*(.*?)[ \t]*$", re.sub(r"\\\n", " ", "\n".join(lines)), flags=re.MULTILINE
    )


def dropped_arguments(files: list[UnitFile]) -> list[str]:
    """Where the kubelet's packages read further arguments from, which our command line does not use: in words.

    files: drop-ins of kubelet.service, and environment files of the packages.
    """
    pattern = r"""^[ \t]*(?:Environment[ \t]*=.*\b)?["']?KUBELET_EXTRA_ARGS=(.*?)[ \t]*$"""
    return [
        f"{item.path} sets KUBELET_EXTRA_ARGS={value.strip(chr(34) + chr(39))}, which has no effect on an etcd host: the kubelet's command line is replaced."
        " Set etcd_kubelet_config instead."
        for item in files
        for value in re.findall(pattern, item.text, flags=re.MULTILINE)[-1:]
        if value.strip("\"'")
    ]


def runtime_problems(spec: KubeletSpec, driver: str | None, before: str | None) -> list[Problem]:
    """Whether the kubelet and the container runtime would disagree about cgroups.

    driver: that of the runtime, if it counts. before: the text of the kubelet's configuration as it is (None: no file). A
    kubelet that gets another driver stops etcd as it starts, and with a runtime of the other driver etcd does not come back
    (seen with kubelet 1.36.3 and containerd 1.6.20). One that has that driver already runs, so nothing that runs is stopped.
    """
    if driver in (None, spec.cgroup_driver):
        return []
    wanted = "true" if spec.cgroup_driver == "systemd" else "false"
    effect = "etcd may be stopped every few minutes" if driver == "cgroupfs" else "no pod would start"
    has = re.search(r'^cgroupDriver: "?(\w+)"?$', before or "", flags=re.MULTILINE)
    is_new = has is not None and has.group(1) != spec.cgroup_driver
    return [
        Problem(
            f"containerd uses the cgroup driver {driver}, and etcd_cgroup_driver is {spec.cgroup_driver}: {effect}. Set SystemdCgroup = {wanted} in"
            f" /etc/containerd/config.toml (under runtimes.runc.options) and restart containerd, or set etcd_cgroup_driver: {driver}.",
            PROCESSES if is_new else (FOUND, START),
            code="cgroup-driver",
        )
    ]


def sandbox_warnings(missing: str) -> list[str]:
    """What it means that the image of sandboxes is missing while the member has a manifest. missing: its name, '' if it is not."""
    if not missing:
        return []
    return [
        f"the runtime does not have {missing} any more, the image of its sandboxes. etcd keeps running, but starts after a reboot only if the registry"
        f" answers then. Pull it (`ctr -n k8s.io images pull {missing}`), or import it (`ctr -n k8s.io images import FILE`)."
    ]


def page_warnings(unit: Unit, is_ours: bool, config_is_there: bool, key_dirs: list[str]) -> list[str]:
    """What a cluster that was made by hand from the page has left behind, and what to do with it. Nothing is removed by us.

    is_ours: whether our drop-in is installed. config_is_there: whether the page's kubelet.conf is. key_dirs: directories
    with copies of members' keys.
    """
    warnings = []
    # While it may still be used, no message advises removing it.
    if config_is_there and is_ours and not any(PAGE_CONFIG in argument for argument in unit.argv):
        warnings.append(
            f"{PAGE_CONFIG} is left from the setup by hand: systemd takes it for a drop-in and complains at each reload. The kubelet"
            f" does not use it any more. Run: rm {PAGE_CONFIG} && systemctl daemon-reload"
        )
    if key_dirs:
        warnings.append(
            f"private keys of members are left from the setup by hand in {', '.join(key_dirs)}. Whoever reads one can act as that member."
            " etcd does not use these copies (it uses /etc/kubernetes/pki). Remove the directories once all members run."
        )
    return warnings


def unit_problems(unit: Unit) -> list[Problem]:
    """Why the kubelet could not be started."""
    if unit.load_state == "masked":
        return [
            Problem(
                "kubelet.service is masked, so systemd does not start it. Run `systemctl unmask kubelet`, then run again.",
                PROCESSES,
                code="kubelet-masked",
            )
        ]
    if unit.load_state != "loaded":
        return [
            Problem(
                f"systemd cannot load kubelet.service ({unit.load_state}). Install the package kubelet, or add the unit file for the"
                " installed kubelet.",
                PROCESSES,
                code="kubelet-missing",
            )
        ]
    return []


def own_pod(host: str = "", program: str = "etcd") -> str:
    """The name of a static pod: the kubelet appends the name of its node, which is that of the host in lower case."""
    return f"{program}-{(host or socket.gethostname()).strip().lower()}"


# RFC 1123 subdomain as the kubelet checks it, which does not limit its labels (apimachinery validation.IsDNS1123Subdomain).
_POD_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")


def pod_name_problems(host: str = "") -> list[Problem]:
    """Why the host's name cannot be part of a pod's name."""
    pod = own_pod(host)
    if _POD_NAME.fullmatch(pod) and len(pod) <= 253:
        return []
    return [
        Problem(
            f"the pod of etcd would be called {printable(pod)}, after the host's name, and the kubelet refuses that name. Use lower-case letters, digits,"
            " '-' and '.', with a letter or digit at both ends: hostnamectl hostname NAME.",
            PROCESSES,
            code="host-name",
        )
    ]


def config_problems(spec: KubeletSpec) -> list[Problem]:
    """What etcd_kubelet_config may not change."""
    texts = []
    if spec.extra.get("staticPodPath", spec.manifests_dir) != spec.manifests_dir:
        texts.append(f"etcd_kubelet_config must not set staticPodPath: it is always {spec.manifests_dir}. Remove it.")
    for key, value, variable in (
        ("containerRuntimeEndpoint", spec.runtime_endpoint, "etcd_container_runtime_endpoint"),
        ("cgroupDriver", None, "etcd_cgroup_driver"),
    ):
        if spec.extra.get(key, value) != value:
            texts.append(f"etcd_kubelet_config must not set {key}. Set {variable} instead.")
    texts += [
        f"etcd_kubelet_config must not set {key}: the run checks the kubelet at 127.0.0.1:10248. Remove it."
        for key in ("healthzPort", "healthzBindAddress")
        if key in spec.extra
    ]
    return [Problem(text, PROCESSES, code="kubelet-configuration") for text in texts]
