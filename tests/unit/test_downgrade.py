"""Downgrades by one minor version of etcd: the decision of a run, and its work on a host."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
from ansible_collections.kubeadm.etcd.plugins.module_utils._control import downgrade as _downgrade
from ansible_collections.kubeadm.etcd.plugins.module_utils._etcd.client import (
    EtcdClient,
    EtcdUnreachableError,
    Member,
    Status,
    downgrade_in,
)
from ansible_collections.kubeadm.etcd.plugins.module_utils._member import downgrade as _member
from ansible_collections.kubeadm.etcd.plugins.module_utils._member import processes as _processes
from ansible_collections.kubeadm.etcd.plugins.module_utils._member import rollout as _rollout
from ansible_collections.kubeadm.etcd.plugins.module_utils._member.downgrade import DowngradeSpec, Seen
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.errors import EtcdError
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.formats import downgrade_problems
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.versions import EtcdVersion
from test_decision import DOWN, FRESH, listing
from test_run import planned
from test_upgrade import members

NEW, OLD = "3.7.3", "3.6.14"
TARGET = _rollout.make_target("infra0", [("infra0", "10.0.0.6"), ("infra1", "10.0.0.7")], 2379, 2381, "/pki")


def cluster(wanted: str, *runs: str, agreed: str = "", enabled: str = "") -> dict[str, Any]:
    """Three members by the versions that they run; those of 3.5 do not report that a downgrade is enabled."""
    found = members(wanted, *runs, agreed=agreed)
    for item, version in zip(found.values(), runs):
        item["etcd"]["downgrade"] = enabled if version >= "3.6" else ""
        item["reasons"]["manifest"] = item["reasons"]["manifest"] if version != wanted else []
    return found


def decided(found: dict[str, Any], wished: str, **wishes: Any) -> tuple[str, list[str], list[str]]:
    """Whether the run continues, the members that enable or cancel a downgrade, and those that get a turn."""
    plan = planned(found, downgrade=wished, **wishes)
    outcome = "refused" if plan["problems"] else "held" if plan["held"] else "goes on"
    assert outcome == "goes on" or (not plan["downgrade"] and not plan["order"] and not plan["snapshot"])
    return outcome, plan["downgrade"], plan["order"]


ALL = ["infra1", "infra2", "infra0"]


@pytest.mark.parametrize(
    ("wished", "wanted", "runs", "agreed", "enabled", "expected"),
    [
        # From the beginning to the end.
        ("3.6", OLD, [NEW] * 3, "", "", ("goes on", ["infra0"], ALL)),
        ("3.6", OLD, [NEW] * 3, "3.7.0", "3.6.0", ("goes on", [], ALL)),
        ("3.6", OLD, [NEW] * 3, "3.6.0", "3.6.0", ("goes on", [], ALL)),
        ("3.6", OLD, [NEW, OLD, NEW], "", "3.6.0", ("goes on", [], ["infra2", "infra0"])),
        ("3.6", OLD, [OLD] * 3, "", "3.6.0", ("goes on", [], [])),
        ("3.6", OLD, [OLD] * 3, "", "", ("goes on", [], [])),
        ("3.5", "3.5.35", ["3.6.14"] * 3, "", "", ("goes on", ["infra0"], ALL)),
        ("3.5", "3.5.35", ["3.5.35", "3.5.35", "3.6.14"], "", "3.5.0", ("goes on", [], ["infra2"])),
        # An upgrade that is half done goes back without the API.
        ("3.6", OLD, [OLD, NEW, NEW], "", "", ("goes on", [], ["infra1", "infra2"])),
        # Without the variable: neither on nor back.
        ("", OLD, [NEW] * 3, "", "", ("refused", [], [])),
        ("", OLD, [NEW] * 3, "3.6.0", "3.6.0", ("refused", [], [])),
        ("", OLD, [NEW, OLD, NEW], "", "3.6.0", ("refused", [], [])),
        ("", NEW, [NEW, OLD, NEW], "", "3.6.0", ("refused", [], [])),
        ("", NEW, [NEW] * 3, "3.6.0", "3.6.0", ("goes on", [], [])),
        ("", OLD, [OLD] * 3, "", "3.6.0", ("goes on", [], [])),
        # Another patch of the version that runs is neither.
        ("", "3.7.2", [NEW] * 3, "3.6.0", "3.6.0", ("goes on", [], ALL)),
        # Cancelled at any moment, and a killed run that has cancelled.
        ("cancel", NEW, [NEW] * 3, "3.7.0", "3.6.0", ("goes on", ["infra0"], [])),
        ("cancel", NEW, [NEW] * 3, "3.6.0", "3.6.0", ("goes on", ["infra0"], [])),
        ("cancel", NEW, [NEW, OLD, NEW], "", "3.6.0", ("goes on", ["infra0"], ["infra1"])),
        ("cancel", NEW, [OLD] * 3, "", "3.6.0", ("goes on", ["infra0"], ALL)),
        ("cancel", NEW, [NEW, OLD, NEW], "", "", ("goes on", [], ["infra1"])),
        ("cancel", NEW, [NEW] * 3, "", "", ("goes on", [], [])),
        ("cancel", OLD, [NEW, OLD, NEW], "", "3.6.0", ("refused", [], [])),
        ("cancel", OLD, [OLD] * 3, "", "3.6.0", ("refused", [], [])),
        ("cancel", OLD, [NEW, OLD, NEW], "", "", ("refused", [], [])),
        # The image is not of that version.
        ("3.6", NEW, [NEW] * 3, "", "", ("refused", [], [])),
        ("3.6", "3.5.35", [NEW] * 3, "", "", ("refused", [], [])),
        ("3.6", NEW, [NEW, OLD, NEW], "", "3.6.0", ("refused", [], [])),
        ("3.6", "latest", [NEW] * 3, "", "", ("refused", [], [])),
        # Not one below, and another one than is under way.
        ("3.5", "3.5.35", [NEW] * 3, "", "", ("refused", [], [])),
        ("3.7", NEW, [OLD] * 3, "", "", ("refused", [], [])),
        ("3.5", "3.5.35", [OLD] * 3, "", "3.6.0", ("refused", [], [])),
        # Too old to run beside 3.6.
        ("3.5", "3.5.25", ["3.6.14"] * 3, "", "", ("refused", [], [])),
        ("3.5", "3.5.26", ["3.6.14"] * 3, "", "", ("goes on", ["infra0"], ALL)),
    ],
)
def test_the_phase_of_a_downgrade(
    wished: str, wanted: str, runs: list[str], agreed: str, enabled: str, expected: tuple[str, list[str], list[str]]
) -> None:
    assert decided(cluster(wanted, *runs, agreed=agreed, enabled=enabled), wished) == expected


def absent(found: dict[str, Any]) -> None:
    del found["infra2"]


def stopped(found: dict[str, Any]) -> None:
    found["infra2"]["etcd"].update(DOWN, version="", cluster_version="", members=listing())


def stranger(found: dict[str, Any]) -> None:
    for item in found.values():
        item["etcd"]["members"] = [
            *listing(),
            {
                "id": "99",
                "name": "other",
                "peer_urls": ["https://10.9.9.9:2380"],
                "client_urls": ["x"],
                "is_learner": False,
            },
        ]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (absent, "infra2 did not take part in this run, and every member has to go back. Run without --limit"),
        (stopped, "not every member is ready, without infra2 etcd would wait. Run site.yml without etcd_downgrade"),
        (stranger, "the cluster has other, which the inventory lacks"),
    ],
)
def test_a_downgrade_is_enabled_for_all_members_or_not(change: Any, words: str) -> None:
    """Once it is enabled, the leader waits for every member. A run that continues may be limited."""
    found = cluster(OLD, NEW, NEW, NEW)
    change(found)
    plan = planned(found, downgrade="3.6")
    assert words in "".join([*plan["held"], *plan["problems"]]) and plan["downgrade"] == plan["order"] == []
    found = cluster(OLD, NEW, NEW, NEW, agreed="3.6.0", enabled="3.6.0")
    change(found)
    plan = planned(found, downgrade="3.6")
    assert plan["held"] == plan["problems"] == plan["downgrade"] == [] and plan["order"]


def test_no_host_joins_in_the_run_that_enables_a_downgrade() -> None:
    found = cluster(OLD, NEW, NEW, NEW)
    for item in found.values():
        item["etcd"]["members"] = listing("01", "01")
    found["infra2"]["etcd"] = {
        **found["infra2"]["etcd"],
        **FRESH,
        "members": listing("01", "01"),
        "version": "",
        "image": None,
    }
    plan = planned(found, downgrade="3.6", allow_interruption=True)
    assert "infra2 would join in the same run" in "".join([*plan["held"], *plan["problems"]])


@pytest.mark.parametrize(
    ("wished", "wanted", "is_refused"), [("", OLD, True), ("", NEW, True), ("3.6", OLD, True), ("cancel", NEW, False)]
)
def test_no_host_joins_while_a_downgrade_is_under_way(wished: str, wanted: str, is_refused: bool) -> None:
    """etcd lets none, with either version. A run that cancels it cancels it before a member joins."""
    found = cluster(wanted, NEW, NEW, NEW, agreed="3.6.0", enabled="3.6.0")
    for item in found.values():
        item["etcd"]["members"] = listing("01", "01")
    found["infra2"]["etcd"] = {**found["infra2"]["etcd"], **FRESH, "members": listing("01", "01"), "version": ""}
    plan = planned(found, downgrade=wished, allow_interruption=True)
    said = "".join(plan["problems"])
    assert ("etcd lets no member join then" in said and "--limit 'all:!infra2'" in said) is is_refused
    assert (plan["join"] == ["infra2"] and plan["downgrade"] == ["infra0"]) is not is_refused


def test_a_downgrade_is_cancelled_beside_a_member_that_is_lost() -> None:
    """In a run without its host, as the message says. Then the member can be replaced."""
    found = cluster(NEW, NEW, OLD, NEW, enabled="3.6.0")
    del found["infra2"]
    assert decided(found, "cancel") == ("goes on", ["infra0"], ["infra1"])


def test_no_downgrade_begins_with_two_versions() -> None:
    """3.6 and 3.7 in a cluster of version 3.7 is impossible. The run changes nothing."""
    found = cluster(OLD, NEW, OLD, NEW, agreed="3.7.0")
    assert decided(found, "3.6")[0] == "refused"


def test_a_cluster_that_is_down_is_started_as_it_was() -> None:
    found = cluster(OLD, NEW, NEW, NEW)
    for item in found.values():
        item["etcd"].update(DOWN, version="", cluster_version="", members=None, downgrade="")
    plan = planned(found, downgrade="3.6")
    assert plan["action"] == "start" and plan["problems"] == plan["held"] == plan["downgrade"] == []


def test_other_operations_enable_nothing() -> None:
    plan = planned(cluster(OLD, NEW, NEW, NEW), downgrade="3.6", operation="renew")
    assert plan["downgrade"] == plan["order"] == []


def test_the_plan_for_people() -> None:
    """The plan names lost features, the way back, and the first step."""
    plan = planned(cluster(OLD, NEW, NEW, NEW), downgrade="3.6", backup_before_change=True)
    assert plan["lines"][:3] == [
        "cluster etcd: one member after the other: infra1, infra2, infra0 (the leader, last)",
        "infra1, infra2, infra0: etcd: 3.7.3 -> 3.6.14 (registry.k8s.io/etcd:3.6.14-0, by etcd_image_tag)",
        "infra1: snapshot: taken from member infra1, saved in /var/backups/etcd",
    ]
    assert (
        "infra0: cluster version: 3.7 -> 3.6: a downgrade is enabled before the first member gets 3.6" in plan["lines"]
    )
    kinds = [step["kind"] for step in plan["steps"]]
    assert kinds.index("snapshot") < kinds.index("downgrade") < kinds.index("turn")
    (said,) = [text for text in plan["notices"] if "no key is lost" in text]
    assert not [text for text in plan["notices"] if "older release" in text]
    assert "etcd 3.6 has no metrics of 3.7" in said and "site.yml -e etcd_downgrade=cancel" in said
    plan = planned(cluster(OLD, NEW, OLD, NEW, enabled="3.6.0"))
    (said,) = plan["problems"]
    assert said.startswith("infra2, infra0: a downgrade of cluster 'etcd' to 3.6 is under way, and etcd 3.7.3 would be")
    assert "-e etcd_downgrade=3.6, or cancel it with site.yml -e etcd_downgrade=cancel" in said
    plan = planned(cluster(NEW, NEW, NEW, NEW, agreed="3.6.0", enabled="3.6.0"))
    assert "to 3.6 is under way (0 of 3 members run 3.6)" in "".join(plan["notices"]) and plan["settled"]


@pytest.mark.parametrize(
    ("text", "is_valid"),
    [("", True), ("3.6", True), (3.6, True), ("cancel", True), ("3.6.14", False), ("v3.6", False), ("yes", False)],
)
def test_the_variable(text: Any, is_valid: bool) -> None:
    assert bool(downgrade_problems("etcd_downgrade", text)) is not is_valid


@pytest.mark.parametrize(
    ("version", "storage", "reported", "code", "expected"),
    [
        ("3.6.14", "3.6.0", "3.5.0", "", "3.5.0"),
        ("3.6.14", "3.6.0", "", "precondition", ""),
        # 3.5 is asked whether another one could begin.
        ("3.5.35", "", "", "precondition", "3.5.0"),
        ("3.5.35", "", "", "", ""),
        ("3.5.35", "", "", "timeout", ""),
        ("mine", "", "", "precondition", ""),
    ],
)
def test_whether_one_is_enabled(
    version: str, storage: str, reported: str, code: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, str]] = []

    def ask(_client: EtcdClient, action: str, target: str) -> None:
        asked.append((action, target))
        if code:
            raise EtcdUnreachableError("no.", code)

    monkeypatch.setattr(EtcdClient, "downgrade", ask)
    client = EtcdClient.__new__(EtcdClient)
    assert client.enabled_downgrade(status_of(version, storage, reported)) == expected
    assert asked == ([("VALIDATE", "3.4")] if version == "3.5.35" else [])


@pytest.mark.parametrize(
    ("status", "version"),
    [
        ({"downgradeInfo": {"enabled": True, "targetVersion": "3.6.0"}}, "3.6.0"),
        ({"downgradeInfo": {}}, ""),
        ({"downgradeInfo": {"targetVersion": "3.6.0"}}, ""),
        ({}, ""),
    ],
)
def test_what_a_member_reports(status: dict[str, Any], version: str) -> None:
    assert downgrade_in(status) == version


# --- On a host -------------------------------------------------------------------------------------------------------


def status_of(version: str, storage: str = "", downgrade: str = "") -> Status:
    return Status(1, 1, version, 0, 0, None, 1, 1, 1, 1, False, storage_version=storage, downgrade=downgrade)


class FakeCluster:
    """Three members of one version, as the API changes them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, version: str = NEW) -> None:
        self.members = [Member(i, f"infra{i}", ["p"], [f"https://10.0.0.{i}:2379"], False) for i in range(3)]
        self.versions = [version] * 3
        self.storage = [f"{version[:3]}.0"] * 3
        self.agreed = f"{version[:3]}.0"
        self.enabled = ""
        self.problem: str | None = None
        self.is_slow = False
        self.asked: list[str] = []
        self.credentials = ("ca", "cert", "key")
        fakes: list[tuple[Any, str, Any]] = [
            (_member, "Membership", lambda *_: self),
            (_member, "cluster_lock", self.lock),
            (_member, "look", self.look),
            (_member, "ask", self.ask),
            (_member, "POLL", 0.0),
            (_processes, "PATIENCE", -1.0),
            (_rollout, "check_controller", lambda: None),
            (_rollout, "ask_cluster_version", lambda _target: self.agreed),
            (_rollout, "wait_for_cluster_version", lambda _target: self.asked.append("agree")),
        ]
        for target, name, fake in fakes:
            monkeypatch.setattr(target, name, fake)

    @contextlib.contextmanager
    def lock(self, *_: Any, **__: Any) -> Iterator[Any]:
        self.asked.append("lock")
        yield self

    def check(self) -> None:
        self.asked.append("check lock")

    def look(self, _acts: Any, _target: Any) -> list[Seen]:
        found = [
            Seen(member, status_of(version, "" if version < "3.6" else storage, self.enabled), self.problem)
            for member, version, storage in zip(self.members, self.versions, self.storage)
        ]
        if self.enabled and not self.is_slow:
            self.agreed = self.enabled
            self.storage = [self.enabled] * 3
        return found

    def ask(self, _acts: Any, item: Seen, action: str, version: str = "") -> None:
        self.asked.append(f"{action} {version} {item.name}".replace("  ", " "))
        if action == "ENABLE":
            self.enabled = f"{version}.0"
        elif action == "CANCEL":
            self.enabled = ""


def spec(version: str = "3.6", timeout: float = 60.0) -> DowngradeSpec:
    return DowngradeSpec("infra0", [("infra0", "10.0.0.0")], version, timeout=timeout)


@pytest.fixture
def etcd(monkeypatch: pytest.MonkeyPatch) -> FakeCluster:
    made = FakeCluster(monkeypatch)
    monkeypatch.setattr(_member, "hold_lock", lambda stack, _spec, _acts: stack.enter_context(made.lock()))
    return made


def test_it_is_validated_and_enabled_and_waited_for(etcd: FakeCluster) -> None:
    result = _member.change_downgrade(spec(), check=False)
    assert result["changed"] and result["reasons"] == ["cluster version: 3.7 -> 3.6"]
    assert etcd.asked == ["lock", "VALIDATE 3.6 infra0", "check lock", "ENABLE 3.6 infra0"]
    assert etcd.storage == ["3.6.0"] * 3
    again = _member.change_downgrade(spec(), check=False)
    assert not again["changed"] and len(etcd.asked) == 5


def test_check_mode_asks_etcd_whether_it_would(etcd: FakeCluster) -> None:
    result = _member.change_downgrade(spec(), check=True)
    assert result["changed"] and etcd.asked == ["VALIDATE 3.6 infra0"] and not etcd.enabled


def test_a_killed_run_is_waited_for(etcd: FakeCluster) -> None:
    """It has enabled the downgrade, and the leader has not lowered the version of the cluster yet."""
    etcd.enabled = "3.6.0"
    assert not _member.change_downgrade(spec(), check=False)["changed"]
    assert etcd.agreed == "3.6.0" and etcd.asked == ["lock"]


def test_another_downgrade_is_under_way(etcd: FakeCluster) -> None:
    etcd.enabled = "3.5.0"
    with pytest.raises(EtcdError, match=r"a downgrade to 3\.5 is under way already"):
        _member.change_downgrade(spec(), check=False)


def test_it_is_not_enabled_beside_a_member_that_is_unwell(etcd: FakeCluster) -> None:
    etcd.problem = "no leader"
    with pytest.raises(EtcdError, match=r"not enabled: infra0 is not healthy \(no leader\); infra1"):
        _member.change_downgrade(spec(), check=False)
    assert etcd.asked == ["lock"]


def test_etcd_that_is_not_ready_in_time(etcd: FakeCluster) -> None:
    etcd.is_slow = True
    with pytest.raises(
        EtcdError, match=r"after 0 s: the cluster has version 3\.7; the data of infra0 is of version 3\.7;"
    ):
        _member.change_downgrade(spec(timeout=0.0), check=False)


def test_it_is_cancelled_at_a_member_of_the_newer_version(etcd: FakeCluster) -> None:
    """3.5 carries it out and never answers."""
    etcd.versions = ["3.5.35", "3.6.14", "3.5.35"]
    etcd.enabled = "3.5.0"
    result = _member.change_downgrade(spec("cancel"), check=True)
    assert result["changed"] and etcd.asked == []
    result = _member.change_downgrade(spec("cancel"), check=False)
    assert result["reasons"] == ["downgrade to 3.5: cancelled"]
    assert etcd.asked == ["lock", "check lock", "CANCEL infra1", "agree"]
    assert not _member.change_downgrade(spec("cancel"), check=False)["changed"]


@pytest.mark.parametrize(
    ("seen", "problems"),
    [
        (Seen(Member(1, "infra1", ["p"], ["c"], False), status_of(NEW)), []),
        (Seen(Member(1, "infra1", ["p"], ["c"], False), None, "refused"), ["infra1 is not healthy (refused)"]),
        (Seen(Member(1, "infra1", ["p"], ["c"], False), None), ["infra1 is not healthy (no answer)"]),
        (Seen(Member(1, "infra1", ["p"], ["c"], True), status_of(NEW)), ["infra1 has not joined completely"]),
        (Seen(Member(0xBEEF, "", ["p"], [], False)), ["member beef has not joined completely"]),
    ],
)
def test_the_gate(seen: Seen, problems: list[str]) -> None:
    assert _member.gate_problems([seen]) == problems


def test_what_is_read_of_the_members(monkeypatch: pytest.MonkeyPatch) -> None:
    """A member that has not started is not asked, one without an answer has no status, and 3.5 reports no downgrade."""
    listed = [Member(i, f"infra{i}", ["p"], [str(i)] if i else [], False) for i in range(4)]
    answers = {"2": status_of("3.5.35"), "3": status_of("3.6.14", "3.5.0", "3.5.0")}

    def status(url: str, _target: Any) -> Status:
        if url not in answers:
            raise EtcdError("silent.")
        return answers[url]

    monkeypatch.setattr(_rollout, "status_with_downgrade", status)
    monkeypatch.setattr(_rollout, "ask_health", lambda _url, _target: None)

    class Acts:
        def members(self) -> list[Member]:
            return listed

    seen = _member.look(Acts(), TARGET)  # type: ignore[arg-type]
    assert [(item.status is None, item.problem) for item in seen] == [
        (True, None),
        (True, "silent"),
        (False, None),
        (False, None),
    ]
    assert _member.enabled_in(seen) == "3.5" and _member.enabled_in(seen[:3]) == ""
    assert _member.newest(seen).name == "infra3"
    with pytest.raises(EtcdError, match="no member answers"):
        _member.newest(seen[:2])


@pytest.mark.parametrize(
    ("storage", "agreed", "left"),
    [
        ("3.6.0", "3.6.0", 0),
        ("", "3.6.0", 0),
        ("3.7.0", "3.6.0", 1),
        ("3.6.0", "3.7.0", 1),
        ("3.6.0", "", 1),
        ("3.7.0", "3.7.0", 2),
    ],
)
def test_what_is_waited_for(storage: str, agreed: str, left: int) -> None:
    seen = [Seen(Member(1, "infra1", ["p"], ["c"], False), status_of(NEW, storage))]
    assert len(_member.waiting_for(seen, "3.6", agreed)) == left


# --- The turn of a member --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("storage", "wanted", "words"),
    [
        ("3.6.0", OLD, None),
        ("3.7.0", OLD, r"infra0 is not touched: its data is of version 3\.7.*site\.yml -e etcd_downgrade=3\.6"),
        ("3.5.0", OLD, None),
        ("", "3.5.35", None),
        ("3.6.0", "3.5.35", "etcd_downgrade=3.5"),
        (None, OLD, None),
    ],
)
def test_no_member_is_stopped_before_its_data_is_ready(
    storage: str | None, wanted: str, words: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """storage: None if it does not answer."""

    def status(_url: str, _target: Any) -> Status:
        if storage is None:
            raise EtcdError("no answer.")
        return status_of(NEW, storage)

    monkeypatch.setattr(_rollout, "AGREES", -1.0)
    monkeypatch.setattr(_rollout, "check_controller", lambda: None)
    monkeypatch.setattr(_rollout, "status_at", status)
    version = EtcdVersion(*map(int, wanted.split(".")))
    with pytest.raises(EtcdError, match=words) if words else contextlib.nullcontext():
        _rollout.wait_until_lowered(TARGET, version)


@pytest.mark.parametrize(
    ("versions", "enabled", "fails"),
    [([OLD, OLD], "", False), ([OLD, NEW], "3.6.0", False), ([OLD, OLD], "3.6.0", True), ([], "", False)],
)
def test_the_last_member_waits_until_etcd_has_ended_it(
    versions: list[str], enabled: str, fails: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = [Member(i, f"infra{i}", ["p"], [str(i)], False) for i, _version in enumerate(versions)]
    monkeypatch.setattr(_rollout, "AGREES", -1.0)
    monkeypatch.setattr(_rollout, "check_controller", lambda: None)
    monkeypatch.setattr(_rollout, "ask_membership", lambda *_: (None, listed))
    monkeypatch.setattr(
        _rollout, "status_with_downgrade", lambda url, _target: status_of(versions[int(url)], "3.6.0", enabled)
    )
    with pytest.raises(EtcdError, match="has not ended the downgrade") if fails else contextlib.nullcontext():
        _rollout.wait_for_end_of_downgrade(TARGET)


def test_the_progress_of_a_downgrade() -> None:
    assert _downgrade.progress(cluster(OLD, NEW, OLD, NEW), "3.6") == "1 of 3 members run 3.6"
