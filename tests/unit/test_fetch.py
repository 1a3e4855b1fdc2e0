"""A snapshot is copied to the controller, piece by piece: what changes or fails meanwhile leaves no part of a copy."""

from __future__ import annotations

import base64
import errno
import fcntl
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.kubeadm.etcd.plugins.module_utils._member import backup as _backup
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.errors import EtcdError

pytest.importorskip("ansible.plugins.action")

from ansible.errors import AnsibleActionFail
from ansible_collections.kubeadm.etcd.plugins.action import etcd_fetch_snapshot

CONTENT = bytes(range(256)) * 40


class Fetch:
    """A controller and a host on one machine. between: called before each piece with its offset."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.source, self.copies = root / "host" / "etcd-20261127T090000Z-r5.db", root / "copies"
        self.source.parent.mkdir()
        self.source.write_bytes(CONTENT)
        self.between: Callable[[int], None] = lambda _offset: None
        self.asked: list[str] = []
        monkeypatch.setattr(_backup, "MOVED", 4096)

    def module(self, module_name: str, module_args: dict[str, Any], task_vars: Any) -> dict[str, Any]:
        """The module, as its main function has it."""
        assert module_name == "kubeadm.etcd.etcd_fetch_snapshot" and task_vars == {}
        args = {"recipient": "", "step": "prepare", "files": [], "offset": 0, **module_args}
        self.asked.append(args["step"])
        try:
            if args["step"] == "prepare":
                return {"files": _backup.prepare(args["recipient"], args["path"])}
            if args["step"] == "read":
                self.between(args["offset"])
                return {"piece": base64.b64encode(_backup.read_piece(args["path"], args["offset"])).decode()}
            _backup.discard(args["recipient"], args["files"])
        except (EtcdError, OSError) as exc:
            return {"failed": True, "msg": str(exc)}
        return {}

    def run(self, **args: Any) -> dict[str, Any]:
        action = object.__new__(etcd_fetch_snapshot.ActionModule)
        given = {"path": str(self.source), "dest": str(self.copies), **args}
        action._task = SimpleNamespace(args=given, async_val=0, check_mode=False, action="x")
        action._connection = SimpleNamespace(_shell=SimpleNamespace(tmpdir="/x"))
        action._execute_module = self.module
        return action.run(None, {})


@pytest.fixture
def fetch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fetch:
    return Fetch(tmp_path, monkeypatch)


def test_a_copy(fetch: Fetch) -> None:
    done = fetch.run()
    copy = fetch.copies / fetch.source.name
    assert done == {"changed": True, "fetched": [str(copy)]} and copy.read_bytes() == CONTENT
    assert copy.stat().st_mode & 0o777 == 0o600 and fetch.asked == ["prepare", *["read"] * 3, "discard"]
    assert fetch.run()["changed"] is False
    copy.write_bytes(b"another one")
    assert fetch.run()["changed"] is True and copy.read_bytes() == CONTENT


def change(fetch: Fetch) -> None:
    fetch.source.write_bytes(CONTENT[::-1])


def cut(fetch: Fetch) -> None:
    os.truncate(fetch.source, 5000)


def remove(fetch: Fetch) -> None:
    fetch.source.unlink()


@pytest.mark.parametrize(
    ("what", "words"),
    [(change, "changed while it was copied"), (cut, "changed while it was copied"), (remove, "No such file")],
)
def test_a_snapshot_that_changes_meanwhile(fetch: Fetch, what: Callable[[Fetch], None], words: str) -> None:
    """A copy from before stays, and no part of the new one is left."""
    fetch.copies.mkdir()
    former = fetch.copies / fetch.source.name
    former.write_bytes(b"former")
    fetch.between = lambda offset: what(fetch) if offset == 4096 else None
    with pytest.raises(AnsibleActionFail, match=words):
        fetch.run()
    assert os.listdir(fetch.copies) == [former.name] and former.read_bytes() == b"former"
    assert fetch.asked[-1] == "discard"


def test_a_directory_in_place_of_the_copy(fetch: Fetch) -> None:
    (fetch.copies / fetch.source.name / "mine").mkdir(parents=True)
    done = fetch.run()
    assert done["failed"] and "The snapshot is on the host" in done["msg"]
    assert os.listdir(fetch.copies) == [fetch.source.name] and fetch.asked[-1] == "discard"


def test_what_a_killed_run_left_is_removed(fetch: Fetch) -> None:
    """But not what another run is copying at this moment, nor files of the user."""
    fetch.copies.mkdir()
    left, held, mine = (
        fetch.copies / name
        for name in ("etcd-20261126T090000Z-r4.db.cms-01.part", "b-20261127T090000Z-r5.db.part", "mine.part")
    )
    for path in (left, held, mine, fetch.copies / f"{fetch.source.name}.part"):
        path.write_bytes(b"part")
    with held.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert fetch.run()["changed"]
    assert sorted(os.listdir(fetch.copies)) == sorted([fetch.source.name, held.name, mine.name])
    assert (fetch.copies / fetch.source.name).stat().st_mode & 0o777 == 0o600


def test_a_full_disk(fetch: Fetch, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(etcd_fetch_snapshot.os, "fsync", refuse)
    done = fetch.run()
    assert done["failed"] and f"{fetch.copies} on the controller: No space left on device (free some" in done["msg"]
    assert os.listdir(fetch.copies) == []
