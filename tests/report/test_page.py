"""The page in a real browser: no text is cut off, overflows or is unreadable, on a telephone, a desktop and paper."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.report import samples
from tests.tools.browser import Browser, browser

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build" / "report"

# A4 less its margins, at 96 dots an inch.
PAPER = 703

PAGES = {
    "well": lambda: [samples.well()],
    "hard": samples.hard,
    "none": list,
}

# Faults of the page as shown. Elements that are hidden on purpose are skipped.
FAULTS = r"""
(() => {
  const faults = [], wide = document.documentElement.clientWidth;
  const name = e => e.tagName.toLowerCase() + (e.className ? '.' + e.className : '') + ' "' + e.textContent.trim().slice(0, 40) + '"';
  const root = document.scrollingElement;
  if (root.scrollWidth > wide) faults.push(`the page is ${root.scrollWidth} wide in ${wide}`);
  const hidden = e => { for (; e; e = e.parentElement) { const s = getComputedStyle(e);
    if (s.display === 'none' || s.visibility === 'hidden' || s.clipPath !== 'none') return true; } return false; };
  const box = e => { while (getComputedStyle(e).display.startsWith('inline') && getComputedStyle(e).display !== 'inline-block') e = e.parentElement;
    return e; };
  const luminance = c => { const [r, g, b] = c.map(v => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const colour = text => text.match(/[\d.]+/g).map(Number);
  const behind = e => { for (; e; e = e.parentElement) { const c = colour(getComputedStyle(e).backgroundColor);
    if (c.length < 4 || c[3] > 0) return c.slice(0, 3); } return [255, 255, 255]; };
  for (const e of document.body.querySelectorAll('*')) {
    if (hidden(e)) continue;
    const r = e.getBoundingClientRect(), s = getComputedStyle(e);
    if (r.width && (r.left < -0.5 || r.right > wide + 0.5)) faults.push(`sticks out of the page: ${name(e)} ${r.left} to ${r.right}`);
    if (s.overflowX !== 'visible' && (e.scrollWidth > e.clientWidth || e.scrollHeight > e.clientHeight)) faults.push(`cut off: ${name(e)}`);
    if (s.textOverflow === 'ellipsis') faults.push(`may be cut off: ${name(e)}`);
  }
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node; (node = walker.nextNode());) {
    const e = node.parentElement;
    if (!node.data.trim() || hidden(e)) continue;
    const range = document.createRange();
    range.selectNodeContents(node);
    const around = box(e).getBoundingClientRect();
    for (const r of range.getClientRects())
      if (r.width > 1 && (r.left < around.left - 1 || r.right > around.right + 1)) { faults.push(`text sticks out: ${name(e)}`); break; }
    const [one, other] = [luminance(colour(getComputedStyle(e).color).slice(0, 3)), luminance(behind(e))];
    const contrast = (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
    if (contrast < 4.5) faults.push(`contrast ${contrast.toFixed(1)}: ${name(e)}`);
  }
  return faults;
})()
"""


@pytest.fixture(scope="module")
def shown() -> Iterator[Browser]:
    with browser() as it:
        yield it


@pytest.fixture(scope="module")
def pages() -> dict[str, Path]:
    BUILD.mkdir(parents=True, exist_ok=True)
    for name, sample in PAGES.items():
        (BUILD / f"{name}.html").write_text(samples.render(sample()), encoding="utf-8")
    return {name: BUILD / f"{name}.html" for name in PAGES}


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize(
    ("width", "scheme", "media"),
    [
        (360, "light", "screen"),
        (360, "dark", "screen"),
        (768, "light", "screen"),
        (901, "light", "screen"),
        (1280, "light", "screen"),
        (1280, "dark", "screen"),
        (PAPER, "light", "print"),
        (PAPER, "dark", "print"),
    ],
)
def test_nothing_is_cut_off(
    shown: Browser, pages: dict[str, Path], page: str, width: int, scheme: str, media: str
) -> None:
    shown.look(pages[page], width, scheme, media)
    assert shown.evaluate("innerWidth") == width
    faults: list[str] = shown.evaluate(FAULTS)
    shown.picture(BUILD / f"{page}-{width}-{scheme}-{media}.png")
    assert faults == []
    dark = sum(background(shown)) < 3 * 128
    assert dark == (scheme == "dark" and media == "screen"), "dark only if asked for, and never on paper"


def background(shown: Browser) -> list[int]:
    """The colour behind everything."""
    found: list[int] = shown.evaluate(
        "(getComputedStyle(document.body).backgroundColor.match(/\\d+/g) || []).slice(0, 4).map(Number)"
    )
    return [255, 255, 255] if found[3:] == [0] else found[:3]


def test_the_check_sees_what_is_cut_off(shown: Browser, tmp_path: Path) -> None:
    """The check finds each of these faults."""
    cases: list[tuple[str, str]] = [
        ("<p style='width: 500px'>x</p>", "the page is"),
        ("<p style='width: 50px; overflow: hidden'>Donaudampfschifffahrt</p>", "cut off"),
        ("<div style='width: 50px'>Donaudampfschifffahrt</div>", "text sticks out"),
        ("<p style='color: #999; background: #fff'>x</p>", "contrast"),
        ("<p style='margin-left: -60px; width: 50px'>x</p>", "sticks out of the page"),
    ]
    for number, (body, words) in enumerate(cases):
        page = tmp_path / f"{number}.html"
        page.write_text(f"<!DOCTYPE html><meta name=viewport content='width=device-width'>{body}", encoding="utf-8")
        shown.look(page, 360)
        faults: list[str] = shown.evaluate(FAULTS)
        assert any(text.startswith(words) for text in faults), f"{body}: {faults}"


def test_nothing_of_a_member_runs_or_is_fetched(shown: Browser, pages: dict[str, Path]) -> None:
    shown.look(pages["hard"], 1280)
    counts: dict[str, Any] = shown.evaluate(
        "({script: document.scripts.length, img: document.images.length, frames: frames.length,"
        " fetched: performance.getEntriesByType('resource').length, injected: document.querySelectorAll('i, u, a[href^=j]').length,"
        " shown: document.body.innerText.includes('<script>alert(1)</script>')})"
    )
    assert counts == {"script": 0, "img": 0, "frames": 0, "fetched": 0, "injected": 0, "shown": True}


def test_the_page_can_be_printed(shown: Browser, pages: dict[str, Path]) -> None:
    shown.look(pages["hard"], 1280)
    shown.pdf(BUILD / "hard.pdf")
    assert (BUILD / "hard.pdf").read_bytes().startswith(b"%PDF-")
