"""One definition of a job's options: whoever takes them takes all, with the same defaults."""

from __future__ import annotations

import inspect
import json
from dataclasses import fields
from fractions import Fraction
from pathlib import Path

import pytest

from fusematte.cli import build_parser
from fusematte.engine.commands.batch import OWN
from fusematte.engine.errors import UsageError
from fusematte.engine.jobs.options import JobOptions, check_known
from fusematte.engine.jobs.run import run

DEFAULTS = {option.name: option.default for option in fields(JobOptions)}


def test_run_takes_every_option_with_its_type_and_default() -> None:
    taken = inspect.signature(run).parameters
    for option in fields(JobOptions):
        assert taken[option.name].default == option.default, option.name
        assert taken[option.name].annotation == option.type, option.name
    others = set(taken) - set(DEFAULTS)
    assert others == {"input", "output", "resume", "jobs", "cluster", "report", "progress"}


@pytest.mark.parametrize(("command", "left_out"), [("run", ()), ("batch", OWN)])
def test_commands_take_every_option(command: str, left_out: tuple[str, ...]) -> None:
    line = [command, "in", "out"] if command == "run" else [command, "in", "-o", "out"]
    given = vars(build_parser(line).parse_args(line))
    assert JobOptions.of(given) == JobOptions()
    assert set(DEFAULTS) - set(given) == set(left_out)


def test_the_command_line_parses_into_the_options() -> None:
    line = [
        "run",
        "in.mp4",
        "out.mp4",
        "-b",
        "blur",
        "--no-audio",
        "--smoothing",
        "--start",
        "1:15",
    ]
    line += ["--bitrate", "8M", "--lookahead", "3", "--frame-rate", "30000/1001"]
    line += ["--quality", "high", "--network-every", "2"]
    assert JobOptions.of(vars(build_parser(line).parse_args(line))) == JobOptions(
        background="blur",
        audio="none",
        smoothing=True,
        start=Fraction(75),
        bitrate=8_000_000,
        lookahead=3,
        frame_rate=Fraction(30000, 1001),
        quality="high",
        network_every=2,
    )


def test_settings_are_what_is_not_as_by_default() -> None:
    options = JobOptions(
        start=Fraction(1, 3), light_wrap=0.5, threads=2, alpha_output=Path("a.mkv")
    )
    settings = {"start": "1/3", "light_wrap": 0.5, "alpha_output": "a.mkv"}
    assert options.settings() == json.loads(json.dumps(options.settings())) == settings


def test_a_manifest_may_write_options_as_the_command_line_does() -> None:
    given = {"start": "1:15", "frame_rate": 24, "crf": 20, "bitrate": "8M", "background": "blur"}
    assert JobOptions(threads=1).with_text(given) == JobOptions(
        start=Fraction(75), frame_rate=Fraction(24), crf=20, bitrate=8_000_000, background="blur",
        threads=1,
    )  # fmt: skip
    with pytest.raises(UsageError, match="bitrate: 'much' is not a bitrate"):
        JobOptions().with_text({"bitrate": "much"})
    with pytest.raises(UsageError, match="line 1: unknown option 'color'"):
        check_known({"color": 3}, "line 1")


@pytest.mark.parametrize(
    "wrong",
    [
        {"lookahead": 31},
        {"lookahead": -1},
        {"despill": 2.0},
        {"network_every": 0},
        {"network_every": 17},
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_opened(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="must be"):
        run("missing.mp4", "out.mp4", **wrong)  # type: ignore[arg-type]
