"""The command line as a user meets it: exit codes, one-line errors, files left behind."""

from __future__ import annotations

import json
import os
import pty
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from fusematte.cli import build_parser, main
from fusematte.engine.errors import ModelError
from fusematte.engine.models import load_bundle
from tests.helpers import content, cut, events, make_clip

COMMAND = (sys.executable, "-m", "fusematte")

pytestmark = pytest.mark.usefixtures("small_network")


def fails(capfd: pytest.CaptureFixture[str], code: int, *arguments: object) -> str:
    """Runs a command that must fail with ``code`` and one line; returns the line."""
    assert main(["run", "-q", *map(str, arguments)]) == code
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("fusematte: ")
    return lines[0]


def test_run_tells_what_it_did(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "in.mp4", frames=10)
    command = [*COMMAND, "run", str(clip), str(tmp_path / "out.mp4"), "--background", "blur"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "out.mp4: 10 frames in" in done.stdout
    assert "model edge" in done.stderr and "openvino" in done.stderr


def test_quiet_is_quiet(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    clip = make_clip(tmp_path / "in.mp4")
    assert main(["run", "-q", str(clip), str(tmp_path / "out.mp4")]) == 0
    assert capfd.readouterr() == ("", "")


def audio_only(path: Path) -> Path:
    """A playable file without a picture."""
    import av

    clip = make_clip(path.with_name("with-picture.mp4"), audio=True)
    with av.open(str(clip)) as source, av.open(str(path), "w") as target:
        stream = target.add_stream_from_template(source.streams.audio[0])
        for packet in source.demux(source.streams.audio[0]):
            if packet.size:
                packet.stream = stream
                target.mux(packet)
    return path


def bad_inputs(folder: Path) -> dict[str, Path]:
    (folder / "directory.mp4").mkdir()
    (folder / "empty.mp4").touch()
    (folder / "text.mp4").write_text("It was a dark and stormy night.\n" * 50)
    whole = make_clip(folder / "whole.mp4", frames=40)
    return {
        "missing": folder / "missing.mp4",
        "directory": folder / "directory.mp4",
        "empty": folder / "empty.mp4",
        "text": folder / "text.mp4",
        "audio": audio_only(folder / "audio.m4a"),
        "no index": cut(whole, 0.9),
    }


def test_bad_inputs(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    messages = set()
    for path in bad_inputs(tmp_path).values():
        message = fails(capfd, 3, path, tmp_path / "out.mp4")
        assert path.name in message
        messages.add(message.replace(path.name, ""))
        assert not list(tmp_path.glob("out.mp4*"))
    assert len(messages) >= 5  # each says its own reason


def test_truncated_input(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    clip = cut(make_clip(tmp_path / "in.mkv", width=160, height=120, frames=100), 0.5)
    output = tmp_path / "out.mp4"
    assert main(["run", "-q", str(clip), str(output)]) == 4
    left, reason = capfd.readouterr().err.splitlines()
    assert f"{output}.part" in left
    assert clip.name in reason
    assert not output.exists()
    assert len(content(Path(f"{output}.part")).times) > 10


def test_bad_options(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    clip = make_clip(tmp_path / "in.mp4", audio=True)
    out = tmp_path / "out.mp4"
    (tmp_path / "text.jpg").write_text("no picture")
    (tmp_path / "file").touch()
    assert "in.mp4" in fails(capfd, 2, clip, clip)
    assert "pinkish" in fails(capfd, 6, clip, out, "-b", "pinkish")
    assert "text.jpg" in fails(capfd, 6, clip, out, "-b", tmp_path / "text.jpg")
    assert "sigma" in fails(capfd, 6, clip, out, "-b", "blur:wide")
    assert "nosuch" in fails(capfd, 2, clip, out, "--codec", "nosuch")
    assert "libx264" in fails(capfd, 2, clip, tmp_path / "out.webm", "--codec", "libx264")
    assert "out.xyz" in fails(capfd, 2, clip, tmp_path / "out.xyz")
    assert "crf" in fails(capfd, 2, clip, tmp_path / "out.mkv", "--codec", "ffv1", "--crf", "3")
    assert "file" in fails(capfd, 5, clip, tmp_path / "file" / "out.mp4")
    assert "nodir" in fails(capfd, 5, clip, tmp_path / "nodir" / "out.mp4")
    assert "huge" in fails(capfd, 7, clip, out, "--model", "huge")
    assert "openvino" in fails(capfd, 8, clip, out, "--backend", "vulkan")
    assert not list(tmp_path.glob("out*"))


def test_unwritable_directory(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    if os.access(locked, os.W_OK):  # root may write anywhere but here
        locked = Path("/proc")
    assert "out.mp4" in fails(capfd, 5, make_clip(tmp_path / "in.mp4"), locked / "out.mp4")


def test_usage_errors_exit_with_2(capfd: pytest.CaptureFixture[str]) -> None:
    for arguments in (["--loud"], ["run"], ["dance"], ["run", "a", "b", "--crf", "low"]):
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert stop.value.code == 2
        (said,) = capfd.readouterr().err.splitlines()
        assert said.startswith("fusematte: ") and "--help" in said


def test_ctrl_c_leaves_a_playable_part(tmp_path: Path, small_model: str) -> None:
    clip = make_clip(tmp_path / "in.mp4", width=160, height=120, frames=400, audio=True)
    output, part = tmp_path / "out.mp4", tmp_path / "out.mp4.part"
    process = subprocess.Popen(
        [*COMMAND, "run", "--json", "--model", small_model, str(clip), str(output)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    (first,) = events(process.stdout.readline())
    assert first["event"] == "progress" and first["frames"] < 200  # far from all of them
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert "Traceback" not in said
    assert str(part) in said
    assert not output.exists()
    times = content(part).times
    assert 0 < len(times) < 400
    assert times == content(clip).times[: len(times)]


def test_a_terminal_gets_a_bar_and_a_pipe_gets_none(tmp_path: Path, small_model: str) -> None:
    clip = make_clip(tmp_path / "in.mp4", frames=60)
    command = [*COMMAND, "run", str(clip), str(tmp_path / "out.mp4"), "--model", small_model]
    piped = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "\r" not in piped.stderr
    main_end, terminal = pty.openpty()
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=terminal, check=True)
    os.close(terminal)
    shown = os.read(main_end, 65536).decode(errors="replace")  # cut anywhere
    os.close(main_end)
    assert "%" in shown and "fps" in shown and "left" in shown


def test_stills(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    images = [tmp_path / "a.jpg", tmp_path / "b.png"]
    for index, image in enumerate(images):
        noise = np.random.default_rng(index).integers(0, 255, (41 + index, 67, 3), np.uint8)
        cv2.imwrite(str(image), noise)
    (tmp_path / "c.png").write_text("no picture")
    folder = tmp_path / "mattes"
    command = ["matte", *map(str, images), str(tmp_path / "c.png"), "--output-dir", str(folder)]
    assert main(command) == 3  # one is bad, the others are done
    assert "c.png" in capfd.readouterr().err
    assert main([*command, "--json"]) == 3
    told = [line for line in events(capfd.readouterr().out) if line["event"] != "progress"]
    assert [line["event"] for line in told] == ["done", "done", "error"]
    assert told[0]["output"] == str(folder / "a.png") and told[2]["exit_code"] == 3
    assert sorted(path.name for path in folder.iterdir()) == ["a.png", "b.png"]
    for index, name in enumerate(("a.png", "b.png")):
        alpha = cv2.imread(str(folder / name), cv2.IMREAD_UNCHANGED)
        assert alpha is not None
        assert (alpha.shape, alpha.dtype) == ((41 + index, 67), np.uint8)


def test_stills_never_overwrite(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((8, 8, 3), np.uint8))
    cv2.imwrite(str(tmp_path / "a.jpg"), np.zeros((8, 8, 3), np.uint8))
    one, two = str(tmp_path / "a.png"), str(tmp_path / "a.jpg")
    assert main(["matte", one, "-o", str(tmp_path)]) == 2
    assert main(["matte", one, two, "-o", str(tmp_path / "m")]) == 2
    assert not (tmp_path / "m").exists()
    capfd.readouterr()


def test_models_are_listed_and_described(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["models"]) == 0
    shipped = capfd.readouterr().out
    bundle = load_bundle()
    assert f"edge {bundle.version}: {bundle.folder}" in shipped
    assert "3.0 million parameters" in shipped and "512x288" in shipped
    assert "the previous frame's alpha" in shipped and "exported" not in shipped
    folder = tmp_path / "mine"
    shutil.copytree(bundle.folder, folder)
    export = {"target": "openvino", "precision": "int8"}
    (folder / "manifest.json").write_text(json.dumps(bundle.manifest | {"export": export}), "utf-8")
    assert main(["models", str(folder)]) == 0
    assert "exported to openvino in int8" in capfd.readouterr().out
    assert main(["models", "edge", str(tmp_path / "none")]) == ModelError.exit_code
    assert "does not exist" in capfd.readouterr().err


def test_help_imports_no_runtime() -> None:
    """What people wait for: numpy, av, opencv and OpenVINO take most of a start."""
    script = (
        "import sys, contextlib, fusematte.cli as cli\n"
        "with contextlib.suppress(SystemExit): cli.main([sys.argv[1]])\n"
        "heavy = {'numpy', 'av', 'cv2', 'openvino', 'onnxruntime', 'torch'} & set(sys.modules)\n"
        "sys.exit(', '.join(heavy) or 0)"
    )
    for argument in ("--help", "--version"):
        done = subprocess.run(
            [sys.executable, "-c", script, argument], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr


def test_without_a_command_it_shows_what_people_do(capfd: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    lines = capfd.readouterr().out.splitlines()
    shown = [line.split("  ")[1] for line in lines if line.startswith("  fuse")]
    assert len(shown) == 5
    for line in shown:
        words = line.split()[1:]
        build_parser(words).parse_args(words)


def test_json_tells_programs_how_it_goes(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    clip, output = make_clip(tmp_path / "in.mp4", frames=12), tmp_path / "out.mp4"
    assert main(["run", "--json", str(clip), str(output)]) == 0
    first, *_, last = events(capfd.readouterr().out)
    assert first["event"] == "progress" and first["input"] == str(clip) and first["total"] == 12
    assert last["event"] == "done" and last["output"] == str(output) and last["frames"] == 12
    assert main(["run", "--json", str(tmp_path / "no.mp4"), str(output)]) == 3
    (error,) = events(capfd.readouterr().out)
    assert (
        error["event"] == "error" and error["exit_code"] == 3 and "no.mp4" in str(error["message"])
    )


def test_json_and_the_video_do_not_mix(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "in.mp4", frames=5)
    done = subprocess.run([*COMMAND, "run", "-q", "--json", clip, "pipe:nut"], capture_output=True)
    assert done.stdout.startswith(b"nut/multimedia container")
    assert events(done.stderr.decode())[-1]["event"] == "done"


def test_json_of_a_batch(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    make_clip(folder / "a.mp4")
    (folder / "b.mp4").write_text("no video")
    assert main(["batch", "--json", str(folder), "-o", str(tmp_path / "out")]) == 3
    told = events(capfd.readouterr().out)
    ends = {
        Path(str(line["input"])).name: line["event"] for line in told if line["event"] != "progress"
    }
    assert ends == {"a.mp4": "done", "b.mp4": "error"}


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_shells_complete_commands_and_options(
    shell: str, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("shtab")
    with pytest.raises(SystemExit) as stop:
        main(["--completion", shell])
    assert stop.value.code == 0
    script = capfd.readouterr().out
    assert "--light-wrap" in script and "doctor" in script
    if shutil.which(shell) is not None:
        subprocess.run([shell, "-n"], input=script, text=True, check=True)
