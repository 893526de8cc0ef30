"""VideoMAE: a plain vision transformer over tubelets, every tubelet of a clip attending to every other.

Tong, Song, Wang, Wang 2022, *VideoMAE: Masked Autoencoders are Data-Efficient Learners for Self-Supervised Video
Pre-Training*. This is the network for fine-tuning; `videomae_pretraining` holds the one for pretraining.

    clip -> tubelets of 2x16x16 -> + sinusoids of their index -> blocks -> mean -> norm -> linear

    B batch   T H W grid   N = T * H * W tokens   C channels   h heads   d channels of a head
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from timm.layers import DropPath
from torch import Tensor, nn

from hybridvideo.config.data import ClipConfig
from hybridvideo.config.evaluation import EvalConfig
from hybridvideo.errors import UserError
from hybridvideo.models.checks import check_heads
from hybridvideo.models.contract import VideoModel
from hybridvideo.models.parts.attention import JointAttention
from hybridvideo.models.parts.linear import Linear, lowered
from hybridvideo.models.parts.mlp import Mlp
from hybridvideo.models.parts.patches import Patch, PatchEmbed
from hybridvideo.models.staged import Stage, StagedModel, rising_rates
from hybridvideo.models.variants import Published, Variant

EPS = 1e-6  # of all norms


@dataclass(frozen=True)
class VideoMAEConfig:
    """A VideoMAE classifier; clips may have any frames and size that are multiples of the patch."""

    frames: int = 16
    height: int = 224
    width: int = 224
    patch: tuple[int, int, int] = (2, 16, 16)
    """Frames, rows and columns of a tubelet."""
    dim: int = 768
    depth: int = 12
    heads: int = 12
    mlp_ratio: float = 4.0
    drop_path: float = 0.1
    """Of the last block; it rises from 0 in the first."""
    dropout: float = 0.0
    """Before the classifier, in training."""

    def __post_init__(self) -> None:
        grid_of((self.frames, self.height, self.width), self.patch)
        check_width(self.dim, self.heads, self.depth)


def grid_of(input: tuple[int, int, int], patch: Patch) -> tuple[int, int, int]:
    """Return the tubelets of an input along time, rows and columns. Raises UserError if it does not divide."""
    if min(*input, *patch) < 1 or any(side % step for side, step in zip(input, patch, strict=True)):
        sizes = "x".join(map(str, input)), "x".join(map(str, patch))
        raise UserError(f"an input of {sizes[0]} does not divide into tubelets of {sizes[1]}; give multiples of them")
    return input[0] // patch[0], input[1] // patch[1], input[2] // patch[2]


def check_width(dim: int, heads: int, depth: int) -> None:
    """Raise UserError for channels, heads or blocks that make no network."""
    check_heads(dim, heads)
    if depth < 1:
        raise UserError(f"depth is {depth}; give 1 or more blocks")


class SinusoidPosition(nn.Module):
    """Sines and cosines of a token's index in the flattened grid, added to the grid; nothing is learned or stored.

    The table is that of the grid that the model is built for, as its authors compute it. For a grid of another size it
    is resized, bicubic in space and then linear in time, since there an index means another place.
    """

    table_THWC: Tensor

    def __init__(self, dim: int, grid: tuple[int, int, int]) -> None:
        super().__init__()
        self.register_buffer("table_THWC", sinusoids(grid, dim), persistent=False)

    def forward(self, x_BTHWC: Tensor) -> Tensor:
        # Under autocast the sum stays half, as the authors' does.
        return x_BTHWC + self.table(x_BTHWC.shape[1:4]).to(x_BTHWC.dtype)

    def table(self, grid: tuple[int, ...]) -> Tensor:
        """(T, H, W, C) of any grid."""
        table = self.table_THWC
        if table.shape[1:3] != tuple(grid[1:]):
            table_TCHW = F.interpolate(table.permute(0, 3, 1, 2), grid[1:], mode="bicubic", align_corners=False)
            table = table_TCHW.permute(0, 2, 3, 1)
        if table.shape[0] != grid[0]:
            table_1KT = table.flatten(1).t()[None]
            longer_TK = F.interpolate(table_1KT, grid[0], mode="linear", align_corners=False)[0].t()
            table = longer_TK.unflatten(1, table.shape[1:])
        return table


def sinusoids(grid: tuple[int, int, int], dim: int) -> Tensor:
    """(T, H, W, C): sine in even and cosine in odd channels of index / 10000^(2 * (channel // 2) / C)."""
    index_N = torch.arange(grid[0] * grid[1] * grid[2], dtype=torch.float64)
    rate_C = 10000.0 ** (-(torch.arange(dim, dtype=torch.float64) // 2) * 2 / dim)
    angle_NC = index_N[:, None] * rate_C
    odd_C = torch.arange(dim) % 2 == 1
    return torch.where(odd_C, angle_NC.cos(), angle_NC.sin()).float().unflatten(0, grid)


class TokenBlock(nn.Module):
    """Pre-norm residual block on a grid or on tokens (B, N, C): attention of every token to every other, MLP.

    The authors' keys have no bias; the fused layer here has one, zero at first. It adds the same number to all scores
    of a query, which softmax takes away again, so whatever training makes of it changes nothing.
    """

    def __init__(self, dim: int, heads: int, mlp_ratio: float, drop_path: float) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(dim, eps=EPS)
        self.attention = JointAttention(dim, heads)
        self.mlp_norm = nn.LayerNorm(dim, eps=EPS)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))
        self.drop_path = DropPath(drop_path)

    def forward(self, x_BNC: Tensor) -> Tensor:
        x = x_BNC + self.drop_path(self.attention(lowered(self.attention_norm(x_BNC))))
        out: Tensor = x + self.drop_path(self.mlp(lowered(self.mlp_norm(x))))
        return out


def token_blocks(dim: int, heads: int, depth: int, mlp_ratio: float, drop_path: float = 0.0) -> nn.ModuleList:
    """Build `depth` blocks with stochastic depth rising from 0 to `drop_path`."""
    (rates,) = rising_rates(drop_path, [depth])
    return nn.ModuleList(TokenBlock(dim, heads, mlp_ratio, rate) for rate in rates)


class VideoMAE(StagedModel):
    """The network of a `VideoMAEConfig`. Positions are not learned."""

    config: VideoMAEConfig
    classifier_name = "classifier"
    group_names = "{stage}"

    def __init__(self, config: VideoMAEConfig, num_classes: int) -> None:
        super().__init__(config, num_classes)
        self.num_features = config.dim
        self.patches = PatchEmbed(config.dim, config.patch)
        self.position = SinusoidPosition(config.dim, grid_of(self.input_shape[1:], config.patch))
        self.blocks = token_blocks(config.dim, config.heads, config.depth, config.mlp_ratio, config.drop_path)
        self.norm = nn.LayerNorm(config.dim, eps=EPS)
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = Linear(config.dim, num_classes)
        self._init_weights()

    def stem_parts(self) -> list[nn.Module]:
        return [self.patches]

    def stage_list(self) -> list[Stage]:
        return [Stage(f"block{i + 1}", [block]) for i, block in enumerate(self.blocks)]

    def head_parts(self) -> list[nn.Module]:
        return [self.norm, self.classifier]

    def forward_stem(self, x_BCTHW: Tensor) -> Tensor:
        grid: Tensor = self.position(self.patches(x_BCTHW))
        return grid

    def forward_head(self, grid_BTHWC: Tensor, pre_logits: bool = False) -> Tensor:
        features_BC: Tensor = self.norm(grid_BTHWC.mean((1, 2, 3)))
        return features_BC if pre_logits else self.classifier(self.dropout(features_BC))

    def _init_weights(self) -> None:
        for layer in self.blocks.modules():
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)
        self.init_classifier(self.classifier)

    def init_classifier(self, layer: nn.Linear) -> None:
        """Initialise at a thousandth of the other layers, so that fine-tuning starts from even predictions."""
        nn.init.trunc_normal_(layer.weight, std=0.02 * 0.001)
        nn.init.zeros_(layer.bias)


# --- named variants: Kinetics-400, pretrained on its videos for 1600 epochs without labels, then fine-tuned ---


def variant(size: str, top1: float, config: VideoMAEConfig) -> Variant[VideoMAEConfig]:
    """Five clips of 16 frames, every fourth one, by three crops."""
    clip, views = ClipConfig(frames=16, stride=4), EvalConfig(clips=5, crops=3)
    weights, paper = f"hf:MCG-NJU/videomae-{size}-finetuned-kinetics", "Tong et al. 2022, VideoMAE"
    return Variant(VideoMAE, config, Published(top1, clip, views, "VideoMAE on Kinetics-400", weights, paper))


VIDEOMAES: dict[str, Callable[..., VideoModel]] = {
    "videomae_small": variant("small", 79.0, VideoMAEConfig(dim=384, heads=6)),
    "videomae_base": variant("base", 81.5, VideoMAEConfig()),
    "videomae_large": variant("large", 85.2, VideoMAEConfig(dim=1024, depth=24, heads=16)),
    "videomae_huge": variant("huge", 86.6, VideoMAEConfig(dim=1280, depth=32, heads=16, drop_path=0.2, dropout=0.5)),
}
