# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Files on the managed host: read without a race, replaced by rename, modes repaired.

kubeadm writes in place with O_TRUNC, so a reader can meet half a file. Everything here goes through a
temporary file beside the target and a rename, so that a reader sees the old file or the new one.
"""

from __future__ import annotations

import errno
import os
import stat
import tempfile

from ansible_collections.kubeadm.etcd.plugins.module_utils._errors import EtcdError

# A dot file: the kubelet reads every other name in a manifests directory.
TEMPORARY = ".kubeadm-etcd-"


def read_bytes(path: str) -> bytes | None:
    """Content of a regular file, or None where there is none. EtcdError where it cannot be read."""
    try:
        with open(path, "rb") as handle:
            return handle.read()
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise EtcdError(f"{path} cannot be read: {exc.strerror}.") from exc


def read_text(path: str) -> str | None:
    """The same as text. Bytes that are no UTF-8 are replaced, so that broken files can be reported, not crash."""
    data = read_bytes(path)
    return None if data is None else data.decode("utf-8", errors="replace")


def mode_problem(path: str, mode: int, uid: int = 0, gid: int = 0) -> str | None:
    """Why owner or mode of an existing path are not as wanted, in words; None where they are, or nothing is there."""
    try:
        info = os.stat(path)
    except FileNotFoundError:
        return None
    found = stat.S_IMODE(info.st_mode)
    if found != mode:
        return f"mode is {found:04o}, not {mode:04o}"
    if (info.st_uid, info.st_gid) != (uid, gid):
        return f"owner is {info.st_uid}:{info.st_gid}, not {uid}:{gid}"
    return None


def set_mode(path: str, mode: int, uid: int = 0, gid: int = 0) -> None:
    """Repair owner and mode of an existing path. EtcdError where that is not allowed."""
    try:
        os.chown(path, uid, gid)
        os.chmod(path, mode)
    except OSError as exc:
        raise EtcdError(f"owner and mode of {path} cannot be set: {exc.strerror}.") from exc


def ensure_directory(path: str, mode: int, uid: int = 0, gid: int = 0) -> bool:
    """Make a directory and its missing parents (0755). Mode and owner of an existing one are left alone.

    Returns whether it had to be made. EtcdError where something else stands in its place.
    """
    if os.path.isdir(path):
        return False
    try:
        os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
        os.mkdir(path, 0o700)
    except OSError as exc:
        raise EtcdError(f"directory {path} cannot be made: {exc.strerror}.") from exc
    set_mode(path, mode, uid, gid)
    return True


def replace_file(path: str, data: bytes, mode: int, uid: int = 0, gid: int = 0, staging_dir: str | None = None) -> None:
    """Write a file so that no reader ever sees half of it: temporary file, fsync, rename, fsync of the directory.

    The temporary file is born 0600. With staging_dir it is written there, which must be on the same filesystem (else the rename would be a copy).
    """
    directory = os.path.dirname(path)
    handle, temporary = tempfile.mkstemp(prefix=TEMPORARY, dir=staging_dir or directory)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fchown(stream.fileno(), uid, gid)
            os.fchmod(stream.fileno(), mode)
            os.fsync(stream.fileno())
        try:
            os.rename(temporary, path)
        except OSError as exc:
            if exc.errno != errno.EXDEV or not staging_dir:
                raise
            # A manifests directory that is a mount of its own: stage beside the target after all.
            os.unlink(temporary)
            replace_file(path, data, mode, uid, gid)
            return
    except OSError as exc:
        if os.path.exists(temporary):
            os.unlink(temporary)
        raise EtcdError(f"{path} cannot be written: {exc.strerror}.") from exc
    sync_directory(directory)


def remove_strays(directory: str) -> None:
    """Remove temporary files that a killed run left in a staging directory."""
    for name in os.listdir(directory):
        if name.startswith(TEMPORARY):
            os.unlink(os.path.join(directory, name))


def sync_directory(path: str) -> None:
    """Make renames in a directory survive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
