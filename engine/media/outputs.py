"""Opens outputs by their name: video files, standard output and picture sequences."""

from __future__ import annotations

import logging
from os import PathLike, fspath
from pathlib import Path

from av.codec.hwaccel import HWAccel

from fusematte.engine.errors import UsageError
from fusematte.engine.frame import VideoInfo
from fusematte.engine.media.audio import AudioMode, audio_mode
from fusematte.engine.media.files import part_of
from fusematte.engine.media.formats import Content, Encoding
from fusematte.engine.media.image_sequence import (
    ALPHA_MODES,
    AlphaMode,
    SequenceWriter,
    is_picture_sequence,
    named,
)
from fusematte.engine.media.writer import Writer

log = logging.getLogger(__name__)

AnyWriter = Writer | SequenceWriter


def open_output(
    path: str | PathLike[str],
    like: VideoInfo,
    *,
    content: Content = "color",
    encoding: Encoding | None = None,
    alpha_mode: AlphaMode | None = None,
    audio: AudioMode | bool = False,
    subtitles: bool = False,
    hardware: HWAccel | None = None,
) -> AnyWriter:
    """Opens a writer: of a sequence for .png, .tif, .tiff and .exr, else of a video.

    Raises:
        UsageError: a name, an option or a combination is invalid.
        OutputError: it cannot be written.
    """
    encoding = encoding or Encoding()
    if is_picture_sequence(path):
        sequence = SequenceWriter(
            path, like, content=content, alpha_mode=alpha_mode, encoding=encoding
        )
        if audio_mode(audio) != "none" and like.audio_streams:
            log.warning("%s: pictures cannot hold audio; it is left out", fspath(path))
        return sequence
    if alpha_mode == "premultiplied":
        raise UsageError.at(
            path,
            "only sequences of .png, .tiff or .exr can be premultiplied; "
            "players expect straight alpha in video",
            option="alpha_mode",
        )
    return Writer(
        path,
        like,
        content=content,
        audio=audio,
        subtitles=subtitles,
        hardware=hardware,
        **vars(encoding),
    )


def parts_of(path: str | PathLike[str]) -> list[Path]:
    """The possible names of an unfinished output."""
    if is_picture_sequence(path):
        return [part_of(named(Path(path), mode)) for mode in (None, *ALPHA_MODES)]
    return [part_of(Path(path))]
