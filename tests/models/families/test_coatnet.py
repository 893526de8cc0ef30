"""CoAtNet and MaxViT for video: where convolution is and where attention, what the control sees, budgets."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from hybridvideo.models import create_model
from hybridvideo.models.hybrid import Hybrid
from hybridvideo.models.parts.attention import GroupedAttention
from hybridvideo.models.parts.mbconv import MBConv

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
