# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a run is asked for, beside what each host is to be."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from ansible_collections.kubeadm.etcd.plugins.module_utils._control.stages import STAGES
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.steps import CONVERGE, DRILL, RESTORE
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.errors import EtcdError, reason_of


def of(variable: str) -> dict[str, str]:
    """What marks a field that has the value of a variable of the role etcd. The action plugin etcd_plan reads it."""
    return {"variable": variable}


@dataclass(frozen=True)
class WantedSnapshot:
    """The file on the controller. identity: '' if it cannot be used, then problem says why.

    description: what was recorded of it (Snapshot), by the file beside it; empty if there is none.
    """

    path: str = ""
    identity: str = ""
    problem: str = ""
    description: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Export:
    """A copy for a safe. file: on the controller, '' for none. exists: it is there already, and is checked instead of written."""

    file: str = ""
    exists: bool = False
    problems: tuple[str, ...] = ()


def wanted_snapshot(path: str, operation: str) -> WantedSnapshot:
    """The file on the controller, as far as it can be judged without reading all of it. A drill need not have one."""
    if operation not in (RESTORE, DRILL) or (operation == DRILL and not path):
        return WantedSnapshot()
    if not path:
        return WantedSnapshot(problem="etcd_snapshot is not set. Name a file on the controller: -e etcd_snapshot=FILE")
    # A run that needs none of it loads none of it.
    from ansible_collections.kubeadm.etcd.plugins.module_utils._etcd.restore import read_snapshot_file, recorded

    try:
        file = read_snapshot_file(path)
        description, problem = recorded(file)
    except EtcdError as exc:
        return WantedSnapshot(path, problem=str(exc))
    return WantedSnapshot(path, "" if problem else file.identity, problem, asdict(description) if description else {})


# The passphrase of a copy that may lie in a safe for ten years.
LEAST_PASSPHRASE = 12


def check_export(path: str, passphrase: str) -> Export:
    """The copy that is asked for, as far as the controller can tell. Nothing of the passphrase is returned."""
    if not path:
        return Export()
    problems = []
    if not passphrase:
        problems.append(
            "etcd_ca_export needs a passphrase: set etcd_ca_export_passphrase (from a vault, not in plain text)."
        )
    elif len(passphrase) < LEAST_PASSPHRASE:
        problems.append(
            f"etcd_ca_export_passphrase has fewer than {LEAST_PASSPHRASE} characters: whoever finds the copy could guess it. Use a longer one,"
            " such as six random words."
        )
    directory = os.path.dirname(path)
    if not os.path.isdir(directory):
        problems.append(
            f"etcd_ca_export: {directory} is not a directory of the controller. Make it, or name another file."
        )
    elif os.path.lexists(path) and not os.path.isfile(path):
        problems.append(f"etcd_ca_export: {path} is not a file. Name another one.")
    elif os.path.exists(path) and not os.access(path, os.R_OK):
        problems.append(f"etcd_ca_export: {path} cannot be read on the controller. Name another file.")
    elif not os.path.exists(path) and not os.access(directory, os.W_OK):
        problems.append(f"etcd_ca_export: {directory} is not writable on the controller. Name another file.")
    return Export(path, os.path.isfile(path), tuple(problems))


@dataclass(frozen=True)
class FetchDir:
    """A directory on the controller that snapshots are copied to. free: bytes on its filesystem. problem: why nothing can be copied there."""

    path: str = ""
    free: int = 0
    problem: str = ""


def check_fetch_dir(path: str) -> FetchDir:
    """The directory that is asked for, as far as the controller can tell without a change. It is made with its parents if it is missing."""
    place = os.path.abspath(path)
    while not os.path.lexists(place):
        place = os.path.dirname(place)
    problem = ""
    if not os.path.isdir(place):
        problem = f"{place} is not a directory of the controller."
    elif not os.access(place, os.W_OK | os.X_OK):
        problem = f"{place} is not writable on the controller."
    try:
        free = shutil.disk_usage(place).free
    except OSError as exc:
        free, problem = 0, problem or f"{place} on the controller: {reason_of(exc)}."
    advice = "Name another directory. Without one, the snapshot stays on the host."
    return FetchDir(path, free, problem and f"etcd_backup_fetch_dir: {problem} {advice}")


@dataclass(frozen=True)
class Wish:
    """What a run is asked for, beside what each host is to be.

    phase: the one of a rotation that is planned, '' for the run as a whole. check: whether the run is in check mode. limit: what it is limited to.
    stages: those that the run has. external_files: by cluster, the file that is to get its etcd.external stanza. fetch_dirs: by host, where its snapshots
    are copied to, if they are. Files on the controller have absolute paths.
    """

    operation: str = CONVERGE
    stages: tuple[str, ...] = STAGES
    phase: str = ""
    check: bool = False
    limit: str = ""
    own_ca: Mapping[str, Any] = field(default_factory=dict)
    external_files: Mapping[str, str] = field(default_factory=dict)
    snapshot: WantedSnapshot = field(default_factory=WantedSnapshot)
    ca_export: Export = field(default_factory=Export)
    fetch_dirs: Mapping[str, FetchDir] = field(default_factory=dict)
    runtime_endpoint: str = field(default="", metadata=of("etcd_container_runtime_endpoint"))
    image_archive: str = field(default="", metadata=of("etcd_image_archive"))
    external_file: str = field(default="", metadata=of("etcd_external_config_file"))
    signing_dir: str = field(default="", metadata=of("etcd_signing_dir"))
    allow_interruption: bool = field(default=False, metadata=of("etcd_allow_interruption"))
    allow_untested_kubeadm: bool = field(default=False, metadata=of("etcd_allow_untested_kubeadm"))
    remove_stray_ca_keys: bool = field(default=False, metadata=of("etcd_remove_stray_ca_keys"))
    backup_before_change: bool = field(default=False, metadata=of("etcd_backup_before_change"))
    member: str = field(default="", metadata=of("etcd_member"))
    replace_healthy: bool = field(default=False, metadata=of("etcd_replace_healthy"))
    wipe_keys: bool = field(default=False, metadata=of("etcd_wipe_keys"))
    ca_host: str = field(default="", metadata=of("etcd_ca_host"))
    replace_healthy_cluster: str = field(default="", metadata=of("etcd_replace_healthy_cluster"))
    defragment_threshold: int = field(default=45, metadata=of("etcd_defragment_threshold"))
    compact_keep_revisions: int = field(default=1000, metadata=of("etcd_compact_keep_revisions"))
    until: str = field(default="", metadata=of("etcd_until"))
    ca_compromised: str = field(default="", metadata=of("etcd_ca_compromised"))
    ca_same_key: bool = field(default=False, metadata=of("etcd_ca_same_key"))
    downgrade: str = field(default="", metadata=of("etcd_downgrade"))


# The variable of each field that has one.
VARIABLES = {item.name: str(item.metadata["variable"]) for item in fields(Wish) if item.metadata}
