"""The PKI of a running cluster is renewed, damaged and repaired. Checked with openssl, etcdctl and kubeadm."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import Lab
from .test_site import PAGE_FILES, PKI

LEAVES = ("etcd/server", "etcd/peer", "etcd/healthcheck-client", "apiserver-etcd-client")
RENEW = "playbooks/renew_certificates.yml"

# Each request is a new connection with certificates read from disk, to one member after the other.
LOAD = """
import http.client, json, os, ssl, sys
pki, good, failed = "/etc/kubernetes/pki/etcd/", 0, []
while not os.path.exists("/run/test-is-over"):
    for address in sys.argv[1:]:
        try:
            context = ssl.create_default_context(cafile=pki + "ca.crt")
            context.verify_flags |= 0x80000
            context.load_cert_chain(pki + "healthcheck-client.crt", pki + "healthcheck-client.key")
            connection = http.client.HTTPSConnection(address, 2379, timeout=5, context=context)
            connection.request("GET", "/health")
            if connection.getresponse().status == 200:
                good += 1
            else:
                failed.append("status")
            connection.close()
        except Exception as exc:
            failed.append(repr(exc))
print(json.dumps([good, failed]))
"""

# Asks the member what the kubelet asks it, five times a second, and notes each refusal.
READY = """
import json, os, time, urllib.request
good, failed = 0, []
while not os.path.exists("/run/test-is-over"):
    try:
        urllib.request.urlopen("http://127.0.0.1:2381/readyz", timeout=3).read()
        good += 1
    except Exception as exc:
        failed.append(repr(exc))
    time.sleep(0.2)
print(json.dumps([good, failed]))
"""

# Searches the arguments and environments of all processes for a text and for any key. The text is given backwards, so that the search does not
# find itself. On the controller it skips the processes of lab hosts (another pid namespace) and of other test workers.
PROCESSES = """
import glob, json, os, sys, time
text, looks, found = sys.argv[1][::-1].encode(), 0, set()
worker = os.environ.get("PYTEST_XDIST_WORKER", "")
mine = f"PYTEST_XDIST_WORKER={worker}".encode() if worker else b""
while not os.path.exists(sys.argv[2]):
    for path in glob.glob("/proc/[0-9]*/cmdline") + glob.glob("/proc/[0-9]*/environ"):
        try:
            if os.readlink(os.path.dirname(path) + "/ns/pid") != os.readlink("/proc/self/ns/pid"):
                continue
            with open(path, "rb") as handle:
                data = handle.read()
            with open(os.path.dirname(path) + "/environ", "rb") as handle:
                if mine not in handle.read():
                    continue
        except OSError:
            continue
        if text in data or b"PRIVATE " + b"KEY-----" in data:
            found.add(data[:300].decode(errors="replace"))
    looks += 1
    time.sleep(0.02)
print(json.dumps([looks, sorted(found)]))
"""


@contextlib.contextmanager
def meanwhile(lab: Lab, hosts: list[str], program: str, *arguments: str) -> Iterator[dict[str, list]]:
    """Run a Python program on hosts while something else happens; what it printed at its end, by host."""

    found: dict[str, list] = {}

    def watch(host: str) -> None:
        found[host] = json.loads(lab("exec", host, "--", "python3", "-c", program, *arguments))

    threads = [threading.Thread(target=watch, args=(host,)) for host in hosts]
    for thread in threads:
        thread.start()
    try:
        yield found
    finally:
        for host in hosts:
            lab.sh(host, "touch /run/test-is-over")
        for thread in threads:
            thread.join(timeout=30)
        for host in hosts:
            lab.sh(host, "rm /run/test-is-over")


def serials(lab: Lab) -> dict[str, str]:
    """Serial number of every certificate, by host and name."""
    script = "; ".join(f"openssl x509 -in {PKI}/{leaf}.crt -noout -serial" for leaf in LEAVES)
    return {
        f"{host} {leaf}": line for host in lab.hosts for leaf, line in zip(LEAVES, lab.sh(host, script).splitlines())
    }


def keys(lab: Lab) -> dict[str, str]:
    """Checksums of all keys, by host."""
    return {host: lab.sh(host, f"sha256sum {PKI}/etcd/*.key {PKI}/*.key") for host in lab.hosts}


def whole(lab: Lab) -> None:
    """Every certificate verifies, for its purposes, and fits its key; files and modes are those of the page."""
    for host in lab.hosts:
        for leaf in LEAVES:
            purposes = ["sslclient", "sslserver"] if leaf in LEAVES[:2] else ["sslclient"]
            for purpose in purposes:
                shown = lab.sh(
                    host,
                    f"openssl verify -partial_chain -purpose {purpose} -CAfile {PKI}/etcd/ca.crt {PKI}/{leaf}.crt",
                )
                assert ": OK" in shown
            lab.sh(
                host,
                f'test "$(openssl x509 -in {PKI}/{leaf}.crt -pubkey -noout)" = "$(openssl pkey -in {PKI}/{leaf}.key -pubout)"',
            )
        expected = {**PAGE_FILES, **({f"{PKI}/etcd/ca.key": "600"} if host == "infra0" else {})}
        lines = lab.sh(host, f"find {PKI} -mindepth 1 -not -name etcd -printf '%p %m %U:%G %y\\n'").splitlines()
        assert {line.split()[0]: line.split()[1:] for line in lines} == {
            path: [mode, "0:0", "f"] for path, mode in expected.items()
        }


def test_a_renewal_interrupts_no_client(cluster: Lab) -> None:
    """All certificates are issued again under new connections to every member: not one fails, nothing restarts."""
    before, same, containers = serials(cluster), keys(cluster), cluster.containers()
    with meanwhile(cluster, ["infra0"], LOAD, *cluster.addresses().values()) as load:
        run = cluster.site(playbook=RENEW)
    good, failed = load["infra0"]
    assert failed == [] and good > 100, (good, failed)
    after = serials(cluster)
    assert all(before[name] != after[name] for name in before)
    assert keys(cluster) == same and cluster.containers() == containers
    assert set(run.changed()) == set(cluster.hosts)
    whole(cluster)
    assert cluster.site().changed() == {}


def test_chosen_certificates_and_new_keys(cluster: Lab) -> None:
    """Only named certificates are issued again, new keys only on request, and check mode does neither."""
    before, old_keys, containers = serials(cluster), keys(cluster), cluster.containers()
    arguments = ("-e", '{"etcd_renew_certificates": ["healthcheck-client"], "etcd_renew_keys": true}')
    # A window longer than the default validity, and a validity shorter than the default window, are both allowed.
    periods = ("-e", "etcd_certificate_validity_period=1000h", "-e", "etcd_certificate_renewal_window=100h")
    run = cluster.site("--check", "--diff", *arguments, playbook=RENEW)
    assert "healthcheck-client.crt: renewed, requested with a new key" in run.output
    assert serials(cluster) == before
    cluster.site(*arguments, *periods, playbook=RENEW)
    end = cluster.sh(
        "infra2", f"openssl x509 -in {PKI}/etcd/healthcheck-client.crt -noout -checkend {1001 * 3600} || true"
    )
    assert "will expire" in end
    changed = {name for name, serial in serials(cluster).items() if before[name] != serial}
    assert changed == {f"{host} etcd/healthcheck-client" for host in cluster.hosts}
    for host, text in keys(cluster).items():
        assert [line.split()[1] for line in set(text.splitlines()) - set(old_keys[host].splitlines())] == [
            f"{PKI}/etcd/healthcheck-client.key"
        ]
    assert cluster.containers() == containers
    whole(cluster)


def test_two_runs_at_once(cluster: Lab) -> None:
    """They may fail because of each other. Certificates and keys still match."""
    runs = []

    def renew() -> None:
        runs.append(cluster.play("-e", '{"etcd_renew_keys": true}', playbook=RENEW))

    threads = [threading.Thread(target=renew) for _number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not any("Traceback" in run.output for run in runs)
    assert any(run.code == 0 for run in runs), [run.output[-3000:] for run in runs]
    cluster.site()
    whole(cluster)
    assert all(member["health"] for member in cluster.health())
    assert cluster.site().changed() == {}


def test_every_kind_of_damage_is_repaired(cluster: Lab) -> None:
    """Files that are missing, cut off, swapped, foreign or have wrong modes are reported and repaired. No member gets unready."""
    foreign = (
        "mkdir -p /run/x && cd /run/x && openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=etcd-ca -days 9 -keyout ca.key -out ca.crt"
        " 2>/dev/null && openssl req -newkey rsa:2048 -nodes -subj /CN=infra2 -keyout p.key -out p.csr 2>/dev/null &&"
        " openssl x509 -req -in p.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 9 -out p.crt 2>/dev/null"
    )
    containers = cluster.containers()
    swapped = {name: cluster.sh("infra0", f"cat {PKI}/etcd/server.{name}") for name in ("crt", "key")}
    cluster.sh("infra0", f"rm {PKI}/etcd/peer.key; chmod 640 {PKI}/etcd/server.key; chown 65534 {PKI}/etcd/server.crt")
    cluster.sh(
        "infra1",
        f"cd {PKI}/etcd && rm server.crt && truncate -s 100 peer.crt && rm healthcheck-client.crt && mkdir healthcheck-client.crt"
        " && rm ../apiserver-etcd-client.key && ln -s /nowhere ../apiserver-etcd-client.key && truncate -s 0 ca.crt",
    )
    cluster.sh("infra2", f"{foreign} && cp p.crt {PKI}/etcd/peer.crt && cp p.key {PKI}/etcd/peer.key")
    for name, text in swapped.items():
        cluster.sh("infra2", f"cat > {PKI}/etcd/server.{name} <<'EOF'\n{text.strip()}\nEOF")
    cluster.sh("infra2", f"cp /run/x/ca.crt {PKI}/etcd/ca.crt; rm -r /run/x; touch {PKI}/etcd/.kubeadm-etcd-stray")
    with meanwhile(cluster, cluster.hosts, READY) as ready:
        run = cluster.site("--diff")
    for words in (
        "etcd/peer.crt: issued again, the key is missing",
        "etcd/server.key: mode is 0640, not 0600",
        "etcd/server.crt: owner is 65534:0, not 0:0",
        "etcd/server.crt: issued, the certificate is missing",
        "etcd/peer.crt: issued again, not a PEM certificate",
        "etcd/healthcheck-client.crt: issued again, a directory",
        "apiserver-etcd-client.crt: issued again, key: a broken symbolic link",
        "etcd/ca.crt: empty",
        "etcd/ca.crt: another CA",
        "signed by another CA (etcd-ca)",
        "the subject is infra0, not infra2",
        "left over from a run that was killed",
    ):
        assert words in " ".join(run.output.split()), f"{words}: {run.output}"
    assert all(good > 5 and failed == [] for good, failed in ready.values()), ready
    assert cluster.containers() == containers
    whole(cluster)
    assert all(member["health"] for member in cluster.health())
    assert cluster.site().changed() == {}


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (
            "mv {0}/ca.crt /root/kept.crt",
            ["ca.crt is missing, ca.key exists", "ca.crt can be copied from infra1, infra2"],
        ),
        # No certificate is due, so the missing key is only a warning.
        ("cp {0}/server.key {0}/ca.key", ["is not the key of etcd/ca.crt", "failed=0"]),
        ("truncate -s 40 {0}/ca.crt", ["etcd/ca.crt is not a PEM certificate", "all have the same file"]),
        (
            "mv {0}/peer.crt /root/; mkdir -p {0}/peer.crt/x",
            ["peer.crt must be a file, but is a directory with content"],
        ),
    ],
)
def test_damage_that_a_repair_would_make_worse_is_refused(cluster: Lab, damage: str, words: list[str]) -> None:
    """The message names the choices, and nothing changes."""
    place = f"{PKI}/etcd"
    cluster.sh("infra0", f"rm -rf /root/pki && cp -a {PKI} /root/pki && " + damage.format(place))
    try:
        before = cluster.fingerprint()
        run = cluster.play()
        text = " ".join(run.output.split())
        assert all(item in text for item in words) and "Traceback" not in text, run.output[-4000:]
        assert (run.code == 0) == ("failed=0" in words) and cluster.fingerprint() == before
    finally:
        cluster.sh(
            # The directory itself stays: it is what the container has mounted.
            "infra0",
            f"rm -rf {place}/* /root/peer.crt /root/kept.crt; cp -a /root/pki/etcd/. {place}/; rm -r /root/pki",
        )
    assert cluster.site().changed() == {}


def test_ca_key_where_it_does_not_belong(cluster: Lab) -> None:
    """Reported; removed only when asked, and never the last one."""
    key = cluster.sh("infra0", f"cat {PKI}/etcd/ca.key").strip()
    cluster.sh("infra1", f"umask 077; cat > {PKI}/etcd/ca.key <<'EOF'\n{key}\nEOF")
    run = cluster.site()
    assert run.changed() == {} and f"infra1: {PKI}/etcd/ca.key exists, although this is not the CA host" in " ".join(
        run.output.split()
    )
    run = cluster.site("-e", '{"etcd_remove_stray_ca_keys": true}')
    assert set(run.changed()) == {"infra1"}
    whole(cluster)


def intermediate(where: Path) -> dict[str, Path]:
    """A root, an intermediate with an encrypted key, both certificates in one file, and a client that the root signed."""
    script = """
set -e
openssl req -x509 -newkey rsa:2048 -nodes -keyout root.key -out root.crt -subj /CN=company -days 900
openssl req -newkey rsa:2048 -passout pass:correct-horse -keyout etcd.key -out etcd.csr -subj /CN=company-etcd
printf 'basicConstraints=critical,CA:TRUE,pathlen:0\\nkeyUsage=critical,keyCertSign,cRLSign\\nsubjectKeyIdentifier=hash\\n' > ext
openssl x509 -req -in etcd.csr -CA root.crt -CAkey root.key -CAcreateserial -days 800 -out etcd.crt -extfile ext
cat etcd.crt root.crt > chain.crt
openssl req -newkey rsa:2048 -nodes -keyout stranger.key -out stranger.csr -subj /CN=stranger
printf 'extendedKeyUsage=clientAuth\\n' > ext
openssl x509 -req -in stranger.csr -CA root.crt -CAkey root.key -CAcreateserial -days 800 -out stranger.crt -extfile ext
"""
    subprocess.run(["bash", "-c", script], cwd=where, check=True, capture_output=True, timeout=60)
    return {path.name: path for path in where.iterdir()}


def contains(path: Path, *texts: str) -> bool:
    """Whether a file on the controller has one of some texts in it."""
    return path.is_file() and any(text.encode() in path.read_bytes() for text in texts)


@pytest.mark.long
def test_own_intermediate_with_encrypted_key(lab: Lab, tmp_path: Path) -> None:
    """ca.crt has only the intermediate, only the CA host has its key, and other clients of the root are refused."""
    lab.fresh()
    made = intermediate(tmp_path)
    secret = "correct-horse"
    base = ("-e", f"etcd_ca_cert={made['chain.crt']}", "-e", f"etcd_ca_key={made['etcd.key']}")
    before = lab.fingerprint()
    for passphrase, words in (("", "Set etcd_ca_key_passphrase"), ("wrong", "cannot be decrypted")):
        run = lab.play(*base, "-e", f"etcd_ca_key_passphrase={passphrase}")
        assert run.code != 0 and words in " ".join(run.output.split()), run.output[-3000:]
    assert lab.fingerprint() == before
    vault = tmp_path / "vault.yml"
    # As another user, by su, which knows no pipelining, and with all files kept that Ansible makes.
    su = {"ansible_user": "admin", "ansible_become_method": "su", "ansible_become_password": "of-root"}
    vault.write_text(json.dumps({"etcd_ca_key_passphrase": secret, **su}), encoding="utf-8")
    for host in lab.hosts:
        lab.sh(host, "echo root:of-root | chpasswd")
    locked = made["etcd.key"].read_bytes()
    here = tmp_path / "over"
    watch = subprocess.Popen(
        [sys.executable, "-c", PROCESSES, secret[::-1], str(here)], stdout=subprocess.PIPE, text=True
    )
    with meanwhile(lab, lab.hosts, PROCESSES, secret[::-1], "/run/test-is-over") as processes:
        run = lab.site(
            *(*base, "-e", f"@{vault}", "-vvvv", "--diff"), ANSIBLE_PIPELINING="False", ANSIBLE_KEEP_REMOTE_FILES="1"
        )
    here.touch()
    processes["the controller"] = json.loads(watch.communicate(timeout=30)[0])
    assert all(looks > 50 and found == [] for looks, found in processes.values()), processes
    assert secret not in run.output and "PRIVATE KEY" not in run.output
    assert made["etcd.key"].read_bytes() == locked
    plain = lab.sh("infra0", f"cat {PKI}/etcd/ca.key").splitlines()[1]
    for host in lab.hosts:
        assert lab.sh(host, f"cat {PKI}/etcd/ca.crt").strip() == made["etcd.crt"].read_text(encoding="utf-8").strip()
        found = lab.sh(
            host, f"grep -rlF -e '{plain}' -e '{secret}' /etc /root /tmp /home /var/tmp /run 2>/dev/null || true"
        ).split()
        assert found == ([f"{PKI}/etcd/ca.key"] if host == "infra0" else [])
        # What was kept has the call in it, and there the key is sealed.
        kept = lab.sh(host, "grep -rl sealed_key /home/admin/.ansible/tmp || true").split()
        assert bool(kept) == (host == "infra0")
        lab.sh(host, "rm -r /home/admin/.ansible; passwd --lock root")
    assert not [path for path in Path("~/.ansible/tmp").expanduser().rglob("*") if contains(path, plain, secret)]
    whole(lab)
    assert all(member["health"] for member in lab.health())
    # kubeadm accepts the files. A client with a certificate of the same root is refused.
    config = "/etc/kubernetes/kubeadm-etcd/kubeadmcfg.yaml"
    assert "Using existing" in lab.sh("infra0", f"kubeadm init phase certs etcd-server --config {config} 2>&1")
    address = lab.addresses()["infra1"]
    for name, answer in (("healthcheck-client", "200"), ("stranger", "000")):
        if name == "stranger":
            pair = [made[f"stranger.{end}"] for end in ("crt", "key")]
        else:
            pair = [tmp_path / f"own.{end}" for end in ("crt", "key")]
            for path in pair:
                path.write_text(lab.sh("infra0", f"cat {PKI}/etcd/{name}{path.suffix}"), encoding="utf-8")
        done = subprocess.run(
            ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "--cacert", str(made["etcd.crt"])]
            + ["--cert", str(pair[0]), "--key", str(pair[1]), f"https://{address}:2379/health"],
            text=True,
            stdout=subprocess.PIPE,
            timeout=30,
            check=False,
        )
        assert done.stdout == answer, name
    assert lab.site(*base, "-e", f"etcd_ca_key_passphrase={secret}").changed() == {}
    assert lab.site().changed() == {}


@pytest.mark.long
def test_ca_that_signs_elsewhere(lab: Lab, tmp_path: Path) -> None:
    """The run collects requests and stops. It accepts a certificate only if it has the content that it would have signed."""
    lab.fresh()
    made, place = intermediate(tmp_path), tmp_path / "signing"
    base = ("-e", f"etcd_ca_cert={made['chain.crt']}", "-e", f"etcd_signing_dir={place}")
    run = lab.play("--check", *base)
    assert run.code == 0 and "fails until they are signed" in " ".join(run.output.split())
    assert not place.exists()

    def sign(name: str, *instead: str) -> None:
        extensions = instead or ("-copy_extensions", "copyall")
        subprocess.run(
            ["openssl", "x509", "-req", "-in", f"{name}.csr", "-out", f"{name}.crt", "-days", "365", *extensions]
            + ["-CA", str(made["etcd.crt"]), "-CAkey", str(made["etcd.key"]), "-passin", "pass:correct-horse"],
            cwd=place / "etcd",
            check=True,
            capture_output=True,
            timeout=30,
        )

    run = lab.play(*base, "-vvvv")
    text = " ".join(run.output.split())
    assert run.code != 0 and "12 certificates of cluster etcd wait to be signed" in text, run.output[-3000:]
    assert "infra2/apiserver-etcd-client.crt: missing" in text and "PRIVATE KEY" not in text
    requests = {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}
    assert len(requests) == 12 and all(path.suffix == ".csr" for path in requests)
    for host in lab.hosts:
        assert lab.sh(host, f"find {PKI} -name '*.crt' -not -name ca.crt 2>/dev/null || true").split() == []
        for name in ("server", "peer", "healthcheck-client", "apiserver-etcd-client"):
            sign(f"{host}/{name}")
    # One for a server without its names, one of another member, one by another CA.
    sign("infra0/server", "-copy_extensions", "none")
    (place / "etcd/infra1/peer.crt").write_bytes((place / "etcd/infra2/peer.crt").read_bytes())
    subprocess.run(
        ["openssl", "x509", "-req", "-in", "server.csr", "-out", "server.crt", "-copy_extensions", "copyall"]
        + ["-CA", str(made["root.crt"]), "-CAkey", str(made["root.key"])],
        cwd=place / "etcd/infra2",
        check=True,
        capture_output=True,
        timeout=30,
    )
    run = lab.play(*base)
    text = " ".join(run.output.split())
    assert run.code != 0 and "3 certificates of cluster etcd wait" in text, run.output[-3000:]
    for words in (
        "infra0/server.crt: its names and addresses lack infra0, localhost",
        "infra1/peer.crt: its key belongs to another certificate",
        "infra2/server.crt: signed by another CA (company)",
    ):
        assert words in text, run.output[-3000:]
    assert {path: path.read_bytes() for path in requests} == requests
    for host, name in (("infra0", "server"), ("infra1", "peer"), ("infra2", "server")):
        sign(f"{host}/{name}")
    lab.site(*base)
    for host in lab.hosts:
        assert lab.sh(host, f"cat {PKI}/etcd/ca.crt").strip() == made["etcd.crt"].read_text(encoding="utf-8").strip()
        assert lab.sh(host, "find / -xdev -name 'ca.key' -not -path '/proc/*' -not -path '*/snapshots/*'").split() == []
    assert all(member["health"] for member in lab.health())
    assert lab.site(*base).changed() == {}
    # What is in use is not taken once more when it is to be renewed.
    renew = ("-e", '{"etcd_renew_certificates": ["peer"]}')
    containers, before = lab.containers(), serials(lab)
    run = lab.play(*base, *renew, playbook=RENEW)
    assert run.code != 0 and run.output.count("this is the certificate in use") >= 3, run.output[-3000:]
    assert serials(lab) == before
    for host in lab.hosts:
        sign(f"{host}/peer")
    lab.site(*base, *renew, playbook=RENEW)
    assert {name for name, serial in serials(lab).items() if serial != before[name]} == {
        f"{host} etcd/peer" for host in lab.hosts
    }
    assert lab.containers() == containers
    assert lab.site(*base).changed() == {}
    # Without etcd_ca_cert the run says that it cannot sign, and what to do.
    run = lab.play(*renew)
    assert run.code != 0 and "set etcd_ca_cert to a copy of ca.crt" in " ".join(run.output.split())


@pytest.mark.long
def test_own_key_that_is_on_the_ca_host_already(lab: Lab, tmp_path: Path) -> None:
    """Both files were copied there by hand, as the page describes. Also with the key alone, and with a key of another CA."""
    lab.fresh()
    made = intermediate(tmp_path)
    script = "openssl pkey -in etcd.key -passin pass:correct-horse -out plain.key"
    subprocess.run(["bash", "-c", script], cwd=tmp_path, check=True, capture_output=True, timeout=30)
    put = f"umask 077; mkdir -p {PKI}/etcd; chmod 755 {PKI} {PKI}/etcd; cat > {PKI}/etcd/ca.key <<'EOF'\n%s\nEOF"
    lab.sh("infra0", put % made["root.key"].read_text(encoding="utf-8").strip())
    run = lab.play("-e", f"etcd_ca_cert={made['chain.crt']}")
    assert run.code != 0 and "etcd/ca.key is not the key of etcd_ca_cert" in " ".join(run.output.split())
    lab.sh("infra0", put % (tmp_path / "plain.key").read_text(encoding="utf-8").strip())
    lab.site("-e", f"etcd_ca_cert={made['chain.crt']}")
    whole(lab)
    assert lab.site().changed() == {}
