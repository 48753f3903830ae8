"""The stages of frames that come one by one: on the GPU where they can be, else on the CPU."""

from __future__ import annotations

import logging
from contextlib import ExitStack

from fusematte.engine.backends.tensorrt.backend import TensorRtBackend
from fusematte.engine.compositing.backgrounds import Background
from fusematte.engine.compositing.composite import Composite
from fusematte.engine.frame import Frame
from fusematte.engine.matting.matter import Matter
from fusematte.engine.stages.contract import Matted, StageOptions, Stages
from fusematte.engine.stages.cpu import CpuStages
from fusematte.engine.stages.gpu import GpuStages, open_gpu_stages, why_not

log = logging.getLogger(__name__)


def open_stages(matter: Matter, background: Background, options: StageOptions) -> Stages:
    """The stages for a matter: those on the GPU have a share only where its backend is TensorRT."""
    if not isinstance(matter.backend, TensorRtBackend):
        return CpuStages(matter, background, options)
    return ChosenStages(matter, background, options)


class ChosenStages(Stages):
    """Chooses for each frame; the first frame and every change of place is told in a line."""

    def __init__(self, matter: Matter, background: Background, options: StageOptions) -> None:
        self.matter, self.background, self.options = matter, background, options
        self._resources = ExitStack()
        self._used: CpuStages | GpuStages | None = None
        self._open()

    def begin(self, frame: Frame) -> list[Matted]:
        held = []
        if self._cpu.matter is not self.matter:  # another model
            held = self._leave(None)
            self._open()
        chosen = self._choose(frame)
        if self._used is not chosen:
            held += self._leave(chosen)
        chosen.background = self.background
        return [*held, *chosen.begin(frame)]

    def _open(self) -> None:
        """The stages of the present matter.  Frames on the way may still be finished by these: what
        they need lies with the path that they are on, which is closed at the end."""
        self._cpu = CpuStages(self.matter, self.background, self.options)
        self._gpu = open_gpu_stages(self._resources, self.matter, self.background, self.options)

    def _leave(self, chosen: CpuStages | GpuStages | None) -> list[Matted]:
        """Changes the place; gives the frames that were held back."""
        held = self.drain()
        self._gpu.pause()
        self._used = chosen
        return held

    def drain(self) -> list[Matted]:
        return [] if self._used is None else self._used.drain()

    def reset(self) -> list[Matted]:
        return [] if self._used is None else self._used.reset()

    def finish(self, matted: Matted) -> Composite:
        if matted.slot is not None:
            return self._gpu.finish(matted)
        self._cpu.background = self.background
        return self._cpu.finish(matted)

    def drop(self, matted: Matted) -> None:
        if matted.slot is not None:
            self._gpu.drop(matted)

    def close(self) -> None:
        self._resources.close()

    def _choose(self, frame: Frame) -> CpuStages | GpuStages:
        reason = why_not(frame, self.background, self.options)
        chosen = self._cpu if reason else self._gpu
        if chosen is not self._used:
            if reason:
                log.warning("frames are worked on by the CPU: %s", reason)
            else:
                log.info("frames are worked on by %s", self.matter.backend.device)
        return chosen
