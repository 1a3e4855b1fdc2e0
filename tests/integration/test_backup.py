"""Snapshots are taken, scheduled, sent away and restored on real hosts; what is in them is read with etcd's own tools and openssl."""

from __future__ import annotations

import json
import re
import subprocess
import time
from pathlib import Path

import pytest

from .conftest import ROOT, Lab, different, until
from .test_live import flat, healthy

BACKUPS = "/var/backups/etcd"


def newest(lab: Lab) -> dict[str, str]:
    """The newest snapshot of each host that has one."""
    script = f"ls {BACKUPS}/*.db 2>/dev/null | tail -1 || true"
    found = {host: lab.sh(host, script).strip() for host in lab.hosts}
    return {host: path for host, path in found.items() if path}


def fill(lab: Lab, prefix: str, count: int) -> None:
    """Write keys through the gateway, many in each transaction."""
    program = (
        "import base64, json, ssl, urllib.request\n"
        "pki = '/etc/kubernetes/pki/etcd/'\n"
        "context = ssl.create_default_context(cafile=pki + 'ca.crt')\n"
        "context.load_cert_chain(pki + 'healthcheck-client.crt', pki + 'healthcheck-client.key')\n"
        "code = lambda text: base64.b64encode(text.encode()).decode()\n"
        f"for begin in range(0, {count}, 100):\n"
        f"    puts = [{{'requestPut': {{'key': code('{prefix}%07d' % n), 'value': code('v%d' % n)}}}} for n in range(begin, begin + 100)]\n"
        "    request = urllib.request.Request('https://127.0.0.1:2379/v3/kv/txn', json.dumps({'success': puts}).encode())\n"
        "    urllib.request.urlopen(request, timeout=30, context=context).read()\n"
    )
    lab.sh("infra0", f"python3 - <<'EOF'\n{program}EOF")


def count(lab: Lab, prefix: str) -> int:
    """How many keys begin so, as etcdctl counts them."""
    told = lab.etcdctl("infra0", "get", "--prefix", prefix, "--count-only", "--write-out=fields")
    return int(re.findall(r'"Count" : (\d+)', told)[0])


def backed_up(lab: Lab, into: Path, *arguments: str) -> Path:
    """backup.yml, with a copy on the controller."""
    run = lab.play("-e", f"etcd_backup_fetch_dir={into}", *arguments, playbook="playbooks/backup.yml")
    assert run.code == 0, run.output[-4000:]
    copies = [path for path in into.iterdir() if ".db.json" not in path.name]
    newest = max(copies, key=lambda path: path.stat().st_mtime)
    encrypted = newest.name.partition(".cms")[1]
    assert newest.with_name(f"{newest.name.removesuffix('.cms')}.json{encrypted}").exists()
    return newest


def restored(lab: Lab, snapshot: Path, *arguments: str, **how: str) -> str:
    """restore.yml, which succeeds. What it printed, on one line."""
    run = lab.play("-e", f"etcd_snapshot={snapshot}", *arguments, playbook="playbooks/restore.yml", **how)
    assert run.code == 0, run.output[-8000:]
    return flat(run.output)


def test_a_snapshot_is_taken_sent_and_restored(cluster: Lab, tmp_path: Path) -> None:
    """What was there at the snapshot comes back, what was written since is gone, and no revision is used twice."""
    fill(cluster, "/registry/a", 2000)
    before, containers = cluster.fingerprint(), cluster.containers()
    certificate = tmp_path / "backup.crt"
    # The commands of docs/backup.md.
    make = (
        "openssl req -x509 -newkey rsa:3072 -nodes -days 3650 -subj /CN=etcd-backup -keyout backup.key -out backup.crt"
    )
    assert make in (ROOT / "docs/backup.md").read_text()
    subprocess.run(make.split(), check=True, capture_output=True, cwd=tmp_path, timeout=60)
    away = (
        "-e",
        json.dumps({"etcd_backup_command": ["cp", "{file}", "/srv"], "etcd_backup_recipient": str(certificate)}),
    )
    check = cluster.play("--check", *away, playbook="playbooks/backup.yml")
    assert check.code == 0 and newest(cluster) == {}, check.output[-2000:]
    copy = backed_up(cluster, tmp_path / "copies", *away)
    # Nothing of the cluster has changed, and one host has it.
    assert different(before, cluster.fingerprint()) == {} and cluster.containers() == containers
    ((host, path),) = newest(cluster).items()
    assert copy.name == Path(path).name + ".cms" and copy.stat().st_mode & 0o77 == 0
    opened = tmp_path / "opened.db"
    script = (
        f"for part in {copy.with_suffix('.cms')}*; do\n"
        '  openssl cms -decrypt -binary -inform DER -in "$part" -inkey backup.key\n'
        f"done > {opened}"
    )
    subprocess.run(["bash", "-c", script], check=True, cwd=tmp_path, timeout=60)
    sums = [cluster.sh(host, f"sha256sum {path} | cut -d' ' -f1").strip()]
    sums += [subprocess.check_output(["sha256sum", opened], text=True, timeout=60).split()[0]]
    sent = cluster.sh(host, "ls /srv").split()
    assert sums[0] == sums[1] and sent == sorted([copy.name, f"{Path(path).name}.json.cms"]), (sums, sent)
    told = json.loads(cluster.sh(host, f"cat {path}.json"))
    status = json.loads(
        cluster.sh(host, f"$(ls -d /proc/$(pidof etcd)/root)/usr/local/bin/etcdutl snapshot status {path} -w json")
    )
    assert told["key_count"] >= 2000 and (told["revision"], told["hash"]) == (status["revision"], status["hash"])
    assert cluster.sh(host, f"stat -c '%a %U' {path} {BACKUPS}").split() == ["600", "root", "700", "root"]
    # A mistake of a user: the cluster is healthy, but its data is wrong.
    cluster.etcdctl("infra0", "del", "--prefix", "/registry/a")
    fill(cluster, "/registry/b", 100)
    refused = cluster.play("-e", f"etcd_snapshot={opened}", playbook="playbooks/restore.yml")
    assert refused.code != 0 and "-e etcd_replace_healthy_cluster=etcd" in flat(refused.output)
    assert count(cluster, "/registry/b") == 100
    identity = {item["ID"] for item in cluster.members()}
    restored(cluster, opened, "-e", "etcd_replace_healthy_cluster=etcd")
    assert healthy(cluster) and not identity & {item["ID"] for item in cluster.members()}
    assert (count(cluster, "/registry/a"), count(cluster, "/registry/b")) == (2000, 0)
    header = json.loads(cluster.etcdctl("infra0", "get", "x", "-w", "json"))["header"]
    assert header["revision"] >= 1_000_000_000 + told["revision"]
    old = cluster.etcdctl("infra0", "get", "x", f"--rev={told['revision']}", check=False)
    assert "compacted" in old or old.strip() == "", old
    for host in cluster.hosts:
        assert (
            cluster.sh(
                host, "ls -d /var/lib/etcd/member.replaced-* /var/lib/etcd.replaced-* 2>/dev/null | wc -l"
            ).strip()
            == "1"
        )
        assert cluster.sh(host, f"ls {BACKUPS} | grep -c restore- || true").strip() == "0"
    assert cluster.site().changed() == {}
    # The state before the restore was kept as a snapshot.
    assert any("-r" in path for path in newest(cluster).values())


def until_said(lab: Lab, host: str, job: str, words: str, lines: int) -> None:
    """The journal may get what a job has printed after the job has ended. lines: how many of the last are read."""
    read = f"journalctl -u kubeadm-etcd-{job} --no-pager | tail -{lines}"
    until(f"{job} does not say {words!r}", lambda: words in lab.sh(host, read), 30)


def test_a_timer_takes_snapshots(cluster: Lab) -> None:
    """One host takes the snapshots, another one if it is down. Without the variable the timer is removed. Other timers rehearse a restore and defragment."""
    variables = {"etcd_backup_schedule": "*:*:0/10", "etcd_backup_keep": 2}
    rarely = {"etcd_drill_schedule": "Sun 03:00", "etcd_defragment_schedule": "Sun 04:00"}
    schedule = ("-e", json.dumps(variables | rarely))
    check = cluster.site("--check", "--diff", *schedule)
    assert (
        check.changed() and cluster.sh("infra0", "ls /etc/systemd/system | grep -c kubeadm-etcd || true").strip() == "0"
    )
    for host in cluster.hosts:
        cluster.sh(host, f"rm -f {BACKUPS}/*.db*")
    cluster.site(*schedule)
    assert cluster.site(*schedule).changed() == {}
    # Their random delay is a minute.
    until("no timer has taken a snapshot", lambda: newest(cluster))
    # The timers end, since their snapshots would come between. A start also waits for a snapshot that its timer has begun.
    start = "systemctl start kubeadm-etcd-backup.service"
    for host in cluster.hosts:
        cluster.sh(host, f"systemctl stop kubeadm-etcd-backup.timer; {start}; rm -f {BACKUPS}/*.db*; {start}")
    taken = newest(cluster)
    assert len(taken) == 1, taken
    first = next(iter(taken))
    assert "Traceback" not in cluster.sh(first, "journalctl -u kubeadm-etcd-backup --no-pager")
    for job, words in (
        ("drill", "restored in"),
        ("drill", "rehearsed already"),
        ("defragment", "nothing to defragment"),
    ):
        cluster.sh(first, f"systemctl start kubeadm-etcd-{job}.service")
        until_said(cluster, first, job, words, 8)
        assert "last_failed" in cluster.sh(first, f"cat {BACKUPS}/etcd-{job}.prom")
    for _time in range(3):
        time.sleep(1.1)
        cluster.sh(first, start)
    assert int(cluster.sh(first, f"ls {BACKUPS}/*.db | wc -l")) == 2
    assert "last_failed" in cluster.sh(first, f"cat {BACKUPS}/etcd-backup.prom")
    # A full disk: the unit fails, and what is there stays.
    there = cluster.sh(first, f"ls {BACKUPS}/*.db")
    cluster.sh(first, f"mount -t tmpfs -o size=1m,mode=700 tmpfs {BACKUPS} && ! {start}; umount {BACKUPS}")
    assert cluster.sh(first, f"ls {BACKUPS}/*.db") == there
    until_said(cluster, first, "backup", "free", 40)
    cluster("stop", first)
    try:
        deadline = time.monotonic() + 90
        others = [host for host in cluster.hosts if host != first]
        while not any(cluster.sh(host, f"{start}; ls {BACKUPS}/*.db 2>/dev/null", check=False) for host in others):
            assert time.monotonic() < deadline
    finally:
        cluster("start", first)
    cluster.site()
    for host in cluster.hosts:
        assert (
            cluster.sh(
                host,
                "ls /etc/systemd/system /etc/kubernetes/kubeadm-etcd | grep -c 'kubeadm-etcd-\\|timers.json' || true",
            ).strip()
            == "0"
        )
    assert cluster.site().changed() == {}


@pytest.mark.long
def test_a_restore_after_all_hosts_are_gone(cluster: Lab, tmp_path: Path) -> None:
    """Only a snapshot, and the CA with a copy of its key from a safe."""
    fill(cluster, "/registry/c", 1000)
    snapshot = backed_up(cluster, tmp_path / "copies")
    (tmp_path / "ca.crt").write_text(cluster.sh("infra0", "cat /etc/kubernetes/pki/etcd/ca.crt"))
    export = ("-e", f"etcd_ca_export={tmp_path}/ca-key.pem", "-e", "etcd_ca_export_passphrase=six-words-from-a-vault")
    assert cluster.play(*export, playbook="playbooks/move_ca.yml").code == 0
    cluster.fresh()
    own = {
        "etcd_ca_cert": str(tmp_path / "ca.crt"),
        "etcd_ca_key": str(tmp_path / "ca-key.pem"),
        "etcd_ca_key_passphrase": "six-words-from-a-vault",
    }
    restored(cluster, snapshot, "-e", json.dumps(own))
    assert healthy(cluster) and count(cluster, "/registry/c") == 1000
    assert cluster.sh("infra0", "cat /etc/kubernetes/pki/etcd/ca.crt") == (tmp_path / "ca.crt").read_text()
    assert cluster.site("-e", json.dumps(own)).changed() == {}


@pytest.mark.long
def test_a_restore_from_the_last_member(cluster: Lab, tmp_path: Path) -> None:
    """Its database is the snapshot: of the member as it runs, and of its files."""
    fill(cluster, "/registry/d", 1000)
    for host in ("infra1", "infra2"):
        cluster("wipe", host)
    refused = cluster.play()
    assert refused.code != 0 and "Traceback" not in refused.output
    snapshot = backed_up(cluster, tmp_path / "copies")
    cluster.sh("infra0", "mv /etc/kubernetes/manifests/etcd.yaml /root/; while pidof etcd; do sleep 0.2; done")
    fetch = ["ansible", "infra0", "-i", cluster.inventory, "-b", "-m", "kubeadm.etcd.etcd_fetch_snapshot"]
    fetch += ["-a", f"path=/var/lib/etcd/member/snap/db dest={tmp_path}/raw"]
    subprocess.run(fetch, check=True, cwd=ROOT, capture_output=True, timeout=120)
    for file in (tmp_path / "raw" / "db", snapshot):
        restored(cluster, file, "-e", "etcd_replace_healthy_cluster=etcd")
        assert healthy(cluster) and count(cluster, "/registry/d") == 1000
    cluster.sh("infra0", "rm -f /root/etcd.yaml")


@pytest.mark.long
def test_copies_on_the_controller(cluster: Lab, tmp_path: Path) -> None:
    """A directory that cannot be used is refused before the snapshot; a file is compared with its description, before anything stops."""
    (tmp_path / "file").write_text("x")
    before = newest(cluster)
    for into, words in (
        ("file/copies", "file is not a directory of the controller"),
        ("file", "is not a directory of the controller"),
    ):
        refused = cluster.play("-e", f"etcd_backup_fetch_dir={tmp_path}/{into}", playbook="playbooks/backup.yml")
        said = flat(refused.output)
        assert refused.code != 0 and "Nothing has been changed" in said and words in said, refused.output[-3000:]
    assert newest(cluster) == before
    one = backed_up(cluster, tmp_path / "copies")
    fill(cluster, "/registry/more", 100)
    two = backed_up(cluster, tmp_path / "copies")

    def drilled(path: Path) -> str:
        run = cluster.play("-e", f"etcd_snapshot={path}", playbook="playbooks/restore_drill.yml")
        said = flat(run.output)
        assert ("Nothing has been changed" in said) is (run.code != 0), run.output[-4000:]
        return said

    assert f"{one}: restored in" in drilled(one) and "as recorded" in drilled(one)
    # An older delivery, and a pair that was renamed.
    alone, pair = tmp_path / one.name, tmp_path / "kept.db"
    alone.write_bytes(one.read_bytes())
    pair.write_bytes(two.read_bytes())
    pair.with_name("kept.db.json").write_text(two.with_name(f"{two.name}.json").read_text())
    assert "nothing was recorded to compare it with" in drilled(alone) and "as recorded" in drilled(pair)
    one.write_bytes(two.read_bytes())
    assert "is not the snapshot that" in drilled(one)
    run = cluster.play(
        "-e", f"etcd_snapshot={one}", "-e", "etcd_replace_healthy_cluster=etcd", playbook="playbooks/restore.yml"
    )
    assert run.code != 0 and "Nothing has been changed" in flat(run.output) and healthy(cluster)
    assert count(cluster, "/registry/more") == 100
    restored(cluster, two, "-e", "etcd_replace_healthy_cluster=etcd")
    assert healthy(cluster) and count(cluster, "/registry/more") == 100
