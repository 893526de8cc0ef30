"""A library's network folded: the same maps, from fewer passes over them, only where nothing would notice."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from timm.layers import BatchNormAct2d
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torchvision import models

from hybridvideo.config.model import StemConfig
from hybridvideo.models.parts.folded_network import FoldedNetwork, foldable, foldable_pairs
from hybridvideo.models.parts.shortcuts import literally
from hybridvideo.models.parts.stems import open_stem
from tests.models.baselines.test_baselines import randomised

FRAMES = torch.randn(2, 3, 48, 64, generator=torch.Generator().manual_seed(0))

# network -> norms that have a convolution right before them, and all
NETWORKS: dict[str, tuple[Callable[[], nn.Module], int, int]] = {
    "every norm follows a convolution": (lambda: timm.create_model("resnet18"), 20, 20),
    "convolutions that pad by hand": (lambda: timm.create_model("tf_mobilenetv3_small_minimal_100"), 34, 34),
    "norms before convolutions": (lambda: timm.create_model("resnetv2_50", layers=(1, 1, 1, 1)), 8, 13),
    "one convolution for two norms": (lambda: OneForTwo(), 0, 2),
    "a convolution whose output is a result": (lambda: AlsoReturned(), 0, 1),
    "weights standardised in every pass": (lambda: start_of("resnetv2_50x1_bit"), 0, 0),
    "weights standardised, padding by hand": (lambda: hybrid_backbone(), 0, 0),
    "torchvision": (lambda: models.mobilenet_v2(), 52, 52),
}


def hybrid_backbone() -> nn.Module:
    backbone: nn.Module = timm.create_model("vit_small_r26_s32_224", depth=1).patch_embed.backbone
    return nn.Sequential(backbone.stem, backbone.stages)


def start_of(name: str) -> nn.Module:
    network = timm.create_model(name)
    return nn.Sequential(network.stem, network.stages[0])


class OneForTwo(nn.Module):
    """Two norms read what one convolution made."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.first, self.second = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        out: Tensor = self.first(x) + self.second(x)
        return out


class AlsoReturned(nn.Module):
    """The norm is not the only reader."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = self.conv(x)
        return {"map": x, "normed": self.norm(x)}


class Passes(TorchFunctionMode):
    """The number of norms that run in a second call: the first folds them."""

    def __init__(self, call: Callable[[], object]) -> None:
        super().__init__()
        call()
        self.norms = 0
        with self:
            call()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.norms += func in (torch.batch_norm, nn.functional.batch_norm)
        return func(*args, **(kwargs or {}))


@torch.no_grad()
@pytest.mark.parametrize("kind", NETWORKS)
def test_exactly_the_norms_that_alone_read_a_convolution_are_folded(kind: str) -> None:
    build, foldable_norms, norms = NETWORKS[kind]
    network, folded = randomised(build()), FoldedNetwork()
    assert len(foldable_pairs(network, FRAMES)) == foldable_norms
    assert sum(isinstance(layer, nn.BatchNorm2d) for layer in network.modules()) == norms
    whole, short = network(FRAMES), folded(network, FRAMES)
    if isinstance(whole, dict):
        whole, short = whole["map"], short["map"]
    assert torch.allclose(short, whole, atol=1e-5 * float(whole.abs().max()))
    assert Passes(lambda: folded(network, FRAMES)).norms == norms - foldable_norms


@torch.no_grad()
def test_a_changed_weight_or_statistic_is_noticed() -> None:
    conv, norm = nn.Conv2d(3, 4, 3), BatchNormAct2d(4)
    network, folded = randomised(nn.Sequential(conv, norm)), FoldedNetwork()
    folded(network, FRAMES)
    conv.weight.mul_(2)
    norm.running_mean.add_(1)
    assert torch.allclose(folded(network, FRAMES), network(FRAMES), atol=1e-5)


def test_nothing_is_folded_with_gradients_or_in_training_or_where_it_would_be_noticed() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval()
    assert not foldable(network)
    with torch.no_grad():
        assert foldable(network)
        with literally():
            assert not foldable(network)
        network[1].train()
        assert not foldable(network)
        network[1].eval()
        network[0].register_forward_hook(lambda *_: None)
        assert not foldable(network)


@pytest.mark.parametrize("name", ["timm/resnet18", "torchvision/resnet18", "small"])
def test_a_stem_runs_without_its_norms(name: str) -> None:
    stem = randomised(open_stem(StemConfig(name, norm="batch", stride=8), 48, 64))
    with torch.inference_mode():
        assert Passes(lambda: stem(FRAMES)).norms == 0
        with literally():
            assert Passes(lambda: stem(FRAMES)).norms > 0


@torch.no_grad()
def test_under_autocast_the_convolutions_are_kept_in_its_precision() -> None:
    network, folded = randomised(timm.create_model("resnet18", num_classes=0)), FoldedNetwork()
    whole = network(FRAMES)
    with torch.autocast("cpu", torch.bfloat16):
        short = folded(network, FRAMES)
        short_again = folded(network, FRAMES)
    assert torch.equal(short, short_again)
    assert torch.allclose(short.float(), whole, atol=0.05 * float(whole.abs().max()))
