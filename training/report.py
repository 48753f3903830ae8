"""Progress of a training run: a bar or lines, TensorBoard curves, pictures of mattes."""

from __future__ import annotations

import logging
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from fusematte.engine.media.files import write_png

if TYPE_CHECKING:
    from fusematte.training.network import Prediction

log = logging.getLogger(__name__)

EVERY = 50
"""Steps between two log lines and two points of a curve."""
PICTURES_EVERY = 500
"""Steps between two pictures of mattes."""
ROWS = 4


class TrainingReport:
    """Writes curves and pictures to ``folder``: ``events.*`` for TensorBoard, ``samples/*.png``.

    Progress is shown as a bar on a terminal, elsewhere as a line every ``EVERY`` steps.
    """

    def __init__(self, folder: Path, total: int, step: int) -> None:
        self.folder = folder
        self.curves = SummaryWriter(str(folder))
        self.bar = tqdm(
            total=total, initial=step, unit="step", disable=None if sys.stderr.isatty() else True
        )
        self.total, self.losses, self.samples = total, 0.0, 0
        self.begun = time.perf_counter()

    def step(self, step: int, loss: float, rate: float, samples: int, size: int) -> None:
        """Registers a finished step."""
        self.bar.update()
        self.losses += loss
        self.samples += samples
        if step % EVERY:
            return
        seconds = time.perf_counter() - self.begun
        mean, speed = self.losses / EVERY, self.samples / seconds
        for name, value in (("loss", mean), ("learning rate", rate), ("samples per second", speed)):
            self.curves.add_scalar(name, value, step)
        self.bar.set_postfix(loss=f"{mean:.4f}", size=size)
        if self.bar.disable:
            log.info(
                "step %d/%d size %d loss %.4f %.1f samples/s", step, self.total, size, mean, speed
            )
        self.losses, self.samples, self.begun = 0.0, 0, time.perf_counter()

    def pictures(self, step: int, batch: dict[str, Tensor], prediction: Prediction) -> None:
        """Writes the network's outputs for a batch."""
        sheet = sample_sheet(batch, prediction)
        path = self.folder / "samples" / f"{step:07}.png"
        path.parent.mkdir(exist_ok=True)
        write_png(path, sheet)
        self.curves.add_image("samples", sheet, step, dataformats="HWC")

    def close(self) -> None:
        """Ends the bar and flushes the curves."""
        self.bar.close()
        self.curves.close()


def sample_sheet(batch: dict[str, Tensor], prediction: Prediction) -> NDArray[np.uint8]:
    """Rows of picture, previous alpha, truth, alpha, F, B and beta: [H, W, 3], RGB."""
    maps = (prediction.alpha, prediction.foreground, prediction.background, prediction.beta)
    rows = []
    for index in range(min(ROWS, len(batch["image"]))):
        image, previous, truth = (
            batch[name][index].cpu().numpy() for name in ("image", "previous", "alpha")
        )
        made = [
            (m[index].detach().float().cpu().numpy() * 255 + 0.5).astype(np.uint8) for m in maps
        ]
        shown = image, previous, truth, *made
        tiles = [np.broadcast_to(tile, (3, *tile.shape[1:])) for tile in shown]
        rows.append(np.concatenate(tiles, 2).transpose(1, 2, 0))
    return np.concatenate(rows)
