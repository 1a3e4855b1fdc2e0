"""Writing files: what a reader sees, and the state after a full disk or with links."""

from __future__ import annotations

import errno
import multiprocessing
import os
import stat
import time
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.kubeadm.etcd.plugins.module_utils._host import files as _files
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.errors import EtcdError

ME = (os.getuid(), os.getgid())


def put(*files: tuple[Path, bytes], mode: int = 0o600) -> None:
    _files.replace_files([_files.Replacement(str(path), data, mode, *ME) for path, data in files])


def test_content_mode_and_nothing_left(tmp_path: Path) -> None:
    old = os.umask(0o077)
    try:
        put((tmp_path / "a.key", b"1"))
        put((tmp_path / "a.crt", b"2"), mode=0o644)
    finally:
        os.umask(old)
    assert sorted(os.listdir(tmp_path)) == ["a.crt", "a.key"]
    assert (tmp_path / "a.key").read_bytes() == b"1"
    assert [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("a.key", "a.crt")] == [0o600, 0o644]


def test_a_reader_keeps_the_file_that_it_has_opened(tmp_path: Path) -> None:
    path = tmp_path / "a.crt"
    put((path, b"old"))
    with open(path, "rb") as handle:
        put((path, b"new"))
        assert handle.read() == b"old"
    assert path.read_bytes() == b"new"


def test_temporary_file_has_its_mode_from_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No other user can open a key before its mode is set."""
    modes = []
    original = os.open

    def opened(path: Any, flags: int, mode: int = 0o777, **kwargs: Any) -> int:
        handle = original(path, flags, mode, **kwargs)
        if flags & os.O_CREAT:
            modes.append(stat.S_IMODE(os.fstat(handle).st_mode))
            assert flags & os.O_EXCL and flags & os.O_NOFOLLOW
        return handle

    monkeypatch.setattr(os, "open", opened)
    old = os.umask(0)
    try:
        put((tmp_path / "a.key", b"secret"))
    finally:
        os.umask(old)
    assert modes == [0o600]


@pytest.mark.parametrize("call", ["write", "fsync", "rename"])
def test_a_full_disk_leaves_the_old_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    """If the second file cannot be written, the first one is unchanged, unless the renames have begun."""
    first, second = tmp_path / "a.key", tmp_path / "b.crt"
    put((first, b"old key"), (second, b"old certificate"))
    calls = []
    original = {"write": os.fdopen, "fsync": os.fsync, "rename": os.rename}[call]

    class Full:
        def __init__(self, stream: Any) -> None:
            self.stream = stream

        def __enter__(self) -> Any:
            return self

        def __exit__(self, *_args: object) -> None:
            self.stream.close()

        def fileno(self) -> int:
            return int(self.stream.fileno())

        def write(self, _data: bytes) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def failing(*arguments: Any, **kwargs: Any) -> Any:
        calls.append(arguments)
        if len(calls) < (1 if call == "rename" else 2):
            return original(*arguments, **kwargs)
        if call == "write":
            return Full(original(*arguments, **kwargs))
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fdopen" if call == "write" else call, failing)
    with pytest.raises(EtcdError, match=r"cannot be written: No space left on device .*No file was changed"):
        put((first, b"new key"), (second, b"new certificate"))
    monkeypatch.undo()
    assert (first.read_bytes(), second.read_bytes()) == (b"old key", b"old certificate")
    assert sorted(os.listdir(tmp_path)) == ["a.key", "b.crt"]


def test_renames_are_back_to_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Slow work is done before the first rename or after the last one."""
    done: list[str] = []
    for name in ("fsync", "rename"):
        original = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *a, _n=name, _o=original: (done.append(_n), _o(*a))[1])
    put((tmp_path / "a.key", b"1"), (tmp_path / "a.crt", b"2"))
    assert done == ["fsync", "fsync", "rename", "rename", "fsync"]


def test_links_to_files_and_directories(tmp_path: Path) -> None:
    """A link to a file stays one, a link to a directory is followed, a link to nowhere makes way."""
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "real.crt").write_bytes(b"old")
    (tmp_path / "a.crt").symlink_to(tmp_path / "far" / "real.crt")
    (tmp_path / "near").symlink_to(tmp_path / "far")
    (tmp_path / "b.crt").symlink_to("/nowhere/at/all")
    put((tmp_path / "a.crt", b"new"), (tmp_path / "near" / "c.crt", b"c"), (tmp_path / "b.crt", b"b"))
    assert (tmp_path / "a.crt").is_symlink() and (tmp_path / "far" / "real.crt").read_bytes() == b"new"
    assert (tmp_path / "far" / "c.crt").read_bytes() == b"c"
    assert not (tmp_path / "b.crt").is_symlink() and (tmp_path / "b.crt").read_bytes() == b"b"
    assert sorted(os.listdir(tmp_path / "far")) == ["c.crt", "real.crt"]


def test_a_directory_in_the_place_of_a_file(tmp_path: Path) -> None:
    """An empty directory is replaced. With content it is kept, and no file is written."""
    (tmp_path / "empty.crt").mkdir()
    put((tmp_path / "empty.crt", b"1"))
    assert (tmp_path / "empty.crt").read_bytes() == b"1"
    (tmp_path / "full.crt").mkdir()
    (tmp_path / "full.crt" / "x").write_bytes(b"somebody's")
    with pytest.raises(EtcdError, match=r"full.crt must be a file, but is a directory with content.*Move it away"):
        put((tmp_path / "other.crt", b"2"), (tmp_path / "full.crt", b"1"))
    assert (tmp_path / "full.crt" / "x").exists() and not (tmp_path / "other.crt").exists()
    assert _files.strays(str(tmp_path)) == []


def test_directory_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(EtcdError, match=r"a.crt cannot be written: No such file or directory"):
        put((tmp_path / "gone" / "a.crt", b"1"))


def test_selinux_context_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulated with another extended attribute, since test machines may lack SELinux."""
    attribute = "user.context"
    path = tmp_path / "a.crt"
    put((path, b"old"))
    try:
        os.setxattr(path, attribute, b"etcd_t")
    except OSError:
        pytest.skip("no extended attributes here")
    monkeypatch.setattr(_files._keep_context, "__defaults__", (attribute,))
    put((path, b"new"))
    assert os.getxattr(path, attribute) == b"etcd_t" and path.read_bytes() == b"new"


def test_staging_directory_of_the_same_filesystem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "manifests").mkdir()
    (tmp_path / "work").mkdir()
    seen = []
    monkeypatch.setattr(os, "rename", lambda a, b, _o=os.rename: (seen.append(os.path.dirname(a)), _o(a, b))[1])
    _files.replace_file(str(tmp_path / "manifests" / "etcd.yaml"), b"x", 0o600, *ME, staging_dir=str(tmp_path / "work"))
    assert seen == [str(tmp_path / "work")] and os.listdir(tmp_path / "manifests") == ["etcd.yaml"]


def hold(path: str, ready: Any) -> None:
    with _files.locked(path, lasts=60):
        ready.set()
        time.sleep(60)


def test_the_file_lock_names_its_holder(tmp_path: Path) -> None:
    """The second one waits, says who it waits for, and gets it when the first one is killed."""
    path = str(tmp_path / "lock")
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    holder = context.Process(target=hold, args=(path, ready))
    holder.start()
    try:
        assert ready.wait(10)
        with pytest.raises(
            EtcdError,
            match=rf"Another run is changing this host \(process {holder.pid}, which may need until ..:..:.. UTC,"
            r" has held .*lock for more than 0 s",
        ), _files.locked(path, seconds=0.2):
            pytest.fail("two have the lock")
    finally:
        holder.kill()
        holder.join(10)
    with _files.locked(path, seconds=5):
        assert Path(path).read_text() == f"process {os.getpid()}"
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o600


@pytest.mark.parametrize(
    ("make", "data", "words"),
    [
        (lambda path: path.write_bytes(b"x"), b"x", ""),
        (lambda path: path.write_bytes(b""), b"", "empty"),
        (lambda _path: None, None, "missing"),
        (lambda path: path.mkdir(), None, "a directory"),
        (lambda path: path.symlink_to("/nowhere"), None, "a broken symbolic link"),
    ],
)
def test_read_or_say(tmp_path: Path, make: Any, data: bytes | None, words: str) -> None:
    make(tmp_path / "a")
    assert _files.read_or_say(str(tmp_path / "a")) == (data, words)


def test_read_or_say_of_a_file_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_path: str) -> None:
        raise EtcdError("input/output error.")

    monkeypatch.setattr(_files, "read_bytes", fail)
    assert _files.read_or_say(str(tmp_path / "a")) == (None, "input/output error")


def test_owners(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, me = tmp_path / "a", (os.getuid(), os.getgid())
    given: list[tuple[int, int]] = []
    monkeypatch.setattr(_files.os, "fchown", lambda _handle, *owner: given.append(owner))
    _files.replace_files([_files.Replacement(str(path), b"x", 0o600, *me)])
    assert given == [me]
    assert _files.mode_problem(str(path), 0o600, *me) is None
    assert (
        _files.mode_problem(str(path), 0o600, me[0] + 1, me[1]) == f"owner is {me[0]}:{me[1]}, not {me[0] + 1}:{me[1]}"
    )
    assert _files.mode_problem(str(path), 0o600, me[0], me[1] + 1)


def test_strays_are_removed_and_nothing_else(tmp_path: Path) -> None:
    for name in (".kubeadm-etcd-1", "ca.crt", ".other"):
        (tmp_path / name).write_bytes(b"x")
    _files.remove_strays(str(tmp_path))
    assert sorted(os.listdir(tmp_path)) == [".other", "ca.crt"]
    assert _files.strays(str(tmp_path / "gone")) == []


def renames_that_fail(monkeypatch: pytest.MonkeyPatch, number: int, code: int, crossing: str = "") -> list[Any]:
    """The rename of this number fails; with crossing, each one out of that directory."""
    calls: list[Any] = []
    original = os.rename

    def rename(source: Any, target: Any) -> None:
        calls.append((source, target))
        if len(calls) == number or (crossing and os.path.dirname(source) == crossing):
            raise OSError(code, os.strerror(code))
        original(source, target)

    monkeypatch.setattr(os, "rename", rename)
    return calls


@pytest.mark.parametrize("linked", [True, False], ids=["hard links", "no hard links"])
@pytest.mark.parametrize("there", [True, False], ids=["replaced", "new"])
def test_a_pair_of_which_one_cannot_be_renamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: bool, linked: bool
) -> None:
    """The certificate is immutable: its new key is undone, so that certificate and key match."""
    key, certificate = tmp_path / "a.key", tmp_path / "a.crt"
    if there:
        put((key, b"old key"), (certificate, b"old certificate"))

    def refuse() -> None:
        raise PermissionError(1, "no")

    if not linked:
        monkeypatch.setattr(os, "link", lambda *_a, **_k: refuse())
    renames_that_fail(monkeypatch, 2, errno.EPERM)
    with pytest.raises(EtcdError, match=r"a.crt cannot be written: Operation not permitted .*No file was changed"):
        put((key, b"new key"), (certificate, b"new certificate"))
    assert sorted(os.listdir(tmp_path)) == (["a.crt", "a.key"] if there else [])
    if there:
        assert (key.read_bytes(), certificate.read_bytes()) == (b"old key", b"old certificate")
        assert stat.S_IMODE(key.stat().st_mode) == 0o600


def test_the_message_names_files_that_could_not_be_restored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key, certificate = tmp_path / "a.key", tmp_path / "a.crt"
    put((key, b"old key"), (certificate, b"old certificate"))
    calls: list[Any] = []
    original = os.rename

    def rename(source: Any, target: Any) -> None:
        calls.append(target)
        if len(calls) > 1:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        original(source, target)

    monkeypatch.setattr(os, "rename", rename)
    with pytest.raises(EtcdError, match=r"a.crt cannot be written: .*The old .*a.key could not be restored"):
        put((key, b"new key"), (certificate, b"new certificate"))
    assert key.read_bytes() == b"new key"


def test_staging_directory_behind_another_mount(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bind mount has the device number of what it shows, and no rename crosses it."""
    (tmp_path / "manifests").mkdir()
    (tmp_path / "work").mkdir()
    renames_that_fail(monkeypatch, 0, errno.EXDEV, crossing=str(tmp_path / "work"))
    _files.replace_file(str(tmp_path / "manifests" / "etcd.yaml"), b"x", 0o600, *ME, staging_dir=str(tmp_path / "work"))
    assert (tmp_path / "manifests" / "etcd.yaml").read_bytes() == b"x"
    assert os.listdir(tmp_path / "manifests") == ["etcd.yaml"] and os.listdir(tmp_path / "work") == []


@pytest.mark.parametrize("crossing", [True, False])
def test_a_file_is_moved_over_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, crossing: bool) -> None:
    for name in ("manifests", "work", "far"):
        (tmp_path / name).mkdir()
    source, target = tmp_path / "work" / "previous", tmp_path / "manifests" / "etcd.yaml"
    put((source, b"previous"), (tmp_path / "far" / "etcd.yaml", b"broken"))
    target.symlink_to(tmp_path / "far" / "etcd.yaml")
    if crossing:
        renames_that_fail(monkeypatch, 0, errno.EXDEV, crossing=str(tmp_path / "work"))
    _files.move_file(str(source), str(target))
    assert target.is_symlink() and target.read_bytes() == b"previous" and not source.exists()
    assert os.listdir(tmp_path / "far") == ["etcd.yaml"]
    with pytest.raises(EtcdError, match=r"cannot be moved to .*: No such file"):
        _files.move_file(str(source), str(target))
    assert target.read_bytes() == b"previous"


@pytest.mark.parametrize("code", [errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.ELOOP, errno.EIO])
def test_modes_that_cannot_be_read(monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    """A missing file has no wrong mode. Other errors are reported, not raised."""

    def failing(*_arguments: Any) -> Any:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "stat", failing)
    for problem in (_files.mode_problem("/x/y", 0o600), _files.directory_problem("/x/y")):
        assert problem == (
            None if code in (errno.ENOENT, errno.ENOTDIR) else f"owner and mode cannot be read: {os.strerror(code)}"
        )


@pytest.mark.parametrize(
    ("mode", "repaired"), [(0o777, 0o755), (0o775, 0o755), (0o722, 0o700), (0o755, None), (0o750, None), (0o2755, None)]
)
def test_directory_that_others_may_write_to(tmp_path: Path, mode: int, repaired: int | None) -> None:
    path = tmp_path / "etcd"
    path.mkdir()
    path.chmod(mode)
    assert bool(_files.directory_problem(str(path), ME[0])) == (repaired is not None)
    if repaired is not None:
        assert f"mode is {mode:04o}" in str(_files.directory_problem(str(path), ME[0]))
        _files.protect_directory(str(path), ME[0])
        assert stat.S_IMODE(path.stat().st_mode) == repaired
        assert _files.directory_problem(str(path), ME[0]) is None
    assert "owner is" in str(_files.directory_problem(str(path), ME[0] + 1))


def test_two_files_that_are_one(tmp_path: Path) -> None:
    """A key that is a link to another key would get the contents of both."""
    (tmp_path / "peer.key").write_bytes(b"old")
    (tmp_path / "server.key").symlink_to(tmp_path / "peer.key")
    names = ("server.key", "peer.key")
    with pytest.raises(EtcdError, match=r"server\.key and .*peer\.key are the same file"):
        put(*((tmp_path / name, name.encode()) for name in names))
    assert (tmp_path / "peer.key").read_bytes() == b"old" and sorted(os.listdir(tmp_path)) == ["peer.key", "server.key"]


def test_a_directory_is_not_removed_as_a_stray(tmp_path: Path) -> None:
    (tmp_path / ".kubeadm-etcd-dir").mkdir()
    (tmp_path / ".kubeadm-etcd-file").write_text("x")
    _files.remove_strays(str(tmp_path))
    assert os.listdir(tmp_path) == [".kubeadm-etcd-dir"]


def test_a_pipe_or_a_device_in_place_of_a_file(tmp_path: Path) -> None:
    """Its reading would never end."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "device").symlink_to("/dev/zero")
    for name in ("pipe", "device"):
        with pytest.raises(EtcdError, match=f"{name} cannot be read: it is a pipe or a device"):
            _files.read_bytes(str(tmp_path / name))
