"""The video networks of torchvision: ResNet-3D, MC3 and R(2+1)D, S3D, MViT.

Tran et al. 2018, *A Closer Look at Spatiotemporal Convolutions for Action Recognition*; Xie et al. 2018, *Rethinking
Spatiotemporal Feature Learning*; Fan et al. 2021, *Multiscale Vision Transformers*; Li et al. 2022, *MViTv2*. Their
weights load with `load_weights(model, "torchvision:NAME")`. Any number of frames and any frame size work.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

from torch import Tensor, nn

from hybridvideo.config.data import ClipConfig, Normalisation
from hybridvideo.config.evaluation import EvalConfig
from hybridvideo.models.baselines.baseline import Baseline
from hybridvideo.models.baselines.layers import WindowPool, from_grid
from hybridvideo.models.baselines.mvit import MVIT_KEYS, MViT, stage_starts
from hybridvideo.models.checks import check_heads
from hybridvideo.models.contract import VideoModel
from hybridvideo.models.variants import KINETICS, Published, Variant

RESNET_STATISTICS = Normalisation((0.43216, 0.394666, 0.37645), (0.22803, 0.22145, 0.216989))

# --- ResNets ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TorchvisionResNetConfig:
    """r3d, mc3 or r2plus1d, of basic blocks."""

    frames: int = 16
    height: int = 112
    width: int = 112
    kind: Literal["r3d", "mc3", "r2plus1d"] = "r3d"
    """r3d: 3x3x3 kernels. mc3: those in the first stage, 1x3x3 after it. r2plus1d: each as 1x3x3 and 3x1x1."""
    depths: tuple[int, int, int, int] = (2, 2, 2, 2)
    """Blocks of each stage."""
    dropout: float = 0.0


class TorchvisionResNet(Baseline):
    """Stem, layer1 to layer4, mean, linear."""

    def __init__(self, config: TorchvisionResNetConfig, num_classes: int) -> None:
        from torchvision.models.video import resnet

        first = resnet.Conv2Plus1D if config.kind == "r2plus1d" else resnet.Conv3DSimple
        later = resnet.Conv3DNoTemporal if config.kind == "mc3" else first
        stem = resnet.R2Plus1dStem if config.kind == "r2plus1d" else resnet.BasicStem
        kinds, depths = [first, later, later, later], list(config.depths)
        net = resnet.VideoResNet(resnet.BasicBlock, kinds, depths, stem, num_classes=num_classes)
        super().__init__(net, config, num_classes, "fc")

    def stem_parts(self) -> list[nn.Module]:
        return [self.net.stem]

    def stage_blocks(self) -> dict[str, list[nn.Module]]:
        return {f"stage{i}": list(self.net.get_submodule(f"layer{i}")) for i in range(1, 5)}

    def head_parts(self) -> list[nn.Module]:
        return [self.net.fc]

    def pooled(self, grid_BTHWC: Tensor) -> Tensor:
        return grid_BTHWC.mean((1, 2, 3))


# --- S3D --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class S3DConfig:
    """The separable Inception network."""

    frames: int = 128
    height: int = 224
    width: int = 224
    window: tuple[int, int, int] = (2, 7, 7)
    """Frames, rows and columns of the last grid that are averaged together."""
    dropout: float = 0.2


class S3D(Baseline):
    """Separable convolutions and Inception blocks; a stage begins with each max pool."""

    STARTS = (1, 4, 7, 13, 16)  # index in `features` of the first layer of each stage, a max pool; then the end

    def __init__(self, config: S3DConfig, num_classes: int) -> None:
        from torchvision.models.video.s3d import S3D as Network

        net = Network(num_classes, config.dropout)
        net.avgpool = WindowPool(config.window)
        super().__init__(net, config, num_classes, "classifier.1")

    def stem_parts(self) -> list[nn.Module]:
        return [self.net.features[0]]

    def stage_blocks(self) -> dict[str, list[nn.Module]]:
        parts = list(self.net.features)
        ends = zip(self.STARTS, self.STARTS[1:], strict=False)
        return {f"stage{i + 1}": parts[start:end] for i, (start, end) in enumerate(ends)}

    def head_parts(self) -> list[nn.Module]:
        return [self.net.classifier]

    def pooled(self, grid_BTHWC: Tensor) -> Tensor:
        return self.net.avgpool(from_grid(grid_BTHWC)).mean((2, 3, 4))


# --- MViT -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TorchvisionMViTConfig:
    """Version 1 has tables of absolute positions, version 2 of relative ones, and pools queries in every block."""

    frames: int = 16
    height: int = 224
    width: int = 224
    version: Literal[1, 2] = 1
    depths: tuple[int, ...] = (1, 2, 11, 2)
    """Blocks of each stage."""
    channels: int = 96
    """In the first stage; doubled in each that follows."""
    heads: int = 1
    """In the first stage; doubled in each that follows."""
    drop_path: float = 0.2
    dropout: float = 0.5


class TorchvisionMViT(MViT):
    """Patches by an overlapping convolution, blocks that pool queries, keys and values, a class token."""

    def __init__(self, config: TorchvisionMViTConfig, num_classes: int) -> None:
        from torchvision.models.video.mvit import MViT as Network

        check_heads(config.channels, config.heads)
        second = config.version == 2
        net = Network(
            (config.height, config.width),
            config.frames,
            block_settings(config),
            residual_pool=second,
            residual_with_cls_embed=False,
            rel_pos_embed=second,
            proj_after_attn=second,
            dropout=config.dropout,
            stochastic_depth_prob=config.drop_path,
            num_classes=num_classes,
        )
        del net.pos_encoding  # `MViTTokens` instead, at any size
        super().__init__(net, config, num_classes, "head.1", position=not second)

    def stem_parts(self) -> list[nn.Module]:
        return [self.net.conv_proj]

    def norm(self) -> nn.Module:
        norm: nn.Module = self.net.norm
        return norm


def block_settings(config: TorchvisionMViTConfig) -> list[Any]:
    """torchvision's settings of each block."""
    from torchvision.models.video.mvit import MSBlockConfig

    starts, second, settings, stage = stage_starts(config.depths), config.version == 2, [], 0
    for block in range(sum(config.depths)):
        begins = block in starts
        stage += begins
        # Channels grow in the first block of a stage (version 2) or in the last of the one before (version 1).
        before, after = (stage - begins, stage) if second else (stage, stage + (block + 1 in starts))
        keys = [1, *(max(1, stride // 2**stage) for stride in MVIT_KEYS[1:])]
        settings.append(
            MSBlockConfig(
                num_heads=config.heads * 2**stage,
                input_channels=config.channels * 2**before,
                output_channels=config.channels * 2**after,
                kernel_q=[3, 3, 3] if second or begins else [],
                kernel_kv=[3, 3, 3],
                stride_q=[1, 2, 2] if begins else [1, 1, 1] if second else [],
                stride_kv=keys,
            )
        )
    return settings


# --- variants ---------------------------------------------------------------------------------------------------------


def published(name: str, top1: float, paper: str, clip: ClipConfig, clips: int, short_side: int) -> Published:
    """A figure that torchvision reports for its weights: frames chosen by time, centre crops."""
    views, weights = EvalConfig(clips=clips, crops=1), f"torchvision:{name}"
    return Published(top1, clip, views, "none", weights, paper, short_side, RESNET_STATISTICS)


def resnet(kind: Any, top1: float) -> Variant[TorchvisionResNetConfig]:
    """18 layers. torchvision stretches every frame to 128x171 before the crop; here the short side is 128."""
    clip, paper = (
        ClipConfig(frames=16, interval=1 / 15),
        "Tran et al. 2018, A Closer Look at Spatiotemporal Convolutions",
    )
    figure = published(f"{kind}_18", top1, paper, clip, 5, 128)
    return Variant(TorchvisionResNet, TorchvisionResNetConfig(kind=kind), figure)


def mvit(name: str, version: Literal[1, 2], top1: float, paper: str) -> Variant[TorchvisionMViTConfig]:
    """A multiscale transformer of 16 frames."""
    figure = published(name, top1, paper, ClipConfig(frames=16, interval=1 / 7.5), 5, 256)
    config = TorchvisionMViTConfig(version=version)
    return Variant(TorchvisionMViT, config, replace(figure, normalisation=KINETICS))


s3d_published = published(
    "s3d",
    68.368,
    "Xie et al. 2018, Rethinking Spatiotemporal Feature Learning",
    ClipConfig(frames=128, interval=1 / 15),
    1,
    256,
)

TORCHVISION_VIDEO: dict[str, Callable[..., VideoModel]] = {
    "r3d_18": resnet("r3d", 63.2),
    "mc3_18": resnet("mc3", 63.96),
    "r2plus1d_18": resnet("r2plus1d", 67.463),
    "s3d": Variant(S3D, S3DConfig(), s3d_published),
    "mvit_v1_b": mvit("mvit_v1_b", 1, 78.477, "Fan et al. 2021, Multiscale Vision Transformers"),
    "mvit_v2_s": mvit("mvit_v2_s", 2, 80.757, "Li et al. 2022, MViTv2"),
}
