"""The processing of a frame on the GPU: one sequence of kernel launches on one CUDA stream.

It computes the same as ``Matter``, ``refine`` and ``compose``: area-averaged network input, guided
filter at the network's resolution, foreground colour at half of that, then one pass over the
frame's planes.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from fusematte.cpp_ext import cuda
from fusematte.engine.backends import Maps
from fusematte.engine.compositing.backgrounds import FINEST_BLUR, Background, BlurBackground
from fusematte.engine.compositing.composite import FOREGROUND_RADII, YCBCR_BOUNDS
from fusematte.engine.cuda.device_pictures import (
    DeviceFrame,
    addresses,
    layout_of,
)
from fusematte.engine.frame import Frame, Map, Matte, Plane, Planes
from fusematte.engine.matting.continuity import COARSE
from fusematte.engine.matting.matter import Matter
from fusematte.engine.matting.refine import EPSILON, RADIUS
from fusematte.engine.pixels.color import enlarge

ALIGNMENT = 256
"""Alignment in bytes of each map in the block: that of the CUDA allocator."""

Bytes = NDArray[np.uint8]


class Event(Protocol):
    """A CUDA event."""

    def synchronize(self) -> object: ...


class Graph(Protocol):
    """A CUDA graph."""

    def launch(self) -> None: ...
    def close(self) -> None: ...


class StreamDevice(cuda.Device, Protocol):
    """A device with one stream, as ``CudaDriver`` is.  Operations are queued on the stream and
    return at once; ``mark`` records an event there, ``wait`` blocks until the stream is idle."""

    kind: int
    """DLPack's number for its kind of memory."""

    def allocate(self, size: int) -> Any: ...  # noqa: ANN401
    def pinned(self, shape: tuple[int, ...], dtype: Any = ...) -> NDArray[Any]: ...  # noqa: ANN401
    def upload(self, source: NDArray[Any], target: int) -> None: ...
    def download(self, source: int, target: NDArray[Any]) -> None: ...
    def copy(self, source: int, target: int, size: int) -> None: ...
    def copy_rows(
        self, source: tuple[int, int], target: tuple[int, int], shape: tuple[int, int]
    ) -> None: ...
    def clear(self, target: int, size: int) -> None: ...
    def begin_frame(self) -> None: ...
    def capture(self, work: Callable[[], None]) -> Graph: ...
    def mark(self) -> Event: ...
    def follow_decoder(self) -> None: ...
    def wait(self) -> None: ...


class Network(Protocol):
    """An inference engine as the path uses it.

    takes_guide: whether the engine contains the guided filter: then it reads ``guide`` and writes
    ``slope`` and ``offset``.
    captures: whether its launches may be captured in the path's CUDA graphs.
    """

    takes_guide: bool
    captures: bool

    def bind(
        self,
        size: tuple[int, int],
        addresses: Mapping[str, int],
        device: Any,  # noqa: ANN401
    ) -> Callable[[], None]:
        """A function that runs it once on the device's stream, its tensors at these addresses."""


@dataclass(frozen=True)
class MapLayout:
    """Float32 maps in one block of memory, by name: (channels, height, width)."""

    maps: Mapping[str, tuple[int, int, int]]

    @property
    def offsets(self) -> dict[str, int]:
        """Byte offset of each map."""
        offsets, end = {}, 0
        for name, shape in self.maps.items():
            offsets[name] = end
            end += -(-4 * int(np.prod(shape)) // ALIGNMENT) * ALIGNMENT
        return offsets | {"": end}

    @property
    def size(self) -> int:
        """Bytes of the block."""
        return self.offsets[""]


class Blur(NamedTuple):
    """Blur of a background: its (height, width) and the weights of its 1-D Gaussian."""

    size: tuple[int, int]
    taps: Map


def blur_of(background: BlurBackground, size: tuple[int, int]) -> Blur:
    """The same blur as ``BlurBackground.render`` makes with OpenCV, for a network size."""
    height, width = size
    sigma = background.sigma * min(size) / 720
    factor = max(1, int(sigma / FINEST_BLUR))
    small = max(1, height // factor), max(1, width // factor)
    sigma /= factor
    count = round(8 * sigma + 1) | 1
    return Blur(small, np.asarray(cv2.getGaussianKernel(count, sigma, cv2.CV_32F)[:, 0]))


def map_layout(size: tuple[int, int], blur: tuple[int, int, int] | None) -> MapLayout:
    """The maps of a path at a network ``size``; ``blur``: height, width and taps of a blurred
    background."""
    height, width = size
    whole, half = (1, height, width), (height // 2, width // 2)
    columns, rows = COARSE
    maps = {"rgb": (3, *size), "color": (3, *size), "previous": whole}
    maps |= dict.fromkeys(Maps._fields, whole)
    maps |= dict.fromkeys(("slope", "unused_offset", "offset"), whole)
    maps |= dict.fromkeys(("half_color", "foreground_color", "old_color", "shift"), (3, *half))
    maps |= {"half_alpha": (1, *half), "coarse_rgb": (3, rows, columns)}
    maps |= {"coarse": (3, rows, columns), "flat": (3, 1, 1)}
    if blur is not None:
        small, taps = blur[:2], blur[2]
        maps |= {
            "background_color": (3, *small),
            "background_alpha": (1, *small),
            "blurred": (3, *small),
        }
        maps |= {"taps": (1, 1, taps)}
    return MapLayout(maps)


@dataclass(kw_only=True, eq=False)
class Slot:
    """The memory of one frame in flight.

    device: blocks of picture, composite and alpha; ``..._host`` and ``staging`` are pinned host
    memory for uploads and downloads.
    """

    device: list[Any]
    picture: cuda.Planes
    result: cuda.Planes
    alpha: int
    staging: Bytes
    result_host: Bytes
    alpha_host: Bytes
    coarse_host: Map
    job: cuda.CompositeJob
    maps_host: dict[str, Map]
    graphs: dict[str, Graph] = field(default_factory=dict)
    ran: set[str] = field(default_factory=set)
    follows: bool = False
    frame: Frame | None = None
    done: Event | None = None


@dataclass(kw_only=True)
class FramePath:
    """Processes the frames of one video on a device, while their size and pixel format stay.

    The previous frame's alpha stays on the device; ``matter`` decides which frames continue from
    it.

    download: whether composites are downloaded to the host or stay on the device.
    with_alpha: whether alpha planes are downloaded.
    with_mattes: mattes are downloaded (``matte_of``) and uploaded again, smoothed, by ``blend``;
    ``begin`` then only runs the network.
    """

    device: StreamDevice
    intake: StreamDevice
    network: Network
    matter: Matter
    background: Background
    like: Frame
    download: bool
    with_alpha: bool
    with_mattes: bool = False
    _slots: list[Slot] = field(default_factory=list)
    _free: list[Slot] = field(default_factory=list)
    _shown: object = None

    def __post_init__(self) -> None:
        self.size = self.matter.size_for(self.like)
        self.layout = layout_of(self.like)
        self.map_layout = map_layout(self.size, self._blur_size())
        self._maps = self.device.allocate(self.map_layout.size)
        base = int(self._maps)
        self._at = {name: base + offset for name, offset in self.map_layout.offsets.items()}
        self._levels, self._matrix = cuda.Levels(*self.like.levels), cuda.Matrix(*self.like.matrix)
        self._background_memory: Any = None
        names = ("image", "previous", "guide", *Maps._fields, "slope", "offset")
        ports = {name: self._at[_PORTS.get(name, name)] for name in names}
        self._infer = self.network.bind(self.size, ports, self.device)
        self.device.clear(base, self.map_layout.size)
        self._prepare_background()
        memory = self.matter.memory
        self._follows = memory is not None
        if memory is not None:
            previous = memory.alpha
            if previous.shape != self.size:  # the scale has changed
                previous = enlarge(previous, *self.size)
            self.device.upload(np.ascontiguousarray(previous), self._at["previous"])
        self.device.wait()

    def begin(self, frame: Frame) -> Slot:
        """Queues a frame's work on the stream; returns before it is done."""
        slot = self._free.pop() if self._free else self._new_slot()
        slot.frame = frame
        self._take_in(slot, frame)
        self.intake.mark().synchronize()
        anew = self.matter.starts_anew(frame, slot.coarse_host[0])
        slot.follows = self._follows and not anew
        if not slot.follows:
            self._restart(slot)
        self._follows = True
        if self.with_mattes:
            self._run(slot, "network", self._launch_network)
            for name, host in slot.maps_host.items():
                self.device.download(self._at[name], host)
        else:
            self._update_background(frame)
            self._run(slot, "all", self._launch)
            self._bring(slot)
        slot.done = self.device.mark()
        return slot

    def matte_of(self, slot: Slot) -> Matte:
        """Waits for the network; a copy of the frame's matte."""
        assert slot.frame is not None and slot.done is not None
        slot.done.synchronize()
        maps = {name: host.copy() for name, host in slot.maps_host.items()}
        color = maps.pop("color")
        flat = {name: plane[0] for name, plane in maps.items()}
        frame = slot.frame
        return Matte(color=color, pts=frame.pts, time_base=frame.time_base, **flat)

    def blend(self, slot: Slot, alpha: Map) -> None:
        """Queues the composite of a frame with this alpha, its matte's or a smoothed one;
        ``slot.done`` is its event."""
        assert slot.frame is not None
        self._update_background(slot.frame)
        slot.maps_host["alpha"][0] = alpha
        self.device.upload(slot.maps_host["alpha"], self._at["alpha"])
        self._run(slot, "composite", self._launch_composite)
        self._bring(slot)
        slot.done = self.device.mark()

    def run(self, slot: Slot) -> None:
        """Queues all launches for the slot's picture."""
        self._run(slot, "all", self._launch)

    def _run(self, slot: Slot, name: str, launch: Callable[[Slot], None]) -> None:
        """Launches one by one at first, then as a captured graph."""
        if name not in slot.graphs and name in slot.ran and self.network.captures:
            slot.graphs[name] = self.device.capture(lambda: launch(slot))
        if name in slot.graphs:
            slot.graphs[name].launch()
        else:
            launch(slot)
        slot.ran.add(name)

    def _bring(self, slot: Slot) -> None:
        """Downloads the requested results."""
        if self.download:
            self.device.download(slot.result.data[0], slot.result_host)
        if self.with_alpha:
            self.device.download(slot.alpha, slot.alpha_host)

    @property
    def is_idle(self) -> bool:
        """Whether no frame is in flight."""
        return len(self._free) == len(self._slots)

    def forget(self) -> None:
        """The next frame does not continue from the last one."""
        self._follows = False

    def release(self, slot: Slot) -> None:
        """Returns a slot for reuse."""
        slot.frame = None
        self._free.append(slot)

    def alpha_of(self, slot: Slot) -> Plane:
        """A slot's alpha in pinned memory, [height, width]; valid until its release."""
        layout, pitch = self.layout, self.layout.pitches[0]
        shape = layout.height, layout.width
        return np.ndarray(
            shape, layout.format.dtype, slot.alpha_host.data, 0, (pitch, layout.itemsize)
        )

    def hand_over(self) -> None:
        """Waits for the work and returns the last alpha to ``matter``."""
        previous = np.empty(self.size, np.float32)
        self.device.download(self._at["previous"], previous)
        self.device.wait()
        self.matter.keep(previous)

    def close(self) -> None:
        """Waits for the work and frees the memory."""
        self.device.wait()
        for slot in self._slots:
            for graph in slot.graphs.values():
                graph.close()
            slot.device.clear()
        self._slots.clear()
        self._free.clear()
        del self._maps, self._infer, self._background_memory

    def _new_slot(self) -> Slot:
        layout = self.layout
        alpha_size = layout.height * layout.pitches[0] * self.with_alpha
        blocks = [self.device.allocate(size) for size in (layout.size, layout.size, alpha_size)]
        picture, result = (layout.planes_at(int(block)) for block in blocks[:2])
        alpha, planes = int(blocks[2]) * self.with_alpha, self._background_planes()
        coarse = self.device.pinned(self.map_layout.maps["coarse"], np.float32)
        sizes = layout.size, layout.size * self.download, alpha_size
        hosts = [self.device.pinned((size,), np.uint8) for size in sizes]
        job = cuda.CompositeJob(
            layout.kernel_layout(), picture, planes, self._background_grid(), result, alpha or None,
            layout.pitches[0], self._levels, self._grid("slope"), self._grid("offset"),
            self._grid("shift"), True,
        )  # fmt: skip
        slot = Slot(
            device=blocks, picture=picture, result=result, alpha=alpha, staging=hosts[0],
            result_host=hosts[1], alpha_host=hosts[2], coarse_host=coarse, job=job,
            maps_host=self._maps_on_host(),
        )  # fmt: skip
        self._slots.append(slot)
        return slot

    def _maps_on_host(self) -> dict[str, Map]:
        """Pinned memory for the maps of a matte."""
        names = ("color", *Maps._fields) if self.with_mattes else ()
        return {name: self.device.pinned(self.map_layout.maps[name], np.float32) for name in names}

    def _take_in(self, slot: Slot, frame: Frame) -> None:
        """Copies the picture into the slot, and a coarse luma of it to the host."""
        intake = self.intake
        if isinstance(frame, DeviceFrame):
            intake.follow_decoder()
            targets = zip(slot.picture.data, slot.picture.stride, self.layout.rows, strict=False)
            for source, (address, pitch, shape) in zip(
                addresses(frame.picture), targets, strict=False
            ):
                intake.copy_rows(source, (address, pitch), shape)
        else:
            self.layout.pack(frame.planes, slot.staging)
            intake.upload(slot.staging, slot.picture.data[0])
        self._resize(intake, slot, "coarse_rgb", "coarse")
        intake.download(self._at["coarse"], slot.coarse_host)

    def _resize(self, device: StreamDevice, slot: Slot, rgb: str, ycbcr: str) -> None:
        _, height, width = self.map_layout.maps[ycbcr]
        job = cuda.ResizeJob(
            self.layout.kernel_layout(), slot.picture, self._levels, self._matrix, height, width,
            self._at[rgb], self._at[ycbcr],
        )  # fmt: skip
        cuda.resize_to_tensor(device, job)

    def _restart(self, slot: Slot) -> None:
        """A first frame: a first matte serves as the previous alpha, as in ``Matter``."""
        size = 4 * self.size[0] * self.size[1]
        self.device.clear(self._at["previous"], size)
        if self.matter.bundle.takes_previous:
            self._resize(self.device, slot, "rgb", "color")
            self._infer()
            self.device.copy(self._at["alpha"], self._at["previous"], size)

    def _launch(self, slot: Slot) -> None:
        self.device.begin_frame()
        self._resize(self.device, slot, "rgb", "color")
        self._infer()
        if not self.network.takes_guide:
            self._filter()
        self._composite(slot)
        self._remember()

    def _launch_network(self, slot: Slot) -> None:
        self.device.begin_frame()
        self._resize(self.device, slot, "rgb", "color")
        self._infer()
        self._remember()

    def _launch_composite(self, slot: Slot) -> None:
        """Composites with the uploaded alpha; other frames have used the maps in between."""
        self.device.begin_frame()
        self._resize(self.device, slot, "rgb", "color")
        self._filter()
        self._composite(slot)

    def _remember(self) -> None:
        """Stores the network's alpha for the next frame."""
        size = 4 * self.size[0] * self.size[1]
        self.device.copy(self._at["alpha"], self._at["previous"], size)

    def _composite(self, slot: Slot) -> None:
        """Everything after slope and offset: foreground colour, blur, the composite."""
        device, at, size = self.device, self._at, self.size
        half = self.map_layout.maps["half_color"][1:]
        cuda.shrink(device, at["color"], (3, *size), at["half_color"], half)
        cuda.shrink(device, at["alpha"], (1, *size), at["half_alpha"], half)
        lower, upper = ((ctypes.c_float * 3)(*limits) for limits in zip(*YCBCR_BOUNDS, strict=True))
        colors = (
            at[name] for name in ("half_color", "half_alpha", "foreground_color", "old_color")
        )
        job = cuda.ForegroundJob(*half, None, 0, lower, upper, *colors)
        cuda.estimate_foreground(device, job, [min(r, *half) for r in FOREGROUND_RADII])
        cuda.color_shift(
            device, at["foreground_color"], at["half_color"], self._levels, at["shift"], half
        )
        if isinstance(self.background, BlurBackground):
            self._blur()
        cuda.composite(device, slot.job)

    def _filter(self) -> None:
        at, size = self._at, self.size
        pointers = at["color"], at["alpha"], at["slope"], at["unused_offset"]
        job = cuda.GuidedJob(*size, RADIUS, EPSILON, *pointers)
        cuda.guided_coefficients(self.device, job)
        cuda.refine_offset(self.device, at["alpha"], at["slope"], at["color"], at["offset"], size)

    def _blur_size(self) -> tuple[int, int, int] | None:
        if not isinstance(self.background, BlurBackground):
            return None
        blur = blur_of(self.background, self.size)
        return *blur.size, len(blur.taps)

    def _blur(self) -> None:
        device, at, size = self.device, self._at, self.size
        _, height, width = self.map_layout.maps["blurred"]
        cuda.shrink(device, at["color"], (3, *size), at["background_color"], (height, width))
        cuda.shrink(device, at["alpha"], (1, *size), at["background_alpha"], (height, width))
        radius = self.map_layout.maps["taps"][2] // 2
        job = cuda.BlurJob(
            height, width, radius, at["taps"], at["background_color"], at["background_alpha"],
            at["blurred"], self._levels,
        )  # fmt: skip
        cuda.blur_background(device, job)

    def _prepare_background(self) -> None:
        if isinstance(self.background, BlurBackground):
            self.device.upload(blur_of(self.background, self.size).taps, self._at["taps"])
            return
        pixels = self.background.render(self.like, None)
        if isinstance(pixels[0], int):
            flat = np.array(pixels, np.float32)
            self.device.upload(flat, self._at["flat"])
        else:
            self._background_memory = self.device.allocate(self.layout.size)
            self._background_host = np.zeros(self.layout.size, np.uint8)

    def _update_background(self, frame: Frame) -> None:
        """Uploads the background if it changed; the stream orders that after earlier frames."""
        if self._background_memory is None:
            return
        pixels = cast(Planes, self.background.render(frame, None))
        if pixels is not self._shown:
            self.layout.pack(pixels, self._background_host)
            self.device.upload(self._background_host, int(self._background_memory))
            self._shown = pixels

    def _background_planes(self) -> cuda.Planes:
        if self._background_memory is None:
            return cuda.Planes()
        return self.layout.planes_at(int(self._background_memory))

    def _background_grid(self) -> cuda.Grid:
        if self._background_memory is not None:
            return cuda.Grid()
        return self._grid("blurred" if isinstance(self.background, BlurBackground) else "flat")

    def _grid(self, name: str) -> cuda.Grid:
        return cuda.Grid(self._at[name], *self.map_layout.maps[name][1:])


_PORTS = {"image": "rgb", "guide": "color"}
"""Engine tensors whose map has another name."""
