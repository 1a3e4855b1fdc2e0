# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The module static_pod_manifest where two runs meet on one host, and where nobody waits for a run any more."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.kubeadm.etcd.plugins.module_utils._host import files as _files
from ansible_collections.kubeadm.etcd.plugins.module_utils._host import log as _log
from ansible_collections.kubeadm.etcd.plugins.module_utils._host.kubelet import Unit
from ansible_collections.kubeadm.etcd.plugins.module_utils._host.wal import Wal
from ansible_collections.kubeadm.etcd.plugins.module_utils._member import rollout as _rollout
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.errors import EtcdError

pytest.importorskip("ansible.module_utils.basic")

from ansible_collections.kubeadm.etcd.plugins.modules import static_pod_manifest as module

OLD, NEW, OTHER = (f"    - etcd\n    - --initial-advertise-peer-urls={url}\n" for url in ("old", "new", "other"))
OLD += "    - --listen-metrics-urls=http://127.0.0.1:2400\n"


class Host:
    """A member that runs with the manifest OLD and is to have NEW, and what is done to it."""

    def __init__(self, root: Path) -> None:
        self.manifest = root / "manifests" / "etcd.yaml"
        for name in ("manifests", "data", "work"):
            (root / name).mkdir()
        self.manifest.write_text(OLD)
        self.announced: list[list[str]] = []
        self.kubelet = True
        # What happens while the member is waited for, each time.
        self.waits: list[Callable[[], None]] = []
        self.params: dict[str, Any] = {
            "config": "",
            "kubeadm": "kubeadm",
            **{f"{name}_dir": str(root / name) for name in ("data", "work", "pki")},
            "manifests_dir": str(root / "manifests"),
            "rolling": True,
            "allow_interruption": False,
            "startup_counts": False,
            "member": "infra0",
            "members": [{"name": "infra0", "address": "10.0.0.6"}],
            "client_port": 2379,
            "metrics_port": 2381,
            "timeout": 300,
        }

    def run(self, check_mode: bool = False) -> dict[str, Any]:
        return module.apply_alone(self.params, check_mode)

    def wait(self, target: _rollout.Target, wanted: list[str], *_rest: object) -> float:
        self.waits.pop(0)()
        # It is asked where it listens with the manifest that it has now.
        port = 2400 if wanted == module._kubeadm.manifest_arguments(OLD) else 2381
        assert target.metrics == f"http://127.0.0.1:{port}/readyz", target
        assert wanted[1] == f"--initial-advertise-peer-urls={self.announced[-1][0]}"
        return 1.0

    def announce(self, _target: object, _process: object, urls: list[str], *_check: bool, **_: bool) -> list[str]:
        self.announced.append(urls)
        return ["old"]


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    result = Host(tmp_path)
    monkeypatch.setattr(module._kubeadm, "render_manifest", lambda *_: NEW)
    monkeypatch.setattr(module._kubeadm, "manifest_arguments", lambda text: [line[6:] for line in text.splitlines()])
    monkeypatch.setattr(module, "mode_problem", lambda *_: None)
    # Not to need root.
    monkeypatch.setattr(module, "replace_file", lambda path, data, *_, **__: Path(path).write_bytes(data) and None)
    monkeypatch.setattr(_rollout, "find_etcd_process", lambda _name: _rollout.Process(7, 1, []))
    monkeypatch.setattr(_rollout, "check_gate", lambda _target: None)
    monkeypatch.setattr(_rollout, "check_controller", lambda: None)
    monkeypatch.setattr(_rollout, "announce_peer_urls", result.announce)
    monkeypatch.setattr(_rollout, "wait_for_member", result.wait)
    monkeypatch.setattr(module, "LOCK_PATIENCE", 0.1)
    unit = Unit("loaded", active=True, enabled=True, need_reload=False, argv=[], started=0.0)
    monkeypatch.setattr(module, "kubelet_unit", lambda: replace(unit, active=result.kubelet))
    return result


def fail() -> None:
    raise EtcdError("waited 300 s.")


def test_what_does_not_work_is_taken_back(host: Host) -> None:
    host.waits = [fail, lambda: None]
    with pytest.raises(EtcdError, match=r"waited 300 s.* previous manifest was put back, and the member is healthy"):
        host.run()
    assert host.manifest.read_text() == OLD and host.announced == [["new"], ["old"]]


def test_nothing_is_changed_where_no_kubelet_would_start_it_again(host: Host) -> None:
    host.kubelet = False
    assert host.run(check_mode=True)["changed"]
    with pytest.raises(EtcdError, match=r"kubelet\.service does not run, and would not start etcd again"):
        host.run()
    assert host.manifest.read_text() == OLD and host.announced == [["new"]]


@pytest.mark.parametrize("change", [lambda path: path.write_text(OTHER), Path.unlink])
def test_what_another_has_installed_since_stays(host: Host, change: Callable[[Path], object]) -> None:
    """Neither its manifest nor its peer URLs are those of before."""

    def someone() -> None:
        change(host.manifest)
        fail()

    host.waits = [someone]
    with pytest.raises(EtcdError, match=r"waited 300 s.*somebody by hand, has changed it since\. Nothing was put back"):
        host.run()
    assert host.announced == [["new"]]
    assert not host.manifest.exists() or host.manifest.read_text() == OTHER


def gone() -> None:
    raise _rollout.AbandonedError("The controller has ended.")


@pytest.mark.parametrize("during_the_last_look", [False, True])
def test_a_run_without_a_controller_undoes_nothing(
    host: Host, during_the_last_look: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if it had been killed after the rename: the next run goes on from there."""

    def last_look() -> None:
        monkeypatch.setattr(_rollout, "check_controller", gone)
        fail()

    host.waits = [last_look if during_the_last_look else gone]
    with pytest.raises(EtcdError, match="controller has ended"):
        host.run()
    assert host.manifest.read_text() == NEW and host.announced == [["new"]]


def test_a_run_without_a_controller_begins_nothing(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may have waited for the gate, or for the lock."""
    monkeypatch.setattr(_rollout, "check_controller", gone)
    with pytest.raises(EtcdError, match="controller has ended"):
        host.run()
    assert host.manifest.read_text() == OLD and host.announced == []


def test_one_run_at_a_time(host: Host) -> None:
    """Who waits for a member keeps others from its manifest, but not from its certificates."""
    said = []

    def second() -> None:
        with pytest.raises(EtcdError) as caught:
            host.run()
        said.append(str(caught.value))
        with _files.locked(os.path.join(host.params["work_dir"], "lock"), 0.1):
            pass

    host.waits = [second]
    host.run()
    assert f"process {os.getpid()}, which may need until" in said[0] and "/lock-manifest for more than 0 s" in said[0]
    assert host.manifest.read_text() == NEW


def test_check_mode_writes_nothing_and_waits_for_nobody(host: Host) -> None:
    os.rmdir(host.params["work_dir"])
    assert host.run(check_mode=True)["changed"]
    assert host.manifest.read_text() == OLD and not os.path.exists(host.params["work_dir"])
    os.mkdir(host.params["work_dir"])
    with _files.locked(os.path.join(host.params["work_dir"], module.LOCK), 0.1):
        assert host.run(check_mode=True)["changed"]


IMAGE = "    image: registry/etcd:3.5\n"


@pytest.mark.parametrize(
    ("lasts", "image", "logs", "replaced"),
    [
        (True, "", [], False),
        # A flag that etcd refuses, on all hosts: nothing else would bring the cluster back.
        (False, "", ["0.log"], True),
        # Another image on data that etcd has run on is an upgrade of all members at once; one that could not be pulled has never run.
        (False, IMAGE, ["0.log"], False),
        (False, IMAGE, [], True),
    ],
    ids=["comes up", "crashes", "crashes, and another image is wanted", "its image cannot be pulled"],
)
def test_a_cluster_that_is_down_is_started_as_it_was(
    host: Host, monkeypatch: pytest.MonkeyPatch, lasts: bool, image: str, logs: list[str], replaced: bool
) -> None:
    host.manifest.write_text(OLD + image)
    monkeypatch.setattr(module, "BACK_AGAIN", 0.1)
    monkeypatch.setattr(module, "read_wal", lambda _directory: Wal("1", "2", formed=True))
    monkeypatch.setattr(module, "process_started", lambda _pid: 0.0 if lasts else time.time())
    monkeypatch.setattr(_log, "log_paths", lambda _since: logs)
    host.params["rolling"] = False
    result = host.run()
    assert host.manifest.read_text() == (NEW if replaced else OLD + image)
    assert bool(result["left"]) != replaced and result["changed"] == replaced
    # A member whose data is not led yet is founded with what is wanted.
    monkeypatch.setattr(module, "read_wal", lambda _directory: None)
    assert host.run()["left"] == [] and host.manifest.read_text() == NEW


def test_what_a_killed_run_has_left_in_the_directory_of_manifests_is_removed(host: Host) -> None:
    stray = host.manifest.parent / ".kubeadm-etcd-0123"
    stray.write_text("half a manifest")
    host.waits = [lambda: None]
    assert any("left behind" in reason for reason in host.run(check_mode=True)["reasons"]) and stray.exists()
    host.announced.clear()
    host.run()
    assert not stray.exists()


def test_a_data_directory_that_others_share_keeps_its_mode(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """/srv with other people's files in it, made readable for root only, would shut them out."""
    data = Path(host.params["data_dir"])
    asked: list[str] = []
    monkeypatch.setattr(module, "mode_problem", lambda path, _mode: asked.append(path))
    (data / "member").mkdir()
    host.waits = [lambda: None, lambda: None]
    host.run()
    assert str(data) in asked
    (data / "home").mkdir()
    asked.clear()
    host.manifest.write_text(OLD)
    host.run()
    assert asked and str(data) not in asked
