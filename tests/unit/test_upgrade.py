"""Allowed upgrades of etcd, and their plan."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.kubeadm.etcd.plugins.module_utils._control import upgrade as _upgrade
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.decision import Decision
from ansible_collections.kubeadm.etcd.plugins.module_utils._member.readable import log_reasons, with_snapshot_count
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.reasons import Reason
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.versions import (
    EtcdVersion,
    etcd_version_in,
    etcd_version_of,
)
from test_decision import CLUSTER, DOWN, FRESH, HOSTS, listing, up
from test_run import observations, planned

KUBEADM = "v1.36.3"


def members(
    wanted: str, *runs: str, agreed: str = "", image_tag: bool = True, kubernetes: tuple[str, str] = (KUBEADM, KUBEADM)
) -> dict[str, Any]:
    """Three members by the versions that they run, which are to have another one. agreed: the version of the cluster; as etcd has it by default."""
    found = observations(up(leader=True), up(), up(), differs="012")
    agreed = agreed or f"{min(version[:3] for version in runs)}.0"
    for item, version in zip(found.values(), runs):
        item["etcd"].update(
            version=version, image=f"registry.k8s.io/etcd:{version}-0", cluster_version=agreed, answers=True
        )
        item["config"] = {
            "image": f"registry.k8s.io/etcd:{wanted}-0",
            "image_tag": f"{wanted}-0" if image_tag else "",
            "installed_version": kubernetes[0],
            "kubernetes_version": kubernetes[1],
        }
        item["facts"]["kubeadm_version"] = KUBEADM
        item["backup"] = {"dir": "/var/backups/etcd"}
    return found


def codes(found: dict[str, Any], **plan: Any) -> list[str]:
    decision = Decision("rolling", order=list(found), **plan)
    return sorted({problem.code for problem in _upgrade.upgrade(CLUSTER, found, decision).problems})


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("3.6.14", (3, 6, 14)),
        ("v3.6.14", (3, 6, 14)),
        ("3.6.8-0", (3, 6, 8)),
        ("3.6.8-0@sha256:00", (3, 6, 8)),
        ("3.6", (3, 6, 99)),
        ("latest", None),
        ("", None),
        ("3.6.x", None),
        ("3", None),
    ],
)
def test_a_version_in_a_tag(text: str, version: tuple[int, int, int] | None) -> None:
    assert etcd_version_in(text) == (EtcdVersion(*version) if version else None)
    assert etcd_version_of(f"registry.example.com:5000/k8s/etcd:{text}") == etcd_version_in(text)


@pytest.mark.parametrize("image", [None, "", "etcd", "registry:5000/etcd", "registry:5000/etcd@sha256:3.6.14"])
def test_an_image_without_a_version(image: str | None) -> None:
    assert etcd_version_of(image) is None


@pytest.mark.parametrize(
    ("wanted", "runs", "agreed", "expected"),
    [
        ("3.6.14", ["3.5.35"] * 3, "", []),
        ("3.7.3", ["3.6.14"] * 3, "", []),
        ("3.6.14", ["3.6.8"] * 3, "", []),
        # An older patch is possible.
        ("3.6.8", ["3.6.14"] * 3, "", []),
        # More than one minor version.
        ("3.7.3", ["3.5.35"] * 3, "", ["minor"]),
        ("3.8.0", ["3.6.14"] * 3, "", ["minor"]),
        # Until the cluster has agreed on 3.6, 3.7 does not find its peers.
        ("3.7.3", ["3.6.14"] * 3, "3.5.0", ["minor"]),
        # In the middle of an upgrade: on, or back, but not two steps on.
        ("3.6.14", ["3.5.35", "3.6.14", "3.5.35"], "", []),
        ("3.5.35", ["3.5.35", "3.6.14", "3.6.14"], "", []),
        ("3.7.3", ["3.5.35", "3.6.14", "3.6.14"], "", ["minor"]),
        ("3.7.3", ["3.6.14", "3.7.3", "3.6.14"], "", []),
        # The version of the cluster is what counts for the way back.
        ("3.5.35", ["3.6.14"] * 3, "", ["downgrade"]),
        ("3.6.14", ["3.7.3"] * 3, "", ["downgrade"]),
        ("3.5.35", ["3.6.14", "3.6.14", "3.6.14"], "3.5.0", []),
        # A new cluster has not agreed on anything yet.
        ("3.6.14", ["3.5.35"] * 3, "3.0.0", []),
        # From 3.5 before 3.5.26, removed members would reappear in 3.6.
        ("3.6.14", ["3.5.25", "3.5.35", "3.5.35"], "", ["patch"]),
        ("3.6.14", ["3.5.26"] * 3, "", []),
        ("3.6.14", ["3.5.24", "3.6.14", "3.5.24"], "", []),
        ("3.5.26", ["3.5.24"] * 3, "", []),
    ],
)
def test_versions_that_may_follow(wanted: str, runs: list[str], agreed: str, expected: list[str]) -> None:
    assert codes(members(wanted, *runs, agreed=agreed)) == expected


def test_versions_that_are_not_known_are_not_judged() -> None:
    """A tag that is no version, a configuration that could not be rendered, a member without data."""
    found = members("3.7.3", "3.5.35", "3.5.35", "3.5.35")
    found["infra0"]["config"]["image"] = "registry.k8s.io/etcd:mine"
    found["infra1"]["config"] = {}
    found["infra2"]["etcd"]["has_data"] = False
    assert codes(found) == []
    found = members("3.7.3", "3.5.35", "3.5.35", "3.5.35")
    for item in found.values():
        item["etcd"].update(version="", image="registry.k8s.io/etcd:mine", cluster_version="")
    assert codes(found) == []


def test_a_member_that_is_down_is_judged_by_its_manifest() -> None:
    found = members("3.7.3", "3.6.14", "3.6.14", "3.6.14")
    found["infra1"]["etcd"].update(DOWN, version="", image="registry.k8s.io/etcd:3.5.35-0")
    result = _upgrade.upgrade(CLUSTER, found, Decision("rolling", order=["infra1", "infra2"]))
    assert result.lines == [
        "infra1: etcd: 3.5.35 -> 3.7.3 (registry.k8s.io/etcd:3.7.3-0, by etcd_image_tag)",
        "infra2: etcd: 3.6.14 -> 3.7.3 (registry.k8s.io/etcd:3.7.3-0, by etcd_image_tag)",
    ]


@pytest.mark.parametrize(
    ("wanted", "runs", "words"),
    [
        ("3.7.3", "3.5.35", ["3.7.3", "version 3.5", "etcd 3.6, for example 3.6.11-0", "use 3.7"]),
        ("3.8.0", "3.6.14", ["release of etcd 3.7,"]),
        ("3.6.14", "3.5.24", ["etcd 3.5.24 is too old", "3.5.26", "zombie_members", "etcd_image_tag: 3.5.32-0"]),
        (
            "3.5.35",
            "3.6.14",
            ["by etcd_image_tag", "agreed on version 3.6", "for example 3.6.14-0", "docs/upgrades.md"],
        ),
    ],
)
def test_a_refusal_names_a_remedy(wanted: str, runs: str, words: list[str]) -> None:
    plan = planned(members(wanted, runs, runs, runs))
    assert plan["action"] == "refuse" and len(plan["problems"]) == 1 and plan["problems"][0].startswith("infra"), plan
    assert all(word in plan["problems"][0] for word in words), plan["problems"]
    assert plan["order"] == plan["snapshot"] == []


def test_the_plan_shows_the_upgrade_and_takes_a_snapshot() -> None:
    found = members("3.6.8", "3.5.35", "3.5.35", "3.5.35", image_tag=False)
    plan = planned(found, backup_before_change=True)
    assert plan["lines"][:2] == [
        "cluster etcd: one member after the other: infra1, infra2, infra0 (the leader, last)",
        "infra1, infra2, infra0: etcd: 3.5.35 -> 3.6.8 (registry.k8s.io/etcd:3.6.8-0, chosen by kubeadm v1.36.3)",
    ]
    assert plan["problems"] == [] and plan["snapshot"] == ["infra1"] and plan["order"] == ["infra1", "infra2", "infra0"]
    assert planned(found)["snapshot"] == []


def test_an_unchanged_image_is_not_an_upgrade() -> None:
    """Even if its tag differs from its content: a private registry may have another version under kubeadm's tag."""
    found = members("3.6.8", "3.6.14", "3.6.14", "3.6.14")
    for item in found.values():
        item["etcd"]["image"] = item["config"]["image"]
    plan = planned(found, backup_before_change=True)
    assert plan["snapshot"] == plan["notices"] == [] and plan["order"], plan


def test_no_snapshot_without_another_version() -> None:
    found = members("3.6.14", "3.6.14", "3.6.14", "3.6.14")
    plan = planned(found, backup_before_change=True)
    assert plan["snapshot"] == [] and plan["order"] and not any("etcd: 3" in line for line in plan["lines"])


def test_a_cluster_that_is_down_is_started_as_it_was() -> None:
    found = members("3.7.3", "3.5.35", "3.5.35", "3.5.35")
    for item in found.values():
        item["etcd"].update(DOWN, version="", cluster_version="", members=None)
    plan = planned(found, backup_before_change=True)
    assert plan["action"] == "start" and plan["problems"] == plan["snapshot"] == [], plan


def test_a_new_cluster_shows_its_image() -> None:
    found = members("3.6.8", "", "", "", image_tag=False)
    result = _upgrade.upgrade(CLUSTER, found, Decision("bootstrap", start=HOSTS))
    assert result.lines == ["infra0, infra1, infra2: etcd: registry.k8s.io/etcd:3.6.8-0, chosen by kubeadm v1.36.3"]
    assert not result.is_due and not result.problems


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ("v1.35.4", "v1.36.3", []),
        ("v1.36.1", "v1.36.3", []),
        ("v1.34.4", "v1.36.3", ["kubernetes-minor"]),
        ("v1.37.2", "v1.36.3", []),
        ("", "v1.36.3", []),
    ],
)
def test_kubeadm_and_the_kubelet_skip_no_minor_version(before: str, after: str, expected: list[str]) -> None:
    assert codes(members("3.6.14", "3.6.14", "3.6.14", "3.6.14", kubernetes=(before, after))) == expected


def test_packages_that_skip_a_minor_version() -> None:
    """Nothing is installed yet, so another value of the variable is the way out."""
    found = members("3.6.14", "3.6.14", "3.6.14", "3.6.14", kubernetes=("v1.35.4", "v1.37.2"))
    found["infra0"]["reasons"]["packages"] = [
        Reason("packages", "version", "kubelet: 1.35.4-1.1 -> 1.37.2-1.1").as_dict()
    ]
    texts = {
        item.host: item.text for item in _upgrade.upgrade(CLUSTER, found, Decision("rolling", order=HOSTS)).problems
    }
    assert "would be v1.37.2 now" in texts["infra0"] and "Have etcd_packages install 1.36 first" in texts["infra0"]
    assert "are v1.37.2 now" in texts["infra1"] and "Install 1.36 first" in texts["infra1"]


def test_packages_take_a_turn() -> None:
    """Although nothing else of the host differs. The plan shows them first."""
    found = observations(up(leader=True), up(), up())
    for host in ("infra0", "infra1"):
        reason = Reason("packages", "version", "kubelet: 1.36.3-1.1 -> 1.37.2-1.1")
        found[host]["reasons"]["packages"] = [reason.as_dict()]
    plan = planned(found)
    assert plan["order"] == ["infra1", "infra0"] and not plan["problems"]
    assert plan["lines"] == [
        "cluster etcd: one member after the other: infra1, infra0 (the leader, last)",
        "infra0, infra1: packages: kubelet: 1.36.3-1.1 -> 1.37.2-1.1",
    ]


@pytest.mark.parametrize(
    ("wanted", "runs", "words"),
    [
        ("3.7.3", "3.6.8", "asks for 3.6.11 or later before 3.7"),
        ("3.6.14", "3.5.30", "asks for 3.5.32 or later before 3.6"),
        ("3.6.8", "3.6.14", "etcd 3.6.14 is followed by an older release, 3.6.8"),
        ("3.7.3", "3.6.14", ""),
        ("3.6.14", "3.6.8", ""),
    ],
)
def test_upgrades_that_only_give_a_warning(wanted: str, runs: str, words: str) -> None:
    plan = planned(members(wanted, runs, runs, runs))
    assert plan["problems"] == [] and plan["order"]
    assert [words in text for text in plan["notices"]] == [True] * bool(words), plan["notices"]


def down_on_3_7(wanted: str) -> Any:
    """A member that panics, seen alone."""
    found = members(wanted, "3.6.14", "3.7.3", "3.6.14")["infra1"]
    found["etcd"].update(DOWN, members=listing(), version="", ready=False, answers=False, unreadable=3)
    return found


def test_a_snapshot_that_cannot_be_taken_stops_the_upgrade_only() -> None:
    found = members("3.6.14", "3.5.35", "3.5.35", "3.5.35")
    for item in found.values():
        item["etcd"]["answers"] = False
    plan = planned(found, backup_before_change=True)
    assert "none can give a snapshot" in plan["problems"][0] and plan["order"] == []
    found["infra0"]["reasons"]["certificates"] = [
        {"part": "certificates", "code": "x", "text": "2 days left", "restarts": False}
    ]
    plan = planned(found, backup_before_change=True)
    assert plan["certificates"] and "none can give a snapshot" in plan["held"][0]
    assert planned(found)["order"] == ["infra1", "infra2", "infra0"]


@pytest.mark.parametrize(
    ("runs", "wanted", "unreadable", "joins", "refused"),
    [
        # A cluster of one or two grows before it restarts members.
        ("3.6.14", "3.7.3", 3, "1", ["infra1"]),
        ("3.6.14", "3.7.3", 0, "1", []),
        ("3.6.14", "3.6.14", 3, "1", []),
        # An interrupted join of a learner is finished first.
        ("3.6.14", "3.7.3", 3, "12", ["infra1", "infra2"]),
        # Those that were restarted before have written a raft snapshot; infra2 has its turn afterwards.
        ("3.6.14", "3.7.3", 3, "01", ["infra1"]),
        ("3.6.14", "3.7.3", 0, "01", []),
    ],
)
def test_none_joins_with_3_7_before_the_log_is_made_readable(
    runs: str, wanted: str, unreadable: int, joins: str, refused: list[str]
) -> None:
    """joins: numbers of the hosts that join; with 0, after the turn of infra0."""
    found = members(wanted, runs, runs, runs)
    join = [f"infra{number}" for number in joins.strip("0")]
    for host in join:
        found[host]["etcd"] = {**FRESH, "image": None}
    found["infra0"]["etcd"]["unreadable"] = unreadable
    order = [*join, *(host for host in found if host not in join)]
    if "0" in joins:
        found["infra2"]["etcd"]["unreadable"] = unreadable
        order = ["infra0", *join, "infra2"]
    problems = _upgrade.early_problems(CLUSTER, found, Decision("rolling", order=order, join=join))
    assert [problem.host for problem in problems] == refused
    assert all("set etcd_image_tag to the version that runs, for example 3.6.14-0" in item.text for item in problems)


@pytest.mark.parametrize(
    ("agreed", "wanted", "refused"), [("3.6.0", "3.7.3", True), ("3.7.0", "3.7.3", False), ("3.6.0", "3.6.14", False)]
)
def test_none_joins_with_3_7_beside_members_that_are_not_part_of_the_run(
    agreed: str, wanted: str, refused: bool
) -> None:
    """With --limit. Their log may have such entries."""
    found = members(wanted, "3.6.14", "3.6.14", "3.6.14", agreed=agreed)
    found["infra2"]["etcd"] = {**FRESH, "image": None}
    for host in ("infra0", "infra1"):
        found[host]["etcd"]["members"] = listing("01", "01")
    plan = Decision("rolling", order=["infra0", "infra2"], join=["infra2"])
    assert _upgrade.early_problems(CLUSTER, found, plan) == []
    del found["infra1"]
    problems = _upgrade.early_problems(CLUSTER, found, plan)
    assert [problem.host for problem in problems] == ["infra2"] * refused
    assert not refused or "the log of infra1 may have some (not part of this run)" in problems[0].text


def test_a_host_that_joins_a_cluster_of_one_on_its_way_to_3_7() -> None:
    """As the play asks. With the version that runs, it joins."""
    found = members("3.7.3", "3.6.14", "3.6.14", "3.6.14")
    for host in ("infra1", "infra2"):
        found[host]["etcd"].update(FRESH, version="", image=None, running=False, leader=False)
    found["infra0"]["etcd"].update(members=listing("0", "0"), unreadable=3)
    plan = planned(found, allow_interruption=True)
    assert plan["action"] == "refuse" and "the log of infra0 has some" in " ".join(plan["problems"]), plan["problems"]
    for item in found.values():
        item["config"]["image"] = "registry.k8s.io/etcd:3.6.14-0"
    found["infra0"]["reasons"]["manifest"] = []
    plan = planned(found)
    assert plan["problems"] == [] and plan["join"] == ["infra1", "infra2"], plan["problems"]


def test_a_member_that_panics_on_3_7() -> None:
    """It was upgraded by hand."""
    found = members("3.7.3", "3.6.14", "3.7.3", "3.6.14")
    found["infra1"]["etcd"].update(DOWN, version="", unreadable=3)
    plan = planned(found)
    assert plan["action"] == "refuse" and "--limit infra1 -e etcd_image_tag=3.6.14-0" in plan["problems"][0]
    # Back to 3.6 with --limit. The member is down, so it gives no snapshot.
    alone = planned({"infra1": members("3.6.14", "3.6.14", "3.7.3", "3.6.14")["infra1"]}, backup_before_change=True)
    assert alone["problems"] == [] and alone["snapshot"] == ["infra1"]
    alone = planned({"infra1": down_on_3_7("3.6.14")}, backup_before_change=True)
    assert alone["problems"] == alone["snapshot"] == [] and alone["order"] == ["infra1"], alone
    found["infra1"]["config"]["image"] = "registry.k8s.io/etcd:3.6.14-0"
    assert codes(found) == []
    found["infra1"]["config"]["image"] = "registry.k8s.io/etcd:3.7.3-0"
    found["infra1"]["etcd"].update(image="registry.k8s.io/etcd:3.6.14-0")
    assert codes(found) == []


@pytest.mark.parametrize(
    ("unreadable", "installed", "wanted", "is_due"),
    [
        (3, "etcd:3.6.14-0", "etcd:3.7.3-0", True),
        (0, "etcd:3.6.14-0", "etcd:3.7.3-0", False),
        (3, "etcd:3.6.14-0", "etcd:3.6.15-0", False),
        (3, "etcd:3.7.2-0", "etcd:3.7.3-0", False),
        (3, None, "etcd:3.7.3-0", True),
        (3, "etcd:3.6.14-0", None, False),
    ],
)
def test_members_that_are_restarted_once_more(
    unreadable: int, installed: str | None, wanted: str | None, is_due: bool
) -> None:
    reasons = log_reasons(unreadable, installed, wanted)
    assert [(item.code, item.restarts) for item in reasons] == [("unreadable-log", True)] * is_due
    assert not is_due or "3 entries of etcd 3.5" in reasons[0].text


def test_a_manifest_with_another_count() -> None:
    text = "    - --name=x\n    - --snapshot-count=10000\n    image: y\n"
    assert with_snapshot_count(text, 7) == text.replace("10000", "7")
    assert with_snapshot_count(text.replace("10000", "many"), 7) is None
    assert with_snapshot_count(text + "    - --snapshot-count=1\n", 7) is None
    assert with_snapshot_count("", 7) is None


@pytest.mark.parametrize(
    ("wanted", "expected"), [("3.5.35", "downgrade"), ("3.6.8", ""), ("3.7.3", ""), ("3.8.0", "minor"), ("mine", "")]
)
def test_members_that_join(wanted: str, expected: str) -> None:
    """They are not upgraded, but their version must fit the cluster."""
    found = members(wanted, "3.6.14", "3.6.14", "3.6.14")
    found["infra2"]["etcd"].update(FRESH, version="", image=None)
    found["infra2"]["config"]["image_tag"] = f"{wanted}-0"
    result = _upgrade.upgrade(CLUSTER, found, Decision("rolling", order=["infra2"], join=["infra2"]))
    assert [problem.code for problem in result.problems] == [expected] * bool(expected)
    assert result.lines == result.warnings == [] and not result.is_due
