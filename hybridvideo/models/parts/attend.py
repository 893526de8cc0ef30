"""Scaled dot-product attention that is fast on CPU too, where the fused kernel has two weak sides.

torch 2.15, one core with AMX, forward and backward of 8 frames of a ViT-B:

    12 heads, 196 places, 8 keys each    fp32  17.6 -> 13.1 ms    bf16  24.7 -> 11.7 ms    few keys: plain products
    12 heads, 8 frames, 197 keys each                             bf16  47.2 -> 23.1 ms    another backward
    12 heads, 1568 keys (VideoMAE)                                bf16  152  -> 112  ms    the same

    B batch   h heads   N queries   M keys   d channels of a head
"""

from __future__ import annotations

import itertools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

FEW = 16  # keys: their scores are fewer than the queries' values
MANY = 2048  # keys: from there on the fused kernel's own backward pass is as fast, and it never has all scores
SCORES = 5 * 2**20  # made again at once: more leave the caches, and a tensor beyond 32 MiB is mapped anew each time


def attend(q_BhNd: Tensor, k_BhMd: Tensor, v_BhMd: Tensor) -> Tensor:
    """`F.scaled_dot_product_attention(q, k, v)` without mask or dropout."""
    if q_BhNd.is_cpu and not torch.compiler.is_compiling():
        keys = k_BhMd.shape[2]
        if keys <= FEW:
            return attend_to_few(q_BhNd, k_BhMd, v_BhMd)
        if q_BhNd.dtype == torch.bfloat16 and keys <= MANY and torch.is_grad_enabled():
            out: Tensor = GroupwiseBackward.apply(q_BhNd, k_BhMd, v_BhMd)
            return out
    return F.scaled_dot_product_attention(q_BhNd, k_BhMd, v_BhMd)


def attend_to_few(q_BhNd: Tensor, k_BhMd: Tensor, v_BhMd: Tensor) -> Tensor:
    """Softmax over the last but one axis, which goes over whole vectors where the last would be a handful of values."""
    scores_BhMN = k_BhMd @ q_BhNd.transpose(2, 3) * q_BhNd.shape[3] ** -0.5
    return scores_BhMN.softmax(2).transpose(2, 3) @ v_BhMd


class GroupwiseBackward(torch.autograd.Function):
    """The fused forward pass; backward, the scores of some heads of one group after the other are made again."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        ctx.save_for_backward(q, k, v)
        return F.scaled_dot_product_attention(q, k, v)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        q, k, v = ctx.saved_tensors
        grads = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
        B, h, N, _ = q.shape
        step = max(1, SCORES // (N * k.shape[2]))
        for i, first in itertools.product(range(B), range(0, h, step)):
            part = i, slice(first, first + step)
            of_part = group_backward(*(tensor[part].contiguous() for tensor in (q, k, v, grad)))
            for whole, gradient in zip(grads, of_part, strict=True):
                whole[part] = gradient
        return grads


def group_backward(q_hNd: Tensor, k_hMd: Tensor, v_hMd: Tensor, grad_hNd: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and v."""
    scale = q_hNd.shape[-1] ** -0.5
    weights_hNM = product(q_hNd, k_hMd.transpose(1, 2), scale).softmax(-1)
    grad_v = weights_hNM.transpose(1, 2) @ grad_hNd
    grad_weights = grad_hNd @ v_hMd.transpose(1, 2)
    grad_scores = torch.ops.aten._softmax_backward_data(grad_weights, weights_hNM, -1, grad_weights.dtype)
    return product(grad_scores, k_hMd, scale), product(grad_scores.transpose(1, 2), q_hNd, scale), grad_v


def product(a: Tensor, b: Tensor, scale: float) -> Tensor:
    """a @ b * scale."""
    return torch.baddbmm(a.new_empty(1, 1, 1), a, b, beta=0, alpha=scale)
