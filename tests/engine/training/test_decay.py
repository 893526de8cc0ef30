"""What decays: matrices and kernels, in every model; vectors, scalars, biases and what is exempted do not."""

from __future__ import annotations

from typing import Any

import pytest
from torch import nn

from hybridvideo.config.data import ClipConfig, FrameConfig
from hybridvideo.config.training import OptimConfig
from hybridvideo.engine.training.optim import LayerRates, parameter_groups
from hybridvideo.engine.training.phases import Phase
from hybridvideo.errors import UserError
from hybridvideo.models import MODELS, create_model
from tests.models.small import small

MATRICES = (nn.Linear, nn.Conv2d, nn.Conv3d)


def decaying(model: nn.Module, **settings: Any) -> set[str]:
    """The names of the parameters that decay; every trained one has its group."""
    config = OptimConfig(weight_decay=0.1, **settings)
    groups = parameter_groups(model, config, LayerRates(model, config, [Phase(1, ClipConfig(), FrameConfig(), 1)]))
    decay = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    names = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert sorted(decay) == sorted(map(id, names.values())) and set(decay.values()) <= {0.0, 0.1}
    return {name for name, p in names.items() if decay[id(p)]}


@pytest.mark.parametrize("name", sorted(MODELS))
def test_matrices_decay_and_vectors_scalars_and_biases_do_not(name: str) -> None:
    model = small(name)
    decays = decaying(model)
    for path, module in model.named_modules():
        for own, parameter in module.named_parameters(path, recurse=False):
            if parameter.ndim < 2 or own.endswith(".bias"):
                assert own not in decays, own
            elif isinstance(module, MATRICES) and own.endswith(".weight") and parameter.requires_grad:
                assert own in decays, own


def gated(kind: str) -> nn.Module:
    stage = {"block": "parallel", "layer_scale": 0.1, "gate": {"kind": kind}}
    return create_model("hybrid", 3, stem={"widths": [8]}, stages=[{**stage, "depth": 1}])


def test_of_a_joined_branch_the_gates_matrices_decay_and_its_scalars_and_scales_do_not() -> None:
    both = decaying(gated("both"))
    inner = "stages.0.blocks.0.branches.0"
    assert f"{inner}.inner.gate.scores.first.weight" in both and f"{inner}.inner.gate.scores.second.weight" in both
    assert not any("bias" in name or "scale" in name for name in both)
    assert not any("gate" in name for name in decaying(gated("static")))


def test_settings_exempt_further_parameters() -> None:
    model = gated("both")
    assert decaying(model) - decaying(model, no_decay=["*.gate.*"]) == {
        name for name in decaying(model) if ".gate." in name
    }
    with pytest.raises(UserError, match=r"optim.no_decay has '\*.gates.\*', which no parameter matches"):
        decaying(model, no_decay=["*.gates.*"])
