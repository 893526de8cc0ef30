"""`prepare`: copies of videos that load fast and keep what matters of the originals.

The choices, and the measurements behind them (random training clips of 32 frames, every second one, of three videos;
processor time per clip on one thread, GOP 16, short side 256; 2026-11-21):

    H.264, 8 bit, 4:2:0, in MP4   every decoder reads it; the index comes first, so that opening reads little
    short side 256                what Kinetics is trained and tested on; never enlarged, sides even
    GOP of 16, closed, regular    at most 15 frames are decoded before a clip's first; scene cuts start no GOP
    3 B-frames, none a reference  the reader skips unwanted ones: up to 21 % less time and 14 % smaller than without,
                                  no gain on a still scene; as references (b-pyramid) they cost up to 8 % more time
    CAVLC instead of CABAC        the same pictures, 8 to 13 % larger, 25 to 37 % less time
    deblocking stays on           without it (x264's fastdecode) another 13 to 18 % less time, up to 0.3 dB lost
    CRF 20                        37 to 41 dB against the scaled frames
    BT.601, limited range, tagged full range, 10 bits, BT.709 and the rest are converted: frames keep their colours
    times in 1/11520000 s         a multiple of all usual frame rates and clocks; no frame is dropped or added

Frames come from `VideoReader`, so that a copy has the same frames, times (to the microsecond) and upright pictures
as the original has in training. The readable part of a damaged original is kept ("partial"). A copy is decoded once
before it gets its name. Sound is dropped, or kept: copied as it is if MP4 can hold it, otherwise encoded as AAC.
T frames, C channels, H height, W width.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Literal

import av
import numpy as np
from av.container import OutputContainer
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter
from av.video.stream import VideoStream

from hybridvideo.data.corpus.sound import Sound
from hybridvideo.data.decode import IndexCache, VideoReader
from hybridvideo.data.decode.frames import WHOLE, ByteArray, FloatArray, Framer, Framing, Size
from hybridvideo.errors import EnvironmentFault, UserError, VideoError
from hybridvideo.files import flush

TICKS = 11_520_000  # per second
SAME_TIME = 1e-6  # seconds
LONGEST_NAME = 255  # bytes of a file name, on nearly every file system
ASIDE = ".part"  # ending of an unfinished copy's name
CHUNK_BYTES = 32 * 2**20  # RGB held at once
X264 = "b-pyramid=none:weightp=0:scenecut=0:open-gop=0"
DISK_FAULTS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG, errno.EIO}
SPEED_FRAMES, SPEED_STRIDE, SPEED_SIDE = 32, 2, 224  # the clip that loading speed is measured with


@dataclass(frozen=True)
class Recipe:
    """How copies are made. short_side: pixels. gop: frames. crf: x264's quality; lower is better and larger."""

    short_side: int = 256
    gop: int = 16
    crf: float = 20.0
    audio: Literal["keep", "drop"] = "drop"

    def __post_init__(self) -> None:
        if not 16 <= self.short_side <= 4320:
            raise UserError(f"short side {self.short_side} is not possible; give 16 to 4320 pixels")
        if not 1 <= self.gop <= 1000:
            raise UserError(f"GOP {self.gop} is not possible; give 1 to 1000 frames")
        if not 0 <= self.crf <= 51:
            raise UserError(f"CRF {self.crf} is not possible; give 0 (lossless) to 51")


@dataclass(frozen=True)
class Copy:
    """A copy to make: paths of original and copy, and how. index: a file that keeps its frames' index for readers."""

    source: str
    target: str
    recipe: Recipe
    index: str | None = None


@dataclass(frozen=True)
class Made:
    """The result of a copy. status: `ok`, `partial`, or why there is no copy. reason: one line, "" if all is well.

    width, height: of the copy. seconds: of the video. bytes_before, bytes_after: sizes of original and copy, 0 if there
    is none.
    """

    status: str
    reason: str = ""
    frames: int = 0
    width: int = 0
    height: int = 0
    seconds: float = 0.0
    bytes_before: int = 0
    bytes_after: int = 0


def check_encoder() -> None:
    """Raise EnvironmentFault if PyAV was built without x264."""
    try:
        av.Codec("libx264", "w")
    except ValueError:
        raise EnvironmentFault("this PyAV has no libx264; `pip install av` installs one that has") from None


def transcode(copy: Copy) -> Made:
    """Make one copy, complete or not at all. Raises EnvironmentFault if it cannot be written."""
    before = os.path.getsize(copy.source) if os.path.isfile(copy.source) else 0
    target = Path(copy.target)
    aside = aside_of(target)
    try:
        with VideoReader(copy.source) as reader:
            made = _transcode(reader, aside, target, copy.recipe, before)
        _note(copy)
        return made
    except VideoError as error:
        status = "unreadable" if error.status == "partial" else error.status  # not even its readable part
        return Made(status, error.reason, bytes_before=before)
    except av.FFmpegError as error:
        if error.errno in DISK_FAULTS:
            raise EnvironmentFault(f"{target} cannot be written: {error.strerror}") from None
        return Made("unsupported", f"cannot be encoded: {error.strerror}", bytes_before=before)
    except OSError as error:
        raise EnvironmentFault(f"{target} cannot be written: {error.strerror or error}") from None
    finally:
        with contextlib.suppress(OSError):
            aside.unlink()


def aside_of(target: Path) -> Path:
    """Where this process makes a copy: named after the copy, or after a digest if that would be too long.

    Each process has its own, since a process of a killed call may live and write a moment longer.
    """
    ending = f".{os.getpid()}{ASIDE}"
    fits = len(os.fsencode(target.name)) + len(ending) < LONGEST_NAME
    name = target.name if fits else hashlib.blake2b(os.fsencode(target.name), digest_size=16).hexdigest()
    return target.with_name(f".{name}{ending}")


def _transcode(reader: VideoReader, aside: Path, target: Path, recipe: Recipe, before: int) -> Made:
    aside.parent.mkdir(parents=True, exist_ok=True)
    try:
        _write(reader, aside, recipe)
    except VideoError as error:
        if error.status != "partial":
            raise
        _write(reader, aside, recipe)  # the reader now knows which frames come
    height, width = copy_size((reader.info.height, reader.info.width), recipe.short_side)
    _verify(aside, reader.times, (height, width))
    flush(aside)
    os.replace(aside, target)
    flush(target.parent)
    info, after = reader.info, target.stat().st_size
    return Made(reader.status, reader.reason, info.frames, width, height, info.duration, before, after)


def _note(copy: Copy) -> None:
    """Put the copy into the index."""
    if copy.index is not None:
        index = IndexCache(copy.index)
        with VideoReader(copy.target, index=index) as reader:
            reader.frames_at([0], Framing(size=(2, 2)))
        index.close()


# ---- pictures


def copy_size(size: Size, short_side: int) -> Size:
    """Return the copy's (height, width) for frames of this size: even, never enlarged."""
    height, width = size
    scale = min(1.0, short_side / min(height, width))
    if scale == 1.0:
        return max(height // 2 * 2, 2), max(width // 2 * 2, 2)
    return max(round(height * scale / 2) * 2, 2), max(round(width * scale / 2) * 2, 2)


def _write(reader: VideoReader, aside: Path, recipe: Recipe) -> None:
    with av.open(str(aside), "w", format="mp4", options={"movflags": "+faststart"}) as container:
        stream = _add_stream(container, reader, recipe)
        sound = Sound(reader.path, container) if recipe.audio == "keep" else None
        try:
            reformatter = VideoReformatter()
            for image_HWC, moment in _images(reader, recipe):
                frame = av.VideoFrame.from_ndarray(image_HWC, format="rgb24")
                frame = _as_yuv(frame, reformatter)
                frame.pts, frame.time_base = round(moment * TICKS), Fraction(1, TICKS)
                if sound is not None:
                    sound.write_until(moment)
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
            if sound is not None:
                sound.write_until(reader.info.duration)
        finally:
            if sound is not None:
                sound.close()


def _as_yuv(frame: av.VideoFrame, reformatter: VideoReformatter) -> av.VideoFrame:
    return reformatter.reformat(
        frame,
        format="yuv420p",
        threads=1,
        dst_colorspace=Colorspace.ITU601,
        dst_color_range=ColorRange.MPEG,
        interpolation=Interpolation.BICUBIC | Interpolation.ACCURATE_RND,
    )


def _add_stream(container: OutputContainer, reader: VideoReader, recipe: Recipe) -> VideoStream:
    options = {
        "preset": "medium",
        "crf": str(recipe.crf),
        "g": str(recipe.gop),
        "keyint_min": str(recipe.gop),
        "bf": "3",
        "coder": "vlc",
        "x264-params": X264,
    }
    rate = Fraction(reader.info.fps).limit_denominator(1001)  # guides the encoder; the times are the frames' own
    stream: VideoStream = container.add_stream("libx264", rate=max(rate, Fraction(1, 1001)), options=options)
    height, width = copy_size((reader.info.height, reader.info.width), recipe.short_side)
    stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
    codec = stream.codec_context
    codec.thread_count = 1  # files are processed in parallel instead
    codec.time_base = stream.time_base = Fraction(1, TICKS)
    codec.colorspace, codec.color_range = Colorspace.ITU601, ColorRange.MPEG
    return stream


def _scaled_to(height: int, width: int) -> Framer:
    """Scale full frames; a function, so that a shape that cannot be scaled is the file's fault, not the user's."""
    return lambda size: Framing(size=(height, width))


def _images(reader: VideoReader, recipe: Recipe) -> Iterator[tuple[ByteArray, float]]:
    """Yield RGB frames (H, W, C) of the copy's size with their times, holding a bounded number in memory."""
    size = (reader.info.height, reader.info.width)
    height, width = copy_size(size, recipe.short_side)
    scaled = min(size) > recipe.short_side or min(size) < 2
    framing = _scaled_to(height, width) if scaled else WHOLE
    step = max(1, CHUNK_BYTES // (height * width * 3))
    for start in range(0, reader.info.frames, step):
        chosen = range(start, min(start + step, reader.info.frames))
        clip = reader.frames_at(chosen, framing)
        images_THWC = clip.frames_TCHW.permute(0, 2, 3, 1).numpy()[:, :height, :width]  # drops an odd row or column
        yield from zip(map(np.ascontiguousarray, images_THWC), clip.times_T, strict=True)


def _verify(aside: Path, times: FloatArray, size: Size) -> None:
    """Raise VideoError if the copy has wrong frames, times or sizes, or does not decode to its end."""
    with VideoReader(aside) as copy:
        info = copy.check()
        if copy.status != "ok":
            raise VideoError("unsupported", f"the copy does not decode: {copy.reason}")
        if len(copy.times) != len(times) or np.abs(copy.times - times).max() > SAME_TIME:
            raise VideoError(
                "unsupported", f"the copy has {len(copy.times)} frames instead of {len(times)}, or other times"
            )
        if (info.height, info.width) != size:
            raise VideoError("unsupported", f"the copy is {info.width}x{info.height}, not {size[1]}x{size[0]}")


# ---- how fast they load


@dataclass(frozen=True)
class Pairs:
    """Originals with their copies, and how many clips to load from each."""

    files: tuple[tuple[str, str], ...]
    clips: int = 2


def loading_seconds(pairs: Pairs) -> tuple[list[float], list[float]]:
    """Return the seconds of random training clips from the originals, and of the same clips from the copies.

    A clip is 32 frames, every second one, scaled to short side 224. A file is opened for each clip, original and copy
    in turn, so that both are measured under the same load.
    """
    generator = np.random.default_rng(0)
    seconds: tuple[list[float], list[float]] = ([], [])
    for files in pairs.files:
        for draw in generator.random(pairs.clips):
            for file, kept in zip(files, seconds, strict=True):
                begin = time.perf_counter()
                _load_clip(file, float(draw))
                kept.append(time.perf_counter() - begin)
    return seconds


def _load_clip(file: str, draw: float) -> None:
    with VideoReader(file) as reader:
        span = SPEED_FRAMES * SPEED_STRIDE
        start = int(draw * max(reader.info.frames - span + 1, 1))
        indices = np.clip(np.arange(start, start + span, SPEED_STRIDE), 0, reader.info.frames - 1)
        height, width = reader.info.height, reader.info.width
        scale = SPEED_SIDE / min(height, width)
        reader.frames_at(indices.tolist(), _scaled_to(round(height * scale), round(width * scale)))


# ---- names


def target_names(paths: list[str]) -> list[str]:
    """Return the copy's path below the folder of copies for each listed path; equal paths share one copy.

    Folders stay, absolute paths lose their root, `..` becomes `__`, so that no path leads out. The extension becomes
    .mp4. Names that would collide (ignoring case) keep the old extension before it; numbers distinguish the rest.
    """
    distinct = list(dict.fromkeys(paths))
    short = {path: _inside(os.path.splitext(path)[0]) for path in distinct}
    names = _distinct(short, {path: _inside(path) for path in distinct})
    return [names[path] for path in paths]


def _inside(path: str) -> str:
    parts = [part for part in path.split("/") if part not in ("", ".")]
    return "/".join("__" if part == ".." else part for part in parts) or "video"


def _distinct(short: dict[str, str], long: dict[str, str]) -> dict[str, str]:
    many: dict[str, int] = {}
    for name in short.values():
        many[name.casefold()] = many.get(name.casefold(), 0) + 1
    taken = {parent.casefold() for name in short.values() for parent in _folders(name)}
    names = {}
    for path in sorted(short, key=lambda path: (many[short[path].casefold()] > 1, path)):
        first = name = short[path] if many[short[path].casefold()] == 1 else long[path]
        number = 2
        while f"{name}.mp4".casefold() in taken:
            name, number = f"{first}-{number}", number + 1
        taken.add(f"{name}.mp4".casefold())
        names[path] = f"{name}.mp4"
    return names


def _folders(name: str) -> list[str]:
    parts = name.split("/")
    return ["/".join(parts[:end]) for end in range(1, len(parts))]
