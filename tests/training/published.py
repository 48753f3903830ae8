"""The tensors of published weights, by their names, with random values."""

from __future__ import annotations

import torch
from torch import Tensor


def published_lite_state() -> dict[str, Tensor]:
    """The names and shapes of the published file, from its own description of the blocks."""
    torch.manual_seed(1)
    state = {"_conv_stem.weight": torch.randn(32, 3, 3, 3), **published_norm("_bn0", 32)}
    inputs, index = 32, 0
    for size, expand, width, count in (
        (3, 1, 16, 1), (3, 6, 24, 2), (5, 6, 40, 2), (3, 6, 80, 3),
        (5, 6, 112, 3), (5, 6, 192, 4), (3, 6, 320, 1),
    ):  # fmt: skip
        for _ in range(count):
            name, middle = f"_blocks.{index}", inputs * expand
            if expand > 1:
                state[f"{name}._expand_conv.weight"] = torch.randn(middle, inputs, 1, 1)
                state |= published_norm(f"{name}._bn0", middle)
            state[f"{name}._depthwise_conv.weight"] = torch.randn(middle, 1, size, size)
            state |= published_norm(f"{name}._bn1", middle)
            state[f"{name}._project_conv.weight"] = torch.randn(width, middle, 1, 1)
            state |= published_norm(f"{name}._bn2", width)
            inputs, index = width, index + 1
    return state | {"_fc.weight": torch.randn(1000, 1280), "_fc.bias": torch.randn(1000)}


def published_norm(name: str, width: int) -> dict[str, Tensor]:
    parts = ("weight", "bias", "running_mean", "running_var")
    norm = {f"{name}.{part}": torch.rand(width) for part in parts}
    return norm | {f"{name}.num_batches_tracked": torch.tensor(7)}
