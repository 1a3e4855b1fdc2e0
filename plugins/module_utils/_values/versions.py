# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Versions of kubeadm, kubelet and etcd: which the collection supports, and which etcd may follow which. The one definition."""

from __future__ import annotations

import re
from dataclasses import dataclass

# The one place that says which versions of kubeadm and kubelet are supported. v1beta4 came with 1.31; a dry run that says where it
# writes, and environment variables in a stable order, with 1.32.
OLDEST_MINOR, NEWEST_MINOR = 32, 37
SUPPORTED = f"1.{OLDEST_MINOR} to 1.{NEWEST_MINOR}"


def minor_of(version: str | None) -> int | None:
    """The minor of a version text like v1.36.3; None where it is none."""
    match = re.match(r"^v?1\.(\d+)\.\d+", version or "")
    return int(match.group(1)) if match else None


def version_range_problems(kubeadm: str, allow_untested: bool) -> list[str]:
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


# --- etcd ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, order=True)
class EtcdVersion:
    """A release of etcd."""

    major: int
    minor: int
    patch: int

    def __str__(self) -> str:
        return f"{self.branch}.{self.patch}"

    @property
    def branch(self) -> str:
        """The minor version as people write it: 3.6."""
        return f"{self.major}.{self.minor}"


# kubeadm's patch is not known before it has rendered a manifest.
ANY_PATCH = 99

# The value of etcd_downgrade that cancels a downgrade, instead of a version.
CANCEL = "cancel"


def etcd_version_in(tag: str) -> EtcdVersion | None:
    """The release in a text like 3.6.14, v3.6.14, 3.6.14-0 or 3.6.14-0@sha256:...; None if there is none."""
    match = re.fullmatch(r"v?(\d+)\.(\d+)(?:\.(\d+))?(?:[-@].*)?", tag)
    return EtcdVersion(int(match.group(1)), int(match.group(2)), int(match.group(3) or ANY_PATCH)) if match else None


def branch_in(version: str) -> str:
    """The minor version in a text with a release, as people write it: 3.6. '' if there is none."""
    found = etcd_version_in(version)
    return found.branch if found else ""


def etcd_version_of(image: str | None) -> EtcdVersion | None:
    """The release that an image is named after; None if its tag is none."""
    _repository, _colon, tag = (image or "").split("@")[0].rpartition("/")[2].partition(":")
    return etcd_version_in(tag)


@dataclass(frozen=True)
class Least:
    """What every member has to run before a minor version of etcd may follow. advised: what etcd's guide asks for by now."""

    least: EtcdVersion
    advised: EtcdVersion
    why: str
    source: str


# By the minor version that follows. 3.5 had to be 3.4 before, which this collection never ran.
BEFORE_MINOR = {
    6: Least(
        EtcdVersion(3, 5, 26),
        EtcdVersion(3, 5, 32),
        "after an upgrade from an older release, removed members can come back in 3.6",
        "https://etcd.io/blog/2025/zombie_members_upgrade/",
    ),
    7: Least(
        EtcdVersion(3, 6, 0),
        EtcdVersion(3, 6, 11),
        "earlier releases of 3.6 have bugs in the membership",
        "https://etcd.io/docs/v3.7/upgrades/upgrade_3_7/",
    ),
}

# The first minor version that cannot read what 3.5 has written to the log (_host/wal.py, unreadable_by_3_7).
WITHOUT_FORMER_API = 7

# What ends with a downgrade, by the minor version that is left, from etcd's guides (https://etcd.io/docs/v3.7/downgrades/downgrade_3_7/,
# https://etcd.io/docs/v3.6/downgrades/downgrade_3_6/). No key is lost.
LOST_BELOW = {
    6: "etcd 3.5 has no feature gates, no metrics of 3.6, and does not report its version of the data; what it writes to the log must be gone before 3.7",
    7: "etcd 3.6 has no metrics of 3.7 (etcd_server_request_duration_seconds, times of the watch send loop)",
}
