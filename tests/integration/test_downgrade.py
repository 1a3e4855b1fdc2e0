"""Downgrades by one minor version with site.yml on real hosts while a client writes: killed, cancelled, and completed."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator

import pytest

from .conftest import LAB_NAME, ROOT, Lab, Run, etcd_archive
from .test_live import flat, healthy, writing
from .test_upgrade import snapshots, versions

pytestmark = pytest.mark.long

# kubeadm chooses 3.7 itself, and renders 3.6 with the same flags.
KUBERNETES = "1.37.2"
OLD, NEW = "3.6.14", "3.7.3"


@pytest.fixture(scope="module")
def hosts() -> Iterator[Lab]:
    """Three hosts of a lab of their own, with the images of both versions."""
    it = Lab(f"{LAB_NAME}-back", ["infra0", "infra1", "infra2"])
    it("up", "--hosts", "3", "--kubernetes", KUBERNETES, "--etcd", NEW)
    try:
        it.import_image(etcd_archive(KUBERNETES, OLD))
        yield it
    finally:
        it("down")


def tagged(version: str, downgrade: str = "") -> list[str]:
    """Options for an image of this version, and for a downgrade."""
    return ["-e", f"etcd_image_tag={version}-0", *(["-e", f"etcd_downgrade={downgrade}"] if downgrade else [])]


def targets(lab: Lab) -> set[str]:
    """The versions of downgrades that are enabled, as etcdctl tells them of all members."""
    text = lab.etcdctl("infra0", "--endpoints", lab.endpoints(), "endpoint", "status", "-w", "json", check=False)
    start = text.find("[{")
    found = json.loads(text[start:]) if start >= 0 else []
    infos = [item["Status"].get("downgradeInfo") or {} for item in found]
    return {info["targetVersion"] for info in infos if info.get("enabled")}


def killed_at(lab: Lab, arguments: list[str], task: str) -> None:
    """A run whose controller is killed as soon as a task has changed something."""
    argv = ["ansible-playbook", "site.yml", "-i", lab.inventory, *arguments]
    with subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout
        lines = iter(process.stdout)
        found = any(task in line for line in lines) and any(line.startswith("changed: ") for line in lines)
        process.kill()
    assert found, f"{task} has changed nothing"


def refused(run: Run, *words: str) -> None:
    """A run that has changed nothing, and says so."""
    said = flat(run.output)
    assert run.code != 0 and run.changed() == {} and all(word in said for word in words), run.output[-4000:]


def test_back_from_3_7_to_3_6(hosts: Lab) -> None:
    """A downgrade is killed twice, ignored by a run without the variable, and cancelled. Then another one is completed."""
    hosts.site(*tagged(NEW))
    assert versions(hosts) == [NEW] * 3
    refused(hosts.play(*tagged(OLD)), "agreed on version 3.7", "run site.yml -e etcd_downgrade=3.6")
    refused(hosts.play(*tagged(NEW, "3.6")), "Set etcd_image_tag to a release of etcd 3.6")
    refused(hosts.play(*tagged("3.5.35", "3.5")), "one minor version at a time")
    before, taken = hosts.containers(), snapshots(hosts)
    check = hosts.play("--check", "--diff", *tagged(OLD, "3.6"))
    said = flat(check.output)
    assert check.code == 0 and "3.7 -> 3.6: a downgrade is enabled before" in said and "no key is lost" in said, said
    assert "site.yml -e etcd_downgrade=cancel" in said and hosts.containers() == before and targets(hosts) == set()

    with writing(hosts, "killed") as counted:
        killed_at(hosts, tagged(OLD, "3.6"), "Have etcd enable a downgrade")
        assert versions(hosts) == [NEW] * 3 and snapshots(hosts) > taken and targets(hosts) == {"3.6.0"}
        killed_at(hosts, tagged(OLD, "3.6"), "Change the member, and wait for it")
        assert versions(hosts) == [OLD, NEW, NEW] and targets(hosts) == {"3.6.0"}
        before = hosts.containers()
        for version in (OLD, NEW):
            refused(hosts.play(*tagged(version)), "to 3.6 is under way", "neither continues nor cancels it")
        assert hosts.containers() == before
        run = hosts.play(playbook="playbooks/health.yml")
        assert "A downgrade to etcd 3.6 is under way: 1 of 3 members run 3.6" in flat(run.output), run.output[-3000:]
        refused(hosts.play(*tagged(OLD, "cancel")), "Set etcd_image_tag to a release of etcd 3.7")
        run = hosts.site(*tagged(NEW, "cancel"))
    print(f"killed twice, cancelled: {counted}, the run that cancels {run.seconds:.0f} s")
    assert versions(hosts) == [NEW] * 3 and targets(hosts) == set() and healthy(hosts)
    assert counted["lost"] == 0 and counted["nowhere"] == 0, counted
    assert hosts.site(*tagged(NEW)).changed() == {}

    with writing(hosts, "back") as counted:
        run = hosts.site("-v", *tagged(OLD, "3.6"))
    # What docs/upgrades.md shows.
    print("\n".join(line for line in run.output.splitlines() if not line.startswith((" ", "TASK", "ok:", "skipping:"))))
    print(f"{NEW} -> {OLD}: {counted}, {run.seconds:.0f} s, each member {run.waited()} s")
    assert versions(hosts) == [OLD] * 3 and targets(hosts) == set() and healthy(hosts)
    assert counted["lost"] == 0 and counted["nowhere"] == 0 and counted["gap"] < 5, counted
    assert hosts.site(*tagged(OLD)).changed() == {} and hosts.site(*tagged(OLD, "3.6")).changed() == {}

    with writing(hosts, "again") as counted:
        run = hosts.site("-v", *tagged(NEW))
    print(f"{OLD} -> {NEW}: {counted}, {run.seconds:.0f} s, each member {run.waited()} s")
    assert versions(hosts) == [NEW] * 3 and counted["lost"] == 0 and counted["nowhere"] == 0, counted
