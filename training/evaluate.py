"""Scores a model bundle: ``python -m fusematte.training.evaluate MODEL DATA``.

The model runs as users run it: through the engine's Matter and the guided-filter refinement, each
picture at its own size.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from fusematte.engine.matte import Matter
from fusematte.engine.stills import matte_picture
from fusematte.training.metrics import intersection_over_union, mean_absolute_difference
from fusematte.training.samples import (
    Source,
    decode_gray,
    decode_image,
    load_backgrounds,
    read_shard,
    shard_sources,
)


def score_people(matter: Matter, shards: list[Path]) -> dict[str, dict[str, float]]:
    """IoU to the human masks and MAD to the alphas, per source and over all samples."""
    scores: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for shard in shards:
        for name, fields in read_shard(shard):
            alpha = matte_picture(decode_image(fields["webp"], name), matter) / 255
            mask, truth = (
                decode_gray(fields[part], name) / 255 for part in ("mask.png", "alpha.png")
            )
            score = intersection_over_union(alpha, mask), mean_absolute_difference(alpha, truth)
            scores[json.loads(fields["json"])["source"]].append(score)
            scores["all"].append(score)
    return {
        source: {
            "samples": len(values),
            "iou": float(np.mean([iou for iou, _ in values])),
            "mad": float(np.mean([mad for _, mad in values])),
        }
        for source, values in scores.items()
    }


def score_backgrounds(matter: Matter, shards: list[Source]) -> dict[str, float]:
    """Mean alpha of pictures without people: its median and 95th percentile over the pictures."""
    rooms = load_backgrounds(shards, long_side=4096)
    means = [matte_picture(room, matter).mean() / 255 for room in rooms]
    return {
        "samples": len(means),
        "median_alpha": float(np.median(means)),
        "p95_alpha": float(np.quantile(means, 0.95)),
    }


def evaluate(model: str, data: Path) -> dict[str, Any]:
    """All scores of a model on a data folder (shards ``val-*`` and ``backgrounds-*``)."""
    with Matter(model) as matter:
        rooms = [source for source in shard_sources(data) if source.kind == "backgrounds"]
        return {
            "model": {"name": matter.bundle.name, "version": matter.bundle.version},
            "precision": matter.backend.precision,
            "people": score_people(matter, sorted(data.glob("val-*.tar"))),
            "backgrounds": score_backgrounds(matter, rooms),
        }


def main() -> None:
    """Command line of the evaluation."""
    parser = argparse.ArgumentParser(prog="python -m fusematte.training.evaluate")
    parser.add_argument("model", help="a shipped model or a bundle folder")
    parser.add_argument("data", type=Path)
    args = parser.parse_args()
    print(json.dumps(evaluate(args.model, args.data), indent=2))


if __name__ == "__main__":
    main()
