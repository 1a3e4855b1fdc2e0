"""Runs the examples of the modules' documentation unchanged on one host."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Iterator

import pytest
import yaml

from .conftest import ROOT, Lab

MODULES = ("etcd_host_info", "kubeadm_etcd_config", "etcd_pki", "etcd_member_turn", "etcd_health")


def examples(module: str) -> list[dict]:
    """The tasks of EXAMPLES."""
    text = (ROOT / "plugins" / "modules" / f"{module}.py").read_text(encoding="utf-8")
    return yaml.safe_load(text.split('EXAMPLES = r"""')[1].split('"""')[0])


def for_one_member(value: object, address: str) -> object:
    """The example for one host: its members are replaced by the one of the lab, at its address."""
    if isinstance(value, dict):
        return {
            key: [{"name": "infra0", "address": address}]
            if key == "members" and isinstance(item, list)
            else for_one_member(item, address)
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [for_one_member(item, address) for item in value]
    # Alone or in a URL: no other address may be contacted.
    return re.sub(r"10\.0\.0\.\d+", address, value) if isinstance(value, str) else value


@pytest.fixture
def fresh(lab: Lab) -> Iterator[Lab]:
    """New hosts before and after the test: later tests need a cluster of three."""
    lab.fresh()
    yield lab
    lab.fresh()


def test_examples(fresh: Lab, tmp_path: Path) -> None:
    """Every task of every example ends well, and what they make together is a member that is healthy."""
    lab = fresh
    address = lab.addresses()["infra0"]
    found = [task for module in MODULES for task in for_one_member(examples(module), address)]
    # They take a CA from files of the controller, beside the one that the example before has made: see test_pki.py.
    # A key that moves takes two hosts: see test_move_ca.py.
    tasks = [
        task
        for task in found
        if "your own CA" not in task["name"]
        and task.get("kubeadm.etcd.etcd_pki", {}).get("step") not in ("send", "receive", "remove")
    ]
    kubelet = [
        {"ansible.builtin.include_role": {"name": f"kubeadm.etcd.{role}"}, "name": role}
        for role in ("preflight", "kubelet")
    ]
    play = {
        "hosts": "infra0",
        "become": True,
        "gather_facts": False,
        "vars": {
            "etcd_group": "one",
            "members": [{"name": "infra0", "address": address}],
        },
        "tasks": [*kubelet, *tasks],
    }
    playbook, inventory = tmp_path / "examples.yml", tmp_path / "inventory.yml"
    playbook.write_text(yaml.safe_dump([play], sort_keys=False), encoding="utf-8")
    inventory.write_text(json.dumps({"all": {"children": {"one": {"hosts": {"infra0": {}}}}}}), encoding="utf-8")
    run = lab.play("-i", str(inventory), playbook=str(playbook))
    assert run.code == 0, run.output[-4000:]
    assert run.recap()["infra0"]["ok"] >= len(tasks)
    assert "peer: 36" in run.output and "infra0/peer.crt: missing" in run.output, run.output[-4000:]
    assert (tmp_path / "etcd-signing/infra0/peer.csr").exists()
