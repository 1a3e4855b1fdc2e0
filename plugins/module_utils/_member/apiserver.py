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
import socket
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from ansible_collections.kubeadm.etcd.plugins.module_utils._etcd.client import EtcdClient, EtcdUnreachableError
from ansible_collections.kubeadm.etcd.plugins.module_utils._etcd.lock import (
    ClusterLock,
    Holder,
    LockError,
    cluster_lock,
)
from ansible_collections.kubeadm.etcd.plugins.module_utils._host import apiserver as _apiserver
from ansible_collections.kubeadm.etcd.plugins.module_utils._host import diagnosis
from ansible_collections.kubeadm.etcd.plugins.module_utils._host import kubeadm as _kubeadm
from ansible_collections.kubeadm.etcd.plugins.module_utils._host.apiserver import EtcdAccess
from ansible_collections.kubeadm.etcd.plugins.module_utils._host.files import read_text, replace_file
from ansible_collections.kubeadm.etcd.plugins.module_utils._member import rollout as _rollout
from ansible_collections.kubeadm.etcd.plugins.module_utils._member.turn import (
    FILE_MODE,
    hold_host_lock,
    put_manifest_back,
)
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.errors import EtcdError
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.members import bracketed
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.reasons import Reason, texts

# Options that say where things are on a control plane host.
PLACES_ARGUMENTS: dict[str, dict[str, Any]] = {
    "manifests_dir": {"type": "path", "default": "/etc/kubernetes/manifests"},
    "work_dir": {"type": "path", "default": "/etc/kubernetes/kubeadm-etcd"},
    "runtime_endpoint": {"type": "str", "default": "unix:///var/run/containerd/containerd.sock"},
    "kubeadm": {"type": "str", "default": "kubeadm"},
}

# In the work directory: the manifest before the last change. The kubelet would read it in its own directory.
PREVIOUS = f"{_apiserver.NAME}.yaml.previous"

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


@dataclass(frozen=True)
class ApiserverSpec:
    """What kube-apiserver is to use. others: URLs of the other API servers, which have to be ready. update_config: the ConfigMap too."""

    places: Places
    access: EtcdAccess
    update_config: bool
    others: Sequence[str] = ()
    timeout: float = 300.0


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
        return "" if code == 200 else f"{url}/readyz says: {_rollout.brief(said)}"

    def config_map(self, url: str) -> dict[str, Any]:
        """The ConfigMap kubeadm-config."""
        code, said = self.request(url, "GET", _CONFIG_MAP_PATH)
        if code == 404:
            raise KubernetesError(
                f"there is no ConfigMap {_apiserver.CONFIG_MAP} in kube-system. kubeadm writes it: `kubeadm init phase upload-config kubeadm --config"
                " FILE`, with the configuration that the control plane was made of"
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
            replace_file(file, content, FILE_MODE)
        yield Kubernetes((files[0], files[1], files[2]))


# --- What is there ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Seen:
    """kube-apiserver of this host. access: by its manifest. pending: why it is about to restart, or does not run. unready: why it is not ready.

    config_map: None if it could not be read, which config_problem says. config: its etcd.external.
    """

    manifest: str
    access: EtcdAccess
    process: _rollout.Process | None
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


def find_process() -> _rollout.Process | None:
    """kube-apiserver of this host; None if it does not run."""
    return _rollout.find_process(is_apiserver)


def look(places: Places) -> Seen | None:
    """kube-apiserver of this host; None if it has none."""
    manifest = read_text(places.manifest)
    if manifest is None:
        return None
    command = _kubeadm.manifest_arguments(manifest)
    process = find_process()
    problem = _rollout.process_problem(process, None, command, _apiserver.NAME)
    if process and not problem and not _rollout.younger_than(places.manifest)(process):
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
    assert seen.endpoint
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
    deadline = time.monotonic() + _rollout.PATIENCE
    seen = look(places)
    # It may be an election. Who only looks does not wait for it.
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


# --- The turn --------------------------------------------------------------------------------------------------------


def take_turn(spec: ApiserverSpec, check: bool) -> dict[str, Any]:
    """Change the access to etcd, or look what would be changed (check). Returns the module's result."""
    with contextlib.ExitStack() as stack:
        if not check:
            _rollout.check_controller()
            hold_host_lock(stack, spec.places.work_dir, 2 * spec.timeout)
        turn = ApiserverTurn(spec)
        if not check and turn.reasons:
            turn.hold_lock(stack)
            turn.act()
        return turn.result()


class ApiserverTurn:
    """One turn of the kube-apiserver of this host. It sees the host when it is made, so under the lock."""

    def __init__(self, spec: ApiserverSpec) -> None:
        self.spec = spec
        self.since = time.time()
        self.waited = 0.0
        self.look()
        # From here on, what has been done.
        self.lock: ClusterLock
        self.api: Kubernetes

    def look(self) -> None:
        """Compare the host with what is wanted. EtcdError if it must not be changed."""
        spec, places = self.spec, self.spec.places
        seen = look(places)
        if seen is None:
            raise EtcdError(f"{places.manifest} is missing: no kube-apiserver runs on this host.")
        self.seen = seen
        self.content = _apiserver.manifest_reasons(places.manifest, seen.access, spec.access)
        self.config_content = _apiserver.config_reasons(seen.config or EtcdAccess(), spec.access)
        if not spec.update_config:
            self.config_content = []
        self.wanted = seen.manifest
        self.configuration = seen.configuration
        self.reasons = [*self.content, *self.config_content]
        if not self.reasons:
            if seen.pending:
                # An earlier run was ended before kube-apiserver was proven.
                self.reasons = [Reason("apiserver", "pending", f"{_apiserver.NAME}: {seen.pending}")]
            return
        problem = change_problem(seen, places)
        if problem:
            raise EtcdError(f"kube-apiserver of this host is not changed: {problem}")
        self.configuration = _apiserver.with_access(seen.configuration, spec.access)
        if self.content:
            self.wanted = rendered(seen, spec.access, places)
            problem = _apiserver.unheeded_problem(self.wanted, spec.access)
            if problem:
                raise EtcdError(f"kube-apiserver of this host is not changed: {problem}")

    def result(self) -> dict[str, Any]:
        """What the module returns."""
        name = f"ConfigMap kube-system/{_apiserver.CONFIG_MAP}: ClusterConfiguration"
        diff = [_kubeadm.shown_diff(self.spec.places.manifest, self.seen.manifest, self.wanted)] if self.content else []
        if self.config_content:
            before, after = self.seen.configuration, self.configuration
            diff.append({"before_header": name, "after_header": name, "before": before, "after": after})
        return {
            "changed": bool(self.reasons),
            "reasons": texts(self.reasons),
            "manifest": self.spec.places.manifest,
            "waited": round(self.waited, 1),
            "diff": diff,
        }

    def hold_lock(self, stack: contextlib.ExitStack) -> None:
        """Take the cluster lock, and look again: while another run held it, that may have changed the host. No member restarts meanwhile."""
        current, wanted = self.seen.access, self.spec.access
        host = socket.gethostname()
        holder = Holder(host, f"{_apiserver.NAME} of {host}", f"restart of {_apiserver.NAME}")
        urls = list(dict.fromkeys([*wanted.servers, *current.servers]))
        self.lock = stack.enter_context(
            cluster_lock(urls, current.credentials, holder, while_waiting=_rollout.check_controller)
        )
        self.look()
        self.api = stack.enter_context(kubernetes(self.seen.kubeconfig or _apiserver.KUBECONFIGS[0]))

    def act(self) -> None:
        """Change what differs, and prove it."""
        seen, places = self.seen, self.spec.places
        if self.content:
            self._check_gate()
            self._check_lock()
            self.since = time.time()
            replace_file(os.path.join(places.work_dir, PREVIOUS), seen.manifest.encode(), FILE_MODE)
            replace_file(places.manifest, self.wanted.encode(), FILE_MODE, staging_dir=places.work_dir)
        if self.content or seen.pending:
            try:
                self.waited = self._wait_until_ready(self.wanted, seen.process if self.content else None)
            except (_rollout.AbandonedError, LockError):
                raise
            except EtcdError as exc:
                raise EtcdError(f"{exc} {self._undone()}") from exc
        if self.config_content:
            self._check_lock()
            self._write_config()

    def _check_lock(self) -> None:
        _rollout.check_controller()
        self.lock.check()

    def _check_gate(self) -> None:
        """EtcdError if an API server is not ready: this one would not prove anything, and another one has to serve meanwhile."""
        deadline = time.monotonic() + _rollout.PATIENCE
        while True:
            problems = list(filter(None, map(self.api.unreadiness, [self.seen.url, *self.spec.others])))
            if not problems:
                return
            if time.monotonic() > deadline:
                raise EtcdError(
                    f"kube-apiserver of this host is not restarted while an API server is not ready: {'; '.join(problems)}. Repair it first, and"
                    f" run again. If it has no endpoint of etcd that is alive, change {_apiserver.FLAGS['servers']} in its manifest by hand."
                )
            time.sleep(1.0)

    def _wait_until_ready(self, manifest: str, old: _rollout.Process | None) -> float:
        """Wait until kube-apiserver runs with a manifest, and is ready; seconds."""
        begin = time.monotonic()
        command = _kubeadm.manifest_arguments(manifest)
        settled = _rollout.younger_than(self.spec.places.manifest)
        watch = _rollout.Watch(self.causes)
        while True:
            _rollout.check_controller()
            process = find_process()
            problem = _rollout.process_problem(process, old, command, _apiserver.NAME) or ""
            if process and not problem and not settled(process):
                problem = f"the process (pid {process.pid}) is older than the manifest"
            problem = problem or self.api.unreadiness(self.seen.url)
            # One that has just died again has not come back.
            if not problem and find_process() == process:
                return time.monotonic() - begin
            waited = time.monotonic() - begin
            if waited > self.spec.timeout or watch.is_hopeless():
                what = f"kube-apiserver of this host is not ready after {waited:.0f} s ({problem or 'it ended again'})"
                raise EtcdError(_rollout.sentence(what, self.causes()))
            time.sleep(_rollout.POLL)

    def causes(self) -> list[diagnosis.Cause]:
        """What keeps kube-apiserver from coming up since the last act."""
        try:
            hidden = [
                value for text in (self.wanted, self.seen.manifest) for value in _kubeadm.env_values(text).values()
            ]
            return diagnosis.diagnose(
                self.since, self.spec.places.runtime_endpoint, hidden=hidden, program=_apiserver.NAME
            )
        except EtcdError:
            return []

    def _undone(self) -> str:
        """Bring back the manifest that kube-apiserver ran with, and say what became of it."""
        manifest, kept = self.spec.places.manifest, os.path.join(self.spec.places.work_dir, PREVIOUS)
        if not self.content:
            return f"The manifest before the last change is {kept}. No further control plane host has been changed."
        if read_text(manifest) != self.wanted:
            return f"{manifest} was changed since by another run or by hand. Nothing was put back; run again."
        old = find_process()
        failed = put_manifest_back(kept, manifest)
        if failed:
            return failed
        self.since = time.time()
        try:
            self._wait_until_ready(self.seen.manifest, old)
        except _rollout.AbandonedError:
            raise
        except EtcdError as exc:
            return f"The previous manifest was put back, and kube-apiserver does not come up with it either: {exc}"
        return (
            "The previous manifest was put back, and kube-apiserver is ready with it. No further control plane host has been changed. Correct the"
            " cause, and run again."
        )

    def _write_config(self) -> None:
        """Replace the ClusterConfiguration in Kubernetes, as it was read before."""
        found = self.seen.config_map or {}
        data = {**found["data"], "ClusterConfiguration": self.configuration}
        try:
            self.api.write_config_map(self.seen.url, {**found, "data": data})
        except KubernetesError as exc:
            raise EtcdError(f"kube-apiserver of this host is as wanted, but {exc}. Run again.") from exc
