"""Gates: between two branches, equal to one of them at the ends, readable."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from hybridvideo.config.model import GateConfig
from hybridvideo.errors import UserError
from hybridvideo.models.parts.gates import Gate
from hybridvideo.models.readings import listening, places_to_read

LEARNED = [
    GateConfig(kind, value=0.3, per=per, channels=channels)
    for kind in ("static", "conv", "both")
    for per in ("clip", "frame")
    for channels in ("each", "all")
]


def grids(seed: int = 0, frames: int = 3) -> tuple[Tensor, Tensor]:
    torch.manual_seed(seed)
    conv, attention = torch.randn(2, 2, frames, 4, 5, 8)
    return conv.requires_grad_(), attention.requires_grad_()


def trained(gate: Gate) -> Gate:
    """With weights as after training: the gate depends on the clip."""
    for parameter in gate.parameters():
        torch.nn.init.normal_(parameter)
    return gate


def values(gate: Gate, conv: Tensor, attention: Tensor) -> Tensor:
    with listening(places_to_read(gate)) as seen:
        gate(conv, attention)
    return seen["values"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_gate_at_0_or_1_is_exactly_one_branch(dtype: torch.dtype) -> None:
    conv, attention = (grid.to(dtype) for grid in grids())
    assert torch.equal(Gate(8, GateConfig("fixed", 1.0))(conv, attention), conv)
    assert torch.equal(Gate(8, GateConfig("fixed", 0.0))(conv, attention), attention)


def test_a_gate_weighs_the_two_branches() -> None:
    conv, attention = grids()
    assert torch.allclose(Gate(8, GateConfig("fixed", 0.3))(conv, attention), 0.3 * conv + 0.7 * attention, atol=1e-6)
    gate = trained(Gate(8, GateConfig("both")))
    g = values(gate, conv, attention)
    assert torch.allclose(gate(conv, attention), g * conv + (1 - g) * attention, atol=1e-6)


@pytest.mark.parametrize("config", LEARNED)
def test_a_learned_gate_starts_at_its_value_and_lies_between_0_and_1(config: GateConfig) -> None:
    conv, attention = grids()
    gate = Gate(8, config)
    assert torch.allclose(values(gate, conv, attention), torch.tensor(0.3))
    g = values(trained(gate), conv, attention)
    assert ((g > 0) & (g < 1)).all()
    assert g.shape[-1] == (8 if config.channels == "each" else 1)


@pytest.mark.parametrize("config", LEARNED)
def test_gradients_reach_both_branches_and_all_that_the_gate_has_learned(config: GateConfig) -> None:
    conv, attention = grids()
    gate = trained(Gate(8, config))
    gate(conv, attention).square().sum().backward()
    for tensor in (conv, attention, *gate.parameters()):
        assert tensor.grad is not None and tensor.grad.abs().sum() > 0


def test_a_gate_per_clip_is_one_for_all_frames_and_one_per_frame_is_not() -> None:
    conv, attention = grids()
    for kind in ("conv", "both"):
        assert values(trained(Gate(8, GateConfig(kind))), conv, attention).shape == (2, 1, 1, 1, 8)  # type: ignore[arg-type]
        per_frame = trained(Gate(8, GateConfig(kind, per="frame")))  # type: ignore[arg-type]
        g = values(per_frame, conv, attention)
        assert g.shape == (2, 3, 1, 1, 8) and not torch.allclose(g[:, 0], g[:, 1])
        alone = values(per_frame, conv[:, 1:2], attention[:, 1:2])
        assert torch.allclose(g[:, 1:2], alone, atol=1e-6)


def test_what_a_gate_looks_at() -> None:
    conv, attention = grids()
    other_conv, other_attention = grids(1)
    sees: dict[str, Any] = {}
    for kind in ("fixed", "static", "conv", "both"):
        gate = trained(Gate(8, GateConfig(kind)))  # type: ignore[arg-type]
        first = values(gate, conv, attention)
        changed = [values(gate, other_conv, attention), values(gate, conv, other_attention)]
        sees[kind] = [not torch.equal(first, other) for other in changed]
    assert sees == {"fixed": [False] * 2, "static": [False] * 2, "conv": [True, False], "both": [True] * 2}


def test_only_a_fixed_gate_may_be_0_or_1() -> None:
    with pytest.raises(UserError, match=r"gate.value is 1.0; give a number between 0 and 1, or set gate.kind to fixed"):
        GateConfig("static", 1.0)
