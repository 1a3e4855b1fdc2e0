"""The addresses of a member while it moves."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.kubeadm.etcd.plugins.module_utils._member import observe as _observe

NAMES = ("initial-advertise-peer-urls", "listen-peer-urls", "advertise-client-urls", "listen-client-urls")


def argv(address: str, more: str = "") -> list[str]:
    """What kubeadm starts a member with."""
    host = f"[{address}]" if ":" in address else address
    values = [
        f"https://{host}:2380",
        f"https://{host}:2380",
        f"https://{host}:2379",
        f"https://127.0.0.1:2379,https://{host}:2379",
    ]
    return ["etcd", "--name=infra0", *(f"--{name}={value}{more}" for name, value in zip(NAMES, values))]


def listed(address: str) -> list[dict[str, Any]]:
    urls = {"peer_urls": [f"https://{address}:2380"], "client_urls": [f"https://{address}:2379"]}
    return [{"name": "infra0", **urls}, {"name": "infra1", "peer_urls": ["https://10.0.0.7:2380"], "client_urls": []}]


@pytest.mark.parametrize(
    ("arguments", "members", "extra", "known"),
    [
        # Nothing changes.
        (argv("10.0.0.6"), listed("10.0.0.6"), {}, []),
        ([], None, {}, []),
        # It moves: by its process, by the membership, by both.
        (argv("10.0.0.66"), None, {}, ["10.0.0.66"]),
        (argv("10.0.0.6"), listed("10.0.0.66"), {}, ["10.0.0.66"]),
        (argv("10.0.0.66"), listed("10.0.0.67"), {}, ["10.0.0.66", "10.0.0.67"]),
        (argv("2001:db8::66"), None, {}, ["2001:db8::66"]),
        # Addresses of other members in the inventory are not kept, nor are those that name no host.
        (argv("10.0.0.7"), None, {}, []),
        (argv("0.0.0.0"), None, {}, []),
        (argv("::"), None, {}, []),
        # Addresses of etcd_extra_args stay after the run, so they are not former ones.
        (argv("10.0.0.6", ",https://192.0.2.9:2379"), None, {"listen-client-urls": "https://192.0.2.9:2379"}, []),
        (argv("10.0.0.6", ",https://192.0.2.9:2379"), None, {"advertise-client-urls": ["https://192.0.2.9:2379"]}, []),
        # Written by hand.
        (["etcd", "--listen-peer-urls=,https://[,x,https://:1,unix://a"], None, {}, []),
        (["etcd", "--listen-client-urls=https://etcd.example.com:2379"], None, {}, []),
    ],
)
def test_addresses_that_a_member_leaves(
    arguments: list[str], members: list[dict[str, Any]] | None, extra: dict[str, Any], known: list[str]
) -> None:
    params = {
        "name": "infra0",
        "address": "10.0.0.6",
        "members": [{"name": "infra0", "address": "10.0.0.6"}, {"name": "infra1", "address": "10.0.0.7"}],
        "config": {"name": "infra0", "extra_args": extra},
    }
    assert _observe.known_addresses(params, arguments, members) == known
    # Without a known target, no address counts as former.
    assert _observe.known_addresses({**params, "config": {}}, arguments, members) == []
