"""Files that are complete or absent, and locks that are released when their process dies.

    with replacing_file(path) as aside: ...    write to `aside`; it is flushed and renamed, or `path` stays as it was
    with locked(path, "predict"): ...          one process at a time; an error names the one that holds the lock

A full disk or a read-only folder is a one-line EnvironmentFault (exit code 4), never a traceback.
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
# What to do about an error of the system.
ADVICE = {
    errno.ENOSPC: f"free some space, then {AGAIN}",
    errno.EDQUOT: f"your quota is used up: free some space, then {AGAIN}",
    errno.EROFS: "give an output elsewhere",
    errno.EACCES: "give an output elsewhere, or change its permissions",
    errno.EPERM: "give an output elsewhere, or change its permissions",
}
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # file systems without locks
SECONDS_BETWEEN_LOOKS = 0.1  # at a lock that another process holds


# --- complete or absent -----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def replacing_file(path: Path) -> Iterator[Path]:
    """Yield a path next to `path` to write to. When the block succeeds, that file replaces `path`, complete on disk.

    Raises EnvironmentFault if it cannot be written; `path` is then as it was.
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
    """Write a UTF-8 text file, or leave it as it was."""
    with replacing_file(path) as aside:
        aside.write_text(text, encoding="utf-8")


def append_line(path: Path, line: str) -> None:
    """Append a line of UTF-8 to a file. Readers drop a line that a crash cut short."""
    with writing(path), path.open("a", encoding="utf-8") as file:
        file.write(line + "\n")


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file, or leave it as it was. Raise ValueError for what JSON cannot hold, such as NaN."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False))


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an OSError of the block, which only writes, into an EnvironmentFault that advises what to do."""
    try:
        yield
    except OSError as error:
        advice = ADVICE.get(error.errno or 0, f"make it writable, then {AGAIN}")
        raise EnvironmentFault(f"cannot write {path}: {error.strerror or error}; {advice}") from error


def leave_output(error: OSError) -> int:
    """Return the exit code after standard output failed: its reader has gone, or the disk is full, which is reported.

    Any other error is raised again.
    """
    if error.errno not in (errno.EPIPE, errno.ENOSPC, errno.EDQUOT):
        raise error
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains once more at exit
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
    """Hold the lock file `path` until the block ends or the process dies; then remove it.

    Raises UserError, naming the other process, if another one holds it; with `wait`, waits for that one instead.
    """
    while (descriptor := acquire(path, work)) is None:
        if not wait:
            raise UserError(f"{holder(path)} is using {path.parent}; wait until it finishes, or give another --out")
        time.sleep(SECONDS_BETWEEN_LOOKS)
    try:
        yield
    finally:
        release(path, descriptor)


def acquire(path: Path, work: str) -> int | None:
    """Take a lock and return its descriptor; None if another process holds it."""
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
            os.close(descriptor)  # its last holder removed it between our opening and locking it
        with contextlib.suppress(OSError):  # the disk may be full; the lock is held all the same
            os.truncate(descriptor, 0)
            os.write(descriptor, f"{work}, process {os.getpid()} on {socket.gethostname()}".encode())
    return descriptor


def try_lock(descriptor: int, folder: Path) -> bool:
    """Whether the file is now locked, or its file system has no locks; False if another process holds it."""
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
    """Open the file of a lock; another process may remove its folder meanwhile."""
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            return os.open(path, os.O_RDWR | os.O_CREAT, 0o644)


@cache
def warn_of_no_locks(folder: Path) -> None:
    """Warn, once per folder, that its file system has no locks."""
    print(shown(f"{folder}: its file system has no locks; do not run two jobs there at once"), file=sys.stderr)


def release(path: Path, descriptor: int) -> None:
    """Release a lock and remove its file."""
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)
    os.close(descriptor)


def is_file_of(descriptor: int, path: Path) -> bool:
    """Whether the path still names the open file."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def holder(path: Path) -> str:
    """Return the holder of a lock: `predict, process 4711 on host`."""
    try:
        return path.read_text(encoding="utf-8", errors="replace") or "another job"
    except OSError:
        return "another job"
