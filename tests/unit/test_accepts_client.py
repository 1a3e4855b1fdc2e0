"""Whether a server accepts a client certificate, with a real TLS server that trusts one of two CAs."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

pytest.importorskip("cryptography")

from ansible_collections.kubeadm.etcd.plugins.module_utils._etcd.client import accepts_client
from ansible_collections.kubeadm.etcd.plugins.module_utils._pki import making as _making
from ansible_collections.kubeadm.etcd.plugins.module_utils._pki import x509 as _x509

NOW = datetime.now(timezone.utc)


def authority(where: Path, name: str) -> None:
    """A CA and a client certificate of it: NAME-ca.crt, NAME.crt, NAME.key. Both CAs have the same name, as kubeadm's have."""
    ca_key, key = _making.make_key("ECDSA-P256"), _making.make_key("ECDSA-P256")
    issuer = _making.subject_name("etcd-ca")
    period = (NOW - timedelta(hours=1), NOW + timedelta(hours=1))
    # OpenSSL tells the CAs apart by these identifiers, before it checks signatures. Go sends the same alert in both cases.
    key_id = _making.key_identifier(ca_key.public_key(), True)
    of_ca = _making.extensions(True, (), [], key_id=key_id)
    ca = _making.make_certificate(issuer, issuer, ca_key.public_key(), ca_key, period, of_ca)
    wanted = _making.extensions(False, ["serverAuth", "clientAuth"], ["localhost"], issuer_key_id=key_id)
    leaf = _making.make_certificate(_making.subject_name("x"), issuer, key.public_key(), ca_key, period, wanted)
    (where / f"{name}-ca.crt").write_text(_x509.certificate_pem(ca))
    (where / f"{name}.crt").write_text(_x509.certificate_pem(leaf))
    (where / f"{name}.key").write_bytes(_making.key_pem(key))


@contextlib.contextmanager
def server(where: Path, version: ssl.TLSVersion | None, trusts: str = "ours") -> Iterator[int]:
    """Its port. version: the only one of TLS that it speaks; None: plain text."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    if version:
        context.minimum_version = context.maximum_version = version
    context.load_cert_chain(where / "ours.crt", where / "ours.key")
    context.load_verify_locations(where / f"{trusts}-ca.crt")
    context.verify_mode = ssl.CERT_REQUIRED
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                plain, _peer = listener.accept()
            except OSError:
                return
            with contextlib.suppress(OSError), plain, context.wrap_socket(
                plain, server_side=True
            ) if version else plain as shown:
                shown.recv(100)
                shown.sendall(b"HTTP/1.0 200 OK\r\n\r\n")

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(timeout=5)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("name", ["ours", "theirs"])
def test_a_server_accepts_only_clients_of_the_cas_that_it_trusts(
    tmp_path: Path, version: ssl.TLSVersion, name: str
) -> None:
    authority(tmp_path, "ours")
    authority(tmp_path, "theirs")
    with server(tmp_path, version) as port:
        pair = (str(tmp_path / f"{name}.crt"), str(tmp_path / f"{name}.key"))
        assert accepts_client("127.0.0.1", port, *pair) is (name == "ours")


def test_no_answer_without_a_server_or_a_valid_pair(tmp_path: Path) -> None:
    """No server, one that speaks something else, and files that are no pair."""
    authority(tmp_path, "ours")
    authority(tmp_path, "theirs")
    pair = (str(tmp_path / "ours.crt"), str(tmp_path / "ours.key"))
    with server(tmp_path, None) as port:
        assert accepts_client("127.0.0.1", port, *pair) is None
    assert accepts_client("127.0.0.1", port, *pair) is None
    with server(tmp_path, ssl.TLSVersion.TLSv1_2) as port:
        assert accepts_client("127.0.0.1", port, pair[0], str(tmp_path / "theirs.key")) is None
        assert accepts_client("127.0.0.1", port, "/nowhere", pair[1]) is None
