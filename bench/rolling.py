#!/usr/bin/env python3
"""Measures rolling changes against changes by hand, and reruns with more members and clusters.

usage: bench/rolling.py [--sizes 1x3,1x5,1x7,3x3,6x3] [--output bench/results/rolling.json]

Sizes are CLUSTERSxMEMBERS. For the first size it measures
- a rolling change of all members by site.yml, against the time of one member whose manifest is edited by hand, times the members;
- the longest gap between two writes during a rolling change, against a quiet time of the same length (no limit: mostly noise).
For each size it measures a run with nothing to do, and a rolling change of all members, as ratios to the first size. The run with nothing to do
is also compared with a run over one cluster alone. Ratios taken in one run can be compared between machines. The exit status is 1 if a
limit is exceeded.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench import LAB, ROOT, lab, say, site

NAME = "bench"
WRITER = ROOT / "tests" / "integration" / "writer.py"

HAND = r"""
set -eu
manifest=/etc/kubernetes/manifests/etcd.yaml
old=$(pgrep -xo etcd)
sed 's/--snapshot-count=[0-9]*/--snapshot-count=%d/' $manifest > /etc/kubernetes/etcd.new
mv /etc/kubernetes/etcd.new $manifest
while new=$(pgrep -xo etcd || true); [ -z "$new" ] || [ "$new" = "$old" ] || ! python3 -c "
import urllib.request
urllib.request.urlopen('http://127.0.0.1:2381/readyz', timeout=2)" 2>/dev/null; do sleep 0.2; done
"""


def inventory(members: int, path: Path, more: str = "") -> dict[str, str]:
    """Write the lab's inventory with its hosts in clusters of so many members, and `more` variables. Address by host."""
    text = Path(lab("inventory", "--name", NAME, "--path").strip()).read_text(encoding="utf-8")
    hosts = dict(re.findall(r'^    (\S+):\n      ansible_host: "(.+)"$', text, flags=re.MULTILINE))
    for number, host in enumerate(hosts):
        text = text.replace(f"    {host}:\n", f"    {host}:\n      etcd_cluster_name: c{number // members}\n")
    # It ends with the variables of all hosts.
    path.write_text(text + more, encoding="utf-8")
    return hosts


def longest_gap(hosts: dict[str, str], prefix: str, meanwhile: Callable[[], object]) -> float:
    """The longest time between two acknowledged writes to a cluster, in seconds, while something else is done."""
    urls = [f"https://{address}:2379" for address in hosts.values()]
    writer = ["python3", "-c", WRITER.read_text(encoding="utf-8"), prefix, *urls]
    argv = [str(LAB), "exec", "--name", NAME, next(iter(hosts)), "--", *writer]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            meanwhile()
        finally:
            # It writes until its input ends.
            out, _ = process.communicate(timeout=60)
    if process.returncode != 0:
        sys.exit(f"bench: the writer ended with {process.returncode}")
    return float(json.loads(out.splitlines()[-1])["gap"])


def change(members: int, path: Path) -> float:
    """Seconds of a run that changes the manifests of all members."""
    inventory(members, path, '    etcd_extra_args: {snapshot-count: "30000"}\n')
    return float(site(str(path), path.parent, "changed")["seconds"])


def roll(members: int, hosts: dict[str, str], path: Path) -> dict[str, Any]:
    """Rolling changes: one against changes by hand, and one that a client writes through. Everything runs on one machine."""
    hand = []
    for number, host in enumerate(hosts):
        begin = time.monotonic()
        lab("exec", "--name", NAME, host, "--", "bash", "-c", HAND % (20000 + number))
        hand.append(time.monotonic() - begin)
    # All manifests differ now: the run restarts the members one after the other.
    time.sleep(10)
    rolling = site(str(path), path.parent, "rolling")["seconds"]
    # A separate change, since a client that writes would slow down the measured one.
    first = dict(list(hosts.items())[:members])
    changing = longest_gap(first, "changing", lambda: change(members, path))
    quiet = longest_gap(first, "quiet", lambda: time.sleep(rolling))
    say(f"    longest write gap: {quiet} s, in a rolling change {changing} s")
    return {
        "by_hand_seconds": [round(item, 2) for item in hand],
        "rolling_seconds": rolling,
        "ratio_rolling_to_by_hand": round(rolling / sum(hand), 3),
        "write_gap_quiet_seconds": quiet,
        "write_gap_rolling_seconds": changing,
        "ratio_write_gap_rolling_to_quiet": round(changing / max(quiet, 0.01), 1),
    }


def in_the_middle(path: Path, folder: Path, *arguments: str) -> dict[str, Any]:
    """The median of three runs with nothing to do, which differ by a tenth."""
    runs = [site(str(path), folder, "again", *arguments) for _ in range(3)]
    return sorted(runs, key=lambda run: float(run["seconds"]))[1]


def measure(clusters: int, members: int, first: bool, folder: Path) -> dict[str, Any]:
    """One size, on fresh hosts that are taken down afterwards."""
    say(f"{clusters} cluster(s) of {members} members")
    path = folder / "inventory.yml"
    try:
        lab("up", "--name", NAME, "--hosts", str(clusters * members))
        hosts = inventory(members, path)
        cold = site(str(path), folder, "cold")
        again = in_the_middle(path, folder)
        say(f"    cold {cold['seconds']} s, again {again['seconds']} s")
        # One cluster alone, while the others run: they use the machine even when idle.
        alone = in_the_middle(path, folder, "--limit", ",".join(list(hosts)[:members])) if clusters > 1 else again
        return {
            "clusters": clusters,
            "members": members,
            "cold_seconds": cold["seconds"],
            "again_seconds": again["seconds"],
            "ratio_again_to_one_of_them": round(again["seconds"] / alone["seconds"], 2),
            "ratio_again_to_cold": round(again["seconds"] / cold["seconds"], 3),
            "again_module_runs": max(again["module_runs"].values()),
            "again_changed": again["changed"],
            **(roll(members, hosts, path) if first else {"rolling_seconds": change(members, path)}),
        }
    finally:
        lab("down", "--name", NAME)


def limits(found: list[dict[str, Any]]) -> list[tuple[str, float, float]]:
    """For each limit its name, the measured value and the maximum."""
    first = found[0]
    judged = [
        ("rolling : by hand", first["ratio_rolling_to_by_hand"], 1.25),
        ("again : cold", first["ratio_again_to_cold"], 0.3),
    ]
    for item in found:
        size = f"{item['clusters']}x{item['members']}"
        judged.append((f"module runs per host again, {size}", item["again_module_runs"], 8))
        if (item["clusters"], item["members"]) == (6, 3):
            # With fewer processors than hosts, forks do not help: the limit is then the time of six clusters one after the other.
            most = 3 if (os.cpu_count() or 1) >= item["clusters"] * item["members"] else item["clusters"]
            judged.append((f"again {size} : again one of them", item["ratio_again_to_one_of_them"], most))
    return judged


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="1x3,1x5,1x7,3x3,6x3")
    parser.add_argument("--output", type=Path, default=ROOT / "bench" / "results" / "rolling.json")
    arguments = parser.parse_args()
    os.environ.setdefault("ANSIBLE_FORKS", "20")
    sizes = [tuple(int(part) for part in size.split("x")) for size in arguments.sizes.split(",")]
    with tempfile.TemporaryDirectory() as text:
        found = [measure(clusters, members, not number, Path(text)) for number, (clusters, members) in enumerate(sizes)]
    for item in found:
        for what in ("again", "rolling"):
            item[f"ratio_{what}_to_first"] = round(item[f"{what}_seconds"] / found[0][f"{what}_seconds"], 2)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=2))
    say(f"longest write gap, rolling : quiet = {found[0]['ratio_write_gap_rolling_to_quiet']} (no limit)")
    judged = limits(found)
    for name, value, most in judged:
        say(f"{name} = {value} (at most {most})")
    broken = [name for name, value, most in judged if value > most]
    if broken:
        sys.exit(f"bench: limits are exceeded: {'; '.join(broken)}")


if __name__ == "__main__":
    main()
