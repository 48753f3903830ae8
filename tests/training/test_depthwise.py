"""The quick depthwise convolution against the ordinary one."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fusematte.training.depthwise import DepthwiseConv2d


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [3, 5])
@pytest.mark.parametrize("shape", [(13, 9), (8, 8), (1, 2)])
def test_gradients_are_those_of_an_ordinary_convolution(
    size: int, stride: int, shape: tuple[int, int]
) -> None:
    torch.manual_seed(0)
    ours = DepthwiseConv2d(12, size, stride)
    ordinary = nn.Conv2d(12, 12, size, stride, size // 2, groups=12, bias=False)
    ordinary.load_state_dict(ours.state_dict())
    image = torch.randn(2, 12, *shape)
    seen = []
    for layer, dtype in ((ours, torch.bfloat16), (ordinary, torch.float32)):
        x = image.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            y = layer(x)
        assert y.dtype == dtype
        y.float().square().sum().backward()  # type: ignore[no-untyped-call]
        seen.append((y, x.grad, layer.weight.grad))
    for mine, theirs in zip(*seen, strict=True):
        assert mine is not None and theirs is not None
        scale = theirs.abs().max().item()
        assert torch.allclose(mine.float(), theirs, rtol=0, atol=0.02 * scale)


def test_it_is_an_ordinary_convolution_but_in_training_in_bf16() -> None:
    layer, x = DepthwiseConv2d(4, 3, 2), torch.randn(1, 4, 7, 7)
    with torch.autocast("cpu", torch.bfloat16):
        trained, evaluated = layer(x), layer.eval()(x)
    assert trained.equal(evaluated)
    assert layer.train()(x).dtype == torch.float32
