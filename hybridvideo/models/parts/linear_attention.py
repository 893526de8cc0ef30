"""Attention whose cost grows with the positions, not with their square: softmax(q k^T) is replaced by phi(q) phi(k)^T.

out = phi(q) (phi(k)^T v) / phi(q) (phi(k)^T 1)

elu     phi(x) = elu(x) + 1 (Katharopoulos et al. 2020, *Transformers are RNNs*)
random  phi(x) = exp(w x - |x|^2 / 2) for F random orthogonal vectors w: FAVOR+ (Choromanski et al. 2021,
        *Rethinking Attention with Performers*), whose expected product is exp(q k), softmax's

B batch, or frames if they are apart   N positions   C channels   h heads   d channels of a head   F features
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from hybridvideo.models.parts.attention import GroupedAttention
from hybridvideo.models.parts.linear import lowered


class LinearAttention(GroupedAttention):
    """All positions of a clip to each other; with `frames_apart`, all of a frame.

    Args:
        features: random features of a head, more for a better approximation of softmax; 0: elu + 1.
        seed: of the random features, which are saved with the weights.
    """

    random_Fd: Tensor

    def __init__(self, dim: int, heads: int, features: int = 0, seed: int = 0, frames_apart: bool = False) -> None:
        super().__init__(dim, heads)
        self.features, self.frames_apart = features, frames_apart
        if features:
            self.register_buffer("random_Fd", orthogonal_features(features, dim // heads, seed))

    def redraw(self, seed: int) -> None:
        """Replace the random features by those of another seed, as Performers do every thousand steps of training."""
        new_Fd = orthogonal_features(self.features, self.random_Fd.shape[1], seed)
        with torch.no_grad():
            self.random_Fd.copy_(new_Fd)

    def forward(self, x_BTHWC: Tensor) -> Tensor:
        x_BNC = x_BTHWC.flatten(0, 1).flatten(1, 2) if self.frames_apart else x_BTHWC.flatten(1, 3)
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.project(x_BNC))
        if self.features:
            q, k = softmax_features(q, k, self.random_Fd)
        else:
            q, k = F.elu(q) + 1, F.elu(k) + 1
        out: Tensor = self.proj(linear_attention(q, k, v).transpose(1, 2).flatten(2))
        return out.view(x_BTHWC.shape)


def linear_attention(q_BhNF: Tensor, k_BhNF: Tensor, v_BhNd: Tensor) -> Tensor:
    """Attention of features, (B, h, N, d). A factor on all features of a query, or of all keys, cancels."""
    memory_BhFd = k_BhNF.transpose(2, 3) @ v_BhNd
    total_BhF1 = k_BhNF.sum(2, keepdim=True).transpose(2, 3)
    weight_BhN1 = q_BhNF @ total_BhF1
    return q_BhNF @ memory_BhFd / weight_BhN1.clamp_min(torch.finfo(weight_BhN1.dtype).tiny)


def softmax_features(q_BhNd: Tensor, k_BhNd: Tensor, random_Fd: Tensor) -> tuple[Tensor, Tensor]:
    """FAVOR+ features of queries and keys, (B, h, N, F), in one pass each: by softmax.

    Dividing a query's features by their sum, and all keys' by theirs, cancels later and keeps the exponents bounded.
    """
    B, h, N, d = k_BhNd.shape
    directions_dF = lowered(random_Fd.t() * d**-0.25).to(q_BhNd.dtype)
    q = (q_BhNd @ directions_dF).softmax(-1, dtype=torch.float32)
    half_square = k_BhNd.float().square().sum(-1, keepdim=True) * (0.5 * d**-0.5)
    k = ((k_BhNd @ directions_dF) - half_square).flatten(2).softmax(-1, dtype=torch.float32).view(B, h, N, -1)
    if k_BhNd.dtype == torch.float16:
        k = k * N  # within its range
    return q.to(q_BhNd.dtype), k.to(k_BhNd.dtype)


def orthogonal_features(features: int, dim: int, seed: int) -> Tensor:
    """(F, d): in groups of d orthogonal directions, with the lengths of normal vectors."""
    random = torch.Generator().manual_seed(seed)
    lengths_F1 = torch.randn(features, dim, generator=random, device="cpu").norm(dim=1, keepdim=True)
    groups_Gdd = torch.linalg.qr(torch.randn(-(-features // dim), dim, dim, generator=random, device="cpu"))[0]
    return (groups_Gdd.flatten(0, 1)[:features] * lengths_F1).to(torch.get_default_device())
