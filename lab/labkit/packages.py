"""Packages of kubeadm and the kubelet for apt and for dnf, as pkgs.k8s.io has them, in a repository of our own."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from .machine import set_up
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
RESTARTS_RPM = """if [ -d /run/systemd/system ]; then
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


def packages_of(version: Version, programs: Mapping[str, Path], after: str) -> list[Package]:
    """The packages of one version. after: the script of the kubelet's package, if it has one."""
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
            after,
        ),
    ]


def lay_out(package: Package, root: Path) -> None:
    """Put the files of a package below a directory."""
    for place, source in package.files.items():
        path = root / place
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, path)
        path.chmod(0o755 if place.startswith("usr/bin/") else 0o644)


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
        lay_out(package, root)
        run(["dpkg-deb", "--root-owner-group", "-Znone", "--build", str(root), str(target)], timeout=300)
    return target


def index_entry(package: Package, content: bytes) -> str:
    """What the index of a repository says of a package."""
    name = f"{package.name}_{package.version}_amd64.deb"
    digest = hashlib.sha256(content).hexdigest()
    return f"{package.control}Filename: ./{name}\nSize: {len(content)}\nSHA256: {digest}\n"


def spec_of(package: Package, root: Path) -> str:
    """The spec file of a package for rpm, whose files are in a directory already."""
    version, release = package.version.split("-")
    lines = [
        # Programs stay as they were built.
        "%global __os_install_post %{nil}",
        "%global debug_package %{nil}",
        "%global _binary_payload w0.ufdio",
        f"Name: {package.name}",
        f"Version: {version}",
        f"Release: {release}",
        f"Summary: {package.name} of the lab",
        "License: Apache-2.0",
        "AutoReqProv: no",
        # The script needs it, and hosts of the lab have it from a package of dpkg.
        *(["Provides: /bin/sh"] if package.after else []),
        "%description",
        f"{package.name} of the lab",
        "%install",
        f"cp -a {root}/. %{{buildroot}}/",
        *(["%post", package.after] if package.after else []),
        "%files",
        *(f"/{place}" for place in package.files),
    ]
    return "".join(f"{line}\n" for line in lines)


def make_rpm(package: Package, repository: Path) -> None:
    """Write the file of a package for rpm."""
    with tempfile.TemporaryDirectory(dir=repository, prefix=".") as name:
        root = Path(name) / "files"
        lay_out(package, root)
        spec = Path(name) / f"{package.name}.spec"
        spec.write_text(spec_of(package, root))
        macros = {"_topdir": f"{name}/build", "_rpmdir": str(repository), "_rpmfilename": "%{NVRA}.rpm"}
        words = [word for key, value in macros.items() for word in ("--define", f"{key} {value}")]
        run(["rpmbuild", "-bb", "--quiet", "--target", "x86_64", *words, str(spec)], timeout=600)


def make_rpm_repository(store: Store, versions: list[Version], restarts: bool, repository: Path) -> Path:
    """Write a repository with the packages of some versions, for `baseurl=URL`."""
    set_up(["rpm", "createrepo-c"])
    repository.mkdir(parents=True, exist_ok=True)
    for version in versions:
        for package in packages_of(version, store.get(KUBERNETES, version), RESTARTS_RPM if restarts else ""):
            make_rpm(package, repository)
    run(["createrepo_c", "--quiet", str(repository)], timeout=600)
    return repository


def make_repository(store: Store, versions: list[Version], restarts: bool, repository: Path) -> Path:
    """Write a repository with the packages of some versions, for `deb [trusted=yes] URL ./`."""
    repository.mkdir(parents=True, exist_ok=True)
    entries = []
    for version in versions:
        for package in packages_of(version, store.get(KUBERNETES, version), RESTARTS if restarts else ""):
            entries.append(index_entry(package, make_package(package, repository).read_bytes()))
    (repository / "Packages").write_text("\n".join(entries))
    return repository
