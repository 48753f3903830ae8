"""``fusematte bench``."""

from __future__ import annotations

import pytest
from tests.helpers import events

from fusematte.cli import main

pytestmark = pytest.mark.usefixtures("small_network")


def test_bench(capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("skimage")
    assert main(["bench", "-q", "--sizes", "96x64", "--frames", "5", "--json"]) == 0
    result = events(capfd.readouterr().out)[-1]
    row = result["sizes"]["96x64"]
    assert result["event"] == "done"
    assert result["backend"] and result["device"] and result["precision"]
    assert row["fps"] > 0
    assert row["ratio"] == pytest.approx(row["fps"] / row["codec_fps"], abs=0.01)
    assert {"decode", "network", "composite", "encode"} == set(row["stage_ms"])
    assert 0 < row["matte_ms"]["median"] <= row["matte_ms"]["p95"]
    for bad in (["--sizes", "95x64"], ["--sizes", "wide"], ["--frames", "1"]):
        assert main(["bench", *bad]) == 2
