"""Parallel blocks: two branches on one normed input, and either of them alone if the gate says so."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hybridvideo.config.model import GateConfig, StageConfig
from hybridvideo.errors import UserError
from hybridvideo.models import create_model
from hybridvideo.models.hybrid import Hybrid
from hybridvideo.models.initialisation import initialise
from hybridvideo.models.parts.blocks import Block
from hybridvideo.models.parts.kinds import make_block
from hybridvideo.models.parts.parallel import Parallel
from hybridvideo.models.parts.place import Place

GRID = (3, 4, 5)


def place(block: str, time: bool = True, **settings: Any) -> Place:
    return Place(StageConfig(block, heads=2, mlp_ratio=2.0, **settings), 0, 8, 8, GRID, time=time)


def built(block: str, **settings: Any) -> nn.Module:
    torch.manual_seed(0)
    made = make_block(place(block, **settings))
    initialise(made)
    return made.eval()


def parallel_of(block: nn.Module) -> Parallel:
    assert isinstance(block, Block)
    inner = block.branches[0].inner
    assert isinstance(inner, Parallel)
    return inner


@pytest.mark.parametrize(("gate", "branch"), [(1.0, "convolution"), (0.0, "attention")])
@torch.no_grad()
def test_with_the_gate_at_1_or_0_the_block_is_exactly_that_of_one_branch(gate: float, branch: str) -> None:
    names = {"convolution": "conv3d", "attention": "spatial"}
    both = built("parallel", gate=GateConfig("fixed", gate), **names)
    alone = built(names[branch])
    alone.load_state_dict(
        {
            name.replace(f"inner.{branch}.", "inner."): value
            for name, value in both.state_dict().items()
            if "inner." not in name or f"inner.{branch}." in name or name.startswith("mlp.")
        }
    )
    x = torch.randn(2, *GRID, 8)
    assert torch.equal(both(x), alone(x))
    assert not torch.equal(built("parallel", **names)(x), alone(x))


def test_both_branches_read_the_same_normed_grid_once() -> None:
    block = built("parallel")
    seen: list[Tensor] = []
    inner = parallel_of(block)
    for branch in (inner.convolution, inner.attention):
        branch.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    normed: list[Tensor] = []
    block.branches[0].norm.register_forward_hook(lambda _module, _inputs, out: normed.append(out))  # type: ignore[union-attr,index]
    block(torch.randn(2, *GRID, 8))
    assert len(normed) == 1 and seen[0] is seen[1] is normed[0]


def test_gradients_reach_both_branches_and_the_gate() -> None:
    for kind in ("fixed", "static", "conv", "both"):
        block = built("parallel", gate=GateConfig(kind)).train()  # type: ignore[arg-type]
        block(torch.randn(2, *GRID, 8)).square().sum().backward()
        for name, parameter in parallel_of(block).named_parameters():
            if "gate.scores.first" not in name and "qkv.bias" not in name:  # W2 starts at zero
                assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("convolution", ["conv", "conv3d", "mbconv"])
@pytest.mark.parametrize("attention", ["spatial", "temporal", "divided", "joint", "window3d"])
def test_any_convolution_goes_with_any_attention(convolution: str, attention: str) -> None:
    stage = {"block": "parallel", "depth": 2, "convolution": convolution, "attention": attention, "merge": True}
    for time in (True, False):
        model = create_model(
            "hybrid", 3, frames=4, height=16, width=16, stem={"widths": [8]}, stages=[stage], time=time
        )
        assert model(torch.randn(2, 3, 3, 20, 28)).shape == (2, 3)


@torch.no_grad()
def test_the_settings_of_the_kinds_inside_are_those_of_the_block() -> None:
    stage = {"block": "parallel", "convolution": "conv3d", "kernel": [1, 7, 7], "attention": "window3d"}
    model = create_model("hybrid", 3, stem={"widths": [8]}, stages=[{**stage, "window": [2, 3, 3], "heads": 2}])
    assert isinstance(model, Hybrid)
    inner: Any = parallel_of(model.stages[0].blocks[0])  # type: ignore[union-attr,index]
    assert inner.convolution.conv.kernel_size == (1, 7, 7)
    assert inner.attention.window == (2, 3, 3) and inner.attention.heads == 2


@pytest.mark.parametrize(
    ("stage", "said"),
    [
        (
            {"attention": "spacial"},
            r"stages\[0\].attention is 'spacial' \(did you mean 'spatial'\?\); give one of conv,",
        ),
        ({"attention": "parallel"}, r"stages\[0\].attention is 'parallel'.*; give one of"),
        ({"convolution": "mlp"}, r"stages\[0\].convolution is 'mlp'.*; give one of"),
        ({"window": [2, 2, 2]}, r"stages\[0\].window has no meaning for parallel blocks; they have"),
        ({"convolution": "mbconv", "stride": 2}, r"stages\[0\].stride has no meaning for parallel blocks"),
    ],
)
def test_what_cannot_be_joined_is_refused_in_one_line(stage: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        create_model("hybrid", 3, stages=[{"block": "parallel", **stage}])
