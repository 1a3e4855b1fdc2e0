# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Files on the managed host: read without a race, replaced by rename, modes repaired.

kubeadm writes in place with O_TRUNC, so a reader can meet half a file. Everything here goes through a
temporary file beside the target and a rename, so that a reader sees the old file or the new one.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass

from ansible_collections.kubeadm.etcd.plugins.module_utils._values.errors import EtcdError

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
    """Why owner or mode of an existing path are not as wanted, in words; None if they are, or if nothing is there."""
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
    """Why others than root may replace the files in a directory, in words; None if they may not, or if none is there.

    Whoever may write to a directory may rename another file over a key in it, whatever the mode of that key is.
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
    return f"mode is {found:04o}, writable for others than root" if found & 0o022 else None


def protect_directory(path: str, uid: int = 0) -> None:
    """Repair what directory_problem found. Group and the other bits stay. EtcdError if that is not allowed."""
    info = os.stat(path)
    set_mode(path, stat.S_IMODE(info.st_mode) & ~0o022, uid, info.st_gid)


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

    With staging_dir the temporary file is written there, unless that turns out to be another mount.
    """
    replace_files([Replacement(path, data, mode, uid, gid)], staging_dir)


def replace_files(files: list[Replacement], staging_dir: str | None = None) -> None:
    """Replace several files, all or none: all are written and on disk before the first is renamed, in order and back to back.

    So a full disk leaves every old file in force, and a pair of files differs for as long as one rename takes. If a rename
    fails, those before it are taken back. The targets of symbolic links are replaced, links that lead nowhere and empty
    directories make way. EtcdError names the file that cannot be written, and which files are new.
    """
    ready: list[_Prepared] = []
    path = ""
    try:
        for item in files:
            path = item.path
            # A link stays a link, as it does for programs that write in place.
            target = os.path.realpath(path) if os.path.exists(path) else path
            make_way(target)
            twin = next((other for other in ready if other.target == target and other.item.data != item.data), None)
            if twin:
                raise EtcdError(
                    f"{twin.item.path} and {path} are one file, {target} (a link), and are to have different contents. Remove the link, and"
                    " run again."
                )
            ready.append(_Prepared(item, target, _prepare(item, target, staging_dir)))
        # A single rename is all or nothing by itself.
        for prepared in ready if len(ready) > 1 else []:
            path = prepared.target
            prepared.backup = _backup(prepared.target)
        for number, prepared in enumerate(ready):
            path = prepared.target
            try:
                _rename(prepared)
            except OSError as exc:
                new = _roll_back(ready[:number])
                words = f"{', '.join(new)} could not be taken back and is new" if new else "The old files are in force"
                raise EtcdError(f"{path} cannot be written: {exc.strerror}. {words}.") from exc
    except OSError as exc:
        raise EtcdError(f"{path} cannot be written: {exc.strerror}. The old files are in force.") from exc
    finally:
        for name in (name for prepared in ready for name in (prepared.temporary, prepared.backup) if name):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name)
    for directory in dict.fromkeys(os.path.dirname(prepared.target) for prepared in ready):
        sync_directory(directory)


@dataclass
class _Prepared:
    """A file on disk that waits to be renamed to its target. backup: the old file under another name; None if there is none."""

    item: Replacement
    target: str
    temporary: str
    backup: str | None = None


def _rename(prepared: _Prepared) -> None:
    """Put a prepared file in its place. What was staged on another mount is written again beside its target."""
    if os.path.isdir(prepared.target) and not os.path.islink(prepared.target):
        os.rmdir(prepared.target)
    try:
        os.rename(prepared.temporary, prepared.target)
    except OSError as exc:
        # Two mounts of one filesystem (bind mounts) have the same device number, and no rename crosses them.
        if exc.errno != errno.EXDEV:
            raise
        staged = prepared.temporary
        prepared.temporary = _prepare(prepared.item, prepared.target, None)
        os.unlink(staged)
        os.rename(prepared.temporary, prepared.target)


def _backup(target: str) -> str | None:
    """A second name of a file, or a copy where the filesystem has no hard links or the file may not have one."""
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
    """Put the old files back. Returns those for which that failed, which are new."""
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
    """Rename a file over another one, also from one mount to another: then it is written beside the target first.

    The target of a symbolic link is replaced, as replace_files does it. Content, mode and owner are those of the source,
    which is gone afterwards. EtcdError if that fails; the target is then as it was.
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
        raise EtcdError(f"{source} cannot be moved to {target}: {exc.strerror}.") from exc


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
                        " Let it end, then run again."
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
        found = sorted(os.path.join(directory, name) for name in os.listdir(directory) if name.startswith(TEMPORARY))
        return [path for path in found if os.path.islink(path) or not os.path.isdir(path)]
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
