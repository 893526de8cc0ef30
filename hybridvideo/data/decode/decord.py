"""The decord reader, for trusted local files only: its wheel (0.6.0) carries an old FFmpeg, 4.1.6.

decord numbers frames by counting what comes out of its decoder, and reports nothing about the frames it returns. So it
is read in the one way that cannot go wrong: frame after frame, from the start or from a key frame of a closed group of
pictures. Its `get_batch`, `skip_frames` and jumps to anything but a key frame hang if a file holds fewer frames than
it promises; its habit of substituting a neighbour for a lost frame is switched off; files known to be damaged are left
to PyAV. What is shared with other libraries, and how much pixels differ, is in indexed.py. decord has no decoder for
AV1, and loses its place in transport streams.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from typing import Any

import decord
import numpy as np
from decord._ffi.base import DECORDLimitReachedError

from hybridvideo.data.decode.frames import ByteArray, Shot
from hybridvideo.data.decode.indexed import MEAN_BOUND, IndexedBackend, Unfit, complaint

FAULTS = (
    decord.DECORDError,
    DECORDLimitReachedError,
    RuntimeError,
    AssertionError,
    StopIteration,
    IndexError,
    ValueError,
    TypeError,
)
NO_SUBSTITUTES = 1e-9  # share of frames that may be replaced by another one; 0 would mean any number
SINGLE_PRECISION = 1e-6  # relative error of decord's times


class DecordBackend(IndexedBackend):
    """Frames by decord, on one thread of the CPU."""

    library = "decord"

    def _open(self) -> None:
        if self._cursor.container.streams.best("video") != self._cursor.stream:
            raise Unfit("decord reads another video stream of this file")
        self._reader = self._opened()
        self._keys = [] if self._starts_late() else self._safe_keys()

    def _release(self) -> None:
        self._reader = None

    def _starts_late(self) -> bool:
        """Whether frames are reordered and the first is due after 0 (FLV, fragmented MP4): decord may lose it."""
        index = self._cursor.index
        return int(index.ticks_N[0]) > 0 and index.packets_N != sorted(index.packets_N)

    def _opened(self) -> Any:
        try:
            reader = decord.VideoReader(self.path, ctx=decord.cpu(0), num_threads=1, fault_tol=NO_SUBSTITUTES)
        except FAULTS as error:
            raise Unfit(f"decord cannot open the file: {complaint(error)}") from None
        self._place = 0  # index of the next frame
        return reader

    def _safe_keys(self) -> list[int]:
        """Frames that decord may seek to: none, unless it sees the same times and closed groups of pictures."""
        keys = [key.frame for key in self._cursor.index.keys]
        closed = keys == [key.packet for key in self._cursor.index.keys]
        if not (closed and self._timed and self._reader.get_key_indices() == keys):
            return []
        if len(self._reader) != len(self.times):
            return []
        theirs = self._reader.get_frame_timestamp(list(range(len(self._reader))))[:, 0]
        spare = self._tick / 2 + SINGLE_PRECISION * max(1.0, float(self.times[-1]))
        return keys if bool(np.abs(theirs - theirs[0] - self.times).max() <= spare) else []

    def _images(self, indices: list[int]) -> Iterator[ByteArray]:
        if self.status != "ok":
            raise Unfit("the file is damaged, and decord does not report which frames it returns")
        for index in indices:
            self._approach(index)
            while self._place <= index:
                frame = self._next()
                if self._place == 1 and self._starts_late():
                    self._check_first(self._pixels(frame))
            yield self._pixels(frame)

    def _check_first(self, image_HWC: ByteArray) -> None:
        """Raise Unfit if decord's first frame is not PyAV's."""
        first_HWC = self._pyav.decode([Shot([0])])[0][0]
        if first_HWC.shape != image_HWC.shape or np.abs(first_HWC.astype(int) - image_HWC).mean() > MEAN_BOUND:
            raise Unfit("decord loses the first frames of this file")

    def _approach(self, index: int) -> None:
        """Move to or before the frame: to the last key frame before it, if that saves anything."""
        key = self._keys[bisect_right(self._keys, index) - 1] if self._keys else 0
        if self._place <= index and key <= self._place:
            return
        if key == 0:
            self._reader = self._opened()
            return
        try:
            self._reader.seek_accurate(key)
        except FAULTS as error:
            raise Unfit(f"decord does not reach frame {key}: {complaint(error)}") from None
        self._place = key

    def _next(self) -> Any:
        try:
            frame = self._reader.next()
        except FAULTS as error:
            raise Unfit(f"decord returns no frame {self._place}: {complaint(error)}") from None
        self._place += 1
        return frame

    def _pixels(self, frame: Any) -> ByteArray:
        """decord's array, or what another library in this process made it return, without the padding of its lines."""
        array = np.asarray(frame.asnumpy() if hasattr(frame, "asnumpy") else frame)
        height, width = array.shape[:2]
        return array.reshape(height, -1)[:, : 3 * width].reshape(height, width, 3)
