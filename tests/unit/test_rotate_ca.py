"""The plan of a CA rotation, and other runs during a rotation."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from ansible_collections.kubeadm.etcd.plugins.module_utils._control import authority as _authority
from ansible_collections.kubeadm.etcd.plugins.module_utils._control import rotation as _rotation
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.control_plane import Client
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.plan import refusal
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.view import View
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.wish import Wish
from ansible_collections.kubeadm.etcd.plugins.module_utils._operations import move_ca as _move_ca
from ansible_collections.kubeadm.etcd.plugins.module_utils._operations import rotate_ca as _rotate_ca
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.problems import merged
from test_decision import CLUSTER, FRESH, HOSTS, OTHER_MANIFEST, RECORD, up, why
from test_run import ALL_UP, observations, planned

DAY = 86400.0


def ca(name: str) -> dict[str, Any]:
    return {
        "id": name,
        "fingerprint": f"{name}-f",
        "key": f"{name}-k",
        "name": f"{name}-n",
        "subject": f"the {name} CA",
        "cert": f"<{name}>",
    }


def leaves(*signers: str) -> list[dict[str, Any]]:
    kinds = ("server", "peer", "healthcheck-client", "apiserver-etcd-client")
    return [
        {
            "kind": kind,
            "ca_id": signers[i % len(signers)],
            "authority_key_id": None,
            "reasons": [],
            "serial": f"{i}",
            "issuer": "x",
        }
        for i, kind in enumerate(kinds)
    ]


def member(item: dict[str, Any], cas: str, loaded: str | None, signer: str, record: str) -> None:
    held = [ca(name) for name in cas.split()]
    first = held[0]
    item["pki"].update(
        cas=held,
        ca_id=first["id"],
        ca_fingerprint=first["fingerprint"],
        ca_cert_key=first["key"],
        ca_not_after="2030-01-01T00:00:00+00:00",
        certificates=leaves(*signer.split()),
        foreign=[],
    )
    item["etcd"].update(
        trusted=None if loaded is None else [f"{name}-n" for name in loaded.split()], trusts="installed"
    )
    number = item["facts"]["addresses"][0][-1]
    identity = {"6": "0", "7": "1", "8": "2"}[number]
    item["etcd"]["member_id"] = identity if item["etcd"]["has_data"] else None
    record_of = {**RECORD, "name": f"infra{identity}", "member_id": identity, "ca": f"{record}-k"}
    item["etcd"]["record"] = record_of if record and item["etcd"]["has_data"] else None


# Stages of a rotation: the CAs in ca.crt, those that are loaded, the signer of the leaves, the CA in the record, and further files of the CA host.
STAGES: dict[str, tuple[str, str, str, str, dict[str, Any]]] = {
    "none": ("old", "old", "old", "old", {}),
    "new": ("old", "old", "old", "old", {"next_ca": {**ca("new"), "has_key": True}}),
    "trust": ("old new", "old new", "old", "old", {"next_ca": {**ca("new"), "has_key": True}}),
    "exchanged": ("new old", "old new", "old", "old", {"former_cas": [{**ca("old"), "age": 5.0}]}),
    "issue": ("new old", "old new", "new", "new", {"former_cas": [{**ca("old"), "age": 5.0}]}),
    "dropped": ("new", "old new", "new", "new", {"former_cas": [{**ca("old"), "age": 5.0}]}),
    "over": ("new", "new", "new", "new", {"former_cas": [{**ca("old"), "age": 5.0}]}),
    "long ago": ("new", "new", "new", "new", {"former_cas": [{**ca("old"), "age": DAY + 5}]}),
}


def seen(
    stage: str = "none", states: tuple[Any, ...] = ALL_UP, **changes: tuple[str, str | None, str]
) -> dict[str, Any]:
    """Observations at a stage. changes: by host, the CAs in ca.crt, the loaded CAs, and the issuers."""
    found = observations(*states)
    cas, loaded, signer, record, more = STAGES[stage]
    for host, item in found.items():
        held, has, signs = changes.get(host, (cas, loaded, signer))
        member(item, held, has, signs, record)
    if "infra0" in found:
        found["infra0"]["pki"].update(copy.deepcopy(more))
        found["infra0"]["backup"] = {"dir": "/var/backups/etcd"}
    for host in found:
        found[host].setdefault("backup", {"dir": "/var/backups/etcd"})
        found[host]["etcd"]["answers"] = True
    return found


def rotated(
    found: dict[str, Any], planes: dict[str, Any] | None = None, lost: tuple[str, ...] = (), **wishes: Any
) -> dict[str, Any]:
    there = planes or {}
    view = View(
        copy.deepcopy(CLUSTER),
        found,
        [host for host in HOSTS if host in found],
        list(lost),
        clients=[Client(host, host) for host in there],
        of_clients={host: item for host, item in there.items() if item},
    )
    return _rotate_ca.plan(view, Wish(operation="rotate_ca", **wishes))


def steps(plan: dict[str, Any]) -> str:
    """Kinds of steps with the numbers of their hosts."""
    found: dict[str, str] = {}
    for step in plan["steps"]:
        found[step["kind"]] = found.get(step["kind"], "") + step["host"][-1]
    return " ".join(f"{kind}:{hosts}" for kind, hosts in found.items())


@pytest.mark.parametrize(
    ("stage", "phases", "words"),
    [
        (
            "none",
            ["new", "trust", "issue", "drop"],
            "its CA is replaced by a new one, in the phases new, trust, issue, drop",
        ),
        (
            "new",
            ["trust", "issue", "drop"],
            "the CA the old CA is being replaced by the new CA; what is left: trust, issue, drop",
        ),
        ("trust", ["issue", "drop"], "what is left: issue, drop"),
        ("exchanged", ["issue", "drop"], "what is left: issue, drop"),
        ("issue", ["drop"], "what is left: drop"),
        ("dropped", ["drop"], "what is left: drop"),
        ("over", [], "its CA was replaced less than a day ago, and nothing is left to do"),
        ("long ago", ["new", "trust", "issue", "drop"], "its CA is replaced by a new one"),
    ],
)
def test_a_rotation_in_one_run(stage: str, phases: list[str], words: str) -> None:
    plan = rotated(seen(stage), backup_before_change=True)
    assert plan["problems"] == [] and plan["phases"] == phases and words in plan["lines"][0]
    # A snapshot, and nothing else before the phases.
    assert steps(plan) == ("snapshot:1" if phases else "")
    assert any("Every other client of etcd has to trust the new CA" in text for text in plan["notices"]) == (
        "issue" in phases
    )
    assert plan["action"] == "rotate_ca" and plan["state"] == "existing" and plan["published"] == HOSTS


@pytest.mark.parametrize(
    ("stage", "changes", "phase", "expected"),
    [
        ("none", {}, "new", "next_ca:0"),
        ("new", {}, "new", ""),
        ("new", {}, "trust", "trust_ca:012 turn:120"),
        ("new", {"infra0": ("old new", "old new", "old")}, "trust", "trust_ca:12 turn:12"),
        ("trust", {"infra1": ("old new", "old", "old")}, "trust", "turn:1"),
        ("trust", {}, "trust", ""),
        ("trust", {}, "issue", "exchange_ca:0 certificates:012 record:012"),
        ("exchanged", {"infra0": ("new old", "old new", "new")}, "issue", "certificates:12 record:012"),
        # The one that is done is turned round as well.
        (
            "issue",
            {"infra1": ("old new", "old new", "new"), "infra2": ("new old", "old new", "old")},
            "issue",
            "certificates:12",
        ),
        ("issue", {}, "issue", ""),
        ("issue", {}, "drop", "trust_ca:012 turn:120"),
        ("dropped", {}, "drop", "turn:120"),
        ("dropped", {"infra1": ("new", "new", "new")}, "drop", "turn:20"),
        ("over", {}, "drop", ""),
    ],
)
def test_the_steps_of_each_phase(stage: str, changes: dict[str, Any], phase: str, expected: str) -> None:
    plan = rotated(seen(stage, **changes), phase=phase, backup_before_change=True)
    assert plan["problems"] == [] and steps(plan) == expected and plan["settled"] == (not expected)
    assert bool(plan["lines"]) == bool(expected)
    assert plan["order"] == [f"infra{n}" for n in expected.partition("turn:")[2]]
    assert (
        plan["trusted_ca"]
        == {"": "", "new": "<old><new>", "trust": "<old><new>", "issue": "<new><old>", "drop": "<new>"}[
            phase if stage not in ("none", "over") and (expected or stage == "new") else ""
        ]
        or not expected
    )
    if plan["order"]:
        assert "one member after the other: " + ", ".join(plan["order"]) in plan["lines"][0]
    assert plan["replace_ca"] == plan["certificates"]


def test_a_record_of_the_former_ca_is_renewed_before_that_is_dropped() -> None:
    """Otherwise, if all members stop, their CA would seem to have been exchanged."""
    found = seen("issue")
    found["infra1"]["etcd"]["record"]["ca"] = "old-k"
    assert steps(rotated(found, phase="drop")) == "trust_ca:012 turn:120 record:1"


@pytest.mark.parametrize(
    ("until", "phase", "stage", "expected"),
    [
        ("trust", "trust", "new", "trust_ca:012 turn:120"),
        ("trust", "issue", "trust", ""),
        ("issue", "drop", "issue", ""),
        ("new", "new", "none", "next_ca:0"),
    ],
)
def test_a_run_ends_after_the_phase_of_etcd_until(until: str, phase: str, stage: str, expected: str) -> None:
    plan = rotated(seen(stage), phase=phase, until=until)
    assert plan["problems"] == [] and steps(plan) == expected


def test_a_phase_that_was_reached_is_reported() -> None:
    plan = rotated(seen("trust"), until="trust")
    assert plan["phases"] == [] and "the phases up to trust are over, and issue comes next" in plan["lines"][0]
    assert not any("Every other client" in text for text in plan["notices"])


def test_no_phase_begins_before_the_one_before_it_is_over() -> None:
    found = seen("trust", infra1=("old new", "old", "old"))
    plan = rotated(found, phase="issue")
    assert (
        plan["problems"] == ["the phase trust is not over on infra1. Run rotate_ca.yml again."] and plan["steps"] == []
    )
    cluster = {"name": "etcd"}
    assert refusal(plan, cluster, True).startswith("The phase issue does not begin. 1 problem(s) in cluster etcd:")
    # In check mode, nothing of the phase before was done.
    assert rotated(found, phase="issue", check=True)["problems"] == []


def with_reason(part: str, reason: list[dict[str, Any]]) -> dict[str, Any]:
    found = seen()
    found["infra1"]["reasons"][part] = reason
    return found


@pytest.mark.parametrize(
    ("found", "wishes", "words"),
    [
        (seen(states=(*ALL_UP[:2], None)), {}, "infra2: this host is not part of the run"),
        (seen(), {"lost": ("infra1",)}, "infra1 cannot be reached"),
        (seen(states=(ALL_UP[0], {**up(), "ready": False}, ALL_UP[2])), {}, "infra1: etcd is not ready. Run site.yml"),
        (seen(infra2=("old", None, "old")), {}, "infra2: etcd does not report which CAs it trusts"),
        (with_reason("manifest", OTHER_MANIFEST), {}, "infra1: the member differs from the inventory (x)"),
        (with_reason("kubelet", why("y", part="kubelet")), {}, "infra1: the member differs from the inventory (y)"),
        (
            seen("none", infra1=("old stray", "old", "old")),
            {},
            "infra1: /etc/kubernetes/pki/etcd/ca.crt contains a CA that is neither",
        ),
        (
            seen("trust", infra1=("old new stray", "old new", "old")),
            {},
            "the old CA, the new CA, the stray CA. Leave only",
        ),
        (
            seen("trust"),
            {"own_ca": {"fingerprint": "x", "id": "x", "key": True}},
            "a rotation to another CA than etcd_ca_cert has begun (the new CA)",
        ),
        (seen(states=(FRESH, FRESH, FRESH)), {}, "has not been founded yet"),
    ],
)
def test_refused(found: dict[str, Any], wishes: dict[str, Any], words: str) -> None:
    for phase in ("", "new", "trust"):
        plan = rotated(found, **wishes, phase=phase)
        assert any(words in text for text in plan["problems"]), plan["problems"]
        assert plan["steps"] == [] and not any(
            "cluster 'etcd' differs from the inventory" in text for text in plan["problems"]
        )


def test_a_rotation_to_the_users_own_ca_continues() -> None:
    in_use = {"fingerprint": "f", "id": "old", "key": True, "not_after": "2030-01-01T00:00:00+00:00"}
    assert rotated(seen(), own_ca=in_use)["problems"][0].startswith("etcd_ca_cert is the CA in use")
    assert rotated(seen("over"), own_ca={**in_use, "id": "new"})["problems"] == []
    assert rotated(seen("trust"), own_ca={**in_use, "id": "new"})["problems"] == []
    assert rotated(seen(), own_ca={**in_use, "id": "new"})["problems"] == []


def test_a_ca_that_signs_elsewhere() -> None:
    """It replaces the former CA as usual. Its key is on no host, and requests are written to files."""
    own = {"fingerprint": "f", "id": "new", "key": False, "not_after": "2030-01-01T00:00:00+00:00"}
    found = seen()
    assert (
        rotated(found, own_ca=own)["problems"] == [] and steps(rotated(found, phase="new", own_ca=own)) == "next_ca:0"
    )
    for stage in ("new", "trust"):
        found = seen(stage)
        found["infra0"]["pki"]["next_ca"]["has_key"] = False
        assert rotated(found, phase="issue" if stage == "trust" else "trust", own_ca=own)["elsewhere"] is True
        # Its key was added later.
        assert rotated(found, own_ca={**own, "key": True})["elsewhere"] is False
    for stage in ("exchanged", "issue"):
        found = seen(stage)
        found["infra0"]["pki"].update(ca_key=False, ca_public_key=None)
        # Certificates that are due wait for the signatures like all others.
        found["infra1"]["pki"]["due"] = ["server"]
        plan = rotated(found, phase="issue", own_ca=own)
        assert plan["problems"] == [] and plan["elsewhere"] is True
        found["infra0"]["pki"].update(ca_key=True, ca_public_key="new-k")
        assert rotated(found, phase="issue", own_ca=own)["elsewhere"] is False


# --- Control plane hosts ------------------------------------------------------------------------------------------------


def plane(cas: str, signer: str, started: float | None = 20.0, written: float = 10.0) -> dict[str, Any]:
    held = [ca(name) for name in cas.split()]
    return {
        "facts": {},
        "pki": {
            "cas": held,
            "ca_id": held[0]["id"],
            "ca_written": written,
            "certificates": [{**leaves(signer)[3], "kind": "apiserver-etcd-client"}],
        },
        "apiserver": None if started is None else {"started": started},
    }


@pytest.mark.parametrize(
    ("stage", "item", "phase", "words"),
    [
        ("trust", plane("old", "old"), "issue", "control0: ca.crt does not contain the new CA"),
        (
            "trust",
            plane("old new", "old", started=5.0),
            "issue",
            "control0: kube-apiserver was started before ca.crt was",
        ),
        ("trust", plane("old new", "old"), "issue", ""),
        ("trust", plane("old new", "old", started=None), "issue", ""),
        ("trust", plane("old new", "old", started=0.0), "issue", ""),
        ("issue", plane("old new", "old"), "drop", "control0: the certificate of kube-apiserver is from the former CA"),
        ("issue", plane("old new", "new"), "drop", ""),
        ("trust", None, "issue", "control0: this control plane host could not be observed"),
    ],
)
def test_control_plane_hosts_go_first(stage: str, item: Any, phase: str, words: str) -> None:
    plan = rotated(seen(stage), {"control0": item}, phase=phase)
    assert [words in text for text in plan["problems"]] == ([True] if words else []), plan["problems"]
    assert bool(plan["steps"]) == (not words)
    if words and item:
        assert f"continues with the phase {phase}" in plan["problems"][0]


def test_only_control_plane_hosts_that_wait_are_named() -> None:
    there = {"control0": plane("old", "old"), "control1": plane("old new", "old")}
    [problem] = rotated(seen("trust"), there, phase="issue")["problems"]
    assert problem.startswith("control0: ")


def test_members_change_before_control_plane_hosts_must() -> None:
    there = {"control0": plane("old", "old")}
    assert steps(rotated(seen("new"), there, phase="trust")) == "trust_ca:012 turn:120"
    assert rotated(seen("trust"), there)["phases"] == ["trust", "issue", "drop"]
    assert "members, and kube-apiserver on control0" in rotated(seen(), there)["notices"][0]


# --- Other runs in the middle -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stage", "changes"),
    [
        ("new", {}),
        ("new", {"infra0": ("old new", "old", "old")}),
        ("trust", {}),
        ("exchanged", {"infra1": ("old new", "old new", "old"), "infra2": ("old new", "old new", "old")}),
        ("exchanged", {"infra1": ("new old", "old new", "new old")}),
        ("issue", {}),
        ("dropped", {"infra1": ("new old", "old new", "new")}),
        ("issue", {"infra1": ("new", "old new", "new")}),
        ("dropped", {}),
    ],
)
@pytest.mark.parametrize("own", ["", "old", "new"])
def test_another_run_leaves_it_as_it_is(stage: str, changes: dict[str, Any], own: str) -> None:
    """The run reports the rotation, and succeeds with either CA in the inventory."""
    own_ca = (
        {"fingerprint": f"{own}-f", "id": own, "key": True, "public_key": f"{own}-k", "not_after": "2040"}
        if own
        else {}
    )
    found = seen(stage, **changes)
    for item in found.values():
        item["pki"]["ca_not_after"] = "2040"
    if own and own not in STAGES[stage][0] and own != "new":
        return
    for host, item in found.items():
        item["etcd"]["trusts"] = "earlier"
        item["pki"]["ca_public_key"] = item["pki"]["ca_cert_key"] if host == "infra0" else None
    plan = planned(found, own_ca=own_ca)
    assert plan["problems"] == [] and plan["settled"], plan
    said = [text for text in plan["notices"] if "is being replaced: the old CA by the new CA" in text]
    assert (
        len(said) == 1 and not any("was renewed after etcd started" in text for text in plan["notices"])
    ) or stage == "dropped"
    # Members that have all stopped are started.
    for item in found.values():
        item["etcd"].update(ready=False, running=False, members=None, trusted=None, trusts="unknown", answers=False)
    assert planned(found, own_ca=own_ca)["problems"] == []


def test_a_ca_that_was_put_there_by_hand_is_reported() -> None:
    plan = planned(seen("none", infra1=("old stray", "old stray", "old")))
    assert any(
        text.startswith("infra1: etcd/ca.crt also contains the stray CA: every client") for text in plan["notices"]
    )


def test_a_ca_key_does_not_move_in_the_middle() -> None:
    found = seen("trust")
    found["infra0"]["pki"].update(ca_public_key="old-k", ca_key=True)
    for item in found.values():
        item["facts"]["cryptography_problem"] = ""
    wish = Wish(operation="move_ca", ca_host="infra0")
    plan = _move_ca.plan(View(copy.deepcopy(CLUSTER), found, HOSTS), wish)
    assert "a rotation of the CA is not finished" in plan["problems"][0]


def test_hosts_that_share_a_ca() -> None:
    one, other = {"ca_id": "a", "cas": [ca("a"), ca("b")]}, {"ca_id": "b", "cas": [ca("b")]}
    assert _authority.shares_ca(one, other) and not _authority.shares_ca(other, {"ca_id": "a"})
    assert not _authority.shares_ca({"ca_id": None}, {"ca_id": None})


@pytest.mark.parametrize(
    ("stage", "item", "trust", "leaf", "replaces"),
    [
        ("none", plane("old", "old"), False, False, False),
        # Beside the new CA, which no member trusts yet.
        ("new", plane("old", "old"), False, False, False),
        ("trust", plane("old", "old"), True, False, False),
        ("trust", plane("old new", "old"), False, False, False),
        ("issue", plane("old new", "old"), False, True, False),
        ("issue", plane("old", "old"), True, True, False),
        ("issue", plane("old new", "new"), False, False, False),
        ("over", plane("old new", "new"), True, False, False),
        ("over", plane("new", "new"), False, False, False),
        # It was not part of the inventory when the CA was replaced.
        ("over", plane("old", "old"), True, True, True),
        # Files that a user has put there are kept.
        ("none", plane("old stray", "old"), False, False, False),
    ],
)
def test_the_ca_that_a_control_plane_host_gets(
    stage: str, item: dict[str, Any], trust: bool, leaf: bool, replaces: bool
) -> None:
    signer = seen(stage)["infra0"]
    there = {"control0": item}
    assert bool(_rotation.plane_trust_reasons(there, signer, there)) == trust
    assert bool(_rotation.plane_leaf_reasons(there, signer, there)) == leaf
    assert _rotation.has_former_ca(item["pki"], signer["pki"]) == replaces


def test_notes_of_a_hand_over() -> None:
    found = {"infra0": seen("issue")["infra0"], "control0": plane("old new", "old")}
    assert "is being replaced" in merged(_rotation.rotation_notes(CLUSTER, found, ["control0"]))[0]


@pytest.mark.parametrize(
    ("stage", "recorded"), [("none", True), ("exchanged", False), ("issue", False), ("over", True)]
)
def test_a_run_in_the_middle_leaves_the_record_of_the_ca(stage: str, recorded: bool) -> None:
    """The CA host has the new CA first and waits for external signatures. Only the rotation writes its record."""
    found = seen(stage)
    found["infra0"]["reasons"]["record"] = why("member.json: ca: old-k -> new-k", part="record", code="ca")
    assert (planned(found)["record"] == ["infra0"]) is recorded
    found["infra0"]["reasons"]["record"] += why("member.json: name", part="record", code="name")
    assert planned(found)["record"] == ["infra0"]
