"""Depthwise convolution with gradients that are fast on a CPU."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class _Depthwise(torch.autograd.Function):
    """Convolves in bf16; its gradients are computed in f32."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:  # noqa: ANN401
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding = stride, padding
        return torch.conv2d(x, weight, None, stride, padding, 1, weight.shape[0])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:  # noqa: ANN401
        x, weight = ctx.saved_tensors
        for_x, for_weight, _ = torch.ops.aten.convolution_backward(
            gradient.float(),
            x.float(),
            weight.float(),
            None,
            [ctx.stride] * 2,
            [ctx.padding] * 2,
            [1, 1],
            False,
            [0, 0],
            weight.shape[0],
            [True, True, False],
        )
        return for_x.to(x.dtype), for_weight.to(weight.dtype), None, None


class DepthwiseConv2d(nn.Conv2d):
    """A square filter per channel, without bias.

    Under bf16 autocast on a CPU the backward pass runs in f32: oneDNN has no fast bf16 kernels for
    it.  For EfficientNet-Lite0's convolutions these took 2 to 13 times as long, the most with a
    stride (measured on an AVX512-BF16 processor).

    Shape:
        input: [N, channels, H, W]; output: [N, channels, ceil(H / stride), ceil(W / stride)].
    """

    def __init__(self, channels: int, size: int, stride: int = 1) -> None:
        super().__init__(channels, channels, size, stride, size // 2, groups=channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        on_cpu = x.device.type == "cpu" and torch.is_autocast_enabled("cpu")
        if on_cpu and self.training and torch.get_autocast_dtype("cpu") == torch.bfloat16:
            stride, padding = self.stride[0], self.kernel_size[0] // 2
            result: Tensor = _Depthwise.apply(x.bfloat16(), self.weight.bfloat16(), stride, padding)  # type: ignore[no-untyped-call]
            return result
        return super().forward(x)
