"""Folders that are complete or absent: written aside, flushed to disk, renamed.

    last.new   being written      last   the newest complete one      last.old   the one before it, for a moment

One process writes, and first tidies up what an interrupted writer left behind; readers change nothing.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hybridvideo.files import flush, writing

COMPLETE = ".complete"


@contextmanager
def replacing_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty folder to fill. When the block succeeds, it replaces `folder`.

    Raises EnvironmentFault if it cannot be written; `folder` is then as it was.
    """
    settle(folder)
    with filling(folder) as new:
        yield new
    put_in_place(folder)


@contextmanager
def filling(folder: Path, mark: str = "") -> Iterator[Path]:
    """Yield an empty folder to fill. When the block succeeds, it is complete next to `folder`, which stays as it is.

    `put_in_place` then replaces `folder` with it; so does `settle`, given the same `mark`.
    """
    new = new_of(folder)
    with writing(folder):
        discard(new)
        new.mkdir(parents=True)
        try:
            yield new
        except BaseException:
            discard(new)  # to free the space on a full disk
            raise
        for path in sorted(new.rglob("*")):
            flush(path)
        flush(new)
        (new / COMPLETE).write_text(mark)
        flush(new / COMPLETE)
        flush(new)


def put_in_place(folder: Path) -> None:
    """Replace `folder` with what `filling` made."""
    old = old_of(folder)
    with writing(folder):
        if folder.exists():
            discard(old)
            folder.rename(old)
        new_of(folder).rename(folder)
        flush(folder.parent)
        discard(old)


def settle(folder: Path, mark: str | None = None) -> None:
    """Finish or undo what an interrupted writer left behind. Only the process that writes there may call this.

    mark: finish only a new folder of this mark and undo any other; None: finish any that is complete.
    """
    new, old = new_of(folder), old_of(folder)
    with writing(folder):
        if is_complete(new) and mark in (None, (new / COMPLETE).read_text()):
            put_in_place(folder)
        elif old.exists() and not folder.exists():
            old.rename(folder)
        discard(new)
        discard(old)


def new_of(folder: Path) -> Path:
    return with_ending(folder, ".new")


def old_of(folder: Path) -> Path:
    return with_ending(folder, ".old")


def with_ending(folder: Path, ending: str) -> Path:
    """Return the folder's name with an ending."""
    named = folder if folder.name not in ("", "..") else folder.resolve()  # `.` has no name to add to
    return named.with_name(named.name + ending)


def is_complete(new: Path) -> bool:
    """Return whether a new folder is on disk in full."""
    return (new / COMPLETE).is_file()


def discard(folder: Path) -> None:
    """Remove a folder. If a crash leaves part of it, that part does not count as complete."""
    if folder.exists():
        (folder / COMPLETE).unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
