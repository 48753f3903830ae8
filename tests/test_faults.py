"""What happens when: odd names, odd outputs, signals, closed pipes; by doing it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import cv2
import pytest

from fusematte.cli import main
from fusematte.engine.errors import FAULT, INTERRUPTED, BackgroundError, OutputError
from fusematte.engine.jobs.run import run as run_job
from fusematte.engine.media.outputs import open_output
from fusematte.engine.media.reader import Reader
from tests.helpers import content, make_clip, picture, transcode, wait_for

pytestmark = pytest.mark.usefixtures("small_network")
posix = pytest.mark.skipif(sys.platform == "win32", reason="POSIX")


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return make_clip(tmp_path / "in.mp4", frames=12)


def start(*arguments: object) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "fusematte", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


@posix
@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_signals_end_a_job_as_ctrl_c_does(tmp_path: Path, small_model: str, name: str) -> None:
    clip = make_clip(tmp_path / "in.mp4", width=160, height=120, frames=300)
    output, part = tmp_path / "out.nut", tmp_path / "out.nut.part"  # raw: it grows with each frame
    process = start("run", "-q", "--model", small_model, clip, output)
    wait_for(
        lambda: process.poll() is not None or (part.exists() and part.stat().st_size > 1 << 18), 200
    )
    assert process.poll() is None
    process.send_signal(getattr(signal, name))
    _, said = process.communicate(timeout=200)
    assert process.returncode == INTERRUPTED, said
    assert b"Traceback" not in said
    assert not output.exists()
    assert content(part).times


@posix
def test_an_output_that_is_a_fifo(clip: Path, tmp_path: Path) -> None:
    fifo, received = tmp_path / "out.ts", []
    os.mkfifo(fifo)
    reader = threading.Thread(target=lambda: received.append(fifo.read_bytes()))
    reader.start()
    transcode(clip, fifo)
    reader.join(30)
    (tmp_path / "copy.ts").write_bytes(received[0])
    assert len(content(tmp_path / "copy.ts").times) == 12
    assert fifo.is_fifo()


@posix
def test_an_input_that_is_a_fifo(tmp_path: Path) -> None:
    clip, fifo = make_clip(tmp_path / "in.mkv", frames=12), tmp_path / "fifo"
    os.mkfifo(fifo)
    writer = threading.Thread(target=lambda: fifo.write_bytes(clip.read_bytes()))
    writer.start()
    run_job(fifo, tmp_path / "out.mp4", backend="openvino:cpu:f32")
    writer.join(30)
    assert len(content(tmp_path / "out.mp4").times) == 12


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
def test_ctrl_c_while_nobody_writes_to_a_fifo(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    code = "from fusematte.engine.media.reader import Reader; import sys; Reader(sys.argv[1])"
    code = "import signal; signal.signal(15, signal.default_int_handler); " + code
    process = subprocess.Popen([sys.executable, "-c", code, fifo], stderr=subprocess.PIPE)
    waits = Path(f"/proc/{process.pid}/wchan")
    wait_for(lambda: process.poll() is not None or waits.read_text() == "wait_for_partner", 200)
    process.terminate()
    _, said = process.communicate(timeout=200)
    assert b"KeyboardInterrupt" in said


@posix
def test_an_output_that_is_a_link(clip: Path, tmp_path: Path) -> None:
    """What it points to is replaced; the link stays."""
    (tmp_path / "elsewhere").mkdir()
    target, link = tmp_path / "elsewhere" / "real.mp4", tmp_path / "out.mp4"
    link.symlink_to(target)
    transcode(clip, link)
    assert link.is_symlink() and len(content(target).times) == 12


@pytest.mark.parametrize("name", ["100%.mp4", "%d.mp4", "a%03d b.mkv", "50%% & ü.mp4"])
def test_percent_signs(clip: Path, tmp_path: Path, name: str) -> None:
    folder = tmp_path / "t%d"
    folder.mkdir()
    source = folder / f"in {name}"
    source.write_bytes(clip.read_bytes())
    transcode(source, folder / name)
    assert len(content(folder / name).times) == 12


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere names are Unicode")
def test_names_that_are_not_utf_8(clip: Path, tmp_path: Path) -> None:
    source = clip.rename(tmp_path / os.fsdecode(b"in\xff.mp4"))
    output = tmp_path / os.fsdecode(b"out\xff.mp4")
    transcode(source, output)
    assert len(content(output.rename(tmp_path / "out.mp4")).times) == 12


def test_percent_signs_around_a_sequence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "t%d%%"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    for index in range(3):
        cv2.imwrite(str(folder / f"shot_{index}.png"), picture(64, 48, index))
    with Reader(folder / "shot_%d.png") as reader:
        assert len(list(reader)) == 3
    single = folder / "still%d.png"
    (folder / "shot_0.png").rename(single)
    with Reader(single) as reader:
        assert len(list(reader)) == 1


def test_a_sequence_into_a_new_folder(clip: Path, tmp_path: Path) -> None:
    with Reader(clip) as reader, open_output(tmp_path / "a" / "b" / "%03d.png", reader) as writer:
        for frame in reader:
            writer.write(frame)
    assert len(list((tmp_path / "a" / "b").glob("*.png"))) == 12


def test_somebody_elses_files_where_a_sequence_goes(clip: Path, tmp_path: Path) -> None:
    part = tmp_path / "%03d.png.part"
    part.mkdir()
    (part / "001.png").write_text("of an earlier job")
    (part / "notes.txt").write_text("mine")
    with Reader(clip) as reader, pytest.raises(OutputError, match="contains other files"):
        open_output(tmp_path / "%03d.png", reader)
    assert [file.name for file in part.iterdir()] == ["notes.txt"]


@posix
@pytest.mark.parametrize("length", [245, 250, 255, 300])
def test_long_names(
    clip: Path, tmp_path: Path, length: int, capfd: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / ("x" * (length - 4) + ".mp4")
    code = main(["run", "-q", str(clip), str(output)])
    said = capfd.readouterr().err
    assert code == (0 if length <= 250 else 5), said
    assert len(said.splitlines()) == (1 if code else 0)


def test_a_fault_is_one_line(
    clip: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    def fault(*_: object, **__: object) -> None:
        raise ZeroDivisionError("what\never")

    monkeypatch.setattr("fusematte.engine.commands.run.run_job", fault)
    assert main(["run", "-q", str(clip), str(tmp_path / "out.mp4")]) == FAULT
    (line,) = capfd.readouterr().err.splitlines()
    assert "ZeroDivisionError: what" in line and "FUSEMATTE_TRACEBACK" in line


@posix
@pytest.mark.slow
@pytest.mark.parametrize("mebibytes", [50, 100, 200, 400])
def test_little_memory(clip: Path, tmp_path: Path, mebibytes: int) -> None:
    """It is a matter of the moment what lacks it; it is said, and nothing is half done.  A library
    whose own thread lacks it ends the process: then that is what is said."""
    code = (
        "import resource, sys, fusematte.engine.commands.run; from fusematte.cli import main\n"
        "pages = int(open('/proc/self/statm').read().split()[0])\n"
        "limit = pages * resource.getpagesize() + (int(sys.argv[1]) << 20)\n"
        "resource.setrlimit(resource.RLIMIT_AS, (limit, limit)); sys.exit(main(sys.argv[2:]))"
    )
    output = tmp_path / "out.mp4"
    done = subprocess.run(
        [sys.executable, "-c", code, str(mebibytes), "run", "-q", str(clip), str(output)],
        capture_output=True, text=True,
    )  # fmt: skip
    assert "Traceback" not in done.stderr
    assert output.exists() == (done.returncode == 0)
    if done.returncode == -signal.SIGABRT:
        assert "bad_alloc" in done.stderr
        return
    assert done.returncode in (0, 3, 5, 7, 8, FAULT), done.stderr
    assert done.returncode == 0 or done.stderr.splitlines()[-1].startswith("fusematte: ")


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("Exception from a.cpp:1:\nstd::bad_alloc\n")]
)
def test_no_memory_is_said(
    error: Exception,
    clip: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    def starve(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("fusematte.engine.commands.run.run_job", starve)
    assert main(["run", "-q", str(clip), str(tmp_path / "out.mp4")]) == FAULT
    assert capfd.readouterr().err == "fusematte: not enough memory; close other programs\n"


@pytest.mark.parametrize("what", ["gone", "noise"])
def test_a_background_that_vanishes(clip: Path, tmp_path: Path, what: str) -> None:
    """A video's is opened again for each of its loops; the fault is not the input's."""
    background, output = make_clip(tmp_path / "back.mp4", frames=3), tmp_path / "out.mp4"
    original = background.read_bytes()

    def vanish(frames: int, *_: object) -> None:
        if frames == 1:
            background.unlink()
            if what == "noise":
                background.write_bytes(original[::-1])

    with pytest.raises(BackgroundError, match=r"back\.mp4") as caught:
        run_job(clip, output, background=background, backend="openvino:cpu:f32", progress=vanish)
    assert caught.value.exit_code == 6
    assert not output.exists()


@posix
def test_nobody_reads_what_is_said(clip: Path, tmp_path: Path, small_model: str) -> None:
    code = "import os, sys; from fusematte.cli import main; sys.exit(main(sys.argv[1:]))"
    output = tmp_path / "out.mp4"
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-c", code, "run", "--model", small_model, str(clip), str(output)]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, check=False)
    os.close(writing)
    assert done.returncode == 5
    assert b"Traceback" not in done.stderr
    assert len(content(output).times) == 12


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has a device that is full")
def test_no_space_for_what_is_said() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "fusematte", "models"], stdout=full, stderr=subprocess.PIPE,
            text=True,
        )  # fmt: skip
    assert done.returncode == OutputError.exit_code
    assert done.stderr == "fusematte: standard output: No space left on device\n"


def test_a_thread_that_hangs_does_not_hold_up_the_end() -> None:
    code = (
        "import threading, time; from fusematte.cli import entry; "
        "threading.Thread(target=time.sleep, args=(60,), name='fusematte-network').start(); "
        "entry()"
    )
    begun = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code, "models"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("edge ")
    assert time.monotonic() - begun < 50


def test_no_standard_output_at_all(clip: Path, tmp_path: Path, small_model: str) -> None:
    output = tmp_path / "out.mp4"
    done = subprocess.run(
        f"exec '{sys.executable}' -m fusematte run --model '{small_model}' '{clip}' '{output}' >&-",
        shell=True, capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert len(content(output).times) == 12
