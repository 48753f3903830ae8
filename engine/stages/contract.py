"""The interface of the stages between a frame and its composite, and their options.

File jobs, live sessions and the page's server all use these stages, on the CPU and on the GPU.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from fusematte.engine.compositing.backgrounds import Background
from fusematte.engine.compositing.composite import Composite
from fusematte.engine.compositing.look import PLAIN, Look
from fusematte.engine.errors import check_range
from fusematte.engine.frame import Frame, Matte
from fusematte.engine.matting.mask import WHOLE
from fusematte.engine.matting.matter import Matter

MAX_LOOKAHEAD = 30
"""Frames."""

MAX_NETWORK_EVERY = 16
"""Frames."""

Observe = Callable[[Matte], None]
"""Called with each frame's matte as the network made it, in order."""


@dataclass(frozen=True, kw_only=True)
class StageOptions:
    """Options of the stages.

    look: light wrap, despill and edits of the matte.
    with_alpha, with_foreground: results carry the alpha plane; the estimated foreground colours.
    smoothing: reduce flicker of the alpha.
    lookahead: number of frames held back so that smoothing can use the following ones.
    network_every: at most so many frames from one that the network mattes to the next, 1 to 16; see
        ``matting.key_frames``.  On a GPU the network mattes every frame.
    selects: only some people or things are kept.
    with_mattes: mattes are whole and in host memory, for an observer.
    threads: CPU threads of the compositing kernels; other stages may use the remaining cores.

    Raises:
        UsageError: lookahead or network_every is out of range.
    """

    look: Look = PLAIN
    with_alpha: bool = False
    with_foreground: bool = False
    smoothing: bool = False
    lookahead: int = 0
    network_every: int = 1
    selects: bool = False
    with_mattes: bool = False
    threads: int = 1

    @property
    def needs_probabilities(self) -> bool:
        """Whether the two decoders' maps are needed: smoothing sees where they disagree."""
        return self.with_mattes or self.smoothing or self.lookahead > 0

    @property
    def needs_mattes(self) -> bool:
        """Whether mattes are needed in host memory, even if they are made on the GPU."""
        return self.needs_probabilities or self.look.mask != WHOLE

    def __post_init__(self) -> None:
        check_range("lookahead", self.lookahead, 0, MAX_LOOKAHEAD, " frames")
        check_range("network_every", self.network_every, 1, MAX_NETWORK_EVERY, " frames")


@dataclass(kw_only=True)
class Matted:
    """A frame with its matte, ready to be composited.

    matte: None if it stays in GPU memory.
    seconds: busy time so far, by stage.
    slot: the frame's memory on the GPU, if it is processed there.
    """

    frame: Frame
    matte: Matte | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    slot: Any = None


class Stages(ABC):
    """Matting, smoothing and compositing of one video's frames, in order.

    One thread at a time calls ``begin``, ``drain`` and ``reset``; one thread, which may be another,
    calls ``finish`` and ``drop``.

    matter, background: may be replaced between two frames; the caller closes them.
    carries: whether frames do without the network and carry its last matte, see
        ``matting.carried``; may be changed between two frames.  On a GPU it changes nothing.
    """

    matter: Matter
    background: Background
    carries: bool = False
    options: StageOptions

    @abstractmethod
    def begin(self, frame: Frame) -> Iterable[Matted]:
        """Mattes a frame; the frames ready to be composited: this one, older ones that were held
        back, or none.  Work may be left until each is asked for: take all before the next call."""

    @abstractmethod
    def drain(self) -> Iterable[Matted]:
        """At the end of the video: the frames still held back; as ``begin``."""

    @abstractmethod
    def reset(self) -> list[Matted]:
        """Resets the temporal state; returns the frames that were held back, not smoothed."""

    @abstractmethod
    def finish(self, matted: Matted) -> Composite:
        """Composites a frame over the background."""

    def drop(self, matted: Matted) -> None:  # noqa: B027
        """Discards a frame; called instead of ``finish``."""

    def rest(self) -> None:  # noqa: B027
        """Waits for what runs beside the frames; called before ``matter`` is replaced."""

    def close(self) -> None:  # noqa: B027
        """Frees the stages' own resources."""
