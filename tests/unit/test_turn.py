# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The turn of a member, phase by phase: lock, gate, act, prove, undo. The host is a directory."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.kubeadm.etcd.plugins.module_utils._etcd import lock as _lock
from ansible_collections.kubeadm.etcd.plugins.module_utils._etcd.client import Member
from ansible_collections.kubeadm.etcd.plugins.module_utils._host import facts as _host
from ansible_collections.kubeadm.etcd.plugins.module_utils._host import files as _files
from ansible_collections.kubeadm.etcd.plugins.module_utils._host import log as _log
from ansible_collections.kubeadm.etcd.plugins.module_utils._host import service
from ansible_collections.kubeadm.etcd.plugins.module_utils._host.kubelet import KubeletSpec, Unit
from ansible_collections.kubeadm.etcd.plugins.module_utils._host.wal import Wal
from ansible_collections.kubeadm.etcd.plugins.module_utils._member import processes as _processes
from ansible_collections.kubeadm.etcd.plugins.module_utils._member import rollout as _rollout
from ansible_collections.kubeadm.etcd.plugins.module_utils._member import turn as engine
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.causes import Cause
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.errors import EtcdError

OLD, NEW, OTHER = (f"    - etcd\n    - --initial-advertise-peer-urls={url}\n" for url in ("old", "new", "other"))
OLD += "    - --listen-metrics-urls=http://127.0.0.1:2400\n"
IMAGE = "    image: registry/etcd:3.5\n"


class FakeLock:
    """A cluster lock. lost: what check raises."""

    def __init__(self, host: Host) -> None:
        self.host = host

    def check(self) -> None:
        self.host.did("check lock")
        if self.host.lost:
            raise self.host.lost


class Host:
    """A member that runs with the manifest OLD and is to have NEW. acts: what the turn does, in order."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = root
        self.manifest = root / "manifests" / "etcd.yaml"
        self.config = root / "work" / "kubelet.yaml"
        for name in ("manifests", "data", "work"):
            (root / name).mkdir()
        self.manifest.write_text(OLD)
        self.acts: list[str] = []
        self.process: _processes.Process | None = _processes.Process(7, 1, [])
        self.active = True
        self.started_with = "former"
        self.healthy = True
        self.causes: list[Cause] = []
        self.image: Cause | None = None
        self.pause: str | None = None
        self.membership = [Member(6, "infra0", ["new"], ["x"], is_learner=False)]
        self.configs: list[str] = []
        # Of members that handed over: their ids, and what had been done before.
        self.handed_over: list[tuple[int, list[str]]] = []
        self.lost: EtcdError | None = None
        # What keeps the lock from being taken.
        self.refused: EtcdError | None = None
        # Events during each wait for the member, and by name of an act.
        self.waits: list[Callable[[], None]] = []
        self.at: dict[str, Callable[[], None]] = {}
        kubeadm = engine._kubeadm
        self.written = root / "work" / "kubeadmcfg.yaml"
        self.files = {str(self.config): "wanted"}
        self.spec = engine.TurnSpec(
            config=kubeadm.ConfigSpec.from_params(
                {
                    "name": "infra0",
                    "address": "10.0.0.6",
                    "members": [{"name": "infra0", "address": "10.0.0.6"}],
                    "initial_cluster_state": "existing",
                    "path": str(self.written),
                    "data_dir": str(root / "data"),
                    "pki_dir": str(root / "pki"),
                }
            ),
            kubelet=KubeletSpec("systemd", "unix:///x", str(root / "manifests"), str(self.config)),
            parts=("config", "manifest"),
            turn=1,
            timeout=5,
        )
        version = kubeadm.parse_version("v1.36.3")
        self.written.write_text(kubeadm.render_config(self.spec.config.completed(version)))
        image_of = kubeadm.manifest_image
        fakes: list[tuple[Any, str, Any]] = [
            (kubeadm, "find_kubeadm_version", lambda _program: version),
            # Of a directory under /tmp, which is emptied at boot.
            (kubeadm, "config_problems", lambda *_: []),
            (kubeadm, "validate_config", lambda *_: None),
            (kubeadm, "render_manifest", self.render),
            (service, "kubelet_files", lambda *_: self.files),
            (_host, "program_version", lambda _argv: "v1.36.3"),
            (kubeadm, "manifest_image", lambda text: image_of(text) or "registry/etcd:3.6"),
            (kubeadm, "manifest_arguments", lambda text: [line[6:] for line in text.splitlines()]),
            *((layer, "mode_problem", lambda *_: None) for layer in (engine, kubeadm)),
            *((layer, "replace_file", self.replace_file) for layer in (engine, kubeadm)),
            (engine, "LOCK_PATIENCE", 0.1),
            (engine, "cluster_lock", self.cluster_lock),
            (engine, "Membership", lambda *_: self),
            (engine.diagnosis, "ensure_image", self.pull),
            (engine.diagnosis, "pause_image", lambda _endpoint: self.pause),
            (engine.diagnosis, "diagnose", lambda *_, **__: self.causes),
            (_processes, "find_etcd_process", lambda _name: self.process),
            (_rollout, "ask_membership", lambda *_, **__: (self, self.membership)),
            (_processes, "is_ready", lambda _url: True),
            (_rollout, "check_gate", lambda _target: self.did("gate")),
            (_rollout, "check_controller", lambda: None),
            (_rollout, "announce_peer_urls", self.announce),
            (_rollout, "wait_for_member", self.wait),
            (_rollout, "LOOK", 0.0),
            (_host, "kubelet_unit", self.unit),
            (service, "start", self.start),
            (service, "is_healthy", lambda: self.healthy),
            (service, "answers", lambda: self.healthy),
            (service, "last_lines", lambda _since: "\nFrom `journalctl -u kubelet`:\n  E1127 failed"),
            (service, "replace_files", self.replace_files),
            (engine, "KUBELET_STARTS", 0.0),
            (engine.Turn, "kubelet_lasts", 0.0),
        ]
        for target, name, fake in fakes:
            monkeypatch.setattr(target, name, fake)

    def did(self, act: str) -> None:
        self.acts.append(act)
        self.at.pop(act, lambda: None)()

    def replace_file(self, path: str, data: bytes, *_: Any, **__: Any) -> None:
        # Not to need root.
        Path(path).write_bytes(data)
        if path == str(self.manifest):
            self.did("install")

    def render(self, config: str, _program: str) -> str:
        self.configs.append(config)
        return NEW

    def replace_files(self, files: list[_files.Replacement], *_: Any) -> None:
        for item in files:
            Path(item.path).write_bytes(item.data)
            Path(item.path).chmod(item.mode)
        self.did(f"write {len(files)}")

    def pull(self, *_: Any) -> Cause | None:
        self.did("pull")
        return self.image

    def unit(self) -> Unit:
        argv = ["kubelet", f"--config={self.config}"]
        return Unit("loaded", self.active, True, need_reload=False, argv=argv, started=0.0, config=self.started_with)

    def start(self, restart: bool) -> None:
        self.did("restart kubelet" if restart else "reload")
        self.started_with = self.config.read_text() if restart else self.started_with

    @contextlib.contextmanager
    def cluster_lock(self, *_: Any, **__: Any) -> Iterator[FakeLock]:
        if self.refused:
            raise self.refused
        self.did("lock")
        try:
            yield FakeLock(self)
        finally:
            self.acts.append("unlock")

    def wait(self, target: _rollout.Target, wanted: list[str], *_rest: object) -> float:
        self.did("wait")
        (self.waits.pop(0) if self.waits else lambda: None)()
        # It is asked where it listens with the manifest that it has now.
        port = 2400 if wanted == engine._kubeadm.manifest_arguments(OLD) else 2381
        assert target.metrics == f"http://127.0.0.1:{port}/readyz", target
        return 1.0

    def hand_over(self, number: int, _seconds: float) -> None:
        self.handed_over.append((number, [*self.acts]))

    def update_member(self, number: int, urls: list[str]) -> None:
        self.did(f"update {number} {' '.join(urls)}")

    def announce(self, _target: object, _process: object, urls: list[str], *_check: bool, **_: bool) -> list[str]:
        self.did(f"announce {urls[0]}")
        return ["old"]

    def with_kubelet(self, text: str = "wanted") -> None:
        self.config.write_text("former")
        self.files = {str(self.config): text}
        self.spec = replace(self.spec, parts=engine.PARTS)

    def run(self, check: bool = False) -> dict[str, Any]:
        return engine.take_turn(self.spec, check)

    def fails(self, words: str) -> str:
        with pytest.raises(EtcdError, match=words) as caught:
            self.run()
        return str(caught.value)


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    return Host(tmp_path, monkeypatch)


def fail() -> None:
    raise EtcdError("waited 300 s.")


def gone() -> None:
    raise _rollout.AbandonedError("The controller has ended.")


ROLL = ["pull", "lock", "gate", "check lock", "announce new", "install", "wait"]
BOTH = [*ROLL[:4], "write 1", "restart kubelet", *ROLL[3:]]


def test_the_order_of_a_turn(host: Host) -> None:
    """The image is there before anything else, and the lock is held until the member is proven."""
    result = host.run()
    assert host.acts == [*ROLL, "unlock"] and host.manifest.read_text() == NEW
    assert result["changed"] and result["waited"] == 1.0
    host.acts.clear()
    assert not host.run()["changed"] and host.acts == ["wait"], "nothing differs: it is waited for, and nothing else"


def test_kubelet_and_manifest_change_in_one_turn(host: Host) -> None:
    """Behind one gate, under one lock; the kubelet is proven before etcd restarts."""
    host.with_kubelet()
    result = host.run()
    assert host.acts == [*BOTH, "unlock"] and host.config.read_text() == "wanted" and host.manifest.read_text() == NEW
    assert [item["part"] for item in result["changes"]][:2] == ["kubelet", "kubelet"] and len(result["diff"]) == 2


@pytest.mark.parametrize("turn", [0, 1])
def test_a_member_that_a_restore_has_stopped_is_not_started(
    host: Host, monkeypatch: pytest.MonkeyPatch, turn: int
) -> None:
    """Not by a run that has seen it down or running. A running member is changed as usual: the restore may have been abandoned."""
    monkeypatch.setattr(engine, "waiting_restore", lambda path: f"{path}.restored")
    host.spec = replace(host.spec, turn=turn)
    host.process = None
    for check in (True, False):
        with pytest.raises(
            EtcdError, match=f"a restore has begun on this host and has not ended: {host.root}/data.restored"
        ):
            host.run(check)
    assert host.acts == [] and host.manifest.read_text() == OLD
    host.process, host.spec = _processes.Process(7, 1, []), replace(host.spec, turn=1)
    assert host.run()["changed"]


def test_a_kubelet_that_does_not_run_finds_the_new_manifest(host: Host) -> None:
    host.with_kubelet()
    host.active = False
    host.run()
    assert host.acts.index("install") < host.acts.index("restart kubelet") < host.acts.index("wait")


def test_a_kubelet_whose_files_count_from_the_next_start_on(host: Host) -> None:
    """Written, without lock and gate: nothing restarts."""
    host.with_kubelet("former")
    script = host.root / "work" / "before-kubelet.sh"
    host.files[str(script)] = "new"
    host.spec = replace(host.spec, parts=("kubelet",))
    assert host.run()["changed"] and host.acts == ["write 1", "reload", "wait"]


def test_the_kubelet_alone(host: Host) -> None:
    """The role kubelet without static_pod: the same gate and lock, and the manifest stays."""
    host.with_kubelet()
    host.spec = replace(host.spec, parts=("kubelet",))
    host.run()
    assert host.acts == ["lock", "gate", "check lock", "write 1", "restart kubelet", "wait", "unlock"]
    assert host.manifest.read_text() == OLD


@pytest.mark.parametrize("process", [None, _processes.Process(7, 1, [])])
def test_an_image_that_cannot_be_pulled_stops_nothing(host: Host, process: _processes.Process | None) -> None:
    host.image = Cause("image", "runtime", "image registry/etcd:3.5 cannot be pulled: not found", final=True)
    host.process = process
    host.fails("nothing was started or restarted, because image registry/etcd:3.5 cannot be pulled")
    assert host.manifest.read_text() == OLD and host.acts == ["pull"]


def test_images_alone_are_pulled_without_any_change(host: Host) -> None:
    """Before a snapshot is taken or a member leaves."""
    assert engine.pull_images(host.spec, check=True)["changed"] is False and host.acts == []
    result = engine.pull_images(host.spec, check=False)
    assert result["changed"] is False and result["changes"] == [] and host.acts == ["pull"]
    host.image = Cause("image", "runtime", "image registry/etcd:3.5 cannot be pulled: not found", final=True)
    with pytest.raises(EtcdError, match="nothing was started or restarted, because image"):
        engine.pull_images(host.spec, check=False)
    assert host.manifest.read_text() == OLD


def test_an_image_of_sandboxes_that_cannot_be_pulled(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """The runtime would make no pod without it."""
    host.pause = "registry/pause:3.99"
    cause = Cause("image", "runtime", "image registry/pause:3.99 cannot be pulled: not found", final=True)
    monkeypatch.setattr(engine.diagnosis, "ensure_image", lambda _, image, *__: cause if "pause" in image else None)
    host.fails(r"because image registry/pause:3.99 cannot be pulled: not found\. Correct the sandbox image")
    assert host.manifest.read_text() == OLD and host.acts == []


@pytest.mark.parametrize(("answers", "pulls"), [(1, 2), (100, 3)])
def test_a_registry_that_does_not_answer_is_asked_again(
    host: Host, answers: int, pulls: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For some seconds: a name server may have been down for a moment."""
    clock = [0.0]
    monkeypatch.setattr(engine.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(engine.time, "sleep", lambda pause: clock.__setitem__(0, clock[0] + pause))
    monkeypatch.setattr(engine, "PULL_AGAIN", 2 * engine.PULL_PAUSE)
    again = Cause("image", "runtime", "image registry/etcd:3.5 cannot be pulled: no such host", final=False)
    monkeypatch.setattr(
        engine.diagnosis,
        "ensure_image",
        lambda *_: host.did("pull") or (again if host.acts.count("pull") <= answers else None),
    )
    with contextlib.suppress(EtcdError) if answers > pulls else contextlib.nullcontext():
        host.run()
    assert host.acts.count("pull") == pulls and ("install" in host.acts) == (answers < pulls)


def test_the_configuration_is_written_with_the_manifest(host: Host) -> None:
    text = host.written.read_text()
    host.written.unlink()
    result = host.run()
    assert host.written.read_text() == text == host.configs[-1]
    assert result["reasons"][0] == "kubeadmcfg.yaml: missing"
    assert [item["after_header"] for item in result["diff"]] == [str(host.written), str(host.manifest)]


def test_the_configuration_alone(host: Host) -> None:
    """For example for names in certificates: the manifest stays, and the turn does not wait."""
    host.written.write_text("---\n")
    host.spec = replace(host.spec, parts=("config",), turn=0)
    assert host.run(check=True)["changed"] and host.written.read_text() == "---\n"
    assert host.run()["changed"] and "infra0" in host.written.read_text()
    assert host.acts == [] and host.configs == [] and host.manifest.read_text() == OLD and not host.run()["changed"]


@pytest.mark.parametrize(
    ("state", "urls", "listed"),
    [
        ("existing", [], ["infra0", "infra1"]),
        # It has started meanwhile: without its data, it must not start with a list that has the others.
        ("existing", ["x"], ["infra0"]),
        ("new", [], ["infra0", "infra1", "infra2"]),
    ],
)
def test_a_voting_member_that_was_added_by_hand_is_started_without_a_quorum(
    host: Host, state: str, urls: list[str], listed: list[str]
) -> None:
    """With the membership: the inventory has a member more, which has not joined yet, and etcd would not start with it in its list."""
    members = [engine._kubeadm.Member(f"infra{i}", f"infra{i}", f"10.0.0.{6 + i}") for i in range(3)]
    config = replace(host.spec.config, members=members, initial_cluster_state=state)
    host.spec, host.process = replace(host.spec, config=config, turn=0, timeout=0.0), None
    host.manifest.unlink()
    host.membership = [
        Member(7, "infra1", ["https://10.0.0.7:2380"], ["x"], is_learner=False),
        Member(6, "infra0" if urls else "", ["new"], urls, is_learner=False),
    ]
    # Nothing starts etcd here.
    with pytest.raises(EtcdError, match="etcd does not run"):
        host.run()
    names = [name for name in ("infra0", "infra1", "infra2") if f"{name}=" in host.written.read_text()]
    assert names == listed
    assert host.acts[-1] == "install" and "lock" not in host.acts


@pytest.mark.parametrize("urls", [[], ["https://10.0.0.6:2379"]])
def test_initial_cluster_is_decided_under_the_lock(host: Host, urls: list[str]) -> None:
    """Another run may have started the member while this one waited for the lock."""
    members = [engine._kubeadm.Member(name, name, f"10.0.0.{last}") for name, last in (("infra0", 6), ("infra1", 7))]
    host.spec = replace(host.spec, config=replace(host.spec.config, members=members))
    host.membership = [
        Member(6, "infra0", ["https://10.0.0.6:2380"], urls, is_learner=False),
        Member(7, "infra1", ["https://10.0.0.7:2380"], ["x"], is_learner=False),
    ]
    host.run()
    assert ["infra1=" in text for text in host.configs] == [True, not urls]
    assert ("infra1=" in host.written.read_text()) == (not urls)


def test_members_of_one_name_have_different_names_in_the_list() -> None:
    """Else etcd takes them for one member with two URLs, and refuses to start."""
    members = [
        Member(i, name, [f"peer{i}"], [], False)
        for i, name in ((10, "infra1"), (11, "infra1"), (12, "infra2"), (13, ""))
    ]
    assert engine.peers_of(members, 13, "infra2") == (
        ("a", "peer10"),
        ("b", "peer11"),
        ("c", "peer12"),
        ("infra2", "peer13"),
    )
    assert [name for name, _url in engine.peers_of(members, 12, "infra2")] == ["a", "b", "infra2", "d"]


def test_a_member_that_never_started_gets_the_membership(host: Host) -> None:
    """etcd refuses an initial-cluster with a host that has not joined yet. Members that never started get different names."""
    members = [engine._kubeadm.Member(name, name, f"10.0.0.{last}") for name, last in (("infra0", 6), ("infra9", 9))]
    host.spec = replace(host.spec, config=replace(host.spec.config, members=members))
    host.membership = [
        Member(6, "", ["new"], [], is_learner=False),
        Member(7, "infra1", ["peer1"], ["x"], is_learner=False),
        Member(8, "", ["peer2"], [], is_learner=False),
    ]
    host.run()
    # It has a further URL until it runs, so that without its data it does not start from this list later.
    assert "infra0=new,infra0=https://joining-new@localhost:new,infra1=peer1,8=peer2" in host.written.read_text()
    assert host.acts.index("update 6 new https://joining-new@localhost:new") < host.acts.index("install")
    assert host.acts[-3:] == ["wait", "announce new", "unlock"]


@pytest.mark.parametrize("removed", ["2026-11-27", ""])
def test_the_record_of_a_former_member_is_removed(host: Host, removed: str) -> None:
    """It would keep the kubelet from starting a member without data. One of a member that has not left stays."""
    record = host.root / "work" / "member.json"
    text = json.dumps({"name": "infra0", "cluster_id": "c", "member_id": "1", "data_dir": "/d", "removed": removed})
    record.write_text(text)
    host.at["install"] = lambda: host.did(f"record {record.exists()}")
    host.run()
    assert f"record {not removed}" in host.acts
    assert (record.with_name("member.json.former") if removed else record).read_text() == text


def test_a_member_that_another_run_has_removed_is_left_alone(host: Host) -> None:
    """Its turn was planned before. A new manifest would bring it back, without its data."""
    host.membership = [Member(7, "infra1", ["peer1"], ["x"], is_learner=False)]
    host.fails("infra0: nothing was changed, because it has left the membership while this run waited")
    assert host.acts == ["pull", "lock", "unlock"] and host.manifest.read_text() == OLD


# --- Lock ------------------------------------------------------------------------------------------------------------


def test_a_lock_that_another_run_holds(host: Host) -> None:
    host.refused = _lock.LockBusyError("another run holds it", _lock.Record.parse("{}"))
    host.fails("another run holds it")
    assert host.manifest.read_text() == OLD and host.acts == ["pull"]


@pytest.mark.parametrize(("kubelet", "acts"), [(False, ROLL[:4]), (True, BOTH[:4])])
def test_a_lock_that_is_lost_before_the_act(host: Host, kubelet: bool, acts: list[str]) -> None:
    if kubelet:
        host.with_kubelet()
    host.at["gate"] = lambda: setattr(host, "lost", _lock.LockLostError("the lock was lost"))
    host.fails("the lock was lost")
    assert host.acts == [*acts, "unlock"] and host.manifest.read_text() == OLD


def test_a_lock_that_is_lost_between_two_acts(host: Host) -> None:
    """The kubelet works, and stays; the manifest is left to the next run."""
    host.with_kubelet()
    host.at["restart kubelet"] = lambda: setattr(host, "lost", _lock.LockLostError("the lock was lost"))
    host.fails("the lock was lost")
    assert host.config.read_text() == "wanted" and host.manifest.read_text() == OLD


@pytest.mark.parametrize(
    ("error", "process", "put_back"),
    [
        # A cluster of two does not answer without this member.
        (_lock.LockUnconfirmedError("no member has confirmed it"), True, True),
        (_lock.LockLostError("the lock was lost"), True, False),
        (_lock.LockLostError("the lock was lost"), False, True),
    ],
)
def test_the_undo_without_the_lock(host: Host, error: EtcdError, process: bool, put_back: bool) -> None:
    """Without the lock, another run may change the next member, and quorum may need this one."""

    def lose() -> None:
        host.lost = error
        if not process:
            host.process = None
        fail()

    host.waits = [lose]
    said = host.fails("waited 300 s")
    assert (host.manifest.read_text() == OLD) == put_back
    assert ("Nothing was put back" in said) != put_back


def test_without_a_quorum_a_member_that_is_down_is_started_as_it_was(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.with_kubelet()
    host.active = False
    host.process = None
    host.refused = _lock.NoQuorumError("no member answers")
    process = _processes.Process(8, 2, engine._kubeadm.manifest_arguments(OLD))
    host.at["restart kubelet"] = lambda: setattr(host, "process", process)
    monkeypatch.setattr(engine, "probe", lambda *_: (True, ""))
    result = host.run()
    assert host.manifest.read_text() == OLD and result["left"] and "announce new" not in host.acts
    # A running etcd is enough: quorum may need members that are started later.
    assert "wait" not in host.acts
    assert host.config.read_text() == "wanted"


def test_without_a_quorum_a_member_that_runs_is_not_touched(host: Host) -> None:
    host.refused = _lock.NoQuorumError("no member answers")
    host.fails("no member answers")
    assert host.manifest.read_text() == OLD and "gate" not in host.acts


def test_an_alarm_that_this_turn_may_end(host: Host) -> None:
    """NOSPACE refuses the lock, and the turn that raises the quota has its gate."""
    host.refused = _lock.LockRefusedError("etcd refuses all writes", "NOSPACE")
    host.run()
    assert host.acts == ["pull", "gate", "announce new", "install", "wait"]
    host.manifest.write_text(OLD)
    host.refused = _lock.LockRefusedError("etcd refuses all writes", "CORRUPT")
    host.fails("etcd refuses all writes")
    assert host.manifest.read_text() == OLD


# --- Undo ------------------------------------------------------------------------------------------------------------


def test_a_change_that_fails_is_undone(host: Host) -> None:
    host.waits = [fail]
    host.fails(r"waited 300 s.* previous manifest was put back, and the member is healthy")
    assert host.manifest.read_text() == OLD
    assert host.acts == [*ROLL, "check lock", "announce old", "wait", "unlock"]


def test_a_kubelet_that_was_not_restarted_keeps_its_files(host: Host) -> None:
    host.with_kubelet("former")
    script = host.root / "work" / "before-kubelet.sh"
    host.files[str(script)] = "new"
    host.waits = [fail]
    host.fails("waited 300 s")
    assert script.read_text() == "new" and host.manifest.read_text() == OLD and "restart kubelet" not in host.acts


def test_a_disk_that_fails_while_a_change_is_proven(host: Host) -> None:
    """An error of the system is not the end of the undo."""

    def break_down() -> None:
        raise OSError(5, "Input/output error", "/proc/8/cmdline")

    host.waits = [break_down]
    host.fails(r"/proc/8/cmdline: Input/output error.* previous manifest was put back, and the member is healthy")
    assert host.manifest.read_text() == OLD


def test_a_change_of_manifest_and_kubelet_that_fails_is_undone(host: Host) -> None:
    host.with_kubelet()
    host.waits = [fail]
    said = host.fails("waited 300 s")
    assert host.manifest.read_text() == OLD and host.config.read_text() == "former"
    assert (
        "previous manifest was put back" in said and "previous configuration was put back, and the kubelet runs" in said
    )


def test_a_change_of_the_kubelet_that_fails_is_undone(host: Host) -> None:
    """Before etcd was touched. Its files get their modes back, too."""
    host.with_kubelet()
    host.config.chmod(0o600)
    host.healthy = False
    host.causes = [Cause("kubelet", "kubelet", "maxPods must be positive", final=True)]
    host.at["restart kubelet"] = lambda: host.at.update({"restart kubelet": lambda: setattr(host, "healthy", True)})
    said = host.fails("infra0: the kubelet does not work with the change")
    assert host.config.read_text() == "former" and host.manifest.read_text() == OLD and "install" not in host.acts
    assert host.config.stat().st_mode & 0o777 == 0o600
    assert "kubelet: maxPods must be positive" in said and "put back, and the kubelet runs with it" in said
    assert "From `journalctl -u kubelet`:\n  E1127 failed" in said


def test_a_kubelet_that_works_with_neither(host: Host) -> None:
    host.with_kubelet()
    host.healthy = False
    host.fails("was put back, and the kubelet does not come up with it either")


def test_a_new_address_is_undone_if_the_member_does_not_get_it(host: Host) -> None:
    """As on a full disk, between the membership and the manifest."""
    host.at["announce new"] = fail
    said = host.fails("waited 300 s")
    assert host.manifest.read_text() == OLD and "Look at" in said
    host.acts.clear()

    def full(*_: Any, **__: Any) -> None:
        raise EtcdError("No space left on device.")

    engine_replace, engine.replace_file = engine.replace_file, full  # type: ignore[assignment]
    try:
        host.fails("No space left")
    finally:
        engine.replace_file = engine_replace
    assert host.acts[-4:] == ["announce new", "check lock", "announce old", "unlock"]


def test_a_member_that_was_down_before_keeps_the_new_manifest(host: Host) -> None:
    host.process = None
    host.waits = [fail]
    host.fails("waited 300 s. Look at")
    assert host.manifest.read_text() == NEW


@pytest.mark.parametrize("change", [lambda path: path.write_text(OTHER), Path.unlink])
def test_the_undo_keeps_what_another_run_has_installed(host: Host, change: Callable[[Path], object]) -> None:
    """Its manifest and its peer URLs stay."""

    def someone() -> None:
        change(host.manifest)
        fail()

    host.waits = [someone]
    host.fails(r"waited 300 s.*Another run or a person has changed .* since, so nothing was put back")
    assert "announce old" not in host.acts
    assert not host.manifest.exists() or host.manifest.read_text() == OTHER


@pytest.mark.parametrize("during_the_last_look", [False, True])
def test_a_run_without_a_controller_undoes_nothing(
    host: Host, during_the_last_look: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if it had been killed after the rename: the next run continues from there."""

    def last_look() -> None:
        monkeypatch.setattr(_rollout, "check_controller", gone)
        fail()

    host.waits = [last_look if during_the_last_look else gone]
    host.fails("controller has ended")
    assert host.manifest.read_text() == NEW and "announce old" not in host.acts


def test_a_run_without_a_controller_begins_nothing(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may have waited for the gate, or for the lock."""
    monkeypatch.setattr(_rollout, "check_controller", gone)
    host.fails("controller has ended")
    assert host.manifest.read_text() == OLD and host.acts == []


class Killed(BaseException):
    """As SIGKILL: nothing is undone."""


def kill() -> None:
    raise Killed


# The act at which a turn is killed, and the result of the next turn. After the last act it only waits.
LAST = {
    "write 1": ["wait", "unlock"],
    "restart kubelet": ["wait", "unlock"],
    "announce new": ["wait", "unlock"],
    "install": ["wait"],
}


@pytest.mark.parametrize("act", LAST)
def test_the_next_run_finishes_a_turn_that_was_killed(host: Host, act: str) -> None:
    host.with_kubelet()
    host.at[act] = kill
    with pytest.raises(Killed):
        host.run()
    host.acts.clear()
    host.run()
    assert host.config.read_text() == "wanted" and host.manifest.read_text() == NEW and host.acts[-2:] == LAST[act]
    assert not host.run()["changed"]


# --- The host --------------------------------------------------------------------------------------------------------


def test_nothing_changes_if_no_kubelet_would_start_etcd_again(host: Host) -> None:
    host.active = False
    assert host.run(check=True)["changed"]
    host.fails(r"kubelet\.service does not run, so nothing would start etcd again")
    assert host.manifest.read_text() == OLD and "install" not in host.acts


def test_one_run_at_a_time(host: Host) -> None:
    """A run that waits for a member keeps others from its manifest, but not from its certificates."""
    said = []

    def second() -> None:
        said.append(host.fails("."))
        with _files.locked(os.path.join(host.spec.kubelet.work_dir, "lock"), 0.1):
            pass

    host.waits = [second]
    host.run()
    assert f"process {os.getpid()}, which may need until" in said[0] and "/lock-manifest for more than 0 s" in said[0]
    assert host.manifest.read_text() == NEW


def test_check_mode_writes_nothing_and_does_not_wait(host: Host) -> None:
    shutil.rmtree(host.spec.kubelet.work_dir)
    assert host.run(check=True)["changed"] and host.acts == ["gate", "announce new"]
    assert host.manifest.read_text() == OLD and not os.path.exists(host.spec.kubelet.work_dir)
    os.mkdir(host.spec.kubelet.work_dir)
    with _files.locked(os.path.join(host.spec.kubelet.work_dir, engine.LOCK), 0.1):
        assert host.run(check=True)["changed"]
    host.acts.clear()
    host.spec = replace(host.spec, turn=2)
    assert host.run(check=True)["changed"] and host.acts == ["announce new"], "the turn before it was not taken"


def test_a_first_start_waits_for_no_other_host(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without lock and gate; the proof is an etcd that lasts."""
    host.with_kubelet()
    host.manifest.unlink()
    host.process = None
    process = _processes.Process(8, 2, engine._kubeadm.manifest_arguments(NEW))
    host.at["install"] = lambda: setattr(host, "process", process)
    monkeypatch.setattr(engine, "probe", lambda *_: (False, ""))
    monkeypatch.setattr(_host, "process_started", lambda _pid: time.time() - engine.LASTS - 1)
    host.spec = replace(host.spec, turn=0)
    host.run()
    assert host.acts == ["write 1", "restart kubelet", "pull", "install"]


@pytest.mark.parametrize("parts", [("kubelet",), engine.PARTS])
def test_directories_that_are_missing_are_made(
    host: Host, monkeypatch: pytest.MonkeyPatch, parts: tuple[str, ...]
) -> None:
    host.with_kubelet()
    shutil.rmtree(host.root / "manifests")
    shutil.rmtree(host.root / "data")
    host.process = None
    process = _processes.Process(8, 2, engine._kubeadm.manifest_arguments(NEW))
    host.at["install"] = lambda: setattr(host, "process", process)
    monkeypatch.setattr(engine, "ensure_directory", lambda path, _mode: os.makedirs(path, exist_ok=True))
    monkeypatch.setattr(engine, "probe", lambda *_: (True, ""))
    host.spec = replace(host.spec, turn=0, parts=parts)
    host.run()
    assert (host.root / "manifests").is_dir() and (host.root / "data").is_dir() == ("manifest" in parts)


def test_an_etcd_that_ends_again_has_not_started(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    host.manifest.unlink()
    host.process = None
    process = _processes.Process(8, 2, engine._kubeadm.manifest_arguments(NEW))
    host.at["install"] = lambda: setattr(host, "process", process)
    monkeypatch.setattr(engine, "probe", lambda *_: (False, ""))
    monkeypatch.setattr(_host, "process_started", lambda _pid: time.time())
    monkeypatch.setattr(_rollout, "told", lambda text, *_: text)
    host.spec = replace(host.spec, turn=0, timeout=0.3)
    host.fails(r"etcd does not run after \d+ s \(it ends again and again\)")


def test_an_etcd_that_no_longer_sees_its_files_is_restarted(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the manifest that is there."""
    stopped: list[_processes.Process] = []
    host.manifest.write_text(NEW)
    monkeypatch.setattr(_processes, "stale_directory", lambda *_: "etcd: runs with former files")
    monkeypatch.setattr(_processes, "stop", stopped.append)
    result = host.run()
    assert stopped == [host.process] and "install" not in host.acts and result["changed"]
    assert host.acts == ["lock", "gate", "check lock", "wait", "unlock"]


@pytest.mark.parametrize("loads", [True, False])
def test_an_etcd_that_trusts_other_cas_is_restarted_and_has_to_trust_the_new_ones(
    host: Host, monkeypatch: pytest.MonkeyPatch, loads: bool
) -> None:
    """It reads ca.crt when it starts."""
    stopped: list[_processes.Process] = []
    host.manifest.write_text(NEW)
    host.spec = replace(host.spec, ca_reason=lambda *_: "" if stopped and loads else "etcd: is restarted to trust both")
    monkeypatch.setattr(_processes, "stop", stopped.append)
    if loads:
        assert host.run()["reasons"] == ["etcd: is restarted to trust both"]
        assert not host.run()["changed"]
    else:
        host.fails("etcd was restarted and trusts other CAs than ca.crt holds. Run again.")
    assert len(stopped) == 1 and "install" not in host.acts


def test_a_first_start_says_why_at_once(host: Host) -> None:
    host.manifest.unlink()
    host.process = None
    host.causes = [Cause("flag", "etcd", "flag provided but not defined: -no-such-flag", final=True)]
    host.spec = replace(host.spec, turn=0)
    said = host.fails("etcd: flag provided but not defined: -no-such-flag")
    assert said.startswith("infra0: etcd does not run after 0 s (no etcd process runs)")


@pytest.mark.parametrize(
    ("lasts", "image", "logs", "replaced"),
    [
        (True, "", [], False),
        # All manifests have a flag that etcd refuses: only new manifests can start the cluster.
        (False, "", ["0.log"], True),
        # Another image on existing data would upgrade all members at once, unless the present one could not be pulled and has never run.
        (False, IMAGE, ["0.log"], False),
        (False, IMAGE, [], True),
    ],
    ids=["comes up", "crashes", "crashes, and another image is wanted", "its image cannot be pulled"],
)
def test_a_cluster_that_is_down_is_started_as_it_was(
    host: Host, monkeypatch: pytest.MonkeyPatch, lasts: bool, image: str, logs: list[str], replaced: bool
) -> None:
    host.manifest.write_text(OLD + image)
    monkeypatch.setattr(engine, "BACK_AGAIN", -1.0)
    monkeypatch.setattr(engine, "read_wal", lambda _directory: Wal("1", "2", formed=True))
    monkeypatch.setattr(_host, "process_started", lambda _pid: 0.0 if lasts else time.time())
    monkeypatch.setattr(_log, "log_paths", lambda _since: logs)
    monkeypatch.setattr(_log, "last_words", lambda _paths: "")
    monkeypatch.setattr(engine.Turn, "_wait_until_started", lambda _self: 1.0)
    host.spec = replace(host.spec, turn=0)
    result = host.run()
    assert host.manifest.read_text() == (NEW if replaced else OLD + image)
    assert bool(result["left"]) != replaced and result["changed"] == replaced
    # A member whose data is not led yet is founded with what is wanted.
    monkeypatch.setattr(engine, "read_wal", lambda _directory: None)
    assert host.run()["left"] == [] and host.manifest.read_text() == NEW


def test_what_a_killed_run_has_left_in_the_directory_of_manifests_is_removed(host: Host) -> None:
    stray = host.manifest.parent / ".kubeadm-etcd-0123"
    stray.write_text("half a manifest")
    assert any("left behind" in reason for reason in host.run(check=True)["reasons"]) and stray.exists()
    host.run()
    assert not stray.exists()


def test_a_data_directory_that_others_share_keeps_its_mode(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """For example /srv: made readable for root only, its other users would lose access."""
    data = Path(host.spec.config.data_dir)
    asked: list[str] = []
    monkeypatch.setattr(engine, "mode_problem", lambda path, _mode: asked.append(path))
    (data / "member").mkdir()
    host.run()
    assert str(data) in asked
    (data / "home").mkdir()
    asked.clear()
    host.manifest.write_text(OLD)
    host.run()
    assert asked and str(data) not in asked


# --- Before etcd 3.7 -------------------------------------------------------------------------------------------------


COUNT = "    - --snapshot-count="


class Readable:
    """A member that runs etcd 3.6 and is to have 3.7, whose log has entries of 3.5 until it was restarted."""

    def __init__(self, host: Host, monkeypatch: pytest.MonkeyPatch, count: str = COUNT + "10000\n") -> None:
        self.entries = [4, 20]
        self.installed: list[str] = []
        self.host = host
        old = OLD + count + IMAGE.replace("3.5", "3.6.14-0")
        new = NEW + COUNT + "10000\n" + IMAGE.replace("3.5", "3.7.3-0")
        host.manifest.write_text(old)
        monkeypatch.setattr(engine._kubeadm, "render_manifest", lambda *_: new)
        monkeypatch.setattr(engine, "unreadable_by_3_7", lambda _path: self.entries)
        monkeypatch.setattr(engine, "SNAPSHOT_IS_WRITTEN", 0.0)
        monkeypatch.setattr(engine.Turn, "_applied", lambda *_: 32)
        monkeypatch.setattr(_rollout, "wait_for_cluster_version", lambda _target: host.did("version"))
        monkeypatch.setattr(_rollout, "wait_for_member", self.wait)
        monkeypatch.setattr(_rollout, "ask_cluster_version", lambda _target: self.agreed)
        self.agreed = "3.6.0"

    def wait(self, *_: object) -> float:
        self.host.did("wait")
        self.installed.append(self.host.manifest.read_text())
        (self.host.waits.pop(0) if self.host.waits else lambda: None)()
        return 1.0

    def cure(self) -> None:
        self.entries = []


def test_a_member_is_restarted_once_more_before_3_7(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a snapshot-count that causes a raft snapshot, behind its own gate, and before peer URLs change."""
    member = Readable(host, monkeypatch)
    host.waits = [member.cure]
    result = host.run()
    again = ["install", "wait", "check lock", "gate"]
    assert host.acts == [*ROLL[:4], *again, *ROLL[4:], "version", "unlock"]
    assert COUNT + "12\n" in member.installed[0] and "3.6.14-0" in member.installed[0]
    assert COUNT + "10000\n" in member.installed[1] and "3.7.3-0" in member.installed[1]
    assert "unreadable-log" in [item["code"] for item in result["changes"]] and result["waited"] == 2.0
    assert "etcd 3.7 cannot read" in " ".join(result["reasons"])


def test_a_raft_snapshot_that_is_not_written(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not upgraded, and has its manifest back."""
    member = Readable(host, monkeypatch)
    before = host.manifest.read_text()
    said = host.fails("has written no raft snapshot")
    assert "The previous manifest was put back, and the member is healthy with it" in said
    assert host.manifest.read_text() == before and not any("3.7.3-0" in text for text in member.installed)


def test_a_member_that_has_the_count_already_is_restarted(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """A killed run has set it. The kubelet would not restart for the same manifest."""
    member = Readable(host, monkeypatch, COUNT + "12\n")
    monkeypatch.setattr(_processes, "stop", lambda _process: host.did("stop"))
    host.waits = [member.cure]
    host.run()
    assert host.acts[4:7] == ["stop", "wait", "check lock"]


def test_a_manifest_without_a_count(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    Readable(host, monkeypatch, "")
    before = host.manifest.read_text()
    assert "does not set --snapshot-count" in host.fails("etcd_image_tag to the version that runs")
    assert host.manifest.read_text() == before


@pytest.mark.parametrize(
    ("agreed", "is_back"), [("3.6.0", True), ("", True), ("3.7.0", False), ("garbage", True), ("3.5.0", True)]
)
def test_the_way_back_ends_with_the_version_of_the_cluster(
    host: Host, monkeypatch: pytest.MonkeyPatch, agreed: str, is_back: bool
) -> None:
    member = Readable(host, monkeypatch)
    member.agreed, member.entries = agreed, []
    host.waits = [fail]
    before = host.manifest.read_text()
    said = host.fails("waited 300 s.")
    assert (host.manifest.read_text() == before) is is_back
    assert ("The cluster has agreed on version" in said or "agreed on version 3.7 meanwhile" in said) is not is_back


def test_a_patch_release_is_always_put_back(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    member = Readable(host, monkeypatch)
    member.agreed, member.entries = "3.9.0", []
    host.manifest.write_text(host.manifest.read_text().replace("3.6.14-0", "3.7.2-0"))
    host.waits = [fail]
    assert "The previous manifest was put back" in host.fails("waited 300 s.")
    assert "version" not in host.acts


# --- Packages --------------------------------------------------------------------------------------------------------


@pytest.fixture
def packages(host: Host, monkeypatch: pytest.MonkeyPatch) -> Host:
    """The same host, whose kubeadm and kubelet are to be replaced. The programs that follow are known beforehand."""
    change = engine._packages.Change("kubelet", "1.36.3-1.1", "1.37.2-1.1")
    staged = engine._packages.Staged((change,), kubeadm="/scratch/kubeadm", versions={"kubelet": "v1.37.2"})

    @contextlib.contextmanager
    def stage(*_: object, **__: object) -> Iterator[Any]:
        host.did("fetch")
        yield staged

    def render(config: str, program: str) -> str:
        host.configs.append(program)
        return host.render(config, program)

    monkeypatch.setattr(engine._packages, "staged", stage)
    monkeypatch.setattr(engine._packages, "install", lambda *_: host.did("install packages"))
    monkeypatch.setattr(engine._kubeadm, "render_manifest", render)
    return host


def test_packages_are_installed_behind_the_gate_and_before_anything_restarts(packages: Host) -> None:
    packages.with_kubelet()
    result = packages.run()
    before = ["fetch", "pull", "lock", "gate", "check lock", "install packages"]
    assert packages.acts == [*before, *BOTH[3:], "unlock"]
    assert result["changes"][0]["part"] == "packages" and result["reasons"][0] == "kubelet: 1.36.3-1.1 -> 1.37.2-1.1"
    programs = [text for text in packages.configs if "kubeadm" in text and "\n" not in text]
    assert programs == ["/scratch/kubeadm", "/scratch/kubeadm", "kubeadm"]


@pytest.mark.parametrize("installs", [True, False])
def test_another_member_leads_before_a_new_kubelet_starts(packages: Host, installs: bool) -> None:
    """A kubelet of another minor version ends etcd when it starts. Its package may restart it, or the turn."""
    packages.with_kubelet()
    if not installs:
        packages.spec = replace(packages.spec, parts=("kubelet",))
    packages.run()
    ((member, before),) = packages.handed_over
    assert member == 6 and before[-1] in ("gate", "check lock") and "install packages" not in before


def test_nobody_hands_over_where_etcd_ends_in_the_usual_way(host: Host) -> None:
    """It hands over itself then. A member that does not run leads nothing, and one that is alone has no heir."""
    host.run()
    assert host.handed_over == []


def test_a_leader_that_cannot_hand_over(packages: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """An election costs less than no turn. A run whose controller has ended is another matter."""
    monkeypatch.setattr(packages, "hand_over", lambda *_: fail())
    packages.run()
    assert "install packages" in packages.acts
    monkeypatch.setattr(packages, "hand_over", lambda *_: gone())
    packages.manifest.write_text(OLD)
    packages.acts.clear()
    packages.fails("The controller has ended")
    assert "install packages" not in packages.acts


def test_packages_alone_take_a_turn(packages: Host) -> None:
    """A package may restart services, so its installation has lock, gate and proof."""
    packages.manifest.write_text(NEW)
    packages.run()
    assert packages.acts == ["fetch", "lock", "gate", "check lock", "install packages", "check lock", "wait", "unlock"]


def test_packages_in_check_mode(packages: Host) -> None:
    result = packages.run(check=True)
    assert result["changed"] and "install packages" not in packages.acts and packages.manifest.read_text() == OLD
    assert result["changes"][0]["code"] == "version"


@pytest.mark.parametrize(("started", "proven"), [(0.0, False), (1.0, False), (100.0, True)])
def test_a_kubelet_that_its_package_has_restarted_is_proven(
    packages: Host, monkeypatch: pytest.MonkeyPatch, started: float, proven: bool
) -> None:
    """Its files are as wanted, so this run does not restart it."""
    packages.with_kubelet("former")
    unit = packages.unit
    monkeypatch.setattr(
        _host, "kubelet_unit", lambda: replace(unit(), started=started if "install packages" in packages.acts else 0.0)
    )
    packages.healthy = False
    if proven:
        text = packages.fails("the kubelet does not work with the change")
        assert "The packages stay installed (kubelet: 1.36.3-1.1 -> 1.37.2-1.1)" in text
        assert packages.manifest.read_text() == OLD, "etcd is not stopped"
    else:
        packages.run()


def test_a_kubelet_that_ends_with_its_new_version_stops_no_etcd(packages: Host) -> None:
    """systemd restarts it again and again. It must work before the manifest is replaced."""
    packages.with_kubelet()
    packages.at["install packages"] = lambda: packages.__dict__.update(active=False, healthy=False)
    packages.fails("the kubelet does not work with the change")
    assert packages.manifest.read_text() == OLD and "install" not in packages.acts


def test_a_package_that_cannot_be_installed_stops_nothing(packages: Host) -> None:
    packages.with_kubelet()
    packages.at["install packages"] = fail
    packages.fails("waited 300 s")
    assert packages.manifest.read_text() == OLD and packages.acts[-1] == "unlock"
    assert "restart kubelet" not in packages.acts and "install" not in packages.acts


def test_a_lock_that_is_lost_before_packages(packages: Host) -> None:
    packages.lost = _lock.LockLostError("The cluster lock is lost.")
    packages.fails("The cluster lock is lost")
    assert "install packages" not in packages.acts


def test_a_run_whose_controller_ends_while_packages_are_installed(
    packages: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are installed to the end. The next run restarts the kubelet, whose program was replaced."""
    packages.at["install packages"] = lambda: monkeypatch.setattr(_rollout, "check_controller", gone)
    packages.fails("The controller has ended")
    assert packages.acts[-2:] == ["install packages", "unlock"] and packages.manifest.read_text() == OLD


@pytest.mark.parametrize("turn", [0, 1])
def test_a_cluster_that_is_down_is_started_with_its_packages(
    packages: Host, monkeypatch: pytest.MonkeyPatch, turn: int
) -> None:
    monkeypatch.setattr(engine, "read_wal", lambda _path: Wal("1", "2", formed=True))
    packages.spec, packages.process = replace(packages.spec, turn=turn), None
    packages.refused = _lock.NoQuorumError("no quorum")
    monkeypatch.setattr(engine.Turn, "_starts", lambda _self: True)
    monkeypatch.setattr(engine.Turn, "_wait_until_started", lambda _self: 1.0)
    result = packages.run()
    assert "install packages" not in packages.acts and packages.manifest.read_text() == OLD and result["left"]
    assert ("fetch" in packages.acts) == ("kubelet: 1.36.3-1.1 -> 1.37.2-1.1" in result["left"]) == bool(turn)


def test_a_host_that_was_made_anew_and_kept_its_data_gets_its_packages(
    packages: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The host has no manifest to start with, and perhaps no kubelet."""
    monkeypatch.setattr(engine, "read_wal", lambda _path: Wal("1", "2", formed=True))
    monkeypatch.setattr(engine.Turn, "_wait_until_started", lambda _self: 1.0)
    packages.manifest.unlink()
    packages.spec, packages.process = replace(packages.spec, turn=0), None
    packages.run()
    assert packages.acts[:2] == ["fetch", "install packages"] and packages.manifest.read_text() == NEW


def test_packages_that_cannot_be_had_keep_no_member_down(packages: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """The repository may be down too. A running member is not changed."""
    monkeypatch.setattr(engine, "read_wal", lambda _path: Wal("1", "2", formed=True))
    for act in range(2):
        packages.at["fetch"] = fail
        if act:
            packages.process = None
            packages.run()
        else:
            packages.fails("waited 300 s")
            assert packages.acts == ["fetch"]
    assert "install packages" not in packages.acts and packages.manifest.read_text() == NEW


def test_a_first_start_installs_packages(packages: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine.Turn, "_wait_until_started", lambda _self: 1.0)
    packages.manifest.unlink()
    packages.spec = replace(packages.spec, turn=0)
    packages.run()
    assert packages.acts == ["fetch", "install packages", "pull", "install"]


def test_the_images_that_follow_packages_are_pulled_before_a_snapshot(packages: Host) -> None:
    """By the kubeadm that is not installed yet."""
    result = engine.pull_images(packages.spec, check=False)
    assert packages.acts == ["fetch", "pull"] and "/scratch/kubeadm" in packages.configs and not result["changed"]


# --- An older etcd ---------------------------------------------------------------------------------------------------


def lowers(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """A member that runs etcd 3.7 and is to have 3.6."""
    host.manifest.write_text(OLD + IMAGE.replace("3.5", "3.7.3-0"))
    monkeypatch.setattr(engine._kubeadm, "render_manifest", lambda *_: NEW + IMAGE.replace("3.5", "3.6.14-0"))
    monkeypatch.setattr(_rollout, "wait_for_member", lambda *_: host.did("wait") or 1.0)
    monkeypatch.setattr(_rollout, "wait_for_end_of_downgrade", lambda _target: host.did("end of downgrade"))
    monkeypatch.setattr(
        _rollout, "wait_until_lowered", lambda _target, wanted: host.did(f"is its data ready for {wanted}")
    )


def test_a_member_gets_an_older_minor_version(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """It waits for its data behind the gate and before any change. The rest is a normal turn."""
    lowers(host, monkeypatch)
    host.run()
    assert host.acts == [*ROLL[:3], "is its data ready for 3.6.14", *ROLL[3:], "end of downgrade", "unlock"]


def test_a_newer_minor_version_waits_for_no_downgrade(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    lowers(host, monkeypatch)
    host.manifest.write_text(OLD + IMAGE.replace("3.5", "3.5.35-0"))
    monkeypatch.setattr(_rollout, "wait_for_cluster_version", lambda _target: host.did("agree"))
    host.run()
    assert host.acts == [*ROLL, "agree", "unlock"]


def test_a_member_whose_data_is_not_ready_is_not_touched(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    lowers(host, monkeypatch)
    before = host.manifest.read_text()

    def refuse(*_: object) -> None:
        raise EtcdError("its data is of version 3.7.")

    monkeypatch.setattr(_rollout, "wait_until_lowered", refuse)
    host.fails("its data is of version 3.7")
    assert host.manifest.read_text() == before and "install" not in host.acts and "wait" not in host.acts


def test_check_mode_does_not_wait_for_a_downgrade(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has not been enabled then."""
    lowers(host, monkeypatch)
    assert host.run(check=True)["changed"] and not [act for act in host.acts if "ready for" in act]


def test_a_member_that_is_down_gets_the_older_version_at_once(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """It cannot be asked. etcd refuses to start if its data is not ready, and changes nothing."""
    lowers(host, monkeypatch)
    host.process = None
    host.run()
    assert "install" in host.acts and not [act for act in host.acts if "ready for" in act]
