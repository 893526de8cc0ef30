"""What passes between a branch of convolutions and a branch of tokens, at any pair of sizes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from hybridvideo.models.parts.coupling import CoupledBlock, CoupledBottleneck, ToTokens, resized

SIZES = [(2, 3, 5), (4, 6, 10), (3, 4, 4), (4, 3, 20), (1, 1, 1)]


def test_a_grid_shrinks_by_averages_of_cells_and_grows_by_repeating_positions() -> None:
    x = torch.arange(16.0).view(1, 1, 4, 4, 1)
    assert resized(x, (1, 2, 2)).flatten().tolist() == [2.5, 4.5, 10.5, 12.5]
    small = torch.tensor([[1.0, 2.0], [3.0, 4.0]]).view(1, 1, 2, 2, 1)
    assert resized(small, (2, 4, 4))[0, 1, :, :, 0].tolist() == [[1, 1, 2, 2]] * 2 + [[3, 3, 4, 4]] * 2


@pytest.mark.parametrize("own", SIZES)
@pytest.mark.parametrize("size", SIZES)
def test_any_size_becomes_any_other_and_what_is_uniform_stays_so(
    own: tuple[int, int, int], size: tuple[int, int, int]
) -> None:
    out = resized(torch.full((2, *own, 3), 7.0), size)
    assert out.shape == (2, *size, 3) and torch.allclose(out, torch.tensor(7.0))


def test_pooling_before_the_1x1_convolution_is_the_same_as_after_it() -> None:
    coupling, x = ToTokens(6, 8), torch.randn(2, 4, 8, 8, 6)
    after = coupling.norm(resized(coupling.project(x), (2, 4, 4)))
    assert torch.allclose(coupling(x, (2, 4, 4)), nn.functional.gelu(after), atol=1e-6)


def test_a_bottleneck_sees_each_frame_alone() -> None:
    block, x = CoupledBottleneck(8, 16, stride=2).eval(), torch.randn(2, 3, 6, 6, 8)
    out, inner = block(x)
    assert out.shape == (2, 3, 3, 3, 16) and inner.shape == (2, 3, 3, 3, 4)
    assert torch.allclose(block(x[:, 1:2])[0], out[:, 1:2], atol=1e-6)


def coupled(class_token: bool = False) -> CoupledBlock:
    torch.manual_seed(0)
    attention = nn.Sequential(nn.LayerNorm(12), nn.Linear(12, 12))
    return CoupledBlock(attention, 8, 16, 12, class_token=class_token).eval()


def test_each_branch_of_a_block_changes_with_the_input_of_the_other() -> None:
    block, conv, tokens = coupled(), torch.randn(1, 4, 8, 8, 8), torch.randn(1, 2, 4, 4, 12)
    out, own = block(conv, tokens, (2, 4, 4))
    assert not torch.allclose(block(conv, tokens + 1, (2, 4, 4))[0], out)
    assert not torch.allclose(block(conv + 1, tokens, (2, 4, 4))[1], own)


def test_a_class_token_takes_no_part_in_the_coupling() -> None:
    block, conv = coupled(class_token=True), torch.randn(1, 2, 8, 8, 8)
    tokens = torch.randn(1, 2, 1, 1 + 16, 12)
    out, own = block(conv, tokens, (2, 4, 4))
    changed = tokens.clone()
    changed[:, :, :, 0] += 1.0
    assert torch.equal(block(conv, changed, (2, 4, 4))[0], out)
    assert torch.equal(block(conv + 1, tokens, (2, 4, 4))[1][:, :, :, 0], own[:, :, :, 0])
    plain, _ = coupled()(conv, tokens[:, :, 0, 1:].unflatten(2, (4, 4)), (2, 4, 4))
    assert torch.allclose(plain, out, atol=1e-6)
