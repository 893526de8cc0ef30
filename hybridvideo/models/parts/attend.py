"""Scaled dot-product attention: one function for all networks, which picks the fastest way.

    way         when                                        why
    few_keys    CPU, 16 keys or fewer, 8 with a bias        plain products: fp32 17.6 -> 13.1 ms, bf16 24.7 -> 11.7 ms
    unequal     CPU, values wider or narrower than keys     torch has no kernel: fp32 37.8 -> 19.9 ms, bf16 29.6 -> 12.3
    groupwise   CPU, bf16, training, up to 2048 keys        another backward pass: 47.2 -> 23.1 ms, 152 -> 112 ms
    copied      CPU, fp32, 1024 keys or more                the kernel reads keys many times: copies pay
    fused       everything else                             torch's kernel, in portions that CUDA can launch

Times: torch 2.15, one core with AMX, forward and backward of 8 frames of a ViT-B (12 heads; 196 places with 8 keys
each, 8 frames with 197 keys each, 1568 keys); `unequal`: forward of 16 frames of LeViT (6 heads of 32 and 64 channels).

    B batch   h heads   N queries   M keys   d channels of a head   G groups   t: query, key or value
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

FEW = 16  # keys: their scores are fewer than the queries' values
FEW_BIASED = 8  # keys, if a bias is added to the scores
LONG = 1024  # keys: from here on copies of queries, keys and values pay
MANY = 2048  # keys: from here on the fused kernel's own backward pass is as fast, and it never holds all scores
SCORES = 5 * 2**20  # recomputed at once: more leave the caches, and a tensor beyond 32 MiB is mapped again each time
LARGEST_GRID = 65_535  # blocks that CUDA launches along the axes that its kernels use for batch and heads
BIAS_GRADIENTS = 2**27  # scores per call if the bias is trained: CUDA's backward pass writes a gradient for each


def attend(q_BhNd: Tensor, k_BhMd: Tensor, v_BhMd: Tensor, bias: Tensor | None = None) -> Tensor:
    """softmax(q k^T / sqrt(d) + bias) v, (B, h, N, d).

    Args:
        q_BhNd: queries; 4-D, since torch computes 5-D ones by its slow math kernel.
        k_BhMd: keys.
        v_BhMd: values.
        bias: added to the scores, (1, 1 or h, N, M); of the queries' dtype.
    """
    assert q_BhNd.ndim == 4 and (bias is None or bias.shape[0] == 1)
    return WAYS[fastest(q_BhNd, k_BhMd, v_BhMd, bias)](q_BhNd, k_BhMd, v_BhMd, bias)


def fastest(q_BhNd: Tensor, k_BhMd: Tensor, v_BhMd: Tensor, bias: Tensor | None) -> str:
    """Return the name of the way that is fastest for these tensors (see the table above)."""
    if not q_BhNd.is_cpu or torch.compiler.is_compiling():
        return "fused"
    keys = k_BhMd.shape[2]
    if v_BhMd.shape[3] != q_BhNd.shape[3]:
        return "unequal"
    if bias is not None:  # its gradient, where one is wanted, is for `attend_packed`
        if keys <= FEW_BIASED:
            return "few_keys"
        return "copied" if keys >= LONG and q_BhNd.dtype == torch.float32 else "fused"
    if keys <= FEW:
        return "few_keys"
    if q_BhNd.dtype == torch.bfloat16 and keys <= MANY and torch.is_grad_enabled():
        return "groupwise"
    return "copied" if q_BhNd.dtype == torch.float32 and keys >= LONG else "fused"


def fused(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """torch's kernel, in as few calls as CUDA can launch and as keep the gradient of a bias bounded."""
    batch, heads = q.shape[:2]
    most_heads = min(heads, LARGEST_GRID)
    most = min(batch, LARGEST_GRID)
    if bias is not None and bias.requires_grad and torch.is_grad_enabled():
        most = min(most, max(1, BIAS_GRADIENTS // (heads * q.shape[2] * k.shape[2])))
    if batch <= most and heads <= most_heads:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
    if heads > most_heads:
        biases = head_biases(bias, heads, most_heads)
        pieces = zip(*(x.split(most_heads, 1) for x in (q, k, v)), biases, strict=True)
        return torch.cat([fused(*piece) for piece in pieces], 1)
    pieces = zip(q.split(most), k.split(most), v.split(most), strict=True)
    return torch.cat([F.scaled_dot_product_attention(*piece, attn_mask=bias) for piece in pieces])


def head_biases(bias: Tensor | None, heads: int, step: int) -> list[Tensor | None]:
    """The bias of each group of `step` heads."""
    if bias is None or bias.shape[1] == 1:
        return [bias] * -(-heads // step)
    return list(bias.split(step, 1))


def copied(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """torch's kernel on contiguous copies."""
    return fused(q.contiguous(), k.contiguous(), v.contiguous(), bias)


def few_keys(q_BhNd: Tensor, k_BhMd: Tensor, v_BhMd: Tensor, bias: Tensor | None = None) -> Tensor:
    """Softmax over the last but one axis: its vectors are long, those of the last axis a handful of values."""
    scores_BhMN = k_BhMd @ q_BhNd.transpose(2, 3) * q_BhNd.shape[3] ** -0.5
    if bias is not None:
        scores_BhMN = scores_BhMN + bias.transpose(2, 3)
    return scores_BhMN.softmax(2).transpose(2, 3) @ v_BhMd


def unequal(q_BhNd: Tensor, k_BhMd: Tensor, v_BhMe: Tensor, bias: Tensor | None = None) -> Tensor:
    """Plain products; without gradients in place, a few groups at a time, so that scores stay in the caches."""
    if torch.is_grad_enabled():
        return scores_of(q_BhNd, k_BhMd, bias).softmax(-1) @ v_BhMe
    step = max(1, SCORES // (q_BhNd.shape[1] * q_BhNd.shape[2] * k_BhMd.shape[2]))
    outs = []
    for q, k, v in zip(q_BhNd.split(step), k_BhMd.split(step), v_BhMe.split(step), strict=True):
        scores = scores_of(q, k, bias)
        outs.append(torch.ops.aten._softmax.out(scores, -1, False, out=scores) @ v)
    return torch.cat(outs) if len(outs) > 1 else outs[0]


def scores_of(q_BhNd: Tensor, k_BhMd: Tensor, bias: Tensor | None) -> Tensor:
    """q k^T / sqrt(d) + bias."""
    scores_BhNM = (q_BhNd * q_BhNd.shape[3] ** -0.5) @ k_BhMd.transpose(2, 3)
    return scores_BhNM if bias is None else scores_BhNM.add_(bias)


def groupwise(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """The fused forward pass; backward recomputes the scores of a few heads at a time."""
    assert bias is None
    out: Tensor = GroupwiseBackward.apply(q, k, v)
    return out


WAYS: dict[str, Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]] = {
    "fused": fused,
    "copied": copied,
    "few_keys": few_keys,
    "unequal": unequal,
    "groupwise": groupwise,
}


class GroupwiseBackward(torch.autograd.Function):
    """See `groupwise`."""

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


# --- queries, keys and values as one layer yields them ----------------------------------------------------------------


def attend_packed(qkv_GNthd: Tensor, bias_1hNN: Tensor | None = None) -> Tensor:
    """Attention within each group, (G, N, h, d); its gradient is one tensor, as `qkv_GNthd` is."""
    trained = torch.is_grad_enabled() and bias_1hNN is not None and bias_1hNN.requires_grad
    if trained and qkv_GNthd.is_cpu and not torch.compiler.is_compiling():
        out: Tensor = BiasedAttention.apply(qkv_GNthd, bias_1hNN)
        return out
    q, k, v = qkv_GNthd.permute(2, 0, 3, 1, 4)
    return attend(q, k, v, bias_1hNN).transpose(1, 2)


class BiasedAttention(torch.autograd.Function):
    """Attention with a trained bias that keeps no scores: backward recomputes them, a few groups at a time.

    torch's fused CPU kernel has no gradient of its mask; when one is wanted it falls back to keeping every score.
    """

    SCORES = 2**20  # of one step in backward: they stay in the caches

    @staticmethod
    def forward(qkv_GNthd: Tensor, bias_1hNN: Tensor) -> Tensor:
        with torch.no_grad():
            return attend_packed(qkv_GNthd, bias_1hNN.detach())

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad_GNhd: Tensor) -> tuple[Tensor, Tensor]:
        qkv_GNthd, bias = ctx.saved_tensors
        G, N, _, h, d = qkv_GNthd.shape
        q, k, v = qkv_GNthd.permute(2, 0, 3, 1, 4)
        grad_out, grad_qkv = grad_GNhd.transpose(1, 2), torch.empty_like(qkv_GNthd)
        grad_q, grad_k, grad_v = grad_qkv.permute(2, 0, 3, 1, 4)
        grad_bias = torch.zeros(bias.shape, dtype=torch.float32)
        groups, heads = step_of(h, N, BiasedAttention.SCORES)
        for at, first in itertools.product(range(0, G, groups), range(0, h, heads)):
            some = slice(at, at + groups), slice(first, first + heads)
            q_s, k_s, v_s, grad_s = q[some] * d**-0.5, k[some], v[some], grad_out[some]
            if heads < h:  # they lie apart: the products read them several times
                k_s, v_s, grad_s = k_s.contiguous(), v_s.contiguous(), grad_s.contiguous()
            weights = torch.matmul(q_s, k_s.transpose(2, 3)).add_(bias[:, some[1]]).softmax(-1)
            grad_v[some] = torch.matmul(weights.transpose(2, 3), grad_s)
            grad_weights = torch.matmul(grad_s, v_s.transpose(2, 3))
            grad_scores = torch.ops.aten._softmax_backward_data(grad_weights, weights, -1, weights.dtype)
            grad_q[some] = torch.matmul(grad_scores, k_s).mul_(d**-0.5)
            grad_k[some] = torch.matmul(grad_scores.transpose(2, 3), q_s)
            grad_bias[0, some[1]] += grad_scores[0] if len(grad_scores) == 1 else grad_scores.sum(0)
        return grad_qkv, grad_bias.to(bias.dtype)


def step_of(heads: int, tokens: int, scores: int) -> tuple[int, int]:
    """How many groups, and how many heads of each, have about so many scores together."""
    of_head = tokens * tokens
    return max(1, scores // (heads * of_head)), min(heads, max(1, scores // of_head))
