"""What needs an NVIDIA GPU, or the emulated driver (``make gpu-emulated``): the driver's own calls,
the engine, and whole jobs whose frames stay on the device."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, nullcontext
from pathlib import Path
from threading import Thread
from typing import Any

import av
import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from tests.helpers import content, make_clip, run_whole

from fusematte.cpp_ext import cuda
from fusematte.engine.backends import sharing
from fusematte.engine.backends.tensorrt.backend import TensorRtBackend
from fusematte.engine.compositing.backgrounds import Background, open_background
from fusematte.engine.compositing.composite import compose
from fusematte.engine.cuda.device_pictures import DeviceFrame, PictureLayout, stand_ins
from fusematte.engine.cuda.driver import CudaDriver
from fusematte.engine.diagnostics.doctor import report
from fusematte.engine.errors import BackendError
from fusematte.engine.frame import Frame
from fusematte.engine.jobs import single
from fusematte.engine.jobs.single import Tools
from fusematte.engine.live.session import Session
from fusematte.engine.matting.matter import Matter
from fusematte.engine.media.reader import Reader
from fusematte.engine.models import load_bundle
from fusematte.engine.pixels.color import frame_from_rgb
from fusematte.engine.stages.contract import StageOptions
from fusematte.engine.stages.gpu import GpuStages
from fusematte.export.exporter import Request, export

pytestmark = pytest.mark.gpu

Pixels = NDArray[np.uint8]
WIDTH, HEIGHT, FRAMES = 640, 352, 6


@pytest.fixture(scope="module", autouse=True)
def a_gpu() -> None:
    reason = TensorRtBackend.unavailable() or cuda.why_no_kernels()
    if reason is not None:
        pytest.skip(reason)


@pytest.fixture(scope="module")
def matter() -> Iterator[Matter]:
    with Matter(backend="tensorrt") as made:
        yield made


def portrait(width: int, height: int, index: int) -> Pixels:
    """A camera that moves over a portrait; from the fifth frame on another one."""
    data = pytest.importorskip("skimage.data")
    picture = data.astronaut()[:, :: 1 if index < 4 else -1]
    zoom = width / picture.shape[1]
    matrix = np.array([[zoom, 0, 3 * index], [0, zoom, -0.1 * height - 2 * index]])
    moved = cv2.warpAffine(picture, matrix, (width, height), borderMode=cv2.BORDER_REFLECT)
    return np.asarray(moved, np.uint8)


def clip_of(path: Path, pixel_format: str = "yuv420p", **more: Any) -> Path:  # noqa: ANN401
    options: dict[str, Any] = {"width": WIDTH, "height": HEIGHT, "frames": FRAMES} | more
    return make_clip(path, pixel_format=pixel_format, show=portrait, **options)


def pictures(path: Path) -> list[NDArray[Any]]:
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    if frames[0].format.name == "yuva420p":  # which PyAV makes no array of
        frames = [frame.reformat(format="rgba") for frame in frames]
    return [frame.to_ndarray() for frame in frames]


@contextmanager
def on_the_cpu() -> Iterator[None]:
    """Frames are worked on by the CPU, the network alone by the GPU."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(single, "take_gpu", lambda *_: None)
        yield


def jobs_of(
    matter: Matter,
    clip: Path,
    scene: Background,
    **wishes: Any,  # noqa: ANN401
) -> tuple[Path, Path]:
    """The same job with its frames on the device, and frame by frame over the CPU."""
    paths = []
    for name, where in (("gpu", nullcontext()), ("cpu", on_the_cpu())):
        matter.reset()
        paths.append(clip.with_name(f"{name}.mkv"))
        tools = Tools(matter, scene)
        with where:
            run_whole(clip, paths[-1], tools=tools, codec="ffv1", network_every=1, **wishes)
    return paths[0], paths[1]


def assert_alike(ours: Path, theirs: Path, *, largest: int) -> None:
    """Whether two videos show the same, to rounding on average and ``largest`` at the worst."""
    assert content(ours) == content(theirs)
    for one, other in zip(pictures(ours), pictures(theirs), strict=True):
        difference = np.abs(one.astype(int) - other)
        assert difference.mean() < 0.25
        assert difference.max() <= largest


# --- the driver -----------------------------------------------------------------------------------


@pytest.fixture
def drivers() -> Iterator[tuple[CudaDriver, CudaDriver]]:
    with closing(CudaDriver()) as one, closing(CudaDriver()) as other, one.current():
        yield one, other


def test_memory_and_copies(drivers: tuple[CudaDriver, CudaDriver]) -> None:
    driver = drivers[0]
    source, target = driver.pinned((8, 32), np.uint8), driver.pinned((8, 32), np.uint8)
    source[:] = np.arange(256).reshape(8, 32)
    here, there = driver.allocate(256), driver.allocate(256)
    driver.clear(int(there), 256)
    driver.upload(source, int(here))
    driver.copy_rows((int(here) + 4, 32), (int(there), 16), (8, 12))
    driver.download(int(there), target)
    driver.wait()
    rows = target.reshape(16, 16)[:8]
    np.testing.assert_array_equal(rows[:, :12], source[:, 4:16])
    assert not rows[:, 12:].any()
    driver.copy(int(here), int(there), 256)
    driver.download(int(there), target)
    driver.wait()
    np.testing.assert_array_equal(target, source)


def test_one_stream_follows_another(drivers: tuple[CudaDriver, CudaDriver]) -> None:
    intake, driver = drivers
    memory, seen = driver.allocate(1 << 20), driver.pinned((1 << 20,), np.uint8)
    given = driver.pinned((1 << 20,), np.uint8)
    given[:] = 7
    intake.upload(given, int(memory))
    driver.follow(intake.mark())
    driver.download(int(memory), seen)
    driver.mark().synchronize()
    assert (seen == 7).all()


def test_a_graph_replays_what_was_captured(drivers: tuple[CudaDriver, CudaDriver]) -> None:
    driver = drivers[0]
    source, target = driver.pinned((64,)), driver.pinned((64,))
    memory = driver.allocate(source.nbytes), driver.allocate(source.nbytes)
    first, second = map(int, memory)
    target[:] = -1

    def work() -> None:
        driver.upload(source, first)
        cuda.shrink(driver, first, (1, 8, 8), second, (8, 8))
        driver.download(second, target)

    graph = driver.capture(work)
    driver.wait()
    assert (target == -1).all()  # captured, not run
    for value in (0.25, 0.75):
        source[:] = value
        graph.launch()
        driver.wait()
        np.testing.assert_allclose(target, value, rtol=1e-6)
    graph.close()
    graph.close()


def test_no_memory_on_the_gpu(drivers: tuple[CudaDriver, CudaDriver]) -> None:
    with pytest.raises(BackendError, match="is out of memory; close other"), drivers[0].current():
        drivers[0].allocate(1 << 44)


def test_doctor_tells_of_it() -> None:
    lines, usable = report()
    assert usable
    text = "\n".join(lines)
    assert "GPU frames  ok: they stay on the GPU with --backend tensorrt" in text
    assert "backend     tensorrt: ok" in text


# --- jobs -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["green", "blur", "picture", "video"])
@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuv422p10le"])
def test_frames_that_stay_on_it_look_the_same(
    matter: Matter,
    tmp_path: Path,
    kind: str,
    pixel_format: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """NVDEC where it can, the engine, the kernels, as against the CPU's frames."""
    caplog.set_level(logging.INFO)
    background = kind
    if kind == "picture":
        background = str(tmp_path / "far.png")
        cv2.imwrite(background, np.random.default_rng(0).integers(0, 256, (90, 160, 3), np.uint8))
    elif kind == "video":
        background = str(make_clip(tmp_path / "far.mp4", width=96, height=64, frames=4))
    bits = 10 if pixel_format.endswith("10le") else 8
    clip = clip_of(tmp_path / "a.mkv", pixel_format, audio=True)
    ours, theirs = jobs_of(matter, clip, open_background(background))
    assert "frames stay on" in caplog.text
    assert_alike(ours, theirs, largest=4 << (bits - 8))


@pytest.mark.parametrize(
    ("background", "wishes", "clip"),
    [
        ("transparent", {"despill": 0.5}, {}),
        ("blur", {"light_wrap": 0.7, "despill": 0.5}, {"rotation": 90}),
        ("green", {"light_wrap": 0.7}, {"pixel_format": "yuv420p10le", "color": (9, 9, 16, 1)}),
        ("green", {"grow": 3, "feather": 2.0, "invert": True}, {"rotation": 180}),
    ],
    ids=["transparent", "wrapped, turned", "wrapped, HDR", "edited, turned"],
)
def test_every_option_looks_the_same(
    matter: Matter,
    tmp_path: Path,
    background: str,
    wishes: dict[str, Any],
    clip: dict[str, Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    given = clip_of(tmp_path / "given.mp4", **clip)
    wishes = wishes | {"background": background, "foreground_output": tmp_path / "person.mkv"}
    ours, theirs = jobs_of(matter, given, open_background(background), **wishes)
    assert "frames stay on" in caplog.text
    bits = 10 if "pixel_format" in clip else 8
    assert_alike(ours, theirs, largest=4 << (bits - 8))
    assert content(tmp_path / "person.mkv").times == content(ours).times


def test_frames_of_the_device_stay_there(matter: Matter, tmp_path: Path) -> None:
    """As NVDEC gives them and NVENC takes them, in libav's own frames."""
    clip, background = clip_of(tmp_path / "a.mkv"), open_background("blur")
    assert isinstance(matter.backend, TensorRtBackend)
    with ExitStack() as stack:
        drivers = tuple(stack.enter_context(closing(CudaDriver())) for _ in range(2))
        frames = list(stack.enter_context(Reader(clip)))
        matter.reset()
        expected = [compose(frame, matter(frame), background) for frame in frames]
        matter.reset()
        stages = GpuStages(
            matter.backend.network, (drivers[0], drivers[1]), drivers[0].current, matter,
            background, StageOptions(), keep=True,
        )  # fmt: skip
        stack.enter_context(closing(stages))
        for frame, theirs in zip(frames, expected, strict=True):
            got = stages.finish(*stages.begin(on_device(frame, drivers[0]))).frame
            assert isinstance(got, DeviceFrame)
            assert got.picture.format.name == "cuda"
            shown = got.picture.reformat(format="nv12").to_ndarray()
            pairs = shown[HEIGHT:].reshape(HEIGHT // 2, WIDTH // 2, 2)
            ours = shown[:HEIGHT], pairs[..., 0], pairs[..., 1]
            for one, other in zip(ours, theirs.frame.planes, strict=True):
                difference = np.abs(one.astype(int) - other)
                assert difference.mean() < 0.25
                assert difference.max() <= 4


def on_device(frame: Frame, driver: CudaDriver) -> DeviceFrame:
    """A frame in the device's memory, U and V in turns."""
    layout = PictureLayout(format=frame.format, height=frame.height, width=frame.width, paired=True)
    with driver.current():
        block, memory = driver.pinned((layout.size,), np.uint8), driver.allocate(layout.size)
        layout.pack(frame.planes, block)
        driver.upload(block, int(memory))
        driver.wait()
        picture = layout.picture(int(memory), driver.kind, memory)
    known = {k: v for k, v in vars(frame).items() if k != "planes"}
    planes = stand_ins(frame.format, frame.height, frame.width)
    return DeviceFrame(planes=planes, picture=picture, **known)


def test_an_odd_size_and_an_alpha(matter: Matter, tmp_path: Path) -> None:
    clip = clip_of(tmp_path / "a.mkv", "yuv444p", width=333, height=187)
    alpha = tmp_path / "alpha.mkv"
    ours, theirs = jobs_of(matter, clip, open_background("green"), alpha_output=alpha)
    assert_alike(ours, theirs, largest=4)
    with av.open(str(alpha)) as container:
        assert sum(1 for _ in container.decode(video=0)) == FRAMES


def test_an_upright_video(matter: Matter, tmp_path: Path) -> None:
    clip = clip_of(tmp_path / "a.mkv", width=208, height=640)
    assert_alike(*jobs_of(matter, clip, open_background("blur")), largest=4)


def test_two_videos_at_once_share_one_engine(matter: Matter, tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("one", "two")]
    for folder in folders:
        folder.mkdir()
        clip_of(folder / "a.mkv")
    alone = folders[0] / "alone.mkv"
    matter.reset()
    run_whole(
        folders[0] / "a.mkv", alone, tools=Tools(matter, open_background("green")), codec="ffv1"
    )

    def work(folder: Path) -> None:
        with Matter(backend="tensorrt") as own:
            tools = Tools(own, open_background("green"))
            run_whole(folder / "a.mkv", folder / "out.mkv", tools=tools, codec="ffv1")

    threads = [Thread(target=work, args=(folder,)) for folder in folders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(sharing.users()) == 1
    for folder in folders:
        assert_alike(folder / "out.mkv", alone, largest=1)


@pytest.mark.parametrize("encoder", ["h264_nvenc", "hevc_nvenc"])
def test_encoded_where_it_is(matter: Matter, tmp_path: Path, encoder: str) -> None:
    """From NVDEC to NVENC without a download."""
    clip = clip_of(tmp_path / "a.mp4")
    tools = Tools(matter, open_background("green"))
    matter.reset()
    try:
        run_whole(clip, tmp_path / "gpu.mp4", tools=tools, codec=encoder)
    except Exception as error:
        pytest.skip(f"no {encoder} here: {error}")
    matter.reset()
    with on_the_cpu():
        run_whole(clip, tmp_path / "cpu.mp4", tools=tools)
    for one, other in zip(
        pictures(tmp_path / "gpu.mp4"), pictures(tmp_path / "cpu.mp4"), strict=True
    ):
        assert np.abs(one.astype(int) - other).mean() < 3


def test_a_live_session(matter: Matter, caplog: pytest.LogCaptureFixture) -> None:
    """Frames of a camera stay on the GPU, smoothed, at sizes that a governor changes."""
    caplog.set_level(logging.INFO)
    assert matter is not None  # its engine is shared
    with Session("green", backend="tensorrt", budget_ms=2000) as session:
        for index in range(4):
            frame = frame_from_rgb(portrait(WIDTH, HEIGHT, index))
            session.push(frame)
            result = session.get(timeout=60)
            assert result is not None
            assert result.error is None
            alpha = result.alpha()
            assert alpha.mean() > 0.1  # somebody is there
    assert "frames are processed on" in caplog.text
    assert "frames are processed on the CPU" not in caplog.text


# --- exported engines -----------------------------------------------------------------------------


@pytest.mark.parametrize("guided_filter", ["external", "native", "plugin"])
@pytest.mark.parametrize("sizes", [None, ((96, 160), (512, 512))])
def test_an_exported_engine(
    tmp_path: Path, guided_filter: str, sizes: tuple[tuple[int, int], tuple[int, int]] | None
) -> None:
    """It proves itself on the device, and jobs run with the filter wherever it is."""
    request = Request(
        bundle=load_bundle(),
        target="tensorrt-rtx",
        precision="fp16",
        size=None if sizes else (288, 512),
        sizes=sizes,
        guided_filter=guided_filter,
    )
    manifest = export(request, tmp_path / "engine")
    assert manifest["export"]["engine_ran"]
    clip = clip_of(tmp_path / "a.mkv", width=512, height=288)
    with ExitStack() as stack:
        own = stack.enter_context(Matter(str(tmp_path / "engine"), backend="tensorrt"))
        assert_alike(*jobs_of(own, clip, open_background("green")), largest=6)
        with pytest.raises(BackendError, match="export it again with --sizes"):
            own.backend.infer(
                np.zeros((1, 3, 1024, 1024), np.float32), np.zeros((1, 1, 1024, 1024), np.float32)
            )
