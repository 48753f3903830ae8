"""``Matter``: runs the network on the frames of a video and keeps its temporal state."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from os import PathLike
from typing import Literal, NamedTuple, Self

import numpy as np

from fusematte.cpp_ext import resize_to_ycbcr
from fusematte.engine.backends import Backend, Maps, Work
from fusematte.engine.backends.sharing import Lease
from fusematte.engine.errors import BackendError, UsageError
from fusematte.engine.frame import Frame, Map, Matte, StreamKey
from fusematte.engine.matting.choice import Choice
from fusematte.engine.matting.continuity import Continuity
from fusematte.engine.matting.following import UNKNOWN, Followed
from fusematte.engine.matting.from_afar import confirmed
from fusematte.engine.matting.selection import Prompt
from fusematte.engine.models import DEFAULT_MODEL, Bundle, load_bundle
from fusematte.engine.pixels.color import enlarge, to_rgb, viewable

Quality = Literal["normal", "high"]
AREAS: dict[Quality, float] = {"normal": 1.0, "high": 2.0}
"""Factors on the model's default network area."""


def network_size(
    height: int, width: int, *, area: int, multiple: int, aspect: float = 1.0
) -> tuple[int, int]:
    """The network's (height, width) for a frame: about ``area`` pixels at the frame's aspect ratio.

    aspect: the frame's pixel aspect ratio, width over height.

    The ideal size is rounded to multiples of ``multiple``: of the four sizes around it, the one
    that deviates least in aspect ratio and area.
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
    """The network's (height, width) for this frame, in display orientation.

    scale: factor on the model's default area.
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


def small_color(frame: Frame, height: int, width: int) -> Map:
    """A frame's Y'CbCr at the network's resolution, in the frame's own orientation: [3, h, w].

    height, width: in display orientation.
    """
    coded = (width, height) if frame.rotation in (90, 270) else (height, width)
    return resize_to_ycbcr(frame.planes, *coded, levels=frame.levels)


def network_input(frame: Frame, color: Map) -> Map:
    """The network's input, from ``small_color``: [1, 3, h, w], RGB, 0..1, as displayed."""
    rgb = viewable(to_rgb(color, frame.matrix), frame.color)
    return np.ascontiguousarray(np.rot90(rgb, -(frame.rotation // 90), (1, 2))[None])


def _nothing(image: Map) -> Map:
    """An alpha without anybody, [1, 1, h, w], for an image [1, 3, h, w]."""
    return np.zeros_like(image[:, :1])


class Memory(NamedTuple):
    """A Matter's complete temporal state after a frame.

    alpha: the network's, [h, w], float32, 0..1, in display orientation; luma: the frame's coarse
    luma; time: in seconds.
    choice: what is known of the selection.
    """

    alpha: Map
    luma: Map
    time: Fraction
    choice: Followed = UNKNOWN


class Seen(NamedTuple):
    """A frame as the network sees it.

    color: see ``small_color``.
    anew: whether it does not continue from the previous frame.
    """

    frame: Frame
    color: Map
    anew: bool

    def image(self) -> Map:
        """See ``network_input``.  It is not kept: of a file the network is shown few frames."""
        return network_input(self.frame, self.color)


class Matter:
    """Makes the mattes of one video's frames; call it with each frame, in order.

    It owns the temporal state: the alpha of the last frame, which is the network's fourth input.
    The state is reset at a cut, after a long gap and when the frame size changes; call ``reset``
    before any other frame that does not follow the last one.

    scale: factor on the model's default network area; it may change between frames without
    resetting the state.
    follows: whether the last frame continued from the one before it.

    Args:
        model: a shipped model's name or a bundle folder.
        backend: ``auto``, or ``NAME[:DEVICE][:PRECISION]``, as in ``openvino:gpu`` or
            ``auto:f32``; the parts left out are chosen by measurement.
        threads: CPU threads for inference; None takes the number that ``fusematte tune`` found
            best; if it never ran, half of the processors, for files two at least.
        work: the kind of work that runs beside inference, "file" or "live".
        quality: "high" runs the network on twice its default area, which takes twice as long.

    Raises:
        UsageError: an argument is out of range, or the model has one size only.
        ModelError, BackendError: the model or the backend cannot be used.
    """

    def __init__(
        self,
        model: str | PathLike[str] = DEFAULT_MODEL,
        *,
        backend: str = "auto",
        threads: int | None = None,
        work: Work = "file",
        quality: Quality = "normal",
    ) -> None:
        if quality not in AREAS:
            raise UsageError(f"quality is {' or '.join(AREAS)}, not {quality}", option="quality")
        if threads is not None and threads < 1:
            raise UsageError(f"threads must be 1 or more, not {threads}", option="threads")
        self.bundle = load_bundle(model)
        if quality != "normal" and self.bundle.only_size is not None:
            raise UsageError(
                f"model {self.bundle.name} has one size only, so there is no quality {quality}",
                option="quality",
            )
        self.scale = AREAS[quality]
        self._lease = Lease(backend, self.bundle, threads=threads, work=work)
        self._shape: tuple[object, ...] = ()
        self._previous: Map | None = None
        self.follows = False
        self._continuity = Continuity()
        self._choice = Choice()
        self._stream = StreamKey()

    @property
    def backend(self) -> Backend:
        """The backend that runs the network."""
        return self._lease.backend

    @property
    def memory(self) -> Memory | None:
        """The temporal state; assign another Matter's to continue where that one stopped."""
        if self._previous is None or self._continuity.before is None:
            return None
        return Memory(self._previous, *self._continuity.before, self._choice.known)

    @memory.setter
    def memory(self, memory: Memory | None) -> None:
        self.reset()
        if memory is not None:
            self._previous = memory.alpha
            self._continuity.before = memory.luma, memory.time
            self._choice.known = memory.choice
            self._choice.skip(memory.time)

    def keep(self, alpha: Map, rotation: int = 0) -> None:
        """Stores the network's alpha of the last frame, [h, w], in that frame's orientation.

        rotation: the frame's.
        """
        self._previous = np.rot90(alpha, -(rotation // 90)).copy()

    def choose(self, prompts: Iterable[Prompt], begin: Fraction = Fraction(0)) -> None:
        """Follows these prompts, and no others, through the frames to come; without any, everybody
        is kept.

        Args:
            prompts: checked and ordered, see ``selection.check``.
            begin: of the video, on the clock of its frames: prompts count from there.
        """
        self._choice.begin(prompts, begin)

    def prompt(self, prompt: Prompt) -> None:
        """A prompt for the next frame, its place in shares of the picture; from any thread."""
        self._choice.add(prompt)

    def take_choice(self, other: Matter) -> None:
        """Goes on with what another one has chosen; it is found again in the next frame."""
        self._choice = other._choice

    @property
    def chooses(self) -> bool:
        """Whether anything was or will be chosen."""
        return self._choice.concerns

    @property
    def waiting_prompts(self) -> tuple[Prompt, ...]:
        """The prompts whose time has not come."""
        return self._choice.waiting

    def size_for(self, frame: Frame) -> tuple[int, int]:
        """The network's (height, width) for this frame, in display orientation."""
        return size_for(frame, self.bundle, self.scale)

    def __call__(self, frame: Frame) -> Matte:
        """Mattes one frame.

        Raises:
            BackendError: the network's output is not finite; the temporal state is unchanged.
        """
        return self.matte(self.see(frame))

    def see(self, frame: Frame) -> Seen:
        """Registers the next frame, without matting it."""
        color = self.color_of(frame)
        return Seen(frame, color, self.starts_anew(frame, color[0]))

    def color_of(self, frame: Frame) -> Map:
        """See ``small_color``."""
        return small_color(frame, *self.size_for(frame))

    def matte(self, seen: Seen, previous: Map | None = None) -> Matte:
        """Mattes a frame that was seen.

        previous: what the network starts from instead of the last frame's alpha, [h, w], in the
        frame's orientation.

        Raises:
            BackendError: the network's output is not finite; the temporal state is unchanged.
        """
        frame, image = seen.frame, seen.image()
        turns = frame.rotation // 90
        if seen.anew:
            self._previous = None
        if previous is not None:
            self.keep(previous, frame.rotation)
        prompts = self._choice.due(frame.time)
        follows = self._previous is not None
        # What a prompt changes must be seen at once: nothing is smoothed over it.
        self.follows = follows and not prompts
        maps = self._infer(image)
        self._previous = maps.alpha.copy()  # the caller may modify the matte
        if prompts or self.chooses:
            alpha = self._choice.alpha(image, maps.alpha, prompts, follows=follows)
            maps = maps if alpha is None else maps._replace(alpha=alpha)
        alpha, foreground, background, beta = (
            np.ascontiguousarray(np.rot90(m, turns)) for m in maps
        )
        return Matte(
            alpha=alpha,
            foreground=foreground,
            background=background,
            beta=beta,
            color=seen.color,
            pts=frame.pts,
            time_base=frame.time_base,
            doubt=self._choice.doubt,
            stream=self._stream,
        )

    def starts_anew(self, frame: Frame, luma: Map) -> bool:
        """Registers a frame; returns whether it does not continue from the previous one.

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
        """Runs the network on [1, 3, h, w] with the previous frame's alpha.

        A first frame has no previous alpha.  It is run twice: a first matte, made without one,
        serves as the previous alpha of the second, as far as it is confirmed from afar.  Without
        that, the matte would jump at the video's second frame.
        """
        size = image.shape[2:]
        if self._previous is None:
            if not self.bundle.takes_previous:
                return self._run(image, _nothing(image))
            self._previous = confirmed(self._look(image), image, self._look)
        elif self._previous.shape != size:  # the scale has changed
            self._previous = enlarge(self._previous, *size)
        return self._run(image, self._previous[None, None])

    def _look(self, image: Map) -> Map:
        """The network's alpha without a previous one."""
        return self._run(image, _nothing(image)).alpha

    def infer(self, image: Map, previous: Map) -> Maps:
        """Runs the network; see ``Backend.infer``."""
        return self._lease.infer(image, previous)

    def _run(self, image: Map, previous: Map) -> Maps:
        """Runs the network and checks its output: NaNs would spread from frame to frame."""
        maps = self.infer(image, previous)
        if not all(np.isfinite(plane).all() for plane in maps):
            raise BackendError(f"{self.backend.name}: the network's output has infinities or NaNs")
        return maps

    def prepare(self, frame: Frame, scale: float) -> None:
        """Compiles the network for frames like this one at a scale; from any thread.

        Otherwise the first frame of each size waits for the compilation.
        """
        height, width = size_for(frame, self.bundle, scale)
        black = np.zeros((1, 3, height, width), np.float32)
        self._lease.compile(black.shape)
        self.infer(black, _nothing(black))

    @contextmanager
    def at_scale(self, scale: float) -> Iterator[None]:
        """Sets another scale for the duration of the context."""
        before, self.scale = self.scale, scale
        try:
            yield
        finally:
            self.scale = before

    def reset(self) -> None:
        """Resets the temporal state, but not the selection."""
        self._previous = None
        self._continuity.reset()

    def close(self) -> None:
        """Releases the network, which is freed when nothing else in the process uses it."""
        self._lease.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
