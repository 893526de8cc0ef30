"""Relative position: a bias of the offset between query and key, in every kind of attention, for any size of grid."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from hybridvideo.models.parts.attention import (
    GroupedAttention,
    JointAttention,
    SpatialAttention,
    TemporalAttention,
    WindowAttention3d,
)
from hybridvideo.models.parts.relative import RelativeMlp, RelativePosition, RelativeTable, spread
from hybridvideo.models.parts.windows import Size

GRID = (3, 4, 5)
KINDS: dict[str, tuple[type[GroupedAttention], Size]] = {
    "joint": (JointAttention, GRID),
    "spatial": (SpatialAttention, (1, 4, 5)),
    "temporal": (TemporalAttention, (3, 1, 1)),
}


def drawn(relative: RelativePosition) -> RelativePosition:
    """With numbers large enough to show."""
    for parameter in relative.parameters():
        nn.init.normal_(parameter)
    return relative


def made(kind: str, relative: str) -> GroupedAttention:
    layer, grid = KINDS[kind]
    return layer(8, 2, drawn(RelativeTable(2, grid) if relative == "table" else RelativeMlp(2)))


def by_definition(layer: GroupedAttention, x_NC: Tensor, places_N3: Tensor, grid: Size) -> Tensor:
    """softmax(q k / sqrt(d) + bias of the offset) v, pair by pair."""
    assert layer.relative is not None
    table = layer.relative.table(grid)
    offset = (places_N3[:, None] - places_N3[None] + torch.tensor(grid) - 1).unbind(-1)
    q, k, v = (part.unflatten(1, (layer.heads, -1)) for part in layer.qkv(x_NC).chunk(3, -1))
    scores_NMh = torch.einsum("nhd,mhd->nmh", q, k) * q.shape[2] ** -0.5 + table[offset]
    return layer.proj(torch.einsum("nmh,mhd->nhd", scores_NMh.softmax(1), v).flatten(1))


def places(grid: Size) -> Tensor:
    return torch.stack(torch.meshgrid(*map(torch.arange, grid), indexing="ij"), -1).flatten(0, 2)


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("relative", ["table", "mlp"])
def test_scores_have_the_bias_of_their_offset(relative: str, grad: bool) -> None:
    x = torch.randn(2, *GRID, 8)
    with torch.set_grad_enabled(grad):
        joint, spatial, temporal = (made(kind, relative) for kind in KINDS)
        expected = by_definition(joint, x[1].flatten(0, 2), places(GRID), GRID)
        assert torch.allclose(joint(x)[1].flatten(0, 2), expected, atol=1e-5)
        frame = by_definition(spatial, x[1, 2].flatten(0, 1), places((1, 4, 5)), (1, 4, 5))
        assert torch.allclose(spatial(x)[1, 2].flatten(0, 1), frame, atol=1e-5)
        line = by_definition(temporal, x[1, :, 2, 3], places((3, 1, 1)), (3, 1, 1))
        assert torch.allclose(temporal(x)[1, :, 2, 3], line, atol=1e-5)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_bias_of_zero_changes_nothing(kind: str) -> None:
    cls, grid = KINDS[kind]
    plain, biased = cls(8, 2), cls(8, 2, RelativeTable(2, grid))
    biased.load_state_dict({**plain.state_dict(), "relative.bias_table": torch.zeros_like(biased.relative.bias_table)})  # type: ignore[union-attr]
    x = torch.randn(2, *GRID, 8)
    assert torch.allclose(plain(x), biased(x), atol=1e-6)


@pytest.mark.parametrize("relative", ["table", "mlp"])
def test_both_ways_through_time_are_the_same_forward_and_backward(relative: str) -> None:
    layer = made("temporal", relative)
    x = torch.randn(2, 3, 6, 8, requires_grad=True)
    wanted = [x, *layer.parameters()]
    ways: list[Callable[[Tensor], Tensor]] = [layer.all_at_once, layer.clip_by_clip]  # type: ignore[list-item]
    outs = [way(x) for way in ways]
    assert torch.allclose(*outs, atol=1e-6)
    gradients = [torch.autograd.grad(layer.proj(out).sin().sum(), wanted) for out in outs]
    for one, other in zip(*gradients, strict=True):
        assert one.abs().max() > 0 and torch.allclose(one, other, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("relative", ["table", "mlp"])
@pytest.mark.parametrize("kind", [*sorted(KINDS), "window3d"])
def test_attention_is_equivariant_to_shifts(kind: str, relative: str) -> None:
    """A pattern yields the same wherever it lies in the grid, as long as only it is seen."""
    layer = window(relative) if kind == "window3d" else made(kind, relative)
    see_only_unmarked(layer)
    pattern = torch.randn(1, 2, 3, 4, 8)
    pattern[..., -1] = 0
    outs = []
    for t, h, w in [(0, 0, 0), (1, 0, 1), (1, 1, 0)]:
        x = torch.randn(1, *GRID, 8)
        x[..., -1] = 1
        x[:, t : t + 2, h : h + 3, w : w + 4] = pattern
        outs.append(layer(x)[:, t : t + 2, h : h + 3, w : w + 4])
    assert torch.allclose(outs[0], outs[1], atol=1e-5) and torch.allclose(outs[0], outs[2], atol=1e-5)
    assert not torch.allclose(outs[0], layer(pattern.flip(2)).flip(2), atol=1e-2) or kind == "temporal"


def window(relative: str) -> WindowAttention3d:
    layer = WindowAttention3d(8, 2, GRID, shifted=False, by_mlp=relative == "mlp")
    for name, parameter in layer.named_parameters():
        if "bias_table" in name or "relative" in name:
            nn.init.normal_(parameter)
    return layer


def see_only_unmarked(layer: GroupedAttention) -> None:
    """Every query then turns away from positions whose last channel is 1."""
    weight, bias = (x.unflatten(0, (3, layer.heads, -1)) for x in (layer.qkv.weight, layer.qkv.bias))
    weight[:2, :, 0] = 0
    bias[0, :, 0], bias[1, :, 0] = 100, 0
    weight[1, :, 0, -1] = -100


@pytest.mark.parametrize("relative", [RelativeTable(2, GRID), RelativeMlp(2)])
def test_a_smaller_grid_has_the_biases_of_its_true_offsets(relative: RelativePosition) -> None:
    small = (2, 4, 3)
    whole, part = drawn(relative)(GRID, torch.zeros(1)), relative(small, torch.zeros(1))
    within = [int(t * 20 + h * 5 + w) for t, h, w in places(small)]
    assert torch.allclose(whole[:, :, within][..., within], part)


def test_a_table_is_stretched_only_along_axes_where_the_grid_is_larger() -> None:
    relative = drawn(RelativeTable(2, GRID))
    assert isinstance(relative, RelativeTable)
    table, larger = relative.bias_table, relative.table((3, 7, 4))
    assert larger.shape == (5, 13, 7, 2)
    assert torch.allclose(larger[:, [0, 6, 12]], table[:, [0, 3, 6], 1:-1], atol=1e-6)


def test_the_mlp_has_one_answer_for_an_offset_whatever_the_grid() -> None:
    relative = drawn(RelativeMlp(2))
    assert torch.allclose(relative.table((4, 9, 9))[2:5, 6:11, 4:13], relative.table((2, 3, 5)), atol=1e-6)


def test_a_table_and_a_network_are_looked_up_alike() -> None:
    table = torch.randn(3, 5, 3, 2)
    bias = spread(table, (2, 3, 2)).unflatten(2, (2, 3, 2)).unflatten(5, (2, 3, 2))
    assert torch.equal(bias[0, :, 1, 2, 0, 0, 1, 1], table[1 - 0 + 1, 2 - 1 + 2, 0 - 1 + 1])


@pytest.mark.parametrize("relative", [RelativeTable(2, GRID), RelativeMlp(2)])
def test_the_bias_is_kept_without_gradients_until_it_changes(relative: RelativePosition) -> None:
    like = torch.zeros(1)
    with torch.no_grad():
        first = drawn(relative)(GRID, like)
        assert relative(GRID, like) is first
        next(iter(relative.parameters())).mul_(2)
        assert not torch.equal(relative(GRID, like), first)
    assert relative(GRID, like).requires_grad
