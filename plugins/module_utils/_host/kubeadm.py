# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""kubeadmcfg.yaml of one member and the manifest that kubeadm makes of it: what is wanted, what is wrong, what differs.

kubeadm itself validates and renders. What it lets pass although etcd would not start with it is refused here; the
facts were found by running kubeadm 1.29 to 1.37 and etcd 3.5 to 3.7.
"""

from __future__ import annotations

import difflib
import ipaddress
import json
import math
import os
import re
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ansible_collections.kubeadm.etcd.plugins.module_utils._host.files import (
    ensure_directory,
    mode_problem,
    read_text,
    replace_file,
    set_mode,
)
from ansible_collections.kubeadm.etcd.plugins.module_utils._host.process import NOT_FOUND, TIMED_OUT, run
from ansible_collections.kubeadm.etcd.plugins.module_utils._values import formats as _values
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.errors import EtcdError
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.formats import (
    TRUTH,
    is_address,
    scalar_text,
    values_of,
)
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.members import (
    MEMBERS_ARGUMENT,
    Member,
    bracketed,
    membership_problems,
    name_and_address_problems,
    peer_url,
    same_port_problems,
)
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.problems import EVERYTHING, PROCESSES, Problem
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.reasons import Reason
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.to_yaml import yaml_lines
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.versions import (
    ANY_PATCH,
    SUPPORTED,
    EtcdVersion,
    etcd_version_in,
    version_range_problems,
)

# Options of kubeadm_etcd_config, and what etcd_host_info and etcd_member_turn take under `config`.
CONFIG_ARGUMENTS: dict[str, dict[str, Any]] = {
    "path": {"type": "path", "default": "/etc/kubernetes/kubeadm-etcd/kubeadmcfg.yaml"},
    "name": {"type": "str", "required": True},
    "address": {"type": "str", "required": True},
    "members": MEMBERS_ARGUMENT,
    "initial_cluster_state": {"type": "str", "choices": ["new", "existing"], "default": "new"},
    # It goes into ids, and is no secret.
    "initial_cluster_token": {"type": "str", "default": "", "no_log": False},
    "published": {"type": "bool", "default": False},
    "kubernetes_version": {"type": "str", "default": ""},
    "image_repository": {"type": "str", "default": ""},
    "image_tag": {"type": "str", "default": ""},
    "extra_args": {"type": "dict", "default": {}},
    "extra_envs": {"type": "dict", "default": {}},
    "server_cert_sans": {"type": "list", "elements": "str", "default": []},
    "peer_cert_sans": {"type": "list", "elements": "str", "default": []},
    "encryption_algorithm": {
        "type": "str",
        "choices": ["RSA-2048", "RSA-3072", "RSA-4096", "ECDSA-P256", "ECDSA-P384"],
        "default": "RSA-2048",
    },
    "certificate_validity_period": {"type": "str", "default": "8760h"},
    "ca_certificate_validity_period": {"type": "str", "default": "87600h"},
    "pki_dir": {"type": "path", "default": "/etc/kubernetes/pki"},
    "data_dir": {"type": "path", "default": "/var/lib/etcd"},
    "client_port": {"type": "int", "default": 2379},
    "peer_port": {"type": "int", "default": 2380},
    "metrics_port": {"type": "int", "default": 2381},
    "metrics_exposed": {"type": "bool", "default": False},
    "startup_timeout": {"type": "str", "default": ""},
    "allow_untested_kubeadm": {"type": "bool", "default": False},
    "kubeadm": {"type": "str", "default": "kubeadm"},
}

# kubeadm needs 0.1 s for each of its commands; a busy host needs longer.
TIMEOUT = 60.0

# For a change of more lines than this, the plan has only their number. The diff shows them.
_MOST_REASONS = 20

# kubeadm's timeouts.controlPlaneComponentHealthCheck, of which it makes etcd's startup probe: one try each period (seconds).
STARTUP_SECONDS = 240.0
_PROBE_PERIOD = 10.0

# It has /livez and /readyz, which the probes of the manifest ask.
_OLDEST_ETCD = EtcdVersion(3, 5, 11)

# How long the startup probe lets a member that joins take: a learner is not ready before it has been sent the whole database.
JOIN_SECONDS = 1800.0

# What else stands in the manifest by kubeadm's own doing: an ETCD_* variable beside it is fatal for etcd.
_BASE_FLAGS = ("snapshot-count",)
_OLD_FLAGS = ("experimental-initial-corrupt-check", "experimental-watch-progress-notify-interval")
_NEW_FLAGS = ("feature-gates", "watch-progress-notify-interval")

# etcd CHANGELOG-3.6: these lost the prefix experimental- (up to 3.5 they have it; in 3.6 both work; from 3.7 only new).
_RENAMED_IN_3_6 = (
    "bootstrap-defrag-threshold-megabytes",
    "compact-hash-check-time",
    "compaction-batch-limit",
    "compaction-sleep-interval",
    "corrupt-check-time",
    "distributed-tracing-address",
    "distributed-tracing-instance-id",
    "distributed-tracing-sampling-rate",
    "distributed-tracing-service-name",
    "downgrade-check-time",
    "enable-distributed-tracing",
    "max-learners",
    "memory-mlock",
    "peer-skip-client-san-verification",
    "snapshot-catchup-entries",
    "warning-apply-duration",
    "warning-unary-request-duration",
    "watch-progress-notify-interval",
)
_GATES_IN_3_6 = {
    "experimental-compact-hash-check-enabled": "CompactHashCheck",
    "experimental-enable-lease-checkpoint": "LeaseCheckpoint",
    "experimental-enable-lease-checkpoint-persist": "LeaseCheckpointPersist",
    "experimental-initial-corrupt-check": "InitialCorruptCheck",
    "experimental-stop-grpc-service-on-defrag": "StopGRPCServiceOnDefrag",
    "experimental-txn-mode-write-with-shared-buffer": "TxnModeWriteWithSharedBuffer",
}


@dataclass(frozen=True, order=True)
class Version:
    """A Kubernetes version. A suffix (-rc.0, +vendor) is kept in `text` and plays no part in comparisons."""

    major: int
    minor: int
    patch: int
    text: str = ""

    def __str__(self) -> str:
        return self.text or f"v{self.major}.{self.minor}.{self.patch}"


def parse_version(text: str) -> Version:
    """A version as kubeadm prints it, v1.36.3. EtcdError for anything else."""
    match = _values.VERSION.fullmatch(text)
    if not match:
        raise EtcdError(
            f"etcd_kubernetes_version {text!r} is not a version. Write the full version, for example v1.36.3."
        )
    return Version(int(match.group(1)), int(match.group(2)), int(match.group(3)), text)


def _normal(address: str) -> str:
    """One spelling for each address, kubeadm's. What is no address is left as it is, to be complained about."""
    if not is_address(address):
        return address
    parsed = ipaddress.ip_address(address)
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    return str(mapped or parsed)


@dataclass(frozen=True)
class ConfigSpec:
    """What kubeadmcfg.yaml of one member is to say. Fields are the options of kubeadm_etcd_config.

    peers: name and peer URL of every member as the cluster tells them, for a member that joins; empty: those of `members`.
    """

    name: str
    address: str
    members: list[Member]
    initial_cluster_state: str
    initial_cluster_token: str
    published: bool
    kubernetes_version: str
    image_repository: str
    image_tag: str
    extra_args: dict[str, Any]
    extra_envs: dict[str, Any]
    server_cert_sans: list[str]
    peer_cert_sans: list[str]
    encryption_algorithm: str
    certificate_validity_period: str
    ca_certificate_validity_period: str
    pki_dir: str
    data_dir: str
    client_port: int
    peer_port: int
    metrics_port: int
    metrics_exposed: bool = False
    startup_timeout: str = ""
    allow_untested_kubeadm: bool = False
    path: str = CONFIG_ARGUMENTS["path"]["default"]
    kubeadm: str = CONFIG_ARGUMENTS["kubeadm"]["default"]
    peers: tuple[tuple[str, str], ...] = ()

    @classmethod
    def from_params(cls, params: Mapping[str, Any]) -> ConfigSpec:
        """From module parameters; missing ones get their default, others are ignored.

        EtcdError where a value has the wrong shape altogether (a list where a mapping is due).
        """
        shapes: dict[str, tuple[type, str]] = {"dict": (Mapping, "a mapping"), "list": (list, "a list")}
        values: dict[str, Any] = {}
        for key, argument in CONFIG_ARGUMENTS.items():
            value: Any = params.get(key)
            if value is None:
                if argument.get("required"):
                    raise EtcdError(f"{key} is missing from the configuration of the member.")
                value = argument["default"]
            shape, words = shapes.get(argument["type"], (object, ""))
            if not isinstance(value, shape):
                raise EtcdError(f"etcd_{key} is {value!r}. Write {words}.")
            if argument["type"] == "int":
                if not re.fullmatch(r"[0-9]+", str(value)):
                    raise EtcdError(f"etcd_{key} is {value!r}. Write a whole number.")
                value = int(str(value))
            elif argument["type"] == "bool":
                # A value inside a mapping has not been converted by Ansible.
                if str(value).lower() not in TRUTH:
                    raise EtcdError(f"etcd_{key} is {value!r}. Write true or false.")
                value = TRUTH[str(value).lower()]
            elif argument["type"] in ("str", "path"):
                value = str(value)
            values[key] = value
        values["address"] = _normal(values["address"])
        members = []
        for item in values["members"]:
            name, address = str(item["name"]), _normal(str(item["address"]))
            members.append(Member(f"{name} ({address})", name, address))
        values["members"] = members
        for key in ("server_cert_sans", "peer_cert_sans"):
            values[key] = [str(san) for san in values[key]]
        return cls(**values)

    def completed(self, kubeadm: Version, database: int = 0, installed: str | None = None) -> ConfigSpec:
        """The same with what it leaves open: the version is kubeadm's, and etcd gets the time that it needs to start, see startup_timeout."""
        return replace(
            self,
            kubernetes_version=self.kubernetes_version or str(kubeadm),
            startup_timeout=startup_timeout(self.startup_timeout, database, installed),
        )


# --- What is wrong ---------------------------------------------------------------------------------------------------


def config_problems(spec: ConfigSpec, kubeadm: Version) -> list[Problem]:
    """Everything that is wrong with a configuration for this kubeadm, each with what to write instead.

    What is in no certificate does not stop certificates from being issued.
    """
    problems = kubeadm_problems(kubeadm, spec.allow_untested_kubeadm)
    if problems:
        # What follows depends on what this kubeadm does, and that is not known.
        return [Problem(text, PROCESSES, code="kubeadm") for text in problems]
    ports = {f"etcd_{key}_port": getattr(spec, f"{key}_port") for key in ("client", "peer", "metrics")}
    of_manifest = [
        *version_problems(spec.kubernetes_version, kubeadm),
        *(text for name, port in ports.items() for text in _values.port_problems(name, port)),
        *same_port_problems(ports),
        *image_problems(spec, kubeadm),
        *argument_problems(spec, kubeadm),
        *environment_problems(spec, kubeadm),
        *_values.startup_problems("etcd_startup_timeout", spec.startup_timeout),
        *_values.data_dir_problems("etcd_data_dir", spec.data_dir),
        *algorithm_problems(spec, kubeadm),
    ]
    of_certificates = [
        *member_problems(spec),
        *_values.san_problems("etcd_server_cert_sans", spec.server_cert_sans),
        *_values.san_problems("etcd_peer_cert_sans", spec.peer_cert_sans),
        *certificate_problems(spec),
        *_values.directory_problems("pki_dir", spec.pki_dir, "/etc/kubernetes/pki"),
    ]
    return [
        *(Problem(text, PROCESSES, code="configuration") for text in of_manifest),
        *(Problem(text, EVERYTHING, code="configuration") for text in of_certificates),
    ]


def kubeadm_problems(kubeadm: Version, allow_untested: bool = False) -> list[str]:
    """Whether this version of kubeadm is supported."""
    return version_range_problems(str(kubeadm), allow_untested)


def version_problems(text: str, kubeadm: Version) -> list[str]:
    """Whether this kubeadm supports kubernetesVersion: its own minor version or the previous one."""
    try:
        wanted = parse_version(text)
    except EtcdError as exc:
        return [str(exc)]
    if wanted.major == kubeadm.major and kubeadm.minor - 1 <= wanted.minor <= kubeadm.minor:
        return []
    problem = (
        f"etcd_kubernetes_version {wanted} does not fit kubeadm {kubeadm}, which supports {kubeadm.major}."
        f"{kubeadm.minor - 1} and {kubeadm.major}.{kubeadm.minor}. Leave it out, or install kubeadm of that version."
    )
    return [problem]


def member_problems(spec: ConfigSpec) -> list[str]:
    """Names and addresses of all members, and whether this one is among them."""
    problems = [
        *(f"{member.host}: {text}" for member in spec.members for text in name_and_address_problems(member)),
        *membership_problems(spec.members),
    ]
    own = [member for member in spec.members if member.name == spec.name]
    if not own:
        problems.append(f"members does not have {spec.name}. It has to list all members, this one included.")
    elif own[0].address != spec.address:
        problems.append(f"members has {spec.name} with {own[0].address}, but its address is {spec.address}.")
    if len(spec.name) > 64:
        problems.append(f"etcd_member_name {spec.name!r} has more than 64 characters, the most a certificate can hold.")
    return problems


def etcd_version(spec: ConfigSpec, kubeadm: Version) -> EtcdVersion | None:
    """The release of etcd that the image is to have: by its tag, otherwise the one that kubeadm chooses, of any patch. None if unknown."""
    if spec.image_tag:
        return etcd_version_in(spec.image_tag)
    if kubeadm.minor <= 33 or _is_1_33_by_1_34(spec, kubeadm):
        return EtcdVersion(3, 5, ANY_PATCH)
    return EtcdVersion(3, 6 if kubeadm.minor <= 36 else 7, ANY_PATCH)


def _is_1_33_by_1_34(spec: ConfigSpec, kubeadm: Version) -> bool:
    """The one case where kubeadm takes another minor's image than its own."""
    return kubeadm.minor == 34 and spec.kubernetes_version.startswith("v1.33.")


def writes_new_flags(spec: ConfigSpec, kubeadm: Version) -> bool:
    """Whether kubeadm writes --feature-gates (etcd 3.6 and later) or --experimental-* (up to 3.6) into the manifest.

    Up to 1.33 never, from 1.36 always (kubernetes PR 135701), between them by the image tag read as a semantic version.
    """
    if kubeadm.minor <= 33 or kubeadm.minor >= 36:
        return kubeadm.minor >= 36
    if not spec.image_tag:
        return not _is_1_33_by_1_34(spec, kubeadm)
    match = re.fullmatch(r"^v?(\d+)\.(\d+)\.(\d+)(-[0-9A-Za-z.-]+)?$", spec.image_tag)
    if not match:
        return False
    version = (int(match.group(1)), int(match.group(2)), int(match.group(3)))
    # A suffix makes it a pre-release: 3.6.0-0 is older than 3.6.0, 3.6.1-0 is not.
    return version > (3, 6, 0) or (version == (3, 6, 0) and not match.group(4))


def image_problems(spec: ConfigSpec, kubeadm: Version) -> list[str]:
    """Repository and tag: well-formed, and an etcd that starts with the flags that this kubeadm writes.

    kubeadm takes any tag, even one that no runtime can pull.
    """
    problems = _values.repository_problems("etcd_image_repository", spec.image_repository)
    wrong = _values.tag_problems("etcd_image_tag", spec.image_tag)
    if wrong or not spec.image_tag:
        return problems + wrong
    etcd = etcd_version(spec, kubeadm)
    if etcd is None:
        return problems
    new = writes_new_flags(spec, kubeadm)
    fitting = "3.6 or 3.7" if new else "3.5 or 3.6"
    instead = f"Use etcd {fitting}, or remove etcd_image_tag: kubeadm {kubeadm} then chooses a version that fits."
    if etcd < _OLDEST_ETCD:
        problems.append(
            f"etcd_image_tag {spec.image_tag}: this etcd is too old for the probes that kubeadm writes (/livez and"
            f" /readyz came with 3.5.11). {instead}"
        )
    elif new and etcd.minor < 6:
        problems.append(
            f"etcd_image_tag {spec.image_tag}: kubeadm {kubeadm} writes --feature-gates, and this etcd does not start"
            f" with it. {instead}"
        )
    elif not new and etcd.minor >= 7:
        spelling = (
            " kubeadm reads this tag as an older version: write it as X.Y.Z-N." if kubeadm.minor in (34, 35) else ""
        )
        problems.append(
            f"etcd_image_tag {spec.image_tag}: kubeadm {kubeadm} writes --experimental-* flags, and this etcd does not"
            f" start with them.{spelling} {instead}"
        )
    return problems


def argument_problems(spec: ConfigSpec, kubeadm: Version) -> list[str]:
    """etcd_extra_args: names, values, flags that are ours, flags that the etcd of the image does not have."""
    problems = _values.flags_problems("etcd_extra_args", spec.extra_args)
    for name, value in spec.extra_args.items():
        where = f"etcd_extra_args.{name}"
        if not _values.flag_name_problems(name):
            problems.extend(f"{where}: {text}" for text in flag_problems(str(name), value, spec, kubeadm))
    return problems


def flag_problems(name: str, value: Any, spec: ConfigSpec, kubeadm: Version) -> list[str]:
    """Why the etcd of the image would not start with a flag."""
    etcd = etcd_version(spec, kubeadm)
    bare = name[len("experimental-") :] if name.startswith("experimental-") else name
    gate = _GATES_IN_3_6.get(name)
    # feature-gates replaces kubeadm's, it is not merged with it.
    gates = ",".join(f"{key}=true" for key in sorted({"InitialCorruptCheck", gate or "InitialCorruptCheck"}))
    instead = f"Write feature-gates: {gates}." if gate else f"Write {bare}."
    if etcd and etcd.minor >= 7 and bare != name:
        return [f"etcd {etcd.branch} has no --experimental-* flags any more. {instead}"]
    if etcd and etcd.minor >= 6 and (name.startswith("proxy") or bare in ("enable-v2", "enable-v2v3")):
        return ["etcd 3.6 removed this flag. Leave it out."]
    if etcd and etcd.minor < 6 and name in _RENAMED_IN_3_6:
        return [f"etcd {etcd.branch} does not have it yet. Write experimental-{name}."]
    if etcd and etcd.minor < 6 and name == "feature-gates":
        return [f"etcd {etcd.branch} does not have it yet. Write the experimental-* flag of the feature."]
    # etcd refuses to start with the old and the new name of one thing (run with 3.6.14).
    if writes_new_flags(spec, kubeadm):
        if name in _OLD_FLAGS:
            return [f"kubeadm {kubeadm} writes its new name, and etcd refuses both together. {instead}"]
    elif name == "watch-progress-notify-interval":
        return [f"kubeadm {kubeadm} writes its old name, and etcd refuses both together. Write experimental-{name}."]
    elif name == "feature-gates" and "InitialCorruptCheck" in "".join(map(str, values_of(value))):
        return [
            f"kubeadm {kubeadm} sets InitialCorruptCheck by its old flag, and etcd refuses both. Leave it out here."
        ]
    return []


def environment_problems(spec: ConfigSpec, kubeadm: Version) -> list[str]:
    """etcd_extra_envs: names, values, and variables that stand for a flag of the manifest, which is fatal for etcd.

    Source: etcd pkg/flags/flag.go, "conflicting environment variable is shadowed by corresponding command-line flag".
    """
    style = _NEW_FLAGS if writes_new_flags(spec, kubeadm) else _OLD_FLAGS
    shadowing = {*_BASE_FLAGS, *style, *(str(name) for name in spec.extra_args)}
    problems = _values.environment_problems("etcd_extra_envs", spec.extra_envs)
    for name, value in spec.extra_envs.items():
        where = f"etcd_extra_envs.{name}"
        flag = _values.flag_of(name)
        if flag in _values.OWNED_FLAGS:
            continue
        if flag in shadowing:
            problems.append(
                f"{where}: etcd does not start with it, --{flag} is in the manifest. Use etcd_extra_args.{flag}."
            )
        elif flag:
            problems.extend(f"{where}: {text}" for text in flag_problems(flag, value, spec, kubeadm))
    return problems


def algorithm_problems(spec: ConfigSpec, kubeadm: Version) -> list[str]:
    """An algorithm that this kubeadm refuses to read, although certificates can be made with it."""
    if spec.encryption_algorithm != "ECDSA-P384" or kubeadm.minor >= 34:
        return []
    return [f"etcd_encryption_algorithm ECDSA-P384 needs kubeadm 1.34, this is {kubeadm}. Use ECDSA-P256."]


def certificate_problems(spec: ConfigSpec) -> list[str]:
    """Algorithm and validity. kubeadm accepts 0s and negative periods, and certificates are then born expired."""
    problems = []
    algorithms = CONFIG_ARGUMENTS["encryption_algorithm"]["choices"]
    if spec.encryption_algorithm not in algorithms:
        problems.append(
            f"etcd_encryption_algorithm {spec.encryption_algorithm!r}: write one of {', '.join(algorithms)}."
        )
    for variable in ("certificate_validity_period", "ca_certificate_validity_period"):
        problems += _values.duration_problems(f"etcd_{variable}", getattr(spec, variable))
    return problems


def raise_problems(problems: list[str]) -> None:
    """EtcdError with all problems, or nothing."""
    if len(problems) == 1:
        raise EtcdError(problems[0])
    if problems:
        raise EtcdError("\n".join([f"{len(problems)} problems:", *(f"- {text}" for text in problems)]))


# --- The configuration -----------------------------------------------------------------------------------------------


def initial_cluster(
    name: str, peers: Iterable[tuple[str, str]], state: str, token: str, published: bool
) -> list[tuple[str, str]]:
    """The flags that etcd reads only while it has no data: who the members are, whether their cluster is new, and its token.

    peers: name and peer URL of every member, one line for each URL; of a cluster that a member joins, those that the cluster tells, and the
    member itself. A member that has published names itself only: etcd then refuses to start without its data. With the full list it takes
    over its former id from a peer, joins empty, and may outvote the one member that has an acknowledged write (etcd 3.5 to 3.7, bootstrap.go).
    """
    alone = published and state == "existing"
    return [
        ("initial-cluster", ",".join(f"{peer}={url}" for peer, url in peers if peer == name or not alone)),
        ("initial-cluster-state", state),
        # It goes into the ids of a new cluster. One that runs has its ids.
        *([("initial-cluster-token", token)] if token and state == "new" else []),
    ]


def arguments(spec: ConfigSpec) -> list[tuple[str, str]]:
    """extraArgs: ours in the page's order, then the user's by name."""
    address = bracketed(spec.address)
    loopback = "[::1]" if ":" in spec.address else "127.0.0.1"
    client, peer = f"https://{address}:{spec.client_port}", f"https://{address}:{spec.peer_port}"
    peers = spec.peers or [(m.name, peer_url(m.address, spec.peer_port)) for m in spec.members]
    own = [
        ("name", spec.name),
        *initial_cluster(spec.name, peers, spec.initial_cluster_state, spec.initial_cluster_token, spec.published),
        ("listen-peer-urls", peer),
        # The page leaves out the loopback address; with it etcdctl on the host works as on a control plane.
        ("listen-client-urls", f"https://{loopback}:{spec.client_port},{client}"),
        ("advertise-client-urls", client),
        ("initial-advertise-peer-urls", peer),
    ]
    if spec.metrics_exposed or spec.metrics_port != CONFIG_ARGUMENTS["metrics_port"]["default"]:
        metrics = f"http://{loopback}:{spec.metrics_port}"
        # Loopback first: kubeadm makes the probes of the first URL, and our own gates ask it too.
        own.append(
            (
                "listen-metrics-urls",
                f"{metrics},http://{address}:{spec.metrics_port}" if spec.metrics_exposed else metrics,
            )
        )
    extra = [
        (str(name), scalar_text(value))
        for name in sorted(spec.extra_args)
        for value in values_of(spec.extra_args[name])
    ]
    return own + extra


def render_config(spec: ConfigSpec) -> str:
    """kubeadmcfg.yaml: the page's two documents, kubernetesVersion pinned (else kubeadm asks the internet for one)."""
    local: dict[str, Any] = {"dataDir": spec.data_dir}
    if spec.image_repository:
        local["imageRepository"] = spec.image_repository
    if spec.image_tag:
        local["imageTag"] = spec.image_tag
    for key, sans in (("serverCertSANs", spec.server_cert_sans), ("peerCertSANs", spec.peer_cert_sans)):
        local[key] = list(dict.fromkeys([spec.address, *sans]))
    local["extraArgs"] = [{"name": name, "value": value} for name, value in arguments(spec)]
    if spec.extra_envs:
        local["extraEnvs"] = [
            {"name": str(name), "value": scalar_text(spec.extra_envs[name])} for name in sorted(spec.extra_envs)
        ]
    api = "kubeadm.k8s.io/v1beta4"
    timeouts = {"timeouts": {"controlPlaneComponentHealthCheck": spec.startup_timeout}} if spec.startup_timeout else {}
    documents: list[dict[str, Any]] = [
        {
            "apiVersion": api,
            "kind": "InitConfiguration",
            "nodeRegistration": {"name": spec.name},
            "localAPIEndpoint": {"advertiseAddress": spec.address},
            **timeouts,
        },
        {
            "apiVersion": api,
            "kind": "ClusterConfiguration",
            "kubernetesVersion": spec.kubernetes_version,
            "certificatesDir": spec.pki_dir,
            "encryptionAlgorithm": spec.encryption_algorithm,
            "certificateValidityPeriod": spec.certificate_validity_period,
            "caCertificateValidityPeriod": spec.ca_certificate_validity_period,
            "etcd": {"local": local},
        },
    ]
    # A comment before the first "---" would be a document without apiVersion to kubeadm, and an error.
    first = ["---", "# Written by Ansible (kubeadm.etcd). The next run overwrites what is changed here."]
    return "\n".join([*first, *yaml_lines(documents[0]), "---", *yaml_lines(documents[1])]) + "\n"


def config_reasons(on_disk: str | None, wanted: str, has_data: bool) -> list[Reason]:
    """Why kubeadmcfg.yaml has to be written; empty if it need not be.

    has_data: the member belongs to a cluster already, so that flags that etcd reads at its foundation only are no reason.
    """
    if on_disk is None:
        return [Reason("config", "missing", "kubeadmcfg.yaml: missing")]
    before, after = (without_values(text).splitlines() for text in (on_disk, wanted))
    if has_data:
        before, after = ([line for line in lines if not _BOOTSTRAP_LINE.match(line)] for lines in (before, after))
    envs = [
        Reason("config", "variable", f"kubeadmcfg.yaml: variable {name} has another value")
        for name in changed_envs(on_disk, wanted)
    ]
    return envs + [Reason("config", "line", text) for text in differing_lines("kubeadmcfg.yaml", before, after)]


CONFIG_MODE = 0o600


@dataclass(frozen=True)
class ConfigState:
    """kubeadmcfg.yaml as it is to be and as it is. content: why its text is replaced. reasons: all that is done to it."""

    path: str
    text: str
    before: str | None
    content: list[Reason]
    reasons: list[Reason]

    @property
    def diff(self) -> dict[str, str]:
        """What a module returns as diff."""
        return shown_diff(self.path, self.before, self.text if self.content else self.before or "")

    def write(self) -> None:
        """Make it what it is to be."""
        if self.content:
            ensure_directory(os.path.dirname(self.path), 0o700)
            replace_file(self.path, self.text.encode(), CONFIG_MODE)
        elif self.reasons:
            set_mode(self.path, CONFIG_MODE)


def config_state(spec: ConfigSpec, has_data: bool) -> ConfigState:
    """Compare kubeadmcfg.yaml with what is wanted. EtcdError with kubeadm's own words if it refuses that. has_data: see config_reasons."""
    text, before = render_config(spec), read_text(spec.path)
    content = config_reasons(before, text, has_data)
    # What is there was validated before it was written.
    if content:
        validate_config(text, spec.kubeadm)
    mode = mode_problem(spec.path, CONFIG_MODE)
    reasons = [Reason("config", "mode", f"{os.path.basename(spec.path)}: {mode}")] if mode else []
    return ConfigState(spec.path, text, before, content, content + reasons)


def kubernetes_version_in(config_text: str) -> str:
    """The Kubernetes version that kubeadmcfg.yaml names; '' if it names none."""
    match = re.search(r"^kubernetesVersion: (.+)$", config_text, re.MULTILINE)
    return parse_scalar(match.group(1).strip()) if match else ""


def data_dir_in(config_text: str) -> str | None:
    """The data directory that kubeadmcfg.yaml names; None if it names none."""
    match = re.search(r"^ +dataDir: (.+)$", config_text, re.MULTILINE)
    return parse_scalar(match.group(1).strip()) if match else None


# Where the values of etcd_extra_envs stand: in kubeadmcfg.yaml as we write it, in the manifest as kubeadm writes it (a long value is
# folded over several lines, an empty one left out).
_ENVS = (
    re.compile(r'^( +- \{name: "(?P<name>[^"]*)", value: )(?P<value>".*")(?=\}$)', re.MULTILINE),
    re.compile(r"^(( +)- name: (?P<name>.*)\n\2  value: )(?P<value>.*(?:\n\2   .*)*)$", re.MULTILINE),
)
_ENV_BLOCKS = (
    re.compile(r"^ +extraEnvs:\n(?: +- .*\n)+", re.MULTILINE),
    re.compile(r"^( +)env:\n(?:\1(?:-| ).*\n)+", re.MULTILINE),
)


def env_values(text: str) -> dict[str, str]:
    """Values of etcd_extra_envs by name, as they are written in kubeadmcfg.yaml or a manifest."""
    return {
        match.group("name"): match.group("value")
        for block, value in zip(_ENV_BLOCKS, _ENVS)
        for found in block.finditer(text)
        for match in value.finditer(found.group(0))
    }


def changed_envs(before: str, after: str) -> list[str]:
    """Names of the variables of etcd_extra_envs that both texts have, with another value."""
    former, wanted = env_values(before), env_values(after)
    return sorted(name for name, value in wanted.items() if former.get(name, value) != value)


def without_values(text: str, changed: list[str] | None = None) -> str:
    """A text for people: values of etcd_extra_envs may be secrets, and are not in it. changed: names that are marked as such."""

    def hide(match: re.Match[str]) -> str:
        return f"{match.group(1)}(hidden{', changed' if match.group('name') in (changed or []) else ''})"

    for block, value in zip(_ENV_BLOCKS, _ENVS):
        text = block.sub(lambda found, value=value: value.sub(hide, found.group(0)), text)  # type: ignore[misc]
    return text


def shown_diff(path: str, before: str | None, after: str) -> dict[str, str]:
    """The diff of kubeadmcfg.yaml or the manifest that a module returns."""
    former = before or ""
    return {
        "before_header": path,
        "after_header": path,
        "before": without_values(former),
        "after": without_values(after, changed_envs(former, after)),
    }


def differing_lines(name: str, before: list[str], after: list[str]) -> list[str]:
    """The lines that differ, in words."""
    reasons: list[str] = []
    for tag, start, end, new_start, new_end in difflib.SequenceMatcher(
        None, before, after, autojunk=False
    ).get_opcodes():
        if tag == "equal":
            continue
        old = [line.strip() for line in before[start:end]]
        new = [line.strip() for line in after[new_start:new_end]]
        if len(old) == len(new):
            reasons.extend(f"{name}: {one} -> {other}" for one, other in zip(old, new))
        else:
            reasons.extend(f"{name}: {line} removed" for line in old)
            reasons.extend(f"{name}: {line} added" for line in new)
    if len(reasons) > _MOST_REASONS:
        return [f"{name}: {len(reasons)} lines differ"]
    return reasons


# --- kubeadm ---------------------------------------------------------------------------------------------------------


def run_kubeadm(argv: list[str], stdin: str = "", environment: Mapping[str, str] | None = None) -> str:
    """Standard output of kubeadm. EtcdError where it is missing, fails (with its own words) or hangs."""
    done = run(argv, TIMEOUT, stdin, environment)
    if done.code == NOT_FOUND:
        raise EtcdError(f"{argv[0]} {done.stderr}. Install kubeadm {SUPPORTED}.")
    if done.code == TIMED_OUT:
        raise EtcdError(f"`{' '.join(argv)}` {done.stderr}.")
    if done.code != 0:
        said = complaint(done.stderr or done.stdout)
        raise EtcdError(f"`{' '.join(argv)}` failed (exit code {done.code}): {said}")
    return done.stdout


def complaint(text: str) -> str:
    """What kubeadm says is wrong, without its advice on stack traces."""
    lines = [line.strip() for line in text.splitlines() if line.strip() and "--v=5 or higher" not in line]
    said = " ".join(line[len("error: ") :] if line.startswith("error: ") else line for line in lines)
    return said or "no error message."


def find_kubeadm_version(program: str) -> Version:
    """The version of the kubeadm that is installed. EtcdError where there is none."""
    text = run_kubeadm([program, "version", "-o", "short"]).strip()
    if not _values.VERSION.fullmatch(text):
        raise EtcdError(f"`{program} version -o short` printed {text!r}, which is not a version. Reinstall kubeadm.")
    return parse_version(text)


def validate_config(text: str, program: str) -> None:
    """EtcdError with kubeadm's own words where it refuses a configuration."""
    run_kubeadm([program, "config", "validate", "--config", "/dev/stdin"], stdin=text)


def render_manifest(config_text: str, program: str) -> str:
    """The manifest that kubeadm would write, from a dry run in a private directory that is removed again.

    Byte for byte the real one, and neither the data directory nor /etc/kubernetes is touched (kubeadm 1.32 and later).
    """
    with tempfile.TemporaryDirectory(prefix="kubeadm-etcd-", dir="/run" if os.path.isdir("/run") else None) as private:
        directory = os.path.join(private, "manifests")
        argv = [program, "init", "phase", "etcd", "local", "--dry-run", "--config", "/dev/stdin"]
        said = run_kubeadm(argv, config_text, {"KUBEADM_INIT_DRYRUN_DIR": directory})
        manifest = read_text(os.path.join(directory, "etcd.yaml"))
    if not manifest:
        # With etcd.external in the configuration it writes nothing and is content.
        raise EtcdError(f"`{' '.join(argv)}` wrote no manifest: {complaint(said)}")
    return manifest


# --- The manifest ----------------------------------------------------------------------------------------------------


def parse_scalar(text: str) -> str:
    """A YAML scalar on one line: plain, single- or double-quoted."""
    if len(text) > 1 and text[0] == text[-1] == "'":
        return text[1:-1].replace("''", "'")
    if len(text) > 1 and text[0] == text[-1] == '"':
        try:
            return str(json.loads(text))
        except ValueError:
            return text
    return text


def split_manifest(text: str) -> tuple[list[str], list[str]]:
    """Items of the container's command, and all other lines but those that mean nothing.

    Reads what kubeadm writes (sigs.k8s.io/yaml), and folded lines in it. A file written by hand in another style is
    not understood in full, which makes it differ, which is what it does.
    """
    command: list[str] = []
    rest: list[str] = []
    indent: str | None = None
    for line in text.splitlines():
        match = re.match(r"^( *)(- )?command:$", line)
        if match and indent is None and not command:
            indent = match.group(1) + ("  " if match.group(2) else "")
            # `command` comes first in its container: the dash stays with it.
            rest.append(line)
        elif indent is not None and line.startswith(f"{indent}- "):
            command.append(line[len(indent) + 2 :])
        elif indent is not None and command and line.startswith(f"{indent}  "):
            command[-1] += " " + line.strip()
        else:
            indent = None
            if line.strip() and line.rstrip() not in ("  creationTimestamp: null", "status: {}"):
                rest.append(line.rstrip())
    return [parse_scalar(item) for item in command], rest


def manifest_arguments(text: str) -> list[str]:
    """The command line that a manifest starts, program first."""
    return split_manifest(text)[0]


def manifest_image(text: str) -> str | None:
    """The image that a manifest names."""
    match = re.search(r"^ +image: (.+)$", text, re.MULTILINE)
    return parse_scalar(match.group(1).strip()) if match else None


# etcd looks at these only while it has no data (etcd server/etcdserver/bootstrap.go).
_BOOTSTRAP_FLAGS = ("--initial-cluster", "--initial-cluster-state", "--initial-cluster-token")
_BOOTSTRAP_LINE = re.compile(r'^    - \{name: "initial-cluster(-state|-token)?", value: ')


def by_flag(command: list[str]) -> dict[str, list[str]]:
    """Values by flag, sorted: the order of arguments changes between patch releases of kubeadm and means nothing."""
    found: dict[str, list[str]] = {}
    for item in command:
        flag, _equals, value = item.partition("=")
        found.setdefault(flag, []).append(value)
    return {flag: sorted(values) for flag, values in found.items()}


_STARTUP = re.compile(r"(?<=^    startupProbe:\n      failureThreshold: )\d+$", re.MULTILINE)


def probe_seconds(manifest: str | None) -> float:
    """How long the startup probe of a manifest lets etcd take, seconds; kubeadm's default if it does not say."""
    match = _STARTUP.search(manifest or "")
    return int(match.group(0)) * _PROBE_PERIOD if match else STARTUP_SECONDS


def startup_timeout(wanted: str, database: int, installed: str | None) -> str:
    """How long etcd may take to start, as a duration for kubeadm; empty for kubeadm's four minutes.

    wanted: etcd_startup_timeout; empty: what suits a database of this size (bytes), a minute more for each GiB, in steps that double,
    so that a database that grows changes it a few times in its life only. Never less than the installed manifest has, which somebody
    may have raised by hand. The kubelet kills an etcd that takes longer, and it would never come up (cozystack/cozystack#1874).
    A member that has joined keeps what it had as a learner.
    """
    if wanted:
        has_joined = probe_seconds(installed) == JOIN_SECONDS
        return join_timeout(wanted) if has_joined else wanted
    gib = database / float(1 << 30)
    needed = STARTUP_SECONDS + (60.0 * 2 ** math.ceil(math.log2(gib)) if gib > 1 else 0.0)
    seconds = max(needed, probe_seconds(installed))
    return f"{math.ceil(seconds / 60)}m" if seconds > STARTUP_SECONDS else ""


def join_timeout(wanted: str) -> str:
    """How long etcd of a member that joins may take to start, as a duration for kubeadm. wanted: etcd_startup_timeout, which counts if it is longer."""
    is_longer = (_values.duration_seconds(wanted) or 0.0) > JOIN_SECONDS
    return wanted if is_longer else f"{JOIN_SECONDS / 60:.0f}m"


def startup_counts(wanted: str, formed: bool, is_ready: Callable[[], bool]) -> bool:
    """Whether another startup probe alone is a reason to restart a member. It is if etcd_startup_timeout is set.

    A member that is ready is not restarted for it. One that is not may be killed again and again before it is.
    """
    return bool(wanted) or (formed and not is_ready())


def database_size(data_dir: str) -> int:
    """Bytes of the database of a member; 0 if there is none."""
    try:
        return os.stat(os.path.join(data_dir, "member/snap/db")).st_size
    except OSError:
        return 0


# Flags that tell peers where a member is, and the code of the reason that one of them differs.
_PEER_FLAGS = ("--initial-advertise-peer-urls", "--initial-cluster")
MOVED = "moved"


def manifest_reasons(on_disk: str | None, wanted: str, has_data: bool, startup_counts: bool = False) -> list[Reason]:
    """Why etcd.yaml has to be replaced: differences that mean something, one by one; empty where there are none.

    has_data: the member belongs to a cluster already, so that what only counts at its foundation is no reason.
    startup_counts: whether another startup probe alone is a reason. It is not for a running member, unless etcd_startup_timeout is set.
    """
    if on_disk is None:
        return [Reason("manifest", "missing", "etcd.yaml: missing", restarts=True)]
    reasons: list[Reason] = []

    def found(code: str, text: str) -> None:
        reasons.append(Reason("manifest", code, f"etcd.yaml: {text}", restarts=True))

    probes = probe_seconds(on_disk), probe_seconds(wanted)
    if startup_counts and probes[0] != probes[1]:
        found("probe", f"startup probe: {probes[0]:.0f} s -> {probes[1]:.0f} s")
    for name in changed_envs(on_disk, wanted):
        found("variable", f"variable {name} has another value")
    command, lines = split_manifest(without_values(_STARTUP.sub("", on_disk)))
    wanted_command, wanted_lines = split_manifest(without_values(_STARTUP.sub("", wanted)))
    before, after = by_flag(command), by_flag(wanted_command)
    for flag in sorted({*before, *after}):
        if before.get(flag) == after.get(flag) or (has_data and flag in _BOOTSTRAP_FLAGS):
            continue
        if flag not in before:
            found("flag", f"{flag}={','.join(after[flag])} added")
        elif flag not in after:
            found("flag", f"{flag}={','.join(before[flag])} removed")
        else:
            code = MOVED if flag in _PEER_FLAGS else "flag"
            found(code, f"{flag}: {','.join(before[flag])} -> {','.join(after[flag])}")
    return reasons + [
        Reason("manifest", "line", text, restarts=True) for text in differing_lines("etcd.yaml", lines, wanted_lines)
    ]


# The container's program, or an image named etcd, in YAML or JSON.
_ETCD_POD = re.compile(
    r"""^\s*- ["']?(/\S*/)?etcd["']?\s*$|\bimage["']?:\s*["']?([^\s"']*/)?etcd([:@"'\s]|$)""", re.MULTILINE
)


def check_other_pods(manifests_dir: str) -> None:
    """EtcdError where another file would start a second etcd on the same data.

    The kubelet runs every file whose name does not begin with a dot, so a backup copy is a second pod.
    """
    if not os.path.isdir(manifests_dir):
        return
    for name in sorted(os.listdir(manifests_dir)):
        path = os.path.join(manifests_dir, name)
        if name.startswith(".") or name == "etcd.yaml" or not os.path.isfile(path):
            continue
        if _ETCD_POD.search(read_text(path) or ""):
            only = not os.path.exists(os.path.join(manifests_dir, "etcd.yaml"))
            raise EtcdError(
                f"{path} is an etcd pod too, and the kubelet runs every file in {manifests_dir} whatever its name ends with. "
                + (
                    f"If the member runs from it, rename it etcd.yaml (`mv {path} {manifests_dir}/etcd.yaml`): the member restarts."
                    if only
                    else "Move the copy out of that directory. The member restarts if it runs from the copy."
                )
                + " Do so on one host after the other."
            )
