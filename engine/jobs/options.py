"""The options of a file job, defined once for ``fusematte.run``, the command line, batches,
journals and cluster tasks.
"""

# ruff: noqa: RUF009  (`_option` makes fields, as `field` does)

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from fractions import Fraction
from os import PathLike
from pathlib import Path
from typing import Any, Self, TypeVar

from fusematte.engine.compositing.look import Look
from fusematte.engine.errors import UsageError
from fusematte.engine.jobs.prompts import parse_prompt, read_prompts
from fusematte.engine.matting.mask import Mask
from fusematte.engine.matting.matter import AREAS, Quality
from fusematte.engine.matting.selection import Kind, Selection
from fusematte.engine.media.audio import AUDIO_MODES, AudioMode, audio_mode
from fusematte.engine.media.formats import BITRATES, Encoding
from fusematte.engine.media.image_sequence import ALPHA_MODES, AlphaMode
from fusematte.engine.models import DEFAULT_MODEL
from fusematte.engine.stages.contract import StageOptions

StrPath = str | PathLike[str]
T = TypeVar("T")


def parse_time(text: str) -> Fraction:
    """Parses seconds, or ``[hours:]minutes:seconds``.

    Raises:
        ValueError: it is not a time.
    """
    match = re.fullmatch(r"(?:(?:(\d+):)?(\d+):)?(\d+(?:\.\d+)?)", text)
    if match is None:
        raise ValueError(f"{text!r} is not a time; write seconds or h:mm:ss")
    hours, minutes, seconds = (Fraction(part or 0) for part in match.groups())
    return hours * 3600 + minutes * 60 + seconds


def parse_bitrate(text: str) -> int:
    """Parses bits per second, with ``k``, ``M`` or ``G`` for powers of a thousand.

    Raises:
        ValueError: it is not a bitrate.
    """
    powers = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([kKmMgG]?)", text)
    number = round(Fraction(match[1]) * powers[match[2].lower()]) if match else 0
    if number not in BITRATES:
        raise ValueError(f"{text!r} is not a bitrate from 1k to 2G; write 800k or 8M")
    return number


def parse_frame_rate(text: str) -> Fraction:
    """Parses frames per second: a number or a fraction, above 0 and at most 1000.

    Raises:
        ValueError: it is not a frame rate.
    """
    try:
        rate = Fraction(text)
    except (ValueError, ZeroDivisionError):
        rate = Fraction(0)
    if not 0 < rate <= 1000:
        raise ValueError(f"{text!r} is not a frame rate; write 24 or 30000/1001")
    return rate


def _option(
    default: T,
    help: str,
    *,
    metavar: str | None = None,
    parse: Callable[[str], object] | None = None,
    choices: tuple[str, ...] | None = None,
) -> T:
    """A field with the keyword arguments that ``argparse`` gets for it."""
    given = {"help": help, "metavar": metavar, "type": parse, "choices": choices}
    metadata = {name: value for name, value in given.items() if value is not None}
    option: T = field(default=default, metadata=metadata)
    return option


@dataclass(frozen=True, kw_only=True)
class JobOptions:
    """The options of a file job; ``fusematte.run`` and ``--help`` describe them.

    On the command line the field ``light_wrap`` is called ``--light-wrap``; a field that is true by
    default gives ``--no-...``.
    """

    background: StrPath = _option(
        "green",
        "new background: green, #rrggbb, blur[:sigma], transparent, mask (only the alpha, as "
        "grayscale), a picture, or a video, which is looped (green)",
        metavar="BG",
    )
    light_wrap: float = _option(
        0.0,
        "strength of the new background's light on a person's edges, 0 to 1 (0)",
        metavar="SHARE",
        parse=float,
    )
    despill: float = _option(
        0.0, "remove the old background's colour cast, 0 to 1 (0)", metavar="SHARE", parse=float
    )
    invert: bool = _option(False, "keep the background, remove the person")
    grow: int = _option(
        0, "grow the matte by PX pixels; negative values shrink it (0)", metavar="PX", parse=int
    )
    feather: float = _option(
        0.0, "soften the edges of the matte: sigma in pixels (0)", metavar="PX", parse=float
    )
    min_alpha: float = _option(
        0.0, "set alpha below this value to 0, 0 to 1 (0)", metavar="SHARE", parse=float
    )
    keep: tuple[str, ...] = _option(
        (),
        "keep the person or thing there, and follow it; in pixels or shares of the picture; "
        "can be given again",
        metavar="X,Y[@TIME]",
    )
    drop: tuple[str, ...] = _option(
        (), "do not keep the person there; can be given again", metavar="X,Y[@TIME]"
    )
    keep_box: tuple[str, ...] = _option(
        (), "keep what is in this box; can be given again", metavar="X,Y,W,H[@TIME]"
    )
    keep_mask: StrPath | None = _option(
        None, "keep what is white in this picture of the first frame", metavar="PICTURE"
    )
    prompts: StrPath | None = _option(
        None, "a JSON file of what to keep and to drop, and when", metavar="FILE"
    )
    smoothing: bool = _option(
        False, "reduce flicker where the picture stands still and the network is unsure"
    )
    lookahead: int = _option(
        0, "smooth with the next N frames as well, 0 to 30 (0)", metavar="N", parse=int
    )
    quality: Quality = _option(
        "normal",
        "high: the network sees twice the detail, and takes twice as long (normal)",
        choices=tuple(AREAS),
    )
    network_every: int = _option(
        16,
        "on a CPU, let up to N - 1 frames between two that the network mattes follow the "
        "motion, fewer where more happens, 1 to 16; 1: none (16)",
        metavar="N",
        parse=int,
    )
    alpha_output: StrPath | None = _option(
        None, "also write the alpha as grayscale video", metavar="PATH"
    )
    foreground_output: StrPath | None = _option(
        None, "also write the foreground colours, without alpha", metavar="PATH"
    )
    rgba_output: StrPath | None = _option(
        None, "also write the foreground with alpha: .mov, .webm, .mkv or pictures", metavar="PATH"
    )
    codec: str | None = _option(None, "video encoder of OUT (libx264; libvpx-vp9 for .webm)")
    pixel_format: str | None = _option(
        None, "pixel format of OUT, as FFmpeg names it", metavar="FMT"
    )
    crf: int | None = _option(
        None, "constant quality; lower is better (depends on codec)", parse=int
    )
    bitrate: int | None = _option(
        None, "bitrate of OUT, instead of --crf: 800k, 8M", metavar="N", parse=parse_bitrate
    )
    preset: str | None = _option(None, "encoder preset (veryfast)")
    alpha_mode: AlphaMode | None = _option(
        None,
        "alpha of picture sequences (.exr: premultiplied; .png, .tiff: straight)",
        choices=ALPHA_MODES,
    )
    audio: AudioMode | bool = _option(
        "convert",
        "convert: copy audio, and convert what OUT cannot hold; copy: never convert; none: no "
        "audio (convert)",
        choices=AUDIO_MODES,
    )
    start: Fraction | float | None = _option(
        None, "start at TIME: 75, 1:15 or 0:01:15.0", metavar="TIME", parse=parse_time
    )
    end: Fraction | float | None = _option(
        None, "end before TIME", metavar="TIME", parse=parse_time
    )
    frame_rate: Fraction | None = _option(
        None,
        "frame rate of picture sequences: 24, 30000/1001 (25)",
        metavar="N",
        parse=parse_frame_rate,
    )
    model: StrPath = _option(DEFAULT_MODEL, f"a shipped model or a bundle folder ({DEFAULT_MODEL})")
    backend: str = _option(
        "auto",
        "inference backend, as in openvino:gpu; doctor lists them (the fastest)",
        metavar="NAME[:DEVICE]",
    )
    threads: int | None = _option(
        None,
        "CPU threads for inference (as tune found best, else half of the processors, two at least)",
        metavar="N",
        parse=int,
    )

    def __post_init__(self) -> None:
        for name in ("keep", "drop", "keep_box"):  # one alone, or a list as JSON has it
            given = getattr(self, name)
            object.__setattr__(self, name, (given,) if isinstance(given, str) else tuple(given))

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """The names of all options."""
        return tuple(option.name for option in fields(cls))

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """The options among other values; missing ones have their defaults."""
        return cls(**{name: values[name] for name in cls.names() if name in values})

    def with_text(self, values: Mapping[str, Any]) -> Self:
        """A copy with some options replaced; text values are parsed as on the command line.

        Raises:
            UsageError: a text value is invalid.
        """
        parsers = {option.name: option.metadata.get("type") for option in fields(self)}
        read = dict(values)
        for name, value in values.items():
            parse = parsers[name]
            if parse is not None and (isinstance(value, str) or name == "frame_rate"):
                try:
                    read[name] = parse(str(value))
                except ValueError as error:
                    raise UsageError(f"{name}: {error}", option=name) from error
        return replace(self, **read)

    @property
    def encoding(self) -> Encoding:
        """The encoding of the main output."""
        return Encoding(
            codec=self.codec,
            pixel_format=self.pixel_format,
            bitrate=self.bitrate,
            crf=self.crf,
            preset=self.preset,
        )

    @property
    def mask(self) -> Mask:
        """The mask edits.

        Raises:
            UsageError: a value is out of range.
        """
        return Mask(
            invert=self.invert, grow=self.grow, feather=self.feather, min_alpha=self.min_alpha
        )

    @property
    def selects(self) -> bool:
        """Whether only some people or things are kept."""
        return bool(self.keep or self.drop or self.keep_box or self.keep_mask or self.prompts)

    @property
    def selection(self) -> tuple[Selection, StrPath | None]:
        """The prompts, and the picture of a mask.

        Raises:
            UsageError: a prompt is invalid; InputError: the file of prompts cannot be read.
        """
        asked: tuple[tuple[Kind, tuple[str, ...]], ...] = (
            ("keep", self.keep), ("drop", self.drop), ("box", self.keep_box),
        )  # fmt: skip
        told = tuple(parse_prompt(k, text, parse_time) for k, texts in asked for text in texts)
        listed, mask = ((), None) if self.prompts is None else read_prompts(self.prompts)
        return (*told, *listed), self.keep_mask or mask

    @property
    def further_outputs(self) -> dict[str, Path]:
        """The outputs besides the main one, by option name."""
        named = {name: getattr(self, name) for name in OUTPUTS}
        return {name: Path(path) for name, path in named.items() if path}

    def stages(self, *, observed: bool = False) -> StageOptions:
        """The options of the processing stages.

        observed: whether an observer needs each matte.

        Raises:
            UsageError: a value is invalid.
        """
        return StageOptions(
            look=Look(light_wrap=self.light_wrap, despill=self.despill, mask=self.mask),
            with_alpha=self.alpha_output is not None,
            with_foreground=self.foreground_output is not None or self.rgba_output is not None,
            smoothing=self.smoothing or self.lookahead > 0,
            lookahead=self.lookahead,
            network_every=self.network_every,
            with_mattes=observed,
            selects=self.selects,
        )

    def settings(self) -> dict[str, Any]:
        """The options that differ from their defaults, as JSON can hold them; without ``threads``,
        which does not change the result."""
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
"""The options that name a further output."""


def check_known(given: Mapping[str, Any], where: str, *others: str) -> None:
    """Checks that all keys are options.

    Raises:
        UsageError: one is not.
    """
    unknown = sorted(set(given) - {*JobOptions.names(), *others})
    if unknown:
        known = ", ".join(JobOptions.names())
        raise UsageError(
            f"{where}: unknown option {unknown[0]!r}; the options are {known}", option=unknown[0]
        )
