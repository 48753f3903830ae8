"""A matting track for aiortc, between the two ends of a WebRTC connection."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from typing import Any

import av
from aiortc.mediastreams import MediaStreamError, MediaStreamTrack

from fusematte.engine.errors import FuseMatteError
from fusematte.engine.frame import CLOCK, Frame
from fusematte.engine.live.fail_closed import STALL, FailClosed
from fusematte.engine.live.session import Result, Session
from fusematte.engine.live.views import view_of
from fusematte.engine.media.av_frames import picture_of

log = logging.getLogger(__name__)


class MattingTrack(MediaStreamTrack):
    """A video track that replaces the background of another one, live.

    Frames of ``source`` go through a ``Session``; while one is processed, newer ones replace each
    other, so that the delay does not grow.  When there are no results, also before the first one,
    the background alone or a still card is sent, never a frame of the source.  The track ends with
    its source.

    The constructor loads the model, which takes a second or two; ``asyncio.to_thread(MattingTrack,
    ...)`` keeps the event loop responsive.

    session: the session, for ``session.background = ...``, ``session.statistics`` and the like.
    view: what is sent, one of ``fusematte.engine.live.views.VIEWS``; it may be changed any time.

    Args:
        source: a video track, usually a remote peer's.
        on_result: called with each result, in the session's thread.
        options: options of the ``Session``: background, model, backend, threads, budget_ms, ...

    Raises:
        FuseMatteError: the model, the backend or the background cannot be used.
    """

    kind = "video"

    def __init__(
        self,
        source: MediaStreamTrack,
        *,
        view: str = "composite",
        on_result: Callable[[Result], None] | None = None,
        **options: Any,  # noqa: ANN401
    ) -> None:
        super().__init__()
        self.view = view
        self.session = Session(on_result=self._take, **options)
        self._source, self._on_result = source, on_result
        self._pictures: asyncio.Queue[av.VideoFrame | None] = asyncio.Queue(1)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._feeder: asyncio.Task[None] | None = None
        self._closing: asyncio.Future[None] | None = None
        self._pushed_at = 0.0
        self._watch = FailClosed()

    async def recv(self) -> av.VideoFrame:
        """Waits for the newest picture that was not returned before.

        Raises:
            aiortc.mediastreams.MediaStreamError: the track has ended.
        """
        if self.readyState == "live" and self._feeder is None:
            self._loop = asyncio.get_running_loop()
            self._feeder = asyncio.create_task(self._feed())
        picture = await self._next() if self.readyState == "live" else None
        if picture is None:
            self.stop()
            raise MediaStreamError
        return picture

    async def _next(self) -> av.VideoFrame | None:
        """The next picture to send; None at the end."""
        while True:
            try:
                picture = await asyncio.wait_for(self._pictures.get(), STALL)
            except TimeoutError:
                latest = self.session.latest
                if latest is None:
                    continue
                picture = await asyncio.to_thread(self._closed, latest)
            if picture is not None:
                self._stamp(picture)
            return picture

    def _stamp(self, picture: av.VideoFrame) -> None:
        """Keeps a picture's time unless a later picture was already sent."""
        own = round((picture.pts or 0) * (picture.time_base or CLOCK) / CLOCK)
        pts = self._watch.shown_at(own)
        if pts != own:
            picture.pts, picture.time_base = pts, CLOCK

    def _closed(self, latest: Frame) -> av.VideoFrame:
        """The closed frame, at the source's current time."""
        since = Fraction(time.monotonic() - self._pushed_at)
        frame = replace(latest, pts=latest.pts + round(since / latest.time_base))
        return picture_of(self.session.closed_frame(frame))

    def stop(self) -> None:
        """Ends the track and, in the background, its session."""
        if self.readyState == "ended":
            return
        super().stop()
        if self._feeder is not None:
            self._feeder.cancel()
        self._show(None)  # wakes a waiting recv()
        self._closing = asyncio.get_running_loop().run_in_executor(None, self.session.close)

    async def close(self) -> None:
        """Ends the track and waits until threads and memory are freed."""
        self.stop()
        if self._closing is not None:
            await self._closing

    async def _feed(self) -> None:
        try:
            while True:
                frame = await self._source.recv()
                assert isinstance(frame, av.VideoFrame), "the source is no video track"
                self._pushed_at = time.monotonic()
                self.session.push(frame)
        except MediaStreamError:
            log.debug("the source of the track has ended")
        except FuseMatteError as error:
            log.error("the track ends: %s", error)
        finally:
            self._show(None)

    def _take(self, result: Result) -> None:
        """Takes a result, in the session's thread."""
        if self._on_result is not None:
            self._on_result(result)
        picture = picture_of(view_of(result, self.view))
        with contextlib.suppress(RuntimeError):  # the loop is closed
            assert self._loop is not None
            self._loop.call_soon_threadsafe(self._show, picture)

    def _show(self, picture: av.VideoFrame | None) -> None:
        """Offers a picture to ``recv``, instead of an older one not yet taken."""
        if self._pictures.full():
            self._pictures.get_nowait()
        self._pictures.put_nowait(picture)
