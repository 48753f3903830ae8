"""``fusematte bench``: measures the speed of this machine."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np

from fusematte.engine.diagnostics.demo import camera_moves, load_pictures
from fusematte.engine.frame import Frame
from fusematte.engine.jobs.options import JobOptions
from fusematte.engine.jobs.single import Progress, run_once
from fusematte.engine.matting.matter import Matter
from fusematte.engine.media.reader import Reader
from fusematte.engine.media.writer import Writer
from fusematte.engine.pipeline import Pipeline, Stage

RATE = 30


def bench(
    sizes: Sequence[tuple[int, int]],
    *,
    model: str,
    backend: str,
    threads: int | None,
    frames: int,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Runs a complete job on a clip of each (height, width), and matting alone.

    Returns model, backend and device, and per size: ``fps`` of the job; ``codec_fps`` of decoding
    and encoding the same clip without matting, before and after the job; ``ratio`` of the two;
    ``stage_ms``, busy time of each stage per frame; and ``matte_ms``, median and 95th percentile of
    the time from a frame to its matte with nothing else running.

    Raises:
        UsageError: scikit-image, which provides the picture, is not installed.
        FuseMatteError: as ``run``.
    """
    with Matter(model, backend=backend, threads=threads) as matter:
        result: dict[str, Any] = {
            "model": {"name": matter.bundle.name, "version": matter.bundle.version},
            "backend": matter.backend.name,
            "device": matter.backend.device,
            "precision": matter.backend.precision,
            "frames": frames,
            "sizes": {},
        }
        with tempfile.TemporaryDirectory(prefix="fusematte-") as folder:
            for height, width in sizes:
                clip, output = Path(folder) / "clip.mp4", Path(folder) / "out.mp4"
                _write_clip(clip, height, width, frames)
                job = JobOptions(model=model, backend=backend, threads=threads)
                codec = [_transcode(clip, output)]
                report = run_once(clip, output, job, progress=progress)
                codec.append(_transcode(clip, output))
                codec_fps = 2 / sum(1 / rate for rate in codec)
                result["sizes"][f"{width}x{height}"] = {
                    "fps": round(report.rate, 2),
                    "codec_fps": round(codec_fps, 2),
                    "ratio": round(report.rate / codec_fps, 3),
                    "stage_ms": {
                        name: round(1e3 * seconds / report.frames, 2)
                        for name, seconds in report.busy.items()
                    },
                    "matte_ms": _latency(matter, clip),
                }
    return result


def _transcode(clip: Path, output: Path) -> float:
    """Frames per second of the job's decoder and encoder without matting."""

    def encode(frame: Frame) -> Frame:
        writer.write(frame)
        return frame

    begun = time.perf_counter()
    with (
        Reader(clip) as reader,
        Writer(output, like=reader.info) as writer,
        Pipeline(("decode", iter(reader)), Stage("encode", encode)) as pipeline,
    ):
        frames = sum(1 for _ in pipeline)
    return frames / (time.perf_counter() - begun)


def _latency(matter: Matter, clip: Path) -> dict[str, float]:
    times = []
    matter.reset()
    with Reader(clip) as reader:
        for frame in reader:
            begun = time.perf_counter()
            matter(frame)
            times.append(1e3 * (time.perf_counter() - begun))
    warm = sorted(times[2:]) or times  # the first ones compile and allocate
    return {
        "median": round(statistics.median(warm), 2),
        "p95": round(warm[min(len(warm) - 1, int(0.95 * len(warm)))], 2),
    }


def _write_clip(path: Path, height: int, width: int, frames: int) -> None:
    """Writes the demo's portrait, filmed by a moving camera; H.264, 30 frames per second."""
    portrait, _ = load_pictures()
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=RATE, options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for picture in islice(cycle(camera_moves(portrait)), frames):
            fitted = np.asarray(cv2.resize(picture, (width, height)), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(fitted, "rgb24")))
        container.mux(stream.encode(None))


def described(result: dict[str, Any]) -> list[str]:
    """The result as lines of text."""
    model = result["model"]
    shown = [
        f"{model['name']} {model['version']} on {result['backend']}: {result['device']}, "
        f"{result['precision']}, {result['frames']} frames each"
    ]
    for size, row in result["sizes"].items():
        stages = ", ".join(f"{name} {ms:.1f} ms" for name, ms in row["stage_ms"].items())
        matte = row["matte_ms"]
        shown.append(
            f"{size}: {row['fps']:.1f} fps, {row['ratio']:.2f} of plain decode and encode "
            f"({row['codec_fps']:.1f}); {stages}; frame to matte {matte['median']:.1f} ms "
            f"(p95 {matte['p95']:.1f})"
        )
    return shown
