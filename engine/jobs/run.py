"""``fusematte.run``: replaces the background of a video."""

from __future__ import annotations

import logging
from contextlib import ExitStack
from fractions import Fraction
from os import fspath
from pathlib import Path

from fusematte.engine.errors import UsageError
from fusematte.engine.frame import VideoInfo
from fusematte.engine.jobs.options import JobOptions, StrPath
from fusematte.engine.jobs.ray_cluster import Cluster
from fusematte.engine.jobs.review_page import Review, check_folder
from fusematte.engine.jobs.segmented import SegmentedJob
from fusematte.engine.jobs.single import Progress, Report
from fusematte.engine.jobs.workers import Processes, Workers
from fusematte.engine.matting.matter import Quality
from fusematte.engine.media import segments
from fusematte.engine.media.audio import AudioMode
from fusematte.engine.media.image_sequence import AlphaMode
from fusematte.engine.media.notices import collected
from fusematte.engine.models import DEFAULT_MODEL

log = logging.getLogger(__name__)

BOTH = "--jobs is for this machine and --cluster for others; leave one out"


def run(
    input: StrPath,
    output: StrPath,
    *,
    background: StrPath = "green",
    light_wrap: float = 0.0,
    despill: float = 0.0,
    invert: bool = False,
    grow: int = 0,
    feather: float = 0.0,
    min_alpha: float = 0.0,
    keep: tuple[str, ...] = (),
    drop: tuple[str, ...] = (),
    keep_box: tuple[str, ...] = (),
    keep_mask: StrPath | None = None,
    prompts: StrPath | None = None,
    smoothing: bool = False,
    lookahead: int = 0,
    quality: Quality = "normal",
    network_every: int = 16,
    alpha_output: StrPath | None = None,
    foreground_output: StrPath | None = None,
    rgba_output: StrPath | None = None,
    codec: str | None = None,
    pixel_format: str | None = None,
    crf: int | None = None,
    bitrate: int | None = None,
    preset: str | None = None,
    alpha_mode: AlphaMode | None = None,
    audio: AudioMode | bool = "convert",
    start: Fraction | float | None = None,
    end: Fraction | float | None = None,
    frame_rate: Fraction | None = None,
    model: StrPath = DEFAULT_MODEL,
    backend: str = "auto",
    threads: int | None = None,
    resume: bool = False,
    jobs: int = 1,
    cluster: Cluster | str | None = None,
    report: StrPath | None = None,
    progress: Progress | None = None,
) -> Report:
    """Replaces the background of a whole video.

    Frames keep their timestamps, size, colour tags and orientation; audio and subtitles are copied.
    An unfinished output is called ``OUTPUT.part``; it remains, and is playable, if the job fails.
    Outputs are video files, ``-`` for standard output, or sequences such as ``o_%05d.png``.

    Args:
        input: a video file, a URL, a folder or pattern of pictures, or ``-`` for standard input.
        background: ``green``, ``#rrggbb``, ``blur[:sigma]``, ``transparent`` (the foreground with
            alpha), ``mask`` (only the alpha, as grayscale), a picture or a video.
        light_wrap, despill: see ``engine.compositing.look.Look``; 0 to 1.
        invert, grow, feather, min_alpha: edits of the alpha, see ``engine.matting.mask.Mask``.
        keep, drop: clicks on what is to be kept, or not: ``"X,Y"`` or ``"X,Y@TIME"``, from the
            upper left corner of the displayed picture, as fractions of its width and height where
            none is above 1, else in pixels; TIME in seconds.
        keep_box: boxes around what is to be kept: ``"X,Y,WIDTH,HEIGHT@TIME"``.
        keep_mask: a picture that is white where the first frame is to be kept.
        prompts: a JSON file with all of these, see ``engine.jobs.prompts.read_prompts``.
        smoothing, lookahead: reduce flicker; lookahead uses so many following frames, 0 to 30.
        quality: "high" runs the network on twice its default area, which takes twice as long.
        network_every: on a CPU, the network mattes one frame of so many where all moves as
            foreseen, else of half as many, and of a quarter where much moves; the frames between
            follow the motion where both sides agree.  1: the network mattes every frame.
        alpha_output, foreground_output, rgba_output: further outputs: the alpha as grayscale, the
            foreground colours without alpha, the foreground colours with alpha.
        codec, pixel_format, crf, bitrate, preset: encoding of ``output``; None: chosen by
            container.
        alpha_mode: alpha of picture sequences: "straight" or "premultiplied".
        audio: "convert" (or True) copies audio streams and converts those that the container
            cannot hold; "copy" raises an error for these; "none" (or False) leaves audio out.
        start, end: the part of the video to process, in seconds.
        frame_rate: frames per second of picture sequences as input.
        model: a shipped model's name or a bundle folder.
        backend: inference backend, ``auto`` or ``NAME[:DEVICE][:PRECISION]``.
        threads: CPU threads for inference; None takes the number measured best, or half of the
            processors and two at least.
        resume: continue an interrupted job with the same input, outputs and options.
        jobs: segments of a long video processed side by side, each by its own process; a script
            that uses this needs ``if __name__ == "__main__"``.
        cluster: ``auto``, or the address of a Ray cluster that does the work.
        report: a folder for the review page.
        progress: called after each frame.

    Raises:
        FuseMatteError: see ``fusematte.engine.errors`` for the kinds.
    """
    options = JobOptions.of(locals())
    return run_job(
        input,
        output,
        options,
        resume=resume,
        jobs=jobs,
        workers=cluster,
        report=report,
        progress=progress,
    )


def run_job(
    input: StrPath,
    output: StrPath,
    options: JobOptions,
    *,
    resume: bool = False,
    jobs: int = 1,
    workers: Workers | str | None = None,
    report: StrPath | None = None,
    progress: Progress | None = None,
) -> Report:
    """``run`` with the options in one value.

    workers: what processes segments in parallel; a string is the address of a cluster.
    """
    if jobs != 1 and workers is not None:
        raise UsageError(BOTH, option="jobs")
    if report is not None and fspath(input).startswith(("-", "pipe:")):
        raise UsageError(
            f"--report reads the input twice, which {input} does not allow",
            path=fspath(input),
            remedy="use a file",
            option="report",
        )
    # Invalid options are reported before anything is opened.
    options.stages(), options.selection
    folder = None if report is None else check_folder(report)
    job = SegmentedJob(input, output, options, measured=folder is not None)
    done = _run(job, resume, jobs, workers, progress)
    if folder is not None:
        settings = {"background": options.background, **options.settings()}
        model = f"{job.bundle.name} {job.bundle.version}"
        review = Review(Path(input), Path(output), settings, model, done)
        with collected():
            review.write(folder, job.measures)
    return done


def _run(
    job: SegmentedJob,
    resume: bool,
    jobs: int,
    workers: Workers | str | None,
    progress: Progress | None,
) -> Report:
    if job.options.selects and (workers is not None or jobs != 1):
        log.warning("processed in order, not in parallel: a selection is followed frame by frame")
        jobs, workers = 1, None
    with ExitStack() as stack:
        if isinstance(workers, str):
            workers = stack.enter_context(Cluster(workers))
        elif jobs != 1:
            workers = stack.enter_context(Processes(jobs))
        if job.whole_because is not None:
            if resume:
                job.open().close()  # an unreadable input is the more important error
                raise UsageError(
                    f"--resume cannot be used here: {job.whole_because}",
                    remedy="leave it out",
                    option="resume",
                )
            if workers is not None:
                log.warning("processed as a whole, not in parallel: %s", job.whole_because)
            return job.run_at_once(progress)
        with job.open() as reader:
            if (workers is None or jobs != 1) and is_short(reader.info):
                return job.run_at_once(progress, reader)
            plan = job.plan(reader)
        if isinstance(workers, Processes):
            job.warm_up(workers.threads)
        return job.run(plan, resume, workers, progress)


def is_short(info: VideoInfo) -> bool:
    """Whether a video is too short to be split into segments."""
    return info.frame_count is not None and info.frame_count <= segments.FRAMES
