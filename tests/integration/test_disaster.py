"""200 000 keys, a kube-apiserver and its watches: quorum is destroyed, then everything. A snapshot that was taken under load brings it back."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .conftest import LAB, Lab
from .test_backup import count, fill
from .test_control_plane import HOST, INIT, KUBECTL, WRITES, Plane, plane
from .test_live import flat, healthy, writing
from .test_pki import meanwhile

__all__ = ["plane"]

pytestmark = pytest.mark.long

KEYS = int(os.environ.get("KUBEADM_ETCD_KEYS", "200000"))
BUMP = 1_000_000_000

# A client as client-go's informers are: it lists, watches from there on, resumes where a connection ends, and lists anew if that is too old.
# It notes every revision that is not later than one that it has seen.
WATCH = (
    WRITES.split("good, failed")[0]
    + """
def call(path):
    connection = http.client.HTTPSConnection(address, 6443, timeout=30, context=context)
    connection.request("GET", "/api/v1/configmaps?" + path)
    answer = connection.getresponse()
    if answer.status != 200:
        raise OSError(answer.status)
    return answer

seen, events, lists, expired, back = 0, 0, 0, 0, []
def saw(kind, revision, former):
    if revision < former:
        back.append([kind, former, revision])
    return max(revision, former)

resume = 0
while not os.path.exists("/run/watch-is-over"):
    try:
        if not resume:
            resume = seen = saw("list", int(json.loads(call("limit=1").read())["metadata"]["resourceVersion"]), seen)
            lists += 1
        for line in call("watch=1&allowWatchBookmarks=true&timeoutSeconds=5&resourceVersion=%d" % resume):
            event = json.loads(line)
            if event["type"] == "ERROR":
                resume, expired = 0, expired + (event["object"].get("code") == 410)
                break
            events += event["type"] != "BOOKMARK"
            resume = seen = saw(event["type"], int(event["object"]["metadata"]["resourceVersion"]), seen)
    except Exception as exc:
        # 410 as the answer itself.
        if "410" in str(exc):
            resume, expired = 0, expired + 1
        time.sleep(0.3)
print(json.dumps({"seen": seen, "events": events, "lists": lists, "expired": expired, "back": back}))
"""
)


@contextlib.contextmanager
def watching(lab: Lab) -> Iterator[dict[str, Any]]:
    """A client with a watch meanwhile; what it saw."""
    seen: dict[str, Any] = {}
    argv = [str(LAB), "exec", "--name", lab.name, HOST, "--", "python3", "-c", WATCH]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield seen
        finally:
            lab.sh(HOST, "touch /run/watch-is-over")
            out, _err = process.communicate(timeout=120)
            lab.sh(HOST, "rm /run/watch-is-over")
            seen.update(json.loads(out.strip().splitlines()[-1]))
            print("watch:", seen)


def names(lab: Lab, prefix: str, revision: int = 0) -> list[str]:
    """All keys with a prefix, as etcdctl tells them; revision: at which one."""
    at = (f"--rev={revision}",) if revision else ()
    return lab.etcdctl("infra0", "get", "--prefix", prefix, "--keys-only", *at).split()


def digest(found: list[str]) -> str:
    return hashlib.sha256("\n".join(sorted(found)).encode()).hexdigest()


def revision_of(planes: Plane) -> int:
    """As kube-apiserver gives it to clients."""
    return int(
        planes.sh(f"{KUBECTL} get --raw '/api/v1/namespaces?limit=1'").split('"resourceVersion":"')[1].split('"')[0]
    )


def check(planes: Plane, kept: dict[str, Any]) -> None:
    """Every key up to the snapshot is there, nothing that was written later, and new writes work."""
    lab = planes.lab
    planes.ready(True, 180)
    assert healthy(lab) and count(lab, "/registry/bulk/") == KEYS
    assert digest(names(lab, "/registry/bulk/")) == kept["bulk"]
    assert set(kept["maps"]) <= set(names(lab, "/registry/configmaps/"))
    assert sorted(names(lab, "load/")) == sorted(kept["load"]) and not names(lab, "/registry/after/")
    old = lab.etcdctl("infra0", "get", "/registry/bulk/0000000", f"--rev={kept['revision']}", check=False)
    assert "compacted" in old or old.strip() == "", old
    planes.sh(f"{KUBECTL} create configmap after-{revision_of(planes)}")
    run = lab.play(inventory=str(planes.inventory))
    assert run.code == 0 and run.changed() == {}, run.output[-4000:]


def test_200_000_keys(plane: Plane, tmp_path: Path) -> None:
    lab = plane.lab
    plane.play()
    lab("apiserver", HOST)
    plane.sh(INIT % plane.address)
    plane.ready(True)
    fill(lab, "/registry/bulk/", KEYS)
    # Of a cluster that is lost, these are in a safe.
    (tmp_path / "ca.crt").write_text(lab.sh("infra0", "cat /etc/kubernetes/pki/etcd/ca.crt"), encoding="utf-8")
    export = {"etcd_ca_export": str(tmp_path / "ca.key"), "etcd_ca_export_passphrase": "six-words-from-a-vault"}
    assert lab.play("-e", json.dumps(export), playbook="playbooks/move_ca.yml").code == 0
    with watching(lab) as seen:
        with writing(lab, "load") as written, meanwhile(lab, [HOST], WRITES) as load:
            run = lab.play("-e", f"etcd_backup_fetch_dir={tmp_path}/copies", playbook="playbooks/backup.yml")
        assert run.code == 0 and written["lost"] == 0 and load[HOST][0] > 0, run.output[-4000:]
        (snapshot,) = (tmp_path / "copies").iterdir()
        revision = int(re.findall(r"-r(\d+)\.db", snapshot.name)[0])
        kept = {
            "revision": revision,
            "bulk": digest(names(lab, "/registry/bulk/", revision)),
            "maps": names(lab, "/registry/configmaps/", revision),
            "load": names(lab, "load/", revision),
        }
        # It was taken in the middle.
        assert 0 < len(kept["load"]) < written["acknowledged"], (len(kept["load"]), written)
        fill(lab, "/registry/after/", 1000)
        before = revision_of(plane)
        print(
            f"{KEYS} keys, {snapshot.stat().st_size >> 20} MiB, revision {revision}, {len(kept['load'])} of {written} in it"
        )

        for host in ("infra1", "infra2"):
            lab("wipe", host)
        arguments = ("-e", f"etcd_snapshot={snapshot}", "-e", "etcd_replace_healthy_cluster=etcd")
        run = lab.play(*arguments, playbook="playbooks/restore.yml", inventory=str(plane.inventory), timeout=900)
        assert run.code == 0, run.output[-6000:]
        print(f"quorum destroyed: restored in {run.seconds:.0f} s")
        check(plane, kept)
        after = revision_of(plane)
        assert after > revision + BUMP > before

        for host in lab.hosts:
            lab("wipe", host)
        own = {
            "etcd_ca_cert": str(tmp_path / "ca.crt"),
            "etcd_ca_key": str(tmp_path / "ca.key"),
            "etcd_ca_key_passphrase": "six-words-from-a-vault",
        }
        # The same snapshot once more: what was written since the restore must not be seen again with other content under the same revision.
        later = lab.play(*arguments, "-e", json.dumps(own), playbook="playbooks/restore.yml", inventory=str(plane.inventory), timeout=900)  # fmt: skip
        assert later.code == 0, later.output[-6000:]
        print(f"everything destroyed: restored in {later.seconds:.0f} s; {flat(later.output)[-200:]}")
        check(plane, kept)
    assert seen["events"] > 0 and seen["expired"] >= 1 and seen["back"] == [], seen
    assert seen["seen"] > after
