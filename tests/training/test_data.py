"""The stream of samples, and how it is dealt out."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from tests.training.material import Picture, encode, sample

torch = pytest.importorskip("torch")

from fusematte.training.composer import Composer  # noqa: E402
from fusematte.training.config import Phase, SceneConfig, StreamConfig  # noqa: E402
from fusematte.training.data import Batches, SampleStream  # noqa: E402
from fusematte.training.samples import Portrait, make_portrait  # noqa: E402
from fusematte.training.scenes import CutOut  # noqa: E402

SMALL = Phase((32,), 1, steps=1)


@functools.cache
def portraits() -> list[Portrait]:
    return [make_portrait(*sample(seed), 64) for seed in range(4)]


def backgrounds() -> list[Picture]:
    return [np.full((50, 60, 3), value, np.uint8) for value in (40, 90)]


def stream(
    *,
    seed: int = 0,
    config: StreamConfig | None = None,
    people: list[Portrait] | None = None,
    things: Sequence[CutOut] = (),
    phase: Phase = SMALL,
    **options: int,
) -> SampleStream:
    config = config or StreamConfig()
    shown = people or portraits()
    composer = Composer(
        backgrounds(), [[one.cutout for one in shown]], things, config=config.scene,
        photometric=config.photometric,
    )  # fmt: skip
    return SampleStream(shown, composer, phase, seed=seed, config=config, **options)


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(a[key], b[key]) for key in ("image", "alpha", "previous"))


def test_samples_are_bytes_of_one_size() -> None:
    for item in (stream()[index] for index in range(6)):
        assert {key: tuple(value.shape) for key, value in item.items() if value.ndim} == {
            "image": (3, 32, 32),
            "alpha": (1, 32, 32),
            "exact": (1, 32, 32),
            "previous": (1, 32, 32),
        }
        kinds = {key: value.dtype for key, value in item.items() if value.ndim}
        assert set(kinds.values()) == {torch.uint8}


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


def test_portraits_come_as_often_as_their_source_is_said_to() -> None:
    first, *others = (replace(one, source="rest") for one in portraits())
    config = StreamConfig(repeats={"groups": 3, "nowhere": 2})
    samples = stream(config=config, people=[replace(first, source="groups"), *others])
    names = [samples.name_of(index) for index in range(6)]
    assert sorted(names) == ["p000", "p000", "p000", "p001", "p002", "p003"]


def test_negatives_have_nobody_in_them() -> None:
    scene = SceneConfig(plain=0, posters=0)
    config = StreamConfig(negative=1, previous_foreign=0, previous_dropped=1, scene=scene)
    samples = stream(config=config)
    for item in (samples[index] for index in range(20)):
        assert item["alpha"].max() == 0
        assert item["previous"].max() == 0
        assert item["image"].float().std() < 30  # a flat background, whatever was done to it


def test_things_lie_in_rooms_and_are_nobody() -> None:
    thing = CutOut(np.full((20, 30, 3), 255, np.uint8), np.full((20, 30), 255, np.uint8))
    scene = SceneConfig(things=1, shadow=0)
    config = StreamConfig(negative=1, previous_foreign=0, photometric=False, scene=scene)
    samples = stream(config=config, things=[thing])
    items = [samples[index] for index in range(20)]
    assert all(item["alpha"].max() == 0 for item in items)
    assert sum(bool((item["image"] == 255).any()) for item in items) > 15
    room = replace(config, scene=replace(scene, things=0.0))
    without = stream(config=room, things=[thing])
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


def test_a_real_previous_alpha_is_taken_where_there_is_one() -> None:
    name, files = sample(0)
    nobody = encode(np.zeros_like(portraits()[0].alpha))
    real = make_portrait(name, files | {"prev.png": nobody}, 64)
    config = StreamConfig(negative=0, previous_foreign=0, previous_dropped=0)
    with_it, without = (stream(config=config, people=[one]) for one in (real, portraits()[0]))
    means = [
        np.mean([samples[index]["previous"].float().mean().item() for index in range(20)])
        for samples in (with_it, without)
    ]
    assert means[0] < 0.4 * means[1]  # what is left is what spoiling adds


def test_guesses_are_marked_and_true_alphas_are_not() -> None:
    config = StreamConfig(negative=0, composited=0, photometric=False)
    guessed = [replace(portraits()[0], exact=False)]
    for people, sure in ((guessed, False), ([replace(portraits()[0], exact=True)], True)):
        samples = stream(config=config, people=people)
        for item in (samples[index] for index in range(10)):
            soft = (item["alpha"] > 0) & (item["alpha"] < 255)
            assert soft.any()
            assert set(item["exact"][soft].tolist()) == {255 if sure else 0}
            assert item["exact"].max() == 255


def test_steps_of_sequences_bring_the_frames_before() -> None:
    config = StreamConfig(scenes=1, sequences=0.5, earlier=3, photometric=False)
    samples = stream(config=config, step_samples=2)
    for step in range(6):
        item = samples[2 * step]
        if step % 2 == 0:
            assert "earlier" not in item
            continue
        frames = [*item["earlier"], item["image"]]
        assert [tuple(frame.shape) for frame in frames] == [(3, 32, 32)] * 4
    assert all(torch.equal(samples[3][key], samples[3][key]) for key in ("earlier", "image"))


def test_composed_scenes_are_samples_too() -> None:
    config = StreamConfig(scenes=1, scene=SceneConfig(people=(0.0, 0.0, 1.0)))
    samples = stream(config=config)
    alphas = [samples[index]["alpha"] for index in range(12)]
    assert all(alpha.max() > 200 for alpha in alphas)


def test_crops_may_be_wide() -> None:
    item = stream(phase=Phase((32,), 1, wide=1.9, steps=1))[0]
    assert item["image"].shape == (3, 32, 64)


def test_sizes_take_turns_step_by_step() -> None:
    phase = Phase((32, 64), 2, steps=1)
    samples = stream(phase=phase, first=10, step_samples=4)
    sizes = [samples[number]["image"].shape[-1] for number in range(10, 26, 2)]
    assert sizes == [32, 32, 64, 64] * 2
    assert samples[14]["image"].shape == (3, 64, 64)


def test_people_cut_out_are_always_composed() -> None:
    cut_out = [replace(portraits()[0], image=None)]
    scene = SceneConfig(posters=0)
    config = StreamConfig(negative=0, composited=0, photometric=False, scene=scene)
    samples = stream(config=config, people=cut_out)
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
