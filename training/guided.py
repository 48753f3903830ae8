"""The guided filter as a PyTorch operator, ``torch.ops.fusematte.guided_filter``.

He, Sun, Tang, "Guided Image Filtering", TPAMI 2013, with the window clipped at the border and a
cost that does not depend on the radius.  float32 on the CPU runs the native kernel; everything
else, and every gradient, is built from running sums in float64.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fusematte import cpp_ext


@torch.library.custom_op("fusematte::guided_filter", mutates_args=())
def guided_filter(guide: Tensor, alpha: Tensor, radius: int, epsilon: float) -> Tensor:
    """Alpha refined along the guide's edges; not clipped.

    Differentiable once in ``guide`` and ``alpha``; known to torch.export and torch.compile.

    Shape:
        guide: [N, 1 or 3, H, W], float32 or float64, usually 0..1.
        alpha: [N, 1, H, W], of the guide's type and device.
        output: [N, 1, H, W].

    Args:
        radius: of the (2 radius + 1)^2 window, 1 to the shorter side.
        epsilon: how much variance of the guide counts as flat, above 0.

    Raises:
        ValueError: an argument that cannot be, by its name.
    """
    _check(guide, alpha, radius, epsilon)
    if guide.is_cpu and guide.dtype == torch.float32 and alpha.numel():
        return _filter_natively(guide, alpha, radius, epsilon)
    image, target = guide.double(), alpha.double()
    slope, offset = _coefficients(image, target, radius, epsilon)[:2]
    mean_slope, mean_offset = _mean(slope, radius), _mean(offset, radius)
    return ((mean_slope * image).sum(1, keepdim=True) + mean_offset).to(alpha.dtype)


def _check(guide: Tensor, alpha: Tensor, radius: int, epsilon: float) -> None:
    if guide.ndim != 4 or guide.shape[1] not in (1, 3):
        raise ValueError(f"guide: shape {tuple(guide.shape)} is not [N, 1 or 3, H, W]")
    if guide.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"guide: {guide.dtype} is neither float32 nor float64")
    if alpha.shape != (guide.shape[0], 1, *guide.shape[2:]):
        raise ValueError(f"alpha: shape {tuple(alpha.shape)} does not match {tuple(guide.shape)}")
    if (alpha.dtype, alpha.device) != (guide.dtype, guide.device):
        raise ValueError(f"alpha: {alpha.dtype} on {alpha.device} is not the guide's")
    if not 1 <= radius <= min(guide.shape[2:]):
        raise ValueError(f"radius: {radius} is not in 1..{min(guide.shape[2:])}")
    if not 0 < epsilon < float("inf"):
        raise ValueError(f"epsilon: {epsilon} is not a number above 0")


def _filter_natively(guide: Tensor, alpha: Tensor, radius: int, epsilon: float) -> Tensor:
    result = torch.empty(alpha.shape, dtype=alpha.dtype)
    threads = min(torch.get_num_threads(), cpp_ext.MAX_THREADS)
    for image, target, out in zip(guide, alpha, result, strict=True):
        colors = image.contiguous().numpy()
        picture = cpp_ext.guided_filter(
            colors if len(colors) == 3 else colors[0],
            target[0].contiguous().numpy(),
            radius,
            epsilon,
            threads=threads,
        )
        out[0] = torch.from_numpy(picture)
    return result


@guided_filter.register_fake
def _shape_of_result(guide: Tensor, alpha: Tensor, radius: int, epsilon: float) -> Tensor:  # noqa: ARG001
    return torch.empty_like(alpha, memory_format=torch.contiguous_format)


@torch.library.custom_op("fusematte::guided_filter_backward", mutates_args=())
def guided_filter_backward(
    gradient: Tensor, guide: Tensor, alpha: Tensor, radius: int, epsilon: float
) -> tuple[Tensor, Tensor]:
    """The gradients for guide and alpha; the forward pass, backwards, line by line."""
    image, target, g = guide.double(), alpha.double(), gradient.double()
    slope, _, mean, mean_target, inverse = _coefficients(image, target, radius, epsilon)
    # output = sum(mean(slope) * guide) + mean(offset)
    by_slope, by_offset = _spread(g * image, radius), _spread(g, radius)
    # offset = mean_target - sum(slope * mean)
    by_slope = by_slope - by_offset * mean
    by_mean, by_mean_target = -by_offset * slope, by_offset
    # slope = inverse(covariance of the guide + epsilon) @ covariance with alpha
    by_cross = _apply(inverse, by_slope)
    by_second = -by_cross[:, :, None] * slope[:, None]
    by_second = by_second + by_second.transpose(1, 2)
    # covariances are means of products less products of means
    by_mean = by_mean - by_cross * mean_target - _apply(by_second, mean)
    by_mean_target = by_mean_target - (by_cross * mean).sum(1, keepdim=True)
    by_product = _spread(by_cross, radius)
    by_square = _spread(by_second.flatten(1, 2), radius).view_as(by_second)
    by_guide = g * _mean(slope, radius) + by_product * target + _apply(by_square, image)
    by_guide = by_guide + _spread(by_mean, radius)
    by_alpha = (by_product * image).sum(1, keepdim=True) + _spread(by_mean_target, radius)
    return by_guide.to(guide.dtype), by_alpha.to(alpha.dtype)


@guided_filter_backward.register_fake
def _shapes_of_gradients(
    gradient: Tensor,  # noqa: ARG001
    guide: Tensor,
    alpha: Tensor,
    radius: int,  # noqa: ARG001
    epsilon: float,  # noqa: ARG001
) -> tuple[Tensor, Tensor]:
    like = torch.contiguous_format
    return torch.empty_like(guide, memory_format=like), torch.empty_like(alpha, memory_format=like)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ANN401, ARG001
    guide, alpha, ctx.radius, ctx.epsilon = inputs
    ctx.save_for_backward(guide, alpha)


def _backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:  # noqa: ANN401
    guide, alpha = ctx.saved_tensors
    by_guide, by_alpha = guided_filter_backward(gradient, guide, alpha, ctx.radius, ctx.epsilon)
    return by_guide, by_alpha, None, None


guided_filter.register_autograd(_backward, setup_context=_keep)


def _coefficients(
    image: Tensor, target: Tensor, radius: int, epsilon: float
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Slope [N, C, H, W] and offset [N, 1, H, W] of each window, the means of guide and alpha, and
    the inverse [N, C, C, H, W] of the guide's regularised covariance.
    """
    mean, mean_target = _mean(image, radius), _mean(target, radius)
    cross = _mean(image * target, radius) - mean * mean_target
    products = image[:, :, None] * image[:, None]
    second = _mean(products.flatten(1, 2), radius).view_as(products)
    second = second - mean[:, :, None] * mean[:, None]
    second = second.permute(0, 3, 4, 1, 2) + epsilon * torch.eye(image.shape[1]).to(second)
    inverse = torch.linalg.inv(second).permute(0, 3, 4, 1, 2)
    slope = _apply(inverse, cross)
    return slope, mean_target - (slope * mean).sum(1, keepdim=True), mean, mean_target, inverse


def _apply(matrices: Tensor, vectors: Tensor) -> Tensor:
    """[N, C, C, H, W] times [N, C, H, W] in every pixel."""
    return (matrices * vectors[:, None]).sum(2)


def _window_sums(values: Tensor, radius: int) -> Tensor:
    """Sums over the windows, clipped at the border, of the last two axes."""
    for axis in (-2, -1):
        size = values.shape[axis]
        sums = values.cumsum(axis)
        at = torch.arange(size, device=values.device)
        upper = sums.index_select(axis, (at + radius).clamp(max=size - 1))
        lower = sums.index_select(axis, (at - radius - 1).clamp(min=0))
        shape = (-1, 1) if axis == -2 else (-1,)
        values = upper - lower * (at > radius).to(values).view(shape)
    return values


def _mean(values: Tensor, radius: int) -> Tensor:
    return _window_sums(values, radius) / _counts(values, radius)


def _spread(gradient: Tensor, radius: int) -> Tensor:
    """The adjoint of ``_mean``: windows are symmetric, only the division comes first."""
    return _window_sums(gradient / _counts(gradient, radius), radius)


def _counts(values: Tensor, radius: int) -> Tensor:
    """How many pixels each window has, [H, W]."""
    return _window_sums(torch.ones(values.shape[-2:]).to(values), radius)
