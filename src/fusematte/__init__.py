"""FuseMatte: real-time human video matting.

>>> import fusematte as fm
>>> report = fm.run("talk.mp4", "out.mp4", background="beach.jpg")     # doctest: +SKIP

or frame by frame:

>>> with fm.open("talk.mp4") as src, fm.Matter() as matter:             # doctest: +SKIP
...     with fm.Writer("out.mp4", like=src) as out:
...         for frame in src:
...             matte = matter(frame)
...             out.write(fm.composite(frame, matte, "beach.jpg"))
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fusematte.engine.compositing.composite import composite
    from fusematte.engine.errors import FuseMatteError
    from fusematte.engine.frame import Frame, Matte
    from fusematte.engine.jobs.run import run
    from fusematte.engine.jobs.single import Report
    from fusematte.engine.live.session import Result, Session
    from fusematte.engine.matting.matter import Matter
    from fusematte.engine.matting.refine import refine
    from fusematte.engine.media.reader import Reader
    from fusematte.engine.media.reader import Reader as open
    from fusematte.engine.media.writer import Writer

__all__ = [
    "Frame",
    "FuseMatteError",
    "Matte",
    "Matter",
    "Reader",
    "Report",
    "Result",
    "Session",
    "Writer",
    "__version__",
    "composite",
    "open",
    "refine",
    "run",
]

# Imported on first use (PEP 562), so that importing fusematte is quick.
_HOMES = {
    "Frame": ("frame", "Frame"),
    "FuseMatteError": ("errors", "FuseMatteError"),
    "Matte": ("frame", "Matte"),
    "Matter": ("matting.matter", "Matter"),
    "Reader": ("media.reader", "Reader"),
    "Report": ("jobs.single", "Report"),
    "Result": ("live.session", "Result"),
    "Session": ("live.session", "Session"),
    "Writer": ("media.writer", "Writer"),
    "composite": ("compositing.composite", "composite"),
    "open": ("media.reader", "Reader"),
    "refine": ("matting.refine", "refine"),
    "run": ("jobs.run", "run"),
}


def __getattr__(name: str) -> Any:  # noqa: ANN401
    if name == "__version__":
        from importlib.metadata import version

        return version("fusematte")
    if name not in _HOMES:
        raise AttributeError(f"module 'fusematte' has no attribute {name!r}")
    module, attribute = _HOMES[name]
    return getattr(import_module(f"fusematte.engine.{module}"), attribute)


def __dir__() -> list[str]:
    return sorted(__all__)
