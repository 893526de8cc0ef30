"""What holds for every registered model, at a small input."""

from __future__ import annotations

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
