# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Formats of single values: names, addresses, ports, durations, paths, flags, image tags.

The controller checks the inventory with these functions before a host sees a value, and the modules check their options with the same
ones. Each returns its complaints as sentences that name the variable and say what to write; an empty list means that the value is valid.
"""

from __future__ import annotations

import ipaddress
import json
import os
import re
from collections.abc import Mapping
from typing import Any

# RFC 1123 subdomain, as kubeadm checks nodeRegistration.name (apimachinery validation.IsDNS1123Subdomain).
_LABEL = r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"
NAME = re.compile(rf"{_LABEL}(\.{_LABEL})*")

# A value that Ansible has not converted yet: of an INI inventory, or given with -e name=value.
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

# It becomes the name of a directory on the controller, a label of Prometheus and a word in messages.
_CLUSTER_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")

# sun_path of sockaddr_un has 108 bytes, one of which ends it (unix(7)).
_LONGEST_SOCKET = 107
# PATH_MAX of Linux (limits.h); nothing else in the inventory needs to be as long.
_LONGEST_TEXT = 4096

# Directories that other programs share: etcd wants its own for itself (mode 0700).
_SHARED_DIRECTORIES = (
    *("/", "/bin", "/boot", "/etc", "/home", "/lib", "/lib32", "/lib64", "/media", "/mnt", "/opt", "/root", "/sbin", "/srv", "/usr"),
    *("/usr/local", "/usr/share", "/var", "/var/backups", "/var/cache", "/var/lib", "/var/lib/containerd", "/var/lib/kubelet"),
    *("/var/local", "/var/log", "/var/mail", "/var/opt", "/var/spool"),
)  # fmt: skip
# Nothing below these survives: memory, or emptied at boot or by systemd-tmpfiles.
_VOLATILE = ("/dev", "/proc", "/run", "/sys", "/tmp", "/var/run", "/var/tmp")  # noqa: S108 - refused, not used
# The manifests, certificates and files of this collection are there.
_TAKEN = ("/etc/kubernetes", "/var/lib/containerd", "/var/lib/kubelet")


_MADE_FROM_MEMBERS = "It is made from the members of the inventory"
_CLIENT_URLS = "Set etcd_address and etcd_client_port"
_PEER_URLS = "Set etcd_address and etcd_peer_port"
_CERTIFICATES = "This collection makes the certificates and keeps them where kubeadm has them"

# Flags that are not the user's, and what to do instead.
OWNED_FLAGS = {
    "name": "Set etcd_member_name",
    "data-dir": "Set etcd_data_dir",
    "initial-cluster": _MADE_FROM_MEMBERS,
    "initial-cluster-state": _MADE_FROM_MEMBERS,
    "initial-cluster-token": "Leave it out: a new cluster gets a random one, and a running cluster keeps its ids without it",
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
    "config-file": "With it etcd ignores all other flags; set them one by one in etcd_extra_args",
    "wal-dir": "The log would lie inside the container and be lost with it; set etcd_data_dir",
    "force-new-cluster": "It makes a cluster of one member at each start",
    "discovery": _MADE_FROM_MEMBERS,
    "discovery-endpoints": _MADE_FROM_MEMBERS,
    "discovery-srv": _MADE_FROM_MEMBERS,
    # etcd is asked about its health by the JSON gateway on the client port; both would take it away from there.
    "enable-grpc-gateway": "The health checks of this collection need the gateway on the client port",
    "listen-client-http-urls": "The health checks of this collection need the gateway on the client port",
}


def shown(value: Any) -> str:
    """A value as it stands in a message, cut if it is long."""
    text = repr(value if isinstance(value, (int, float, list, tuple, Mapping)) or value is None else str(value))
    return text if len(text) <= 80 else f"{text[:60]}… ({len(text)} characters)"


def plain(value: Any) -> str:
    """The same without quotes, if it can be read so."""
    text = str(value)
    return text if text.isprintable() and len(text) <= 80 else shown(text)


def is_address(text: object) -> bool:
    """Whether a text is an IPv4 or IPv6 address."""
    try:
        ipaddress.ip_address(str(text))
    except ValueError:
        return False
    return True


def address_problems(address: str) -> list[str]:
    """Why an address cannot be a member's."""
    if "{{" in address:
        return [
            f"etcd_address {shown(address)} was not resolved. Facts of hosts are not gathered when it is read: write the address, or leave"
            " it out to take the address of the default route."
        ]
    if not is_address(address):
        return [f"etcd_address {shown(address)} is no IP address. kubeadm takes no names here: write the address."]
    parsed = ipaddress.ip_address(address)
    for bad, words in (
        (parsed.is_unspecified, "means every address"),
        (parsed.is_loopback, "cannot be reached by the other members"),
        (parsed.is_multicast, "is a multicast address"),
        (parsed.is_link_local, "is link-local: other members cannot name it"),
    ):
        if bad:
            return [f"etcd_address {address} {words}. Write the address under which the other members reach this host."]
    return []


def cluster_name_problems(variable: str, name: Any) -> list[str]:
    """The name of a cluster."""
    if _CLUSTER_NAME.fullmatch(str(name)):
        return []
    return [
        f"{variable} {shown(name)} is invalid: directories on the controller are named after the cluster. Write up to 63 letters, digits,"
        " '-', '_' and '.', beginning and ending with a letter or digit."
    ]


def text_problems(variable: str, text: Any) -> list[str]:
    """A text on one line, of a length that something can be done with."""
    if not str(text).isprintable():
        return [f"{variable} {shown(text)} holds a line break or another control character. Write one line."]
    if len(str(text)) > _LONGEST_TEXT:
        return [f"{variable} has {len(str(text))} characters. Write at most {_LONGEST_TEXT}."]
    return []


def needed_text_problems(variable: str, text: Any) -> list[str]:
    """The same, of a value that something is named after."""
    if not str(text).strip():
        return [f"{variable} is empty. Write a text, or leave the variable out."]
    return text_problems(variable, text)


def port_problems(variable: str, port: Any) -> list[str]:
    """A TCP port."""
    if re.fullmatch(r"[0-9]{1,5}", str(port)) and 0 < int(str(port)) < 65536:
        return []
    return [f"{variable} {shown(port)} is no port. Write 1 to 65535."]


def timeout_problems(variable: str, seconds: Any) -> list[str]:
    """Seconds to wait, a day at most."""
    if re.fullmatch(r"[0-9]{1,5}", str(seconds)) and 0 < int(str(seconds)) <= 86400:
        return []
    return [f"{variable} {shown(seconds)} is invalid. Write whole seconds, from 1 to 86400."]


def version_problems(variable: str, text: Any) -> list[str]:
    """A version of Kubernetes as kubeadm prints it."""
    if text in ("", None) or VERSION.fullmatch(str(text)):
        return []
    return [f"{variable} {shown(text)} is no version. Write all of it, for example v1.36.3."]


def repository_problems(variable: str, text: Any) -> list[str]:
    """Registry and path of an image."""
    if text in ("", None) or (_REPOSITORY.fullmatch(str(text)) and len(str(text)) <= 255):
        return []
    return [
        f"{variable} {shown(text)} is no image repository. Write host and path without scheme and final slash, for example"
        " registry.example.com/k8s."
    ]


def tag_problems(variable: str, text: Any) -> list[str]:
    """Tag of an image, with or without a digest."""
    if text in ("", None) or _IMAGE_TAG.fullmatch(str(text)):
        return []
    return [f"{variable} {shown(text)} is no image tag. Write one such as 3.6.8-0."]


def endpoint_problems(variable: str, text: Any) -> list[str]:
    """The socket of a container runtime: a path, or a URL of the scheme unix."""
    path = str(text)[len("unix://") :] if str(text).startswith("unix://") else str(text)
    if path.startswith("/") and path.isprintable() and " " not in path and len(path.encode()) <= _LONGEST_SOCKET:
        return []
    return [
        f"{variable} {shown(text)} is no socket of a container runtime. Write unix:// and an absolute path of at most"
        f" {_LONGEST_SOCKET} bytes, for example unix:///run/containerd/containerd.sock."
    ]


def san_problems(variable: str, sans: list[str]) -> list[str]:
    """Names and addresses in certificates. An invalid one breaks every command of kubeadm."""
    return [
        f"{variable}: {shown(san)} is neither an IP address nor a DNS name in lower case. Write one such as"
        f" {'etcd.example.com' if not _DNS_SAN.fullmatch(san.lower()) or len(san) > 253 else san.lower()}."
        for san in map(str, sans)
        if not is_address(san) and not (_DNS_SAN.fullmatch(san) and len(san) <= 253)
    ]


def duration_seconds(text: str) -> float | None:
    """Seconds of a duration of Go in hours, minutes and seconds; None where it is none."""
    if not _DURATION.fullmatch(text):
        return None
    return sum(float(number) * _SECONDS[unit] for number, unit in re.findall(r"([0-9.]+)([hms])", text))


def duration_problems(variable: str, text: Any) -> list[str]:
    """Why a text cannot be a period: no duration of Go, zero, or longer than Go can count."""
    seconds = duration_seconds(str(text))
    if seconds is not None and 0 < seconds < _LONGEST_DURATION:
        return []
    return [f"{variable} {shown(text)} is no period. Write hours, for example 8760h for a year."]


def startup_problems(variable: str, text: Any) -> list[str]:
    """How long an etcd may take to start: a duration, or empty."""
    seconds = duration_seconds(str(text)) if text not in ("", None) else 1.0
    if seconds is not None and 0 < seconds <= 86400:
        return []
    return [f"{variable} {shown(text)} is invalid. Write minutes or hours up to 24h, for example 15m, or leave it out."]


def values_of(value: Any) -> list[Any]:
    """The values of one entry of extra_args: a list stands for a flag that is repeated."""
    return list(value) if isinstance(value, (list, tuple)) else [value]


def scalar_text(value: Any) -> str:
    """A YAML scalar as etcd reads it in a flag or variable."""
    return json.dumps(value) if isinstance(value, bool) else str(value)


def scalar_problems(where: str, values: list[Any], may_be_empty: bool) -> list[str]:
    """Scalars on one line, not empty. kubeadm writes anything, and etcd then does not start."""
    problems = []
    for value in values or [""]:
        if value is not None and not isinstance(value, (str, int, float)):
            problems.append(f"{where} is the {type(value).__name__} {shown(value)}. Write a text or a number.")
        elif value is None or (value == "" and not may_be_empty):
            problems.append(f"{where} has no value. Write one, or leave the entry out.")
        elif not scalar_text(value).isprintable():
            problems.append(f"{where} holds a line break or another control character: {shown(value)}. Write one line.")
    return problems


def flag_name_problems(name: Any) -> list[str]:
    """The name of a flag of etcd that may be set."""
    where, bare = f"etcd_extra_args.{name}", str(name).lstrip("-")
    if not bare:
        return ["etcd_extra_args has an entry without a name. Write flag: value."]
    if bare != str(name):
        return [f"{where}: write {bare}, without dashes."]
    if not _FLAG.fullmatch(bare):
        return [f"{where}: no flag of etcd is written like this. Use lower-case letters, digits and '-'."]
    if bare in OWNED_FLAGS:
        return [f"{where} cannot be set there. {OWNED_FLAGS[bare]}."]
    return []


def flag_value_problems(variable: str, value: Any) -> list[str]:
    """The value of a variable that is a flag of etcd. What kind of value the flag takes, etcd knows."""
    if re.fullmatch(r"[ -~]{0,1000}", str(value)):
        return []
    return [f"{variable} is {shown(str(value))}. Write a number, a duration or a text in ASCII, on one line."]


def flag_of(variable: Any) -> str:
    """The flag that an environment variable of etcd stands for; empty if it stands for none."""
    text = str(variable)
    return text[len("ETCD_") :].lower().replace("_", "-") if text.startswith("ETCD_") else ""


def flags_problems(variable: str, flags: Any) -> list[str]:
    """etcd_extra_args as far as it can be judged without knowing etcd's version. variable: for the table of checks."""
    problems = []
    for name, value in flags.items():
        problems += flag_name_problems(name) or scalar_problems(
            f"{variable}.{name}", values_of(value), may_be_empty=False
        )
    return problems


def environment_problems(variable: str, envs: Any) -> list[str]:
    """etcd_extra_envs as far as it can be judged without knowing etcd's version. Values are not shown: some are secrets."""
    problems = []
    for name, value in envs.items():
        where = f"{variable}.{name}"
        if not _ENVIRONMENT.fullmatch(str(name)):
            problems.append(f"{where}: {shown(str(name))} is no name of a variable. Write letters, digits and '_'.")
        elif flag_of(name) in OWNED_FLAGS:
            flag = flag_of(name)
            problems.append(f"{where} stands for the flag --{flag} and cannot be set there. {OWNED_FLAGS[flag]}.")
        elif value is not None and not isinstance(value, (str, int, float)):
            problems.append(f"{where} is the {type(value).__name__} of something. Write a text or a number.")
        elif value is None:
            problems.append(f"{where} has no value. Write one, or leave the entry out.")
        elif not scalar_text(value).isprintable():
            problems.append(f"{where} holds a line break or another control character. Write one line.")
    return problems


def fields_problems(variable: str, fields: Any) -> list[str]:
    """A mapping that is merged over a configuration: its keys are names of fields."""
    return [
        f"{variable}: {shown(name)} is no name of a field. Write letters, for example maxPods: 10."
        for name in fields
        if not re.fullmatch(r"[A-Za-z]{1,100}", str(name))
    ]


def directory_problems(variable: str, path: Any, example: str) -> list[str]:
    """A directory on a host: an absolute path, written plainly."""
    text = str(path)
    if (
        os.path.isabs(text)
        and text.isprintable()
        and text == text.strip()
        and os.path.normpath(text).strip("/")
        and len(text) < 256
        # YAML would quote it in the manifest, where the guard of the kubelet reads it.
        and not set(text) & set("'\"")
        and ": " not in text
        and " #" not in text
        and not text.endswith(":")
    ):
        return []
    return [f"{variable} {shown(path)} cannot be used. Write the absolute path of a directory, for example {example}."]


def data_dir_problems(variable: str, path: Any) -> list[str]:
    """A directory that can be etcd's alone. Owner and mode of the directory are set, so it cannot be one that others use."""
    problems = directory_problems(variable, path, "/var/lib/etcd")
    # normpath keeps two leading slashes (POSIX).
    real = "/" + os.path.normpath(str(path)).strip("/")
    if problems:
        return problems
    if real in _SHARED_DIRECTORIES or _is_in(real, _TAKEN):
        return [
            f"{variable} {shown(path)} is a directory that other programs use. etcd's data directory is made readable for root only: write"
            f" a directory of its own, for example {real if real in ('/mnt', '/srv', '/opt') else '/var/lib'}/etcd."
        ]
    if _is_in(real, _VOLATILE):
        return [
            f"{variable} {shown(path)} is emptied at boot, and the data of the member with it. Write a directory on a disk, for example"
            " /var/lib/etcd."
        ]
    return []


def _is_in(path: str, directories: tuple[str, ...]) -> bool:
    """Whether a path is one of the directories, or below one."""
    return any(path == directory or path.startswith(f"{directory}/") for directory in directories)
