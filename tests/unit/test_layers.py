"""The layers of plugins/module_utils: a folder is a layer, and imports go downwards only (docs/architecture.md)."""

from __future__ import annotations

import ast
import functools
from pathlib import Path

import pytest
from ansible_collections.kubeadm.etcd.plugins.module_utils._member.sources import program_files
from graphlib import TopologicalSorter

ROOT = Path(__file__).resolve().parents[2]
UTILS = ROOT / "plugins" / "module_utils"
PACKAGE = "ansible_collections.kubeadm.etcd.plugins.module_utils."

# From the bottom to the top. The certificates and the client know nothing of each other.
LAYERS = ("_values", "_host", "_pki", "_etcd", "_member", "_control", "_operations")
APART = {("_pki", "_etcd"), ("_etcd", "_pki")}
FILES = sorted(UTILS.rglob("*.py"))


@functools.lru_cache(maxsize=None)
def imports(path: Path) -> list[str]:
    """What a file imports of module_utils, as LAYER.FILE, wherever in the file."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [item.name for item in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = [f"{node.module}.{item.name}" for item in node.names]
        else:
            continue
        for name in names:
            if name.startswith(PACKAGE):
                found.append(".".join(name[len(PACKAGE) :].split(".")[:2]))
    return found


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(UTILS).with_suffix("").parts)


def test_every_file_is_in_a_layer() -> None:
    assert {path.relative_to(UTILS).parts[0] for path in FILES} == set(LAYERS)


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_imports_go_downwards(path: Path) -> None:
    layer = path.relative_to(UTILS).parts[0]
    allowed = [other for other in LAYERS[: LAYERS.index(layer) + 1] if (layer, other) not in APART]
    assert [name for name in imports(path) if name.split(".")[0] not in allowed] == []


def test_no_cycle() -> None:
    graph = {name_of(path): set(imports(path)) for path in FILES}
    assert len(list(TopologicalSorter(graph).static_order())) == len(FILES)


# What a new variable that is a flag of etcd is checked by (docs/architecture.md).
FOR_LATER = {"flag_value_problems"}


def test_everything_is_used() -> None:
    """What only tests use is not part of the collection."""
    used, defined = set(FOR_LATER), set()
    for path in (ROOT / "plugins").rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute):
                used.add(node.attr)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
                used.add(node.id)
            elif path in FILES and isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                defined.add(node.name)
        if path in FILES:
            stored = (node for line in tree.body if isinstance(line, ast.Assign) for node in ast.walk(line))
            defined |= {node.id for node in stored if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    assert {name for name in defined - used if not name.startswith("__")} == set()


def shipped_with(module: str) -> set[str]:
    """What Ansible ships to a host with a module: what it imports, directly or not."""
    shipped = {*imports(ROOT / "plugins" / "modules" / f"{module}.py")}
    waiting = [*shipped]
    while waiting:
        path = UTILS / f"{waiting.pop().replace('.', '/')}.py"
        new = {*imports(path)} - shipped
        shipped |= new
        waiting += new
    return shipped


def test_the_program_of_the_timers_is_shipped_to_be_installed() -> None:
    """And with no module that looks at a host."""
    names = [Path(name) for name in program_files() if not name.startswith("__")]
    files = {".".join(name.with_suffix("").parts[-2:]) for name in names if name.name != "__init__.py"}
    assert "_member.timers" in files and files <= shipped_with("etcd_schedule")
    acts = ["timers", "turn", "rollout", "join", "restore", "backup", "defragment"]
    acts = {*(f"_member.{name}" for name in acts), "_host.diagnosis", "_host.image", "_etcd.lock", "_etcd.membership"}
    assert not acts & shipped_with("etcd_host_info")


@pytest.mark.parametrize("path", sorted((ROOT / "plugins" / "modules").glob("*.py")), ids=lambda path: path.stem)
def test_hosts_get_nothing_of_the_controller(path: Path) -> None:
    """Ansible ships what a module imports to each host, directly or not."""
    assert [name for name in imports(path) if name.startswith(("_control", "_operations"))] == []


# What the kernel or this process itself has made.
OPENS = {"_host.files", "_host.process", "_host.facts", "_member.processes", "_member.drill"}


def test_files_of_a_host_are_opened_in_one_way() -> None:
    """open() waits for ever at a pipe: open_file of _host/files.py does not."""
    found = {
        name_of(path)
        for path in FILES
        if path.relative_to(UTILS).parts[0] not in ("_control", "_operations")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "open"
    }
    assert found == OPENS
