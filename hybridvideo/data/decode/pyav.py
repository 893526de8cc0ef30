"""The PyAV reader: exact frames from FFmpeg, on one thread, without decoding more than necessary.

Opening demuxes the stream once, which yields the index of frames (packets.py); if packets do not contain the time of
their frame, the index is made by decoding once. The cursor (cursor.py) then fetches frames by that index, and the
converter (to_rgb.py) turns them into RGB. What was learned about a file can be kept (known.py), so that opening it
again costs nothing.

U distinct frames of a request, H height, W width, C channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from av.video.frame import VideoFrame

from hybridvideo.data.decode import guard, sample_tables
from hybridvideo.data.decode.container import listening
from hybridvideo.data.decode.cursor import Cursor, Decoded, Missed
from hybridvideo.data.decode.frames import ByteArray, FloatArray, Shot, VideoInfo
from hybridvideo.data.decode.known import Known, Picture
from hybridvideo.data.decode.packets import Packets, index_by_decoding, index_by_times
from hybridvideo.data.decode.promises import ends_early, promised_packets
from hybridvideo.data.decode.stream import TIMED_CONTAINERS
from hybridvideo.data.decode.to_rgb import MIRRORED, Converter, quarter_turns, turned
from hybridvideo.errors import UserError, VideoError

EMPTY_PICTURE_BYTES = 32  # MPEG-4 packets below this may be placeholders without a frame


class PyAVBackend:
    """A `frames.Backend`: see `VideoReader` for what a caller may rely on.

    path: absolute, from guard.regular_file. known: what an earlier reader found out about this file.
    """

    def __init__(self, path: str, known: Known | None = None) -> None:
        self.status, self.reason = "ok", ""
        self._info: VideoInfo | None = None
        self._picture: Picture | None = None
        if known is None:
            sample_tables.check(path)
        self._cursor = Cursor(path, careful=known is not None and known.careful)
        try:
            self._start() if known is None else self._go_on(known)
        except BaseException:
            self.close()
            raise

    @property
    def cursor(self) -> Cursor:
        """The decoder's position; for backends that share this one's index."""
        return self._cursor

    @property
    def times(self) -> FloatArray:
        return self._times

    @property
    def fps(self) -> float:
        return self._fps

    @property
    def decoded(self) -> int:
        """Frames that FFmpeg has decoded so far, wanted or not."""
        return self._cursor.decoded

    @property
    def mirrored(self) -> bool:
        """Whether the reader mirrors frames, besides turning them."""
        return self._known_picture().quarter_turns >= MIRRORED

    @property
    def info(self) -> VideoInfo:
        if self._info is None:
            self._check_open()
            self._info = self._describe()
        return self._info

    def decode(self, shots: Sequence[Shot]) -> list[ByteArray]:
        """Frames (U, H, W, C) of each shot."""
        self._check_open()
        self._cursor.be_exact(any(shot.exact for shot in shots))
        with listening():
            while True:
                try:
                    return self._gather(shots)
                except Missed as missed:
                    self._recover(missed)

    def check(self) -> None:
        """Decode everything once and keep only the frames that decode."""
        self._check_open()
        if not self._counted:
            self._count()

    def known(self) -> Known | None:
        """What the next reader of this file may know; None before the first frame was seen."""
        if self._picture is None:
            return None
        return Known(
            self._cursor.index,
            self._picture,
            promised=self._promised,
            last=self._last,
            counted=self._counted,
            by_decoding=self._cursor.by_decoding,
            careful=self._cursor.careful,
            status=self.status,
            reason=self.reason,
        )

    def close(self) -> None:
        self._cursor.close()

    def _check_open(self) -> None:
        if self._cursor.closed:
            raise UserError("this VideoReader is closed; open it again")

    # ---------------------------------------------------------------- opening

    def _start(self) -> None:
        cursor = self._cursor
        self._packets: Packets | None = cursor.demux()
        self._promised, self._counted = len(self._packets.shown), False
        if not self._packets.shown:
            raise VideoError("unreadable", self._packets.fault or "the video stream holds no frames")
        self._note_cut_file(self._packets)
        if _frames_are_packets(cursor, self._packets):
            cursor.index = index_by_times(self._packets)
            cursor.rewind()
            self._note_times()
        else:
            self._count()

    def _go_on(self, known: Known) -> None:
        self._packets = None
        self._promised, self._counted, self._last = known.promised, known.counted, known.last
        self.status, self.reason = known.status, known.reason
        self._picture = known.picture
        self._cursor.index, self._cursor.by_decoding = known.index, known.by_decoding
        self._cursor.tolerant = known.counted and not known.index.keys
        self._time()

    def _note_times(self) -> None:
        assert self._packets is not None
        self._last = float(self._cursor.index.last_ticks(self._packets) * self._cursor.time_base)
        self._time()

    def _time(self) -> None:
        self._info = None
        self._times = self._cursor.index.seconds(self._cursor.time_base)
        self._fps = self._average_fps()

    def _average_fps(self) -> float:
        if len(self._times) > 1:
            return (len(self._times) - 1) / float(self._times[-1])
        rate = self._cursor.stream.average_rate
        return 1 / self._last if self._last else float(rate or 25)

    def _note_cut_file(self, packets: Packets) -> None:
        """Mark a file that holds less than it promises as partial, before anything is decoded."""
        cursor = self._cursor
        there = len(packets) + packets.empty
        promised = promised_packets(cursor, there)
        if promised > there:
            self._promised += promised - there
            self._mark_partial(f"{there} of {promised} frames are in the file")
        elif packets.fault:
            self._mark_partial(f"the file cannot be read to its end: {packets.fault}")
        elif (ends := ends_early(cursor, packets)) is not None:
            self._promised = max(self._promised, cursor.stream.frames)
            self._mark_partial(f"the file ends at {ends[0]:.2f} of {ends[1]:.2f} s")
        elif packets.cut:
            self._mark_partial(f"{packets.cut} of {len(packets)} packets are damaged")

    def _mark_partial(self, reason: str) -> None:
        self.status, self.reason = "partial", " ".join(reason.split())

    # ---------------------------------------------------------------- frames

    def _describe(self) -> VideoInfo:
        picture = self._known_picture()  # before anything else: looking for a first frame may shrink the index
        index = self._cursor.index
        base = self._cursor.time_base
        height, width = turned(picture.stored, picture.quarter_turns)
        return VideoInfo(
            frames=len(index),
            header_frames=self._cursor.stream.frames or None,
            fps=self._fps,
            duration=float(self._times[-1]) + (self._last or 1 / self._fps),
            width=width,
            height=height,
            rotation=-90 * picture.quarter_turns % 360,
            codec=self._cursor.codec.codec.canonical_name,
            pixel_format=picture.pixel_format,
            regular=bool(np.abs(self._times - np.arange(len(index)) / self._fps).max() <= 1.01 * base),
            keyframes=tuple(sorted({index.frame_of[key.packet] for key in index.keys if key.packet in index.frame_of})),
        )

    def _gather(self, shots: Sequence[Shot]) -> list[ByteArray]:
        indices = sorted({index for shot in shots for index in shot.indices})
        frames, times = self._cursor.fetch(indices), self._times
        frame = next(frames)
        if self._picture is None and not self._is_first_picture(frame):
            self._known_picture()
            if self._times is not times:  # the indices are those of frames that were promised
                raise VideoError("partial", self.reason)
            frames = self._cursor.fetch(indices)
            frame = next(frames)
        picture = self._known_picture(frame)
        films = [Film(shot, picture) for shot in shots]
        _expose(films, indices[0], frame)
        del frame  # before the next one is decoded, see Cursor.tolerant
        for index in indices[1:]:
            _expose(films, index, next(frames))
        return [film.frames_UHWC for film in films]

    def _is_first_picture(self, frame: VideoFrame) -> bool:
        """Whether a frame has the size in the header; streams that change it are rare."""
        return (frame.width, frame.height) == self._cursor.size

    def _known_picture(self, frame: VideoFrame | None = None) -> Picture:
        """Size, rotation and format of the stream's frames, which are those of the first one."""
        if self._picture is None:
            first = frame or self._first_frame()
            guard.check_frame_size(first.width, first.height)
            self._picture = Picture((first.height, first.width), quarter_turns(first), first.format.name)
        return self._picture

    def _first_frame(self) -> VideoFrame:
        with listening():
            while True:
                try:
                    return next(self._cursor.fetch([0]))
                except Missed as missed:
                    self._recover(missed, quietly=True)

    # ---------------------------------------------------------------- damage

    def _recover(self, missed: Missed, quietly: bool = False) -> None:
        """After a miss: open carefully; then count what decodes, once; then distrust the key frames; then give up.

        Returns if trying again makes sense, raises VideoError if the caller must sample again. quietly: the request is
        for the first frame, whichever that is.
        """
        cursor = self._cursor
        if not cursor.careful:
            cursor.careful = True
            cursor.restart()
        elif not self._counted:
            self._count()
            if self.status == "partial" and not quietly:
                raise VideoError("partial", self.reason) from None
        elif cursor.index.keys:
            cursor.index, cursor.tolerant = cursor.index.without_keys(), True
            cursor.restart()
        else:
            raise VideoError("unreadable", f"decoding twice did not return the same frames: {missed}") from None

    def _count(self) -> None:
        """Decode the complete stream once, and make the index of the frames that came."""
        cursor = self._cursor
        if self._packets is None:
            cursor.restart()
            self._packets = cursor.demux()
        with listening():
            decoded = cursor.decode_all()
        self._counted = True
        if decoded.first is None or not decoded.numbers:
            reason = decoded.complaint or "the decoder returns none"
            raise VideoError("unreadable", f"no frame can be decoded: {reason}")
        known, expected = len(cursor.index), len(cursor.index) or _frames_of_avi(cursor, self._packets)
        renumbered = decoded.numbers != cursor.index.packets_N
        damage = decoded.damaged or decoded.complaint or len(decoded.numbers) < expected or (known and renumbered)
        if damage or self.status == "partial":
            self._mark_partial(self._tally(decoded))
        if renumbered or self.status == "partial":
            step = 1 / (Fraction(cursor.stream.average_rate or 25) * cursor.time_base)
            cursor.index = index_by_decoding(self._packets, decoded.numbers, max(1, round(step)))
            cursor.by_decoding = True
            self._note_times()
        if decoded.noisy or self.status == "partial":
            cursor.index = cursor.index.without_keys()
        cursor.tolerant = not cursor.index.keys
        cursor.rewind()
        self._picture = None
        self._known_picture(decoded.first)

    def _tally(self, decoded: Decoded) -> str:
        frames, complaint = len(decoded.numbers), decoded.complaint
        if frames < self._promised:
            text = f"{frames} of {self._promised} frames decode"
        else:
            text = self.reason or f"{frames} frames decode" + (f", not all: {complaint}" if complaint else "")
        return f"{text}, {decoded.damaged} of the frames damaged" if decoded.damaged else text


class Film:
    """The frames of one shot, as they come."""

    def __init__(self, shot: Shot, picture: Picture) -> None:
        self._converter = Converter(picture.stored, picture.quarter_turns, shot.framer)
        self._place = {index: position for position, index in enumerate(shot.indices)}
        height, width = self._converter.size
        guard.check_request(len(shot.indices), width, height)
        self.frames_UHWC: ByteArray = np.empty((len(shot.indices), height, width, 3), dtype=np.uint8)

    def take(self, index: int, frame: VideoFrame) -> None:
        """Keep this frame if the shot has it."""
        if index in self._place:
            self._converter.into(frame, self.frames_UHWC[self._place[index]])


def _expose(films: Sequence[Film], index: int, frame: VideoFrame) -> None:
    for film in films:
        film.take(index, frame)


def _frames_of_avi(cursor: Cursor, packets: Packets) -> int:
    """Frames in an AVI's packets: one each, except in MPEG-4, whose packets may hold two or none. 0 for other files."""
    return len(packets.shown) if cursor.container.format.name == "avi" and cursor.codec.name != "mpeg4" else 0


def _frames_are_packets(cursor: Cursor, packets: Packets) -> bool:
    """Whether each shown packet is one frame with its own time, so that frames can be counted without decoding."""
    if cursor.codec.name == "mpeg4" and packets.smallest < EMPTY_PICTURE_BYTES:
        return False
    stored = cursor.container.format.name in TIMED_CONTAINERS or not cursor.codec.has_b_frames
    return stored and packets.timed()
