"""Clearing the host of a member that has left. A kill at any point loses nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.kubeadm.etcd.plugins.module_utils._etcd.client import Member
from ansible_collections.kubeadm.etcd.plugins.module_utils._host.wal import Wal
from ansible_collections.kubeadm.etcd.plugins.module_utils._member import departure
from ansible_collections.kubeadm.etcd.plugins.module_utils._member import processes as _processes
from ansible_collections.kubeadm.etcd.plugins.module_utils._member import rollout as _rollout
from ansible_collections.kubeadm.etcd.plugins.module_utils._member.record import write_record
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.errors import EtcdError

RECORD = {"name": "infra2", "cluster_id": "c1", "member_id": "2", "data_dir": "/var/lib/etcd", "ca": "f", "removed": ""}
STAYS = [Member(i, f"infra{i}", [f"peer{i}"], [f"client{i}"], False) for i in (0, 1)]


class Host:
    """The host of infra2, which is no member any more."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = root
        self.acts: list[str] = []
        self.members: list[Member] = list(STAYS)
        for name in ("manifests", "work", "pki/etcd", "data/member/wal"):
            (root / name).mkdir(parents=True)
        for name in ("manifests/etcd.yaml", "work/kubelet.yaml", "work/before-kubelet.sh"):
            (root / name).write_text("x")
        for name in ("etcd/ca.key", "etcd/ca.crt", "etcd/server.key", "etcd/server.crt", "apiserver-etcd-client.key"):
            (root / "pki" / name).write_text("x")
        (root / "work" / "member.json").write_text(json.dumps(RECORD))
        self.spec = departure.ClearSpec(
            "infra2",
            [("infra0", "10.0.0.6"), ("infra2", "10.0.0.8")],
            manifests_dir=str(root / "manifests"),
            data_dir=str(root / "data"),
            work_dir=str(root / "work"),
            pki_dir=str(root / "pki"),
        )
        fakes: list[tuple[Any, str, Any]] = [
            (departure, "DROP_IN", str(root / "20.conf")),
            (departure, "DATA_DROP_IN", str(root / "30.conf")),
            (departure, "Membership", lambda *_: self),
            (departure, "end_etcd", self.end),
            (departure, "archive_data", self.archive),
            (departure, "read_wal", lambda _dir: self.wal()),
            (departure, "write_record", lambda record, work: (write_record(record, work), self.did("record"))),
            (departure.service, "stop", lambda: self.did("stop kubelet")),
            (departure.service, "systemctl", lambda *words: self.did(words[0])),
            (departure, "hold_host_lock", lambda *_: None),
            (_processes, "find_etcd_process", lambda _name: None),
            (_rollout, "check_controller", lambda: None),
        ]
        for target, name, fake in fakes:
            monkeypatch.setattr(target, name, fake)

    def did(self, act: str) -> None:
        self.acts.append(act)

    def wal(self) -> Wal | None:
        there = (self.root / "data" / "member").is_dir()
        return Wal("2", "c1", formed=True) if there else None

    def end(self, _member: str, manifest: str, kept: str, _endpoint: str) -> None:
        self.did("end")
        if Path(manifest).exists():
            Path(manifest).rename(kept)

    def archive(self, data_dir: str, _moment: float) -> str:
        if not departure.has_data(data_dir):
            return ""
        self.did("archive")
        Path(data_dir).rename(f"{data_dir}.removed-x")
        return f"{data_dir}.removed-x"

    def run(self, check: bool = False, **changes: Any) -> dict[str, Any]:
        return departure.clear(departure.replace(self.spec, **changes), check)


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    class Asked:
        def __init__(self, it: Host) -> None:
            self.members = lambda: it.members

    it = Host(tmp_path, monkeypatch)
    monkeypatch.setattr(departure, "Membership", lambda *_: Asked(it))
    return it


def test_the_steps_of_clearing_a_host(host: Host) -> None:
    """etcd is stopped by its kubelet. The record is written before the data is renamed."""
    said = host.run(check=True)
    assert said["changed"] and host.acts == []
    result = host.run()
    assert host.acts == ["end", "stop kubelet", "daemon-reload", "record", "archive"]
    assert result["reasons"] == said["reasons"] and result["archive"].endswith("data.removed-x")
    assert [item["part"] for item in result["changes"]] == ["manifest", "kubelet", "data", "record"]
    record = json.loads((host.root / "work" / "member.json").read_text())
    assert record["removed"] and {**record, "removed": ""} == RECORD
    assert not list((host.root / "work").glob("*kubelet*"))
    assert (host.root / "work" / "etcd.yaml.removed").exists() and (host.root / "pki/etcd/server.key").exists()
    # The second time nothing is left to do.
    host.acts.clear()
    assert host.run() == {"changed": False, "reasons": [], "changes": [], "archive": ""} and host.acts == []


def test_keys_are_removed_on_demand_and_last(host: Host) -> None:
    host.run()
    assert host.run(wipe_keys=True)["changes"][0]["part"] == "certificates"
    assert list((host.root / "pki").rglob("*.*")) == [] and not host.run(wipe_keys=True)["changed"]


def test_a_member_that_has_not_left_is_left_alone(host: Host) -> None:
    host.members.append(Member(2, "renamed", ["peer2"], ["client2"], False))
    with pytest.raises(EtcdError, match="is that of member 2 \\(renamed\\), which is still in the membership"):
        host.run()
    assert host.acts == [] and (host.root / "manifests" / "etcd.yaml").exists()


@pytest.mark.parametrize("done", range(1, 5))
def test_a_kill_is_finished(host: Host, monkeypatch: pytest.MonkeyPatch, done: int) -> None:
    """Killed after each act. The former member stays known until all is cleared."""

    def stop(act: str) -> None:
        host.acts.append(act)
        if len(host.acts) == done:
            raise KeyboardInterrupt

    monkeypatch.setattr(host, "did", stop)
    with pytest.raises(KeyboardInterrupt):
        host.run()
    monkeypatch.setattr(host, "did", host.acts.append)
    assert host.run()["changed"] and not host.run()["changed"]
    assert not (host.root / "data").exists() and not (host.root / "manifests" / "etcd.yaml").exists()
    assert json.loads((host.root / "work" / "member.json").read_text())["removed"]


def test_a_host_without_a_record_gets_one(host: Host) -> None:
    """A cluster that was built by hand and never adopted."""
    (host.root / "work" / "member.json").unlink()
    host.run()
    record = json.loads((host.root / "work" / "member.json").read_text())
    assert record["removed"] and (record["member_id"], record["cluster_id"]) == ("2", "c1")


def test_a_host_without_a_record_is_described_by_what_is_there(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    current = departure.Record("infra2", "c1", "2", "/var/lib/etcd", "fingerprint")
    monkeypatch.setattr(departure, "current_record", lambda *_: current)
    (host.root / "work" / "member.json").unlink()
    host.run()
    record = json.loads((host.root / "work" / "member.json").read_text())
    assert record["removed"] and record["ca"] == "fingerprint"


def test_a_host_whose_data_tells_nothing(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "wal", lambda: Wal("", "", formed=False))
    (host.root / "work" / "member.json").unlink()
    host.run()
    record = json.loads((host.root / "work" / "member.json").read_text())
    assert (record["cluster_id"], record["member_id"]) == (departure.UNKNOWN, departure.UNKNOWN)
