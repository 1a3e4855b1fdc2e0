"""The kubelet override: files, and when the kubelet has to be restarted."""

from __future__ import annotations

import configparser

import pytest
import yaml
from ansible_collections.kubeadm.etcd.plugins.module_utils import _kubelet

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
    unit = _kubelet.Unit("not-found", False, False, False, [], 0.0)
    assert "no usable kubelet.service (not-found)" in _kubelet.unit_problems(unit)[0]
