"""The network alone, on the CPU.

    python benchmarks/bench_network.py [MODEL ...] [--size 512x288] [--threads 2 1]

Every model in OpenVINO, in every precision that it and the processor have, with one thread and with
all, in turns; medians.  ``beside``: a row's time over that of the last model named, in the same
precision and with as many threads.  On a machine that has other work (its load is kept) only these
ratios mean something.  Writes benchmarks/results/network.json.
"""

from __future__ import annotations

import argparse
import json
import os
from functools import partial
from pathlib import Path

import numpy as np
from machine import machine
from timing import medians_in_turns

from fusematte.engine.backends.openvino_backend import OpenVinoBackend
from fusematte.engine.models import load_bundle

RESULTS = Path(__file__).parent / "results" / "network.json"
CORES = len(os.sched_getaffinity(0))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", default=["edge"])
    parser.add_argument("--size", default="512x288", metavar="WxH")
    parser.add_argument("--threads", type=int, nargs="+", default=[CORES, 1])
    parser.add_argument("--runs", type=int, default=60)
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    load, _, _ = os.getloadavg()
    width, height = map(int, args.size.split("x"))
    rng = np.random.default_rng(0)
    image = rng.random((1, 3, height, width), np.float32)
    previous = rng.random((1, 1, height, width), np.float32)
    backends = [
        (threads, OpenVinoBackend(bundle, precision=precision, threads=threads))
        for bundle in map(load_bundle, args.models)
        for _, precision in OpenVinoBackend.candidates(bundle, thorough=True)
        for threads in args.threads
    ]
    calls = [partial(backend.infer, image, previous) for _, backend in backends]
    times = {
        (f"{backend.bundle.name} {backend.bundle.version}", backend.precision, threads): ms
        for (threads, backend), ms in zip(backends, medians_in_turns(calls, args.runs), strict=True)
    }
    last = next(reversed(times))[0]
    rows = [
        {"model": model, "precision": precision, "threads": threads, "median_ms": round(ms, 2)}
        | (
            {"beside": round(ms / times[last, precision, threads], 3)}
            if (last, precision, threads) in times and model != last
            else {}
        )
        for (model, precision, threads), ms in times.items()
    ]
    results = {
        "machine": machine(), "load": round(load, 1), "model": rows[0]["model"], "size": args.size,
        "rows": rows,
    }  # fmt: skip
    args.output.write_text(json.dumps(results, indent=2) + "\n", "utf-8")
    print(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
