"""Inverted bottlenecks: timm's in each published form, any size, per frame unless the kernel is deeper."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from timm.models.maxxvit import MaxxVitConvCfg, MbConvBlock
from torch import Tensor, nn

from hybridvideo.config.model import FormConfig, StageConfig
from hybridvideo.models.parts.mbconv import MBConv, ShrinkingConv3d
from hybridvideo.models.parts.place import Place
from tests.models.baselines.test_baselines import randomised
from tests.weights.layouts.test_image_coatnet import block_state

TENSORFLOW = {"padding": "same", "norm_eps": 1e-3, "act_layer": "gelu_tanh"}
OURS = {"padding": "same", "batch_eps": 1e-3, "activation": "gelu_tanh"}
FORMS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "paper": ({}, {}),
    "tensorflow": (TENSORFLOW, OURS),
    "expanded from the input": ({"expand_output": False, "attn_ratio": 1 / 16}, {"expand": "in"}),
    "squeezed early": (
        {"attn_early": True, "attn_act_layer": "relu"},
        {"squeeze_first": True, "squeeze_activation": "relu"},
    ),
    "activated first": ({"pre_norm_act": True, "act_layer": "silu"}, {"activate_first": True, "activation": "silu"}),
    "pooled": ({"stride_mode": "pool", "pool_type": "max"}, {"shrink": "pool", "pool": "max"}),
}


def block(form: dict[str, Any], stride: int = 2, dim_in: int = 8, dim: int = 16, kernel: Any = None) -> MBConv:
    stage = StageConfig("mbconv", stride=stride, dim=dim, kernel=kernel, form=FormConfig(**form))
    torch.manual_seed(0)
    return MBConv(Place(stage, 0, dim_in, dim, (4, 8, 8)))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("training", [False, True])
def test_each_published_form_is_timms(form: str, stride: int, training: bool) -> None:
    theirs, ours = FORMS[form]
    dim_in = 8 if stride == 2 else 16
    net = randomised(MbConvBlock(dim_in, 16, stride, cfg=MaxxVitConvCfg(**theirs))).train(training)
    model = block(ours, stride, dim_in).train(training)
    model.load_state_dict(block_state(net, model, "C"))
    x_NCHW = torch.randn(6, dim_in, 8, 10)
    wanted = net(x_NCHW).permute(0, 2, 3, 1)
    assert torch.allclose(model(x_NCHW.permute(0, 2, 3, 1).view(2, 3, 8, 10, dim_in)).flatten(0, 1), wanted, atol=1e-5)


def test_odd_sides_are_rounded_up_in_both_branches() -> None:
    for form in ({}, {"shrink": "pool"}, {"pool": "max"}, {"padding": "same"}):
        assert block(form)(torch.randn(1, 2, 7, 1, 8)).shape == (1, 2, 4, 1, 16)


@pytest.mark.parametrize("stride", [1, 2])
def test_a_kernel_reaches_as_many_frames_as_it_is_deep(stride: int) -> None:
    for depth in (1, 3, 5):
        model = block({"squeeze": 0.0}, stride, kernel=(depth, 3, 3)).eval()
        x = torch.randn(1, 7, 4, 4, 8, requires_grad=True)
        model(x)[:, 3].square().sum().backward()
        assert x.grad is not None
        reached = x.grad.abs().sum((0, 2, 3, 4)) > 0
        assert reached.tolist() == [abs(frame - 3) <= depth // 2 for frame in range(7)]


@pytest.mark.parametrize("depth", [1, 3])
def test_the_convolution_with_a_stride_is_torchs(depth: int) -> None:
    torch.manual_seed(0)
    conv, x = ShrinkingConv3d(6, (depth, 3, 3), "own"), torch.randn(2, 6, 4, 9, 8, requires_grad=True)
    reference = nn.functional.conv3d(x, conv.weight, None, (1, 2, 2), (depth // 2, 1, 1), 1, 6)
    assert torch.allclose(conv(x), reference, atol=1e-5)
    grads = [torch.autograd.grad(out.square().sum(), [x, conv.weight]) for out in (conv(x), reference)]
    assert all(torch.allclose(ours, theirs, atol=1e-4) for ours, theirs in zip(*grads, strict=True))


def test_squeezing_looks_at_one_frame() -> None:
    model, x = block({}, 1, 16).eval(), torch.randn(1, 3, 4, 4, 16)
    changed: Tensor = x.clone()
    changed[:, 2] += 1
    assert torch.equal(model(x)[:, :2], model(changed)[:, :2])
