"""One statement over the whole corpus of troublesome media.

The exit code is a documented one and there is no traceback; frames in are frames out, or the
damage is named; what lies under the final name plays to its end; nothing grows without bounds.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from tests.helpers import content, peak_memory
from tests.media.corpus import CUT, DONE, KINDS, Kind

from fusematte.cli import main
from fusematte.engine.matting.matter import Matter
from fusematte.engine.media.files import part_of

MEMORY = 512 << 20
"""Bytes that one small input may add to the process, which has others behind it."""
WHOLE = 1 << 30
"""Bytes that a process may take that does one of them alone."""


@pytest.fixture(scope="module")
def model(small_model: str) -> Iterator[str]:
    """A small network, held open for all."""
    with Matter(small_model, threads=1):
        yield small_model


@pytest.mark.timeout(60)
@pytest.mark.parametrize("suffix", [".mkv", ".mp4"])
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_no_input_breaks_a_job(
    kind: Kind,
    suffix: str,
    model: str,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    source = kind.make(tmp_path)
    output = tmp_path / f"out{suffix}"
    before = psutil.Process().memory_info().rss
    command = ["run", "-q", str(source), str(output), "--model", model]
    code = main([*command, "--threads", "1"])
    said = capfd.readouterr().err
    assert code in kind.codes, said
    assert "Traceback" not in said
    assert psutil.Process().memory_info().rss - before < MEMORY
    if code == DONE:
        assert not part_of(output).exists()
        found = content(output).times
        assert found == sorted(set(found))
        assert kind.frames in (None, len(found))
        return
    assert not output.exists()
    assert str(source.name) in said
    assert len(said.splitlines()) < 40
    if code == CUT and part_of(output).exists():
        assert content(part_of(output)).times


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["mp4-libsvtav1", "mov-prores_ks-yuv422p10le", "interlaced", "changing_size", "alpha"]
)
def test_a_job_takes_less_than_a_gigabyte(name: str, small_model: str, tmp_path: Path) -> None:
    """In a process of its own, with all that it loads: decoders, network, encoder."""
    source, output = KINDS[name].make(tmp_path), tmp_path / "out.mp4"
    command = [sys.executable, "-m", "fusematte", "run", "-q", source, output]
    model = ["--model", small_model, "--threads", "1", "--backend", "openvino:cpu:f32"]
    assert peak_memory([*command, *model]) < WHOLE
