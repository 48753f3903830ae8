"""A WebRTC server of your own with aiortc: a browser's camera comes in and goes back matted.

    pip install 'fusematte[serve]'
    python examples/webrtc_server.py 8080 blur

Then open http://127.0.0.1:8080/.  The line that matters is the one with MattingTrack; the rest is
what any aiortc server has.  ``fusematte serve`` is the finished thing, with tokens and limits: this
one is to be built into another program and has neither.
"""

import asyncio
import sys

from aiohttp import web
from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription

from fusematte.webrtc import MattingTrack

PAGE = """<!doctype html>
<title>FuseMatte and aiortc</title>
<video autoplay muted playsinline></video>
<script type="module">
  const camera = await navigator.mediaDevices.getUserMedia({ video: true });
  const peer = new RTCPeerConnection();
  peer.ontrack = ({ track }) => {
    document.querySelector("video").srcObject = new MediaStream([track]);
  };
  peer.addTrack(camera.getVideoTracks()[0], camera);
  await peer.setLocalDescription();
  await new Promise((resolve) => {
    peer.onicegatheringstatechange = () => peer.iceGatheringState === "complete" && resolve();
  });
  const body = JSON.stringify(peer.localDescription);
  const answer = await fetch("offer", { method: "POST", body });
  await peer.setRemoteDescription(await answer.json());
</script>
"""


class Server:
    """Answers offers; each peer has a connection and a session of its own, of one shared model."""

    def __init__(self, background: str) -> None:
        self.background = background
        self.connections: set[RTCPeerConnection] = set()

    async def page(self, _: web.Request) -> web.Response:
        return web.Response(text=PAGE, content_type="text/html")

    async def offer(self, request: web.Request) -> web.Response:
        offer = RTCSessionDescription(**await request.json())
        # No servers: aiortc would ask one on the internet for this machine's public address.
        connection = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self.connections.add(connection)

        @connection.on("connectionstatechange")
        async def forget() -> None:
            if connection.connectionState in ("failed", "closed"):
                await connection.close()  # ends the track, which closes its session
                self.connections.discard(connection)

        await connection.setRemoteDescription(offer)
        incoming = connection.getReceivers()[0].track
        matted = await asyncio.to_thread(MattingTrack, incoming, background=self.background)
        connection.addTrack(matted)
        await connection.setLocalDescription(await connection.createAnswer())
        answer = connection.localDescription
        return web.json_response({"sdp": answer.sdp, "type": answer.type})

    async def close(self, _: web.Application) -> None:
        await asyncio.gather(*(connection.close() for connection in self.connections))


def main() -> None:
    _, port, background = sys.argv
    server, app = Server(background), web.Application()
    app.add_routes([web.get("/", server.page), web.post("/offer", server.offer)])
    app.on_shutdown.append(server.close)
    web.run_app(app, host="127.0.0.1", port=int(port))


if __name__ == "__main__":
    main()
