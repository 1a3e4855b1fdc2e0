"""A new certificate of the CA in use: the remaining steps are read from the hosts, and each member restarts once."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from ansible_collections.kubeadm.etcd.plugins.module_utils._control import renew_ca as _renewal
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.view import View
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.wish import Wish
from ansible_collections.kubeadm.etcd.plugins.module_utils._operations import rotate_ca as _rotate_ca
from test_decision import HOSTS, OTHER_MANIFEST, cluster_of
from test_rotate_ca import ALL_UP, rotated, seen, steps

SOON, LATE, LATER = "2027-01-01T00:00:00+00:00", "2036-11-25T00:00:00+00:00", "2046-11-25T00:00:00+00:00"
YEAR = 31536000.0


def at(gain: float, *certificates: str, ends: str = SOON, **trusts: str) -> dict[str, Any]:
    """Observations. gain: of a certificate that is made now. certificates: of the CA, in the ca.crt of each host. trusts: by host."""
    found = seen(states=ALL_UP)
    for host, certificate in zip(HOSTS, certificates or ("f",) * 3):
        pki = found[host]["pki"]
        pki.update(ca_fingerprint=certificate, ca_gain=gain, ca_not_after=ends, ca_self_signed=True, ca_cert="<old>")
        pki.update(ca_public_key="old-k", ca_subject="the old CA")
        found[host]["etcd"]["trusts"] = trusts.get(host, "installed")
    return found


def renewed(found: dict[str, Any], phase: str = "", **wishes: Any) -> dict[str, Any]:
    return rotated(found, **{"ca_same_key": True, "phase": phase, "backup_before_change": True, **wishes})


def own(identity: str = "old", ends: str = LATER) -> dict[str, Any]:
    return {"fingerprint": "g", "id": identity, "key": False, "not_after": ends}


EARLIER = dict.fromkeys(HOSTS, "earlier")


@pytest.mark.parametrize(
    ("found", "wishes", "phases", "phase", "expected"),
    [
        (at(9 * YEAR), {}, ["renew", "load"], "renew", "renew_ca:0"),
        # No phase before the one before it is over.
        (at(9 * YEAR), {}, ["renew", "load"], "load", ""),
        # The CA host has it; killed between the files, then between the restarts. The leader comes last.
        (at(0.0, "g", "f", "f", infra0="earlier"), {}, ["load"], "load", "trust_ca:12 turn:120"),
        (at(0.0, "g", "g", "f", infra0="earlier", infra1="earlier"), {}, ["load"], "load", "trust_ca:2 turn:120"),
        (at(0.0, infra0="earlier", infra2="earlier"), {}, ["load"], "load", "turn:20"),
        # Completed: another run does not make a certificate.
        (at(86400.0), {}, [], "renew", ""),
        (at(0.0), {}, [], "load", ""),
        # The certificate of the inventory is used, even if a new one would last longer.
        (at(0.0), {"own_ca": own()}, ["renew", "load"], "renew", "renew_ca:0"),
        (at(9 * YEAR, ends=LATER), {"own_ca": own()}, [], "renew", ""),
        # Named, and newer than the one in use, it needs no further variable. It may be there already, and not loaded.
        (at(0.0), {"own_ca": own(), "ca_same_key": False}, ["renew", "load"], "renew", "renew_ca:0"),
        (at(0.0, ends=LATER, **EARLIER), {"own_ca": own(), "ca_same_key": False}, ["load"], "load", "turn:120"),
    ],
)  # fmt: skip
def test_what_is_left(
    found: dict[str, Any], wishes: dict[str, Any], phases: list[str], phase: str, expected: str
) -> None:
    whole = renewed(found, **wishes)
    assert whole["problems"] == [] and whole["phases"] == phases
    assert steps(whole) == ("snapshot:1" if phases else "")
    said = "over the same key, in the phases " + ", ".join(phases) if phases else "every member has loaded it"
    assert said in whole["lines"][0]
    plan = renewed(found, phase, **wishes)
    assert plan["problems"] == [] and steps(plan) == expected and plan["settled"] == (not expected)
    # Nothing is issued again.
    assert plan["certificates"] == [] and plan["order"] == [f"infra{n}" for n in expected.partition("turn:")[2]]
    assert plan["trusted_ca"] == "<old>"


@pytest.mark.parametrize(
    ("found", "wishes", "words"),
    [
        (seen("trust", states=ALL_UP), {}, "the CA is being replaced by another one"),
        (at(9 * YEAR), {"own_ca": own("another")}, "etcd_ca_cert is another CA than the one in use"),
        (at(9 * YEAR), {"without": "infra2"}, "infra2: this host is not part of the run"),
        (at(9 * YEAR), {"key": "other-k"}, "infra0: /etc/kubernetes/pki/etcd/ca.key is missing, or is not the key of ca.crt"),
        (at(9 * YEAR), {"key": None}, "infra0: /etc/kubernetes/pki/etcd/ca.key is missing, or is not the key of ca.crt"),
        (at(9 * YEAR), {"self_signed": False}, "infra0: the CA in use (the old CA) is an intermediate CA"),
    ],
)  # fmt: skip
def test_refused(found: dict[str, Any], wishes: dict[str, Any], words: str) -> None:
    changes = dict(wishes)
    found.pop(changes.pop("without", ""), None)
    pki = found["infra0"]["pki"]
    pki.setdefault("ca_gain", 9 * YEAR)
    pki.setdefault("ca_self_signed", True)
    pki.setdefault("ca_cert", "<old>")
    if "key" in changes:
        pki["ca_public_key"] = changes.pop("key")
    if "self_signed" in changes:
        pki["ca_self_signed"] = changes.pop("self_signed")
    for phase in ("", "renew", "load"):
        plan = renewed(found, phase, **changes)
        assert any(text.startswith(words) for text in plan["problems"]), plan["problems"]
        assert plan["steps"] == []


@pytest.mark.parametrize("wishes", [{"ca_same_key": True}, {}])
def test_a_cluster_of_two_is_interrupted_only_with_permission(wishes: dict[str, Any]) -> None:
    """By this operation and by a rotation. Steps without a restart need no permission."""
    found = at(9 * YEAR)
    del found["infra2"]

    def problems(**more: Any) -> list[str]:
        view = View(copy.deepcopy(cluster_of(2)), found, HOSTS[:2])
        return list(_rotate_ca.plan(view, Wish(operation="rotate_ca", **wishes, **more))["problems"])

    assert ["would interrupt cluster 'etcd'" in text for text in problems()] == [True]
    assert problems(allow_interruption=True) == []
    assert wishes or problems(until="new") == []
    # Every member has loaded it.
    found["infra0"]["pki"]["ca_gain"] = 0.0
    assert not wishes or problems() == []
    found["infra0"]["pki"]["ca_gain"] = 9 * YEAR
    # Other differences are left to site.yml.
    found["infra1"]["reasons"]["manifest"] = OTHER_MANIFEST
    assert ["Run site.yml first" in text for text in problems(allow_interruption=True)] == [True]
    found["infra1"]["reasons"]["manifest"] = []
    found["infra1"]["etcd"]["alarms"] = [{"kind": "CORRUPT", "member": "infra1"}]
    assert any("CORRUPT" in text for text in problems(allow_interruption=True))
    found["infra1"]["etcd"].update(ready=False, running=False)
    assert any("etcd is not ready" in text for text in problems(allow_interruption=True))


def test_what_the_inventory_brings_needs_no_key() -> None:
    found = at(9 * YEAR)
    found["infra0"]["pki"].update(ca_public_key=None, ca_self_signed=False)
    assert steps(renewed(found, "renew", own_ca=own())) == "renew_ca:0"


@pytest.mark.parametrize(
    ("started", "begin", "expected"),
    [(5.0, "1970-01-01T00:00:06+00:00", ["c"]), (7.0, "1970-01-01T00:00:06+00:00", []), (0.0, LATE, []), (5.0, None, [])],
)  # fmt: skip
def test_a_kube_apiserver_from_before_the_certificate(started: float, begin: str | None, expected: list[str]) -> None:
    found = {"c": {"apiserver": {"started": started}, "pki": {"ca_not_before": begin}}}
    assert _renewal.planes_before(["c"], found) == expected
    assert _renewal.planes_before(["c"], {"c": {"apiserver": None, "pki": {"ca_not_before": LATE}}}) == []
