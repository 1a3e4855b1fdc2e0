"""The hand-over to a real kube-apiserver on a fourth host, checked with kubectl and etcdctl."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.tools.dropped import by_change_of_leader

from .conftest import ROOT, Lab
from .test_pki import meanwhile

PKI = "/etc/kubernetes/pki"
PLAYBOOK = "playbooks/control_plane.yml"
HOST = "infra3"
KUBECTL = "kubectl --kubeconfig /etc/kubernetes/super-admin.conf --request-timeout 5s"

# What a fresh control plane host has after the hand-over, and nothing else.
FILES = {
    "/etc/kubernetes d 755",
    "/etc/kubernetes/kubeadm-etcd d 700",
    "/etc/kubernetes/kubeadm-etcd/external.yaml f 600",
    "/etc/kubernetes/kubeadm-etcd/lock f 600",
    f"{PKI} d 755",
    f"{PKI}/apiserver-etcd-client.crt f 644",
    f"{PKI}/apiserver-etcd-client.key f 600",
    f"{PKI}/etcd d 755",
    f"{PKI}/etcd/ca.crt f 644",
}

# The phases of `kubeadm init` that kube-apiserver needs, with our stanza.
INIT = """
set -e
cat > /root/init.yaml <<EOF
apiVersion: kubeadm.k8s.io/v1beta4
kind: InitConfiguration
localAPIEndpoint: {advertiseAddress: "%s"}
nodeRegistration: {name: $(hostname), ignorePreflightErrors: [SystemVerification]}
---
$(cat /etc/kubernetes/kubeadm-etcd/external.yaml)
---
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
failCgroupV1: false
EOF
kubeadm config validate --config /root/init.yaml
mkdir -p /etc/kubernetes/manifests
for phase in "certs ca" "certs apiserver" "certs apiserver-kubelet-client" "certs front-proxy-ca" "certs front-proxy-client" "certs sa" \
    "kubeconfig super-admin" "kubeconfig kubelet" "kubelet-start" "control-plane apiserver"; do
    kubeadm init phase $phase --config /root/init.yaml
done
"""

# An expired certificate by the etcd CA, for the key of the request.
EXPIRED = """
import datetime, sys
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
place = "/etc/kubernetes/pki/etcd/"
with open(place + "ca.crt", "rb") as file:
    ca = x509.load_pem_x509_certificate(file.read())
with open(place + "ca.key", "rb") as file:
    key = serialization.load_pem_private_key(file.read(), None)
asked = x509.load_pem_x509_csr(sys.argv[1].encode())
now = datetime.datetime.utcnow()
made = x509.CertificateBuilder(ca.subject, asked.subject, asked.public_key(), 77)
made = made.not_valid_before(now - datetime.timedelta(days=9)).not_valid_after(now - datetime.timedelta(days=1))
made = made.add_extension(x509.ExtendedKeyUsage([x509.oid.ExtendedKeyUsageOID.CLIENT_AUTH]), False)
print(made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode())
"""

# Writes one ConfigMap after the other like kubectl, checks readiness in between, and records failures and gaps.
WRITES = """
import base64, http.client, json, os, re, ssl, sys, time
text = open("/etc/kubernetes/super-admin.conf").read()
for name in ("certificate-authority", "client-certificate", "client-key"):
    with open("/run/test-" + name, "wb") as file:
        file.write(base64.b64decode(re.search(name + "-data: (.*)", text).group(1)))
address = re.search("server: https://(.*):6443", text).group(1)
context = ssl.create_default_context(cafile="/run/test-certificate-authority")
context.load_cert_chain("/run/test-client-certificate", "/run/test-client-key")
good, failed, gap, last = 0, [], 0.0, time.monotonic()
while not os.path.exists("/run/test-is-over"):
    try:
        connection = http.client.HTTPSConnection(address, 6443, timeout=10, context=context)
        connection.request("GET", "/readyz")
        answer = connection.getresponse()
        answer.read()
        body = json.dumps({"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"generateName": "load-"}})
        connection.request("POST", "/api/v1/namespaces/default/configmaps", body, {"Content-Type": "application/json"})
        written = connection.getresponse()
        said = written.read()
        connection.close()
        if answer.status != 200 or written.status != 201:
            raise OSError(answer.status, written.status, json.loads(said).get("message", ""))
        good += 1
        gap, last = max(gap, time.monotonic() - last), time.monotonic()
    except Exception as exc:
        failed.append([*map(str, exc.args)] or [repr(exc)])
    time.sleep(0.1)
print(json.dumps([good, failed, round(gap, 1)]))
"""


def not_by_leader(failed: list[list[str]]) -> list[list[str]]:
    """Failed writes that a change of etcd's leader does not explain."""
    return [item for item in failed if item[:2] != ["200", "500"] or not by_change_of_leader(item[-1])]


@dataclass
class Plane:
    """The lab with a cluster on three hosts, a fourth for kube-apiserver, and an inventory of both."""

    lab: Lab
    inventory: Path
    address: str

    def play(self, *arguments: str, inventory: Path | None = None, code: int = 0, **environment: str) -> str:
        """Run the playbook, expect that end, and return what it printed, on one line."""
        where = str(inventory or self.inventory)
        run = self.lab.play(*arguments, playbook=PLAYBOOK, inventory=where, **environment)
        assert (run.code == 0) == (code == 0) and "Traceback" not in run.output, run.output[-6000:]
        self.changed = run.changed()
        self.raw = run.output
        return re.sub(r"\s+", " ", run.output)

    def sh(self, script: str, check: bool = True) -> str:
        return self.lab.sh(HOST, script, check=check)

    def other(self, name: str, old: str, new: str) -> Path:
        """The inventory with something else in it."""
        text = self.inventory.read_text(encoding="utf-8")
        assert old in text
        target = self.inventory.with_name(f"{name}.yml")
        target.write_text(text.replace(old, new), encoding="utf-8")
        return target

    def ready(self, wanted: bool, seconds: float = 90) -> float:
        """Wait until /readyz says that etcd is well, or is not; how long that took."""
        begin = time.monotonic()
        while time.monotonic() - begin < seconds:
            said = self.sh(f"timeout 8 {KUBECTL} get --raw '/readyz?verbose' 2>&1", check=False)
            if wanted and "[+]etcd ok" in said and "[+]etcd-readiness ok" in said and "readyz check passed" in said:
                return time.monotonic() - begin
            if not wanted and "[-]etcd failed" in said:
                return time.monotonic() - begin
            time.sleep(0.5)
        pytest.fail(f"after {seconds:.0f} s /readyz says: {said}")

    def process(self) -> str:
        """Process id and start time of the container, which change with a restart."""
        return self.sh("p=$(pgrep -xo kube-apiserver); echo $p $(cut -d' ' -f22 /proc/$p/stat)")

    def break_connections(self) -> int:
        """Close every connection to etcd from this host, so that clients reconnect. Returns their number."""
        return self.sh("ss -tK 'dport = :2379'").count(":2379")

    def serial(self) -> str:
        return self.sh(f"openssl x509 -in {PKI}/apiserver-etcd-client.crt -noout -serial")


@pytest.fixture(scope="module")
def plane(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plane]:
    """A cluster and a fourth host beside it; three hosts as new afterwards."""
    lab.fresh()
    lab.site()
    text = Path(lab.inventory).read_text(encoding="utf-8")
    lab("add", "1")
    try:
        address = lab.addresses()[HOST]
        variables = text.split("  vars:\n")[1]
        inventory = tmp_path_factory.mktemp("plane") / "inventory.yml"
        group = f'kube_control_plane:\n  hosts:\n    {HOST}:\n      ansible_host: "{address}"\n  vars:\n{variables}'
        inventory.write_text(text + group, encoding="utf-8")
        yield Plane(lab, inventory, address)
    finally:
        lab("remove", "1")
        lab.fresh()


@pytest.fixture(scope="module")
def apiserver(plane: Plane) -> str:
    """kube-apiserver runs there, with our files. Returns what kubeadm said."""
    plane.play()
    plane.lab("apiserver", HOST)
    said = plane.sh(INIT % plane.address)
    plane.ready(True)
    return said


CONTROL = "    infra3:\n"


@pytest.mark.parametrize(
    ("old", "new", "arguments", "words"),
    [
        ("kube_control_plane:", "somebody_else:", (), ["no hosts in the group kube_control_plane"]),
        (
            CONTROL,
            f"    infra0:\n{CONTROL}      etcd_clientport: 1\n",
            (),
            [
                "2 problem(s)",
                "infra3: unknown variable etcd_clientport. Did you mean",
                "infra0: this host is a member of cluster 'etcd' and a control plane host",
            ],
        ),
        (CONTROL, CONTROL, ("--limit", HOST), ["the CA host infra0, which issues them, is not part of this run"]),
        (
            "    infra0:\n",
            "    infra0:\n      ansible_port: 1022\n",
            (),
            ["infra3: a new certificate is due, and the CA host infra0, which issues it, cannot be reached"],
        ),
        (CONTROL, CONTROL, ("-e", "etcd_ca_host=infra1"), ["infra3: new certificates are due: ca.key is not in"]),
    ],
)
def test_bad_input_is_refused(plane: Plane, old: str, new: str, arguments: tuple[str, ...], words: list[str]) -> None:
    """One message, and nothing on the host."""
    said = plane.play(*arguments, inventory=plane.other("bad", old, new), code=2)
    assert all(text in said for text in words), plane.raw[-4000:]
    assert plane.changed == {} and plane.sh("ls -d /etc/kubernetes 2>&1", check=False).startswith("ls: cannot access")


def test_hand_over(plane: Plane) -> None:
    """Check mode names the changes that the run makes. The run prints no key, and the second run changes nothing."""
    said = plane.play("--check", "--diff")
    assert set(plane.changed) == {HOST} and "apiserver-etcd-client.crt: issued, the certificate is missing" in said
    assert plane.sh("ls -d /etc/kubernetes 2>&1", check=False).startswith("ls: cannot access")
    said = plane.play("-vvvv", "--diff")
    assert set(plane.changed) == {HOST} and "3 of 3 members healthy" in said
    body = plane.sh(f"cat {PKI}/apiserver-etcd-client.key").splitlines()[1:-1]
    assert "PRIVATE KEY" not in plane.raw and not [line for line in body if line in plane.raw]
    for host in (*plane.lab.hosts, HOST):
        search = f"grep -rlF -e '{body[1]}' /etc /root /tmp /home /var/tmp /run 2>/dev/null || true"
        assert plane.lab.sh(host, search).split() == ([f"{PKI}/apiserver-etcd-client.key"] if host == HOST else [])
    assert set(plane.sh("find /etc/kubernetes -printf '%p %y %m\\n'").splitlines()) == FILES
    assert set(plane.sh("find /etc/kubernetes -printf '%u:%g\\n'").split()) == {"root:root"}
    certificate = f"{PKI}/apiserver-etcd-client.crt"
    assert ": OK" in plane.sh(f"openssl verify -purpose sslclient -CAfile {PKI}/etcd/ca.crt {certificate}")
    shown = plane.sh(f"openssl x509 -in {certificate} -noout -subject -ext extendedKeyUsage,subjectAltName 2>&1")
    assert "CN = kube-apiserver-etcd-client" in shown and "Client Auth" in shown and "DNS" not in shown
    assert plane.sh(f"cat {PKI}/etcd/ca.crt") == plane.lab.sh("infra0", f"cat {PKI}/etcd/ca.crt")
    assert plane.sh("kubeadm config validate --config /etc/kubernetes/kubeadm-etcd/external.yaml 2>&1") == "ok\n"
    plane.play("--diff")
    assert plane.changed == {}, plane.raw[-4000:]
    # With the oldest ansible-core too, and without the CA host if no certificate is due.
    plane.play("--limit", HOST, ANSIBLE_PLAYBOOK=str(ROOT / ".venv-oldest" / "bin" / "ansible-playbook"))
    assert plane.changed == {}, plane.raw[-4000:]


def test_files_of_another_etcd_are_not_replaced(plane: Plane) -> None:
    """Another CA, and a certificate by another CA beside the right one. A copy of another host's key is replaced."""
    make = (
        "cp -a /etc/kubernetes/pki /root/pki && cd /root && openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=mine -days 9"
        " -keyout other.key -out other.crt 2>/dev/null && cp other.crt"
    )
    back = "rm -r /etc/kubernetes/pki && mv /root/pki /etc/kubernetes/pki; rm -f /root/other.*"
    for name, words in (
        ("etcd/ca.crt", "is not the CA of cluster"),
        ("apiserver-etcd-client.crt", "signed by another CA (mine)"),
    ):
        plane.sh(f"{make} {PKI}/{name}")
        try:
            before = plane.sh(f"find {PKI} -type f | xargs sha256sum")
            assert words in plane.play(code=2) and plane.changed == {}, plane.raw[-4000:]
            assert plane.sh(f"find {PKI} -type f | xargs sha256sum") == before
        finally:
            plane.sh(back)
    for end in ("crt", "key"):
        text = plane.lab.sh("infra0", f"cat {PKI}/apiserver-etcd-client.{end}")
        plane.sh(f"cat > {PKI}/apiserver-etcd-client.{end} <<'EOF'\n{text.strip()}\nEOF")
    assert "with a new key, because infra0 has the same key" in plane.play()
    assert plane.sh(f"sha256sum < {PKI}/apiserver-etcd-client.key") != plane.lab.sh(
        "infra0", f"sha256sum < {PKI}/apiserver-etcd-client.key"
    )


def test_ca_that_signs_elsewhere(plane: Plane, tmp_path: Path) -> None:
    """ca.key is taken away from the CA host: a request waits on the controller, and what is signed there is installed."""
    for end in ("crt", "key"):
        (tmp_path / f"ca.{end}").write_text(plane.lab.sh("infra0", f"cat {PKI}/etcd/ca.{end}"), encoding="utf-8")
    plane.lab.sh("infra0", f"mv {PKI}/etcd/ca.key /root/kept.key")
    before = plane.serial()
    renew = json.dumps({"etcd_renew_certificates": ["apiserver-etcd-client"]})
    arguments = ("-e", f"etcd_ca_cert={tmp_path}/ca.crt", "-e", f"etcd_signing_dir={tmp_path}/signing", "-e", renew)
    try:
        said = plane.play(*arguments, code=2)
        assert f"{HOST}/apiserver-etcd-client.crt: missing" in said, plane.raw[-4000:]
        assert plane.serial() == before
        subprocess.run(
            [
                "openssl",
                "x509",
                "-req",
                "-in",
                "apiserver-etcd-client.csr",
                "-out",
                "apiserver-etcd-client.crt",
                "-days",
                "365",
            ]
            + ["-copy_extensions", "copyall", "-CA", str(tmp_path / "ca.crt"), "-CAkey", str(tmp_path / "ca.key")],
            cwd=tmp_path / "signing" / "etcd" / "control-plane" / HOST,
            check=True,
            capture_output=True,
            timeout=30,
        )
        plane.play(*arguments)
        assert set(plane.changed) == {HOST} and plane.serial() != before
    finally:
        plane.lab.sh("infra0", f"mv /root/kept.key {PKI}/etcd/ca.key")


def test_kube_apiserver_on_the_cluster(plane: Plane, apiserver: str) -> None:
    """kubeadm uses our files, /readyz reports a healthy etcd, and what kubectl writes is in etcd."""
    assert 'Creating static Pod manifest for "kube-apiserver"' in apiserver
    plane.sh(f"{KUBECTL} create configmap greeting --from-literal=say=hello")
    found = json.loads(plane.lab.etcdctl("infra1", "get", "/registry/configmaps/default/greeting", "-w", "json"))
    assert b"hello" in base64.b64decode(found["kvs"][0]["value"])
    # With a running control plane, the playbook still changes nothing.
    plane.play()
    assert plane.changed == {}


@pytest.mark.usefixtures("apiserver")
def test_an_expired_certificate_is_replaced_without_a_restart(plane: Plane) -> None:
    """kube-apiserver reads its etcd certificate at each handshake: it loses etcd with an expired one, and reconnects with the new one."""
    process = plane.process()
    asked = plane.sh(f"openssl req -new -key {PKI}/apiserver-etcd-client.key -subj /CN=kube-apiserver-etcd-client")
    expired = plane.lab("exec", "infra0", "--", "python3", "-W", "ignore", "-c", EXPIRED, asked)
    plane.sh(f"cat > {PKI}/apiserver-etcd-client.crt <<'EOF'\n{expired.strip()}\nEOF")
    assert plane.break_connections() > 10
    plane.ready(False)
    assert "tls: expired certificate" in plane.sh("tail -n 200 /var/log/pods/kube-system_kube-apiserver*/*/*.log")
    said = plane.play("--diff")
    assert "apiserver-etcd-client.crt: issued again" in said and "expired on" in said
    seconds = plane.ready(True)
    print(f"ready {seconds:.1f} s after the playbook's end")
    # Each resource has a connection to etcd of its own, and these reconnect one after the other.
    plane.sh(f"{KUBECTL.replace('5s', '60s')} create configmap healed --from-literal=a=b")
    assert plane.process() == process, "kube-apiserver has been restarted"


@pytest.mark.long
@pytest.mark.usefixtures("apiserver")
def test_available_through_a_rolling_change_and_all_renewals(plane: Plane) -> None:
    """Members restart one after the other, then all certificates and keys change: kube-apiserver accepts every write."""
    process, before = plane.process(), plane.serial()
    containers = plane.lab.containers()
    change = ("-e", '{"etcd_extra_args": {"snapshot-count": "20000"}}')
    everything = ("-e", '{"etcd_renew_certificates": ["all"], "etcd_renew_keys": true}')
    where = str(plane.inventory)
    with meanwhile(plane.lab, [HOST], WRITES) as load:
        plane.lab.site(*change, inventory=where)
        plane.lab.site(*change, *everything, inventory=where, playbook="playbooks/renew_certificates.yml")
        plane.play(*everything)
    good, failed, gap = load[HOST]
    print(f"{good} writes, {len(failed)} refused, longest gap {gap} s")
    assert all(containers[host] != container for host, container in plane.lab.containers().items())
    assert plane.serial() != before and set(plane.changed) == {HOST}
    assert good > 50 and gap < 10 and len(failed) <= 3, load
    # Only new connections use the new certificates.
    assert plane.break_connections() > 10
    plane.sh("sleep 2")
    plane.ready(True)
    plane.sh(f"{KUBECTL} create configmap renewed --from-literal=a=b")
    assert plane.process() == process, "kube-apiserver has been restarted"
    assert len(plane.sh(f"{KUBECTL} get configmaps -o name").splitlines()) >= good


MANIFEST = "/etc/kubernetes/manifests/kube-apiserver.yaml"
UPDATE = ("-e", "etcd_update_apiserver=true")
UPLOAD = (
    "kubeadm init phase upload-config kubeadm --config /root/init.yaml --kubeconfig /etc/kubernetes/super-admin.conf"
)
CONFIG_MAP = f"{KUBECTL} -n kube-system get configmap kubeadm-config -o 'jsonpath={{.data.ClusterConfiguration}}'"
SERVERS = f"grep -o 'etcd-servers=.*' {MANIFEST}"


@pytest.mark.usefixtures("apiserver")
def test_the_endpoints_of_a_running_kube_apiserver_follow(plane: Plane) -> None:
    """Reported without the variable, announced by check mode, done with it, and not repeated. An edited manifest stays."""
    plane.sh(UPLOAD)
    addresses = plane.lab.addresses()
    two = plane.other("two", f'    infra2:\n      ansible_host: "{addresses["infra2"]}"\n', "")
    urls = [f"https://{addresses[host]}:2379" for host in ("infra0", "infra1", "infra2")]
    flag = f"{MANIFEST}: --etcd-servers: {','.join(urls)} -> {','.join(urls[:2])}"
    process, before = plane.process(), plane.sh(f"sha256sum {MANIFEST}; {CONFIG_MAP}")
    said = plane.play(inventory=two)
    assert f"infra3: kube-apiserver does not use the current endpoints of etcd. Change {flag}" in said
    assert "ConfigMap kubeadm-config: etcd.external.endpoints" in said and "etcd_update_apiserver=true" in said
    said = plane.play("--check", "--diff", *UPDATE, inventory=two)
    assert f"kube-apiserver: {flag}" in said and set(plane.changed) == {HOST}
    assert plane.sh(f"sha256sum {MANIFEST}; {CONFIG_MAP}") == before and plane.process() == process
    foreseen = plane.changed
    plane.play(*UPDATE, inventory=two)
    assert plane.changed == foreseen and plane.process() != process
    plane.ready(True, 1)
    assert plane.sh(SERVERS).strip() == f"etcd-servers={','.join(urls[:2])}"
    assert urls[1] in plane.sh(CONFIG_MAP) and urls[2] not in plane.sh(CONFIG_MAP)
    process = plane.process()
    plane.play(*UPDATE, inventory=two)
    assert plane.changed == {} and plane.process() == process, plane.raw[-4000:]
    # A manifest that was edited by hand is not overwritten.
    # By a rename: the kubelet would take a file of sed's beside it for a second pod, and restart twice.
    plane.sh(
        f"sed 's/^    - --allow-privileged=true/&\\n    - --v=1/' {MANIFEST} > /root/edited && mv /root/edited {MANIFEST}"
    )
    plane.sh(
        "until tr '\\0' ' ' < /proc/$(pgrep -xo kube-apiserver)/cmdline | grep -q -e '--v=1 '; do sleep 1; done 2>/dev/null"
    )
    plane.ready(True)
    edited = plane.sh(f"sha256sum {MANIFEST}; {CONFIG_MAP}")
    said = plane.play(*UPDATE, code=2)
    assert "--v=1 in the manifest, no --v by kubeadm" in said, plane.raw[-4000:]
    assert plane.sh(f"sha256sum {MANIFEST}; {CONFIG_MAP}") == edited


def revision(plane: Plane) -> int:
    """The revision that kube-apiserver tells with a list."""
    told = json.loads(plane.sh(f"{KUBECTL} get --raw '/api/v1/namespaces/default/configmaps?limit=1'"))
    return int(told["metadata"]["resourceVersion"])


@pytest.mark.long
@pytest.mark.usefixtures("apiserver")
def test_restored_under_a_kube_apiserver(plane: Plane) -> None:
    """It is stopped first and started last, and sees no revision twice: its caches and its clients list anew."""
    create = f"{KUBECTL} -n default create configmap"
    plane.sh(f"{create} before --from-literal=a=b")
    run = plane.lab.play(
        "-e", f"etcd_backup_fetch_dir={plane.inventory.parent}/copies", playbook="playbooks/backup.yml"
    )
    assert run.code == 0, run.output[-3000:]
    (snapshot,) = (plane.inventory.parent / "copies").glob("*.db")
    for number in range(20):
        plane.sh(f"{create} after{number} --from-literal=a=b")
    former, process = revision(plane), plane.process()
    arguments = ("-e", f"etcd_snapshot={snapshot}", "-e", "etcd_replace_healthy_cluster=etcd")
    where = {"playbook": "playbooks/restore.yml", "inventory": str(plane.inventory)}
    check = plane.lab.play("--check", *arguments, **where)
    assert check.code == 0 and plane.process() == process, check.output[-4000:]
    run = plane.lab.play(*arguments, **where)
    assert run.code == 0, run.output[-6000:]
    said = re.sub(r"\s+", " ", run.output)
    # First kube-apiserver stops, then the members; last it starts.
    order = [
        "kube-apiserver is stopped",
        "Take the step: stop",
        "Take the step: replace",
        "kube-apiserver is started",
    ]
    places = [said.index(words) for words in order]
    assert places == sorted(places)
    plane.ready(True)
    assert (
        plane.process() != process
        and plane.sh("ls /etc/kubernetes/kubeadm-etcd | grep -c stopped || true").strip() == "0"
    )
    names = plane.sh(f"{KUBECTL} -n default get configmaps -o name")
    assert "configmap/before" in names and "configmap/after" not in names
    assert revision(plane) > former + 900_000_000
    # A watch from an earlier revision must list again.
    watch = f"/api/v1/namespaces/default/configmaps?watch=1&timeoutSeconds=5&resourceVersion={former}"
    answer = plane.sh(f"timeout 20 {KUBECTL} get --raw '{watch}' 2>&1", check=False)
    assert "too old resource version" in answer or "Expired" in answer or "Gone" in answer, answer
    plane.sh(f"{create} again --from-literal=a=b")
