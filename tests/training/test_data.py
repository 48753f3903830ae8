"""The stream of samples, and how it is dealt out."""

from __future__ import annotations

import functools
import itertools
from dataclasses import replace

import numpy as np
import pytest
from tests.training.material import Picture, sample

torch = pytest.importorskip("torch")

from fusematte.training.config import Phase, StreamConfig  # noqa: E402
from fusematte.training.data import Batches, SampleStream  # noqa: E402
from fusematte.training.samples import CutOut, Portrait, make_portrait  # noqa: E402

SMALL = Phase((32,), 1, steps=1)


@functools.cache
def portraits() -> list[Portrait]:
    return [make_portrait(*sample(seed), 64) for seed in range(4)]


def backgrounds() -> list[Picture]:
    return [np.full((50, 60, 3), value, np.uint8) for value in (40, 90)]


def stream(*, seed: int = 0, config: StreamConfig | None = None) -> SampleStream:
    return SampleStream(portraits(), backgrounds(), SMALL, seed=seed, config=config)


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(a[key], b[key]) for key in ("image", "alpha", "previous"))


def test_samples_are_bytes_of_one_size() -> None:
    for item in (stream()[index] for index in range(6)):
        assert {key: tuple(value.shape) for key, value in item.items() if value.ndim} == {
            "image": (3, 32, 32),
            "alpha": (1, 32, 32),
            "previous": (1, 32, 32),
        }
        assert {value.dtype for value in item.values() if value.ndim} == {torch.uint8}


def test_a_sample_depends_on_its_number_and_the_seed() -> None:
    ours = stream()
    for number in (11, 3, 7):  # in any order, from any stream that has it
        assert same(ours[number], stream()[number])
    assert not same(ours[3], ours[4])
    assert not same(ours[3], stream(seed=1)[3])


def test_each_epoch_shows_every_portrait_once() -> None:
    samples = stream()
    for epoch in range(3):
        names = [samples.name_of(4 * epoch + index) for index in range(4)]
        assert sorted(names) == ["p000", "p001", "p002", "p003"]


def test_negatives_have_nobody_in_them() -> None:
    samples = stream(config=StreamConfig(negative=1, previous_foreign=0))
    for item in (samples[index] for index in range(20)):
        assert item["alpha"].max() == 0
        assert item["previous"].max() == 0
        assert item["image"].float().std() < 30  # a flat background, whatever was done to it


def test_things_lie_in_rooms_and_are_nobody() -> None:
    thing = CutOut(np.full((20, 30, 3), 255, np.uint8), np.full((20, 30), 255, np.uint8))
    config = StreamConfig(negative=1, previous_foreign=0, objects=1, photometric=False)
    samples = SampleStream(portraits(), backgrounds(), SMALL, config=config, objects=[thing])
    items = [samples[index] for index in range(20)]
    assert all(item["alpha"].max() == 0 for item in items)
    assert sum(bool((item["image"] == 255).any()) for item in items) > 15
    room = replace(config, objects=0.0)
    without = SampleStream(portraits(), backgrounds(), SMALL, config=room, objects=[thing])
    assert all(without[index]["image"].max() < 255 for index in range(20))


def test_a_foreign_previous_alpha_may_come_with_a_negative() -> None:
    samples = stream(config=StreamConfig(negative=1, previous_foreign=1))
    assert all(samples[index]["alpha"].max() == 0 for index in range(20))
    assert any(samples[index]["previous"].max() > 0 for index in range(20))


def test_people_are_in_the_others_and_may_be_dropped_from_the_previous() -> None:
    config = StreamConfig(negative=0, previous_foreign=0, previous_dropped=1)
    samples = stream(config=config)
    assert all(samples[index]["alpha"].max() > 128 for index in range(20))
    assert all(samples[index]["previous"].max() == 0 for index in range(20))


def test_the_previous_alpha_resembles_the_alpha() -> None:
    config = StreamConfig(negative=0, previous_foreign=0, previous_dropped=0)
    made = stream(config=config)
    samples = [made[index] for index in range(40)]
    alike = [
        (item["alpha"].float() - item["previous"].float()).abs().mean().item() for item in samples
    ]
    strangers = [
        (a["alpha"].float() - b["previous"].float()).abs().mean().item()
        for a, b in itertools.pairwise(samples)
    ]
    assert 0 < np.mean(alike) < 0.6 * np.mean(strangers)


def test_real_motion_moves_with_its_picture() -> None:
    name, files = sample(0)
    real = make_portrait(name, files | {"prev.png": files["alpha.png"]}, 64)
    config = StreamConfig(negative=0, previous_foreign=0, previous_dropped=0)
    samples = SampleStream([real], backgrounds(), SMALL, config=config)
    for item in (samples[index] for index in range(8)):
        assert torch.equal(item["alpha"], item["previous"])


def test_sizes_take_turns_step_by_step() -> None:
    phase = Phase((32, 64), 2, steps=1)
    samples = SampleStream(portraits(), backgrounds(), phase, first=10, step_samples=4)
    assert [samples.size_of(number) for number in range(10, 26, 2)] == [32, 32, 64, 64] * 2
    assert samples[14]["image"].shape == (3, 64, 64)


def test_people_cut_out_are_always_composed() -> None:
    cut_out = [replace(portraits()[0], image=None)]
    config = StreamConfig(negative=0, composited=0, photometric=False)
    samples = SampleStream(cut_out, backgrounds(), SMALL, config=config)
    for item in (samples[index] for index in range(5)):
        empty = item["alpha"][0] == 0
        assert empty.any()
        assert set(item["image"][0][empty].tolist()) <= {40, 90}  # the rooms, untouched


def test_processes_and_accumulation_share_the_stream_out() -> None:
    def numbers(rank: int, processes: int, accumulate: int) -> list[list[int]]:
        return list(Batches(100, 2, batch=3, accumulate=accumulate, rank=rank, processes=processes))

    alone = numbers(0, 1, 4)
    assert len(Batches(100, 2, batch=3, accumulate=4, rank=0, processes=1)) == len(alone) == 8
    assert list(itertools.chain(*alone)) == list(range(100, 124))
    together = [
        batch for pair in zip(numbers(0, 2, 2), numbers(1, 2, 2), strict=True) for batch in pair
    ]
    assert together == alone
