"""The choice of who and what is kept: made by prompts, followed from frame to frame.

The network mattes everybody, with or without a choice.  A prompt points at somebody in that matte,
or at a thing outside it (``pointing``).  From there on they are followed (``following``), and what
is kept is cut out of the matte.  After a cut or an absence people are recognised by their colours;
things are not found again.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable
from fractions import Fraction

import numpy as np

from fusematte.engine.frame import Map
from fusematte.engine.matting.following import (
    KEPT,
    LEAST,
    UNKNOWN,
    Followed,
    Mask,
    View,
    begin,
    cut_out,
    find,
    follow,
    likeness,
)
from fusematte.engine.matting.pointing import point
from fusematte.engine.matting.selection import Prompt

log = logging.getLogger(__name__)

ALIKE = 0.88
"""Least likeness of colours by which somebody is recognised."""
CLEARLY = 0.05
"""Lead in likeness of the best candidate below which the frame is marked as doubtful."""
GROWTH = 0.25
"""Growth of what is kept, from one frame to the next, above which the frame is doubtful."""

LOST = "what was chosen is not to be seen"
TWO = "two could be what was chosen"
GREW = "somebody else may have been taken for what was chosen"
NOT_AGAIN = "what was chosen was not found again after the cut: everybody is kept"
MISSED = "nothing was found where it was clicked"


class Choice:
    """Follows prompts through the frames of one video.

    known: the state after the frame before.
    doubt: why the last frame should be checked by eye, in words; "" if it need not be.
    """

    def __init__(self) -> None:
        self.known: Followed = UNKNOWN
        self.doubt = ""
        self._waiting: deque[Prompt] = deque()
        self._begin = Fraction(0)

    @property
    def concerns(self) -> bool:
        """Whether anything was or will be chosen."""
        return self.known.holds or self.known.can_be_found or bool(self._waiting)

    def begin(self, prompts: Iterable[Prompt], begin: Fraction) -> None:
        """Forgets what was chosen and waits for the times of these prompts, which are in order.

        begin: the time at which the video begins, on the clock of its frames.
        """
        self.known, self.doubt, self._begin = UNKNOWN, "", begin
        self._waiting = deque(prompts)

    def add(self, prompt: Prompt) -> None:
        """Adds a prompt for the next frame; may be called from any thread."""
        self._waiting.append(prompt)

    def skip(self, time: Fraction) -> None:
        """Drops the prompts up to this time: the restored state already follows them."""
        while self._waiting and self._is_due(self._waiting[0], time):
            self._waiting.popleft()

    def due(self, time: Fraction) -> list[Prompt]:
        """Takes the prompts for the next frame, which has this time."""
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

    def alpha(
        self, image: Map, everybody: Map, prompts: list[Prompt], *, follows: bool
    ) -> Map | None:
        """The alpha of what is kept in a frame, [h, w]; None where there is no choice.

        Args:
            image: the network's input, [1, 3, h, w], RGB, 0..1; everybody: its alpha, [h, w].
            prompts: those for this frame.
            follows: whether the frame continues the one before.
        """
        self.doubt = ""
        if any(prompt.kind == "everybody" for prompt in prompts):
            self.known = UNKNOWN
            last = max(i for i, prompt in enumerate(prompts) if prompt.kind == "everybody")
            prompts = prompts[last + 1 :]
        if not (prompts or self.known.holds or self.known.can_be_found):
            return None
        view = View.of(image, everybody)
        if not follows:
            self._find_after_cut(view)
        elif self.known.holds:
            self._follow(view)
        if prompts:
            self._prompt(view, prompts)
        return cut_out(self.known, everybody) if self.known.holds else None

    def _follow(self, view: View) -> None:
        before = float((self.known.labels == KEPT).mean())
        self.known = follow(self.known, view)
        now = float((self.known.labels == KEPT).mean())
        if self.known.is_lost:
            self.doubt = LOST
            found = self._find(view)
            if found is not None:
                self.known = find(self.known, view, found)
        elif now > (1 + GROWTH) * before + LEAST:
            self.doubt = GREW

    def _find_after_cut(self, view: View) -> None:
        """Goes on with the chosen if they are found; else with no choice until the next cut."""
        found = self._find(view)
        if found is not None:
            self.known = find(self.known, view, found)
        else:
            self.doubt = NOT_AGAIN if self.known.holds else ""
            self.known = self.known._replace(holds=False)

    def _find(self, view: View) -> Mask | None:
        """The person who looks most like the chosen; None if nobody is like them enough."""
        if not self.known.can_be_found:
            return None
        candidates = [(likeness(view, part, self.known.kept)[0], part) for part in view.parts()]
        candidates.sort(key=lambda candidate: candidate[0], reverse=True)
        if not candidates or candidates[0][0] < ALIKE:
            return None
        (best, found), *rest = candidates
        self.doubt = TWO if rest and best - rest[0][0] < CLEARLY else ""
        return found

    def _prompt(self, view: View, prompts: list[Prompt]) -> None:
        """Starts or corrects the choice; prompts that point at nothing are left out."""
        if self.known.holds:
            kept, thing = self.known.labels == KEPT, self.known.thing
        else:
            kept, thing = np.zeros_like(view.people), np.zeros(view.size, np.float32)
            if all(prompt.kind == "drop" for prompt in prompts):
                kept = view.people  # a drop alone keeps the others
        pointed = point(view, prompts, kept, thing)
        for prompt in pointed.missed:
            self.doubt = MISSED
            log.warning("%s: nothing was found there", prompt)
        if len(pointed.missed) < len(prompts):
            self.known = begin(view, pointed.kept, pointed.thing, self.known)
