# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the timers of a host run: a snapshot, the rehearsal of a restore, a defragmentation. The program that _member.schedule installs."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from dataclasses import replace

from ansible_collections.kubeadm.etcd.plugins.module_utils._etcd.client import EtcdClient, Status, side_by_side
from ansible_collections.kubeadm.etcd.plugins.module_utils._etcd.snapshot import read_directory
from ansible_collections.kubeadm.etcd.plugins.module_utils._host.files import open_file
from ansible_collections.kubeadm.etcd.plugins.module_utils._member import backup as _backup
from ansible_collections.kubeadm.etcd.plugins.module_utils._member import defragment as _defragment
from ansible_collections.kubeadm.etcd.plugins.module_utils._member import snapshots as _snapshots
from ansible_collections.kubeadm.etcd.plugins.module_utils._member.drill import drill
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.database import mib
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.errors import EtcdError, system_errors
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.formats import object_in

# Seconds that a leader waits for the defragmentation of the others, and between two looks at them.
LEADER_WAITS, LOOKS = 3600.0, 15.0


def main(argv: list[str]) -> int:
    """Run a job. argv: its name, and the path of the configuration."""
    try:
        with system_errors(argv[1]):
            spec = spec_in(argv[1])
            sys.stdout.write(run_job(argv[0], spec) + "\n")
    except EtcdError as exc:
        sys.stderr.write(f"{exc}\n")
        return 1
    return 0


def spec_in(path: str) -> _snapshots.BackupSpec:
    """The configuration. EtcdError if it is damaged."""
    try:
        with open_file(path) as file:
            return _snapshots.BackupSpec.from_params(object_in(file.read().decode()))
    except (KeyError, TypeError, ValueError) as exc:
        raise EtcdError(f"{path} is damaged. Run site.yml, which writes it again.") from exc


def run_job(job: str, spec: _snapshots.BackupSpec) -> str:
    """Run a job. Returns a line for the journal. EtcdError if it fails, which its state says too."""
    if job == _snapshots.BACKUP:
        return _backup.scheduled_backup(spec)
    now = time.time()
    with _backup.recorded(spec, job, now):
        _snapshots.own_directory(spec.dir)
        before = replace(_snapshots.State.read(spec.dir, job), attempted=now, error="")
        line, after = (scheduled_drill if job == _snapshots.DRILL else scheduled_defragmentation)(spec, before)
        _backup.write_state(spec, job, after)
    return line


def scheduled_drill(spec: _snapshots.BackupSpec, before: _snapshots.State) -> tuple[str, _snapshots.State]:
    """Rehearse the restore of the newest snapshot of this host, if it has one and has not rehearsed it yet."""
    newest = read_directory(spec.dir, spec.cluster)[:1]
    if not newest:
        return f"{spec.dir} has no snapshot to rehearse.", before
    path = os.path.join(spec.dir, newest[0].file_name)
    if path == before.file:
        return f"{path}: rehearsed already.", before
    done = drill(spec, path, "")
    after = replace(before, succeeded=time.time(), file=path, size=os.path.getsize(path))
    return str(done["lines"][0]), replace(after, revision=done["revision"], seconds=done["seconds"])


def scheduled_defragmentation(spec: _snapshots.BackupSpec, before: _snapshots.State) -> tuple[str, _snapshots.State]:
    """Defragment the member of this host if that is due; of a leader, after the others."""
    wanted = _defragment.DefragmentSpec(
        spec.member,
        spec.members,
        client_port=spec.client_port,
        metrics_port=spec.metrics_port,
        threshold=spec.defragment_threshold,
        work_dir=spec.work_dir,
        data_dir=spec.data_dir,
        pki_dir=spec.pki_dir,
    )
    deadline = time.monotonic() + LEADER_WAITS
    while (others := fragmented_before_leader(spec)) and time.monotonic() < deadline:
        time.sleep(LOOKS)
    if others:
        return (
            f"{spec.member} is the leader, and the others come first: {', '.join(others)}. It is defragmented the next time.",
            before,
        )
    done = _defragment.defragment(wanted, False)
    after = replace(before, succeeded=time.time(), size=done["after"]["size"], seconds=done["seconds"])
    if not done["changed"]:
        return f"{spec.member}: nothing to defragment.", after
    return f"{spec.member}: defragmented, {mib(done['before']['size'])} -> {mib(done['after']['size'])}", after


def fragmented_before_leader(spec: _snapshots.BackupSpec) -> list[str]:
    """Members that are to be defragmented before this one: if it leads, the others that are due."""

    def ask(name: str) -> Status | None:
        # A member that does not answer closes the gate later.
        with contextlib.suppress(EtcdError), EtcdClient(
            spec.url(name), *spec.credentials, timeout=_backup.ANSWER
        ) as client:
            return client.status()
        return None

    names = [name for name, _address in spec.members]
    found = dict(zip(names, side_by_side(ask, names, _backup.ANSWER)))
    own = found.get(spec.member)
    due = [
        name
        for name, status in found.items()
        if status and _defragment.database_of(status).is_fragmented(spec.defragment_threshold)
    ]
    leads = own is not None and own.leader == own.member_id
    return [name for name in due if name != spec.member] if leads and spec.member in due else []
