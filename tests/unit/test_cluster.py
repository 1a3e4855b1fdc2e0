"""Who the members are, from the inventory alone."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.kubeadm.etcd.plugins.filter import cluster as cluster_filter
from ansible_collections.kubeadm.etcd.plugins.module_utils import _cluster

OPTIONS: dict[str, Any] = {
    "etcd_cluster_name": {"type": "str"},
    "etcd_member_name": {"type": "str"},
    "etcd_address": {"type": "str"},
    "etcd_ca_host": {"type": "str"},
    "etcd_extra_args": {"type": "dict"},
    "etcd_server_cert_sans": {"type": "list"},
    "etcd_client_port": {"type": "int"},
    "etcd_peer_port": {"type": "int"},
    "etcd_encryption_algorithm": {"type": "str", "choices": ["RSA-2048", "ECDSA-P256"]},
}


def three(**changes: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Three good hosts, with changes by host."""
    hosts = {f"infra{i}": {"ansible_host": f"10.0.0.{6 + i}"} for i in range(3)}
    for host, variables in changes.items():
        hosts.setdefault(host, {}).update(variables)
    return hosts


def resolve(hosts: dict[str, dict[str, Any]], observed: dict[str, str] | None = None) -> _cluster.Cluster:
    return _cluster.resolve(next(iter(hosts)), list(hosts), hosts, observed or {}, OPTIONS)


def test_three_good_hosts() -> None:
    cluster = resolve(three())
    assert [(m.name, m.address) for m in cluster.members] == [
        ("infra0", "10.0.0.6"),
        ("infra1", "10.0.0.7"),
        ("infra2", "10.0.0.8"),
    ]
    assert (cluster.ca_host, cluster.problems, cluster.warnings, cluster.known) == ("infra0", [], [], True)


@pytest.mark.parametrize(
    ("host", "variables", "observed", "name", "address"),
    [
        ("Infra0", {"ansible_host": "10.0.0.6"}, None, "infra0", "10.0.0.6"),
        ("10.0.0.6", {}, None, "10.0.0.6", "10.0.0.6"),
        ("a", {"ansible_host": "a.example.com"}, "10.1.1.1", "a", "10.1.1.1"),
        ("a", {"ansible_host": "a.example.com"}, None, "a", ""),
        ("a", {"ansible_host": "10.0.0.6", "etcd_address": "192.0.2.1"}, None, "a", "192.0.2.1"),
        ("a", {"etcd_address": "FD00:0::6", "etcd_member_name": "b"}, None, "b", "fd00::6"),
    ],
)
def test_member(host: str, variables: dict[str, Any], observed: str | None, name: str, address: str) -> None:
    member = _cluster.member_of(host, variables, observed)
    assert (member.name, member.address) == (name, address)


@pytest.mark.parametrize(
    ("hosts", "words"),
    [
        (three(infra1={"etcd_member_name": "infra0"}), "etcd_member_name 'infra0' is that of infra0 and infra1"),
        (three(infra1={"ansible_host": "10.0.0.6"}), "etcd_address '10.0.0.6' is that of infra0 and infra1"),
        (three(infra0={"etcd_member_name": "infra_0"}), "'infra_0' is no RFC 1123 name"),
        (three(infra0={"etcd_member_name": "-bad"}), "'-bad' is no RFC 1123 name"),
        (three(infra0={"etcd_member_name": "infra0\n"}), "is no RFC 1123 name"),
        (three(infra0={"etcd_member_name": "a" * 64}), "is no RFC 1123 name"),
        (three(infra2={"etcd_address": "fd00::8"}), "mix IPv4 and IPv6"),
        (three(infra0={"etcd_address": "infra0.example.com"}), "is no IP address"),
        (three(infra0={"etcd_address": "127.0.0.1"}), "cannot be reached"),
        (three(infra0={"etcd_address": "0.0.0.0"}), "means every address"),
        (three(infra0={"etcd_address": "224.0.0.1"}), "multicast"),
        (three(infra0={"etcd_address": "169.254.0.1"}), "link-local"),
        (three(infra0={"etcd_clientport": 1}), "unknown variable etcd_clientport. Did you mean etcd_client_port?"),
        (three(infra0={"etcd_zzz": 1}), "unknown variable etcd_zzz. docs/variables.md"),
        (three(infra0={"etcd_extra_args": "--foo"}), "etcd_extra_args is the text '--foo'. Write a mapping"),
        (three(infra0={"etcd_server_cert_sans": "a"}), "etcd_server_cert_sans is the text 'a'. Write a list"),
        (three(infra0={"etcd_client_port": "x"}), "Write a whole number"),
        (three(infra0={"etcd_client_port": 70000}), "is no port"),
        (three(infra0={"etcd_client_port": 2380}), "two ports are the same"),
        (three(infra0={"etcd_encryption_algorithm": "RSA"}), "Write one of RSA-2048, ECDSA-P256"),
        (three(infra0={"etcd_ca_host": "other"}), "other is no host of cluster 'etcd'"),
        (three(infra0={"etcd_client_port": 1}, infra1={"etcd_client_port": 2}), "etcd_client_port differs within"),
    ],
)
def test_problems(hosts: dict[str, dict[str, Any]], words: str) -> None:
    assert any(words in text for text in resolve(hosts).problems), resolve(hosts).problems


@pytest.mark.parametrize(
    ("count", "words"),
    [(1, "one member only"), (2, "even number"), (3, None), (4, "even number"), (5, None), (9, "at most seven")],
)
def test_size(count: int, words: str | None) -> None:
    hosts = {f"h{i}": {"ansible_host": f"10.0.0.{i + 1}"} for i in range(count)}
    warnings = resolve(hosts).warnings
    assert (not warnings) if words is None else words in warnings[0]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"infra1": {"etcd_ca_host": "infra1"}},
            "etcd_ca_host differs within cluster 'etcd' (infra0 infra0, infra1 infra1,",
        ),
        ({"infra1": {"etcd_peer_port": 12380}}, "etcd_peer_port differs"),
        ({"infra2": {"etcd_encryption_algorithm": "ECDSA-P256"}}, "etcd_encryption_algorithm differs"),
        # What everybody has anyway.
        ({"infra1": {"etcd_ca_host": "infra0", "etcd_peer_port": "2380"}}, None),
    ],
)
def test_what_only_some_hosts_set(changes: dict[str, dict[str, Any]], words: str | None) -> None:
    options = {**OPTIONS, "etcd_peer_port": {"type": "int", "default": 2380}}
    hosts = three(**changes)
    problems = _cluster.resolve("infra0", list(hosts), hosts, {}, options).problems
    assert (not problems) if words is None else words in problems[0], problems


def test_what_the_play_says() -> None:
    """Vars of a play are not in the inventory, where the members look for each other's."""
    hosts = three(infra0={"etcd_server_cert_sans": ["a.example.com"]})
    play = {"etcd_member_name": "infra0", "etcd_ca_host": None, "etcd_server_cert_sans": ["a.example.com"]}
    assert (
        _cluster.resolve("infra0", list(hosts), hosts, {}, OPTIONS, play, ["etcd_pki_dir", "etcd_ca_host"]).problems
        == []
    )
    play = {"etcd_ca_host": "infra1", "etcd_server_cert_sans": ["b.example.com"]}
    problems = _cluster.resolve("infra0", list(hosts), hosts, {}, OPTIONS, play, ["etcd_clientport"]).problems
    assert "unknown variable etcd_clientport. Did you mean etcd_client_port?" in problems[0]
    assert "etcd_ca_host is 'infra1' in this play only" in problems[1]
    assert "etcd_server_cert_sans is ['b.example.com'] in this play only" in problems[2]


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ({"type": "bool"}, "maybe", "Write true or false"),
        ({"type": "bool"}, "No", None),
        ({"type": "bool"}, True, None),
        ({"type": "list"}, ["a", {"b": None}], "has the entry {'b': None}"),
        ({"type": "list"}, [None], "has the entry None"),
        ({"type": "list"}, ["a", 10], None),
        ({"type": "str"}, ["a"], "is the list \"['a']\""),
        ({"type": "str"}, 1.36, None),
        ({"type": "path"}, {"a": 1}, "Write a text"),
    ],
)
def test_shapes(option: dict[str, Any], value: object, words: str | None) -> None:
    problems = _cluster.shape_problems("etcd_x", value, option)
    assert (not problems) if words is None else words in problems[0], problems


def test_several_clusters_in_one_group() -> None:
    hosts = three(other={"ansible_host": "10.0.0.6", "etcd_cluster_name": "events"})
    assert [m.host for m in resolve(hosts).members] == ["infra0", "infra1", "infra2"]
    assert [m.host for m in _cluster.resolve("other", list(hosts), hosts, {}, OPTIONS).members] == ["other"]


def test_a_machine_in_two_clusters() -> None:
    hosts = three(other={"ansible_host": "10.0.0.7", "etcd_cluster_name": "b"})
    words = "infra1 and other of cluster 'b' are one machine, 10.0.0.7"
    assert [text for text in resolve(hosts).problems if words in text]
    other = _cluster.resolve("other", list(hosts), hosts, {}, OPTIONS)
    assert "other and infra1 of cluster 'etcd' are one machine" in other.problems[0]
    # Behind another gateway it is another one.
    for way in ({"ansible_port": 2222}, {"ansible_ssh_common_args": "-J gateway"}):
        apart = three(other={**hosts["other"], **way})
        assert (
            resolve(apart).problems == [] == cluster_filter.cluster(apart, "infra0", list(apart), OPTIONS)["problems"]
        )


def test_host_outside_of_the_group_is_no_cluster_of_its_own() -> None:
    hosts = three()
    cluster = _cluster.resolve("infra0", [], hosts, {}, OPTIONS)
    assert "infra0 is not in the group of the members" in cluster.problems[0]
