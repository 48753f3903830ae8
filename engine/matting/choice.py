"""A choice of who and what is kept, followed from frame to frame.

The network follows it itself: the guide of a frame is made from the alpha of the frame before
(``guide.carried``).  What it cannot know is done here: the clicks, and to find the chosen again
after a cut or an absence.  For that their colours are remembered; candidates are the people whom
the network finds without a choice.  Things that are no people cannot be found again.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable
from fractions import Fraction
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from fusematte.engine.backends import Maps
from fusematte.engine.frame import Map
from fusematte.engine.matting.guide import DROP, KEEP, UNDECIDED, carried, draw_box, draw_disc
from fusematte.engine.matting.selection import Prompt
from fusematte.engine.pixels.color import as_float, enlarge

log = logging.getLogger(__name__)

Run = Callable[[Map, Map], Maps]
"""The network: an image [1, 3, h, w] and a guide [1, 1, h, w]."""

BINS = 6
"""Of each colour, by which the chosen are known."""
HABIT = 0.95
"""How much of what is known of their colours stays from frame to frame."""
ALIKE = 0.75
"""Likeness of colours (Bhattacharyya's coefficient) from which on somebody is one of the chosen."""
CLEARLY = 0.08
"""By so much one candidate must be more alike than the next one, or it is told."""
LEAST = 0.0005
"""Share of the picture that is something; what is kept of less is lost."""
GROWTH = 0.25
"""Share by which what is kept may grow from one frame to the next, untold."""

LOST = "what was chosen is not to be seen"
TWO = "two could be what was chosen"
GREW = "somebody else may have been taken for what was chosen"
NOT_AGAIN = "what was chosen was not found again after the cut: everybody is kept"
MISSED = "nothing was found where it was clicked"


class Known(NamedTuple):
    """What is remembered of a choice beside the alpha: whether it holds, and the colours of the
    chosen, [BINS ** 3], which are 0 while they are not known."""

    holds: bool
    colors: Map

    @property
    def can_be_found(self) -> bool:
        return bool(self.colors.any())


UNKNOWN = Known(False, np.zeros(BINS**3, np.float32))


class Choice:
    """Follows prompts through the frames of one video.

    known: what it remembers.
    doubt: what should be looked at in the last frame, in words; "" where nothing.
    """

    def __init__(self) -> None:
        self.known = UNKNOWN
        self.doubt = ""
        self._waiting: deque[Prompt] = deque()
        self._begin = Fraction(0)

    @property
    def concerns(self) -> bool:
        """Whether anything was or will be chosen."""
        return self.known.holds or self.known.can_be_found or bool(self._waiting)

    def begin(self, prompts: Iterable[Prompt], begin: Fraction) -> None:
        """Forgets what was chosen and waits for the times of these prompts, which are ordered.

        begin: of the video, on the clock of its frames.
        """
        self.known, self.doubt, self._begin = UNKNOWN, "", begin
        self._waiting = deque(prompts)

    def add(self, prompt: Prompt) -> None:
        """A prompt for the next frame; from any thread."""
        self._waiting.append(prompt)

    def skip(self, time: Fraction) -> None:
        """Leaves out the prompts of frames up to this time: they have been followed."""
        while self._waiting and self._is_due(self._waiting[0], time):
            self._waiting.popleft()

    def due(self, time: Fraction) -> list[Prompt]:
        """The prompts that concern a frame at this time, the next one."""
        due = []
        while self._waiting and self._is_due(self._waiting[0], time):
            due.append(self._waiting.popleft())
        return due

    @property
    def waiting(self) -> tuple[Prompt, ...]:
        """The prompts whose time has not come."""
        return tuple(self._waiting)

    def _is_due(self, prompt: Prompt, time: Fraction) -> bool:
        return prompt.time is None or self._begin + prompt.time <= time

    def maps(
        self, image: Map, previous: Map | None, prompts: list[Prompt], run: Run
    ) -> Maps | None:
        """What the network says of a frame; None where there is no choice: then it is asked as it
        is without.

        Args:
            previous: the alpha of the frame before, [h, w]; None where no frame goes before.
            prompts: those of this frame.
        """
        self.doubt = ""
        if any(prompt.kind == "everybody" for prompt in prompts):
            self.known, previous = UNKNOWN, None
            last = max(i for i, prompt in enumerate(prompts) if prompt.kind == "everybody")
            prompts = prompts[last + 1 :]
        if prompts:
            return self._prompted(image, previous, prompts, run)
        if previous is None and self.known.can_be_found:
            return self._after_cut(image, run)
        if not self.known.holds:
            return None
        if previous is None or float((previous > 0.5).mean()) < LEAST:
            return self._absent(image, run)
        maps = run(image, carried(previous)[None, None])
        maps = maps._replace(alpha=_joined(maps.alpha, previous > 0.25))
        self._watch(maps.alpha, previous)
        self._learn(image, maps.alpha)
        return maps

    def _prompted(
        self, image: Map, previous: Map | None, prompts: list[Prompt], run: Run
    ) -> Maps | None:
        """A frame with prompts is seen twice beside the look that finds whom they point at: the
        network's first answer and the prompts make the guide of the second."""
        guide = self._ground(image, previous, prompts, run)
        _draw(guide, prompts)
        again = carried(_joined(run(image, guide[None, None]).alpha, guide > 0))
        _draw(again, prompts)
        maps = run(image, again[None, None])
        maps = maps._replace(alpha=_joined(maps.alpha, again > 0))
        missed = [prompt for prompt in prompts if _is_missed(prompt, maps.alpha)]
        for prompt in missed:
            self.doubt = MISSED
            log.warning("%s: nothing was found there", prompt)
        kept = [prompt for prompt in prompts if prompt.kind != "drop"]
        if missed and len(missed) == len(kept) and not self.known.holds:
            return None  # as if nobody had clicked
        self.known = self.known._replace(holds=True)
        self._learn(image, maps.alpha)
        return maps

    def _ground(self, image: Map, previous: Map | None, prompts: list[Prompt], run: Run) -> Map:
        """A new guide without its prompts."""
        size = image.shape[2:]
        masks = [prompt.mask for prompt in prompts if prompt.mask is not None]
        if masks:
            alpha = np.max([enlarge(mask, *size) for mask in masks], 0)
            return as_float(carried(as_float(alpha)))
        if any(prompt.kind == "nobody" for prompt in prompts):
            return np.full(size, DROP, np.float32)
        if self.known.holds and previous is not None:
            return carried(previous)
        nothing = np.zeros(size, np.float32) if previous is None else previous.copy()
        somebody = _pointed_at(run(image, nothing[None, None]).alpha, prompts)
        if float(somebody.max()) > 0.5:
            return carried(somebody)
        dropped = all(prompt.kind == "drop" for prompt in prompts)
        return nothing if dropped else np.full(size, UNDECIDED, np.float32)

    def _after_cut(self, image: Map, run: Run) -> Maps | None:
        """The chosen where they are found again; else nobody is chosen until the next cut."""
        found = self._find(image, run)
        self.known = self.known._replace(holds=found is not None)
        if found is None:
            self.doubt = NOT_AGAIN
            return None
        return run(image, carried(found)[None, None])

    def _absent(self, image: Map, run: Run) -> Maps:
        """A frame in which the chosen were not seen before: nothing is kept until they are back."""
        self.doubt = LOST
        found = self._find(image, run) if self.known.can_be_found else None
        if found is not None:
            return run(image, carried(found)[None, None])
        nothing = np.zeros(image.shape[2:], np.float32)
        return Maps(nothing, nothing.copy(), nothing + 1, nothing + np.float32(0.5))

    def _find(self, image: Map, run: Run) -> Map | None:
        """The alpha of whoever looks most like the chosen; None if nobody does."""
        alpha = run(image, np.zeros_like(image[:, :1])).alpha
        count, labels, boxes, _ = cv2.connectedComponentsWithStats((alpha > 0.5).astype(np.uint8))
        likeness = [(0.0, 0)]
        for label in range(1, count):
            if boxes[label, cv2.CC_STAT_AREA] >= LEAST * alpha.size:
                colors = _colors(image, labels == label)
                likeness.append((float(np.sqrt(colors * self.known.colors).sum()), label))
        likeness.sort(reverse=True)
        (best, label), *others = likeness
        if best < ALIKE:
            return None
        self.doubt = TWO if others and best - others[0][0] < CLEARLY else ""
        return as_float(alpha * _near(labels == label))

    def _watch(self, alpha: Map, previous: Map) -> None:
        """Doubts a matte that goes on somewhere else."""
        kept = (alpha > 0.5).astype(np.uint8)
        area = int(kept.sum())
        if area < LEAST * kept.size:
            self.doubt = LOST
            return
        if area > (1 + GROWTH) * float((previous > 0.5).sum()):
            self.doubt = GREW

    def _learn(self, image: Map, alpha: Map) -> None:
        """Remembers the colours of what is kept."""
        kept = alpha > 0.9
        if float(kept.mean()) < LEAST:
            return
        now, before = _colors(image, kept), self.known.colors
        colors = HABIT * before + (1 - HABIT) * now if self.known.can_be_found else now
        self.known = self.known._replace(colors=as_float(colors))


def _colors(image: Map, mask: NDArray[np.bool_]) -> Map:
    """How often each colour is seen within a mask: [BINS ** 3], of sum 1."""
    steps = np.minimum((image[0][:, mask] * BINS).astype(np.int32), BINS - 1)
    index = (steps[0] * BINS + steps[1]) * BINS + steps[2]
    counts = np.bincount(index, minlength=BINS**3)
    return as_float(counts / max(1, int(counts.sum())))


def _near(mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """1 within a few pixels of a mask, which people move from frame to frame, else 0."""
    return np.asarray(cv2.dilate(mask.astype(np.uint8), np.ones((9, 9), np.uint8)), np.uint8)


def _pointed_at(alpha: Map, prompts: list[Prompt]) -> Map:
    """The parts of an alpha that prompts point at; if these only drop, the parts that they do not
    point at."""
    pointed = np.zeros_like(alpha)
    kept = [prompt for prompt in prompts if prompt.kind != "drop"]
    _draw(pointed, kept or prompts)
    if kept:
        return _joined(alpha, pointed > 0)
    dropped = _joined(alpha, pointed < 0)
    return as_float(alpha * (dropped == 0))


def _joined(alpha: Map, seeds: NDArray[np.bool_]) -> Map:
    """An alpha without the parts that have no connection to the seeds: whoever stands apart from
    what was kept is somebody else, whatever the network says.  Without seeds it stays as it is."""
    if not seeds.any():
        return alpha
    _, labels = cv2.connectedComponents((alpha > 0.5).astype(np.uint8))
    connected = np.setdiff1d(labels[_near(seeds) > 0], 0)
    return as_float(alpha * _near(np.isin(labels, connected)))


def _draw(guide: Map, prompts: Iterable[Prompt]) -> None:
    for prompt in prompts:
        if prompt.kind == "box":
            draw_box(guide, *prompt.place)
        elif prompt.place:
            x, y = prompt.place
            draw_disc(guide, x, y, KEEP if prompt.kind == "keep" else DROP)


def _is_missed(prompt: Prompt, alpha: Map) -> bool:
    """Whether nothing is kept where something was to be."""
    if prompt.kind not in ("keep", "box"):
        return False
    disc = np.zeros_like(alpha)
    _draw(disc, [prompt])
    return float(alpha[disc > 0].max()) < 0.5
