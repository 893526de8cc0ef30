"""What a stage does to the grid before its blocks, and the combinations that mean nothing."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from hybridvideo.errors import UserError
from hybridvideo.models import create_model
from hybridvideo.models.hybrid import Hybrid
from hybridvideo.models.parts.resampling import SpacePool, TimePool, Tokeniser


def hybrid(*stages: dict[str, Any], **changes: Any) -> Hybrid:
    torch.manual_seed(0)
    settings = {"frames": 8, "height": 32, "width": 32, "stem": {"widths": [8, 16]}, **changes}
    model = create_model("hybrid", 3, stages=[{"depth": 1, **stage} for stage in stages], **settings)
    assert isinstance(model, Hybrid)
    return model.eval()


def test_frames_are_averaged_in_groups_of_which_the_last_may_be_smaller() -> None:
    x = torch.arange(5.0).view(1, 5, 1, 1, 1)
    assert TimePool(2)(x).flatten().tolist() == [0.5, 2.5, 4.0]
    assert TimePool(2, mixing=False)(x).flatten().tolist() == [0.0, 2.0, 4.0]


def test_a_frame_s_vector_is_the_mean_of_its_positions() -> None:
    x = torch.randn(2, 3, 4, 5, 6)
    assert torch.allclose(SpacePool()(x)[1, 2, 0, 0], x[1, 2].mean((0, 1)), atol=1e-6)


def test_tokens_are_weighted_means_that_the_features_choose() -> None:
    layer = Tokeniser(8, 3)
    x = torch.randn(1, 2, 4, 4, 8)
    tokens = layer(x)
    assert tokens.shape == (1, 2, 1, 3, 8)
    moved = x.flatten(2, 3)[:, :, torch.randperm(16)].view(x.shape)
    assert torch.allclose(layer(moved), tokens, atol=1e-5)  # wherever in the frame they lie
    with torch.no_grad():
        layer.scores.weight[0] = 1000 * torch.randn(8)
    frame = layer.norm(x[0, 0].flatten(0, 1))
    best = (frame @ layer.scores.weight[0]).argmax()
    assert torch.allclose(layer(x)[0, 0, 0, 0], frame[best], atol=1e-3)  # a sharp one is a position


@pytest.mark.parametrize(
    ("stage", "grid"),
    [
        ({"block": "temporal", "time_stride": 2}, (4, 8, 8)),
        ({"block": "temporal", "time_stride": 3}, (3, 8, 8)),
        ({"block": "temporal", "pool": "space"}, (8, 1, 1)),
        ({"block": "joint", "tokens": 5}, (8, 1, 5)),
        ({"block": "divided", "merge": True, "time_stride": 2, "tokens": 5}, (4, 1, 5)),
        ({"block": "temporal", "merge": True, "pool": "space"}, (8, 1, 1)),
    ],
)
def test_a_stage_changes_the_grid_before_its_blocks(stage: dict[str, Any], grid: tuple[int, int, int]) -> None:
    model = hybrid(stage)
    assert model.forward_features(torch.randn(2, 3, 8, 32, 32)).shape[1:4] == grid
    assert model.stages[0].grid == grid
    assert model(torch.randn(1, 3, 5, 40, 24)).shape == (1, 3)


def test_tokens_may_be_pooled_and_chosen_again() -> None:
    model = hybrid(
        {"block": "spatial", "tokens": 8}, {"block": "joint", "tokens": 2}, {"block": "temporal", "pool": "space"}
    )
    grids = model.forward_intermediates(torch.randn(1, 3, 8, 32, 32), model.stage_names[1:])
    assert [tuple(grid.shape[1:4]) for grid in grids] == [(8, 1, 8), (8, 1, 2), (8, 1, 1)]


POOLED = {"block": "temporal", "pool": "space"}
NONSENSE: list[tuple[list[dict[str, Any]], str]] = [
    ([{"block": "temporal", "pool": "space", "tokens": 2}], r"stages\[0\].tokens is 2, and each frame is one vector"),
    ([POOLED, {"block": "temporal", "tokens": 2}], r"stages\[1\].tokens is 2, and each frame is one vector"),
    ([POOLED, POOLED], r"stages\[1\].pool is space, and each frame is one vector already"),
    ([POOLED, {"block": "temporal", "merge": True}], r"stages\[1\].merge needs the rows and columns"),
    ([POOLED, {"block": "conv3d"}], r"stages\[1\]: conv3d needs the rows and columns"),
    ([POOLED, {"block": "sparse"}], r"stages\[1\]: sparse needs the rows and columns"),
    ([POOLED, {"block": "spatial"}], r"stages\[1\]: spatial attends within frames, .*; use temporal"),
    ([POOLED, {"block": "divided"}], r"stages\[1\]: divided attends within frames, .*; use temporal"),
    ([POOLED, {"block": "cross"}], r"stages\[1\]: cross attends within frames, .*; use temporal"),
    ([{"block": "joint", "tokens": 2, "position": "conv"}], "position is conv, and learned tokens have no neighbours"),
    ([{"block": "joint", "tokens": 2, "relative": "mlp"}], "relative is mlp, and learned tokens have no rows"),
    ([{"block": "linear", "relative": "table"}], "relative has no meaning for linear .*; use position: conv"),
    ([{"block": "conv", "features": 3}], "features has no meaning for conv blocks; they have"),
    ([{"block": "temporal", "time_stride": 0}], "time_stride is 0"),
    ([{"block": "temporal", "tokens": -1}], "tokens is -1"),
]


@pytest.mark.parametrize(("stages", "said"), NONSENSE)
def test_combinations_that_mean_nothing_are_refused_in_one_line(stages: list[dict[str, Any]], said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        hybrid(*stages)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("stage", [POOLED, {"block": "temporal", "tokens": 3}, {"block": "auto", "pool": "space"}])
@pytest.mark.parametrize("relative", ["table", "mlp"])
def test_frames_keep_their_distance_in_time_when_space_is_gone(stage: dict[str, Any], relative: str) -> None:
    model = hybrid({**stage, "relative": relative})
    for name, parameter in model.named_parameters():
        if name.endswith(("bias_table", "relative.fc2.weight", "classifier.weight")):
            torch.nn.init.normal_(parameter)
    x = torch.randn(1, 3, 8, 32, 32)
    assert not torch.allclose(model(x), model(x.flip(2)), atol=1e-3)
