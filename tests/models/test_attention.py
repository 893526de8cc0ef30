"""Attention on a grid against its definition."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.models.video.swin_transformer import ShiftedWindowAttention3d

from hybridvideo.errors import UserError
from hybridvideo.models.attention import (
    JointAttention,
    SpatialAttention,
    TemporalAttention,
    WindowAttention3d,
    window_layout,
)


def by_definition(layer: SpatialAttention, tokens_NC: Tensor) -> Tensor:
    """softmax(q k / sqrt(d)) v among all tokens, head by head."""
    q, k, v = layer.qkv(tokens_NC).chunk(3, -1)
    outputs = []
    for qh, kh, vh in zip(q.chunk(layer.heads, -1), k.chunk(layer.heads, -1), v.chunk(layer.heads, -1), strict=True):
        outputs.append(F.softmax(qh @ kh.T * qh.shape[-1] ** -0.5, -1) @ vh)
    return layer.proj(torch.cat(outputs, -1))


def test_each_kind_attends_within_its_group() -> None:
    x = torch.randn(2, 3, 4, 5, 16)
    spatial, temporal, joint = SpatialAttention(16, 4), TemporalAttention(16, 4), JointAttention(16, 4)
    frame = by_definition(spatial, x[1, 2].flatten(0, 1))
    assert torch.allclose(spatial(x)[1, 2].flatten(0, 1), frame, atol=1e-5)
    assert torch.allclose(temporal(x)[1, :, 2, 3], by_definition(temporal, x[1, :, 2, 3]), atol=1e-5)
    assert torch.allclose(joint(x)[1].flatten(0, 2), by_definition(joint, x[1].flatten(0, 2)), atol=1e-5)


@pytest.mark.parametrize("grid", [(8, 14, 14), (5, 9, 11), (2, 7, 9), (8, 7, 8)])
@pytest.mark.parametrize("shifted", [False, True])
def test_windows_equal_torchvisions(grid: tuple[int, int, int], shifted: bool) -> None:
    window = (4, 7, 7)
    shift = [side // 2 if shifted else 0 for side in window]
    peer = ShiftedWindowAttention3d(24, list(window), shift, 3)
    ours = WindowAttention3d(24, 3, window, shifted)
    torch.nn.init.normal_(peer.relative_position_bias_table)
    ours.load_state_dict(
        {name.replace("relative_position_bias_table", "bias_table"): value for name, value in peer.state_dict().items()
         if name != "relative_position_index"}
    )  # fmt: skip
    x = torch.randn(2, *grid, 24)
    with torch.no_grad():
        assert torch.allclose(ours(x), peer(x), atol=1e-5)


def test_the_cached_mask_follows_a_change_of_the_bias() -> None:
    layer = WindowAttention3d(8, 2, (2, 2, 2), shifted=True).eval()
    x = torch.randn(1, 4, 4, 4, 8)
    with torch.inference_mode():
        before = layer(x)
        assert layer(x) is not before and torch.equal(layer(x), before)
    first = layer._mask
    with torch.no_grad():
        layer(x)
        assert layer._mask is first
        layer.bias_table.normal_()
        assert not torch.allclose(layer(x), before)


def test_the_bias_is_trained() -> None:
    layer = WindowAttention3d(8, 2, (2, 3, 3), shifted=True)
    layer(torch.randn(1, 4, 6, 6, 8)).square().sum().backward()
    assert layer.bias_table.grad is not None and layer.bias_table.grad.abs().sum() > 0


@pytest.mark.parametrize("grid", [(4, 6, 6), (5, 7, 3), (1, 2, 9)])
def test_splitting_and_joining_windows_gives_the_grid_back(grid: tuple[int, int, int]) -> None:
    x = torch.randn(2, *grid, 3)
    layout = window_layout(grid, (2, 3, 4), True)
    assert torch.equal(layout.join(layout.split(x), 2), x)


def test_heads_must_divide_the_channels() -> None:
    with pytest.raises(UserError, match="10 channels do not divide into 4 heads"):
        SpatialAttention(10, 4)
