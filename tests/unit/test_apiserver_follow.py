"""Which API servers get the current members of etcd, in which order, and why others do not."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.kubeadm.etcd.plugins.module_utils._control import apiserver as _control
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.problems import merged
from test_apiserver import A, B, C, access
from test_control_plane import CLUSTER, LISTED, PLANES, decide, plane, signer

OURS = "f9"
UNLIKE = [{"id": "x", "name": "x", "peer_urls": ["https://192.0.2.1:2380"], "client_urls": ["x"]}]


def apiserver(*servers: str, config: tuple[str, ...] | None = (A, B, C), **changes: Any) -> dict[str, Any]:
    """What a control plane host tells of its kube-apiserver."""
    return {
        "manifest": "/m/kube-apiserver.yaml",
        "url": "https://control:6443",
        "access": access(*servers).as_dict(),
        "pending": "",
        "unready": "",
        "config": access(*config).as_dict() if config is not None else None,
        "config_uid": "u1",
        "problem": "",
        "updates": True,
        "client_port": 2379,
        "cluster_id": OURS,
        "members": LISTED,
        **changes,
    }


def follow(*items: dict[str, Any] | None, ca_host: bool = True, loads: str = "", **etcd: Any) -> _control.Follow:
    seen: dict[str, Any] = {host: {**plane(serial="s1"), "apiserver": item} for host, item in zip(PLANES, items)}
    if ca_host:
        seen["infra0"] = signer(etcd={"members_of": OURS, **etcd})
    return _control.follow(CLUSTER, {host: host for host, _item in zip(PLANES, items)}, seen, loads.split())


def texts(found: _control.Follow) -> list[str]:
    return [reason.text for step in found.steps for reason in step.reasons]


WANTED = f"{A},{B},{C}"
FLAG = f"/m/kube-apiserver.yaml: --etcd-servers: {A},{B} -> {WANTED}"
CONFIG = f"ConfigMap kubeadm-config: etcd.external.endpoints: {A},{B} -> {WANTED}"


@pytest.mark.parametrize("items", [(None, None), (apiserver(A, B, C), apiserver(C, A, B)), (apiserver(A, B, C), None)])
def test_nothing_to_do(items: tuple[dict[str, Any] | None, ...]) -> None:
    assert follow(*items) == _control.Follow()


def test_one_after_the_other_and_one_writes_the_config_map() -> None:
    found = follow(apiserver(A, B, config=(A, B)), apiserver(A, B, config=(A, B), url="https://other:6443"))
    assert texts(found) == [FLAG, CONFIG, FLAG] and found.problems == found.warnings == []
    assert [(step.host, step.turn) for step in found.steps] == [("control0", 1), ("control1", 2)]
    options = {"servers": [A, B, C], "loads_ca": False}
    assert found.turns == [
        {"host": "control0", **options, "update_config": True, "others": ["https://other:6443"]},
        {"host": "control1", **options, "update_config": False, "others": ["https://control:6443"]},
    ]


def test_two_clusters_of_kubernetes() -> None:
    """Each has its own ConfigMap, and API servers wait only for those of the same cluster."""
    found = follow(apiserver(A, B, config=(A, B)), apiserver(A, B, config=(A, B), config_uid="u2"))
    assert [(turn["update_config"], turn["others"]) for turn in found.turns] == [(True, []), (True, [])]


def test_the_config_map_alone() -> None:
    """A manifest that was changed by hand: nothing restarts."""
    found = follow(apiserver(A, B, C), apiserver(A, B, C, config=(A, B)))
    assert texts(found) == [CONFIG] and [turn["host"] for turn in found.turns] == ["control1"]


@pytest.mark.parametrize(
    ("etcd", "servers"),
    [
        ({"members": LISTED[:2]}, [A, B]),
        ({"members": [*LISTED[:2], {**LISTED[2], "is_learner": True}]}, [A, B]),
        ({"members": [*LISTED[:2], {**LISTED[2], "client_urls": []}]}, [A, B]),
        ({"members": LISTED}, [A, B, C]),
    ],
)
def test_members_that_serve_clients(etcd: dict[str, Any], servers: list[str]) -> None:
    assert [turn["servers"] for turn in follow(apiserver("https://10.0.0.9:2379", config=None), **etcd).turns] == [
        servers
    ]


def test_without_the_ca_host() -> None:
    """--limit: the membership comes from the etcd of the API server."""
    found = follow(apiserver(A, B, C, config=(A, B, C), members=LISTED[:2]), ca_host=False)
    assert [turn["servers"] for turn in found.turns] == [[A, B]]
    # No endpoint answers: the inventory counts, and a different etcd is not suspected.
    assert follow(apiserver(A, members=[], cluster_id="")).warnings == []
    found = follow(apiserver(A, members=[], cluster_id=""), ca_host=False)
    assert [turn["servers"] for turn in found.turns] == [[A, B, C]]


@pytest.mark.parametrize(("ca_host", "changes"), [(True, {"cluster_id": "other"}), (False, {"members": UNLIKE})])
def test_another_etcd_is_left_alone(ca_host: bool, changes: dict[str, Any]) -> None:
    found = follow(apiserver("https://127.0.0.1:2379", **changes), ca_host=ca_host)
    assert found.steps == found.turns == found.problems == [] and "another etcd" in merged(found.warnings)[0]


def test_without_the_variable_the_plan_lists_the_changes() -> None:
    """With host, file, current and wanted value, and the variable that makes the change."""
    found = follow(apiserver(A, B, config=(A, B), updates=False), apiserver(A, B, config=None, updates=False))
    assert found.steps == found.turns == found.problems == []
    said = merged(found.warnings)
    assert said[0].startswith("control0: ") and FLAG in said[0] and CONFIG in said[0]
    assert said[1].startswith("control1: ") and FLAG in said[1] and "could not be read" in said[1]
    assert all("etcd_update_apiserver=true" in text for text in said)
    # An edited manifest or an API server that is down does not matter for changes by hand.
    assert follow(apiserver(A, updates=False, problem="edited", unready="down")).problems == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"problem": "x.yaml differs from what kubeadm renders"},
            "control1: kube-apiserver is not changed: x.yaml differs from what",
        ),
        ({"unready": "says [-]etcd failed"}, "control1: kube-apiserver is not ready, so it is not restarted"),
    ],
)
def test_none_is_changed_while_one_cannot_be(changes: dict[str, Any], words: str) -> None:
    found = follow(apiserver(A, B), apiserver(A, B, **changes))
    assert found.steps == found.turns == [] and merged(found.problems)[0].startswith(words)
    # It is no problem where nothing has to change.
    assert follow(apiserver(A, B, C, **changes)).problems == []


@pytest.mark.parametrize(
    ("changes", "turns", "problems"),
    [
        ({}, ["control1"], []),
        # An edited manifest stays.
        ({"problem": "edited"}, ["control1"], []),
        # It may be not ready because of that.
        ({"unready": "down"}, ["control1"], []),
        ({"updates": False}, [], []),
        # It reads ca.crt when it starts.
        ({"started": 0.0}, [], []),
    ],
)
def test_a_ca_that_is_to_be_read(changes: dict[str, Any], turns: list[str], problems: list[str]) -> None:
    found = follow(*(apiserver(A, B, C, **{"started": 5.0, **changes}) for _host in PLANES), loads="control1")
    assert [turn["host"] for turn in found.turns] == turns and all(turn["loads_ca"] for turn in found.turns)
    assert [text.startswith(words) for text, words in zip(merged(found.problems), problems)] == [True] * len(problems)
    assert texts(found) == [f"kube-apiserver: is restarted to trust what {_control.FILES[0]} holds" for _turn in turns]


def test_a_run_that_was_killed_is_finished() -> None:
    """kube-apiserver does not run with the new manifest yet: the run waits for it."""
    found = follow(apiserver(A, B, C, pending="no kube-apiserver process runs", unready="refused"))
    assert [turn["host"] for turn in found.turns] == ["control0"] and found.problems == []
    assert "no kube-apiserver process runs" in texts(found)[0]


def test_the_hand_over() -> None:
    """Steps, lines and the hand-over. A certificate is issued even if the manifest was edited."""
    planes = {
        "control0": {
            **plane("apiserver-etcd-client.crt: issued, the certificate is missing"),
            "apiserver": apiserver(A, B),
        },
        "control1": {**plane(serial="s2"), "apiserver": apiserver(A, B)},
    }
    found = decide(infra0=signer(etcd={"members_of": OURS}), **planes)
    assert found.held == [] and [turn["host"] for turn in found.turns] == PLANES
    assert "kube-apiserver restarts on control0, then control1" in found.lines[0]
    assert f"control0, control1: kube-apiserver: {FLAG}" in found.lines
    planes["control1"]["apiserver"] = apiserver(A, B, problem="edited")
    found = decide(infra0=signer(etcd={"members_of": OURS}), **planes)
    assert found.problems == [] and found.due == ["control0"] and found.turns == []
    assert merged(found.held) == ["control1: kube-apiserver is not changed: edited"]
    assert [step.kind for step in found.steps] == ["certificates"]
