"""Grids are cut into windows and put together again, and nothing is lost or counted twice."""

from __future__ import annotations

import pytest
import torch

from hybridvideo.models.parts.windows import Gathered, Scattered, axis_parts, shift_mask, true_parts, window_layout

GRIDS = [(4, 6, 8), (5, 7, 3), (1, 2, 9), (2, 3, 4)]


@pytest.mark.parametrize("grid", GRIDS)
def test_splitting_and_joining_windows_gives_the_grid_back(grid: tuple[int, int, int]) -> None:
    x = torch.randn(2, *grid, 3)
    layout = window_layout(grid, (2, 3, 4), True)
    assert torch.equal(layout.join(layout.split(x), 2), x)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("shifted", [False, True])
def test_gathering_and_scattering_rows_gives_the_grid_back(grid: tuple[int, int, int], shifted: bool) -> None:
    layout = window_layout(grid, (2, 3, 4), shifted)
    cut, x = true_parts(layout), layout.pad(torch.randn(2, *grid, 3))
    rows = cut.gather(x)
    assert rows.shape == (x[..., 0].numel(), 3)
    assert torch.equal(cut.scatter(rows, 2), x)


def test_the_parts_are_those_that_swins_mask_leaves_apart() -> None:
    layout = window_layout((4, 9, 8), (2, 3, 4), True)
    count = torch.arange(4 * 9 * 8).view(1, 4, 9, 8, 1)
    seen = torch.zeros(4 * 9 * 8, 4 * 9 * 8, dtype=torch.bool)
    masks = shift_mask(layout.padded, layout.window, layout.shift, torch.device("cpu"))
    for window, mask in zip(layout.split(count)[..., 0], masks, strict=True):
        seen[window[:, None], window] = mask == 0
    mine = torch.zeros_like(seen)
    for _, rows in true_parts(layout).split(true_parts(layout).gather(count), 1):
        for window in rows[0, ..., 0]:
            mine[window[:, None], window] = True
    assert torch.equal(mine, seen)


def test_a_shifted_axis_has_a_first_and_a_last_part_of_less_than_a_window() -> None:
    assert axis_parts(14, 7, 3) == [(0, 3, 3, 4), (3, 10, 7, 0), (10, 14, 4, 0)]
    assert axis_parts(8, 4, 2) == [(0, 2, 2, 2), (2, 6, 4, 0), (6, 8, 2, 0)]
    assert axis_parts(14, 7, 0) == [(0, 14, 7, 0)]
    assert axis_parts(3, 1, 0) == [(0, 3, 1, 0)]


@pytest.mark.parametrize("most", [1, 30, 10**6])
def test_portions_are_all_rows_in_order_and_divide_no_window(most: int) -> None:
    cut = true_parts(window_layout((4, 9, 8), (2, 3, 4), True))
    at = 0
    for portion in cut.portions(3, most):
        for windows in portion:
            assert windows.start == at and (windows.stop - at) % windows.part.tokens == 0
            at = windows.stop
        assert portion[-1].stop - portion[0].start <= max(most, portion[0].part.tokens)
    assert at == 3 * 4 * 9 * 8


def test_the_gradients_of_gathering_and_scattering_are_one_anothers() -> None:
    cut = true_parts(window_layout((4, 6, 4), (2, 3, 2), True))
    grid = torch.randn(2, 4, 6, 4, 2, dtype=torch.float64, requires_grad=True)
    rows = torch.randn(2 * 4 * 6 * 4, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: Gathered.apply(x, cut), grid)
    assert torch.autograd.gradcheck(lambda x: Scattered.apply(x, cut, 2), rows)
