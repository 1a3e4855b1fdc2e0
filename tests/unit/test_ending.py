"""etcd of a host is stopped for good, by its kubelet or without one. Its data is kept under another name."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.kubeadm.etcd.plugins.module_utils._member import ending
from ansible_collections.kubeadm.etcd.plugins.module_utils._member import processes as _processes
from ansible_collections.kubeadm.etcd.plugins.module_utils._member import rollout as _rollout
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.errors import EtcdError

PROCESS = _processes.Process(8, 2, ["etcd"])


class Host:
    """runs, has_pod: for so many looks. kubelet: whether it answers."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.manifest, self.kept = root / "etcd.yaml", root / "kept"
        self.manifest.write_text("manifest")
        self.runs = self.has_pod = 2
        self.kubelet = True
        self.now = 0.0
        self.stopped: list[int] = []
        self.checks = 0
        fakes: list[tuple[Any, str, Any]] = [
            (_processes, "find_etcd_process", self.process),
            (_rollout, "check_controller", self.check),
            (_processes, "stop", lambda process: self.stopped.append(process.pid)),
            (ending.service, "answers", lambda: self.kubelet),
            (ending.cri, "sandboxes", self.sandboxes),
            (ending.time, "monotonic", lambda: self.now),
            (ending.time, "sleep", self.sleep),
        ]
        for target, name, fake in fakes:
            monkeypatch.setattr(target, name, fake)

    def process(self, _name: str) -> _processes.Process | None:
        self.runs -= 1
        return PROCESS if self.runs >= 0 else None

    def sandboxes(self, _endpoint: str, _pod: Any) -> list[Any]:
        self.has_pod -= 1
        return [SimpleNamespace(state=ending.cri.RUNNING if self.has_pod >= 0 else "ended")]

    def check(self) -> None:
        self.checks += 1

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def end(self) -> None:
        ending.end_etcd("infra0", str(self.manifest), str(self.kept), "unix:///x")


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    return Host(tmp_path, monkeypatch)


def test_the_kubelet_ends_it(host: Host) -> None:
    host.end()
    assert not host.manifest.exists() and host.kept.read_text() == "manifest"
    assert host.stopped == [] and host.runs < 0 and host.has_pod < 0 and host.checks


def test_without_a_kubelet_it_is_stopped_once(host: Host) -> None:
    """The sandbox stays, so the module does not wait for its end."""
    host.kubelet, host.runs, host.has_pod = False, 5, 1000
    host.end()
    assert host.stopped == [8]


def test_without_a_manifest(host: Host) -> None:
    host.manifest.unlink()
    host.end()
    assert not host.kept.exists() and host.runs < 0


@pytest.mark.parametrize("what", ["runs", "has_pod"])
def test_it_does_not_end(host: Host, what: str) -> None:
    setattr(host, what, 100_000)
    with pytest.raises(EtcdError, match="infra0: etcd still runs 120 s after its manifest was moved to"):
        host.end()


def test_the_end_does_not_wait_for_a_runtime_without_an_answer(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise EtcdError("no runtime")

    monkeypatch.setattr(ending.cri, "sandboxes", fail)
    host.end()


def test_data_is_kept_under_another_name(tmp_path: Path) -> None:
    data = tmp_path / "etcd"
    assert ending.archive_data(str(data), 0.0) == ""
    (data / "member").mkdir(parents=True)
    kept = Path(ending.archive_data(str(data), 0.0))
    assert kept.name.endswith("removed-19700101T000000Z") and kept.is_dir() and not (data / "member").exists()
