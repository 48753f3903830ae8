"""Models where alpha is true: ``python benchmarks/bench_true_alpha.py DATA [MODEL ...]``.

Scores each model (shipped names or bundle folders) through the engine on the same scenes and puts
its row, under its name and version, into benchmarks/results/true-alpha.json, in the place of an
earlier one.  ``--label`` names a trial; ``--without`` leaves a part of the engine out; ``--matte``
mattes each frame by itself, as ``fusematte matte`` does.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from machine import machine

from fusematte.cpp_ext import guided_coefficients
from fusematte.engine.matting.matter import AREAS, Matter
from fusematte.engine.matting.refine import EPSILON, RADIUS
from fusematte.engine.matting.stills import matte_picture
from fusematte.engine.pixels.color import enlarge, frame_from_rgb
from fusematte.training.geometry import Picture
from fusematte.training.layouts import find_sources
from fusematte.training.samples import load_rooms
from fusematte.training.true_alpha import (
    CLIPS,
    STILLS,
    Map,
    Model,
    TrueAlpha,
    engine_model,
    format_true_alpha,
)

RESULTS = Path(__file__).parent / "results" / "true-alpha.json"


def load_scenes(data: Path) -> TrueAlpha:
    """The scenes of the table, from the people cut out for tests in a folder of shards."""
    sources = find_sources(data)
    rooms = load_rooms([s for s in sources if s.kind == "backgrounds"], held_out_only=True)
    scenes = TrueAlpha.load(sources, rooms)
    if scenes is None:
        raise SystemExit(f"{data}: no people cut out for tests (val-cutouts-*.tar)")
    return scenes


def without_previous(matter: Matter) -> Model:
    """The engine with each frame matted by itself."""
    model = engine_model(matter)

    def alpha(picture: Picture) -> Map:
        model.restart()
        return model.alpha(picture)

    return Model(alpha, model.restart)


def without_filter(matter: Matter) -> Model:
    """The engine with alpha enlarged instead of refined by the guided filters."""

    def alpha(picture: Picture) -> Map:
        matte = matter(frame_from_rgb(picture))
        return np.asarray(enlarge(matte.alpha, *picture.shape[:2]))

    return Model(alpha, matter.reset)


def without_color(matter: Matter) -> Model:
    """The engine with the guided filter in luma alone."""

    def alpha(picture: Picture) -> Map:
        frame = frame_from_rgb(picture)
        matte = matter(frame)
        coefficients = guided_coefficients(matte.color[0], matte.alpha, RADIUS, EPSILON)
        black, span, *_ = frame.levels
        luma = (frame.planes[0] - black) / span
        slope, offset = (enlarge(plane, *luma.shape) for plane in coefficients)
        return np.clip(slope * luma + offset, 0, 1)

    return Model(alpha, matter.reset)


def as_matte(matter: Matter) -> Model:
    """Each frame by itself, as ``fusematte matte`` does."""

    def alpha(picture: Picture) -> Map:
        return matte_picture(picture, matter) / 255

    return Model(alpha, matter.reset)


MODELS = {
    None: engine_model, "guided-filters": without_filter, "color-guide": without_color,
    "previous-alpha": without_previous,
}  # fmt: skip


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("models", nargs="*", default=["edge"])
    parser.add_argument("--label", help="of a trial: what was tried, for how long")
    parser.add_argument("--stills", type=int, default=STILLS)
    parser.add_argument("--clips", type=int, default=CLIPS)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--quality", choices=AREAS, default="normal")
    way = parser.add_mutually_exclusive_group()
    way.add_argument("--without", choices=[name for name in MODELS if name])
    way.add_argument("--matte", action="store_true", help="as `fusematte matte` does")
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    scenes = load_scenes(args.data)
    for name in args.models:
        with Matter(
            name, backend=args.backend, threads=args.threads, quality=args.quality
        ) as matter:
            model = as_matte(matter) if args.matte else MODELS[args.without](matter)
            scores = scenes.score(model, stills=args.stills, clips=args.clips)
            label = args.label or f"{matter.bundle.name} {matter.bundle.version}"
            row = {
                "model": label,
                "precision": matter.backend.precision,
                "machine": machine(),
                "counts": {"stills": args.stills, "clips": args.clips},
                **scores,
            }
        print(f"{label} ({row['precision']})\n{format_true_alpha(scores)}", flush=True)
        _put(row, args.output)


def _put(row: dict[str, Any], path: Path) -> None:
    rows = json.loads(path.read_text("utf-8"))["rows"] if path.exists() else []
    key = row["model"], row["precision"]
    rows = [one for one in rows if (one["model"], one["precision"]) != key] + [row]
    path.write_text(json.dumps({"rows": rows}, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()
