"""Stages for frames in GPU memory, and the checks whether a video can be processed there."""

from __future__ import annotations

import logging
import os
import time
import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from av.codec.hwaccel import HWAccel, hwdevices_available

from fusematte.cpp_ext import cuda
from fusematte.engine.backends.tensorrt.backend import TensorRtBackend
from fusematte.engine.compositing.backgrounds import Background
from fusematte.engine.compositing.composite import Composite
from fusematte.engine.cuda.device_pictures import DeviceFrame
from fusematte.engine.cuda.driver import CudaDriver
from fusematte.engine.errors import FuseMatteError
from fusematte.engine.frame import Frame, VideoInfo
from fusematte.engine.matting.matter import Matter
from fusematte.engine.media.formats import Encoding
from fusematte.engine.media.notices import CollectedHere
from fusematte.engine.media.reader import Reader
from fusematte.engine.media.sources import is_sequence, is_stdin, is_url
from fusematte.engine.pixels.buffer_pool import new_plane, new_planes
from fusematte.engine.pixels.color import gray_frame
from fusematte.engine.stages.contract import Matted, Observe, StageOptions, Stages
from fusematte.engine.stages.gpu_frame_path import FramePath, Layer, Network, Slot, StreamDevice
from fusematte.engine.stages.smoothed import Smoothed

log = logging.getLogger(__name__)
log.addFilter(CollectedHere())

ENCODERS = ("h264_nvenc", "hevc_nvenc", "av1_nvenc")
"""Encoders that read frames from GPU memory."""


def why_not(video: VideoInfo | Frame, options: StageOptions) -> str | None:
    """Why frames cannot stay on the GPU although the backend is TensorRT; None if they can.

    video: the video's properties, or one frame.
    """
    has_alpha = video.alpha is not None if isinstance(video, Frame) else video.has_alpha
    reasons = (
        (has_alpha, "the video has an alpha plane"),
        (options.selects, "a selection is on"),
    )
    return cuda.why_no_kernels() or next((reason for holds, reason in reasons if holds), None)


def nvdec_for(name: str | os.PathLike[str]) -> HWAccel | None:
    """NVDEC for a video file; None, with a log line, if libav or the input does not allow it."""
    text = os.fspath(name)
    if is_url(text) or is_stdin(text) or is_sequence(text) or not Path(text).is_file():
        log.info("%s: decoded on the CPU: only files can be decoded on the GPU", text)
        return None
    if "cuda" not in hwdevices_available():
        log.warning("%s: decoded on the CPU: this build of av has no NVDEC", text)
        return None
    return HWAccel("cuda", allow_software_fallback=True, is_hw_owned=True)


def nvenc_for(info: VideoInfo, background: Background, encoding: Encoding) -> HWAccel | None:
    """Lets the encoder read composites from GPU memory; None, with a log line, if they have to be
    downloaded."""
    reason = None
    if encoding.codec not in ENCODERS:
        reason = f"--codec is not one of {', '.join(ENCODERS)}"
    elif background.content != "color":
        reason = "there is no new background"
    elif not info.on_device:
        reason = "the input was not decoded on the GPU"
    elif encoding.pixel_format is not None:
        reason = f"--pixel-format {encoding.pixel_format} is converted on the CPU"
    elif info.format.bits > 8 and encoding.codec == "h264_nvenc":
        reason = "h264_nvenc encodes 8 bits only; use hevc_nvenc"
    elif info.height % 2 or info.width % 2:
        reason = "the frame size is odd"
    if reason is None:
        return HWAccel("cuda", allow_software_fallback=False, is_hw_owned=True)
    log.info("composites are downloaded from the GPU for encoding: %s", reason)
    return None


class _Loan:
    """Held by the encoder while it reads a slot's memory."""


class GpuStages(Stages):
    """See ``Stages``.

    ``begin`` only starts the work and ``finish`` waits for it.  If mattes are needed on the host,
    for smoothing, edits of the mask or an observer, ``begin`` waits for the network.

    The first frame creates a ``FramePath``.  A new one replaces it when pixel format, network size
    or background change, for example when the decoder falls back to the CPU.

    network: shared by all videos; paths: of the frames in flight, the current one last.

    Args:
        keep: composites stay on the device, for an encoder that reads them there.
        observe: called with each matte.
    """

    def __init__(
        self,
        network: Network,
        drivers: tuple[StreamDevice, StreamDevice],
        current: Callable[[], AbstractContextManager[None]],
        matter: Matter,
        background: Background,
        options: StageOptions,
        *,
        keep: bool = False,
        observe: Observe | None = None,
    ) -> None:
        self.network, self._drivers, self._current = network, drivers, current
        self.matter, self.background, self.options, self._keep = matter, background, options, keep
        self._observe = observe
        self._smoothed = Smoothed(options)
        self.paths: list[FramePath] = []
        self._made_for: tuple[object, ...] | None = None

    def begin(self, frame: Frame) -> list[Matted]:
        begun = time.perf_counter()
        with self._current():
            path = self._path_for(frame)
            slot = path.begin(frame)
            matted = Matted(frame=frame, slot=(path, slot))
            if not self.options.needs_mattes:
                return [matted]
            matted.matte = path.matte_of(slot)
            matted.seconds["network"] = time.perf_counter() - begun
            if self._observe is not None:
                self._observe(matted.matte)
            return self._blended(self._smoothed(matted, follows=slot.follows))

    def drain(self) -> list[Matted]:
        with self._current():
            return self._blended(self._smoothed.drain())

    def reset(self) -> list[Matted]:
        self.matter.reset()
        if self.paths:
            self.paths[-1].forget()
        with self._current():
            return self._blended(self._smoothed.reset())

    def finish(self, matted: Matted) -> Composite:
        path, slot = self._done(matted)
        frame, alpha, foreground = matted.frame, None, None
        if self.options.with_alpha or slot.foreground is not None:
            alpha = new_plane(frame)
            np.copyto(alpha, path.alpha_of(slot))
        if slot.foreground is not None:
            foreground = replace(_on_host(frame, path, slot.foreground), alpha=alpha)
        shown = alpha if self.options.with_alpha else None
        if slot.composite is not None and not path.download:
            return Composite(self._lend(path, slot, frame), shown, foreground)
        picture = foreground
        if slot.composite is not None:
            picture = _on_host(frame, path, slot.composite)
        path.release(slot)
        if path.background.content == "gray":
            assert foreground is not None and alpha is not None
            picture, shown = gray_frame(foreground, alpha), alpha
        assert picture is not None
        return Composite(picture, shown, foreground)

    def drop(self, matted: Matted) -> None:
        path, slot = self._done(matted)
        path.release(slot)

    def pause(self) -> None:
        """Returns the temporal state to ``matter``: the next frames are matted elsewhere."""
        with self._current():
            if self._made_for is not None:
                self.paths[-1].hand_over()
        self._made_for = None

    def _blended(self, ready: list[Matted]) -> list[Matted]:
        """Starts compositing of frames whose mattes are final."""
        for matted in ready:
            path, slot = matted.slot
            assert matted.matte is not None
            path.blend(slot, matted.matte.alpha)
        return ready

    def _done(self, matted: Matted) -> tuple[FramePath, Slot]:
        """Waits for the work on a frame."""
        path, slot = matted.slot
        with self._current():
            slot.done.synchronize()
        return path, slot

    def close(self) -> None:
        """Returns the temporal state and frees device memory; call it after closing the encoder."""
        self.pause()
        with self._current():
            for path in self.paths:
                path.close()
        self.paths.clear()

    def _path_for(self, frame: Frame) -> FramePath:
        """The path for frames like this one."""
        shape = frame.height, frame.width, frame.format, frame.color, frame.rotation, frame.aspect
        wanted = type(frame), shape, self.matter.scale, self.matter, self.background
        if wanted != self._made_for:
            if self._made_for is not None:
                if self._made_for[0] is DeviceFrame and not isinstance(frame, DeviceFrame):
                    at = float(frame.time)
                    log.warning("from %.3f s on, frames are decoded on the CPU", at)
                self.pause()
            self.paths.append(self._new_path(frame))
            self._made_for = wanted
            self._close_idle()
        return self.paths[-1]

    def _close_idle(self) -> None:
        """Frees earlier paths that no frame is using any more."""
        for path in [path for path in self.paths[:-1] if path.is_idle]:
            path.close()
            self.paths.remove(path)

    def _new_path(self, frame: Frame) -> FramePath:
        device, intake = self._drivers
        return FramePath(
            device=device,
            intake=intake,
            network=self.network,
            matter=self.matter,
            background=self.background,
            like=frame,
            download=not (self._keep and isinstance(frame, DeviceFrame)),
            options=self.options,
        )

    def _lend(self, path: FramePath, slot: Slot, frame: Frame) -> DeviceFrame:
        """The composite in device memory; its slot is released when the encoder is done with it."""
        assert isinstance(frame, DeviceFrame) and slot.composite is not None
        loan = _Loan()
        weakref.finalize(loan, path.release, slot).atexit = False
        picture = path.layout.picture(slot.composite.address, path.device.kind, loan)
        return replace(frame, picture=picture)


def _on_host(frame: Frame, path: FramePath, layer: Layer) -> Frame:
    """A picture that was made of a frame, in host memory of its own."""
    planes = new_planes(frame)
    path.layout.unpack(layer.host, planes)
    known = {k: v for k, v in vars(frame).items() if k not in ("picture", "planes")}
    return Frame(planes=planes, **known)


class OnGpu(NamedTuple):
    """What a job uses when its frames are processed on the GPU.

    reader: the job's own, or a new one that decodes on the GPU.
    encoder: for a writer that reads composites from GPU memory.
    """

    reader: Reader
    stages: GpuStages
    encoder: HWAccel | None


def take_gpu(
    stack: ExitStack,
    reader: Reader,
    reopen: Callable[[HWAccel], Reader],
    matter: Matter,
    background: Background,
    options: StageOptions,
    encoding: Encoding,
    observe: Observe | None = None,
) -> OnGpu | None:
    """Opens what keeps a job's frames on the GPU, to be closed with ``stack``; None if the network
    runs elsewhere or, with a log line, if the frames cannot stay there."""
    if not isinstance(matter.backend, TensorRtBackend):
        return None
    if reason := why_not(reader.info, options):
        log.warning("frames are processed on the CPU, only the network runs on the GPU: %s", reason)
        return None
    reader = stack.enter_context(_decoding_on_gpu(reader, reopen))
    encoder = nvenc_for(reader.info, background, encoding)
    stages = open_gpu_stages(
        stack, matter, background, options, keep=encoder is not None, observe=observe
    )
    log.info("frames stay on %s from the decoder to the composite", matter.backend.device)
    return OnGpu(reader, stages, encoder)


def open_gpu_stages(
    stack: ExitStack,
    matter: Matter,
    background: Background,
    options: StageOptions,
    *,
    keep: bool = False,
    observe: Observe | None = None,
) -> GpuStages:
    """GPU stages for a matter whose backend is TensorRT, to be closed with ``stack``."""
    assert isinstance(matter.backend, TensorRtBackend)
    drivers = stack.enter_context(closing(CudaDriver())), stack.enter_context(closing(CudaDriver()))
    stages = GpuStages(
        matter.backend.network,
        drivers,
        drivers[0].current,
        matter,
        background,
        options,
        keep=keep,
        observe=observe,
    )
    return stack.enter_context(closing(stages))


def _decoding_on_gpu(reader: Reader, reopen: Callable[[HWAccel], Reader]) -> Reader:
    hardware = nvdec_for(reader.name)
    if hardware is None:
        return reader
    try:
        other = reopen(hardware)
    except FuseMatteError as error:
        log.warning("%s: decoded on the CPU: NVDEC cannot be used (%s)", reader.name, error)
        return reader
    if other.on_device:
        reader.close()
        return other
    other.close()
    log.warning("%s: decoded on the CPU: NVDEC does not support its codec", reader.name)
    return reader
