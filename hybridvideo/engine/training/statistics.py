"""BatchNorm's statistics in training: over the clips that count, in all processes together.

A clip that could not be read, or that only pads a share, has no weight in the loss, and none here. With several
processes the statistics are those of the complete batch, as in one process, and the same to the last bit in each. No
layer is replaced: `torch.nn.functional.batch_norm`, which every kind of BatchNorm calls, is answered here whenever
torch's own answer would differ.

    N rows of a layer's input: clips, or clips * frames with the clip first   C channels   P processes
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _NormBase

from hybridvideo.engine.exchange import stacked

torchs_own = F.batch_norm


@contextmanager
def counted_statistics(model: nn.Module, ok: Sequence[bool], clips: Sequence[int], rank: int) -> Iterator[None]:
    """A context for a forward pass of `model` in training and for its backward pass.

    With a single process, and two or more clips that all count, nothing is changed. A layer with fewer than two values
    per channel uses its running statistics and does not count the batch.

    Args:
        ok: whether each clip of this process's batch counts.
        clips: how many count in each process; the same list in all of them.
        rank: this process.
    """
    if len(clips) == 1 and all(ok) and len(ok) > 1:
        yield
        return
    answer = CountedBatchNorm(ok, clips, rank)
    # Not by a TorchFunctionMode: torch leaves it in `backward`, where checkpointed blocks run again.
    F.batch_norm = answer.batch_norm
    try:
        yield
    finally:
        F.batch_norm = torchs_own
    for layer in model.modules():
        if isinstance(layer, _NormBase) and layer.num_batches_tracked is not None:
            layer.num_batches_tracked -= answer.passed[id(layer.running_mean)]


class CountedBatchNorm:
    """Answers `torch.nn.functional.batch_norm` for a batch."""

    def __init__(self, ok: Sequence[bool], clips: Sequence[int], rank: int) -> None:
        self.batch, self.clips, self.rank = len(ok), clips, rank
        counting = torch.tensor([i for i, counts in enumerate(ok) if counts], dtype=torch.int64)
        self.counting = None if all(ok) else counting
        self.passed: Counter[int] = Counter()  # running means that did not count the batch, by identity

    def batch_norm(
        self,
        input: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Tensor:
        """Like `torch.nn.functional.batch_norm`."""
        x = input
        values = sum(self.clips) * x.numel() // (x.shape[1] * self.batch)
        if training and values < 2 and running_mean is not None:
            self.passed[id(running_mean)] += 1
            training = False
        if not training:
            return torchs_own(x, running_mean, running_var, weight, bias, False, momentum, eps)
        rows_N = self.rows(x)
        with torch.no_grad():
            mean_C, var_C = self.moments(x, rows_N)
            if running_mean is not None and running_var is not None:
                running_mean.lerp_(mean_C.to(running_mean.dtype), momentum)
                running_var.lerp_((var_C * (values / (values - 1))).to(running_var.dtype), momentum)
        arguments = (x, mean_C, var_C, weight, bias, eps, rows_N, values, len(self.clips))
        return _Normalised.apply(*arguments)

    def rows(self, x: Tensor) -> Tensor | None:
        """Return which rows of a layer's input count; None for all."""
        if self.counting is None:
            return None
        frames, rest = divmod(len(x), self.batch)
        assert not rest, f"{len(x)} rows are not the frames of {self.batch} clips"
        return (self.counting[:, None] * frames + torch.arange(frames)).flatten().to(x.device, non_blocking=True)

    def moments(self, x: Tensor, rows_N: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return mean and variance (C,) of the rows that count in all processes."""
        dtype = torch.promote_types(x.dtype, torch.float32)
        own_2C = torch.zeros(2, x.shape[1], dtype=dtype, device=x.device)
        if self.clips[self.rank]:
            counted = x if rows_N is None else x.index_select(0, rows_N)
            var_C, mean_C = torch.var_mean(counted.to(dtype), [0, *range(2, x.ndim)], correction=0)
            own_2C = torch.stack([mean_C, var_C])
        means_PC, vars_PC = stacked(own_2C, len(self.clips)).unbind(1)
        share_P1 = torch.tensor(self.clips, dtype=dtype)[:, None] / max(1, sum(self.clips))
        share_P1 = share_P1.to(x.device, non_blocking=True)
        mean_C = (share_P1 * means_PC).sum(0)
        return mean_C, (share_P1 * (vars_PC + (means_PC - mean_C) ** 2)).sum(0)


class _Normalised(torch.autograd.Function):
    """(x - mean) / sqrt(var + eps) * weight + bias, with mean and var of the counting rows of all processes.

    Forward, and most of backward, are torch's own for a layer in evaluation. Missing from those is that the statistics
    depend on the rows: each counting row gives up its part of the sums over all of them.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        mean_C: Tensor,
        var_C: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        eps: float,
        rows_N: Tensor | None,
        values: int,
        processes: int,
    ) -> Tensor:
        ctx.save_for_backward(x, mean_C, var_C, weight, rows_N)
        ctx.eps, ctx.values, ctx.processes, ctx.biased = eps, values, processes, bias is not None
        return torchs_own(x, mean_C, var_C, weight, bias, False, 0.0, eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, mean_C, var_C, weight, rows_N = ctx.saved_tensors
        scale_C = torch.ones_like(mean_C) if weight is None else weight
        dx, dweight, dbias = torch.ops.aten.native_batch_norm_backward(
            dy, x, scale_C, mean_C, var_C, None, None, False, ctx.eps, [True, True, True]
        )
        sums_2C = torch.stack([dbias, dweight]).to(mean_C.dtype)
        if ctx.processes > 1:
            torch.distributed.all_reduce(sums_2C)
        rate_C = (var_C + ctx.eps).rsqrt()
        level_C, slope_C = sums_2C * scale_C * rate_C / ctx.values
        shape = (1, -1, *(1,) * (x.ndim - 2))
        level, slope, mean = (value_C.view(shape) for value_C in (level_C, slope_C * rate_C, mean_C))
        if rows_N is None:
            dx -= (level + slope * (x - mean)).to(dx.dtype)
        else:
            dx.index_add_(0, rows_N, -(level + slope * (x.index_select(0, rows_N) - mean)).to(dx.dtype))
        own = (dweight if weight is not None else None, dbias if ctx.biased else None)
        return dx, None, None, *own, None, None, None, None
