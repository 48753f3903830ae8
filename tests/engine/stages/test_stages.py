"""One set of stages: a feature is the same in a file job, a session, live and the page."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from tests.helpers import content, cut, make_clip, run_whole
from tests.peers import HookedMatter, Infer

from fusematte.engine.backends import Maps
from fusematte.engine.compositing.backgrounds import open_background
from fusematte.engine.compositing.composite import Composite, compose
from fusematte.engine.compositing.look import PLAIN, Look
from fusematte.engine.errors import TruncatedInputError
from fusematte.engine.frame import Frame, Map
from fusematte.engine.jobs.options import JobOptions
from fusematte.engine.jobs.single import Tools, run_once
from fusematte.engine.live.cameras import open_camera
from fusematte.engine.live.outputs import Outlet
from fusematte.engine.live.run import LiveRun
from fusematte.engine.live.session import Session
from fusematte.engine.matting.matter import Matter
from fusematte.engine.media.reader import Reader
from fusematte.engine.serve.backgrounds import BackgroundChoice
from fusematte.engine.serve.jobs import Job
from fusematte.engine.stages.contract import Matted, StageOptions, Stages
from fusematte.engine.stages.cpu import CpuStages

FRAMES = 8


@pytest.fixture(scope="module", autouse=True)
def network() -> Iterator[Matter]:
    """Keeps the compiled network from one test to the next."""
    with Matter() as matter:
        yield matter


def flicker() -> Callable[..., Maps]:
    """A network that is unsure of itself everywhere, with an alpha that changes all the time."""
    turns = itertools.count()

    def infer(network: Infer, image: Map, previous: Map) -> Maps:
        maps = network(image, previous)
        alpha = np.full_like(maps.alpha, 0.3 + 0.4 * (next(turns) % 2))
        return Maps(alpha, np.full_like(alpha, 0.8), np.full_like(alpha, 0.8), maps.beta)

    return infer


@pytest.fixture
def matter() -> Iterator[HookedMatter]:
    with HookedMatter() as made:
        made.hook = flicker()
        yield made


def clip_of(folder: Path, **options: Any) -> Path:  # noqa: ANN401
    return make_clip(
        folder / "clip.mkv", width=64, height=48, frames=FRAMES, codec="ffv1", **options
    )


def planes_in(path: Path) -> list[NDArray[Any]]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray() for frame in container.decode(video=0)]


# --- smoothing in files ---------------------------------------------------------------------------


def through(stages: Stages, frames: list[Frame]) -> list[Composite]:
    """All frames' way, to the last one that is held back."""
    ready = [matted for frame in frames for matted in stages.begin(frame)]
    return [stages.finish(matted) for matted in [*ready, *stages.drain()]]


@pytest.mark.parametrize("lookahead", [0, 1, 3, 2 * FRAMES])
def test_a_job_smooths_as_its_stages_do(
    lookahead: int, matter: HookedMatter, tmp_path: Path
) -> None:
    clip, out = clip_of(tmp_path), tmp_path / "out.mkv"
    options = JobOptions(background="#2050a0", codec="ffv1", smoothing=True, lookahead=lookahead)
    tools = Tools(matter, open_background("#2050a0"))
    report = run_once(clip, out, options, tools=tools)
    assert report.frames == FRAMES
    assert content(out).times == content(clip).times
    matter.reset()
    matter.hook = flicker()
    with Reader(clip) as reader:
        expected = through(CpuStages(*tools, options.stages()), list(reader))
    for got, wanted in zip(planes_in(out), expected, strict=True):
        np.testing.assert_array_equal(got[:48], wanted.frame.planes[0])


def test_smoothing_takes_flicker_away(matter: HookedMatter, tmp_path: Path) -> None:
    clip = clip_of(tmp_path)
    with Reader(clip) as reader:
        (first, *_) = list(reader)
    frames = [
        Frame(planes=first.planes, format=first.format, pts=index * 3600) for index in range(8)
    ]

    def change(options: StageOptions) -> float:
        matter.reset()
        matter.hook = flicker()
        stages = CpuStages(matter, open_background("green"), options)
        ready = [matted for frame in frames for matted in stages.begin(frame)]
        alphas = [matted.matte.alpha for matted in [*ready, *stages.drain()] if matted.matte]
        assert len(alphas) == len(frames)
        return float(np.mean([np.abs(a - b).mean() for a, b in itertools.pairwise(alphas)]))

    plain, smooth, ahead = (
        change(StageOptions(smoothing=smoothing, lookahead=frames))
        for smoothing, frames in ((False, 0), (True, 0), (True, 3))
    )
    assert ahead < smooth < plain


def test_frames_that_are_held_back_come_out_of_an_input_that_breaks_off(
    matter: HookedMatter, tmp_path: Path
) -> None:
    whole = make_clip(tmp_path / "whole.mkv", frames=30, width=160, height=120)
    clip = cut(whole, 0.6)
    tools = Tools(matter, open_background("green"))
    with pytest.raises(TruncatedInputError, match=r"(\d+) of 30 frames|truncated") as raised:
        run_whole(clip, tmp_path / "out.mkv", tools=tools, lookahead=5)
    count = int(str(raised.value).split(": ")[-1].split()[0])
    assert len(planes_in(tmp_path / "out.mkv.part")) == count > 5


# --- every feature, everywhere --------------------------------------------------------------------


class Collector(Outlet):
    name = "collector"

    def show(self, frame: Frame) -> None:
        pass

    def close(self) -> None:
        pass


def in_a_job(clip: Path, **feature: Any) -> None:  # noqa: ANN401
    run_once(clip, clip.with_name("out.mkv"), JobOptions(codec="ffv1", **feature))


def in_a_session(clip: Path, **feature: Any) -> None:  # noqa: ANN401
    with Reader(clip) as reader, Session("green", max_pending=FRAMES, **feature) as session:
        frames = list(reader)
        for frame in frames:
            session.push(frame)
        for _ in range(len(frames) - feature.get("lookahead", 0)):
            assert session.get(60).error is None


def in_live(clip: Path, **feature: Any) -> None:  # noqa: ANN401
    camera = open_camera(str(clip))
    with Session("green", max_pending=FRAMES, **feature) as session:
        LiveRun(camera, session, [Collector()], ["green"]).run()


def in_a_job_of_the_page(clip: Path, **feature: Any) -> None:  # noqa: ANN401
    folder = clip.with_name("job")
    folder.mkdir()
    clip.rename(folder / "upload")
    choice = BackgroundChoice(id="green", name="Green", spec="green", thumbnail=b"")
    job = Job(id="1", folder=folder, name="talk.mkv", background=choice, blur=18)
    job.run(feature)
    assert job.state == "done", job.error


def in_a_camera_of_the_page(clip: Path, **feature: Any) -> None:  # noqa: ANN401
    pytest.importorskip("aiortc")
    from aiortc.mediastreams import MediaStreamTrack

    from fusematte.webrtc import MattingTrack

    class Played(MediaStreamTrack):
        kind = "video"

        def __init__(self) -> None:
            super().__init__()
            with av.open(str(clip)) as container:
                self._pictures = itertools.cycle(list(container.decode(video=0)))

        async def recv(self) -> av.VideoFrame:
            await asyncio.sleep(0.02)
            return next(self._pictures)

    async def whole() -> None:
        track = MattingTrack(Played(), background="green", **feature)
        while not track.session.statistics.frames:
            await asyncio.wait_for(track.recv(), 60)
        assert not track.session.statistics.failed
        await track.close()

    asyncio.run(whole())


@pytest.mark.usefixtures("small_network")
@pytest.mark.parametrize(
    "feature",
    [{"lookahead": 2}, {"light_wrap": 0.5}, {"despill": 0.7}, {}],
    ids=["lookahead", "light wrap", "despill", "10 bits"],
)
@pytest.mark.parametrize(
    "consumer",
    [in_a_job, in_a_session, in_live, in_a_job_of_the_page, in_a_camera_of_the_page],
    ids=lambda function: function.__name__,
)
def test_a_feature_is_written_once(
    consumer: Callable[..., None],
    feature: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[tuple[StageOptions, Composite]] = []
    finish = CpuStages.finish

    def watched(self: CpuStages, matted: Matted) -> Composite:
        assert matted.matte is not None
        matted.matte.alpha.fill(0.5)  # edges everywhere
        done = finish(self, matted)
        if self.options.look != PLAIN:  # the look is in the picture
            plain = compose(matted.frame, matted.matte, self.background).frame
            assert any((a != b).any() for a, b in zip(done.frame.planes, plain.planes, strict=True))
        assert not self.options.lookahead or "smooth" in matted.seconds
        seen.append((self.options, done))
        return done

    monkeypatch.setattr(CpuStages, "finish", watched)
    clip = clip_of(tmp_path, pixel_format="yuv420p10le") if not feature else clip_of(tmp_path)
    consumer(clip, **feature)
    assert seen
    looks = {name: value for name, value in feature.items() if name != "lookahead"}
    for options, done in seen:
        assert options.look == Look(**looks)
        assert options.lookahead == feature.get("lookahead", 0)
        assert done.frame.format.bits == (8 if feature else 10)
