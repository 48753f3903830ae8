"""The HTTP API under load: many clients that each send one picture after another.

    python benchmarks/bench_api.py [--clip CLIP] [--size 1280x720] [--clients 50] [--seconds 60]

Clients and server share the machine.  A client that is told to come again (429) waits as it is told
and counts the whole time.  Writes benchmarks/results/api.json.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import aiohttp
import cv2
import numpy as np
import psutil
from bench_job import SOURCE
from bench_latency import pictures
from machine import machine

from fusematte.engine.media.av_frames import rgb_of
from fusematte.engine.media.files import jpeg

RESULTS = Path(__file__).parent / "results" / "api.json"
PICTURES = 8


class Load:
    """What the clients see."""

    def __init__(self, address: str, bodies: list[bytes]) -> None:
        self._address, self._bodies = address, bodies
        self.latency: list[float] = []
        self.answers: Counter[int] = Counter()

    async def client(self, http: aiohttp.ClientSession, number: int, end: float) -> None:
        """Sends pictures until the time is over."""
        while (begun := time.monotonic()) < end:
            number += 1
            while (wait := await self._send(http, number)) is not None:
                await asyncio.sleep(wait)
            self.latency.append(1e3 * (time.monotonic() - begun))

    async def _send(self, http: aiohttp.ClientSession, number: int) -> float | None:
        """Sends a picture; returns the seconds to wait before it is sent again, if it has to be."""
        form = aiohttp.FormData()
        form.add_field("file", self._bodies[number % len(self._bodies)], filename="a.jpg")
        async with http.post(self._address, data=form) as answer:
            data = await answer.read()
            self.answers[answer.status] += 1
            if answer.status == 429:
                return float(answer.headers["Retry-After"])
            if answer.status == 200:
                assert (
                    cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED).shape[2] == 4
                )
            return None


async def run(load: Load, clients: int, seconds: float, server: psutil.Process) -> list[int]:
    """All clients at once; the server's resident memory, four times a second."""
    memory: list[int] = []

    async def watch() -> None:
        while True:
            memory.append(server.memory_info().rss)
            await asyncio.sleep(0.25)

    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as http:
        watcher = asyncio.create_task(watch())
        end = time.monotonic() + seconds
        await asyncio.gather(*(load.client(http, number, end) for number in range(clients)))
        watcher.cancel()
    return memory


def measure(clip: Path, size: tuple[int, int], clients: int, seconds: float) -> dict[str, Any]:
    """Starts a server, loads it, stops it."""
    frames = pictures(clip, *size, PICTURES)
    load = Load("", [jpeg(rgb_of(frame), 90) for frame in frames])
    command = [sys.executable, "-m", "fusematte", "serve", "--port", "0", "--api"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        load._address = f"{url.rsplit('/', 2)[0]}/api/matte"
        server = psutil.Process(process.pid)
        try:
            asyncio.run(run(load, 1, 3, server))  # warm
            idle = server.memory_info().rss
            load.latency.clear()
            load.answers.clear()
            begun = time.monotonic()
            memory = asyncio.run(run(load, clients, seconds, server))
            elapsed = time.monotonic() - begun  # with the last pictures, which were sent in time
        finally:
            process.terminate()
    p50, p95, p99 = np.percentile(load.latency, [50, 95, 99])
    return {
        "clients": clients,
        "served": load.answers[200],
        "answers": {str(status): count for status, count in sorted(load.answers.items())},
        "served_per_second": round(load.answers[200] / elapsed, 2),
        "latency_ms": {"p50": round(p50), "p95": round(p95), "p99": round(p99)},
        "memory_mb": {"idle": idle >> 20, "most": max(memory) >> 20, "end": memory[-1] >> 20},
    }


def main() -> None:
    """Measures one client and many; writes the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clip", type=Path, default=SOURCE)
    parser.add_argument("--size", default="1280x720")
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=60)
    options = parser.parse_args()
    width, height = map(int, options.size.split("x"))
    load = psutil.getloadavg()[0]
    rows = [
        measure(options.clip, (width, height), clients, options.seconds)
        for clients in (1, options.clients)
    ]
    result = {
        "machine": machine(),
        "load_before": round(load, 1),
        "size": options.size,
        "answer": "RGBA PNG of the same size",
        "seconds": options.seconds,
        "rows": rows,
    }
    RESULTS.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
