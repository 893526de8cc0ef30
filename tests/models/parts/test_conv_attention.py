"""Attention with a bias for each offset that also pools, and attention among positions far apart."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from timm.models.maxxvit import MaxxVitTransformerCfg, PartitionAttentionCl, TransformerBlock2d, get_rel_pos_cls
from torch import Tensor

from hybridvideo.config.model import FormConfig, StageConfig
from hybridvideo.errors import UserError
from hybridvideo.models import create_model
from hybridvideo.models.parts.attention import JointAttention, SpatialAttention
from hybridvideo.models.parts.conv_attention import CoatAttention, CoatBlock, GridAttention3d
from hybridvideo.models.parts.place import Grid, Place
from hybridvideo.models.parts.relative import RelativeTable
from tests.models.baselines.test_baselines import randomised
from tests.weights.layouts.test_image_coatnet import block_state


def relative(grid: Grid, joint: bool = False) -> CoatAttention:
    torch.manual_seed(0)
    table = RelativeTable(2, grid)
    torch.nn.init.normal_(table.bias_table)
    return CoatAttention(8, 8, 8, 2, table, joint)


def table_of(attention: CoatAttention) -> Tensor:
    assert isinstance(attention.relative, RelativeTable)
    return attention.relative.bias_table


def coat(**changes: Any) -> CoatBlock:
    stage = StageConfig("coat", **{"heads": 2, "stride": 2, "dim": 64, "norm_eps": 1e-6, **changes})
    return CoatBlock(Place(stage, 0, 32, 64, (4, 8, 8)))


@torch.no_grad()
@pytest.mark.parametrize("expand", ["out", "in"])
@pytest.mark.parametrize(("pool", "theirs"), [("mean", "avg2"), ("max", "max")])
def test_a_block_that_pools_is_timms(expand: Any, pool: Any, theirs: str) -> None:
    config = MaxxVitTransformerCfg(expand_first=expand == "out", pool_type=theirs)
    net = randomised(TransformerBlock2d(32, 64, 2, get_rel_pos_cls(config, (4, 4)), config))
    model = coat(form=FormConfig(expand=expand, pool=pool)).eval()
    model.load_state_dict(block_state(net, model, "T"))
    x_NCHW = torch.randn(3, 32, 8, 8)
    wanted = net(x_NCHW).permute(0, 2, 3, 1)
    assert torch.allclose(model(x_NCHW.permute(0, 2, 3, 1)[None])[0], wanted, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("joint", [False, True])
def test_the_bias_depends_on_the_offset_alone_also_on_a_smaller_grid(joint: bool) -> None:
    frames = 3 if joint else 1
    attention = relative((frames, 6, 6), joint)
    bias = by_place(attention, (frames, 6, 6))
    for axis in (1, 2):
        first, second = (bias.narrow(axis, at, 5).narrow(axis + 3, at, 5) for at in (0, 1))
        assert torch.equal(first, second)
    assert torch.equal(by_place(attention, (frames, 4, 5)), bias[:, 1:5, 1:6, :, 1:5, 1:6])
    assert len(by_place(attention, (frames, 4, 5)).unique()) > 50


def by_place(attention: CoatAttention, grid: Grid) -> Tensor:
    """The bias of the first head: frame, row and column of the query, then of the key."""
    assert attention.relative is not None
    return attention.relative(grid, torch.empty(0))[0, 0].view(*grid, *grid)


@torch.no_grad()
def test_relative_attention_is_equivariant_to_shifts_inside_its_range() -> None:
    """The bias switches off keys more than two steps away, so a place two steps from the edge sees no edge."""
    attention = relative((1, 8, 8))
    table_of(attention)[:, [0, 1, 2, 3, 4, 10, 11, 12, 13, 14]] = -1e9  # offsets of more than two rows
    table_of(attention)[:, :, [0, 1, 2, 3, 4, 10, 11, 12, 13, 14]] = -1e9
    x = torch.zeros(1, 1, 8, 8, 8)
    x[0, 0, 3, 3] = torch.randn(8)
    moved = attention(x.roll((1, 1), (2, 3)))
    assert torch.allclose(moved[:, :, 3:6, 3:6], attention(x)[:, :, 2:5, 2:5], atol=1e-5)
    assert not torch.allclose(attention(x)[:, :, 3, 3], attention(x)[:, :, 0, 0], atol=1e-3)


@torch.no_grad()
def test_without_bias_it_is_spatial_or_joint_attention() -> None:
    x = torch.randn(2, 3, 4, 5, 8)
    for joint, plain in ((False, SpatialAttention(8, 2)), (True, JointAttention(8, 2))):
        attention = CoatAttention(8, 8, 8, 2, RelativeTable(2, (3, 4, 5)), joint)
        attention.load_state_dict({**attention.state_dict(), **plain.state_dict()})
        assert torch.allclose(attention(x), plain(x), atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("grid", [(1, 1, 1), (2, 3, 4), (5, 9, 7), (3, 4, 12)])
def test_the_table_is_cut_or_stretched_to_any_grid(grid: Grid) -> None:
    attention = relative((3, 4, 4), joint=True)
    assert attention(torch.randn(1, *grid, 8)).isfinite().all()


@torch.no_grad()
@pytest.mark.parametrize("partition", ["block", "grid"])
@pytest.mark.parametrize("head_first", [True, False])
def test_windows_and_grids_are_timms(partition: str, head_first: bool) -> None:
    config = MaxxVitTransformerCfg(window_size=(4, 4), grid_size=(4, 4), head_first=head_first)
    net: Any = randomised(PartitionAttentionCl(64, partition, config))
    stage = StageConfig("maxvit", heads=2, dim=64, window=(1, 4, 4), norm_eps=1e-6)
    whole: Any = create_model(
        "hybrid", 2, frames=2, height=16, width=16, stem={"widths": [64]}, stages=[{**vars_of(stage), "depth": 1}]
    )
    block = whole.stages[0].blocks[0].eval()
    own = {"block": (block.window, block.window_mlp), "grid": (block.grid, block.grid_mlp)}[partition]
    state = block_state(net, None, "T", by_head=head_first)
    state = {name.replace("attention.", "inner.").replace("relative.", ""): value for name, value in state.items()}
    for part, prefix in zip(own, ("", "mlp."), strict=True):
        names = part.state_dict()
        part.load_state_dict({name: state[prefix + name] for name in names})
    x = torch.randn(2, 8, 12, 64)
    assert torch.allclose(own[1](own[0](x[None]))[0], net(x), atol=1e-5)


def vars_of(stage: StageConfig) -> dict[str, Any]:
    return {name: getattr(stage, name) for name in ("block", "heads", "dim", "window", "norm_eps")}


def test_a_grids_positions_are_far_apart_and_all_are_in_one() -> None:
    attention = GridAttention3d(8, 2, (1, 2, 2), shifted=False)
    x = torch.randn(1, 1, 6, 6, 8, requires_grad=True)
    attention(x)[0, 0, 1, 2].square().sum().backward()
    assert x.grad is not None
    seen = x.grad[0, 0].abs().sum(-1).nonzero().tolist()
    assert seen == [[1, 2], [1, 5], [4, 2], [4, 5]]


@torch.no_grad()
def test_a_grid_as_deep_as_the_clip_reaches_every_frame_and_sides_need_not_divide() -> None:
    attention = GridAttention3d(8, 2, (4, 3, 3), shifted=False)
    x = torch.randn(1, 4, 7, 5, 8)
    changed: Tensor = x.clone()
    changed[:, 3, 0, 0] += 1
    assert not torch.equal(attention(x)[:, 0, 0, 0], attention(changed)[:, 0, 0, 0])
    assert attention(torch.randn(2, 3, 2, 1, 8)).shape == (2, 3, 2, 1, 8)


def test_other_attention_in_a_coat_block_is_refused() -> None:
    with pytest.raises(UserError, match="attention of coat blocks is 'window3d'; give spatial or joint"):
        coat(attention="window3d")
