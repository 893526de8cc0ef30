"""CAN: a residual convolution whose channels or positions are weighed by attention."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hybridvideo.config.model import StageConfig
from hybridvideo.models.initialisation import initialise
from hybridvideo.models.parts.can import CanBlock
from hybridvideo.models.parts.kinds import make_block
from hybridvideo.models.parts.place import Place
from hybridvideo.models.readings import listening, places_to_read

GRID = (3, 4, 5)


def block(time: bool = True, **settings: Any) -> CanBlock:
    torch.manual_seed(0)
    made = make_block(Place(StageConfig("can", heads=2, **settings), 0, 8, 8, GRID, time=time))
    initialise(made)
    assert isinstance(made, CanBlock)
    nn.init.uniform_(made.norm.weight, 0.5, 2)
    made.norm.running_mean.normal_()  # type: ignore[union-attr]
    return made.eval()


def residual(made: CanBlock, x_BTHWC: Tensor) -> Tensor:
    """The residual block of a convolutional network, in plain torch."""
    y = F.conv3d(x_BTHWC.permute(0, 4, 1, 2, 3), made.conv.weight, padding=made.conv.padding)
    norm = made.norm
    y = F.batch_norm(y, norm.running_mean, norm.running_var, norm.weight, norm.bias, False, 0.0, norm.eps)
    return x_BTHWC + y.relu().permute(0, 2, 3, 4, 1)


def weights(made: CanBlock, x: Tensor) -> Tensor:
    with listening(places_to_read(made)) as seen:
        made(x)
    return seen["weights.values"]


@torch.no_grad()
@pytest.mark.parametrize("kernel", [None, (3, 3, 3)])
def test_with_all_weights_1_it_is_the_residual_block_of_a_convolution(kernel: Any) -> None:
    x = torch.randn(2, *GRID, 8)
    channel = block(weigh="channel", kernel=kernel)
    channel.weights.scores.second.bias.fill_(1000.0)  # type: ignore[union-attr]
    assert torch.allclose(channel(x), residual(channel, x), atol=1e-5)
    spatial = block(weigh="spatial", kernel=kernel)
    spatial.weights.qk.weight.zero_()  # type: ignore[union-attr]
    assert torch.allclose(spatial(x), residual(spatial, x), atol=1e-5)
    assert not torch.allclose(block(weigh="channel", kernel=kernel)(x), residual(channel, x), atol=1e-2)


@torch.no_grad()
def test_channel_weights_are_one_for_each_channel_of_a_clip_and_between_0_and_1() -> None:
    made, x = block(), torch.randn(2, *GRID, 8)
    a = weights(made, x)
    assert a.shape == (2, 1, 1, 1, 8) and ((a > 0) & (a < 1)).all() and not torch.allclose(a[0], a[1])
    assert torch.allclose(made(x) - x, (residual(made, x) - x) * a, atol=1e-5)


@torch.no_grad()
def test_spatial_weights_are_the_attention_that_each_position_gets_and_average_1() -> None:
    made, x = block(weigh="spatial"), 3 * torch.randn(2, *GRID, 8)
    a = weights(made, x)
    assert a.shape == (2, *GRID, 2) and a.std() > 0.01
    assert torch.allclose(a.mean((2, 3)), torch.ones(2, 3, 2), atol=1e-5)
    q, k = made.weights.qk(x[0, 0].flatten(0, 1)).chunk(2, -1)  # type: ignore[operator]
    second = (q[:, 4:] @ k[:, 4:].t() / 2).softmax(-1).sum(0)  # of the second head, (N)
    assert torch.allclose(a[0, 0, ..., 1].flatten(), second, atol=1e-5)
    assert torch.allclose(made(x)[..., 4:], (x + (residual(made, x) - x) * a[..., 1:])[..., 4:], atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("weigh", ["channel", "spatial"])
def test_without_time_a_frame_is_weighed_by_itself(weigh: str) -> None:
    made, x = block(time=False, weigh=weigh, kernel=(3, 3, 3)), torch.randn(2, *GRID, 8)
    assert torch.allclose(made(x)[:, 1:2], made(x[:, 1:2]), atol=1e-5)
    whole = block(weigh=weigh, kernel=(3, 3, 3))
    assert not torch.allclose(whole(x)[:, 1:2], whole(x[:, 1:2]), atol=1e-3)
