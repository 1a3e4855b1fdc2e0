# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Checks of the CA: can certificates be issued, and do the hosts and the running members agree on the CA?

Runs on the controller, on observations of `etcd_host_info` by inventory host. A CA is identified by its key and its name (ca_id): a
renewed certificate with the same key and name is the same CA, and the certificates that it issued before stay valid.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ansible_collections.kubeadm.etcd.plugins.module_utils._control.cluster import Cluster
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.emergency import begun_problem
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.identity import has_run
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.rotation import cas_beside, cas_in, rotation_of
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.problems import EVERYTHING, FOUND, SIGN, Problem
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.reasons import Reason

if TYPE_CHECKING:
    # Python 3.8 cannot evaluate it.
    Observation = Mapping[str, Any]

# What a problem with signing stops. Members run and restart with the certificates that they have.
_ISSUING = (FOUND, SIGN)

_DIRECTORY = "/etc/kubernetes/pki/etcd"


def shares_ca(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether one CA is in the ca.crt of both hosts, as on all hosts while it is rotated. By their pki."""
    ids = [{pki.get("ca_id"), *(ca["id"] for ca in cas_in(pki))} - {None} for pki in (one, other)]
    return bool(ids[0] & ids[1])


def takes_part(identity: str | None, pki: Mapping[str, Any]) -> bool:
    """Whether a CA that does not sign is the other one of a rotation, as the CA host has it."""
    cas = [*cas_in(pki), *([pki["next_ca"]] if pki.get("next_ca") else [])]
    return identity != pki.get("ca_id") and identity in [ca["id"] for ca in cas]


def broken_ca_hosts(cluster: Cluster, observations: Mapping[str, Observation]) -> list[str]:
    """Hosts whose certificates come from the CA host's CA, but whose ca.crt is a different CA: it was put there by mistake.

    The key identifiers in the certificates show it (RFC 5280, 4.2.1.1). The result is empty without the CA host, or if its CA has no key
    identifier. A ca.crt that has signed one of the host's certificates is in use: the CA may have been exchanged on the CA host instead.
    """
    signer = observations.get(cluster.ca_host)
    wanted = signer["pki"].get("ca_key_id") if signer else None
    if not signer or not wanted:
        return []
    return [
        host
        for host, observation in observations.items()
        if observation["pki"].get("ca_id") is not None
        and not shares_ca(observation["pki"], signer["pki"])
        and any(item["authority_key_id"] == wanted for item in observation["pki"].get("certificates", []))
        and not any(
            item["authority_key_id"] is not None and item["authority_key_id"] == observation["pki"].get("ca_key_id")
            for item in observation["pki"].get("certificates", [])
        )
    ]


def brings_in(cluster: Cluster, observations: Mapping[str, Observation], own: Mapping[str, Any]) -> bool:
    """Whether the certificate of the user's own CA has to be written on the CA host: it differs from the installed one, and is not an older
    certificate of the same CA."""
    signer = observations.get(cluster.ca_host)
    # An empty pki: the host lacks the cryptography library, and could not write the certificate either.
    if not signer or not signer["pki"] or not own.get("fingerprint"):
        return False
    pki = signer["pki"]
    if takes_part(own["id"], pki):
        return False
    if pki.get("ca_id") == own["id"]:
        # Both in ISO 8601, UTC.
        return bool(own["not_after"] > pki["ca_not_after"])
    return bool(pki.get("ca_fingerprint") != own["fingerprint"])


def renewal_reasons(
    cluster: Cluster, observations: Mapping[str, Observation], own: Mapping[str, Any] | None = None
) -> dict[str, Reason]:
    """Hosts whose ca.crt is an outdated certificate of the CA, each with the reason to replace it.

    The CA host's certificate is the current one, or the user's own if the CA host is about to get that.
    """
    signer = observations.get(cluster.ca_host)
    if not signer or not signer["pki"].get("ca_id"):
        return {}
    source = own if own and brings_in(cluster, observations, own) else None
    identity = source["id"] if source else signer["pki"]["ca_id"]
    wanted = source["fingerprint"] if source else signer["pki"]["ca_fingerprint"]
    origin = "etcd_ca_cert" if source else cluster.ca_host
    text = f"etcd/ca.crt: the CA's certificate has been renewed ({origin} has the new one)"
    return {
        host: Reason("certificates", "ca-renewed", text)
        for host, observation in observations.items()
        if observation["pki"].get("ca_id") == identity and observation["pki"]["ca_fingerprint"] != wanted
    }


def with_renewals(
    cluster: Cluster, observations: Mapping[str, Observation], own: Mapping[str, Any] | None = None
) -> dict[str, Observation]:
    """Observations plus the reasons that only a comparison of hosts shows: a CA certificate that was renewed on the CA host."""
    return with_reasons(observations, renewal_reasons(cluster, observations, own))


def with_reasons(observations: Mapping[str, Observation], found: Mapping[str, Reason]) -> dict[str, Observation]:
    """Observations plus one reason for some hosts."""
    result = dict(observations)
    for host, reason in found.items():
        reasons = observations[host]["reasons"]
        more = {reason.part: [reason.as_dict(), *reasons[reason.part]]}
        result[host] = {**observations[host], "reasons": {**reasons, **more}}
    return result


def with_removals(observations: Mapping[str, Observation], hosts: list[str]) -> dict[str, Observation]:
    """Observations with the reason to remove a copy of ca.key on these hosts."""
    reason = Reason("certificates", "stray-ca-key", "etcd/ca.key: removed, it belongs on the CA host only")
    return with_reasons(observations, dict.fromkeys(hosts, reason))


def stray_ca_keys(cluster: Cluster, observations: Mapping[str, Observation]) -> list[str]:
    """Hosts with a stray copy of the CA host's ca.key. Keys of other CAs are not included: each may be the only copy."""
    signer = observations.get(cluster.ca_host)
    if not signer or signer["pki"].get("ca_problems"):
        return []
    key = signer["pki"].get("ca_public_key")
    return [
        host
        for host, observation in observations.items()
        if host != cluster.ca_host and key and observation["pki"].get("ca_public_key") == key
    ]


def signs_elsewhere(cluster: Cluster, observations: Mapping[str, Observation], own_ca: Mapping[str, Any]) -> bool:
    """Whether the key of the user's own CA is neither on the controller nor on a host of the cluster."""
    signer = observations.get(cluster.ca_host)
    if not own_ca.get("fingerprint") or own_ca.get("key") or not signer or signer["pki"].get("ca_key"):
        return False
    return not key_holders(cluster, observations)


def key_holders(cluster: Cluster, observations: Mapping[str, Observation]) -> list[str]:
    """Hosts with the key of the CA host's CA: of its ca.crt, and of their own."""
    pki = {host: item["pki"] for host, item in observations.items() if item["pki"].get("ca_public_key")}
    wanted = observations.get(cluster.ca_host, {"pki": {}})["pki"].get("ca_id")
    return [
        host
        for host, item in pki.items()
        if item["ca_public_key"] == item.get("ca_cert_key") and wanted in (None, item.get("ca_id"))
    ]


def lacks_key(cluster: Cluster, observations: Mapping[str, Observation], own: Mapping[str, Any]) -> bool:
    """Whether the CA host has its ca.crt and no key, and neither brings the inventory one along."""
    signer = observations.get(cluster.ca_host)
    return bool(signer and signer["pki"].get("ca_id") and not signer["pki"].get("ca_key") and not own.get("key"))


# What missing_key returns.
LACKS_KEY = ("ca-key-elsewhere", "ca-key-missing", "ca-key-lost")


def missing_key(cluster: Cluster, observations: Mapping[str, Observation]) -> tuple[str, str]:
    """Where the key is that the CA host lacks, as far as this run can tell: a code, and what to do."""
    holders = key_holders(cluster, observations)
    if holders:
        return (
            "ca-key-elsewhere",
            f"ca.key is on {', '.join(holders)}, and not on the CA host {cluster.ca_host}: no certificate can be issued or renewed. Run move_ca.yml,"
            f" which brings it to {cluster.ca_host}, or set etcd_ca_host: {holders[0]}.",
        )
    absent = cluster.absent(observations)
    if absent:
        return (
            "ca-key-missing",
            f"ca.key is not in {_DIRECTORY} on the CA host {cluster.ca_host}: no certificate can be issued or renewed. If {', '.join(absent)} (not"
            " observed in this run) has it, run move_ca.yml, or set etcd_ca_host to that host. If it is kept in a safe, name it in etcd_ca_cert and"
            " etcd_ca_key. If your CA signs elsewhere, set etcd_ca_cert to a copy of ca.crt: requests are then written to files.",
        )
    return "ca-key-lost", lost_key_text(cluster, observations)


def lost_key_text(cluster: Cluster, observations: Mapping[str, Observation]) -> str:
    """That no host has the CA's key, until when the cluster can do without it, and what to do."""
    ends = [
        (str(item["not_after"]), host)
        for host, observation in observations.items()
        for item in observation["pki"].get("certificates", [])
        if item.get("not_after")
    ]
    end, host = min(ends, default=("", ""))
    until = (
        f" The first certificate expires on {end[:10]}, on {host}: from then on, members and clients refuse each other."
        if end
        else ""
    )
    return (
        f"the CA's key is lost: no host of cluster {cluster.name!r} has {_DIRECTORY}/ca.key, so no certificate can be issued or renewed.{until}"
        f" If a copy is kept in a safe, name it in etcd_ca_cert (a copy of ca.crt) and etcd_ca_key, and run site.yml, which brings it to"
        f" {cluster.ca_host}. If your CA signs elsewhere, set etcd_ca_cert to a copy of ca.crt: requests are then written to files. Else see"
        ' docs/certificates.md, "The CA key is lost".'
    )


def key_warnings(cluster: Cluster, observations: Mapping[str, Observation], own: Mapping[str, Any]) -> list[str]:
    """A key that the CA host lacks, before a certificate is due. Once it is, this is a problem (ca_problems)."""
    due = any(needs_signing(observation) for observation in observations.values())
    is_missing = lacks_key(cluster, observations, own) and (key_holders(cluster, observations) or not own.get("id"))
    return [missing_key(cluster, observations)[1]] if is_missing and not due else []


def own_key_reasons(
    cluster: Cluster, observations: Mapping[str, Observation], own: Mapping[str, Any]
) -> dict[str, Reason]:
    """The CA host, if it has the user's own CA and lacks its key, which the inventory brings along: it was lost, or is new here."""
    pki = observations.get(cluster.ca_host, {"pki": {}})["pki"]
    if not own.get("key") or pki.get("ca_key") or pki.get("ca_id") != own["id"]:
        return {}
    return {cluster.ca_host: Reason("ca", "key-missing", "etcd/ca.key: missing, it is brought from etcd_ca_key")}


def elsewhere_warnings(observations: Mapping[str, Observation], signing_dir: str) -> list[str]:
    """Warnings if certificates are due and the CA signs elsewhere (external signing)."""
    wanting = [host for host, observation in observations.items() if needs_signing(observation)]
    if not wanting:
        return []
    return [
        f"{', '.join(wanting)}: new certificates are due, and the key of etcd_ca_cert is neither in etcd_ca_key nor on the CA host. The run"
        f" writes the requests to {signing_dir} on the controller, and fails until they are signed."
    ]


def trust_warnings(observations: Mapping[str, Observation]) -> list[str]:
    """Warnings about members that still trust an earlier certificate of their CA, and stop working when it expires."""
    hosts = [host for host, observation in observations.items() if observation["etcd"].get("trusts") == "earlier"]
    if not hosts:
        return []
    return [
        f"{', '.join(hosts)}: the CA's certificate was renewed after etcd started. Until it restarts, etcd trusts the former certificate, and"
        " rejects all clients and peers when that expires. Before then, rotate_ca.yml -e etcd_ca_same_key=true restarts one member after the other."
    ]


def needs_signing(observation: Observation) -> bool:
    """Whether a certificate of a host has to be issued. Repairing a file mode needs no CA."""
    due = observation["pki"].get("due")
    return bool(observation["reasons"]["certificates"] if due is None else due)


def trust_problems(cluster: Cluster, observations: Mapping[str, Observation], repaired: list[str]) -> list[Problem]:
    """Problems if the CA on the hosts is not the CA of the cluster. The running members decide, then the records.

    repaired: hosts whose ca.crt is replaced by that of the CA host.
    """
    if rotation_of(cluster, observations).is_cut:
        return [begun_problem(cluster)]
    signer = observations[cluster.ca_host]["pki"] if cluster.ca_host in observations else {}
    observations = {host: as_exchanged(item, signer) for host, item in observations.items()}
    pki = {
        host: item["pki"] for host, item in observations.items() if host not in repaired and item["pki"].get("ca_id")
    }
    etcd = {host: observations[host]["etcd"] for host in pki}
    former = [host for host in pki if etcd[host].get("trusts") == "former"]
    proven = {pki[host]["ca_id"] for host in pki if etcd[host].get("trusts") in ("installed", "earlier")}
    if former and all(_is_recorded(observations[host]) for host in former):
        return [
            Problem(
                f"etcd on {', '.join(former)} still uses a different {_DIRECTORY}/ca.crt, which was there when it started: a certificate of this CA"
                " that has expired since, or a ca.crt that was there by mistake. etcd rejects members and clients until it restarts. The"
                " installed ca.crt is right: it matches the record (member.json). On one of these hosts after the other, end etcd (`pkill -x"
                " etcd`; the kubelet starts it again) and wait until it runs. Then run again.",
                code="ca-trust",
            )
        ]
    if former:
        return [
            Problem(
                _former_ca(cluster, former, pki, [host for host in pki if host not in former], proven), code="former-ca"
            )
        ]
    recorded = {host: (etcd[host].get("record") or {}).get("ca") for host in pki}
    changed = [host for host in pki if recorded[host] and recorded[host] not in keys_in(pki[host])]
    # Without a record, the members' certificates show which CA the cluster had, unless the running etcd rejects them.
    issued = [
        item for host, item in pki.items() if item.get("certificates") and etcd[host].get("trusts") != "untrusted"
    ]
    all_foreign = bool(issued) and all(len(item.get("foreign", [])) == len(item["certificates"]) for item in issued)
    unsigned = [
        host
        for host in pki
        if host == cluster.ca_host and etcd[host].get("formed") and not recorded[host] and all_foreign
    ]
    unproven_hosts = [
        host
        for host in pki
        if etcd[host].get("formed") and not recorded[host] and etcd[host].get("trusts") == "unproven"
    ]
    problems = []
    for hosts, evidence in (
        (changed, "the member's record (/etc/kubernetes/kubeadm-etcd/member.json) names another CA"),
        (unsigned, "another CA has signed the certificates of all members"),
        (
            unproven_hosts,
            "the file was written after etcd started, and no certificate is left to prove that it is the same CA",
        ),
    ):
        unproven = [host for host in hosts if pki[host]["ca_id"] not in proven]
        if unproven:
            text = (
                f"{_DIRECTORY}/ca.crt on {', '.join(unproven)} is not known to be the CA of cluster {cluster.name!r}: {evidence}, and no running"
                f" member accepts this CA. Put the former ca.crt back on all members, and its ca.key on {cluster.ca_host}. If the CA was"
                " exchanged on purpose while no member ran, start the kubelets by hand (`systemctl start kubelet` on every member): the next"
                " run sees which CA the members use."
            )
            problems.append(Problem(text, code="ca-exchanged"))
            break
    return problems


def as_exchanged(observation: Observation, signer: Mapping[str, Any]) -> Observation:
    """An observation whose ca.crt holds several CAs, none of them of a rotation, as if it held the first alone: with that one certificates are signed.

    signer: pki of the CA host, which knows the CAs of a rotation. A CA put in front by hand is not trusted by an etcd that has started before.
    """
    pki = observation["pki"]
    cas = cas_in(pki)
    if len(cas) < 2 or {ca["id"] for ca in cas} & {ca["id"] for ca in cas_beside(signer)}:
        return observation
    # As etcd itself says, by names: with one name for two CAs it does not say which.
    names = [ca["name"] for ca in cas]
    if len({*names}) == len(names) and names[0] in (observation["etcd"].get("trusted") or []):
        return observation
    foreign = [item["kind"] for item in pki.get("certificates", []) if item["ca_id"] != cas[0]["id"]]
    trusts = observation["etcd"].get("trusts")
    etcd = {
        **observation["etcd"],
        "trusts": "former" if foreign and trusts in ("installed", "earlier") else trusts,
    }
    return {**observation, "etcd": etcd, "pki": {**pki, "cas": cas[:1], "foreign": foreign}}


def keys_in(pki: Mapping[str, Any]) -> set[str]:
    """Public keys of the CAs in a ca.crt. While a CA is rotated, a record may name either."""
    return {str(pki["ca_cert_key"]), *(str(ca["key"]) for ca in cas_in(pki))}


def _is_recorded(observation: Observation) -> bool:
    """Whether a host's ca.crt matches its record, and has signed all of its certificates."""
    pki = observation["pki"]
    recorded = (observation["etcd"].get("record") or {}).get("ca")
    return bool(recorded and recorded == pki["ca_cert_key"] and pki.get("certificates") and not pki.get("foreign"))


def _former_ca(
    cluster: Cluster, former: list[str], pki: Mapping[str, Mapping[str, Any]], others: list[str], proven: set[str]
) -> str:
    """The message if running members trust a CA other than the ca.crt on their hosts: how to get back.

    former: their hosts. others: the other hosts. proven: the CAs that members are known to run with.
    """
    # Members that run with the CA on their host have the file that the hosts in `former` lack.
    have = [host for host in others if pki[host]["ca_id"] in proven and pki[host]["ca_id"] != pki[former[0]]["ca_id"]]
    copies = f" (copy it from {', '.join(have)})" if have else ""
    back = f"Put the former ca.crt back on {', '.join(former)}{copies} and the former ca.key on {cluster.ca_host}, then run site.yml"
    begin = (
        f"{_DIRECTORY}/ca.crt on {', '.join(former)} was exchanged while etcd runs: the members there trust the CA that they were"
        " started with, not the installed one."
    )
    issued = [host for host in former if pki[host].get("certificates") and not pki[host].get("foreign")]
    if not issued:
        return (
            f"{begin} Certificates from the installed CA would cut the members off from each other and from their clients. {back}: nothing"
            " restarts. To change the CA of a cluster with data, run rotate_ca.yml then (docs/ca-rotation.md)."
        )
    if issued != former or have:
        return (
            f"{begin} Some certificates are from the installed CA, some from the former one. {back}: nothing restarts."
        )
    return (
        f"{begin} Their certificates are from the installed CA, so members and clients reject each other. There are two ways out. 1. {back}: it"
        " issues the certificates again, and nothing restarts. 2. If the former CA is lost or must not be used any more, go on with the installed CA:"
        " rotate_ca.yml -e etcd_allow_interruption=true restarts all members at once, after some seconds without quorum. Then give the"
        ' control plane hosts the new CA (docs/certificates.md, "The CA was exchanged by hand").'
    )


def has_clients(observations: Mapping[str, Observation]) -> bool:
    """Whether members, or clients, may trust a CA of before: not if the data of all hosts is a restored snapshot, on hosts that had no member."""
    return any(
        has_run(item) and (item["pki"].get("ca_id") or item["etcd"].get("record") or not item["etcd"].get("restored"))
        for item in observations.values()
    )


def ca_problems(
    cluster: Cluster, observations: Mapping[str, Observation], own: Mapping[str, Any] | None = None
) -> list[Problem]:
    """Why certificates cannot be issued, or would not match the CA in use.

    own: the user's own CA from the inventory, as the filter own_ca returns it.
    """
    problems: list[Problem] = []
    signer = observations.get(cluster.ca_host)
    # What a rotation has begun with is no other CA than the one in use.
    own = {} if own and signer and takes_part(own.get("id"), signer["pki"]) else own or {}
    own_id = own.get("id")
    found = {host: o["pki"]["ca_id"] for host, o in observations.items() if o["pki"].get("ca_id")}
    holders = [host for host in found if host != cluster.ca_host]
    wanting = [host for host, observation in observations.items() if needs_signing(observation)]
    # A member whose certificates are only about to expire starts with those that it has.
    usable = all(observations[host]["pki"].get("usable", True) for host in wanting)
    unsigned = _ISSUING if usable else EVERYTHING
    for host, observation in observations.items():
        problems.extend(Problem.from_dict(item, host) for item in observation["pki"].get("ca_problems", []))
    repaired = broken_ca_hosts(cluster, observations)
    exchanged = trust_problems(cluster, observations, repaired)
    problems += exchanged
    if signer is None:
        if wanting:
            problems.append(
                Problem(
                    f"{', '.join(wanting)}: new certificates are due, and the CA host {cluster.ca_host}, which issues them, is not part of this"
                    " run. Include it, or run without --limit.",
                    unsigned,
                    code="ca-host-absent",
                )
            )
        return problems
    authority = found.get(cluster.ca_host)
    formed = [host for host, observation in observations.items() if has_run(observation)]
    # Without the cryptography library nothing is known of the CA (pki is empty). That is reported as a problem of its own.
    if signer["pki"] and authority is None and has_clients(observations) and not signer["pki"].get("ca_problems"):
        problems.append(
            Problem(
                f"etcd/ca.crt is missing{', ca.key exists' if signer['pki'].get('ca_key') else ''}, and cluster {cluster.name!r} has data. Its"
                f" members would not trust each other with a new CA. Put ca.crt and ca.key back on {cluster.ca_host}"
                + (f" (ca.crt can be copied from {', '.join(holders)})" if holders else "")
                + ", or set etcd_ca_host to the host that has them.",
                host=cluster.ca_host,
                code="ca-missing",
            )
        )
    other = [
        host
        for host, identity in found.items()
        if identity != own_id
        and host not in repaired
        and not (authority == own_id and shares_ca(observations[host]["pki"], signer["pki"]))
    ]
    if own_id and formed and other:
        problems.append(
            Problem(
                f"etcd_ca_cert is not the CA in use on {', '.join(other)}. To change the CA of a cluster with data, run"
                " rotate_ca.yml (docs/ca-rotation.md). Otherwise remove etcd_ca_cert and etcd_ca_key.",
                code="own-ca-differs",
            )
        )
    elif own_id and authority not in (None, own_id):
        problems.append(
            Problem(
                "etcd/ca.crt is not the CA in etcd_ca_cert, and the run does not replace it. If no member uses it, move it and ca.key away. If"
                " members use it, remove etcd_ca_cert and etcd_ca_key.",
                host=cluster.ca_host,
                code="own-ca-differs",
            )
        )
    if authority and not own_id and formed and not exchanged:
        pki = {host: observations[host]["pki"] for host in holders}
        other = [host for host in holders if not shares_ca(pki[host], signer["pki"]) and host not in repaired]
        if other:
            problems.append(
                Problem(
                    f"ca.crt on {', '.join(other)} is not the CA on the CA host {cluster.ca_host}. Correct etcd_ca_host, or copy the"
                    " cluster's ca.crt and ca.key to that host.",
                    code="ca-differs",
                )
            )
    if wanting and lacks_key(cluster, observations, own) and (key_holders(cluster, observations) or not own_id):
        code, text = missing_key(cluster, observations)
        problems.append(Problem(f"{', '.join(wanting)}: new certificates are due: {text}", unsigned, code=code))
    if own_id and signer["pki"].get("ca_public_key") not in (None, own.get("public_key")):
        problems.append(
            Problem(
                "etcd/ca.key is not the key of etcd_ca_cert, and the run does not replace it. If the cluster does not use that key, move it"
                " away. If it does, remove etcd_ca_cert and etcd_ca_key.",
                host=cluster.ca_host,
                code="ca-key-foreign",
            )
        )
    return problems


def has_key_of_its_ca(observation: Observation) -> bool:
    """Whether the ca.key of a host belongs to its ca.crt."""
    pki = observation["pki"]
    return bool(pki.get("ca_public_key") and pki["ca_public_key"] == pki.get("ca_cert_key"))
