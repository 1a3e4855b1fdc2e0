"""Names of CAs in the request of a server for a certificate. Real servers: tests/etcd/test_rotation.py."""

from __future__ import annotations

import hashlib
import ssl
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.kubeadm.etcd.plugins.module_utils._etcd import client as _client
from ansible_collections.kubeadm.etcd.plugins.module_utils._member import trust as _trust
from ansible_collections.kubeadm.etcd.plugins.module_utils._member.processes import Process

NAMES = [b"0\x0bone", b"0\x0canother"]


def vector(data: bytes, size: int) -> bytes:
    return len(data).to_bytes(size, "big") + data


def listed(names: list[bytes]) -> bytes:
    return vector(b"".join(vector(name, 2) for name in names), 2)


def tls_1_3(names: list[bytes]) -> bytes:
    """An empty context, and extensions: signature algorithms, then the CAs."""
    extensions = (13).to_bytes(2, "big") + vector(b"\x00\x02\x08\x04", 2)
    if names:
        extensions += (47).to_bytes(2, "big") + vector(listed(names), 2)
    return vector(b"", 1) + vector(extensions, 2)


def tls_1_2(names: list[bytes]) -> bytes:
    return vector(b"\x01\x40", 1) + vector(b"\x04\x03", 2) + listed(names)


def asked(monkeypatch: pytest.MonkeyPatch, answers: dict[Any, bytes]) -> list[str] | None:
    """The names that are read from a server with these TLS versions."""

    def shake_hands(context: Any, *_place: Any) -> None:
        body = answers.get(context.maximum_version)
        if body is not None:
            message = bytes([13]) + len(body).to_bytes(3, "big") + body
            tell: Callable[..., None] = context._msg_callback
            # Go's other messages, and ours.
            tell(None, "read", None, None, 11, b"\x0b\x00\x00\x00")
            tell(None, "write", None, None, 13, message)
            tell(None, "read", None, None, 13, message)

    class Context:
        def __init__(self, _protocol: Any) -> None:
            self.maximum_version: Any = None

    monkeypatch.setattr(_client, "_shake_hands", shake_hands)
    monkeypatch.setattr(_client.ssl, "SSLContext", Context)
    return _client.trusted_names("192.0.2.1", 2379)


HASHES = sorted(hashlib.sha256(name).hexdigest() for name in NAMES)


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ({ssl.TLSVersion.TLSv1_3: tls_1_3(NAMES)}, HASHES),
        ({ssl.TLSVersion.TLSv1_2: tls_1_2(NAMES)}, HASHES),
        ({ssl.TLSVersion.TLSv1_3: tls_1_3([])}, []),
        ({ssl.TLSVersion.TLSv1_2: tls_1_2([])}, []),
        ({}, None),
        ({ssl.TLSVersion.TLSv1_3: tls_1_3(NAMES)[:-3]}, None),
        ({ssl.TLSVersion.TLSv1_2: tls_1_2(NAMES)[:-3]}, None),
        ({ssl.TLSVersion.TLSv1_2: b""}, None),
    ],
)
def test_names(monkeypatch: pytest.MonkeyPatch, answers: dict[Any, bytes], expected: list[str] | None) -> None:
    assert asked(monkeypatch, answers) == expected


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--client-cert-auth=true", "--trusted-ca-file=/p/etcd/ca.crt"], ("10.0.0.6", 2379)),
        (["--client-cert-auth=false", "--trusted-ca-file=/p/etcd/ca.crt"], None),
        (["--client-cert-auth=true", "--trusted-ca-file=/elsewhere/ca.crt"], None),
    ],
)
def test_where_a_member_is_asked(flags: list[str], expected: Any) -> None:
    process = Process(7, 7, ["etcd", "--advertise-client-urls=https://10.0.0.6:2379", *flags])
    assert _trust.client_port_of(process, "/p") == expected
    assert _trust.trusted_by(None, "/p") is None and _trust.not_loaded(None, "/p") == ""


def test_cas_that_are_not_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In any order, and each name once: etcd names a CA once, however often the file has it."""
    stored = ["b", "a", "b"]
    monkeypatch.setattr(_trust, "read_or_say", lambda _path: (b"", ""))
    monkeypatch.setattr(_trust, "load_certificates", lambda _data: [SimpleNamespace(subject=name) for name in stored])
    monkeypatch.setattr(_trust, "name_id", lambda item: item.subject)
    monkeypatch.setattr(_trust, "common_name", lambda subject: f"CA {subject}")
    (tmp_path / "etcd").mkdir()
    file = tmp_path / "etcd" / "ca.crt"
    file.touch()
    written = file.stat().st_ctime
    started = [written + 1]
    monkeypatch.setattr(_trust, "process_started", lambda _pid: started[0])
    process = Process(7, 7, ["etcd"])
    for told, loaded in ((["a", "b"], True), (["a"], False), (["a", "b", "c"], False), (None, False)):
        monkeypatch.setattr(_trust, "trusted_by", lambda *_given, told=told: told)
        assert (_trust.not_loaded(process, str(tmp_path)) == "") is loaded
    # A renewed certificate has the name of the one before.
    monkeypatch.setattr(_trust, "trusted_by", lambda *_given: ["a", "b"])
    for began, loaded in ((-1.0, False), (0.0, False), (0.1, True)):
        started[0] = written + began
        assert (_trust.not_loaded(process, str(tmp_path)) == "") is loaded
    started[0] = written - 1
    assert "CA b and CA a" in _trust.not_loaded(process, str(tmp_path))
