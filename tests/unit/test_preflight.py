"""What preflight says of hosts."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.kubeadm.etcd.plugins.module_utils import _preflight
from ansible_collections.kubeadm.etcd.plugins.module_utils._cluster import Cluster, Member
from ansible_collections.kubeadm.etcd.plugins.module_utils._problem import PROCESSES, merged

MEMBERS = [Member("infra0", "infra0", "10.0.0.6"), Member("infra1", "infra1", "10.0.0.7")]
CLUSTER = Cluster("etcd", MEMBERS, "infra0")
GOOD: dict[str, Any] = {
    "addresses": ["127.0.0.1", "10.0.0.6", "10.0.0.7"],
    "cgroup_version": 2,
    "cryptography": "38.0.4",
    "cryptography_problem": None,
    "disk_free": 50 << 30,
    "kubeadm_version": "v1.36.3",
    "kubelet_version": "v1.36.3",
    "leftovers": [],
    "listeners": {},
    "peers": {"10.0.0.7 2379": "closed", "10.0.0.7 2380": "open"},
    "python_version": "3.11.2",
    "sources": {},
    "temporary_addresses": [],
    "runtime_problem": None,
    "swaps": [],
    "systemd": True,
    "clock_offset": 0.5,
}


def listener(argv: list[str], port: str = "2379", waiting: int = 0) -> dict[str, Any]:
    return {"listeners": {port: {"pid": 7, "program": argv[0].split("/")[-1], "argv": argv, "waiting": waiting}}}


def test_a_good_host() -> None:
    assert _preflight.host_problems(MEMBERS[0], GOOD, "unix:///run/c.sock") == []
    assert _preflight.host_warnings(GOOD) == []
    assert _preflight.cluster_problems(CLUSTER, {"infra0": GOOD, "infra1": GOOD}) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"systemd": False}, "systemd does not run"),
        ({"runtime_problem": "does not exist"}, "socket unix:///run/c.sock does not exist"),
        ({"cryptography_problem": "Install the package python3-cryptography"}, "python3-cryptography"),
        ({"addresses": ["127.0.0.1", "10.9.9.9"]}, "10.0.0.6 is no address of this host. It has 10.9.9.9."),
        (listener(["/usr/sbin/nginx"]), "port 2379 is taken by nginx (pid 7)"),
        (listener(["/usr/local/bin/etcd", "--name=other"]), "port 2379 is taken by etcd (pid 7, member other)"),
        ({"swaps": ["/dev/sda2"]}, "swapoff"),
        ({"leftovers": ["/etc/kubernetes/admin.conf"]}, "kubeadm reset"),
        ({"disk_free": 1 << 20}, "1 MiB are free"),
        ({"kubeadm_version": None}, "kubeadm is not installed"),
        ({"kubelet_version": None}, "kubelet is not installed"),
        ({"kubelet_version": "v1.35.4"}, "of different minors"),
        ({"kubeadm_version": "v1.31.14", "kubelet_version": "v1.31.14"}, "v1.31.14 is not supported"),
        ({"kubeadm_version": "v1.38.0", "kubelet_version": "v1.38.0"}, "v1.38.0 is not supported"),
    ],
)
def test_host_problems(change: dict[str, Any], words: str) -> None:
    problems = _preflight.host_problems(MEMBERS[0], {**GOOD, **change}, "unix:///run/c.sock")
    assert len(problems) == 1 and words in merged(problems)[0], problems


def test_swap_that_the_kubelet_is_to_put_up_with() -> None:
    facts = {**GOOD, "swaps": ["/dev/sda2"]}
    assert _preflight.host_problems(MEMBERS[0], facts, "unix:///run/c.sock", swap=True) == []


def test_files_on_the_controller() -> None:
    assert _preflight.external_problems("a", "", {"a": "", "b": ""}) == []
    assert _preflight.external_problems("a", "/x", {"a": "/x", "b": "/y"}) == []
    assert "for the clusters a, b" in _preflight.external_problems("a", "/x", {"a": "/x", "b": "/x"})[0]


def test_our_own_etcd_may_listen() -> None:
    facts = {**GOOD, **listener(["etcd", "--name=infra0"])}
    assert _preflight.host_problems(MEMBERS[0], facts, "") == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"kubeadm_version": "v1.36.2"}, "kubeadm differs between the hosts (infra0 v1.36.3, infra1 v1.36.2)"),
        ({"clock_offset": 500.5}, "the clocks of infra0 and infra1 are 500 s apart"),
        ({"peers": {"10.0.0.6 2380": "silent"}}, "infra1: infra0 (10.0.0.6) does not answer on TCP port 2380"),
        (
            {"peers": {"10.0.0.6 2379": "unreachable", "10.0.0.6 2380": "silent"}},
            "infra1: infra0 (10.0.0.6) does not answer on TCP port 2379, 2380",
        ),
        ({"peers": {"10.0.0.6 2380": "unreachable"}}, "a missing route"),
    ],
)
def test_cluster_problems(change: dict[str, Any], words: str) -> None:
    problems = _preflight.cluster_problems(CLUSTER, {"infra0": GOOD, "infra1": {**GOOD, **change}})
    assert len(problems) == 1 and words in merged(problems)[0], problems


@pytest.mark.parametrize(
    ("facts", "words", "stops"),
    [
        (listener(["etcd", "--name=infra0"], "2380", 4097), "hangs", ("found",)),
        # It accepts: then something on the way drops packets.
        (listener(["etcd", "--name=infra0"], "2380"), "does not answer on TCP port 2380", PROCESSES),
        (listener(["etcd", "--name=infra0"], "2379", 4097), "does not answer on TCP port 2380", PROCESSES),
        ({}, "does not answer on TCP port 2380", PROCESSES),
    ],
)
def test_an_etcd_that_hangs_is_told_from_a_firewall(facts: dict[str, Any], words: str, stops: tuple[str, ...]) -> None:
    """And it may be restarted, which is what repairs it."""
    silent = {**GOOD, "peers": {"10.0.0.6 2380": "silent"}}
    problems = _preflight.cluster_problems(CLUSTER, {"infra0": {**GOOD, **facts}, "infra1": silent})
    assert [(problem.host, problem.stops) for problem in problems] == [("infra1", stops)]
    assert words in problems[0].text and ("firewall" in problems[0].text) is ("hangs" not in problems[0].text)


SIX = [Member("infra0", "infra0", "fd00::6"), Member("infra1", "infra1", "fd00::7", peer_cert_sans=["fd00:0:0::9"])]


@pytest.mark.parametrize(
    ("cluster", "facts", "words"),
    [
        # A second address of the interface is etcd_address, and the kernel chooses the first one.
        (
            CLUSTER,
            {"sources": {"10.0.0.7 2379": "10.0.0.5", "10.0.0.7 2380": "10.0.0.5"}},
            [
                "connections to infra1 leave this host from 10.0.0.5, and etcd_address is 10.0.0.6: etcd rejects peers whose source"
                " address is not in their certificate. Set etcd_peer_cert_sans: [10.0.0.5] for this host, or, before the cluster is"
                " founded, etcd_address: 10.0.0.5."
            ],
        ),
        (CLUSTER, {"sources": {"10.0.0.7 2380": "10.0.0.6"}}, []),
        # Clusters on one machine, in tests; and what is no member.
        (CLUSTER, {"sources": {"10.0.0.7 2380": "127.0.0.1", "10.0.0.99 2380": "10.0.0.5"}}, []),
        (CLUSTER, {"sources": {}}, []),
        (Cluster("etcd", SIX, "infra0"), {"sources": {"fd00::7 2380": "fd00:0::6"}}, []),
        (
            Cluster("etcd", SIX, "infra0"),
            {"sources": {"fd00::7 2380": "fd00::c5f:7"}, "temporary_addresses": ["fd00::c5f:7"]},
            ["fd00::c5f:7 is a temporary IPv6 address and will change: turn privacy extensions off"],
        ),
        # SANs that are there stay; a name does not count.
        (
            Cluster(
                "etcd",
                [Member("infra0", "infra0", "10.0.0.6", peer_cert_sans=["a.example", "10.0.0.4"]), MEMBERS[1]],
                "infra0",
            ),
            {"sources": {"10.0.0.7 2380": "10.0.0.5"}},
            ["etcd_peer_cert_sans: [a.example, 10.0.0.4, 10.0.0.5]"],
        ),
        (
            Cluster(
                "etcd", [Member("infra0", "infra0", "10.0.0.6", peer_cert_sans=["10.0.0.5"]), MEMBERS[1]], "infra0"
            ),
            {"sources": {"10.0.0.7 2380": "10.0.0.5"}},
            [],
        ),
        # Two networks, one of which is not the member's.
        (
            Cluster("etcd", [*MEMBERS, Member("infra2", "infra2", "192.0.2.8")], "infra0"),
            {"sources": {"10.0.0.7 2380": "10.0.0.6", "192.0.2.8 2380": "192.0.2.6"}},
            ["connections to infra2 leave this host from 192.0.2.6"],
        ),
    ],
)
def test_addresses_that_peers_would_reject(cluster: Cluster, facts: dict[str, Any], words: list[str]) -> None:
    """They keep a cluster from being founded, and change nothing in one that runs."""
    problems = _preflight.cluster_problems(cluster, {"infra0": {**GOOD, **facts}})
    assert [(problem.host, problem.stops) for problem in problems] == [("infra0", ("found",))] * len(words)
    assert all(text in problem.text for text, problem in zip(words, problems)), problems


def test_a_member_without_an_address_yet() -> None:
    """The first of two looks, before the addresses of the hosts are known."""
    unknown = Cluster("etcd", [Member("infra0", "infra0", ""), Member("infra1", "infra1", "")], "infra0")
    assert (
        _preflight.cluster_problems(unknown, {"infra0": {**GOOD, "peers": {}}, "infra1": {**GOOD, "peers": {}}}) == []
    )


def test_a_silent_host_outside_of_the_run_is_no_problem() -> None:
    facts = {**GOOD, "peers": {"10.0.0.7 2380": "silent"}}
    assert _preflight.cluster_problems(CLUSTER, {"infra0": facts}) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [({"cgroup_version": 1}, "failCgroupV1"), ({"disk_free": 1 << 30}, "1024 MiB are free")],
)
def test_host_warnings(change: dict[str, Any], words: str) -> None:
    assert words in _preflight.host_warnings({**GOOD, **change})[0]


def test_cgroup_v1_is_fine_before_1_35() -> None:
    assert _preflight.host_warnings({**GOOD, "cgroup_version": 1, "kubelet_version": "v1.34.4"}) == []


def test_clock_warning() -> None:
    assert "20 s apart" in _preflight.cluster_warnings({"a": GOOD, "b": {**GOOD, "clock_offset": 20.5}})[0]


def test_what_several_hosts_have_in_common_is_said_once() -> None:
    lines = ["a: x: y", "b: x: y", "b: z", "of the cluster: all", "of the cluster: all"]
    assert _preflight.merge_hosts(lines, ["a", "b"]) == ["a, b: x: y", "b: z", "of the cluster: all"]
