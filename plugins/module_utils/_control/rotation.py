# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""In which phase of a rotation of the CA a cluster is, read from its hosts: files, what each process has loaded, and who has signed. Pure.

    new     a CA is beside the one in use, on the CA host
    trust   ca.crt holds both on every host, and every process has loaded both
    issue   the new CA signs, and has signed every certificate
    drop    ca.crt holds the new CA only, and every process has loaded that only

In an emergency, `cut` stands for the last three (emergency.py).

A phase is over when all hosts have its result. So the next run finishes a killed one, and no file records the phase.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ansible_collections.kubeadm.etcd.plugins.module_utils._control.cluster import Cluster
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.steps import EXCHANGE_CA, RECORD, TURN, Step
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.problems import Problem, note
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.reasons import Reason

if TYPE_CHECKING:
    # Python 3.8 cannot evaluate them.
    Observation = Mapping[str, Any]
    Observations = Mapping[str, Observation]

NEW, TRUST, ISSUE, DROP = PHASES = ("new", "trust", "issue", "drop")
# Phases of emergency.py and renew_ca.py.
CUT, RENEW, LOAD = OTHER_PHASES = ("cut", "renew", "load")

# How a kube-apiserver is brought to read ca.crt: it does so when it starts (k8s.io/apiserver, storagebackend/factory/etcd3.go).
RESTART_APISERVER = "end it (`pkill -x kube-apiserver`; the kubelet starts it again), and wait until it is ready."

# How long after a rotation another run finishes that one, and begins no further one: a day.
SETTLES = 86400.0


@dataclass(frozen=True)
class Host:
    """A host with a ca.crt: of a member, or of a kube-apiserver.

    cas: ids of the CAs in ca.crt, in order. loaded: those that its process trusts; None if it does not run, or does not say.
    leaves: who has signed each of its certificates, '' for none of these CAs.
    """

    name: str
    cas: tuple[str, ...]
    loaded: frozenset[str] | None = None
    leaves: tuple[str, ...] = ()


@dataclass(frozen=True)
class Rotation:
    """A rotation. phase: the one that comes next, '' if there is none to finish. old, new: ids of the CAs. ca: what ca.crt holds after the phase.

    write, restart, issue: hosts whose ca.crt, process and certificates are not as the phase leaves them. exchange: whether the new CA has to be put
    in the place of the old one on the CA host. unknown: hosts whose ca.crt holds a CA that is no part of a rotation. recent: ended within a day.
    is_cut: an emergency has begun to drop the old CA before most members trust the new one.
    """

    phase: str = ""
    old: str = ""
    new: str = ""
    ca: tuple[str, ...] = ()
    write: list[str] = field(default_factory=list)
    restart: list[str] = field(default_factory=list)
    issue: list[str] = field(default_factory=list)
    exchange: bool = False
    unknown: list[str] = field(default_factory=list)
    recent: bool = False
    is_cut: bool = False


def phase_of(signer: tuple[str, ...], next_ca: str, former: Mapping[str, float], hosts: Iterable[Host]) -> Rotation:
    """The phase that comes next. signer: CAs in ca.crt of the CA host. next_ca: that beside it, '' for none.

    former: CAs that the CA host had before, with their age in seconds. Only with one of these, or with next_ca, a second CA in a ca.crt is that
    of a rotation: otherwise it was put there by hand.
    """
    hosts = list(hosts)
    recent = any(age < SETTLES for age in former.values())
    if not signer:
        return Rotation()
    first = signer[0]
    held = {ca for host in hosts for ca in (*host.cas, *(host.loaded or ()))} | {*signer}
    if next_ca and next_ca != first:
        old, new = first, next_ca
    else:
        # First the CAs of the CA host: another host may still have an earlier certificate.
        new = first
        old = next((ca for ca in [*signer, *sorted(held, key=lambda ca: former.get(ca, 0.0))] if ca in former), "")
        old = old if old in held else ""
    unknown = [host.name for host in hosts if {*host.cas} - {old, new}]
    if unknown or not (old and new):
        return Rotation(unknown=unknown, recent=recent)
    both = {old, new}
    is_new = all(leaf == new for host in hosts for leaf in host.leaves)
    bundle = (new, old) if new == first else (old, new)

    is_cut = has_been_cut(new, hosts)

    def made(phase: str, ca: tuple[str, ...], write: list[str], restart: list[str], **more: Any) -> Rotation:
        return Rotation(phase, old, new, ca, write, restart, recent=recent, is_cut=is_cut, **more)

    if not is_new or new != first:
        write = [host.name for host in hosts if {*host.cas} != both]
        restart = [host.name for host in hosts if host.loaded is None or not both <= host.loaded]
        if write or restart:
            return made(TRUST, bundle, write, restart)
        issue = [host.name for host in hosts if any(leaf != new for leaf in host.leaves)]
        exchange = new != first or next_ca == first
        return made(ISSUE, (new, old), [], [], issue=issue, exchange=exchange)
    if next_ca:
        return made(ISSUE, (new, old), [], [], exchange=True)
    # A process that has not loaded the new CA would reject the others.
    blind = [host.name for host in hosts if host.loaded is not None and new not in host.loaded]
    write = [host.name for host in hosts if host.cas != (new,)]
    restart = [host.name for host in hosts if host.loaded is None or host.loaded != {new}]
    if blind:
        return made(TRUST, bundle, [host.name for host in hosts if {*host.cas} != both], blind)
    return made(DROP, (new,), write, restart) if write or restart else Rotation(recent=recent)


def has_been_cut(new: str, hosts: Iterable[Host]) -> bool:
    """Whether a ca.crt holds the new CA only, although as many processes do not trust it as do: with phases, all trust it before."""
    hosts = list(hosts)
    trusting = [new in host.loaded for host in hosts if host.loaded]
    return any(host.cas == (new,) for host in hosts) and not all(trusting) and 2 * sum(trusting) <= len(trusting)


def phases_left(rotation: Rotation, until: str) -> list[str]:
    """The phases that a run has to carry out, up to the one that it ends with. None if a rotation has just ended."""
    if not rotation.phase and rotation.recent:
        return []
    begin = PHASES.index(rotation.phase or NEW)
    end = PHASES.index(until or DROP)
    return list(PHASES[begin : end + 1])


# --- What the hosts show -----------------------------------------------------------------------------------------------


def cas_in(pki: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """CAs in the ca.crt of a host, the one that signs first."""
    return list(pki.get("cas") or [])


def cas_beside(pki: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """CAs that a host has beside those in ca.crt, which only a rotation makes: the next one, and former ones."""
    return [*([pki["next_ca"]] if pki.get("next_ca") else []), *(pki.get("former_cas") or [])]


def known_cas(observations: Observations) -> dict[str, Mapping[str, Any]]:
    """All CAs that hosts have, by id."""
    found = {}
    for item in observations.values():
        pki = item.get("pki") or {}
        for ca in [*cas_in(pki), *cas_beside(pki)]:
            found[ca["id"]] = ca
    return found


def member_host(host: str, observation: Observation, cas: Mapping[str, Mapping[str, Any]]) -> Host:
    """A member. What it has loaded is what it says itself."""
    ids = {ca["name"]: identity for identity, ca in cas.items()}
    told = observation["etcd"].get("trusted")
    loaded = None if told is None else frozenset(ids.get(name, name) for name in told)
    return Host(host, ids_in(observation), loaded, leaves_of(observation))


def plane_host(host: str, observation: Observation) -> Host:
    """A control plane host. kube-apiserver does not say what it has loaded: it reads ca.crt when it starts, so the later one counts."""
    pki, seen = observation["pki"], observation.get("apiserver")
    cas = ids_in(observation)
    is_read = not (seen and seen.get("started")) or seen["started"] > pki.get("ca_written", 0.0)
    return Host(host, cas, frozenset(cas) if is_read else frozenset(), leaves_of(observation))


def ids_in(observation: Observation) -> tuple[str, ...]:
    """Ids of the CAs in the ca.crt of a host."""
    return tuple(ca["id"] for ca in cas_in(observation["pki"]))


def leaves_of(observation: Observation) -> tuple[str, ...]:
    """The CA that has signed each certificate of a host."""
    return tuple(str(item.get("ca_id") or "") for item in observation["pki"].get("certificates", []))


def rotation_of(cluster: Cluster, observations: Observations, planes: Iterable[str] = ()) -> Rotation:
    """The rotation of a cluster. planes: its control plane hosts among the observed ones."""
    signer = (observations.get(cluster.ca_host) or {}).get("pki") or {}
    cas, planes = known_cas(observations), list(planes)
    members = [member.host for member in cluster.members if (observations.get(member.host) or {}).get("pki")]
    hosts = [member_host(host, observations[host], cas) for host in members]
    # One without a certificate of the cluster gets what is right then.
    hosts += [
        plane_host(host, observations[host]) for host in planes if host in observations and ids_in(observations[host])
    ]
    next_ca = (signer.get("next_ca") or {}).get("id", "")
    former = {ca["id"]: float(ca["age"]) for ca in signer.get("former_cas") or []}
    return phase_of(tuple(ca["id"] for ca in cas_in(signer)), next_ca, former, hosts)


# --- What it means for other operations ---------------------------------------------------------------------------------


def rotation_notes(cluster: Cluster, observations: Observations, planes: Iterable[str] = ()) -> list[Problem]:
    """Warnings about a rotation that is not over, and about CAs in a ca.crt that are no part of one."""
    rotation, cas = rotation_of(cluster, observations, planes), known_cas(observations)
    found = []
    if rotation.phase:
        names = [cas[item]["subject"] for item in (rotation.old, rotation.new)]
        text = f"the CA of cluster {cluster.name!r} is being replaced: {names[0]} by {names[1]}. This run does not continue it. Run rotate_ca.yml to finish it."
        found.append(note(text))
    for host in rotation.unknown:
        others = ", ".join(str(ca["subject"]) for ca in cas_in(observations[host]["pki"])[1:])
        if others:
            text = (
                f"etcd/ca.crt also contains {others}: every client with a certificate of these CAs may read and write all data. If that is not intended,"
                " leave only the signing certificate in the file."
            )
            found.append(note(text, host))
    return found


def has_former_ca(pki: Mapping[str, Any], signer: Mapping[str, Any]) -> bool:
    """Whether a host has only the CA that the CA host had before: a rotation went on without it."""
    former = {ca["id"] for ca in signer.get("former_cas") or []}
    ids = {ca["id"] for ca in cas_in(pki)}
    return bool(ids) and ids <= former and not ids & {ca["id"] for ca in cas_in(signer)}


def plane_trust_reasons(hosts: Iterable[str], signer: Observation, observations: Observations) -> dict[str, Reason]:
    """Control plane hosts whose ca.crt has to follow that of the CA host: it lacks a CA, or has one that was replaced."""
    of_signer = cas_in(signer["pki"])
    wanted, former = {ca["id"] for ca in of_signer}, {ca["id"] for ca in signer["pki"].get("former_cas") or []}
    text = f"etcd/ca.crt: holds {' and '.join(str(ca['subject']) for ca in of_signer)}"
    found = {}
    for host in hosts:
        ids = {ca["id"] for ca in cas_in(observations[host]["pki"])}
        if ids and (wanted - ids or (ids - wanted) & former):
            found[host] = Reason("certificates", "trust", text)
    return found


def waiting_planes(cluster: Cluster, observations: Observations, planes: Iterable[str]) -> list[str]:
    """Control plane hosts whose kube-apiserver was started before a ca.crt of a rotation was written."""
    there = [host for host in planes if host in observations]
    if not rotation_of(cluster, observations, there).phase:
        return []
    return [host for host in there if plane_host(host, observations[host]).loaded == frozenset()]


def plane_leaf_reasons(hosts: Iterable[str], signer: Observation, observations: Observations) -> dict[str, Reason]:
    """Control plane hosts with a certificate of a CA that does not sign any more, while or after it was replaced."""
    of_signer = cas_in(signer["pki"])
    former = {ca["id"] for ca in [*of_signer[1:], *(signer["pki"].get("former_cas") or [])]}
    if not of_signer or signer["pki"].get("next_ca"):
        return {}
    text = f"apiserver-etcd-client.crt: issued again, by {of_signer[0]['subject']}"
    return {
        host: Reason("certificates", "other-ca", text)
        for host in hosts
        if any(leaf in former - {of_signer[0]["id"]} for leaf in leaves_of(observations[host]))
    }


def signer_has_key(signer: Mapping[str, Any], ca: Mapping[str, Any]) -> bool:
    """Whether the CA host has the key of a new CA. signer: its pki. ca: as known_cas has it; beside the one in use, or in its place already."""
    beside = signer.get("next_ca")
    return bool(beside["has_key"]) if beside else signer.get("ca_public_key") == ca["key"]


# --- Steps of every way to another CA ---------------------------------------------------------------------------------


def exchange_step(cluster: Cluster, ca: Mapping[str, Any]) -> Step:
    """A CA that is beside the one in use signs from now on."""
    names = {member.host: member.name for member in cluster.members}
    text = f"etcd/ca.key: {ca['subject']} signs from now on"
    return Step(EXCHANGE_CA, names[cluster.ca_host], cluster.ca_host, None, (Reason("ca", "exchanged", text),))


def record_steps(cluster: Cluster, observations: Observations, ca: Mapping[str, Any]) -> list[Step]:
    """Records that do not name a CA yet."""
    steps = []
    for member in cluster.members:
        before = (observations[member.host]["etcd"].get("record") or {}).get("ca", "")
        if before != ca["key"]:
            reason = Reason("record", "ca", f"member.json: ca: {before} -> {ca['key']}")
            steps.append(Step(RECORD, member.name, member.host, None, (reason,)))
    return steps


def turn_steps(cluster: Cluster, observations: Observations, hosts: list[str], text: str) -> list[Step]:
    """Members that restart for a CA, one after the other, the leader last. text: why."""
    reasons = (Reason("manifest", "ca", text, restarts=True),)
    members = [member for member in cluster.members if member.host in hosts]
    order = sorted(members, key=lambda member: bool(observations[member.host]["etcd"].get("leader")))
    return [Step(TURN, member.name, member.host, turn, reasons) for turn, member in enumerate(order, 1)]
