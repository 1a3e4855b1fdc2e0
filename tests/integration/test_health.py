"""etcd_health on a real cluster in every state that the lab can make, compared with etcdctl."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.kubeadm.etcd.plugins.module_utils._etcd import health as _health

from .conftest import GONE, LAB, ROOT, Lab, set_alarm, until

PKI = "/etc/kubernetes/pki/etcd"
MANIFEST = "/etc/kubernetes/manifests/etcd.yaml"


def run_module(lab: Lab, host: str, module_name: str, *arguments: str, **options: Any) -> tuple[dict[str, Any], float]:
    """The result of a module, run on a host of the lab, and the seconds that it took."""
    ansible = str(Path(sys.executable).parent / "ansible")
    begin = time.monotonic()
    done = subprocess.run(
        [
            ansible,
            "-i",
            lab.inventory,
            host,
            "-m",
            f"kubeadm.etcd.{module_name}",
            "-a",
            json.dumps(options),
            *arguments,
        ],
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=300,
        check=False,
        env={**os.environ, "ANSIBLE_NOCOLOR": "1", "ANSIBLE_CALLBACK_RESULT_FORMAT": "json"},
    )
    assert "Traceback" not in done.stdout, done.stdout
    found: dict[str, Any] = json.loads(done.stdout[done.stdout.index("=> {") + 3 :])
    return found, time.monotonic() - begin


def module(lab: Lab, host: str, module_name: str, **options: Any) -> dict[str, Any]:
    return run_module(lab, host, module_name, **options)[0]


def etcd_health(lab: Lab, host: str = "infra0", **options: Any) -> dict[str, Any]:
    """What etcd_health says, asked on a host."""
    members = [{"name": name, "address": address} for name, address in lab.addresses().items()]
    return module(lab, host, "etcd_health", members=members, **options)


def codes(result: dict[str, Any]) -> dict[str, str]:
    """Member to the code of its error, for those that have one."""
    return {member["name"]: member["error_code"] for member in result["members"] if member["error_code"]}


def wait_until_healthy(cluster: Lab) -> None:
    result = etcd_health(cluster, wait_for="healthy", timeout=120)
    assert result["healthy"], result


def test_it_says_what_etcdctl_says(cluster: Lab) -> None:
    # A new cluster has version 3.0.0 for some seconds, and writes when that changes.
    until("it is still 3.0.0", lambda: etcd_health(cluster)["cluster_version"] == "3.6.0", 90)
    time.sleep(1)
    result = etcd_health(cluster)
    assert (result["verdict"], result["reasons"], result["findings"], result["changed"]) == ("healthy", [], [], False)
    text = cluster.etcdctl("infra0", "--endpoints", cluster.endpoints(), "endpoint", "status", "-w", "json")
    theirs = {item["Endpoint"]: item["Status"] for item in json.loads(text)}
    for member in result["members"]:
        status = theirs[member["endpoint"]]
        assert int(member["id"], 16) == status["header"]["member_id"]
        assert member["version"] == status["version"] and member["db_size"] == status["dbSize"]
        assert member["db_size_in_use"] == status["dbSizeInUse"]
        assert (member["role"] == "leader") == (status["leader"] == status["header"]["member_id"])
        assert member["leader"] == result["leader"] and member["membership"] == cluster.hosts
        shown = cluster.sh(
            member["name"], f"openssl x509 -in {PKI}/server.crt -noout -enddate -subject -dateopt iso_8601"
        )
        assert f"notAfter={member['certificate']['not_after'].replace('T', ' ')[:19]}Z" in shown, shown
        assert f"CN = {member['certificate']['subject']}" in shown and member["certificate"]["days_left"] in (363, 364)
        assert 0 < member["round_trip"] < 3000
    assert int(result["cluster_id"], 16) == status["header"]["cluster_id"]
    assert result["quorum_size"] == 2


def test_the_log_has_the_ids_of_the_running_member(cluster: Lab) -> None:
    result = etcd_health(cluster)
    for member in result["members"]:
        observed = module(cluster, member["name"], "etcd_host_info", name=member["name"])["etcd"]
        assert (observed["member_id"], observed["cluster_id"]) == (member["id"], result["cluster_id"])
        assert observed["formed"] and observed["ready"]


def test_members_that_are_down(cluster: Lab) -> None:
    """One down: quorum stays, member and remedy are named. Two down: no quorum. The module fails only if asked to."""
    cluster("stop", "infra2")
    try:
        # It may have been the leader: the others then need an election, of a second or two, before they commit again.
        result = etcd_health(cluster, wait_for="degraded", timeout=30)
        assert result["verdict"] == "degraded" and "msg" not in result, result
        assert codes(result).keys() == {"infra2"} and codes(result)["infra2"] in ("silent", "unreachable")
        assert re.search(r"infra2: .*(on TCP|No route|unreachable)", " ".join(result["reasons"])), result["reasons"]
        cluster("stop", "infra1")
        result = etcd_health(cluster, wait_for="degraded", timeout=12, fail=True)
        assert result["verdict"] == "down" and "The cluster is down after 1" in result["msg"], result
        assert result["waited"] <= 13 and result["progress"], result
    finally:
        cluster("start", "infra1", "infra2")
    result = etcd_health(cluster, wait_for="healthy", timeout=120, fail=True)
    assert result["healthy"] and result["progress"][-1].endswith(": healthy")
    assert "etcd_health" in cluster.sh("infra0", "journalctl -q --since -10min | grep ': healthy' | tail -n 1")


def test_endpoints_that_are_not_etcd(cluster: Lab) -> None:
    """Ports that are silent, closed, send garbage, an endless page or plain HTTP, beside a real member. The module ends in time."""
    cluster.sh(
        "infra1",
        "for it in '7001 sleep 30' '7002 head -c 100M /dev/urandom' '7003 yes'; do"
        ' systemd-run -q --unit=test-port-${it%% *} socat TCP-LISTEN:${it%% *},fork,reuseaddr SYSTEM:"${it#* }"; done;'
        f" systemd-run -q --unit=test-port-7004 openssl s_server -accept 7004 -cert {PKI}/server.crt -key {PKI}/server.key -www;"
        f" systemd-run -q --unit=test-port-7005 socat OPENSSL-LISTEN:7005,fork,reuseaddr,cert={PKI}/server.crt,key={PKI}/server.key,verify=0"
        " SYSTEM:'yes'; sleep 1",
    )
    address = cluster.addresses()["infra1"]
    try:
        endpoints = [f"https://{address}:{port}" for port in (2379, 7001, 7002, 7003, 7004, 7005, 7006)]
        result, seconds = run_module(
            cluster, "infra0", "etcd_health", endpoints=[*endpoints, "https://127.0.0.1:2381", "https://no.example:1"]
        )
        found = [member["error_code"] for member in result["members"]]
        assert found[0] == "" and found[1] == "timeout" and found[2] == found[3] == "tls", result
        assert found[4] in ("garbage", "no-gateway", "timeout") and found[5] == "garbage", result
        assert found[6:] == ["refused", "not-tls", "name"], result
        assert result["verdict"] == "degraded" and seconds < 15, (seconds, result)
    finally:
        cluster.sh("infra1", "systemctl stop 'test-port-*'")


@contextlib.contextmanager
def paused(cluster: Lab, *hosts: str) -> Iterator[None]:
    """Suspends etcd on some hosts: it listens and does not answer."""
    for host in hosts:
        cluster.sh(host, "pkill -STOP -x etcd")
    try:
        yield
    finally:
        for host in hosts:
            cluster.sh(host, "pkill -CONT -x etcd")


def test_members_that_hang(cluster: Lab) -> None:
    with paused(cluster, "infra1"):
        result = etcd_health(cluster, wait_for="degraded", timeout=30)
        assert result["verdict"] == "degraded" and codes(result) == {"infra1": "timeout"}, result
        with paused(cluster, "infra2"):
            result = etcd_health(cluster)
            assert result["verdict"] == "down" and codes(result) == {"infra1": "timeout", "infra2": "timeout"}, result
            assert "no linearizable read succeeded" in str(result["reasons"]) or "leader" in str(result["reasons"])
    wait_until_healthy(cluster)


def test_a_member_that_is_cut_off(cluster: Lab) -> None:
    """The others get no answer from it. It gets none from them, and has no quorum."""
    cluster("cut", "infra2")
    try:
        result = etcd_health(cluster, wait_for="degraded", timeout=30)
        assert result["verdict"] == "degraded" and codes(result) == {"infra2": "silent"}, result
        result = etcd_health(cluster, "infra2")
        assert result["verdict"] == "down" and codes(result) == {"infra0": "silent", "infra1": "silent"}, result
    finally:
        cluster("heal", "infra2")
    wait_until_healthy(cluster)


def test_a_firewall_that_rejects_is_named_at_the_end_of_a_run(cluster: Lab) -> None:
    """A client cannot tell it from a closed port. The host itself sees that etcd runs, and reads its log."""
    rule = "INPUT -p tcp --dport 2379 ! -i lo -j REJECT --reject-with tcp-reset"
    cluster.sh("infra1", f"iptables -I {rule}")
    try:
        run = cluster.play("--tags", "health", "-e", "etcd_health_timeout=3")
        assert run.code != 0 and re.search(r"The cluster is degraded after \d+ s\.", run.output), run.output[-3000:]
        assert "PROBLEM: infra1: " in run.output and "etcd does not run there" in run.output
        assert (
            "CAUSE: infra1: etcd is running and listens on its client port, but connections from other hosts fail"
            in run.output
        )
        assert "CAUSE: infra0" not in run.output and "Traceback" not in run.output
    finally:
        cluster.sh("infra1", f"iptables -D {rule}")
    wait_until_healthy(cluster)


@pytest.mark.long
def test_an_alarm_of_the_whole_cluster(cluster: Lab) -> None:
    """etcd raises CORRUPT for member 0 if no majority agrees. It then refuses every write, and answers all other requests."""
    set_alarm(cluster, 2, "ACTIVATE", "")
    try:
        said = cluster.etcdctl("infra0", "put a b", check=False)
        result = etcd_health(cluster, wait_for="healthy", timeout=60)
        assert result["verdict"] == "degraded" and result["lasting"] and result["waited"] < 20, (said, result)
        assert result["alarms"] == [{"kind": "CORRUPT", "member": ""}]
        assert [member["alarms"] for member in result["members"]] == [["CORRUPT"]] * 3
        assert "Alarm CORRUPT for the whole cluster" in result["reasons"][0]
        run = cluster.play(playbook="playbooks/health.yml")
        assert run.code != 0 and "degraded: 0 of 3 members healthy" in run.output, run.output[-3000:]
        assert "PROBLEM: Alarm CORRUPT for the whole cluster" in run.output
        # The remedy in the message works in that state.
        assert len(cluster.etcdctl("infra0", "endpoint", "hashkv", "--cluster").splitlines()) == 3
        cluster.etcdctl("infra0", "snapshot", "save", "/var/lib/etcd/test.db")
        assert "CORRUPT" in cluster.etcdctl("infra0", "alarm", "disarm")
    finally:
        set_alarm(cluster, 2, "DEACTIVATE", "")
        cluster.sh("infra0", "rm -f /var/lib/etcd/test.db")
    wait_until_healthy(cluster)


@pytest.mark.parametrize(("kind", "number"), [("NOSPACE", 1), ("CORRUPT", 2)])
def test_alarms(cluster: Lab, kind: str, number: int) -> None:
    """All members report the alarm of one. The module does not wait for its end."""
    set_alarm(cluster, number, "ACTIVATE")
    try:
        result = etcd_health(cluster, wait_for="healthy", timeout=60)
        assert result["verdict"] == "degraded" and result["lasting"] and result["waited"] < 20, result
        assert [member["alarms"] for member in result["members"]] == [[], [kind], []]
        way_out = "defragment.yml" if kind == "NOSPACE" else "replace_member.yml"
        assert any(f"Alarm {kind} at infra1" in text and way_out in text for text in result["reasons"])
    finally:
        set_alarm(cluster, number, "DEACTIVATE")
    wait_until_healthy(cluster)


# Makes a server certificate over the key that is there, signed by the cluster's CA: argument 1 days from, 2 days to, 3 SAN.
SIGN = f"""
python3 - "$@" <<'EOF'
import datetime, ipaddress, sys
from cryptography import x509
from cryptography.hazmat.backends import default_backend
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import NameOID, ExtendedKeyUsageOID as usage
def key(path):
    return serialization.load_pem_private_key(open(path, "rb").read(), None, default_backend())
ca = x509.load_pem_x509_certificate(open("{PKI}/ca.crt", "rb").read(), default_backend())
now = datetime.datetime.utcnow()
name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "infra0")])
made = x509.CertificateBuilder(ca.subject, name, key("{PKI}/server.key").public_key(), 4711,
    now + datetime.timedelta(days=int(sys.argv[1])), now + datetime.timedelta(days=int(sys.argv[2])))
made = made.add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(sys.argv[3]))]), False)
made = made.add_extension(x509.ExtendedKeyUsage([usage.SERVER_AUTH, usage.CLIENT_AUTH]), False)
made = made.sign(key("{PKI}/ca.key"), hashes.SHA256(), default_backend())
open("{PKI}/.server.crt", "wb").write(made.public_bytes(serialization.Encoding.PEM))
EOF
cp -p {PKI}/server.crt /root/server.crt; mv {PKI}/.server.crt {PKI}/server.crt
"""


@pytest.mark.parametrize(
    ("begin", "end", "address", "code", "words"),
    [
        (-20, -10, "own", "tls-expired", "presents a certificate that has expired ("),
        (
            -20,
            300,
            "192.0.2.7",
            "tls-san",
            "presents a certificate for 192.0.2.7 only; add it to etcd_server_cert_sans",
        ),
        (1, 300, "own", "tls-not-yet-valid", "is not valid yet ("),
    ],
)
def test_server_certificates(cluster: Lab, begin: int, end: int, address: str, code: str, words: str) -> None:
    """etcd uses the certificate on disk at the next handshake, even an invalid one."""
    own = cluster.addresses()["infra0"]
    cluster.sh("infra0", f"set -- {begin} {end} {own if address == 'own' else address}\n{SIGN}")
    try:
        result = etcd_health(cluster, "infra1")
        assert codes(result) == {"infra0": code} and result["verdict"] == "degraded", result
        assert words in " ".join(result["reasons"]), result["reasons"]
    finally:
        cluster.sh("infra0", f"mv /root/server.crt {PKI}/server.crt")
    assert etcd_health(cluster, "infra1")["healthy"]


def test_certificates_inside_the_window(cluster: Lab) -> None:
    result = etcd_health(cluster, renewal_window="8784h")
    assert result["healthy"] and [finding["code"] for finding in result["findings"]] == ["certificate"] * 3
    assert "is not a period" in etcd_health(cluster, renewal_window="a year")["msg"]


def test_a_host_with_a_stricter_policy_of_openssl(cluster: Lab) -> None:
    """RHEL's policy FUTURE, or SECLEVEL=3, refuse the RSA-2048 of kubeadm. etcd takes it, and so does our client."""
    policy = "/etc/ssl/openssl.cnf"
    strict = "[strict_ssl]\\nsystem_default = strict\\n[strict]\\nMinProtocol = TLSv1.3\\nCipherString = DEFAULT:@SECLEVEL=3\\n"
    cluster.sh(
        "infra0",
        f"cp {policy} /run/policy; sed -i 's/^\\[openssl_init\\]/&\\nssl_conf = strict_ssl/' {policy}; printf '{strict}' >>{policy};"
        " python3 -c 'import ssl; assert ssl.create_default_context().security_level == 3'",
    )
    try:
        assert etcd_health(cluster)["healthy"]
        observed = module(cluster, "infra0", "etcd_host_info", **observation_options(cluster))["etcd"]
        assert observed["ready"] and observed["answers"]
    finally:
        cluster.sh("infra0", f"cp /run/policy {policy}")


def observation_options(cluster: Lab) -> dict[str, Any]:
    """Of infra0, for etcd_host_info."""
    addresses = cluster.addresses()
    members = [{"name": name, "address": address} for name, address in addresses.items()]
    return {"name": "infra0", "address": addresses["infra0"], "members": members}


def test_a_client_certificate_of_another_ca(cluster: Lab) -> None:
    """The certificate is refused, and the message names the cause."""
    cluster.sh(
        "infra0",
        "mkdir -p /run/x && openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=x -days 1 -keyout /run/x/k -out /run/x/c 2>/dev/null",
    )
    result = etcd_health(cluster, cert="/run/x/c", key="/run/x/k")
    assert result["verdict"] == "unknown" and set(codes(result).values()) == {"tls-client-refused"}, result
    assert "rejects our client certificate" in result["reasons"][0], result["reasons"]
    result = etcd_health(cluster, ca="/run/x/c")
    assert result["verdict"] == "unknown" and set(codes(result).values()) == {"tls-unknown-ca"}, result
    assert "ca.crt did not sign" in result["reasons"][0], result["reasons"]
    result = etcd_health(cluster, key="/run/x/k")
    assert result["verdict"] == "unknown" and "is not the key of" in result["reasons"][0], result["reasons"]
    cluster.sh("infra0", "rm -r /run/x")


def test_from_the_controller(cluster: Lab, tmp_path: Path) -> None:
    """With a client certificate whose key was made on the controller."""
    key, request, certificate, ca = (tmp_path / name for name in ("key", "csr", "crt", "ca"))
    openssl = ["openssl", "req", "-new", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=controller"]
    subprocess.run([*openssl, "-keyout", str(key), "-out", str(request)], check=True, capture_output=True)
    sign = f"openssl x509 -req -CA {PKI}/ca.crt -CAkey {PKI}/ca.key -days 1 -CAcreateserial -CAserial /run/serial"
    certificate.write_text(
        cluster.sh("infra0", f"{sign} 2>/dev/null <<'EOF'\n{request.read_text(encoding='ascii')}\nEOF"),
        encoding="ascii",
    )
    ca.write_text(cluster.sh("infra0", f"rm /run/serial; cat {PKI}/ca.crt"), encoding="ascii")
    # The implicit localhost: no ssh, this Python.
    local = ("-e", "ansible_python_interpreter={{ ansible_playbook_python }}")
    result, _seconds = run_module(
        cluster,
        "localhost",
        "etcd_health",
        *local,
        endpoints=cluster.endpoints().split(","),
        ca=str(ca),
        cert=str(certificate),
        key=str(key),
    )
    assert result["healthy"] and [member["name"] for member in result["members"]] == cluster.hosts, result


def test_check_mode_does_not_wait(cluster: Lab) -> None:
    with paused(cluster, "infra1"):
        members = [{"name": name, "address": address} for name, address in cluster.addresses().items()]
        result, seconds = run_module(
            cluster, "infra0", "etcd_health", "--check", members=members, wait_for="healthy", timeout=60
        )
        assert result["verdict"] != "healthy" and not result["changed"] and seconds < 15
    wait_until_healthy(cluster)


@pytest.mark.long
def test_a_learner(cluster: Lab) -> None:
    """infra2 leaves and comes back as a learner: it answers, has no vote, and does not report the membership."""
    addresses = cluster.addresses()
    number = next(member["ID"] for member in cluster.members() if member["name"] == "infra2")
    cluster.sh(
        "infra2",
        f"mv {MANIFEST} /root/etcd.yaml; {GONE}",
    )
    cluster.etcdctl("infra0", "member", "remove", f"{number:x}")
    result = etcd_health(cluster, wait_for="degraded", timeout=30)
    assert "infra2 is not in the membership. Run site.yml: it adds the member, or reports why not." in result[
        "reasons"
    ] and codes(result) == {"infra2": "refused"}
    assert [finding["code"] for finding in result["findings"]] == ["even-members"]
    cluster.sh("infra2", "find /var/lib/etcd -mindepth 1 -delete")
    # etcd refuses a new member until all members have been connected for a while (--strict-reconfig-check).
    until(
        "it is not added",
        lambda: (
            "added"
            in cluster.etcdctl(
                "infra0",
                "member",
                "add",
                "infra2",
                "--learner",
                f"--peer-urls=https://{addresses['infra2']}:2380",
                check=False,
            )
        ),
        90,
    )
    cluster.sh(
        "infra2",
        f"sed 's/initial-cluster-state=new/initial-cluster-state=existing/' /root/etcd.yaml >{MANIFEST}; rm /root/etcd.yaml",
    )
    until(
        "no learner answers",
        lambda: "learner" in [member.get("role") for member in etcd_health(cluster)["members"]],
        90,
    )
    result = etcd_health(cluster)
    assert result["verdict"] == "degraded" and codes(result) == {}, result
    assert any("infra2 is a learner" in text and "remove_member.yml" in text for text in result["reasons"]), result
    assert result["members"][2]["membership"] == []
    number = next(member["ID"] for member in cluster.members() if member["name"] == "infra2")
    until(
        "it is not promoted",
        lambda: "promoted" in cluster.etcdctl("infra0", "member", "promote", f"{number:x}", check=False),
        90,
    )
    wait_until_healthy(cluster)
    cluster.site()


@pytest.mark.long
@pytest.mark.parametrize("version", ["3.5.35", "3.7.3"])
def test_other_versions_of_etcd(version: str, tmp_path: Path) -> None:
    """The gateway of the other branches, over IPv6: one real member on this machine."""
    name, sign = (
        "etcd",
        ["openssl", "x509", "-req", "-days", "1", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial"],
    )
    make = ["openssl", "req", "-newkey", "rsa:2048", "-nodes"]
    (tmp_path / "ext").write_text("subjectAltName=IP:::1\nextendedKeyUsage=serverAuth,clientAuth\n", encoding="ascii")
    for command in (
        [*make, "-x509", "-subj", "/CN=ca", "-keyout", "ca.key", "-out", "ca.crt"],
        [*make, "-subj", f"/CN={name}", "-keyout", "key", "-out", "csr"],
        [*sign, "-in", "csr", "-out", "crt", "-extfile", "ext"],
    ):
        subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    subprocess.run([str(LAB), "build", "--etcd", version, "--only", "etcd"], check=True, stdout=subprocess.PIPE)
    programs = subprocess.run([str(LAB), "programs", "--etcd", version], check=True, text=True, stdout=subprocess.PIPE)
    program = next(path for line in programs.stdout.split() if (path := Path(line) / "etcd").is_file())
    client, peer = "https://[::1]:23790", "http://[::1]:23800"
    arguments = {
        "name": name,
        "data-dir": "data",
        "listen-client-urls": client,
        "advertise-client-urls": client,
        "listen-peer-urls": peer,
        "initial-advertise-peer-urls": peer,
        "initial-cluster": f"{name}={peer}",
        "cert-file": "crt",
        "key-file": "key",
        "trusted-ca-file": "ca.crt",
        "client-cert-auth": "true",
        "log-level": "error",
    }
    process = subprocess.Popen([program, *(f"--{key}={value}" for key, value in arguments.items())], cwd=tmp_path)
    try:
        paths = (str(tmp_path / "ca.crt"), str(tmp_path / "crt"), str(tmp_path / "key"))
        report, _progress, _waited = _health.wait_for(
            "healthy",
            20,
            3,
            lambda seconds: _health.evaluate(_health.look_at_all([(name, client)], paths, seconds), time.time(), 0),
            print,
        )
        assert report.healthy and report.version == version and report.findings == [], report
        assert report.cluster_version == f"{version[:3]}.0" and report.members[0]["role"] == "leader"
    finally:
        process.terminate()
        process.wait(10)
