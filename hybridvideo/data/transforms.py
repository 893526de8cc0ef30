"""Frames of a decoded clip brought to the model's size: random for training, fixed views for testing.

Works on uint8 clips (T, C, H, W) with torchvision.transforms.v2 functions, bilinear and antialiased. All
frames of a clip are treated alike. Whatever is random is drawn from the generator that is passed in, and from
nothing else.
"""

from __future__ import annotations

import math

import torch
from torchvision.transforms.v2 import functional

from hybridvideo.config import AugmentConfig, FrameConfig
from hybridvideo.errors import UserError

Size = tuple[int, int]
Box = tuple[int, int, int, int]

ATTEMPTS = 10  # at a random crop that fits into the frame, as in torchvision's RandomResizedCrop


# ---- sizes and boxes


def scaled_size(size: Size, *, short_side: int, crop: Size) -> Size:
    """(height, width) of a frame scaled to `short_side`, or further where the crop would not fit."""
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

    aspect: smallest and largest width / height. draws: (ATTEMPTS, 4) uniform in [0, 1): area, aspect, top,
    left; the first row whose crop fits is taken. If none fits: the largest centred crop within the aspect
    range.
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


def _resize(clip_TCHW: torch.Tensor, size: Size) -> torch.Tensor:
    resized: torch.Tensor = functional.resize(clip_TCHW, list(size), antialias=True)
    return resized


def _size(clip_TCHW: torch.Tensor) -> Size:
    return clip_TCHW.shape[-2], clip_TCHW.shape[-1]


# ---- training


class TrainTransform:
    """Random crop and flip, the same for every frame of a clip.

    Called with a uint8 clip (T, C, H, W) and a torch.Generator; gives uint8 (T, C, height, width).
    Under `fit: stretch` the crop's aspect is relative to the video's own, so that an aspect of 1 distorts a
    video just as the evaluation does.
    """

    def __init__(self, frame: FrameConfig, augment: AugmentConfig) -> None:
        self.frame, self.augment = frame, augment
        self.size = (frame.height, frame.width)
        self.crop = {"resized": self._resized, "jitter": self._jitter, "none": self._plain}[augment.crop]

    def __call__(self, clip_TCHW: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        flip = torch.rand((), generator=generator).item() < self.augment.flip
        clip_TCHW = self.crop(clip_TCHW, generator)
        if flip:
            clip_TCHW = functional.horizontal_flip(clip_TCHW)
        return clip_TCHW

    def _resized(self, clip_TCHW: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        size = _size(clip_TCHW)
        base = size[1] / size[0] if self.frame.fit == "stretch" else self.size[1] / self.size[0]
        low, high = self.augment.aspect
        draws = torch.rand((ATTEMPTS, 4), generator=generator)
        box = random_box(size, area=self.augment.area, aspect=(low * base, high * base), draws=draws)
        cropped: torch.Tensor = functional.resized_crop(clip_TCHW, *box, size=list(self.size), antialias=True)
        return cropped

    def _jitter(self, clip_TCHW: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        scale, down, right = torch.rand(3, generator=generator).tolist()
        low, high = self.augment.jitter
        factor = low + scale * (high - low)
        if self.frame.fit == "stretch":
            size = (round(self.size[0] * max(factor, 1.0)), round(self.size[1] * max(factor, 1.0)))
        else:
            short_side = max(round(min(self.size) * factor), 1)
            size = scaled_size(_size(clip_TCHW), short_side=short_side, crop=self.size)
        top, left = int(down * (size[0] - self.size[0] + 1)), int(right * (size[1] - self.size[1] + 1))
        return _resize(clip_TCHW, size)[..., top : top + self.size[0], left : left + self.size[1]]

    def _plain(self, clip_TCHW: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        return ViewTransform(self.frame, crops=1)(clip_TCHW)[0]


# ---- testing


class ViewTransform:
    """The fixed views of a clip: one centre crop, or three along the side with more room.

    Called with a uint8 clip (T, C, H, W); gives uint8 (crops, T, C, height, width), crops in the order left
    (or top), centre, right (or bottom). Raises UserError for three crops of a stretched frame, which leaves
    nothing to cut.
    """

    def __init__(self, frame: FrameConfig, crops: int = 1) -> None:
        if crops not in (1, 3):
            raise UserError(f"eval.crops is {crops}; give 1 (centre) or 3 (left, centre, right)")
        if crops == 3 and frame.fit == "stretch":
            raise UserError(
                "eval.crops is 3 but frame.fit is 'stretch', which uses the whole frame; set eval.crops to 1"
            )
        self.frame, self.crops = frame, crops
        self.size = (frame.height, frame.width)

    def __call__(self, clip_TCHW: torch.Tensor) -> torch.Tensor:
        if self.frame.fit == "stretch":
            return _resize(clip_TCHW, self.size)[None]
        short_side = self.frame.short_side or min(self.size)
        size = scaled_size(_size(clip_TCHW), short_side=short_side, crop=self.size)
        resized_TCHW = _resize(clip_TCHW, size)
        height, width = self.size
        views = [
            resized_TCHW[..., top : top + height, left : left + width]
            for top, left in fixed_offsets(size, self.size, self.crops)
        ]
        return torch.stack(views)
