"""The network of a lab: a subnet that nothing else uses, and addresses in it."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .process import LabError, attempt, run

DEFAULT_SUBNET = "10.89.36.0/24"
_CANDIDATES = [f"10.89.{third}.0/24" for third in range(36, 100)]
_FIRST_HOST = 10


def parse_subnet(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    """Read a subnet the user gave."""
    try:
        network = ipaddress.ip_network(text)
    except ValueError as error:
        raise LabError(f"{text!r} is not a subnet: {error}") from None
    if network.num_addresses < 32:
        raise LabError(f"{text} is too small for a lab: at least 32 addresses are needed")
    return network


def choose_subnet(used: Iterable[str], wanted: str | None = None) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    """The subnet the user wants, if it is free, else the first free one of the lab's range."""
    taken = [ipaddress.ip_network(u, strict=False) for u in used]

    def clash(
        network: ipaddress.IPv4Network | ipaddress.IPv6Network,
    ) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
        return next((t for t in taken if t.version == network.version and t.overlaps(network)), None)

    if wanted is not None:
        network = parse_subnet(wanted)
        other = clash(network)
        if other is not None:
            raise LabError(
                f"the subnet {network} is taken here (by {other}): give another one with --subnet, or omit --subnet"
            )
        return network
    for candidate in map(parse_subnet, _CANDIDATES):
        if clash(candidate) is None:
            return candidate
    raise LabError(f"no subnet is free from {_CANDIDATES[0]} to {_CANDIDATES[-1]}: give one with --subnet")


def address(subnet: str, index: int) -> str:
    """The address of host number `index`."""
    network = parse_subnet(subnet)
    offset = _FIRST_HOST + index
    if offset >= network.num_addresses - 1:
        raise LabError(f"{subnet} has no address left for host number {index}")
    return str(network[offset])


def gateway(subnet: str) -> str:
    """The controller's address on the lab's network."""
    return str(parse_subnet(subnet)[1])


def mac_address(host_address: str) -> str:
    """A hardware address that stays the same when a host is wiped, so that its peers need not forget the old one."""
    last = ipaddress.ip_address(host_address).packed[-4:]
    return ":".join(["02", "4c", *(f"{byte:02x}" for byte in last)])


def fix_bridge_address(name: str, gateway_address: str) -> None:
    """Give a network's bridge a hardware address of its own.

    By default a bridge takes the lowest address of its ports. It would change as hosts come and go, and the hosts would not reach the controller
    until their ARP entries expire.
    """
    interface = json.loads(run(["podman", "network", "inspect", name]))[0]["network_interface"]
    wanted = mac_address(gateway_address)
    if Path(f"/sys/class/net/{interface}/address").read_text().strip() != wanted:
        run(["ip", "link", "set", "dev", interface, "address", wanted])


def used_subnets() -> list[str]:
    """The subnets of this machine's routes and of podman's networks."""
    used: list[str] = []
    for family in ("-4", "-6"):
        code, out, _ = attempt(["ip", "-j", family, "route", "show", "table", "main"])
        routes = json.loads(out) if code == 0 and out.strip() else []
        used += [r["dst"] for r in routes if r.get("dst") not in (None, "default")]
    for network in podman_networks():
        used += [s["subnet"] for s in network.get("subnets") or []]
    return used


def podman_networks() -> list[dict[str, Any]]:
    """What podman knows of its networks."""
    names = run(["podman", "network", "ls", "-q"]).split()
    found: list[dict[str, Any]] = []
    for name in names:
        # One by one: another lab may go down meanwhile, and its network with it.
        code, out, _ = attempt(["podman", "network", "inspect", name])
        found += json.loads(out) if code == 0 else []
    return found
