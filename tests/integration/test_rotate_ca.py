"""A new CA for a running cluster while clients write: all phases, killed runs, other runs in between. Checked with openssl and etcdctl."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import Lab, Run
from .test_control_plane import HOST, INIT, KUBECTL, UPDATE, UPLOAD, WRITES, Plane, not_by_leader, plane
from .test_live import flat, healthy, writing
from .test_pki import LEAVES, meanwhile, serials
from .test_site import PKI

pytestmark = pytest.mark.long

__all__ = ["plane"]

ROTATE = "playbooks/rotate_ca.yml"
FORMER = "/etc/kubernetes/kubeadm-etcd/former-ca"
SUBJECTS = f"openssl crl2pkcs7 -nocrl -certfile {PKI}/etcd/ca.crt | openssl pkcs7 -print_certs -noout | grep ^subject | sed 's/.*= *//'"
# A client's own copy of a certificate, which trusts what members trust.
CLIENT = (
    f"mkdir -p /root/old && cp {PKI}/etcd/healthcheck-client.* /root/old/ && ln -sf {PKI}/etcd/ca.crt /root/old/ca.crt"
)

# What a member answers it: '' if it refuses the certificate.
ASK = """
import http.client, ssl, sys
context = ssl.create_default_context(cafile="/root/old/ca.crt")
context.load_cert_chain("/root/old/healthcheck-client.crt", "/root/old/healthcheck-client.key")
try:
    connection = http.client.HTTPSConnection(sys.argv[1], 2379, timeout=5, context=context)
    connection.request("GET", "/health")
    print(connection.getresponse().status)
except (ssl.SSLError, ConnectionError):
    print()
"""


@pytest.fixture(scope="module")
def found(lab: Lab) -> Iterator[Lab]:
    """A new cluster with its first CA."""
    lab.fresh()
    lab.site()
    yield lab
    lab.fresh()


def subjects(lab: Lab) -> dict[str, list[str]]:
    """What ca.crt holds, in order."""
    return {host: lab.sh(host, SUBJECTS).splitlines() for host in lab.hosts}


def same(lab: Lab) -> list[str]:
    """The same on all hosts."""
    (held,) = {tuple(names) for names in subjects(lab).values()}
    return list(held)


def rotate(lab: Lab, *arguments: str, **environment: str) -> Run:
    return lab.site(*arguments, playbook=ROTATE, **environment)


def old_leaf_is_answered(lab: Lab, host: str) -> bool:
    """Whether a member serves a client with the former CA's certificate, asked from infra0."""
    address = lab.addresses()[host]
    return lab.sh("infra0", f"python3 - {address} <<'EOF'\n{ASK}\nEOF").strip() == "200"


def leaves_by(lab: Lab, name: str) -> bool:
    """Whether every leaf is of this CA and its chain holds with what ca.crt has."""
    for host in lab.hosts:
        for leaf in LEAVES:
            assert ": OK" in lab.sh(host, f"openssl verify -CAfile {PKI}/etcd/ca.crt {PKI}/{leaf}.crt")
            if name not in lab.sh(host, f"openssl x509 -in {PKI}/{leaf}.crt -noout -issuer"):
                return False
    return True


def settled(lab: Lab) -> None:
    """site.yml neither continues nor undoes the rotation, and reports its phase."""
    before, containers, names = serials(lab), lab.containers(), subjects(lab)
    run = lab.site()
    assert run.changed() == {} and "is being replaced" in flat(run.output), run.output[-3000:]
    assert (serials(lab), lab.containers(), subjects(lab)) == (before, containers, names)


def test_phase_by_phase(found: Lab) -> None:
    """A client with a certificate of the old CA is served until the CA is dropped. A client that gets the new files is always served."""
    lab = found
    lab.sh("infra0", CLIENT)
    old = same(lab)
    assert old == ["etcd-ca"]
    run = lab.play("--check", "--diff", playbook=ROTATE)
    assert run.code == 0 and same(lab) == old, run.output[-3000:]
    rotate(lab, "-e", "etcd_until=new")
    assert same(lab) == old and "ca-next.key" in lab.sh("infra0", f"ls {PKI}/etcd")
    settled(lab)
    before, containers = serials(lab), lab.containers()
    with writing(lab, "oldleaf", "/root/old/") as first, writing(lab, "follows") as second:
        begin = time.monotonic()
        rotate(lab, "-e", "etcd_until=trust")
        trusted = time.monotonic() - begin
        assert len(same(lab)) == 2 and same(lab)[0] == "etcd-ca" and serials(lab) == before
        assert all(old_id != new_id for old_id, new_id in zip(containers.values(), lab.containers().values()))
        settled(lab)
        containers = lab.containers()
        begin = time.monotonic()
        rotate(lab, "-e", "etcd_until=issue")
        issued = time.monotonic() - begin
        new = same(lab)[0]
        assert new != "etcd-ca" and same(lab)[1] == "etcd-ca" and leaves_by(lab, new)
        assert lab.containers() == containers and all(old_leaf_is_answered(lab, host) for host in lab.hosts)
        settled(lab)
        # A renewal is by the CA that signs now.
        lab.site(playbook="playbooks/renew_certificates.yml")
        assert leaves_by(lab, new) and len(same(lab)) == 2
    for counted in (first, second):
        assert counted["lost"] == 0 and counted["nowhere"] == 0, (first, second)
    with writing(lab, "drop") as third:
        begin = time.monotonic()
        run = rotate(lab)
        dropped = time.monotonic() - begin
    assert third["lost"] == 0 and third["nowhere"] == 0, third
    assert same(lab) == [new] and healthy(lab) and lab.site().changed() == {}
    assert [old_leaf_is_answered(lab, host) for host in lab.hosts] == [False] * 3
    assert lab.sh("infra0", f"stat -c '%a %U' {FORMER} {FORMER}/*").split("\n")[:3] == [
        "700 root",
        "600 root",
        "600 root",
    ]
    # Another run does nothing, and does not begin a second rotation.
    run = rotate(lab)
    assert run.changed() == {} and "was replaced less than a day ago" in flat(run.output)
    print(
        f"rotation: trust {trusted:.0f} s, issue {issued:.0f} s, drop {dropped:.0f} s for three members;"
        f" gaps {first['gap']} s and {second['gap']} s (trust, issue), {third['gap']} s (drop); refused 0"
    )


def killed_at(lab: Lab, tmp_path: Path, task: str, *arguments: str) -> None:
    """A run of rotate_ca.yml that is killed one second into a task, the controller and all that it has started."""
    marker = f"kill-{os.getpid()}-{time.monotonic_ns()}"
    run = lab.play(
        *arguments,
        playbook=ROTATE,
        KILL_AT=task,
        KILL_AFTER="1.0",
        KILL_COUNT=str(tmp_path / "count"),
        KILL_MARKER=marker,
        ANSIBLE_CALLBACK_PLUGINS=str(Path(__file__).with_name("callback")),
        ANSIBLE_CALLBACKS_ENABLED="kill_at",
    )
    assert run.code != 0, f"{task} was not reached:\n{run.output[-3000:]}"


TASKS = [
    "Change what ca.crt holds",
    "Change the member, and wait for it",
    "Let the new CA sign",
    "Install the certificates on the host",
]


def test_killed_and_finished(found: Lab, tmp_path: Path) -> None:
    """While a client writes, runs are killed at one task after the other. Each run continues where the one before was killed."""
    lab = found
    lab.sh("infra0", f"rm -rf {FORMER}")
    (before,) = same(lab)
    with writing(lab, "killed") as counted:
        for task in TASKS:
            killed_at(lab, tmp_path, task)
            # What was killed in the middle of a turn may not be up yet.
            assert lab.play().code == 0
        rotate(lab)
    assert counted["lost"] == 0 and counted["nowhere"] == 0, counted
    assert same(lab) != [before] and len(same(lab)) == 1 and leaves_by(lab, same(lab)[0])
    assert healthy(lab) and lab.site().changed() == {}


NAMED = ("-e", "etcd_ca_compromised=etcd")


# At the first task the new CA is not in use, then it is on some hosts, then on all.
EMERGENCY_TASKS = [
    "Sign all requests on the CA host",
    "Install the certificates on the host",
    "Restart all members at the same time",
]


def test_an_emergency(found: Lab, tmp_path: Path) -> None:
    """The run is refused until the cluster is named. Then one run replaces the CA, and no acknowledged write is lost."""
    lab = found
    lab.sh("infra0", f"rm -rf {FORMER}; {CLIENT}")
    (before,) = same(lab)
    run = lab.play("-e", "etcd_ca_compromised=true", playbook=ROTATE)
    assert run.code != 0 and run.changed() == {} and "no quorum for some 15 seconds" in flat(run.output)
    assert "-e etcd_ca_compromised=etcd" in flat(run.output)
    containers = lab.containers()
    run = lab.play("--check", "--diff", *NAMED, playbook=ROTATE)
    assert run.code == 0 and same(lab) == [before] and lab.containers() == containers
    with writing(lab, "emergency") as counted:
        begin = time.monotonic()
        run = rotate(lab, *NAMED)
        took = time.monotonic() - begin
    # Of a client that has what the members have.
    assert counted["lost"] == 0 and counted["gap"] < 40, counted
    (new,) = same(lab)
    assert new != before and leaves_by(lab, new) and healthy(lab)
    assert all(old_id != new_id for old_id, new_id in zip(containers.values(), lab.containers().values()))
    lab.sh("infra0", f"cp {PKI}/etcd/ca.crt /root/old/ca.crt.new; mv /root/old/ca.crt.new /root/old/ca.crt")
    assert [old_leaf_is_answered(lab, host) for host in lab.hosts] == [False] * 3
    assert lab.site().changed() == {}
    run = rotate(lab, *NAMED)
    assert run.changed() == {} and "was replaced less than a day ago" in flat(run.output)
    assert "PRIVATE KEY" not in run.output
    print(f"emergency: {took:.0f} s, {counted['gap']} s without a write")


def test_an_emergency_that_is_killed(found: Lab, tmp_path: Path) -> None:
    """Killed at one task after the other. site.yml leaves it alone and names the command, which finishes it."""
    lab = found
    for task in EMERGENCY_TASKS:
        lab.sh("infra0", f"rm -rf {FORMER}")
        (before,) = same(lab)
        killed_at(lab, tmp_path, task, *NAMED)
        run = lab.play()
        refused = "rotate_ca.yml -e etcd_ca_compromised=etcd" in flat(run.output)
        # site.yml is refused, or the emergency has not changed anything yet.
        assert run.code == 0 or (refused and run.changed() == {}), f"{task}: {run.output[-4000:]}"
        run = rotate(lab, *NAMED)
        (new,) = same(lab)
        assert new != before and leaves_by(lab, new) and healthy(lab) and lab.site().changed() == {}, task
        print(f"killed at {task!r}: site.yml {'is refused' if refused else 'goes on'}")


def made_ca(where: Path, name: str) -> dict[str, Path]:
    """A CA of the user's: certificate and key on the controller."""
    where.mkdir()
    script = f"openssl req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.crt -subj /CN={name} -days 900"
    subprocess.run(script.split(), cwd=where, check=True, capture_output=True, timeout=60)
    return {"cert": where / "ca.crt", "key": where / "ca.key"}


def test_the_users_own_ca_as_the_new_one(found: Lab, tmp_path: Path) -> None:
    """Under a writer. Its key reaches the CA host alone."""
    lab = found
    lab.sh("infra0", f"rm -rf {FORMER}")
    mine = made_ca(tmp_path / "mine", "mine")
    arguments = ("-e", f"etcd_ca_cert={mine['cert']}", "-e", f"etcd_ca_key={mine['key']}")
    before = same(lab)
    run = lab.play("--check", "--diff", *arguments, playbook=ROTATE)
    assert run.code == 0 and same(lab) == before, run.output[-4000:]
    with writing(lab, "mine") as counted:
        run = rotate(lab, *arguments, "-vvvv", "--diff", ANSIBLE_PIPELINING="False")
    assert counted["lost"] == 0 and counted["nowhere"] == 0, counted
    given = mine["key"].read_text(encoding="utf-8").splitlines()[1]
    kept = lab.sh("infra0", f"cat {PKI}/etcd/ca.key").splitlines()[1]
    assert "PRIVATE KEY" not in run.output and given not in run.output and kept not in run.output
    for host in lab.hosts:
        holds = f"grep -rlF -e '{given}' -e '{kept}' /etc /root /tmp /home /var/tmp /run 2>/dev/null || true"
        assert lab.sh(host, holds).split() == ([f"{PKI}/etcd/ca.key"] if host == "infra0" else [])
    assert same(lab) == ["mine"] and leaves_by(lab, "mine") and healthy(lab) and lab.site(*arguments).changed() == {}


def test_a_ca_that_signs_elsewhere_as_the_new_one(found: Lab, tmp_path: Path) -> None:
    """The first run ends with the requests, and members trust both CAs. The next run installs the certificates and completes the rotation."""
    lab = found
    lab.sh("infra0", f"rm -rf {FORMER}")
    (before,) = same(lab)
    theirs, place = made_ca(tmp_path / "theirs", "theirs"), tmp_path / "signing"
    arguments = ("-e", f"etcd_ca_cert={theirs['cert']}", "-e", f"etcd_signing_dir={place}")
    with writing(lab, "theirs") as counted:
        run = lab.play(*arguments, playbook=ROTATE)
        assert run.code != 0 and "12 certificates of cluster etcd wait to be signed" in flat(run.output)
        # All members trust both CAs, and the former key is only in the archive. Other runs still work.
        assert [sorted(names) for names in subjects(lab).values()] == [sorted([before, "theirs"])] * 3
        assert subjects(lab)["infra0"][0] == "theirs"
        assert "ca.key" not in lab.sh("infra0", f"ls {PKI}/etcd") and healthy(lab)
        state = serials(lab), lab.containers(), subjects(lab)
        lab.site(*arguments)
        assert (serials(lab), lab.containers(), subjects(lab)) == state
        for csr in place.rglob("*.csr"):
            sign = f"openssl x509 -req -in {csr} -out {csr.with_suffix('.crt')} -days 365 -copy_extensions copyall"
            sign += f" -CA {theirs['cert']} -CAkey {theirs['key']}"
            subprocess.run(sign.split(), check=True, capture_output=True, timeout=30)
        rotate(lab, *arguments)
    assert counted["lost"] == 0 and counted["nowhere"] == 0, counted
    assert same(lab) == ["theirs"] and leaves_by(lab, "theirs") and healthy(lab)
    assert "ca.key" not in lab.sh("infra0", f"ls {PKI}/etcd") and lab.site(*arguments).changed() == {}


def test_a_kube_apiserver_through_all_phases(plane: Plane) -> None:
    """The run waits before each phase that would cut it off. Only writes fail that etcd drops when its leader changes, once in a phase."""
    lab = plane.lab
    plane.play()
    lab("apiserver", HOST)
    plane.sh(INIT % plane.address)
    plane.ready(True)
    plane.sh(UPLOAD)

    def held(words: str) -> None:
        run = lab.play(playbook=ROTATE, inventory=str(plane.inventory))
        assert run.code != 0 and words in flat(run.output), run.output[-4000:]

    with meanwhile(lab, [HOST], WRITES) as before:
        held(f"The phase issue does not begin. 1 problem(s) in cluster etcd: - {HOST}: ca.crt does not hold the new CA")
        held(f"{HOST}: ca.crt does not hold the new CA")
        process = plane.process()
        said = plane.play("--check")
        assert f"{HOST}: kube-apiserver reads ca.crt when it starts" in said and plane.process() == process
    plane.play(*UPDATE)
    assert plane.changed == {HOST: 2} and plane.process() != process
    plane.ready(True)
    process = plane.process()
    with meanwhile(lab, [HOST], WRITES) as after:
        held(
            f"The phase drop does not begin. 1 problem(s) in cluster etcd: - {HOST}: the certificate of kube-apiserver is from the former CA"
        )
        # Members show certificates of the new CA, and it still has one of the former.
        assert plane.break_connections() > 0
        plane.ready(True)
        serial = plane.serial()
        plane.play()
        assert plane.serial() != serial
        run = lab.play(playbook=ROTATE, inventory=str(plane.inventory))
        assert run.code == 0, run.output[-4000:]
        assert plane.break_connections() > 0
        plane.ready(True)
        assert plane.process() == process
    for load in (before, after):
        good, failed, gap = load[HOST]
        print(
            f"kube-apiserver: {good} writes, {len(failed)} dropped by a change of the leader, longest gap {gap} s: {failed}"
        )
        assert good and not_by_leader(failed) == [] and len(failed) <= 2, failed
    assert f"{HOST}: kube-apiserver reads ca.crt" in plane.play()
    assert len(same(lab)) == 1 and plane.sh(SUBJECTS).splitlines() == same(lab)
    plane.play()
    assert plane.changed == {}


def test_a_kube_apiserver_after_an_emergency(plane: Plane) -> None:
    """kube-apiserver is cut off, as announced, and serves again after control_plane.yml."""
    lab = plane.lab
    plane.play()
    lab("apiserver", HOST)
    if not plane.sh("pgrep -xo kube-apiserver", check=False).strip():
        plane.sh(INIT % plane.address)
        plane.ready(True)
        plane.sh(UPLOAD)
    lab.sh("infra0", f"rm -rf {FORMER}")
    plane.sh(f"{KUBECTL} create configmap before-emergency --from-literal=a=b")
    run = lab.play("-e", "etcd_ca_compromised=true", playbook=ROTATE, inventory=str(plane.inventory))
    assert run.code != 0 and f"kube-apiserver on {HOST} (control_plane.yml" in flat(run.output)
    begin = time.monotonic()
    run = lab.play(*NAMED, playbook=ROTATE, inventory=str(plane.inventory))
    assert run.code == 0 and healthy(lab), run.output[-4000:]
    plane.ready(False)
    plane.play(*UPDATE)
    plane.ready(True)
    print(f"kube-apiserver serves again {time.monotonic() - begin:.0f} s after the emergency has begun")
    plane.sh(f"{KUBECTL} get configmap before-emergency")
    assert len(same(lab)) == 1 and plane.sh(SUBJECTS).splitlines() == same(lab)
    plane.play()
    assert plane.changed == {}
