# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Facts about a host: programs, runtime, addresses, ports, disk, leftover files. Read-only.

Each function reads one fact and returns plain data. _control/preflight.py judges the facts on the controller.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import os
import platform
import re
import selectors
import shutil
import socket
import sys
import time
from collections.abc import Mapping
from typing import Any

from ansible_collections.kubeadm.etcd.plugins.module_utils._host import cri as _cri
from ansible_collections.kubeadm.etcd.plugins.module_utils._host.cri import CriError, runtime_answers, runtime_config
from ansible_collections.kubeadm.etcd.plugins.module_utils._host.files import read_bytes, read_text
from ansible_collections.kubeadm.etcd.plugins.module_utils._host.kubelet import DROP_IN, STARTED_WITH, Unit, UnitFile
from ansible_collections.kubeadm.etcd.plugins.module_utils._host.process import run
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.errors import EtcdError

TIMEOUT = 20.0

# Files of a Kubernetes node (control plane or worker).
_LEFTOVERS = (
    "/etc/kubernetes/manifests/kube-apiserver.yaml",
    "/etc/kubernetes/manifests/kube-controller-manager.yaml",
    "/etc/kubernetes/manifests/kube-scheduler.yaml",
    "/etc/kubernetes/admin.conf",
    "/etc/kubernetes/super-admin.conf",
    "/etc/kubernetes/kubelet.conf",
    "/etc/kubernetes/bootstrap-kubelet.conf",
    "/etc/kubernetes/pki/ca.key",
    "/etc/kubernetes/pki/sa.key",
)


def output(argv: list[str]) -> str:
    """The output of a program; empty if it fails, is missing or times out."""
    done = run(argv, TIMEOUT)
    return done.stdout if done.code == 0 else ""


def program_version(argv: list[str]) -> str | None:
    """The first vX.Y.Z in the output of a program; None if there is none."""
    match = re.search(r"v\d+\.\d+\.\d+[^\s]*", output(argv))
    return match.group(0) if match else None


def cgroup_version() -> int:
    """The cgroup version: 1 (also hybrid) or 2, by the same test as the kubelet: whether /sys/fs/cgroup is a cgroup2 filesystem."""
    return 2 if os.path.exists("/sys/fs/cgroup/cgroup.controllers") else 1


def runtime_cgroup_driver(endpoint: str) -> str | None:
    """The cgroup driver of containerd, if the kubelet has to be configured with the same; None if not, or if it is unknown.

    A runtime that reports its driver (CRI RuntimeConfig: containerd 2, CRI-O 1.28) overrides the kubelet's configuration
    (cmd/kubelet/app/server.go, getCgroupDriverFromCRI; all supported kubelets).
    """
    if "containerd" not in endpoint or runtime_answers(endpoint, method="RuntimeConfig") is None:
        return None
    try:
        return cgroup_driver_in(runtime_config(endpoint))
    except CriError:
        return None


def cgroup_driver_in(config: Mapping[str, Any]) -> str | None:
    """The cgroup driver of the default runtime in containerd's configuration; None if that is not runc, or is missing.

    config: of its CRI plugin, as it tells it itself (pkg/cri/config/config.go; seen with containerd 1.6.20).
    """
    containerd = config.get("containerd") or {}
    runtime = (containerd.get("runtimes") or {}).get(containerd.get("defaultRuntimeName")) or {}
    if runtime.get("runtimeType") != "io.containerd.runc.v2":
        return None
    return "systemd" if (runtime.get("options") or {}).get("SystemdCgroup") is True else "cgroupfs"


def addresses() -> dict[str, list[str]]:
    """All addresses of the host's interfaces, each with the words that follow it in the output of ip, such as scope, flags and interface."""
    text = output(["ip", "-o", "addr", "show"])
    found = re.findall(r"\binet6? ([0-9a-fA-F.:]+)(?:/| peer )(.*)", text)
    return {address: rest.split() for address, rest in found}


def default_address() -> str | None:
    """The source address of the default route (IPv4 first), as kubeadm would choose it; None without a route."""
    for family, target in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):
        # OSError: no route, or no IPv6.
        with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
            # Connecting a datagram socket sends nothing. The kernel only chooses a route.
            probe.connect((target, 9))
            return str(probe.getsockname()[0])
    return None


# Attempts, and seconds between them, if the process of a listener is not found: it may just have ended.
_LOOKS, _LOOK_AGAIN = 4, 0.25


def listeners(ports: list[int]) -> dict[str, dict[str, Any]]:
    """The listeners on these ports: {port: {pid, program, argv, full}} for each port in use.

    full: whether the accept queue is full, so that the kernel drops new connections. pid 0: the process is not visible (the kernel,
    another pid namespace).
    """
    for look in range(_LOOKS):
        if look:
            time.sleep(_LOOK_AGAIN)
        found = _listeners(ports)
        if all(listener["argv"] for listener in found.values()):
            break
    return found


def _backlog() -> int:
    """The length of the accept queue of a Go program such as etcd: the maximum that the kernel allows (listen(2))."""
    return int(read_text("/proc/sys/net/core/somaxconn") or 4096)


def _listeners(ports: list[int]) -> dict[str, dict[str, Any]]:
    inodes: dict[str, tuple[int, bool]] = {}
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in (read_text(table) or "").splitlines()[1:]:
            fields = line.split()
            port = int(fields[1].rsplit(":", 1)[1], 16)
            if fields[3] == "0A" and port in ports:
                # For a listening socket, rx_queue is the number of connections that wait to be accepted (net/ipv4/tcp_ipv4.c).
                waiting = int(fields[4].rsplit(":", 1)[-1], 16)
                inodes[fields[9]] = (port, waiting > _backlog())
    found: dict[str, dict[str, Any]] = {
        str(port): {"pid": 0, "program": "unknown", "argv": [], "full": full} for port, full in inodes.values()
    }
    for link in glob.glob("/proc/[0-9]*/fd/*") if inodes else []:
        try:
            target = os.readlink(link)
        except OSError:
            continue
        match = re.match(r"socket:\[(\d+)\]", target)
        if match and match.group(1) in inodes:
            pid = int(link.split("/")[2])
            argv = process_argv(pid)
            program = os.path.basename(argv[0]) if argv else "unknown"
            port, full = inodes[match.group(1)]
            # If several processes listen at different addresses, report the one that is not etcd.
            if program != "etcd" or not found[str(port)]["pid"]:
                found[str(port)] = {"pid": pid, "program": program, "argv": argv, "full": full}
    return found


def process_argv(pid: int) -> list[str]:
    """The command line of a process; empty if it has ended."""
    data = read_bytes(f"/proc/{pid}/cmdline") if os.path.exists(f"/proc/{pid}") else None
    return [part.decode("utf-8", errors="replace") for part in (data or b"").split(b"\0") if part]


def process_started(pid: int) -> float:
    """When a process started, Unix seconds; 0 if it has ended (proc(5): field 22 of stat, ticks since boot)."""
    try:
        text = read_text(f"/proc/{pid}/stat")
    except EtcdError:
        # The process ended between open and read.
        text = None
    if not text:
        return 0.0
    ticks = int(text.rsplit(")", 1)[1].split()[19])
    uptime = time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.time() - uptime + ticks / float(os.sysconf("SC_CLK_TCK"))


def runs_replaced_program(pid: int, program: str) -> bool:
    """Whether a process runs a file other than the present `program`: a new package has replaced it, or a link was changed.

    If `program` is a script that starts the real program, only a removed file can be detected.
    """
    try:
        if os.readlink(f"/proc/{pid}/exe").endswith(" (deleted)"):
            return True
        with open(program, "rb") as handle:
            script = handle.read(2) == b"#!"
        # /proc/PID/exe leads to the running file, even if its name has changed.
        return not script and not os.path.samestat(os.stat(f"/proc/{pid}/exe"), os.stat(program))
    except OSError:
        # The process has just ended, or the program is missing, which is reported elsewhere.
        return False


# The result of a TCP connection attempt: accepted; refused by the host; no answer; no route, or rejected on the way.
OPEN, CLOSED, SILENT, UNREACHABLE = "open", "closed", "silent", "unreachable"


def reach(targets: list[tuple[str, int]], timeout: float = 1.5) -> tuple[dict[str, str], dict[str, str]]:
    """Try TCP connections in parallel. Returns, by "ADDRESS PORT", the result of each, and the source address that the kernel chose."""
    states: dict[str, str] = {}
    sources: dict[str, str] = {}
    pending: dict[socket.socket, str] = {}
    with contextlib.ExitStack() as probes, selectors.DefaultSelector() as selector:
        for address, port in targets:
            target = f"{address} {port}"
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            try:
                probe = probes.enter_context(socket.socket(family, socket.SOCK_STREAM))
                probe.setblocking(False)
                error = probe.connect_ex((address, port))
            except OSError as exc:
                error = exc.errno or errno.EHOSTUNREACH
            states[target] = state_of(error)
            if error in (0, errno.EINPROGRESS):
                sources[target] = str(probe.getsockname()[0])
            if error == errno.EINPROGRESS:
                selector.register(probe, selectors.EVENT_WRITE)
                pending[probe] = target
        deadline = time.monotonic() + timeout
        while pending and time.monotonic() < deadline:
            for key, _mask in selector.select(max(0.0, deadline - time.monotonic())):
                probe = key.fileobj  # type: ignore[assignment]
                selector.unregister(probe)
                states[pending.pop(probe)] = state_of(probe.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))
    return states, sources


def state_of(error: int) -> str:
    """The result of a connection attempt, from its errno (connect(2)). One without a result yet is SILENT."""
    if error == 0:
        return OPEN
    if error == errno.ECONNREFUSED:
        return CLOSED
    return SILENT if error in (errno.EINPROGRESS, errno.ETIMEDOUT) else UNREACHABLE


def free_bytes(path: str) -> int:
    """Free space on the filesystem that holds a path, or would hold it."""
    # A relative path is reported elsewhere.
    path = os.path.abspath(path or os.sep)
    while not os.path.exists(path):
        path = os.path.dirname(path)
    return shutil.disk_usage(path).free


# Entries of a data directory that is etcd's alone: its data, data that was moved aside (member.old), lost+found in the root of a
# filesystem, and etcd's own write test (etcd fileutil.IsDirWriteable).
_OF_ETCD = re.compile(r"member([.-].*)?|lost\+found|\.touch")


def foreign_entries(path: str) -> list[str]:
    """The entries of a directory that are not etcd's; empty if the directory does not exist. A directory with such entries keeps its mode and owner."""
    try:
        return sorted(name for name in os.listdir(path) if not _OF_ETCD.fullmatch(name))
    except OSError:
        return []


def has_content(path: str) -> bool:
    """Whether a directory has entries. A directory that cannot be read counts as not empty."""
    try:
        return bool(os.listdir(path))
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True


def filesystem_of(path: str, mounts: str | None = None) -> str:
    """The type of the filesystem that holds a path, or would hold it. mounts: the text of /proc/self/mounts."""
    text = mounts if mounts is not None else read_text("/proc/self/mounts") or ""
    real = os.path.realpath(os.path.abspath(path or os.sep))
    best, found = -1, ""
    for line in text.splitlines():
        # Blanks in a path are octal escapes (fstab(5)). Of two mounts at the same path, the later one is visible.
        point, kind = (line.split() + ["", "", ""])[1:3]
        point = re.sub(r"\\(\d{3})", lambda match: chr(int(match.group(1), 8)), point)
        if len(point) >= best and (real == point or real.startswith(f"{point.rstrip('/')}/")):
            best, found = len(point), kind
    return found


def data_dir_facts(path: str) -> dict[str, Any]:
    """The data directory: whether it contains a member's data, what else it contains (three names at most), and its type of filesystem."""
    foreign = foreign_entries(path)
    more = [f"{len(foreign) - 3} more"] if len(foreign) > 3 else []
    return {
        "path": path,
        "has_data": has_content(os.path.join(path, "member")),
        "foreign": [*foreign[:3], *more],
        "filesystem": filesystem_of(path),
    }


def swaps() -> list[str]:
    """Devices and files in use as swap."""
    return [line.split()[0] for line in (read_text("/proc/swaps") or "").splitlines()[1:] if line.strip()]


def kubelet_unit() -> Unit:
    """The present state of kubelet.service."""
    names = "LoadState,ActiveState,SubState,UnitFileState,NeedDaemonReload,MainPID"
    text = output(["systemctl", "show", "kubelet.service", "-p", names])
    shown = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    pid = int(shown.get("MainPID") or 0)
    return Unit(
        load_state=shown.get("LoadState", "not-found"),
        active=shown.get("ActiveState") == "active" and shown.get("SubState") == "running",
        # Not enabled-runtime, which ends at the next reboot.
        enabled=shown.get("UnitFileState") in ("enabled", "static"),
        need_reload=shown.get("NeedDaemonReload") == "yes",
        argv=process_argv(pid) if pid else [],
        started=process_started(pid) if pid else 0.0,
        replaced=bool(pid) and runs_replaced_program(pid, shutil.which("kubelet") or ""),
        config=read_text(STARTED_WITH) if pid else None,
    )


def kubelet_drop_ins() -> list[UnitFile]:
    """Drop-ins of kubelet.service on disk, in the order in which systemd reads them: by file name, whatever the directory.

    Not from systemd, which reports the files that it has read, while a run reloads them. Of two files with the same name, the one in the
    first directory counts (systemd.unit(5)).
    """
    directories = output(["systemctl", "show", "--property=UnitPath", "--value"]).split()
    paths: dict[str, str] = {}
    for kind in ("kubelet.service.d", "service.d"):
        for directory in directories:
            for path in glob.glob(os.path.join(directory, kind, "*.conf")):
                paths.setdefault(os.path.basename(path), path)
    return [UnitFile(path, text_of(path)) for _name, path in sorted(paths.items())]


def text_of(path: str) -> str:
    """The text of a file; empty if it does not exist."""
    return (read_text(path) or "") if os.path.isfile(path) else ""


# Files with additional arguments, which the kubelet's packages read (10-kubeadm.conf) on Debian and RHEL.
_ENVIRONMENT_FILES = ("/etc/default/kubelet", "/etc/sysconfig/kubelet")


def kubelet_environment() -> list[UnitFile]:
    """The environment files of kubelet.service that exist."""
    return [UnitFile(path, text_of(path)) for path in _ENVIRONMENT_FILES if os.path.isfile(path)]


def copied_key_dirs(root: str = "/") -> list[str]:
    """Directories with copies of members' keys, in the places that the page uses: /tmp/ADDRESS/pki and home directories."""
    found = [
        path
        for pattern in ("tmp/*", "root", "home/*")
        for path in glob.glob(os.path.join(glob.escape(root), pattern, "pki"))
        if glob.glob(os.path.join(glob.escape(path), "etcd", "*.key"))
        or glob.glob(os.path.join(glob.escape(path), "*.key"))
    ]
    return sorted(found)


def images(runtime_endpoint: str) -> list[str] | None:
    """Names of the images that containerd has for the kubelet; None if the runtime is another one or does not answer."""
    try:
        return _cri.images(runtime_endpoint) if "containerd" in runtime_endpoint else None
    except CriError:
        return None


def missing_sandbox_image(runtime_endpoint: str) -> str:
    """The image that the runtime uses for sandboxes, if it does not have it; else, or if it reports none, ''."""
    try:
        image = _cri.sandbox_image(runtime_endpoint)
        return image if image and not _cri.has_image(runtime_endpoint, image) else ""
    except CriError:
        return ""


# The oldest cryptography with all APIs used here, and its package by the ID of /etc/os-release, if the name is not python3-cryptography.
LEAST_CRYPTOGRAPHY = (3, 3)
_PACKAGES = {"alpine": "py3-cryptography", "arch": "python-cryptography", "gentoo": "dev-python/cryptography"}


def cryptography_package(
    release: str | None = None, python: str = "", prefixes: tuple[str, str] | None = None
) -> str | None:
    """The distribution's package of the library cryptography for this Python; None if there is none.

    release: the text of /etc/os-release; python: the interpreter; prefixes: sys.prefix and sys.base_prefix. A virtual environment and a
    Python outside of /usr do not see the distribution's packages.
    """
    if (prefixes or (sys.prefix, sys.base_prefix)) != ("/usr", "/usr"):
        return None
    names = os_release(release)
    package = next(
        (_PACKAGES[item] for item in f"{names.get('ID', '')} {names.get('ID_LIKE', '')}".split() if item in _PACKAGES),
        "python3-cryptography",
    )
    # RHEL 8 and 9 have the version of an additional Python in the names of its packages.
    other = re.search(r"python(3\.\d+)$", python or sys.executable or "")
    if other and re.search(r"\b(rhel|fedora)\b", " ".join(names.values())):
        package = f"python{other.group(1)}-cryptography"
    return package


def os_release(text: str | None) -> dict[str, str]:
    """ID, ID_LIKE and PRETTY_NAME of the distribution. text: the content of /etc/os-release, if already read."""
    text = text if text is not None else read_text("/etc/os-release") or ""
    return dict(re.findall(r'^(ID|ID_LIKE|PRETTY_NAME)="?([^"\n]*)"?$', text, flags=re.MULTILINE))


def cryptography_problem(
    version: str | None,
    release: str | None = None,
    python: str = "",
    prefixes: tuple[str, str] | None = None,
    installs: bool = False,
) -> str | None:
    """Why this Python cannot use the library cryptography, and what to do; None if it can.

    version: of the imported library, or None; release, python, prefixes: see cryptography_package; installs: whether the run installs the
    package.
    """
    found = tuple(int(part) for part in re.findall(r"\d+", version or "")[:2])
    if found >= LEAST_CRYPTOGRAPHY:
        return None
    python = python or sys.executable or "python3"
    what = (
        f"has cryptography {version}, which is too old (3.3 or later is needed)" if version else "has no cryptography"
    )
    package = cryptography_package(release, python, prefixes)
    distribution = os_release(release).get("PRETTY_NAME") or "this distribution"
    other_python = "set ansible_python_interpreter to a Python that has it, usually /usr/bin/python3"
    if package is None:
        remedy = f"{distribution} has no package of it for this Python: run {python} -m pip install 'cryptography>=3.3', or {other_python}."
    elif installs:
        remedy = (
            f"etcd_install_dependencies is set, but the package {package} ({distribution}) did not provide it: {other_python}, or install"
            " cryptography 3.3 or later for this Python. (With --check, the run installs nothing.)"
        )
    else:
        remedy = f"Install the package {package} ({distribution}), or set etcd_install_dependencies: true to have it installed."
    return f"{python} (Python {platform.python_version()}) {what}. {remedy}"


def host_facts(
    data_dir: str,
    ports: list[int],
    peers: list[tuple[str, int]],
    runtime_endpoint: str,
    kubeadm: str | None,
    asked_at: float | None,
) -> dict[str, Any]:
    """All facts that preflight judges.

    kubeadm: its version, if already known. asked_at: when the controller asked, Unix seconds by its clock.
    """
    # Read the clock first: everything else takes time.
    clock_offset = None if asked_at is None else time.time() - asked_at
    states, sources = reach(peers)
    flags = addresses()
    return {
        "asked_at": asked_at,
        "clock_offset": clock_offset,
        "addresses": list(flags),
        "cgroup_version": cgroup_version(),
        "default_address": default_address(),
        "data_dir": data_dir_facts(data_dir),
        "disk_free": free_bytes(data_dir),
        "etcd_manifest": os.path.exists("/etc/kubernetes/manifests/etcd.yaml"),
        "kubeadm_version": kubeadm or program_version(["kubeadm", "version", "-o", "short"]),
        "kubelet_override": os.path.exists(DROP_IN),
        "kubelet_version": program_version(["kubelet", "--version"]),
        "leftovers": [path for path in _LEFTOVERS if os.path.exists(path)],
        "listeners": listeners(ports),
        "peers": states,
        "python_version": platform.python_version(),
        "runtime_cgroup_driver": runtime_cgroup_driver(runtime_endpoint),
        "sources": sources,
        # IPv6 addresses that the kernel replaces from time to time (privacy extensions, use_tempaddr).
        "temporary_addresses": [address for address, words in flags.items() if "temporary" in words],
        "runtime_problem": runtime_answers(runtime_endpoint),
        "swaps": swaps(),
        "systemd": os.path.isdir("/run/systemd/system"),
    }
