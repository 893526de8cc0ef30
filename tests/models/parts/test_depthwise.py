"""Depthwise convolution of a grid: the same as torch's, backward too, and right where torch's is not."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hybridvideo.models.parts.depthwise import WAYS, DepthwiseConv3d, fastest, on_grid

Kernel = tuple[int, int, int]


def gradients(conv: nn.Conv3d, out: Tensor, x: Tensor) -> list[Tensor]:
    torch.manual_seed(1)
    assert conv.bias is not None
    return list(torch.autograd.grad(out, [x, conv.weight, conv.bias], torch.randn(out.shape).to(out.dtype)))


@pytest.mark.parametrize(
    "kernel", [(3, 3, 3), (5, 5, 5), (1, 5, 5), (3, 1, 1), (13, 1, 1), (1, 1, 3), (3, 7, 5), (1, 1, 1)]
)
@pytest.mark.parametrize("grid", [(2, 4, 9, 7), (1, 1, 6, 6), (3, 2, 2, 1)])
def test_output_and_gradients_are_those_of_torch(kernel: Kernel, grid: tuple[int, int, int, int]) -> None:
    torch.manual_seed(0)
    conv = DepthwiseConv3d(6, kernel)
    x = torch.randn(*grid, 6, requires_grad=True)
    by_torch = on_grid(nn.Conv3d.forward.__get__(conv), x)
    ours = on_grid(conv, x)
    assert torch.allclose(ours, by_torch, atol=1e-5)
    for left, right in zip(gradients(conv, ours, x), gradients(conv, by_torch, x), strict=True):
        assert torch.allclose(left, right, atol=1e-4)


@pytest.mark.parametrize("side", [3, 5])
@pytest.mark.parametrize("frames", [1, 2, 3, 4, 8])
def test_gradients_in_bf16_are_those_of_fp32(side: int, frames: int) -> None:
    torch.manual_seed(0)
    conv = DepthwiseConv3d(16, (side, side, side))
    x = torch.randn(2, frames, 8, 8, 16, requires_grad=True)
    exact = gradients(conv, on_grid(conv, x), x)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = gradients(conv, on_grid(conv, x), x)
    for left, right in zip(exact, rounded, strict=True):
        assert (left - right).norm() < 0.02 * left.norm()


def test_only_what_needs_a_gradient_gets_one() -> None:
    conv = DepthwiseConv3d(4, (3, 3, 3))
    conv.weight.requires_grad_(False)
    x = torch.randn(1, 2, 4, 4, 4)
    on_grid(conv, x).sum().backward()
    assert conv.weight.grad is None and conv.bias is not None and conv.bias.grad is not None


def test_a_layer_without_bias_works() -> None:
    conv = DepthwiseConv3d(4, (3, 3, 3), bias=False)
    x = torch.randn(1, 2, 4, 4, 4, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        on_grid(conv, x).float().sum().backward()
    assert conv.weight.grad is not None and x.grad is not None


@pytest.mark.parametrize("way", sorted(WAYS))
@pytest.mark.parametrize("kernel", [(3, 3, 3), (5, 5, 5), (1, 5, 5), (3, 1, 1)])
@pytest.mark.parametrize("frames", [1, 2, 6])
def test_every_way_has_the_same_values_and_gradients(way: str, kernel: Kernel, frames: int) -> None:
    conv = DepthwiseConv3d(6, kernel)
    x = torch.randn(2, 6, frames, 7, 5, requires_grad=True)
    out, expected = WAYS[way](conv, x), F.conv3d(x, conv.weight, conv.bias, padding=conv.padding, groups=6)
    assert torch.allclose(out, expected, atol=1e-5)
    for left, right in zip(gradients(conv, out, x), gradients(conv, expected, x), strict=True):
        assert torch.allclose(left, right, atol=1e-4)


def test_the_way_follows_device_and_gradients() -> None:
    x = torch.zeros(1)
    assert fastest(x) == "mirrored" and fastest(x.to("meta")) == "conv3d"
    with torch.no_grad():
        assert fastest(x) == "conv3d" and fastest(x, (3, 1, 1)) == "shifted"


def test_a_kernel_in_time_alone_stays_channels_last() -> None:
    x = torch.randn(1, 4, 2, 2, 8)
    with torch.no_grad():
        assert on_grid(DepthwiseConv3d(8, (3, 1, 1)), x).is_contiguous()


def test_hooks_on_the_layer_are_called() -> None:
    conv, seen = DepthwiseConv3d(4, (3, 3, 3)), []
    conv.register_forward_hook(lambda *_: seen.append(True))
    on_grid(conv, torch.randn(1, 2, 4, 4, 4))
    assert seen
