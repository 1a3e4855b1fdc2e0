"""Runs that are interrupted: killed at every task, by a lost connection, by a reboot. The next run finishes the work.

All of them take minutes: `make test-long`. A sweep has parts, so that it can be stopped and go on. KUBEADM_ETCD_SWEEP=5 tries every fifth task only.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .conftest import Lab, Run, different
from .test_live import healthy, writing

pytestmark = pytest.mark.long

STEP = int(os.environ.get("KUBEADM_ETCD_SWEEP", "1"))

# The end state of a normal run: names, modes and owners of the files of the collection and of kubeadm.
FILES = "find /etc/kubernetes /etc/systemd/system/kubelet.service.d -printf '%p %y %m %U:%G\\n' | LC_ALL=C sort"


def files(lab: Lab) -> dict[str, str]:
    """The end state of each host. Locks and the manifest before the last change may be there or not."""
    found = {host: lab.sh(host, FILES).splitlines() for host in lab.hosts}
    return {
        host: "\n".join(line for line in lines if "/lock" not in line and ".previous " not in line)
        for host, lines in found.items()
    }


def in_parts(count: int) -> Any:
    """Parts of a sweep: the numbers of ten tasks each, the last part has all that follow."""
    parts = [range(1 + 10 * i, 11 + 10 * i if i + 1 < count else 1000) for i in range(count)]
    return pytest.mark.parametrize("part", parts, ids=[f"from_{part.start}" for part in parts])


def tasks_of(part: range, total: int) -> range:
    """The tasks of a part of a sweep at which a run of so many tasks is killed."""
    return range(part.start, min(part.stop, total + 1), STEP)


def killed_at(
    lab: Lab, tmp_path: Path, number: int | str, *arguments: str, after: str = "", **how: str
) -> tuple[Run, int]:
    """A run that is killed at a task (0: never), and how many tasks had begun.

    number: of the task, or its name. after: seconds into it. how: playbook and inventory, if they are others.
    """
    if not after:
        # Between two tasks, and while one is at work on the hosts.
        after = "0.7" if int(number) // STEP % 2 else "0"
    count = tmp_path / "count"
    run = lab.play(
        *arguments,
        KILL_AT=str(number),
        KILL_AFTER=after,
        KILL_COUNT=str(count),
        KILL_MARKER=f"kill-{os.getpid()}-{number}",
        ANSIBLE_CALLBACK_PLUGINS=str(Path(__file__).with_name("callback")),
        ANSIBLE_CALLBACKS_ENABLED="kill_at",
        **how,
    )
    # It may be killed while it writes.
    return run, int(count.read_text(encoding="utf-8") or 0)


def unchanged(lab: Lab, before: tuple[dict[str, list[str]], dict[str, str]]) -> bool:
    """Whether a run has changed nothing. Then the next run would be the same, and is skipped."""
    return not different(before[0], lab.fingerprint()) and before[1] == lab.containers()


def check_secrets(lab: Lab) -> None:
    """No key where none belongs."""
    for host in lab.hosts:
        assert lab.sh(host, "grep -rlsI 'PRIVATE KEY' /tmp /root /home /var/tmp /run || true") == ""
        assert lab.sh(host, "find /etc/kubernetes -name pending -o -name '.kubeadm-etcd*'") == ""
        strays = lab.sh(host, "find /etc/kubernetes -name '*.key' ! -perm 600")
        assert strays == "" and lab.sh(host, "ls /etc/kubernetes/pki/etcd").split().count("ca.key") == (
            host == "infra0"
        )


@in_parts(3)
def test_a_first_run_that_is_killed(lab: Lab, tmp_path: Path, part: range) -> None:
    """At every task of a first run."""
    lab.fresh()
    run, total = killed_at(lab, tmp_path, 0)
    assert run.code == 0 and total > 20, run.output[-3000:]
    wanted = files(lab)
    killed = finished = 0
    lab.fresh()
    before = lab.fingerprint(), lab.containers()
    for number in tasks_of(part, total):
        run, _begun = killed_at(lab, tmp_path, number)
        killed += run.code != 0
        if unchanged(lab, before):
            continue
        finished += 1
        again = lab.play()
        assert again.code == 0, f"killed at task {number}:\n{run.output[-1500:]}\nand again:\n{again.output[-6000:]}"
        assert healthy(lab) and files(lab) == wanted, number
        assert lab.site().changed() == {}, number
        check_secrets(lab)
        lab.fresh()
        before = lab.fingerprint(), lab.containers()
    # The last tasks may end before their time.
    assert killed >= len(tasks_of(part, total)) - 3
    # The cluster that other tests expect.
    lab.site()
    print(f"cold run, tasks {part}: killed at {killed} of {total}, {finished} of them with something left to finish")


@in_parts(3)
def test_a_rolling_change_that_is_killed(cluster: Lab, tmp_path: Path, part: range) -> None:
    """At every task of a rolling change, while a client writes."""
    cluster.site()
    run, total = killed_at(cluster, tmp_path, 0, "-e", '{"etcd_extra_args": {"snapshot-count": "20000"}}')
    assert run.code == 0, run.output[-3000:]
    worst, killed, finished = 0.0, 0, 0
    for number in tasks_of(part, total):
        change = ("-e", f'{{"etcd_extra_args": {{"snapshot-count": "{30000 + number}"}}}}')
        before = cluster.fingerprint(), cluster.containers()
        with writing(cluster, f"sweep{number}") as counted:
            run, _begun = killed_at(cluster, tmp_path, number, *change)
            killed += run.code != 0
            left = not unchanged(cluster, before)
            again = cluster.play(*change) if left else run
        assert counted["lost"] == 0 and counted["nowhere"] == 0, (number, counted)
        worst = max(worst, counted["gap"])
        if not left:
            continue
        finished += 1
        assert again.code == 0, f"killed at task {number}:\n{run.output[-1500:]}\nand again:\n{again.output[-6000:]}"
        for host in cluster.hosts:
            assert f"snapshot-count={30000 + number}" in cluster.sh(host, "cat /etc/kubernetes/manifests/etcd.yaml")
        assert healthy(cluster) and cluster.site(*change).changed() == {}, number
        check_secrets(cluster)
    # The last tasks may end before their time.
    assert killed >= len(tasks_of(part, total)) - 3
    print(
        f"rolling change, tasks {part}: killed at {killed} of {total}, {finished} with something left to finish, longest gap between two writes {worst} s"
    )
    cluster.site()


def lose_connection(lab: Lab) -> None:
    # Not this very command.
    lab.sh("infra1", "pkill -KILL -f '[s]shd: root' || true")


def reboot(lab: Lab) -> None:
    lab("stop", "infra1")
    lab("start", "infra1")


@pytest.mark.parametrize("accident", [lose_connection, reboot], ids=["connection lost", "host reboots"])
@pytest.mark.parametrize("seconds", [4, 10, 20, 30])
def test_a_lost_connection_or_a_reboot(cluster: Lab, accident: Callable[[Lab], None], seconds: int) -> None:
    """On one host, in the middle of a rolling change."""
    change = ("-e", f'{{"etcd_extra_args": {{"snapshot-count": "{40000 + int(time.time()) % 9999}"}}}}')
    with writing(cluster, f"accident{time.monotonic_ns()}") as counted:
        runs: list[Run] = []
        thread = threading.Thread(target=lambda: runs.append(cluster.play(*change)))
        thread.start()
        time.sleep(seconds)
        accident(cluster)
        thread.join()
        # A host that boots needs its moment; until then a run says that it cannot be reached.
        deadline = time.monotonic() + 180
        again = cluster.play(*change)
        while again.code != 0 and time.monotonic() < deadline:
            again = cluster.play(*change)
    assert again.code == 0, f"{runs[0].output[-3000:]}\nand again:\n{again.output[-6000:]}"
    assert counted["lost"] == 0 and healthy(cluster), counted
    # A host that reboots while another member restarts breaks quorum until it has booted.
    assert counted["nowhere"] == 0 or accident is reboot, counted
    assert cluster.site(*change).changed() == {}
    cluster.site()
