"""Live sessions whose peers vanish, err or come in crowds: each is told, and nothing stays."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import numpy as np
import pytest
from tests.engine.serve.browser import HEIGHT, WIDTH, Browser, Tab, until
from tests.engine.serve.conftest import Server, Usage
from tests.engine.serve.peer import Pattern, live_peer

from fusematte.engine.serve import camera as live

PARTS = ("", "state", "jobs", "page/app.js", "page/live.js", "page/style.css", "page/icon.svg",
         "backgrounds/blur/thumbnail", "backgrounds/dusk/thumbnail")  # fmt: skip


async def nobody(url: str) -> None:
    """Waits until no session is live."""
    async with aiohttp.ClientSession(url) as http:

        async def empty() -> bool:
            async with http.get("state") as answer:
                return bool((await answer.json())["live"] == 0)

        await until(empty, "the sessions to end")


async def come_and_go(server: Server, pattern: Pattern) -> None:
    """A session from its beginning to its proper end."""
    async with live_peer(server.url, pattern) as peer:
        assert np.abs(peer.first[:4, :4].mean((0, 1)) - (0, 177, 64)).max() < 40
        while (await peer.hear("statistics"))["frames"] < 30:
            pass
    await nobody(server.url)


def warm_up(server: Server, **size: int) -> None:
    """Sessions until one more has compiled no further size of the network, which happens beside its
    frames and ends with it."""
    threads = 0
    while (now := server.usage().threads) > threads:
        threads = now
        asyncio.run(come_and_go(server, Pattern(**size)))


async def load(http: aiohttp.ClientSession, everybody: asyncio.Barrier) -> str:
    """A page with all its parts that wants its camera; what the server says to that.

    The page stays until all have been answered.
    """
    for part in PARTS:
        async with http.get(part) as answer:
            assert answer.status == 200
            await answer.read()
    async with http.ws_connect("live") as socket:
        await socket.send_json({"type": "settings"})
        message = await socket.receive_json(timeout=60)
        await everybody.wait()
        return str(message["code"])


async def crowd(url: str) -> list[str]:
    """Twenty pages at once."""
    everybody = asyncio.Barrier(20)
    async with aiohttp.ClientSession(url) as http, asyncio.timeout(120):
        return await asyncio.gather(*(load(http, everybody) for _ in range(everybody.parties)))


@pytest.fixture(scope="module")
def rest(server: Server) -> Usage:
    """What the server holds when it has worked and does nothing.

    Its pool of threads is filled, and the network is compiled, with threads of its own, for the two
    sizes that come here: the pattern's and the browser's.
    """
    asyncio.run(crowd(server.url))
    warm_up(server)
    warm_up(server, width=WIDTH, height=HEIGHT)
    return server.usage()


def settled(server: Server, rest: Usage) -> None:
    """Waits until the server holds no more than at rest."""

    async def calm() -> bool:
        now = server.usage()
        return now.threads <= rest.threads and now.files <= rest.files

    try:
        asyncio.run(until(calm, "threads and files to go", 20))
    except AssertionError:
        pytest.fail(f"at rest {rest}, now {server.usage()}")
    assert server.usage().memory - rest.memory < 80e6


async def stops_answering(server: Server) -> None:
    """The machine of the page falls asleep: the line is open, nobody is there."""
    async with live_peer(server.url, autoping=False) as peer:
        peer.connection.getSenders()[0].track.stop()
        await nobody(server.url)


async def closes_its_connection(server: Server) -> None:
    """WebRTC ends, the websocket stays: the page is told."""
    async with live_peer(server.url) as peer:
        await peer.connection.close()
        assert "lost" in (await peer.hear("error"))["message"]
        await nobody(server.url)


async def cuts_the_line(server: Server) -> None:
    """The websocket breaks without a word, WebRTC stays."""
    async with live_peer(server.url) as peer:
        peer.socket._writer.transport.abort()  # type: ignore[union-attr]
        await nobody(server.url)


async def leaves_while_the_model_loads(server: Server) -> None:
    """The page is closed between offer and answer."""
    from aiortc import RTCConfiguration, RTCPeerConnection

    live.set_up_aiortc()
    live.stay_local()
    connection = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    connection.addTrack(Pattern())
    await connection.setLocalDescription(await connection.createOffer())
    async with aiohttp.ClientSession(server.url) as http, http.ws_connect("live") as socket:
        await socket.send_json({"type": "offer", "sdp": connection.localDescription.sdp})
    await connection.close()
    await nobody(server.url)


@pytest.mark.parametrize(
    "vanish",
    [stops_answering, closes_its_connection, cuts_the_line, leaves_while_the_model_loads],
    ids=lambda function: function.__name__,
)
def test_a_peer_that_vanishes_leaves_nothing(
    vanish: Callable[[Server], Awaitable[None]], server: Server, rest: Usage
) -> None:
    asyncio.run(vanish(server))  # type: ignore[arg-type]
    settled(server, rest)


def test_a_tab_that_crashes_leaves_nothing(server: Server, browser: Browser, rest: Usage) -> None:
    async def whole() -> None:
        async with await Tab.open(browser, server.url) as tab:
            await tab.until("document.querySelectorAll('.thumbnail').length > 7")
            await tab.run("document.getElementById('start').click()")
            await tab.until("document.getElementById('state').textContent == 'Live'")
            crash = asyncio.create_task(tab.send("Page.crash"))  # nobody answers
            await nobody(server.url)
            crash.cancel()

    asyncio.run(whole())
    settled(server, rest)


def test_twenty_pages_at_once(server: Server, rest: Usage) -> None:
    said = asyncio.run(crowd(server.url))
    assert set(said) == {"bad_request", "busy"}  # too early, too many
    assert said.count("bad_request") == live.MOST
    asyncio.run(nobody(server.url))
    settled(server, rest)


def test_nonsense_is_answered_and_survived(server: Server) -> None:
    nonsense: list[Any] = [
        "no json", "[]", "{}", '{"type": "dance"}', '{"type": "offer"}', '{"type": "settings"}',
        '{"type": "offer", "sdp": "v=0"}', '{"type": "offer", "sdp": 7}', '{"type": []}',
    ]  # fmt: skip

    async def before_the_offer() -> None:
        async with aiohttp.ClientSession(server.url) as http:
            for text in nonsense:
                async with http.ws_connect("live") as socket:
                    await socket.send_str(text)
                    message = await socket.receive_json(timeout=60)
                    assert (message["type"], message["code"]) == ("error", "bad_request")
            async with http.ws_connect("live") as socket:
                await socket.send_str("x" * (live.MESSAGE_LIMIT + 1))
                assert (await socket.receive()).type is aiohttp.WSMsgType.CLOSE

    async def while_live() -> None:
        async with live_peer(server.url) as peer:
            for wrong, code in (
                ({"view": "x-ray"}, "bad_request"), ({"view": []}, "bad_request"),
                ({"blur": -1}, "bad_request"), ({"blur": []}, "bad_request"),
                ({"background": "/etc/passwd"}, "not_found"),
            ):  # fmt: skip
                await peer.tell("settings", **wrong)
                assert (await peer.hear("error"))["code"] == code
            await peer.tell("offer", sdp="")
            assert "already" in (await peer.hear("error"))["message"]
            await peer.tell("settings", background="blur", blur=30, view="beta")
            frames = (await peer.hear("statistics"))["frames"]
            while (await peer.hear("statistics"))["frames"] <= frames:
                pass

    asyncio.run(before_the_offer())
    asyncio.run(while_live())
    asyncio.run(nobody(server.url))
