# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Before etcd 3.7: a log with entries of etcd 3.5, which 3.7 panics at ("unmarshal should never fail"), and the restart on 3.6 that puts it right.

See `unreadable_by_3_7` in `_host/wal.py` for what the entries are.
"""

from __future__ import annotations

import re

from ansible_collections.kubeadm.etcd.plugins.module_utils._values.reasons import Reason
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.versions import WITHOUT_FORMER_API, etcd_version_of

_SNAPSHOT_COUNT = re.compile(r"(?<=^    - --snapshot-count=)\d+$", re.MULTILINE)


def is_without_former_api(image: str | None) -> bool:
    """Whether the etcd of an image cannot read entries of the former API."""
    version = etcd_version_of(image)
    return bool(version and version.minor >= WITHOUT_FORMER_API)


def log_reasons(unreadable: int, installed: str | None, wanted: str | None) -> list[Reason]:
    """Why a member is restarted once more on its version before it gets the wanted image. unreadable: the number of such entries."""
    if not unreadable or not is_without_former_api(wanted) or is_without_former_api(installed):
        return []
    text = (
        f"etcd: its log has {unreadable} entries of etcd 3.5 that etcd 3.7 cannot read, and no newer raft snapshot, so it first restarts once"
        " more on its present version, which writes one"
    )
    return [Reason("manifest", "unreadable-log", text, restarts=True)]


def with_snapshot_count(manifest: str, count: int) -> str | None:
    """A manifest with another --snapshot-count; None if it does not set it in the way of kubeadm."""
    text, number = _SNAPSHOT_COUNT.subn(str(count), manifest)
    return text if number == 1 else None
