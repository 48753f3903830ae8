"""The choice by measurement."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fusematte.engine.backends import Backend, Maps, Spec, create_backend, tuning
from fusematte.engine.backends.tuning import Timing, Tuning, TuningKey, choose, ranked, recall
from fusematte.engine.errors import BackendError
from fusematte.engine.frame import Map
from fusematte.engine.models import Bundle, load_bundle

QUICK, SLOW, BAD = (Spec("made", "cpu", precision) for precision in ("int8", "f32", "bf16"))


@pytest.fixture(autouse=True)
def empty_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("FUSEMATTE_CACHE", str(tmp_path))
    return tmp_path


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    """The shipped model, at a size at which it is quick."""
    return replace(load_bundle(), default_size=(64, 64))


class Sleeping(Backend):
    """A network that takes so many seconds to be made and to run."""

    def __init__(self, making: float = 0, running: float = 0, alpha: float = 0.5) -> None:
        time.sleep(making)
        self.running, self.alpha, self.closed = running, alpha, False

    @classmethod
    def unavailable(cls) -> str | None:
        return None

    def _open(self, device: str | None, precision: str | None, threads: int | None) -> None:
        raise AssertionError(device, precision, threads)

    def infer(self, image: Map, previous: Map) -> Maps:  # noqa: ARG002
        time.sleep(self.running)
        return Maps(*[np.full(previous.shape[2:], self.alpha, np.float32)] * 4)

    def close(self) -> None:
        self.closed = True


def key(bundle: Bundle, **changes: object) -> TuningKey:
    return replace(tuning.tuning_key(bundle, Spec(), work="file"), **changes)


def times(made: dict[Spec, Backend]) -> Iterator[tuple[Spec, float]]:
    yield from tuning.time_in_turns(made, (32, 32)).items()


# --- with the shipped model -----------------------------------------------------------------------


def test_measured_at_the_first_use_then_remembered(
    bundle: Bundle, empty_cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    tuning_before = tuning.PATIENCE
    try:
        tuning.PATIENCE = 60  # a busy machine
        first = create_backend("openvino", bundle, work="file")
    finally:
        tuning.PATIENCE = tuning_before
    assert "first use of edge" in caplog.text
    found = recall(tuning.tuning_key(bundle, Spec("openvino"), work="file"))
    assert found is not None
    assert not found.thorough
    assert str(first.spec) == found.timings[0].spec
    assert {Spec.parse(t.spec).precision for t in found.timings} >= {"int8", "f32"}
    assert all(t.threads == tuning.network_threads(live=False) and t.ms > 0 for t in found.timings)
    caplog.clear()
    second = create_backend("openvino", bundle, work="file")
    assert second.spec == first.spec
    assert "first use" not in caplog.text
    (path,) = empty_cache.glob("tuning-*")
    path.write_bytes(path.read_bytes()[:-1])
    create_backend("openvino", bundle, work="file").close()
    assert "made again" in caplog.text
    assert "first use" in caplog.text
    for made in (first, second):
        made.close()


def test_what_is_remembered_is_taken_and_what_is_asked_for_overrides_it(bundle: Bundle) -> None:
    slowest_first = tuple(
        Timing(spec=f"openvino:cpu:{precision}", threads=2, ms=1) for precision in ("f32", "int8")
    )
    tuning.keep(
        tuning.tuning_key(bundle, Spec(), work="live"), Tuning(timings=slowest_first, thorough=True)
    )
    made = create_backend("auto", bundle, work="live")
    assert made.precision == "f32"
    made.close()
    made = create_backend("auto:int8", bundle, work="live")
    assert made.precision == "int8"
    made.close()


def test_a_remembered_device_that_is_gone_is_passed_over(
    bundle: Bundle, caplog: pytest.LogCaptureFixture
) -> None:
    gone = tuple(
        Timing(spec=spec, threads=1, ms=1) for spec in ("openvino:npu:f16", "openvino:cpu:f32")
    )
    tuning.keep(tuning.tuning_key(bundle, Spec(), work="file"), Tuning(timings=gone, thorough=True))
    made = create_backend("auto", bundle, work="file")
    assert str(made.spec) == "openvino:cpu:f32"
    assert "backend openvino:npu:f16 is not used: openvino finds no NPU here" in caplog.text
    made.close()


def test_a_network_without_int8_is_another_key(bundle: Bundle) -> None:
    assert key(bundle) != tuning.tuning_key(bundle.without_int8(), Spec(), work="file")


# --- the race -------------------------------------------------------------------------------------


def test_the_fastest_wins_and_a_wrong_guess_is_overruled(bundle: Bundle) -> None:
    made = {SLOW: (0.0, 0.02), QUICK: (0.0, 0.005)}
    choice = choose(
        lambda: [SLOW, QUICK], lambda spec, _: Sleeping(*made[spec]), bundle, key(bundle)
    )
    assert [t.spec for t in choice.timings] == [str(QUICK), str(SLOW)]
    assert set(choice.ready) == {str(QUICK), str(SLOW)}


def test_one_that_is_late_is_left_to_the_next_start(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setattr(tuning, "PATIENCE", 0.05)
    late: list[Sleeping] = []

    def make(spec: Spec, _: int | None) -> Backend:
        if spec == QUICK:
            late.append(Sleeping(making=1))
            return late[0]
        return Sleeping()

    monkeypatch.setattr(tuning, "processors", lambda: 2)
    begun = time.perf_counter()
    choice = choose(lambda: [SLOW, QUICK], make, bundle, key(bundle))
    assert time.perf_counter() - begun < 0.9
    assert [t.spec for t in choice.timings] == [str(SLOW)]
    assert f"left to the next start: {QUICK}" in caplog.text
    assert recall(key(bundle)) is None
    until = time.perf_counter() + 10
    while not (late and late[0].closed) and time.perf_counter() < until:
        time.sleep(0.01)
    assert late[0].closed


def test_one_that_fails_is_left_out(bundle: Bundle, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")

    def make(spec: Spec, _: int | None) -> Backend:
        if spec == QUICK:
            raise BackendError("no driver")
        return Sleeping()

    choice = choose(lambda: [QUICK, SLOW], make, bundle, key(bundle))
    assert [t.spec for t in choice.timings] == [str(SLOW)]
    assert f"backend {QUICK} is not used: no driver" in caplog.text

    def never(spec: Spec, _: int | None) -> Backend:
        raise BackendError(f"nothing on {spec}")

    with pytest.raises(BackendError, match=f"nothing on {QUICK}"):
        choose(lambda: [QUICK, SLOW], never, bundle, key(bundle, work="live"))


def test_a_device_that_gives_other_mattes_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    for wrong in (0.7, float("nan")):
        made: dict[Spec, Backend] = {
            BAD: Sleeping(alpha=wrong),
            SLOW: Sleeping(),
            QUICK: Sleeping(),
        }
        assert {spec for spec, _ in times(made)} == {SLOW, QUICK}
        assert f"{BAD} is not used: its mattes are wrong" in caplog.text


def test_of_a_tie_the_most_accurate_is_taken() -> None:
    assert [spec for spec, _ in ranked({QUICK: 10.0, BAD: 10.1, SLOW: 10.2})] == [SLOW, BAD, QUICK]
    assert [spec for spec, _ in ranked({QUICK: 10.0, SLOW: 11.0})] == [QUICK, SLOW]


@pytest.mark.parametrize("field", ["processor", "runtimes", "model", "work", "wish"])
def test_nothing_is_taken_from_another_machine_or_model(bundle: Bundle, field: str) -> None:
    timings = (Timing(spec=str(SLOW), threads=1, ms=1.0),)
    tuning.keep(key(bundle), Tuning(timings=timings, thorough=False))
    assert recall(key(bundle)) == Tuning(timings=timings, thorough=False)
    assert recall(key(bundle, **{field: "another"})) is None
