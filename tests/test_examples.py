"""The examples, run as their comments tell to."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import pytest

from tests.helpers import content, first_frame, make_clip
from tests.peers import free_port, until_listening

EXAMPLES = Path(__file__).parents[1] / "examples"
QUIET = ("ffmpeg", "-loglevel", "error", "-nostdin", "-y")
ENVIRONMENT = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}

needs_ffmpeg = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is the peer")
needs_shell = pytest.mark.skipif(os.name == "nt", reason="a shell script")


@contextmanager
def running(*command: object) -> Iterator[subprocess.Popen[str]]:
    """A process that is ended with the block."""
    process = subprocess.Popen(
        [str(part) for part in command], env=ENVIRONMENT, text=True, stdout=subprocess.PIPE
    )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def mean_color(path: Path) -> np.ndarray:
    """Of a video's first picture, in RGB."""
    return np.asarray(first_frame(path).to_ndarray(format="rgb24").mean((0, 1)))


def test_the_aiortc_server_sends_the_camera_back_matted() -> None:
    aiortc = pytest.importorskip("aiortc")
    aiohttp = pytest.importorskip("aiohttp")
    from tests.engine.serve.peer import Pattern

    async def talk(process: subprocess.Popen[str], port: int) -> np.ndarray:
        await until_listening(process, port)
        peer = aiortc.RTCPeerConnection(aiortc.RTCConfiguration(iceServers=[]))
        peer.addTrack(Pattern())
        await peer.setLocalDescription(await peer.createOffer())
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as http:
            async with http.get("/") as page:
                assert "<video" in await page.text()
            offer = {"sdp": peer.localDescription.sdp, "type": "offer"}
            async with http.post("/offer", json=offer) as answer:
                await peer.setRemoteDescription(aiortc.RTCSessionDescription(**await answer.json()))
        frame = await asyncio.wait_for(peer.getReceivers()[0].track.recv(), 60)
        await peer.close()
        return np.asarray(frame.to_ndarray(format="rgb24").mean((0, 1)))

    port = free_port()
    with running(sys.executable, EXAMPLES / "webrtc_server.py", port, "#ff0000") as process:
        color = asyncio.run(talk(process, port))
    assert process.returncode == 0
    assert np.abs(color - (255, 0, 0)).max() < 40  # nobody is in the picture


@needs_shell
@needs_ffmpeg
def test_the_rtmp_relay_sends_on(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "in.mp4", frames=250)
    taken = tmp_path / "out.flv"
    source, target = (f"rtmp://127.0.0.1:{free_port()}/live/{end}" for end in ("in", "out"))
    serve = ["-re", "-i", clip, "-c:v", "libx264", "-g", "25", "-f", "flv", "-listen", "1", source]
    take = ["-f", "flv", "-listen", "1", "-i", target, "-c", "copy", "-t", "2", taken]

    async def listening(*ends: tuple[subprocess.Popen[str], str]) -> None:
        for process, url in ends:
            await until_listening(process, int(url.split(":")[2].split("/")[0]))

    with running(*QUIET, *serve) as server, running(*QUIET, *take) as taker:
        asyncio.run(listening((server, source), (taker, target)))
        with running("sh", EXAMPLES / "rtmp_relay.sh", source, target, "#ff0000"):
            assert taker.wait(90) == 0
    assert np.abs(mean_color(taken) - (255, 0, 0)).max() < 40


@needs_shell
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere OBS may be installed")
@pytest.mark.skipif(Path("/sys/module/v4l2loopback").exists(), reason="there is a virtual camera")
def test_the_camera_for_obs_says_what_is_missing(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "in.mp4")
    done = subprocess.run(
        ["sh", EXAMPLES / "obs_camera.sh", clip, "green"],
        env=ENVIRONMENT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 5
    line = done.stderr.splitlines()[-1]
    assert line.startswith("fusematte: virtual camera")
    assert "v4l2loopback" in line or "fusematte[live]" in line


@needs_shell
@needs_ffmpeg
def test_the_pipe_of_ffmpeg_keeps_frames_and_audio(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "in.mp4", width=640, height=480, frames=8, audio=True)
    output = tmp_path / "out.mp4"
    command = ["sh", EXAMPLES / "ffmpeg_pipe.sh", clip, output, "#ff0000"]
    subprocess.run(command, env=ENVIRONMENT, check=True, stdin=subprocess.DEVNULL)
    before, after = content(clip), content(output)
    assert len(after.times) == len(before.times) == 8
    assert [packet[1] for packet in after.packets] == [packet[1] for packet in before.packets]
    assert (first_frame(output).width, first_frame(output).height) == (480, 360)
    assert np.abs(mean_color(output) - (255, 0, 0)).max() < 40


def why_no_gstreamer() -> str | None:
    """GStreamer's loader embeds the system's Python, which must be of this one's version."""
    loaders = list(Path("/usr/lib").glob("*/gstreamer-1.0/libgstpython.so"))
    if shutil.which("gst-launch-1.0") is None or not loaders:
        return "GStreamer's loader of Python plugins is not here"
    ask = "import sys; print(*sys.version_info[:2])"
    version = subprocess.run(["/usr/bin/python3", "-c", ask], capture_output=True, text=True)
    same = version.stdout.split() == [str(part) for part in sys.version_info[:2]]
    return None if same else "GStreamer embeds another version of Python"


def link_package(folder: Path) -> Path:
    """A folder in which any Python of this version finds the package as it is here."""
    import fusematte.cpp_ext
    import fusematte.engine

    package = folder / "fusematte"
    package.mkdir(parents=True)
    for file in Path(fusematte.__file__).parent.iterdir():
        (package / file.name).symlink_to(file)
    for part in (fusematte.engine, fusematte.cpp_ext):
        home = Path(part.__path__[0])
        if not (package / home.name).exists():
            (package / home.name).symlink_to(home)
    return folder


@pytest.mark.skipif(why_no_gstreamer() is not None, reason=str(why_no_gstreamer()))
def test_the_element_of_gstreamer_replaces_the_background(tmp_path: Path) -> None:
    taken = tmp_path / "out.yuv"
    paths = [str(link_package(tmp_path / "site"))]
    paths += [path for path in sys.path if path.endswith("site-packages")]
    environment = {
        **os.environ,
        "PYTHONPATH": ":".join(paths),
        "GST_REGISTRY": str(tmp_path / "registry.bin"),
        "GST_PLUGIN_PATH": str(EXAMPLES / "gstreamer"),
    }
    subprocess.run(
        ["gst-launch-1.0", "-q", "videotestsrc", "num-buffers=3", "!",
         "video/x-raw,width=322,height=240,format=I420", "!",
         "fusematte", "background=#ff0000", "!", "filesink", f"location={taken}"],
        env=environment, check=True, timeout=200,
    )  # fmt: skip
    # Rows of 322 pixels are stored in 324 bytes, those of chroma in 164.
    luma, chroma = 324 * 240, 164 * 120
    pictures = np.fromfile(taken, np.uint8).reshape(3, luma + 2 * chroma)
    red = pictures[:, luma + chroma :]  # Cr of red is high; a test card's is around the middle
    assert np.median(red) > 200


def load(name: str) -> ModuleType:
    """An example as a module."""
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_app_of_gradio_cuts_people_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shared_clips: Path
) -> None:
    """As its page asks it to: by Gradio's own client, over HTTP."""
    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "gradio"))
    pytest.importorskip("gradio")
    client = pytest.importorskip("gradio_client")
    portrait = tmp_path / "portrait.png"
    cv2.imwrite(str(portrait), first_frame(shared_clips / "m1.mp4").to_ndarray(format="bgr24"))
    app = load("gradio_app").app
    _, address, _ = app.launch(prevent_thread_lock=True, quiet=True)
    try:
        caller = client.Client(address, verbose=False, download_files=str(tmp_path))
        cut = caller.predict(client.handle_file(str(portrait)), "transparent", api_name="/cut")
    finally:
        app.close()
    alpha = cv2.imread(cut, cv2.IMREAD_UNCHANGED)[..., 3]
    assert alpha[:20, :20].mean() < 20 < 200 < alpha[alpha.shape[0] // 2, alpha.shape[1] // 2]


def test_the_agent_of_livekit_sends_a_camera_on_matted() -> None:
    """Between two tracks of LiveKit's own library; only the room between them is missing."""
    pytest.importorskip("livekit.rtc")
    from livekit import rtc

    agent = load("livekit_agent")

    async def feed(camera: Any) -> None:  # noqa: ANN401
        gray = np.full((360, 320), 128, np.uint8).tobytes()
        while True:
            camera.capture_frame(rtc.VideoFrame(320, 240, rtc.VideoBufferType.I420, gray))
            await asyncio.sleep(0.03)

    async def sees_red(source: Any) -> None:  # noqa: ANN401
        track = rtc.LocalVideoTrack.create_video_track("seen", source)
        async for event in rtc.VideoStream(track, format=rtc.VideoBufferType.RGB24):
            color = np.frombuffer(event.frame.data, np.uint8).reshape(240, 320, 3).mean((0, 1))
            if np.abs(color - (255, 0, 0)).max() < 40:  # nobody is in the picture
                return

    async def talk() -> None:
        camera = rtc.VideoSource(320, 240)
        track = rtc.LocalVideoTrack.create_video_track("camera", camera)
        published: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        work = asyncio.create_task(agent.matte(track, published.set_result, "#ff0000"))
        feeding = asyncio.create_task(feed(camera))
        await asyncio.wait_for(sees_red(await asyncio.wait_for(published, 60)), 60)
        for task in (feeding, work):
            task.cancel()
        await asyncio.gather(feeding, work, return_exceptions=True)

    asyncio.run(talk())
