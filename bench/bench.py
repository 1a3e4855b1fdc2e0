#!/usr/bin/env python3
"""Compares the page by hand with site.yml, first run and second run, on fresh hosts of one lab.

usage: bench/bench.py [--lab bench] [--rounds 1] [--output bench/results/latest.json]

Prints seconds, the ratios 2:1 and 3:1, tasks and remote module runs by host, ssh executions, the controller's peak memory,
and what a run with nothing to do costs in comparison with `ansible -m ping` over the same hosts (both alternately), and
writes them as JSON. Ratios taken in one run can be compared between machines; seconds cannot.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
LAB = ROOT / "lab" / "lab"


def say(text: str) -> None:
    """A line of progress."""
    print(f"bench: {text}", flush=True)


def lab(*arguments: str) -> str:
    """Run the lab program and return what it prints."""
    done = subprocess.run([str(LAB), *arguments], check=True, text=True, stdout=subprocess.PIPE, timeout=1200)
    return done.stdout


def timed(argv: list[str], env: dict[str, str], log: Path) -> float:
    """Seconds that a command takes. Its output goes to a log; a failure ends the bench."""
    begin = time.monotonic()
    with log.open("w", encoding="utf-8") as stream:
        code = subprocess.run(
            argv, cwd=ROOT, env=env, stdout=stream, stderr=subprocess.STDOUT, timeout=900, check=False
        ).returncode
    if code != 0:
        sys.exit(f"bench: {' '.join(argv)} ended with {code}:\n{log.read_text(encoding='utf-8')[-4000:]}")
    return time.monotonic() - begin


def ssh_counter(folder: Path) -> Path:
    """A program that records each call and then becomes ssh: counts what Ansible really executes."""
    wrapper = folder / "ssh"
    wrapper.write_text(f'#!/bin/sh\necho "$*" >> "{folder}/calls"\nexec {shutil.which("ssh")} "$@"\n', encoding="utf-8")
    wrapper.chmod(0o755)
    return wrapper


def site(inventory: str, folder: Path, name: str, *arguments: str) -> dict[str, Any]:
    """One run of site.yml: seconds, ssh executions, tasks, module runs and changes by host, peak memory in MiB."""
    calls = folder / "calls"
    calls.unlink(missing_ok=True)
    counts = folder / f"{name}.json"
    env = {
        **os.environ,
        "ANSIBLE_SSH_EXECUTABLE": str(ssh_counter(folder)),
        "ANSIBLE_CALLBACK_PLUGINS": str(ROOT / "bench" / "callback"),
        "ANSIBLE_CALLBACKS_ENABLED": "bench_count",
        "BENCH_COUNT_FILE": str(counts),
    }
    playbook = str(Path(sys.executable).parent / "ansible-playbook")
    seconds = timed([playbook, "site.yml", "-i", inventory, *arguments], env, folder / f"{name}.log")
    found = json.loads(counts.read_text(encoding="utf-8"))
    return {
        "seconds": round(seconds, 2),
        "ssh_executions": len(calls.read_text(encoding="utf-8").splitlines()),
        "tasks": found["tasks"],
        "module_runs": found["module_runs"],
        "changed": found["changed"],
        "peak_memory_mib": found["peak_memory_mib"],
    }


def beside_ping(inventory: str, folder: Path, times: int = 5) -> dict[str, Any]:
    """A run with nothing to do in comparison with `ansible -m ping`: wall time and CPU time of the controller, run alternately."""
    programs = Path(sys.executable).parent
    ping = [str(programs / "ansible"), "etcd", "-i", inventory, "-m", "ansible.builtin.ping"]
    settled = [str(programs / "ansible-playbook"), "site.yml", "-i", inventory]
    costs: dict[str, list[tuple[float, float]]] = {"ping": [], "settled": []}
    for number in range(times):
        for name, argv in (("ping", ping), ("settled", settled)):
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            seconds = timed(argv, dict(os.environ), folder / f"{name}{number}.log")
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            costs[name].append((seconds, cpu))
    wall, cpu = (
        statistics.median(one[kind] / other[kind] for one, other in zip(costs["settled"], costs["ping"]))
        for kind in (0, 1)
    )
    return {"ratio_wall": round(wall, 2), "ratio_cpu": round(cpu, 2), "seconds_and_cpu": costs}


def one_round(name: str, folder: Path) -> dict[str, Any]:
    """The page on fresh hosts, then site.yml twice on fresh hosts."""
    listed = json.loads(
        subprocess.run(
            [
                str(Path(sys.executable).parent / "ansible-inventory"),
                "-i",
                lab("inventory", "--name", name, "--path").strip(),
                "--list",
            ],
            check=True,
            text=True,
            stdout=subprocess.PIPE,
            cwd=ROOT,
        ).stdout
    )
    inventory = lab("inventory", "--name", name, "--path").strip()
    hosts = {host: variables["ansible_host"] for host, variables in listed["_meta"]["hostvars"].items()}
    variables = next(iter(listed["_meta"]["hostvars"].values()))
    config = folder / "ssh_config"
    options = [part for part in variables["ansible_ssh_common_args"].split() if part != "-o"]
    config.write_text(
        "Host *\n"
        + f"  User {variables['ansible_user']}\n  IdentityFile {variables['ansible_ssh_private_key_file']}\n"
        + "".join(f"  {option.replace('=', ' ', 1)}\n" for option in options),
        encoding="utf-8",
    )
    version = lab("exec", "--name", name, next(iter(hosts)), "--", "kubeadm", "version", "-o", "short").strip()
    say("(1) the page as a script")
    pairs = [f"{host}={address}" for host, address in hosts.items()]
    page = timed([str(ROOT / "bench" / "page.sh"), str(config), version, *pairs], dict(os.environ), folder / "page.log")
    say(f"    {page:.1f} s; wiping the hosts")
    lab("wipe", "--name", name, "--all")
    say("(2) site.yml on fresh hosts")
    cold = site(inventory, folder, "cold")
    say(f"    {cold['seconds']} s, {cold['ssh_executions']} ssh executions")
    say("(3) site.yml again")
    again = site(inventory, folder, "again")
    say(f"    {again['seconds']} s, {again['ssh_executions']} ssh executions, changed: {again['changed'] or 'nothing'}")
    say("(4) site.yml beside ansible -m ping, five times each")
    beside = beside_ping(inventory, folder)
    return {"page_seconds": round(page, 2), "cold": cold, "again": again, "beside_ping": beside}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--lab", default="bench", help="name of the lab that is made for this, and taken down afterwards"
    )
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--output", type=Path, default=ROOT / "bench" / "results" / "latest.json")
    arguments = parser.parse_args()
    rounds = []
    with tempfile.TemporaryDirectory() as text:
        try:
            for number in range(arguments.rounds):
                say(f"round {number + 1} of {arguments.rounds}: three fresh hosts")
                lab("up", "--name", arguments.lab)
                if number:
                    lab("wipe", "--name", arguments.lab, "--all")
                rounds.append(one_round(arguments.lab, Path(text)))
        finally:
            lab("down", "--name", arguments.lab)
    result = {
        "ratio_cold_to_page": round(statistics.median(r["cold"]["seconds"] / r["page_seconds"] for r in rounds), 3),
        "ratio_again_to_cold": round(
            statistics.median(r["again"]["seconds"] / r["cold"]["seconds"] for r in rounds), 3
        ),
        **{
            f"ratio_settled_to_ping_{kind}": statistics.median(r["beside_ping"][f"ratio_{kind}"] for r in rounds)
            for kind in ("wall", "cpu")
        },
        "peak_memory_mib": max(r[part]["peak_memory_mib"] for r in rounds for part in ("cold", "again")),
        "bench_peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "rounds": rounds,
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=2))
    say(f"cold : page = {result['ratio_cold_to_page']} (expected at most 0.7)")
    say(f"again : cold = {result['ratio_again_to_cold']} (expected at most 0.3)")
    say(
        f"again : ping = {result['ratio_settled_to_ping_wall']} in wall time, {result['ratio_settled_to_ping_cpu']} in CPU (expected at most 1.6)"
    )
    for part, most, most_ssh in (("again", 4, 3), ("cold", 30, 60)):
        tasks = max(count for r in rounds for host, count in r[part]["tasks"].items() if host != "localhost")
        ssh = max(r[part]["ssh_executions"] for r in rounds)
        say(
            f"{part}: {tasks} tasks for a host (expected at most {most}), {ssh} ssh executions (expected at most {most_ssh})"
        )


if __name__ == "__main__":
    main()
