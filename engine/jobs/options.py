"""What a file job can be asked for, defined once: for ``fusematte.run``, the command line, batches,
journals and the tasks of a cluster.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from fractions import Fraction
from os import PathLike
from pathlib import Path
from typing import Any, Self

from fusematte.engine.compositing.look import Look
from fusematte.engine.errors import UsageError
from fusematte.engine.matting.mask import Mask
from fusematte.engine.media.audio import AUDIO_MODES, AudioMode, audio_mode
from fusematte.engine.media.formats import BITRATES, Encoding
from fusematte.engine.media.image_sequence import ALPHA_MODES, AlphaMode
from fusematte.engine.models import DEFAULT_MODEL
from fusematte.engine.stages.contract import StageOptions

StrPath = str | PathLike[str]


def parse_time(text: str) -> Fraction:
    """Seconds, or ``[hours:]minutes:seconds``.

    Raises:
        ValueError: it is no time.
    """
    match = re.fullmatch(r"(?:(?:(\d+):)?(\d+):)?(\d+(?:\.\d+)?)", text)
    if match is None:
        raise ValueError(f"{text!r} is no time; write seconds or h:mm:ss")
    hours, minutes, seconds = (Fraction(part or 0) for part in match.groups())
    return hours * 3600 + minutes * 60 + seconds


def parse_bitrate(text: str) -> int:
    """Bits per second, with ``k``, ``M`` or ``G`` for powers of a thousand.

    Raises:
        ValueError: it is no bitrate.
    """
    powers = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([kKmMgG]?)", text)
    number = round(Fraction(match[1]) * powers[match[2].lower()]) if match else 0
    if number not in BITRATES:
        raise ValueError(f"{text!r} is no bitrate of 1k to 2G; write 800k or 8M")
    return number


def parse_frame_rate(text: str) -> Fraction:
    """Pictures per second: a number or a fraction, above 0 and at most 1000.

    Raises:
        ValueError: it is no frame rate.
    """
    try:
        rate = Fraction(text)
    except (ValueError, ZeroDivisionError):
        rate = Fraction(0)
    if not 0 < rate <= 1000:
        raise ValueError(f"{text!r} is no frame rate; write 24 or 30000/1001")
    return rate


def _told(
    help: str,
    *,
    metavar: str | None = None,
    parse: Callable[[str], object] | None = None,
    choices: tuple[str, ...] | None = None,
) -> dict[str, Any]:
    """What the command line has to know of a field."""
    told = {"help": help, "metavar": metavar, "type": parse, "choices": choices}
    return {name: value for name, value in told.items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class JobOptions:
    """The options of a file job.  What each means is told by ``fusematte.run`` and in ``--help``.

    On the command line a field is called ``--like-this``; one that is true by default gives
    ``--no-like-this``.
    """

    background: StrPath = field(
        default="green",
        metadata=_told(
            "green, #rrggbb, blur[:sigma], transparent, a picture or a video, which loops (green)",
            metavar="BG",
        ),
    )
    light_wrap: float = field(
        default=0.0,
        metadata=_told(
            "let the background's light shine over a person's edges, 0 to 1 (0)",
            metavar="SHARE",
            parse=float,
        ),
    )
    despill: float = field(
        default=0.0,
        metadata=_told(
            "take the old background's hue off the person, 0 to 1 (0)", metavar="SHARE", parse=float
        ),
    )
    invert: bool = field(default=False, metadata=_told("keep the background, take the person away"))
    grow: int = field(
        default=0,
        metadata=_told(
            "let the matte grow by so many pixels; below 0 it shrinks (0)", metavar="PX", parse=int
        ),
    )
    feather: float = field(
        default=0.0,
        metadata=_told(
            "soften its edges: a Gaussian's sigma in pixels (0)", metavar="PX", parse=float
        ),
    )
    min_alpha: float = field(
        default=0.0,
        metadata=_told("alphas below that become 0, 0 to 1 (0)", metavar="SHARE", parse=float),
    )
    smoothing: bool = field(
        default=False,
        metadata=_told("damp flicker where the picture stands still and the network is in doubt"),
    )
    lookahead: int = field(
        default=0,
        metadata=_told(
            "smooth with the N frames that come after as well, 0 to 30 (0)", metavar="N", parse=int
        ),
    )
    alpha_output: StrPath | None = field(
        default=None, metadata=_told("also write the alpha, in gray", metavar="PATH")
    )
    foreground_output: StrPath | None = field(
        default=None, metadata=_told("also write the person's own colours, uncut", metavar="PATH")
    )
    rgba_output: StrPath | None = field(
        default=None,
        metadata=_told(
            "also write these colours with the alpha: .mov, .webm, .mkv or pictures", metavar="PATH"
        ),
    )
    codec: str | None = field(
        default=None, metadata=_told("video encoder of OUT (libx264; libvpx-vp9 for .webm)")
    )
    pixel_format: str | None = field(
        default=None, metadata=_told("of OUT, as libav names it", metavar="FMT")
    )
    crf: int | None = field(
        default=None, metadata=_told("constant quality; lower is better (by codec)", parse=int)
    )
    bitrate: int | None = field(
        default=None,
        metadata=_told("of OUT: 800k, 8M; not --crf", metavar="N", parse=parse_bitrate),
    )
    preset: str | None = field(default=None, metadata=_told("the encoder's speed (veryfast)"))
    alpha_mode: AlphaMode | None = field(
        default=None,
        metadata=_told(
            "colours of pictures with an alpha (.exr: premultiplied; .png, .tiff: straight)",
            choices=ALPHA_MODES,
        ),
    )
    audio: AudioMode | bool = field(
        default="convert",
        metadata=_told(
            "copy audio, converting what OUT cannot hold; copy or refuse it; leave it out",
            choices=AUDIO_MODES,
        ),
    )
    start: Fraction | float | None = field(
        default=None,
        metadata=_told("begin there: 75, 1:15 or 0:01:15.0", metavar="TIME", parse=parse_time),
    )
    end: Fraction | float | None = field(
        default=None, metadata=_told("end before that time", metavar="TIME", parse=parse_time)
    )
    frame_rate: Fraction | None = field(
        default=None,
        metadata=_told("of pictures: 24, 30000/1001 (25)", metavar="N", parse=parse_frame_rate),
    )
    model: StrPath = field(
        default=DEFAULT_MODEL,
        metadata=_told(f"a shipped model or a bundle folder ({DEFAULT_MODEL})"),
    )
    backend: str = field(
        default="auto",
        metadata=_told(
            "what the network runs on, as in openvino:gpu; doctor lists what can (the fastest)",
            metavar="NAME[:DEVICE]",
        ),
    )
    threads: int | None = field(
        default=None,
        metadata=_told(
            "CPU threads for the network (as tune found best, at first half of them)",
            metavar="N",
            parse=int,
        ),
    )

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """All options by name."""
        return tuple(option.name for option in fields(cls))

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """The options among other values; what is missing is as by default."""
        return cls(**{name: values[name] for name in cls.names() if name in values})

    def with_text(self, values: Mapping[str, Any]) -> Self:
        """These options with others in their place; text is read as on the command line.

        Raises:
            UsageError: a text that cannot be.
        """
        parsers = {option.name: option.metadata.get("type") for option in fields(self)}
        read = dict(values)
        for name, value in values.items():
            parse = parsers[name]
            if parse is not None and (isinstance(value, str) or name == "frame_rate"):
                try:
                    read[name] = parse(str(value))
                except ValueError as error:
                    raise UsageError(f"{name} {value!r} cannot be: {error}") from error
        return replace(self, **read)

    @property
    def encoding(self) -> Encoding:
        """How the output is encoded."""
        return Encoding(
            codec=self.codec,
            pixel_format=self.pixel_format,
            bitrate=self.bitrate,
            crf=self.crf,
            preset=self.preset,
        )

    @property
    def mask(self) -> Mask:
        """The edits of the matte.

        Raises:
            UsageError: a number out of its range.
        """
        return Mask(
            invert=self.invert, grow=self.grow, feather=self.feather, min_alpha=self.min_alpha
        )

    @property
    def further_outputs(self) -> dict[str, Path]:
        """Outputs beside the main one, by the names of their options."""
        named = {name: getattr(self, name) for name in OUTPUTS}
        return {name: Path(path) for name, path in named.items() if path}

    def stages(self, *, observed: bool = False) -> StageOptions:
        """What the stages between a frame and its result are to do.

        observed: each matte is looked at.

        Raises:
            UsageError: a value that cannot be.
        """
        return StageOptions(
            look=Look(light_wrap=self.light_wrap, despill=self.despill, mask=self.mask),
            with_alpha=self.alpha_output is not None,
            with_foreground=self.foreground_output is not None or self.rgba_output is not None,
            smoothing=self.smoothing or self.lookahead > 0,
            lookahead=self.lookahead,
            with_mattes=observed,
        )

    def settings(self) -> dict[str, Any]:
        """What is not as by default, as JSON can hold it; ``threads`` changes no result."""
        values = {
            option.name: (getattr(self, option.name), option.default) for option in fields(self)
        }
        values["audio"] = audio_mode(self.audio), "convert"
        return {
            name: value if isinstance(value, bool | int | float) else str(value)
            for name, (value, default) in values.items()
            if value != default and name != "threads"
        }


OUTPUTS = ("alpha_output", "foreground_output", "rgba_output")
"""The options that name an output of their own."""


def check_known(given: Mapping[str, Any], where: str, *others: str) -> None:
    """Refuses keys that are no option.

    Raises:
        UsageError: there is one.
    """
    unknown = sorted(set(given) - {*JobOptions.names(), *others})
    if unknown:
        able = ", ".join(JobOptions.names())
        raise UsageError(f"{where}: unknown {unknown[0]!r}; there are {able}")
