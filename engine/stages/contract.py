"""The contract of the stages between a frame and its result, and what they are asked for.

The same stages serve files, cameras, the page and programs, whatever works on the pixels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from fusematte.engine.compositing.backgrounds import Background
from fusematte.engine.compositing.composite import Composite
from fusematte.engine.compositing.look import PLAIN, Look
from fusematte.engine.errors import UsageError
from fusematte.engine.frame import Frame, Matte
from fusematte.engine.matting.matter import Matter

MAX_LOOKAHEAD = 30
"""Frames."""

Observe = Callable[[Matte], None]
"""Called with the matte of each frame as the network gave it, in the frames' order."""


@dataclass(frozen=True, kw_only=True)
class StageOptions:
    """What the stages do.

    look: light wrap, despill and edits of the matte.
    with_alpha, with_foreground: results carry the alpha plane, and the person's own colours.
    smoothing: flicker of the alpha is damped.
    lookahead: frames that are held back, so that smoothing knows what comes after.
    with_mattes: frames carry their mattes to the host, for whoever looks at them.
    threads: of the kernels that composite; other stages may keep the other cores busy.

    Raises:
        UsageError: lookahead is out of range.
    """

    look: Look = PLAIN
    with_alpha: bool = False
    with_foreground: bool = False
    smoothing: bool = False
    lookahead: int = 0
    with_mattes: bool = False
    threads: int = 1

    @property
    def needs_mattes(self) -> bool:
        """Whether mattes are wanted in host memory, wherever they are made."""
        return self.with_mattes or self.smoothing or self.lookahead > 0

    def __post_init__(self) -> None:
        if not 0 <= self.lookahead <= MAX_LOOKAHEAD:
            raise UsageError(f"lookahead must be 0 to {MAX_LOOKAHEAD} frames, not {self.lookahead}")


@dataclass(kw_only=True)
class Matted:
    """A frame with its matte, on its way to the composite.

    matte: None where it stays in the GPU's memory.
    seconds: of work so far, by stage.
    slot: the frame's memory on the GPU.
    """

    frame: Frame
    matte: Matte | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    slot: Any = None


class Stages(ABC):
    """Matting, smoothing and compositing, for the frames of one video in their order.

    ``begin``, ``drain`` and ``reset`` are called from one thread at a time, ``finish`` and ``drop``
    from one, which may be another.

    matter, background: may be changed between two frames; the caller closes them.
    """

    matter: Matter
    background: Background
    options: StageOptions

    @abstractmethod
    def begin(self, frame: Frame) -> list[Matted]:
        """Mattes a frame; gives what is ready to be composited: that frame, an older one that was
        held back, or none."""

    @abstractmethod
    def drain(self) -> list[Matted]:
        """At the end: the frames that are still held back."""

    @abstractmethod
    def reset(self) -> list[Matted]:
        """Forgets the frames before; gives those that were held back, as they are."""

    @abstractmethod
    def finish(self, matted: Matted) -> Composite:
        """The frame over the background."""

    def drop(self, matted: Matted) -> None:  # noqa: B027
        """In the place of ``finish``: the frame is not wanted."""

    def close(self) -> None:  # noqa: B027
        """Frees what the stages themselves hold."""
