"""Bottlenecks are those of ResNets and BoTNets; attention reads offsets in space and time, and holds no scores."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from timm.layers.bottleneck_attn import BottleneckAttn
from timm.models.resnet import Bottleneck as TimmBottleneck
from torch import Tensor, nn

from hybridvideo.config.model import StageConfig
from hybridvideo.errors import UserError
from hybridvideo.models.parts.bottleneck import Bottleneck, GridConv, RelativeAttention
from hybridvideo.models.parts.place import Place
from hybridvideo.weights.layouts.image_botnet import RESNET, reshaped
from hybridvideo.weights.layouts.layout import renamed
from tests.models.baselines.test_baselines import randomised


def attention(joint: bool = False, grid: tuple[int, int, int] = (3, 5, 4)) -> RelativeAttention:
    module = RelativeAttention(16, 2, grid, joint)
    with torch.no_grad():
        for table in module.tables():
            table.normal_()
    return module


def block(dim_in: int = 32, dim: int = 32, **settings: Any) -> Bottleneck:
    stage = StageConfig("bottleneck", heads=2, **{"activation": "relu", **settings})
    return Bottleneck(Place(stage, 0, dim_in, dim, (3, 6, 6))).eval()


@torch.no_grad()
def test_attention_equals_timms() -> None:
    theirs: Any = BottleneckAttn(16, feat_size=(5, 4), num_heads=2)
    ours, x = attention(), torch.randn(2, 3, 5, 4, 16)
    ours.qkv.weight.copy_(theirs.qkv.weight.flatten(1))
    theirs.pos_embed.height_rel.copy_(ours.rows_CR.t())
    theirs.pos_embed.width_rel.copy_(ours.columns_CR.t())
    wanted = theirs(x.flatten(0, 1).permute(0, 3, 1, 2)).permute(0, 2, 3, 1).view(x.shape)
    assert torch.allclose(ours(x), wanted, atol=1e-5)


def by_pairs(module: RelativeAttention, x_BTHWC: Tensor) -> Tensor:
    """The formula, with a score for each pair of positions."""
    _, T, H, W, C = x_BTHWC.shape
    q, k, v = module.qkv(x_BTHWC).flatten(1, 3).unflatten(-1, (3, 2, C // 2)).permute(2, 0, 3, 1, 4)
    places = torch.cartesian_prod(torch.arange(T), torch.arange(H), torch.arange(W))
    offset = places[None] - places[:, None] + torch.tensor([T, H, W]) - 1  # from query to key
    tables = [table.t()[offset[..., axis]] for axis, table in enumerate(module.tables())]
    scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
    scores = scores + torch.einsum("bhnd,nmd->bhnm", q, tables[0] + tables[1] + tables[2])
    return (scores.softmax(-1) @ v).transpose(1, 2).reshape(x_BTHWC.shape)


@torch.no_grad()
def test_joint_attention_is_the_formula_in_space_and_time() -> None:
    ours, x = attention(joint=True), torch.randn(2, 3, 5, 4, 16)
    assert torch.allclose(ours(x), by_pairs(ours, x), atol=1e-5)


@torch.no_grad()
def test_offsets_in_time_let_attention_tell_the_order_of_frames() -> None:
    ours, x = attention(joint=True), torch.randn(1, 3, 5, 4, 16)
    assert not torch.allclose(ours(x.flip(1)).flip(1), ours(x), atol=1e-3)
    assert ours.frames_CR is not None
    ours.frames_CR.zero_()
    assert torch.allclose(ours(x.flip(1)).flip(1), ours(x), atol=1e-5)


@torch.no_grad()
def test_tables_are_resized_for_other_clips() -> None:
    ours = attention(joint=True)
    flat = [nn.Parameter(table.mean(1, keepdim=True).expand_as(table).clone()) for table in ours.tables()]
    ours.frames_CR, ours.rows_CR, ours.columns_CR = flat
    small, large = torch.randn(1, 2, 3, 3, 16), torch.randn(1, 7, 6, 9, 16)
    assert ours(large).shape == large.shape  # and constant tables stay constant at any size, so they change nothing
    out = ours(small)
    for table in flat:
        table.zero_()
    assert torch.allclose(ours(small), out, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("stride", [1, 2])
def test_with_convolution_it_is_a_resnets(stride: int) -> None:
    down = nn.Sequential(nn.Conv2d(16, 32, 1, stride, bias=False), nn.BatchNorm2d(32))
    theirs = randomised(TimmBottleneck(16, 8, stride, down))
    ours, x = block(16, attention="none", stride=stride), torch.randn(2, 3, 6, 6, 16)
    state = {renamed(key, RESNET): value for key, value in theirs.state_dict().items()}
    ours.load_state_dict({name: resized(name, value, ours) for name, value in state.items()})
    wanted = theirs(x.flatten(0, 1).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    assert torch.allclose(ours(x).flatten(0, 1), wanted, atol=1e-5)


def resized(name: str, value: Tensor, ours: Bottleneck) -> Tensor:
    return reshaped(name, value).reshape(ours.state_dict()[name].shape)


def test_attention_replaces_the_convolution_and_nothing_else() -> None:
    convolving, attending = block(attention="none").state_dict(), block().state_dict()
    middle = "middle."
    rest = {name for name in convolving if not name.startswith(middle)}
    assert rest == {name for name in attending if not name.startswith(middle)}
    assert all(convolving[name].shape == attending[name].shape for name in rest)


@torch.no_grad()
@pytest.mark.parametrize("side", [6, 7])
@pytest.mark.parametrize("kind", ["none", "spatial", "joint"])
def test_a_stride_halves_the_grid_and_its_shortcut(kind: str, side: int) -> None:
    out = block(16, attention=kind, stride=2)(torch.randn(1, 3, side, side, 16))
    assert out.shape == (1, 3, -(-side // 2), -(-side // 2), 32)


@torch.no_grad()
def test_a_convolution_of_the_grid_is_the_same_by_frames_and_in_three_dimensions() -> None:
    flat, deep = GridConv(6, 4, (1, 3, 3), stride=2), GridConv(6, 4, (3, 3, 3), stride=2)
    deep.weight.zero_()
    deep.weight[:, :, 1] = flat.weight[:, :, 0]
    x = torch.randn(2, 3, 7, 6, 6)
    assert torch.allclose(flat(x), deep(x), atol=1e-5)


def test_another_attention_is_refused() -> None:
    with pytest.raises(UserError, match="attention is 'divided' in a bottleneck; give one of none, spatial, joint"):
        block(attention="divided")
