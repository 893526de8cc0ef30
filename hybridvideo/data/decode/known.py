"""What is known about files that were opened before: the packet and time of each frame, and the frames' orientation.

With it a reader neither demuxes the file nor decodes its first frame before it decodes a clip. An IndexCache keeps it
in memory, and optionally in one SQLite file next to the list; any trouble with that file means doing without it.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import zlib
from array import array
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from hybridvideo.data.decode import guard, sample_tables
from hybridvideo.data.decode.frames import Size
from hybridvideo.data.decode.packets import FrameIndex, Key
from hybridvideo.data.decode.to_rgb import MIRRORED
from hybridvideo.documents import load_json
from hybridvideo.errors import USABLE, VideoError
from hybridvideo.parsing import parsed

T = TypeVar("T")

SUFFIX = ".index"  # of the file, after the name of the list or table next to it
LAYOUT = 2  # of a row; rows of another layout are not read
MOST_IN_MEMORY = 512  # files; about 30 kB each
LARGEST_ROW = 2**28  # bytes; a row takes about three per frame
PATIENCE = 0.2  # seconds to wait while another process writes
TABLE = """create table if not exists files
    (path text primary key, bytes integer, mtime_ns integer, layout integer, facts text, numbers blob)"""
FIND = "select facts, numbers from files where path = ? and bytes = ? and mtime_ns = ? and layout = ?"
KEEP = "insert or replace into files values (?, ?, ?, ?, ?, ?)"


@dataclass(frozen=True)
class Picture:
    """How a stream stores its frames. stored: (height, width). quarter_turns: to upright, as to_rgb.quarter_turns."""

    stored: Size
    quarter_turns: int
    pixel_format: str


@dataclass(frozen=True)
class Known:
    """What reading a file once has revealed.

    promised: frames that the file claims. last: seconds for which its last frame is shown. counted: all of it was
    decoded once. by_decoding: the index comes from that. careful: how the file had to be opened (stream.OpenStream).
    """

    index: FrameIndex
    picture: Picture
    promised: int
    last: float
    counted: bool
    by_decoding: bool
    careful: bool
    status: str
    reason: str


class IndexCache:
    """Known files by path; an entry is valid only while the file has the same size and modification time.

    path: the SQLite file, created if it is missing; None: memory only. Paths in it are relative to its folder, so that
    it can move along with the videos. Each process opens its own connection. Nothing here raises.
    """

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        self.path = None if path is None else Path(path).absolute()
        self._memory: OrderedDict[tuple[str, int, int], Known] = OrderedDict()
        self._connection: sqlite3.Connection | None = None
        self._process = 0

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["path"])  # type: ignore[misc]

    def get(self, file: str) -> Known | None:
        """Return what is known about a file, or None."""
        key = _identity(file)
        if key is None:
            return None
        if key in self._memory:
            self._memory.move_to_end(key)
            return self._memory[key]
        known = self._find(key)
        if known is None or not _guarded(file):
            return None
        self._remember(key, known)
        return known

    def put(self, file: str, known: Known) -> None:
        """Keep what is known about a file."""
        key = _identity(file)
        if key is None or self._memory.get(key) is known:
            return
        self._remember(key, known)
        self._attempt(lambda file: file.execute(KEEP, (self._name(key[0]), *key[1:], LAYOUT, *_packed(known))))

    def close(self) -> None:
        """Close the SQLite file; the next call opens it again."""
        if self._connection is not None and self._process == os.getpid():
            self._connection.close()
        self._connection = None

    def _remember(self, key: tuple[str, int, int], known: Known) -> None:
        self._memory[key] = known
        while len(self._memory) > MOST_IN_MEMORY:
            self._memory.popitem(last=False)

    def _find(self, key: tuple[str, int, int]) -> Known | None:
        def find(file: sqlite3.Connection) -> Known | None:
            row = file.execute(FIND, (self._name(key[0]), *key[1:], LAYOUT)).fetchone()
            return None if row is None else _unpacked(*row)

        return self._attempt(find)

    def _name(self, file: str) -> str:
        assert self.path is not None
        return os.path.relpath(file, self.path.parent)

    def _attempt(self, action: Callable[[sqlite3.Connection], T]) -> T | None:
        """Return the action's result on this process's connection, or None; a file with a fault is not used again."""
        if self.path is None:
            return None
        try:
            if self._connection is None or self._process != os.getpid():
                self._connection, self._process = _open(self.path), os.getpid()
            return action(self._connection)
        except Exception as error:  # a stranger's file may contain anything
            if getattr(error, "sqlite_errorname", "") in ("SQLITE_BUSY", "SQLITE_READONLY"):
                return None  # another process is writing, or nobody may
            self.close()
            self.path = None
            return None


def index_beside(*tables: str | os.PathLike[str] | None) -> IndexCache:
    """The index that `scan` or `prepare` left next to the first of these lists or tables that has one; or memory."""
    for table in tables:
        if table is not None and os.path.isfile(path := os.fspath(table) + SUFFIX):
            return IndexCache(path)
    return IndexCache()


def _open(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=PATIENCE, isolation_level=None)
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, LARGEST_ROW)
    connection.execute("pragma synchronous=off")  # losing a cache in a power failure is acceptable
    with contextlib.suppress(sqlite3.OperationalError):  # a read-only folder
        connection.execute(TABLE)
    existing = connection.execute("select type, sql from sqlite_master where sql is not null").fetchall()
    if [(kind, sql.partition("files")[2]) for kind, sql in existing] != [("table", TABLE.partition("files")[2])]:
        connection.close()
        raise ValueError("not just this table: a view or a trigger may be a program")
    return connection


def _guarded(file: str) -> bool:
    """Whether a file that is only known from an index on disk passes the checks of an unknown file."""
    try:
        sample_tables.check(file)
    except (OSError, VideoError):
        return False
    return True


def _identity(file: str) -> tuple[str, int, int] | None:
    try:
        status = os.stat(file)
    except (OSError, ValueError):
        return None
    return os.path.abspath(file), status.st_size, status.st_mtime_ns


def _packed(known: Known) -> tuple[str, bytes]:
    """Facts as JSON; frame and key tables as differences, and fingerprints, compressed: about three bytes per frame."""
    index = known.index
    kept = {name: getattr(known, name) for name in KEPT}
    facts = Facts(
        packets=len(index.prints_S),
        frames=len(index),
        keys=len(index.keys),
        by_time=index.by_time,
        **asdict(known.picture),
        **kept,
    )
    columns = [index.packets_N, index.ticks_N, *([getattr(key, name) for key in index.keys] for name in KEY_FIELDS)]
    numbers = np.concatenate([np.diff(np.asarray(table, dtype=np.int64), prepend=0) for table in columns])
    return json.dumps(asdict(facts)), zlib.compress(index.prints_S.tobytes() + numbers.tobytes(), 1)


KEY_FIELDS = ("packet", "frame", "mark")
KEPT = ("promised", "last", "counted", "by_decoding", "careful", "status", "reason")  # facts of Known as they are
MOST_PACKETS = 2**26  # of a stream; a row that claims more is not read
LATEST = 2**62  # ticks, so that differences fit


@dataclass(frozen=True)
class Facts:
    """A row's facts: how many numbers come with them, and those of `Known`. Raises ValueError for impossible ones."""

    packets: int
    frames: int
    keys: int
    by_time: bool
    stored: Size
    quarter_turns: int
    pixel_format: str
    promised: int
    last: float
    counted: bool
    by_decoding: bool
    careful: bool
    status: str
    reason: str

    def __post_init__(self) -> None:
        guard.check_frame_size(*self.stored)
        if self.quarter_turns not in range(2 * MIRRORED) or self.promised < 0 or self.last < 0:
            raise ValueError("no such picture or time")
        if self.status not in USABLE:
            raise ValueError("no reader has this status")


def _unpacked(facts_text: str, numbers_blob: bytes) -> Known:
    """Undo `_packed`. Raises ValueError, or what parsers raise, for anything that it cannot have made."""
    facts = parsed(Facts, load_json(facts_text, "the index", "it is ignored"))
    if not 0 < facts.frames <= facts.packets <= MOST_PACKETS or not 0 <= facts.keys <= facts.packets:
        raise ValueError("no such numbers of packets")
    prints_bytes, counts = 2 * facts.packets, (facts.frames, facts.frames, *[facts.keys] * len(KEY_FIELDS))
    unpacker = zlib.decompressobj()
    unpacked = unpacker.decompress(numbers_blob, prints_bytes + 8 * sum(counts) + 1)
    numbers = np.frombuffer(unpacked, dtype=np.int64, offset=prints_bytes)
    if len(numbers) != sum(counts) or not unpacker.eof:
        raise ValueError("another number of numbers than stated")
    packets_N, ticks_N, *key_tables = (np.cumsum(part) for part in np.split(numbers, np.cumsum(counts)[:-1]))
    keys = [Key(*row) for row in zip(*(table.tolist() for table in key_tables), strict=True)]
    prints_S = array("H", unpacked[:prints_bytes])
    index = FrameIndex(packets_N.tolist(), ticks_N.tolist(), keys, facts.by_time, prints_S)
    _check_index(index)
    picture = Picture(facts.stored, facts.quarter_turns, facts.pixel_format)
    kept = {name: getattr(facts, name) for name in KEPT}
    return Known(index, picture, **kept)


def _check_index(index: FrameIndex) -> None:
    """Raise ValueError if no stream can have such packets, frames and keys."""
    packets, frames = np.asarray(index.packets_N), len(index)
    keys = [key.packet for key in index.keys]
    if packets.min() < 0 or packets.max() >= len(index.prints_S) or len(index.frame_of) < frames:
        raise ValueError("a frame without a packet, or two of the same one")
    if (np.diff(index.ticks_N) < 0).any() or abs(index.ticks_N[[0, -1]]).max() > LATEST:
        raise ValueError("frames without an order")
    if any(not 0 <= key.packet < len(index.prints_S) or not 0 <= key.frame <= frames for key in index.keys):
        raise ValueError("a key packet or its frame does not exist")
    if any(after <= before for before, after in pairwise(keys)):
        raise ValueError("key packets without an order")
