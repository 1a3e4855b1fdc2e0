"""Which writes of a real kube-apiserver fail while members restart one after the other."""

from __future__ import annotations

import http.client
import json
import signal
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.tools.dropped import by_change_of_leader

from .conftest import Cluster, Make, kubernetes_program, wait_until

ADDRESS, PORT = "10.77.0.100", 6443
WRITERS = 6


@dataclass
class Load:
    """Writers with a name for each object. dropped: writes that etcd dropped, repeated once with the same name. refused: all other failures."""

    good: int = 0
    dropped: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)

    def write(self, writer: int) -> None:
        number = 0
        while not self.over.is_set():
            number += 1
            body = {"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": f"w{writer}-{number}"}}
            code, message = ask("POST", "/api/v1/namespaces/default/configmaps", body)
            if code == 500 and by_change_of_leader(message):
                self.dropped.append(message)
                code, message = ask("POST", "/api/v1/namespaces/default/configmaps", body)
                # The write may have succeeded: etcd's client sends it once at most.
                code = 201 if code == 409 else code
            self.good += code == 201
            if code != 201:
                self.refused.append(f"{code} {message}")
            time.sleep(0.05)


def ask(method: str, path: str, body: dict[str, object] | None = None) -> tuple[int, str]:
    """Status and message of an answer; 0 if there is none."""
    # Its certificate is its own, made at its start.
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    connection = http.client.HTTPSConnection(ADDRESS, PORT, timeout=20, context=context)
    headers = {"Authorization": "Bearer secret", "Content-Type": "application/json"}
    try:
        connection.request(method, path, json.dumps(body) if body else None, headers)
        answer = connection.getresponse()
        text = answer.read().decode()
    except OSError as exc:
        return 0, repr(exc)
    finally:
        connection.close()
    return answer.status, str(json.loads(text).get("message", "")) if text.startswith("{") else text


@pytest.fixture
def cluster(make_cluster: Make, tmp_path: Path) -> Iterator[Cluster]:
    """Three members, and a kube-apiserver that has all of them as its endpoints."""
    found = make_cluster(3, "3.6.14")
    found.found()
    (tmp_path / "tokens").write_text("secret,admin,1,system:masters\n")
    key = tmp_path / "sa.key"
    subprocess.run(["openssl", "genrsa", "-out", str(key), "2048"], check=True, stderr=subprocess.DEVNULL)
    ca, cert, etcd_key = found[0].files
    flags = {
        "etcd-servers": ",".join(member.endpoint for member in found.members),
        "etcd-cafile": ca,
        "etcd-certfile": cert,
        "etcd-keyfile": etcd_key,
        "bind-address": ADDRESS,
        "advertise-address": ADDRESS,
        "cert-dir": tmp_path / "own",
        "token-auth-file": tmp_path / "tokens",
        "authorization-mode": "AlwaysAllow",
        "service-cluster-ip-range": "10.96.0.0/16",
        "service-account-issuer": "https://test",
        "service-account-key-file": key,
        "service-account-signing-key-file": key,
        "endpoint-reconciler-type": "none",
        "disable-admission-plugins": "ServiceAccount",
    }
    with (tmp_path / "log").open("ab") as log:
        process = subprocess.Popen(
            [kubernetes_program("kube-apiserver"), *(f"--{name}={value}" for name, value in flags.items())],
            stdout=log,
            stderr=log,
            cwd=tmp_path,
        )
    try:
        wait_until("kube-apiserver is not ready", lambda: ask("GET", "/readyz")[0] == 200, 120)
        wait_until("the namespace is not there", lambda: ask("GET", "/api/v1/namespaces/default")[0] == 200, 60)
        yield found
    finally:
        process.terminate()
        process.wait(60)


@pytest.mark.long
@pytest.mark.parametrize("moves", [False, True])
def test_a_change_of_leader_drops_writes_and_nothing_else_does(cluster: Cluster, moves: bool) -> None:
    """No write fails when a follower stops. When the leader stops, etcd drops some writes, even after a transfer of leadership. A second attempt succeeds."""
    load = Load()
    threads = [threading.Thread(target=load.write, args=(number,)) for number in range(WRITERS)]
    for thread in threads:
        thread.start()
    dropped = 0
    try:
        for _round in range(2):
            # The leader last, as in every rolling change.
            for member in sorted(cluster.members, key=lambda item: item.leads()):
                is_leader, before = member.leads(), len(load.dropped)
                if is_leader and moves:
                    with next(item for item in cluster.members if item is not member).client() as client:
                        heir = client.status().member_id
                    cluster.etcdctl("move-leader", f"{heir:x}", endpoints=[member])
                member.signal(signal.SIGTERM)
                cluster.start_as_published([member])
                cluster.wait([member])
                # A write that was lost on its way times out after seven seconds.
                time.sleep(8)
                assert is_leader or len(load.dropped) == before, "a follower that stops drops no write"
                dropped += len(load.dropped) - before
    finally:
        load.over.set()
        for thread in threads:
            thread.join()
    print(
        f"moved: {moves}; {load.good} writes, {dropped} dropped in 2 changes of the leader: {sorted({*load.dropped})}"
    )
    assert load.refused == [] and load.good > 500
