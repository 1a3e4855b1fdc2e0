"""The kubelets of a running cluster are changed host by host. Each must work before the next one changes, and etcd keeps running."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from .conftest import Lab, different
from .test_live import MANIFEST, flat, healthy, rewritten, said, writing

KUBELET = "/etc/kubernetes/kubeadm-etcd/kubelet.yaml"
DATA_DROP_IN = "/etc/systemd/system/kubelet.service.d/30-etcd-data.conf"
MORE_PODS = ("-e", '{"etcd_kubelet_config": {"maxPods": 20}}')


def eventually(holds: Callable[[], bool], seconds: float = 90) -> None:
    """Wait until something holds."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(1)


def kubelets(cluster: Lab) -> dict[str, str]:
    """Process ids of the kubelets by host: a restart makes a new one."""
    return {host: cluster.sh(host, "systemctl show kubelet -p MainPID --value").strip() for host in cluster.hosts}


def with_more_pods(cluster: Lab) -> list[str]:
    """Hosts whose kubelet has the changed configuration."""
    return [host for host in cluster.hosts if "maxPods: 20" in cluster.sh(host, f"cat {KUBELET}")]


@pytest.mark.long
def test_a_change_goes_from_host_to_host(cluster: Lab, tmp_path: Path) -> None:
    """--check --diff names the changes of the run, no etcd restarts, a second run changes nothing, and the probes use no proxy."""
    cluster.site()
    for host in cluster.hosts:
        cluster.sh(host, "echo http_proxy=http://127.0.0.1:9 > /etc/environment")
    before, containers, running = cluster.fingerprint(), cluster.containers(), kubelets(cluster)
    # sshd reads it for new connections.
    fresh = {"ANSIBLE_SSH_CONTROL_PATH_DIR": str(tmp_path)}
    check = cluster.site("--check", "--diff", *MORE_PODS, **fresh)
    assert different(before, cluster.fingerprint()) == {} and kubelets(cluster) == running
    real = cluster.site("--diff", *MORE_PODS, **fresh)
    assert said(check) == said(real) == ([KUBELET], cluster.hosts), real.output[-6000:]
    changed = rewritten(before, cluster.fingerprint())
    # The turns of the members wrote their locks, and nothing else.
    assert {path for path in changed if "/lock" not in path} == {KUBELET} and with_more_pods(cluster) == cluster.hosts
    assert all(running[host] != pid for host, pid in kubelets(cluster).items())
    since = 'date +%s -d "$(systemctl show kubelet -p ExecMainStartTimestamp --value)"'
    started = sorted(int(cluster.sh(host, since)) for host in cluster.hosts)
    # Each is watched for ten seconds before the next one.
    assert all(late - early >= 10 for early, late in zip(started, started[1:])), started
    assert cluster.site(*MORE_PODS).changed() == {}
    for host in cluster.hosts:
        cluster.sh(host, ": > /etc/environment")
    cluster.site()
    assert cluster.containers() == containers and healthy(cluster)


@pytest.mark.long
def test_files_that_only_count_at_the_next_start_cause_no_restart(cluster: Lab) -> None:
    """As on a cluster of an earlier version of the collection. Files from a clock that was ahead cause none either."""
    cluster.site()
    containers, running = cluster.containers(), kubelets(cluster)
    for host in cluster.hosts:
        cluster.sh(
            host,
            f"rm {DATA_DROP_IN} /run/kubeadm-etcd/kubelet.yaml; touch -d 'next year' {KUBELET}; systemctl daemon-reload",
        )
    run = cluster.site()
    assert set(run.changed()) == set(cluster.hosts) and kubelets(cluster) == running, run.output[-6000:]
    assert cluster.site().changed() == {} and cluster.containers() == containers
    for host in cluster.hosts:
        cluster.sh(host, f"touch {KUBELET}; mkdir -p -m 0700 /run/kubeadm-etcd; cp {KUBELET} /run/kubeadm-etcd/")


def test_the_kubelet_waits_for_the_data(cluster: Lab) -> None:
    """A power cut, and the volume is empty: etcd does not start, the journal says why, and it comes back with its data."""
    cluster.site()
    containers = cluster.containers()
    # Within the volume, since it is one of the lab.
    cluster.sh("infra1", "mv /var/lib/etcd/member /var/lib/etcd/away; sync")
    cluster("stop", "infra1")
    cluster("start", "infra1")
    held = (
        "journalctl --unit kubelet --boot --output cat | grep -c 'etcd is not started: this host is a member' || true"
    )
    eventually(lambda: int(cluster.sh("infra1", held)) >= 2)
    # Other tests leave data that they have set aside.
    assert cluster.sh("infra1", "pgrep -x etcd; ls -d /var/lib/etcd/member 2>/dev/null || true") == ""
    run = cluster.play()
    assert run.code != 0 and run.changed() == {}, run.output[-6000:]
    cluster.sh("infra1", "mv /var/lib/etcd/away /var/lib/etcd/member")
    # It starts without help.
    eventually(lambda: healthy(cluster))
    after = cluster.containers()
    assert {host for host in cluster.hosts if containers[host] != after[host]} == {"infra1"}
    assert cluster.site().changed() == {}


def test_a_drop_in_that_takes_the_command_line_is_named(cluster: Lab) -> None:
    """Restarts would not help, so no run restarts the kubelet. The message names the file."""
    cluster.site()
    running = kubelets(cluster)
    site = "/etc/systemd/system/kubelet.service.d/90-site.conf"
    text = "[Service]\\nExecStart=\\nExecStart=/usr/bin/kubelet --config=/var/lib/kubelet/config.yaml\\n"
    cluster.sh("infra1", f"printf '{text}' > {site}")
    for reload in ("true", "systemctl daemon-reload"):
        cluster.sh("infra1", reload)
        run = cluster.play()
        assert f"infra1: {site} sets ExecStart=/usr/bin/kubelet --config=/var/lib" in flat(run.output), run.output[
            -6000:
        ]
        assert run.changed() == {} and kubelets(cluster) == running
    cluster.sh("infra1", f"rm {site}; systemctl daemon-reload")
    assert cluster.site().changed() == {}


@pytest.mark.long
def test_leftovers_on_a_host_are_reported(cluster: Lab) -> None:
    """Leftovers of a setup by hand, arguments that are dropped, and a runtime with another cgroup driver are reported and left."""
    cluster.site()
    page = "/etc/systemd/system/kubelet.service.d/kubelet.conf"
    keys = "/tmp/10.0.0.7/pki/etcd"
    config = "/etc/containerd/config.toml"
    prepare = (
        f"cp {KUBELET} {page}; systemctl daemon-reload; mkdir -p {keys}; touch {keys}/peer.key;"
        " cp /etc/default/kubelet /root/kubelet.default; echo KUBELET_EXTRA_ARGS=--v=4 > /etc/default/kubelet;"
        f" cp {config} /root/; sed -i 's/SystemdCgroup = true/SystemdCgroup = false/' {config}; systemctl restart containerd"
    )
    cluster.sh("infra1", prepare)
    before = cluster.fingerprint()
    run = cluster.site()
    words = flat(run.output)
    for text in (
        f"infra1: {page} is left from the setup by hand",
        "infra1: private keys of members are left from the setup by hand in /tmp/10.0.0.7/pki.",
        "infra1: /etc/default/kubelet sets KUBELET_EXTRA_ARGS=--v=4,",
        "infra1: containerd uses the cgroup driver cgroupfs, and etcd_cgroup_driver is systemd",
    ):
        assert text in words, (text, run.output[-6000:])
    assert run.changed() == {} and different(before, cluster.fingerprint()) == {}
    cluster.sh(
        "infra1",
        f"rm -r {page} /tmp/10.0.0.7; systemctl daemon-reload; mv /root/config.toml {config};"
        " systemctl restart containerd;"
        " mv /root/kubelet.default /etc/default/kubelet || rm /etc/default/kubelet",
    )


@pytest.mark.long
@pytest.mark.parametrize(
    ("config", "log"),
    [
        pytest.param('{"maxPods": -1}', "maxPods", id="does not start"),
        # A kubelet that starts, reports that it is healthy, and ends.
        pytest.param(
            '{"enforceNodeAllocatable": ["pods", "system-reserved"], "systemReservedCgroup": "/none"}',
            "Failed to start ContainerManager",
            id="does not stay",
        ),
    ],
)
def test_a_change_that_fails_is_undone(cluster: Lab, config: str, log: str) -> None:
    """The first host gets its files back and its kubelet runs with them; the others are not touched."""
    cluster.site()
    # Errors of the kubelet that ran before are not those of this change.
    for host in cluster.hosts:
        cluster.sh(host, "cd /etc/kubernetes/manifests; echo '{' > unrelated.yaml; sleep 1; rm unrelated.yaml")
        assert "unrelated.yaml" in cluster.sh(host, "journalctl --unit kubelet --lines 20")
    before, containers, running = cluster.fingerprint(), cluster.containers(), kubelets(cluster)
    run = cluster.play("-e", f'{{"etcd_kubelet_config": {config}}}')
    words = flat(run.output)
    assert run.code != 0 and "Traceback" not in words
    assert "The previous configuration was put back, and the kubelet runs with it" in words, run.output[-6000:]
    assert "From `journalctl -u kubelet`" in words and log in words
    assert "unrelated.yaml" not in words
    after = cluster.fingerprint()
    touched = different(before, after)
    assert len(touched) == 1 and run.changed() == {}, touched
    # Times, and the lock of the turn.
    assert [path for path in rewritten(before, after) if "/lock" not in path] == [], touched
    assert {host for host, pid in kubelets(cluster).items() if running[host] != pid} == set(touched)
    for host in touched:
        assert cluster.sh(host, f"stat -c '%a %U:%G' {KUBELET}").strip() == "644 root:root"
        assert cluster.sh(host, "systemctl is-active kubelet").strip() == "active"
    running = kubelets(cluster)
    assert cluster.site().changed() == {}
    assert cluster.containers() == containers and kubelets(cluster) == running and healthy(cluster)


@pytest.mark.long
def test_no_kubelet_restarts_while_another_member_is_down(cluster: Lab) -> None:
    """Its member is needed for quorum. The run repairs the other member first."""
    cluster.site()
    containers = cluster.containers()
    cluster.sh("infra1", "systemctl stop kubelet; pkill -x etcd; sleep 2")
    before = cluster.fingerprint()
    run = cluster.play("--limit", "infra0", *MORE_PODS)
    words = "infra0 is not touched, because stopping it could stop the cluster: infra1 is not healthy"
    assert run.code != 0 and words in flat(run.output), run.output[-6000:]
    changed = [line for lines in different(before, cluster.fingerprint()).values() for line in lines]
    assert run.changed() == {} and [line for line in changed if "kubeadm-etcd" not in line] == []
    assert with_more_pods(cluster) == []
    # Down because of its kubelet: this host is first, the others follow when it is back.
    run = cluster.site(*MORE_PODS)
    assert set(run.changed()) == set(cluster.hosts) and with_more_pods(cluster) == cluster.hosts
    after = cluster.containers()
    assert {host for host in cluster.hosts if containers[host] != after[host]} == {"infra1"} and healthy(cluster)
    cluster.site()
    assert cluster.site().changed() == {}


@pytest.mark.long
@pytest.mark.parametrize(
    "damage",
    [f"rm {MANIFEST}; sleep 10", "echo broken > /etc/kubernetes/pki/etcd/server.crt"],
    ids=["its manifest is gone", "no client can talk to it"],
)
def test_a_member_is_repaired_before_other_kubelets_change(cluster: Lab, damage: str) -> None:
    """Kubelet, certificates and manifest: its turn is the first, and the others have theirs in the same run."""
    cluster.site()
    cluster.sh("infra1", damage)
    run = cluster.site(*MORE_PODS)
    assert set(run.changed()) == set(cluster.hosts) and with_more_pods(cluster) == cluster.hosts and healthy(cluster)
    cluster.site()
    assert cluster.site().changed() == {} and healthy(cluster)


@pytest.mark.long
def test_no_kubelet_restarts_without_client_certificates(cluster: Lab) -> None:
    """All members are ready, but none can be asked. The run issues certificates and restarts no kubelet."""
    cluster.site()
    containers, running = cluster.containers(), kubelets(cluster)
    for host in cluster.hosts:
        cluster.sh(host, "rm /etc/kubernetes/pki/etcd/healthcheck-client.*")
    run = cluster.site(*MORE_PODS)
    assert "this run changes certificates only. Run again for all other changes" in flat(run.output), run.output[-6000:]
    assert with_more_pods(cluster) == [] and kubelets(cluster) == running and healthy(cluster)
    assert set(cluster.site(*MORE_PODS).changed()) == set(cluster.hosts) and with_more_pods(cluster) == cluster.hosts
    cluster.site()
    assert cluster.containers() == containers and cluster.site().changed() == {}


@pytest.mark.long
def test_manifests_that_change_with_their_kubelet(cluster: Lab) -> None:
    """Manifests were edited while kubelets were down, so that their start restarts etcd. Members still restart one at a time while a client writes."""
    cluster.site()
    before = cluster.containers()
    for host in ("infra1", "infra2"):
        edit = f"sed -i 's/- --snapshot-count=.*/- --snapshot-count=4711/' {MANIFEST}"
        cluster.sh(host, f"systemctl stop kubelet; {edit}")
    assert cluster.containers() == before
    with writing(cluster, "edited") as counted:
        run = cluster.site()
    assert counted["lost"] == 0 and counted["nowhere"] == 0, counted
    assert set(run.changed()) == {"infra1", "infra2"}, run.output[-6000:]
    after = cluster.containers()
    assert {host for host in cluster.hosts if before[host] != after[host]} == {"infra1", "infra2"}
    assert cluster.site().changed() == {} and healthy(cluster)


@pytest.mark.long
def test_manifests_that_do_not_work_while_kubelets_are_down(cluster: Lab) -> None:
    """A kubelet that is down is started with the right manifest. No member is down for longer than its turn."""
    cluster.site()
    before = cluster.containers()
    for host in ("infra1", "infra2"):
        cluster.sh(
            host, f"systemctl stop kubelet; sed -i 's/- --snapshot-count=.*/- --snapshot-count=many/' {MANIFEST}"
        )
    with writing(cluster, "broken") as counted:
        cluster.site()
    assert counted["lost"] == 0 and counted["nowhere"] == 0 and counted["gap"] < 5, counted
    touched = {host for host, container in cluster.containers().items() if container != before[host]}
    assert touched == {"infra1", "infra2"}
    assert cluster.site().changed() == {} and healthy(cluster)


@pytest.mark.long
def test_kubelet_and_manifest_change_in_one_turn(cluster: Lab) -> None:
    """Behind one gate. With --tags kubelet the kubelet alone has a turn."""
    cluster.site()
    containers = cluster.containers()
    both = ("-e", '{"etcd_kubelet_config": {"maxPods": 20}, "etcd_extra_args": {"snapshot-count": "20000"}}')
    cluster.site("--tags", "kubelet", *both)
    assert cluster.containers() == containers and with_more_pods(cluster) == cluster.hosts
    cluster.site("--tags", "kubelet")
    with writing(cluster, "one turn") as counted:
        run = cluster.site(*both)
    assert counted["lost"] == 0 and counted["nowhere"] == 0, counted
    turns = [part for part in run.output.split("\nTASK [") if "Change the member, and wait for it]" in part]
    assert (
        sum("changed: [" in part for part in turns) == len(cluster.hosts) and with_more_pods(cluster) == cluster.hosts
    )
    assert all(containers[host] != container for host, container in cluster.containers().items())
    cluster.site()


@pytest.mark.long
def test_a_newer_kubelet(cluster: Lab) -> None:
    """The kubelet's program was replaced, as by a package upgrade: that kubelet restarts, and etcd keeps running."""
    cluster.site()
    containers, running = cluster.containers(), kubelets(cluster)
    cluster.sh("infra1", "cp -p /usr/bin/kubelet /usr/bin/kubelet.new; mv /usr/bin/kubelet.new /usr/bin/kubelet")
    run = cluster.site()
    words = "infra1: kubelet: kubelet.service: runs a program that was replaced since"
    assert words in flat(run.output) and set(run.changed()) == {"infra1"}, run.output[-6000:]
    assert {host for host, pid in kubelets(cluster).items() if running[host] != pid} == {"infra1"}
    assert cluster.site().changed() == {} and cluster.containers() == containers
