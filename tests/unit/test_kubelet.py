"""The files of the kubelet override, and the reasons to restart the kubelet."""

from __future__ import annotations

import configparser
import dataclasses
import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.kubeadm.etcd.plugins.module_utils._host import cri as _cri
from ansible_collections.kubeadm.etcd.plugins.module_utils._host import facts as _host
from ansible_collections.kubeadm.etcd.plugins.module_utils._host import files as _files
from ansible_collections.kubeadm.etcd.plugins.module_utils._host import kubelet as _kubelet
from ansible_collections.kubeadm.etcd.plugins.module_utils._host import service
from ansible_collections.kubeadm.etcd.plugins.module_utils._host.process import Done
from ansible_collections.kubeadm.etcd.plugins.module_utils._member import observe as _observe
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.errors import EtcdError
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.problems import FOUND, PROCESSES, START, Problem
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.reasons import texts

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


def test_the_kubelet_removes_no_images() -> None:
    """Not even if the disk is full: that of the sandbox is needed after a reboot."""
    config = _kubelet.kubelet_config(SPEC, 36, False)
    assert config["imageGCHighThresholdPercent"] == 100
    # Without one, the defaults of the kubelet would apply.
    assert config["evictionHard"] and set(config["evictionHard"].values()) == {"0%"}


@pytest.mark.parametrize(
    ("image", "is_there", "missing"), [("pause:3.9", True, ""), ("pause:3.9", False, "pause:3.9"), (None, False, "")]
)
def test_a_missing_sandbox_image(
    monkeypatch: pytest.MonkeyPatch, image: str | None, is_there: bool, missing: str
) -> None:
    monkeypatch.setattr(_cri, "sandbox_image", lambda _endpoint: image)
    monkeypatch.setattr(_cri, "has_image", lambda _endpoint, name: is_there and name == image)
    assert _host.missing_sandbox_image("unix:///run/containerd.sock") == missing
    assert [missing in text for text in _kubelet.sandbox_warnings(missing)] == [True] * bool(missing)


def test_a_runtime_that_does_not_answer_has_unknown_images() -> None:
    assert _host.missing_sandbox_image("unix:///no/containerd.sock") == ""
    assert _host.images("unix:///no/containerd.sock") is None and _host.images("unix:///run/crio/crio.sock") is None


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


WANTED = "maxPods: 20\n"


@pytest.mark.parametrize(
    ("change", "before", "written", "words"),
    [
        ({}, WANTED, 900.0, None),
        ({"active": False}, WANTED, 900.0, "not running"),
        ({"argv": ["/usr/bin/kubelet"]}, WANTED, 900.0, "without the override"),
        ({"replaced": True}, WANTED, 900.0, "runs a program that was replaced since"),
        # It starts the new one anyway.
        ({"replaced": True, "active": False}, WANTED, 900.0, "not running"),
        # The recorded configuration of its start counts, not the time of files.
        ({"config": WANTED}, WANTED, 1100.0, None),
        ({"config": WANTED}, WANTED, 9e9, None),
        ({"config": "maxPods: 10\n"}, WANTED, 900.0, "older configuration"),
        ({"config": "maxPods: 10\n"}, "maxPods: 10\n", 900.0, "older configuration"),
        ({"config": WANTED}, "edited since, and never read\n", 1100.0, None),
        ({"config": WANTED}, None, 0.0, None),
        ({"config": "", "replaced": True}, WANTED, 900.0, "older configuration kubelet.service: runs a program"),
        # Without it, as after an earlier version of the collection, the time of the file counts, unless it is in the future.
        ({}, WANTED, 1100.0, "older configuration"),
        ({}, "maxPods: 10\n", 900.0, "older configuration"),
        ({}, None, 0.0, "older configuration"),
        ({}, WANTED, 9e9, None),
        # Done without a restart.
        ({"enabled": False, "config": WANTED}, WANTED, 900.0, None),
        ({"need_reload": True, "config": WANTED}, WANTED, 900.0, None),
    ],
)
def test_reasons_to_restart_the_kubelet(
    change: dict[str, object], before: str | None, written: float, words: str | None
) -> None:
    unit = dataclasses.replace(RUNNING, **change)  # type: ignore[arg-type]
    reasons = texts(_kubelet.restart_reasons(unit, SPEC.config_path, WANTED, before, written, now=2000.0))
    assert (not reasons) if words is None else words in " ".join(reasons)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({}, []),
        ({"enabled": False}, ["kubelet.service: not enabled, so etcd would not start after a reboot"]),
        ({"need_reload": True}, ["kubelet.service: unit files changed since systemd read them"]),
    ],
)
def test_what_needs_no_restart(change: dict[str, object], words: list[str]) -> None:
    assert texts(_kubelet.unit_reasons(dataclasses.replace(RUNNING, **change))) == words  # type: ignore[arg-type]


def test_file_reasons() -> None:
    wanted = {"/a": "1", "/b": "2", "/c": "3"}
    assert texts(_kubelet.file_reasons(wanted, {"/a": "1", "/b": "x", "/c": None})) == [
        "/b: content differs",
        "/c: missing",
    ]


@pytest.mark.parametrize(
    "field", ["staticPodPath", "containerRuntimeEndpoint", "cgroupDriver", "healthzPort", "healthzBindAddress"]
)
def test_fields_that_have_a_variable_of_their_own(field: str) -> None:
    spec = _kubelet.KubeletSpec("systemd", "s", "m", "c", extra={field: "x"})
    (problem,) = _kubelet.config_problems(spec)
    assert f"etcd_kubelet_config must not set {field}" in problem.text and problem.stops == PROCESSES


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ("masked", "systemctl unmask kubelet"),
        ("not-found", "systemd cannot load kubelet.service (not-found)"),
        ("bad-setting", "systemd cannot load kubelet.service (bad-setting)"),
    ],
)
def test_a_unit_that_cannot_be_started(state: str, words: str) -> None:
    """Certificates are still renewed."""
    assert _kubelet.unit_problems(RUNNING) == []
    (problem,) = _kubelet.unit_problems(dataclasses.replace(RUNNING, load_state=state))
    assert words in problem.text and problem.stops == PROCESSES


# A change of the program while it runs, and whether a restart would then start another one.
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


@pytest.mark.parametrize(
    ("host", "valid"),
    [("infra0", True), ("Infra0.Example.org", True), ("infra_0", False), ("infra0-", False), ("a..b", False), ("x" * 62, True), ("x" * 250, False)],
)  # fmt: skip
def test_the_name_of_a_host_becomes_part_of_the_name_of_a_pod(host: str, valid: bool) -> None:
    problems = _kubelet.pod_name_problems(host)
    assert not problems if valid else problems[0].stops == PROCESSES
    assert _kubelet.own_pod("Infra0.Example.org") == "etcd-infra0.example.org"


class Host:
    """A host under a directory: what `observe_kubelet` sees of it."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.config, self.manifests = root / "work" / "kubelet.yaml", root / "manifests"
        self.data, self.started_with = root / "data", root / "started-with"
        self.unit = dataclasses.replace(RUNNING, argv=["/usr/bin/kubelet", f"--config={self.config}"])
        self.drop_ins: list[_kubelet.UnitFile] = []
        for directory in (self.config.parent, self.manifests, root / "drop-ins"):
            directory.mkdir()
        for name, file in (("DROP_IN", "20.conf"), ("DATA_DROP_IN", "30.conf"), ("PAGE_CONFIG", "kubelet.conf")):
            monkeypatch.setattr(_kubelet, name, str(root / "drop-ins" / file))
        monkeypatch.setattr(_kubelet, "STARTED_WITH", str(self.started_with))
        monkeypatch.setattr(_host, "kubelet_unit", lambda: self.unit)
        monkeypatch.setattr(_host, "kubelet_drop_ins", lambda: self.drop_ins)
        monkeypatch.setattr(_host, "kubelet_environment", list)
        monkeypatch.setattr(_host, "copied_key_dirs", list)
        monkeypatch.setattr(_kubelet.socket, "gethostname", lambda: "infra0")

    def observe(
        self, problems: list[Problem] | None = None, driver: str | None = None, **changes: Any
    ) -> dict[str, Any]:
        """As etcd_host_info does."""
        facts = {
            "systemd": True,
            "kubelet_version": "v1.36.3",
            "cgroup_version": 2,
            "runtime_cgroup_driver": driver,
            **changes,
        }
        params = {"kubelet": self.wanted, "data_dir": str(self.data)}
        command = _observe.arguments_in(str(self.manifests / "etcd.yaml"))
        return _observe.observe_kubelet(params, facts, command, [] if problems is None else problems)

    @property
    def wanted(self) -> dict[str, Any]:
        """The kubelet as an option of modules."""
        return {
            "cgroup_driver": "systemd",
            "runtime_endpoint": "unix:///run/c.sock",
            "manifests_dir": str(self.manifests),
            "config_path": str(self.config),
            "extra": {},
        }

    @property
    def files(self) -> Mapping[str, str]:
        """What is wanted, as the turn of the member has it."""
        return service.kubelet_files(service.kubelet_spec(self.wanted, str(self.data)), "v1.36.3", 2)

    def write(self) -> None:
        """Write the files, as the turn does."""
        for path, text in self.files.items():
            Path(path).write_text(text, encoding="utf-8")

    def install(self) -> None:
        """A manifest, and the record of a member that has run."""
        text = f"spec:\n  containers:\n  - command:\n    - etcd\n    - --data-dir={self.data}\n    image: x\n"
        (self.manifests / "etcd.yaml").write_text(text, encoding="utf-8")
        (self.config.parent / "member.json").write_text("{}", encoding="utf-8")

    def start(self) -> subprocess.CompletedProcess[str]:
        """What systemd runs before the kubelet."""
        script = self.config.parent / "before-kubelet.sh"
        return subprocess.run(["sh", str(script)], capture_output=True, text=True, check=False, timeout=20)


def test_files_of_a_former_version_change_without_a_restart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that were added since count from the next start on. No kubelet restarts for them, and the second run does nothing."""
    host = Host(tmp_path, monkeypatch)
    files = host.files
    for path in (str(host.config), _kubelet.DROP_IN):
        Path(path).write_text(files[path], encoding="utf-8")
        os.utime(path, (900.0, 900.0))
    seen = host.observe()
    assert seen["restart"] == [] and {reason["text"].split(": ")[0] for reason in seen["reasons"]} == {
        _kubelet.DATA_DROP_IN,
        str(host.config.parent / "before-kubelet.sh"),
    }
    host.write()
    os.utime(host.config, (900.0, 900.0))
    assert host.observe()["reasons"] == []


@pytest.mark.parametrize("left", ["nothing", "what etcd makes before it fails", "the log of another directory"])
@pytest.mark.parametrize("directory", ["data", "a name with blanks, 'quotes' and $HOME"])
def test_the_kubelet_does_not_start_etcd_without_its_data(
    left: str, directory: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = Host(tmp_path, monkeypatch)
    host.data = tmp_path / directory
    host.write()
    assert host.start().returncode == 0, "a fresh host"
    assert host.started_with.read_text(encoding="utf-8") == host.config.read_text(encoding="utf-8")
    host.install()
    (host.data / "member" / "snap").mkdir(parents=True)
    if left != "nothing":
        (host.data / "member" / "snap" / "db").write_bytes(b"x")
    if left == "the log of another directory":
        (host.data / "0000000000000000-0000000000000000.wal").write_bytes(b"x")
    done = host.start()
    assert done.returncode == 1 and done.stderr.startswith("<3>etcd is not started")
    assert f"{host.data}/member/wal/*.wal" in done.stderr and "Mount it" in done.stderr
    host.unit = dataclasses.replace(host.unit, active=False)
    assert host.observe()["held"]
    (host.data / "member" / "wal").mkdir()
    (host.data / "member" / "wal" / "0000000000000007-0000000000000000.wal").write_bytes(b"x")
    assert host.start().returncode == 0 and not host.observe()["held"], "the volume is back"


@pytest.mark.parametrize(
    "without", ["the record: a first run that was killed", "the manifest: the member is being replaced", "both"]
)
def test_what_the_kubelet_may_start(without: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host(tmp_path, monkeypatch)
    host.write()
    host.install()
    if "manifest" not in without:
        (host.config.parent / "member.json").unlink()
    if "record" not in without:
        (host.manifests / "etcd.yaml").unlink()
    host.unit = dataclasses.replace(host.unit, active=False)
    assert host.start().returncode == 0 and not host.observe()["held"]


def test_a_data_directory_that_is_quoted_in_the_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host(tmp_path, monkeypatch)
    host.write()
    host.install()
    manifest = host.manifests / "etcd.yaml"
    for quote in "'", '"':
        text = f"spec:\n  containers:\n  - command:\n    - etcd\n    - {quote}--data-dir={host.data}{quote}\n"
        manifest.write_text(text, encoding="utf-8")
        done = host.start()
        assert done.returncode == 1 and f"{host.data}/member/wal" in done.stderr


def test_a_copy_that_cannot_be_made_stops_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host(tmp_path, monkeypatch)
    monkeypatch.setattr(_kubelet, "STARTED_WITH", "/nowhere/kubelet.yaml")
    host.write()
    assert host.start().returncode == 0


@pytest.mark.parametrize(
    ("directories", "line"),
    [
        (("/var/lib/etcd",), 'RequiresMountsFor="/var/lib/etcd"'),
        (("/var/lib/etcd", "/mnt/ssd"), 'RequiresMountsFor="/var/lib/etcd" "/mnt/ssd"'),
        # As systemd 252 reads it: /mnt/a b%c/d\e"f
        (('/mnt/a b%c/d\\e"f',), 'RequiresMountsFor="/mnt/a b%%c/d\\\\e\\"f"'),
    ],
)
def test_the_volume_is_waited_for(directories: tuple[str, ...], line: str) -> None:
    lines = _kubelet.render_data_drop_in(dataclasses.replace(SPEC, data_dirs=directories)).splitlines()
    unit = lines[lines.index("[Unit]") + 1 : lines.index("[Service]")]
    assert unit == [line, "StartLimitIntervalSec=0"]
    assert 'ExecStartPre=/bin/sh "/etc/k/before-kubelet.sh"' in lines


def test_a_link_leads_to_the_volume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host(tmp_path, monkeypatch)
    host.data.symlink_to(tmp_path / "ssd")
    assert f'"{host.data}" "{tmp_path}/ssd"' in host.files[_kubelet.DATA_DROP_IN]


OURS = _kubelet.UnitFile(_kubelet.DROP_IN, _kubelet.render_drop_in(SPEC))


@pytest.mark.parametrize(
    ("name", "text", "named"),
    [
        (
            "90-site.conf",
            "[Service]\nExecStart=\nExecStart=/usr/bin/kubelet --config=/var/lib/kubelet/config.yaml\n",
            True,
        ),
        ("21-a.conf", "[Service]\nExecStart =\n  ExecStart = /usr/bin/kubelet \\\n  --config=/other.yaml\n", True),
        # Without a command there is nothing to start.
        ("90-site.conf", "[Service]\nExecStart=\n", True),
        (
            "90-site.conf",
            "[Service]\nExecStart=\nExecStart=/usr/bin/kubelet --config=/etc/k/kubelet.yaml --v=4\n",
            False,
        ),
        (
            "90-site.conf",
            "[Service]\nExecStart=\nExecStart=/usr/bin/kubelet \\\n --config=/etc/k/kubelet.yaml\n",
            False,
        ),
        ("90-site.conf", "[Service]\nEnvironment=A=ExecStart=b\nExecStartPre=/bin/true\n#ExecStart=/bin/x\n", False),
        ("10-kubeadm.conf", "[Service]\nExecStart=\nExecStart=/usr/bin/kubelet $KUBELET_CONFIG_ARGS\n", False),
        ("kubelet.conf", "apiVersion: kubelet.config.k8s.io/v1beta1\n", False),
    ],
)
def test_a_drop_in_that_takes_the_command_line_is_named(name: str, text: str, named: bool) -> None:
    other = _kubelet.UnitFile(f"/run/systemd/system/kubelet.service.d/{name}", text)
    problems = _kubelet.override_problems(sorted([OURS, other], key=lambda item: item.path.rsplit("/")[-1]), SPEC)
    assert [problem.stops for problem in problems] == ([PROCESSES] if named else [])
    assert all(other.path in problem.text for problem in problems)


def test_a_fresh_host_has_no_drop_in_that_wins() -> None:
    """Ours is not there yet, and will sort after kubeadm's."""
    kubeadm = _kubelet.UnitFile(
        "/usr/lib/systemd/system/kubelet.service.d/10-kubeadm.conf", "[Service]\nExecStart=/x\n"
    )
    assert _kubelet.override_problems([kubeadm], SPEC) == []


def test_of_several_drop_ins_the_last_one_counts() -> None:
    other = _kubelet.UnitFile("/etc/90.conf", "[Service]\nExecStart=\nExecStart=/usr/bin/kubelet --config=/x\n")
    last = _kubelet.UnitFile(
        "/etc/95.conf", "[Service]\nExecStart=\nExecStart=/usr/bin/kubelet --config=/etc/k/kubelet.yaml\n"
    )
    assert _kubelet.override_problems([OURS, other, last], SPEC) == []


def test_drop_ins_are_read_as_systemd_reads_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sorted by name. Of two with one name, that in the first directory counts. Drop-ins for all services count too."""
    for path, text in (
        ("etc/kubelet.service.d/20-a.conf", "etc"),
        ("usr/kubelet.service.d/20-a.conf", "masked"),
        ("usr/kubelet.service.d/10-kubeadm.conf", "package"),
        ("run/kubelet.service.d/90-site.conf", "run"),
        ("etc/service.d/50-all.conf", "all"),
        ("etc/kubelet.service.d/README", "no drop-in"),
    ):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text, encoding="utf-8")
    (tmp_path / "etc/kubelet.service.d/95-broken.conf").symlink_to("nowhere")
    directories = " ".join(str(tmp_path / name) for name in ("etc", "run", "usr"))
    monkeypatch.setattr(_host, "output", lambda _argv: f"{directories}\n")
    assert [item.text for item in _host.kubelet_drop_ins()] == ["package", "etc", "all", "run", ""]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("KUBELET_EXTRA_ARGS=--node-ip=10.0.0.6\n", "--node-ip=10.0.0.6"),
        ('KUBELET_EXTRA_ARGS="--v=4 --node-ip=10.0.0.6"\n', "--v=4 --node-ip=10.0.0.6"),
        ('[Service]\nEnvironment="KUBELET_EXTRA_ARGS=--v=4"\n', "--v=4"),
        ("KUBELET_EXTRA_ARGS=\n", None),
        ('KUBELET_EXTRA_ARGS=""\n', None),
        ("# KUBELET_EXTRA_ARGS=--v=4\n", None),
        ("KUBELET_EXTRA_ARGS=--v=4\nKUBELET_EXTRA_ARGS=\n", None),
        ("[Service]\nExecStart=/usr/bin/kubelet $KUBELET_EXTRA_ARGS\n", None),
    ],
)
def test_arguments_that_are_dropped_are_reported(text: str, value: str | None) -> None:
    warnings = _kubelet.dropped_arguments([_kubelet.UnitFile("/etc/default/kubelet", text)])
    assert len(warnings) == (value is not None)
    assert all(f"/etc/default/kubelet sets KUBELET_EXTRA_ARGS={value}," in warning for warning in warnings)


@pytest.mark.parametrize(
    ("driver", "wanted", "before", "words", "stops"),
    [
        ("cgroupfs", "systemd", None, "stopped every few minutes. Set SystemdCgroup = true in", (FOUND, START)),
        ("systemd", "cgroupfs", None, "no pod would start. Set SystemdCgroup = false in", (FOUND, START)),
        # Such a member keeps running, and its kubelet may restart for another reason.
        ("cgroupfs", "systemd", "systemd", "SystemdCgroup = true", (FOUND, START)),
        # A healthy member would be stopped, and would not start again.
        ("systemd", "cgroupfs", "systemd", "SystemdCgroup = false", PROCESSES),
        ("systemd", "systemd", "cgroupfs", None, ()),
        (None, "cgroupfs", "systemd", None, ()),
    ],
)
def test_a_runtime_with_another_cgroup_driver(
    driver: str | None, wanted: str, before: str | None, words: str | None, stops: tuple[str, ...]
) -> None:
    text = before and _kubelet.render_config(
        _kubelet.kubelet_config(dataclasses.replace(SPEC, cgroup_driver=before), 36, False)
    )
    problems = _kubelet.runtime_problems(dataclasses.replace(SPEC, cgroup_driver=wanted), driver, text)
    assert [problem.stops for problem in problems] == ([stops] if words else [])
    assert all(
        words in problem.text and f"or set etcd_cgroup_driver: {driver}." in problem.text
        for problem in problems
        if words
    )


def test_problems_of_the_kubelet_are_observed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host(tmp_path, monkeypatch)
    host.drop_ins = [_kubelet.UnitFile("/etc/90-site.conf", "[Service]\nExecStart=\n")]
    problems: list[Problem] = []
    host.observe(problems, driver="cgroupfs")
    assert [words for problem in problems for words in ("90-site.conf", "SystemdCgroup") if words in problem.text] == [
        "90-site.conf",
        "SystemdCgroup",
    ]


PAGE_UNIT = dataclasses.replace(RUNNING, argv=["/usr/bin/kubelet", f"--config={_kubelet.PAGE_CONFIG}"])


@pytest.mark.parametrize(
    ("unit", "is_ours", "there", "keys", "words"),
    [
        (RUNNING, True, False, [], []),
        (RUNNING, True, True, [], [f"rm {_kubelet.PAGE_CONFIG}"]),
        # The kubelet may still need the file, so the message does not advise to remove it.
        (PAGE_UNIT, True, True, [], []),
        (RUNNING, False, True, [], []),
        (
            RUNNING,
            True,
            False,
            ["/tmp/10.0.0.7/pki"],
            ["private keys of members are left from the setup by hand in /tmp/10.0.0.7/pki."],
        ),
    ],
)
def test_what_the_page_leaves_behind(
    unit: _kubelet.Unit, is_ours: bool, there: bool, keys: list[str], words: list[str]
) -> None:
    warnings = _kubelet.page_warnings(unit, is_ours, there, keys)
    assert len(warnings) == len(words) and all(word in warning for word, warning in zip(words, warnings))


def test_copies_of_keys_are_found_where_the_page_makes_them(tmp_path: Path) -> None:
    for path in (
        "tmp/10.0.0.7/pki/etcd/peer.key",
        "tmp/10.0.0.8/pki/apiserver-etcd-client.key",
        "home/ubuntu/pki/etcd/server.key",
    ):
        (tmp_path / path).parent.mkdir(parents=True)
        (tmp_path / path).touch()
    for path in ("tmp/10.0.0.6", "tmp/x/pki/etcd", "root/pki"):
        (tmp_path / path).mkdir(parents=True)
    (tmp_path / "tmp/10.0.0.6/kubeadmcfg.yaml").touch()
    (tmp_path / "tmp/x/pki/etcd/ca.crt").touch()
    found = _host.copied_key_dirs(str(tmp_path))
    assert found == [str(tmp_path / path) for path in ("home/ubuntu/pki", "tmp/10.0.0.7/pki", "tmp/10.0.0.8/pki")]


def test_files_are_put_back_as_they_were(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With their modes; those that were not there are removed."""
    monkeypatch.setattr(service, "FILE_MODE", 0o644)
    owner = (os.getuid(), os.getgid())
    monkeypatch.setattr(service, "Replacement", lambda *values: _files.Replacement(*values, *owner))
    there, missing = tmp_path / "drop-ins" / "20.conf", tmp_path / "work" / "kubelet.yaml"
    for path in (there, missing):
        path.parent.mkdir()
    there.write_text("before")
    os.chmod(there, 0o640)
    kept = service.keep([str(there), str(missing)])
    service.write({str(there): "wanted", str(missing): "wanted"})
    assert there.read_text() == missing.read_text() == "wanted" and there.stat().st_mode & 0o777 == 0o644
    service.put_back(kept)
    assert there.read_text() == "before" and there.stat().st_mode & 0o777 == 0o640 and not missing.exists()


@pytest.mark.parametrize(("restart", "count"), [(True, 3), (False, 2)])
def test_a_kubelet_is_restarted_only_if_it_has_to(restart: bool, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """systemd reads its files in any case, and starts the kubelet at the next boot."""
    ran: list[list[str]] = []
    monkeypatch.setattr(service, "run", lambda argv, _timeout: ran.append(argv) or Done(0, "", ""))
    service.start(restart)
    assert len(ran) == count and ran[:2] == [["systemctl", "daemon-reload"], ["systemctl", "enable", "kubelet.service"]]
    monkeypatch.setattr(service, "run", lambda *_: Done(1, "", "Job for kubelet.service failed.\n"))
    with pytest.raises(EtcdError, match=r"`systemctl daemon-reload` failed: Job for kubelet\.service failed"):
        service.start(restart)


def test_what_the_kubelet_has_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Errors, if there are any: the last lines may be of another start. Terminal escapes are removed."""
    lines = ["E1127 01:46:48 run.go:72] \x1b[2Jfailed", "I1127 01:46:49 server.go:1] starting"]
    monkeypatch.setattr(service, "run", lambda *_: Done(0, "\n".join(lines), ""))
    header = "\nFrom `journalctl -u kubelet`:"
    assert service.last_lines(0.0) == f"{header}\n  E1127 01:46:48 run.go:72] \ufffd[2Jfailed"
    monkeypatch.setattr(service, "run", lambda *_: Done(0, lines[1], ""))
    assert service.last_lines(0.0) == f"{header}\n  {lines[1]}"


def test_the_kubelet_is_asked_without_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

        def answer() -> None:
            connection, _address = listener.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        assert service.ask(("127.0.0.1", port)) == 500
        thread.join()
    assert service.ask(("127.0.0.1", port)) == 0


@pytest.mark.parametrize(
    ("changes", "said"), [({}, True), ({"systemd": False}, False), ({"kubelet_version": None}, False)], ids=str
)
def test_a_unit_is_judged_where_there_can_be_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], said: bool
) -> None:
    """Other checks report a missing systemd or kubelet."""
    host = Host(tmp_path, monkeypatch)
    host.unit = dataclasses.replace(host.unit, load_state="not-found", active=False)
    problems: list[Problem] = []
    host.observe(problems, **changes)
    assert bool(problems) == said


@pytest.mark.parametrize(("code", "healthy", "answers"), [(200, True, True), (500, False, True), (0, False, False)])
def test_what_the_kubelet_says_of_itself(
    monkeypatch: pytest.MonkeyPatch, code: int, healthy: bool, answers: bool
) -> None:
    monkeypatch.setattr(service, "ask", lambda: code)
    assert (service.is_healthy(), service.answers()) == (healthy, answers)
