"""The plans of backup.yml and restore.yml, and reading data directories and snapshot files."""

from __future__ import annotations

import functools
import hashlib
import os
import struct
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.backup import fetch_problems
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.view import View
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.wish import (
    FetchDir,
    WantedSnapshot,
    Wish,
    check_fetch_dir,
    wanted_snapshot,
)
from ansible_collections.kubeadm.etcd.plugins.module_utils._etcd.restore import (
    BUMP,
    LASTS,
    SECONDS,
    bump_of,
    cluster_id,
    has_kubernetes,
    new_token,
    read_snapshot_file,
    restore_token,
)
from ansible_collections.kubeadm.etcd.plugins.module_utils._etcd.snapshot import Snapshot
from ansible_collections.kubeadm.etcd.plugins.module_utils._operations import backup as _backup_plan
from ansible_collections.kubeadm.etcd.plugins.module_utils._operations import converge as _converge
from ansible_collections.kubeadm.etcd.plugins.module_utils._operations import drill as _drill
from ansible_collections.kubeadm.etcd.plugins.module_utils._operations import restore as _restore
from ansible_collections.kubeadm.etcd.plugins.module_utils._operations import run as _run
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.errors import EtcdError
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.problems import PROCESSES
from test_decision import CLUSTER, DOWN, FRESH, HOSTS, up
from test_run import ALL_UP, observations

# In steps of ten seconds.
NOW = 179580000
URLS = {host: f"https://10.0.0.{6 + number}:2380" for number, host in enumerate(HOSTS)}


def seen(*states: dict[str, Any] | None, ids: str = "") -> dict[str, Any]:
    """Observations by host. ids: one character for each host, the id of the cluster in its record; '-' for none."""
    found = observations(*states)
    for (host, item), record in zip(found.items(), ids or "-" * len(found)):
        item["etcd"].setdefault("answers", bool(item["etcd"].get("ready")))
        item["etcd"].setdefault("members_of", "c1" if item["etcd"]["answers"] else None)
        item["backup"] = {"dir": "/var/backups/etcd", "newest": [], "count": 0, "state": {}}
        item["config"].update(peer_port=2380)
        # Hosts are not observed at the same moment.
        item["facts"]["asked_at"] = NOW * 10.0 - (7.0 if host == "infra0" else 0.0)
        item["facts"]["etcd_manifest"] = bool(item["etcd"]["has_data"])
        item["reasons"]["backup"] = []
        if record != "-":
            item["etcd"]["record"] = {
                "name": host,
                "cluster_id": record,
                "member_id": "1",
                "data_dir": "/x",
                "ca": "",
                "removed": "",
            }
    return found


def plan(found: dict[str, Any], operation: str, **wishes: Any) -> dict[str, Any]:
    view = View(CLUSTER, found, [host for host in HOSTS if host in found])
    plans = {"backup": _backup_plan, "restore": _restore, "drill": _drill}
    return plans.get(operation, _converge).plan(view, Wish(operation=operation, **wishes))


def steps(made: dict[str, Any]) -> list[tuple[str, str]]:
    return [(step["kind"], step["host"]) for step in made["steps"]]


@pytest.mark.parametrize(
    ("states", "host", "warned"),
    [
        (ALL_UP, "infra1", False),
        ((up(leader=True), DOWN, up()), "infra2", False),
        ((up(leader=True), DOWN, DOWN), "infra0", False),
        (({**DOWN, "answers": True}, DOWN, FRESH), "infra0", True),
    ],
)
def test_backup(states: tuple[dict[str, Any], ...], host: str, warned: bool) -> None:
    made = plan(seen(*states), "backup")
    assert steps(made) == [("snapshot", host)] and made["snapshot"] == [host] and made["problems"] == []
    assert bool(made["notices"]) == warned
    assert (
        made["lines"][1].startswith(f"{host}: snapshot: taken from member {host}")
        and "/var/backups/etcd" in made["lines"][1]
    )


def test_backup_of_a_corrupt_cluster() -> None:
    """Not from the member that the alarm names."""
    found = seen(*ALL_UP)
    for item in found.values():
        item["etcd"]["alarms"] = [{"kind": "CORRUPT", "member": "infra1"}]
    assert plan(found, "backup")["snapshot"] == ["infra2"]


def test_backups_that_are_refused() -> None:
    made = plan(seen(DOWN, DOWN, DOWN), "backup")
    assert made["settled"] and "none can give a snapshot" in made["problems"][0]


@pytest.mark.parametrize(
    ("operation", "wanted"), [("remove", True), ("replace", True), ("remove", False), ("converge", True)]
)
def test_before_a_member_leaves(operation: str, wanted: bool) -> None:
    """From a member that stays; before anything else."""
    found = seen(up(leader=True), up(), DOWN)
    data = {
        "name": "etcd",
        "members": [vars(member) for member in CLUSTER.members],
        "ca_host": "infra0",
        "problems": [],
        "warnings": [],
    }
    observed = {host: {**item, "cluster": data} for host, item in found.items()}
    wish = Wish(operation=operation, member="infra2", backup_before_change=wanted)
    made = _run.plan_run("infra0", observed, [], wish)
    assert made["problems"] == [], made["problems"]
    if wanted and operation != "converge":
        assert steps(made)[0] == ("snapshot", "infra1")
    else:
        assert made["snapshot"] == []


@pytest.mark.parametrize(
    ("fetch", "problem"),
    [
        (FetchDir("/srv", 1 << 40), ""),
        (FetchDir("/srv", 116 << 20), ""),
        (FetchDir("/srv", (116 << 20) - 1), "/srv on the controller has 115 MiB free, and 116 MiB are needed for the"),
        (FetchDir("/srv", 1 << 40, "etcd_backup_fetch_dir: /srv is no directory"), "/srv is no directory"),
    ],
)
@pytest.mark.parametrize("host", ["infra0", "infra1"])
@pytest.mark.parametrize(
    ("operation", "wishes"),
    [
        ("backup", {}),
        ("remove", {"member": "infra2"}),
        ("replace", {"member": "infra2"}),
        ("restore", {"snapshot": WantedSnapshot("/srv/x.db", "ab" * 32), "replace_healthy_cluster": "etcd"}),
    ],
)
def test_a_directory_of_the_controller(
    operation: str, wishes: dict[str, Any], host: str, fetch: FetchDir, problem: str
) -> None:
    """What keeps the snapshot from being copied there is found before it is taken. Of the host that takes it, and of no run that takes none."""
    found = seen(up(leader=True), up(), DOWN if operation in ("remove", "replace") else up())
    data = {
        "name": "etcd",
        "members": [vars(member) for member in CLUSTER.members],
        "ca_host": "infra0",
        "problems": [],
        "warnings": [],
    }
    observed = {name: {**item, "cluster": data} for name, item in found.items()}
    for item in observed.values():
        item["etcd"]["database"] = {"size": 100 << 20}
    for wanted in (True, False):
        wish = Wish(operation=operation, fetch_dirs={host: fetch}, backup_before_change=wanted, **wishes)
        made = _run.plan_run("infra0", observed, [], wish)
        takes = wanted or operation == "backup"
        said = [text for text in made["problems"] if "etcd_backup_fetch_dir" in text]
        refused = bool(problem and takes and host == "infra1")
        assert len(said) == refused and problem in "".join(said or [problem])
        # A plan that is refused has no steps.
        assert made["settled"] is (refused or not made["steps"]) and len(made["problems"]) == refused
        assert made["snapshot"] == (["infra1"] if takes and not refused else [])
        # The stage that takes it is not in the run.
        assert _run.plan_run("infra0", observed, [], replace(wish, stages=("kubelet",)))["problems"] == []


def test_a_member_whose_database_is_not_known() -> None:
    """It answers without a quorum. The room for the copy cannot be told, beside what always stays free."""
    found = seen({**DOWN, "answers": True}, DOWN, FRESH)
    dirs = {"infra0": FetchDir("/srv", 16 << 20)}
    assert fetch_problems(["infra0", "infra9"], found, dirs) == []
    assert fetch_problems(["infra0"], found, {"infra0": FetchDir("/srv", 1)})


def test_what_a_directory_of_the_controller_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is made with its parents if it is missing."""
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path)
    for path in (tmp_path, tmp_path / "new", tmp_path / "new/a/../b", tmp_path / "there/", "relative"):
        found = check_fetch_dir(str(path))
        assert found.path == str(path) and found.free > 0 and found.problem == ""
    for path in ("file", "file/below/it", "link", "link/below"):
        name = tmp_path / Path(path).parts[0]
        words = f"etcd_backup_fetch_dir: {name} is not a directory of the controller. Name another"
        assert check_fetch_dir(str(tmp_path / path)).problem.startswith(words)
    assert sorted(os.listdir(tmp_path)) == ["file", "link", "there"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.access", lambda path, _mode: path != str(tmp_path / "there"))
        words = f"{tmp_path / 'there'} is not writable on the controller"
        assert words in check_fetch_dir(str(tmp_path / "there")).problem
        assert words in check_fetch_dir(str(tmp_path / "there/new/er")).problem

    def refuse(_path: str) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("shutil.disk_usage", refuse)
    assert "on the controller: Input/output error" in check_fetch_dir(str(tmp_path / "there")).problem


def test_the_timer_is_a_step_of_its_own() -> None:
    found = seen(*ALL_UP)
    found["infra2"]["reasons"]["backup"] = [
        {"part": "backup", "code": "new", "text": "the timer is installed", "restarts": False}
    ]
    made = plan(found, "converge")
    assert made["schedule"] == ["infra2"] and not made["settled"] and made["order"] == []
    assert any("the timer is installed" in line for line in made["lines"])


# --- Restore ---------------------------------------------------------------------------------------------------------

SNAPSHOT = WantedSnapshot("/srv/x.db", "ab" * 32)
TOKEN = restore_token(SNAPSHOT.identity, URLS, {"c1"}, NOW)
NEW = cluster_id(URLS, TOKEN)
RESTORED = {**DOWN, "cluster_id": NEW, "restored": True}


def three(*kinds: str) -> list[tuple[str, str]]:
    return [(kind, host) for kind in kinds for host in HOSTS]


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        # Quorum is gone: one member left, and two hosts from nothing.
        (seen(DOWN, FRESH, FRESH, ids="c--"), [*three("prepare"), ("stop", "infra0"), *three("replace_data")]),
        (seen(FRESH, FRESH, FRESH), three("prepare", "replace_data")),
        (seen(DOWN, DOWN, DOWN, ids="ccc"), three("prepare", "stop", "replace_data")),
    ],
)
def test_restore(found: dict[str, Any], expected: list[tuple[str, str]]) -> None:
    made = plan(found, "restore", snapshot=SNAPSHOT)
    assert made["problems"] == [] and steps(made) == expected and made["token"]
    words = {"prepare": "is restored beside", "stop": "etcd stops", "replace_data": "takes its place"}
    assert all(words[step["kind"]] in step["reasons"][0]["text"] for step in made["steps"])


def with_records(ids: list[str], *states: dict[str, Any], later: float = 1000.0) -> dict[str, Any]:
    """Hosts, some minutes after the run that has restored some of them."""
    found = seen(*states)
    for item, number in zip(found.values(), ids):
        item["etcd"]["record"] = {"cluster_id": number}
        item["facts"]["asked_at"] += later
    return found


def test_a_killed_restore_continues() -> None:
    """Hosts with the restored data are not restored again, even if their records are of the former cluster."""
    made = plan(with_records(["c1", "c1", "c1"], RESTORED, DOWN, DOWN), "restore", snapshot=SNAPSHOT)
    assert made["token"] == TOKEN and made["replace_data"] == ["infra1", "infra2"] == made["prepare"]
    # The running members are of the former cluster.
    found = with_records(["c1", "c1", "c1"], RESTORED, {**DOWN, "running": True, "cluster_id": "c1"}, DOWN)
    assert plan(found, "restore", snapshot=SNAPSHOT)["token"] == TOKEN
    # All have it and run: site.yml continues, and stopped API servers are started.
    running = [{**up(), "cluster_id": NEW, "running": True}] * 3
    for ids in (["c1", "c1", "c1"], [NEW, "c1", "c1"], [NEW, NEW, NEW]):
        made = plan(with_records(ids, *running), "restore", snapshot=SNAPSHOT)
        assert made["settled"] and made["problems"] == [] and made["token"] == TOKEN
    # Another snapshot has another token, and this one has the same for some hours.
    assert restore_token("cd" * 32, URLS, {NEW}, NOW) != TOKEN
    for steps_later, same in ((0, True), (59, True), (LASTS - 1, True), (LASTS, False), (-1, False)):
        assert (restore_token(SNAPSHOT.identity, URLS, {NEW, "c1"}, NOW + steps_later) == TOKEN) is same, steps_later


def test_a_restore_that_has_ended_is_not_continued() -> None:
    """Its members may have written since. Lost hosts must not get the older data of the snapshot, and form a quorum with it."""
    again = three("prepare", "stop", "replace_data")
    for ids, states in (
        ([NEW, "c1", "c1"], (RESTORED, DOWN, DOWN)),
        ([NEW, NEW, NEW], (RESTORED, DOWN, DOWN)),
        # It runs, without a quorum, and was not recorded yet.
        (["c1", "c1", "c1"], ({**RESTORED, "running": True}, DOWN, DOWN)),
    ):
        for later, moment in ((0.0, 1), (9.0, 1), (100.0, 10)):
            made = plan(with_records(ids, *states, later=later), "restore", snapshot=SNAPSHOT)
            assert made["problems"] == [] and steps(made) == again
            assert made["token"] == new_token(SNAPSHOT.identity, NOW + moment)
    # The same snapshot is restored once more, if the cluster is named.
    running = [{**up(), "cluster_id": NEW, "running": True}] * 3
    for ids, once_more in (([NEW, NEW, NEW], True), (["c1", "c1", "c1"], False)):
        made = plan(with_records(ids, *running), "restore", snapshot=SNAPSHOT, replace_healthy_cluster="etcd")
        assert made["problems"] == [] and bool(made["steps"]) is once_more and (made["token"] == TOKEN) is not once_more


def test_no_revision_is_used_twice() -> None:
    """Not even if the same or an older snapshot is restored after a million writes."""
    later = new_token(SNAPSHOT.identity, NOW + 1)
    first = 51234 + bump_of(TOKEN, 51234)
    assert first == NOW * SECONDS * 1_000_000 and bump_of(TOKEN, 51234) > BUMP
    for revision in (51234, 60, 70000):
        assert revision + bump_of(later, revision) == first + 10_000_000
    # Of a snapshot that was taken after the first restore.
    assert bump_of(later, first + 1_000_000) == BUMP
    # Far below the limit of etcd, and exact in JavaScript and Prometheus.
    assert first * 4 < 1 << 53


def test_a_healthy_cluster_is_replaced_if_it_is_named() -> None:
    found = seen(*ALL_UP, ids="ccc")
    assert "is healthy (infra0, infra1, infra2)" in plan(found, "restore", snapshot=SNAPSHOT)["problems"][0]
    assert plan(found, "restore", snapshot=SNAPSHOT, replace_healthy_cluster="etc")["problems"]
    made = plan(found, "restore", snapshot=SNAPSHOT, replace_healthy_cluster="etcd", backup_before_change=True)
    assert made["problems"] == [] and steps(made)[0] == ("snapshot", "infra1")
    # Half of the cluster was restored and runs.
    found = seen({**up(leader=True), "cluster_id": NEW}, {**up(), "cluster_id": NEW}, DOWN)
    for item in found.values():
        item["etcd"]["record"] = {"cluster_id": "c1"}
    assert "was already restored from this snapshot" in plan(found, "restore", snapshot=SNAPSHOT)["problems"][0]


def test_warnings_about_the_snapshot_before_a_restore() -> None:
    found = seen(*ALL_UP, ids="ccc")
    for item in found.values():
        item["etcd"]["members"] = [
            *item["etcd"]["members"],
            {"id": "9", "name": "infra9", "peer_urls": ["https://10.0.0.99:2380"], "client_urls": ["u"]},
        ]
    made = plan(found, "restore", snapshot=SNAPSHOT, replace_healthy_cluster="etcd", backup_before_change=True)
    assert made["snapshot"] and [text for text in made["notices"] if "former cluster" in text] == [
        text for text in made["notices"] if "member infra9 of" in text
    ]


def test_the_play_calls_the_same_function() -> None:
    found = seen(DOWN, DOWN, DOWN, ids="ccc")
    data = {
        "name": "etcd",
        "members": [vars(m) for m in CLUSTER.members],
        "ca_host": "infra0",
        "problems": [],
        "warnings": [],
    }
    observed = {host: {**item, "cluster": data} for host, item in found.items()}
    made = _run.plan_run("infra0", observed, [], Wish(operation="restore", snapshot=SNAPSHOT))
    assert made["replace_data"] == HOSTS and made["token"]


def test_refused() -> None:
    assert "infra2 could not be observed" in plan(seen(DOWN, DOWN, None), "restore", snapshot=SNAPSHOT)["problems"][0]
    made = plan(seen(DOWN, DOWN, DOWN), "restore", snapshot=WantedSnapshot("/x", problem="/x is cut off"))
    assert made["problems"] == ["/x is cut off"] and made["steps"] == []
    unknown = seen(DOWN, DOWN, DOWN)
    unknown["infra1"]["config"] = None
    assert "infra1" in plan(unknown, "restore", snapshot=SNAPSHOT)["problems"][0]


@pytest.mark.parametrize(("code", "counts"), [("record", True), ("programs", True), ("unreadable-data", False)])
def test_problems_of_a_host_that_matter(code: str, counts: bool) -> None:
    found = seen(DOWN, DOWN, DOWN)
    found["infra1"]["problems"] = [{"text": "wrong", "stops": list(PROCESSES), "code": code}]
    assert plan(found, "restore", snapshot=SNAPSHOT)["problems"] == (["infra1: wrong"] if counts else [])


def test_problems_that_prevent_a_start_are_found_before_any_member_stops() -> None:
    """Otherwise the run would refuse to start the restored members, and the cluster would stay down."""
    found = seen(DOWN, DOWN, DOWN, ids="ccc")
    found["infra1"]["problems"] = [{"text": "the disk is full.", "stops": ["start"], "code": "disk"}]
    made = plan(found, "restore", snapshot=SNAPSHOT)
    assert made["problems"] == ["infra1: the disk is full."] and made["steps"] == []
    # What stops certificates only does not matter here, nor data that is archived unread.
    found["infra1"]["problems"] = [
        {"text": "the clock is off.", "stops": ["sign"], "code": "clock"},
        {"text": "the data cannot be judged.", "stops": ["found", "start", "restart"], "code": "unreadable-data"},
    ]
    assert plan(found, "restore", snapshot=SNAPSHOT)["problems"] == []
    found["infra0"]["pki"]["ca_id"] = None
    assert "etcd/ca.crt is missing" in plan(found, "restore", snapshot=SNAPSHOT)["problems"][0]


@pytest.mark.parametrize(
    ("name", "warned"),
    [
        ("etcd-20261127T090000Z-r51234.db", False),
        ("other-20261127T090000Z-r51234.db", True),
        ("db", False),
    ],
)
def test_a_snapshot_of_another_cluster(name: str, warned: bool) -> None:
    """Which may be wanted."""
    snapshot = WantedSnapshot(f"/srv/{name}", "ab" * 32)
    made = plan(seen(FRESH, FRESH, FRESH), "restore", snapshot=snapshot)
    assert made["problems"] == [] and steps(made)
    assert any("is a snapshot of cluster" in text for text in made["notices"]) is warned, made["notices"]


def test_a_snapshot_from_the_middle_of_a_downgrade(tmp_path: Path) -> None:
    """The description beside it tells. The plan says what becomes of it, before anything stops."""
    path = tmp_path / "x.db"
    path.write_bytes(database() + bytes(32))
    assert wanted_snapshot(str(path), "restore").description == {}
    size = path.stat().st_size - 32
    taken = Snapshot("etcd", 1.8e9, 5, size, "00" * 32, downgrade="3.6")
    named = path.rename(tmp_path / taken.file_name)
    named.with_name(f"{named.name}.json").write_text(taken.as_text())
    snapshot = wanted_snapshot(str(named), "restore")
    made = plan(seen(DOWN, DOWN, DOWN), "restore", snapshot=snapshot)
    (said,) = (text for text in made["notices"] if "a downgrade to 3.6 was under way" in text)
    assert "-e etcd_downgrade=cancel" in said and made["problems"] == []
    made = plan(seen(DOWN, DOWN, DOWN), "restore", snapshot=SNAPSHOT)
    assert not any("downgrade" in text for text in made["notices"])


def database(extra: bytes = b"") -> bytes:
    """The beginning of a bbolt file, and some pages."""
    meta = b"\0" * 16 + (0xED0CDAED).to_bytes(4, "little")
    return (meta.ljust(4096, b"\0") + extra).ljust(20480, b"\0")


CONTENTS = {text: database(text.encode()) for text in ("this", "other")}


@pytest.mark.parametrize(
    ("file", "description", "content", "expected"),
    [
        # Name, content that is described, content of the file: whether the description is used; None if the snapshot is refused.
        ("etcd-20270115T080000Z-r5.db", "this", "this", True),
        ("renamed.db", "this", "this", True),
        ("etcd-20270115T080000Z-r5.db", "this", "other", None),
        ("etcd-20270115T080000Z-r5.db", "this", "cut off", None),
        ("etcd-20270115T080000Z-r5.db", "this", "without a digest", None),
        ("renamed.db", "this", "other", False),
        ("etcd-20270115T080000Z-r6.db", "this", "other", False),
        # Of an older delivery, or damaged.
        ("etcd-20270115T080000Z-r5.db", None, "this", False),
        ("etcd-20270115T080000Z-r5.db", "{", "this", False),
        ("etcd-20270115T080000Z-r5.db", '{"taken": 1e30}', "this", False),
        ("etcd-20270115T080000Z-r5.db", "a pipe", "this", False),
    ],
)
@pytest.mark.parametrize("operation", ["restore", "drill"])
def test_the_description_of_a_delivered_snapshot(
    tmp_path: Path, operation: str, file: str, description: str | None, content: str, expected: bool | None
) -> None:
    """It counts if it is of this file, which may have another name. One of this name and another content means that the file was exchanged."""
    path = tmp_path / file
    data = CONTENTS["other" if content == "other" else "this"]
    digest = b"" if content == "without a digest" else hashlib.sha256(data).digest()
    path.write_bytes((data[:-512] if content == "cut off" else data) + digest)
    beside = tmp_path / f"{file}.json"
    described = CONTENTS["this"]
    taken = Snapshot("etcd", 1.8e9, 5, len(described), hashlib.sha256(described).hexdigest(), key_count=3)
    if description == "a pipe":
        os.mkfifo(beside)
    elif description:
        beside.write_text(taken.as_text() if description == "this" else description)
    found = wanted_snapshot(str(path), operation)
    made = plan(seen(DOWN, DOWN, DOWN, ids="ccc"), operation, snapshot=found)
    assert bool(found.problem) is (expected is None) is bool(made["problems"]) and found.path == str(path)
    assert (found.description.get("key_count") == 3) is bool(expected)
    if expected is None:
        assert f"{path} is not the snapshot that {path}.json describes" in made["problems"][0] and made["settled"]
    elif operation == "drill":
        assert made["description"] == (asdict(taken) if expected else {})
    else:
        assert made["identity"] == hashlib.sha256(data).hexdigest()


def test_a_description_is_no_snapshot(tmp_path: Path) -> None:
    """It is the last file in the directory of copies."""
    path = tmp_path / "etcd-20270115T080000Z-r5.db.json"
    path.write_text("{}")
    assert wanted_snapshot(str(path), "restore").problem.endswith(f"Name the file beside it: {str(path)[:-5]}")


def test_the_image_archive_is_imported_before_anything_stops() -> None:
    """On hosts that lack the image: after the restore, no member could be started there."""
    found = seen(DOWN, DOWN, DOWN, ids="ccc")
    for host, images in (("infra0", ["x"]), ("infra1", []), ("infra2", ["y"])):
        found[host]["images"] = images
    made = plan(found, "restore", snapshot=SNAPSHOT, image_archive="/srv/etcd.tar")
    assert made["image"] == ["infra1", "infra2"] and steps(made)[:3] == [
        ("image", "infra1"),
        ("image", "infra2"),
        ("prepare", "infra0"),
    ]
    assert plan(found, "restore", snapshot=SNAPSHOT)["image"] == []
    view = View(CLUSTER, found, HOSTS, archive_problems=lambda images: [f"/srv/etcd.tar lacks {sorted(set(images))}"])
    refused = _restore.plan(view, Wish(operation="restore", snapshot=SNAPSHOT, image_archive="/srv/etcd.tar"))
    assert refused["problems"] == ["/srv/etcd.tar lacks ['x']"]
    # Nothing is to be restored.
    done = with_records([NEW, NEW, NEW], *[{**up(), "cluster_id": NEW, "running": True}] * 3)
    made = _restore.plan(replace(view, observations=done), Wish("restore", snapshot=SNAPSHOT, image_archive="/srv/x"))
    assert made["problems"] == [] and made["image"] == []


def test_one_snapshot_for_one_cluster() -> None:
    found = seen(DOWN, DOWN, DOWN)
    view = View(CLUSTER, found, HOSTS, clusters=dict.fromkeys(("etcd", "other"), (CLUSTER, found)))
    made = _restore.plan(view, Wish(operation="restore", snapshot=SNAPSHOT))
    assert "the clusters etcd, other" in made["problems"][0] and made["steps"] == []


def test_a_member_that_the_inventory_lacks_is_named() -> None:
    found = seen(DOWN, DOWN, DOWN)
    found["infra0"]["etcd"]["members"] = [
        {"id": "9", "name": "infra9", "peer_urls": ["https://10.0.0.99:2380"], "client_urls": ["u"]}
    ]
    assert any("infra9" in text for text in plan(found, "restore", snapshot=SNAPSHOT)["notices"])


def test_a_drill_takes_the_newest_snapshot() -> None:
    found = seen(up(leader=True), up(), DOWN)
    made = plan(found, "drill")
    assert made["settled"] and "has a snapshot. Take one" in made["problems"][0]
    for number, host in enumerate(HOSTS):
        found[host]["backup"]["newest"] = [{"age": 100.0 + number, "revision": 5, "file": f"{number}.db"}]
    made = plan(found, "drill")
    assert made["rehearse"] == ["infra0"] and "0.db is restored into a throw-away member" in made["lines"][1]
    # The age is that of the clock which gave the time. One from the future is no evidence, however large its revision is.
    for ages, revisions, expected in (
        ((-9e7, 100.0, 50.0), (9, 5, 5), "infra2"),
        ((-200.0, 100.0, 50.0), (5, 5, 5), "infra0"),
        ((50.0, 50.0, 50.0), (5, 7, 6), "infra1"),
        ((-9e7, -8e7, -7e7), (5, 5, 5), "infra0"),
    ):
        for host, age, revision in zip(HOSTS, ages, revisions):
            found[host]["backup"]["newest"][0].update(age=age, revision=revision)
        assert plan(found, "drill")["rehearse"] == [expected], ages
    made = plan(found, "drill", snapshot=SNAPSHOT)
    assert "/srv/x.db is restored" in made["lines"][1] and made["token"]


def with_meta(pages: int, older: int = 0, page_size: int = 4096) -> bytes:
    """A database with two meta pages, the second one newer unless it is damaged (older: 0)."""
    found = b""
    for number, (count, transaction) in enumerate(((older or pages, 7), (pages if older else 9000, 8))):
        data = struct.pack("<4I5Q", 0xED0CDAED, 2, page_size, 0, 3, 0, 2, count, transaction)
        checksum = functools.reduce(lambda h, byte: (h ^ byte) * 0x100000001B3 % (1 << 64), data, 0xCBF29CE484222325)
        found += (b"\0" * 16 + data + (checksum + (not older and number)).to_bytes(8, "little")).ljust(page_size, b"\0")
    return found.ljust(pages * page_size, b"\0")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (with_meta(8), True),
        (with_meta(8, 5), True),
        (with_meta(8, 5, 8192), True),
        (with_meta(8) + b"x" * 32, False),
        # A copy that was cut off at the end of a page, or one digest after it.
        (with_meta(8)[: 7 * 4096], "cut off"),
        (with_meta(8, 5)[: 7 * 4096], "cut off"),
        (with_meta(8, 5, 8192)[: 15 * 4096], "cut off"),
        (with_meta(8)[: 7 * 4096 + 32], "cut off"),
        (database() + hashlib.sha256(database()).digest(), False),
        (database(), True),
        (database()[:-1], "cut off"),
        (database() + b"x" * 31, "cut off"),
        (b"\x30\x80" + b"x" * 5000, "encrypted"),
        (b"", "not a snapshot"),
        (b"hello", "not a snapshot of etcd. Name a file that backup.yml has made"),
        (None, "cannot be read"),
    ],
)
def test_what_a_file_is(tmp_path: Path, content: bytes | None, expected: bool | str) -> None:
    path = tmp_path / "x.db"
    if content is not None:
        path.write_bytes(content)
    if isinstance(expected, bool):
        found = read_snapshot_file(str(path))
        assert found.is_database == expected and len(found.identity) == 64
        assert wanted_snapshot(str(path), "restore").identity == found.identity
    else:
        with pytest.raises(EtcdError, match=expected):
            read_snapshot_file(str(path))
        assert expected in wanted_snapshot(str(path), "drill").problem
    assert wanted_snapshot("", "drill") == wanted_snapshot("/x", "converge") == WantedSnapshot()
    assert "is not set" in wanted_snapshot("", "restore").problem


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_no_file(tmp_path: Path, make: Callable[[str], None]) -> None:
    path = str(tmp_path / "x.db")
    make(path)
    assert (
        wanted_snapshot(path, "restore").problem == f"{path} is not a file. Name a snapshot that backup.yml has made."
    )


def test_keys_of_kubernetes(tmp_path: Path) -> None:
    """Also where two pieces meet."""
    path = tmp_path / "x.db"
    for content, expected in ((b"x" * 100, False), (b"x" * ((1 << 20) - 4) + b"/registry/pods", True)):
        path.write_bytes(content)
        assert has_kubernetes(str(path)) == expected
