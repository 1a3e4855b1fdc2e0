# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Paths of this collection's files on a host."""

from __future__ import annotations

import os

RECORD = "member.json"

# For mount points and sockets. Only root can reach it, and it is gone with the next boot.
RUN_DIR = "/run/kubeadm-etcd"

# An id in the record of a member that has left without data to read it from.
UNKNOWN = "unknown"


def record_path(work_dir: str) -> str:
    """The path of a host's record."""
    return os.path.join(work_dir, RECORD)


def credentials_in(pki_dir: str) -> tuple[str, str, str]:
    """Files of CA, certificate and key with which a host asks members."""
    directory = os.path.join(pki_dir, "etcd")
    names = ("ca.crt", "healthcheck-client.crt", "healthcheck-client.key")
    return os.path.join(directory, names[0]), os.path.join(directory, names[1]), os.path.join(directory, names[2])
