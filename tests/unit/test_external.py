"""The stanza for kubeadm, read by a parser that we did not write."""

from __future__ import annotations

import pytest
import yaml
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.external import external_stanza

PKI = "/etc/kubernetes/pki"
MEMBERS = [{"name": "infra0", "address": "10.0.0.6"}, {"name": "infra1", "address": "fd00::7"}]


@pytest.mark.parametrize("version", ["", "v1.36.3"])
def test_what_kubeadm_reads(version: str) -> None:
    external = {
        "endpoints": ["https://10.0.0.6:2479", "https://[fd00::7]:2479"],
        "caFile": f"{PKI}/etcd/ca.crt",
        "certFile": f"{PKI}/apiserver-etcd-client.crt",
        "keyFile": f"{PKI}/apiserver-etcd-client.key",
    }
    expected = {"apiVersion": "kubeadm.k8s.io/v1beta4", "kind": "ClusterConfiguration", "etcd": {"external": external}}
    text = external_stanza(MEMBERS, 2479, version)
    assert yaml.safe_load(text) == {**expected, **({"kubernetesVersion": version} if version else {})}
    assert text.endswith("\n") and not text.endswith("\n\n")
