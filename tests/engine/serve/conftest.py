"""A server as a user starts it, and a browser; both for the whole session."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest

pytest.importorskip("aiohttp")
pytest.importorskip("aiortc")

from tests.engine.serve.browser import Browser, make_camera


class Usage(NamedTuple):
    """What a process holds; connections that wait for a next request are none of its files."""

    threads: int
    files: int
    memory: int


class Server:
    """A running ``fusematte serve``; ``url`` ends with a slash, ``folder`` holds its files."""

    def __init__(self, temporary: Path, *arguments: str) -> None:
        temporary.mkdir()
        self.log = temporary.with_suffix(".log")
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "fusematte", "serve", "--port", "0", *arguments],
                stdout=subprocess.PIPE, stderr=log, text=True,
                env={**os.environ, "TMPDIR": str(temporary)},
            )  # fmt: skip
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().strip()
        assert self.url.startswith("http://127.0.0.1:"), self.log.read_text()
        (self.folder,) = temporary.glob("fusematte-serve-*")

    def usage(self) -> Usage:
        """Now."""
        process = psutil.Process(self.process.pid)
        open = sum(line.status == "ESTABLISHED" for line in process.net_connections("tcp"))
        return Usage(process.num_threads(), process.num_fds() - open, process.memory_info().rss)

    def files(self) -> list[str]:
        """What lies in its folder of jobs."""
        return sorted(path.name for path in (self.folder / "jobs").rglob("*"))

    def uploaded(self) -> list[str]:
        """The backgrounds that came from a page, and what uploads of others left."""
        return sorted(path.name for path in self.folder.glob("backgrounds/upload-*"))

    def stop(self, signal: int = signal.SIGTERM) -> int:
        """Ends it; returns the exit code."""
        self.process.send_signal(signal)
        return self.process.wait(30)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The server of most tests."""
    server = Server(tmp_path_factory.mktemp("server") / "tmp")
    yield server
    assert server.stop() == 0
    assert "Traceback" not in server.log.read_text()


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory, shared_clips: Path) -> Iterator[Browser]:
    """Chromium whose camera shows a person."""
    folder = tmp_path_factory.mktemp("browser")
    browser = Browser(folder, make_camera(shared_clips / "m1.mp4", folder / "camera.mjpeg"))
    yield browser
    browser.close()
