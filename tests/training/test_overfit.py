"""Both networks learn four pictures by heart: losses, gradients and the loop fit together."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("tensorboard")

from fusematte.training.config import Phase, TrainConfig, load_config  # noqa: E402
from fusematte.training.network import CONFIGS  # noqa: E402
from fusematte.training.train import Run  # noqa: E402

torch.set_num_threads(1)  # on busy cores two threads wait for one another
SIZE = 64


def four_pictures() -> dict[str, torch.Tensor]:
    """Noise, and lighter noise where somebody is: in one half or one quarter of the picture.

    The outlines lie on the grid of the coarsest decoder block, so that every side loss can vanish.
    """
    rng = np.random.default_rng(0)
    alpha = np.zeros((4, 1, SIZE, SIZE), np.uint8)
    alpha[0, :, :32], alpha[1, :, :, 32:], alpha[2, :, 32:, :32], alpha[3, :, 32:] = (255,) * 4
    image = rng.integers(0, 120, (4, 3, SIZE, SIZE)) + 100 * (alpha > 0)
    return {
        "image": torch.from_numpy(image.astype(np.uint8)),
        "alpha": torch.from_numpy(alpha),
        "exact": torch.full((4, 1, SIZE, SIZE), 255, dtype=torch.uint8),
        "previous": torch.zeros(4, 1, SIZE, SIZE, dtype=torch.uint8),
    }


@pytest.mark.parametrize(
    ("name", "steps"), [("edge", 30), pytest.param("paper", 34, marks=pytest.mark.slow)]
)
def test_four_pictures_are_learnt_by_heart(
    monkeypatch: pytest.MonkeyPatch, name: str, steps: int
) -> None:
    network = CONFIGS[load_config(name).network]
    if name == "paper":  # its encoder is the article's; the rest is narrower
        network = replace(
            network, decoder_widths=(64, 48, 32, 32, 16), fusion_widths=(32, 16, 16, 16)
        )
    monkeypatch.setitem(CONFIGS, "small", network)
    config = TrainConfig(
        "small", (Phase((SIZE,), 4, steps=steps),), rate=3e-3, warmup=5, weight_decay=0.0
    )
    run = Run(config)
    run.plan = config.plan(4, 1)
    run.begin(config.phases[0])
    batch = four_pictures()
    losses = [run.train_step([batch])[0] for _ in range(steps)]
    assert losses[0] > 1
    assert losses[-1] < 0.05
