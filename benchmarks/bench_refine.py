"""How well alpha survives the way down to the network's resolution and back up.

    python benchmarks/bench_refine.py DATA

For each sample of the shards ``val-*`` in DATA the true alpha is area-averaged and brought back by
bilinear and bicubic interpolation, by the fast guided filter as published, and by ours.  Writes
benchmarks/results/refine.json: mean absolute and mean squared error (times 1000) in the transition
band.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
from machine import machine
from numpy.typing import NDArray

from fusematte.cpp_ext import composite, guided_coefficients, resize_to_tensor
from fusematte.engine.frame import Frame, Matte
from fusematte.engine.matting.refine import EPSILON, RADIUS, refine
from fusematte.engine.pixels.color import frame_from_rgb
from fusematte.training.samples import decode_gray, decode_image, read_shard

RESULTS = Path(__file__).parent / "results" / "refine.json"
SCALES = (1.5, 2.5, 4.0)

Map = NDArray[np.floating]


def reduced(frame: Frame, truth: Map, scale: float) -> Matte:
    """The truth as a perfect network at 1/scale would have it."""
    height, width = (int(side / scale) for side in truth.shape)
    _, color = resize_to_tensor(
        frame.planes, height, width, matrix=frame.matrix, levels=frame.levels
    )
    small = cv2.resize(truth, (width, height), interpolation=cv2.INTER_AREA)
    alpha = np.asarray(small, np.float32)
    return Matte(
        alpha=alpha,
        foreground=alpha,
        background=1 - alpha,
        beta=np.ones_like(alpha),
        color=color,
        pts=0,
        time_base=Fraction(1),
    )


def candidates(frame: Frame, matte: Matte) -> Iterator[tuple[str, Map]]:
    """Each way back up to the frame's size: its name and its alpha, 0..1."""
    size = (frame.width, frame.height)
    yield "bilinear", np.asarray(cv2.resize(matte.alpha, size, interpolation=cv2.INTER_LINEAR))
    cubic = cv2.resize(matte.alpha, size, interpolation=cv2.INTER_CUBIC)
    yield "bicubic", np.clip(cubic, 0, 1)
    slope, offset = guided_coefficients(matte.color[0], matte.alpha, RADIUS, EPSILON)
    alpha = np.empty(frame.planes[0].shape, np.uint8)
    composite(frame.planes, slope, offset, (0, 0, 0), levels=frame.levels, alpha=alpha)
    yield "guided filter, averaged offset", alpha / 255
    yield "guided filter, ours", refine(frame, matte) / 255


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    args = parser.parse_args()
    errors: dict[tuple[float, str], list[tuple[float, float]]] = defaultdict(list)
    for shard in sorted(args.data.glob("val-*.tar")):
        for name, fields in read_shard(shard):
            frame = frame_from_rgb(decode_image(fields["webp"], name))
            truth = np.asarray(decode_gray(fields["alpha.png"], name) / 255, np.float32)
            soft = ((truth > 0.02) & (truth < 0.98)).astype(np.uint8)
            band = cv2.dilate(soft, np.ones((5, 5))) > 0
            for scale in SCALES:
                for way, alpha in candidates(frame, reduced(frame, truth, scale)):
                    error = (alpha - truth)[band]
                    errors[scale, way].append((np.abs(error).mean(), np.square(error).mean()))
    rows = [
        {"scale": scale, "way": way, "mad": round(1e3 * mad, 2), "mse": round(1e3 * mse, 2)}
        for (scale, way), values in errors.items()
        for mad, mse in [np.nanmean(values, 0, np.float64).tolist()]
    ]
    RESULTS.parent.mkdir(exist_ok=True)
    results = {"machine": machine(), "unit": "1e-3, transition band", "rows": rows}
    RESULTS.write_text(json.dumps(results, indent=2) + "\n", "utf-8")
    for row in rows:
        print(row)


if __name__ == "__main__":
    main()
