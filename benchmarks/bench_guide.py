"""Whether a guide of three channels is worth it: refinement by luma alone, and by Y'CbCr.

    python benchmarks/bench_guide.py DATA

People with true alpha (``val-cutouts-*`` in DATA) over rooms (``backgrounds-01``), compressed with
halved chroma as videos are.  An alpha at low resolution, of the truth or the network, is brought
to the picture's size by the guided filter as the engine uses it.  Writes
benchmarks/results/guide.json: mean absolute error times 1000 in the transition band, at the best
epsilon of each guide.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from machine import machine
from numpy.typing import NDArray

from fusematte.cpp_ext import resize_to_tensor
from fusematte.engine.frame import Frame, Map
from fusematte.engine.matting.matter import Matter
from fusematte.engine.pixels.color import frame_from_rgb, to_unit_range
from fusematte.training.samples import decode_gray, decode_image, read_shard

RESULTS = Path(__file__).parent / "results" / "guide.json"
EPSILONS = (1e-4, 3e-4, 1e-3)
QUALITY = 75
"""Of the JPEG that stands for a video's compression."""
SCALES = (1.5, 2.5)


def mean(picture: NDArray[np.float64]) -> NDArray[np.float64]:
    """Over the 3x3 window of each pixel, clipped at the border."""
    share = cv2.boxFilter(np.ones(picture.shape), -1, (3, 3), normalize=False, borderType=0)
    return cv2.boxFilter(picture, -1, (3, 3), normalize=False, borderType=0) / share


def slopes(guide: Map, alpha: Map, epsilon: float) -> NDArray[np.float64]:
    """The guided filter's averaged slopes, [channels, h, w]: He, Sun, Tang, equation 14."""
    channels, target = guide.astype(np.float64), alpha.astype(np.float64)
    means, count = [mean(c) for c in channels], len(guide)
    cross = [mean(c * target) - m * mean(target) for c, m in zip(channels, means, strict=True)]
    second = np.empty((*alpha.shape, count, count))
    for i in range(count):
        for j in range(count):
            second[..., i, j] = mean(channels[i] * channels[j]) - means[i] * means[j]
    second += epsilon * np.eye(count)
    solved = np.linalg.solve(second, np.stack(cross, -1)[..., None])[..., 0]
    return np.stack([mean(np.ascontiguousarray(solved[..., i])) for i in range(count)])


def refined(frame: Frame, alpha: Map, color: Map, epsilon: float) -> Map:
    """The alpha at the frame's size; ``color``: as many channels as shall guide."""
    slope = slopes(color, alpha, epsilon)
    offset = alpha - (slope * color).sum(0)
    luma, chroma = to_unit_range(frame.planes, frame)
    size = frame.width, frame.height
    result = cv2.resize(offset, size)
    for whole, one in zip([luma, *chroma], slope, strict=False):
        result += cv2.resize(one, size) * whole
    return np.asarray(np.clip(result, 0, 1), np.float32)


def composites(data: Path) -> Iterator[tuple[Frame, Map]]:
    """Pictures and their true alpha."""
    shard = enumerate(read_shard(data / "backgrounds-01.tar"))
    rooms = [decode_image(fields["webp"], name) for n, (name, fields) in shard if n % 20 == 3]
    for number, (name, fields) in enumerate(read_shard(data / "val-cutouts-00.tar")):
        alpha = np.asarray(decode_gray(fields["alpha.png"], name) / 255, np.float32)
        room = cv2.resize(rooms[number % len(rooms)], alpha.shape[::-1])
        mixed = room + alpha[..., None] * (decode_image(fields["fg.webp"], name) - room.astype(int))
        bgr = np.clip(mixed, 0, 255).astype(np.uint8)[..., ::-1]
        _, jpeg = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
        seen = cv2.cvtColor(cv2.imdecode(jpeg, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
        yield frame_from_rgb(np.asarray(seen, np.uint8)), alpha


def low(frame: Frame, truth: Map, matter: Matter) -> Iterator[tuple[str, Map, Map]]:
    """Alphas at low resolution, and Y'CbCr beside them: the truth's, and the network's."""
    for scale in SCALES:
        height, width = (int(side / scale) for side in truth.shape)
        _, color = resize_to_tensor(
            frame.planes, height, width, matrix=frame.matrix, levels=frame.levels
        )
        small = cv2.resize(truth, (width, height), interpolation=cv2.INTER_AREA)
        yield f"the truth at 1/{scale:g}", np.asarray(small, np.float32), color
    matter.reset()
    with matter.at_scale(0.31):  # as in a 720p video, the picture has about twice its resolution
        matte = matter(frame)
    yield "the network's", matte.alpha, matte.color


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    data = parser.parse_args().data
    errors: dict[tuple[str, str, float], list[float]] = defaultdict(list)
    with Matter(threads=1) as matter:
        for frame, truth in composites(data):
            soft = ((truth > 0.02) & (truth < 0.98)).astype(np.uint8)
            band = cv2.dilate(soft, np.ones((5, 5))) > 0
            for kind, alpha, color in low(frame, truth, matter):
                for guide, channels in (("luma", color[:1]), ("Y'CbCr", color)):
                    for epsilon in EPSILONS:
                        error = refined(frame, alpha, channels, epsilon) - truth
                        errors[kind, guide, epsilon].append(float(np.abs(error[band]).mean()))
    rows: dict[str, dict[str, float]] = defaultdict(dict)
    for (kind, guide, _), values in errors.items():
        found = round(1e3 * float(np.nanmean(values)), 2)
        rows[kind][guide] = min(found, rows[kind].get(guide, found))
    RESULTS.write_text(json.dumps({**machine(), "mad": rows}, indent=2) + "\n", "utf-8")
    print(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
