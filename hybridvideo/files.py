"""What jobs write: files that are whole or absent, and locks that death releases.

    with replacing_file(path) as aside: ...    aside is filled, flushed to disk, renamed; or path stays as it was
    with locked(path, "predict"): ...          one process at a time; the second is told who holds it

A full disk or a folder that cannot be written is one line (EnvironmentFault, exit code 4), never a traceback.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import socket
import sys
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from hybridvideo.errors import EnvironmentFault, UserError
from hybridvideo.text import shown

AGAIN = "give the same command again"
# What the system says, and what a person does about it.
ADVICE = {
    errno.ENOSPC: f"free some space, then {AGAIN}",
    errno.EDQUOT: f"your quota is used up: free some space, then {AGAIN}",
    errno.EROFS: "give an output elsewhere",
    errno.EACCES: "give an output elsewhere, or change its permissions",
    errno.EPERM: "give an output elsewhere, or change its permissions",
}
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # file systems without locks
SECONDS_BETWEEN_LOOKS = 0.1  # at a lock that another process holds


# --- whole or absent --------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def replacing_file(path: Path) -> Iterator[Path]:
    """Yields a path beside `path` to write; when the block ends well it takes its place, complete on disk.

    Raises EnvironmentFault where the system lets nothing be written; `path` is then as it was.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}.new")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield aside
            flush(aside)
            os.replace(aside, path)
            flush(path.parent)
        finally:
            aside.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """A UTF-8 text file, whole or as it was before."""
    with replacing_file(path) as aside:
        aside.write_text(text, encoding="utf-8")


def append_line(path: Path, line: str) -> None:
    """A line of UTF-8 at the end of a file; what a crash leaves of it is for the reader to drop."""
    with writing(path), path.open("a", encoding="utf-8") as file:
        file.write(line + "\n")


def write_json(path: Path, value: Any) -> None:
    """A JSON file, whole or as it was before; ValueError for what JSON cannot hold, NaN included."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False))


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """EnvironmentFault, with what to do about it, for an OSError of the block, which does nothing but write."""
    try:
        yield
    except OSError as error:
        advice = ADVICE.get(error.errno or 0, f"see that it can be written, then {AGAIN}")
        raise EnvironmentFault(f"cannot write {path}: {error.strerror or error}; {advice}") from error


def leave_output(error: OSError) -> int:
    """The exit code where standard output takes no more, since nobody reads on or the disk is full; that is said.

    Raises the error again where it is another.
    """
    if error.errno not in (errno.EPIPE, errno.ENOSPC, errno.EDQUOT):
        raise error
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nothing more is complained of at the end
    if error.errno == errno.EPIPE:
        return 0
    print(f"error: cannot write the output: {error.strerror}; {ADVICE[error.errno]}", file=sys.stderr)
    return EnvironmentFault.exit_code


def flush(path: Path) -> None:
    """Force a file or a folder's entries to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# --- one at a time ----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def locked(path: Path, work: str, *, wait: bool = False) -> Iterator[None]:
    """Hold `path`, a file of no other use, until the block ends or the process dies; then it is gone.

    Raises UserError where another process holds it, and says which; with `wait` it waits until that one lets go.
    """
    while (descriptor := acquire(path, work)) is None:
        if not wait:
            raise UserError(f"{holder(path)} is at work on {path.parent}; wait until it ends, or give another --out")
        time.sleep(SECONDS_BETWEEN_LOOKS)
    try:
        yield
    finally:
        release(path, descriptor)


def acquire(path: Path, work: str) -> int | None:
    """The descriptor of the lock, now held; None where another process holds it."""
    with writing(path):
        while True:
            descriptor = open_lock(path)
            try:
                if not try_lock(descriptor, path.parent):
                    os.close(descriptor)
                    return None
                if is_file_of(descriptor, path):
                    break
            except OSError:
                os.close(descriptor)
                raise
            os.close(descriptor)  # the one before removed it between our opening and locking it
        with contextlib.suppress(OSError):  # a full disk: it is held all the same
            os.truncate(descriptor, 0)
            os.write(descriptor, f"{work}, process {os.getpid()} on {socket.gethostname()}".encode())
    return descriptor


def try_lock(descriptor: int, folder: Path) -> bool:
    """Whether the file is now locked, or lies on a file system without locks; False where another process holds it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        warn_of_no_locks(folder)
    return True


def open_lock(path: Path) -> int:
    """The file of a lock, opened; its folder may be removed by another process meanwhile."""
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            return os.open(path, os.O_RDWR | os.O_CREAT, 0o644)


@cache
def warn_of_no_locks(folder: Path) -> None:
    """Say once for each folder that its file system has no locks."""
    print(shown(f"{folder}: its file system has no locks; nothing keeps two jobs apart"), file=sys.stderr)


def release(path: Path, descriptor: int) -> None:
    """Give the lock back and remove its file."""
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)
    os.close(descriptor)


def is_file_of(descriptor: int, path: Path) -> bool:
    """Whether the path still leads to the file that is open."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def holder(path: Path) -> str:
    """Who wrote itself into a lock: `predict, process 4711 on host`."""
    try:
        return path.read_text(encoding="utf-8", errors="replace") or "another job"
    except OSError:
        return "another job"
