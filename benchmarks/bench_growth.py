"""Time and memory of a job as its video gets longer and larger.

    python benchmarks/bench_growth.py [--seconds 10 60 600] [--heights 480 720 1080 1440 2160]

Each length at the first height (16:9), each height for the first length, 24 frames a second; every
job in a process of its own.  Writes benchmarks/results/growth.json.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench_job import SOURCE
from long_clip import make_long_clip
from machine import machine

RESULTS = Path(__file__).parent / "results" / "growth.json"
RATE = 24
CODE = """
import json, resource, sys
from fusematte.engine.jobs.run import run
done = run(sys.argv[1], sys.argv[2], background="blur")
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
print(json.dumps({"frames": done.frames, "wall_s": round(done.seconds, 1),
                  "fps": round(done.rate, 1), "peak_mb": round(peak)}))
"""


def measure(source: Path, seconds: float, height: int) -> dict[str, Any]:
    """One job; its frames, wall time, rate and peak memory."""
    width = round(height * 16 / 9 / 2) * 2
    with tempfile.TemporaryDirectory() as folder:
        clip, output = Path(folder, "clip.mp4"), Path(folder, "out.mp4")
        make_long_clip(source, clip, seconds, size=(width, height), rate=RATE)
        command = [sys.executable, "-c", CODE, str(clip), str(output)]
        said = subprocess.run(command, capture_output=True, text=True, check=True)
    row = {"seconds": seconds, "size": f"{width}x{height}", **json.loads(said.stdout)}
    print(json.dumps(row), flush=True)
    return row


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clip", type=Path, default=SOURCE, help="a video of people")
    parser.add_argument("--seconds", type=float, nargs="+", default=[10, 60, 600])
    parser.add_argument("--heights", type=int, nargs="+", default=[480, 720, 1080, 1440, 2160])
    parser.add_argument("--results", type=Path, default=RESULTS)
    args = parser.parse_args()
    wanted = [(seconds, args.heights[0]) for seconds in args.seconds]
    wanted += [(args.seconds[0], height) for height in args.heights[1:]]
    rows = [measure(args.clip, *case) for case in wanted]
    results = {"machine": machine(), "rows": rows}
    args.results.write_text(json.dumps(results, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()
