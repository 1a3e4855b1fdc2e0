# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Errors of the system become messages for people."""

from __future__ import annotations

import errno
import os
from typing import Any

import pytest
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.errors import EtcdError, stated_errors, system_errors


def stated(error: Exception) -> str:
    said: list[str] = []

    def fail(**result: Any) -> None:
        said.append(result["msg"])

    with stated_errors(fail):
        raise error
    return said[0]


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (errno.EROFS, "Read-only file system (mount it writable again"),
        (errno.ENOSPC, "No space left on device (free some space"),
        (errno.EDQUOT, "Disk quota exceeded (raise the quota"),
        (errno.EIO, "Input/output error (the disk may fail"),
        (errno.EPERM, "Operation not permitted (if lsattr"),
        (errno.EISDIR, "Is a directory."),
    ],
)
def test_an_error_of_the_disk_is_stated(code: int, words: str) -> None:
    text = stated(OSError(code, os.strerror(code), "/etc/x"))
    assert text.startswith(f"/etc/x: {words}") and text.endswith(
        "run again: the next run completes what this one has begun."
    )


def test_both_files_of_a_rename_are_named() -> None:
    assert stated(OSError(errno.EXDEV, "Invalid cross-device link", "/a", None, b"/b")).startswith("/a and /b: Invalid")


def test_an_error_without_a_file() -> None:
    assert stated(OSError(errno.ENOSPC, "No space left on device", 5)).startswith("the host: No space")
    assert stated(TimeoutError("timed out")).startswith("the host: timed out.")
    assert stated(OSError()).startswith("the host: OSError.")
    with pytest.raises(EtcdError, match=r"^/var/lib/etcd: No space"), system_errors("/var/lib/etcd"):
        raise OSError(errno.ENOSPC, "No space left on device")


def test_other_errors() -> None:
    assert stated(EtcdError("one", "two")) == "one\ntwo"
    with pytest.raises(KeyError):
        stated(KeyError("a defect"))
