"""One open container with its video stream and FFmpeg's decoder for it, on one thread."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import TypeAlias, cast

from av.packet import Packet
from av.video.stream import VideoStream

from hybridvideo.data.decode import guard
from hybridvideo.data.decode.container import (
    FAULTS,
    LESS_DEBLOCKING,
    LONGEST_REORDERING,
    demuxed,
    describes_itself,
    open_container,
    video_stream,
    words,
)
from hybridvideo.data.decode.packets import Packets

# Containers that store a presentation time with every packet, one packet per frame. Elsewhere times are guessed from
# decoding times (AVI, ASF), or the two fields of a frame may come in two packets (transport streams).
TIMED_CONTAINERS = {"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "flv", "ivf", "nut"}
# Containers in which a packet has the same times after a seek as in one pass. Program and transport streams guess.
SEEKABLE_CONTAINERS = TIMED_CONTAINERS | {"avi", "asf"}
VideoPacket: TypeAlias = "Packet[VideoStream]"  # a generic in the type stubs only


class OpenStream:
    """The container, its video stream and the decoder; opening again is the one sure way back to the start.

    careful: let FFmpeg decode some frames to find out about the stream, as it does by default. Otherwise that is left
    out if the file's header contains enough (0.2 instead of 1.3 ms for 340x256, 0.2 instead of 10 ms for 720p).
    """

    def __init__(self, path: str, careful: bool) -> None:
        self.path = path
        self.careful = careful or not describes_itself(path)
        self.exact = True
        self.closed = False
        self._fault = ""  # what ended the packets before the file's end
        self._open()

    def close(self) -> None:
        self.closed = True
        self.container.close()

    def restart(self) -> None:
        """Open the file again: the one way back to its start that no demuxer gets wrong."""
        self.container.close()
        self._open()

    def be_exact(self, exact: bool) -> None:
        """Set whether frames that no other frame refers to are deblocked; changing it may reopen the file."""
        if exact == self.exact:
            return
        self.exact = exact
        if self.codec.is_open:
            self.restart()
        else:
            self.codec.options = self._options()

    def demux(self) -> Packets:
        """Read the stream to its end without decoding."""
        packets, vp8 = Packets(), self.codec.name == "vp8"
        most = guard.most_packets(self.path)
        packet: VideoPacket
        try:
            for packet in demuxed(self.container, self.stream):
                if packet.size == 0:
                    packets.empty += packet.dts is not None or packet.pts is not None
                    continue
                packets.note(packet, vp8, most)
        except FAULTS as error:
            packets.fault = words(error)
        return packets

    def _open(self) -> None:
        self.container = open_container(self.path, self.careful)
        try:
            self.stream = video_stream(self.container)
            self.codec = self.stream.codec_context
            self.size = self.codec.width, self.codec.height  # by the header; the decoder may change its own later
            guard.check_frame_size(*self.size)
            self.codec.thread_count = 1
            self._leans = not self.codec.codec.intra_only  # frames refer to others, so that damage spreads
            self._skips = self.codec.name == "h264" and self.container.format.name in TIMED_CONTAINERS
            self.codec.options = self._options()
            self.time_base = Fraction(self.stream.time_base or Fraction(1, 1000))
        except BaseException:
            self.container.close()
            raise
        self._skipping = False
        self.codec.skip_frame = "DEFAULT"

    def _options(self) -> dict[str, str]:
        """The decoder's, which take effect when it is opened."""
        reordering = {} if self.careful else LONGEST_REORDERING
        return guard.CODEC_OPTIONS | reordering | (LESS_DEBLOCKING if self._skips and not self.exact else {})

    def _packets(self, ahead: VideoPacket | None) -> Iterator[VideoPacket]:
        """Yield packets with data, `ahead` first, then the empty one that makes a decoder return its last frames."""
        if ahead is not None:
            yield ahead
        try:
            for packet in demuxed(self.container, self.stream):
                if packet.size or (packet.pts is None and packet.dts is None):
                    yield packet
        except FAULTS as error:
            self._fault = words(error)
            yield cast(VideoPacket, Packet())
