"""The values that travel through the engine: Frame (YUV planes and a timestamp), Matte (the
network's output for one frame) and VideoInfo (the properties of a video)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import av
    from av.subtitles.stream import SubtitleStream

Plane = NDArray[Any]
"""[height, width]; uint8, or uint16 (low bits used) for 10-bit formats; rows may be strided."""

Planes = tuple[Plane, Plane, Plane]
"""Y, U, V."""

Map = NDArray[np.float32]
"""[h, w] or [channels, h, w], usually at the network's resolution."""


class PixelFormat(NamedTuple):
    """A planar YUV layout: chroma is 2^x_shift times narrower and 2^y_shift times lower."""

    name: str
    x_shift: int
    y_shift: int
    bits: int

    def shapes(self, height: int, width: int) -> tuple[tuple[int, int], ...]:
        """The shapes of Y, U and V."""
        chroma = self.chroma_shape(height, width)
        return (height, width), chroma, chroma

    def chroma_shape(self, height: int, width: int) -> tuple[int, int]:
        """The chroma planes' shape for a luma plane of height x width; odd sizes round up."""
        return -(-height >> self.y_shift), -(-width >> self.x_shift)

    @property
    def dtype(self) -> type[np.uint8] | type[np.uint16]:
        """The samples' NumPy type."""
        return np.uint8 if self.bits == 8 else np.uint16

    @property
    def with_alpha(self) -> str:
        """libav's name for the same layout with an alpha plane."""
        return self.name.replace("yuv", "yuva")

    @property
    def peak(self) -> int:
        """The greatest code value."""
        return (1 << self.bits) - 1


PIXEL_FORMATS = {
    layout.name: layout
    for layout in (
        PixelFormat("yuv420p", 1, 1, 8),
        PixelFormat("yuv422p", 1, 0, 8),
        PixelFormat("yuv444p", 0, 0, 8),
        PixelFormat("yuv420p10le", 1, 1, 10),
        PixelFormat("yuv422p10le", 1, 0, 10),
        PixelFormat("yuv444p10le", 0, 0, 10),
    )
}
"""The layouts frames have inside the engine.  The reader converts any other into the nearest."""


class Color(NamedTuple):
    """Colour tags as ITU-T H.273 numbers them (also FFmpeg's AVCOL_*); 2 is "unspecified".

    ``full_range``: luma 0..255 and not 16..235 (at 8 bits).
    """

    matrix: int = 2
    primaries: int = 2
    transfer: int = 2
    full_range: bool = False

    @property
    def is_hdr(self) -> bool:
        """Whether the transfer function is HDR: PQ or HLG."""
        return self.transfer in (PQ, HLG)


PQ, HLG = 16, 18
"""HDR transfer functions of ITU-R BT.2100."""

UNSPECIFIED = Color()

CLOCK = Fraction(1, 90000)
"""Seconds: the time base of live frames, and of frames that come without one."""


class YuvMatrix(NamedTuple):
    """The luma weights of red and blue that define a YCbCr matrix."""

    red: float
    blue: float


BT601, BT709, BT2020 = YuvMatrix(0.299, 0.114), YuvMatrix(0.2126, 0.0722), YuvMatrix(0.2627, 0.0593)
_MATRICES = {
    1: BT709,
    4: BT601,
    5: BT601,
    6: BT601,
    7: YuvMatrix(0.212, 0.087),
    9: BT2020,
    10: BT2020,
}


@dataclass(frozen=True, kw_only=True)
class Frame:
    """One picture of a video.

    planes: Y, U, V; read-only views of the decoder's buffers.
    format: layout of the planes.
    color: colour tags of the stream.
    pts: presentation time, in units of ``time_base`` seconds.
    duration: in the same units; 0 if unknown.
    rotation: degrees clockwise (0, 90, 180, 270) that a player rotates the picture for display.
    aspect: pixel aspect ratio, width over height.
    alpha: the source's own alpha, [height, width], the luma plane's dtype, 0 to ``format.peak``,
    straight (colours are not premultiplied).  None if the picture is opaque.
    """

    planes: Planes
    format: PixelFormat
    color: Color = UNSPECIFIED
    pts: int = 0
    time_base: Fraction = CLOCK
    duration: int = 0
    rotation: int = 0
    aspect: Fraction = Fraction(1)
    alpha: Plane | None = None

    @property
    def height(self) -> int:
        """Rows of the luma plane."""
        return int(self.planes[0].shape[0])

    @property
    def width(self) -> int:
        """Columns of the luma plane."""
        return int(self.planes[0].shape[1])

    @property
    def time(self) -> Fraction:
        """Presentation time in seconds."""
        return self.pts * self.time_base

    @property
    def matrix(self) -> YuvMatrix:
        """The YCbCr matrix; for untagged streams BT.709 from 720 lines up, BT.601 below."""
        short_side = min(self.height, self.width)
        return _MATRICES.get(self.color.matrix, BT709 if short_side >= 720 else BT601)

    @property
    def levels(self) -> tuple[float, float, float, float]:
        """(black, luma span, neutral chroma, chroma span) in code values."""
        scale = float(1 << (self.format.bits - 8))
        if self.color.full_range:
            peak = float((1 << self.format.bits) - 1)
            return 0.0, peak, 128 * scale, peak
        return 16 * scale, 219 * scale, 128 * scale, 224 * scale

    def with_planes(self, planes: Planes) -> Frame:
        """The same frame with other pixels."""
        return replace(self, planes=planes)


class StreamKey:
    """Identifies the Matter that made a matte; used as a dictionary key only."""


@dataclass(frozen=True, kw_only=True)
class Matte:
    """The network's output for one frame, at the network's resolution, oriented like the frame.

    Shape:
        alpha: [h, w], float32, 0..1: the opacity of the person.
        foreground, background: [h, w], float32, 0..1: the two decoders' probabilities F and B;
        alpha lies between 1 - B and F.
        beta: [h, w], float32, 0..1: the blending weight; alpha = beta F + (1 - beta) (1 - B).
        color: [3, h, w], float32: the frame's Y'CbCr (0..1, -0.5..0.5, -0.5..0.5), area-averaged to
        the same size; its luma is the guide of the refinement.

    doubt: with a selection, why this frame should be checked; "" where nothing is doubtful.
    stream: shared by all mattes of one Matter; None for a matte made in any other way.

    ``refine(frame, matte)`` gives the alpha at full resolution.
    """

    alpha: Map
    foreground: Map
    background: Map
    beta: Map
    color: Map
    pts: int
    time_base: Fraction
    doubt: str = ""
    stream: StreamKey | None = field(default=None, repr=False, compare=False)

    @property
    def confidence(self) -> float:
        """Agreement of the two decoders, 0..1: one minus the mean gap between F and 1 - B."""
        return float(1 - np.abs(self.foreground + self.background - 1).mean())


class Chapter(NamedTuple):
    """A chapter of a video; times in seconds, on the same clock as the frames."""

    start: Fraction
    end: Fraction
    metadata: dict[str, str]


class Mastering(NamedTuple):
    """HDR metadata of SMPTE ST 2086 and CTA-861.3; None for what the video lacks.

    display: the mastering display's chromaticities (x and y of red, green, blue and white), then
        its minimum and maximum luminance in cd/m2.
    light: content light levels MaxCLL and MaxFALL, in cd/m2.
    """

    display: tuple[Fraction, ...] | None = None
    light: tuple[int, int] | None = None


UNTOLD = Mastering()


@dataclass(frozen=True, kw_only=True)
class VideoInfo:
    """The properties of a video.  A reader determines them once; a writer is configured from them.

    name: the path or URL as it was given.
    container_name: libav's name for the container.
    width, height: coded size in pixels, before rotation.
    format: pixel format of the frames.
    color: colour tags of the frames.
    mastering: HDR mastering metadata of the first frame.
    has_alpha: whether frames carry an alpha plane.
    on_device: whether the first frame was decoded into GPU memory.
    rotation: degrees clockwise (0, 90, 180, 270) that a player rotates the picture for display.
    aspect: pixel aspect ratio, width over height.
    frame_rate: average, in frames per second; None if unknown.
    time_base: the unit of timestamps, in seconds.
    frame_count: from the container, or estimated; None if unknown.
    duration: in seconds; None if unknown.
    origin: seconds that an output subtracts from timestamps: the time of the first frame if only a
        part of the video is read or if that time is negative, else 0.
    audio_streams, subtitle_streams, attachments: templates for copying these streams.
    left_out: kinds of streams in the file that are not copied.
    chapters: those within the part that is read.
    metadata, video_metadata: tags (title and the like) of the container and the video stream.
    """

    name: str
    container_name: str
    width: int
    height: int
    format: PixelFormat
    color: Color = UNSPECIFIED
    mastering: Mastering = UNTOLD
    has_alpha: bool = False
    on_device: bool = False
    rotation: int = 0
    aspect: Fraction = Fraction(1)
    frame_rate: Fraction | None = None
    time_base: Fraction = CLOCK
    frame_count: int | None = None
    duration: Fraction | None = None
    origin: Fraction = Fraction(0)
    audio_streams: tuple[av.AudioStream, ...] = ()
    subtitle_streams: tuple[SubtitleStream, ...] = ()
    attachments: tuple[Any, ...] = ()
    left_out: tuple[str, ...] = ()
    chapters: tuple[Chapter, ...] = ()
    metadata: dict[str, str] = field(default_factory=dict)
    video_metadata: dict[str, str] = field(default_factory=dict)


def displayed_size(video: VideoInfo | Frame) -> tuple[int, int]:
    """(height, width) of the picture as a player turns it."""
    turned = video.rotation in (90, 270)
    return (video.width, video.height) if turned else (video.height, video.width)
