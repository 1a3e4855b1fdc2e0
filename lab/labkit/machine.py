"""What the lab needs of the machine it runs on: root, a few Debian packages, disk, kernel limits."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

from .process import LabError, attempt, run, say, step

_CNI_DIRECTORIES = ("/usr/lib/cni", "/opt/cni/bin", "/usr/libexec/cni")
_NETAVARK_PLACES = ("/usr/lib/podman/netavark", "/usr/libexec/podman/netavark")
_INOTIFY_LIMITS = {"max_user_instances": 4096, "max_user_watches": 524288}
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def _program(name: str) -> bool:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:{SYSTEM_PATH}") is not None


def _network_backend() -> bool:
    return any(Path(p).exists() for p in (*_NETAVARK_PLACES, *(f"{d}/bridge" for d in _CNI_DIRECTORIES)))


# By Debian package, whether what it installs is there: programs may also come from elsewhere.
_NEEDED: dict[str, Callable[[], bool]] = {
    "podman": lambda: _program("podman"),
    "runc": lambda: _program("runc"),
    "netavark": _network_backend,
    "iproute2": lambda: _program("ip"),
    "iptables": lambda: _program("iptables"),
    "mmdebstrap": lambda: _program("mmdebstrap"),
    "debian-archive-keyring": lambda: any(Path("/usr/share/keyrings").glob("debian-archive-*")),
    "openssh-client": lambda: _program("ssh") and _program("ssh-keygen"),
    "gcc": lambda: _program("gcc"),
    "libc6-dev": lambda: any(Path("/usr/lib").glob("*/libc.a")) or any(Path("/usr/lib64").glob("libc.a")),
    "python3-venv": lambda: _pip() is not None,
    "rpm": lambda: _program("rpmbuild"),
    "createrepo-c": lambda: _program("createrepo_c"),
}
# Needed only when a Go toolchain has to be fetched, or packages for dnf are made.
_SOMETIMES = {"python3-venv", "rpm", "createrepo-c"}


def _pip() -> str | None:
    for python in ("python3", "/usr/bin/python3"):
        if shutil.which(python) and attempt([python, "-c", "import ensurepip, venv"])[0] == 0:
            return python
    return None


def missing_packages(needed: Iterable[str] | None = None) -> list[str]:
    """The Debian packages whose programs are not there."""
    names = [n for n in _NEEDED if n not in _SOMETIMES] if needed is None else list(needed)
    return [name for name in names if not _NEEDED[name]()]


def require_root() -> None:
    """Hosts are privileged containers with addresses of their own: that takes root."""
    if os.geteuid() != 0:
        raise LabError("the lab needs root (its hosts are privileged podman containers): run it as root or with sudo")


def set_up(needed: Iterable[str] | None = None) -> None:
    """Install the Debian packages that are missing."""
    require_root()
    missing = missing_packages(needed)
    if not missing:
        return
    if not _program("apt-get"):
        raise LabError(
            f"missing here: {', '.join(missing)} (Debian's package names); there is no apt-get to install them"
        )
    with step(f"installing Debian packages: {' '.join(missing)}"):
        environment = {"DEBIAN_FRONTEND": "noninteractive"}
        run(["apt-get", "update", "-qq"], env=environment, timeout=600)
        if "netavark" in missing and attempt(["apt-cache", "show", "netavark"])[0] != 0:
            # Before Debian 12, podman's networks are made by the CNI plugins.
            missing[missing.index("netavark")] = "containernetworking-plugins"
        run(["apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing], env=environment, timeout=1200)
    still = missing_packages(needed)
    if still:
        raise LabError(f"installed, but still not found: {', '.join(still)}")


def require_disk(where: Path, gibibytes: float, what_for: str) -> None:
    """Refuse a long step that would end with a full disk."""
    place = where
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free / 2**30
    if free < gibibytes:
        raise LabError(f"{what_for} needs {gibibytes:g} GiB of free disk at {place}, there are {free:.1f}")


def raise_inotify_limits() -> None:
    """From about ten hosts on, containerd and kubelet run out of inotify instances at the kernel's default of 128."""
    for name, wanted in _INOTIFY_LIMITS.items():
        limit = Path("/proc/sys/fs/inotify") / name
        try:
            if int(limit.read_text()) < wanted:
                limit.write_text(f"{wanted}\n")
        except OSError:
            say(f"warning: fs.inotify.{name} is below {wanted} and cannot be raised: more than ten hosts may not start")
