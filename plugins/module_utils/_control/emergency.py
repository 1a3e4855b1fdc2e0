# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A new CA at once: no member ever trusts two. All certificates are signed first; then every member gets them with the new ca.crt, and restarts.

For a CA whose key is stolen, and for a ca.crt that was put on the hosts by hand and that no running member trusts. It costs the quorum for some seconds:
members that trust different CAs reject each other. What is left to do is read from the hosts, as that of a rotation. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ansible_collections.kubeadm.etcd.plugins.module_utils._control.cluster import Cluster
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.rotation import (
    CUT,
    NEW,
    Host,
    Rotation,
    cas_in,
    exchange_step,
    known_cas,
    member_host,
    record_steps,
    signer_has_key,
)
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.steps import (
    CERTIFICATES,
    START,
    Step,
)
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.problems import Problem, note
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.reasons import Reason

if TYPE_CHECKING:
    # Python 3.8 cannot evaluate them.
    Observation = Mapping[str, Any]
    Observations = Mapping[str, Observation]

# What the emergency itself repairs, or is about.
BEGUN = "emergency-begun"
ACCEPTED = (BEGUN, "former-ca", "ca-trust", "ca-exchanged", "ca-differs", "own-ca-differs")


@dataclass(frozen=True)
class Cut:
    """target: id of the CA that all members get, '' if it has to be made. by_hand: it was put on the CA host by hand, and no member trusts it.

    exchange: whether it is beside the CA in use. issue, restart: hosts whose files and process are not those of the target. is_over: nothing is left.
    """

    target: str = ""
    by_hand: bool = False
    exchange: bool = False
    issue: list[str] = field(default_factory=list)
    restart: list[str] = field(default_factory=list)

    @property
    def phases(self) -> list[str]:
        """The phases that are left."""
        if not self.target:
            return [NEW, CUT]
        return [CUT] if self.exchange or self.issue or self.restart else []


def loaded_host(host: str, observation: Observation, cas: Mapping[str, Mapping[str, Any]]) -> Host:
    """A member. One that refuses certificates of its ca.crt has loaded none of these CAs, whatever the names are of what it trusts."""
    found = member_host(host, observation, cas)
    refuses = found.loaded is not None and observation["etcd"].get("trusts") == "former"
    return Host(host, found.cas, frozenset() if refuses else found.loaded, found.leaves)


def cut_of(cluster: Cluster, observations: Observations, rotation: Rotation) -> Cut:
    """What is left to do. rotation: where the cluster is, as other runs see it."""
    signer = (observations.get(cluster.ca_host) or {}).get("pki") or {}
    cas = known_cas(observations)
    hosts = [
        loaded_host(member.host, observations[member.host], cas)
        for member in cluster.members
        if (observations.get(member.host) or {}).get("pki")
    ]
    first = next((ca["id"] for ca in cas_in(signer)), "")
    beside = (signer.get("next_ca") or {}).get("id", "")
    by_hand = bool(first) and not beside and not rotation.phase and not is_in_use(first, hosts, observations, cas)
    is_first = by_hand or rotation.recent or rotation.new == first
    target = beside or (first if is_first else "")
    if not target:
        return Cut()
    issue = [host.name for host in hosts if host.cas != (target,) or any(leaf != target for leaf in host.leaves)]
    restart = [host.name for host in hosts if host.loaded != frozenset([target])]
    return Cut(target, by_hand, bool(beside), issue, restart)


def is_in_use(ca: str, hosts: Iterable[Host], observations: Observations, cas: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether a running member trusts a CA, or, if none runs, a record names it."""
    loaded = [host.loaded for host in hosts if host.loaded is not None]
    if loaded:
        return any(ca in item for item in loaded)
    records = [(item["etcd"].get("record") or {}).get("ca") for item in observations.values()]
    return cas[ca]["key"] in records or not any(records)


def consent_problems(cluster: Cluster, given: str, planes: list[str], names: str) -> list[Problem]:
    """What an emergency costs, unless the cluster is named, or the interruption is allowed. given: the value of etcd_ca_compromised."""
    if given == cluster.name:
        return []
    text = (
        f"etcd_ca_compromised is {given!r}, and this is cluster {cluster.name!r}. {price(cluster, planes, names)} To do it, name the cluster: -e"
        f" etcd_ca_compromised={cluster.name}"
    )
    return [Problem(text, code="not-named")]


def by_hand_problem(cluster: Cluster, planes: list[str], subject: str) -> Problem:
    """That no member trusts the CA on the CA host, and the two ways out."""
    text = (
        f"no running member of cluster {cluster.name!r} trusts the ca.crt of {cluster.ca_host} ({subject}): it was exchanged while etcd runs. If the former"
        f" ca.crt and ca.key still exist, put them back (ca.crt on every member, ca.key on {cluster.ca_host}) and run site.yml: nothing restarts."
        f" Otherwise keep this CA. {price(cluster, planes, subject)} To do it: -e etcd_allow_interruption=true"
    )
    return Problem(text, code="ca-by-hand")


def begun_problem(cluster: Cluster) -> Problem:
    """That an emergency has begun and is not over: until then, members reject each other."""
    text = (
        f"the emergency replacement of the CA of cluster {cluster.name!r} is not finished: hosts have the new CA, and members do not trust it yet. Finish it"
        f" first: rotate_ca.yml -e etcd_ca_compromised={cluster.name}"
    )
    return Problem(text, code=BEGUN)


def price(cluster: Cluster, planes: list[str], subject: str) -> str:
    """What it costs."""
    return (
        f"All {len(cluster.members)} members restart at the same time and then trust only {subject}, so the cluster has no quorum for some 15 seconds."
        f" From then on, members refuse every client until it trusts this CA and has a certificate of it: {clients(planes)}."
    )


def clients(planes: list[str]) -> str:
    """The clients that the members refuse afterwards."""
    known = (
        f"kube-apiserver on {', '.join(planes)} (control_plane.yml -e etcd_update_apiserver=true), and "
        if planes
        else ""
    )
    return f"{known}all clients outside of the inventory"


def member_problems(cluster: Cluster, observations: Observations) -> list[Problem]:
    """Members that were not observed: with only the former CA, the others would reject them."""
    text = (
        "this host is not part of the run, or could not be observed. Its member would keep the former CA: the others would reject it, and it would still"
        " serve every client with a certificate of that CA. Run again with this host, or remove its member first, while the cluster has a quorum:"
        " remove_member.yml"
    )
    return [
        Problem(f"{text} -e etcd_member={member.name}", host=member.host, code="absent")
        for member in cluster.members
        if member.host not in observations
    ]


def key_problems(cluster: Cluster, observations: Observations, cut: Cut, own_ca: Mapping[str, Any]) -> list[Problem]:
    """Why the target cannot sign."""
    if not cut.phases or not cut.target or own_ca.get("id") == cut.target:
        return []
    if signer_has_key(observations[cluster.ca_host]["pki"], known_cas(observations)[cut.target]):
        return []
    name = "ca-next.key" if cut.exchange else "ca.key"
    text = (
        f"/etc/kubernetes/pki/etcd/{name} is not the key of {known_cas(observations)[cut.target]['subject']}, which has to sign. Put the key of that CA there,"
        " or set etcd_ca_cert and etcd_ca_key to that CA."
    )
    return [Problem(text, host=cluster.ca_host, code="ca-key-missing")]


def cut_steps(cluster: Cluster, observations: Observations, cut: Cut) -> list[Step]:
    """The new CA on all members, and their restart at the same time."""
    names = {member.host: member.name for member in cluster.members}
    ca = known_cas(observations)[cut.target]
    steps = [exchange_step(cluster, ca)] if cut.exchange else []
    text = f"etcd/ca.crt: holds only {ca['subject']}, which issues all certificates again, over the same keys"
    steps += [
        Step(CERTIFICATES, names[host], host, None, (Reason("certificates", "other-ca", text),)) for host in cut.issue
    ]
    text = f"etcd: is restarted at the same time as the others, to trust {ca['subject']}, and no other CA"
    steps += [
        Step(START, names[host], host, None, (Reason("manifest", "ca", text, restarts=True),)) for host in cut.restart
    ]
    return [*steps, *record_steps(cluster, observations, ca)]


def run_lines(cluster: Cluster, cut: Cut, subject: str) -> list[str]:
    """A run for people."""
    if not cut.phases:
        return [
            f"cluster {cluster.name}: its CA was replaced less than a day ago, and every member trusts only {subject}. To replace it again, first move the"
            f" directory /etc/kubernetes/kubeadm-etcd/former-ca on {cluster.ca_host} away"
        ]
    return [f"cluster {cluster.name}: its CA is replaced at once by {subject}, in the phases {', '.join(cut.phases)}"]


def warnings(cluster: Cluster, cut: Cut, planes: list[str], subject: str) -> list[Problem]:
    """The price, as a warning before the run."""
    return [note(price(cluster, planes, subject))] if cut.phases else []
