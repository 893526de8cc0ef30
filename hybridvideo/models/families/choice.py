"""Each clip takes one of two paths through every block, convolution or attention: an easy one costs less.

After ConvNet-AIG (Veit and Belongie 2018), which chooses between a layer and none; here between two kinds of layers.
"""

from __future__ import annotations

from hybridvideo.config.model import ChoiceConfig, HeadConfig, HybridConfig, InputConfig, StageConfig, StemConfig
from hybridvideo.models.hybrid import HybridVariant


def choice(depth: int, heads: int, cost: float, merge: bool = False) -> StageConfig:
    """A stage whose blocks choose between a 3x3x3 convolution and divided attention."""
    return StageConfig(
        "choice",
        depth,
        heads,
        attention="divided",
        convolution="conv3d",
        choice=ChoiceConfig(cost=cost),
        position="conv",
        merge=merge,
    )


# To train from scratch; `readings` tells which path a clip took. GMACs are those of the dearer path.
choice_tiny = HybridConfig(
    frames=8,
    height=112,
    width=112,
    input=InputConfig("correlation"),
    stem=StemConfig(widths=(24, 48, 96), norm="batch", activation="relu"),
    stages=(choice(2, 4, cost=0.01), choice(2, 8, cost=0.01, merge=True)),
    drop_path=0.1,
    head=HeadConfig(("mean", "max"), norm="batch"),
)

# For Kinetics-400, from an ImageNet ResNet-50: for bulk jobs on mixed videos, where the mean cost counts.
choice_base = HybridConfig(
    frames=16,
    height=224,
    width=224,
    stem=StemConfig("timm/resnet50", stride=16),
    dim=320,
    stages=(choice(2, 10, cost=0.01), choice(3, 20, cost=0.01, merge=True)),
    drop_path=0.2,
    head=HeadConfig(dropout=0.3),
)

CHOICES: dict[str, HybridVariant] = {
    "choice_tiny": HybridVariant(choice_tiny),
    "choice_base": HybridVariant(choice_base),
}
