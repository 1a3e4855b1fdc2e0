"""First runs that fail must at once name the host and quote the program that knows the cause."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from .conftest import Lab, Run
from .test_live import flat, healthy, writing

# A run that takes longer has waited instead of finding the cause.
TIMEOUT = 200


@pytest.fixture
def fresh(lab: Lab) -> Iterator[Lab]:
    """Hosts without any state, before and after."""
    lab.fresh()
    yield lab
    lab.fresh()


def run_at_once(lab: Lab, *arguments: str) -> Run:
    """A run that fails long before its timeout, of which a minute would be enough."""
    run = lab.play("-e", f"etcd_health_timeout={TIMEOUT}", *arguments)
    print(f"{run.seconds:.0f} s, {run.code}:\n{run.output[-3000:]}")
    assert run.code != 0 and "Traceback" not in run.output
    return run


@pytest.mark.parametrize(
    ("flag", "value", "words"),
    [
        ("quota-backend-bytes", "8G", 'invalid value "8G" for flag -quota-backend-bytes'),
        pytest.param(
            "election-timeout",
            "300",
            "--election-timeout[300ms] should be at least as 5 times as --heartbeat-interval[100ms]",
            marks=pytest.mark.long,
        ),
        pytest.param("no-such-flag", "1", "flag provided but not defined: -no-such-flag", marks=pytest.mark.long),
    ],
)
def test_a_first_run_names_the_flag_that_etcd_refuses(fresh: Lab, flag: str, value: str, words: str) -> None:
    run = run_at_once(fresh, "-e", json.dumps({"etcd_extra_args": {flag: value}}))
    assert words in flat(run.output) and run.seconds < TIMEOUT
    assert all(host in flat(run.output).split(words, 1)[0] for host in fresh.hosts)


@pytest.mark.long
def test_a_first_run_names_the_image_that_cannot_be_pulled(fresh: Lab) -> None:
    run = run_at_once(fresh, "-e", "etcd_image_repository=registry.invalid/k8s")
    said = flat(run.output)
    assert "registry.invalid/k8s/etcd:" in said and "failed to resolve reference" in said
    assert run.seconds < TIMEOUT


@pytest.mark.long
def test_no_member_stops_for_an_image_that_cannot_be_pulled(cluster: Lab) -> None:
    """On a cluster that runs, the image is there before the old pod stops."""
    containers = cluster.containers()
    try:
        with writing(cluster, "no-image") as counted:
            run = run_at_once(cluster, "-e", "etcd_image_tag=3.6.99-0")
        assert cluster.containers() == containers and counted["gap"] < 1, counted
        assert "registry.k8s.io/etcd:3.6.99-0" in flat(run.output) and "failed to resolve reference" in flat(run.output)
    finally:
        cluster.site()
    assert healthy(cluster)


def test_a_first_run_names_the_pause_image_that_is_missing(fresh: Lab) -> None:
    """On one of three hosts: the runtime cannot make the sandbox of its pod."""
    config = "/etc/containerd/config.toml"
    other = 's|sandbox_image = .*|sandbox_image = "registry.k8s.io/pause:3.99"|'
    fresh.sh("infra1", f"sed -i '{other}' {config} && grep -q pause:3.99 {config} && systemctl restart containerd")
    run = run_at_once(fresh)
    said = flat(run.output)
    assert "registry.k8s.io/pause:3.99" in said and "infra1" in said.split("registry.k8s.io/pause:3.99", 1)[0]
    assert run.seconds < TIMEOUT


@pytest.mark.long
def test_a_first_run_tells_a_firewall_that_rejects_from_an_etcd_that_does_not_run(fresh: Lab) -> None:
    rule = "INPUT -p tcp -m multiport --dports 2379,2380 ! -i lo -j REJECT"
    for host in fresh.hosts:
        fresh.sh(host, f"iptables -I {rule}")
    run = run_at_once(fresh)
    said = flat(run.output)
    assert "firewall" in said and "reject" in said and "etcd does not run there" not in said
    assert run.seconds < TIMEOUT
