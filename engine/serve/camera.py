"""Live cameras of the page: a websocket for signalling and settings, WebRTC for the video."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections import deque
from collections.abc import Coroutine
from contextvars import ContextVar
from dataclasses import asdict
from typing import Any

from aiohttp import WSCloseCode, WSMsgType, web
from aioice import ice
from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from aiortc.codecs import vpx

from fusematte.engine.compositing.backgrounds import DEFAULT_BLUR
from fusematte.engine.errors import FuseMatteError
from fusematte.engine.frame import Matte
from fusematte.engine.live.session import Result
from fusematte.engine.live.views import VIEWS
from fusematte.engine.live.webrtc import MattingTrack
from fusematte.engine.serve.backgrounds import BLUR, Library, parse_blur
from fusematte.engine.serve.editing import outline
from fusematte.engine.serve.errors import Refusal

MOST = 4
"""Maximum number of cameras at a time."""
HEARTBEAT = 10.0
"""Seconds of silence after which the page is pinged; it has half of that to answer."""
REPORT_INTERVAL = 0.5
LATENCIES = 100
"""Maximum number of latencies in a report."""
MESSAGE_LIMIT = 1 << 16
BITRATE = 6_000_000
"""Bits per second back to the page, over the loopback interface."""

log = logging.getLogger(__name__)


_local: ContextVar[bool] = ContextVar("local", default=False)
"""Whether connections made in this context stay on this machine."""
_all_addresses = ice.get_host_addresses


def _host_addresses(use_ipv4: bool, use_ipv6: bool) -> list[str]:
    return ["127.0.0.1"] if _local.get() else _all_addresses(use_ipv4, use_ipv6)


def stay_local() -> None:
    """Restricts further connections of this task to the loopback interface."""
    _local.set(True)


def set_up_aiortc() -> None:
    """Adapts aiortc to a local page.

    aiortc binds a port on every network interface except the loopback and has no option for that:
    connections of tasks that called ``stay_local`` use the loopback only.  Its default bitrates are
    meant for mobile networks.
    """
    ice.get_host_addresses = _host_addresses
    vpx.DEFAULT_BITRATE = vpx.MAX_BITRATE = BITRATE
    for name in ("aioice", "aiortc"):
        logging.getLogger(name).setLevel(logging.WARNING)


class Lives:
    """All cameras of a server.

    options: ``model``, ``backend``, ``threads`` and ``budget_ms`` of their ``Session``.
    """

    def __init__(self, library: Library, options: dict[str, Any]) -> None:
        set_up_aiortc()
        self._library, self._options = library, options
        self._connections: set[CameraConnection] = set()

    def __len__(self) -> int:
        return len(self._connections)

    async def handle(self, request: web.Request) -> web.WebSocketResponse:
        """Serves one page's websocket until either side ends it."""
        socket = web.WebSocketResponse(heartbeat=HEARTBEAT, max_msg_size=MESSAGE_LIMIT)
        try:
            await socket.prepare(request)
        except ValueError:  # the version is not a number
            raise Refusal("bad_request", "the websocket handshake is malformed") from None
        if len(self._connections) >= MOST:
            busy = Refusal("busy", f"{MOST} cameras are already live; stop one of them first")
            await _tell(socket, busy)
            await socket.close()
            return socket
        connection = CameraConnection(socket, self._library, self._options)
        self._connections.add(connection)
        try:
            await connection.run()
        finally:
            try:
                await connection.close()
            finally:
                self._connections.discard(connection)
        return socket

    async def close(self) -> None:
        """Ends all connections."""
        await asyncio.gather(*(connection.hang_up() for connection in self._connections))


class CameraConnection:
    """The camera of one page.

    Messages from the page: ``{"type": "offer", "sdp", ...settings}`` once, then ``{"type":
    "settings", "background", "blur", "view"}`` with any of the settings, at any time, and
    ``{"type": "keep" | "drop", "x", "y"}``, in fractions of the picture, or ``{"type":
    "everybody"}``.  Messages to the page: ``answer``, ``statistics`` twice a second, with the
    ``outline`` of a selection and its ``doubt`` where there is one, ``error``.
    """

    def __init__(
        self, socket: web.WebSocketResponse, library: Library, options: dict[str, Any]
    ) -> None:
        self._socket, self._library, self._options = socket, library, options
        self._connection = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self._connection.on("connectionstatechange", self._on_state)
        self._track: MattingTrack | None = None
        self._background, self._blur = BLUR, DEFAULT_BLUR
        self._latencies: deque[float] = deque(maxlen=LATENCIES)
        self._matte: Matte | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Answers messages until the websocket is closed."""
        async for message in self._socket:
            if message.type is not WSMsgType.TEXT:
                continue
            try:
                await self._answer(message.data)
            except Refusal as refusal:
                await _tell(self._socket, refusal)
        if self._socket.close_code == WSCloseCode.ABNORMAL_CLOSURE:
            log.info("a page disconnected without closing its websocket")

    async def hang_up(self, refusal: Refusal | None = None) -> None:
        """Ends ``run``, and sends the page the reason."""
        with contextlib.suppress(ConnectionError):
            if refusal is not None:
                await _tell(self._socket, refusal)
            await self._socket.close(code=WSCloseCode.GOING_AWAY)

    async def close(self) -> None:
        """Frees connection, track and network."""
        for task in self._tasks:
            task.cancel()
        self._connection.remove_all_listeners()
        await self._connection.close()
        if self._track is not None:
            await self._track.close()

    async def _answer(self, text: str) -> None:
        try:
            message = json.loads(text)
            kind = message["type"]
        except (ValueError, TypeError, KeyError):
            raise Refusal("bad_request", "a message must be JSON with a type") from None
        if kind == "offer":
            await self._accept(message)
        elif kind == "settings":
            await self._set(message)
        elif kind in ("keep", "drop", "everybody"):
            self._choose(kind, message)
        else:
            raise Refusal("bad_request", f"unknown message type {kind!r}")

    async def _accept(self, message: dict[str, Any]) -> None:
        """Accepts the page's offer: receives its camera's track, sends the matted one."""
        if self._track is not None:
            raise Refusal("bad_request", "this page is already live")
        try:
            offer = RTCSessionDescription(sdp=message["sdp"], type="offer")
            await self._connection.setRemoteDescription(offer)
            (transceiver,) = self._connection.getTransceivers()
        except Exception as error:  # aiortc's parser raises exceptions of any kind
            raise Refusal("bad_request", "the offer is not SDP with one video track") from error
        try:
            self._track = await asyncio.to_thread(
                MattingTrack, transceiver.receiver.track, on_result=self._note, **self._options
            )
        except FuseMatteError as error:
            raise Refusal("internal", str(error)) from error
        await self._set(message)
        self._connection.addTrack(self._track)
        stay_local()
        await self._connection.setLocalDescription(await self._connection.createAnswer())
        answer = self._connection.localDescription
        await self._socket.send_json({"type": "answer", "sdp": answer.sdp})
        self._start(self._report(self._track))

    async def _set(self, message: dict[str, Any]) -> None:
        """Applies the settings in a message: background, blur, view."""
        if self._track is None:
            raise Refusal("bad_request", "settings come after the offer")
        if "view" in message:
            if message["view"] not in VIEWS:
                raise Refusal("bad_request", f"view must be one of {', '.join(VIEWS)}")
            self._track.view = message["view"]
        if "blur" in message:
            self._blur = parse_blur(message["blur"])
        if "background" in message or "blur" in message:
            self._background = str(message.get("background", self._background))
            choice = self._library[self._background]
            spec = choice.spec_with(self._blur)
            try:  # a large picture takes a while to read
                await asyncio.to_thread(setattr, self._track.session, "background", spec)
            except FuseMatteError as error:
                log.warning("%s", error)
                raise Refusal("unreadable", f"{choice.name}: cannot be read any more") from error

    def _choose(self, kind: str, message: dict[str, Any]) -> None:
        """Keeps or drops who is there, or keeps everybody again."""
        if self._track is None:
            raise Refusal("bad_request", "a choice comes after the offer")
        session = self._track.session
        if kind == "everybody":
            session.clear()
            return
        x, y = message.get("x"), message.get("y")
        if not (isinstance(x, int | float) and isinstance(y, int | float)):
            raise Refusal("bad_request", "x and y must be numbers, fractions of the picture")
        try:
            (session.keep if kind == "keep" else session.drop)(x, y)
        except FuseMatteError as error:
            raise Refusal("bad_request", str(error)) from error

    async def _report(self, track: MattingTrack) -> None:
        """Sends statistics to the page."""
        while True:
            await asyncio.sleep(REPORT_INTERVAL)
            latencies = [self._latencies.popleft() for _ in range(len(self._latencies))]
            figures = {**asdict(track.session.statistics), "latencies": latencies}
            if track.session.chooses and self._matte is not None:
                figures |= {"outline": outline(self._matte.alpha), "doubt": self._matte.doubt}
            await self._socket.send_json({"type": "statistics", **figures})

    def _note(self, result: Result) -> None:
        """Records the latency of a result in ms and its matte; called in the session's thread."""
        self._latencies.append(1e3 * result.latency)
        self._matte = result.matte

    def _on_state(self) -> None:
        if self._connection.connectionState in ("failed", "closed"):
            gone = Refusal("bad_request", "the WebRTC connection to the camera was lost")
            self._start(self.hang_up(gone))

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def _tell(socket: web.WebSocketResponse, refusal: Refusal) -> None:
    await socket.send_json({"type": "error", **refusal.body()})
