# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A member leaves a cluster: for good (remove_member.yml), or to join anew with an empty data directory (replace_member.yml).

Runs on the controller, pure. The membership is changed first, then the host of the former member is cleared.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ansible_collections.kubeadm.etcd.plugins.module_utils._control.alarms import alarmed, departed_with_alarm
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.authority import has_key_of_its_ca
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.cluster import Cluster
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.identity import (
    entry_of,
    has_address,
    membership,
    reference,
)
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.steps import ARCHIVE, LEAVE, REPLACE, Step
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.members import Member
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.paths import UNKNOWN
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.problems import Problem, note
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.reasons import Reason

if TYPE_CHECKING:
    # Python 3.8 cannot evaluate it.
    Observation = Mapping[str, Any]
    Observations = Mapping[str, Observation]
    Entry = Mapping[str, Any]


@dataclass(frozen=True)
class Departing:
    """The member that is to leave. member: None if the inventory does not have it. entry: None if the membership does not have it (any more), unless
    the alarm of a member that has left is still raised (departed_with_alarm)."""

    member: Member | None
    entry: Entry | None

    @property
    def host(self) -> str:
        """Its inventory host; '' if there is none."""
        return self.member.host if self.member else ""

    @property
    def is_listed(self) -> bool:
        """Whether the membership has it."""
        return bool(self.entry and not self.entry.get("has_left"))

    @property
    def name(self) -> str:
        """Its name; its id if it has never started and the inventory does not have it."""
        if self.member:
            return self.member.name
        return str(self.entry.get("name") or self.entry["id"]) if self.entry else ""


@dataclass(frozen=True)
class Departure:
    """The result of depart. problems: why no member leaves. steps: LEAVE and ARCHIVE."""

    problems: list[Problem] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)


def departing(cluster: Cluster, listed: Iterable[Entry], wanted: str) -> Departing | None:
    """The member that a name means in a cluster; None if it means none. wanted: an inventory host, a member's name or its id, exactly."""
    entries = list(listed)
    member = next((item for item in cluster.members if item.host == wanted), None)
    member = member or next((item for item in cluster.members if item.name == wanted), None)
    if member:
        return Departing(member, entry_of(member, entries))
    entry = next((item for item in entries if wanted in (item.get("name"), item.get("id"))), None)
    if entry is None:
        return None
    # Its id may be that of a member of the inventory.
    owner = next((item for item in cluster.members if entry_of(item, entries) is entry), None)
    return Departing(owner, entry)


def departing_in(
    cluster: Cluster, listed: list[Entry], wanted: str, clusters: Mapping[str, tuple[Cluster, list[Entry]]]
) -> Departing | None:
    """The member that a name means in this one of several clusters. An inventory host means its own cluster, whatever members are called elsewhere."""
    hosts = {member.host: other.name for other, _listed in clusters.values() for member in other.members}
    return departing(cluster, listed, wanted) if hosts.get(wanted, cluster.name) == cluster.name else None


def shared_name(name: str, wanted: str, clusters: Mapping[str, tuple[Cluster, list[Entry]]]) -> str:
    """Why a name does not tell which of several members of a cluster is meant: etcd lets them have one name. '' if it does, by the address of an
    inventory host."""
    cluster, listed = clusters[name]
    leaving = departing_in(cluster, listed, wanted, clusters)
    entry = leaving.entry if leaving else None
    if not leaving or not entry or not entry.get("name") or entry["id"] == wanted:
        return ""
    if leaving.member and has_address(entry, leaving.member.address):
        return ""
    others = [item for item in listed if item.get("name") == entry["name"]]
    if len(others) < 2:
        return ""
    places = "; ".join(f"{item['id']} ({', '.join(map(str, item.get('peer_urls', [])))})" for item in others)
    return (
        f"etcd_member: {wanted} can mean {len(others)} members of cluster {cluster.name!r}, which are all called {entry['name']}: {places}. Use the id of the"
        " member: -e etcd_member=ID"
    )


def name_problem(wanted: str, clusters: Mapping[str, tuple[Cluster, list[Entry]]]) -> str:
    """Why a name means no single member of these clusters; '' if it means one."""
    if not wanted:
        return "etcd_member is not set. Name the member: -e etcd_member=NAME (an inventory host, or the name of the member)."
    members = [member for cluster, _listed in clusters.values() for member in cluster.members]
    host = next((member for member in members if member.host == wanted), None)
    other = next((member for member in members if member.name == wanted and member.host != wanted), None)
    if host and other and host.name != wanted:
        return (
            f"etcd_member: {wanted} can mean two members: {host.name}, whose inventory host it is, and the member of that name on {other.host}. Use the id"
            " of the member, which `etcdctl member list` shows: -e etcd_member=ID"
        )
    shared = next(filter(None, (shared_name(name, wanted, clusters) for name in clusters)), "")
    if shared:
        return shared
    named = [name for name, (cluster, listed) in clusters.items() if departing(cluster, listed, wanted)]
    if len(named) == 1 or host:
        return ""
    if named:
        return f"etcd_member: clusters {', '.join(named)} have a member {wanted} each. Name its inventory host."
    known = [
        *(member.host for member in members),
        *(member.name for member in members),
        *(str(entry.get("name") or entry["id"]) for _cluster, listed in clusters.values() for entry in listed),
    ]
    close = difflib.get_close_matches(wanted, known, n=1)
    hint = f"Did you mean {close[0]}?" if close else f"Members: {', '.join(dict.fromkeys(known))}."
    return f"etcd_member: no host of the inventory and no member is called {wanted}. {hint}"


def depart(
    cluster: Cluster,
    observations: Observations,
    leaving: Departing,
    operation: str,
    replace_healthy: bool,
    wipe_keys: bool,
) -> Departure:
    """What happens for a member to leave, or why it must not. operation: REMOVE or REPLACE."""
    listed = membership(observations) or []
    ready = [host for host, item in observations.items() if item["etcd"].get("ready")]
    helpers = [host for host in ready if host != leaving.host]
    problems = [
        *alarm_problems(cluster, observations, leaving),
        *(
            (quorum_problems(cluster, observations, listed, leaving) if leaving.is_listed else [])
            or (rest_problems(cluster, observations, listed, leaving) if operation == REPLACE else [])
        ),
        *data_problems(cluster, observations, listed, leaving),
        *(
            replace_problems(cluster, observations, leaving, replace_healthy)
            if operation == REPLACE
            else ca_key_problems(cluster, observations, leaving)
        ),
    ]
    if not helpers:
        problems = [
            Problem(
                f"no other member of cluster {cluster.name!r} that this run has seen is ready, so the membership cannot be changed. If the run was limited"
                " to some hosts, run it without --limit. If the others are down, run site.yml to start them. If their data is lost, restore a snapshot.",
                code="no-quorum",
            )
        ]
    if problems:
        return Departure(problems)
    steps = []
    if leaving.entry:
        reason = Reason("membership", "leaves", f"{leaving.name} (id {leaving.entry['id']}) leaves the cluster")
        if not leaving.is_listed:
            text = f"the alarms of member {leaving.entry['id']}, which has left, are disarmed"
            reason = Reason("membership", "disarmed", text)
        steps.append(Step(LEAVE, leaving.name, helpers[0], None, (reason,)))
    reasons = archive_reasons(observations.get(leaving.host), wipe_keys)
    if reasons:
        steps.append(Step(ARCHIVE, leaving.name, leaving.host, None, tuple(reasons)))
    return Departure([], steps, departure_warnings(cluster, observations, leaving, operation))


def alarm_problems(cluster: Cluster, observations: Observations, leaving: Departing) -> list[Problem]:
    """Alarms that keep the membership as it is: CORRUPT of another member than the one that leaves, or of the whole cluster."""
    departed = [entry["id"] for entry in departed_with_alarm(observations)]
    return [
        Problem(
            f"alarm {kind} is raised for {member or 'the whole cluster'}: the data of cluster {cluster.name!r} may be wrong, so no other member is removed."
            " Replace the member that the alarm names, or restore a snapshot.",
            code="alarm",
        )
        if member not in departed
        else Problem(
            f"alarm {kind} of member {member}, which has left cluster {cluster.name!r}, is still raised. Disarm it first:"
            f" remove_member.yml -e etcd_member={member}",
            code="alarm",
        )
        for kind, member in alarmed(observations)
        if kind != "NOSPACE" and member not in (leaving.name, (leaving.entry or {}).get("id"))
    ]


def quorum_problems(
    cluster: Cluster, observations: Observations, listed: list[Entry], leaving: Departing
) -> list[Problem]:
    """Why the cluster cannot do without the member. Hosts that are not part of the run are for the gate of the turn."""
    leaves = leaving.entry or {}
    voters = [entry for entry in listed if entry["id"] != leaves["id"] and not entry.get("is_learner")]
    unwell = [entry for entry in voters if is_unwell(entry, cluster, observations, listed)]
    left = len(voters) - len(unwell)
    names = ", ".join(str(entry.get("name") or entry["id"]) for entry in unwell)
    if left < len(voters) // 2 + 1:
        return [
            Problem(
                f"without {leaving.name}, cluster {cluster.name!r} would have no quorum: of its other {len(voters)} voting member(s), {names} would not be"
                " healthy. Repair these first: site.yml, or replace_member.yml.",
                code="quorum",
            )
        ]
    is_well = bool(leaving.host in observations and observations[leaving.host]["etcd"].get("ready"))
    if unwell and is_well and not leaves.get("is_learner"):
        return [
            Problem(
                f"{names} of cluster {cluster.name!r} is not healthy, and {leaving.name} is. A healthy member is removed only while all others are healthy:"
                f" run site.yml to repair {names}, or replace it with replace_member.yml.",
                code="unwell",
            )
        ]
    return []


def rest_problems(
    cluster: Cluster, observations: Observations, listed: list[Entry], leaving: Departing
) -> list[Problem]:
    """Why the member could not join anew: another one is a learner, or not healthy. Said before it leaves."""
    others = [entry for entry in listed if entry is not leaving.entry]
    is_well = bool(leaving.host in observations and observations[leaving.host]["etcd"].get("ready"))
    found = []
    for entry in others:
        name = reference(entry, cluster, listed)
        if entry.get("is_learner"):
            # site.yml does not finish a join while another member is unhealthy, or has left and is still in the inventory.
            can_finish = is_well and any(entry_of(member, listed) is entry for member in cluster.members)
            way_out = (
                f"Run site.yml to finish its join, and replace {leaving.name} afterwards."
                if can_finish
                else f"Remove it (remove_member.yml -e etcd_member={name}), replace {leaving.name}, and then {name}, if the inventory has it."
            )
            text = f"member {name} of cluster {cluster.name!r} is a learner: it has not joined completely, and no other member joins before that. {way_out}"
            found.append(Problem(text, code="learner"))
        elif is_unwell(entry, cluster, observations, listed):
            found.append(
                Problem(
                    f"{name} of cluster {cluster.name!r} is not healthy, and no member joins while another one is unhealthy. Run site.yml to repair {name}"
                    f" first. If its data is lost too, remove it (remove_member.yml -e etcd_member={name}), replace {leaving.name}, and then {name}.",
                    code="unwell",
                )
            )
    return found


def is_unwell(entry: Entry, cluster: Cluster, observations: Observations, listed: list[Entry]) -> bool:
    """Whether a member has never started, or is not ready. A member whose host is not part of the run is left to the gate."""
    if not entry.get("client_urls"):
        return True
    member = next((item for item in cluster.members if entry_of(item, listed) is entry), None)
    return bool(member and member.host in observations and not observations[member.host]["etcd"].get("ready"))


def data_problems(
    cluster: Cluster, observations: Observations, listed: list[Entry], leaving: Departing
) -> list[Problem]:
    """Whether the host has data of another cluster, or of a member that stays. That is left where it is."""
    etcd = observations[leaving.host]["etcd"] if leaving.host in observations else {}
    stays = next((item for item in listed if item is not leaving.entry and item["id"] == etcd.get("member_id")), None)
    if stays:
        text = f"the data directory of this host is that of member {stays.get('name') or stays['id']} of cluster {cluster.name!r}, which stays. Nothing of it"
        return [
            Problem(
                f"{text} is stopped or archived. Correct etcd_member_name or ansible_host.",
                host=leaving.host,
                code="foreign-data",
            )
        ]
    answers = next((o["etcd"]["members_of"] for o in observations.values() if o["etcd"].get("ready")), None)
    ids = {etcd.get("cluster_id"), (etcd.get("record") or {}).get("cluster_id")} - {None, "", UNKNOWN, answers}
    if not ids or not answers:
        return []
    return [
        Problem(
            f"the data directory or the record of this host is of cluster {', '.join(sorted(map(str, ids)))}, and cluster {cluster.name!r} is"
            f" {answers}. Nothing of it is archived or removed. Correct the inventory, or move the data directory and member.json away.",
            host=leaving.host,
            code="foreign-data",
        )
    ]


def replace_problems(
    cluster: Cluster, observations: Observations, leaving: Departing, replace_healthy: bool
) -> list[Problem]:
    """Whether there is a host to join anew, and whether its member has to be replaced at all."""
    if not leaving.member:
        text = f"member {leaving.name} of cluster {cluster.name!r} has no host in the inventory to join anew. Remove it instead:"
        return [Problem(f"{text} remove_member.yml -e etcd_member={leaving.name}", code="no-host")]
    if leaving.host not in observations:
        text = "this host cannot be reached, or is not part of the run, so its member cannot join anew. Repair the host, or remove the"
        return [
            Problem(f"{text} member: remove_member.yml -e etcd_member={leaving.host}", host=leaving.host, code="absent")
        ]
    if leaving.entry and observations[leaving.host]["etcd"].get("ready") and not replace_healthy:
        return [
            Problem(
                f"member {leaving.name} is healthy. To replace it nevertheless, which archives its data: -e etcd_replace_healthy=true",
                host=leaving.host,
                code="healthy",
            )
        ]
    return []


def ca_key_problems(cluster: Cluster, observations: Observations, leaving: Departing) -> list[Problem]:
    """Whether the only ca.key is on the host, which is about to leave the inventory: no run would find it there.

    A key elsewhere counts if it is that of the ca.crt beside it: it may be left over from another CA.
    """
    item = observations.get(leaving.host)
    if not item or not item["pki"].get("ca_key"):
        return []
    mine = item["pki"].get("ca_public_key") if has_key_of_its_ca(item) else None
    others = [other for host, other in observations.items() if host != leaving.host and has_key_of_its_ca(other)]
    if any(mine in (None, other["pki"]["ca_public_key"]) for other in others):
        return []
    return [
        Problem(
            f"this host has the only ca.key of cluster {cluster.name!r} that the run has seen. Bring it to a host that stays first:"
            " move_ca.yml -e etcd_ca_host=HOST",
            host=leaving.host,
            code="ca-key",
        )
    ]


def archive_reasons(observation: Observation | None, wipe_keys: bool) -> list[Reason]:
    """What is left of the member on its host. None: the host is not part of the run."""
    if observation is None:
        return []
    etcd, facts = observation["etcd"], observation["facts"]
    record = etcd.get("record") or {}
    found = []
    if facts["etcd_manifest"]:
        found.append(Reason("manifest", "removed", "etcd.yaml: moved away, etcd stops", restarts=True))
    if facts["kubelet_override"]:
        found.append(Reason("kubelet", "removed", "kubelet.service.d: the override for etcd is removed"))
    if etcd.get("has_data"):
        found.append(Reason("data", "archived", "the data directory is renamed and kept"))
    if record and not record.get("removed"):
        found.append(Reason("record", "removed", "member.json: marked as removed"))
    if wipe_keys and observation["pki"].get("certificates"):
        found.append(Reason("certificates", "wiped", "private keys and certificates of etcd are removed"))
    return found


def departure_warnings(
    cluster: Cluster, observations: Observations, leaving: Departing, operation: str
) -> list[Problem]:
    """Warnings: a host that could not be cleared, and clients that still use the member."""
    found = []
    if leaving.member and leaving.host not in observations:
        found.append(
            note(
                "this host cannot be reached, so its files and its data stay. Its etcd cannot return to the cluster. If the host is available again, run"
                " this playbook again to clear it.",
                leaving.host,
            )
        )
    if operation != REPLACE and leaving.entry and leaving.is_listed:
        urls = ", ".join(map(str, leaving.entry.get("client_urls", []))) or "no client URL"
        where = "the inventory and " if leaving.member else ""
        found.append(
            note(
                f"member {leaving.name} ({urls}) leaves cluster {cluster.name!r}. Take it out of {where}the etcd endpoints of every kube-apiserver"
                " (--etcd-servers); control_plane.yml prints the remaining ones."
            )
        )
    return found


def after_departure(observations: Observations, leaving: Departing, operation: str) -> dict[str, Observation]:
    """Observations as they will be when the member has left: its host is fresh, and nothing else of the cluster is to be changed."""
    gone = (leaving.entry or {}).get("id")
    fresh: dict[str, Any] = {
        "has_data": False,
        "formed": False,
        "ready": False,
        "running": False,
        "leader": False,
        "record": None,
    }
    fresh.update(cluster_id=None, member_id=None, moved=False, stale="", restored=False, founded=False)
    found: dict[str, Observation] = {}
    for host, item in observations.items():
        joins = host == leaving.host and operation == REPLACE
        members = [entry for entry in item["etcd"].get("members") or [] if entry["id"] != gone]
        etcd = {**item["etcd"], "members": members or None, **(fresh if host == leaving.host else {})}
        reasons = item["reasons"] if joins else {part: [] for part in item["reasons"]}
        found[host] = {**item, "etcd": etcd, "reasons": reasons}
    return found
