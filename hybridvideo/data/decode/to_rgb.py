"""From a decoder's frame to upright RGB pixels: crop, scale and convert in one pass, on one thread.

What is cropped away is never touched. Scaling comes before the conversion to RGB, on YUV planes: a third to a half of
the work of scaling RGB; chroma then has every row of the result, so that it stays within about one grey level (mean) of
scaling the RGB frame with antialiasing. A stored frame may lie on its side: the framing refers to the upright one, and
the quarter turns are made last, on the small result.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any, TypeAlias, cast

import numpy as np
from av.filter import Graph
from av.filter.context import FilterContext
from av.sidedata.sidedata import Type as SideDataType
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter

from hybridvideo.data.decode.container import FAULTS, words
from hybridvideo.data.decode.frames import Box, ByteArray, Framer, Size
from hybridvideo.data.stages import stage
from hybridvideo.errors import VideoError

# 8-bit planar YUV -> the format in which it is scaled: FFmpeg has fast paths from these to RGB.
BETWEEN = {"yuv420p": "yuv422p", "yuv422p": "yuv422p", "yuvj420p": "yuvj422p", "yuvj422p": "yuvj422p"}

MIRRORED = 4  # added to quarter turns: left and right are swapped first, as in films of some front cameras
ANY_TIME_BASE = Fraction(1, 1000)  # a filter graph needs one; times do not matter here

Look: TypeAlias = tuple[int, int, str]  # width, height, pixel format of a stored frame


class Converter:
    """Frames of one stream -> RGB under one framing.

    stored: (height, width) of the stream's first frame, to which every frame is brought. quarter_turns: to make it
    upright, as from the function of that name. framer: the framing for the upright size.
    """

    def __init__(self, stored: Size, quarter_turns: int, framer: Framer) -> None:
        self.stored, self.quarter_turns = stored, quarter_turns
        framing = framer(turned(stored, quarter_turns))
        upright = framing.size or (framing.box[2:] if framing.box is not None else turned(stored, quarter_turns))
        self.size: Size = upright
        self._target = turned(upright, quarter_turns)  # height and width of the result as stored
        self._box = None if framing.box is None else stored_box(framing.box, stored, quarter_turns)
        self._scaler, self._to_rgb = VideoReformatter(), VideoReformatter()
        self._cropper: tuple[Look, Graph, FilterContext, FilterContext] | None = None

    def into(self, frame: VideoFrame, image_HWC: ByteArray) -> None:
        """Write the upright RGB pixels of a frame. Raises VideoError `unsupported` if FFmpeg cannot convert it."""
        try:
            with stage("convert"):
                image_HWC[...] = upright(pixels(self._rgb(frame)), self.quarter_turns)
        except FAULTS as error:
            raise VideoError("unsupported", f"{frame.format.name} pixels cannot be converted: {words(error)}") from None

    def _rgb(self, frame: VideoFrame) -> VideoFrame:
        height, width = self._target
        if self._box is not None:
            frame = self._cut(self._first_size(frame))
        between = BETWEEN.get(frame.format.name)
        if between is not None and (frame.height, frame.width) != self._target:
            frame = self._scaler.reformat(frame, width=width, height=height, format=between, threads=1)
        return self._to_rgb.reformat(frame, width=width, height=height, format="rgb24", threads=1)

    def _first_size(self, frame: VideoFrame) -> VideoFrame:
        """Scale a frame of another size to that of the first one, to which boxes refer."""
        height, width = self.stored
        if (frame.height, frame.width) == self.stored:
            return frame
        return VideoReformatter().reformat(frame, width=width, height=height, threads=1)

    def _cut(self, frame: VideoFrame) -> VideoFrame:
        """Crop a frame without copying; the corner of the box moves to the chroma grid, by at most one pixel."""
        look = (frame.width, frame.height, frame.format.name)
        if self._cropper is None or self._cropper[0] != look:
            assert self._box is not None
            self._cropper = (look, *_crop_graph(frame, self._box))
        _, _, source, sink = self._cropper
        source.push(frame)
        cut = sink.pull()
        assert isinstance(cut, VideoFrame)
        return cut


def turned(size: Size, quarter_turns: int) -> Size:
    """Height and width after quarter turns."""
    return size if quarter_turns % 2 == 0 else size[::-1]


def stored_box(box: Box, stored: Size, quarter_turns: int) -> Box:
    """A box of the upright frame as a box of the stored one, which mirrored and turned counter-clockwise is upright."""
    top, left, height, width = box
    rows, columns = stored
    if quarter_turns >= MIRRORED:
        top, left, height, width = stored_box(box, stored, quarter_turns - MIRRORED)
        return top, columns - left - width, height, width
    return (
        (top, left, height, width),
        (left, columns - top - height, width, height),
        (rows - top - height, columns - left - width, height, width),
        (rows - left - width, top, width, height),
    )[quarter_turns % 4]


def quarter_turns(frame: VideoFrame) -> int:
    """Counter-clockwise quarter turns by the frame's display matrix, plus MIRRORED if it also flips.

    An invalid matrix (zeros, as some cameras write) leaves frames as they are.
    """
    if abs(frame.rotation) > 360:
        return 0
    if _flips(frame):
        return round((frame.rotation + 180) / 90) % 4 + MIRRORED
    return round(frame.rotation / 90) % 4


def _flips(frame: VideoFrame) -> bool:
    """Whether the display matrix mirrors the picture."""
    try:
        stored = cast(Any, frame.side_data)[SideDataType.DISPLAYMATRIX]  # the type stubs know its own kinds only
        matrix = np.frombuffer(memoryview(stored), dtype=np.int32)
    except (KeyError, ValueError):  # PyAV does not know every kind of side data, and then has none
        return False
    a, b, _, c, d = matrix[:5].astype(float)
    return bool(a * d < b * c)


def upright(image_HWC: ByteArray, quarter_turns: int) -> ByteArray:
    """A view of a stored frame's pixels that is upright."""
    return np.rot90(image_HWC[:, ::-1] if quarter_turns >= MIRRORED else image_HWC, quarter_turns % 4)


def pixels(frame: VideoFrame) -> ByteArray:
    """The RGB frame's own memory as (H, W, 3)."""
    plane = frame.planes[0]
    lines = np.frombuffer(memoryview(plane), dtype=np.uint8)[: plane.line_size * frame.height]
    return lines.reshape(frame.height, -1)[:, : frame.width * 3].reshape(frame.height, frame.width, 3)


def _crop_graph(frame: VideoFrame, box: Box) -> tuple[Graph, FilterContext, FilterContext]:
    """FFmpeg's crop filter, which only moves pointers, with its source and sink; these do not keep the graph alive."""
    top, left, height, width = box
    graph = Graph()
    graph.threads = 1
    source = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=ANY_TIME_BASE)
    grid = _chroma_grid(frame)
    crop = graph.add("crop", f"{width}:{height}:{left // grid[1] * grid[1]}:{top // grid[0] * grid[0]}:exact=1")
    sink = graph.add("buffersink")
    source.link_to(crop)
    crop.link_to(sink)
    graph.configure()
    return graph, source, sink


def _chroma_grid(frame: VideoFrame) -> Size:
    """Rows and columns of pixels that share a chroma sample."""
    components = frame.format.components
    luma = components[0]
    smallest_rows = min(component.height for component in components)
    smallest_columns = min(component.width for component in components)
    return -(-luma.height // smallest_rows), -(-luma.width // smallest_columns)
