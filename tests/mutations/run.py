"""Tries planted bugs: pytest collects once, and each bug is planted in a fork of that process.

Nothing on disk is changed: the code of the function concerned is replaced in memory. A bug is tried by the mapped tests that enter its function,
as seen without any bug (the baseline, which has to pass), the quickest first.
"""

from __future__ import annotations

import ast
import contextlib
import dis
import gc
import inspect
import os
import pickle
import resource
import select
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

import pytest
from _pytest.runner import runtestprotocol

from tests.mutations.operators import Site

ROOT = Path(__file__).resolve().parents[2]
COLLECTION = ROOT / ".collections" / "ansible_collections" / "kubeadm" / "etcd"
PACKAGE = "ansible_collections.kubeadm.etcd."

# A bug may wait forever. A timeout counts as noticed.
LEAST_TIMEOUT, FACTOR = 10.0, 10.0
MOST_MEMORY = 4 << 30


@dataclass
class Baseline:
    """Without a bug. lines: by test and file of the collection, the lines that it runs, a bit each. seconds: by test."""

    lines: dict[str, dict[str, int]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Result:
    """What became of a bug. outcome: noticed, timeout, survived, unreached, invalid."""

    outcome: str
    by: str = ""
    seconds: float = 0.0


# --- A bug in memory -------------------------------------------------------------------------------------------------


class InvalidError(Exception):
    """The bug cannot be planted: the code would not be accepted."""


def module_name(path: str) -> str:
    return PACKAGE + path.removesuffix(".py").replace("/", ".")


def function_at(module: ModuleType, qualname: str) -> FunctionType:
    """The function without its decorators."""
    found: Any = module
    for part in qualname.split("."):
        found = inspect.getattr_static(found, part)
    found = getattr(found, "fget", None) or getattr(found, "__func__", found)
    while hasattr(found, "__wrapped__"):
        found = found.__wrapped__
    assert isinstance(found, FunctionType), qualname
    return found


def code_at(code: CodeType, qualname: str, line: int) -> CodeType:
    """The code of a function in that of its module."""
    for item in code.co_consts:
        if isinstance(item, CodeType):
            if item.co_qualname == qualname and item.co_firstlineno == line:
                return item
            if qualname.startswith(f"{item.co_qualname}."):
                with contextlib.suppress(LookupError):
                    return code_at(item, qualname, line)
    raise LookupError(qualname)


def plant(sites: list[Site], tree: ast.Module) -> None:
    """Change the code that runs in this process: places of one function, or a constant."""
    site = sites[0]
    module = sys.modules[module_name(site.path)]
    former = function_at(module, site.function) if site.function else None
    for item in sites:
        item.plant()
    ast.fix_missing_locations(tree)
    if former is None:
        replace_constant(module, site)
        return
    try:
        code = compile(tree, former.__code__.co_filename, "exec", dont_inherit=True)
        former.__code__ = code_at(code, site.function, former.__code__.co_firstlineno)
    except (SyntaxError, ValueError) as exc:
        raise InvalidError(str(exc)) from exc


def replace_constant(module: ModuleType, site: Site) -> None:
    """In its module, and in all that have imported it."""
    old = getattr(module, site.qualname)
    expression = ast.fix_missing_locations(ast.Expression(site.new))  # type: ignore[arg-type]
    value = eval(compile(expression, site.path, "eval"), dict(vars(module)))
    for other in [item for name, item in sys.modules.items() if name.startswith(PACKAGE)]:
        for name, item in list(vars(other).items()):
            if item is old:
                setattr(other, name, value)


def forget_caches() -> None:
    """Clear caches, so that each test enters the functions again."""
    for name, module in list(sys.modules.items()):
        if name.startswith(PACKAGE):
            for item in list(vars(module).values()):
                if hasattr(item, "cache_clear"):
                    item.cache_clear()


# --- A process that can do no harm -----------------------------------------------------------------------------------

# A bug may write to any file or signal any process.
_WRITES = {
    **dict.fromkeys(
        ("os.remove", "os.rmdir", "os.mkdir", "os.truncate", "os.chmod", "os.chown", "os.utime", "shutil.rmtree"), (0,)
    ),
    **dict.fromkeys(("os.setxattr", "os.removexattr", "os.lchown"), (0,)),
    **dict.fromkeys(("os.rename", "os.link", "shutil.move"), (0, 1)),
    "os.symlink": (1,),
}
_PROGRAMS = {
    "systemctl",
    "crictl",
    "ctr",
    "reboot",
    "shutdown",
    "kubelet",
    "kubeadm",
    "mount",
    "umount",
    "kill",
    "pkill",
    "ip",
    "nsenter",
}


def guard(allowed: tuple[str, ...]) -> None:
    """From now on, refuse access to files outside of these directories and to processes that this one has not started."""
    mine = os.getpid()

    def is_allowed(path: Any) -> bool:
        if isinstance(path, int):
            return True
        text = os.fsdecode(path)
        if not os.path.isabs(text):
            # Relative to an open directory, or to the one of this process, which is its own.
            return ".." not in text.split("/")
        return os.path.realpath(os.path.dirname(text)).startswith(allowed) or os.path.normpath(text).startswith(allowed)

    def is_ours(pid: int) -> bool:
        while pid > 1:
            if pid == mine:
                return True
            try:
                pid = int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
            except OSError:
                return True
        return False

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, mode, flags = arguments
            writes = (
                flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC)
                if isinstance(flags, int)
                else mode not in (None, "r", "rb")
            )
            if writes and path is not None and not is_allowed(path):
                raise PermissionError(f"a planted bug writes {path}")
        elif event in _WRITES:
            if not all(is_allowed(arguments[number]) for number in _WRITES[event]):
                raise PermissionError(f"a planted bug changes {arguments}")
        elif event in ("os.kill", "os.killpg"):
            if arguments[1] and not is_ours(abs(int(arguments[0]))):
                raise PermissionError(f"a planted bug sends a signal to {arguments[0]}")
        elif event == "subprocess.Popen":
            program = os.fsdecode(arguments[0])
            if os.path.basename(program) in _PROGRAMS:
                path = (arguments[3] or os.environ).get("PATH", "")
                real = shutil.which(program, path=path) or program
                if os.path.isabs(real) and not is_allowed(real):
                    raise PermissionError(f"a planted bug runs {real}")

    sys.addaudithook(hook)


# --- Processes -------------------------------------------------------------------------------------------------------


@dataclass
class Child:
    """A fork that is at work. reader: where its answer comes from."""

    pid: int
    reader: int
    deadline: float
    begin: float
    place: str
    number: int


def in_child(work: Callable[[], Any], session: pytest.Session, place: str, writer: int) -> None:
    """Run in the fork, and end it."""
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.setsid()
        silent = os.open(os.path.join(place, "output"), os.O_RDWR | os.O_CREAT)
        for descriptor in (1, 2):
            os.dup2(silent, descriptor)
        os.mkdir(os.path.join(place, "cwd"))
        os.chdir(os.path.join(place, "cwd"))
        os.environ.update(TMPDIR=place, ANSIBLE_HOME=place)
        tempfile.tempdir = place
        factory = session.config._tmp_path_factory  # type: ignore[attr-defined]
        factory._basetemp = None
        factory._given_basetemp = Path(place, "tests")
        resource.setrlimit(resource.RLIMIT_DATA, (MOST_MEMORY, MOST_MEMORY))
        guard((f"{os.path.realpath(place)}", "/dev/", "/proc/self/", "/run/kubeadm-etcd-"))
        with os.fdopen(writer, "wb") as pipe:
            pickle.dump(work(), pipe)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def run_all(
    session: pytest.Session,
    works: list[tuple[Callable[[], Any], float]],
    workers: int,
    done: Callable[[int, Any, float], None],
) -> None:
    """Run each work in its own fork, several at once. done: called with the number of the work, its answer (None: timeout) and the seconds."""
    waiting, running = list(enumerate(works)), []
    base = tempfile.mkdtemp(prefix="mutations-")
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                number, (work, timeout) = waiting.pop(0)
                place = os.path.join(base, str(number))
                os.mkdir(place)
                reader, writer = os.pipe()
                sys.stdout.flush()
                pid = os.fork()
                if not pid:
                    os.close(reader)
                    in_child(work, session, place, writer)
                os.close(writer)
                now = time.monotonic()
                running.append(Child(pid, reader, now + timeout, now, place, number))
            ready, _writable, _failed = select.select([child.reader for child in running], [], [], 0.5)
            for child in list(running):
                late = time.monotonic() > child.deadline
                if child.reader not in ready and not late:
                    continue
                answer: Any = None
                if child.reader in ready:
                    with os.fdopen(child.reader, "rb") as pipe:
                        data = pipe.read()
                    text = Path(child.place, "output")
                    answer = (
                        pickle.loads(data)
                        if data
                        else Result("died", text.read_text(errors="replace")[-2000:] if text.exists() else "")
                    )
                else:
                    os.close(child.reader)
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(child.pid, signal.SIGKILL)
                os.waitpid(child.pid, 0)
                shutil.rmtree(child.place, ignore_errors=True)
                running.remove(child)
                done(child.number, answer, time.monotonic() - child.begin)
    finally:
        for child in running:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            os.waitpid(child.pid, 0)
        shutil.rmtree(base, ignore_errors=True)


# --- Tests -----------------------------------------------------------------------------------------------------------


def run_item(item: pytest.Item, following: pytest.Item | None) -> str:
    """The phase and the error of a test that fails, '' if it passes."""
    for report in runtestprotocol(item, log=False, nextitem=following):
        if report.failed:
            return f"{report.when}: {report.longreprtext[-600:]}"
    return ""


def codes(prefixes: tuple[str, ...]) -> list[tuple[CodeType, str]]:
    """All code of the collection, nested functions included, and its file."""
    waiting = [item.__code__ for item in gc.get_objects() if isinstance(item, FunctionType)]
    found: dict[int, tuple[CodeType, str]] = {}
    while waiting:
        code = waiting.pop()
        prefix = next((prefix for prefix in prefixes if code.co_filename.startswith(prefix)), None)
        if prefix and id(code) not in found:
            found[id(code)] = code, code.co_filename[len(prefix) :]
            waiting += [item for item in code.co_consts if isinstance(item, CodeType)]
    return list(found.values())


def baseline(items: list[pytest.Item]) -> Baseline:
    """Run tests without a bug, and see which lines each of them runs."""
    found = Baseline()
    tool, line_event = sys.monitoring.COVERAGE_ID, sys.monitoring.events.LINE
    sys.monitoring.use_tool_id(tool, "mutations")
    current: dict[str, int] = {}
    paths = {}

    def run_line(code: CodeType, line: int) -> Any:
        path = paths[code]
        current[path] = current.get(path, 0) | 1 << line
        return sys.monitoring.DISABLE

    sys.monitoring.register_callback(tool, line_event, run_line)
    for code, path in codes((f"{COLLECTION}/", f"{ROOT}/")):
        paths[code] = path
        sys.monitoring.set_local_events(tool, code, line_event)
    for item, following in zip(items, [*items[1:], None]):
        current.clear()
        forget_caches()
        sys.monitoring.restart_events()
        begin = time.perf_counter()
        problem = run_item(item, following)
        found.seconds[item.nodeid] = time.perf_counter() - begin
        found.lines[item.nodeid] = dict(current)
        if problem:
            found.failures.append(f"{item.nodeid}: {problem}")
    sys.monitoring.free_tool_id(tool)
    return found


def try_bug(sites: list[Site], tree: ast.Module, items: list[pytest.Item]) -> Result:
    """Plant a bug and run tests until one fails."""
    forget_caches()
    try:
        plant(sites, tree)
    except InvalidError as exc:
        return Result("invalid", str(exc))
    for item, following in zip(items, [*items[1:], None]):
        if run_item(item, following):
            return Result("noticed", item.nodeid)
    return Result("survived")


def merged(parts: Iterable[Baseline]) -> Baseline:
    result = Baseline()
    for part in parts:
        result.lines.update(part.lines)
        result.seconds.update(part.seconds)
        result.failures.extend(part.failures)
    return result


class Planter:
    """A plugin of pytest: collects as usual, and tries bugs instead of running the tests."""

    def __init__(self, work: Callable[[pytest.Session], int]) -> None:
        self.work = work
        self.status = 1

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        if session.testsfailed:
            return False
        self.status = self.work(session)
        return True


def collect_and(work: Callable[[pytest.Session], int], files: Iterable[str]) -> int:
    """Collect tests of files once, then do the work."""
    planter = Planter(work)
    options = [
        "-q",
        "--no-header",
        "--capture=no",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:terminalreporter",
        "-p",
        "no:xdist",
    ]
    status = pytest.main([*options, *files], plugins=[planter])
    return planter.status or int(status)


def find_baseline(session: pytest.Session, workers: int) -> Baseline:
    """The baseline of all collected tests. Tests of a file stay together; the files are spread over the workers."""
    files: dict[str, list[pytest.Item]] = {}
    for item in session.items:
        files.setdefault(item.nodeid.split("::")[0], []).append(item)
    parts: list[Any] = []
    works = [(lambda items=items: baseline(items), 600.0) for items in files.values()]  # type: ignore[misc]
    run_all(session, works, workers, lambda _number, answer, _seconds: parts.append(answer))
    for part in parts:
        if not isinstance(part, Baseline):
            return Baseline(failures=[f"the tests could not be run: {part}"])
    return merged(parts)


@cache
def uses(name: str) -> dict[str, int]:
    """Lines of the collection that use a constant of this name, by file, a bit each."""
    found: dict[str, int] = {}
    for code, path in codes((f"{COLLECTION}/", f"{ROOT}/")):
        if name in code.co_names:
            for item in dis.get_instructions(code):
                if item.argval == name and item.positions and item.positions.lineno:
                    found[path] = found.get(path, 0) | 1 << item.positions.lineno
    return found


def tests_for(site: Site, items: list[pytest.Item], seen: Baseline) -> list[pytest.Item]:
    """The tests that can notice a bug, the quickest first."""
    first, last = site.lines
    wanted = {site.path: (1 << (last + 1)) - (1 << first)} if site.function else uses(site.qualname)
    able = [
        item for item in items if any(seen.lines[item.nodeid].get(path, 0) & lines for path, lines in wanted.items())
    ]
    return sorted(able, key=lambda item: seen.seconds[item.nodeid])


def timeout_for(items: list[pytest.Item], seen: Baseline) -> float:
    return LEAST_TIMEOUT + FACTOR * sum(seen.seconds[item.nodeid] for item in items)
