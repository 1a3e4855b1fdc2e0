# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The operation hand_over: what the control plane hosts of a cluster get."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ansible_collections.kubeadm.etcd.plugins.module_utils._control.apiserver import (
    current_members,
    follow,
    membership_of,
)
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.authority import (
    ca_problems,
    renewal_reasons,
    signs_elsewhere,
)
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.cluster import (
    Cluster,
)
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.control_plane import KIND, Client
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.plan import apart_plan
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.preflight import (
    CLOCK_PROBLEM,
    NOT_REACHED,
    clock_spread,
    kubeadm_problems,
    unknown_address_problems,
    version_range_warnings,
)
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.renew_ca import planes_before
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.rotation import (
    RESTART_APISERVER,
    cas_in,
    has_former_ca,
    plane_leaf_reasons,
    plane_trust_reasons,
    rotation_notes,
    waiting_planes,
)
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.steps import (
    CERTIFICATES,
    HAND_OVER,
    Step,
    reasons_of,
)
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.view import View
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.wish import Wish
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.members import Member
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.problems import Problem, merged, note, problems_of
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.reasons import Reason

if TYPE_CHECKING:
    # Python 3.8 cannot evaluate them.
    Observation = Mapping[str, Any]
    Observations = Mapping[str, Observation]


@dataclass(frozen=True)
class HandOver:
    """What the control plane hosts of a cluster still need. problems: what stops the handover. held: what keeps kube-apiserver as it is.

    due: hosts that need a certificate. copied: hosts whose key another host has too. turns: see Follow. members: whom kube-apiserver asks.
    replace_ca: hosts whose ca.crt holds no CA of the cluster any more, but a former one. first_ca_only: whether they follow a rotation of the CA.
    """

    due: list[str]
    copied: list[str]
    elsewhere: bool
    problems: list[Problem]
    warnings: list[Problem]
    steps: list[Step]
    lines: list[str]
    members: list[Member]
    turns: list[dict[str, Any]] = field(default_factory=list)
    held: list[Problem] = field(default_factory=list)
    replace_ca: list[str] = field(default_factory=list)
    first_ca_only: bool = False


def hand_over(
    cluster: Cluster,
    clients: list[Client],
    observations: Mapping[str, Observation],
    own_ca: Mapping[str, Any],
    lost: list[str],
    signing_dir: str = "",
) -> HandOver:
    """What the control plane hosts of this run need.

    observations: by host, of the control plane hosts and of the CA host. own_ca: the user's own CA from the inventory. lost: hosts that
    failed in this run.
    """
    hosts = [client.host for client in clients if client.host in observations]
    signer = observations.get(cluster.ca_host)
    copied = copied_keys(hosts, cluster.ca_host, observations)
    reasons = {host: list(observations[host]["reasons"]["certificates"]) for host in hosts}
    for host, other in copied.items():
        text = f"{KIND}.crt: issued again with a new key, because {other} has the same key"
        reasons[host].append(Reason("certificates", "copied", text).as_dict())
    trusted = plane_trust_reasons(hosts, signer, observations) if signer else {}
    followed = plane_leaf_reasons(hosts, signer, observations) if signer else {}
    for host, reason in followed.items():
        reasons[host].append(reason.as_dict())
    wanting = [host for host in hosts if reasons[host]]
    renewed = {**renewal_reasons(cluster, observations), **trusted}
    due = [host for host in hosts if reasons[host] or host in renewed]
    problems = [
        *cluster.problems,
        *problems_of("own-ca", own_ca.get("problems", [])),
        *unknown_address_problems(cluster),
    ]
    warnings: list[Problem] = []
    elsewhere = False
    for host in hosts:
        problems += host_problems(host, observations[host])
        noticed = [*version_range_warnings(observations[host]["facts"]), *observations[host]["pki"].get("warnings", [])]
        warnings += [note(text, host) for text in noticed]
    if signer is not None:
        problems += signer_problems(cluster, signer)
        for host in hosts:
            texts = [
                *foreign_problems(cluster, observations[host]["pki"], signer["pki"]),
                *way_problems(cluster, observations[host], signer),
            ]
            problems += [Problem(text, host=host, code="control-plane-host") for text in texts]
        warnings += [note(text, cluster.ca_host) for text in signer["pki"].get("warnings", [])]
        warnings += rotation_notes(cluster, observations, hosts)
        elsewhere = signs_elsewhere(cluster, observations, own_ca)
    facts = {host: observation["facts"] for host, observation in observations.items()}
    spread, fastest, slowest = clock_spread(facts)
    if spread > CLOCK_PROBLEM:
        problems.append(
            Problem(
                f"the clocks of {slowest} and {fastest} are {spread:.0f} s apart. A certificate issued on one could be not yet valid on the"
                " other. Set up time synchronisation (chrony, systemd-timesyncd).",
                code="clocks",
            )
        )
    if cluster.ca_host in lost and wanting:
        problems.append(
            Problem(
                f"{', '.join(wanting)}: a new certificate is due, and the CA host {cluster.ca_host}, which issues it, cannot be reached, could not be"
                " observed, or has failed earlier in this run (see above). Repair it, or set etcd_ca_host to another member that has ca.key.",
                code="ca-host-absent",
            )
        )
    elif not cluster.problems and not (signer and signer["facts"]["cryptography_problem"]):
        problems += ca_problems(cluster, as_members(cluster, reasons, observations), own_ca)
    if elsewhere and wanting:
        warnings.append(
            note(
                f"{', '.join(wanting)}: a new certificate is due, and the key of etcd_ca_cert is neither in etcd_ca_key nor on the CA host. The run"
                f" writes the requests to {signing_dir} on the controller, and fails until they are signed."
            )
        )
    names = {client.host: client.name for client in clients}
    steps = [
        Step(
            CERTIFICATES,
            names[host],
            host,
            reasons=(*([renewed[host]] if host in renewed else []), *map(Reason.from_dict, reasons[host])),
        )
        for host in due
    ]
    members = current_members(cluster, membership_of(cluster, observations))
    warnings += map(note, member_warnings(cluster, members))
    waiting = [*waiting_planes(cluster, observations, hosts), *renewed, *planes_before(hosts, observations)]
    outdated = list(dict.fromkeys(waiting))
    following = follow(cluster, {host: names[host] for host in hosts}, observations, outdated)
    warnings += following.warnings
    warnings += [
        note(
            "kube-apiserver reads ca.crt only when it starts, so it does not trust the new content of ca.crt yet. Either run control_plane.yml with"
            f" -e etcd_update_apiserver=true, or restart it by hand: on one control plane host after the other, {RESTART_APISERVER} If the CA is being"
            " replaced, then run rotate_ca.yml again.",
            host,
        )
        for host in outdated
        if observations[host].get("apiserver") and not observations[host]["apiserver"]["updates"]
    ]
    steps += following.steps
    words = (
        "certificates are issued"
        if wanting
        else "the CA's certificate is replaced"
        if due
        else "no certificate has to change"
    )
    details = merged(note(f"{part}: {text}", host) for host, part, text in reasons_of(steps))
    restarts = [step.host for step in following.steps if any(reason.restarts for reason in step.reasons)]
    words += f"; kube-apiserver restarts on {', then '.join(restarts)}" if restarts else ""
    lines = [f"cluster {cluster.name}: handed over to {', '.join(hosts)}; {words}", *details]
    return HandOver(
        due,
        list(copied),
        elsewhere,
        list(dict.fromkeys(problems)),
        warnings,
        steps,
        lines,
        members,
        following.turns,
        following.problems,
        [host for host in trusted if signer and has_former_ca(observations[host]["pki"], signer["pki"])],
        bool(trusted or followed),
    )


def copied_keys(hosts: list[str], ca_host: str, observations: Mapping[str, Observation]) -> dict[str, str]:
    """Control plane hosts with a certificate, and so a key, that another host has too; by host, the other host.

    It was copied by hand, as the page describes. Of the members, only the CA host is compared.
    """
    owners: dict[str, str] = {}
    copied = {}
    for host in [ca_host, *hosts]:
        for item in observations.get(host, {"pki": {}})["pki"].get("certificates", []):
            if item["kind"] == KIND and owners.setdefault(item["serial"], host) != host:
                copied[host] = owners[item["serial"]]
    return copied


def as_members(
    cluster: Cluster, reasons: Mapping[str, list[dict[str, Any]]], observations: Mapping[str, Observation]
) -> dict[str, Observation]:
    """Observations for `ca_problems`, without the certificates that members need, and without the CA that control plane hosts trust."""
    found: dict[str, Observation] = {
        host: {**observations[host], "etcd": {}, "pki": {**observations[host]["pki"], "ca_id": None, "due": None}}
        for host in reasons
    }
    for host, wanted in reasons.items():
        found[host] = {**found[host], "reasons": {"certificates": wanted}}
    if cluster.ca_host in observations:
        signer = observations[cluster.ca_host]
        found[cluster.ca_host] = {
            **signer,
            "pki": {**signer["pki"], "due": None},
            "reasons": {**signer["reasons"], "certificates": []},
        }
    return found


def host_problems(host: str, observation: Observation) -> list[Problem]:
    """Problems of a single control plane host."""
    facts = observation["facts"]
    # The handover does not depend on the version of kubeadm.
    problems = [Problem(text, host=host, code="kubeadm") for text in kubeadm_problems(facts, allow_untested=True)]
    if facts["cryptography_problem"]:
        problems.append(Problem(facts["cryptography_problem"], host=host, code="cryptography"))
    return [*problems, *(Problem.from_dict(item, host) for item in observation["problems"])]


def signer_problems(cluster: Cluster, signer: Observation) -> list[Problem]:
    """Why the cluster cannot be handed over yet."""
    if signer["facts"]["cryptography_problem"]:
        return [Problem(signer["facts"]["cryptography_problem"], host=cluster.ca_host, code="cryptography")]
    if not signer["etcd"].get("formed") and not signer["etcd"].get("members"):
        text = f"cluster {cluster.name!r} does not exist yet: {cluster.ca_host} has no data of it. Run site.yml first."
        return [Problem(text, code="no-cluster")]
    return []


def foreign_problems(cluster: Cluster, pki: Mapping[str, Any], signer: Mapping[str, Any]) -> list[str]:
    """Problems with files of another etcd in kubeadm's places. A kube-apiserver may use them, so none is replaced."""
    wanted = signer.get("ca_id")
    way_out = (
        "The run does not replace it, because a kube-apiserver on this host may use it for another etcd (stacked, or another cluster)."
        " If nothing uses it, move it away. If it is right, correct etcd_cluster_name."
    )
    known = {ca["id"] for ca in [*cas_in(signer), *(signer.get("former_cas") or [])]}
    if wanted and pki.get("ca_id") not in (None, wanted) and pki["ca_id"] not in known:
        return [f"/etc/kubernetes/pki/etcd/ca.crt is not the CA of cluster {cluster.name!r}. {way_out}"]
    for item in pki.get("certificates", []):
        other = item.get("authority_key_id") and signer.get("ca_key_id") not in (None, item["authority_key_id"])
        if item.get("ca_id") and item["ca_id"] in known:
            continue
        if item["kind"] == KIND and ("other-ca" in item["reasons"] or other):
            return [
                f"/etc/kubernetes/pki/{KIND}.crt is signed by another CA ({item['issuer']}), not by that of cluster {cluster.name!r}. {way_out}"
            ]
    return []


def way_problems(cluster: Cluster, observation: Observation, signer: Observation) -> list[str]:
    """Running members that this host cannot reach: a firewall or router in between drops packets."""
    tried, theirs = observation["facts"]["peers"], signer["facts"]["peers"]
    addresses = {member.address: member for member in cluster.members}
    problems = []
    for target in sorted(target for target, state in tried.items() if state in NOT_REACHED):
        address, port = target.split()
        member = addresses.get(address)
        alive = theirs.get(target) == "open" or (
            member and member.host == cluster.ca_host and signer["etcd"].get("ready")
        )
        if member and alive:
            problems.append(
                f"this host cannot reach {member.name} ({address}) on TCP port {port}, although that member runs. Allow the connection: check"
                " the firewalls, the routes and etcd_address."
            )
    return problems


def member_warnings(cluster: Cluster, members: list[Member]) -> list[str]:
    """A warning if members of the inventory do not serve clients, so that their addresses are not handed over. members: those that do."""
    missing = [member.name for member in cluster.members if member not in members]
    if not missing:
        return []
    return [
        f"the endpoints do not contain {', '.join(missing)}: cluster {cluster.name!r} does not have them as voting members. Run site.yml to add them, or"
        " remove them from the inventory."
    ]


def plan(view: View, wish: Wish) -> dict[str, Any]:
    """The plan of a hand-over to control plane hosts: see RETURN of the module etcd_plan. Of the members, the CA host takes part."""
    signer = {host: item for host, item in view.observations.items() if host == view.cluster.ca_host}
    found = hand_over(
        view.cluster, view.clients, {**view.of_clients, **signer}, wish.own_ca, view.lost, wish.signing_dir
    )
    speaker = next(iter(view.of_clients), None)
    return {
        **apart_plan(view, HAND_OVER, found.problems, found.steps, found.lines, found.warnings),
        "apiservers": [] if found.problems else found.turns,
        "members": [{"name": member.name, "address": member.address} for member in found.members],
        "elsewhere": found.elsewhere,
        "copied": found.copied,
        "replace_ca": [] if found.problems else found.replace_ca,
        "first_ca_only": found.first_ca_only,
        "speaker": speaker,
        "asker": speaker,
        "held": merged(found.held),
    }
