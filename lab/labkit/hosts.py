"""Labs and their hosts: podman containers that boot systemd, one network per lab, a directory per lab."""

from __future__ import annotations

import io
import json
import os
import re
import resource
import shlex
import shutil
import socket
import tarfile
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from . import network
from .image import VersionSet
from .inventory import render_inventory, render_known_hosts, ssh_options
from .process import LabError, attempt, locked, run, say, step
from .settings import check_name, parse_version

LABEL = "kubeadm-etcd-lab"
READY_SECONDS = 180.0
_PARALLEL = 4
_SSH_PORT = 22
# Overlay on overlay does not work: these need volumes of their own.
_VOLUMES = ("/var/lib/containerd", "/var/lib/etcd", "/var/lib/kubelet")
# What the host image runs.
_INIT = "/sbin/init"
# podman's states of a container whose creation was interrupted.
_NEVER_STARTED = ("created", "configured", "initialized")
# A container that was killed together with podman's monitor, for example because a session ended. podman reports it as running, and can neither
# stop nor start it.
_KILLED = "killed"
# What systemd says when a boot has ended.
_SETTLED = (["running"], ["degraded"])
# What a fresh host must say once it has booted: "running", "active", "active".
_READY_SCRIPT = "systemctl is-system-running; systemctl is-active containerd.service lab-images.service"
_STATUS_SCRIPT = """
systemctl is-active kubelet.service
python3 - <<'END'
import urllib.request
try:
    answer = urllib.request.urlopen("http://127.0.0.1:2381/readyz", timeout=2)
    print("ready" if answer.status == 200 else "not ready")
except urllib.error.HTTPError:
    print("not ready")
except Exception:
    print("-")
END
"""

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_parallel(action: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """Do the same for several hosts at once. Waits for all of them, then raises the first failure."""
    with ThreadPoolExecutor(_PARALLEL) as pool:
        return list(pool.map(action, items))


@dataclass(frozen=True)
class Facts:
    """What a lab is, as kept in lab.json."""

    name: str
    subnet: str
    kubernetes: str
    etcd: str
    hosts: int
    images: str = "all"

    @property
    def versions(self) -> VersionSet:
        """The versions of the lab."""
        return VersionSet(parse_version(self.kubernetes), parse_version(self.etcd))


@dataclass(frozen=True)
class HostStatus:
    """One line of `lab status`."""

    name: str
    address: str
    state: str
    kubelet: str
    etcd: str


class Lab:
    """One lab: its directory, its network, its hosts."""

    def __init__(self, state: Path, name: str) -> None:
        """The lab `name` of a state directory, whether or not it is there yet."""
        self.state = state
        self.name = check_name(name)
        self.directory = state / "labs" / name
        self.key = self.directory / "id_ed25519"
        self.known_hosts = self.directory / "known_hosts"
        self.inventory = self.directory / "inventory.yml"
        self.network = f"kubeadm-etcd-{name}"

    # What there is

    def lock(self) -> Any:
        """Held by every command that changes the lab."""
        return locked(self.state / "labs" / f".{self.name}.lock", f"changes the lab {self.name}")

    def exists(self) -> bool:
        """Whether this lab exists, complete or not."""
        return (self.directory / "lab.json").is_file()

    def facts(self) -> Facts:
        """What the lab is."""
        if not self.exists():
            raise LabError(
                f"there is no lab {self.name!r} (`lab list` shows those there are, `lab up --name NAME` makes one)"
            )
        return Facts(**json.loads((self.directory / "lab.json").read_text()))

    def host_names(self) -> list[str]:
        """infra0, infra1 ..."""
        return [f"infra{i}" for i in range(self.facts().hosts)]

    def check_host(self, host: str) -> str:
        """A host's name, if the lab has it."""
        names = self.host_names()
        if host not in names:
            raise LabError(f"the lab {self.name!r} has no host {host!r}: it has {', '.join(names)}")
        return host

    def container(self, host: str) -> str:
        """The name of a host's container."""
        return f"{self.name}-{host}"

    def address(self, host: str) -> str:
        """The address of a host: it follows from its number, and stays when the host is wiped."""
        return network.address(self.facts().subnet, int(host[len("infra") :]))

    def container_states(self) -> dict[str, str]:
        """Host name to podman's word for its state (or ours, if podman is wrong), for those that have a container."""
        out = run(["podman", "ps", "-a", "--filter", f"label={LABEL}={self.name}", "--format", "json"])
        containers: list[dict[str, Any]] = json.loads(out or "[]")
        for container in containers:
            owner = container["Labels"].get(f"{LABEL}.directory")
            if owner != str(self.state):
                raise LabError(f"a lab {self.name!r} is kept by another directory, {owner}: choose another --name")
        return {c["Names"][0][len(self.name) + 1 :]: _state(c["State"], c["Pid"]) for c in containers}

    def _storage_only(self) -> list[str]:
        """Containers that podman began to make when it was killed: it lists their storage only, without labels."""
        containers = json.loads(run(["podman", "ps", "-a", "--external", "--format", "json"]) or "[]")
        names = [name for c in containers if c["State"].lower() == "storage" for name in c["Names"]]
        return [name for name in names if re.fullmatch(rf"{re.escape(self.name)}-infra\d+", name)]

    # Up and down

    def create(self, facts: Facts, subnet: str | None) -> None:
        """Make the lab's directory and network."""
        self.container_states()
        chosen = self._make_network(subnet, facts.hosts)
        self.directory.mkdir(parents=True, exist_ok=True)
        self.directory.chmod(0o700)
        if not self.key.exists():
            _make_key(self.key, f"lab {self.name}")
        self._save(Facts(**{**asdict(facts), "subnet": chosen}))

    def _make_network(self, subnet: str | None, hosts: int) -> str:
        """Make the lab's network on a subnet that is free and large enough, and return the subnet."""
        with locked(self.state / "network.lock", "chooses a subnet"):
            attempt(["podman", "network", "rm", self.network])
            chosen = network.choose_subnet(network.used_subnets(), subnet)
            network.address(str(chosen), hosts - 1)
            command = ["podman", "network", "create", "--driver", "bridge", "--disable-dns"]
            command += ["--label", f"{LABEL}={self.name}", "--label", f"{LABEL}.directory={self.state}"]
            command += ["--ipv6"] if chosen.version == 6 else []
            run([*command, "--subnet", str(chosen), "--gateway", network.gateway(str(chosen)), self.network])
        return str(chosen)

    def _save(self, facts: Facts) -> None:
        fresh = self.directory / "lab.json.new"
        fresh.write_text(json.dumps(asdict(facts), indent=2) + "\n")
        fresh.replace(self.directory / "lab.json")

    def grow(self, hosts: int) -> None:
        """Let the lab have this many hosts from now on."""
        facts = self.facts()
        network.address(facts.subnet, hosts - 1)
        self._save(Facts(**{**asdict(facts), "hosts": hosts}))

    def start(self, image: Callable[[], str], only: list[str] | None = None) -> None:
        """Make the hosts that have no container, start those that are stopped, and wait until all are ready."""
        names = self.host_names() if only is None else only
        states = self.container_states()
        killed = [n for n in names if states.get(n) == _KILLED]
        if killed:
            say(f"{', '.join(killed)}: killed from outside; podman cannot start them again, so they are made anew")
        unusable = [n for n in names if states.get(n) in _NEVER_STARTED] + killed
        rubbish = [self.container(host) for host in unusable] + self._storage_only()
        if rubbish:
            _remove(rubbish)
        fresh = [n for n in names if n not in states or n in unusable]
        stopped = [n for n in names if n not in fresh and states[n] != "running"]
        running = [n for n in names if n not in fresh and n not in stopped]
        self._write_files()
        if attempt(["podman", "network", "exists", self.network])[0] != 0:
            self._make_network(self.facts().subnet, self.facts().hosts)
        if fresh:
            tag = image()
            with step(f"making {', '.join(fresh)}"):
                in_parallel(lambda host: self._create_host(host, tag), fresh)
        if stopped:
            with step(f"starting {', '.join(stopped)}"):
                in_parallel(lambda host: run(["podman", "start", self.container(host)]), stopped)
        if fresh or stopped:
            network.fix_bridge_address(self.network, network.gateway(self.facts().subnet))
            with step(f"waiting for {', '.join(fresh + stopped)} to boot"):
                in_parallel(lambda host: self._wait_ready(host, host in fresh), fresh + stopped)
        # Those that run may still be booting, if the command that started them was interrupted.
        in_parallel(lambda host: self._wait_ready(host, fresh=False), running)
        for host in stopped:
            if self._cut_mark(host).exists():
                self._apply_cut(host)

    def _write_files(self) -> None:
        """Host keys, known_hosts and the inventory."""
        names = self.host_names()
        public = []
        for host in names:
            key = self._host_key(host)
            if not key.exists():
                key.parent.mkdir(parents=True, exist_ok=True)
                _make_key(key, host)
            public.append((host, self.address(host), Path(f"{key}.pub").read_text()))
        self.known_hosts.write_text(render_known_hosts(public))
        addresses = [(host, address) for host, address, _ in public]
        self.inventory.write_text(render_inventory(self.name, addresses, self.key, self.known_hosts))

    def _host_key(self, host: str) -> Path:
        return self.directory / "hosts" / host / "ssh_host_ed25519_key"

    def _create_host(self, host: str, image: str) -> None:
        """Make and start one host. Why each option is there: lab/README.md."""
        files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        processes = resource.getrlimit(resource.RLIMIT_NPROC)[1]
        container, address = self.container(host), self.address(host)
        images = self.facts().images
        run(
            ["podman", "--runtime", "runc", "create", "--name", container, "--hostname", host, "--privileged"]
            # No name server listens there, so that lookups fail at once instead of timing out.
            + ["--dns", "127.0.0.1", "--no-hosts"]
            + ["--cgroupns=private", "--systemd=false", "-e", "container=podman", "-e", f"LAB_IMAGES={images}"]
            + ["--stop-signal=RTMIN+3", "--tmpfs", "/run", "--tmpfs", "/run/lock", "--tmpfs", "/tmp:exec"]  # noqa: S108  in the host
            + ["--ulimit", f"nofile={_ulimit(files, 1048576)}", "--ulimit", f"nproc={_ulimit(processes, 10000)}"]
            + [word for volume in _VOLUMES for word in ("-v", volume)]
            + ["--network", self.network, "--ip6" if ":" in address else "--ip", address]
            + ["--mac-address", network.mac_address(address)]
            + ["--label", f"{LABEL}={self.name}", "--label", f"{LABEL}.directory={self.state}", image]
        )
        run(["podman", "cp", "--archive=false", "-", f"{container}:/"], stdin=self._own_files(host))
        run(["podman", "--runtime", "runc", "start", container])

    def _own_files(self, host: str) -> bytes:
        """What makes a host of an image, as a tar archive: its name, its ssh host key, the lab's key for its users."""
        key = self._host_key(host)
        authorized = Path(f"{self.key}.pub").read_bytes()
        admin = 1000
        hosts = f"127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n{self.address(host)} {host}\n"
        data = io.BytesIO()
        with tarfile.open(fileobj=data, mode="w") as archive:
            for name, owner, mode, content in (
                ("etc/hosts", 0, 0o644, hosts.encode()),
                ("etc/ssh/ssh_host_ed25519_key", 0, 0o600, key.read_bytes()),
                ("etc/ssh/ssh_host_ed25519_key.pub", 0, 0o644, Path(f"{key}.pub").read_bytes()),
                ("root/.ssh", 0, 0o700, None),
                ("root/.ssh/authorized_keys", 0, 0o600, authorized),
                ("home/admin/.ssh", admin, 0o700, None),
                ("home/admin/.ssh/authorized_keys", admin, 0o600, authorized),
            ):
                entry = tarfile.TarInfo(name)
                entry.uid = entry.gid = owner
                entry.mode, entry.mtime = mode, int(time.time())
                if content is None:
                    entry.type = tarfile.DIRTYPE
                    archive.addfile(entry)
                else:
                    entry.size = len(content)
                    archive.addfile(entry, io.BytesIO(content))
        return data.getvalue()

    def _wait_ready(self, host: str, fresh: bool) -> None:
        """Wait until a host has booted and its sshd answers. A fresh host must also have all images and no failed unit.

        On a host in use, units may have been broken on purpose.
        """
        deadline = time.monotonic() + READY_SECONDS
        said = "nothing"
        while time.monotonic() < deadline:
            code, out, err = attempt(["podman", "exec", self.container(host), "sh", "-c", _READY_SCRIPT])
            if code != 0 and "container state improper" in err:
                raise LabError(f"{host} ended while it booted: see `podman logs {self.container(host)}`")
            words = out.split()
            if fresh and words[:1] == ["degraded"]:
                raise LabError(f"{host} booted with failed units: {self._failed_units(host)}")
            settled = words == ["running", "active", "active"] or (not fresh and words[:1] in _SETTLED)
            if settled and _ssh_answers(self.address(host)):
                return
            said = " ".join(words) or err.strip() or said
            time.sleep(0.2)
        raise LabError(f"{host} is not ready after {READY_SECONDS:.0f} s (it says: {said})")

    def _failed_units(self, host: str) -> str:
        out = attempt(["podman", "exec", self.container(host), "systemctl", "--failed", "--plain", "--no-legend"])[1]
        return ", ".join(line.split()[0] for line in out.splitlines() if line.split()) or "none that are named"

    def down(self) -> bool:
        """Remove hosts with their volumes, the network and the directory; tell whether there was anything."""
        existed = self.directory.exists()
        names = [self.container(host) for host in self.container_states()] + self._storage_only()
        if names:
            with step(f"removing {len(names)} hosts of the lab {self.name}"):
                _remove(names)
        if attempt(["podman", "network", "exists", self.network])[0] == 0:
            existed = True
            run(["podman", "network", "rm", "-f", self.network])
        shutil.rmtree(self.directory, ignore_errors=True)
        return existed or bool(names)

    # One host

    def stop(self, host: str, gently: bool = False) -> None:
        """End a host at once, as a power cut does, or let systemd shut down."""
        container = self.container(self.check_host(host))
        if self.container_states().get(host) != "running":
            return
        # Zero seconds of grace is SIGKILL for every process at once.
        run(["podman", "stop", "-t", "60" if gently else "0", container])

    def wipe(self, hosts: list[str], image: Callable[[], str]) -> None:
        """Make hosts fresh again: same name, address and ssh host key, nothing else kept."""
        states = self.container_states()
        for host in hosts:
            self._cut_mark(self.check_host(host)).unlink(missing_ok=True)
        existing = [self.container(host) for host in hosts if host in states]
        tag = image()
        if existing:
            with step(f"removing {', '.join(hosts)}"):
                _remove(existing)
        self.start(lambda: tag, hosts)

    def remove(self, count: int) -> list[str]:
        """Take the last hosts away for good, the opposite of `grow`; their names."""
        names = self.host_names()
        if not 0 < count < len(names):
            raise LabError(
                f"the lab {self.name!r} has {len(names)} hosts: {count} cannot be removed (`lab down` ends it)"
            )
        going = names[-count:]
        states = self.container_states()
        existing = [self.container(host) for host in going if host in states]
        if existing:
            _remove(existing)
        self._save(Facts(**{**asdict(self.facts()), "hosts": len(names) - count}))
        for host in going:
            shutil.rmtree(self.directory / "hosts" / host, ignore_errors=True)
        self._write_files()
        return going

    def bring(self, host: str, archive: Path, program: Path) -> None:
        """Import an image archive into the containerd of a host, and put a program beside the others."""
        container = self.container(self.check_host(host))
        if self.container_states().get(host) != "running":
            raise LabError(f"{host} does not run: `lab start {host}` first")
        run(["podman", "cp", str(program), f"{container}:/usr/bin/{program.name}"])
        # A pipe: /tmp of a host is memory.
        command = f"podman exec -i {container} ctr -n k8s.io images import - <{shlex.quote(str(archive))}"
        run(["sh", "-c", command])

    def _cut_mark(self, host: str) -> Path:
        return self.directory / "hosts" / host / "cut"

    def cut(self, host: str) -> None:
        """Take a host off the network, but for the controller's ssh; it stays off when it is stopped and started."""
        self.check_host(host)
        self._cut_mark(host).touch()
        if self.container_states().get(host) == "running":
            self._apply_cut(host)

    def heal(self, host: str) -> None:
        """Put a host back on the network."""
        self.check_host(host)
        self._cut_mark(host).unlink(missing_ok=True)
        if self.container_states().get(host) == "running":
            self._iptables(host, _HEAL_RULES, check=False)

    def _apply_cut(self, host: str) -> None:
        self._iptables(host, _HEAL_RULES, check=False)
        self._iptables(host, _CUT_RULES, check=True)

    def _iptables(self, host: str, rules: str, check: bool) -> None:
        address = self.address(host)
        # IPv6 finds its neighbours by ICMP: without it the controller's ssh would be cut off too.
        v6 = ":" in address
        script = rules.format(
            iptables="ip6tables" if v6 else "iptables",
            controller=network.gateway(self.facts().subnet),
            neighbours="ip6tables -A LAB_CUT -p icmpv6 -j RETURN" if v6 else ":",
        )
        command = ["podman", "exec", self.container(host), "sh", "-c", script]
        if check:
            run(command)
        else:
            attempt(command)

    # Looking

    def status(self) -> list[HostStatus]:
        """What each host does now."""
        states = self.container_states()

        def one(host: str) -> HostStatus:
            state = states.get(host, "absent")
            kubelet = etcd = "-"
            if state == "running":
                out = attempt(["podman", "exec", self.container(host), "sh", "-c", _STATUS_SCRIPT])[1].split("\n")
                kubelet, etcd = [*out, "-", "-"][:2]
                state = "cut" if self._cut_mark(host).exists() else state
            return HostStatus(host, self.address(host), state, kubelet or "-", etcd or "-")

        return in_parallel(one, self.host_names())

    def ssh_command(self, host: str, user: str, command: list[str]) -> list[str]:
        """The ssh command line to a host."""
        address = self.address(self.check_host(host))
        return ["ssh", "-i", str(self.key), *ssh_options(self.known_hosts), "-l", user, address, *command]


# The controller's ssh and loopback still work. Everything else is dropped, not rejected: peers see a dead cable.
_CUT_RULES = """
set -e
{iptables} -N LAB_CUT
{iptables} -A LAB_CUT -i lo -j RETURN
{iptables} -A LAB_CUT -s {controller} -p tcp --dport 22 -j RETURN
{iptables} -A LAB_CUT -d {controller} -p tcp --sport 22 -j RETURN
{neighbours}
{iptables} -A LAB_CUT -j DROP
{iptables} -I INPUT -j LAB_CUT
{iptables} -I OUTPUT ! -o lo -j LAB_CUT
{iptables} -I FORWARD -j LAB_CUT
"""
_HEAL_RULES = """
for chain in "INPUT" "OUTPUT ! -o lo" "FORWARD"; do {iptables} -D $chain -j LAB_CUT; done
{iptables} -F LAB_CUT
{iptables} -X LAB_CUT
"""


def _remove(containers: list[str]) -> None:
    """Remove containers with their volumes, in any state."""
    command = ["podman", "rm", "-f", "-v", "-t", "0", *containers]
    # The first attempt fails for a container that was killed together with its monitor, the second one succeeds.
    if attempt(command)[0] != 0:
        run(command)


def _state(told: str, pid: int, proc: Path = Path("/proc")) -> str:
    """The state of a container as podman reports it, or killed if podman reports it as running and its process is gone."""
    if told not in ("running", "stopping"):
        return told
    try:
        command = (proc / str(pid) / "cmdline").read_bytes()
    except OSError:
        command = b""
    # A zombie has an empty command line, and the pid may have been reused.
    return told if command.startswith(_INIT.encode()) else _KILLED


def labs(state: Path) -> list[str]:
    """The names of the labs there are."""
    return sorted(p.parent.name for p in (state / "labs").glob("*/lab.json"))


def left_behind(state: Path) -> list[str]:
    """Labs of this state directory that podman knows, whether or not their directory is there."""
    filters = ["--filter", f"label={LABEL}.directory={state}", "--format", "json"]
    containers: list[dict[str, Any]] = json.loads(run(["podman", "ps", "-a", *filters]) or "[]")
    found = {c["Labels"][LABEL] for c in containers}
    for item in network.podman_networks():
        labels = item.get("labels") or {}
        if labels.get(f"{LABEL}.directory") == str(state):
            found.add(labels[LABEL])
    return sorted(found)


def _make_key(path: Path, comment: str) -> None:
    for leftover in (path, Path(f"{path}.pub")):
        leftover.unlink(missing_ok=True)
    run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", str(path)])


def _ulimit(hard: int, wanted: int) -> str:
    """A limit that may be set without CAP_SYS_RESOURCE: not above the one this program runs under."""
    value = wanted if hard == resource.RLIM_INFINITY else min(hard, wanted)
    return f"{value}:{value}"


def _ssh_answers(address: str) -> bool:
    try:
        with socket.create_connection((address, _SSH_PORT), timeout=2) as connection:
            return connection.recv(4) == b"SSH-"
    except OSError:
        return False


def is_terminal() -> bool:
    """Whether standard input and output are a terminal."""
    return os.isatty(0) and os.isatty(1)
