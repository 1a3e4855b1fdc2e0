"""Real hosts for the tests: one lab for the session.

The environment variable KUBEADM_ETCD_TEST_LAB names the lab (default: itest). With several workers, the name of the worker is added.
It is taken down at the end unless KUBEADM_ETCD_KEEP_LAB is set.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
LAB = ROOT / "lab" / "lab"
LAB_NAME = os.environ.get("KUBEADM_ETCD_TEST_LAB", "itest") + os.environ.get("PYTEST_XDIST_WORKER", "")

# What a run without changes leaves as it is: content, mode, owner and time of everything under /etc, the names under the data
# directory, and the state of units.
FINGERPRINT = r"""
find /etc -xdev \( -type f -o -type d -o -type l \) -printf '%p %y %m %U:%G %T@ %l\n' | LC_ALL=C sort
find /etc -xdev -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum
find /var/lib/etcd -printf '%p %y %m %U:%G\n' | LC_ALL=C sort
find /root /tmp /run/kubeadm* -maxdepth 2 -not -path '*/.ansible*' -not -path '/tmp/systemd*' -printf '%p\n' 2>/dev/null | LC_ALL=C sort
systemctl show kubelet containerd ssh -p Id,UnitFileState,LoadState,ExecStart --no-pager | sed 's/start_time=.*//'
systemctl is-enabled kubelet
# A kubelet without configuration starts again and again.
[ ! -e /etc/kubernetes/kubeadm-etcd/kubelet.yaml ] || systemctl show kubelet -p Id,ActiveState,MainPID --no-pager
systemctl show containerd ssh -p Id,ActiveState,MainPID --no-pager
"""

# Waits on a host until etcd is gone, after its manifest.
GONE = "for i in $(seq 60); do pgrep -x etcd >/dev/null || break; sleep 1; done"


@dataclass
class Run:
    """What a playbook run printed and how it ended."""

    code: int
    output: str
    seconds: float

    def recap(self) -> dict[str, dict[str, int]]:
        """The counts of PLAY RECAP by host."""
        found = re.findall(r"^(\S+)\s+: (ok=.*)$", self.output, flags=re.MULTILINE)
        return {host: {k: int(v) for k, v in re.findall(r"(\w+)=(\d+)", counts)} for host, counts in found}

    def changed(self) -> dict[str, int]:
        """Changed tasks by host, where there are any."""
        return {host: counts["changed"] for host, counts in self.recap().items() if counts["changed"]}

    def waited(self) -> list[float]:
        """Seconds for which tasks of a run with -v have waited for members, without those that did not wait."""
        return [seconds for seconds in map(float, re.findall(r"waited: ([0-9.]+)", self.output)) if seconds > 1]


def etcd_archive(kubernetes: str, etcd: str) -> str:
    """The archive of an etcd image."""
    argv = [str(LAB), "images", "--kubernetes", kubernetes, "--etcd", etcd]
    printed = subprocess.run(argv, check=True, text=True, stdout=subprocess.PIPE, timeout=1800).stdout
    return next(line for line in printed.split() if Path(line).name.startswith("etcd-"))


@dataclass
class Lab:
    """A lab of real hosts, and the controller beside it."""

    name: str
    hosts: list[str] = field(default_factory=list)

    def __call__(self, *arguments: str, check: bool = True, timeout: float = 900) -> str:
        """Run a subcommand of lab/lab on this lab."""
        argv = [str(LAB), arguments[0], "--name", self.name, *arguments[1:]]
        done = subprocess.run(argv, text=True, stdout=subprocess.PIPE, timeout=timeout, check=False)
        if check and done.returncode != 0:
            pytest.fail(f"{' '.join(argv)} ended with {done.returncode}:\n{done.stdout}")
        return done.stdout

    def sh(self, host: str, script: str, check: bool = True) -> str:
        """Run a script on a host as root, and return what it prints."""
        return self("exec", host, "--", "bash", "-c", script, check=check)

    @property
    def inventory(self) -> str:
        """Path of the lab's inventory."""
        return self("inventory", "--path").strip()

    def addresses(self) -> dict[str, str]:
        """Address by host."""
        text = Path(self.inventory).read_text(encoding="utf-8")
        return dict(re.findall(r"^    (\S+):\n      ansible_host: \"([^\"]+)\"", text, flags=re.MULTILINE))

    def gateway(self) -> str:
        """The address of this machine in the network of the lab."""
        return re.sub(r"\d+$", "1", self.addresses()[self.hosts[0]])

    def feed(self, host: str, path: Path | str, command: str) -> None:
        """Run a command on a host with a file as its input."""
        argv = ["podman", "exec", "-i", f"{self.name}-{host}", "sh", "-c", command]
        with open(path, "rb") as content:
            subprocess.run(argv, check=True, stdin=content, stdout=subprocess.PIPE, timeout=600)

    def import_image(self, path: str) -> None:
        """Give an image to all hosts."""
        for host in self.hosts:
            self.feed(host, path, "ctr -n k8s.io images import -")

    def play(self, *arguments: str, playbook: str = "site.yml", timeout: float = 600, **environment: str) -> Run:
        """Run a playbook from the checkout against the lab."""
        inventory = environment.pop("inventory", "") or self.inventory
        program = environment.pop("ANSIBLE_PLAYBOOK", str(Path(sys.executable).parent / "ansible-playbook"))
        begin = time.monotonic()
        done = subprocess.run(
            [program, playbook, "-i", inventory, *arguments],
            cwd=environment.pop("CWD", str(ROOT)),
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=timeout,
            check=False,
            env={**os.environ, "ANSIBLE_NOCOLOR": "1", "ANSIBLE_FORCE_COLOR": "0", **environment},
        )
        return Run(done.returncode, done.stdout, time.monotonic() - begin)

    def site(self, *arguments: str, **environment: str) -> Run:
        """Run site.yml and expect it to succeed."""
        run = self.play(*arguments, **environment)
        assert run.code == 0, run.output[-8000:]
        return run

    def fingerprint(self) -> dict[str, list[str]]:
        """By host, all that a run without changes must leave as it is."""
        with ThreadPoolExecutor() as pool:
            found = pool.map(lambda host: self.sh(host, FINGERPRINT, check=False).splitlines(), self.hosts)
            return dict(zip(self.hosts, found))

    def containers(self) -> dict[str, str]:
        """Container ids of etcd by host: a restart makes a new one."""
        script = (
            "ctr -n k8s.io containers ls 'labels.\"io.kubernetes.container.name\"==etcd' -q | while read c; do"
            " ctr -n k8s.io tasks ls | grep \"^$c .*RUNNING\" | cut -d' ' -f1; done"
        )
        return {host: self.sh(host, script).strip() for host in self.hosts}

    def etcdctl(self, host: str, *arguments: str, check: bool = True) -> str:
        """etcdctl of the etcd image, run in the etcd container of a host: a client that we did not write."""
        pki = "/etc/kubernetes/pki/etcd"
        script = (
            f"ctr -n k8s.io tasks exec --exec-id test-{time.monotonic_ns()} {self.containers()[host]} etcdctl"
            f" --cacert {pki}/ca.crt --cert {pki}/healthcheck-client.crt --key {pki}/healthcheck-client.key "
            + " ".join(arguments)
        )
        return self.sh(host, script, check=check)

    def endpoints(self) -> str:
        """The client URLs of the members for etcdctl, without hosts that were added for a control plane."""
        return ",".join(f"https://{address}:2379" for host, address in self.addresses().items() if host in self.hosts)

    def health(self) -> list[dict[str, Any]]:
        """etcdctl's own view of every endpoint."""
        arguments = ("--endpoints", self.endpoints(), "endpoint", "health", "-w", "json")
        # etcdctl exits with 1 if an endpoint is unhealthy, and cannot run on a host whose member is down.
        text = self.etcdctl(self.hosts[0], *arguments, check=False)
        found: list[dict[str, Any]] = json.loads(text) if text.startswith("[") else [{"endpoint": "", "health": False}]
        return found

    def members(self) -> list[dict[str, Any]]:
        """The membership, as etcdctl tells it."""
        found: list[dict[str, Any]] = json.loads(self.etcdctl(self.hosts[0], "member", "list", "-w", "json"))["members"]
        return found

    def fresh(self) -> None:
        """Make all hosts as new."""
        self("wipe", "--all")


def until(said: str, condition: Callable[[], object], seconds: float = 120) -> float:
    """Wait until a condition is true; how long that took."""
    begin = time.monotonic()
    while not condition():
        assert time.monotonic() - begin < seconds, said
        time.sleep(0.5)
    return time.monotonic() - begin


def some_long(cases: Iterable[str]) -> list[Any]:
    """Runs every third row of a table in `make test`, all in `make test-long`. Unit tests cover the logic."""
    rows = list(enumerate(cases))
    return [case if number % 3 == 0 else pytest.param(case, marks=pytest.mark.long) for number, case in rows]


def different(before: dict[str, list[str]], after: dict[str, list[str]]) -> dict[str, list[str]]:
    """Lines of two fingerprints that are not in both, by host."""
    found = {host: sorted(set(before[host]) ^ set(after[host])) for host in before}
    return {host: lines for host, lines in found.items() if lines}


def inventory(lab: Lab, path: Path, hosts: dict[str, str], extra: str = "") -> str:
    """An inventory of its own: hosts with variables as text, and the lab's connection variables."""
    text = Path(lab.inventory).read_text(encoding="utf-8")
    variables = re.findall(r"^    (ansible_(?:user|ssh\w*|python\w*): .*)$", text, flags=re.MULTILINE)
    lines = ["etcd:", "  hosts:"]
    for host, values in hosts.items():
        lines.append(f"    {host}: {{{values}}}")
    lines += ["  vars:", *[f"    {line}" for line in variables], extra]
    target = path / "inventory.yml"
    target.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(target)


def second_address(address: str) -> str:
    """A further address in the network of the lab, for the host that has this one."""
    return re.sub(r"(\d+)$", r"1\1", address)


def set_alarm(cluster: Lab, kind: int, action: str, member: str = "infra1") -> None:
    """Raise or disarm an alarm through the gateway (rpc.proto: NOSPACE = 1, CORRUPT = 2). member: '' for the whole cluster, id 0."""
    number = next(item["ID"] for item in cluster.members() if item["name"] == member) if member else 0
    body = json.dumps({"action": action, "memberID": str(number), "alarm": kind})
    cluster.sh(
        "infra0",
        "python3 - <<'EOF'\n"
        "import ssl, urllib.request\n"
        f"context = ssl.create_default_context(cafile='/etc/kubernetes/pki/etcd/ca.crt')\n"
        f"context.load_cert_chain('/etc/kubernetes/pki/etcd/healthcheck-client.crt', '/etc/kubernetes/pki/etcd/healthcheck-client.key')\n"
        f"url, body = 'https://127.0.0.1:2379/v3/maintenance/alarm', b'{body}'\n"
        "urllib.request.urlopen(url, body, timeout=10, context=context).read()\nEOF",
    )


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    """Three hosts without any Kubernetes state."""
    it = Lab(LAB_NAME, ["infra0", "infra1", "infra2"])
    it("up", "--hosts", "3")
    it.fresh()
    yield it
    if not os.environ.get("KUBEADM_ETCD_KEEP_LAB"):
        it("down")


@pytest.fixture(scope="module")
def cluster(lab: Lab) -> Lab:
    """The lab with a cluster made by site.yml, its CA on infra0. Another test file may have left it in any state."""
    pki = "/etc/kubernetes/pki/etcd"
    # Another test may have moved the CA, or have used an external one.
    if lab.sh("infra0", f"[ -e {pki}/ca.key ] || ls -A {pki} 2>/dev/null || true").strip():
        lab.fresh()
    # A failed test may have left a member without its data.
    if lab.play().code != 0:
        warnings.warn(
            "the cluster that an earlier test file has left could not be used; the lab is made anew", stacklevel=1
        )
        lab.fresh()
        lab.site()
    return lab
