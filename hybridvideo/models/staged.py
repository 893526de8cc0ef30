"""What most networks here share: a stem, stages of blocks that run one after another, a head.

A subclass lists its parts (`stem_parts`, `stage_list`, `head_parts`); stage names, the loop over the blocks, parameter
groups and parameters without decay follow from the lists. If its blocks work on something other than a grid, it
overrides `enter`, `run`, `grid_of` and `leave`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any, ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from hybridvideo.models.contract import NOTHING, Grids, VideoModel


class Stage(NamedTuple):
    """A named run of blocks."""

    name: str
    blocks: Sequence[nn.Module]
    """Called one after another by `run`, each checkpointed if requested."""
    before: Sequence[nn.Module] = ()
    """Layers between the stages, such as a merging of positions; their parameters go with the first block's."""


class SizedConfig(Protocol):
    """The fields of every network's config: its standard input."""

    @property
    def frames(self) -> int: ...
    @property
    def height(self) -> int: ...
    @property
    def width(self) -> int: ...


class StagedModel(VideoModel):
    """Base of networks that are a stem, a list of stages, and a head."""

    group_names: ClassVar[str] = "{stage}.{index}"
    """Of parameter groups, one per block: `stage` by name, `index` of the block from 0, `number` from 1."""
    undecayed: ClassVar[tuple[str, ...]] = ()
    """Endings of the names of parameters without weight decay."""

    def __init__(self, config: SizedConfig, num_classes: int) -> None:
        super().__init__()
        self.config, self.num_classes = config, num_classes
        self.input_shape = (3, config.frames, config.height, config.width)

    @abstractmethod
    def stem_parts(self) -> Sequence[nn.Module | nn.Parameter]:
        """Modules and parameters before the stages."""

    @abstractmethod
    def stage_list(self) -> list[Stage]:
        """The stages, in order."""

    @abstractmethod
    def head_parts(self) -> Sequence[nn.Module]:
        """Modules after the stages."""

    @property
    def stage_names(self) -> list[str]:
        return ["stem", *(stage.name for stage in self.stage_list())]

    def forward_stages(self, grid_BTHWC: Tensor, keep: Grids = NOTHING) -> Tensor:
        keep.put("stem", grid_BTHWC)
        x, sides = self.enter(grid_BTHWC), grid_BTHWC.shape[2:4]
        del grid_BTHWC  # its memory is free as soon as the first block has read it
        passed: dict[str, Tensor] = {}
        self.pass_on("stem", x, passed)
        for stage in self.stage_list():
            for layer in stage.before:
                x = layer(x)
            x = self.join(stage.name, x, passed)
            for block in stage.blocks:
                x = self.run(block, x)
            if stage.name in keep.stages:
                keep.put(stage.name, self.grid_of(x))
            self.pass_on(stage.name, x, passed)
        return self.with_sides(self.leave(self.join("head", x, passed)), sides)

    def enter(self, grid_BTHWC: Tensor) -> Any:
        """What the first block takes, from the stem's grid."""
        return grid_BTHWC

    def run(self, block: nn.Module, x: Any) -> Any:
        """One block."""
        return self.run_block(block, x)

    def pass_on(self, stage: str, x: Any, passed: dict[str, Tensor]) -> None:
        """Put into `passed` what later stages, or the head, take from the end of this one."""

    def join(self, stage: str, x: Any, passed: dict[str, Tensor]) -> Any:
        """What the first block of a stage takes, or `head`, from what the layers before it returned."""
        return x

    def grid_of(self, x: Any) -> Tensor:
        """The grid (B, T, H, W, C) of what a block returned."""
        grid: Tensor = x
        return grid

    def leave(self, x: Any) -> Tensor:
        """The last grid, from what the last block returned."""
        return self.grid_of(x)

    def with_sides(self, grid_BTHWC: Tensor, sides: Sequence[int]) -> Tensor:
        """The last grid with rows and columns, if blocks took positions without; `sides` are those of the stem's."""
        return grid_BTHWC

    def no_weight_decay(self) -> set[str]:
        return {name for name, _ in self.named_parameters() if name.endswith(self.undecayed)}

    def layer_groups(self) -> list[tuple[str, list[nn.Parameter]]]:
        groups = [("stem", parameters(self.stem_parts()))]
        for stage in self.stage_list():
            for i, block in enumerate(stage.blocks):
                name = self.group_names.format(stage=stage.name, index=i, number=i + 1)
                groups.append((name, parameters([*(() if i else stage.before), block])))
        groups.append(("head", parameters(self.head_parts())))
        return [(name, group) for name, group in groups if group]


def parameters(parts: Iterable[nn.Module | nn.Parameter]) -> list[nn.Parameter]:
    """All parameters of modules, and parameters, in order."""
    return list(chain.from_iterable([part] if isinstance(part, nn.Parameter) else part.parameters() for part in parts))


def rising_rates(last: float, depths: Sequence[int]) -> list[list[float]]:
    """Rates of stochastic depth for the blocks of each stage: 0 in the first block, rising evenly to `last`."""
    rates = iter(torch.linspace(0, last, sum(depths), device="cpu").tolist())
    return [[next(rates) for _ in range(depth)] for depth in depths]
