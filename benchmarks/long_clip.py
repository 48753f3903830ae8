"""Long clips with sound, for the benchmarks of long jobs."""

from __future__ import annotations

import random
from collections.abc import Iterator
from fractions import Fraction
from itertools import count
from pathlib import Path
from typing import Any

import av
import numpy as np
from bench_job import _endless

SAMPLE_RATE, CHUNK = 48000, 1024
UNIT = Fraction(1, 90000)


def make_long_clip(
    source: Path,
    path: Path,
    seconds: float,
    *,
    size: tuple[int, int] = (640, 360),
    rate: int = 30,
    key_frames: int = 250,
    variable: bool = False,
) -> None:
    """The pictures of ``source`` over and over, with a click each second as AAC sound.

    variable: pictures last 1/60 to 1/2 s, at random; else 1/rate s.
    """
    width, height = size
    with av.open(str(path), "w", container_options={"video_track_timescale": "90000"}) as output:
        options = {"preset": "veryfast", "g": str(key_frames), "keyint_min": str(key_frames)}
        video: Any = output.add_stream("libx264", rate=rate, options=options)
        video.width, video.height, video.pix_fmt = width, height, "yuv420p"
        video.time_base = video.codec_context.time_base = UNIT
        sound: Any = output.add_stream("aac", rate=SAMPLE_RATE)
        clicks = _clicks(seconds)
        heard = next(clicks)
        pictures = _endless(source, 10**9)
        for time in _times(seconds, None if variable else rate):
            picture = next(pictures).reformat(width, height, "yuv420p")
            picture.pts, picture.time_base = time, UNIT
            output.mux(video.encode(picture))
            while heard is not None and heard.pts * UNIT.denominator < time * SAMPLE_RATE:
                output.mux(sound.encode(heard))
                heard = next(clicks, None)
        output.mux(video.encode(None))
        output.mux(sound.encode(None))


def _times(seconds: float, rate: int | None) -> Iterator[int]:
    generator, time = random.Random(1), 0
    while time < seconds / UNIT:
        yield time
        uneven = generator.choice((1500, 3000, 3003, 11250, 45000))
        time += uneven if rate is None else UNIT.denominator // rate


def _clicks(seconds: float) -> Iterator[av.AudioFrame]:
    for start in count(0, CHUNK):
        if start >= seconds * SAMPLE_RATE:
            return
        samples = np.zeros((2, CHUNK), np.float32)
        places = np.arange(start, start + CHUNK) % SAMPLE_RATE < 480
        samples[:, places] = 0.5
        frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="stereo")
        frame.sample_rate, frame.pts = SAMPLE_RATE, start
        yield frame
