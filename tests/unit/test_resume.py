"""What `make test-long` has seen counts until a file changes that its tests could see."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests import conftest


@pytest.mark.parametrize(
    ("changed", "counts"),
    [
        ("changelogs/fragments/a.yml", True),
        ("docs/a.md", True),
        ("tests/long/test_other.py", True),
        ("tests/unit/conftest.py", True),
        ("plugins/a.py", False),
        ("tests/long/callback/a.py", False),
        ("tests/long/conftest.py", False),
        ("tests/long/test_it.py", False),
        ("tests/long/imported.py", False),
        ("tests/long/test_imported_by_it.py", False),
        ("tests/long/on_host.py", False),
        ("tests/tools/imported.py", False),
    ],
)
def test_a_passed_test_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: str, counts: bool) -> None:
    content = {
        "tests/long/test_it.py": "from .imported import a",
        "tests/long/imported.py": 'from .test_imported_by_it import a\nfrom tests.tools.imported import b\nPath(__file__).with_name("on_host.py")',
        "tests/long/test_other.py": "from .test_it import a\n# The command of docs/a.md.",
    }
    for name in (
        "long/test_imported_by_it",
        "long/conftest",
        "long/callback/a",
        "long/on_host",
        "unit/conftest",
        "tools/imported",
    ):
        content[f"tests/{name}.py"] = ""
    content.update({"changelogs/fragments/a.yml": "", "docs/a.md": "", "plugins/a.py": ""})
    for name, text in content.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)

    def git(*arguments: str) -> str:
        return subprocess.check_output(["git", "-C", str(tmp_path), *arguments], text=True, timeout=60).strip()

    git("init", "-q")
    git("add", ".")
    git("-c", "user.name=a", "-c", "user.email=a@example.org", "commit", "-qm", "a")
    monkeypatch.setattr(conftest, "ROOT", tmp_path)
    conftest.is_unchanged.cache_clear()
    assert conftest.is_unchanged(git("rev-parse", "HEAD"), "tests/long/test_it.py")
    (tmp_path / changed).write_text("changed")
    conftest.is_unchanged.cache_clear()
    assert conftest.is_unchanged(git("rev-parse", "HEAD"), "tests/long/test_it.py") is counts
    # It imports test_it, and reads documents.
    seen_by_other = changed not in ("changelogs/fragments/a.yml", "tests/unit/conftest.py")
    assert conftest.is_unchanged(git("rev-parse", "HEAD"), "tests/long/test_other.py") is not seen_by_other
