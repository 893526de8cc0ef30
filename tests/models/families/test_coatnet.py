"""CoAtNet and MaxViT for video: where convolution is and where attention, what the control sees, budgets."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from hybridvideo.models import create_model
from hybridvideo.models.contract import VideoModel, count_gmacs
from hybridvideo.models.hybrid import Hybrid
from hybridvideo.models.parts.attention import GroupedAttention
from hybridvideo.models.parts.mbconv import MBConv
from tests.models.small import FEWER

NAMES = ("coatnet", "coatnet_alternating", "maxvit")


def model_of(name: str, **changes: Any) -> Hybrid:
    torch.manual_seed(0)
    model = create_model(name, 5, **changes).eval()
    assert isinstance(model, Hybrid)
    return model


def joints(model: Hybrid) -> str:
    """C for a block of convolution, T for one with attention, in order."""
    blocks = [block for stage in model.stages for block in stage.blocks]
    return "".join("T" if has(block, GroupedAttention) else "C" for block in blocks)


def has(block: nn.Module, kind: type[nn.Module]) -> bool:
    return any(isinstance(module, kind) for module in block.modules())


@pytest.mark.parametrize("size", ["tiny", "base"])
def test_coatnet_has_no_attention_in_its_first_half_and_nothing_else_in_the_second(size: str) -> None:
    model = model_of(f"coatnet_{size}")
    by_stage = [{has(block, GroupedAttention) for block in stage.blocks} for stage in model.stages]
    assert by_stage == [{False}, {False}, {True}, {True}]


@pytest.mark.parametrize("size", ["tiny", "base"])
def test_alternating_blocks_alternate_strictly(size: str) -> None:
    pairs = joints(model_of(f"coatnet_alternating_{size}"))
    assert pairs == "CT" * (len(pairs) // 2) and len(pairs) >= 12


def test_a_block_of_maxvit_holds_both() -> None:
    model = model_of("maxvit_tiny")
    assert all(has(block, MBConv) and has(block, GroupedAttention) for stage in model.stages for block in stage.blocks)


@pytest.mark.parametrize("name", [f"{name}_{size}" for name in NAMES for size in ("tiny", "base")])
def test_the_budget_is_kept(name: str) -> None:
    with torch.device("meta"):
        model = create_model(name, 400)
    assert count_gmacs(model) < (3 if name.endswith("tiny") else 89)


@pytest.mark.parametrize("name", [f"{name}_{size}" for name in NAMES for size in ("tiny", "base")])
@torch.no_grad()
def test_the_order_of_frames_matters_except_to_the_control(name: str) -> None:
    changes = {"frames": 4, "height": 64, "width": 64, **FEWER.get(name, {})}
    x = torch.randn(1, 3, 4, 64, 64)
    reordered = x[:, :, [2, 0, 3, 1]]
    assert not sees_alike(model_of(name, **changes), x, reordered, 1e-3)
    assert sees_alike(model_of(name, **changes, time=False), x, reordered, 1e-5)


def sees_alike(model: VideoModel, first: torch.Tensor, second: torch.Tensor, atol: float) -> bool:
    nn.init.normal_(model.get_submodule(model.classifier_name).weight)  # type: ignore[arg-type]
    for module in model.modules():
        if hasattr(module, "bias_table"):
            nn.init.normal_(module.bias_table)  # type: ignore[arg-type]
    return torch.allclose(model(first), model(second), atol=atol)
