"""A member is restored on its host, step by step: nothing is stopped or moved away before the restored data is there."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.kubeadm.etcd.plugins.module_utils._host import diagnosis
from ansible_collections.kubeadm.etcd.plugins.module_utils._member import processes as _processes
from ansible_collections.kubeadm.etcd.plugins.module_utils._member import restore, staged
from ansible_collections.kubeadm.etcd.plugins.module_utils._member import rollout as _rollout
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.errors import EtcdError
from test_record import write_log


class Host:
    """A host with data of cluster 5, whose member is to be restored as one of cluster 2 (see write_log)."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root, self.data, self.staging = root, root / "etcd", root / "etcd.restored"
        self.manifest = root / "manifests" / "etcd.yaml"
        self.manifest.parent.mkdir()
        self.manifest.write_text("manifest")
        (self.data / "member").mkdir(parents=True)
        (self.data / "member" / "former").touch()
        self.process: Any = _processes.Process(7, 1, ["etcd"])
        self.free = 1 << 40
        self.ready = False
        self.file = SimpleNamespace(path=str(root / "snapshot.db"), size=1000, is_database=False, identity="ab" * 32)
        self.code = 0
        # Why an image cannot be had, by its name.
        self.missing: dict[str, str] = {}
        self.kubernetes = False
        # Of etcd in what runs, and in the image that is wanted.
        self.storage, self.versions = "3.6.0", {"running": "3.6.14", "image": "3.6.14"}
        self.acts: list[str] = []
        self.argv: list[str] = []
        self.spec = restore.RestoreSpec(
            str(root / "snapshot.db"),
            "token-10000000",
            "infra0",
            [("infra0", "10.0.0.6"), ("infra1", "fd00::7")],
            "registry/etcd:3.6",
            data_dir=str(self.data),
            work_dir=str(root / "work"),
            manifests_dir=str(self.manifest.parent),
        )
        fakes: list[tuple[Any, str, Any]] = [
            (restore, "cluster_id", lambda _urls, _token: "2"),
            (restore, "read_snapshot_file", lambda _path: self.file),
            (restore, "check_file", lambda _path: self.acts.append("check file")),
            (restore, "free_bytes", lambda _path: self.free),
            (restore, "has_kubernetes", lambda _path: self.kubernetes),
            (restore, "image_root", self.image_root),
            (restore, "run_alone", self.etcdutl),
            (
                restore,
                "describe",
                lambda root, _path: {"storage": self.storage, "version": self.versions[root], "revision": 7},
            ),
            (restore, "end_etcd", self.end),
            (restore, "hold_host_lock", lambda *_: self.acts.append("lock")),
            (restore, "probe", lambda url, _timeout: (self.ready and url.endswith("/readyz"), "")),
            (diagnosis, "pause_image", lambda _endpoint: "pause:3"),
            (diagnosis, "ensure_image", self.ensure),
            (_processes, "find_etcd_process", lambda _name: self.process),
            (_rollout, "check_controller", lambda: None),
        ]
        for target, name, fake in fakes:
            monkeypatch.setattr(target, name, fake)

    @contextlib.contextmanager
    def image_root(self, _image: str, pid: int = 0) -> Iterator[str]:
        self.acts.append(f"image of {pid}")
        yield "running" if pid else "image"

    def etcdutl(self, _root: str, _program: str, argv: list[str], _timeout: float) -> Any:
        self.acts.append("etcdutl")
        self.argv = argv
        write_log(Path(argv[argv.index("--data-dir") + 1]), led=False)
        return SimpleNamespace(code=self.code, stdout="", stderr="it fails" if self.code else "")

    def ensure(self, _endpoint: str, image: str, _timeout: float) -> Any:
        self.acts.append(f"have {image}")
        return SimpleNamespace(text=self.missing[image]) if image in self.missing else None

    def end(self, _member: str, manifest: str, kept: str, _endpoint: str) -> None:
        self.acts.append("end")
        os.rename(manifest, kept)
        self.process = None

    def run(self, step: str, check: bool = False) -> list[str]:
        return [change["code"] for change in restore.restore(self.spec, step, check)["changes"]]

    def names(self) -> set[str]:
        return {path.name for path in self.root.iterdir()}


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    return Host(tmp_path, monkeypatch)


def test_the_three_steps(host: Host) -> None:
    assert host.run("prepare") == ["prepared"]
    images = ["have registry/etcd:3.6", "have pause:3"]
    assert (
        host.acts == ["lock", "check file", *images, "image of 7", "etcdutl"]
        and (host.data / "member" / "former").exists()
    )
    assert host.run("stop") == ["stopped"] and host.acts[-2:] == ["lock", "end"]
    assert (host.root / "work" / "etcd.yaml.before-restore").read_text() == "manifest"
    assert host.run("replace") == ["archived", "replaced"]
    assert list((host.data / "member" / "wal").iterdir()) and not (host.data / "member" / "former").exists()
    (kept,) = host.root.glob("etcd.replaced-*")
    assert (kept / "member" / "former").exists() and not host.staging.exists()
    # From here on it is a member of the restored cluster: nothing is stopped or replaced again.
    host.process = _processes.Process(8, 2, ["etcd"])
    host.acts.clear()
    assert [host.run(step) for step in restore.STEPS] == [[], [], []] and host.acts == []


def test_check_mode_changes_nothing(host: Host) -> None:
    before = host.names()
    codes = [host.run(step, check=True) for step in restore.STEPS]
    assert codes == [["prepared"], ["stopped"], ["archived", "replaced"]]
    assert host.names() == before and host.acts == [] and host.manifest.exists()


def test_a_file_that_changes_on_the_controller_meanwhile(host: Host) -> None:
    """It travels to one host after the other: they would get different data under one id of a cluster."""
    before = host.names() | {"work"}
    host.spec = dataclasses.replace(host.spec, identity="cd" * 32)
    with pytest.raises(EtcdError, match=r"infra0: the copy .* is not the snapshot that this run was planned with"):
        host.run("prepare")
    assert host.names() == before and "etcdutl" not in host.acts
    host.spec = dataclasses.replace(host.spec, identity="ab" * 32)
    assert host.run("prepare") == ["prepared"]


@pytest.mark.parametrize("step", ["stop", "replace"])
def test_nothing_is_stopped_or_moved_for_data_that_is_not_there(host: Host, step: str) -> None:
    write_log(host.root / "etcd.restored.partial", led=False)
    with pytest.raises(EtcdError, match="does not have the snapshot of this run"):
        host.run(step)
    assert "end" not in host.acts and (host.data / "member" / "former").exists() and host.manifest.exists()


def test_data_of_another_restore_is_not_used(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    host.run("prepare")
    monkeypatch.setattr(restore, "cluster_id", lambda _urls, _token: "3")
    with pytest.raises(EtcdError, match="does not have the snapshot of this run"):
        host.run("stop")
    # Nor on a host that has nothing to stop, where this is the last look before the data of others is replaced.
    host.manifest.unlink()
    host.process = None
    with pytest.raises(EtcdError, match="does not have the snapshot of this run"):
        host.run("stop")
    with pytest.raises(EtcdError, match="etcdutl cannot restore"):
        host.run("prepare")
    assert not host.staging.exists()


@pytest.mark.parametrize("step", restore.STEPS)
@pytest.mark.parametrize("former", ["", "5"])
def test_a_host_that_another_run_has_restored_meanwhile(host: Host, step: str, former: str) -> None:
    """Its members may have acknowledged writes since, which the plan of this run does not know."""
    host.run("prepare")
    write_log(host.data.rename(host.root / "away").parent / "etcd", led=True)
    host.spec = dataclasses.replace(host.spec, former=former, token="other-1")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(restore, "cluster_id", lambda _urls, _token: "3")
        with pytest.raises(EtcdError, match=f"is of cluster 2, and was of cluster {former or 'none'} when"):
            host.run(step)
    assert "end" not in host.acts and host.manifest.exists() and (host.data / "member/wal").is_dir()


def test_a_member_that_another_run_has_started_is_not_stopped(host: Host) -> None:
    """The plan has seen no ready member, so the user was not asked to name the cluster."""
    host.run("prepare")
    host.ready = True
    assert host.run("stop", check=True) == ["stopped"]
    with pytest.raises(EtcdError, match="etcd is ready now, and no member was when"):
        host.run("stop")
    assert "end" not in host.acts and host.manifest.exists()
    host.spec = dataclasses.replace(host.spec, replace_healthy=True)
    assert host.run("stop") == ["stopped"]


def test_restored_data_waits_for_some_hours(host: Host) -> None:
    """Until its restore is not continued any more."""
    assert staged.waiting_restore(str(host.data)) == ""
    host.staging.mkdir()
    assert staged.waiting_restore(str(host.data)) == ""
    write_log(host.staging, led=False)
    assert staged.waiting_restore(str(host.data)) == str(host.staging)
    os.utime(host.staging, (time.time() - 6 * 3600 + 60,) * 2)
    assert staged.waiting_restore(str(host.data)) == str(host.staging)
    os.utime(host.staging, (time.time() - 6 * 3600,) * 2)
    assert staged.waiting_restore(str(host.data)) == ""
    os.utime(host.staging)
    host.data.rename(host.root / "away")
    assert staged.waiting_restore(str(host.data)) == str(host.staging)
    # The data is of that restore already.
    write_log(host.data, led=True)
    assert staged.waiting_restore(str(host.data)) == ""


def test_an_etcd_that_runs_keeps_its_data(host: Host) -> None:
    host.run("prepare")
    with pytest.raises(EtcdError, match="etcd runs again, so its data is not replaced"):
        host.run("replace")
    assert (host.data / "member" / "former").exists()


def test_restored_data_is_not_prepared_again(host: Host) -> None:
    host.run("prepare")
    host.acts.clear()
    assert host.run("prepare") == [] and host.acts == ["lock"]


def test_a_host_that_has_nothing(host: Host) -> None:
    """Of a cluster whose data is lost: there is nothing to stop, and nothing to keep."""
    host.manifest.unlink()
    host.process = None
    (host.data / "member" / "former").unlink()
    (host.data / "member").rmdir()
    host.data.rmdir()
    assert host.run("prepare") == ["prepared"] and host.acts[-2:] == ["image of 0", "etcdutl"]
    assert host.run("stop") == [] and host.run("replace", check=True) == ["replaced"]
    assert host.run("replace") == ["replaced"] and (host.data / "member").is_dir()
    assert (host.data.stat().st_mode & 0o777) == 0o700


@pytest.mark.parametrize("image", ["registry/etcd:3.6", "pause:3"])
@pytest.mark.parametrize("runs", [True, False])
def test_images_that_cannot_be_had(host: Host, image: str, runs: bool) -> None:
    """Nothing is stopped: the restored member could not be started. The kubelet removes an image that no container uses if the disk is nearly full."""
    host.process = host.process if runs else None
    host.missing = {image: f"image {image} cannot be pulled: no route"}
    before = host.names() | {"work"}
    with pytest.raises(EtcdError, match=f"infra0: image {image} cannot be pulled: no route. The restored member could"):
        host.run("prepare")
    assert host.names() == before and "etcdutl" not in host.acts
    host.missing = {}
    assert host.run("prepare") == ["prepared"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"code": 1}, "etcdutl cannot restore .*: it fails"),
        ({"free": 150 << 20}, "needs 186 MiB .* and 150 MiB are free"),
    ],
)
def test_what_fails_leaves_nothing_behind(host: Host, change: dict[str, Any], words: str) -> None:
    for name, value in change.items():
        setattr(host, name, value)
    before = host.names() | {"work"}
    with pytest.raises(EtcdError, match=words):
        host.run("prepare")
    assert host.names() == before


def put_file(path: Path) -> None:
    path.write_text("mine")


def put_link(path: Path) -> None:
    """To a directory with something in it, which is not removed."""
    target = path.parent / "elsewhere"
    (target / "kept").mkdir(parents=True, exist_ok=True)
    path.symlink_to(target)


@pytest.mark.parametrize("put", [put_file, put_link])
@pytest.mark.parametrize("name", ["etcd", "etcd.restored", "etcd.restored.partial"])
def test_files_and_links_in_the_way(host: Host, name: str, put: Callable[[Path], None]) -> None:
    """Found before anything is stopped: afterwards, the restored data could not take its place. A link to the data itself is followed."""
    path = host.root / name
    if path.exists():
        path.rename(host.root / "away")
    put(path)
    if (name, put) == ("etcd", put_link):
        assert host.run("prepare") == ["prepared"] and (host.root / "elsewhere.restored").is_dir()
        return
    with pytest.raises(EtcdError, match=f"infra0: {path} must be a directory, and is a file or a link. Move it away"):
        host.run("prepare")
    assert "etcdutl" not in host.acts and path.is_symlink() is (put is put_link)
    assert put is put_file or (host.root / "elsewhere" / "kept").is_dir()


@pytest.mark.parametrize("put", [put_file, put_link])
def test_a_file_or_link_in_place_of_the_data_of_the_member(host: Host, put: Callable[[Path], None]) -> None:
    """It is kept beside the restored data. Before, it was no data, and the restored data could not take its place after all members had stopped."""
    (host.data / "member" / "former").unlink()
    (host.data / "member").rmdir()
    put(host.data / "member")
    host.run("prepare")
    host.run("stop")
    assert host.run("replace") == ["archived", "replaced"]
    (kept,) = host.root.glob("etcd.replaced-*")
    assert (kept / "member").is_symlink() is (put is put_link) and (host.data / "member/wal").is_dir()


@pytest.mark.parametrize("step", restore.STEPS)
def test_an_error_of_the_system_is_a_message(host: Host, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    """A full disk at any place. The next run continues."""
    for before in restore.STEPS[: restore.STEPS.index(step)]:
        host.run(before)

    rename = os.rename

    def full(source: str, *rest: str) -> None:
        if step == "stop" or "restored" in source:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/var/lib/x")
        rename(source, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(*(restore, "end_etcd") if step == "stop" else (os, "rename"), full)
        with pytest.raises(EtcdError, match=r"/var/lib/x: No space left on device .free some space"):
            host.run(step)
    assert bool(list(host.root.glob("etcd.replaced-*"))) is (step == "replace")
    for after in restore.STEPS:
        host.run(after)
    assert host.spec.is_replaced


@pytest.mark.parametrize(
    ("storage", "running", "image", "refused"),
    [
        ("3.7.0", "3.6.14", "3.6.14", True),
        ("3.7.0", "", "3.6.14", True),
        # With another image after the restore.
        ("3.7.0", "3.6.14", "3.7.3", False),
        ("3.7.0", "", "3.7.3", False),
        ("3.6.0", "3.7.3", "3.7.3", False),
        # etcd 3.5 starts on data of any later version, and its etcdutl does not tell which it is.
        ("", "3.5.35", "3.5.35", False),
        ("3.7.0", "3.5.35", "3.5.35", False),
    ],
)
def test_data_of_a_newer_etcd(host: Host, storage: str, running: str, image: str, refused: bool) -> None:
    """It is refused before the members are stopped, since they could not start."""
    host.storage, host.versions = storage, {"running": running, "image": image}
    host.process = host.process if running else None
    if not refused:
        assert host.run("prepare") == ["prepared"]
        return
    before = host.names() | {"work"}
    with pytest.raises(EtcdError, match=r"needs etcd 3.7.0, and the image has etcd 3.6.14.* Set etcd_image_tag"):
        host.run("prepare")
    assert host.names() == before and "end" not in host.acts


def test_the_arguments_of_etcdutl(host: Host) -> None:
    host.run("prepare")
    told = dict(zip(host.argv, host.argv[1:]))
    assert told["--initial-cluster"] == "infra0=https://10.0.0.6:2380,infra1=https://[fd00::7]:2380"
    assert told["--name"] == "infra0" and told["--initial-cluster-token"] == "token-10000000"
    assert told["--initial-advertise-peer-urls"] == "https://10.0.0.6:2380" and told["restore"] == host.spec.snapshot
    assert not {"--skip-hash-check", "--mark-compacted", "--bump-revision"} & set(host.argv)


def test_a_copied_database_has_no_hash_and_watches_begin_anew(host: Host) -> None:
    host.file.is_database, host.kubernetes = True, True
    host.run("prepare")
    assert {"--skip-hash-check", "--mark-compacted"} <= set(host.argv)
    assert host.argv[host.argv.index("--bump-revision") + 1] == str(0x10000000 * 10_000_000 - 7)
    assert "check file" not in host.acts


def test_a_volume_is_not_renamed(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(restore.os.path, "ismount", lambda path: path == str(host.data))
    assert host.spec.staging == str(host.data / "member.restored")


def test_a_link_to_a_directory_that_is_not_there(host: Host) -> None:
    """A new disk without the directory."""
    former = host.data.rename(host.root / "former")
    (host.root / "volume").mkdir()
    host.data.symlink_to(host.root / "volume" / "etcd")
    host.manifest.unlink()
    host.process = None
    assert host.run("prepare") == ["prepared"] and host.run("replace") == ["replaced"]
    assert host.data.is_symlink() and (host.root / "volume" / "etcd" / "member").is_dir() and former.is_dir()
