"""Video jobs of the page and the API, processed one after the other."""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from aiohttp import web

from fusematte.engine.errors import FuseMatteError, UsageError
from fusematte.engine.jobs.options import JobOptions
from fusematte.engine.jobs.prompts import parse_prompts
from fusematte.engine.jobs.single import run_once
from fusematte.engine.media.files import part_of
from fusematte.engine.media.formats import CONTAINERS
from fusematte.engine.media.reader import Reader
from fusematte.engine.pipeline import Statistics
from fusematte.engine.serve.backgrounds import BackgroundChoice
from fusematte.engine.serve.errors import Refusal

MOST = 20
"""Maximum number of jobs, including finished ones, which stay until they are removed."""

log = logging.getLogger(__name__)


class _Cancelled(Exception):
    """Raised in the job's own thread, between two frames."""


@dataclass(kw_only=True)
class Job:
    """One video; its state is ``queued``, ``running``, then ``done`` or ``failed``.

    folder: contains the upload and the result.
    name: of the user's file.
    error: why it failed.
    frames, total: frames done, and in all, if known; rate: frames per second.
    duration, frame_rate: of the video, in seconds and frames per second, once it was opened.
    prompts: who is kept, as JSON (``jobs.prompts.read_prompts``); none: everybody.
    """

    id: str
    folder: Path
    name: str
    background: BackgroundChoice
    blur: float
    state: str = "queued"
    error: Refusal | None = None
    frames: int = 0
    total: int | None = None
    rate: float = 0.0
    cancelled: bool = False
    duration: float | None = None
    frame_rate: float | None = None
    prompts: list[Any] = field(default_factory=list)

    @property
    def input(self) -> Path:
        """The path of the upload."""
        return self.folder / "upload"

    @property
    def output(self) -> Path:
        """The path of the result, in the upload's container or MP4."""
        suffix = Path(self.name).suffix.lower()
        return self.folder / f"result{suffix if suffix in CONTAINERS else '.mp4'}"

    @property
    def result(self) -> Path | None:
        """The file to download: the result, or the part of it from a truncated input."""
        if self.state not in ("done", "failed"):
            return None
        return next((path for path in (self.output, part_of(self.output)) if path.exists()), None)

    @property
    def result_name(self) -> str:
        """The file name of the download."""
        return f"{Path(self.name).stem}-matted{self.output.suffix}"

    def download(self) -> web.FileResponse:
        """The result as a download.

        Raises:
            Refusal: there is none yet.
        """
        if self.result is None:
            raise Refusal("not_found", f"{self.name}: has no result yet")
        name = quote(self.result_name, safe="")
        headers = {"Content-Disposition": f"attachment; filename*=UTF-8''{name}"}
        return web.FileResponse(self.result, headers=headers)

    def body(self) -> dict[str, Any]:
        """The job as JSON."""
        return {
            "id": self.id,
            "name": self.name,
            "background": self.background.name,
            "state": self.state,
            "error": self.error and self.error.body(),
            "frames": self.frames,
            "total": self.total,
            "rate": self.rate,
            "result": self.result_name if self.result else None,
            "duration": self.duration,
            "frame_rate": self.frame_rate,
            "prompts": self.prompts,
        }

    def run(self, options: dict[str, Any]) -> None:
        """Runs the job; blocks until it ends."""
        try:
            background = self.background.spec_with(self.blur)
            job = JobOptions(background=background, prompts=self._write_prompts(), **options)
            run_once(self.input, self.output, job, progress=self._progress)
            self.state = "done"
        except _Cancelled:
            self._fail("bad_request", "cancelled")
        except FuseMatteError as error:
            self._fail("unreadable", self.public(str(error)))
        except Exception:
            log.exception("the job of %s failed", self.name)
            self._fail("internal", "the job failed; see the server's terminal")

    def _write_prompts(self) -> Path | None:
        if not self.prompts:
            return None
        path = self.folder / "prompts.json"
        path.write_text(json.dumps({"prompts": self.prompts}), "utf-8")
        return path

    def _progress(self, frames: int, reader: Reader, statistics: Statistics) -> None:
        if self.cancelled:
            raise _Cancelled
        self.frames, self.total = frames, reader.frame_count
        self.duration = None if reader.info.duration is None else float(reader.info.duration)
        rate = reader.info.frame_rate
        self.frame_rate = None if rate is None else float(rate)
        self.rate = frames / statistics.elapsed

    def _fail(self, code: str, message: str) -> None:
        self.error, self.state = Refusal(code, message), "failed"

    def public(self, message: str) -> str:
        """A message without the paths of the server's files."""
        names = {
            str(self.output): self.result_name,
            str(self.input): self.name,
            self.background.spec: self.background.name,
        }
        for path, name in names.items():
            message = message.replace(path, name)
        return message


def check_prompts(prompts: object) -> list[Any]:
    """A JSON list of prompts.

    Raises:
        Refusal: it is not a list, or an entry is invalid.
    """
    try:
        parse_prompts(prompts)
    except UsageError as error:
        raise Refusal("bad_request", str(error)) from error
    assert isinstance(prompts, list)
    return prompts


class Jobs:
    """The list of jobs, oldest first; one runs at a time.

    options: options of all jobs (model, backend, threads).
    """

    def __init__(self, folder: Path, options: dict[str, Any]) -> None:
        self._folder, self._options = folder, options
        self._numbers = itertools.count(1)
        self._jobs: dict[str, Job] = {}
        self._waiting: asyncio.Queue[Job | None] = asyncio.Queue()
        self._worker = asyncio.create_task(self._work())

    def __iter__(self) -> itertools.chain[Job]:
        return itertools.chain(self._jobs.values())

    def __getitem__(self, id: str) -> Job:
        """The job with this id.

        Raises:
            Refusal: there is none.
        """
        try:
            return self._jobs[id]
        except KeyError:
            raise Refusal(
                "not_found", f"there is no job {id!r}; it may have been removed"
            ) from None

    def prepare(self, name: str, background: BackgroundChoice, blur: float) -> Job:
        """A new job; upload its video to ``job.input``, then ``submit`` or ``discard`` it.

        Raises:
            Refusal: the list is full.
        """
        if sum(1 for _ in self._folder.iterdir()) >= MOST:
            raise Refusal("busy", f"{MOST} jobs is the limit; remove finished ones")
        id = str(next(self._numbers))
        job = Job(id=id, folder=self._folder / id, name=name, background=background, blur=blur)
        job.folder.mkdir()
        return job

    def submit(self, job: Job) -> None:
        """Queues a job."""
        self._jobs[job.id] = job
        self._waiting.put_nowait(job)

    def repeat(self, job: Job, prompts: object) -> None:
        """Queues a finished job again, with other prompts.

        Raises:
            Refusal: it is not finished, or the prompts are invalid.
        """
        if job.state not in ("done", "failed"):
            raise Refusal("busy", f"{job.name}: is not finished yet")
        listed = check_prompts(prompts)
        for path in (job.output, part_of(job.output)):
            path.unlink(missing_ok=True)
        job.prompts, job.state, job.error = listed, "queued", None
        job.frames, job.rate = 0, 0.0
        self._waiting.put_nowait(job)

    def remove(self, job: Job) -> None:
        """Removes a job and its files; cancels it if it is not finished."""
        job.cancelled = True
        self._jobs.pop(job.id, None)
        if job.state != "running":  # otherwise the worker does, when the job has closed its files
            self.discard(job)

    def discard(self, job: Job) -> None:
        """Deletes the files of a job."""
        shutil.rmtree(job.folder, ignore_errors=True)

    async def close(self) -> None:
        """Cancels all unfinished jobs, and waits until their files are closed."""
        for job in self:
            job.cancelled = True
        self._waiting.put_nowait(None)
        await self._worker

    async def _work(self) -> None:
        while (job := await self._waiting.get()) is not None:
            if not job.cancelled:
                job.state = "running"
                await asyncio.to_thread(job.run, self._options)
            if job.cancelled:
                self.discard(job)
