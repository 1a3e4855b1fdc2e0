# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What follows from the observations of all hosts of a cluster: the table of docs/operations.md as a function.

Runs on the controller. Observations are what `etcd_host_info` returned, by inventory host, for the hosts of this run;
with --limit some members have none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ansible_collections.kubeadm.etcd.plugins.module_utils._control.alarms import corruption_problems
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.cluster import Cluster
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.identity import (
    entry_of,
    has_address,
    has_run,
    identity_problems,
    membership,
    reference,
)
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.members import (
    Member,
    has_url_of_joining,
    is_elsewhere,
    learner_elsewhere,
    peer_url,
)
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.problems import (
    EVERYTHING,
    PROCESSES,
    RESTART,
    SIGN,
    Problem,
    note,
)

if TYPE_CHECKING:
    Observation = Mapping[str, Any]

BOOTSTRAP = "bootstrap"
NOTHING = "nothing"
ROLLING = "rolling"
START_ALL = "start"
REFUSE = "refuse"

# Clusters of up to this many members stop when one of them does.
SURVIVES_NONE = 2

# A new member asks its peers before it writes its log, and waits some seconds for those that do not answer (bootstrap.go).
WITHOUT_LOG = 60.0

# What is lost for good when a member ends whose data directory was emptied: it may still have the data open.
KEEP_RUNNING = (
    "Do not stop etcd: it may be the last to have the data. First save a snapshot from it and copy that to another host"
    ' (docs/recovery.md, "The data directory of a member that runs is empty"). Then bring the volume back.'
)

# Parts for whose change a running member has its turn. Certificates are not among them: etcd reads them at each handshake.
_RESTARTING = ("packages", "kubelet", "manifest")


@dataclass(frozen=True)
class Decision:
    """What to do with a cluster.

    action: one of the constants above. state: the value of initial-cluster-state. gated: whether each host of `order` has to pass the
    gates. order: hosts to be touched one after the other. start: hosts whose member is started, all at once. published: hosts whose member
    names itself only in initial-cluster. join: those of `order` whose member joins. problems: why nothing is started or restarted.
    """

    action: str
    state: str = "existing"
    gated: bool = True
    order: list[str] = field(default_factory=list)
    join: list[str] = field(default_factory=list)
    start: list[str] = field(default_factory=list)
    published: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)


@dataclass(frozen=True)
class MemberView:
    """One expected member as far as this run can tell. has_data None: unknown, the host is not part of the run.

    data_elsewhere: its data is in another directory than the wanted one, which the host reports as a problem.
    data_of: id of the member whose data it is. formed: its log has seen a leader. founded: its manifest is that of a cluster that has been founded.
    recorded_dir: its data directory by the record, '' if there is none. removed: when it left the cluster, by the record.
    stale: it runs with certificates that were removed. moved: its peers
    would have to look for it elsewhere. age: of its process, in seconds. peer_url: the wanted one, '' if it is unknown.
    """

    member: Member
    has_data: bool | None
    data_elsewhere: bool
    founded: bool
    recorded_dir: str
    removed: str
    stale: bool
    moved: bool
    data_of: str
    formed: bool
    running: bool
    age: float
    ready: bool
    entry: Mapping[str, Any] | None
    leader: bool
    differs: bool
    restarts: bool
    peer_url: str

    @property
    def host(self) -> str:
        """The inventory host."""
        return self.member.host

    @property
    def published(self) -> bool:
        """Whether the membership remembers it as a member that has run."""
        return bool(self.entry and self.entry.get("client_urls"))

    @property
    def is_learner(self) -> bool:
        """Whether it is a member without a vote."""
        return bool(self.entry and self.entry.get("is_learner"))

    @property
    def joins(self) -> bool:
        """Whether this run makes a voting member of it: a host without data and record, or a join that was interrupted."""
        if self.has_data is None or self.has_lost_data:
            return False
        if self.has_started_elsewhere:
            return False
        is_fresh = not (self.has_data or self.data_elsewhere or self.recorded_dir or self.running)
        return self.is_learner or (self.entry is None and is_fresh) or self.keeps_url_of_joining

    @property
    def has_started_elsewhere(self) -> bool:
        """Whether it is a learner that has started at another address or port than it is to have, so that its join cannot be finished."""
        return bool(
            self.is_learner
            and self.published
            and self.entry
            and self.peer_url
            and is_elsewhere(self.entry["peer_urls"], [self.peer_url])
        )

    @property
    def keeps_url_of_joining(self) -> bool:
        """Whether it was promoted, or started as a voting member, by a run that ended before it took the further URL away (urls_while_joining).

        The turn of a member that moves takes it away as well.
        """
        return (
            self.ready and not self.moved and bool(self.entry and has_url_of_joining(self.entry.get("peer_urls", [])))
        )

    @property
    def has_lost_data(self) -> bool:
        """Whether it has run as a member and has no log that tells of it.

        A log that led to publication has seen a leader. One that has not was written after the data was lost: etcd takes over the former id
        from a peer (bootstrap.go), and would join without what it has acknowledged.
        """
        return self.published and self.has_data is not None and not self.formed and not self.data_elsewhere


def member_view(member: Member, observation: Observation | None, listed: list[Mapping[str, Any]] | None) -> MemberView:
    """Put together what is known of one member."""
    etcd: Mapping[str, Any] = observation["etcd"] if observation else {}
    return MemberView(
        member=member,
        has_data=bool(etcd["has_data"]) if observation else None,
        data_elsewhere=bool(etcd.get("data_elsewhere")),
        founded=bool(etcd.get("founded")),
        recorded_dir=str((etcd.get("record") or {}).get("data_dir", "")),
        removed=str((etcd.get("record") or {}).get("removed", "")),
        stale=bool(etcd.get("stale")),
        moved=bool(etcd.get("has_data") and etcd.get("moved")),
        data_of=str(etcd.get("member_id") or ""),
        formed=bool(observation and etcd["has_data"] and has_run(observation)),
        running=bool(etcd.get("running")),
        age=float(etcd.get("age") or 0),
        ready=bool(etcd.get("ready")),
        entry=entry_of(member, listed or []),
        leader=bool(etcd.get("leader")),
        differs=bool(observation and any(observation["reasons"].get(part) for part in _RESTARTING)),
        restarts=bool(observation and any(r["restarts"] for part in observation["reasons"].values() for r in part)),
        peer_url=wanted_peer_url(member, observation),
    )


def wanted_peer_url(member: Member, observation: Observation | None) -> str:
    """The peer URL that a member is to have, '' if it is unknown."""
    port = (observation or {}).get("config", {}).get("peer_port")
    return peer_url(member.address, port) if port and member.address else ""


def _names_member(entry: Mapping[str, Any], members: list[Member]) -> bool:
    """Whether a line of the membership is one of these members'."""
    return any(entry_of(member, [entry]) for member in members)


def decide(cluster: Cluster, observations: Mapping[str, Observation], allow_interruption: bool = False) -> Decision:
    """The decision for one cluster. Nothing destructive is ever decided; what is refused says what to do instead.

    allow_interruption: whether members of a cluster too small to go on without one of them may be restarted.
    """
    listed = membership(observations)
    views = [member_view(member, observations.get(member.host), listed) for member in cluster.members]
    # A first run that was killed: members that tell the list they were started with, and never had a leader. With one, they
    # would have published where clients reach them.
    published = any(entry.get("client_urls") for entry in listed or [])
    unborn = not published and not any(item.has_data is None or item.formed for item in views)
    known = [] if unborn else listed or []
    problems = corruption_problems(cluster, observations) + identity_problems(cluster, observations, known)
    if problems:
        return Decision(REFUSE, problems=problems)
    if listed is None or unborn:
        return decide_without_cluster(cluster, views)
    return decide_with_cluster(cluster, views, listed, allow_interruption)


def refused(text: str, host: str = "") -> Decision:
    """A decision without any start or restart, for one reason."""
    return Decision(REFUSE, problems=[Problem(text, PROCESSES, host, code="membership")])


def decide_without_cluster(cluster: Cluster, views: list[MemberView]) -> Decision:
    """No member answers: the cluster is new, or it is down."""
    name = cluster.name
    formed = [item.host for item in views if item.formed]
    absent = [item.host for item in views if item.has_data is None]
    if not formed:
        if absent:
            return refused(
                f"cluster {name!r} does not run, and {', '.join(absent)} are not part of this run. Only all hosts together show whether a"
                " new cluster may be founded. Run again without --limit and serial."
            )
        emptied = [
            item.host
            for item in views
            if item.running and not (item.has_data or item.data_elsewhere) and (item.ready or item.age > WITHOUT_LOG)
        ]
        if emptied:
            return refused(
                f"etcd runs on {', '.join(emptied)}, and etcd_data_dir there is empty: the data was removed or covered by another volume while etcd"
                f" runs. {KEEP_RUNNING}"
            )
        founded = [item.host for item in views if item.founded]
        if founded:
            return refused(
                f"cluster {name!r} was founded before (initial-cluster-state=existing in etcd.yaml on {', '.join(founded)}), and no host has"
                " its data in etcd_data_dir. A volume may not be mounted, or the data is in another directory: put it back. If the data is lost"
                ' for good, see docs/recovery.md, "All data is lost".'
            )
        # Members that wrote a log but never had a leader are what a killed first run leaves: it is finished here.
        return start_at_once(cluster, views, Decision(BOOTSTRAP, state="new", start=[item.host for item in views]))
    lost = [item.host for item in views if item.has_data is False]
    if lost:
        return refused(
            f"cluster {name!r} has data but does not answer, and {', '.join(lost)} have none: a member that starts without its data"
            f" forgets writes that it has acknowledged. If a volume is not mounted there, mount it. Otherwise {without_quorum(formed, absent, len(views))}"
        )
    unled = [item.host for item in views if item.has_data and not item.formed]
    if unled and len(formed) + len(absent) <= len(views) // 2:
        return refused(
            f"cluster {name!r} does not answer, and only {', '.join(formed)} have data that has seen a leader; the logs of {', '.join(unled)}"
            " have not. They may have lost their data and been started empty, and would outvote what is left. If a volume is not mounted there,"
            f" mount it, and run again. Otherwise {without_quorum(formed, absent, len(views))}"
        )
    decision = Decision(
        START_ALL, start=[item.host for item in views if item.formed and not item.ready], published=formed
    )
    return start_at_once(cluster, views, decision)


def without_quorum(formed: list[str], absent: list[str], size: int) -> str:
    """What to do if members lost their data and there is no quorum to replace them. formed: hosts with data. absent: not part of the run."""
    hosts = ", ".join(formed)
    if len(formed) + len(absent) > size // 2:
        return (
            f"start the members that have data: `systemctl start kubelet` on {hosts} (`journalctl -u kubelet` says why etcd does not come up)."
            " Run again when they are a quorum."
        )
    return (
        f"{hosts} cannot be a quorum: restore a snapshot on all hosts. Keep the data that is left until then: a snapshot can be made of it"
        f' (docs/recovery.md, "All data is lost"). If you know that the data on {hosts} is left over from an earlier cluster that nothing uses,'
        " move it away, and run again."
    )


def start_at_once(cluster: Cluster, views: list[MemberView], decision: Decision) -> Decision:
    """The decision, or its refusal if the data of the members has them look for each other where they would not be any more.

    A running cluster gets new addresses first (announce_peer_urls in _member/rollout.py).
    """
    moved = [item for item in views if item.moved and item.host in decision.start]
    if not moved:
        return decision
    hosts = ", ".join(item.host for item in moved)
    way_out = (
        "Put etcd_address, etcd_peer_port and the members in the inventory back to what they were, run, and change them when the cluster"
        " runs. If the former addresses are gone for good, restore a snapshot."
        if any(item.formed for item in moved)
        else "The cluster never had a leader, so it has no data yet: put the variables back, or stop etcd on these hosts and move the data"
        " directories away."
    )
    return refused(
        f"cluster {cluster.name!r} does not answer, and the members have other addresses in the data of {hosts} than in the inventory."
        f" They would not find each other, and addresses can only be changed while the cluster answers. {way_out}"
    )


def membership_problems(cluster: Cluster, views: list[MemberView], listed: list[Mapping[str, Any]]) -> list[Problem]:
    """Expected members that the running cluster does not know, knows by another name, or that have lost their data."""
    problems = []
    for item in views:
        member = item.member
        other = next(
            (e for e in listed if e.get("name") not in (None, "", member.name) and has_address(e, member.address)), None
        )
        text = ""
        stops: tuple[str, ...] = PROCESSES
        is_former = item.data_of not in ("", *(str(entry["id"]) for entry in listed))
        if item.entry is None and item.formed and not is_former:
            # It has run under another name: its certificates would be issued for the wrong one.
            stops = EVERYTHING
        if item.entry is None and other and not _names_member(other, [view.member for view in views]):
            text = (
                f"the member at {member.address} is called {other['name']} in the running cluster {cluster.name!r}, not {member.name}. A"
                f" member keeps its name for life: set etcd_member_name: {other['name']} for this host. The host itself may be called"
                " what you like."
            )
        elif item.entry is None and item.removed:
            text = (
                f"member {member.name} was removed from cluster {cluster.name!r} on {item.removed}, and the inventory still has it. Take the host out"
                f" of the inventory, or join it again with an empty data directory: replace_member.yml -e etcd_member={item.host}"
            )
        elif item.entry is None and not item.joins:
            holds = "data that has seen a leader" if item.formed else "data or a record of an earlier member"
            text = (
                f"cluster {cluster.name!r} has no member {member.name}, and this host has {holds}, so it does not join. If that belongs to another"
                " cluster, correct the inventory. If the member was replaced or removed, archive the data and join the host without data:"
                f" replace_member.yml -e etcd_member={item.host}"
            )
        elif item.has_lost_data:
            text = lost_data_text(cluster, item, views, listed)
        if text:
            problems.append(Problem(text, stops, item.host, code="membership"))
    return problems


def lost_data_text(cluster: Cluster, item: MemberView, views: list[MemberView], listed: list[Mapping[str, Any]]) -> str:
    """What has happened to a member that lost its data, and the commands that replace it if there is a quorum to do so."""
    entry = item.entry or {}
    urls = ",".join(map(str, entry.get("peer_urls", [])))
    place = f" ({item.recorded_dir})" if item.recorded_dir else ""
    what = "it was started empty since" if item.has_data else "its data directory is empty"
    text = (
        f"member {entry.get('id')} ({urls}) has lost its data: cluster {cluster.name!r} remembers it as a member that has run, and"
        f" {what}{place}. "
    )
    if item.running and not item.has_data:
        text += f"{KEEP_RUNNING} "
    text += "If a volume is not mounted, stop etcd (mv /etc/kubernetes/manifests/etcd.yaml /root/), mount it, and run again. "
    unseen = [view.host for view in views if view.has_data is None]
    if not unseen and not any(view.ready for view in views):
        formed = [view.host for view in views if view.formed]
        return f"{text}If the data is lost, {without_quorum(formed, unseen, len(listed))}"
    learner = next((reference(e, cluster, listed) for e in listed if e.get("is_learner") and e is not item.entry), "")
    first = f" first remove the learner {learner} (remove_member.yml -e etcd_member={learner}), because no member joins beside it, and then run"
    return (
        f"{text}If the data is lost, replace the member while the others are healthy:{first if learner else ''}"
        f" replace_member.yml -e etcd_member={item.host}"
    )


def learner_problems(
    cluster: Cluster, views: list[MemberView], listed: list[Mapping[str, Any]], joins: list[MemberView]
) -> list[Problem]:
    """Learners that this run cannot promote. While there is one, no member joins or restarts."""
    finished = [item.entry for item in joins]
    problems = []
    for entry in listed:
        if not entry.get("is_learner") or entry in finished:
            continue
        name = reference(entry, cluster, listed)
        item = next((item for item in views if item.entry is entry), None)
        remove = f"remove_member.yml -e etcd_member={name}"
        way_out = (
            f"Run again with its host, which finishes the join. If the host is gone for good, remove the learner: {remove}"
            if item
            else f"The inventory does not have it. Remove it: {remove}"
        )
        text = f"member {name} of cluster {cluster.name!r} is a learner: it has not joined completely. {way_out}"
        if item and item.has_started_elsewhere:
            text = learner_elsewhere(item.member.name, entry["peer_urls"], [item.peer_url])
        problems.append(Problem(text, (RESTART,), item.host if item else "", code="learner"))
    return problems


def unstarted_problems(cluster: Cluster, views: list[MemberView], listed: list[Mapping[str, Any]]) -> list[Problem]:
    """Voting members that have never started and are not started by this run: no member joins before that."""
    started = [item.entry for item in views if item.has_data is not None]
    urls = [
        ", ".join(map(str, entry.get("peer_urls", [])))
        for entry in listed
        if not (entry.get("client_urls") or entry.get("is_learner") or entry in started)
    ]
    return [
        Problem(
            f"cluster {cluster.name!r} has a member at {url} that has never started, and its host is not part of this run. No member joins until it"
            " runs: run again with its host, or remove it.",
            (RESTART,),
            code="unstarted",
        )
        for url in urls
    ]


def quorum_note(cluster: Cluster, voters: int, joins: list[MemberView]) -> list[Problem]:
    """A warning if the cluster has two voters for a while."""
    if voters != 1 or not joins:
        return []
    until = f"until {joins[1].member.name} has joined as well" if len(joins) > 1 else "from then on"
    return [
        note(
            f"cluster {cluster.name!r} has one member. When {joins[0].member.name} has joined, both are needed for quorum {until}."
        )
    ]


def to_start_first(views: list[MemberView], problems: list[Problem]) -> list[str]:
    """Hosts whose member is started although other hosts keep anything else from being done: it has its data, and stopped.

    It restarts no other member, and a member that lost its data can only be replaced while all others are healthy.
    """
    concerned = {problem.host for problem in problems}
    if not any(item.ready for item in views) or any(SIGN in problem.stops for problem in problems):
        return []
    return [
        item.host
        for item in views
        if item.formed and not (item.running or item.ready or item.is_learner)
        if item.host not in concerned
    ]


def decide_with_cluster(
    cluster: Cluster, views: list[MemberView], listed: list[Mapping[str, Any]], allow_interruption: bool
) -> Decision:
    """A cluster answers: finish, repair, roll, or nothing."""
    warnings = [
        note(
            f"the running cluster {cluster.name!r} has the member {reference(entry, cluster, listed)}, which the inventory"
            " does not have. It is left alone. To remove it: remove_member.yml -e"
            f" etcd_member={reference(entry, cluster, listed)}"
        )
        for entry in listed
        if not any(item.entry is entry for item in views)
    ]
    published = [item.host for item in views if item.published and item.formed]
    problems = membership_problems(cluster, views, listed)
    if problems:
        stopped = to_start_first(views, problems)
        if not stopped:
            return Decision(REFUSE, problems=problems, warnings=warnings)
        warnings += [note(problem.text, problem.host) for problem in problems]
        return Decision(ROLLING, order=stopped, published=published, warnings=warnings)
    # Without a ready member, the membership may be out of date, and no member can be added.
    joining = [item for item in views if item.joins]
    elsewhere = [item for item in views if item.has_started_elsewhere]
    joins = [item for item in joining if any(other.ready for other in views)]
    # Listed but never started: what a first run leaves that was killed after a quorum had formed.
    unstarted = [item.host for item in views if item.entry and item.has_data is False and not item.joins]
    # Those that do not run first: with them back, others that run without being ready may be restarted. A learner is never ready.
    down = sorted(
        (item for item in views if item.has_data and not item.ready and not item.joins and item not in elsewhere),
        key=lambda v: v.running,
    )
    # Without quorum none of them could become healthy alone. What runs is left: it may be waiting for the others.
    stopped = [
        item.host
        for item in views
        if item.has_data is not None and not item.running and not item.joins and item not in elsewhere
    ]
    unseen = [item for item in views if item.has_data is None]
    rest_may_be_quorum = len(listed) - len(stopped) > len(listed) // 2
    if stopped and not (unseen and rest_may_be_quorum) and not any(item.ready for item in views):
        return start_at_once(cluster, views, Decision(START_ALL, start=stopped, published=published, warnings=warnings))
    # Members that move first: certificates name their former addresses until they have. The leader last: etcd hands leadership
    # over by itself when it stops, once instead of several times.
    differing = [
        item.host
        for item in sorted(views, key=lambda v: (v.leader, not v.moved))
        if item.differs and item.ready and not item.joins and item.host not in unstarted
    ]
    first = [item.host for item in joins if item.entry]
    new = [item.host for item in joins if not item.entry]
    unstarted_elsewhere = unstarted_problems(cluster, views, listed) if new else []
    if unstarted_elsewhere:
        new = []
    # With the members that join, a small cluster may survive the restart of one.
    small = len(listed) + len(new) <= SURVIVES_NONE
    # A member without its certificates is not ready, but it still votes and serves clients.
    serving = [*differing, *(item.host for item in down if item.running and item.stale)]
    interrupting = [item.host for item in views if item.host in serving and item.restarts]
    if interrupting and small and not allow_interruption:
        return Decision(REFUSE, problems=[interruption_problem(cluster, interrupting, len(listed))], warnings=warnings)
    starting = [*unstarted, *(item.host for item in down)]
    incomplete = learner_problems(cluster, views, listed, joining)
    if incomplete:
        # Starting a stopped member restarts no other, and the quorum may need it.
        stopped = [item.host for item in views if not (item.running or item.ready or item.joins)]
        due = [*starting, *first, *new, *differing, *elsewhere]
        starting, first, new, differing = [host for host in starting if host in stopped], [], [], []
        if due and not starting:
            return Decision(REFUSE, problems=incomplete, warnings=warnings)
    elif unstarted_elsewhere and not (starting or first or differing):
        return Decision(REFUSE, problems=unstarted_elsewhere, warnings=warnings)
    later = [join_without_help(cluster, item.host) for item in joining if item not in joins]
    if later and not (starting or differing):
        return Decision(REFUSE, problems=later, warnings=warnings)
    warnings += [note(problem.text, problem.host) for problem in [*incomplete, *unstarted_elsewhere, *later]]
    # New members join with the version that the cluster runs, unless it needs them before any member can restart.
    last = [*new, *differing] if len(listed) <= SURVIVES_NONE else [*differing, *new]
    order = [*starting, *first, *last]
    if not order:
        return Decision(NOTHING, published=published, warnings=warnings)
    join = [*first, *new]
    voters = len([entry for entry in listed if not entry.get("is_learner")])
    warnings += quorum_note(cluster, voters, [item for item in joins if item.host in join])
    return Decision(ROLLING, order=order, join=join, gated=not small, published=published, warnings=warnings)


def join_without_help(cluster: Cluster, host: str) -> Problem:
    """Why a host does not join in a run that has seen no ready member."""
    return Problem(
        f"this host joins cluster {cluster.name!r}, and no member that this run has seen is ready. If the run was limited to some hosts, run it"
        " without --limit, or with the host of a ready member. Otherwise repair the members first.",
        (RESTART,),
        host,
        code="no-helper",
    )


def interruption_problem(cluster: Cluster, hosts: list[str], size: int) -> Problem:
    """Why members of a cluster that cannot do without any of them are not restarted."""
    return Problem(
        f"restarting {', '.join(hosts)} would interrupt cluster {cluster.name!r}: it has {size} member(s) and needs"
        " all of them for quorum. Set etcd_allow_interruption: true for this run to accept that, or add members.",
        (RESTART,),
        code="interruption",
    )


def without_cluster(cluster: Cluster) -> Problem:
    """Why nothing is done to a cluster that does not exist."""
    return Problem(f"cluster {cluster.name!r} has not been founded yet. Run site.yml first.", code="no-cluster")


def without_restarts(cluster: Cluster, decision: Decision) -> Decision:
    """The decision of a run that starts and restarts no member."""
    if decision.action == BOOTSTRAP:
        return Decision(REFUSE, problems=[without_cluster(cluster)])
    return replace(decision, action=NOTHING if decision.action == ROLLING else decision.action, order=[], start=[])
