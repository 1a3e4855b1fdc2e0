# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The same configurations with the real kubeadm of several minor versions, and the manifests that it writes."""

from __future__ import annotations

import random
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.kubeadm.etcd.plugins.module_utils._host import kubeadm as _kubeadm
from ansible_collections.kubeadm.etcd.plugins.module_utils._values import formats as _values
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.errors import EtcdError
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.reasons import texts

LAB = Path(__file__).resolve().parents[2] / "lab" / "lab"
VERSIONS = ["1.32.13", "1.34.4", "1.36.3", "1.37.2"]

V4 = [{"name": f"infra{number}", "address": f"10.0.0.{6 + number}"} for number in range(3)]
V6 = [{"name": f"infra{number}", "address": f"fd00::{6 + number}"} for number in range(3)]

# Options beside name, address and members; `minor` is the first kubeadm that takes them.
CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "one member": {"members": V4[:1]},
    "existing": {"initial_cluster_state": "existing"},
    "ipv6": {"address": "fd00::6", "members": V6, "metrics_port": 12381},
    "arguments": {
        "extra_args": {
            "quota-backend-bytes": 8589934592,
            "pre-vote": True,
            "cors": ["https://b", "https://a"],
            "log-level": "warn",
            "snapshot-count": 5000,
            "tls-min-version": "TLS1.3",
        }
    },
    "odd values": {
        "extra_args": {
            "a": 'it\'s "quoted" # no comment: really',
            "b": " outer blanks ",
            "c": "yes",
            "d": "é ü 漢 \\ back",
            "e": " ".join(f"word{number}" for number in range(60)),
            "f": "'",
            "g": "{}[]&*!|>%@`",
            "h": "a: " + " b" * 60,
            "i": "-",
        }
    },
    "environment": {"extra_envs": {"GOMAXPROCS": 2, "B": "yes", "A": "x: 'y'", "EMPTY": ""}},
    "sans": {"server_cert_sans": ["etcd.example.com", "*.example.com", "10.9.9.9"], "peer_cert_sans": ["fd00::9"]},
    **{
        algorithm: {"encryption_algorithm": algorithm}
        for algorithm in ("RSA-2048", "RSA-3072", "RSA-4096", "ECDSA-P256", "ECDSA-P384")
    },
    "periods": {"certificate_validity_period": "100h30m", "ca_certificate_validity_period": "87600h0m0s"},
    "ports": {"client_port": 12379, "peer_port": 12380, "metrics_port": 12381},
    "directories": {"data_dir": "/srv/etcd", "pki_dir": "/srv/pki"},
    "image": {"image_repository": "registry.example.com:5000/k8s", "image_tag": "3.6.8-0"},
    "digest": {"image_tag": "3.6.8-0@sha256:" + "a" * 64},
}
NEEDS_MINOR = {"ECDSA-P384": 34}


@pytest.fixture(scope="session")
def kubeadms() -> dict[str, str]:
    """Path of kubeadm by version; built where it is not cached, and a failure where that does not work."""
    found = {}
    for version in VERSIONS:
        argv = [str(LAB), "build", "--only", "kubeadm", "--kubernetes", version]
        done = subprocess.run(argv, text=True, capture_output=True, timeout=3600, check=False)
        assert done.returncode == 0, f"{' '.join(argv)} failed: {done.stderr[-2000:]}"
        found[version] = done.stdout.split()[-1]
    return found


def wanted(name: str, version: str) -> _kubeadm.ConfigSpec:
    params = {"name": "infra0", "address": "10.0.0.6", "members": V4, "kubernetes_version": f"v{version}"}
    return _kubeadm.ConfigSpec.from_params({**params, **CONFIGURATIONS[name]})


def shuffled(manifest: str, seed: int) -> str:
    """The same manifest with its arguments in another order, as 1.34.3 and 1.34.4 write it."""
    document = yaml.safe_load(manifest)
    command = document["spec"]["containers"][0]["command"]
    lines = manifest.splitlines()
    start = lines.index("    - etcd")
    end = next(number for number in range(start, len(lines)) if not lines[number].startswith(("    - ", "      ")))
    items: list[list[str]] = []
    for line in lines[start + 1 : end]:
        if line.startswith("    - "):
            items.append([line])
        else:
            items[-1].append(line)
    assert len(items) == len(command) - 1
    random.Random(seed).shuffle(items)
    mixed = [*lines[: start + 1], *(line for item in items for line in item), *lines[end:]]
    return "\n".join(mixed) + "\n"


@pytest.mark.parametrize("version", VERSIONS)
def test_the_version_found(kubeadms: dict[str, str], version: str) -> None:
    assert str(_kubeadm.find_kubeadm_version(kubeadms[version])) == f"v{version}"


@pytest.mark.parametrize("name", CONFIGURATIONS)
@pytest.mark.parametrize("version", VERSIONS)
def test_configuration_and_manifest(kubeadms: dict[str, str], version: str, name: str) -> None:
    program, spec = kubeadms[version], wanted(name, version)
    kubeadm = _kubeadm.parse_version(f"v{version}")
    problems = [problem.text for problem in _kubeadm.config_problems(spec, kubeadm)]
    if kubeadm.minor < NEEDS_MINOR.get(name, 0):
        assert problems
        with pytest.raises(EtcdError, match=name):
            _kubeadm.validate_config(_kubeadm.render_config(spec), program)
        return
    assert problems == []
    text = _kubeadm.render_config(spec)
    _kubeadm.validate_config(text, program)
    manifest = _kubeadm.render_manifest(text, program)

    # Our reader, which has no YAML parser, agrees with a YAML parser.
    container = yaml.safe_load(manifest)["spec"]["containers"][0]
    command = _kubeadm.manifest_arguments(manifest)
    assert command == container["command"]
    assert _kubeadm.manifest_image(manifest) == container["image"]
    # Every argument of ours and of the user is there, once for each time it was written.
    ours = [f"--{flag}={value}" for flag, value in _kubeadm.arguments(spec)]
    assert sorted(item for item in command if item in ours) == sorted(ours)
    written = {flag for flag, _value in _kubeadm.arguments(spec)}
    assert len([item for item in command if item[2:].split("=")[0] in written]) == len(ours)
    # kubeadm adds the flags that our checks expect.
    base = {item[2:].split("=")[0] for item in command[1:]} - written
    style = _kubeadm._NEW_FLAGS if _kubeadm.writes_new_flags(spec, kubeadm) else _kubeadm._OLD_FLAGS
    assert base - {*_values.OWNED_FLAGS, *_kubeadm._BASE_FLAGS} == set(style)

    environment = {item["name"]: item.get("value", "") for item in container.get("env", [])}
    assert environment == {key: _kubeadm.scalar_text(value) for key, value in spec.extra_envs.items()}
    port = container.get("ports", [{"containerPort": container["livenessProbe"]["httpGet"]["port"]}])[0]
    assert port["containerPort"] == spec.metrics_port

    for has_data in (False, True):
        assert _kubeadm.manifest_reasons(manifest, manifest, has_data) == []
        assert _kubeadm.manifest_reasons(shuffled(manifest, 1), manifest, has_data) == []
    state = manifest.replace("initial-cluster-state=new", "initial-cluster-state=existing")
    assert _kubeadm.manifest_reasons(state, manifest, has_data=True) == []


@pytest.mark.parametrize("version", VERSIONS)
def test_the_default_image_is_the_expected_one(kubeadms: dict[str, str], version: str) -> None:
    kubeadm = _kubeadm.parse_version(f"v{version}")
    for target in (f"v{version}", f"v1.{kubeadm.minor - 1}.0"):
        params = {"name": "infra0", "address": "10.0.0.6", "members": V4, "kubernetes_version": target}
        spec = _kubeadm.ConfigSpec.from_params(params)
        assert _kubeadm.config_problems(spec, kubeadm) == []
        manifest = _kubeadm.render_manifest(_kubeadm.render_config(spec), kubeadms[version])
        tag = str(_kubeadm.manifest_image(manifest)).rsplit(":", 1)[1]
        etcd = _kubeadm.etcd_version(spec, kubeadm)
        assert etcd and etcd.branch == ".".join(tag.split(".")[:2])
        assert ("feature-gates" in manifest) is _kubeadm.writes_new_flags(spec, kubeadm)


@pytest.mark.parametrize("tag", ["3.6.4-0", "v3.6.5", "3.7.2", "3.5.21-0", "3.6", "latest", "3.6.0-rc.0", "3.6.0-0"])
@pytest.mark.parametrize("version", VERSIONS)
def test_which_flags_it_writes_for_a_tag(kubeadms: dict[str, str], version: str, tag: str) -> None:
    params = {"name": "infra0", "address": "10.0.0.6", "members": V4, "image_tag": tag}
    spec = _kubeadm.ConfigSpec.from_params({**params, "kubernetes_version": f"v{version}"})
    manifest = _kubeadm.render_manifest(_kubeadm.render_config(spec), kubeadms[version])
    new = _kubeadm.writes_new_flags(spec, _kubeadm.parse_version(f"v{version}"))
    assert ("--feature-gates=" in manifest, "--experimental-" in manifest) == (new, not new)


def test_a_newer_kubeadm_keeps_our_arguments(kubeadms: dict[str, str]) -> None:
    spec = wanted("arguments", "1.36.3")
    manifests = {
        version: _kubeadm.render_manifest(_kubeadm.render_config(wanted("arguments", version)), kubeadms[version])
        for version in VERSIONS
    }
    flags = {f"--{flag}" for flag, _value in _kubeadm.arguments(spec)}
    values = [
        {flag: found for flag, found in _kubeadm.by_flag(_kubeadm.manifest_arguments(text)).items() if flag in flags}
        for text in manifests.values()
    ]
    assert all(item == values[0] for item in values)
    # From 1.36 to 1.37 only the image differs, which is one line in the plan.
    assert texts(_kubeadm.manifest_reasons(manifests["1.36.3"], manifests["1.37.2"], has_data=True)) == [
        "etcd.yaml: image: registry.k8s.io/etcd:3.6.8-0 -> image: registry.k8s.io/etcd:3.7.0-0"
    ]


@pytest.mark.parametrize("version", VERSIONS)
def test_kubeadm_s_own_words(kubeadms: dict[str, str], version: str) -> None:
    text = _kubeadm.render_config(wanted("plain", version))
    with pytest.raises(EtcdError, match=r"unknown field.*etdc") as caught:
        _kubeadm.validate_config(text.replace("etcd:", "etdc:"), kubeadms[version])
    assert "stack trace" not in str(caught.value)
    with pytest.raises(EtcdError, match="failed"):
        _kubeadm.render_manifest(text.replace("apiVersion", "version"), kubeadms[version])
    external = text[: text.index("    dataDir")].replace("local:", "external: {endpoints: [https://10.0.0.6:2379]}")
    with pytest.raises(EtcdError, match="wrote no manifest"):
        _kubeadm.render_manifest(external, kubeadms[version])
