"""Stages for frames in host memory: the CPU processes the pixels, any backend runs the network."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator

from fusematte.engine.compositing.backgrounds import Background
from fusematte.engine.compositing.composite import Composite, compose
from fusematte.engine.frame import Frame
from fusematte.engine.matting.carried import Carried
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
        self._key_frames = self._new_key_frames()
        self._carried = Carried()
        self._smoothed = Smoothed(options)

    def begin(self, frame: Frame) -> Iterator[Matted]:
        if not self.carries:
            self.rest()
            yield from self._key_frame(self._key_frames(self.matter, frame))
            return
        begun = time.perf_counter()
        made = self._carried(self.matter, frame)
        motion = time.perf_counter() - begun
        yield from self._smooth(made, network=self._carried.network_seconds, motion=motion)

    def drain(self) -> Iterator[Matted]:
        self.rest()
        yield from self._key_frame(self._key_frames.drain(self.matter))
        yield from self._smoothed.drain()

    def reset(self) -> list[Matted]:
        self.rest()
        waiting = list(self._key_frame(self._key_frames.drain(self.matter)))
        self._key_frames = self._new_key_frames()
        self.matter.reset()
        return waiting + self._smoothed.reset()

    def rest(self) -> None:
        self._carried.reset()

    def close(self) -> None:
        self._carried.close()

    def _new_key_frames(self) -> KeyFrames:
        return KeyFrames(self.options.network_every, whole=self.options.needs_probabilities)

    @property
    def _threads(self) -> int:
        """Threads of compositing: beside a network that may be at work half as many are faster,
        for they wait for each other."""
        return max(1, self.options.threads // 2) if self.carries else self.options.threads

    def _key_frame(self, made: Iterable[Made]) -> Iterator[Matted]:
        begun = time.perf_counter()
        for one in made:
            yield from self._smooth(one, network=time.perf_counter() - begun)
            begun = time.perf_counter()

    def _smooth(self, made: Made, **seconds: float) -> list[Matted]:
        """The frames that are ready, smoothed.

        seconds: that the matte took, by stage.
        """
        frame, matte, follows = made
        if self._observe is not None:
            self._observe(matte)
        return self._smoothed(Matted(frame=frame, matte=matte, seconds=seconds), follows=follows)

    def finish(self, matted: Matted) -> Composite:
        assert matted.matte is not None
        return compose(
            matted.frame,
            matted.matte,
            self.background,
            look=self.options.look,
            with_alpha=self.options.with_alpha,
            with_foreground=self.options.with_foreground,
            threads=self._threads,
        )
