"""Sparse attention: whom each position sees, that it is the same each time, and what it costs."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from hybridvideo.models import create_model
from hybridvideo.models.contract import count_gmacs
from hybridvideo.models.parts.attention import JointAttention
from hybridvideo.models.parts.relative import RelativeTable
from hybridvideo.models.parts.sparse import SparseAttention, local_parts, random_places

GRID = (3, 5, 7)


def like(joint: JointAttention, *arguments: object, **settings: object) -> SparseAttention:
    """Sparse attention with the weights of a joint one."""
    sparse = SparseAttention(joint.proj.in_features, joint.heads, *arguments, **settings)  # type: ignore[arg-type]
    sparse.load_state_dict(joint.state_dict())
    return sparse


def joint_with_table() -> JointAttention:
    joint = JointAttention(8, 2, RelativeTable(2, GRID))
    assert joint.relative is not None
    nn.init.normal_(next(joint.relative.parameters()))
    return joint


@pytest.mark.parametrize(("window", "keys"), [((3, 5, 7), 0), ((9, 9, 9), 4), ((2, 3, 4), 1000), ((1, 1, 1), 1000)])
@pytest.mark.parametrize("relative", [False, True])
def test_windows_or_random_keys_that_cover_the_clip_make_it_joint(
    window: tuple[int, int, int], keys: int, relative: bool
) -> None:
    joint = joint_with_table() if relative else JointAttention(8, 2)
    table = RelativeTable(2, GRID) if relative else None
    x = torch.randn(2, *GRID, 8)
    assert torch.allclose(like(joint, window, keys, relative=table)(x), joint(x), atol=1e-5)


def seen_by(layer: SparseAttention, position: tuple[int, int, int]) -> Tensor:
    """Which positions of the grid influence one: (T, H, W)."""
    x = torch.randn(1, *GRID, 8, requires_grad=True)
    layer(x)[0][position].square().sum().backward()
    assert x.grad is not None
    return x.grad[0].abs().sum(-1) > 0


@pytest.mark.parametrize("relative", [False, True])
def test_a_position_sees_its_window_and_a_few_others(relative: bool) -> None:
    layer = SparseAttention(8, 2, (2, 3, 4), 6, relative=RelativeTable(2, GRID) if relative else None)
    seen = seen_by(layer, (2, 4, 5))
    assert seen[2:, 3:, 4:].all() and seen.sum() == 1 * 2 * 3 + 6
    seen = seen_by(layer, (0, 1, 2))
    assert seen[:2, :3, :4].all() and seen.sum() == 2 * 3 * 4 + 6


def test_random_keys_are_the_same_each_time_and_differ_between_seeds_and_windows() -> None:
    device = torch.device("cpu")
    keys = random_places(GRID, (1, 5, 7), 0, 6, 3, device)
    assert keys.shape == (3, 6) and len({tuple(row.tolist()) for row in keys}) == 3
    for frame, row in enumerate(keys.tolist()):
        assert len(set(row)) == 6 and not set(row) & set(range(35 * frame, 35 * frame + 35))
    assert not torch.equal(keys, random_places(GRID, (1, 5, 7), 0, 6, 4, device))
    layer = SparseAttention(8, 2, (1, 3, 4), 6)
    x = torch.randn(2, *GRID, 8)
    assert torch.equal(layer(x), layer(x)) and torch.allclose(layer(x)[:1], layer(x[:1]), atol=1e-6)


def test_the_parts_cover_the_grid_once() -> None:
    count = torch.zeros(GRID)
    for part in local_parts(GRID, (2, 3, 4)):
        (t, h, w), (T, H, W) = part.start, part.stop
        count[t:T, h:H, w:W] += 1
        assert all(side % step == 0 for side, step in zip(part.grid, part.window, strict=True))
    assert (count == 1).all() and len(local_parts(GRID, (2, 3, 4))) == 8
    assert len(local_parts((8, 14, 14), (8, 7, 7))) == 1


def test_cost_is_bounded_for_each_position() -> None:
    stage = {"block": "sparse", "depth": 1, "window": (2, 4, 4), "random_keys": 16}
    model = create_model("hybrid", 3, stem={"widths": [8, 16]}, stages=[stage], frames=4, height=32, width=32)
    one, eight = count_gmacs(model, (3, 4, 32, 32)), count_gmacs(model, (3, 32, 32, 32))
    head = 16 * 3 / 1e9
    assert eight - head == pytest.approx(8 * (one - head))


def test_frames_apart_see_themselves_alone() -> None:
    layer = SparseAttention(8, 2, (1, 3, 3), 4, frames_apart=True)
    x = torch.randn(2, 3, 5, 5, 8)
    assert torch.allclose(layer(x)[:, 1:2], layer(x[:, 1:2]), atol=1e-6)
