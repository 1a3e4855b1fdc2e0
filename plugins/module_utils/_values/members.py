# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A member as the inventory describes it: its name and address, the checks of both, its process, and the peer URLs of its join."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.kubeadm.etcd.plugins.module_utils._values.formats import (
    NAME,
    address_problems,
    is_address,
    place_of,
    plain,
    port_problems,
    same_address,
    shown,
)

# The members of a cluster, as an option of a module.
MEMBERS_ARGUMENT: dict[str, Any] = {
    "type": "list",
    "elements": "dict",
    "required": True,
    "options": {
        "name": {"type": "str", "required": True},
        "address": {"type": "str", "required": True},
    },
}


@dataclass(frozen=True)
class Member:
    """One expected member: inventory host, member (and node) name, IP address ('' while it is unknown), SANs."""

    host: str
    name: str
    address: str
    server_cert_sans: list[str] = field(default_factory=list)
    peer_cert_sans: list[str] = field(default_factory=list)


def by_name(members: Iterable[Mapping[str, str]]) -> list[tuple[str, str]]:
    """Name and address of each member. members: the value of MEMBERS_ARGUMENT."""
    return [(member["name"], member["address"]) for member in members]


def bracketed(address: str) -> str:
    """An address for a URL: IPv6 in brackets."""
    return f"[{address}]" if ":" in address else address


def client_url(address: str, client_port: int) -> str:
    """Client URL of the member at this address."""
    return f"https://{bracketed(address)}:{client_port}"


def client_urls(members: Iterable[tuple[str, str]], client_port: int) -> list[str]:
    """Client URLs of members. members: name and address of each."""
    return [client_url(address, client_port) for _name, address in members]


def peer_url(address: str, peer_port: int) -> str:
    """Peer URL of the member at this address."""
    return f"https://{bracketed(address)}:{peer_port}"


def is_ours(argv: list[str], name: str) -> bool:
    """Whether a process is the etcd of this member, as kubeadm's manifest starts it."""
    return bool(argv) and argv[0].rsplit("/", 1)[-1] == "etcd" and f"--name={name}" in argv


def urls_while_joining(peer_urls: Sequence[str]) -> list[str]:
    """The peer URLs of a member until it has its data: one more than it keeps, which is no other member's.

    While etcd has no data, it starts only if --initial-cluster has as many peer URLs for each member as the membership (ValidateClusterAndAssignIDs).
    So the list that a member joins with becomes invalid when it loses the further URL, without a restart: if its data is gone later, etcd refuses to
    start instead of joining empty under its former id. No peer reaches a member by this URL, and etcd tries it last (it sorts after any address).
    """
    place = peer_urls[0].rsplit("/", 1)[-1]
    name = re.sub("[^0-9a-z]+", "-", f"joining {place}")
    return [*peer_urls, f"https://{name}@localhost:{place.rsplit(':', 1)[-1]}"]


def has_url_of_joining(peer_urls: Sequence[str]) -> bool:
    """Whether one of the peer URLs is the further one of urls_while_joining."""
    return any("://joining-" in url and "@localhost:" in url for url in peer_urls)


def is_same_place(url: str, wanted: str) -> bool:
    """Whether two peer URLs lead to one place. A URL by hand may have another spelling of the address, or the name of the host."""
    (host, port), (address, wanted_port) = place_of(url), place_of(wanted)
    return port == wanted_port and (same_address(host, address) or not (is_address(host) or "@" in host))


def is_elsewhere(peer_urls: Sequence[str], wanted: Sequence[str]) -> bool:
    """Whether none of the peer URLs of a member leads to a place that is wanted."""
    return not any(is_same_place(url, other) for url in peer_urls for other in wanted)


def learner_elsewhere(name: str, peer_urls: Sequence[str], wanted: Sequence[str]) -> str:
    """Why the join of a learner cannot be finished: it has started at another address or port."""
    return (
        f"{name} is a learner at {', '.join(peer_urls)}, and the inventory has it at {', '.join(wanted)}. The peer URLs of a learner must not change"
        " (docs/members.md). Put etcd_address and etcd_peer_port back, and change them when it has joined. Or have the host join anew with an empty data"
        f" directory: replace_member.yml -e etcd_member={name}"
    )


def name_and_address_problems(member: Member) -> list[str]:
    """Why the name or the address of a member is invalid. An unknown address is reported elsewhere."""
    problems = []
    if not NAME.fullmatch(member.name) or len(member.name) > 253:
        problems.append(
            f"etcd_member_name {shown(member.name)} is not an RFC 1123 name. Write lower-case letters, digits,"
            " '-' and '.', beginning and ending with a letter or digit, for example infra0."
        )
    return [*problems, *(address_problems(member.address) if member.address else ())]


def membership_problems(members: list[Member]) -> list[str]:
    """Names and addresses that are not unique, or of different address families."""
    problems: list[str] = []
    by_name: dict[str, list[str]] = {}
    by_address: dict[str, list[str]] = {}
    for member in members:
        by_name.setdefault(member.name, []).append(member.host)
        if member.address:
            by_address.setdefault(member.address, []).append(member.host)
    for title, table in (("etcd_member_name", by_name), ("etcd_address", by_address)):
        problems.extend(
            f"{' and '.join(hosts)} have the same {title}, {shown(value)}. Set a different {title} for each member."
            for value, hosts in table.items()
            if len(hosts) > 1
        )
    families = {ipaddress.ip_address(m.address).version for m in members if is_address(m.address)}
    if len(families) > 1:
        listed = ", ".join(f"{m.host} {plain(m.address)}" for m in members)
        problems.append(
            f"The members mix IPv4 and IPv6 ({listed}). Set etcd_address to addresses of one family on all of them."
        )
    return problems


def same_port_problems(variables: Mapping[str, Any]) -> list[str]:
    """Ports that two listeners share. Invalid ports are reported elsewhere."""
    ports = {
        name: int(str(variables.get(name, default)))
        for name, default in (("etcd_client_port", 2379), ("etcd_peer_port", 2380), ("etcd_metrics_port", 2381))
        if not port_problems(name, variables.get(name, default))
    }
    if len(set(ports.values())) == len(ports):
        return []
    listed = ", ".join(f"{name} {port}" for name, port in ports.items())
    return [f"two ports are the same ({listed}). Set a different port for each."]
