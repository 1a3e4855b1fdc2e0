# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The identity of each host's data: compares the data, the record and the membership, and reports contradictions.

Runs on the controller, on observations of `etcd_host_info` by inventory host.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ansible_collections.kubeadm.etcd.plugins.module_utils._control.cluster import Cluster
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.formats import is_at
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.members import Member
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.problems import EVERYTHING, PROCESSES, Problem

if TYPE_CHECKING:
    # Python 3.8 cannot evaluate it.
    Observation = Mapping[str, Any]
    Entry = Mapping[str, Any]

KEEP = "The run deletes nothing. Delete nothing yourself before you know which data is right."


def entry_of(member: Member, listed: list[Entry]) -> Entry | None:
    """A member's entry in the membership, by name, or by peer address if it has not started yet; None if there is none.

    etcd lets two members have one name, as when a host was added anew by hand and its former member is still listed: then the address decides.
    """
    found = [
        entry
        for entry in listed
        if (entry["name"] == member.name if entry.get("name") else has_address(entry, member.address))
    ]
    return next((entry for entry in found if has_address(entry, member.address)), found[0] if found else None)


def reference(entry: Entry, cluster: Cluster, listed: list[Entry]) -> str:
    """What etcd_member has to be for an entry of the membership: its name, or its id if the name means another member too."""
    name = str(entry.get("name") or "")
    is_shared = [item for item in listed if item.get("name") == name] != [entry]
    means_other = any(
        name in (item.host, item.name) and entry_of(item, listed) is not entry for item in cluster.members
    )
    return str(entry["id"]) if not name or is_shared or means_other else name


def has_address(entry: Entry, address: str) -> bool:
    """Whether an entry of the membership has this address, in any spelling, in a peer URL."""
    return is_at(map(str, entry.get("peer_urls", [])), address)


def has_run(observation: Observation) -> bool:
    """Whether the member of a host has seen a leader, according to its log or because it is ready now."""
    return bool(observation["etcd"].get("formed") or observation["etcd"].get("ready"))


def cluster_that_answers(observations: Mapping[str, Observation]) -> str:
    """The id of the cluster of which a member answers; '' if none does."""
    return next((str(o["etcd"]["members_of"]) for o in observations.values() if o["etcd"].get("members_of")), "")


def identity_problems(cluster: Cluster, observations: Mapping[str, Observation], listed: list[Entry]) -> list[Problem]:
    """All contradictions between clusters, members, records and restored data.

    If the inventory mixes up two hosts, their certificates would get the wrong names too, so such a problem stops everything.

    listed: the membership; empty if it is unknown, or known only from the flags of the members.
    """
    return [
        *foreign_data_problems(cluster, observations),
        *(member_problems(cluster, observations, listed) or copy_problems(observations)),
        *record_problems(cluster, observations, listed),
        *restored_problems(cluster, observations, bool(listed)),
    ]


def foreign_data_problems(cluster: Cluster, observations: Mapping[str, Observation]) -> list[Problem]:
    """Problems if the data directories belong to different clusters."""
    ids: dict[str, list[str]] = {}
    for host, observation in observations.items():
        etcd = observation["etcd"]
        if etcd.get("cluster_id"):
            ids.setdefault(str(etcd["cluster_id"]), []).append(host)
        # With --limit, this host may be the only one that sees the members that answer.
        if etcd.get("members_of") and etcd["members_of"] not in ids:
            ids.setdefault(str(etcd["members_of"]), []).append("the members that answer")
    if len(ids) < 2:
        return []
    listed = "; ".join(f"{', '.join(hosts)}: cluster id {cluster_id}" for cluster_id, hosts in ids.items())
    return [
        Problem(
            f"the data directories of cluster {cluster.name!r} belong to different clusters ({listed}). If a host belongs to another cluster,"
            f" correct the inventory. If its data is left over from an earlier cluster, stop etcd there and move the data directory away. {KEEP}",
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
                f"the data directory belongs to member {found}{whose and f' ({whose})'}, but {member.name} is member {entry['id']} of the running"
                f" cluster {cluster.name!r}:"
            )
            # This host may run the live member of that name, so do not advise to stop it unconditionally.
            text = (
                f"{begin} the inventory mixes up the hosts of {whose} and {member.name}, or the data was copied. If this is the host of {whose},"
                f" do not touch it: correct ansible_host, etcd_address or etcd_member_name. Only if {whose} runs on another host, stop etcd on"
                f" this host if it runs, and move the data directory away. {KEEP}"
                if whose
                else f"{begin} the data was copied from another host, or is from before {member.name} was removed and added again. Stop etcd on"
                f" this host if it runs, and move the data directory away. {KEEP}"
            )
            problems.append(Problem(text, EVERYTHING, member.host, code="foreign-data"))
    return problems


def copy_problems(observations: Mapping[str, Observation]) -> list[Problem]:
    """Hosts with the data of the same member: two processes with one raft identity would corrupt the cluster."""
    own = {host: str(observation["etcd"].get("member_id") or "") for host, observation in observations.items()}
    return [
        Problem(
            f"{' and '.join(hosts)} have the data directory of the same member, {found}. Two processes must not run as one member. Find out"
            f" which data directory is the copy, and move the copy away. {KEEP}",
            EVERYTHING,
            code="copied-data",
        )
        for found in dict.fromkeys(own.values())
        for hosts in [[host for host, item in own.items() if item == found]]
        if found and len(hosts) > 1
    ]


def record_problems(cluster: Cluster, observations: Mapping[str, Observation], listed: list[Entry]) -> list[Problem]:
    """Hosts whose record contradicts their data. A member that answers overrules a record, which is then rewritten."""
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
        # The record is only written after the log has seen a leader. So a log that has seen none was written after the data was lost.
        if not etcd["formed"]:
            # The member has left: it was added again and has another id now, or its host waits to be cleared (membership_problems). It misses nothing.
            known = [entry] if entry else listed
            has_left = bool(known) and answers == record["cluster_id"]
            has_left = has_left and record["member_id"] not in [str(item["id"]) for item in known]
            # Data in another directory is not lost. It is reported as a problem of its own.
            if not has_left and not etcd.get("data_elsewhere") and not (entry and entry.get("client_urls")):
                text = (
                    f"the data of this host is missing: according to its record (member.json), it was {was} with its data in {record['data_dir']}"
                    f"{', and a log without a leader was written since' if etcd['has_data'] else ''}. If a volume is not mounted, mount it, and"
                    " run again. If the data is lost for good, do not start the member empty: follow docs/recovery.md"
                    ' ("A member has lost its data", "All data is lost").'
                )
        elif etcd.get("cluster_id") and not etcd.get("restored"):
            proven = bool(answers) and etcd["cluster_id"] == answers
            if not proven and (etcd["cluster_id"], etcd["member_id"]) != (record["cluster_id"], record["member_id"]):
                text = (
                    f"the data directory belongs to member {etcd['member_id']} of cluster {etcd['cluster_id']}, but the record (member.json) names"
                    f" {was}: the data was copied from elsewhere, or another volume is mounted. Put the right data back. If the data is right, move"
                    f" member.json on this host away, and run again. {KEEP}"
                )
            elif not proven and record.get("name", member.name) != member.name:
                # While the cluster runs, its membership shows this.
                stops = EVERYTHING
                text = (
                    f"this host has the member {record['name']} according to its record (member.json), but {member.name} in the inventory. A member"
                    f" never changes its name. Set etcd_member_name: {record['name']} for this host. If this is the wrong host, correct"
                    " ansible_host."
                )
        if text:
            problems.append(Problem(text, stops, member.host, code="record"))
    return problems


def restored_problems(cluster: Cluster, observations: Mapping[str, Observation], answers: bool) -> list[Problem]:
    """Members with a restored snapshot beside members with other data: they would diverge without any error.

    answers: whether a member of the running cluster answers. Seen with etcd 3.6.14: same ids, no alarm, different data.
    """
    etcd = {host: observation["etcd"] for host, observation in observations.items()}
    restored = [host for host, state in etcd.items() if state.get("restored") and not state.get("ready")]
    # Members without data are reported elsewhere.
    others = [host for host, state in etcd.items() if state.get("formed") and not state.get("restored")]
    unseen = cluster.absent(observations)
    if not restored or not (answers or others or unseen):
        return []
    beside = "the members that answer" if answers else ", ".join(others or unseen)
    return [
        Problem(
            f"the data directory is a restored snapshot, and {beside} would continue with other data: the members would diverge without any"
            " error. Restore the same snapshot on all members, with etcd stopped on all of them. Or move the restored data directory away, and"
            " put back the data that was there.",
            PROCESSES,
            host,
            code="restored-data",
        )
        for host in restored
    ]


def membership(observations: Mapping[str, Observation]) -> list[Mapping[str, Any]] | None:
    """The members of the running cluster; None if no member answers. A ready member is preferred: another one may be cut off and know an
    earlier membership."""
    for observation in sorted(observations.values(), key=lambda item: not item["etcd"].get("ready")):
        listed = observation["etcd"].get("members")
        if listed:
            return list(listed)
    return None
