# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""etcd.yaml compared by meaning, and the files beside it."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
from ansible_collections.kubeadm.etcd.plugins.module_utils._host.kubeadm import (
    check_other_pods,
    manifest_arguments,
    manifest_image,
    manifest_reasons,
    parse_scalar,
    shown_diff,
)
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.errors import EtcdError
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.reasons import texts

# What kubeadm 1.36.3 writes, shortened.
MANIFEST = """\
apiVersion: v1
kind: Pod
metadata:
  annotations:
    kubeadm.kubernetes.io/etcd.advertise-client-urls: https://10.0.0.6:2379
  labels:
    component: etcd
    tier: control-plane
  name: etcd
  namespace: kube-system
spec:
  containers:
  - command:
    - etcd
    - --data-dir=/var/lib/etcd
    - --snapshot-count=10000
    - --name=infra0
    - --initial-cluster=infra0=https://10.0.0.6:2380,infra1=https://10.0.0.7:2380
    - --initial-cluster-state=new
    - --quota-backend-bytes=2
    - --cors=a
    - --cors=b
    - '--quoted=a: ''b'''
    - "--tab=a\\tb"
    - --long=aaaaaaaaaaaaaaaaaaaaaaaa bbbbbbbbbbbbbbbbbbbbbbbbbbbb cccccccccccccccccccc
      dddddddddddddddddddd
    env:
    - name: GOMAXPROCS
      value: "2"
    image: registry.k8s.io/etcd:3.6.8-0
    imagePullPolicy: IfNotPresent
    livenessProbe:
      failureThreshold: 8
      httpGet:
        host: 127.0.0.1
        path: /livez
        port: probe-port
        scheme: HTTP
      initialDelaySeconds: 10
    name: etcd
    startupProbe:
      failureThreshold: 24
      httpGet:
        host: 127.0.0.1
        path: /readyz
        port: probe-port
        scheme: HTTP
  hostNetwork: true
  volumes:
  - hostPath:
      path: /etc/kubernetes/pki/etcd
      type: DirectoryOrCreate
    name: etcd-certs
status: {}
"""


def test_the_command_line() -> None:
    assert manifest_arguments(MANIFEST) == [
        "etcd",
        "--data-dir=/var/lib/etcd",
        "--snapshot-count=10000",
        "--name=infra0",
        "--initial-cluster=infra0=https://10.0.0.6:2380,infra1=https://10.0.0.7:2380",
        "--initial-cluster-state=new",
        "--quota-backend-bytes=2",
        "--cors=a",
        "--cors=b",
        "--quoted=a: 'b'",
        "--tab=a\tb",
        "--long=aaaaaaaaaaaaaaaaaaaaaaaa bbbbbbbbbbbbbbbbbbbbbbbbbbbb cccccccccccccccccccc dddddddddddddddddddd",
    ]
    assert manifest_image(MANIFEST) == "registry.k8s.io/etcd:3.6.8-0"
    assert manifest_arguments("") == []
    assert manifest_image("") is None


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a", "a"),
        ("'a''b'", "a'b"),
        ('"a\\"b"', 'a"b'),
        ('"broken\\"', '"broken\\"'),
        ("'", "'"),
        ("", ""),
        ('"\\u00e9"', "é"),
    ],
)
def test_scalars(text: str, value: str) -> None:
    assert parse_scalar(text) == value


def shuffled(text: str, seed: int) -> str:
    """The same manifest with its arguments in another order, as another patch release writes it."""
    lines = text.splitlines()
    at = [number for number, line in enumerate(lines) if line.startswith("    - --") and "--long" not in line]
    items = [lines[number] for number in at]
    random.Random(seed).shuffle(items)
    for number, item in zip(at, items):
        lines[number] = item
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("has_data", [False, True])
@pytest.mark.parametrize(
    "on_disk",
    [
        MANIFEST,
        *(shuffled(MANIFEST, seed) for seed in range(5)),
        MANIFEST.replace("metadata:\n", "metadata:\n  creationTimestamp: null\n"),
        MANIFEST.replace("status: {}\n", ""),
        MANIFEST.replace("'--quoted=a: ''b'''", "\"--quoted=a: 'b'\""),
        MANIFEST.rstrip("\n"),
    ],
    ids=str,
)
def test_differences_without_a_meaning(on_disk: str, has_data: bool) -> None:
    assert manifest_reasons(on_disk, MANIFEST, has_data) == []
    assert manifest_reasons(MANIFEST, on_disk, has_data) == []


@pytest.mark.parametrize(
    ("old", "new", "reasons"),
    [
        ("--quota-backend-bytes=2", "--quota-backend-bytes=3", ["--quota-backend-bytes: 3 -> 2"]),
        ("    - --quota-backend-bytes=2\n", "", ["--quota-backend-bytes=2 added"]),
        ("    - --cors=a\n", "    - --cors=a\n    - --pre-vote=true\n", ["--pre-vote=true removed"]),
        ("    - --cors=b\n", "", ["--cors: a -> a,b"]),
        ("    - --cors=b\n", "    - --cors=a\n", ["--cors: a,a -> a,b"]),
        (
            "etcd:3.6.8-0",
            "etcd:3.6.6-0",
            ["image: registry.k8s.io/etcd:3.6.6-0 -> image: registry.k8s.io/etcd:3.6.8-0"],
        ),
        ("failureThreshold: 8", "failureThreshold: 9", ["failureThreshold: 9 -> failureThreshold: 8"]),
        # The value may be a secret.
        ('value: "2"', 'value: "3"', ["variable GOMAXPROCS has another value"]),
        ('      value: "2"\n', "", ["value: (hidden) added"]),
        ("name: GOMAXPROCS", "name: OTHER", ["- name: OTHER -> - name: GOMAXPROCS"]),
        ("  hostNetwork: true\n", "", ["hostNetwork: true added"]),
        ("      path: /etc/kubernetes/pki/etcd\n", "      path: /x\n", ["path: /x -> path: /etc/kubernetes/pki/etcd"]),
        ("  hostNetwork: true\n", "  # by hand\n  hostNetwork: true\n", ["# by hand removed"]),
        # The order of environment variables and volumes is kept by kubeadm; indentation means something in YAML.
        ("  hostNetwork: true\n", "   hostNetwork: true\n", ["hostNetwork: true -> hostNetwork: true"]),
    ],
)
def test_differences_with_a_meaning(old: str, new: str, reasons: list[str]) -> None:
    assert old in MANIFEST
    on_disk = MANIFEST.replace(old, new)
    expected = [f"etcd.yaml: {reason}" for reason in reasons]
    for has_data in (False, True):
        assert texts(manifest_reasons(on_disk, MANIFEST, has_data)) == expected


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("--initial-cluster-state=new", "--initial-cluster-state=existing", "--initial-cluster-state: existing -> new"),
        ("    - --initial-cluster-state=new\n", "", "--initial-cluster-state=new added"),
        (
            ",infra1=https://10.0.0.7:2380",
            "",
            "--initial-cluster: infra0=https://10.0.0.6:2380 -> infra0=https://10.0.0.6:2380,infra1=https://10.0.0.7:2380",
        ),
    ],
)
def test_flags_that_count_only_when_a_cluster_is_founded(old: str, new: str, reason: str) -> None:
    on_disk = MANIFEST.replace(old, new)
    assert manifest_reasons(on_disk, MANIFEST, has_data=True) == []
    assert texts(manifest_reasons(on_disk, MANIFEST, has_data=False)) == [f"etcd.yaml: {reason}"]
    # With another difference it is written too, but not shown.
    other = on_disk.replace("--cors=a", "--cors=c")
    assert texts(manifest_reasons(other, MANIFEST, has_data=True)) == ["etcd.yaml: --cors: b,c -> a,b"]


@pytest.mark.parametrize(
    "on_disk",
    ["", "garbage", "{", "apiVersion: v1\n", "\ufffd" * 10, '{"kind": "Pod"}', "  - command:\n      folded\n"],
)
def test_broken_files_differ(on_disk: str) -> None:
    assert manifest_reasons(on_disk, MANIFEST, has_data=True)
    assert texts(manifest_reasons(None, MANIFEST, has_data=True)) == ["etcd.yaml: missing"]


@pytest.mark.parametrize(
    ("name", "text", "refused"),
    [
        ("etcd.yaml", MANIFEST, False),
        (".etcd.yaml.swp", MANIFEST, False),
        ("etcd.yaml.bak", MANIFEST, True),
        ("etcd.yaml~", MANIFEST, True),
        ("old.json", '{"kind":"Pod","spec":{"containers":[{"image":"registry.k8s.io/etcd:3.5.1-0"}]}}', True),
        ("x.yaml", "spec:\n  containers:\n  - image: quay.io/coreos/etcd\n", True),
        ("x.yaml", "spec:\n  containers:\n  - command:\n    - /usr/local/bin/etcd\n    image: x\n", True),
        ("keepalived.yaml", "spec:\n  containers:\n  - image: keepalived:1\n    name: keepalived\n", False),
        ("backup.yaml", "spec:\n  containers:\n  - image: example.com/etcd-backup:1\n    name: backup\n", False),
        ("README", "etcd is run from here\n", False),
    ],
)
def test_a_second_etcd_pod(tmp_path: Path, name: str, text: str, refused: bool) -> None:
    (tmp_path / name).write_text(text)
    (tmp_path / "directory").mkdir()
    if refused:
        with pytest.raises(EtcdError, match=f"{name}.* is an etcd pod too.*one host after the other"):
            check_other_pods(str(tmp_path))
    else:
        check_other_pods(str(tmp_path))
    assert os.path.exists(tmp_path / name)


def test_no_manifests_directory(tmp_path: Path) -> None:
    check_other_pods(str(tmp_path / "missing"))


def test_the_only_manifest_of_a_member_is_not_moved_away(tmp_path: Path) -> None:
    """That would stop a live member."""
    (tmp_path / "etcd-member.yaml").write_text(MANIFEST)
    with pytest.raises(EtcdError, match=r"rename it etcd\.yaml \(`mv .*/etcd-member.yaml .*/etcd.yaml`\)"):
        check_other_pods(str(tmp_path))
    (tmp_path / "etcd.yaml").write_text(MANIFEST)
    with pytest.raises(EtcdError, match="Move the copy out of that directory"):
        check_other_pods(str(tmp_path))


@pytest.mark.parametrize(
    ("installed", "wanted", "counts", "reasons"),
    [
        (24, 60, False, []),
        (60, 24, False, []),
        (24, 60, True, ["etcd.yaml: startup probe: 240 s -> 600 s"]),
        (60, 24, True, ["etcd.yaml: startup probe: 600 s -> 240 s"]),
        (24, 24, True, []),
    ],
)
def test_the_startup_probe_alone_restarts_no_member(
    installed: int, wanted: int, counts: bool, reasons: list[str]
) -> None:
    probes = [MANIFEST.replace("failureThreshold: 24", f"failureThreshold: {number}") for number in (installed, wanted)]
    assert texts(manifest_reasons(probes[0], probes[1], True, counts)) == reasons
    # With another difference it is installed too, but not shown.
    other = probes[1].replace("--quota-backend-bytes=2", "--quota-backend-bytes=3")
    assert texts(manifest_reasons(probes[0], other, True)) == ["etcd.yaml: --quota-backend-bytes: 2 -> 3"]


ENVS = """\
    env:
    - name: EMPTY
    - name: LONG
      value: secret secret secret secret secret secret secret secret secret secret secret
        secret secret
    - name: QUOTED
      value: 'secret: ''x'''
    image: registry.k8s.io/etcd:3.6.8-0
"""


def test_values_of_variables_are_not_in_what_a_manifest_shows() -> None:
    """As kubeadm 1.36.3 writes them: folded, quoted, and an empty one without a value."""
    former = '    env:\n    - name: GOMAXPROCS\n      value: "2"\n    image: registry.k8s.io/etcd:3.6.8-0\n'
    before = MANIFEST.replace(former, ENVS)
    after = before.replace("secret secret\n    - name", "secret other\n    - name").replace("''x''", "''y''")
    assert before != MANIFEST and after != before
    diff = shown_diff("/x", before, after)
    assert "secret" not in diff["before"] + diff["after"] and "3.6.8-0" in diff["after"]
    assert diff["after"].count("value: (hidden, changed)") == 2
    assert texts(manifest_reasons(before, after, True)) == [
        "etcd.yaml: variable LONG has another value",
        "etcd.yaml: variable QUOTED has another value",
    ]
