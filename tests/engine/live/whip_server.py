"""A WHIP server (RFC 9725) on aiortc, to be started and killed by tests: ``whip_server.py PORT``.

It wants the bearer token TOKEN.

It tells of each picture that it is sent, as ffmpeg's framecrc does of packets: ``0, dts, pts``.
"""

from __future__ import annotations

import asyncio
import sys

from aiohttp import web
from aioice import ice
from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import MediaStreamError, MediaStreamTrack

ice.get_host_addresses = lambda use_ipv4, use_ipv6: ["127.0.0.1"]  # noqa: ARG005

TOKEN = "bring-this"
CONNECTIONS: list[RTCPeerConnection] = []


async def tell(track: MediaStreamTrack) -> None:
    """A line for each picture or piece of sound, until the track ends."""
    number = int(track.kind == "audio")
    try:
        while True:
            frame = await track.recv()
            print(f"{number}, {frame.pts}, {frame.pts}", flush=True)
    except MediaStreamError:
        pass


async def accept(request: web.Request) -> web.Response:
    """Answers an offer."""
    if request.headers.get("Authorization") != f"Bearer {TOKEN}":
        raise web.HTTPUnauthorized
    connection = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    CONNECTIONS.append(connection)
    connection.on("track", lambda track: asyncio.ensure_future(tell(track)))
    await connection.setRemoteDescription(RTCSessionDescription(await request.text(), "offer"))
    await connection.setLocalDescription(await connection.createAnswer())
    return web.Response(
        status=201,
        text=connection.localDescription.sdp,
        content_type="application/sdp",
        headers={"Location": f"/live/key/{len(CONNECTIONS)}"},
    )


async def end(request: web.Request) -> web.Response:
    """Takes a goodbye."""
    await CONNECTIONS[int(request.match_info["number"]) - 1].close()
    return web.Response()


def main() -> None:
    """Serves until it is killed."""
    app = web.Application()
    app.router.add_post("/live/key", accept)
    app.router.add_delete("/live/key/{number}", end)
    web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), print=None)


if __name__ == "__main__":
    main()
