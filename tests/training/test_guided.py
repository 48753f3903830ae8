"""The guided filter as an operator of PyTorch: values, gradients, export."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from fusematte.cpp_ext import reference
from fusematte.training.guided import guided_filter


def pair(
    channels: int, height: int = 9, width: int = 12, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    guide = torch.rand(2, channels, height, width, generator=generator, dtype=dtype)
    return guide, torch.rand(2, 1, height, width, generator=generator, dtype=dtype)


def expected(guide: Tensor, alpha: Tensor, radius: int, epsilon: float) -> Tensor:
    results = []
    for image, target in zip(guide.numpy(), alpha.numpy(), strict=True):
        slope, offset = reference.guided_coefficients(image, target[0], radius, epsilon)
        results.append((slope * image).sum(0, keepdims=True) + offset)
    return torch.from_numpy(np.stack(results))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("size", "radius"), [((9, 12), 2), ((9, 12), 9), ((1, 7), 1)])
def test_it_is_the_reference(
    channels: int, dtype: torch.dtype, size: tuple[int, int], radius: int
) -> None:
    guide, alpha = pair(channels, *size, dtype=dtype)
    result = torch.ops.fusematte.guided_filter(guide, alpha, radius, 1e-3)
    assert (result.dtype, result.shape) == (dtype, alpha.shape)
    torch.testing.assert_close(
        result.double(), expected(guide, alpha, radius, 1e-3), atol=1e-5, rtol=1e-5
    )


def test_strided_inputs() -> None:
    guide, alpha = pair(3)
    turned = guide.transpose(2, 3), alpha.transpose(2, 3)
    straight = [tensor.contiguous() for tensor in turned]
    torch.testing.assert_close(guided_filter(*turned, 2, 1e-3), guided_filter(*straight, 2, 1e-3))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("radius", [1, 3, 5])
def test_gradients(channels: int, radius: int) -> None:
    guide, alpha = (t.requires_grad_() for t in pair(channels, 5, 6, torch.float64))
    assert torch.autograd.gradcheck(
        lambda g, a: guided_filter(g, a, radius, 1e-2), (guide, alpha), fast_mode=True
    )


def test_gradients_of_the_native_kernel_are_those_of_float64() -> None:
    single = [t.requires_grad_() for t in pair(3)]
    double = [t.detach().double().requires_grad_() for t in single]
    for guide, alpha in (single, double):
        guided_filter(guide, alpha, 2, 1e-2).square().sum().backward()
    for a, b in zip(single, double, strict=True):
        assert a.grad is not None and b.grad is not None
        torch.testing.assert_close(a.grad.double(), b.grad, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("channels", [1, 3])
def test_pytorch_finds_nothing_wrong_with_the_operator(channels: int) -> None:
    arguments = *(t.requires_grad_() for t in pair(channels)), 2, 1e-2
    torch.library.opcheck(torch.ops.fusematte.guided_filter.default, arguments)


def test_export_keeps_it_as_one_node() -> None:
    class Refine(torch.nn.Module):
        def forward(self, guide: Tensor, alpha: Tensor) -> Tensor:
            return guided_filter(guide, alpha, 2, 1e-3).clamp(0, 1)

    guide, alpha = pair(3)
    program = torch.export.export(Refine(), (guide, alpha))
    assert "fusematte.guided_filter" in str(program.graph)
    torch.testing.assert_close(program.module()(guide, alpha), Refine()(guide, alpha))


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("guide", {"guide": torch.rand(2, 2, 9, 12)}),
        ("guide", {"guide": torch.rand(3, 9, 12)}),
        ("guide", {"guide": torch.rand(2, 3, 9, 12).half()}),
        ("alpha", {"alpha": torch.rand(2, 1, 9, 11)}),
        ("alpha", {"alpha": torch.rand(2, 1, 9, 12).double()}),
        ("alpha", {"alpha": torch.full((2, 1, 9, 12), torch.nan)}),
        ("radius", {"radius": 0}),
        ("radius", {"radius": 10}),
        ("epsilon", {"epsilon": 0.0}),
    ],
)
def test_the_exception_names_the_argument(name: str, changed: dict[str, object]) -> None:
    guide, alpha = pair(3)
    arguments = {"guide": guide, "alpha": alpha, "radius": 2, "epsilon": 1e-3} | changed
    with pytest.raises(ValueError, match=rf"^{name}: "):
        guided_filter(**arguments)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("channels", [1, 3])
def test_on_the_gpu(channels: int) -> None:
    guide, alpha = pair(channels)
    result = guided_filter(guide.cuda(), alpha.cuda(), 2, 1e-3)
    torch.testing.assert_close(
        result.cpu().double(), expected(guide, alpha, 2, 1e-3), atol=1e-5, rtol=1e-5
    )
