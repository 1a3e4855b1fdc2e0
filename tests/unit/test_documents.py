"""Every command of the pages for a disaster has a row in tests/integration/test_documents.py, which runs it."""

from __future__ import annotations

import re

import pytest

from tests.integration.conftest import ROOT
from tests.integration.test_documents import PAGES, ROWS, commands, found_in


@pytest.mark.parametrize("page", PAGES)
def test_every_command_has_a_row_and_every_row_a_command(page: str) -> None:
    found = found_in(page)
    assert [content for row, _language, content in found if row is None] == [], "add a row to ROWS"
    assert len(found) == len([key for key in ROWS if key[0] == page]), "remove the row: its command is gone"


def test_commands_are_found() -> None:
    """In code blocks of any language and inline, but not the name of a playbook or an option."""
    page = "# A\n\n```sh\none\ntwo\n```\n\nRun `ansible all -m ping`, `site.yml` or `-e x=1`.\n\n## B\n\n- list:\n\n  ```\n  cp a b\n  ```\n\n`x.yml -e y`"
    assert commands(page) == [
        ("A", "sh", "one\ntwo"),
        ("A", "inline", "ansible all -m ping"),
        ("B", "", "cp a b"),
        ("B", "inline", "x.yml -e y"),
    ]


def test_the_page_has_every_disaster() -> None:
    text = (ROOT / "docs" / "disaster.md").read_text(encoding="utf-8")
    assert text.startswith("# What to do when\n")
    headings = re.findall(r"^## (.+)$", text, flags=re.MULTILINE)
    for words in (
        "One host",
        "disk of one host",
        "Quorum",
        "All hosts",
        "Keys were deleted",
        "database is full",
        "CORRUPT",
    ):
        (heading,) = [item for item in headings if words in item]
        assert any(key[:2] == ("disaster", heading) for key in ROWS), heading
