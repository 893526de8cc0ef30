"""The stem applied frame by frame, to one clip or to each stream of it."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hybridvideo.config.model import StemConfig
from hybridvideo.models.parts.correlation import MotionStream
from hybridvideo.models.parts.inputs import ClipInput, see_correlation, see_differences
from hybridvideo.models.parts.motion_maps import map_stride
from hybridvideo.models.parts.patches import PatchStem, patch_stem
from hybridvideo.models.parts.place import Grid
from hybridvideo.models.parts.resampling import TimePool
from hybridvideo.models.parts.stems import open_stem

# Without gradients, a CPU's stem takes the frames in portions whose activations stay near its caches; the buffers of
# more are mapped again for every layer. MobileNetV2 on 256 frames of 128x192, two cores: 1.35 s, all at once 2.77 s.
PIXELS_AT_ONCE = 2**17


class FrameEncoder(nn.Module):
    """The stem, or the two of a two-stream input, applied to each frame: clips -> grid (B, T, H, W, C).

    With a correlation, a library's stem starts as it is without one: what is added to it starts at zero.
    """

    def __init__(self, config: StemConfig, input: ClipInput, height: int, width: int, time: bool = True) -> None:
        super().__init__()
        self.config = config
        first = patch_stem(config, time) if config.name == "patch" else open_stem(config, height, width)
        mode, of_library = input.config.mode, "/" in config.name
        if mode == "both":
            see_differences(first)
        elif mode == "correlation":
            see_correlation(first, input.motion_channels, start_at_zero=of_library)
        streams = [first, copy.deepcopy(first)] if mode == "two_stream" else [first]
        self.stems = nn.ModuleList(streams)
        self.motion = None
        if mode == "correlation_stream":
            stride = max(1, first.stride // map_stride(input.config.scales, input.config.stride))
            self.motion = MotionStream(input.motion_channels, first.channels, stride, start_at_zero=of_library)
        self.channels = first.channels * len(streams)
        self.strides: Grid = first.strides if isinstance(first, PatchStem) else (1, first.stride, first.stride)
        self.normalisation = first.normalisation
        if config.frozen:
            self.requires_grad_(False)

    def forward(self, clips: list[Tensor]) -> Tensor:
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.config.frozen):
            if self.motion is not None:
                frames, volume = clips
                return with_motion(encode(self.stems[0], frames), encode(self.motion, volume))
            return torch.cat([encode(stem, clip) for stem, clip in zip(self.stems, clips, strict=True)], -1)

    def train(self, mode: bool = True) -> FrameEncoder:
        """Set the mode, except for a frozen stem and for BatchNorm that keeps its statistics."""
        super().train(mode and not self.config.frozen)
        if self.config.batchnorm == "eval":
            for layer in self.modules():
                if isinstance(layer, nn.modules.batchnorm._BatchNorm):
                    layer.eval()
        return self


def with_motion(grid_BTHWC: Tensor, motion_BTHWC: Tensor) -> Tensor:
    """The sum, of the first's size: for frames that do not divide by the stride, stems differ by a position.

    Tubelets get the mean over their frames.
    """
    B, T, H, W, _ = grid_BTHWC.shape
    if motion_BTHWC.shape[1] != T:
        motion_BTHWC = TimePool(-(-motion_BTHWC.shape[1] // T))(motion_BTHWC)
    if motion_BTHWC.shape[2:4] != (H, W):
        motion_NCHW = F.interpolate(motion_BTHWC.flatten(0, 1).permute(0, 3, 1, 2), (H, W), mode="bilinear")
        motion_BTHWC = motion_NCHW.permute(0, 2, 3, 1).unflatten(0, (B, T))
    return grid_BTHWC + motion_BTHWC


def encode(stem: nn.Module, x_BCTHW: Tensor) -> Tensor:
    """Apply a stem: of patches to the clip, of frames with time folded into the batch.

    Channels are last in memory, the fastest on CPU and GPU.
    """
    if isinstance(stem, PatchStem):
        return stem(x_BCTHW)
    B, C, T, H, W = x_BCTHW.shape
    x_NCHW = x_BCTHW.permute(0, 2, 3, 4, 1).reshape(B * T, H, W, C).permute(0, 3, 1, 2)
    if torch.is_grad_enabled() or x_NCHW.device.type != "cpu":
        features_NCHW = stem(x_NCHW)
    else:
        portion = max(1, PIXELS_AT_ONCE // (H * W))
        features_NCHW = torch.cat([stem(part) for part in x_NCHW.split(portion)])
    _, C, H, W = features_NCHW.shape
    return features_NCHW.permute(0, 2, 3, 1).reshape(B, T, H, W, C)
