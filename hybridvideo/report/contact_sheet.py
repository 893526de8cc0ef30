"""Clips at a glance: a strip of evenly spaced frames per clip, with its true and its predicted label."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from hybridvideo.report.markup import Html, join, text
from hybridvideo.report.numbers import percent

if TYPE_CHECKING:
    import torch

    Frames = npt.NDArray[np.uint8] | torch.Tensor

CLIPS = 24
FRAMES = 8
FRAME_HEIGHT = 84
"""Height of a frame in a strip, in pixels; with JPEG quality 80 24 clips of real video stay near 1 MB."""
GAP = 4
"""Pixels between frames."""
TWO_ROWS_FROM = 1.2
"""Frames wider than this (width over height) are put in two rows."""
WIDEST = 16 / 9
"""Frames wider than this (width over height) are cut at the sides, so that a strip is never a thin line."""


@dataclass(frozen=True)
class Sample:
    """One clip to show. `frames_TCHW`: uint8 RGB; `score`: of the predicted label, from 0 to 1."""

    path: str
    frames_TCHW: Frames
    truth: str | None
    predicted: str
    score: float


def evenly(count: int, wanted: int) -> list[int]:
    """Return at most `wanted` evenly spaced indices out of `count`, including the first and the last."""
    if count <= wanted:
        return list(range(count))
    return [round(index) for index in np.linspace(0, count - 1, wanted)]


def contact_sheet(samples: Sequence[Sample], clips: int = CLIPS, frames: int = FRAMES) -> Html:
    """Show up to `clips` evenly spaced samples, each with up to `frames` frames."""
    shown = [samples[index] for index in evenly(len(samples), clips)]
    return Html(f'<div class="sheet">{join(clip_box(sample, frames) for sample in shown)}</div>')


def clip_box(sample: Sample, frames: int) -> Html:
    """Show one clip, its labels and its file name."""
    name = PurePath(sample.path).name
    picture = f'<img src="{strip(sample.frames_TCHW, frames)}" alt="{text(f"frames of {name}")}">'
    border, words = verdict(sample)
    return Html(f'<div class="clip{border}">{picture}<div>{words}</div><div class="file">{text(name)}</div></div>')


def verdict(sample: Sample) -> tuple[str, Html]:
    """Return the class of the border, and the predicted label next to the true one if it is known."""
    predicted = Html(f"<b>{text(sample.predicted)}</b> {text(percent(sample.score, 0))}")
    if sample.truth is None:
        return "", Html(f"predicted {predicted}")
    kind, mark = ("good", "✓") if sample.truth == sample.predicted else ("bad", "✗")
    truth = f"<b>{text(sample.truth)}</b>"
    return f" {kind}-border", Html(f'<span class="tag {kind}">{mark}</span> predicted {predicted}, true {truth}')


def strip(frames_TCHW: Frames, frames: int = FRAMES) -> str:
    """Return evenly spaced frames side by side, as a JPEG data URI."""
    from PIL import Image

    clip_TCHW: npt.NDArray[Any] = np.asarray(frames_TCHW)
    assert clip_TCHW.ndim == 4 and clip_TCHW.shape[1] == 3 and clip_TCHW.dtype == np.uint8, clip_TCHW.shape
    chosen = clip_TCHW[evenly(len(clip_TCHW), frames)].transpose(0, 2, 3, 1)
    height, width = chosen.shape[1:3]
    if width > WIDEST * height:
        side = int(width - WIDEST * height) // 2
        chosen, width = chosen[:, :, side : width - side], width - 2 * side
    size = (max(1, round(width * FRAME_HEIGHT / height)), FRAME_HEIGHT)
    pictures = [
        np.asarray(Image.fromarray(np.ascontiguousarray(f)).resize(size, Image.Resampling.BICUBIC)) for f in chosen
    ]
    # In one row, eight wide frames would be too small to see.
    columns = -(-frames // 2) if size[0] > TWO_ROWS_FROM * size[1] else frames
    rows = -(-len(pictures) // columns)
    sheet = np.full((rows * (size[1] + GAP) - GAP, columns * (size[0] + GAP) - GAP, 3), 20, dtype=np.uint8)
    for place, picture in enumerate(pictures):
        top, left = place // columns * (size[1] + GAP), place % columns * (size[0] + GAP)
        sheet[top : top + size[1], left : left + size[0]] = picture
    return jpeg(sheet)


def jpeg(picture_HWC: npt.NDArray[np.uint8]) -> str:
    """Encode a uint8 RGB picture as a JPEG data URI."""
    from PIL import Image

    target = io.BytesIO()
    Image.fromarray(picture_HWC).save(target, format="JPEG", quality=80, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(target.getvalue()).decode("ascii")
