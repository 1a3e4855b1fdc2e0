"""The plan of a defragmentation, by the function that the play calls, and its work on a host that needs no etcd."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.wish import Wish
from ansible_collections.kubeadm.etcd.plugins.module_utils._etcd.client import Status
from ansible_collections.kubeadm.etcd.plugins.module_utils._member import defragment as _member
from ansible_collections.kubeadm.etcd.plugins.module_utils._member.defragment import full_members, gate_problems
from ansible_collections.kubeadm.etcd.plugins.module_utils._member.observe import observe_database, quota_in
from ansible_collections.kubeadm.etcd.plugins.module_utils._member.processes import Process
from ansible_collections.kubeadm.etcd.plugins.module_utils._member.rollout import Other
from ansible_collections.kubeadm.etcd.plugins.module_utils._operations import run as _run
from ansible_collections.kubeadm.etcd.plugins.module_utils._operations.defragment import compact_revision
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.database import Database
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.errors import EtcdError
from test_decision import DOWN, FRESH, cluster_of, listing, up
from test_departure import seen

MIB = 1 << 20
SMALL = Database(20 * MIB, 10 * MIB, 2048 * MIB, 5000)
HOLLOW = Database(1000 * MIB, 550 * MIB, 2048 * MIB, 5000)
FULL = Database(2050 * MIB, 1900 * MIB, 2048 * MIB, 5000)
DONE = Database(100 * MIB, 95 * MIB, 2048 * MIB, 5000)
NOSPACE = {"kind": "NOSPACE", "member": "infra1"}


def run(
    *databases: Database | None,
    leader: int = 0,
    alarms: list[dict[str, str]] | None = None,
    change: dict[str, dict[str, Any]] | None = None,
    members: list[dict[str, Any]] | None = None,
    **wishes: Any,
) -> dict[str, Any]:
    """The plan for members with these databases. None: the host is not part of the run. change: of the part etcd of hosts, or of their facts."""
    cluster = cluster_of(len(databases))
    numbers = "".join(str(number) for number in range(len(databases)))
    listed = members or listing(numbers, numbers)
    found = seen(cluster, *[up(listed, leader=number == leader) for number in range(len(databases))], members=listed)
    for number, database in enumerate(databases):
        host = f"infra{number}"
        if database is None:
            del found[host]
            continue
        found[host]["etcd"].update(database=database.as_dict(), alarms=alarms or [])
        found[host]["facts"]["disk_free"] = 100 << 30
        for key, value in (change or {}).get(host, {}).items():
            found[host]["facts" if key in found[host]["facts"] else "etcd"][key] = value
    lost = wishes.pop("lost", [])
    host = next(iter(found))
    return _run.plan_run(host, found, lost, Wish(operation="defragment", **wishes))


@pytest.mark.parametrize(
    ("databases", "found", "order"),
    [
        ((SMALL, SMALL, SMALL), {}, []),
        ((HOLLOW, HOLLOW, HOLLOW), {}, ["infra1", "infra2", "infra0"]),
        ((HOLLOW, HOLLOW, HOLLOW), {"leader": 1}, ["infra0", "infra2", "infra1"]),
        # The leftovers of a killed run.
        ((HOLLOW, DONE, HOLLOW), {"leader": 2}, ["infra0", "infra2"]),
        ((HOLLOW, HOLLOW, SMALL), {"defragment_threshold": 46}, []),
        ((HOLLOW, DONE, SMALL), {"defragment_threshold": 45}, ["infra0"]),
        # Half of it, but less than 16 MiB; and 16 MiB of it, but less than a fifth.
        (
            (SMALL, Database(31 * MIB, 15 * MIB), Database(100 * MIB, 84 * MIB)),
            {"defragment_threshold": 20},
            ["infra1"],
        ),
        # Some hosts only: the gate asks the others.
        ((HOLLOW, None, HOLLOW), {}, ["infra2", "infra0"]),
        ((HOLLOW,), {"allow_interruption": True}, ["infra0"]),
        ((SMALL,), {}, []),
    ],
)
def test_members_that_are_defragmented(
    databases: tuple[Database, ...], found: dict[str, Any], order: list[str]
) -> None:
    plan = run(*databases, **found)
    assert plan["problems"] == [] and plan["defragment"] == order and plan["disarm"] == []
    assert plan["settled"] == (not order) and plan["action"] == ("defragment" if order else "nothing")
    assert [step["turn"] for step in plan["steps"]] == list(range(1, len(order) + 1))
    assert plan["limits"]["compact_revision"] == 0
    assert plan["order"] == plan["start"] == plan["join"] == plan["record"] == plan["certificates"] == []


def test_the_plan_for_people() -> None:
    assert run(HOLLOW, HOLLOW, DONE)["lines"] == [
        "cluster etcd: defragmented one after the other: infra1, infra0 (the leader, last)",
        "infra1, infra0: database: defragmented, 450 of 1000 MiB (45 %) are not in use",
        "infra2: database: not defragmented, 5 of 100 MiB (5 %) are not in use",
    ]
    assert run(SMALL, SMALL, DONE)["lines"] == [
        "cluster etcd: nothing to do: no database has at least 45 % and 16 MiB of unused space",
        "infra0, infra1: database: not defragmented, 10 of 20 MiB (50 %) are not in use",
        "infra2: database: not defragmented, 5 of 100 MiB (5 %) are not in use",
    ]
    lines = run(FULL, FULL, FULL, alarms=[NOSPACE], leader=2)["lines"]
    assert (
        "infra0, infra1, infra2: database: compacted to revision 4000 of 5000, because keys and history fill the quota"
        in lines
    )
    assert "infra0: database: alarm NOSPACE of infra1: disarmed if every database is below its quota" in lines


@pytest.mark.parametrize(
    ("databases", "order", "revision"),
    [
        ((FULL, FULL, FULL), ["infra1", "infra2", "infra0"], 4000),
        # A killed run has compacted, and defragmented one.
        ((FULL, DONE, DONE), ["infra1", "infra2", "infra0"], 4000),
        # Room enough in the file.
        ((Database(2050 * MIB, 500 * MIB, 2048 * MIB, 5000), DONE, DONE), ["infra0"], 0),
        # The quota was raised.
        ((DONE, DONE, DONE), [], 0),
    ],
)
def test_a_full_database(databases: tuple[Database, ...], order: list[str], revision: int) -> None:
    """All members whose defragmentation frees space. One host disarms the alarm after the turns."""
    plan = run(*databases, alarms=[NOSPACE])
    assert plan["problems"] == [] and plan["defragment"] == order and plan["disarm"] == ["infra0"]
    assert plan["limits"] == {"threshold": 0, "compact_revision": revision, "quota": 2048 * MIB}
    assert plan["steps"][-1]["kind"] == "disarm" and not plan["settled"] and plan["action"] == "defragment"


@pytest.mark.parametrize(
    ("latest", "mark", "keep", "expected"),
    [
        (5000, 0, 1000, 4000),
        # Not more than kube-apiserver.
        (5000, 3000, 1000, 3000),
        (5000, 4500, 1000, 4000),
        # All of it, on demand.
        (5000, 3000, 0, 5000),
        (5000, 0, 0, 5000),
        (500, 0, 1000, 0),
    ],
)
def test_how_much_history_goes(latest: int, mark: int, keep: int, expected: int) -> None:
    members = [Database(1, 1, 1, latest, mark), Database(1, 1, 1, latest - 3, 0)]
    assert compact_revision(members, keep) == expected


LEARNER = [*listing("01", "01"), {**listing("2")[2], "is_learner": True}]


@pytest.mark.parametrize(
    ("databases", "found", "code", "words"),
    [
        ((HOLLOW,) * 3, {"change": {"infra2": {"ready": False}}}, "infra2:", "Run site.yml to repair it"),
        ((HOLLOW,) * 3, {"change": {"infra2": {"database": None}}}, "infra2:", "not healthy here"),
        ((DONE, DONE, HOLLOW), {"members": LEARNER}, "member infra2", "has not joined completely"),
        ((HOLLOW,) * 3, {"members": listing("01")}, "member infra2", "has not joined completely"),
        ((HOLLOW,) * 3, {"alarms": [{"kind": "CORRUPT", "member": ""}]}, "Alarm CORRUPT", "no restart repairs it"),
        ((FULL, None, FULL), {"alarms": [NOSPACE]}, "alarm NOSPACE", "run again with all members"),
        ((HOLLOW,) * 2, {}, "defragmenting infra1, infra0 would interrupt", "etcd_allow_interruption: true"),
        ((HOLLOW,) * 3, {"change": {"infra1": {"disk_free": 566 * MIB}}}, "infra1:", "needs 566 MiB, and 566 MiB"),
        ((HOLLOW,) * 3, {"lost": ["infra1"]}, "infra1 cannot be reached", "--limit"),
        # One on top of the other.
        ((HOLLOW,) * 3, {"change": {"infra1": {"ready": False}}, "members": LEARNER}, "infra1:", "not healthy here"),
    ],
)
def test_refused(databases: tuple[Database, ...], found: dict[str, Any], code: str, words: str) -> None:
    plan = run(*databases, **found)
    assert plan["problems"] and plan["problems"][0].startswith(code) and words in plan["problems"][0], plan["problems"]
    assert plan["steps"] == [] and plan["settled"] and plan["defragment"] == plan["disarm"] == []


def test_a_cluster_that_does_not_exist() -> None:
    cluster = cluster_of(3)
    for state, words in ((FRESH, "has not been founded yet"), (DOWN, "not healthy here")):
        found = seen(cluster, state, state, state, members=[])
        plan = _run.plan_run("infra0", found, [], Wish(operation="defragment"))
        assert words in plan["problems"][0] and plan["steps"] == []


def test_a_large_database_is_pointed_out() -> None:
    large = Database(9000 * MIB, 3000 * MIB)
    assert "3000 MiB are in use" in run(large, large, large)["notices"][0]
    assert "longer" not in " ".join(run(HOLLOW, HOLLOW, HOLLOW)["notices"])


# --- The host -------------------------------------------------------------------------------------------------------


WELL, ILL = Other("infra1", True, None), Other("infra2", True, "is not healthy (x): repair it first")


@pytest.mark.parametrize(
    ("answer", "others", "allowed", "words"),
    [
        (None, [WELL, WELL], False, None),
        (None, [WELL, ILL], False, "infra2 is not healthy"),
        (None, [WELL, ILL], True, "infra2 is not healthy"),
        ("timed out", [WELL, WELL], False, "infra0 is not healthy (timed out)"),
        (None, [WELL], False, "2 voting members and no quorum while infra0 is blocked"),
        (None, [], False, "1 voting member and no quorum"),
        (None, [WELL], True, None),
        # A learner has no vote.
        (None, [WELL, WELL, Other("new", False, "is a learner")], False, "new is a learner"),
    ],
)
def test_the_gate(answer: str | None, others: list[Other], allowed: bool, words: str | None) -> None:
    problems = gate_problems("infra0", answer, others, allowed)
    assert (not problems) == (words is None) and (words or "") in "; ".join(problems)


def test_members_with_a_full_database() -> None:
    at, below = Database(200 * MIB, 100 * MIB, 200 * MIB), Database(199 * MIB, 199 * MIB, 200 * MIB)
    assert full_members([("a", at), ("b", below), ("c", Database(900 * MIB, 1))]) == [
        "a (200 MiB of 200 MiB, 100 MiB of them in use)"
    ]


class Client:
    """A client that counts what it is asked."""

    asked = 0

    def modified(self, key: str) -> int:
        assert key == "compact_rev_key"
        self.asked += 1
        return 77


@pytest.mark.parametrize(
    ("reported", "argv", "envs", "quota"),
    [
        (123, ["etcd", "--quota-backend-bytes=5"], {}, 123),
        (-1, ["etcd"], {}, 0),
        (None, ["etcd", "--quota-backend-bytes=4096"], {"ETCD_QUOTA_BACKEND_BYTES": "1"}, 4096),
        (None, ["etcd"], {"ETCD_QUOTA_BACKEND_BYTES": "8192"}, 8192),
        (None, ["etcd"], {}, 2 << 30),
        (None, ["etcd", "--quota-backend-bytes=-1"], {}, 0),
    ],
)
def test_what_is_observed(reported: int | None, argv: list[str], envs: dict[str, str], quota: int) -> None:
    client: Any = Client()
    status = Status(1, 2, "3.6.14", 300, 200, reported, 2, 1, 9, 9, False, [], revision=42)
    known = quota_in({"config": {"extra_envs": envs}}, Process(1, 1, argv))
    assert observe_database(client, status, known) == Database(300, 200, quota, 42, 0) and not client.asked
    full = Status(1, 2, "3.6.14", 300, 200, reported, 2, 1, 9, 9, False, ["memberID:2 alarm:NOSPACE "], revision=42)
    assert observe_database(client, full, known).next_compaction == 77
    assert Database.from_dict(observe_database(client, full, known).as_dict()).next_compaction == 77


def test_a_disk_without_room_for_the_new_file(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = _member.DefragmentSpec("infra0", [("infra0", "10.0.0.6")])
    monkeypatch.setattr(_member, "free_bytes", lambda path: {"/var/lib/etcd": 566 * MIB}[path])
    _member.check_disk(spec, HOLLOW)
    with pytest.raises(EtcdError, match=r"needs 567 MiB, and 566 MiB are free on the filesystem of /var/lib/etcd"):
        _member.check_disk(spec, Database(1000 * MIB, 551 * MIB))


def test_files_of_former_defragmentations(tmp_path: Path) -> None:
    """A file that the running etcd may be writing stays, as does everything else."""
    snap = tmp_path / "member" / "snap"
    snap.mkdir(parents=True)
    started = 1_795_770_000.0
    for name, age in (("db", 9), ("db.tmp.1", 9), ("db.tmp.22", 1), ("db.tmp.3", -1), ("tmp1", 9), ("0001.snap", 9)):
        (snap / name).write_bytes(bytes(100))
        os.utime(snap / name, (started - age,) * 2)
    (snap / "db.tmp.dir").mkdir()
    # The process has ended.
    assert _member.remove_unfinished(str(tmp_path), 0.0) == 0
    assert _member.remove_unfinished(str(tmp_path), started) == 200
    assert {path.name for path in snap.iterdir()} == {"db", "db.tmp.3", "tmp1", "0001.snap", "db.tmp.dir"}
    assert _member.remove_unfinished(str(tmp_path / "none"), started) == 0
