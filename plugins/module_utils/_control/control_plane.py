# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The control plane hosts of a cluster: which they are, and what is wrong with them in the inventory.

Runs on the controller. A control plane host gets ca.crt and one client certificate of the cluster, and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ansible_collections.kubeadm.etcd.plugins.module_utils._control.cluster import (
    Cluster,
    cluster_name,
    resolve,
    variable_problems,
)
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.variables import OVERRULES_CLIENTS
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.problems import problems_of

if TYPE_CHECKING:
    # Python 3.8 cannot evaluate them.
    Observation = Mapping[str, Any]
    Inventory = Mapping[str, Mapping[str, Any]]

KIND = "apiserver-etcd-client"


@dataclass(frozen=True)
class Client:
    """A control plane host, with the kinds of certificates that the CA host may issue to it."""

    host: str
    name: str
    kinds: list[str] = field(default_factory=lambda: [KIND])


def name_of_cluster(host: str, members: list[str], inventory: Inventory) -> tuple[str | None, str]:
    """The cluster that a member or control plane host belongs to, or None and the problem."""
    names = list(dict.fromkeys(cluster_name(inventory[item]) for item in members))
    given = inventory[host].get("etcd_cluster_name")
    if host in members:
        return str(given or "etcd"), ""
    if given and str(given) in names:
        return str(given), ""
    if not names:
        return (
            None,
            "the inventory has no etcd members. Add them to the group etcd, or set etcd_group to their group.",
        )
    if given:
        return (
            None,
            f"etcd_cluster_name {str(given)!r} is not a cluster of the inventory. Write one of {', '.join(names)}.",
        )
    if len(names) > 1:
        return None, (
            f"the inventory has several clusters ({', '.join(names)}). Set etcd_cluster_name, for this host or its group, to the"
            " cluster that its kube-apiserver uses."
        )
    return names[0], ""


def resolve_control_plane(
    host: str,
    planes: Iterable[str],
    group: Iterable[str],
    inventory: Inventory,
    observed: Mapping[str, str],
    options: Mapping[str, Mapping[str, Any]],
) -> tuple[Cluster, list[Client]]:
    """The cluster of a member or of a control plane host, and all control plane hosts that use it.

    planes, group: hosts of the two groups, in inventory order. The rest as for `resolve`.
    """
    members, planes = list(group), list(planes)
    name, problem = name_of_cluster(host, members, inventory)
    if name is None:
        return Cluster("", [], "", problems_of("inventory", [problem], host=host)), [Client(host, host.lower())]
    first = next(item for item in members if cluster_name(inventory[item]) == name)
    cluster = resolve(first, members, inventory, observed, options)
    clients = [
        Client(item, item.lower()) for item in planes if name_of_cluster(item, members, inventory)[0] == cluster.name
    ]
    if host in planes:
        found = plane_problems(host, cluster, members, inventory, options)
        cluster.problems.extend(problems_of("inventory", found, host=host))
    return cluster, clients


def plane_problems(
    host: str,
    cluster: Cluster,
    members: list[str],
    inventory: Inventory,
    options: Mapping[str, Mapping[str, Any]],
) -> list[str]:
    """Problems with a control plane host in the inventory."""
    if host in members:
        return [
            f"this host is a member of cluster {cluster.name!r} and a control plane host. A host has one kubelet: a member's runs standalone with"
            " this collection's configuration, and a Kubernetes node's needs the one of kubeadm. Use another host for one of the two."
        ]
    problems = variable_problems(inventory[host], options)
    theirs = inventory.get(cluster.ca_host, {})
    for variable in OVERRULES_CLIENTS:
        default = (options.get(variable) or {}).get("default")
        wanted = theirs.get(variable, default)
        # The value of a computed default is unknown here.
        if variable not in inventory[host] or "{{" in str(wanted) or str(inventory[host][variable]) == str(wanted):
            continue
        problems.append(
            f"{variable} is {str(inventory[host][variable])!r} for this host and {str(wanted)!r} for cluster {cluster.name!r}. It"
            " belongs to the cluster: remove it here, and set it for the members or for all hosts."
        )
    return problems
