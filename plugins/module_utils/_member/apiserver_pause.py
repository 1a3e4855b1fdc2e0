# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""kube-apiserver of a control plane host rests while etcd is restored: its caches are of the data before.

Whether it rests is read off the manifest, which is in the work directory meanwhile.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from urllib.parse import urlsplit

from ansible_collections.kubeadm.etcd.plugins.module_utils._host import apiserver as _apiserver
from ansible_collections.kubeadm.etcd.plugins.module_utils._host import kubeadm as _kubeadm
from ansible_collections.kubeadm.etcd.plugins.module_utils._host.files import ensure_directory, move_file, read_text
from ansible_collections.kubeadm.etcd.plugins.module_utils._member import apiserver as _seen
from ansible_collections.kubeadm.etcd.plugins.module_utils._member import rollout as _rollout
from ansible_collections.kubeadm.etcd.plugins.module_utils._member.ending import end_pod
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.errors import EtcdError
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.reasons import Reason

# The manifest, in the work directory, while kube-apiserver rests.
KEPT = f"{_apiserver.NAME}.yaml.stopped"

STOPPED = "stopped"
STATES = ("started", STOPPED)


def uses(servers: Iterable[str], addresses: Iterable[str]) -> bool:
    """Whether one of the endpoints of a kube-apiserver is at one of these addresses."""
    there = {urlsplit(url).hostname for url in servers}
    return any(address.lower() in there for address in addresses)


def pause(places: _seen.Places, addresses: Iterable[str], check: bool) -> list[Reason]:
    """Stop kube-apiserver if it uses a cluster. addresses: of the members. EtcdError if it does not end."""
    manifest = read_text(places.manifest)
    if manifest is None or not uses(_apiserver.access_in(_kubeadm.manifest_arguments(manifest)).servers, addresses):
        return []
    kept = os.path.join(places.work_dir, KEPT)
    if not check:
        ensure_directory(places.work_dir, 0o700)
        end_pod("this host", _seen.find_process, places.manifest, kept, places.runtime_endpoint, _apiserver.NAME)
    return [Reason("apiserver", "stopped", f"kube-apiserver stops: {places.manifest} is moved to {kept}")]


def resume(places: _seen.Places, timeout: float, check: bool) -> list[Reason]:
    """Start a kube-apiserver that was stopped by pause, and wait until it is ready. EtcdError if it is not in time."""
    kept = os.path.join(places.work_dir, KEPT)
    if not os.path.exists(kept) or os.path.exists(places.manifest):
        return []
    if not check:
        move_file(kept, places.manifest)
        deadline = time.monotonic() + timeout
        while True:
            _rollout.check_controller()
            seen = _seen.look(places)
            problem = (seen.pending or seen.unready) if seen else "its manifest was removed"
            if not problem:
                break
            if time.monotonic() > deadline:
                raise EtcdError(
                    f"kube-apiserver of this host was started again, and is not ready after {timeout:.0f} s: {problem}. Look at `crictl logs` and"
                    " `journalctl -u kubelet` on this host."
                )
            time.sleep(1.0)
    return [Reason("apiserver", "started", f"kube-apiserver starts: {places.manifest} is back")]
