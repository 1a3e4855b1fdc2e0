"""Problems and warnings of preflight."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.kubeadm.etcd.plugins.module_utils._control import preflight as _preflight
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.cluster import Cluster
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.members import Member
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.problems import (
    EVERYTHING,
    FOUND,
    PROCESSES,
    RESTART,
    SIGN,
    START,
    merged,
    note,
)

MEMBERS = [Member("infra0", "infra0", "10.0.0.6"), Member("infra1", "infra1", "10.0.0.7")]
CLUSTER = Cluster("etcd", MEMBERS, "infra0")
GOOD: dict[str, Any] = {
    "addresses": ["127.0.0.1", "10.0.0.6", "10.0.0.7"],
    "cgroup_version": 2,
    "cryptography": "38.0.4",
    "cryptography_problem": None,
    "data_dir": {"path": "/var/lib/etcd", "has_data": False, "foreign": [], "filesystem": "ext4"},
    "disk_free": 50 << 30,
    "etcd_manifest": False,
    "kubeadm_version": "v1.36.3",
    "kubelet_override": False,
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


def listener(argv: list[str], port: str = "2379", full: bool = False) -> dict[str, Any]:
    return {"listeners": {port: {"pid": 7, "program": argv[0].split("/")[-1], "argv": argv, "full": full}}}


def test_a_good_host() -> None:
    assert _preflight.host_problems(MEMBERS[0], GOOD, "unix:///run/c.sock") == []
    assert _preflight.host_warnings(GOOD) == []
    apart = {member.host: {**GOOD, "addresses": [member.address]} for member in MEMBERS}
    assert _preflight.cluster_problems(CLUSTER, apart) == []


def data(**changes: Any) -> dict[str, Any]:
    return {"data_dir": {**GOOD["data_dir"], **changes}}


NODE = {"leftovers": ["/etc/kubernetes/admin.conf", "/etc/kubernetes/pki/sa.key"]}
OURS = {"kubelet_override": True, "etcd_manifest": True}


# Each problem of a host: its words, and what it stops. Certificates are renewed unless they would be wrong.
HOST_PROBLEMS: list[tuple[dict[str, Any], str, tuple[str, ...]]] = [
    ({"systemd": False}, "systemd does not run", PROCESSES),
    ({"runtime_problem": "does not exist"}, "socket unix:///run/c.sock does not exist", PROCESSES),
    ({"cryptography_problem": "Install the package python3-cryptography"}, "python3-cryptography", (FOUND, SIGN)),
    (
        {"addresses": ["127.0.0.1", "10.9.9.9"]},
        "10.0.0.6 is not an address of this host. Set etcd_address to one of 10.9.9.9.",
        EVERYTHING,
    ),
    (listener(["/usr/sbin/nginx"]), "port 2379 is in use by nginx (pid 7)", PROCESSES),
    (listener(["/usr/local/bin/etcd", "--name=other"]), "port 2379 is in use by etcd (pid 7, member other)", PROCESSES),
    ({"swaps": ["/dev/sda2"]}, "swapoff", PROCESSES),
    (NODE, "move these files away", PROCESSES),
    # Data on a host whose kubelet is not ours yet: a node with a stacked etcd, for example.
    ({**NODE, **data(has_data=True)}, "move these files away", PROCESSES),
    ({**NODE, "etcd_manifest": True}, "move these files away", PROCESSES),
    (
        {"disk_free": 200 << 20},
        "200 MiB of disk space are free for etcd's data, and 512 MiB are needed",
        (FOUND, START),
    ),
    (
        {"disk_free": 100 << 20, **data(has_data=True)},
        "100 MiB of disk space are free for etcd's data, and 128 MiB are needed",
        (RESTART,),
    ),
    (data(path="/data", foreign=["backup", "home"]), "etcd_data_dir /data contains backup, home", (FOUND, START)),
    (data(filesystem="tmpfs"), "is in memory (tmpfs)", (FOUND, START)),
    ({"kubeadm_version": None}, "kubeadm is not installed", PROCESSES),
    ({"kubelet_version": None}, "kubelet is not installed", PROCESSES),
    ({"kubelet_version": "v1.35.4"}, "have different minor versions", PROCESSES),
    ({"kubeadm_version": "v1.31.14", "kubelet_version": "v1.31.14"}, "v1.31.14 is too old", PROCESSES),
    (
        {"kubeadm_version": "v1.38.0", "kubelet_version": "v1.38.0"},
        "etcd_allow_untested_kubeadm: true",
        PROCESSES,
    ),
]


@pytest.mark.parametrize(("change", "words", "stops"), HOST_PROBLEMS, ids=str)
def test_host_problems_and_what_they_stop(change: dict[str, Any], words: str, stops: tuple[str, ...]) -> None:
    problems = _preflight.host_problems(MEMBERS[0], {**GOOD, **change}, "unix:///run/c.sock")
    assert len(problems) == 1 and words in merged(problems)[0], problems
    assert sorted(problems[0].stops) == sorted(stops) and problems[0].host == "infra0"


def test_certificates_are_renewed_even_if_the_member_cannot_start() -> None:
    """A disk nearly full, swap, a kubelet of another version, a runtime that does not answer: all at once."""
    change = {
        **OURS,
        **NODE,
        **data(has_data=True, foreign=["x"]),
        **listener(["/usr/sbin/nginx"]),
        "disk_free": 1 << 20,
        "kubelet_version": "v1.35.4",
        "runtime_problem": "does not answer",
        "swaps": ["/dev/sda2"],
        "systemd": False,
    }
    problems = _preflight.host_problems(MEMBERS[0], {**GOOD, **change}, "")
    assert len(problems) == 6 and not [item for item in problems if SIGN in item.stops], problems


@pytest.mark.parametrize(
    "state", [OURS, {"kubelet_override": True, **data(has_data=True)}, {**OURS, **data(has_data=True)}]
)
def test_files_of_a_node_on_a_member_are_a_warning_only(state: dict[str, Any]) -> None:
    """A kubeconfig that was copied to a member, to use kubectl there."""
    facts = {**GOOD, **NODE, **state}
    assert _preflight.host_problems(MEMBERS[0], facts, "") == []
    assert "/etc/kubernetes/admin.conf" in _preflight.host_warnings(facts)[0]


@pytest.mark.parametrize(("change", "_words", "_stops"), HOST_PROBLEMS, ids=str)
@pytest.mark.parametrize("state", [{}, OURS, data(has_data=True)])
def test_no_message_advises_to_reset_a_host(
    change: dict[str, Any], _words: str, _stops: tuple[str, ...], state: dict[str, Any]
) -> None:
    """`kubeadm reset` empties the data directory and removes the PKI; a volume that is not mounted looks like a fresh host."""
    facts = {**GOOD, **state, **change}
    said = [*merged(_preflight.host_problems(MEMBERS[0], facts, "")), *_preflight.host_warnings(facts)]
    assert not [text for text in said if "kubeadm reset" in text.replace("Do not run `kubeadm reset`", "")]


def test_a_data_directory_that_a_member_shares_is_left_to_it() -> None:
    facts = {**GOOD, **data(has_data=True, foreign=["home"], filesystem="tmpfs")}
    assert _preflight.host_problems(MEMBERS[0], facts, "") == []
    assert "its mode and owner are not changed" in _preflight.host_warnings(facts)[0]
    assert "loses its data at the next reboot" in _preflight.host_warnings(facts)[1]


@pytest.mark.parametrize(
    ("version", "allowed", "words"),
    [
        ("v1.32.0", False, None),
        ("v1.37.9", False, None),
        ("v1.38.0", False, "is newer than 1.32 to 1.37"),
        ("v1.38.0", True, None),
        ("v1.38.0-rc.1", False, "is newer than 1.32 to 1.37"),
        ("v1.40.0", True, None),
        ("v1.31.14", True, "is too old"),
        ("v2.0.0", True, "is newer"),
    ],
)
def test_which_kubeadm_is_used(version: str, allowed: bool, words: str | None) -> None:
    facts = {**GOOD, "kubeadm_version": version, "kubelet_version": version}
    problems = _preflight.host_problems(MEMBERS[0], facts, "", allow_untested=allowed)
    assert not problems if words is None else words in problems[0].text, problems
    assert bool(_preflight.version_range_warnings(facts)) == version.startswith(("v1.38", "v1.40"))


def test_swap_that_the_kubelet_is_to_put_up_with() -> None:
    facts = {**GOOD, "swaps": ["/dev/sda2"]}
    assert _preflight.host_problems(MEMBERS[0], facts, "unix:///run/c.sock", swap=True) == []


def test_files_on_the_controller() -> None:
    assert _preflight.external_problems("a", "", {"a": "", "b": ""}) == []
    assert _preflight.external_problems("a", "/x", {"a": "/x", "b": "/y"}) == []
    assert "for several clusters (a, b)" in _preflight.external_problems("a", "/x", {"a": "/x", "b": "/x"})[0]


def test_our_own_etcd_may_listen() -> None:
    facts = {**GOOD, **listener(["etcd", "--name=infra0"])}
    assert _preflight.host_problems(MEMBERS[0], facts, "") == []


@pytest.mark.parametrize(
    ("change", "words", "stops"),
    [
        (
            {"kubeadm_version": "v1.36.2"},
            "the hosts have different versions of kubeadm (infra0 v1.36.3, infra1 v1.36.2)",
            (FOUND, RESTART),
        ),
        ({"kubelet_version": "v1.36.4"}, "the hosts have different versions of kubelet", (FOUND, RESTART)),
        ({"kubelet_version": "v1.35.4"}, "the hosts have different versions of kubelet", PROCESSES),
        ({"clock_offset": 500.5}, "the clocks of infra0 and infra1 are 500 s apart", (FOUND, SIGN)),
        (
            {"peers": {"10.0.0.6 2380": "silent"}},
            "infra1 cannot reach infra0 (10.0.0.6) on TCP port 2380",
            (FOUND, RESTART),
        ),
        (
            {"addresses": ["10.0.0.7", "10.0.0.6"]},
            "infra1: this host has the address of infra0, 10.0.0.6: both are the same machine",
            EVERYTHING,
        ),
        (
            {"peers": {"10.0.0.6 2379": "unreachable", "10.0.0.6 2380": "silent"}},
            "infra0 (10.0.0.6) on TCP port 2379, 2380",
            (FOUND, RESTART),
        ),
        ({"peers": {"10.0.0.6 2380": "unreachable"}}, "the routes and the network", (FOUND, RESTART)),
    ],
)
def test_cluster_problems_and_what_they_stop(change: dict[str, Any], words: str, stops: tuple[str, ...]) -> None:
    apart = {"addresses": ["10.0.0.7"]}
    facts = {"infra0": {**GOOD, "addresses": ["10.0.0.6"]}, "infra1": {**GOOD, **apart, **change}}
    problems = _preflight.cluster_problems(CLUSTER, facts)
    assert len(problems) == 1 and words in merged(problems)[0], problems
    assert sorted(problems[0].stops) == sorted(stops)


@pytest.mark.parametrize("offset", [500.0, -500.0])
def test_the_clock_of_a_single_host_is_compared_with_the_controller(offset: float) -> None:
    """With --limit the other clocks are unknown. A CA host that is a year ahead would sign certificates that are not valid yet."""
    facts = {"infra1": {**GOOD, "addresses": ["10.0.0.7"], "peers": {}, "clock_offset": offset}}
    problems = _preflight.cluster_problems(CLUSTER, facts)
    assert len(problems) == 1 and "the controller" in problems[0].text and "500 s apart" in problems[0].text
    # All agree, and the controller is wrong: it signs nothing.
    facts = {host: {**facts["infra1"], "addresses": [], "clock_offset": offset} for host in ("infra0", "infra1")}
    assert _preflight.cluster_problems(CLUSTER, facts) == []


@pytest.mark.parametrize(
    ("facts", "words", "stops"),
    [
        (listener(["etcd", "--name=infra0"], "2380", full=True), "hangs", ("found",)),
        # The port accepts connections, so a firewall drops packets.
        (listener(["etcd", "--name=infra0"], "2380"), "on TCP port 2380", (FOUND, RESTART)),
        (listener(["etcd", "--name=infra0"], "2379", full=True), "on TCP port 2380", (FOUND, RESTART)),
        ({}, "on TCP port 2380", (FOUND, RESTART)),
    ],
)
def test_an_etcd_that_hangs_is_not_taken_for_a_firewall(
    facts: dict[str, Any], words: str, stops: tuple[str, ...]
) -> None:
    """It may be restarted, which repairs it."""
    silent = {**GOOD, "addresses": ["10.0.0.7"], "peers": {"10.0.0.6 2380": "silent"}}
    problems = _preflight.cluster_problems(
        CLUSTER, {"infra0": {**GOOD, "addresses": ["10.0.0.6"], **facts}, "infra1": silent}
    )
    assert [problem.stops for problem in problems] == [stops]
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
                "connections to infra1 leave this host from 10.0.0.5, not from etcd_address 10.0.0.6: etcd rejects peers whose source"
                " address is not in their certificate. Set etcd_peer_cert_sans: [10.0.0.5] for this host. If the cluster does not exist"
                " yet, you can set etcd_address: 10.0.0.5 instead."
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
            ["fd00::c5f:7 is a temporary IPv6 address and will change: disable privacy extensions"],
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
    """They are refused for a new cluster, and ignored in a running one."""
    problems = _preflight.cluster_problems(cluster, {"infra0": {**GOOD, "addresses": [], **facts}})
    assert [(problem.host, problem.stops) for problem in problems] == [("infra0", ("found",))] * len(words)
    assert all(text in problem.text for text, problem in zip(words, problems)), problems


def test_a_member_without_an_address_yet() -> None:
    """The first of two looks, before the addresses of the hosts are known."""
    unknown = Cluster("etcd", [Member("infra0", "infra0", ""), Member("infra1", "infra1", "")], "infra0")
    assert (
        _preflight.cluster_problems(unknown, {"infra0": {**GOOD, "peers": {}}, "infra1": {**GOOD, "peers": {}}}) == []
    )


def test_sources_of_a_member_without_an_address_yet() -> None:
    cluster = Cluster("etcd", [Member("infra0", "infra0", ""), MEMBERS[1]], "infra0")
    facts = {"infra0": {**GOOD, "peers": {}, "addresses": [], "sources": {"10.0.0.7 2380": "10.0.0.5"}}}
    assert _preflight.source_problems(cluster, facts) == []


def test_a_silent_host_outside_of_the_run_is_no_problem() -> None:
    facts = {**GOOD, "addresses": ["10.0.0.6"], "peers": {"10.0.0.7 2380": "silent"}}
    assert _preflight.cluster_problems(CLUSTER, {"infra0": facts}) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [({"cgroup_version": 1}, "failCgroupV1"), ({"disk_free": 1 << 30}, "1024 MiB of disk space are free")],
)
def test_host_warnings(change: dict[str, Any], words: str) -> None:
    assert words in _preflight.host_warnings({**GOOD, **change})[0]


def test_cgroup_v1_is_fine_before_1_35() -> None:
    assert _preflight.host_warnings({**GOOD, "cgroup_version": 1, "kubelet_version": "v1.34.4"}) == []


def test_clock_warning() -> None:
    assert "20 s apart" in _preflight.cluster_warnings({"a": GOOD, "b": {**GOOD, "clock_offset": 20.5}})[0]


def test_a_problem_of_several_hosts_is_reported_once() -> None:
    said = [
        note("x: y", "a"),
        note("x: y", "b"),
        note("z", "b"),
        note("of the cluster: all"),
        note("of the cluster: all"),
    ]
    assert merged(said) == ["a, b: x: y", "b: z", "of the cluster: all"]
