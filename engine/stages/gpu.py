"""The frame path's place in a job: whether it can be taken, and the two stages that take it."""

from __future__ import annotations

import logging
import os
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
from fusematte.engine.compositing.backgrounds import Background, TransparentBackground
from fusematte.engine.compositing.composite import Composite
from fusematte.engine.compositing.look import PLAIN
from fusematte.engine.cuda.device_pictures import DeviceFrame
from fusematte.engine.cuda.driver import CudaDriver
from fusematte.engine.errors import FuseMatteError
from fusematte.engine.frame import Frame
from fusematte.engine.matting.matter import Matter
from fusematte.engine.media.notices import OnlyNews
from fusematte.engine.media.reader import Reader
from fusematte.engine.media.sources import is_sequence, is_stdin, is_url
from fusematte.engine.pixels.buffer_pool import new_plane, new_planes
from fusematte.engine.stages.contract import Wishes
from fusematte.engine.stages.gpu_frame_path import Device, FramePath, Network, Slot

log = logging.getLogger(__name__)
log.addFilter(OnlyNews())

ENCODERS = ("h264_nvenc", "hevc_nvenc", "av1_nvenc")
"""Encoders that read frames in the GPU's memory."""


def why_not(reader: Reader, matter: Matter, background: Background, wishes: Wishes) -> str | None:
    """Why a job of the TensorRT backend cannot keep its frames on the GPU, or None."""
    reasons = (
        (reader.rotation != 0, "the video is turned for display"),
        (reader.color.is_hdr, "the video is HDR"),
        (reader.has_alpha, "the video has an alpha of its own"),
        (isinstance(background, TransparentBackground), "the background is transparent"),
        (wishes.foreground, "the people's own colours are asked for"),
        (wishes.look != PLAIN, "light wrap or despill is asked for"),
        (wishes.mattes, "each matte is looked at, for a report"),
        (matter.scale != 1, "the network's size changes"),
    )
    return cuda.why_no_kernels() or next((reason for holds, reason in reasons if holds), None)


def nvdec_for(name: str | os.PathLike[str]) -> HWAccel | None:
    """NVDEC for the video of a file; None where libav or the source cannot, which is told."""
    text = os.fspath(name)
    if is_url(text) or is_stdin(text) or is_sequence(text) or not Path(text).is_file():
        log.info("%s: is decoded on the CPU: only files are decoded on the GPU", text)
        return None
    if "cuda" not in hwdevices_available():
        log.warning("%s: is decoded on the CPU: this build of av has no NVDEC", text)
        return None
    return HWAccel("cuda", allow_software_fallback=True, is_hw_owned=True)


def nvenc_for(reader: Reader, codec: str | None, pixel_format: str | None) -> HWAccel | None:
    """What lets the encoder read composites in the GPU's memory; None, which is told, where they
    are brought to the CPU."""
    reason = None
    if codec not in ENCODERS:
        reason = f"--codec is none of {', '.join(ENCODERS)}"
    elif not reader.on_device:
        reason = "they were not decoded on the GPU"
    elif pixel_format is not None:
        reason = f"they are wanted as {pixel_format}"
    elif reader.format.bits > 8 and codec == "h264_nvenc":
        reason = "h264_nvenc has 8 bits; use hevc_nvenc"
    elif reader.height % 2 or reader.width % 2:
        reason = "their size is odd"
    if reason is None:
        return HWAccel("cuda", allow_software_fallback=False, is_hw_owned=True)
    log.info("composites are brought to the CPU to be encoded: %s", reason)
    return None


class _Loan:
    """Held by the encoder while it reads a slot's memory."""


class GpuStages:
    """Two stages of a pipeline, ``begin`` and ``finish``, of which the first only starts work.

    The path is set up by the first frame, in whichever layout it comes; where the layout changes,
    as when a decoder falls back to the CPU, another one takes its place.

    keep: composites stay on the device, for an encoder that reads them there.
    """

    def __init__(
        self,
        network: Network,
        drivers: tuple[Device, Device],
        current: Callable[[], AbstractContextManager[None]],
        matter: Matter,
        background: Background,
        *,
        keep: bool,
        with_alpha: bool,
    ) -> None:
        self._network, self._drivers, self._current = network, drivers, current
        self._matter, self._background = matter, background
        self._keep, self._with_alpha = keep, with_alpha
        self._paths: list[FramePath] = []
        self._kind: type[Frame] | None = None

    def begin(self, frame: Frame) -> tuple[FramePath, Slot]:
        """Stage one: the frame's work is on the device's stream."""
        with self._current():
            if type(frame) is not self._kind:
                self._open(frame)
            path = self._paths[-1]
            return path, path.begin(frame)

    def finish(self, item: tuple[FramePath, Slot]) -> Composite:
        """Stage two: waits for it."""
        path, slot = item
        frame = slot.frame
        assert frame is not None and slot.done is not None
        with self._current():
            slot.done.synchronize()
        alpha = None
        if self._with_alpha:
            alpha = new_plane(frame)
            np.copyto(alpha, path.alpha_of(slot))
        if not path.download:
            return Composite(self._lend(path, slot, frame), alpha, None)
        planes = new_planes(frame)
        path.layout.unpack(slot.result_host, planes)
        path.release(slot)
        return Composite(_on_host(frame, planes), alpha, None)

    def warm_up(self, frame: Frame) -> None:
        """A frame that is only to be followed."""
        path, slot = self.begin(frame)
        assert slot.done is not None
        with self._current():
            slot.done.synchronize()
        path.release(slot)

    def close(self) -> None:
        """Hands the temporal state back and frees the device's memory: after the encoder."""
        with self._current():
            if self._paths:
                self._paths[-1].hand_over()
            for path in self._paths:
                path.close()
        self._paths.clear()

    def _open(self, frame: Frame) -> None:
        if self._paths:
            log.warning("from %.3f s on the decoder works on the CPU", float(frame.time))
            self._paths[-1].hand_over()
        device, intake = self._drivers
        path = FramePath(
            device=device,
            intake=intake,
            network=self._network,
            matter=self._matter,
            background=self._background,
            like=frame,
            download=not (self._keep and isinstance(frame, DeviceFrame)),
            with_alpha=self._with_alpha,
        )
        self._paths.append(path)
        self._kind = type(frame)

    def _lend(self, path: FramePath, slot: Slot, frame: Frame) -> DeviceFrame:
        """The composite where it is; its slot is free when the encoder is done with it."""
        assert isinstance(frame, DeviceFrame)
        loan = _Loan()
        weakref.finalize(loan, path.release, slot).atexit = False
        picture = path.layout.picture(slot.result.data[0], path.device.kind, loan)
        return replace(frame, picture=picture)


def _on_host(frame: Frame, planes: tuple[np.ndarray, np.ndarray, np.ndarray]) -> Frame:
    known = {k: v for k, v in vars(frame).items() if k not in ("picture", "planes")}
    return Frame(planes=planes, **known)


class OnGpu(NamedTuple):
    """What a job on the GPU works with.

    reader: the job's own, or another that decodes on the GPU.
    encoder: for the writer of composites that stay there.
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
    wishes: Wishes,
) -> OnGpu | None:
    """What keeps a job's frames on the GPU, closed with ``stack``; None, which is told, where its
    network alone runs there, or not even that."""
    if not isinstance(matter.backend, TensorRtBackend):
        return None
    if reason := why_not(reader, matter, background, wishes):
        log.warning("frames are worked on by the CPU, the network alone by the GPU: %s", reason)
        return None
    reader = stack.enter_context(_decoding_on_gpu(reader, reopen))
    encoder = nvenc_for(reader, wishes.codec, wishes.pixel_format)
    drivers = stack.enter_context(closing(CudaDriver())), stack.enter_context(closing(CudaDriver()))
    stages = GpuStages(
        matter.backend.network,
        drivers,
        drivers[0].current,
        matter,
        background,
        keep=encoder is not None,
        with_alpha=wishes.alpha,
    )
    log.info("frames stay on %s from the decoder to the composite", matter.backend.device)
    return OnGpu(reader, stack.enter_context(closing(stages)), encoder)


def _decoding_on_gpu(reader: Reader, reopen: Callable[[HWAccel], Reader]) -> Reader:
    hardware = nvdec_for(reader.name)
    if hardware is None:
        return reader
    try:
        other = reopen(hardware)
    except FuseMatteError as error:
        log.warning("%s: is decoded on the CPU: NVDEC cannot be used (%s)", reader.name, error)
        return reader
    if other.on_device:
        reader.close()
        return other
    other.close()
    log.warning("%s: is decoded on the CPU: NVDEC does not know its codec", reader.name)
    return reader
