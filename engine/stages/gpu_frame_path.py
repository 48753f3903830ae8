"""The processing of a frame on the GPU: one sequence of kernel launches on one CUDA stream.

It computes the same as ``Matter``, ``refine`` and ``compose``: area-averaged network input, guided
filter at the network's resolution, foreground colour, despill and light wrap at half of that, then
one pass over the frame's planes for each picture that is made of it.  The maps lie as the frame
does; only the network's own tensors are turned for display.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from fusematte.cpp_ext import cuda
from fusematte.engine.backends import Maps
from fusematte.engine.compositing.backgrounds import (
    Background,
    BlurBackground,
    TransparentBackground,
)
from fusematte.engine.compositing.composite import FOREGROUND_RADII, YCBCR_BOUNDS
from fusematte.engine.compositing.look import TINT, wrap_sigma
from fusematte.engine.cuda.device_pictures import (
    DeviceFrame,
    addresses,
    layout_of,
)
from fusematte.engine.frame import PQ, Frame, Map, Matte, Plane, Planes
from fusematte.engine.matting.from_afar import confirmed
from fusematte.engine.matting.mask import WHOLE
from fusematte.engine.matting.matter import Matter
from fusematte.engine.matting.refine import (
    CERTAIN,
    COLOR_EPSILON,
    COLOR_RADIUS,
    EPSILON,
    RADIUS,
)
from fusematte.engine.pixels.color import enlarge, viewable
from fusematte.engine.stages.contract import StageOptions
from fusematte.engine.stages.gpu_maps import (
    MapLayout,
    Shapes,
    blur_maps,
    blur_of,
    displayed_maps,
    frame_maps,
    gaussian,
    wrap_maps,
)

CURVE = 1 << 14
"""Entries of the table with the curve from PQ to what an SDR screen shows."""

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

    takes_guide: whether the engine contains the guided filter in colour: then it reads ``guide``
    and writes ``guided``.
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


@dataclass(kw_only=True, eq=False)
class Layer:
    """A picture that is made of a frame: the composite, or the person's own colours.

    address: on the device; host: pinned memory for the download, empty without one.
    """

    address: int
    host: Bytes
    job: cuda.CompositeJob


@dataclass(kw_only=True, eq=False)
class Slot:
    """The memory of one frame in flight.

    device: blocks of frame, alpha and layers; ``..._host`` and ``staging`` are pinned host memory
    for uploads and downloads.
    refined: writes the alpha that a mask edits; its picture is overwritten.
    """

    device: list[Any]
    picture: cuda.Planes
    alpha: int
    staging: Bytes
    alpha_host: Bytes
    coarse_host: Map
    composite: Layer | None
    foreground: Layer | None
    refined: cuda.CompositeJob | None
    maps_host: dict[str, Map]
    graphs: dict[str, Graph] = field(default_factory=dict)
    ran: set[str] = field(default_factory=set)
    follows: bool = False
    frame: Frame | None = None
    done: Event | None = None

    @property
    def layers(self) -> list[Layer]:
        """The pictures that are made."""
        return [layer for layer in (self.composite, self.foreground) if layer is not None]


@dataclass(kw_only=True)
class FramePath:
    """Processes the frames of one video on a device, while their size and pixel format stay.

    The previous frame's alpha stays on the device; ``matter`` decides which frames continue from
    it.

    download: whether composites are downloaded to the host or stay on the device.
    options: if they need mattes, these are downloaded (``matte_of``) and uploaded again, smoothed,
    by ``blend``; ``begin`` then only runs the network.
    """

    device: StreamDevice
    intake: StreamDevice
    network: Network
    matter: Matter
    background: Background
    like: Frame
    download: bool
    options: StageOptions
    _slots: list[Slot] = field(default_factory=list)
    _free: list[Slot] = field(default_factory=list)
    _shown: object = None

    def __post_init__(self) -> None:
        look = self.options.look
        self._turns = self.like.rotation // 90
        self._displayed = height, width = self.matter.size_for(self.like)
        self.size = (width, height) if self._turns % 2 else (height, width)
        self._half = self.size[0] // 2, self.size[1] // 2
        self.layout = layout_of(self.like)
        self._transparent = isinstance(self.background, TransparentBackground)
        self._with_foreground = self.options.with_foreground or self._transparent
        self._edits = look.mask != WHOLE
        self._wraps = look.light_wrap > 0 and not self._transparent
        self._is_pq = self.like.color.transfer == PQ
        tables = self._tables()
        self.map_layout = MapLayout(self._wanted_maps(tables))
        self._maps = self.device.allocate(self.map_layout.size)
        base = int(self._maps)
        self._at = {name: base + offset for name, offset in self.map_layout.offsets.items()}
        self._levels, self._matrix = cuda.Levels(*self.like.levels), cuda.Matrix(*self.like.matrix)
        self._background_memory: Any = None
        self._tensor = self._tensors()
        self._run_network = self.network.bind(self._displayed, self._tensor, self.device)
        self.device.clear(base, self.map_layout.size)
        for name, table in tables.items():
            self.device.upload(table, self._at[name])
        self._prepare_background()
        if self._edits:
            self._edited_host = self.device.pinned(self.map_layout.maps["edited"][1:], np.float32)
        memory = self.matter.memory
        self._follows = memory is not None
        if memory is not None:
            previous = memory.alpha
            if previous.shape != self._displayed:  # the scale has changed
                previous = enlarge(previous, *self._displayed)
            self.device.upload(np.ascontiguousarray(previous), self._at["previous"])
        self.device.wait()

    def _tables(self) -> dict[str, Map]:
        """What is computed once, by the name of the map it is kept in."""
        tables = {}
        if isinstance(self.background, BlurBackground):
            tables["taps"] = blur_of(self.background, self.size).taps
        if self._wraps:
            tables["wrap_taps"] = gaussian(wrap_sigma(self._half))
        if self._is_pq:
            signal = np.broadcast_to(np.linspace(0, 1, CURVE, dtype=np.float32), (3, 1, CURVE))
            tables["curve"] = np.ascontiguousarray(viewable(signal, self.like.color)[0, 0])
        return tables

    def _wanted_maps(self, tables: Mapping[str, Map]) -> Shapes:
        maps = frame_maps(self.size)
        maps |= {name: (1, 1, len(table)) for name, table in tables.items()}
        if isinstance(self.background, BlurBackground):
            maps |= blur_maps(blur_of(self.background, self.size))
        if self._wraps:
            maps |= wrap_maps(self._half)
        if self._edits:
            maps |= {"edited": (1, self.layout.height, self.layout.width), "no_slope": (1, 1, 1)}
        if self._turns:
            maps |= displayed_maps(self._displayed)
        return maps

    def _tensors(self) -> dict[str, int]:
        """The addresses of the network's tensors."""
        names = ("image", "previous", "guide", *Maps._fields, "guided")
        maps = self._at | {"guide": self._at["color"]}
        return {name: maps.get(f"displayed_{name}", maps[name]) for name in names}

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
        if self.options.needs_mattes:
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
        if self._edits:
            self._run(slot, "refined", self._launch_refined)
            self._edit(slot)
            self._run(slot, "edited", self._launch_edited)
        else:
            self._run(slot, "composite", self._launch_composite)
        self._bring(slot)
        slot.done = self.device.mark()

    def _edit(self, slot: Slot) -> None:
        """Waits for the refined alpha; uploads it with the mask's edits, which are OpenCV's."""
        self.device.download(slot.alpha, slot.alpha_host)
        self.device.mark().synchronize()
        peak = self.layout.format.peak
        edited = self.options.look.mask.edit(self.alpha_of(slot), peak)
        np.divide(edited, np.float32(peak), out=self._edited_host)
        self.device.upload(self._edited_host, self._at["edited"])

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
        for layer in slot.layers:
            if layer.host.size:
                self.device.download(layer.address, layer.host)
        if self.options.with_alpha or slot.foreground is not None:
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
        self.matter.keep(self._downloaded("previous", self._displayed))

    def close(self) -> None:
        """Waits for the work and frees the memory."""
        self.device.wait()
        for slot in self._slots:
            for graph in slot.graphs.values():
                graph.close()
            slot.device.clear()
        self._slots.clear()
        self._free.clear()
        del self._maps, self._run_network, self._background_memory

    def _new_slot(self) -> Slot:
        layout = self.layout
        needs_alpha = self.options.with_alpha or self._with_foreground or self._edits
        alpha_size = layout.height * layout.pitches[0] * needs_alpha
        blocks = [self.device.allocate(size) for size in (layout.size, alpha_size)]
        picture, alpha = layout.planes_at(int(blocks[0])), int(blocks[1]) * needs_alpha

        composite = None if self._transparent else self._layer(picture, alpha, blocks, new=True)
        foreground = None
        if self._with_foreground:
            foreground = self._layer(picture, alpha, blocks, new=False)
        slot = Slot(
            device=blocks, picture=picture, alpha=alpha,
            staging=self.device.pinned((layout.size,), np.uint8),
            alpha_host=self.device.pinned((alpha_size,), np.uint8),
            coarse_host=self.device.pinned(self.map_layout.maps["coarse"], np.float32),
            composite=composite, foreground=foreground, refined=None,
            maps_host=self._maps_on_host(),
        )  # fmt: skip
        if self._edits:
            slot.refined = self._job(picture, slot.layers[0].address, alpha)
        self._slots.append(slot)
        return slot

    def _layer(self, picture: cuda.Planes, alpha: int, blocks: list[Any], *, new: bool) -> Layer:
        """A picture's memory, which is added to ``blocks``, and its job.

        new: over the new background; else the person's own colours.
        """
        look, size = self.options.look, self.layout.size
        blocks.append(self.device.allocate(size))
        job = self._job(picture, int(blocks[-1]), alpha)
        job.shift = self._grid("lit_shift" if new and self._wraps else "shift")
        job.keep_solid = look.keeps_colors if new else not look.despill
        if self._edits:
            job.slope, job.offset = self._grid("no_slope"), self._grid("edited")
        if new:
            job.background = self._background_planes()
            job.small_background = self._background_grid()
        host = self.device.pinned((size * (self.download or not new),), np.uint8)
        return Layer(address=int(blocks[-1]), host=host, job=job)

    def _job(self, picture: cuda.Planes, result: int, alpha: int) -> cuda.CompositeJob:
        """The refined alpha, and the frame's own colours."""
        return cuda.CompositeJob(
            layout=self.layout.kernel_layout(),
            frame=picture,
            out=self.layout.planes_at(result),
            alpha=alpha or None,
            alpha_stride=self.layout.pitches[0],
            levels=self._levels,
            slope=self._grid("slope"),
            offset=self._grid("offset"),
        )

    def _maps_on_host(self) -> dict[str, Map]:
        """Pinned memory for the maps of a matte."""
        names = ("color", *Maps._fields) if self.options.needs_mattes else ()
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
        self._resize(intake, slot.picture, "coarse_rgb", "coarse")
        intake.download(self._at["coarse"], slot.coarse_host)

    def _resize(self, device: StreamDevice, picture: cuda.Planes, rgb: str, ycbcr: str) -> None:
        _, height, width = self.map_layout.maps[ycbcr]
        job = cuda.ResizeJob(
            self.layout.kernel_layout(), picture, self._levels, self._matrix, height, width,
            self._at[rgb], self._at[ycbcr],
        )  # fmt: skip
        cuda.resize_to_tensor(device, job)

    def _restart(self, slot: Slot) -> None:
        """A first frame: a first matte, confirmed from afar, serves as the previous alpha, as in
        ``Matter``."""
        self.device.clear(self._at["previous"], 4 * self.size[0] * self.size[1])
        if self.matter.bundle.takes_previous:
            self._resize(self.device, slot.picture, "image", "color")
            self._infer()
            image = self._downloaded("image", (1, 3, *self._displayed))
            alpha = self._downloaded("alpha", self._displayed)
            self.device.upload(confirmed(alpha, image, self._look), self._at["previous"])
            self.device.wait()

    def _look(self, image: Map) -> Map:
        """The network's alpha of another picture, as displayed; a first frame has no previous."""
        self.device.upload(image, self._tensor["image"])
        self._run_network()
        return self._downloaded("alpha", self._displayed)

    def _downloaded(self, tensor: str, shape: tuple[int, ...]) -> Map:
        """One of the network's tensors, once the work before is done."""
        host = np.empty(shape, np.float32)
        self.device.download(self._tensor[tensor], host)
        self.device.wait()
        return host

    def _launch(self, slot: Slot) -> None:
        self.device.begin_frame()
        self._resize(self.device, slot.picture, "image", "color")
        self._infer()
        if not self.network.takes_guide:
            self._draw_to_edges()
        self._filter()
        self._composite(slot)
        self._remember()

    def _launch_network(self, slot: Slot) -> None:
        self.device.begin_frame()
        self._resize(self.device, slot.picture, "image", "color")
        self._infer()
        self._remember()

    def _launch_composite(self, slot: Slot) -> None:
        """Composites with the uploaded alpha; other frames have used the maps in between."""
        self.device.begin_frame()
        self._resize(self.device, slot.picture, "image", "color")
        self._draw_to_edges()
        self._filter()
        self._composite(slot)

    def _launch_refined(self, slot: Slot) -> None:
        """The uploaded alpha at full resolution, for the mask to edit."""
        self.device.begin_frame()
        self._resize(self.device, slot.picture, "image", "color")
        self._draw_to_edges()
        self._filter()
        assert slot.refined is not None
        cuda.composite(self.device, slot.refined)

    def _launch_edited(self, slot: Slot) -> None:
        """Composites with the uploaded alpha at full resolution."""
        self.device.begin_frame()
        at, edited = self._at, self.map_layout.maps["edited"]
        cuda.shrink(self.device, at["edited"], edited, at["alpha"], self.size)
        self._composite(slot)

    def _infer(self) -> None:
        """The network, which sees frames upright and in the colours of an SDR screen."""
        guided = self.network.takes_guide
        if self._is_pq:
            shape = self.map_layout.maps["image"]
            cuda.apply_curve(self.device, self._at["image"], shape, self._at["curve"], CURVE)
        if self._turns:
            self._turn("image", self._at["image"], 3, back=False)
            if guided:
                self._turn("guide", self._at["color"], 3, back=False)
        self._run_network()
        if self._turns:
            for name in (*Maps._fields, *(("guided",) if guided else ())):
                self._turn(name, self._at[name], 1, back=True)

    def _turn(self, tensor: str, address: int, channels: int, *, back: bool) -> None:
        """Turns a map of a frame for display into one of the network's tensors, or back."""
        quarters = (self._turns if back else -self._turns) % 4
        ends = (self.size, address), (self._displayed, self._tensor[tensor])
        (size, source), (_, target) = ends[::-1] if back else ends
        cuda.turn(self.device, source, (channels, *size), target, quarters)

    def _remember(self) -> None:
        """Stores the network's alpha for the next frame."""
        size = 4 * self.size[0] * self.size[1]
        self.device.copy(self._tensor["alpha"], self._at["previous"], size)

    def _composite(self, slot: Slot) -> None:
        """Everything after slope and offset: foreground colour, blur, the pictures."""
        device, at, size, half = self.device, self._at, self.size, self._half
        cuda.shrink(device, at["color"], (3, *size), at["half_color"], half)
        cuda.shrink(device, at["alpha"], (1, *size), at["half_alpha"], half)
        lower, upper = ((ctypes.c_float * 3)(*limits) for limits in zip(*YCBCR_BOUNDS, strict=True))
        colors = (
            at[name] for name in ("half_color", "half_alpha", "foreground_color", "old_color")
        )
        job = cuda.ForegroundJob(*half, None, 0, lower, upper, *colors)
        cuda.estimate_foreground(device, job, [min(r, *half) for r in FOREGROUND_RADII])
        if self.options.look.despill:
            cuda.despill(device, job, self.options.look.despill, TINT)
        self._shift("foreground_color", "shift")
        if isinstance(self.background, BlurBackground):
            self._blur()
        if self._wraps:
            self._wrap()
            self._shift("lit_color", "lit_shift")
        for layer in slot.layers:
            cuda.composite(device, layer.job)

    def _shift(self, color: str, shift: str) -> None:
        """What is to be added to the frame's colours to make them these."""
        at, half = self._at, self._half
        cuda.color_shift(self.device, at[color], at["half_color"], self._levels, at[shift], half)

    def _wrap(self) -> None:
        """The background's light on the person's colours."""
        device, at, half = self.device, self._at, self._half
        if self._background_memory is None:
            cuda.grid_light(device, self._background_grid(), self._levels, at["light"], half)
        else:
            self._resize(device, self._background_planes(), "light_rgb", "light")
        radius = self.map_layout.maps["wrap_taps"][2] // 2
        pointers = (at[name] for name in ("light", "half_alpha", "foreground_color", "lit_color"))
        strength = self.options.look.light_wrap
        cuda.light_wrap(device, cuda.WrapJob(*half, radius, at["wrap_taps"], strength, *pointers))

    def _draw_to_edges(self) -> None:
        """The guided filter in colour, ``refine.at_edges``."""
        at, size = self._at, self.size
        radius = min(COLOR_RADIUS, *self._half)
        pointers = at["color"], at["alpha"], at["guided"]
        job = cuda.GuidedAlphaJob(*size, radius, CERTAIN, COLOR_EPSILON, *pointers)
        cuda.guided_alpha(self.device, job)

    def _filter(self) -> None:
        """The guided filter's coefficients in the luma, ``refine.coefficients``."""
        at, size = self._at, self.size
        pointers = at["color"], at["guided"], at["slope"], at["offset"]
        job = cuda.GuidedJob(*size, RADIUS, EPSILON, *pointers)
        cuda.guided_coefficients(self.device, job)

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
