"""Depthwise 3-D convolution of a grid: several ways to the same numbers.

    way       how                                                              default for
    conv3d    torch's kernel                                                   no gradients; GPUs; compilers
    mirrored  torch's kernel forward; with its own backward pass                     training on a CPU
    shifted    a sum of frames nearby, each times a factor per channel             kernels in time alone, on a CPU
    planes    a sum of 2-D convolutions, one for each frame of the kernel      nothing yet

Forward, torch's CPU kernel is fast on channels-last memory. Its backward kernels are 10 to 100 times slower, and in
bf16 the weight gradient is wrong if 1 < T < kernel depth (torch 2.15). `mirrored` instead computes

    of the input     the forward kernel again, with the weight mirrored
    of the weight    frame against frame, by 2-D kernels of 3x3, which are fast; larger ones are covered by several

For kernels of one row and one column torch leaves channels-last memory and is slow both ways: (3, 1, 1) on 16x4x4 with
768 channels, one core, gradients: 19 ms become 2.5. There `mirrored` sums frames as `shifted` does.

5x5x5 on 8x56x56 with 64 channels, one core, gradients: 145 ms in fp32 and 363 ms in bf16 become 30 and 27.

On CUDA, torch's backward pass of a depthwise 3-D convolution is slow too; `planes` runs cuDNN's 2-D kernels, forward
and backward. Which of the two is faster there has not been measured: `tools/prove_gpu.py` times them by name.

    B batch   T H W grid   C channels   t h w kernel
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class DepthwiseConv3d(nn.Conv3d):
    """A kernel of odd sides for each channel; the grid keeps its size. (B, C, T, H, W) -> the same shape."""

    bypassable = True  # see `shortcuts`; a subclass is not

    def __init__(self, dim: int, kernel: tuple[int, int, int], bias: bool = True) -> None:
        t, h, w = kernel
        super().__init__(dim, dim, kernel, padding=(t // 2, h // 2, w // 2), groups=dim, bias=bias)

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        return WAYS[fastest(x_BCTHW, self.kernel_size)](self, x_BCTHW)


def on_grid(conv: Callable[[Tensor], Tensor], x_BTHWC: Tensor) -> Tensor:
    """A convolution of a grid, channels last."""
    out: Tensor = conv(x_BTHWC.permute(0, 4, 1, 2, 3))
    return out.permute(0, 2, 3, 4, 1)


def fastest(x: Tensor, kernel: Sequence[int] = (3, 3, 3)) -> str:
    """Return the name of the way that is fastest for such a tensor and kernel."""
    if x.is_cpu and torch.is_grad_enabled():
        return "mirrored"
    return "shifted" if x.is_cpu and in_time_alone(kernel) else "conv3d"


def in_time_alone(kernel: Sequence[int]) -> bool:
    """Whether a kernel covers one row and one column."""
    return kernel[-2:] == (1, 1)


def mirrored(conv: nn.Conv3d, x_BCTHW: Tensor) -> Tensor:
    """torch's kernel with the backward pass of `MirroredBackward`."""
    out: Tensor = MirroredBackward.apply(*in_autocast(conv, x_BCTHW))
    return out


def in_autocast(conv: nn.Conv3d, x_BCTHW: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    """Input, weight and bias in the precision in which autocast would convolve."""
    weight, bias = conv.weight, conv.bias
    device = x_BCTHW.device.type
    if not torch.is_autocast_enabled(device):
        return x_BCTHW, weight, bias
    kind = torch.get_autocast_dtype(device)
    return x_BCTHW.to(kind), weight.to(kind), None if bias is None else bias.to(kind)


def sum_of_frames(x_BCTHW: Tensor, weight_C1t11: Tensor, bias: Tensor | None) -> Tensor:
    """The convolution for a kernel of one row and one column: torch leaves channels-last memory for it and is slow."""
    T, frames = x_BCTHW.shape[2], weight_C1t11.permute(2, 0, 1, 3, 4)
    out = x_BCTHW * frames[len(frames) // 2]
    if bias is not None:
        out += bias.view(-1, 1, 1, 1)
    for frame, weight_C111 in enumerate(frames):
        offset = frame - len(frames) // 2
        if offset and abs(offset) < T:
            first, last = max(-offset, 0), T - max(offset, 0)
            out[:, :, first:last].addcmul_(x_BCTHW[:, :, first + offset : last + offset], weight_C111)
    return out


def planes(conv: nn.Conv3d, x_BCTHW: Tensor) -> Tensor:
    """Frame t of the output: the sum over the kernel's frames k of a 2-D convolution of input frame t + k - centre."""
    B, C, T, H, W = x_BCTHW.shape
    t, h, w = conv.weight.shape[2:]
    padded = F.pad(x_BCTHW.transpose(1, 2), (0, 0, 0, 0, 0, 0, t // 2, t // 2))  # B, T + t - 1, C, H, W
    out: Tensor | None = None
    for frame in range(t):
        frames_NCHW = padded[:, frame : frame + T].reshape(B * T, C, H, W)
        bias = conv.bias if frame == t // 2 else None
        plane = F.conv2d(frames_NCHW, conv.weight[:, :, frame], bias, padding=(h // 2, w // 2), groups=C)
        out = plane if out is None else out + plane
    assert out is not None
    return out.view(B, T, C, H, W).transpose(1, 2)


WAYS: dict[str, Callable[[nn.Conv3d, Tensor], Tensor]] = {
    "conv3d": lambda conv, x_BCTHW: conv._conv_forward(x_BCTHW, conv.weight, conv.bias),
    "mirrored": mirrored,
    "shifted": lambda conv, x_BCTHW: same_conv3d(*in_autocast(conv, x_BCTHW)),
    "planes": planes,
}


class MirroredBackward(torch.autograd.Function):
    """(x (B, C, T, H, W), weight (C, 1, t, h, w) of odd sides, bias (C) or None) -> (B, C, T, H, W)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return same_conv3d(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        grad = grad.contiguous(memory_format=torch.channels_last_3d)
        of_x, of_weight, of_bias = ctx.needs_input_grad
        return (
            same_conv3d(grad, weight.flip(2, 3, 4), None) if of_x else None,
            weight_gradient(x, grad, weight) if of_weight else None,
            grad.permute(0, 2, 3, 4, 1).flatten(0, 3).sum(0) if of_bias else None,
        )


def same_conv3d(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The convolution itself."""
    t, h, w = weight.shape[2:]
    if in_time_alone(weight.shape):
        return sum_of_frames(x, weight, bias)
    return F.conv3d(x, weight, bias, padding=(t // 2, h // 2, w // 2), groups=len(weight))


def weight_gradient(x_BCTHW: Tensor, grad_BCTHW: Tensor, weight_C1thw: Tensor) -> Tensor:
    """For each offset of the kernel, the sum of gradient times input over all positions."""
    t, h, w = weight_C1thw.shape[2:]
    x_BTHWC, grad_BTHWC = x_BCTHW.permute(0, 2, 3, 4, 1), grad_BCTHW.permute(0, 2, 3, 4, 1)
    if in_time_alone(weight_C1thw.shape):
        return torch.stack([frame_gradient(x_BTHWC, grad_BTHWC, i - t // 2) for i in range(t)], 1).view_as(weight_C1thw)
    gradient = torch.empty_like(weight_C1thw)
    piece = weight_C1thw[:, :, 0, :3, :3]
    for row, column, part_BTHWC, padding in covering(x_BTHWC, h, w):
        for frame in range(t):
            plane = plane_gradient(part_BTHWC, grad_BTHWC, frame - t // 2, piece, padding)
            gradient[:, :, frame, row : row + 3, column : column + 3] = plane
    return gradient


def frame_gradient(x_BTHWC: Tensor, grad_BTHWC: Tensor, offset: int) -> Tensor:
    """The gradient (C) of the factor between each frame and the one `offset` later."""
    T = x_BTHWC.shape[1]
    if abs(offset) >= T:
        return x_BTHWC.new_zeros(x_BTHWC.shape[4])
    first, last = max(-offset, 0), T - max(offset, 0)
    products = x_BTHWC[:, first + offset : last + offset] * grad_BTHWC[:, first:last]
    return products.sum((0, 1, 2, 3), dtype=torch.float32).to(x_BTHWC.dtype)


def covering(x_BTHWC: Tensor, h: int, w: int) -> Iterator[tuple[int, int, Tensor, list[int]]]:
    """Yield kernels of at most 3x3 that cover one of h x w: first row and column, input, padding of the input."""
    if max(h, w) <= 3:
        yield 0, 0, x_BTHWC, [h // 2, w // 2]
        return
    H, W = x_BTHWC.shape[2:4]
    padded = F.pad(x_BTHWC, (0, 0, w // 2, w // 2, h // 2, h // 2))
    for row in range(0, max(h - 2, 1), 2):
        for column in range(0, max(w - 2, 1), 2):
            part = padded[:, :, row : row + H + min(h, 3) - 1, column : column + W + min(w, 3) - 1]
            yield row, column, part.contiguous(), [0, 0]


def plane_gradient(part_BTHWC: Tensor, grad_BTHWC: Tensor, offset: int, piece: Tensor, padding: list[int]) -> Tensor:
    """The gradient of the kernel's plane between each frame and the one `offset` later; clip by clip, no copies."""
    T, C = grad_BTHWC.shape[1], grad_BTHWC.shape[4]
    total = torch.zeros(piece.shape, device=piece.device)
    if abs(offset) >= T:
        return total
    first, last = max(offset, 0), T + min(offset, 0)
    for x_THWC, grad_THWC in zip(part_BTHWC, grad_BTHWC, strict=True):
        x, grad = x_THWC[first:last].permute(0, 3, 1, 2), grad_THWC[first - offset : last - offset].permute(0, 3, 1, 2)
        sizes = [C], [1, 1], padding, [1, 1], False, [0, 0], C
        _, of_weight, _ = torch.ops.aten.convolution_backward(grad, x, piece, *sizes, [False, True, False])
        total += of_weight
    return total
