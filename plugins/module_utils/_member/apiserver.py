# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""kube-apiserver of a control plane host: how it reaches etcd, and a turn that changes that. Lock, gate, act, prove, undo if that fails, unlock.

kubeadm renders the manifest of its own ClusterConfiguration, which the ConfigMap kubeadm-config holds. It is rendered twice: with what the
manifest says of etcd now, which has to be the manifest as it is, and with what it is to say. So nothing but the access to etcd changes. The
ConfigMap is changed after kube-apiserver was proven, so it never has what no kube-apiserver came up with.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from ansible_collections.kubeadm.etcd.plugins.module_utils._etcd.client import (
    EtcdClient,
    EtcdUnreachableError,
    failed_checks,
)
from ansible_collections.kubeadm.etcd.plugins.module_utils._host import apiserver as _apiserver
from ansible_collections.kubeadm.etcd.plugins.module_utils._host import kubeadm as _kubeadm
from ansible_collections.kubeadm.etcd.plugins.module_utils._host.apiserver import PLACES_ARGUMENTS, EtcdAccess
from ansible_collections.kubeadm.etcd.plugins.module_utils._host.facts import process_started
from ansible_collections.kubeadm.etcd.plugins.module_utils._host.files import read_text, replace_file
from ansible_collections.kubeadm.etcd.plugins.module_utils._member import processes as _processes
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.errors import EtcdError
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.members import bracketed

# For one answer of kube-apiserver, and of an etcd that may be gone.
ANSWER = 5.0
ETCD_ANSWER = 2.0

_NO_KUBECONFIG = f"there is no {_apiserver.KUBECONFIGS[0]} to ask kube-apiserver with"
_CONFIG_MAP_PATH = f"/api/v1/namespaces/kube-system/configmaps/{_apiserver.CONFIG_MAP}"


@dataclass(frozen=True)
class Places:
    """Where things are on a control plane host: the options of PLACES_ARGUMENTS."""

    manifests_dir: str
    work_dir: str
    runtime_endpoint: str
    kubeadm: str

    @property
    def manifest(self) -> str:
        """Path of the manifest."""
        return os.path.join(self.manifests_dir, f"{_apiserver.NAME}.yaml")


def places_of(params: Mapping[str, Any]) -> Places:
    """From the options of a module."""
    return Places(**{name: params[name] for name in PLACES_ARGUMENTS})


# --- Kubernetes ------------------------------------------------------------------------------------------------------


class KubernetesError(EtcdError):
    """kube-apiserver did not give the answer. The text says why."""


class Kubernetes:
    """API servers of a cluster, asked with the credentials of an administrator that are on this host."""

    def __init__(self, files: tuple[str, str, str]) -> None:
        self.files = files

    def request(self, url: str, method: str, path: str, body: dict[str, Any] | None = None) -> tuple[int, str]:
        """Status and text of one answer."""
        try:
            with EtcdClient(url, *self.files, timeout=ANSWER) as client:
                return client.request(method, path, body)
        except EtcdUnreachableError as exc:
            # The client's texts are about etcd.
            raise KubernetesError(f"kube-apiserver at {url} does not answer ({exc.code})") from exc

    def unreadiness(self, url: str) -> str:
        """Why an API server is not ready; '' if it is."""
        try:
            code, said = self.request(url, "GET", "/readyz")
        except KubernetesError as exc:
            return str(exc)
        return "" if code == 200 else f"{url}/readyz says: {failed_checks(said)}"

    def config_map(self, url: str) -> dict[str, Any]:
        """The ConfigMap kubeadm-config."""
        code, said = self.request(url, "GET", _CONFIG_MAP_PATH)
        if code == 404:
            raise KubernetesError(
                f"there is no ConfigMap {_apiserver.CONFIG_MAP} in kube-system. kubeadm writes it: `kubeadm init phase upload-config kubeadm --config"
                " FILE`, with the configuration of this control plane"
            )
        return self._parsed(code, said)

    def write_config_map(self, url: str, content: dict[str, Any]) -> None:
        """Replace it. Refused by kube-apiserver if it was changed since it was read (resourceVersion)."""
        self._parsed(*self.request(url, "PUT", _CONFIG_MAP_PATH, content))

    def _parsed(self, code: int, said: str) -> dict[str, Any]:
        try:
            found = json.loads(said)
        except ValueError:
            found = {}
        if code != 200 or not isinstance(found, dict):
            told = found.get("message") if isinstance(found, dict) else ""
            raise KubernetesError(
                f"ConfigMap {_apiserver.CONFIG_MAP}: kube-apiserver answers {code}: {told or said[:200]}"
            )
        return found


@contextlib.contextmanager
def kubernetes(path: str) -> Iterator[Kubernetes]:
    """Kubernetes, by the credentials of a kubeconfig. They are in a private directory for as long as that takes. KubernetesError."""
    try:
        found = _apiserver.credentials_in(read_text(path) or "")
        contents = [base64.b64decode(text) for text in found.values()]
    except (EtcdError, ValueError) as exc:
        raise KubernetesError(f"{path} cannot be used: {exc}") from exc
    with tempfile.TemporaryDirectory(prefix="kubeadm-etcd-", dir="/run" if os.path.isdir("/run") else None) as private:
        files = [os.path.join(private, name) for name in found]
        for file, content in zip(files, contents):
            replace_file(file, content, 0o600)
        yield Kubernetes((files[0], files[1], files[2]))


# --- What is there ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Seen:
    """kube-apiserver of this host. access: by its manifest. pending: why it is about to restart, or does not run. unready: why it is not ready.

    config_map: None if it could not be read, which config_problem says. config: its etcd.external.
    """

    manifest: str
    access: EtcdAccess
    process: _processes.Process | None
    pending: str
    endpoint: tuple[str, int] | None
    unready: str
    kubeconfig: str
    config_map: dict[str, Any] | None
    config: EtcdAccess | None
    config_problem: str

    @property
    def url(self) -> str:
        """Where the API server of this host listens; '' if that is not known."""
        return f"https://{bracketed(self.endpoint[0])}:{self.endpoint[1]}" if self.endpoint else ""

    @property
    def configuration(self) -> str:
        """The ClusterConfiguration; '' if there is none."""
        return str(((self.config_map or {}).get("data") or {}).get("ClusterConfiguration", ""))


def is_apiserver(argv: list[str]) -> bool:
    """Whether a command line is that of a kube-apiserver."""
    return bool(argv) and os.path.basename(argv[0]) == _apiserver.NAME


def find_process() -> _processes.Process | None:
    """kube-apiserver of this host; None if it does not run."""
    return _processes.find_process(is_apiserver)


def look(places: Places) -> Seen | None:
    """kube-apiserver of this host; None if it has none."""
    manifest = read_text(places.manifest)
    if manifest is None:
        return None
    command = _kubeadm.manifest_arguments(manifest)
    process = find_process()
    problem = _processes.process_problem(process, None, command, _apiserver.NAME)
    if process and not problem and not _processes.younger_than(places.manifest)(process):
        problem = f"the process (pid {process.pid}) is older than {places.manifest}, which was just replaced"
    try:
        endpoint = _apiserver.endpoint_in(manifest)
        config_problem = ""
    except EtcdError as exc:
        endpoint, config_problem = None, str(exc)
    seen = Seen(
        manifest, _apiserver.access_in(command), process, problem or "", endpoint, "", "", None, None, config_problem
    )
    return ask(seen) if endpoint else seen


def ask(seen: Seen) -> Seen:
    """The same, with what kube-apiserver answers. The first kubeconfig whose user may read the ConfigMap is used."""
    there = [path for path in _apiserver.KUBECONFIGS if os.path.exists(path)]
    if not there:
        return replace(seen, unready=_NO_KUBECONFIG, config_problem=_NO_KUBECONFIG)
    found = []
    for path in there:
        asked = replace(seen, kubeconfig=path)
        try:
            with kubernetes(path) as api:
                asked = replace(asked, unready=api.unreadiness(seen.url))
                asked = replace(asked, config_map=api.config_map(seen.url))
            return replace(asked, config=_apiserver.access_in_config(asked.configuration))
        except EtcdError as exc:
            found.append(replace(asked, config_problem=str(exc)))
    # What the first one says, unless the second one had more to say.
    return max(found, key=lambda item: item.config_map is not None)


def rendered(seen: Seen, access: EtcdAccess, places: Places) -> str:
    """The manifest that kubeadm makes of the ClusterConfiguration with this access to etcd."""
    if seen.endpoint is None:
        raise AssertionError("no kube-apiserver was seen")
    text = _apiserver.with_access(seen.configuration, access)
    return _apiserver.render(text, seen.endpoint, places.runtime_endpoint, places.kubeadm)


def change_problem(seen: Seen, places: Places) -> str:
    """Why the access to etcd cannot be changed here, as far as that is known without the wanted one; '' if it can."""
    if seen.config_problem:
        return seen.config_problem
    try:
        found = _apiserver.differences(seen.manifest, rendered(seen, seen.access, places))
    except EtcdError as exc:
        return str(exc)
    return _apiserver.edited_problem(places.manifest, found)


def observe(places: Places, updates: bool, client_port: int) -> dict[str, Any] | None:
    """What etcd_host_info returns; None if the host has no kube-apiserver. updates: whether it may be changed, and so is compared with kubeadm's."""
    deadline = time.monotonic() + _processes.PATIENCE
    seen = look(places)
    # It may be an election. A look does not wait for its end.
    while updates and seen and seen.unready and seen.kubeconfig and time.monotonic() < deadline:
        time.sleep(1.0)
        seen = look(places)
    if seen is None:
        return None
    metadata = (seen.config_map or {}).get("metadata") or {}
    cluster_id, members = membership(seen.access)
    return {
        "manifest": places.manifest,
        "url": seen.url,
        "access": seen.access.as_dict(),
        "pending": seen.pending,
        "unready": seen.unready,
        "started": process_started(seen.process.pid) if seen.process else 0.0,
        "config": seen.config.as_dict() if seen.config else None,
        "config_uid": str(metadata.get("uid", "")),
        "problem": change_problem(seen, places) if updates else seen.config_problem,
        "updates": updates,
        "client_port": client_port,
        "cluster_id": cluster_id,
        "members": members,
    }


def leaving_warning(places: Places, leaving: Sequence[str]) -> str:
    """What to say on this host before a member leaves; '' if its kube-apiserver does not use it. leaving: client URLs of the member."""
    seen = look(places)
    if seen is None:
        return ""
    return _apiserver.leaving_warning(places.manifest, seen.access, seen.config or EtcdAccess(), leaving)


def membership(access: EtcdAccess) -> tuple[str, list[dict[str, Any]]]:
    """Id and members of the etcd cluster that kube-apiserver uses; '' and none if no endpoint answers."""
    for url in access.servers:
        try:
            with EtcdClient(url, *access.credentials, timeout=ETCD_ANSWER) as client:
                members = [{**asdict(member), "id": f"{member.id:x}"} for member in client.members()]
                return f"{client.status().cluster_id:x}", members
        except EtcdError:
            continue
    return "", []
