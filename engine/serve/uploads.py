"""Uploads: streams the body of a request to a file, up to a limit."""

from __future__ import annotations

import asyncio
import errno
import shutil
import time
from collections.abc import AsyncIterator
from pathlib import Path

from aiohttp import web

from fusematte.engine.serve.errors import Refusal

MEBIBYTE = 1 << 20
CHUNK = MEBIBYTE
SPARE = 512 * MEBIBYTE
"""Bytes that must stay free on the disk, for the result and other programs."""
PATIENCE, SLOWEST = 30.0, 64 << 10
"""An upload must reach SLOWEST bytes per second on average, with PATIENCE seconds of grace."""
NAME_LENGTH = 120


async def receive(request: web.Request, target: Path, limit: int) -> None:
    """Writes the body of a request to ``target``, which is deleted after a failure.

    Raises:
        Refusal: it is empty, over ``limit`` bytes, or does not fit on the disk.
    """
    await save(request.content.iter_chunked(CHUNK), request.content_length or 0, target, limit)


async def save(chunks: AsyncIterator[bytes], announced: int, target: Path, limit: int) -> None:
    """Writes chunks to ``target``, as ``receive`` does; announced: size in bytes, 0 if unknown."""
    _check_size(announced, limit)
    if shutil.disk_usage(target.parent).free < announced + SPARE:
        raise Refusal("storage_full", "the disk is too full for this file; free some space")
    try:
        if not await _copy(chunks, target, limit):
            raise Refusal("bad_request", "the file is empty")
    except BaseException as error:
        target.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise Refusal("storage_full", "the disk is full; free some space") from error
        raise


async def _copy(chunks: AsyncIterator[bytes], target: Path, limit: int) -> int:
    size, begun = 0, time.monotonic()
    with target.open("wb") as file:
        while True:
            spare = begun + PATIENCE + size / SLOWEST - time.monotonic()
            try:
                async with asyncio.timeout(spare):
                    chunk = await anext(chunks, b"")
            except TimeoutError:
                raise Refusal("bad_request", "the upload is too slow; try again") from None
            if not chunk:
                return size
            size += len(chunk)
            _check_size(size, limit)
            await asyncio.to_thread(file.write, chunk)


def _check_size(size: int, limit: int) -> None:
    if size > limit:
        raise Refusal("too_large", f"the file is larger than the limit, {limit // MEBIBYTE} MB")


def file_name(request: web.Request) -> str:
    """The name of the user's file, safe to display and to offer for download.

    Raises:
        Refusal: there is none.
    """
    name = clean_name(request.query.get("name", ""))
    if not name:
        raise Refusal("bad_request", "the file has no name; add ?name=")
    return name


def clean_name(given: str) -> str:
    """The last component of a path, without unprintable characters; may be empty."""
    name = Path(given.replace("\\", "/")).name
    name = "".join(character for character in name if character.isprintable())
    return name[-NAME_LENGTH:] if name.strip(". ") else ""
