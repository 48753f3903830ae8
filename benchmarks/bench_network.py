"""The network alone, on the CPU: ``python benchmarks/bench_network.py [--size 512x288]``.

OpenVINO in the precision that the processor computes in and in f32, with one thread and with all,
in turns; medians.  Writes benchmarks/results/network.json.
"""

from __future__ import annotations

import argparse
import json
import os
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from bench_backends import WithoutBf16
from machine import machine
from timing import medians_in_turns

from fusematte.engine.backends.openvino_backend import OpenVinoBackend
from fusematte.engine.models import load_bundle

RESULTS = Path(__file__).parent / "results" / "network.json"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="edge")
    parser.add_argument("--size", default="512x288", metavar="WxH")
    parser.add_argument("--runs", type=int, default=60)
    args = parser.parse_args()
    bundle = load_bundle(args.model)
    width, height = map(int, args.size.split("x"))
    rng = np.random.default_rng(0)
    image = rng.random((1, 3, height, width), np.float32)
    previous = rng.random((1, 1, height, width), np.float32)
    cores = len(os.sched_getaffinity(0))
    backends = [
        (threads, kind(bundle, threads=threads))
        for kind in (OpenVinoBackend, WithoutBf16)
        for threads in (cores, 1)
    ]
    calls = [partial(backend.infer, image, previous) for _, backend in backends]
    rows: list[dict[str, Any]] = [
        {
            "precision": backend.precision,
            "threads": threads,
            "median_ms": round(ms, 2),
        }
        for (threads, backend), ms in zip(backends, medians_in_turns(calls, args.runs), strict=True)
    ]
    results = {
        "machine": machine(), "model": f"{bundle.name} {bundle.manifest['version']}",
        "size": args.size, "rows": rows,
    }  # fmt: skip
    RESULTS.write_text(json.dumps(results, indent=2) + "\n", "utf-8")
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
