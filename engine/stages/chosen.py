"""Stages for live sessions: each frame is processed on the GPU where possible, else on the CPU."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
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
    """The stages for a matter; the GPU's are only available with the TensorRT backend."""
    if not isinstance(matter.backend, TensorRtBackend):
        return CpuStages(matter, background, options)
    return ChosenStages(matter, background, options)


class ChosenStages(Stages):
    """Chooses CPU or GPU for each frame; logs the first choice and every change."""

    def __init__(self, matter: Matter, background: Background, options: StageOptions) -> None:
        self.matter, self.background, self.options = matter, background, options
        self._resources = ExitStack()
        self._used: CpuStages | GpuStages | None = None
        self._open()

    def begin(self, frame: Frame) -> Iterator[Matted]:
        if self._cpu.matter is not self.matter:  # the model was changed
            yield from self._leave(None)
            self._open()
        chosen = self._choose(frame)
        if self._used is not chosen:
            yield from self._leave(chosen)
        chosen.background, chosen.carries = self.background, self.carries
        yield from chosen.begin(frame)

    def _open(self) -> None:
        """Opens stages for the current matter.  Frames in flight on earlier ones can still be
        finished: their memory belongs to the path they are on, which is closed at the end."""
        self._cpu = CpuStages(self.matter, self.background, self.options)
        self._resources.callback(self._cpu.close)
        self._gpu = open_gpu_stages(self._resources, self.matter, self.background, self.options)

    def _leave(self, chosen: CpuStages | GpuStages | None) -> Iterator[Matted]:
        """Switches between CPU and GPU; the frames that were held back."""
        yield from self.drain()
        self._gpu.pause()
        self._used = chosen

    def drain(self) -> Iterable[Matted]:
        return () if self._used is None else self._used.drain()

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

    def rest(self) -> None:
        self._cpu.rest()

    def close(self) -> None:
        self._resources.close()

    def _choose(self, frame: Frame) -> CpuStages | GpuStages:
        reason = why_not(frame, self.options)
        if reason is None and self.matter.chooses:
            reason = "there is a choice of who is kept"
        chosen = self._cpu if reason else self._gpu
        if chosen is not self._used:
            if reason:
                log.warning("frames are processed on the CPU: %s", reason)
            else:
                log.info("frames are processed on %s", self.matter.backend.device)
        return chosen
