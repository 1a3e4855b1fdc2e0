"""The turn of a kube-apiserver, on a host that is a directory: lock, gate, act, prove, undo."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.kubeadm.etcd.plugins.module_utils._host import apiserver as _apiserver
from ansible_collections.kubeadm.etcd.plugins.module_utils._host import files as _files
from ansible_collections.kubeadm.etcd.plugins.module_utils._host.kubeadm import manifest_arguments
from ansible_collections.kubeadm.etcd.plugins.module_utils._member import apiserver as _seen
from ansible_collections.kubeadm.etcd.plugins.module_utils._member import apiserver_turn as engine
from ansible_collections.kubeadm.etcd.plugins.module_utils._member import processes as _processes
from ansible_collections.kubeadm.etcd.plugins.module_utils._member import rollout as _rollout
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.causes import Cause
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.errors import EtcdError
from test_apiserver import A, B, access, config, manifest

URL, OTHER = "https://10.0.0.20:6443", "https://10.0.0.21:6443"


class FakeKubernetes:
    """API servers. unready: answers in turn, by URL."""

    def __init__(self, host: Host) -> None:
        self.host = host

    def unreadiness(self, url: str) -> str:
        if url != URL:
            return self.host.unready.get(url, "")
        return self.host.unready.get(URL, "") or ("" if self.host.process else f"{URL} refused")

    def config_map(self, _url: str) -> dict[str, Any]:
        if self.host.config_problem:
            raise _seen.KubernetesError(self.host.config_problem)
        return {"metadata": {"uid": "u", "resourceVersion": "7"}, "data": {"ClusterConfiguration": self.host.config}}

    def write_config_map(self, _url: str, content: dict[str, Any]) -> None:
        assert content["metadata"]["resourceVersion"] == "7"
        self.host.acts.append("config map")
        self.host.config = content["data"]["ClusterConfiguration"]


class FakeLock:
    def __init__(self, host: Host) -> None:
        self.host = host

    def check(self) -> None:
        self.host.acts.append("check lock")


class Host:
    """A kube-apiserver that uses A, and is to use A and B."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for name in ("manifests", "work"):
            (root / name).mkdir()
        self.places = _seen.Places(str(root / "manifests"), str(root / "work"), "unix:///none", "kubeadm")
        self.path = root / "manifests" / "kube-apiserver.yaml"
        self.path.write_text(manifest(A))
        self.config = config(A)
        self.config_problem = ""
        self.extra: tuple[str, ...] = ()
        self.acts: list[str] = []
        self.unready: dict[str, str] = {}
        self.pid = 7
        self.process: _processes.Process | None = self.started()
        # Whether kube-apiserver comes up with these endpoints.
        self.comes_up: Callable[[str], bool] = lambda _servers: True

    def started(self) -> _processes.Process:
        self.pid += 1
        return _processes.Process(self.pid, self.pid, manifest_arguments(self.path.read_text()))

    def kubelet(self) -> None:
        """Act on the manifest, as the kubelet would."""
        servers = ",".join(_apiserver.access_in(manifest_arguments(self.path.read_text())).servers)
        running = ",".join(_apiserver.access_in(self.process.argv).servers) if self.process else ""
        if servers != running:
            self.process = self.started() if self.comes_up(servers) else None

    def spec(self, **changes: Any) -> engine.ApiserverSpec:
        return replace(engine.ApiserverSpec(self.places, access(A, B), True, [OTHER], 1.0), **changes)

    def render(self, text: str, _endpoint: Any, _runtime: str, _program: str) -> str:
        return manifest(",".join(_apiserver.access_in_config(text).servers), *self.extra)


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    it = Host(tmp_path)
    (tmp_path / "admin.conf").write_text("")
    monkeypatch.setattr(_apiserver, "KUBECONFIGS", (str(tmp_path / "admin.conf"),))
    monkeypatch.setattr(_apiserver, "render", it.render)

    @contextlib.contextmanager
    def kubernetes(_path: str) -> Iterator[FakeKubernetes]:
        yield FakeKubernetes(it)

    @contextlib.contextmanager
    def cluster_lock(urls: list[str], _credentials: Any, _holder: Any, **_more: Any) -> Iterator[FakeLock]:
        it.acts.append(f"lock {len(urls)}")
        yield FakeLock(it)
        it.acts.append("unlock")

    def find_process() -> _processes.Process | None:
        it.kubelet()
        return it.process

    monkeypatch.setattr(_seen, "kubernetes", kubernetes)
    monkeypatch.setattr(engine, "cluster_lock", cluster_lock)
    monkeypatch.setattr(_seen, "find_process", find_process)
    monkeypatch.setattr(
        engine.ApiserverTurn, "causes", lambda _self: [Cause("ended", "kube-apiserver", "no etcd", True)]
    )
    monkeypatch.setattr(_processes, "younger_than", lambda _path: lambda _process: True)
    monkeypatch.setattr(_rollout, "check_controller", lambda: None)
    monkeypatch.setattr(_rollout, "POLL", 0.01)
    monkeypatch.setattr(_rollout, "LOOK", 0.05)
    monkeypatch.setattr(_processes, "PATIENCE", -1.0)
    monkeypatch.setattr(_files.os, "fchown", lambda *_arguments: None)
    return it


def test_the_manifest_then_the_config_map(host: Host) -> None:
    result = engine.take_turn(host.spec(), check=False)
    assert result["changed"] and len(result["reasons"]) == 2 and len(result["diff"]) == 2
    assert host.path.read_text() == manifest(f"{A},{B}") and host.config == config(A, B)
    assert host.acts == ["lock 2", "check lock", "check lock", "config map", "unlock"]
    assert (host.root / "work" / engine.PREVIOUS).read_text() == manifest(A)
    assert os.stat(host.path).st_mode & 0o777 == 0o600
    host.acts.clear()
    result = engine.take_turn(host.spec(), check=False)
    assert not result["changed"] and result["reasons"] == result["diff"] == host.acts == []


def test_check_mode(host: Host) -> None:
    shown = engine.take_turn(host.spec(), check=True)
    assert shown["changed"] and host.path.read_text() == manifest(A) and host.config == config(A) and not host.acts
    assert not (host.root / "work" / engine.PREVIOUS).exists()
    done = engine.take_turn(host.spec(), check=False)
    assert (shown["reasons"], shown["diff"]) == (done["reasons"], done["diff"])


def test_one_host_writes_the_config_map(host: Host) -> None:
    assert len(engine.take_turn(host.spec(update_config=False), check=False)["reasons"]) == 1
    assert host.config == config(A) and "config map" not in host.acts
    # And it alone, where the manifest is right already.
    before = host.process
    assert len(engine.take_turn(host.spec(), check=False)["reasons"]) == 1
    assert host.config == config(A, B) and host.process == before


@pytest.mark.parametrize("check", [True, False])
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"extra": ("--v=4",)}, "no --v in the manifest, --v=4 by kubeadm"),
        ({"config": "etcd:\n  local: {}\n"}, "does not have the form that kubeadm writes"),
        ({"config_problem": "answers 403"}, "answers 403"),
    ],
)
def test_what_else_would_change_is_refused(host: Host, change: dict[str, Any], words: str, check: bool) -> None:
    for name, value in change.items():
        setattr(host, name, value)
    with pytest.raises(EtcdError, match=words):
        engine.take_turn(host.spec(), check)
    assert host.path.read_text() == manifest(A) and host.acts == []


def test_flags_that_kubeadm_takes_from_elsewhere(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_apiserver, "render", lambda *_arguments: manifest(A))
    with pytest.raises(EtcdError, match=r"overrides etcd\.external"):
        engine.take_turn(host.spec(), check=False)
    assert host.path.read_text() == manifest(A) and host.acts == []


@pytest.mark.parametrize("url", [URL, OTHER])
def test_the_gate(host: Host, url: str) -> None:
    """This API server, and the one that serves meanwhile."""
    host.unready[url] = f"{url}/readyz says: [-]etcd failed"
    with pytest.raises(EtcdError, match=r"is not restarted while an API server is not ready.*etcd failed"):
        engine.take_turn(host.spec(), check=False)
    assert host.path.read_text() == manifest(A) and host.config == config(A)


def test_what_does_not_come_up_is_put_back(host: Host) -> None:
    host.comes_up = lambda servers: B not in servers
    with pytest.raises(EtcdError) as caught:
        engine.take_turn(host.spec(), check=False)
    said = str(caught.value)
    assert "kube-apiserver: no etcd" in said and "kube-apiserver is ready with it" in said
    assert host.path.read_text() == manifest(A) and host.config == config(A) and "config map" not in host.acts


def test_what_does_not_come_up_at_all(host: Host) -> None:
    host.comes_up = lambda _servers: False
    with pytest.raises(EtcdError, match="does not become ready with it either"):
        engine.take_turn(host.spec(), check=False)
    assert host.path.read_text() == manifest(A)


def test_the_manifest_of_another_run_stays(host: Host) -> None:
    def comes_up(_servers: str) -> bool:
        host.path.write_text(manifest(f"{A},{B}", "--v=3"))
        return False

    host.comes_up = comes_up
    with pytest.raises(EtcdError, match="so nothing was put back"):
        engine.take_turn(host.spec(), check=False)
    assert "--v=3" in host.path.read_text()


def test_a_turn_that_was_killed_is_finished(host: Host) -> None:
    """Killed after the manifest was installed. kube-apiserver starts with it, or the turn fails and names the backup of the former one."""
    host.path.write_text(manifest(f"{A},{B}"))
    host.config, host.process, downs = config(A, B), None, iter([False, False, True])
    host.comes_up = lambda _servers: next(downs, True)
    result = engine.take_turn(host.spec(), check=False)
    assert result["changed"] and "no kube-apiserver process runs" in result["reasons"][0] and host.process
    host.process, host.comes_up = None, lambda _servers: False
    with pytest.raises(EtcdError, match=f"before the last change is .*{engine.PREVIOUS}"):
        engine.take_turn(host.spec(), check=False)


def test_a_host_without_kube_apiserver(host: Host) -> None:
    host.path.unlink()
    assert _seen.observe(host.places, True, 2379) is None and _seen.leaving_warning(host.places, [A]) == ""
    with pytest.raises(EtcdError, match="no kube-apiserver runs on this host"):
        engine.take_turn(host.spec(), check=False)


def test_the_observation(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = _seen.observe(host.places, True, 2379)
    assert seen and seen["access"]["servers"] == seen["config"]["servers"] == [A]
    assert (seen["url"], seen["config_uid"], seen["problem"], seen["unready"], seen["pending"]) == (
        URL,
        "u",
        "",
        "",
        "",
    )
    host.extra = ("--v=4",)
    found = [_seen.observe(host.places, updates, 2379) or {} for updates in (True, False)]
    assert "--v=4" in found[0]["problem"] and found[1]["problem"] == ""
    host.extra = ()
    # Asked again for some seconds where it may be changed.
    monkeypatch.setattr(_processes, "PATIENCE", 6.0)
    downs = iter([f"{URL} says: [-]etcd failed"])
    monkeypatch.setattr(engine.time, "sleep", lambda _seconds: None)
    monkeypatch.setattr(FakeKubernetes, "unreadiness", lambda _self, _url: next(downs, ""))
    assert (_seen.observe(host.places, True, 2379) or {})["unready"] == ""
    downs = iter([f"{URL} says: [-]etcd failed"])
    assert "[-]etcd failed" in (_seen.observe(host.places, False, 2379) or {})["unready"]
    (host.root / "admin.conf").unlink()
    seen = _seen.observe(host.places, True, 2379)
    assert seen and seen["config"] is None and "admin.conf" in seen["problem"] and seen["unready"] == seen["problem"]


@pytest.fixture
def older(host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    """kube-apiserver has the right endpoints, and was started before its CA of etcd was written."""
    engine.take_turn(host.spec(), check=False)
    host.acts.clear()
    ca = tmp_path / "ca.crt"
    ca.write_text("both")
    host.path.write_text(host.path.read_text().replace(access().ca, str(ca)))
    host.process = first = host.started()
    written = ca.stat().st_ctime
    monkeypatch.setattr(engine, "process_started", lambda pid: written + (1.0 if pid != first.pid else -1.0))

    def stop(_process: _processes.Process) -> None:
        host.acts.append("stop")
        host.process = host.started() if host.comes_up("") else None

    monkeypatch.setattr(_processes, "stop", stop)
    return host


def to_load(host: Host) -> engine.ApiserverSpec:
    return host.spec(access=access(A, B, ca=str(host.root / "ca.crt")), update_config=False, loads_ca=True)


def test_a_ca_that_was_written_since_it_started(older: Host) -> None:
    """It restarts with an unchanged manifest. The next run does nothing."""
    older.extra = ("--v=4",)
    before = older.path.read_text()
    assert engine.take_turn(to_load(older), check=True)["changed"] and older.acts == []
    result = engine.take_turn(to_load(older), check=False)
    assert len(result["reasons"]) == 1 and "is restarted to trust what" in result["reasons"][0]
    assert older.acts == ["lock 2", "check lock", "stop", "unlock"] and older.path.read_text() == before
    older.acts.clear()
    assert not engine.take_turn(to_load(older), check=False)["changed"] and older.acts == []
    assert not engine.take_turn(replace(to_load(older), loads_ca=False), check=False)["changed"]


def test_an_api_server_is_not_stopped_while_another_one_is_down(older: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    older.unready = {OTHER: "refused"}
    with pytest.raises(EtcdError, match="not restarted while an API server is not ready: refused"):
        engine.take_turn(to_load(older), check=False)
    assert "stop" not in older.acts
    # After an emergency, none of them trusts the members: each serves again when it was restarted.
    older.unready = {URL: "[-]etcd failed", OTHER: "[-]etcd failed"}
    with pytest.raises(EtcdError, match=r"\[-\]etcd failed"):
        engine.take_turn(to_load(older), check=False)
    assert "stop" in older.acts
    older.process = older.started()
    monkeypatch.setattr(engine, "process_started", lambda _pid: 0.0)
    older.unready, older.comes_up = {}, lambda _servers: False
    with pytest.raises(EtcdError, match=r"no etcd.* It was restarted to read the CA of etcd, and its manifest has not"):
        engine.take_turn(to_load(older), check=False)
