"""Video Swin Transformer: attention in 3-D windows that shift from block to block, over four stages.

Liu et al. 2022, *Video Swin Transformer* (CVPR). Padding, clipping of windows and bias are those of the published
code, so its weights produce its logits at any input size.

    clip -> patches of 2x4x4 -> norm -> 4 stages (the last three merge 2x2 positions first) -> norm -> mean -> linear

    B batch   T H W grid   C channels   R rows: the grid's positions, window by window
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from timm.layers import DropPath
from torch import Tensor, nn

from hybridvideo.config.data import ClipConfig
from hybridvideo.config.evaluation import EvalConfig
from hybridvideo.errors import UserError
from hybridvideo.models.contract import VideoModel
from hybridvideo.models.parts.attention import WindowAttention3d, parts_are_faster
from hybridvideo.models.parts.convolution import PatchMerging
from hybridvideo.models.parts.linear import Linear, init_linear
from hybridvideo.models.parts.mlp import PORTION, Mlp
from hybridvideo.models.parts.patches import PatchEmbed
from hybridvideo.models.parts.windows import Cut, Size, WindowLayout, constant, true_parts, window_layout
from hybridvideo.models.staged import Stage, StagedModel, rising_rates
from hybridvideo.models.variants import Published, Variant


@dataclass(frozen=True)
class VideoSwinConfig:
    """A Video Swin Transformer."""

    frames: int = 32
    """Frames of the standard input."""
    height: int = 224
    """Frame height of the standard input."""
    width: int = 224
    """Frame width; any other size works too."""
    dim: int = 96
    """Channels of the first stage; doubled in each that follows."""
    depths: tuple[int, ...] = (2, 2, 6, 2)
    """Blocks of each stage, every second one shifted."""
    heads: tuple[int, ...] = (3, 6, 12, 24)
    """Heads of each stage."""
    window: tuple[int, int, int] = (8, 7, 7)
    """Frames, rows and columns of a window, on the grid."""
    patch: tuple[int, int, int] = (2, 4, 4)
    """Frames, rows and columns of a patch."""
    mlp_ratio: float = 4.0
    drop_path: float = 0.1
    """Stochastic depth of the last block, growing linearly from 0."""
    dropout: float = 0.0
    """Before the classifier, in training."""

    def __post_init__(self) -> None:
        if len(self.depths) != len(self.heads) or not self.depths or min(self.depths) < 1:
            raise UserError(f"depths {self.depths}, heads {self.heads}; give one of each, 1 or more, for every stage")
        if min(*self.window, *self.patch, self.frames, self.height, self.width) < 1:
            raise UserError(f"window {self.window}, patch {self.patch} and the input's sides must be 1 or more")


class SwinBlock(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, dim: int, heads: int, window: Size, shifted: bool, mlp_ratio: float, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attention = WindowAttention3d(dim, heads, window, shifted, clipped_bias="first")
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))
        self.drop_path = DropPath(drop_path)

    def forward(self, x_BTHWC: Tensor) -> Tensor:
        if not torch.is_grad_enabled() and not self.training and parts_are_faster(x_BTHWC):
            return self.in_portions(x_BTHWC)
        x = x_BTHWC + self.drop_path(self.attention(self.norm1(x_BTHWC)))
        out: Tensor = x + self.drop_path(self.mlp(self.norm2(x)))
        return out

    def in_portions(self, x_BTHWC: Tensor) -> Tensor:
        """The same, a few windows at a time (see `mlp.PORTION`): nothing in a block looks beyond its window."""
        B, T, H, W, _ = x_BTHWC.shape
        layout = window_layout((T, H, W), self.attention.window, self.attention.shifted)
        cut = true_parts(layout)
        x_RC = cut.gather(layout.pad(x_BTHWC))
        inside = None if layout.padded == layout.grid else inside_rows(layout, cut, B)
        biases = self.attention.biases(layout, cut, x_RC)
        # Half of an MLP's portion: this one holds queries, keys and values in addition to the hidden numbers.
        for portion in cut.portions(B, most=PORTION // 2 // self.mlp.hidden):
            rows = slice(portion[0].start, portion[-1].stop)
            x = x_RC[rows]
            normed = self.norm1(x) if inside is None else self.norm1(x) * inside[rows]
            x = x + self.attention.attend_rows(normed, portion, biases)
            x_RC[rows] = x + self.mlp(self.norm2(x))
        return layout.crop(cut.scatter(x_RC, B))


@constant
def inside_rows(layout: WindowLayout, cut: Cut, batch: int) -> Tensor:
    """(R, 1): 1 for rows of the grid, 0 for those of its padding, which attention must see as zeros."""
    return cut.gather(layout.pad(torch.ones(batch, *layout.grid, 1, device="cpu")))


class SwinStage(nn.Module):
    """Optional merging, then blocks, every second one shifted."""

    def __init__(self, dim: int, heads: int, config: VideoSwinConfig, drop_paths: list[float], merge: bool) -> None:
        super().__init__()
        self.merge = PatchMerging(dim // 2) if merge else nn.Identity()
        self.blocks = nn.ModuleList(
            SwinBlock(dim, heads, config.window, i % 2 == 1, config.mlp_ratio, rate)
            for i, rate in enumerate(drop_paths)
        )


class VideoSwin(StagedModel):
    """The network of a `VideoSwinConfig`."""

    config: VideoSwinConfig
    classifier_name = "classifier"
    group_names = "{stage}.block{number}"
    undecayed = ("bias_table",)

    def __init__(self, config: VideoSwinConfig, num_classes: int) -> None:
        super().__init__(config, num_classes)
        self.patches = PatchEmbed(config.dim, config.patch, pad=True)
        self.patch_norm = nn.LayerNorm(config.dim)
        rates = rising_rates(config.drop_path, config.depths)
        self.stages = nn.ModuleList(
            SwinStage(config.dim * 2**i, heads, config, rates[i], merge=i > 0) for i, heads in enumerate(config.heads)
        )
        self.num_features = config.dim * 2 ** (len(config.depths) - 1)
        self.norm = nn.LayerNorm(self.num_features)
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = Linear(self.num_features, num_classes)
        self._init_weights()

    def stem_parts(self) -> list[nn.Module]:
        return [self.patches, self.patch_norm]

    def stage_list(self) -> list[Stage]:
        stages: list[Any] = list(self.stages)
        return [Stage(f"stage{i + 1}", stage.blocks, [stage.merge]) for i, stage in enumerate(stages)]

    def head_parts(self) -> list[nn.Module]:
        return [self.norm, self.classifier]

    def forward_stem(self, x_BCTHW: Tensor) -> Tensor:
        normed: Tensor = self.patch_norm(self.patches(x_BCTHW))
        return normed

    def leave(self, x: Tensor) -> Tensor:
        normed: Tensor = self.norm(x)
        return normed

    def forward_head(self, grid_BTHWC: Tensor, pre_logits: bool = False) -> Tensor:
        features_BC = grid_BTHWC.mean((1, 2, 3))
        return features_BC if pre_logits else self.classifier(self.dropout(features_BC))

    def _init_weights(self) -> None:
        """Initialise as the authors do; patches keep the initial values of a convolution."""
        self.apply(init_linear)
        for name, parameter in self.named_parameters():
            if name.endswith("bias_table"):
                nn.init.trunc_normal_(parameter, std=0.02)
        self.init_classifier(self.classifier)


# --- named variants: Kinetics-400, the authors' figures; torchvision has tested its ports of the first three again ---

AUTHORS = "github.com/SwinTransformer"  # /Video-Swin-Transformer


def published(top1: float, pretrained: str, weights: str) -> Published:
    """Four clips of 32 frames, every second one, by three crops."""
    clip, views = ClipConfig(frames=32, stride=2, pad="loop"), EvalConfig(clips=4, crops=3)
    return Published(top1, clip, views, pretrained, weights, paper="Liu et al. 2022, Video Swin Transformer")


def variant(config: VideoSwinConfig, figure: Published) -> Variant[VideoSwinConfig]:
    """A named variant."""
    return Variant(VideoSwin, config, figure)


VIDEO_SWINS: dict[str, Callable[..., VideoModel]] = {
    "video_swin_tiny": variant(VideoSwinConfig(), published(78.8, "ImageNet-1k", f"torchvision:swin3d_t, {AUTHORS}")),
    "video_swin_small": variant(
        VideoSwinConfig(depths=(2, 2, 18, 2)), published(80.6, "ImageNet-1k", f"torchvision:swin3d_s, {AUTHORS}")
    ),
    "video_swin_base": variant(
        VideoSwinConfig(dim=128, depths=(2, 2, 18, 2), heads=(4, 8, 16, 32), drop_path=0.3),
        published(82.7, "ImageNet-22k", f"torchvision:swin3d_b, {AUTHORS}"),
    ),
    "video_swin_large": variant(
        VideoSwinConfig(dim=192, depths=(2, 2, 18, 2), heads=(6, 12, 24, 48), drop_path=0.3),
        published(83.1, "ImageNet-22k", AUTHORS),
    ),
}
