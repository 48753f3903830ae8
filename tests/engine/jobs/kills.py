"""kill -9 at random moments: ``python -m tests.engine.jobs.kills --kills 50 --seed 1``.

Jobs in segments are killed again and again, at a random moment within half of the time that a
whole job takes, and continued with ``--resume``, so that every part of a job falls into that half
at some time.  What comes out must have the pictures, times and sound of a job that nobody killed.
Every other job has two workers: their network is warmed up for each segment instead of going on
from the last, so they are compared among themselves.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import av
import cv2
import numpy as np
import psutil
from numpy.typing import NDArray
from tests.helpers import content, make_clip

from fusematte.engine.jobs.segmented import segments_of

SEGMENT = 10
"""Frames of a segment."""
BACKEND = "openvino:cpu:f32"
"""One that is not tuned: what a machine measured would be killed, too."""
KILLS = 8
"""Kills of one job."""


def portraits(width: int, height: int, index: int) -> NDArray[np.uint8]:
    """A person, filmed by a moving camera; a cut to another picture of her at the first joint."""
    from skimage.data import astronaut

    portrait = astronaut()
    if index >= SEGMENT:
        portrait = 255 - portrait[100:400, 400:100:-1] // 2
    moved = np.roll(cv2.resize(portrait, (width, height)), 2 * index, 1)
    return np.ascontiguousarray(moved, np.uint8)


def people(path: Path, frames: int) -> Path:
    """A clip of her with sound, and key frames where segments may begin."""
    options = {"g": "5", "keyint_min": "5"}
    size = {"width": 128, "height": 128}
    return make_clip(path, **size, frames=frames, audio=True, options=options, show=portraits)


def lossless(path: Path) -> list[NDArray[np.uint8]]:
    """What each picture shows, with its alpha."""
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgba") for frame in container.decode(video=0)]


def start(*arguments: object) -> subprocess.Popen[bytes]:
    """The command line in a process of its own, with short segments."""
    code = (
        "import sys; from fusematte.engine.media import segments; from fusematte.cli import main; "
        f"segments.FRAMES = {SEGMENT}; sys.exit(main(sys.argv[1:]))"
    )
    return subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)])


def finished(process: subprocess.Popen[bytes]) -> None:
    """Waits for the end of a job.

    Raises:
        RuntimeError: it failed.
    """
    if process.wait() != 0:
        raise RuntimeError(f"ended with {process.returncode}")


def kill(process: subprocess.Popen[bytes], seconds: float) -> bool:
    """Kills a job after so long, and waits for the end of its workers, which end by themselves;
    False if it was done before.

    Raises:
        RuntimeError: it had failed before.
    """
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        workers = psutil.Process(process.pid).children(recursive=True)
        process.kill()
        process.wait()
        psutil.wait_procs(workers)
        return True
    finished(process)
    return False


def check(folder: Path, kills: int, seed: int, told: Callable[[str], None]) -> int:
    """Kills so often; returns how many jobs came out whole.

    Raises:
        AssertionError: a job came out otherwise than one that was not killed.
        RuntimeError: a job failed.
    """
    generator, clip = random.Random(seed), people(folder / "people.mp4", 100)
    wholes, seconds = [folder / "whole-1.mkv", folder / "whole-2.mkv"], 0.0

    def command(output: Path, workers: int) -> list[object]:
        fixed = ("-q", "--background", "transparent", "--backend", BACKEND)
        return ["run", clip, output, *fixed, "--jobs", workers]

    for workers, whole in enumerate(wholes, start=1):
        begun = time.monotonic()
        finished(start(*command(whole, workers)))
        seconds = time.monotonic() - begun
    done = jobs = 0
    while done < kills:
        whole, work = wholes[jobs % 2], command(folder / f"{jobs}.mkv", 1 + jobs % 2)
        output, jobs = folder / f"{jobs}.mkv", jobs + 1
        for _ in range(min(KILLS, kills - done)):
            resume = ["--resume"] * segments_of(output).exists()
            if not kill(start(*work, *resume), generator.uniform(0, seconds / 2)):
                break
            done += 1
            assert not output.exists()
        if not output.exists():
            finished(start(*work, "--resume"))
        assert content(output) == content(whole)
        np.testing.assert_array_equal(lossless(output), lossless(whole))
        assert not segments_of(output).exists()
        told(f"{done} kills, {jobs} jobs whole")
    return jobs


def main() -> int:
    """Kills so often; returns 0."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kills-") as folder:
        check(Path(folder), options.kills, options.seed, lambda line: print(line, flush=True))
    return 0


if __name__ == "__main__":
    sys.exit(main())
