# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The manifest of a kube-apiserver made by kubeadm, and the ClusterConfiguration it was made of: what they say of etcd, and what differs.

Runs on control plane hosts. kubeadm renders the manifest. Only what it says of etcd is changed here.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from ansible_collections.kubeadm.etcd.plugins.module_utils._host.files import read_text
from ansible_collections.kubeadm.etcd.plugins.module_utils._host.kubeadm import (
    by_flag,
    complaint,
    differing_lines,
    manifest_arguments,
    parse_scalar,
    run_kubeadm,
    split_manifest,
    without_values,
)
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.errors import EtcdError
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.reasons import Reason

# Options that say where things are on a control plane host.
PLACES_ARGUMENTS: dict[str, dict[str, Any]] = {
    "manifests_dir": {"type": "path", "default": "/etc/kubernetes/manifests"},
    "work_dir": {"type": "path", "default": "/etc/kubernetes/kubeadm-etcd"},
    "runtime_endpoint": {"type": "str", "default": "unix:///var/run/containerd/containerd.sock"},
    "kubeadm": {"type": "str", "default": "kubeadm"},
}

# Name of the manifest, the pod's component, the container and the program.
NAME = "kube-apiserver"

# Where kubeadm keeps the ClusterConfiguration in Kubernetes. `kubeadm join` and `kubeadm upgrade` make manifests of it.
CONFIG_MAP = "kubeadm-config"

# The code of the reason that the ConfigMap differs.
CONFIG = "kubeadm-config"

# kubeadm writes here where the API server of a host listens.
_ENDPOINT = re.compile(r"^    kubeadm\.kubernetes\.io/kube-apiserver\.advertise-address\.endpoint: (.+)$", re.MULTILINE)


@dataclass(frozen=True)
class EtcdAccess:
    """How a kube-apiserver reaches etcd: URLs, and files of the CA, the certificate and the key ('' if it uses none)."""

    servers: tuple[str, ...] = ()
    ca: str = ""
    cert: str = ""
    key: str = ""

    def as_dict(self) -> dict[str, Any]:
        """As plain data."""
        return {**asdict(self), "servers": list(self.servers)}

    @property
    def credentials(self) -> tuple[str, str, str]:
        """Files of CA, certificate and key."""
        return self.ca, self.cert, self.key


# What kubeadm makes of etcd.external: a flag by each field.
FLAGS = {"servers": "--etcd-servers", "ca": "--etcd-cafile", "cert": "--etcd-certfile", "key": "--etcd-keyfile"}
_FIELDS = {"servers": "endpoints", "ca": "caFile", "cert": "certFile", "key": "keyFile"}


# --- The manifest ----------------------------------------------------------------------------------------------------


def access_in(arguments: Iterable[str]) -> EtcdAccess:
    """What a command line of kube-apiserver says of etcd."""
    flags = by_flag(list(arguments))

    def value(name: str) -> str:
        return ",".join(flags.get(FLAGS[name], []))

    servers = tuple(url for url in value("servers").split(",") if url)
    return EtcdAccess(servers, value("ca"), value("cert"), value("key"))


def changes(before: EtcdAccess, wanted: EtcdAccess, names: dict[str, str]) -> list[str]:
    """What of one access has to become another, one line each. The order of the URLs means nothing. names: how to call each field."""
    found = []
    for field, name in names.items():
        old, new = getattr(before, field), getattr(wanted, field)
        if field == "servers":
            if sorted(old) == sorted(new):
                continue
            old, new = ",".join(old), ",".join(new)
        if old != new:
            found.append(f"{name}: {old or '(none)'} -> {new}")
    return found


def manifest_reasons(path: str, before: EtcdAccess, wanted: EtcdAccess) -> list[Reason]:
    """Why the manifest has to change."""
    return [Reason("apiserver", "flag", f"{path}: {text}", restarts=True) for text in changes(before, wanted, FLAGS)]


def outdated_reason(path: str) -> Reason:
    """Why a kube-apiserver that was started before the CA of etcd was written is restarted."""
    return Reason("apiserver", "ca", f"{NAME}: is restarted to trust what {path} holds", restarts=True)


def config_reasons(before: EtcdAccess, wanted: EtcdAccess) -> list[Reason]:
    """Why the ClusterConfiguration in Kubernetes has to change."""
    names = {field: f"etcd.external.{name}" for field, name in _FIELDS.items()}
    return [Reason("apiserver", CONFIG, f"ConfigMap {CONFIG_MAP}: {text}") for text in changes(before, wanted, names)]


def endpoint_in(manifest: str) -> tuple[str, int]:
    """Address and port of the API server of a host. EtcdError if kubeadm has not written them into the manifest."""
    match = _ENDPOINT.search(manifest)
    parts = re.fullmatch(r"\[?([^\]\[]+?)\]?:([0-9]+)", parse_scalar(match.group(1).strip())) if match else None
    if not parts:
        raise EtcdError(
            "the manifest of kube-apiserver does not have kubeadm's annotation advertise-address.endpoint, so kubeadm did not make it."
            f" Change {FLAGS['servers']} by hand, on one control plane host after the other."
        )
    return parts.group(1), int(parts.group(2))


def leaving_warning(path: str, access: EtcdAccess, config: EtcdAccess, leaving: Iterable[str]) -> str:
    """What to say before a member leaves that a kube-apiserver uses; '' if it does not. leaving: client URLs of the member."""
    used = [url for url in leaving if url in access.servers]
    listed = [url for url in leaving if url in config.servers]
    if not used and not listed:
        return ""
    where = [*([f"{path} ({FLAGS['servers']})"] if used else []), *([f"ConfigMap {CONFIG_MAP}"] if listed else [])]
    text = f"kube-apiserver uses the member that leaves: {', '.join(used or listed)} is in {' and '.join(where)}."
    if used and not set(access.servers) - set(used):
        return f"{text} It has no other endpoint and would lose etcd: change it first, by hand."
    return f"{text} Afterwards run control_plane.yml with -e etcd_update_apiserver=true, or change it by hand."


def differences(manifest: str, rendered: str) -> list[str]:
    """How a manifest differs from what kubeadm has rendered, by meaning. The order of arguments means nothing."""
    command, lines = split_manifest(without_values(manifest))
    other_command, other_lines = split_manifest(without_values(rendered))
    before, after = by_flag(command), by_flag(other_command)
    found = []
    for flag in sorted({*before, *after}):
        old, new = (f"{flag}={','.join(side[flag])}" if flag in side else f"no {flag}" for side in (before, after))
        if old != new:
            found.append(f"{old} in the manifest, {new} by kubeadm")
    return found + [text.split(": ", 1)[1] for text in differing_lines("line", lines, other_lines)]


def edited_problem(path: str, found: list[str]) -> str:
    """Why a manifest is not changed that kubeadm would not write like this; '' if it would. found: see differences."""
    if not found:
        return ""
    return (
        f"{path} differs from what kubeadm renders from the ConfigMap {CONFIG_MAP}, so kubeadm would undo these changes too: {'; '.join(found)}."
        f" Correct {CONFIG_MAP} (`kubectl -n kube-system edit configmap {CONFIG_MAP}`: apiServer.extraArgs, kubernetesVersion), install the kubeadm of"
        f" the control plane's version on this host, or change {FLAGS['servers']} in the manifest by hand, on one control plane host after the"
        " other."
    )


# --- The configuration -----------------------------------------------------------------------------------------------

_ETCD = re.compile(r"^etcd:[ \t]*\n((?:[ \t]+.*\n|[ \t]*\n)*)", re.MULTILINE)
_HTTP = "httpEndpoints"
_LISTS = (_FIELDS["servers"], _HTTP)
_NOT_UNDERSTOOD = (
    f"etcd.external in ConfigMap {CONFIG_MAP} does not have the form that kubeadm writes. Change its endpoints by hand:"
    f" `kubectl -n kube-system edit configmap {CONFIG_MAP}`"
)
_API_VERSION = re.compile(r"^apiVersion: (kubeadm\.k8s\.io/\w+)$", re.MULTILINE)


def access_in_config(text: str) -> EtcdAccess:
    """etcd.external of a ClusterConfiguration, as kubeadm writes it. EtcdError for anything else."""
    fields = _external(text)
    servers = fields.get("endpoints", [])
    # kubeadm 1.36 writes the same URLs once more. Others would be for requests over plain HTTP only.
    if not servers or sorted(fields.get(_HTTP, servers)) != sorted(servers):
        raise EtcdError(_NOT_UNDERSTOOD)
    return EtcdAccess(tuple(servers), *("".join(fields.get(_FIELDS[name], [])) for name in ("ca", "cert", "key")))


def _external(text: str) -> dict[str, list[str]]:
    """Values of etcd.external by field."""
    match = _ETCD.search(text if text.endswith("\n") else f"{text}\n")
    lines = [line.rstrip() for line in (match.group(1) if match else "").splitlines() if line.strip()]
    if lines[:1] == ["  local:"]:
        raise EtcdError(
            f"ConfigMap {CONFIG_MAP} has etcd.local: the control plane runs an etcd of its own (stacked). Moving its data to another cluster is not done"
            " here."
        )
    fields: dict[str, list[str]] = {}
    field = ""
    understood = lines[:1] == ["  external:"]
    for line in lines[1:]:
        item = re.fullmatch(r" {4}(?:  )?- (.+)", line)
        pair = re.fullmatch(r" {4}(\w+):(?: (.+))?", line)
        if item and field in _LISTS:
            fields[field].append(parse_scalar(item.group(1)))
        elif pair and pair.group(1) in (*_FIELDS.values(), _HTTP) and pair.group(1) not in fields:
            field = pair.group(1)
            fields[field] = [parse_scalar(pair.group(2))] if pair.group(2) else []
        else:
            understood = False
    if not understood:
        raise EtcdError(_NOT_UNDERSTOOD)
    return fields


def with_access(text: str, access: EtcdAccess) -> str:
    """A ClusterConfiguration with another etcd.external. All other lines stay. EtcdError as for access_in_config."""
    access_in_config(text)
    urls = [f"    - {url}" for url in access.servers]
    lines = ["etcd:", "  external:"]
    lines += [f"    {_FIELDS[name]}: {getattr(access, name)}" for name in ("ca", "cert") if getattr(access, name)]
    lines += ["    endpoints:", *urls]
    lines += [f"    {_HTTP}:", *urls] if _HTTP in _external(text) else []
    lines += [f"    {_FIELDS['key']}: {access.key}"] if access.key else []
    whole = text if text.endswith("\n") else f"{text}\n"
    return _ETCD.sub(lambda _match: "\n".join(lines) + "\n", whole, count=1)


def render(cluster_configuration: str, endpoint: tuple[str, int], runtime_endpoint: str, program: str) -> str:
    """The manifest that kubeadm would write on this host, from a dry run in a private directory that is removed again."""
    version = _API_VERSION.search(cluster_configuration)
    config = "\n".join(
        [
            f"apiVersion: {version.group(1) if version else 'kubeadm.k8s.io/v1beta4'}",
            "kind: InitConfiguration",
            f'localAPIEndpoint: {{advertiseAddress: "{endpoint[0]}", bindPort: {endpoint[1]}}}',
            f'nodeRegistration: {{criSocket: "{runtime_endpoint}"}}',
            "---",
            cluster_configuration,
        ]
    )
    with tempfile.TemporaryDirectory(prefix="kubeadm-etcd-", dir="/run" if os.path.isdir("/run") else None) as private:
        directory = os.path.join(private, "manifests")
        argv = [program, "init", "phase", "control-plane", "apiserver", "--dry-run", "--config", "/dev/stdin"]
        said = run_kubeadm(argv, config, {"KUBEADM_INIT_DRYRUN_DIR": directory})
        manifest = read_text(os.path.join(directory, f"{NAME}.yaml"))
    if not manifest:
        raise EtcdError(f"`{' '.join(argv)}` wrote no manifest: {complaint(said)}")
    return manifest


def unheeded_problem(rendered: str, wanted: EtcdAccess) -> str:
    """Why kubeadm does not render what etcd.external says; '' if it does."""
    found = changes(access_in(manifest_arguments(rendered)), wanted, FLAGS)
    if not found:
        return ""
    return (
        f"kubeadm overrides etcd.external of ConfigMap {CONFIG_MAP} ({'; '.join(found)}). Remove these flags from apiServer.extraArgs in the"
        " ConfigMap, and run again."
    )


# --- Credentials -----------------------------------------------------------------------------------------------------

# Where kubeadm leaves credentials of an administrator on a control plane host. The second is on the first host only.
KUBECONFIGS = ("/etc/kubernetes/admin.conf", "/etc/kubernetes/super-admin.conf")

_CREDENTIALS = ("certificate-authority", "client-certificate", "client-key")


def credentials_in(kubeconfig: str) -> dict[str, str]:
    """Base64 text of the CA, the certificate and the key that a kubeconfig of kubeadm holds. EtcdError if it does not hold all of them."""
    found = {
        name: match.group(1)
        for name in _CREDENTIALS
        for match in [re.search(rf"^ +{name}-data: ([A-Za-z0-9+/=]+)$", kubeconfig, re.MULTILINE)]
        if match
    }
    if len(found) != len(_CREDENTIALS):
        raise EtcdError(f"it does not contain {', '.join(name for name in _CREDENTIALS if name not in found)}")
    return found
