"""etcd_health on a real cluster, beside what etcdctl says, with a member down and without quorum."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from .conftest import ROOT, Lab


def module(lab: Lab, host: str, module_name: str, **options: Any) -> dict[str, Any]:
    """The result of a module, run on a host of the lab."""
    ansible = str(Path(sys.executable).parent / "ansible")
    done = subprocess.run(
        [ansible, "-i", lab.inventory, host, "-m", f"kubeadm.etcd.{module_name}", "-a", json.dumps(options)],
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        timeout=300,
        check=False,
        env={**os.environ, "ANSIBLE_NOCOLOR": "1", "ANSIBLE_CALLBACK_RESULT_FORMAT": "json"},
    )
    found: dict[str, Any] = json.loads(done.stdout[done.stdout.index("=> {") + 3 :])
    return found


def etcd_health(lab: Lab, **options: Any) -> dict[str, Any]:
    """What etcd_health says, asked on the first host."""
    members = [{"name": name, "address": address} for name, address in lab.addresses().items()]
    return module(lab, "infra0", "etcd_health", members=members, **options)


def test_it_says_what_etcdctl_says(cluster: Lab) -> None:
    result = etcd_health(cluster)
    assert result["healthy"] and result["quorum"] and result["problems"] == [] and not result["changed"]
    text = cluster.etcdctl("infra0", "--endpoints", cluster.endpoints(), "endpoint", "status", "-w", "json")
    theirs = {item["Endpoint"]: item["Status"] for item in json.loads(text)}
    for member in result["members"]:
        status = theirs[member["endpoint"]]
        assert int(member["id"], 16) == status["header"]["member_id"]
        assert member["version"] == status["version"] and member["db_size"] == status["dbSize"]
        assert (member["role"] == "leader") == (status["leader"] == status["header"]["member_id"])
    assert int(result["cluster_id"], 16) == status["header"]["cluster_id"]
    ends = cluster.sh("infra0", "openssl x509 -in /etc/kubernetes/pki/etcd/server.crt -noout -checkend $((363*86400))")
    assert "will not expire" in ends and result["members"][0]["certificate_days"] in (363, 364, 365)


def test_data_directories_say_whose_they_are(cluster: Lab) -> None:
    """What is read from the write-ahead log is what the running member says of itself."""
    result = etcd_health(cluster)
    for member in result["members"]:
        observed = module(cluster, member["name"], "etcd_host_info", name=member["name"])["etcd"]
        assert (observed["member_id"], observed["cluster_id"]) == (member["id"], result["cluster_id"])
        assert observed["formed"] and observed["ready"]


def test_members_that_are_down(cluster: Lab) -> None:
    """One down: quorum stays, the member and the remedy are named. Two down: no quorum. It fails only where asked to."""
    cluster("stop", "infra2")
    try:
        # It may have been the leader: the others then need an election, of a second or two, before they commit again.
        result = etcd_health(cluster, wait_for="quorum", timeout=30)
        assert result["quorum"] and not result["healthy"] and "msg" not in result, result
        assert [m["name"] for m in result["members"] if not m["reachable"]] == ["infra2"]
        assert re.search(r"infra2: .*(in time|No route|unreachable)", " ".join(result["problems"])), result["problems"]
        cluster("stop", "infra1")
        result = etcd_health(cluster, wait_for="quorum", timeout=3, fail=True)
        assert not result["quorum"] and "The cluster is not well after" in result["msg"]
    finally:
        cluster("start", "infra1", "infra2")
    result = etcd_health(cluster, wait_for="healthy", timeout=120, fail=True)
    assert result["healthy"] and result["waited"] > 0


def test_client_certificate_of_nobody(cluster: Lab) -> None:
    """A certificate of another CA is refused; the message says what it is about."""
    cluster.sh(
        "infra0",
        "mkdir -p /run/x && openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=x -days 1 -keyout /run/x/k -out /run/x/c 2>/dev/null",
    )
    result = etcd_health(cluster, cert="/run/x/c", key="/run/x/k")
    assert "does not accept our client certificate" in result["problems"][0], result["problems"]
    result = etcd_health(cluster, ca="/run/x/c")
    assert "ca.crt did not sign" in result["problems"][0], result["problems"]
    cluster.sh("infra0", "rm -r /run/x")
