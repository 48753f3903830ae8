"""The live job: a camera through a session to any number of outputs.

Outputs only get composites, the background alone or a still card: the camera's own picture never
reaches one, even after errors.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction

from fusematte.engine.errors import FuseMatteError
from fusematte.engine.frame import CLOCK, Frame
from fusematte.engine.live.cameras import Camera
from fusematte.engine.live.fail_closed import FailClosed
from fusematte.engine.live.meter import LiveStatistics
from fusematte.engine.live.outputs import Outlet, Sender
from fusematte.engine.live.preview import Click, Preview
from fusematte.engine.live.session import Result, Session
from fusematte.engine.live.sound import Offset, Sound
from fusematte.engine.live.views import view_of
from fusematte.engine.pipeline import Feed

log = logging.getLogger(__name__)

PATIENCE = 6.0
"""Seconds to wait at the end for a hanging camera."""

KEYS = {
    "b": "next background",
    "m": "mirror",
    "a": "alpha instead of the composite",
    "f": "freeze",
    "e": "everybody, where only some were chosen",
    "q": "quit",
}


@dataclass
class Controls:
    """The state that keys change."""

    backgrounds: itertools.cycle[str]
    shows_alpha: bool = False
    frozen: bool = False
    quits: bool = False

    def press(self, key: str, session: Session) -> None:
        """Executes a key's command; other keys are ignored."""
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
        elif key == "e":
            session.clear()
        elif key == "q":
            self.quits = True

    def click(self, click: Click, session: Session) -> None:
        """Keeps or drops who is there."""
        try:
            (session.keep if click.keeps else session.drop)(click.x, click.y)
        except FuseMatteError as error:
            log.error("%s", error)


@dataclass
class _Clock:
    """The time since its creation, in units of ``CLOCK``.

    It does not use the system's uptime, because FLV timestamps overflow after 25 days.
    """

    begun: float = field(default_factory=time.monotonic)

    def now(self, like: Frame) -> Frame:
        """A frame with the current time."""
        return replace(
            like, pts=round(Fraction(time.monotonic() - self.begun) / CLOCK), time_base=CLOCK
        )


@dataclass
class LiveRun:
    """Runs a camera through a session to outlets; closes camera and outlets at the end.

    report: called with statistics about once a second.
    keys: returns the last key pressed, "" for none.
    """

    camera: Camera
    session: Session
    outlets: Sequence[Outlet]
    backgrounds: Sequence[str]
    report: Callable[[LiveStatistics], None] | None = None
    keys: Callable[[], str] = str
    _clock: _Clock = field(default_factory=_Clock)
    _offset: Offset = field(default_factory=Offset)

    def run(self) -> LiveStatistics:
        """Runs until the camera ends, ``q`` is pressed or no output is left; the last statistics.

        Raises:
            OutputError: the last output failed.
            InputError: the camera failed permanently.
        """
        controls = Controls(itertools.cycle([*self.backgrounds[1:], self.backgrounds[0]]))
        previews = [outlet for outlet in self.outlets if isinstance(outlet, Preview)]
        senders = [Sender(outlet) for outlet in self.outlets if not isinstance(outlet, Preview)]
        feed = Feed("camera", self.camera.items(), lambda item: self._feed(item, senders))
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

    def _feed(self, item: Frame | Sound, senders: list[Sender]) -> None:
        if isinstance(item, Frame):
            frame = self._clock.now(item)
            self._offset.note(float(item.time), float(frame.time))
            self.session.push(frame)
        elif (sound := self._offset.moved(item)) is not None:
            for sender in list(senders):
                sender.hear(sound)

    def _loop(
        self, feed: Feed, controls: Controls, previews: list[Preview], senders: list[Sender]
    ) -> None:
        period = float(1 / self.camera.rate)
        watch = FailClosed(restarts=False)  # the timestamps are this run's own
        shown, told = self._closed(), time.monotonic()
        while not controls.quits:
            try:
                result = self.session.get(period)
                watch.note()
                fresh: Frame | None = self._view(result, controls)
            except TimeoutError:
                if feed.ended.is_set() and not self.session.busy:
                    return
                fresh = self._closed() if watch.is_due else None
            if fresh is not None:
                frozen = controls.frozen and watch.has_begun
                shown = replace(shown if frozen else fresh, pts=watch.shown_at(fresh.pts))
                _show(shown, previews, senders)
                self._drop_failed(senders, previews)
            for key in (self.keys(), *(preview.key for preview in previews)):
                controls.press(key, self.session)
            for preview in previews:
                for click in preview.take_clicks():
                    controls.click(click, self.session)
            if self.report is not None and time.monotonic() - told >= 1:
                told = time.monotonic()
                self.report(self.session.statistics)

    def _closed(self) -> Frame:
        return self.session.closed_frame(self._clock.now(self.camera.like))

    def _view(self, result: Result, controls: Controls) -> Frame:
        return view_of(result, "alpha" if controls.shows_alpha else "composite")

    def _drop_failed(self, senders: list[Sender], previews: list[Preview]) -> None:
        for sender in [sender for sender in senders if sender.error is not None]:
            assert sender.error is not None
            if len(senders) + len(previews) == 1:
                raise sender.error
            log.error("%s; the other outputs continue", sender.error)
            senders.remove(sender)
            sender.close()


def _show(frame: Frame, previews: list[Preview], senders: list[Sender]) -> None:
    for sender in senders:
        sender.show(frame)
    for preview in previews:
        preview.show(frame)
