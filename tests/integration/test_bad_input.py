"""Bad input gives a clear error before any change. Each test also checks that no file on any host has changed."""

from __future__ import annotations

import datetime
import json
import re
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from .conftest import Lab, different, inventory, second_address, some_long

Fingerprint = dict[str, list[str]]


@pytest.fixture(scope="module")
def fresh(lab: Lab) -> Lab:
    """Hosts without any state: bad input must leave them so."""
    lab.fresh()
    return lab


@pytest.fixture
def untouched(fresh: Lab) -> Fingerprint:
    """The fingerprint of the hosts before a test."""
    return fresh.fingerprint()


def refused(
    lab: Lab, before: Fingerprint, words: list[str], *arguments: str, path: str = "", playbook: str = "site.yml"
) -> str:
    """The run fails with these words, in one failure, without a traceback, and no host has changed."""
    run = lab.play(*arguments, inventory=path, playbook=playbook)
    assert run.code != 0, run.output[-3000:]
    flat = re.sub(r"\s+", " ", run.output)
    for text in words:
        assert text in flat, f"{text!r} is not in:\n{run.output[-5000:]}"
    assert "Traceback" not in run.output and "PLAY RECAP" in run.output
    assert run.changed() == {}
    assert different(before, lab.fingerprint()) == {}
    return flat


# Variables that are wrong for every host, and the expected error. Variables that are checked together are given
# together: one failure must name all of them.
VARIABLES: dict[str, tuple[dict[str, Any], list[str]]] = {
    # Ansible does not check them itself: our words, all in one failure.
    "types": (
        {
            "etcd_extra_args": "--foo",
            "etcd_server_cert_sans": {"a": 1},
            "etcd_encryption_algorithm": "RSA",
            "etcd_renew_keys": "maybe",
            "etcd_client_port": "many",
        },
        ["etcd_extra_args", "etcd_server_cert_sans", "RSA-2048", "etcd_renew_keys", "etcd_client_port"],
    ),
    "inventory": (
        {
            "etcd_clientport": 2379,
            # Ansible would make a mapping of it.
            "etcd_extra_args": "foo=bar",
            # A colon too many makes a mapping, a dash too many makes null.
            "etcd_server_cert_sans": ["a.example.com", {"b.example.com": None}],
            "etcd_peer_cert_sans": ["a.example.com", None],
            "etcd_ca_host": "nowhere",
            "etcd_client_port": 2380,
            "etcd_container_runtime_endpoint": "unix:///run/none.sock",
            "etcd_image_archive": "/nowhere/etcd.tar",
        },
        [
            "unknown variable etcd_clientport. Did you mean etcd_client_port?",
            "etcd_extra_args is a text, 'foo=bar'. Write a mapping",
            "etcd_server_cert_sans has the entry {'b.example.com': None}",
            "etcd_peer_cert_sans has the entry None",
            "nowhere is not a host of cluster 'etcd'",
            "two ports are the same",
            "unix:///run/none.sock does not exist",
            "etcd_image_archive: /nowhere/etcd.tar is not a file",
        ],
    ),
    "configuration": (
        {
            "etcd_extra_args": {
                "data-dir": "/srv/etcd",
                "name": "x",
                "initial-cluster": "x",
                "cert-file": "/x",
                "--quota-backend-bytes": "1",
                "quota-backend-bytes": "",
            },
            "etcd_extra_envs": {"ETCD_NAME": "x"},
            "etcd_server_cert_sans": ["Not_A_Name"],
            "etcd_certificate_validity_period": "365d",
            "etcd_certificate_renewal_window": "soon",
            "etcd_image_tag": "bad tag!",
            "etcd_kubelet_config": {"staticPodPath": "/x"},
            "etcd_data_dir": "var/lib/etcd",
        },
        [
            "etcd_extra_args.data-dir must not be set. Set etcd_data_dir",
            "etcd_extra_args.name must not be set. Set etcd_member_name",
            "etcd_extra_args.initial-cluster must not be set",
            "etcd_extra_args.cert-file must not be set",
            "etcd_extra_args.--quota-backend-bytes has leading dashes",
            "etcd_extra_args.quota-backend-bytes has no value",
            "etcd_extra_envs.ETCD_NAME sets the flag --name",
            "etcd_server_cert_sans: 'Not_A_Name' is neither an IP address nor a DNS name",
            "etcd_certificate_validity_period '365d' is not a period. Write hours, for example 8760h",
            "etcd_certificate_renewal_window 'soon' is not a period",
            "etcd_image_tag 'bad tag!' is not an image tag",
            "etcd_kubelet_config must not set staticPodPath",
            "etcd_data_dir 'var/lib/etcd' is invalid. Write the absolute path",
        ],
    ),
    # The inventory alone shows that these are wrong, so no module may get them. Each of them once made one fail or did harm.
    "values": (
        {
            "etcd_client_port": 70000,
            "etcd_data_dir": "/var/lib",
            "etcd_cluster_name": "../../x",
            "etcd_container_runtime_endpoint": "containerd",
            "etcd_health_timeout": 0,
            "etcd_startup_timeout": "soon",
            "etcd_kubelet_config": {"max pods": 1},
            "etcd_extra_args": {"initial-cluster-token": "x"},
            "etcd_extra_envs": {"ETCD_INITIAL_CLUSTER_TOKEN": "x"},
        },
        [
            "etcd_client_port 70000 is not a port",
            "etcd_data_dir '/var/lib' is a directory that other programs use",
            "etcd_cluster_name '../../x' is invalid",
            "etcd_container_runtime_endpoint 'containerd' is not the socket",
            "etcd_health_timeout 0 is invalid",
            "etcd_startup_timeout 'soon' is invalid",
            "etcd_kubelet_config: 'max pods' is not the name of a field",
            "etcd_extra_args.initial-cluster-token must not be set. Remove it",
            "etcd_extra_envs.ETCD_INITIAL_CLUSTER_TOKEN sets the flag --initial-cluster-token",
        ],
    ),
    "an older version": ({"etcd_kubernetes_version": "v1.30.0"}, ["etcd_kubernetes_version", "v1.30.0"]),
    "no version": ({"etcd_kubernetes_version": "latest"}, ["etcd_kubernetes_version", "latest"]),
    # YAML makes a number of it.
    "half a version": ({"etcd_kubernetes_version": 1.36}, ["1.36", "Write"]),
}


@pytest.mark.parametrize("case", some_long(VARIABLES))
def test_invalid_variables_are_refused(fresh: Lab, untouched: Fingerprint, case: str) -> None:
    variables, words = VARIABLES[case]
    refused(fresh, untouched, words, "-e", json.dumps(variables))


def test_everything_that_is_wrong_is_one_failure(fresh: Lab, untouched: Fingerprint) -> None:
    """Mistakes in the inventory and on hosts are reported together and once, and all hosts make the same plan, also if they do so one after the other."""
    fresh.sh("infra1", "mv /usr/bin/kubelet /usr/bin/kubelet.away")
    before = fresh.fingerprint()
    try:
        flat = refused(
            fresh,
            before,
            ["unknown variable etcd_typo", "infra1: kubelet is not installed", "/run/none.sock does not exist"],
            "-e",
            '{"etcd_typo": 1, "etcd_container_runtime_endpoint": "unix:///run/none.sock"}',
            "--forks=1",
        )
    finally:
        fresh.sh("infra1", "mv /usr/bin/kubelet.away /usr/bin/kubelet")
    assert flat.count("infra1: kubelet is not installed") == 1
    assert "See the message from infra0" in flat and "See the message from infra1" not in flat
    assert "cannot be reached" not in flat


MEMBERS: dict[str, tuple[Callable[[dict[str, str]], dict[str, str]], list[str]]] = {
    "same address": (
        lambda a: {"infra0": f"ansible_host: {a['infra0']}", "infra1": f"ansible_host: {a['infra0']}"},
        ["infra0 and infra1 have the same"],
    ),
    "same name": (
        lambda a: {h: f"ansible_host: {x}, etcd_member_name: infra0" for h, x in a.items()},
        ["have the same etcd_member_name, 'infra0'"],
    ),
    "one machine in two clusters": (
        lambda a: {
            "infra0": f"ansible_host: {a['infra0']}",
            "other": f"ansible_host: {a['infra0']}, etcd_cluster_name: b",
        },
        [
            "infra0 and other of cluster 'b' are the same machine",
            "other and infra0 of cluster 'etcd' are the same machine",
        ],
    ),
    "not an RFC 1123 name": (
        lambda a: {h: f"ansible_host: {x}, etcd_member_name: {h}_x" for h, x in a.items()},
        ["'infra0_x' is not an RFC 1123 name"],
    ),
    "foreign address": (
        lambda a: {h: f"ansible_host: {x}, etcd_address: 192.0.2.{i + 1}" for i, (h, x) in enumerate(a.items())},
        ["192.0.2.1 is not an address of this host"],
    ),
    "one machine twice": (
        lambda a: {
            "infra0": f"ansible_host: {a['infra0']}",
            "infra1": f"ansible_host: {a['infra1']}",
            "again": f"ansible_host: {a['infra1']}, etcd_address: 192.0.2.7",
        },
        ["infra1 and again are the same machine", "again: etcd_address 192.0.2.7 is not an address of this host"],
    ),
    "mixed families": (
        lambda a: {
            "infra0": f"ansible_host: {a['infra0']}, etcd_address: 'fd00::1'",
            "infra1": f"ansible_host: {a['infra1']}",
        },
        ["mix IPv4 and IPv6"],
    ),
}


@pytest.mark.parametrize("case", some_long(MEMBERS))
def test_inventories_with_wrong_members_are_refused(
    fresh: Lab, untouched: Fingerprint, tmp_path: Path, case: str
) -> None:
    hosts, words = MEMBERS[case]
    refused(fresh, untouched, words, path=inventory(fresh, tmp_path, hosts(fresh.addresses())))


@pytest.mark.parametrize(("count", "words"), [(1, "has one member only"), (2, "an even number")])
def test_size_is_a_warning_only(fresh: Lab, untouched: Fingerprint, tmp_path: Path, count: int, words: str) -> None:
    hosts = dict(list(fresh.addresses().items())[:count])
    path = inventory(fresh, tmp_path, {host: f"ansible_host: {address}" for host, address in hosts.items()})
    run = fresh.play("--check", inventory=path)
    assert run.code == 0 and words in re.sub(r"\s+", " ", run.output), run.output[-3000:]
    assert different(untouched, fresh.fingerprint()) == {}


def test_a_variable_that_only_one_host_sets_is_refused(fresh: Lab, untouched: Fingerprint, tmp_path: Path) -> None:
    """A port or CA host that only one host sets contradicts the default of the others."""
    extra = {"infra1": ", etcd_ca_host: infra1, etcd_peer_port: 12380"}
    hosts = {host: f"ansible_host: {address}{extra.get(host, '')}" for host, address in fresh.addresses().items()}
    words = [
        "etcd_ca_host differs within cluster 'etcd'",
        "etcd_peer_port differs within cluster 'etcd' (infra0 2380, infra1 12380",
    ]
    refused(fresh, untouched, words, path=inventory(fresh, tmp_path, hosts))


def test_two_clusters_with_one_external_config_file_are_refused(
    fresh: Lab, untouched: Fingerprint, tmp_path: Path
) -> None:
    hosts = {
        host: f"ansible_host: {address}, etcd_cluster_name: c{number}"
        for number, (host, address) in enumerate(fresh.addresses().items())
    }
    words = ["etcd_external_config_file is /x/external.yaml for several clusters (c0, c1, c2)"]
    refused(
        fresh,
        untouched,
        words,
        "-e",
        "etcd_external_config_file=/x/external.yaml",
        path=inventory(fresh, tmp_path, hosts),
    )


def test_variables_that_only_a_play_sets_are_refused(fresh: Lab, untouched: Fingerprint, tmp_path: Path) -> None:
    """Members read some variables from the inventory only. Setting one in a play is an error, and so is a typo there."""
    playbook = tmp_path / "mine.yml"
    play = {
        "ansible.builtin.import_playbook": "kubeadm.etcd.site",
        "vars": {"etcd_ca_host": "infra1", "etcd_clientport": 1, "etcd_client_port": 70000},
    }
    playbook.write_text(json.dumps([play]), encoding="utf-8")
    run = fresh.play(playbook=str(playbook))
    said = re.sub(r"\s+", " ", run.output)
    assert run.code != 0 and "etcd_ca_host is 'infra1' in this play only" in said, run.output[-3000:]
    assert "unknown variable etcd_clientport. Did you mean etcd_client_port?" in said
    assert "etcd_client_port 70000 is not a port" in said
    assert run.changed() == {} and different(untouched, fresh.fingerprint()) == {}


def test_the_text_false_means_false(fresh: Lab, untouched: Fingerprint) -> None:
    """-e NAME=false passes text, not a boolean. Text is true in Jinja."""
    run = fresh.play("--check", "-e", "etcd_install_dependencies=false", "-e", "etcd_allow_interruption=no")
    assert run.code == 0, run.output[-3000:]
    assert different(untouched, fresh.fingerprint()) == {}


def test_a_renewal_without_a_cluster_is_refused(fresh: Lab, untouched: Fingerprint) -> None:
    refused(fresh, untouched, ["has not been founded yet. Run site.yml"], playbook="playbooks/renew_certificates.yml")


def test_an_empty_group_is_refused(fresh: Lab, untouched: Fingerprint, tmp_path: Path) -> None:
    """An empty group is an error."""
    path = tmp_path / "empty.yml"
    path.write_text("etcd:\n  hosts: {}\n", encoding="utf-8")
    run = fresh.play(inventory=str(path))
    assert run.code != 0 and "no hosts in the group etcd" in re.sub(r"\s+", " ", run.output), run.output
    assert different(untouched, fresh.fingerprint()) == {}


# What is wrong on a host: how to make it so, how to undo it, and what the error has to say.
HOSTS = {
    "kubeadm missing": (
        "mv /usr/bin/kubeadm /root/k",
        "mv /root/k /usr/bin/kubeadm",
        ["infra1: kubeadm is not installed"],
    ),
    "kubelet of another minor": (
        "mv /usr/bin/kubelet /root/k; printf '#!/bin/sh\\necho Kubernetes v1.35.4\\n' > /usr/bin/kubelet; chmod +x /usr/bin/kubelet",
        "mv -f /root/k /usr/bin/kubelet",
        ["infra1: the kubelet (v1.35.4) and kubeadm (v1.36.3) have different minor versions"],
    ),
    "versions differ between hosts": (
        "mv /usr/bin/kubelet /root/k; printf '#!/bin/sh\\necho Kubernetes v1.36.1\\n' > /usr/bin/kubelet; chmod +x /usr/bin/kubelet",
        "mv -f /root/k /usr/bin/kubelet",
        ["the hosts have different versions of kubelet (infra0 v1.36.3, infra1 v1.36.1"],
    ),
    "runtime stopped": (
        "systemctl stop containerd",
        "systemctl start containerd",
        ["infra1: the container runtime's socket"],
    ),
    "ports taken": (
        "for port in 2379 2380; do systemd-run -q --unit porttaker$port python3 -m http.server $port; done; sleep 1",
        "systemctl stop porttaker2379 porttaker2380",
        ["infra1: port 2379 is in use by python3", "infra1: port 2380 is in use by python3"],
    ),
    "kubeadm too old": (
        "for p in kubeadm kubelet; do mv /usr/bin/$p /root/$p; printf '#!/bin/sh\necho v1.31.14\n' > /usr/bin/$p; chmod +x /usr/bin/$p; done",
        "mv -f /root/kubeadm /root/kubelet /usr/bin/",
        ["infra1: kubeadm v1.31.14 is too old"],
    ),
    "kubeadm too new": (
        "for p in kubeadm kubelet; do mv /usr/bin/$p /root/$p; printf '#!/bin/sh\necho v1.38.0\n' > /usr/bin/$p; chmod +x /usr/bin/$p; done",
        "mv -f /root/kubeadm /root/kubelet /usr/bin/",
        ["infra1: kubeadm v1.38.0 is newer than 1.32 to 1.37", "set etcd_allow_untested_kubeadm: true"],
    ),
    "a data directory that others use": (
        "touch /var/lib/etcd/notes.txt",
        "rm /var/lib/etcd/notes.txt",
        ["infra1: etcd_data_dir /var/lib/etcd contains notes.txt"],
    ),
    "kubelet without a unit": (
        "mv /lib/systemd/system/kubelet.service /root/; systemctl daemon-reload; systemctl stop kubelet",
        "mv /root/kubelet.service /lib/systemd/system/; systemctl daemon-reload; systemctl start kubelet",
        ["infra1: systemd cannot load kubelet.service"],
    ),
    # As Docker's package brings it.
    "containerd without cri": (
        "cp /etc/containerd/config.toml /root/; sed -i 's/^disabled_plugins.*/disabled_plugins = [\"io.containerd.grpc.v1.cri\"]/' /etc/containerd/config.toml;"
        " systemctl restart containerd",
        "mv -f /root/config.toml /etc/containerd/; systemctl restart containerd",
        ["infra1: the container runtime's socket", "remove cri from disabled_plugins"],
    ),
    "former control plane": (
        "mkdir -p /etc/kubernetes; touch /etc/kubernetes/admin.conf",
        "rm -r /etc/kubernetes",
        [
            "infra1: this host is, or was, a node of a Kubernetes cluster: it has /etc/kubernetes/admin.conf",
            "Do not run `kubeadm reset`",
        ],
    ),
    "firewall": (
        "iptables -I INPUT -p tcp --dport 2380 -j DROP",
        "iptables -D INPUT -p tcp --dport 2380 -j DROP",
        ["infra1", "on TCP port 2380"],
    ),
}


@pytest.mark.parametrize("case", some_long(HOSTS))
def test_hosts_with_a_problem_are_refused(fresh: Lab, case: str) -> None:
    make, undo, words = HOSTS[case]
    fresh.sh("infra1", make)
    try:
        refused(fresh, fresh.fingerprint(), words)
    finally:
        fresh.sh("infra1", undo)


def test_unreachable_host_stops_all(fresh: Lab) -> None:
    """Nothing happens on the others either."""
    before = {host: lines for host, lines in fresh.fingerprint().items() if host != "infra2"}
    fresh("stop", "infra2")
    try:
        run = fresh.play()
        assert run.code != 0 and "unreachable" in run.output.lower()
        assert run.changed() == {}
        fresh.hosts = ["infra0", "infra1"]
        assert different(before, fresh.fingerprint()) == {}
    finally:
        fresh.hosts = ["infra0", "infra1", "infra2"]
        fresh("start", "infra2")


@dataclass
class Authority:
    """Files of a user's own CA."""

    cert: Path
    key: Path

    def arguments(self, **instead: str) -> tuple[str, str]:
        """Extra variables that name the files, some replaced."""
        values: dict[str, Any] = {"etcd_ca_cert": str(self.cert), "etcd_ca_key": str(self.key), **instead}
        return "-e", json.dumps({k: v for k, v in values.items() if v})


def openssl(*arguments: str) -> None:
    """Run openssl."""
    subprocess.run(["openssl", *arguments], check=True, capture_output=True, timeout=60)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """A good CA of the user's own, made by openssl."""
    cert, key = tmp_path / "ca.crt", tmp_path / "ca.key"
    openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", str(key), "-out", str(cert), "-subj", "/CN=mine", "-days", "900",
            "-addext", "keyUsage=critical,digitalSignature,keyCertSign")  # fmt: skip
    return Authority(cert, key)


def test_own_ca_is_accepted(fresh: Lab, untouched: Fingerprint, authority: Authority) -> None:
    """Shows that the tests below fail only for the change that each makes."""
    run = fresh.play("--check", "--diff", *authority.arguments())
    assert run.code == 0, run.output[-3000:]
    assert different(untouched, fresh.fingerprint()) == {}


def test_ca_key_without_its_certificate(fresh: Lab, untouched: Fingerprint, authority: Authority) -> None:
    refused(fresh, untouched, ["etcd_ca_key is set and etcd_ca_cert is not"], *authority.arguments(etcd_ca_cert=""))


def test_ca_that_signs_elsewhere_and_may_not_sign(fresh: Lab, untouched: Fingerprint, tmp_path: Path) -> None:
    cert, key = str(tmp_path / "leaf.crt"), str(tmp_path / "leaf.key")
    openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", cert, "-subj", "/CN=mine", "-addext",
            "basicConstraints=critical,CA:FALSE")  # fmt: skip
    refused(fresh, untouched, ["is not a CA certificate"], "-e", f"etcd_ca_cert={cert}")


def test_ca_key_encrypted(fresh: Lab, untouched: Fingerprint, authority: Authority) -> None:
    locked = str(authority.key) + ".locked"
    openssl("rsa", "-aes256", "-passout", "pass:x", "-in", str(authority.key), "-out", locked)
    refused(fresh, untouched, ["encrypted"], *authority.arguments(etcd_ca_key=locked))


def test_ca_key_of_another(fresh: Lab, untouched: Fingerprint, authority: Authority) -> None:
    other = str(authority.key) + ".other"
    openssl("genrsa", "-out", other, "2048")
    refused(fresh, untouched, ["etcd_ca_key is not the key of etcd_ca_cert"], *authority.arguments(etcd_ca_key=other))


def test_ca_files_that_cannot_be_read_are_refused(fresh: Lab, untouched: Fingerprint, authority: Authority) -> None:
    refused(
        fresh, untouched, ["cannot be read", "/nowhere/ca.crt"], *authority.arguments(etcd_ca_cert="/nowhere/ca.crt")
    )
    authority.cert.write_text("garbage", encoding="utf-8")
    refused(fresh, untouched, ["etcd_ca_cert"], *authority.arguments())


def test_an_expired_ca_is_refused(fresh: Lab, untouched: Fingerprint, authority: Authority) -> None:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization

    key = serialization.load_pem_private_key(authority.key.read_bytes(), None)
    good = x509.load_pem_x509_certificate(authority.cert.read_bytes())
    now = datetime.datetime.now(datetime.timezone.utc)
    builder = (
        x509.CertificateBuilder()
        .subject_name(good.subject)
        .issuer_name(good.issuer)
        .public_key(good.public_key())
        .serial_number(7)
        .not_valid_before(now - datetime.timedelta(days=9))
        .not_valid_after(now - datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(True, None), True)
    )
    authority.cert.write_bytes(builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))  # type: ignore[arg-type]
    refused(fresh, untouched, ["expired"], *authority.arguments())


def test_a_certificate_that_is_not_a_ca_is_refused(fresh: Lab, untouched: Fingerprint, authority: Authority) -> None:
    openssl("req", "-x509", "-key", str(authority.key), "-out", str(authority.cert), "-subj", "/CN=leaf", "-days", "9",
            "-addext", "basicConstraints=critical,CA:FALSE")  # fmt: skip
    refused(fresh, untouched, ["CA"], *authority.arguments())


def test_a_source_address_that_peers_would_reject(fresh: Lab, untouched: Fingerprint, tmp_path: Path) -> None:
    """etcd_address is a second address of the interface, and the kernel uses the first one. No leader would ever be elected."""
    addresses = fresh.addresses()
    hosts = {
        host: f"ansible_host: {address}, etcd_address: {second_address(address)}" for host, address in addresses.items()
    }
    words = []
    for host, address in addresses.items():
        others = ", ".join(other for other in fresh.hosts if other != host)
        words.append(
            f"{host}: connections to {others} leave this host from {address}, not from etcd_address {second_address(address)}:"
        )
        words.append(f"Set etcd_peer_cert_sans: [{address}] for this host")
        fresh.sh(host, f"ip addr add {second_address(address)}/24 dev eth0")
    try:
        refused(fresh, untouched, words, path=inventory(fresh, tmp_path, hosts))
    finally:
        for host, address in addresses.items():
            fresh.sh(host, f"ip addr del {second_address(address)}/24 dev eth0")
