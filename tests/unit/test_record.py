"""The record of a member: written, read, damaged, and compared with the data."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from ansible_collections.kubeadm.etcd.plugins.module_utils._member import record as _record
from ansible_collections.kubeadm.etcd.plugins.module_utils._member.record import Record
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.errors import EtcdError
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.reasons import texts
from test_wal import metadata, state

RECORD = Record("infra0", "2", "1", "/var/lib/etcd", "f00")


def write_log(path: Path, *, led: bool) -> Path:
    folder = path / "member" / "wal"
    folder.mkdir(parents=True)
    log = metadata(1, 2) + state(1) + (state(2) if led else b"")
    (folder / "0000000000000000-0000000000000000.wal").write_bytes(log)
    return path


def test_it_is_read_as_it_was_written(tmp_path: Path) -> None:
    assert _record.read_record(str(tmp_path)) is None
    (tmp_path / "member.json").write_text(RECORD.as_text(), encoding="utf-8")
    assert _record.read_record(str(tmp_path)) == RECORD
    # Of a later version.
    (tmp_path / "member.json").write_text(json.dumps({**json.loads(RECORD.as_text()), "later": 1}), encoding="utf-8")
    assert _record.read_record(str(tmp_path)) == RECORD


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b"{}",
        b"\xff",
        b'{"name": 1}',
        RECORD.as_text().replace('"2"', '""').encode(),
        b"null",
        b"[" * 200000,
    ],
)
def test_a_damaged_one_is_an_error_that_names_it(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "member.json").write_bytes(data)
    with pytest.raises(EtcdError, match=r"member\.json is damaged"):
        _record.read_record(str(tmp_path))


def test_only_data_that_has_seen_a_leader_is_recorded(tmp_path: Path) -> None:
    led, born = write_log(tmp_path / "led", led=True), write_log(tmp_path / "born", led=False)
    pki = str(tmp_path / "pki")
    assert _record.current_record("infra0", str(led), pki) == Record("infra0", "2", "1", str(led), "")
    assert _record.current_record("infra0", str(born), pki) is None
    assert _record.current_record("infra0", str(tmp_path / "none"), pki) is None
    # A restored snapshot has not been led since.
    (born / "member" / "snap").mkdir()
    (born / "member" / "snap" / "1.snap").write_bytes(b"x")
    assert _record.current_record("infra0", str(born), pki) is None


def test_why_it_is_written() -> None:
    assert _record.record_reasons(RECORD, RECORD) == []
    assert _record.record_reasons(RECORD, None) == _record.record_reasons(None, None) == []
    assert texts(_record.record_reasons(None, RECORD)) == ["member.json: missing"]
    moved = Record("infra0", "2", "1", "/srv/etcd", "f00")
    assert texts(_record.record_reasons(RECORD, moved)) == ["member.json: data_dir: /var/lib/etcd -> /srv/etcd"]
