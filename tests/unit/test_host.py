"""The observation of a host, with simulated files and processes."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.kubeadm.etcd.plugins.module_utils._host import facts as _host
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.errors import EtcdError

TABLE = "header\n 0: 0100007F:094D 00000000:0000 0A 0 0 0 0 0 11\n 1: 0600000A:094D 00000000:0000 0A 0 0 0 0 0 22\n"


@pytest.mark.parametrize("order", [["11", "22"], ["22", "11"]])
def test_a_second_listener_on_one_port_is_reported(order: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The member at the loopback address, another program at the address where metrics are to be opened."""
    links = {f"/proc/{inode}/fd/3": f"socket:[{inode}]" for inode in order}
    programs = {11: ["/usr/local/bin/etcd", "--name=infra0"], 22: ["/usr/bin/haproxy"]}

    def read_text(path: str) -> str:
        return TABLE if path.endswith("tcp") else "4096\n" if path.endswith("somaxconn") else ""

    def readlink(path: str) -> Any:
        return links[path]

    monkeypatch.setattr(_host, "read_text", read_text)
    monkeypatch.setattr(_host.glob, "glob", lambda *_pattern: list(links))
    monkeypatch.setattr(_host.os, "readlink", readlink)
    monkeypatch.setattr(_host, "process_argv", lambda pid: programs[pid])
    stranger = {"pid": 22, "program": "haproxy", "argv": ["/usr/bin/haproxy"], "full": False}
    assert _host.listeners([2381])["2381"] == stranger
    assert _host.listeners([2379]) == {}
    programs[22] = ["/usr/local/bin/etcd", "--name=infra0"]
    assert _host.listeners([2381])["2381"]["program"] == "etcd"


@pytest.mark.parametrize(
    ("looks", "found"),
    [
        # The process ends, and with it the listener.
        ([{"2379": 0}, {}], {}),
        # It ends between its socket and its command line; another one takes its place.
        ([{"2379": 7}, {"2379": 0}, {"2379": 11}], {"2379": 11}),
        # The kernel's own listener stays without a process.
        ([{"2379": 0}], {"2379": 0}),
    ],
)
def test_a_listener_without_a_process_is_looked_at_again(
    looks: list[dict[str, int]], found: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def look(_ports: list[int]) -> dict[str, Any]:
        seen = looks.pop(0) if len(looks) > 1 else looks[0]
        return {port: {"pid": pid, "argv": ["etcd"] if pid == 11 else []} for port, pid in seen.items()}

    monkeypatch.setattr(_host, "_listeners", look)
    monkeypatch.setattr(_host.time, "sleep", lambda _seconds: None)
    assert {port: listener["pid"] for port, listener in _host.listeners([2379]).items()} == found


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (0, "open"),
        (errno.ECONNREFUSED, "closed"),
        (errno.EINPROGRESS, "silent"),
        (errno.ETIMEDOUT, "silent"),
        (errno.ENETUNREACH, "unreachable"),
        (errno.EHOSTUNREACH, "unreachable"),
        # A rule of the host's own firewall; an address family that is switched off.
        (errno.EPERM, "unreachable"),
        (errno.EACCES, "unreachable"),
        (errno.EAFNOSUPPORT, "unreachable"),
    ],
)
def test_what_a_connection_meets(error: int, state: str) -> None:
    assert _host.state_of(error) == state


@pytest.mark.parametrize("error", [errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EPERM, errno.ECONNREFUSED])
def test_an_error_that_comes_at_once_is_not_open(error: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a route connect(2) fails at once, and the socket itself knows of no error afterwards."""

    class Probe(socket.socket):
        def connect_ex(self, _address: Any) -> int:
            return error

    monkeypatch.setattr(_host.socket, "socket", Probe)
    states, sources = _host.reach([("10.0.0.7", 2379), ("fd00::7", 2380)], 0.5)
    assert set(states.values()) == {_host.state_of(error)} and sources == {}


def test_no_ipv6_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: object) -> None:
        raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")

    monkeypatch.setattr(_host.socket, "socket", refuse)
    assert _host.reach([("fd00::7", 2379)], 0.5) == ({"fd00::7 2379": "unreachable"}, {})


@pytest.mark.skipif(shutil.which("unshare") is None or os.geteuid() != 0, reason="takes a network namespace")
def test_a_host_without_a_network() -> None:
    root = Path(__file__).resolve().parents[2]
    program = (
        "from ansible_collections.kubeadm.etcd.plugins.module_utils._host.facts import reach;"
        "print(reach([('10.0.0.7', 2379), ('fd00::7', 2379)]))"
    )
    done = subprocess.run(
        ["unshare", "-n", sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(root / ".collections"), *sys.path])},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "({'10.0.0.7 2379': 'unreachable', 'fd00::7 2379': 'unreachable'}, {})"


def test_ports_of_real_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Open, closed, and one whose process accepts no connections: the kernel drops them when the queue is full."""
    with contextlib.ExitStack() as stack:
        accepts, closed = (stack.enter_context(socket.socket()) for _number in range(2))
        accepts.bind(("127.0.0.1", 0))
        accepts.listen()
        closed.bind(("127.0.0.1", 0))
        hangs = stack.enter_context(socket.socket())
        hangs.bind(("127.0.0.1", 0))
        hangs.listen(0)
        ports = [it.getsockname()[1] for it in (accepts, closed, hangs)]
        for _number in range(3):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(("127.0.0.1", ports[2]))
        states, sources = _host.reach([("127.0.0.1", port) for port in ports], 0.5)
        assert list(states.values()) == ["open", "closed", "silent"]
        assert set(sources.values()) == {"127.0.0.1"} and len(sources) >= 2
        found = _host.listeners(ports)
        assert sorted(found) == sorted(str(ports[number]) for number in (0, 2))
        assert {item["pid"] for item in found.values()} == {os.getpid()}
        assert not any(item["full"] for item in found.values())
        monkeypatch.setattr(_host, "_backlog", lambda: 0)
        found = _host.listeners(ports)
        assert found[str(ports[2])]["full"]


@pytest.mark.parametrize("path", ["nowhere/lib/etcd", "", "/nowhere/lib/etcd", "/"])
def test_free_space_of_any_path(path: str) -> None:
    """An invalid path is observed before it is refused."""
    assert _host.free_bytes(path) <= shutil.disk_usage("/").total


def test_addresses_of_every_kind_of_interface(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = (
        "1: lo    inet 127.0.0.1/8 scope host lo\n"
        "2: tun0    inet 10.8.0.6 peer 10.8.0.5/32 scope global tun0\n"
        "3: eth0    inet6 fd00::6/64 scope global\n"
        "3: eth0    inet6 fd00::c5f:7/64 scope global temporary dynamic \\       valid_lft 600sec preferred_lft 60sec\n"
        "3: eth0    inet6 fd00::1:6/64 scope global deprecated dynamic mngtmpaddr \\       valid_lft 600sec\n"
    )
    monkeypatch.setattr(_host, "output", lambda _argv: shown)
    monkeypatch.setattr(_host, "runtime_answers", lambda *_, **__: None)
    facts = _host.host_facts("/", [], [], "", "v1.36.3", None)
    assert facts["addresses"] == ["127.0.0.1", "10.8.0.6", "fd00::6", "fd00::c5f:7", "fd00::1:6"]
    assert facts["temporary_addresses"] == ["fd00::c5f:7"]


def test_a_host_without_ipv6_and_route(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: object) -> None:
        raise OSError(97, "Address family not supported by protocol")

    monkeypatch.setattr(_host.socket, "socket", refuse)
    assert _host.default_address() is None


def containerd_config(default: str = "runc", kind: str = "io.containerd.runc.v2", **options: bool) -> dict[str, Any]:
    """A part of the configuration that containerd 1.6.20 reports."""
    runtimes = {
        "runc": {"runtimeType": kind, "options": {"BinaryName": "", **options}},
        "my.one": {"runtimeType": "io.containerd.runc.v2", "options": {"SystemdCgroup": True}},
        "bare": {"runtimeType": "io.containerd.runc.v2", "options": None},
    }
    return {"containerd": {"defaultRuntimeName": default, "runtimes": runtimes}, "systemdCgroup": False}


@pytest.mark.parametrize(
    ("config", "driver"),
    [
        (containerd_config(SystemdCgroup=True), "systemd"),
        (containerd_config(SystemdCgroup=False), "cgroupfs"),
        (containerd_config(), "cgroupfs"),
        (containerd_config("bare"), "cgroupfs"),
        (containerd_config("my.one", SystemdCgroup=False), "systemd"),
        # Unknown drivers give no warning.
        (containerd_config(kind="io.containerd.kata.v2"), None),
        (containerd_config("gone"), None),
        ({}, None),
        ({"containerd": None}, None),
        ({"containerd": {"defaultRuntimeName": "runc", "runtimes": None}}, None),
    ],
)
def test_cgroup_driver_of_containerd(config: dict[str, Any], driver: str | None) -> None:
    assert _host.cgroup_driver_in(config) == driver


def test_a_runtime_that_reports_its_cgroup_driver_is_not_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kubelet takes the driver from the runtime (CRI RuntimeConfig) and ignores its own configuration."""
    containerd = "unix:///run/containerd/containerd.sock"
    monkeypatch.setattr(_host, "runtime_config", lambda _endpoint: containerd_config())
    monkeypatch.setattr(_host, "runtime_answers", lambda _endpoint, method: f"{method} is not implemented")
    assert _host.runtime_cgroup_driver(containerd) == "cgroupfs"
    assert _host.runtime_cgroup_driver("unix:///run/crio/crio.sock") is None
    monkeypatch.setattr(_host, "runtime_answers", lambda *_endpoint, **_method: None)
    assert _host.runtime_cgroup_driver(containerd) is None
    # None runs, for example.
    monkeypatch.undo()
    assert _host.runtime_cgroup_driver("unix:///nowhere/containerd.sock") is None


@pytest.mark.parametrize(
    ("state", "enabled"),
    [("enabled", True), ("static", True), ("enabled-runtime", False), ("disabled", False), ("linked", False)],
)
def test_a_unit_that_is_enabled_until_the_next_reboot_is_not_enabled(
    state: str, enabled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = f"LoadState=loaded\nActiveState=active\nSubState=running\nUnitFileState={state}\nMainPID=0\n"
    monkeypatch.setattr(_host, "output", lambda _argv: shown)
    assert _host.kubelet_unit().enabled is enabled


def test_a_process_that_ends_while_it_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading its stat fails with ESRCH."""

    def read_text(path: str) -> str:
        raise EtcdError(f"{path} cannot be read: No such process.")

    monkeypatch.setattr(_host, "read_text", read_text)
    assert _host.process_started(os.getpid()) == 0.0


def test_a_clock_is_compared_with_that_of_the_controller(tmp_path: Path) -> None:
    """With more hosts than forks, hosts are observed at different times."""
    now = time.time()
    for asked_at, offset in ((now, 0.0), (now - 100.0, 100.0), (None, None)):
        found = _host.host_facts(str(tmp_path), [], [], "unix:///nowhere", "v1.36.3", asked_at)["clock_offset"]
        assert found == (offset if offset is None else pytest.approx(offset, abs=5.0))


MOUNTS = """\
/dev/sda1 / ext4 rw 0 0
tmpfs /run tmpfs rw 0 0
/dev/sdb1 /var/lib/etcd xfs rw 0 0
tmpfs /var/lib/etcd-test tmpfs rw 0 0
/dev/sdc1 /with\\040blank btrfs rw 0 0
/dev/sdd1 /twice ext4 rw 0 0
tmpfs /twice tmpfs rw 0 0
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/var/lib/etcd", "xfs"),
        ("/var/lib/etcd/member", "xfs"),
        ("/var/lib/etcd-test/x", "tmpfs"),
        ("/var/lib/etcd2", "ext4"),
        ("/nowhere/at/all", "ext4"),
        ("/with blank/x", "btrfs"),
        ("/twice", "tmpfs"),
        ("/", "ext4"),
        ("", "ext4"),
    ],
)
def test_the_filesystem_of_a_path(path: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    assert _host.filesystem_of(path, MOUNTS) == kind


@pytest.mark.parametrize(
    ("entries", "foreign"),
    [
        ([], []),
        (["member", "lost+found", ".touch"], []),
        # What a remedy of ours, or an admin, has moved aside.
        (["member.old", "member-2024"], []),
        (["member", "home"], ["home"]),
        (["a", "b", "c", "d", "e"], ["a", "b", "c", "2 more"]),
        (["members"], ["members"]),
    ],
)
def test_what_is_not_etcd_s_in_a_data_directory(tmp_path: Path, entries: list[str], foreign: list[str]) -> None:
    for name in entries:
        (tmp_path / name).mkdir()
    seen = _host.data_dir_facts(str(tmp_path))
    assert seen["foreign"] == foreign and not seen["has_data"]
    assert _host.data_dir_facts(str(tmp_path / "missing"))["foreign"] == []
    if "member" in entries:
        (tmp_path / "member" / "wal").mkdir()
        assert _host.data_dir_facts(str(tmp_path))["has_data"]
