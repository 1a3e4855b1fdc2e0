"""Checks of a member on each host by testinfra (Molecule's verify step)."""

from __future__ import annotations

from typing import Any

import pytest

PKI = "/etc/kubernetes/pki"


def test_kubelet_is_the_service_manager(host: Any) -> None:
    kubelet = host.service("kubelet")
    assert kubelet.is_running and kubelet.is_enabled
    drop_in = host.file("/etc/systemd/system/kubelet.service.d/20-etcd-service-manager.conf")
    assert drop_in.contains("--config=/etc/kubernetes/kubeadm-etcd/kubelet.yaml")


@pytest.mark.parametrize("port", [2379, 2380])
def test_ports_listen_on_the_address(host: Any, port: int) -> None:
    assert any(str(port) == socket.rsplit(":", 1)[1] for socket in host.socket.get_listening_sockets())


def test_metrics_listen_on_loopback_only(host: Any) -> None:
    found = [socket for socket in host.socket.get_listening_sockets() if socket.endswith(":2381")]
    assert found and all("127.0.0.1" in socket or "::1" in socket for socket in found)


def test_etcd_says_that_it_is_ready(host: Any) -> None:
    script = "import urllib.request as u; print(u.urlopen('http://127.0.0.1:2381/readyz', timeout=5).read().decode())"
    assert host.check_output("python3 -c %s", script) == "ok"


@pytest.mark.parametrize("name", ["etcd/server", "etcd/peer", "etcd/healthcheck-client", "apiserver-etcd-client"])
def test_pairs(host: Any, name: str) -> None:
    key, certificate = host.file(f"{PKI}/{name}.key"), host.file(f"{PKI}/{name}.crt")
    assert (key.mode, key.user, key.group) == (0o600, "root", "root")
    assert (certificate.mode, certificate.user, certificate.group) == (0o644, "root", "root")


def test_ca_key_is_on_the_ca_host_only(host: Any) -> None:
    assert host.file(f"{PKI}/etcd/ca.key").exists == (host.check_output("hostname") == "infra0")


def test_only_one_manifest(host: Any) -> None:
    assert host.file("/etc/kubernetes/manifests").listdir() == ["etcd.yaml"]
