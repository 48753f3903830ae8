"""The page and the documentation for everybody: axe in Chromium, and a walk with the keyboard.

axe-core is not part of the project: ``make axe`` fetches it, ``make site`` makes the documentation.
"""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from tests.engine.serve.browser import Browser, Tab
from tests.engine.serve.conftest import Server
from tests.helpers import make_clip

ROOT = Path(__file__).parents[3]
AXE = ROOT / "build" / "axe" / "package" / "axe.min.js"
SITE = ROOT / "build" / "site"
SHOTS = os.environ.get("FUSEMATTE_SCREENSHOTS")
WIDTHS = {"desktop": (1360, 1000), "phone": (390, 844)}
LOOKS = list(itertools.product(("light", "dark"), WIDTHS))
PAGES = (
    "index", "install", "tasks/webcam", "tasks/http", "tasks/embed", "reference/command-line",
    "reference/python", "comparison",
)  # fmt: skip
# The theme's copy buttons stand in landmarks without names; that is not ours to change.
RUN_AXE = """
axe.run({exclude: [".md-code__nav"]}, {resultTypes: ["violations"]}).then(({violations}) =>
  violations.flatMap(({id, nodes}) => nodes.map((node) =>
    `${id}: ${node.target} ${node.failureSummary}`)))
"""
FOCUSED = """
(() => {
  const one = document.activeElement;
  if (one === document.body) return null;
  const shown = one.closest("label") ?? one;
  const marked = [one, shown, ...shown.querySelectorAll("*")].some((part) => {
    const { outlineStyle, outlineWidth } = getComputedStyle(part);
    return outlineStyle !== "none" && parseFloat(outlineWidth) >= 2;
  });
  const box = shown.getBoundingClientRect();
  const inside = box.bottom > 0 && box.top < innerHeight;
  return { name: one.id || `${one.name}=${one.value}`, marked, inside };
})()
"""

needs_axe = pytest.mark.skipif(not AXE.exists(), reason="make axe fetches it")
needs_site = pytest.mark.skipif(not SITE.exists(), reason="make site makes it")


async def look_as(tab: Tab, scheme: str, width: str) -> None:
    """Light or dark, on a desktop or a phone."""
    await tab.send(
        "Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}]
    )
    columns, rows = WIDTHS[width]
    phone = width == "phone"
    await tab.send(
        "Emulation.setDeviceMetricsOverride",
        width=columns, height=rows, deviceScaleFactor=2 if phone else 1, mobile=phone,
    )  # fmt: skip


async def check(tab: Tab, name: str) -> None:
    """Nothing is wider than the screen, and axe finds nothing."""
    if SHOTS:
        await tab.screenshot(Path(SHOTS) / f"{name}.png")
    assert await tab.run("document.documentElement.scrollWidth <= innerWidth"), name
    if not await tab.run("'axe' in window"):
        await tab.run(AXE.read_text("utf-8"))
    assert await tab.run(RUN_AXE) == [], name


def visit(browser: Browser, url: str, stay: Callable[[Tab], Awaitable[Any]]) -> None:
    async def whole() -> None:
        async with await Tab.open(browser, url) as tab:
            await stay(tab)

    asyncio.run(whole())


@pytest.mark.slow
@needs_axe
def test_the_page(server: Server, browser: Browser, tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "holiday.mp4", width=160, height=90, frames=5)
    bad = tmp_path / "noise.mp4"
    bad.write_bytes(b"no video" * 100)

    async def stay(tab: Tab) -> None:
        await tab.until("document.querySelectorAll('.thumbnail').length > 7")
        await tab.choose_file("#job-file", clip, bad)
        await tab.until(
            "document.querySelector('#jobs .done') && document.querySelector('.failed')"
        )
        await tab.run(
            "const told = document.getElementById('notice');"
            "told.textContent = 'The camera was disconnected.'; told.hidden = false"
        )
        for scheme, width in LOOKS:
            await look_as(tab, scheme, width)
            await check(tab, f"page-{scheme}-{width}")
        for _ in range(2):
            await tab.run("document.querySelector('#jobs .remove').click()")

    visit(browser, server.url, stay)


@pytest.mark.slow
@needs_axe
@needs_site
@pytest.mark.parametrize("page", PAGES)
def test_the_documentation(browser: Browser, page: str) -> None:
    async def stay(tab: Tab) -> None:
        for scheme, width in LOOKS:
            await look_as(tab, scheme, width)
            # The theme asks for light or dark once, and then keeps what it was told.
            await tab.run("localStorage.clear()")
            await tab.send("Page.reload")
            await tab.until("document.readyState == 'complete' && !('axe' in window)")
            await check(tab, f"site-{page.replace('/', '-')}-{scheme}-{width}")

    visit(browser, (SITE / f"{page}.html").as_uri(), stay)


def test_a_walk_with_the_keyboard(server: Server, browser: Browser) -> None:
    """Tab reaches every control, each shows that it has the focus, and the way back is the same."""

    async def walk(tab: Tab, *, back: bool = False) -> list[str]:
        names = []
        for _ in range(60):
            await tab.press("Tab", 9, modifiers=8 if back else 0)
            focused = await tab.run(FOCUSED)
            if focused is None or focused["name"] in names:
                break
            assert focused["marked"] and focused["inside"], focused
            names.append(focused["name"])
        return names

    async def stay(tab: Tab) -> None:
        await tab.until("document.querySelectorAll('.thumbnail').length > 7")
        await tab.run("document.activeElement.blur()")
        there = await walk(tab)
        # Of radio buttons the chosen one takes the focus, the arrows go on from there.
        chosen = "document.querySelector('input[name=background]:checked').value"
        background = f"background={await tab.run(chosen)}"
        assert there == [
            "stage", "start", "view=composite", "mirror", background, "background-file", "blur",
            "job-file",
        ]  # fmt: skip
        assert await walk(tab, back=True) == there[::-1]

        await tab.run("document.getElementById('mirror').focus()")
        await tab.press(" ", 32, " ")
        assert not await tab.run("document.getElementById('mirror').checked")
        await tab.press(" ", 32, " ")
        await tab.run("document.querySelector('input[name=view]:checked').focus()")
        await tab.press("ArrowRight", 39)
        assert await tab.run("document.querySelector('input[name=view]:checked').value") == "alpha"
        assert "opacity" in await tab.run("document.getElementById('result-caption').textContent")
        assert tab.problems == []

    visit(browser, server.url, stay)
