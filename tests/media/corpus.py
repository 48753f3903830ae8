"""A corpus of troublesome media: one function a kind, all generated, none larger than needed.

``KINDS`` maps names to kinds.  ``Kind.make`` writes the input into a folder and returns its path.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import av
import cv2
import numpy as np
from tests.helpers import cut, make_clip, picture
from tests.media.heif import photo

FRAMES = 12
DONE, CUT, REFUSED = 0, 4, 3
"""Exit codes: all of it, up to where it broke off, nothing that can be read."""


class Kind(NamedTuple):
    """One kind of input.

    codes: the exit codes that ``fusematte run`` may end with.
    frames: that come out; None where the damage decides.
    """

    make: Callable[[Path], Path]
    codes: tuple[int, ...] = (DONE,)
    frames: int | None = FRAMES


KINDS: dict[str, Kind] = {}


def kind(
    *codes: int, frames: int | None = FRAMES, name: str | None = None
) -> Callable[[Callable[[Path], Path]], Callable[[Path], Path]]:
    """Adds a function to the corpus."""

    def add(make: Callable[[Path], Path]) -> Callable[[Path], Path]:
        KINDS[name or make.__name__] = Kind(make, codes or (DONE,), frames)
        return make

    return add


def _containers() -> None:
    """Every container with the codecs that people find in it."""
    sound: dict[str, Any] = {"audio": True}
    rows: list[tuple[str, dict[str, Any]]] = [
        ("mp4", {**sound}),
        ("mp4", {"codec": "mpeg4"}),
        ("mp4", {"codec": "libx265", "pixel_format": "yuv420p10le"}),
        ("mp4", {"codec": "libsvtav1"}),
        ("mov", {**sound}),
        ("mov", {"codec": "prores_ks", "pixel_format": "yuv422p10le"}),
        ("mov", {"codec": "qtrle", "pixel_format": "rgb24"}),
        ("mov", {"codec": "mjpeg", "pixel_format": "yuvj420p"}),
        ("mkv", {**sound}),
        ("mkv", {"codec": "ffv1"}),
        ("mkv", {"codec": "ffv1", "pixel_format": "gray"}),
        ("mkv", {"codec": "libvpx"}),
        ("avi", {"codec": "huffyuv", "pixel_format": "rgb24"}),
        ("webm", {"codec": "libvpx-vp9", "audio": ("libopus",)}),
        ("ts", {**sound}),
        ("ts", {"codec": "mpeg2video", "audio": ("mp2",)}),
        ("mpg", {"codec": "mpeg2video", "audio": ("mp2",)}),
        ("avi", {"codec": "mpeg4", "audio": ("mp3",)}),
        ("avi", {"codec": "mjpeg", "pixel_format": "yuvj420p"}),
        ("avi", {"codec": "rawvideo"}),
        ("flv", {**sound}),
        ("nut", {"codec": "rawvideo"}),
        ("wmv", {"codec": "wmv2"}),
        ("gif", {"codec": "gif", "pixel_format": "rgb8"}),
        ("apng", {"codec": "apng", "pixel_format": "rgba"}),
        ("y4m", {"codec": "wrapped_avframe"}),
    ]
    for suffix, options in rows:
        codec = options.get("codec", "libx264")
        format = options.get("pixel_format", "")
        name = "-".join(filter(None, (suffix, codec, format)))
        KINDS[name] = Kind(_clip(suffix, options))
    for width, height in ((2, 2), (16, 16), (63, 47), (1, 1), (130, 6)):
        options = {"width": width, "height": height, "codec": "ffv1"}
        KINDS[f"size-{width}x{height}"] = Kind(_clip("mkv", options))
    for rate in (Fraction(1), Fraction(30000, 1001), Fraction(240), Fraction(1000)):
        KINDS[f"rate-{float(rate):.0f}"] = Kind(_clip("mp4", {"rate": rate}))
    for turn in (90, 180, 270):
        KINDS[f"turned-{turn}"] = Kind(_clip("mov", {"rotation": turn, "audio": True}))


def _clip(suffix: str, options: dict[str, Any]) -> Callable[[Path], Path]:
    return lambda folder: make_clip(folder / f"in.{suffix}", frames=FRAMES, **options)


def _times(name: str, times: Iterable[int | None], suffix: str = "mkv") -> None:
    """A clip whose packets carry these times, in milliseconds."""
    shown = list(times)

    def make(folder: Path) -> Path:
        return retimed(folder / f"in.{suffix}", shown)

    KINDS[name] = Kind(make, frames=len(shown))


def retimed(path: Path, times: list[int | None]) -> Path:
    """Writes intra-coded pictures whose packets carry exactly these times (ms); NUT and Matroska
    take them as they are, in whatever order."""
    unit = Fraction(1, 1000)
    encoder: Any = av.CodecContext.create("mpeg4", "w")
    encoder.width, encoder.height, encoder.pix_fmt = 64, 48, "yuv420p"
    encoder.time_base, encoder.framerate, encoder.gop_size = Fraction(1, 25), Fraction(25), 1
    packets = []
    for index in range(len(times)):
        image = av.VideoFrame.from_ndarray(picture(64, 48, index), format="rgb24")
        image = image.reformat(format="yuv420p")
        image.pts = index
        packets += encoder.encode(image)
    packets += encoder.encode(None)
    with av.open(str(path), "w", container_options={"avoid_negative_ts": "disabled"}) as container:
        stream: Any = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.time_base = unit
        for packet in packets:
            packet.stream, packet.time_base = stream, unit
            packet.pts = packet.dts = 0
            packet.duration = 40
            container.mux(packet)
    _patch_times(path, times)
    return path


def _patch_times(path: Path, times: list[int | None]) -> None:
    """Puts times into the blocks of a Matroska file whose blocks all have time 0: 16 bits each."""
    data = bytearray(path.read_bytes())
    at, blocks = data.find(b"\x1f\x43\xb6\x75"), []  # the first cluster
    while (at := data.find(b"\x81\x00\x00\x80", at + 1)) >= 0:
        blocks.append(at + 1)
    assert len(blocks) == len(times), (len(blocks), len(times))
    for block, time in zip(blocks, times, strict=True):
        struct.pack_into(">h", data, block, time or 0)
    path.write_bytes(data)


def _broken_times() -> None:
    _times("times-all-equal", [0] * FRAMES)
    _times("times-in-pairs", [40 * (index // 2) for index in range(FRAMES)])
    _times("times-backwards", [40 * (FRAMES - index) for index in range(FRAMES)])
    _times("times-negative", [40 * index - 300 for index in range(FRAMES)])
    _times("times-one-back", [0, 40, 80, 0, 160, 200, 240, 280, 320, 360, 400, 440])
    _times("times-one-ahead", [0, 40, 80, 30000, 160, 200, 240, 280, 320, 360, 400, 440])
    _times("times-jump-ahead", [*range(0, 240, 40), *range(20000, 20240, 40)])
    _times("times-twice", [*range(0, 240, 40), *range(0, 240, 40)])


def _whole(folder: Path, suffix: str, **options: Any) -> bytes:  # noqa: ANN401
    sound = {"audio": ("mp2",) if suffix in ("mpg", "vob") else True}
    path = make_clip(folder / f"part.{suffix}", frames=FRAMES, **sound, **options)
    data = path.read_bytes()
    path.unlink()
    return data


@kind(frames=2 * FRAMES)
def joined_ts(folder: Path) -> Path:
    """Two transport streams, one behind the other."""
    path = folder / "in.ts"
    path.write_bytes(_whole(folder, "ts") * 2)
    return path


@kind(frames=2 * FRAMES)
def joined_ts_of_another_offset(folder: Path) -> Path:
    """The second part begins at an hour."""
    path = folder / "in.ts"
    path.write_bytes(
        _whole(folder, "ts") + _whole(folder, "ts", muxer={"output_ts_offset": "3600"})
    )
    return path


@kind(frames=2 * FRAMES)
def joined_mpeg(folder: Path) -> Path:
    """Two program streams, one behind the other."""
    path = folder / "in.mpg"
    path.write_bytes(_whole(folder, "mpg", codec="mpeg2video") * 2)
    return path


@kind(frames=2 * FRAMES)
def joined_vob(folder: Path) -> Path:
    """The same of a DVD."""
    path = folder / "in.vob"
    path.write_bytes(_whole(folder, "vob", codec="mpeg2video") * 2)
    return path


@kind(frames=2 * FRAMES)
def joined_flv(folder: Path) -> Path:
    """Two FLV files, of which libav by itself reads the first."""
    path = folder / "in.flv"
    path.write_bytes(_whole(folder, "flv") * 2)
    return path


@kind(frames=3 * FRAMES)
def joined_flv_of_other_offsets(folder: Path) -> Path:
    """The second part begins at an hour, the third at zero, with pictures of another size."""
    path = folder / "in.flv"
    late = _whole(folder, "flv", muxer={"output_ts_offset": "3600"})
    other = _whole(folder, "flv", width=96, height=80)
    path.write_bytes(_whole(folder, "flv") + late + other)
    return path


@kind(DONE, CUT, frames=None)
def late_stream(folder: Path) -> Path:
    """FLV whose sound begins after libav has ended its search for streams, at 90 seconds."""
    path = make_clip(folder / "in.flv", frames=110, rate=1)
    sound = [tag for tag in flv_tags(_whole(folder, "flv")) if tag[0] == 8]
    late = [
        tag[:4] + (100_000 + index * 23).to_bytes(3) + tag[7:] for index, tag in enumerate(sound)
    ]
    path.write_bytes(path.read_bytes() + b"".join(late))
    return path


@kind()
def sound_without_settings(folder: Path) -> Path:
    """FLV without the tag that describes its AAC: nobody can decode it."""
    path, data = folder / "in.flv", _whole(folder, "flv")
    described = [tag for tag in flv_tags(data) if not (tag[0] == 8 and tag[12] == 0)]
    path.write_bytes(data[:13] + b"".join(described))
    return path


def flv_tags(data: bytes) -> list[bytes]:
    """The tags of an FLV file, each with its size behind it."""
    tags, at = [], 13
    while at < len(data):
        size = 11 + int.from_bytes(data[at + 1 : at + 4]) + 4
        tags.append(data[at : at + size])
        at += size
    return tags


@kind()
def variable_rate(folder: Path) -> Path:
    """Pictures that last 1 to 12 units."""
    times = np.cumsum(range(FRAMES)).tolist()
    return make_clip(folder / "in.mp4", times=times, time_base=Fraction(1, 30))


@kind()
def late_start(folder: Path) -> Path:
    """The first picture comes after five seconds."""
    return make_clip(folder / "in.mkv", frames=FRAMES, start=125)


@kind()
def interlaced(folder: Path) -> Path:
    """Fields."""
    options = {"flags": "+ildct", "x264-params": "tff=1"}
    return make_clip(folder / "in.mkv", frames=FRAMES, options=options)


@kind()
def open_gop(folder: Path) -> Path:
    """Pictures that are predicted over key frames."""
    options = {"g": "5", "x264-params": "open-gop=1:bframes=3"}
    return make_clip(folder / "in.mp4", frames=FRAMES, options=options)


@kind()
def alpha(folder: Path) -> Path:
    """An alpha of its own."""
    options = {"codec": "libvpx-vp9", "pixel_format": "yuva420p"}
    return make_clip(folder / "in.webm", frames=FRAMES, **options)


@kind()
def changing_size(folder: Path) -> Path:
    """The second half is larger."""
    return joined_elementary(folder, (64, 48), (96, 80))


def joined_elementary(folder: Path, *sizes: tuple[int, int]) -> Path:
    """An H.264 stream whose parts have these sizes, FRAMES in all."""
    parts = []
    for width, height in sizes:
        frames = FRAMES // len(sizes)
        options = {"codec": "libx264", "options": {"x264-params": "annexb=1:repeat-headers=1"}}
        part = make_clip(folder / "part.h264", width=width, height=height, frames=frames, **options)
        parts.append(part.read_bytes())
        part.unlink()
    path = folder / "in.h264"
    path.write_bytes(b"".join(parts))
    return path


def _damaged() -> None:
    """Bytes that are missing or wrong."""
    for suffix in ("mp4", "mkv", "ts", "flv", "avi", "webm", "nut"):
        options: dict[str, Any] = {
            "webm": {"codec": "libvpx-vp9"}, "avi": {"codec": "mpeg4"}, "nut": {"codec": "mpeg4"}
        }.get(suffix, {})  # fmt: skip
        for share in (0.3, 0.8):
            KINDS[f"cut-{suffix}-{share:.0%}"] = Kind(
                _cut(suffix, options, share), (DONE, REFUSED, CUT), None
            )
        for seed in range(3):
            KINDS[f"damaged-{suffix}-{seed}"] = Kind(
                _mutated(suffix, options, seed), (DONE, REFUSED, CUT), None
            )


def _cut(suffix: str, options: dict[str, Any], share: float) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        return cut(make_clip(folder / f"in.{suffix}", frames=FRAMES, **options), share)

    return make


def _mutated(suffix: str, options: dict[str, Any], seed: int) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        path = make_clip(folder / f"in.{suffix}", frames=FRAMES, **options)
        path.write_bytes(mutate(path.read_bytes(), np.random.default_rng(seed)))
        return path

    return make


def mutate(data: bytes, generator: np.random.Generator) -> bytes:
    """The same with some bytes changed, cut out or doubled."""
    result = bytearray(data)
    for _ in range(int(generator.integers(1, 9))):
        if not result:
            break
        at, length = int(generator.integers(len(result))), int(generator.integers(1, 33))
        what = int(generator.integers(6))
        if what == 0:
            result[at] ^= 1 << int(generator.integers(8))
        elif what == 1:
            result[at : at + length] = generator.bytes(length)
        elif what == 2:
            del result[at : at + length]
        elif what == 3:
            result[at:at] = result[at : at + length]
        elif what == 4:
            fill = (0x00, 0xFF, 0x7F, 0x80)[int(generator.integers(4))]
            result[at : at + length] = bytes([fill]) * len(result[at : at + length])
        else:
            del result[at:]
    return bytes(result)


@kind(REFUSED, frames=None)
def empty(folder: Path) -> Path:
    """No byte."""
    path = folder / "in.mp4"
    path.write_bytes(b"")
    return path


@kind(REFUSED, frames=None)
def noise(folder: Path) -> Path:
    """No media."""
    path = folder / "in.mkv"
    path.write_bytes(np.random.default_rng(1).bytes(5000))
    return path


@kind(REFUSED, frames=None)
def sound_alone(folder: Path) -> Path:
    """No video."""
    path = folder / "in.m4a"
    with av.open(str(path), "w", format="mp4") as container:
        stream: Any = container.add_stream("aac", rate=48000)
        silence = av.AudioFrame.from_ndarray(np.zeros((2, 1024), np.float32), "fltp", "stereo")
        silence.sample_rate, silence.pts = 48000, 0
        container.mux(stream.encode(silence))
        container.mux(stream.encode(None))
    return path


@kind(REFUSED, frames=None)
def playlist(folder: Path) -> Path:
    """A playlist names other files: none of them is read."""
    path = folder / "in.m3u8"
    path.write_text("#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n")
    return path


@kind()
def pictures(folder: Path) -> Path:
    """A folder of PNG."""
    return _pictures(folder / "in", ".png")


@kind()
def pictures_with_orientation(folder: Path) -> Path:
    """A folder of JPEG whose EXIF says: turn."""
    path = _pictures(folder / "in", ".jpg")
    for file in path.iterdir():
        file.write_bytes(with_orientation(file.read_bytes(), 6))
    return path


def _pictures(folder: Path, suffix: str) -> Path:
    folder.mkdir()
    for index in range(FRAMES):
        cv2.imwrite(str(folder / f"{index:03d}{suffix}"), picture(64, 48, index))
    return folder


def with_orientation(jpeg: bytes, orientation: int) -> bytes:
    """A JPEG with an EXIF orientation (1 to 8)."""
    entry = struct.pack("<HHIHH", 0x0112, 3, 1, orientation, 0)
    exif = b"Exif\0\0" + b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", 1) + entry + b"\0" * 4
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + jpeg[2:]


_containers()
_broken_times()
_damaged()


@kind(frames=1)
def avif_photo(folder: Path) -> Path:
    """Turned by its container."""
    path = folder / "in.avif"
    path.write_bytes(photo(picture(192, 128, 0), "avif", quarter_turns=1))
    return path


@kind(REFUSED, frames=None)
def heic_photo_in_tiles(folder: Path) -> Path:
    """As phones take it: libav would read one tile."""
    path = folder / "in.heic"
    path.write_bytes(photo(picture(192, 128, 0), "heic", tile=(64, 64)))
    return path


@kind()
def avif_animation(folder: Path) -> Path:
    """Its first stream is a still picture."""
    animation = cv2.Animation()
    animation.frames = [picture(64, 48, index) for index in range(FRAMES)]
    animation.durations = np.full(FRAMES, 40, np.int32)
    cv2.imwriteanimation(str(folder / "in.avif"), animation)
    return folder / "in.avif"


@kind(DONE, CUT, REFUSED, frames=None)
def damaged_picture_in_a_thread(folder: Path) -> Path:
    """Found by fuzzing: libav's decoder, left in the middle of it, was waited for without end."""
    path = retimed(folder / "in.mkv", [0] * FRAMES)
    path.write_bytes(mutate(path.read_bytes(), np.random.default_rng(46)))
    return path
