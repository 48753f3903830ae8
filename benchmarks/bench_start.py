"""Start-up: from the command to the first frame, with an empty cache and with a warm one.

    python benchmarks/bench_start.py [--clip CLIP] [--repeats 7]

Writes benchmarks/results/start.json: seconds of wall time, and of processor time, which other
programs lengthen less; smallest and median of the repeats.  The first frame is the first that the
job reports as written.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import av
import cv2
from machine import machine
from timing import wall_and_processor

RESULTS = Path(__file__).parent / "results" / "start.json"
CLIP = Path(__file__).parents[2] / "shared" / "clips" / "m1.mp4"
FUSEMATTE = (sys.executable, "-m", "fusematte")
FIRST_FRAME = """
import os, sys, time
import fusematte
def first(*_): print(time.time(), time.process_time(), flush=True); os._exit(0)
fusematte.run(sys.argv[1], sys.argv[2], progress=first)
"""


def _first_frame(clip: Path, folder: Path) -> tuple[float, float]:
    """Wall and processor seconds of a job until its first frame is written."""
    command = [sys.executable, "-c", FIRST_FRAME, str(clip), str(folder / "out.mp4")]
    begun = time.time()
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    wall, used = map(float, done.stdout.split())
    return wall - begun, used


def _command(*arguments: str) -> tuple[float, float]:
    """Wall and processor seconds of a whole command."""
    return wall_and_processor(
        lambda: subprocess.run([*FUSEMATTE, *arguments], check=True, capture_output=True)
    )


def _figures(times: list[tuple[float, float]]) -> dict[str, float]:
    wall, used = zip(*times, strict=True)
    return {
        "wall_s": round(median(wall), 3),
        "wall_min_s": round(min(wall), 3),
        "processor_s": round(median(used), 3),
        "processor_min_s": round(min(used), 3),
    }


def main() -> None:
    """Measures and writes the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clip", type=Path, default=CLIP)
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # users have compiled modules
    cold: list[tuple[float, float]] = []
    rows: dict[str, list[tuple[float, float]]] = {"help": [], "first frame": [], "picture": []}
    with tempfile.TemporaryDirectory(prefix="fusematte-") as name:
        folder = Path(name)
        picture = folder / "picture.png"
        _picture(options.clip, picture)
        for repeat in range(options.repeats):
            os.environ["FUSEMATTE_CACHE"] = str(folder / f"cache-{repeat}")
            cold.append(_first_frame(options.clip, folder))
            os.environ["FUSEMATTE_CACHE"] = str(folder / "cache")
            still = "matte", str(picture), "-o", str(folder / "mattes")
            if not repeat:  # warms the cache; the second time takes what was late for the first
                for _ in range(2):
                    _command(*still)
                    _command("run", str(options.clip), str(folder / "warm.mp4"))
            rows["first frame"].append(_first_frame(options.clip, folder))
            rows["picture"].append(_command(*still))
            rows["help"].append(_command("--help"))
    result: dict[str, Any] = {
        **machine(),
        "repeats": options.repeats,
        "load": [round(value, 2) for value in os.getloadavg()],
        "rows": {name: _figures(times) for name, times in rows.items()}
        | {"first frame, empty cache": _figures(cold)},
    }
    RESULTS.write_text(json.dumps(result, indent=2) + "\n", "utf-8")
    print(json.dumps(result["rows"], indent=2))


def _picture(clip: Path, path: Path) -> None:
    with av.open(str(clip)) as container:
        frame = next(container.decode(video=0))
        cv2.imwrite(str(path), frame.to_ndarray(format="bgr24"))


if __name__ == "__main__":
    main()
