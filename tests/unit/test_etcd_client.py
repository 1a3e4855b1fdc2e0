"""The client of the gateway with servers that are not etcd: it always ends in time with a clear message."""

from __future__ import annotations

import functools
import json
import os
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("cryptography")

from ansible_collections.kubeadm.etcd.plugins.module_utils._etcd import client as _etcd_client
from ansible_collections.kubeadm.etcd.plugins.module_utils._etcd import health as _health
from ansible_collections.kubeadm.etcd.plugins.module_utils._etcd.client import Alarm, EtcdUnreachableError, Status
from ansible_collections.kubeadm.etcd.plugins.module_utils._pki import making as _making
from ansible_collections.kubeadm.etcd.plugins.module_utils._pki import x509 as _x509

NOW = datetime.now(timezone.utc).replace(microsecond=0)
TIMEOUT = 0.8
# Seconds that a call may take longer than its timeout.
SLACK = 1.5

if TYPE_CHECKING:
    # Python 3.8 cannot evaluate it.
    Talk = Callable[[Any], None]


@functools.lru_cache(maxsize=None)
def rsa_key(algorithm: str) -> Any:
    """One for all: a key of RSA-4096 takes seconds to make."""
    return _making.make_key(algorithm)


def pair(
    where: Path,
    name: str,
    sans: list[str],
    signer: Any = None,
    days: tuple[int, int] = (-1, 30),
    algorithm: str = "ECDSA-P256",
) -> Any:
    """A key with certificate in files of this name; returns what signs with it. signer: (name, key), else its own."""
    key = rsa_key(algorithm) if algorithm.startswith("RSA") else _making.make_key(algorithm)
    subject = _making.subject_name(name)
    issuer, issuing_key = signer or (subject, key)
    extensions = _making.extensions(signer is None, () if signer is None else ("serverAuth", "clientAuth"), sans)
    period = (NOW + timedelta(days=days[0]), NOW + timedelta(days=days[1]))
    certificate = _making.make_certificate(subject, issuer, key.public_key(), issuing_key, period, extensions)
    (where / f"{name}.crt").write_text(_x509.certificate_pem(certificate), encoding="ascii")
    (where / f"{name}.key").write_bytes(_making.key_pem(key))
    return subject, key


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Certificates of our CA, good and bad, and of another CA."""
    where = tmp_path_factory.mktemp("pki")
    ours, other = pair(where, "ca", ["ca"]), pair(where, "other-ca", ["other-ca"])
    pair(where, "server", ["127.0.0.1"], ours)
    pair(where, "client", ["client"], ours)
    pair(where, "elsewhere", ["10.9.8.7", "etcd.example.com"], ours)
    pair(where, "expired", ["127.0.0.1"], ours, (-20, -10))
    pair(where, "future", ["127.0.0.1"], ours, (10, 20))
    pair(where, "foreign", ["127.0.0.1"], other)
    return where


@contextmanager
def server(talk: Talk) -> Iterator[int]:
    """A port on which each connection is given to `talk`, in a thread of its own."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve(connection: Any) -> None:
        with connection, suppress(OSError):
            talk(connection)

    def accept() -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield listener.getsockname()[1]
    finally:
        # A thread that waits in accept would keep the port open.
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def over_tls(
    pki: Path,
    talk: Talk,
    name: str = "server",
    clients_of: str = "ca",
    newest: ssl.TLSVersion = ssl.TLSVersion.MAXIMUM_SUPPORTED,
) -> Talk:
    """The same over TLS, with a certificate of this name, for clients of this CA. newest: the latest version of TLS."""

    def wrapped(connection: Any) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(str(pki / f"{name}.crt"), str(pki / f"{name}.key"))
        context.load_verify_locations(str(pki / f"{clients_of}.crt"))
        context.verify_mode = ssl.CERT_REQUIRED
        context.maximum_version = newest
        with context.wrap_socket(connection, server_side=True) as tls:
            talk(tls)

    return wrapped


def refuse(pki: Path) -> Talk:
    """A server that refuses our certificate and closes before the client reads the alert. Impossible with TLS 1.2."""

    def talk(connection: Any) -> None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        over_tls(pki, hold, clients_of="other-ca")(connection)

    return talk


def hold(connection: Any) -> None:
    """Send nothing until the client gives up."""
    while connection.recv(4096):
        pass


def drip(connection: Any) -> None:
    """An endless answer, byte by byte, each of them within the timeout."""
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
    while True:
        connection.sendall(b" ")
        time.sleep(TIMEOUT / 10)


def flood(connection: Any) -> None:
    """An answer without end."""
    connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
    while True:
        connection.sendall(b"x" * 65536)


def slow_headers(connection: Any) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\n")
    while True:
        connection.sendall(b"X-More: 1\r\n")
        time.sleep(TIMEOUT / 10)


def http(*answers: tuple[int, str]) -> Talk:
    """A server that gives these answers, one after the other, over one connection."""

    def talk(connection: Any) -> None:
        for status, text in answers:
            asked = b""
            while b"\r\n\r\n" not in asked:
                got = connection.recv(4096)
                if not got:
                    return
                asked += got
            body = text.encode()
            head = f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
            connection.sendall(head.encode() + body)
            time.sleep(0.05)

    return talk


def plain_http(connection: Any) -> None:
    connection.recv(4096)
    connection.sendall(b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.")


def mail(connection: Any) -> None:
    connection.sendall(b"220 mail.example.com ESMTP\r\n")
    hold(connection)


def client(pki: Path, port: int) -> _etcd_client.EtcdClient:
    files = [str(pki / name) for name in ("ca.crt", "client.crt", "client.key")]
    return _etcd_client.EtcdClient(f"https://127.0.0.1:{port}", *files, timeout=TIMEOUT)


# By server: its function, the code of the error, and words of the message.
STRANGERS: dict[str, tuple[Callable[[Path], Talk], str, str]] = {
    "says nothing": (lambda _pki: hold, "timeout", "does not answer in time"),
    "closes at once": (lambda _pki: lambda _connection: None, "closed", "closes the connection"),
    "plain HTTP": (lambda _pki: plain_http, "not-tls", "speaks plain HTTP, not TLS"),
    "garbage": (
        lambda _pki: lambda connection: connection.sendall(b"\0\1\2" * 400),
        "tls",
        "fails in the TLS handshake",
    ),
    "silent over TLS": (lambda pki: over_tls(pki, hold), "timeout", "does not answer in time"),
    "slow body": (lambda pki: over_tls(pki, drip), "timeout", "does not answer in time"),
    "slow headers": (lambda pki: over_tls(pki, slow_headers), "timeout", "does not answer in time"),
    "endless body": (lambda pki: over_tls(pki, flood), "garbage", "without JSON"),
    "no HTTP": (lambda pki: over_tls(pki, mail), "garbage", "is not HTTP"),
    "other JSON": (lambda pki: over_tls(pki, http((200, '{"header": []}'))), "garbage", "JSON that is not from etcd"),
    "a list": (lambda pki: over_tls(pki, http((200, "[1]"))), "garbage", "without JSON"),
    "a page": (lambda pki: over_tls(pki, http((200, "<html>hello"))), "garbage", "The answer begins: '<html>hello'"),
    "no gateway": (lambda pki: over_tls(pki, http((404, "404 page not found"))), "no-gateway", "--enable-grpc-gateway"),
    "authentication": (
        lambda pki: over_tls(
            pki, http((400, "CommonName of client sending a request against gateway will be ignored"))
        ),
        "auth",
        "etcdctl auth disable",
    ),
    "expired": (
        lambda pki: over_tls(pki, hold, "expired"),
        "tls-expired",
        f"expired ({NOW - timedelta(days=10):%Y-%m-%d %H:%M} UTC). Run site.yml to renew it",
    ),
    "not yet valid": (lambda pki: over_tls(pki, hold, "future"), "tls-not-yet-valid", "is not valid yet ("),
    "other names": (
        lambda pki: over_tls(pki, hold, "elsewhere"),
        "tls-san",
        "presents a certificate for 10.9.8.7, etcd.example.com only; add it to etcd_server_cert_sans",
    ),
    "another CA": (lambda pki: over_tls(pki, hold, "foreign"), "tls-unknown-ca", "the CA in our ca.crt did not sign"),
    "gone before it is read": (refuse, "tls-client-refused", "rejects our client certificate"),
    "clients of another CA": (
        lambda pki: over_tls(pki, hold, clients_of="other-ca"),
        "tls-client-refused",
        "rejects our client certificate",
    ),
}


@pytest.mark.parametrize("who", STRANGERS)
def test_servers_that_are_not_etcd(pki: Path, who: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # In time also on a slow machine.
    monkeypatch.setattr(_etcd_client, "MOST_BYTES", 1 << 16)
    talk, code, words = STRANGERS[who]
    with server(talk(pki)) as port, client(pki, port) as asking:
        begin = time.monotonic()
        with pytest.raises(EtcdUnreachableError) as caught:
            asking.status()
        assert time.monotonic() - begin < TIMEOUT + SLACK
    assert (caught.value.code, words in str(caught.value)) == (code, True), str(caught.value)
    assert str(caught.value).startswith(f"https://127.0.0.1:{port} ")


def test_a_closed_port(pki: Path) -> None:
    with server(hold) as port:
        pass
    with pytest.raises(EtcdUnreachableError, match="refuses connections") as caught:
        client(pki, port).status()
    assert caught.value.code == "refused"


@pytest.mark.parametrize("who", STRANGERS)
def test_health_of_servers_that_are_not_etcd_ends_in_time(pki: Path, who: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # A busy machine needs longer than TIMEOUT to read 4 MiB three times.
    monkeypatch.setattr(_etcd_client, "MOST_BYTES", 1 << 16)
    with server(STRANGERS[who][0](pki)) as port:
        begin = time.monotonic()
        paths = (str(pki / "ca.crt"), str(pki / "client.crt"), str(pki / "client.key"))
        seen = _health.look_at_all([("infra0", f"https://127.0.0.1:{port}")] * 3, paths, TIMEOUT)
        assert time.monotonic() - begin < TIMEOUT + SLACK
    assert [item.code for item in seen] == [STRANGERS[who][1]] * 3
    report = _health.evaluate(seen, time.time(), 0)
    assert report.verdict == "unknown" and len(report.reasons) == 3


def test_a_name_server_that_is_silent(pki: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A DNS lookup has no timeout. The call still ends in time."""
    over = threading.Event()

    def look_up(*_arguments: Any, **_options: Any) -> Any:
        over.wait(10)
        raise socket.gaierror(-3, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    begin = time.monotonic()
    paths = (str(pki / "ca.crt"), str(pki / "client.crt"), str(pki / "client.key"))
    seen = _health.look_at_all([("infra0", "https://etcd.example.com:2379")], paths, TIMEOUT)
    took = time.monotonic() - begin
    over.set()
    assert seen[0].code == "timeout" and took < TIMEOUT + SLACK


@pytest.mark.parametrize(
    "url", ["10.0.0.6:2379", "http://10.0.0.6:2379", "https://", "https://10.0.0.6:x", "https://[::1"]
)
def test_invalid_endpoints(pki: Path, url: str) -> None:
    seen = _health.look("infra0", url, ("", "", ""), TIMEOUT)
    assert seen.code == "endpoint" and "Write https://ADDRESS:2379" in seen.error


@pytest.mark.parametrize("missing", ["ca.crt", "client.crt", "client.key"])
def test_missing_files_are_named(pki: Path, missing: str) -> None:
    files = [str(pki / name) + ("-gone" if name == missing else "") for name in ("ca.crt", "client.crt", "client.key")]
    with pytest.raises(EtcdUnreachableError, match="is missing or cannot be read") as caught:
        _etcd_client.EtcdClient("https://127.0.0.1:2379", *files)
    assert caught.value.code == "credentials" and missing in str(caught.value)


def test_a_certificate_without_its_key(pki: Path) -> None:
    with pytest.raises(EtcdUnreachableError, match="is not the key of"):
        _etcd_client.EtcdClient(
            "https://127.0.0.1:2379", *[str(pki / name) for name in ("ca.crt", "client.crt", "server.key")]
        )


STATUS = json.dumps(
    {
        "header": {"cluster_id": "17237436991929493444", "member_id": "9372538179322589801", "raft_term": "2"},
        "version": "3.6.14",
        "dbSize": "20480",
        "leader": "9372538179322589801",
        "raftIndex": "8",
        "raftTerm": "2",
        "raftAppliedIndex": "8",
        "dbSizeInUse": "16384",
        "errors": ["memberID:9372538179322589801 alarm:NOSPACE "],
    }
)


def test_answers_of_a_member(pki: Path) -> None:
    """All answers over one connection; numbers beyond 2^53 as they are; zero values are left out by etcd."""
    listing = {"members": [{"ID": "9372538179322589801", "name": "infra0", "peerURLs": ["x"], "clientURLs": ["y"]}]}
    answers = (
        (200, STATUS),
        (200, '{"etcdserver": "3.6.14", "etcdcluster": "3.6.0"}'),
        (200, json.dumps(listing)),
        (503, '{"health": "false", "reason": "RAFT NO LEADER"}'),
    )
    with server(over_tls(pki, http(*answers))) as port:
        paths = (str(pki / "ca.crt"), str(pki / "client.crt"), str(pki / "client.key"))
        seen = _health.look("infra0", f"https://127.0.0.1:{port}", paths, 5)
    assert seen.status and seen.error == "", seen.error
    assert (seen.status.member_id, seen.status.is_learner, seen.status.quota) == (9372538179322589801, False, None)
    assert seen.status.alarms == [Alarm(9372538179322589801, "NOSPACE")]
    assert (seen.cluster_version, seen.members[0].name, seen.commits) == ("3.6.0", "infra0", False)
    assert seen.reason == "RAFT NO LEADER" and seen.round_trip and seen.certificate
    assert (seen.certificate.subject, seen.certificate.names) == ("server", ["127.0.0.1"])
    assert seen.certificate.not_after == (NOW + timedelta(days=30)).timestamp()


def test_a_member_that_cannot_commit_is_not_waited_for_longer(pki: Path) -> None:
    """Without quorum the linearizable read blocks. The other answers of the member are kept."""
    paths = (str(pki / "ca.crt"), str(pki / "client.crt"), str(pki / "client.key"))

    def talk(connection: Any) -> None:
        http((200, STATUS), (200, "{}"), (200, "{}"))(connection)
        hold(connection)

    with server(over_tls(pki, talk)) as port:
        begin = time.monotonic()
        seen = _health.look("infra0", f"https://127.0.0.1:{port}", paths, TIMEOUT)
        assert time.monotonic() - begin < TIMEOUT + SLACK
    assert seen.status and not seen.error and not seen.commits and "no linearizable read succeeded" in seen.reason


@pytest.mark.parametrize(
    ("status", "body", "code", "words"),
    [
        (404, {"code": 5, "message": "etcdserver: member not found"}, "not-found", "member not found"),
        (412, {"code": 9, "message": "etcdserver: too many learner members"}, "precondition", "too many learner"),
        (400, {"code": 9, "message": "etcdserver: too many learner members"}, "precondition", "too many learner"),
        (429, {"code": 8, "message": "mvcc: database space exceeded"}, "exhausted", "space exceeded"),
        (503, {"code": 14, "error": "etcdserver: no leader"}, "unavailable", "no leader"),
        (200, {"code": 14, "message": "etcdserver: request timed out"}, "unavailable", "timed out"),
        (500, {"code": 99, "message": "?"}, "grpc", "says: ?"),
        (500, {"code": "x", "message": "?"}, "grpc", "says: ?"),
    ],
)
def test_errors_of_etcd_by_their_grpc_code(pki: Path, status: int, body: dict[str, Any], code: str, words: str) -> None:
    with server(over_tls(pki, http((status, json.dumps(body))))) as port, client(pki, port) as asking, pytest.raises(
        EtcdUnreachableError, match=words
    ) as caught:
        asking.members()
    assert caught.value.code == code


def test_a_connection_that_was_closed_meanwhile_is_opened_again(pki: Path) -> None:
    with server(over_tls(pki, http((200, STATUS)))) as port, client(pki, port) as asking:
        assert asking.status() == asking.status()


@pytest.mark.parametrize(
    ("errors", "alarms"),
    [
        ([], []),
        (["etcdserver: no leader"], []),
        # As etcd 3.5.35 and 3.6.14 write an alarm of member 0, which is the whole cluster; and as 3.7.3 does.
        (["alarm:CORRUPT "], [Alarm(0, "CORRUPT")]),
        (["alarm:CORRUPT"], [Alarm(0, "CORRUPT")]),
        (["alarm:NOSPACE "], [Alarm(0, "NOSPACE")]),
        # A kind that 3.6.14 and 3.7.3 have no name for.
        (["memberID:7 alarm:9 ", "memberID:7  alarm:9"], [Alarm(7, "9"), Alarm(7, "9")]),
        # Protobuf promises nothing about order and blanks.
        (["alarm: CORRUPT memberID: 5"], [Alarm(5, "CORRUPT")]),
        (["memberID:17949158737846155715 alarm:CORRUPT "], [Alarm(17949158737846155715, "CORRUPT")]),
        (["memberID:1  alarm:NOSPACE", "etcdserver: no leader"], [Alarm(1, "NOSPACE")]),
    ],
)
def test_alarms_in_a_status(errors: list[str], alarms: list[Alarm]) -> None:
    status = Status(0, 0, "", 0, 0, None, 0, 0, 0, 0, False, errors)
    assert (status.alarms, status.other_errors) == (alarms, [])


def test_an_error_that_is_no_alarm_is_kept() -> None:
    status = Status(
        0, 0, "", 0, 0, None, 0, 0, 0, 0, False, ["etcdserver: no leader", " etcdserver: new trouble", "alarm:NOSPACE"]
    )
    assert status.other_errors == ["etcdserver: new trouble"]


# What a host's openssl.cnf may say, stricter than any policy that is shipped (RHEL FUTURE and SECLEVEL=3 refuse RSA-2048).
STRICT = """
openssl_conf = default_conf
[default_conf]
ssl_conf = ssl_sect
[ssl_sect]
system_default = system_default_sect
[system_default_sect]
MinProtocol = TLSv1.3
CipherString = DEFAULT:@SECLEVEL=5
"""

ASK = """
import sys
from ansible_collections.kubeadm.etcd.plugins.module_utils._etcd.client import EtcdClient
with EtcdClient(sys.argv[1], *sys.argv[2:5], timeout=5) as client:
    print(client.status().version, client.connect().sock.version())
"""


# Pythons that distributions build take the level of openssl.cnf; others have one of their own from 3.10 on.
PYTHONS = [sys.executable, *(path for path in ("/usr/bin/python3",) if os.access(path, os.X_OK))]


def run_python(python: str, program: str, *arguments: str, **environment: str) -> str:
    """What a program prints in a process of its own: OpenSSL reads its configuration once, when it is loaded."""
    collections = str(Path(__file__).resolve().parents[2] / ".collections")
    done = subprocess.run(
        [python, "-c", program, *arguments],
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=60,
        check=False,
        env={**os.environ, "PYTHONPATH": collections, **environment},
    )
    return done.stdout.strip()


def ask(where: Path, port: int, python: str = sys.executable, **environment: str) -> str:
    """Version of etcd and protocol, as the client sees them, or how it fails."""
    files = [str(where / name) for name in ("ca.crt", "client.crt", "client.key")]
    return run_python(python, ASK, f"https://127.0.0.1:{port}", *files, **environment)


@pytest.mark.parametrize("protocol", ["TLSv1.2", "TLSv1.3"])
@pytest.mark.parametrize("algorithm", ["RSA-2048", "RSA-3072", "RSA-4096", "ECDSA-P256", "ECDSA-P384"])
def test_the_client_ignores_the_openssl_policy_of_the_host(algorithm: str, protocol: str, tmp_path: Path) -> None:
    """With each key algorithm, and on hosts that allow TLS 1.3 only with an etcd that has --tls-max-version."""
    ours = pair(tmp_path, "ca", ["ca"], algorithm=algorithm)
    pair(tmp_path, "server", ["127.0.0.1"], ours, algorithm=algorithm)
    pair(tmp_path, "client", ["client"], ours, algorithm=algorithm)
    (tmp_path / "openssl.cnf").write_text(STRICT, encoding="ascii")
    newest = ssl.TLSVersion.TLSv1_2 if protocol == "TLSv1.2" else ssl.TLSVersion.TLSv1_3
    with server(over_tls(tmp_path, http((200, STATUS)), newest=newest)) as port:
        for python in PYTHONS:
            assert ask(tmp_path, port, python, OPENSSL_CONF=str(tmp_path / "openssl.cnf")) == f"3.6.14 {protocol}"


def test_the_strict_policy_is_in_force(tmp_path: Path) -> None:
    """Without the settings of our client, the strict policy refuses the connection. So the test above proves something."""
    (tmp_path / "openssl.cnf").write_text(STRICT, encoding="ascii")
    pair(tmp_path, "ca", ["ca"])
    program = (
        "import ssl, sys; ssl.create_default_context(cafile=sys.argv[1]).load_cert_chain(sys.argv[1], sys.argv[2])"
    )
    files = (str(tmp_path / "ca.crt"), str(tmp_path / "ca.key"))
    said = [run_python(python, program, *files, OPENSSL_CONF=str(tmp_path / "openssl.cnf")) for python in PYTHONS]
    assert any("KEY_TOO_SMALL" in text for text in said), said


def test_the_environment_of_the_host_does_not_reach_the_client(pki: Path, tmp_path: Path) -> None:
    """Proxies, other CAs, and a file for TLS secrets, which would allow to decrypt recorded traffic."""
    secrets = tmp_path / "secrets"
    nowhere = "http://127.0.0.1:9"
    with server(over_tls(pki, http((200, STATUS)))) as port:
        said = ask(
            pki,
            port,
            SSLKEYLOGFILE=str(secrets),
            SSL_CERT_FILE=str(pki / "other-ca.crt"),
            SSL_CERT_DIR=str(tmp_path),
            HTTPS_PROXY=nowhere,
            https_proxy=nowhere,
            ALL_PROXY=nowhere,
            LC_ALL="tr_TR.UTF-8",
        )
    assert said == "3.6.14 TLSv1.3" and not secrets.exists()


def test_the_metrics_port_is_asked_without_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "")
    with server(http((200, "[+]ping ok"))) as port:
        assert _etcd_client.probe(f"http://127.0.0.1:{port}/readyz", 5) == (True, "[+]ping ok")
