"""A peer of the server that is no browser: it can vanish in ways that browsers do not offer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from fractions import Fraction
from typing import Any

import aiohttp
import av
import numpy as np
from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription, VideoStreamTrack
from aiortc.mediastreams import MediaStreamError
from tests.helpers import picture

from fusematte.engine.serve.camera import set_up_aiortc, stay_local


class Pattern(VideoStreamTrack):
    """A moving pattern, 15 times a second; ``count`` pictures, or without end."""

    def __init__(self, count: int | None = None, width: int = 96, height: int = 64) -> None:
        super().__init__()
        self._size, self._count, self._sent = (width, height), count, 0

    async def recv(self) -> av.VideoFrame:
        if self._sent == self._count:
            self.stop()
        if self.readyState == "ended":
            raise MediaStreamError
        await asyncio.sleep(1 / 15)
        frame = av.VideoFrame.from_ndarray(picture(*self._size, self._sent), "rgb24")
        frame = frame.reformat(format="yuv420p")
        frame.pts, frame.time_base = self._sent * 6000, Fraction(1, 90000)
        self._sent += 1
        return frame


class Peer:
    """What a page would be: a websocket and a connection, live; ``first`` came back."""

    def __init__(
        self, socket: aiohttp.ClientWebSocketResponse, connection: RTCPeerConnection
    ) -> None:
        self.socket, self.connection = socket, connection
        self.first: np.ndarray

    async def tell(self, kind: str, **values: Any) -> None:  # noqa: ANN401
        """Sends a message."""
        await self.socket.send_json({"type": kind, **values})

    async def hear(self, kind: str) -> dict[str, Any]:
        """The next message of a kind; statistics in between are skipped."""
        while True:
            message: dict[str, Any] = await self.socket.receive_json(timeout=60)
            if message["type"] == kind:
                return message
            assert message["type"] == "statistics", message


@asynccontextmanager
async def live_peer(
    url: str,
    pattern: Pattern | None = None,
    **options: Any,  # noqa: ANN401
) -> AsyncIterator[Peer]:
    """A peer that has got its first picture back."""
    set_up_aiortc()
    stay_local()
    async with aiohttp.ClientSession(url) as http, http.ws_connect("live", **options) as socket:
        connection = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        try:
            peer = Peer(socket, connection)
            connection.addTrack(pattern or Pattern())
            await connection.setLocalDescription(await connection.createOffer())
            sdp = connection.localDescription.sdp
            await peer.tell("offer", sdp=sdp, background="green", blur=18)
            answer = await peer.hear("answer")
            await connection.setRemoteDescription(RTCSessionDescription(answer["sdp"], "answer"))
            incoming = connection.getReceivers()[0].track
            frame = await asyncio.wait_for(incoming.recv(), 60)
            peer.first = frame.to_ndarray(format="rgb24")
            yield peer
        finally:
            await connection.close()
