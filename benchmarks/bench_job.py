"""The full job against plain decode + encode of the same clip, in turns, in one run.

    python benchmarks/bench_job.py [--clip CLIP] [--sizes 1280x720 ...] [--repeats 5]

Writes benchmarks/results/job.json, beside the other sizes that were measured that day on this
machine: frames per second of both (medians), their ratio (the median of the ratios of neighbouring
runs), and the seconds of work per stage.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from machine import machine

from fusematte.engine.jobs.run import run
from fusematte.engine.jobs.single import Report
from fusematte.engine.media.reader import Reader
from fusematte.engine.media.writer import Writer

RESULTS = Path(__file__).parent / "results" / "job.json"
SIZES = ("1280x720", "1920x1080", "3840x2160")
"""Of the same clip, scaled."""
SOURCE = Path(__file__).parents[2] / "shared" / "clips" / "m1.mp4"


def make_clip(source: Path, path: Path, width: int, height: int, frames: int) -> None:
    """``frames`` pictures of ``source`` (repeated if it is shorter), as H.264 of the given size."""
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=30, options={"preset": "fast", "crf": "20"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for index, frame in enumerate(_endless(source, frames)):
            picture = frame.reformat(width, height, "yuv420p")
            picture.pts, picture.time_base = index, Fraction(1, 30)
            output.mux(stream.encode(picture))
        output.mux(stream.encode(None))


def _endless(source: Path, frames: int) -> Any:  # noqa: ANN401
    count = 0
    while True:
        with av.open(str(source)) as container:
            for frame in container.decode(video=0):
                if count == frames:
                    return
                count += 1
                yield frame


def transcode(source: Path, target: Path) -> float:
    """Plain decode and encode with the product's own reader and writer; frames per second."""
    begun = time.perf_counter()
    with Reader(source) as reader, Writer(target, like=reader) as writer:
        count = 0
        for frame in reader:
            writer.write(frame)
            count += 1
    return count / (time.perf_counter() - begun)


def measure(clip: Path, folder: Path, repeats: int, **options: Any) -> dict[str, Any]:  # noqa: ANN401
    """Runs both in turns; the first pair only warms up."""
    plain, jobs = [], []
    for _ in range(repeats + 1):
        plain.append(transcode(clip, folder / "plain.mp4"))
        jobs.append(run(clip, folder / "job.mp4", **options))
    return summarise(plain[1:], jobs[1:])


def summarise(plain: list[float], jobs: list[Report]) -> dict[str, Any]:
    """Medians of rates, ratios and stage times."""
    rates = [job.rate for job in jobs]
    stages = jobs[0].busy
    return {
        "plain_fps": round(statistics.median(plain), 1),
        "job_fps": round(statistics.median(rates), 1),
        "ratio": round(statistics.median(j / p for j, p in zip(rates, plain, strict=True)), 3),
        "stage_ms": {
            name: round(statistics.median(1e3 * job.busy[name] / job.frames for job in jobs), 2)
            for name in stages
        },
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clip", type=Path, default=SOURCE, help="a video of people")
    parser.add_argument("--sizes", nargs="+", default=SIZES, metavar="WxH")
    parser.add_argument("--frames", type=int, default=300)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--background", default="green")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    setting = {"machine": machine(), "background": args.background, "clip": args.clip.stem}
    results: dict[str, Any] = {**setting, "sizes": {}}
    if args.output.exists():
        before = json.loads(args.output.read_text("utf-8"))
        if all(before.get(key) == value for key, value in setting.items()):
            results["sizes"] = before["sizes"]
    with tempfile.TemporaryDirectory() as folder:
        for size in args.sizes:
            width, height = map(int, size.split("x"))
            clip = Path(folder, "clip.mp4")
            make_clip(args.clip, clip, width, height, args.frames)
            options = {"background": args.background, "threads": args.threads}
            results["sizes"][size] = measure(clip, Path(folder), args.repeats, **options)
            print(size, json.dumps(results["sizes"][size]), flush=True)
    args.output.parent.mkdir(exist_ok=True)
    args.output.write_text(json.dumps(results, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()
