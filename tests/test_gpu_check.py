"""``make gpu-check`` on small pictures: it measures all it should, on a GPU or an emulated one."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

from fusematte.cpp_ext import cuda
from fusematte.engine.backends.tensorrt.backend import TensorRtBackend
from fusematte.training.network import CONFIGS
from tests.export.test_bundle import SMALL

pytestmark = pytest.mark.gpu


@pytest.fixture
def gpu_check(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    reason = TensorRtBackend.unavailable() or cuda.why_no_kernels()
    if reason is not None:
        pytest.skip(reason)
    path = Path(__file__).parents[1] / "benchmarks" / "gpu_check.py"
    spec = importlib.util.spec_from_file_location("gpu_check", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    small = {
        "RUNS": 2, "WARM": 1, "STREAMS": (1, 2), "COPIED": 1 << 20,
        "SIZES": {"1080p": (64, 96)},
        "FRAMES": {"720p": (144, 256), "1080p": (216, 384)},
    }  # fmt: skip
    for name, value in small.items():
        monkeypatch.setattr(module, name, value)
    monkeypatch.setitem(CONFIGS, "paper", SMALL)  # minutes less to export
    return module


def test_everything_is_measured(
    gpu_check: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    output = tmp_path / "gpu.json"
    written: list[set[str]] = []

    def run_gpu_tests() -> int:
        written.append(set(json.loads(output.read_text("utf-8"))))
        return 0

    monkeypatch.setattr(gpu_check, "run_gpu_tests", run_gpu_tests)
    monkeypatch.setattr(sys, "argv", ["gpu_check", "--output", str(output)])
    with pytest.raises(SystemExit) as left:
        gpu_check.main()
    assert not left.value.code
    results = json.loads(output.read_text("utf-8"))
    assert written == [set(results) - {"gpu_tests_exit_code"}]  # nothing is kept until the end
    assert len(results["kernels"]) == 4
    assert {(row["network"], row["precision"]) for row in results["tensorrt"]} == {
        (network, precision) for network in ("edge", "paper") for precision in ("fp32", "fp16")
    }
    assert [row["videos"] for row in results["frame_path"]] == [1, 2, 1, 2]
    for part in ("kernels", "tensorrt", "frame_path"):
        assert not any("failed" in row for row in results[part]), results[part]
