"""The Conformer block over time: MLP, attention, convolution, MLP, each a part that can be told from the others."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hybridvideo.config.model import StageConfig
from hybridvideo.models.initialisation import initialise
from hybridvideo.models.parts.kinds import make_block
from hybridvideo.models.parts.place import Place
from hybridvideo.models.parts.speech_conformer import ConformerTimeBlock

GRID = (9, 2, 3)


def block(time: bool = True, **settings: Any) -> ConformerTimeBlock:
    torch.manual_seed(0)
    made = make_block(Place(StageConfig("conformer_time", heads=2, **settings), 0, 8, 8, GRID, time=time))
    initialise(made)
    assert isinstance(made, ConformerTimeBlock)
    for norm in made.modules():
        if isinstance(norm, nn.LayerNorm):
            nn.init.normal_(norm.weight)
    return made.eval()


@torch.no_grad()
def test_with_a_zeroed_convolution_module_mlp_attention_mlp_remain() -> None:
    made, x = block(), torch.randn(2, *GRID, 8)
    for parameter in made.convolution.inner.after.parameters():
        parameter.zero_()
    y = x + made.mlp1.inner(made.mlp1.norm(x)) / 2
    step: Any = made.attention[0]
    y = y + step.inner(step.norm(y))
    y = y + made.mlp2.inner(made.mlp2.norm(y)) / 2
    assert torch.allclose(made(x), made.norm(y), atol=1e-5)
    assert not torch.allclose(block()(x), made(x), atol=1e-2)


@torch.no_grad()
@pytest.mark.parametrize("frames", [7, 15, 31])
def test_the_convolution_reaches_half_its_kernel_of_frames_and_attention_all(frames: int) -> None:
    made, x = block(kernel=(frames, 1, 1)), torch.randn(1, 41, 1, 1, 8)
    other = x.clone()
    other[:, 20] = torch.randn(8)

    def reached(part: nn.Module) -> Tensor:
        return (part(x) - part(other)).abs().amax((0, 2, 3, 4)) > 1e-7

    assert reached(made.convolution).nonzero()[:, 0].tolist() == list(range(20 - frames // 2, 21 + frames // 2))
    assert reached(made.attention).all() and reached(made).all()


@torch.no_grad()
def test_positions_of_a_frame_do_not_see_each_other() -> None:
    made, x = block(), torch.randn(1, *GRID, 8)
    assert torch.allclose(made(x)[:, :, 1:, 2:], made(x[:, :, 1:, 2:]), atol=1e-6)


@torch.no_grad()
def test_it_sees_the_order_of_frames_and_its_control_does_not() -> None:
    x, order = torch.randn(1, *GRID, 8), torch.randperm(GRID[0])
    made, control = block(), block(time=False)
    assert not torch.allclose(made(x)[:, order], made(x[:, order]), atol=1e-2)
    assert torch.allclose(control(x)[:, order], control(x[:, order]), atol=1e-6)
    assert len(control.attention) == 0


@torch.no_grad()
def test_it_works_on_one_vector_for_each_frame() -> None:
    assert block()(torch.randn(2, 5, 1, 1, 8)).shape == (2, 5, 1, 1, 8)
