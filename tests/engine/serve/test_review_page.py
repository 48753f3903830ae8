"""The page of frames to check in a real browser."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

from tests.engine.serve.browser import Browser, Tab
from tests.helpers import make_clip

from fusematte.engine.jobs.measures import Measure
from fusematte.engine.jobs.review_page import Review
from fusematte.engine.jobs.single import Report

CLICK = """
(() => {
  const picture = [...document.querySelectorAll("figure img")].at(-1);
  const box = picture.getBoundingClientRect();
  const clientX = box.left + box.width / 2, clientY = box.top + box.height / 4;
  const options = { bubbles: true, clientX, clientY, shiftKey: true };
  picture.dispatchEvent(new MouseEvent("click", options));
})()
"""


def test_a_click_on_a_frame_to_check_tells_the_prompt(browser: Browser, tmp_path: Path) -> None:
    """In a real browser; times count from the video's beginning."""
    clip = make_clip(tmp_path / "in.mp4", frames=30, start=50)
    measures = [
        Measure(512 * (50 + index), 0.99, 0.3, 0.0, 0.0, "lost" * (index > 20))
        for index in range(30)
    ]
    review = Review(clip, clip, {}, "edge", Report(frames=30, seconds=1, busy={}))
    page = review.write(tmp_path, measures)

    async def click() -> None:
        async with await Tab.open(browser, page.as_uri()) as tab:
            await tab.run(CLICK)
            said = await tab.run("document.getElementById('prompt').textContent")
            assert re.fullmatch(r"--drop 0\.[45]\d+,0\.2\d+@0\.840", said), said

    asyncio.run(click())
