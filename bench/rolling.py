#!/usr/bin/env python3
"""What a living cluster costs: a rolling change against changes by hand, and reruns with more members and clusters.

usage: bench/rolling.py [--sizes 1x3,1x5,1x7,3x3,6x3] [--output bench/results/rolling.json]

Sizes are CLUSTERSxMEMBERS. For the first of them: seconds of a rolling change of all members by site.yml (the run included)
against as many times the seconds that one member takes to come back when its manifest is edited by hand. For each of them:
seconds of a run with nothing to do, as a ratio to the first. Ratios taken in one run can be compared between machines.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from bench import ROOT, lab, say, site

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


def inventory(name: str, members: int, folder: Path) -> tuple[str, list[str]]:
    """The lab's inventory with its hosts in clusters of so many members, and its hosts."""
    text = Path(lab("inventory", "--name", name, "--path").strip()).read_text(encoding="utf-8")
    lines: list[str] = []
    hosts: list[str] = []
    for line in text.splitlines():
        lines.append(line)
        if line.startswith("    ") and line[4] != " " and line.rstrip().endswith(":"):
            hosts.append(line.strip().rstrip(":"))
            lines.append(f"      etcd_cluster_name: c{(len(hosts) - 1) // members}")
    path = folder / "inventory.yml"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(path), hosts


def measure(clusters: int, members: int, roll: bool, folder: Path) -> dict[str, Any]:
    """One size, on fresh hosts that are taken down afterwards."""
    name = "bench"
    say(f"{clusters} cluster(s) of {members} members")
    try:
        lab("up", "--name", name, "--hosts", str(clusters * members))
        path, hosts = inventory(name, members, folder)
        cold, again = site(path, folder, "cold"), site(path, folder, "again")
        result = {
            "clusters": clusters,
            "members": members,
            "cold_seconds": cold["seconds"],
            "again_seconds": again["seconds"],
            "again_module_runs": max(again["module_runs"].values()),
            "again_changed": again["changed"],
        }
        say(f"    cold {cold['seconds']} s, again {again['seconds']} s")
        if roll:
            hand = []
            for number, host in enumerate(hosts):
                begin = time.monotonic()
                lab("exec", "--name", name, host, "--", "bash", "-c", HAND % (20000 + number))
                hand.append(time.monotonic() - begin)
            # All differ now: the run puts them right, one after the other.
            time.sleep(10)
            rolling = site(path, folder, "rolling")
            result["by_hand_seconds"] = [round(item, 2) for item in hand]
            result["rolling_seconds"] = rolling["seconds"]
            result["ratio_rolling_to_by_hand"] = round(rolling["seconds"] / sum(hand), 3)
        return result
    finally:
        lab("down", "--name", name)


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
        item["ratio_again_to_first"] = round(item["again_seconds"] / found[0]["again_seconds"], 2)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=2))
    say(f"rolling : by hand = {found[0]['ratio_rolling_to_by_hand']} (expected at most 1.25)")


if __name__ == "__main__":
    main()
