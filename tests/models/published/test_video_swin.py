"""Video Swin gives torchvision's logits for the same weights, at any size, in training and in portions."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.video.swin_transformer import PatchEmbed3d, SwinTransformer3d

from hybridvideo.errors import UserError
from hybridvideo.models import create_model
from hybridvideo.models.contract import VideoModel, count_gmacs, count_parameters
from hybridvideo.models.published import video_swin
from hybridvideo.models.published.video_swin import VideoSwin
from hybridvideo.weights.load_weights import load_weights

CHANGES: dict[str, dict[str, Any]] = {
    "tiny": {"dim": 24, "depths": (2, 2, 2, 1)},
    "wide windows in time": {"dim": 24, "depths": (2, 2, 1, 1), "window": (16, 7, 7)},
    "odd windows": {"dim": 16, "depths": (2, 1, 2, 1), "heads": (2, 2, 4, 4), "window": (3, 5, 4)},
}
SIZES = [(12, 100, 132), (9, 64, 90), (33, 56, 56), (2, 32, 32)]


def randomised(model: nn.Module) -> nn.Module:
    """Weights as far from their initial values as trained ones are."""
    for name, parameter in model.named_parameters():
        nn.init.normal_(parameter, std=1.0 if "table" in name else 0.05 if parameter.ndim > 1 else 0.2)
        if "norm" in name and name.endswith("weight"):
            parameter.data += 1
    return model.eval()


def pair(changes: dict[str, Any], num_classes: int = 7) -> tuple[nn.Module, VideoModel]:
    """torchvision's network with random weights, and ours with the same."""
    torch.manual_seed(0)
    ours = create_model("video_swin_tiny", num_classes, **changes)
    assert isinstance(ours, VideoSwin)
    config = ours.config
    peer = SwinTransformer3d(
        list(config.patch), config.dim, list(config.depths), list(config.heads), list(config.window),
        num_classes=num_classes, patch_embed=PatchEmbed3d,
    )  # fmt: skip
    load_weights(ours, randomised(peer).state_dict())
    return peer, ours.eval()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("changes", CHANGES.values(), ids=CHANGES)
def test_logits_are_torchvisions(changes: dict[str, Any], size: tuple[int, int, int]) -> None:
    peer, ours = pair(changes)
    x = torch.randn(2, 3, *size)
    with torch.no_grad():
        expected = peer(x)
        in_portions = ours(x)
    assert expected.std() > 0.1
    assert (in_portions - expected).abs().max() < 1e-4
    assert (ours(x) - expected).abs().max() < 1e-4  # with gradients a block is computed as a whole


def test_small_portions_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    _, ours = pair(CHANGES["tiny"])
    x = torch.randn(2, 3, 12, 100, 132)
    with torch.no_grad():
        whole = ours(x)
        monkeypatch.setattr(video_swin, "PORTION", 1)
        assert torch.allclose(ours(x), whole, atol=1e-5)


def test_gradients_are_torchvisions() -> None:
    peer, ours = pair({**CHANGES["tiny"], "drop_path": 0.0})
    x = torch.randn(1, 3, 12, 60, 72)
    gradients = []
    for model in (peer, ours.train()):
        loss = model(x).square().sum()
        loss.backward()
        gradients.append(model)
    load_weights(ours, gradients_of(peer, ours), head="strict")  # by the same renaming
    for name, parameter in ours.named_parameters():
        assert parameter.grad is not None
        scale = parameter.detach().abs().max().clamp(min=1e-3)
        assert ((parameter.grad - parameter).abs().max() / scale) < 1e-3, name


def gradients_of(peer: nn.Module, ours: VideoModel) -> dict[str, Tensor]:
    """The peer's gradients under its own names."""
    assert ours.training
    return {name: parameter.grad for name, parameter in peer.named_parameters() if parameter.grad is not None}


def test_sizes_and_cost_are_the_published_ones() -> None:
    for name, parameters, gmacs in (("tiny", 28.16, 87.8), ("small", 49.82, 165.7), ("base", 88.05, 281.3)):
        with torch.device("meta"):
            model = create_model(f"video_swin_{name}")
        assert count_parameters(model) / 1e6 == pytest.approx(parameters, abs=0.01)
        assert count_gmacs(model) == pytest.approx(gmacs, rel=2e-3)


def test_what_the_head_reads_is_the_last_stage_normalised() -> None:
    _, ours = pair(CHANGES["tiny"])
    x = torch.randn(1, 3, 8, 64, 64)
    grids = ours.forward_intermediates(x, ["stem", "stage1", "stage4"])
    assert [tuple(grid.shape) for grid in grids] == [(1, 4, 16, 16, 24), (1, 4, 16, 16, 24), (1, 4, 2, 2, 192)]
    assert torch.allclose(ours.forward_features(x), ours.norm(grids[2]), atol=1e-6)


def test_stages_that_cannot_be_are_refused() -> None:
    with pytest.raises(UserError, match="one of each, 1 or more, for every stage"):
        create_model("video_swin_tiny", depths=(2, 2))
    with pytest.raises(UserError, match="must be 1 or more"):
        create_model("video_swin_tiny", window=(0, 7, 7))


def test_patches_start_as_the_authors_convolution() -> None:
    bound = 96**-0.5
    bias = create_model("video_swin_tiny", 2, depths=(1,), heads=(3,), dim=96).patches.bias
    assert 0.5 * bound < bias.abs().max() <= bound
