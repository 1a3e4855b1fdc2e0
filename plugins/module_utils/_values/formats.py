# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Formats of single values: names, addresses, ports, durations, paths, flags, image tags.

The controller checks the inventory with these functions before a host sees a value, and the modules check their options with the same
ones. Each function returns messages that name the variable and what to write; an empty list means that the value is valid.
"""

from __future__ import annotations

import ipaddress
import json
import os
import re
from collections.abc import Iterable, Mapping
from typing import Any

from ansible_collections.kubeadm.etcd.plugins.module_utils._values.versions import CANCEL

# RFC 1123 subdomain, as kubeadm checks nodeRegistration.name (apimachinery validation.IsDNS1123Subdomain).
_LABEL = r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"
NAME = re.compile(rf"{_LABEL}(\.{_LABEL})*")

# Values from an INI inventory or from -e name=value are still text.
TRUTH = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}

VERSION = re.compile(r"v(\d+)\.(\d+)\.(\d+)(?:[-+][0-9A-Za-z.+-]+)?")
_IMAGE_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}(@sha256:[0-9a-f]{64})?")
_REPOSITORY = re.compile(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?(:[0-9]+)?(/[a-z0-9]+([._-]+[a-z0-9]+)*)*", re.IGNORECASE)
_FLAG = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_ENVIRONMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
_DNS_SAN = re.compile(r"(\*\.)?[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_DURATION = re.compile(r"([0-9]+(\.[0-9]+)?(h|m|s))+")
_SECONDS = {"h": 3600.0, "m": 60.0, "s": 1.0}
# A Go duration is a signed number of 64 bits, in nanoseconds.
_LONGEST_DURATION = float(1 << 63) / 1e9

# The cluster name becomes the name of a directory on the controller, a label of Prometheus and a word in messages.
_CLUSTER_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")

# sun_path of sockaddr_un has 108 bytes, including the terminating null byte (unix(7)).
_LONGEST_SOCKET = 107
# PATH_MAX of Linux (limits.h). No other text in the inventory needs to be longer.
_LONGEST_TEXT = 4096

# Directories that other programs use too: etcd's data directory has mode 0700.
_SHARED_DIRECTORIES = (
    *("/", "/bin", "/boot", "/etc", "/home", "/lib", "/lib32", "/lib64", "/media", "/mnt", "/opt", "/root", "/sbin", "/srv", "/usr"),
    *("/usr/local", "/usr/share", "/var", "/var/backups", "/var/cache", "/var/lib", "/var/lib/containerd", "/var/lib/kubelet"),
    *("/var/local", "/var/log", "/var/mail", "/var/opt", "/var/spool"),
)  # fmt: skip
# Directories in memory, and those that are emptied at boot or by systemd-tmpfiles.
_VOLATILE = ("/dev", "/proc", "/run", "/sys", "/tmp", "/var/run", "/var/tmp")  # noqa: S108 - refused, not used
# Directories with the manifests, certificates and files of this collection, and of the kubelet and the runtime.
_TAKEN = ("/etc/kubernetes", "/var/lib/containerd", "/var/lib/kubelet")


_MADE_FROM_MEMBERS = "The run sets it from the members in the inventory: remove it"
_CLIENT_URLS = "Set etcd_address and etcd_client_port"
_PEER_URLS = "Set etcd_address and etcd_peer_port"
_CERTIFICATES = "The run issues the certificates and keeps them where kubeadm does: remove it"

# Flags that this collection sets itself, and what the user can do instead.
OWNED_FLAGS = {
    "name": "Set etcd_member_name",
    "data-dir": "Set etcd_data_dir",
    "initial-cluster": _MADE_FROM_MEMBERS,
    "initial-cluster-state": _MADE_FROM_MEMBERS,
    "initial-cluster-token": "Remove it: a new cluster gets a random token, and an existing cluster no longer needs one",
    "listen-client-urls": _CLIENT_URLS,
    "advertise-client-urls": _CLIENT_URLS,
    "listen-peer-urls": _PEER_URLS,
    "initial-advertise-peer-urls": _PEER_URLS,
    "listen-metrics-urls": "Set etcd_metrics_port and etcd_metrics_exposed",
    "cert-file": _CERTIFICATES,
    "key-file": _CERTIFICATES,
    "trusted-ca-file": _CERTIFICATES,
    "client-cert-auth": _CERTIFICATES,
    "client-cert-file": _CERTIFICATES,
    "client-key-file": _CERTIFICATES,
    "auto-tls": _CERTIFICATES,
    "peer-cert-file": _CERTIFICATES,
    "peer-key-file": _CERTIFICATES,
    "peer-trusted-ca-file": _CERTIFICATES,
    "peer-client-cert-auth": _CERTIFICATES,
    "peer-client-cert-file": _CERTIFICATES,
    "peer-client-key-file": _CERTIFICATES,
    "peer-auto-tls": _CERTIFICATES,
    "config-file": "etcd would ignore all other flags. Set the options one by one in etcd_extra_args",
    "wal-dir": "The write-ahead log would be inside the container and be lost with it. Set etcd_data_dir",
    "force-new-cluster": "It turns the member into a cluster of one at each start. Remove it",
    "discovery": _MADE_FROM_MEMBERS,
    "discovery-endpoints": _MADE_FROM_MEMBERS,
    "discovery-srv": _MADE_FROM_MEMBERS,
    # Health checks use the JSON gateway on the client port. Both flags can remove it from there.
    "enable-grpc-gateway": "The health checks of this collection need the gateway on the client port. Remove it",
    "listen-client-http-urls": "The health checks of this collection need the gateway on the client port. Remove it",
}


def shown(value: Any) -> str:
    """A value for a message, quoted, and shortened if it is long."""
    text = repr(value if isinstance(value, (int, float, list, tuple, Mapping)) or value is None else str(value))
    return text if len(text) <= 80 else f"{text[:60]}… ({len(text)} characters)"


def plain(value: Any) -> str:
    """A value for a message, without quotes if it is short and printable."""
    text = str(value)
    return text if text.isprintable() and len(text) <= 80 else shown(text)


def is_address(text: object) -> bool:
    """Whether a text is an IPv4 or IPv6 address."""
    try:
        ipaddress.ip_address(str(text))
    except ValueError:
        return False
    return True


def object_in(text: str) -> dict[str, Any]:
    """The object that a text in JSON is. ValueError if it is none, or is nested without end."""
    try:
        data = json.loads(text)
    except RecursionError as exc:
        raise ValueError("it is nested too deeply") from exc
    if not isinstance(data, dict):
        raise ValueError("it is not a mapping")
    return data


def same_address(one: str, other: str) -> bool:
    """Whether two texts are the same address: an IPv6 address has many spellings."""
    if one == other or ":" not in one + other:
        return one == other
    return is_address(one) and is_address(other) and ipaddress.ip_address(one) == ipaddress.ip_address(other)


def place_of(url: str) -> tuple[str, str]:
    """Host (without brackets) and port of a URL."""
    host, *port = url.rsplit("://", 1)[-1].split("/", 1)[0].rsplit(":", 1)
    return host.strip("[]"), "".join(port)


def is_at(urls: Iterable[str], address: str) -> bool:
    """Whether one of these URLs has this address, in any spelling."""
    return any(same_address(place_of(url)[0], address) for url in urls)


def address_problems(address: str) -> list[str]:
    """Why an address cannot be the address of a member."""
    if "{{" in address:
        return [
            f"etcd_address {shown(address)} was not resolved: facts are not gathered before the variable is read. Write the address, or remove"
            " the variable to use the address of the default route."
        ]
    if not is_address(address):
        return [
            f"etcd_address {shown(address)} is not an IP address. kubeadm accepts no names here: write the address."
        ]
    parsed = ipaddress.ip_address(address)
    for bad, words in (
        (parsed.is_unspecified, "stands for all addresses"),
        (parsed.is_loopback, "is a loopback address: the other members cannot reach it"),
        (parsed.is_multicast, "is a multicast address"),
        (parsed.is_link_local, "is link-local: the other members cannot use it"),
    ):
        if bad:
            return [f"etcd_address {address} {words}. Write the address at which the other members reach this host."]
    return []


def cluster_name_problems(variable: str, name: Any) -> list[str]:
    """Why a text cannot be the name of a cluster."""
    if _CLUSTER_NAME.fullmatch(str(name)):
        return []
    return [
        f"{variable} {shown(name)} is invalid: directories on the controller are named after the cluster. Write up to 63 letters, digits,"
        " '-', '_' and '.', beginning and ending with a letter or digit."
    ]


def text_problems(variable: str, text: Any) -> list[str]:
    """Why a text is not one line of usable length."""
    if not str(text).isprintable():
        return [f"{variable} {shown(text)} contains a line break or another control character. Write one line."]
    if len(str(text)) > _LONGEST_TEXT:
        return [f"{variable} has {len(str(text))} characters. Write at most {_LONGEST_TEXT}."]
    return []


def needed_text_problems(variable: str, text: Any) -> list[str]:
    """As text_problems, for a value that must not be empty."""
    if not str(text).strip():
        return [f"{variable} is empty. Write a text, or remove the variable."]
    return text_problems(variable, text)


def port_problems(variable: str, port: Any) -> list[str]:
    """Why a value is not a TCP port."""
    if re.fullmatch(r"[0-9]{1,5}", str(port)) and 0 < int(str(port)) < 65536:
        return []
    return [f"{variable} {shown(port)} is not a port. Write a number from 1 to 65535."]


def timeout_problems(variable: str, seconds: Any) -> list[str]:
    """Why a value is not a timeout in seconds, of one day at most."""
    if re.fullmatch(r"[0-9]{1,5}", str(seconds)) and 0 < int(str(seconds)) <= 86400:
        return []
    return [f"{variable} {shown(seconds)} is invalid. Write whole seconds, from 1 to 86400."]


def cluster_named_problems(variable: str, name: Any) -> list[str]:
    """Why a value cannot name a cluster; it may be empty."""
    return cluster_name_problems(variable, name) if name else []


def schedule_problems(variable: str, text: Any) -> list[str]:
    """Why a text cannot be an OnCalendar expression. systemd itself judges it on the host."""
    if isinstance(text, str) and re.fullmatch(r"[A-Za-z0-9*.,:/ ~_+-]{0,200}", text):
        return []
    return [
        f"{variable} {shown(text)} is not an OnCalendar expression of systemd. Write for example hourly, or *-*-* 00/4:15:00."
    ]


def count_problems(variable: str, count: Any) -> list[str]:
    """Why a value is not a count, 0 included."""
    if re.fullmatch(r"[0-9]{1,5}", str(count)):
        return []
    return [f"{variable} {shown(count)} is not a number. Write a whole number from 0 to 99999; 0 is no limit."]


def argv_problems(variable: str, argv: Any) -> list[str]:
    """Why a value is not a command that gets a file: a list of texts, one of which has {file} in it."""
    if not isinstance(argv, list) or any(not isinstance(item, (str, int)) or not str(item) for item in argv):
        return [
            f"{variable} {shown(argv)} is not a list of arguments. Write for example [rclone, copy, '{{file}}', 'remote:etcd']."
        ]
    if argv and not any("{file}" in str(item) for item in argv):
        return [
            f"{variable} has no {{file}}, so the command would not know the snapshot. Write {{file}} in the place of its path."
        ]
    return []


def percent_problems(variable: str, percent: Any) -> list[str]:
    """Why a value is not a part in percent."""
    if re.fullmatch(r"[0-9]{1,3}", str(percent)) and int(str(percent)) <= 100:
        return []
    return [f"{variable} {shown(percent)} is invalid. Write a whole number, from 0 to 100."]


def revisions_problems(variable: str, number: Any) -> list[str]:
    """Why a value is not a number of revisions."""
    if re.fullmatch(r"[0-9]{1,18}", str(number)):
        return []
    return [f"{variable} {shown(number)} is invalid. Write a whole number, for example 1000."]


def version_problems(variable: str, text: Any) -> list[str]:
    """Why a text is not a version of Kubernetes as kubeadm prints it."""
    if text in ("", None) or VERSION.fullmatch(str(text)):
        return []
    return [f"{variable} {shown(text)} is not a version. Write the full version, for example v1.36.3."]


def repository_problems(variable: str, text: Any) -> list[str]:
    """Why a text is not the registry and path of an image."""
    if text in ("", None) or (_REPOSITORY.fullmatch(str(text)) and len(str(text)) <= 255):
        return []
    return [
        f"{variable} {shown(text)} is not an image repository. Write host and path, without a scheme or a trailing slash, for example"
        " registry.example.com/k8s."
    ]


def tag_problems(variable: str, text: Any) -> list[str]:
    """Why a text is not the tag of an image, with or without a digest."""
    if text in ("", None) or _IMAGE_TAG.fullmatch(str(text)):
        return []
    return [f"{variable} {shown(text)} is not an image tag. Write a tag, for example 3.6.8-0."]


def downgrade_problems(variable: str, text: Any) -> list[str]:
    """Why a text is not the minor version that etcd goes back to."""
    if text in ("", None, CANCEL) or re.fullmatch(r"[0-9]+\.[0-9]+", str(text)):
        return []
    return [
        f"{variable} {shown(text)} is invalid. Write the minor version that etcd goes back to, for example 3.6, or {CANCEL}."
    ]


def endpoint_problems(variable: str, text: Any) -> list[str]:
    """Why a text is not the socket of a container runtime: a path, or a unix:// URL."""
    path = str(text)[len("unix://") :] if str(text).startswith("unix://") else str(text)
    if path.startswith("/") and path.isprintable() and " " not in path and len(path.encode()) <= _LONGEST_SOCKET:
        return []
    return [
        f"{variable} {shown(text)} is not the socket of a container runtime. Write unix:// and an absolute path of at most"
        f" {_LONGEST_SOCKET} bytes, for example unix:///run/containerd/containerd.sock."
    ]


def san_problems(variable: str, sans: list[str]) -> list[str]:
    """Invalid names and addresses for certificates. kubeadm fails at every command if one is invalid."""
    return [
        f"{variable}: {shown(san)} is neither an IP address nor a DNS name in lower case. Write, for example,"
        f" {'etcd.example.com' if not _DNS_SAN.fullmatch(san.lower()) or len(san) > 253 else san.lower()}."
        for san in map(str, sans)
        if not is_address(san) and not (_DNS_SAN.fullmatch(san) and len(san) <= 253)
    ]


def duration_seconds(text: str) -> float | None:
    """Seconds of a Go duration in hours, minutes and seconds; None if the text is not a duration."""
    if not _DURATION.fullmatch(text):
        return None
    return sum(float(number) * _SECONDS[unit] for number, unit in re.findall(r"([0-9.]+)([hms])", text))


def duration_problems(variable: str, text: Any) -> list[str]:
    """Why a text is not a period: not a Go duration, zero, or longer than Go can represent."""
    seconds = duration_seconds(str(text))
    if seconds is not None and 0 < seconds < _LONGEST_DURATION:
        return []
    return [f"{variable} {shown(text)} is not a period. Write hours, for example 8760h for a year."]


def startup_problems(variable: str, text: Any) -> list[str]:
    """Why a text is not a time that etcd may take to start: a duration, or empty."""
    seconds = duration_seconds(str(text)) if text not in ("", None) else 1.0
    if seconds is not None and 0 < seconds <= 86400:
        return []
    return [f"{variable} {shown(text)} is invalid. Write minutes or hours up to 24h, for example 15m, or remove it."]


def values_of(value: Any) -> list[Any]:
    """The values of one entry of extra_args: a list is a repeated flag."""
    return list(value) if isinstance(value, (list, tuple)) else [value]


def scalar_text(value: Any) -> str:
    """A YAML scalar as etcd reads it in a flag or an environment variable."""
    return json.dumps(value) if isinstance(value, bool) else str(value)


def scalar_problems(where: str, values: list[Any], may_be_empty: bool) -> list[str]:
    """Values that are not scalars on one line, or are empty. kubeadm writes them all the same, and etcd does not start."""
    problems = []
    for value in values or [""]:
        if value is not None and not isinstance(value, (str, int, float)):
            problems.append(f"{where} is the {type(value).__name__} {shown(value)}. Write a text or a number.")
        elif value is None or (value == "" and not may_be_empty):
            problems.append(f"{where} has no value. Write a value, or remove the entry.")
        elif not scalar_text(value).isprintable():
            problems.append(
                f"{where} contains a line break or another control character: {shown(value)}. Write one line."
            )
    return problems


def flag_name_problems(name: Any) -> list[str]:
    """Why etcd_extra_args must not set this flag, or cannot."""
    where, bare = f"etcd_extra_args.{name}", str(name).lstrip("-")
    if not bare:
        return ["etcd_extra_args has an entry without a name. Write it as flag: value."]
    if bare != str(name):
        return [f"{where} has leading dashes. Write {bare}, without them."]
    if not _FLAG.fullmatch(bare):
        return [f"{where} is not a flag of etcd. Write lower-case letters, digits and '-'."]
    if bare in OWNED_FLAGS:
        return [f"{where} must not be set. {OWNED_FLAGS[bare]}."]
    return []


def flag_value_problems(variable: str, value: Any) -> list[str]:
    """The value of a variable that is a flag of etcd. What kind of value the flag takes, etcd knows."""
    if re.fullmatch(r"[ -~]{0,1000}", str(value)):
        return []
    return [f"{variable} is {shown(str(value))}. Write a number, a duration or a text in ASCII, on one line."]


def flag_of(variable: Any) -> str:
    """The flag that an environment variable of etcd sets; empty if it sets none."""
    text = str(variable)
    return text[len("ETCD_") :].lower().replace("_", "-") if text.startswith("ETCD_") else ""


def flags_problems(variable: str, flags: Any) -> list[str]:
    """Invalid entries of etcd_extra_args, whatever etcd's version. variable: the name to report."""
    problems = []
    for name, value in flags.items():
        problems += flag_name_problems(name) or scalar_problems(
            f"{variable}.{name}", values_of(value), may_be_empty=False
        )
    return problems


def environment_problems(variable: str, envs: Any) -> list[str]:
    """Invalid entries of etcd_extra_envs, whatever etcd's version. Values are not shown: some are secrets."""
    problems = []
    for name, value in envs.items():
        where = f"{variable}.{name}"
        if not _ENVIRONMENT.fullmatch(str(name)):
            problems.append(
                f"{where}: {shown(str(name))} is not the name of an environment variable. Write letters, digits and '_'."
            )
        elif flag_of(name) in OWNED_FLAGS:
            flag = flag_of(name)
            problems.append(f"{where} sets the flag --{flag}, which must not be set. {OWNED_FLAGS[flag]}.")
        elif value is not None and not isinstance(value, (str, int, float)):
            problems.append(f"{where} has a value of type {type(value).__name__}. Write a text or a number.")
        elif value is None:
            problems.append(f"{where} has no value. Write a value, or remove the entry.")
        elif not scalar_text(value).isprintable():
            problems.append(f"{where} contains a line break or another control character. Write one line.")
    return problems


def fields_problems(variable: str, fields: Any) -> list[str]:
    """Keys of a mapping that cannot be fields of a configuration."""
    return [
        f"{variable}: {shown(name)} is not the name of a field. Write letters, for example maxPods: 10."
        for name in fields
        if not re.fullmatch(r"[A-Za-z]{1,100}", str(name))
    ]


def directory_problems(variable: str, path: Any, example: str) -> list[str]:
    """Why a text is not the absolute path of a directory that can stand unquoted in YAML."""
    text = str(path)
    if (
        os.path.isabs(text)
        and text.isprintable()
        and text == text.strip()
        and os.path.normpath(text).strip("/")
        and len(text) < 256
        # kubeadm would quote such a path in the manifest, and the kubelet's guard script could not read it there.
        and not set(text) & set("'\"")
        and ": " not in text
        and " #" not in text
        and not text.endswith(":")
    ):
        return []
    return [
        f"{variable} {shown(path)} is invalid. Write the absolute path of a directory, without quotes, ': ' or ' #', for example {example}."
    ]


def backup_dir_problems(variable: str, path: Any) -> list[str]:
    """Why a directory cannot be that of the snapshots."""
    return data_dir_problems(variable, path, "/var/backups/etcd", "the snapshots would be lost")


def textfile_dir_problems(variable: str, path: Any) -> list[str]:
    """Why a directory cannot be that of node_exporter's textfile collector; it may be empty, and other programs write to it too."""
    return directory_problems(variable, path, "/var/lib/prometheus/node-exporter") if str(path) else []


def data_dir_problems(
    variable: str, path: Any, example: str = "/var/lib/etcd", loss: str = "the member would lose its data"
) -> list[str]:
    """Why a directory cannot be etcd's alone. The run sets its owner and mode, so other programs must not use it."""
    problems = directory_problems(variable, path, example)
    # normpath keeps two leading slashes (POSIX).
    real = "/" + os.path.normpath(str(path)).strip("/")
    if problems:
        return problems
    if real in _SHARED_DIRECTORIES or _is_in(real, _TAKEN):
        return [
            f"{variable} {shown(path)} is a directory that other programs use, and the run would make it readable for root only. Write a"
            f" directory for etcd alone, for example {real if real in ('/mnt', '/srv', '/opt') else '/var/lib'}/etcd."
        ]
    if _is_in(real, _VOLATILE):
        return [
            f"{variable} {shown(path)} is emptied at boot: {loss}. Write a directory on a disk, for example {example}."
        ]
    return []


def _is_in(path: str, directories: tuple[str, ...]) -> bool:
    """Whether a path is one of the directories, or below one."""
    return any(path == directory or path.startswith(f"{directory}/") for directory in directories)
