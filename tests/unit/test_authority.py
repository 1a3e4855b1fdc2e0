"""What the CA of each host means for a run."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.kubeadm.etcd.plugins.module_utils import _authority
from ansible_collections.kubeadm.etcd.plugins.module_utils._problem import merged
from test_plan import CLUSTER, FRESH, observed, up


@pytest.mark.parametrize(
    ("change", "own", "words"),
    [
        (
            {"infra0": {"ca_fingerprint": None, "ca_key": False}},
            None,
            "infra0: ca.crt is missing, and cluster 'etcd' has",
        ),
        ({"infra0": {"ca_fingerprint": None}}, None, "ca.crt is missing, ca.key is there"),
        ({"infra0": {"ca_fingerprint": None}}, None, "(infra1, infra2 have the same ca.crt)"),
        ({"infra1": {"ca_fingerprint": "other"}}, None, "infra1 trust another CA"),
        ({"infra0": {"ca_key": False}}, None, "ca.key is not in"),
        ({}, "mine", "etcd_ca_cert is another CA"),
        ({"infra0": {"ca_fingerprint": "left over"}}, "f", "another CA than the one in use on infra0"),
        ({"infra0": {"ca_problems": ["ca.crt is expired"]}}, None, "infra0: ca.crt is expired"),
    ],
)
def test_ca(change: dict[str, Any], own: str | None, words: str) -> None:
    observations = observed(up(), up(), up())
    for host, observation in observations.items():
        observation["pki"] = {
            "ca_fingerprint": "f",
            "ca_key": host == "infra0",
            "ca_problems": [],
            **change.get(host, {}),
        }
        observation["reasons"]["certificates"] = ["server.crt: ends soon"]
    assert any(words in text for text in merged(_authority.ca_problems(CLUSTER, observations, {"fingerprint": own})))


def test_a_ca_that_an_earlier_attempt_has_left() -> None:
    """Nobody has data, but a ca.crt is never replaced."""
    observations = observed(FRESH, FRESH, FRESH)
    observations["infra0"]["pki"] = {"ca_fingerprint": "left over", "ca_key": False, "ca_problems": []}
    problems = _authority.ca_problems(CLUSTER, observations, {"fingerprint": "mine"})
    assert "infra0: etcd/ca.crt is another CA than etcd_ca_cert" in merged(problems)[0]


def test_ca_of_a_good_cluster() -> None:
    observations = observed(up(), up(), up())
    for host, observation in observations.items():
        observation["pki"] = {"ca_fingerprint": "f", "ca_key": host == "infra0", "ca_problems": []}
    assert _authority.ca_problems(CLUSTER, observations, None) == []
    assert _authority.ca_problems(CLUSTER, observations, {"fingerprint": "f"}) == []


def test_ca_host_left_out_by_limit() -> None:
    observations = observed(None, up(), up())
    assert _authority.ca_problems(CLUSTER, observations, None) == []
    observations["infra1"]["reasons"]["certificates"] = ["server.crt: missing"]
    assert "CA host infra0 is not part" in _authority.ca_problems(CLUSTER, observations, None)[0].text


def with_pki(**changes: dict[str, Any]) -> dict[str, Any]:
    """A good cluster, whose PKI differs on some hosts."""
    observations = observed(up(), up(), up())
    for host, observation in observations.items():
        observation["pki"] = {
            "ca_fingerprint": "f",
            "ca_key_id": "ours",
            "ca_key": host == "infra0",
            "ca_public_key": "p" if host == "infra0" else None,
            "ca_problems": [],
            "certificates": [{"kind": "server", "authority_key_id": "ours"}],
            **changes.get(host, {}),
        }
    return observations


FOREIGN = {"ca_fingerprint": "x", "ca_key_id": "theirs"}
FOREIGN_LEAVES = {**FOREIGN, "certificates": [{"kind": "server", "authority_key_id": "theirs"}]}


@pytest.mark.parametrize(
    ("changes", "hosts"),
    [
        ({}, []),
        # Somebody copied another ca.crt there: the member's certificates say where it belongs.
        ({"infra1": FOREIGN}, ["infra1"]),
        ({"infra1": FOREIGN, "infra2": FOREIGN}, ["infra1", "infra2"]),
        # All of it is of another CA: a host of another cluster, perhaps.
        ({"infra1": FOREIGN_LEAVES}, []),
        ({"infra1": {**FOREIGN, "certificates": []}}, []),
        ({"infra1": {"ca_fingerprint": None}}, []),
        ({"infra1": FOREIGN, "infra0": {"ca_key_id": None}}, []),
    ],
)
def test_ca_crt_that_somebody_replaced(changes: dict[str, Any], hosts: list[str]) -> None:
    observations = with_pki(**changes)
    assert _authority.broken_ca_hosts(CLUSTER, observations) == hosts
    refused = _authority.ca_problems(CLUSTER, observations)
    assert bool(refused) == (not hosts and any(change.get("ca_fingerprint") == "x" for change in changes.values()))


@pytest.mark.parametrize(
    ("changes", "hosts"),
    [
        ({}, []),
        ({"infra2": {"ca_key": True}}, ["infra2"]),
        ({"infra1": {"ca_key": True}, "infra2": {"ca_key": True}}, ["infra1", "infra2"]),
        # It may be the last one there is.
        ({"infra0": {"ca_key": False}, "infra2": {"ca_key": True}}, []),
        ({"infra0": {"ca_problems": ["x"]}, "infra2": {"ca_key": True}}, []),
    ],
)
def test_ca_keys_that_may_be_removed(changes: dict[str, Any], hosts: list[str]) -> None:
    assert _authority.stray_ca_keys(CLUSTER, with_pki(**changes)) == hosts


OWN = {"fingerprint": "f", "public_key": "p", "key": False}


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
    observations["infra1"]["reasons"]["certificates"] = ["etcd/peer.crt: issued, missing"]
    assert "infra1 need certificates" in _authority.elsewhere_warnings(observations, "/srv")[0]
    assert bool(_authority.ca_problems(CLUSTER, observations, own)) == (bool(changes) and not own)


def test_ca_key_on_the_host_is_another_cas() -> None:
    observations = with_pki(infra0={"ca_public_key": "q"})
    assert _authority.ca_problems(CLUSTER, observations) == []
    assert "etcd/ca.key does not belong to etcd_ca_cert" in _authority.ca_problems(CLUSTER, observations, OWN)[0].text
