"""How hybrids start: Kaiming, Xavier for each matrix by itself, biases at zero, branches as small as is wanted."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hybridvideo.errors import UserError
from hybridvideo.models import create_model
from hybridvideo.models.hybrid import Hybrid
from hybridvideo.models.parts.kinds import KINDS
from hybridvideo.models.parts.linear import Linear, init_xavier

TOGETHER = ("qkv", "kv", "qk")  # names of matrices that hold queries, keys or values together


def hybrid(stage: dict[str, Any], **settings: Any) -> Hybrid:
    torch.manual_seed(0)
    size = {"frames": 4, "height": 16, "width": 16, "stem": {"widths": [64]}}
    model = create_model("hybrid", 3, **size, stages=[{"depth": 1, **stage}], **settings)
    assert isinstance(model, Hybrid)
    return model


def matrices(layer: Linear) -> list[Tensor]:
    """Queries, keys and values of all heads, from a layer that holds them together."""
    per_head = [rows // layer.interleaved for rows in layer.stacked]
    heads = layer.weight.detach().unflatten(0, (layer.interleaved, -1))
    return [part.flatten(0, 1) for part in heads.split(per_head, 1)]


@pytest.mark.parametrize("block", sorted(KINDS))
def test_queries_keys_and_values_start_after_xavier_each_by_itself_in_every_kind(block: str) -> None:
    variants: list[dict[str, Any]] = [{}]
    if block == "bottleneck":
        variants = [{"attention": "spatial"}, {"attention": "joint"}]
    if block == "can":
        variants = [{"weigh": "spatial"}]
    for variant in variants:
        for name, layer in hybrid({"block": block, **variant}).stages.named_modules():
            if isinstance(layer, Linear) and any(part in TOGETHER for part in name.split(".")[-2:]):
                assert len(layer.stacked) > 1, f"{name} does not say which matrices it holds"
                for matrix in matrices(layer):
                    rows, columns = matrix.shape
                    bound = (6 / (rows + columns)) ** 0.5
                    assert 0.9 * bound < matrix.abs().max() <= bound, name


def test_matrices_of_unequal_size_are_told_apart_by_head() -> None:
    layer = Linear(32, 4 * (8 + 8 + 32), stacked=(32, 32, 128), interleaved=4)
    init_xavier(layer)
    q, k, v = matrices(layer)
    assert q.shape == k.shape == (32, 32) and v.shape == (128, 32)
    assert 1.4 < q.std() / v.std() < 1.8  # sqrt((128 + 32) / (32 + 32))
    assert torch.equal(q[8:16], layer.weight[48:56])  # of the second head


def test_a_layer_of_one_matrix_starts_as_in_torch() -> None:
    layer, twin = Linear(8, 12), nn.Linear(8, 12)
    torch.manual_seed(0)
    init_xavier(layer)
    torch.manual_seed(0)
    nn.init.xavier_uniform_(twin.weight)
    assert torch.equal(layer.weight, twin.weight)


def test_convolutions_start_after_kaiming_and_biases_at_zero() -> None:
    model = hybrid({"block": "can", "kernel": [3, 3, 3]})
    weight = model.stages[0].blocks[0].conv.weight  # type: ignore[union-attr,index]
    assert weight.std().item() == pytest.approx((64 * 27) ** -0.5, rel=0.05)  # type: ignore[operator]
    stages = hybrid({"block": "parallel", "gate": {"kind": "both", "value": 0.3}}).stages
    for name, parameter in stages.named_parameters():
        if name.endswith("bias") and "gate" not in name:  # a gate starts at its value
            assert not parameter.any(), name


def test_matrices_may_start_as_in_vit() -> None:
    stages = hybrid({"block": "parallel"}, init="normal").stages
    layers = [layer for name, layer in stages.named_modules() if isinstance(layer, Linear) and "gate" not in name]
    assert len(layers) > 4
    for layer in layers:
        assert layer.weight.std().item() == pytest.approx(0.02, rel=0.1)
    with pytest.raises(UserError, match="init"):
        hybrid({"block": "parallel"}, init="orthogonal")


@torch.no_grad()
def test_a_joined_branch_starts_at_a_tenth_with_a_factor_for_each_channel() -> None:
    small, whole = (hybrid({"block": "parallel", "mlp_ratio": 0, "layer_scale": scale}).eval() for scale in (0.1, None))
    whole.load_state_dict(small.state_dict(), strict=False)
    x = torch.randn(1, 4, 8, 8, 64)
    added, full = (model.stages[0].blocks[0](x) - x for model in (small, whole))  # type: ignore[union-attr,index,operator]
    assert torch.allclose(added, 0.1 * full, atol=1e-5)
    scales = [parameter for name, parameter in small.named_parameters() if "scale" in name]
    assert [scale.shape for scale in scales] == [(64,)]


def test_stochastic_depth_drops_the_joined_branch_as_a_whole() -> None:
    stages = [{"block": block, "depth": 2, "mlp_ratio": 0} for block in ("parallel", "choice")]
    model = create_model("hybrid", 3, frames=2, height=8, width=8, stem={"widths": [8]}, stages=stages, drop_path=0.6)
    x = torch.randn(64, 2, 4, 4, 8)
    block = model.get_submodule("stages.0.blocks.1").train()
    kept = (block(x) - x).abs().amax((1, 2, 3, 4)) > 0
    assert 0.4 < kept.float().mean() < 0.95  # a rate of 0.2
    block = model.get_submodule("stages.1.blocks.1").train()
    kept = (block(x) - x).abs().amax((1, 2, 3, 4)) > 0
    assert 0.2 < kept.float().mean() < 0.6  # of 0.6
