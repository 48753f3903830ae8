"""Checks an export against the fp32 PyTorch network, on real frames."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import cv2
import numpy as np
import torch

from fusematte.engine.backends import Maps
from fusematte.engine.errors import ExportError
from fusematte.engine.frame import Map
from fusematte.engine.models import INT8_BOUND
from fusematte.export.frames import Sample
from fusematte.training.network import LateFusionNetwork

BOUNDS = {"f32": 0.0001, "bf16": 0.002, "f16": 0.002, "int8": INT8_BOUND}
"""Largest mean alpha difference over all pixels, by precision."""
BAND = 0.02, 0.98
"""The transition band: alpha strictly between these values, and two pixels around."""

Infer = Callable[[Map, Map], Maps]


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """Difference of an export's alpha to that of the fp32 PyTorch network.

    mean, max: absolute difference over all pixels; band_mean, band_max: in the transition band.
    mad_change, mse_change: change of the errors against the true alpha; None if it is unknown.
    """

    frames: int
    mean: float
    max: float
    band_mean: float
    band_max: float
    mad_change: float | None
    mse_change: float | None

    def as_dict(self) -> dict[str, Any]:
        """Rounded values for the manifest."""
        return {k: round(v, 7) if isinstance(v, float) else v for k, v in asdict(self).items()}


class Reference:
    """The outputs of the fp32 PyTorch network for each sample, computed once.

    Each frame is used twice: without a previous alpha, and with its own as the previous one, as in
    a video.
    """

    def __init__(self, network: LateFusionNetwork, samples: Sequence[Sample]) -> None:
        self.cases: list[tuple[Map, Map, Map, Map | None]] = []
        for image, truth in samples:
            previous = np.zeros_like(image[:, :1])
            for _ in range(2 if network.config.previous_alpha else 1):
                with torch.no_grad():
                    prediction = network(torch.from_numpy(image), torch.from_numpy(previous))
                alpha = prediction.alpha.numpy()
                self.cases.append((image, previous, alpha[0, 0], truth))
                previous = alpha

    def compare(self, infer: Infer) -> Accuracy:
        """Runs ``infer(image, previous)`` on every case."""
        differences, bands, errors = [], [], []
        for image, previous, expected, truth in self.cases:
            maps = infer(image, previous)
            if not all(np.isfinite(part).all() for part in maps):
                raise ExportError("the export's maps are not finite on real frames; it is not kept")
            alpha = maps.alpha
            difference = np.abs(alpha - expected)
            differences.append(difference.ravel())
            bands.append(difference[transition_band(expected)])
            if truth is not None:
                errors.append(_error_change(alpha, expected, truth))
        everything, band = np.concatenate(differences), np.concatenate(bands)
        mad, mse = np.mean(errors, 0).tolist() if errors else (None, None)
        return Accuracy(
            frames=len(self.cases),
            mean=float(everything.mean()),
            max=float(everything.max()),
            band_mean=float(band.mean()) if band.size else 0.0,
            band_max=float(band.max()) if band.size else 0.0,
            mad_change=mad,
            mse_change=mse,
        )


def transition_band(alpha: Map) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """The pixels where alpha is neither 0 nor 1, and two pixels around."""
    soft = ((alpha > BAND[0]) & (alpha < BAND[1])).astype(np.uint8)
    return np.asarray(cv2.dilate(soft, np.ones((5, 5), np.uint8)) > 0)


def _error_change(alpha: Map, expected: Map, truth: Map) -> tuple[float, float]:
    ours, theirs = alpha - truth, expected - truth
    return (
        float(np.abs(ours).mean() - np.abs(theirs).mean()),
        float(np.square(ours).mean() - np.square(theirs).mean()),
    )


def check(accuracy: Accuracy, precision: str) -> None:
    """Checks an export's accuracy.

    Raises:
        ExportError: the mean alpha difference exceeds the bound of its precision.
    """
    bound = BOUNDS[precision]
    if accuracy.mean > bound:
        raise ExportError(
            f"{precision}: alpha is off by {accuracy.mean:.5f} on average over {accuracy.frames} "
            f"frames ({accuracy.band_mean:.5f} in the transition band), more than {bound}, so it "
            "is not kept",
            remedy="export in a higher precision",
        )
