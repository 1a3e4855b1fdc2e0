#!/usr/bin/env python3
"""Compares etcd_pki with kubeadm: the certificates of 50 members, and a host with nothing to do.

usage: bench/pki.py [--members 50] [--kubernetes 1.36.3] [--output bench/results/pki.json]

The module signs for all members in one call, from their requests. kubeadm is called once for each certificate and also makes
the key. So a second ratio includes the time of our keys.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
LAB = ROOT / "lab" / "lab"

# A module as Ansible's own wrapper starts it: options in memory, one process.
RUN = """
import json, runpy, sys
from ansible.module_utils import basic
basic._ANSIBLE_ARGS = sys.stdin.buffer.read()
basic._ANSIBLE_PROFILE = "legacy"
runpy.run_module("ansible_collections.kubeadm.etcd.plugins.modules.etcd_pki", run_name="__main__")
"""
CONFIG = """---
apiVersion: kubeadm.k8s.io/v1beta4
kind: InitConfiguration
nodeRegistration: {{name: {name}}}
localAPIEndpoint: {{advertiseAddress: {address}}}
---
apiVersion: kubeadm.k8s.io/v1beta4
kind: ClusterConfiguration
kubernetesVersion: v{version}
certificatesDir: {directory}
"""
PHASES = ("etcd-server", "etcd-peer", "etcd-healthcheck-client", "apiserver-etcd-client")


def module(where: Path, step: str, **options: Any) -> tuple[dict[str, Any], float, float]:
    """One call of etcd_pki: its result, seconds, and seconds of CPU."""
    arguments = {
        "step": step,
        "pki_dir": str(where / "pki"),
        "work_dir": str(where / "work"),
        "kubernetes_version": "v1.36.3",
        **options,
    }
    environment = {**os.environ, "PYTHONPATH": str(ROOT / ".collections")}
    before, begin = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", RUN],
        input=json.dumps({"ANSIBLE_MODULE_ARGS": arguments}),
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        timeout=600,
        check=False,
    )
    seconds, after = time.monotonic() - begin, resource.getrusage(resource.RUSAGE_CHILDREN)
    result = json.loads(done.stdout)
    if done.returncode != 0:
        sys.exit(f"bench: etcd_pki, step {step}: {result.get('msg')}")
    return result, seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--members", type=int, default=50)
    parser.add_argument("--kubernetes", default="1.36.3")
    parser.add_argument("--output", type=Path, default=ROOT / "bench" / "results" / "pki.json")
    arguments = parser.parse_args()
    programs = subprocess.run(
        [str(LAB), "programs", "--kubernetes", arguments.kubernetes], check=True, text=True, stdout=subprocess.PIPE
    )
    kubeadm = str(Path(programs.stdout.strip()) / "kubeadm")
    members = [{"name": f"infra{n}", "address": f"10.0.{n // 250}.{n % 250 + 1}"} for n in range(arguments.members)]
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        first = folder / "infra0"
        authority = module(first, "ca", ca_host=True, **members[0])[0]["ca_cert"]
        print(f"bench: keys and requests of {len(members)} members", flush=True)
        requests, keys_seconds = [], 0.0
        for member in members:
            asked, seconds, _cpu = module(folder / member["name"], "request", ca_cert=authority, **member)
            requests.append({"host": member["name"], **member, "csrs": asked["csrs"]})
            keys_seconds += seconds
        signed, sign_seconds, _cpu = module(first, "sign", requests=requests, **members[0])
        leaves = sum(len(of_host) for of_host in signed["signed"].values())
        print(f"bench: etcd_pki signed {leaves} certificates in {sign_seconds:.2f} s; now kubeadm", flush=True)
        begin = time.monotonic()
        for member in members:
            directory, config = folder / "kubeadm" / member["name"], folder / "config.yaml"
            (directory / "etcd").mkdir(parents=True)
            for name in ("ca.crt", "ca.key"):
                (directory / "etcd" / name).write_bytes((first / "pki" / "etcd" / name).read_bytes())
            config.write_text(
                CONFIG.format(version=arguments.kubernetes, directory=directory, **member), encoding="utf-8"
            )
            for phase in PHASES:
                subprocess.run(
                    [kubeadm, "init", "phase", "certs", phase, "--config", str(config)],
                    check=True,
                    stdout=subprocess.DEVNULL,
                    timeout=60,
                )
        kubeadm_seconds = time.monotonic() - begin
        module(first, "install", ca_cert=authority, certificates=signed["signed"]["infra0"], ca_host=True, **members[0])
        nothing = [
            module(first, step, ca_cert=authority, **members[0], **({"ca_host": True} if step == "install" else {}))
            for step in ("request", "install")
        ]
        if any(result["changed"] for result, *_ in nothing):
            sys.exit("bench: there was something left to do")
    result = {
        "leaves": leaves,
        "ratio_kubeadm_to_signing": round(kubeadm_seconds / sign_seconds, 1),
        "ratio_kubeadm_to_keys_and_signing": round(kubeadm_seconds / (sign_seconds + keys_seconds), 2),
        "sign_seconds": round(sign_seconds, 2),
        "keys_and_requests_seconds": round(keys_seconds, 2),
        "kubeadm_seconds": round(kubeadm_seconds, 2),
        "nothing_to_do_cpu_seconds": {"request": round(nothing[0][2], 3), "install": round(nothing[1][2], 3)},
    }
    arguments.output.parent.mkdir(exist_ok=True)
    arguments.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
