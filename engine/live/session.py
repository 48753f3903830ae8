"""Matting inside another program: frames are pushed in, composites come out."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from os import PathLike
from typing import Any, Self, TypeAlias

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from fusematte.engine.compositing.backgrounds import open_background
from fusematte.engine.compositing.fallback import card, closed_frame
from fusematte.engine.compositing.look import Look
from fusematte.engine.errors import UsageError
from fusematte.engine.frame import CLOCK, Frame, Matte, Plane
from fusematte.engine.live.governor import Governor
from fusematte.engine.live.meter import LiveStatistics, Meter
from fusematte.engine.matting.mask import WHOLE, Mask, edited_alpha
from fusematte.engine.matting.matter import Matter
from fusematte.engine.media.av_frames import frame_of, frame_of_rgb, picture_of, rgb_of
from fusematte.engine.models import DEFAULT_MODEL
from fusematte.engine.pipeline import BoundedQueue, Relay, Stage, Stopped
from fusematte.engine.stages.chosen import open_stages
from fusematte.engine.stages.contract import Matted, StageOptions, Stages

log = logging.getLogger(__name__)

Pushed: TypeAlias = "Frame | av.VideoFrame | NDArray[np.uint8] | Any"
"""What ``push`` takes; the last is anything with ``__dlpack__``."""

KERNEL_THREADS = min(4, os.cpu_count() or 1)
"""Of the composite: while one frame is blended, the network waits for the next one."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """One frame, done.

    composite: the person over the background, in the source's size and layout.
    matte: what the network found; None if something failed, and ``error`` says what.  Then the
    composite is the background alone, or a still card, and has no pixel of the camera.
    source: the frame as it was matted (mirrored, if that was asked for).
    latency: seconds from ``push`` to here.
    """

    composite: Frame
    matte: Matte | None
    source: Frame
    latency: float
    error: str | None = None
    mask: Mask = WHOLE

    @property
    def pts(self) -> int:
        """Presentation time, in units of ``time_base``."""
        return self.composite.pts

    @property
    def time_base(self) -> Fraction:
        """Seconds."""
        return self.composite.time_base

    def alpha(self) -> Plane:
        """The refined alpha at the frame's size, made when asked for; nothing without a matte.

        Shape:
            output: [H, W], 0 to 255, uint8; to 1023, uint16, for 10-bit frames.
        """
        if self.matte is None:
            return np.zeros_like(self.source.planes[0])
        return edited_alpha(self.source, self.matte, self.mask)

    def to_ndarray(self) -> NDArray[np.uint8]:
        """The composite as RGB, [H, W, 3], uint8; a new array."""
        return rgb_of(self.composite)

    def to_video_frame(self) -> av.VideoFrame:
        """The composite as a picture of libav with its time and colour tags; a copy."""
        return picture_of(self.composite)


@dataclass
class _Job:
    """A frame on its way.

    level: the governor's; 0 where none chose it, or where the frame had to wait for a compilation.
    """

    frame: Frame
    arrived: float
    matted: Matted | None = None
    level: float = 0.0
    error: str | None = None

    @property
    def seconds(self) -> dict[str, float]:
        """Of work so far, by stage."""
        return {} if self.matted is None else self.matted.seconds


class Session:
    """Mattes live frames in threads of its own; any thread may use any of its methods.

    Frames go in by ``push``; results come out by iteration, by ``get`` or through ``on_result``.
    At most ``max_pending`` frames wait for the network, and as many results to be fetched; a newer
    one pushes out the oldest, so that what comes out is never late.

    A frame that fails (the network, the background, anything) gives a result all the same: the
    background alone or a still card, and never the camera's picture.  The next frame tries again.

    Cost and ownership.  A ``Frame`` or an ``av.VideoFrame`` in a planar YUV layout is not copied:
    do not write to its buffers before its result is there.  NV12, packed YUV and RGB, arrays and
    DLPack are converted, one copy, inside ``push``; their memory is the caller's again when it
    returns.  Composites and mattes are new memory for each frame and the caller's to keep.
    Sessions with the same model, backend and threads share one compiled network and take turns on
    it; what each has of its own is two threads and a few frames.

    Args:
        background: ``green``, ``#rrggbb``, ``blur[:sigma]``, a picture or a video.
        model, backend: as for ``Matter``.
        threads: CPU threads for the network; None takes what was found best, at
            first half of the processors.
        budget_ms: the latency from ``push`` to the result that is to be held, by moving to a
            smaller network while the machine is busy; None leaves the network as it is.
        mirror: turn the picture's left to its right before anything else.
        max_pending: frames, 1 or more.
        lookahead: frames by which results are held back, so that flicker can be told from movement
            by what comes after; without, by what came before alone.
        light_wrap, despill, mask: see ``engine.compositing.look.Look``.
        on_result: called with each result from the session's thread, instead of ``get``.  It holds
            up the next frame while it runs.
        matter: mattes the frames in the place of one made from ``model``, ``backend`` and
            ``threads``; the caller closes it, after the session.

    Raises:
        FuseMatteError: the model, the backend or the background cannot be used.
    """

    def __init__(
        self,
        background: str | PathLike[str] = "blur",
        *,
        model: str | PathLike[str] = DEFAULT_MODEL,
        backend: str = "auto",
        threads: int | None = None,
        budget_ms: float | None = None,
        mirror: bool = False,
        max_pending: int = 1,
        lookahead: int = 0,
        light_wrap: float = 0.0,
        despill: float = 0.0,
        mask: Mask = WHOLE,
        on_result: Callable[[Result], None] | None = None,
        matter: Matter | None = None,
    ) -> None:
        if max_pending < 1:
            raise UsageError(f"max_pending must be 1 or more, not {max_pending}")
        if budget_ms is not None and budget_ms <= 0:
            raise UsageError(f"budget_ms must be above 0, not {budget_ms}")
        self.mirror = mirror
        options = StageOptions(
            look=Look(light_wrap=light_wrap, despill=despill, mask=mask),
            smoothing=True,
            lookahead=lookahead,
            threads=KERNEL_THREADS,
        )
        self._spec, self._model, self._backend, self._threads = background, model, backend, threads
        self._on_result = on_result
        self._lent = matter
        self._stages = self._open_stages(options)
        self._governor = None if budget_ms is None else Governor(budget_ms)
        self._meter = Meter()
        self._scaler = VideoReformatter()
        self._push_lock, self._scene_lock, self._matter_lock = (threading.Lock() for _ in range(3))
        self._prepared_for: object = None
        self._unprepared: list[float] = []
        self._latest: Frame | None = None
        self._under_way: deque[_Job] = deque()
        self._blended: Frame | None = None
        self._pushed = self._finished = 0
        self._closed = False
        self._results: BoundedQueue[Result] = BoundedQueue(max_pending)
        self._relay = Relay(
            Stage("network", self._find_matte, at_end=list),
            Stage("composite", self._finish),
            waiting=max_pending,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def push(self, frame: Pushed, pts: int | None = None) -> None:
        """Hands a frame in; returns at once.

        Args:
            frame: a ``Frame``, an ``av.VideoFrame``, or RGB of shape [H, W, 3], uint8, as a NumPy
                array or as anything on the CPU that exports DLPack.
            pts: its presentation time, instead of its own; of arrays in units of 1/90000 s.  What
                has none gets the time of its arrival.

        Raises:
            UsageError: it is none of these, or the session is closed.
        """
        arrived = time.perf_counter()
        with self._push_lock:
            ready = self._as_frame(frame, pts, arrived)
            try:
                dropped = self._relay.push(_Job(ready, arrived))
            except Stopped:
                raise UsageError("the session is closed") from None
            self._meter.drop(dropped)
            self._pushed += 1 - dropped
            self._latest = ready

    def get(self, timeout: float | None = None) -> Result:
        """The next result; waits for it.

        Raises:
            TimeoutError: none came in ``timeout`` seconds.
            UsageError: the session is closed, or hands its results to ``on_result``.
        """
        if self._on_result is not None:
            raise UsageError("results go to on_result: none can be fetched")
        try:
            return self._results.get(timeout)
        except Stopped:
            raise UsageError("the session is closed") from None

    def __iter__(self) -> Iterator[Result]:
        """Results as they come, until the session is closed."""
        with contextlib.suppress(Stopped):
            while True:
                yield self._results.get()

    @property
    def busy(self) -> bool:
        """Whether frames are under way, those apart that are held back to look ahead."""
        return self._finished + len(self._under_way) < self._pushed

    @property
    def latest(self) -> Frame | None:
        """The frame pushed last."""
        return self._latest

    @property
    def background(self) -> str | PathLike[str]:
        """What the person is over; assign another to change it from the next frame on.

        Raises:
            BackgroundError: it is unknown or cannot be read; the old one stays.
            UsageError: the session is closed.
        """
        return self._spec

    @background.setter
    def background(self, spec: str | PathLike[str]) -> None:
        scene = open_background(spec)
        with self._scene_lock:
            if not self._closed:
                scene, self._stages.background = self._stages.background, scene
                self._spec = spec
        scene.close()  # the old one, or what comes too late
        self._refuse_if_closed()

    @property
    def model(self) -> str | PathLike[str]:
        """The model; assign another to change it.  The assignment loads and compiles it, while
        frames go on through the old one.

        Raises:
            ModelError, BackendError: it cannot be used; the old one stays.
            UsageError: the session is closed.
        """
        return self._model

    @model.setter
    def model(self, model: str | PathLike[str]) -> None:
        matter = Matter(model, backend=self._backend, threads=self._threads, work="live")
        try:
            if self._latest is not None:
                matter.prepare(self._latest, self._scales())
        except BaseException:
            matter.close()
            raise
        with self._matter_lock:
            if not self._closed:
                matter, self._stages.matter = self._stages.matter, matter
                self._model = model
        if matter is self._lent:
            self._lent = None  # the caller's again
        else:
            matter.close()  # the old one, or what comes too late
        self._refuse_if_closed()

    @property
    def statistics(self) -> LiveStatistics:
        """The figures now: a snapshot."""
        figures, governor = self._meter.snapshot(), self._governor
        if governor is None:
            return figures
        return replace(
            figures,
            budget_ms=governor.budget_ms,
            level=governor.level,
            level_changes=governor.changes,
            last_change=governor.decisions[-1].why if governor.decisions else "",
            holds=governor.holds,
        )

    def closed_frame(self, like: Frame) -> Frame:
        """What to show at the time of ``like`` when there is no result: its size, none of its
        pixels; the background alone, or a still card."""
        if not self._scene_lock.acquire(timeout=0.05):  # a background that hangs
            return card(like)
        try:
            # A video behind stands still meanwhile: the next composite is of an earlier moment.
            then = self._blended or like
            still = replace(like, pts=then.pts, time_base=then.time_base)
            return like.with_planes(closed_frame(still, self._stages.background).planes)
        finally:
            self._scene_lock.release()

    def close(self) -> None:
        """Stops the threads; frames under way are dropped.  May be called twice."""
        self._results.close()
        ended = self._relay.close()
        if not ended:
            log.warning("the network does not come back: it is left behind")
        elif not self._closed:
            with self._matter_lock, self._scene_lock:
                self._closed = True
            self._stages.close()
            self._stages.background.close()
            if self._lent is None:
                self._stages.matter.close()

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise UsageError("the session is closed")

    def _as_frame(self, pushed: Pushed, pts: int | None, arrived: float) -> Frame:
        if isinstance(pushed, Frame):
            return pushed if pts is None else replace(pushed, pts=pts)
        if isinstance(pushed, av.VideoFrame):
            frame, known = frame_of(pushed, self._scaler), pushed.pts is not None
        else:
            frame, known = frame_of_rgb(_as_rgb(pushed), self._scaler), False
            frame = replace(frame, time_base=CLOCK)
        if pts is None:
            pts = frame.pts if known else round(Fraction(arrived) / frame.time_base)
        return replace(frame, pts=pts)

    def _scales(self) -> tuple[float, ...]:
        return (1.0,) if self._governor is None else self._governor.levels

    def _open_stages(self, options: StageOptions) -> Stages:
        """The stages that all frames go through."""
        background = open_background(self._spec)
        try:
            used = self._lent or Matter(
                self._model, backend=self._backend, threads=self._threads, work="live"
            )
        except BaseException:
            background.close()
            raise
        return open_stages(used, background, options)

    def _find_matte(self, job: _Job) -> list[_Job]:
        """The jobs that are ready to be blended: this one, or by then an older one, or none."""
        with self._matter_lock:
            try:
                if self.mirror:
                    job.frame = mirrored(job.frame)
                matter = self._stages.matter
                matter.scale = self._scale(job)
                ready = self._stages.begin(job.frame)
                self._meter.network_size = matter.size_for(job.frame)
            except Exception as error:
                return self._give_up(job, error)
        self._under_way.append(job)
        return self._jobs_of(ready)

    def _jobs_of(self, ready: list[Matted]) -> list[_Job]:
        """The jobs that these frames belong to: the oldest ones under way."""
        jobs = []
        for matted in ready:
            job = self._under_way.popleft()
            job.matted = matted
            jobs.append(job)
        return jobs

    def _give_up(self, job: _Job, error: Exception) -> list[_Job]:
        """What was held back comes first, as it is; the next frame starts anew."""
        job.error = self._explain("no matte", error)
        return [*self._jobs_of(self._stages.reset()), job]

    def _scale(self, job: _Job) -> float:
        """The network's scale for a frame: the governor's choice, once all sizes are prepared.

        The first frame of a size waits for one compilation alone, so that its matte comes soon;
        each of the next ones for one more.
        """
        if self._governor is None:
            return 1.0
        frame, matter = job.frame, self._stages.matter
        shape = frame.height, frame.width, frame.rotation, frame.aspect, matter
        if shape != self._prepared_for:
            self._prepared_for, self._unprepared = shape, list(self._governor.levels)
        if self._unprepared:
            matter.prepare(frame, [self._unprepared.pop(0)])
            return self._governor.levels[0]
        job.level = self._governor.level
        return job.level

    def _finish(self, job: _Job) -> None:
        begun = time.perf_counter()
        composite = self._blend(job)
        now = time.perf_counter()
        seconds = {**job.seconds, "composite": now - begun}
        latency = now - job.arrived
        self._meter.add(latency, seconds, job.error)
        if self._governor is not None and job.error is None:
            self._governor.observe(now, 1e3 * latency, 1e3 * seconds["network"], job.level)
        result = Result(
            mask=self._stages.options.look.mask,
            composite=composite,
            matte=job.matted.matte if job.matted is not None and job.error is None else None,
            source=job.frame,
            latency=latency,
            error=job.error,
        )
        self._deliver(result)
        self._finished += 1

    def _blend(self, job: _Job) -> Frame:
        with self._scene_lock:
            self._blended = job.frame
            if job.matted is not None:
                try:
                    return self._stages.finish(job.matted).frame
                except Exception as error:
                    job.error = self._explain("no composite", error)
            return closed_frame(job.frame, self._stages.background)

    def _explain(self, what: str, error: Exception) -> str:
        """The error in a line; it is logged if it is another than the last one."""
        text = f"{type(error).__name__}: {error}"
        if text != self._meter.error:
            log.error("%s: %s", what, text, exc_info=log.isEnabledFor(logging.DEBUG))
        return text

    def _deliver(self, result: Result) -> None:
        if self._on_result is None:
            self._meter.drop(self._results.put(result))
            return
        try:
            self._on_result(result)
        except Exception:
            log.exception("on_result failed")


def mirrored(frame: Frame) -> Frame:
    """The frame with left and right changed, as displayed; new planes."""
    axis = 0 if frame.rotation in (90, 270) else 1
    y, u, v = (np.ascontiguousarray(np.flip(plane, axis)) for plane in frame.planes)
    return frame.with_planes((y, u, v))


def _as_rgb(pushed: Any) -> NDArray[np.uint8]:  # noqa: ANN401
    """The array behind what was pushed.

    Raises:
        UsageError: there is none, or it is no RGB picture.
    """
    if not isinstance(pushed, np.ndarray):
        if not hasattr(pushed, "__dlpack__"):
            raise UsageError(
                f"a frame is a Frame, an av.VideoFrame, a NumPy array or a DLPack tensor, "
                f"not {type(pushed).__name__}"
            )
        try:
            pushed = np.from_dlpack(pushed)
        except (BufferError, RuntimeError, TypeError) as error:
            raise UsageError(
                f"the tensor cannot be read here: {error}; bring it to the CPU"
            ) from error
    if pushed.dtype != np.uint8 or pushed.ndim != 3 or pushed.shape[2] != 3 or not pushed.size:
        raise UsageError(
            f"an array must be RGB of shape [H, W, 3], uint8, not {pushed.dtype} {pushed.shape}"
        )
    return np.asarray(pushed, np.uint8)
