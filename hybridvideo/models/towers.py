"""Two whole branches, one of convolutions and one of attention, fused once at the end.

    clip -+- conv: a hybrid, stem to last grid ------+
          |                                          +- one grid -> fusion -> mean -> logits
          +- attention: a hybrid, stem to last grid -+

Each tower is a hybrid of the grammar without a head, so each takes pretrained weights of its own: `weights:
{conv: SOURCE, attention: SOURCE}`. Either alone classifies, through the same classifier; in training each is supervised
too, so that neither leaves the work to the other.

    B batch   T H W grid   C channels
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor, nn

from hybridvideo.config.data import Normalisation
from hybridvideo.config.model import HeadConfig, HybridConfig
from hybridvideo.errors import UserError
from hybridvideo.models.contract import NOTHING, Grids, Outputs, VideoModel
from hybridvideo.models.hybrid import Hybrid, tokens_of
from hybridvideo.models.initialisation import initialise
from hybridvideo.models.parts.class_token import without_tokens
from hybridvideo.models.parts.linear import Linear
from hybridvideo.models.parts.place import Grid
from hybridvideo.models.parts.stems import without_network
from hybridvideo.models.parts.towers import Align, Fusion, FusionConfig
from hybridvideo.models.readings import BranchMap
from hybridvideo.models.staged import parameters
from hybridvideo.parsing import plain

TOWERS = ("conv", "attention")
SHARED = ("frames", "height", "width")


@dataclass(frozen=True)
class TowersConfig:
    """Two hybrids and their fusion.

    Of the two hybrids, `frames`, `height`, `width` and `time` follow the towers', and `head` is not built.
    """

    frames: int = 16
    """Frames of the standard input."""
    height: int = 224
    """Frame height of the standard input."""
    width: int = 224
    """Frame width."""
    conv: HybridConfig = field(default_factory=HybridConfig)
    """The convolutional tower."""
    attention: HybridConfig = field(default_factory=HybridConfig)
    """The Transformer."""
    fusion: FusionConfig = field(default_factory=FusionConfig)
    """How their last grids become one."""
    supervise: bool = True
    """In training, each tower alone has a cross-entropy of its own, in addition to that of the fused logits."""
    dropout: float = 0.0
    """Before the classifier."""
    time: bool = True
    """False removes every path between frames: the control that cannot see motion."""


class Towers(VideoModel):
    """The network of a `TowersConfig`.

    Stages are named by tower: `conv.stem`, `attention.stage1`. The first, `stem`, is the clip itself, which both read.
    """

    config: TowersConfig
    classifier_name = "classifier"

    def __init__(self, config: TowersConfig, num_classes: int) -> None:
        super().__init__()
        check(config)
        self.config, self.num_classes = config, num_classes
        self.input_shape = (3, config.frames, config.height, config.width)
        self.conv, self.attention = tower(config, config.conv), tower(config, config.attention)
        self.normalisation = self.conv.normalisation
        self.notes = tuple(note_of(name, note) for name, each in self.towers for note in each.notes)
        (conv_dim, conv_grid), (dim, grid) = last_grid(self.conv), last_grid(self.attention)
        self.norm = nn.ModuleDict({"conv": last_norm(self.conv, conv_dim), "attention": last_norm(self.attention, dim)})
        self.map = nn.ModuleDict({name: BranchMap() for name in TOWERS})
        self.conv_is_finer = conv_grid[1] * conv_grid[2] > grid[1] * grid[2]
        coarse, fine, width = (grid, conv_grid, dim) if self.conv_is_finer else (conv_grid, grid, conv_dim)
        self.align = Align(width, factor(coarse, fine), config.fusion.align)
        self.fusion = Fusion(conv_dim, dim, config.fusion)
        self.dropout = nn.Dropout(config.dropout)
        self.num_features = self.fusion.dim
        self.classifier = Linear(self.num_features, num_classes)
        for part in (self.align, self.fusion):
            initialise(part)
        self.init_classifier(self.classifier)
        self.train()  # so that a frozen stem starts in evaluation mode

    @property
    def towers(self) -> list[tuple[str, Hybrid]]:
        """The two by name."""
        return [("conv", self.conv), ("attention", self.attention)]

    @property
    def stage_names(self) -> list[str]:
        return ["stem", *(f"{name}.{stage}" for name, each in self.towers for stage in each.stage_names)]

    def forward(self, x_BCTHW: Tensor) -> Tensor | Outputs:
        return self.with_costs(lambda: self.outputs(*self.grids(self.first_grid(x_BCTHW))))

    def outputs(self, conv: Tensor, attention: Tensor) -> Tensor | Outputs:
        """Return the fused logits, in training with those of either tower, from the last grids of both."""
        logits_BK = self.forward_head(self.fuse(conv, attention))
        if not (self.training and self.config.supervise):
            return logits_BK
        alone = self.alone(conv, attention)
        return Outputs(logits_BK, {f"logits_{name}": logits for name, logits in alone.items()})

    def branch_logits(self, x_BCTHW: Tensor) -> dict[str, Tensor]:
        """Return the logits (B, K) of either tower alone, `conv` and `attention`."""
        return self.alone(*self.grids(self.first_grid(x_BCTHW)))

    def alone(self, conv_BTHWC: Tensor, attention_BTHWC: Tensor) -> dict[str, Tensor]:
        """Return the logits of either tower from its last grid: means come before the fusion, which is the same."""
        pooled = (each.mean((1, 2, 3)) for each in (conv_BTHWC, attention_BTHWC))
        features = self.fusion.alone(*pooled)
        return {name: self.classifier(self.dropout(part)) for name, part in features.items()}

    def forward_stem(self, x_BCTHW: Tensor) -> Tensor:
        return x_BCTHW.permute(0, 2, 3, 4, 1)

    def forward_stages(self, grid_BTHWC: Tensor, keep: Grids = NOTHING) -> Tensor:
        return self.fuse(*self.grids(grid_BTHWC, keep))

    def grids(self, clip_BTHWC: Tensor, keep: Grids = NOTHING) -> tuple[Tensor, Tensor]:
        """Return the last grids of both towers, each of its own size."""
        keep.put("stem", clip_BTHWC)
        conv, attention = (self.climb(name, each, clip_BTHWC, keep) for name, each in self.towers)
        return conv, attention

    def climb(self, name: str, each: Hybrid, clip_BTHWC: Tensor, keep: Grids) -> Tensor:
        """One tower."""
        x_BCTHW = renormalised(clip_BTHWC, self.normalisation, each.normalisation).permute(0, 4, 1, 2, 3)
        wanted = [stage.removeprefix(f"{name}.") for stage in keep.stages if stage.startswith(f"{name}.")]
        own = Grids([*wanted, "stem"] if wanted else ())
        out = each.forward_stages(each.run_block(each.forward_stem, x_BCTHW), own)
        for stage, grid_BTHWC in own.grids.items():
            if tokens_of(each.config) and stage != "stem":
                grid_BTHWC = without_tokens(grid_BTHWC, own.grids["stem"].shape[2:4])
            keep.put(f"{name}.{stage}", grid_BTHWC)
        last: Tensor = self.map[name](self.norm[name](out))
        return last

    def fuse(self, conv_BTHWC: Tensor, attention_BTHWC: Tensor) -> Tensor:
        """Return one grid (B, T, H, W, C) of the finer one's size."""
        if self.conv_is_finer:
            attention_BTHWC = self.align(attention_BTHWC, size_of(conv_BTHWC))
        else:
            conv_BTHWC = self.align(conv_BTHWC, size_of(attention_BTHWC))
        out: Tensor = self.fusion(conv_BTHWC, attention_BTHWC)
        return out

    def forward_head(self, grid_BTHWC: Tensor, pre_logits: bool = False) -> Tensor:
        features_BC = grid_BTHWC.mean((1, 2, 3))
        return features_BC if pre_logits else self.classifier(self.dropout(features_BC))

    def no_weight_decay(self) -> set[str]:
        return {f"{name}.{parameter}" for name, each in self.towers for parameter in each.no_weight_decay()}

    def layer_groups(self) -> list[tuple[str, list[nn.Parameter]]]:
        """Groups of both towers, from input to output by their share of the tower's depth; then the fusion."""
        groups = []
        for name, each in self.towers:
            own = each.layer_groups()
            groups += [(i / len(own), f"{name}.{group}", held) for i, (group, held) in enumerate(own) if held]
        ordered = [(name, held) for _, name, held in sorted(groups, key=lambda group: group[0])]
        return [*ordered, ("head", parameters([self.norm, self.align, self.fusion, self.classifier]))]

    def settings(self) -> dict[str, Any]:
        towers = replace(self.config, conv=weightless(self.conv), attention=weightless(self.attention))
        settings: dict[str, Any] = plain(towers)
        return settings

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        super().set_grad_checkpointing(enable)
        for _, each in self.towers:
            each.set_grad_checkpointing(enable)


def tower(config: TowersConfig, own: HybridConfig) -> Hybrid:
    """Build a hybrid for the towers' input, without its head."""
    shared = {name: getattr(config, name) for name in SHARED}
    built = Hybrid(replace(own, **shared, time=config.time), 1)
    built.head = nn.Identity()  # type: ignore[assignment]
    return built


def note_of(name: str, note: str) -> str:
    """Return a tower's note with the place of its settings."""
    return f"{name}: {note.replace('model.changes.', f'model.changes.{name}.')}"


def last_grid(built: Hybrid) -> tuple[int, Grid]:
    """Return channels and size of a hybrid's last grid, for its standard input."""
    stages: list[Any] = list(built.stages)
    first = built._first_grid_size()
    T, H, W = stages[-1].grid if stages else first
    if built.config.class_token:
        return built.grid_dim, (T, 1, 1)
    return built.grid_dim, (T, *first[1:]) if built.config.registers else (T, H, W)


def last_norm(built: Hybrid, dim: int) -> nn.Module:
    """Return a norm for a tower that has none at its end, such as a stem alone."""
    return nn.LayerNorm(dim) if isinstance(built.norm, nn.Identity) else nn.Identity()


def size_of(x_BTHWC: Tensor) -> Grid:
    """Return frames, rows and columns."""
    _, T, H, W, _ = x_BTHWC.shape
    return (T, H, W)


def factor(coarse: Grid, fine: Grid) -> tuple[int, int]:
    """Return how many rows and columns of the finer grid there are for each of the coarser."""
    return (max(1, round(fine[1] / coarse[1])), max(1, round(fine[2] / coarse[2])))


def renormalised(clip_BTHWC: Tensor, given: Normalisation, wanted: Normalisation) -> Tensor:
    """Return a clip as another normalisation would have made it."""
    if given == wanted:
        return clip_BTHWC
    mean, std, own_mean, own_std = (
        clip_BTHWC.new_tensor(each) for each in (given.mean, given.std, wanted.mean, wanted.std)
    )
    return clip_BTHWC * (std / own_std) + (mean - own_mean) / own_std


def weightless(each: Hybrid) -> HybridConfig:
    """Return a tower's settings without sources of weights, and with the normalisation that its weights came with."""
    own = each.normalisation
    return replace(each.config, stem=replace(each.config.stem, weights=None, mean=own.mean, std=own.std))


def check(config: TowersConfig) -> None:
    """Raise UserError for settings of a tower that it does not have."""
    default = HybridConfig()
    for name in TOWERS:
        own: HybridConfig = getattr(config, name)
        for shared in SHARED:
            if getattr(own, shared) not in (getattr(default, shared), getattr(config, shared)):
                raise UserError(f"{name}.{shared} is {getattr(own, shared)}; set {shared}, which both towers have")
        if own.head != HeadConfig():
            raise UserError(f"{name}.head has no meaning: the towers share one classifier; set dropout")


def with_small_stems(config: TowersConfig) -> TowersConfig:
    """Return the same without a library's networks, to measure the size of what follows them."""

    def small(own: HybridConfig) -> HybridConfig:
        return replace(own, stem=without_network(own.stem, config.height, config.width))

    return replace(config, conv=small(config.conv), attention=small(config.attention))
