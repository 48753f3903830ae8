"""The stages of frames in host memory: matting and compositing by the CPU."""

from __future__ import annotations

from fusematte.engine.compositing.composite import Composite, compose
from fusematte.engine.frame import Frame, Matte
from fusematte.engine.stages.contract import Observe, Tools, Wishes


class CpuStages:
    """The stages where the CPU works on the pixels, on whatever the network runs."""

    def __init__(self, tools: Tools, wishes: Wishes, observe: Observe | None) -> None:
        self._tools, self._wishes, self._observe = tools, wishes, observe

    def begin(self, frame: Frame) -> tuple[Frame, Matte]:
        """Stage one: the matte."""
        found = self._tools.matter(frame)
        if self._observe is not None:
            self._observe(found)
        return frame, found

    def finish(self, item: tuple[Frame, Matte]) -> Composite:
        """Stage two: the composite."""
        return compose(
            *item,
            self._tools.background,
            look=self._wishes.look,
            with_alpha=self._wishes.alpha,
            with_foreground=self._wishes.foreground,
        )

    def warm_up(self, frame: Frame) -> None:
        """See ``Work``."""
        self.begin(frame)
