"""Limits and formats of the HTTP API."""

from __future__ import annotations

import cv2

from fusematte.engine.serve.uploads import MEBIBYTE

PICTURE_LIMIT = 20 * MEBIBYTE
"""Maximum size of a picture in bytes."""
PIXEL_LIMIT = 50_000_000
TIME_LIMIT = 60.0
"""Seconds for a picture, from the first byte received to the last byte sent."""
SIZES = range(16, 16_385)
"""Valid values of ``size``."""
FORMATS = {
    "png": ("image/png", [cv2.IMWRITE_PNG_COMPRESSION, 3]),
    "webp": ("image/webp", [cv2.IMWRITE_WEBP_QUALITY, 92]),
    "jpeg": ("image/jpeg", [cv2.IMWRITE_JPEG_QUALITY, 92]),
}
"""Picture formats: MIME type and OpenCV's encoder parameters."""
VIDEO_FORMATS = ("mp4", "mov", "mkv", "webm")
