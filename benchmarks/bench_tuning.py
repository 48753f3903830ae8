"""Whether tuning chooses well: its choice against every candidate timed one by one.

    python benchmarks/bench_tuning.py [--repeats 5] [--runs 40]

Each repeat starts with an empty cache, as a first use does, and notes what it chose and how long it
took beside making the first guess alone.  Then every candidate is timed in turns.  Writes
benchmarks/results/tuning.json.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections import Counter
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
from machine import machine
from timing import medians_in_turns

from fusematte.engine.backends import BACKENDS, Spec, candidates, create_backend
from fusematte.engine.models import load_bundle
from fusematte.engine.pipeline import network_threads

RESULTS = Path(__file__).parent / "results" / "tuning.json"


def main() -> None:
    """Measures and writes the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--runs", type=int, default=40)
    options = parser.parse_args()
    bundle, threads = load_bundle(), network_threads(live=False)
    height, width = bundle.default_size
    image = np.random.default_rng(0).random((1, 3, height, width), np.float32)
    previous = image[:, :1].copy()
    kinds = [kind for kind in BACKENDS.values() if kind.tunable and not kind.unavailable()]
    specs = candidates(kinds, Spec(), bundle, thorough=True)
    guess = specs[0]
    chosen: Counter[str] = Counter()
    extra = []
    for _ in range(options.repeats):
        seconds = []
        for wish in (guess, Spec()):
            with tempfile.TemporaryDirectory(prefix="fusematte-") as folder:
                os.environ["FUSEMATTE_CACHE"] = folder
                begun = time.perf_counter()
                made = create_backend(wish, bundle, threads=threads, work="file")
                made.infer(image, previous)
                seconds.append(time.perf_counter() - begun)
                made.close()
        chosen[str(made.spec)] += 1
        extra.append(seconds[1] - seconds[0])
    backends = [create_backend(spec, bundle, threads=threads) for spec in specs]
    calls = [partial(backend.infer, image, previous) for backend in backends]
    times = dict(zip(map(str, specs), medians_in_turns(calls, options.runs), strict=True))
    best = min(times.values())
    result = {
        "machine": machine(),
        "threads": threads,
        "load": [round(value, 2) for value in os.getloadavg()],
        "ms": {spec: round(ms, 2) for spec, ms in times.items()},
        "chosen": dict(chosen),
        "slower_than_best": round(max(times[spec] for spec in chosen) / best - 1, 3),
        "first_use_costs_s": {"median": round(median(extra), 2), "most": round(max(extra), 2)},
    }
    RESULTS.write_text(json.dumps(result, indent=2) + "\n", "utf-8")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
