"""A factor on the rates of dropout and stochastic depth reaches every layer that drops something, in every model."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hybridvideo.engine.training.classification import logits_of
from hybridvideo.engine.training.drops import Drops
from hybridvideo.models import MODELS
from tests.models.small import SMALL_INPUT, small


def dropping(name: str) -> nn.Module:
    """A small model of that name that drops as much as its settings allow."""
    config = MODELS[name].config
    rates: dict[str, Any] = {each: 0.5 for each in ("dropout", "drop_path") if hasattr(config, each)}
    if hasattr(config, "head"):
        rates["head"] = replace(config.head, dropout=0.5)
    return small(name, **rates).train()


def drawn(model: nn.Module, seed: int) -> Tensor:
    """The logits of a training call, with the random numbers of a seed."""
    x = torch.randn(SMALL_INPUT, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(seed)
    with torch.no_grad():
        return logits_of(model(x))


@pytest.mark.parametrize("name", sorted(MODELS))
def test_a_factor_of_0_leaves_nothing_to_chance(name: str) -> None:
    model = dropping(name)
    drops = Drops(model)
    assert len({tuple(drawn(model, seed).flatten().tolist()) for seed in range(4)}) > 1
    drops.scale(0.0)
    assert torch.equal(drawn(model, 0), drawn(model, 1))
    drops.scale(1.0)
    assert len({tuple(drawn(model, seed).flatten().tolist()) for seed in range(4)}) > 1
