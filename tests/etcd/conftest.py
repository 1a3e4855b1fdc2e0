"""Real etcd processes without hosts, to test in seconds what the collection assumes about etcd.

Every test process has its own network namespace. Each member has one too, with the address that its peers see.
Certificates are made by the code of etcd_pki, flags are those that kubeadm_etcd_config writes, and etcd is the lab's
(built on first use). A kill -9 of all members stands for a power cut: etcd has no chance to write anything more, and
what it has written stays.
"""

from __future__ import annotations

import base64
import contextlib
import ctypes
import functools
import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.kubeadm.etcd.plugins.module_utils._etcd import health as _health
from ansible_collections.kubeadm.etcd.plugins.module_utils._etcd.client import EtcdClient
from ansible_collections.kubeadm.etcd.plugins.module_utils._host import kubeadm as _kubeadm
from ansible_collections.kubeadm.etcd.plugins.module_utils._pki import state as _pki
from ansible_collections.kubeadm.etcd.plugins.module_utils._pki import steps as _pki_steps
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.errors import EtcdError

ROOT = Path(__file__).resolve().parents[2]
LAB = ROOT / "lab" / "lab"
VERSIONS = ("3.5.35", "3.6.14", "3.7.3")
NEWNET = 0x40000000
MOST_MEMBERS = 5
# The names of the page, and a network that only the tests see.
NAMES = [f"infra{number}" for number in range(MOST_MEMBERS)]
ADDRESSES = {name: f"10.77.0.{number + 1}" for number, name in enumerate(NAMES)}
# How long a member may take for what takes it a second or two on a quiet machine.
PATIENCE = 30.0


def wait_until(said: str, condition: Callable[[], object], seconds: float = PATIENCE, every: float = 0.05) -> None:
    """Poll a condition; fail the test with these words if it does not become true in time. every: seconds between two looks."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"after {seconds:.0f} s: {said}")
        time.sleep(every)


@functools.lru_cache(maxsize=None)
def program(name: str, version: str) -> str:
    """Path of etcd, etcdctl or etcdutl of a version, built if it is not in the lab's cache."""
    return built("--etcd", version, "--only", name)


def kubernetes_program(name: str) -> str:
    """The same for a program of Kubernetes, in the lab's own version."""
    return built("--only", name)


def built(*arguments: str) -> str:
    """Path of a program of the lab."""
    # The tests are in a network namespace of their own: what has to be built is built outside of it.
    outside = ["nsenter", f"--net=/proc/{os.getppid()}/ns/net", "--"]
    done = subprocess.run(
        [*outside, str(LAB), "build", *arguments], check=True, text=True, stdout=subprocess.PIPE, timeout=1800
    )
    return done.stdout.strip()


# --- Network and certificates ---------------------------------------------------------------------------------------


def _libc(call: str, *arguments: int) -> None:
    """A system call for namespaces, which Python has only from 3.12 on."""
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, call)(*arguments) != 0:
        raise OSError(ctypes.get_errno(), call)


def _ip(*arguments: str, inside: int | None = None) -> None:
    enter = [] if inside is None else ["nsenter", f"--net=/proc/{inside}/ns/net"]
    subprocess.run([*enter, "ip", *arguments], check=True, timeout=30)


@pytest.fixture(scope="package")
def network() -> Iterator[dict[str, int]]:
    """Makes a namespace for each member, and one with a bridge for the tests. Yields by member a process that holds its namespace."""
    before = os.open("/proc/self/ns/net", os.O_RDONLY)
    _libc("unshare", NEWNET)
    holders = []
    try:
        _ip("link", "set", "lo", "up")
        _ip("link", "add", "br0", "type", "bridge")
        _ip("addr", "add", "10.77.0.100/24", "dev", "br0")
        _ip("link", "set", "br0", "up")
        for number, address in enumerate(ADDRESSES.values()):
            # It ends with the tests, however they end.
            holder = subprocess.Popen(
                ["unshare", "--net", "sh", "-c", "echo; exec cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )
            holders.append(holder)
            assert holder.stdout and holder.stdout.readline() == b"\n"
            _ip("link", "add", f"m{number}", "type", "veth", "peer", "name", "eth0", "netns", str(holder.pid))
            _ip("link", "set", f"m{number}", "master", "br0", "up")
            _ip("link", "set", "lo", "up", inside=holder.pid)
            _ip("addr", "add", f"{address}/24", "dev", "eth0", inside=holder.pid)
            _ip("link", "set", "eth0", "up", inside=holder.pid)
        yield {name: holder.pid for name, holder in zip(NAMES, holders)}
    finally:
        for holder in holders:
            holder.communicate(b"", timeout=10)
        _libc("setns", before, NEWNET)
        os.close(before)


def pki_spec(directory: Path, name: str) -> _pki.PkiSpec:
    """What the certificates of a member are to be. Elliptic curves: their keys are made in no time."""
    return _pki.PkiSpec.from_params(
        {
            "pki_dir": str(directory / name / "pki"),
            "work_dir": str(directory / name / "work"),
            "name": name,
            "address": ADDRESSES[name],
            "encryption_algorithm": "ECDSA-P256",
        }
    )


def issue(directory: Path) -> None:
    """A CA, and certificates for all members, by the steps that the roles take: requests travel, keys do not."""
    now = datetime.now(timezone.utc)
    ca_spec = pki_spec(directory, NAMES[0])
    ca = _pki_steps.step_ca(ca_spec, None, None, "", False, now)["ca_cert"]
    asked = [
        {
            "host": name,
            "name": name,
            "address": ADDRESSES[name],
            "csrs": _pki_steps.step_request(pki_spec(directory, name), ca, False, now)["csrs"],
        }
        for name in NAMES
    ]
    signed = _pki_steps.step_sign(ca_spec, asked, False, now)["signed"]
    for name in NAMES:
        _pki_steps.step_install(pki_spec(directory, name), ca, signed[name], False, now)


@pytest.fixture(scope="session")
def issued(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Certificates for five members, made once."""
    directory = tmp_path_factory.mktemp("pki")
    issue(directory)
    return directory


# --- Members ----------------------------------------------------------------------------------------------------------


def encoded(text: str) -> str:
    """Keys and values as the gateway takes them."""
    return base64.b64encode(text.encode()).decode()


@dataclass
class Member:
    """One etcd process, its files and its clients."""

    name: str
    version: str
    namespace: int
    directory: Path
    process: subprocess.Popen[bytes] | None = None
    # As the membership tells them, for a member that joins.
    peers: tuple[tuple[str, str], ...] = ()

    @property
    def endpoint(self) -> str:
        """Its client URL."""
        return f"https://{ADDRESSES[self.name]}:2379"

    @property
    def pki(self) -> Path:
        """Where its certificates are."""
        return self.directory / self.name / "pki"

    @property
    def data(self) -> Path:
        """Its data directory."""
        return self.directory / self.name / "data"

    @property
    def log(self) -> Path:
        """What all its processes have written, one after the other."""
        return self.directory / f"{self.name}.log"

    @property
    def files(self) -> tuple[str, str, str]:
        """CA, certificate and key of a client, as EtcdClient takes them."""
        return tuple(
            str(self.pki / "etcd" / f"{n}") for n in ("ca.crt", "healthcheck-client.crt", "healthcheck-client.key")
        )  # type: ignore[return-value]

    def flags(self, state: str, members: list[str], published: bool, extra: dict[str, str]) -> list[str]:
        """The command line: what this collection gives to kubeadm, and what kubeadm adds to it (1.32 to 1.37).

        Without kubeadm's check for corruption at the start: it asks peers that are starting too, 7 s for each (etcd 3.6, 3.7).
        """
        spec = _kubeadm.ConfigSpec.from_params(
            {
                "name": self.name,
                "address": ADDRESSES[self.name],
                "members": [{"name": name, "address": ADDRESSES[name]} for name in members],
                "initial_cluster_state": state,
                "published": published,
                "data_dir": str(self.data),
                "pki_dir": str(self.pki),
                "extra_args": extra,
            }
        )
        spec = replace(spec, peers=self.peers)
        etcd = self.pki / "etcd"
        kubeadms = {
            "data-dir": spec.data_dir,
            "listen-metrics-urls": "http://127.0.0.1:2381",
            "snapshot-count": "10000",
            "client-cert-auth": "true",
            "peer-client-cert-auth": "true",
            "trusted-ca-file": etcd / "ca.crt",
            "peer-trusted-ca-file": etcd / "ca.crt",
            **{
                f"{prefix}{end}-file": etcd / f"{kind}.{suffix}"
                for prefix, kind in (("", "server"), ("peer-", "peer"))
                for end, suffix in (("cert", "crt"), ("key", "key"))
            },
        }
        return [f"--{name}={value}" for name, value in {**kubeadms, **dict(_kubeadm.arguments(spec))}.items()]

    def start(self, state: str, members: list[str], published: bool = False, **extra: str) -> None:
        """Start etcd and return at once. published: with the flags of a member that has been one before."""
        assert self.process is None or self.process.poll() is not None
        enter = ["nsenter", f"--net=/proc/{self.namespace}/ns/net", "setpriv", "--pdeathsig", "KILL", "--"]
        self.data.mkdir(parents=True, exist_ok=True, mode=0o700)
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*enter, program("etcd", self.version), *self.flags(state, members, published, extra)],
                stdout=log,
                stderr=log,
            )

    def signal(self, number: int) -> None:
        """SIGKILL, SIGTERM, SIGSTOP, SIGCONT. Those that end it are waited for."""
        if self.process and self.process.poll() is None:
            self.process.send_signal(number)
            if number in (signal.SIGKILL, signal.SIGTERM):
                self.process.wait(PATIENCE)

    @property
    def running(self) -> bool:
        """Whether its process lives."""
        return self.process is not None and self.process.poll() is None

    def leads(self) -> bool:
        """Whether it is the leader."""
        with self.client() as client:
            status = client.status()
        return status.leader == status.member_id

    def last_words(self) -> str:
        """Wait for a process that ends by itself, and return what its log has of level fatal or panic."""
        wait_until(f"{self.name} still runs", lambda: not self.running)
        lines = [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]
        return " ".join(str(line) for line in lines if line["level"] in ("fatal", "panic"))

    def lose(self) -> None:
        """Its volume is not mounted: an empty directory is in its place."""
        self.data.rename(self.data.with_name("volume"))
        self.data.mkdir(mode=0o700)

    def find(self) -> None:
        """Its volume is mounted again, over files that were written meanwhile."""
        shutil.rmtree(self.data)
        self.data.with_name("volume").rename(self.data)

    def client(self, timeout: float = 2.0) -> EtcdClient:
        """Our client, with the certificate that our probes use."""
        return EtcdClient(self.endpoint, *self.files, timeout=timeout)

    def healthy(self) -> bool:
        """Whether it can read through the log."""
        try:
            with self.client() as client:
                return client.health()[0]
        except EtcdError:
            return False

    def listens(self) -> bool:
        """Whether its client port is open."""
        with contextlib.suppress(OSError), socket.create_connection((ADDRESSES[self.name], 2379), 1.0):
            return True
        return False

    def settled(self) -> bool:
        """Whether it has learnt the cluster version: before that it does not let others join."""
        with self.client() as client:
            return client.cluster_version().startswith("3.")

    def put(self, key: str, value: str = "there") -> bool:
        """Write, and return whether the cluster has acknowledged it."""
        try:
            with self.client() as client:
                client.call("kv/put", {"key": encoded(key), "value": encoded(value)})
        except EtcdError:
            return False
        return True


def overfill(member: Member) -> None:
    """Write one large value until etcd refuses it.

    How often it takes the value depends on the machine: etcd compares the quota with the size of its database as last written, every 100 ms.
    """
    wait_until("etcd takes every value", lambda: not member.put("big", "x" * 1_000_000))


def peer_url(name: str) -> str:
    """Where its peers reach a member."""
    return f"https://{ADDRESSES[name]}:2380"


def restore(member: Member, snapshot: Path, names: list[str]) -> None:
    """Replace the data of a member that does not run by a snapshot, with etcd's own tool."""
    shutil.rmtree(member.data, ignore_errors=True)
    command = [program("etcdutl", member.version), "snapshot", "restore", str(snapshot), "--data-dir", str(member.data)]
    command += ["--name", member.name, "--initial-cluster", ",".join(f"{name}={peer_url(name)}" for name in names)]
    command += ["--initial-advertise-peer-urls", peer_url(member.name)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=60)


@dataclass
class Cluster:
    """Members of one version, and what the tests ask of them together."""

    members: list[Member]
    directory: Path
    version: str
    names: list[str] = field(default_factory=list)

    def __getitem__(self, number: int) -> Member:
        return self.members[number]

    def wait(self, members: list[Member] | None = None) -> None:
        """Until members (all of them) are healthy."""
        for member in self.members if members is None else members:
            wait_until(f"{member.name} is not healthy: {member.log}", member.healthy)

    def found(self, **extra: str) -> None:
        """Start a new cluster, as on a first run."""
        for member in self.members:
            member.start("new", self.names, **extra)
        self.wait()
        # As that of any cluster older than a few seconds: agreed on its version, by every member.
        for member in self.members:
            wait_until(f"{member.name} knows no cluster version", member.settled)
        # A member learns with the next entry of the log that the one before is committed, and keeps it over a restart.
        for key in ("one", "another", "a third"):
            self.write(key)

    def start_as_published(self, members: list[Member] | None = None, **extra: str) -> None:
        """Start members (all of them) with the flags that a member gets once it has published."""
        for member in self.members if members is None else members:
            member.start("existing", self.names, published=True, **extra)

    def write(self, key: str) -> None:
        """Until the cluster acknowledges a write by its first member: after the loss of a leader it takes an election."""
        wait_until(f"{key} is not acknowledged", lambda: self[0].put(key))

    def power_cut(self) -> None:
        """End all at once."""
        for member in self.members:
            if member.running:
                member.process.send_signal(signal.SIGKILL)  # type: ignore[union-attr]
        for member in self.members:
            member.signal(signal.SIGKILL)

    def etcdctl(
        self, *arguments: str, endpoints: list[Member] | None = None, check: bool = True, timeout: float = 60
    ) -> str:
        """A client that we did not write."""
        ca, cert, key = self[0].files
        asked = ",".join(member.endpoint for member in (self.members if endpoints is None else endpoints))
        done = subprocess.run(
            [
                program("etcdctl", "3.6.14"),
                "--cacert",
                ca,
                "--cert",
                cert,
                "--key",
                key,
                "--endpoints",
                asked,
                *arguments,
            ],
            text=True,
            capture_output=True,
            timeout=timeout,
            check=False,
        )
        assert done.returncode == 0 or not check, done.stderr
        return done.stdout

    def values(self, key: str) -> list[str]:
        """What each running member has itself for a key, without asking the others."""
        found = []
        for member in self.members:
            if member.running:
                arguments = ("get", "--consistency=s", "--print-value-only", key)
                found.append(self.etcdctl(*arguments, endpoints=[member]).strip())
        return found

    def agree(self, revision: int = 0) -> bool:
        """Whether all members have the same data at the same revision, as etcdctl tells it. revision: 0 for the latest."""
        # A member that reads through the log has what was acknowledged before.
        self.wait()
        found = json.loads(self.etcdctl("endpoint", "hashkv", f"--rev={revision}", "-w", "json"))
        revisions = {revision or item["HashKV"]["header"]["revision"] for item in found}
        return len(revisions) == len({item["HashKV"]["hash"] for item in found}) == 1

    def revision(self) -> int:
        """The latest revision that all members have."""
        found = json.loads(self.etcdctl("endpoint", "status", "-w", "json"))
        return min(int(item["Status"]["header"]["revision"]) for item in found)

    def look(self) -> _health.Report:
        """The judgement of etcd_health."""
        seen = _health.look_at_all([(m.name, m.endpoint) for m in self.members], self[0].files, 5.0)
        return _health.evaluate(seen, time.time(), 0.0)


def takes_no_write(members: list[Member], seconds: float = 3.0) -> bool:
    """Whether these members acknowledge no write during the time of several elections. Those that run may have just been started."""
    for member in members:
        wait_until(f"{member.name} does not listen", lambda member=member: not member.running or member.listens())
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if any(member.put("from", "another cluster") for member in members if member.running):
            return False
    return True


Make = Callable[..., Cluster]


@pytest.fixture
def make_cluster(network: dict[str, int], issued: Path, tmp_path: Path) -> Iterator[Make]:
    """Makes clusters of a number of members and a version, on the same addresses; all processes end with the test."""
    made: list[Cluster] = []
    # Also those that a test takes out of its cluster.
    every: list[Member] = []

    def make(count: int, version: str) -> Cluster:
        directory = tmp_path / f"cluster{len(made)}"
        shutil.copytree(issued, directory)
        names = NAMES[:count]
        members = [Member(name, version, network[name], directory) for name in names]
        every.extend(members)
        made.append(Cluster([*members], directory, version, names))
        return made[-1]

    yield make
    for member in every:
        member.signal(signal.SIGKILL)
    for member in every:
        # etcd allocates 64 MiB for each write-ahead log, so data directories are removed. The text logs stay.
        shutil.rmtree(member.directory / member.name)


def each_version(function: Any) -> Any:
    """Run a test with etcd of each minor version that is supported."""
    return pytest.mark.parametrize("version", VERSIONS)(function)


def other_versions_long(function: Any) -> Any:
    """Run a test with etcd 3.6, and in `make test-long` with the other versions too: what it shows is about our code."""
    others = [pytest.param(version, marks=pytest.mark.long) for version in VERSIONS if version != "3.6.14"]
    return pytest.mark.parametrize("version", ["3.6.14", *others])(function)
