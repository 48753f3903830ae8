"""The frame path of the GPU with its kernels compiled for the CPU: the pictures of ``compose``.

What is left to a GPU, see test_on_a_gpu.py: the driver's own calls, NVDEC and NVENC.
"""

from __future__ import annotations

import ctypes
import gc
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from tests.device import HostDevice, compiled_for_the_host
from tests.helpers import content, make_clip, run_whole

from fusematte.cpp_ext import guided_alpha
from fusematte.engine.backends import Maps, sharing
from fusematte.engine.compositing.backgrounds import open_background
from fusematte.engine.compositing.composite import Composite, compose
from fusematte.engine.compositing.look import Look
from fusematte.engine.cuda.device_pictures import (
    PAIRED_NAMES,
    DeviceFrame,
    PictureLayout,
    stand_ins,
)
from fusematte.engine.frame import PIXEL_FORMATS, Color, Frame, Map, Matte, VideoInfo
from fusematte.engine.live.session import Session
from fusematte.engine.matting.mask import Mask
from fusematte.engine.matting.matter import Matter
from fusematte.engine.matting.refine import CERTAIN, COLOR_EPSILON, COLOR_RADIUS
from fusematte.engine.media.formats import Encoding
from fusematte.engine.media.reader import Reader
from fusematte.engine.media.writer import Writer
from fusematte.engine.stages import chosen
from fusematte.engine.stages import gpu as stages
from fusematte.engine.stages.contract import StageOptions, Stages
from fusematte.engine.stages.cpu import CpuStages
from fusematte.engine.stages.gpu import GpuStages, nvdec_for, nvenc_for, take_gpu, why_not
from fusematte.engine.stages.gpu_maps import MapLayout, frame_maps

HEIGHT, WIDTH = 96, 160
PLAIN = StageOptions()
HD = VideoInfo(
    name="clip.mp4",
    container_name="mp4",
    width=1920,
    height=1080,
    format=PIXEL_FORMATS["yuv420p"],
    on_device=True,
)


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> HostDevice:
    return compiled_for_the_host(tmp_path_factory.mktemp("device"))


def network_of(image: Map, previous: Map) -> Maps:
    """A network that anybody can follow: people are where it is red, or where they just were; less
    so towards the lower right, so that it matters how a frame is turned."""
    y, x = np.mgrid[0 : image.shape[2], 0 : image.shape[3]]
    seen = (
        np.float32(1) - np.float32(0.3) * y / image.shape[2] - np.float32(0.1) * x / image.shape[3]
    )
    alpha = np.clip(seen * (3 * (image[0, 0] - image[0, 1]) + 0.5 * previous[0, 0]), 0, 1)
    alpha = alpha.astype(np.float32)
    return Maps(alpha, alpha, 1 - alpha, np.ones_like(alpha))


class HostNetwork:
    """The same in memory at addresses."""

    takes_guide = False
    captures = True

    def __init__(self) -> None:
        self.runs = 0

    def bind(
        self,
        size: tuple[int, int],
        addresses: Mapping[str, int],
        device: Any,  # noqa: ANN401, ARG002
    ) -> Callable[[], None]:
        image = at(addresses["image"], (1, 3, *size))
        previous = at(addresses["previous"], (1, 1, *size))

        def run() -> None:
            self.runs += 1
            for name, value in network_of(image, previous)._asdict().items():
                at(addresses[name], size)[:] = value

        return run


class GuidedNetwork(HostNetwork):
    """One that contains the guided filter."""

    takes_guide = True

    def bind(
        self,
        size: tuple[int, int],
        addresses: Mapping[str, int],
        device: Any,  # noqa: ANN401
    ) -> Callable[[], None]:
        network = super().bind(size, addresses, device)
        guide = at(addresses["guide"], (3, *size))
        alpha, guided = (at(addresses[name], size) for name in ("alpha", "guided"))

        def run() -> None:
            network()
            guided[:] = guided_alpha(guide, alpha, COLOR_RADIUS, COLOR_EPSILON, certain=CERTAIN)

        return run


def at(address: int, shape: tuple[int, ...]) -> NDArray[np.float32]:
    count = int(np.prod(shape))
    values = (ctypes.c_float * count).from_address(address)
    return np.frombuffer(values, np.float32).reshape(shape)


class HostMatter(Matter):
    """A Matter whose network is ``network_of``, at a small size."""

    opened: ClassVar[list[Matter]] = []

    def __init__(self) -> None:
        super().__init__()
        self.opened.append(self)
        self.bundle = replace(self.bundle, default_size=(64, 96))

    def infer(self, image: Map, previous: Map) -> Maps:
        return network_of(image, previous)


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """No matter keeps the network that the process shares."""
    yield
    while HostMatter.opened:
        HostMatter.opened.pop().close()
    assert not sharing.users()


@pytest.fixture
def matter() -> HostMatter:
    return HostMatter()


def pictures(name: str, count: int = 4, *, cut: bool = False) -> list[Frame]:
    """A red disc that wanders over waves, in one of the engine's layouts."""
    format = PIXEL_FORMATS[name]
    frames = []
    for index in range(count):
        y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
        rgb = np.stack([np.sin(x / (9 + 4 * c)) * 40 + 120 + 20 * np.cos(y / 7) for c in range(3)])
        if cut and index >= count // 2:
            rgb = 255 - rgb[:, ::-1]
        disc = ((y - 50) ** 2 + (x - 60 - 3 * index) ** 2)[None] < 30**2
        rgb = np.where(disc, np.array([220, 60, 40])[:, None, None], rgb)
        noise = np.random.default_rng(index).normal(0, 4, rgb.shape)
        image = np.clip(rgb + noise, 0, 255).astype(np.uint8).transpose(1, 2, 0)
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), "rgb24")
        planes = []
        for plane in picture.reformat(format=name).planes:
            samples = np.frombuffer(plane, format.dtype).reshape(plane.height, -1)
            planes.append(samples[:, : plane.width].copy())
        frames.append(
            Frame(
                planes=(planes[0], planes[1], planes[2]),
                format=format,
                color=Color(1, 1, 1),
                pts=index,
                time_base=Fraction(1, 25),
            )
        )
    return frames


def on_device(frame: Frame) -> DeviceFrame:
    """The same frame as a decoder of the device gives it: U and V in turns, rows further apart."""
    name = PAIRED_NAMES[frame.format.name]
    picture = av.VideoFrame(frame.width, frame.height, name)
    layout = PictureLayout(format=frame.format, height=frame.height, width=frame.width, paired=True)
    block = np.zeros(layout.size, np.uint8)
    layout.pack(frame.planes, block)
    for plane, samples in zip(picture.planes, layout.views(block), strict=True):
        rows = np.frombuffer(plane, samples.dtype).reshape(plane.height, -1)
        rows[:, : samples.shape[1]] = samples
    known = {k: v for k, v in vars(frame).items() if k != "planes"}
    planes = stand_ins(frame.format, frame.height, frame.width)
    return DeviceFrame(planes=planes, picture=picture, **known)


def gpu_stages(
    device: HostDevice,
    matter: Matter,
    background: str,
    *,
    keep: bool = False,
    alpha: bool = True,
    options: StageOptions = PLAIN,
    network: HostNetwork | None = None,
) -> GpuStages:
    return GpuStages(
        network or HostNetwork(),
        (device, device),
        nullcontext,
        matter,
        open_background(background),
        replace(options, with_alpha=alpha),
        keep=keep,
    )


def through(stages: Stages, frame: Frame) -> Composite:
    """A frame's way through stages that hold none back."""
    (matted,) = stages.begin(frame)
    return stages.finish(matted)


@pytest.fixture
def backgrounds(tmp_path: Path) -> dict[str, str]:
    image = av.VideoFrame.from_ndarray(
        np.random.default_rng(5).integers(0, 255, (50, 90, 3), np.uint8), "rgb24"
    )
    image.save(tmp_path / "room.png")
    make_clip(tmp_path / "room.mp4", frames=3, rate=25)
    return {"image": str(tmp_path / "room.png"), "video": str(tmp_path / "room.mp4")}


# --- the picture ----------------------------------------------------------------------------------


@pytest.mark.parametrize("background", ["#2050a0", "blur", "blur:60", "image", "video"])
@pytest.mark.parametrize("layout", ["yuv420p", "nv12", "p010le", "yuv444p10le"])
def test_it_is_what_compose_makes(
    device: HostDevice,
    matter: HostMatter,
    backgrounds: dict[str, str],
    background: str,
    layout: str,
) -> None:
    spec = backgrounds.get(background, background)
    compare_with_compose(device, matter, spec, layout, PLAIN, cut=background == "image")


TURNED, PQ, HLG = {"rotation": 90}, {"color": Color(9, 9, 16)}, {"color": Color(9, 9, 18)}


@pytest.mark.parametrize(
    ("background", "layout", "options", "tags"),
    [
        ("transparent", "yuv420p", StageOptions(), {}),
        ("transparent", "p010le", StageOptions(look=Look(light_wrap=0.7, despill=0.5)), TURNED),
        ("mask", "nv12", StageOptions(with_foreground=True), {}),
        (
            "mask",
            "p010le",
            StageOptions(look=Look(mask=Mask(invert=True)), with_foreground=True),
            TURNED,
        ),
        ("blur", "nv12", StageOptions(with_foreground=True), {}),
        ("video", "yuv444p10le", StageOptions(with_foreground=True), {"rotation": 180}),
        ("#2050a0", "nv12", StageOptions(look=Look(despill=1.0)), {}),
        ("image", "yuv422p", StageOptions(look=Look(light_wrap=1.0)), {}),
        ("blur", "yuv420p", StageOptions(look=Look(light_wrap=0.7)), {"rotation": 270}),
        (
            "#e0e060",
            "p010le",
            StageOptions(look=Look(light_wrap=0.7, despill=0.5), with_foreground=True),
            {},
        ),
        ("image", "nv12", StageOptions(look=Look(mask=Mask(invert=True))), {}),
        ("blur", "yuv420p10le", StageOptions(look=Look(mask=Mask(grow=4, feather=2.5))), TURNED),
        (
            "transparent",
            "yuv444p",
            StageOptions(look=Look(despill=0.5, mask=Mask(min_alpha=0.3, grow=-3))),
            {},
        ),
        ("blur", "yuv420p", PLAIN, TURNED),
        ("image", "nv12", PLAIN, {"rotation": 180}),
        ("#2050a0", "yuv422p10le", PLAIN, {"rotation": 270}),
        ("#2050a0", "p010le", PLAIN, PQ),
        ("image", "yuv420p10le", StageOptions(look=Look(light_wrap=0.5)), PQ | TURNED),
        ("blur", "p010le", PLAIN, HLG),
    ],
)
def test_every_option_makes_what_compose_makes(
    device: HostDevice,
    matter: HostMatter,
    backgrounds: dict[str, str],
    background: str,
    layout: str,
    options: StageOptions,
    tags: dict[str, Any],
) -> None:
    spec = backgrounds.get(background, background)
    compare_with_compose(device, matter, spec, layout, options, **tags)


@pytest.mark.parametrize("rotation", [0, 90])
def test_a_network_with_the_guided_filter(
    device: HostDevice, matter: HostMatter, rotation: int
) -> None:
    compare_with_compose(
        device, matter, "blur", "nv12", PLAIN, network=GuidedNetwork(), rotation=rotation
    )


def compare_with_compose(
    device: HostDevice,
    matter: HostMatter,
    spec: str,
    layout: str,
    options: StageOptions,
    *,
    network: HostNetwork | None = None,
    cut: bool = False,
    **tags: Any,  # noqa: ANN401
) -> None:
    """Frames in a layout, with other tags, on the device and over ``compose``."""
    engines = {name: key for key, name in PAIRED_NAMES.items()}
    frames = [replace(f, **tags) for f in pictures(engines.get(layout, layout), cut=cut)]
    scene = open_background(spec)
    work = gpu_stages(device, matter, spec, options=options, network=network)
    reference = HostMatter()
    for frame in frames:
        given = on_device(frame) if layout in engines else frame
        got = through(work, given)
        expected = compose(
            frame,
            reference(frame),
            scene,
            look=options.look,
            with_alpha=True,
            with_foreground=options.with_foreground,
        )
        assert type(got.frame) is Frame
        assert got.alpha is not None and expected.alpha is not None
        assert_alike(got.alpha, expected.alpha)
        assert 0.1 < (got.alpha == frame.format.peak).mean() < 0.9
        assert_frames_alike(got.frame, expected.frame)
        assert (got.foreground is None) == (expected.foreground is None)
        if got.foreground is not None and expected.foreground is not None:
            assert_frames_alike(got.foreground, expected.foreground)
    work.close()
    ours, theirs = matter.memory, reference.memory
    assert ours is not None and theirs is not None
    np.testing.assert_allclose(ours.alpha, theirs.alpha, atol=1e-4)
    assert np.abs(ours.luma - theirs.luma).mean() < 2e-3  # by means of means
    assert ours.time == theirs.time
    reference.close()
    scene.close()


def assert_frames_alike(ours: Frame, theirs: Frame) -> None:
    assert replace(ours, planes=(), alpha=None) == replace(theirs, planes=(), alpha=None)
    assert (ours.alpha is None) == (theirs.alpha is None)
    if ours.alpha is not None and theirs.alpha is not None:
        assert_alike(ours.alpha, theirs.alpha)
    for one, other in zip(ours.planes, theirs.planes, strict=True):
        assert_alike(one, other)


def assert_alike(ours: NDArray[Any], theirs: NDArray[Any]) -> None:
    """To one code value."""
    difference = np.abs(ours.astype(int) - theirs.astype(int))
    assert difference.max() <= 1
    assert difference.mean() < 0.1


def test_launches_are_captured_and_replayed(device: HostDevice, matter: HostMatter) -> None:
    work = gpu_stages(device, matter, "#2050a0", alpha=False)
    before = device.captured
    counts = []
    for frame in pictures("yuv420p"):
        launched = len(device.launched)
        through(work, frame)
        counts.append(len(device.launched) - launched)
    assert device.captured == before + 1  # one slot, which is free again each time
    kernels = device.launched[-counts[-1] :]
    assert kernels[0] == kernels[1] == "resize_to_tensor_8"  # coarse, then the network's
    assert kernels[-1] == "composite_8"
    assert counts == [counts[1] + 1, *counts[1:2] * 3]  # the first frame is resized twice
    work.close()


def test_a_cut_starts_anew(device: HostDevice, matter: HostMatter) -> None:
    work = gpu_stages(device, matter, "#2050a0")
    network = work.network
    assert isinstance(network, HostNetwork)
    runs = []
    for frame in pictures("yuv420p", 6, cut=True):
        before = network.runs
        through(work, frame)
        runs.append(network.runs - before)
    assert runs == [3, 1, 1, 3, 1, 1]  # first ones by themselves, from afar, and again
    work.close()


def test_it_goes_on_where_another_job_stopped(device: HostDevice, matter: HostMatter) -> None:
    first, *rest = pictures("yuv420p", 3)
    work = gpu_stages(device, matter, "#2050a0")
    work.drop(*work.begin(first))
    work.close()
    assert matter.memory is not None
    work = gpu_stages(device, matter, "#2050a0")
    network = work.network
    assert isinstance(network, HostNetwork)
    for frame in rest:
        through(work, frame)
    assert network.runs == 2
    work.close()


def test_frames_under_way_have_memory_of_their_own(device: HostDevice) -> None:
    frames = pictures("yuv420p", 5)
    one_by_one, at_once = (gpu_stages(device, HostMatter(), "#2050a0") for _ in range(2))
    expected = [through(one_by_one, frame) for frame in frames]
    started = [matted for frame in frames for matted in at_once.begin(frame)]
    for got, wanted in zip(map(at_once.finish, started), expected, strict=True):
        np.testing.assert_array_equal(got.frame.planes[0], wanted.frame.planes[0])
    assert len({id(slot) for _, slot in (matted.slot for matted in started)}) == 5
    for work in (one_by_one, at_once):
        work.close()


def test_two_videos_share_one_network(device: HostDevice) -> None:
    frames = pictures("yuv420p", 3), [replace(f, pts=f.pts) for f in pictures("yuv420p10le", 3)]
    alone = [run_alone(device, video) for video in frames]
    together = [gpu_stages(device, HostMatter(), "#2050a0") for _ in frames]
    together[1].network = together[0].network
    for index in range(3):
        for work, video, expected in zip(together, frames, alone, strict=True):
            got = through(work, video[index]).frame
            np.testing.assert_array_equal(got.planes[0], expected[index])


def run_alone(device: HostDevice, frames: list[Frame]) -> list[NDArray[Any]]:
    work = gpu_stages(device, HostMatter(), "#2050a0")
    return [through(work, frame).frame.planes[0] for frame in frames]


def test_an_encoder_reads_composites_where_they_are(device: HostDevice, tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "a.mp4", width=WIDTH, height=HEIGHT, frames=4)
    brought, kept = (
        gpu_stages(device, HostMatter(), "#2050a0", keep=keep, alpha=False)
        for keep in (False, True)
    )
    with Reader(clip) as like, Writer(tmp_path / "b.mkv", like, codec="ffv1") as out:
        for frame in map(on_device, pictures("yuv420p")):
            expected = through(brought, frame).frame
            got = through(kept, frame).frame
            assert isinstance(got, DeviceFrame)
            assert got.picture.format.name == "nv12"
            assert not kept.paths[0].is_idle
            out.write(got)
            shown = got.picture.reformat(format="yuv420p").to_ndarray()
            np.testing.assert_array_equal(shown[:HEIGHT], expected.planes[0])
            del got
            gc.collect()
            assert kept.paths[0].is_idle
    assert len(content(tmp_path / "b.mkv").times) == 4
    for work in (brought, kept):
        work.close()


def test_a_decoder_that_falls_back_is_told_of(
    device: HostDevice, matter: HostMatter, caplog: pytest.LogCaptureFixture
) -> None:
    frames = pictures("yuv420p")
    expected = run_alone(device, frames)
    work = gpu_stages(device, matter, "#2050a0")
    given = [on_device(frame) for frame in frames[:2]] + frames[2:]
    for frame, wanted in zip(given, expected, strict=True):
        np.testing.assert_array_equal(through(work, frame).frame.planes[0], wanted)
    assert "from 0.080 s on, frames are decoded on the CPU" in caplog.text
    work.close()


# --- mattes and smoothing -------------------------------------------------------------------------


def all_of(stages: Stages, frames: list[Frame]) -> list[Composite]:
    ready = [matted for frame in frames for matted in stages.begin(frame)]
    return [stages.finish(matted) for matted in [*ready, *stages.drain()]]


@pytest.mark.parametrize(
    "options",
    [
        StageOptions(smoothing=True),
        StageOptions(lookahead=2),
        StageOptions(with_mattes=True),
        StageOptions(lookahead=2, look=Look(light_wrap=0.5, mask=Mask(feather=2))),
    ],
    ids=["smoothing", "lookahead", "mattes", "edited lookahead"],
)
@pytest.mark.parametrize("background", ["#2050a0", "blur"])
def test_smoothed_frames_are_those_of_the_cpu(
    device: HostDevice, options: StageOptions, background: str
) -> None:
    frames = pictures("yuv420p", 7, cut=True)
    seen: list[Matte] = []
    work = GpuStages(
        HostNetwork(), (device, device), nullcontext, HostMatter(), open_background(background),
        options, observe=seen.append,
    )  # fmt: skip
    expected: list[Matte] = []
    reference = CpuStages(HostMatter(), open_background(background), options, expected.append)
    composites = zip(all_of(work, frames), all_of(reference, frames), strict=True)
    for (got, wanted), frame in zip(composites, frames, strict=True):
        assert got.frame.pts == wanted.frame.pts == frame.pts
        for ours, theirs in zip(got.frame.planes, wanted.frame.planes, strict=True):
            assert_alike(ours, theirs)
    for one, other in zip(seen, expected, strict=True):
        for name in ("alpha", "foreground", "background", "color"):
            np.testing.assert_allclose(getattr(one, name), getattr(other, name), atol=2e-3)
    work.close()


def test_another_size_of_the_network_or_background_takes_another_path(device: HostDevice) -> None:
    work = gpu_stages(device, HostMatter(), "#2050a0")
    reference = CpuStages(HostMatter(), open_background("#2050a0"), StageOptions(with_alpha=True))
    for index, frame in enumerate(pictures("yuv420p", 6)):
        for one in (work, reference):
            one.matter.scale = 0.5 if index in (2, 3) else 1.0
            if index == 4:
                one.background = open_background("#a02050")
        got, wanted = through(work, frame), through(reference, frame)
        for ours, theirs in zip(got.frame.planes, wanted.frame.planes, strict=True):
            assert_alike(ours, theirs)
    assert len(work.paths) == 1  # those of before are freed
    work.close()


def test_a_live_sessions_frames_stay_on_the_device(
    device: HostDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(HostMatter, "backend", HostBackend(), raising=False)
    monkeypatch.setattr(stages, "TensorRtBackend", HostBackend)
    monkeypatch.setattr(chosen, "TensorRtBackend", HostBackend)
    monkeypatch.setattr(stages, "CudaDriver", HostDriver)
    monkeypatch.setattr(HostDriver, "device", device, raising=False)
    monkeypatch.setattr(stages.cuda, "fatbin", lambda: Path("kernels.fatbin"))
    frames = pictures("yuv420p", 6)
    reference = CpuStages(HostMatter(), open_background("#2050a0"), StageOptions(smoothing=True))
    expected = all_of(reference, frames)
    launched = device.launched.count("composite_8")
    with Session("#2050a0", matter=HostMatter(), max_pending=6, on_result=None) as session:
        for frame, wanted in zip(frames, expected, strict=True):
            session.push(frame)
            result = session.get(60)
            assert result.error is None and result.matte is not None
            assert result.pts == frame.pts
            for ours, theirs in zip(result.composite.planes, wanted.frame.planes, strict=True):
                assert_alike(ours, theirs)
        assert device.launched.count("composite_8") == launched + 6
        # what the GPU cannot do, the CPU does
        session.push(replace(frames[0], alpha=np.full_like(frames[0].planes[0], 255), pts=9))
        assert session.get(60).error is None
        assert device.launched.count("composite_8") == launched + 6
        session.background = "#a02050"
        session.push(replace(frames[1], pts=10))
        assert session.get(60).error is None
        assert device.launched.count("composite_8") == launched + 7


# --- memory ---------------------------------------------------------------------------------------


def test_maps_of_a_layout_do_not_overlap() -> None:
    layout = MapLayout(frame_maps((288, 512)))
    begins = [layout.offsets[name] for name in layout.maps]
    for name, begin, end in zip(layout.maps, begins, [*begins[1:], layout.size], strict=True):
        assert begin % 256 == 0
        assert end - begin >= 4 * np.prod(layout.maps[name])
    assert layout.size < 20e6


# --- whether it is taken --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reader", "wishes", "reason"),
    [({"has_alpha": True}, {}, "alpha plane"), ({}, {"selects": True}, "selection")],
)
def test_what_it_cannot_do_is_said(
    monkeypatch: pytest.MonkeyPatch, reader: dict[str, Any], wishes: dict[str, Any], reason: str
) -> None:
    monkeypatch.setattr(stages.cuda, "fatbin", lambda: None)
    assert "FUSEMATTE_CUDA=1" in str(why_not(HD, PLAIN))
    monkeypatch.setattr(stages.cuda, "fatbin", lambda: Path("kernels.fatbin"))
    assert reason in str(why_not(replace(HD, **reader), replace(PLAIN, **wishes)))
    assert why_not(HD, PLAIN) is None


@pytest.mark.parametrize(
    ("codec", "pixel_format", "reader", "reason"),
    [
        (None, None, {}, "h264_nvenc, hevc_nvenc"),
        ("libx264", None, {}, "h264_nvenc, hevc_nvenc"),
        ("h264_nvenc", None, {"on_device": False}, "not decoded on the GPU"),
        ("h264_nvenc", "yuv444p", {}, "yuv444p"),
        ("h264_nvenc", None, {"format": PIXEL_FORMATS["yuv420p10le"]}, "use hevc_nvenc"),
        ("hevc_nvenc", None, {"width": 1919}, "odd"),
    ],
)
def test_why_composites_come_to_the_cpu(
    caplog: pytest.LogCaptureFixture,
    codec: str | None,
    pixel_format: str | None,
    reader: dict[str, Any],
    reason: str,
) -> None:
    caplog.set_level(logging.INFO)
    encoding = Encoding(codec=codec, pixel_format=pixel_format)
    green, hevc = open_background("green"), Encoding(codec="hevc_nvenc")
    assert nvenc_for(replace(HD, **reader), green, encoding) is None
    assert reason in caplog.text
    assert nvenc_for(HD, green, hevc) is not None
    assert nvenc_for(HD, open_background("transparent"), hevc) is None


def test_what_nvdec_can_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    clip = make_clip(tmp_path / "a.mp4", frames=2)
    hardware = nvdec_for(clip)
    assert hardware is not None
    assert hardware.is_hw_owned
    for name in ("-", "rtsp://camera/1", tmp_path):
        assert nvdec_for(name) is None
    assert caplog.text.count("only files can be decoded on the GPU") == 3


class HostDriver:
    """In the place of ``CudaDriver``: the host's device, which nobody closes."""

    device: ClassVar[HostDevice]

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        return getattr(self.device, name)

    def current(self) -> AbstractContextManager[None]:
        return nullcontext()

    def close(self) -> None:
        pass


class HostBackend:
    """A TensorRT backend whose device is the host's."""

    name, device = "tensorrt", "no GPU at all"

    def __init__(self) -> None:
        self.network = HostNetwork()


def test_a_whole_job(
    device: HostDevice,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Through reader, stages, writers: as on a machine with a GPU whose NVDEC does not work."""

    from fusematte.engine.jobs.single import Tools

    caplog.set_level(logging.INFO)
    clip = make_clip(tmp_path / "a.mp4", width=WIDTH, height=HEIGHT, frames=6, audio=True)

    def job(name: str) -> Path:
        with ExitStack() as stack:
            matter = stack.enter_context(HostMatter())
            tools = Tools(matter, open_background("blur"))
            out, alpha = tmp_path / f"{name}.mkv", tmp_path / f"{name}-alpha.mkv"
            looks = {"alpha_output": alpha, "network_every": 1}
            run_whole(clip, out, tools=tools, codec="ffv1", **looks)
            assert matter.memory is not None
        return out

    expected = job("cpu")
    backend = HostBackend()
    monkeypatch.setattr(HostMatter, "backend", backend, raising=False)
    monkeypatch.setattr(stages, "TensorRtBackend", HostBackend)
    monkeypatch.setattr(stages, "CudaDriver", lambda: device)
    monkeypatch.setattr(stages.cuda, "fatbin", lambda: Path("kernels.fatbin"))
    got = job("gpu")
    assert "frames stay on no GPU at all" in caplog.text
    assert "composites are downloaded from the GPU for encoding" in caplog.text
    assert "a.mp4: decoded on the CPU: NVDEC cannot be used" in caplog.text
    assert backend.network.runs == 8
    assert content(got) == content(expected)
    for ours, theirs in zip(planes_in(got), planes_in(expected), strict=True):
        assert_alike(ours, theirs)
    alphas = (planes_in(path.with_name(f"{path.stem}-alpha.mkv")) for path in (got, expected))
    for ours, theirs in zip(*alphas, strict=True):  # encoded with losses
        assert np.abs(ours.astype(int) - theirs).mean() < 0.5


def planes_in(path: Path) -> list[NDArray[Any]]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray() for frame in container.decode(video=0)]


def test_another_backends_jobs_are_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with Matter(backend="openvino", threads=1) as matter, ExitStack() as stack:
        reader: Any = SimpleNamespace(info=HD)
        scene = open_background("green")
        opened = take_gpu(stack, reader, lambda _: reader, matter, scene, PLAIN, Encoding())
    assert opened is None
    assert "GPU" not in caplog.text
