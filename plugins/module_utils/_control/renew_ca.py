# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Another certificate of the CA in use, over the same key: all that the CA has signed stays valid, and each member restarts once, to load it.

    renew   the CA host has the new certificate
    load    ca.crt is that certificate on every member, and every etcd was started since

Read from the hosts, as the phases of a rotation. A process does not say which certificate of a CA it has loaded: it reads ca.crt when it starts, so the
later one counts. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from ansible_collections.kubeadm.etcd.plugins.module_utils._control.authority import renewal_reasons
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.cluster import Cluster
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.rotation import LOAD, RENEW, SETTLES, turn_steps
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.steps import RENEW_CA, TRUST_CA, Step
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.problems import Problem
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.reasons import Reason

if TYPE_CHECKING:
    # Python 3.8 cannot evaluate them.
    Observation = Mapping[str, Any]
    Observations = Mapping[str, Observation]


@dataclass(frozen=True)
class Renewal:
    """makes: whether the CA host has to get a certificate. write, restart: hosts whose ca.crt and process are not those of the CA host's certificate."""

    makes: bool = False
    write: list[str] = field(default_factory=list)
    restart: list[str] = field(default_factory=list)

    @property
    def phases(self) -> list[str]:
        """The phases that are left."""
        return [RENEW, LOAD] if self.makes else [LOAD] if self.write or self.restart else []


def is_same_ca(cluster: Cluster, observations: Observations, own_ca: Mapping[str, Any]) -> bool:
    """Whether the CA of the inventory is the one in use, in this certificate or in another one."""
    pki = (observations.get(cluster.ca_host) or {}).get("pki") or {}
    return bool(own_ca.get("fingerprint")) and own_ca.get("id") == pki.get("ca_id")


def renewal_of(cluster: Cluster, observations: Observations, own_ca: Mapping[str, Any]) -> Renewal:
    """What is left to do. own_ca: a certificate of the CA in use; if there is none, one is made if it would last longer by a day."""
    pki = observations[cluster.ca_host]["pki"]
    given = own_ca.get("not_after")
    makes = bool(given > pki["ca_not_after"]) if given else pki["ca_gain"] > SETTLES
    members = [member.host for member in cluster.members if member.host in observations]
    write = [host for host in renewal_reasons(cluster, observations) if host in members]
    restart = [host for host in members if host in write or observations[host]["etcd"].get("trusts") == "earlier"]
    return Renewal(makes, write, restart)


def renewal_problems(
    cluster: Cluster, observations: Observations, renewal: Renewal, own_ca: Mapping[str, Any], rotates: bool
) -> list[Problem]:
    """Why the certificate cannot be renewed. rotates: whether the CA is being replaced."""
    pki = observations[cluster.ca_host]["pki"]
    if rotates:
        text = "the CA is being replaced by another one, so its certificate is not renewed. Finish that first: rotate_ca.yml without etcd_ca_same_key."
        return [Problem(text, code="rotates")]
    if not renewal.makes or own_ca.get("fingerprint"):
        return []
    if pki.get("ca_public_key") != pki.get("ca_cert_key"):
        text = (
            "/etc/kubernetes/pki/etcd/ca.key is missing, or is not the key of ca.crt, and the new certificate needs that key. If another host has it, run"
            " move_ca.yml. If you have a copy, set etcd_ca_cert and etcd_ca_key."
        )
        return [Problem(text, host=cluster.ca_host, code="ca-key-missing")]
    if not pki.get("ca_self_signed"):
        text = (
            f"the CA in use ({pki['ca_subject']}) is an intermediate CA, so this run cannot renew its certificate. Have its issuer renew the certificate with"
            " the same key, and set etcd_ca_cert to the result."
        )
        return [Problem(text, host=cluster.ca_host, code="intermediate")]
    return []


def renewal_steps(cluster: Cluster, observations: Observations, renewal: Renewal, phase: str) -> list[Step]:
    """What a phase has to do."""
    names = {member.host: member.name for member in cluster.members}
    subject = observations[cluster.ca_host]["pki"]["ca_subject"]
    if phase == RENEW:
        text = f"etcd/ca.crt: another certificate of {subject}, over the same key"
        return [Step(RENEW_CA, names[cluster.ca_host], cluster.ca_host, None, (Reason("ca", "renewed", text),))]
    text = f"etcd/ca.crt: the certificate of {cluster.ca_host}"
    steps = [Step(TRUST_CA, names[host], host, None, (Reason("ca", "renewed", text),)) for host in renewal.write]
    text = f"etcd: is restarted to load the certificate of {subject}"
    return [*steps, *turn_steps(cluster, observations, renewal.restart, text)]


def run_lines(cluster: Cluster, renewal: Renewal) -> list[str]:
    """A run for people."""
    if not renewal.phases:
        return [
            f"cluster {cluster.name}: the certificate of its CA has just been renewed, and every member has loaded it"
        ]
    return [
        f"cluster {cluster.name}: another certificate of its CA, over the same key, in the phases {', '.join(renewal.phases)}; no other certificate changes"
    ]


def planes_before(hosts: Iterable[str], observations: Observations) -> list[str]:
    """Control plane hosts whose kube-apiserver was started before the certificate in ca.crt existed, so that it has loaded an earlier one."""
    found = []
    for host in hosts:
        seen, begin = observations[host].get("apiserver") or {}, observations[host]["pki"].get("ca_not_before")
        if seen.get("started") and begin and datetime.fromisoformat(begin).timestamp() > seen["started"]:
            found.append(host)
    return found
