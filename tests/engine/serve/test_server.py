"""The server without its page: who gets in, what is refused, file jobs from end to end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import platform
import re
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import cv2
import numpy as np
import pytest
from aiohttp import web
from tests.engine.serve.browser import until
from tests.engine.serve.conftest import Server
from tests.helpers import content, cut, make_clip, pictures_of, two_people

from fusematte.cli import main
from fusematte.engine.backends import sharing
from fusematte.engine.jobs.options import JobOptions
from fusematte.engine.jobs.single import open_tools
from fusematte.engine.live.session import Session
from fusematte.engine.serve.backgrounds import Library
from fusematte.engine.serve.errors import STATUS, Refusal
from fusematte.engine.serve.server import BACKGROUND_LIMIT, VIDEO_LIMIT, Service
from fusematte.engine.serve.uploads import save

Http = aiohttp.ClientSession


def talk(server: Server, conversation: Callable[[Http], Awaitable[None]]) -> None:
    """Runs a conversation whose addresses are relative to the page's."""

    async def whole() -> None:
        async with Http(server.url) as http:
            await conversation(http)

    asyncio.run(whole())


async def refused(request: Any, code: str) -> str:  # noqa: ANN401
    """The message of a request that must be refused with ``code``."""
    async with request as answer:
        assert answer.status == STATUS[code], await answer.text()
        body = await answer.json()
        assert set(body) == {"error"} and set(body["error"]) == {"code", "message"}
        assert body["error"]["code"] == code
        assert "Content-Security-Policy" in answer.headers
        return str(body["error"]["message"])


async def give(request: Any) -> Any:  # noqa: ANN401
    """The JSON of a request that must succeed."""
    async with request as answer:
        assert answer.status < 300, await answer.text()
        return await answer.json()


async def finished(http: Http, id: str) -> dict[str, Any]:
    """A job, once it is over."""

    async def look() -> dict[str, Any] | None:
        (job,) = [job for job in await give(http.get("jobs")) if job["id"] == id]
        return job if job["state"] in ("done", "failed") else None

    result: dict[str, Any] = await until(look, f"job {id}")
    return result


def test_only_the_token_opens_the_door(server: Server) -> None:
    async def conversation(http: Http) -> None:
        port = http._base_url.port  # type: ignore[union-attr]
        root = f"http://127.0.0.1:{port}"
        for path in ("/", "/wrong/", "/wrong/state", "/wrong/live", "/page/app.js", "//", "/%00/"):
            assert "token" in await refused(http.get(root + path), "forbidden")
        assert "token" in await refused(http.get(server.url[:-2] + "/"), "forbidden")
        await refused(http.post(root + "/wrong/jobs?name=a.mp4", data=b"x"), "forbidden")
        foreign = {"Host": f"evil.example:{port}"}  # its name may lead to 127.0.0.1
        assert "127.0.0.1" in await refused(http.get("state", headers=foreign), "forbidden")
        async with http.get("") as page:
            assert page.status == 200

    talk(server, conversation)


def test_nobody_else_on_the_network_is_served(server: Server) -> None:
    listening = subprocess.run(
        [sys.executable, "-c", LISTENING, str(server.process.pid)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert set(listening.stdout.split()) == {"127.0.0.1"}


LISTENING = """
import psutil, sys
for c in psutil.Process(int(sys.argv[1])).net_connections():
    if c.status in ("LISTEN", "NONE"): print(c.laddr.ip)
"""


def test_headers_lock_the_page_in(server: Server) -> None:
    async def conversation(http: Http) -> None:
        for path in ("", "state", "page/app.js", "backgrounds/blur/thumbnail"):
            async with http.get(path) as answer:
                policy = answer.headers["Content-Security-Policy"]
                assert policy.startswith("default-src 'none'; script-src 'self'; ")
                assert "unsafe" not in policy and "http" not in policy and "*" not in policy
                assert answer.headers["Referrer-Policy"] == "no-referrer"
                assert answer.headers["X-Content-Type-Options"] == "nosniff"

    talk(server, conversation)


def test_mistakes_get_their_fixed_answers(server: Server, tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "a.mp4").read_bytes()
    uploaded = server.uploaded()

    async def conversation(http: Http) -> None:
        await refused(http.get("nowhere"), "not_found")
        await refused(http.get("page/../server.py"), "not_found")
        await refused(http.get("page/%2e%2e/server.py"), "not_found")
        await refused(http.put("jobs", data=b""), "method_not_allowed")
        await refused(http.get("jobs/77/result"), "not_found")
        await refused(http.delete("jobs/77"), "not_found")
        await refused(http.get("backgrounds/mars/thumbnail"), "not_found")
        await refused(http.post("jobs", data=clip), "bad_request")
        await refused(http.post("jobs?name=../..", data=clip), "bad_request")
        await refused(http.post("jobs?name=a.mp4", data=b""), "bad_request")
        await refused(http.post("jobs?name=a.mp4&blur=nan", data=clip), "bad_request")
        await refused(http.post("jobs?name=a.mp4&background=mars", data=clip), "not_found")
        noise = np.random.default_rng(0).bytes(5000)
        said = await refused(http.post("backgrounds?name=x%0ay.png", data=noise), "unreadable")
        assert said.startswith("xy.png: ") and str(server.folder) not in said

    talk(server, conversation)
    assert server.files() == []
    assert server.uploaded() == uploaded


async def zeros(size: int, step: int = 1 << 20) -> AsyncIterator[bytes]:
    """So many, in pieces; nobody knows beforehand how many."""
    for _ in range(size // step):
        yield bytes(step)


def test_uploads_have_a_limit(server: Server) -> None:
    async def conversation(http: Http) -> None:
        size = 2 << 30
        head = {"Content-Length": str(size)}
        said = await refused(
            http.post("jobs?name=big.mp4", data=zeros(size), headers=head), "too_large"
        )
        assert f"{VIDEO_LIMIT >> 20} MB" in said

    before, uploaded = server.usage(), server.uploaded()
    talk(server, conversation)

    async def unannounced(http: Http) -> None:
        data = zeros(BACKGROUND_LIMIT + (2 << 20))
        await refused(http.post("backgrounds?name=big.png", data=data), "too_large")

    talk(server, unannounced)
    assert server.usage().memory - before.memory < 60e6
    assert server.files() == []
    assert server.uploaded() == uploaded


def test_a_video_goes_in_and_comes_out(server: Server, tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "talk.mkv", width=160, height=96, frames=20, audio=True)
    output = tmp_path / "out.mkv"

    async def conversation(http: Http) -> None:
        query = "jobs?name=my%20%22talk%22.mkv&background=green"
        job = await give(http.post(query, data=clip.read_bytes()))
        assert job["state"] == "queued" and job["background"] == "Green"
        job = await finished(http, job["id"])
        assert (job["state"], job["frames"]) == ("done", 20)
        assert job["total"] == pytest.approx(20, abs=1)  # Matroska's is an estimate
        assert job["result"] == 'my "talk"-matted.mkv'
        async with http.get(f"jobs/{job['id']}/result") as answer:
            assert "attachment" in answer.headers["Content-Disposition"]
            output.write_bytes(await answer.read())
        await give(http.delete(f"jobs/{job['id']}"))
        await refused(http.get(f"jobs/{job['id']}/result"), "not_found")

    talk(server, conversation)
    assert content(output).times == content(clip).times
    assert len(content(output).packets) == len(content(clip).packets)
    assert server.files() == []


def test_who_is_kept_is_chosen_afterwards(server: Server, tmp_path: Path) -> None:
    """Frames to click on, what a click chooses in them, and the job once more."""
    clip = make_clip(tmp_path / "two.mp4", width=256, height=128, frames=10, show=two_people)

    async def conversation(http: Http) -> None:
        job = await give(http.post("jobs?name=two.mp4&background=green", data=clip.read_bytes()))
        where = f"jobs/{job['id']}"
        job = await finished(http, job["id"])
        assert job["duration"] == pytest.approx(0.4) and job["frame_rate"] == 25
        for time in ("0", "0.2", "99"):
            async with http.get(f"{where}/frame?time={time}") as answer:
                shown = cv2.imdecode(np.frombuffer(await answer.read(), np.uint8), 1)
                assert shown.shape == (128, 256, 3)
        left = {"keep": [0.22, 0.5], "time": 0.2}
        told = await give(http.post(f"{where}/outline", json={"time": 0.2, "prompts": [left]}))
        (edge,) = told["outline"]
        assert 0 <= min(x for x, _ in edge) < max(x for x, _ in edge) < 0.6
        before = await give(http.get("jobs"))
        again = await give(http.post(f"{where}/prompts", json={"prompts": [left]}))
        assert again["state"] in ("queued", "running") and again["prompts"] == [left]
        assert (await finished(http, job["id"]))["frames"] == before[-1]["frames"]
        async with http.get(f"{where}/result") as answer:
            (tmp_path / "out.mp4").write_bytes(await answer.read())
        for address, body in (
            ("outline", {"time": -1, "prompts": []}),
            ("outline", {"time": 0, "prompts": [{"keep": [7, 9999]}]}),
            ("outline", []),
            ("prompts", {"prompts": [{"kep": [0, 0]}]}),
            ("prompts", {"prompts": "mask.png"}),
        ):
            await refused(http.post(f"{where}/{address}", json=body), "bad_request")
        await refused(http.get(f"{where}/frame?time=soon"), "bad_request")
        await give(http.delete(where))

    talk(server, conversation)
    last = pictures_of(tmp_path / "out.mp4")[-1].astype(int)
    background = np.abs(last - last[2, -2]) < 5
    assert background[:, 140:].mean() > 0.95 > 0.8 > background[:, :120].mean()


def test_what_cannot_be_read_fails_with_the_name_it_came_by(server: Server, tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "whole.mkv", width=160, height=120, frames=60)
    broken = cut(clip, 0.6)
    output = tmp_path / "part.mkv"

    async def conversation(http: Http) -> None:
        noise = np.random.default_rng(0).bytes(5000)
        bad = await give(http.post("jobs?name=noise.mp4", data=noise))
        half = await give(http.post("jobs?name=half.mkv", data=broken.read_bytes()))
        job = await finished(http, bad["id"])
        assert job["state"] == "failed" and job["result"] is None
        assert job["error"]["message"].startswith("noise.mp4: ")
        assert str(server.folder) not in job["error"]["message"]
        job = await finished(http, half["id"])
        assert job["state"] == "failed" and "half.mkv: is truncated" in job["error"]["message"]
        async with http.get(f"jobs/{half['id']}/result") as answer:
            output.write_bytes(await answer.read())
        for one in (bad, half):
            await give(http.delete(f"jobs/{one['id']}"))

    talk(server, conversation)
    assert 5 < len(content(output).times) < 60
    assert server.files() == []


def test_a_job_can_be_cancelled_while_it_runs_and_while_it_waits(
    server: Server, tmp_path: Path
) -> None:
    clip = make_clip(tmp_path / "long.mp4", frames=500).read_bytes()

    async def conversation(http: Http) -> None:
        running = await give(http.post("jobs?name=a.mp4", data=clip))
        waiting = await give(http.post("jobs?name=b.mp4", data=clip))

        async def begun() -> bool:
            first, second = await give(http.get("jobs"))
            assert second["state"] == "queued"
            return bool(first["frames"] > 2)

        await until(begun, "the first frames")
        for job in (waiting, running):
            await give(http.delete(f"jobs/{job['id']}"))
        assert await give(http.get("jobs")) == []

        async def gone() -> bool:
            return server.files() == []

        await until(gone, "the files to go")

    talk(server, conversation)


def test_an_upload_that_breaks_off_leaves_nothing(server: Server) -> None:
    host, port = "127.0.0.1", int(server.url.split(":")[2].split("/")[0])
    path = "/" + server.url.split("/", 3)[3]
    with socket.create_connection((host, port)) as line:
        head = (
            f"POST {path}jobs?name=a.mp4 HTTP/1.1\r\nHost: {host}\r\nContent-Length: 9999\r\n\r\n"
        )
        line.sendall(head.encode() + b"some")

        async def begun() -> bool:
            return "upload" in server.files()

        asyncio.run(until(begun, "the upload to begin"))

    async def gone() -> bool:
        return server.files() == []

    asyncio.run(until(gone, "the upload to be forgotten"))


def test_downloads_that_break_off_are_no_fault(server: Server) -> None:
    """Clients ask for many pieces of a file, read none, and reset the connection."""
    port, root = int(server.url.split(":")[2].partition("/")[0]), server.url.split("/", 3)[3]
    request = (
        f"GET /{root}page/app.js HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nRange: bytes=0-0\r\n\r\n"
    )
    for _ in range(5):
        with socket.socket() as line:
            line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            line.settimeout(1)
            line.connect(("127.0.0.1", port))
            with contextlib.suppress(TimeoutError):  # the server waits for a reader
                line.sendall(4000 * request.encode())
            line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    assert b" 200 " in raw(server, f"GET /{root}state HTTP/1.1", f"Host: 127.0.0.1:{port}")
    assert "Traceback" not in server.log.read_text()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has arenas")
def test_memory_is_not_scattered_over_many_heaps(server: Server, tmp_path: Path) -> None:
    """Each would keep what a job's threads have freed in it."""
    clip = make_clip(tmp_path / "a.mp4", frames=3).read_bytes()

    async def conversation(http: Http) -> None:
        job = await give(http.post("jobs?name=a.mp4", data=clip))
        await finished(http, job["id"])
        await give(http.delete(f"jobs/{job['id']}"))

    talk(server, conversation)
    mapped = Path(f"/proc/{server.process.pid}/maps").read_text()
    begins = re.findall(r"^(\w+)-\w+ rw-p 0+ 00:00 0 *$", mapped, re.MULTILINE)
    heaps = [begin for begin in begins if int(begin, 16) % HEAP == 0]
    assert 0 < len(heaps) <= 4  # 12 to 15 with glibc's own limit, on two processors


HEAP = 64 << 20
"""Bytes of address space of a heap that is not the first; it begins at a multiple of that."""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has a device that is full")
def test_a_full_disk_refuses_an_upload(tmp_path: Path) -> None:
    target = tmp_path / "upload"
    target.symlink_to("/dev/full")
    with pytest.raises(Refusal, match="the disk is full") as caught:
        asyncio.run(save(zeros(4 << 20), 0, target, 8 << 20))
    assert STATUS[caught.value.code] == 507
    assert not target.is_symlink()


def test_a_full_list_takes_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fusematte.engine.serve.backgrounds.MOST", 8)
    library = Library(tmp_path)
    picture = np.full((30, 40, 3), (10, 120, 250), np.uint8)
    id, path = library.next_path()
    path.write_bytes(cv2.imencode(".png", picture)[1].tobytes())
    assert library.add(id, path, "orange.png").name == "orange.png"
    with pytest.raises(Refusal, match="is the limit"):
        library.next_path()


def test_cameras_jobs_and_pictures_share_one_compiled_network(tmp_path: Path) -> None:
    options = {"model": "edge", "backend": "auto", "threads": None}

    async def whole() -> list[int]:
        lifetime = Service(tmp_path, 33, options).lifetime(web.Application())
        await anext(lifetime)
        with Session("green", **options), open_tools(JobOptions(**options)):
            users = sharing.users()
        with contextlib.suppress(StopAsyncIteration):
            await anext(lifetime)
        return users

    assert asyncio.run(whole()) == [3]
    assert not sharing.users()


def test_a_port_in_use_is_said(server: Server, capfd: pytest.CaptureFixture[str]) -> None:
    port = server.url.split(":")[2].split("/")[0]
    assert main(["serve", "--port", port]) == 2
    assert capfd.readouterr().err == (
        f"fusematte: port {port} is in use; choose another one with --port\n"
    )
    assert main(["serve", "--port", "0", "--budget-ms", "0"]) == 2
    assert "budget" in capfd.readouterr().err
    assert main(["serve", "--port", "70000"]) == 2
    assert "70000" in capfd.readouterr().err


def test_a_model_that_cannot_be_used_is_said_at_once(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--port", "0", "--model", "huge"]) == 7
    said = capfd.readouterr()
    assert "huge" in said.err and said.out == ""


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_it_stops_cleanly_in_the_middle_of_a_job(kind: int, tmp_path: Path) -> None:
    server = Server(tmp_path / "tmp")
    clip = make_clip(tmp_path / "a.mp4", frames=500).read_bytes()

    async def conversation(http: Http) -> None:
        await give(http.post("jobs?name=a.mp4", data=clip))

        async def begun() -> bool:
            (job,) = await give(http.get("jobs"))
            return bool(job["frames"])

        await until(begun, "the first frame")

    talk(server, conversation)
    assert server.stop(kind) == 0
    assert not server.folder.exists()
    assert "Traceback" not in server.log.read_text()


def test_a_missing_extra_is_named() -> None:
    for missing in ("aiohttp", "aiortc"):
        code = (
            f"import sys; sys.modules[{missing!r}] = None; from fusematte.cli import main; "
            "sys.exit(main(['serve']))"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ
        )
        assert done.returncode == 2
        assert missing in done.stderr and "fusematte[serve]" in done.stderr
        assert len(done.stderr.splitlines()) == 1


def raw(server: Server, *lines: str, body: bytes = b"") -> bytes:
    """The answer to a request whose head is exactly this."""
    port = int(server.url.split(":")[2].partition("/")[0])
    with socket.create_connection(("127.0.0.1", port), 10) as line:
        line.sendall("\r\n".join([*lines, "Connection: close", "", ""]).encode() + body)
        answer = b""
        while more := line.recv(1 << 16):
            answer += more
    return answer


def test_strange_hosts_and_origins(server: Server) -> None:
    """They are refused, and what is logged does not open the door."""
    token = server.url.split("/")[3]
    port = server.url.split(":")[2].partition("/")[0]
    hosts = (
        "127.0.0.1:99999",
        "127.0.0.1:x",
        "evil.example",
        f"127.0.0.1.evil:{port}",
        "[::1]",
        "",
    )
    for host in hosts:
        answer = raw(server, f"GET /{token}/state HTTP/1.1", f"Host: {host}")
        assert b" 403 " in answer.splitlines()[0], (host, answer)
    own = f"Host: 127.0.0.1:{port}"
    upgrade = (
        "Upgrade: websocket", "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: MTIzNDU2Nzg5MDEyMzQ1Ng==",
    )  # fmt: skip
    for foreign in ("http://evil.example", "null", f"https://127.0.0.1:{port}", "http://127.0.0.1"):
        origin = f"Origin: {foreign}"
        answer = raw(server, f"GET /{token}/live HTTP/1.1", own, origin, *upgrade)
        assert b" 403 " in answer.splitlines()[0], origin
        post = f"POST /{token}/jobs?name=a.mp4 HTTP/1.1"
        answer = raw(server, post, own, origin, "Content-Length: 1", body=b"x")
        assert b" 403 " in answer.splitlines()[0], origin
    good = raw(server, f"GET /{token}/state HTTP/1.1", own, f"Origin: http://127.0.0.1:{port}")
    assert b" 200 " in good.splitlines()[0]
    assert token not in server.log.read_text()


def ended(line: socket.socket) -> bool:
    """Whether the other side has closed the connection."""
    try:
        return line.recv(1 << 16) == b""
    except ConnectionResetError:
        return True


def test_half_a_head_does_not_stay_for_ever(server: Server) -> None:
    port = int(server.url.split(":")[2].partition("/")[0])
    with socket.create_connection(("127.0.0.1", port), 60) as line:
        line.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: ")
        assert ended(line)


def test_what_a_killed_server_left_is_cleaned_up(tmp_path: Path) -> None:
    first = Server(tmp_path / "tmp")
    first.stop(signal.SIGKILL)
    assert first.folder.exists()
    (tmp_path / "tmp").rename(tmp_path / "before")
    environment = {**os.environ, "TMPDIR": str(tmp_path / "before")}
    code = "import time; from fusematte.engine.serve.server import _clean_up; _clean_up()"
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
    assert not list((tmp_path / "before").iterdir())


def test_a_picture_that_is_too_large_is_refused(server: Server) -> None:
    """The server lives on, and nothing of it stays."""
    data = png_of_zeros(1, 100_000)

    async def conversation(http: Http) -> None:
        message = await refused(http.post("backgrounds?name=tall.png", data=data), "unreadable")
        assert "tall.png" in message and "pixels" in message

    talk(server, conversation)
    assert not [name for name in server.uploaded() if "tall" in name]


def png_of_zeros(width: int, height: int) -> bytes:
    import zlib

    def chunk(name: bytes, data: bytes) -> bytes:
        check = zlib.crc32(name + data)
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", check)

    rows = zlib.compress(bytes(1 + width) * height, 9)
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks
