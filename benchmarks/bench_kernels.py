"""Times the native kernels against memcpy and against OpenCV and NumPy, on one core.

    python benchmarks/bench_kernels.py [--repeats 60]

Every kernel runs in turn with a memcpy in the same loop, over a ring of pictures larger than the
last-level cache, as pictures arrive in a pipeline.  The figures are medians of the thread's CPU
time, which other processes disturb least.  For ``composite`` the memcpy moves as many bytes as the
kernel must: frame, background and maps that it must read plus what it must write, so it copies
half of that sum (a memcpy of the whole sum takes twice as long).  For ``resize_to_tensor`` it
copies the planes that are read.
``handover`` is ``composite`` and the picture for the encoder: into pooled memory that the encoder
reads where it is, and into fresh memory that is copied.  Writes benchmarks/results/kernels.json.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from machine import real_time_priority
from numpy.typing import NDArray

from fusematte import cpp_ext
from fusematte.engine.frame import PIXEL_FORMATS, Frame
from fusematte.engine.media.av_frames import new_picture
from fusematte.engine.pixels.buffer_pool import new_planes

Planes = list[NDArray[Any]]
Job = Callable[[], object]

LEVELS = (16.0, 219.0, 128.0, 224.0)
BT709 = (0.2126, 0.0722)
LOW = 288, 512
RING_BYTES = 96 << 20
RESULTS = Path(__file__).parent / "results" / "kernels.json"


class Scene(NamedTuple):
    """A person's outline over a ring of frames and backgrounds, with room for the output."""

    frames: list[Planes]
    backgrounds: list[Planes]
    outputs: list[Planes]
    slope: NDArray[np.float32]
    offset: NDArray[np.float32]
    shift: NDArray[np.float32]


def planes(height: int, width: int, random: np.random.Generator) -> Planes:
    """A 4:2:0 picture with structure at every scale."""
    result = []
    for rows, columns in ((height, width), *[(height // 2, width // 2)] * 2):
        coarse = random.integers(40, 200, (9, 16)).astype(np.float32)
        smooth = cv2.resize(coarse, (columns, rows), interpolation=cv2.INTER_CUBIC)
        noise = random.integers(-6, 7, (rows, columns))
        result.append(np.clip(smooth + noise, 16, 235).astype(np.uint8))
    return result


def person(height: int, width: int) -> NDArray[np.float32]:
    """Head and shoulders, about a third of the picture, with a soft edge."""
    mask = np.zeros((height, width), np.float32)
    middle = width // 2
    cv2.ellipse(mask, (middle, height * 2 // 5), (width // 9, height // 4), 0, 0, 360, 1, -1)
    cv2.ellipse(mask, (middle, height), (width * 7 // 24, height * 2 // 5), 0, 0, 360, 1, -1)
    return np.asarray(cv2.GaussianBlur(mask, (0, 0), 2), np.float32)


def half(picture: NDArray[np.float32]) -> NDArray[np.float32]:
    """At half the size; as the engine does, which estimates colours at that."""
    height, width = picture.shape[-2:]
    cells = picture.reshape(*picture.shape[:-2], height // 2, 2, width // 2, 2)
    return np.ascontiguousarray(cells.mean(axis=(-3, -1), dtype=np.float32))


def scene(height: int, width: int) -> Scene:
    """What a job needs at one size."""
    random = np.random.default_rng(0)
    first = planes(height, width, random)
    count = 1 + RING_BYTES // sum(plane.nbytes for plane in first) // 3
    frames = [[plane.copy() for plane in first] for _ in range(count)]
    second = planes(height, width, random)
    backgrounds = [[plane.copy() for plane in second] for _ in range(count)]
    outputs = [[np.zeros_like(plane) for plane in first] for _ in range(count)]
    ycbcr = cpp_ext.resize_to_tensor(first, *LOW, matrix=BT709, levels=LEVELS).ycbcr
    alpha = person(*LOW)
    slope, offset = cpp_ext.guided_coefficients(ycbcr[0], alpha, 2, 1e-4)
    bounds = ((0.0, 1.0), (-0.5, 0.5), (-0.5, 0.5))
    ycbcr, alpha = half(ycbcr), half(alpha)
    color = cpp_ext.estimate_foreground(ycbcr, alpha, (45, 3), bounds=bounds).foreground
    spans = np.float32([LEVELS[1], LEVELS[3], LEVELS[3]]).reshape(3, 1, 1)
    return Scene(frames, backgrounds, outputs, slope, offset, (color - ycbcr) * spans)


def seconds(job: Job) -> float:
    begin = time.thread_time()
    job()
    return time.thread_time() - begin


def copies(size: int) -> Iterator[Job]:
    """memcpys of ``size`` bytes each, round a ring of memory that has been written before."""
    count = 1 + RING_BYTES // size // 2
    pairs = [(np.full(size, 2, np.uint8), np.ones(size, np.uint8)) for _ in range(count)]
    return cycle([lambda a=a, b=b: np.copyto(a, b) for a, b in pairs])


def measure(jobs: dict[str, Iterator[Job]], repeats: int) -> dict[str, float]:
    """Median seconds of each job; the jobs take turns, so that noise meets all of them."""
    times: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(repeats):
        for name, turns in jobs.items():
            times[name].append(seconds(next(turns)))
    return {name: statistics.median(values[3:]) for name, values in times.items()}


def opencv_resize(frame: Planes) -> NDArray[np.float32]:
    """The usual way: RGB at full resolution, then down, then float."""
    picture = cv2.cvtColor(np.vstack([frame[0], *halves(frame)]), cv2.COLOR_YUV2RGB_I420)
    small = cv2.resize(picture, LOW[::-1], interpolation=cv2.INTER_AREA)
    return np.asarray(small.transpose(2, 0, 1).astype(np.float32) / 255)


def halves(frame: Planes) -> list[NDArray[Any]]:
    """U and V as the lower third of OpenCV's I420 picture."""
    width = frame[0].shape[1]
    return [plane.reshape(-1, width) for plane in frame[1:]]


def opencv_composite(frame: Planes, background: Planes, job: Scene) -> Planes:
    """The usual way: coefficients enlarged, alpha, then each plane in float."""
    size = frame[0].shape[::-1]
    luma = (frame[0] - np.float32(LEVELS[0])) / np.float32(LEVELS[1])
    alpha = np.clip(cv2.resize(job.slope, size) * luma + cv2.resize(job.offset, size), 0, 1)
    small = cv2.resize(alpha, frame[1].shape[::-1], interpolation=cv2.INTER_AREA)
    result = []
    for near, far, shift, opacity in zip(
        frame, background, job.shift, (alpha, small, small), strict=True
    ):
        color = near + cv2.resize(shift, near.shape[::-1])
        result.append((np.clip(far + opacity * (color - far), 0, 255) + 0.5).astype(np.uint8))
    return result


def bench_composite(height: int, width: int, repeats: int) -> dict[str, Any]:
    job = scene(height, width)
    ring = list(zip(job.frames, job.backgrounds, job.outputs, strict=True))
    gray = np.full(LOW, 0.5, np.float32)

    def turns(shift: NDArray[np.float32] | None, offset: NDArray[np.float32]) -> Iterator[Job]:
        slope = job.slope if offset is job.offset else np.zeros(LOW, np.float32)
        return cycle(
            [
                lambda f=f, b=b, o=o: cpp_ext.composite(
                    f, slope, offset, b, levels=LEVELS, shift=shift, keep_solid=True, out=o
                )
                for f, b, o in ring
            ]
        )

    maps = job.slope.nbytes + job.offset.nbytes + job.shift.nbytes
    moved = 3 * sum(plane.nbytes for plane in job.frames[0]) + maps
    medians = measure(
        {
            "memcpy": copies(moved // 2),
            "with_shift": turns(job.shift, job.offset),
            "plain": turns(None, job.offset),
            "every_pixel_mixed": turns(None, gray),
            "every_pixel_mixed_with_shift": turns(job.shift, gray),
        },
        repeats,
    )
    usual = measure(
        {"opencv": cycle([lambda f=f, b=b: opencv_composite(f, b, job) for f, b, _ in ring])}, 9
    )
    return report(medians | usual, "with_shift", moved)


def bench_resize(height: int, width: int, repeats: int) -> dict[str, Any]:
    frames = scene(height, width).frames
    rgb, ycbcr = np.empty((3, *LOW), np.float32), np.empty((3, *LOW), np.float32)
    read = sum(plane.nbytes for plane in frames[0])
    turns: Iterator[Job] = cycle(
        [
            lambda f=f: cpp_ext.resize_to_tensor(
                f, *LOW, matrix=BT709, levels=LEVELS, rgb=rgb, ycbcr=ycbcr
            )
            for f in frames
        ]
    )
    medians = measure({"memcpy": copies(read), "kernel": turns}, repeats)
    usual = measure({"opencv": cycle([lambda f=f: opencv_resize(f) for f in frames])}, 15)
    return report(medians | usual, "kernel", 2 * read)


def bench_low(repeats: int) -> dict[str, Any]:
    """The kernels at network resolution and at half of it."""
    color = np.random.default_rng(0).random((3, *LOW), np.float32)
    alpha = person(*LOW)
    half_color, half_alpha = half(color), half(alpha)
    planes = np.random.default_rng(1).random((*LOW, 4), np.float32)
    flow = np.zeros((LOW[0] // 2, LOW[1] // 2, 2), np.float32)
    moved = cpp_ext.move(planes, flow)
    jobs: dict[str, Job] = {
        "guided_coefficients": lambda: cpp_ext.guided_coefficients(color[0], alpha, 2, 1e-4),
        "guided_alpha": lambda: cpp_ext.guided_alpha(color, alpha, 4, 1e-5, certain=0.05),
        "estimate_foreground_half_size": lambda: cpp_ext.estimate_foreground(
            half_color, half_alpha, (45, 3)
        ),
        "move": lambda: cpp_ext.move(planes, flow),
        "blend_moved": lambda: cpp_ext.blend_moved(
            color[0], moved, moved, radius=3, noise=0.01, unfit=0.03
        ),
    }
    medians = measure({name: cycle([job]) for name, job in jobs.items()}, repeats)
    return {name: {"kernel_ms": round(1e3 * value, 3)} for name, value in medians.items()}


def bench_handover(height: int, width: int, repeats: int) -> dict[str, Any]:
    """From the kernel's planes to libav's picture, with the pool and without."""
    job = scene(height, width)
    like = Frame(planes=tuple(job.frames[0]), format=PIXEL_FORMATS["yuv420p"])

    def turn(frame: Planes, background: Planes, out: Sequence[NDArray[Any]] | None) -> None:
        planes = cpp_ext.composite(
            frame, job.slope, job.offset, background, levels=LEVELS, shift=job.shift,
            keep_solid=True, out=out,
        )  # fmt: skip
        new_picture(tuple(planes), "yuv420p")

    ring = list(zip(job.frames, job.backgrounds, strict=True))
    medians = measure(
        {
            "copied": cycle([lambda f=f, b=b: turn(f, b, None) for f, b in ring]),
            "pooled": cycle([lambda f=f, b=b: turn(f, b, new_planes(like)) for f, b in ring]),
        },
        repeats,
    )
    return {"ms": {name: round(1e3 * value, 3) for name, value in medians.items()}}


def report(medians: dict[str, float], kernel: str, moved: int) -> dict[str, Any]:
    """Milliseconds, each as a multiple of the memcpy, and the factor over OpenCV."""
    return {
        "bytes_moved": moved,
        "ms": {name: round(1e3 * value, 3) for name, value in medians.items()},
        "ratio_to_memcpy": {
            name: round(value / medians["memcpy"], 2)
            for name, value in medians.items()
            if name != "memcpy"
        },
        "factor_over_opencv": round(medians["opencv"] / medians[kernel], 1),
    }


def machine() -> dict[str, Any]:
    info = Path("/proc/cpuinfo")
    models = [
        line.split(":", 1)[1].strip()
        for line in (info.read_text().splitlines() if info.exists() else [])
        if line.startswith("model name")
    ]
    return {
        "cpu": models[0] if models else platform.processor(),
        "cores": os.cpu_count(),
        "instruction_set": cpp_ext.instruction_sets()[-1],
        "real_time_priority": real_time_priority(),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--repeats", type=int, default=60)
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    repeats = args.repeats
    cv2.setNumThreads(1)
    results = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "threads": 1,
        "memcpy": {
            "composite": "copies (bytes read + bytes written) / 2: as many bytes move",
            "resize": "copies the planes that are read",
        },
        "composite_1080p": bench_composite(1080, 1920, repeats),
        "composite_2160p": bench_composite(2160, 3840, repeats),
        "resize_1080p": bench_resize(1080, 1920, repeats),
        "resize_2160p": bench_resize(2160, 3840, repeats),
        "low_resolution": bench_low(repeats),
        "handover_1080p": bench_handover(1080, 1920, repeats),
        "handover_2160p": bench_handover(2160, 3840, repeats),
    }
    text = json.dumps(results, indent=2)
    args.output.parent.mkdir(exist_ok=True)
    args.output.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
