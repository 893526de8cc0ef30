"""Grids are cut into windows and put together again, and nothing is lost or counted twice."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from hybridvideo.models.parts.windows import (
    Cut,
    Gathered,
    Scattered,
    WindowLayout,
    axis_parts,
    masked_parts,
    seam_mask,
    true_parts,
    window_layout,
)

GRIDS = [(4, 6, 8), (5, 7, 3), (1, 2, 9), (2, 3, 4)]


CUTS = [true_parts, masked_parts]


@pytest.mark.parametrize("cut_of", CUTS)
@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("shifted", [False, True])
def test_scattering_undoes_gathering(
    grid: tuple[int, int, int], shifted: bool, cut_of: Callable[[WindowLayout], Cut]
) -> None:
    layout = window_layout(grid, (2, 3, 4), shifted)
    cut, x = cut_of(layout), layout.pad(torch.randn(2, *grid, 3))
    rows = cut.gather(x)
    assert rows.shape == (x[..., 0].numel(), 3)
    assert torch.equal(cut.scatter(rows, 2), x)


def test_both_cuts_let_the_positions_see_each_other_that_swins_regions_do() -> None:
    layout = window_layout((4, 9, 8), (2, 3, 4), True)
    count = torch.arange(4 * 9 * 8).view(1, 4, 9, 8, 1)
    expected = seen_by_definition(layout)
    for cut in (true_parts(layout), masked_parts(layout)):
        seen = torch.zeros_like(expected)
        for part, rows in cut.split(cut.gather(count), 1):
            together = seam_mask(part.window, part.seam, torch.device("cpu")) == 0
            for window in rows[0, ..., 0]:
                seen[window[:, None], window] = together
        assert torch.equal(seen, expected)


def seen_by_definition(layout: WindowLayout) -> torch.Tensor:
    """Two positions see each other if the windows of the shifted grid hold both, not counting wrap-around."""
    axes = []
    for side, window, shift in zip(layout.padded, layout.window, layout.shift, strict=True):
        window_of = (torch.arange(side) + (window - shift) % window) // window
        axes.append(window_of)
    places = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).flatten(0, 2)
    return (places[:, None] == places[None]).all(-1)


@pytest.mark.parametrize("batch", [1, 4])
def test_a_rolled_layout_has_at_most_eight_parts_however_many_windows(batch: int) -> None:
    layout = window_layout((16, 56, 56), (8, 7, 7), True)
    cut = masked_parts(layout)
    assert len(cut.parts) == 8 and sum(not any(part.seam) for part in cut.parts) == 1
    assert sum(cut.rows_of(part, batch) for part in cut.parts) == batch * 16 * 56 * 56


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
    for cut_of in CUTS:
        check_gradients(cut_of(window_layout((4, 6, 4), (2, 3, 2), True)))


def check_gradients(cut: Cut) -> None:
    grid = torch.randn(2, 4, 6, 4, 2, dtype=torch.float64, requires_grad=True)
    rows = torch.randn(2 * 4 * 6 * 4, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: Gathered.apply(x, cut), grid)
    assert torch.autograd.gradcheck(lambda x: Scattered.apply(x, cut, 2), rows)
