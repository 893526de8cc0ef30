"""What is kept of parameters follows them, is never an inference tensor, and never meets a gradient."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import Tensor, nn

from hybridvideo.models.parts.cached import Cached


class Doubled(nn.Module):
    """A vector, twice."""

    def __init__(self) -> None:
        super().__init__()
        self.vector = nn.Parameter(torch.ones(3))
        self.cached = Cached[Tensor]()
        self.made = 0

    def forward(self) -> Tensor:
        return self.cached.get((self.vector,), self.make)

    def make(self) -> Tensor:
        self.made += 1
        return self.vector * 2


@pytest.fixture
def layer() -> Doubled:
    return Doubled().eval()


@torch.no_grad()
def test_it_is_made_once_and_again_when_its_source_changes(layer: Doubled) -> None:
    assert layer() is layer() and layer.made == 1
    layer.vector.add_(1)
    assert layer().tolist() == [4.0] * 3 and layer.made == 2
    layer.vector = nn.Parameter(torch.zeros(3))
    assert layer().tolist() == [0.0] * 3
    layer.load_state_dict({"vector": torch.ones(3)}, assign=True)
    assert layer().tolist() == [2.0] * 3
    with torch.inference_mode():
        layer.vector.mul_(3)
        assert layer().tolist() == [6.0] * 3


@torch.no_grad()
@pytest.mark.parametrize(
    "way",
    [
        lambda layer: layer.train().eval(),
        lambda layer: layer.to(torch.float64).float(),
        copy.deepcopy,
        lambda layer: pickle.loads(pickle.dumps(layer)),
    ],
)
def test_it_goes_with_a_change_of_mode_or_place_and_into_no_copy(layer: Doubled, way: object) -> None:
    layer()
    other = way(layer)  # type: ignore[operator]
    assert other.cached.entry is None and "cached" not in " ".join(other.state_dict())


def test_under_gradients_it_is_part_of_the_graph(layer: Doubled) -> None:
    with torch.inference_mode():
        layer()
    assert layer().requires_grad and layer() is not layer()
    layer.requires_grad_(False)
    assert layer() is layer() and not layer().is_inference()


def test_of_inference_tensors_nothing_is_kept() -> None:
    with torch.inference_mode():
        layer = Doubled()
        assert layer.vector.is_inference() and layer() is not layer()
    with torch.no_grad():
        assert layer() is not layer() and layer.cached.entry is None


def test_what_was_kept_under_inference_mode_enters_a_later_graph(layer: Doubled) -> None:
    with torch.inference_mode():
        assert not layer().is_inference()
    layer.requires_grad_(False)
    x = torch.ones(3, requires_grad=True)
    (x * layer()).sum().backward()
    assert x.grad is not None and x.grad.tolist() == [2.0] * 3
