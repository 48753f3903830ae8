"""``fusematte doctor``."""

from __future__ import annotations

import pytest

from fusematte.cli import main

pytestmark = pytest.mark.usefixtures("small_network")


def test_doctor_says_what_runs(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    said = capfd.readouterr().out
    for part in (
        "openvino:cpu: ok",
        "openvino:npu: ",
        "onnxruntime:directml: ",
        "tuning ",
        "cache ",
        "edge: ok",
        "libx264: ok",
        "live ",
        "GPU",
        "python",
        "baseline",
        "CUDA: ",
    ):
        assert part in said
