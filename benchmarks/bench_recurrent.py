"""A recurrent state against the previous alpha: ``python benchmarks/bench_recurrent.py DATA``.

Both begin with the shipped weights and learn from the same short sequences, in which people and
camera move: the one is given its own alpha of the frame before, the other has in its place
convolutional gated recurrent units (Ballas et al., ICLR 2016) on the features at an eighth and a
sixteenth of the picture's size, as RobustVideoMatting has them.  Then both matte the same moving
scenes, made from the validation set and rooms kept out of training, and take turns at the clock.
Writes benchmarks/results/recurrent.json.
"""

from __future__ import annotations

import argparse
import json
import math
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import openvino
import torch
from machine import machine
from numpy.typing import NDArray
from timing import medians_in_turns
from torch import Tensor, nn

from fusematte.engine.matting.matter import network_size
from fusematte.engine.models import load_bundle
from fusematte.training import compose
from fusematte.training.augment import Picture, jitter_colours, random_affine, warp
from fusematte.training.evaluate import SCENE_EVERY, Means, load_cases, motion_errors
from fusematte.training.layouts import find_sources
from fusematte.training.losses import joint_loss
from fusematte.training.memory import keep_freed_memory
from fusematte.training.network import (
    STRIDE,
    EfficientNetLiteEncoder,
    LateFusionNetwork,
    Prediction,
    build_network,
)
from fusematte.training.samples import Portrait, load_backgrounds, load_portraits, load_rooms
from fusematte.training.weights import load_network

RESULTS = Path(__file__).parent / "results" / "recurrent.json"
SIZE, FRAMES, BATCH = 256, 4, 6
"""Of the sequences: side in pixels, frames, sequences per step."""
RATE, SOLID_WEIGHT = 2e-4, 0.5
UNIT_SCALE = 25.0
"""Of the rate for the gated units, which are new: at the rate of the rest they are not taken up."""
LAYOUT = torch.channels_last
HEIGHT, WIDTH = 288, 512
LEVELS = (1, 2)
"""Features of the encoder that get a state: 40 channels at 1/8, 112 at 1/16."""

Memory = tuple[Tensor, ...]


class PreviousAlpha(nn.Module):
    """The shipped way: the alpha of the frame before is an input."""

    def __init__(self, network: LateFusionNetwork) -> None:
        super().__init__()
        self.network = network

    def begin(self, image: Tensor) -> Memory:
        return (torch.zeros_like(image[:, :1]),)

    def forward(self, image: Tensor, previous: Tensor) -> tuple[Prediction, Memory]:
        prediction = self.network(image, previous)
        return prediction, (prediction.alpha.detach().float(),)


class GatedUnit(nn.Module):
    """A convolutional gated recurrent unit on half of the channels, whose state is added to the
    features; it adds nothing at first.

    Shape:
        features: [N, C, h, w]; state: [N, C / 2, h, w].
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        width = channels // 2
        self.reduce = nn.Conv2d(channels, width, 1)
        self.gates = nn.Conv2d(2 * width, 2 * width, 3, padding=1)
        self.candidate = nn.Conv2d(2 * width, width, 3, padding=1)
        self.expand = nn.Conv2d(width, channels, 1)
        nn.init.zeros_(self.expand.weight)
        assert self.expand.bias is not None
        nn.init.zeros_(self.expand.bias)

    def forward(self, features: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        x = self.reduce(features)
        keep, reset = torch.sigmoid(self.gates(torch.cat((x, state), 1))).chunk(2, 1)
        candidate = torch.tanh(self.candidate(torch.cat((x, reset * state), 1)))
        state = keep * state + (1 - keep) * candidate
        return features + self.expand(state), state


class StatefulEncoder(nn.Module):
    """The encoder without the previous alpha; ``memory`` is read and replaced by each pass."""

    def __init__(self, encoder: EfficientNetLiteEncoder) -> None:
        super().__init__()
        self.encoder, self.channels = encoder, encoder.channels
        self.units = nn.ModuleList(GatedUnit(encoder.channels[level]) for level in LEVELS)
        self.memory: Memory = ()

    def forward(self, image: Tensor) -> list[Tensor]:
        features: list[Tensor] = self.encoder(image)
        memory = []
        for level, unit, state in zip(LEVELS, self.units, self.memory, strict=True):
            features[level], state = unit(features[level], state)
            memory.append(state)
        self.memory = tuple(memory)
        return features


class RecurrentState(nn.Module):
    """The other way: gated units between encoder and decoders."""

    def __init__(self, network: LateFusionNetwork) -> None:
        super().__init__()
        assert isinstance(network.encoder, EfficientNetLiteEncoder)
        self.encoder = StatefulEncoder(network.encoder)
        self.network = network
        self.network.encoder = self.encoder  # type: ignore[assignment]

    def begin(self, image: Tensor) -> Memory:
        count, _, height, width = image.shape
        return tuple(
            image.new_zeros(
                count, self.encoder.channels[level] // 2, height >> level + 2, width >> level + 2
            )
            for level in LEVELS
        )

    def forward(self, image: Tensor, *memory: Tensor) -> tuple[Prediction, Memory]:
        self.encoder.memory = memory
        return self.network(image), self.encoder.memory


Way = PreviousAlpha | RecurrentState
"""``begin(image)`` makes an empty memory; a call takes one and returns the next."""


def ways() -> dict[str, Way]:
    """Both, with the shipped weights."""
    shipped = load_network(load_bundle())
    still = build_network("edge-still")
    still.load_state_dict(
        {k: v for k, v in shipped.state_dict().items() if not k.startswith("encoder.previous.")}
    )
    torch.manual_seed(0)
    return {"previous alpha": PreviousAlpha(shipped), "recurrent state": RecurrentState(still)}


# --- sequences ------------------------------------------------------------------------------------


def motion(rng: np.random.Generator) -> Iterator[NDArray[np.float64]]:
    """3x3 matrices that turn, zoom and shift a picture a little further from frame to frame; one
    in four stands still."""
    amount = 0.0 if rng.random() < 0.25 else 1.0
    turn, zoom = rng.normal(0, (1.5, 0.015)) * amount
    shift = rng.normal(0, 0.02 * SIZE, 2) * amount
    for index in range(FRAMES):
        matrix = cv2.getRotationMatrix2D(
            (SIZE / 2, SIZE / 2), float(turn * index), math.exp(zoom * index)
        )
        matrix[:, 2] += shift * index
        yield np.vstack([matrix, (0, 0, 1)])


def make_sequence(
    rng: np.random.Generator, portrait: Portrait, room: Picture
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Pictures [T, 3, S, S] and alphas [T, 1, S, S] of people in motion: in half of the sequences
    before a room that moves by itself, in the others with their own background."""
    base, behind = (
        np.vstack([random_affine(rng, picture, SIZE), (0, 0, 1)])
        for picture in (portrait.alpha, room)
    )
    composited, colours = rng.random() < 0.5 or portrait.image is None, int(rng.integers(1 << 30))
    images, alphas = [], []
    for ours, theirs in zip(motion(rng), motion(rng), strict=True):
        matrix = (ours @ base)[:2]
        alpha = warp(portrait.alpha, matrix, SIZE)
        if composited:
            over = warp(room, (theirs @ behind)[:2], SIZE)
            image = compose.compose(warp(portrait.foreground, matrix, SIZE), alpha, over)
        else:
            assert portrait.image is not None
            image = warp(portrait.image, matrix, SIZE)
        images.append(jitter_colours(np.random.default_rng(colours), image).transpose(2, 0, 1))
        alphas.append(alpha[None])
    return np.stack(images), np.stack(alphas)


def batches(
    portraits: list[Portrait], rooms: list[Picture], steps: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """The same for both: pictures [T, N, 3, S, S] and alphas [T, N, 1, S, S], 0..1."""
    rng = np.random.default_rng(0)
    for _ in range(steps):
        made = [
            make_sequence(
                rng, portraits[rng.integers(len(portraits))], rooms[rng.integers(len(rooms))]
            )
            for _ in range(BATCH)
        ]
        yield tuple(  # type: ignore[misc]
            torch.from_numpy(np.stack(part, 1)).float().div(255) for part in zip(*made, strict=True)
        )


def learn(way: Way, sequences: Iterator[tuple[Tensor, Tensor]], steps: int) -> float:
    """Trains on sequences, batch norms as they are; the mean loss of the last fifty steps."""
    way.eval().to(memory_format=LAYOUT)  # type: ignore[call-overload]
    units = [p for name, p in way.named_parameters() if ".units." in name]
    rest = [p for name, p in way.named_parameters() if ".units." not in name]
    groups = [{"params": rest, "scale": 1.0}, {"params": units, "scale": UNIT_SCALE}]
    optimizer = torch.optim.AdamW(groups, lr=RATE, weight_decay=0.02, fused=True)
    found: list[float] = []
    for step, (images, alphas) in enumerate(sequences):
        rate = RATE * min((step + 1) / 20, 0.01 + math.cos(math.pi / 2 * step / steps) ** 2)
        for group in optimizer.param_groups:
            group["lr"] = rate * group["scale"]
        optimizer.zero_grad()
        memory, total = way.begin(images[0]), torch.zeros(())
        for image, alpha in zip(images, alphas, strict=True):
            with torch.autocast("cpu", torch.bfloat16):
                prediction, memory = way(image.contiguous(memory_format=LAYOUT), *memory)
            memory = tuple(state.float() for state in memory)
            total = total + joint_loss(prediction, alpha, SOLID_WEIGHT) / FRAMES
        total.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(way.parameters(), 1.0)
        optimizer.step()
        found.append(total.item())
        if step % 50 == 49:
            print(f"step {step + 1} loss {np.mean(found[-50:]):.4f}", flush=True)
    return float(np.mean(found[-50:]))


# --- measurements ---------------------------------------------------------------------------------


def to_network_size(picture: Picture) -> Picture:
    """As large as the network sees it."""
    height, width = network_size(*picture.shape[:2], area=HEIGHT * WIDTH, multiple=STRIDE)
    size = width, height
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8)


@torch.no_grad()
def matte(way: Way, images: list[Picture], *, forget: bool) -> list[Any]:
    """The alphas of a clip, 0..1, [H, W] each; ``forget``: each frame by itself."""
    alphas, memory = [], None
    for picture in images:
        image = torch.from_numpy(picture.transpose(2, 0, 1)[None]).float().div(255)
        if memory is None or forget:
            memory = way.begin(image)
        prediction, memory = way(image, *memory)
        alphas.append(prediction.alpha[0, 0].numpy())
    return alphas


def score(way: Way, scenes: list[compose.MovingScene], *, forget: bool = False) -> dict[str, float]:
    """Means over the scenes, at the network's own resolution, unrefined."""
    means = Means()
    for scene in scenes:
        means.add(motion_errors(matte(way, scene.images, forget=forget), scene))
    return {name: round(value, 5) for name, value in means.table().items()}


def time_in_turns(found: dict[str, Way], runs: int) -> dict[str, float]:
    """Median milliseconds a frame in OpenVINO, on all cores, in the precision that it chooses."""
    core, calls = openvino.Core(), []
    image = torch.rand(1, 3, HEIGHT, WIDTH)
    for way in found.values():
        example = (image, *way.begin(image))
        model = openvino.convert_model(
            way.eval(), example_input=example, input=[tuple(t.shape) for t in example]
        )
        options = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": len(os.sched_getaffinity(0)),
        }
        request = core.compile_model(model, "CPU", options).create_infer_request()
        inputs = [tensor.numpy() for tensor in example]
        calls.append(partial(request.infer, inputs, share_inputs=True))
    medians = zip(found, medians_in_turns(calls, runs), strict=True)
    return {name: round(ms, 2) for name, ms in medians}


def scenes_of(data: Path) -> list[compose.MovingScene]:
    """As ``fusematte evaluate`` makes them, but three times as many."""
    sources = find_sources(data)
    rooms = load_rooms([s for s in sources if s.kind == "backgrounds"], held_out_only=True)
    people = [s for s in sources if s.kind == "people" and s.split == "val"]
    return [
        compose.moving(
            to_network_size(case.foreground), to_network_size(case.alpha), rooms[n % len(rooms)]
        )
        for n, case in enumerate(load_cases(people, []))
        if n % (SCENE_EVERY // 3) == 0
    ]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--steps", type=int, default=350)
    parser.add_argument("--runs", type=int, default=60)
    args = parser.parse_args()
    keep_freed_memory()
    sources = find_sources(args.data)
    portraits = load_portraits(
        [s for s in sources if s.kind == "people" and s.split == "train"], SIZE * 3 // 2
    )
    rooms = load_backgrounds([s for s in sources if s.kind == "backgrounds"], SIZE * 3 // 2)
    scenes, found = scenes_of(args.data), ways()
    rows: dict[str, dict[str, float]] = {
        "as shipped": score(found["previous alpha"], scenes),
        "as shipped, each frame by itself": score(found["previous alpha"], scenes, forget=True),
    }
    print(rows, flush=True)
    for name, way in found.items():
        loss = learn(way, batches(portraits, rooms, args.steps), args.steps)
        rows[name] = {"loss": round(loss, 4), **score(way, scenes)}
        rows[f"{name}, each frame by itself"] = score(way, scenes, forget=True)
        print(name, rows[name], flush=True)
    for name, ms in time_in_turns(found, args.runs).items():
        rows[name]["median_ms"] = ms
    results = {
        "machine": machine(), "model": f"edge {load_bundle().version}", "steps": args.steps,
        "frames": args.steps * BATCH * FRAMES, "size": SIZE, "scenes": len(scenes), "rows": rows,
    }  # fmt: skip
    RESULTS.write_text(json.dumps(results, indent=2) + "\n", "utf-8")
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
