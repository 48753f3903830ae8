"""Matting between two ends of a WebRTC connection, for aiortc."""

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
    """A video track whose person comes over another background, live.

    Frames of ``source`` go through a ``Session`` of the track's own; while one is worked on, newer
    ones replace each other, so that the delay does not grow.  While results fail to come, before
    the first one too, the background alone or a still card is sent, and never a frame of the source
    as it came.  The track ends when its source does.

    Loading the model takes a second or two, in the constructor; ``asyncio.to_thread(MattingTrack,
    ...)`` keeps the event loop going.

    session: for ``session.background = ...``, ``session.statistics`` and the like.
    view: what is sent, one of ``fusematte.engine.live.views.VIEWS``; may be changed at any time.

    Args:
        source: a video track, usually that of a remote peer.
        on_result: called with each result, from the session's thread.
        options: of the ``Session`` (background, model, backend, threads, budget_ms, mirror).

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
        self._watch = FailClosed(self.session)

    async def recv(self) -> av.VideoFrame:
        """The newest picture, once there is one that was not given yet.

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
        """Leaves a picture its time, unless a later one was sent already."""
        own = round((picture.pts or 0) * (picture.time_base or CLOCK) / CLOCK)
        pts = self._watch.shown_at(own)
        if pts != own:
            picture.pts, picture.time_base = pts, CLOCK

    def _closed(self, latest: Frame) -> av.VideoFrame:
        """What is shown while results fail to come, at the time that the source has by now."""
        since = Fraction(time.monotonic() - self._pushed_at)
        frame = replace(latest, pts=latest.pts + round(since / latest.time_base))
        return picture_of(self._watch.closed_frame(frame))

    def stop(self) -> None:
        """Ends the track and its session; threads that are still at work follow soon."""
        if self.readyState == "ended":
            return
        super().stop()
        if self._feeder is not None:
            self._feeder.cancel()
        self._show(None)  # lets go whoever waits
        self._closing = asyncio.get_running_loop().run_in_executor(None, self.session.close)

    async def close(self) -> None:
        """Ends the track; when it returns, threads and memory are free."""
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
        """Gets a result; in the session's thread."""
        if self._on_result is not None:
            self._on_result(result)
        picture = picture_of(view_of(result, self.view))
        with contextlib.suppress(RuntimeError):  # the loop is closed
            assert self._loop is not None
            self._loop.call_soon_threadsafe(self._show, picture)

    def _show(self, picture: av.VideoFrame | None) -> None:
        """Puts a picture in the place of the one that nobody took."""
        if self._pictures.full():
            self._pictures.get_nowait()
        self._pictures.put_nowait(picture)
