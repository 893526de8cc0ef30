"""Precision by part: under autocast convolutions compute in fp16, attention in bf16, and the rest as the run does."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from hybridvideo.models import create_model
from hybridvideo.models.contract import VideoModel

X = torch.randn(2, 3, 4, 16, 16, generator=torch.Generator().manual_seed(0))
STAGES = [
    {"block": "parallel", "attention": "divided", "convolution": "conv3d"},
    {"block": "window3d", "window": [2, 3, 3], "position": "conv"},
    {"block": "can"},
    {"block": "conformer_time"},
]


def model(precision: str) -> VideoModel:
    torch.manual_seed(0)
    stages = [{"depth": 1, **stage} for stage in STAGES]
    size = {"frames": 4, "height": 16, "width": 16}
    return create_model("hybrid", 3, stem={"widths": [8, 16]}, stages=stages, precision=precision, **size)


class Kinds(TorchDispatchMode):
    """The precisions in which operations of a name compute."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[str, set[torch.dtype]] = {"convolution": set(), "attention": set(), "addmm": set()}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for name, dtypes in self.seen.items():
            if name in str(func) and args[0].is_floating_point() and not args[0].is_meta:  # those compute nothing
                dtypes.add(args[0].dtype)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("run", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_convolutions_compute_in_fp16_and_attention_in_bf16(run: torch.dtype) -> None:
    for precision, convolution, attention in (("parts", torch.float16, torch.bfloat16), ("one", run, run)):
        kinds = Kinds()
        with torch.autocast("cpu", run), kinds:
            model(precision).eval()(X)
        assert kinds.seen["convolution"] == {convolution}
        assert kinds.seen["attention"] == {attention}
        assert run in kinds.seen["addmm"]  # MLPs


@torch.no_grad()
def test_without_autocast_nothing_changes_and_weights_have_the_same_names() -> None:
    one, parts = model("one").eval(), model("parts").eval()
    assert list(parts.state_dict()) == list(one.state_dict())
    assert torch.equal(parts(X), one(X))
    assert torch.equal(copy.deepcopy(parts)(X), one(X))


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("run", [torch.bfloat16, torch.float16])
def test_it_trains_on_a_cpu_with_gradients_near_those_of_fp32(run: torch.dtype, checkpointing: bool) -> None:
    exact = gradients(model("one"), torch.float32)
    parts = model("parts")
    parts.set_grad_checkpointing(checkpointing)
    rough = gradients(parts, run)
    size = exact.norm()
    assert (rough - exact).norm() < 0.1 * size


def gradients(model: nn.Module, run: torch.dtype) -> Tensor:
    """Of all parameters, after a step whose loss is scaled as in fp16."""
    with torch.autocast("cpu", run, enabled=run != torch.float32):
        loss = model.train()(X).float().square().sum()
    (2**10 * loss).backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]) / 2**10


def test_it_is_kept_by_the_settings_and_compiles() -> None:
    made = model("parts")
    assert made.settings()["precision"] == "parts"
    torch._dynamo.reset()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        expected = made.eval()(X)
        assert torch.allclose(torch.compile(made, fullgraph=True, backend="eager")(X), expected, atol=1e-2)


@torch.no_grad()
def test_a_model_of_both_precisions_can_be_pickled() -> None:
    before = model("parts").eval()
    after = pickle.loads(pickle.dumps(before))
    assert torch.equal(after(X), before(X))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(after(X), before(X)) and not torch.equal(after(X), model("one").eval()(X))
    assert [type(module) for module in after.modules()] == [type(module) for module in before.modules()]
