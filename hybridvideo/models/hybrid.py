"""The network of any CNN-Transformer hybrid: a per-frame stem, a list of stages, a head.

    clip -> input (frames, differences, correlation) -> stem, frame by frame -> [projection] -> [position]
         -> [registers, class token] -> [norm] -> stages -> head

A hybrid is data, a `HybridConfig`: the named ones are in `families`, and a user writes a new one in YAML.

    B batch   T H W grid   C channels   N = B * T frames
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self, cast

from torch import Tensor, nn

from hybridvideo.config.model import HybridConfig, StemConfig
from hybridvideo.errors import UserError
from hybridvideo.models.adapters import freeze_but_adapters, insert_adapters, merge_linear_adapters, rest_frozen_norms
from hybridvideo.models.checks import check_lengths, check_settings, check_size
from hybridvideo.models.contract import Outputs
from hybridvideo.models.initialisation import INITIALISERS, initialise
from hybridvideo.models.parts.class_token import ClassToken, Registers, without_tokens
from hybridvideo.models.parts.frame_encoder import FrameEncoder
from hybridvideo.models.parts.geometry import Positions, check_positions, moves_tokens
from hybridvideo.models.parts.heads import PoolHead
from hybridvideo.models.parts.inputs import ClipInput, check_input
from hybridvideo.models.parts.kinds import check_stage
from hybridvideo.models.parts.linear import Linear
from hybridvideo.models.parts.multiscale import Ends, Pyramid, check_scales, joined, three_levels
from hybridvideo.models.parts.norms import NORMS
from hybridvideo.models.parts.place import Grid
from hybridvideo.models.parts.positions import AbsolutePosition, SinusoidalPosition
from hybridvideo.models.parts.stage import HybridStage
from hybridvideo.models.parts.stems import without_network
from hybridvideo.models.precision import set_precisions
from hybridvideo.models.staged import Stage, StagedModel, parameters, rising_rates
from hybridvideo.parsing import changed, plain


class Hybrid(StagedModel):
    """The network of a `HybridConfig`."""

    config: HybridConfig
    classifier_name = "head.classifier"
    undecayed: ClassVar[tuple[str, ...]] = ("bias_table", "bias_hHW", "space_CHW", "time_CT", "_CR", "registers_RC")

    def __init__(self, config: HybridConfig, num_classes: int) -> None:
        super().__init__(config, num_classes)
        check(config)
        input = config.input if config.time else replace(config.input, mode="rgb")
        self.input = ClipInput(input)
        self.stem = FrameEncoder(config.stem, self.input, config.height, config.width, config.time)
        self.normalisation = self.stem.normalisation
        self.notes = random_stem(config.stem)

        dim: int = config.dim or self.stem.channels
        self.project = Linear(self.stem.channels, dim) if config.dim else nn.Identity()
        grid = self._first_grid_size()
        self.position = make_position(config, dim, grid)
        self.registers = Registers(dim, config.registers) if config.registers else nn.Identity()
        self.class_token = ClassToken(dim) if config.class_token else nn.Identity()
        if count := tokens_of(config):
            grid = (grid[0], 1, count + grid[1] * grid[2])
        self.first_norm = norm_of(config.first_norm, dim, config.norm_eps)
        ends = self._make_stages({"stem": (dim, grid)})
        self.pyramid = make_pyramid(config, ends)
        dim = self.pyramid.dim if self.pyramid is not None else next(reversed(ends.values()))[0]
        self.norm = norm_of(config.norm if config.stages else "none", dim, config.norm_eps)
        self.grid_dim = dim  # of the last grid
        self.head = PoolHead(dim, num_classes, config.head)
        self.num_features = self.head.num_features
        self.inflation = config.inflation
        if config.adapter.kind != "none":
            insert_adapters(self.stages, config.adapter, config.time)
        self._init_weights()
        if config.precision == "parts":
            set_precisions(self)
        if config.adapter.kind != "none":
            freeze_but_adapters(self, "head.")
        self.train()  # so that a frozen stem starts in evaluation mode

    def _make_stages(self, ends: Ends) -> Ends:
        """Build the stages behind the stem; return channels and grid at its end and at theirs."""
        config = self.config
        self.stages = nn.ModuleList()
        rates = rising_rates(config.drop_path, [stage.depth for stage in config.stages])
        for i, (settings, drop_paths) in enumerate(zip(config.stages, rates, strict=True)):
            stage = HybridStage(ends, settings, drop_paths, config.time)
            self.stages.append(stage)
            if settings.block == "auto":
                self.notes += (f"stages[{i}]: auto is {stage.kind}",)
            ends = {**ends, f"stage{i + 1}": (stage.dim, stage.grid)}
        return ends

    def stem_parts(self) -> list[nn.Module]:
        return [self.stem]

    def stage_list(self) -> list[Stage]:
        stages: list[Any] = list(self.stages)
        return [Stage(f"stage{i + 1}", stage.blocks, stage.before) for i, stage in enumerate(stages)]

    def head_parts(self) -> list[nn.Module]:
        return [*([self.pyramid] if self.pyramid is not None else []), self.norm, self.head]

    def layer_groups(self) -> list[tuple[str, list[nn.Parameter]]]:
        """A group for each stage, not for each block, and one for what lies between stem and stages."""
        between = [self.project, self.position, self.registers, self.class_token, self.first_norm]
        groups = [("stem", parameters([self.stem])), ("embedding", parameters(between))]
        groups += [(f"stage{i + 1}", parameters([stage])) for i, stage in enumerate(self.stages)]
        return [*groups, ("head", parameters(self.head_parts()))]

    def forward(self, x_BCTHW: Tensor) -> Tensor | Outputs:
        """Return logits (B, K); in training, if blocks choose their path, with the cost of the choices."""
        forward = super().forward
        return self.with_costs(lambda: forward(x_BCTHW))

    def forward_stem(self, x_BCTHW: Tensor) -> Tensor:
        return self.stem(self.input(x_BCTHW))

    def enter(self, grid_BTHWC: Tensor) -> Tensor:
        placed_BTHWC = self.position(self.project(grid_BTHWC))
        return self.first_norm(self.class_token(self.registers(placed_BTHWC)))

    def forward_intermediates(self, x_BCTHW: Tensor, stages: Sequence[str]) -> list[Tensor]:
        """Return the grids after the named stages, without tokens."""
        if not tokens_of(self.config):
            return super().forward_intermediates(x_BCTHW, stages)
        stem, *grids = super().forward_intermediates(x_BCTHW, ["stem", *stages])
        sides = stem.shape[2:4]
        pairs = zip(stages, grids, strict=True)
        return [grid if name == "stem" else without_tokens(grid, sides) for name, grid in pairs]

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
        first, last = (0, 1) if self.config.class_token else (self.config.registers, None)
        return self.norm(x[..., first:last, :])

    def with_sides(self, grid_BTHWC: Tensor, sides: Sequence[int]) -> Tensor:
        alone = self.config.registers and not self.config.class_token
        return without_tokens(grid_BTHWC, sides) if alone else grid_BTHWC

    def forward_head(self, grid_BTHWC: Tensor, pre_logits: bool = False) -> Tensor:
        return self.head(grid_BTHWC, pre_logits)

    def settings(self) -> dict[str, Any]:
        weightless = replace(self.config.stem, weights=None)
        return plain(replace(self.config, stem=weightless))

    def train(self, mode: bool = True) -> Self:
        """Set the mode, except for BatchNorm that an adapted model keeps frozen."""
        super().train(mode)
        if self.config.adapter.kind != "none":
            rest_frozen_norms(self)
        return self

    def merge(self) -> None:
        """Fold the linear adapters of ZeroI2V into the weights: the same logits at the image network's cost.

        Raises UserError if there are none: other adapters are not linear.
        """
        if self.config.adapter.kind != "zeroi2v" or self.config.adapter.merged:
            raise UserError("there are no linear adapters to merge; build the model with adapter.kind zeroi2v")
        merge_linear_adapters(self.stages)
        self.config = replace(self.config, adapter=replace(self.config.adapter, merged=True))

    def has_frozen_part(self) -> bool:
        return self.config.stem.frozen or self.config.adapter.kind != "none"

    def forward_frozen(self, x_BCTHW: Tensor) -> Tensor:
        grid_BTHWC = self.first_grid(x_BCTHW)
        return self.head.pool(grid_BTHWC) if self._only_head_is_trained() else grid_BTHWC

    def frozen_settings(self) -> dict[str, Any]:
        pooling = plain([self.config.head.pool, self.config.head.power]) if self._only_head_is_trained() else None
        return {"input": plain(self.input.config), "stem": self.settings()["stem"], "pooling": pooling}

    def forward_rest(self, frozen: Tensor) -> Tensor | Outputs:
        if self._only_head_is_trained():
            return self.head.classify(frozen)
        return self.with_costs(lambda: self.forward_head(self.forward_stages(frozen)))

    def _only_head_is_trained(self) -> bool:
        config = self.config
        between = config.dim or config.position != "none" or tokens_of(config) or config.first_norm != "none"
        return config.stem.frozen and not config.stages and not between

    def _first_grid_size(self) -> Grid:
        """The stem's grid for the standard input."""
        sides = (self.input.frames(self.config.frames), self.config.height, self.config.width)
        T, H, W = (-(-side // stride) for side, stride in zip(sides, self.stem.strides, strict=True))
        return (T, H, W)

    def _init_weights(self) -> None:
        for part in (self.project, self.stages, self.pyramid, self.head):
            if part is not None:
                initialise(part, INITIALISERS[self.config.init])
        self.init_classifier(self.head.classifier)


def tokens_of(config: HybridConfig) -> int:
    """Return how many tokens each frame has apart from its positions."""
    return config.registers + config.class_token


def norm_of(kind: str, dim: int, eps: float) -> nn.Module:
    """Build a norm of the grid, or none."""
    return nn.Identity() if kind == "none" else NORMS[kind](dim, eps=eps)


def make_position(config: HybridConfig, dim: int, grid: Grid) -> nn.Module:
    """Build the position that is added to the first grid."""
    if config.position == "none":
        return nn.Identity()
    if config.position == "sinusoidal":
        return SinusoidalPosition(dim, config.time)
    return AbsolutePosition(dim, *grid, time=config.time)


def make_pyramid(config: HybridConfig, ends: Ends) -> Pyramid | None:
    """Build what joins the last three resolutions, if the head reads them."""
    if config.scales == "last":
        return None
    *_, (dim, _) = ends.values()
    return Pyramid(three_levels(ends), config.scales_dim or dim, config.scales == "route", config.time)


def random_stem(stem: StemConfig) -> tuple[str, ...]:
    """Return a note for the user if a network that is published with weights starts without them."""
    if "/" not in stem.name or stem.weights is not None:
        return ()
    return (f"stem {stem.name} starts from random weights; give model.changes.stem.weights hub or a FILE",)


def check(config: HybridConfig) -> None:
    """Raise UserError for settings that cannot be built."""
    check_input(config.input, config.stem.frozen or config.adapter.kind != "none")
    check_adapter(config)
    positions: Positions = "of frames"
    for i, stage in enumerate(config.stages):
        where = f"stages[{i}]"
        check_stage(stage, where)
        if tokens_of(config) and (reason := moves_tokens(stage)):
            lacking = "class tokens" if config.class_token else "registers"
            change = "class_token false" if config.class_token else "registers to 0"
            raise UserError(f"{where}: {reason}, which {lacking} do not have; set {change}")
        positions = check_positions(stage, positions, where)
        check_scales(config, i, positions == "of frames" and not tokens_of(config))
        if stage.depth < 1 or min(stage.window) < 1:
            raise UserError(f"{where}: depth {stage.depth} and window {stage.window} must be 1 or more")
    if config.frames < 1 or min(config.height, config.width) < 1:
        raise UserError(f"input of {config.frames} frames of {config.height}x{config.width}; give 1 or more")


def check_adapter(config: HybridConfig) -> None:
    """Raise UserError for an adapter's settings that cannot be built."""
    adapter = config.adapter
    if not all(side % 2 for side in adapter.kernel):
        raise UserError(f"adapter.kernel is {adapter.kernel}; give three odd numbers: frames, rows, columns")
    if tokens_of(config) and adapter.kind == "st" and adapter.kernel[1:] != (1, 1):
        what = "class tokens" if config.class_token else "registers"
        raise UserError(f"adapter.kernel is {adapter.kernel}; with {what} it has one row and column")
    if adapter.merged and adapter.kind != "zeroi2v":
        raise UserError(f"adapter.merged has no meaning for {adapter.kind}; only zeroi2v merges")


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
