# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A member is restored on its host, in three steps that all hosts take together: prepare, stop, replace. site.yml starts what was restored.

What was done is read off the data: its cluster id is that of this restore (restore_token in _etcd/restore.py), or it is not. A restore does not have
the cluster's lock, so each step looks whether the host is still as the plan has seen it: another run may have restored or started it meanwhile.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ansible_collections.kubeadm.etcd.plugins.module_utils._etcd.client import probe
from ansible_collections.kubeadm.etcd.plugins.module_utils._etcd.restore import (
    SnapshotFile,
    bump_of,
    cluster_id,
    has_kubernetes,
    read_snapshot_file,
)
from ansible_collections.kubeadm.etcd.plugins.module_utils._etcd.snapshot import check_file
from ansible_collections.kubeadm.etcd.plugins.module_utils._host import diagnosis
from ansible_collections.kubeadm.etcd.plugins.module_utils._host.facts import free_bytes
from ansible_collections.kubeadm.etcd.plugins.module_utils._host.files import sync_directory
from ansible_collections.kubeadm.etcd.plugins.module_utils._host.image import image_root, run_alone
from ansible_collections.kubeadm.etcd.plugins.module_utils._host.process import Done
from ansible_collections.kubeadm.etcd.plugins.module_utils._member import processes as _processes
from ansible_collections.kubeadm.etcd.plugins.module_utils._member import rollout as _rollout
from ansible_collections.kubeadm.etcd.plugins.module_utils._member.backup import (
    READS,
    SPARE,
    describe,
    error_of,
)
from ansible_collections.kubeadm.etcd.plugins.module_utils._member.ending import archive_data, end_etcd, has_data
from ansible_collections.kubeadm.etcd.plugins.module_utils._member.staged import cluster_in, staging_of
from ansible_collections.kubeadm.etcd.plugins.module_utils._member.turn import hold_host_lock
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.errors import EtcdError, system_errors
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.members import MEMBERS_ARGUMENT, by_name, peer_url
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.reasons import Reason, reported

# The manifest of the former member, in the work directory.
FORMER_MANIFEST = "etcd.yaml.before-restore"

# etcd makes the files of its log as large as this at once (server/storage/wal/wal.go, SegmentSizeBytes): etcdutl one, and etcd the next one when it starts.
SEGMENT = 64_000_000

# Seconds for pulling the image, and for etcd to say whether it is ready.
PULLS, ANSWER = 600.0, 5.0

# Where kubeadm has etcd say whether it is ready.
METRICS = "http://127.0.0.1:2381/readyz"

PREPARE, STOP, REPLACE = STEPS = ("prepare", "stop", "replace")

RESTORE_ARGUMENTS: dict[str, Any] = {
    "snapshot": {"type": "path", "required": True},
    "token": {"type": "str", "required": True, "no_log": False},
    "member": {"type": "str", "required": True},
    "members": MEMBERS_ARGUMENT,
    "image": {"type": "str", "required": True},
    "identity": {"type": "str", "default": ""},
    "former": {"type": "str", "default": ""},
    "replace_healthy": {"type": "bool", "default": False},
    "peer_port": {"type": "int", "default": 2380},
    "data_dir": {"type": "path", "default": "/var/lib/etcd"},
    "work_dir": {"type": "path", "default": "/etc/kubernetes/kubeadm-etcd"},
    "manifests_dir": {"type": "path", "default": "/etc/kubernetes/manifests"},
    "runtime_endpoint": {"type": "str", "default": "unix:///var/run/containerd/containerd.sock"},
}


@dataclass(frozen=True)
class RestoreSpec:
    """A member that is restored. members: name and address of all. token: the initial-cluster-token. image: whose etcdutl is used.

    identity: of the snapshot that the run was planned with (SnapshotFile), '' for any. former: id of the cluster whose data the host had then, '' for
    none. replace_healthy: a member that serves may be stopped.
    """

    snapshot: str
    token: str
    member: str
    members: list[tuple[str, str]]
    image: str
    former: str = ""
    replace_healthy: bool = False
    peer_port: int = 2380
    data_dir: str = "/var/lib/etcd"
    work_dir: str = "/etc/kubernetes/kubeadm-etcd"
    manifests_dir: str = "/etc/kubernetes/manifests"
    runtime_endpoint: str = "unix:///var/run/containerd/containerd.sock"
    identity: str = ""

    @classmethod
    def from_params(cls, params: Mapping[str, Any]) -> RestoreSpec:
        """From the options of the module."""
        known = {key: params[key] for key in RESTORE_ARGUMENTS}
        return cls(**{**known, "members": by_name(params["members"])})

    @property
    def peer_urls(self) -> dict[str, str]:
        """Peer URLs of the restored cluster, by name."""
        return peer_urls_of(self.members, self.peer_port)

    @property
    def cluster_id(self) -> str:
        """The id of the restored cluster."""
        return cluster_id(self.peer_urls, self.token)

    @property
    def staging(self) -> str:
        """Where the data is restored to before it takes its place: on the same filesystem."""
        return staging_of(self.data_dir)

    @property
    def is_replaced(self) -> bool:
        """Whether the data directory has the restored data."""
        return cluster_in(self.data_dir) == self.cluster_id

    @property
    def is_prepared(self) -> bool:
        """Whether the restored data is there, complete, and only has to take its place."""
        return cluster_in(self.staging) == self.cluster_id


def peer_urls_of(members: list[tuple[str, str]], peer_port: int) -> dict[str, str]:
    """Peer URLs by name."""
    return {name: peer_url(address, peer_port) for name, address in members}


def restore(spec: RestoreSpec, step: str, check: bool) -> dict[str, Any]:
    """Take one step, or look what it would do (check). Returns the module's result."""
    if spec.is_replaced:
        return reported([])
    with contextlib.ExitStack() as stack:
        stack.enter_context(system_errors(spec.data_dir))
        if not check:
            os.makedirs(spec.work_dir, mode=0o700, exist_ok=True)
            hold_host_lock(stack, spec.work_dir)
            _rollout.check_controller()
            _check_former(spec)
        return reported({PREPARE: prepare, STOP: stop, REPLACE: replace_data}[step](spec, check))


def prepare(spec: RestoreSpec, check: bool) -> list[Reason]:
    """Restore the snapshot beside the data. Nothing is stopped, so a snapshot that is damaged costs nothing. EtcdError if it is."""
    if spec.is_prepared:
        return []
    reasons = [Reason("data", "prepared", f"{spec.snapshot} is restored to {spec.staging}")]
    if check:
        return reasons
    _check_places(spec)
    file = read_snapshot_file(spec.snapshot)
    if spec.identity and file.identity != spec.identity:
        raise EtcdError(
            f"{spec.member}: the copy {spec.snapshot} is not the snapshot that this run was planned with: the file on the controller has changed since, and the"
            " members would get different data. Nothing has been stopped. Run again."
        )
    free, needed = free_bytes(os.path.dirname(spec.staging)), space_for(file)
    if free < needed:
        raise EtcdError(
            f"{spec.member}: the snapshot needs {needed >> 20} MiB beside {spec.data_dir}, and {free >> 20} MiB are free. Nothing has been"
            " stopped. Free some space, for example by moving data directories away that were archived (.removed-, .replaced-)."
        )
    if not file.is_database:
        check_file(spec.snapshot)
    partial = f"{spec.staging}.partial"
    for path in (partial, spec.staging):
        if os.path.lexists(path):
            shutil.rmtree(path)
    options = ["--initial-cluster-token", spec.token]
    try:
        process = _processes.find_etcd_process(spec.member)
        _have_images(spec)
        with contextlib.ExitStack() as stack:
            root = stack.enter_context(image_root(spec.image, process.pid if process else 0))
            told = describe(root, spec.snapshot)
            if process and is_too_new(told["storage"], told["version"]):
                # What runs may be another image than the one that is started afterwards.
                root = stack.enter_context(image_root(spec.image))
                told = describe(root, spec.snapshot)
            if is_too_new(told["storage"], told["version"]):
                raise EtcdError(
                    f"{spec.member}: the snapshot {spec.snapshot} needs etcd {told['storage']}, and the image has etcd {told['version']}, which does not start"
                    " on it. Set etcd_image_tag to that version or a newer one, or use an older snapshot. Nothing has been stopped."
                )
            if has_kubernetes(spec.snapshot):
                options += ["--bump-revision", str(bump_of(spec.token, told["revision"])), "--mark-compacted"]
            done = unpack(root, file, partial, spec.member, spec.peer_urls, options)
        if done.code != 0 or cluster_in(partial) != spec.cluster_id:
            said = error_of(done) if done.code != 0 else f"the restored data is not of cluster {spec.cluster_id}"
            raise EtcdError(f"{spec.member}: etcdutl cannot restore {spec.snapshot}: {said}. Nothing has been stopped.")
        os.rename(partial, spec.staging)
        sync_directory(os.path.dirname(spec.staging))
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return reasons


def space_for(file: SnapshotFile) -> int:
    """The bytes that restored data needs until its member runs. With less, etcd would not start on it once the former data was replaced."""
    return file.size + 2 * SEGMENT + SPARE


def is_too_new(storage: str, etcd: str) -> bool:
    """Whether an etcd refuses to start on data ('version "3.7.0" is not supported'). etcd 3.5 does not look, and starts (seen with data of 3.6 and 3.7)."""
    needed, has = (tuple(int(part) for part in text.split(".")[:2] if part.isdigit()) for text in (storage, etcd))
    return (3, 6) <= has < needed


def unpack(
    root: str, file: SnapshotFile, data_dir: str, name: str, peer_urls: Mapping[str, str], options: Iterable[str] = ()
) -> Done:
    """Have etcdutl make a new data directory of a snapshot. root: of the image. name: of its member. peer_urls: of all members, by name."""
    argv = ["snapshot", "restore", file.path, "--data-dir", data_dir, "--name", name]
    argv += ["--initial-cluster", ",".join(f"{member}={url}" for member, url in peer_urls.items())]
    argv += ["--initial-advertise-peer-urls", peer_urls[name]]
    return run_alone(root, "etcdutl", [*argv, *options, *(["--skip-hash-check"] if file.is_database else [])], READS)


def _have_images(spec: RestoreSpec) -> None:
    """See that the runtime has the images of etcd and of its sandbox. EtcdError if it cannot pull one: the restored member could not be started."""
    pause = diagnosis.pause_image(spec.runtime_endpoint)
    for image in (spec.image, *([pause] if pause else [])):
        cause = diagnosis.ensure_image(spec.runtime_endpoint, image, PULLS)
        if cause:
            raise EtcdError(
                f"{spec.member}: {cause.text}. The restored member could not be started without it. Import the image, or make the registry reachable, and"
                " run again. Nothing has been stopped."
            )


def stop(spec: RestoreSpec, check: bool) -> list[Reason]:
    """End etcd for good: its manifest is moved away. EtcdError if the restored data is not there."""
    manifest = os.path.join(spec.manifests_dir, "etcd.yaml")
    if not check:
        # Also if there is nothing to stop: no data is replaced before every host has the restored data of this run.
        _check_prepared(spec)
    process = _processes.find_etcd_process(spec.member)
    if not (os.path.exists(manifest) or process):
        return []
    reasons = [Reason("data", "stopped", f"etcd stops: {manifest} is moved to {spec.work_dir}", restarts=True)]
    if not check:
        if process and not spec.replace_healthy and probe(_processes.metrics_of(process.argv, METRICS), ANSWER)[0]:
            raise EtcdError(
                f"{spec.member}: etcd is ready now, and no member was when this run was planned: another run has started the cluster, so a restore would lose"
                " what is written to it. This member was not stopped. Run site.yml if the cluster is to stay as it is, or restore.yml again, which says how to"
                " replace a healthy cluster."
            )
        end_etcd(spec.member, manifest, os.path.join(spec.work_dir, FORMER_MANIFEST), spec.runtime_endpoint)
    return reasons


def replace_data(spec: RestoreSpec, check: bool) -> list[Reason]:
    """Keep the former data beside itself, and put the restored data in its place. EtcdError if etcd runs."""
    found = []
    if has_data(spec.data_dir):
        found.append(Reason("data", "archived", f"{spec.data_dir}: renamed, and kept"))
    found.append(Reason("data", "replaced", f"{spec.data_dir}: the restored data"))
    if check:
        return found
    _check_prepared(spec)
    if _processes.find_etcd_process(spec.member):
        raise EtcdError(
            f"{spec.member}: etcd runs again, so its data is not replaced. Something put its manifest back. Run again."
        )
    archive_data(spec.data_dir, time.time(), "replaced")
    path = os.path.realpath(spec.data_dir)
    os.makedirs(path, mode=0o700, exist_ok=True)
    os.rename(os.path.join(spec.staging, "member"), os.path.join(path, "member"))
    shutil.rmtree(spec.staging)
    sync_directory(os.path.dirname(path))
    return found


def _check_places(spec: RestoreSpec) -> None:
    """EtcdError if a file or a link is where a directory will be: it could not be replaced once the members are stopped."""
    for path in (os.path.realpath(spec.data_dir), spec.staging, f"{spec.staging}.partial"):
        if os.path.lexists(path) and (os.path.islink(path) or not os.path.isdir(path)):
            raise EtcdError(
                f"{spec.member}: {path} must be a directory, and is a file or a link. Move it away, and run again. Nothing has been stopped."
            )


def _check_former(spec: RestoreSpec) -> None:
    """EtcdError if the data of the host is not that of the plan any more."""
    now = cluster_in(spec.data_dir)
    if now != spec.former:
        raise EtcdError(
            f"{spec.member}: {spec.data_dir} is of cluster {now or 'none'}, and was of cluster {spec.former or 'none'} when this run was planned: another"
            " run has restored or started this host meanwhile. Nothing is stopped or replaced here. Wait until the other run has ended, and run again if the"
            " cluster is not as you want it."
        )


def _check_prepared(spec: RestoreSpec) -> None:
    """EtcdError if the restored data is not there, so that nothing is stopped or moved for it."""
    if not spec.is_prepared:
        raise EtcdError(
            f"{spec.member}: {spec.staging} does not have the snapshot of this run: it was removed, or another restore has begun since. Nothing is stopped or"
            " replaced here. Run restore.yml again when no other run is active."
        )
