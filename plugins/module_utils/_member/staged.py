# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Restored data that waits beside the data of a member until it takes its place (restore.py). While it waits, no other run may start the member."""

from __future__ import annotations

import contextlib
import os
import time

from ansible_collections.kubeadm.etcd.plugins.module_utils._etcd.restore import LASTS, SECONDS
from ansible_collections.kubeadm.etcd.plugins.module_utils._host.wal import read_wal


def staging_of(data_dir: str) -> str:
    """Where the data is restored to: on the same filesystem as the data directory."""
    path = os.path.realpath(data_dir)
    return os.path.join(path, "member.restored") if os.path.ismount(path) else f"{path}.restored"


def cluster_in(data_dir: str) -> str:
    """The id of the cluster that the data in a directory is of; '' if there is none, or if it cannot be read."""
    wal = read_wal(data_dir)
    return "" if wal is None or wal.problem else wal.cluster_id


def waiting_restore(data_dir: str) -> str:
    """The path of restored data that a restore of the last hours has yet to put in its place; '' if there is none. An older one is not continued."""
    path = staging_of(data_dir)
    with contextlib.suppress(OSError):
        if time.time() - os.stat(path).st_mtime < LASTS * SECONDS and cluster_in(path) not in (
            "",
            cluster_in(data_dir),
        ):
            return path
    return ""


def restore_under_way(path: str) -> str:
    """Why a member is not started, for people. path: of waiting_restore."""
    return (
        f"a restore has begun on this host and has not ended: {path} has the restored data. If the member started now, it would continue with its former"
        f" data beside restored members. Run restore.yml again to finish the restore. To give it up, remove {path} on each host, and run again."
    )
