"""A whole observation up to the plan: the seam between a host and the controller."""

from __future__ import annotations

import contextlib
import time
import types
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.kubeadm.etcd.plugins.module_utils._control import decision as _decision
from ansible_collections.kubeadm.etcd.plugins.module_utils._etcd import health as _health
from ansible_collections.kubeadm.etcd.plugins.module_utils._host import kubeadm as _kubeadm
from ansible_collections.kubeadm.etcd.plugins.module_utils._host.packages import Change, Staged
from ansible_collections.kubeadm.etcd.plugins.module_utils._member import apiserver as _apiserver
from ansible_collections.kubeadm.etcd.plugins.module_utils._member import observe as _observe
from ansible_collections.kubeadm.etcd.plugins.module_utils._member.processes import Process
from ansible_collections.kubeadm.etcd.plugins.module_utils._member.record import Record
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.errors import EtcdError
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.members import Member
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.problems import PROCESSES, Problem
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.reasons import Reason, as_data
from test_manifest import MANIFEST
from test_record import write_log

PEERS = "--initial-advertise-peer-urls=https://10.0.0.6:2380"
WANTED = MANIFEST.replace("    - --initial-cluster=", f"    - {PEERS}\n    - --initial-cluster=")


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Observes a host whose manifest is as wanted, but for what is written over it."""
    manifests = tmp_path / "manifests"
    manifests.mkdir(mode=0o700)
    write_log(tmp_path / "data", led=True)
    (tmp_path / "data").chmod(0o700)
    facts = {"systemd": False, "kubelet_version": "v1.36.3", "cgroup_version": 2}
    monkeypatch.setattr(_observe, "mode_problem", lambda path, _mode: modes.get(Path(path).name))
    monkeypatch.setattr(_observe._host, "host_facts", lambda *_args: dict(facts))
    monkeypatch.setattr(_observe._host, "images", lambda _endpoint: [])
    monkeypatch.setattr(_observe._host, "foreign_entries", lambda _path: [])
    monkeypatch.setattr(_observe, "observe_kubelet", lambda *_args: {"reasons": []})
    monkeypatch.setattr(_observe, "find_etcd_process", lambda _name: None)
    monkeypatch.setattr(_observe._kubeadm, "find_kubeadm_version", lambda _program: "v1.36.3")
    # Of a directory under /tmp, which is emptied at boot.
    monkeypatch.setattr(_observe._kubeadm, "config_problems", lambda *_args: [])
    monkeypatch.setattr(_observe._kubeadm, "validate_config", lambda *_args: None)
    monkeypatch.setattr(_observe._kubeadm, "render_manifest", lambda *_args: WANTED)
    modes: dict[str, str] = {}
    params = {
        "name": "infra0",
        "member": True,
        "address": "10.0.0.6",
        "members": [{"name": "infra0", "address": "10.0.0.6"}],
        "asked_at": None,
        "install_dependencies": False,
        "reads_log": False,
        "health": {"renewal_window": "2160h", "quota": None},
        "kubelet": {
            "config_path": str(tmp_path / "work" / "kubelet.yaml"),
            "manifests_dir": str(manifests),
            "runtime_endpoint": "unix:///run/x.sock",
        },
        "pki": {},
        "config": {
            "path": str(tmp_path / "work" / "kubeadmcfg.yaml"),
            "name": "infra0",
            "address": "10.0.0.6",
            "members": [{"name": "infra0", "address": "10.0.0.6"}],
            "data_dir": str(tmp_path / "data"),
        },
    }

    def observe(
        installed: str, problems: tuple[str, ...] = (), **found: str
    ) -> tuple[dict[str, Any], _decision.MemberView]:
        (manifests / "etcd.yaml").write_text(installed)
        modes.clear()
        modes.update({name.replace("_", "."): text for name, text in found.items()})
        seen = _observe.observe(params)
        assert tuple(problem["code"] for problem in seen["problems"]) == problems
        return seen, _decision.member_view(Member("infra0", "infra0", "10.0.0.6"), seen, None)

    observe.params = params  # type: ignore[attr-defined]
    return observe


def test_a_control_plane_host(host: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The observation has its kube-apiserver and nothing of a member."""
    monkeypatch.setattr(_apiserver, "observe", lambda *given: {"asked": given})
    monkeypatch.setattr(_observe, "observe_pki", lambda *_args: ({}, []))
    places = {"manifests_dir": "/m", "work_dir": "/w", "runtime_endpoint": "unix:///run/x.sock", "kubeadm": "kubeadm"}
    wanted = {**places, "update": True}
    seen = _observe.observe({**host.params, "member": False, "apiserver": wanted})
    assert seen["apiserver"] == {"asked": (_apiserver.Places(**places), True, 2379)} and "etcd" not in seen


def test_a_manifest_as_wanted(host: Any) -> None:
    seen, view = host(WANTED)
    assert seen["reasons"]["manifest"] == [] and (view.differs, view.restarts, view.moved) == (False, False, False)


def test_the_health_of_a_cluster_is_observed_if_nothing_differs(host: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the function of etcd_health, for all members."""
    asked: list[Any] = []
    report = types.SimpleNamespace(verdict="healthy")
    monkeypatch.setattr(_health, "look_at_all", lambda *given: asked.append(given) or [])
    monkeypatch.setattr(_health, "evaluate", lambda *_args: report)
    monkeypatch.setattr(_health, "render_table", lambda _report: ["a table"])
    ready = _observe.observe_etcd
    for reasons, is_ready in (([], True), (as_data([Reason("kubelet", "x", "differs")]), True), ([], False)):
        monkeypatch.setattr(_observe, "observe_kubelet", lambda *_args, given=reasons: {"reasons": given})
        monkeypatch.setattr(_observe, "observe_etcd", lambda *args, given=is_ready: {**ready(*args), "ready": given})
        monkeypatch.setattr(_observe, "observe_config", lambda *_args: ({}, [], []))
        monkeypatch.setattr(_observe, "member_record_reasons", lambda *_args: [])
        seen, _view = host(WANTED)
        assert seen["health"] == ({"verdict": "healthy", "table": ["a table"]} if is_ready and not reasons else None)
    (targets, files, _seconds) = asked[0]
    assert targets == [("infra0", "https://10.0.0.6:2379")] and len(asked) == 1
    assert [Path(path).name for path in files] == ["ca.crt", "healthcheck-client.crt", "healthcheck-client.key"]


@pytest.mark.parametrize(
    ("former", "differs", "restarts", "moved"),
    [
        (WANTED.replace("--cors=a", "--cors=c"), True, True, False),
        (WANTED.replace(PEERS, f"{PEERS}1"), True, True, True),
        # The list of the members is read at the foundation only.
        (WANTED.replace("infra1=https://10.0.0.7:2380", "infra1=https://10.0.0.77:2380"), False, False, False),
    ],
    ids=["a flag", "another peer URL", "the list of members"],
)
def test_what_a_manifest_changes(host: Any, former: str, differs: bool, restarts: bool, moved: bool) -> None:
    assert former != WANTED
    seen, view = host(former)
    assert (view.differs, view.restarts, view.moved) == (differs, restarts, moved), seen["reasons"]


def test_a_mode_is_repaired_without_a_restart(host: Any) -> None:
    """A restart would be refused in a cluster of one or two members."""
    seen, view = host(WANTED, etcd_yaml="mode is 0644, not 0600")
    assert [reason["code"] for reason in seen["reasons"]["manifest"]] == ["mode"]
    assert (view.differs, view.restarts) == (True, False)


def test_data_in_another_directory(host: Any, tmp_path: Path) -> None:
    write_log(tmp_path / "former", led=True)
    seen, view = host(WANTED.replace("--data-dir=/var/lib/etcd", f"--data-dir={tmp_path}/former"), ("data-elsewhere",))
    assert view.data_elsewhere and seen["etcd"]["data_elsewhere"]


def test_a_damaged_record(host: Any, tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "member.json").write_text("{")
    seen, _view = host(WANTED, ("record",))
    assert seen["etcd"]["record"] is None


def test_the_record_is_part_of_the_observation(host: Any, tmp_path: Path) -> None:
    record = Record("infra0", "c1", "1", "/var/lib/former", "ca")
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "member.json").write_text(record.as_text())
    seen, view = host(WANTED)
    assert seen["etcd"]["record"]["cluster_id"] == "c1" and view.recorded_dir == "/var/lib/former"


def test_a_host_whose_packages_are_to_be_replaced(host: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Versions, image and manifest are those of the new programs. The packages alone are a reason for a turn."""
    change = Change("kubeadm", "1.36.3-1.1", "1.37.2-1.1")
    found = Staged((change,), kubeadm="/scratch/kubeadm", versions={"kubelet": "v1.37.2", "kubeadm": "v1.37.2"})
    programs: list[str] = []
    monkeypatch.setattr(_observe, "staged", lambda *_args, **_options: contextlib.nullcontext(found))
    monkeypatch.setattr(
        _observe._kubeadm, "find_kubeadm_version", lambda program: programs.append(program) or "v1.37.2"
    )
    monkeypatch.setattr(_observe._kubeadm, "render_manifest", lambda _text, program: programs.append(program) or WANTED)
    seen, view = host(WANTED)
    assert [reason["text"] for reason in seen["reasons"]["packages"]] == ["kubeadm: 1.36.3-1.1 -> 1.37.2-1.1"]
    assert seen["facts"]["kubelet_version"] == "v1.37.2" and seen["config"]["kubernetes_version"] == "v1.37.2"
    assert (view.differs, view.restarts) == (True, False) and programs == ["/scratch/kubeadm"] * 2


def test_packages_that_cannot_be_had(host: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rest of the host is observed with the programs that it has."""

    def refuse(*_args: Any, **_options: Any) -> Any:
        raise EtcdError("no repository has kubelet", "no repository has kubeadm")

    monkeypatch.setattr(_observe, "staged", refuse)
    seen, _view = host(WANTED, ("packages", "packages"))
    assert seen["reasons"]["packages"] == [] and seen["facts"]["kubelet_version"] == "v1.36.3"
    # A stopped member is started without them. The configuration is not compared, so that the problem stops the run.
    assert set(seen["problems"][0]["stops"]) == {"found", "restart"} and seen["config"] == {}


def test_a_configuration_that_is_wrong(host: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = [Problem("no such flag", code="flag")]
    monkeypatch.setattr(_observe._kubeadm, "config_problems", lambda *_args: wrong)
    seen, view = host(WANTED.replace("--cors=a", "--cors=c"), ("flag",))
    assert seen["config"] == {} and seen["reasons"]["config"] == [] and not view.differs


def test_a_manifest_that_cannot_be_rendered(host: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_args: Any) -> None:
        raise EtcdError("kubeadm fails")

    monkeypatch.setattr(_observe._kubeadm, "render_manifest", fail)
    seen, _view = host(WANTED, ("configuration",))
    assert seen["config"] == {} and tuple(seen["problems"][0]["stops"]) == PROCESSES


@pytest.mark.parametrize(
    ("stale", "argv", "codes", "restarts"),
    [
        ("", [], [], False),
        ("etcd: runs with former files", [], ["stale"], True),
        # It restarts anyway.
        ("", ["--quota-backend-bytes=1"], ["pending"], False),
    ],
)
def test_a_member_that_restarts(
    host: Any, monkeypatch: pytest.MonkeyPatch, stale: str, argv: list[str], codes: list[str], restarts: bool
) -> None:
    process = Process(7, 1, ["etcd", *_kubeadm.manifest_arguments(WANTED)[1:], *argv])
    monkeypatch.setattr(_observe, "find_etcd_process", lambda _name: process)
    monkeypatch.setattr(_observe, "stale_directory", lambda *_args: stale)
    monkeypatch.setattr(_observe, "younger_than", lambda _path: lambda _process: True)
    monkeypatch.setattr(_observe, "is_ready", lambda _url: True)
    monkeypatch.setattr(_observe._host, "process_started", lambda _pid: time.time() - 100)
    seen, view = host(WANTED)
    assert [reason["code"] for reason in seen["reasons"]["manifest"]] == codes
    assert (view.restarts, view.ready, view.stale) == (restarts, not codes, bool(stale))
    assert view.running and 99 < view.age < 160
