"""Small training material: pictures of discs for people, as shards and as folders."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]
Sample = tuple[str, dict[str, bytes]]


def encode(picture: Picture, suffix: str = ".png") -> bytes:
    """Lossless: webp at a quality over 100 is."""
    options = [cv2.IMWRITE_WEBP_QUALITY, 101] if suffix == ".webp" else []
    bgr = picture if picture.ndim == 2 else picture[..., ::-1]
    return bytes(cv2.imencode(suffix, bgr, options)[1])


def person(seed: int, height: int = 48, width: int = 40) -> tuple[Picture, Picture]:
    """Noise with a lighter disc on it, and the disc's soft alpha."""
    y, x = np.mgrid[:height, :width]
    centre = height / 2 + seed % 5, width / 2
    alpha = np.clip((0.3 * height - np.hypot(y - centre[0], x - centre[1])) / 4 + 0.5, 0, 1)
    image = np.random.default_rng(seed).integers(0, 100, (height, width, 3))
    image = (image + 150 * alpha[..., None]).clip(0, 255)
    return image.astype(np.uint8), (255 * alpha).astype(np.uint8)


def sample(seed: int, **fields: bytes | None) -> Sample:
    """(name, files) of a good sample; ``fields`` replace files or, by None, take them out."""
    image, alpha = person(seed)
    files: dict[str, bytes | None] = {
        "webp": encode(image, ".webp"),
        "alpha.png": encode(alpha),
        "mask.png": encode((alpha > 127).astype(np.uint8) * 255),
        "json": json.dumps({"source": "test", "teacher_iou": 0.95}).encode(),
    }
    files |= {key.replace("_", "."): value for key, value in fields.items()}
    return f"p{seed:03}", {key: value for key, value in files.items() if value is not None}


def write_shard(path: Path, samples: Sequence[Sample]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, files in samples:
            for suffix, data in files.items():
                member = tarfile.TarInfo(f"{name}.{suffix}")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    return path


def make_data(folder: Path, *, people: int = 4, rooms: int = 3, size: int = 64) -> Path:
    """A folder of shards: pictures with a disc for a person, and others without."""
    samples = [sample(seed) for seed in range(people)]
    write_shard(folder / "train-00.tar", samples)
    empty = [np.full((size, size, 3), 40 + 30 * index, np.uint8) for index in range(rooms)]
    backgrounds = [(f"r{i}", {"webp": encode(room, ".webp")}) for i, room in enumerate(empty)]
    write_shard(folder / "backgrounds-00.tar", backgrounds)
    return folder
