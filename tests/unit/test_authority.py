"""How a run judges the CA files of each host."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.kubeadm.etcd.plugins.module_utils._control import authority as _authority
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.problems import (
    EVERYTHING,
    FOUND,
    SIGN,
    Problem,
    merged,
)
from test_decision import CLUSTER, FRESH, listing, observed, up, why
from test_decision import DOWN as STOPPED
from test_run import ALL_UP, planned
from test_run import observations as complete


@pytest.mark.parametrize(
    ("change", "own", "words"),
    [
        (
            {"infra0": {"ca_fingerprint": None, "ca_id": None, "ca_key": False}},
            None,
            "infra0: etcd/ca.crt is missing, and cluster 'etcd' has",
        ),
        ({"infra0": {"ca_fingerprint": None, "ca_id": None}}, None, "ca.crt is missing, ca.key exists"),
        ({"infra0": {"ca_fingerprint": None, "ca_id": None}}, None, "(ca.crt can be copied from infra1, infra2)"),
        (
            {"infra1": {"ca_fingerprint": "other", "ca_id": "other"}},
            None,
            "ca.crt on infra1 is not the CA on the CA host",
        ),
        ({"infra0": {"ca_key": False}}, None, "the CA's key is lost: no host of cluster 'etcd' has"),
        (
            {"infra0": {"ca_key": False}, "infra2": {"ca_key": True, "ca_public_key": "p", "ca_cert_key": "p"}},
            None,
            "new certificates are due: ca.key is on infra2, and not on the CA host infra0",
        ),
        ({}, "mine", "etcd_ca_cert is not the CA"),
        (
            {"infra0": {"ca_fingerprint": "left over", "ca_id": "left over"}},
            "f",
            "not the CA in use on infra0",
        ),
        ({"infra0": {"ca_problems": [Problem("ca.crt is expired").as_dict()]}}, None, "infra0: ca.crt is expired"),
    ],
)
def test_problems_of_the_ca(change: dict[str, Any], own: str | None, words: str) -> None:
    observations = observed(up(), up(), up())
    for host, observation in observations.items():
        observation["pki"] = {
            "ca_fingerprint": "f",
            "ca_id": "f",
            "ca_key": host == "infra0",
            "ca_problems": [],
            **change.get(host, {}),
        }
        observation["reasons"]["certificates"] = why("server.crt: ends soon")
    assert any(
        words in text
        for text in merged(
            _authority.ca_problems(CLUSTER, observations, own and {"fingerprint": own, "id": own, "not_after": "2040"})
        )
    )


def test_a_ca_that_an_earlier_attempt_has_left() -> None:
    """No host has data. A ca.crt is still never replaced."""
    observations = observed(FRESH, FRESH, FRESH)
    observations["infra0"]["pki"] = {
        "ca_fingerprint": "left over",
        "ca_id": "left over",
        "ca_key": False,
        "ca_problems": [],
    }
    problems = _authority.ca_problems(CLUSTER, observations, {"fingerprint": "mine", "id": "mine", "not_after": "2040"})
    assert "infra0: etcd/ca.crt is not the CA in etcd_ca_cert" in merged(problems)[0]


def test_ca_of_a_good_cluster() -> None:
    observations = observed(up(), up(), up())
    for host, observation in observations.items():
        observation["pki"] = {"ca_fingerprint": "f", "ca_id": "f", "ca_key": host == "infra0", "ca_problems": []}
    assert _authority.ca_problems(CLUSTER, observations, None) == []
    assert _authority.ca_problems(CLUSTER, observations, {"fingerprint": "f", "id": "f", "not_after": "2040"}) == []


def test_ca_host_left_out_by_limit() -> None:
    observations = observed(None, up(), up())
    assert _authority.ca_problems(CLUSTER, observations, None) == []
    observations["infra1"]["reasons"]["certificates"] = why("server.crt: missing")
    assert (
        "CA host infra0, which issues them, is not part" in _authority.ca_problems(CLUSTER, observations, None)[0].text
    )


def with_pki(**changes: dict[str, Any]) -> dict[str, Any]:
    """A good cluster, whose PKI differs on some hosts."""
    observations = observed(up(), up(), up())
    for host, observation in observations.items():
        observation["pki"] = {
            "ca_fingerprint": "f",
            "ca_id": "f",
            "ca_key_id": "ours",
            "ca_key": host == "infra0",
            "ca_public_key": "p" if host == "infra0" else None,
            "ca_problems": [],
            "certificates": [{"kind": "server", "authority_key_id": "ours"}],
            **changes.get(host, {}),
        }
    return observations


COPY = {"ca_key": True, "ca_public_key": "p"}
FOREIGN = {"ca_fingerprint": "x", "ca_id": "x", "ca_key_id": "theirs"}
LEAF = {"kind": "server", "authority_key_id": "ours"}
FOREIGN_LEAVES = {**FOREIGN, "certificates": [{"kind": "server", "authority_key_id": "theirs"}]}


@pytest.mark.parametrize(
    ("changes", "hosts"),
    [
        ({}, []),
        # Another ca.crt was copied to a member, whose certificates are of the right CA.
        ({"infra1": FOREIGN}, ["infra1"]),
        ({"infra1": FOREIGN, "infra2": FOREIGN}, ["infra1", "infra2"]),
        # All of it is of another CA: a host of another cluster, perhaps.
        ({"infra1": FOREIGN_LEAVES}, []),
        ({"infra1": {**FOREIGN, "certificates": []}}, []),
        # The CA was exchanged on the CA host, and the new one has signed one certificate of a member that still runs with the former one.
        ({"infra1": {**FOREIGN, "certificates": [LEAF, {**LEAF, "authority_key_id": "theirs"}]}}, []),
        ({"infra1": {"ca_fingerprint": None, "ca_id": None}}, []),
        ({"infra1": FOREIGN, "infra0": {"ca_key_id": None}}, []),
    ],
)
def test_a_ca_crt_that_was_replaced_by_hand(changes: dict[str, Any], hosts: list[str]) -> None:
    observations = with_pki(**changes)
    assert _authority.broken_ca_hosts(CLUSTER, observations) == hosts
    refused = _authority.ca_problems(CLUSTER, observations)
    assert bool(refused) == (not hosts and any(change.get("ca_fingerprint") == "x" for change in changes.values()))


@pytest.mark.parametrize(
    ("changes", "hosts"),
    [
        ({}, []),
        ({"infra2": COPY}, ["infra2"]),
        ({"infra1": COPY, "infra2": COPY}, ["infra1", "infra2"]),
        # It may be the last one there is.
        ({"infra0": {"ca_key": False, "ca_public_key": None}, "infra2": COPY}, []),
        # The key of another CA, an encrypted key, a directory of that name: it may be the only copy.
        ({"infra2": {"ca_key": True, "ca_public_key": "q"}}, []),
        ({"infra2": {"ca_key": True, "ca_public_key": None}}, []),
        ({"infra0": {"ca_problems": ["x"]}, "infra2": COPY}, []),
    ],
)
def test_ca_keys_that_may_be_removed(changes: dict[str, Any], hosts: list[str]) -> None:
    assert _authority.stray_ca_keys(CLUSTER, with_pki(**changes)) == hosts


OWN = {"fingerprint": "f", "id": "f", "not_after": "2040", "public_key": "p", "key": False}


@pytest.mark.parametrize(
    ("changes", "own", "elsewhere"),
    [
        ({}, {}, False),
        ({}, OWN, False),
        ({"infra0": {"ca_key": False, "ca_public_key": None}}, OWN, True),
        ({"infra0": {"ca_key": False, "ca_public_key": None}}, {**OWN, "key": True}, False),
        ({"infra0": {"ca_key": False, "ca_public_key": None}}, {}, False),
    ],
)
def test_ca_that_signs_elsewhere(changes: dict[str, Any], own: dict[str, Any], elsewhere: bool) -> None:
    observations = with_pki(**changes)
    assert _authority.signs_elsewhere(CLUSTER, observations, own) == elsewhere
    assert _authority.ca_problems(CLUSTER, observations, own) == []
    assert _authority.elsewhere_warnings(observations, "/srv") == []
    observations["infra1"]["reasons"]["certificates"] = why("etcd/peer.crt: issued, the certificate is missing")
    assert "infra1: new certificates are due" in _authority.elsewhere_warnings(observations, "/srv")[0]
    assert bool(_authority.ca_problems(CLUSTER, observations, own)) == (bool(changes) and not own)


def test_the_ca_host_has_the_key_of_another_ca() -> None:
    observations = with_pki(infra0={"ca_public_key": "q"})
    assert _authority.ca_problems(CLUSTER, observations) == []
    assert "etcd/ca.key is not the key of etcd_ca_cert" in _authority.ca_problems(CLUSTER, observations, OWN)[0].text


# --- Which CA runs -----------------------------------------------------------------------------------------------------


LEAVES = [{"kind": kind, "authority_key_id": "ours"} for kind in ("server", "peer", "healthcheck-client")]
ALL = [leaf["kind"] for leaf in LEAVES]


def running(*hosts: dict[str, Any]) -> dict[str, Any]:
    """A cluster by host: ca (what ca.crt is, default f), trusts, foreign (kinds), record (CA), down."""
    observations = with_pki()
    for name, host in zip(list(observations), hosts):
        pki, etcd = observations[name]["pki"], observations[name]["etcd"]
        ca = host.get("ca", "f")
        pki.update(ca_id=ca, ca_fingerprint=ca, ca_cert_key=f"key of {ca}", certificates=LEAVES)
        pki.update(foreign=host.get("foreign", []), ca_key_id="ours" if ca == "f" else "theirs")
        etcd["trusts"] = host.get("trusts", "installed")
        etcd["record"] = {"ca": f"key of {host['record']}"} if host.get("record") else None
    return observations


NEW = {"ca": "new", "trusts": "former", "foreign": ALL}
ISSUED = {"ca": "new", "trusts": "former", "foreign": []}
DOWN = {"trusts": "unknown", "record": "f"}


@pytest.mark.parametrize(
    ("hosts", "words"),
    [
        ([{}, {}, {}], []),
        ([{"record": "f"}] * 3, []),
        ([{"trusts": "earlier"}] * 3, []),
        ([DOWN] * 3, []),
        # Exchanged by hand on all hosts, and only on the CA host; with both in a bundle the new one counts.
        (
            [NEW] * 3,
            ["on infra0, infra1, infra2 was exchanged while etcd runs", "Put the former ca.crt back on infra0"],
        ),
        ([NEW, {}, {}], ["on infra0 was exchanged", "(copy it from infra1, infra2)", "the former ca.key on infra0"]),
        ([{**NEW, "foreign": ["server"]}] * 3, ["cut the members off"]),
        ([ISSUED, NEW, NEW], ["Some certificates are from the installed CA, some from the former one. Put the former"]),
        # Damaged already: all certificates are of the new CA, and what runs does not trust it.
        (
            [ISSUED] * 3,
            [
                "There are two ways out. 1. Put the former",
                "rotate_ca.yml -e etcd_allow_interruption=true restarts all members at once",
            ],
        ),
        ([ISSUED, ISSUED, {"ca": "new"}], ["rotate_ca.yml -e etcd_allow_interruption=true"]),
        # Renewed with the same key, and the former certificate has expired: putting it back would not help.
        (
            [{"trusts": "former", "record": "f"}] * 3,
            [
                "a certificate of this CA that has expired since",
                "On one of these hosts after the other",
                "pkill",
            ],
        ),
        ([{"trusts": "former", "record": "f"}, {}, {}], ["etcd on infra0 still uses a different", "pkill"]),
        # Nothing runs: the record, or the certificates where there is none.
        (
            [{**DOWN, "ca": "new"}] * 3,
            ["is not known to be the CA of cluster 'etcd': the member's record", "systemctl start kubelet"],
        ),
        ([{**DOWN, "ca": "new"}, {}, {}], ["on infra0 is not known to be the CA of cluster"]),
        ([{"ca": "new", "trusts": "unknown", "foreign": ALL}] * 3, ["another CA has signed the certificates of all"]),
        ([{"ca": "new", "trusts": "unknown"}] * 3, []),
        # The way back from the damage: the former ca.crt is there again, the certificates are still those of the other CA.
        ([{"ca": "f", "trusts": "untrusted", "foreign": ALL, "record": "f"}] * 3, []),
        ([{"ca": "f", "trusts": "untrusted", "foreign": ALL}] * 3, []),
        ([{"ca": "f", "trusts": "unknown", "foreign": ALL, "record": "f"}] * 3, []),
        (
            [{"ca": "new", "trusts": "untrusted", "foreign": ALL, "record": "f"}] * 3,
            ["is not known to be the CA of cluster"],
        ),
        # What runs wins over the record.
        ([{"ca": "new", "record": "f"}] * 3, []),
        ([{"ca": "new", "record": "f"}, {"ca": "new", "record": "f", "trusts": "unknown"}, {"ca": "new"}], []),
        # A member with a foreign ca.crt is repaired, whichever CA it trusts.
        ([{}, {}, {"ca": "x", "trusts": "former", "foreign": ALL, "record": "f"}], []),
    ],
)
def test_the_ca_of_a_run_is_that_of_what_runs(hosts: list[dict[str, Any]], words: list[str]) -> None:
    observations = running(*hosts)
    problems = _authority.ca_problems(CLUSTER, observations)
    text = " ".join(merged(problems))
    assert bool(problems) == bool(words) and all(item in text for item in words), text
    about = [
        item
        for item in problems
        if any(word in item.text for word in ("was exchanged", "is not known to be the CA of", "pkill"))
    ]
    assert len(about) <= 1 and all(problem.stops == EVERYTHING for problem in about)
    # Without proof that the CA is wrong, the message never advises to stop members.
    assert ("pkill" in text) == any("pkill" in item or "ansible" in item for item in words)


def bundle(*cas: str, leaf: str, trusts: str = "earlier", **etcd: Any) -> dict[str, Any]:
    """Hosts with several CAs in ca.crt, the leaves of one of them, and what etcd makes of them."""
    observations = running(*[{"ca": cas[0], "trusts": trusts, "record": etcd.pop("record", "")}] * 3)
    for item in observations.values():
        item["pki"]["cas"] = [{"id": ca, "key": f"key of {ca}", "name": f"name of {ca}", "subject": ca} for ca in cas]
        item["pki"]["certificates"] = [{**entry, "ca_id": leaf} for entry in LEAVES]
        item["etcd"].update(etcd)
    return observations


@pytest.mark.parametrize(
    ("cas", "leaf", "trusted", "former", "exchanged"),
    [
        # The cluster's own first: only a warning, elsewhere.
        (("f", "x"), "f", None, [], False),
        # Put in front by hand: what it signs from now on would be refused.
        (("new", "f"), "f", None, [], True),
        (("new", "f"), "f", ["name of f"], [], True),
        # A rotation: the CA host knows the former one, or etcd says that it trusts the new one.
        (("new", "f"), "f", ["name of f", "name of new"], ["f"], False),
        (("new", "f"), "f", None, ["f"], False),
        (("new", "f"), "f", ["name of f", "name of new"], [], False),
    ],
)
def test_a_ca_put_in_front_of_another(
    cas: tuple[str, ...], leaf: str, trusted: list[str] | None, former: list[str], exchanged: bool
) -> None:
    for trusts in ("installed", "earlier"):
        observations = bundle(*cas, leaf=leaf, trusts=trusts, trusted=trusted, record="f")
        observations["infra0"]["pki"]["former_cas"] = [
            {"id": item, "key": f"key of {item}", "age": 5.0} for item in former
        ]
        text = " ".join(merged(_authority.ca_problems(CLUSTER, observations)))
        assert ("was exchanged while etcd runs" in text) is exchanged and bool(text) is exchanged, text


def test_the_former_ca_in_the_inventory_while_it_is_rotated() -> None:
    """It is not a different CA: site.yml continues with the CA in use."""
    observations = bundle("new", "f", leaf="new", trusted=["name of f", "name of new"], record="new")
    observations["infra0"]["pki"]["former_cas"] = [{"id": "f", "key": "key of f", "age": 5.0}]
    own = {
        "id": "f",
        "fingerprint": "f",
        "public_key": "key of f",
        "not_after": "2030-01-01T00:00:00+00:00",
        "key": True,
    }
    assert _authority.ca_problems(CLUSTER, observations, own) == []


def test_members_of_a_limited_run_are_compared_too() -> None:
    """Without the CA host, what runs and the record tell the same."""
    for hosts, refused in (([{}, NEW, NEW], True), ([{}, {}, {}], False), ([{}, {**DOWN, "ca": "new"}, {}], True)):
        observations = running(*hosts)
        del observations["infra0"]
        assert bool(_authority.ca_problems(CLUSTER, observations)) == refused


def test_a_ca_certificate_that_was_renewed() -> None:
    """The same CA for every comparison: members get the new certificate, and nothing is refused."""
    observations = with_pki(infra0={"ca_fingerprint": "f2"})
    assert (
        _authority.ca_problems(CLUSTER, observations) == [] and _authority.broken_ca_hosts(CLUSTER, observations) == []
    )
    reason = "etcd/ca.crt: the CA's certificate has been renewed (infra0 has the new one)"
    renewals = _authority.renewal_reasons(CLUSTER, observations)
    assert {host: found.text for host, found in renewals.items()} == {"infra1": reason, "infra2": reason}
    found = _authority.with_renewals(CLUSTER, observations)
    assert [[r["text"] for r in item["reasons"]["certificates"]] for item in found.values()] == [[], [reason], [reason]]
    assert _authority.renewal_reasons(CLUSTER, with_pki()) == {}


@pytest.mark.parametrize(
    ("own", "brought", "renewed"),
    [
        ({}, False, []),
        ({"fingerprint": "f", "id": "f", "not_after": "2040", "public_key": "p"}, False, []),
        # Renewed in the inventory: it goes to all. Renewed on the CA host: the older one in the inventory does not.
        (
            {"fingerprint": "f2", "id": "f", "not_after": "2050", "public_key": "p"},
            True,
            ["infra0", "infra1", "infra2"],
        ),
        ({"fingerprint": "f0", "id": "f", "not_after": "2030", "public_key": "p"}, False, []),
        ({"fingerprint": "x", "id": "x", "not_after": "2050", "public_key": "p"}, True, []),
    ],
)
def test_own_ca_that_was_renewed(own: dict[str, Any], brought: bool, renewed: list[str]) -> None:
    observations = with_pki()
    for observation in observations.values():
        observation["pki"]["ca_not_after"] = "2040"
    assert _authority.brings_in(CLUSTER, observations, own) == brought
    assert list(_authority.renewal_reasons(CLUSTER, observations, own)) == renewed
    assert bool(_authority.ca_problems(CLUSTER, observations, own)) == (own.get("id") == "x")


def test_members_that_run_with_an_earlier_certificate_of_their_ca() -> None:
    observations = running({}, {"trusts": "earlier"}, {"trusts": "earlier"})
    assert _authority.trust_warnings(observations)[0].startswith(
        "infra1, infra2: the CA's certificate was renewed after"
    )
    assert _authority.trust_warnings(running({}, {}, {})) == []


def test_own_ca_and_a_members_damaged_ca_crt() -> None:
    """It is repaired, as without an own CA. A foreign CA of all members is not."""
    for changes, refused in (({"infra1": FOREIGN}, False), ({"infra1": FOREIGN_LEAVES}, True)):
        problems = _authority.ca_problems(CLUSTER, with_pki(**changes), OWN)
        assert bool(problems) == refused and all("infra1" in problem.text for problem in problems)


@pytest.mark.parametrize(
    ("changes", "own", "stops"),
    [
        # Members run and restart with their certificates. Only new certificates wait.
        ({"infra0": {"ca_key": False, "ca_public_key": None}}, {}, (FOUND, SIGN)),
        # A member that could not start with the certificates that it has must not be stopped.
        ({"infra0": {"ca_key": False, "ca_public_key": None}, "infra2": {"usable": False}}, {}, EVERYTHING),
        ({"infra1": FOREIGN_LEAVES}, {}, EVERYTHING),
        # The CA of the inventory cannot be installed, so the run must not begin.
        ({}, {**OWN, "id": "other", "fingerprint": "other"}, EVERYTHING),
        ({"infra0": {"ca_public_key": "q"}}, OWN, EVERYTHING),
        ({"infra0": {"ca_fingerprint": None, "ca_id": None}}, {}, EVERYTHING),
    ],
)
def test_what_a_problem_of_the_ca_stops(changes: dict[str, Any], own: dict[str, Any], stops: tuple[str, ...]) -> None:
    observations = with_pki(**changes)
    observations["infra2"]["reasons"]["certificates"] = why("etcd/peer.crt: renewed, 9 days left of 365")
    assert [problem.stops for problem in _authority.ca_problems(CLUSTER, observations, own)] == [stops]


def test_what_waits_if_the_ca_host_is_not_in_the_run() -> None:
    for usable, stops in ((True, (FOUND, SIGN)), (False, EVERYTHING)):
        observations = with_pki(infra1={"usable": usable})
        del observations["infra0"]
        observations["infra1"]["reasons"]["certificates"] = why("etcd/peer.crt: x")
        assert [problem.stops for problem in _authority.ca_problems(CLUSTER, observations)] == [stops]


# --- What follows for a run ----------------------------------------------------------------------------------------------


def whole(observations: dict[str, Any]) -> dict[str, Any]:
    """The plan of site.yml, with these PKIs on hosts where nothing else differs."""
    found = complete(*ALL_UP)
    for host, item in found.items():
        item["pki"] = {**item["pki"], **observations[host]["pki"]}
        item["etcd"] = {**item["etcd"], **{k: v for k, v in observations[host]["etcd"].items() if k in ADDED}}
    return planned(found)


ADDED = ("trusts", "record", "known_addresses")


@pytest.mark.parametrize("hosts", [[NEW, NEW, NEW], [NEW, {}, {}], [ISSUED, ISSUED, ISSUED]])
def test_a_run_with_an_exchanged_ca_does_nothing(hosts: list[dict[str, Any]]) -> None:
    plan = whole(running(*hosts))
    assert plan["action"] == "refuse" and plan["order"] == plan["start"] == plan["record"] == []
    assert len(plan["problems"]) == 1 and "was exchanged while etcd runs" in plan["problems"][0]


def test_a_run_brings_a_renewed_ca_certificate_to_the_members() -> None:
    plan = whole(with_pki(infra0={"ca_fingerprint": "f2"}))
    assert plan["certificates"] and not plan["settled"] and plan["problems"] == [] and plan["action"] == "nothing"
    assert any("infra1, infra2: certificates: etcd/ca.crt: the CA's certificate" in line for line in plan["lines"])
    assert plan["replace_ca"] == [] and not plan["ca"]


def test_hosts_that_leave_an_address_in_a_run() -> None:
    """Only those whose member has its turn: the others keep the certificates with both addresses."""
    found = complete(*ALL_UP, differs="1")
    members = listing()
    for number in (1, 2):
        members[number]["peer_urls"] = ["https://10.0.0.99:2380"]
    for host, item in found.items():
        item["etcd"]["members"] = members
        item["etcd"]["known_addresses"] = [] if host == "infra0" else ["10.0.0.99"]
    plan = planned(found)
    assert plan["moves"] == ["infra1"] and plan["order"] == ["infra1"]
    assert plan["known_addresses"] == {"infra0": [], "infra1": ["10.0.0.99"], "infra2": ["10.0.0.99"]}


@pytest.mark.parametrize(
    ("claimed", "told", "kept"),
    [
        (["10.0.0.99"], ["https://10.0.0.99:2380"], ["10.0.0.99"]),
        # No member knows that address, or it is another member's.
        (["192.0.2.9"], ["https://10.0.0.7:2380"], []),
        (["10.0.0.8"], ["https://10.0.0.8:2380"], []),
    ],
)
def test_a_member_alone_has_no_address_signed(claimed: list[str], told: list[str], kept: list[str]) -> None:
    found = complete(*ALL_UP)
    members, invented = listing(), listing()
    members[1]["peer_urls"], invented[1]["peer_urls"] = told, [f"https://{address}:2380" for address in claimed]
    for host, item in found.items():
        item["etcd"]["members"] = invented if host == "infra1" else members
    found["infra1"]["etcd"]["known_addresses"] = claimed
    assert planned(found)["known_addresses"]["infra1"] == kept


def test_no_member_moves_unless_its_certificates_can_be_issued_afterwards() -> None:
    found = complete(*ALL_UP, differs="1")
    members = listing()
    members[1]["peer_urls"] = ["https://10.0.0.99:2380"]
    for item in found.values():
        item["etcd"]["members"] = members
    found["infra1"]["etcd"]["known_addresses"] = ["10.0.0.99"]
    assert planned(found)["moves"] == ["infra1"]
    del found["infra0"]
    plan = planned(found)
    assert (
        plan["moves"] == plan["order"] == [] and "which need the CA host: run again with infra0" in plan["problems"][0]
    )


def test_a_member_that_is_started_as_it_was_does_not_move() -> None:
    found = complete(STOPPED, STOPPED, STOPPED)
    found["infra0"]["etcd"]["known_addresses"] = ["192.0.2.5"]
    plan = planned(found)
    assert plan["action"] == "start" and plan["moves"] == []


def test_a_mode_is_repaired_without_a_ca_that_signs() -> None:
    found = complete(*ALL_UP, differs="1")
    found["infra0"]["pki"]["ca_key"] = False
    found["infra1"]["reasons"]["certificates"] = why("/etc/kubernetes/pki: mode is 0777")
    found["infra1"]["pki"]["due"] = []
    plan = planned(found)
    assert plan["problems"] == [] and plan["certificates"] and plan["order"] == ["infra1"]
    found["infra1"]["pki"]["due"] = ["peer"]
    assert "the CA's key is lost" in planned(found)["problems"][0]


def test_what_one_member_trusts_does_not_count_for_all() -> None:
    """Two members are down, with certificates of another CA than ca.crt, and nothing is recorded."""
    foreign = {"certificates": [{"kind": "peer", "authority_key_id": "x"}], "foreign": ["peer"]}
    found = complete(STOPPED, STOPPED, {**STOPPED, "running": True, "trusts": "untrusted"})
    for item in found.values():
        item["pki"].update(foreign)
    assert "another CA has signed the certificates" in planned(found)["problems"][0]


def test_a_ca_without_any_proof() -> None:
    """Exchanged under members that run, the certificates removed to be made again, and nothing is recorded."""
    found = complete(*[{**STOPPED, "running": True, "ready": True, "trusts": "unproven"}] * 3, due="012")
    assert "no certificate is left to prove that it is the same CA" in planned(found)["problems"][0]
    # With a record it is known.
    for item in found.values():
        item["pki"]["ca_cert_key"] = "k"
        item["etcd"]["record"] = {"cluster_id": "c1", "member_id": None, "data_dir": "/x", "ca": "k"}
        item["etcd"]["member_id"] = None
    assert "no certificate is left" not in " ".join(planned(found)["problems"])


@pytest.mark.parametrize("own", [{}, {**OWN, "fingerprint": "f2", "not_after": "2050"}])
@pytest.mark.parametrize("states", [ALL_UP, (STOPPED, STOPPED, STOPPED)], ids=["running", "down"])
def test_a_ca_host_that_lost_its_library_for_certificates_has_not_lost_its_ca(states: Any, own: dict[str, Any]) -> None:
    """Members are started and restarted; certificates wait for the library."""
    found = complete(*states, differs="1")
    found["infra0"]["pki"], found["infra0"]["facts"]["cryptography_problem"] = {}, "no cryptography"
    plan = planned(found, own_ca=own)
    assert plan["problems"] == [] and plan["notices"] == ["infra0: no cryptography"] and not plan["ca"], plan
    assert plan["order"] or plan["start"]
    found["infra1"]["reasons"]["certificates"] = why("etcd/server.crt: missing", part="certificates")
    plan = planned(found, own_ca=own)
    assert "infra0: no cryptography" in plan["problems"] + plan["notices"]
    assert not plan["certificates"] or plan["action"] == "refuse"
    assert plan["order"] == [] and "infra1" not in plan["start"]
