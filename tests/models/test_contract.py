"""What holds for every registered model, at a small input."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from hybridvideo.errors import UserError
from hybridvideo.models import MODELS, create_model, list_models
from hybridvideo.models.contract import AfterFrozen, VideoModel, count_gmacs, count_parameters

SMALL_INPUT = (2, 3, 4, 64, 64)
# The same network with fewer blocks, so that the large ones take no longer than the small.
FEWER: dict[str, dict[str, Any]] = {
    "hybrid_small": {"stages": [{"block": "window3d", "depth": 1, "heads": 8}]},
    "hybrid_base": {"stages": [{"block": "divided", "depth": 1, "heads": 12}]},
    "video_swin_tiny": {"dim": 12, "depths": (2, 1, 2, 1)},
    "video_swin_small": {"dim": 12, "depths": (1, 2, 1, 1), "window": (2, 7, 7)},
    "video_swin_base": {"dim": 16, "depths": (2, 1, 1, 1)},
    "video_swin_large": {"dim": 24, "depths": (2, 1, 1, 1), "heads": (1, 2, 2, 2)},
    "uniformer_small": {"dims": (16, 16, 32, 32), "depths": (1, 1, 1, 1), "head_dim": 16},
    "uniformer_base": {"dims": (8, 16, 16, 32), "depths": (2, 1, 2, 1), "head_dim": 16},
    "timesformer_base": {"depth": 2, "dim": 48, "heads": 3},
    "timesformer_hr": {"depth": 1, "dim": 32, "heads": 2, "attention": "joint"},
    "timesformer_large": {"depth": 2, "dim": 32, "heads": 2, "attention": "space"},
    "videomae_small": {"depth": 2, "dim": 48},
    "videomae_base": {"depth": 1, "dim": 48},
    "videomae_large": {"depth": 1, "dim": 32},
    "videomae_huge": {"depth": 1, "dim": 80, "patch": (2, 32, 32)},
    "slow_r50": {"channels": 8},
    "c2d_r50": {"channels": 8},
    "i3d_r50": {"channels": 8},
    "csn_r101": {"channels": 8, "depth": 50},
    "r2plus1d_r50": {"channels": 8},
    "slowfast_r50": {"channels": 16, "depth": 18},
    "slowfast_r101": {"channels": 16, "depth": 18},
    **{f"x3d_{size}": {"width_factor": 0.5, "depth_factor": 0.2} for size in ("xs", "s", "m", "l")},
    **{f"mvit_base_{clip}": {"depths": (1, 1, 1), "channels": 16} for clip in ("16x4", "32x3")},
    "r3d_18": {"depths": (1, 1, 1, 1)},
    "mc3_18": {"depths": (1, 1, 1, 1)},
    "r2plus1d_18": {"depths": (1, 1, 1, 1)},
    "mvit_v1_b": {"depths": (1, 1, 1), "channels": 16},
    "mvit_v2_s": {"depths": (1, 1, 1), "channels": 16},
}


def small(name: str, num_classes: int = 5) -> VideoModel:
    torch.manual_seed(0)
    return create_model(name, num_classes, **{"frames": 4, "height": 64, "width": 64, **FEWER.get(name, {})})


@pytest.fixture(params=sorted(MODELS))
def model(request: pytest.FixtureRequest) -> VideoModel:
    return small(request.param)


def test_logits_have_one_column_per_class_in_both_modes(model: VideoModel) -> None:
    x = torch.randn(SMALL_INPUT)
    for mode in (True, False):
        assert model.train(mode)(x).shape == (2, 5)


def test_logits_are_logits_in_evaluation_mode(model: VideoModel) -> None:
    with torch.no_grad():
        list(model.layer_groups()[-1][1])[-2].mul_(100)
        logits = model.eval()(torch.randn(SMALL_INPUT))
    assert not torch.allclose(logits.sum(1), torch.ones(2), atol=1e-3)


def test_features_and_head_make_the_forward_pass(model: VideoModel) -> None:
    model.eval()
    x = torch.randn(SMALL_INPUT)
    features = model.forward_features(x)
    assert features.ndim == 5 and features.shape[0] == 2
    assert torch.equal(model.forward_head(features), model(x))
    assert model.forward_head(features, pre_logits=True).shape == (2, model.num_features)


def test_intermediates_are_grids_in_the_order_asked_for(model: VideoModel) -> None:
    names = model.stage_names[::-1]
    grids = model.eval().forward_intermediates(torch.randn(SMALL_INPUT), names)
    assert len(grids) == len(names) and all(grid.ndim == 5 for grid in grids)
    with pytest.raises(UserError, match="no stage 'stagex'"):
        model.forward_intermediates(torch.randn(SMALL_INPUT), ["stagex"])


def test_every_trained_parameter_gets_a_gradient(model: VideoModel) -> None:
    model.train()(torch.randn(SMALL_INPUT)).square().sum().backward()
    without = [
        name for name, parameter in model.named_parameters() if parameter.requires_grad and parameter.grad is None
    ]
    assert not without


def test_a_training_step_is_the_same_with_activations_computed_again(model: VideoModel) -> None:
    x = torch.randn(SMALL_INPUT)
    plain, plain_kept = training_step(copy.deepcopy(model), x)
    model.set_grad_checkpointing()
    again, again_kept = training_step(model, x)
    assert again_kept < plain_kept or model.stage_names == ["stem"]  # `hybrid` has no blocks
    for name, value in plain.items():
        assert torch.allclose(value, again[name], atol=1e-6, rtol=1e-5), name


def training_step(model: VideoModel, x: torch.Tensor) -> tuple[dict[str, torch.Tensor], int]:
    """Logits, gradients and buffers after a step forward and back; how many activations it kept between the two."""
    torch.manual_seed(1)
    kept: list[torch.Size] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda saved: kept.append(saved.shape) or saved, lambda saved: saved):
        logits = model.train()(x)
    logits.square().sum().backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    return {"logits": logits.detach(), **gradients, **dict(model.named_buffers())}, len(kept)


def test_layer_groups_hold_each_parameter_once(model: VideoModel) -> None:
    grouped = [id(parameter) for _, group in model.layer_groups() for parameter in group]
    assert sorted(grouped) == sorted(id(parameter) for parameter in model.parameters())


def test_names_without_decay_exist(model: VideoModel) -> None:
    assert model.no_weight_decay() <= {name for name, _ in model.named_parameters()}


def test_a_new_classifier_has_the_new_classes(model: VideoModel) -> None:
    model.reset_classifier(7)
    assert model(torch.randn(SMALL_INPUT)).shape == (2, 7) and model.num_classes == 7
    assert model.get_submodule(model.classifier_name).weight.shape[0] == 7


@pytest.mark.parametrize("name", sorted(MODELS))
def test_settings_rebuild_the_architecture(name: str) -> None:
    model = small(name)
    twin = create_model(name, 5, **model.settings())
    twin.load_state_dict(model.state_dict())
    x = torch.randn(SMALL_INPUT)
    assert torch.equal(twin.eval()(x), model.eval()(x))


def test_the_frozen_part_and_the_rest_make_the_forward_pass(model: VideoModel) -> None:
    x = torch.randn(SMALL_INPUT)
    model.eval()
    assert torch.allclose(AfterFrozen(model)(model.forward_frozen(x)), model(x), atol=1e-6)


def test_a_clip_does_not_depend_on_its_batch(model: VideoModel) -> None:
    x = torch.randn(SMALL_INPUT)
    model.eval()
    with torch.no_grad():
        assert torch.allclose(model(x)[:1], model(x[:1]), atol=1e-5)


def test_counts_are_those_of_the_modules(model: VideoModel) -> None:
    assert count_parameters(model) == sum(parameter.numel() for parameter in model.parameters())
    double = count_gmacs(model, (3, 8, 64, 64)) / count_gmacs(model, (3, 4, 64, 64))
    assert 1.8 < double < 4.1


def test_an_unknown_name_or_setting_names_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean 'hybrid_micro'"):
        create_model("hybrid_mikro")
    with pytest.raises(UserError, match="did you mean 'drop_path'"):
        create_model("hybrid_micro", 2, drop_pth=0.1)
    with pytest.raises(UserError, match="num_classes is 0"):
        create_model("hybrid_micro", 0)


def test_models_are_listed_by_pattern() -> None:
    assert "hybrid_base" in list_models("hybrid_*") and "hybrid" not in list_models("hybrid_*")
