"""The published networks in their authors' or a library's code, beside ours with the same weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hybridvideo.models import create_model
from hybridvideo.models.contract import VideoModel
from hybridvideo.weights.load_weights import load_weights

NAMES = ("torchvision swin3d_t", "transformers TimeSformer-B", "transformers VideoMAE-B")


@dataclass(frozen=True)
class Bars:
    """How many times as fast ours must be: forward in fp32 and bf16, a training step; and its share of the memory."""

    fp32: float
    bf16: float
    training: float
    memory: float | None = None


@dataclass(frozen=True)
class Pair:
    """Two networks that must give the same logits for the same clip."""

    name: str
    peer: nn.Module
    ours_name: str
    ours: VideoModel
    clip: tuple[int, int, int, int]
    bars: Bars
    gpu_bars: Bars

    def peer_logits(self, x_BCTHW: Tensor) -> Tensor:
        """The peer's logits for a clip in our order of axes."""
        if self.name.startswith("torchvision"):
            logits: Tensor = self.peer(x_BCTHW)
            return logits
        out: Tensor = self.peer(x_BCTHW.transpose(1, 2)).logits
        return out


def randomise(model: nn.Module) -> None:
    """Weights about as large as trained ones: at their initial values many layers do nothing."""
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        nn.init.normal_(parameter, std=0.5 if "table" in name else 0.02 if parameter.ndim > 1 else 0.1)
        if parameter.ndim == 1 and name.endswith("weight"):
            parameter.data += 1


def swin() -> tuple[nn.Module, str]:
    """torchvision's Video Swin-T."""
    from torchvision.models.video import swin3d_t

    return swin3d_t(weights=None), "video_swin_tiny"


def timesformer() -> tuple[nn.Module, str]:
    """transformers' TimeSformer-B, divided attention."""
    from transformers import TimesformerConfig, TimesformerForVideoClassification

    settings: dict[str, Any] = {"num_labels": 400}
    return TimesformerForVideoClassification(TimesformerConfig(**settings)), "timesformer_base"


def videomae() -> tuple[nn.Module, str]:
    """transformers' VideoMAE-B, with its fastest attention."""
    from transformers import VideoMAEConfig, VideoMAEForVideoClassification

    settings: dict[str, Any] = {"num_labels": 400, "use_mean_pooling": True, "attn_implementation": "sdpa"}
    config = VideoMAEConfig(**settings)
    return VideoMAEForVideoClassification(config), "videomae_base"


BUILDERS: dict[str, tuple[Callable[[], tuple[nn.Module, str]], Bars, Bars]] = {
    NAMES[0]: (swin, Bars(1.7, 3.0, 1.5, 0.6), Bars(2.5, 2.5, 1.0, 0.5)),
    NAMES[1]: (timesformer, Bars(1.1, 1.1, 1.3), Bars(2.0, 2.0, 1.0, 0.5)),
    NAMES[2]: (videomae, Bars(1.0, 1.0, 1.0), Bars(1.0, 1.0, 1.0)),
}


def make_pair(name: str, device: str, **changes: Any) -> Pair:
    """A peer with random weights and ours with the same; stochastic depth is off in both."""
    build, bars, gpu_bars = BUILDERS[name]
    peer, ours_name = build()
    randomise(peer)
    ours = create_model(ours_name, 400, drop_path=0.0, **changes)
    load_weights(ours, peer.state_dict())
    for module in peer.modules():
        if type(module).__name__ == "StochasticDepth":
            module.p = 0.0  # type: ignore[assignment]
    return Pair(name, peer.to(device), ours_name, ours.to(device), ours.input_shape, bars, gpu_bars)
