# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The operation rotate_ca: a new CA, phase by phase. rotation.py reads from the hosts what a phase has to do; this file has its refusals and its steps.

Runs on the controller, pure. A run plans all phases once, to refuse or to show them, and each of them again when it begins.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ansible_collections.kubeadm.etcd.plugins.module_utils._control import emergency as _emergency
from ansible_collections.kubeadm.etcd.plugins.module_utils._control import renew_ca as _renewal
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.authority import LACKS_KEY, ca_problems
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.backup import Backup, backup
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.cluster import Cluster
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.decision import (
    NOTHING,
    REFUSE,
    SURVIVES_NONE,
    Decision,
    decide,
    interruption_problem,
    without_cluster,
)
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.emergency import ACCEPTED
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.judge import attendance_problems, judge
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.plan import apart_plan
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.rotation import (
    CUT,
    DROP,
    ISSUE,
    LOAD,
    NEW,
    PHASES,
    RENEW,
    RESTART_APISERVER,
    TRUST,
    Rotation,
    exchange_step,
    known_cas,
    phases_left,
    record_steps,
    rotation_of,
    signer_has_key,
    turn_steps,
)
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.steps import (
    CERTIFICATES,
    NEXT_CA,
    ROTATE_CA,
    TRUST_CA,
    TURN,
    Step,
    in_order,
    reasons_of,
)
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.view import View, asker, exists
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.wish import Wish
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.problems import RESTART, SIGN, Problem, merged, note
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.reasons import Reason

if TYPE_CHECKING:
    # Python 3.8 cannot evaluate them.
    Observation = Mapping[str, Any]
    Observations = Mapping[str, Observation]

# Of what differs on a member, this is changed by turns, which would change it along with the CA.
_BY_TURNS = ("kubelet", "config", "manifest")


@dataclass(frozen=True)
class CaRotation:
    """What a run does about a new CA. phases: those that are left. published: hosts whose member names itself only. ca_cert: what ca.crt is to hold.

    at_once: whether it is an emergency, to which problems with the CA in use are no obstacle; signs_next: whether the CA beside that one signs.
    elsewhere: whether the new CA signs elsewhere.
    """

    problems: list[Problem] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)
    phases: list[str] = field(default_factory=list)
    published: list[str] = field(default_factory=list)
    ca_cert: str = ""
    at_once: bool = False
    signs_next: bool = False
    elsewhere: bool = False


def rotate_ca(
    cluster: Cluster,
    planes: Iterable[str],
    observations: Observations,
    own_ca: Mapping[str, Any],
    until: str,
    phase: str,
    allow_interruption: bool,
    check: bool,
    compromised: str,
    same_key: bool,
) -> CaRotation:
    """The phases that are left, or with `phase` the steps of that one if it is the next.

    planes: control plane hosts of the cluster. own_ca: the CA that the inventory brings along, which is the new one. check: the phases before have
    not been carried out. compromised: the name of a cluster whose CA is dropped first. same_key: whether the CA in use gets another certificate.
    """
    planes = list(planes)
    of_members = rotation_of(cluster, observations)
    cut = _emergency.cut_of(cluster, observations, of_members)
    if compromised or cut.by_hand:
        consent = allow_interruption and cut.by_hand
        return at_once(
            cluster, planes, observations, own_ca, cut, until, phase, cluster.name if consent else compromised
        )
    if of_members.is_cut:
        return CaRotation([_emergency.begun_problem(cluster)], at_once=True)
    rotation = rotation_of(cluster, observations, planes)
    is_same = _renewal.is_same_ca(cluster, observations, own_ca)
    if same_key or (is_same and _renewal.renewal_of(cluster, observations, own_ca).phases and not rotation.phase):
        return renew(cluster, observations, own_ca, rotation, phase, allow_interruption)
    left = phases_left(rotation, until)
    problems = [
        *member_problems(cluster, observations),
        *absent_planes(planes, observations),
        *own_problems(cluster, rotation, observations, own_ca),
        *unknown_problems(rotation, observations),
    ]
    restarts = bool({TRUST, DROP} & {*left})
    decision = decide_settled(cluster, observations, problems, restarts and not allow_interruption)
    if not phase:
        lines = run_lines(cluster, observations, rotation, left, until)
        return CaRotation(problems, [], lines, foresight(planes, left), left, decision.published)
    due = rotation.phase or (NEW if left else "")
    steps: list[Step] = []
    if phase == due and phase in left and not problems:
        steps = phase_steps(cluster, observations, phase, rotation)
    elif due and PHASES.index(due) < PHASES.index(phase) and not check:
        problems += not_over(phase, rotation, planes)
    cas = known_cas(observations)
    return CaRotation(
        problems,
        steps,
        phase_lines(cluster, observations, phase, steps),
        phases=left,
        published=decision.published,
        ca_cert="".join(str(cas[item]["cert"]) for item in rotation.ca),
        elsewhere=signs_elsewhere(cluster, rotation, observations, own_ca),
    )


def decide_settled(cluster: Cluster, observations: Observations, problems: list[Problem], interrupts: bool) -> Decision:
    """The decision of a run that leaves members as they are. Adds to the problems if there is anything to decide. interrupts: if it is a small cluster."""
    members = {member.host: observations[member.host] for member in cluster.members if member.host in observations}
    decision = decide(cluster, members)
    if decision.action != NOTHING and not problems:
        text = f"cluster {cluster.name!r} differs from the inventory, and a restart for the CA would also apply the other changes. Run site.yml first."
        problems += decision.problems or [Problem(text, code="not-settled")]
    if len(cluster.members) <= SURVIVES_NONE and interrupts:
        problems.append(interruption_problem(cluster, [*members], len(cluster.members)))
    return decision


def renew(
    cluster: Cluster,
    observations: Observations,
    own_ca: Mapping[str, Any],
    rotation: Rotation,
    phase: str,
    allow_interruption: bool,
) -> CaRotation:
    """The same for another certificate of the CA in use."""
    problems = member_problems(cluster, observations)
    if own_ca.get("fingerprint") and not _renewal.is_same_ca(cluster, observations, own_ca):
        text = (
            "etcd_ca_cert is another CA than the one in use, and etcd_ca_same_key keeps that. Leave out etcd_ca_same_key to replace the CA, or etcd_ca_cert"
            " and etcd_ca_key to have the certificate made."
        )
        problems.append(Problem(text, code="own-ca-differs"))
    if problems:
        return CaRotation(problems)
    renewal = _renewal.renewal_of(cluster, observations, own_ca)
    problems += _renewal.renewal_problems(cluster, observations, renewal, own_ca, bool(rotation.phase))
    left = renewal.phases
    decision = decide_settled(cluster, observations, problems, LOAD in left and not allow_interruption)
    if not phase:
        lines = _renewal.run_lines(cluster, renewal)
        return CaRotation(problems, [], lines, phases=left, published=decision.published)
    steps: list[Step] = []
    if left[:1] == [phase] and not problems:
        steps = _renewal.renewal_steps(cluster, observations, renewal, phase)
    return CaRotation(
        problems,
        steps,
        phase_lines(cluster, observations, phase, steps),
        phases=left,
        published=decision.published,
        ca_cert=str(observations[cluster.ca_host]["pki"]["ca_cert"] or ""),
    )


def at_once(
    cluster: Cluster,
    planes: list[str],
    observations: Observations,
    own_ca: Mapping[str, Any],
    cut: _emergency.Cut,
    until: str,
    phase: str,
    named: str,
) -> CaRotation:
    """The same for an emergency. named: the cluster that may be interrupted."""
    cas, members = known_cas(observations), {host.host: observations.get(host.host) for host in cluster.members}
    subject = str((cas.get(cut.target) or {"subject": "a new CA"})["subject"])
    begun = Rotation(CUT if cut.target else "", new=cut.target, recent=not cut.phases)
    problems = [
        *_emergency.member_problems(cluster, observations),
        *own_problems(cluster, begun, observations, own_ca),
    ]
    decision = decide(cluster, {host: item for host, item in members.items() if item}, allow_interruption=True)
    if not problems:
        problems += _emergency.key_problems(cluster, observations, cut, own_ca)
        problems += decision.problems if decision.action == REFUSE else []
    if until:
        text = "etcd_until ends a run in a phase in which members trust two CAs. An emergency replacement has no such phase. Remove etcd_until."
        problems.append(Problem(text, code="until"))
    if named:
        problems += _emergency.consent_problems(cluster, named, planes, subject)
    else:
        problems.append(_emergency.by_hand_problem(cluster, planes, subject))
    left = cut.phases
    if not phase:
        lines = _emergency.run_lines(cluster, cut, subject)
        notices = _emergency.warnings(cluster, cut, planes, subject)
        return CaRotation(problems, [], lines, notices, left, decision.published, at_once=True)
    steps: list[Step] = []
    if left[:1] == [phase] and not problems:
        steps = (
            phase_steps(cluster, observations, NEW, begun)
            if phase == NEW
            else _emergency.cut_steps(cluster, observations, cut)
        )
    return CaRotation(
        problems,
        steps,
        phase_lines(cluster, observations, phase, steps),
        phases=left,
        published=decision.published,
        ca_cert=str(cas[cut.target]["cert"]) if cut.target else "",
        at_once=True,
        signs_next=cut.exchange,
        elsewhere=signs_elsewhere(cluster, begun, observations, own_ca),
    )


# --- Why not ----------------------------------------------------------------------------------------------------------


def member_problems(cluster: Cluster, observations: Observations) -> list[Problem]:
    """Members that cannot take part. Every member has to: if it trusted only the old CA, it would be cut off."""
    problems = []
    for member in cluster.members:
        seen = observations.get(member.host)
        if seen is None:
            text = "this host is not part of the run. Every member has to trust the new CA: run without --limit."
            problems.append(Problem(text, host=member.host, code="absent"))
            continue
        etcd = seen["etcd"]
        differing = [reason["text"] for part in _BY_TURNS for reason in seen["reasons"].get(part, [])]
        if not etcd.get("ready"):
            text = "etcd is not ready. Run site.yml to repair it; then run again."
            problems.append(Problem(text, host=member.host, code="not-ready"))
        elif etcd.get("trusted") is None:
            text = (
                "etcd does not report which CAs it trusts, so the run could not verify that it accepts the new CA. etcd may run without --client-cert-auth,"
                " or with another --trusted-ca-file than /etc/kubernetes/pki/etcd/ca.crt. Run site.yml to correct that."
            )
            problems.append(Problem(text, host=member.host, code="trust-unknown"))
        elif differing:
            text = f"the member differs from the inventory ({differing[0]}), and a restart for the CA would also apply this change. Run site.yml first."
            problems.append(Problem(text, host=member.host, code="not-settled"))
        elif not seen["pki"].get("usable", True):
            text = "certificates of this host are missing or invalid. Run site.yml first, which issues new ones."
            problems.append(Problem(text, host=member.host, code="not-settled"))
    return problems


def own_problems(
    cluster: Cluster, rotation: Rotation, observations: Observations, own_ca: Mapping[str, Any]
) -> list[Problem]:
    """Why the CA of the inventory cannot be the new one."""
    if not own_ca.get("fingerprint"):
        return []
    if rotation.phase and own_ca["id"] != rotation.new:
        name = known_cas(observations)[rotation.new]["subject"]
        text = f"a rotation to another CA than etcd_ca_cert has begun ({name}). Finish it first: remove etcd_ca_cert and etcd_ca_key, or set them to that CA."
        return [Problem(text, code="own-ca-differs")]
    if rotation.phase or rotation.recent:
        return []
    if own_ca["id"] == (observations.get(cluster.ca_host) or {"pki": {}})["pki"].get("ca_id"):
        text = "etcd_ca_cert is the CA in use. Set etcd_ca_cert and etcd_ca_key to the new CA, or remove both to have one made."
        return [Problem(text, code="own-ca-in-use")]
    return []


def signs_elsewhere(
    cluster: Cluster, rotation: Rotation, observations: Observations, own_ca: Mapping[str, Any]
) -> bool:
    """Whether the new CA is the user's own, and its key is neither on the controller nor on the CA host."""
    pki = (observations.get(cluster.ca_host) or {}).get("pki") or {}
    if own_ca.get("key") or not own_ca.get("fingerprint") or own_ca["id"] != rotation.new:
        return False
    return not signer_has_key(pki, known_cas(observations)[rotation.new])


def unknown_problems(rotation: Rotation, observations: Observations) -> list[Problem]:
    """A CA in a ca.crt that is neither the one in use, nor that of a rotation."""
    return [
        Problem(
            "/etc/kubernetes/pki/etcd/ca.crt contains a CA that is neither in use nor part of a rotation:"
            f" {', '.join(str(ca['subject']) for ca in observations[host]['pki'].get('cas') or [])}. Leave only the certificate that signs in the"
            " file, run site.yml, and then run again.",
            host=host,
            code="ca-unknown",
        )
        for host in rotation.unknown
    ]


def not_over(phase: str, rotation: Rotation, planes: list[str]) -> list[Problem]:
    """Why a phase does not begin: one before it is not over. Members have done their part by then; control plane hosts may not have."""
    again = f"Then run rotate_ca.yml again, which continues with the phase {phase}."
    left = {*rotation.write, *rotation.restart, *rotation.issue}
    problems = []
    for host in (host for host in planes if host in left):
        if rotation.phase == ISSUE:
            text = (
                "the certificate of kube-apiserver is from the former CA, which members are about to reject. Run control_plane.yml, which issues a new one."
                f" kube-apiserver uses it without a restart. {again}"
            )
        elif host in rotation.write:
            text = (
                "ca.crt does not contain the new CA, so kube-apiserver would reject the members. Run control_plane.yml -e etcd_update_apiserver=true, which"
                " writes ca.crt and restarts one kube-apiserver after the other. Or run it without that variable, and restart kube-apiserver by hand: on one"
                f" control plane host after the other, {RESTART_APISERVER} {again}"
            )
        else:
            text = (
                "kube-apiserver was started before ca.crt was written, so it would reject the members. Run control_plane.yml -e etcd_update_apiserver=true,"
                f" which restarts it. Or restart it by hand: on one control plane host after the other, {RESTART_APISERVER} {again}"
            )
        problems.append(Problem(text, host=host, code="plane-waits"))
    members = sorted(left - {*planes})
    if members or not problems:
        text = f"the phase {rotation.phase or NEW} is not over{' on ' + ', '.join(members) if members else ''}. Run rotate_ca.yml again."
        problems.append(Problem(text, code="phase-before"))
    return problems


def absent_planes(planes: list[str], observations: Observations) -> list[Problem]:
    """Control plane hosts that may be cut off, since nothing is known of them."""
    text = (
        "this control plane host could not be observed, so its kube-apiserver may not trust the new CA. Run again with this host, or remove it from the"
        " inventory if it does not use this cluster."
    )
    return [Problem(text, host=host, code="plane-absent") for host in planes if host not in observations]


def foresight(planes: list[str], left: list[str]) -> list[Problem]:
    """A warning before the run about the clients that it does not wait for."""
    if ISSUE not in left:
        return []
    known = f"members, and kube-apiserver on {', '.join(planes)}" if planes else "members only"
    return [
        note(
            f"This run waits for {known}. Every other client of etcd has to trust the new CA before the phase issue (ca.crt of a member, after the phase"
            " trust), and needs a certificate of the new CA before the phase drop. To get time for that, end a run with -e etcd_until=trust, and another"
            " one with -e etcd_until=issue."
        )
    ]


# --- What -------------------------------------------------------------------------------------------------------------


def phase_steps(cluster: Cluster, observations: Observations, phase: str, rotation: Rotation) -> list[Step]:
    """What the members of a cluster have left to do of a phase."""
    names = {member.host: member.name for member in cluster.members}
    cas, target = known_cas(observations), cluster.ca_host
    if phase == NEW:
        text = "etcd/ca-next.crt: a new CA is put beside the one in use"
        return [Step(NEXT_CA, names[target], target, None, (Reason("ca", "next", text),))]
    steps: list[Step] = []
    subjects = " and ".join(cas[item]["subject"] for item in rotation.ca)
    if phase in (ISSUE, DROP):
        steps += record_steps(cluster, observations, cas[rotation.new])
    if phase == ISSUE:
        if rotation.exchange:
            steps.append(exchange_step(cluster, cas[rotation.new]))
        text = f"all are issued again by {cas[rotation.new]['subject']}, over the same keys; nothing restarts"
        is_turned = {host: tuple(ca["id"] for ca in observations[host]["pki"]["cas"]) == rotation.ca for host in names}
        steps += [
            Step(CERTIFICATES, names[host], host, None, (Reason("certificates", "other-ca", text),))
            for host in names
            if host in rotation.issue or not is_turned[host]
        ]
        return steps
    text = f"etcd/ca.crt: holds {subjects}"
    steps += [
        Step(TRUST_CA, names[host], host, None, (Reason("ca", "trust", text),))
        for host in names
        if host in rotation.write
    ]
    text = f"etcd: is restarted to trust {subjects}{', and no other CA' if phase == DROP else ''}"
    return [*steps, *turn_steps(cluster, observations, rotation.restart, text)]


# --- What is said -----------------------------------------------------------------------------------------------------

_WORDS = {
    NEW: "a new CA beside the one in use; nothing restarts",
    TRUST: "all trust both CAs",
    ISSUE: "the new CA issues all certificates; nothing restarts",
    DROP: "the former CA is not trusted any more",
    RENEW: "the CA in use gets another certificate over the same key; nothing restarts",
    LOAD: "every member loads the certificate",
    CUT: "every member gets the new CA, and trusts no other; all restart at the same time",
}


def phase_lines(cluster: Cluster, observations: Observations, phase: str, steps: list[Step]) -> list[str]:
    """A phase for people. Empty if it has no steps."""
    if not steps:
        return []
    order = [step.host for step in steps if step.kind == TURN]
    turns = f"; one member after the other: {', '.join(order)}" if order else ""
    if len(order) > 1 and observations[order[-1]]["etcd"].get("leader"):
        turns += " (the leader, last)"
    details = merged(note(f"{part}: {text}", host) for host, part, text in reasons_of(steps))
    return [f"cluster {cluster.name}: phase {phase}: {_WORDS[phase]}{turns}", *details]


def run_lines(
    cluster: Cluster, observations: Observations, rotation: Rotation, left: list[str], until: str
) -> list[str]:
    """A run for people: where the rotation is, and what is left of it."""
    cas = known_cas(observations)
    if rotation.phase:
        names = [str(cas[item]["subject"]) for item in (rotation.old, rotation.new)]
        done = f"the CA {names[0]} is being replaced by {names[1]}"
        if not left:
            return [
                f"cluster {cluster.name}: {done}; the phases up to {until} are over, and {rotation.phase} comes next"
            ]
        return [f"cluster {cluster.name}: {done}; what is left: {', '.join(left)}"]
    if not left:
        return [
            f"cluster {cluster.name}: its CA was replaced less than a day ago, and nothing is left to do. To replace it again, run tomorrow, or first move"
            f" the directory /etc/kubernetes/kubeadm-etcd/former-ca on {cluster.ca_host} away"
        ]
    return [f"cluster {cluster.name}: its CA is replaced by a new one, in the phases {', '.join(left)}"]


def plan(view: View, wish: Wish) -> dict[str, Any]:
    """The plan of a run that rotates the CA, or of one phase of it: see RETURN of the module etcd_plan."""
    cluster, planes, observations = view.cluster, view.planes, view.observations
    problems = attendance_problems(view, wish.limit)
    if not problems and not cluster.problems and not exists(observations):
        problems.append(without_cluster(cluster))
    found = CaRotation(problems)
    notices: list[Problem] = []
    if not problems:
        judged, notices = judge(cluster, observations, wish)
        # Of the CA in the inventory, the rotation knows more.
        judged += ca_problems(cluster, observations)
        everything = {**observations, **view.of_clients}
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
    # No snapshot can be taken from members that reject all clients.
    answers = not found.at_once or any(item["etcd"].get("answers") for item in observations.values())
    if wish.backup_before_change and found.phases and not wish.phase and not problems and answers:
        taken = backup(cluster, observations)
    steps = in_order([*taken.steps, *found.steps])
    lines = [*found.lines, *merged(note(f"{part}: {text}", host) for host, part, text in reasons_of(taken.steps))]
    warnings = [] if wish.phase else [*notices, *found.warnings, *taken.warnings]
    plan = apart_plan(view, ROTATE_CA, [*problems, *taken.problems], steps, lines, warnings)
    return {
        **plan,
        # The certificates of hosts whose ca.crt is turned around are of the CA that comes first.
        "replace_ca": plan[CERTIFICATES],
        "state": "existing",
        "gated": not wish.allow_interruption,
        "published": found.published,
        "phase": wish.phase,
        "phases": found.phases,
        "trusted_ca": found.ca_cert,
        "signs_next": found.signs_next,
        "elsewhere": found.elsewhere,
        "first_ca_only": True,
        "asker": asker(view.members, observations),
    }
