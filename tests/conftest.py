"""`--resume FILE`: a run of many hours goes on where the last one was stopped, and shows failures at once."""

from __future__ import annotations

import functools
import json
import re
import subprocess
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DOCUMENTS = ["README.md", "docs"]


def read_by(module: str) -> list[str]:
    """What the tests of a file see of tests/ and of the documents: the file, conftest.py beside it, and what these import, directly or not."""
    found: list[str] = []
    to_read = [module, str(Path(module).with_name("conftest.py"))]
    while to_read:
        path = to_read.pop()
        if path not in found and (ROOT / path).is_file():
            found.append(path)
            text = (ROOT / path).read_text(encoding="utf-8")
            names = re.findall(r"^from \.(\w+) import|with_name\(\"(\w+)\.py\"\)", text, flags=re.MULTILINE)
            to_read += [str(Path(path).with_name(f"{''.join(name)}.py")) for name in names]
            tools = re.findall(r"^from tests\.tools\.(\w+) import", text, flags=re.MULTILINE)
            to_read += [f"tests/tools/{name}.py" for name in tools]
    return [*found, *(DOCUMENTS if "docs/" in (ROOT / module).read_text(encoding="utf-8") else [])]


@functools.lru_cache(maxsize=None)
def is_unchanged(commit: str, module: str) -> bool:
    """Whether the work tree has what the tests of a file saw at a commit: all but changelogs, and tests and documents that they do not read."""
    rest = [
        ".",
        *(f":(exclude,glob){path}" for path in ("changelogs/**", "docs/**", "README.md", "tests/*.py", "tests/*/*.py")),
    ]
    return not any(
        subprocess.run(["git", "diff", "--quiet", commit, "--", *paths], cwd=ROOT, timeout=60, check=False).returncode
        for paths in (rest, read_by(module))
    )


def module_of(test: str) -> str:
    return test.split("::", maxsplit=1)[0]


class Passed:
    """The tests that passed, a line of JSON for each: test, seconds, commit."""

    def __init__(self, path: Path, config: pytest.Config) -> None:
        self.path = path
        # With several workers, each of them hears of its own tests, and the main process of all.
        self.writes = not hasattr(config, "workerinput")
        self.reporter = config.pluginmanager.get_plugin("terminalreporter")
        head = ["git", "rev-parse", "HEAD"]
        self.commit = subprocess.check_output(head, cwd=ROOT, text=True, timeout=60).strip()
        self.seconds: dict[str, float] = defaultdict(float)
        self.not_passed: set[str] = set()
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        records = [json.loads(line) for line in lines]
        self.passed = {item["test"] for item in records if is_unchanged(item["commit"], module_of(item["test"]))}

    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        config.hook.pytest_deselected(items=[item for item in items if item.nodeid in self.passed])
        items[:] = [item for item in items if item.nodeid not in self.passed]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        test = report.nodeid
        self.seconds[test] += report.duration
        if not report.passed:
            self.not_passed.add(test)
        if not self.writes:
            return
        if report.failed:
            self.reporter.write_line(f"\n{test} failed:\n{report.longreprtext}")
        unchanged = is_unchanged(self.commit, module_of(test))
        if report.when == "teardown" and test not in self.not_passed and unchanged:
            record = {"test": test, "seconds": round(self.seconds[test], 1), "commit": self.commit}
            with self.path.open("a", encoding="utf-8") as handle:
                handle.write(json.dumps(record) + "\n")

    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        if exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED and self.passed:
            session.exitstatus = pytest.ExitCode.OK


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--resume", metavar="FILE", help="leave out the tests that passed, by this file, before")


# After the terminal reporter is there.
@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    path = config.getoption("resume")
    if path:
        config.pluginmanager.register(Passed(Path(path), config))
