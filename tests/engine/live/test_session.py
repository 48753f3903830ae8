"""Session: what goes in, what comes out, and that nothing of the camera ever leaks."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from tests.helpers import picture, wait_for
from tests.peers import HookedMatter, Infer, poison

import fusematte as fm
from fusematte.engine.backends import Backend, Maps, sharing
from fusematte.engine.compositing.backgrounds import BlurBackground, ColorBackground
from fusematte.engine.errors import BackgroundError, ModelError, UsageError
from fusematte.engine.frame import Frame, Map
from fusematte.engine.live import session as session_module
from fusematte.engine.live.session import Result, Session, mirrored
from fusematte.engine.live.views import view_of
from fusematte.engine.matting.smoothing import Smoother
from fusematte.engine.media.av_frames import rgb_of, rgba_of
from fusematte.engine.models import DEFAULT_MODEL
from fusematte.engine.pipeline import network_threads
from fusematte.engine.pixels.color import frame_from_rgb
from fusematte.engine.stages import cpu

pytestmark = pytest.mark.usefixtures("small_network")

RED_RGB = (220, 10, 10)


@pytest.fixture(scope="module", autouse=True)
def network() -> Iterator[fm.Matter]:
    """Keeps the compiled network from one test to the next."""
    with fm.Matter(work="live") as matter:
        yield matter


@pytest.fixture(autouse=True)
def nothing_is_left(network: fm.Matter) -> Iterator[None]:
    yield
    assert [t.name for t in threading.enumerate() if t.name.startswith("fusematte-")] == []
    assert sharing.users() == [1], network


@pytest.fixture
def matter() -> Iterator[HookedMatter]:
    """One that a test may tamper with."""
    with HookedMatter() as made:
        yield made


def red(height: int = 48, width: int = 64) -> NDArray[np.uint8]:
    """What the camera sees in these tests: a colour that nothing else has."""
    return np.full((height, width, 3), RED_RGB, np.uint8)


def looks_red(frame: Frame) -> bool:
    """Whether any sample of the frame has the camera's colour, or one mixed with it."""
    return bool((frame.planes[2] > 150).any())


def test_the_facade_has_it() -> None:
    assert fm.Session is Session and fm.Result is Result


def test_composite_is_that_of_the_frame_by_frame_way() -> None:
    frames = [frame_from_rgb(picture(96, 64, index)) for index in range(3)]
    smooth = Smoother()
    with Session("green") as session, fm.Matter() as matter:
        for index, frame in enumerate(frames):
            session.push(frame, pts=index)
            result = session.get(60)
            matte = smooth(matter(frame), follows=matter.follows)
            assert result.matte is not None and result.error is None
            np.testing.assert_allclose(result.matte.alpha, matte.alpha, atol=1e-5)
            expected = fm.composite(frame, matte, "green")
            for got, plane in zip(result.composite.planes, expected.planes, strict=True):
                assert np.abs(got.astype(int) - plane).max() <= 1
            assert (result.pts, result.time_base) == (index, frame.time_base)
            assert result.alpha().shape == (64, 96)
            assert 0 < result.latency < 60


class Tensor:
    """A DLPack exporter that is no array."""

    def __init__(self, array: NDArray[np.uint8]) -> None:
        self._array = array

    def __dlpack__(self, **options: Any) -> object:  # noqa: ANN401
        return self._array.__dlpack__(**options)

    def __dlpack_device__(self) -> object:
        return self._array.__dlpack_device__()


def test_takes_arrays_tensors_and_pictures_of_libav() -> None:
    rgb = picture(64, 48, 0)
    video = av.VideoFrame.from_ndarray(rgb, "rgb24").reformat(format="nv12")
    video.pts, video.time_base = 7, Fraction(1, 30)
    with Session("#00ff00") as session:
        for pushed in (rgb, Tensor(rgb), video, frame_from_rgb(rgb)):
            session.push(pushed)
            result = session.get(60)
            assert result.error is None
            assert result.to_ndarray().shape == (48, 64, 3)
        session.push(video)
        out = session.get(60).to_video_frame()
        assert (out.pts, out.time_base, out.width, out.height) == (7, Fraction(1, 30), 64, 48)
        assert out.format.name == "yuv420p"
        session.push(rgb, pts=90)
        assert session.get(60).composite.time == Fraction(1, 1000)


@pytest.mark.parametrize(
    "bad", [np.zeros((4, 4)), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8), "frame", None]
)
def test_refuses_what_is_no_frame(bad: object) -> None:
    with Session("green") as session, pytest.raises(UsageError):
        session.push(bad)


def test_bad_arguments(tmp_path: Path) -> None:
    for options in (
        {"max_pending": 0},
        {"budget_ms": 0},
        {"threads": 0},
        {"lookahead": -1},
        {"despill": 2},
    ):
        with pytest.raises(UsageError):
            Session("green", **options)  # type: ignore[arg-type]
    with pytest.raises(BackgroundError):
        Session(tmp_path / "missing.jpg")
    with pytest.raises(ModelError):
        Session("green", model="missing")


class Gate:
    """Holds the network up until it is let run; for a first frame it runs twice."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self._may = threading.Semaphore(0)

    def __call__(self, network: Infer, image: Map, previous: Map) -> Maps:
        self.entered.set()
        assert self._may.acquire(timeout=30)
        return network(image, previous)

    def let(self, runs: int) -> None:
        self._may.release(runs)


@pytest.mark.parametrize("pending", [1, 3])
def test_old_frames_are_dropped_and_never_queued(pending: int, matter: HookedMatter) -> None:
    matter.hook = gate = Gate()
    with Session("green", max_pending=pending, matter=matter) as session:
        session.push(red(), pts=0)
        assert gate.entered.wait(30)
        for index in range(1, 8):
            session.push(red(), pts=index)
        # What was under way, and of the others the newest.  It is taken before the next comes:
        # no more results wait than frames do.
        gate.let(2)
        assert session.get(60).pts == 0
        gate.let(pending)
        newest = range(8 - pending, 8)
        assert [session.get(60).pts for _ in newest] == list(newest)
        assert session.statistics.dropped == 7 - pending
        assert session.statistics.frames == 1 + pending


def test_lookahead_delays_and_a_fault_lets_go_what_was_held(matter: HookedMatter) -> None:
    with Session("green", lookahead=2, max_pending=5, matter=matter) as session:
        for index in range(3):
            session.push(red(), pts=index)
            wait_for(lambda: not session.busy)
        assert session.get(60).pts == 0
        assert not session.busy
        matter.hook = fault
        session.push(red(), pts=3)
        seen = [session.get(60) for _ in range(3)]
    assert [result.pts for result in seen] == [1, 2, 3]
    assert [result.error is None for result in seen] == [True, True, False]
    assert not looks_red(seen[-1].composite)


def test_callback_iteration_and_timeout() -> None:
    seen: list[Result] = []
    came = threading.Event()

    def note(result: Result) -> None:
        seen.append(result)
        came.set()
        raise ZeroDivisionError  # the caller's own mistake does not end the session

    with Session("green", on_result=note) as session:
        for count in (1, 2):
            came.clear()
            session.push(red())
            assert came.wait(60)
            assert len(seen) == count
        with pytest.raises(UsageError):
            session.get(0)
    with Session("green") as session:
        with pytest.raises(TimeoutError):
            session.get(0.01)
        session.push(red())
        results = iter(session)
        assert next(results).error is None
        threading.Timer(0.1, session.close).start()
        assert list(results) == []
    with pytest.raises(UsageError):
        session.push(red())
    with pytest.raises(UsageError):
        session.get(0)


def test_close_from_the_callback() -> None:
    closed = threading.Event()

    def stop(_: Result) -> None:
        session.close()
        closed.set()

    session = Session("green", on_result=stop)
    session.push(red())
    assert closed.wait(60)
    session.close()


def test_background_changes_between_frames(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "blue.png"), np.full((8, 8, 3), (255, 0, 0), np.uint8))
    with Session("#00ff00") as session:
        session.push(red())
        assert session.get(60).to_ndarray()[0, 0].argmax() == 1
        session.background = tmp_path / "blue.png"
        session.push(red())
        assert session.get(60).to_ndarray()[0, 0].argmax() == 2
        with pytest.raises(BackgroundError):
            session.background = tmp_path / "missing.png"
        assert session.background == tmp_path / "blue.png"
        session.push(red())
        assert session.get(60).to_ndarray()[0, 0].argmax() == 2


def test_a_closed_frame_is_none_of_the_cameras(matter: HookedMatter) -> None:
    with Session("blur", matter=matter) as session:
        assert session.closed_frame(frame_from_rgb(red())).planes[2].max() == 128


def test_a_mask_instead_of_a_composite(matter: HookedMatter) -> None:
    with Session("mask", matter=matter) as session:
        session.push(red())
        result = session.get(60)
        mask = view_of(result, "alpha")
        for plane, wanted in zip(result.composite.planes, mask.planes, strict=True):
            np.testing.assert_array_equal(plane, wanted)
        assert not rgb_of(session.closed_frame(result.source)).any()
        session.background = "transparent"
        assert not rgba_of(session.closed_frame(result.source)).any()


def test_model_changes_and_a_bad_one_leaves_the_old() -> None:
    with Session("green") as session:
        session.push(red())
        session.get(60)
        with pytest.raises(ModelError):
            session.model = "missing"
        session.model = "edge"
        session.push(red())
        assert session.get(60).error is None


def test_a_lent_matter_is_used_and_left_to_its_owner(matter: HookedMatter) -> None:
    seen: list[tuple[int, ...]] = []

    def look(network: Infer, image: Map, previous: Map) -> Maps:
        seen.append(image.shape)
        return network(image, previous)

    matter.hook = look
    with Session("green", matter=matter) as session:
        session.push(red())
        assert session.get(60).error is None
        count = len(seen)
        assert count
        session.model = "edge"  # from here on it has one of its own
        session.push(red())
        assert session.get(60).error is None
        assert len(seen) == count
    matter(frame_from_rgb(picture(64, 48, 0)))  # it is still open
    assert len(seen) > count


def test_a_slow_network_is_not_waited_for(matter: HookedMatter) -> None:
    """Frames carry its last matte; when the model changes, nothing works on in the old one."""
    slowness, working = 0.12, threading.Event()

    def slow(network: Infer, image: Map, previous: Map) -> Maps:
        working.set()
        time.sleep(slowness)
        maps = network(image, previous)
        working.clear()
        return maps

    matter.hook = slow
    results: list[Result] = []
    with Session("green", matter=matter, budget_ms=33, on_result=results.append) as session:

        def push_until(enough: Callable[[], bool]) -> None:
            deadline = time.monotonic() + 60
            while not enough():
                assert time.monotonic() < deadline
                session.push(red())
                time.sleep(0.02)

        push_until(lambda: session.statistics.carried)
        assert "carried" in str(session.statistics)
        since = len(results)
        push_until(lambda: len(results) > since + 20)
        assert not session.statistics.failed
        late = [result.latency for result in results[since + 2 :]]
        assert np.median(late) < slowness
        push_until(working.is_set)
        session.model = "edge"
        assert not working.is_set()
        since = len(results)
        push_until(lambda: len(results) > since + 2)
        assert not session.statistics.failed
        assert not working.is_set()


def test_frames_do_not_wait_while_further_sizes_are_compiled(
    matter: HookedMatter, monkeypatch: pytest.MonkeyPatch
) -> None:
    may, asked = threading.Event(), list[tuple[int, ...]]()
    compile_now = type(matter.backend).compile

    def late(backend: Backend, shape: tuple[int, ...]) -> None:
        asked.append(shape)
        assert len(asked) == 1 or may.wait(60)
        compile_now(backend, shape)

    monkeypatch.setattr(type(matter.backend), "compile", late)
    with Session("green", matter=matter, budget_ms=1000) as session:

        def push_and_get() -> Result:
            session.push(red())
            return session.get(60)

        seen = [push_and_get() for _ in range(8)]
        assert not any(result.error for result in seen)
        assert len(asked) == 2  # the first frame's, and one that is not there yet
        assert not session.statistics.level_changes
        may.set()
        deadline = time.monotonic() + 60
        while session.statistics.carried:  # until all are there: time is enough to wait
            assert time.monotonic() < deadline
            push_and_get()
    assert len(asked) == 3


def test_a_closed_session_takes_nothing_more() -> None:
    session = Session("green")
    session.close()
    for name, value in (("background", "blur"), ("model", "edge")):
        with pytest.raises(UsageError, match="closed"):
            setattr(session, name, value)
    assert session.background == "green"  # and nothing_is_left sees to the network


def test_sessions_share_one_compiled_network() -> None:
    threads = network_threads(live=True)
    with (
        Session("green") as one,
        Session("green", threads=threads) as two,
        Session("green", threads=3),
    ):
        assert sorted(sharing.users()) == [1, 3]  # None is one number of threads, for whoever asks
        one.push(red(), pts=1)
        two.push(red(), pts=2)
        assert (one.get(60).pts, two.get(60).pts) == (1, 2)
        one.close()
        two.push(red(), pts=3)
        assert two.get(60).error is None


def test_many_threads_push_swap_and_ask_at_once() -> None:
    count = 0
    with Session("green") as session:
        stop = time.monotonic() + 1.5

        def push() -> None:
            while time.monotonic() < stop:
                session.push(red())
                time.sleep(0.005)

        def swap() -> None:
            while time.monotonic() < stop:
                session.background = "#123456"
                session.mirror = not session.mirror
                assert session.statistics.failed == 0
                time.sleep(0.01)

        workers = [threading.Thread(target=target) for target in (push, push, swap)]
        for worker in workers:
            worker.start()
        while time.monotonic() < stop:
            assert session.get(60).error is None
            count += 1
        for worker in workers:
            worker.join()
    assert count


def test_mirror_turns_the_picture_and_not_the_background() -> None:
    frame = frame_from_rgb(picture(64, 48, 0))
    with Session("green", mirror=True) as session:
        session.push(frame)
        result = session.get(60)
    np.testing.assert_array_equal(result.source.planes[0], frame.planes[0][:, ::-1])
    sideways = Frame(planes=frame.planes, format=frame.format, rotation=90)
    np.testing.assert_array_equal(mirrored(sideways).planes[0], frame.planes[0][::-1])


# --- fail closed ----------------------------------------------------------------------------------


def fault(*_: object, **__: object) -> None:
    raise RuntimeError("injected")


@pytest.mark.parametrize("background", ["blur", "#00ff00"])
@pytest.mark.parametrize(
    "place", ["infer", "poison", "matter", "smooth", "compose", "background", "mirror"]
)
def test_a_fault_anywhere_never_shows_the_camera(
    place: str, background: str, matter: HookedMatter, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Session(background, mirror=place == "mirror", matter=matter) as session:
        with monkeypatch.context() as patch:
            if place == "infer":
                patch.setattr(matter, "hook", fault)
            elif place == "poison":
                patch.setattr(matter, "hook", poison)
            elif place == "matter":
                patch.setattr(matter, "size_for", fault)
            elif place == "smooth":
                patch.setattr(Smoother, "__call__", fault)
            elif place == "compose":
                patch.setattr(cpu, "compose", fault)
            elif place == "mirror":
                patch.setattr(session_module, "mirrored", fault)
            else:
                for kind in (ColorBackground, BlurBackground):
                    patch.setattr(kind, "render", fault)
            session.push(red(), pts=5)
            result = session.get(60)
            assert result.error and result.matte is None
            assert result.pts == 5
            assert not looks_red(result.composite)
            assert not result.alpha().any()
            assert session.statistics.failed == 1
        for _ in range(2):  # and then it works again
            session.push(red())
            assert session.get(60).error is None


def test_a_model_that_fails_as_it_is_taken_in_leaves_the_old_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with Session("#00ff00") as session:
        session.push(red())
        session.get(60)
        with monkeypatch.context() as patch:
            patch.setattr(fm.Matter, "prepare", fault)
            with pytest.raises(RuntimeError, match="injected"):
                session.model = "edge"
        assert session.model == DEFAULT_MODEL
        session.push(red())
        assert session.get(60).error is None  # and nothing_is_left sees to its network


# --- buffers --------------------------------------------------------------------------------------


def digest(frame: Frame) -> list[bytes]:
    return [plane.tobytes() for plane in frame.planes]


def test_an_array_is_the_callers_again_when_push_returns(matter: HookedMatter) -> None:
    shown = picture(64, 48, 0)
    with Session("green", matter=matter) as session:
        session.push(shown.copy(), pts=0)
        expected = digest(session.get(60).source)
        matter.hook = gate = Gate()
        array = shown.copy()
        session.push(array, pts=1)
        assert gate.entered.wait(30)
        array[:] = 0  # while it waits
        gate.let(2)
        assert digest(session.get(60).source) == expected


def test_results_are_the_callers_to_keep_and_to_write_to() -> None:
    kept, digests = [], []
    with Session("blur") as session:
        for index in range(12):
            session.push(picture(64, 48, index))
            result = session.get(60)
            kept.append(result)
            digests.append(digest(result.composite))
        for result in kept[:4]:
            assert result.matte is not None
            result.matte.alpha[:] = np.nan
            result.composite.planes[0][:] = 0
        session.push(picture(64, 48, 0))
        assert session.get(60).error is None
    assert [digest(result.composite) for result in kept[4:]] == digests[4:]


def test_a_frame_is_not_copied() -> None:
    frame = frame_from_rgb(picture(64, 48, 0))
    with Session("green") as session:
        session.push(frame)
        source = session.get(60).source
    assert all(a is b for a, b in zip(source.planes, frame.planes, strict=True))


def test_a_tensor_of_torch_is_taken() -> None:
    torch = pytest.importorskip("torch")
    with Session("green") as session:
        session.push(torch.from_numpy(picture(64, 48, 0)))
        assert session.get(60).error is None
        with pytest.raises(UsageError, match="CPU"):
            session.push(torch.zeros((4, 4, 3), dtype=torch.uint8, device="meta"))


# --- who is kept ----------------------------------------------------------------------------------


def test_clicks_reach_the_next_frame_and_everybody_comes_back() -> None:
    rgb = np.ascontiguousarray(pytest.importorskip("skimage.data").astronaut()[:288])
    with Session("green", backend="openvino:cpu:f32", threads=1) as session:
        alphas = []

        def show() -> None:
            session.push(rgb)
            result = session.get(60)
            assert result.error is None and result.matte is not None
            alphas.append(result.matte.alpha)

        with pytest.raises(UsageError, match="no frame was pushed yet"):
            session.keep(100, 50)
        show()
        session.drop(0.42, 0.4)
        show()
        dropped = float(np.abs(alphas[1] - alphas[0]).mean())
        assert dropped > 0.05  # the very next frame
        session.clear()
        show()
        assert np.abs(alphas[2] - alphas[0]).mean() < 0.05 * dropped
        for place in ((600, 3), (-1, 3), (0.5, float("nan"))):
            with pytest.raises(UsageError, match="outside"):
                session.keep(*place)
    with pytest.raises(UsageError, match="closed"):
        session.keep(0.5, 0.5)
