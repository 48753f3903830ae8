"""Stages for frames in host memory: the CPU processes the pixels, any backend runs the network."""

from __future__ import annotations

import time

from fusematte.engine.compositing.backgrounds import Background
from fusematte.engine.compositing.composite import Composite, compose
from fusematte.engine.frame import Frame
from fusematte.engine.matting.matter import Matter
from fusematte.engine.stages.contract import Matted, Observe, StageOptions, Stages
from fusematte.engine.stages.smoothed import Smoothed


class CpuStages(Stages):
    """See ``Stages``.

    observe: called with each matte.
    """

    def __init__(
        self,
        matter: Matter,
        background: Background,
        options: StageOptions,
        observe: Observe | None = None,
    ) -> None:
        self.matter, self.background, self.options = matter, background, options
        self._observe = observe
        self._smoothed = Smoothed(options)

    def begin(self, frame: Frame) -> list[Matted]:
        begun = time.perf_counter()
        matte, follows = self.matter(frame), self.matter.follows
        seconds = {"network": time.perf_counter() - begun}
        if self._observe is not None:
            self._observe(matte)
        return self._smoothed(Matted(frame=frame, matte=matte, seconds=seconds), follows=follows)

    def drain(self) -> list[Matted]:
        return self._smoothed.drain()

    def reset(self) -> list[Matted]:
        self.matter.reset()
        return self._smoothed.reset()

    def finish(self, matted: Matted) -> Composite:
        assert matted.matte is not None
        return compose(
            matted.frame,
            matted.matte,
            self.background,
            look=self.options.look,
            with_alpha=self.options.with_alpha,
            with_foreground=self.options.with_foreground,
            threads=self.options.threads,
        )
