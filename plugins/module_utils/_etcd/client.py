# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""etcd's JSON gateway over TLS, with Python's standard library only.

The gateway is the HTTP face of etcd's gRPC API on the client port (etcd Documentation, "gRPC gateway"): all POST under
/v3/, 64-bit numbers as decimal text, zero values left out. Errors carry a gRPC code; the HTTP status beside it differs
between etcd's versions and is not looked at.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import hashlib
import http.client
import json
import os
import re
import socket
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar
from urllib.parse import urlsplit

from ansible_collections.kubeadm.etcd.plugins.module_utils._values.errors import EtcdError
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.versions import etcd_version_in

T = TypeVar("T")
R = TypeVar("R")

# X509_V_FLAG_PARTIAL_CHAIN; ssl.VERIFY_X509_PARTIAL_CHAIN exists from Python 3.10 on, and is the default from 3.13 on.
PARTIAL_CHAIN = 0x80000

# X509_V_FLAG_NO_CHECK_TIME (openssl/x509_vfy.h).
NO_CHECK_TIME = 0x200000

# What to do about a certificate without the address that was asked.
ADDS_NAME = "add it to etcd_server_cert_sans and run site.yml."

# No answer that is asked for here is longer; a port of something else may send for ever.
MOST_BYTES = 4 << 20

# What certificate verification failed on (openssl/x509_vfy.h, X509_V_ERR_*).
_NOT_YET_VALID, _EXPIRED, _HOSTNAME, _ADDRESS = 9, 10, 62, 64

# Alerts by which a server refuses the certificate of its client (RFC 8446, 6.2), in OpenSSL's words. Go sends the first.
_CLIENT_REFUSED = re.compile(
    r"ALERT_(BAD_CERTIFICATE|UNSUPPORTED_CERTIFICATE|CERTIFICATE_\w+|UNKNOWN_CA|ACCESS_DENIED|HANDSHAKE_FAILURE)"
)

# gRPC codes that etcd's gateway sends (google.golang.org/grpc/codes), as words that programs can compare.
_GRPC = {
    3: "invalid",
    4: "grpc-deadline",
    5: "not-found",
    7: "denied",
    8: "exhausted",
    9: "precondition",
    11: "out-of-range",
    12: "unimplemented",
    13: "internal",
    14: "unavailable",
    16: "unauthenticated",
}


class EtcdUnreachableError(EtcdError):
    """A member did not give the answer. The text says why, as far as it can be known from here.

    code: the same in one word, see explain(), or the name of the gRPC code where the member answered with an error.
    """

    def __init__(self, text: str, code: str = "unreachable") -> None:
        super().__init__(text)
        self.code = code


# What our client offers with TLS 1.2: what Go's server takes by default, and RSA key exchange, which --cipher-suites may ask for.
# Level 1 (keys from RSA-1024 on): whether a key is strong enough is decided by etcd and the CA, not by the host's OpenSSL.
CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20:ECDHE+AES:RSA+AESGCM:RSA+AES:!aNULL:!eNULL:@SECLEVEL=1"

# What a status says if the member knows no leader (server/etcdserver/errors/errors.go). Status.leader is 0 then.
_NO_LEADER = "etcdserver: no leader"


@dataclass(frozen=True)
class Alarm:
    """An alarm (NOSPACE, CORRUPT, or the number of a kind that this etcd has no name for).

    member_id 0: the whole cluster. etcd raises CORRUPT like that if it cannot tell which member is wrong (server/etcdserver/corrupt.go).
    """

    member_id: int
    kind: str


@dataclass(frozen=True)
class Status:
    """What a member says of itself (maintenance/status). Sizes in bytes; quota None before etcd 3.6. revision: of the keys.

    storage_version: of its data, '' before etcd 3.6. downgrade: the version that a downgrade which is enabled goes to; '' if none is, or before 3.6.
    """

    cluster_id: int
    member_id: int
    version: str
    db_size: int
    db_size_in_use: int
    quota: int | None
    leader: int
    raft_term: int
    raft_index: int
    raft_applied_index: int
    is_learner: bool
    errors: list[str] = field(default_factory=list)
    revision: int = 0
    storage_version: str = ""
    downgrade: str = ""

    @property
    def alarms(self) -> list[Alarm]:
        """All alarms that this member knows, without a request through the log (as C(alarm GET) would be).

        They are among the errors in protobuf's text form, without fields that are 0: memberID:123 alarm:NOSPACE, or only
        alarm:CORRUPT (server/etcdserver/api/v3rpc/maintenance.go).
        """
        found = []
        for text in self.errors:
            kind = re.search(r"\balarm:\s*(\w+)", text)
            member = re.search(r"\bmemberID:\s*(\d+)", text)
            if kind:
                found.append(Alarm(int(member.group(1)) if member else 0, kind.group(1)))
        return found

    @property
    def other_errors(self) -> list[str]:
        """Errors that are neither an alarm nor a missing leader."""
        return [text.strip() for text in self.errors if text.strip() != _NO_LEADER and "alarm:" not in text]


@dataclass(frozen=True)
class Member:
    """A line of the membership. A member that has never started has no client URLs (and, when added, no name)."""

    id: int
    name: str
    peer_urls: list[str]
    client_urls: list[str]
    is_learner: bool

    @property
    def started(self) -> bool:
        """Whether the member has ever run."""
        return bool(self.client_urls)


@dataclass(frozen=True)
class Certificate:
    """A certificate as a server shows it. Times in Unix seconds; names: its SANs. ends_with_ca: no certificate of its CA can last longer."""

    subject: str
    not_before: float
    not_after: float
    names: list[str]
    ends_with_ca: bool = False


class _Socket(ssl.SSLSocket):
    """A TLS socket with a deadline for all that is read from it: a timeout alone starts anew with each byte."""

    deadline: float | None = None

    def recv_into(self, *args: Any, **kwargs: Any) -> int:
        if self.deadline is not None:
            left = self.deadline - time.monotonic()
            if left <= 0:
                raise socket.timeout("timed out")
            self.settimeout(left)
        return super().recv_into(*args, **kwargs)


class _Connection(http.client.HTTPSConnection):
    """A connection that counts its time from the first packet to the last byte."""

    tls: ssl.SSLContext
    sock: Any

    def __init__(self, host: str, port: int, timeout: float, context: ssl.SSLContext) -> None:
        super().__init__(host, port, timeout=timeout, context=context)
        self.tls = context
        self.handshake = 0.0
        # Whether TCP came through.
        self.connected = False

    def connect(self) -> None:
        begin = time.monotonic()
        plain = socket.create_connection((self.host, self.port), timeout=self.timeout)
        self.connected = True
        plain.settimeout(max(0.001, begin + (self.timeout or 0) - time.monotonic()))
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            self.sock = self.tls.wrap_socket(plain, server_hostname=self.host)
        except BaseException:
            plain.close()
            raise
        self.handshake = time.monotonic() - begin


def own_context(cert: str, key: str) -> ssl.SSLContext:
    """A TLS client with this pair of files. The host's openssl.cnf (protocols, ciphers, level) does not count: etcd's own policy does.

    Not ssl.create_default_context: it writes TLS secrets to the file that SSLKEYLOGFILE names.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.maximum_version = ssl.TLSVersion.MAXIMUM_SUPPORTED
    context.set_ciphers(CIPHERS)
    context.load_cert_chain(cert, key)
    return context


class EtcdClient:
    """One endpoint. ca, cert and key are files; timeout in seconds holds for each request, from its beginning to its end.

    Requests share one connection. Close it, or use the client as a context manager.
    """

    def __init__(self, endpoint: str, ca: str, cert: str, key: str, timeout: float = 5.0) -> None:
        self.endpoint = endpoint
        self.timeout = timeout
        try:
            url = urlsplit(endpoint)
            self.host, self.port = url.hostname or "", url.port or 2379
        except ValueError:
            self.host = ""
        if not self.host or url.scheme != "https":
            raise EtcdUnreachableError(
                f"{endpoint!r} is not a client URL of etcd. Write https://ADDRESS:2379.", "endpoint"
            )
        for path in (ca, cert, key):
            if not os.access(path, os.R_OK):
                raise EtcdUnreachableError(
                    f"{path} is missing or cannot be read: etcd at {endpoint} cannot be asked.", "credentials"
                )
        self.files = (ca, cert, key)
        try:
            self.context = self._make_context()
        except (ssl.SSLError, OSError) as exc:
            raise EtcdUnreachableError(
                f"{key} is not the key of {cert}, or one of them or {ca} is invalid: {exc}.", "credentials"
            ) from exc
        self._connection: _Connection | None = None

    def _make_context(self) -> ssl.SSLContext:
        ca, cert, key = self.files
        context = own_context(cert, key)
        context.load_verify_locations(cafile=ca)
        # What stands in ca.crt is trusted as it is, root or not, as etcd and kube-apiserver do it.
        context.verify_flags |= PARTIAL_CHAIN
        # It wants key identifiers that a CA of one's own may lack, and Go does not.
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        context.sslsocket_class = _Socket
        return context

    def __enter__(self) -> EtcdClient:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def close(self) -> None:
        """End the connection."""
        if self._connection:
            self._connection.close()
        self._connection = None

    def connect(self) -> _Connection:
        """The connection, made if that is not done yet. EtcdUnreachableError where it fails."""
        if self._connection is None or self._connection.sock is None:
            self._connection = _Connection(self.host, self.port, self.timeout, self.context)
            try:
                self._connection.connect()
            except (OSError, ValueError) as exc:
                raise self._failure(exc, self._connection.connected) from exc
        return self._connection

    def request(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, timeout: float | None = None
    ) -> tuple[int, str]:
        """Status code and text of one answer. EtcdUnreachableError where there is none.

        timeout: seconds, instead of the client's.
        """
        deadline = time.monotonic() + (self.timeout if timeout is None else timeout)
        while True:
            reused = self._connection is not None
            try:
                return self._request(method, path, body, deadline)
            except (OSError, http.client.HTTPException) as exc:
                # A connection that etcd closed while nothing was asked is opened again.
                if not (reused and isinstance(exc, (ConnectionError, ssl.SSLEOFError))):
                    raise self._failure(exc, connected=True) from exc

    def _request(self, method: str, path: str, body: Mapping[str, Any] | None, deadline: float) -> tuple[int, str]:
        connection = self.connect()
        try:
            connection.sock.deadline = deadline
            connection.sock.settimeout(max(0.001, deadline - time.monotonic()))
            connection.request(method, path, None if body is None else json.dumps(body))
            answer = connection.getresponse()
            data = answer.read(MOST_BYTES)
            if answer.isclosed():
                return answer.status, data.decode("utf-8", errors="replace")
        except BaseException:
            self.close()
            raise
        # The rest of an answer without end would be taken for the next one.
        self.close()
        return answer.status, data.decode("utf-8", errors="replace")

    def _failure(self, exc: Exception, connected: bool) -> EtcdUnreachableError:
        """What a failed request means; some failures tell more when they are looked at again."""
        self.close()
        code, words = explain(exc, connected)
        if code == "tls":
            with contextlib.suppress(OSError):
                if self._speaks_plain_http():
                    code, words = (
                        "not-tls",
                        "speaks plain HTTP, not TLS: another program listens there, or the port is wrong.",
                    )
        elif code == "closed":
            # With TLS 1.3 a server may be gone before its refusal is read: with 1.2 it is part of the handshake.
            try:
                context = self._make_context()
                context.maximum_version = ssl.TLSVersion.TLSv1_2
                self._shake_hands(context)
            except ssl.SSLError as again:
                found = explain(again)
                code, words = found if found[0] == "tls-client-refused" else (code, words)
            except OSError:
                pass
        elif code in ("tls-san", "tls-expired", "tls-not-yet-valid"):
            # Its time or names are wrong, but our CA has signed it. Nothing else is asked there.
            with contextlib.suppress(OSError, ValueError):
                context = self._make_context()
                context.check_hostname = False
                context.verify_flags |= NO_CHECK_TIME
                shown = certificate_of(self._shake_hands(context))
                if code == "tls-san":
                    words = f"presents a certificate for {', '.join(shown.names)} only; {ADDS_NAME}"
                else:
                    moment = shown.not_before if code == "tls-not-yet-valid" else shown.not_after
                    words = words.replace("DATE", time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(moment)))
        return EtcdUnreachableError(f"{self.endpoint} {words.replace(' (DATE)', '')}", code)

    def _speaks_plain_http(self) -> bool:
        """Whether what listens there answers without TLS. OSError where it cannot be told."""
        with socket.create_connection((self.host, self.port), timeout=1.0) as plain:
            plain.sendall(b"GET /version HTTP/1.0\r\n\r\n")
            return plain.recv(5) == b"HTTP/"

    def _shake_hands(self, context: ssl.SSLContext) -> Mapping[str, Any]:
        """Connect once more, otherwise, and return the certificate that is shown."""
        with socket.create_connection((self.host, self.port), timeout=1.0) as plain, context.wrap_socket(
            plain, server_hostname=self.host
        ) as shown:
            return shown.getpeercert() or {}

    def call(self, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """One call of the gateway: /v3/ + path."""
        status, text = self.request("POST", "/v3/" + path, body or {})
        try:
            data = json.loads(text)
        except ValueError:
            data = None
        if isinstance(data, dict):
            # Of an answer without error etcd's messages have no field of this name.
            if status == 200 and "code" not in data:
                return data
            if "code" in data:
                raise self._refusal(data)
        if "CommonName of client" in text:
            raise EtcdUnreachableError(
                f"{self.endpoint} has authentication enabled, and refuses certificates with a common name over the"
                " gateway. kubeadm's clusters do not use it: run `etcdctl auth disable`.",
                "auth",
            )
        if status == 404:
            raise EtcdUnreachableError(
                f"{self.endpoint} has no JSON gateway: etcd runs with --enable-grpc-gateway=false, or another program listens there.",
                "no-gateway",
            )
        raise EtcdUnreachableError(
            f"{self.endpoint} answers {status} without JSON, so another program may listen there. The answer begins: {brief(text)!r}",
            "garbage",
        )

    def _refusal(self, data: Mapping[str, Any]) -> EtcdUnreachableError:
        """An error of etcd's, by its gRPC code."""
        code = _GRPC.get(data["code"], "grpc") if isinstance(data["code"], int) else "grpc"
        return EtcdUnreachableError(f"{self.endpoint} says: {data.get('message') or data.get('error')}", code)

    def status(self) -> Status:
        """What the member says of itself."""
        data = self.call("maintenance/status")
        header = data.get("header", {})
        try:
            return Status(
                cluster_id=int(header.get("cluster_id", 0)),
                member_id=int(header.get("member_id", 0)),
                version=str(data.get("version", "")),
                db_size=int(data.get("dbSize", 0)),
                db_size_in_use=int(data.get("dbSizeInUse", 0)),
                quota=int(data["dbSizeQuota"]) if "dbSizeQuota" in data else None,
                leader=int(data.get("leader", 0)),
                raft_term=int(data.get("raftTerm", 0)),
                raft_index=int(data.get("raftIndex", 0)),
                raft_applied_index=int(data.get("raftAppliedIndex", 0)),
                is_learner=bool(data.get("isLearner", False)),
                errors=[str(text) for text in data.get("errors", [])],
                revision=int(header.get("revision", 0)),
                storage_version=str(data.get("storageVersion", "")),
                downgrade=downgrade_in(data),
            )
        except (AttributeError, TypeError, ValueError) as exc:
            raise self._no_etcd() from exc

    def hash_kv(self, revision: int) -> tuple[int, int]:
        """The hash of all keys up to a revision, and the revision of the last compaction before it; zeros if the member cannot tell it any more."""
        try:
            answer = self.call("maintenance/hashkv", {"revision": str(revision)})
            return int(answer.get("hash", 0)), int(answer.get("compact_revision", 0))
        except (EtcdError, ValueError, TypeError):
            return 0, 0

    def members(self, linearizable: bool = False) -> list[Member]:
        """The membership as this member knows it; linearizable: as a quorum knows it."""
        data = self.call("cluster/member/list", {"linearizable": linearizable})
        try:
            return members_in(data)
        except (AttributeError, TypeError, ValueError) as exc:
            raise self._no_etcd() from exc

    def _no_etcd(self) -> EtcdUnreachableError:
        return EtcdUnreachableError(
            f"{self.endpoint} answers with JSON that is not from etcd: another program listens there.", "garbage"
        )

    def update_member(self, member_id: int, peer_urls: list[str]) -> None:
        """Tell the cluster under which URLs a member's peers reach it from now on."""
        self.call("cluster/member/update", {"ID": str(member_id), "peerURLs": peer_urls})

    def modified(self, key: str) -> int:
        """The revision at which a key was last written, as this member knows it; 0 if the key does not exist."""
        body = {"key": base64.b64encode(key.encode()).decode(), "serializable": True, "keys_only": True}
        try:
            return max([int(item["mod_revision"]) for item in self.call("kv/range", body).get("kvs", [])], default=0)
        except (AttributeError, KeyError, TypeError, ValueError) as exc:
            raise self._no_etcd() from exc

    def compact(self, revision: int) -> bool:
        """Remove the history up to a revision from the database of this member, and wait until that is done. Returns whether it was there.

        All members compact to the revision, each in its own time. If the cluster has done so before, this member answers as soon as its own
        database is compacted (server/storage/mvcc/kvstore.go, updateCompactRev).
        """
        try:
            self.call("kv/compaction", {"revision": str(revision), "physical": True})
        except EtcdUnreachableError as exc:
            if exc.code != "out-of-range":
                raise
            return False
        return True

    def defragment(self) -> None:
        """Rewrite the database file of this member, which answers nothing else meanwhile."""
        self.call("maintenance/defragment")

    def downgrade(self, action: str, version: str = "") -> None:
        """VALIDATE or ENABLE a downgrade to a version, or CANCEL the one that is enabled. EtcdUnreachableError if etcd refuses."""
        self.call("maintenance/downgrade", {"action": action, "version": version})

    def enabled_downgrade(self, status: Status) -> str:
        """The version that a downgrade goes to which is enabled; '' if there is none, or no quorum tells. status: of this member.

        etcd 3.5 does not report it. It refuses to validate another downgrade then, and a member of 3.5 runs only if the one that is enabled goes to 3.5.
        """
        version = etcd_version_in(status.version)
        if status.storage_version or version is None or not version.minor:
            return status.downgrade
        try:
            self.downgrade("VALIDATE", f"{version.major}.{version.minor - 1}")
        except EtcdUnreachableError as exc:
            return f"{version.branch}.0" if exc.code == "precondition" else ""
        return ""

    def cluster_version(self) -> str:
        """The version on which the cluster has agreed: the lowest minor of its members. Empty before there is one."""
        _status, text = self.request("GET", "/version")
        try:
            return str(json.loads(text).get("etcdcluster", ""))
        except (AttributeError, ValueError):
            raise self._no_etcd() from None

    def health(self, timeout: float | None = None) -> tuple[bool, str]:
        """Whether the member can read through the log, alarms aside (status() tells them), and what it says."""
        status, text = self.request("GET", "/health?exclude=NOSPACE&exclude=CORRUPT", timeout=timeout)
        try:
            reason = str(json.loads(text).get("reason", ""))
        except (AttributeError, ValueError):
            reason = brief(text)
        return status == 200, reason

    def certificate(self) -> Certificate:
        """The server's certificate, as seen on the wire."""
        shown = certificate_of(self.connect().sock.getpeercert() or {})
        ends = [ssl.cert_time_to_seconds(str(authority["notAfter"])) for authority in self.context.get_ca_certs()]
        return replace(shown, ends_with_ca=bool(ends) and shown.not_after >= max(ends))


def downgrade_in(status: Mapping[str, Any]) -> str:
    """The version that a downgrade goes to which is enabled, in a status; '' if there is none."""
    info = status.get("downgradeInfo") or {}
    return str(info.get("targetVersion", "")) if info.get("enabled") else ""


def members_in(data: Mapping[str, Any]) -> list[Member]:
    """The membership in an answer of the cluster API. ValueError, TypeError or AttributeError if it is none."""
    return [
        Member(
            id=int(item.get("ID", 0)),
            name=str(item.get("name", "")),
            peer_urls=list(item.get("peerURLs", [])),
            client_urls=list(item.get("clientURLs", [])),
            is_learner=bool(item.get("isLearner", False)),
        )
        for item in data.get("members", [])
    ]


def certificate_of(shown: Mapping[str, Any]) -> Certificate:
    """A certificate from Python's form of it. ValueError where that is empty."""
    if "notAfter" not in shown:
        raise ValueError("no certificate")
    subject = {key: value for part in shown.get("subject", ()) for key, value in part}
    return Certificate(
        subject=str(subject.get("commonName", "")),
        not_before=float(ssl.cert_time_to_seconds(str(shown["notBefore"]))),
        not_after=float(ssl.cert_time_to_seconds(str(shown["notAfter"]))),
        names=[str(value) for _kind, value in shown.get("subjectAltName", ())],
    )


def brief(text: str) -> str:
    """The beginning of an answer, on one line."""
    return " ".join(text[:400].split())[:200]


def explain(exc: Exception, connected: bool = False) -> tuple[str, str]:
    """What a failed connection means: a word for programs, and a sentence for people that begins with a verb.

    connected: whether TCP came through before it failed.
    """
    if isinstance(exc, ssl.SSLCertVerificationError):
        number = exc.verify_code
        if number in (_HOSTNAME, _ADDRESS):
            return "tls-san", f"presents a certificate without this address in it (SAN); {ADDS_NAME}"
        if number == _EXPIRED:
            return "tls-expired", "presents a certificate that has expired (DATE). Run site.yml to renew it."
        if number == _NOT_YET_VALID:
            return "tls-not-yet-valid", "presents a certificate that is not valid yet (DATE): compare the clocks."
        return (
            "tls-unknown-ca",
            f"presents a certificate that the CA in our ca.crt did not sign ({exc.verify_message}).",
        )
    if isinstance(exc, (socket.timeout, TimeoutError)):
        if connected:
            # etcd opens its client port at once, and serves it once it has seen a leader (server/embed/serve.go, ReadyNotify).
            return "timeout", (
                "accepts connections but does not answer in time: etcd has seen no leader since it started, or it hangs. See the log of etcd."
            )
        return "silent", "does not answer on TCP: the host is down, a firewall drops packets, or the address is wrong."
    if isinstance(exc, ConnectionRefusedError):
        return "refused", (
            "refuses connections: etcd does not run there (`journalctl -u kubelet`, `crictl ps -a`), or a firewall rejects them."
        )
    if isinstance(exc, socket.gaierror):
        return "name", f"has a name that cannot be resolved ({exc.strerror})."
    # With TLS 1.3 the refusal of a client certificate shows at the first read, not in the handshake.
    if isinstance(exc, ssl.SSLError) and _CLIENT_REFUSED.search(str(exc)):
        return "tls-client-refused", (
            f"rejects our client certificate: it is from another CA, or has expired ({getattr(exc, 'reason', None) or exc})."
        )
    if isinstance(exc, ssl.SSLError) and "ALERT_INTERNAL_ERROR" in str(exc):
        return "tls-server", "cannot use its own certificate and key (TLS internal error): see the log of etcd."
    if isinstance(exc, (ssl.SSLEOFError, ssl.SSLZeroReturnError, ConnectionResetError, BrokenPipeError)):
        return (
            "closed",
            "closes the connection: etcd is ending, etcd rejects our certificate, or another program listens there.",
        )
    if isinstance(exc, ssl.SSLError):
        return "tls", f"fails in the TLS handshake or after it ({getattr(exc, 'reason', None) or exc})."
    if isinstance(exc, http.client.HTTPException):
        return (
            "garbage",
            f"answers with something that is not HTTP ({type(exc).__name__}): another program listens there.",
        )
    return "unreachable", f"cannot be reached: {getattr(exc, 'strerror', None) or exc or type(exc).__name__}."


# The handshake message by which a server asks for a certificate, and its extension with names of CAs (RFC 8446, 4.2, 4.3.2).
_CERTIFICATE_REQUEST, _CERTIFICATE_AUTHORITIES = 13, 47

# Alerts by which Go refuses a client certificate of a CA that it does not trust: the first since Go 1.21, the second before.
_CA_REFUSED = re.compile(r"ALERT_(UNKNOWN_CA|BAD_CERTIFICATE)")


def accepts_client(host: str, port: int, cert: str, key: str, timeout: float = 2.0) -> bool | None:
    """Whether a server lets in a client with this pair (files); False if it does not trust its CA, None if that cannot be told.

    The server's own certificate is not looked at, and nothing is asked that would need it.
    """
    # With TLS 1.2 a refusal is part of the handshake. With 1.3, tried only if the server insists on it, it comes after that, and is lost
    # if we send anything before it is read.
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        try:
            context = own_context(cert, key)
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            context.minimum_version = context.maximum_version = version
            with socket.create_connection((host, port), timeout=timeout) as plain, context.wrap_socket(plain) as tls:
                if version == ssl.TLSVersion.TLSv1_3:
                    tls.settimeout(min(0.5, timeout))
                    with contextlib.suppress(socket.timeout):
                        tls.recv(1)
                    tls.settimeout(timeout)
                tls.sendall(b"GET /version HTTP/1.0\r\n\r\n")
                return bool(tls.recv(1))
        except ssl.SSLError as exc:
            if _CA_REFUSED.search(str(exc)):
                return False
            if "PROTOCOL" not in str(exc):
                return None
        except (OSError, ValueError):
            return None
    return None


def trusted_names(host: str, port: int, timeout: float = 2.0) -> list[str] | None:
    """Names of the CAs that a running server takes client certificates of, each as SHA-256 of its DER form; None if that cannot be told.

    A server names them when it asks for a certificate (RFC 8446, 4.2.4; RFC 5246, 7.4.4), and Go takes the names from the pool that it has
    loaded. So this is what the process trusts, whatever its file has become since.
    """
    # TLS 1.2 is tried only if the server insists on it.
    for version, names_in in ((ssl.TLSVersion.TLSv1_3, _names_in_1_3), (ssl.TLSVersion.TLSv1_2, _names_in_1_2)):
        requests: list[bytes] = []
        try:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            context.minimum_version = context.maximum_version = version
            # Since Python 3.8. The ssl module has no public access to the request.
            context._msg_callback = functools.partial(_keep_request, requests)  # type: ignore[attr-defined]
            _shake_hands(context, host, port, timeout)
            if requests:
                return sorted({hashlib.sha256(name).hexdigest() for name in names_in(requests[0])})
        except (AttributeError, IndexError, ValueError):
            return None
    return None


def _keep_request(
    found: list[bytes], _tls: Any, direction: str, _version: Any, _content: Any, kind: Any, data: bytes
) -> None:
    """Of the messages of a handshake, keep the one by which the server asks for a certificate."""
    if direction == "read" and kind == _CERTIFICATE_REQUEST and data[:1] == bytes([_CERTIFICATE_REQUEST]):
        found.append(data[4:])


def _shake_hands(context: ssl.SSLContext, host: str, port: int, timeout: float) -> None:
    """A TLS handshake, however it ends."""
    with contextlib.suppress(OSError, ValueError), socket.create_connection((host, port), timeout=timeout) as plain:
        context.wrap_socket(plain).close()


def _vector(data: bytes, size: int) -> tuple[bytes, bytes]:
    """The content of a vector with a length of so many bytes, and what follows it. ValueError if it is cut off."""
    end = size + int.from_bytes(data[:size], "big")
    if len(data) < max(end, size):
        raise ValueError("cut off")
    return data[size:end], data[end:]


def _names(data: bytes) -> list[bytes]:
    """Distinguished names in a list of them."""
    found = []
    while data:
        name, data = _vector(data, 2)
        found.append(name)
    return found


def _names_in_1_3(request: bytes) -> list[bytes]:
    """Names in a CertificateRequest of TLS 1.3: a context, then extensions."""
    extensions, _rest = _vector(_vector(request, 1)[1], 2)
    while extensions:
        kind, (content, rest) = int.from_bytes(extensions[:2], "big"), _vector(extensions[2:], 2)
        if kind == _CERTIFICATE_AUTHORITIES:
            return _names(_vector(content, 2)[0])
        extensions = rest
    return []


def _names_in_1_2(request: bytes) -> list[bytes]:
    """Names in a CertificateRequest of TLS 1.2: after types and algorithms."""
    rest = _vector(_vector(request, 1)[1], 2)[1]
    return _names(_vector(rest, 2)[0])


def probe(url: str, timeout: float) -> tuple[bool, str]:
    """Whether a plain HTTP address (etcd's metrics port) answers 200, and what it says."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=timeout) as answer:
            return answer.status == 200, answer.read(MOST_BYTES).decode("utf-8", errors="replace").strip()
    except urllib.error.HTTPError as exc:
        return False, exc.read(MOST_BYTES).decode("utf-8", errors="replace").strip()
    except (OSError, http.client.HTTPException) as exc:
        return False, str(exc)


def failed_checks(answer: str) -> str:
    """An answer of etcd on one line: of a list of checks (/readyz) those that failed."""
    lines = [line.strip() for line in answer.splitlines() if line.strip()]
    return "; ".join([line for line in lines if line.startswith("[-]")] or lines)[:200]


def side_by_side(ask: Callable[[T], R], items: Sequence[T], timeout: float) -> list[R | None]:
    """What a function returns for each item; None where it has not returned after `timeout` seconds."""
    found: list[R | None] = [None] * len(items)

    def keep(number: int) -> None:
        found[number] = ask(items[number])

    # Not a pool: it would wait for its threads, and a silent name server blocks a thread for half a minute.
    threads = [threading.Thread(target=keep, args=(number,), daemon=True) for number in range(len(items))]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + timeout + 0.5
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    # What comes later is not seen any more.
    return list(found)
