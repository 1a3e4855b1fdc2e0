"""A cluster founded by an earlier version of the collection is adopted without a restart."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from .conftest import ROOT, Lab, different
from .test_live import healthy, rewritten, writing

# The last commit without member records.
FORMER = "e6a38b6"
RECORD = "/etc/kubernetes/kubeadm-etcd/member.json"


def checkout(path: Path) -> Path:
    """The collection at FORMER, from the git history. A shallow clone lacks it."""
    archive = subprocess.run(["git", "archive", FORMER], cwd=ROOT, capture_output=True, check=False)
    if archive.returncode != 0:
        pytest.skip(f"this clone does not have commit {FORMER}: {archive.stderr.decode().strip()}")
    subprocess.run(["tar", "-x"], cwd=path, input=archive.stdout, check=True)
    return path


@pytest.mark.long
def test_a_rerun_restarts_no_member_and_writes_the_record(lab: Lab, tmp_path: Path) -> None:
    """And the run after it changes nothing."""
    lab.fresh()
    lab.site(CWD=str(checkout(tmp_path)))
    assert not any(lab.sh(host, f"ls {RECORD}", check=False) for host in lab.hosts)
    before, containers = lab.fingerprint(), lab.containers()
    with writing(lab, "adopted") as counted:
        run = lab.site()
    after = lab.fingerprint()
    assert lab.containers() == containers and healthy(lab), run.output[-6000:]
    assert counted["lost"] == 0 and counted["nowhere"] == 0 and counted["gap"] < 2, counted
    records = [json.loads(lab.sh(host, f"cat {RECORD}")) for host in lab.hosts]
    told = {member["name"]: f"{member['ID']:x}" for member in lab.members()}
    assert {record["name"]: record["member_id"] for record in records} == told
    assert len({record["cluster_id"] for record in records}) == 1
    assert RECORD in rewritten(before, after), different(before, after)
    assert lab.site().changed() == {}
