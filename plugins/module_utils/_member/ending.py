# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""etcd is ended for good on a host, and its data is kept: for a member that has left, and for one whose join is taken back."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from ansible_collections.kubeadm.etcd.plugins.module_utils._host import cri, service
from ansible_collections.kubeadm.etcd.plugins.module_utils._host.files import move_file
from ansible_collections.kubeadm.etcd.plugins.module_utils._host.kubelet import own_pod
from ansible_collections.kubeadm.etcd.plugins.module_utils._member import processes as _processes
from ansible_collections.kubeadm.etcd.plugins.module_utils._member import rollout as _rollout
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.errors import EtcdError, reason_of

# How long the kubelet may take to end a static pod: it sees the change within 20 s, and gives the pod 30 s.
ENDS = 120.0


def end_etcd(member: str, manifest: str, kept: str, runtime_endpoint: str) -> None:
    """Move the manifest away (to kept), and wait until etcd and its pod have ended. EtcdError if they do not."""
    end_pod(member, lambda: _processes.find_etcd_process(member), manifest, kept, runtime_endpoint)


def end_pod(
    whose: str,
    find: Callable[[], _processes.Process | None],
    manifest: str,
    kept: str,
    runtime_endpoint: str,
    program: str = "etcd",
) -> None:
    """The same for any static pod of this host. whose: for messages. find: its process."""
    if os.path.exists(manifest):
        move_file(manifest, kept)
    deadline = time.monotonic() + ENDS
    is_told = False
    while True:
        process = find()
        if process is None and not _runs_pod(runtime_endpoint, program):
            return
        # Without its kubelet nothing ends it.
        if process and not is_told and not service.answers():
            _processes.stop(process)
            is_told = True
        if time.monotonic() > deadline:
            raise EtcdError(
                f"{whose}: {program} still runs {ENDS:.0f} s after its manifest was moved to {kept}. Look at `journalctl -u kubelet` and"
                f" `crictl ps --name {program}`, end it, and run again."
            )
        _rollout.check_controller()
        time.sleep(0.5)


def _runs_pod(runtime_endpoint: str, program: str) -> bool:
    """Whether the sandbox of a static pod is there. The kubelet removes it, if it runs."""
    if not service.answers():
        return False
    try:
        return any(item.state == cri.RUNNING for item in cri.sandboxes(runtime_endpoint, own_pod(program=program)))
    except EtcdError:
        return False


def archived_name(moment: float, why: str) -> str:
    """How a data directory that is kept is called after its own name. moment: Unix seconds."""
    return time.strftime(f"{why}-%Y%m%dT%H%M%SZ", time.gmtime(moment))


def has_data(data_dir: str) -> bool:
    """Whether there is something of etcd in a directory: also a link to it, or a file in its place."""
    return os.path.lexists(os.path.join(data_dir, "member"))


def archive_data(data_dir: str, moment: float, why: str = "removed") -> str:
    """Rename a data directory, so that it is kept and not used. Returns its new path; '' if there was no data.

    A volume cannot be renamed: what etcd has in it is renamed inside of it, under a name that counts as etcd's (foreign_entries).
    """
    if not has_data(data_dir):
        return ""
    path = os.path.realpath(data_dir)
    inside = os.path.join(path, "member")
    # A link would lead nowhere.
    source = inside if os.path.ismount(path) or os.path.islink(data_dir) else path
    kept = f"{source}.{archived_name(moment, why)}"
    while os.path.lexists(kept):
        moment += 1
        kept = f"{source}.{archived_name(moment, why)}"
    try:
        os.rename(source, kept)
    except OSError as exc:
        raise EtcdError(
            f"{source} cannot be renamed to {kept}: {reason_of(exc)}. Move it away, and run again."
        ) from exc
    return kept
