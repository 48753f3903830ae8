"""kill -9 at random moments: ``python -m tests.engine.jobs.kills --kills 50 --seed 1``.

Jobs in segments are killed again and again, at a random moment within half of the time that a
whole job takes, and continued with ``--resume``, so that every part of a job falls into that half
at some time.  What comes out must have the pictures, times and sound of a job that nobody killed.
Every other job has two workers: their network is warmed up for each segment instead of going on
from the last, so they are compared among themselves.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

import av
import cv2
import numpy as np
import psutil
from numpy.typing import NDArray
from tests.helpers import content, make_clip

from fusematte.cli import main
from fusematte.engine.jobs.segmented import segments_of
from fusematte.engine.media import segments

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


SERVER = multiprocessing.get_context("forkserver")
"""Starts processes that have imported everything, so that most kills hit the work itself."""


def job(arguments: list[object]) -> BaseProcess:
    """The command line in a process of its own, begun."""
    SERVER.set_forkserver_preload([__name__, "openvino", "fusematte.engine.commands.run"])
    process = SERVER.Process(target=work, args=([*map(str, arguments)],))
    process.start()
    return process


def work(arguments: list[str]) -> None:
    """The command line, in a new process."""
    segments.FRAMES = SEGMENT
    sys.exit(main(arguments))


def finished(process: BaseProcess) -> None:
    """Waits for the end of a job.

    Raises:
        RuntimeError: it failed.
    """
    process.join()
    if process.exitcode != 0:
        raise RuntimeError(f"ended with {process.exitcode}")


def kill(process: BaseProcess, seconds: float) -> bool:
    """Kills a job after so long, and waits for the end of its workers, which end by themselves;
    False if it was done before.

    Raises:
        RuntimeError: it had failed before.
    """
    process.join(seconds)
    if process.exitcode is None:
        workers = psutil.Process(process.pid).children(recursive=True)
        process.kill()
        process.join()
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
    generator, clip = random.Random(seed), people(folder / "people.mp4", 60)
    wholes, seconds = [folder / "whole-1.mkv", folder / "whole-2.mkv"], [0.0, 0.0]

    def command(output: Path, workers: int) -> list[object]:
        fixed = ("-q", "--background", "transparent", "--backend", BACKEND)
        return ["run", clip, output, *fixed, "--jobs", workers]

    for workers, whole in enumerate(wholes, start=1):
        begun = time.monotonic()
        finished(job(command(whole, workers)))
        seconds[workers - 1] = time.monotonic() - begun
    done = jobs = 0
    while done < kills:
        turn, output, jobs = jobs % 2, folder / f"{jobs}.mkv", jobs + 1
        whole, order = wholes[turn], command(output, 1 + turn)
        for _ in range(min(KILLS, kills - done)):
            resume = ["--resume"] * segments_of(output).exists()
            if not kill(job([*order, *resume]), generator.uniform(0, seconds[turn] / 2)):
                break
            done += 1
            if output.exists():  # it was killed while it tidied up
                break
        if not output.exists() or segments_of(output).exists():
            finished(job([*order, "--resume"]))
        assert content(output) == content(whole)
        np.testing.assert_array_equal(lossless(output), lossless(whole))
        assert not segments_of(output).exists()
        told(f"{done} kills, {jobs} jobs whole")
    return jobs


def run() -> int:
    """Kills so often; returns 0."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kills-") as folder:
        check(Path(folder), options.kills, options.seed, lambda line: print(line, flush=True))
    return 0


if __name__ == "__main__":
    sys.exit(run())
