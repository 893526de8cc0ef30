"""How the rendered videos are written: five codecs and containers, so that a data set exercises the decoder.

T frames, H rows, W columns, C = 3 colours (RGB).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import numpy as np
from av.video.stream import VideoStream
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class Encoding:
    """A codec in a container, and the share of the videos that are written with it."""

    codec: str
    extension: str
    share: float
    pixel_format: str
    options: dict[str, str]


ENCODINGS = (
    Encoding("libx264", "mp4", 0.3, "yuv420p", {"preset": "ultrafast", "bf": "2", "b-adapt": "0", "crf": "23"}),
    Encoding("mpeg4", "avi", 0.25, "yuv420p", {"qmin": "3", "qmax": "4"}),
    Encoding("mjpeg", "mov", 0.25, "yuvj420p", {"qmin": "3", "qmax": "4"}),
    Encoding("libvpx-vp9", "webm", 0.1, "yuv420p", {"deadline": "realtime", "cpu-used": "8", "crf": "26", "b": "0"}),
    Encoding("libx265", "mkv", 0.1, "yuv420p", {"preset": "ultrafast", "crf": "21"}),
)
X265_PARAMETERS = "log-level=none:pools=none:frame-threads=1:wpp=0"


def encode(path: Path, frames: Bytes, rate: int, encoding: Encoding) -> None:
    """Write (T, H, W, C) uint8 to `path`: the complete file or none."""
    partial = path.with_name(f".{path.stem}.part{path.suffix}")
    options = dict(encoding.options)
    if encoding.codec == "libx265":
        options["x265-params"] = X265_PARAMETERS
    # bitexact: no random track identifiers and no encoder version, the same bytes each time.
    with av.open(str(partial), "w", options={"fflags": "+bitexact"}) as container:
        stream = cast(VideoStream, container.add_stream(encoding.codec, rate=Fraction(rate), options=options))
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = encoding.pixel_format
        stream.codec_context.thread_count = 1
        for frame_HWC in frames:
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame_HWC), format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    os.replace(partial, path)
