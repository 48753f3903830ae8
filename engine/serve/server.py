"""The web server: routes, tokens, headers, errors."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import hmac
import logging
import os
import re
import secrets
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import AsyncIterator, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.typedefs import Handler, Middleware

from fusematte.engine.compositing.backgrounds import DEFAULT_BLUR
from fusematte.engine.errors import FuseMatteError, OutputError, UsageError
from fusematte.engine.jobs.prompts import parse_prompts
from fusematte.engine.matting.matter import Matter
from fusematte.engine.media.locks import FolderLock
from fusematte.engine.models import DEFAULT_MODEL
from fusematte.engine.serve.api import LOCAL, PREFIX, Api
from fusematte.engine.serve.backgrounds import BLUR, MAX_BLUR, BackgroundChoice, Library, parse_blur
from fusematte.engine.serve.camera import Lives
from fusematte.engine.serve.editing import outline_at, picture_at
from fusematte.engine.serve.errors import Refusal
from fusematte.engine.serve.jobs import Job, Jobs
from fusematte.engine.serve.uploads import MEBIBYTE, file_name, receive

HOST = "127.0.0.1"
BUDGET_MS = 1000 / 30
"""One frame at the rate that the page requests from cameras."""
KEY_VARIABLE = "FUSEMATTE_API_KEY"
"""Environment variable with the key that API clients must send."""
PAGE = Path(__file__).parent / "page"
VIDEO_LIMIT = 1024 * MEBIBYTE
BACKGROUND_LIMIT = 64 * MEBIBYTE
JSON_LIMIT = MEBIBYTE // 16
FOLDER = "fusematte-serve-"
"""Prefix of a server's folder in the system's temporary folder."""
IDLE = 20.0
"""Maximum seconds until the header of a request is complete."""
LONGEST = 1e9
"""Upper bound of a time in a video, in seconds."""
SHUTDOWN = 2.0
"""Seconds that open requests have to finish when the server stops."""
ARENAS = 2
"""Heaps of the C library, shared by all threads."""

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "media-src 'self' blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'; require-trusted-types-for 'script'"
    ),
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",  # the address holds the token
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


_OWN = re.compile(r"(?:127\.0\.0\.1|localhost)(?::\d{1,5})?")
_LAST_PORT = 65_535
_M_ARENA_MAX = -8
"""glibc's malloc.h."""

log = logging.getLogger(__name__)


def serve(
    port: int,
    *,
    budget_ms: float = BUDGET_MS,
    api: bool = False,
    host: str = HOST,
    model: str | os.PathLike[str] = DEFAULT_MODEL,
    backend: str = "auto",
    threads: int | None = None,
) -> None:
    """Serves the page until the process is interrupted or terminated.

    budget_ms: latency budget of the cameras' sessions.
    api: also serve the HTTP API below ``/api``; its key is in the environment.
    host: the address to listen on.  Other machines can only use the API, and only with a key; the
    page is always restricted to this machine.
    model, backend, threads: as for ``Session``, of cameras, jobs and pictures alike.

    Raises:
        UsageError: the port or the budget cannot be used, or the key is missing.
        ModelError, BackendError: the model or the backend cannot be used.
    """
    key = os.environ.get(KEY_VARIABLE) or None
    if host not in LOCAL and not (api and key):
        raise UsageError(
            f"--host {host}: access from other machines needs --api, and a key in {KEY_VARIABLE}",
            option="host",
        )
    _limit_arenas()
    with contextlib.suppress(KeyboardInterrupt, asyncio.CancelledError):
        options = {"model": model, "backend": backend, "threads": threads}
        asyncio.run(_serve((host, port), budget_ms, options, _Door(key, host) if api else None))


def _limit_arenas() -> None:
    """Restricts glibc to ``ARENAS`` heaps, as the environment's MALLOC_ARENA_MAX does.

    By default it has eight per processor, and each job's threads are given any of them.  What a job
    frees stays in its heap, in pieces between what is in use, so that memory grows for hours.
    """
    if sys.platform == "linux":
        with contextlib.suppress(AttributeError):  # other C libraries have no arenas
            ctypes.CDLL(None).mallopt(_M_ARENA_MAX, ARENAS)


class _Door(NamedTuple):
    """Access to the API: clients with the key, or without one, local clients only."""

    key: str | None
    host: str


async def _serve(
    address: tuple[str, int], budget_ms: float, options: dict[str, Any], door: _Door | None
) -> None:
    task = asyncio.current_task()
    assert task is not None
    with contextlib.suppress(NotImplementedError):  # Windows
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    _clean_up()
    with (
        tempfile.TemporaryDirectory(prefix=FOLDER) as folder,
        contextlib.closing(FolderLock(Path(folder))),
    ):
        token = secrets.token_urlsafe()
        app = make_app(token, Service(Path(folder), budget_ms, options), door)
        runner = web.AppRunner(
            app, access_log=None, logger=_quiet_log(token), shutdown_timeout=SHUTDOWN
        )
        watch = asyncio.create_task(_end_idle(runner))
        try:
            await runner.setup()
            port = await _listen(runner, *address)
            url = f"http://{HOST}:{port}/{token}/"
            print(f"{url}\nopen this address in a browser; Ctrl-C stops the server", flush=True)
            if door is not None:
                print(f"HTTP API: http://{address[0]}:{port}{PREFIX}/openapi.json", flush=True)
            await asyncio.Event().wait()
        finally:
            watch.cancel()
            await runner.cleanup()


def _clean_up() -> None:
    """Deletes the folders of servers that were killed: those that are not locked."""
    if os.name == "nt":  # there folders cannot be locked
        return
    for folder in Path(tempfile.gettempdir()).glob(f"{FOLDER}*"):
        with contextlib.suppress(OSError, OutputError):
            if folder.stat().st_uid != os.getuid():
                continue
            with contextlib.closing(FolderLock(folder)):
                shutil.rmtree(folder, ignore_errors=True)


async def _end_idle(runner: web.AppRunner) -> None:
    """Ends connections that do not complete a request within ``IDLE`` seconds."""
    since: dict[Any, float] = {}
    while True:
        await asyncio.sleep(IDLE / 4)
        now = time.monotonic()
        waiting = [
            connection
            for connection in (runner.server.connections if runner.server else ())
            if connection._current_request is None
        ]
        since = {connection: since.get(connection, now) for connection in waiting}
        for connection, begun in since.items():
            if now - begun > IDLE and connection.transport is not None:
                connection.transport.abort()


async def _listen(runner: web.AppRunner, host: str, port: int) -> int:
    """Opens the port; returns its number."""
    try:
        await web.TCPSite(runner, host, port).start()
    except (OSError, OverflowError) as error:
        in_use = isinstance(error, OSError) and error.errno == errno.EADDRINUSE
        reason = "is in use" if in_use else f"cannot be listened on ({error})"
        raise UsageError(
            f"port {port} {reason}", remedy="choose another one with --port", option="port"
        ) from error
    return int(runner.addresses[0][1])


def make_app(token: str, service: Service, door: _Door | None = None) -> web.Application:
    """The application; all paths are below ``/TOKEN/``, except the API below ``/api/``."""
    api = None if door is None else service.api(door)
    app = web.Application(
        client_max_size=JSON_LIMIT, middlewares=[_refusals(token), _guard(token, api)]
    )
    app.on_response_prepare.append(_add_headers)
    app.cleanup_ctx.append(service.lifetime)
    app.on_shutdown.append(service.hang_up)
    prefix = f"/{token}"
    app.add_routes(
        [
            web.get(f"{prefix}/", service.index),
            web.get(f"{prefix}/state", service.state),
            web.post(f"{prefix}/backgrounds", service.add_background),
            web.get(f"{prefix}/backgrounds/{{id}}/thumbnail", service.thumbnail),
            web.get(f"{prefix}/jobs", service.list_jobs),
            web.post(f"{prefix}/jobs", service.add_job),
            web.delete(f"{prefix}/jobs/{{id}}", service.remove_job),
            web.get(f"{prefix}/jobs/{{id}}/result", service.result),
            web.get(f"{prefix}/jobs/{{id}}/frame", service.frame),
            web.post(f"{prefix}/jobs/{{id}}/outline", service.outline),
            web.post(f"{prefix}/jobs/{{id}}/prompts", service.choose),
            web.get(f"{prefix}/live", service.live),
            web.static(f"{prefix}/page", PAGE),
        ]
    )
    if api is not None:
        app.cleanup_ctx.append(api.lifetime)
        app.add_routes(api.routes())
    return app


async def _add_headers(_: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(HEADERS)


def _refusals(token: str) -> Middleware:
    """Converts exceptions to error responses; the token is never logged."""

    @web.middleware
    async def refusals(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except Refusal as refusal:
            return refusal.response()
        except web.HTTPMethodNotAllowed:
            return Refusal(
                "method_not_allowed", f"{request.method} is not allowed for this path"
            ).response()
        except web.HTTPRequestEntityTooLarge:
            return Refusal("too_large", "the request is too large").response()
        except web.HTTPClientError:
            return Refusal("not_found", "this path does not exist").response()
        except web.HTTPException:
            raise
        except (HttpProcessingError, web.RequestPayloadError):
            return Refusal("bad_request", "the request is malformed").response()
        except ConnectionError:  # the client has disconnected; nobody reads this
            return Refusal("bad_request", "the upload was interrupted").response()
        except Exception:
            text = traceback.format_exc().replace(token, "TOKEN")
            log.error("%s failed: %s", request.method, text)
            return Refusal("internal", "the server failed; see its terminal").response()

    return refusals


def _quiet_log(token: str) -> logging.Logger:
    """The log of aiohttp itself: without the token, and without the mistakes of clients."""

    def tells(record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, (HttpProcessingError, ConnectionError)):
            return False
        if record.exc_info:
            record.exc_text = logging.Formatter().formatException(record.exc_info)
            record.exc_text = record.exc_text.replace(token, "TOKEN")
        record.msg, record.args = record.getMessage().replace(token, "TOKEN"), None
        return True

    quiet = logging.getLogger(f"{__name__}.http")
    quiet.addFilter(tells)
    return quiet


def _guard(token: str, api: Api | None) -> Middleware:
    """Only admits requests with the token that are addressed to this machine's own name."""

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        if api is not None and request.path.startswith(f"{PREFIX}/"):
            api.admit(request)
            return await handler(request)
        # A page of another site may resolve its own name to 127.0.0.1 (DNS rebinding) ...
        host = request.headers.get("Host", "")
        if not _OWN.fullmatch(host) or int(host.partition(":")[2] or 80) > _LAST_PORT:
            raise Refusal("forbidden", f"this server must be addressed as {HOST}")
        # ... or send cross-origin requests, which browsers mark.
        if request.headers.get("Origin", f"http://{host}") != f"http://{host}":
            raise Refusal("forbidden", "requests from other sites are not allowed")
        given = request.path.split("/")[1]
        if not hmac.compare_digest(given.encode(), token.encode()):
            raise Refusal(
                "forbidden",
                "the token is wrong or missing; open the address that fusematte serve printed",
            )
        return await handler(request)

    return guard


class Service:
    """The page's handlers and their shared state.

    options: ``model``, ``backend`` and ``threads``.
    """

    library: Library
    jobs: Jobs
    lives: Lives

    def __init__(self, folder: Path, budget_ms: float, options: dict[str, Any]) -> None:
        if not budget_ms > 0:
            raise UsageError(
                f"the budget must be above 0 ms, not {budget_ms:g}", option="budget_ms"
            )
        self._folder, self._budget_ms, self._options = folder, budget_ms, options

    def api(self, door: _Door) -> Api:
        """The handlers of the API."""
        local = door.host in LOCAL
        return Api(
            lambda: self.jobs,
            self._options,
            key=door.key,
            hosts=LOCAL if local else None,
            video_limit=VIDEO_LIMIT,
        )

    async def lifetime(self, _: web.Application) -> AsyncIterator[None]:
        """Opens the shared state, and closes it after the last request."""
        pictures, uploads = self._folder / "backgrounds", self._folder / "jobs"
        pictures.mkdir()
        uploads.mkdir()
        self.library = Library(pictures)
        self.jobs = Jobs(uploads, self._options)
        self.lives = Lives(self.library, {**self._options, "budget_ms": self._budget_ms})
        try:
            with Matter(**self._options):  # compiled once, shared by all sessions and jobs
                yield
        finally:
            await self.jobs.close()

    async def hang_up(self, _: web.Application) -> None:
        """Ends the live sessions, which would delay the shutdown."""
        await self.lives.close()

    async def index(self, _: web.Request) -> web.FileResponse:
        """The page."""
        return web.FileResponse(PAGE / "index.html")

    async def state(self, _: web.Request) -> web.Response:
        """The page's initial state."""
        return web.json_response(
            {
                "backgrounds": [_body(choice) for choice in self.library],
                "blur": {"id": BLUR, "sigma": DEFAULT_BLUR, "most": MAX_BLUR},
                "limits": {"video": VIDEO_LIMIT, "background": BACKGROUND_LIMIT},
                "live": len(self.lives),
            }
        )

    async def thumbnail(self, request: web.Request) -> web.Response:
        """A background as a small JPEG."""
        choice = self.library[request.match_info["id"]]
        return web.Response(body=choice.thumbnail, content_type="image/jpeg")

    async def add_background(self, request: web.Request) -> web.Response:
        """Uploads a background, a picture or a video, as the body; ``?name=`` is its name."""
        name = file_name(request)
        id, path = self.library.next_path()
        await receive(request, path, BACKGROUND_LIMIT)
        choice = await asyncio.to_thread(self.library.add, id, path, name)
        return web.json_response(_body(choice), status=201)

    async def list_jobs(self, _: web.Request) -> web.Response:
        """All jobs, oldest first."""
        return web.json_response([job.body() for job in self.jobs])

    async def add_job(self, request: web.Request) -> web.Response:
        """Uploads a video as the body and queues it; query: ``name``, ``background``, ``blur``."""
        choice = self.library[request.query.get("background", BLUR)]
        blur = parse_blur(request.query.get("blur", str(DEFAULT_BLUR)))
        job = self.jobs.prepare(file_name(request), choice, blur)
        try:
            await receive(request, job.input, VIDEO_LIMIT)
        except BaseException:
            self.jobs.discard(job)
            raise
        self.jobs.submit(job)
        return web.json_response(job.body(), status=201)

    async def remove_job(self, request: web.Request) -> web.Response:
        """Cancels or removes a job."""
        self.jobs.remove(self._job(request))
        return web.json_response({})

    async def result(self, request: web.Request) -> web.FileResponse:
        """The matted video, as a download."""
        return self._job(request).download()

    async def frame(self, request: web.Request) -> web.Response:
        """The frame of a job's video at ``?time=``, in seconds, as a JPEG."""
        job, time = self._job(request), _seconds(request.query.get("time", "0"))
        with _reading(job):
            body = await asyncio.to_thread(picture_at, job.input, time)
        return web.Response(body=body, content_type="image/jpeg")

    async def outline(self, request: web.Request) -> web.Response:
        """What prompts choose in the frame at a time; body: ``time`` and ``prompts``."""
        job, told = self._job(request), await _told(request)
        time = _seconds(told.get("time", 0))
        with _reading(job):
            selection = parse_prompts(told.get("prompts"))
            edges = await asyncio.to_thread(outline_at, job.input, time, selection, self._options)
        return web.json_response({"outline": edges})

    async def choose(self, request: web.Request) -> web.Response:
        """Mattes a finished job's video again, with other ``prompts``."""
        job, told = self._job(request), await _told(request)
        self.jobs.repeat(job, told.get("prompts", []))
        return web.json_response(job.body())

    async def live(self, request: web.Request) -> web.StreamResponse:
        """The websocket of a live camera."""
        return await self.lives.handle(request)

    def _job(self, request: web.Request) -> Job:
        return self.jobs[request.match_info["id"]]


async def _told(request: web.Request) -> dict[str, Any]:
    """The body of a request: a JSON object."""
    try:
        told = await request.json()
    except ValueError as error:
        raise Refusal("bad_request", "the body must be JSON") from error
    if not isinstance(told, dict):
        raise Refusal("bad_request", "the body must be a JSON object")
    return told


def _seconds(given: object) -> Fraction:
    try:
        seconds = Fraction(str(given))
    except (ValueError, ZeroDivisionError) as error:
        raise Refusal("bad_request", "time must be a number of seconds") from error
    if not 0 <= seconds < LONGEST:
        raise Refusal("bad_request", "time must lie within the video")
    return seconds


@contextlib.contextmanager
def _reading(job: Job) -> Iterator[None]:
    """Refuses the request if a job's video cannot be read; the message has none of the server's
    paths."""
    try:
        yield
    except FuseMatteError as error:
        raise Refusal("bad_request", job.public(str(error))) from error


def _body(choice: BackgroundChoice) -> dict[str, str]:
    return {"id": choice.id, "name": choice.name}
