# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""kubeadmcfg.yaml: invalid values, its content, and the reasons to write it again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.kubeadm.etcd.plugins.module_utils._host import kubeadm as _kubeadm
from ansible_collections.kubeadm.etcd.plugins.module_utils._host.kubeadm import (
    ConfigSpec,
    config_problems,
    parse_version,
)
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.errors import EtcdError
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.problems import EVERYTHING, PROCESSES
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.reasons import texts

V4 = [{"name": f"infra{number}", "address": f"10.0.0.{6 + number}"} for number in range(3)]
V6 = [{"name": f"infra{number}", "address": f"fd00::{6 + number}"} for number in range(3)]


def spec(**changed: Any) -> ConfigSpec:
    params = {"name": "infra0", "address": "10.0.0.6", "members": V4, "kubernetes_version": "v1.36.3", **changed}
    return ConfigSpec.from_params(params)


def problems(kubeadm: str = "v1.36.3", **changed: Any) -> list[str]:
    if "kubernetes_version" not in changed:
        changed["kubernetes_version"] = kubeadm
    return [problem.text for problem in config_problems(spec(**changed), parse_version(kubeadm))]


@pytest.mark.parametrize(
    ("text", "numbers"),
    [("v1.36.3", (1, 36, 3)), ("v1.37.0-rc.0", (1, 37, 0)), ("v1.34.2+k3s1", (1, 34, 2)), ("v1.32.13", (1, 32, 13))],
)
def test_versions(text: str, numbers: tuple[int, int, int]) -> None:
    version = parse_version(text)
    assert (version.major, version.minor, version.patch) == numbers
    assert str(version) == text


@pytest.mark.parametrize(
    "text", ["1.36.3", "v1.36", "stable", "stable-1", "", "v1.36.3 ", "v1.36.3\n", "latest", "v1.36.3-"]
)
def test_what_is_no_version(text: str) -> None:
    with pytest.raises(EtcdError, match=r"for example v1\.36\.3"):
        parse_version(text)


def test_versions_are_ordered_by_number() -> None:
    assert parse_version("v1.9.0") < parse_version("v1.36.3") < parse_version("v1.36.10")


@pytest.mark.parametrize("kubeadm", ["v1.32.0", "v1.32.13", "v1.33.6", "v1.34.4", "v1.35.4", "v1.36.3", "v1.37.2"])
def test_defaults_are_fine_with_every_supported_kubeadm(kubeadm: str) -> None:
    assert problems(kubeadm) == []


@pytest.mark.parametrize(
    "changed",
    [
        {"address": "fd00::6", "members": V6},
        {"address": "FD00:0::6", "members": V6},
        {"members": V4[:1]},
        {"extra_args": {"quota-backend-bytes": 8589934592, "pre-vote": True, "cors": ["a", "b"], "log-level": "warn"}},
        {"extra_args": {"feature-gates": "InitialCorruptCheck=true,CompactHashCheck=true"}},
        {"extra_envs": {"GOMAXPROCS": 2, "EMPTY": "", "ETCD_LOG_LEVEL": "debug"}},
        {"server_cert_sans": ["etcd.example.com", "*.example.com", "10.1.2.3", "FD00::1"]},
        {"encryption_algorithm": "ECDSA-P384"},
        {"certificate_validity_period": "100h30m", "ca_certificate_validity_period": "1.5h"},
        {"kubernetes_version": "v1.35.0"},
        {"image_tag": "3.6.14-0", "image_repository": "registry.example.com:5000/k8s/mirror"},
        {"image_tag": "latest"},
        {"image_tag": "3.6.8-0@sha256:" + "0" * 64},
        {"client_port": "12379", "peer_port": 12380, "metrics_port": 12381},
        {"data_dir": "/srv/etcd", "pki_dir": "/srv/pki"},
    ],
    ids=str,
)
def test_accepted_configurations(changed: dict[str, Any]) -> None:
    assert problems(**changed) == []


@pytest.mark.parametrize(
    ("kubeadm", "changed", "words"),
    [
        # kubeadm and kubernetesVersion
        ("v1.31.14", {}, ["kubeadm v1.31.14 is too old", "1.32 to 1.37", "v1beta4"]),
        ("v1.38.0", {}, ["kubeadm v1.38.0 is newer", "1.32 to 1.37"]),
        ("v1.36.3", {"kubernetes_version": "v1.34.4"}, ["v1.34.4 does not fit kubeadm v1.36.3", "1.35 and 1.36"]),
        ("v1.36.3", {"kubernetes_version": "v1.37.0"}, ["v1.37.0 does not fit kubeadm v1.36.3"]),
        ("v1.36.3", {"kubernetes_version": "v2.36.3"}, ["does not fit"]),
        ("v1.36.3", {"kubernetes_version": "1.36.3"}, ["etcd_kubernetes_version '1.36.3'", "v1.36.3"]),
        ("v1.36.3", {"kubernetes_version": "stable-1"}, ["etcd_kubernetes_version 'stable-1'"]),
        # members
        ("v1.36.3", {"name": "Infra0"}, ["members does not have Infra0"]),
        ("v1.36.3", {"address": "10.0.0.9"}, ["members has infra0 with 10.0.0.6, but its address is 10.0.0.9"]),
        ("v1.36.3", {"members": [*V4, {"name": "infra_3", "address": "10.0.0.9"}]}, ["infra_3", "RFC 1123"]),
        ("v1.36.3", {"members": [*V4, {"name": "infra3", "address": "10.0.0.6"}]}, ["10.0.0.6", "infra3", "the same"]),
        ("v1.36.3", {"members": [*V4, {"name": "infra2", "address": "10.0.0.9"}]}, ["'infra2'", "the same"]),
        ("v1.36.3", {"members": [*V4, {"name": "infra3", "address": "fd00::9"}]}, ["mix IPv4 and IPv6"]),
        *(
            ("v1.36.3", {"address": bad, "members": [{"name": "infra0", "address": bad}]}, [words])
            for bad, words in (
                ("host.example.com", "is not an IP address"),
                ("0.0.0.0", "stands for all addresses"),
                ("::", "stands for all addresses"),
                ("127.0.0.1", "cannot reach"),
                ("224.0.0.1", "multicast"),
                ("169.254.1.1", "link-local"),
                ("fe80::1", "link-local"),
                ("[fd00::6]", "is not an IP address"),
            )
        ),
        # ports
        ("v1.36.3", {"client_port": 0}, ["etcd_client_port 0 is not a port"]),
        ("v1.36.3", {"client_port": 2380}, ["two ports are the same"]),
        # images (facts: etcd exits with code 2 in these combinations)
        ("v1.36.3", {"image_tag": "3.5.21-0"}, ["etcd_image_tag 3.5.21-0", "--feature-gates", "Use etcd 3.6 or 3.7"]),
        ("v1.36.3", {"image_tag": "v3.5.21"}, ["--feature-gates"]),
        ("v1.37.2", {"image_tag": "3.5"}, ["--feature-gates"]),
        ("v1.33.13", {"image_tag": "3.7.0-0"}, ["--experimental-*", "Use etcd 3.5 or 3.6"]),
        ("v1.34.4", {"image_tag": "3.7"}, ["--experimental-*", "write it as X.Y.Z-N"]),
        ("v1.35.4", {"image_tag": "3.7.3@sha256:" + "a" * 64}, ["--experimental-*", "write it as X.Y.Z-N"]),
        ("v1.34.4", {"image_tag": "3.5.10-0"}, ["too old for the probes"]),
        ("v1.34.4", {"image_tag": "3.4.13-0"}, ["too old for the probes"]),
        ("v1.36.3", {"image_tag": "bad tag!"}, ["'bad tag!' is not an image tag"]),
        ("v1.36.3", {"image_tag": "a:b"}, ["'a:b' is not an image tag"]),
        ("v1.36.3", {"image_tag": "3.6.5+x"}, ["is not an image tag"]),
        ("v1.36.3", {"image_repository": "https://registry.example.com"}, ["is not an image repository"]),
        (
            "v1.36.3",
            {"image_repository": "registry.example.com/k8s/"},
            ["is not an image repository", "trailing slash"],
        ),
        ("v1.36.3", {"image_repository": "registry example"}, ["is not an image repository"]),
        # extra_args: ours
        ("v1.36.3", {"extra_args": {"data-dir": "/x"}}, ["etcd_extra_args.data-dir", "Set etcd_data_dir"]),
        ("v1.36.3", {"extra_args": {"name": "x"}}, ["Set etcd_member_name"]),
        ("v1.36.3", {"extra_args": {"initial-cluster": "x"}}, ["sets it from the members in the inventory"]),
        ("v1.36.3", {"extra_args": {"listen-client-urls": "x"}}, ["Set etcd_address and etcd_client_port"]),
        ("v1.36.3", {"extra_args": {"initial-advertise-peer-urls": "x"}}, ["Set etcd_address and etcd_peer_port"]),
        ("v1.36.3", {"extra_args": {"listen-metrics-urls": "x"}}, ["Set etcd_metrics_port and etcd_metrics_exposed"]),
        ("v1.36.3", {"extra_args": {"peer-client-cert-auth": False}}, ["issues the certificates"]),
        ("v1.36.3", {"extra_args": {"wal-dir": "/x"}}, ["inside the container"]),
        ("v1.36.3", {"extra_args": {"force-new-cluster": True}}, ["cluster of one"]),
        ("v1.36.3", {"extra_args": {"enable-grpc-gateway": False}}, ["gateway"]),
        # extra_args: shape
        ("v1.36.3", {"extra_args": {"--quota-backend-bytes": 1}}, ["Write quota-backend-bytes, without them"]),
        ("v1.36.3", {"extra_args": {"quota-backend-bytes": ""}}, ["etcd_extra_args.quota-backend-bytes has no value"]),
        ("v1.36.3", {"extra_args": {"quota-backend-bytes": None}}, ["has no value"]),
        ("v1.36.3", {"extra_args": {"cors": []}}, ["has no value"]),
        ("v1.36.3", {"extra_args": {"cors": ["a", ""]}}, ["has no value"]),
        ("v1.36.3", {"extra_args": {"cors": {"a": 1}}}, ["is the dict {'a': 1}"]),
        ("v1.36.3", {"extra_args": {"cors": [["a"]]}}, ["is the list ['a']"]),
        ("v1.36.3", {"extra_args": {"log-level": "a\nb"}}, ["line break"]),
        ("v1.36.3", {"extra_args": {"": "a"}}, ["without a name"]),
        ("v1.36.3", {"extra_args": {"--": "a"}}, ["without a name"]),
        ("v1.36.3", {"extra_args": {"log_level": "a"}}, ["lower-case letters, digits and '-'"]),
        ("v1.36.3", {"extra_args": {"a=b": "a"}}, ["lower-case letters, digits and '-'"]),
        # extra_args: flags that the etcd of the image does not have, or not beside kubeadm's
        (
            "v1.37.2",
            {"extra_args": {"experimental-corrupt-check-time": "1h"}},
            ["etcd 3.7", "Write corrupt-check-time."],
        ),
        (
            "v1.37.2",
            {"extra_args": {"experimental-compact-hash-check-enabled": True}},
            ["Write feature-gates: CompactHashCheck=true,InitialCorruptCheck=true."],
        ),
        (
            "v1.36.3",
            {"extra_args": {"experimental-initial-corrupt-check": True}},
            ["refuses both together", "Write feature-gates: InitialCorruptCheck=true."],
        ),
        ("v1.36.3", {"extra_args": {"enable-v2": True}}, ["removed"]),
        ("v1.33.6", {"extra_args": {"feature-gates": "CompactHashCheck=true"}}, ["etcd 3.5 does not have it yet"]),
        ("v1.33.6", {"extra_args": {"max-learners": 2}}, ["Write experimental-max-learners."]),
        (
            "v1.33.6",
            {"image_tag": "3.6.8-0", "extra_args": {"watch-progress-notify-interval": "5s"}},
            ["Write experimental-watch-progress-notify-interval."],
        ),
        (
            "v1.33.6",
            {"image_tag": "3.6.8-0", "extra_args": {"feature-gates": "InitialCorruptCheck=true"}},
            ["InitialCorruptCheck"],
        ),
        # extra_envs
        ("v1.36.3", {"extra_envs": {"ETCD_NAME": "x"}}, ["etcd_extra_envs.ETCD_NAME", "--name", "etcd_member_name"]),
        ("v1.36.3", {"extra_envs": {"ETCD_WAL_DIR": "/x"}}, ["inside the container"]),
        ("v1.36.3", {"extra_envs": {"ETCD_SNAPSHOT_COUNT": 1}}, ["does not start", "etcd_extra_args.snapshot-count"]),
        ("v1.36.3", {"extra_envs": {"ETCD_FEATURE_GATES": "x=true"}}, ["does not start"]),
        (
            "v1.36.3",
            {"extra_envs": {"ETCD_LOG_LEVEL": "info"}, "extra_args": {"log-level": "info"}},
            ["etcd_extra_envs.ETCD_LOG_LEVEL", "does not start"],
        ),
        ("v1.33.6", {"extra_envs": {"ETCD_FEATURE_GATES": "x=true"}}, ["does not have it yet"]),
        ("v1.36.3", {"extra_envs": {"A B": "x"}}, ["'A B' is not the name of an environment variable"]),
        ("v1.36.3", {"extra_envs": {"": "x"}}, ["is not the name of an environment variable"]),
        ("v1.36.3", {"extra_envs": {"A": "x\ny"}}, ["line break"]),
        ("v1.36.3", {"extra_envs": {"A": ["x"]}}, ["has a value of type list"]),
        # certificates
        ("v1.36.3", {"server_cert_sans": ["UPPER.example.com"]}, ["etcd_server_cert_sans", "upper.example.com"]),
        *(
            ("v1.36.3", {"peer_cert_sans": [bad]}, ["etcd_peer_cert_sans", "neither"])
            for bad in (
                "bad_name",
                "foo..bar",
                "trailing.dot.",
                "https://foo",
                "10.0.0.0/24",
                "-lead",
                " x",
                "",
                "münchen.example",
            )
        ),
        ("v1.33.6", {"encryption_algorithm": "ECDSA-P384"}, ["needs kubeadm 1.34"]),
        ("v1.36.3", {"encryption_algorithm": "Ed25519"}, ["'Ed25519'", "RSA-2048"]),
        *(
            ("v1.36.3", {"certificate_validity_period": bad}, ["etcd_certificate_validity_period", "8760h"])
            for bad in ("0s", "-5h", "1y", "365d", "3600", "9999999h", "")
        ),
        ("v1.36.3", {"ca_certificate_validity_period": "10y"}, ["etcd_ca_certificate_validity_period"]),
        # directories
        ("v1.36.3", {"data_dir": "var/lib/etcd"}, ["etcd_data_dir", "absolute path"]),
        ("v1.36.3", {"data_dir": "/"}, ["etcd_data_dir"]),
    ],
    ids=lambda value: str(value)[:60],
)
def test_refused_configurations(kubeadm: str, changed: dict[str, Any], words: list[str]) -> None:
    found = problems(kubeadm, **changed)
    assert found, "accepted"
    assert any(all(word in problem for word in words) for problem in found), found
    assert all("Traceback" not in problem and problem.endswith(".") for problem in found)


def test_all_problems_at_once() -> None:
    found = problems(extra_args={"name": "x", "--a": "1"}, image_tag="bad tag!", certificate_validity_period="0s")
    assert len(found) == 4
    with pytest.raises(EtcdError) as caught:
        _kubeadm.raise_problems(found)
    assert str(caught.value).startswith("4 problems:\n- ")
    assert all(problem in str(caught.value) for problem in found)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"extra_args": ["a"]}, r"etcd_extra_args is \['a'\]. Write a mapping."),
        ({"server_cert_sans": "a"}, "etcd_server_cert_sans is 'a'. Write a list."),
        ({"client_port": "x"}, "etcd_client_port is 'x'. Write a whole number."),
        ({"metrics_exposed": "maybe"}, "etcd_metrics_exposed is 'maybe'. Write true or false."),
        ({"name": None}, "name is missing"),
    ],
)
def test_wrong_shapes(changed: dict[str, Any], words: str) -> None:
    with pytest.raises(EtcdError, match=words):
        spec(**changed)


@pytest.mark.parametrize(
    ("kubeadm", "version", "tag", "new"),
    [
        # facts/kubeadm_matrix, section 3, Image; each was run
        *(
            (kubeadm, kubeadm, tag, False)
            for kubeadm in ("v1.32.13", "v1.33.13")
            for tag in ("", "3.6.4-0", "v3.6.5", "3.7.2", "3.5.21-0", "latest")
        ),
        *(
            (kubeadm, kubeadm, tag, True)
            for kubeadm in ("v1.34.4", "v1.35.4")
            for tag in ("", "3.6.4-0", "v3.6.5", "3.7.2")
        ),
        *(
            (kubeadm, kubeadm, tag, False)
            for kubeadm in ("v1.34.4", "v1.35.4")
            for tag in ("3.5.21-0", "v3.5.21", "3.6", "latest", "my_tag.1", "3.6.0-rc.0", "3.6.5-0@sha256:" + "0" * 64)
        ),
        ("v1.34.4", "v1.33.0", "", False),
        ("v1.35.4", "v1.34.0", "", True),
        *(
            (kubeadm, kubeadm, tag, True)
            for kubeadm in ("v1.36.3", "v1.37.2")
            for tag in ("", "3.6.4-0", "3.5.21-0", "latest")
        ),
    ],
)
def test_which_flags_kubeadm_writes(kubeadm: str, version: str, tag: str, new: bool) -> None:
    assert _kubeadm.writes_new_flags(spec(kubernetes_version=version, image_tag=tag), parse_version(kubeadm)) is new


def documents(text: str) -> list[Any]:
    return list(yaml.safe_load_all(text))


def test_the_page_s_configuration() -> None:
    text = _kubeadm.render_config(spec())
    assert text.startswith("---\n# "), "kubeadm refuses a comment before the first ---"
    first, second = documents(text)
    assert first == {
        "apiVersion": "kubeadm.k8s.io/v1beta4",
        "kind": "InitConfiguration",
        "nodeRegistration": {"name": "infra0"},
        "localAPIEndpoint": {"advertiseAddress": "10.0.0.6"},
    }
    assert second == {
        "apiVersion": "kubeadm.k8s.io/v1beta4",
        "kind": "ClusterConfiguration",
        "kubernetesVersion": "v1.36.3",
        "certificatesDir": "/etc/kubernetes/pki",
        "encryptionAlgorithm": "RSA-2048",
        "certificateValidityPeriod": "8760h",
        "caCertificateValidityPeriod": "87600h",
        "etcd": {
            "local": {
                "dataDir": "/var/lib/etcd",
                "serverCertSANs": ["10.0.0.6"],
                "peerCertSANs": ["10.0.0.6"],
                "extraArgs": [
                    {"name": "name", "value": "infra0"},
                    {
                        "name": "initial-cluster",
                        "value": "infra0=https://10.0.0.6:2380,infra1=https://10.0.0.7:2380,infra2=https://10.0.0.8:2380",
                    },
                    {"name": "initial-cluster-state", "value": "new"},
                    {"name": "listen-peer-urls", "value": "https://10.0.0.6:2380"},
                    {"name": "listen-client-urls", "value": "https://127.0.0.1:2379,https://10.0.0.6:2379"},
                    {"name": "advertise-client-urls", "value": "https://10.0.0.6:2379"},
                    {"name": "initial-advertise-peer-urls", "value": "https://10.0.0.6:2380"},
                ],
            }
        },
    }


def test_ipv6_and_ports() -> None:
    text = _kubeadm.render_config(
        spec(address="FD00::0006", members=V6, client_port=12379, peer_port=12380, metrics_port=12381)
    )
    local = documents(text)[1]["etcd"]["local"]
    values = {item["name"]: item["value"] for item in local["extraArgs"]}
    assert documents(text)[0]["localAPIEndpoint"] == {"advertiseAddress": "fd00::6"}
    assert values["listen-client-urls"] == "https://[::1]:12379,https://[fd00::6]:12379"
    assert values["listen-peer-urls"] == "https://[fd00::6]:12380"
    assert values["listen-metrics-urls"] == "http://[::1]:12381"
    assert values["initial-cluster"].startswith("infra0=https://[fd00::6]:12380,infra1=https://[fd00::7]:12380,")
    assert local["serverCertSANs"] == ["fd00::6"]


@pytest.mark.parametrize(
    ("changed", "urls"),
    [
        ({}, None),
        ({"metrics_exposed": False}, None),
        # Loopback first: kubeadm makes the probes of the first URL.
        ({"metrics_exposed": True}, "http://127.0.0.1:2381,http://10.0.0.6:2381"),
        ({"metrics_exposed": "yes", "metrics_port": 9381}, "http://127.0.0.1:9381,http://10.0.0.6:9381"),
        (
            {"metrics_exposed": "True", "address": "FD00::0006", "members": V6},
            "http://[::1]:2381,http://[fd00::6]:2381",
        ),
    ],
)
def test_metrics_on_the_member_s_address(changed: dict[str, Any], urls: str | None) -> None:
    arguments = dict(_kubeadm.arguments(spec(**changed)))
    assert arguments.get("listen-metrics-urls") == urls


def test_everything_else_that_can_be_set() -> None:
    text = _kubeadm.render_config(
        spec(
            extra_args={
                "quota-backend-bytes": 8589934592,
                "pre-vote": False,
                "cors": ["b", "a"],
                "log-format": 'a"b\\c: #é',
            },
            extra_envs={"B": "yes", "A": 1},
            server_cert_sans=["etcd.example.com", "10.0.0.6"],
            image_repository="registry.example.com/k8s",
            image_tag="3.6.14-0",
        )
    )
    local = documents(text)[1]["etcd"]["local"]
    assert [(item["name"], item["value"]) for item in local["extraArgs"][7:]] == [
        ("cors", "b"),
        ("cors", "a"),
        ("log-format", 'a"b\\c: #é'),
        ("pre-vote", "false"),
        ("quota-backend-bytes", "8589934592"),
    ]
    assert local["extraEnvs"] == [{"name": "A", "value": "1"}, {"name": "B", "value": "yes"}]
    assert local["serverCertSANs"] == ["10.0.0.6", "etcd.example.com"]
    assert (local["imageRepository"], local["imageTag"]) == ("registry.example.com/k8s", "3.6.14-0")


def test_the_order_of_mappings_plays_no_part() -> None:
    one = spec(extra_args={"a": 1, "b": 2}, extra_envs={"A": 1, "B": 2})
    other = spec(extra_args={"b": 2, "a": 1}, extra_envs={"B": 2, "A": 1})
    assert _kubeadm.render_config(one) == _kubeadm.render_config(other)


def test_when_the_configuration_is_written() -> None:
    new = _kubeadm.render_config(spec(initial_cluster_token="t"))
    existing = _kubeadm.render_config(spec(initial_cluster_state="existing", published=True))
    quota = _kubeadm.render_config(spec(initial_cluster_state="existing", extra_args={"quota-backend-bytes": 1}))
    assert texts(_kubeadm.config_reasons(None, new, True)) == ["kubeadmcfg.yaml: missing"]
    assert _kubeadm.config_reasons(new, new, False) == []
    # A flag that etcd reads only when it is founded is a reason only before it has data.
    for before, after in ((new, existing), (existing, new)):
        assert _kubeadm.config_reasons(before, after, True) == []
        assert _kubeadm.config_reasons(before, after, False) != []
    reasons = texts(_kubeadm.config_reasons(new, quota, True))
    assert reasons == ['kubeadmcfg.yaml: - {name: "quota-backend-bytes", value: "1"} added']
    assert _kubeadm.config_reasons(new, new.replace("10.0.0.6", "10.0.0.9"), True) != []
    assert texts(_kubeadm.config_reasons(new + "# by hand\n", new, True)) == ["kubeadmcfg.yaml: # by hand removed"]
    many = texts(_kubeadm.config_reasons("\n".join(map(str, range(40))), new, True))
    assert len(many) == 1
    assert many[0].endswith("lines differ")


def test_members_in_initial_cluster() -> None:
    """All members when it is founded or joins. After that only itself, so that etcd refuses to start without its data."""

    def flags(**changes: Any) -> dict[str, str]:
        return {
            name: value for name, value in _kubeadm.arguments(spec(**changes)) if name.startswith("initial-cluster")
        }

    everybody = "infra0=https://10.0.0.6:2380,infra1=https://10.0.0.7:2380,infra2=https://10.0.0.8:2380"
    assert flags(initial_cluster_token="t") == {
        "initial-cluster": everybody,
        "initial-cluster-state": "new",
        "initial-cluster-token": "t",
    }
    joining = {"initial-cluster": everybody, "initial-cluster-state": "existing"}
    assert flags(initial_cluster_state="existing", initial_cluster_token="t") == joining
    assert flags(initial_cluster_state="existing", published=True)["initial-cluster"] == "infra0=https://10.0.0.6:2380"
    # In a cluster that is being founded, no member has run.
    assert flags(published=True)["initial-cluster"] == everybody


@pytest.mark.parametrize(
    ("text", "directory"),
    [
        (_kubeadm.render_config(spec(data_dir="/srv/etcd")), "/srv/etcd"),
        ("etcd:\n  local:\n    dataDir: /var/lib/etcd\n", "/var/lib/etcd"),
        ("", None),
    ],
    ids=["ours", "by hand", "none"],
)
def test_the_data_directory_of_a_configuration(text: str, directory: str | None) -> None:
    assert _kubeadm.data_dir_in(text) == directory


def program(tmp_path: Path, script: str) -> str:
    path = tmp_path / "kubeadm"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("echo 'error: something is wrong' >&2; echo 'To see it execute with --v=5 or higher' >&2; exit 3",
         r"failed \(exit code 3\): something is wrong$"),
        ("exit 1", "no error message"),
        ("exec sleep 60", "did not end within 1 s"),
        ("echo nonsense", "printed 'nonsense', which is not a version"),
    ],
)  # fmt: skip
def test_a_kubeadm_that_does_not_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, words: str
) -> None:
    monkeypatch.setattr(_kubeadm, "TIMEOUT", 1.0)
    with pytest.raises(EtcdError, match=words):
        _kubeadm.find_kubeadm_version(program(tmp_path, script))


def test_no_kubeadm(tmp_path: Path) -> None:
    with pytest.raises(EtcdError, match=r"is not installed\. Install kubeadm 1\.32 to 1\.37"):
        _kubeadm.find_kubeadm_version(str(tmp_path / "kubeadm"))
    (tmp_path / "kubeadm").write_text("x")
    with pytest.raises(EtcdError, match="cannot be run"):
        _kubeadm.find_kubeadm_version(str(tmp_path / "kubeadm"))


@pytest.mark.parametrize("script", ["exit 0", "exit 1", 'mkdir -p "$KUBEADM_INIT_DRYRUN_DIR"; exit 1', "exec sleep 60"])
def test_the_private_directory_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    monkeypatch.setattr(_kubeadm, "TIMEOUT", 1.0)
    seen = tmp_path / "seen"
    with pytest.raises(EtcdError):
        _kubeadm.render_manifest("", program(tmp_path, f'echo "$KUBEADM_INIT_DRYRUN_DIR" > {seen}; {script}'))
    directory = Path(seen.read_text().strip()).parent
    assert directory.name.startswith("kubeadm-etcd-")
    assert not directory.exists()


@pytest.mark.parametrize(
    ("kubeadm", "changed", "stops"),
    [
        # Problems of values that are in no certificate do not stop a renewal.
        ("v1.31.14", {}, PROCESSES),
        ("v1.36.3", {"kubernetes_version": "v1.34.4"}, PROCESSES),
        ("v1.36.3", {"image_tag": "bad tag!"}, PROCESSES),
        ("v1.36.3", {"extra_args": {"name": "x"}}, PROCESSES),
        ("v1.36.3", {"extra_envs": {"ETCD_NAME": "x"}}, PROCESSES),
        ("v1.36.3", {"client_port": 70000}, PROCESSES),
        ("v1.36.3", {"data_dir": "/var/lib"}, PROCESSES),
        ("v1.36.3", {"startup_timeout": "soon"}, PROCESSES),
        ("v1.33.6", {"encryption_algorithm": "ECDSA-P384"}, PROCESSES),
        # Those of values in certificates do.
        ("v1.36.3", {"encryption_algorithm": "Ed25519"}, EVERYTHING),
        ("v1.36.3", {"address": "10.0.0.9"}, EVERYTHING),
        ("v1.36.3", {"server_cert_sans": ["Bad"]}, EVERYTHING),
        ("v1.36.3", {"certificate_validity_period": "0s"}, EVERYTHING),
    ],
    ids=str,
)
def test_what_a_problem_of_the_configuration_stops(
    kubeadm: str, changed: dict[str, Any], stops: tuple[str, ...]
) -> None:
    changed.setdefault("kubernetes_version", kubeadm)
    found = config_problems(spec(**changed), parse_version(kubeadm))
    assert found and {problem.stops for problem in found} == {stops}


def test_a_newer_kubeadm_is_used_as_the_newest_known_one_if_asked() -> None:
    assert "etcd_allow_untested_kubeadm" in problems("v1.38.0")[0]
    assert problems("v1.38.0", allow_untested_kubeadm=True) == []
    newest, newer = (spec(kubernetes_version=version) for version in ("v1.37.2", "v1.38.0"))
    assert _kubeadm.etcd_version(newer, parse_version("v1.38.0")) == _kubeadm.etcd_version(
        newest, parse_version("v1.37.2")
    )
    assert _kubeadm.writes_new_flags(newer, parse_version("v1.38.0"))
    # Its rules are those of the newest one.
    assert problems("v1.38.0", allow_untested_kubeadm=True, image_tag="3.5.21-0") != []
    assert problems("v1.31.14", allow_untested_kubeadm=True) != []


@pytest.mark.parametrize("name", ["initial-cluster-token", "initial-cluster-state"])
def test_flags_that_determine_the_cluster_id_cannot_be_set(name: str) -> None:
    """Members with different tokens never form a quorum."""
    variable = "ETCD_" + name.upper().replace("-", "_")
    assert "must not be set" in problems(extra_args={name: "x"})[0]
    assert "must not be set" in problems(extra_envs={variable: "x"})[0]


GIB = 1 << 30


@pytest.mark.parametrize(
    ("wanted", "database", "probe", "timeout"),
    [
        ("", 0, None, ""),
        ("", 20 << 10, 24, ""),
        ("", GIB, 24, ""),
        ("", GIB + 1, 24, "6m"),
        ("", 2 * GIB, 24, "6m"),
        # The steps double, so that a growing database rarely changes the value.
        ("", 5 * GIB, 24, "12m"),
        ("", 8 * GIB, 24, "12m"),
        ("", 9 * GIB, 24, "20m"),
        # Never less than the installed value, which was raised by hand or for a larger database.
        ("", 0, 120, "20m"),
        ("", 5 * GIB, 120, "20m"),
        ("", 0, 25, "5m"),
        ("", 0, 3, ""),
        # A value that is set is taken, up and down.
        ("90s", 8 * GIB, 120, "90s"),
        ("1h", 0, 24, "1h"),
        # But a member that joined keeps the half hour that a learner has, so that the next run does not restart it.
        ("90s", 0, 180, "30m"),
        ("1h", 0, 180, "1h"),
    ],
)
def test_how_long_etcd_may_take_to_start(wanted: str, database: int, probe: int | None, timeout: str) -> None:
    manifest = None if probe is None else f"spec:\n    startupProbe:\n      failureThreshold: {probe}\n      httpGet:\n"
    assert _kubeadm.startup_timeout(wanted, database, manifest) == timeout


def test_the_startup_timeout_is_kubeadm_s() -> None:
    """kubeadm makes the startup probe of it: one try in ten seconds (run with 1.36.3: 6m0s is 36, 90s is 9)."""
    assert "timeouts" not in documents(_kubeadm.render_config(spec()))[0]
    rendered = documents(_kubeadm.render_config(spec(startup_timeout="15m")))[0]
    assert rendered["timeouts"] == {"controlPlaneComponentHealthCheck": "15m"}
    assert all(not problems(startup_timeout=text) for text in ("", "90s", "15m", "1h30m", "24h"))
    assert all(problems(startup_timeout=text) for text in ("0s", "25h", "15", "15 m", "-5m"))


def test_values_of_variables_are_not_shown() -> None:
    """They may be secrets. Only the change is shown."""
    before = _kubeadm.render_config(spec(extra_envs={"TOKEN": "old-secret", "SAME": "kept-secret"}))
    after = _kubeadm.render_config(
        spec(extra_envs={"TOKEN": "new-secret", "SAME": "kept-secret", "MORE": "more-secret"})
    )
    reasons = texts(_kubeadm.config_reasons(before, after, True))
    assert reasons == [
        "kubeadmcfg.yaml: variable TOKEN has another value",
        'kubeadmcfg.yaml: - {name: "MORE", value: (hidden)} added',
    ]
    diff = _kubeadm.shown_diff("/x", before, after)
    assert "secret" not in str(diff) and 'name: "TOKEN", value: (hidden, changed)}' in diff["after"]
    assert "(hidden, changed)" not in diff["before"]
    # Flags are shown, as before.
    assert "10.0.0.6" in diff["after"] and _kubeadm.shown_diff("/x", None, after)["before"] == ""
