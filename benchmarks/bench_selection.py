"""Keep this, drop that: is the right one kept?

    python benchmarks/bench_selection.py --data DIR [--model FOLDER] [--clips 8] [--frames 40]

Videos with exact truth are composed of people cut out for validation, over rooms that training
never saw: two and three people who do not touch, two who cross, a stranger who walks in on one, a
thing beside a person, and a person who is kept with a thing.  One click in the first frame, on the
innermost pixel of what is wanted (one on each of two), is followed; nothing is corrected.  Beside
it stand the automatic mode (everybody) and the connected blob of the automatic matte under the
click, followed by its overlap with the frame before.  Writes benchmarks/results/selection.json.

right: the share of frames with the right identity: at least half of what can be seen of the wanted
is kept, and less than a quarter of each of the others.  mse, dtssd: of the wanted one's alpha.
outlines: intersection over union of things with the truth, found by a click and in a box.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from machine import machine
from numpy.typing import NDArray

from fusematte.engine.frame import Frame
from fusematte.engine.matting.matter import Matter
from fusematte.engine.matting.refine import refine
from fusematte.engine.matting.selection import Prompt
from fusematte.engine.models import DEFAULT_MODEL
from fusematte.engine.pixels.color import frame_from_rgb
from fusematte.training.composer import go_on
from fusematte.training.geometry import Picture, affine
from fusematte.training.metrics import dtssd
from fusematte.training.samples import load_cutouts, load_rooms, load_things, shard_sources
from fusematte.training.scenes import STILL, CutOut, Layer, Motion, Scene

RESULTS = Path(__file__).parent / "results" / "selection.json"
HEIGHT, WIDTH, RATE = 360, 640, 25
KINDS = ("two", "three", "crossing", "stranger", "thing", "person and thing")
KEPT, LEAKED = 0.5, 0.25
THINGS = 40
Alphas = list[NDArray[np.floating]]
Generator = np.random.Generator


def keeping(scene: Scene, wanted: Collection[int]) -> Scene:
    """The same scene with only the layers of these indices as foreground."""
    layers = [replace(one, wanted=index in wanted) for index, one in enumerate(scene.layers)]
    room = replace(scene.room, alpha=np.zeros_like(scene.room.alpha))
    return replace(scene, layers=layers, room=room)


@dataclass(frozen=True)
class Clip:
    """A scene, the layers that are wanted, and its pictures."""

    scene: Scene
    wanted: frozenset[int]
    frames: int

    def truths(self) -> Alphas:
        kept = keeping(self.scene, self.wanted)
        return [kept.alpha(time) / 255 for time in range(self.frames)]

    def pictures(self) -> list[Frame]:
        shown = (self.scene.view(time).image for time in range(self.frames))
        return [
            replace(frame_from_rgb(one), pts=index, time_base=Fraction(1, RATE))
            for index, one in enumerate(shown)
        ]

    def clicks(self) -> list[tuple[int, int]]:
        """Pixels of the first frame, one on each wanted layer."""
        parts = (keeping(self.scene, {index}).alpha(0) for index in sorted(self.wanted))
        return [_innermost(part) for part in parts]


@dataclass(frozen=True)
class Material:
    """What clips are composed of."""

    people: Sequence[CutOut]
    things: Sequence[CutOut]
    rooms: Sequence[Picture]

    def clip(self, kind: str, index: int, frames: int) -> Clip:
        """Clip number so and so of a kind; the same for every model."""
        while True:
            rng = np.random.default_rng((2026, KINDS.index(kind), index))
            clip = Clip(*self._scene(rng, kind, frames), frames)
            seen = [keeping(clip.scene, {one}).alpha(0) for one in clip.wanted]
            if all((part > 200).mean() > 0.005 for part in seen):
                return clip
            index += 1000

    def _scene(self, rng: Generator, kind: str, frames: int) -> tuple[Scene, frozenset[int]]:
        sway = Motion((rng.uniform(4, 12), 2.0), period=rng.uniform(40, 90))
        across = Motion((0.28 * WIDTH, 0.0), period=2 * frames, phase=-math.pi / 2)
        if kind == "three":
            layers = [self._person(rng, x, sway, (0.5, 0.7)) for x in (0.18, 0.5, 0.82)]
            wanted = {int(rng.integers(3))}
        elif kind == "crossing":
            back = replace(across, shift=(-across.shift[0], 0.0))
            layers = [self._person(rng, 0.5, motion, (0.7, 0.9)) for motion in (across, back)]
            wanted = {int(rng.integers(2))}
        elif kind == "stranger":
            entering = replace(across, shift=(0.45 * WIDTH, 0.0))
            layers = [self._person(rng, 0.3, sway), self._person(rng, 1.25, replace(
                entering, shift=(-entering.shift[0], 0.0)))]  # fmt: skip
            wanted = {0}
        elif kind == "two":
            layers = [self._person(rng, x, sway, (0.6, 0.9)) for x in (0.27, 0.75)]
            wanted = {int(rng.integers(2))}
        else:
            layers = [self._thing(rng, 0.25), self._person(rng, 0.68, sway)]
            wanted = {0} if kind == "thing" else {0, 1}
        room = CutOut(self.rooms[int(rng.integers(len(self.rooms)))], np.zeros((1, 1), np.uint8))
        room = replace(room, alpha=np.zeros(room.foreground.shape[:2], np.uint8))
        rows, columns = room.size
        scale = 1.05 * max(HEIGHT / rows, WIDTH / columns)
        return Scene(HEIGHT, WIDTH, room, np.diag([scale, scale, 1]), layers), frozenset(wanted)

    def _person(
        self,
        rng: Generator,
        x: float,
        motion: Motion = STILL,
        heights: tuple[float, float] = (0.7, 0.95),
    ) -> Layer:
        """Somebody who stands at the frame's lower edge, narrow enough for a third of it."""
        cutout = self.people[int(rng.integers(len(self.people)))]
        left, top, across, tall = cv2.boundingRect((cutout.alpha > 16).astype(np.uint8))
        scale = min(HEIGHT * rng.uniform(*heights) / tall, 0.32 * WIDTH / across)
        shift = x * WIDTH - scale * (left + across / 2), HEIGHT - scale * (top + tall)
        place = affine(scale * np.eye(2), np.array(shift))
        return Layer(*go_on(cutout, place), motion, shadow=0.2)

    def _thing(self, rng: Generator, x: float) -> Layer:
        cutout = self.things[int(rng.integers(len(self.things)))]
        rows, columns = cutout.size
        scale = min(0.55 * HEIGHT / rows, 0.3 * WIDTH / columns)
        shift = x * WIDTH - scale * columns / 2, 0.92 * HEIGHT - scale * rows
        place = affine(scale * np.eye(2), np.array(shift))
        return Layer(cutout, place, STILL, wanted=False, shadow=0.2)


def _innermost(part: Picture) -> tuple[int, int]:
    solid = np.pad((part > 200).astype(np.uint8), 1)
    inside = cv2.distanceTransform(solid, cv2.DIST_L2, 3)[1:-1, 1:-1]
    y, x = np.unravel_index(int(inside.argmax()), inside.shape)
    return int(x), int(y)


def automatic(matter: Matter, pictures: list[Frame], _: object) -> Alphas:
    """Everybody."""
    matter.reset()
    matter.choose([])
    return [refine(frame, matter(frame)) / 255 for frame in pictures]


def chosen(matter: Matter, pictures: list[Frame], clicks: list[tuple[int, int]]) -> Alphas:
    """One click on each that is wanted, in the first frame."""
    matter.reset()
    places = [(x / WIDTH, y / HEIGHT) for x, y in clicks]
    matter.choose([Prompt(kind="keep", place=place) for place in places])
    return [refine(frame, matter(frame)) / 255 for frame in pictures]


def outlines(matter: Matter, clips: Sequence[Clip]) -> dict[str, float]:
    """How well things are cut out in their first frame."""
    found: dict[str, list[float]] = {"click": [], "box": []}
    for clip in clips:
        truth = clip.truths()[0] > 0.5
        (x, y), = clip.clicks()  # fmt: skip
        left, top, across, tall = cv2.boundingRect(truth.astype(np.uint8))
        box = left / WIDTH, top / HEIGHT, across / WIDTH, tall / HEIGHT
        prompts = {
            "click": Prompt(kind="keep", place=(x / WIDTH, y / HEIGHT)),
            "box": Prompt(kind="box", place=box),
        }
        for name, prompt in prompts.items():
            matter.reset()
            matter.choose([prompt])
            frame = clip.pictures()[0]
            matte = matter(frame)
            alpha = (refine(frame, matte) > 127) & (not matte.doubt)  # where nothing is found
            found[name].append(float((alpha & truth).sum() / (alpha | truth).sum()))
    return {name: round(float(np.mean(values)), 3) for name, values in found.items()}


def blob(alphas: Alphas, clicks: list[tuple[int, int]]) -> Alphas:
    """What is connected with the clicks in the automatic mattes."""
    kept, before = [], np.zeros((HEIGHT, WIDTH), bool)
    for x, y in clicks:
        before[y, x] = True
    for alpha in alphas:
        _, labels = cv2.connectedComponents((alpha > 0.5).astype(np.uint8))
        counts = np.bincount(labels[before & (labels > 0)], minlength=2)
        mask = np.zeros_like(before)
        if counts.any():
            chosen = np.flatnonzero(counts) if before.sum() <= len(clicks) else [counts.argmax()]
            mask = np.isin(labels, chosen)
            before = mask
        near = cv2.dilate(mask.astype(np.uint8), np.ones((9, 9), np.uint8))
        kept.append(alpha * near)
    return kept


def score(clip: Clip, alphas: Alphas, truths: Alphas) -> dict[str, float]:
    """The figures of one clip; see the module."""
    right = [_is_right(clip, time, alpha, truth)
             for time, (alpha, truth) in enumerate(zip(alphas, truths, strict=True))]  # fmt: skip
    errors = [np.square(a - t).mean() for a, t in zip(alphas, truths, strict=True)]
    return {
        "right": float(np.mean(right)),
        "mse": float(np.mean(errors)),
        "dtssd": dtssd(alphas, truths),
    }


def _is_right(
    clip: Clip, time: int, alpha: NDArray[np.floating], truth: NDArray[np.floating]
) -> bool:
    seen = truth > 0.5
    if seen.mean() > 0.001 and float(alpha[seen].mean()) < KEPT:
        return False
    for index in set(range(len(clip.scene.layers))) - clip.wanted:
        other = keeping(clip.scene, {index}).alpha(time) > 127
        if other.mean() > 0.001 and float(alpha[other].mean()) >= LEAKED:
            return False
    return True


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--clips", type=int, default=8)
    parser.add_argument("--frames", type=int, default=40)
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    sources = shard_sources(args.data)
    material = Material(
        load_cutouts([s for s in sources if s.kind == "cutouts" and s.split == "val"]),
        load_things([s for s in sources if s.kind == "objects"]),
        load_rooms([s for s in sources if s.kind == "backgrounds"], held_out_only=True),
    )
    rows: dict[str, Any] = {}
    spent: dict[str, float] = {"automatic": 0.0, "chosen": 0.0}
    with Matter(args.model) as matter:
        for kind in KINDS:
            found: dict[str, list[dict[str, float]]] = {}
            for index in range(args.clips):
                clip = material.clip(kind, index, args.frames)
                pictures, truths, clicks = clip.pictures(), clip.truths(), clip.clicks()
                made = {}
                ways: dict[str, Callable[..., Alphas]] = {"automatic": automatic, "chosen": chosen}
                for name, way in ways.items():
                    begun = time.perf_counter()
                    made[name] = way(matter, pictures, clicks)
                    spent[name] += time.perf_counter() - begun
                made["blob"] = blob(made["automatic"], clicks)
                for name, alphas in made.items():
                    found.setdefault(name, []).append(score(clip, alphas, truths))
            rows[kind] = {name: _mean(scores) for name, scores in found.items()}
            print(kind, json.dumps(rows[kind]), flush=True)
        version = f"{matter.bundle.name} {matter.bundle.version}"
        found_things = outlines(matter, [material.clip("thing", 100 + i, 1) for i in range(THINGS)])
    frames = len(KINDS) * args.clips * args.frames
    results = {
        "machine": machine(),
        "model": version,
        "clips": args.clips,
        "frames": args.frames,
        "ms_per_frame": {name: 1000 * value / frames for name, value in spent.items()},
        "kinds": rows,
        "outlines": found_things | {"things": THINGS},
    }
    args.output.write_text(json.dumps(results, indent=2) + "\n", "utf-8")


def _mean(scores: list[dict[str, float]]) -> dict[str, float]:
    return {name: round(float(np.mean([one[name] for one in scores])), 5) for name in scores[0]}


if __name__ == "__main__":
    main()
