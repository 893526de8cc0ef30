"""BatchNorm folded into the layer before it: the same numbers, only where nothing would notice."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hybridvideo.config.model import StageConfig
from hybridvideo.models.parts.depthwise import DepthwiseConv3d, on_grid
from hybridvideo.models.parts.folding import Folded, foldable
from hybridvideo.models.parts.linear import Linear
from hybridvideo.models.parts.mbconv import MBConv, ShrinkingConv3d
from hybridvideo.models.parts.norms import GridBatchNorm
from hybridvideo.models.parts.place import Place
from hybridvideo.models.parts.shortcuts import literally
from tests.models.baselines.test_baselines import randomised

LAYERS: dict[str, Any] = {
    "linear": lambda: Linear(8, 12),
    "linear without bias": lambda: Linear(8, 12, bias=False),
    "convolution": lambda: DepthwiseConv3d(8, (3, 3, 3)),
    "convolution with a stride": lambda: ShrinkingConv3d(8, (1, 3, 3), "own"),
}


def pair(layer: str) -> tuple[Any, GridBatchNorm, Tensor]:
    torch.manual_seed(0)
    made = LAYERS[layer]()
    width = 12 if isinstance(made, Linear) else 8
    norm = randomised(GridBatchNorm(width))
    assert isinstance(norm, GridBatchNorm)
    return made, norm, torch.randn(2, 3, 6, 6, 8)


def one_by_one(layer: Any, norm: nn.Module, x: Tensor) -> Tensor:
    out: Tensor = norm(layer(x) if isinstance(layer, Linear) else on_grid(layer, x))
    return out


@torch.no_grad()
@pytest.mark.parametrize("layer", LAYERS)
def test_both_as_one_have_the_values_of_one_after_the_other(layer: str) -> None:
    made, norm, x = pair(layer)
    fold = Folded(grid=not isinstance(made, Linear))
    assert foldable(made, norm)
    assert torch.allclose(fold(made, norm, x), one_by_one(made, norm, x), atol=1e-5)
    norm.running_mean.add_(1)  # type: ignore[union-attr]
    made.weight.mul_(2)
    assert torch.allclose(fold(made, norm, x), one_by_one(made, norm, x), atol=1e-5)


def test_nothing_is_folded_in_training_or_with_gradients_or_where_it_would_be_noticed() -> None:
    made, norm, _ = pair("linear")
    assert not foldable(made, norm)
    with torch.no_grad():
        assert not foldable(made, norm.train())
        assert foldable(made, norm.eval())
        with literally():
            assert not foldable(made, norm)
        made.register_forward_hook(lambda *_: None)
        assert not foldable(made, norm)


def test_a_block_has_the_same_values_folded_and_not() -> None:
    torch.manual_seed(0)
    model = randomised(MBConv(Place(StageConfig("mbconv", stride=2), 0, 8, 16, (4, 8, 8))))
    x = torch.randn(1, 4, 8, 8, 8)
    separate = model(x)
    with torch.no_grad():
        assert torch.allclose(model(x), separate, atol=1e-5)
