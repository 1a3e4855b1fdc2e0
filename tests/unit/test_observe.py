"""The observation of files and processes of a host, by the functions that etcd_host_info calls."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.kubeadm.etcd.plugins.module_utils._member import observe as _observe
from ansible_collections.kubeadm.etcd.plugins.module_utils._member import processes as _processes
from ansible_collections.kubeadm.etcd.plugins.module_utils._member.record import Record
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.errors import EtcdError
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.problems import PROCESSES
from test_record import write_log

ARGV = ["etcd", "--name=infra1", "--snapshot-count=10000"]


@pytest.fixture
def params(tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "manifests").mkdir()
    (tmp_path / "work").mkdir()
    return {
        "name": "infra1",
        "data_dir": str(tmp_path / "data"),
        "manifests_dir": str(tmp_path / "manifests"),
        "kubelet": {"config_path": str(tmp_path / "work" / "kubelet.yaml")},
        "pki": {"pki_dir": str(tmp_path / "pki")},
    }


@pytest.mark.parametrize(
    ("command", "argv", "age", "pending"),
    [
        (ARGV, ARGV, 3600, False),
        # Flags that it was not started with, and flags that are gone.
        ([*ARGV, "--quota-backend-bytes=1"], ARGV, 3600, True),
        (ARGV, [*ARGV, "--auto-compaction-retention=1"], 3600, True),
        # What the kubelet expands is not in the manifest as it runs.
        ([*ARGV, "--log-level=$(LEVEL)"], [*ARGV, "--log-level=info"], 3600, False),
        # An image, a variable or a probe is in no command line.
        (ARGV, ARGV, 5, True),
        ([], ARGV, 3600, False),
    ],
    ids=["as it runs", "a flag more", "a flag less", "expanded", "just replaced", "no manifest"],
)
def test_a_member_that_is_about_to_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: list[str], argv: list[str], age: float, pending: bool
) -> None:
    path = tmp_path / "etcd.yaml"
    path.write_text("x")
    os.utime(path, (time.time() - age, time.time() - age))
    # The process is older than the manifest.
    monkeypatch.setattr(_processes, "process_started", lambda _pid: 1.0)
    process = _processes.Process(7, 1, argv)
    assert bool(_observe.pending_manifest(process, command, str(path))) == pending
    assert _observe.pending_manifest(None, command, str(path)) == ""


def test_a_younger_process_is_that_of_the_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "etcd.yaml"
    path.write_text("x")
    monkeypatch.setattr(_processes, "process_started", lambda _pid: time.time() + 1)
    assert _observe.pending_manifest(_processes.Process(7, 1, ARGV), ARGV, str(path)) == ""


@pytest.mark.parametrize("where", ["manifest", "previous", "configuration", "record"])
def test_data_in_the_former_directory(params: dict[str, Any], tmp_path: Path, where: str) -> None:
    """The manifest was moved away to stop the member, and etcd_data_dir was changed. Other files still have the directory."""
    former = write_log(tmp_path / "former", led=True)
    manifest = f"  - command:\n    - etcd\n    - --data-dir={former}\n"
    if where == "previous":
        (tmp_path / "work" / "etcd.yaml.previous").write_text(manifest)
    if where == "configuration":
        (tmp_path / "work" / "kubeadmcfg.yaml").write_text(f"etcd:\n  local:\n    dataDir: {former}\n")
    command = ["etcd", f"--data-dir={former}"] if where == "manifest" else []
    record = Record("infra1", "2", "1", str(former)) if where == "record" else None
    problems = _observe.other_data_dir_problems(params, command, record, has_data=False)
    assert len(problems) == 1 and f"data is in {former}" in problems[0].text and problems[0].stops == PROCESSES
    # Leftovers of an earlier move do not matter once there is data. The directory in the manifest always does.
    assert bool(_observe.other_data_dir_problems(params, command, record, has_data=True)) == (where == "manifest")


def test_a_link_to_the_data_directory_is_the_data_directory(params: dict[str, Any], tmp_path: Path) -> None:
    former = write_log(tmp_path / "former", led=True)
    (tmp_path / "data").symlink_to(former)
    assert _observe.other_data_dir_problems(params, ["etcd", f"--data-dir={former}"], None, has_data=True) == []
    assert _observe.other_data_dir_problems(params, ["etcd", f"--data-dir={former}/"], None, has_data=True) == []


def test_data_that_cannot_be_judged_is_a_problem(params: dict[str, Any]) -> None:
    problems = _observe.data_problems(
        params, {"data_problem": "db cannot be read: Input/output error", "running": False}
    )
    assert problems[0].stops == PROCESSES and "Input/output error" in problems[0].text
    assert _observe.data_problems(params, {"data_problem": "", "running": False}) == []


def test_data_that_waits_for_a_restore_keeps_a_member_from_being_started(params: dict[str, Any]) -> None:
    staging = write_log(Path(f"{params['data_dir']}.restored"), led=False)
    seen = {"data_problem": "", "running": False}
    (problem,) = _observe.data_problems(params, seen)
    assert problem.stops == ("found", "start") and str(staging) in problem.text
    # The member runs: the restore may have been abandoned.
    assert _observe.data_problems(params, {**seen, "running": True}) == []


def test_a_damaged_record_stops_processes_only(params: dict[str, Any], tmp_path: Path) -> None:
    problems: list[Any] = []
    assert _observe.observe_record(params, problems) is None and problems == []
    (tmp_path / "work" / "member.json").write_text("{")
    assert _observe.observe_record(params, problems) is None
    assert problems[0].stops == PROCESSES and "member.json is damaged" in problems[0].text


@pytest.mark.parametrize(
    ("change", "recorded"),
    [
        ({}, True),
        # Only facts that the running member proves are recorded.
        ({"answers": False}, False),
        ({"formed": False}, False),
        ({"members_of": "another"}, False),
        ({"member_id": "9"}, False),
        ({"members": None}, False),
    ],
)
def test_what_runs_is_recorded(params: dict[str, Any], change: dict[str, Any], recorded: bool) -> None:
    write_log(Path(params["data_dir"]), led=True)
    etcd = {
        "answers": True,
        "formed": True,
        "cluster_id": "2",
        "members_of": "2",
        "member_id": "1",
        "members": [{"id": "1"}],
    }
    assert bool(_observe.member_record_reasons(params, {**etcd, **change}, None)) == recorded
    if recorded:
        current = Record("infra1", "2", "1", params["data_dir"])
        assert _observe.member_record_reasons(params, etcd, current) == []


@pytest.mark.parametrize(
    ("asked", "version"),
    [({}, "v1.36.3"), ({"kubernetes_version": None}, "v1.36.3"), ({"kubernetes_version": "v1.35.0"}, "v1.35.0")],
)
def test_certificates_are_judged_by_the_version_of_the_cluster(
    params: dict[str, Any], monkeypatch: pytest.MonkeyPatch, asked: dict[str, Any], version: str
) -> None:
    params["pki"] = {"ca_host": False, **asked}
    specs: list[dict[str, Any]] = []
    monkeypatch.setattr(_observe, "HAS_CRYPTOGRAPHY", True)
    monkeypatch.setattr(_observe._pki.PkiSpec, "from_params", specs.append)

    def fail(*_: Any) -> None:
        raise EtcdError("wrong", "twice")

    problems: list[Any] = []
    monkeypatch.setattr(_observe._pki, "observe", fail)
    assert _observe.observe_pki(params, "v1.36.3", problems, ["10.0.0.9"]) == ({}, [])
    assert specs[0]["kubernetes_version"] == version and specs[0]["known_addresses"] == ["10.0.0.9"]
    assert problems and {problem.code for problem in problems} == {"certificates"}


@pytest.mark.parametrize(
    ("cert", "key", "modes", "texts"),
    [
        (True, True, {}, []),
        (False, False, {}, ["etcd/ca.crt: missing"]),
        (False, True, {}, ["etcd/ca.crt: missing, ca.key is there"]),
        (True, False, {}, []),
        (True, True, {"ca.key": 0o640}, ["etcd/ca.key: mode is 0640, not 0600"]),
        (True, True, {"ca.crt": 0o600}, ["etcd/ca.crt: mode is 0600, not 0644"]),
    ],
)
def test_why_a_ca_is_made(
    params: dict[str, Any], cert: bool, key: bool, modes: dict[str, int], texts: list[str]
) -> None:
    folder = Path(params["pki"]["pki_dir"]) / "etcd"
    folder.mkdir(parents=True)
    for name, is_there, mode in (("ca.crt", cert, 0o644), ("ca.key", key, 0o600)):
        if is_there:
            (folder / name).touch()
            (folder / name).chmod(modes.get(name, mode))
    pki = {"ca_cert": cert, "ca_key": key}
    assert _observe.ca_reasons(params, pki) == []
    params["pki"]["ca_host"] = True
    assert [reason.text for reason in _observe.ca_reasons(params, pki)] == texts
    assert _observe.ca_reasons(params, {}) == []
