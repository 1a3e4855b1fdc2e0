"""Data directories that contradict the inventory are refused. Nothing is changed or lost."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator

import pytest

from .conftest import GONE, LAB, Lab, different
from .test_live import MANIFEST, flat, healthy

# The member stops when its manifest goes away. Its data is kept beside the directory.
STOP = f"mv {MANIFEST} /root/etcd.yaml; {GONE}; ! pgrep -x etcd"
PUT_BACK = f"rm -rf /var/lib/etcd/member; mv /var/lib/etcd-kept /var/lib/etcd/member; mv /root/etcd.yaml {MANIFEST}"


def stop(cluster: Lab, hosts: list[str]) -> None:
    for host in hosts:
        cluster.sh(host, f"{STOP} && mv /var/lib/etcd/member /var/lib/etcd-kept")


def put_back(cluster: Lab, hosts: list[str]) -> None:
    for host in hosts:
        cluster.sh(host, PUT_BACK)
    deadline = time.monotonic() + 120
    while not (all(cluster.containers().values()) and healthy(cluster)) and time.monotonic() < deadline:
        time.sleep(1)
    assert cluster.site().changed() == {}


@pytest.fixture
def value(cluster: Lab) -> Iterator[None]:
    """Something that must be there afterwards."""
    cluster.etcdctl("infra0", "put", "precious", "data")
    yield
    assert "data" in cluster.etcdctl("infra2", "get", "precious")


def refused(cluster: Lab, words: str, *arguments: str) -> None:
    before = cluster.fingerprint()
    run = cluster.play(*arguments)
    assert run.code != 0 and words in flat(run.output), run.output[-6000:]
    assert "Traceback" not in run.output and run.changed() == {}
    assert different(before, cluster.fingerprint()) == {}


def test_an_image_archive(cluster: Lab) -> None:
    """Imported where the image is missing, and shown in the plan; refused where it has another one."""
    cluster.site()
    containers = cluster.containers()
    printed = subprocess.run([str(LAB), "images"], check=True, text=True, stdout=subprocess.PIPE, timeout=600).stdout
    files = dict(line.split("\t") for line in printed.splitlines())
    image = cluster.sh("infra1", f"sed -n 's/^ *image: //p' {MANIFEST}").strip()
    listed = "ctr -n k8s.io images ls -q"
    cluster.sh("infra1", f"ctr -n k8s.io images rm {image}")
    refused(cluster, f"but hosts of this cluster lack {image}", "-e", f"etcd_image_archive={files['pause']}")
    archive = ("-e", f"etcd_image_archive={files['etcd']}")
    for arguments in (("--check", *archive), archive):
        assert image not in cluster.sh("infra1", listed).split()
        run = cluster.site(*arguments)
        assert f"infra1: image: {image}: missing, imported from {files['etcd']}" in flat(run.output), run.output[-6000:]
        assert set(run.changed()) == {"infra1"}
    assert image in cluster.sh("infra1", listed).split()
    assert cluster.site(*archive).changed() == {} and cluster.containers() == containers
    assert "image.tar" not in cluster.sh("infra1", "ls /etc/kubernetes/kubeadm-etcd")


@pytest.mark.long
@pytest.mark.usefixtures("value")
def test_a_snapshot_restored_on_one_host(cluster: Lab) -> None:
    """To etcd it looks like a new member: with two empty ones it would found a new cluster with old data."""
    addresses = cluster.addresses()
    everybody = ",".join(f"{host}=https://{address}:2380" for host, address in addresses.items())
    cluster.etcdctl("infra0", "snapshot", "save", "/var/lib/etcd/snapshot.db")
    container = cluster.containers()["infra0"]
    cluster.sh(
        "infra0",
        f"ctr -n k8s.io tasks exec --exec-id restore {container} etcdutl snapshot restore /var/lib/etcd/snapshot.db"
        f" --data-dir /var/lib/etcd/restored --name infra0 --initial-cluster {everybody}"
        f" --initial-advertise-peer-urls https://{addresses['infra0']}:2380 2>&1",
    )
    stop(cluster, cluster.hosts)
    try:
        cluster.sh("infra0", "mv /var/lib/etcd/restored/member /var/lib/etcd/member")
        refused(
            cluster, "infra1: the data of this host is missing: according to its record (member.json), it was member"
        )
        # etcd would start it beside the data of the others without an error, and they would diverge.
        for host in ("infra1", "infra2"):
            cluster.sh(host, "cp -a /var/lib/etcd-kept /var/lib/etcd/member")
        refused(
            cluster,
            "infra0: the data directory is a restored snapshot, and infra1, infra2 would continue with other data",
        )
    finally:
        cluster.sh("infra0", "rm -rf /var/lib/etcd/restored /var/lib/etcd/snapshot.db")
        put_back(cluster, cluster.hosts)


@pytest.mark.long
@pytest.mark.usefixtures("value")
def test_the_data_directory_of_another_member(cluster: Lab) -> None:
    """Two processes would be one member to raft. Refused in a run over all hosts, and with --limit to the copy."""
    stop(cluster, ["infra1"])
    try:
        source = [
            str(LAB),
            "exec",
            "--name",
            cluster.name,
            "infra0",
            "--",
            "tar",
            "-C",
            "/var/lib/etcd",
            "-c",
            "member",
        ]
        target = [str(LAB), "exec", "--name", cluster.name, "infra1", "--", "tar", "-C", "/var/lib/etcd", "-x"]
        with subprocess.Popen(source, stdout=subprocess.PIPE) as sender:
            subprocess.run(target, stdin=sender.stdout, check=True, timeout=60)
        refused(cluster, "infra1: the data directory belongs to member")
        refused(cluster, "infra1: the data directory belongs to member", "--limit", "infra1")
    finally:
        put_back(cluster, ["infra1"])
