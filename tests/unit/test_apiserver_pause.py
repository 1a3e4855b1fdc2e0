"""kube-apiserver is stopped while etcd is restored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ansible_collections.kubeadm.etcd.plugins.module_utils._member import apiserver as _seen
from ansible_collections.kubeadm.etcd.plugins.module_utils._member import apiserver_pause as _pause
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.errors import EtcdError

MANIFEST = """apiVersion: v1
kind: Pod
spec:
  containers:
  - command:
    - kube-apiserver
    - --etcd-servers=https://10.0.0.6:2379,https://[fd00::7]:2379
    name: kube-apiserver
"""


@pytest.mark.parametrize(
    ("addresses", "expected"),
    [(["10.0.0.6"], True), (["10.0.0.9", "fd00::7"], True), (["10.0.0.9"], False), ([], False)],
)
def test_hosts_whose_kube_apiserver_uses_the_cluster(addresses: list[str], expected: bool) -> None:
    assert _pause.uses(["https://10.0.0.6:2379", "https://[fd00::7]:2379"], addresses) == expected


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> _seen.Places:
    """A host whose kube-apiserver ends with its manifest, and is ready at the second look."""
    manifests = tmp_path / "manifests"
    manifests.mkdir()
    (manifests / "kube-apiserver.yaml").write_text(MANIFEST)
    looks: list[int] = []

    def look(found: _seen.Places) -> Any:
        looks.append(1)
        state = {"pending": "", "unready": "" if len(looks) % 2 == 0 else "no"}
        return type("Seen", (), state)() if Path(found.manifest).exists() else None

    monkeypatch.setattr(_pause, "end_pod", lambda _w, _f, manifest, kept, _e, _p: Path(manifest).rename(kept))
    monkeypatch.setattr(_pause, "move_file", lambda source, target: Path(source).rename(target))
    monkeypatch.setattr(_pause, "ensure_directory", lambda path, _mode: Path(path).mkdir(exist_ok=True))
    monkeypatch.setattr(_seen, "look", look)
    monkeypatch.setattr(_pause._rollout, "check_controller", lambda: None)
    monkeypatch.setattr(_pause.time, "sleep", lambda _seconds: None)
    return _seen.Places(str(manifests), str(tmp_path / "work"), "unix:///x", "kubeadm")


def codes(reasons: list[Any]) -> list[str]:
    return [reason.code for reason in reasons]


def test_kube_apiserver_is_stopped_and_started_once(places: _seen.Places) -> None:
    manifest = Path(places.manifest)
    assert _pause.resume(places, 1.0, False) == []
    assert _pause.pause(places, ["10.0.0.9"], False) == []
    assert codes(_pause.pause(places, ["10.0.0.6"], True)) == ["stopped"] and manifest.exists()
    assert codes(_pause.pause(places, ["10.0.0.6"], False)) == ["stopped"] and not manifest.exists()
    assert _pause.pause(places, ["10.0.0.6"], False) == []
    assert codes(_pause.resume(places, 1.0, True)) == ["started"] and not manifest.exists()
    assert codes(_pause.resume(places, 1.0, False)) == ["started"] and manifest.read_text() == MANIFEST
    assert _pause.resume(places, 1.0, False) == []


def test_a_kube_apiserver_that_does_not_start_is_an_error(
    places: _seen.Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    _pause.pause(places, ["10.0.0.6"], False)
    monkeypatch.setattr(_seen, "look", lambda _places: type("Seen", (), {"pending": "", "unready": "says no"})())
    with pytest.raises(EtcdError, match="is not ready after 0 s: says no"):
        _pause.resume(places, 0.0, False)
    # A manifest that a user has installed meanwhile is kept.
    assert _pause.resume(places, 0.0, False) == []
