"""With the frames of a clip memory grows in proportion: window and divided models make no tensor of frames x frames."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from hybridvideo.models import create_model
from hybridvideo.models.contract import VideoModel
from tests.models.small import everything, small


class Largest(TorchDispatchMode):
    """The most numbers in any tensor that an operation made."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else [out]:
            if isinstance(tensor, Tensor) and not tensor._is_view():
                self.numbers = max(self.numbers, tensor.numel())
        return out


def largest_tensor(name: str, frames: int, training: bool) -> int:
    return largest_of(small(name), frames, training, side=32, clips=2)  # in training BatchNorm needs two


def largest_of(model: VideoModel, frames: int, training: bool, side: int = 64, clips: int = 1) -> int:
    model, x = model.train(training), torch.randn(clips, 3, frames, side, side)
    with torch.set_grad_enabled(training), Largest() as largest:
        out = everything(model(x))
        if training:
            out.sum().backward()
    return largest.numbers


NAMES = [
    "video_swin_tiny",
    "timesformer_base",
    "hybrid_tiny",
    "conformer_tiny",
    "maxvit_base",
    "serial_temporal_tiny",
    "serial_temporal_vectors_tiny",
    "serial_divided_tiny",
    "serial_window_tiny",
    "encoder_decoder_tiny",
    "decoder_tiny",
    "parallel_tiny",
    "mobilevit_tiny",
    "towers_tiny",
]


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_the_largest_tensor_grows_with_the_frames_not_with_their_square(name: str, training: bool) -> None:
    assert largest_tensor(name, 128, training) <= 4.4 * largest_tensor(name, 32, training)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("relative", ["none", "table", "mlp"])
@pytest.mark.parametrize("block", ["temporal", "divided", "window3d", "sparse", "linear"])
def test_nor_does_any_attention_that_is_not_joint(block: str, relative: str, training: bool) -> None:
    """Channels are few, so that biases and scores would show."""
    if block == "linear" and relative != "none":
        return
    window = {"window": [4, 4, 4]} if block in ("window3d", "sparse") else {}
    stage = {"block": block, "depth": 2, "heads": 2, "relative": relative, **window}
    settings = {"frames": 32, "height": 64, "width": 64, "stem": {"widths": [8, 8, 8]}, "stages": [stage]}
    few, many = (largest_of(create_model("hybrid", 3, **settings), frames, training) for frames in (64, 256))
    assert many <= 4.4 * few


def test_attention_among_all_tokens_is_computed_without_its_scores_too() -> None:
    assert largest_tensor("videomae_base", 128, training=False) <= 4.4 * largest_tensor(
        "videomae_base", 32, training=False
    )
