"""The losses of the late fusion paper (Zhang et al., CVPR 2019), equations 4 to 10.

Every map is [N, 1, H, W]; alpha is the ground truth in 0..1.  A pixel belongs to the transition
region where 0 < alpha < 1, and is solid elsewhere.  The paper sums over pixels; we take means, so
that a loss does not depend on the size of the picture.

Where ``exact`` is 0, alpha is a pseudo-label that is only trusted about where the transition is:
there equation 6 makes F and 1 - B bracket it, and no other loss applies.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from fusematte.training.network import Prediction

SEGMENTATION_WEIGHT = 0.5
"""w1 of equation 9."""
SPARSITY_WEIGHT = 0.01
"""w2 of equation 9."""
SPARSITY_GAMMA = 0.9
"""gamma of equation 10."""
LAPLACIAN_LEVELS = 4
SOLID_WEIGHT = 0.1
"""w_p of equation 8 outside the transition region."""


def transition(alpha: Tensor) -> Tensor:
    """Where 0 < alpha < 1, as a float mask.  Codes 0 and 255 of an 8-bit matte are solid."""
    return ((alpha > 0) & (alpha < 1)).to(alpha.dtype)


def difference_loss(probability: Tensor, alpha: Tensor, exact: Tensor) -> Tensor:
    """Equation 4: L1 in the transition region, L2 in the solid ones."""
    error = exact * (probability - alpha).abs()
    soft = transition(alpha)
    return (soft * error + (1 - soft) * error.square()).mean()


def gradient_loss(probability: Tensor, alpha: Tensor, exact: Tensor) -> Tensor:
    """Equation 5: L1 between the horizontal and vertical differences."""
    difference = exact * (probability - alpha)
    horizontal = (difference[..., :, 1:] - difference[..., :, :-1]).abs().mean()
    vertical = (difference[..., 1:, :] - difference[..., :-1, :]).abs().mean()
    return horizontal + vertical


def raised_cross_entropy(logits: Tensor, alpha: Tensor) -> Tensor:
    """Equation 6: the target is 1 wherever alpha > 0, at half weight in the transition region.

    This drives the prediction towards an upper bound of alpha, so that F and 1 - B bracket it.
    """
    target = (alpha > 0).to(alpha.dtype)
    weight = 1 - 0.5 * transition(alpha)
    return F.binary_cross_entropy_with_logits(logits, target, weight)


def laplacian_loss(prediction: Tensor, alpha: Tensor, exact: Tensor) -> Tensor:
    """L1 between the Laplacian pyramids, coarse levels at twice the weight of the next finer one
    (Hou and Liu, "Context-Aware Image Matting", ICCV 2019)."""
    # The pyramid is linear, so the pyramid of the difference is enough.
    rest, total = exact * (prediction - alpha), alpha.new_zeros(())
    for level in range(LAPLACIAN_LEVELS):
        coarse = F.avg_pool2d(rest, 2)
        up = F.interpolate(coarse, scale_factor=2.0, mode="bilinear", align_corners=False)
        total = total + 2**level * (rest - up).abs().mean()
        rest = coarse
    return total


def branch_loss(logits: list[Tensor], alpha: Tensor, exact: Tensor) -> Tensor:
    """Equation 7 for one branch, at every decoder block (side losses), averaged over blocks.

    For the background branch pass ``1 - alpha``.
    """
    total = alpha.new_zeros(())
    for block in logits:
        target, sure = alpha, exact
        if block.shape != alpha.shape:
            target = F.interpolate(alpha, block.shape[-2:], mode="area")
            sure = F.interpolate(exact, block.shape[-2:], mode="area")
        block = block.float()
        probability = torch.sigmoid(block)
        total = total + raised_cross_entropy(block, target)
        total = total + difference_loss(probability, target, sure)
        total = total + gradient_loss(probability, target, sure)
    return total / len(logits)


def fusion_loss(
    prediction: Tensor, alpha: Tensor, exact: Tensor, solid_weight: float = SOLID_WEIGHT
) -> Tensor:
    """Equation 8: weighted L1 of the fused alpha; weight 1 in the transition region."""
    soft = transition(alpha)
    weight = exact * (soft + solid_weight * (1 - soft))
    return (weight * (prediction - alpha).abs()).mean()


def sparsity_loss(prediction: Tensor, gamma: float = SPARSITY_GAMMA) -> Tensor:
    """Equation 10, less its minimum of 1: few soft pixels (Levin et al., spectral matting)."""
    # The slope of the power is infinite at 0, so the gradient there would be inf * 0.
    alpha = prediction.clamp(1e-4, 1 - 1e-4)
    return (alpha.pow(gamma) + (1 - alpha).pow(gamma) - 1).mean()


def segmentation_loss(prediction: Prediction, alpha: Tensor, exact: Tensor) -> Tensor:
    """Equation 7 for both branches: the loss of the first step of the paper's training."""
    branches = branch_loss(prediction.foreground_logits, alpha, exact)
    return branches + branch_loss(prediction.background_logits, 1 - alpha, exact)


def single_loss(prediction: Prediction, alpha: Tensor) -> Tensor:
    """L1 alone, for a single decoder and its refinement (section 4, self-comparisons)."""
    total = (prediction.alpha.float() - alpha).abs().mean()
    for block in prediction.foreground_logits:
        target = F.interpolate(alpha, block.shape[-2:], mode="area")
        error = (torch.sigmoid(block.float()) - target).abs().mean()
        total = total + error / len(prediction.foreground_logits)
    return total


@dataclass(frozen=True)
class LossWeights:
    """solid: w_p of equation 8 outside the transition region; detail: of the Laplacian pyramid and
    the gradient of the fused alpha, which the paper does not have."""

    solid: float = SOLID_WEIGHT
    detail: float = 0.0


def joint_loss(
    prediction: Prediction, alpha: Tensor, exact: Tensor, weights: LossWeights
) -> Tensor:
    """Equation 9: fusion, both branches, sparsity; for a single decoder ``single_loss``."""
    if not prediction.background_logits:
        return single_loss(prediction, alpha)
    fused = prediction.alpha.float()
    total = (
        fusion_loss(fused, alpha, exact, weights.solid)
        + SEGMENTATION_WEIGHT * segmentation_loss(prediction, alpha, exact)
        + SPARSITY_WEIGHT * sparsity_loss(fused)
    )
    if weights.detail:
        detail = laplacian_loss(fused, alpha, exact) + gradient_loss(fused, alpha, exact)
        total = total + weights.detail * detail
    return total


Objective = Callable[[Prediction, Tensor, Tensor, LossWeights], Tensor]

OBJECTIVES: dict[str, Objective] = {
    "segmentation": lambda prediction, alpha, exact, _: segmentation_loss(prediction, alpha, exact),
    "fusion": lambda prediction, alpha, exact, weights: fusion_loss(
        prediction.alpha.float(), alpha, exact, weights.solid
    ),
    "joint": joint_loss,
}
"""The losses of the three steps of training (section 3.4)."""
