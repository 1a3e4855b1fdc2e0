"""Members at a second address of their interface, without DNS. test_bad_input.py tests the refusal."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import Lab, inventory, second_address


@pytest.fixture(scope="module")
def two_addresses(lab: Lab) -> Iterator[Lab]:
    """Hosts without any state, and with two addresses each."""
    lab.fresh()
    for host, address in lab.addresses().items():
        lab.sh(host, f"ip addr add {second_address(address)}/24 dev eth0")
    yield lab
    lab.fresh()


@pytest.mark.long
def test_a_cluster_is_founded_with_the_source_addresses_in_the_peer_certificates(
    two_addresses: Lab, tmp_path: Path
) -> None:
    hosts = {
        host: f"ansible_host: {address}, etcd_address: {second_address(address)}, etcd_peer_cert_sans: [{address}]"
        for host, address in two_addresses.addresses().items()
    }
    path = inventory(two_addresses, tmp_path, hosts)
    assert "healthy: 3 of 3 members healthy" in two_addresses.site(inventory=path).output
    assert two_addresses.site(inventory=path).changed() == {}
