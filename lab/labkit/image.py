"""The images of a lab: etcd and pause for containerd, and the host itself for podman."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from .archive import write_archive
from .machine import require_disk
from .process import LabError, attempt, locked, run, step
from .programs import ETCD, KUBERNETES, Store, build_pause, is_static
from .settings import LAB_DIRECTORY, Version

REPOSITORY = "localhost/kubeadm-etcd-lab"
SUITE = "bookworm"
PACKAGES = (
    "systemd,systemd-sysv,dbus,containerd,runc,openssh-server,python3,python3-cryptography,iproute2,iptables,"
    "ca-certificates,procps,sudo,conntrack,ethtool,socat,openssl,util-linux,kmod"
)
_HASH_LENGTH = 12
# Part of the hash of archives: raise it when the code writes the same content in another form.
_ARCHIVE_FORMAT = "1"


@dataclass(frozen=True)
class VersionSet:
    """What is chosen for a lab: one version of Kubernetes and one of etcd."""

    kubernetes: Version
    etcd: Version

    def __str__(self) -> str:
        """Both versions, as they stand in an image's tag."""
        return f"k{self.kubernetes}-e{self.etcd}"


@dataclass(frozen=True)
class ImageNames:
    """The tags that a kubeadm expects."""

    etcd: str
    pause: str
    apiserver: str


def parse_image_list(text: str) -> ImageNames:
    """Read the images of the lab out of what `kubeadm config images list` prints."""
    names = {}
    for line in text.split():
        match = re.fullmatch(r"\S+/(etcd|pause|kube-apiserver):\S+", line)
        if match:
            names[match[1]] = line
    if set(names) != {"etcd", "pause", "kube-apiserver"}:
        raise LabError(f"`kubeadm config images list` names no etcd, pause or kube-apiserver: {text.strip()!r}")
    return ImageNames(names["etcd"], names["pause"], names["kube-apiserver"])


def image_names(kubeadm: Path, version: Version) -> ImageNames:
    """The images that a kubeadm expects. Without a version, kubeadm would look one up on the internet."""
    return parse_image_list(run([str(kubeadm), "config", "images", "list", "--kubernetes-version", f"v{version}"]))


def etcd_tags(expected: str, version: Version) -> list[str]:
    """The tags of our etcd image: the one that kubeadm expects, so that no variable is needed, and the one of its real version."""
    true_tag = f"{expected.rsplit(':', 1)[0]}:{version}-0"
    return [expected] if true_tag == expected else [expected, true_tag]


def content_hash(parts: Iterable[tuple[str, bytes]]) -> str:
    """A short hash of named contents, in any order."""
    digest = hashlib.sha256()
    for name, content in sorted(parts):
        digest.update(f"{len(name)} {name} {len(content)} ".encode() + content)
    return digest.hexdigest()[:_HASH_LENGTH]


def host_image_tag(versions: VersionSet, digest: str) -> str:
    """The name of a host image: both versions and the hash of what is in it."""
    return f"{REPOSITORY}/host:{versions}-{digest}"


def root_image_tag() -> str:
    """The name of the Debian root that host images stand on."""
    return f"{REPOSITORY}/root:{SUITE}-{content_hash([('packages', PACKAGES.encode())])}"


def _file_hash(path: Path) -> bytes:
    digest = hashlib.sha256()
    with path.open("rb") as content:
        for block in iter(lambda: content.read(1 << 20), b""):
            digest.update(block)
    return digest.digest()


def _tree() -> dict[str, Path]:
    """The files of lab/host, by their place on a host."""
    top = LAB_DIRECTORY / "host"
    return {str(p.relative_to(top)): p for p in sorted(top.rglob("*")) if p.is_file()}


class Images:
    """Makes images, or finds them made."""

    def __init__(self, state: Path, store: Store) -> None:
        """Images in a state directory, of the programs of a store."""
        self.state = state
        self.store = store

    def archives(self, versions: VersionSet) -> dict[str, Path]:
        """The etcd and pause archives for a version set, written if need be: {"etcd": path, "pause": path}."""
        kubernetes = self.store.get(KUBERNETES, versions.kubernetes, ["kubeadm"])
        etcd = self.store.get(ETCD, versions.etcd)
        names = image_names(kubernetes["kubeadm"], versions.kubernetes)
        tags = etcd_tags(names.etcd, versions.etcd)
        return {
            "etcd": self._archive("etcd", {f"usr/local/bin/{n}": p for n, p in etcd.items()}, tags, []),
            "pause": self._archive("pause", {"pause": build_pause(self.state)}, [names.pause], ["/pause"]),
        }

    def apiserver(self, versions: VersionSet) -> Path:
        """The archive of the kube-apiserver image, under the tag that kubeadm expects. Not part of any host image."""
        programs = self.store.get(KUBERNETES, versions.kubernetes, ["kubeadm", "kube-apiserver"])
        tag = image_names(programs["kubeadm"], versions.kubernetes).apiserver
        # The manifest calls it by its name alone, as in the official image.
        return self._archive(
            "kube-apiserver", {"usr/local/bin/kube-apiserver": programs["kube-apiserver"]}, [tag], ["kube-apiserver"]
        )

    def _archive(self, name: str, files: dict[str, Path], tags: list[str], entrypoint: list[str]) -> Path:
        """An image of these files (path in the image to path here) as an archive, written if it is not there."""
        for path in files.values():
            if not is_static(path):
                raise LabError(f"{path} is dynamically linked: it cannot run in an image made from scratch")
        parts = [(place, _file_hash(path)) for place, path in files.items()]
        digest = content_hash([*parts, ("tags", json.dumps([_ARCHIVE_FORMAT, tags, entrypoint]).encode())])
        version = tags[-1].rsplit(":", 1)[1]
        target = self.state / "images" / f"{name}-{version}-{digest}.tar"
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists():
            with locked(self.state / "images.lock", "makes images"):
                if not target.exists():
                    write_archive(target, files, tags, entrypoint)
        return target

    def host(self, versions: VersionSet) -> str:
        """The podman image of a host for a version set, built if need be."""
        programs = self.store.get(KUBERNETES, versions.kubernetes)
        archives = self.archives(versions)
        names = image_names(programs["kubeadm"], versions.kubernetes)
        files = {
            **_tree(),
            **{f"usr/bin/{name}": path for name, path in programs.items()},
            **{f"usr/share/kubeadm-etcd-lab/images/{name}.tar": path for name, path in archives.items()},
        }
        containerfile = LAB_DIRECTORY / "Containerfile"
        parts = [(place, _file_hash(path) + oct(path.stat().st_mode).encode()) for place, path in files.items()]
        pause = ("pause", names.pause.encode())
        root = ("root", root_image_tag().encode())
        tag = host_image_tag(versions, content_hash([*parts, pause, root, ("file", containerfile.read_bytes())]))
        if not _exists(tag):
            with locked(self.state / "images.lock", "makes images"):
                if not _exists(tag):
                    self._root()
                    self._build_host(tag, files, names)
                    _remove_older(tag, versions)
        return tag

    def _root(self) -> None:
        """Make the Debian root once."""
        tag = root_image_tag()
        if _exists(tag):
            return
        require_disk(self.state, 2, "making the Debian root")
        archive = self.state / "images" / f"root.{os.getpid()}.tar"
        archive.parent.mkdir(parents=True, exist_ok=True)
        try:
            with step("making the Debian root (about a minute)"):
                command = ["mmdebstrap", "--variant=minbase", f"--include={PACKAGES}", SUITE, str(archive)]
                run(command, timeout=1800, log=self.state / "logs" / "root.log")
            with step("importing the Debian root"):
                run(["podman", "import", "-q", str(archive), tag], timeout=600)
        finally:
            archive.unlink(missing_ok=True)

    def _build_host(self, tag: str, files: dict[str, Path], names: ImageNames) -> None:
        require_disk(self.state, 2, "making the host image")
        context = self.state / "images" / f"context.{os.getpid()}"
        shutil.rmtree(context, ignore_errors=True)
        try:
            with step(f"making the host image {tag.rsplit(':', 1)[1]}"):
                for place, source in files.items():
                    target = context / "tree" / place
                    target.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy(source, target)
                    target.chmod(0o755 if source.stat().st_mode & 0o100 else 0o644)
                note = context / "tree" / "usr/share/kubeadm-etcd-lab/pause-image"
                note.write_text(names.pause + "\n")
                shutil.copy(LAB_DIRECTORY / "Containerfile", context / "Containerfile")
                run(
                    ["podman", "build", "-q", "--isolation", "chroot", "--pull-never"]
                    + ["--build-arg", f"ROOT={root_image_tag()}", "-t", tag, str(context)],
                    timeout=900,
                )
        finally:
            shutil.rmtree(context, ignore_errors=True)


def _exists(tag: str) -> bool:
    return attempt(["podman", "image", "exists", tag])[0] == 0


def _remove_older(tag: str, versions: VersionSet) -> None:
    """Drop host images of the same versions with other content; podman keeps those that a host still runs from."""
    code, out, _ = attempt(["podman", "images", "--format", "{{.Repository}}:{{.Tag}}"])
    older = [t for t in out.split() if t.startswith(f"{REPOSITORY}/host:{versions}-") and t != tag] if code == 0 else []
    for image in older:
        attempt(["podman", "rmi", image], timeout=120)
