"""Sample tables of MP4 and MOV files that promise more than the file can hold: detected before FFmpeg allocates memory.

FFmpeg makes an index entry for every promised sample, and some promises cost the file nothing: one size for all
samples, a fragment whose samples all have the default, an edit list that repeats them again and again. Only the numbers
in the heads of boxes are read here: about 0.1 ms.
"""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from hybridvideo.data.decode import guard
from hybridvideo.errors import VideoError

STARTS = (b"ftyp", b"moov", b"mdat", b"free", b"wide", b"skip", b"pnot", b"styp", b"sidx", b"moof")
FOLDERS = (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"edts", b"moof", b"traf")
MOST_BOXES = 2_000_000
MOST_DEEP = 12
MOST_UNPACKED = 2**26  # bytes of a compressed index
MOST_WITHOUT_BYTES = 2_000_000  # samples of fragments that store nothing per sample
FEW_EDITS = 8
# Flags of a fragment's run that add 4 bytes each: to its head, and to every sample.
RUN_HEAD, RUN_SAMPLE = (0x1, 0x4), (0x100, 0x200, 0x400, 0x800)


@dataclass
class Track:
    """What the tables of one track promise."""

    samples: int = 0
    size: int = 0  # of each sample, if it is the same for all
    chunks: int = 0
    runs: tuple[int, int] = (0, 0)  # start of the table of samples in each chunk, and its length
    edits: int = 0
    counted: bool = False  # samples last one tick each, as of plain sound: FFmpeg's index then holds 1024 of them each


def check(path: str) -> None:
    """Raise VideoError for an MP4 or MOV whose tables promise more than FFmpeg's index should be made for.

    `unreadable` if the file cannot hold what is promised, `refused` if it can but that is above the limit.
    """
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        if file.read(8)[4:] in STARTS:
            _Survey(size).look(file, 0, size)


class _Survey:
    """A walk over the boxes of a file of this size. Broken ones end it: FFmpeg then reports what is wrong."""

    def __init__(self, size: int) -> None:
        self._size, self._boxes, self._free_samples = size, 0, 0
        self._track = Track()

    def look(self, file: BinaryIO, start: int, end: int, depth: int = 0) -> None:
        for kind, body, stop in self._inside(file, start, end):
            if kind == b"trak":
                self._track = Track()
            if kind in FOLDERS and depth < MOST_DEEP:
                self.look(file, body, stop, depth + 1)
            elif kind == b"cmov" and depth < MOST_DEEP:
                self._unpack(file, body, stop, depth)
            elif kind in NUMBERS:
                file.seek(body)
                self._note(kind, file.read(min(NUMBERS[kind], stop - body)), file, stop - body)
            if kind == b"trak":
                self._judge(self._track, file)

    def _inside(self, file: BinaryIO, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
        """Kind, first byte and end of each box between these bytes."""
        while start + 8 <= end:
            self._boxes += 1
            if self._boxes > MOST_BOXES:
                raise VideoError("refused", f"more than {MOST_BOXES:,} boxes")
            file.seek(start)
            head = file.read(16)
            if len(head) < 8:
                return
            length, kind = struct.unpack(">I4s", head[:8])
            body = start + 8
            if length == 1 and len(head) == 16:
                (length,) = struct.unpack(">Q", head[8:])
                body = start + 16
            stop = min(end, start + length) if length else end
            if stop < body:
                return
            yield kind, body, stop
            start = stop

    def _unpack(self, file: BinaryIO, body: int, stop: int, depth: int) -> None:
        """The index of old QuickTime files may be compressed: `dcom`, then `cmvd`, its length and its bytes."""
        for kind, inner, end in self._inside(file, body, stop):
            if kind == b"cmvd":
                file.seek(inner + 4)
                unpacker = zlib.decompressobj()
                try:
                    data = unpacker.decompress(file.read(end - inner - 4), MOST_UNPACKED)
                except zlib.error:
                    return
                if unpacker.unconsumed_tail:
                    raise VideoError("refused", f"a compressed index of more than {MOST_UNPACKED:,} bytes")
                self.look(io.BytesIO(data), 0, len(data), depth + 1)

    def _note(self, kind: bytes, numbers: bytes, file: BinaryIO, length: int) -> None:
        words = struct.unpack(f">{len(numbers) // 4}I", numbers[: len(numbers) // 4 * 4])
        if len(words) * 4 < NUMBERS[kind] and kind != b"trun":
            return
        track = self._track
        if kind == b"stsz":
            track.size, track.samples = words[1], words[2] if words[1] else min(words[2], length // 4)
        elif kind == b"stz2":
            track.samples = min(words[2], 2 * length)
        elif kind == b"stts":
            track.counted = words[1] == 1 and words[3] == 1
        elif kind in (b"stco", b"co64"):
            track.chunks = min(words[1], length // (4 if kind == b"stco" else 8))
        elif kind == b"elst":
            track.edits = min(words[1], length // 12)
        elif kind == b"stsc":
            track.runs = file.tell(), min(words[1], length // 12)
        elif kind == b"trun" and len(words) >= 2:
            self._run(words[0] & 0xFFFFFF, words[1], length)

    def _most_in_chunk(self, file: BinaryIO, start: int, entries: int) -> int:
        """The largest number of samples in a table of (first chunk, samples in each, description)."""
        file.seek(start)
        table = file.read(12 * min(entries, MOST_BOXES))
        return max((samples for _, samples, _ in struct.iter_unpack(">3I", table[: len(table) // 12 * 12])), default=0)

    def _run(self, flags: int, samples: int, length: int) -> None:
        """A fragment's run of samples. Raises VideoError."""
        a_sample = 4 * sum(bool(flags & flag) for flag in RUN_SAMPLE)
        head = 8 + 4 * sum(bool(flags & flag) for flag in RUN_HEAD)
        if a_sample and samples > guard.MANY_PACKETS and samples * a_sample > length - head:
            raise self._liar(samples)
        if not a_sample:
            self._free_samples += samples
            if self._free_samples > guard.MANY_PACKETS + min(self._size, MOST_WITHOUT_BYTES):
                raise self._liar(self._free_samples)

    def _judge(self, track: Track, file: BinaryIO) -> None:
        """Raise VideoError for a track that promises too much."""
        entries = track.samples
        if track.counted and entries > guard.MANY_PACKETS:
            entries = min(entries, track.chunks * (self._most_in_chunk(file, *track.runs) // 1024 + 1))
        if track.size and entries > guard.MANY_PACKETS + self._size // guard.SMALLEST_PACKET:
            raise self._liar(track.samples)
        if entries > guard.MAX_PACKETS:
            raise VideoError("refused", f"a table of {entries:,} samples; at most {guard.MAX_PACKETS:,} are read")
        if track.edits > FEW_EDITS and track.edits * entries > guard.MAX_PACKETS:
            raise VideoError("refused", f"an edit list of {track.edits:,} parts of {entries:,} samples")

    def _liar(self, samples: int) -> VideoError:
        return VideoError("unreadable", f"the file promises {samples:,} samples; its {self._size:,} bytes hold fewer")


# Boxes that hold numbers that are asked for, and how many bytes of them.
NUMBERS = {b"stsz": 12, b"stz2": 12, b"stts": 16, b"stco": 8, b"co64": 8, b"elst": 8, b"stsc": 8, b"trun": 8}
