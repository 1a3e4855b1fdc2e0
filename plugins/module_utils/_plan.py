# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What follows from the observations of all hosts of a cluster: the table of docs/architecture.md as a function.

Runs on the controller. Observations are what `etcd_host_info` returned, by inventory host, for the hosts of this run;
with --limit some members have none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ansible_collections.kubeadm.etcd.plugins.module_utils._cluster import Cluster, Member

if TYPE_CHECKING:
    Observation = Mapping[str, Any]

BOOTSTRAP = "bootstrap"
NOTHING = "nothing"
ROLLING = "rolling"
START = "start"
REFUSE = "refuse"

# Clusters of up to this many members stop when one of them does.
SURVIVES_NONE = 2

# Parts for whose change a running member has its turn. Certificates are not among them: etcd reads them at each handshake.
_RESTARTING = ("kubelet", "manifest")


@dataclass(frozen=True)
class Plan:
    """What to do with a cluster.

    action: one of the constants above. order: hosts to be touched one after the other. gated: whether each of them has
    to pass the gates. start: hosts whose member has to be started, all at once. problems: why nothing may be done.
    state: the value of initial-cluster-state.
    """

    action: str
    state: str = "existing"
    gated: bool = True
    order: list[str] = field(default_factory=list)
    start: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class MemberView:
    """One expected member as far as this run can tell. None: unknown, the host is not part of the run.

    founded: whether its manifest is that of a cluster that has been founded. stale: whether it runs with certificates that were
    removed. moved: whether its peers would have to look for it elsewhere.
    """

    member: Member
    has_data: bool | None
    founded: bool
    stale: bool
    moved: bool
    formed: bool
    running: bool
    ready: bool
    listed: bool
    published: bool
    leader: bool
    differs: bool
    restarts: bool


def membership(observations: Mapping[str, Observation]) -> list[Mapping[str, Any]] | None:
    """The members of the running cluster as the first host that could ask tells it; None where nobody answers."""
    for observation in observations.values():
        listed = observation["etcd"].get("members")
        if listed:
            return list(listed)
    return None


def view(member: Member, observation: Observation | None, listed: list[Mapping[str, Any]] | None) -> MemberView:
    """Put together what is known of one member."""
    entry = entry_of(member, listed or [])
    etcd: Mapping[str, Any] = observation["etcd"] if observation else {}
    return MemberView(
        member=member,
        has_data=bool(etcd["has_data"]) if observation else None,
        founded=bool(etcd.get("founded")),
        stale=bool(etcd.get("stale")),
        moved=bool(etcd.get("has_data") and etcd.get("moved")),
        formed=bool(etcd.get("formed")),
        running=bool(etcd.get("running")),
        ready=bool(etcd.get("ready")),
        listed=entry is not None,
        published=bool(entry and entry.get("client_urls")),
        leader=bool(etcd.get("leader")),
        differs=bool(observation and any(observation["reasons"][part] for part in _RESTARTING)),
        restarts=bool(observation and observation["restarts"]),
    )


def entry_of(member: Member, listed: list[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """A member's line of the membership: by name, or by peer address where it has not started; None without one."""
    return next(
        (
            entry
            for entry in listed
            if (entry["name"] == member.name if entry.get("name") else _has_address(entry, member.address))
        ),
        None,
    )


def _has_address(entry: Mapping[str, Any], address: str) -> bool:
    """Whether a line of the membership has this address in a peer URL."""
    host = f"[{address}]" if ":" in address else address
    return any(str(url).rsplit("://", 1)[-1].rsplit(":", 1)[0] == host for url in entry.get("peer_urls", []))


def _names_member(entry: Mapping[str, Any], members: list[Member]) -> bool:
    """Whether a line of the membership is one of these members'."""
    return any(entry_of(member, [entry]) for member in members)


def decide(cluster: Cluster, observations: Mapping[str, Observation], allow_interruption: bool = False) -> Plan:
    """The decision for one cluster. Nothing destructive is ever decided; what is refused says what to do instead.

    allow_interruption: whether members of a cluster too small to go on without one of them may be restarted.
    """
    listed = membership(observations)
    views = [view(member, observations.get(member.host), listed) for member in cluster.members]
    # A first run that was killed: members that tell the list they were started with, and never had a leader. With one, they
    # would have published where clients reach them.
    unborn = not any(item.has_data is None or item.formed or item.ready or item.published for item in views)
    problems = foreign_data_problems(cluster, observations) + corruption_problems(cluster, observations)
    problems += identity_problems(cluster, observations, [] if unborn else listed or [])
    if problems:
        return Plan(REFUSE, problems=problems)
    if listed is None or unborn:
        return decide_without_cluster(cluster, views)
    return decide_with_cluster(cluster, views, listed, allow_interruption)


def decide_without_cluster(cluster: Cluster, views: list[MemberView]) -> Plan:
    """Nobody answers: a new cluster, or one that is down."""
    if not any(item.formed for item in views):
        absent = [item.member.host for item in views if item.has_data is None]
        if absent:
            return Plan(
                REFUSE,
                problems=[
                    f"Cluster {cluster.name!r} does not run, and {', '.join(absent)} are not part of this run: whether"
                    " a new cluster may be founded can be seen on all hosts only. Run again without --limit and serial."
                ],
            )
        founded = [item.member.host for item in views if item.founded]
        if founded:
            return Plan(
                REFUSE,
                problems=[
                    f"Cluster {cluster.name!r} was founded before (initial-cluster-state=existing in etcd.yaml on {', '.join(founded)}), and"
                    " no host has its data in etcd_data_dir: is a volume not mounted, or the data in another directory? Bring it"
                    " back. To found a new, empty cluster all the same, move /etc/kubernetes/manifests/etcd.yaml away there."
                ],
            )
        # Members that wrote a log but never had a leader are what a killed first run leaves: it is finished here.
        start = [item.member.host for item in views]
        return start_at_once(cluster, views, Plan(BOOTSTRAP, state="new", start=start))
    lost = [item.member.host for item in views if item.has_data is False]
    if lost:
        return Plan(
            REFUSE,
            problems=[
                f"Cluster {cluster.name!r} has data but does not answer, and {', '.join(lost)} have none: a member that"
                " starts empty would not be the one the others remember. Start the members that have data (look at"
                " `journalctl -u kubelet` there); where no quorum comes back, restore from a snapshot."
            ],
        )
    return start_at_once(
        cluster, views, Plan(START, start=[item.member.host for item in views if item.has_data and not item.ready])
    )


def start_at_once(cluster: Cluster, views: list[MemberView], plan: Plan) -> Plan:
    """The plan, or its refusal where the data of the members has them look for each other where they would not be any more.

    A cluster that runs is told new addresses first (announce_peer_urls in _rollout.py).
    """
    moved = [item for item in views if item.moved and item.member.host in plan.start]
    if not moved:
        return plan
    hosts = ", ".join(item.member.host for item in moved)
    way_out = (
        "Put etcd_address, etcd_peer_port and the members back to what they were, run, and change them when the cluster runs. Where"
        " the former addresses are gone for good, restore a snapshot."
        if any(item.formed for item in moved)
        else "It never had a leader, so there is nothing in it to lose: move the data directories away, or put the variables back."
    )
    return Plan(
        REFUSE,
        problems=[
            f"Cluster {cluster.name!r} does not answer, and in the data of {hosts} the members are elsewhere than in the inventory:"
            f" they would not find each other, and nobody can be told. {way_out}"
        ],
        warnings=plan.warnings,
    )


def decide_with_cluster(
    cluster: Cluster, views: list[MemberView], listed: list[Mapping[str, Any]], allow_interruption: bool
) -> Plan:
    """A cluster answers: finish, repair, roll, or nothing."""
    problems = []
    for item in views:
        host = item.member.host
        other = next(
            (
                e
                for e in listed
                if e.get("name") not in (None, "", item.member.name) and _has_address(e, item.member.address)
            ),
            None,
        )
        if not item.listed and other and not _names_member(other, [view.member for view in views]):
            problems.append(
                f"{host}: the member at {item.member.address} is called {other['name']} in the running cluster"
                f" {cluster.name!r}, not {item.member.name}. A member keeps its name for life: set etcd_member_name:"
                f" {other['name']} for this host. The host itself may be called what you like."
            )
        elif not item.listed:
            problems.append(
                f"{host}: {item.member.name} is not in the membership of the running cluster {cluster.name!r}. Adding"
                " or replacing a member is not part of this playbook; nothing has been changed."
            )
        elif item.has_data is False and item.published:
            problems.append(
                f"{host}: {item.member.name} has lost its data ({cluster.name!r} remembers it as a member that has run)."
                " It must be removed and added again, not started empty: restore its data directory, or replace the"
                " member; nothing has been changed."
            )
    expected = [item.member for item in views]
    warnings = [
        f"The running cluster {cluster.name!r} has the member {entry.get('name') or entry.get('id')}, which the inventory"
        " does not have. It is left alone."
        for entry in listed
        if not _names_member(entry, expected)
    ]
    if problems:
        return Plan(REFUSE, problems=problems, warnings=warnings)
    # Listed but never started: what a first run leaves that was killed after a quorum had formed.
    unstarted = [item.member.host for item in views if item.has_data is False]
    # Those that do not run first: with them back, others that run without being ready may be restarted.
    down = sorted((item for item in views if item.has_data and not item.ready), key=lambda v: v.running)
    order = [item.member.host for item in down]
    # Without quorum none of them could become healthy alone. What runs is left: it may be waiting for the others.
    stopped = [item.member.host for item in views if item.has_data is not None and not item.running]
    unseen = [item for item in views if item.has_data is None]
    rest_may_be_quorum = len(listed) - len(stopped) > len(listed) // 2
    if stopped and not (unseen and rest_may_be_quorum) and not any(item.ready for item in views):
        return start_at_once(cluster, views, Plan(START, start=stopped, warnings=warnings))
    # The leader comes last: etcd hands leadership over by itself when it stops, once instead of several times.
    differing = [item.member.host for item in sorted(views, key=lambda v: v.leader) if item.differs and item.ready]
    order += differing
    small = len(listed) <= SURVIVES_NONE
    # One that lost its certificates is not ready, and has a vote and clients all the same.
    serving = [*differing, *(item.member.host for item in down if item.running and item.stale)]
    interrupting = [item.member.host for item in views if item.member.host in serving and item.restarts]
    if interrupting and small and not allow_interruption:
        return Plan(
            REFUSE,
            problems=[
                f"{', '.join(interrupting)} would have to be restarted, and cluster {cluster.name!r} of {len(listed)} member(s)"
                " does not go on without one. Set etcd_allow_interruption: true for this run to accept that, or add members."
            ],
            warnings=warnings,
        )
    if unstarted or order:
        return Plan(ROLLING, order=unstarted + order, gated=not small, warnings=warnings)
    return Plan(NOTHING, warnings=warnings)


def image_reasons(observation: Observation, archive: str) -> list[str]:
    """Why the image archive has to be imported on a host: its runtime lacks the image that it is to run. archive: '' for none."""
    image = observation["config"].get("image")
    if not archive or not image or image in (observation["images"] or []):
        return []
    return [f"{image}: missing, imported from {archive}"]


def only_certificates(observations: Mapping[str, Observation]) -> dict[str, Observation]:
    """Observations without what a run that issues certificates leaves alone, whatever it is like."""
    parts = ("ca", "certificates")
    return {
        host: {
            **item,
            "reasons": {part: reasons if part in parts else [] for part, reasons in item["reasons"].items()},
            "restarts": False,
        }
        for host, item in observations.items()
    }


def without_restarts(cluster: Cluster, plan: Plan) -> Plan:
    """A plan as a run has it that starts nobody."""
    if plan.action == BOOTSTRAP:
        return Plan(REFUSE, problems=[f"Cluster {cluster.name!r} has not been founded yet. Run site.yml first."])
    return replace(plan, action=NOTHING if plan.action == ROLLING else plan.action, order=[], start=[])


def is_settled(plan: Plan, observations: Mapping[str, Observation]) -> bool:
    """Whether no member is to be touched and no part of a host differs."""
    return plan.action == NOTHING and not any(any(item["reasons"].values()) for item in observations.values())


def lost_problems(lost: list[str], limit: str = "") -> list[str]:
    """Why a run goes no further without hosts that it began with. limit: what the run was limited to."""
    if not lost:
        return []
    # What the run was kept from stays so.
    separator = "," if "," in limit else ":"
    return [
        f"{', '.join(lost)} cannot be reached, or could not be observed (see above), and what is right for a cluster depends"
        f" on all of its members. Repair that, or leave them out on purpose: --limit '{separator.join([limit or 'all', *('!' + h for h in lost)])}'."
    ]


# What the parts of a host are called in a plan, in the order in which they are seen to.
PARTS = {
    "kubelet": "kubelet",
    "ca": "CA",
    "certificates": "certificates",
    "config": "kubeadmcfg.yaml",
    "image": "image",
    "manifest": "manifest",
}


def plan_lines(cluster: Cluster, plan: Plan, observations: Mapping[str, Observation]) -> list[str]:
    """A plan for people: what is done to the cluster, then to which host and why, as HOST: PART: REASON."""
    count = len(cluster.members)
    leading = [host for host, observation in observations.items() if observation["etcd"].get("leader")]
    order = ", ".join(plan.order)
    if len(plan.order) > 1 and plan.order[-1] in leading:
        order += " (the leader, last)"
    details = [
        f"{host}: {name}: {reason}"
        for part, name in PARTS.items()
        for host, observation in observations.items()
        for reason in observation["reasons"].get(part, [])
    ]
    words = {
        BOOTSTRAP: f"a new cluster of {count} member{'s' if count > 1 else ''}, all started at once",
        START: f"no member can be asked; those that are not ready are started: {', '.join(plan.start)}"
        if plan.start
        else "no member can be asked: only certificates are seen to. Run again for the rest",
        ROLLING: f"one member after the other: {order}" if plan.gated else f"it is interrupted: {order}",
        NOTHING: "nothing to do" if is_settled(plan, observations) else "no member is restarted",
        REFUSE: "nothing is changed",
    }
    return [f"cluster {cluster.name}: {words[plan.action]}", *details]


def foreign_data_problems(cluster: Cluster, observations: Mapping[str, Observation]) -> list[str]:
    """Hosts whose data directory belongs to another cluster than that of the other members."""
    ids: dict[str, list[str]] = {}
    for host, observation in observations.items():
        etcd = observation["etcd"]
        if etcd.get("cluster_id"):
            ids.setdefault(str(etcd["cluster_id"]), []).append(host)
        # With --limit, those who answer may be seen by nobody else.
        if etcd.get("members_of") and etcd["members_of"] not in ids:
            ids.setdefault(str(etcd["members_of"]), []).append("the members that answer")
    if len(ids) < 2:
        return []
    listed = "; ".join(f"{', '.join(hosts)}: cluster id {cluster_id}" for cluster_id, hosts in ids.items())
    return [
        f"The data directories of {cluster.name!r} belong to different clusters ({listed}). Move away the one that does"
        " not belong here (nothing is deleted by this playbook), or correct the inventory."
    ]


def identity_problems(
    cluster: Cluster, observations: Mapping[str, Observation], listed: list[Mapping[str, Any]]
) -> list[str]:
    """Hosts whose data directory belongs to another member: two that are one member to raft would break its promises.

    listed: the membership; empty where it is not known, or is only what the members were started with.
    """
    own = {host: str(observation["etcd"].get("member_id") or "") for host, observation in observations.items()}
    problems = []
    for member in cluster.members:
        entry = entry_of(member, listed)
        found = own.get(member.host)
        if found and entry and str(entry["id"]) != found:
            problems.append(
                f"{member.host}: the data directory is that of member {found}, and {member.name} is member {entry['id']} in the"
                f" running cluster {cluster.name!r}: it was copied from another host, or is of before {member.name} was removed and"
                " added again. Move it away (nothing is deleted by this playbook)."
            )
    if problems:
        return problems
    return [
        f"{' and '.join(hosts)} have the data directory of one member, {found}. Find out which of them is a copy, and move that"
        " away (nothing is deleted by this playbook)."
        for found in dict.fromkeys(own.values())
        for hosts in [[host for host, item in own.items() if item == found]]
        if found and len(hosts) > 1
    ]


def alarmed(observations: Mapping[str, Observation], kind: str) -> list[str]:
    """Names of the members with an alarm, as the first host that could ask tells it."""
    alarms: list[Mapping[str, str]] = next(
        (o["etcd"]["alarms"] for o in observations.values() if o["etcd"].get("alarms")), []
    )
    return sorted(alarm["member"] for alarm in alarms if alarm["kind"] == kind)


def corruption_problems(cluster: Cluster, observations: Mapping[str, Observation]) -> list[str]:
    """Why a cluster whose data is in doubt is left as it is (etcd's CORRUPT alarm, server/etcdserver/corrupt.go)."""
    names = alarmed(observations, "CORRUPT")
    if not names:
        return []
    return [
        f"{', '.join(names)}: alarm CORRUPT in cluster {cluster.name!r}: the data of this member is not that of the others. A"
        " restart does not mend it. Find out which member is wrong (`etcdctl endpoint hashkv --cluster`), remove it, add it"
        " again empty, and then `etcdctl alarm disarm`. Until then the cluster is left as it is."
    ]


def alarm_warnings(cluster: Cluster, observations: Mapping[str, Observation]) -> list[str]:
    """What a full database means for a run: it may be the very one that raises the quota, so it goes on."""
    names = alarmed(observations, "NOSPACE")
    if not names:
        return []
    return [
        f"{', '.join(names)}: alarm NOSPACE: the database has reached its quota, and cluster {cluster.name!r} refuses all writes."
        " Compact and defragment it, or raise quota-backend-bytes in etcd_extra_args; then `etcdctl alarm disarm`"
        " (docs/operations.md)."
    ]
