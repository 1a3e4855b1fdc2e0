"""The hand-over to control plane hosts: hosts, steps and refusals."""

from __future__ import annotations

import re
from typing import Any

import pytest
from ansible_collections.kubeadm.etcd.plugins.module_utils._control import control_plane as cp
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.cluster import Cluster
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.view import View
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.wish import Wish
from ansible_collections.kubeadm.etcd.plugins.module_utils._operations.hand_over import HandOver, hand_over, plan
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.members import Member
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.problems import Problem, merged
from test_decision import why

OPTIONS: dict[str, Any] = {
    "etcd_cluster_name": {"type": "str", "default": "etcd"},
    "etcd_address": {"type": "str", "default": ""},
    "etcd_ca_host": {"type": "str", "default": ""},
    "etcd_client_port": {"type": "int", "default": 2379},
    "etcd_encryption_algorithm": {"type": "str", "default": "RSA-2048"},
    "etcd_signing_dir": {"type": "path", "default": "{{ inventory_dir }}/etcd-signing"},
    "etcd_extra_args": {"type": "dict", "default": {}},
}
MEMBERS = ["infra0", "infra1", "infra2"]
PLANES = ["control0", "control1"]


def inventory(**changes: dict[str, Any]) -> dict[str, dict[str, Any]]:
    hosts = {name: {"ansible_host": f"10.0.0.{6 + i}"} for i, name in enumerate([*MEMBERS, *PLANES])}
    for host, variables in changes.items():
        hosts[host].update(variables)
    return hosts


def resolve(host: str, planes: list[str] | None = None, **changes: Any) -> tuple[Cluster, list[cp.Client]]:
    return cp.resolve_control_plane(
        host, PLANES if planes is None else planes, MEMBERS, inventory(**changes), {}, OPTIONS
    )


# --- Who -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["control1", "infra2"])
def test_one_cluster_needs_no_name(host: str) -> None:
    cluster, clients = resolve(host)
    assert (cluster.name, cluster.ca_host, cluster.problems) == ("etcd", "infra0", [])
    assert [member.address for member in cluster.members] == ["10.0.0.6", "10.0.0.7", "10.0.0.8"]
    assert clients == [cp.Client("control0", "control0"), cp.Client("control1", "control1")]
    assert clients[0].kinds == ["apiserver-etcd-client"]


def test_the_only_cluster_may_have_any_name() -> None:
    """Its name is a variable of the members, which control plane hosts do not have."""
    named = {host: {"etcd_cluster_name": "prod"} for host in MEMBERS}
    cluster, clients = resolve("control0", **named)
    assert (cluster.name, len(cluster.members), len(clients), cluster.problems) == ("prod", 3, 2, [])


def test_several_clusters() -> None:
    """Each control plane host names its cluster. One that does not is refused alone."""
    changes = {"infra2": {"etcd_cluster_name": "events"}, "control1": {"etcd_cluster_name": "events"}}
    cluster, clients = resolve("control1", **changes)
    assert (cluster.name, [member.host for member in cluster.members]) == ("events", ["infra2"])
    assert [client.host for client in clients] == ["control1"] and cluster.problems == []
    cluster, clients = resolve("control0", **changes)
    assert (cluster.name, cluster.members, [client.host for client in clients]) == ("", [], ["control0"])
    assert (
        "several clusters (etcd, events)" in merged(cluster.problems)[0]
        and "etcd_cluster_name" in merged(cluster.problems)[0]
    )
    assert resolve("infra0", **changes)[1] == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"control0": {"etcd_cluster_name": "no"}},
            "control0: etcd_cluster_name 'no' is not a cluster of the inventory. Write one of",
        ),
        (
            {"control0": {"etcd_clientport": 1}},
            "control0: unknown variable etcd_clientport. Did you mean etcd_client_port?",
        ),
        (
            {"control0": {"etcd_client_port": 2479}},
            "etcd_client_port is '2479' for this host and '2379' for cluster 'etcd'",
        ),
        (
            {
                "control0": {"etcd_encryption_algorithm": "RSA-4096"},
                "infra0": {"etcd_encryption_algorithm": "RSA-3072"},
            },
            "etcd_encryption_algorithm is 'RSA-4096' for this host and 'RSA-3072' for cluster",
        ),
        ({"infra0": {"etcd_address": "nowhere"}}, "'nowhere' is not an IP address"),
    ],
)
def test_problems_of_the_inventory(changes: dict[str, Any], words: str) -> None:
    assert words in " ".join(merged(resolve("control0", **changes)[0].problems))


def test_variables_of_all_hosts_are_no_problem() -> None:
    everywhere = {host: {"etcd_client_port": 2479, "etcd_signing_dir": "/srv"} for host in [*MEMBERS, *PLANES]}
    assert resolve("control0", **everywhere)[0].problems == []
    assert resolve("control0", control0={"etcd_signing_dir": "/srv"})[0].problems == []


def test_a_member_cannot_be_a_control_plane_host() -> None:
    problems = merged(resolve("infra1", ["infra1", "control0"])[0].problems)
    assert (
        len(problems) == 1 and "infra1: this host is a member of cluster 'etcd' and a control plane host" in problems[0]
    )
    assert "one kubelet" in problems[0] and "Use another host" in problems[0]
    assert resolve("control0", ["infra1", "control0"])[0].problems == []


def test_no_members_at_all() -> None:
    found = cp.resolve_control_plane("control0", PLANES, [], inventory(), {}, OPTIONS)
    assert "the inventory has no etcd members" in merged(found[0].problems)[0]


# --- What ------------------------------------------------------------------------------------------------------------

CLUSTER = Cluster("etcd", [Member(h, h, f"10.0.0.{6 + i}") for i, h in enumerate(MEMBERS)], "infra0")
CLIENTS = [cp.Client(host, host) for host in PLANES]
LISTED = [
    {"id": h, "name": h, "peer_urls": [f"https://10.0.0.{6 + i}:2380"], "client_urls": ["x"]}
    for i, h in enumerate(MEMBERS)
]
OPEN = {f"10.0.0.{i}": "open" for i in (6, 7, 8)}


def leaf(serial: str, **changes: Any) -> dict[str, Any]:
    return {
        "kind": "apiserver-etcd-client",
        "serial": serial,
        "reasons": [],
        "authority_key_id": "ours",
        "issuer": "etcd-ca",
        **changes,
    }


def facts(**changes: Any) -> dict[str, Any]:
    peers = {f"{address} 2379": state for address, state in OPEN.items()}
    return {
        "kubeadm_version": "v1.36.3",
        "kubelet_version": None,
        "cryptography_problem": None,
        "clock_offset": 0.5,
        "peers": peers,
        **changes,
    }


def signer(**changes: Any) -> dict[str, Any]:
    pki = {
        "ca_fingerprint": "f1",
        "ca_id": "f1",
        "ca_key_id": "ours",
        "ca_key": True,
        "ca_public_key": "p1",
        "ca_problems": [],
    }
    return {
        "facts": facts(**changes.pop("facts", {})),
        "etcd": {"formed": True, "ready": True, "members": LISTED, **changes.pop("etcd", {})},
        "pki": {**pki, "certificates": [leaf("s0")], **changes},
        "reasons": {"certificates": why("etcd/server.crt: renewed, 9 days left of 365"), "ca": []},
        "problems": [],
    }


def plane(*reasons: str, serial: str | None = None, **changes: Any) -> dict[str, Any]:
    pki = {
        "ca_fingerprint": "f1" if serial else None,
        "ca_id": "f1" if serial else None,
        "ca_problems": [],
        "warnings": [],
    }
    return {
        "facts": facts(**changes.pop("facts", {})),
        "pki": {**pki, "certificates": [leaf(serial)] if serial else [], **changes},
        "reasons": {"certificates": why(*reasons)},
        "problems": [],
    }


FRESH = ("etcd/ca.crt: missing", "apiserver-etcd-client.crt: issued, the certificate is missing")


def decide(own_ca: dict[str, Any] | None = None, lost: list[str] | None = None, **seen: Any) -> HandOver:
    return hand_over(CLUSTER, CLIENTS, seen, own_ca or {}, lost or [], "/srv/signing")


def test_the_host_that_prints_in_a_run_without_the_first_host() -> None:
    """A host of the run, and not the first one of the inventory."""
    view = View(CLUSTER, {"infra0": signer()}, ["infra0"], clients=CLIENTS, of_clients={"control1": plane(*FRESH)})
    made = plan(view, Wish(operation="hand_over"))
    assert made["speaker"] == made["asker"] == "control1" and made["certificates"] == ["control1"]


def test_fresh_hosts_get_a_certificate() -> None:
    """Changes of the CA host itself are left to site.yml."""
    found = decide(infra0=signer(), control0=plane(*FRESH), control1=plane(serial="s1"))
    assert (found.due, found.copied, found.elsewhere) == (["control0"], [], False)
    assert (merged(found.problems), found.warnings) == ([], [])
    assert found.lines == [
        "cluster etcd: handed over to control0, control1; certificates are issued",
        *[f"control0: certificates: {reason}" for reason in FRESH],
    ]


def test_nothing_to_do() -> None:
    found = decide(infra0=signer(), control0=plane(serial="s1"), control1=plane(serial="s2"))
    assert found.due == [] and found.problems == []
    assert found.lines == ["cluster etcd: handed over to control0, control1; no certificate has to change"]


@pytest.mark.parametrize(
    ("serials", "copied"), [(("s0", "s1"), ["control0"]), (("s1", "s1"), ["control1"]), (("s0", "s0"), PLANES)]
)
def test_a_copied_key_is_replaced(serials: tuple[str, str], copied: list[str]) -> None:
    seen = {host: plane(serial=serial) for host, serial in zip(PLANES, serials)}
    found = decide(infra0=signer(), **seen)
    assert found.copied == found.due == copied and found.problems == []
    assert "has the same key" in found.lines[1]


def test_without_the_ca_host() -> None:
    """--limit: if a certificate is due, the message names the missing CA host."""
    assert decide(control0=plane(serial="s1")).problems == []
    found = decide(control0=plane(*FRESH))
    assert "the CA host infra0, which issues them, is not part of this run" in merged(found.problems)[0]
    found = decide(lost=["infra0"], control0=plane(*FRESH))
    assert (
        len(found.problems) == 1
        and "control0: a new certificate is due, and the CA host infra0, which issues it, cannot be reached"
        in merged(found.problems)[0]
    )
    assert decide(lost=["infra0"], control0=plane(serial="s1")).problems == []


@pytest.mark.parametrize(
    ("seen", "words"),
    [
        (
            {"control0": plane(*FRESH, facts={"cryptography_problem": "Install the package x"})},
            "control0: Install the package x",
        ),
        ({"control0": plane(*FRESH, facts={"kubeadm_version": None})}, "control0: kubeadm is not installed"),
        (
            {"control0": plane(*FRESH, facts={"kubeadm_version": "v1.30.1"})},
            "control0: kubeadm v1.30.1 is too old",
        ),
        (
            {"control0": plane(*FRESH, facts={"clock_offset": 200.5})},
            "the clocks of infra0 and control0 are 200 s apart",
        ),
        (
            {"control0": plane(*FRESH, facts={"peers": {"10.0.0.7 2379": "silent"}})},
            "control0: this host cannot reach infra1 (10.0.0.7) on TCP port 2379, although that member runs",
        ),
        (
            {"control0": plane(*FRESH, facts={"peers": {"10.0.0.6 2379": "unreachable"}})},
            "control0: this host cannot reach infra0 (10.0.0.6)",
        ),
        (
            {"control0": plane(*FRESH, ca_problems=[Problem("x.crt is a directory that is not empty").as_dict()])},
            "control0: x.crt is a directory",
        ),
        (
            {"control0": plane(*FRESH, ca_fingerprint="other", ca_id="other")},
            "control0: /etc/kubernetes/pki/etcd/ca.crt is not the CA",
        ),
        (
            {"control0": plane("x", serial="s1", ca_fingerprint="other", ca_id="other")},
            "stacked, or another cluster",
        ),
        (
            {"control0": plane("x", certificates=[leaf("s1", reasons=["other-ca"], issuer="mine")])},
            "is signed by another CA (mine)",
        ),
        (
            {"control0": plane("x", certificates=[leaf("s1", reasons=["other-ca"], issuer="mine", ca_id="theirs")])},
            "is signed by another CA (mine)",
        ),
        (
            {"control0": plane(*FRESH, certificates=[leaf("s1", authority_key_id="theirs")])},
            "is signed by another CA (etcd-ca)",
        ),
        (
            {"infra0": signer(etcd={"formed": False, "members": None})},
            "cluster 'etcd' does not exist yet: infra0 has no data of it. Run site.yml first.",
        ),
        (
            {"infra0": signer(ca_fingerprint=None, ca_id=None, ca_key=False)},
            "infra0: etcd/ca.crt is missing, and cluster 'etcd' has data",
        ),
        ({"infra0": signer(ca_key=False)}, "control0: new certificates are due: ca.key is not in"),
        ({"infra0": signer(ca_problems=[Problem("etcd/ca.key is empty").as_dict()])}, "infra0: etcd/ca.key is empty"),
        ({"infra0": signer(facts={"cryptography_problem": "Install the package x"})}, "infra0: Install the package x"),
    ],
)
def test_problems_of_hosts(seen: dict[str, Any], words: str) -> None:
    found = decide(**{"infra0": signer(), "control0": plane(*FRESH), **seen})
    assert words in " ".join(merged(found.problems)), merged(found.problems)
    assert all(
        len(re.findall(re.escape(text), "\n".join(merged(found.problems)))) == 1 for text in merged(found.problems)
    )


@pytest.mark.parametrize(("from_here", "from_there"), [("silent", "silent"), ("closed", "open"), ("silent", "closed")])
def test_a_member_that_is_down_is_not_taken_for_a_firewall(from_here: str, from_there: str) -> None:
    here, there = ({"peers": {"10.0.0.8 2379": state}} for state in (from_here, from_there))
    assert decide(infra0=signer(facts=there), control0=plane(*FRESH, facts=here)).problems == []


def test_a_ca_host_that_cannot_look_says_that_alone() -> None:
    blind = {**signer(facts={"cryptography_problem": "Install the package x"}), "pki": {}}
    assert merged(decide(infra0=blind, control0=plane(*FRESH)).problems) == ["infra0: Install the package x"]


def test_a_ca_certificate_that_was_renewed_is_handed_over() -> None:
    """It is the same CA: nothing is signed for it, so no key is needed, and no other etcd's files are in the way."""
    for key in (True, False):
        found = decide(
            infra0=signer(ca_fingerprint="f2", ca_key=key, warnings=["the CA expires on 2030-01-01"]),
            control0=plane(serial="s1"),
        )
        assert found.problems == [] and found.due == ["control0"], found
        assert "the CA's certificate has been renewed (infra0 has the new one)" in found.lines[1]
        assert merged(found.warnings) == ["infra0: the CA expires on 2030-01-01"]


def test_ca_that_signs_elsewhere() -> None:
    own = {"fingerprint": "f1", "id": "f1", "not_after": "2040", "public_key": "p1", "key": False, "problems": []}
    found = decide(own, infra0=signer(ca_key=False, ca_public_key=None), control0=plane(*FRESH))
    assert found.elsewhere and found.problems == [] and "/srv/signing" in merged(found.warnings)[0]
    assert merged(decide({"problems": ["etcd_ca_cert: no"]}, infra0=signer(), control0=plane(*FRESH)).problems) == [
        "etcd_ca_cert: no"
    ]


def test_members_without_an_address_or_a_place_in_the_membership() -> None:
    unknown = Cluster("etcd", [*CLUSTER.members[:2], Member("infra2", "infra2", "")], "infra0")
    found = hand_over(unknown, CLIENTS, {"infra0": signer(), "control0": plane(*FRESH)}, {}, [])
    assert merged(found.problems) == [
        "infra2: the address is unknown: the host is not part of this run, or has no default route. Set etcd_address, or run without --limit."
    ]
    found = decide(infra0=signer(etcd={"members": LISTED[:2]}), control0=plane(serial="s1"))
    assert found.problems == [] and "the endpoints do not contain infra2: cluster 'etcd'" in merged(found.warnings)[0]
    assert found.members == CLUSTER.members[:2]
