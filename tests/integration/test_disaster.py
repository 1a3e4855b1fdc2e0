"""Backups and restores that are killed at every task, timers while hosts and disks fail, and 200 000 keys with a real kube-apiserver.

All of them take minutes: `make test-long`. See test_killed for KUBEADM_ETCD_SWEEP.
"""

from __future__ import annotations

import base64
import json
import os
import re
import ssl
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.tools.kube import MAPS, Api, Watch

from .conftest import LAB, Lab, until
from .test_backup import BACKUPS, backed_up, count, fill, restored
from .test_control_plane import INIT, Plane
from .test_killed import in_parts, killed_at, tasks_of, unchanged
from .test_live import flat, healthy, writing

pytestmark = pytest.mark.long

KEYS = int(os.environ.get("KUBEADM_ETCD_KEYS", "200000"))

# Prints each file with the name of a snapshot, and whether its digest is right.
SNAPSHOTS = f"""python3 - <<'EOF'
import hashlib, pathlib
for path in sorted(pathlib.Path("{BACKUPS}").glob("etcd-*-r*.db")):
    data, seen = path.read_bytes(), path.stat()
    print(path.name, seen.st_ino, seen.st_mtime_ns, hashlib.sha256(data[:-32]).digest() == data[-32:])
EOF"""


def snapshots(lab: Lab) -> dict[str, list[str]]:
    """The snapshots of each host that answers, all of them whole."""
    found = {host: lab.sh(host, SNAPSHOTS, check=False).splitlines() for host in lab.hosts}
    assert all(line.endswith(" True") for lines in found.values() for line in lines), found
    return found


def untouched(before: dict[str, list[str]], after: dict[str, list[str]]) -> bool:
    return all(set(lines) <= set(after[host]) for host, lines in before.items())


# --- Killed at every task -------------------------------------------------------------------------------------------


@in_parts(2)
def test_a_backup_is_killed(cluster: Lab, tmp_path: Path, part: range) -> None:
    """At every task, while a client writes: files with a final name are complete, older snapshots stay, and the next run cleans up."""
    copies, key = tmp_path / "copies", tmp_path / "backup.key"
    make = f"openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=x -keyout {key} -out {tmp_path}/backup.crt"
    subprocess.run(make.split(), check=True, capture_output=True, timeout=60)
    options = {
        "etcd_backup_keep": 0,
        "etcd_backup_fetch_dir": str(copies),
        "etcd_backup_command": ["cp", "{file}", "/srv"],
    }
    how = ("-e", json.dumps({**options, "etcd_backup_recipient": f"{tmp_path}/backup.crt"}))
    fill(cluster, "/registry/killed", 20000)
    run, total = killed_at(cluster, tmp_path, 0, *how, playbook="playbooks/backup.yml")
    assert run.code == 0, run.output[-3000:]
    killed, containers = 0, cluster.containers()
    with writing(cluster, "sweep") as counted:
        for number in tasks_of(part, total):
            before = snapshots(cluster)
            run, _begun = killed_at(cluster, tmp_path, number, *how, playbook="playbooks/backup.yml")
            killed += run.code != 0
            between = snapshots(cluster)
            assert untouched(before, between), number
            again = cluster.play(*how, playbook="playbooks/backup.yml")
            assert again.code == 0, (
                f"killed at task {number}:\n{run.output[-1500:]}\nand again:\n{again.output[-6000:]}"
            )
            after = snapshots(cluster)
            assert untouched(between, after) and sum(map(len, after.values())) > sum(map(len, between.values())), number
            # The leader may change, but each host that gave the last one has cleared up.
            left = [
                cluster.sh(
                    host,
                    f"ls -A {BACKUPS} 2>/dev/null | grep -v 'db$\\|db.json$\\|^.lock$\\|backup-state\\|prom$' || true",
                )
                for host in cluster.hosts
                if len(after[host]) > len(between[host])
            ]
            assert left == [""], (number, left)
    assert killed >= len(tasks_of(part, total)) - 3 and cluster.containers() == containers
    assert counted["lost"] == counted["nowhere"] == 0, counted
    # Each copy that the controller has can be opened.
    for path in copies.iterdir():
        assert re.fullmatch(r"etcd-\w+-r\d+\.db(\.json)?\.cms", path.name), path
        argv = ["openssl", "cms", "-decrypt", "-binary", "-inform", "DER", "-in", str(path), "-inkey", str(key)]
        assert subprocess.run(argv, check=True, capture_output=True, timeout=60).stdout[-32:]
        # A description is never without its snapshot.
        assert path.with_name(path.name.replace(".json", "")).exists()
    print(f"backup: killed at {killed} of {total} tasks, {len(list(copies.iterdir()))} copies, {counted}")


@in_parts(3)
def test_a_restore_is_killed(cluster: Lab, tmp_path: Path, part: range) -> None:
    """At every task: the next run finishes it. Exactly the keys of the snapshot are there, and the snapshots are unchanged."""
    fill(cluster, "/registry/e", 500)
    snapshot = backed_up(cluster, tmp_path / "copies")
    change = (
        "-e",
        f"etcd_snapshot={snapshot}",
        "-e",
        '{"etcd_replace_healthy_cluster": "etcd", "etcd_backup_keep": 0}',
    )
    run, total = killed_at(cluster, tmp_path, 0, *change, playbook="playbooks/restore.yml")
    assert run.code == 0, run.output[-3000:]
    killed = finished = 0
    worst = 0.0
    for number in tasks_of(part, total):
        fill(cluster, "/registry/later", 100)
        before, kept = (cluster.fingerprint(), cluster.containers()), snapshots(cluster)
        run, _begun = killed_at(cluster, tmp_path, number, *change, playbook="playbooks/restore.yml")
        killed += run.code != 0
        if unchanged(cluster, before):
            continue
        finished += 1
        print(f"killed at task {number} of {total}", flush=True)
        assert untouched(kept, snapshots(cluster)), number
        again = cluster.play(*change, playbook="playbooks/restore.yml")
        worst = max(worst, again.seconds)
        assert again.code == 0, f"killed at task {number}:\n{run.output[-1500:]}\nand again:\n{again.output[-6000:]}"
        found = count(cluster, "/registry/e"), count(cluster, "/registry/later")
        assert healthy(cluster) and found == (500, 0), (number, found)
        assert untouched(kept, snapshots(cluster)), number
        for host in cluster.hosts:
            cluster.sh(
                host, "rm -rf /var/lib/etcd/member.replaced-*; ! ls -d /var/lib/etcd/member.restored* 2>/dev/null"
            )
    assert killed >= len(tasks_of(part, total)) - 3
    assert cluster.site().changed() == {}
    print(
        f"restore: killed at {killed} of {total} tasks, {finished} with something left to finish, in {worst:.0f} s at most"
    )


IMAGES = "ctr -n k8s.io images"
PAUSE = "pause=$(sed -n 's/.*sandbox_image = \"\\(.*\\)\"/\\1/p' /etc/containerd/config.toml)"


@pytest.mark.parametrize(
    ("obstacle", "end", "words"),
    [
        (f"mkdir -p {BACKUPS}; mount -t tmpfs -o size=8k,mode=700 tmpfs {BACKUPS}", f"umount {BACKUPS}", "No space left"),
        ("touch /var/lib/etcd/member.restored", "rm /var/lib/etcd/member.restored", "must be a directory"),
        # As the kubelet does it if the disk is nearly full, since no container uses it.
        (f"{PAUSE}; {IMAGES} tag $pause kept; {IMAGES} rm $pause", f"{PAUSE}; {IMAGES} tag kept $pause; {IMAGES} rm kept", "cannot be pulled"),
    ],
    ids=["the copy", "the data", "the sandbox image"],
)  # fmt: skip
def test_a_restore_that_fails_on_one_host(cluster: Lab, tmp_path: Path, obstacle: str, end: str, words: str) -> None:
    """Before anything was stopped: every member runs on, with all that was written, and the next run restores all of them."""
    fill(cluster, "/registry/f", 300)
    snapshot = backed_up(cluster, tmp_path / "copies")
    fill(cluster, "/registry/since", 100)
    before = cluster.containers()
    manifests = [cluster.sh(host, "sha256sum /etc/kubernetes/manifests/*") for host in cluster.hosts]
    agreed = ("-e", "etcd_replace_healthy_cluster=etcd")
    cluster.sh("infra2", obstacle)
    try:
        with writing(cluster, "guard") as counted:
            run = cluster.play("-e", f"etcd_snapshot={snapshot}", *agreed, playbook="playbooks/restore.yml")
    finally:
        cluster.sh("infra2", end)
    text = flat(run.output)
    assert run.code != 0 and words in text and "infra2 failed or stopped" in text, run.output[-4000:]
    assert cluster.containers() == before and counted["lost"] == counted["nowhere"] == 0, counted
    assert manifests == [cluster.sh(host, "sha256sum /etc/kubernetes/manifests/*") for host in cluster.hosts]
    assert healthy(cluster) and (count(cluster, "/registry/f"), count(cluster, "/registry/since")) == (300, 100)
    assert run.recap()["infra2"]["failed"] == 1 and "External etcd cluster for kubeadm" not in text
    restored(cluster, snapshot, *agreed)
    assert healthy(cluster) and (count(cluster, "/registry/f"), count(cluster, "/registry/since")) == (300, 0)
    assert cluster.site().changed() == {}


def test_a_restore_imports_the_image_archive(cluster: Lab, tmp_path: Path) -> None:
    """On a host that lacks the image, before anything stops. There is no registry."""
    fill(cluster, "/registry/i", 300)
    snapshot = backed_up(cluster, tmp_path / "copies")
    printed = subprocess.run([str(LAB), "images"], check=True, text=True, stdout=subprocess.PIPE, timeout=600).stdout
    archive = dict(line.split("\t") for line in printed.splitlines())["etcd"]
    image = cluster.sh("infra1", "sed -n 's/^ *image: //p' /etc/kubernetes/manifests/etcd.yaml").strip()
    cluster.sh("infra1", f"{IMAGES} rm {image}")
    said = restored(cluster, snapshot, "-e", "etcd_replace_healthy_cluster=etcd", "-e", f"etcd_image_archive={archive}")
    assert f"infra1: image: {image}: missing, imported from {archive}" in said
    assert healthy(cluster) and count(cluster, "/registry/i") == 300
    assert image in cluster.sh("infra1", f"{IMAGES} ls -q").split()
    assert cluster.site().changed() == {}


def content(lab: Lab) -> tuple[int, int]:
    return count(lab, "/registry/one"), count(lab, "/registry/two")


@pytest.mark.parametrize("later", [0, 10])
def test_two_restores_at_once(cluster: Lab, tmp_path: Path, later: int) -> None:
    """Of different snapshots, with a run of site.yml. A run that succeeds has restored its snapshot on all hosts, and the next run finishes the rest."""
    cluster.etcdctl("infra0", "del", "--prefix", "/registry/")
    fill(cluster, "/registry/one", 300)
    one = backed_up(cluster, tmp_path / "one")
    fill(cluster, "/registry/two", 300)
    two = backed_up(cluster, tmp_path / "two")
    agreed = ("-e", "etcd_replace_healthy_cluster=etcd")
    with ThreadPoolExecutor() as pool:
        runs = [pool.submit(cluster.play, "-e", f"etcd_snapshot={one}", *agreed, playbook="playbooks/restore.yml")]
        time.sleep(later)
        runs.append(pool.submit(cluster.play, "-e", f"etcd_snapshot={two}", *agreed, playbook="playbooks/restore.yml"))
        time.sleep(3)
        runs.append(pool.submit(cluster.play))
    first, second, site = (run.result() for run in runs)
    assert not any("Traceback" in run.output for run in (first, second, site))
    print(f"{later} s apart: {first.code} {second.code} {site.code}")
    if 0 in (first.code, second.code):
        assert healthy(cluster) and content(cluster) in [(300, 0)] * (first.code == 0) + [(300, 300)] * (
            second.code == 0
        )
    again = restored(cluster, one, *agreed)
    assert healthy(cluster) and content(cluster) == (300, 0), again[-3000:]
    assert cluster.site().changed() == {}


# --- Timers -------------------------------------------------------------------------------------------------------

TEXTFILES = "/var/lib/node_exporter"
# The timers of all hosts begin at once, and not within a minute.
AT_ONCE = """
mkdir -p /etc/systemd/system/kubeadm-etcd-backup.timer.d
printf '[Timer]\\nRandomizedDelaySec=0\\nAccuracySec=100ms\\n' > /etc/systemd/system/kubeadm-etcd-backup.timer.d/test.conf
systemctl daemon-reload
systemctl restart kubeadm-etcd-backup.timer
"""


def metric(lab: Lab, host: str, name: str) -> float:
    text = lab.sh(host, f"cat {TEXTFILES}/etcd-backup.prom")
    return float(re.findall(rf"^kubeadm_etcd_backup_{name}{{.*}} (\S+)$", text, flags=re.MULTILINE)[0])


@pytest.fixture
def timers(cluster: Lab) -> Iterator[Lab]:
    """Every ten seconds, on a small filesystem."""
    options = {"etcd_backup_schedule": "*:*:0/10", "etcd_backup_keep": 3, "etcd_backup_textfile_dir": TEXTFILES}
    for host in cluster.hosts:
        cluster.sh(
            host, f"rm -rf {BACKUPS}; mkdir -p -m 700 {BACKUPS}; mount -t tmpfs -o size=400m,mode=700 tmpfs {BACKUPS}"
        )
    cluster.site("-e", json.dumps(options))
    for host in cluster.hosts:
        cluster.sh(host, AT_ONCE)
    yield cluster
    for host in cluster.hosts:
        cluster.sh(
            host, f"umount {BACKUPS}; rm -rf /etc/systemd/system/kubeadm-etcd-backup.timer.d {TEXTFILES}", check=False
        )
    cluster.site()


def taken(lab: Lab) -> dict[str, list[str]]:
    """Names of the snapshots by host, where there are any."""
    found = {host: lab.sh(host, f"ls {BACKUPS} | grep 'db$' || true", check=False).split() for host in lab.hosts}
    return {host: names for host, names in found.items() if names}


def test_timers(timers: Lab) -> None:
    """Timers of three hosts: one host takes the snapshots and removes old ones, another takes over if it is down, a full disk costs no snapshot."""
    lab = timers
    seconds = until("three snapshots", lambda: any(len(names) == 3 for names in taken(lab).values()))
    ((first, names),) = taken(lab).items()
    again = until("an old one goes", lambda: names[0] not in taken(lab)[first])
    assert len(taken(lab)[first]) <= 4 and len(taken(lab)) == 1
    assert [metric(lab, host, "last_failed") for host in lab.hosts] == [0, 0, 0]
    print(f"{first}: three snapshots in {seconds:.0f} s, the oldest of them is gone {again:.0f} s later")

    # Files that are not snapshots of this cluster, one of them with the name of a snapshot.
    strange = ["other-20260101T000000Z-r5.db", "etcd-20990101T000000Z-r99999999999999.db", "notes"]
    lab.sh(first, f"cd {BACKUPS}; for name in {' '.join(strange)}; do echo x > $name; done")

    # A full disk, with too little room from the beginning.
    old = set(taken(lab)[first])
    lab.sh(
        first,
        f"free=$(df --output=avail -m {BACKUPS} | tail -1); dd if=/dev/zero of={BACKUPS}/filler bs=1M count=$((free - 20)) 2>&1",
    )
    seconds = until("the failure is told", lambda: metric(lab, first, "last_failed") == 1)
    kept = set(taken(lab)[first])
    assert len(kept & old) >= 2, (kept, old)
    success = metric(lab, first, "last_success_timestamp_seconds")
    until("it is tried again", lambda: metric(lab, first, "last_attempt_timestamp_seconds") > success + 25)
    assert set(taken(lab)[first]) == kept, "an old snapshot was removed although no new one could be taken"
    state = lab.sh(
        first, f"cat {BACKUPS}/backup-state.json; systemctl is-failed kubeadm-etcd-backup.service", check=False
    )
    assert "MiB free" in state and "The older snapshots are untouched" in state and "failed" in state, state
    health = lab.play(playbook="playbooks/health.yml")
    told = re.search(rf"[^.]*{first}[^.]*snapshot[^.]*\.[^.]*\.", flat(health.output))
    assert "MiB free" in flat(health.output), health.output[-6000:]
    print(
        f"full disk: told after {seconds:.0f} s, {len(kept)} older ones stay; health.yml ({health.code}): {told and told.group()}"
    )
    lab.sh(first, f"rm {BACKUPS}/filler")
    seconds = until("they go on", lambda: metric(lab, first, "last_failed") == 0)
    until("a new one", lambda: set(taken(lab)[first]) - kept)
    print(f"room again: a snapshot after {seconds:.0f} s")
    assert set(strange) <= set(lab.sh(first, f"ls {BACKUPS}").split())
    lab.sh(first, f"cd {BACKUPS}; rm {' '.join(strange)}")

    # A host is down.
    before = taken(lab)[first]
    lab("stop", first)
    try:
        begin = time.time()
        until("another host takes over", lambda: set(taken(lab)) - {first})
        (second,) = set(taken(lab)) - {first}
        gap = time.time() - begin
        until("it goes on", lambda: len(taken(lab)[second]) >= 2)
        print(f"{first} is down: {second} has one {gap:.0f} s later")
        # Without quorum no snapshot can be taken, so none is removed.
        third = next(host for host in lab.hosts if host not in (first, second))
        kept = set(taken(lab)[second])
        lab("stop", third)
        until("the failure is told", lambda: metric(lab, second, "last_failed") == 1)
        after = set(taken(lab)[second])
        assert len(after & kept) >= 2
        attempt = metric(lab, second, "last_attempt_timestamp_seconds")
        until("it is tried again", lambda: metric(lab, second, "last_attempt_timestamp_seconds") > attempt + 15)
        assert set(taken(lab)[second]) == after
    finally:
        for host in lab.hosts:
            lab("start", host)
    # The restarted host has lost its mount, so the timer writes to the directory below. Another member may lead now.
    known = {name for names in (before, *taken(lab).values()) for name in names}
    until("all is well", lambda: healthy(lab), 180)
    seconds = until("they go on", lambda: {name for names in taken(lab).values() for name in names} - known, 180)
    print(f"{first} is back: the next one {seconds:.0f} s later, on {', '.join(taken(lab))}")
    assert all("Traceback" not in lab.sh(host, "journalctl -u kubeadm-etcd-backup --no-pager") for host in lab.hosts)


# --- 200 000 keys -------------------------------------------------------------------------------------------------


@dataclass
class Kube(Plane):
    """The lab with a control plane host infra3."""

    def api(self, directory: Path) -> Api:
        """The client of super-admin.conf."""
        text = self.sh("cat /etc/kubernetes/super-admin.conf")
        for name in ("certificate-authority", "client-certificate", "client-key"):
            found = re.search(rf"{name}-data: (.*)", text)
            assert found
            (directory / name).write_bytes(base64.b64decode(found.group(1)))
        context = ssl.create_default_context(cafile=str(directory / "certificate-authority"))
        context.load_cert_chain(directory / "client-certificate", directory / "client-key")
        return Api(self.address, context)


@pytest.fixture
def kube(lab: Lab, tmp_path: Path) -> Iterator[Kube]:
    """A cluster, and a kube-apiserver on a fourth host; three hosts as new afterwards."""
    lab.fresh()
    lab.site()
    text = Path(lab.inventory).read_text(encoding="utf-8")
    lab("add", "1")
    try:
        address = lab.addresses()["infra3"]
        inventory = tmp_path / "inventory.yml"
        group = f'kube_control_plane:\n  hosts:\n    infra3:\n      ansible_host: "{address}"\n  vars:\n{text.split("  vars:" + chr(10))[1]}'
        inventory.write_text(text + group, encoding="utf-8")
        it = Kube(lab, inventory, address)
        it.play()
        lab("apiserver", "infra3")
        it.sh(INIT % address)
        yield it
    finally:
        lab("remove", "1")
        lab.fresh()


def test_200_000_keys(kube: Kube, tmp_path: Path) -> None:
    """A snapshot under load; quorum is destroyed, then everything. Every key up to the snapshot comes back, and no watch sees a revision twice."""
    lab, api = kube.lab, kube.api(tmp_path)
    until("kube-apiserver is ready", api.is_ready, 180)
    begin = time.monotonic()
    fill(lab, "/registry/bulk/", KEYS)
    print(f"{KEYS} keys written in {time.monotonic() - begin:.0f} s")
    (tmp_path / "ca.crt").write_text(lab.sh("infra0", "cat /etc/kubernetes/pki/etcd/ca.crt"))
    own = {"etcd_ca_export": f"{tmp_path}/ca-key.pem", "etcd_ca_export_passphrase": "six-words-from-a-vault"}
    assert lab.play("-e", json.dumps(own), playbook="playbooks/move_ca.yml").code == 0
    watch = Watch(api)
    watch.start()
    with api.creating() as created:
        until("nothing is created", lambda: len(created) > 50)
        begin = time.monotonic()
        snapshot = backed_up(lab, tmp_path / "copies")
        seconds, many = time.monotonic() - begin, len(created)
        until("nothing is created", lambda: len(created) > many + 50)
    revision = int(re.findall(r"-r(\d+)\.db", snapshot.name)[0])
    before = {name for name, at in created.items() if at <= revision}
    assert 50 < len(before) < len(created)
    size = snapshot.stat().st_size / (1 << 20)
    print(f"snapshot: {size:.0f} MiB in {seconds:.0f} s, {len(before)} of {len(created)} ConfigMaps are in it")

    def check(former: int) -> int:
        """What is there. Returns the revision of a new write."""
        until("kube-apiserver is ready", api.is_ready, 60)
        assert count(lab, "/registry/bulk/") == KEYS and api.names() == before
        new = api.create(f"new-{former}")
        assert new > former
        api.request("DELETE", f"{MAPS}/new-{former}").read()
        until(f"the watch does not follow: {watch.seen}", lambda: watch.seen >= new, 60)
        return new

    former = max(created.values())
    where = {"inventory": str(kube.inventory)}
    for host in ("infra1", "infra2"):
        lab("wipe", host)
    begin = time.monotonic()
    restored(lab, snapshot, **where)
    print(f"quorum destroyed: restored in {time.monotonic() - begin:.0f} s")
    former = check(former)
    for number in range(50):
        former = api.create(f"later-{number}")
    for host in lab.hosts:
        lab("wipe", host)
    ca = {
        "etcd_ca_cert": f"{tmp_path}/ca.crt",
        "etcd_ca_key": f"{tmp_path}/ca-key.pem",
        "etcd_ca_key_passphrase": "six-words-from-a-vault",
    }
    begin = time.monotonic()
    restored(lab, snapshot, "-e", json.dumps(ca), **where)
    print(f"everything destroyed: restored in {time.monotonic() - begin:.0f} s")
    check(former)
    watch.done.set()
    print(f"watch: {watch.events} events, {watch.lists} lists, {watch.expired} times too old, back: {watch.back}")
    assert watch.events > 100 and watch.expired >= 2 and watch.back == []
    assert lab.site("-e", json.dumps(ca), **where).changed() == {}
