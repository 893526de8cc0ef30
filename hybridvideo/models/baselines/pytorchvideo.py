"""The 3-D CNNs of pytorchvideo, and its MViT: Slow, C2D, I3D, CSN, R(2+1)D, X3D, SlowFast.

Feichtenhofer et al. 2019, *SlowFast Networks for Video Recognition*; Feichtenhofer 2020, *X3D*; Tran et al. 2019,
*Video Classification with Channel-Separated Convolutional Networks*; Fan et al. 2021, *Multiscale Vision Transformers*.
pytorchvideo is an extra (`pip install 'hybridvideo[pytorchvideo]'`), imported when one of these is built; only
its `models` and `layers` are used. Any number of frames and any frame size work; SlowFast needs multiples of `alpha`.

Published figures average the softmax of views. For a frame larger than the head's window, pytorchvideo averages the
logits over the window's places, and so do these models (PySlowFast averages their softmax, for X3D and others).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal

import torch
from torch import Tensor, nn

from hybridvideo.config.data import ClipConfig
from hybridvideo.config.evaluation import EvalConfig
from hybridvideo.errors import EnvironmentFault, UserError
from hybridvideo.models.baselines.baseline import Baseline
from hybridvideo.models.baselines.layers import WindowPool, channels_last, from_grid, picklable, to_grid
from hybridvideo.models.baselines.mvit import MVIT_KEYS, MViT, stage_starts
from hybridvideo.models.checks import NumbersOnCpu, check_heads
from hybridvideo.models.contract import VideoModel
from hybridvideo.models.variants import KINETICS, Published, Variant


def models_of(module: str) -> Any:
    """Import a module of `pytorchvideo.models`. Raises EnvironmentFault if pytorchvideo is not installed."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # fvcore, below it, scripts a function as it is imported
            return import_module(f"pytorchvideo.models.{module}")
    except ModuleNotFoundError as error:
        raise EnvironmentFault(
            f"this network is pytorchvideo's, which is not installed ({error}); pip install 'hybridvideo[pytorchvideo]'"
        ) from error


# --- one pathway ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PytorchvideoResNetConfig:
    """A ResNet of bottleneck blocks."""

    frames: int = 8
    height: int = 256
    width: int = 256
    kind: Literal["slow", "c2d", "i3d", "csn", "r2plus1d"] = "slow"
    """slow: temporal kernels in the last two stages. c2d: none. i3d: in every second block. csn: depthwise 3x3x3.
    r2plus1d: 3x3x3 as 1x3x3 and 3x1x1."""
    depth: Literal[50, 101, 152] = 50
    """Layers."""
    channels: int = 64
    """Of the stem."""
    window: tuple[int, int, int] = (8, 7, 7)
    """Frames, rows and columns of the last grid that are averaged together."""
    dropout: float = 0.5


class PytorchvideoNet(Baseline):
    """`blocks` in a row: stem, residual stages (c2d and i3d: a pool of frames after the first), head."""

    def __init__(self, net: Any, config: Any, num_classes: int) -> None:
        super().__init__(picklable(net), config, num_classes, f"blocks.{len(net.blocks) - 1}.proj")

    def stem_parts(self) -> list[nn.Module]:
        return [self.net.blocks[0]]

    def stage_blocks(self) -> dict[str, list[nn.Module]]:
        stages: list[list[nn.Module]] = []
        before: list[nn.Module] = []
        for part in self.net.blocks[1:-1]:
            if hasattr(part, "res_blocks"):
                stages.append([*before, *part.res_blocks])
                before = []
            else:
                before.append(part)
        return {f"stage{i + 1}": blocks for i, blocks in enumerate(stages)}

    def head_parts(self) -> list[nn.Module]:
        return [self.net.blocks[-1]]

    def pooled(self, grid_BTHWC: Tensor) -> Tensor:
        return self.net.blocks[-1].pool(from_grid(grid_BTHWC)).mean((2, 3, 4))


class PytorchvideoResNet(PytorchvideoNet):
    """Slow, CSN and R(2+1)D."""

    def __init__(self, config: PytorchvideoResNetConfig, num_classes: int) -> None:
        common = {"model_depth": config.depth, "model_num_class": num_classes, "stem_dim_out": config.channels}
        net = RESNETS[config.kind](head_activation=None, **common)
        net.blocks[-1].pool = WindowPool(config.window)
        super().__init__(net, config, num_classes)


class FramePoolResNet(PytorchvideoResNet):
    """C2D and I3D, whose second stage begins with a pool over pairs of frames."""


def slow(**common: Any) -> Any:
    """Temporal kernels in the late stages, with a small grid."""
    return models_of("resnet").create_resnet(stem_conv_kernel_size=(1, 7, 7), **common)


def c2d(**common: Any) -> Any:
    """An image ResNet on each frame; frames meet in two pools only."""
    kernels = ((1, 1, 1),) * 4
    return models_of("resnet").create_resnet(
        stem_conv_kernel_size=(1, 7, 7), stage1_pool=nn.MaxPool3d, stage_conv_a_kernel_size=kernels, **common
    )


def i3d(**common: Any) -> Any:
    """An image ResNet with every second block inflated."""
    over, along = (3, 1, 1), (1, 1, 1)
    kernels = (over, [over, along], [over, along], [along, over])
    return models_of("resnet").create_resnet(
        stem_conv_kernel_size=(5, 7, 7), stage1_pool=nn.MaxPool3d, stage_conv_a_kernel_size=kernels, **common
    )


def csn(**common: Any) -> Any:
    """Channels are mixed by pointwise kernels, positions by depthwise ones."""
    return models_of("csn").create_csn(stem_pool=nn.MaxPool3d, **common)


def r2plus1d(**common: Any) -> Any:
    """Space, then time."""
    return models_of("r2plus1d").create_r2plus1d(**common)


RESNETS: dict[str, Callable[..., Any]] = {"slow": slow, "c2d": c2d, "i3d": i3d, "csn": csn, "r2plus1d": r2plus1d}


@dataclass(frozen=True)
class X3DConfig:
    """A small network grown along frames, size, width and depth."""

    frames: int = 16
    height: int = 256
    width: int = 256
    width_factor: float = 2.0
    """Of the channels."""
    depth_factor: float = 2.2
    """Of the number of blocks."""
    window: tuple[int, int, int] = (16, 7, 7)
    """Frames, rows and columns of the last grid that are averaged together; its training size over 32."""
    dropout: float = 0.5


class X3D(PytorchvideoNet):
    """Depthwise 3x3x3 bottlenecks with squeeze and excitation; the head has layers before and after its pool."""

    def __init__(self, config: X3DConfig, num_classes: int) -> None:
        net = models_of("x3d").create_x3d(
            input_clip_length=config.window[0],
            input_crop_size=32 * config.window[1],
            model_num_class=num_classes,
            width_factor=config.width_factor,
            depth_factor=config.depth_factor,
            head_activation=None,
            inner_act=nn.SiLU,  # the same as pytorchvideo's, but faster, and it compiles and exports
        )
        net.blocks[-1].pool.pool = WindowPool(config.window)
        super().__init__(net, config, num_classes)


# --- two pathways -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SlowFastConfig:
    """A slow pathway with few frames, and a fast one with all frames and an eighth of the channels."""

    frames: int = 32
    height: int = 256
    width: int = 256
    alpha: int = 4
    """Frames of the fast pathway for each of the slow."""
    depth: Literal[18, 50, 101, 152] = 50
    """Layers."""
    channels: int = 64
    """Of the slow pathway's stem, a multiple of 8."""
    fusion: int = 7
    """Frames that the kernels from the fast to the slow pathway span."""
    window: tuple[int, int, int] = (8, 7, 7)
    """Frames, rows and columns of the last slow grid that are averaged together; alpha times the frames if fast."""
    dropout: float = 0.5


class SlowFast(Baseline):
    """A clip of T frames, T a multiple of alpha; the slow pathway sees T / alpha of them, evenly from first to last.

    A grid (B, T / alpha, H, W, C) holds both pathways: at each slow frame its channels, then those of alpha fast frames
    one after another.
    """

    def __init__(self, config: SlowFastConfig, num_classes: int) -> None:
        check_frames(config.frames, config.alpha)
        if config.channels % 8:
            raise UserError(f"channels is {config.channels}; give a multiple of 8: the fast pathway has one eighth")
        net = models_of("slowfast").create_slowfast(
            model_depth=config.depth,
            model_num_class=num_classes,
            head_activation=None,
            stem_dim_outs=(config.channels, config.channels // 8),
            slowfast_fusion_conv_kernel_size=(config.fusion, 1, 1),
            slowfast_fusion_conv_stride=(config.alpha, 1, 1),
        )
        frames, height, width = config.window
        net.blocks[-2].pool = nn.ModuleList([WindowPool([n, height, width]) for n in (frames, config.alpha * frames)])
        super().__init__(picklable(net), config, num_classes, f"blocks.{len(net.blocks) - 1}.proj")

    def stem_parts(self) -> list[nn.Module]:
        return [self.net.blocks[0]]

    def stage_blocks(self) -> dict[str, list[nn.Module]]:
        return {f"stage{i + 1}": [stage] for i, stage in enumerate(self.net.blocks[1:-2])}

    def head_parts(self) -> list[nn.Module]:
        return [self.net.blocks[-1]]

    def forward_stem(self, x_BCTHW: Tensor) -> Tensor:
        check_frames(x_BCTHW.shape[2], self.config.alpha)
        slow = slow_frames(x_BCTHW.shape[2], self.config.alpha).to(x_BCTHW.device)
        pathways = [channels_last(x_BCTHW.index_select(2, slow)), channels_last(x_BCTHW)]
        return self.together(*self.net.blocks[0](pathways))

    def enter(self, grid_BTHWC: Tensor) -> Any:
        return self.apart(grid_BTHWC, self.config.channels // 8)

    def grid_of(self, x: Any) -> Tensor:
        return self.together(*x)

    def run(self, block: Any, x: list[Tensor]) -> list[Tensor]:
        """Run both pathways through the blocks of a stage, then fuse the fast into the slow."""
        out = []
        for part in block.multipathway_blocks:
            x_BCTHW = x.pop(0)
            for layer in part.res_blocks:
                x_BCTHW = self.run_block(layer, x_BCTHW)
            out.append(x_BCTHW)
        fused: list[Tensor] = block.multipathway_fusion(out)
        return fused

    def pooled(self, grid_BTHWC: Tensor) -> Tensor:
        pathways = self.apart(grid_BTHWC, self.config.channels * 32 // 8)
        pools = self.net.blocks[-2].pool
        return torch.cat([pool(x).mean((2, 3, 4)) for pool, x in zip(pools, pathways, strict=True)], 1)

    def together(self, slow_BCTHW: Tensor, fast_BCTHW: Tensor) -> Tensor:
        """Join both pathways in one grid, as described for the class."""
        fast_BTaHWC = to_grid(fast_BCTHW).unflatten(1, (-1, self.config.alpha))
        return torch.cat([to_grid(slow_BCTHW), fast_BTaHWC.permute(0, 1, 3, 4, 2, 5).flatten(4)], 4)

    def apart(self, grid_BTHWC: Tensor, fast_channels: int) -> list[Tensor]:
        """Undo `together`: slow and fast, channels first."""
        fast = self.config.alpha * fast_channels
        slow_BTHWC, fast_BTHWC = grid_BTHWC.split([grid_BTHWC.shape[4] - fast, fast], 4)
        fast_BTaHWC = fast_BTHWC.unflatten(4, (self.config.alpha, -1)).permute(0, 1, 4, 2, 3, 5)
        return [from_grid(slow_BTHWC), from_grid(fast_BTaHWC.flatten(1, 2))]


def slow_frames(frames: int, alpha: int) -> Tensor:
    """Return the frames of the slow pathway: frames // alpha of them, evenly from first to last."""
    return torch.linspace(0, frames - 1, frames // alpha, device="cpu").long()


def check_frames(frames: int, alpha: int) -> None:
    """Raise UserError if the two pathways cannot share a clip."""
    if frames < alpha or frames % alpha:
        near = max(alpha, round(frames / alpha) * alpha)
        raise UserError(f"SlowFast needs a multiple of alpha = {alpha} frames and got {frames}; give {near}")


# --- MViT -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PytorchvideoMViTConfig:
    """Multiscale vision transformer, version 1, with absolute positions."""

    frames: int = 16
    height: int = 224
    width: int = 224
    depths: tuple[int, ...] = (1, 2, 11, 2)
    """Blocks of each stage."""
    channels: int = 96
    """In the first stage; doubled in each that follows."""
    heads: int = 1
    """In the first stage; doubled in each that follows."""
    drop_path: float = 0.2
    dropout: float = 0.5


class PytorchvideoMViT(MViT):
    """Patches by an overlapping convolution, blocks that pool queries, keys and values, a class token."""

    def __init__(self, config: PytorchvideoMViTConfig, num_classes: int) -> None:
        check_heads(config.channels, config.heads)
        twice = [[block, 2.0] for block in stage_starts(config.depths)]
        with NumbersOnCpu(torch.ones):  # from which the library computes its factors
            net = models_of("vision_transformers").create_multiscale_vision_transformers(
                spatial_size=(config.height, config.width),
                temporal_size=config.frames,
                depth=sum(config.depths),
                patch_embed_dim=config.channels,
                num_heads=config.heads,
                embed_dim_mul=twice,
                atten_head_mul=twice,
                pool_q_stride_size=[[block, 1, 2, 2] for block in stage_starts(config.depths)],
                pool_kv_stride_adaptive=list(MVIT_KEYS),
                pool_kvq_kernel=[3, 3, 3],
                droppath_rate_block=config.drop_path,
                head_dropout_rate=config.dropout,
                head_num_classes=num_classes,
            )
        del net.cls_positional_encoding  # `MViTTokens` instead, at any size
        super().__init__(net, config, num_classes, "head.proj")

    def stem_parts(self) -> list[nn.Module]:
        return [self.net.patch_embed.patch_model]

    def norm(self) -> nn.Module:
        norm: nn.Module = self.net.norm_embed
        return norm


# --- variants ---------------------------------------------------------------------------------------------------------

ZOO = "https://dl.fbaipublicfiles.com/pytorchvideo/model_zoo/kinetics/"
SLOWFAST_PAPER = "Feichtenhofer et al. 2019, SlowFast"
X3D_PAPER = "Feichtenhofer 2020, X3D"
MVIT_PAPER = "Fan et al. 2021, Multiscale Vision Transformers"


def published(top1: float, frames: int, stride: int, file: str, paper: str) -> Published:
    """A figure of pytorchvideo's model zoo: 30 views that cover the short side, trained from scratch."""
    clip, views = ClipConfig(frames=frames, stride=stride), EvalConfig(clips=10, crops=3)
    return Published(top1, clip, views, "none", f"{ZOO}{file}", paper, normalisation=KINETICS)


def resnet(kind: Any, published: Published, **changes: Any) -> Variant[PytorchvideoResNetConfig]:
    """A ResNet with the head's windows of its training."""
    config = PytorchvideoResNetConfig(frames=published.clip.frames, kind=kind, **changes)
    return Variant(FramePoolResNet if kind in ("c2d", "i3d") else PytorchvideoResNet, config, published)


def slowfast(depth: Literal[50, 101], fusion: int, top1: float) -> Variant[SlowFastConfig]:
    """SlowFast 8x8: 8 slow frames of every eighth, 32 fast ones of every second."""
    figure = published(top1, 32, 2, f"SLOWFAST_8x8_R{depth}.pyth", SLOWFAST_PAPER)
    return Variant(SlowFast, SlowFastConfig(depth=depth, fusion=fusion), figure)


def x3d(
    size: str, top1: float, stride: int, test: int, window: tuple[int, int, int], depth: float = 2.2
) -> Variant[X3DConfig]:
    """X3D, tested at a larger size than it was trained at: 32 times its window."""
    figure = published(top1, window[0], stride, f"X3D_{size}.pyth", X3D_PAPER)
    return Variant(X3D, X3DConfig(window[0], test, test, depth_factor=depth, window=window), figure)


def mvit(top1: float, frames: int, stride: int, file: str) -> Variant[PytorchvideoMViTConfig]:
    """MViT-B: 5 clips, the middle of a short side of 256."""
    clip, views = ClipConfig(frames=frames, stride=stride), EvalConfig(clips=5, crops=1)
    figure = Published(top1, clip, views, "none", f"{ZOO}{file}", MVIT_PAPER, 256, KINETICS)
    return Variant(PytorchvideoMViT, PytorchvideoMViTConfig(frames=frames), figure)


c2d_published = published(71.46, 8, 8, "C2D_8x8_R50.pyth", "Wang et al. 2018, Non-local Neural Networks")
i3d_published = published(73.27, 8, 8, "I3D_8x8_R50.pyth", "Wang et al. 2018, Non-local Neural Networks")
csn_published = published(77.0, 32, 2, "CSN_32x2_R101.pyth", "Tran et al. 2019, Channel-Separated Convolutions")
r2plus1d_published = published(76.01, 16, 4, "R2PLUS1D_16x4_R50.pyth", "Tran et al. 2018, R(2+1)D")

PYTORCHVIDEO: dict[str, Callable[..., VideoModel]] = {
    "slow_r50": resnet("slow", published(74.58, 8, 8, "SLOW_8x8_R50.pyth", SLOWFAST_PAPER)),
    "c2d_r50": resnet("c2d", c2d_published, window=(4, 7, 7)),
    "i3d_r50": resnet("i3d", i3d_published, window=(4, 7, 7)),
    "csn_r101": resnet("csn", csn_published, depth=101, window=(4, 7, 7), dropout=0.0),
    "r2plus1d_r50": resnet("r2plus1d", r2plus1d_published, window=(4, 7, 7)),
    "slowfast_r50": slowfast(50, 7, 76.94),
    "slowfast_r101": slowfast(101, 5, 77.90),
    "x3d_xs": x3d("XS", 69.12, 12, 182, (4, 5, 5)),
    "x3d_s": x3d("S", 73.33, 6, 182, (13, 5, 5)),
    "x3d_m": x3d("M", 75.94, 5, 256, (16, 7, 7)),
    "x3d_l": x3d("L", 77.44, 5, 356, (16, 10, 10), 5.0),
    "mvit_base_16x4": mvit(78.85, 16, 4, "MVIT_B_16x4.pyth"),
    "mvit_base_32x3": mvit(80.30, 32, 3, "MVIT_B_32x3_f294077834.pyth"),
}
