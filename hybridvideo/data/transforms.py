"""Frames brought to the model's size: a plan of what to crop and scale, random for training, fixed for testing.

A plan is made from the frame's size before anything is decoded, so that the decoder can scale on the way to RGB
(`scaling: decoder`); with `scaling: rgb` the RGB frames are scaled by torchvision, bilinear and antialiased. All frames
of a clip are treated alike. Everything random is drawn from the generator that is passed in. Clips are uint8
(T, C, H, W).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torchvision.transforms.v2 import functional

from hybridvideo.config.data import AugmentConfig, FrameConfig
from hybridvideo.data.decode.frames import Box, Framing, Size
from hybridvideo.errors import UserError

ATTEMPTS = 10  # to find a random crop that fits into the frame, as in torchvision's RandomResizedCrop


# ---- sizes and boxes


def scaled_size(size: Size, *, short_side: int, crop: Size) -> Size:
    """(height, width) of a frame scaled to `short_side`, or larger if the crop would not fit."""
    height, width = size
    short = min(height, width)
    scaled = (short_side * height // short, short_side * width // short)
    if scaled[0] >= crop[0] and scaled[1] >= crop[1]:
        return scaled
    if crop[0] * width >= crop[1] * height:
        return crop[0], -(-crop[0] * width // height)
    return -(-crop[1] * height // width), crop[1]


def fixed_offsets(size: Size, crop: Size, crops: int) -> list[Size]:
    """(top, left) of the centre crop, or of three along the side with more room: end, centre, end."""
    room = size[0] - crop[0], size[1] - crop[1]
    centre = room[0] // 2, room[1] // 2
    if crops == 1:
        return [centre]
    if room[1] >= room[0]:
        return [(centre[0], 0), centre, (centre[0], room[1])]
    return [(0, centre[1]), centre, (room[0], centre[1])]


def random_box(size: Size, *, area: tuple[float, float], aspect: tuple[float, float], draws: torch.Tensor) -> Box:
    """(top, left, height, width) of a random crop: a share of the frame's area, its log aspect uniform.

    aspect: smallest and largest width / height. draws: (ATTEMPTS, 4) uniform in [0, 1): area, aspect, top, left; the
    first row whose crop fits is used. If none fits: the largest centred crop within the aspect range.
    """
    height, width = size
    low, high = math.log(aspect[0]), math.log(aspect[1])
    for share, shape, down, right in draws.tolist():
        pixels = (area[0] + share * (area[1] - area[0])) * height * width
        ratio = math.exp(low + shape * (high - low))
        crop_height, crop_width = round(math.sqrt(pixels / ratio)), round(math.sqrt(pixels * ratio))
        if 0 < crop_height <= height and 0 < crop_width <= width:
            top, left = int(down * (height - crop_height + 1)), int(right * (width - crop_width + 1))
            return top, left, crop_height, crop_width
    ratio = min(max(width / height, aspect[0]), aspect[1])
    crop_height, crop_width = min(height, round(width / ratio)), min(width, round(height * ratio))
    return (height - crop_height) // 2, (width - crop_width) // 2, max(crop_height, 1), max(crop_width, 1)


# ---- plans


@dataclass(frozen=True)
class FramePlan:
    """What is done to a frame: scale a box of it, keep `size` from `corner` (top, left) on, flip it."""

    framing: Framing
    corner: Size
    size: Size
    flip: bool = False

    def finished(self, scaled_TCHW: torch.Tensor) -> torch.Tensor:
        """Do the rest, on frames that the decoder has brought to the framing."""
        top, left = self.corner
        clip_TCHW = scaled_TCHW[..., top : top + self.size[0], left : left + self.size[1]]
        return functional.horizontal_flip(clip_TCHW) if self.flip else clip_TCHW

    def on_rgb(self, clip_TCHW: torch.Tensor) -> torch.Tensor:
        """Do all of it, on full RGB frames."""
        if self.framing.box is not None:
            top, left, height, width = self.framing.box
            clip_TCHW = clip_TCHW[..., top : top + height, left : left + width]
        if self.framing.size is not None:
            clip_TCHW = functional.resize(clip_TCHW, list(self.framing.size), antialias=True)
        return self.finished(clip_TCHW)


Planner = Callable[[Size], FramePlan]  # from the frame's (height, width)


# ---- training


class TrainTransform:
    """Random crop and flip, the same for every frame of a clip.

    With `fit: stretch` the crop's aspect is relative to the video's own, so that an aspect of 1 distorts a video just
    as the evaluation does.
    """

    def __init__(self, frame: FrameConfig, augment: AugmentConfig) -> None:
        self.frame, self.augment = frame, augment
        self.size = (frame.height, frame.width)
        self.crop = {"resized": self._resized, "jitter": self._jitter, "none": self._plain}[augment.crop]

    def planner(self, generator: torch.Generator) -> Planner:
        """All draws of one clip, as a function from the frame's size to the plan."""
        flip = torch.rand((), generator=generator).item() < self.augment.flip
        return self.crop(generator, flip)

    def __call__(self, clip_TCHW: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """A uint8 RGB clip (T, C, H, W) -> (T, C, height, width)."""
        return self.planner(generator)(_size(clip_TCHW)).on_rgb(clip_TCHW)

    def _resized(self, generator: torch.Generator, flip: bool) -> Planner:
        draws = torch.rand((ATTEMPTS, 4), generator=generator)

        def plan(size: Size) -> FramePlan:
            base = size[1] / size[0] if self.frame.fit == "stretch" else self.size[1] / self.size[0]
            low, high = self.augment.aspect
            box = random_box(size, area=self.augment.area, aspect=(low * base, high * base), draws=draws)
            return FramePlan(Framing(box, self.size), (0, 0), self.size, flip)

        return plan

    def _jitter(self, generator: torch.Generator, flip: bool) -> Planner:
        scale, down, right = torch.rand(3, generator=generator).tolist()
        low, high = self.augment.jitter
        factor = low + scale * (high - low)

        def plan(size: Size) -> FramePlan:
            if self.frame.fit == "stretch":
                scaled = (round(self.size[0] * max(factor, 1.0)), round(self.size[1] * max(factor, 1.0)))
            else:
                short_side = max(round(min(self.size) * factor), 1)
                scaled = scaled_size(size, short_side=short_side, crop=self.size)
            corner = int(down * (scaled[0] - self.size[0] + 1)), int(right * (scaled[1] - self.size[1] + 1))
            return FramePlan(Framing(None, scaled), corner, self.size, flip)

        return plan

    def _plain(self, generator: torch.Generator, flip: bool) -> Planner:
        views = ViewTransform(self.frame, crops=1)
        return lambda size: FramePlan(views.framing(size), views.corners(size)[0], self.size, flip)


# ---- testing


class ViewTransform:
    """The fixed views of a clip: one centre crop, or three along the side with more room.

    Called with a uint8 clip (T, C, H, W); returns uint8 (crops, T, C, height, width), crops in the order left (or top),
    centre, right (or bottom). Raises UserError for three crops of a stretched frame, which leaves nothing to crop.
    """

    def __init__(self, frame: FrameConfig, crops: int = 1) -> None:
        if crops not in (1, 3):
            raise UserError(f"eval.crops is {crops}; give 1 (centre) or 3 (left, centre, right)")
        if crops == 3 and frame.fit == "stretch":
            raise UserError(
                "eval.crops is 3 but frame.fit is 'stretch', which uses the full frame; set eval.crops to 1"
            )
        self.frame, self.crops = frame, crops
        self.size = (frame.height, frame.width)

    def framing(self, size: Size) -> Framing:
        """How frames of this (height, width) are scaled, with all crops still in them."""
        if self.frame.fit == "stretch":
            return Framing(None, self.size)
        short_side = self.frame.short_side or min(self.size)
        return Framing(None, scaled_size(size, short_side=short_side, crop=self.size))

    def corners(self, size: Size) -> list[Size]:
        """(top, left) of each crop in a frame of this (height, width) once it is scaled."""
        if self.frame.fit == "stretch":
            return [(0, 0)]
        scaled = self.framing(size).size
        assert scaled is not None
        return fixed_offsets(scaled, self.size, self.crops)

    def scaled(self, clip_TCHW: torch.Tensor) -> torch.Tensor:
        """RGB frames scaled by `framing`, with all crops still in them."""
        framing = self.framing(_size(clip_TCHW))
        assert framing.size is not None
        return FramePlan(framing, (0, 0), framing.size).on_rgb(clip_TCHW)

    def __call__(self, clip_TCHW: torch.Tensor) -> torch.Tensor:
        size = _size(clip_TCHW)
        plans = [FramePlan(self.framing(size), corner, self.size) for corner in self.corners(size)]
        return torch.stack([plan.on_rgb(clip_TCHW) for plan in plans])


def _size(clip_TCHW: torch.Tensor) -> Size:
    return clip_TCHW.shape[-2], clip_TCHW.shape[-1]
