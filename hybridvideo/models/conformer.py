"""Conformer for video: a convolutional and a Transformer branch side by side, coupled both ways in every block.

    clip -> stem, frame by frame -+- bottlenecks of each frame ----------- mean -> logits -+
                                  |     |  ^ in every block                                +-> sum
                                  +- patches -> blocks of attention, any kind -> logits ---+

Peng et al. 2021, *Conformer*, whose blocks see one image. Here the convolutional branch still works within a frame, and
the Transformer branch carries what moves: its blocks are of any kind of the grammar, `divided` or `temporal` among
them, and its tokens may span several frames. In training each head has a cross-entropy of its own; in testing their
logits are summed.

    B batch   T H W grid   C channels
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor, nn

from hybridvideo.config.model import HybridConfig, InputConfig, StageConfig, StemConfig
from hybridvideo.errors import UserError
from hybridvideo.models.contract import Outputs
from hybridvideo.models.hybrid import Hybrid
from hybridvideo.models.initialisation import initialise
from hybridvideo.models.parts.class_token import ClassToken, without_tokens
from hybridvideo.models.parts.coupling import CoupledBlock, resized
from hybridvideo.models.parts.kinds import KINDS, check_stage, make_block, without_time
from hybridvideo.models.parts.patches import PatchEmbed
from hybridvideo.models.parts.place import Grid, Place
from hybridvideo.models.parts.positions import AbsolutePosition
from hybridvideo.models.parts.stems import without_network
from hybridvideo.models.parts.two_heads import TwoHeads
from hybridvideo.models.staged import Stage, StagedModel, rising_rates
from hybridvideo.parsing import plain

OF_STAGES = ("depth", "dim", "merge", "stride", "time_stride", "pool", "tokens")  # settings of StageConfig


@dataclass(frozen=True)
class ConformerConfig:
    """A stem, two branches, two heads."""

    frames: int = 16
    """Frames of the standard input."""
    height: int = 224
    """Frame height of the standard input."""
    width: int = 224
    """Frame width."""
    input: InputConfig = field(default_factory=InputConfig)
    """What the stem sees of a clip."""
    stem: StemConfig = field(default_factory=lambda: StemConfig(widths=(32, 64)))
    """Of both branches."""
    widths: tuple[int, ...] = (256, 512, 1024)
    """Channels of the convolutional branch, by stage; every stage but the first halves rows and columns."""
    depths: tuple[int, ...] = (4, 4, 4)
    """Coupled blocks of each stage."""
    dim: int = 384
    """Channels of the tokens."""
    patch: tuple[int, int, int] = (1, 4, 4)
    """Frames, rows and columns of the stem's grid for one token."""
    transformer: StageConfig = field(default_factory=lambda: StageConfig("divided", heads=6))
    """Blocks of the Transformer branch: the settings of a hybrid's stage."""
    class_token: bool = True
    """Whether the Transformer's head reads a class token of each frame, or the mean of all tokens."""
    drop_path: float = 0.0
    """Stochastic depth of the last block, growing linearly from 0."""
    dropout: float = 0.0
    """Before the classifiers."""
    time: bool = True
    """False removes every path between frames: the control that cannot see motion."""


class Conformer(StagedModel):
    """The network of a `ConformerConfig`.

    In training a call returns `Outputs` with `logits_conv` and `logits_attention`, which are supervised in place of
    their sum. `forward_features` and `forward_intermediates` return one grid of both branches: the channels of the
    convolution, then those of the tokens, on the tokens' grid. With class tokens `forward_features` has one position a
    frame.
    """

    config: ConformerConfig
    classifier_name = "head.classifier"
    undecayed = ("bias_table", "space_CHW", "time_CT")

    def __init__(self, config: ConformerConfig, num_classes: int) -> None:
        super().__init__(config, num_classes)
        check(config)
        front = front_of(config)
        self.input, self.stem = front.input, front.stem
        self.normalisation, self.notes = front.normalisation, front.notes
        patch = config.patch if config.time else (1, *config.patch[1:])
        self.embed = PatchEmbed(config.dim, patch, front.stem.channels, pad=True)
        T, H, W = (-(-side // step) for side, step in zip(front._first_grid_size(), patch, strict=True))
        self.position = AbsolutePosition(config.dim, T, H, W, time=config.time)
        self.class_token = ClassToken(config.dim) if config.class_token else nn.Identity()
        grid = (T, 1, 1 + H * W) if config.class_token else (T, H, W)
        self.stages = make_stages(config, front.stem.channels, grid)
        self.norm = nn.LayerNorm(config.dim)
        self.head = TwoHeads(config.widths[-1], config.dim, num_classes, config.dropout)
        self.num_features = config.widths[-1] + config.dim
        self._init_weights()
        self.train()  # so that a frozen stem starts in evaluation mode

    def stem_parts(self) -> list[nn.Module]:
        return [self.stem, self.embed, self.position, self.class_token]

    def stage_list(self) -> list[Stage]:
        stages: list[Any] = list(self.stages)
        return [Stage(f"stage{i + 1}", stage) for i, stage in enumerate(stages)]

    def head_parts(self) -> list[nn.Module]:
        return [self.norm, self.head]

    def forward(self, x_BCTHW: Tensor) -> Tensor | Outputs:
        return self.with_costs(lambda: self.outputs(self.forward_features(x_BCTHW)))

    def outputs(self, grid_BTHWC: Tensor) -> Tensor | Outputs:
        """Return the summed logits, in training with those of each head."""
        logits = self.branch_logits(grid_BTHWC)
        total_BK = torch.stack(list(logits.values())).sum(0)
        if not self.training:
            return total_BK
        return Outputs(total_BK, {f"logits_{name}": part for name, part in logits.items()}, supervised=False)

    def branch_logits(self, grid_BTHWC: Tensor) -> dict[str, Tensor]:
        """Return the logits (B, K) of each head alone, `conv` and `attention`, from `forward_features`."""
        logits: dict[str, Tensor] = self.head(self.forward_head(grid_BTHWC, pre_logits=True))
        return logits

    def forward_stem(self, x_BCTHW: Tensor) -> Tensor:
        return self.stem(self.input(x_BCTHW))

    def enter(self, grid_BTHWC: Tensor) -> tuple[Tensor, Tensor, Grid]:
        tokens = self.position(self.embed(grid_BTHWC.permute(0, 4, 1, 2, 3)))
        _, T, H, W, _ = tokens.shape
        return grid_BTHWC, self.class_token(tokens), (T, H, W)

    def run(self, block: nn.Module, x: Any) -> Any:
        return (*self.run_block(block, *x), x[2])

    def grid_of(self, x: Any) -> Tensor:
        conv, tokens, size = x
        return joined(conv, without_tokens(tokens, size[1:]) if self.config.class_token else tokens)

    def leave(self, x: Any) -> Tensor:
        conv, tokens, _ = x
        return joined(conv, self.norm(tokens[:, :, :, :1] if self.config.class_token else tokens))

    def forward_head(self, grid_BTHWC: Tensor, pre_logits: bool = False) -> Tensor:
        features_BC = grid_BTHWC.mean((1, 2, 3))
        return features_BC if pre_logits else torch.stack(list(self.head(features_BC).values())).sum(0)

    def settings(self) -> dict[str, Any]:
        return plain(replace(self.config, stem=replace(self.config.stem, weights=None)))

    def has_frozen_part(self) -> bool:
        return self.config.stem.frozen

    def forward_frozen(self, x_BCTHW: Tensor) -> Tensor:
        return self.first_grid(x_BCTHW)

    def frozen_settings(self) -> dict[str, Any]:
        return {"input": plain(self.input.config), "stem": self.settings()["stem"]}

    def forward_rest(self, frozen: Tensor) -> Tensor | Outputs:
        return self.with_costs(lambda: self.outputs(self.forward_stages(frozen)))

    def _init_weights(self) -> None:
        for part in (self.stages, self.head):
            initialise(part)
        self.init_classifier(self.head.classifier)


def front_of(config: ConformerConfig) -> Hybrid:
    """Return a hybrid without stages, for its input and its stem."""
    front = HybridConfig(
        config.frames, config.height, config.width, input=config.input, stem=config.stem, time=config.time
    )
    return Hybrid(front, 1)


def make_stages(config: ConformerConfig, channels: int, grid: Grid) -> nn.ModuleList:
    """Build the coupled blocks. `channels`: of the stem; `grid`: of the tokens, class tokens included."""
    settings = config.transformer if config.time else without_time(config.transformer)
    stages = nn.ModuleList()
    for i, (width, rates) in enumerate(zip(config.widths, rising_rates(config.drop_path, config.depths), strict=True)):
        blocks = nn.ModuleList()
        for j, rate in enumerate(rates):
            attention = make_block(Place(settings, j, config.dim, config.dim, grid, rate, config.time))
            stride = 2 if i and not j else 1
            blocks.append(
                CoupledBlock(
                    attention,
                    channels,
                    width,
                    config.dim,
                    stride=stride,
                    class_token=config.class_token,
                    drop_path=rate,
                )
            )
            channels = width
        stages.append(blocks)
    return stages


def joined(conv_BTHWC: Tensor, tokens_BTHWC: Tensor) -> Tensor:
    """Return both branches on the tokens' grid."""
    _, T, H, W, _ = tokens_BTHWC.shape
    return torch.cat([resized(conv_BTHWC, (T, H, W)), tokens_BTHWC], -1)


def check(config: ConformerConfig) -> None:
    """Raise UserError for settings that cannot be built."""
    if len(config.widths) != len(config.depths):
        raise UserError(f"{len(config.widths)} widths and {len(config.depths)} depths; give one of each per stage")
    check_stage(config.transformer, "transformer")
    for name in OF_STAGES:
        if getattr(config.transformer, name) != getattr(StageConfig(), name):
            own = ", ".join(field.name for field in fields(config))
            raise UserError(f"transformer.{name} has no meaning here: all its blocks are alike; the model has {own}")
    needs_grid = KINDS[config.transformer.block].needs_grid or config.transformer.position == "conv"
    if config.class_token and needs_grid:
        raise UserError(
            f"transformer: {config.transformer.block} blocks with position {config.transformer.position} need rows and "
            "columns, which class tokens do not have; set class_token false"
        )


def with_small_stem(config: ConformerConfig) -> ConformerConfig:
    """Return the same without a library's network, to measure the size of what follows it."""
    return replace(config, stem=without_network(config.stem, config.height, config.width))
