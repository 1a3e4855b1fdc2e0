"""Members at a second address of their interface, and no name server that knows them: etcd would reject every peer."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import Lab, different, inventory


def second(address: str) -> str:
    """A further address in the network of the lab."""
    return re.sub(r"(\d+)$", r"1\1", address)


@pytest.fixture(scope="module")
def two_addresses(lab: Lab) -> Iterator[Lab]:
    """Hosts without any state, and with two addresses each."""
    lab.fresh()
    for host, address in lab.addresses().items():
        lab.sh(host, f"ip addr add {second(address)}/24 dev eth0")
    yield lab
    lab.fresh()


def hosts(lab: Lab, sans: bool) -> dict[str, str]:
    """Variables by host. sans: whether their first address is in their peer certificate."""
    return {
        host: f"ansible_host: {address}, etcd_address: {second(address)}"
        + (f", etcd_peer_cert_sans: [{address}]" if sans else "")
        for host, address in lab.addresses().items()
    }


def test_it_is_told_before_anything_is_changed(two_addresses: Lab, tmp_path: Path) -> None:
    before = two_addresses.fingerprint()
    run = two_addresses.play(inventory=inventory(two_addresses, tmp_path, hosts(two_addresses, sans=False)))
    said = re.sub(r"\s+", " ", run.output)
    assert run.code != 0 and "Traceback" not in run.output and run.changed() == {}
    for host, address in two_addresses.addresses().items():
        others = ", ".join(other for other in two_addresses.hosts if other != host)
        assert (
            f"{host}: connections to {others} leave this host from {address}, and etcd_address is {second(address)}"
            in said
        ), said[-5000:]
        assert f"Set etcd_peer_cert_sans: [{address}] for this host" in said
    assert different(before, two_addresses.fingerprint()) == {}


@pytest.mark.long
def test_with_that_remedy_the_cluster_is_founded(two_addresses: Lab, tmp_path: Path) -> None:
    path = inventory(two_addresses, tmp_path, hosts(two_addresses, sans=True))
    assert "healthy: 3 of 3 members healthy" in two_addresses.site(inventory=path).output
    assert two_addresses.site(inventory=path).changed() == {}
