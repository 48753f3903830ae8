"""From a frame to its matte: the network, and what it remembers of the frame before."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from os import PathLike
from typing import NamedTuple, Self

import numpy as np

from fusematte.cpp_ext import resize_to_tensor
from fusematte.engine.backends import Backend, Maps, Work
from fusematte.engine.backends.sharing import Lease
from fusematte.engine.errors import BackendError, UsageError
from fusematte.engine.frame import Frame, Map, Matte, Stream
from fusematte.engine.matting.continuity import Continuity
from fusematte.engine.models import DEFAULT_MODEL, Bundle, load_bundle
from fusematte.engine.pixels.color import enlarge, viewable


def network_size(
    height: int, width: int, *, area: int, multiple: int, aspect: float = 1.0
) -> tuple[int, int]:
    """The network's (height, width) for a frame: about ``area`` pixels, the frame's shape.

    aspect: width over height of one pixel of the frame.

    Of the four sizes around the ideal with sides in steps of ``multiple``, the one whose shape
    and area together are off by the smallest factor.
    """
    shape = width * aspect / height
    ideal = math.sqrt(area * shape) / multiple, math.sqrt(area / shape) / multiple
    columns, rows = ([max(1, math.floor(side) + step) for step in (0, 1)] for side in ideal)

    def misfit(size: tuple[int, int]) -> float:
        h, w = size[0] * multiple, size[1] * multiple
        return abs(math.log(w / h / shape)) + 0.5 * abs(math.log(w * h / area))

    best = min(((row, column) for row in rows for column in columns), key=misfit)
    return best[0] * multiple, best[1] * multiple


def size_for(frame: Frame, bundle: Bundle, scale: float = 1.0) -> tuple[int, int]:
    """The network's (height, width) for this frame, in its display orientation.

    scale: of the model's default area.
    """
    if bundle.only_size is not None:
        return bundle.only_size
    height, width, aspect = frame.height, frame.width, float(frame.aspect)
    if frame.rotation in (90, 270):
        height, width, aspect = width, height, 1 / aspect
    default_height, default_width = bundle.default_size
    return network_size(
        height,
        width,
        aspect=aspect,
        area=round(default_height * default_width * scale),
        multiple=bundle.multiple,
    )


def network_input(frame: Frame, height: int, width: int) -> tuple[Map, Map]:
    """A frame as the network sees it, and its colour for the refinement.

    Shape:
        output: image [1, 3, height, width], RGB, 0..1, upright, as the viewer will see it;
        Y'CbCr [3, h, w] in the frame's own orientation.
    """
    turns = frame.rotation // 90
    coded = (width, height) if turns % 2 else (height, width)
    small = resize_to_tensor(frame.planes, *coded, matrix=frame.matrix, levels=frame.levels)
    image = np.rot90(viewable(small.rgb, frame.color), -turns, (1, 2))
    return np.ascontiguousarray(image[None]), small.ycbcr


class Memory(NamedTuple):
    """What a Matter knows of the last frame: all that the next frame's matte depends on.

    alpha: the network's, [h, w], float32, 0..1, upright; luma: coarsely seen; time: in seconds.
    """

    alpha: Map
    luma: Map
    time: Fraction


class Matter:
    """Mattes the frames of one video, in their order.

    The only owner of temporal state: the alpha of the last frame, which is the network's fourth
    input.  It resets itself at a cut, after a long gap and where the frames' size changes;
    ``reset`` before any other frame that does not follow the last one.

    scale: the network's area as a part of the model's own, 1 at first; it may change between two
    frames, which then keep their continuity.
    follows: whether the frame matted last went on from the one before it.

    Args:
        model: a shipped model's name or a bundle folder.
        backend: ``auto``, or ``NAME[:DEVICE][:PRECISION]``, as in ``openvino:gpu`` or
            ``auto:f32``; what is left open is chosen by measurement.
        threads: CPU threads for the network; None takes what ``fusematte tune`` found best, until
            then half of the processors.
        work: what goes on beside the network: "file" or "live".

    Raises:
        ModelError, BackendError: the model or the backend cannot be used.
    """

    def __init__(
        self,
        model: str | PathLike[str] = DEFAULT_MODEL,
        *,
        backend: str = "auto",
        threads: int | None = None,
        work: Work = "file",
    ) -> None:
        if threads is not None and threads < 1:
            raise UsageError(f"threads must be 1 or more, not {threads}")
        self.bundle = load_bundle(model)
        self.scale = 1.0
        self._lease = Lease(backend, self.bundle, threads=threads, work=work)
        self._shape: tuple[object, ...] = ()
        self._previous: Map | None = None
        self.follows = False
        self._continuity = Continuity()
        self._stream = Stream()

    @property
    def backend(self) -> Backend:
        """What the network runs on."""
        return self._lease.backend

    @property
    def memory(self) -> Memory | None:
        """What it knows of the last frame; set it to go on where another Matter stopped."""
        if self._previous is None or self._continuity.before is None:
            return None
        return Memory(self._previous, *self._continuity.before)

    @memory.setter
    def memory(self, memory: Memory | None) -> None:
        self.reset()
        if memory is not None:
            self._previous = memory.alpha
            self._continuity.before = memory.luma, memory.time

    def keep(self, alpha: Map) -> None:
        """Takes note of the alpha of the last frame, which somebody else has matted."""
        self._previous = alpha

    def size_for(self, frame: Frame) -> tuple[int, int]:
        """The network's (height, width) for this frame, in its display orientation."""
        return size_for(frame, self.bundle, self.scale)

    def __call__(self, frame: Frame) -> Matte:
        """Mattes one frame.

        Raises:
            BackendError: the network's output is not finite; the frame before stays known.
        """
        turns = frame.rotation // 90
        image, color = network_input(frame, *self.size_for(frame))
        if self.starts_anew(frame, color[0]):
            self._previous = None
        self.follows = self._previous is not None
        maps = self._infer(image)
        self._previous = maps.alpha.copy()  # the matte is the caller's, to change as well
        alpha, foreground, background, beta = (
            np.ascontiguousarray(np.rot90(m, turns)) for m in maps
        )
        return Matte(
            alpha=alpha,
            foreground=foreground,
            background=background,
            beta=beta,
            color=color,
            pts=frame.pts,
            time_base=frame.time_base,
            stream=self._stream,
        )

    def starts_anew(self, frame: Frame, luma: Map) -> bool:
        """Takes note of a frame; whether it has nothing to do with the one before it.

        Shape:
            luma: [h, w], 0..1, of any size.
        """
        shape = frame.height, frame.width, frame.rotation, frame.aspect
        changed = self._shape not in ((), shape)
        if changed:
            self._continuity.reset()
        self._shape = shape
        return self._continuity.breaks(luma, frame.time) or changed

    def _infer(self, image: Map) -> Maps:
        """Runs the network on [1, 3, h, w] with the alpha of the frame before.

        A first frame has none: there a first matte, made without, stands in for it.  That takes the
        network's time twice, once, and saves what a video's second frame would show of a jump.
        """
        height, width = image.shape[2:]
        if self._previous is None:
            nothing = np.zeros((1, 1, height, width), np.float32)
            if not self.bundle.takes_previous:
                return self._run(image, nothing)
            self._previous = self._run(image, nothing).alpha
        elif self._previous.shape != (height, width):  # the scale has changed
            self._previous = enlarge(self._previous, height, width)
        return self._run(image, self._previous[None, None])

    def infer(self, image: Map, previous: Map) -> Maps:
        """Runs the network; see ``Backend.infer``."""
        return self._lease.infer(image, previous)

    def _run(self, image: Map, previous: Map) -> Maps:
        """What the network says, if that is numbers: others would spread from frame to frame."""
        maps = self.infer(image, previous)
        if not all(np.isfinite(plane).all() for plane in maps):
            raise BackendError(f"{self.backend.name}: the network's output has infinities or NaNs")
        return maps

    def prepare(self, frame: Frame, scales: Sequence[float]) -> None:
        """Makes the network ready for frames like this one at several scales.

        The first frame of a size otherwise waits for its compilation.
        """
        for scale in scales:
            with self.at_scale(scale):
                height, width = self.size_for(frame)
            nothing = np.zeros((1, 3, height, width), np.float32)
            self._lease.infer(nothing, nothing[:, :1])

    @contextmanager
    def at_scale(self, scale: float) -> Iterator[None]:
        """Another scale, for a while."""
        before, self.scale = self.scale, scale
        try:
            yield
        finally:
            self.scale = before

    def reset(self) -> None:
        """Forgets the last frame."""
        self._previous = None
        self._continuity.reset()

    def close(self) -> None:
        """Frees the network, unless others in the process use the same one."""
        self._lease.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
