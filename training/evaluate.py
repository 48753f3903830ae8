"""Evaluates a model as users run it: with the engine's Matter and guided-filter refinement.

The rows are those of the paper's tables: the two decoders alone, the fusion network trained on top
of them, the jointly trained network without and with refinement.  Needs no torch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from fusematte.engine.frame import Matte
from fusematte.engine.matting.matter import Matter
from fusematte.engine.matting.refine import refine
from fusematte.engine.matting.stills import matte_picture
from fusematte.engine.models import Bundle
from fusematte.engine.pixels.color import enlarge, frame_from_rgb
from fusematte.training import compose
from fusematte.training.errors import DataError
from fusematte.training.geometry import Picture
from fusematte.training.metrics import (
    METRICS,
    dtssd,
    error_maps,
    intersection_over_union,
    messddt,
    total,
    transition_region,
)
from fusematte.training.samples import (
    Fields,
    Source,
    attempt,
    check_sizes,
    decode_gray,
    decode_picture,
    describe,
    foreground_colour,
    shrink,
)

Map = NDArray[np.floating]

FG_BG, FUSION, RAW, REFINED = "FG/BG only", "fusion only", "joint raw", "joint refined"
STILL = "refined, still"
"""The result of ``fusematte matte``."""
ROWS = (FG_BG, FUSION, RAW, REFINED, STILL)
REGIONS = ("whole", "transition")
SCENE_EVERY = 15
"""One in so many pictures is also evaluated in a moving scene."""
SHEET_ROWS = 6
"""Numbers of best and of worst pictures on the contact sheet."""
TILE = 192
BRACKET_TOLERANCE = 0.02


@dataclass(frozen=True)
class Case:
    """A picture of people with its ground truth; ``image`` is None for cut-outs.

    Shape:
        image, foreground: [H, W, 3] RGB; alpha, mask: [H, W], 0..255.
    """

    name: str
    source: str
    image: Picture | None
    foreground: Picture
    alpha: Picture
    mask: Picture | None


@dataclass(frozen=True)
class Scored:
    """A picture on the contact sheet."""

    error: float
    name: str
    image: Picture
    truth: Picture
    alpha: Picture


def make_case(name: str, fields: Fields, source: str) -> Case:
    """Decodes a sample at full size.

    Raises:
        DataError: a file is missing or unreadable, or sizes differ.
    """
    image, photograph = decode_picture(fields, name)
    if "alpha.png" not in fields:
        raise DataError.at(name, "no alpha.png")
    alpha = decode_gray(fields["alpha.png"], name)
    mask = decode_gray(fields["mask.png"], name) if "mask.png" in fields else None
    check_sizes(name, image, {"alpha": alpha, "mask": mask})
    origin = str(describe(fields, name).get("source", source))
    foreground = foreground_colour(image, alpha) if photograph else image
    return Case(name, origin, image if photograph else None, foreground, alpha, mask)


def load_cases(sources: Iterable[Source], skipped: list[str]) -> Iterator[Case]:
    """Yields the pictures of all sources; reasons for unusable ones are appended to ``skipped``."""
    for source in sources:
        for _, result in attempt([source], partial(make_case, source=source.name)):
            if isinstance(result, DataError):
                skipped.append(f"{source.name}: {result}")
            else:
                yield result


# --- mattes ---------------------------------------------------------------------------------------


def stages(picture: Picture, matter: Matter) -> tuple[dict[str, Map], Matte]:
    """The alphas of a single picture at full resolution, 0..1, by table row; and its matte."""
    matter.reset()
    frame = frame_from_rgb(picture)
    matte = matter(frame)
    size = frame.height, frame.width
    alphas: dict[str, Map] = {
        FG_BG: enlarge(half_way(matte), *size),
        RAW: enlarge(matte.alpha, *size),
        REFINED: refine(frame, matte) / 255,
    }
    return alphas, matte


def bracketed(matte: Matte, truth: Map) -> float:
    """Share of the true alphas in the transition between 1 - B and F, within BRACKET_TOLERANCE, at
    the network's resolution (section 3.2); NaN if there is no transition."""
    height, width = matte.alpha.shape
    small = cv2.resize(truth, (width, height), interpolation=cv2.INTER_AREA)
    soft = (small > 0) & (small < 1)
    low, high = (op(matte.foreground, 1 - matte.background) for op in (np.minimum, np.maximum))
    inside = (small >= low - BRACKET_TOLERANCE) & (small <= high + BRACKET_TOLERANCE)
    return float(inside[soft].mean()) if soft.any() else np.nan


def half_way(matte: Matte) -> NDArray[np.float32]:
    """Alpha of the decoders alone, the mean of 1 - B and F: beta is 1/2 everywhere."""
    return np.asarray((matte.foreground + 1 - matte.background) / 2, np.float32)


# --- scores ---------------------------------------------------------------------------------------


@dataclass
class Means:
    """Means of named scores over pictures, ignoring NaN."""

    values: dict[tuple[str, ...], list[float]] = field(default_factory=dict)

    def add(self, scores: dict[str, float], *keys: str) -> None:
        """Adds the scores of a picture."""
        for name, value in scores.items():
            if not np.isnan(value):
                self.values.setdefault((*keys, name), []).append(value)

    def table(self) -> dict[str, Any]:
        """The means, in nested tables by key."""
        table: dict[str, Any] = {}
        for (*keys, name), values in self.values.items():
            inner = table
            for key in keys:
                inner = inner.setdefault(key, {})
            inner[name] = float(np.mean(values))
        return table


def score(alpha: Map, truth: Map) -> dict[str, dict[str, float]]:
    """All metrics over the whole picture and over the dilated transition region."""
    errors = error_maps(alpha, truth)
    return {"whole": total(errors), "transition": total(errors, transition_region(truth))}


def score_moving(case: Case, room: Picture, matter: Matter) -> dict[str, dict[str, float]]:
    """Flicker in a moving scene, with and without the previous frame's alpha as an input."""
    scene = compose.moving(case.foreground, case.alpha, room)
    scores = {}
    for way, forget in (("with the frame before", False), ("each frame by itself", True)):
        matter.reset()
        alphas = []
        for image in scene.images:
            if forget:
                matter.reset()
            frame = frame_from_rgb(image)
            alphas.append(np.asarray(refine(frame, matter(frame)) / 255))
        scores[way] = motion_errors(alphas, scene)
    return scores


def motion_errors(alphas: Sequence[Map], scene: compose.MovingScene) -> dict[str, float]:
    """Errors of the alphas of a moving scene, 0..1: dtSSD, MESSDdt, MSE in the transition (NaN if
    there is none)."""
    truths = [alpha / 255 for alpha in scene.alphas]
    bands = [transition_region(truth) for truth in truths]
    squared = [
        np.square(a - t)[b].mean() for a, t, b in zip(alphas, truths, bands, strict=True) if b.any()
    ]
    return {
        "dtssd": dtssd(alphas, truths),
        "messddt": messddt(alphas, truths, scene.flows),
        "mse": float(np.mean(squared)) if squared else np.nan,
    }


def score_backgrounds(matter: Matter, rooms: list[Picture]) -> dict[str, float]:
    """Median and 95th percentile of the mean alpha of pictures without people."""
    means = [matte_picture(room, matter).mean() / 255 for room in rooms]
    return {
        "samples": len(means),
        "median_alpha": float(np.median(means)),
        "p95_alpha": float(np.quantile(means, 0.95)),
    }


def keeps_rooms_out(bundle: Bundle) -> bool:
    """Whether a model's training held rooms out, also in the runs it started from; manifests of
    older runs have no stream configuration."""
    training = bundle.manifest.get("provenance", {}).get("training", {})
    return all(
        "stream" in run.get("config", {}) and not run.get("init")
        for run in training.get("mean_of", [training])
    )


class Evaluation:
    """Evaluates a model: ``add`` pictures, then read ``results``.

    Args:
        rooms: pictures without people to compose over; may be empty.
        unseen: whether the model was not trained on them.
        earlier: models of earlier training steps, by row: FG_BG and FUSION.  Without them, FG_BG
            uses this model's decoders, and FUSION is left out.
    """

    def __init__(
        self,
        matter: Matter,
        rooms: list[Picture],
        earlier: Mapping[str, Matter] | None = None,
        *,
        unseen: bool = False,
    ) -> None:
        self.matter, self.rooms, self.earlier = matter, rooms, earlier or {}
        self.unseen = unseen
        self.rows, self.agreement, self.decoders = Means(), Means(), Means()
        self.composed, self.moving = Means(), Means()
        self.best: list[Scored] = []
        self.worst: list[Scored] = []
        self.counts: Counter[str] = Counter()

    def add(self, case: Case) -> None:
        """Scores a picture and, if there are rooms, its composite over one.

        Raises:
            DataError: the picture is a cut-out and there are no rooms.
        """
        number = self.counts["all"]
        room = self.rooms[number % len(self.rooms)] if self.rooms else None
        image = case.image
        if image is None:
            if room is None:
                raise DataError.at(
                    case.name, "cut-outs need pictures of rooms", remedy="add --backgrounds DIR"
                )
            image = compose.still(case.foreground, case.alpha, room)
        self._score_image(case, image)
        if room is None:
            return
        if case.image is not None:
            over, _ = stages(compose.still(case.foreground, case.alpha, room), self.matter)
            for row in (RAW, REFINED):
                self.composed.add(score(over[row], case.alpha / 255)["transition"], row)
        if number % SCENE_EVERY == 0:
            for way, scores in score_moving(case, room, self.matter).items():
                self.moving.add(scores, way)

    def _score_image(self, case: Case, image: Picture) -> None:
        truth = case.alpha / 255
        alphas, matte = stages(image, self.matter)
        self.decoders.add({"bracketed": bracketed(matte, truth)})
        for row, matter in self.earlier.items():
            alphas[row] = stages(image, matter)[0][FG_BG if row == FG_BG else RAW]
        alphas[STILL] = matte_picture(image, self.matter) / 255
        for row, alpha in alphas.items():
            for region, scores in score(alpha, truth).items():
                self.rows.add(scores, row, region)
        refined = alphas[REFINED]
        mask = truth if case.mask is None else case.mask / 255
        error = float(np.abs(refined - truth).mean())
        for group in ("all", case.source):
            self.counts[group] += 1
            self.agreement.add({"iou": intersection_over_union(refined, mask), "mad": error}, group)
        shown = Scored(error, case.name, image, case.alpha, (refined * 255 + 0.5).astype(np.uint8))
        self.best = sorted([*self.best, shown], key=lambda one: one.error)[:SHEET_ROWS]
        self.worst = sorted([*self.worst, shown], key=lambda one: -one.error)[:SHEET_ROWS]

    @property
    def results(self) -> dict[str, Any]:
        """All scores as nested tables, for JSON."""
        bundle = self.matter.bundle
        results: dict[str, Any] = {
            "model": {
                "name": bundle.name,
                "version": bundle.version,
                "macs": bundle.manifest.get("macs_at_default_size"),
            },
            "precision": self.matter.backend.precision,
            "people": {
                group: {"samples": self.counts[group], **scores}
                for group, scores in self.agreement.table().items()
            },
            "rows": self.rows.table(),
            **self.decoders.table(),
        }
        if self.rooms:
            results["rooms"] = {"samples": len(self.rooms), "unseen": self.unseen}
            results["backgrounds"] = score_backgrounds(self.matter, self.rooms)
            results["composed"] = self.composed.table()
            results["moving"] = self.moving.table()
        return results


# --- what is shown --------------------------------------------------------------------------------


def format_table(results: Mapping[str, Any]) -> str:
    """The paper's table and the further scores as text."""
    head = f"{'':<16}" + "".join(
        f"{region + ' ' + name:>17}" for region in REGIONS for name in METRICS
    )
    lines = [head]
    for row in (name for name in ROWS if name in results["rows"]):
        scores = results["rows"][row]
        cells = [scores.get(region, {}).get(name) for region in REGIONS for name in METRICS]
        lines.append(
            f"{row:<16}" + "".join(f"{'-' if c is None else f'{c:.4f}':>17}" for c in cells)
        )
    share = results.get("bracketed", 0)
    lines += ["", f"{share:.0%} of the true alphas in the transition are between 1 - B and F", ""]
    for group, scores in sorted(results["people"].items()):
        lines.append(
            f"{group}: {scores['samples']} pictures, IoU {scores['iou']:.3f}, "
            f"MAD {scores['mad']:.4f}"
        )
    if "rooms" in results:
        rooms, empty = results["rooms"], results["backgrounds"]
        seen = "not seen in training" if rooms["unseen"] else "perhaps seen in training"
        lines.append(
            f"{rooms['samples']} empty rooms, {seen}: mean alpha, median "
            f"{empty['median_alpha']:.4f}, 95th percentile {empty['p95_alpha']:.4f}"
        )
        for row, scores in results["composed"].items():
            lines.append(f"composed over them, {row}: MSE in the transition {scores['mse']:.4f}")
        for way, scores in results["moving"].items():
            lines.append(
                f"moving, {way}: dtSSD {scores['dtssd']:.4f}, MESSDdt {scores['messddt']:.5f}, "
                f"MSE in the transition {scores['mse']:.4f}"
            )
    return "\n".join(lines)


def contact_sheet(best: Sequence[Scored], worst: Sequence[Scored]) -> Picture:
    """Picture, true alpha, alpha and the people on green, the best pictures on the left, the worst
    on the right: [H, W, 3], RGB."""
    return np.hstack([np.vstack([_row(one) for one in column]) for column in (best, worst)])


def _row(shown: Scored) -> Picture:
    green = np.full_like(shown.image, (0, 160, 80))
    people = compose.still(shown.image, shown.alpha, green)
    tiles = (shown.image, shown.truth, shown.alpha, people)
    return np.hstack([_tile(tile) for tile in tiles])


def _tile(picture: Picture) -> Picture:
    """The picture in a gray square."""
    small = shrink(picture, TILE)
    canvas = np.full((TILE, TILE, 3), 64, np.uint8)
    top, left = (TILE - small.shape[0]) // 2, (TILE - small.shape[1]) // 2
    inner = small if small.ndim == 3 else np.repeat(small[..., None], 3, 2)
    canvas[top : top + small.shape[0], left : left + small.shape[1]] = inner
    return canvas
