# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""One turn of the kube-apiserver of a control plane host: lock, gate, act, prove, undo. Apart from the look, which every observation loads."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

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
from ansible_collections.kubeadm.etcd.plugins.module_utils._host.facts import process_started
from ansible_collections.kubeadm.etcd.plugins.module_utils._host.files import read_text, replace_file
from ansible_collections.kubeadm.etcd.plugins.module_utils._member import apiserver as _seen
from ansible_collections.kubeadm.etcd.plugins.module_utils._member import processes as _processes
from ansible_collections.kubeadm.etcd.plugins.module_utils._member import rollout as _rollout
from ansible_collections.kubeadm.etcd.plugins.module_utils._member.turn import (
    FILE_MODE,
    SETTLES,
    changed_since,
    hold_host_lock,
    put_manifest_back,
)
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.causes import Cause
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.errors import EtcdError, system_errors
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.reasons import Reason, texts

# In the work directory: the manifest before the last change. The kubelet would read it in its own directory.
PREVIOUS = f"{_apiserver.NAME}.yaml.previous"


@dataclass(frozen=True)
class ApiserverSpec:
    """What kube-apiserver is to use. others: URLs of the other API servers, which have to be ready. update_config: the ConfigMap too.

    loads_ca: whether it is restarted if it was started before the CA of etcd was written. It reads that file when it starts.
    """

    places: _seen.Places
    access: EtcdAccess
    update_config: bool
    others: Sequence[str] = ()
    timeout: float = 300.0
    loads_ca: bool = False


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
        self.api: _seen.Kubernetes

    def look(self) -> None:
        """Compare the host with what is wanted. EtcdError if it must not be changed."""
        spec, places = self.spec, self.spec.places
        seen = _seen.look(places)
        if seen is None:
            raise EtcdError(f"{places.manifest} is missing: no kube-apiserver runs on this host.")
        self.seen = seen
        self.content = _apiserver.manifest_reasons(places.manifest, seen.access, spec.access)
        self.config_content = _apiserver.config_reasons(seen.config or EtcdAccess(), spec.access)
        if not spec.update_config:
            self.config_content = []
        self.wanted = seen.manifest
        self.configuration = seen.configuration
        self.outdated = self._outdated() if spec.loads_ca else []
        self.reasons = [*self.content, *self.config_content, *self.outdated]
        if not self.reasons:
            if seen.pending:
                # An earlier run was ended before kube-apiserver was proven.
                self.reasons = [Reason("apiserver", "pending", f"{_apiserver.NAME}: {seen.pending}")]
            return
        if not (self.content or self.config_content):
            return
        problem = _seen.change_problem(seen, places)
        if problem:
            raise EtcdError(f"kube-apiserver of this host is not changed: {problem}")
        self.configuration = _apiserver.with_access(seen.configuration, spec.access)
        if self.content:
            self.wanted = _seen.rendered(seen, spec.access, places)
            problem = _apiserver.unheeded_problem(self.wanted, spec.access)
            if problem:
                raise EtcdError(f"kube-apiserver of this host is not changed: {problem}")

    def _outdated(self) -> list[Reason]:
        """Why kube-apiserver has to be restarted although its manifest stays."""
        process, path = self.seen.process, self.seen.access.ca
        if process is None or not os.path.exists(path) or process_started(process.pid) > os.stat(path).st_ctime:
            return []
        return [_apiserver.outdated_reason(path)]

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
        self.api = stack.enter_context(_seen.kubernetes(self.seen.kubeconfig or _apiserver.KUBECONFIGS[0]))

    def act(self) -> None:
        """Change what differs, and prove it."""
        seen, places = self.seen, self.spec.places
        if self.content:
            self._check_gate()
            self._check_lock()
            self.since = time.time()
            replace_file(os.path.join(places.work_dir, PREVIOUS), seen.manifest.encode(), FILE_MODE)
            replace_file(places.manifest, self.wanted.encode(), FILE_MODE, staging_dir=places.work_dir)
        elif self.outdated and seen.process:
            self._check_gate()
            self._check_lock()
            self.since = time.time()
            _processes.stop(seen.process)
        if self.content or seen.pending or self.outdated:
            try:
                old = seen.process if self.content or self.outdated else None
                with system_errors():
                    self.waited = self._wait_until_ready(self.wanted, old)
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
        urls = [self.seen.url, *self.spec.others]
        problems = _rollout.lasting(lambda: list(filter(None, map(self.api.unreadiness, urls))))
        # A kube-apiserver that no longer trusts the members serves no requests, and then neither do the others.
        is_cut_off = not self.content and bool(self.api.unreadiness(self.seen.url))
        if problems and not is_cut_off:
            raise EtcdError(
                f"kube-apiserver of this host is not restarted while an API server is not ready: {'; '.join(problems)}. Repair it first, and"
                f" run again. If none of its etcd endpoints answers, change {_apiserver.FLAGS['servers']} in its manifest by hand."
            )

    def _wait_until_ready(self, manifest: str, old: _processes.Process | None) -> float:
        """Wait until kube-apiserver runs with a manifest, and is ready; seconds."""
        begin = time.monotonic()
        command = _kubeadm.manifest_arguments(manifest)
        settled = _processes.younger_than(self.spec.places.manifest)
        watch = _rollout.Watch(self.causes)
        while True:
            _rollout.check_controller()
            process = _seen.find_process()
            problem = _processes.process_problem(process, old, command, _apiserver.NAME) or ""
            if process and not problem and not settled(process):
                problem = f"the process (pid {process.pid}) is older than the manifest"
            problem = problem or self.api.unreadiness(self.seen.url)
            # A process that has just ended again does not count.
            if not problem and _seen.find_process() == process:
                return time.monotonic() - begin
            waited = time.monotonic() - begin
            if waited > self.spec.timeout or watch.is_hopeless():
                what = f"kube-apiserver of this host is not ready after {waited:.0f} s ({problem or 'it ended again'})"
                raise EtcdError(_rollout.sentence(what, self.causes()))
            time.sleep(_rollout.POLL)

    def causes(self) -> list[Cause]:
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
        """Restore the manifest that kube-apiserver ran with, and return the result for the message."""
        manifest, kept = self.spec.places.manifest, os.path.join(self.spec.places.work_dir, PREVIOUS)
        if not self.content and self.outdated:
            return "It was restarted to read the CA of etcd, and its manifest has not changed. No further control plane host has been changed."
        if not self.content:
            return f"The manifest before the last change is {kept}. No further control plane host has been changed."
        if read_text(manifest) != self.wanted:
            return changed_since(manifest)
        old = _seen.find_process()
        failed = put_manifest_back(kept, manifest)
        if failed:
            return failed
        self.since = time.time() + SETTLES
        try:
            self._wait_until_ready(self.seen.manifest, old)
        except _rollout.AbandonedError:
            raise
        except EtcdError as exc:
            return f"The previous manifest was put back, and kube-apiserver does not become ready with it either: {exc}"
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
        except _seen.KubernetesError as exc:
            raise EtcdError(
                f"kube-apiserver of this host runs as wanted, but the ConfigMap was not changed: {exc}. Run again."
            ) from exc
