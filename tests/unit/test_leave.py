"""A member leaves the membership: the conditions and the order of steps."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.kubeadm.etcd.plugins.module_utils._etcd.client import Alarm, Member
from ansible_collections.kubeadm.etcd.plugins.module_utils._etcd.lock import LockRefusedError, NoQuorumError
from ansible_collections.kubeadm.etcd.plugins.module_utils._member import departure
from ansible_collections.kubeadm.etcd.plugins.module_utils._member import processes as _processes
from ansible_collections.kubeadm.etcd.plugins.module_utils._member import rollout as _rollout
from ansible_collections.kubeadm.etcd.plugins.module_utils._member.record import Record, write_record
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.errors import EtcdError

ADDRESSES = [(f"infra{i}", f"10.0.0.{6 + i}") for i in range(3)]
SPEC = departure.LeaveSpec("infra2", "a2", ADDRESSES)


def member(number: int, learner: bool = False) -> Member:
    return Member(0xA0 + number, f"infra{number}", [f"peer{number}"], [f"client{number}"], learner)


class Cluster:
    """Three members. unwell: what some of them answer. alarms: as the membership returns them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.present = [member(i) for i in range(3)]
        self.unwell: dict[str, str] = {}
        self.raised: list[Alarm] = []
        self.refused: Exception | None = None
        self.without: set[tuple[str, ...]] = set()
        self.acts: list[str] = []
        fakes: list[tuple[Any, str, Any]] = [
            (departure, "Membership", self.membership),
            (departure, "cluster_lock", self.cluster_lock),
            (departure.time, "sleep", lambda _seconds: None),
            (_rollout, "ask_health", self.ask_health),
            (_processes, "PATIENCE", -1.0),
        ]
        for target, name, fake in fakes:
            monkeypatch.setattr(target, name, fake)

    def membership(self, urls: list[str], *_: Any) -> Cluster:
        assert urls == ["https://10.0.0.6:2379", "https://10.0.0.7:2379"], "the member itself is not asked"
        return self

    @contextlib.contextmanager
    def cluster_lock(self, *_: Any, **_options: Any) -> Iterator[Cluster]:
        if self.refused:
            raise self.refused
        self.acts.append("lock")
        yield self
        self.acts.append("unlock")

    def check(self) -> None:
        self.acts.append("check lock")

    def ask_health(self, url: str, _target: Any, without: tuple[str, ...] = ("NOSPACE",)) -> str | None:
        if url != "client2":
            self.without.add(without)
        return self.unwell.get(url)

    def members(self) -> list[Member]:
        return self.present

    def alarms(self) -> list[Alarm]:
        return self.raised

    def hand_over(self, number: int, _seconds: float) -> None:
        self.acts.append(f"hand over {number:x}")

    def remove(self, number: int, _seconds: float) -> None:
        self.acts.append(f"remove {number:x}")

    def disarm(self, number: int, _seconds: float) -> None:
        self.acts.append(f"disarm {number:x}")


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    return Cluster(monkeypatch)


REMOVAL = ["hand over a2", "check lock", "remove a2", "disarm a2"]


def test_the_steps_of_a_removal(cluster: Cluster) -> None:
    """A leader transfers its leadership first. The alarm is disarmed last, since it would stop the other members."""
    result = departure.leave(SPEC, check=False)
    assert cluster.acts == ["lock", *REMOVAL, "unlock"] and result["changed"]


def test_check_mode_and_who_has_left(cluster: Cluster) -> None:
    assert departure.leave(SPEC, check=True)["changed"] and cluster.acts == []
    cluster.present.pop()
    assert not departure.leave(SPEC, check=False)["changed"] and cluster.acts == []


def test_the_alarm_of_a_member_that_has_left_is_disarmed(cluster: Cluster) -> None:
    """An earlier run removed it, and did not get as far as that."""
    cluster.present.pop()
    cluster.raised = [Alarm(0xA1, "NOSPACE"), Alarm(0xA2, "CORRUPT")]
    result = departure.leave(SPEC, check=True)
    assert result["changed"] and cluster.acts == []
    result = departure.leave(SPEC, check=False)
    assert [change["code"] for change in result["changes"]] == ["disarmed"] and cluster.acts == ["disarm a2"]


def test_an_alarm_refuses_the_lock_and_not_the_removal(cluster: Cluster) -> None:
    cluster.refused = LockRefusedError("refused", "CORRUPT")
    departure.leave(SPEC, check=False)
    assert cluster.acts == ["hand over a2", "remove a2", "disarm a2"]
    cluster.refused = NoQuorumError("no quorum")
    with pytest.raises(NoQuorumError):
        departure.leave(SPEC, check=False)


def removed_here(root: Path, *, with_keys: bool = True) -> departure.LeaveSpec:
    """What the host of another member is asked for, whose member another run has removed."""
    pki = root / "pki"
    spec = replace(SPEC, pki_dir=str(pki), work_dir=str(root / "work"))
    (pki / "etcd").mkdir(parents=True)
    for path in departure.credentials_in(spec.pki_dir):
        Path(path).write_text("x")
    write_record(Record("infra0", "c1", "a0", "/var/lib/etcd", removed="2026-11-28"), spec.work_dir)
    if with_keys:
        (pki / "etcd/healthcheck-client.key").unlink()
    return spec


@pytest.mark.parametrize("check", [True, False])
def test_a_host_whose_member_another_run_has_removed(cluster: Cluster, tmp_path: Path, *, check: bool) -> None:
    """With its keys: the membership is not changed. Without, and if the keys are gone for another reason, the cluster is asked as ever."""
    with pytest.raises(EtcdError, match=r"another run has removed the member of this host, and its keys.* Run again"):
        departure.leave(removed_here(tmp_path / "a"), check)
    assert cluster.acts == []
    assert departure.leave(removed_here(tmp_path / "b", with_keys=False), check)["changed"]
    spec = removed_here(tmp_path / "c")
    write_record(Record("infra0", "c1", "a0", "/var/lib/etcd"), spec.work_dir)
    assert departure.leave(spec, check)["changed"]
    (tmp_path / "c/work/member.json").write_text("{")
    assert departure.leave(spec, check)["changed"]
    assert (tmp_path / "a/work/lock-keys").exists() is not check


def test_keys_that_another_run_removes(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not while this run asks the cluster with them, and as soon as it has ended."""
    spec = removed_here(tmp_path, with_keys=False)
    clear = departure.ClearSpec(
        "infra0",
        [],
        wipe_keys=True,
        data_dir=str(tmp_path / "data"),
        work_dir=spec.work_dir,
        pki_dir=spec.pki_dir,
        manifests_dir=str(tmp_path),
    )
    fakes: list[tuple[Any, str, Any]] = [
        (departure, "end_etcd", lambda *_: None),
        (departure, "remove_schedule", lambda _dir: None),
        (departure, "_remove_override", lambda _spec: None),
        (departure, "check_has_left", lambda _spec: None),
        (_rollout, "check_controller", lambda: None),
    ]
    for target, name, fake in fakes:
        monkeypatch.setattr(target, name, fake)
    said: list[str] = []

    def wipe(_number: int, _seconds: float) -> None:
        monkeypatch.setattr(departure, "KEYS_PATIENCE", 0.2)
        with pytest.raises(EtcdError, match=r"lock-keys for more than .* Wait until it ends, then run again"):
            departure.clear(clear, False)
        said.append("waited")

    monkeypatch.setattr(cluster, "remove", wipe)
    departure.leave(spec, check=False)
    assert said == ["waited"] and len(clear.key_files) == 3
    assert departure.clear(clear, False)["changes"][0]["part"] == "certificates" and clear.key_files == []
    with pytest.raises(EtcdError, match="and its keys"):
        departure.leave(spec, check=False)


@pytest.mark.parametrize(
    ("raised", "without"),
    [
        ([], ("NOSPACE",)),
        ([Alarm(0xA2, "NOSPACE")], ("NOSPACE",)),
        ([Alarm(0xA2, "CORRUPT")], ("NOSPACE", "CORRUPT")),
        ([Alarm(0xA2, "CORRUPT"), Alarm(0xA1, "CORRUPT")], ("NOSPACE",)),
        ([Alarm(0xA1, "CORRUPT")], ("NOSPACE",)),
    ],
)
def test_the_alarm_of_the_member_itself_does_not_count(
    cluster: Cluster, raised: list[Alarm], without: tuple[str, ...]
) -> None:
    cluster.raised = raised
    departure.leave(SPEC, check=True)
    assert cluster.without == {without}


def test_others_are_looked_at_again_under_the_lock(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[int] = []
    monkeypatch.setattr(cluster, "alarms", lambda: looked.append(len(cluster.acts)) or [])
    departure.leave(SPEC, check=False)
    assert looked == [0, 1]


def other(name: str, problem: str | None = None, voter: bool = True) -> _rollout.Other:
    return _rollout.Other(name, voter, problem)


UP, DOWN, LEARNER = other("infra0"), other("infra1", "is down"), other("infra3", "is a learner", voter=False)


@pytest.mark.parametrize(
    ("others", "is_well", "learner", "problem"),
    [
        ([UP, UP], True, False, ""),
        ([UP], True, False, ""),
        ([], True, False, "infra2 is the last voting member"),
        ([LEARNER], True, False, "infra2 is the last voting member"),
        # The rest has to be a quorum of itself.
        ([UP, UP, DOWN], False, False, ""),
        ([UP, DOWN], False, False, "infra1 is down; without infra2, 1 of 2 voting members would be healthy"),
        ([UP, DOWN, DOWN], False, False, "without infra2, 1 of 3 voting members"),
        # A healthy voter stays while another member is down.
        ([UP, UP, DOWN], True, False, "infra1 is down"),
        ([UP, UP, DOWN], True, True, ""),
        ([UP, UP, LEARNER], True, False, ""),
    ],
)
def test_members_that_a_cluster_does_not_need(
    others: list[_rollout.Other], is_well: bool, learner: bool, problem: str
) -> None:
    found = "; ".join(departure.departure_problems("infra2", member(2, learner), others, is_well))
    assert problem in found and bool(problem) == bool(found)


@pytest.mark.parametrize(
    ("others", "problem"),
    [
        ([UP, UP], ""),
        ([UP], ""),
        ([], "last voting member"),
        ([UP, DOWN], "no quorum"),
        ([UP, UP, DOWN], "infra1 is down"),
        ([UP, UP, LEARNER], "infra3 is a learner"),
    ],
)
def test_a_member_that_joins_anew_leaves_beside_healthy_voters_only(others: list[_rollout.Other], problem: str) -> None:
    """Otherwise it could not join, even if it is healthy itself."""
    for is_well in (False, True):
        found = "; ".join(departure.departure_problems("infra2", member(2), others, is_well, joins_anew=True))
        assert problem in found and bool(problem) == bool(found)


def test_a_member_that_joins_anew_stays(cluster: Cluster) -> None:
    cluster.present.append(member(3, learner=True))
    departure.leave(SPEC, check=True)
    with pytest.raises(EtcdError, match="infra2 is not removed: infra3 is a learner"):
        departure.leave(replace(SPEC, joins_anew=True), check=False)
    assert cluster.acts == []


@pytest.mark.parametrize(
    ("unwell", "words"),
    [
        ({"client0": "is sick"}, "infra2 is not removed: infra0 is not healthy (is sick)"),
        ({"client0": "is sick", "client2": "is sick"}, "no quorum"),
    ],
)
def test_members_that_may_not_leave(cluster: Cluster, unwell: dict[str, str], words: str) -> None:
    cluster.unwell = unwell
    with pytest.raises(EtcdError) as error:
        departure.leave(SPEC, check=False)
    assert words in str(error.value) and cluster.acts == []
