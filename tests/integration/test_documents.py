"""Runs every command of docs/backup.md and docs/disaster.md unchanged, in the state that the page describes.

ROWS has them all: tests/unit/test_documents.py fails for a command that has no row, and for a row without a command. The commands are run in a
directory that looks like a checkout, with the inventory and the files that they name.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from .conftest import ROOT, Lab, set_alarm
from .test_backup import BACKUPS, count, fill
from .test_live import WRITER, flat, healthy
from .test_members import names

pytestmark = pytest.mark.long

PAGES = ("backup", "disaster")

# Inline code with this beginning is a command. A playbook's name alone is not.
_BEGINS = r"(?:ansible|ansible-playbook|openssl|journalctl|systemctl|etcdctl|ssh|cp|mv|rm|\S+\.yml) "
_FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)


def commands(text: str) -> list[tuple[str, str, str]]:
    """Heading, language ('inline' for inline code) and content of each command and each piece of inventory of a page."""
    found = []
    for section in re.split(r"^(?=#)", text, flags=re.MULTILINE)[1:]:
        heading = section.split("\n", 1)[0].lstrip("# ")
        found += [(heading, language, content.strip()) for language, content in _FENCE.findall(section)]
        for inline in re.findall(rf"`({_BEGINS}[^`]*)`", _FENCE.sub("", section)):
            found.append((heading, "inline", inline))
    return found


def of_page(page: str) -> list[tuple[str, str, str]]:
    return commands((ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8"))


# --- Where and in which state ---------------------------------------------------------------------------------------

# The names that the pages use.
NAME = "etcd-20261127T090000Z-r51234.db"
KEYS = 300
PASSPHRASE = "six-words-from-a-vault"


@dataclass
class Desk:
    """The controller: a directory with the checkout, the inventory, and a snapshot of the cluster as it is on the hosts at first."""

    lab: Lab
    path: Path
    seen: Any = None
    # The result of the last check of the cluster.
    is_whole: bool = False

    def run(self, script: str, check: bool = True) -> str:
        """A command as it stands."""
        environment = {**os.environ, "ANSIBLE_NOCOLOR": "1", "ANSIBLE_FORCE_COLOR": "0"}
        environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
        environment["ANSIBLE_VAULT_PASSWORD_FILE"] = str(self.path / "vault-password")
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script], cwd=self.path, env=environment, text=True, timeout=900,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
        )  # fmt: skip
        assert "Traceback" not in done.stdout, done.stdout[-6000:]
        assert done.returncode == 0 or not check, done.stdout[-8000:]
        return done.stdout

    def variables(self, text: str) -> None:
        """Variables of the group, in the inventory."""
        file = self.path / "inventory/group_vars/etcd.yml"
        wanted = f"---\n{text}\n"
        self.is_whole = self.is_whole and file.read_text(encoding="utf-8") == wanted
        file.write_text(wanted, encoding="utf-8")

    def hosts(self, *names: str) -> None:
        """Which hosts the inventory has: all if none is named."""
        text = Path(self.lab.inventory).read_text(encoding="utf-8")
        for host in self.lab.addresses() if names else ():
            if host not in names:
                text = re.sub(rf"^    {host}:\n(?:      .*\n)+", "", text, flags=re.MULTILINE)
        (self.path / "inventory/hosts.yml").write_text(text, encoding="utf-8")

    def snapshot(self) -> Path:
        """The file that the commands restore from: of the cluster with KEYS keys."""
        target = self.path / "backups" / NAME
        target.parent.mkdir(exist_ok=True)
        shutil.copy(self.path / "kept.db", target)
        return target

    def clear(self) -> None:
        """No snapshot anywhere, and the inventory of the lab."""
        shutil.rmtree(self.path / "backups", ignore_errors=True)
        for host in self.lab.hosts:
            self.lab.sh(host, f"rm -rf {BACKUPS}", check=False)
        self.variables("")
        self.hosts()

    def ready(self) -> None:
        """The state that every row begins with."""
        self.clear()
        if not self.is_whole:
            self.run("ansible-playbook site.yml -i inventory", check=False)
        if not self.whole():
            self.lab.fresh()
            self.run("ansible-playbook site.yml -i inventory")
            fill(self.lab, "/registry/doc", KEYS)

    @property
    def one(self) -> Lab:
        """The lab, asking only infra0: the others may be down."""
        return replace(self.lab, hosts=["infra0"])

    def whole(self) -> bool:
        """Whether all keys are there, in a healthy cluster of three."""
        self.is_whole = (
            healthy(self.one) and count(self.one, "/registry/doc") == KEYS and names(self.lab) == self.lab.hosts
        )
        return self.is_whole


@pytest.fixture(scope="module")
def desk(cluster: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    lab = cluster
    path = tmp_path_factory.mktemp("desk")
    for entry in ROOT.iterdir():
        if entry.name not in (".git", "inventory", "backups", ".pytest_cache"):
            (path / entry.name).symlink_to(entry)
    (path / "inventory/group_vars").mkdir(parents=True)
    (path / "vault-password").write_text("a password\n", encoding="utf-8")
    it = Desk(lab, path)
    it.clear()
    fill(lab, "/registry/doc", KEYS)
    (path / "ca.crt").write_text(lab.sh("infra0", "cat /etc/kubernetes/pki/etcd/ca.crt"), encoding="utf-8")
    export = {"etcd_ca_export": "ca-key.pem", "etcd_ca_export_passphrase": PASSPHRASE}
    it.run(f"ansible-playbook playbooks/move_ca.yml -i inventory -e '{json.dumps(export)}'")
    (path / "vault.yml").write_text(f"etcd_ca_key_passphrase: {PASSPHRASE}\n", encoding="utf-8")
    it.run("ansible-vault encrypt vault.yml")
    it.run("ansible-playbook playbooks/backup.yml -i inventory -e etcd_backup_fetch_dir=backups")
    (taken,) = (path / "backups").glob("*.db")
    taken.rename(path / "kept.db")
    yield it
    lab.fresh()


def snapshots(desk: Desk) -> dict[str, list[str]]:
    """Snapshots by host, where there are any."""
    found = {
        host: desk.lab.sh(host, f"ls {BACKUPS} 2>/dev/null | grep 'db$' || true").split() for host in desk.lab.hosts
    }
    return {host: taken for host, taken in found.items() if taken}


def crash(desk: Desk, *hosts: str) -> None:
    """Nothing runs there any more."""
    for host in hosts:
        desk.lab.sh(host, "systemctl stop kubelet; pkill -KILL -x etcd; while pidof etcd; do sleep 0.2; done")


def lose_disk(desk: Desk) -> None:
    crash(desk, "infra2")
    desk.lab.sh("infra2", "rm -rf /var/lib/etcd/member")


def wipe(desk: Desk, *hosts: str) -> None:
    for host in hosts:
        desk.lab("wipe", host)


def all_gone(desk: Desk) -> None:
    desk.lab.fresh()
    desk.snapshot()


def one_left(desk: Desk) -> None:
    """infra0 runs, without a quorum; the others are new machines."""
    wipe(desk, "infra1", "infra2")


def one_left_stopped(desk: Desk) -> None:
    one_left(desk)
    crash(desk, "infra0")


def database_of_the_one(desk: Desk) -> None:
    one_left_stopped(desk)
    target = desk.path / "backups/db"
    target.parent.mkdir(exist_ok=True)
    desk.run(
        'ansible infra0 -i inventory -b -m kubeadm.etcd.etcd_fetch_snapshot -a "path=/var/lib/etcd/member/snap/db dest=backups"'
    )


# Large values that are overwritten, and then more than the thousand revisions that are kept; until etcd takes no more.
FILL = r"""
import importlib.util, sys
spec = importlib.util.spec_from_file_location("writer", "/root/writer.py")
writer = importlib.util.module_from_spec(spec)
spec.loader.exec_module(writer)

def put(key, size):
    body = {"key": writer.encoded(key), "value": writer.encoded("x" * size)}
    return any(writer.call(sys.argv[1], "/v3/kv/put", body) for _attempt in range(2))

for number in range(100):
    assert put(f"/large{number % 4}", 400000)
number = 0
while put(f"/small{number % 4}", 16000):
    number += 1
print(number)
"""


def full(desk: Desk) -> None:
    """Of history, with a small quota."""
    desk.variables('etcd_extra_args: {quota-backend-bytes: "67108864"}')
    desk.run("ansible-playbook site.yml -i inventory")
    for name, text in (("writer", WRITER.read_text(encoding="utf-8")), ("full", FILL)):
        desk.lab.sh("infra0", f"cat > /root/{name}.py <<'END'\n{text}\nEND")
    url = f"https://{desk.lab.addresses()['infra0']}:2379"
    assert int(desk.lab.sh("infra0", f"python3 /root/full.py {url}").split()[-1]) > 1000
    assert "NOSPACE" in desk.lab.etcdctl("infra0", "alarm", "list")


def deleted(desk: Desk) -> None:
    desk.lab.etcdctl("infra0", "del", "--prefix", "/registry/doc")
    desk.snapshot()


def corrupt(desk: Desk) -> None:
    set_alarm(desk.lab, 2, "ACTIVATE", "infra2")


def corrupt_everywhere(desk: Desk) -> None:
    set_alarm(desk.lab, 2, "ACTIVATE", "")
    desk.snapshot()


def another_host(desk: Desk) -> None:
    """infra2 is gone for good and removed, and infra3 is in the inventory in its place."""
    desk.lab("stop", "infra2")
    desk.run("ansible-playbook playbooks/remove_member.yml -i inventory -e etcd_member=infra2")
    desk.lab("add", "1")
    desk.hosts("infra0", "infra1", "infra3")


def is_joined(desk: Desk, _said: str) -> bool:
    good = names(desk.lab) == ["infra0", "infra1", "infra3"] and count(desk.one, "/registry/doc") == KEYS
    desk.run("ansible-playbook playbooks/remove_member.yml -i inventory -e etcd_member=infra3")
    desk.lab("remove", "1")
    desk.lab("start", "infra2")
    desk.hosts()
    desk.run("ansible-playbook playbooks/replace_member.yml -i inventory -e etcd_member=infra2")
    return good


def is_whole(desk: Desk, _said: str) -> bool:
    return desk.whole()


def is_removed(desk: Desk, _said: str) -> bool:
    good = names(desk.lab) == ["infra0", "infra1"]
    desk.lab("start", "infra2")
    desk.run("ansible-playbook playbooks/replace_member.yml -i inventory -e etcd_member=infra2")
    return good and desk.whole()


def is_undone(desk: Desk, _said: str) -> bool:
    """The state before is kept twice."""
    kept = [desk.lab.sh(host, "ls -d /var/lib/etcd/member.replaced-*").split() for host in desk.lab.hosts]
    return desk.whole() and all(kept) and len(snapshots(desk)) == 1


def takes_writes(desk: Desk, _said: str) -> bool:
    return "OK" in desk.lab.etcdctl("infra0", "put", "a", "b") and desk.whole()


def is_fetched(desk: Desk, _said: str) -> bool:
    """One host has them, and the controller a copy of the last one."""
    ((_host, taken),) = snapshots(desk).items()
    return sorted(path.name for path in (desk.path / "backups").iterdir()) == [taken[-1], f"{taken[-1]}.json"]


def is_kept_of_the_one(desk: Desk, said: str) -> bool:
    good = is_fetched(desk, said) and "may lack the last writes" in flat(said)
    (snapshot,) = (desk.path / "backups").glob("*.db")
    desk.run(f"ansible-playbook playbooks/restore.yml -i inventory -e etcd_snapshot={snapshot}")
    return good and desk.whole()


def has_database(desk: Desk, _said: str) -> bool:
    there = desk.lab.sh("infra0", "sha256sum < /var/lib/etcd/member/snap/db").split()[0]
    return there in subprocess.check_output(["sha256sum", desk.path / "backups/db"], text=True, timeout=60)


def names_infra2(desk: Desk, said: str) -> bool:
    return is_fetched(desk, said) and "Alarm CORRUPT at infra2" in flat(said)


def is_scheduled(desk: Desk, _said: str) -> bool:
    timers = [
        desk.lab.sh(host, "systemctl is-active kubeadm-etcd-backup.timer; systemctl start kubeadm-etcd-backup.service")
        for host in desk.lab.hosts
    ]
    return timers == ["active\n"] * 3 and len(snapshots(desk)) == 1


def with_rclone(desk: Desk) -> None:
    """A program that keeps a copy of its argument, in place of the real upload."""
    script = '#!/bin/sh\\n[ "$1 $3" = "copy remote:etcd" ] && mkdir -p /srv/remote && cp "$2" /srv/remote/\\n'
    for host in desk.lab.hosts:
        desk.lab.sh(
            host, f"rm -rf /srv/remote; printf '{script}' > /usr/local/bin/rclone; chmod 755 /usr/local/bin/rclone"
        )


def is_sent(desk: Desk, _said: str) -> bool:
    desk.run("ansible-playbook playbooks/backup.yml -i inventory")
    ((host, taken),) = snapshots(desk).items()
    return desk.lab.sh(host, "ls /srv/remote").split() == [*taken, f"{taken[-1]}.json"]


def is_pair(desk: Desk, _said: str) -> bool:
    told = [
        desk.run(command)
        for command in ("openssl pkey -in backup.key -pubout", "openssl x509 -in backup.crt -noout -pubkey")
    ]
    return told[0] == told[1] and "PUBLIC KEY" in told[0]


def encrypted(desk: Desk) -> None:
    """What a command of etcd_backup_command has sent away: the file of a snapshot encrypted to the certificate."""
    if not (desk.path / "backup.crt").exists():
        desk.run(
            "openssl req -x509 -newkey rsa:3072 -nodes -days 3650 -subj /CN=etcd-backup -keyout backup.key -out backup.crt"
        )
    desk.run(
        "ansible-playbook playbooks/backup.yml -i inventory -e etcd_backup_fetch_dir=$PWD -e etcd_backup_recipient=backup.crt"
    )
    ((host, taken),) = snapshots(desk).items()
    for end in ("", ".json"):
        (desk.path / f"{taken[-1]}{end}.cms").rename(desk.path / f"{NAME}{end}.cms")
    desk.seen = desk.lab.sh(host, f"sha256sum < {BACKUPS}/{taken[-1]}").split()[0]


def is_opened(desk: Desk, _said: str) -> bool:
    told = subprocess.check_output(["sha256sum", desk.path / NAME], text=True, timeout=60).split()[0]
    described = json.loads((desk.path / f"{NAME}.json").read_text(encoding="utf-8"))
    good = described["size"] == (desk.path / NAME).stat().st_size - 32
    for path in desk.path.glob(f"{NAME}*"):
        path.unlink()
    return bool(good and told == desk.seen)


def on_infra1(desk: Desk) -> None:
    text = subprocess.check_output(["base64", desk.path / "kept.db"], text=True, timeout=60)
    with subprocess.Popen(
        [str(ROOT / "lab/lab"), "exec", "--name", desk.lab.name, "infra1", "--", "bash", "-c",
         f"mkdir -p -m 700 {BACKUPS}; base64 -d > {BACKUPS}/{NAME}"], stdin=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        process.communicate(text, timeout=60)


def is_copied(desk: Desk, _said: str) -> bool:
    return (desk.path / "backups" / NAME).read_bytes() == (desk.path / "kept.db").read_bytes()


def snapshots_twice(desk: Desk) -> None:
    """One on a host, and one on the controller, of the revision that the name of the page's file says."""
    desk.run("ansible-playbook playbooks/backup.yml -i inventory")
    kept = desk.path / "kept.db"
    tool = subprocess.check_output(
        [ROOT / "lab/lab", "build", "--etcd", "3.6.14", "--only", "etcdutl"], text=True, timeout=900
    ).strip()
    told = json.loads(subprocess.check_output([tool, "snapshot", "status", kept, "-w", "json"], timeout=60))
    missing = 51234 - told["revision"]
    bump = ["--data-dir", desk.path / "bumped", "--mark-compacted", f"--bump-revision={missing}"]
    subprocess.run([tool, "snapshot", "restore", kept, *bump], check=True, capture_output=True, timeout=60)
    shutil.copy(desk.path / "bumped/member/snap/db", desk.snapshot())
    shutil.rmtree(desk.path / "bumped")
    desk.seen = desk.lab.containers()


def is_rehearsed(desk: Desk, said: str) -> bool:
    return len(re.findall(r"restored in \d", said)) == 2 and desk.lab.containers() == desk.seen and desk.whole()


def drill_is_scheduled(desk: Desk, _said: str) -> bool:
    return [desk.lab.sh(host, "systemctl is-active kubeadm-etcd-drill.timer") for host in desk.lab.hosts] == [
        "active\n"
    ] * 3


def timer_has_run(job: str) -> Callable[[Desk], object]:
    """A host whose timer has run."""

    def make(desk: Desk) -> None:
        desk.variables(f'etcd_{job}_schedule: "Sun 03:00"')
        desk.run("ansible-playbook site.yml -i inventory")
        desk.run("ansible-playbook playbooks/backup.yml -i inventory")
        for host in desk.lab.hosts:
            desk.lab.sh(host, f"systemctl start kubeadm-etcd-{job}.service")

    return make


@dataclass(frozen=True)
class Row:
    """The state before a command, and the checks after it. on_host: the command runs on the host of a member."""

    prepare: Callable[[Desk], object]
    check: Callable[[Desk, str], bool]
    on_host: bool = False


def nothing(_desk: Desk) -> None:
    """The healthy cluster, and no snapshot."""


_READ = Row(
    timer_has_run("backup"), lambda _desk, said: "verified" in said or "takes the snapshot" in said, on_host=True
)

# By page, heading and the first words of the command.
ROWS: dict[tuple[str, str, str], Row] = {
    ("backup", "Take a snapshot", "ansible-playbook playbooks/backup.yml"): Row(nothing, is_fetched),
    ("backup", "Schedule snapshots", "etcd_backup_schedule:"): Row(nothing, is_scheduled),
    ("backup", "Schedule snapshots", "journalctl -u kubeadm-etcd-backup"): _READ,
    ("backup", "Send snapshots away", "etcd_backup_command:"): Row(with_rclone, is_sent),
    ("backup", "Send snapshots away", "openssl req"): Row(nothing, is_pair),
    ("backup", "Send snapshots away", "for part in"): Row(encrypted, is_opened),
    ("backup", "Restore a snapshot", "ansible-playbook playbooks/restore.yml"): Row(all_gone, is_whole),
    ("backup", "Restore a snapshot", "ansible infra1"): Row(on_infra1, is_copied),
    ("backup", "Rehearse a restore", "ansible-playbook playbooks/restore_drill.yml"): Row(snapshots_twice, is_rehearsed),
    ("backup", "Rehearse a restore", "etcd_drill_schedule:"): Row(nothing, drill_is_scheduled),
    ("backup", "Rehearse a restore", "journalctl -u kubeadm-etcd-drill"): Row(
        timer_has_run("drill"), lambda _desk, said: "restored in" in said or "no snapshot to rehearse" in said, on_host=True
    ),
    ("disaster", "One host is gone", "ansible-playbook playbooks/replace_member.yml"): Row(
        lambda desk: wipe(desk, "infra2"), is_whole
    ),
    ("disaster", "One host is gone", "ansible-playbook playbooks/remove_member.yml"): Row(
        lambda desk: desk.lab("stop", "infra2"), is_removed
    ),
    ("disaster", "One host is gone", "ansible-playbook site.yml"): Row(another_host, is_joined),
    ("disaster", "The disk of one host is gone", "ansible-playbook playbooks/replace_member.yml"): Row(
        lose_disk, is_whole
    ),
    ("disaster", "Quorum is gone", "ansible-playbook site.yml"): Row(
        lambda desk: crash(desk, "infra1", "infra2"), is_whole
    ),
    ("disaster", "One member is left", "ansible-playbook playbooks/backup.yml"): Row(one_left, is_kept_of_the_one),
    ("disaster", "One member is left", "ansible infra0"): Row(one_left_stopped, has_database),
    ("disaster", "One member is left", "ansible-playbook playbooks/restore.yml"): Row(database_of_the_one, is_whole),
    ("disaster", "All hosts are gone", "ansible-playbook playbooks/restore.yml"): Row(all_gone, is_whole),
    ("disaster", "Keys were deleted", "ansible-playbook playbooks/restore.yml"): Row(deleted, is_undone),
    ("disaster", "The database is full", "ansible-playbook playbooks/defragment.yml"): Row(full, takes_writes),
    ("disaster", "The alarm CORRUPT is raised", "ansible-playbook playbooks/backup.yml"): Row(corrupt, names_infra2),
    ("disaster", "The alarm CORRUPT is raised", "ansible-playbook playbooks/replace_member.yml"): Row(corrupt, is_whole),
    ("disaster", "The alarm CORRUPT is raised", "ansible-playbook playbooks/restore.yml"): Row(corrupt_everywhere, is_whole),
}  # fmt: skip


def found_in(page: str) -> list[tuple[Row | None, str, str]]:
    """The row, language and content of each command of a page. None for the row if there is none, or if another command has it."""
    taken: set[tuple[str, str, str]] = set()
    found = []
    for heading, language, content in of_page(page):
        keys = [key for key in ROWS if key[:2] == (page, heading) and content.startswith(key[2]) and key not in taken]
        taken.update(keys)
        found.append((ROWS[keys[0]] if len(keys) == 1 else None, language, content))
    return found


def cases() -> list[Any]:
    return [
        pytest.param(row, language, content, id=f"{page}-{number}-{content.split()[1].split('/')[-1]}")
        for page in PAGES
        for number, (row, language, content) in enumerate(found_in(page))
    ]


@pytest.mark.parametrize(("row", "language", "content"), cases())
def test_a_command_of_a_page_succeeds(desk: Desk, row: Row, language: str, content: str) -> None:
    """Afterwards, what the page promises is true."""
    desk.ready()
    desk.is_whole = False
    row.prepare(desk)
    if row.on_host:
        said = desk.lab.sh("infra0", f"{content} --no-pager")
    elif language == "yaml":
        desk.variables(content)
        said = desk.run("ansible-playbook site.yml -i inventory")
    else:
        said = desk.run(content)
    assert row.check(desk, said), said[-6000:]
