"""Evaluates a model against true alpha: studio cut-outs composed over rooms held out of training,
with camera effects, as stills and clips.  Needs no torch.

Pseudo-alphas favour a network with the same errors as their teacher; this evaluation does not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fusematte.engine.matting.matter import Matter
from fusematte.engine.matting.refine import refine
from fusematte.engine.pixels.color import frame_from_rgb
from fusematte.training.composer import Composer
from fusematte.training.config import SceneConfig
from fusematte.training.geometry import Picture
from fusematte.training.metrics import dtssd, error_maps, total, transition_region
from fusematte.training.samples import Source, load_cutouts, load_things
from fusematte.training.scenes import CutOut, Scene

Map = NDArray[np.floating]

STILLS, CLIPS, FRAMES = 200, 10, 60
HEIGHT, WIDTH = 540, 960
SEED = 2026
BANDS = (4, 12, 25)
"""Distances in pixels from the true transition by which the squared error is split."""
CAMERA_NOISE = 3.0
"""Maximum standard deviation of camera noise, for values 0..255."""
CAMERA = SceneConfig(
    people=(0.0, 0.6, 0.25, 0.15),
    heights=(0.33, 1.1),
    things=0.5,
    thing_sizes=(0.1, 0.4),
    in_front=0.0,
    posters=0.0,
    room_zoom=(1.0, 1.3),
    plain=0.0,
    out_of_focus=0.25,
    light=0.6,
    colours=0.0,
)
"""The kind of scenes to evaluate on."""

MakeAlpha = Callable[[Picture], Map]
"""Maps a picture, [H, W, 3] RGB, to its alpha, [H, W], 0..1; called with frames in order."""


@dataclass(frozen=True)
class Model:
    """A model under test: ``alpha`` for each frame, ``restart`` before each clip."""

    alpha: MakeAlpha
    restart: Callable[[], None]


def engine_model(matter: Matter) -> Model:
    """A model as users run it: through the engine, with guided-filter refinement."""

    def alpha(picture: Picture) -> Map:
        frame = frame_from_rgb(picture)
        return np.asarray(refine(frame, matter(frame)) / 255)

    return Model(alpha, matter.reset)


class TrueAlpha:
    """The scenes of the evaluation, the same for every model.

    Args:
        cutouts: people with true alpha, not used in training; rooms: likewise; things: objects in
            the scenes.
    """

    def __init__(
        self, cutouts: Sequence[CutOut], rooms: Sequence[Picture], things: Sequence[CutOut]
    ) -> None:
        self.rooms = rooms
        self.composer = Composer(rooms, [cutouts], things, config=CAMERA)

    @staticmethod
    def load(sources: Sequence[Source], rooms: Sequence[Picture]) -> TrueAlpha | None:
        """The evaluation on a data set; None if there are no rooms or no cut-outs for testing."""
        people = [one for one in sources if one.kind == "cutouts" and one.split == "val"]
        if not people or not rooms:
            return None
        things = [one for one in sources if one.kind == "objects"]
        return TrueAlpha(load_cutouts(people), rooms, load_things(things))

    def stills(self, count: int = STILLS) -> Iterator[tuple[Picture, Picture]]:
        """Pictures, [H, W, 3] RGB, and their alphas, [H, W], 0..255."""
        for index in range(count):
            rng = np.random.default_rng((SEED, 0, index))
            view = self.composer.scene(rng, HEIGHT, WIDTH).view()
            yield _filmed(rng, view.image), view.alpha

    def clips(
        self, count: int = CLIPS, frames: int = FRAMES
    ) -> Iterator[list[tuple[Picture, Picture]]]:
        """Clips as lists of frames, each as in ``stills``."""
        for index in range(count):
            rng = np.random.default_rng((SEED, 1, index))
            scene = self._moving(rng)
            views = [scene.view(time) for time in range(frames)]
            yield [(_filmed(rng, view.image), view.alpha) for view in views]

    def _moving(self, rng: np.random.Generator) -> Scene:
        """A scene with a moving layer."""
        while True:
            scene = self.composer.scene(rng, HEIGHT, WIDTH)
            if any(abs(value) > 4 for layer in scene.layers for value in layer.motion.shift):
                return scene

    def score(
        self, model: Model, *, stills: int = STILLS, clips: int = CLIPS, frames: int = FRAMES
    ) -> dict[str, dict[str, float]]:
        """The scores: ``stills``, ``clips`` and ``empty`` (rooms without people)."""
        scored = list(self._score_stills(model, stills))
        median = float(np.median([row["mse"] for row in scored]))
        return {
            "stills": _mean(scored) | {"mse_median": median},
            "clips": _mean(self._score_clips(model, clips, frames)),
            "empty": self._score_empty(model),
        }

    def _score_stills(self, model: Model, count: int) -> Iterator[dict[str, float]]:
        for picture, truth in self.stills(count):
            model.restart()
            yield score_still(model.alpha(picture), truth / 255)

    def _score_clips(self, model: Model, count: int, frames: int) -> Iterator[dict[str, float]]:
        for clip in self.clips(count, frames):
            model.restart()
            alphas = [model.alpha(picture) for picture, _ in clip]
            truths = [truth / 255 for _, truth in clip]
            squared = [np.square(a - t) for a, t in zip(alphas, truths, strict=True)]
            yield {
                "mad": float(
                    np.mean([np.abs(a - t).mean() for a, t in zip(alphas, truths, strict=True)])
                ),
                "mse": float(np.mean([error.mean() for error in squared])),
                "dtssd": dtssd(alphas, truths),
            }

    def _score_empty(self, model: Model) -> dict[str, float]:
        """Mean alpha of the rooms, without people and objects, each as a still."""
        means = []
        for room in self.rooms:
            model.restart()
            means.append(float(model.alpha(room).mean()))
        return {
            "rooms": len(means),
            "median": float(np.median(means)),
            "p95": float(np.quantile(means, 0.95)),
        }


def score_still(alpha: Map, truth: Map) -> dict[str, float]:
    """The scores of a still.

    ``mse`` is the sum of ``mse_edge`` (at most 4 pixels from the true transition), ``mse_near`` (4
    to 12), ``mse_wide`` (12 to 25), and farther away ``mse_outside`` (background) and
    ``mse_inside`` (foreground).  ``false_foreground`` is the mean alpha far outside.
    """
    errors = error_maps(alpha, truth)
    band = transition_region(truth)
    scores = total(errors)
    scores["band_mse"] = total(errors, band)["mse"]
    seen = np.zeros(truth.shape, bool)
    for name, radius in zip(("edge", "near", "wide"), BANDS, strict=True):
        region = transition_region(truth, radius)
        scores[f"mse_{name}"] = float(errors["mse"][region & ~seen].sum() / truth.size)
        seen = region
    for name, region in (("outside", ~seen & (truth < 0.5)), ("inside", ~seen & (truth >= 0.5))):
        scores[f"mse_{name}"] = float(errors["mse"][region].sum() / truth.size)
    outside = ~seen & (truth < 0.5)
    scores["false_foreground"] = float(alpha[outside].mean()) if outside.any() else np.nan
    return scores


def format_true_alpha(results: dict[str, dict[str, float]]) -> str:
    """The scores as text, in the usual units."""
    stills, clips, empty = (results[name] for name in ("stills", "clips", "empty"))
    parts = ", ".join(
        f"{name} {1000 * stills[f'mse_{name}']:.2f}"
        for name in ("edge", "near", "wide", "outside", "inside")
    )
    return "\n".join(
        (
            f"true alpha, stills (x1000): MAD {1000 * stills['mad']:.2f}, "
            f"MSE {1000 * stills['mse']:.2f} ({parts}), band MSE {1000 * stills['band_mse']:.2f}, "
            f"median MSE {1000 * stills['mse_median']:.2f}, "
            f"false foreground {1000 * stills['false_foreground']:.2f}; "
            f"gradient {stills['grad']:.2f}, connectivity {stills['conn']:.2f}",
            f"true alpha, clips (x1000): MAD {1000 * clips['mad']:.2f}, "
            f"MSE {1000 * clips['mse']:.2f}; dtSSD (x100) {100 * clips['dtssd']:.2f}",
            f"{empty['rooms']} empty rooms: mean alpha, median {empty['median']:.4f}, "
            f"95th percentile {empty['p95']:.4f}",
        )
    )


def _filmed(rng: np.random.Generator, image: Picture) -> Picture:
    """Adds camera noise to a picture."""
    noise = rng.uniform(0, CAMERA_NOISE) * rng.standard_normal(image.shape, np.float32)
    return np.clip(image + noise, 0, 255).astype(np.uint8)


def _mean(rows: Iterable[dict[str, float]]) -> dict[str, float]:
    rows = list(rows)
    return {name: float(np.nanmean([row[name] for row in rows])) for name in rows[0]}
