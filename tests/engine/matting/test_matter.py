"""The Matter: what goes into the network, what comes out, and what is remembered."""

from __future__ import annotations

import math
import tarfile
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tests.engine.matting.mattes import turned

from fusematte.cpp_ext import resize_to_tensor
from fusematte.engine.errors import BackendError, ModelError, UsageError
from fusematte.engine.frame import PIXEL_FORMATS, Color, Frame, Map, Matte
from fusematte.engine.matting.from_afar import confirmed
from fusematte.engine.matting.matter import Matter, network_input, network_size, small_color
from fusematte.engine.matting.refine import refine
from fusematte.engine.pixels.color import frame_from_rgb

AREA = 288 * 512


def person(height: int = 144, width: int = 256) -> NDArray[np.uint8]:
    """A crude head and shoulders before a striped wall, [height, width, 3]."""
    y, x = np.mgrid[:height, :width] / height
    x -= width / height / 2
    stripes = 128 + 60 * np.sign(np.sin(40 * x + 9 * y))
    picture = np.stack([stripes, stripes, 255 - stripes], 2)
    picture[(x / 0.45) ** 2 + ((y - 1.05) / 0.4) ** 2 < 1] = (40, 60, 120)
    picture[(x / 0.17) ** 2 + ((y - 0.42) / 0.24) ** 2 < 1] = (224, 172, 145)
    return picture.astype(np.uint8)


def difference(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    return float(np.abs(a - b).max())


moderate = st.integers(64, 4000)


@settings(max_examples=200, deadline=None)
@given(height=moderate, width=moderate, multiple=st.sampled_from([16, 32, 64]))
def test_network_size_has_about_the_area_and_the_shape(
    height: int, width: int, multiple: int
) -> None:
    h, w = network_size(height, width, area=AREA, multiple=multiple)
    assert h % multiple == w % multiple == 0
    if 1 / 3 < width / height < 3:
        # The sides are at least 221 pixels: rounding one to a step moves it by less than a fourth
        # even at steps of 64 (32 / 221 up or down on either side).
        assert abs(math.log(w * h / AREA)) < math.log(1.34)
        assert abs(math.log(w / h / (width / height))) < math.log(1.34)


@settings(max_examples=100, deadline=None)
@given(height=moderate, width=moderate)
def test_network_size_turns_with_the_frame(height: int, width: int) -> None:
    h, w = network_size(height, width, area=AREA, multiple=32)
    assert network_size(width, height, area=AREA, multiple=32) == (w, h)


@settings(max_examples=100, deadline=None)
@given(height=moderate, width=moderate, factor=st.integers(1, 5))
def test_network_size_depends_on_the_shape_alone(height: int, width: int, factor: int) -> None:
    size = network_size(height, width, area=AREA, multiple=32)
    assert network_size(height * factor, width * factor, area=AREA, multiple=32) == size
    # A frame stored at a fraction of its width, with pixels that many times as wide.
    assert size == network_size(
        height * factor, width, area=AREA, multiple=32, aspect=float(factor)
    )


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [
        (1080, 1920, (288, 512)),  # 16:9: exactly the default
        (1920, 1080, (512, 288)),
        (500, 500, (384, 384)),  # sqrt(147456) = 384
        (1, 1, (384, 384)),
    ],
)
def test_network_size_of_common_shapes(height: int, width: int, expected: tuple[int, int]) -> None:
    assert network_size(height, width, area=AREA, multiple=32) == expected


@pytest.mark.parametrize("shape", [(10, 4000), (4000, 10)])
def test_network_size_of_a_ribbon_is_bounded(shape: tuple[int, int]) -> None:
    height, width = network_size(*shape, area=AREA, multiple=32)
    assert min(height, width) == 32
    assert height * width < 2 * AREA
    assert (height > width) == (shape[0] > shape[1])


def test_matte_has_the_networks_size_and_the_frames_time(matter: Matter) -> None:
    frame = replace(frame_from_rgb(person()), pts=1001, time_base=Fraction(1, 30000))
    matte = matter(frame)
    assert matter.size_for(frame) == matte.alpha.shape == (288, 512)
    for part in (matte.alpha, matte.foreground, matte.background, matte.color[0]):
        assert (part.shape, part.dtype) == ((288, 512), np.float32)
        assert part.min() >= 0
        assert part.max() <= 1
    assert matte.color.shape == (3, 288, 512)
    assert (matte.pts, matte.time_base) == (1001, Fraction(1, 30000))
    assert 0 <= matte.confidence <= 1


def test_confidence_is_one_where_the_decoders_agree(matter: Matter) -> None:
    matte = matter(frame_from_rgb(person()))
    agreeing = replace(matte, background=1 - matte.foreground)
    assert agreeing.confidence == pytest.approx(1, abs=1e-6)
    ones = np.ones_like(matte.alpha)
    assert replace(matte, foreground=ones, background=ones).confidence == pytest.approx(0)


def test_remembers_the_last_frame_until_reset(matter: Matter) -> None:
    frame = frame_from_rgb(person())
    first, second = matter(frame), matter(frame)
    assert difference(first.alpha, second.alpha) > 1e-3  # the second saw the first's alpha
    matter.reset()
    again = matter(frame)
    np.testing.assert_array_equal(again.alpha, first.alpha)


def test_a_first_frame_is_seen_with_its_own_first_matte(matter: Matter) -> None:
    frame = frame_from_rgb(person())
    got = matter(frame).alpha
    rgb, _ = resize_to_tensor(frame.planes, *got.shape, matrix=frame.matrix, levels=frame.levels)
    image = network_input(frame, small_color(frame, *got.shape))
    np.testing.assert_allclose(image[0], rgb, atol=1e-6)

    def look(picture: Map) -> Map:
        return matter.backend.infer(picture, np.zeros((1, 1, *got.shape), np.float32)).alpha

    first = confirmed(look(image), image, look)
    expected = matter.backend.infer(image, first[None, None]).alpha
    np.testing.assert_array_equal(got, expected)


def test_what_the_caller_does_to_a_matte_is_not_remembered(matter: Matter) -> None:
    frame = frame_from_rgb(person())
    matter(frame)
    expected = matter(frame)
    matter.reset()
    matter(frame).alpha[:] = 0
    np.testing.assert_array_equal(matter(frame).alpha, expected.alpha)


def test_forgets_when_the_size_changes(matter: Matter) -> None:
    wide, tall = frame_from_rgb(person()), frame_from_rgb(person(256, 144))
    fresh = matter(tall)
    matter.reset()
    matter(wide)
    np.testing.assert_array_equal(matter(tall).alpha, fresh.alpha)


@pytest.mark.parametrize("rotation", [90, 180, 270])
def test_rotated_frame_gives_the_upright_matte_turned(matter: Matter, rotation: int) -> None:
    frame = frame_from_rgb(person())
    upright = [matter(frame), matter(frame)]
    matter.reset()
    stored = turned(frame, rotation)
    for expected in upright:  # the second with the first remembered
        got = matter(stored)
        for name in ("alpha", "foreground", "background"):
            part = np.rot90(getattr(got, name), -rotation // 90)
            # Summed in another order, a bf16 product may round the other way now and then.
            assert difference(part, getattr(expected, name)) < 0.06, name
            assert np.abs(part - getattr(expected, name)).mean() < 2e-3
    assert got.alpha.flags.c_contiguous


def test_anamorphic_frame_is_seen_as_displayed(matter: Matter) -> None:
    frame = frame_from_rgb(np.ascontiguousarray(person()[:, ::2]))
    stored = replace(frame, aspect=Fraction(2))
    assert matter.size_for(stored) == (288, 512)
    # Stored sideways, each pixel is twice as high as wide; on display it is the same picture.
    sideways = replace(turned(stored, 90), aspect=Fraction(1, 2))
    assert matter.size_for(sideways) == (288, 512)


@pytest.mark.parametrize("name", PIXEL_FORMATS)
@pytest.mark.parametrize("size", [(1, 1), (17, 33)])
def test_tiny_and_odd_frames_of_every_layout(
    matter: Matter, name: str, size: tuple[int, int]
) -> None:
    layout = PIXEL_FORMATS[name]
    rng = np.random.default_rng(0)
    shapes = layout.shapes(*size)
    y, u, v = (rng.integers(0, 1 << layout.bits, shape, layout.dtype) for shape in shapes)
    matte = matter(Frame(planes=(y, u, v), format=layout, color=Color(full_range=True)))
    assert matte.alpha.shape == network_size(*size, area=AREA, multiple=32)
    assert np.isfinite(matte.alpha).all()


def test_finds_a_real_person(matter: Matter) -> None:
    data = pytest.importorskip("skimage.data")
    portrait: Matte = matter(frame_from_rgb(data.astronaut()))  # 512 x 512
    height, width = portrait.alpha.shape

    face = portrait.alpha[height * 80 // 512 : height * 150 // 512, width * 200 // 512 : width // 2]
    assert face.mean() > 0.9
    assert portrait.alpha.min() < 0.1


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"threads": 0}, UsageError),
        ({"quality": "best"}, UsageError),
        ({"model": "no-such-model"}, ModelError),
        ({"backend": "no-such-backend"}, BackendError),
    ],
)
def test_refuses_what_cannot_be(options: dict[str, str | int], error: type[Exception]) -> None:
    with pytest.raises(error):
        Matter(**options)  # type: ignore[arg-type]


def samples(archive: str, count: int) -> list[dict[str, NDArray[np.uint8]]]:
    """The first pictures of a shard of the data set beside the checkout, by suffix."""
    path = Path(__file__).parents[4] / "shared" / "data" / archive
    if not path.is_file():
        pytest.skip("no data set here")
    found: dict[str, dict[str, NDArray[np.uint8]]] = {}
    with tarfile.open(path) as tar:
        for member in tar:
            name, _, suffix = member.name.partition(".")
            if name not in found and len(found) == count:
                break
            stream = tar.extractfile(member)
            if stream is None or suffix == "json":
                continue
            data = np.frombuffer(stream.read(), np.uint8)
            flags = cv2.IMREAD_COLOR_RGB if suffix == "webp" else cv2.IMREAD_GRAYSCALE
            decoded = np.asarray(cv2.imdecode(data, flags), np.uint8)
            found.setdefault(name, {})[suffix] = decoded
    return list(found.values())


def alpha_of(matter: Matter, picture: NDArray[np.uint8]) -> NDArray[np.float32]:
    matter.reset()
    frame = frame_from_rgb(picture)
    return refine(frame, matter(frame)) / 255


def test_tells_people_from_empty_rooms(matter: Matter) -> None:
    # How good the weights are is for the evaluation to say; this is whether they are used rightly.
    overlaps = []
    for sample in samples("val-00.tar", 5):
        alpha = alpha_of(matter, sample["webp"])
        found, mask = alpha > 0.5, sample["mask.png"] > 127
        overlaps.append((found & mask).sum() / (found | mask).sum())
    assert np.median(overlaps) > 0.9
    rooms = [alpha_of(matter, s["webp"]).mean() for s in samples("backgrounds-00.tar", 5)]
    assert np.median(rooms) < 0.01


def test_high_quality_sees_twice_the_area(shared_matter: Matter) -> None:
    frame = frame_from_rgb(person(720, 1280))
    with Matter(quality="high") as matter:
        height, width = matter.size_for(frame)
    rows, columns = shared_matter.size_for(frame)
    # Sizes are rounded to steps of 32 of about 500: by at most 3 % on each side.
    assert height * width / (rows * columns) == pytest.approx(2, rel=0.12)
