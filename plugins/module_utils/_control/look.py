# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a run looks at on a host: which cluster it belongs to, and the options of the observation. Runs on the controller, pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from ansible_collections.kubeadm.etcd.plugins.module_utils._control.cluster import invalid_values, resolve
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.control_plane import resolve_control_plane
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.steps import (
    CONVERGE,
    HAND_OVER,
    REMOVE,
    REPLACE,
    ROTATE_CA,
)
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.variables import extra_args
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.wanted import (
    KUBELET,
    PLACES,
    listed,
    wanted_apiserver,
    wanted_backup,
    wanted_client_pki,
    wanted_config,
    wanted_kubelet,
    wanted_pki,
)
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.formats import TRUTH
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.problems import add_new, problems_of
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.reasons import PARTS

# Options of etcd_host_info that say what the host is to have. The roles that act are given the same.
WANTED = ("pki", "config", "kubelet", "packages", "backup", "apiserver")


@dataclass(frozen=True)
class Look:
    """A host and those beside it. members, planes: hosts of both groups, in inventory order."""

    host: str
    members: list[str]
    planes: list[str]
    operation: str

    @property
    def hosts(self) -> list[str]:
        """Every host whose variables matter."""
        return list(dict.fromkeys([*self.members, *self.planes, self.host]))


def look_of(host: str, members: list[str], planes: list[str], operation: str) -> Look:
    """Control plane hosts are part of a hand-over and of a rotation of the CA only."""
    return Look(host, members, planes if operation in (HAND_OVER, ROTATE_CA) else [], operation)


def resolved(
    look: Look,
    inventory: Mapping[str, Mapping[str, Any]],
    before: Mapping[str, Mapping[str, Any]],
    options: Mapping[str, Mapping[str, Any]],
    values: Mapping[str, Any],
    names: Iterable[str],
) -> dict[str, Any]:
    """The cluster of a host as plain data: name, members, ca_host, known, problems, warnings, invalid, and clients; extra_args of the host's etcd.

    inventory: variables by host. before: observations that were made already. options: the etcd_* variables that exist. values: those
    of the play for this host; names: of all that the play has.
    """
    facts = {host: seen.get("facts") or {} for host, seen in before.items()}
    observed = {host: str(item["default_address"]) for host, item in facts.items() if item.get("default_address")}
    if look.operation == HAND_OVER or (look.operation == ROTATE_CA and look.host not in look.members):
        cluster, clients = resolve_control_plane(look.host, look.planes, look.members, inventory, observed, options)
        # A value that only the play has is one of this host.
        invalid = invalid_values({**inventory[look.host], **values}, options)
        found = [text for texts in invalid.values() for text in texts]
        add_new(cluster.problems, problems_of("inventory", found, host=look.host))
        cluster = replace(cluster, invalid=list(invalid))
    else:
        cluster = resolve(look.host, look.members, inventory, observed, options, values, names)
        clients = []
        if look.operation == ROTATE_CA:
            clients = resolve_control_plane(look.host, look.planes, look.members, inventory, observed, options)[1]
    flags, doubled = extra_args(values, options)
    add_new(cluster.problems, problems_of("inventory", doubled, host=look.host))
    return {
        **asdict(cluster),
        "known": cluster.known,
        "clients": [asdict(client) for client in clients],
        "extra_args": flags,
    }


def may_be_gone(host: str, operation: str, cluster: Mapping[str, Any], leaving: str) -> bool:
    """Whether a host need not answer: it is that of the member that is removed. leaving: an inventory host or the name of a member."""
    names = [item["name"] for item in cluster["members"] if item["host"] == host]
    return operation == REMOVE and leaving in (host, *names)


def unreachable(why: str) -> dict[str, Any]:
    """What is known of a host that does not answer and need not: nothing differs that could be changed."""
    return {"unreachable_because": why, "reasons": {part: [] for part in PARTS}}


def is_looked_at(look: Look, cluster: Mapping[str, Any]) -> bool:
    """Whether a host is observed. Of the members, a hand-over needs the CA host; all of them if an address is not known yet."""
    if look.operation != HAND_OVER or look.host not in look.members:
        return True
    return bool(look.host == cluster["ca_host"] or not cluster["known"])


def host_arguments(
    look: Look,
    cluster: Mapping[str, Any],
    values: Mapping[str, Any],
    signer: Mapping[str, Any],
    now: float,
    health: bool,
    recipient: str,
    reads_log: bool = False,
) -> dict[str, Any] | None:
    """The options of etcd_host_info for a host; None if it is not looked at.

    signer: variables of the CA host. health: whether the host asks all members for their health. recipient: the certificate that snapshots
    are encrypted to, as text. reads_log: whether etcd's log is searched although no upgrade is wanted.
    """
    if not is_looked_at(look, cluster):
        return None
    valid, known = not cluster["problems"], cluster["known"]
    installs = TRUTH.get(str(values["etcd_install_dependencies"]).lower(), False)
    arguments: dict[str, Any] = {"asked_at": now, "install_dependencies": installs}
    member = next((item for item in cluster["members"] if item["host"] == look.host), None)
    if member is None:
        return {
            **arguments,
            "name": look.host.lower(),
            "member": False,
            "members": listed(cluster) if known else [],
            "pki": wanted_client_pki(look.host, signer, values) if valid else {},
            "config": {"client_port": {**values, **signer}["etcd_client_port"]} if valid else {},
            "apiserver": wanted_apiserver(values) if valid else {},
        }
    places, kubelet = (
        {option: values[name] for option, name in options.items() if name not in cluster["invalid"]}
        for options in (PLACES, KUBELET)
    )
    return {
        **arguments,
        "name": member["name"],
        "address": member["address"],
        "members": [item for item in listed(cluster) if item["address"]] if member["address"] else [],
        # Values that are known to be wrong, or not known yet, are not compared with what is on the host.
        "pki": wanted_pki(member, cluster, values) if member["address"] and valid else {},
        "config": wanted_config(member, cluster, values) if known and valid else places,
        "kubelet": wanted_kubelet(values) if valid else kubelet,
        # No other run changes programs.
        "packages": values["etcd_packages"] if known and valid and look.operation in (CONVERGE, REPLACE) else [],
        "backup": wanted_backup(member, cluster, values, recipient) if known and valid else {},
        "health": health_wanted(cluster, values) if health and known and valid else {},
        "reads_log": reads_log,
    }


def asks_health(host: str, cluster: Mapping[str, Any], batch: Iterable[str]) -> bool:
    """Whether a host asks for the health of its cluster: the first of its members in the run. batch: hosts of the run."""
    present = {*batch}
    return host == next((item["host"] for item in cluster["members"] if item["host"] in present), None)


def health_wanted(cluster: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """How the health of a cluster is judged."""
    quota = cluster["extra_args"].get(
        "quota-backend-bytes", (values["etcd_extra_envs"] or {}).get("ETCD_QUOTA_BACKEND_BYTES")
    )
    return {"renewal_window": values["etcd_certificate_renewal_window"], "quota": quota}
