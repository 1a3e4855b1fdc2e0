# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The exception for problems that the user can solve. Any other exception is a defect of this collection."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from typing import Any

# What to do about an error of the system.
_REMEDIES = {
    errno.EROFS: "mount it writable again; if Linux did that after a disk error, dmesg shows it",
    errno.ENOSPC: "free some space, see df, or inodes, see df -i",
    errno.EDQUOT: "raise the quota, or free some space",
    errno.EIO: "the disk may fail: look at dmesg",
    errno.EPERM: "if lsattr shows the attribute i or a: chattr -ia",
}


class EtcdError(Exception):
    """A problem that the user can solve. Each text says what is wrong, where, and what to do."""

    def __init__(self, *texts: str) -> None:
        super().__init__("\n".join(texts))
        self.texts = texts


def reason_of(exc: OSError) -> str:
    """What the system says, and what to do about it."""
    reason = exc.strerror or str(exc) or type(exc).__name__
    remedy = _REMEDIES.get(exc.errno or 0)
    return f"{reason} ({remedy})" if remedy else reason


@contextlib.contextmanager
def system_errors(where: str = "the host") -> Iterator[None]:
    """Errors of the system, such as a full disk, as EtcdError. where: for an error that names no file."""
    try:
        yield
    except OSError as exc:
        paths = [os.fsdecode(name) for name in (exc.filename, exc.filename2) if isinstance(name, (str, bytes))]
        raise EtcdError(
            f"{' and '.join(paths) or where}: {reason_of(exc)}. Correct this, and run again: the next run completes what this one has begun."
        ) from exc


@contextlib.contextmanager
def stated_errors(fail: Callable[..., Any]) -> Iterator[None]:
    """What a user can solve ends the module with its text. fail: fail_json of the module."""
    try:
        with system_errors():
            yield
    except EtcdError as exc:
        fail(msg=str(exc))
