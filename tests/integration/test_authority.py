"""A CA that was exchanged by hand, or whose certificate was renewed, on a running cluster."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path

import pytest

from .conftest import Lab, Run, different
from .test_live import flat, healthy, writing
from .test_pki import RENEW, serials
from .test_rotate_ca import ROTATE

ETCD = "/etc/kubernetes/pki/etcd"

# Issues all certificates again by the CA on disk, although members trust another one. Earlier versions of the collection did this.
ISSUE_ALL = [
    {
        "hosts": "etcd",
        "become": True,
        "gather_facts": False,
        "vars": {"member": {"name": "{{ inventory_hostname }}", "address": "{{ ansible_host }}"}},
        "tasks": [
            {
                "kubeadm.etcd.etcd_pki": {"step": "request", "renew": ["all"], "name": "{{ member.name }}"}
                | {"address": "{{ member.address }}"},
                "register": "asked",
            },
            {
                "kubeadm.etcd.etcd_pki": {
                    "step": "sign",
                    "name": "{{ member.name }}",
                    "address": "{{ member.address }}",
                }
                | {"requests": "{{ groups.etcd | map('extract', hostvars, 'entry') | list }}"},
                "register": "signed",
                "when": "inventory_hostname == 'infra0'",
            },
            {
                "kubeadm.etcd.etcd_pki": {"step": "install", "name": "{{ member.name }}"}
                | {"address": "{{ member.address }}", "ca_host": "{{ inventory_hostname == 'infra0' }}"}
                | {"certificates": "{{ hostvars.infra0.signed.signed[inventory_hostname] }}"},
            },
        ],
    }
]
ISSUE_ALL[0]["tasks"].insert(  # type: ignore[attr-defined]
    1,
    {
        "ansible.builtin.set_fact": {
            "entry": {"host": "{{ inventory_hostname }}", "name": "{{ member.name }}"}
            | {"address": "{{ member.address }}", "csrs": "{{ asked.csrs }}"}
        }
    },
)


def exchange(cluster: Lab, tmp_path: Path, *hosts: str, bundle: bool = False) -> None:
    """Another CA in the place of that of the cluster, as people do it by hand. The former one is kept in /root/former."""
    arguments = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=etcd-ca", "-days", "3650"]
    usage = "keyUsage=critical,digitalSignature,keyEncipherment,keyCertSign"
    files = ["-keyout", str(tmp_path / "n.key"), "-out", str(tmp_path / "n.crt"), "-addext", usage]
    subprocess.run(["openssl", *arguments, *files], check=True, capture_output=True)
    for host in hosts:
        cert, key = ((tmp_path / name).read_text() for name in ("n.crt", "n.key"))
        keep = f"mkdir -p /root/former; cp -a {ETCD}/ca.* /root/former/"
        more = f"cat /root/former/ca.crt >> {ETCD}/ca.crt" if bundle else "true"
        cluster.sh(host, f"{keep}; cat > {ETCD}/ca.crt <<'EOF'\n{cert}EOF\n{more}")
        if host == "infra0":
            cluster.sh(host, f"cat > {ETCD}/ca.key <<'EOF'\n{key}EOF")


def restore(cluster: Lab) -> None:
    """The former ca.crt on all hosts, the former ca.key on the CA host."""
    for host in cluster.hosts:
        cluster.sh(host, f"[ ! -d /root/former ] || cp -a /root/former/ca.* {ETCD}/; rm -rf /root/former")


def refused(cluster: Lab, *words: str) -> Run:
    """A run that says these words, and changes nothing."""
    before, containers = cluster.fingerprint(), cluster.containers()
    run = cluster.play()
    assert run.code != 0 and all(item in flat(run.output) for item in words), run.output[-6000:]
    assert run.changed() == {} and different(before, cluster.fingerprint()) == {}
    assert cluster.containers() == containers
    return run


def wait_until_healthy(cluster: Lab, seconds: float = 90.0) -> float:
    begin = time.monotonic()
    while not healthy(cluster):
        assert time.monotonic() < begin + seconds
        time.sleep(0.5)
    return time.monotonic() - begin


def test_a_ca_exchanged_by_hand_while_members_run(cluster: Lab, tmp_path: Path) -> None:
    """The run is refused, on whichever hosts the CA was exchanged. The members still work. With the former CA back, the next run changes nothing."""
    before = serials(cluster)
    for hosts, bundle in ((cluster.hosts, False), (["infra0"], False), (cluster.hosts, True)):
        exchange(cluster, tmp_path, *hosts, bundle=bundle)
        try:
            words = f"{ETCD}/ca.crt on {', '.join(hosts)} was exchanged while etcd runs"
            refused(cluster, words, "the former ca.key on infra0, then run site.yml: nothing restarts")
        finally:
            restore(cluster)
    assert cluster.site().changed() == {} and serials(cluster) == before and healthy(cluster)


def damaged(cluster: Lab, tmp_path: Path) -> Run:
    """All certificates are of another CA than the one that the members have read. The refusal of the next run."""
    exchange(cluster, tmp_path, *cluster.hosts)
    playbook = tmp_path / "issue.yml"
    playbook.write_text(json.dumps(ISSUE_ALL), encoding="utf-8")
    run = cluster.play(playbook=str(playbook))
    assert run.code == 0, run.output[-4000:]
    assert not healthy(cluster)
    return refused(cluster, "so members and clients reject each other. There are two ways out")


@pytest.mark.long
def test_two_remedies_for_certificates_that_no_member_trusts(cluster: Lab, tmp_path: Path) -> None:
    """The two that the message names: back to the former CA, and on to the new one."""
    containers = cluster.containers()
    try:
        damaged(cluster, tmp_path)
    finally:
        restore(cluster)
    cluster.site()
    assert healthy(cluster) and cluster.containers() == containers and cluster.site().changed() == {}
    run = damaged(cluster, tmp_path)
    assert "rotate_ca.yml -e etcd_allow_interruption=true restarts all members at once" in flat(run.output)
    # Without permission for an interruption, the run names its price.
    run = cluster.play(playbook=ROTATE)
    assert run.code != 0 and run.changed() == {}
    assert "no running member of cluster 'etcd' trusts the ca.crt of infra0" in flat(run.output), run.output[-3000:]
    begin = time.monotonic()
    run = cluster.site("-e", "etcd_allow_interruption=true", playbook=ROTATE)
    print(f"on to the new CA: {time.monotonic() - begin:.0f} s")
    assert healthy(cluster) and "then trust only etcd-ca" in flat(run.output)
    cluster.site()
    assert cluster.site().changed() == {} and healthy(cluster)
    for host in cluster.hosts:
        cluster.sh(host, "rm -rf /root/former")


@pytest.mark.long
def test_a_ca_certificate_that_is_renewed(cluster: Lab) -> None:
    """With the command from the warning, while a client writes: each member restarts once, no certificate is issued, and the next run changes nothing."""
    cluster.site()
    # A CA that ends soon, made of the one that is there: the same key and name.
    soon = "openssl x509 -in ca.crt -signkey ca.key -days 60 -set_serial 0x5 -out ca.crt.new && mv ca.crt.new ca.crt"
    cluster.sh("infra0", f"cd {ETCD} && {soon}")
    before, containers = serials(cluster), cluster.containers()
    run = cluster.site()
    assert set(run.changed()) == {"infra1", "infra2"} and "the CA expires on" in flat(run.output), run.output[-6000:]
    assert "rotate_ca.yml -e etcd_ca_same_key=true" in flat(run.output)
    run = cluster.site()
    assert run.changed() == {} and "the CA's certificate was renewed after etcd started" in flat(run.output)
    with writing(cluster, "samekey") as counted:
        begin = time.monotonic()
        cluster.site("-e", "etcd_ca_same_key=true", playbook=ROTATE)
        took = time.monotonic() - begin
    assert counted["lost"] == 0 and counted["nowhere"] == 0, counted
    assert serials(cluster) == before and healthy(cluster)
    after = cluster.containers()
    assert all(containers[host] != after[host] for host in cluster.hosts)
    for host in cluster.hosts:
        assert "ok" in cluster.sh(host, f"openssl verify -CAfile {ETCD}/ca.crt {ETCD}/server.crt").lower()
        years = cluster.sh(host, f"openssl x509 -in {ETCD}/ca.crt -noout -checkend {9 * 365 * 86400}")
        assert "will not expire" in years
    run = cluster.site("-e", "etcd_ca_same_key=true", playbook=ROTATE)
    assert run.changed() == {} and "every member has loaded it" in flat(run.output)
    run = cluster.site(playbook=RENEW)
    assert "was renewed after" not in flat(run.output) and cluster.site().changed() == {}
    assert cluster.containers() == after
    print(f"another certificate of the same CA: {took:.0f} s, {counted['gap']} s without a write")
