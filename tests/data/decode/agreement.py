"""Whether a file gives the same frames whichever way it is asked: the claim, and a search for files that break it.

Read through from the start, a file says which picture belongs to which moment. Every other way of asking (one frame in
a fresh reader, frames in any order, several clips at once) must give the same picture and the same moment for the same
index, or say that it cannot: by an error, or, where the answer is that of a file that shrank on the way, by `partial`.
"""

from __future__ import annotations

import hashlib
import random
import resource
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np

from hybridvideo.data.decode import Clip, Framing, VideoReader
from hybridvideo.errors import VideoError
from tests.data.decode.mutations import damage
from tests.videos import write_video

OPEN_GOP = {"x264-params": "open-gop=1:scenecut=0:b-adapt=0:b-pyramid=2:bframes=3"}
FRAGMENTS = {"movflags": "frag_keyframe+empty_moov"}
FRAMES = 48
SIZE = (128, 96)


# -------------------------------------------------------------------- files


def sources(folder: Path) -> list[Path]:
    """Files of many containers and codecs, of noise that moves, so that damage shows and frames differ."""
    made = [
        noisy(folder / "b_frames.mp4", b_frames=2),
        noisy(folder / "open_gop.mp4", options=OPEN_GOP),
        noisy(folder / "fragments.mp4", container_options=FRAGMENTS),
        noisy(folder / "faststart.mov", container_options={"movflags": "faststart"}),
        noisy(folder / "hevc.mp4", codec="libx265"),
        noisy(folder / "h264.mkv"),
        noisy(folder / "open_gop.mkv", options=OPEN_GOP),
        noisy(folder / "vp9.webm", codec="libvpx-vp9"),
        noisy(folder / "vp8.webm", codec="libvpx"),
        noisy(folder / "mpeg4.avi", codec="mpeg4", b_frames=0),
        noisy(folder / "mpeg4_b.avi", codec="mpeg4"),
        noisy(folder / "mjpeg.avi", codec="mjpeg", pixel_format="yuvj420p"),
        noisy(folder / "h264.avi"),
        noisy(folder / "h264.ts"),
        noisy(folder / "mpeg2.ts", codec="mpeg2video"),
        noisy(folder / "mpeg2.mpg", codec="mpeg2video"),
        noisy(folder / "h264.flv"),
        noisy(folder / "mpeg4.mp4", codec="mpeg4"),
    ]
    return made


def noisy(path: Path, **how: object) -> Path:
    draw = np.random.default_rng(0)
    coarse = draw.integers(0, 255, (SIZE[1] // 8, SIZE[0] // 8, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)

    def image(number: int) -> np.ndarray:
        rolled = np.roll(coarse, (3 * number, 5 * number), (0, 1))
        return np.ascontiguousarray(rolled // 2 + draw.integers(0, 60, rolled.shape, dtype=np.uint8))

    return write_video(path, FRAMES, size=SIZE, gop=12, image=image, **how)  # type: ignore[arg-type]


# -------------------------------------------------------------------- damage


def damaged(source: Path, target: Path, draw: random.Random) -> bool:
    """Write a damaged copy: bytes, or packets where a muxer takes them. False where it does not."""
    if draw.random() < 0.3:
        return remuxed(source, target, draw)
    data = bytearray(source.read_bytes())
    damage(data, source.suffix, draw)
    target.write_bytes(data)
    return True


def remuxed(source: Path, target: Path, draw: random.Random) -> bool:
    """The packets in a new file: some lost, doubled, exchanged, damaged, with other times or another key flag."""
    with av.open(str(source)) as read:
        packets = [packet for packet in read.demux(video=0) if packet.size]
        for _ in range(draw.choice((1, 2, 4))):
            tamper(packets, draw)
        try:
            with av.open(str(target), "w") as write:
                stream = write.add_stream_from_template(read.streams.video[0])
                for packet in packets:
                    packet.stream = stream
                    write.mux(packet)
        except (av.FFmpegError, ValueError):
            return False
    return True


def tamper(packets: list[Any], draw: random.Random) -> None:
    number, other = (draw.randrange(len(packets) - 1) for _ in range(2))
    kind = draw.randrange(7)
    packet = packets[number]
    if kind == 0:
        del packets[number]
    elif kind == 1:
        packets[number], packets[other] = packets[other], packets[number]
    elif kind == 2:
        packet.is_keyframe = not packet.is_keyframe
    elif kind == 3 and packet.pts is not None:
        packet.pts += draw.choice((-1, 1, 7)) * (packet.duration or 1)
    elif kind == 4:
        first, second = packets[number], packets[other]
        first.pts, first.dts, second.pts, second.dts = second.pts, second.dts, first.pts, first.dts
        packets[number], packets[other] = second, first
    else:
        data = bytearray(bytes(packet))
        for _ in range(draw.choice((1, 8))):
            data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        packet.update(bytes(data))


# -------------------------------------------------------------------- asking


@dataclass(frozen=True)
class Answer:
    """Frames as a reader gave them.

    known: the packets of all its frames. packets: which packet each frame says it comes from. digests: of the pixels.
    """

    status: str
    known: list[int]
    packets: list[int]
    times: list[float]
    digests: list[str]


def ask(reader: VideoReader, indices: Sequence[int]) -> Answer:
    return answers(reader, [indices])[0]


def answers(reader: VideoReader, clips: Sequence[Sequence[int]]) -> list[Answer]:
    given = reader.clips_at([(indices, Framing()) for indices in clips])
    return [answer(reader, indices, clip) for indices, clip in zip(clips, given, strict=True)]


def answer(reader: VideoReader, indices: Sequence[int], clip: Clip) -> Answer:
    index = reader._backend._backend.cursor.index  # type: ignore[attr-defined]
    frames_THWC = clip.frames_TCHW.permute(0, 2, 3, 1).contiguous().numpy()
    digests = [hashlib.blake2b(frame_HWC.tobytes(), digest_size=8).hexdigest() for frame_HWC in frames_THWC]
    return Answer(reader.status, index.packets_N, [index.packets_N[i] for i in indices], list(clip.times_T), digests)


def through(path: Path) -> Answer:
    """A file read from its first to its last frame. Raises VideoError."""
    with VideoReader(path) as reader:
        for _ in range(3):
            try:
                return ask(reader, range(len(reader.times)))
            except VideoError as error:
                if error.status != "partial":
                    raise
    raise AssertionError("a file that says partial each time it is asked")


def tried(seed: int, folder: Path, files: Sequence[Path], only: str = "") -> tuple[str, str, list[str]]:
    """Source, status and disagreements of one damaged file, which is all the seed's."""
    draw = random.Random(seed)
    source = draw.choice([path for path in files if only in path.name])
    path = folder / f"{seed}-{source.name}"
    try:
        if not damaged(source, path, draw):
            return source.name, "not made", []
        return source.name, *disagreements(path, draw)
    finally:
        path.unlink(missing_ok=True)


def tried_within(memory: int, seed: int, **how: Any) -> tuple[str, str, list[str], float]:
    """The same by a process that gets no more than these bytes of address space beside what it has, and its seconds."""
    if resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + memory
        resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
    began = time.monotonic()
    return *tried(seed, **how), time.monotonic() - began


def disagreements(path: Path, draw: random.Random) -> tuple[str, list[str]]:
    """The status of a file, and every answer that differs from reading it through."""
    try:
        truth = through(path)
    except VideoError as error:
        return error.status, []
    return truth.status, [*alone(path, truth, draw), *in_any_order(path, truth, draw), *together(path, truth, draw)]


def alone(path: Path, truth: Answer, draw: random.Random) -> Iterator[str]:
    """Single frames, each by a reader that has given nothing else."""
    for _ in range(8):
        with VideoReader(path) as reader:
            index = draw.randrange(len(reader.times))
            yield from asked(reader, [[index]], truth, "alone")


def in_any_order(path: Path, truth: Answer, draw: random.Random) -> Iterator[str]:
    """Some frames after others by one reader."""
    with VideoReader(path) as reader:
        for _ in range(8):
            start, step = draw.randrange(len(reader.times)), draw.choice((1, 2, 5))
            wanted = list(range(start, len(reader.times), step))[: draw.choice((1, 4, 16))]
            yield from asked(reader, [wanted], truth, "in any order")


def together(path: Path, truth: Answer, draw: random.Random) -> Iterator[str]:
    """Clips in one pass."""
    for _ in range(2):
        with VideoReader(path) as reader:
            clips = [sorted(draw.choices(range(len(reader.times)), k=4)) for _ in range(3)]
            yield from asked(reader, clips, truth, "together")


def asked(reader: VideoReader, clips: list[list[int]], truth: Answer, how: str) -> Iterator[str]:
    try:
        given = answers(reader, clips)
    except VideoError as error:
        if truth.status == "ok":
            yield f"{how} {clips}: {error}, though it reads through"
        return
    for indices, clip in zip(clips, given, strict=True):
        yield from (f"{how} {indices}: {what}" for what in differences(indices, clip, truth))


def differences(indices: Sequence[int], clip: Answer, truth: Answer) -> Iterator[str]:
    place = {packet: number for number, packet in enumerate(truth.packets)}
    for index, packet, moment, digest in zip(indices, clip.packets, clip.times, clip.digests, strict=True):
        same = truth.status == "ok" or clip.known == truth.known
        true = index if same else place.get(packet)
        if true is None or true >= len(truth.packets):
            yield f"packet {packet} gives a frame that reading through lacks"
        elif truth.packets[true] != packet:
            yield f"packet {packet} in the place of {truth.packets[true]}"
        elif truth.digests[true] != digest:
            yield f"other pixels than reading through gives ({clip.status}, {truth.status})"
        elif same and truth.times[true] != moment:
            yield f"at {moment} instead of {truth.times[true]} s"
