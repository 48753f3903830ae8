"""Debian's ffprobe and ffmpeg, decoders that are not ours, as the tests' second opinion."""

from __future__ import annotations

import asyncio
import json
import math
import shutil
import socket
import subprocess
from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from numpy.typing import NDArray

from fusematte.engine.backends import Maps
from fusematte.engine.frame import Frame, Map, Matte
from fusematte.engine.matting.matter import Matter, Seen
from tests.helpers import matte_of


def tool(name: str) -> str:
    """The path of a program; the test is skipped where it is missing."""
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"no {name} here: apt-get install ffmpeg")
    return path


def run_tool(name: str, *arguments: str | Path, input: bytes | None = None) -> bytes:
    """What a program writes to standard output."""
    command = [tool(name), "-v", "error", *map(str, arguments)]
    done = subprocess.run(command, input=input, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def probe(path: Path) -> dict[str, Any]:
    """Format, streams and chapters of a file."""
    return _probe(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=8)
def _probe(path: Path, changed: int) -> dict[str, Any]:  # noqa: ARG001
    """Tests ask for one tag after the other; the program takes a tenth of a second each time."""
    shown = "-show_format", "-show_streams", "-show_chapters"
    found: dict[str, Any] = json.loads(run_tool("ffprobe", *shown, "-of", "json", path))
    return found


def times(path: Path) -> list[Fraction]:
    """When each frame is shown, in seconds."""
    entries = "stream=time_base:frame=best_effort_timestamp"
    selection = "-select_streams", "v:0", "-show_entries", entries, "-of", "json"
    found = json.loads(run_tool("ffprobe", *selection, path))
    unit = Fraction(found["streams"][0]["time_base"])
    return [int(frame["best_effort_timestamp"]) * unit for frame in found["frames"]]


def packets(path: Path, stream: str) -> list[tuple[Fraction, str]]:
    """Time and hash of each packet of a stream such as ``a:0``."""
    shown = "-show_entries", "stream=time_base:packet=pts,data_hash", "-show_data_hash", "md5"
    found = json.loads(run_tool("ffprobe", "-select_streams", stream, *shown, "-of", "json", path))
    unit = Fraction(found["streams"][0]["time_base"])
    return [(int(packet["pts"]) * unit, packet["data_hash"]) for packet in found["packets"]]


def pixels(path: Path | str, format: str, *options: str, size: tuple[int, int]) -> NDArray[Any]:
    """All frames as ffmpeg decodes them: [frames, height, width, channels]; gray and RGB kinds.

    size: width, height.  options: what comes before the input.
    """
    width, height = size
    raw = run_tool(
        "ffmpeg", "-noautorotate", *options, "-i", path, "-fps_mode", "passthrough", "-pix_fmt",
        format, "-f", "rawvideo", "-",
    )  # fmt: skip
    dtype = np.dtype("<u2") if "16" in format or "48" in format or "64" in format else np.uint8
    if format.endswith(("10le", "12le")):
        dtype = np.dtype("<u2")
    return np.frombuffer(raw, dtype).reshape(-1, height, width, _CHANNELS.get(format, 1))


_CHANNELS = {"rgb24": 3, "rgba": 4, "rgba64le": 4, "rgb48le": 3}


def planes(path: Path, format: str, *options: str, size: tuple[int, int]) -> list[NDArray[Any]]:
    """The planes of all frames in a planar layout, each [frames, height, width]."""
    raw = run_tool(
        "ffmpeg", "-noautorotate", *options, "-i", path, "-fps_mode", "passthrough", "-pix_fmt",
        format, "-f", "rawvideo", "-",
    )  # fmt: skip
    width, height = size
    across, down = 1 if "444" in format else 2, 2 if "420" in format else 1
    chroma = -(-height // down), -(-width // across)
    shapes = [(height, width), chroma, chroma, *[(height, width)] * format.startswith("yuva")]
    ends = np.cumsum([math.prod(shape) for shape in shapes])
    samples = np.frombuffer(raw, "<u2" if format.endswith("10le") else np.uint8)
    parts = np.split(samples.reshape(-1, ends[-1]), ends[:-1], axis=1)
    return [part.reshape(-1, *shape) for part, shape in zip(parts, shapes, strict=True)]


def free_port() -> int:
    """One that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def until_listening(process: subprocess.Popen[str], port: int) -> None:
    """Waits until a process listens; a connection to look would be taken for the peer's."""
    for _ in range(600):
        lines = psutil.Process(process.pid).net_connections("tcp")
        # A peer that takes one connection no longer listens once it has it.
        states = {line.status for line in lines if line.laddr.port == port}
        if states & {"LISTEN", "ESTABLISHED"}:
            return
        await asyncio.sleep(0.1)
    pytest.fail(f"{process.args}: does not listen on {port}")


Infer = Callable[[Map, Map], Maps]


class HookedMatter(Matter):
    """A Matter whose network a test can replace: by ``hook(network, image, previous)``."""

    hook: Callable[..., Any] | None = None

    def infer(self, image: Map, previous: Map) -> Maps:
        if self.hook is None:
            return super().infer(image, previous)
        maps: Maps = self.hook(super().infer, image, previous)
        return maps


def poison(network: Infer, image: Map, previous: Map) -> Maps:
    """What the network says, but for one pixel that is no number."""
    maps = network(image, previous)
    maps.alpha[7, 9] = np.nan
    return maps


class EdgeMatter:
    """People in the left half of every picture, with a soft edge; no network: for outputs alone."""

    backend = None
    """Nothing that could keep frames on a GPU."""
    follows = True
    chooses = False

    def see(self, frame: Frame) -> Seen:
        nothing = np.zeros((3, 18, 24), np.float32)
        return Seen(frame, nothing, anew=True)

    def matte(self, seen: Seen) -> Matte:
        return self(seen.frame)

    def __call__(self, frame: Frame) -> Matte:
        ramp = np.clip(3.5 - 6 * np.linspace(0, 1, 24), 0, 1)
        return matte_of(frame, np.tile(ramp.astype(np.float32), (18, 1)))
