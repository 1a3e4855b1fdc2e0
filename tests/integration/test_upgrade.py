"""site.yml upgrades etcd on real hosts from 3.5 to 3.7 while a client writes. No acknowledged write is lost, and each request succeeds on some member.

kubeadm 1.34 writes the flags of each of the three versions.
"""

from __future__ import annotations

import contextlib
import re
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from .conftest import LAB_NAME, ROOT, Lab, Run, etcd_archive, inventory
from .test_live import flat, healthy, writing

pytestmark = pytest.mark.long

KUBERNETES = "1.34.4"
OLD, MIDDLE, NEW = "3.5.35", "3.6.14", "3.7.3"
MANIFEST = "/etc/kubernetes/manifests/etcd.yaml"


@pytest.fixture(scope="module")
def hosts() -> Iterator[Lab]:
    """Three hosts of a lab of their own, with the images of all three versions."""
    it = Lab(f"{LAB_NAME}-etcds", ["infra0", "infra1", "infra2"])
    it("up", "--hosts", "3", "--kubernetes", KUBERNETES, "--etcd", OLD)
    try:
        yield it
    finally:
        it("down")


@pytest.fixture
def old(hosts: Lab) -> Lab:
    """A cluster that was born on 3.5."""
    hosts.fresh()
    for version in (MIDDLE, NEW):
        hosts.import_image(etcd_archive(KUBERNETES, version))
    upgrade(hosts, OLD)
    return hosts


def upgrade(lab: Lab, version: str, *arguments: str) -> Run:
    """site.yml with an image of this version, which succeeds."""
    return lab.site("-e", f"etcd_image_tag={version}-0", *arguments)


def versions(lab: Lab) -> list[str]:
    """What the members run, as etcdctl tells it. One that restarts is not among them."""
    text = lab.etcdctl("infra0", "--endpoints", lab.endpoints(), "endpoint", "status", "-w", "json", check=False)
    return sorted(re.findall(r'"version":"([^"]+)"', text))


def snapshots(lab: Lab) -> int:
    """How many snapshots the hosts have."""
    return sum(len(lab.sh(host, "ls /var/backups/etcd/*.db 2>/dev/null || true").split()) for host in lab.hosts)


def fill(lab: Lab) -> None:
    """Writes more entries than etcd applies at once when it starts, then restarts each member, which writes an entry that 3.7 cannot read.

    The raft snapshot that 3.6 may write when it starts is older than that entry.
    """
    script = "\n".join(
        [
            "import base64, json, ssl, urllib.request",
            "pki = '/etc/kubernetes/pki/etcd/'",
            "context = ssl.create_default_context(cafile=pki + 'ca.crt')",
            "context.load_cert_chain(pki + 'healthcheck-client.crt', pki + 'healthcheck-client.key')",
            "for number in range(40):",
            "    key, value = (base64.b64encode(item).decode() for item in (b'large %d' % number, b'x' * 30000))",
            "    body = json.dumps({'key': key, 'value': value}).encode()",
            "    urllib.request.urlopen('https://127.0.0.1:2379/v3/kv/put', body, timeout=10, context=context).read()",
        ]
    )
    lab.sh("infra0", f"python3 - <<'EOF'\n{script}\nEOF")
    for host in lab.hosts:
        lab.sh(host, "pkill -x etcd; sleep 5")
        deadline = time.monotonic() + 90
        while not healthy(lab) and time.monotonic() < deadline:
            time.sleep(2)
    assert healthy(lab)


def test_an_upgrade_to_3_7_after_few_writes(old: Lab) -> None:
    """health.yml warns that 3.7 would panic. So each member is restarted once more on 3.6 before the upgrade."""
    fill(old)
    upgrade(old, MIDDLE)
    run = old.play(playbook="playbooks/health.yml")
    assert run.code == 0 and "etcd 3.7 would panic" in flat(run.output), run.output[-3000:]
    with writing(old, "few") as counted:
        run = upgrade(old, NEW, "-v")
    print(f"{MIDDLE} -> {NEW}, few writes: {counted}, {run.seconds:.0f} s, each member {run.waited()} s")
    assert "it first restarts once more on its present version" in flat(run.output)
    assert counted["lost"] == 0 and counted["nowhere"] == 0 and counted["gap"] < 5, counted
    assert versions(old) == [NEW] * 3 and healthy(old) and upgrade(old, NEW).changed() == {}


def test_from_3_5_to_3_7(old: Lab) -> None:
    """While a client writes. Also upgrades that are refused, and an image that does not exist."""
    run = old.play("-e", f"etcd_image_tag={NEW}-0")
    assert run.code != 0 and "upgraded one minor version at a time" in flat(run.output) and run.changed() == {}
    before, taken = old.containers(), snapshots(old)
    run = old.play("-e", "etcd_image_tag=3.6.99-0")
    assert run.code != 0 and "nothing was started or restarted" in flat(run.output) and old.containers() == before
    assert snapshots(old) == taken, "a snapshot of a large database takes minutes"
    for version, former in ((MIDDLE, OLD), (NEW, MIDDLE)):
        check = flat(old.site("--check", "-e", f"etcd_image_tag={version}-0").output)
        with writing(old, f"to{version}") as counted:
            run = upgrade(old, version, "-v")
        snaps = [old.sh(host, "ls /var/lib/etcd/member/snap").split() for host in old.hosts]
        print(f"raft snapshots: {snaps}")
        print(f"{former} -> {version}: {counted}, {run.seconds:.0f} s, each member {run.waited()} s")
        said = flat(run.output)
        line = f"etcd: {former} -> {version} (registry.k8s.io/etcd:{version}-0, by etcd_image_tag)"
        assert line in said and line in check
        once_more = "it first restarts once more on its present version"
        assert (once_more in said) is (once_more in check)
        assert counted["lost"] == 0 and counted["nowhere"] == 0 and counted["gap"] < 5, counted
        assert versions(old) == [version] * 3 and healthy(old)
        assert upgrade(old, version).changed() == {}
        taken += 1
        assert snapshots(old) >= taken
        for host in old.hosts:
            assert "--snapshot-count=10000" in old.sh(host, f"cat {MANIFEST}")
    run = old.play("-e", f"etcd_image_tag={MIDDLE}-0")
    assert run.code != 0 and "agreed on version 3.7" in flat(run.output) and run.changed() == {}


def test_one_upgraded_member_goes_back(old: Lab) -> None:
    upgrade(old, MIDDLE, "--limit", "infra1")
    assert versions(old) == [OLD, OLD, MIDDLE]
    assert "is followed by an older release" in flat(upgrade(old, OLD).output)
    assert versions(old) == [OLD] * 3


def test_a_run_that_was_killed(old: Lab) -> None:
    """Killed after its first turn. The next run accepts the mixed versions and continues."""
    argv = ["ansible-playbook", "site.yml", "-i", old.inventory, "-e", f"etcd_image_tag={MIDDLE}-0"]
    with writing(old, "killed") as counted:
        with subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            deadline = time.monotonic() + 240
            while MIDDLE not in versions(old) and process.poll() is None and time.monotonic() < deadline:
                time.sleep(1)
            process.kill()
        assert OLD in versions(old)
        run = upgrade(old, MIDDLE)
    print(f"killed: {counted}")
    assert counted["lost"] == 0 and counted["nowhere"] == 0, counted
    assert versions(old) == [MIDDLE] * 3 and f"etcd: {OLD} -> {MIDDLE}" in flat(run.output)


def test_a_downgrade_to_3_5(old: Lab) -> None:
    """The flags change with the image. 3.5 ends the downgrade, but does not report it."""
    upgrade(old, MIDDLE)
    with writing(old, "back") as counted:
        run = upgrade(old, OLD, "-v", "-e", "etcd_downgrade=3.5")
    print(f"{MIDDLE} -> {OLD}: {counted}, {run.seconds:.0f} s, {run.waited()} s")
    assert versions(old) == [OLD] * 3 and healthy(old)
    assert counted["lost"] == 0 and counted["nowhere"] == 0 and counted["gap"] < 5, counted
    for host in old.hosts:
        text = old.sh(host, f"cat {MANIFEST}")
        assert "--experimental-initial-corrupt-check=true" in text and "feature-gates" not in text
    assert upgrade(old, OLD, "-e", "etcd_downgrade=3.5").changed() == {} and upgrade(old, OLD).changed() == {}
    upgrade(old, MIDDLE)
    assert versions(old) == [MIDDLE] * 3 and healthy(old)


# --- Five members, and two clusters ----------------------------------------------------------------------------------


@dataclass
class Part(Lab):
    """Some hosts of a lab, which are a cluster."""

    def versions(self) -> list[str]:
        """What its members run."""
        text = self.etcdctl(self.hosts[0], "--endpoints", self.endpoints(), "endpoint", "status", "-w", "json")
        return re.findall(r'"version":"([^"]+)"', text)


@pytest.fixture(scope="module")
def six() -> Iterator[Lab]:
    """Six hosts of a lab of their own."""
    it = Lab(f"{LAB_NAME}-six", [f"infra{number}" for number in range(6)])
    it("up", "--hosts", "6", "--kubernetes", KUBERNETES, "--etcd", MIDDLE)
    try:
        yield it
    finally:
        it("down")


@pytest.mark.parametrize("parts", [{"a": "012", "b": "345"}, {"five": "01234"}], ids=["two clusters", "five members"])
def test_upgrades_of_two_clusters_and_of_five_members(six: Lab, tmp_path: Path, parts: dict[str, str]) -> None:
    """Two clusters side by side in one run, each with a client that writes; and one of five."""
    six.fresh()
    six.import_image(etcd_archive(KUBERNETES, NEW))
    clusters = {name: Part(six.name, [f"infra{number}" for number in numbers]) for name, numbers in parts.items()}
    addresses = six.addresses()
    hosts = {
        host: f"ansible_host: {addresses[host]}, etcd_cluster_name: {name}"
        for name, part in clusters.items()
        for host in part.hosts
    }
    place = inventory(six, tmp_path, hosts)
    six.site("-e", f"etcd_image_tag={MIDDLE}-0", inventory=place)
    with contextlib.ExitStack() as stack:
        counts = {name: stack.enter_context(writing(part, name)) for name, part in clusters.items()}
        run = six.site("-v", "-e", f"etcd_image_tag={NEW}-0", inventory=place)
    for name, part in clusters.items():
        counted = counts[name]
        print(f"{name}, {len(part.hosts)} members: {counted}, {run.seconds:.0f} s, each member {run.waited()} s")
        assert counted["lost"] == 0 and counted["nowhere"] == 0 and counted["gap"] < 5, counted
        assert part.versions() == [NEW] * len(part.hosts)
    assert six.site("-e", f"etcd_image_tag={NEW}-0", inventory=place).changed() == {}
