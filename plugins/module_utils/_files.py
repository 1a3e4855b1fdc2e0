# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Files on the managed host: read without a race, replaced by rename, modes repaired.

kubeadm writes in place with O_TRUNC, so a reader can meet half a file. Everything here goes through a
temporary file beside the target and a rename, so that a reader sees the old file or the new one.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass

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


def read_or_say(path: str) -> tuple[bytes | None, str]:
    """Content of a file, or why there is none, in words for people. Never raises."""
    if os.path.islink(path) and not os.path.exists(path):
        return None, "a link that leads nowhere"
    if os.path.isdir(path):
        return None, "a directory"
    try:
        data = read_bytes(path)
    except EtcdError as exc:
        return None, str(exc).rstrip(".")
    return data, "missing" if data is None else "empty" if not data else ""


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


@dataclass(frozen=True)
class Replacement:
    """A file that is to have this content, mode and owner."""

    path: str
    data: bytes
    mode: int
    uid: int = 0
    gid: int = 0


def replace_file(path: str, data: bytes, mode: int, uid: int = 0, gid: int = 0, staging_dir: str | None = None) -> None:
    """Write a file so that no reader ever sees half of it: temporary file, fsync, rename, fsync of the directory.

    With staging_dir the temporary file is written there, if that is on the same filesystem (else a rename would be a copy).
    """
    replace_files([Replacement(path, data, mode, uid, gid)], staging_dir)


def replace_files(files: list[Replacement], staging_dir: str | None = None) -> None:
    """Replace several files: all are written and on disk before the first is renamed, in order and back to back.

    So a full disk leaves every old file in force, and a pair of files differs for as long as one rename takes. The
    targets of symbolic links are replaced, links that lead nowhere and empty directories make way. EtcdError names the
    file that cannot be written.
    """
    ready: list[tuple[str, str]] = []
    path = ""
    try:
        for item in files:
            path = item.path
            # A link stays a link, as it does for programs that write in place.
            target = os.path.realpath(path) if os.path.exists(path) else path
            make_way(target)
            ready.append((_prepare(item, target, staging_dir), target))
        for temporary, target in ready:
            path = target
            if os.path.isdir(target) and not os.path.islink(target):
                os.rmdir(target)
            os.rename(temporary, target)
    except OSError as exc:
        raise EtcdError(f"{path} cannot be written: {exc.strerror}. The old files are in force.") from exc
    finally:
        for temporary, _target in ready:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
    for directory in dict.fromkeys(os.path.dirname(target) for _temporary, target in ready):
        sync_directory(directory)


def make_way(path: str) -> None:
    """EtcdError where a directory with content stands in the place of a file: nothing of it is removed."""
    if os.path.isdir(path) and os.listdir(path):
        raise EtcdError(f"{path} is a directory that is not empty, not a file. Move it away, and run again.")


def _prepare(item: Replacement, target: str, staging_dir: str | None) -> str:
    """A temporary file with content, mode, owner and SELinux context of its target, on disk. Returns its path."""
    directory = os.path.dirname(target)
    if staging_dir and os.stat(staging_dir).st_dev == os.stat(directory).st_dev:
        directory = staging_dir
    temporary = os.path.join(directory, TEMPORARY + secrets.token_hex(8))
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, item.mode)
    try:
        with os.fdopen(handle, "wb") as stream:
            os.fchown(stream.fileno(), item.uid, item.gid)
            # Again, since the umask took something away, and chown clears special bits.
            os.fchmod(stream.fileno(), item.mode)
            _keep_context(target, temporary)
            stream.write(item.data)
            stream.flush()
            os.fsync(stream.fileno())
    except BaseException:
        os.unlink(temporary)
        raise
    return temporary


def _keep_context(source: str, target: str, attribute: str = "security.selinux") -> None:
    """Give a file the SELinux context of the one that it replaces. A new file has that of its directory already."""
    # Not there, no SELinux, a filesystem without extended attributes: nothing to keep.
    with contextlib.suppress(OSError):
        os.setxattr(target, attribute, os.getxattr(source, attribute))


@contextlib.contextmanager
def locked(path: str, seconds: float = 20.0, lasts: float = 0.0) -> Iterator[None]:
    """Keep other runs from changing the same host meanwhile. EtcdError where another has the lock for longer than that.

    The lock is the kernel's (flock): it ends with the process that holds it, however that ends. lasts: seconds that we
    may hold it, where that is long, for the message to those who wait in vain.
    """
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as exc:
        raise EtcdError(f"{path} cannot be opened: {exc.strerror}.") from exc
    try:
        deadline = time.monotonic() + seconds
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    holder = os.pread(handle, 200, 0).decode("utf-8", errors="replace") or "it"
                    raise EtcdError(
                        f"Another run is changing this host ({holder} has held {path} for more than {seconds:.0f} s)."
                        " Let it end, or end it, then run again."
                    ) from None
                time.sleep(0.05)
        end = time.strftime("%H:%M:%S UTC", time.gmtime(time.time() + lasts))
        # On a full disk the lock goes without words.
        with contextlib.suppress(OSError):
            os.ftruncate(handle, 0)
            os.pwrite(handle, f"process {os.getpid()}{f', which may need until {end},' if lasts else ''}".encode(), 0)
        yield
    finally:
        os.close(handle)


def strays(directory: str) -> list[str]:
    """Temporary files that a killed run left in a directory."""
    try:
        return sorted(os.path.join(directory, name) for name in os.listdir(directory) if name.startswith(TEMPORARY))
    except OSError:
        return []


def remove_strays(directory: str) -> None:
    """Remove them."""
    for path in strays(directory):
        os.unlink(path)


def sync_directory(path: str) -> None:
    """Make renames in a directory survive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
