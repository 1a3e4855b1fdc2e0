# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Files on the managed host: read them without races, replace them by rename, repair their modes.

kubeadm writes in place with O_TRUNC, so a reader may see half a file. This file always writes a temporary file beside the target and
renames it, so that a reader sees either the old or the new file.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import secrets
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from ansible_collections.kubeadm.etcd.plugins.module_utils._values.errors import EtcdError, reason_of

# Temporary files are dot files: the kubelet reads all other files in the manifests directory.
TEMPORARY = ".kubeadm-etcd-"


@contextlib.contextmanager
def open_file(path: str) -> Iterator[BinaryIO]:
    """A file, open to be read. OSError if it cannot be, or is a pipe or a device, whose reading may never end."""
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as handle:
        if not stat.S_ISREG(os.fstat(handle.fileno()).st_mode):
            raise OSError(errno.EINVAL, "it is a pipe or a device. Move it away, and run again", path)
        yield handle


def read_bytes(path: str) -> bytes | None:
    """The content of a file; None if it does not exist. EtcdError if it cannot be read."""
    try:
        with open_file(path) as handle:
            return handle.read()
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise EtcdError(f"{path} cannot be read: {reason_of(exc)}.") from exc


def read_or_say(path: str) -> tuple[bytes | None, str]:
    """The content of a file, or None and the reason as text. Never raises."""
    if os.path.islink(path) and not os.path.exists(path):
        return None, "a broken symbolic link"
    if os.path.isdir(path):
        return None, "a directory"
    try:
        data = read_bytes(path)
    except EtcdError as exc:
        return None, str(exc).rstrip(".")
    return data, "missing" if data is None else "empty" if not data else ""


def read_text(path: str) -> str | None:
    """The content of a file as text. Invalid UTF-8 is replaced, so that a broken file can be reported instead of raising."""
    data = read_bytes(path)
    return None if data is None else data.decode("utf-8", errors="replace")


def mode_problem(path: str, mode: int, uid: int = 0, gid: int = 0) -> str | None:
    """Why the owner or mode of a path is wrong; None if both are right, or if the path does not exist."""
    try:
        info = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as exc:
        return f"owner and mode cannot be read: {exc.strerror}"
    found = stat.S_IMODE(info.st_mode)
    if found != mode:
        return f"mode is {found:04o}, not {mode:04o}"
    if (info.st_uid, info.st_gid) != (uid, gid):
        return f"owner is {info.st_uid}:{info.st_gid}, not {uid}:{gid}"
    return None


def directory_problem(path: str, uid: int = 0) -> str | None:
    """Why users other than root may replace the files in a directory; None if they may not, or if it does not exist.

    A user who may write to a directory can rename another file over a key in it, whatever the mode of the key.
    """
    try:
        info = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as exc:
        return f"owner and mode cannot be read: {exc.strerror}"
    found = stat.S_IMODE(info.st_mode)
    if not stat.S_ISDIR(info.st_mode):
        return None
    if info.st_uid != uid:
        return f"owner is {info.st_uid}, not {uid}"
    return f"mode is {found:04o}, writable by users other than root" if found & 0o022 else None


def protect_directory(path: str, uid: int = 0) -> None:
    """Repair what directory_problem reports. The group and the other mode bits stay. EtcdError if that fails."""
    info = os.stat(path)
    set_mode(path, stat.S_IMODE(info.st_mode) & ~0o022, uid, info.st_gid)


def set_mode(path: str, mode: int, uid: int = 0, gid: int = 0) -> None:
    """Set owner and mode of an existing path. EtcdError if that fails."""
    try:
        os.chown(path, uid, gid)
        os.chmod(path, mode)
    except OSError as exc:
        raise EtcdError(f"owner and mode of {path} cannot be set: {reason_of(exc)}.") from exc


def ensure_directory(path: str, mode: int, uid: int = 0, gid: int = 0) -> bool:
    """Create a directory and its missing parents (0755). The mode and owner of an existing directory do not change.

    Returns whether it was created. EtcdError if that fails.
    """
    if os.path.isdir(path):
        return False
    try:
        os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
        os.mkdir(path, 0o700)
    except OSError as exc:
        raise EtcdError(f"directory {path} cannot be created: {reason_of(exc)}.") from exc
    set_mode(path, mode, uid, gid)
    return True


@dataclass(frozen=True)
class Replacement:
    """A file to write, with its content, mode and owner."""

    path: str
    data: bytes
    mode: int
    uid: int = 0
    gid: int = 0


def replace_file(path: str, data: bytes, mode: int, uid: int = 0, gid: int = 0, staging_dir: str | None = None) -> None:
    """Replace a file atomically: temporary file, fsync, rename, fsync of the directory.

    staging_dir: the directory for the temporary file, used if it is on the same mount as the target.
    """
    replace_files([Replacement(path, data, mode, uid, gid)], staging_dir)


def replace_files(files: list[Replacement], staging_dir: str | None = None) -> None:
    """Replace several files, all or none. All are on disk before the first is renamed; they are renamed in order, back to back.

    So a full disk leaves all old files in place, and a pair of files is inconsistent only between two renames. If a rename fails, those
    before it are undone. The target of a symbolic link is replaced; broken links and empty directories are replaced too. EtcdError names
    the file that cannot be written, and the files that could not be restored.
    """
    ready: list[_Prepared] = []
    path = ""
    try:
        for item in files:
            path = item.path
            # Keep a symbolic link, and replace its target, as programs do that write in place.
            target = os.path.realpath(path) if os.path.exists(path) else path
            make_way(target)
            twin = next((other for other in ready if other.target == target and other.item.data != item.data), None)
            if twin:
                raise EtcdError(
                    f"{twin.item.path} and {path} are the same file, {target}, because one is a link, but need different contents. Remove the"
                    " link, and run again."
                )
            ready.append(_Prepared(item, target, _prepare(item, target, staging_dir)))
        # A single rename is atomic and needs no backup.
        for prepared in ready if len(ready) > 1 else []:
            path = prepared.target
            prepared.backup = _backup(prepared.target)
        for number, prepared in enumerate(ready):
            path = prepared.target
            try:
                _rename(prepared)
            except OSError as exc:
                new = _roll_back(ready[:number])
                words = f"The old {', '.join(new)} could not be restored" if new else "No file was changed"
                raise EtcdError(f"{path} cannot be written: {reason_of(exc)}. {words}.") from exc
    except OSError as exc:
        raise EtcdError(f"{path} cannot be written: {reason_of(exc)}. No file was changed.") from exc
    finally:
        for name in (name for prepared in ready for name in (prepared.temporary, prepared.backup) if name):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name)
    for directory in dict.fromkeys(os.path.dirname(prepared.target) for prepared in ready):
        sync_directory(directory)


@dataclass
class _Prepared:
    """A temporary file that is ready to be renamed to its target. backup: another name of the old file; None if there is none."""

    item: Replacement
    target: str
    temporary: str
    backup: str | None = None


def _rename(prepared: _Prepared) -> None:
    """Rename a prepared file to its target. If it is on another mount, write it again beside the target first."""
    if os.path.isdir(prepared.target) and not os.path.islink(prepared.target):
        os.rmdir(prepared.target)
    try:
        os.rename(prepared.temporary, prepared.target)
    except OSError as exc:
        # Two mounts of one filesystem (bind mounts) have the same device number, but rename does not work between them.
        if exc.errno != errno.EXDEV:
            raise
        staged = prepared.temporary
        prepared.temporary = _prepare(prepared.item, prepared.target, None)
        os.unlink(staged)
        os.rename(prepared.temporary, prepared.target)


def _backup(target: str) -> str | None:
    """A hard link to a file, or a copy if hard links do not work. Returns its path; None if there is no file."""
    if not os.path.isfile(target):
        return None
    name = os.path.join(os.path.dirname(target), TEMPORARY + secrets.token_hex(8))
    try:
        os.link(target, name)
    except OSError:
        info = os.stat(target)
        with open(target, "rb") as handle:
            copy = Replacement(target, handle.read(), stat.S_IMODE(info.st_mode), info.st_uid, info.st_gid)
        return _prepare(copy, target, None)
    return name


def _roll_back(renamed: list[_Prepared]) -> list[str]:
    """Restore the old files. Returns the paths for which that failed."""
    new = []
    for prepared in reversed(renamed):
        try:
            if prepared.backup:
                os.rename(prepared.backup, prepared.target)
            else:
                os.unlink(prepared.target)
        except OSError:
            new.append(prepared.target)
    return new


def move_file(source: str, target: str) -> None:
    """Move a file over another one, also between mounts: then it is written beside the target first.

    The target of a symbolic link is replaced, as in replace_files. Content, mode and owner are those of the source, which no longer exists
    afterwards. EtcdError if that fails; the target has not changed then.
    """
    try:
        place = os.path.realpath(target) if os.path.exists(target) else target
        try:
            os.rename(source, place)
        except OSError as exc:
            if exc.errno != errno.EXDEV:
                raise
            info = os.stat(source)
            with open(source, "rb") as handle:
                data = handle.read()
            replace_file(place, data, stat.S_IMODE(info.st_mode), info.st_uid, info.st_gid)
            os.unlink(source)
        sync_directory(os.path.dirname(place))
    except OSError as exc:
        raise EtcdError(f"{source} cannot be moved to {target}: {reason_of(exc)}.") from exc


def make_way(path: str) -> None:
    """EtcdError if the path is a directory with content, which is never removed."""
    if os.path.isdir(path) and os.listdir(path):
        raise EtcdError(f"{path} must be a file, but is a directory with content. Move it away, and run again.")


def _prepare(item: Replacement, target: str, staging_dir: str | None) -> str:
    """Write a temporary file with the content, mode, owner and SELinux context for its target, and fsync it. Returns its path."""
    directory = os.path.dirname(target)
    if staging_dir and os.stat(staging_dir).st_dev == os.stat(directory).st_dev:
        directory = staging_dir
    temporary = os.path.join(directory, TEMPORARY + secrets.token_hex(8))
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, item.mode)
    try:
        with os.fdopen(handle, "wb") as stream:
            os.fchown(stream.fileno(), item.uid, item.gid)
            # Set the mode again: the umask applied to open(), and chown clears special bits.
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
    """Give a file the SELinux context of the file that it replaces. A new file inherits the context of its directory."""
    # Without an old file, SELinux or extended attributes there is nothing to copy.
    with contextlib.suppress(OSError):
        os.setxattr(target, attribute, os.getxattr(source, attribute))


@contextlib.contextmanager
def locked(path: str, seconds: float = 20.0, lasts: float = 0.0) -> Iterator[None]:
    """Hold the lock of this host, so that other runs do not change it. EtcdError if another run holds it for longer than `seconds`.

    The kernel holds the lock (flock), so it ends with the process. lasts: the seconds for which this run may hold it, for the message
    of other runs that time out.
    """
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as exc:
        raise EtcdError(f"{path} cannot be opened: {reason_of(exc)}.") from exc
    try:
        deadline = time.monotonic() + seconds
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    holder = os.pread(handle, 200, 0).decode("utf-8", errors="replace") or "a process"
                    raise EtcdError(
                        f"Another run is changing this host ({holder} has held {path} for more than {seconds:.0f} s)."
                        " Wait until it ends, then run again."
                    ) from None
                time.sleep(0.05)
        end = time.strftime("%H:%M:%S UTC", time.gmtime(time.time() + lasts))
        # On a full disk, the lock works without this text.
        with contextlib.suppress(OSError):
            os.ftruncate(handle, 0)
            os.pwrite(handle, f"process {os.getpid()}{f', which may need until {end},' if lasts else ''}".encode(), 0)
        yield
    finally:
        os.close(handle)


def strays(directory: str) -> list[str]:
    """Temporary files in a directory that are left over from a killed run."""
    try:
        found = sorted(os.path.join(directory, name) for name in os.listdir(directory) if name.startswith(TEMPORARY))
        return [path for path in found if os.path.islink(path) or not os.path.isdir(path)]
    except OSError:
        return []


def remove_strays(directory: str) -> None:
    """Remove the temporary files of killed runs."""
    for path in strays(directory):
        os.unlink(path)


def sha256_of(path: str) -> str:
    """The SHA-256 of a file, hexadecimal, read piece by piece. OSError if it cannot be read."""
    digest = hashlib.sha256()
    with open_file(path) as file:
        for piece in iter(lambda: file.read(1 << 20), b""):
            digest.update(piece)
    return digest.hexdigest()


def sync_directory(path: str) -> None:
    """Make renames in a directory survive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
