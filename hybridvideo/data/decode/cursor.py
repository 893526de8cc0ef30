"""The position of FFmpeg's decoder in an open video stream, and the way from there to the wanted frames.

Decoding runs on one thread, forward from a key packet, and no further than necessary: unrequested frames to which no
other frame refers are dropped before they are decoded, and after the last packet of a request the decoder is
drained instead of being fed more. A decoded frame is identified by the number of its packet, which is carried through
the decoder in place of its time: a frame is never taken for another because two clocks disagree.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast

from av.packet import Packet
from av.video.frame import PictureType, VideoFrame

from hybridvideo.data.decode.container import FAULTS, complaints, words
from hybridvideo.data.decode.packets import FrameIndex, Key
from hybridvideo.data.decode.stream import SEEKABLE_CONTAINERS, OpenStream, VideoPacket

WORTH_A_JUMP = 8  # packets decoded in vain from which on seeking forward is cheaper
DRAINED: Iterator[VideoPacket] = iter(())


@dataclass(frozen=True)
class Decoded:
    """The result of decoding a complete stream. numbers: of the packets whose frames came, in that order.

    damaged: concealed frames. complaint: the first error. noisy: the decoder has logged errors.
    """

    numbers: list[int]
    damaged: int
    complaint: str
    noisy: bool
    first: VideoFrame | None


class Missed(Exception):
    """A promised frame did not come, or the decoder complained on the way to it; the text describes it."""


class Cursor(OpenStream):
    """An open stream and the position of its decoder.

    Decoding starts at a key packet only if nothing suggests that its frames differ from those of decoding from the
    start of the file: the demuxer must return the same packets as in one pass (by their fingerprints), the first frame
    must be one that by its content refers to no other, and the decoder must have no complaint. Otherwise the frame is
    Missed.
    """

    def __init__(self, path: str, careful: bool = False) -> None:
        self.index = FrameIndex([], [], [], by_time=True)
        self.by_decoding = False  # the index was made by decoding: a packet may not be one frame, so all are decoded
        # True once complaints are no news: then everything is decoded from the start of the file, and no frame is held
        # while the next one is decoded, since what a damaged frame lacks is filled with what was in its memory.
        self.tolerant = False
        self.decoded = 0  # frames that came out of the decoder so far, wanted or not
        self._streams = False  # True once a request continued after the previous one: keep reading, do not drain
        self._wanted: frozenset[int] = frozenset()  # packets of this run's frames
        self._final: int | None = None  # the last of them, after which the decoder is drained
        self._reached = -1  # the last frame returned
        self._sent = 0  # number of the next packet
        self._whole_from = self._intact = 0  # the first complete frame: from where decoding began; from here
        self._landed = -1  # the frame of the key packet that decoding began at, until it has come
        self._heard = 0  # complaints of the decoder before this run, or of what does not matter
        self._pending: deque[tuple[int, VideoFrame]] = deque()
        self._last: tuple[int, VideoFrame] | None = None
        self._incoming: Iterator[VideoPacket] = iter(())
        super().__init__(path, careful)

    def close(self) -> None:
        self._last = None
        self._pending.clear()
        self._incoming = iter(())
        super().close()

    def rewind(self) -> None:
        """Go back to the first packet."""
        first = self.index.keys[0] if self.index.keys else None
        if first is None or first.packet != 0 or not self._seek(first):
            self.restart()

    def fetch(self, indices: Sequence[int]) -> Iterator[VideoFrame]:
        """Yield the frames of these ascending indices. Raises Missed."""
        self._streams = self._streams or self._goes_on(indices[0])
        for run in self._runs(indices):
            yield from self._run(run)

    def _goes_on(self, index: int) -> bool:
        """Whether a request continues the previous one, or would if the decoder had not been drained."""
        key = self.index.key_for(index)
        return 0 <= self._reached < index and (key.packet if key is not None else 0) <= self._sent

    def _runs(self, indices: Sequence[int]) -> Iterator[list[int]]:
        """Split the indices into runs between which seeking forward is cheaper than decoding."""
        run = [indices[0]]
        for index in indices[1:]:
            key = self.index.key_for(index)
            if key is not None and key.packet > self.index.packets_N[run[-1]] + WORTH_A_JUMP:
                yield run
                run = []
            run.append(index)
        yield run

    def _run(self, run: list[int]) -> Iterator[VideoFrame]:
        if self._last is not None and self._last[0] == run[0]:
            yield self._last[1]
            run = run[1:]
            if not run:
                return
        self._heard = self._complaints()
        self._go_to(run[0])
        self._wanted = frozenset(self.index.packets_N[index] for index in run)
        self._final = None if self._streams or self.by_decoding or self.tolerant else max(self._wanted)
        for index in run:
            frame = self._await(index)
            if index == run[-1]:
                self._listen()
            self._intact, self._reached = index + 1, index
            self._last = None if self.tolerant else (index, frame)
            yield frame
            del frame
        if self._final is not None:
            self._intact = len(self.index)  # what follows was dropped, or lost in draining

    def _go_to(self, index: int) -> None:
        key = self.index.key_for(index)
        start = key.packet if key is not None else 0
        if index < self._intact or start > self._sent + WORTH_A_JUMP:
            self._jump(key)

    def _await(self, index: int) -> VideoFrame:
        while True:
            while self._pending:
                found, frame = self._pending.popleft()
                if found == index:
                    return frame
                if found > index:
                    raise Missed(f"frame {index} of {len(self.index)} was not found")
                del frame
            if not self._advance(index):
                raise Missed(f"frame {index} of {len(self.index)} was not found before the end")

    # ---------------------------------------------------------------- complete passes

    def decode_all(self) -> Decoded:
        """Decode the complete stream. Raises nothing: what does not decode is left out."""
        self.restart()
        heard = self._complaints()
        decoded: list[int] = []
        damaged, complaint, first = 0, "", None
        for packet in self._incoming:
            try:
                frames = self._decode(packet, skip=False)
            except FAULTS as error:
                complaint = complaint or words(error)
                continue
            for frame in frames:
                first = first or frame
                decoded.append(_number(frame))
                damaged += frame.is_corrupt
        return Decoded(
            list(dict.fromkeys(decoded)), damaged, complaint or self._fault, self._complaints() != heard, first
        )

    # ---------------------------------------------------------------- moving

    def _open(self) -> None:
        super()._open()
        self._stand(None, ahead=None)

    def _stand(self, key: Key | None, ahead: VideoPacket | None) -> None:
        """Set the position to this key packet, or to the start; `ahead` is that packet if it has been read already."""
        self._sent = key.packet if key is not None else 0
        self._whole_from = self._intact = key.frame if key is not None else 0
        self._landed = self.index.frame_of.get(key.packet, -1) if key is not None else -1
        self._pending.clear()
        self._last = None
        self._fault = ""
        self._incoming = self._packets(ahead)

    def _jump(self, key: Key | None) -> None:
        """Go to the key packet: by seeking, or if the demuxer misses it by reading from the start."""
        if key is not None and self._seek(key):
            return
        self.restart()
        if key is not None:
            for packet in self._incoming:
                if self._sent == key.packet and packet.size:
                    self._stand(key, packet)
                    return
                self._sent += packet.size > 0

    def _seek(self, key: Key) -> bool:
        """Seek to the key packet; return whether it was reached. Demuxers may land early (read on) or late."""
        if self.container.format.name not in SEEKABLE_CONTAINERS:
            return False
        try:
            packet: VideoPacket
            self.container.seek(key.mark, stream=self.stream)
            for packet in self.container.demux(self.stream):
                mark = self.index.mark(packet.pts, packet.dts)
                if packet.size and mark == key.mark:
                    self._stand(key, packet)
                    return self.index.holds(key.packet, packet.pos, packet.size)
                if packet.is_keyframe and mark is not None and mark > key.mark:
                    return False
        except FAULTS:
            return False
        return False

    # ---------------------------------------------------------------- decoding

    def _advance(self, target: int) -> bool:
        """Feed the decoder one packet and queue the frames that come; False at the end."""
        packet = self._next()
        if packet is None:
            return False
        number = self._sent
        if packet.size and not self.index.holds(number, packet.pos, packet.size):
            raise Missed(f"packet {number} differs from the one when the file was read in one pass")
        place = self.index.frame_of.get(number, -1)
        idle = self.tolerant or (place < self._whole_from and not self._matters(packet, place))
        if idle:
            self._listen()
        try:
            frames = self._decode(packet, skip=self._droppable(number, place, target))
        except FAULTS as error:
            if not idle:
                raise Missed(f"packet {number} does not decode: {words(error)}") from None
            frames = []
        if idle:
            self._heard = self._complaints()
        for frame in frames:
            found = self.index.frame_of.get(_number(frame), -1)
            if found < self._whole_from:
                continue
            if frame.is_corrupt and not self.tolerant:
                raise Missed(f"frame {found} of {len(self.index)} is damaged")
            if self._landed >= 0:
                self._land(found, frame)
            self._pending.append((found, frame))
        return True

    def _land(self, found: int, frame: VideoFrame) -> None:
        """Check that the first frame after a key packet is that packet's own and refers to no other."""
        if found != self._landed or not (frame.key_frame or frame.pict_type == PictureType.NONE):
            raise Missed(f"decoding cannot start at frame {self._landed}, although the file claims it")
        self._landed = -1

    def _listen(self) -> None:
        """Check for complaints, once per run: code between packets costs more than it seems."""
        if self._complaints() != self._heard and not self.tolerant:
            raise Missed("the decoder complains")

    def _complaints(self) -> int:
        """If frames refer to others, warnings count too, since a missing reference is only a warning."""
        return complaints(errors_only=not self._leans)

    def _matters(self, packet: VideoPacket, place: int) -> bool:
        """Whether a complaint is news: not for frames that refer to what is before the key packet (open GOP)."""
        hidden = place < 0 and not self.codec.has_b_frames
        return place >= self._whole_from or hidden or packet.size == 0

    def _next(self) -> VideoPacket | None:
        """The next packet; after the final one, once, an empty packet that drains the decoder."""
        if self._final is None or self._sent <= self._final:
            return next(self._incoming, None)
        if self._incoming is DRAINED:
            return None
        self._incoming = DRAINED
        return cast(VideoPacket, Packet())

    def _droppable(self, number: int, place: int, target: int) -> bool:
        """Whether nobody wants this packet's frame: in this run, or up to the target if reading continues."""
        if self.by_decoding or self.tolerant:
            return False
        return place < target if self._final is None else number not in self._wanted

    def _decode(self, packet: VideoPacket, skip: bool) -> list[VideoFrame]:
        """Decode a packet under its number. skip: its frame is not wanted.

        An unwanted H.264 frame is dropped if no other frame refers to it, which nal_ref_idc 0 guarantees. HEVC's
        counterpart refers to one layer only, so nothing is dropped there.
        """
        if packet.size:
            packet.pts, packet.dts = self._sent, None
            self._sent += 1
        if self._skips and skip is not self._skipping:
            self.codec.skip_frame = "NONREF" if skip else "DEFAULT"
            self._skipping = skip
        frames = self.codec.decode(packet if packet.size else None)
        self.decoded += len(frames)
        return frames


def _number(frame: VideoFrame) -> int:
    return -1 if frame.pts is None else frame.pts
