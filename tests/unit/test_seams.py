"""The seams between the host, the play and the plan: the functions that etcd_observe and etcd_plan call, as they call them."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import pytest
from ansible_collections.kubeadm.etcd.plugins.module_utils._control import look as _look
from ansible_collections.kubeadm.etcd.plugins.module_utils._control import variables as _variables
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.plan import refusal
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.steps import KINDS, Step, hosts_of, in_order
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.view import view_of
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.wish import Wish
from ansible_collections.kubeadm.etcd.plugins.module_utils._host import kubeadm, kubelet
from ansible_collections.kubeadm.etcd.plugins.module_utils._operations import run as _run
from ansible_collections.kubeadm.etcd.plugins.module_utils._pki import state
from ansible_collections.kubeadm.etcd.plugins.module_utils._values import formats
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.problems import Problem, problems_of
from test_decision import DOWN, FRESH, HOSTS, up, why
from test_run import ALL_UP, observations

OPTIONS = {
    "etcd_cluster_name": {"type": "str"},
    "etcd_client_port": {"type": "int", "default": 2379},
    "etcd_data_dir": {"type": "str", "default": "/var/lib/etcd"},
}
VALUES = {
    "etcd_install_dependencies": "no",
    "etcd_data_dir": "/var/lib/etcd",
    "etcd_client_port": 2379,
    "etcd_peer_port": 2380,
    "etcd_metrics_port": 2381,
    "etcd_container_runtime_endpoint": "unix:///x",
    "etcd_cgroup_driver": "systemd",
    "etcd_kubelet_config": {},
    "etcd_extra_envs": {},
    "etcd_certificate_renewal_window": "720h",
    "etcd_manifests_dir": "/m",
}
# All others get an arbitrary value.
VALUES = {**dict.fromkeys([*_variables.VARIABLES, *_variables.FIXED], "x"), **VALUES}
SIGNER = {"etcd_client_port": 3379, "etcd_certificate_renewal_window": "1h"}
PLANE = "control0"


def inventory(**changes: dict[str, Any]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {f"infra{i}": {"ansible_host": f"10.0.0.{6 + i}"} for i in range(3)}
    found[PLANE] = {"ansible_host": "10.0.0.20"}
    for host, variables in changes.items():
        found[host].update(variables)
    return found


def resolved(
    host: str, operation: str = "converge", before: dict[str, Any] | None = None, **changes: dict[str, Any]
) -> tuple[_look.Look, dict[str, Any]]:
    look = _look.look_of(host, HOSTS, [PLANE], operation)
    variables = inventory(**changes)
    return look, _look.resolved(look, variables, before or {}, OPTIONS, {}, ())


def arguments(
    host: str, operation: str = "converge", batch: Iterable[str] = (), **changes: dict[str, Any]
) -> dict[str, Any] | None:
    """The options of etcd_host_info. batch: hosts of the run."""
    look, cluster = resolved(host, operation, **changes)
    asks = _look.asks_health(host, cluster, batch)
    return _look.host_arguments(look, cluster, VALUES, SIGNER, 1.0, health=asks, recipient="-----BEGIN")


def test_a_member_is_observed_with_its_specs() -> None:
    found = arguments("infra1") or {}
    assert (found["name"], found["address"], len(found["members"])) == ("infra1", "10.0.0.7", 3)
    assert found["pki"]["name"] == found["config"]["name"] == "infra1" and found["pki"]["ca_host"] is False
    assert found["config"]["members"] == found["backup"]["members"] == found["members"]
    assert found["kubelet"]["manifests_dir"] == "/m" and found.get("member", True)
    assert (arguments("infra0") or {})["pki"]["ca_host"] is True
    assert found["backup"]["recipient"] == "-----BEGIN"


@pytest.mark.parametrize(
    ("operation", "installs"),
    [("converge", True), ("replace", True), ("renew", False), ("remove", False), ("rotate_ca", False)],
)
def test_which_runs_install_packages(operation: str, installs: bool) -> None:
    assert (arguments("infra1", operation) or {})["packages"] == ("x" if installs else [])


def test_specs_of_a_host_are_options_of_the_modules() -> None:
    """All options, except those that the plan decides or the host knows."""
    found = arguments("infra1") or {}
    planned = {"initial_cluster_state", "initial_cluster_token", "published", "kubeadm"}
    assert set(found["config"]) == {*kubeadm.CONFIG_ARGUMENTS, "path"} - planned
    assert set(found["pki"]) == set(state.ARGUMENTS) - {"kinds", "known_addresses", "first_ca_only"}
    assert set(found["kubelet"]) == set(kubelet.KUBELET_ARGUMENTS)
    for values in (found["config"], found["pki"], found["kubelet"], found["backup"]):
        assert {key: value for key, value in values.items() if str(value).startswith("etcd_")} == {}


def test_one_host_of_a_cluster_asks_for_its_health() -> None:
    """The first of its members that the run has: with --limit as well."""
    found = {host: (arguments(host, batch=["other", "infra2", "infra1"]) or {})["health"] for host in HOSTS}
    assert found == {"infra0": {}, "infra1": {"renewal_window": "720h", "quota": None}, "infra2": {}}
    wrong = {"infra1": {"etcd_client_port": "x"}}
    assert (arguments("infra1", batch=["infra1"], **wrong) or {})["health"] == {}
    unknown = {"infra2": {"ansible_host": "infra2.example.com"}}
    assert (arguments("infra1", batch=["infra1"], **unknown) or {})["health"] == {}


@pytest.mark.parametrize(
    ("flags", "envs", "quota"),
    [
        ({}, {}, None),
        ({"quota-backend-bytes": 1}, {"ETCD_QUOTA_BACKEND_BYTES": "2"}, 1),
        ({}, {"ETCD_QUOTA_BACKEND_BYTES": "2"}, "2"),
    ],
)
def test_the_quota_that_health_is_judged_with(flags: dict[str, Any], envs: dict[str, Any], quota: Any) -> None:
    values = {**VALUES, "etcd_extra_envs": envs}
    assert _look.health_wanted({"extra_args": flags}, values) == {"renewal_window": "720h", "quota": quota}


def test_invalid_values_reach_no_host() -> None:
    found = arguments("infra1", infra1={"etcd_client_port": "x"}) or {}
    assert found["config"] == {"data_dir": "/var/lib/etcd", "peer_port": 2380, "metrics_port": 2381}
    assert found["kubelet"]["runtime_endpoint"] == "unix:///x"
    assert found["pki"] == found["backup"] == {}


@pytest.mark.parametrize(
    ("value", "flags"),
    [("", {}), ("8589934592", {"quota-backend-bytes": "8589934592"}), (0, {"quota-backend-bytes": 0})],
)
def test_a_variable_that_is_a_flag(monkeypatch: pytest.MonkeyPatch, value: Any, flags: dict[str, Any]) -> None:
    """Only the table names the flag. With the default of the variable, etcd uses its own."""
    monkeypatch.setitem(_variables.VARIABLES, "etcd_quota", _variables.Variable("host", flag="quota-backend-bytes"))
    monkeypatch.setitem(_variables.VARIABLES, "etcd_vote", _variables.Variable("host", flag="pre-vote"))
    options = {
        **OPTIONS,
        "etcd_quota": {"type": "str", "default": ""},
        "etcd_vote": {"type": "bool", "default": False},
        "etcd_extra_args": {"type": "dict", "default": {}},
    }

    def found(**values: Any) -> dict[str, Any]:
        look = _look.look_of("infra0", HOSTS, [], "converge")
        return _look.resolved(look, inventory(), {}, options, {"etcd_quota": value, "etcd_vote": "no", **values}, ())

    assert formats.flag_value_problems("etcd_quota", value) == [] and formats.flag_value_problems("etcd_quota", "ü")
    assert found()["extra_args"] == flags
    assert found(etcd_extra_args={"cors": "a"}, etcd_vote="yes")["extra_args"] == {
        "cors": "a",
        **flags,
        "pre-vote": True,
    }
    doubled = found(etcd_extra_args={"quota-backend-bytes": 1})
    assert [item["text"].split(" ")[0] for item in doubled["problems"]] == ["etcd_quota"] * len(flags)
    assert found(etcd_extra_args=["quota-backend-bytes"])["extra_args"] == flags, (
        "what is no mapping is refused elsewhere"
    )


def test_an_address_that_is_not_known_yet() -> None:
    """The host is observed alone first, and then again with the address found there."""
    unknown = {"infra1": {"ansible_host": "infra1.example.com"}}
    assert not resolved("infra0", **unknown)[1]["known"]
    own, other = arguments("infra1", **unknown) or {}, arguments("infra0", **unknown) or {}
    assert own["address"] == "" and own["members"] == [] and own["pki"] == {}
    assert [member["name"] for member in other["members"]] == ["infra0", "infra2"] and "name" not in other["config"]
    seen = {"infra1": {"facts": {"default_address": "10.0.0.7"}}}
    assert resolved("infra0", before=seen, **unknown)[1]["known"]


@pytest.mark.parametrize(
    ("host", "changes", "observed"),
    [
        # Of the members, the CA host signs. The others are looked at for their address only.
        ("infra0", {}, True),
        ("infra1", {}, False),
        ("infra1", {"infra2": {"ansible_host": "infra2.example.com"}}, True),
        (PLANE, {}, True),
    ],
)
def test_hosts_that_are_observed_in_a_hand_over(host: str, changes: dict[str, Any], observed: bool) -> None:
    found = arguments(host, "hand_over", **changes)
    assert (found is not None) == observed
    if host == PLANE and found:
        assert found["member"] is False and found["pki"]["kinds"] == ["apiserver-etcd-client"]
        # From the CA host.
        assert found["config"] == {"client_port": 3379} and found["pki"]["renewal_window"] == "1h"


def test_without_a_hand_over_no_host_is_a_control_plane_host() -> None:
    look, cluster = resolved("infra0")
    assert PLANE not in look.hosts and cluster["clients"] == []
    assert resolved("infra0", "hand_over")[1]["clients"][0]["host"] == PLANE


@pytest.mark.parametrize(
    ("operation", "leaving", "may"),
    [
        ("remove", "infra0", True),
        ("remove", "named", True),
        ("remove", "other", False),
        ("remove", "", False),
        ("replace", "infra0", False),
        ("converge", "infra0", False),
    ],
)
def test_only_the_host_of_a_removed_member_may_be_gone(operation: str, leaving: str, may: bool) -> None:
    cluster = {"members": [{"host": "infra0", "name": "named"}, {"host": "infra1", "name": "other"}]}
    assert _look.may_be_gone("infra0", operation, cluster, leaving) is may


def test_a_value_that_only_the_play_has_is_one_of_the_control_plane_host() -> None:
    look = _look.look_of(PLANE, HOSTS, [PLANE], "hand_over")
    found = _look.resolved(look, inventory(), {}, OPTIONS, {"etcd_client_port": "x"}, ())
    assert found["invalid"] == ["etcd_client_port"] and found["problems"][-1]["host"] == PLANE
    assert "etcd_client_port" in found["problems"][-1]["text"]
    assert _look.resolved(look, inventory(), {}, OPTIONS, {"etcd_client_port": 2379}, ())["invalid"] == []


# --- The plan --------------------------------------------------------------------------------------------------------


def seen(found: dict[str, Any], **clusters: list[str]) -> dict[str, Any]:
    """What etcd_observe has returned. clusters: by host, problems that it has found in its own variables."""

    def own(host: str) -> list[dict[str, Any]]:
        return [problem.as_dict() for problem in problems_of("inventory", clusters.get(host, []), host=host)]

    return {
        host: {**item, "cluster": {**resolved(host)[1], "problems": own(host)}}
        for host, item in copy.deepcopy(found).items()
    }


def plan(found: dict[str, Any], host: str = "infra0", lost: list[str] | None = None, **wish: Any) -> dict[str, Any]:
    return _run.plan_run(host, found, lost or [], Wish(**wish))


def kinds(found: dict[str, Any]) -> list[tuple[str, str, int | None]]:
    return [(step["kind"], step["host"], step["turn"]) for step in found["steps"]]


def test_a_settled_cluster_has_no_steps() -> None:
    found = plan(seen(observations(*ALL_UP)))
    assert found["settled"] and found["steps"] == [] and found["lines"] == ["cluster etcd: nothing to do"]


@pytest.mark.parametrize(
    ("changes", "finished"),
    [
        ({}, True),
        ({"verdict": "degraded"}, False),
        ({"verdict": None}, False),
        ({"external_file": "external.yaml"}, False),
        ({"differs": "2"}, False),
        ({"lost": ["infra2"]}, False),
    ],
    ids=str,
)
def test_a_run_ends_with_its_plan(changes: dict[str, Any], finished: bool) -> None:
    """Only if nothing is left to do, and all members were found healthy."""
    given = observations(*ALL_UP, differs=changes.pop("differs", ""))
    verdict, lost = changes.pop("verdict", "healthy"), changes.pop("lost", [])
    given["infra0"]["health"] = verdict and {"verdict": verdict, "table": ["a table"]}
    found = plan(seen(given), lost=lost, **changes)
    assert found["finished"] == finished and found["table"] == (["a table"] if finished else [])


@pytest.mark.parametrize(
    ("part", "kind"),
    [
        ("kubelet", "turn"),
        ("ca", "ca"),
        ("certificates", "certificates"),
        ("config", "config"),
        ("manifest", "turn"),
        ("record", "record"),
    ],
)
def test_every_reason_is_that_of_a_step(part: str, kind: str) -> None:
    given = observations(*ALL_UP)
    given["infra0"]["reasons"][part] = why("differs", part=part)
    found = plan(seen(given))
    assert not found["settled"] and (kind, "infra0") in [(step["kind"], step["host"]) for step in found["steps"]]
    assert found["lines"][0] != "cluster etcd: nothing to do" and "differs" in found["lines"][-1]


def test_turns_are_numbers_in_the_order_of_the_plan() -> None:
    """The leader last; a member that is down first."""
    found = plan(seen(observations(up(leader=True), DOWN, up(), differs="02")))
    turns = [(host, turn) for kind, host, turn in kinds(found) if kind == "turn"]
    assert turns == [("infra1", 1), ("infra2", 2), ("infra0", 3)] and found["order"] == ["infra1", "infra2", "infra0"]


def test_steps_stand_in_the_order_in_which_they_are_carried_out() -> None:
    given = observations(FRESH, FRESH, FRESH, due="012")
    given["infra0"]["reasons"]["ca"] = why("etcd/ca.crt: missing", part="ca")
    found = plan(seen(given))
    assert found["replace_ca"] == HOSTS
    assert found["action"] == "bootstrap" and found["ca"] and found["start"] == found["certificates"] == HOSTS
    order = [KINDS.index(step["kind"]) for step in found["steps"]]
    assert order == sorted(order) and {step["turn"] for step in found["steps"]} == {None}


def test_steps_are_sorted_by_kind_and_turn() -> None:
    steps = [
        Step(kind, host, host, turn, ()) for kind, host, turn in (("turn", "c", 2), ("join", "b", 1), ("ca", "a", None))
    ]
    assert [step.host for step in in_order(steps)] == ["a", "b", "c"] and hosts_of(steps, "turn", "join") == ["b", "c"]


def test_hosts_without_a_cluster_have_nothing_in_common() -> None:
    """Control plane hosts without a known cluster: each has its own problems."""
    nobody = {"name": "", "members": [], "ca_host": "", "known": True, "warnings": [], "invalid": []}
    seen_there = {
        host: {
            "cluster": {
                **nobody,
                "problems": [Problem("x", host=host).as_dict()],
                "clients": [{"host": host, "name": host}],
            }
        }
        for host in ("control0", "control1")
    }
    assert view_of("control1", seen_there, []).cluster.problems == [Problem("x", host="control1")]


WRONG = ["unknown variable etcd_x."]


def test_problems_of_each_host_are_those_of_the_cluster() -> None:
    found = plan(seen(observations(*ALL_UP), infra1=WRONG, infra2=WRONG), host="infra2")
    assert found["problems"] == ["infra2, infra1: unknown variable etcd_x."] and found["speaker"] == "infra0"
    assert refusal(found, {"name": "etcd"}, speaks=True) == (
        "Nothing has been changed. 1 problem(s) in cluster etcd:\n- infra2, infra1: unknown variable etcd_x."
    )
    assert "See the message from infra0" in refusal(found, {"name": "etcd"}, speaks=False)


def test_hosts_without_an_observation() -> None:
    """A failed host is named. For others, the strategy is the cause: the play did not wait for them."""
    given = seen(observations(*ALL_UP, differs="0"))
    given["infra2"] = {"cluster": given["infra2"]["cluster"]}
    assert "free or host_pinned" in plan(given)["problems"][0]
    del given["infra2"]
    assert plan(given, lost=["infra2"])["problems"][0].startswith("infra2 cannot be reached")


def test_hosts_of_another_cluster_take_no_part() -> None:
    given = seen(observations(*ALL_UP))
    given["other"] = {**copy.deepcopy(given["infra1"]), "cluster": {**given["infra1"]["cluster"], "name": "b"}}
    given["other"]["cluster"]["problems"] = [Problem("wrong", host="other").as_dict()]
    assert plan(given)["settled"] and plan(given, lost=["another"])["problems"] == []


def test_an_image_archive_is_imported_where_the_image_is_missing() -> None:
    given = observations(*ALL_UP)
    given["infra1"]["images"] = []
    asked: list[list[str]] = []

    def archive(images: list[str]) -> list[str]:
        asked.append(images)
        return []

    found = _run.plan_run("infra0", seen(given), [], Wish(image_archive="/x.tar"), archive)
    assert found["image"] == ["infra1"] and asked == [["x"]] and not found["settled"]
    assert plan(seen(given))["settled"]
