# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Where files of the collection are on a host."""

from __future__ import annotations

import os

RECORD = "member.json"


def record_path(work_dir: str) -> str:
    """Where the record of a host lies."""
    return os.path.join(work_dir, RECORD)
