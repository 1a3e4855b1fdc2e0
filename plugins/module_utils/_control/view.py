# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a run sees of one cluster."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ansible_collections.kubeadm.etcd.plugins.module_utils._control.cluster import Cluster
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.control_plane import Client
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.identity import has_run
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.members import Member
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.problems import Problem, add_new

if TYPE_CHECKING:
    # Python 3.8 cannot evaluate them.
    Observation = Mapping[str, Any]
    Observations = Mapping[str, Observation]


def no_archive(_images: list[str]) -> list[str]:
    """What is wrong with an image archive if there is none."""
    return []


@dataclass(frozen=True)
class View:
    """What a run sees of one cluster.

    members: hosts of its members that take part, in inventory order. lost: hosts, of clients too, that the run began with and that have failed.
    unobserved: members that have not failed and have no observation. observations: of members. clients: its control plane hosts; of_clients:
    their observations. clusters: every cluster of the run with the observations of its members, by name. archive_problems: what is wrong with
    the image archive, for images that are missing on hosts.
    """

    cluster: Cluster
    observations: Observations
    members: list[str]
    lost: list[str] = field(default_factory=list)
    unobserved: list[str] = field(default_factory=list)
    clients: list[Client] = field(default_factory=list)
    of_clients: Observations = field(default_factory=dict)
    clusters: Mapping[str, tuple[Cluster, Observations]] = field(default_factory=dict)
    archive_problems: Callable[[list[str]], list[str]] = no_archive

    @property
    def absent(self) -> list[str]:
        """Members of the cluster, in the run or not, without an observation."""
        return self.cluster.absent(self.observations)

    @property
    def planes(self) -> list[str]:
        """The control plane hosts."""
        return [client.host for client in self.clients]

    def without(self, gone: str) -> View:
        """The same without a host that need not be there."""
        kept = [[host for host in found if host != gone] for found in (self.members, self.lost, self.unobserved)]
        return replace(self, members=kept[0], lost=kept[1], unobserved=kept[2])


def view_of(
    host: str,
    seen: Mapping[str, Mapping[str, Any]],
    lost: list[str],
    archive_problems: Callable[[list[str]], list[str]] = no_archive,
) -> View:
    """What a run sees of the cluster of a host. seen: what etcd_observe returned, by host of the run. lost: hosts that have failed."""
    own = seen[host]["cluster"]
    cluster, clients = as_cluster(own), [Client(**client) for client in own.get("clients", [])]
    # Problems that one host found in its own variables are those of the cluster.
    for item in seen.values():
        other = item.get("cluster") or {}
        if own["name"] and other.get("name") == own["name"]:
            add_new(cluster.problems, map(Problem.from_dict, other["problems"]))
    observed = {item: found for item, found in seen.items() if "facts" in found}
    members = [member.host for member in cluster.members if member.host in seen]
    named = [member.host for member in cluster.members] + [client.host for client in clients]
    failed = list(dict.fromkeys(item for item in named if item in lost))
    unobserved = [item for item in members if item not in observed and item not in failed]
    clusters = {}
    # Hosts of a cluster have the same members.
    for data in {item["cluster"]["name"]: item["cluster"] for item in seen.values() if item.get("cluster")}.values():
        one = as_cluster(data)
        clusters[one.name] = (one, {m.host: observed[m.host] for m in one.members if m.host in observed})
    return View(
        cluster,
        {item: observed[item] for item in members if item in observed},
        members,
        failed,
        unobserved,
        clients,
        {client.host: observed[client.host] for client in clients if client.host in observed},
        clusters,
        archive_problems,
    )


# Strategies whose hosts do not wait for each other. Those of other collections are named after them (mitogen_free).
_APART = ("free", "host_pinned")


def is_lockstep(strategy: str) -> bool:
    """Whether all hosts of a play with this strategy have ended a task before the next one begins."""
    return not strategy.rsplit(".", 1)[-1].endswith(_APART)


def not_in_lockstep(strategy: str = "") -> str:
    """Why a play whose hosts do not wait for each other is refused, and what to do. strategy: its name, if it is known."""
    named = f"strategy {strategy}" if strategy else "another strategy than linear, such as free or host_pinned"
    return (
        f"The hosts of this play do not wait for each other: it runs with {named}. Each host would decide for itself, and members would restart at"
        " the same time. Set `strategy: ansible.builtin.linear` in the play; if it sets none, ANSIBLE_STRATEGY or `strategy` in ansible.cfg does."
    )


def lockstep_problems(view: View) -> list[Problem]:
    """Whether all hosts were observed before the plan is made. The role preflight looks at the strategy as well."""
    return [Problem(not_in_lockstep(), code="strategy")] if view.unobserved else []


def asker(members: list[str], observations: Observations) -> str | None:
    """The host that can tell most of the cluster: the first whose member is ready, else that could ask any, else the first."""
    etcd = {host: observations.get(host, {}).get("etcd", {}) for host in members}
    # A host without usable certificates, or cut off from the others, would report its own problem as that of the cluster.
    able = [host for host in members if etcd[host].get("members")]
    return next(iter([*(host for host in able if etcd[host].get("ready")), *able, *members]), None)


def exists(observations: Observations) -> bool:
    """Whether there is a cluster already: a member that is ready or has a log that has seen a leader, or a membership with a member that has run."""
    return any(
        has_run(observation) or any(e.get("client_urls") for e in observation["etcd"].get("members") or [])
        for observation in observations.values()
    )


def as_cluster(data: Mapping[str, Any]) -> Cluster:
    """The cluster from its form as plain data."""
    problems = list(map(Problem.from_dict, data["problems"]))
    members = [Member(**member) for member in data["members"]]
    return Cluster(str(data["name"]), members, str(data["ca_host"]), problems, list(data["warnings"]))


def is_incomplete(host: str, seen: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether hosts of a host's cluster have to be looked at again before a run is planned. seen: as for plan_run."""
    names = {item: (found.get("cluster") or {}).get("name") for item, found in seen.items()}
    return any(found.get("incomplete") for item, found in seen.items() if names[item] == names[host])
