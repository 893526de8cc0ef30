"""Small videos whose pixels say which frame they are: each shows its number in binary, in black and white blocks.

The blocks are 16 pixels wide and survive lossy codecs; `numbers` reads them back.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
import torch

BLOCK = 16
COLUMNS, ROWS = 6, 2
WIDTH, HEIGHT = BLOCK * COLUMNS, BLOCK * ROWS
TIME_BASE = Fraction(1, 12800)


def picture(number: int, width: int = WIDTH, height: int = HEIGHT) -> npt.NDArray[np.uint8]:
    """uint8 (height, width, 3): `number` (below 4096), its lowest bit in the top left block, stretched to the size."""
    bits = [(number >> bit) & 1 for bit in range(ROWS * COLUMNS)]
    blocks = np.array(bits, dtype=np.uint8).reshape(ROWS, COLUMNS) * 255
    rows, columns = np.arange(height) * ROWS // height, np.arange(width) * COLUMNS // width
    return np.repeat(blocks[rows][:, columns, None], 3, axis=2)


def numbers(frames_TCHW: torch.Tensor) -> list[int]:
    """The number each upright frame shows."""
    green = frames_TCHW[:, 1].to(torch.float32)
    blocks = torch.nn.functional.adaptive_avg_pool2d(green, (ROWS, COLUMNS)).flatten(1) > 127
    return [sum(1 << bit for bit, on in enumerate(row) if on) for row in blocks.tolist()]


def write_video(
    path: Path,
    frames: int = 30,
    *,
    codec: str = "libx264",
    fps: int = 25,
    ticks: Sequence[int] | None = None,
    size: tuple[int, int] = (WIDTH, HEIGHT),
    gop: int = 10,
    b_frames: int = 2,
    options: Mapping[str, str] | None = None,
    container_options: Mapping[str, str] | None = None,
    rotation: int = 0,
    audio: bool = False,
    pixel_format: str = "yuv420p",
    image: Callable[[int], npt.NDArray[np.uint8]] | None = None,
) -> Path:
    """Write `frames` numbered frames and return the path; the container follows the suffix.

    ticks: presentation times in TIME_BASE, instead of an even `fps`. rotation (MP4 and MOV only): degrees a player
    turns the pictures clockwise; they are stored turned the other way, so that they come out upright. size: (width,
    height) as shown. image: what the frames show instead of their number: uint8 (height, width, 3) of that size.
    """
    shown = image or (lambda number: picture(number, *size))
    with av.open(str(path), "w", container_options=dict(container_options or {})) as container:
        width, height = size if rotation % 180 == 0 else size[::-1]
        stream = container.add_stream(codec, rate=fps, options=_options(codec, b_frames) | dict(options or {}))
        stream.width, stream.height, stream.pix_fmt = width, height, pixel_format
        stream.gop_size, stream.thread_count = gop, 1
        if ticks is not None:
            stream.codec_context.time_base = stream.time_base = TIME_BASE
        sound = container.add_stream("aac", rate=16000, layout="mono") if audio else None
        for number in range(frames):
            stored = np.rot90(shown(number), rotation // 90)
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(stored), format="rgb24")
            frame.pts = number if ticks is None else ticks[number]
            frame.time_base = Fraction(1, fps) if ticks is None else TIME_BASE
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if sound is not None:
            _write_silence(container, sound, frames / fps)
    if rotation:
        _write_rotation(path, rotation)
    return path


def write_audio(path: Path, seconds: float = 0.5) -> Path:
    """A file with sound and no video."""
    with av.open(str(path), "w") as container:
        _write_silence(container, container.add_stream("aac", rate=16000, layout="mono"), seconds)
    return path


def cut(path: Path, fraction: float) -> Path:
    """Keep the file's header and this fraction of its pictures, as a broken download does."""
    data = path.read_bytes()
    path.write_bytes(data[: _place(data, fraction)])
    return path


def blank(path: Path, start: float, end: float) -> Path:
    """Overwrite the pictures between these fractions of the file with zeros."""
    data = bytearray(path.read_bytes())
    low, high = _place(data, start), _place(data, end)
    data[low:high] = bytes(high - low)
    path.write_bytes(bytes(data))
    return path


def _place(data: bytes | bytearray, fraction: float) -> int:
    """The byte at this fraction of what follows the marker of the pictures (MP4, AVI), else of the whole file."""
    found = [data.index(marker) + 4 for marker in (b"mdat", b"movi") if marker in data]
    start = found[0] if found else 0
    return start + int((len(data) - start) * fraction)


def _options(codec: str, b_frames: int) -> dict[str, str]:
    quiet = {
        "libx264": {"preset": "veryfast", "bf": str(b_frames), "x264-params": "scenecut=0:b-adapt=0"},
        "libx265": {"preset": "ultrafast", "x265-params": f"log-level=none:bframes={b_frames}:b-adapt=0:pools=1"},
        "libvpx-vp9": {"deadline": "realtime", "cpu-used": "8", "b": "500k"},
        "libvpx": {"deadline": "good", "cpu-used": "4", "auto-alt-ref": "1", "lag-in-frames": "16", "b": "500k"},
        "mpeg4": {"bf": str(b_frames), "q": "3", "sc_threshold": "1000000000"},
        "mpeg2video": {"bf": str(b_frames), "q": "3", "sc_threshold": "1000000000"},
    }
    return quiet.get(codec, {})


def _write_rotation(path: Path, clockwise: int) -> None:
    """Set the display matrix of an MP4 or MOV file with one track; PyAV's own call came only with version 18."""
    data = bytearray(path.read_bytes())
    matrix = data.index(b"tkhd") + 4 + 40
    a, b, c, d = {90: (0, 1, -1, 0), 180: (-1, 0, 0, -1), 270: (0, -1, 1, 0)}[clockwise]
    one = 1 << 16
    struct.pack_into(">9i", data, matrix, a * one, b * one, 0, c * one, d * one, 0, 0, 0, 1 << 30)
    path.write_bytes(data)


def _write_silence(container: av.container.OutputContainer, stream: av.AudioStream, seconds: float) -> None:
    for start in range(0, int(seconds * 16000), 1024):
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), dtype=np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = 16000, start, Fraction(1, 16000)
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))
