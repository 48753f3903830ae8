"""MattingTrack as aiortc uses it."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from tests.peers import HookedMatter, Infer

from fusematte.engine.backends import Maps
from fusematte.engine.frame import Map

pytest.importorskip("aiortc")

from aiortc.mediastreams import MediaStreamError, MediaStreamTrack
from tests.engine.serve.peer import Pattern

from fusematte.engine.errors import BackgroundError, UsageError
from fusematte.engine.live.session import Result
from fusematte.engine.live.views import VIEWS, view_of
from fusematte.webrtc import MattingTrack


class ClipTrack(MediaStreamTrack):
    """The pictures of a clip, four a second."""

    kind = "video"

    def __init__(self, clip: Path) -> None:
        super().__init__()
        self._pictures = av.open(str(clip)).decode(video=0)
        self.sent: list[av.VideoFrame] = []

    async def recv(self) -> av.VideoFrame:
        await asyncio.sleep(0.25)
        self.sent.append(next(self._pictures))
        return self.sent[-1]


def is_not_blue(picture: av.VideoFrame) -> bool:
    return bool(picture.to_ndarray(format="rgb24")[..., 0].mean() > 10)


async def all_of(track: MattingTrack) -> list[av.VideoFrame]:
    """What a track gives until it ends."""
    pictures = []
    with pytest.raises(MediaStreamError):
        while True:
            pictures.append(await asyncio.wait_for(track.recv(), 60))
    return pictures


def test_people_come_back_over_the_background(shared_clips: Path) -> None:
    async def whole() -> None:
        source = ClipTrack(shared_clips / "m1.mp4")
        track = MattingTrack(source, background="#0000ff")
        pictures = []
        while len(pictures) < 3:  # over the background alone at first, while the network loads
            picture = await asyncio.wait_for(track.recv(), 60)
            times = {picture.pts: picture for picture in source.sent}
            if is_not_blue(picture) and picture.pts in times:  # not one that was moved on
                pictures.append(picture)
        for picture in pictures:
            before = times[picture.pts].to_ndarray(format="rgb24").astype(int)
            after = picture.to_ndarray(format="rgb24").astype(int)
            assert picture.time_base == times[picture.pts].time_base
            corners = np.concatenate([after[:60, :60], after[:60, -60:]])
            assert np.abs(corners - (0, 0, 255)).mean() < 20
            person = np.s_[300:420, 580:700]
            assert np.abs(after[person] - before[person]).mean() < 12
        assert [p.pts for p in pictures] == sorted({p.pts for p in pictures})
        await track.close()

    asyncio.run(whole())


def test_it_ends_with_its_source_and_leaves_no_thread() -> None:
    async def whole() -> None:
        source = Pattern(4)
        track = MattingTrack(source)
        await all_of(track)
        assert track.readyState == "ended"
        await track.close()
        await track.close()
        with pytest.raises(MediaStreamError):
            await track.recv()
        with pytest.raises(UsageError, match="closed"):
            track.session.push(np.zeros((8, 8, 3), np.uint8))

    asyncio.run(whole())
    assert not [t for t in threading.enumerate() if t.name.startswith("fusematte")]


def test_it_can_be_stopped_while_somebody_waits_or_before_anybody_does() -> None:
    async def whole() -> None:
        waiting = MattingTrack(Pattern(0))
        waiter = asyncio.create_task(waiting.recv())
        await asyncio.sleep(0.05)
        waiting.stop()
        with pytest.raises(MediaStreamError):
            await waiter
        unused = MattingTrack(Pattern())
        await unused.close()
        await waiting.close()

    asyncio.run(whole())
    assert not [t for t in threading.enumerate() if t.name.startswith("fusematte")]


@pytest.mark.parametrize("background", ["#0000ff", "blur"])
def test_while_the_network_hangs_no_picture_of_the_source_is_sent(background: str) -> None:
    async def whole(matter: HookedMatter) -> None:
        track = MattingTrack(Pattern(), background=background, matter=matter)
        go_on = threading.Event()
        first = await asyncio.wait_for(track.recv(), 60)

        def hang(network: Infer, image: Map, previous: Map) -> Maps:
            go_on.wait(60)
            return network(image, previous)

        matter.hook = hang
        closed = []
        while len(closed) < 2:
            picture = await asyncio.wait_for(track.recv(), 60)
            gray = picture.to_ndarray(format="gray")
            if gray.mean() < 60 and gray.std() < 16:  # blue, or the card: the pattern is neither
                closed.append(picture)
        go_on.set()
        later = [await asyncio.wait_for(track.recv(), 60) for _ in range(3)]
        times = [float(p.pts * p.time_base) for p in (first, *closed, *later)]
        assert times == sorted(set(times))
        await track.close()

    with HookedMatter() as matter:
        asyncio.run(whole(matter))


def test_settings_change_while_it_runs() -> None:
    async def whole() -> None:
        results: list[Result] = []
        track = MattingTrack(Pattern(), background="#ff0000", on_result=results.append)

        async def until_mean(color: tuple[int, int, int]) -> None:
            for _ in range(100):
                picture = await track.recv()
                if np.abs(picture.to_ndarray(format="rgb24").mean((0, 1)) - color).max() < 40:
                    return
            pytest.fail(f"never {color}")

        await until_mean((255, 0, 0))  # nobody is in the picture
        track.session.background = "#00ff00"
        await until_mean((0, 255, 0))
        with pytest.raises(BackgroundError):
            track.session.background = "nothing"
        track.view = "background"
        await until_mean((255, 255, 255))
        await track.close()
        assert results and results[-1].latency > 0
        for view in VIEWS:
            assert view_of(results[-1], view).planes[0].shape == (64, 96)
        with pytest.raises(UsageError, match="x-ray"):
            view_of(results[-1], "x-ray")

    asyncio.run(whole())


def test_views_without_a_matte_are_black() -> None:
    async def whole() -> Result:
        results: list[Result] = []
        track = MattingTrack(Pattern(), on_result=results.append)
        while not results:  # while the network loads, the background comes without a result
            await asyncio.wait_for(track.recv(), 60)
        await track.close()
        return results[0]

    good = asyncio.run(whole())
    failed = Result(composite=good.composite, matte=None, source=good.source, latency=0.1)
    for view in VIEWS[1:]:
        assert view_of(failed, view).planes[0].max() <= 16
    assert view_of(failed, "composite") is good.composite
    assert good.time_base == Fraction(1, 90000)


def test_what_is_missing_is_named() -> None:
    code = "import sys; sys.modules['aiortc'] = None; import fusematte.webrtc"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "fusematte[serve]" in done.stderr.splitlines()[-1]
