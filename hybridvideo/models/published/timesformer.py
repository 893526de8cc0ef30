"""TimeSformer: a vision transformer over the patches of all frames, attending to time and space in turn.

Bertasius, Wang, Torresani 2021, *Is Space-Time Attention All You Need for Video Understanding?*

divided  each patch attends to its own place in all frames, then each frame to itself and the class token;
         the class token is read by every frame and averaged over them
joint    all patches of all frames and the class token attend to each other
space    each frame by itself, with a class token of its own; the class tokens are averaged at the end

All three are one block on groups of places: divided has T groups that share a class token, joint has one group of all
T * H * W places, space has one group and one batch row for every frame.

    B batch   T H W grid   C channels   h heads   d channels of a head
    R rows (B, or B * T for space)   G groups in a row   N places of a group, without the class token
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hybridvideo.config.data import ClipConfig
from hybridvideo.config.evaluation import EvalConfig
from hybridvideo.errors import UserError
from hybridvideo.models.checks import check_heads
from hybridvideo.models.contract import NOTHING, Grids, VideoModel
from hybridvideo.models.parts.attend import attend
from hybridvideo.models.parts.attention import GroupedAttention, temporal_heads
from hybridvideo.models.parts.linear import Composition, Linear, in_parts, init_linear, lowered
from hybridvideo.models.parts.mlp import Mlp
from hybridvideo.models.parts.patches import PatchEmbed
from hybridvideo.models.parts.positions import AbsolutePosition
from hybridvideo.models.parts.shortcuts import may_bypass, shortcuts_allowed
from hybridvideo.models.staged import Stage, StagedModel, rising_rates
from hybridvideo.models.variants import KINETICS, Published, Variant


@dataclass(frozen=True)
class TimeSformerConfig:
    """A TimeSformer; clips may have any number of frames and any size that is a multiple of the patch."""

    frames: int = 8
    height: int = 224
    width: int = 224
    attention: Literal["divided", "joint", "space"] = "divided"
    patch: int = 16
    dim: int = 768
    depth: int = 12
    heads: int = 12
    mlp_ratio: float = 4.0
    drop_path: float = 0.1
    """Of the last block; it rises from 0 in the first."""
    dropout: float = 0.0
    """Before the classifier; the authors use none."""


class DropRows(nn.Module):
    """Stochastic depth: a residual is dropped whole, independently for each index of the given axes."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor, *axes: int) -> Tensor:
        if self.rate == 0 or not self.training:
            return x
        shape = [side if axis in axes else 1 for axis, side in enumerate(x.shape)]
        return x * x.new_empty(shape).bernoulli_(1 - self.rate).div_(1 - self.rate)


class TemporalAttention(nn.Module):
    """Every place attends to itself in all frames: (B, T, N, C) -> what is added to it.

    A second linear layer follows the projection, with nothing but stochastic depth of complete places between them, so
    the two can be one matrix (`linear.Composition`): a product of `dim` rows instead of one row for each patch.
    """

    def __init__(self, dim: int, heads: int, drop_path: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.qkv = Linear(dim, 3 * dim)
        self.proj = Linear(dim, dim)
        self.linear = Linear(dim, dim)
        self.drop = DropRows(drop_path)
        self.composition = Composition()

    def forward(self, x_BTNC: Tensor) -> Tensor:
        q, k, v = temporal_heads(in_parts(self.qkv, lowered(self.norm(x_BTNC)), 3), self.heads)
        out = attend(q, k, v).transpose(1, 2).reshape(x_BTNC.shape)
        rows_pay = torch.compiler.is_compiling() or out.shape[:-1].numel() > out.shape[-1]
        if rows_pay and may_bypass(self.proj, self.linear):
            return self.drop(self.composition(self.proj, self.linear, out), 0, 2) + self.linear.bias
        added: Tensor = self.linear(self.drop(self.proj(out), 0, 2))
        return added


class Attention(GroupedAttention):
    """All tokens of a group to each other; the class token comes first."""

    def forward(self, x_BNC: Tensor) -> Tensor:
        return self.attend(x_BNC)

    def first(self, x_BNC: Tensor) -> Tensor:
        """The same for the first token alone: (B, 1, C)."""
        return self.first_alone(x_BNC) if may_bypass(self.qkv) else self.attend(x_BNC)[:, :1]

    def first_alone(self, x_BNC: Tensor) -> Tensor:
        """For a single query it is less work to bring it to the tokens than to turn all tokens into keys and values.

        q . (K x) = (K' q) . x; the keys' bias shifts all scores alike; sum(a (V x + b)) = V sum(a x) + b.
        """
        C = x_BNC.shape[2]
        of_q, of_k, of_v = self.qkv.weight.chunk(3)
        bias_q, _, bias_v = self.qkv.bias.chunk(3)
        q_hBd = F.linear(x_BNC[:, 0], of_q, bias_q).unflatten(1, (self.heads, -1)).transpose(0, 1)
        q_BhC = (q_hBd @ of_k.unflatten(0, (self.heads, -1))).transpose(0, 1)
        weights_BhN = (q_BhC @ x_BNC.transpose(1, 2) * (C // self.heads) ** -0.5).softmax(-1)
        seen_hBC = (weights_BhN @ x_BNC).transpose(0, 1)
        v_hBd = seen_hBC @ of_v.unflatten(0, (self.heads, -1)).transpose(1, 2)
        out: Tensor = self.proj(v_hBd.transpose(0, 1).flatten(1) + bias_v)
        return out[:, None]


class Block(nn.Module):
    """[Temporal attention of the places,] attention of each group with the row's class token, MLP."""

    def __init__(self, config: TimeSformerConfig, drop_path: float) -> None:
        super().__init__()
        dim = config.dim
        divided = config.attention == "divided"
        self.temporal = TemporalAttention(dim, config.heads, drop_path) if divided else None
        self.attention_norm = nn.LayerNorm(dim, eps=1e-6)
        self.attention = Attention(dim, config.heads)
        self.mlp_norm = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(dim, int(dim * config.mlp_ratio))
        self.drop = DropRows(drop_path)

    def forward(self, x_RGNC: Tensor, class_R11C: Tensor, class_only: bool = False) -> tuple[Tensor, Tensor]:
        """Places and class token after the block; with `class_only` the places are left unfinished."""
        R, G, N, _ = x_RGNC.shape
        x = x_RGNC if self.temporal is None else x_RGNC + self.temporal(x_RGNC)
        seen = [lowered(self.attention_norm(part)) for part in (class_R11C, x)]
        tokens = torch.cat([seen[0].expand(-1, G, -1, -1), seen[1]], 2).flatten(0, 1)
        out = self.attention.first(tokens) if class_only else self.attention(tokens)
        out = self.drop(out.unflatten(0, (R, G)), 0, 1)
        class_out, x_out = out.split((1, out.shape[2] - 1), 2)
        class_R11C = class_R11C + class_out.mean(1, keepdim=True)
        if class_only:
            return x, class_R11C + self.drop(self.mlp(self.mlp_norm(class_R11C)), 0)
        x = x + x_out
        tokens = torch.cat([lowered(self.mlp_norm(part)).flatten(1, 2) for part in (class_R11C, x)], 1)
        class_out, x_out = self.drop(self.mlp(tokens), 0).split((1, G * N), 1)
        return x + x_out.view(R, G, N, -1), class_R11C + class_out[:, None]


class TimeSformer(StagedModel):
    """The network of a `TimeSformerConfig`.

    The head reads the class token: `forward_features` returns it as a grid of one position (B, 1, 1, 1, C). The grids
    of the places come from `forward_intermediates`; the last block, unless its grid is asked for, computes the class
    token alone.
    """

    normalisation = KINETICS
    config: TimeSformerConfig
    classifier_name = "classifier"
    group_names = "{stage}"
    undecayed = ("class_token", "class_position", "space_CHW", "time_CT")

    def __init__(self, config: TimeSformerConfig, num_classes: int) -> None:
        super().__init__(config, num_classes)
        check(config)
        dim, patch = config.dim, config.patch
        self.num_features = dim
        self.embed = PatchEmbed(dim, (1, patch, patch))
        self.class_token = nn.Parameter(torch.empty(dim))
        self.class_position = nn.Parameter(torch.empty(dim))
        rows, columns = config.height // patch, config.width // patch
        self.position = AbsolutePosition(dim, config.frames, rows, columns, time=config.attention != "space")
        (rates,) = rising_rates(config.drop_path, [config.depth])
        self.blocks = nn.ModuleList(Block(config, rate) for rate in rates)
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = Linear(dim, num_classes)
        self._init_weights()

    def stem_parts(self) -> list[nn.Module | nn.Parameter]:
        return [self.embed, self.class_token, self.class_position, self.position]

    def stage_list(self) -> list[Stage]:
        return [Stage(f"block{i + 1}", [block]) for i, block in enumerate(self.blocks)]

    def head_parts(self) -> list[nn.Module]:
        return [self.norm, self.classifier]

    def forward_stem(self, x_BCTHW: Tensor) -> Tensor:
        out: Tensor = self.embed(x_BCTHW)
        return out

    def forward_stages(self, grid_BTHWC: Tensor, keep: Grids = NOTHING) -> Tensor:
        """Return the class token after all blocks: the base's loop, for two tensors and with the shorter last block."""
        keep.put("stem", grid_BTHWC)
        shape = grid_BTHWC.shape
        x = self.in_groups(self.position(grid_BTHWC))
        del grid_BTHWC  # its memory is free as soon as the first block has read it
        class_token = (self.class_token + self.class_position).expand(x.shape[0], 1, 1, -1)
        last = self.stage_names[-1]
        class_only = last not in keep.stages and shortcuts_allowed()
        for name, block in zip(self.stage_names[1:], self.blocks, strict=True):
            x, class_token = self.run_block(block, x, class_token, class_only and name == last)
            keep.put(name, x.reshape(shape))
        out: Tensor = self.norm(class_token.view(shape[0], -1, 1, 1, self.num_features).mean(1, keepdim=True))
        return out

    def in_groups(self, x_BTHWC: Tensor) -> Tensor:
        """(R, G, N, C): the places of a group attend to each other at once."""
        B, T, H, W, C = x_BTHWC.shape
        groups = {"divided": (B, T, H * W, C), "joint": (B, 1, T * H * W, C), "space": (B * T, 1, H * W, C)}
        return x_BTHWC.reshape(groups[self.config.attention])

    def forward_head(self, grid_BTHWC: Tensor, pre_logits: bool = False) -> Tensor:
        features_BC = grid_BTHWC[:, 0, 0, 0]
        return features_BC if pre_logits else self.classifier(self.dropout(features_BC))

    def init_classifier(self, layer: nn.Linear) -> None:
        init_linear(layer)

    def _init_weights(self) -> None:
        """Initialise as the authors do: the temporal attention of all blocks but the first adds nothing at first."""
        for vector in (self.class_token, self.class_position):
            nn.init.trunc_normal_(vector, std=0.02)
        if self.position.time_CT is not None:
            nn.init.zeros_(self.position.time_CT)
        self.apply(init_linear)
        for name, parameter in self.blocks.named_parameters():
            if ".temporal.linear." in name and not name.startswith("0."):
                nn.init.zeros_(parameter)


def check(config: TimeSformerConfig) -> None:
    """Raise UserError for settings that cannot be built."""
    check_heads(config.dim, config.heads)
    if min(config.frames, config.depth, config.patch) < 1:
        raise UserError(f"frames {config.frames}, depth {config.depth} and patch {config.patch} must be 1 or more")
    for side, name in ((config.height, "height"), (config.width, "width")):
        if side < 1 or side % config.patch:
            raise UserError(f"{name} is {side}; give a multiple of the patch, {config.patch}")


# --- named variants -------------------------------------------------------------------------------------------------


def published(
    top1: float, frames: int, stride: int, weights: str = "github.com/facebookresearch/TimeSformer"
) -> Published:
    """A figure of divided attention: logits averaged over one clip and three crops."""
    return Published(
        top1=top1,
        clip=ClipConfig(frames=frames, stride=stride),
        views=EvalConfig(clips=1, crops=3, average="logits"),
        pretrained="ImageNet-21k",
        weights=weights,
        paper="Bertasius et al. 2021, TimeSformer",
        normalisation=KINETICS,
    )


base = TimeSformerConfig()
hr = TimeSformerConfig(frames=16, height=448, width=448)
large = TimeSformerConfig(frames=96)

# Base with attention="joint" is 77.0 and with "space" 76.9, as trained again by others (mmaction2).
TIMESFORMERS: dict[str, Callable[..., VideoModel]] = {
    "timesformer_base": Variant(
        TimeSformer, base, published(77.9, 8, 32, "hf:facebook/timesformer-base-finetuned-k400")
    ),
    "timesformer_hr": Variant(TimeSformer, hr, published(79.6, 16, 16, "hf:facebook/timesformer-hr-finetuned-k400")),
    "timesformer_large": Variant(TimeSformer, large, published(80.6, 96, 4)),
}
