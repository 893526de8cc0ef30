"""Decode health of a list of videos: one row per file, whatever the file does to its decoder.

    status     ok          every promised frame decodes
               partial     some do not, or the file is truncated: what decodes is used
               short       fewer frames than asked for (a still picture posing as a video); used, and padded
               others      nothing can be used; errors.STATUSES
    promised   frames that the header claims, or else that the packets hold
    decoded    frames that came when the complete file was decoded; null if only its index was read
    checksum   BLAKE2b (16 bytes) of the content

A row depends on the file alone: the same corpus has the same table. `seconds` is not part of the table.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal

from hybridvideo.data.decode import IndexCache, VideoInfo, VideoReader, guard
from hybridvideo.data.manifest import Manifest
from hybridvideo.data.processes.workers import Lost, each
from hybridvideo.errors import UserError, VideoError

STREAM = ("codec", "pixel_format", "width", "height", "fps", "duration", "regular", "rotation")  # of VideoInfo
FILE = ("bytes", "mtime_ns", "checksum")
Row = dict[str, Any]  # column -> value
UNKNOWN: Row = dict.fromkeys(("promised", "decoded", *STREAM, *FILE))


@dataclass(frozen=True)
class ScanSettings:
    """How files are examined."""

    decode: Literal["full", "index"] = "full"
    """full: decode every frame. index: read the file's packets and one frame; faster, but finds less."""
    short: int = 2
    """Videos with fewer frames are `short`."""
    backend: str = "auto"
    """Decoder: auto, or a name in decode.BACKENDS."""
    index: str | None = None
    """File that keeps the index of each video's frames for later readers (decode.known.IndexCache)."""

    def __post_init__(self) -> None:
        if self.short < 1:
            raise UserError(f"short is {self.short}; give 1 or more frames")


def examine(
    manifest: Manifest, settings: ScanSettings, *, workers: int, deadline: float, order: Iterable[int] | None = None
) -> Iterator[Row]:
    """Yield a row for each video, in the order of the list.

    It has `index`, `path`, `status`, `reason`, `label`, `group`, the columns of UNKNOWN (None if not known) and
    `seconds`. deadline: seconds for one file. order: indices of the videos to examine, each taken when a worker is
    free; default: all. Raises EnvironmentFault for a backend that is not installed.
    """
    look = partial(examine_file, os.fspath(manifest.root), manifest.root_given if manifest.confined else None, settings)
    taken: deque[int] = deque()

    def tasks() -> Iterator[tuple[int, str]]:
        for index in range(len(manifest)) if order is None else order:
            taken.append(index)
            yield index, manifest.rows[index].path

    with closing(each(look, tasks(), workers=workers, deadline=deadline)) as results:
        for result in results:
            index = taken.popleft()
            found = lost_row(manifest.file(index), result) if isinstance(result, Lost) else result
            yield {"index": index, "path": manifest.rows[index].path, **listed(manifest, index), **found}


def listed(manifest: Manifest, index: int) -> Row:
    """Return what the list contains about a video: the name of its label, and its group."""
    row = manifest.rows[index]
    return {"label": None if row.label is None else manifest.labels[row.label], "group": row.group}


def lost_row(file: Path, lost: Lost) -> Row:
    """Return the row of a file that no worker survived; it is not opened here."""
    return {**UNKNOWN, **stamp(file), **failed(lost), "seconds": None}


def failed(failure: Lost | VideoError) -> dict[str, str]:
    """Return status and reason of a file that could not be read."""
    return {"status": failure.status, "reason": failure.reason}


def examine_file(root: str, strict: bool | None, settings: ScanSettings, task: tuple[int, str]) -> Row:
    """Return status, reason and facts of one listed file.

    task: index and path. strict: as in guard.inside; None: the path may lead anywhere.
    """
    start = time.perf_counter()
    row = {**UNKNOWN, "status": "ok", "reason": ""}
    try:
        file = os.path.join(root, task[1]) if strict is None else guard.inside(task[1], root, strict=strict)
        row |= stamp(Path(file))
        guard.regular_file(file)
        row["checksum"] = checksum(Path(file))
        row |= decoded(file, settings)
    except VideoError as error:
        row |= failed(error)
    except OSError as error:  # from the disk, in the middle of a file
        row |= {"status": "unreadable", "reason": f"the file cannot be read: {error.strerror or error}"}
    return {**row, "seconds": time.perf_counter() - start}


def stamp(file: Path) -> dict[str, int]:
    """Return size and modification time, by which a file is recognised; empty if there is none."""
    try:
        facts = file.stat()
    except (OSError, ValueError):
        return {}
    return {"bytes": facts.st_size, "mtime_ns": facts.st_mtime_ns}


def checksum(file: Path) -> str:
    """Return BLAKE2b of the content, 32 hexadecimal digits."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def decoded(file: str, settings: ScanSettings) -> Row:
    """Open the file and, if `settings.decode` is full, decode all of it. Raises VideoError."""
    with VideoReader(file, settings.backend, known_files(settings.index)) as reader:
        before = reader.info
        info = reader.check() if settings.decode == "full" else before
        promised = before.header_frames or before.frames
        row = {"promised": promised, "decoded": info.frames if settings.decode == "full" else None}
        return {**row, **described(info), **judged(info, reader.status, reader.reason, settings)}


@cache
def known_files(index: str | None) -> IndexCache | None:
    """Return the index, opened once in each process."""
    return None if index is None else IndexCache(index)


def described(info: VideoInfo) -> Row:
    """Return what the reader reports about the stream."""
    return {name: getattr(info, name) for name in STREAM}


def judged(info: VideoInfo, status: str, reason: str, settings: ScanSettings) -> dict[str, str]:
    """Return the reader's status, or `short`."""
    if info.frames >= settings.short:
        return {"status": status, "reason": reason}
    count = "1 frame" if info.frames == 1 else f"{info.frames} frames"
    also = f"; {reason}" if reason else ""
    return {"status": "short", "reason": f"{count}, fewer than {settings.short}{also}"}
