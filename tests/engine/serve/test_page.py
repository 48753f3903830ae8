"""The page in a real browser: what a user sees, checked by its pixels."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import cv2
import numpy as np
from tests.engine.serve.browser import Browser, Tab, ready, until
from tests.engine.serve.conftest import Server
from tests.helpers import content, make_clip, pictures_of, two_people

SHOTS = os.environ.get("FUSEMATTE_SCREENSHOTS")
"""A folder for screenshots, for whoever wants to look at them."""

LOOK = """
(() => {
  const canvas = document.createElement("canvas");
  canvas.width = 64; canvas.height = 36;
  const pen = canvas.getContext("2d");
  pen.drawImage(document.getElementById("%s"), 0, 0, 64, 36);
  return [...pen.getImageData(0, 0, 64, 36).data];
})()
"""
INK = """
new Set(document.getElementById("plot").getContext("2d").getImageData(0, 0, 300, 100).data).size
"""
CHOSEN = "document.querySelector('input[name=background]:checked').value"
CHOOSE = "document.querySelector('input[value=%s]').click()"
TEXT = "document.getElementById('%s').textContent"


def visit(browser: Browser, url: str, stay: Callable[[Tab], Awaitable[None]]) -> None:
    """Opens the page, stays as long as ``stay`` does, and leaves; no problem may come up."""

    async def whole() -> None:
        async with await Tab.open(browser, url) as tab:
            await tab.until("document.querySelectorAll('.thumbnail').length > 7")
            await stay(tab)
            assert tab.problems == []
            home = url.split("/", 3)[2]
            others = [r for r in tab.requests if r.split("/")[0] != "blob:"]
            assert {r.split("/")[2] for r in others} == {home}

    asyncio.run(whole())


async def picture(tab: Tab, video: str) -> np.ndarray:
    """What a video shows now: [36, 64, 3], RGB."""
    pixels = await tab.run(LOOK % video)
    return np.array(pixels, np.float64).reshape(36, 64, 4)[..., :3]


async def corner_is(tab: Tab, color: tuple[int, int, int], tolerance: float = 30) -> None:
    """Waits until the upper corners of the result have this colour."""

    async def look() -> bool:
        shown = await picture(tab, "result")
        corners = np.concatenate([shown[1:7, 1:7], shown[1:7, -7:-1]])
        return bool(np.abs(corners.mean((0, 1)) - color).max() < tolerance)

    await until(look, f"corners of {color}")


async def shot(tab: Tab, name: str) -> None:
    """Keeps a screenshot if that is wanted."""
    if SHOTS:
        await tab.screenshot(Path(SHOTS) / f"{name}.png")


def test_the_camera_comes_back_composited(server: Server, browser: Browser) -> None:
    async def stay(tab: Tab) -> None:
        await tab.run(CHOOSE % "green")
        await tab.run("document.getElementById('start').focus()")
        await tab.press("Enter", 13, "\r")  # no mouse needed
        await tab.until(TEXT % "state" + " == 'Live'")

        await corner_is(tab, (0, 177, 64))
        camera = await picture(tab, "camera")
        assert np.abs(camera[1:7, 1:7].mean((0, 1)) - (0, 177, 64)).max() > 60
        # The person, in the middle, is the camera's: the picture moves on, the colours stay.
        person = np.s_[14:22, 28:36]

        async def is_the_cameras() -> bool:
            camera, shown = await picture(tab, "camera"), await picture(tab, "result")
            return bool(np.abs((shown - camera)[person].mean((0, 1))).max() < 40)

        await until(is_the_cameras, "the person of the camera")
        await shot(tab, "green")

        await tab.run(CHOOSE % "white")
        await corner_is(tab, (244, 244, 242))
        await shot(tab, "white")

        await tab.run(CHOOSE % "alpha")
        await corner_is(tab, (0, 0, 0))

        async def is_map(low: float, high: float) -> bool:
            matte = await picture(tab, "result")
            return low < matte[person].mean() < high and np.ptp(matte, axis=2).max() < 40

        await until(lambda: is_map(200, 256), "a white person")
        await shot(tab, "alpha")
        await tab.run(CHOOSE % "background")
        await corner_is(tab, (255, 255, 255))
        await until(lambda: is_map(-1, 60), "a dark person")
        for view in ("foreground", "beta"):
            await tab.run(CHOOSE % view)
            await tab.until(f"document.querySelector('input[value={view}]').checked")
            await asyncio.sleep(0.5)
            await shot(tab, view)
        await tab.run(CHOOSE % "composite")

        stages = await tab.run(TEXT % "stages")
        await tab.until(f"{TEXT % 'stages'} != '{stages}'")  # they move
        assert (await tab.run(TEXT % "drops")).isdigit()  # how many depends on the machine
        for figure in ("fps", "p50", "p99", "budget"):
            assert float((await tab.run(TEXT % figure)).split()[0]) > 0
        assert "network" in await tab.run(TEXT % "stages")
        await tab.until(INK.strip() + " > 3")
        await shot(tab, "statistics")

        await tab.run("document.getElementById('start').click()")
        await tab.until(TEXT % "state" + " == 'Camera off'")
        assert await tab.run("document.getElementById('result').srcObject") is None
        await tab.until("fetch('state').then(r => r.json()).then(s => s.live == 0)")

    visit(browser, server.url, stay)


def test_an_uploaded_background_is_used(server: Server, browser: Browser, tmp_path: Path) -> None:
    beach = tmp_path / "beach <b>.png"
    cv2.imwrite(str(beach), np.full((90, 160, 3), (220, 40, 200), np.uint8))  # BGR

    async def stay(tab: Tab) -> None:
        await tab.choose_file("#background-file", beach)
        await tab.until(
            "document.querySelector('.thumbnail[title=\"beach <b>.png\"] :checked')?.value"
        )
        await tab.run("document.getElementById('start').click()")
        await corner_is(tab, (200, 40, 220))
        noise = tmp_path / "noise.png"
        noise.write_bytes(b"\x89PNG nothing")
        await tab.choose_file("#background-file", noise)
        await tab.until(TEXT % "notice" + ".startsWith('noise.png: is not a readable')")
        tab.problems.clear()  # the browser logs the refusal

    visit(browser, server.url, stay)


def test_a_file_is_dropped_matted_and_downloaded(
    server: Server, browser: Browser, tmp_path: Path
) -> None:
    clip = make_clip(tmp_path / "holiday.mp4", width=160, height=90, frames=15, audio=True)
    bad = tmp_path / "noise.mp4"
    bad.write_bytes(np.random.default_rng(0).bytes(4000))
    big = tmp_path / "big.mp4"
    with big.open("wb") as file:
        file.truncate(2 << 30)

    async def stay(tab: Tab) -> None:
        await tab.run(CHOOSE % "green")
        await tab.drop("#drop", clip)
        await tab.choose_file("#job-file", bad)
        await tab.until("document.querySelector('#jobs .failed')")
        said = await tab.run("document.querySelector('#jobs .failed .detail').textContent")
        assert said.startswith("noise.mp4: ") and "/" not in said
        await tab.until("document.querySelector('#jobs .done')")
        assert "15 frames over Green" in await tab.run(
            "document.querySelector('#jobs .done .detail').textContent"
        )
        await shot(tab, "jobs")
        await tab.run("document.querySelector('#jobs .done a').click()")
        result = browser.downloads / "holiday-matted.mp4"
        await until(lambda: ready(result), "the download")
        assert content(result).times == content(clip).times
        while await tab.run("document.querySelectorAll('#jobs .remove').length"):
            await tab.run("document.querySelector('#jobs .remove').click()")

        await tab.choose_file("#job-file", big)
        told = TEXT % "notice" + ".startsWith('big.mp4: is larger than the limit, 1024 MB')"
        await tab.until(told)
        await tab.until("fetch('jobs').then(r => r.json()).then(j => j.length == 0)")

    visit(browser, server.url, stay)
    assert server.files() == []


def test_who_is_kept_in_a_file_is_clicked_on_at_the_scrub_bar(
    server: Server, browser: Browser, tmp_path: Path
) -> None:
    clip = make_clip(tmp_path / "two.mp4", width=256, height=128, frames=10, show=two_people)
    editor = "document.querySelector('.editor"

    async def stay(tab: Tab) -> None:
        await tab.run(CHOOSE % "green")
        await tab.choose_file("#job-file", clip)
        await tab.until("document.querySelector('#jobs .done .choose:not([hidden])')")
        await tab.run("document.querySelector('.choose').click()")
        await tab.until(f"{editor} .frame')?.naturalWidth == 256")
        time = f"{editor} .time')"
        await tab.run(f"{time}.value = 0.2; {time}.dispatchEvent(new Event('input'))")
        await tab.until(f"{editor} .frame').src.endsWith('time=0.2')")
        await tab.run(f"{editor} .stage').scrollIntoView(); {editor} .stage').focus()")
        for _ in range(14):
            await tab.press("ArrowLeft", 37)
        await tab.press("Enter", 13, "\r")
        await tab.until(f"{editor} .outline polygon')")
        await tab.until(f"{editor} .marks').textContent.startsWith('Keep at 0:00.20')")
        await shot(tab, "editor")
        await tab.run(f"{editor} .again').click()")
        await tab.until(
            "document.querySelector('#jobs .done') && !document.querySelector('.editor')"
        )
        await tab.run("document.querySelector('.choose').click()")  # the choice is still there
        await tab.until(f"{editor} .marks li')")
        await tab.run("document.querySelector('#jobs .done a').click()")
        result = browser.downloads / "two-matted.mp4"
        await until(lambda: ready(result), "the download")
        await tab.run("document.querySelector('#jobs .remove').click()")

    visit(browser, server.url, stay)
    last = pictures_of(browser.downloads / "two-matted.mp4")[-1].astype(int)
    background = np.abs(last - last[2, -2]) < 5
    assert background[:, 140:].mean() > 0.95 > 0.8 > background[:, :120].mean()


def test_a_camera_that_is_missing_or_unplugged_is_said(server: Server, browser: Browser) -> None:
    async def stay(tab: Tab) -> None:
        await tab.run("document.getElementById('start').click()")
        await tab.until(TEXT % "state" + " == 'Live'")
        # What the browser does when the device goes; there is no way to pull a fake one out.
        await tab.run(
            "document.getElementById('camera').srcObject.getTracks()[0]"
            ".dispatchEvent(new Event('ended'))"
        )
        assert "disconnected" in await tab.run(TEXT % "notice")
        assert await tab.run(TEXT % "state") == "Camera off"
        await tab.until("fetch('state').then(r => r.json()).then(s => s.live == 0)")

        await tab.run(
            "navigator.mediaDevices.getUserMedia = () => Promise.reject(new Error('none found'))"
        )
        await tab.run("document.getElementById('start').click()")
        await tab.until(TEXT % "notice" + " == 'The camera cannot be used: none found'")
        assert await tab.run(TEXT % "state") == "Camera off"

    visit(browser, server.url, stay)


def test_a_wrong_token_shows_no_page(server: Server, browser: Browser) -> None:
    async def whole() -> None:
        wrong = server.url.rsplit("/", 2)[0] + "/guess/"
        async with await Tab.open(browser, wrong) as tab:
            assert "token is wrong" in await tab.run("document.body.innerText")
            assert await tab.run("document.querySelectorAll('button, script, video').length") == 0

    asyncio.run(whole())


def test_the_keyboard_reaches_everything(server: Server, browser: Browser) -> None:
    async def stay(tab: Tab) -> None:
        await tab.run("document.activeElement.blur()")
        reached = set()
        for _ in range(12):
            await tab.press("Tab", 9)
            reached.add(await tab.run("document.activeElement.name || document.activeElement.id"))
        expected = {
            "start",
            "stage",
            "view",
            "mirror",
            "background",
            "background-file",
            "blur",
            "job-file",
        }
        assert expected <= reached
        await tab.run("document.querySelector('input[name=background]:checked').focus()")
        await tab.press("ArrowRight", 39)
        assert (
            await tab.run("document.querySelector('input[name=background]:checked').value")
            == "dusk"
        )

    visit(browser, server.url, stay)


def test_it_is_dark_where_the_system_is(server: Server, browser: Browser) -> None:
    async def stay(tab: Tab) -> None:
        dark = {"name": "prefers-color-scheme", "value": "dark"}
        await tab.send("Emulation.setEmulatedMedia", features=[dark])
        color = await tab.run("getComputedStyle(document.body).backgroundColor")
        assert color == "rgb(20, 23, 26)"
        await shot(tab, "dark")

    visit(browser, server.url, stay)


CLICK = """
(() => {
  const stage = document.getElementById("stage"), box = stage.getBoundingClientRect();
  stage.dispatchEvent(new MouseEvent("click", {
    clientX: box.left + %s * box.width, clientY: box.top + %s * box.height, shiftKey: %s,
  }));
})()
"""
POLYGONS = "document.querySelectorAll('#outline polygon').length"
HIDDEN = "document.getElementById('everybody').hidden"


def test_a_click_chooses_and_escape_brings_everybody_back(server: Server, browser: Browser) -> None:
    async def stay(tab: Tab) -> None:
        await tab.run("document.getElementById('start').click()")
        await tab.until(TEXT % "state" + " == 'Live'")
        await tab.until("document.getElementById('result').videoWidth > 0")
        assert await tab.run(HIDDEN) and await tab.run(POLYGONS) == 0
        await tab.run(CLICK % (0.42, 0.5, "false"))
        await tab.until(f"!{HIDDEN}")
        await tab.until(f"{POLYGONS} > 0")  # the person is kept
        inside = await tab.run(
            "document.getElementById('outline').getBoundingClientRect().width"
            " <= document.getElementById('stage').clientWidth"
        )
        assert inside
        await shot(tab, "chosen")
        await tab.run("document.getElementById('stage').focus()")
        await tab.press("ArrowRight", 39)
        assert not await tab.run("document.getElementById('aim').hidden")
        await tab.press("Escape", 27)
        await tab.until(f"{HIDDEN} && {POLYGONS} == 0")
        assert await tab.run(TEXT % "notice") == ""

    visit(browser, server.url, stay)
