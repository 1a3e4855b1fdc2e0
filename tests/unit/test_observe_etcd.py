"""The answers of a cluster in an observation."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest
from ansible_collections.kubeadm.etcd.plugins.module_utils._etcd.client import Member, Status
from ansible_collections.kubeadm.etcd.plugins.module_utils._member import observe as _observe
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.errors import EtcdError

MEMBERS = [Member(number, f"infra{number}", ["p"], ["c"], False) for number in (1, 2, 3)]


class Client:
    """A member that answers, unless its endpoint is silent."""

    errors: ClassVar[list[str]] = []
    silent: ClassVar[list[str]] = []
    open: ClassVar[list[str]] = []

    def __init__(self, endpoint: str, *_files: str, timeout: float) -> None:
        self.endpoint, self.timeout = endpoint, timeout

    def __enter__(self) -> Client:
        self.open.append(self.endpoint)
        return self

    def __exit__(self, *_exc: object) -> None:
        self.open.remove(self.endpoint)

    def members(self) -> list[Member]:
        if any(address in self.endpoint for address in self.silent):
            raise EtcdError("silent")
        return MEMBERS

    def status(self) -> Status:
        return Status(0xABC, 2, "3.6.14", 1, 1, None, 2, 1, 1, 1, False, self.errors)

    def cluster_version(self) -> str:
        return "3.6.0"

    def enabled_downgrade(self, status: Status) -> str:
        return status.downgrade


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The options of an observation of infra1, which does not run, with certificates to ask the others."""
    (tmp_path / "etcd").mkdir()
    for name in ("ca.crt", "healthcheck-client.crt", "healthcheck-client.key"):
        (tmp_path / "etcd" / name).touch()
    monkeypatch.setattr(_observe, "EtcdClient", Client)
    monkeypatch.setattr(_observe, "find_etcd_process", lambda _name: None)
    members = [{"name": f"infra{number}", "address": f"10.0.0.{number}"} for number in (1, 2, 3)]
    return {
        "name": "infra1",
        "address": "10.0.0.1",
        "members": members,
        "data_dir": str(tmp_path / "data"),
        "manifests_dir": str(tmp_path / "manifests"),
        "client_port": 2379,
        "metrics_port": 2381,
        "pki": {"pki_dir": str(tmp_path)},
        "config": {},
    }


@pytest.mark.parametrize(
    ("errors", "alarms"),
    [
        (["alarm:CORRUPT "], [{"kind": "CORRUPT", "member": ""}]),
        (["memberID:3 alarm:NOSPACE "], [{"kind": "NOSPACE", "member": "infra3"}]),
        (["memberID:255  alarm:CORRUPT"], [{"kind": "CORRUPT", "member": "ff"}]),
        (["etcdserver: no leader"], []),
    ],
)
def test_alarms(asked: dict[str, Any], errors: list[str], alarms: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Client, "errors", errors)
    assert _observe.observe_etcd(asked, [])["alarms"] == alarms


@pytest.mark.parametrize("silent", [[], ["10.0.0.2"], ["10.0.0.2", "10.0.0.3"]])
def test_every_connection_is_closed(asked: dict[str, Any], silent: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Client, "silent", silent)
    assert bool(_observe.observe_etcd(asked, [])["members"]) is (len(silent) < 2)
    assert Client.open == []


def test_the_log_is_read_after_the_cluster_was_asked(asked: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """During a foundation, the membership may show that a member has published. The log must not be older than that."""
    steps: list[str] = []
    monkeypatch.setattr(Client, "members", lambda _self: steps.append("members") or MEMBERS)
    monkeypatch.setattr(_observe, "read_wal", lambda _path: steps.append("log"))
    _observe.observe_etcd(asked, [])
    assert steps == ["members", "log"]


@pytest.mark.parametrize(
    ("version", "wanted", "reads_log", "entries"),
    [
        ("", "3.7.3-0", False, 2),
        ("3.5.35", "3.7.3-0", True, 0),
        ("3.6.14", "3.7.3-0", False, 2),
        ("3.6.14", "latest", True, 2),
        ("3.6.14", "3.6.14-0", True, 2),
        ("3.7.3", "3.7.3-0", True, 0),
        # The search takes 0.06 s of CPU, so it must be asked for.
        ("3.6.14", "3.6.14-0", False, 0),
        ("3.6.14", "", False, 0),
        ("", "3.6.14-0", False, 0),
    ],
)
def test_the_log_is_searched_for_what_3_7_cannot_read(
    version: str, wanted: str, reads_log: bool, entries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On 3.5 there is some in any log, and 3.7 has read it."""
    monkeypatch.setattr(_observe, "unreadable_by_3_7", lambda _path: [4, 7])
    image = f"registry.k8s.io/etcd:{wanted}" if wanted else None
    assert _observe.unreadable_entries({"data_dir": "x", "reads_log": reads_log}, version, image) == entries
