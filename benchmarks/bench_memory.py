"""Resident memory of a job over a long clip: ``python benchmarks/bench_memory.py [--minutes 10]``.

The clip is a short one over and over, ten frames a second.  Writes benchmarks/results/memory.json:
the resident memory at each tenth of the job, and its peak.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from fractions import Fraction
from pathlib import Path

import av
import psutil
from bench_job import SOURCE, make_clip
from machine import machine

from fusematte.engine.jobs.run import run
from fusematte.engine.media.reader import Reader
from fusematte.engine.pipeline import Statistics

RESULTS = Path(__file__).parent / "results" / "memory.json"
FRAMES, RATE = 150, 10


def repeat(source: Path, path: Path, times: int) -> None:
    """The packets of ``source`` (no B-frames needed) over and over, at RATE frames a second."""
    with av.open(str(path), "w") as output:
        stream = None
        for turn in range(times):
            with av.open(str(source)) as container:
                video = container.streams.video[0]
                stream = stream or output.add_stream_from_template(video)
                unit = Fraction(1, RATE) / (Fraction(1, 30) / video.time_base)
                for packet in container.demux(video):
                    if packet.pts is None or packet.dts is None:
                        continue
                    packet.time_base, packet.stream = unit, stream
                    shift = round(turn * FRAMES / RATE / unit)
                    packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
                    output.mux(packet)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clip", type=Path, default=SOURCE, help="a video of people")
    parser.add_argument("--minutes", type=float, default=10)
    args = parser.parse_args()
    process, samples = psutil.Process(), []

    def watch(frames: int, reader: Reader, statistics: Statistics) -> None:  # noqa: ARG001
        samples.append(process.memory_info().rss / 1e6)

    with tempfile.TemporaryDirectory() as folder:
        short, long = Path(folder, "short.mp4"), Path(folder, "long.mp4")
        make_clip(args.clip, short, 1280, 720, FRAMES)
        repeat(short, long, round(args.minutes * 60 * RATE / FRAMES))
        report = run(long, Path(folder, "out.mp4"), background="blur", progress=watch)
    tenths = [round(samples[i * len(samples) // 10]) for i in range(1, 10)] + [round(samples[-1])]
    results = {
        "machine": machine(),
        "size": "1280x720",
        "minutes": args.minutes,
        "frames": report.frames,
        "resident_mb_at_each_tenth": tenths,
        "peak_mb": round(max(samples)),
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=2) + "\n", "utf-8")
    print(json.dumps(results))


if __name__ == "__main__":
    main()
