"""site.yml on real hosts, in the order of a cluster's first day. Checked with tools of others."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from .conftest import GONE, ROOT, Lab, different
from .test_live import writing

PKI = "/etc/kubernetes/pki"
# The kubelet needs a moment more for the rest of the pod.
POD_GONE = f"{GONE}; sleep 2"

# Step 6 of the page, with kubeadm's modes.
PAGE_FILES = {
    f"{PKI}/apiserver-etcd-client.crt": "644",
    f"{PKI}/apiserver-etcd-client.key": "600",
    f"{PKI}/etcd/ca.crt": "644",
    f"{PKI}/etcd/healthcheck-client.crt": "644",
    f"{PKI}/etcd/healthcheck-client.key": "600",
    f"{PKI}/etcd/peer.crt": "644",
    f"{PKI}/etcd/peer.key": "600",
    f"{PKI}/etcd/server.crt": "644",
    f"{PKI}/etcd/server.key": "600",
}


def test_check_mode_on_fresh_hosts(lab: Lab) -> None:
    """--check --diff runs to its end, says what would happen, and changes nothing."""
    lab.fresh()
    before = lab.fingerprint()
    run = lab.site("--check", "--diff")
    assert different(before, lab.fingerprint()) == {}
    assert set(run.changed()) == set(lab.hosts)
    for words in (
        "initial-cluster-state=new",
        "20-etcd-service-manager.conf",
        "server.crt",
        "ca.crt",
        "kubeadmcfg.yaml",
    ):
        assert words in run.output, words


def test_first_run(lab: Lab) -> None:
    """etcdctl reports three healthy members, and a write to one can be read from the others."""
    assert set(lab.site().changed()) == set(lab.hosts)
    health = lab.health()
    assert len(health) == 3 and all(member["health"] for member in health), health
    lab.etcdctl("infra0", "put", "greeting", "hello")
    assert "hello" in lab.etcdctl("infra2", "get", "greeting")


def test_files_of_the_page(cluster: Lab) -> None:
    """Exactly the files of step 6, with kubeadm's modes and owners; ca.key on the CA host only."""
    for host in cluster.hosts:
        expected = {**PAGE_FILES, **({f"{PKI}/etcd/ca.key": "600"} if host == "infra0" else {})}
        lines = cluster.sh(host, f"find {PKI} -type f -printf '%p %m %U:%G\\n'").splitlines()
        assert {line.split()[0]: line.split()[1] for line in lines} == expected, host
        assert {line.split()[2] for line in lines} == {"0:0"}
        modes = cluster.sh(
            host,
            f"stat -c '%a %n' {PKI} {PKI}/etcd /etc/kubernetes/manifests /etc/kubernetes/manifests/etcd.yaml /var/lib/etcd",
        )
        assert [line.split()[0] for line in modes.splitlines()] == ["755", "755", "700", "600", "700"], modes


def test_certificates_by_openssl(cluster: Lab) -> None:
    """Every certificate verifies against ca.crt and fits its key; the members' names and addresses are in them."""
    for host, address in cluster.addresses().items():
        for name in ("etcd/server", "etcd/peer", "etcd/healthcheck-client", "apiserver-etcd-client"):
            assert ": OK" in cluster.sh(host, f"openssl verify -CAfile {PKI}/etcd/ca.crt {PKI}/{name}.crt")
            cluster.sh(
                host,
                f"test $(openssl x509 -in {PKI}/{name}.crt -pubkey -noout | sha256sum | cut -c1-64)"
                f" = $(openssl pkey -in {PKI}/{name}.key -pubout | sha256sum | cut -c1-64)",
            )
        sans = cluster.sh(host, f"openssl x509 -in {PKI}/etcd/server.crt -noout -ext subjectAltName")
        assert f"DNS:{host}" in sans and f"IP Address:{address}" in sans and "IP Address:127.0.0.1" in sans
    keys = [cluster.sh(host, f"sha256sum {PKI}/etcd/*.key {PKI}/*.key | cut -c1-64").split() for host in cluster.hosts]
    flat = [key for host in keys for key in host]
    assert len(flat) == len(set(flat)) == 13, "a key exists twice"


def test_kubeadm_accepts_the_files_and_writes_the_same_manifest(cluster: Lab) -> None:
    for host in cluster.hosts:
        config = "/etc/kubernetes/kubeadm-etcd/kubeadmcfg.yaml"
        cluster.sh(host, f"kubeadm config validate --config {config}")
        for phase in ("etcd-server", "etcd-peer", "etcd-healthcheck-client", "apiserver-etcd-client"):
            assert "Using existing" in cluster.sh(host, f"kubeadm init phase certs {phase} --config {config} 2>&1")
        rendered = cluster.sh(
            host,
            "d=$(mktemp -d /run/test.XXXX); "
            f"KUBEADM_INIT_DRYRUN_DIR=$d kubeadm init phase etcd local --dry-run --config {config} >/dev/null 2>&1;"
            " cat $d/etcd.yaml; rm -r $d",
        )
        assert rendered == cluster.sh(host, "cat /etc/kubernetes/manifests/etcd.yaml")


def test_second_run_changes_nothing(cluster: Lab) -> None:
    """changed=0 on every host, no container restarted, no file touched."""
    before, containers = cluster.fingerprint(), cluster.containers()
    run = cluster.site()
    assert run.changed() == {}, run.output
    assert run.output.count("cluster etcd: nothing to do") == 1
    assert cluster.containers() == containers
    assert different(before, cluster.fingerprint()) == {}


def test_check_mode_on_a_running_cluster(cluster: Lab) -> None:
    """Check mode lists the changes of the real run, and makes none."""
    before, containers = cluster.fingerprint(), cluster.containers()
    assert cluster.site("--check", "--diff").changed() == {}
    run = cluster.site("--check", "--diff", "-e", '{"etcd_extra_args": {"quota-backend-bytes": "4294967296"}}')
    assert "quota-backend-bytes" in run.output and set(run.changed()) == set(cluster.hosts)
    run = cluster.site("--check", "--diff", "-e", '{"etcd_server_cert_sans": ["etcd.example.com"]}')
    assert "etcd.example.com" in run.output and run.changed()
    assert cluster.containers() == containers
    assert different(before, cluster.fingerprint()) == {}


def test_table_and_stanza(cluster: Lab, tmp_path: Path) -> None:
    """The run prints the table of members and the stanza for kubeadm."""
    target = tmp_path / "external.yaml"
    run = cluster.site("-e", f"etcd_external_config_file={target}")
    assert "3 of 3 members healthy" in run.output
    text = target.read_text(encoding="utf-8")
    for address in cluster.addresses().values():
        assert address in run.output and f"- https://{address}:2379" in text
    cluster.sh(
        "infra0",
        f"cat > /run/external.yaml <<'EOF'\n{text}EOF\nkubeadm config validate --config /run/external.yaml && rm /run/external.yaml",
    )


def test_no_private_key_in_any_output(lab: Lab, tmp_path: Path) -> None:
    """A run that makes all keys, with -vvvv --diff, prints none of them, and puts none on the controller or into /tmp."""
    lab.fresh()
    run = lab.site("-vvvv", "--diff")
    assert "PRIVATE KEY" not in run.output
    secrets = []
    for host in lab.hosts:
        for key in lab.sh(host, f"find {PKI} -name '*.key'").split():
            secrets.append(lab.sh(host, f"cat {key}").splitlines()[1])
        assert lab.sh(host, "grep -rls 'PRIVATE KEY' /tmp /root /home /var/tmp || true") == ""
        assert (
            lab.sh(
                host,
                f"find / -xdev -name '*.key' -newer /etc/hostname -not -path '{PKI}/*' -type f | grep -v ssh || true",
            )
            == ""
        )
    assert len(secrets) == 13
    assert not [secret for secret in secrets if secret in run.output]


def test_new_names_in_certificates_restart_no_member(cluster: Lab) -> None:
    """A SAN is added: server certificates are re-issued, nothing else changes, etcd serves the new one at once."""
    containers = cluster.containers()
    keys = {host: cluster.sh(host, f"sha256sum {PKI}/etcd/peer.* {PKI}/etcd/ca.crt") for host in cluster.hosts}
    change = ("-e", '{"etcd_server_cert_sans": ["etcd.example.com"]}')
    assert set(cluster.site(*change).changed()) == set(cluster.hosts)
    assert cluster.containers() == containers
    assert {host: cluster.sh(host, f"sha256sum {PKI}/etcd/peer.* {PKI}/etcd/ca.crt") for host in cluster.hosts} == keys
    for address in cluster.addresses().values():
        shown = cluster.sh(
            "infra0",
            f"openssl s_client -connect {address}:2379 -cert {PKI}/etcd/healthcheck-client.crt"
            f" -key {PKI}/etcd/healthcheck-client.key </dev/null 2>/dev/null | openssl x509 -noout -ext subjectAltName",
        )
        assert "etcd.example.com" in shown
    assert cluster.site(*change).changed() == {}
    cluster.site()


def test_changed_flag_rolls_one_member_at_a_time_leader_last(cluster: Lab) -> None:
    """Never two members down at once, and no write lost; the leader, moved to the first host before, restarts last; data stays."""
    before = cluster.containers()
    cluster.etcdctl("infra0", "put", "kept", "value")
    text = cluster.etcdctl("infra0", "--endpoints", cluster.endpoints(), "endpoint", "status", "-w", "json")
    found = {item["Endpoint"]: item["Status"] for item in json.loads(text)}
    first = found[f"https://{cluster.addresses()['infra0']}:2379"]["header"]["member_id"]
    leading = next(url for url, status in found.items() if status["header"]["member_id"] == status["leader"])
    if found[leading]["leader"] != first:
        cluster.etcdctl("infra0", "--endpoints", leading, "move-leader", f"{first:x}")
    down: list[int] = []
    stop = threading.Event()

    def watch() -> None:
        probe = "; ".join(
            f"(exec 3<>/dev/tcp/{address}/2379) 2>/dev/null || echo {host}"
            for host, address in cluster.addresses().items()
        )
        while not stop.is_set():
            down.append(len(cluster.sh("infra0", f"{probe}; true").split()))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        with writing(cluster, "flag") as counted:
            run = cluster.site("-e", '{"etcd_extra_args": {"quota-backend-bytes": "4294967296"}}')
    finally:
        stop.set()
        watcher.join()
    after = cluster.containers()
    assert all(before[host] != after[host] for host in cluster.hosts), run.output
    assert max(down) == 1, f"members down at once: {down}"
    # An election takes a second or two; a member that was stopped without handing over would cost more.
    assert counted["lost"] == 0 and counted["nowhere"] == 0 and counted["gap"] < 5, counted
    for host in cluster.hosts:
        assert "--quota-backend-bytes=4294967296" in cluster.sh(host, "cat /etc/kubernetes/manifests/etcd.yaml")
        assert "--initial-cluster-state=existing" in cluster.sh(host, "cat /etc/kubernetes/manifests/etcd.yaml")
    born = {host: float(cluster.sh(host, "cut -d' ' -f22 /proc/$(pgrep -xo etcd)/stat")) for host in cluster.hosts}
    assert max(born, key=lambda host: born[host]) == "infra0", born
    assert "value" in cluster.etcdctl("infra1", "get", "kept")
    cluster.site()
    assert cluster.site().changed() == {}


def test_member_that_is_down_is_repaired(cluster: Lab) -> None:
    """A host without its manifest and with a stopped kubelet comes back. The others are not changed."""
    before = cluster.containers()
    cluster.sh("infra1", f"rm /etc/kubernetes/manifests/etcd.yaml; {POD_GONE}; systemctl disable --now kubelet")
    run = cluster.site()
    assert set(run.changed()) == {"infra1"}, run.output
    after = cluster.containers()
    assert after["infra1"] and after["infra1"] != before["infra1"]
    assert {h: after[h] for h in ("infra0", "infra2")} == {h: before[h] for h in ("infra0", "infra2")}
    assert all(member["health"] for member in cluster.health())
    assert cluster.site().changed() == {}


def test_lost_data_is_refused(cluster: Lab) -> None:
    """An empty member would vote without the writes that it has acknowledged: refused, nothing changed."""
    cluster.sh(
        "infra2",
        f"mv /etc/kubernetes/manifests/etcd.yaml /root/; {POD_GONE}; mv /var/lib/etcd/member /var/lib/etcd-lost",
    )
    before = cluster.fingerprint()
    run = cluster.play()
    assert run.code != 0 and "infra2: member " in run.output and "has lost its data" in run.output, run.output
    assert different(before, cluster.fingerprint()) == {}
    cluster.sh("infra2", "mv /var/lib/etcd-lost /var/lib/etcd/member; rm /root/etcd.yaml")
    cluster.site()
    assert all(member["health"] for member in cluster.health())


def test_limit_and_other_user(cluster: Lab) -> None:
    """--limit works without the other hosts' facts; so does a user who is not root."""
    assert cluster.site("--limit", "infra1").changed() == {}
    assert cluster.site("-e", "ansible_user=admin").changed() == {}


def test_installed_from_the_tarball(cluster: Lab, tmp_path: Path) -> None:
    """`kubeadm.etcd.site` of the built collection, outside of the checkout."""
    bin_dir = Path(sys.executable).parent
    galaxy = str(bin_dir / "ansible-galaxy")
    subprocess.run([galaxy, "collection", "build", "--output-path", str(tmp_path)], cwd=ROOT, check=True, timeout=120)
    tarball = next(tmp_path.glob("kubeadm-etcd-*.tar.gz"))
    subprocess.run(
        [galaxy, "collection", "install", "--force", str(tarball), "-p", str(tmp_path / "collections")],
        cwd=tmp_path,
        check=True,
        timeout=120,
    )
    run = cluster.play(
        playbook="kubeadm.etcd.site",
        CWD=str(tmp_path),
        ANSIBLE_COLLECTIONS_PATH=str(tmp_path / "collections"),
    )
    assert run.code == 0 and run.changed() == {}, run.output[-4000:]


def test_site_yml_with_the_oldest_ansible(cluster: Lab) -> None:
    """The oldest ansible-core that is supported runs it too (its own virtual environment, see `make venvs`)."""
    program = ROOT / ".venv-oldest" / "bin" / "ansible-playbook"
    assert program.exists(), "run `make venvs` first"
    run = cluster.play(ANSIBLE_PLAYBOOK=str(program))
    assert run.code == 0 and run.changed() == {}, run.output[-4000:]
    run = cluster.play(
        "--check", "--diff", "-e", '{"etcd_server_cert_sans": ["a.example.com"]}', ANSIBLE_PLAYBOOK=str(program)
    )
    assert run.code == 0 and run.changed(), run.output[-4000:]


def test_own_ca(lab: Lab, tmp_path: Path) -> None:
    """A user's CA is brought in; its key reaches the CA host only, and no output, even without pipelining set."""
    lab.fresh()
    cert, key = tmp_path / "ca.crt", tmp_path / "ca.key"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", str(key), "-out", str(cert)]
        + ["-subj", "/CN=mine", "-days", "900"],
        check=True,
        capture_output=True,
        timeout=60,
    )
    arguments = ("-e", f"etcd_ca_cert={cert}", "-e", f"etcd_ca_key={key}")
    run = lab.site(*arguments, "-vvvv", "--diff", ANSIBLE_PIPELINING="False")
    written = subprocess.run(
        ["openssl", "rsa", "-in", str(key), "-traditional"], check=True, capture_output=True, text=True, timeout=60
    ).stdout
    # The key as the user has it, and in the form that kubeadm writes.
    given, kept = key.read_text(encoding="utf-8").splitlines()[1:-1], written.splitlines()[1:-1]
    assert "PRIVATE KEY" not in run.output and not [line for line in given + kept if line in run.output]
    for host in lab.hosts:
        assert lab.sh(host, f"cat {PKI}/etcd/ca.crt").strip() == cert.read_text(encoding="utf-8").strip()
        search = f"grep -rlF -e '{given[1]}' -e '{kept[1]}' /etc /root /tmp /home /var/tmp /run 2>/dev/null || true"
        found = lab.sh(host, search).split()
        assert found == ([f"{PKI}/etcd/ca.key"] if host == "infra0" else [])
        assert "issuer=CN = mine" in lab.sh(host, f"openssl x509 -in {PKI}/etcd/server.crt -noout -issuer")
    assert all(member["health"] for member in lab.health())
    assert lab.site(*arguments).changed() == {}
    assert lab.site().changed() == {}


@pytest.mark.parametrize("seconds", [0.0, pytest.param(4.0, marks=pytest.mark.long)])
def test_killed_in_the_middle(lab: Lab, seconds: float) -> None:
    """The controller is killed when there is a CA, or some seconds later; the next run finishes the work."""
    lab.fresh()
    marker = f"kill-{os.getpid()}-{seconds}"
    program = shutil.which("ansible-playbook", path=str(Path(sys.executable).parent)) or "ansible-playbook"
    process = subprocess.Popen(
        [program, "site.yml", "-i", lab.inventory],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "KUBEADM_ETCD_KILL": marker},
    )
    while not lab.sh("infra0", f"ls {PKI}/etcd/ca.key 2>/dev/null || true"):
        assert process.poll() is None
    time.sleep(seconds)
    # Workers and connections are sessions of their own: found by their environment, and ended like the rest.
    for environment in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if marker.encode() in environment.read_bytes():
                os.kill(int(environment.parent.name), signal.SIGKILL)
    process.wait()
    lab.site()
    assert all(member["health"] for member in lab.health())
    assert lab.site().changed() == {}
    for host in lab.hosts:
        assert lab.sh(host, f"find {PKI} /etc/kubernetes -name '.kubeadm-etcd*' -o -name pending").strip() == ""
