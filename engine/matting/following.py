"""Follows the people and things that are kept, from frame to frame.

The matte says where people are; labels say which of them are kept.  Labels are moved by the optical
flow (``matting.motion``).  Where people touch, the moved labels and the colours decide pixel by
pixel, and what they leave open is filled in along the edges of the picture (Meyer's watershed,
1992).  A part of the matte that stands alone and clearly looks like one side gets that side's label
as a whole: this corrects labels that were swapped while people crossed.

Things are in no matte.  Their mask is moved by the optical flow alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, Self

import cv2
import numpy as np
from numpy.typing import NDArray

from fusematte.engine.frame import Map, Plane
from fusematte.engine.matting.motion import search_motion, search_size
from fusematte.engine.pixels.color import as_float, enlarge

Mask = NDArray[np.bool_]

BINS = 8
"""Bins per channel of the colour histograms by which people are recognised."""
HABIT = 0.9
"""Weight of the old colour histogram when it is updated by a frame."""
LEAST = 0.0005
"""Smallest share of the picture that counts as somebody or something; less is noise."""

NOBODY, KEPT, OTHER = 0, 1, 2
"""Labels of a pixel of the view."""

_LABEL, _UNSURE_LABEL, _COLOR = 3.9, 1.3, 1.5
"""Weights of the evidence: log odds of a label moved by reliable motion, and by unreliable motion;
factor of the log odds by colour."""
_DECIDED = 0.4
"""Log odds beyond which a pixel is decided; the others are filled in."""
_PRESENT = 0.02
"""Smallest share of a part of the matte that a label must cover; less is noise."""
_CLEAR, _FOREIGN = 0.2, 0.1
"""When a part gets one side's label as a whole: by how much it must be more like it than like the
other, and by how much its share of foreign colours may exceed that of the side alone."""
_SIZES = 0.5, 1.3
"""Limits of the area of such a part, relative to the area that the side had alone."""
_RIGID = 0.5
"""Share of a thing's pixels that must move as one for it to be rigid."""
_SHARPEN = 1.2
"""Contrast added to a thing's mask in each frame, against the blur of repeated resampling."""


class Appearance(NamedTuple):
    """How one side, the kept or the others, looks in frames in which the two do not touch.

    colors: histogram, [BINS ** 3], of sum 1, or 0 while unknown; area: in pixels of the view;
    foreign: share of its pixels whose colours are more typical of the other side.
    """

    colors: Map
    area: float
    foreign: float

    @property
    def known(self) -> bool:
        """Whether this side was ever seen."""
        return self.area > 0


UNSEEN = Appearance(np.zeros(BINS**3, np.float32), 0.0, 0.1)


class Followed(NamedTuple):
    """The state of a choice after a frame.

    holds: whether anything is chosen now.
    labels, luma: of the view, [h, w], uint8; thing: mask of the things that are kept, [h, w],
    float32, 0..1.
    kept, others: the appearance of each side.
    """

    holds: bool
    labels: Plane
    thing: Map
    luma: Plane
    kept: Appearance
    others: Appearance

    def saved(self) -> dict[str, NDArray[Any]]:
        """All of it as arrays, by name."""
        looks = {"kept": self.kept, "others": self.others}
        parts: dict[str, NDArray[Any]] = {
            name: np.append(look.colors, [look.area, look.foreign]) for name, look in looks.items()
        }
        return parts | {
            "holds": np.array([self.holds]),
            "labels": self.labels,
            "thing": self.thing,
            "luma": self.luma,
        }

    @classmethod
    def restored(cls, part: Callable[[str], NDArray[Any]]) -> Self:
        """What was saved, from a function that finds an array by its name."""
        kept, others = (
            Appearance(as_float(look[:-2]), float(look[-2]), float(look[-1]))
            for look in (part("kept"), part("others"))
        )
        holds, labels, thing, luma = map(part, ("holds", "labels", "thing", "luma"))
        return cls(bool(holds[0]), labels, thing, luma, kept, others)

    @property
    def can_be_found(self) -> bool:
        """Whether a chosen person's colours are known, by which they could be found again."""
        return self.kept.known

    @property
    def is_lost(self) -> bool:
        """Whether next to nothing is left of what was chosen."""
        seen = float((self.labels == KEPT).mean()) + float((self.thing > 0.5).mean())
        return seen < LEAST

    def resized(self, height: int, width: int) -> Followed:
        """The same for a view of another size."""
        if self.labels.shape == (height, width):
            return self
        size, factor = (width, height), height * width / self.labels.size
        return self._replace(
            labels=np.asarray(cv2.resize(self.labels, size, interpolation=cv2.INTER_NEAREST)),
            thing=enlarge(self.thing, height, width),
            luma=np.asarray(cv2.resize(self.luma, size, interpolation=cv2.INTER_LINEAR)),
            kept=self.kept._replace(area=self.kept.area * factor),
            others=self.others._replace(area=self.others.area * factor),
        )


_NONE = np.zeros((1, 1), np.uint8)
UNKNOWN = Followed(False, _NONE, as_float(_NONE), _NONE, UNSEEN, UNSEEN)


@dataclass(frozen=True, eq=False)
class View:
    """A small copy of a frame, in which labels are followed.

    rgb: [h, w, 3], uint8; people: [h, w], where the matte of everybody shows somebody.
    """

    rgb: NDArray[np.uint8]
    people: Mask

    @classmethod
    def of(cls, image: Map, alpha: Map) -> Self:
        """The view of a network's input [1, 3, H, W], RGB, 0..1, and its matte of everybody."""
        height, width = alpha.shape
        size = search_size(height, width)
        small = cv2.resize(image[0].transpose(1, 2, 0), size, interpolation=cv2.INTER_AREA)
        people = cv2.resize(alpha, size, interpolation=cv2.INTER_AREA) > 0.5
        return cls((small * 255).round().astype(np.uint8), people)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        height, width = self.people.shape
        return height, width

    @cached_property
    def luma(self) -> Plane:
        """[h, w], uint8."""
        return np.asarray(cv2.cvtColor(self.rgb, cv2.COLOR_RGB2GRAY))

    @cached_property
    def bins(self) -> NDArray[np.int32]:
        """Each pixel's bin of the colour histogram: [h, w]."""
        steps = self.rgb.astype(np.int32) * BINS // 256
        return (steps[..., 0] * BINS + steps[..., 1]) * BINS + steps[..., 2]

    @cached_property
    def numbers(self) -> NDArray[np.int32]:
        """The number of each pixel's connected part of the people, 0 for nobody: [h, w]."""
        return np.asarray(cv2.connectedComponents(self.people.astype(np.uint8))[1])

    @cached_property
    def areas(self) -> NDArray[np.intp]:
        """The area of each of these parts, in pixels."""
        return np.bincount(self.numbers.ravel())

    def parts(self, least: float = LEAST) -> Iterator[Mask]:
        """The connected parts of the people that take up at least this share of the picture."""
        for number in np.flatnonzero(self.areas >= least * self.people.size):
            if number > 0:
                yield self.numbers == number


def begin(view: View, kept: Mask, thing: Map, before: Followed) -> Followed:
    """Starts to follow the people in ``kept``, and ``thing``; all other people are the others.

    Both sides' appearance is learnt from this frame, or stays as it was if they touch in it.
    """
    started = Followed(True, _labels(view, kept), thing, view.luma, UNSEEN, UNSEEN)
    learnt = _learnt(started, view, favour=None)
    if learnt is started:
        return started._replace(kept=before.kept, others=before.others)
    return learnt


def find(before: Followed, view: View, kept: Mask) -> Followed:
    """Goes on with the people in ``kept``, who were recognised; things are dropped."""
    labels, nothing = _labels(view, kept), np.zeros(view.size, np.float32)
    return before._replace(holds=True, labels=labels, thing=nothing, luma=view.luma)


def follow(before: Followed, view: View) -> Followed:
    """The state after the next frame."""
    before = before.resized(*view.size)
    moved = _Motion(before.luma, view.luma)
    kept, others = (moved(as_float(before.labels == label)) > 0.5 for label in (KEPT, OTHER))
    thing = moved.things(before.thing)
    favour = None
    if before.kept.known and before.others.known:
        favour = _favour(before, view)
        odds = np.where(moved.sure, _LABEL, _UNSURE_LABEL) * (kept * 1.0 - others) + _COLOR * favour
        here = _with_share(view, kept)
        seeds = (odds > _DECIDED) & here, (odds < -_DECIDED) | ~here
    else:
        seeds = kept, others | ~_with_share(view, kept)
    labels = spread(view, *seeds)
    if favour is not None:
        _mend(labels, before, view, favour)
    after = before._replace(labels=labels, thing=as_float(thing), luma=view.luma)
    return _learnt(after, view, favour)


def cut_out(followed: Followed, alpha: Map) -> Map:
    """The alpha of what is kept, cut out of everybody's alpha [h, w]."""
    others = followed.labels == OTHER
    near = cv2.dilate((followed.labels == KEPT).astype(np.uint8), np.ones((7, 7), np.uint8)) > 0
    people = as_float(cv2.blur(as_float(near & ~others), (3, 3)))
    thing = followed.thing * ~others
    shape = alpha.shape
    return as_float(np.maximum(alpha * enlarge(people, *shape), enlarge(thing, *shape)))


def spread(view: View, kept: Mask, others: Mask) -> Plane:
    """Labels of all people, grown from some pixels; parts without a kept pixel are others."""
    kept, others = kept & view.people, others & view.people
    markers = np.where(kept, KEPT, np.where(others, OTHER, NOBODY)).astype(np.int32)
    markers[~view.people] = 3
    cv2.watershed(view.rgb, markers)
    # The lines between its basins bear no label.
    lines = view.people & (markers != KEPT) & (markers != OTHER)
    if lines.any():
        nearer = distance_to(markers == KEPT) <= distance_to(markers == OTHER)
        markers[lines] = np.where(nearer, KEPT, OTHER)[lines]
    return _labels(view, _with_share(view, kept, least=0) & (markers == KEPT))


def likeness(view: View, part: Mask, *appearances: Appearance) -> tuple[float, ...]:
    """Likeness of a part's colours to each appearance, 0..1 (Bhattacharyya coefficient)."""
    colors = _colors(view.bins, part)
    return tuple(float(np.sqrt(colors * one.colors).sum()) for one in appearances)


def _labels(view: View, kept: Mask) -> Plane:
    """Labels of all people: kept within the mask, others outside."""
    return np.where(view.people, np.where(kept, KEPT, OTHER), NOBODY).astype(np.uint8)


_CROSS = np.ones((3, 3), np.uint8)


class _Motion:
    """The motion between two pictures: where each pixel was in the one before.

    sure: [h, w], where following the motion back and forth ends at the same place.
    """

    def __init__(self, before: Plane, now: Plane) -> None:
        self._back, forth = search_motion(now, before), search_motion(before, now)
        self._forth, back = forth.flow, np.moveaxis(self._back.flow, 2, 0)
        astray = np.linalg.norm(back + self(self._forth), axis=0)
        self.sure: Mask = astray <= 0.5 + 0.05 * np.linalg.norm(back, axis=0)

    def __call__(self, plane: Map) -> Map:
        """What is known of the picture before, moved to where it is now; see ``Motion``."""
        return self._back(plane)

    def things(self, things: Map) -> Map:
        """The mask of things, moved; rigid ones as rigid bodies."""
        count, numbers = cv2.connectedComponents((things > 0.5).astype(np.uint8))
        moved = np.zeros_like(things)
        for number in range(1, count):
            thing = things * (cv2.dilate((numbers == number).astype(np.uint8), _CROSS) > 0)
            rigid = self._rigid(thing)
            height, width = thing.shape
            now = self(thing) if rigid is None else cv2.warpAffine(thing, rigid, (width, height))
            moved = np.maximum(moved, now)
        return as_float(np.clip((moved - 0.5) * _SHARPEN + 0.5, 0, 1))

    def _rigid(self, thing: Map) -> NDArray[np.float64] | None:
        """Translation, rotation and scale of a thing, [2, 3]; None if it does not move as one."""
        rows, columns = np.nonzero(thing > 0.9)
        then = np.stack([columns, rows], axis=1).astype(np.float32)
        if len(then) < 20:
            return None
        now = then + self._forth[rows, columns]
        cv2.setRNGSeed(0)  # the same video, the same matte
        motion, same = cv2.estimateAffinePartial2D(then, now, ransacReprojThreshold=0.7)
        if motion is None or float(np.mean(same)) <= _RIGID:
            return None
        return np.asarray(motion, np.float64)


def _favour(before: Followed, view: View) -> Map:
    """Log odds of kept against others by colour, averaged over neighbouring pixels: [h, w]."""
    few = 1e-3
    ratio = np.log((before.kept.colors + few) / (before.others.colors + few))[view.bins]
    people = as_float(view.people)
    return as_float(cv2.blur(ratio * people, (5, 5)) / np.maximum(cv2.blur(people, (5, 5)), 0.05))


def _with_share(view: View, mask: Mask, least: float = _PRESENT) -> Mask:
    """The connected parts of the people of which more than this share is in a mask."""
    inside = np.bincount(view.numbers[mask], minlength=len(view.areas))
    share = inside / np.maximum(view.areas, 1)
    share[0] = 0
    return np.asarray(share > least)[view.numbers]


def _mend(labels: Plane, before: Followed, view: View, favour: Map) -> None:
    """Relabels, as a whole, parts that clearly look like one side."""
    for part in view.parts(10 * LEAST):
        share = float((labels[part] == KEPT).mean())
        kept, others = likeness(view, part, before.kept, before.others)
        vote = 0.4 * (share - 0.5) + 1.5 * (kept - others)
        side, sign = (before.kept, 1) if vote > 0 else (before.others, -1)
        foreign = float((sign * favour[part] < -0.5).mean())
        fits = _SIZES[0] < float(part.sum()) / side.area < _SIZES[1]
        if abs(vote) > _CLEAR and fits and foreign < side.foreign + _FOREIGN:
            labels[part] = KEPT if vote > 0 else OTHER


def _learnt(after: Followed, view: View, favour: Map | None) -> Followed:
    """Remembers how the kept and the others look, in a frame in which they do not touch."""
    kept, others = after.labels == KEPT, after.labels == OTHER
    for part in view.parts():
        both = int((kept & part).sum()), int((others & part).sum())
        if min(both) > _PRESENT * max(both):
            return after
    bins = view.bins
    return after._replace(
        kept=_seen(after.kept, bins, kept, None if favour is None else favour < -0.5),
        others=_seen(after.others, bins, others, None if favour is None else favour > 0.5),
    )


def _seen(
    known: Appearance, bins: NDArray[np.int32], mask: Mask, foreign: Mask | None
) -> Appearance:
    area = float(mask.sum())
    if area < LEAST * mask.size:
        return known
    colors = _colors(bins, mask)
    if not known.known:
        return Appearance(colors, area, known.foreign)
    share = known.foreign if foreign is None else float(foreign[mask].mean())
    return Appearance(
        as_float(HABIT * known.colors + (1 - HABIT) * colors),
        max(0.98 * known.area, area),
        0.8 * known.foreign + 0.2 * share,
    )


def _colors(bins: NDArray[np.int32], mask: Mask) -> Map:
    """How often each colour is seen within a mask, or one like it: [BINS ** 3], of sum 1."""
    counts = np.bincount(bins[mask], minlength=BINS**3).astype(np.float32)
    cube: NDArray[np.floating] = counts.reshape(BINS, BINS, BINS)
    for axis in range(3):
        ends = [(int(one == axis),) * 2 for one in range(3)]
        padded = np.moveaxis(np.pad(cube, ends, mode="edge"), axis, 0)
        cube = np.moveaxis(padded[:-2] / 4 + padded[1:-1] / 2 + padded[2:] / 4, 0, axis)
    return as_float(cube.ravel() / max(1.0, float(cube.sum())))


def distance_to(mask: Mask) -> Map:
    """The distance of each pixel to a mask, in pixels: [h, w]."""
    return as_float(cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, 3))
