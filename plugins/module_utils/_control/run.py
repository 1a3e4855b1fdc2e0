# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What one run does to one cluster: observations, inventory and wishes in, the plan out. Runs on the controller, pure.

The action plugin `etcd_plan` calls `plan_run`, and so do the tests.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ansible_collections.kubeadm.etcd.plugins.module_utils._control.authority import (
    LACKS_KEY,
    brings_in,
    broken_ca_hosts,
    ca_problems,
    elsewhere_warnings,
    key_warnings,
    needs_signing,
    own_key_reasons,
    signs_elsewhere,
    stray_ca_keys,
    trust_warnings,
    with_reasons,
    with_removals,
    with_renewals,
)
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.backup import Backup, backup
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.cluster import Cluster
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.control_plane import Client, hand_over
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.defragment import Defragmentation, defragment
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.departure import (
    Departing,
    Departure,
    after_departure,
    depart,
    departing_in,
    name_problem,
)
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.downgrade import downgrade
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.emergency import ACCEPTED
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.identity import (
    entry_of,
    has_address,
    has_run,
    same_address,
)
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.move_ca import (
    CaMove,
    Export,
    move_ca,
    one_file_problems,
)
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.plan import (
    BOOTSTRAP,
    NOTHING,
    REFUSE,
    ROLLING,
    Plan,
    alarm_warnings,
    decide,
    departed_with_alarm,
    image_reasons,
    lost_problems,
    make_steps,
    membership,
    only_certificates,
    plan_lines,
    start_without_problems,
    without_cluster,
    without_restarts,
)
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.preflight import (
    cluster_problems,
    cluster_warnings,
    external_problems,
    host_problems,
    host_warnings,
    unknown_address_problems,
)
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.restore import (
    Restore,
    WantedSnapshot,
    drill,
    one_cluster_problems,
    restore,
)
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.rotate_ca import CaRotation, rotate_ca
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.rotation import (
    rotation_notes,
    rotation_of,
)
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.steps import (
    ARCHIVE,
    BACKUP,
    CA,
    CERTIFICATES,
    CONFIG,
    CONVERGE,
    DEFRAGMENT,
    DEFRAGMENT_MEMBER,
    DISARM,
    DOWNGRADE,
    DRILL,
    EXCHANGE_CA,
    EXPORT_CA_KEY,
    HAND_OVER,
    IMAGE,
    JOIN,
    LEAVE,
    MOVE_CA,
    NEXT_CA,
    PREPARE,
    RECEIVE_CA_KEY,
    RECORD,
    REHEARSE,
    REMOVE,
    REMOVE_CA_KEY,
    RENEW,
    RENEW_CA,
    REPLACE,
    REPLACE_CA,
    REPLACE_DATA,
    RESTORE,
    ROTATE_CA,
    SCHEDULE,
    SEND_CA_KEY,
    SNAPSHOT,
    STOP,
    TRUST_CA,
    TURN,
    Step,
    hosts_of,
    in_order,
    reasons_of,
)
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.steps import START as START_STEP
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.upgrade import upgrade
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.members import Member
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.problems import (
    EVERYTHING,
    FOUND,
    PROCESSES,
    RESTART,
    SIGN,
    START,
    Problem,
    merged,
    note,
    problems_of,
)
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.reasons import as_data

if TYPE_CHECKING:
    # Python 3.8 cannot evaluate it.
    Observation = Mapping[str, Any]
    Observations = Mapping[str, Observation]


@dataclass(frozen=True)
class Wish:
    """What a run is asked for, beside what each host is to be. Fields are options of the module etcd_plan.

    external_files: by cluster, the file that is to get its etcd.external stanza. ca_host: the value of etcd_ca_host, '' if it is not set.
    phase: the one of a rotation that is planned, '' for the run as a whole. check: whether the run is in check mode.
    """

    operation: str = CONVERGE
    runtime_endpoint: str = ""
    own_ca: Mapping[str, Any] = field(default_factory=dict)
    image_archive: str = ""
    external_file: str = ""
    external_files: Mapping[str, str] = field(default_factory=dict)
    allow_interruption: bool = False
    remove_stray_ca_keys: bool = False
    signing_dir: str = ""
    limit: str = ""
    allow_untested_kubeadm: bool = False
    member: str = ""
    replace_healthy: bool = False
    wipe_keys: bool = False
    ca_host: str = ""
    ca_export: Export = field(default_factory=Export)
    backup_before_change: bool = False
    snapshot: WantedSnapshot = field(default_factory=WantedSnapshot)
    replace_healthy_cluster: str = ""
    defragment_threshold: int = 45
    compact_keep_revisions: int = 1000
    until: str = ""
    phase: str = ""
    ca_compromised: str = ""
    ca_same_key: bool = False
    downgrade: str = ""
    check: bool = False


@dataclass(frozen=True)
class Attendance:
    """Who takes part in a run. members: hosts of the cluster, in inventory order. lost: those among them that have failed.

    unobserved: those that have not failed and have no observation. In a hand-over, members are the control plane hosts.
    """

    members: list[str]
    lost: list[str] = field(default_factory=list)
    unobserved: list[str] = field(default_factory=list)


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


def refusal(plan: Mapping[str, Any], cluster: Mapping[str, Any], speaks: bool) -> str:
    """Why nothing is changed. One host of a cluster says it, the others name that host."""
    if not speaks:
        return (
            f"{'' if plan.get('phase') else 'Nothing has been changed here. '}See the message from {plan['speaker']}."
        )
    whose = f"cluster {cluster['name']}" if cluster["name"] else "a cluster"
    what = "the hand-over of " if plan["action"] == HAND_OVER else ""
    count = len(plan["problems"])
    begin = f"The phase {plan['phase']} does not begin." if plan.get("phase") else "Nothing has been changed."
    header = f"{begin} {count} problem(s) {'with' if what else 'in'} {what}{whose}:"
    return "\n- ".join([header, *plan["problems"]])


def lockstep_problems(attendance: Attendance) -> list[Problem]:
    """Whether all hosts were observed before the plan is made. The role preflight looks at the strategy as well."""
    return [Problem(not_in_lockstep(), code="strategy")] if attendance.unobserved else []


def judge(cluster: Cluster, observations: Observations, wish: Wish) -> tuple[list[Problem], list[Problem]]:
    """Problems and warnings of the hosts and of what they have in common."""
    facts = {host: observation["facts"] for host, observation in observations.items()}
    problems = [
        *problems_of("inventory", cluster.problems),
        *problems_of("own-ca", wish.own_ca.get("problems", [])),
        *problems_of("address-unknown", unknown_address_problems(cluster)),
    ]
    warnings = [*map(note, cluster.warnings)]
    for member in cluster.members:
        if member.host not in observations:
            continue
        observation = observations[member.host]
        problems += host_problems(
            member,
            facts[member.host],
            wish.runtime_endpoint,
            observation["kubelet"]["allows_swap"],
            wish.allow_untested_kubeadm,
        )
        problems += [Problem.from_dict(item, member.host) for item in observation["problems"]]
        if wish.image_archive and observation["images"] is None:
            text = "etcd_image_archive needs containerd and its program ctr. Let the runtime pull the image instead."
            problems.append(Problem(text, PROCESSES, member.host, code="image-archive"))
        noticed = [
            *host_warnings(facts[member.host]),
            *observation["pki"].get("warnings", []),
            *observation["kubelet"].get("warnings", []),
        ]
        warnings += [note(text, member.host) for text in noticed]
    return problems + cluster_problems(cluster, facts), [*warnings, *map(note, cluster_warnings(facts))]


def asker(members: list[str], observations: Observations) -> str | None:
    """The host that can tell most of the cluster: the first whose member is ready, else that could ask any, else the first."""
    etcd = {host: observations.get(host, {}).get("etcd", {}) for host in members}
    # A host without usable certificates, or cut off from the others, would take its own trouble for that of all.
    able = [host for host in members if etcd[host].get("members")]
    return next(iter([*(host for host in able if etcd[host].get("ready")), *able, *members]), None)


def exists(observations: Observations) -> bool:
    """Whether there is a cluster already: a member that is ready or has a log that has seen a leader, or a membership with a member that has run."""
    return any(
        has_run(observation) or any(e.get("client_urls") for e in observation["etcd"].get("members") or [])
        for observation in observations.values()
    )


def touched(decision: Plan, observations: Observations) -> dict[str, tuple[str, ...]]:
    """What a plan does to the member of each host that it touches: RESTART if it is ready, else START, and FOUND if it starts for the first time.

    A host whose manifest could not be compared counts as restarted, so that the reason is a problem and not only a warning.
    """
    unjudged = [host for host, item in observations.items() if not item["config"]]
    etcd = {
        host: observations[host]["etcd"]
        for host in [*decision.start, *decision.order, *unjudged]
        if host in observations
    }
    first = {host for host, state in etcd.items() if host not in unjudged and not state["has_data"]}
    return {
        host: (RESTART,) if state.get("ready") else (FOUND, START) if host in first else (START,)
        for host, state in etcd.items()
    }


@dataclass(frozen=True)
class Outcome:
    """A plan after all problems have been weighed. refusals: the run changes nothing. held: it issues certificates only, and then fails.

    unsigned: it issues no certificate, and starts what is down.
    """

    plan: Plan
    refusals: list[Problem] = field(default_factory=list)
    held: list[Problem] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)
    unsigned: bool = False


def weigh(decision: Plan, problems: list[Problem], observations: Observations, signs: bool, wish: Wish) -> Outcome:
    """Which problems stop which part of a plan. signs: whether certificates of a cluster that exists are due.

    A cluster that does not exist yet is founded without any problem, or not at all. One that exists gets its certificates whatever keeps its
    processes from being restarted, and what is down is started though certificates cannot be renewed. What stops nothing that is due is a warning.
    """
    everything = [*problems, *decision.problems]
    if not everything:
        return Outcome(decision)
    nothing = replace(decision, action=NOTHING, order=[], start=[], problems=[])
    if not exists(observations):
        return Outcome(replace(nothing, action=REFUSE), refusals=everything)
    acts = touched(decision, observations)
    if wish.operation == RENEW:
        processes: list[Problem] = []
    else:
        processes = [
            *(
                p
                for p in problems
                if any({*steps} & {*p.stops} and p.host in ("", host) for host, steps in acts.items())
            ),
            *decision.problems,
        ]
    whole = [problem for problem in everything if set(problem.stops) >= set(EVERYTHING)]
    signing = [problem for problem in everything if SIGN in problem.stops] if signs else []
    # The quorum may need what is down, and has no use for a certificate that is renewed in time.
    down = [host for host, steps in acts.items() if steps == (START,)]
    start, order = ([host for host in hosts if host in down] for hosts in (decision.start, decision.order))
    can_start = all(
        not needs_signing(observations[host]) or observations[host]["pki"].get("usable") for host in [*start, *order]
    )
    if signing and (start or order) and can_start and not whole and not processes and wish.operation != RENEW:
        return Outcome(replace(decision, start=start, order=order), warnings=everything, unsigned=True)
    refusals = list(dict.fromkeys([*whole, *signing, *([] if signs else processes)]))
    if refusals:
        refusals = list(dict.fromkeys([*refusals, *processes]))
        return Outcome(replace(nothing, action=REFUSE), refusals, warnings=[p for p in everything if p not in refusals])
    return Outcome(
        nothing if processes else replace(decision, problems=[]) if decision.action != REFUSE else nothing,
        held=processes,
        warnings=[problem for problem in everything if problem not in processes],
    )


def token(observations: Observations) -> str:
    """The initial-cluster-token of a cluster that is being founded, the same on all hosts.

    What a killed first run has begun with is gone on with; else it is made of random numbers of all hosts. So the ids of a cluster are its own, and
    not those of an earlier one at the same addresses (etcd makes them of peer URLs and token: server/etcdserver/api/membership/member.go).
    """
    # What has data keeps its ids, whatever the others would be told. A manifest by hand has no token: with it, ids are those of etcd's own.
    with_data = [
        item
        for item in observations.values()
        if item["etcd"].get("has_data") and (item["etcd"].get("token") or item["facts"]["etcd_manifest"])
    ]
    begun = [str(item["etcd"].get("token") or "") for item in with_data]
    begun += [str(item["etcd"]["token"]) for item in observations.values() if item["etcd"].get("token")]
    if begun:
        return begun[0]
    nonces = "".join(sorted(str(observation["etcd"].get("nonce", "")) for observation in observations.values()))
    return hashlib.sha256(nonces.encode()).hexdigest()[:32]


def to_record(decision: Plan, observations: Observations, is_rotating: bool = False) -> list[str]:
    """Hosts whose record is written at the end of the run: if it differs, and if this run founds or starts their member.

    is_rotating: the CA is being replaced, and the rotation records it when it is the CA of all members.
    """

    def is_another(etcd: Mapping[str, Any]) -> bool:
        """Whether a record is none of what the member is, or is to be: it was restored, or added again."""
        record = etcd.get("record")
        return not record or any(record[key] != etcd.get(key) for key in ("cluster_id", "member_id"))

    return [
        host
        for host, observation in observations.items()
        if any(reason["code"] != "ca" or not is_rotating for reason in observation["reasons"].get("record", []))
        or (host in [*decision.start, *decision.order] and is_another(observation["etcd"]))
    ]


def as_cluster(data: Mapping[str, Any]) -> Cluster:
    """The cluster from its form as plain data."""
    fields = {key: list(data[key]) for key in ("problems", "warnings")}
    return Cluster(str(data["name"]), [Member(**member) for member in data["members"]], str(data["ca_host"]), **fields)


def is_incomplete(host: str, seen: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether hosts of a host's cluster have to be looked at again before a run is planned. seen: as for plan_run."""
    names = {item: (found.get("cluster") or {}).get("name") for item, found in seen.items()}
    return any(found.get("incomplete") for item, found in seen.items() if names[item] == names[host])


def no_archive(_images: list[str]) -> list[str]:
    """What is wrong with an image archive if there is none."""
    return []


def plan_run(
    host: str,
    seen: Mapping[str, Mapping[str, Any]],
    lost: list[str],
    wish: Wish,
    archive_problems: Callable[[list[str]], list[str]] = no_archive,
) -> dict[str, Any]:
    """The plan of a run for the cluster of a host, as plain data: see RETURN of the module etcd_plan.

    seen: what etcd_observe returned, by host of the run. lost: hosts that the run began with and that have failed. archive_problems: what is
    wrong with the image archive, for images that are missing on hosts.
    """
    own = seen[host]["cluster"]
    cluster, clients = as_cluster(own), [Client(**client) for client in own.get("clients", [])]
    # Problems that one host found in its own variables are those of the cluster.
    for item in seen.values():
        other = item.get("cluster") or {}
        if own["name"] and other.get("name") == own["name"]:
            cluster.problems.extend(text for text in other["problems"] if text not in cluster.problems)
    observed = {item: found for item, found in seen.items() if "facts" in found}
    members = [member.host for member in cluster.members]
    if wish.operation == HAND_OVER:
        planes = [client.host for client in clients if client.host in seen]
        needed = {item: observed[item] for item in [*planes, cluster.ca_host] if item in observed}
        failed = [item for item in [*members, *planes] if item in lost]
        return make_hand_over(cluster, clients, needed, Attendance(planes, failed), wish)
    leaving, problem = (
        departing_of(cluster, seen, observed, wish) if wish.operation in (REMOVE, REPLACE) else (None, "")
    )
    if problem:
        cluster.problems.append(problem)
    # The host of a member that leaves need not be there any more.
    gone = [leaving.host] if leaving and leaving.host not in observed else []
    present = [item for item in members if item in seen and item not in gone]
    failed = [item for item in members if item in lost and item not in gone]
    observations = with_image({item: observed[item] for item in present if item in observed}, wish.image_archive)
    unobserved = [item for item in present if item not in observed and item not in failed]
    names = [str((item.get("cluster") or {}).get("name") or "") for item in seen.values()]
    if wish.operation == ROTATE_CA:
        named = [client.host for client in clients]
        failed += [item for item in named if item in lost]
        of_planes = {item: observed[item] for item in named if item in observed}
        return make_rotation(cluster, named, observations, of_planes, Attendance(present, failed, unobserved), wish)
    if wish.operation == MOVE_CA:
        return make_move(cluster, observations, Attendance(present, failed, unobserved), wish, names)
    if wish.operation == BACKUP:
        return make_backup(cluster, observations, Attendance(present, failed, unobserved))
    if wish.operation == DRILL:
        return make_drill(cluster, observations, Attendance(present, failed, unobserved), wish)
    if wish.operation == RESTORE:
        return make_restore(cluster, observations, Attendance(present, failed, unobserved), wish, names)
    if wish.operation == DEFRAGMENT:
        return make_defragmentation(cluster, observations, Attendance(present, failed, unobserved), wish)
    lacking = [item["config"]["image"] for item in observations.values() if item["reasons"]["image"]]
    plan = make_plan(
        cluster,
        observations,
        Attendance(present, failed, unobserved),
        wish,
        archive_problems(lacking) if wish.image_archive else (),
        leaving,
    )
    return {**plan, **finish(plan, observations, wish)}


def finish(plan: Mapping[str, Any], observations: Observations, wish: Wish) -> dict[str, Any]:
    """Whether the run ends with its plan, and the table of its members then: nothing is to be done, and the observation found all of them healthy."""
    tables = [
        seen["table"] for item in observations.values() if (seen := item.get("health")) and seen["verdict"] == "healthy"
    ]
    if not (plan["settled"] and tables) or plan["held"] or plan["problems"] or wish.external_file:
        return {"finished": False, "table": []}
    return {"finished": True, "table": tables[0]}


def departing_of(
    cluster: Cluster, seen: Mapping[str, Mapping[str, Any]], observed: Observations, wish: Wish
) -> tuple[Departing | None, str]:
    """The member of this cluster that the run is about, None if it is one of another cluster; and why the name means no member."""
    clusters = {}
    for item in seen.values():
        if item.get("cluster"):
            other = as_cluster(item["cluster"])
            known = {m.host: observed[m.host] for m in other.members if m.host in observed}
            clusters[other.name] = (other, [*(membership(known) or []), *departed_with_alarm(known)])
    listed = clusters[cluster.name][1]
    leaving = departing_in(cluster, listed, wish.member, clusters)
    if leaving and not leaving.entry:
        # It has left in a run that did not get as far as its alarm.
        leaving = replace(leaving, entry=next((entry for entry in listed if entry.get("has_left")), None))
    return leaving, name_problem(wish.member, clusters)


def make_plan(
    cluster: Cluster,
    observations: Observations,
    attendance: Attendance,
    wish: Wish,
    archive_problems: Iterable[str] = (),
    leaving: Departing | None = None,
) -> dict[str, Any]:
    """The plan of a run as plain data: see RETURN of the module etcd_plan.

    archive_problems: what is wrong with the image archive, for the hosts that lack the image. leaving: the member that an operation is
    about; None if that is one of another cluster.
    """
    members = attendance.members
    listed = membership(observations) or []
    is_rotating = bool(rotation_of(cluster, observations).phase)
    if wish.operation == RENEW:
        observations = only_certificates(observations)
    departure, taken = Departure(), Backup()
    if wish.operation in (REMOVE, REPLACE):
        leaving = leaving or Departing(None, None)
        if leaving.name:
            departure = depart(cluster, observations, leaving, wish.operation, wish.replace_healthy, wish.wipe_keys)
            # No snapshot if the departure is refused, or if the member has left in an earlier run.
            if wish.backup_before_change and leaving.is_listed and not departure.problems:
                taken = backup(cluster, observations, leaving.host)
        observations = after_departure(observations, leaving, wish.operation)
    problems, warnings = judge(cluster, observations, wish)
    if leaving and wish.operation == REMOVE:
        # Its host is only cleared.
        problems = [problem for problem in problems if problem.host != leaving.host or not leaving.host]
    problems += problems_of("image-archive", archive_problems)
    problems += problems_of("lost", lost_problems(attendance.lost, wish.limit, exists(observations)))
    problems += problems_of("external-file", external_problems(cluster.name, wish.external_file, wish.external_files))
    apart = lockstep_problems(attendance)
    problems += apart
    if cluster.problems or attendance.lost or apart:
        decision = Plan(REFUSE)
    else:
        problems += ca_problems(cluster, observations, wish.own_ca)
        decision = (
            departure_plan(departure, leaving, wish.operation)
            if leaving
            else decide(cluster, observations, wish.allow_interruption)
        )
        if wish.operation == RENEW:
            decision = without_restarts(cluster, decision)
        warnings += map(note, alarm_warnings(cluster, observations))
        warnings += rotation_notes(cluster, observations)
        # What members have loaded is not what ca.crt holds then.
        if not is_rotating:
            warnings += map(note, trust_warnings(observations))
        warnings += map(note, key_warnings(cluster, observations, wish.own_ca))
    observations = with_reasons(observations, own_key_reasons(cluster, observations, wish.own_ca))
    signer = observations.get(cluster.ca_host)
    make_ca = brings_in(cluster, observations, wish.own_ca) or bool(signer and signer["reasons"]["ca"])
    stray = stray_ca_keys(cluster, observations) if wish.remove_stray_ca_keys else []
    certificates = bool(make_ca or stray or any(item["reasons"]["certificates"] for item in observations.values()))
    of_members = [item for item in observations.values() if has_run(item) and needs_signing(item)]
    known = known_addresses(cluster, observations)
    # A member that is only started keeps its manifest, and so its addresses.
    moves = [host for host, former in known.items() if former and host in decision.order]
    problems += moving_problems(cluster, moves, observations)
    wished = wish.downgrade if wish.operation == CONVERGE else ""
    lowered = downgrade(cluster, observations, decision, wished, asker(members, observations))
    problems += lowered.problems
    warnings += lowered.warnings
    upgraded = upgrade(cluster, observations, decision, lowered.target)
    if upgraded.is_due and wish.backup_before_change:
        taken = backup(cluster, observations)
        problems += [replace(problem, stops=(RESTART,)) for problem in taken.problems]
    problems += upgraded.problems
    warnings += upgraded.warnings
    outcome = weigh(
        decision, problems, observations, bool(of_members or (certificates and wish.operation == RENEW)), wish
    )
    way_out = start_without_problems(cluster, decision, outcome.refusals, observations, wish.limit)
    decision = outcome.plan
    elsewhere = signs_elsewhere(cluster, observations, wish.own_ca)
    if elsewhere:
        warnings += map(note, elsewhere_warnings(observations, wish.signing_dir))
    # A renewed certificate of the CA is copied. Nothing has to be signed for it.
    observations = with_removals(with_renewals(cluster, observations, wish.own_ca), stray)
    if outcome.unsigned:
        make_ca, stray, moves = False, [], []
        observations = {
            host: {**item, "reasons": {**item["reasons"], "ca": [], "certificates": []}}
            for host, item in observations.items()
        }
    certificates = bool(make_ca or stray or any(item["reasons"]["certificates"] for item in observations.values()))
    if upgraded.is_due and not decision.order:
        taken = Backup()
    names = {member.host: member.name for member in cluster.members}
    leave = [*taken.steps, *lowered.steps, *departure.steps] if decision.action != REFUSE and not outcome.held else []
    steps = make_steps(
        decision,
        observations,
        names,
        **{
            CA: [cluster.ca_host] if make_ca else [],
            REPLACE_CA: members if decision.action == BOOTSTRAP else broken_ca_hosts(cluster, observations),
            REMOVE_CA_KEY: stray,
            CERTIFICATES: [host for host in members if host in observations] if certificates else [],
            IMAGE: []
            if outcome.held
            else [host for host, item in observations.items() if item["reasons"].get("image")],
            RECORD: [] if wish.operation == RENEW else to_record(decision, observations, is_rotating),
            SCHEDULE: [host for host, item in observations.items() if item["reasons"].get("backup")],
        },
    )
    leading = [host for host, item in observations.items() if item["etcd"].get("leader")]
    steps = in_order([*steps, *leave])
    return {
        **read_off(steps),
        "action": decision.action,
        "state": decision.state,
        "gated": decision.gated,
        "published": decision.published,
        "token": token(observations) if decision.action == BOOTSTRAP else "",
        "known_addresses": known,
        "moves": [host for host in moves if host in decision.order],
        "departing": departing_data(leaving),
        "members": members_after(cluster, leaving, listed, wish.operation),
        "elsewhere": elsewhere,
        "copied": [],
        "lines": plan_lines(cluster, decision, steps, leading, upgraded.lines),
        "speaker": next(
            iter(item for item in members if not leaving or item != leaving.host or wish.operation == REPLACE), None
        ),
        "asker": asker(members, observations),
        "problems": merged([*outcome.refusals, *way_out]),
        "held": merged(outcome.held),
        "notices": merged([*warnings, *taken.warnings, *decision.warnings, *outcome.warnings]),
    }


def departure_plan(departure: Departure, leaving: Departing, operation: str) -> Plan:
    """The plan for the members beside the departure: a replaced member joins anew."""
    action = ROLLING if operation == REPLACE and leaving.host else NOTHING
    joins = [leaving.host] if action == ROLLING else []
    if departure.problems:
        action, joins = REFUSE, []
    return Plan(action, order=joins, join=joins, problems=departure.problems, warnings=departure.warnings)


def members_after(
    cluster: Cluster, leaving: Departing | None = None, listed: Iterable[Mapping[str, Any]] = (), operation: str = ""
) -> list[dict[str, str]]:
    """Name and address of the members that the cluster has after the run. listed: the membership now. leaving: a member that is removed or replaced.

    Hosts of the inventory that have no member yet join in another run than that: its end does not wait for them.
    """
    present = list(listed)
    return [
        {"name": member.name, "address": member.address}
        for member in cluster.members
        if not leaving or (operation == REPLACE if member == leaving.member else entry_of(member, present))
    ]


def departing_data(leaving: Departing | None) -> dict[str, Any]:
    """The member that leaves, as plain data: its name, its id and client URLs (empty if the membership does not have it), its host ('' if there is none)."""
    if leaving is None:
        return {"name": "", "id": "", "host": "", "urls": []}
    entry = leaving.entry or {}
    urls = list(entry.get("client_urls") or [])
    return {"name": leaving.name, "id": str(entry.get("id", "")), "host": leaving.host, "urls": urls}


def read_off(steps: list[Step]) -> dict[str, Any]:
    """What the roles ask of a plan, read off its steps: the steps, whether there are any, and who has one of each kind."""
    return {
        "steps": [step.as_dict() for step in steps],
        "settled": not steps,
        "order": hosts_of(steps, TURN, JOIN),
        "join": hosts_of(steps, JOIN),
        "leave": hosts_of(steps, LEAVE),
        "archive": hosts_of(steps, ARCHIVE),
        "start": hosts_of(steps, START_STEP),
        "defragment": hosts_of(steps, DEFRAGMENT_MEMBER),
        "disarm": hosts_of(steps, DISARM),
        "downgrade": hosts_of(steps, DOWNGRADE),
        "ca": bool(hosts_of(steps, CA)),
        "certificates": hosts_of(steps, CERTIFICATES),
        "replace_ca": hosts_of(steps, REPLACE_CA),
        "remove_ca_key": hosts_of(steps, REMOVE_CA_KEY),
        "send_ca_key": hosts_of(steps, SEND_CA_KEY),
        "receive_ca_key": hosts_of(steps, RECEIVE_CA_KEY),
        "export_ca_key": hosts_of(steps, EXPORT_CA_KEY),
        "next_ca": hosts_of(steps, NEXT_CA),
        "renew_ca": hosts_of(steps, RENEW_CA),
        "trust_ca": hosts_of(steps, TRUST_CA),
        "exchange_ca": hosts_of(steps, EXCHANGE_CA),
        "first_ca_only": False,
        "signs_next": False,
        "import_image": hosts_of(steps, IMAGE),
        "config": hosts_of(steps, CONFIG),
        "record": hosts_of(steps, RECORD),
        "snapshot": hosts_of(steps, SNAPSHOT),
        "schedule": hosts_of(steps, SCHEDULE),
        "drill": hosts_of(steps, REHEARSE),
        "prepare": hosts_of(steps, PREPARE),
        "stop": hosts_of(steps, STOP),
        "replace_data": hosts_of(steps, REPLACE_DATA),
        "apiservers": [],
    }


def make_hand_over(
    cluster: Cluster, clients: list[Client], observations: Observations, attendance: Attendance, wish: Wish
) -> dict[str, Any]:
    """The plan of a hand-over to control plane hosts, in the same form as that of members."""
    found = hand_over(cluster, clients, observations, wish.own_ca, attendance.lost, wish.signing_dir)
    hosts = [client.host for client in clients if client.host in attendance.members]
    speaker = hosts[0] if hosts else None
    return {
        **apart_plan(cluster, attendance, HAND_OVER, found.problems, found.steps, found.lines, found.warnings),
        "apiservers": [] if found.problems else found.turns,
        "members": [{"name": member.name, "address": member.address} for member in found.members],
        "elsewhere": found.elsewhere,
        "copied": found.copied,
        "replace_ca": found.replace_ca,
        "first_ca_only": found.first_ca_only,
        "speaker": speaker,
        "asker": speaker,
        "held": merged(found.held),
    }


def make_move(
    cluster: Cluster, observations: Observations, attendance: Attendance, wish: Wish, clusters: Iterable[str]
) -> dict[str, Any]:
    """The plan of a run that moves the CA's key, in the same form. clusters: names of all clusters of the run."""
    problems = [
        *problems_of("lost", lost_problems(attendance.lost, wish.limit)),
        *problems_of("ca-export", one_file_problems(wish.ca_export, clusters)),
        *lockstep_problems(attendance),
    ]
    absent = [member.host for member in cluster.members if member.host not in observations]
    if not absent and not cluster.problems and not exists(observations):
        found = CaMove([without_cluster(cluster)])
    else:
        found = move_ca(cluster, observations, absent, bool(wish.ca_host), wish.own_ca, wish.ca_export)
    return apart_plan(cluster, attendance, MOVE_CA, [*problems, *found.problems], found.steps, found.lines)


def make_rotation(
    cluster: Cluster,
    planes: list[str],
    observations: Observations,
    of_planes: Observations,
    attendance: Attendance,
    wish: Wish,
) -> dict[str, Any]:
    """The plan of a run that rotates the CA, or of one phase of it, in the same form. planes: control plane hosts; of_planes: what was observed there."""
    problems = [*problems_of("lost", lost_problems(attendance.lost, wish.limit)), *lockstep_problems(attendance)]
    if not problems and not cluster.problems and not exists(observations):
        problems.append(without_cluster(cluster))
    found = CaRotation(problems)
    notices: list[Problem] = []
    if not problems:
        judged, notices = judge(cluster, observations, wish)
        # Of the CA in the inventory, the rotation knows more.
        judged += ca_problems(cluster, observations)
        everything = {**observations, **of_planes}
        found = rotate_ca(
            cluster,
            planes,
            everything,
            wish.own_ca,
            wish.until,
            wish.phase,
            wish.allow_interruption,
            wish.check,
            wish.ca_compromised,
            wish.ca_same_key,
        )
        accepted = [*(ACCEPTED if found.at_once else ()), *(LACKS_KEY if found.elsewhere else ())]
        problems = [
            problem for problem in judged if {RESTART, SIGN} & {*problem.stops} and problem.code not in accepted
        ]
        problems += found.problems
    taken = Backup()
    # Members that reject everybody give no snapshot.
    answers = not found.at_once or any(item["etcd"].get("answers") for item in observations.values())
    if wish.backup_before_change and found.phases and not wish.phase and not problems and answers:
        taken = backup(cluster, observations)
    steps = in_order([*taken.steps, *found.steps])
    lines = [*found.lines, *merged(note(f"{part}: {text}", host) for host, part, text in reasons_of(taken.steps))]
    warnings = [] if wish.phase else [*notices, *found.warnings, *taken.warnings]
    certificates = hosts_of(found.steps, CERTIFICATES)
    return {
        **apart_plan(cluster, attendance, ROTATE_CA, [*problems, *taken.problems], steps, lines, warnings),
        # The certificates of hosts whose ca.crt is turned around are of the CA that comes first.
        "replace_ca": certificates,
        "state": "existing",
        "gated": not wish.allow_interruption,
        "published": found.published,
        "phase": wish.phase,
        "phases": found.phases,
        "trusted_ca": found.ca_cert,
        "signs_next": found.signs_next,
        "elsewhere": found.elsewhere,
        "first_ca_only": True,
        "asker": asker(attendance.members, observations),
    }


def make_backup(cluster: Cluster, observations: Observations, attendance: Attendance) -> dict[str, Any]:
    """The plan of a run that takes a snapshot, in the same form."""
    problems = [*problems_of("inventory", cluster.problems), *lockstep_problems(attendance)]
    found = Backup() if problems else backup(cluster, observations)
    problems += found.problems
    lines = step_lines(cluster, "a snapshot is taken", found.steps)
    return apart_plan(cluster, attendance, BACKUP, problems, found.steps, lines, found.warnings)


def start_problems(cluster: Cluster, observations: Observations, wish: Wish) -> list[Problem]:
    """Why members could not be started once their data was replaced: said before anything stops. Data that cannot be read is archived."""
    found = [*judge(cluster, observations, wish)[0], *ca_problems(cluster, observations, wish.own_ca)]
    return [problem for problem in found if START in problem.stops and problem.code != "unreadable-data"]


def make_restore(
    cluster: Cluster, observations: Observations, attendance: Attendance, wish: Wish, clusters: Iterable[str]
) -> dict[str, Any]:
    """The plan of a run that restores a snapshot, in the same form. clusters: names of all clusters of the run."""
    problems = [*lockstep_problems(attendance), *problems_of("snapshot", one_cluster_problems(clusters))]
    absent = [member.host for member in cluster.members if member.host not in observations]
    found = (
        Restore() if problems else restore(cluster, observations, absent, wish.snapshot, wish.replace_healthy_cluster)
    )
    problems += found.problems or (start_problems(cluster, observations, wish) if found.steps else [])
    steps, warnings = list(found.steps), list(found.warnings)
    if wish.backup_before_change and any(item["etcd"].get("answers") for item in observations.values()) and steps:
        taken = backup(cluster, observations)
        steps, warnings = [*taken.steps, *steps], [*warnings, *taken.warnings]
    what = f"restored from {wish.snapshot.path}" if steps else "has the data of the snapshot"
    lines = step_lines(cluster, what, in_order(steps))
    plan = apart_plan(cluster, attendance, RESTORE, problems, in_order(steps), lines, warnings)
    return {**plan, "token": found.token}


def make_drill(cluster: Cluster, observations: Observations, attendance: Attendance, wish: Wish) -> dict[str, Any]:
    """The plan of a run that rehearses a restore, in the same form."""
    found = drill(cluster, observations, wish.snapshot)
    problems = [*lockstep_problems(attendance), *found.problems]
    lines = step_lines(cluster, "a restore is rehearsed", found.steps)
    return {**apart_plan(cluster, attendance, DRILL, problems, found.steps, lines), "token": found.token}


def step_lines(cluster: Cluster, what: str, steps: list[Step]) -> list[str]:
    """A plan for people: what is done to the cluster, then to which host and why."""
    return [f"cluster {cluster.name}: {what}", *merged(note(text, host) for host, _part, text in reasons_of(steps))]


def apart_plan(
    cluster: Cluster,
    attendance: Attendance,
    operation: str,
    problems: list[Problem],
    steps: list[Step],
    lines: list[str],
    warnings: Iterable[Problem] = (),
) -> dict[str, Any]:
    """A plan that leaves members and certificates as they are, as plain data."""
    return {
        **read_off([] if problems else steps),
        "action": operation,
        "known_addresses": {},
        "moves": [],
        "departing": departing_data(None),
        "members": members_after(cluster),
        "elsewhere": False,
        "copied": [],
        "lines": lines,
        "speaker": attendance.members[0] if attendance.members else None,
        "asker": None,
        "problems": merged(problems),
        "held": [],
        "notices": merged(warnings),
    }


def make_defragmentation(
    cluster: Cluster, observations: Observations, attendance: Attendance, wish: Wish
) -> dict[str, Any]:
    """The plan of a run that defragments, in the same form."""
    problems = [*problems_of("lost", lost_problems(attendance.lost, wish.limit)), *lockstep_problems(attendance)]
    if not problems and not cluster.problems and not exists(observations):
        problems.append(without_cluster(cluster))
    found = Defragmentation(problems)
    if not problems:
        found = defragment(
            cluster, observations, wish.defragment_threshold, wish.compact_keep_revisions, wish.allow_interruption
        )
    action = DEFRAGMENT if found.steps else NOTHING
    plan = apart_plan(cluster, attendance, action, found.problems, found.steps, found.lines, found.warnings)
    return {**plan, "asker": asker(attendance.members, observations), "limits": found.as_options}


def known_addresses(cluster: Cluster, observations: Observations) -> dict[str, list[str]]:
    """Addresses that certificates of members keep until the member has moved, by host.

    A host names its own; another host has to confirm each by the membership that it is told, else any member could have any address signed. An
    address that the inventory gives another member is never among them. The CA host signs anyway.
    """
    result = {}
    for member in cluster.members:
        if member.host not in observations:
            continue
        others = [item for host, item in observations.items() if host != member.host or host == cluster.ca_host]
        entries = [entry_of(member, item["etcd"].get("members") or []) for item in others]
        urls = [
            url for entry in entries if entry for url in [*entry.get("peer_urls", []), *entry.get("client_urls", [])]
        ]
        result[member.host] = [
            address
            for address in observations[member.host]["etcd"].get("known_addresses", [])
            if has_address({"peer_urls": urls}, address)
            and not any(same_address(address, other.address) for other in cluster.members)
        ]
    return result


def moving_problems(cluster: Cluster, moves: list[str], observations: Observations) -> list[Problem]:
    """Members that move although their certificates could not be issued without the former address afterwards."""
    if not moves or cluster.ca_host in observations:
        return []
    return [
        Problem(
            f"{', '.join(moves)} would move to another address, and the certificates are issued again afterwards: run again with the CA host"
            f" {cluster.ca_host}, or without --limit.",
            (START, RESTART),
            code="ca-host-absent",
        )
    ]


def with_image(observations: Observations, archive: str) -> dict[str, Observation]:
    """Observations with what only the controller can tell: which hosts lack the image that an archive on it holds."""
    return {
        host: {**item, "reasons": {**item["reasons"], "image": as_data(image_reasons(item, archive))}}
        for host, item in observations.items()
    }
