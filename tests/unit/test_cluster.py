"""Who the members are, from the inventory alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.kubeadm.etcd.plugins.module_utils._control import cluster as _cluster
from ansible_collections.kubeadm.etcd.plugins.module_utils._control import look as _look
from ansible_collections.kubeadm.etcd.plugins.module_utils._control import variables as _variables
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.problems import Problem, merged

ROOT = Path(__file__).resolve().parents[2]
HOSTS = ["infra0", "infra1", "infra2"]

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
    "etcd_until": {"type": "str", "choices": ["", "new", "trust"], "default": ""},
}


def three(**changes: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Three good hosts, with changes by host."""
    hosts = {f"infra{i}": {"ansible_host": f"10.0.0.{6 + i}"} for i in range(3)}
    for host, variables in changes.items():
        hosts.setdefault(host, {}).update(variables)
    return hosts


def resolve(hosts: dict[str, dict[str, Any]], observed: dict[str, str] | None = None) -> _cluster.Cluster:
    return _cluster.resolve(next(iter(hosts)), list(hosts), hosts, observed or {}, OPTIONS)


def as_the_play_does(
    host: str, hosts: dict[str, dict[str, Any]], options: dict[str, Any], **play: Any
) -> dict[str, Any]:
    """The cluster of a host, by the function that etcd_observe calls."""
    look = _look.look_of(host, list(hosts), [], "converge")
    found = _look.resolved(look, hosts, {}, options, play, list(play))
    return {**found, "problems": merged(map(Problem.from_dict, found["problems"]))}


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
def test_values_of_a_member(
    host: str, variables: dict[str, Any], observed: str | None, name: str, address: str
) -> None:
    member = _cluster.member_of(host, variables, observed)
    assert (member.name, member.address) == (name, address)


@pytest.mark.parametrize(
    ("hosts", "words"),
    [
        (three(infra1={"etcd_member_name": "infra0"}), "infra0 and infra1 have the same etcd_member_name, 'infra0'"),
        (three(infra1={"ansible_host": "10.0.0.6"}), "infra0 and infra1 have the same etcd_address, '10.0.0.6'"),
        (three(infra0={"etcd_member_name": "infra_0"}), "'infra_0' is not an RFC 1123 name"),
        (three(infra0={"etcd_member_name": "-bad"}), "'-bad' is not an RFC 1123 name"),
        (three(infra0={"etcd_member_name": "infra0\n"}), "is not an RFC 1123 name"),
        (three(infra0={"etcd_member_name": "a" * 64}), "is not an RFC 1123 name"),
        (three(infra2={"etcd_address": "fd00::8"}), "mix IPv4 and IPv6"),
        (three(infra0={"etcd_address": "infra0.example.com"}), "is not an IP address"),
        (three(infra0={"etcd_address": "127.0.0.1"}), "cannot reach"),
        (three(infra0={"etcd_address": "0.0.0.0"}), "stands for all addresses"),
        (three(infra0={"etcd_address": "224.0.0.1"}), "multicast"),
        (three(infra0={"etcd_address": "169.254.0.1"}), "link-local"),
        (three(infra0={"etcd_clientport": 1}), "unknown variable etcd_clientport. Did you mean etcd_client_port?"),
        (three(infra0={"etcd_zzz": 1}), "unknown variable etcd_zzz. docs/variables.md"),
        (three(infra0={"etcd_extra_args": "--foo"}), "etcd_extra_args is a text, '--foo'. Write a mapping"),
        (three(infra0={"etcd_server_cert_sans": "a"}), "etcd_server_cert_sans is a text, 'a'. Write a list"),
        (three(infra0={"etcd_client_port": "x"}), "Write a whole number"),
        (three(infra0={"etcd_client_port": 70000}), "is not a port"),
        (three(infra0={"etcd_client_port": 2380}), "two ports are the same"),
        (three(infra0={"etcd_encryption_algorithm": "RSA"}), "Write one of RSA-2048, ECDSA-P256"),
        (three(infra0={"etcd_until": "never"}), "Write one of new, trust, or nothing."),
        (three(infra0={"etcd_ca_host": "other"}), "other is not a host of cluster 'etcd'"),
        (three(infra0={"etcd_client_port": 1}, infra1={"etcd_client_port": 2}), "etcd_client_port differs within"),
    ],
)
def test_problems_of_an_inventory(hosts: dict[str, dict[str, Any]], words: str) -> None:
    assert words in " ".join(merged(resolve(hosts).problems))


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
def test_variables_that_only_some_hosts_set(changes: dict[str, dict[str, Any]], words: str | None) -> None:
    options = {**OPTIONS, "etcd_peer_port": {"type": "int", "default": 2380}}
    hosts = three(**changes)
    problems = merged(_cluster.resolve("infra0", list(hosts), hosts, {}, options).problems)
    assert (not problems) if words is None else words in problems[0], problems


def test_variables_of_the_play() -> None:
    """Members read each other's variables from the inventory, which does not have the vars of a play."""
    options = {**OPTIONS, "etcd_ca_host": {"type": "str", "default": ""}}
    hosts = three(infra0={"etcd_server_cert_sans": ["a.example.com"]})
    play = {"etcd_member_name": "infra0", "etcd_ca_host": "", "etcd_server_cert_sans": ["a.example.com"]}
    assert (
        _cluster.resolve("infra0", list(hosts), hosts, {}, options, play, ["etcd_pki_dir", "etcd_ca_host"]).problems
        == []
    )
    play = {"etcd_ca_host": "infra1", "etcd_server_cert_sans": ["b.example.com"]}
    problems = merged(_cluster.resolve("infra0", list(hosts), hosts, {}, options, play, ["etcd_clientport"]).problems)
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
        ({"type": "str"}, ["a"], "is a list, \"['a']\""),
        ({"type": "str"}, 1.36, None),
        ({"type": "path"}, {"a": 1}, "Write a text"),
    ],
)
def test_types_of_variables(option: dict[str, Any], value: object, words: str | None) -> None:
    problems = _cluster.shape_problems("etcd_x", value, option)
    assert (not problems) if words is None else words in problems[0], problems


def test_several_clusters_in_one_group() -> None:
    hosts = three(other={"ansible_host": "10.0.0.6", "etcd_cluster_name": "events"})
    assert [m.host for m in resolve(hosts).members] == ["infra0", "infra1", "infra2"]
    assert [m.host for m in _cluster.resolve("other", list(hosts), hosts, {}, OPTIONS).members] == ["other"]


def test_a_machine_in_two_clusters() -> None:
    hosts = three(other={"ansible_host": "10.0.0.7", "etcd_cluster_name": "b"})
    words = "infra1 and other of cluster 'b' are the same machine, 10.0.0.7"
    assert [text for text in merged(resolve(hosts).problems) if words in text]
    other = _cluster.resolve("other", list(hosts), hosts, {}, OPTIONS)
    assert "other and infra1 of cluster 'etcd' are the same machine" in merged(other.problems)[0]
    # Behind another gateway it is another one.
    for way in ({"ansible_port": 2222}, {"ansible_ssh_common_args": "-J gateway"}):
        apart = three(other={**hosts["other"], **way})
        assert resolve(apart).problems == [] == as_the_play_does("infra0", apart, OPTIONS)["problems"]


def test_host_outside_of_the_group_is_no_cluster_of_its_own() -> None:
    hosts = three()
    cluster = _cluster.resolve("infra0", [], hosts, {}, OPTIONS)
    assert "infra0 is not in the group of the etcd members" in merged(cluster.problems)[0]


SPECS: dict[str, Any] = yaml.safe_load((ROOT / "roles/etcd/meta/argument_specs.yml").read_text(encoding="utf-8"))
VARIABLES: dict[str, Any] = SPECS["argument_specs"]["observe"]["options"]

LONG = "x" * 100_000
GARBAGE: list[Any] = [
    *(None, "", -1, 0, 70000, 1.5, True, "nonsense", "ünïcødé ☃", "a\nb", "a\x00b", LONG, " ", "{{ nothing }}"),
    *([], [1], [None], [["a"]], [{"a": 1}], ["ü", LONG, ""], {}, {"a": None}, {"": 1}, {1: [{}]}, {"a": LONG}, {"ü b": "a\nb"}),
    10**400,
]  # fmt: skip
# Any text on one line may be a path or a passphrase; the rest has a format.
TEXTS = {name for name, option in VARIABLES.items() if option["type"] == "path"} - {"etcd_data_dir"}
PASSPHRASES = {name for name, option in VARIABLES.items() if option.get("no_log")}
TEXTS |= {"etcd_group", "etcd_control_plane_group", "etcd_member", *PASSPHRASES}


@pytest.mark.parametrize("name", VARIABLES)
def test_every_value_is_checked_before_a_host_gets_it(name: str) -> None:
    """An invalid value gives a problem that names the variable, no traceback, and does not reach a module."""
    for value in GARBAGE:
        hosts = three(infra0={name: value})
        seen = as_the_play_does("infra0", hosts, VARIABLES)
        told = [text for text in seen["problems"] if name in text]
        assert all(len(text) < 600 and text.isprintable() for text in seen["problems"]), (name, value)
        if name in seen["invalid"]:
            assert told, (name, value)
        # Seen from another host, it gives no traceback either.
        as_the_play_does("infra1", hosts, VARIABLES)


WRONG: dict[str, list[Any]] = {
    "bool": [None, -1, 70000, "nonsense", [], {}, LONG],
    "int": [None, "", -1, 7 * 10**20, "nonsense", "2379\nx", [], {}, True, 1.5, 10**400],
    "list": ["a", 1, {"a": 1}, None, [None], [{"a": 1}]],
    "dict": ["a", 1, ["a"], None, {"": 1}],
    "str": [None, [], ["a"], {}, {"a": 1}, "a\nb"],
    "path": [None, [], ["a"], {}, {"a": 1}, "a\x00b", LONG],
}


@pytest.mark.parametrize("name", VARIABLES)
def test_every_variable_refuses_arbitrary_values(name: str) -> None:
    option = VARIABLES[name]
    # A passphrase may have control characters, and any number of revisions is valid.
    right = "a\nb" if name in PASSPHRASES else 70000000 if name == "etcd_compact_keep_revisions" else ...
    wrong = [value for value in WRONG[option["type"]] if value != right]
    if option["type"] == "str" and name not in TEXTS:
        wrong += [LONG, "ünïcødé ☃"]
    for value in wrong:
        problems = merged(resolve_all(three(infra0={name: value})).problems)
        assert [text for text in problems if name in text or "is not an RFC 1123" in text], (name, value, problems)


def resolve_all(hosts: dict[str, dict[str, Any]]) -> _cluster.Cluster:
    return _cluster.resolve("infra0", list(hosts), hosts, {}, VARIABLES)


def test_every_variable_has_a_check() -> None:
    """A new variable gets one, unless its type or choices say all. A passphrase may be any text."""
    judged = {name for name, option in VARIABLES.items() if option["type"] == "bool" or "choices" in option}
    checked = {name for name, variable in _variables.VARIABLES.items() if variable.check}
    assert set(VARIABLES) - judged - PASSPHRASES == checked
    assert not checked & judged


def test_the_table_of_variables_and_the_specs_have_the_same_names() -> None:
    assert list(_variables.VARIABLES) == list(VARIABLES)
    assert {variable.scope for variable in _variables.VARIABLES.values()} == {"host", "cluster", "run", "controller"}


def test_shared_values_are_not_variables_of_one_host() -> None:
    for name, variable in _variables.VARIABLES.items():
        if variable.agreed or variable.overrules_clients:
            assert variable.scope == _variables.CLUSTER, name


def test_a_value_of_the_play_reaches_no_host_either() -> None:
    """Vars of import_playbook, or of a role: not in the inventory, but passed to the modules."""
    hosts = three()
    play = {"etcd_client_port": 70000, "etcd_data_dir": "/var", "etcd_peer_port": 2380, "etcd_member_name": "infra0"}
    found = as_the_play_does("infra0", hosts, VARIABLES, **play)
    assert sorted(found["invalid"]) == ["etcd_client_port", "etcd_data_dir"] and len(found["problems"]) == 2


def test_a_secret_is_not_shown() -> None:
    for name, value in (
        ("etcd_ca_key_passphrase", ["hunter2"]),
        ("etcd_extra_envs", {"A": ["hunter2"]}),
        ("etcd_extra_envs", {"A": "hunter2\n"}),
    ):
        problems = merged(resolve_all(three(infra0={name: value})).problems)
        assert problems and "hunter2" not in str(problems), problems


@pytest.mark.parametrize("value", ["", 0, 1, 65536, 70000, "2379\n", "-1"])
def test_a_port_that_is_none_is_left_out_of_the_comparison(value: Any) -> None:
    cluster = resolve_all(three(infra0={"etcd_client_port": value}))
    assert cluster.invalid == ([] if value == 1 else ["etcd_client_port"])


@pytest.mark.parametrize("name", ["etcd", "Prod-1", "a.b_c", "x" * 63, "7"])
def test_names_of_clusters(name: str) -> None:
    assert resolve_all(three(**{host: {"etcd_cluster_name": name} for host in HOSTS})).problems == []


@pytest.mark.parametrize("name", ["../../x", "..", ".", "a/b", "", "a b", "-a", "a-", "x" * 64, "a\n", "ü", "{{ x }}"])
def test_invalid_names_of_clusters(name: str) -> None:
    """The name becomes a path under etcd_signing_dir on the controller."""
    problems = merged(resolve_all(three(**{host: {"etcd_cluster_name": name} for host in HOSTS})).problems)
    assert [text for text in problems if "directories on the controller are named after the cluster" in text], problems


@pytest.mark.parametrize(
    "path", ["/var/lib/etcd", "/data", "/mnt/etcd", "/srv/etcd/", "/var/lib/etcd2/data", "//data//etcd"]
)
def test_valid_data_directories(path: str) -> None:
    assert resolve_all(three(infra0={"etcd_data_dir": path})).problems == []


@pytest.mark.parametrize(
    ("path", "words"),
    [
        *((path, "is a directory that other programs use") for path in ("/var", "/var/lib", "/var/lib/", "//var//lib", "/etc", "/home")),
        *((path, "is a directory that other programs use") for path in ("/usr", "/boot", "/var/log/../lib", "/mnt", "/etc/kubernetes/etcd")),
        *((path, "is a directory that other programs use") for path in ("/var/lib/kubelet", "/var/lib/containerd/x", "/root", "/opt")),
        *((path, "is emptied at boot") for path in ("/tmp", "/tmp/etcd", "/run/etcd", "/dev/shm/etcd", "/var/tmp/x", "/var/run/x", "/proc")),
        *((path, "absolute path") for path in ("/", "//", "/./", "var/lib/etcd", "", "~/etcd", "/var/lib/etcd\n", " /data", "/" + "x" * 300)),
    ],
)  # fmt: skip
def test_invalid_data_directories(path: str, words: str) -> None:
    """The directory becomes readable for root only, and must survive a reboot."""
    problems = merged(resolve_all(three(infra0={"etcd_data_dir": path})).problems)
    assert len(problems) == 1 and words in problems[0] and "etcd_data_dir" in problems[0], problems


def test_one_machine_twice_in_one_cluster() -> None:
    """With two addresses of it, so that the addresses do not tell."""
    hosts = three(infra2={"ansible_host": "10.0.0.7", "etcd_address": "10.0.1.7"})
    problems = merged(resolve_all(hosts).problems)
    assert len(problems) == 1 and "infra1 and infra2 are the same machine, 10.0.0.7" in problems[0], problems
    hosts["infra2"]["ansible_port"] = 2222
    assert resolve_all(hosts).problems == []
    # Two members behind one name of ssh.
    named = {
        host: {"ansible_host": "gateway", "etcd_address": f"10.0.0.{number}"} for number, host in enumerate(HOSTS, 6)
    }
    assert "infra0 and infra1 and infra2 are the same machine" in merged(resolve_all(named).problems)[0]


@pytest.mark.parametrize(
    ("variables", "text"),
    [
        (
            {"etcd_address": "infra.example.com"},
            "infra0, infra1, infra2: etcd_address 'infra.example.com' is not an IP address.",
        ),
        ({"etcd_address": "{{ x }}"}, "infra0, infra1, infra2: etcd_address '{{ x }}' was not resolved"),
        ({"etcd_member_name": "A_B"}, "infra0, infra1, infra2: etcd_member_name 'A_B' is not an RFC 1123 name."),
    ],
)
def test_an_invalid_value_of_a_group_is_one_problem(variables: dict[str, Any], text: str) -> None:
    problems = merged(resolve_all(three(**dict.fromkeys(HOSTS, variables))).problems)
    assert [problem[: len(text)] for problem in problems if "have the same" not in problem] == [text], problems


def test_an_address_that_ansible_could_not_resolve() -> None:
    """ansible-core 2.17 hands over the template where facts are missing."""
    problems = merged(resolve_all(three(infra0={"etcd_address": "{{ ansible_facts.eth0.ipv4.address }}"})).problems)
    assert len(problems) == 1 and "facts are not gathered" in problems[0]
