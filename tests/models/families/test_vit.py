"""Plain ViTs on clips: tubelets, class tokens, what they cannot be mixed with."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from hybridvideo.errors import UserError
from hybridvideo.models import create_model
from hybridvideo.models.contract import count_gmacs
from hybridvideo.models.hybrid import Hybrid


def vit(block: str = "divided", patch: tuple[int, int, int] = (2, 8, 8), **changes: Any) -> Hybrid:
    torch.manual_seed(0)
    stem = {"name": "patch", "widths": [24], "patch": list(patch)}
    stages = [{"block": block, "depth": 1, "heads": 2}, {"block": block, "depth": 1, "heads": 2, "dim": 32}]
    settings = {"frames": 4, "height": 32, "width": 32, "position": "absolute", "class_token": True, "stages": stages}
    model = create_model("hybrid", 3, **{**settings, "stem": stem, **changes})
    torch.nn.init.normal_(model.get_parameter("head.classifier.weight"))
    assert isinstance(model, Hybrid)
    return model.eval()


def clip(frames: int = 4, height: int = 32, width: int = 32) -> Tensor:
    return torch.randn(2, 3, frames, height, width)


@torch.no_grad()
@pytest.mark.parametrize("block", ["spatial", "temporal", "divided", "joint", "mlp"])
def test_class_tokens_take_every_attention_that_needs_no_grid_at_any_size(block: str) -> None:
    stages = [{"block": block, "depth": 2, **({} if block == "mlp" else {"heads": 2})}]
    model = vit(stages=stages)
    for size in ((4, 32, 32), (1, 32, 32), (7, 40, 24), (6, 33, 50)):
        assert model(clip(*size)).isfinite().all()


@torch.no_grad()
def test_intermediates_are_true_grids_and_the_head_reads_the_class_token() -> None:
    model = vit()
    grids = model.forward_intermediates(clip(5, 40, 24), ["stem", "stage1", "stage2"])
    assert [tuple(grid.shape) for grid in grids] == [(2, 3, 5, 3, 24), (2, 3, 5, 3, 24), (2, 3, 5, 3, 32)]
    assert model.forward_features(clip()).shape == (2, 2, 1, 1, 32)


@torch.no_grad()
@pytest.mark.parametrize("class_token", [True, False])
def test_registers_leave_the_grids_as_they_are(class_token: bool) -> None:
    model, x = vit(registers=3, class_token=class_token), clip(5, 40, 24)
    grids = model.forward_intermediates(x, ["stem", "stage1", "stage2"])
    assert [tuple(grid.shape) for grid in grids] == [(2, 3, 5, 3, 24), (2, 3, 5, 3, 24), (2, 3, 5, 3, 32)]
    last = model.forward_features(x)
    assert last.shape == ((2, 3, 1, 1, 32) if class_token else (2, 3, 5, 3, 32))
    if not class_token:
        assert torch.allclose(last, model.get_submodule("norm")(grids[-1]), atol=1e-6)
    assert "registers.registers_RC" in model.no_weight_decay()


@torch.no_grad()
def test_attention_reads_registers() -> None:
    model, x = vit(registers=3), clip()
    before = model(x)
    torch.nn.init.normal_(model.get_parameter("registers.registers_RC"))
    assert not torch.allclose(model(x), before, atol=1e-4)


def test_registers_need_no_rows_and_columns_either() -> None:
    with pytest.raises(UserError, match="which registers do not have; set registers to 0"):
        vit(stages=[{"block": "conv"}], registers=2, class_token=False)
    with pytest.raises(UserError, match="with registers it has one row and column"):
        vit(adapter={"kind": "st", "kernel": [3, 3, 3]}, registers=2, class_token=False)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["layer", "batch"])
def test_the_first_norm_is_of_positions_and_tokens(kind: str) -> None:
    model = vit(first_norm=kind, registers=2)
    entered = model.enter(model.forward_stem(clip()))
    assert entered.shape == (2, 2, 1, 19, 24)
    if kind == "layer":
        assert torch.allclose(entered.mean(-1), torch.zeros(()), atol=1e-5)
    names = [group for group, held in model.layer_groups() if model.get_parameter("first_norm.weight") in set(held)]
    assert names == ["embedding"]


@torch.no_grad()
def test_only_attention_brings_what_a_frame_shows_to_its_class_token() -> None:
    blind = vit(stages=[{"block": "temporal", "depth": 2, "heads": 2}])
    assert torch.allclose(blind(clip()), blind(clip()), atol=1e-6)
    mean = vit(stages=[{"block": "temporal", "depth": 2, "heads": 2}], class_token=False)
    seeing = vit(stages=[{"block": "spatial", "depth": 1, "heads": 2}])
    for model in (mean, seeing):
        assert not torch.allclose(model(clip()), model(clip()), atol=1e-3)


@torch.no_grad()
def test_without_attention_through_time_the_class_token_of_a_frame_knows_that_frame_alone() -> None:
    x, other = clip(), clip()
    other[:, :, :2] = x[:, :, :2]
    for block, same in (("spatial", True), ("divided", False), ("joint", False)):
        model = vit(block)
        tokens, others = model.forward_features(x), model.forward_features(other)
        assert torch.allclose(tokens[:, 0], others[:, 0], atol=1e-5) is same


@pytest.mark.parametrize(
    ("stage", "said"),
    [
        ({"block": "window3d"}, "window3d blocks need rows and columns"),
        ({"block": "conv"}, "conv blocks need rows and columns"),
        ({"block": "spatial", "position": "conv"}, "position conv needs rows and columns"),
        ({"block": "spatial", "merge": True}, "merge needs rows and columns"),
        ({"block": "spatial", "pool": "space"}, "pool space needs rows and columns"),
        ({"block": "spatial", "tokens": 4}, "tokens needs rows and columns"),
    ],
)
def test_what_needs_rows_and_columns_is_refused_in_one_line(stage: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=rf"stages\[0\]: {said}, which class tokens do not have; set class_token false"):
        vit(stages=[stage])


# --- tubelets ---------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_a_tubelet_sees_the_order_of_its_frames() -> None:
    model, x = vit("spatial", stages=[]), clip(2)
    assert not torch.allclose(model.forward_stem(x), model.forward_stem(x.flip(2)), atol=1e-3)


@torch.no_grad()
def test_a_frame_and_a_last_odd_frame_are_seen_as_if_still() -> None:
    model = vit(class_token=False)
    frame = clip(1)
    assert torch.allclose(model.forward_stem(frame), model.forward_stem(frame.expand(-1, -1, 2, -1, -1)), atol=1e-6)
    x = clip(3)
    assert torch.allclose(model.forward_stem(x)[:, 1], model.forward_stem(x[:, :, 2:])[:, 0], atol=1e-6)


@torch.no_grad()
def test_tubelets_of_the_control_are_their_first_frames() -> None:
    model, x = vit(time=False), clip()
    changed = x.clone()
    changed[:, :, 1::2] = 0
    assert torch.equal(model(x), model(changed))
    assert torch.allclose(model(x), model(x[:, :, [2, 3, 0, 1]]), atol=1e-6)


def test_tubelets_of_two_frames_halve_the_cost() -> None:
    one, two = (count_gmacs(vit("spatial", patch=(t, 8, 8))) for t in (1, 2))
    assert 1.6 < one / two < 2.1


def test_a_patch_stem_has_one_width_and_no_weights_of_its_own() -> None:
    for stem, said in (({"widths": [8, 16]}, "give one number"), ({"weights": "w.pth"}, "load those of a ViT with")):
        with pytest.raises(UserError, match=said):
            create_model("vit_tiny", stem=stem)


def test_a_backbone_stem_is_the_cnn_before_a_patch_embedding() -> None:
    with pytest.raises(UserError, match="has no CNN before its patch embedding"):
        create_model("conv_vit_base", stem={"name": "backbone/vit_small_patch16_224"})
    with pytest.raises(UserError, match="no feature map of stride 16, but of 32"):
        create_model("conv_vit_base", stem={"stride": 16})
