"""Drift between picture and sound over a long video of variable frame rate.

    python benchmarks/bench_sync.py [--minutes 10]

Compares what ffprobe (else PyAV) finds in the job's input and output.  Writes
benchmarks/results/sync.json: frames, sound packets, and the largest shift of either, in ms.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import tempfile
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from bench_job import SOURCE
from long_clip import make_long_clip
from machine import machine

from fusematte.engine.jobs.run import run

RESULTS = Path(__file__).parent / "results" / "sync.json"


def times(path: Path, kind: str) -> list[Fraction]:
    """When the packets of the first video or audio stream are shown, in order, in seconds."""
    if shutil.which("ffprobe") is None:
        with av.open(str(path)) as container:
            packets = container.demux(**{kind: 0})
            return sorted(p.pts * p.time_base for p in packets if p.size and p.pts is not None)
    entries = "stream=time_base:packet=pts"
    command = ["ffprobe", "-v", "error", "-select_streams", f"{kind[0]}:0", "-of", "json"]
    said = subprocess.run(
        [*command, "-show_entries", entries, str(path)], capture_output=True, check=True
    )
    found: dict[str, Any] = json.loads(said.stdout)
    unit = Fraction(found["streams"][0]["time_base"])
    return sorted(packet["pts"] * unit for packet in found["packets"] if "pts" in packet)


def shift(before: list[Fraction], after: list[Fraction]) -> float:
    """The largest difference in ms; the lists must be of one length."""
    if len(before) != len(after):
        raise SystemExit(f"{len(before)} packets went in, {len(after)} came out")
    return float(1000 * max(abs(a - b) for a, b in zip(before, after, strict=True)))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clip", type=Path, default=SOURCE, help="a video of people")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--results", type=Path, default=RESULTS)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        clip, output = Path(folder, "clip.mp4"), Path(folder, "out.mp4")
        make_long_clip(args.clip, clip, args.minutes * 60, variable=True)
        report = run(clip, output, background="blur")
        pictures, sound = ((times(clip, kind), times(output, kind)) for kind in ("video", "audio"))
        results = {
            "machine": machine(),
            "minutes": args.minutes,
            "read_by": "ffprobe" if shutil.which("ffprobe") else "PyAV",
            "frames": report.frames,
            "sound_packets": len(sound[0]),
            "picture_shift_ms": shift(*pictures),
            "sound_shift_ms": shift(*sound),
        }
    args.results.write_text(json.dumps(results, indent=2) + "\n", "utf-8")
    print(json.dumps(results))


if __name__ == "__main__":
    main()
