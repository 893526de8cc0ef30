"""LeViT's block is timm's; its bias knows distances, not directions, and follows the size of the frame."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from timm.models import levit as timm_levit
from torch import nn

from hybridvideo.config.model import StageConfig
from hybridvideo.errors import UserError
from hybridvideo.models.parts.levit import LevitBlock, OffsetBias, distances
from hybridvideo.models.parts.place import Place
from hybridvideo.weights.layouts.image_levit import WITHIN, reshaped
from hybridvideo.weights.layouts.layout import renamed
from tests.models.baselines.test_baselines import randomised


def block(dim_in: int = 16, dim: int = 16, side: int = 6, **settings: Any) -> LevitBlock:
    stage = StageConfig("levit", heads=2, key_dim=4, mlp_ratio=2.0, activation="hard_swish", **settings)
    return LevitBlock(Place(stage, 0, dim_in, dim, (2, side, side))).eval()


def filled(ours: LevitBlock, theirs: nn.Module) -> LevitBlock:
    """The block with the weights of timm's."""
    state = {f"stages.0.blocks.0.{key}": value for key, value in theirs.state_dict().items()}
    ours.load_state_dict({renamed(key[18:], WITHIN): reshaped(key, value) for key, value in state.items()})
    return ours


@torch.no_grad()
def test_a_block_equals_timms_in_every_frame() -> None:
    settings: Any = {"key_dim": 4, "num_heads": 2, "attn_ratio": 2.0, "resolution": 6, "act_layer": nn.Hardswish}
    theirs = randomised(timm_levit.LevitBlock(16, **settings))
    x = torch.randn(2, 3, 6, 6, 16)
    wanted = theirs(x.flatten(2, 3).flatten(0, 1)).view(x.shape)
    assert torch.allclose(filled(block(), theirs)(x), wanted, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("side", [6, 7])
def test_a_shrinking_block_equals_timms_and_halves_the_grid(side: int) -> None:
    settings: Any = {"key_dim": 4, "num_heads": 4, "attn_ratio": 4.0, "resolution": side, "act_layer": nn.Hardswish}
    theirs = randomised(timm_levit.LevitDownsample(16, 24, **settings))
    x, half = torch.randn(1, 2, side, side, 16), -(-side // 2)
    out = filled(block(dim=24, side=side, stride=2), theirs)(x)
    assert out.shape == (1, 2, half, half, 24)
    assert torch.allclose(out, theirs(x.flatten(2, 3)[0]).view(out.shape), atol=1e-5)


def test_the_bias_depends_on_the_distance_alone() -> None:
    index = distances(4, 5, 1, torch.device("cpu")).view(4, 5, 4, 5)
    assert index[1, 2, 3, 4] == index[3, 4, 1, 2] == index[1, 4, 3, 2] == index[0, 0, 2, 2]
    assert len(index.unique()) == 4 * 5


@torch.no_grad()
def test_the_table_is_resized_for_other_frames_with_distance_zero_where_it_is() -> None:
    bias = OffsetBias(2, 4, 4)
    rows = torch.arange(4.0)
    bias.bias_hHW.copy_(rows[:, None] + rows)  # linear in the distance as a share of the frame
    larger = bias(7, 7, 1, bias.bias_hHW)[0, 0].view(7, 7, 7, 7)
    assert torch.allclose(larger[0, 0, 0, 0], torch.tensor(0.0), atol=1e-5)
    assert torch.allclose(larger[0, 0, 6, 6], torch.tensor(6.0), atol=1e-5)
    assert (larger[0, 0, 0].diff() > 0).all()


@torch.no_grad()
def test_another_frame_size_works_and_frames_do_not_see_each_other() -> None:
    model, x = block(), torch.randn(1, 3, 9, 5, 16)
    changed = x.clone()
    changed[:, 1] += 1
    same = (model(x) == model(changed)).flatten(2).all(2)
    assert same.tolist() == [[True, False, True]]


def test_a_residual_branch_starts_as_nothing() -> None:
    x = torch.randn(1, 2, 6, 6, 16)
    assert torch.equal(block()(x), x)


def test_more_heads_than_channels_are_refused() -> None:
    with pytest.raises(UserError, match="64 heads for 16 channels"):
        LevitBlock(Place(StageConfig("levit", heads=64), 0, 16, 16, (2, 4, 4)))
    with pytest.raises(UserError, match="key_dim 32 of 16 channels"):
        LevitBlock(Place(StageConfig("levit", key_dim=32, stride=2), 0, 16, 16, (2, 4, 4)))
