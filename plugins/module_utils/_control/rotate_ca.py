# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The operation rotate_ca: a new CA, phase by phase. What a phase has to do is read off the hosts (rotation.py); here is why it is not done, and its steps.

Runs on the controller, pure. A run plans all phases once, to refuse or to show them, and each of them again when it begins.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ansible_collections.kubeadm.etcd.plugins.module_utils._control.cluster import Cluster
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.plan import (
    NOTHING,
    SURVIVES_NONE,
    decide,
    interruption_problem,
)
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.rotation import (
    DROP,
    ISSUE,
    NEW,
    PHASES,
    RESTART_APISERVER,
    TRUST,
    Rotation,
    known_cas,
    phases_left,
    rotation_of,
)
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.steps import (
    CERTIFICATES,
    EXCHANGE_CA,
    NEXT_CA,
    RECORD,
    TRUST_CA,
    TURN,
    Step,
    reasons_of,
)
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.problems import Problem, merged, note
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.reasons import Reason

if TYPE_CHECKING:
    # Python 3.8 cannot evaluate them.
    Observation = Mapping[str, Any]
    Observations = Mapping[str, Observation]

# Of what differs on a member, this is changed by turns, which would change it along with the CA.
_BY_TURNS = ("kubelet", "config", "manifest")


@dataclass(frozen=True)
class CaRotation:
    """What a run does about a new CA. phases: those that are left. published: hosts whose member names itself only. ca_cert: what ca.crt is to hold."""

    problems: list[Problem] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)
    phases: list[str] = field(default_factory=list)
    published: list[str] = field(default_factory=list)
    ca_cert: str = ""


def rotate_ca(
    cluster: Cluster,
    planes: Iterable[str],
    observations: Observations,
    own_ca: Mapping[str, Any],
    until: str = "",
    phase: str = "",
    allow_interruption: bool = False,
    check: bool = False,
) -> CaRotation:
    """The phases that are left, or with `phase` the steps of that one if it is the next.

    planes: control plane hosts of the cluster. own_ca: the CA that the inventory brings along, which is the new one. check: the phases before have
    not been carried out.
    """
    planes = list(planes)
    rotation = rotation_of(cluster, observations, planes)
    left = phases_left(rotation, until)
    problems = [
        *member_problems(cluster, observations),
        *absent_planes(planes, observations),
        *own_problems(cluster, rotation, observations, own_ca),
        *unknown_problems(rotation, observations),
    ]
    members = {member.host: observations[member.host] for member in cluster.members if member.host in observations}
    decision = decide(cluster, members)
    if decision.action != NOTHING and not problems:
        text = (
            f"cluster {cluster.name!r} is not as the inventory wants it, and a member that is restarted for the CA would change along. Run site.yml"
            " first."
        )
        problems += decision.problems or [Problem(text, code="not-settled")]
    is_small = len(cluster.members) <= SURVIVES_NONE
    if is_small and {TRUST, DROP} & {*left} and not allow_interruption:
        problems.append(interruption_problem(cluster, [*members], len(cluster.members)))
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
    )


# --- Why not ----------------------------------------------------------------------------------------------------------


def member_problems(cluster: Cluster, observations: Observations) -> list[Problem]:
    """Members that cannot take part. Each has to: one that trusts the old CA only would be cut off."""
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
                "etcd does not say which CAs it trusts, so nothing would prove that it accepts the new one. Does it run without --client-cert-auth, or"
                " with another --trusted-ca-file than /etc/kubernetes/pki/etcd/ca.crt? Run site.yml."
            )
            problems.append(Problem(text, host=member.host, code="trust-unknown"))
        elif differing:
            text = (
                f"the member differs from what is wanted ({differing[0]}), and would change along. Run site.yml first."
            )
            problems.append(Problem(text, host=member.host, code="not-settled"))
        elif not seen["pki"].get("usable", True):
            text = "certificates of this host cannot be used. Run site.yml first, which issues them."
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
        text = (
            f"etcd_ca_cert is not the CA that a rotation has begun with ({name}). Finish that first: run without etcd_ca_cert and etcd_ca_key, or name"
            " that CA."
        )
        return [Problem(text, code="own-ca-differs")]
    if rotation.phase or rotation.recent:
        return []
    if own_ca["id"] == (observations.get(cluster.ca_host) or {"pki": {}})["pki"].get("ca_id"):
        text = "etcd_ca_cert is the CA in use. Set etcd_ca_cert and etcd_ca_key to the new one, or to nothing to have one made."
        return [Problem(text, code="own-ca-in-use")]
    if not own_ca.get("key"):
        text = (
            "etcd_ca_cert has no etcd_ca_key beside it: a CA that signs elsewhere cannot take over a cluster that runs yet. Give its key, or have a"
            " CA made (without etcd_ca_cert)."
        )
        return [Problem(text, code="signs-elsewhere")]
    return []


def unknown_problems(rotation: Rotation, observations: Observations) -> list[Problem]:
    """A CA in a ca.crt that is neither the one in use, nor that of a rotation."""
    return [
        Problem(
            "/etc/kubernetes/pki/etcd/ca.crt holds a CA that is neither the one in use, nor that of a rotation which the CA host knows:"
            f" {', '.join(str(ca['subject']) for ca in observations[host]['pki'].get('cas') or [])}. Leave only the certificate that signs in the"
            " file, and run site.yml; then run again.",
            host=host,
            code="ca-unknown",
        )
        for host in rotation.unknown
    ]


def not_over(phase: str, rotation: Rotation, planes: list[str]) -> list[Problem]:
    """Why a phase does not begin: one before it is not over. Members have done their part by then; control plane hosts may not have."""
    again = f"Then run rotate_ca.yml again, which goes on with the phase {phase}."
    left = {*rotation.write, *rotation.restart, *rotation.issue}
    problems = []
    for host in (host for host in planes if host in left):
        if rotation.phase == ISSUE:
            text = (
                "the certificate of kube-apiserver is of the former CA, which members are about to reject. Run control_plane.yml, which issues another one;"
                f" kube-apiserver need not be restarted for it. {again}"
            )
        elif host in rotation.write:
            text = (
                "ca.crt does not hold the new CA, so kube-apiserver would reject the members. Run control_plane.yml -e etcd_update_apiserver=true, which"
                " writes it, and restarts one kube-apiserver after the other. Or run it without that variable, and restart them by hand: on one control"
                f" plane host after the other, {RESTART_APISERVER} {again}"
            )
        else:
            text = (
                "kube-apiserver was started before ca.crt was written, so it would reject the members. Run control_plane.yml -e etcd_update_apiserver=true,"
                f" which restarts it. Or by hand, on one control plane host after the other: {RESTART_APISERVER} {again}"
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
        "this control plane host could not be observed, so whether its kube-apiserver trusts the new CA is not known. Run with it, or take it out of the"
        " inventory if it does not use this cluster."
    )
    return [Problem(text, host=host, code="plane-absent") for host in planes if host not in observations]


def foresight(planes: list[str], left: list[str]) -> list[Problem]:
    """What a run cannot see to, said before it begins."""
    if ISSUE not in left:
        return []
    known = f"members, and kube-apiserver on {', '.join(planes)}" if planes else "members only"
    return [
        note(
            f"This run knows {known}. Every other client of etcd has to trust the new CA (etcd/ca.crt, as members have it after the phase trust) before the"
            " phase issue, and to show a certificate of it before the phase drop. To have time for that, end a run with -e etcd_until=trust, and another"
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
    steps = []
    subjects = " and ".join(cas[item]["subject"] for item in rotation.ca)
    if phase in (ISSUE, DROP):
        key = cas[rotation.new]["key"]
        for host in names:
            before = (observations[host]["etcd"].get("record") or {}).get("ca", "")
            if before != key:
                text = f"member.json: ca: {before} -> {key}"
                steps.append(Step(RECORD, names[host], host, None, (Reason("record", "ca", text),)))
    if phase == ISSUE:
        if rotation.exchange:
            text = f"etcd/ca.key: {cas[rotation.new]['subject']} signs from now on"
            steps.append(Step(EXCHANGE_CA, names[target], target, None, (Reason("ca", "exchanged", text),)))
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
    leading = [host for host in names if observations[host]["etcd"].get("leader")]
    order = sorted((host for host in names if host in rotation.restart), key=lambda host: host in leading)
    text = f"etcd: is restarted to trust {subjects}{', and no other CA' if phase == DROP else ''}"
    reasons = (Reason("manifest", "ca", text, restarts=True),)
    return [*steps, *(Step(TURN, names[host], host, turn, reasons) for turn, host in enumerate(order, 1))]


# --- What is said -----------------------------------------------------------------------------------------------------

_WORDS = {
    NEW: "a new CA beside the one in use; nothing restarts",
    TRUST: "all trust both CAs",
    ISSUE: "the new CA issues all certificates; nothing restarts",
    DROP: "the former CA is not trusted any more",
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
            f"cluster {cluster.name}: its CA was replaced less than a day ago, and nothing is left to do. For yet another one, run again tomorrow, or move"
            f" the directory former-ca in /etc/kubernetes/kubeadm-etcd on {cluster.ca_host} away"
        ]
    return [f"cluster {cluster.name}: its CA is replaced by a new one, in the phases {', '.join(left)}"]
