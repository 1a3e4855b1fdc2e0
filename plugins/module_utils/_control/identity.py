# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Whose data lies on a host: the data, the record and the membership compared. What contradicts each other is refused.

Runs on the controller, over observations of `etcd_host_info` by inventory host.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ansible_collections.kubeadm.etcd.plugins.module_utils._control.cluster import Cluster
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.formats import is_address
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.members import Member
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.problems import EVERYTHING, PROCESSES, Problem

if TYPE_CHECKING:
    # Python 3.8 cannot evaluate it.
    Observation = Mapping[str, Any]
    Entry = Mapping[str, Any]

KEEP = "The run deletes nothing, and neither should you before you know which one is right."


def entry_of(member: Member, listed: list[Entry]) -> Entry | None:
    """A member's line of the membership: by name, or by peer address if it has not started; None without one."""
    return next(
        (
            entry
            for entry in listed
            if (entry["name"] == member.name if entry.get("name") else has_address(entry, member.address))
        ),
        None,
    )


def has_address(entry: Entry, address: str) -> bool:
    """Whether a line of the membership has this address in a peer URL, however it is spelled."""
    hosts = (str(url).rsplit("://", 1)[-1].rsplit(":", 1)[0].strip("[]") for url in entry.get("peer_urls", []))
    return any(same_address(host, address) for host in hosts)


def same_address(one: str, other: str) -> bool:
    """Whether two texts are one address: an IPv6 address has many spellings."""
    if one == other or ":" not in one + other:
        return one == other
    return is_address(one) and is_address(other) and ipaddress.ip_address(one) == ipaddress.ip_address(other)


def has_run(observation: Observation) -> bool:
    """Whether the member of a host has seen a leader: its log tells, or it is ready, whatever its log told before that."""
    return bool(observation["etcd"].get("formed") or observation["etcd"].get("ready"))


def cluster_that_answers(observations: Mapping[str, Observation]) -> str:
    """Id of the cluster of which a member could be asked; '' if none could."""
    return next((str(o["etcd"]["members_of"]) for o in observations.values() if o["etcd"].get("members_of")), "")


def identity_problems(cluster: Cluster, observations: Mapping[str, Observation], listed: list[Entry]) -> list[Problem]:
    """Everything that contradicts: between clusters, members, records and restored data.

    If the inventory takes a host for another one, its certificates would get another name as well: that stops everything.

    listed: the membership; empty if it is not known, or is only what the members were started with.
    """
    return [
        *foreign_data_problems(cluster, observations),
        *(member_problems(cluster, observations, listed) or copy_problems(observations)),
        *record_problems(cluster, observations, listed),
        *restored_problems(cluster, observations, bool(listed)),
    ]


def foreign_data_problems(cluster: Cluster, observations: Mapping[str, Observation]) -> list[Problem]:
    """Hosts whose data directory belongs to another cluster than that of the other members."""
    ids: dict[str, list[str]] = {}
    for host, observation in observations.items():
        etcd = observation["etcd"]
        if etcd.get("cluster_id"):
            ids.setdefault(str(etcd["cluster_id"]), []).append(host)
        # With --limit, the members that answer may be seen by this host only.
        if etcd.get("members_of") and etcd["members_of"] not in ids:
            ids.setdefault(str(etcd["members_of"]), []).append("the members that answer")
    if len(ids) < 2:
        return []
    listed = "; ".join(f"{', '.join(hosts)}: cluster id {cluster_id}" for cluster_id, hosts in ids.items())
    return [
        Problem(
            f"the data directories of cluster {cluster.name!r} belong to different clusters ({listed}). Correct the inventory if a host"
            f" belongs to another cluster. If its data is left over from an earlier one, stop etcd there and move the data directory away. {KEEP}",
            EVERYTHING,
            code="foreign-data",
        )
    ]


def member_problems(cluster: Cluster, observations: Mapping[str, Observation], listed: list[Entry]) -> list[Problem]:
    """Hosts whose data directory belongs to another member of the running cluster."""
    problems = []
    for member in cluster.members:
        entry = entry_of(member, listed)
        found = str(observations[member.host]["etcd"].get("member_id") or "") if member.host in observations else ""
        if found and entry and str(entry["id"]) != found:
            whose = next((str(item["name"]) for item in listed if str(item["id"]) == found and item.get("name")), "")
            begin = (
                f"the data directory is that of member {found}{whose and f' ({whose})'}, and {member.name} is member {entry['id']} in the running"
                f" cluster {cluster.name!r}:"
            )
            # It may be the live member of that name.
            text = (
                f"{begin} the inventory takes the host of {whose} for that of {member.name}, or the data was copied from there. If this is the host"
                f" of {whose}, leave it as it is, and correct ansible_host, etcd_address or etcd_member_name. Only if {whose} runs on another host,"
                f" stop etcd here if it runs, and move the data directory away. {KEEP}"
                if whose
                else f"{begin} it was copied from another host, or is older than the removal and addition of {member.name}. Stop etcd on"
                f" this host if it runs, and move the data directory away. {KEEP}"
            )
            problems.append(Problem(text, EVERYTHING, member.host, code="foreign-data"))
    return problems


def copy_problems(observations: Mapping[str, Observation]) -> list[Problem]:
    """Hosts with the data of one member: two processes that are one member to raft would break its promises."""
    own = {host: str(observation["etcd"].get("member_id") or "") for host, observation in observations.items()}
    return [
        Problem(
            f"{' and '.join(hosts)} have the data directory of one member, {found}. Find out which of them is the copy, and move that"
            f" away. {KEEP}",
            EVERYTHING,
            code="copied-data",
        )
        for found in dict.fromkeys(own.values())
        for hosts in [[host for host, item in own.items() if item == found]]
        if found and len(hosts) > 1
    ]


def record_problems(cluster: Cluster, observations: Mapping[str, Observation], listed: list[Entry]) -> list[Problem]:
    """Hosts whose record contradicts their data. What runs counts more than a record, which is then renewed."""
    answers = cluster_that_answers(observations)
    problems = []
    for member in cluster.members:
        etcd = observations[member.host]["etcd"] if member.host in observations else {}
        record = etcd.get("record")
        # A member that was removed on purpose misses nothing.
        if not record or record.get("removed"):
            continue
        entry = entry_of(member, listed)
        was = f"member {record['member_id']} of cluster {record['cluster_id']}"
        text = ""
        stops: tuple[str, ...] = PROCESSES
        # A log that has not seen a leader was written after the data was gone: the record was written after it had seen one.
        if not etcd["formed"]:
            # Removed and added again: it has another id now, and starts empty as a new member.
            is_new = bool(entry and answers == record["cluster_id"] and entry["id"] != record["member_id"])
            # Data in another directory is a problem of its own, and not lost.
            if not is_new and not etcd.get("data_elsewhere") and not (entry and entry.get("client_urls")):
                text = (
                    f"the record (member.json) says that this host was {was} with its data in {record['data_dir']}, and its data is gone"
                    f"{' (a log that has never seen a leader was written since)' if etcd['has_data'] else ''}: is a volume not mounted? Mount"
                    " it, and run again. If the data is lost for good, do not start the member empty:"
                    ' docs/recovery.md ("A member has lost its data", "All data is lost") has the way out.'
                )
        elif etcd.get("cluster_id") and not etcd.get("restored"):
            proven = bool(answers) and etcd["cluster_id"] == answers
            if not proven and (etcd["cluster_id"], etcd["member_id"]) != (record["cluster_id"], record["member_id"]):
                text = (
                    f"the data directory is that of member {etcd['member_id']} of cluster {etcd['cluster_id']}, and the record (member.json) says"
                    f" {was}: the data was copied from elsewhere, or another volume is mounted. Put the right data back. If the data is right,"
                    f" move member.json away on this host, and run again. {KEEP}"
                )
            elif not proven and record.get("name", member.name) != member.name:
                # While the cluster runs, its membership tells the same.
                stops = EVERYTHING
                text = (
                    f"the record (member.json) says that this host is that of member {record['name']}, and the inventory calls it {member.name}. A"
                    f" member keeps its name for life: set etcd_member_name: {record['name']} for this host, or correct ansible_host if this is"
                    " another host than you mean."
                )
        if text:
            problems.append(Problem(text, stops, member.host, code="record"))
    return problems


def restored_problems(cluster: Cluster, observations: Mapping[str, Observation], answers: bool) -> list[Problem]:
    """Members whose data is a restored snapshot, beside members that go on with what they have: they would diverge in silence.

    answers: whether a member of the running cluster could be asked. Seen with etcd 3.6.14: same ids, no alarm, different data.
    """
    etcd = {host: observation["etcd"] for host, observation in observations.items()}
    restored = [host for host, state in etcd.items() if state.get("restored") and not state.get("ready")]
    # Without data they are reported as such.
    others = [host for host, state in etcd.items() if state.get("formed") and not state.get("restored")]
    unseen = [member.host for member in cluster.members if member.host not in observations]
    if not restored or not (answers or others or unseen):
        return []
    beside = "the members that answer" if answers else ", ".join(others or unseen)
    return [
        Problem(
            f"the data directory is a restored snapshot, and {beside} would go on with other data: started together, they would diverge"
            " without a word. Restore the same snapshot on all members, with etcd stopped on all of them; or move the restored data directory"
            " away, and put back the data that was there.",
            PROCESSES,
            host,
            code="restored-data",
        )
        for host in restored
    ]
