"""Writing the pins (go.mod and go.sum) of a version; users build from the committed ones and never need this."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from .process import run, step
from .programs import Project, find_go, needed_go
from .settings import Version

_MODULES = {
    "kubernetes": ["k8s.io/kubernetes"],
    "etcd": ["go.etcd.io/etcd/server/v3", "go.etcd.io/etcd/etcdctl/v3", "go.etcd.io/etcd/etcdutl/v3"],
}


def render_go_mod(
    project: Project, version: Version, upstream: str, replacements: Mapping[str, str], only: Sequence[str] = ()
) -> str:
    """A go.mod that requires a project at a version, from the project's own go.mod (`upstream`).

    Kubernetes' staging modules are published beside it as v0.MINOR.PATCH, while its own go.mod points to local folders.
    replacements: another version of a module that the proxy lacks. only: the programs to pin (default: all).
    """
    go = re.search(r"^go (\S+)", upstream, re.MULTILINE)
    debug = re.search(r"^godebug \(.*?^\)|^godebug [^\n(]+$", upstream, re.MULTILINE | re.DOTALL)
    staging = sorted(set(re.findall(r"^\s*(?:replace )?(k8s\.io/\S+) => \./staging", upstream, re.MULTILINE)))
    packages = sorted(package for name, package in project.packages.items() if not only or name in only)
    parts = [
        f"// Pins the programs of {project.name} v{version} for the lab; written by `lab pin`.",
        f"module kubeadm-etcd-lab/{project.name}",
        "",
        f"go {go[1] if go else '1.24.0'}",
        "",
        *([debug[0], ""] if debug else []),
        *("tool (", *(f"\t{package}" for package in packages), ")", ""),
        *("require (", *(f"\t{module} v{version}" for module in _MODULES[project.name]), ")"),
    ]
    if staging:
        chosen = {s: replacements.get(s.split("/", 1)[1], f"v0.{version.minor}.{version.patch}") for s in staging}
        parts += ["", "replace (", *(f"\t{s} => {s} {v}" for s, v in chosen.items()), ")"]
    return "\n".join(parts) + "\n"


def pin(
    project: Project, version: Version, state: Path, replacements: Mapping[str, str], only: Sequence[str] = ()
) -> Path:
    """Write the pins of a version and return their directory."""
    target = project.pins(version)
    go = find_go(state, (1, 24, 0))
    module = f"{_MODULES[project.name][0]}@v{version}"
    with step(f"pinning {project.name} {version}"):
        found = json.loads(run([go, "mod", "download", "-json", module], cwd=state, timeout=600))
        target.mkdir(parents=True, exist_ok=True)
        upstream = Path(found["GoMod"])
        go = find_go(state, needed_go(upstream))
        (target / "go.mod").write_text(render_go_mod(project, version, upstream.read_text(), replacements, only))
        run([go, "mod", "tidy"], cwd=target, timeout=1800, env={"GOFLAGS": "", "GOWORK": "off"})
    return target
