"""`--resume FILE`: a run of many hours goes on where the last one was stopped."""

from __future__ import annotations

import json
import subprocess
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def git(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["git", *arguments], cwd=ROOT, text=True, capture_output=True, timeout=60, check=False)


class Passed:
    """The tests that passed, a line of JSON for each: test, seconds, commit. They count until a file changes, changelogs aside."""

    def __init__(self, path: Path, writes: bool) -> None:
        self.path = path
        # With several workers, each of them hears of its own tests, and the main process of all.
        self.writes = writes
        self.commit = git("rev-parse", "HEAD").stdout.strip()
        self.seconds: dict[str, float] = defaultdict(float)
        self.failed: set[str] = set()
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        records = [json.loads(line) for line in lines]
        counts = {commit: self.unchanged(commit) for commit in {record["commit"] for record in records}}
        self.passed = {record["test"] for record in records if counts[record["commit"]]}

    def unchanged(self, commit: str) -> bool:
        return git("diff", "--quiet", commit, "--", ".", ":!changelogs").returncode == 0

    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        config.hook.pytest_deselected(items=[item for item in items if item.nodeid in self.passed])
        items[:] = [item for item in items if item.nodeid not in self.passed]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.seconds[report.nodeid] += report.duration
        if not report.passed:
            self.failed.add(report.nodeid)
        if (
            report.when == "teardown"
            and report.nodeid not in self.failed
            and self.writes
            and self.unchanged(self.commit)
        ):
            record = {"test": report.nodeid, "seconds": round(self.seconds[report.nodeid], 1), "commit": self.commit}
            with self.path.open("a", encoding="utf-8") as handle:
                handle.write(json.dumps(record) + "\n")

    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        if exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED and self.passed:
            session.exitstatus = pytest.ExitCode.OK


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--resume", metavar="FILE", help="leave out the tests that have passed, by this file, since a file changed"
    )


def pytest_configure(config: pytest.Config) -> None:
    path = config.getoption("resume")
    if path:
        config.pluginmanager.register(Passed(Path(path), writes=not hasattr(config, "workerinput")))
