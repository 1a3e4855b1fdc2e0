"""Changes and bad states of a running cluster: it stays healthy, and the run prints what it did or why it refused."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from .conftest import LAB, Lab, Run, different, inventory, set_alarm, some_long

PKI = "/etc/kubernetes/pki/etcd"
MANIFEST = "/etc/kubernetes/manifests/etcd.yaml"
WRITER = Path(__file__).with_name("writer.py")


def flat(text: str) -> str:
    return re.sub(r"\s+", " ", text)


def healthy(cluster: Lab) -> bool:
    return all(member["health"] for member in cluster.health())


def said(run: Run) -> tuple[list[str], list[str]]:
    """Files and hosts that a run with --diff names as changed."""
    files = sorted(set(re.findall(r"^\s*\+\+\+ after: (\S+)", run.output, flags=re.MULTILINE)))
    return files, sorted(set(re.findall(r"^changed: \[(\w+)", run.output, flags=re.MULTILINE)))


def rewritten(before: dict[str, list[str]], after: dict[str, list[str]]) -> set[str]:
    """Files under /etc whose content is not the same in two fingerprints."""
    lines = [line for found in different(before, after).values() for line in found]
    return {line.split()[-1] for line in lines if re.match(r"[0-9a-f]{64} ", line)}


def peer_urls(cluster: Lab) -> set[str]:
    """Where the cluster believes its members to be."""
    return {url for member in cluster.members() for url in member["peerURLs"]}


@contextlib.contextmanager
def writing(cluster: Lab, name: str, pki: str = PKI + "/") -> Iterator[dict[str, float]]:
    """A client that writes through all members, and its counts afterwards. pki: the directory of its certificates on the first host."""
    first = cluster.hosts[0]
    cluster.sh(first, f"cat > /run/{name}.py <<'EOF'\n{WRITER.read_text(encoding='utf-8')}\nEOF")
    urls = cluster.endpoints().split(",")
    argv = [str(LAB), "exec", "--name", cluster.name, first, "--", "env", f"WRITER_PKI={pki}", "python3"]
    argv += [f"/run/{name}.py", name, *urls]
    counted: dict[str, float] = {}
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            time.sleep(1.0)
            assert process.poll() is None
            yield counted
        finally:
            out, _err = process.communicate(timeout=60)
            counted.update(json.loads(out.strip().splitlines()[-1]))
            print(name, counted)
    cluster.sh(first, f"rm /run/{name}.py")


@pytest.mark.long
def test_writes_go_on_while_members_restart(cluster: Lab) -> None:
    """Manifests change on all members, then all certificates and keys. No acknowledged write is lost, and each write succeeds on some member.

    The hosts and files that --check --diff named are those that the run changes.
    """
    variables = {
        "etcd_extra_args": {"snapshot-count": "20000"},
        "etcd_image_tag": "3.6.14-0",
        "etcd_metrics_exposed": True,
        "etcd_peer_cert_sans": ["b.example.com"],
    }
    change = ("--diff", "-e", json.dumps(variables))

    before, containers = cluster.fingerprint(), cluster.containers()
    check = cluster.site("--check", *change)
    assert different(before, cluster.fingerprint()) == {} and cluster.containers() == containers
    with writing(cluster, "manifests") as counted:
        real = cluster.site(*change)
    assert all(containers[host] != container for host, container in cluster.containers().items())
    assert counted["lost"] == 0 and counted["nowhere"] == 0 and counted["acknowledged"] > 100, counted
    # An election takes a second or two; a member that was stopped without handing over would cost more.
    assert counted["gap"] < 5, counted
    assert said(check) == said(real) and said(real)[1] == cluster.hosts
    changed = rewritten(before, cluster.fingerprint())
    work_dir = "/etc/kubernetes/kubeadm-etcd"
    ours = {f"{work_dir}/{name}" for name in ("etcd.yaml.previous", "lock", "lock-manifest")}
    assert changed - ours == {MANIFEST, f"{PKI}/peer.crt", "/etc/kubernetes/kubeadm-etcd/kubeadmcfg.yaml"}
    with writing(cluster, "certificates") as counted:
        run = cluster.play("-e", '{"etcd_renew_keys": true}', playbook="playbooks/renew_certificates.yml")
    assert run.code == 0 and set(run.changed()) == set(cluster.hosts), run.output[-3000:]
    assert counted["lost"] == 0 and counted["nowhere"] == 0 and counted["gap"] < 5, counted


def test_a_change_that_fails_is_undone(cluster: Lab) -> None:
    """The first member does not start: it gets its manifest back, etcd's message is shown, and the others are not changed."""
    cluster.site()
    before = cluster.containers()
    run = cluster.play("-e", '{"etcd_extra_args": {"snapshot-count": "many"}}')
    said = flat(run.output)
    assert run.code != 0
    assert "The previous manifest was put back, and the member is healthy with it" in said, run.output[-6000:]
    assert 'etcd: invalid value "many" for flag -snapshot-count' in said
    touched = {host for host, container in cluster.containers().items() if container != before[host]}
    assert len(touched) == 1 and healthy(cluster)
    assert not [host for host in cluster.hosts if "many" in cluster.sh(host, f"cat {MANIFEST}")]
    # No restart is needed to continue.
    before = cluster.containers()
    cluster.site()
    assert cluster.containers() == before and cluster.site().changed() == {}


@pytest.mark.long
@pytest.mark.parametrize("value", ["4711", "many"], ids=["runs", "crashes again and again"])
def test_a_manifest_edited_by_hand(cluster: Lab, value: str) -> None:
    """The difference is in the plan and in the diff, and is corrected on that host only."""
    cluster.site()
    cluster.sh("infra1", f"sed -i 's/- --snapshot-count=.*/- --snapshot-count={value}/' {MANIFEST}")
    time.sleep(20)
    before = cluster.containers()
    run = cluster.site("--diff")
    assert f"infra1: manifest: etcd.yaml: --snapshot-count: {value} -> 10000" in flat(run.output), run.output[-6000:]
    assert f"--snapshot-count={value}" in run.output and set(run.changed()) == {"infra1"}
    after = cluster.containers()
    assert {host for host in cluster.hosts if before[host] != after[host]} == {"infra1"} and healthy(cluster)


def test_a_directory_of_certificates_that_is_gone(cluster: Lab) -> None:
    """New certificates are not enough, since the container has mounted the former directory. The member restarts once."""
    before = cluster.containers()
    cluster.sh("infra1", f"rm -r {PKI}")
    run = cluster.site()
    assert "runs with a former /etc/kubernetes/pki/etcd" in flat(run.output), run.output[-6000:]
    after = cluster.containers()
    assert {host for host in cluster.hosts if before[host] != after[host]} == {"infra1"}
    assert healthy(cluster) and cluster.site().changed() == {}


@pytest.mark.long
def test_directories_of_certificates_that_are_gone_everywhere(cluster: Lab) -> None:
    """No client can reach any member. The members are restarted unchanged, and the next run makes the other changes."""
    change = ("-e", '{"etcd_extra_args": {"snapshot-count": "20000"}}')
    cluster.site()
    for host in cluster.hosts:
        cluster.sh(host, f"cp -a {PKI} /root/kept; rm -r {PKI}; mv /root/kept {PKI}")
    before = cluster.containers()
    run = cluster.play(*change)
    assert run.code != 0 and "Run again to change the members one after the other" in flat(run.output)
    assert "runs with a former /etc/kubernetes/pki/etcd" in flat(run.output)
    assert set(run.changed()) == set(cluster.hosts)
    assert all(before[host] != container for host, container in cluster.containers().items()) and healthy(cluster)
    assert "one member after the other" in flat(cluster.site(*change).output)
    cluster.site()


@pytest.mark.long
def test_a_cluster_gets_another_peer_port(cluster: Lab) -> None:
    """Each member's new address is set in the membership before that member restarts. Quorum is never lost."""
    with writing(cluster, "port") as counted:
        cluster.site("-e", "etcd_peer_port=2390")
    assert counted["lost"] == 0 and counted["nowhere"] == 0, counted
    assert peer_urls(cluster) == {f"https://{address}:2390" for address in cluster.addresses().values()}
    assert healthy(cluster) and cluster.site("-e", "etcd_peer_port=2390").changed() == {}
    cluster.site()
    assert healthy(cluster) and cluster.site().changed() == {}


@pytest.mark.long
def test_a_member_gets_another_address(cluster: Lab, tmp_path: Path) -> None:
    """First a further address of the host. Then the host loses an address, and its member cannot be reached."""
    addresses = cluster.addresses()
    old, new = addresses["infra1"], re.sub(r"\d+$", "201", addresses["infra1"])
    device = cluster.sh("infra1", f"ip -o address show to {old} | awk '{{print $2}}'").strip()
    hosts = {host: f"ansible_host: {address}" for host, address in addresses.items()}
    hosts["infra1"] += f", etcd_address: {new}"
    path = inventory(cluster, tmp_path, hosts)
    cluster.sh("infra1", f"ip address add {new}/24 dev {device}")
    try:
        with writing(cluster, "address") as counted:
            cluster.site(inventory=path)
        assert counted["lost"] == 0 and counted["nowhere"] == 0, counted
        assert peer_urls(cluster) == {f"https://{a}:2380" for a in {**addresses, "infra1": new}.values()}
        assert cluster.etcdctl("infra0", "endpoint", "health", "--cluster", "2>&1").count("is healthy") == 3
        assert cluster.site(inventory=path).changed() == {}
    finally:
        cluster.sh("infra1", f"ip address del {new}/24 dev {device}")
    before = cluster.containers()
    run = cluster.play(inventory=path)
    assert run.code != 0 and f"{new} is not an address of this host" in flat(run.output), run.output[-6000:]
    assert run.changed() == {} and cluster.containers() == before
    with writing(cluster, "address lost") as counted:
        cluster.site()
    assert counted["lost"] == 0 and counted["nowhere"] == 0, counted
    assert peer_urls(cluster) == {f"https://{address}:2380" for address in addresses.values()}
    assert healthy(cluster) and cluster.site().changed() == {}


def sans_of(cluster: Lab, host: str) -> str:
    """Names and addresses of the certificates with which a member serves."""
    names = ("server", "peer")
    return "".join(cluster.sh(host, f"openssl x509 -in {PKI}/{name}.crt -noout -ext subjectAltName") for name in names)


@pytest.mark.long
def test_two_members_move_at_once(cluster: Lab, tmp_path: Path) -> None:
    """Connections that break before the turns are made again, since certificates have both addresses until the member has moved."""
    cluster.site()
    old, moving = cluster.addresses(), ("infra1", "infra2")
    new = {**old, **{host: re.sub(r"\d+$", str(201 + i), old[host]) for i, host in enumerate(moving)}}
    device = cluster.sh("infra1", f"ip -o address show to {old['infra1']} | awk '{{print $2}}'").strip()
    hosts = {host: f"ansible_host: {address}, etcd_address: {new[host]}" for host, address in old.items()}
    path = inventory(cluster, tmp_path, hosts)
    for host in moving:
        cluster.sh(host, f"ip address add {new[host]}/24 dev {device}")
    try:
        cluster.site("--tags", "certificates", inventory=path)
        for host in moving:
            assert all(sans_of(cluster, host).count(address) == 2 for address in (old[host], new[host]))
        # Connections between peers are reset, and have to be made anew, with the certificates that are there now.
        rule = "INPUT -p tcp -m multiport --ports 2380 -j REJECT --reject-with tcp-reset"
        cluster.sh("infra1", f"iptables -w -I {rule}; sleep 3; iptables -w -D {rule}")
        time.sleep(3)
        assert healthy(cluster)
        with writing(cluster, "two addresses") as counted:
            cluster.site(inventory=path)
        assert counted["lost"] == 0 and counted["nowhere"] == 0 and counted["gap"] < 5, counted
        assert peer_urls(cluster) == {f"https://{address}:2380" for address in new.values()}
        assert cluster.etcdctl("infra0", "endpoint", "health", "--cluster", "2>&1").count("is healthy") == 3
        for host in moving:
            assert f"IP Address:{new[host]}" in sans_of(cluster, host)
            assert f"IP Address:{old[host]}," not in sans_of(cluster, host).replace("\n", ",")
        assert cluster.site(inventory=path).changed() == {}
    finally:
        cluster.site()
        for host in moving:
            cluster.sh(host, f"ip address del {new[host]}/24 dev {device}")
    assert peer_urls(cluster) == {f"https://{address}:2380" for address in old.values()}
    assert healthy(cluster) and cluster.site().changed() == {}


@pytest.mark.long
def test_check_mode_with_a_member_down(cluster: Lab) -> None:
    """Check mode does not repair it, and still shows the changes of the other members."""
    change = ("--diff", "-e", '{"etcd_extra_args": {"snapshot-count": "20000"}}')
    cluster.sh("infra1", f"rm {MANIFEST}; sleep 10")
    before = cluster.fingerprint()
    check = cluster.site("--check", *change)
    assert different(before, cluster.fingerprint()) == {}
    real = cluster.site(*change)
    assert said(check) == said(real) and said(real)[1] == cluster.hosts and healthy(cluster)
    cluster.site()
    assert cluster.site().changed() == {}


def test_the_hostname_may_differ_from_the_member_name(cluster: Lab) -> None:
    """The name of the host itself is not the member's."""
    cluster.sh("infra1", "hostname elsewhere")
    try:
        assert cluster.site().changed() == {}
    finally:
        cluster.sh("infra1", "hostname infra1")


def on_infra1(script: str) -> Callable[[Lab], object]:
    return lambda cluster: cluster.sh("infra1", script)


def on_all(script: str) -> Callable[[Lab], object]:
    return lambda cluster: [cluster.sh(host, script) for host in cluster.hosts]


# Without its kubelet, etcd stays down.
DOWN = "systemctl stop kubelet; pkill -x etcd; for i in $(seq 30); do pgrep -x etcd || break; sleep 1; done"

# How to make a bad state, how to undo it, further arguments, and the expected message.
STATES: dict[str, tuple[Callable[[Lab], object], Callable[[Lab], object], list[str], str]] = {
    "kubelet masked": (
        on_infra1("systemctl mask --now kubelet"),
        on_infra1("systemctl unmask kubelet; systemctl start kubelet"),
        [],
        "infra1: kubelet.service is masked",
    ),
    "second manifest": (
        # Not one that runs: the kubelet would start it.
        on_infra1(f"printf 'spec: {{containers: [{{image: registry.k8s.io/etcd:1}}]}}' > {MANIFEST}.bak"),
        on_infra1(f"rm {MANIFEST}.bak"),
        [],
        "infra1: /etc/kubernetes/manifests/etcd.yaml.bak is an etcd pod too",
    ),
    "runtime down": (
        on_infra1("systemctl stop containerd"),
        on_infra1("systemctl start containerd"),
        # A warning, as long as nothing has to be restarted.
        ["-e", '{"etcd_extra_args": {"snapshot-count": "20000"}}'],
        "infra1: the container runtime's socket",
    ),
    "another disk": (
        on_infra1("mkdir -p /srv/small; mount -t tmpfs -o size=100m tmpfs /srv/small"),
        on_infra1("umount /srv/small; rmdir /srv/small"),
        ["-e", "etcd_data_dir=/srv/small"],
        "the member's data is in /var/lib/etcd, and etcd_data_dir is /srv/small, which is empty",
    ),
    "data elsewhere": (
        lambda _cluster: None,
        lambda _cluster: None,
        ["-e", "etcd_data_dir=/srv/etcd"],
        "the member's data is in /var/lib/etcd, and etcd_data_dir is /srv/etcd, which is empty",
    ),
    "data copied": (
        on_infra1("cp -a /var/lib/etcd /srv/etcd"),
        on_infra1("rm -r /srv/etcd"),
        ["-e", "etcd_data_dir=/srv/etcd"],
        "the member's data is in /var/lib/etcd, and etcd_data_dir is /srv/etcd, which contains data too",
    ),
    "not mounted": (
        on_all(
            f"{DOWN}; sed -i s/initial-cluster-state=new/initial-cluster-state=existing/ {MANIFEST}; mv /var/lib/etcd/member /var/lib/away"
        ),
        on_all("mv /var/lib/away /var/lib/etcd/member; systemctl start kubelet"),
        [],
        "infra0: the data of this host is missing: according to its record (member.json), it was",
    ),
    "moved while down": (
        on_all(DOWN),
        on_all("systemctl start kubelet"),
        ["-e", "etcd_peer_port=2390"],
        "the members have other addresses in the data of infra0, infra1, infra2 than in the inventory",
    ),
    "corrupt": (
        lambda cluster: set_alarm(cluster, 2, "ACTIVATE"),
        lambda cluster: set_alarm(cluster, 2, "DEACTIVATE"),
        ["-e", '{"etcd_extra_args": {"snapshot-count": "20000"}}'],
        "Alarm CORRUPT at infra1: its data differs from that of the other members",
    ),
    "corrupt, and etcd does not know where": (
        lambda cluster: set_alarm(cluster, 2, "ACTIVATE", ""),
        lambda cluster: set_alarm(cluster, 2, "DEACTIVATE", ""),
        ["-e", '{"etcd_extra_args": {"snapshot-count": "20000"}}'],
        "Alarm CORRUPT for the whole cluster: the data of the members differs, etcd cannot tell which member is wrong",
    ),
    "renamed": (
        lambda _cluster: None,
        lambda _cluster: None,
        ["-e", '{"etcd_member_name": "{{ inventory_hostname }}-new"}'],
        "set etcd_member_name: infra1 for this host",
    ),
}


@pytest.mark.parametrize("case", some_long(STATES))
def test_bad_state_is_refused(cluster: Lab, case: str) -> None:
    """The run names the problem and the host, and changes nothing. Working members keep running."""
    make, undo, arguments, words = STATES[case]
    make(cluster)
    try:
        before, containers = cluster.fingerprint(), cluster.containers()
        run = cluster.play(*arguments)
        assert run.code != 0 and words in flat(run.output), run.output[-6000:]
        assert "Traceback" not in run.output and run.changed() == {}
        assert different(before, cluster.fingerprint()) == {}
        assert cluster.containers() == containers
    finally:
        undo(cluster)
    # The member is not gone, but may be asked too early.
    deadline = time.monotonic() + 60
    while not healthy(cluster) and time.monotonic() < deadline:
        time.sleep(1)
    assert cluster.site().changed() == {}


@pytest.mark.long
def test_a_full_database(cluster: Lab) -> None:
    """NOSPACE: the run that raises the quota continues, names the remaining steps, and does not wait for the alarm to end."""
    set_alarm(cluster, 1, "ACTIVATE")
    try:
        run = cluster.play("-e", '{"etcd_extra_args": {"quota-backend-bytes": "4294967296"}}')
        said = flat(run.output)
        assert "infra1: alarm NOSPACE" in said and "PROBLEM: Alarm NOSPACE at infra1" in said, run.output[-6000:]
        assert run.code != 0 and run.seconds < 200
        assert set(run.changed()) == set(cluster.hosts)
    finally:
        set_alarm(cluster, 1, "DEACTIVATE")
    cluster.site()


def test_tags_and_limit(cluster: Lab) -> None:
    """Tags run their stage; with --limit one member is changed, as a member of the whole cluster."""
    cluster.site()
    both = ("-e", '{"etcd_extra_args": {"snapshot-count": "20000"}, "etcd_server_cert_sans": ["a.example.com"]}')
    before = cluster.containers()
    run = cluster.site("--tags", "health", *both)
    assert run.changed() == {} and "nothing to do in this run" in run.output and "snapshot-count" not in run.output
    run = cluster.site("--tags", "certificates", "--diff", *both)
    assert "server.crt" in run.output and "snapshot-count" not in run.output
    assert "left to other stages: static_pod (infra0, infra1, infra2)" in run.output
    assert cluster.containers() == before
    for host in cluster.hosts:
        assert "snapshot-count=10000" in cluster.sh(host, f"cat {MANIFEST}")
        assert "a.example.com" in cluster.sh(host, f"openssl x509 -in {PKI}/server.crt -noout -ext subjectAltName")
    assert set(cluster.site("--limit", "infra1", *both).changed()) == {"infra1"}
    after = cluster.containers()
    assert {host for host in cluster.hosts if before[host] != after[host]} == {"infra1"} and healthy(cluster)
    cluster.site()


def test_all_hosts_lose_power(cluster: Lab) -> None:
    """The cluster comes back by itself."""
    cluster.site()
    cluster.etcdctl("infra0", "put", "before", "power")
    cluster("stop", *cluster.hosts)
    cluster("start", *cluster.hosts)
    deadline = time.monotonic() + 120
    found = ""
    while "power" not in found and time.monotonic() < deadline:
        time.sleep(2)
        found = cluster.etcdctl("infra2", "get", "before", check=False)
    assert "power" in found
    assert cluster.site().changed() == {}


@pytest.mark.long
def test_a_change_right_after_a_power_cut(cluster: Lab) -> None:
    """The cluster does not answer yet. The run starts its members unchanged instead of changing all at once."""
    change = ("-e", '{"etcd_extra_args": {"snapshot-count": "many"}}')
    cluster.site()
    for host in cluster.hosts:
        cluster.sh(host, DOWN)
    run = cluster.play(*change)
    assert run.code != 0 and "were started with the manifests that they had" in flat(run.output), run.output[-6000:]
    assert not [host for host in cluster.hosts if "many" in cluster.sh(host, f"cat {MANIFEST}")]
    assert healthy(cluster)
    cluster.site()
    assert healthy(cluster) and cluster.site().changed() == {}


@pytest.mark.long
def test_a_play_with_serial(cluster: Lab, tmp_path: Path) -> None:
    """Each batch is like a run with --limit: members change in turns, and one host of the batch prints the plan."""
    playbook = tmp_path / "serial.yml"
    roles = [f"kubeadm.etcd.{role}" for role in ("preflight", "kubelet", "ca", "certificates", "static_pod", "health")]
    play = {"hosts": "etcd", "become": True, "gather_facts": False, "serial": 1, "roles": roles}
    playbook.write_text(json.dumps([play]), encoding="utf-8")
    before = cluster.containers()
    run = cluster.play("-e", '{"etcd_extra_args": {"snapshot-count": "20000"}}', playbook=str(playbook))
    assert run.code == 0 and set(run.changed()) == set(cluster.hosts), run.output[-6000:]
    for host in cluster.hosts:
        assert f"cluster etcd: one member after the other: {host}" in flat(run.output)
    assert all(before[host] != container for host, container in cluster.containers().items()) and healthy(cluster)
    # The CA host is in another batch, so the run reports that it cannot issue certificates.
    sans = ("-e", '{"etcd_extra_args": {"snapshot-count": "20000"}, "etcd_server_cert_sans": ["c.example.com"]}')
    run = cluster.play(*sans, playbook=str(playbook))
    assert (
        run.code != 0
        and "infra1: new certificates are due, and the CA host infra0, which issues them, is not part of this run"
        in flat(run.output)
    )
    assert set(run.changed()) == {"infra0"}
    cluster.site()


@pytest.mark.long
def test_two_clusters_in_one_run(lab: Lab, tmp_path: Path) -> None:
    """One is refused. The other is still founded, and the run fails at its end."""
    lab.fresh()
    try:
        hosts = {
            host: f"ansible_host: {address}, etcd_cluster_name: {name}{more}"
            for (host, address), name, more in zip(
                lab.addresses().items(), ("one", "two", "two"), ("", "", ", etcd_address: 192.0.2.1")
            )
        }
        run = lab.play(inventory=inventory(lab, tmp_path, hosts))
        assert run.code != 0 and set(run.changed()) == {"infra0"}, run.output[-6000:]
        assert "192.0.2.1 is not an address of this host" in flat(run.output)
        assert "1 of 1 members healthy" in run.output
    finally:
        lab.fresh()
        # The cluster that other tests expect.
        lab.site()


@pytest.mark.long
def test_two_clusters_roll_side_by_side(lab: Lab, tmp_path: Path) -> None:
    """Both clusters have turns at the same time. A change that fails in one is undone there, and the other keeps its change."""
    lab("add", "3")
    both = Lab(lab.name, [f"infra{number}" for number in range(6)])
    try:
        both.fresh()
        counts = {"one": ["20000", "30000"], "two": ["20000", "many"]}
        paths = []
        for number in range(2):
            hosts = {
                host: f"ansible_host: {address}, etcd_cluster_name: {name},"
                f" etcd_extra_args: {{snapshot-count: '{counts[name][number]}'}}"
                for (host, address), name in zip(both.addresses().items(), ["one"] * 3 + ["two"] * 3)
            }
            (tmp_path / str(number)).mkdir()
            paths.append(inventory(both, tmp_path / str(number), hosts))
        both.site("-e", "etcd_metrics_exposed=true", inventory=paths[0])
        before = both.containers()
        run = both.site(inventory=paths[0])
        # Which hosts had their turns together.
        turns = [
            re.findall(r"^changed: \[infra(\d)\]", part, flags=re.MULTILINE)
            for part in run.output.split("\nTASK [")
            if "Change the member, and wait for it]" in part
        ]
        turns = [found for found in turns if found]
        assert len(turns) == 3 and all(len({int(n) // 3 for n in found}) == len(found) == 2 for found in turns), turns
        assert all(before[host] != container for host, container in both.containers().items())
        before = both.containers()
        run = both.play(inventory=paths[1])
        touched = [host for host, container in both.containers().items() if container != before[host]]
        assert run.code != 0 and touched[:3] == ["infra0", "infra1", "infra2"] and len(touched) == 4, run.output[-6000:]
        assert "The previous manifest was put back, and the member is healthy with it" in flat(run.output)
        for host in ("infra0", "infra3"):
            assert both.etcdctl(host, "endpoint", "health", "--cluster", "2>&1").count("is healthy") == 3
    finally:
        lab("remove", "3")
        lab.fresh()
        # The cluster that other tests expect.
        lab.site()
