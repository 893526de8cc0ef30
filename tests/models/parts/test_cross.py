"""Positions attend to the vectors of all frames."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hybridvideo.models.parts.cross import CrossAttention
from hybridvideo.models.parts.relative import RelativeTable


def by_definition(layer: CrossAttention, x_THWC: Tensor) -> Tensor:
    """Head by head, without a bias."""
    k, v = layer.kv(x_THWC.mean((1, 2))).chunk(2, -1)
    q = layer.q(x_THWC.flatten(0, 2))
    outs = []
    for qh, kh, vh in zip(*(part.chunk(layer.heads, -1) for part in (q, k, v)), strict=True):
        outs.append(F.softmax(qh @ kh.T * qh.shape[-1] ** -0.5, -1) @ vh)
    return layer.proj(torch.cat(outs, -1)).view(x_THWC.shape)


@pytest.mark.parametrize("frames", [1, 3, 20])
def test_each_position_attends_to_the_mean_of_each_frame(frames: int) -> None:
    layer = CrossAttention(8, 2)
    x = torch.randn(2, frames, 3, 4, 8)
    assert torch.allclose(layer(x)[1], by_definition(layer, x[1]), atol=1e-5)


def test_relative_position_is_the_distance_in_time() -> None:
    layer = CrossAttention(8, 2, RelativeTable(2, (4, 1, 1)))
    x = torch.randn(1, 4, 3, 3, 8)
    order = torch.tensor([2, 0, 3, 1])
    assert torch.allclose(layer(x[:, order]), layer(x)[:, order], atol=1e-6)  # a table of zeros
    assert layer.relative is not None
    table = next(layer.relative.parameters())
    nn.init.normal_(table)
    assert not torch.allclose(layer(x[:, order]), layer(x)[:, order], atol=1e-3)
    with torch.no_grad():
        table.fill_(-1e4)[3 + 2] = 0  # only the frame two earlier is seen
    vector = layer.proj(layer.kv(x[:, 1].mean((1, 2))).chunk(2, -1)[1])
    assert torch.allclose(layer(x)[:, 3], vector[:, None, None].expand(1, 3, 3, 8), atol=1e-5)


def test_frames_apart_see_themselves_alone() -> None:
    layer = CrossAttention(8, 2, frames_apart=True)
    x = torch.randn(2, 3, 4, 4, 8)
    assert torch.allclose(layer(x)[:, 1:2], layer(x[:, 1:2]), atol=1e-6)
