"""Checks an installed FuseMatte as its users have it: no checkout, no compiler, only the wheel.

Run by the Python of a bare environment into which nothing but the wheel and its extras
``demo`` and ``serve`` went: ``python -I tests/check_wheel.py``.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tempfile
import urllib.request
from pathlib import Path

import av

TIMEOUT = 600
SCRIPTS = Path(sysconfig.get_path("scripts"))
COMMAND = str(SCRIPTS / ("fusematte.exe" if os.name == "nt" else "fusematte"))


def run(*arguments: object, folder: Path) -> str:
    """Runs a command of the wheel; returns what it printed."""
    done = subprocess.run(
        [COMMAND, *map(str, arguments)],
        cwd=folder, env=bare_environment(), timeout=TIMEOUT,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    assert done.returncode == 0, f"{arguments}: exit code {done.returncode}\n{done.stdout}"
    print(f"ok  fusematte {' '.join(map(str, arguments))}", flush=True)
    return done.stdout


def bare_environment() -> dict[str, str]:
    """Without a compiler, or anything else but the environment's own scripts."""
    return {**os.environ, "PATH": str(SCRIPTS)}


def frames_of(path: Path) -> int:
    """How many pictures a video has."""
    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0))


def check_kernels() -> None:
    """The compiled kernels come from the environment, and so does everything else."""
    import fusematte.cpp_ext as kernels

    home = Path(sysconfig.get_path("platlib")).resolve()
    assert home in Path(kernels.__file__).resolve().parents, kernels.__file__
    print(f"ok  kernels: {', '.join(kernels.instruction_sets())}")


def check_server(folder: Path) -> None:
    """The page answers."""
    with subprocess.Popen(
        [COMMAND, "serve", "--port", "0"],
        cwd=folder, env=bare_environment(), stdout=subprocess.PIPE, text=True,
    ) as server:  # fmt: skip
        try:
            assert server.stdout is not None
            url = server.stdout.readline().strip()
            with urllib.request.urlopen(url, timeout=TIMEOUT) as page:
                assert b"<title>" in page.read()
        finally:
            server.terminate()
    print("ok  fusematte serve")


def main() -> None:
    """Checks everything, or stops at the first thing that fails."""
    check_kernels()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = Path(name)
        run("doctor", folder=folder)
        run("demo", folder=folder)
        clip = folder / "demo" / "clip.mp4"
        out = folder / "out.mp4"
        run("run", clip, out, "--background", "blur", "--start", 0, "--end", 1, folder=folder)
        assert frames_of(out) == 25
        live = folder / "live.mkv"
        run("live", "--camera", clip, "--background", "blur", "--output", live, folder=folder)
        assert frames_of(live) > 0
        run("matte", folder / "demo" / "contact-sheet.png", "-o", folder / "mattes", folder=folder)
        assert (folder / "mattes" / "contact-sheet.png").stat().st_size > 0
        check_server(folder)


if __name__ == "__main__":
    sys.exit(main())
