"""One statement over the whole corpus of troublesome media.

The exit code is a documented one and there is no traceback; frames in are frames out, or the
damage is named; what lies under the final name plays to its end; nothing grows without bounds.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from tests.helpers import content
from tests.media.corpus import CUT, DONE, KINDS, Kind

from fusematte.cli import main
from fusematte.engine.matting.matter import Matter
from fusematte.engine.media.files import part_of
from fusematte.engine.models import SHIPPED

MEMORY = 512 << 20
"""Bytes that one small input may add to the process."""


@pytest.fixture(scope="module")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The shipped network at 64x64, compiled once for all."""
    folder = tmp_path_factory.mktemp("model") / "edge"
    shutil.copytree(SHIPPED / "edge", folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["default_size"] = {"height": 64, "width": 64}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with Matter(folder, threads=1):
        yield folder


@pytest.mark.timeout(60)
@pytest.mark.parametrize("suffix", [".mkv", ".mp4"])
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_no_input_breaks_a_job(
    kind: Kind,
    suffix: str,
    small_model: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    source = kind.make(tmp_path)
    output = tmp_path / f"out{suffix}"
    before = psutil.Process().memory_info().rss
    command = ["run", "-q", str(source), str(output), "--model", str(small_model)]
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
