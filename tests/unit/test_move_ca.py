"""The plan of a run that moves the CA's key."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.view import View, as_cluster
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.wish import Export, Wish, check_export
from ansible_collections.kubeadm.etcd.plugins.module_utils._operations import move_ca as _move_ca
from ansible_collections.kubeadm.etcd.plugins.module_utils._operations import run as _run
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.problems import Problem
from test_decision import FRESH, HOSTS, why
from test_run import ALL_UP, observations, planned

HAS = {"ca_key": True, "ca_public_key": "p"}
LEAF = {"kind": "server", "authority_key_id": "ours"}


def seen(*states: dict[str, Any] | None, key: str = "0", **pki: dict[str, Any]) -> dict[str, Any]:
    """Observations of a cluster whose key is on the hosts with these numbers."""
    found = observations(*(states or ALL_UP))
    for host, item in found.items():
        end = {"not_after": f"2027-0{3 + int(host[-1])}-01T00:00:00+00:00"}
        item["pki"].update(ca_cert_key="p", ca_public_key=None, ca_key=False, certificates=[{**LEAF, **end}])
        item["pki"].update(HAS if host[-1] in key else {})
        item["pki"].update(pki.get(host, {}))
        item["etcd"]["trusts"] = "installed"
    return found


def moved(found: dict[str, Any], to: str = "infra1", **wishes: Any) -> dict[str, Any]:
    """The plan, with the CA host that the inventory names."""
    cluster = as_cluster(
        {
            "name": "etcd",
            "members": [
                {"host": h, "name": h, "address": f"10.0.0.{6 + i}", "server_cert_sans": [], "peer_cert_sans": []}
                for i, h in enumerate(HOSTS)
            ],
            "ca_host": to or "infra0",
            "problems": wishes.pop("problems", []),
            "warnings": [],
        }
    )
    there = {"members": [host for host in HOSTS if host in found], **wishes.pop("there", {})}
    view = View(cluster, found, **there, clusters={"etcd": (cluster, found)})
    return _move_ca.plan(view, Wish(operation="move_ca", ca_host=to, **wishes))


def steps(plan: dict[str, Any]) -> list[tuple[str, str]]:
    return [(step["kind"], step["host"]) for step in plan["steps"]]


COPY = Export("/srv/copy.pem")


@pytest.mark.parametrize(
    ("key", "to", "export", "expected"),
    [
        (
            "0",
            "infra1",
            Export(),
            [("send_ca_key", "infra0"), ("receive_ca_key", "infra1"), ("remove_ca_key", "infra0")],
        ),
        # Killed between copy and removal: the key is proven, and removed where it was.
        ("01", "infra1", Export(), [("receive_ca_key", "infra1"), ("remove_ca_key", "infra0")]),
        # Copies that were made by hand are removed too.
        (
            "02",
            "infra1",
            Export(),
            [
                ("send_ca_key", "infra0"),
                ("receive_ca_key", "infra1"),
                ("remove_ca_key", "infra0"),
                ("remove_ca_key", "infra2"),
            ],
        ),
        ("1", "infra1", Export(), []),
        ("1", "infra1", COPY, [("export_ca_key", "infra1")]),
        (
            "0",
            "infra1",
            COPY,
            [
                ("send_ca_key", "infra0"),
                ("receive_ca_key", "infra1"),
                ("remove_ca_key", "infra0"),
                ("export_ca_key", "infra1"),
            ],
        ),
        # A copy needs no etcd_ca_host if the key is where it belongs.
        ("0", "", COPY, [("export_ca_key", "infra0")]),
    ],
)
def test_steps(key: str, to: str, export: Export, expected: list[tuple[str, str]]) -> None:
    plan = moved(seen(key=key), to, ca_export=export)
    assert plan["problems"] == [] and steps(plan) == expected
    assert plan["settled"] == (not expected) and plan["remove_ca_key"] == [
        h for k, h in expected if k == "remove_ca_key"
    ]
    assert "nothing restarts" in plan["lines"][0]


OTHER = {"ca_key": True, "ca_public_key": "q"}


@pytest.mark.parametrize(
    ("found", "wishes", "words"),
    [
        (seen(), {"to": ""}, "etcd_ca_host is not set, so infra0"),
        (seen(key="1"), {"to": "", "ca_export": COPY}, "etcd_ca_host is not set, so infra0"),
        (seen(), {"problems": [Problem("etcd_ca_host x is not a host").as_dict()]}, "etcd_ca_host x is not a host"),
        # No host has it: all of them are known, or one of them may have it.
        (seen(key=""), {}, "the CA's key is lost: no host of cluster 'etcd' has"),
        (seen(key=""), {}, "The first certificate expires on 2027-03-01, on infra0"),
        (
            seen(None, *ALL_UP[1:], key="0"),
            {},
            "infra0 are not part of the run, or cannot be reached. If one of them has",
        ),
        (
            seen(None, *ALL_UP[1:], key="0"),
            {"there": {"members": HOSTS[1:], "lost": ["infra0"]}},
            "infra0 are not part of the run, or cannot be reached. If one of them has the key, repair that host",
        ),
        (seen(ALL_UP[0], None, ALL_UP[2]), {}, "the CA host infra1 is not part of this run"),
        (seen(key=""), {"own_ca": {"fingerprint": "f", "id": "f"}}, "signs elsewhere"),
        (
            seen(key=""),
            {"own_ca": {"fingerprint": "f", "id": "f", "key": True}},
            "etcd_ca_key is a copy of it. Run site",
        ),
        # Keys and certificates that do not match.
        (seen(infra2=OTHER), {}, "infra0, infra2 have different keys"),
        (seen(infra2=OTHER), {}, "Of these, infra2 have the key of another CA"),
        (seen(infra0={"ca_cert_key": "x"}), {}, "infra0: /etc/kubernetes/pki/etcd/ca.key is not the key of the ca.crt"),
        (seen(infra1={"ca_id": "x"}), {}, "infra1: etcd/ca.crt is another CA than the one whose key is on infra0"),
        (
            seen(infra0={"ca_public_key": None}),
            {},
            "infra0: /etc/kubernetes/pki/etcd/ca.key is encrypted, or is not a private key",
        ),
        (
            seen(
                infra1={"ca_problems": [{"text": "etcd/ca.key is empty", "stops": ["sign"], "host": "", "code": "x"}]}
            ),
            {},
            "infra1: etcd/ca.key is empty",
        ),
        (seen(FRESH, FRESH, FRESH), {}, "has not been founded yet. Run site.yml first"),
        (seen(), {"ca_export": Export("/x", problems=("too short",))}, "too short"),
    ],
)
def test_refusals(found: dict[str, Any], wishes: dict[str, Any], words: str) -> None:
    plan = moved(found, **wishes)
    assert words in "\n".join(plan["problems"]), plan["problems"]
    assert plan["steps"] == [] and plan["settled"]


def test_a_cluster_that_does_not_exist_has_lost_nothing() -> None:
    assert len(moved(seen(FRESH, FRESH, FRESH, key=""))["problems"]) == 1


def test_a_host_without_the_library() -> None:
    found = seen()
    found["infra1"]["facts"]["cryptography_problem"] = "Install python3-cryptography"
    found["infra1"]["pki"] = {}
    assert moved(found)["problems"] == ["infra1: Install python3-cryptography"]


def test_a_ca_that_was_exchanged_is_not_moved() -> None:
    found = seen()
    found["infra2"]["etcd"]["trusts"] = "former"
    assert "was exchanged while etcd runs" in moved(found)["problems"][0]


def test_hosts_that_do_not_wait_for_each_other() -> None:
    plan = moved(seen(*ALL_UP[:2], None), there={"members": HOSTS, "unobserved": ["infra2"]})
    assert "free or host_pinned" in plan["problems"][0]


def test_one_file_for_one_cluster() -> None:
    assert _move_ca.one_file_problems(COPY, ["a", "a"]) == [] == _move_ca.one_file_problems(Export(), ["a", "b"])
    assert "the clusters a, b" in _move_ca.one_file_problems(COPY, ["b", "a"])[0]


def test_the_operation_is_planned_by_the_function_of_the_play() -> None:
    cluster = {
        "name": "etcd",
        "members": [
            {"host": h, "name": h, "address": "10.0.0.6", "server_cert_sans": [], "peer_cert_sans": []} for h in HOSTS
        ],
        "ca_host": "infra1",
        **{key: [] for key in ("problems", "warnings", "invalid", "clients")},
    }
    found = {host: {**item, "cluster": cluster} for host, item in seen().items()}
    wish = Wish(operation="move_ca", ca_host="infra1")
    plan = _run.plan_run("infra0", found, [], wish)
    assert plan["receive_ca_key"] == ["infra1"] and plan["action"] == "move_ca" and plan["speaker"] == "infra0"
    lost = _run.plan_run("infra0", found, ["infra2"], wish)
    assert lost["problems"][0].startswith("infra2 cannot be reached") and lost["settled"]


@pytest.mark.parametrize(
    ("passphrase", "words"),
    [
        ("", "needs a passphrase: set etcd_ca_export_passphrase"),
        ("eleven char", "has fewer than 12 characters"),
        ("twelve chars", ""),
    ],
)
def test_passphrases(tmp_path: Path, passphrase: str, words: str) -> None:
    found = check_export(str(tmp_path / "copy.pem"), passphrase)
    assert words in " ".join(found.problems) and bool(found.problems) == bool(words) and not found.exists
    assert not passphrase or passphrase not in repr(found)


def test_files_of_a_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = "twelve chars"
    assert check_export("", "") == Export()
    assert "is not a directory of the controller" in check_export(str(tmp_path / "no/copy.pem"), good).problems[0]
    assert "is not a file" in check_export(str(tmp_path), good).problems[0]
    (tmp_path / "copy.pem").write_text("x")
    assert check_export(str(tmp_path / "copy.pem"), good) == Export(str(tmp_path / "copy.pem"), exists=True)
    monkeypatch.setattr("os.access", lambda _path, mode: mode != os.W_OK)
    assert not check_export(str(tmp_path / "copy.pem"), good).problems
    assert "is not writable on the controller" in check_export(str(tmp_path / "new.pem"), good).problems[0]


# --- What other runs say of a key that is not on the CA host -------------------------------------------------------------


@pytest.mark.parametrize(
    ("found", "own", "words"),
    [
        (seen(), {}, ""),
        (seen(key="2"), {}, "ca.key is on infra2, and not on the CA host infra0"),
        (
            seen(key="2"),
            {"fingerprint": "f", "id": "f", "not_after": "2020"},
            "Run move_ca.yml, which brings it to infra0",
        ),
        (seen(key=""), {}, "the CA's key is lost"),
        (seen(ALL_UP[0], None, ALL_UP[2], key=""), {}, "If infra1 (not observed in this run) has it"),
        # Signed elsewhere.
        (seen(key=""), {"fingerprint": "f", "id": "f", "not_after": "2020"}, ""),
        # The key of another CA is not the one that is missing.
        (seen(key="", infra2=OTHER), {}, "the CA's key is lost"),
    ],
)
@pytest.mark.parametrize("due", [False, True], ids=["nothing due", "due"])
def test_another_run_warns_of_a_missing_ca_key(
    found: dict[str, Any], own: dict[str, Any], words: str, due: bool
) -> None:
    """A warning, and once a certificate is due the reason why it cannot be issued."""
    for item in found.values():
        item["reasons"]["certificates"] = why("etcd/server.crt: renewed, 2 days left of 365") if due else []
    for item in found.values():
        item["pki"]["ca_not_after"] = "2030"
    plan = planned(found, own_ca=own)
    said, other = ("problems", "notices") if due else ("notices", "problems")
    assert words in " ".join(plan[said]) and bool(plan["problems"]) == bool(due and words), plan
    assert not words or words not in " ".join(plan[other])


def test_a_copy_of_a_lost_key_is_brought_back() -> None:
    """By site.yml, although nothing else is due; a key that is there is left."""
    own = {"fingerprint": "f", "id": "f", "not_after": "2020", "public_key": "p", "key": True}
    for key, hosts in (("", True), ("0", False)):
        found = seen(key=key)
        for item in found.values():
            item["pki"]["ca_not_after"] = "2030"
        plan = planned(found, own_ca=own)
        assert bool(plan["ca"]) == hosts and plan["problems"] == [] and plan["settled"] != hosts
        assert not hosts or "infra0: CA: etcd/ca.key: missing, it is brought from etcd_ca_key" in plan["lines"]
