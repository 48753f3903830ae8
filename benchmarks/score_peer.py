"""Another network's true-alpha table: ``python benchmarks/score_peer.py MODEL.onnx DATA``.

For whoever has a peer's weights as ONNX and wants the comparison.  Three interfaces are known by
their inputs, each asked as its authors do:

- RobustVideoMatting: ``src`` [1, 3, H, W] RGB 0..1, four recurrent states, ``downsample_ratio``;
- MODNet: one [1, 3, H, W], RGB -1..1, the short side 512;
- MediaPipe's selfie segmentation: one [1, H, W, 3], RGB 0..1, of a fixed size.

Prints the table and writes benchmarks/results/peer-NAME.json.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnxruntime
from bench_true_alpha import load_scenes
from machine import machine
from numpy.typing import NDArray

from fusematte.engine.errors import UsageError
from fusematte.training.geometry import Picture
from fusematte.training.true_alpha import CLIPS, STILLS, Model, format_true_alpha

RESULTS = Path(__file__).parent / "results"
RVM_SIDE = 512
"""RobustVideoMatting works on pictures whose longer side has so many pixels."""
MODNET_SIDE = 512
"""MODNet's shorter side."""

Map = NDArray[np.float32]
Session = Any


def open_peer(path: Path, *, threads: int = 0) -> tuple[str, Model]:
    """A network's kind and how it is asked.

    Raises:
        UsageError: its inputs are of none of the known kinds.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    inputs = {one.name: one.shape for one in session.get_inputs()}
    if {"src", "downsample_ratio"} <= inputs.keys():
        return "RobustVideoMatting", robust_video_matting(session)
    if len(inputs) == 1:
        ((name, shape),) = inputs.items()
        if len(shape) == 4 and shape[3] == 3:
            return "MediaPipe", Model(media_pipe(session, name, shape), nothing)
        if len(shape) == 4 and shape[1] == 3:
            return "MODNet", Model(modnet(session, name, shape), nothing)
    raise UsageError(f"{path}: inputs {inputs} are of no interface that is known here")


def nothing() -> None:
    """Networks that see each frame by itself have nothing to forget."""


def robust_video_matting(session: Session) -> Model:
    """States start as zeros of one pixel and come back from each frame."""
    states: dict[str, Map] = {}

    def restart() -> None:
        states.update({f"r{index}i": np.zeros((1, 1, 1, 1), np.float32) for index in range(1, 5)})

    def alpha(picture: Picture) -> Map:
        ratio = min(1.0, RVM_SIDE / max(picture.shape[:2]))
        values = {"src": planes(picture), "downsample_ratio": np.array([ratio], np.float32)}
        _, made, *states_out = session.run(
            ["fgr", "pha", "r1o", "r2o", "r3o", "r4o"], values | states
        )
        states.update(zip(sorted(states), states_out, strict=True))
        return np.asarray(made[0, 0], np.float32)

    restart()
    return Model(alpha, restart)


def modnet(session: Session, name: str, shape: list[int | str]) -> Callable[[Picture], Map]:
    """A network that takes pictures in -1..1, sides in multiples of 32."""

    def size(picture: Picture) -> tuple[int, int]:
        if isinstance(shape[2], int) and isinstance(shape[3], int):
            return shape[3], shape[2]
        scale = MODNET_SIDE / min(picture.shape[:2])
        height, width = (32 * round(scale * side / 32) for side in picture.shape[:2])
        return width, height

    def alpha(picture: Picture) -> Map:
        small = cv2.resize(picture, size(picture), interpolation=cv2.INTER_AREA)
        made = session.run(None, {name: 2 * planes(np.asarray(small, np.uint8)) - 1})[0]
        return enlarged(made[0, 0], picture)

    return alpha


def media_pipe(session: Session, name: str, shape: list[int]) -> Callable[[Picture], Map]:
    """A network of one size that keeps colours last."""

    def alpha(picture: Picture) -> Map:
        small = cv2.resize(picture, (shape[2], shape[1]), interpolation=cv2.INTER_AREA)
        made = session.run(None, {name: np.asarray(small, np.float32)[None] / 255})[0]
        return enlarged(made[0, ..., -1], picture)

    return alpha


def planes(picture: Picture) -> Map:
    """[1, 3, H, W], 0..1."""
    return np.ascontiguousarray(picture.transpose(2, 0, 1)[None], np.float32) / 255


def enlarged(alpha: Map, picture: Picture) -> Map:
    """An alpha at the picture's size, 0..1."""
    size = picture.shape[1], picture.shape[0]
    return np.clip(cv2.resize(alpha, size, interpolation=cv2.INTER_LINEAR), 0, 1)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--stills", type=int, default=STILLS)
    parser.add_argument("--clips", type=int, default=CLIPS)
    args = parser.parse_args()
    scenes = load_scenes(args.data)
    kind, model = open_peer(args.model)
    results = scenes.score(model, stills=args.stills, clips=args.clips)
    print(f"{args.model.name} ({kind})\n{format_true_alpha(results)}")
    results = {"machine": machine(), "model": args.model.name, "kind": kind, "true_alpha": results}
    path = RESULTS / f"peer-{args.model.stem}.json"
    path.write_text(json.dumps(results, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()
