"""The losses against the paper's equations, worked out by hand."""

from __future__ import annotations

import math

import pytest

torch = pytest.importorskip("torch")

from torch import Tensor  # noqa: E402

from fusematte.training.losses import (  # noqa: E402
    LAPLACIAN_LEVELS,
    LossWeights,
    branch_loss,
    difference_loss,
    fusion_loss,
    gradient_loss,
    joint_loss,
    laplacian_loss,
    raised_cross_entropy,
    sparsity_loss,
    transition,
)
from fusematte.training.network import Prediction  # noqa: E402


def row(*values: float) -> Tensor:
    """[1, 1, 1, n]."""
    return torch.tensor(values, dtype=torch.float32).reshape(1, 1, 1, -1)


def picture(*rows: list[float]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float32)[None, None]


def sure(alpha: Tensor) -> Tensor:
    """Every pixel's alpha is exact."""
    return torch.ones_like(alpha)


def logit(probability: float) -> float:
    return math.log(probability / (1 - probability))


def test_transition_is_what_lies_strictly_between() -> None:
    codes = row(0, 1 / 255, 0.5, 254 / 255, 1)
    assert transition(codes).flatten().tolist() == [0, 1, 1, 1, 0]


def test_equation_4_is_l1_between_and_l2_in_the_solid() -> None:
    # |0.75 - 0.5| in the transition; (0.4 - 0)^2 and (0.7 - 1)^2 in the solid regions.
    loss = difference_loss(row(0.75, 0.4, 0.7), row(0.5, 0, 1), row(1, 1, 1))
    assert loss.item() == pytest.approx((0.25 + 0.16 + 0.09) / 3, abs=1e-6)


def test_equation_5_compares_differences_in_x_and_y() -> None:
    probability, alpha = picture([0.1, 0.6, 0.6], [0.2, 0.2, 0.9]), picture([0, 1, 1], [0, 0, 1])
    # x of the probability: 0.5, 0; 0, 0.7; of alpha: 1, 0; 0, 1: they differ by 0.5, 0, 0, 0.3.
    # y of the probability: 0.1, -0.4, 0.3; of alpha: 0, -1, 0: they differ by 0.1, 0.6, 0.3.
    loss = gradient_loss(probability, alpha, sure(alpha))
    assert loss.item() == pytest.approx(0.8 / 4 + 1.0 / 3, abs=1e-6)


def test_equation_5_ignores_a_constant_offset() -> None:
    alpha = torch.rand(2, 1, 5, 6, generator=torch.Generator().manual_seed(0))
    assert gradient_loss(alpha * 0.5 + 0.3, alpha * 0.5, sure(alpha)).item() == pytest.approx(
        0, abs=1e-6
    )


def test_equation_6_raises_the_target_and_halves_the_weight() -> None:
    # Background: -log(1 - 0.2).  Transition: the target is 1, the weight 0.5.  People: -log 0.9.
    loss = raised_cross_entropy(row(logit(0.2), logit(0.6), logit(0.9)), row(0, 0.3, 1))
    expected = (-math.log(0.8) - 0.5 * math.log(0.6) - math.log(0.9)) / 3
    assert loss.item() == pytest.approx(expected, abs=1e-6)


def test_equation_7_is_the_sum_of_the_three() -> None:
    alpha, logits = picture([0, 0.4], [1, 1]), picture([-1.0, 0.5], [2.0, -0.3])
    probability = torch.sigmoid(logits)
    expected = (
        raised_cross_entropy(logits, alpha)
        + difference_loss(probability, alpha, sure(alpha))
        + gradient_loss(probability, alpha, sure(alpha))
    )
    assert branch_loss([logits], alpha, sure(alpha)).item() == pytest.approx(
        expected.item(), abs=1e-6
    )


def test_equation_7_at_a_coarser_block_takes_the_mean_alpha() -> None:
    # 4 x 4 to 2 x 2: means 0, 0.5, 1 and 0.25.
    alpha = picture([0, 0, 1, 1], [0, 0, 0, 0], [1, 1, 0, 0], [1, 1, 0, 1])
    fine, coarse = torch.zeros(1, 1, 4, 4), picture([-2.0, 1.0], [3.0, 0.0])
    expected = branch_loss([fine], alpha, sure(alpha)) + branch_loss(
        [coarse], picture([0, 0.5], [1, 0.25]), torch.ones(1, 1, 2, 2)
    )
    assert branch_loss([coarse, fine], alpha, sure(alpha)).item() == pytest.approx(
        expected.item() / 2, abs=1e-6
    )


def test_equation_8_weighs_the_transition() -> None:
    # Weight 1 on |0.7 - 0.5|, 0.1 (the paper's) or 0.5 on |0.4 - 0| and |0.8 - 1|.
    predicted, alpha = row(0.7, 0.4, 0.8), row(0.5, 0, 1)
    assert fusion_loss(predicted, alpha, sure(alpha)).item() == pytest.approx(
        (0.2 + 0.06) / 3, abs=1e-6
    )
    assert fusion_loss(predicted, alpha, sure(alpha), 0.5).item() == pytest.approx(
        (0.2 + 0.3) / 3, abs=1e-6
    )


def test_equation_10_is_least_at_solid_alphas() -> None:
    # 2 * 0.5^0.9 - 1 = 2^0.1 - 1 = 0.07177; 0.2^0.9 + 0.8^0.9 - 1 = 0.23492 + 0.81805 - 1.
    assert sparsity_loss(row(0.5)).item() == pytest.approx(2**0.1 - 1, abs=1e-6)
    assert sparsity_loss(row(0.2)).item() == pytest.approx(0.2**0.9 + 0.8**0.9 - 1, abs=1e-6)
    assert sparsity_loss(row(0, 1)).item() == pytest.approx(0, abs=3e-4)
    values = [sparsity_loss(row(value)).item() for value in (0, 0.01, 0.1, 0.3, 0.5)]
    assert values == sorted(values)
    assert sparsity_loss(row(0.5), gamma=0.5).item() == pytest.approx(2**0.5 - 1, abs=1e-6)


def test_equation_9_adds_everything_with_its_weights() -> None:
    alpha = picture([0, 0.4], [1, 1])
    fused = picture([0.1, 0.5], [0.9, 1])
    foreground, background = picture([-1.0, 0.5], [2.0, 3.0]), picture([1.0, 0.2], [-2.0, -1.0])
    prediction = Prediction(
        alpha=fused,
        foreground=torch.sigmoid(foreground),
        background=torch.sigmoid(background),
        beta=torch.full_like(fused, 0.5),
        foreground_logits=[foreground],
        background_logits=[background],
    )
    # w1 = 0.5 and w2 = 0.01 in the paper; the background branch sees 1 - alpha.
    expected = (
        fusion_loss(fused, alpha, sure(alpha))
        + 0.5 * branch_loss([foreground], alpha, sure(alpha))
        + 0.5 * branch_loss([background], 1 - alpha, sure(alpha))
        + 0.01 * sparsity_loss(fused)
    )
    assert joint_loss(prediction, alpha, sure(alpha), LossWeights()).item() == pytest.approx(
        expected.item(), abs=1e-6
    )


@pytest.mark.parametrize("value", [0.0, 1.0])
@pytest.mark.parametrize("scale", [0.0, 1.0, 500.0])
def test_gradients_are_finite_at_the_ends(value: float, scale: float) -> None:
    # Alpha exactly 0 and 1 in truth and prediction, logits that saturate the sigmoid.
    alpha = picture([0, 0.5], [1, value]).repeat(1, 1, 8, 8)
    fused = torch.full((1, 1, 16, 16), value, requires_grad=True)
    signs = picture([-1.0, 1.0], [1.0, -1.0]).repeat(1, 1, 8, 8)
    logits = [(signs * scale).requires_grad_() for _ in range(2)]
    maps = [torch.sigmoid(branch) for branch in logits]
    prediction = Prediction(fused, *maps, fused, [logits[0]], [logits[1]])
    loss = joint_loss(prediction, alpha, sure(alpha), LossWeights(detail=1.0))
    loss.backward()
    assert math.isfinite(loss.item())
    for leaf in (fused, *logits):
        assert leaf.grad is not None
        assert torch.isfinite(leaf.grad).all()


def test_losses_of_half_precision_logits_are_computed_in_full() -> None:
    # Autocast hands bfloat16 logits over; the loss must not round to its 8 bits.
    alpha = picture([0, 0.4], [1, 1])
    logits = picture([-1.0, 0.5], [2.0, 3.0])  # all of them exact in bfloat16
    exact = branch_loss([logits], alpha, sure(alpha)).item()
    assert branch_loss([logits.bfloat16()], alpha, sure(alpha)).item() == pytest.approx(
        exact, abs=1e-6
    )


def test_a_single_decoder_has_the_l1_loss_alone() -> None:
    alpha = row(0, 0.5, 1, 1)
    block = torch.full((1, 1, 1, 2), logit(0.5))  # against the means 0.25 and 1
    fine = row(*(logit(p) for p in (0.25, 0.5, 0.75, 0.75)))
    foreground = torch.sigmoid(fine)
    half = torch.full_like(alpha, 0.5)
    prediction = Prediction(
        row(0.1, 0.5, 1, 0.8), foreground, 1 - foreground, half, [block, fine], []
    )
    branch = (0.25 + 0.5) / 2 / 2 + (0.25 + 0 + 0.25 + 0.25) / 4 / 2
    assert joint_loss(prediction, alpha, sure(alpha), LossWeights()).item() == pytest.approx(
        0.3 / 4 + branch, abs=1e-6
    )


def test_where_alpha_is_a_guess_only_the_bracket_is_learnt() -> None:
    alpha, exact = torch.full((1, 1, 16, 16), 0.5), torch.ones(1, 1, 16, 16)
    exact[..., 4:9] = 0
    logits = torch.rand(1, 1, 16, 16, generator=torch.Generator().manual_seed(2))
    other = torch.where(exact == 1, logits, 1 - logits)
    for loss in (difference_loss, gradient_loss, fusion_loss, laplacian_loss):
        assert torch.equal(loss(logits, alpha, exact), loss(other, alpha, exact))
    brackets = [raised_cross_entropy(one, alpha) for one in (logits, other)]
    losses = [branch_loss([one], alpha, exact) for one in (logits, other)]
    moved = (brackets[0] - brackets[1]).item()
    assert (losses[0] - losses[1]).item() == pytest.approx(moved, abs=1e-6)


def test_the_laplacian_loss_is_that_of_both_pyramids() -> None:
    generator = torch.Generator().manual_seed(1)
    prediction, alpha = (torch.rand(2, 1, 32, 48, generator=generator) for _ in range(2))

    def pyramid(picture: Tensor) -> list[Tensor]:
        levels = []
        for _ in range(LAPLACIAN_LEVELS):
            coarse = torch.nn.functional.avg_pool2d(picture, 2)
            up = torch.nn.functional.interpolate(coarse, picture.shape[-2:], mode="bilinear")
            levels.append(picture - up)
            picture = coarse
        return levels

    pairs = zip(pyramid(prediction), pyramid(alpha), strict=True)
    expected = sum(2**level * (a - b).abs().mean().item() for level, (a, b) in enumerate(pairs))
    loss = laplacian_loss(prediction, alpha, sure(alpha))
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_an_error_at_an_edge_costs_more_with_the_detail_terms() -> None:
    alpha = torch.zeros(1, 1, 32, 32)
    alpha[..., 16:] = 1
    soft = torch.nn.functional.avg_pool2d(alpha, 5, 1, 2)
    logits = torch.zeros_like(alpha)
    prediction = Prediction(soft, soft, 1 - soft, soft, [logits], [logits])
    plain, detailed = (
        joint_loss(prediction, alpha, sure(alpha), LossWeights(detail=weight)).item()
        for weight in (0.0, 2.0)
    )
    extra = laplacian_loss(soft, alpha, sure(alpha)) + gradient_loss(soft, alpha, sure(alpha))
    assert detailed - plain == pytest.approx(2 * extra.item(), rel=1e-5)
