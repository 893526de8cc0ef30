"""The network of any CNN-Transformer hybrid: a per-frame stem, a list of stages, a head.

    clip -> input (frames, differences, correlation) -> stem, frame by frame -> [projection] -> [position]
         -> stages -> head

A hybrid is data, a `HybridConfig`: the named ones are in `families`, and a user writes a new one in YAML.

    B batch   T H W grid   C channels   N = B * T frames
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Any, ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hybridvideo.config.model import HybridConfig, StageConfig, StemConfig
from hybridvideo.errors import UserError
from hybridvideo.models.checks import check_lengths, check_settings, check_size
from hybridvideo.models.parts.attention import GroupedAttention
from hybridvideo.models.parts.blocks import KINDS, check_stage, make_block, without_time
from hybridvideo.models.parts.convolution import PatchMerging
from hybridvideo.models.parts.correlation import MotionStream
from hybridvideo.models.parts.heads import PoolHead
from hybridvideo.models.parts.inputs import ClipInput, check_input, see_correlation, see_differences
from hybridvideo.models.parts.linear import Linear
from hybridvideo.models.parts.multiscale import Ends, Pyramid, check_scales, joined, three_levels
from hybridvideo.models.parts.norms import NORMS
from hybridvideo.models.parts.place import Grid, Place
from hybridvideo.models.parts.positions import AbsolutePosition
from hybridvideo.models.parts.resampling import SpacePool, TimePool, Tokeniser
from hybridvideo.models.parts.stems import open_stem, without_network
from hybridvideo.models.staged import Stage, StagedModel, parameters, rising_rates
from hybridvideo.parsing import changed, plain

# Without gradients, a CPU's stem takes the frames in portions whose activations stay near its caches; the buffers of
# more are mapped again for every layer. MobileNetV2 on 256 frames of 128x192, two cores: 1.35 s, all at once 2.77 s.
PIXELS_AT_ONCE = 2**17


class FrameEncoder(nn.Module):
    """The stem, or the two of a two-stream input, applied to each frame: clips -> grid (B, T, H, W, C).

    With a correlation, a library's stem starts as it is without one: what is added to it starts at zero.
    """

    def __init__(self, config: StemConfig, input: ClipInput, height: int, width: int) -> None:
        super().__init__()
        self.config = config
        first = open_stem(config, height, width)
        mode, of_library = input.config.mode, config.name != "small"
        if mode == "both":
            see_differences(first)
        elif mode == "correlation":
            see_correlation(first, input.volume_channels, start_at_zero=of_library)
        streams = [first, copy.deepcopy(first)] if mode == "two_stream" else [first]
        self.stems = nn.ModuleList(streams)
        self.motion = None
        if mode == "correlation_stream":
            stride = max(1, first.stride // input.config.scale)
            self.motion = MotionStream(input.volume_channels, first.channels, stride, start_at_zero=of_library)
        self.channels, self.stride = first.channels * len(streams), first.stride
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
    """The sum, of the first's size: for frames that do not divide by the stride, stems differ by a position."""
    B, T, H, W, _ = grid_BTHWC.shape
    if motion_BTHWC.shape[2:4] != (H, W):
        motion_NCHW = F.interpolate(motion_BTHWC.flatten(0, 1).permute(0, 3, 1, 2), (H, W), mode="bilinear")
        motion_BTHWC = motion_NCHW.permute(0, 2, 3, 1).unflatten(0, (B, T))
    return grid_BTHWC + motion_BTHWC


def encode(stem: nn.Module, x_BCTHW: Tensor) -> Tensor:
    """Apply a stem with time folded into the batch and channels last in memory, the fastest on CPU and GPU."""
    B, C, T, H, W = x_BCTHW.shape
    x_NCHW = x_BCTHW.permute(0, 2, 3, 4, 1).reshape(B * T, H, W, C).permute(0, 3, 1, 2)
    if torch.is_grad_enabled() or x_NCHW.device.type != "cpu":
        features_NCHW = stem(x_NCHW)
    else:
        portion = max(1, PIXELS_AT_ONCE // (H * W))
        features_NCHW = torch.cat([stem(part) for part in x_NCHW.split(portion)])
    _, C, H, W = features_NCHW.shape
    return features_NCHW.permute(0, 2, 3, 1).reshape(B, T, H, W, C)


class HybridStage(nn.Module):
    """What changes the grid, then `depth` blocks of one kind.

    `dim` and `grid` are those it starts from; afterwards, those it ends with. `earlier`: channels and grid at the end
    of the stem and of each stage before it.
    """

    def __init__(self, earlier: Ends, config: StageConfig, drop_paths: list[float], time: bool) -> None:
        super().__init__()
        *_, (dim, grid) = earlier.values()
        width = config.dim or (2 * dim if config.merge else dim)
        kind = KINDS[config.block]
        self.merge = PatchMerging(dim, width) if config.merge else nn.Identity()
        widened_by_block = kind.changes_width and not config.merge and config.up is None
        widens = width != dim and not config.merge and not widened_by_block
        self.widen = Linear(dim, width) if widens else nn.Identity()
        self.frames = TimePool(config.time_stride, mixing=time) if config.time_stride > 1 else nn.Identity()
        self.pool = SpacePool() if config.pool == "space" else nn.Identity()
        self.tokens = Tokeniser(width, config.tokens) if config.tokens else nn.Identity()
        grid = grid_before_blocks(grid, config)
        self.up = config.up
        if config.up is not None:
            skipped, grid = earlier[config.up]
            self.skip = Linear(skipped, width)
        config = config if time else without_time(config)
        blocks = []
        for i, rate in enumerate(drop_paths):
            into = dim if i == 0 and widened_by_block else width
            place = Place(config, i, into, width, grid, rate, time)
            blocks.append(make_block(place))
            grid = (grid[0], -(-grid[1] // place.stride), -(-grid[2] // place.stride))
        self.blocks = nn.Sequential(*blocks)
        self.dim, self.grid = width, grid

    @property
    def before(self) -> list[nn.Module]:
        """Layers before the blocks."""
        return [self.merge, self.widen, self.frames, self.pool, self.tokens]


def grid_before_blocks(grid: Grid, config: StageConfig) -> Grid:
    """Return the grid of a stage's first block."""
    T, H, W = grid
    if config.merge:
        H, W = -(-H // 2), -(-W // 2)
    T = -(-T // config.time_stride)
    if config.pool == "space":
        H, W = 1, 1
    return (T, 1, config.tokens) if config.tokens else (T, H, W)


class Hybrid(StagedModel):
    """The network of a `HybridConfig`."""

    config: HybridConfig
    classifier_name = "head.classifier"
    undecayed: ClassVar[tuple[str, ...]] = ("bias_table", "bias_hHW", "space_CHW", "time_CT", "_CR")

    def __init__(self, config: HybridConfig, num_classes: int) -> None:
        super().__init__(config, num_classes)
        check(config)
        input = config.input if config.time else replace(config.input, mode="rgb")
        self.input = ClipInput(input)
        self.stem = FrameEncoder(config.stem, self.input, config.height, config.width)
        self.normalisation = self.stem.normalisation
        self.notes = random_stem(config.stem)

        dim: int = config.dim or self.stem.channels
        self.project = Linear(self.stem.channels, dim) if config.dim else nn.Identity()
        grid = self._first_grid_size()
        self.position = make_position(config, dim, grid)
        self.stages = nn.ModuleList()
        rates = rising_rates(config.drop_path, [stage.depth for stage in config.stages])
        ends: Ends = {"stem": (dim, grid)}
        for settings, drop_paths in zip(config.stages, rates, strict=True):
            stage = HybridStage(ends, settings, drop_paths, config.time)
            self.stages.append(stage)
            dim = stage.dim
            ends[f"stage{len(ends)}"] = (dim, stage.grid)
        self.pyramid: Pyramid | None = None
        if config.scales != "last":
            dim = config.scales_dim or dim
            self.pyramid = Pyramid(three_levels(ends), dim, config.scales == "route", config.time)
        normed = config.stages and config.norm != "none"
        self.norm = NORMS[config.norm](dim, eps=config.norm_eps) if normed else nn.Identity()
        self.grid_dim = dim  # of the last grid
        self.head = PoolHead(dim, num_classes, config.head)
        self.num_features = self.head.num_features
        self._init_weights()
        self.train()  # so that a frozen stem starts in evaluation mode

    def stem_parts(self) -> list[nn.Module]:
        return [self.stem]

    def stage_list(self) -> list[Stage]:
        stages: list[Any] = list(self.stages)
        return [Stage(f"stage{i + 1}", stage.blocks, stage.before) for i, stage in enumerate(stages)]

    def head_parts(self) -> list[nn.Module]:
        return [*([self.pyramid] if self.pyramid is not None else []), self.norm, self.head]

    def layer_groups(self) -> list[tuple[str, list[nn.Parameter]]]:
        """A group for each stage, not for each block, and one for what lies between stem and stages."""
        groups = [("stem", parameters([self.stem])), ("embedding", parameters([self.project, self.position]))]
        groups += [(f"stage{i + 1}", parameters([stage])) for i, stage in enumerate(self.stages)]
        return [*groups, ("head", parameters(self.head_parts()))]

    def forward_stem(self, x_BCTHW: Tensor) -> Tensor:
        return self.stem(self.input(x_BCTHW))

    def enter(self, grid_BTHWC: Tensor) -> Tensor:
        return self.position(self.project(grid_BTHWC))

    def pass_on(self, stage: str, x: Tensor, passed: dict[str, Tensor]) -> None:
        for number, later in enumerate(self.stages, 1):
            if later.up == stage:
                passed[f"stage{number}"] = cast(HybridStage, later).skip(x)
        if self.pyramid is not None and stage in self.pyramid.levels:
            passed[f"level {stage}"] = self.pyramid.laterals[stage](x)

    def join(self, stage: str, x: Tensor, passed: dict[str, Tensor]) -> Tensor:
        if stage == "head" and self.pyramid is not None:
            return self.pyramid([passed[f"level {level}"] for level in self.pyramid.levels])
        return joined(x, passed.pop(stage)) if stage in passed else x

    def leave(self, x: Tensor) -> Tensor:
        return self.norm(x)

    def forward_head(self, grid_BTHWC: Tensor, pre_logits: bool = False) -> Tensor:
        return self.head(grid_BTHWC, pre_logits)

    def settings(self) -> dict[str, Any]:
        weightless = replace(self.config.stem, weights=None)
        return plain(replace(self.config, stem=weightless))

    def has_frozen_part(self) -> bool:
        return self.config.stem.frozen

    def forward_frozen(self, x_BCTHW: Tensor) -> Tensor:
        grid_BTHWC = self.first_grid(x_BCTHW)
        return self.head.pool(grid_BTHWC) if self._only_head_is_trained() else grid_BTHWC

    def frozen_settings(self) -> dict[str, Any]:
        pooling = plain([self.config.head.pool, self.config.head.power]) if self._only_head_is_trained() else None
        return {"input": plain(self.input.config), "stem": self.settings()["stem"], "pooling": pooling}

    def forward_rest(self, frozen: Tensor) -> Tensor:
        if self._only_head_is_trained():
            return self.head.classify(frozen)
        return self.forward_head(self.forward_stages(frozen))

    def _only_head_is_trained(self) -> bool:
        config = self.config
        return config.stem.frozen and not config.stages and config.dim is None and config.position == "none"

    def _first_grid_size(self) -> Grid:
        """The stem's grid for the standard input."""
        config, stride = self.config, self.stem.stride
        return (self.input.frames(config.frames), -(-config.height // stride), -(-config.width // stride))

    def _init_weights(self) -> None:
        for part in (self.project, self.stages, self.pyramid, self.head):
            if part is not None:
                initialise(part)
        self.init_classifier(self.head.classifier)


def make_position(config: HybridConfig, dim: int, grid: Grid) -> nn.Module:
    """Build the position that is added to the first grid."""
    if config.position == "none":
        return nn.Identity()
    return AbsolutePosition(dim, *grid, time=config.time)


def initialise(part: nn.Module) -> None:
    """Initialise every layer by its kind, then let modules that start in a way of their own (`start()`) do so."""
    part.apply(init_by_kind)
    for module in part.modules():
        if (start := getattr(module, "start", None)) is not None:
            start()


def init_by_kind(layer: nn.Module) -> None:
    """Kaiming for convolutions, Xavier for linear layers, attention's first counted as three; zero biases."""
    if isinstance(layer, nn.Conv2d | nn.Conv3d):
        nn.init.kaiming_normal_(layer.weight, mode="fan_in", nonlinearity="linear")
    elif isinstance(layer, nn.Linear):
        nn.init.xavier_uniform_(layer.weight)
    elif isinstance(layer, GroupedAttention):
        for matrix in layer.qkv.weight.chunk(3):  # as one, its fan-out would count all three
            nn.init.xavier_uniform_(matrix)
    if isinstance(layer, nn.Conv2d | nn.Conv3d | nn.Linear) and layer.bias is not None:
        nn.init.zeros_(layer.bias)


def random_stem(stem: StemConfig) -> tuple[str, ...]:
    """Return a note for the user if a network that is published with weights starts without them."""
    if "/" not in stem.name or stem.weights is not None:
        return ()
    return (f"stem {stem.name} starts from random weights; give model.changes.stem.weights hub or a FILE",)


def check(config: HybridConfig) -> None:
    """Raise UserError for settings that cannot be built."""
    check_input(config.input, config.stem.frozen)
    geometry = True  # whether positions are still those of frames
    for i, stage in enumerate(config.stages):
        where = f"stages[{i}]"
        check_stage(stage, where)
        geometry = geometry and stage.pool == "none" and not stage.tokens
        check_scales(config, i, geometry)
        if not geometry and (KINDS[stage.block].needs_grid or stage.merge or stage.stride > 1):
            raise UserError(f"{where}: {stage.block} needs the rows and columns of frames, which are pooled before it")
        if stage.depth < 1 or min(stage.window) < 1:
            raise UserError(f"{where}: depth {stage.depth} and window {stage.window} must be 1 or more")
    if config.frames < 1 or min(config.height, config.width) < 1:
        raise UserError(f"input of {config.frames} frames of {config.height}x{config.width}; give 1 or more")


@dataclass(frozen=True)
class HybridVariant:
    """The builder of a named hybrid: `variant(num_classes, **changes)`, changes of HybridConfig's fields."""

    config: HybridConfig
    network: type[Hybrid] = Hybrid

    def __call__(self, num_classes: int, **changes: Any) -> Hybrid:
        check_lengths(changes)
        wanted = changed(self.config, changes)
        check_settings(wanted)
        behind = replace(wanted, stem=without_network(wanted.stem, wanted.height, wanted.width))
        check_size(lambda: self.network(behind, num_classes))
        return self.network(wanted, num_classes)
