"""What a CUDA machine makes of FuseMatte: ``make gpu-check`` writes benchmarks/results/gpu.json.

    python benchmarks/gpu_check.py [--output PATH]

With whichever of TensorRT, TensorRT-RTX and PyTorch is installed: the bandwidth of the CUDA kernels
beside that of a plain copy; PyTorch's time of a frame; the whole path of ``edge``'s frames on the
device, and how many videos fit on it; the device time of a frame for ``edge`` and ``paper`` at the
network sizes of 720p, 1080p and 2160p, fp32 against fp16, with and without CUDA graphs; last the
tests marked ``gpu``.  Every figure is written as soon as it is measured: a run that is cut off
leaves those it has.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from fusematte.cpp_ext import cuda
from fusematte.engine.backends.tensorrt.backend import EngineRunner, TensorRtBackend
from fusematte.engine.backends.tensorrt.library import installed, load_library, make_logger
from fusematte.engine.compositing.backgrounds import open_background
from fusematte.engine.cuda.device_pictures import DeviceFrame, PictureLayout, stand_ins
from fusematte.engine.cuda.driver import CudaDriver
from fusematte.engine.cuda.probe import why_no_cuda
from fusematte.engine.errors import FuseMatteError
from fusematte.engine.frame import PIXEL_FORMATS, Color
from fusematte.engine.matting.matter import Matter
from fusematte.engine.models import load_bundle
from fusematte.engine.stages.contract import StageOptions
from fusematte.engine.stages.gpu_frame_path import FramePath, Slot

RESULTS = Path(__file__).parent / "results" / "gpu.json"
SIZES = {"720p": (288, 512), "1080p": (288, 512), "2160p": (576, 1024), "800x800": (800, 800)}
"""Network sizes: edge sees every video at about its default size; the paper's figure is 800x800."""
FRAMES = {"720p": (720, 1280), "1080p": (1080, 1920), "2160p": (2160, 3840)}
STREAMS = (1, 2, 4, 8, 16, 32)
RUNS, WARM = 100, 20
COPIED = 256 << 20
"""Bytes."""


def median_ms(driver: CudaDriver, work: Callable[[], None]) -> float:
    """Median device time of ``work`` on the stream, by events."""
    import pycuda.driver

    for _ in range(WARM):
        work()
    times = []
    for _ in range(RUNS):
        begun, done = pycuda.driver.Event(), pycuda.driver.Event()
        begun.record(driver.stream)
        work()
        done.record(driver.stream)
        done.synchronize()
        times.append(begun.time_till(done))
    return float(round(statistics.median(times), 4))


def copy_bandwidth(driver: CudaDriver) -> float:
    """Bytes read and written per second, in GB, of a copy within the device: what kernels that do
    little else can come near."""
    source, target = driver.allocate(COPIED), driver.allocate(COPIED)
    ms = median_ms(driver, lambda: driver.copy(int(source), int(target), COPIED))
    return round(2 * COPIED / ms / 1e6, 1)


def kernel_bandwidth(driver: CudaDriver, copy: float) -> Iterator[dict[str, Any]]:
    """Time and bytes per second of resizing and compositing NV12 frames, and the share of what a
    copy reaches."""
    levels, matrix = cuda.Levels(16, 219, 128, 224), cuda.Matrix(0.2126, 0.0722)
    for name, (height, width) in FRAMES.items():
        layout = cuda.Layout(height, width, height // 2, width // 2, 8, 0, True)
        low = SIZES["1080p"]
        memory = [driver.allocate(height * width * 3 // 2) for _ in range(3)]
        small = [driver.allocate(4 * 3 * low[0] * low[1]) for _ in range(4)]
        frame, background, out = (_nv12(int(m), height, width) for m in memory)
        resize = cuda.ResizeJob(layout, frame, levels, matrix, *low, int(small[0]), int(small[1]))
        slope, offset = (cuda.Grid(int(m), *low) for m in small[2:])
        blend = cuda.CompositeJob(
            layout, frame, background, cuda.Grid(), out, None, 0, levels, slope, offset, cuda.Grid()
        )
        jobs: dict[str, tuple[Callable[[], None], int]] = {
            "resize": (lambda job=resize: cuda.resize_to_tensor(driver, job), 1),  # type: ignore[misc]
            "composite": (lambda job=blend: cuda.composite(driver, job), 3),  # type: ignore[misc]
        }
        for kernel, (work, passes) in jobs.items():
            ms = median_ms(driver, work)
            size = passes * height * width * 1.5
            rate = round(size / ms / 1e6, 1)
            yield {
                "kernel": kernel, "frame": name, "ms": ms, "gb_per_s": rate,
                "share_of_copy": round(rate / copy, 3),
            }  # fmt: skip


def _nv12(address: int, height: int, width: int) -> cuda.Planes:
    addresses = (ctypes.c_void_p * 3)(address, address + height * width, None)
    return cuda.Planes(addresses, (ctypes.c_ssize_t * 3)(width, width, 0))


def networks(folder: Path) -> Iterator[tuple[str, Path, bool]]:
    """Name, ONNX file and whether it takes the alpha before: edge's weights, paper's structure."""
    bundle = load_bundle()
    yield bundle.name, bundle.file, bundle.takes_previous
    from fusematte.export.to_onnx import export_onnx
    from fusematte.training.network import build_network

    network = build_network("paper")  # random weights take the same time as trained ones
    export_onnx(network, folder / "paper.onnx")
    yield "paper", folder / "paper.onnx", network.config.previous_alpha


def tensorrt_times(driver: CudaDriver, folder: Path) -> Iterator[dict[str, Any]]:
    """Device time of a frame, for each flavour, network, precision and size, with and without
    graphs; copies to and from the device are left out."""
    import onnx

    from fusematte.export.build_engine import Sizes, build_engine
    from fusematte.export.graph import simplify, to_half

    for name, file, takes_previous in networks(folder):
        master = simplify(onnx.load(file))
        for flavour in installed():
            library = load_library(flavour)
            for precision, model in (("fp32", master), ("fp16", to_half(master))):
                for frame, size in SIZES.items():
                    row: dict[str, Any] = {
                        "flavour": flavour,
                        "network": name,
                        "precision": precision,
                        "frame": frame,
                        "network_size": f"{size[1]}x{size[0]}",
                    }
                    try:
                        plan = build_engine(model, flavour, Sizes(least=size, best=size, most=size))
                        runtime = library.Runtime(make_logger(library))
                        engine = runtime.deserialize_cuda_engine(plan.plan)
                        if engine is None:
                            raise RuntimeError("the engine cannot be loaded on this GPU")
                        runner = EngineRunner(library, engine, driver)
                        row |= _time_engine(driver, runner, size, takes_previous)
                    except (FuseMatteError, RuntimeError) as error:
                        row["failed"] = str(error)
                    yield row


def _time_engine(
    driver: CudaDriver, runner: EngineRunner, size: tuple[int, int], takes_previous: bool
) -> dict[str, Any]:
    feeds = {"image": np.random.default_rng(0).random((1, 3, *size), np.float32)}
    if takes_previous:
        feeds["previous"] = np.zeros((1, 1, *size), np.float32)
    runner.run(feeds)
    plain, graph = runner.device_work(size)
    times = {"ms": median_ms(driver, plain)}
    if graph is not None:
        times["ms_with_graph"] = median_ms(driver, graph)
    return times


def device_frame(driver: CudaDriver, height: int, width: int) -> DeviceFrame:
    """A frame as NVDEC leaves it, with noise for a picture."""
    format = PIXEL_FORMATS["yuv420p"]
    layout = PictureLayout(format=format, height=height, width=width, paired=True)
    memory = driver.allocate(layout.size)
    noise = np.random.default_rng(0).integers(16, 235, layout.size, np.uint8)
    driver.upload(noise, int(memory))
    driver.wait()
    return DeviceFrame(
        planes=stand_ins(format, height, width),
        format=format,
        color=Color(1, 1, 1),
        picture=layout.picture(int(memory), driver.kind, memory),
    )


@contextmanager
def frame_path(frame: DeviceFrame) -> Iterator[FramePath]:
    """The path of a video of such frames, on streams of its own; composites stay on the device.

    All paths share one engine.
    """
    with ExitStack() as stack:
        device, intake = (stack.enter_context(closing(CudaDriver())) for _ in range(2))
        matter = stack.enter_context(Matter(backend="tensorrt"))
        assert isinstance(matter.backend, TensorRtBackend)
        path = FramePath(
            device=device, intake=intake, network=matter.backend.network, matter=matter,
            background=open_background("green"), like=frame, download=False, options=StageOptions(),
        )  # fmt: skip
        yield path
        path.close()


def path_times(driver: CudaDriver) -> Iterator[dict[str, Any]]:
    """From the decoder's picture to the composite: the device's time for a frame; and frames per
    second with as many videos at once as ``STREAMS`` says, three frames of each under way."""
    for name, (height, width) in FRAMES.items():
        frame = device_frame(driver, height, width)
        for videos in STREAMS:
            row: dict[str, Any] = {"frame": name, "videos": videos}
            try:
                with ExitStack() as stack:
                    paths = [stack.enter_context(frame_path(frame)) for _ in range(videos)]
                    yield row | _path_row(paths, frame)
            except FuseMatteError as error:
                yield row | {"failed": str(error)}
                break


def _path_row(paths: list[FramePath], frame: DeviceFrame) -> dict[str, Any]:
    _run_paths(paths, frame, WARM)
    begun = time.perf_counter()
    _run_paths(paths, frame, RUNS)
    fps = len(paths) * RUNS / (time.perf_counter() - begun)
    row = {"fps": round(fps, 1), "videos_at_30_fps": int(fps / 30)}
    if len(paths) == 1:
        slot = paths[0].begin(frame)
        driver = paths[0].device
        assert isinstance(driver, CudaDriver)
        row["device_ms"] = median_ms(driver, lambda: paths[0].run(slot))
    return row


def _run_paths(paths: list[FramePath], frame: DeviceFrame, count: int) -> None:
    """Frames of each video in turn; one that was begun three frames ago is waited for."""
    under_way: deque[tuple[FramePath, Slot]] = deque()
    for index in range(count):
        shown = replace(frame, pts=3000 * index)  # of 1/90000 s
        for path in paths:
            under_way.append((path, path.begin(shown)))
            if len(under_way) > 3 * len(paths):
                _finish(*under_way.popleft())
    for item in under_way:
        _finish(*item)


def _finish(path: FramePath, slot: Slot) -> None:
    assert slot.done is not None
    slot.done.synchronize()
    path.release(slot)


def torch_times() -> Iterator[dict[str, Any]]:
    """The same in PyTorch with fp16 autocast: the torch backend, copies included."""
    from fusematte.engine.backends.torch_backend import TorchBackend

    bundle = load_bundle()
    backend = TorchBackend(bundle)
    for frame, size in SIZES.items():
        image = np.random.default_rng(0).random((1, 3, *size), np.float32)
        previous = np.zeros((1, 1, *size), np.float32)
        times = []
        for turn in range(WARM + RUNS):
            begun = time.perf_counter()
            backend.infer(image, previous)
            if turn >= WARM:
                times.append(1e3 * (time.perf_counter() - begun))
        ms = round(statistics.median(times), 4)
        yield {"network": bundle.name, "frame": frame, "precision": backend.precision, "ms": ms}
    backend.close()


def has_torch_cuda() -> bool:
    """Whether PyTorch is installed and sees the GPU."""
    if find_spec("torch") is None:
        return False
    import torch

    return torch.cuda.is_available()


class Results:
    """What was measured so far, which is always in the file."""

    def __init__(self, path: Path, **known: str) -> None:
        self._path, self._values = path, dict[str, Any](known)
        path.parent.mkdir(exist_ok=True)

    def put(self, name: str, value: object) -> None:
        """Adds a figure."""
        self._values[name] = value
        part = self._path.with_suffix(".part")
        part.write_text(json.dumps(self._values, indent=2) + "\n", "utf-8")
        part.replace(self._path)

    def add(self, name: str, rows: Iterable[dict[str, Any]]) -> None:
        """Adds a table, row by row."""
        table: list[dict[str, Any]] = []
        for row in rows:
            table.append(row)
            self.put(name, table)


def run_gpu_tests() -> int:
    """The exit code of the tests marked ``gpu``."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "tests"]
    return subprocess.run(command, check=False, cwd=RESULTS.parents[2]).returncode


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    if reason := why_no_cuda():
        sys.exit(f"gpu-check needs an NVIDIA GPU: {reason}")
    driver = CudaDriver()
    results = Results(
        args.output,
        gpu=driver.name,
        compute_capability=driver.compute_capability,
        driver=driver.version,
        date=datetime.now(UTC).date().isoformat(),
    )
    with driver.current():
        copy = copy_bandwidth(driver)
        results.put("copy_gb_per_s", copy)
        if cuda.fatbin() is not None:
            results.add("kernels", kernel_bandwidth(driver, copy))
    if has_torch_cuda():
        results.add("torch", torch_times())
    with tempfile.TemporaryDirectory() as folder, driver.current():
        if cuda.fatbin() is not None and installed():
            results.add("frame_path", path_times(driver))
        if installed():
            results.add("tensorrt", tensorrt_times(driver, Path(folder)))
    driver.close()
    tests = run_gpu_tests()
    results.put("gpu_tests_exit_code", tests)
    print(args.output.read_text("utf-8"))
    sys.exit(tests not in (0, 5))  # 5: no test is marked for a GPU


if __name__ == "__main__":
    main()
