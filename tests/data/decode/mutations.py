"""Ways in which files are damaged: by disks, networks, broken tools and liars. Each is a function of (data, draw).

Some strike anywhere; others know a container and strike where it keeps its tables, counters and times.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable

Mutation = Callable[[bytearray, random.Random], None]

MP4_TABLES = (b"stts", b"stsz", b"ctts", b"stsc", b"stss", b"stco", b"elst", b"trun", b"tfdt", b"sidx", b"mdhd")
HUGE = (b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\0", b"\0\0\0\1")
CLUSTER, CLUSTER_TIME, SIMPLE_BLOCK, CUE_POINT = b"\x1f\x43\xb6\x75", b"\xe7", b"\xa3", b"\xbb"
TS_PACKET, TS_SYNC = 188, 0x47


# -------------------------------------------------------------------- anywhere


def flip(data: bytearray, draw: random.Random) -> None:
    """Some bits anywhere."""
    for _ in range(draw.choice((1, 4, 32, 256))):
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)


def flip_head(data: bytearray, draw: random.Random) -> None:
    """Bytes of the header, where sizes, counts and times stand."""
    for _ in range(draw.choice((1, 2, 8))):
        data[draw.randrange(min(len(data), 1024))] = draw.choice((0, 1, 0x7F, 0x80, 0xFF, draw.randrange(256)))


def flip_tail(data: bytearray, draw: random.Random) -> None:
    """Bytes of the end, where many MP4 files have their index."""
    for _ in range(draw.choice((1, 2, 8))):
        data[-1 - draw.randrange(min(len(data), 4096))] = draw.randrange(256)


def cut_off(data: bytearray, draw: random.Random) -> None:
    del data[max(1, draw.randrange(len(data))) :]


def hole(data: bytearray, draw: random.Random) -> None:
    """A run of zeros or noise."""
    start, length = draw.randrange(len(data)), draw.choice((16, 512, 4096, 40_000))
    length = min(length, len(data) - start)
    data[start : start + length] = bytes(length) if draw.random() < 0.5 else draw.randbytes(length)


def shift(data: bytearray, draw: random.Random) -> None:
    """Bytes lost or slipped in, so that all behind them is elsewhere than the header says."""
    place = draw.randrange(len(data))
    if draw.random() < 0.5:
        del data[place : place + draw.choice((1, 7, 188, 5000))]
    else:
        data[place:place] = draw.randbytes(draw.choice((1, 7, 188, 5000)))


def swap(data: bytearray, draw: random.Random) -> None:
    """Two blocks in each other's place."""
    size = draw.choice((64, 1024, 8192))
    first, second = (draw.randrange(max(1, len(data) - size)) for _ in range(2))
    data[first : first + size], data[second : second + size] = data[second : second + size], data[first : first + size]


def lie(data: bytearray, draw: random.Random) -> None:
    """A huge or absurd number in four bytes of the first or last part."""
    near = max(1, min(len(data) - 4, 2048))
    place = max(0, draw.choice((draw.randrange(near), len(data) - 4 - draw.randrange(near))))
    data[place : place + 4] = draw.choice(HUGE)


def repeat(data: bytearray, draw: random.Random) -> None:
    """A block a second time, behind itself or elsewhere."""
    start, size = draw.randrange(len(data)), draw.choice((188, 1024, 8192))
    place = start + size if draw.random() < 0.5 else draw.randrange(len(data))
    data[place:place] = data[start : start + size]


ANYWHERE: tuple[Mutation, ...] = (flip, flip_head, flip_tail, cut_off, hole, shift, swap, lie, repeat)


# -------------------------------------------------------------------- where a container keeps its tables


def mp4_table(data: bytearray, draw: random.Random) -> None:
    """Entries of a sample table, an edit list or a fragment's run."""
    places = [found.start() for name in MP4_TABLES for found in re.finditer(name, data)]
    for _ in range(draw.choice((1, 2, 6)) if places else 0):
        _alter(data, draw.choice(places) + 8 + 4 * draw.randrange(40), draw)


def avi_index(data: bytearray, draw: random.Random) -> None:
    """Entries of idx1 altered, lost, doubled or exchanged."""
    start = data.rfind(b"idx1") + 8
    entries = (len(data) - start) // 16
    if start < 8 or entries < 2:
        return
    for _ in range(draw.choice((1, 2, 6))):
        place, other = (start + 16 * draw.randrange(entries) for _ in range(2))
        kind = draw.randrange(5)
        if max(place, other) + 16 > len(data):
            continue  # one was lost
        if kind == 0:
            _alter(data, place + 4 * draw.randrange(4), draw)
        elif kind == 1:
            data[place + 4] ^= 0x10  # key frame or not
        elif kind == 2:
            del data[place : place + 16]
        elif kind == 3:
            data[place:place] = data[other : other + 16]
        else:
            data[place : place + 16], data[other : other + 16] = data[other : other + 16], data[place : place + 16]


def avi_chunk(data: bytearray, draw: random.Random) -> None:
    """A chunk of pictures lost, doubled, or of another name or size."""
    places = [found.start() for found in re.finditer(b"0[01]d[cb]", data[: data.rfind(b"idx1")])]
    if len(places) < 3:
        return
    number = draw.randrange(len(places) - 1)
    place, after = places[number : number + 2]
    kind = draw.randrange(4)
    if kind == 0:
        del data[place:after]
    elif kind == 1:
        data[after:after] = data[place:after]
    elif kind == 2:
        data[place : place + 4] = draw.choice((b"01dc", b"JUNK", b"00wb", b"ix00"))
    else:
        _alter(data, place + 4, draw)


def ts_packet(data: bytearray, draw: random.Random) -> None:
    """Transport packets lost, doubled, exchanged, or with another counter or identity."""
    count = len(data) // TS_PACKET
    for _ in range(draw.choice((1, 3, 10)) if data[0] == TS_SYNC and count > 2 else 0):
        place, other = (TS_PACKET * draw.randrange(1, len(data) // TS_PACKET) for _ in range(2))
        kind = draw.randrange(5)
        if kind == 0:
            del data[place : place + TS_PACKET]
        elif kind == 1:
            data[place:place] = data[place : place + TS_PACKET]
        elif kind == 2:
            first, second = data[place : place + TS_PACKET], data[other : other + TS_PACKET]
            data[place : place + len(first)], data[other : other + len(second)] = second, first
        else:
            data[place + (3 if kind == 3 else draw.randrange(1, 20))] ^= 1 << draw.randrange(8)


def matroska_times(data: bytearray, draw: random.Random) -> None:
    """Times of clusters, blocks and cues; the key flag of blocks."""
    clusters = [found.start() for found in re.finditer(re.escape(CLUSTER), data)]
    for _ in range(draw.choice((1, 2, 6)) if clusters else 0):
        start = draw.choice(clusters)
        kind = draw.randrange(4)
        if kind == 0 and (place := data.find(CLUSTER_TIME, start, start + 24)) >= 0:
            data[place + 2] ^= 1 << draw.randrange(8)
        elif kind == 1 and (place := data.find(CUE_POINT, max(0, len(data) - 1500))) >= 0:
            data[min(len(data) - 1, place + draw.randrange(30))] ^= 1 << draw.randrange(8)
        elif (place := data.find(SIMPLE_BLOCK, start + draw.randrange(1, 6000))) >= 0:
            at = min(len(data) - 1, place + draw.choice((4, 5, 6) if kind == 2 else (3, 4, 5, 6, 7)))
            data[at] ^= 0x80 if kind == 2 else 1 << draw.randrange(8)


def flv_tag(data: bytearray, draw: random.Random) -> None:
    """Times and key flags of tags."""
    places = [found.start() for found in re.finditer(rb"\x09...[\x00\x01]...\0\0\0[\x17\x27]\x01", data, re.DOTALL)]
    for _ in range(draw.choice((1, 2, 6)) if places else 0):
        place = draw.choice(places)
        if draw.random() < 0.4:
            data[place + 11] ^= 0x30
        else:
            data[place + draw.choice((4, 5, 6, 7, 13, 14, 15))] ^= 1 << draw.randrange(8)


def _alter(data: bytearray, place: int, draw: random.Random) -> None:
    """Another number of 32 bits: absurd, or nearly the same."""
    if place + 4 > len(data):
        return
    if draw.random() < 0.3:
        data[place : place + 4] = draw.choice(HUGE)
    else:
        data[place + draw.randrange(4)] ^= 1 << draw.randrange(8)


BY_SUFFIX: dict[str, tuple[Mutation, ...]] = {
    ".mp4": (mp4_table,),
    ".mov": (mp4_table,),
    ".avi": (avi_index, avi_chunk),
    ".ts": (ts_packet,),
    ".mkv": (matroska_times,),
    ".webm": (matroska_times,),
    ".flv": (flv_tag,),
}


def damage(data: bytearray, suffix: str, draw: random.Random) -> None:
    """One to three mutations; every second one by what is known of the container."""
    own = BY_SUFFIX.get(suffix, ())
    for _ in range(draw.choice((1, 1, 2, 3))):
        draw.choice(own if own and draw.random() < 0.5 else ANYWHERE)(data, draw)
        if not data:
            data.append(0)
