"""Data volumes that are missing after a power cut: no acknowledged write is lost, and no second cluster is founded."""

from __future__ import annotations

import base64
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from ansible_collections.kubeadm.etcd.plugins.module_utils._etcd.client import EtcdClient
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.errors import EtcdError

from .conftest import Lab, different
from .test_live import MANIFEST, flat, healthy

# Not /var/lib/etcd, which the lab mounts. A bind mount at boot stands for the disk.
DATA = "/srv/etcd"
ENTRY = f"/srv/disk {DATA} none bind,nofail 0 0"
# A disk that is dead: systemd waits for it, and the mount fails.
DEAD = f"/dev/disk/by-label/etcd {DATA} ext4 nofail,x-systemd.device-timeout=3s 0 0"
WITHOUT_DISK = "cp /etc/fstab /root/fstab && sed -i '/^.srv.disk/d' /etc/fstab"
WITH_DISK = f"cp /root/fstab /etc/fstab && systemctl daemon-reload && mount {DATA}"
RUN = ("-e", f"etcd_data_dir={DATA}", "-e", "etcd_health_timeout=60")
CHANGE = (*RUN, "-e", '{"etcd_extra_args": {"snapshot-count": "20000"}}')


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


@dataclass
class Client:
    """A client on this machine, since hosts lose power: it writes to any member, and remembers what was acknowledged."""

    endpoints: dict[str, str]
    files: tuple[str, str, str]
    acknowledged: list[str] = field(default_factory=list)

    def put(self, host: str, key: str) -> bool:
        """Whether a member acknowledges a write."""
        try:
            with EtcdClient(self.endpoints[host], *self.files, timeout=1.0) as client:
                client.call("kv/put", {"key": encoded(key), "value": encoded("there")})
        except EtcdError:
            return False
        self.acknowledged.append(key)
        return True

    def keys(self, host: str) -> set[str]:
        """What one member has itself, without asking the others."""
        body = {"key": encoded("w/"), "range_end": encoded("w0"), "keys_only": True, "serializable": True}
        with EtcdClient(self.endpoints[host], *self.files, timeout=5.0) as client:
            return {base64.b64decode(item["key"]).decode() for item in client.call("kv/range", body).get("kvs", [])}

    def cluster_id(self, host: str) -> int:
        """Which cluster a member belongs to."""
        with EtcdClient(self.endpoints[host], *self.files, timeout=5.0) as client:
            return client.status().cluster_id

    def write(self, name: str, stop: threading.Event) -> None:
        """Write without a pause, like a kube-apiserver, until stopped."""
        number = 0
        while not stop.is_set():
            number += any(self.put(host, f"w/{name}/{number:06d}") for host in self.endpoints)


def writes_until_power_cut(lab: Lab, client: Client, name: str, hosts: list[str]) -> None:
    """A writer runs while hosts lose power."""
    stop = threading.Event()
    writer = threading.Thread(target=client.write, args=(name, stop))
    before = len(client.acknowledged)
    writer.start()
    time.sleep(2)
    lab("stop", *hosts)
    stop.set()
    writer.join()
    assert len(client.acknowledged) > before + 10


def nothing_is_acknowledged(client: Client, seconds: float = 12.0) -> bool:
    """Whether no member accepts a write during the time of a start of etcd and several elections."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if any(client.put(host, "w/by another cluster") for host in client.endpoints):
            return False
        time.sleep(0.5)
    return True


def wait_until_healthy(lab: Lab) -> None:
    deadline = time.monotonic() + 120
    while not (all(lab.containers().values()) and healthy(lab)):
        assert time.monotonic() < deadline, lab("status")
        time.sleep(1)


def refused(lab: Lab, arguments: tuple[str, ...], *words: str) -> None:
    """A run changes nothing, and says these words."""
    before = lab.fingerprint()
    run = lab.play(*arguments)
    assert run.code != 0 and run.changed() == {}, run.output[-6000:]
    for text in words:
        assert text in flat(run.output), run.output[-6000:]
    assert different(before, lab.fingerprint()) == {}


@pytest.fixture(scope="module")
def founded(lab: Lab) -> Iterator[Lab]:
    """A cluster right after its first run, with its data on volumes that the hosts mount at boot."""
    lab.fresh()
    for host in lab.hosts:
        lab.sh(
            host, f"mkdir /srv/disk {DATA} && echo '{ENTRY}' >> /etc/fstab && systemctl daemon-reload && mount {DATA}"
        )
    lab.site(*RUN)
    assert all("--initial-cluster-state=new" in lab.sh(host, f"cat {MANIFEST}") for host in lab.hosts)
    yield lab
    lab.fresh()


@pytest.fixture(scope="module")
def client(founded: Lab, tmp_path_factory: pytest.TempPathFactory) -> Client:
    """A client with the certificates of the first host."""
    directory = tmp_path_factory.mktemp("client")
    for name in ("ca.crt", "healthcheck-client.crt", "healthcheck-client.key"):
        text = founded.sh("infra0", f"cat /etc/kubernetes/pki/etcd/{name}")
        Path(directory / name).write_text(text, encoding="utf-8")
    files = tuple(str(directory / name) for name in ("ca.crt", "healthcheck-client.crt", "healthcheck-client.key"))
    endpoints = {host: f"https://{address}:2379" for host, address in founded.addresses().items()}
    return Client(endpoints, (files[0], files[1], files[2]))


def everything_is_there(lab: Lab, client: Client) -> bool:
    """Whether all members have every write that was acknowledged, and are one cluster."""
    wait_until_healthy(lab)
    assert len({client.cluster_id(host) for host in lab.hosts}) == 1
    return all(set(client.acknowledged) <= client.keys(host) for host in lab.hosts)


@pytest.mark.long
def test_two_of_three_after_the_first_run(founded: Lab, client: Client) -> None:
    """The manifests still say `new`: the two that come up empty would be a quorum, and found another cluster.

    On one host the disk is dead, on the other one its line in /etc/fstab is gone.
    """
    cluster_id = client.cluster_id("infra0")
    founded.sh("infra0", f"{WITHOUT_DISK} && echo '{DEAD}' >> /etc/fstab")
    founded.sh("infra1", WITHOUT_DISK)
    writes_until_power_cut(founded, client, "first", founded.hosts)
    founded("start", *founded.hosts)
    assert nothing_is_acknowledged(client)
    refused(founded, RUN, "infra0", "infra1", DATA, "volume")
    assert nothing_is_acknowledged(client, 3.0)
    for host in ("infra0", "infra1"):
        founded.sh(host, WITH_DISK)
    run = founded.site(*RUN)
    assert everything_is_there(founded, client), run.output[-3000:]
    assert client.cluster_id("infra0") == cluster_id and founded.site(*RUN).changed() == {}


@pytest.mark.long
def test_one_of_three_after_a_change_and_another_a_write_behind(founded: Lab, client: Client) -> None:
    """The last writes are on the lost volume and on the host that starts last. The other two must not form a quorum without them."""
    founded.site(*CHANGE)
    for host in founded.hosts:
        command = founded.sh(host, f"cat {MANIFEST}")
        assert "--initial-cluster-state=existing" in command
        assert f"--initial-cluster={host}=https://{founded.addresses()[host]}:2380\n" in command
    founded("stop", "infra2")
    founded.sh("infra1", WITHOUT_DISK)
    writes_until_power_cut(founded, client, "second", ["infra0", "infra1"])
    founded("start", "infra1", "infra2")
    assert nothing_is_acknowledged(client)
    run = founded.play(*CHANGE)
    assert run.code != 0 and run.changed() == {} and "infra0" in flat(run.output), run.output[-6000:]
    founded("start", "infra0")
    deadline = time.monotonic() + 90
    while not client.put("infra2", "w/all but one"):
        assert time.monotonic() < deadline, founded("status")
        time.sleep(1)
    assert set(client.acknowledged) <= client.keys("infra0") & client.keys("infra2")
    refused(founded, CHANGE, "infra1", "has lost its data", DATA)
    founded.sh("infra1", WITH_DISK)
    founded.site(*CHANGE)
    assert everything_is_there(founded, client) and founded.site(*CHANGE).changed() == {}
