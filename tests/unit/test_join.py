"""The turn of a member that joins, phase by phase, and its undo. The host is a directory."""

from __future__ import annotations

import shutil
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.kubeadm.etcd.plugins.module_utils._etcd.client import Member
from ansible_collections.kubeadm.etcd.plugins.module_utils._etcd.lock import LockLostError, LockRefusedError
from ansible_collections.kubeadm.etcd.plugins.module_utils._etcd.membership import DepartedError
from ansible_collections.kubeadm.etcd.plugins.module_utils._host import facts as _host
from ansible_collections.kubeadm.etcd.plugins.module_utils._host import service
from ansible_collections.kubeadm.etcd.plugins.module_utils._member import ending, join
from ansible_collections.kubeadm.etcd.plugins.module_utils._member import processes as _processes
from ansible_collections.kubeadm.etcd.plugins.module_utils._member import rollout as _rollout
from ansible_collections.kubeadm.etcd.plugins.module_utils._member.record import Record
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.causes import Cause
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.errors import EtcdError
from test_turn import NEW, Host, fail

OTHERS = [Member(i, f"infra{i}", [f"peer{i}"], [f"client{i}"], False) for i in (1, 2)]


class Joining(Host):
    """A host without a member, and a cluster of two. promotes: how often etcd refuses to promote the learner."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(root, monkeypatch)
        self.manifest.unlink()
        self.process = None
        self.members = list(OTHERS)
        self.refusals = 0
        self.departs = False
        self.unwell: str | None = None
        self.with_kubelet()
        self.active = False
        fakes: list[tuple[Any, str, Any]] = [
            (join, "Membership", lambda *_, **__: Asked(self)),
            (join, "cluster_lock", self.cluster_lock),
            (join, "end_etcd", lambda _member, manifest, kept, _endpoint: self.ends(manifest, kept)),
            (join.JoinTurn, "kubelet_lasts", 0.0),
            (join.time, "sleep", lambda _seconds: None),
            (_rollout, "ask_health", lambda url, *_: self.unwell if url == "client2" else None),
            (_processes, "PATIENCE", -1.0),
            (_processes, "process_problem", lambda process, _old, _wanted: None if process else "no etcd process runs"),
            (_rollout, "told", lambda text, causes, _since: _rollout.sentence(text, causes)),
        ]
        for target, name, fake in fakes:
            monkeypatch.setattr(target, name, fake)

    # What the turn asks of the membership.

    def list_members(self) -> list[Member]:
        return self.members

    def add_learner(self, _name: str, urls: list[str], _seconds: float) -> Member:
        mine = next((member for member in self.members if member.peer_urls == urls), None)
        if mine is None:
            self.did("add")
            mine = Member(9, "", urls, [], True)
            self.members.append(mine)
        return mine

    def promote(self, number: int, urls: list[str], _seconds: float) -> None:
        self.did("promote")
        assert urls == ["new"]
        if self.refusals:
            self.refusals -= 1
            raise EtcdError("etcd does not promote member 9: in sync with leader.")
        if self.departs:
            raise DepartedError("member 9 has left the membership before it was promoted.")
        self.members = [m if m.id != number else Member(9, "infra0", m.peer_urls, ["x"], False) for m in self.members]

    def remove(self, number: int, _seconds: float) -> None:
        self.did("remove")
        self.members = [member for member in self.members if member.id != number]

    def ends(self, manifest: str, kept: str) -> None:
        self.did("end")
        Path(manifest).rename(kept)
        self.process = None

    def start(self, restart: bool) -> None:
        super().start(restart)
        if self.manifest.exists() and not self.causes:
            self.process = _processes.Process(8, 2, ["etcd"])

    def run(self, check: bool = False) -> dict[str, Any]:
        return join.take_join(self.spec, check)

    def wait(self, *_: Any) -> float:
        self.did("wait")
        return 1.0


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Joining:
    return Joining(tmp_path, monkeypatch)


class Asked:
    """The membership as the turn asks it."""

    def __init__(self, host: Joining) -> None:
        self.members = host.list_members
        self.add_learner, self.promote, self.remove = host.add_learner, host.promote, host.remove


JOIN = ["pull", "lock", "check lock", "add", "check lock", "announce new", "install"]


def test_the_steps_of_a_join(host: Joining) -> None:
    """The learner is added after all steps that may fail without it, and promoted under the lock."""
    result = host.run()
    assert [act for act in host.acts if act not in ("write 1", "restart kubelet")] == [
        *JOIN,
        "check lock",
        "promote",
        "wait",
        "unlock",
    ]
    assert host.acts.index("install") < host.acts.index("restart kubelet") < host.acts.index("promote")
    assert result["changes"][0]["code"] == "joins" and host.manifest.read_text() == NEW
    # The configuration has the membership of that moment, and lets a learner take its time.
    text = host.written.read_text()
    assert "infra1=peer1,infra2=peer2,infra0=new" in text and "existing" in text and "30m" in text


def test_a_kubelet_that_was_started_before_the_turn_is_proven(host: Joining, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before etcd depends on it. How long it has lasted already counts."""
    host.active, host.healthy, unit = True, False, host.unit
    host.files = {str(host.config): "former"}
    with pytest.raises(
        EtcdError, match=r"infra0: the kubelet does not work: it is not healthy after [^!]*\sIt has not joined"
    ):
        host.run()
    assert host.acts == ["pull"] and host.members == OTHERS
    host.healthy = True
    # It ends after the first look.
    monkeypatch.setattr(join.JoinTurn, "kubelet_lasts", 4.0)
    for seconds in (2.0, None):
        answers = iter([True, False])
        monkeypatch.setattr(service, "answers", partial(next, answers))
        started = time.time() - seconds if seconds else 0.0
        monkeypatch.setattr(_host, "kubelet_unit", partial(replace, unit(), started=started))
        with pytest.raises(EtcdError, match="it ended 0 s after it was healthy"):
            host.run()
    monkeypatch.setattr(_host, "kubelet_unit", lambda: replace(unit(), started=time.time() - 5))
    host.at["install"] = lambda: setattr(host, "process", _processes.Process(2, 2, []))
    host.run()
    assert host.acts.index("install") < host.acts.index("promote")


@pytest.mark.parametrize(("wanted", "given"), [("5m", "30m"), ("2h", "2h")])
def test_a_learner_always_has_half_an_hour(host: Joining, wanted: str, given: str) -> None:
    host.spec = replace(host.spec, config=replace(host.spec.config, startup_timeout=wanted))
    host.run()
    assert f'controlPlaneComponentHealthCheck: "{given}"' in host.written.read_text()


def test_check_mode_adds_no_member(host: Joining) -> None:
    shutil.rmtree(host.spec.kubelet.work_dir)
    assert host.run(check=True)["changes"][0]["code"] == "joins"
    assert host.acts == [] and host.members == OTHERS and not Path(host.spec.kubelet.work_dir).exists()


def test_a_learner_is_promoted_when_it_has_caught_up(host: Joining) -> None:
    host.refusals = 3
    host.run()
    assert host.acts.count("promote") == 4 and not host.members[-1].is_learner


def test_a_learner_is_asked_often_at_first_and_then_less(host: Joining, monkeypatch: pytest.MonkeyPatch) -> None:
    """Most have caught up at once. One with a large database is not to burden the leader."""
    now = [0.0]
    pauses: list[float] = []

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        now[0] += seconds

    monkeypatch.setattr(join.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(join.time, "sleep", sleep)
    host.refusals = 60
    host.run()
    assert pauses[0] <= 0.2 and pauses[-1] == 1.0 and len(pauses) == 60


@pytest.mark.parametrize("started", [False, True])
def test_an_interrupted_join_is_finished(host: Joining, started: bool) -> None:
    """Added and never started, or started and not promoted: the member is not added again."""
    host.members.append(Member(9, "infra0" if started else "", ["new"], ["x"] if started else [], True))
    host.run()
    assert "add" not in host.acts and "promote" in host.acts
    # One that has started names itself only.
    assert ("infra1=" in host.written.read_text()) != started


def test_a_join_that_another_run_has_finished(host: Joining) -> None:
    """It is a voting member by now, and has its gate like any other."""
    host.members.append(Member(9, "infra0", ["new"], ["x"], False))
    host.run()
    assert host.acts.index("gate") < host.acts.index("install") and "add" not in host.acts
    host.acts.clear()
    host.spec = replace(host.spec, allow_interruption=True)
    host.manifest.unlink()
    host.run()
    assert "gate" not in host.acts and "install" in host.acts


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (None, "infra2 is not healthy \\(x\\)"),
        (Member(3, "", ["peer3"], [], False), "member 3 is a member but has never started"),
        (Member(3, "infra3", ["peer3"], ["c"], True), "infra3 is a learner"),
    ],
)
def test_no_host_joins_while_another_member_is_not_healthy(host: Joining, other: Member | None, words: str) -> None:
    if other:
        host.members.append(other)
    else:
        host.unwell = "x"
    host.fails(f"does not join while another member is unhealthy: {words}")
    assert "add" not in host.acts and not host.manifest.exists()


def test_a_join_whose_etcd_does_not_start_is_undone(host: Joining) -> None:
    (host.root / "data" / "member").mkdir()
    host.causes = [Cause("flag", "etcd", "flag provided but not defined: -x", final=True)]
    said = host.fails("flag provided but not defined")
    assert "The join was undone" in said and host.members == OTHERS
    assert host.acts.index("end") < host.acts.index("remove") and "promote" not in host.acts
    assert not host.manifest.exists() and (host.root / "work" / "etcd.yaml.refused").read_text() == NEW
    # Its data is kept, and the next run finds a fresh host.
    assert not (host.root / "data").exists() and len(list(host.root.glob("data.removed-*"))) == 1


def test_a_join_that_never_starts_is_undone(host: Joining, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even without a known cause."""
    monkeypatch.setattr(join, "CATCHES_UP", -1.0)
    host.spec = join.replace(host.spec, timeout=-1.0)
    host.causes = [Cause("pull", "kubelet", "pulls", final=False)]
    assert "The join was undone" in host.fails("it has not joined after") and host.members == OTHERS


def test_joins_that_are_not_undone(host: Joining, monkeypatch: pytest.MonkeyPatch) -> None:
    """A learner that runs and is slow; a member that has been promoted."""
    monkeypatch.setattr(join, "CATCHES_UP", -1.0)
    host.spec = join.replace(host.spec, timeout=-1.0)
    host.refusals = 100
    said = host.fails("it has not joined after")
    assert "continues to catch up" in said and "remove" not in host.acts and len(host.members) == 3
    host.acts.clear()
    host.refusals = 1
    host.at["promote"] = lambda: host.members.__setitem__(2, Member(9, "infra0", ["new"], ["x"], False))
    assert "stays a member" in host.fails("it has not joined after") and "remove" not in host.acts


def test_a_learner_that_is_removed_while_it_joins(host: Joining) -> None:
    """By hand, or by remove_member.yml of a controller that found no lock because of an alarm. Waiting does not bring it back, and etcd has ended."""
    (host.root / "data" / "member").mkdir()
    host.at["promote"] = host.members.pop
    host.departs = True
    said = host.fails("member 9 has left the membership before it was promoted")
    assert "The join was undone" in said and host.acts.count("promote") == 1 and "end" in host.acts
    assert not host.manifest.exists() and not (host.root / "data").exists()


def test_a_member_is_recorded_as_soon_as_it_votes(host: Joining, monkeypatch: pytest.MonkeyPatch) -> None:
    """A power cut may come before the run ends."""
    record = host.root / "work" / "member.json"
    current = Record("infra0", "c", "9", str(host.root / "data"))
    monkeypatch.setattr(join, "current_record", lambda *_: None if "promote" not in host.acts else current)
    monkeypatch.setattr(_rollout, "wait_for_member", lambda *_: host.did(f"wait {record.exists()}") or 1.0)
    host.run()
    assert host.acts.index("wait True") > host.acts.index("promote") and record.read_text() == current.as_text()


def test_members_join_in_spite_of_a_full_database(host: Joining) -> None:
    """etcd refuses the lock then. A member that is replaced has left already."""
    host.refused = LockRefusedError("etcd refuses all writes", "NOSPACE")
    host.run()
    assert "lock" not in host.acts and "promote" in host.acts
    host.refused = LockRefusedError("etcd refuses all writes", "CORRUPT")
    host.fails("etcd refuses all writes")


def test_a_lock_that_is_lost_undoes_nothing(host: Joining) -> None:
    def lose() -> None:
        host.lost = LockLostError("another run holds the lock")

    host.at["install"] = lose
    host.fails("another run holds the lock")
    assert "promote" not in host.acts and "remove" not in host.acts and len(host.members) == 3


def test_a_lock_that_is_lost_while_etcd_does_not_start_undoes_nothing(host: Joining) -> None:
    host.causes = [Cause("flag", "etcd", "flag provided but not defined: -x", final=True)]
    host.at["restart kubelet"] = lambda: setattr(host, "lost", LockLostError("another run holds the lock."))
    assert "The join was not undone" in host.fails("flag provided but not defined")
    assert "end" not in host.acts and "remove" not in host.acts


def test_an_undo_that_fails_keeps_the_cause(host: Joining) -> None:
    host.causes = [Cause("flag", "etcd", "flag provided but not defined: -x", final=True)]
    host.at["end"] = fail
    assert "could not be undone: waited 300 s." in host.fails("flag provided but not defined")


def test_data_is_kept_beside_itself_or_inside_of_a_volume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = tmp_path / "etcd"
    assert ending.archive_data(str(data), 0.0) == ""
    (data / "member" / "wal").mkdir(parents=True)
    assert ending.archive_data(str(data), 0.0) == f"{data}.removed-19700101T000000Z" and not data.exists()
    (data / "member" / "wal").mkdir(parents=True)
    monkeypatch.setattr(ending.os.path, "ismount", lambda _path: True)
    assert ending.archive_data(str(data), 1.0) == f"{data}/member.removed-19700101T000001Z"
    assert [path.name for path in data.iterdir()] == ["member.removed-19700101T000001Z"]
    # A link to the data stays a link to it.
    (data / "member").mkdir()
    link = tmp_path / "link"
    link.symlink_to(data)
    monkeypatch.setattr(ending.os.path, "ismount", lambda _path: False)
    assert ending.archive_data(str(link), 2.0) == f"{data}/member.removed-19700101T000002Z"
