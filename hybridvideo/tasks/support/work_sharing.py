"""Who works on what when several processes, perhaps on several machines, share one table.

.OUT.locks/door              held by a newcomer while it looks at what is there
.OUT.locks/member-NAME       held by each running process
.OUT.locks/piece-000012      held by the process that has taken piece 12 of the list
.OUT.locks/table             held by the one that writes the table

All are released by death (files.locked), so that a piece of a process that was killed is taken by another. Machines
that share the work share a file system with locks.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hybridvideo.engine.progress import Advance
from hybridvideo.errors import EnvironmentFault
from hybridvideo.files import acquire, holder, locked, release
from hybridvideo.tasks.support.output_table import Rows, printable
from hybridvideo.tasks.support.part_files import Parts, Stamp

SECONDS_BETWEEN_WRITES = 60.0  # of a piece in work: with ROWS of a piece, what a crash can cost


class Crew:
    """The processes that share one table. work: what this one calls itself, such as `predict`."""

    def __init__(self, table: Path, work: str) -> None:
        self.folder, self.work = table.with_name(f".{table.name}.locks"), work
        self.name = f"member-{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"

    def door(self, wait: bool) -> contextlib.AbstractContextManager[None]:
        """Lock held by one process at a time while it finds out what to do. Without `wait`, UserError if taken."""
        return locked(self.folder / "door", self.work, wait=wait)

    def table(self) -> contextlib.AbstractContextManager[None]:
        """Lock held by the process that writes the table."""
        return locked(self.folder / "table", self.work, wait=True)

    def membership(self) -> contextlib.AbstractContextManager[None]:
        """Lock held while this process works."""
        return locked(self.folder / self.name, self.work)

    def others(self) -> list[str]:
        """Return the other running processes, as `predict, process 4711 on host`."""
        members = (path for path in sorted(self.folder.glob("member-*")) if path.name != self.name)
        return [holder(path) for path in members if self._is_held(path)]

    def _is_held(self, path: Path) -> bool:
        """Return whether a living process holds a lock; remove a dead one's."""
        if (descriptor := acquire(path, self.work)) is None:
            return True
        release(path, descriptor)
        return False

    def piece(self, number: int) -> Path:
        """Return the lock of a piece."""
        return self.folder / f"piece-{number:06d}"

    def tidy(self) -> None:
        """Remove what dead processes left, and the folder of locks unless others use it."""
        with contextlib.suppress(OSError):
            for path in self.folder.iterdir():
                self._is_held(path)
            self.folder.rmdir()


@dataclass
class ClaimedPiece:
    """A piece that this process has taken: inputs still to come, and rows received."""

    lock: int
    waiting: set[int]
    rows: Rows
    stamps: dict[int, Stamp]
    written: float = field(default_factory=time.monotonic)


class Claims:
    """The pieces of a list as one process sees them. stamp: of an input's file, now.

    done: inputs that this process has done.
    """

    def __init__(self, parts: Parts, crew: Crew, stamp: Callable[[int], Stamp], advance: Advance) -> None:
        self.parts, self.crew, self.stamp, self.advance = parts, crew, stamp, advance
        self.open = dict.fromkeys(parts.pieces)  # not known to be complete
        self.held: dict[int, ClaimedPiece] = {}
        self.done = 0

    def take(self) -> Iterator[int]:
        """Yield the inputs to do, taking each piece when it is reached; end when no piece is free."""
        for piece in list(self.open):
            if piece in self.open and piece not in self.held and self._claim(piece):
                held = self.held[piece]
                for index in sorted(held.waiting):
                    held.stamps[index] = self.stamp(index)
                    yield index

    def any_free(self) -> bool:
        """Return whether an incomplete piece can be taken; notice those that have become complete."""
        for piece in list(self.open):
            if piece in self.open and self._claim(piece):
                self._release(piece)
                return True
        return False

    def keep(self, rows: Rows) -> None:
        """Keep the rows of one input; a piece is written when it is complete, and now and then."""
        index = rows[0]["index"]
        piece = index // self.parts.size
        held = self.held[piece]
        held.rows += [stamped(printable(row), held.stamps[index]) for row in rows]
        held.waiting.discard(index)
        self.done += 1
        self.advance(1)
        if not held.waiting or time.monotonic() - held.written > SECONDS_BETWEEN_WRITES:
            self._write(piece)
        if not held.waiting:
            self.open.pop(piece, None)  # `open` is empty already if the parts are gone
            self._release(piece)

    def write_all(self) -> None:
        """Write what has been received of incomplete pieces."""
        for piece, held in self.held.items():
            if held.rows:
                self._write(piece)

    def release_all(self) -> None:
        """Release the pieces that are not complete."""
        for piece in list(self.held):
            self._release(piece)

    def check_all_came(self) -> None:
        """Raise EnvironmentFault if the work ended without a row for an input that was taken."""
        if self.held:
            left = sum(len(held.waiting) for held in self.held.values())
            raise EnvironmentFault(f"no row came for {left} inputs; run the same command to redo them")

    def _claim(self, piece: int) -> bool:
        """Try to take a piece; return whether it is now held, with something to do."""
        if not self.parts.missing(piece):
            self._complete(piece)
            return False
        if (lock := acquire(self.crew.piece(piece), self.crew.work)) is None:
            return False
        stamps = self.parts.covered(piece)  # another may have done it just before
        if self.parts.are_gone():  # or all of it, and have written the table
            release(self.crew.piece(piece), lock)
            self.open.clear()
            return False
        waiting = set(self.parts.members(piece)) - set(stamps)
        self.held[piece] = ClaimedPiece(lock, waiting, self.parts.read(piece), dict(stamps))
        if waiting:
            self.advance(len(stamps))
            return True
        self._complete(piece)
        self._release(piece)
        return False

    def _complete(self, piece: int) -> None:
        """Note a piece as complete: done by others, or by an earlier call."""
        del self.open[piece]
        self.advance(len(self.parts.members(piece)))

    def _write(self, piece: int) -> None:
        held = self.held[piece]
        self.parts.write(piece, held.rows, held.stamps)
        held.written = time.monotonic()

    def _release(self, piece: int) -> None:
        release(self.crew.piece(piece), self.held.pop(piece).lock)


def stamped(row: dict[str, Any], stamp: Stamp) -> dict[str, Any]:
    """The row with the size and modification time of its file, unless it has them already."""
    facts = {"bytes": stamp[0], "mtime_ns": stamp[1]}
    return row | {name: value for name, value in facts.items() if row.get(name) is None}
