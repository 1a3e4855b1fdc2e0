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
from ansible_collections.kubeadm.etcd.plugins.module_utils._etcd.snapshot import Snapshot
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
        self.renamed: list[str] = []
        self.source.parent.mkdir()
        self.source.write_bytes(CONTENT)
        self.between: Callable[[int], None] = lambda _offset: None
        self.asked: list[str] = []
        monkeypatch.setattr(_backup, "MOVED", 4096)
        rename = os.rename

        def watched(source: str, target: str) -> None:
            self.renamed.append(Path(target).name)
            rename(source, target)

        monkeypatch.setattr(etcd_fetch_snapshot.os, "rename", watched)

    def describe(self, keys: int = 3) -> str:
        """Write the description of the snapshot as it is now, and return it."""
        size = self.source.stat().st_size - 32
        text = Snapshot("etcd", 1795770000.0, 5, size, "ab" * 32, key_count=keys).as_text()
        self.source.with_name(f"{self.source.name}.json").write_text(text)
        return text

    def copied(self) -> dict[str, str]:
        """Names and contents of the copies, with those of descriptions only."""
        return {
            path.name: path.read_text() if path.name.endswith(".json") else "" for path in sorted(self.copies.iterdir())
        }

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


DESCRIPTION = "etcd-20261127T090000Z-r5.db.json"


def test_the_description_follows_the_snapshot(fetch: Fetch) -> None:
    """It comes last, so a copy without one is what a killed run leaves."""
    text = fetch.describe()
    done = fetch.run()
    assert done["fetched"] == [str(fetch.copies / name) for name in (fetch.source.name, DESCRIPTION)]
    assert fetch.renamed == [fetch.source.name, DESCRIPTION] and fetch.copied()[DESCRIPTION] == text
    assert (fetch.copies / DESCRIPTION).stat().st_mode & 0o777 == 0o600 and fetch.run()["changed"] is False
    # An older delivery has none.
    (fetch.copies / DESCRIPTION).unlink()
    assert fetch.run()["changed"] is True and fetch.renamed[2:] == [DESCRIPTION]
    text = fetch.describe(4)
    assert fetch.run()["changed"] is True and fetch.copied()[DESCRIPTION] == text


@pytest.mark.parametrize("described", [True, False])
def test_no_former_description_beside_another_snapshot(fetch: Fetch, described: bool) -> None:
    """Of the same name: two hosts that took one in the same second. The run is killed after the snapshot, or is not."""
    former = fetch.describe()
    fetch.run()
    fetch.source.write_bytes(CONTENT[::-1])
    text = fetch.describe(4) if described else ""
    if not described:
        fetch.source.with_name(DESCRIPTION).unlink()
    seen: list[bool] = []

    def watched(source: str, target: str, rename: Callable[[str, str], None] = etcd_fetch_snapshot.os.rename) -> None:
        seen.append((fetch.copies / DESCRIPTION).exists())
        rename(source, target)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(etcd_fetch_snapshot.os, "rename", watched)
        fetch.run()
    assert seen == [False] * (1 + described) and former not in fetch.copied().values()
    assert fetch.copied() == {fetch.source.name: "", **({DESCRIPTION: text} if described else {})}


def test_a_description_of_another_snapshot_stays_on_the_host(fetch: Fetch) -> None:
    """Also one that is damaged, and one that is no file. The snapshot is copied."""
    fetch.describe()
    fetch.source.write_bytes(CONTENT + CONTENT)
    beside = fetch.source.with_name(DESCRIPTION)
    for make in (lambda: None, lambda: beside.write_text("{"), lambda: (beside.unlink(), os.mkfifo(beside))):
        make()
        assert fetch.run()["fetched"] == [str(fetch.copies / fetch.source.name)]
    assert os.listdir(fetch.copies) == [fetch.source.name]


def test_a_copy_of_a_database_leaves_other_files(fetch: Fetch) -> None:
    """Its name is no name of a snapshot."""
    database = fetch.source.with_name("db")
    database.write_bytes(CONTENT)
    fetch.copies.mkdir()
    (fetch.copies / "db").write_bytes(b"former")
    (fetch.copies / "db.json").write_text("mine")
    assert fetch.run(path=str(database))["changed"] and fetch.copied() == {"db": "", "db.json": "mine"}


def test_encrypted_copies(fetch: Fetch, monkeypatch: pytest.MonkeyPatch) -> None:
    """The description is encrypted as well: it has the SHA-256 of the snapshot. Parts of it that a killed run left are removed."""
    fetch.describe()

    def encrypt(_recipient: str, path: str) -> list[str]:
        ends = [".cms"] if path.endswith(".json") else [".cms-01", ".cms-02"]
        for end in ends:
            Path(path + end).write_bytes(os.urandom(100))
        return [path + end for end in ends]

    monkeypatch.setattr(_backup, "encrypt", encrypt)
    fetch.copies.mkdir()
    (fetch.copies / f"{DESCRIPTION}.cms.part").write_text("part")
    (fetch.copies / DESCRIPTION).write_text("of a copy that was not encrypted")
    for _time in range(2):
        fetch.renamed.clear()
        names = [f"{fetch.source.name}.cms-01", f"{fetch.source.name}.cms-02", f"{DESCRIPTION}.cms"]
        assert fetch.run(recipient="PEM")["fetched"] == [str(fetch.copies / name) for name in names]
        assert fetch.renamed == names and sorted(os.listdir(fetch.copies)) == sorted([*names, DESCRIPTION])
        assert sorted(os.listdir(fetch.source.parent)) == [fetch.source.name, DESCRIPTION]


def test_a_description_that_cannot_be_encrypted(fetch: Fetch, monkeypatch: pytest.MonkeyPatch) -> None:
    """No copy is left on the host."""
    fetch.describe()

    def encrypt(_recipient: str, path: str) -> list[str]:
        if not path.endswith(".json"):
            raise EtcdError("no room")
        Path(f"{path}.cms").write_text("x")
        return [f"{path}.cms"]

    monkeypatch.setattr(_backup, "encrypt", encrypt)
    with pytest.raises(AnsibleActionFail, match="no room"):
        fetch.run(recipient="PEM")
    assert sorted(os.listdir(fetch.source.parent)) == [fetch.source.name, DESCRIPTION]
