"""A job killed (SIGKILL) at random times again and again, then finished with --resume.

    python benchmarks/bench_kill.py [--kills 10] [--seconds 60] [--stretch 150]

Writes benchmarks/results/kill.json: whether frames, timestamps, pictures and sound are those of a
job that nobody broke off, and how many finished stretches were lost.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import av
from bench_job import SOURCE
from long_clip import make_long_clip
from machine import machine

from fusematte.engine.jobs.segmented import segments_of

RESULTS = Path(__file__).parent / "results" / "kill.json"
STARTER = (
    "import sys; from fusematte.engine.media import segments; from fusematte.cli import main; "
    "segments.FRAMES = int(sys.argv[1]); sys.exit(main(sys.argv[2:]))"
)


def start(stretch: int, *arguments: object) -> subprocess.Popen[bytes]:
    """``fusematte run`` in a process of its own, cut after ``stretch`` frames."""
    words = map(str, (stretch, "run", "-q", *arguments))
    return subprocess.Popen([sys.executable, "-c", STARTER, *words])


def finished(output: Path) -> int:
    """Stretches that the journal has."""
    journal = segments_of(output) / "journal.jsonl"
    return max(0, journal.read_bytes().count(b"\n") - 1) if journal.exists() else 0


def kill_once(clip: Path, output: Path, stretch: int, longest: float) -> dict[str, Any] | None:
    """Starts or resumes the job and kills it after a random time; None if it was done before."""
    before = finished(output)
    delay = random.uniform(0.5, longest)
    process = start(stretch, clip, output, "--resume")
    try:
        process.wait(delay)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return {"after_s": round(delay, 2), "before": before, "stretches": finished(output)}
    if process.returncode:
        raise SystemExit(f"the job failed with {process.returncode}")
    return None


class Content(NamedTuple):
    """Times of the decoded pictures and their digests; sound packets with their times."""

    times: list[Any]
    pictures: list[bytes]
    sound: list[Any]


def content(path: Path) -> Content:
    """What is in a file."""
    found = Content([], [], [])
    with av.open(str(path)) as container:
        for packet in container.demux():
            if packet.stream.type == "video":
                for frame in packet.decode():
                    found.times.append(frame.pts * frame.time_base)
                    found.pictures.append(hashlib.sha256(frame.to_ndarray()).digest())
            elif packet.size:
                found.sound.append((bytes(packet), packet.pts * packet.time_base))
    return found


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clip", type=Path, default=SOURCE, help="a video of people with sound")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--stretch", type=int, default=150, help="frames")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", type=Path, default=RESULTS)
    args = parser.parse_args()
    random.seed(args.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        clip, whole, output = folder / "clip.mp4", folder / "whole.mp4", folder / "out.mp4"
        make_long_clip(args.clip, clip, args.seconds, key_frames=args.stretch // 3)
        begun = time.perf_counter()
        if start(args.stretch, clip, whole).wait():
            raise SystemExit("the unbroken job failed")
        longest = 4 * (time.perf_counter() - begun) / args.kills
        kills: list[dict[str, Any]] = []
        while len(kills) < args.kills:
            kill = kill_once(clip, output, args.stretch, longest)
            if kill is None:  # done too soon: once more from the beginning
                output.unlink()
                continue
            kills.append(kill)
            print(kill, flush=True)
        if start(args.stretch, clip, output, "--resume").wait():
            raise SystemExit("the resumed job failed")
        ours, unbroken = content(output), content(whole)
    results = {
        "machine": machine(),
        "seconds": args.seconds,
        "frames": len(unbroken.times),
        "stretch": args.stretch,
        "kills": kills,
        "same_frames": len(ours.times) == len(unbroken.times),
        "same_timestamps": ours.times == unbroken.times,
        "same_pictures": ours.pictures == unbroken.pictures,
        "same_sound": ours.sound == unbroken.sound,
        "stretches_lost": sum(k["stretches"] < k["before"] for k in kills),
    }
    args.results.write_text(json.dumps(results, indent=2) + "\n", "utf-8")
    print(json.dumps({k: v for k, v in results.items() if k not in ("machine", "kills")}))


if __name__ == "__main__":
    main()
