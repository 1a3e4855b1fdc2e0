"""Our certificates beside those that kubeadm itself makes of the same configuration, field by field."""

from __future__ import annotations

import subprocess
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.kubeadm.etcd.plugins.module_utils._pki import making as _making
from ansible_collections.kubeadm.etcd.plugins.module_utils._pki import state as _pki
from ansible_collections.kubeadm.etcd.plugins.module_utils._pki import steps as _pki_steps
from ansible_collections.kubeadm.etcd.plugins.module_utils._pki import x509 as _x509
from cryptography import x509

from .conftest import LAB

KUBEADMCFG = """---
apiVersion: kubeadm.k8s.io/v1beta4
kind: InitConfiguration
nodeRegistration: {{name: infra0}}
localAPIEndpoint: {{advertiseAddress: "{address}"}}
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


PHASES = ("etcd-ca", "etcd-server", "etcd-peer", "etcd-healthcheck-client", "apiserver-etcd-client")
PURPOSES = {"etcd/server": ("sslserver", "sslclient"), "etcd/peer": ("sslserver", "sslclient")}


@pytest.mark.parametrize(
    ("version", "algorithm", "address"),
    [
        ("1.34.4", "RSA-2048", "10.0.0.6"),
        ("1.34.4", "ECDSA-P384", "fd00::6"),
        *(
            ("1.36.3", algorithm, address)
            for algorithm in _pki.ARGUMENTS["encryption_algorithm"]["choices"]
            for address in ("10.0.0.6", "fd00::6")
        ),
    ],
)
def test_same_certificates(tmp_path: Path, version: str, algorithm: str, address: str) -> None:
    """Ours and kubeadm's differ in keys, serial numbers and times only, and each of us takes the other's."""
    subprocess.run([str(LAB), "build", "--only", "kubeadm", "--kubernetes", version], check=True, timeout=1200)
    found = subprocess.run(
        [str(LAB), "programs", "--kubernetes", version], check=True, text=True, stdout=subprocess.PIPE
    )
    kubeadm = str(Path(found.stdout.strip()) / "kubeadm")
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    config = tmp_path / "kubeadmcfg.yaml"

    def phases(directory: Path) -> list[str]:
        """What kubeadm says while it makes certificates in a directory, or finds them there."""
        text = KUBEADMCFG.format(version=f"v{version}", directory=directory, algorithm=algorithm, address=address)
        config.write_text(text, encoding="utf-8")
        return [
            subprocess.run(
                [kubeadm, "init", "phase", "certs", phase, "--config", str(config)],
                check=True,
                timeout=120,
                text=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            ).stdout
            for phase in PHASES
        ]

    assert all("Generating" in text for text in phases(theirs))

    now = datetime.now(timezone.utc)
    member = {
        "name": "infra0",
        "address": address,
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
            mine, other = a.stat(), b.stat()
            assert (mine.st_mode, mine.st_uid, mine.st_gid) == (other.st_mode, other.st_uid, other.st_gid)
            assert a.read_text().splitlines()[0] == b.read_text().splitlines()[0]
    # The identifier of the CA's key is derived as kubeadm derives it.
    for directory in (ours, theirs):
        ca = _x509.load_certificate((directory / "etcd" / "ca.crt").read_bytes())
        wanted = _making.key_identifier(ca.public_key(), spec.sha256_ski).hex()
        leaf = _x509.load_certificate((directory / "etcd" / "peer.crt").read_bytes())
        assert _x509.key_identifier_of(ca) == wanted == _x509.key_identifier_of(leaf, of_issuer=True)
    # openssl takes ours for what they are there for.
    for name in NAMES[1:]:
        for purpose in PURPOSES.get(name, ("sslclient",)):
            subprocess.run(
                ["openssl", "verify", "-x509_strict", "-purpose", purpose, "-CAfile", str(ours / "etcd" / "ca.crt")]
                + [str(ours / f"{name}.crt")],
                check=True,
                timeout=30,
            )
    # kubeadm takes each of ours for its own, and changes nothing.
    before = {path: path.read_bytes() for path in ours.rglob("*.*")}
    assert all("Using existing" in text and "Generating" not in text for text in phases(ours))
    assert {path: path.read_bytes() for path in ours.rglob("*.*")} == before
    # And what kubeadm made, we take for what is wanted.
    theirs_spec = _pki.PkiSpec.from_params(
        {**member, "pki_dir": str(theirs), "work_dir": str(tmp_path / "work"), "ca_host": True}
    )
    assert _pki.observe(theirs_spec, datetime.now(timezone.utc)).reasons == []
