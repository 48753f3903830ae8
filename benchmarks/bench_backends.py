"""Model x backend x precision: time, size and accuracy of everything that runs here.

    python benchmarks/bench_backends.py CPU_CLASS --frames VIDEO... [--model MODEL]

Each export is made, proved on the frames and timed beside the shipped model in turns; int8 that is
no faster, or off by more than its bound, is measured all the same.  OpenVINO is also held to f32,
as on a processor without bf16.  Writes benchmarks/results/backends-CPU_CLASS.json, where the class
is what its fastest instructions are called (avx2, bf16); tables.py renders all of them.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from machine import machine
from timing import medians_in_turns

from fusematte.engine.backends import BACKENDS, Backend
from fusematte.engine.backends.openvino_backend import OpenVinoBackend
from fusematte.engine.errors import FuseMatteError
from fusematte.engine.models import Bundle, load_bundle
from fusematte.export import exporter
from fusematte.export.frames import Sample, load_samples
from fusematte.export.verify import Reference
from fusematte.training.weights import load_network

RESULTS = Path(__file__).parent / "results"
RUNS = 40


class WithoutBf16(OpenVinoBackend):
    """OpenVINO on a processor that has no bf16."""

    def _compile_options(self, threads: int | None) -> dict[str, Any]:
        return super()._compile_options(threads) | {"INFERENCE_PRECISION_HINT": "f32"}


Candidate = tuple[str, Bundle, type[Backend]]


def candidates(
    bundle: Bundle, frames: list[Path], samples: list[Sample], folder: Path
) -> list[Candidate]:
    """What is compared: a label, a model, a backend; exports land in ``folder``."""
    found: list[Candidate] = [
        ("shipped", bundle, kind) for kind in BACKENDS.values() if not kind.unavailable()
    ]
    found.append(("shipped, without bf16", bundle, WithoutBf16))
    for target in ("openvino", "onnx"):
        for precision in exporter.PRECISIONS:
            label = f"{target} {precision}"
            request = exporter.Request(
                bundle=bundle, target=target, precision=precision, frames=tuple(frames)
            )
            vars(request)["samples"] = samples  # read once
            place = folder / label.replace(" ", "-")
            place.mkdir()
            try:
                artifact = exporter.TARGETS[target].write(request, place)
                exporter.describe(request, artifact, place)
            except FuseMatteError as error:
                print(f"{label}: {error}")
                continue
            made = load_bundle(place)
            found.append((label, made, BACKENDS[exporter.TARGETS[target].backend]))
            if label == "openvino int8":
                found.append((f"{label}, without bf16", made, WithoutBf16))
    return found


def measure(made: list[Candidate], reference: Reference, runs: int) -> list[dict[str, Any]]:
    """A row for each candidate; the runs go around them, so that noise meets all alike."""
    backends = [kind(model) for _, model, kind in made]
    image, previous, _, _ = reference.cases[0]
    calls = [partial(backend.infer, image, previous) for backend in backends]
    return [
        _row(label, model, backend, reference, ms)
        for (label, model, _), backend, ms in zip(
            made, backends, medians_in_turns(calls, runs), strict=True
        )
    ]


def _row(
    label: str, model: Bundle, backend: Backend, reference: Reference, ms: float
) -> dict[str, Any]:
    files = [model.file, *(model.folder / name for name in model.manifest.get("files", {}))]
    accuracy = reference.compare(backend.infer)
    backend.close()
    return {
        "model": model.name,
        "export": label,
        "backend": backend.name,
        "precision": backend.precision,
        "median_ms": round(ms, 2),
        "megabytes": round(sum(file.stat().st_size for file in files) / 1e6, 2),
        **accuracy.as_dict(),
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cpu_class")
    parser.add_argument("--frames", nargs="+", type=Path, required=True)
    parser.add_argument("--model", default="edge")
    parser.add_argument("--runs", type=int, default=RUNS)
    args = parser.parse_args()
    bundle = load_bundle(args.model)
    with tempfile.TemporaryDirectory() as folder:
        samples = load_samples(args.frames, bundle, exporter.FRAMES)
        reference = Reference(load_network(bundle), samples[1::2])
        rows = measure(candidates(bundle, args.frames, samples, Path(folder)), reference, args.runs)
    height, width = reference.cases[0][0].shape[2:]
    results = {
        "machine": machine(),
        "version": bundle.version,
        "size": f"{width}x{height}",
        "rows": rows,
    }
    output = RESULTS / f"backends-{args.cpu_class}.json"
    output.write_text(json.dumps(results, indent=2) + "\n", "utf-8")
    for row in rows:
        print(row)


if __name__ == "__main__":
    main()
