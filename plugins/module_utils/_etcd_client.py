# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""etcd's JSON gateway over TLS, with Python's standard library only.

The gateway is the HTTP face of etcd's gRPC API on the client port (etcd Documentation, "gRPC gateway"): all POST under
/v3/, 64-bit numbers as decimal text, zero values left out.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import socket
import ssl
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from ansible_collections.kubeadm.etcd.plugins.module_utils._errors import EtcdError

# X509_V_FLAG_PARTIAL_CHAIN; ssl.VERIFY_X509_PARTIAL_CHAIN exists from Python 3.10 on, and is the default from 3.13 on.
PARTIAL_CHAIN = 0x80000

# No answer that is asked for here is longer; a port of something else may send for ever.
MOST_BYTES = 4 << 20


class EtcdUnreachableError(EtcdError):
    """A member did not give the answer. The text says why, as far as it can be known from here."""


@dataclass(frozen=True)
class Alarm:
    """An alarm (NOSPACE, CORRUPT) of one member."""

    member_id: int
    kind: str


@dataclass(frozen=True)
class Status:
    """What a member says of itself (maintenance/status). Sizes in bytes; quota None before etcd 3.6."""

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

    @property
    def alarms(self) -> list[Alarm]:
        """Alarms of all members that this one knows, without a request through the log (which C(alarm GET) is).

        Among the errors in the text form of protobuf: memberID:123 alarm:NOSPACE (server/etcdserver/api/v3rpc/maintenance.go).
        """
        found = (re.match(r"memberID:(\d+)\s+alarm:(\w+)", text) for text in self.errors)
        return [Alarm(int(match.group(1)), match.group(2)) for match in found if match]


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


class EtcdClient:
    """One endpoint. ca, cert and key are files; timeout in seconds holds for each request."""

    def __init__(self, endpoint: str, ca: str, cert: str, key: str, timeout: float = 5.0) -> None:
        self.endpoint = endpoint
        self.timeout = timeout
        for path in (ca, cert, key):
            if not os.access(path, os.R_OK):
                raise EtcdUnreachableError(f"{path} is missing or cannot be read: etcd at {endpoint} cannot be asked.")
        try:
            self.context = ssl.create_default_context(cafile=ca)
            # What stands in ca.crt is trusted as it is, root or not, as etcd and kube-apiserver do it.
            self.context.verify_flags |= PARTIAL_CHAIN
            self.context.load_cert_chain(cert, key)
        except (ssl.SSLError, OSError) as exc:
            raise EtcdUnreachableError(
                f"{cert} and {key} are no usable pair, or {ca} is no certificate: {exc}."
            ) from exc

    def _connection(self) -> http.client.HTTPSConnection:
        url = urlsplit(self.endpoint)
        return http.client.HTTPSConnection(
            url.hostname or "", url.port or 2379, timeout=self.timeout, context=self.context
        )

    def request(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> tuple[int, str]:
        """Status code and text of one answer. EtcdUnreachableError where there is none."""
        connection = self._connection()
        try:
            connection.request(method, path, None if body is None else json.dumps(body))
            answer = connection.getresponse()
            return answer.status, answer.read(MOST_BYTES).decode("utf-8", errors="replace")
        except (OSError, http.client.HTTPException) as exc:
            raise EtcdUnreachableError(f"{self.endpoint} {explain(exc)}") from exc
        finally:
            connection.close()

    def call(self, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """One call of the gateway: /v3/ + path."""
        code, text = self.request("POST", "/v3/" + path, body or {})
        try:
            data = json.loads(text)
        except ValueError:
            data = None
        if code == 200 and isinstance(data, dict):
            return data
        if code == 404:
            raise EtcdUnreachableError(
                f"{self.endpoint} has no JSON gateway (--enable-grpc-gateway=false, or no etcd)."
            )
        if "CommonName of client" in text:
            raise EtcdUnreachableError(
                f"{self.endpoint} has authentication enabled, and refuses certificates with a common name over the"
                " gateway. kubeadm's clusters do not use it: run `etcdctl auth disable`."
            )
        said = data.get("message") if isinstance(data, dict) else text.strip()[:200]
        raise EtcdUnreachableError(f"{self.endpoint} answers {code}: {said}")

    def status(self) -> Status:
        """What the member says of itself."""
        data = self.call("maintenance/status")
        header = data.get("header", {})
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
        )

    def members(self, linearizable: bool = False) -> list[Member]:
        """The membership as this member knows it; linearizable: as a quorum knows it."""
        data = self.call("cluster/member/list", {"linearizable": linearizable})
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

    def update_member(self, member_id: int, peer_urls: list[str]) -> None:
        """Tell the cluster under which URLs a member's peers reach it from now on."""
        self.call("cluster/member/update", {"ID": str(member_id), "peerURLs": peer_urls})

    def alarms(self) -> list[Alarm]:
        """Alarms of all members."""
        data = self.call("maintenance/alarm", {"action": "GET"})
        return [Alarm(int(item.get("memberID", 0)), str(item.get("alarm", ""))) for item in data.get("alarms", [])]

    def health(self, serializable: bool = False) -> tuple[bool, str]:
        """Whether the member can commit (serializable: only read what it has), and what it says."""
        code, text = self.request("GET", "/health" + ("?serializable=true" if serializable else ""))
        try:
            reason = str(json.loads(text).get("reason", ""))
        except (ValueError, AttributeError):
            reason = text.strip()[:200]
        return code == 200, reason

    def certificate_end(self) -> float:
        """When the server's certificate ends, in Unix seconds, as seen on the wire."""
        url = urlsplit(self.endpoint)
        try:
            plain = socket.create_connection((url.hostname or "", url.port or 2379), timeout=self.timeout)
            with self.context.wrap_socket(plain, server_hostname=url.hostname) as wrapped:
                certificate = wrapped.getpeercert() or {}
        except OSError as exc:
            raise EtcdUnreachableError(f"{self.endpoint} {explain(exc)}") from exc
        return float(ssl.cert_time_to_seconds(str(certificate["notAfter"])))


def explain(exc: Exception) -> str:
    """What a failed connection means for a person."""
    text = str(exc)
    if isinstance(exc, ssl.SSLCertVerificationError):
        if "IP address mismatch" in text or "Hostname mismatch" in text:
            return (
                "shows a certificate without this address in it (SAN). Add it to etcd_server_cert_sans and run again."
            )
        if "expired" in text:
            return "shows a certificate that has expired. A run of site.yml renews it."
        return f"shows a certificate that our ca.crt did not sign ({exc.verify_message})."
    if isinstance(exc, (socket.timeout, TimeoutError)):
        return "does not answer in time (a firewall that drops, a network or host that is down, or no quorum)."
    if isinstance(exc, ConnectionRefusedError):
        return "refuses connections: etcd does not run there (`journalctl -u kubelet`, `crictl ps -a`)."
    if isinstance(exc, ssl.SSLError) or "Connection reset" in text:
        # With TLS 1.3 the refusal of a client certificate shows at the first read, not in the handshake.
        return f"ends the connection: it does not accept our client certificate, or does not speak TLS ({text})."
    return f"cannot be asked: {getattr(exc, 'strerror', None) or text or type(exc).__name__}."


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
