# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Versions of kubeadm and kubelet that the collection supports: the one definition."""

from __future__ import annotations

import re

# The one place that says which versions of kubeadm and kubelet are supported. v1beta4 came with 1.31; a dry run that says where it
# writes, and environment variables in a stable order, with 1.32.
OLDEST_MINOR, NEWEST_MINOR = 32, 37
SUPPORTED = f"1.{OLDEST_MINOR} to 1.{NEWEST_MINOR}"


def minor_of(version: str | None) -> int | None:
    """The minor of a version text like v1.36.3; None where it is none."""
    match = re.match(r"^v?1\.(\d+)\.\d+", version or "")
    return int(match.group(1)) if match else None


def version_range_problems(kubeadm: str, allow_untested: bool = False) -> list[str]:
    """Whether a version of kubeadm is supported. allow_untested: newer ones are used as if they were the newest that is known."""
    minor = minor_of(kubeadm)
    if minor is not None and OLDEST_MINOR <= minor <= NEWEST_MINOR:
        return []
    if minor is not None and minor < OLDEST_MINOR:
        return [
            f"kubeadm {kubeadm} is too old. Install {SUPPORTED}: up to 1.30 the configuration API v1beta4 is missing, and 1.31 writes the"
            " variables of etcd_extra_envs in another order each time."
        ]
    if minor is not None and allow_untested:
        return []
    return [
        f"kubeadm {kubeadm} is newer than {SUPPORTED}, which this collection was tested with. Install one of these or a newer kubeadm.etcd,"
        " or set etcd_allow_untested_kubeadm: true to go on at your own risk."
    ]
