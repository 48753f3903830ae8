"""``fusematte tune``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest
from tests.helpers import events

from fusematte.cli import main
from fusematte.engine.backends import Spec
from fusematte.engine.backends.tuning import Timing, Tuning, keep, recall, tuning_key
from fusematte.engine.diagnostics import tune
from fusematte.engine.models import load_bundle

pytestmark = pytest.mark.usefixtures("small_network")


def test_tune_times_every_candidate_and_keeps_the_best(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("FUSEMATTE_CACHE", str(tmp_path))
    monkeypatch.setattr(tune, "FILE_FRAMES", 6)
    monkeypatch.setattr(tune, "processors", lambda: 1)
    bundle = load_bundle()
    for work in ("file", "live"):  # a wrong choice, which is overruled
        wrong = Timing(spec="onnxruntime:cpu:f32", threads=1, ms=0.1)
        keep(tuning_key(bundle, Spec(), work=work), Tuning(timings=(wrong,), thorough=True))
    assert main(["tune", "--json"]) == 0
    *told, done = events(capfd.readouterr().out)
    rows = {row["spec"]: row["alone"] for row in told}
    assert {"openvino:cpu:int8", "openvino:cpu:f32"} <= set(rows)
    assert all(row["total"] == len(told) for row in told)
    for work in ("file", "live"):
        found = recall(tuning_key(bundle, Spec(), work=work))
        assert found is not None
        assert found.thorough
        assert done[work] == asdict(found.timings[0])
        assert rows[found.timings[0].spec] <= 1.5 * min(rows.values())
    assert main(["doctor"]) == 0
    assert "measured by fusematte tune" in capfd.readouterr().out
    assert main(["tune", "--threads", "2"]) == 2


def test_rows_of_tune_stand_below_the_head() -> None:
    row = tune.Row(spec=Spec("openvino", "cpu", "int8"), threads=2, alone=12.34, fps=70)
    assert len(str(row)) == len(tune.HEADER)
    assert str(row).split() == ["openvino:cpu:int8", "2", "12.3", "70.0", "-"]
