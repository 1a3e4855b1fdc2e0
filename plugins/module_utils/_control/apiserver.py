# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The endpoints of etcd that each kube-apiserver uses, and those that it is to use. Runs on the controller, pure."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ansible_collections.kubeadm.etcd.plugins.module_utils._control.cluster import Cluster
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.external import FILES
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.identity import entry_of
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.steps import APISERVER, Step
from ansible_collections.kubeadm.etcd.plugins.module_utils._host.apiserver import (
    CONFIG,
    CONFIG_MAP,
    FLAGS,
    EtcdAccess,
    config_reasons,
    manifest_reasons,
    outdated_reason,
)
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.members import Member, client_url
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.problems import Problem, note
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.reasons import Reason

if TYPE_CHECKING:
    # Python 3.8 cannot evaluate them.
    Observation = Mapping[str, Any]
    Observations = Mapping[str, Observation]
    Entry = Mapping[str, Any]


@dataclass(frozen=True)
class Follow:
    """How the API servers follow the membership. steps: APISERVER. turns: options of etcd_apiserver, in the order of the turns.

    problems: why no API server is changed.
    """

    steps: list[Step] = field(default_factory=list)
    turns: list[dict[str, Any]] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)


def current_members(cluster: Cluster, listed: Iterable[Entry]) -> list[Member]:
    """Members of the inventory that serve clients; all of them if the membership is not known."""
    entries = list(listed)
    found = []
    for member in cluster.members:
        entry = entry_of(member, entries)
        if entry and entry.get("client_urls") and not entry.get("is_learner"):
            found.append(member)
    return found or cluster.members


def membership_of(cluster: Cluster, observations: Observations) -> list[Entry]:
    """The membership that the CA host has observed, else the one that a control plane host has; empty if none has."""
    told = observations.get(cluster.ca_host, {}).get("etcd", {}).get("members")
    if told:
        return list(told)
    for observation in observations.values():
        seen = observation.get("apiserver")
        if seen and seen["members"] and not is_other_cluster(cluster, observations, seen):
            return list(seen["members"])
    return []


def is_other_cluster(cluster: Cluster, observations: Observations, seen: Observation) -> bool:
    """Whether a kube-apiserver uses another etcd than this cluster. False if no endpoint has answered it."""
    known = observations.get(cluster.ca_host, {}).get("etcd", {}).get("members_of")
    if known and seen["cluster_id"]:
        return bool(known != seen["cluster_id"])
    return bool(seen["members"]) and not any(entry_of(member, seen["members"]) for member in cluster.members)


def follow(
    cluster: Cluster, hosts: Mapping[str, str], observations: Observations, loads: Container[str] = ()
) -> Follow:
    """What of the API servers on these control plane hosts has to change. hosts: their names, by host. loads: hosts where another ca.crt is to be read."""
    members = current_members(cluster, membership_of(cluster, observations))
    found = Follow()
    has_config: set[str] = set()
    seen = {host: observations[host]["apiserver"] for host in hosts if observations[host].get("apiserver")}
    for host, item in seen.items():
        if is_other_cluster(cluster, observations, item):
            text = f"kube-apiserver uses another etcd (cluster {item['cluster_id']}) than cluster {cluster.name!r}. It is left as it is."
            found.warnings.append(note(text, host))
            continue
        urls = tuple(client_url(member.address, item["client_port"]) for member in members)
        wanted = EtcdAccess(urls, *FILES)
        reasons = manifest_reasons(item["manifest"], access_of(item["access"]), wanted)
        # One ConfigMap for each Kubernetes cluster.
        if item["config"] and item["config_uid"] not in has_config:
            of_config = config_reasons(access_of(item["config"]), wanted)
            has_config.update([item["config_uid"]] if of_config else [])
            reasons += of_config
        if host in loads and item["updates"] and item["started"]:
            reasons = [*reasons, outdated_reason(FILES[0])]
        if not item["updates"]:
            found.warnings.extend(note(by_hand(item, reasons), host) for _once in reasons[:1])
            continue
        if not reasons and item["pending"]:
            reasons = [Reason("apiserver", "pending", f"{item['pending']}; the run waits for it")]
        if not reasons:
            continue
        found.problems.extend(Problem(text, host=host, code="apiserver") for text in change_problems(item, reasons))
        found.steps.append(Step(APISERVER, hosts[host], host, len(found.steps) + 1, tuple(reasons)))
        found.turns.append(
            {
                "host": host,
                "servers": list(urls),
                "loads_ca": host in loads,
                "update_config": any(reason.code == CONFIG for reason in reasons),
                "others": [
                    other["url"]
                    for name, other in seen.items()
                    if name != host and other["url"] and other["config_uid"] == item["config_uid"]
                ],
            }
        )
    # None is changed while one of them cannot be.
    return Follow([], [], found.problems, found.warnings) if found.problems else found


def access_of(data: Mapping[str, Any]) -> EtcdAccess:
    """From plain data."""
    return EtcdAccess(tuple(data["servers"]), data["ca"], data["cert"], data["key"])


def change_problems(seen: Observation, reasons: list[Reason]) -> list[str]:
    """Why a kube-apiserver must not be changed."""
    codes = {reason.code for reason in reasons} - {"pending"}
    if not codes:
        return []
    # A manifest that stays is not checked.
    if seen["problem"] and codes != {"ca"}:
        return [f"kube-apiserver is not changed: {seen['problem']}"]
    # One that does not trust the members any more is not ready because of that.
    if seen["unready"] and codes != {"ca"}:
        return [
            f"kube-apiserver is not ready, so it is not restarted with other endpoints of etcd: {seen['unready']}. Repair it first. If none of its"
            f" endpoints answers, change {FLAGS['servers']} in {seen['manifest']} by hand."
        ]
    return []


def by_hand(seen: Observation, reasons: list[Reason]) -> str:
    """What people have to change, and what would do it for them."""
    texts = [reason.text for reason in reasons]
    if not seen["config"]:
        texts.append(f"ConfigMap {CONFIG_MAP}: it could not be read, compare etcd.external yourself")
    return (
        f"kube-apiserver does not use the current endpoints of etcd. Change {'; '.join(texts)}. Either run control_plane.yml with"
        " -e etcd_update_apiserver=true, or edit it by hand, on one control plane host after the other."
    )
