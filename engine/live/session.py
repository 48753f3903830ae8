"""``Session``: live matting inside another program; push frames, pull composites."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
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
from fusematte.engine.frame import CLOCK, Frame, Matte, Plane, displayed_size
from fusematte.engine.live.governor import LEVELS, Governor, Level
from fusematte.engine.live.meter import LiveStatistics, Meter
from fusematte.engine.matting.mask import WHOLE, Mask, edited_alpha
from fusematte.engine.matting.matter import Matter
from fusematte.engine.matting.selection import Prompt
from fusematte.engine.media.av_frames import frame_of, frame_of_rgb, picture_of, rgb_of
from fusematte.engine.models import DEFAULT_MODEL
from fusematte.engine.pipeline import HANGS, BoundedQueue, Feed, Relay, Stage, Stopped, processors
from fusematte.engine.stages.chosen import open_stages
from fusematte.engine.stages.contract import Matted, StageOptions, Stages
from fusematte.engine.urgency import at_leisure

log = logging.getLogger(__name__)

Pushed: TypeAlias = "Frame | av.VideoFrame | NDArray[np.uint8] | Any"
"""What ``push`` accepts; the last is anything with ``__dlpack__``."""

SCALES = tuple(dict.fromkeys(level.scale for level in LEVELS))
"""The network's sizes, as factors on its area."""
KERNEL_THREADS = min(4, processors())
"""CPU threads of compositing: while one frame is composited, the network often waits."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """The result for one frame.

    composite: the person over the background, in the source's size and pixel format.
    matte: the network's output; None if processing failed.  Then ``composite`` is the background
    alone, or a still card, without any pixel of the camera.
    source: the frame that was matted (mirrored, if that is on).
    latency: seconds from ``push`` to the result.
    error: the error in one line, if processing failed.
    mask: the edits of the alpha.
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
        """The refined alpha at full resolution, computed on each call; zeros without a matte.

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
        """The composite as a libav picture with pts and colour tags; a copy."""
        return picture_of(self.composite)


@dataclass
class _Job:
    """A frame in flight.

    level: the governor's; None without governor, or if the frame waited for a compilation.
    """

    frame: Frame
    arrived: float
    matted: Matted | None = None
    level: Level | None = None
    error: str | None = None

    @property
    def seconds(self) -> dict[str, float]:
        """Busy time so far, by stage."""
        return {} if self.matted is None else self.matted.seconds


class Session:
    """Mattes live frames in its own threads; all methods are thread-safe.

    Pass frames to ``push``; get results by iteration, from ``get`` or through ``on_result``.  At
    most ``max_pending`` frames wait for the network, and as many results to be fetched; newer ones
    replace the oldest, so that results are never late.

    If processing of a frame fails for any reason, there is still a result: the background alone or
    a still card, never the camera's picture.  The next frame is processed normally.

    Cost and ownership.  A ``Frame`` or an ``av.VideoFrame`` in a planar YUV format is not copied:
    do not write to its buffers before its result is there.  NV12, packed YUV, RGB, arrays and
    DLPack are converted in ``push`` (one copy); their memory can be reused when it returns.
    Composites and mattes are new memory for each frame, owned by the caller.  Sessions with the
    same model, backend and threads share one compiled network and take turns; each session adds
    two threads and a few frames of memory.

    Args:
        background: ``green``, ``#rrggbb``, ``blur[:sigma]``, a picture or a video.
        model, backend: as for ``Matter``.
        threads: CPU threads for inference; None takes the number measured best, or half of the
            processors.
        budget_ms: latency budget from ``push`` to the result.  Where the network is too slow for
            it, frames carry its last matte along their motion (``engine.matting.carried``); where
            that is not enough, the network is smaller.  Frames' threads are urgent, where the
            process may have such (``engine.urgency``).  None: every frame waits for a network of
            the default size.
        mirror: mirror frames horizontally before anything else.
        max_pending: number of frames, 1 or more.
        lookahead: delays results by this number of frames, so that smoothing can use the following
            ones; at 0 it only uses earlier ones.
        light_wrap, despill, mask: see ``engine.compositing.look.Look``.
        on_result: called with each result, instead of ``get``, in the session's thread; the next
            result waits for its return.
        matter: used instead of one made from ``model``, ``backend`` and ``threads``; the caller
            closes it, after the session.

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
            raise UsageError(
                f"max_pending must be 1 or more, not {max_pending}", option="max_pending"
            )
        if budget_ms is not None and budget_ms <= 0:
            raise UsageError(f"budget_ms must be above 0, not {budget_ms}", option="budget_ms")
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
        self._governor = None if budget_ms is None else Governor(budget_ms, LEVELS[1])
        self._governs = False
        self._meter = Meter()
        self._scaler = VideoReformatter()
        self._push_lock, self._scene_lock, self._matter_lock = (threading.Lock() for _ in range(3))
        self._prepared_for: object = None
        self._other_sizes: Feed | None = None
        self._network_ms = 0.0
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
            urgent=budget_ms is not None,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def push(self, frame: Pushed, pts: int | None = None) -> None:
        """Queues a frame; returns at once.

        Args:
            frame: a ``Frame``, an ``av.VideoFrame``, or RGB of shape [H, W, 3], uint8, as a NumPy
                array or a DLPack tensor on the CPU.
            pts: presentation time instead of the frame's own; for arrays in units of 1/90000 s.
                Without either, the time of arrival.

        Raises:
            UsageError: the frame is of another type, or the session is closed.
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
        """Waits for the next result.

        Raises:
            TimeoutError: there was none within ``timeout`` seconds.
            UsageError: the session is closed, or has an ``on_result``.
        """
        if self._on_result is not None:
            raise UsageError("results are passed to on_result; get() cannot be used")
        try:
            return self._results.get(timeout)
        except Stopped:
            raise UsageError("the session is closed") from None

    def __iter__(self) -> Iterator[Result]:
        """Yields results until the session is closed."""
        with contextlib.suppress(Stopped):
            while True:
                yield self._results.get()

    @property
    def busy(self) -> bool:
        """Whether frames are in flight, not counting those held back by ``lookahead``."""
        return self._finished + len(self._under_way) < self._pushed

    @property
    def latest(self) -> Frame | None:
        """The last frame pushed."""
        return self._latest

    @property
    def background(self) -> str | PathLike[str]:
        """The new background; assign another one to change it from the next frame on.

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
        scene.close()  # the old one, or the new one if the session is closed
        self._refuse_if_closed()

    @property
    def model(self) -> str | PathLike[str]:
        """The model; assign another one to change it.  The assignment loads and compiles it while
        frames are still processed with the old one.

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
                for scale in SCALES[:1] if self._governor is None else SCALES:
                    matter.prepare(self._latest, scale)
        except BaseException:
            matter.close()
            raise
        with self._matter_lock:
            if not self._closed:
                self._stop_preparing()
                self._stages.rest()
                matter.take_choice(self._stages.matter)
                matter, self._stages.matter = self._stages.matter, matter
                self._model = model
        if matter is self._lent:
            self._lent = None  # returned to the caller
        else:
            matter.close()  # the old one, or the new one if the session is closed
        self._refuse_if_closed()

    def keep(self, x: float, y: float) -> None:
        """Keeps the person or thing there, from the next frame on, and follows it; a further one
        is kept as well.

        Args:
            x, y: from the upper left corner of the picture as results show it: shares of its width
                and height where neither is above 1, else pixels.

        Raises:
            UsageError: it lies outside the picture, or the session is closed.
        """
        self._prompt(Prompt(kind="keep", place=(x, y)))

    def drop(self, x: float, y: float) -> None:
        """Does not keep the person there any more; see ``keep``."""
        self._prompt(Prompt(kind="drop", place=(x, y)))

    def clear(self) -> None:
        """Keeps everybody again."""
        if self._stages.matter.chooses:
            self._prompt(Prompt(kind="everybody"))

    @property
    def chooses(self) -> bool:
        """Whether only some are kept, or will be with the next frame."""
        return self._stages.matter.chooses

    def _prompt(self, prompt: Prompt) -> None:
        self._refuse_if_closed()
        latest = self._latest
        if latest is None and max(prompt.place, default=0.0) > 1:
            raise UsageError(
                f"{prompt}: is in pixels, but no frame was pushed yet",
                remedy="give shares of the picture",
            )
        size = (1, 1) if latest is None else displayed_size(latest)
        self._stages.matter.prompt(prompt.within(*size))

    @property
    def statistics(self) -> LiveStatistics:
        """A snapshot of the statistics."""
        figures, governor = self._meter.snapshot(), self._governor
        if governor is None:
            return figures
        return replace(
            figures,
            budget_ms=governor.budget_ms,
            level=governor.level.scale,
            carried=governor.level.carried,
            level_changes=governor.changes,
            last_change=governor.decisions[-1].why if governor.decisions else "",
            holds=governor.holds,
        )

    def closed_frame(self, like: Frame) -> Frame:
        """The frame to show when there is no result: the background alone, or a still card, with
        the size and time of ``like`` and none of its pixels."""
        if not self._scene_lock.acquire(timeout=0.05):  # the background hangs
            return card(like)
        try:
            # A background video stands still meanwhile: the next composite has an earlier time.
            then = self._blended or like
            still = replace(like, pts=then.pts, time_base=then.time_base)
            closed = closed_frame(still, self._stages.background)
            return replace(like, planes=closed.planes, alpha=closed.alpha)
        finally:
            self._scene_lock.release()

    def close(self) -> None:
        """Stops the threads and drops frames in flight; may be called twice."""
        self._results.close()
        ended = self._relay.close()
        if not ended:
            log.warning("the network hangs and is abandoned")
        elif not self._closed:
            self._stop_preparing()
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

    def _open_stages(self, options: StageOptions) -> Stages:
        """Opens background, matter and stages."""
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
        """Mattes a frame; the jobs ready to be composited: this one, an older one, or none."""
        with self._matter_lock:
            try:
                if self.mirror:
                    job.frame = mirrored(job.frame)
                matter = self._stages.matter
                self._set_level(job)
                ready = list(self._stages.begin(job.frame))
                self._meter.network_size = matter.size_for(job.frame)
            except Exception as error:
                return self._give_up(job, error)
        self._under_way.append(job)
        return self._jobs_of(ready)

    def _jobs_of(self, ready: list[Matted]) -> list[_Job]:
        """The jobs of these frames: the oldest ones in flight."""
        jobs = []
        for matted in ready:
            job = self._under_way.popleft()
            job.matted = matted
            jobs.append(job)
        return jobs

    def _give_up(self, job: _Job, error: Exception) -> list[_Job]:
        """Releases frames held back, then the failed job; the temporal state is reset."""
        job.error = self._explain("no matte", error)
        return [*self._jobs_of(self._stages.reset()), job]

    def _set_level(self, job: _Job) -> None:
        """Sets how the network runs for a frame: as the governor says once all sizes are compiled.

        The first frame of a size waits until the network is compiled for it; those after it carry
        mattes while the other scales are compiled.
        """
        if self._governor is None:
            return
        frame, matter = job.frame, self._stages.matter
        shape = frame.height, frame.width, frame.rotation, frame.aspect, matter
        if shape != self._prepared_for:
            self._stop_preparing()
            with at_leisure():  # the network's own threads start here
                matter.prepare(frame, SCALES[0])
            self._prepared_for, self._other_sizes = shape, None
        elif self._other_sizes is None:
            self._other_sizes = Feed("sizes", SCALES[1:], partial(matter.prepare, frame))
        level = LEVELS[1]
        if self._other_sizes is not None and self._other_sizes.ended.is_set():
            if not self._governs:
                self._governor.begin(self._network_ms)
                self._governs = True
            level = job.level = self._governor.level
        matter.scale, self._stages.carries = level

    def _stop_preparing(self) -> None:
        """Waits for the size that is being compiled, and leaves out those after it."""
        if self._other_sizes is not None:
            self._other_sizes.close(HANGS)

    def _finish(self, job: _Job) -> None:
        begun = time.perf_counter()
        composite = self._blend(job)
        now = time.perf_counter()
        seconds = {**job.seconds, "composite": now - begun}
        latency = now - job.arrived
        self._meter.add(latency, seconds, job.error)
        if self._governor is not None and job.error is None:
            self._network_ms = 1e3 * seconds["network"]
            if job.level is not None:
                self._governor.observe(now, 1e3 * latency, self._network_ms, job.level)
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
        """The error in one line; logs it unless it equals the last one."""
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
    """The frame mirrored horizontally, as displayed; new planes."""
    axis = 0 if frame.rotation in (90, 270) else 1
    y, u, v = (np.ascontiguousarray(np.flip(plane, axis)) for plane in frame.planes)
    return frame.with_planes((y, u, v))


def _as_rgb(pushed: Any) -> NDArray[np.uint8]:  # noqa: ANN401
    """A pushed array or tensor as a NumPy array.

    Raises:
        UsageError: it is neither, or not an RGB picture.
    """
    if not isinstance(pushed, np.ndarray):
        if not hasattr(pushed, "__dlpack__"):
            raise UsageError(
                f"a frame must be a Frame, an av.VideoFrame, a NumPy array or a DLPack tensor, "
                f"not {type(pushed).__name__}"
            )
        try:
            pushed = np.from_dlpack(pushed)
        except (BufferError, RuntimeError, TypeError) as error:
            raise UsageError(
                f"the tensor cannot be read: {error}", remedy="copy it to the CPU first"
            ) from error
    if pushed.dtype != np.uint8 or pushed.ndim != 3 or pushed.shape[2] != 3 or not pushed.size:
        raise UsageError(
            f"an array must be RGB of shape [H, W, 3], uint8, not {pushed.dtype} {pushed.shape}"
        )
    return np.asarray(pushed, np.uint8)
