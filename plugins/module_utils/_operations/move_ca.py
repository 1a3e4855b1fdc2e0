# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The operation move_ca: ca.key moves to the host that etcd_ca_host names, or an encrypted copy of it is made for a safe.

Runs on the controller, pure, over observations by inventory host. What is left of a run that was killed is read off the hosts:
if two of them have the same key, the CA host proves its own, and the other one is removed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ansible_collections.kubeadm.etcd.plugins.module_utils._control.authority import (
    broken_ca_hosts,
    has_key_of_its_ca,
    lost_key_text,
    trust_problems,
)
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.cluster import Cluster
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.decision import without_cluster
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.judge import attendance_problems
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.plan import apart_plan
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.rotation import rotation_of
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.steps import (
    EXPORT_CA_KEY,
    MOVE_CA,
    RECEIVE_CA_KEY,
    REMOVE_CA_KEY,
    SEND_CA_KEY,
    Step,
    reasons_of,
)
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.view import View, exists
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.wish import Export, Wish
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.problems import Problem, merged, note, problems_of
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.reasons import Reason

if TYPE_CHECKING:
    # Python 3.8 cannot evaluate them.
    Observation = Mapping[str, Any]
    Observations = Mapping[str, Observation]

_KEY = "/etc/kubernetes/pki/etcd/ca.key"


@dataclass(frozen=True)
class CaMove:
    """What is still to be done. problems: why nothing is done."""

    problems: list[Problem]
    steps: list[Step] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)


def one_file_problems(export: Export, clusters: Iterable[str]) -> list[str]:
    """Why several clusters cannot have their copies in one file."""
    names = sorted(set(clusters))
    if not export.file or len(names) < 2:
        return []
    return [
        f"etcd_ca_export names one file, and this run has the clusters {', '.join(names)}. Run again with --limit to the hosts of one cluster,"
        " and a file for each."
    ]


def move_ca(
    cluster: Cluster,
    observations: Observations,
    absent: list[str],
    is_named: bool,
    own_ca: Mapping[str, Any],
    export: Export,
) -> CaMove:
    """What is to be done so that the CA host, and no other host, has the key.

    absent: members without an observation. is_named: whether etcd_ca_host is set. own_ca: the CA that the inventory brings along.
    """
    problems = [*cluster.problems, *problems_of("ca-export", export.problems)]
    target = cluster.ca_host
    for host, observation in observations.items():
        problems += host_problems(host, observation, host == target)
    if problems:
        return CaMove(problems)
    holders = [host for host, item in observations.items() if item["pki"].get("ca_public_key")]
    others = [host for host in holders if host != target]
    problems += key_problems(cluster, observations, absent, holders, own_ca)
    rotation = rotation_of(cluster, observations)
    if rotation.phase or any(item["pki"].get("next_ca") for item in observations.values()):
        text = "a rotation of the CA is not finished. Finish it first: run rotate_ca.yml with the CA host that it began with."
        problems.append(Problem(text, code="rotation"))
    if holders and not problems:
        problems += target_problems(cluster, observations, holders)
    if not is_named and (others or not export.file):
        problems.append(
            Problem(
                f"etcd_ca_host is not set, so {target}, the first host of cluster {cluster.name!r}, is its CA host. Set it in the inventory to the"
                " host that is to have ca.key, and run again.",
                code="ca-host-not-set",
            )
        )
    if problems:
        return CaMove(problems)
    steps = move_steps(cluster, holders, export)
    moving = f"ca.key moves from {', '.join(others)} to {target}" if others else f"ca.key is on {target}"
    if others and target in holders:
        moving = f"ca.key is on {target}, and is removed from {', '.join(others)}"
    details = merged(note(f"{part}: {text}", host) for host, part, text in reasons_of(steps))
    return CaMove([], steps, [f"cluster {cluster.name}: {moving}; nothing restarts", *details])


def host_problems(host: str, observation: Observation, is_target: bool) -> list[Problem]:
    """What is wrong with the PKI of a host, as far as a key could not be read or written there."""
    facts, pki = observation["facts"], observation["pki"]
    if facts["cryptography_problem"]:
        return [Problem(facts["cryptography_problem"], host=host, code="cryptography")]
    problems = [Problem.from_dict(item, host) for item in pki.get("ca_problems", [])]
    if pki.get("ca_key") and not pki.get("ca_public_key") and not is_target:
        text = (
            f"{_KEY} is encrypted, or is not a private key in PEM form. If it is the key of this CA, decrypt it there (openssl pkey). Otherwise move it"
            " away. Then run again."
        )
        problems.append(Problem(text, host=host, code="ca-key-unusable"))
    return problems


def key_problems(
    cluster: Cluster, observations: Observations, absent: list[str], holders: list[str], own_ca: Mapping[str, Any]
) -> list[Problem]:
    """Why it is not known which key is to be moved, or why there is none."""
    target = cluster.ca_host
    if target in absent:
        text = f"the CA host {target} is not part of this run, or cannot be reached. Run again with it."
        return [Problem(text, code="ca-host-absent")]
    foreign = [host for host in holders if not has_key_of_its_ca(observations[host])]
    keys = {observations[host]["pki"]["ca_public_key"] for host in holders}
    if len(keys) > 1:
        theirs = f"Of these, {', '.join(foreign)} have the key of another CA than their ca.crt. " if foreign else ""
        text = (
            f"{', '.join(holders)} have different keys in {_KEY}. {theirs}Move each key that does not belong to cluster {cluster.name!r} to where"
            " its CA is kept, and run again."
        )
        return [Problem(text, code="ca-keys-differ")]
    if foreign:
        text = f"{_KEY} is not the key of the ca.crt there. Put back a copy of ca.crt (every member has one), or move the key to where its CA is kept."
        return [Problem(text, host=host, code="ca-key-foreign") for host in foreign]
    if holders:
        return []
    if absent:
        text = (
            f"no host of this run has {_KEY}, and {', '.join(absent)} are not part of the run, or cannot be reached. If one of them has the key, repair"
            " that host, and run again with it. If that host is lost, and you have a copy of the key in a safe, set etcd_ca_cert and etcd_ca_key to the"
            " copy, and run site.yml."
        )
        return [Problem(text, code="ca-key-absent")]
    if own_ca.get("key"):
        text = f"no host has {_KEY}, and etcd_ca_key is a copy of it. Run site.yml, which writes it to {target}."
        return [Problem(text, code="ca-key-missing")]
    if own_ca.get("fingerprint"):
        text = (
            f"the CA of cluster {cluster.name!r} signs elsewhere (etcd_ca_cert without etcd_ca_key): no host has {_KEY}, so there is"
            " nothing to move or to copy. You can change etcd_ca_host without this playbook."
        )
        return [Problem(text, code="signs-elsewhere")]
    return [Problem(lost_key_text(cluster, observations), code="ca-key-lost")]


def target_problems(cluster: Cluster, observations: Observations, holders: list[str]) -> list[Problem]:
    """Why the CA host cannot use the key: its ca.crt is of another CA, or the members run with another one."""
    target, holder = cluster.ca_host, holders[0]
    wanted, stored = observations[holder]["pki"]["ca_id"], observations[target]["pki"].get("ca_id")
    if stored not in (None, wanted):
        text = (
            f"etcd/ca.crt is another CA than the one whose key is on {holder}. Correct etcd_ca_host, or copy ca.crt from {holder} if it was put here"
            " by mistake."
        )
        return [Problem(text, host=target, code="ca-differs")]
    return trust_problems(cluster, observations, broken_ca_hosts(cluster, observations))


def move_steps(cluster: Cluster, holders: list[str], export: Export) -> list[Step]:
    """Who sends, who receives and proves, where the key is removed, and where the copy is made."""
    target = cluster.ca_host
    names = {member.host: member.name for member in cluster.members}
    others = [host for host in holders if host != target]
    reasons: dict[tuple[str, str], list[Reason]] = {}
    if others and target not in holders:
        reasons[SEND_CA_KEY, others[0]] = []
        text = f"etcd/ca.key: brought here from {others[0]}"
        reasons[RECEIVE_CA_KEY, target] = [Reason("ca", "moved", text)]
    elif others:
        # A run was killed, or the key was copied by hand.
        reasons[RECEIVE_CA_KEY, target] = []
    for host in others:
        text = f"etcd/ca.key: removed when {target} has proven that it has it"
        reasons[REMOVE_CA_KEY, host] = [Reason("ca", "ca-key-removed", text)]
    if export.file:
        what = "the encrypted copy in {} is checked" if export.exists else "an encrypted copy is written to {}"
        text = f"etcd/ca.key: {what.format(export.file + ' on the controller')}"
        reasons[EXPORT_CA_KEY, target] = [Reason("ca", "exported", text)]
    return [Step(kind, names[host], host, None, tuple(found)) for (kind, host), found in reasons.items()]


def plan(view: View, wish: Wish) -> dict[str, Any]:
    """The plan of a run that moves the CA's key: see RETURN of the module etcd_plan."""
    cluster, observations = view.cluster, view.observations
    problems = [
        *attendance_problems(view, wish.limit),
        *problems_of("ca-export", one_file_problems(wish.ca_export, view.clusters)),
    ]
    if not view.absent and not cluster.problems and not exists(observations):
        found = CaMove([without_cluster(cluster)])
    else:
        found = move_ca(cluster, observations, view.absent, bool(wish.ca_host), wish.own_ca, wish.ca_export)
    return apart_plan(view, MOVE_CA, [*problems, *found.problems], found.steps, found.lines)
