"""Folders that are whole or absent: written aside, flushed to disk, renamed.

    last.new   being written      last   the newest complete one      last.old   the one before it, for a moment

One process writes, and settles what an interrupted writer left behind; readers change nothing.
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
    """Yields an empty folder to fill; when the block ends well it takes the place of `folder`.

    Raises EnvironmentFault where the system lets nothing be written; `folder` is then as it was.
    """
    settle(folder)
    with filling(folder) as new:
        yield new
    put_in_place(folder)


@contextmanager
def filling(folder: Path, mark: str = "") -> Iterator[Path]:
    """Yields an empty folder to fill; when the block ends well it is complete beside `folder`, which stays as it is.

    `put_in_place` gives it its place; so does `settle`, asked for `mark`.
    """
    new = new_of(folder)
    with writing(folder):
        discard(new)
        new.mkdir(parents=True)
        try:
            yield new
        except BaseException:
            discard(new)  # a full disk has room again
            raise
        for path in sorted(new.rglob("*")):
            flush(path)
        flush(new)
        (new / COMPLETE).write_text(mark)
        flush(new / COMPLETE)
        flush(new)


def put_in_place(folder: Path) -> None:
    """What `filling` made takes the place of `folder`."""
    old = old_of(folder)
    with writing(folder):
        if folder.exists():
            discard(old)
            folder.rename(old)
        new_of(folder).rename(folder)
        flush(folder.parent)
        discard(old)


def settle(folder: Path, mark: str | None = None) -> None:
    """Finish or undo what an interrupted writer left behind; for the one process that writes there.

    mark: only a new folder of this mark is finished, any other undone; None: whatever is complete.
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
    return beside(folder, ".new")


def old_of(folder: Path) -> Path:
    return beside(folder, ".old")


def beside(folder: Path, ending: str) -> Path:
    """The folder's name with an ending."""
    named = folder if folder.name not in ("", "..") else folder.resolve()  # `.` has no name to add to
    return named.with_name(named.name + ending)


def is_complete(new: Path) -> bool:
    """Whether all of a new folder is on disk."""
    return (new / COMPLETE).is_file()


def discard(folder: Path) -> None:
    """Remove a folder; what a crash leaves of it does not count as complete."""
    if folder.exists():
        (folder / COMPLETE).unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
