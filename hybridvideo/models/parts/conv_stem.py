"""The stem of CoAtNet and MaxViT: two 3x3 convolutions with BatchNorm and an activation between, stride 2."""

from __future__ import annotations

from timm.layers import Conv2dSame
from torch import Tensor, nn

from hybridvideo.config.data import Normalisation
from hybridvideo.config.model import StemConfig
from hybridvideo.errors import UserError
from hybridvideo.models.parts.norms import ACTIVATIONS

HALF = Normalisation((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))  # of timm's weights


class TwoConvStem(nn.Module):
    """(N, 3, H, W) -> (N, C, H / 2, W / 2). Raises UserError unless the config has two widths."""

    stride = 2

    def __init__(self, config: StemConfig) -> None:
        super().__init__()
        if len(config.widths) != 2:
            raise UserError(f"stem.widths is {config.widths}; the coatnet stem has two convolutions, give two")
        first, second = config.widths
        same = config.padding == "same"
        self.conv1 = Conv2dSame(3, first, 3, 2) if same else nn.Conv2d(3, first, 3, 2, 1)
        self.norm = nn.BatchNorm2d(first, eps=config.norm_eps)
        self.conv2 = nn.Conv2d(first, second, 3, padding=1)
        self.activation, self.channels = config.activation, second
        self.normalisation = Normalisation(config.mean or HALF.mean, config.std or HALF.std)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        out: Tensor = self.conv2(ACTIVATIONS[self.activation](self.norm(self.conv1(x_NCHW))))
        return out
