"""What a CUDA machine makes of FuseMatte: ``make gpu-check`` writes benchmarks/results/gpu.json.

    python benchmarks/gpu_check.py [--output PATH]

With whichever of TensorRT, TensorRT-RTX and PyTorch is installed: the tests marked ``gpu``, the
bandwidth of the CUDA kernels, and the device time of a frame for ``edge`` and ``paper`` at the
network sizes of 720p, 1080p and 2160p, fp32 against fp16, with and without CUDA graphs.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from fusematte.cpp_ext import cuda
from fusematte.engine.backends.cuda_driver import CudaDriver, why_no_cuda
from fusematte.engine.backends.tensorrt_backend import EngineRunner
from fusematte.engine.backends.tensorrt_library import installed, load_library, make_logger
from fusematte.engine.errors import FuseMatteError
from fusematte.engine.models import load_bundle

RESULTS = Path(__file__).parent / "results" / "gpu.json"
SIZES = {"720p": (288, 512), "1080p": (288, 512), "2160p": (576, 1024), "800x800": (800, 800)}
"""Network sizes: edge sees every video at about its default size; the paper's figure is 800x800."""
FRAMES = {"720p": (720, 1280), "1080p": (1080, 1920), "2160p": (2160, 3840)}
RUNS, WARM = 100, 20


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
    return round(statistics.median(times), 4)


def kernel_bandwidth(driver: CudaDriver) -> Iterator[dict[str, Any]]:
    """Time and bytes per second of resizing and compositing NV12 frames."""
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
            yield {"kernel": kernel, "frame": name, "ms": ms, "gb_per_s": round(size / ms / 1e6, 1)}


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


def torch_times() -> Iterator[dict[str, Any]]:
    """The same in PyTorch with fp16 autocast: the torch backend, copies included."""
    import time

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


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    if reason := why_no_cuda():
        sys.exit(f"gpu-check needs an NVIDIA GPU: {reason}")
    tests = subprocess.run([sys.executable, "-m", "pytest", "-q", "-m", "gpu"], check=False)
    driver = CudaDriver()
    results: dict[str, Any] = {
        "gpu": driver.name,
        "compute_capability": driver.compute_capability,
        "driver": driver.version,
        "date": datetime.now(UTC).date().isoformat(),
        "gpu_tests_exit_code": tests.returncode,
    }
    with tempfile.TemporaryDirectory() as folder, driver.current():
        if cuda.fatbin() is not None:
            results["kernels"] = list(kernel_bandwidth(driver))
        if installed():
            results["tensorrt"] = list(tensorrt_times(driver, Path(folder)))
    if find_spec("torch") is not None:
        import torch

        if torch.cuda.is_available():
            results["torch"] = list(torch_times())
    driver.close()
    args.output.parent.mkdir(exist_ok=True)
    args.output.write_text(json.dumps(results, indent=2) + "\n", "utf-8")
    print(json.dumps(results, indent=2))
    sys.exit(tests.returncode not in (0, 5))  # 5: no test is marked for a GPU


if __name__ == "__main__":
    main()
