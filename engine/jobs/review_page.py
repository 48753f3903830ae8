"""The review page of a finished job: ``fusematte run --report DIR``.

There is no ground truth to compare with; the page shows frames where the network was unsure and
where the matte changed more than the picture and its neighbours explain.
"""

from __future__ import annotations

import base64
import html
import platform
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from importlib.metadata import version
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from fusematte.engine.errors import FuseMatteError, OutputError, reason_of
from fusematte.engine.jobs.measures import JUMP, UNSURE, Measure, Suspect, suspects
from fusematte.engine.media.files import jpeg, write_whole
from fusematte.engine.media.reader import Reader
from fusematte.engine.pixels.fit import thumbnail

SHEET_FRAMES = 12
"""Number of pictures on the contact sheet."""
THUMBNAIL = 240
"""Width of a picture on the page, in pixels."""
PLOT_WIDTH, PLOT_HEIGHT, PLOT_POINTS = 1000, 120, 1000
COVERAGE_SPAN = 0.1
"""Minimum range of the coverage plot's vertical axis."""


class Done(Protocol):
    """A finished job's report."""

    @property
    def rate(self) -> float: ...


@dataclass(frozen=True)
class Review:
    """The contents of a page besides the measures: input, output, settings, the job's report.

    model: name and version.
    """

    input: Path
    output: Path
    settings: dict[str, Any]
    model: str
    done: Done

    def write(self, folder: Path, measures: Sequence[Measure]) -> Path:
        """Writes the page, ``folder/<output's name>.html``; it is self-contained.

        Raises:
            OutputError: it cannot be written.
        """
        path = folder / f"{self.output.name}.html"
        write_whole(path, self._page(measures).encode())
        return path

    def _page(self, measures: Sequence[Measure]) -> str:
        found = suspects(measures)
        sheet = _spread(len(measures), SHEET_FRAMES)
        indices = sorted({*sheet, *(suspect.frame for suspect in found)})
        shots = self._shots(measures, indices)
        parts = [
            f"<h1>{html.escape(self.output.name)}</h1>",
            f"<p>{self.done}; {len(found)} frames to check</p>",
            _section("Contact sheet", _figures(shots, ((i, "") for i in sheet))),
            _section("Confidence", _plot([m.confidence for m in measures], UNSURE, found)),
            _section("Change of the matte", _plot([m.change for m in measures], JUMP, found)),
            _section(
                "Share of the picture covered by the person",
                _plot([m.coverage for m in measures], COVERAGE_SPAN),
            ),
            _section(
                "Frames to check",
                _CORRECT + _figures(shots, ((s.frame, s.why) for s in found))
                if found
                else "<p>None.</p>",
            ),
            _section("Settings and versions", _table(self._settings())),
        ]
        return _PAGE.format(title=html.escape(self.output.name), body="\n".join(parts))

    def _settings(self) -> dict[str, object]:
        known = {name: value for name, value in self.settings.items() if value is not None}
        files = {"input": self.input, "output": self.output}
        return {**files, **known, "version of the model": self.model, **versions()}

    def _shots(self, measures: Sequence[Measure], indices: Sequence[int]) -> dict[int, _Shot]:
        """These frames of the input and, if it is a file, of the output, side by side."""
        with Reader(self.input) as reader:
            times = [measures[index].pts * reader.time_base for index in indices]
            begin = reader.begin
        files = [self.input, *([self.output] if self.output.is_file() else [])]
        rows = [_pictures(path, times) for path in files]
        return {
            index: _Shot(
                index, times[number], times[number] - begin, [row[number] for row in rows if row]
            )
            for number, index in enumerate(indices)
        }


class _Shot(NamedTuple):
    """since: seconds from the beginning of the video, as prompts count them."""

    frame: int
    time: Fraction
    since: Fraction
    pictures: list[NDArray[np.uint8]]


def versions() -> dict[str, object]:
    """Versions of the software involved."""
    names = ("fusematte", "openvino", "av", "numpy")
    return {
        **{f"version of {name}": version(name) for name in names},
        "python": platform.python_version(),
        "system": platform.platform(),
    }


def check_folder(path: str | PathLike[str]) -> Path:
    """Creates the folder of review pages, and checks before the job that it can be written.

    Raises:
        OutputError: it cannot be created or written.
    """
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".fusematte"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise OutputError.at(
            folder, f"the report cannot be written: {reason_of(error)}", option="report"
        ) from error
    return folder


def _spread(total: int, count: int) -> list[int]:
    """``count`` indices spread evenly over ``total``."""
    count = min(total, count)
    return [(2 * place + 1) * total // (2 * count) for place in range(count)]


def _pictures(path: Path, times: Sequence[Fraction]) -> list[NDArray[np.uint8]]:
    """Small RGB pictures of a video at these times; empty if it cannot be read again."""
    pictures = []
    try:
        with Reader(path) as reader:
            for time in times:
                reader.seek(round(time / reader.time_base))
                tolerance = Fraction(1, 500)  # some containers round times to milliseconds
                frame = next(f for f in reader if f.time >= time - tolerance)
                pictures.append(thumbnail(frame, THUMBNAIL))
    except (FuseMatteError, StopIteration):
        return []
    return pictures


def _figures(shots: dict[int, _Shot], wanted: Iterable[tuple[int, str]]) -> str:
    figures = []
    for index, why in wanted:
        shot = shots[index]
        minutes, seconds = divmod(float(shot.time), 60)
        caption = f"frame {shot.frame}, {int(minutes)}:{seconds:06.3f}"
        images = "".join(f'<img src="{_data(picture)}" alt="">' for picture in shot.pictures)
        text = f"{caption}<br>{html.escape(why)}" if why else caption
        since = f"{float(shot.since):.3f}"
        figures.append(
            f'<figure data-time="{since}">{images}<figcaption>{text}</figcaption></figure>'
        )
    return "\n".join(figures)


def _data(picture: NDArray[np.uint8]) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg(picture)).decode('ascii')}"


def _plot(values: Sequence[float], least: float, marks: Sequence[Suspect] = ()) -> str:
    """A line plot as SVG; with many frames, each point shows the minimum and maximum of several.

    least: minimum range of the vertical axis, so that noise stays small.
    """
    if not values:
        return "<p>There are no frames.</p>"
    high = max(*values, least)
    low = min(*values, high - least)
    span = high - low
    scale = PLOT_WIDTH / max(1, len(values) - 1)

    def place(index: int, value: float) -> str:
        return f"{index * scale:.1f},{PLOT_HEIGHT * (1 - (value - low) / span):.1f}"

    step = max(1, 2 * len(values) // PLOT_POINTS)
    points = []
    for start in range(0, len(values), step):
        chunk = values[start : start + step]
        points += [place(start, bound) for bound in {min(chunk): 0, max(chunk): 0}]
    lines = "".join(
        f'<line x1="{mark.frame * scale:.1f}" x2="{mark.frame * scale:.1f}" y2="{PLOT_HEIGHT}"/>'
        for mark in marks
    )
    return (
        f'<svg viewBox="0 0 {PLOT_WIDTH} {PLOT_HEIGHT}" preserveAspectRatio="none">{lines}'
        f'<polyline points="{" ".join(points)}"/></svg>'
        f"<p>{low:.4f} (bottom) to {high:.4f} (top), {len(values)} frames</p>"
    )


def _section(title: str, body: str) -> str:
    return f"<section><h2>{html.escape(title)}</h2>\n{body}\n</section>"


def _table(rows: dict[str, object]) -> str:
    cells = (
        f"<tr><th>{html.escape(str(name))}</th><td>{html.escape(str(value))}</td></tr>"
        for name, value in rows.items()
    )
    return f"<table>{''.join(cells)}</table>"


_CORRECT = (
    '<p>Click on a person or thing, with shift to drop it: <output id="prompt">the option that '
    "corrects the matte from that frame on</output></p>\n"
)
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>
body {{ font: 14px system-ui, sans-serif; margin: 2em auto; max-width: 1060px; color: #222; }}
h2 {{ font-size: 1.1em; margin: 2em 0 .5em; }}
figure {{ display: inline-block; margin: 0 12px 12px 0; vertical-align: top; max-width: 486px; }}
figure img {{ width: 240px; margin-right: 2px; }}
#prompt {{ font-family: monospace; }}
figcaption {{ font-size: 12px; color: #555; }}
svg {{ width: 100%; height: 120px; background: #f6f6f6; }}
polyline {{ fill: none; stroke: #1667b7; vector-effect: non-scaling-stroke; }}
line {{ stroke: #d33; stroke-width: 2; opacity: .5; vector-effect: non-scaling-stroke; }}
th {{ text-align: left; font-weight: normal; color: #555; padding-right: 2em; }}
</style></head><body>
{body}
<script>
document.onclick = ({{ target, offsetX, offsetY, shiftKey }}) => {{
  const time = target.matches("img") && target.closest("figure").dataset.time;
  const prompt = document.getElementById("prompt");
  if (!time || !prompt) return;
  const place = [offsetX / target.clientWidth, offsetY / target.clientHeight];
  const share = place.map((part) => Math.min(1, Math.max(0, part)).toFixed(3));
  prompt.textContent = `${{shiftKey ? "--drop" : "--keep"}} ${{share}}@${{time}}`;
  prompt.scrollIntoView({{ block: "nearest" }});
}};
</script>
</body></html>
"""
