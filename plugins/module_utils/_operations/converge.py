# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The operations converge and renew, and what is the same if a member leaves first (departure.py)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ansible_collections.kubeadm.etcd.plugins.module_utils._control.alarms import alarm_warnings
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.authority import (
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
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.decision import (
    BOOTSTRAP,
    REFUSE,
    Decision,
    decide,
    without_restarts,
)
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.departure import (
    Departing,
)
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.downgrade import downgrade
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.identity import (
    entry_of,
    has_address,
    has_run,
    membership,
)
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.judge import (
    attendance_problems,
    judge,
    start_without_problems,
    weigh,
)
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.plan import (
    departing_data,
    make_steps,
    members_after,
    plan_lines,
    read_off,
    watched,
)
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.preflight import external_problems
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.rotation import rotation_notes, rotation_of
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.steps import (
    CA,
    CERTIFICATES,
    CONVERGE,
    IMAGE,
    KUBELET,
    RECORD,
    REMOVE,
    REMOVE_CA_KEY,
    RENEW,
    REPLACE,
    REPLACE_CA,
    SCHEDULE,
    Step,
    in_order,
)
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.upgrade import upgrade
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.view import View, asker, exists
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.wish import Wish
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.formats import same_address
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.problems import (
    RESTART,
    START,
    Problem,
    merged,
    note,
    problems_of,
)
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.reasons import Reason, as_data

if TYPE_CHECKING:
    # Python 3.8 cannot evaluate them.
    Observation = Mapping[str, Any]
    Observations = Mapping[str, Observation]


def with_image(observations: Observations, archive: str) -> dict[str, Observation]:
    """Observations with what only the controller can tell: which hosts lack the image that an archive on it holds."""
    return {
        host: {**item, "reasons": {**item["reasons"], "image": as_data(image_reasons(item, archive))}}
        for host, item in observations.items()
    }


@dataclass(frozen=True)
class Leave:
    """A member leaves before anything else is done. steps: for that. observations: as they will be then. decision: on the members then. taken: the
    snapshot before."""

    member: Departing
    steps: list[Step]
    observations: Observations
    decision: Decision
    taken: Backup


def plan(view: View, wish: Wish, leave: Leave | None = None) -> dict[str, Any]:
    """The plan of a run that brings a cluster to what is wanted: see RETURN of the module etcd_plan. leave: None if no member is to leave."""
    cluster, members, leaving = view.cluster, view.members, leave.member if leave else None
    observations = leave.observations if leave else with_image(view.observations, wish.image_archive)
    if wish.operation == RENEW:
        observations = only_certificates(observations)
    is_rotating = bool(rotation_of(cluster, observations).phase)
    decision, problems, warnings = decided(view, observations, wish, leave, is_rotating)
    observations = with_reasons(observations, own_key_reasons(cluster, observations, wish.own_ca))
    signing = signing_of(cluster, observations, wish)
    known = known_addresses(cluster, observations)
    # A member that is only started keeps its manifest, and so its addresses.
    moves = [host for host, former in known.items() if former and host in decision.order]
    problems += moving_problems(cluster, moves, observations)
    wished = wish.downgrade if wish.operation == CONVERGE else ""
    lowered = downgrade(cluster, observations, decision, wished, asker(members, observations))
    problems += lowered.problems
    warnings += lowered.warnings
    upgraded = upgrade(cluster, observations, decision, lowered.target)
    taken = leave.taken if leave else Backup()
    if upgraded.is_due and wish.backup_before_change:
        taken = backup(cluster, observations)
        problems += [replace(problem, stops=(RESTART,)) for problem in taken.problems]
    problems += upgraded.problems
    warnings += upgraded.warnings
    of_members = any(has_run(item) and needs_signing(item) for item in observations.values())
    signs = of_members or (wish.operation == RENEW and signing.is_due(observations))
    outcome = weigh(decision, problems, observations, signs, wish)
    way_out = start_without_problems(cluster, decision, outcome.refusals, observations, wish.limit)
    decision = outcome.decision
    elsewhere = signs_elsewhere(cluster, observations, wish.own_ca)
    if elsewhere:
        warnings += map(note, elsewhere_warnings(observations, wish.signing_dir))
    # A renewed certificate of the CA is copied. Nothing has to be signed for it.
    observations = with_removals(with_renewals(cluster, observations, wish.own_ca), signing.stray)
    if outcome.unsigned:
        signing, moves = Signing(), []
        observations = {
            host: {**item, "reasons": {**item["reasons"], "ca": [], "certificates": []}}
            for host, item in observations.items()
        }
    if upgraded.is_due and not decision.order:
        taken = Backup()
    first = [*taken.steps, *lowered.steps, *(leave.steps if leave else [])]
    steps = make_steps(
        decision,
        observations,
        {member.host: member.name for member in cluster.members},
        **{
            KUBELET: [] if leave or outcome.held else kubelets_before_turns(decision, observations),
            CA: [cluster.ca_host] if signing.makes_ca else [],
            REPLACE_CA: members if decision.action == BOOTSTRAP else broken_ca_hosts(cluster, observations),
            REMOVE_CA_KEY: signing.stray,
            CERTIFICATES: [host for host in members if host in observations] if signing.is_due(observations) else [],
            IMAGE: [] if outcome.held else hosts_with("image", observations),
            RECORD: [] if wish.operation == RENEW else to_record(decision, observations, is_rotating),
            SCHEDULE: hosts_with("backup", observations),
        },
    )
    leading = [host for host, item in observations.items() if item["etcd"].get("leader")]
    steps = [] if outcome.refusals else in_order([*steps, *([] if outcome.held else first)])
    data = {
        **read_off(steps),
        "action": decision.action,
        "state": decision.state,
        "gated": decision.gated,
        "published": decision.published,
        "token": token(observations) if decision.action == BOOTSTRAP else "",
        "known_addresses": known,
        "moves": [host for host in moves if host in decision.order],
        "departing": departing_data(leaving),
        "members": members_after(cluster, leaving, membership(view.observations) or [], wish.operation),
        **watched(cluster, leaving, wish.operation),
        "elsewhere": elsewhere,
        "copied": [],
        "lines": plan_lines(cluster, decision, steps, leading, upgraded.lines, wish.stages),
        "speaker": next(
            iter(item for item in members if not leaving or item != leaving.host or wish.operation == REPLACE), None
        ),
        "asker": asker(members, observations),
        "problems": merged([*outcome.refusals, *way_out]),
        "held": merged(outcome.held),
        "notices": merged([*warnings, *taken.warnings, *decision.warnings, *outcome.warnings]),
    }
    return {**data, **finish(data, observations, wish)}


def decided(
    view: View,
    observations: Observations,
    wish: Wish,
    leave: Leave | None,
    is_rotating: bool,
) -> tuple[Decision, list[Problem], list[Problem]]:
    """What happens to the members, and the problems and warnings of the cluster. leave: as for plan."""
    cluster = view.cluster
    problems, warnings = judge(cluster, observations, wish)
    if leave and wish.operation == REMOVE:
        # Its host is only cleared.
        problems = [
            problem
            for problem in problems
            if problem in cluster.problems or not problem.host or problem.host != leave.member.host
        ]
    lacking = [observations[host]["config"]["image"] for host in hosts_with("image", observations)]
    problems += problems_of("image-archive", view.archive_problems(lacking) if wish.image_archive else ())
    problems += problems_of("external-file", external_problems(cluster.name, wish.external_file, wish.external_files))
    # Also if the only member that answers is the one that leaves.
    there = attendance_problems(view, wish.limit, exists(view.observations))
    if cluster.problems or there:
        return Decision(REFUSE), [*problems, *there], warnings
    problems += ca_problems(cluster, observations, wish.own_ca)
    decision = leave.decision if leave else decide(cluster, observations, wish.allow_interruption)
    if wish.operation == RENEW:
        decision = without_restarts(cluster, decision)
    warnings += map(note, alarm_warnings(cluster, observations))
    warnings += rotation_notes(cluster, observations)
    # What members have loaded is not what ca.crt holds then.
    if not is_rotating:
        warnings += map(note, trust_warnings(observations))
    warnings += map(note, key_warnings(cluster, observations, wish.own_ca))
    return decision, problems, warnings


@dataclass(frozen=True)
class Signing:
    """Whether a CA is made or brought in, and hosts whose copy of its key is removed."""

    makes_ca: bool = False
    stray: list[str] = field(default_factory=list)

    def is_due(self, observations: Observations) -> bool:
        """Whether certificates are issued, or repaired."""
        return self.makes_ca or bool(self.stray or hosts_with("certificates", observations))


def signing_of(cluster: Cluster, observations: Observations, wish: Wish) -> Signing:
    """What happens to the CA."""
    signer = observations.get(cluster.ca_host)
    makes_ca = brings_in(cluster, observations, wish.own_ca) or bool(signer and signer["reasons"]["ca"])
    return Signing(makes_ca, stray_ca_keys(cluster, observations) if wish.remove_stray_ca_keys else [])


def hosts_with(part: str, observations: Observations) -> list[str]:
    """Hosts whose part differs from what is wanted."""
    return [host for host, item in observations.items() if item["reasons"].get(part)]


def finish(plan: Mapping[str, Any], observations: Observations, wish: Wish) -> dict[str, Any]:
    """Whether the run ends with its plan, because nothing is to be done and all members are healthy; and the table of the members then."""
    tables = [
        seen["table"] for item in observations.values() if (seen := item.get("health")) and seen["verdict"] == "healthy"
    ]
    if not (plan["settled"] and tables) or plan["held"] or plan["problems"] or wish.external_file:
        return {"finished": False, "table": []}
    return {"finished": True, "table": tables[0]}


def kubelets_before_turns(decision: Decision, observations: Observations) -> list[str]:
    """Hosts that join and have nothing of a member yet, so that their kubelets can be started at once. The turn sees whether they last.

    With a manifest, the kubelet would start etcd before its turn. With packages to install, the turn starts another kubelet.
    """
    return [
        host
        for host in hosts_with("kubelet", observations)
        if host in decision.order and host in decision.join
        if not observations[host]["facts"]["etcd_manifest"] and not observations[host]["reasons"].get("packages")
    ]


def token(observations: Observations) -> str:
    """The initial-cluster-token of a cluster that is being founded, the same on all hosts.

    The token of a killed first run is kept. Otherwise it is made of random numbers of all hosts, so the ids of the cluster differ from those of an
    earlier one at the same addresses (etcd makes them of peer URLs and token: server/etcdserver/api/membership/member.go).
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


def to_record(decision: Decision, observations: Observations, is_rotating: bool) -> list[str]:
    """Hosts whose record is written at the end of the run: if it differs, and if this run founds or starts their member.

    is_rotating: the CA is being replaced, and the rotation records it when it is the CA of all members.
    """

    def is_another(etcd: Mapping[str, Any]) -> bool:
        """Whether a record names another member than the present and the wanted one: the member was restored, or added again."""
        record = etcd.get("record")
        return not record or any(record[key] != etcd.get(key) for key in ("cluster_id", "member_id"))

    return [
        host
        for host, observation in observations.items()
        if any(reason["code"] != "ca" or not is_rotating for reason in observation["reasons"].get("record", []))
        or (host in [*decision.start, *decision.order] and is_another(observation["etcd"]))
    ]


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
            f"{', '.join(moves)} would get another address, and then new certificates, which need the CA host: run again with {cluster.ca_host}, or"
            " without --limit.",
            (START, RESTART),
            code="ca-host-absent",
        )
    ]


def image_reasons(observation: Observation, archive: str) -> list[Reason]:
    """Why the image archive has to be imported on a host: its runtime lacks the image that it is to run. archive: '' for none."""
    image = observation["config"].get("image")
    if not archive or not image or image in (observation["images"] or []):
        return []
    return [Reason("image", "missing", f"{image}: missing, imported from {archive}")]


def only_certificates(observations: Mapping[str, Observation]) -> dict[str, Observation]:
    """Observations without the parts that a run which only issues certificates does not change."""
    parts = ("ca", "certificates")
    return {
        host: {
            **item,
            "reasons": {part: reasons if part in parts else [] for part, reasons in item["reasons"].items()},
        }
        for host, item in observations.items()
    }
