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
        ("tests/long/test_other.py", True),
        ("tests/unit/test_it.py", True),
        ("plugins/a.py", False),
        ("tests/long/conftest.py", False),
        ("tests/long/test_it.py", False),
        ("tests/long/test_imported.py", False),
        ("tests/long/test_imported_by_it.py", False),
    ],
)
def test_a_passed_test_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: str, counts: bool) -> None:
    imported = {"test_it": "from .test_imported import a", "test_imported": "from .test_imported_by_it import a"}
    modules = dict.fromkeys(("test_imported_by_it", "test_other", "conftest"), "from .test_it import b")
    content = {f"tests/long/{name}.py": text for name, text in {**modules, **imported}.items()}
    content.update(dict.fromkeys(("changelogs/fragments/a.yml", "tests/unit/test_it.py", "plugins/a.py"), ""))
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
