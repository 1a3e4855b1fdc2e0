"""Debian packages of kubeadm and the kubelet, as pkgs.k8s.io has them, in a repository of our own."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from .process import run
from .programs import KUBERNETES, Store
from .settings import LAB_DIRECTORY, Version

# The revision of the packages of pkgs.k8s.io.
REVISION = "1.1"
# The official package does not restart the kubelet. Packages of others may.
RESTARTS = """#!/bin/sh
set -e
if [ "$1" = configure ] && [ -d /run/systemd/system ]; then
    systemctl daemon-reload
    systemctl try-restart kubelet.service
fi
"""
UNITS = "usr/lib/systemd/system"


@dataclass(frozen=True)
class Package:
    """A package: its files by their place on a host, and the script that runs after it was unpacked."""

    name: str
    version: str
    files: Mapping[str, Path] = field(default_factory=dict)
    after: str = ""

    @property
    def control(self) -> str:
        """The control file."""
        fields = {
            "Package": self.name,
            "Version": self.version,
            "Architecture": "amd64",
            "Maintainer": "lab <lab@localhost>",
            "Description": f"{self.name} of the lab",
        }
        return "".join(f"{key}: {value}\n" for key, value in fields.items())


def packages_of(version: Version, programs: Mapping[str, Path], restarts: bool) -> list[Package]:
    """The packages of one version. restarts: whether the package of the kubelet restarts it."""
    units = LAB_DIRECTORY / "host" / UNITS
    drop_in = "kubelet.service.d/10-kubeadm.conf"
    return [
        Package(
            "kubeadm",
            f"{version}-{REVISION}",
            {"usr/bin/kubeadm": programs["kubeadm"], f"{UNITS}/{drop_in}": units / drop_in},
        ),
        Package(
            "kubelet",
            f"{version}-{REVISION}",
            {"usr/bin/kubelet": programs["kubelet"], f"{UNITS}/kubelet.service": units / "kubelet.service"},
            RESTARTS if restarts else "",
        ),
    ]


def make_package(package: Package, repository: Path) -> Path:
    """Write the file of a package."""
    target = repository / f"{package.name}_{package.version}_amd64.deb"
    with tempfile.TemporaryDirectory(dir=repository, prefix=".") as name:
        root = Path(name)
        root.chmod(0o755)
        (root / "DEBIAN").mkdir()
        (root / "DEBIAN" / "control").write_text(package.control)
        if package.after:
            script = root / "DEBIAN" / "postinst"
            script.write_text(package.after)
            script.chmod(0o755)
        for place, source in package.files.items():
            path = root / place
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, path)
            path.chmod(0o755 if place.startswith("usr/bin/") else 0o644)
        run(["dpkg-deb", "--root-owner-group", "-Znone", "--build", str(root), str(target)], timeout=300)
    return target


def index_entry(package: Package, content: bytes) -> str:
    """What the index of a repository says of a package."""
    name = f"{package.name}_{package.version}_amd64.deb"
    digest = hashlib.sha256(content).hexdigest()
    return f"{package.control}Filename: ./{name}\nSize: {len(content)}\nSHA256: {digest}\n"


def make_repository(store: Store, versions: list[Version], restarts: bool, repository: Path) -> Path:
    """Write a repository with the packages of some versions, for `deb [trusted=yes] URL ./`."""
    repository.mkdir(parents=True, exist_ok=True)
    entries = []
    for version in versions:
        for package in packages_of(version, store.get(KUBERNETES, version), restarts):
            entries.append(index_entry(package, make_package(package, repository).read_bytes()))
    (repository / "Packages").write_text("\n".join(entries))
    return repository
