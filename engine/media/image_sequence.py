"""The writer of picture sequences: one PNG, TIFF or OpenEXR file for each frame.

Pictures are RGB in display orientation: PNG and TIFF in the video's own R'G'B' with 8 or 16 bits,
OpenEXR in linear light.  An unfinished sequence is in the folder PATTERN.part.
"""

from __future__ import annotations

import logging
import os
import re
import struct
import zlib
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from fusematte.engine.errors import OutputError, UsageError, reason_of
from fusematte.engine.frame import Frame, Map, Plane, VideoInfo
from fusematte.engine.media.files import Unfinished, make_folder, part_of
from fusematte.engine.media.formats import Content, Encoding
from fusematte.engine.media.locks import FolderLock
from fusematte.engine.media.reader import Packet
from fusematte.engine.media.sources import PATTERN
from fusematte.engine.pixels.color import as_float, enlarge, to_light, to_rgb, to_unit_range

log = logging.getLogger(__name__)

AlphaMode = Literal["straight", "premultiplied"]
"""Whether colours are multiplied by alpha."""

ALPHA_MODES: tuple[AlphaMode, ...] = ("straight", "premultiplied")

_PIXEL_FORMATS: dict[Content, tuple[str, str]] = {
    "color": ("rgb24", "rgb48"),
    "gray": ("gray", "gray16"),
    "rgba": ("rgba", "rgba64"),
}
"""libav's names for 8 and 16 bits a channel."""

_WHITE_LUMINANCE = 203.0
_CHROMATICITIES = {
    1: (0.64, 0.33, 0.30, 0.60, 0.15, 0.06, 0.3127, 0.3290),
    9: (0.708, 0.292, 0.170, 0.797, 0.131, 0.046, 0.3127, 0.3290),
}
"""x and y of red, green, blue and white for ITU-T H.273's numbers of BT.709 and BT.2020."""


class Tags(NamedTuple):
    """Metadata of a picture.

    alpha: straight or premultiplied; None without alpha.
    like: the video, for its colour tags; aspect: pixel aspect ratio in display orientation.
    """

    alpha: AlphaMode | None
    like: VideoInfo
    aspect: float

    @property
    def text(self) -> str:
        """The tags as readable text."""
        color = self.like.color
        parts = [f"alpha={self.alpha}"] if self.alpha else []
        return "; ".join([*parts, f"primaries={color.primaries}", f"transfer={color.transfer}"])


Save = Callable[[Path, NDArray[Any], Tags], None]


class SequenceWriter(Unfinished):
    """Writes a sequence of pictures; pass frames to ``write``, in order.

    path: a pattern for the numbers, which count from 1: ``out_%05d.png``, ``.tif``, ``.tiff`` or
    ``.exr``.  Names of pictures with alpha contain its mode, as in ``out_00001.straight.png``; the
    attribute ``path`` is the pattern with it.
    like: the video whose size, rotation, colour and bit depth the pictures have.
    content: "color"; "gray", an alpha, written by ``write_gray``; or "rgba".
    alpha_mode: "straight", or "premultiplied", the default for .exr.
    encoding: only its pixel_format may be set: rgb24, rgba or gray, or rgb48, rgba64 or gray16 with
    16 bits, the default for videos of more than 8.  OpenEXR always has half floats.

    Pictures have neither timestamps nor audio: a variable frame rate is lost.

    Raises:
        UsageError: an option or a name is invalid, or a library is missing.
        OutputError: the pictures cannot be written.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        like: VideoInfo,
        *,
        content: Content = "color",
        alpha_mode: AlphaMode | None = None,
        encoding: Encoding | None = None,
    ) -> None:
        given = Path(path)
        self._check_name(given)
        self._save = _savers(given.suffix.lower())
        self._linear = given.suffix.lower() == ".exr"
        self._bits = _bits_of(given, content, encoding or Encoding(), like.format.bits)
        mode = alpha_mode or ("premultiplied" if self._linear else "straight")
        self._mode: AlphaMode | None = mode if content == "rgba" else None
        self.path = named(given, self._mode)
        self.part = part_of(self.path)
        self._like, self.content, self._frames, self._open = like, content, 0, False
        turned = like.rotation in (90, 270)
        self._tags = Tags(self._mode, like, float(1 / like.aspect if turned else like.aspect))
        self._make_folder()

    def write(self, frame: Frame) -> None:
        """Writes one picture."""
        luma, chroma = to_unit_range(frame.planes, frame)
        whole = np.stack([luma, *(enlarge(plane, *luma.shape) for plane in chroma)])
        rgb = to_rgb(whole, frame.matrix)
        if self._linear:
            rgb = to_light(rgb, frame.color.transfer)
        channels = [*rgb]
        if self.content == "rgba":
            opacity = _opacity(frame)
            if self._mode == "premultiplied":
                channels = [channel * opacity for channel in channels]
            channels.append(opacity)
        self._store(np.stack(channels, 2), frame)

    def write_gray(self, plane: Plane, frame: Frame) -> None:
        """Writes one gray picture; plane: [height, width], full range, of the frame's depth."""
        self._store(as_float(plane / np.float32(frame.format.peak)), frame)

    def mux(self, packet: Packet) -> None:
        """Drops an audio packet: pictures have no audio."""

    def close(self) -> None:
        """Gives the pictures their names, and deletes the rest of an older, longer sequence."""
        if not self._open or not self._frames:
            self.abandon()
            return
        self._open = False
        try:
            for number in range(1, self._frames + 1):
                name = self.path.name % number
                (self.part / name).replace(self.path.with_name(name))
            self.part.rmdir()
            number = self._frames + 1
            while (left := self.path.with_name(self.path.name % number)).exists():
                left.unlink()
                number += 1
        except OSError as error:
            raise self._failure(error) from error
        finally:
            self._lock.close()

    def abandon(self) -> None:
        """Leaves the pictures in the folder PATTERN.part, which is removed if it is empty."""
        if self._open and not self._frames:
            with suppress(OSError):
                self._clear()
                self.part.rmdir()
        self._open = False
        self._lock.close()

    @staticmethod
    def _check_name(path: Path) -> None:
        if len(PATTERN.findall(path.name)) != 1 or path.name.count("%") != 1:
            raise UsageError.at(
                path,
                "a sequence needs a pattern for its numbers",
                remedy=f"write {path.stem.replace('%', '')}_%05d{path.suffix}",
            )
        make_folder(path.parent)

    def _make_folder(self) -> None:
        try:
            self.part.mkdir(exist_ok=True)
            self._lock = FolderLock(self.part)
            self._clear()
        except OSError as error:
            raise self._failure(error) from error
        if any(self.part.iterdir()):
            raise OutputError.at(self.part, "contains other files", remedy="move them away")
        self._open = True

    def _clear(self) -> None:
        """Deletes the pictures of an earlier job in the folder, and nothing else."""
        before, after = PATTERN.split(self.path.name)[::2]
        ours = re.compile(rf"{re.escape(before)}\d+{re.escape(after)}")
        for file in self.part.iterdir():
            if ours.fullmatch(file.name) and not file.is_dir():
                file.unlink()

    def _store(self, picture: Map, frame: Frame) -> None:
        """picture: [height, width] or [height, width, channels], 0..1, before rotation."""
        upright = np.ascontiguousarray(np.rot90(picture, -frame.rotation // 90))
        if not self._linear:
            peak = (1 << self._bits) - 1
            dtype = np.uint8 if self._bits == 8 else np.uint16
            upright = (np.clip(upright, 0, 1) * peak + 0.5).astype(dtype)
        path = self.part / (self.path.name % (self._frames + 1))
        try:
            self._save(path, upright, self._tags)
        except (OSError, RuntimeError) as error:
            path.unlink(missing_ok=True)
            raise self._failure(error) from error
        self._frames += 1

    def _failure(self, error: Exception) -> OutputError:
        return OutputError.at(self.path, f"cannot be written: {reason_of(error)}")


def is_picture_sequence(path: str | os.PathLike[str]) -> bool:
    """Whether an output's name is that of a picture sequence."""
    return Path(path).suffix.lower() in (".png", ".tif", ".tiff", ".exr")


def named(path: Path, mode: AlphaMode | None) -> Path:
    """The pattern with the alpha mode in it."""
    if mode is None or mode in path.name.split("."):
        return path
    return path.with_name(f"{path.stem}.{mode}{path.suffix}")


def _bits_of(path: Path, content: Content, encoding: Encoding, bits: int) -> int:
    """Bits per channel of the pictures."""
    names: tuple[str, ...] = () if path.suffix.lower() == ".exr" else _PIXEL_FORMATS[content]
    impossible = [name for name in encoding.named if name != "--pixel-format"]
    if impossible:
        raise UsageError.at(
            path, "pictures have no video codec", remedy=f"leave out {', '.join(impossible)}"
        )
    wanted = encoding.pixel_format
    if wanted is None:
        return 8 if bits == 8 else 16
    if wanted.removesuffix("le") not in names:
        able = f"use one of {', '.join(names)}" if names else "it always has half floats"
        raise UsageError.at(path, f"cannot be {wanted!r}", remedy=able, option="pixel_format")
    return 8 if wanted in names[:1] else 16


def _opacity(frame: Frame) -> Map:
    if frame.alpha is None:
        return np.ones(frame.planes[0].shape, np.float32)
    return as_float(frame.alpha / np.float32(frame.format.peak))


def _savers(suffix: str) -> Save:
    if suffix == ".png":
        return _save_png
    if suffix == ".exr":
        library = _library("OpenEXR", suffix)
        return lambda path, picture, tags: _save_exr(library, path, picture, tags)
    library = _library("tifffile", suffix)
    return lambda path, picture, tags: _save_tiff(library, path, picture, tags)


def _library(name: str, suffix: str) -> ModuleType:
    try:
        return import_module(name)
    except ImportError as error:
        raise UsageError(
            f"{suffix} needs {name}", remedy="pip install 'fusematte[sequences]', or write .png"
        ) from error


def _save_png(path: Path, picture: NDArray[Any], tags: Tags) -> None:
    """With the alpha mode as text, colour code points (cICP) and pixel aspect (pHYs)."""
    codes = {3: cv2.COLOR_RGB2BGR, 4: cv2.COLOR_RGBA2BGRA}
    ordered = picture if picture.ndim == 2 else cv2.cvtColor(picture, codes[picture.shape[2]])
    # Level 1 takes a third of the default level's time and gives a tenth more bytes.
    done, data = cv2.imencode(".png", ordered, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    if not done:
        raise OSError("the picture cannot be encoded")
    header = 8 + 25  # signature and IHDR
    color, chunks = tags.like.color, b""
    if color.primaries != 2 and color.transfer != 2 and picture.ndim == 3:
        chunks += _chunk(b"cICP", bytes([color.primaries, color.transfer, 0, 1]))
    if tags.aspect != 1:
        chunks += _chunk(b"pHYs", struct.pack(">IIB", 10_000, round(10_000 * tags.aspect), 0))
    if tags.alpha:
        chunks += _chunk(b"tEXt", b"Alpha\0" + tags.alpha.encode())
    encoded = data.tobytes()
    path.write_bytes(encoded[:header] + chunks + encoded[header:])


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _save_tiff(library: ModuleType, path: Path, picture: NDArray[Any], tags: Tags) -> None:
    """The alpha mode is TIFF's own: ExtraSamples 1 is premultiplied, 2 straight."""
    extra = {"straight": "unassalpha", "premultiplied": "assocalpha"}
    library.imwrite(
        path,
        picture,
        photometric="minisblack" if picture.ndim == 2 else "rgb",
        extrasamples=[extra[tags.alpha]] if tags.alpha else None,
        compression="deflate",
        description=tags.text,
        metadata=None,
        software="FuseMatte",
        resolution=(10_000, round(10_000 * tags.aspect)),
        resolutionunit=1,
    )


def _save_exr(library: ModuleType, path: Path, picture: NDArray[Any], tags: Tags) -> None:
    """Half floats; 1 is diffuse white, with its luminance in the header for HDR video."""
    header: dict[str, object] = {
        "compression": library.ZIP_COMPRESSION,
        "type": library.scanlineimage,
        "pixelAspectRatio": tags.aspect,
    }
    color = tags.like.color
    if picture.ndim == 3:
        header["chromaticities"] = _CHROMATICITIES[9 if color.primaries == 9 else 1]
    if tags.alpha:
        header["alphaMode"] = tags.alpha
    if color.is_hdr:
        header["whiteLuminance"] = _WHITE_LUMINANCE
    name = "Y" if picture.ndim == 2 else "RGBA"[: picture.shape[2]]
    half = np.ascontiguousarray(picture.astype(np.float16))
    library.File(header, {name: half}).write(str(path))
