"""A cluster with a real kube-apiserver on it is restored: it is stopped first and started last, and sees no revision twice."""

from __future__ import annotations

import json
import re

import pytest

from .test_backup import newest
from .test_control_plane import HOST, KUBECTL, Plane, plane, test_hand_over, test_kube_apiserver_on_the_cluster

__all__ = ["plane", "test_hand_over", "test_kube_apiserver_on_the_cluster"]

pytestmark = pytest.mark.long


def revision(plane: Plane) -> int:
    """The revision that kube-apiserver tells with a list."""
    told = json.loads(plane.sh(f"{KUBECTL} get --raw '/api/v1/namespaces/default/configmaps?limit=1'"))
    return int(told["metadata"]["resourceVersion"])


def test_restored(plane: Plane) -> None:
    create = f"{KUBECTL} -n default create configmap"
    plane.sh(f"{create} before --from-literal=a=b")
    run = plane.lab.play(
        "-e", f"etcd_backup_fetch_dir={plane.inventory.parent}/copies", playbook="playbooks/backup.yml"
    )
    assert run.code == 0, run.output[-3000:]
    (snapshot,) = (plane.inventory.parent / "copies").iterdir()
    for number in range(20):
        plane.sh(f"{create} after{number} --from-literal=a=b")
    former, process = revision(plane), plane.process()
    arguments = ("-e", f"etcd_snapshot={snapshot}", "-e", "etcd_replace_healthy_cluster=etcd")
    where = {"playbook": "playbooks/restore.yml", "inventory": str(plane.inventory)}
    check = plane.lab.play("--check", *arguments, **where)
    assert check.code == 0 and plane.process() == process, check.output[-4000:]
    run = plane.lab.play(*arguments, **where)
    assert run.code == 0, run.output[-6000:]
    said = re.sub(r"\s+", " ", run.output)
    # First kube-apiserver stops, then the members; last it starts.
    order = ["kube-apiserver is stopped", "Take the step: stop", "Take the step: replace", "kube-apiserver is started"]
    places = [said.index(words) for words in order]
    assert places == sorted(places)
    plane.ready(True)
    assert (
        plane.process() != process
        and plane.sh("ls /etc/kubernetes/kubeadm-etcd | grep -c stopped || true").strip() == "0"
    )
    names = plane.sh(f"{KUBECTL} -n default get configmaps -o name")
    assert "configmap/before" in names and "configmap/after" not in names
    assert revision(plane) > former + 900_000_000
    # A watch from a revision of before is told to list anew.
    watch = f"/api/v1/namespaces/default/configmaps?watch=1&timeoutSeconds=5&resourceVersion={former}"
    answer = plane.sh(f"timeout 20 {KUBECTL} get --raw '{watch}' 2>&1", check=False)
    assert "too old resource version" in answer or "Expired" in answer or "Gone" in answer, answer
    plane.sh(f"{create} again --from-literal=a=b")
    run = plane.lab.play(*arguments, **where)
    assert (
        run.code != 0
        and "is healthy" in re.sub(r"\s+", " ", run.output)
        and plane.sh(f"{KUBECTL} get --raw /readyz") == "ok"
    )
    assert newest(plane.lab) and HOST not in newest(plane.lab)
