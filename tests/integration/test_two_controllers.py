"""Two controllers roll different changes on one cluster at the same moment: never two members down, and no write is lost.

KUBEADM_ETCD_RACES=2 tries two offsets instead of twenty.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import threading
import time

import pytest

from .conftest import LAB, Lab, Run
from .said import GIVES_WAY
from .test_live import flat, healthy, writing

pytestmark = pytest.mark.long

RACES = int(os.environ.get("KUBEADM_ETCD_RACES", "20"))

# Prints a line with the time whenever etcd of the host has started or stopped.
WATCH = (
    "import os, sys, threading, time\n"
    "done = threading.Event()\n"
    "threading.Thread(target=lambda: (sys.stdin.read(), done.set()), daemon=True).start()\n"
    "def runs():\n"
    "    for pid in filter(str.isdigit, os.listdir('/proc')):\n"
    "        try:\n"
    "            if open(f'/proc/{pid}/comm').read().strip() == 'etcd':\n"
    "                return True\n"
    "        except OSError:\n"
    "            pass\n"
    "    return False\n"
    "before = None\n"
    "while not done.is_set():\n"
    "    now = runs()\n"
    "    if now != before:\n"
    "        print(time.time(), int(now), flush=True)\n"
    "        before = now\n"
    "    time.sleep(0.1)\n"
    "print(time.time(), 1)\n"
)


class Watch:
    """Records on all hosts when etcd does not run. The hosts share one clock."""

    def __init__(self, cluster: Lab) -> None:
        self.cluster = cluster
        self.down: dict[str, list[tuple[float, float]]] = {}

    def __enter__(self) -> Watch:
        self.processes = {}
        for host in self.cluster.hosts:
            argv = [str(LAB), "exec", "--name", self.cluster.name, host, "--", "python3", "-c", WATCH]
            self.processes[host] = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        return self

    def __exit__(self, *_: object) -> None:
        for host, process in self.processes.items():
            out, _err = process.communicate(timeout=30)
            seen = [(float(line.split()[0]), line.split()[1] == "1") for line in out.splitlines()]
            self.down[host] = [(begin, end) for (begin, up), (end, _up) in zip(seen, seen[1:]) if not up]

    def together(self) -> list[tuple[str, str, float]]:
        """Pairs of hosts whose etcd did not run at the same time, and for how many seconds."""
        found = []
        for one in self.cluster.hosts:
            for other in (host for host in self.cluster.hosts if host > one):
                for begin, end in self.down[one]:
                    for start, stop in self.down[other]:
                        if min(end, stop) > max(begin, start):
                            found.append((one, other, min(end, stop) - max(begin, start)))
        return found


@pytest.mark.parametrize("number", range(RACES))
def test_two_controllers(cluster: Lab, number: int) -> None:
    """Each run succeeds, or reports that the other one is at work. The next run finishes the rest."""
    chance = random.Random(os.urandom(8))
    offset = chance.choice([0.0, chance.uniform(0, 3), chance.uniform(0, 60)])
    counts = [str(50000 + 1000 * number + 10 * which + chance.randrange(9)) for which in range(2)]
    runs: dict[int, Run] = {}

    def roll(which: int) -> None:
        runs[which] = cluster.play(
            "-e", json.dumps({"etcd_extra_args": {"snapshot-count": counts[which]}}), timeout=900
        )

    threads = [threading.Thread(target=roll, args=(which,)) for which in range(2)]
    with writing(cluster, f"race{number}-{time.monotonic_ns()}") as counted, Watch(cluster) as watch:
        threads[0].start()
        time.sleep(offset)
        threads[1].start()
        for thread in threads:
            thread.join()
    said = [flat(runs[which].output) for which in range(2)]
    print(f"offset {offset:.1f} s: {[run.code for run in runs.values()]}, down {watch.down}, {counted}")
    assert counted["lost"] == 0 and counted["nowhere"] == 0, (offset, counted)
    assert watch.together() == [], (offset, watch.down)
    for which in range(2):
        assert "Traceback" not in said[which]
        assert runs[which].code == 0 or GIVES_WAY.search(said[which]), runs[which].output[-6000:]
    assert healthy(cluster)
    change = ("-e", json.dumps({"etcd_extra_args": {"snapshot-count": counts[1]}}))
    cluster.site(*change)
    assert cluster.site(*change).changed() == {}
