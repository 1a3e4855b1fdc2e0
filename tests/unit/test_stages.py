"""What a run with tags, or of single roles, shows and what it does."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.plan import ending
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.stages import (
    STAGES,
    TAGS,
    carried_out,
    is_selected,
    stages_by_roles,
    stages_by_tags,
)
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.steps import KINDS, Step
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.wish import Wish
from ansible_collections.kubeadm.etcd.plugins.module_utils._operations.run import OPERATIONS, plan_run
from test_decision import DOWN, FRESH, up, why
from test_run import ALL_UP, observations, planned


@pytest.mark.parametrize(
    ("run", "skip", "stages"),
    [
        (["all"], [], STAGES),
        (["tagged"], [], STAGES),
        (["untagged"], [], ()),
        (["always"], [], ()),
        (["kubelet"], [], ("kubelet",)),
        (["certificates"], [], ("ca", "certificates")),
        (["static_pod", "health"], [], ("static_pod", "health")),
        (["all"], ["kubelet", "backup"], ("ca", "certificates", "static_pod", "health")),
        (["all"], ["all"], ()),
        (["kubelet"], ["tagged"], ()),
        (["kubelet"], ["kubelet"], ()),
    ],
)
def test_the_tags_select_the_stages(run: list[str], skip: list[str], stages: tuple[str, ...]) -> None:
    assert stages_by_tags(run, skip) == stages


@pytest.mark.parametrize("tags", [[], ["a"], ["a", "b"], ["always"], ["always", "a"], ["never"], ["never", "a"]])
@pytest.mark.parametrize("run", [["all"], ["tagged"], ["untagged"], ["a"], ["b", "c"], ["always"], ["never"]])
@pytest.mark.parametrize("skip", [[], ["all"], ["tagged"], ["untagged"], ["a"], ["always"], ["a", "always"]])
def test_tags_select_what_ansible_runs(tags: list[str], run: list[str], skip: list[str]) -> None:
    taggable = pytest.importorskip("ansible.playbook.taggable").Taggable
    task = SimpleNamespace(
        tags=tags, untagged=taggable.untagged, _loader=None, _get_all_taggable_objects=list, _parent=None
    )
    assert is_selected(tags, run, skip) == taggable.evaluate_tags(task, run, skip, {})


@pytest.mark.parametrize(
    ("roles", "selected", "stages"),
    [
        (["kubeadm.etcd.kubelet"], ["kubeadm.etcd.kubelet"], ("kubelet",)),
        # From a checkout, or with `collections` in the play.
        (["kubelet", "ca"], ["kubelet", "ca"], ("kubelet", "ca")),
        (["kubeadm.etcd.kubelet", "kubeadm.etcd.static_pod"], ["kubeadm.etcd.static_pod"], ("static_pod",)),
        (["kubeadm.etcd.kubelet"], [], ()),
        # What follows is not known.
        ([], [], STAGES),
        (["kubeadm.etcd.preflight"], ["kubeadm.etcd.preflight"], STAGES),
        (["kubeadm.etcd.preflight", "kubeadm.etcd.kubelet"], ["kubeadm.etcd.kubelet"], ("kubelet",)),
    ],
)
def test_the_roles_of_a_play_are_its_stages(roles: list[str], selected: list[str], stages: tuple[str, ...]) -> None:
    assert stages_by_roles(roles, selected) == stages


def test_the_tags_are_those_of_the_stages() -> None:
    text = (Path(__file__).parents[2] / "playbooks" / "tasks" / "stages.yml").read_text(encoding="utf-8")
    for stage, tag in TAGS.items():
        assert f"name: kubeadm.etcd.{stage}\n" in text and f"apply: {{tags: [{tag}]}}" in text


def changed() -> dict[str, Any]:
    """Manifest and kubelet of infra0 differ, the kubelet of infra1, a certificate and the timer of infra2."""
    found = observations(*ALL_UP, differs="0", due="2")
    for host in ("infra0", "infra1"):
        found[host]["reasons"]["kubelet"] = why("kubelet.yaml: differs", part="kubelet", restarts=True)
    found["infra2"]["reasons"]["backup"] = why("timer: missing", part="backup")
    return found


KUBELETS = "infra0, infra1: kubelet: kubelet.yaml: differs"
MANIFEST = "infra0: manifest: x"
CERTIFICATE = "infra2: certificates: etcd/server.crt: renewed, 2 days left of 365"
TIMER = "infra2: backup schedule: timer: missing"
CERTIFICATES_LEFT = "certificates (infra2)"


@pytest.mark.parametrize(
    ("stages", "lines"),
    [
        (
            STAGES,
            ["one member after the other: infra1, infra0 (the leader, last)", KUBELETS, CERTIFICATE, MANIFEST, TIMER],
        ),
        (
            ("static_pod",),
            [
                "one member after the other: infra1, infra0 (the leader, last)",
                KUBELETS,
                MANIFEST,
                f"left to other stages: {CERTIFICATES_LEFT}; backup (infra2)",
            ],
        ),
        # Without the stage static_pod, the kubelets take turns of their own.
        (
            ("kubelet",),
            [
                "one kubelet after the other: infra1, infra0",
                KUBELETS,
                f"left to other stages: {CERTIFICATES_LEFT}; static_pod (infra0); backup (infra2)",
            ],
        ),
        (
            ("ca", "certificates"),
            [
                "no member is restarted",
                CERTIFICATE,
                "left to other stages: static_pod (infra0, infra1); backup (infra2)",
            ],
        ),
        (
            ("backup",),
            [
                "no member is restarted",
                TIMER,
                f"left to other stages: {CERTIFICATES_LEFT}; static_pod (infra0, infra1)",
            ],
        ),
        (
            (),
            [
                "nothing to do in this run",
                f"left to other stages: {CERTIFICATES_LEFT}; static_pod (infra0, infra1); backup (infra2)",
            ],
        ),
    ],
)
@pytest.mark.parametrize("check", [False, True])
def test_a_plan_shows_what_its_stages_do(stages: tuple[str, ...], lines: list[str], check: bool) -> None:
    plan = planned(changed(), stages=stages, check=check)
    assert sorted(plan["lines"][1:]) == sorted(lines[1:]) and plan["lines"][0] == f"cluster etcd: {lines[0]}"
    # A role that is included later in the same play still has its steps.
    assert plan["steps"] == planned(changed())["steps"]


@pytest.mark.parametrize("stages", [STAGES, ("kubelet",), ()])
def test_a_settled_cluster_leaves_nothing_to_other_stages(stages: tuple[str, ...]) -> None:
    assert planned(observations(*ALL_UP), stages=stages)["lines"] == ["cluster etcd: nothing to do"]


@pytest.mark.parametrize(
    ("states", "stages", "words"),
    [
        ((FRESH, FRESH, FRESH), ("static_pod",), "a new cluster of 3 members, all started at once"),
        ((FRESH, FRESH, FRESH), ("kubelet",), "kubelets are changed at once: infra0, infra1, infra2"),
        ((FRESH, FRESH, FRESH), ("certificates",), "no member is restarted"),
        ((DOWN, DOWN, DOWN), ("kubelet",), "kubelets are changed at once: infra0, infra1, infra2"),
        ((DOWN, DOWN, DOWN), ("static_pod",), "no member answers; the members that are not ready are started"),
        ((up(leader=True), DOWN, up()), ("kubelet",), "one kubelet after the other: infra1"),
        ((up(leader=True), DOWN, up()), ("health",), "no member is restarted"),
    ],
)
def test_what_a_plan_says_of_members_that_are_down(states: Any, stages: tuple[str, ...], words: str) -> None:
    found = observations(*states)
    for item in found.values():
        if not item["etcd"]["ready"]:
            item["reasons"].update(kubelet=why("missing", part="kubelet"), ca=[], certificates=why("missing"))
    line = planned(found, stages=stages)["lines"][0]
    assert line.startswith(f"cluster etcd: {words}"), line


@pytest.mark.parametrize("kind", KINDS)
def test_every_step_has_a_stage_of_site_yml(kind: str) -> None:
    step = Step(kind, "infra0", "infra0")
    assert carried_out([step], STAGES) == [step] and carried_out([step], ()) == []


ENDS = {"asks": True, "waits": True, "proven": False, "tolerates": False, "held": ""}


@pytest.mark.parametrize(
    ("found", "wishes", "changes"),
    [
        (observations(*ALL_UP), {}, {}),
        (observations(*ALL_UP), {"check": True}, {}),
        # Nothing has been started that could become healthy.
        (observations(FRESH, FRESH, FRESH, due="012"), {}, {"proven": True}),
        (
            observations(FRESH, FRESH, FRESH, due="012"),
            {"check": True},
            {"asks": False, "proven": True, "tolerates": True},
        ),
        (observations(DOWN, DOWN, DOWN), {}, {}),
        (observations(DOWN, DOWN, DOWN), {"check": True}, {"asks": False, "tolerates": True}),
        # A run with the stage health alone starts no member, so that its result is the same in check mode.
        (observations(FRESH, FRESH, FRESH, due="012"), {"check": True, "stages": ("health",)}, {}),
        (observations(up(leader=True), DOWN, up()), {"check": True, "stages": ("health",)}, {}),
        # The run would make the member healthy.
        (observations(up(leader=True), DOWN, up()), {"check": True}, {"tolerates": True}),
        (observations(*ALL_UP, due="1"), {"check": True}, {"tolerates": True}),
        (observations(*ALL_UP, due="1"), {}, {}),
        (observations(*ALL_UP, due="1"), {"operation": "renew", "check": True}, {"tolerates": True}),
    ],
)
def test_the_end_of_a_run(found: dict[str, Any], wishes: dict[str, Any], changes: dict[str, Any]) -> None:
    assert ending(planned(found, **wishes), "etcd", Wish(**wishes)) == {**ENDS, **changes}


def test_a_timer_or_a_record_makes_no_member_healthy() -> None:
    found = observations(*ALL_UP)
    found["infra1"]["reasons"].update(backup=why("missing", part="backup"), record=why("missing", part="record"))
    plan = planned(found, check=True)
    assert plan["schedule"] and plan["record"]
    assert ending(plan, "etcd", Wish(check=True)) == ENDS


def test_what_is_held_fails_the_run_at_its_end() -> None:
    plan = planned(observations(*ALL_UP, due="1", differs="1", infra1=[("swap is on", ("restart",))]))
    assert ending(plan, "etcd", Wish()) == {
        **ENDS,
        "waits": False,
        "held": "The certificates of cluster etcd are up to date. Nothing was started or restarted, because of 1 problem(s):\n- infra1: swap is on",
    }


@pytest.mark.parametrize("operation", [*OPERATIONS])
@pytest.mark.parametrize("states", [ALL_UP, (FRESH, FRESH, FRESH), (DOWN, DOWN, DOWN), (up(leader=True), DOWN, up())])
def test_a_plan_that_is_refused_has_no_steps(operation: str, states: Any) -> None:
    seen = observations(*states, differs="01", due="012")
    problem = {"text": "x", "stops": ["found", "start", "restart", "sign"], "host": "", "code": "x"}
    cluster = {
        "name": "etcd",
        "members": [
            {"host": host, "name": host, "address": f"10.0.0.{6 + i}", "server_cert_sans": [], "peer_cert_sans": []}
            for i, host in enumerate(seen)
        ],
        "ca_host": "infra0",
        "problems": [problem],
        "warnings": [],
        "clients": [],
    }
    for item in seen.values():
        item["cluster"], item["backup"] = cluster, {"newest": []}
        item["etcd"]["members_of"] = None
        item["reasons"].update(backup=why("missing", part="backup"), config=why("missing", part="config"))
    plan = plan_run("infra0", seen, [], Wish(operation=operation, member="infra1"))
    assert plan["problems"] and plan["steps"] == [] and plan["settled"], plan
    assert {kind: plan[kind] for kind in KINDS if plan[kind]} == {} and plan["order"] == plan["apiservers"] == []
    assert not plan["ending"]["tolerates"]
