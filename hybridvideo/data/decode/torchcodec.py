"""The torchcodec reader: PyTorch's decoder on an installed FFmpeg (4 to 9, as shared libraries).

torchcodec reports the time of each frame it returns: a request for frame i is met by the frame that is presented when
PyAV's frame i is, or not at all. In containers that do not store such times (AVI, program and transport streams)
torchcodec numbers frames wrongly; those files are read from their start, and frames are counted. What is shared with
other libraries, and how much pixels differ, is in indexed.py.
"""

from __future__ import annotations

from collections.abc import Iterator

import torchcodec._core as core  # for get_next_frame: sequential reading is not part of the public interface
from torchcodec.decoders import VideoDecoder

from hybridvideo.data.decode.frames import ByteArray
from hybridvideo.data.decode.indexed import IndexedBackend, Unfit, complaint
from hybridvideo.errors import EnvironmentFault

FAULTS = (RuntimeError, ValueError, IndexError, AttributeError, TypeError)
NOT_LOADED = "Could not load libtorchcodec"
NEXT_STEP = (
    "torchcodec finds no FFmpeg shared libraries that match it and torch; install FFmpeg (Debian: apt install ffmpeg; "
    "conda: conda install ffmpeg) and the torchcodec built for this torch, or use backend='pyav'"
)
AT_ONCE_BYTES = 2**28  # of RGB frames per call


class TorchcodecBackend(IndexedBackend):
    """Frames by torchcodec, on one thread of the CPU."""

    library = "torchcodec"

    def _open(self) -> None:
        try:
            self._decoder: VideoDecoder | None = VideoDecoder(
                self.path,
                stream_index=self._cursor.stream.index,
                dimension_order="NHWC",
                num_ffmpeg_threads=1,
                device="cpu",
                seek_mode="exact",
            )
        except FAULTS as error:
            if NOT_LOADED in str(error):
                raise EnvironmentFault(NEXT_STEP) from None
            raise Unfit(f"torchcodec cannot open the file: {complaint(error)}") from None
        self._place = 0  # index of the next frame

    def _release(self) -> None:
        self._decoder = None

    def _images(self, indices: list[int]) -> Iterator[ByteArray]:
        return self._by_time(indices) if self._timed else self._by_count(indices)

    def _by_time(self, indices: list[int]) -> Iterator[ByteArray]:
        at_once = max(1, AT_ONCE_BYTES // (self.info.height * self.info.width * 3))
        for start in range(0, len(indices), at_once):
            yield from self._at(indices[start : start + at_once])

    def _at(self, indices: list[int]) -> Iterator[ByteArray]:
        assert self._decoder is not None
        moments = [self._moment(index) for index in indices]
        try:
            if len(self._decoder) == len(self.times):
                batch = self._decoder.get_frames_at(indices)
            else:
                batch = self._decoder.get_frames_played_at(moments)
        except FAULTS as error:
            raise Unfit(f"torchcodec returns no frame at {moments[0]:g} s: {complaint(error)}") from None
        for moment, seconds, image_HWC in zip(moments, batch.pts_seconds.tolist(), batch.data, strict=True):
            if abs(seconds - moment) > self._tick / 2:
                raise Unfit(f"torchcodec returns the frame of {seconds:.4f} s instead of {moment:.4f} s")
            yield image_HWC.numpy()

    def _by_count(self, indices: list[int]) -> Iterator[ByteArray]:
        if self.status != "ok":
            raise Unfit("the file is damaged, and torchcodec does not report which frames it returns")
        for index in indices:
            if index < self._place:
                self._open()
            while self._place <= index:
                image_HWC = self._next()
            yield image_HWC

    def _next(self) -> ByteArray:
        assert self._decoder is not None
        try:
            image_HWC, _, _ = core.get_next_frame(self._decoder._decoder)
        except FAULTS as error:
            raise Unfit(f"torchcodec returns no frame {self._place}: {complaint(error)}") from None
        self._place += 1
        image: ByteArray = image_HWC.numpy()
        return image
