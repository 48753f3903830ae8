"""FuseMatte as a GStreamer element, ``fusematte``: people over another background.

    GST_PLUGIN_PATH=examples/gstreamer gst-launch-1.0 filesrc location=talk.mp4 ! decodebin ! \\
        videoconvert ! fusematte background=beach.jpg ! videoconvert ! autovideosink

Needs GStreamer's loader of Python plugins (Debian: gstreamer1.0-python3-plugin-loader, python3-gi,
gir1.2-gst-plugins-base-1.0), whose Python must find fusematte: put its site-packages on PYTHONPATH.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import gi
import numpy as np

gi.require_version("Gst", "1.0")
gi.require_version("GstBase", "1.0")
gi.require_version("GstVideo", "1.0")
from gi.repository import GObject, Gst, GstBase, GstVideo  # noqa: E402

import fusematte as fm  # noqa: E402
from fusematte.engine.frame import PIXEL_FORMATS, Color  # noqa: E402

CAPS = Gst.Caps.from_string("video/x-raw, format=I420")
BACKGROUND = "green, #rrggbb, blur[:sigma], a picture or a video"


class FuseMatte(GstBase.BaseTransform):
    """Composites every picture in place; their times and sizes stay."""

    __gstmetadata__ = ("FuseMatte", "Filter/Effect/Video", "Replaces the background", "FuseMatte")
    __gsttemplates__ = tuple(
        Gst.PadTemplate.new(name, direction, Gst.PadPresence.ALWAYS, CAPS)
        for name, direction in (("sink", Gst.PadDirection.SINK), ("src", Gst.PadDirection.SRC))
    )
    background = GObject.Property(type=str, default="blur", blurb=BACKGROUND)

    def do_start(self) -> bool:
        self._matter = fm.Matter()
        return True

    def do_stop(self) -> bool:
        self._matter.close()
        return True

    def do_set_caps(self, caps: Any, _: Any) -> bool:  # noqa: ANN401
        self._info = GstVideo.VideoInfo.new_from_caps(caps)
        colors = self._info.colorimetry
        matrix = GstVideo.VideoColorMatrix.to_iso(colors.matrix)
        full = colors.range == GstVideo.VideoColorRange(1)  # 0..255
        self._color = Color(matrix=matrix, full_range=full)
        return True

    def do_transform_ip(self, buffer: Any) -> Any:  # noqa: ANN401
        good, mapped = buffer.map(Gst.MapFlags.READ | Gst.MapFlags.WRITE)
        if not good:
            return Gst.FlowReturn.ERROR
        try:
            planes = self._planes(np.frombuffer(mapped.data, np.uint8))
            frame = fm.Frame(
                planes=planes,
                format=PIXEL_FORMATS["yuv420p"],
                color=self._color,
                pts=buffer.pts,
                time_base=Fraction(1, Gst.SECOND),
            )
            made = fm.composite(frame, self._matter(frame), self.background)
            for plane, result in zip(planes, made.planes, strict=True):
                plane[:] = result
        except fm.FuseMatteError as error:
            Gst.error(f"fusematte: {error}")
            return Gst.FlowReturn.ERROR
        finally:
            buffer.unmap(mapped)
        return Gst.FlowReturn.OK

    def _planes(self, data: Any) -> Any:  # noqa: ANN401
        """Y, U, V: views of the buffer."""
        info = self._info
        shapes = (info.height, info.width), *[(-(-info.height // 2), -(-info.width // 2))] * 2
        return tuple(
            np.lib.stride_tricks.as_strided(data[offset:], shape, (stride, 1))
            for offset, stride, shape in zip(info.offset, info.stride, shapes, strict=False)
        )


GObject.type_register(FuseMatte)
__gstelementfactory__ = ("fusematte", Gst.Rank.NONE, FuseMatte)
