"""The HTTP API as programs use it: pictures, jobs, keys, limits, its description."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from tests.engine.serve.browser import until
from tests.engine.serve.conftest import Server
from tests.engine.serve.fuzz import Fuzzer
from tests.engine.serve.test_server import give, refused
from tests.helpers import content, first_frame, make_clip, picture
from tests.media.heif import photo

from fusematte.engine.compositing.backgrounds import open_background
from fusematte.engine.compositing.stills import compose_picture
from fusematte.engine.matting.matter import Matter
from fusematte.engine.matting.stills import matte_picture
from fusematte.engine.serve.limits import PICTURE_LIMIT, PIXEL_LIMIT

KEY = "correct horse battery staple"

Http = aiohttp.ClientSession
Picture = NDArray[np.uint8]


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("api") / "tmp", "--api")
    yield server
    assert server.stop() == 0
    assert "Traceback" not in server.log.read_text()


@pytest.fixture(scope="module")
def portrait(shared_clips: Path) -> Picture:
    """RGB, of a real person."""
    return np.asarray(first_frame(shared_clips / "m1.mp4").to_ndarray(format="rgb24"))


def talk(server: Server, conversation: Callable[[Http], Awaitable[None]], **options: Any) -> None:  # noqa: ANN401
    """Runs a conversation with addresses such as ``api/matte``."""
    root = server.url.rsplit("/", 2)[0] + "/"

    async def whole() -> None:
        async with Http(root, **options) as http:
            await conversation(http)

    asyncio.run(whole())


def form(data: bytes, name: str = "a.png", **fields: str | bytes) -> aiohttp.FormData:
    """A multipart form, as every HTTP client makes it."""
    made = aiohttp.FormData()
    made.add_field("file", data, filename=name)
    for field, value in fields.items():
        made.add_field(field, value, filename="b.png" if isinstance(value, bytes) else None)
    return made


def png(rgb: Picture) -> bytes:
    _, data = cv2.imencode(".png", rgb[..., ::-1] if rgb.ndim == 3 else rgb)
    return data.tobytes()


def decoded(data: bytes) -> Picture:
    """RGB, RGBA or gray, as it is in the file."""
    image = np.asarray(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED), np.uint8)
    if image.ndim == 2:
        return image
    return np.asarray(image[..., [2, 1, 0, 3][: image.shape[2]]])


async def matted(http: Http, data: aiohttp.FormData, query: str = "") -> Picture:
    async with http.post(f"api/matte{query}", data=data) as answer:
        assert answer.status == 200, await answer.text()
        return decoded(await answer.read())


def test_a_picture_comes_back_as_the_engine_makes_it(api: Server, portrait: Picture) -> None:
    with Matter() as matter:
        alpha = matte_picture(portrait, matter)
        cut = compose_picture(portrait, matter, open_background("transparent"))
        red = compose_picture(portrait, matter, open_background("#ff0000"))
    assert 0.1 < alpha.mean() / 255 < 0.9  # somebody is there

    async def conversation(http: Http) -> None:
        rgba = await matted(http, form(png(portrait)))
        assert rgba.shape == (*portrait.shape[:2], 4)
        assert np.abs(rgba.astype(int) - cut).max() <= 1
        wishes = ({"om": "true"}, {"om": "1"}, {"background": "mask"}, {"om": "1", "bgc": "0,0,0"})
        for same in (form(png(portrait), **wish) for wish in wishes):
            assert np.abs((await matted(http, same)).astype(int) - alpha).max() <= 1
        mask = await matted(http, form(png(portrait)), "?om=true")
        assert np.abs(mask.astype(int) - alpha).max() <= 1
        bare = {"data": png(portrait), "headers": {"Content-Type": "image/png"}}
        async with http.post("api/matte?om=true", **bare) as answer:
            assert np.abs(decoded(await answer.read()).astype(int) - alpha).max() <= 1
        for query in ("?bgc=255,0,0,255", "?background=%23ff0000"):
            assert (
                np.abs((await matted(http, form(png(portrait)), query)).astype(int) - red).max()
                <= 1
            )
        blue = np.full((30, 40, 3), (0, 0, 255), np.uint8)
        over = await matted(http, form(png(portrait), background=png(blue)))
        empty = alpha == 0
        assert np.abs(over[empty].astype(int) - (0, 0, 255)).max() <= 3

    talk(api, conversation)


def test_the_colours_of_the_solid_stay(portrait: Picture) -> None:
    with Matter() as matter:
        rgba = compose_picture(portrait, matter, open_background("transparent"))
    solid = rgba[..., 3] == 255
    assert np.abs(rgba[solid][:, :3].astype(int) - portrait[solid]).max() <= 2


def test_rembg_clients_only_change_the_address(api: Server, portrait: Picture) -> None:
    async def conversation(http: Http) -> None:
        data = form(png(portrait), model="u2net", a="true", af="240", ppm="false", om="true")
        async with http.post("api/remove", data=data) as answer:
            assert answer.status == 200 and answer.content_type == "image/png"
            assert answer.headers["X-Ignored-Options"] == "model, a, af, ppm"
            assert decoded(await answer.read()).shape == portrait.shape[:2]
        await refused(http.get("api/remove?url=http://127.0.0.1/"), "method_not_allowed")

    talk(api, conversation)


def test_formats_and_sizes(api: Server) -> None:
    data = png(picture(320, 200, 3))

    async def conversation(http: Http) -> None:
        for format, shape in (("png", 4), ("webp", 4), ("jpeg", 3), ("jpg", 3)):
            background = "green" if shape == 3 else "transparent"
            fields = {"format": format, "background": background, "size": "160"}
            async with http.post("api/matte", data=form(data, **fields)) as answer:
                assert answer.content_type == f"image/{format.replace('jpg', 'jpeg')}"
                assert decoded(await answer.read()).shape == (100, 160, shape)
        assert (await matted(http, form(data, size="4000"))).shape == (200, 320, 4)
        over = form(data, format="jpeg", background=png(picture(32, 20, 0)))
        assert (await matted(http, over)).shape == (200, 320, 3)

    talk(api, conversation)


@pytest.mark.parametrize("brand", ["heic", "avif"])
def test_photos_of_phones_are_read(api: Server, brand: str) -> None:
    if brand == "heic":
        pytest.importorskip("pillow_heif")
    data = photo(picture(320, 200, 3), brand, quarter_turns=1)

    async def conversation(http: Http) -> None:
        name = f"a.{brand}"
        assert (await matted(http, form(data, name, om="true"))).shape == (320, 200)
        scenery = form(png(picture(64, 48, 0)), format="jpeg", background=data)
        assert (await matted(http, scenery)).shape == (48, 64, 3)

    talk(api, conversation)


def test_what_cannot_be_is_refused(api: Server) -> None:
    data = png(picture(64, 48, 0))
    bomb = np.zeros((PIXEL_LIMIT // 9000 + 1, 9000), np.uint8)

    async def conversation(http: Http) -> None:
        async def no(code: str, sent: Any, query: str = "") -> str:  # noqa: ANN401
            return await refused(http.post(f"api/matte{query}", data=sent), code)

        await no("bad_request", b"no form")
        await no("bad_request", aiohttp.FormData({"om": "true"}))
        await no("unreadable", form(b"no picture"))
        await no("unreadable", form(data[:60]))
        await no("unreadable", form(data, background=b"no picture"))
        for query in (
            "om=perhaps", "bgc=1,2", "bgc=1,2,3,4", "bgc=300,0,0", "format=bmp", "size=0",
            "size=99999", "background=/etc/passwd", "background=blur:0", "format=jpeg", "x=1",
            "background=http://127.0.0.1/",
        ):  # fmt: skip
            await no("bad_request", form(data), f"?{query}")
        await no("too_large", form(bytes(PICTURE_LIMIT + 1)))
        for body, code in ((b"", "unreadable"), (bytes(PICTURE_LIMIT + 1), "too_large")):
            request = http.post("api/matte", data=body, headers={"Content-Type": "image/png"})
            await refused(request, code)
        assert "million" in await no("too_large", form(png(bomb)))
        assert "larger" in await no("too_large", form(data, om="t" * 2000))
        await refused(http.get("api/matte"), "method_not_allowed")
        await refused(http.get("api/nothing"), "not_found")

    talk(api, conversation)


def test_pages_of_other_sites_are_kept_out(api: Server) -> None:
    data = png(picture(64, 48, 0))

    async def conversation(http: Http) -> None:
        foreign = {"Origin": "https://evil.example"}
        await refused(http.post("api/matte", data=form(data), headers=foreign), "forbidden")
        rebound = {"Host": "evil.example"}
        await refused(http.post("api/matte", data=form(data), headers=rebound), "forbidden")
        await refused(http.get("api/health", headers=rebound), "forbidden")
        async with http.post("api/matte", data=form(data)) as answer:
            assert "Access-Control-Allow-Origin" not in answer.headers

    talk(api, conversation)


def test_without_the_option_there_is_no_api(server: Server) -> None:
    async def conversation(http: Http) -> None:
        await refused(http.get("api/health"), "forbidden")

    talk(server, conversation)


async def job_of(http: Http, id: str) -> dict[str, Any]:
    """A job, once it is over."""

    async def look() -> dict[str, Any] | None:
        job: dict[str, Any] = await give(http.get(f"api/jobs/{id}"))
        return job if job["state"] in ("done", "failed") else None

    done: dict[str, Any] = await until(look, f"job {id}")
    return done


def test_a_video_from_end_to_end(api: Server, tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "talk.mp4", frames=20, audio=True)

    async def conversation(http: Http) -> None:
        sent = form(clip.read_bytes(), "../talk.mp4", background="#ff0000")
        async with http.post("api/jobs", data=sent) as answer:
            assert answer.status == 201
            job = await answer.json()
            assert answer.headers["Location"] == f"/api/jobs/{job['id']}"
        done = await job_of(http, job["id"])
        assert done["state"] == "done" and done["frames"] == done["total"] == 20
        async with http.get(f"api/jobs/{job['id']}/result") as answer:
            assert "talk-matted.mp4" in answer.headers["Content-Disposition"]
            (tmp_path / "result.mp4").write_bytes(await answer.read())
        assert [job["id"] for job in await give(http.get("api/jobs"))] == [job["id"]]
        await give(http.delete(f"api/jobs/{job['id']}"))
        await refused(http.get(f"api/jobs/{job['id']}"), "not_found")

    talk(api, conversation)
    assert content(tmp_path / "result.mp4").times == content(clip).times
    assert api.files() == []


def test_jobs_that_cannot_be(api: Server, tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "talk.mp4").read_bytes()

    async def conversation(http: Http) -> None:
        for fields in (
            {"background": "/etc/passwd"},
            {"format": "exe"},
            {"crf": "1"},
            {"prompts": "keep"},
            {"prompts": '[{"keep": [0.5]}]'},
        ):
            await refused(http.post("api/jobs", data=form(clip, **fields)), "bad_request")
        await refused(http.post("api/jobs", data=aiohttp.FormData({"x": "y"})), "bad_request")
        await refused(http.get("api/jobs/77/result"), "not_found")
        job = await give(
            http.post(
                "api/jobs",
                data=form(
                    clip, "x.mp4", background="transparent", prompts='[{"drop": [0.5, 0.5]}]'
                ),
            )
        )
        assert job["prompts"] == [{"drop": [0.5, 0.5]}]
        assert (await job_of(http, job["id"]))["result"] == "x-matted.mov"
        await give(http.delete(f"api/jobs/{job['id']}"))

    talk(api, conversation)
    assert api.files() == []


def test_a_video_of_the_mask(api: Server, tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "talk.mp4", frames=3).read_bytes()

    async def conversation(http: Http) -> None:
        sent = form(clip, "talk.mp4", background="mask", format="mkv")
        job = await give(http.post("api/jobs", data=sent))
        assert (await job_of(http, job["id"]))["state"] == "done"
        async with http.get(f"api/jobs/{job['id']}/result") as answer:
            (tmp_path / "mask.mkv").write_bytes(await answer.read())
        shown = first_frame(tmp_path / "mask.mkv").to_ndarray(format="rgb24")
        assert (shown == shown[..., :1]).all()
        await give(http.delete(f"api/jobs/{job['id']}"))

    talk(api, conversation)
    assert api.files() == []


def test_the_description_is_valid_and_complete(api: Server) -> None:
    validator = pytest.importorskip("openapi_spec_validator")

    async def conversation(http: Http) -> None:
        document = await give(http.get("api/openapi.json"))
        validator.validate(document)
        assert document["security"] == []
        for path, operations in document["paths"].items():
            for method in set(operations) & {"get", "post", "delete"}:
                address = path.removeprefix("/").replace("{id}", "77")
                async with http.request(method, address) as answer:  # it is there
                    assert answer.status != 405, (method, path)

    talk(api, conversation)


def test_a_key_opens_the_door_to_programs(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FUSEMATTE_API_KEY", KEY)
    folder = tmp_path_factory.mktemp("keyed") / "tmp"
    server = Server(folder, "--api", "--host", "0.0.0.0")
    data = png(picture(64, 48, 0))

    async def conversation(http: Http) -> None:
        for headers in ({}, {"X-Api-Key": "wrong"}, {"Authorization": f"Basic {KEY}"}):
            request = http.post("api/matte", data=form(data), headers=headers)
            assert "Bearer" in await refused(request, "unauthorized")
        for headers in ({"X-Api-Key": KEY}, {"Authorization": f"Bearer {KEY}"}):
            headers["Host"] = "matte.example"  # a proxy's name
            async with http.post("api/matte", data=form(data), headers=headers) as answer:
                assert answer.status == 200
        assert (await give(http.get("api/health")))["status"] == "ok"
        assert (await give(http.get("api/openapi.json")))["security"]
        page = server.url.rsplit("/", 2)[1] + "/"
        await refused(http.get(page, headers={"Host": "matte.example"}), "forbidden")

    try:
        talk(server, conversation)
    finally:
        assert server.stop() == 0


def test_other_machines_need_a_key() -> None:
    environment = {k: v for k, v in os.environ.items() if k != "FUSEMATTE_API_KEY"}
    for options in (["--api"], []):
        done = subprocess.run(
            [sys.executable, "-m", "fusematte", "serve", "--host", "0.0.0.0", *options],
            env=environment, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert done.returncode == 2 and "FUSEMATTE_API_KEY" in done.stderr
        assert len(done.stderr.splitlines()) == 1


def test_damaged_requests_are_refused(api: Server, tmp_path: Path) -> None:
    """A short turn of the fuzzer; ``tests.engine.serve.fuzz`` makes longer ones."""
    fuzzer = Fuzzer(api, tmp_path, seed=11)
    assert fuzzer.run(40, print) == []
    for damaged in (
        fuzzer.damaged_form(b"--X-fuzz\r\nCont3\r\xf7[Ad\r\n\r\n"),
        b"GET /api/health HTTP/1.1\r\nHost: 127.0.0.1:41ttp\r\nConnection: close\r\n\r\n",
    ):
        assert b" 400 " in fuzzer.send(damaged).partition(b"\r\n")[0]
    token = api.url.rsplit("/", 2)[1].encode()
    fuzzer.send(b"GET /" + token + b"/state HTTP/1.1\r\nHo\x00st: x\r\n\r\n")
    assert token.decode() not in api.log.read_text()
