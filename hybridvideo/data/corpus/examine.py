"""Decode health of a list of videos: one row a file, whatever the file does to its decoder.

    status     ok          every frame that is promised decodes
               partial     some do not, or the file is cut off: what decodes is used
               short       fewer frames than asked for (a still picture in a video's clothes); used, and padded
               others      nothing of it can be used; errors.STATUSES
    promised   frames that the header claims, else that the packets hold
    decoded    frames that came when the whole file was decoded; null where only its index was read
    checksum   BLAKE2b (16 bytes) of the content

A row follows from the file alone: the same corpus gives the same table. `seconds` stands apart, outside of the table.
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

UNKNOWN: dict[str, Any] = dict.fromkeys(
    ("promised", "decoded", "codec", "pixel_format", "width", "height", "fps", "duration", "regular", "rotation",
     "bytes", "mtime_ns", "checksum")
)  # fmt: skip


@dataclass(frozen=True)
class ScanSettings:
    """How files are looked at."""

    decode: Literal["full", "index"] = "full"
    """full: decode every frame. index: read the file's packets and one frame; quick, and finds less."""
    short: int = 2
    """Videos with fewer frames are `short`."""
    backend: str = "auto"
    """Decoder: auto, or a name of decode.BACKENDS."""
    index: str | None = None
    """File for what is found out about where frames stand, for later readers (decode.known.IndexCache)."""

    def __post_init__(self) -> None:
        if self.short < 1:
            raise UserError(f"short is {self.short}; give 1 or more frames")


def scan(
    manifest: Manifest, settings: ScanSettings, *, workers: int, deadline: float, order: Iterable[int] | None = None
) -> Iterator[dict[str, Any]]:
    """A row of each video, in the order of the list.

    It has `index`, `path`, `status`, `reason`, `label`, `group`, what stands in UNKNOWN (None where it cannot be told)
    and `seconds`. deadline: seconds for one file. order: indices of the videos to look at, taken one by one when a
    worker is free; default: all. Raises EnvironmentFault for a backend that is not installed.
    """
    look = partial(scan_file, os.fspath(manifest.root), manifest.root_given if manifest.confined else None, settings)
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


def listed(manifest: Manifest, index: int) -> dict[str, Any]:
    """What the list says of a video: its label by name, and its group."""
    row = manifest.rows[index]
    return {"label": None if row.label is None else manifest.labels[row.label], "group": row.group}


def lost_row(file: Path, lost: Lost) -> dict[str, Any]:
    """A file that no worker survived; it is not opened here."""
    return {**UNKNOWN, **stamp(file), **stated(lost), "seconds": None}


def stated(failure: Lost | VideoError) -> dict[str, str]:
    """Status and reason of what could not be read."""
    return {"status": failure.status, "reason": failure.reason}


def scan_file(root: str, strict: bool | None, settings: ScanSettings, task: tuple[int, str]) -> dict[str, Any]:
    """Status, reason and facts of one listed file. strict: as in guard.inside; None: the path may lead anywhere."""
    start = time.perf_counter()
    row = {**UNKNOWN, "status": "ok", "reason": ""}
    try:
        file = os.path.join(root, task[1]) if strict is None else guard.inside(task[1], root, strict=strict)
        row |= stamp(Path(file))
        guard.regular_file(file)
        row["checksum"] = checksum(Path(file))
        row |= decoded(file, settings)
    except VideoError as error:
        row |= stated(error)
    except OSError as error:  # of the disk, in the middle of a file
        row |= {"status": "unreadable", "reason": f"the file cannot be read: {error.strerror or error}"}
    return {**row, "seconds": time.perf_counter() - start}


def stamp(file: Path) -> dict[str, int]:
    """Size and time of change, by which a file is known again; nothing where none is there."""
    try:
        facts = file.stat()
    except (OSError, ValueError):
        return {}
    return {"bytes": facts.st_size, "mtime_ns": facts.st_mtime_ns}


def checksum(file: Path) -> str:
    """BLAKE2b of the content, 32 hexadecimal digits."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def decoded(file: str, settings: ScanSettings) -> dict[str, Any]:
    """Open the file and, if that is wanted, decode all of it. Raises VideoError."""
    with VideoReader(file, settings.backend, known_files(settings.index)) as reader:
        before = reader.info
        info = reader.check() if settings.decode == "full" else before
        promised = before.header_frames or before.frames
        row = {"promised": promised, "decoded": info.frames if settings.decode == "full" else None}
        return {**row, **described(info), **judged(info, reader.status, reader.reason, settings)}


@cache
def known_files(index: str | None) -> IndexCache | None:
    """The index, opened once in each process."""
    return None if index is None else IndexCache(index)


def described(info: VideoInfo) -> dict[str, Any]:
    """What the reader says of the stream."""
    return {name: getattr(info, name) for name in
            ("codec", "pixel_format", "width", "height", "fps", "duration", "regular", "rotation")}  # fmt: skip


def judged(info: VideoInfo, status: str, reason: str, settings: ScanSettings) -> dict[str, str]:
    """The reader's status, or `short`."""
    if info.frames >= settings.short:
        return {"status": status, "reason": reason}
    count = "1 frame" if info.frames == 1 else f"{info.frames} frames"
    also = f"; {reason}" if reason else ""
    return {"status": "short", "reason": f"{count}, fewer than {settings.short}{also}"}
