# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What follows from the CA that each host has: may certificates be signed, and would they fit those in use?

Runs on the controller, over observations of `etcd_host_info` by inventory host.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ansible_collections.kubeadm.etcd.plugins.module_utils._cluster import Cluster
from ansible_collections.kubeadm.etcd.plugins.module_utils._problem import Problem

if TYPE_CHECKING:
    # Python 3.8 cannot evaluate it.
    Observation = Mapping[str, Any]


def broken_ca_hosts(cluster: Cluster, observations: Mapping[str, Observation]) -> list[str]:
    """Hosts whose ca.crt is not that of the CA host although their own certificates are: somebody put it there.

    Told by the key identifiers in the certificates (RFC 5280, 4.2.1.1). Nothing is known without the CA host, or where its
    CA has none.
    """
    signer = observations.get(cluster.ca_host)
    wanted = signer["pki"].get("ca_key_id") if signer else None
    if not signer or not wanted:
        return []
    return [
        host
        for host, observation in observations.items()
        if observation["pki"].get("ca_fingerprint") not in (None, signer["pki"]["ca_fingerprint"])
        and any(item["authority_key_id"] == wanted for item in observation["pki"].get("certificates", []))
    ]


def stray_ca_keys(cluster: Cluster, observations: Mapping[str, Observation]) -> list[str]:
    """Hosts that have a ca.key and should not, where the CA host has its own, so that none is the last one."""
    signer = observations.get(cluster.ca_host)
    if not signer or not signer["pki"].get("ca_key") or signer["pki"].get("ca_problems"):
        return []
    return [host for host, o in observations.items() if host != cluster.ca_host and o["pki"].get("ca_key")]


def signs_elsewhere(cluster: Cluster, observations: Mapping[str, Observation], own_ca: Mapping[str, Any]) -> bool:
    """Whether the key of the user's own CA is neither on the controller nor on the CA host."""
    signer = observations.get(cluster.ca_host)
    return bool(own_ca.get("fingerprint") and not own_ca.get("key") and signer and not signer["pki"].get("ca_key"))


def elsewhere_warnings(observations: Mapping[str, Observation], signing_dir: str) -> list[str]:
    """What a run cannot do by itself where the CA signs elsewhere."""
    wanting = [host for host, observation in observations.items() if observation["reasons"]["certificates"]]
    if not wanting:
        return []
    return [
        f"{', '.join(wanting)} need certificates, and the key of etcd_ca_cert is neither in etcd_ca_key nor on the CA host."
        f" Requests are written to {signing_dir} on the controller, and the run stops there until they are signed."
    ]


def ca_problems(
    cluster: Cluster, observations: Mapping[str, Observation], own: Mapping[str, Any] | None = None
) -> list[Problem]:
    """Why certificates could not be signed, or would not fit those in use.

    own: the CA that the inventory brings along, as the filter own_ca returns it.
    """
    problems: list[Problem] = []
    own = own or {}
    own_ca = own.get("fingerprint")
    signer = observations.get(cluster.ca_host)
    found = {host: o["pki"]["ca_fingerprint"] for host, o in observations.items() if o["pki"].get("ca_fingerprint")}
    holders = [host for host in found if host != cluster.ca_host]
    wanting = [host for host, observation in observations.items() if observation["reasons"]["certificates"]]
    for host, observation in observations.items():
        problems.extend(Problem(text, host=host) for text in observation["pki"].get("ca_problems", []))
    if signer is None:
        if wanting:
            problems.append(
                Problem(
                    f"{', '.join(wanting)} need certificates, and the CA host {cluster.ca_host} is not part of this run."
                    " Run again with it (or without --limit)."
                )
            )
        return problems
    authority = found.get(cluster.ca_host)
    repaired = broken_ca_hosts(cluster, observations)
    formed = [host for host, observation in observations.items() if observation["etcd"].get("formed")]
    if authority is None and formed and not signer["pki"].get("ca_problems"):
        problems.append(
            Problem(
                f"ca.crt is missing{', ca.key is there' if signer['pki'].get('ca_key') else ''}, and"
                f" cluster {cluster.name!r} has data. A new CA would shut its members out from each other. Put ca.crt and"
                f" ca.key back on {cluster.ca_host}"
                + (f" ({', '.join(holders)} have the same ca.crt)" if holders else "")
                + ", or set etcd_ca_host to the host that has them.",
                host=cluster.ca_host,
            )
        )
    if own_ca and formed and any(fingerprint != own_ca for fingerprint in found.values()):
        other = [host for host, fingerprint in found.items() if fingerprint != own_ca]
        problems.append(
            Problem(
                f"etcd_ca_cert is another CA than the one in use on {', '.join(other)}. Changing the CA of a cluster with"
                " data needs both to be trusted for a while, which this playbook does not do. Leave out etcd_ca_cert."
            )
        )
    elif own_ca and authority not in (None, own_ca):
        problems.append(
            Problem(
                "etcd/ca.crt is another CA than etcd_ca_cert. It is not replaced: move it and ca.key away if no"
                " member uses them, or leave out etcd_ca_cert.",
                host=cluster.ca_host,
            )
        )
    if authority and not own_ca and formed:
        other = [host for host in holders if found[host] != authority and host not in repaired]
        if other:
            problems.append(
                Problem(
                    f"{', '.join(other)} trust another CA than the one on {cluster.ca_host}. Correct etcd_ca_host, or copy"
                    " the right ca.crt and ca.key there."
                )
            )
    if authority and wanting and not signer["pki"].get("ca_key") and not own_ca:
        problems.append(
            Problem(
                f"{', '.join(wanting)} need certificates, and ca.key is not in /etc/kubernetes/pki/etcd."
                " Put it back, set etcd_ca_host to the host that has it, or, where the key is kept elsewhere, set etcd_ca_cert"
                " to a copy of ca.crt: requests are then written to files.",
                host=cluster.ca_host,
            )
        )
    if own_ca and signer["pki"].get("ca_public_key") not in (None, own.get("public_key")):
        problems.append(
            Problem(
                "etcd/ca.key does not belong to etcd_ca_cert. It is not replaced: move it away if no"
                " member uses it, or leave out etcd_ca_cert.",
                host=cluster.ca_host,
            )
        )
    return problems
