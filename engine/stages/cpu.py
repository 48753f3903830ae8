"""Stages for frames in host memory: the CPU processes the pixels, any backend runs the network."""

from __future__ import annotations

import time

from fusematte.engine.compositing.backgrounds import Background
from fusematte.engine.compositing.composite import Composite, compose
from fusematte.engine.frame import Frame
from fusematte.engine.matting.key_frames import KeyFrames, Made
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
        self._key_frames = KeyFrames(options.network_every)
        self._smoothed = Smoothed(options)

    def begin(self, frame: Frame) -> list[Matted]:
        begun = time.perf_counter()
        made = self._key_frames(self.matter, frame)
        return self._smooth(made, time.perf_counter() - begun)

    def drain(self) -> list[Matted]:
        begun = time.perf_counter()
        made = self._key_frames.drain(self.matter)
        return self._smooth(made, time.perf_counter() - begun) + self._smoothed.drain()

    def reset(self) -> list[Matted]:
        waiting = self._smooth(self._key_frames.drain(self.matter), 0.0)
        self._key_frames = KeyFrames(self.options.network_every)
        self.matter.reset()
        return waiting + self._smoothed.reset()

    def _smooth(self, made: list[Made], seconds: float) -> list[Matted]:
        """The frames that are ready, smoothed.

        seconds: that their mattes took.
        """
        ready = []
        for frame, matte, follows in made:
            if self._observe is not None:
                self._observe(matte)
            matted = Matted(frame=frame, matte=matte, seconds={"network": seconds / len(made)})
            ready += self._smoothed(matted, follows=follows)
        return ready

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
