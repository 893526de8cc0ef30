"""BatchNorm over the clips that count: what it gives, its gradients, its running statistics, in every kind of layer."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, nn

from hybridvideo.engine.training.statistics import counted_statistics
from hybridvideo.models.contract import VideoModel, kept_statistics
from hybridvideo.models.published.uniformer import GridBatchNorm
from tests.models.small import small

OK = [True, False, True, True, False]  # of five clips
LAYERS = {
    "1d": (lambda: nn.BatchNorm1d(4), (5, 4)),
    "2d": (lambda: nn.BatchNorm2d(4), (5, 4, 3, 3)),
    "3d": (lambda: nn.BatchNorm3d(4), (5, 4, 2, 3, 3)),
    "frames in the batch": (lambda: nn.BatchNorm2d(4), (15, 4, 3, 3)),
    "mean of all batches": (lambda: nn.BatchNorm2d(4, momentum=None), (5, 4, 3, 3)),
    "no scale": (lambda: nn.BatchNorm2d(4, affine=False), (5, 4, 3, 3)),
    "no running statistics": (lambda: nn.BatchNorm2d(4, track_running_stats=False), (5, 4, 3, 3)),
    "with activation": (lambda: BatchNormAct2d(4, act_layer=nn.ReLU), (5, 4, 3, 3)),
    "channels last": (lambda: GridBatchNorm(4), (5, 2, 3, 3, 4)),
}


def counted(x: Tensor) -> Tensor:
    """The rows of the clips that count."""
    return x.unflatten(0, (len(OK), -1))[torch.tensor(OK)].flatten(0, 1)


def trained(net: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """Outputs, gradients and buffers after two batches without anything around them."""
    outputs = []
    for factor in (1.0, 2.0):
        outputs.append(net(x * factor))
        outputs[-1].pow(3).sum().backward()
    return collected(net, outputs)


def trained_in_context(net: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """The same of the clips that count, from batches with all clips."""
    outputs = []
    for factor in (1.0, 2.0):
        with counted_statistics(net, OK, [sum(OK)], 0):
            outputs.append(counted(net(x * factor)))
            outputs[-1].pow(3).sum().backward()
    return collected(net, outputs)


def collected(net: nn.Module, outputs: list[Tensor]) -> dict[str, Tensor]:
    gradients = {f"gradient {name}": p.grad for name, p in net.named_parameters() if p.grad is not None}
    return {"outputs": torch.cat(outputs).detach(), **gradients, **dict(net.named_buffers())}


def assert_same(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    assert a.keys() == b.keys()
    for name, value in a.items():
        assert torch.allclose(value, b[name], rtol=1e-6, atol=1e-9 * float(value.abs().max() + 1)), name


@pytest.mark.parametrize("kind", LAYERS)
def test_a_batch_with_clips_that_do_not_count_is_the_batch_without_them(kind: str) -> None:
    make, shape = LAYERS[kind]
    torch.manual_seed(0)
    first = nn.Linear(shape[-1], shape[-1])  # its gradient goes through the layer's input
    net = nn.Sequential(first, make()).double().train()
    twin = copy.deepcopy(net)
    x = torch.randn(shape).double()
    assert_same(trained(net, counted(x)), trained_in_context(twin, x))


# one of each family that has BatchNorm
FAMILIES = ("hybrid_micro", "hybrid_small", "uniformer_small", "c2d_r50", "csn_r101", "r2plus1d_r50", "slowfast_r50",
            "x3d_xs", "s3d")  # fmt: skip


@pytest.mark.parametrize("name", FAMILIES)
def test_models_with_batchnorm_train_on_the_clips_that_count(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(F, "dropout", lambda x, *_: x)
    model = without_chance(small(name)).double()
    twin = copy.deepcopy(model)
    twin.set_grad_checkpointing()
    x = torch.randn(5, 3, 4, 64, 64).double()
    x[~torch.tensor(OK)] = 100.0
    assert_same(trained(model, counted(x)), trained_in_context(twin, x))


def without_chance(model: VideoModel) -> VideoModel:
    """No stochastic depth, which would draw otherwise in batches of another size."""
    for layer in model.modules():
        if isinstance(getattr(layer, "drop_prob", None), float):
            layer.drop_prob = 0.0
    return model.train()


def test_a_whole_batch_of_one_process_is_left_to_torch() -> None:
    own = F.batch_norm
    with counted_statistics(nn.BatchNorm1d(4), [True] * 3, [3], 0):
        assert F.batch_norm is own
    with pytest.raises(KeyError), counted_statistics(nn.BatchNorm1d(4), [True], [1], 0):
        assert F.batch_norm is not own
        raise KeyError
    assert F.batch_norm is own


@pytest.mark.parametrize("settings", [{}, {"momentum": None}, {"track_running_stats": False}])
@pytest.mark.parametrize("kind", [nn.BatchNorm2d, BatchNormAct2d])
def test_what_is_computed_again_is_not_counted_again(kind: type[nn.Module], settings: dict[str, Any]) -> None:
    layer = kind(4, **settings).train()
    x = torch.randn(5, 4, 3, 3)
    first = layer(x)
    before = {name: buffer.clone() for name, buffer in layer.named_buffers()}
    with kept_statistics(layer):
        again = layer(x)
        layer(torch.full_like(x, torch.nan))
    assert torch.equal(first, again)
    assert all(torch.equal(before[name], buffer) for name, buffer in layer.named_buffers())


@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("ok", [[True], [True, False], [False, False]])
def test_a_layer_with_less_than_two_values_uses_its_running_statistics_and_keeps_them(
    ok: list[bool], momentum: float | None
) -> None:
    layer = nn.BatchNorm1d(4, momentum=momentum).train()
    layer(torch.randn(8, 4) * 3 + 5)
    before = {name: buffer.clone() for name, buffer in layer.named_buffers()}
    x = torch.randn(len(ok), 4)
    with counted_statistics(layer, ok, [sum(ok)], 0):
        out = layer(x)
        out.sum().backward()
    assert all(torch.equal(before[name], buffer) for name, buffer in layer.named_buffers())
    assert torch.allclose(out, layer.eval()(x))
    wide = nn.BatchNorm2d(4).train()
    with counted_statistics(wide, [True], [1], 0):
        wide(torch.randn(1, 4, 3, 3))
    assert wide.num_batches_tracked == 1 and not torch.equal(wide.running_mean, torch.zeros(4))


def test_half_precision_keeps_its_type_and_exact_statistics() -> None:
    layer = nn.BatchNorm2d(4).train()
    twin = copy.deepcopy(layer)
    x = (torch.randn(5, 4, 9, 9) * 2 + 30).bfloat16()
    with counted_statistics(layer, OK, [3], 0):
        out = layer(x)
        out.float().pow(2).sum().backward()
    assert out.dtype == torch.bfloat16
    twin(counted(x).float())
    assert torch.allclose(layer.running_mean, twin.running_mean, rtol=1e-5)
    assert torch.allclose(layer.running_var, twin.running_var, rtol=1e-4)
