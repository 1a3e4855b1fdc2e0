"""The kubelet override: files, and when the kubelet has to be restarted."""

from __future__ import annotations

import configparser
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from ansible_collections.kubeadm.etcd.plugins.module_utils import _host, _kubelet, _observe

SPEC = _kubelet.KubeletSpec("systemd", "unix:///run/c.sock", "/etc/kubernetes/manifests", "/etc/k/kubelet.yaml")
RUNNING = _kubelet.Unit("loaded", True, True, False, ["/usr/bin/kubelet", "--config=/etc/k/kubelet.yaml"], 1000.0)


@pytest.mark.parametrize(
    ("minor", "cgroup_v1", "expected"), [(34, True, None), (35, True, False), (36, False, None), (37, True, False)]
)
def test_cgroup_v1(minor: int, cgroup_v1: bool, expected: bool | None) -> None:
    assert _kubelet.kubelet_config(SPEC, minor, cgroup_v1).get("failCgroupV1") is expected


def test_user_fields_are_merged_deeply_over_ours() -> None:
    spec = _kubelet.KubeletSpec(
        "systemd", "s", "m", "c", extra={"authentication": {"anonymous": {"enabled": True}}, "maxPods": 5}
    )
    config = _kubelet.kubelet_config(spec, 36, False)
    assert config["authentication"] == {"anonymous": {"enabled": True}, "webhook": {"enabled": False}}
    assert config["maxPods"] == 5


def test_config_says_where_static_pods_are() -> None:
    text = _kubelet.render_config(_kubelet.kubelet_config(SPEC, 36, False))
    assert yaml.safe_load(text)["staticPodPath"] == "/etc/kubernetes/manifests"


def test_drop_in_clears_the_command_line_before_setting_it() -> None:
    lines = _kubelet.render_drop_in(SPEC).splitlines()
    assert lines.index("ExecStart=") + 1 == lines.index("ExecStart=/usr/bin/kubelet --config=/etc/k/kubelet.yaml")
    parser = configparser.ConfigParser(strict=False)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string("\n".join(lines))
    assert parser["Service"]["Restart"] == "always"


@pytest.mark.parametrize(
    ("change", "newest", "words"),
    [
        ({}, 900.0, None),
        ({"enabled": False}, 900.0, "not enabled"),
        ({"active": False}, 900.0, "not running"),
        ({"argv": ["/usr/bin/kubelet"]}, 900.0, "without the override"),
        ({}, 1100.0, "older configuration"),
        ({"need_reload": True}, 900.0, "unit files changed"),
        ({"replaced": True}, 900.0, "runs a program that was replaced since"),
        ({"replaced": True}, 1100.0, "older configuration kubelet.service: runs a program that was replaced"),
        # It starts the new one anyway.
        ({"replaced": True, "active": False}, 900.0, "not running"),
    ],
)
def test_restart(change: dict[str, object], newest: float, words: str | None) -> None:
    unit = _kubelet.Unit(**{**RUNNING.__dict__, **change})  # type: ignore[arg-type]
    reasons = _kubelet.restart_reasons(unit, SPEC, newest)
    assert (not reasons) if words is None else words in " ".join(reasons)


def test_file_reasons() -> None:
    wanted = {"/a": "1", "/b": "2", "/c": "3"}
    assert _kubelet.file_reasons(wanted, {"/a": "1", "/b": "x", "/c": None}) == ["/b: content differs", "/c: missing"]


@pytest.mark.parametrize(
    "field", ["staticPodPath", "containerRuntimeEndpoint", "cgroupDriver", "healthzPort", "healthzBindAddress"]
)
def test_fields_that_have_a_variable_of_their_own(field: str) -> None:
    spec = _kubelet.KubeletSpec("systemd", "s", "m", "c", extra={field: "x"})
    assert field in _kubelet.config_problems(spec)[0]


def test_a_masked_unit_is_not_unmasked() -> None:
    assert _kubelet.unit_problems(RUNNING) == []
    masked = _kubelet.Unit("masked", False, False, False, [], 0.0)
    assert "systemctl unmask kubelet" in _kubelet.unit_problems(masked)[0]


def test_a_program_without_a_unit() -> None:
    unit = _kubelet.Unit(**{**RUNNING.__dict__, "load_state": "not-found"})
    assert "no usable kubelet.service (not-found)" in _kubelet.unit_problems(unit)[0]


# What is done to the program while it runs, and whether the process is then of another one than would be started now.
REPLACED = {
    "nothing": ("true", False),
    "the same by another name": ("mv kubelet moved; ln -s moved kubelet", False),
    "a package upgrade": ("cp kubelet new; mv new kubelet", True),
    "a package upgrade that keeps the old one": ("mv kubelet old; cp old kubelet", True),
    "a link that leads elsewhere": ("mv kubelet 1.36.3; cp 1.36.3 1.36.4; ln -s 1.36.4 kubelet", True),
    "a script that starts it": ("mv kubelet real; echo '#!/bin/sh' > kubelet", False),
    "a script that started what is gone": ("rm kubelet; echo '#!/bin/sh' > kubelet", True),
    "no program any more": ("mv kubelet away", False),
}


@pytest.mark.parametrize("case", REPLACED)
def test_a_program_that_was_replaced_while_it_runs(case: str, tmp_path: Path) -> None:
    script, expected = REPLACED[case]
    program = tmp_path / "kubelet"
    shutil.copy(str(shutil.which("sleep")), program)
    with subprocess.Popen([str(program), "60"], executable=str(program)) as process:
        try:
            assert not _host.runs_replaced_program(process.pid, str(program))
            subprocess.run(["sh", "-ec", script], cwd=tmp_path, check=True)
            assert _host.runs_replaced_program(process.pid, str(program)) is expected
        finally:
            process.kill()
    assert not _host.runs_replaced_program(process.pid, str(program)), "it has ended"


def test_what_a_file_was_is_observed_where_it_is_to_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, drop_in = tmp_path / "kubelet.yaml", tmp_path / "drop-in.conf"
    monkeypatch.setattr(_kubelet, "DROP_IN", str(drop_in))
    monkeypatch.setattr(_host, "kubelet_unit", lambda: RUNNING)
    facts = {"systemd": True, "kubelet_version": "v1.36.3", "cgroup_version": 2}
    params = {
        "kubelet": {"cgroup_driver": "systemd", "config_path": str(config), "extra": {}},
        "runtime_endpoint": "unix:///run/c.sock",
        "manifests_dir": str(tmp_path),
    }
    config.write_text("maxPods: 5\n", encoding="utf-8")
    os.chmod(config, 0o640)
    seen = _observe.observe_kubelet(params, facts, [])
    assert seen["previous"] == {str(config): {"text": "maxPods: 5\n", "mode": "0640"}, str(drop_in): None}
    for path, text in seen["files"].items():
        Path(path).write_text(text, encoding="utf-8")
    assert _observe.observe_kubelet(params, facts, [])["previous"] == {}
