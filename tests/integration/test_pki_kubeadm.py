"""Our certificates beside those that kubeadm itself makes of the same configuration, field by field."""

from __future__ import annotations

import subprocess
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.kubeadm.etcd.plugins.module_utils import _pki, _pki_steps, _x509
from cryptography import x509

from .conftest import LAB

KUBEADMCFG = """---
apiVersion: kubeadm.k8s.io/v1beta4
kind: InitConfiguration
nodeRegistration: {{name: infra0}}
localAPIEndpoint: {{advertiseAddress: 10.0.0.6}}
---
apiVersion: kubeadm.k8s.io/v1beta4
kind: ClusterConfiguration
kubernetesVersion: {version}
certificatesDir: {directory}
encryptionAlgorithm: {algorithm}
etcd:
  local:
    serverCertSANs: [b.example.com, a.example.com, 192.0.2.9]
    peerCertSANs: [fd00::9]
"""
NAMES = ("etcd/ca", "etcd/server", "etcd/peer", "etcd/healthcheck-client", "apiserver-etcd-client")


def facts(path: Path) -> dict[str, Any]:
    """What has to be the same: everything but keys, serial number, signature and the second of birth."""
    it = x509.load_pem_x509_certificate(path.read_bytes())
    identifiers = (x509.SubjectKeyIdentifier, x509.AuthorityKeyIdentifier)
    return {
        "subject": it.subject.rfc4514_string(),
        "issuer": it.issuer.rfc4514_string(),
        "extensions": [
            (e.oid.dotted_string, e.critical, type(e.value) if isinstance(e.value, identifiers) else repr(e.value))
            for e in it.extensions
        ],
        "span": it.not_valid_after_utc - it.not_valid_before_utc,
        "algorithm": _x509.algorithm_of(it.public_key()),
        "signature": it.signature_algorithm_oid.dotted_string,
        "serial": it.serial_number.bit_length() <= 63,
    }


@pytest.mark.parametrize("algorithm", ["RSA-2048", "ECDSA-P384"])
@pytest.mark.parametrize("version", ["1.34.4", "1.36.3"])
def test_same_certificates(tmp_path: Path, version: str, algorithm: str) -> None:
    subprocess.run([str(LAB), "build", "--only", "kubeadm", "--kubernetes", version], check=True, timeout=1200)
    found = subprocess.run(
        [str(LAB), "programs", "--kubernetes", version], check=True, text=True, stdout=subprocess.PIPE
    )
    kubeadm = str(Path(found.stdout.strip()) / "kubeadm")
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    config = tmp_path / "kubeadmcfg.yaml"
    config.write_text(KUBEADMCFG.format(version=f"v{version}", directory=theirs, algorithm=algorithm), encoding="utf-8")
    for phase in ("etcd-ca", "etcd-server", "etcd-peer", "etcd-healthcheck-client", "apiserver-etcd-client"):
        subprocess.run([kubeadm, "init", "phase", "certs", phase, "--config", str(config)], check=True, timeout=60)

    now = datetime.now(timezone.utc)
    member = {
        "name": "infra0",
        "address": "10.0.0.6",
        "server_cert_sans": ["b.example.com", "a.example.com", "192.0.2.9"],
        "peer_cert_sans": ["fd00::9"],
        "encryption_algorithm": algorithm,
        "kubernetes_version": f"v{version}",
    }
    spec = _pki.PkiSpec.from_params(
        {**member, "pki_dir": str(ours), "work_dir": str(tmp_path / "work"), "ca_host": True}
    )
    authority = _pki_steps.step_ca(spec, None, None, "", False, now)["ca_cert"]
    asked = _pki_steps.step_request(spec, authority, False, now)["csrs"]
    signed = _pki_steps.step_sign(spec, [{**member, "host": "infra0", "csrs": asked}], False, now)["signed"]["infra0"]
    _pki_steps.step_install(spec, authority, signed, False, now)

    for name in NAMES:
        assert facts(ours / f"{name}.crt") == facts(theirs / f"{name}.crt"), name
        for kind in ("crt", "key"):
            a, b = ours / f"{name}.{kind}", theirs / f"{name}.{kind}"
            assert a.stat().st_mode == b.stat().st_mode
            assert a.read_text().splitlines()[0] == b.read_text().splitlines()[0]
    # And what kubeadm made, we take for what is wanted; the other way round tests/integration/test_site.py.
    theirs_spec = _pki.PkiSpec.from_params(
        {**member, "pki_dir": str(theirs), "work_dir": str(tmp_path / "work"), "ca_host": True}
    )
    assert _pki.observe(theirs_spec, datetime.now(timezone.utc)).reasons == []
