"""What the HTTP API takes at most, and the formats it knows."""

from __future__ import annotations

import cv2

from fusematte.engine.serve.uploads import MEBIBYTE

PICTURE_LIMIT = 20 * MEBIBYTE
"""Bytes of a picture."""
PIXEL_LIMIT = 50_000_000
TIME_LIMIT = 60.0
"""Seconds for a picture, from its first byte to its last."""
SIZES = range(16, 16_385)
"""Longer sides that may be asked for."""
FORMATS = {
    "png": ("image/png", [cv2.IMWRITE_PNG_COMPRESSION, 3]),
    "webp": ("image/webp", [cv2.IMWRITE_WEBP_QUALITY, 92]),
    "jpeg": ("image/jpeg", [cv2.IMWRITE_JPEG_QUALITY, 92]),
}
"""Of pictures: their MIME type, and OpenCV's parameters."""
VIDEO_FORMATS = ("mp4", "mov", "mkv", "webm")
