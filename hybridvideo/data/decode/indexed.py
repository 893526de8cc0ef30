"""What the backends share whose pixels another library decodes: all that is not pixels is PyAV's word.

The file is opened, demuxed and indexed by pyav.py first, under the guard, so that facts, times and frame numbers are
the same whichever library decodes. The library's own count and header are never believed.

Pixels. Where the library's FFmpeg and PyAV's convert to RGB by the same fast path (8-bit 4:2:0 of even size, 4:4:4,
RGB, gray; limited and full range; BT.601, BT.709) the frames are identical, but for rounding (2 grey levels) in MPEG-4
streams. Elsewhere (10 and 12 bits, odd sizes) they differ in how chroma is interpolated: at most MEAN_BOUND grey levels
on the average of a frame (measured: 3.6 on test patterns, 4.9 on one of 121x81, 0.8 on real scenes) and much at single
pixels on hard edges of colour; the brightness of a frame by at most LUMA_BOUND. Interlaced 4:2:0 differs by 0.7: only
FFmpeg 8 converts each field by itself.

Damage. A library may conceal a damaged picture without a word; such a file is "ok" here until `check`, which is
PyAV's, has decoded all of it.
U distinct frames of a request, H height, W width, C channels.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import ClassVar

import numpy as np

from hybridvideo.data.decode import guard
from hybridvideo.data.decode.cursor import Cursor
from hybridvideo.data.decode.frames import ByteArray, FloatArray, Framing, Shot, VideoInfo, framed, shoot
from hybridvideo.data.decode.known import Known
from hybridvideo.data.decode.pyav import PyAVBackend
from hybridvideo.data.decode.stream import TIMED_CONTAINERS
from hybridvideo.errors import UserError, VideoError

MEAN_BOUND = 5.0  # grey levels, mean absolute difference of a frame from PyAV's
LUMA_BOUND = 0.8  # the same of 0.299 R + 0.587 G + 0.114 B


class Unfit(Exception):
    """The library does not give the frame asked for; the text says how."""


class IndexedBackend(ABC):
    """A `frames.Backend` over PyAV's index. A subclass says how its library opens a file and reads on.

    path: absolute, from guard.regular_file. known: what an earlier reader of this very file found out.
    """

    library: ClassVar[str]

    def __init__(self, path: str, known: Known | None = None) -> None:
        self.path = path
        self._pyav = PyAVBackend(path, known)
        self._closed, self._given = False, 0
        try:
            guard.signed(path, self._cursor.container.format.name)
            self._open()
        except Unfit as unfit:
            self.close()
            raise VideoError("unsupported", f"{unfit}; {self._advice()}") from None
        except BaseException:
            self.close()
            raise

    @property
    def info(self) -> VideoInfo:
        return self._pyav.info

    @property
    def times(self) -> FloatArray:
        return self._pyav.times

    @property
    def status(self) -> str:
        return self._pyav.status

    @property
    def reason(self) -> str:
        return self._pyav.reason

    @property
    def fps(self) -> float:
        return self._pyav.fps

    @property
    def decoded(self) -> int:
        """Frames that the library has given so far; what it decodes on the way to them it does not tell."""
        return self._given

    def known(self) -> Known | None:
        """What PyAV has found out, the same for every backend."""
        return self._pyav.known()

    def check(self) -> None:
        """Decode everything once, by PyAV, and keep only the frames that come."""
        self._pyav.check()

    def decode(self, shots: Sequence[Shot]) -> list[ByteArray]:
        """Frames (U, H, W, C) of each shot."""
        if self._closed:
            raise UserError("this VideoReader is closed; open it again")
        try:
            if self._pyav.mirrored:
                raise Unfit(f"frames are to be mirrored, which {self.library} does not do")
            return shoot(shots, (self.info.height, self.info.width), self._whole)
        except Unfit as unfit:
            raise self._explained(unfit) from None

    def close(self) -> None:
        self._closed = True
        self._release()
        self._pyav.close()

    # ---------------------------------------------------------------- what a library does

    @abstractmethod
    def _open(self) -> None:
        """Open the file in the library, before its first frame. Raises Unfit, EnvironmentFault."""

    @abstractmethod
    def _release(self) -> None:
        """Let go of what _open took, if anything."""

    @abstractmethod
    def _images(self, indices: list[int]) -> Iterator[ByteArray]:
        """Upright frames (H, W, C) at ascending indices, of any size. Raises Unfit."""

    # ---------------------------------------------------------------- what PyAV has found out

    @property
    def _cursor(self) -> Cursor:
        return self._pyav.cursor

    @property
    def _timed(self) -> bool:
        """Whether each frame's time is stored in the file, and so the same for every library."""
        return self._cursor.container.format.name in TIMED_CONTAINERS and self._cursor.index.by_time

    @property
    def _tick(self) -> float:
        """Seconds of one step of the stream's clock."""
        return float(self._cursor.time_base)

    def _moment(self, index: int) -> float:
        """When a frame is presented, in seconds of the file's own clock."""
        return float(int(self._cursor.index.ticks_N[index]) * self._cursor.time_base)

    # ---------------------------------------------------------------- parts

    def _whole(self, indices: list[int]) -> ByteArray:
        height, width = self.info.height, self.info.width
        frames_UHWC = np.empty((len(indices), height, width, 3), dtype=np.uint8)
        for image_HWC, target_HWC in zip(self._images(indices), frames_UHWC, strict=True):
            if image_HWC.shape != target_HWC.shape:  # a stream that changes its size on the way
                image_HWC = framed(image_HWC[None], Framing(size=(height, width)))[0]
            target_HWC[...] = image_HWC
        self._given += len(indices)
        return frames_UHWC

    def _explained(self, unfit: Unfit) -> VideoError:
        """The file's fault, if it has one, else the library's."""
        was = self.status
        self._pyav.check()
        if self.status == "partial" != was:
            return VideoError("partial", self.reason)
        return VideoError("unsupported", f"{unfit}; {self._advice()}")

    def _advice(self) -> str:
        return "read this file with backend='auto'"


def complaint(error: BaseException) -> str:
    """What a library complains of, without where in its source, and without what else it advises."""
    text = str(error).rsplit("Check failed: ", 1)[-1].strip() or type(error).__name__
    return re.sub(r"^\[[\d:]+\] \S+ (\[.*?\])?|^.*\.cpp:\d+, ", "", text).splitlines()[0][:120]
