"""The live job end to end: a paced clip in, encoded outputs out, with faults at every stage."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from tests.helpers import content
from tests.peers import HookedMatter, Infer, poison

from fusematte.engine.backends import Maps
from fusematte.engine.compositing.backgrounds import BlurBackground, ColorBackground
from fusematte.engine.errors import BackgroundError, ModelError, OutputError
from fusematte.engine.frame import Frame, Map
from fusematte.engine.live.cameras import Camera, open_camera
from fusematte.engine.live.outputs import Outlet
from fusematte.engine.live.recording import Recording
from fusematte.engine.live.run import Controls, LiveRun
from fusematte.engine.live.session import Session
from fusematte.engine.matting.matter import Matter
from fusematte.engine.matting.smoothing import Smoother
from fusematte.engine.stages import cpu

pytestmark = pytest.mark.usefixtures("small_network")

FRAMES, RATE = 20, 20


@pytest.fixture(scope="module", autouse=True)
def network() -> Iterator[Matter]:
    """Keeps the compiled network from one test to the next."""
    with Matter() as matter:
        yield matter


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    assert [t.name for t in threading.enumerate() if t.name.startswith("fusematte-")] == []


@pytest.fixture(scope="module")
def red_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A camera that sees nothing but red."""
    path = tmp_path_factory.mktemp("camera") / "red.ts"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=RATE)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for _ in range(FRAMES):
            red = np.full((48, 64, 3), (220, 10, 10), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(red, "rgb24")))
        container.mux(stream.encode(None))
    return path


def reddest(path: Path) -> int:
    """The highest Cr sample of all pictures of a file: about 220 for the camera's, 128 for gray."""
    with av.open(str(path)) as container:
        return max(
            int(np.asarray(p.to_ndarray())[60:].reshape(2, -1)[1].max())
            for p in container.decode(video=0)
        )


def run(camera: Camera, session: Session, *outlets: Outlet) -> None:
    with session:
        LiveRun(camera, session, outlets, ["green"]).run()


Sabotage = Callable[[HookedMatter, pytest.MonkeyPatch], None]


def record(
    clip: Path, folder: Path, background: str, sabotage: Sabotage, patch: pytest.MonkeyPatch
) -> Path:
    """What is recorded of a clip by a session that ``sabotage`` has been at."""
    output = folder / "out.mkv"
    with HookedMatter() as matter:
        camera = open_camera(str(clip))
        session = Session(background, matter=matter, budget_ms=1e3)
        sabotage(matter, patch)
        run(camera, session, Recording(output, camera.like, camera.rate))
    return output


def everything_is_people(_: Infer, image: Map, __: Map) -> Maps:
    ones = np.ones(image.shape[2:], np.float32)
    return Maps(ones, ones, 1 - ones, ones)


def test_the_search_for_camera_pixels_finds_them(
    tmp_path: Path, red_clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sabotage(matter: HookedMatter, _: pytest.MonkeyPatch) -> None:
        matter.hook = everything_is_people

    assert reddest(record(red_clip, tmp_path, "#00ff00", sabotage, monkeypatch)) > 200


def fail(*_: object, **__: object) -> None:
    raise RuntimeError("injected")


def hang(*_: object) -> None:
    time.sleep(1.5)
    raise RuntimeError("injected")


def in_network(matter: HookedMatter, _: pytest.MonkeyPatch) -> None:
    matter.hook = fail


def in_hanging_network(matter: HookedMatter, _: pytest.MonkeyPatch) -> None:
    matter.hook = hang


def in_network_now_and_then(matter: HookedMatter, _: pytest.MonkeyPatch) -> None:
    turn = itertools.count()

    def unsteady(network: Infer, image: Map, previous: Map) -> Maps:
        if next(turn) % 3 == 0:
            fail()
        return network(image, previous)

    matter.hook = unsteady


def in_background(_: HookedMatter, patch: pytest.MonkeyPatch) -> None:
    for kind in (ColorBackground, BlurBackground):
        patch.setattr(kind, "render", fail)


def in_model(matter: HookedMatter, _: pytest.MonkeyPatch) -> None:
    matter.close()
    matter.hook = "nothing that can be called"  # type: ignore[assignment]


def in_alpha(matter: HookedMatter, _: pytest.MonkeyPatch) -> None:
    matter.hook = poison


def in_smoothing(_: HookedMatter, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Smoother, "__call__", fail)


def in_blend(_: HookedMatter, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(cpu, "compose", fail)


def in_preparation(matter: HookedMatter, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(matter, "prepare", fail)


ALWAYS = (
    in_network,
    in_hanging_network,
    in_background,
    in_model,
    in_alpha,
    in_smoothing,
    in_blend,
)


@pytest.mark.parametrize(
    ("sabotage", "background"),
    # The frames that are matted now and then may well show a red wall out of focus.
    [(in_network_now_and_then, "#00ff00"), (in_preparation, "#00ff00")]
    + [(sabotage, background) for sabotage in ALWAYS for background in ("blur", "#00ff00")],
)
def test_no_pixel_of_the_camera_comes_out(
    sabotage: Sabotage,
    background: str,
    tmp_path: Path,
    red_clip: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    output = record(red_clip, tmp_path, background, sabotage, monkeypatch)
    times = content(output).times
    assert len(times) > 3  # something was shown all the same
    assert times == sorted(set(times))
    # The network is told of a red wall: what it matted may not be red either.
    assert reddest(output) < 150


def test_changes_that_fail_while_it_runs_show_no_camera(tmp_path: Path, red_clip: Path) -> None:
    failures, done = [], threading.Event()

    def change() -> None:
        while not done.wait(0.02):
            try:
                session.background = tmp_path / "missing.png"
            except BackgroundError as error:
                failures.append(error)
            try:
                session.model = "missing"
            except ModelError as error:
                failures.append(error)

    output = tmp_path / "out.mkv"
    with HookedMatter() as matter:
        matter.hook = fail
        camera, session = open_camera(str(red_clip)), Session("#00ff00", matter=matter)
        changer = threading.Thread(target=change)
        changer.start()
        run(camera, session, Recording(output, camera.like, camera.rate))
        done.set()
        changer.join()
    assert reddest(output) < 150
    assert {type(error) for error in failures} == {BackgroundError, ModelError}


@pytest.mark.parametrize("damage", ["cut", "noise"])
def test_a_clip_that_cannot_be_decoded_on_shows_no_camera(
    damage: str, tmp_path: Path, red_clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = bytearray(red_clip.read_bytes())
    middle = len(data) // 2
    if damage == "cut":
        data[middle:] = b""
    else:
        data[middle : middle + 300] = np.random.default_rng(0).bytes(300)
    broken = tmp_path / "broken.ts"
    broken.write_bytes(data)
    output = record(broken, tmp_path, "#00ff00", in_network_now_and_then, monkeypatch)
    assert reddest(output) < 150


class Collector(Outlet):
    """Keeps what it is shown."""

    def __init__(self) -> None:
        self.name = "collector"
        self.frames: list[Frame] = []

    def show(self, frame: Frame) -> None:
        self.frames.append(frame)

    def close(self) -> None:
        pass

    def reds(self) -> list[bool]:
        """Which frames show the camera's colour."""
        return [bool((frame.planes[2] > 150).any()) for frame in self.frames]


class Broken(Camera):
    """A camera that gives a few frames, then nothing while ``silent`` says so, and is unplugged."""

    def __init__(self, path: Path, silent: Callable[[], bool]) -> None:
        self._camera, self._silent = open_camera(str(path)), silent
        self.name, self.like, self.rate = "broken", self._camera.like, self._camera.rate

    def items(self) -> Iterator[Frame]:
        yield from itertools.islice(self._camera, 3)
        deadline = time.monotonic() + 30
        while self._silent() and time.monotonic() < deadline:
            time.sleep(0.05)
        raise OutputError("unplugged")

    def close(self) -> None:
        self._camera.close()


def test_an_unplugged_camera_shows_the_background_and_then_the_error(red_clip: Path) -> None:
    collector = Collector()

    def silent() -> bool:
        reds = collector.reds()
        return not (any(reds) and not reds[-1])  # until the card has followed a composite

    with HookedMatter() as matter, pytest.raises(OutputError, match="unplugged"):
        matter.hook = everything_is_people
        run(Broken(red_clip, silent), Session("blur", matter=matter), collector)
    assert not silent()


class Failing(Outlet):
    """An output that breaks after a few frames."""

    def __init__(self) -> None:
        self.name, self.shown, self.closed = "failing", 0, False

    def show(self, frame: Frame) -> None:  # noqa: ARG002
        self.shown += 1
        if self.shown == 3:
            raise OutputError("failing: is gone")

    def close(self) -> None:
        self.closed = True


def test_one_output_may_fail_and_the_last_one_ends_it(tmp_path: Path, red_clip: Path) -> None:
    camera, failing = open_camera(str(red_clip)), Failing()
    recording = Recording(tmp_path / "out.mkv", camera.like, camera.rate)
    run(camera, Session("green"), failing, recording)
    assert failing.closed and failing.shown == 3
    assert len(content(tmp_path / "out.mkv").times) > 5
    camera, failing = open_camera(str(red_clip)), Failing()
    with pytest.raises(OutputError, match="is gone"):
        run(camera, Session("green"), failing)
    assert failing.closed


def test_keys() -> None:
    with Session("green") as session:
        controls = Controls(itertools.cycle(["#111111", "/missing.png", "blur"]))
        for key in "bmafq?":
            controls.press(key, session)
        assert (session.background, session.mirror) == ("#111111", True)
        assert (controls.shows_alpha, controls.frozen, controls.quits) == (True, True, True)
        controls.press("b", session)  # one that cannot be read is told and passed over
        assert session.background == "#111111"
        controls.press("b", session)
        assert session.background == "blur"


def test_alpha_view_freeze_and_quit(red_clip: Path) -> None:
    camera, collector = open_camera(str(red_clip)), Collector()
    keys = iter(["a", "", "", "", "", "f", "", "", "q"])
    with HookedMatter() as matter, Session("#00ff00", matter=matter) as session:
        matter.hook = everything_is_people
        LiveRun(camera, session, [collector], ["green"], keys=lambda: next(keys, "")).run()
    last = collector.frames[-1]
    assert (last.planes[0] > 230).all()  # an alpha of 1, white
    assert (last.planes[1] == 128).all()
    times = [frame.time for frame in collector.frames]
    assert times == sorted(set(times))
    assert times[-1] - times[0] < Fraction(FRAMES, RATE)
