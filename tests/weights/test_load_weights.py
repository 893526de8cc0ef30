"""Any known layout goes into its model, exactly or not at all, and the report says what became of each tensor."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torchvision.models.swin_transformer import SwinTransformer
from torchvision.models.video.swin_transformer import SwinTransformer3d

from hybridvideo.config.data import Normalisation
from hybridvideo.errors import UserError
from hybridvideo.models import create_model
from hybridvideo.models.contract import VideoModel
from hybridvideo.weights.load_weights import load_weights
from hybridvideo.weights.resize import fit_tensor, resized_bias

SIZES = {"dim": 8, "depths": (2, 1, 1, 1), "heads": (1, 2, 2, 4), "window": (2, 3, 3)}
CLASSES = 5


def video_swin(num_classes: int = CLASSES, **changes: object) -> VideoModel:
    """A small network of ours, at 4 x 32 x 32."""
    return randomised(create_model("video_swin_tiny", num_classes, num_frames=4, image_size=32, **{**SIZES, **changes}))


def swin3d() -> dict[str, Tensor]:
    """The same network's state in torchvision's layout."""
    network = SwinTransformer3d([2, 4, 4], 8, [2, 1, 1, 1], [1, 2, 2, 4], [2, 3, 3], num_classes=CLASSES)
    return randomised(network).state_dict()


def swin2d() -> dict[str, Tensor]:
    """A network of images, of the same widths."""
    network = SwinTransformer([4, 4], 8, [2, 1, 1, 1], [1, 2, 2, 4], [3, 3], num_classes=CLASSES)
    return randomised(network).state_dict()


def randomised(model: Any) -> Any:
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    return model


def unchanged(model: VideoModel, before: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def copy_of(model: VideoModel) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def test_a_foreign_layout_is_recognised_by_its_keys() -> None:
    report = load_weights(video_swin(), swin3d())
    assert report.layout == "Video Swin (torchvision swin3d)"
    assert len(report.matched) == len(video_swin().state_dict())
    assert not (report.resized or report.inflated or report.filled or report.fresh)
    assert str(report).endswith("0 missing, 0 unexpected; layout: Video Swin (torchvision swin3d)")


@pytest.mark.parametrize("prefixes", [("module.",), ("_orig_mod.",), ("model.",), ("model.", "module.")])
def test_prefixes_of_wrappers_are_taken_off(prefixes: tuple[str, ...]) -> None:
    for state in (swin3d(), video_swin().state_dict()):
        plain, wrapped = video_swin(), video_swin()
        load_weights(plain, state)
        for prefix in prefixes:
            state = {prefix + name: value for name, value in state.items()}
        load_weights(wrapped, state)
        assert unchanged(plain, wrapped.state_dict())


def test_a_prefix_that_only_some_keys_have_stays() -> None:
    state = {f"module.{name}": value for name, value in swin3d().items()}
    state["extra"] = torch.ones(1)
    with pytest.raises(UserError, match="no layout known here"):
        load_weights(video_swin(), state)


def test_image_weights_are_inflated_over_time_and_that_is_reported() -> None:
    model, images = video_swin(), swin2d()
    report = load_weights(model, images)
    assert report.inflated == ["patches.weight"]
    assert "stages.0.blocks.0.attention.bias_table" in report.resized and len(report.resized) == 5
    own = model.state_dict()
    assert torch.allclose(own["patches.weight"].sum(2), images["features.0.0.weight"])
    assert torch.equal(own["patches.weight"][:, :, 0], own["patches.weight"][:, :, 1])
    table = own["stages.0.blocks.0.attention.bias_table"]
    flat = images["features.1.0.attn.relative_position_bias_table"]
    assert all(torch.equal(table[time].flatten(0, 1), flat) for time in range(3))
    assert "inflated patches.weight: (8, 3, 4, 4) -> (8, 3, 2, 4, 4)" in report.details().splitlines()
    assert "(5 resized, 1 inflated)" in str(report) and "\n" not in str(report)


def test_another_window_resizes_the_bias_tables() -> None:
    report = load_weights(video_swin(window=(4, 5, 5)), swin3d())
    assert len(report.resized) == 5
    assert "resized stages.0.blocks.0.attention.bias_table: (3, 5, 5, 1) -> (7, 9, 9, 1)" in report.details()


def test_resizing_a_bias_table_keeps_what_does_not_change() -> None:
    ramp = torch.arange(5.0)[:, None, None, None].expand(5, 3, 3, 2)  # grows with time only
    wider = resized_bias(ramp, 5, 7, 9)
    assert wider.shape == (5, 7, 9, 2) and torch.allclose(wider, ramp[:, :1, :1].expand(5, 7, 9, 2))
    longer = resized_bias(ramp, 9, 3, 3)
    assert longer.shape == (9, 3, 3, 2) and torch.allclose(longer[4], ramp[2]) and (longer.diff(dim=0) >= 0).all()
    assert torch.allclose(resized_bias(ramp[:1] + 3, 5, 3, 3), torch.full((5, 3, 3, 2), 3.0))


def test_only_what_is_meant_to_is_resized() -> None:
    table = torch.randn(4, 2, 2)
    resized = fit_tensor("position.space_CHW", table, torch.empty(4, 5, 5))
    assert resized is not None and resized.how == "resized" and resized.tensor.shape == (4, 5, 5)
    assert fit_tensor("position.space_CHW", table, torch.empty(3, 5, 5)) is None
    assert fit_tensor("blocks.0.weight", table, torch.empty(4, 5, 5)) is None
    assert fit_tensor("bias_table", torch.randn(3, 3, 3, 2), torch.empty(3, 5, 5, 4)) is None
    assert fit_tensor("conv.weight", torch.randn(4, 3, 3, 3), torch.empty(4, 3, 2, 5, 5)) is None
    assert fit_tensor("conv.weight", torch.randn(4, 3, 2, 3, 3), torch.empty(4, 3, 3, 3, 3)) is None
    one = fit_tensor("conv.weight", torch.ones(4, 3, 1, 3, 3), torch.empty(4, 3, 4, 3, 3))
    assert one is not None and one.how == "inflated" and (one.tensor == 0.25).all()


def test_another_number_of_classes_is_an_error_unless_the_head_is_replaced() -> None:
    model = video_swin(num_classes=3)
    before = copy_of(model)
    with pytest.raises(UserError, match=r"has 5 classes, the model 3; .*head=replace"):
        load_weights(model, swin3d())
    assert unchanged(model, before)
    report = load_weights(model, swin3d(), head="replace")
    assert report.fresh == ["classifier.weight", "classifier.bias"] == report.left_out and not report.missing
    assert torch.equal(model.state_dict()["classifier.weight"], before["classifier.weight"])
    assert not torch.equal(model.state_dict()["norm.weight"], before["norm.weight"])


def test_a_head_that_fits_is_kept_by_replace_and_not_by_drop() -> None:
    state = swin3d()
    replaced, dropped = video_swin(), video_swin()
    before = copy_of(dropped)
    assert not load_weights(replaced, state, head="replace").fresh
    assert torch.equal(replaced.state_dict()["classifier.weight"], state["head.weight"])
    assert load_weights(dropped, state, head="drop").fresh == ["classifier.weight", "classifier.bias"]
    assert torch.equal(dropped.state_dict()["classifier.weight"], before["classifier.weight"])


def test_weights_without_a_head_say_what_to_do() -> None:
    state = {name: value for name, value in swin3d().items() if not name.startswith("head.")}
    with pytest.raises(UserError, match=r"has no classifier \(classifier.weight\); head=replace .* trains a new one"):
        load_weights(video_swin(), state)
    assert load_weights(video_swin(), state, head="replace").fresh == ["classifier.weight", "classifier.bias"]


def test_what_does_not_fit_is_counted_and_named_and_changes_nothing() -> None:
    model, state = video_swin(), swin3d()
    before = copy_of(model)
    lacking = {name: value for name, value in state.items() if ".norm1." not in name}
    with pytest.raises(UserError, match=r"10 missing \(stages.0.blocks.0.norm1.weight, .*, \.\.\.\)") as error:
        load_weights(model, lacking)
    assert "these Video Swin (torchvision swin3d) weights belong to create_model('video_swin_tiny', " in str(
        error.value
    )
    with pytest.raises(UserError, match=r"2 unexpected \(features.9.weight, neck.bias\)"):
        load_weights(model, {**state, "features.9.weight": torch.ones(1), "neck.bias": torch.ones(1)})
    with pytest.raises(UserError, match=r"1 of another shape \(norm.weight: \(9,\) -> \(64,\)\)"):
        load_weights(model, {**state, "norm.weight": torch.ones(9)})
    with pytest.raises(UserError, match=r"missing .*unexpected .*of another shape"):
        load_weights(model, {**lacking, "neck.bias": torch.ones(1), "norm.weight": torch.ones(9)})
    assert unchanged(model, before)


def test_the_error_for_other_sizes_names_the_model_that_fits() -> None:
    with pytest.raises(UserError, match=r"of another shape .*create_model\('video_swin_tiny', dim=8, depths="):
        load_weights(video_swin(dim=16), swin3d())


def test_weights_of_another_family_say_whose_they_are() -> None:
    model = create_model("hybrid_micro", 3)
    with pytest.raises(UserError, match=r"holds Video Swin \(torchvision swin3d\) weights, of video_swin_tiny, this "):
        load_weights(model, swin3d())


def test_the_error_for_an_unknown_layout_names_its_tensors() -> None:
    with pytest.raises(UserError, match=r"has 2 tensors such as a.b and c.d, in no layout known here \(.*Uni"):
        load_weights(video_swin(), {"a.b": torch.ones(1), "c.d": torch.ones(1)})
    with pytest.raises(UserError, match="the state dict is not a state dict"):
        load_weights(video_swin(), {})


def test_a_checkpoint_without_what_tells_its_layout_apart_is_incomplete_not_a_crash() -> None:
    model, state = video_swin(), swin3d()
    for name in state:
        rest = {key: value for key, value in state.items() if key != name}
        if name.endswith("relative_position_index"):
            load_weights(model, rest)
            continue
        with pytest.raises(UserError):
            load_weights(model, rest)


def test_tensors_of_any_shape_are_an_error_not_a_crash() -> None:
    model, state = video_swin(), swin3d()
    for name in state:
        for odd in (torch.ones(()), torch.ones(2, 3, 4, 5, 6), torch.ones(0)):
            if not name.endswith("relative_position_index"):
                with pytest.raises(UserError):
                    load_weights(model, {**state, name: odd})


def test_half_precision_is_loaded_in_the_precision_of_the_model() -> None:
    model, state = video_swin(), {name: value.half() for name, value in swin3d().items()}
    load_weights(model, state)
    assert model.state_dict()["norm.weight"].dtype == torch.float32
    assert torch.equal(model.state_dict()["norm.weight"], state["norm.weight"].float())


def test_counters_that_old_batch_norms_lack_are_not_missed() -> None:
    model = create_model("uniformer_small", CLASSES, num_frames=4, image_size=32)
    state = {name: value for name, value in model.state_dict().items() if not name.endswith("num_batches_tracked")}
    report = load_weights(model, state)
    assert report.fresh and all(name.endswith("num_batches_tracked") for name in report.fresh)


def test_the_normalisation_is_that_of_the_weights_only_if_they_state_it() -> None:
    model = video_swin()
    model.normalisation = Normalisation((0.1,) * 3, (0.2,) * 3)
    assert load_weights(model, swin2d()).normalisation is None
    assert model.normalisation.mean == (0.1, 0.1, 0.1)
    assert load_weights(model, swin3d()).normalisation == Normalisation()
    assert model.normalisation == Normalisation()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused_and_change_nothing(value: float) -> None:
    model = video_swin()
    before, state = copy_of(model), swin3d()
    state["features.0.0.attn.proj.bias"] = torch.full((8,), value)
    with pytest.raises(UserError, match=r"proj.bias of the state dict holds NaN or infinity; take an earlier"):
        load_weights(model, state)
    assert unchanged(model, before)


def test_the_error_for_a_hybrid_that_does_not_fit_is_short() -> None:
    net = timm.create_model("levit_128s", num_classes=3)
    with pytest.raises(UserError, match="belong to a levit_base of other settings, which load_model") as caught:
        load_weights(create_model("levit_tiny", 3), net.state_dict())
    assert len(str(caught.value)) < 600
