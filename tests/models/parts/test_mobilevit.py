"""MobileViT's block is timm's; unfolding loses nothing; pixels of a patch see the same pixel of others alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from timm.models import mobilevit as timm_mobilevit
from timm.models.byobnet import LayerFn
from torch import Tensor, nn

from hybridvideo.config.model import StageConfig
from hybridvideo.errors import UserError
from hybridvideo.models import create_model
from hybridvideo.models.parts.kinds import make_block
from hybridvideo.models.parts.mobilevit import fold, unfold
from hybridvideo.models.parts.place import Place
from hybridvideo.weights.layouts.image_mobilevit import WITHIN
from hybridvideo.weights.layouts.layout import renamed
from tests.models.baselines.test_baselines import randomised


def block(attention: str, side: int = 8) -> nn.Module:
    settings: Any = {"mlp_ratio": 2.0, "activation": "silu", "attention": attention}
    stage = StageConfig("mobilevit", 1, 4, inner_dim=16, inner_depth=2, **settings)
    return make_block(Place(stage, 0, 12, 12, (3, side, side))).eval()


def test_unfold_then_fold_is_the_identity() -> None:
    x = torch.randn(2, 3, 6, 4, 5)
    assert torch.equal(fold(unfold(x)), x)


def test_unfolding_keeps_a_pixel_of_a_patch_with_the_same_pixel_of_others() -> None:
    rows = torch.arange(4)
    number = (rows[:, None] % 2 * 2 + rows % 2).float().view(1, 1, 4, 4, 1)  # of the pixel in its patch
    grids = unfold(number)
    assert grids.shape == (4, 1, 2, 2, 1)
    assert torch.equal(grids.flatten(1), torch.arange(4.0)[:, None].expand(4, 4))


@torch.no_grad()
@pytest.mark.parametrize("side", [8, 7])
def test_a_block_equals_timms_at_any_size(side: int) -> None:
    layers = LayerFn(act=nn.SiLU)
    layers.conv_norm_act = timm_conv  # type: ignore[assignment]
    theirs = randomised(
        timm_mobilevit.MobileVitBlock(12, transformer_dim=16, transformer_depth=2, patch_size=2, layers=layers)
    )
    ours, x = block("spatial", side), torch.randn(2, 3, side, side, 12)
    own = ours.state_dict()
    state = {renamed(key, WITHIN): value for key, value in theirs.state_dict().items()}
    ours.load_state_dict({name: value.reshape(own[name].shape) for name, value in state.items()})
    wanted = theirs(x.flatten(0, 1).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    assert torch.allclose(ours(x).flatten(0, 1), wanted, atol=1e-4)


def timm_conv(*arguments: Any, **settings: Any) -> nn.Module:
    from timm.layers import ConvNormAct

    return ConvNormAct(*arguments, act_layer=nn.SiLU, **settings)


@torch.no_grad()
@pytest.mark.parametrize(("attention", "sees"), [("spatial", False), ("joint", True), ("divided", True)])
def test_attention_decides_whether_frames_see_each_other(attention: str, sees: bool) -> None:
    ours, x = block(attention), torch.randn(1, 3, 8, 8, 12)
    changed: Tensor = x.clone()
    changed[:, 2] += torch.randn(8, 8, 12)
    assert torch.equal(ours(x)[:, 0], ours(changed)[:, 0]) != sees


def test_a_block_inside_that_is_no_attention_is_refused() -> None:
    with pytest.raises(UserError) as caught:
        create_model("hybrid", 2, stages=[{"block": "mobilevit", "attention": "mobilevit"}])
    assert "\n" not in str(caught.value)
