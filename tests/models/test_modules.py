"""Every matrix of our networks is a module that is called: hooks, adapters and replaced layers are never bypassed."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from hybridvideo.models import FAMILIES, TIMESFORMERS, UNIFORMERS, VIDEO_SWINS, VIDEOMAES, create_pretraining
from hybridvideo.models.adapters.zeroi2v import AdaptedLinear
from hybridvideo.models.contract import VideoModel
from hybridvideo.models.parts.choice import Choice
from hybridvideo.models.parts.linear import Composition, Linear, in_parts
from hybridvideo.models.parts.shortcuts import literally, may_bypass
from tests.models.small import everything, small

OURS = sorted({*FAMILIES, *TIMESFORMERS, *UNIFORMERS, *VIDEO_SWINS, *VIDEOMAES} - {"hybrid"})
INPUT = torch.randn(2, 3, 4, 64, 64, generator=torch.Generator().manual_seed(0))
MODES = {"training": (True, True), "evaluation": (False, False), "evaluation with gradients": (False, True)}


class Shifted(nn.Module):
    """A layer around another: what an adapter or a quantised layer is to the network."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.layer, self.factor = layer, torch.randn(layer.out_features)
        self.shift = torch.randn(layer.out_features)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer(x) * self.factor + self.shift
        return out


def linears(model: nn.Module) -> list[tuple[str, nn.Linear]]:
    """All linear layers of ours; those within a library's stem are the library's affair."""
    return [
        (name, layer) for name, layer in model.named_modules() if isinstance(layer, nn.Linear) and "trunk" not in name
    ]


def logits(model: nn.Module, mode: str) -> Tensor:
    training, gradients = MODES[mode]
    torch.manual_seed(0)  # of stochastic depth
    with torch.set_grad_enabled(gradients):
        return everything(model.train(training)(INPUT.to(next(model.parameters()).dtype))).detach()


def steer(model: nn.Module, dearer: bool = False) -> None:
    """Have every choice take both of its paths, one for each second clip, or the dearer path for all."""
    for choice in model.modules():
        if isinstance(choice, Choice):
            path = choice.prices.index(1.0) if dearer else None
            choice.scores.register_forward_hook(lambda _, __, scores, path=path: steered(scores, path))


def steered(scores: Tensor, path: int | None) -> Tensor:
    """Scores that a path surely has, or that paths have in turn."""
    paths = torch.arange(len(scores)) % 2 if path is None else torch.full([len(scores)], path)
    return scores + 1e3 * nn.functional.one_hot(paths, 2).to(scores).view(scores.shape)


@pytest.fixture(scope="module", params=OURS)
def built(request: pytest.FixtureRequest) -> VideoModel:
    model = small(request.param)
    with torch.no_grad():
        for _, layer in linears(model):
            layer.weight += 0.1 * torch.randn_like(layer.weight)  # some start at zero
        for parameter in model.parameters():
            if not parameter.any():  # such as the scale of a branch's last norm
                parameter += 0.1 * torch.randn_like(parameter)
    return model


@pytest.fixture
def model(built: VideoModel) -> VideoModel:
    """A model for one test to change as it likes."""
    return copy.deepcopy(built)


def test_every_linear_layer_is_this_packages(model: VideoModel) -> None:
    assert linears(model) and all(type(layer) in (Linear, AdaptedLinear) for _, layer in linears(model))


@pytest.mark.parametrize("mode", MODES)
def test_hooks_on_linear_layers_are_called(model: VideoModel, mode: str) -> None:
    called: set[str] = set()
    steer(model)
    for name, layer in linears(model):
        layer.register_forward_hook(lambda *_, name=name: called.add(name))
    logits(model, mode)
    assert called == {name for name, _ in linears(model)}


@pytest.mark.parametrize("mode", MODES)
def test_hooks_change_no_logit(model: VideoModel, mode: str) -> None:
    expected = logits(model.double(), mode)  # in single precision, large activations round differently
    for _, layer in linears(model):
        layer.register_forward_hook(lambda *_: None)
    assert torch.allclose(logits(model, mode), expected, atol=1e-5)


@pytest.mark.parametrize("mode", ["training", "evaluation"])
def test_a_layer_put_in_place_of_another_changes_the_logits(model: VideoModel, mode: str) -> None:
    steer(model)
    expected = logits(model, mode)
    for name, layer in linears(model):
        if ".scores." in name:  # of a choice: they change the logits only where they change the path
            continue
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, Shifted(layer))
        assert not torch.allclose(logits(model, mode), expected, atol=1e-5), name
        setattr(model.get_submodule(parent), child, layer)


def test_a_replaced_forward_is_used() -> None:
    layer, x = Linear(6, 12), torch.randn(5, 6)
    composition, outer = Composition(), Linear(12, 4)
    assert may_bypass(layer, outer) and torch.allclose(torch.cat([*in_parts(layer, x, 3)], -1), layer(x), atol=1e-6)
    assert torch.allclose(composition(layer, outer, x) + outer.bias, outer(layer(x)), atol=1e-6)
    layer.forward = lambda x: x.new_ones(len(x), 12)  # type: ignore[method-assign]
    assert not may_bypass(layer, outer) and torch.cat([*in_parts(layer, x, 3)], -1).eq(1).all()


def test_a_model_computed_literally_has_the_same_logits(model: VideoModel) -> None:
    steer(model, dearer=True)  # the path whose operations are counted
    expected = logits(model.double(), "evaluation")
    with literally():
        assert torch.allclose(logits(model, "evaluation"), expected, atol=1e-5)


def test_the_layers_of_pretraining_are_called_too() -> None:
    model = create_pretraining("videomae_small", frames=4, image_size=32, dim=48, depth=1, decoder_dim=24)
    called: set[str] = set()
    for name, layer in linears(model):
        layer.register_forward_hook(lambda *_, name=name: called.add(name))
    model(torch.randn(1, 3, 4, 32, 32), torch.tensor([[True, False] * 4]))
    assert called == {name for name, _ in linears(model)}
