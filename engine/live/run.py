"""The live job: a camera in, its people over another background out, to any number of outputs.

Whatever happens, what comes out is a composite, the background alone or a still card: the camera's
own picture never reaches an output.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction

import numpy as np

from fusematte.engine.compositing.fallback import STALL
from fusematte.engine.errors import FuseMatteError
from fusematte.engine.frame import CLOCK, Frame
from fusematte.engine.live.cameras import Camera
from fusematte.engine.live.meter import LiveStatistics
from fusematte.engine.live.outputs import Outlet, Sender
from fusematte.engine.live.preview import Preview
from fusematte.engine.live.session import Result, Session
from fusematte.engine.pipeline import Feed

log = logging.getLogger(__name__)

PATIENCE = 6.0
"""Seconds to wait at the end for a camera that hangs."""

_STEP = 90
"""Units of the clock between two frames, at least: a millisecond."""

KEYS = {
    "b": "next background",
    "m": "mirror",
    "a": "alpha instead of the composite",
    "f": "freeze",
    "q": "quit",
}


@dataclass
class Controls:
    """What the keys change while it runs."""

    backgrounds: itertools.cycle[str]
    shows_alpha: bool = False
    frozen: bool = False
    quits: bool = False

    def press(self, key: str, session: Session) -> None:
        """Does what a key stands for; others do nothing."""
        if key == "b":
            try:
                session.background = next(self.backgrounds)
            except FuseMatteError as error:
                log.error("%s", error)
        elif key == "m":
            session.mirror = not session.mirror
        elif key == "a":
            self.shows_alpha = not self.shows_alpha
        elif key == "f":
            self.frozen = not self.frozen
        elif key == "q":
            self.quits = True


@dataclass
class _Clock:
    """The time since it was made, in units of ``CLOCK``, and the times of what comes out: they
    always increase, and still do in the milliseconds of Matroska and FLV.

    It begins at 0: FLV's times go round after 25 days, and machines run longer.
    """

    begun: float = field(default_factory=time.monotonic)
    last: int = -1

    def now(self, like: Frame) -> Frame:
        return replace(
            like, pts=round(Fraction(time.monotonic() - self.begun) / CLOCK), time_base=CLOCK
        )

    def stamp(self, frame: Frame, pts: int) -> Frame:
        self.last = max(pts, self.last + _STEP)
        return replace(frame, pts=self.last, time_base=CLOCK)


@dataclass
class Live:
    """Runs a camera through a session to outlets; in the end it closes camera and outlets.

    report: called with the figures about once a second.
    keys: asked for the key pressed last, "" for none.
    """

    camera: Camera
    session: Session
    outlets: Sequence[Outlet]
    backgrounds: Sequence[str]
    report: Callable[[LiveStatistics], None] | None = None
    keys: Callable[[], str] = str
    _clock: _Clock = field(default_factory=_Clock)

    def run(self) -> LiveStatistics:
        """Runs until the camera ends, ``q`` is pressed or no output is left; the last figures.

        Raises:
            OutputError: the last output failed.
            InputError: the camera failed for good.
        """
        controls = Controls(itertools.cycle([*self.backgrounds[1:], self.backgrounds[0]]))
        previews = [outlet for outlet in self.outlets if isinstance(outlet, Preview)]
        senders = [Sender(outlet) for outlet in self.outlets if not isinstance(outlet, Preview)]
        feed = Feed("camera", self.camera, self._feed)
        try:
            self._loop(feed, controls, previews, senders)
        finally:
            self.camera.close()
            feed.close(PATIENCE)
            for sender in senders:
                sender.close()
            for preview in previews:
                preview.close()
        if feed.error is not None:
            raise feed.error
        return self.session.statistics

    def _feed(self, frame: Frame) -> None:
        self.session.push(self._clock.now(frame))

    def _loop(
        self, feed: Feed, controls: Controls, previews: list[Preview], senders: list[Sender]
    ) -> None:
        period = float(1 / self.camera.rate)
        shown, last_result, told = self._closed(), -STALL, time.monotonic()
        while not controls.quits:
            try:
                result = self.session.get(period)
                last_result = time.monotonic()
                fresh: Frame | None = self._view(result, controls)
            except TimeoutError:
                if feed.ended.is_set() and not self.session.busy:
                    return
                fresh = self._closed() if time.monotonic() - last_result > STALL else None
            if fresh is not None:
                frozen = controls.frozen and last_result > 0
                shown = self._clock.stamp(shown if frozen else fresh, fresh.pts)
                _show(shown, previews, senders)
                self._drop_failed(senders, previews)
            for key in (self.keys(), *(preview.key for preview in previews)):
                controls.press(key, self.session)
            if self.report is not None and time.monotonic() - told >= 1:
                told = time.monotonic()
                self.report(self.session.statistics)

    def _closed(self) -> Frame:
        return self.session.closed_frame(self._clock.now(self.camera.like))

    def _view(self, result: Result, controls: Controls) -> Frame:
        return alpha_view(result) if controls.shows_alpha else result.composite

    def _drop_failed(self, senders: list[Sender], previews: list[Preview]) -> None:
        for sender in [sender for sender in senders if sender.error is not None]:
            assert sender.error is not None
            if len(senders) + len(previews) == 1:
                raise sender.error
            log.error("%s; the other outputs go on", sender.error)
            senders.remove(sender)
            sender.close()


def _show(frame: Frame, previews: list[Preview], senders: list[Sender]) -> None:
    for sender in senders:
        sender.show(frame)
    for preview in previews:
        preview.show(frame)


def alpha_view(result: Result) -> Frame:
    """The alpha of a result as a gray picture of its own layout."""
    source = result.source
    black, span, neutral, _ = source.levels
    peak = (1 << source.format.bits) - 1
    luma = black + result.alpha() * np.float32(span / peak)
    blue, red = (np.full(plane.shape, neutral, plane.dtype) for plane in source.planes[1:])
    return result.composite.with_planes((luma.astype(source.format.dtype), blue, red))
