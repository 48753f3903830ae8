"""What the stages between a frame and its result are given, and what they promise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from fusematte.engine.compositing.backgrounds import Background
from fusematte.engine.compositing.composite import Composite
from fusematte.engine.compositing.look import Look
from fusematte.engine.frame import Frame, Matte
from fusematte.engine.matting.matter import Matter

Observe = Callable[[Matte], None]
"""Called with the matte of each frame, in their order, those of a warm-up too."""


class Tools(NamedTuple):
    """What a job works with; given on from stretch to stretch, it is not opened again and again."""

    matter: Matter
    background: Background


class Work(Protocol):
    """Two stages, from a frame to its composite; ``begin`` is given frames in their order."""

    def begin(self, frame: Frame) -> Any: ...  # noqa: ANN401
    def finish(self, item: Any) -> Composite: ...  # noqa: ANN401
    def warm_up(self, frame: Frame) -> None:
        """Takes a frame that is not composited, but goes before others."""


class Wishes(NamedTuple):
    """What a job wants: an alpha, own colours, a look, each matte; encoder and layout by name."""

    alpha: bool
    foreground: bool
    look: Look
    mattes: bool
    codec: str | None
    pixel_format: str | None
