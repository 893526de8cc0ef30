"""What holds for every registered model, at a small input."""

from __future__ import annotations

import copy
import weakref
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from hybridvideo.errors import UserError
from hybridvideo.models import MODELS, create_model, list_models
from hybridvideo.models.baselines.pytorchvideo import SlowFast
from hybridvideo.models.conformer import Conformer
from hybridvideo.models.contract import AfterFrozen, Grids, Outputs, VideoModel, count_gmacs, count_parameters
from hybridvideo.models.towers import Towers
from tests.models.small import SMALL_INPUT, everything, small


@pytest.fixture(scope="module", params=sorted(MODELS))
def built(request: pytest.FixtureRequest) -> VideoModel:
    return small(request.param)


@pytest.fixture
def model(built: VideoModel) -> VideoModel:
    """A model for one test to change as it likes."""
    return copy.deepcopy(built)


def test_logits_have_one_column_per_class_in_both_modes(model: VideoModel) -> None:
    x = torch.randn(SMALL_INPUT)
    in_training = model.train()(x)
    assert model.eval()(x).shape == (2, 5)
    if isinstance(in_training, Outputs):
        assert in_training.logits.shape == (2, 5) and in_training.auxiliary
        for name, part in in_training.auxiliary.items():
            assert not name.startswith("logits_") or part.shape == (2, 5), name
            assert not name.startswith("cost_") or part.shape == (2,), name
    else:
        assert in_training.shape == (2, 5)


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
    everything(model.train()(torch.randn(SMALL_INPUT))).square().sum().backward()
    without = [
        name for name, parameter in model.named_parameters() if parameter.requires_grad and parameter.grad is None
    ]
    assert not without


def test_a_training_step_is_the_same_with_activations_computed_again(model: VideoModel) -> None:
    x = torch.randn(SMALL_INPUT)
    plain, plain_kept = training_step(copy.deepcopy(model), x)
    model.set_grad_checkpointing()
    again, again_kept = training_step(model, x)
    assert again_kept < plain_kept
    for name, value in plain.items():
        assert torch.allclose(value, again[name], atol=1e-6, rtol=1e-5), name


def training_step(model: VideoModel, x: torch.Tensor) -> tuple[dict[str, torch.Tensor], int]:
    """Logits, gradients and buffers after a step forward and back; how many activations it kept between the two."""
    torch.manual_seed(1)
    kept: list[torch.Size] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda saved: kept.append(saved.shape) or saved, lambda saved: saved):
        logits = everything(model.train()(x))
    logits.square().sum().backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    return {"logits": logits.detach(), **gradients, **dict(model.named_buffers())}, len(kept)


def test_the_stem_is_computed_again_too(model: VideoModel) -> None:
    kept: list[Tensor] = []
    x = torch.randn(SMALL_INPUT)
    model.set_grad_checkpointing()
    with torch.autograd.graph.saved_tensors_hooks(lambda saved: kept.append(saved) or saved, lambda saved: saved):
        model.train().first_grid(x)
    sized = [saved for saved in kept if saved.numel()]  # torch 2.11 also keeps an empty tensor
    assert all(saved.untyped_storage().data_ptr() == x.untyped_storage().data_ptr() for saved in sized)


@torch.no_grad()
def test_a_forward_pass_holds_no_grid_but_the_current_one(model: VideoModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """`run_block` is called for stem and blocks: while one runs, what those before the last returned is gone."""
    grids: list[weakref.ref[Tensor]] = []

    def watched(run: Any, block: Any, *inputs: Any) -> Any:
        assert sum(grid() is not None for grid in grids[:-per_call]) <= held
        out = run(block, *inputs)
        grids.extend(weakref.ref(part) for part in (out if isinstance(out, tuple) else (out,)) if is_grid(part))
        return out

    per_call = 2 if isinstance(model, SlowFast | Conformer) else 1  # pathways, branches
    held = 2 if isinstance(model, Towers) else 0  # the clip that both towers read, and the first one's grid
    for network in model.modules():
        if isinstance(network, VideoModel):
            monkeypatch.setattr(network, "run_block", partial(watched, network.run_block))
    model.eval()(torch.randn(SMALL_INPUT))
    assert len(grids) >= len(model.stage_names)


def is_grid(part: object) -> bool:
    return isinstance(part, Tensor) and part.shape[1:-1].numel() > 1  # not TimeSformer's class tokens


@torch.no_grad()
def test_only_the_stages_asked_for_are_kept(model: VideoModel) -> None:
    x, names = torch.randn(SMALL_INPUT), model.stage_names
    keep = Grids(names[:1])
    model.eval().forward_stages(model.first_grid(x), keep)
    assert list(keep.grids) == names[:1]
    every = model.forward_intermediates(x, names)
    for name, grid in zip(names, every, strict=True):
        assert torch.allclose(model.forward_intermediates(x, [name])[0], grid, atol=1e-6)


@pytest.mark.parametrize("name", sorted(MODELS))
def test_a_model_made_under_inference_mode_works_in_every_mode_and_learns(name: str) -> None:
    with torch.inference_mode():
        made = small(name)
        made.load_state_dict(small(name).state_dict())
        made.reset_classifier(5)
    fresh = small(name)
    fresh.load_state_dict(made.state_dict())
    x = torch.randn(SMALL_INPUT)
    for mode in (torch.inference_mode, torch.no_grad, torch.enable_grad):
        for low in (False, True):
            untouched = copy.deepcopy(fresh).eval()  # outside the mode: a copy of inference tensors folds nothing
            with mode(), torch.autocast("cpu", torch.bfloat16, enabled=low):
                assert torch.equal(made.eval()(x), untouched(x))
    learn(made, x)
    learn(fresh, x)
    for mode in (torch.inference_mode, torch.no_grad):
        untouched = copy.deepcopy(fresh).eval()
        with mode(), torch.autocast("cpu", torch.bfloat16):
            assert torch.allclose(made.eval()(x), untouched(x), atol=1e-5)


def learn(model: VideoModel, x: Tensor) -> None:
    """One step, large enough to show."""
    torch.manual_seed(1)
    everything(model.train()(x)).square().sum().backward()
    torch.optim.SGD(model.parameters(), lr=1e-3).step()


@pytest.mark.parametrize("kind", ["built bare", "moved"])
@pytest.mark.parametrize("name", ["hybrid_tiny", "video_swin_tiny", "timesformer_base", "uniformer_small"])
def test_parameters_that_are_inference_tensors_do(name: str, kind: str) -> None:
    # Without a norm to fold: inference tensors are not folded, and folding adds in another order.
    changes = {"stem": {"widths": [32, 64, 128], "norm": "layer"}} if name == "hybrid_tiny" else {}
    made = small(name, **changes).eval()
    x = torch.randn(SMALL_INPUT)
    with torch.inference_mode():
        expected = made(x)
        if kind == "moved":
            made.double().float()
            assert not any(parameter.is_inference() for parameter in made.parameters())
        else:
            made.__init__(made.config, 5)  # type: ignore[misc]
            assert all(parameter.is_inference() for parameter in made.parameters())
            made.load_state_dict(small(name, **changes).state_dict())
            made.eval()
        assert torch.equal(made(x), expected)
    with torch.no_grad():
        assert torch.equal(made(x), expected)


NO_CLIPS: tuple[tuple[Any, str], ...] = (
    (lambda x: x.transpose(1, 2), r"is \(2, 4, 3, 64, 64\); give float \(B, 3, T, H, W\).*transpose\(1, 2\)"),
    (lambda x: x.permute(0, 2, 3, 4, 1), r"is \(2, 4, 64, 64, 3\); give .*permute\(0, 4, 1, 2, 3\)"),
    (lambda x: x[0], r"is \(3, 4, 64, 64\); give .*x\[None\]"),
    (lambda x: x[:, :, 0], r"is \(2, 3, 64, 64\); give .*\(T, 3, H, W\)"),
    (lambda x: x[:, :1], r"is \(2, 1, 4, 64, 64\); give"),
    (lambda x: x.byte(), r"is uint8 \(2, 3, 4, 64, 64\); give float .*normalised"),
    (lambda x: x[:0], r"is \(0, 3, 4, 64, 64\); give"),
    (lambda x: x[:, :, :0], r"is \(2, 3, 0, 64, 64\); give"),
    (lambda x: x[..., :0], r"is \(2, 3, 4, 64, 0\); give"),
    (lambda x: x.numpy(), "is a ndarray; give a tensor, float"),
)


def test_what_is_not_a_clip_is_refused_in_one_line(model: VideoModel) -> None:
    for change, said in NO_CLIPS:
        wrong = change(torch.randn(SMALL_INPUT))
        for call in (model, model.forward_features, lambda x: model.forward_intermediates(x, ["stem"])):
            with pytest.raises(UserError, match=said) as caught:
                call(wrong)
            assert "\n" not in str(caught.value)


@torch.no_grad()
def test_frames_of_any_size_are_taken_or_refused_in_one_line(model: VideoModel) -> None:
    model.eval()
    for side in (1, 5, 8, 16, 31, 33):
        for frames in (1, 2, 5):
            try:
                assert model(torch.randn(1, 3, frames, side, 2 * side)).isfinite().all()
            except UserError as error:
                assert "\n" not in str(error)


def test_layer_groups_hold_each_parameter_once(model: VideoModel) -> None:
    grouped = [id(parameter) for _, group in model.layer_groups() for parameter in group]
    assert sorted(grouped) == sorted(id(parameter) for parameter in model.parameters())


def test_names_without_decay_exist(model: VideoModel) -> None:
    assert model.no_weight_decay() <= {name for name, _ in model.named_parameters()}


def test_a_new_classifier_has_the_new_classes(model: VideoModel) -> None:
    model.reset_classifier(7)
    assert model.eval()(torch.randn(SMALL_INPUT)).shape == (2, 7) and model.num_classes == 7
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
