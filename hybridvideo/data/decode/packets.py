"""From packets to frames: which packet holds a frame, when it is shown, and where decoding must start for it.

Pure arithmetic, no decoder. A packet's number counts the packets of the stream from 0 in file order, which is decoding
order; a frame's index counts frames from 0 in presentation order. Ticks are integer multiples of the stream's time
base. S packets, N frames, K key packets.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from operator import lt

import numpy as np
import numpy.typing as npt
from av.packet import Packet
from av.video.stream import VideoStream

from hybridvideo.data.decode.contents import encrypted
from hybridvideo.data.decode.frames import FloatArray
from hybridvideo.errors import VideoError

IntArray = npt.NDArray[np.int64]


@dataclass
class Packets:
    """What demuxing a stream to its end reveals about each packet, without decoding."""

    pts: list[int | None] = field(default_factory=list)
    dts: list[int | None] = field(default_factory=list)
    durations: list[int] = field(default_factory=list)
    keys: list[int] = field(default_factory=list)  # numbers of the packets marked as key
    prints: list[int] = field(default_factory=list)  # by which a packet is recognised, see `fingerprint`
    hidden: set[int] = field(default_factory=set)  # packets that are never shown (edit lists, VP8 references)
    smallest: int = 2**63 - 1  # bytes
    empty: int = 0  # packets without data, not numbered
    cut: int = 0  # packets that the demuxer marks as damaged
    chained: bool = False  # key packets need earlier ones: a palette is stored only once
    fault: str = ""  # why demuxing stopped before the end

    def __len__(self) -> int:
        return len(self.pts)

    def note(self, packet: Packet[VideoStream], vp8: bool, most: int) -> None:
        """Add a packet. vp8: of that codec. Raises VideoError: `refused` above `most`, `unsupported` if encrypted."""
        number, size = len(self), packet.size
        if number >= most:
            raise VideoError("refused", f"more than {most:,} packets in a file of this size")
        self.prints.append(fingerprint(packet.pos, size))
        self.pts.append(packet.pts)
        self.dts.append(packet.dts)
        self.durations.append(packet.duration or 0)
        if size < self.smallest:
            self.smallest = size
        self.cut += packet.is_corrupt
        if packet.is_keyframe:
            self.keys.append(number)
            if packet.has_sidedata("encryption_info"):
                raise encrypted()
            self.chained = self.chained or packet.has_sidedata("palette")
        if packet.is_discard or (vp8 and not memoryview(packet)[0] & 0x10):  # VP8 show_frame bit
            self.hidden.add(number)

    @cached_property
    def shown(self) -> list[int]:
        return [number for number in range(len(self)) if number not in self.hidden]

    def timed(self) -> bool:
        """Whether every shown packet has a presentation time of its own."""
        times = [self.pts[number] for number in self.shown]
        return None not in times and len(set(times)) == len(times)


def fingerprint(place: int | None, size: int) -> int:
    """16 bits by which a packet is recognised, made from its offset in the file and its size."""
    return (2 * (place or 0) + size) & 0xFFFF


@dataclass(frozen=True)
class Key:
    """A packet at which decoding can start, and how it is recognised after a seek."""

    packet: int
    frame: int  # frames before this index cannot come from here
    mark: int  # its presentation time if `by_time`, otherwise its decoding time


class FrameIndex:
    """Frames in order of presentation.

    packets_N: the packet of each frame. ticks_N: ascending presentation times. keys: in order of packets. by_time: a
    key packet's mark is its presentation time; otherwise, if those are made up (AVI), its decoding time. prints_S:
    fingerprints of the packets. They reveal when a demuxer returns other packets after a seek than in one pass,
    because a table of the file is wrong or it lost its place in damage.
    """

    def __init__(
        self,
        packets_N: Sequence[int],
        ticks_N: Sequence[int] | IntArray,
        keys: Sequence[Key],
        by_time: bool,
        prints_S: Iterable[int] = (),
    ) -> None:
        self.packets_N = list(packets_N)
        self.ticks_N: IntArray = np.asarray(ticks_N, dtype=np.int64)
        self.frame_of = {packet: frame for frame, packet in enumerate(self.packets_N)}
        self.by_time = by_time
        self.prints_S = prints_S if isinstance(prints_S, array) else array("H", prints_S)
        self.keys = list(keys)
        self._key_packets = [key.packet for key in self.keys]

    @classmethod
    def of(cls, packets: Packets, packets_N: Sequence[int], ticks_N: Sequence[int], by_time: bool) -> FrameIndex:
        """The index of frames that come from these packets."""
        index = cls(packets_N, ticks_N, (), by_time, packets.prints)
        keys = [key for number in packets.keys if (key := index._key(packets, number)) is not None]
        if not _marks_are_unique(packets, by_time):
            keys = []  # a seek to one may land on another
        index.keys, index._key_packets = keys, [key.packet for key in keys]
        return index

    def __len__(self) -> int:
        return len(self.packets_N)

    def mark(self, pts: int | None, dts: int | None) -> int | None:
        return pts if self.by_time else dts

    def key_for(self, frame: int) -> Key | None:
        """The last key packet from which this frame decodes completely; None means from the start of the file.

        A frame that is presented before a key packet but stored after it (open GOP) belongs to the previous key.
        """
        place = bisect_right(self._key_packets, self.packets_N[frame]) - 1
        while place >= 0 and self.keys[place].frame > frame:
            place -= 1
        return self.keys[place] if place >= 0 else None

    def without_keys(self) -> FrameIndex:
        """The same without key packets: everything is decoded from the start of the file."""
        return FrameIndex(self.packets_N, self.ticks_N, (), self.by_time, self.prints_S)

    def holds(self, number: int, place: int | None, size: int) -> bool:
        """Whether the packet of this number is the one at this place."""
        return number < len(self.prints_S) and self.prints_S[number] == fingerprint(place, size)

    def seconds(self, time_base: Fraction) -> FloatArray:
        ticks = (self.ticks_N - self.ticks_N[0]).astype(np.float64)
        seconds: FloatArray = ticks * time_base.numerator / time_base.denominator
        seconds.setflags(write=False)
        return seconds

    def last_ticks(self, packets: Packets) -> int:
        """How long the last frame is shown: its packet's duration, or the usual step, or 0."""
        duration = packets.durations[self.packets_N[-1]]
        if duration > 0 or len(self) < 2:
            return max(duration, 0)
        return int(np.median(np.diff(self.ticks_N)))

    def _key(self, packets: Packets, number: int) -> Key | None:
        mark = self.mark(packets.pts[number], packets.dts[number])
        frame = self.frame_of.get(number)
        if frame is None and self.by_time and mark is not None:
            frame = int(np.searchsorted(self.ticks_N, mark))
        return None if mark is None or frame is None else Key(number, frame, mark)


def _marks_are_unique(packets: Packets, by_time: bool) -> bool:
    """Whether decoding may start at a mark: not if the clock of the file starts again on the way."""
    if packets.chained:
        return False
    if by_time:
        return not packets.hidden or len(set(packets.pts)) == len(packets)
    known = [dts for dts in packets.dts if dts is not None]
    return all(map(lt, known, known[1:]))


def index_by_times(packets: Packets) -> FrameIndex:
    """The index for packets of one frame each that contain its presentation time."""
    timed = sorted((pts, number) for number in packets.shown if (pts := packets.pts[number]) is not None)
    return FrameIndex.of(packets, [number for _, number in timed], [pts for pts, _ in timed], by_time=True)


def index_by_decoding(packets: Packets, decoded_N: Sequence[int], step: int) -> FrameIndex:
    """The index for a decoder that returned frames of these packets, in this order.

    Times are the packets' presentation times if they ascend in that order; otherwise those or the decoding times,
    sorted (a container that stores only one time per packet); otherwise multiples of `step` ticks.
    """
    for times, by_time in ((packets.pts, True), (packets.dts, False)):
        known = [tick for number in decoded_N if (tick := times[number]) is not None]
        if len(known) == len(decoded_N) == len(set(known)):
            ascending = known == sorted(known)
            return FrameIndex.of(packets, decoded_N, sorted(known), by_time and ascending)
    return FrameIndex.of(packets, decoded_N, range(0, step * len(decoded_N), step), by_time=False)
