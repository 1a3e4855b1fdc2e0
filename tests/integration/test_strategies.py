"""A play with the roles and a strategy in which hosts do not wait for each other is refused before any change."""

from __future__ import annotations

from pathlib import Path

import pytest

from .conftest import Lab, different
from .test_live import flat, healthy

PLAY = """\
- name: Roles in a play of one's own
  hosts: etcd
  become: true
  gather_facts: false
{strategy}  roles:
    - kubeadm.etcd.preflight
    - kubeadm.etcd.kubelet
    - kubeadm.etcd.ca
    - kubeadm.etcd.certificates
    - kubeadm.etcd.static_pod
    - kubeadm.etcd.health
"""
CHANGE = ("-e", '{"etcd_extra_args": {"snapshot-count": "20000"}}')


def play_of_ones_own(tmp_path: Path, strategy: str = "") -> str:
    """Path of a playbook; a strategy only where it is given."""
    path = tmp_path / "own.yml"
    path.write_text(PLAY.format(strategy=f"  strategy: {strategy}\n" if strategy else ""), encoding="utf-8")
    return str(path)


def refused(lab: Lab, name: str, playbook: str, *arguments: str, **environment: str) -> None:
    """Nothing changes, and the message names the strategy and the one to set."""
    before = lab.fingerprint()
    run = lab.play(*arguments, playbook=playbook, **environment)
    said = flat(run.output)
    assert run.code != 0 and run.changed() == {}, run.output[-6000:]
    assert f"strategy {name}" in said and "strategy: ansible.builtin.linear" in said, run.output[-6000:]
    # No host was excluded from this run.
    assert "--limit" not in said and "Traceback" not in said
    assert different(before, lab.fingerprint()) == {}


def test_fresh_hosts(lab: Lab, tmp_path: Path) -> None:
    lab.fresh()
    refused(lab, "free", play_of_ones_own(tmp_path, "free"))
    refused(lab, "host_pinned", play_of_ones_own(tmp_path), ANSIBLE_STRATEGY="host_pinned")


@pytest.mark.long
def test_a_running_cluster(lab: Lab, tmp_path: Path) -> None:
    """The same play with the strategy linear founds the cluster."""
    run = lab.play(playbook=play_of_ones_own(tmp_path))
    assert run.code == 0, run.output[-6000:]
    containers = lab.containers()
    for strategy in ("free", "ansible.builtin.host_pinned"):
        refused(lab, strategy, play_of_ones_own(tmp_path, strategy), *CHANGE)
    assert lab.containers() == containers and healthy(lab)
