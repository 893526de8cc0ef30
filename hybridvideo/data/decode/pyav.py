"""The PyAV reader: exact frames out of FFmpeg, on one thread, without decoding more than is needed.

Opening demuxes the stream once, which gives the index of frames (packets.py); where packets do not say when their
frame is shown, it is made by decoding once. The cursor (cursor.py) then fetches frames by that index.
U distinct frames of a request, H height, W width, C channels.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter

from hybridvideo.data.decode import guard
from hybridvideo.data.decode.cursor import FAULTS, TIMED_CONTAINERS, Cursor, Missed, words
from hybridvideo.data.decode.frames import ByteArray, FloatArray, VideoInfo
from hybridvideo.data.decode.packets import Packets, index_by_decoding, index_by_times
from hybridvideo.errors import UserError, VideoError

EMPTY_PICTURE_BYTES = 32  # MPEG-4 packets below this may be placeholders without a frame


class PyAVBackend:
    """A `frames.Backend`: see `VideoReader` for what a caller may rely on. path: absolute, from guard.regular_file."""

    def __init__(self, path: str) -> None:
        self.status, self.reason = "ok", ""
        self._cursor = Cursor(path)
        try:
            self._start()
        except BaseException:
            self.close()
            raise

    @property
    def info(self) -> VideoInfo:
        return self._info

    @property
    def times(self) -> FloatArray:
        return self._times

    def decode(self, indices: list[int]) -> ByteArray:
        """Frames (U, H, W, C) at distinct ascending indices."""
        if self._cursor.closed:
            raise UserError("this VideoReader is closed; open it again")
        while True:
            try:
                return self._gather(indices)
            except Missed as missed:
                self._recover(missed)

    def check(self) -> None:
        """Decode everything once and keep only the frames that come."""
        if self._cursor.closed:
            raise UserError("this VideoReader is closed; open it again")
        if not self._counted:
            self._count()
            self._describe(self._first_frame())

    def close(self) -> None:
        self._cursor.close()

    # ---------------------------------------------------------------- opening

    def _start(self) -> None:
        cursor = self._cursor
        self._packets = cursor.demux()
        self._promised, self._counted = len(self._packets.shown), False
        if not self._packets.shown:
            raise VideoError("unreadable", self._packets.fault or "the video stream holds no frames")
        self._note_cut_file()
        self._first: VideoFrame | None = None
        if _frames_are_packets(cursor, self._packets):
            cursor.index = index_by_times(self._packets)
            cursor.rewind()
        else:
            self._count()
        self._describe(self._first_frame())

    def _first_frame(self) -> VideoFrame:
        try:
            return self._cursor.frame(0)
        except Missed as missed:
            if not self._counted:
                self._count()
            if self._first is None:
                raise VideoError("unreadable", f"no frame can be decoded: {missed}") from None
            return self._first

    def _note_cut_file(self) -> None:
        """A file that holds less than it promises is partial before anything is decoded."""
        packets, cursor = self._packets, self._cursor
        promised = cursor.promised_packets()
        there = len(packets) + packets.empty
        if promised > there:
            self._promised += promised - there
            self._mark_partial(f"{there} of {promised} frames are in the file")
        elif packets.fault:
            self._mark_partial(f"the file cannot be read to its end: {packets.fault}")
        elif (ends := cursor.ends_early(packets)) is not None:
            self._promised = max(self._promised, cursor.stream.frames)
            self._mark_partial(f"the file ends at {ends[0]:.2f} of {ends[1]:.2f} s")
        elif packets.cut:
            self._mark_partial(f"{packets.cut} of {len(packets)} packets are damaged")

    def _mark_partial(self, reason: str) -> None:
        self.status, self.reason = "partial", " ".join(reason.split())

    def _describe(self, first: VideoFrame) -> None:
        """`info` and `times` from the index and the first frame, which sets size and rotation."""
        index, stream = self._cursor.index, self._cursor.stream
        self._quarter_turns = round(first.rotation / 90) % 4  # counter-clockwise, as numpy turns
        self._size = (first.width, first.height)
        guard.check_frame_size(*self._size)
        width, height = self._size if self._quarter_turns % 2 == 0 else self._size[::-1]
        base = self._cursor.time_base
        self._times = index.seconds(base)
        last = index.last_ticks(self._packets) * base
        fps = self._average_fps(float(last))
        self._info = VideoInfo(
            frames=len(index),
            header_frames=stream.frames or None,
            fps=fps,
            duration=float(self._times[-1]) + (float(last) or 1 / fps),
            width=width,
            height=height,
            rotation=-90 * self._quarter_turns % 360,
            codec=stream.codec_context.codec.canonical_name,
            pixel_format=first.format.name,
            regular=bool(np.abs(self._times - np.arange(len(index)) / fps).max() <= 1.01 * base),
            keyframes=tuple(sorted({index.frame_of[key.packet] for key in index.keys if key.packet in index.frame_of})),
        )

    def _average_fps(self, last: float) -> float:
        if len(self._times) > 1:
            return (len(self._times) - 1) / float(self._times[-1])
        rate = self._cursor.stream.average_rate
        return 1 / last if last else float(rate or 25)

    # ---------------------------------------------------------------- frames

    def _gather(self, indices: list[int]) -> ByteArray:
        frames_UHWC = np.empty((len(indices), self._info.height, self._info.width, 3), dtype=np.uint8)
        reformatter = VideoReformatter()
        for position, index in enumerate(indices):
            frame = self._cursor.frame(index)
            frames_UHWC[position] = self._upright(reformatter, frame)
        return frames_UHWC

    def _upright(self, reformatter: VideoReformatter, frame: VideoFrame) -> ByteArray:
        width, height = self._size
        try:
            rgb = reformatter.reformat(frame, width=width, height=height, format="rgb24", threads=1)
        except FAULTS as error:
            reason = f"{frame.format.name} pixels cannot be converted: {words(error)}"
            raise VideoError("unsupported", reason) from None
        plane = rgb.planes[0]
        lines = np.frombuffer(memoryview(plane), dtype=np.uint8)[: plane.line_size * height].reshape(height, -1)
        image_HWC = lines[:, : width * 3].reshape(height, width, 3)
        return np.rot90(image_HWC, self._quarter_turns)

    # ---------------------------------------------------------------- damage

    def _recover(self, missed: Missed) -> None:
        """After a miss: count what really decodes, once; then distrust the key frames; then give up.

        Returns where trying again makes sense, raises VideoError where the caller must ask anew.
        """
        cursor = self._cursor
        if not self._counted:
            self._count()
            self._describe(self._first_frame())
            if self.status == "partial":
                raise VideoError("partial", self.reason) from None
        elif cursor.index.keys:
            cursor.index.without_keys()
            cursor.restart()
        else:
            raise VideoError("unreadable", f"frames do not come the same way twice: {missed}") from None

    def _count(self) -> None:
        """Decode the whole stream once; the index becomes what came."""
        cursor = self._cursor
        decoded, damaged, complaint, self._first = cursor.decode_all()
        self._counted = True
        if not decoded:
            raise VideoError("unreadable", f"no frame can be decoded: {complaint or 'the decoder gives none'}")
        fewer = len(decoded) < len(cursor.index)
        step = 1 / (Fraction(cursor.stream.average_rate or 25) * cursor.time_base)
        cursor.index = index_by_decoding(self._packets, decoded, max(1, round(step)))
        cursor.tolerant = True
        if damaged or complaint or fewer or self.status == "partial":
            self._mark_partial(self._tally(len(decoded), damaged, complaint))
        cursor.rewind()

    def _tally(self, decoded: int, damaged: int, complaint: str) -> str:
        if decoded < self._promised:
            text = f"{decoded} of {self._promised} frames decode"
        else:
            text = self.reason or f"{decoded} frames decode" + (f", not all: {complaint}" if complaint else "")
        return f"{text}, {damaged} of them damaged" if damaged else text


def _frames_are_packets(cursor: Cursor, packets: Packets) -> bool:
    """Whether each shown packet is one frame with its own time, so that nothing need be decoded to count them."""
    if cursor.codec.name == "mpeg4" and packets.smallest < EMPTY_PICTURE_BYTES:
        return False
    stored = cursor.container.format.name in TIMED_CONTAINERS or not cursor.codec.has_b_frames
    return stored and packets.timed()
