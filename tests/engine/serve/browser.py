"""Chromium without a screen, driven over its DevTools protocol."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import shutil
import subprocess
import time
from collections.abc import Awaitable, Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import aiohttp
import av
import pytest
from av.video.reformatter import VideoReformatter

PATIENCE = 240.0
"""Seconds; the machine may have much else to do."""
WIDTH, HEIGHT = 640, 360


def find_chromium() -> str:
    """The browser's path; the test is skipped where there is none."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        path = shutil.which(name)
        if path is not None:
            return path
    pytest.skip("no Chromium here: apt-get install chromium")


def make_camera(clip: Path, target: Path, seconds: float = 4, rate: int = 15) -> Path:
    """A clip as the motion JPEG that Chromium's fake camera plays over and over."""
    scaler = VideoReformatter()
    with av.open(str(clip)) as source, av.open(str(target), "w", format="mjpeg") as camera:
        stream = camera.add_stream("mjpeg", rate=rate, options={"qmin": "2", "qmax": "3"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuvj420p"
        index = 0
        for picture in source.decode(video=0):
            if picture.time < index / rate:
                continue
            scaled = scaler.reformat(picture, WIDTH, HEIGHT, "yuvj420p")
            scaled.pts, scaled.time_base = index, Fraction(1, rate)
            index += 1
            if index > rate * seconds:
                break
            camera.mux(stream.encode(scaled))
        camera.mux(stream.encode(None))
    return target


class Browser:
    """A running Chromium; ``camera``, motion JPEG, is what its camera sees."""

    def __init__(self, folder: Path, camera: Path | None = None) -> None:
        self._port = folder / "DevToolsActivePort"
        self.downloads = folder / "downloads"
        arguments = (
            "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
            "--no-first-run", "--disable-background-networking", "--disable-extensions",
            "--remote-debugging-port=0", f"--user-data-dir={folder}", "--window-size=1360,1000",
            "--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream",
            *([f"--use-file-for-fake-video-capture={camera}"] if camera else []), "about:blank",
        )  # fmt: skip
        self._process = subprocess.Popen(
            [find_chromium(), *arguments],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    async def address(self) -> str:
        """Of its DevTools."""
        await until(lambda: ready(self._port), "Chromium to start")
        return f"http://127.0.0.1:{self._port.read_text().splitlines()[0]}"

    def close(self) -> None:
        """Ends the browser and all its processes."""
        self._process.terminate()
        self._process.wait(20)


async def ready(path: Path) -> bool:
    """Whether a file has been written."""
    return path.exists() and path.stat().st_size > 0


async def until(holds: Callable[[], Awaitable[Any]], what: str, patience: float = PATIENCE) -> Any:  # noqa: ANN401
    """Waits for ``holds`` to give something true; returns that."""
    end = time.monotonic() + patience
    while True:
        if value := await holds():
            return value
        assert time.monotonic() < end, f"waited {patience:.0f} s for {what}"
        await asyncio.sleep(0.1)


class Tab:
    """A tab of the browser: ``async with await Tab.open(browser, url) as tab``."""

    def __init__(self, http: aiohttp.ClientSession, address: str, id: str) -> None:
        self._http, self._address, self.id = http, address, id
        self._numbers = itertools.count(1)
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self.problems: list[str] = []
        self.requests: list[str] = []

    @classmethod
    async def open(cls, browser: Browser, url: str) -> Tab:
        """Opens a tab and waits until its page is loaded."""
        http = aiohttp.ClientSession()
        address = await browser.address()
        async with http.put(f"{address}/json/new?about:blank") as answer:
            target = await answer.json()
        tab = cls(http, address, target["id"])
        tab._socket = await http.ws_connect(target["webSocketDebuggerUrl"], max_msg_size=0)
        tab._listener = asyncio.create_task(tab._listen())
        for domain in ("Page", "Runtime", "Log", "Network"):
            await tab.send(f"{domain}.enable")
        await tab.send(
            "Browser.setDownloadBehavior", behavior="allow", downloadPath=str(browser.downloads)
        )
        await tab.send("Page.navigate", url=url)
        await tab.until("document.readyState == 'complete'")
        return tab

    async def __aenter__(self) -> Tab:
        return self

    async def __aexit__(self, *_: object) -> None:
        async with self._http.get(f"{self._address}/json/close/{self.id}"):
            pass
        self._listener.cancel()
        await self._http.close()

    async def send(self, method: str, **parameters: Any) -> Any:  # noqa: ANN401
        """Calls a method of the protocol; returns its result."""
        number = next(self._numbers)
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        await self._socket.send_json({"id": number, "method": method, "params": parameters})
        return await asyncio.wait_for(answer, PATIENCE)

    async def run(self, script: str) -> Any:  # noqa: ANN401
        """The value of an expression in the page; promises are awaited."""
        answer = await self.send(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True,
            userGesture=True,
        )  # fmt: skip
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    async def until(self, script: str) -> None:
        """Waits for an expression in the page, or what it promises, to be true."""
        await until(lambda: self.run(f"(async () => Boolean(await ({script})))()"), script)

    async def choose_file(self, selector: str, *paths: Path) -> None:
        """Puts files into a file input, as the user's dialogue would."""
        element = await self.send(
            "Runtime.evaluate", expression=f"document.querySelector('{selector}')"
        )
        await self.send(
            "DOM.setFileInputFiles",
            files=[str(path) for path in paths],
            objectId=element["result"]["objectId"],
        )

    async def drop(self, selector: str, *paths: Path) -> None:
        """Drags files from the desktop onto an element."""
        box = await self.run(
            f"document.querySelector('{selector}').getBoundingClientRect().toJSON()"
        )
        data = {"items": [], "files": [str(path) for path in paths], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            await self.send(
                "Input.dispatchDragEvent", type=kind, x=box["x"] + 9, y=box["y"] + 9, data=data
            )

    async def press(self, key: str, code: int, text: str = "", *, modifiers: int = 0) -> None:
        """Presses a key, as the user's keyboard would; ``modifiers`` is 8 with shift."""
        common = {
            "key": key, "code": key, "windowsVirtualKeyCode": code, "modifiers": modifiers,
        }  # fmt: skip
        await self.send("Input.dispatchKeyEvent", type="keyDown", text=text, **common)
        await self.send("Input.dispatchKeyEvent", type="keyUp", **common)

    async def screenshot(self, path: Path) -> None:
        """Writes a PNG of the whole page."""
        size = (await self.send("Page.getLayoutMetrics"))["cssContentSize"]
        answer = await self.send(
            "Page.captureScreenshot", captureBeyondViewport=True, clip={**size, "scale": 1}
        )
        path.write_bytes(base64.b64decode(answer["data"]))

    async def _listen(self) -> None:
        async for message in self._socket:
            data = json.loads(message.data)
            if "id" in data:
                answer = self._answers.pop(data["id"])
                if answer.done():
                    continue
                if "error" in data:
                    answer.set_exception(RuntimeError(data["error"]["message"]))
                else:
                    answer.set_result(data["result"])
            else:
                self._note(data["method"], data["params"])

    def _note(self, event: str, details: dict[str, Any]) -> None:
        """Keeps what the page complains of, and what it asks for."""
        if event == "Runtime.exceptionThrown":
            self.problems.append(json.dumps(details["exceptionDetails"]))
        elif event == "Log.entryAdded" and details["entry"]["level"] == "error":
            self.problems.append(f"{details['entry']['text']} {details['entry'].get('url', '')}")
        elif event == "Network.requestWillBeSent":
            self.requests.append(details["request"]["url"])
