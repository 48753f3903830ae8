"""Opens inputs: files, URLs, standard input, folders and patterns of pictures."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from contextlib import ExitStack, closing
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory

import av
from av.codec.hwaccel import HWAccel
from av.container import InputContainer

from fusematte.engine.errors import BackendError, InputError, UsageError, reason_of
from fusematte.engine.media.heif import is_animation, is_heif, read_photo_header
from fusematte.engine.media.joined_flv import JoinedFlv, find_joints

PICTURES = (".png", ".tif", ".tiff", ".jpg", ".jpeg", ".bmp", ".webp", ".dpx", ".tga")
"""Suffixes of pictures in a sequence."""

DEFAULT_RATE = Fraction(25)
"""Frames per second of a picture sequence."""

URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
RAW = re.compile(r"pipe:(\d+x\d+):(\w+):(\d+(?:[./]\d+)?)")
"""Raw video on standard input: size, pixel format, frames per second."""
PATTERN = re.compile(r"%0?(\d*)d")
"""The number in the file names of a sequence, as in printf and libav."""

_PIPED = "yuv4mpegpipe,nut,matroska,mpegts,mpeg,mov,flv,avi,ogg,h264,hevc"
"""The formats accepted on standard input; otherwise libav would decode any text as pictures."""

_PATIENCE = 15.0, 30.0
"""Seconds to wait for a URL to answer, and for its next bytes."""

_GEN_PTS = 1  # AVFMT_FLAG_GENPTS, which PyAV sets


class MediaSource:
    """An open input container and its origin.

    name: as given by the user.
    file: the file on disk; None for other inputs.
    pictures: number of pictures of a sequence; 0 for other inputs.
    joined: whether it consists of several files, with timestamps of their own.
    hardware: hardware decoder, used for files only.

    Raises:
        InputError: the input does not exist or is not a video.
        BackendError: ``hardware`` cannot be used.
        UsageError: a frame rate was given for an input that has its own.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        frame_rate: Fraction | None = None,
        hardware: HWAccel | None = None,
    ) -> None:
        self.name = os.fspath(path)
        self.file: Path | None = None
        self.pictures, self.joined = 0, False
        with ExitStack() as stack:
            self.container = self._open(stack, frame_rate, hardware)
            stack.callback(self.container.close)
            self._resources = stack.pop_all()

    def close(self) -> None:
        """Closes the container."""
        self._resources.close()

    def _open(
        self, stack: ExitStack, frame_rate: Fraction | None, hardware: HWAccel | None
    ) -> InputContainer:
        if not is_url(self.name) and is_sequence(self.name):
            files = find_pictures(self.name)
            self.pictures = len(files)
            return _open_pictures(self.name, files, frame_rate or DEFAULT_RATE, stack)
        if frame_rate is not None:
            raise UsageError.at(
                self.name,
                "has its own frame rate; --frame-rate is for picture sequences",
                option="frame_rate",
            )
        if is_url(self.name):
            return _open_url(self.name)
        if is_stdin(self.name):
            return _open_stdin(self.name)
        self.file = Path(self.name)
        readable = self.file.is_file() and os.access(self.file, os.R_OK)
        joints = find_joints(self.file) if readable else ()
        parts = stack.enter_context(closing(JoinedFlv(self.file, joints))) if joints else None
        self.joined = parts is not None
        return _open_file(self.file, hardware, parts)


def is_url(name: str) -> bool:
    """Whether it is a URL."""
    return URL.match(name) is not None


def is_stdin(name: str) -> bool:
    """Whether it is standard input: ``-``, or ``pipe:WxH:FORMAT:RATE`` for raw video."""
    return name == "-" or name.startswith("pipe:")


def is_sequence(name: str) -> bool:
    """Whether it is a picture sequence: a folder, or a pattern such as ``shot_%04d.png``."""
    path = Path(name)
    return path.is_dir() or (PATTERN.search(path.name) is not None and not path.exists())


def find_pictures(name: str) -> list[Path]:
    """The pictures in a folder, or those that match a pattern, in order.

    Raises:
        InputError: there are none, several kinds, or a gap in the numbers.
    """
    path = Path(name)
    return _in_folder(path) if path.is_dir() else _by_pattern(path)


def _in_folder(folder: Path) -> list[Path]:
    files = [file for file in folder.iterdir() if file.suffix.lower() in PICTURES]
    kinds = sorted({file.suffix.lower() for file in files})
    if not files:
        raise InputError.at(folder, "is a folder without pictures", remedy="give a video file")
    if len(kinds) > 1:
        raise InputError.at(
            folder,
            f"has pictures of several kinds ({', '.join(kinds)})",
            remedy=f"choose one with a pattern such as {folder / ('%04d' + kinds[0])}",
        )
    return sorted(files, key=_natural)


def _natural(file: Path) -> list[tuple[int, str]]:
    """Sort key that compares numbers by value: shot2 before shot10."""
    parts = re.split(r"(\d+)", file.name)
    return [(int(part), "") if part.isdigit() else (-1, part) for part in parts]


def _by_pattern(path: Path) -> list[Path]:
    if path.suffix.lower() not in PICTURES:
        raise InputError.at(
            path, f"a sequence consists of pictures ({', '.join(PICTURES)}), not {path.suffix!r}"
        )
    place = PATTERN.search(path.name)
    assert place is not None
    width = place[1] or "1"
    before, after = re.escape(path.name[: place.start()]), re.escape(path.name[place.end() :])
    fits = re.compile(rf"{before}(\d{{{width},}}){after}")
    entries = path.parent.iterdir() if path.parent.is_dir() else ()
    found = {int(match[1]): file for file in entries if (match := fits.fullmatch(file.name))}
    if not found:
        raise InputError.at(path, "no file matches", remedy="check the pattern")
    first, last = min(found), max(found)
    missing = next((number for number in range(first, last) if number not in found), None)
    if missing is not None:
        raise InputError.at(
            path,
            f"number {missing} is missing between {first} and {last}; "
            "a sequence must not have gaps",
        )
    return [found[number] for number in sorted(found)]


def _open_pictures(
    name: str, files: Sequence[Path], rate: Fraction, stack: ExitStack
) -> InputContainer:
    # Links with names that libav's sequence reader understands, counted from one.
    folder = Path(stack.enter_context(TemporaryDirectory(prefix="fusematte-")))
    suffix = files[0].suffix.lower()
    for number, file in enumerate(files, start=1):
        (folder / f"{number:08d}{suffix}").symlink_to(file.resolve())
    options = {"framerate": f"{rate.numerator}/{rate.denominator}", "start_number": "1"}
    try:
        place = str(folder).replace("%", "%%")
        return av.open(f"file:{place}/%08d{suffix}", format="image2", options=options)
    except (av.FFmpegError, ValueError) as error:
        raise InputError.at(name, f"{files[0].name} is not a readable picture") from error


def _open_url(name: str) -> InputContainer:
    try:
        return av.open(name, metadata_errors="replace", timeout=_PATIENCE)
    except (av.FFmpegError, ValueError) as error:
        raise InputError.at(
            name, f"cannot be opened: {reason_of(error)}", remedy="check the URL"
        ) from error


def _open_stdin(name: str) -> InputContainer:
    """Standard input: Y4M, NUT, Matroska and others, or raw video."""
    raw = RAW.fullmatch(name)
    if name != "-" and raw is None:
        raise InputError.at(
            name,
            "is not a description of raw video",
            remedy="write it like pipe:1280x720:yuv420p:30",
        )
    options = {"format_whitelist": _PIPED}
    if raw:
        options = {"video_size": raw[1], "pixel_format": raw[2], "framerate": raw[3]}
    try:
        return av.open("pipe:0", format="rawvideo" if raw else None, options=options)
    except (av.FFmpegError, ValueError) as error:
        raise InputError.at(
            name, "standard input is not a readable video", remedy="pipe Y4M, NUT or Matroska"
        ) from error


def _open_file(path: Path, hardware: HWAccel | None, joined: JoinedFlv | None) -> InputContainer:
    if not path.exists():
        raise InputError.at(path, "no such file", remedy="check the path")
    if path.is_file() and not path.stat().st_size:
        raise InputError.at(path, "is empty", remedy="give a video file")
    try:
        if path.is_file() and _is_tiled(path):
            raise InputError.at(
                path,
                "is a photo in tiles, which is not read as a video",
                remedy="cut it out with 'fusematte matte', or save it as JPEG or PNG",
            )
        # The prefix keeps libav from taking a colon in the name for a protocol.
        container = av.open(
            joined or f"file:{path}",
            "r",
            metadata_errors="replace",
            hwaccel=hardware,
            # A percent sign in the name of a single picture is not a pattern.
            options={"pattern_type": "none"} if "%" in path.name else {},
        )
    except InterruptedError as error:  # by Ctrl-C, while nobody writes to a FIFO
        raise KeyboardInterrupt from error
    except (av.FFmpegError, ValueError, OSError) as error:
        if hardware is not None:
            raise BackendError.at(path, f"the GPU's decoder cannot be opened: {error}") from error
        if isinstance(error, PermissionError):
            raise InputError.at(
                path, "permission denied", remedy="check its permissions"
            ) from error
        if path.is_file() and _beginning(path)[4:8] == b"ftyp":
            raise InputError.at(
                path,
                "this MP4 has no index (moov) and cannot be read",
                remedy="record or copy it again",
            ) from error
        raise InputError.at(path, "is not a readable video", remedy="give a video file") from error
    container.flags &= ~_GEN_PTS  # it makes the pts in AVI files one frame too late
    return container


def _beginning(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(12)


def _is_tiled(path: Path) -> bool:
    """Whether it is a photo of which libav would read one tile."""
    begin = _beginning(path)
    is_photo = is_heif(begin) and not is_animation(begin)
    return is_photo and read_photo_header(path.read_bytes()).tiles
