"""The block of a convolutional attention network: a convolution, weighed by attention, added to its input.

    x + relu(norm(conv(x))) * a(x)

    a         weighs       how
    channel   channels     sigmoid(W2 gelu(W1 pool(x))), C/4 between; 1 is the most
    spatial   positions    attention that each position of a frame gets from all of them, head by head; 1 is the mean

With a = 1 it is the residual block of a convolutional network.

    B batch   T H W grid   C channels   h heads   d channels of a head   N = H * W
"""

from __future__ import annotations

import torch.nn.functional as F
from timm.layers import DropPath
from torch import Tensor, nn

from hybridvideo.models.checks import check_heads
from hybridvideo.models.parts.depthwise import on_grid
from hybridvideo.models.parts.gates import PooledMlp, pool
from hybridvideo.models.parts.linear import Linear
from hybridvideo.models.parts.norms import GridBatchNorm, layer_scale
from hybridvideo.models.parts.place import Place
from hybridvideo.models.readings import Reading


class CanBlock(nn.Module):
    """x + drop_path(scale * conv(x) * a(x)), (B, T, H, W, C) -> the same shape; `weights.values` can be read: a."""

    def __init__(self, place: Place) -> None:
        super().__init__()
        stage, dim = place.stage, place.dim
        t, h, w = place.kernel((1, 3, 3))
        self.conv = nn.Conv3d(dim, dim, (t, h, w), padding=(t // 2, h // 2, w // 2), bias=False)
        self.norm = GridBatchNorm(dim)
        self.weights: nn.Module
        if stage.weigh == "channel":
            self.weights = ChannelWeights(dim, "clip" if place.time else "frame")
        else:
            self.weights = PositionWeights(dim, stage.heads)
        self.scale = layer_scale(dim, stage.layer_scale)
        self.drop_path = DropPath(place.drop_path)

    def forward(self, x_BTHWC: Tensor) -> Tensor:
        conv_BTHWC = F.relu(self.norm(on_grid(self.conv, x_BTHWC)))
        out: Tensor = x_BTHWC + self.drop_path(self.scale(self.weights(x_BTHWC, conv_BTHWC)))
        return out


class ChannelWeights(nn.Module):
    """Weigh the channels of a grid by another, pooled over the clip or over each frame."""

    def __init__(self, dim: int, per: str) -> None:
        super().__init__()
        self.scores, self.per = PooledMlp(dim, max(1, dim // 4), dim), per
        self.values = Reading()

    def forward(self, x_BTHWC: Tensor, conv_BTHWC: Tensor) -> Tensor:
        weights = self.values(self.scores(pool(x_BTHWC, self.per)).sigmoid())
        return conv_BTHWC * weights.to(conv_BTHWC.dtype)


class PositionWeights(nn.Module):
    """Weigh the positions of a grid by the attention that they get within their frame, of each head for its channels.

    The weights of a frame average 1: each is the sum over the N queries of its share of their attention. They take
    memory for N * N numbers a frame and head.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        check_heads(dim, heads)
        self.heads = heads
        self.qk = Linear(dim, 2 * dim, stacked=(dim, dim))
        self.values = Reading()

    def forward(self, x_BTHWC: Tensor, conv_BTHWC: Tensor) -> Tensor:
        weights_BTHWh = self.values(self.received(x_BTHWC))
        weighed = conv_BTHWC.unflatten(-1, (self.heads, -1)) * weights_BTHWh[..., None].to(conv_BTHWC.dtype)
        return weighed.flatten(-2)

    def received(self, x_BTHWC: Tensor) -> Tensor:
        """The attention that each position gets, (B, T, H, W, h)."""
        H, W, C = x_BTHWC.shape[2:]
        qk_BTN2hd = self.qk(x_BTHWC.flatten(2, 3)).unflatten(-1, (2, self.heads, -1))
        q_BThNd, k_BThNd = qk_BTN2hd.transpose(2, 4).unbind(3)
        scores_BThNN = q_BThNd @ k_BThNd.transpose(-1, -2) * (C // self.heads) ** -0.5
        received_BThN = scores_BThNN.softmax(-1).sum(-2)
        return received_BThN.transpose(2, 3).unflatten(2, (H, W))
