"""The HTTP API: pictures are matted at once, videos as jobs.

Requests for pictures are compatible with rembg's server: POST, multipart, the picture as ``file``,
options as form fields or in the query.  The picture alone as the body is accepted as well.  URLs of
pictures are not accepted: a server that fetches URLs of strangers can be used to reach its own
network (SSRF).
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import io
import json
import re
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

import cv2
import imagesize
import numpy as np
from aiohttp import BodyPartReader, MultipartReader, hdrs, web
from aiohttp.http_exceptions import HttpProcessingError
from numpy.typing import NDArray

from fusematte.engine.compositing.backgrounds import (
    Background,
    ImageBackground,
    open_background,
)
from fusematte.engine.compositing.look import Look
from fusematte.engine.compositing.stills import compose_picture
from fusematte.engine.errors import BackgroundError, FuseMatteError
from fusematte.engine.matting.mask import WHOLE, Mask
from fusematte.engine.matting.matter import Matter
from fusematte.engine.media.files import decode_image, encode_image
from fusematte.engine.media.picture_header import read_header
from fusematte.engine.serve.backgrounds import BLUR, BackgroundChoice
from fusematte.engine.serve.errors import Refusal
from fusematte.engine.serve.jobs import Job, Jobs, check_prompts
from fusematte.engine.serve.limits import (
    FORMATS,
    PICTURE_LIMIT,
    PIXEL_LIMIT,
    SIZES,
    TIME_LIMIT,
    VIDEO_FORMATS,
)
from fusematte.engine.serve.openapi import description
from fusematte.engine.serve.uploads import CHUNK, MEBIBYTE, clean_name, save

PREFIX = "/api"
LOCAL = ("127.0.0.1", "localhost")
FIELD_LIMIT = 1024
"""Maximum size of an option in bytes."""
WAITING = 64
"""Maximum number of pending pictures; further requests are refused with Retry-After."""
WORKERS = 2
"""Pictures decoded, composited and encoded in parallel; the network takes one at a time."""
RETRY_AFTER = "2"
MASK: dict[str, Callable[[str], Any]] = {"grow": int, "feather": float, "min_alpha": float}
"""Numeric mask edits, and their types."""
REMBG_ONLY = ("model", "a", "af", "ab", "ae", "ppm")
"""Options of rembg that are accepted but not used; the response lists them."""
OPEN = ("/health", "/openapi.json")
"""Paths that need no key."""

Picture = NDArray[np.uint8]
Read = TypeVar("Read")


@dataclass(frozen=True, kw_only=True)
class Order:
    """The options of a request for a picture.

    background: as ``--background``, but not a file; format: one of ``FORMATS``; size: maximum of
    the longer side, in pixels; mask: edits of the alpha; ignored: options that are not used.
    """

    background: str = "transparent"
    format: str = "png"
    size: int | None = None
    mask: Mask = WHOLE
    ignored: tuple[str, ...] = ()

    @classmethod
    def parse(cls, options: Mapping[str, str], *, over_picture: bool = False) -> Order:
        """Parses the options of a request; over_picture: its background is a file.

        Raises:
            Refusal: an option is unknown or invalid.
        """
        known = ("om", "bgc", "background", "format", "size", "invert", *MASK, *REMBG_ONLY)
        if unknown := [name for name in options if name not in known]:
            raise Refusal("bad_request", f"option {unknown[0]!r} is unknown; see /api/openapi.json")
        background = options.get("background", "transparent")
        if "bgc" in options:
            background = _color(options["bgc"])
        if _flag("om", options.get("om", "false")):
            background = "mask"
        order = cls(
            background=_spec(background),
            format=_one_of("format", options.get("format", "png").replace("jpg", "jpeg"), FORMATS),
            size=_size(options["size"]) if "size" in options else None,
            mask=_mask(options),
            ignored=tuple(name for name in REMBG_ONLY if name in options),
        )
        if order.format == "jpeg" and order.background == "transparent" and not over_picture:
            raise Refusal("bad_request", "jpeg cannot be transparent; use png or a background")
        return order


@dataclass
class Form:
    """A request for a picture: files by field name, and options; a bare picture is ``file``."""

    files: dict[str, bytes] = field(default_factory=dict)
    options: dict[str, str] = field(default_factory=dict)


class Api:
    """The API's handlers.

    jobs: returns the server's jobs; options: ``model``, ``backend`` and ``threads`` of its
    ``Matter``.
    key: the key that clients must send; None allows local clients without one.  hosts: accepted
    host names; None accepts any.
    """

    def __init__(
        self,
        jobs: Callable[[], Jobs],
        options: Mapping[str, Any],
        *,
        key: str | None,
        hosts: tuple[str, ...] | None,
        video_limit: int,
    ) -> None:
        self._jobs, self._options = jobs, options
        self._key, self._hosts, self._video_limit = key, hosts, video_limit
        self._waiting = 0
        self._network = threading.Lock()

    def routes(self) -> list[web.RouteDef]:
        """The API's routes."""
        return [
            web.get(f"{PREFIX}/health", self.health),
            web.get(f"{PREFIX}/openapi.json", self.describe),
            web.post(f"{PREFIX}/matte", self.matte),
            web.post(f"{PREFIX}/remove", self.matte),  # its name at rembg
            web.post(f"{PREFIX}/jobs", self.add_job),
            web.get(f"{PREFIX}/jobs", self.list_jobs),
            web.get(f"{PREFIX}/jobs/{{id}}", self.job),
            web.delete(f"{PREFIX}/jobs/{{id}}", self.remove_job),
            web.get(f"{PREFIX}/jobs/{{id}}/result", self.result),
        ]

    async def lifetime(self, _: web.Application) -> AsyncIterator[None]:
        """Opens the network, and closes it after the last request."""
        with Matter(**self._options) as self._matter, ThreadPoolExecutor(WORKERS) as self._pool:
            yield

    def admit(self, request: web.Request) -> None:
        """Checks that a request is authorised.

        Raises:
            Refusal: the key is missing or wrong, or it comes from a page of another site.
        """
        try:
            host, own = request.url.host, str(request.url.origin())
        except ValueError:  # neither a name nor a valid port
            raise Refusal("bad_request", "the Host header is not valid") from None
        if self._hosts is not None and host not in self._hosts:
            raise Refusal("forbidden", f"this server must be addressed as {self._hosts[0]}")
        if request.path.removeprefix(PREFIX) in OPEN:
            return
        if self._key is None:
            origin = request.headers.get(hdrs.ORIGIN)
            if origin is not None and origin != own:
                raise Refusal("forbidden", "pages of other sites may not use this server")
            return
        scheme, _, given = request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
        if scheme.lower() != "bearer":
            given = request.headers.get("X-Api-Key", "")
        if not hmac.compare_digest(given.strip().encode(), self._key.encode()):
            raise Refusal(
                "unauthorized", "the key is wrong or missing; send Authorization: Bearer KEY"
            )

    async def health(self, _: web.Request) -> web.Response:
        """Health check, with the number of pending pictures."""
        return web.json_response({"status": "ok", "waiting": self._waiting})

    async def describe(self, _: web.Request) -> web.Response:
        """The OpenAPI description."""
        return web.json_response(description(self._video_limit, keyed=self._key is not None))

    async def matte(self, request: web.Request) -> web.Response:
        """Mattes a picture; returns the people or their alpha."""
        if self._waiting >= WAITING:
            response = Refusal("busy", f"{WAITING} pictures are pending; try again").response()
            response.headers[hdrs.RETRY_AFTER] = RETRY_AFTER
            return response
        self._waiting += 1
        try:
            async with asyncio.timeout(TIME_LIMIT):
                form = await _read_form(request)
                over_picture = "background" in form.files
                order = Order.parse({**request.query, **form.options}, over_picture=over_picture)
                loop = asyncio.get_running_loop()
                data = await loop.run_in_executor(self._pool, self._make, form.files, order)
        except TimeoutError:
            raise Refusal("timeout", f"not done within {TIME_LIMIT:g} s; try again") from None
        finally:
            self._waiting -= 1
        response = web.Response(body=data, content_type=FORMATS[order.format][0])
        if order.ignored:
            response.headers["X-Ignored-Options"] = ", ".join(order.ignored)
        return response

    def _make(self, files: Mapping[str, bytes], order: Order) -> bytes:
        """From the bytes of the request to those of the response; runs in a thread."""
        picture = _decode("file", files["file"], order.size)
        try:
            background = self._open(files, order)
            with contextlib.closing(background), self._network:
                look = Look(mask=order.mask)
                made = compose_picture(picture, self._matter, background, look)
        except FuseMatteError as error:
            raise Refusal("internal", str(error)) from error
        return encode_image(made, f".{order.format}", FORMATS[order.format][1])

    def _open(self, files: Mapping[str, bytes], order: Order) -> Background:
        if "background" in files and order.background != "mask":
            return ImageBackground(_decode("background", files["background"], None))
        return open_background(order.background)

    async def add_job(self, request: web.Request) -> web.Response:
        """Creates a job of a video, sent as ``file``; options: background, format, prompts."""
        job = self._jobs().prepare("", _choice("green"), 1.0)
        try:
            options = {**request.query, **await self._receive(request, job)}
            if unknown := set(options) - {"background", "format", "prompts"}:
                raise Refusal("bad_request", f"option {min(unknown)!r} is unknown")
            background = _spec(options.get("background", "green"))
            suffix = "mov" if background == "transparent" else "mp4"
            suffix = _one_of("format", options.get("format", suffix), VIDEO_FORMATS)
            job.background = _choice(background)
            job.prompts = _prompts(options.get("prompts", "[]"))
            job.name = f"{job.name.rpartition('.')[0] or job.name}.{suffix}"
        except BaseException:
            self._jobs().discard(job)
            raise
        self._jobs().submit(job)
        location = {hdrs.LOCATION: f"{PREFIX}/jobs/{job.id}"}
        return web.json_response(job.body(), status=201, headers=location)

    async def _receive(self, request: web.Request, job: Job) -> dict[str, str]:
        """Streams the video to disk; returns the options."""
        options = {}
        async for part in _parts(request):
            if part.name == "file":
                announced = request.content_length or 0
                await save(_chunks(part.read_chunk), announced, job.input, self._video_limit)
                job.name = clean_name(part.filename or "") or "video"
            else:
                options[str(part.name)] = await _text(part)
        if not job.name:
            raise Refusal("bad_request", "there is no video; send it as the field 'file'")
        return options

    async def list_jobs(self, _: web.Request) -> web.Response:
        """All jobs, oldest first."""
        return web.json_response([job.body() for job in self._jobs()])

    async def job(self, request: web.Request) -> web.Response:
        """The state of a job."""
        return web.json_response(self._job(request).body())

    async def remove_job(self, request: web.Request) -> web.Response:
        """Cancels or removes a job."""
        self._jobs().remove(self._job(request))
        return web.json_response({})

    async def result(self, request: web.Request) -> web.FileResponse:
        """The matted video, as a download."""
        return self._job(request).download()

    def _job(self, request: web.Request) -> Job:
        return self._jobs()[request.match_info["id"]]


def _prompts(text: str) -> list[Any]:
    try:
        told = json.loads(text)
    except ValueError as error:
        raise Refusal("bad_request", "prompts: must be a JSON list") from error
    return check_prompts(told)


async def _read_form(request: web.Request) -> Form:
    form = Form()
    if request.content_type.startswith("image/"):
        form.files["file"] = await _limited("file", request.content.read, PICTURE_LIMIT)
        return form
    async for part in _parts(request):
        if part.name in ("file", "background") and part.filename is not None:
            form.files[part.name] = await _limited(part.name, part.read_chunk, PICTURE_LIMIT)
        else:
            form.options[str(part.name)] = await _text(part)
    if "file" not in form.files:
        raise Refusal("bad_request", "there is no picture; send it as the field 'file'")
    return form


async def _parts(request: web.Request) -> AsyncIterator[BodyPartReader]:
    if request.content_type != "multipart/form-data":
        raise Refusal("bad_request", "send multipart/form-data with the field 'file'")
    reader = await _read(request.multipart())
    while (part := await _read(reader.next())) is not None:
        if isinstance(part, MultipartReader):
            raise Refusal("bad_request", "a form within a form cannot be read")
        yield part


async def _chunks(read: Callable[[int], Awaitable[bytes]]) -> AsyncIterator[bytes]:
    while chunk := await _read(read(CHUNK)):
        yield chunk


async def _read(step: Awaitable[Read]) -> Read:
    """One step of reading a request.

    Raises:
        Refusal: it is damaged, for which aiohttp has no error of its own.
    """
    try:
        return await step
    except (ValueError, LookupError, RuntimeError, AssertionError, HttpProcessingError) as error:
        raise Refusal("bad_request", "the request cannot be read; is it cut short?") from error


async def _limited(name: str, read: Callable[[int], Awaitable[bytes]], limit: int) -> bytes:
    data = bytearray()
    async for chunk in _chunks(read):
        data += chunk
        if len(data) > limit:
            raise Refusal("too_large", f"{name}: is larger than the limit, {limit / MEBIBYTE:g} MB")
    return bytes(data)


async def _text(part: BodyPartReader) -> str:
    data = await _limited(str(part.name), part.read_chunk, FIELD_LIMIT)
    return data.decode(errors="replace").strip()


def _decode(name: str, data: bytes, size: int | None) -> Picture:
    """Decodes a picture, and scales its longer side down to ``size`` if it is longer."""
    try:
        width, height = read_header(data)[:2]
        if not width:
            width, height = imagesize.get(io.BytesIO(data))
        if width * height > PIXEL_LIMIT:
            most = f"{PIXEL_LIMIT // 10**6} million pixels"
            raise Refusal("too_large", f"{name}: {width}x{height} is over the limit, {most}")
        picture = decode_image(data) if width > 0 else None
    except (OSError, ValueError, cv2.error):
        picture = None
    if picture is None:
        raise Refusal("unreadable", f"{name}: is not a readable picture")
    scale = 1 if size is None else size / max(picture.shape)
    if scale >= 1:
        return picture
    sides = [max(1, round(side * scale)) for side in picture.shape[1::-1]]
    return np.asarray(cv2.resize(picture, sides, interpolation=cv2.INTER_AREA), np.uint8)


def _choice(spec: str) -> BackgroundChoice:
    return BackgroundChoice(id=spec if spec != BLUR else "api", name=spec, spec=spec, thumbnail=b"")


def _spec(text: str) -> str:
    """Checks that a background is not a path: clients must not read the server's files."""
    if re.fullmatch(r"green|transparent|mask|#[0-9a-fA-F]{6}|blur(:\d+(\.\d+)?)?", text) is None:
        raise Refusal(
            "bad_request",
            f"background {text!r} is not one of green, #rrggbb, blur[:sigma], transparent, mask; "
            "send a picture as the file field 'background'",
        )
    try:
        open_background(text).close()
    except BackgroundError as error:
        raise Refusal("bad_request", str(error)) from None
    return text


def _color(text: str) -> str:
    """rembg's ``r,g,b,a``."""
    numbers = re.fullmatch(r"(\d{1,3}),(\d{1,3}),(\d{1,3})(?:,(\d{1,3}))?", text.replace(" ", ""))
    parts = [int(part or 255) for part in numbers.groups()] if numbers else [-1] * 4
    red, green, blue, alpha = parts
    if not all(0 <= part <= 255 for part in (red, green, blue)) or alpha not in (0, 255):
        raise Refusal("bad_request", "bgc must be r,g,b,a from 0 to 255, with 0 or 255 for a")
    return f"#{red:02x}{green:02x}{blue:02x}" if alpha else "transparent"


def _mask(options: Mapping[str, str]) -> Mask:
    try:
        numbers = {name: read(options[name]) for name, read in MASK.items() if name in options}
        return Mask(invert=_flag("invert", options.get("invert", "false")), **numbers)
    except ValueError as error:
        raise Refusal("bad_request", f"invalid mask edit: {error}") from None


def _flag(name: str, text: str) -> bool:
    if text.lower() not in ("true", "1", "false", "0"):
        raise Refusal("bad_request", f"{name} must be true or false, not {text!r}")
    return text.lower() in ("true", "1")


def _one_of(name: str, text: str, known: Any) -> str:  # noqa: ANN401
    if text not in known:
        raise Refusal("bad_request", f"{name} must be one of {', '.join(known)}, not {text!r}")
    return text


def _size(text: str) -> int:
    if not text.isdecimal() or int(text) not in SIZES:
        raise Refusal("bad_request", f"size must be {SIZES[0]} to {SIZES[-1]} pixels, not {text!r}")
    return int(text)
