# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Snapshots on a host: what is wanted of them and of the timers, which there are, and what the last attempt came to."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from ansible_collections.kubeadm.etcd.plugins.module_utils._etcd.snapshot import as_data, read_directory
from ansible_collections.kubeadm.etcd.plugins.module_utils._host.files import (
    ensure_directory,
    read_text,
)
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.errors import EtcdError
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.formats import object_in
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.members import MEMBERS_ARGUMENT, by_name, client_url
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.paths import credentials_in

# What a timer does on a host. Also what module and playbook are called after.
BACKUP, DRILL, DEFRAGMENT = JOBS = ("backup", "drill", "defragment")

# What is wanted of snapshots on a host, as options of modules. Documented in plugins/doc_fragments/backup.py.
BACKUP_ARGUMENTS: dict[str, Any] = {
    "cluster": {"type": "str", "required": True},
    "member": {"type": "str", "required": True},
    "members": MEMBERS_ARGUMENT,
    "client_port": {"type": "int", "default": 2379},
    "pki_dir": {"type": "path", "default": "/etc/kubernetes/pki"},
    "dir": {"type": "path", "default": "/var/backups/etcd"},
    "keep": {"type": "int", "default": 24},
    "keep_days": {"type": "int", "default": 0},
    "command": {"type": "list", "elements": "str", "default": []},
    "recipient": {"type": "str", "default": ""},
    "textfile_dir": {"type": "path", "default": ""},
    "schedule": {"type": "str", "default": ""},
    "drill_schedule": {"type": "str", "default": ""},
    "defragment_schedule": {"type": "str", "default": ""},
    "defragment_threshold": {"type": "int", "default": 45},
    "metrics_port": {"type": "int", "default": 2381},
    "data_dir": {"type": "path", "default": "/var/lib/etcd"},
    "work_dir": {"type": "path", "default": "/etc/kubernetes/kubeadm-etcd"},
    "program": {"type": "str", "default": ""},
}
BACKUP_OPTION: dict[str, Any] = {"type": "dict", "required": True, "options": BACKUP_ARGUMENTS}


@dataclass(frozen=True)
class BackupSpec:
    """What is wanted of snapshots on a host, and of its timers.

    members: name and address of all. keep: how many are kept, 0 for all; keep_days: for how long, 0 for ever. command: an argument list that
    sends a snapshot away, {file} is replaced. recipient: a certificate (PEM) to encrypt to, '' for none. textfile_dir: where metrics are written,
    '' for dir. schedule, drill_schedule, defragment_schedule: of the timers, as systemd's OnCalendar, '' for none. defragment_threshold: percent.
    program: the digest of the program of the timers (_member/sources.py), '' for the one that is shipped.
    """

    cluster: str
    member: str
    members: list[tuple[str, str]]
    client_port: int = 2379
    pki_dir: str = "/etc/kubernetes/pki"
    dir: str = "/var/backups/etcd"
    keep: int = 24
    keep_days: int = 0
    command: list[str] = field(default_factory=list)
    recipient: str = ""
    textfile_dir: str = ""
    schedule: str = ""
    drill_schedule: str = ""
    defragment_schedule: str = ""
    defragment_threshold: int = 45
    metrics_port: int = 2381
    data_dir: str = "/var/lib/etcd"
    work_dir: str = "/etc/kubernetes/kubeadm-etcd"
    program: str = ""

    @classmethod
    def from_params(cls, params: Mapping[str, Any]) -> BackupSpec:
        """From the options of a module, or from the configuration of the timer."""
        kinds = {key: option["type"] for key, option in BACKUP_ARGUMENTS.items()}
        known: dict[str, Any] = {
            key: int(value) if kinds[key] == "int" else value for key, value in params.items() if key in kinds
        }
        return cls(**{**known, "members": by_name(params["members"]), "command": list(params.get("command") or [])})

    @property
    def schedules(self) -> dict[str, str]:
        """The schedule of each job, '' for none."""
        return {BACKUP: self.schedule, DRILL: self.drill_schedule, DEFRAGMENT: self.defragment_schedule}

    @property
    def credentials(self) -> tuple[str, str, str]:
        """Files with which members are asked."""
        return credentials_in(self.pki_dir)

    def url(self, member: str) -> str:
        """The client URL of a member. EtcdError if the cluster does not have it."""
        address = dict(self.members).get(member)
        if address is None:
            raise EtcdError(
                f"{member} is not a member of cluster {self.cluster}: {', '.join(name for name, _address in self.members)}."
            )
        return client_url(address, self.client_port)


@dataclass(frozen=True)
class State:
    """What the attempts of a job on a host came to. Times in Unix seconds, 0 for never. error: of the last attempt, '' if it was good or not due here.

    file, size, revision, seconds: of the last success.
    """

    attempted: float = 0.0
    succeeded: float = 0.0
    error: str = ""
    file: str = ""
    size: int = 0
    revision: int = 0
    seconds: float = 0.0

    @classmethod
    def read(cls, directory: str, job: str) -> State:
        """From the directory of snapshots. A time that is ahead of the clock becomes the present: no alert would come before that time."""
        now = time.time()
        try:
            data = object_in(read_text(os.path.join(directory, state_name(job))) or "{}")
            found = cls(**{key: value for key, value in data.items() if key in cls.__dataclass_fields__})
            return replace(found, attempted=min(found.attempted, now), succeeded=min(found.succeeded, now))
        except (EtcdError, TypeError, ValueError):
            return cls()


def unsafe_directory(directory: str) -> str:
    """Why snapshots may not be in a directory, '' if they may: any user could put another one there, and a restore would trust it."""
    try:
        mode = os.stat(directory).st_mode
    except OSError:
        # If it is missing, it is made.
        return ""
    if not (stat.S_ISDIR(mode) and mode & stat.S_IWOTH):
        return ""
    return (
        f"etcd_backup_dir {directory}: every user of the host may write to it (mode {stat.S_IMODE(mode):04o}), so any of them could put another snapshot there."
        f" Set it to a directory that is for snapshots alone. If this one is: chmod o-w {directory}"
    )


def own_directory(directory: str) -> None:
    """Make the directory of snapshots if it is missing. EtcdError if every user may write to it."""
    problem = unsafe_directory(directory)
    if problem:
        raise EtcdError(problem)
    ensure_directory(directory, 0o700)


def state_name(job: str) -> str:
    """The file in the directory of snapshots that says what the last attempt of a job came to."""
    return f"{job}-state.json"


def snapshots_in(directory: str, cluster: str) -> dict[str, Any]:
    """What an observation tells of snapshots on a host: the newest, how many there are, and what the last attempt came to.

    The age, in seconds, is told by the clock that gave the time. The clocks of other hosts may differ. It is negative if the clock was ahead.
    """
    found, now = read_directory(directory, cluster), time.time()
    newest = [{**item, "age": now - item["taken"]} for item in as_data(found[:1])]
    return {"newest": newest, "count": len(found), "state": asdict(State.read(directory, BACKUP))}
