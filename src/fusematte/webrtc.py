"""FuseMatte inside aiortc: ``MattingTrack``; needs ``pip install 'fusematte[serve]'``.

>>> from fusematte.webrtc import MattingTrack                          # doctest: +SKIP
>>> connection.addTrack(MattingTrack(incoming, background="blur"))     # doctest: +SKIP
"""

from __future__ import annotations

try:
    from fusematte.engine.live.webrtc import MattingTrack
except ImportError as error:
    raise ImportError(
        f"fusematte.webrtc needs {error.name}: pip install 'fusematte[serve]'", name=error.name
    ) from error

__all__ = ["MattingTrack"]
