"""The sound of a video in its copy: the packets as they are if MP4 can hold them, otherwise encoded as AAC.

It stays in sync: time 0 of the copy is the original's first frame, and sound before that is left out. A fault in the
sound ends the sound, not the copy.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from fractions import Fraction
from typing import TypeAlias

import av
from av.audio.stream import AudioStream
from av.container import InputContainer, OutputContainer
from av.packet import Packet

from hybridvideo.data.decode import guard

COPIED = {"aac", "mp3", "ac3", "eac3", "opus"}
CONTAINERS = ("mov", "matroska")  # store what MP4 needs to know about the sound outside its packets
FAULTS = (av.FFmpegError, OSError, ValueError, RuntimeError)
Timed: TypeAlias = "tuple[float, Packet[AudioStream]]"  # seconds from the first frame
GAP = 0.1  # seconds by which the sound may differ from its clock before it is moved
RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)  # that AAC and its decoders support


class Sound:
    """Write the best audio stream of a file to a container, keeping pace with the pictures. Close it after use.

    source: a path that the guard has accepted. out: a container with its video stream added and nothing written.
    """

    def __init__(self, source: str, out: OutputContainer) -> None:
        self._out = out
        self._in: InputContainer = av.open(source, options=guard.CONTAINER_OPTIONS, metadata_errors="replace")
        self._packets: Iterator[Timed] = iter(())
        self._ahead: Timed | None = None
        stream = self._in.streams.best("audio")
        if isinstance(stream, AudioStream) and getattr(stream, "codec_context", None) is not None:
            self._zero = self._first_frame()
            copied = stream.codec_context.name in COPIED and self._in.format.name.startswith(CONTAINERS)
            self._packets = self._copied(stream) if copied else self._encoded(stream)
            self._ahead = self._next()

    def write_until(self, moment: float) -> None:
        """Write the sound before `moment`, in seconds from the first frame."""
        while self._ahead is not None and self._ahead[0] < moment:
            self._out.mux(self._ahead[1])
            self._ahead = self._next()

    def close(self) -> None:
        self._in.close()

    def _next(self) -> Timed | None:
        return next(self._packets, None)

    def _first_frame(self) -> Fraction:
        """Seconds of the first frame on the file's clock."""
        video = self._in.streams.best("video")
        if video is None or video.start_time is None or video.time_base is None:
            return Fraction(0)
        return video.start_time * video.time_base

    def _copied(self, stream: AudioStream) -> Iterator[Timed]:
        track = self._out.add_stream_from_template(stream)
        return self._shifted(stream, track)

    def _shifted(self, stream: AudioStream, track: AudioStream) -> Iterator[Timed]:
        base = stream.time_base or Fraction(1, stream.rate)
        shift = round(self._zero / base)
        try:
            for packet in self._in.demux(stream):
                if packet.pts is None or not packet.size or packet.pts < shift:
                    continue
                packet.pts -= shift
                packet.dts = packet.pts
                packet.stream = track
                yield float(packet.pts * base), packet
        except FAULTS:
            return

    def _encoded(self, stream: AudioStream) -> Iterator[Timed]:
        rate = min(RATES, key=lambda rate: abs(rate - stream.rate))
        layout = "mono" if stream.channels == 1 else "stereo"
        track = self._out.add_stream("aac", rate=rate, layout=layout)
        return self._coded(stream, track, rate, layout)

    def _coded(self, stream: AudioStream, track: AudioStream, rate: int, layout: str) -> Iterator[Timed]:
        resampler = av.AudioResampler(format="fltp", layout=layout, rate=rate, frame_size=1024)
        place = 0  # samples from the first frame; counted, since the file's clock may be coarse
        frames = itertools.chain(self._decoded(stream), [None])
        for part in (part for frame in frames for part in resampler.resample(frame)):
            due = round((part.time or 0.0) * rate - self._zero * rate)
            if abs(due - place) > GAP * rate:
                place = max(due, place)
            if due < 0:
                continue
            part.pts, part.time_base = place, Fraction(1, rate)
            place += part.samples
            for packet in track.encode(part):
                yield float((packet.pts or 0) * packet.time_base), packet
        for packet in track.encode(None):
            yield float((packet.pts or 0) * packet.time_base), packet

    def _decoded(self, stream: AudioStream) -> Iterator[av.AudioFrame]:
        try:
            yield from self._in.decode(stream)
        except FAULTS:
            return
