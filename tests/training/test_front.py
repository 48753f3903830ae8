"""The front of the edge encoder learns to answer as the blocks that it replaces."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from torch import Tensor  # noqa: E402

from fusematte.training.front import LiteFront, teach  # noqa: E402
from fusematte.training.network import EfficientNetLiteEncoder  # noqa: E402


def pictures(count: int) -> list[Tensor]:
    """Batches of smooth noise: neighbours go together, as in a picture."""
    torch.manual_seed(1)
    coarse = torch.rand(count, 4, 3, 8, 8)
    return [torch.nn.functional.interpolate(c, size=(64, 64), mode="bilinear") for c in coarse]


def test_the_front_learns_what_it_replaces() -> None:
    torch.manual_seed(0)
    teacher, encoder = LiteFront(), EfficientNetLiteEncoder()
    before = {name: value.clone() for name, value in encoder.blocks.state_dict().items()}
    missed = teach(encoder, teacher, pictures(60), 60)
    assert missed < 0.5
    seen = pictures(1)[0]
    with torch.no_grad():
        wanted, answer = teacher(seen), encoder.eval().front(seen)
    assert answer.shape == wanted.shape == (4, 24, 16, 16)
    assert (answer - wanted).var() < 0.5 * wanted.var()  # its batch norms' statistics are right too
    for name, value in encoder.blocks.state_dict().items():
        assert torch.equal(value, before[name])
