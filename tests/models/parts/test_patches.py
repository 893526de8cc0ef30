"""The patch embedding against the convolution that it is."""

from __future__ import annotations

import pytest
import torch

from hybridvideo.errors import UserError
from hybridvideo.models.parts.patches import Patch, PatchEmbed


@pytest.mark.parametrize("patch", [(1, 16, 16), (2, 4, 8)])
@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last_3d])
def test_it_is_the_convolution_in_either_order_of_memory(patch: Patch, memory: torch.memory_format) -> None:
    embed = PatchEmbed(24, patch)
    x = torch.randn(2, 3, 4, 32, 48).contiguous(memory_format=memory)
    wanted = torch.nn.functional.conv3d(x, embed.weight, embed.bias, stride=patch).permute(0, 2, 3, 4, 1)
    assert torch.allclose(embed(x), wanted, atol=1e-5)


def test_a_clip_that_does_not_divide_is_padded_with_zeros_or_refused() -> None:
    embed = PatchEmbed(8, (2, 4, 4), pad=True)
    x = torch.randn(1, 3, 3, 9, 12)
    padded = torch.zeros(1, 3, 4, 12, 12)
    padded[:, :, :3, :9] = x
    assert torch.equal(embed(x), embed(padded))
    embed.pad = False
    with pytest.raises(UserError, match="3 frames of 9x12 does not divide into patches of 2x4x4"):
        embed(x)
