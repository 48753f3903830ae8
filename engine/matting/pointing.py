"""Finds what a prompt points at: a person in the matte, or a thing, cut out by its colours."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import cv2
import numpy as np

from fusematte.engine.frame import Map
from fusematte.engine.matting.following import (
    KEPT,
    LEAST,
    OTHER,
    Mask,
    View,
    distance_to,
    spread,
)
from fusematte.engine.matting.selection import DISC, Prompt
from fusematte.engine.pixels.color import as_float, enlarge

_ON_SOMEBODY, _IN_BOX = 0.3, 0.1
"""Share of a click's disc, or of a box, that people must cover for it to point at them."""
_NECK = 3.0
"""Two people who touch are at least so many times as wide as the place where they touch."""
_RADII = 0.1, 0.15, 0.22, 0.32
"""Radii around a click within which a thing is looked for, as shares of the picture's height."""
_NEARBY = 1.6
"""Size of the surroundings from which colours are learnt, relative to the thing's."""
_CONTRAST = 12
"""Mean change of colour that makes an edge a thing's, in levels of 255."""
_STEPS = 3
"""Iterations of GrabCut."""


class Pointed(NamedTuple):
    """What is kept after prompts.

    kept: people, [h, w]; thing: things, [h, w], float32, 0..1; missed: prompts at nothing.
    """

    kept: Mask
    thing: Map
    missed: list[Prompt]


def point(view: View, prompts: Iterable[Prompt], kept: Mask, thing: Map) -> Pointed:
    """Applies prompts, in order, to what is kept already: people and things, [h, w] each.

    If some prompts keep and others drop the same connected part, two people touch there: the line
    between them is found along the edges of the picture.
    """
    start, missed = kept, []
    claims = {KEPT: _Claim(view), OTHER: _Claim(view)}
    for prompt in prompts:
        if prompt.kind == "nobody":
            kept, thing = np.zeros_like(kept), np.zeros_like(thing)
        elif prompt.kind == "mask":
            kept, thing = _masked(view, prompt)
        else:
            place, person = where(view, prompt), _label_at(view, prompt, start)
            label = OTHER if prompt.kind == "drop" else KEPT
            claims[label].add(person, place)
            kept = kept | person if label == KEPT else kept & ~person
            if not person.any():
                there = _connected(thing > 0.5, place) if label == OTHER else thing_at(view, prompt)
                thing = np.where(there > 0, np.float32(label == KEPT), thing)
                missed += [prompt] * (not there.any())
    contested = claims[KEPT].people & claims[OTHER].people
    if contested.any():
        within = View(view.rgb, contested)
        labels = spread(within, claims[KEPT].seeds, claims[OTHER].seeds)
        kept = np.where(contested, labels == KEPT, kept)
    return Pointed(kept, as_float(thing), missed)


class _Claim:
    """The people that prompts of one kind point at, and the places where they do."""

    def __init__(self, view: View) -> None:
        self.people = np.zeros_like(view.people)
        self.seeds = np.zeros_like(view.people)

    def add(self, person: Mask, place: Mask) -> None:
        self.people |= person
        self.seeds |= person & place


def _label_at(view: View, prompt: Prompt, kept: Mask) -> Mask:
    """The person a prompt points at; if only part of them is kept, what has the label there."""
    person = person_at(view, prompt)
    if prompt.kind == "box" or not 0.1 < float(kept[person].mean() if person.any() else 0) < 0.9:
        return person
    place = where(view, prompt)
    alike = kept if kept[place & person].mean() > 0.5 else ~kept
    return _connected(person & alike, place)


def _masked(view: View, prompt: Prompt) -> tuple[Mask, Map]:
    """The people and the things that a mask keeps."""
    assert prompt.mask is not None
    mask = enlarge(prompt.mask, *view.size) > 0.5
    # Outside the people it is a thing, or a rim where the mask's edge is not quite the matte's.
    beside = (mask & ~view.people).astype(np.uint8)
    thing = cv2.morphologyEx(beside, cv2.MORPH_OPEN, np.ones((5, 5), np.uint8))
    return mask & view.people, as_float(thing)


def person_at(view: View, prompt: Prompt) -> Mask:
    """The person at a click, or the people in a box; empty if there is nobody."""
    place = where(view, prompt)
    covered = float(view.people[place].mean())
    if prompt.kind == "box":
        inside = [one for one in _people(view) if (one & place).sum() > 0.5 * one.sum()]
        if inside:
            return np.asarray(np.any(inside, axis=0))
        return view.people & place & (covered > _IN_BOX)
    nobody = np.zeros_like(view.people)
    if covered < _ON_SOMEBODY:
        return nobody
    there = [one for one in _people(view) if (one & place).any()]
    return max(there, key=lambda one: int((one & place).sum()), default=nobody)


def thing_at(view: View, prompt: Prompt) -> Map:
    """The thing at a click or in a box, 0 or 1: [h, w], float32; all 0 if none is found.

    It is cut out by GrabCut (Rother, Kolmogorov, Blake, SIGGRAPH 2004).  Around a click several
    sizes are tried, and the largest thing that stands out from its surroundings is taken.
    """
    place = where(view, prompt)
    if prompt.kind == "box":
        return as_float(_cut(view, place))
    height, width = view.size
    x, y = prompt.place[0] * width, prompt.place[1] * height
    rows, columns = np.mgrid[:height, :width]
    distance = np.hypot(columns - x, rows - y)
    best, found = 0.0, np.zeros_like(view.people)
    for radius in _RADII:
        around = distance < radius * height
        thing = _connected(_cut(view, around, sure=place), place)
        rim = around & (cv2.erode(around.astype(np.uint8), np.ones((3, 3), np.uint8)) == 0)
        cut_off = float((thing & rim).sum()) / max(1, int(rim.sum()))
        worth = (1 - cut_off) ** 2 * (1 + 2 * float(thing.mean()))
        if thing.mean() > LEAST and worth > best and _contrast(view, thing) > _CONTRAST:
            best, found = worth, thing
    return as_float(found)


def where(view: View, prompt: Prompt) -> Mask:
    """The place of a click, a disc, or of a box: [h, w]."""
    height, width = view.size
    drawn = np.zeros((height, width), np.uint8)
    x, y = _pixel(view, *prompt.place[:2])
    if prompt.kind == "box":
        across, down = prompt.place[2:]
        end = _pixel(view, prompt.place[0] + across, prompt.place[1] + down)
        cv2.rectangle(drawn, (x, y), end, 1, -1)
    else:
        cv2.circle(drawn, (x, y), max(1, round(DISC * height)), 1, -1)
    return drawn > 0


def _pixel(view: View, x: float, y: float) -> tuple[int, int]:
    height, width = view.size
    return min(int(x * width), width - 1), min(int(y * height), height - 1)


def _people(view: View) -> Iterator[Mask]:
    """The people one by one, as far as they can be told apart."""
    for part in view.parts():
        yield from _apart(part)


def _apart(part: Mask) -> list[Mask]:
    """A connected part of the people, divided at narrow places, where two of them touch."""
    depth = cv2.distanceTransform(np.pad(part, 1).astype(np.uint8), cv2.DIST_L2, 5)[1:-1, 1:-1]
    deepest = float(depth.max())
    for width in np.arange(1, deepest / 2):
        count, numbers = cv2.connectedComponents((depth > width).astype(np.uint8))
        cores = [numbers == number for number in range(1, count)]
        wide = [core for core in cores if depth[core].max() > max(_NECK * width, 0.35 * deepest)]
        if len(wide) > 1:
            nearest = np.argmin([distance_to(core) for core in wide], axis=0)
            return [part & (nearest == number) for number in range(len(wide))]
    return [part]


def _cut(view: View, around: Mask, sure: Mask | None = None) -> Mask:
    """Within a place, what differs in colour from its surroundings; never a person."""
    rows, columns = np.flatnonzero(around.any(1)), np.flatnonzero(around.any(0))
    margin = round(_NEARBY / 2 * max(np.ptp(rows), np.ptp(columns)))
    near = (
        slice(max(0, rows[0] - margin), rows[-1] + 1 + margin),
        slice(max(0, columns[0] - margin), columns[-1] + 1 + margin),
    )
    wanted = around & ~(cv2.dilate(view.people.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0)
    marks = np.where(wanted, cv2.GC_PR_FGD, cv2.GC_BGD).astype(np.uint8)
    if sure is not None:
        marks[wanted & sure] = cv2.GC_FGD
    marks = marks[near]
    thing = np.zeros_like(around)
    if not (marks == cv2.GC_BGD).any() or not (marks != cv2.GC_BGD).any():
        return thing  # no surroundings, or nothing but people
    cv2.setRNGSeed(0)  # the same click, the same thing
    models = np.zeros((1, 65)), np.zeros((1, 65))
    rgb, unused = np.ascontiguousarray(view.rgb[near]), (0, 0, 1, 1)
    cv2.grabCut(rgb, marks, unused, *models, _STEPS, cv2.GC_INIT_WITH_MASK)
    thing[near] = (marks == cv2.GC_FGD) | (marks == cv2.GC_PR_FGD)
    return thing


def _contrast(view: View, thing: Mask) -> float:
    """By how much colours change at the edge of a thing, in levels of 255."""
    square = np.ones((3, 3), np.uint8)
    edge = cv2.morphologyEx(thing.astype(np.uint8), cv2.MORPH_GRADIENT, square) > 0
    change = cv2.morphologyEx(view.rgb, cv2.MORPH_GRADIENT, square)
    return float(np.mean(np.max(change[edge], axis=1)))


def _connected(thing: Mask, place: Mask) -> Mask:
    """The part of a thing that is at a place."""
    _, numbers = cv2.connectedComponents(thing.astype(np.uint8))
    counts = np.bincount(numbers[place])
    counts[0] = 0
    return np.asarray((numbers == counts.argmax()) & bool(counts.any()))
