"""A classifier for each of two branches, as one matrix: each branch has its own columns.

One layer keeps what the contract promises of a classifier: it can be named, replaced and loaded as a whole.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hybridvideo.models.parts.linear import Linear

BRANCHES = ("conv", "attention")


class TwoHeads(nn.Module):
    """Features of both branches side by side (B, C + D) -> the logits (B, K) of each branch alone."""

    def __init__(self, conv_dim: int, dim: int, num_classes: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.widths = (conv_dim, dim)
        self.dropout = nn.Dropout(dropout)
        self.classifier = Linear(conv_dim + dim, num_classes)

    def forward(self, features_BC: Tensor) -> dict[str, Tensor]:
        C, D = self.widths
        conv_BC, attention_BD = self.dropout(features_BC).split(self.widths, -1)
        alone = torch.cat([F.pad(conv_BC, (0, D)), F.pad(attention_BD, (C, 0))])  # the other branch is zero
        return dict(zip(BRANCHES, self.classifier(alone).chunk(2), strict=True))
