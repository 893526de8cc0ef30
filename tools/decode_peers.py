"""How other software reads the same frames, each at its best on one thread: the peers of `bench_decode.py`.

A reader maps (path, ascending frame indices) to uint8 RGB (T, H, W, C), opening the file each time, as a loader does.
A ready reader also cuts `box` (top, left, height, width; None: all) and scales to `size` (height, width).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

os.environ.setdefault("OPENCV_FFMPEG_CAPTURE_OPTIONS", "threads;1")

import av
import cv2
import decord
import numpy as np
import numpy.typing as npt
import torch
from torchcodec.decoders import VideoDecoder
from torchcodec.transforms import Resize
from torchvision.transforms.v2 import functional

Images = npt.NDArray[np.uint8]
Box = tuple[int, int, int, int]
Size = tuple[int, int]
Reader = Callable[[str, list[int]], Images]
ReadyReader = Callable[[str, list[int], "Box | None", Size], Any]

cv2.setNumThreads(1)


# ---- whole frames


def torchcodec_exact(path: str, indices: list[int]) -> Images:
    return _torchcodec(path, indices, "exact")


def torchcodec_approximate(path: str, indices: list[int]) -> Images:
    return _torchcodec(path, indices, "approximate")


def _torchcodec(path: str, indices: list[int], mode: Any, **options: Any) -> Images:
    decoder = VideoDecoder(path, num_ffmpeg_threads=1, seek_mode=mode, dimension_order="NHWC", **options)
    return decoder.get_frames_at(indices).data.numpy()


def decord_batch(path: str, indices: list[int]) -> Images:
    return decord.VideoReader(path, num_threads=1).get_batch(indices).asnumpy()


def pyav(path: str, indices: list[int]) -> Images:
    """Seek to the key frame, decode up to the last frame, convert the wanted ones."""
    return np.stack([frame.to_ndarray() for frame in _pyav(path, indices)])


def _pyav(path: str, indices: list[int], **target: Any) -> list[av.VideoFrame]:
    wanted, last, frames = set(indices), max(indices), []
    with av.open(path) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        rate, base = stream.average_rate, stream.time_base
        assert rate is not None and base is not None
        first = stream.start_time or 0
        container.seek(first + int(min(indices) / rate / base), stream=stream)
        for frame in container.decode(stream):
            assert frame.pts is not None
            number = round((frame.pts - first) * base * rate)
            if number in wanted:
                frames.append(frame.reformat(format="rgb24", threads=1, **target))
            if number >= last:
                break
    return frames


def opencv(path: str, indices: list[int]) -> Images:
    return np.stack(_opencv(path, indices))


def _opencv(path: str, indices: list[int]) -> list[Any]:
    capture, wanted, frames = cv2.VideoCapture(path, cv2.CAP_FFMPEG), set(indices), []
    capture.set(cv2.CAP_PROP_POS_FRAMES, min(indices))
    for number in range(min(indices), max(indices) + 1):
        if number in wanted:
            frames.append(cv2.cvtColor(capture.read()[1], cv2.COLOR_BGR2RGB))
        else:
            capture.grab()
    return frames


WHOLE: dict[str, Reader] = {
    "torchcodec exact": torchcodec_exact,
    "torchcodec approximate": torchcodec_approximate,
    "decord": decord_batch,
    "PyAV": pyav,
    "OpenCV": opencv,
}


# ---- frames of the model's size


def then_torchvision(read: Reader) -> ReadyReader:
    """Scale the complete clip, channels last in memory, uint8, bilinear, antialiased."""

    def ready(path: str, indices: list[int], box: Box | None, size: Size) -> Any:
        clip_TCHW = torch.from_numpy(read(path, indices)).permute(0, 3, 1, 2)
        if box is not None:
            return functional.resized_crop(clip_TCHW, *box, size=list(size), antialias=True)
        return functional.resize(clip_TCHW, list(size), antialias=True)

    return ready


def then_opencv(read: Reader) -> ReadyReader:
    """Scale frame by frame, bilinear without antialiasing, as mmcv does."""

    def ready(path: str, indices: list[int], box: Box | None, size: Size) -> Any:
        top, left, height, width = box or (0, 0, 1 << 30, 1 << 30)
        images = (image[top : top + height, left : left + width] for image in read(path, indices))
        return np.stack([cv2.resize(np.ascontiguousarray(image), size[::-1]) for image in images])

    return ready


def torchcodec_resize(path: str, indices: list[int], box: Box | None, size: Size) -> Any:
    return None if box is not None else _torchcodec(path, indices, "approximate", transforms=[Resize(size)])


def decord_resize(path: str, indices: list[int], box: Box | None, size: Size) -> Any:
    if box is not None:
        return None
    return decord.VideoReader(path, num_threads=1, width=size[1], height=size[0]).get_batch(indices).asnumpy()


def pyav_resize(path: str, indices: list[int], box: Box | None, size: Size) -> Any:
    if box is not None:
        return None
    return np.stack([frame.to_ndarray() for frame in _pyav(path, indices, width=size[1], height=size[0])])


READY: dict[str, ReadyReader] = {
    "torchcodec exact + torchvision": then_torchvision(torchcodec_exact),
    "torchcodec approximate + torchvision": then_torchvision(torchcodec_approximate),
    "torchcodec approximate + OpenCV": then_opencv(torchcodec_approximate),
    "torchcodec's Resize": torchcodec_resize,
    "decord's resize": decord_resize,
    "PyAV's reformat": pyav_resize,
    "PyAV + torchvision": then_torchvision(pyav),
    "PyAV + OpenCV": then_opencv(pyav),
    "OpenCV + its resize": then_opencv(opencv),
}


# ---- all views of a video: uint8 (V, T, H, W, C), clips by crops, in parts as the model gets them


def one_item_a_view(
    path: str, clips: list[list[int]], corners: list[Size], scaled: Size, crop: Size
) -> Iterator[torch.Tensor]:
    """PySlowFast: each view opens the file, decodes and converts its complete span, picks its frames, scales, crops."""
    for indices in clips:
        for top, left in corners:
            span = pyav(path, list(range(min(indices), max(indices) + 1)))
            frames_TCHW = torch.from_numpy(span[np.array(indices) - min(indices)]).permute(0, 3, 1, 2)
            images = functional.resize(frames_TCHW, list(scaled), antialias=True)
            view = images[..., top : top + crop[0], left : left + crop[1]]
            yield view.permute(0, 2, 3, 1).contiguous()[None]


def all_indices_at_once(
    path: str, clips: list[list[int]], corners: list[Size], scaled: Size, crop: Size
) -> Iterator[torch.Tensor]:
    """mmaction2: decord reads the indices of all clips, including repeated ones; each frame is scaled and cropped."""
    images = decord.VideoReader(path, num_threads=1).get_batch([i for clip in clips for i in clip]).asnumpy()
    images = [cv2.resize(image, scaled[::-1]) for image in images]
    cut = [[image[t : t + crop[0], le : le + crop[1]] for image in images] for t, le in corners]
    views_NUHWC = np.array(cut)
    views = views_NUHWC.reshape(len(corners), len(clips), -1, *crop, 3).swapaxes(0, 1)
    yield torch.from_numpy(np.ascontiguousarray(views.reshape(-1, *views.shape[2:])))
