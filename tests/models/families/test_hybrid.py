"""Hybrids as data: inputs, stems, stages, the control, initialisation."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import torch
from safetensors.torch import save_file
from torchvision.models import mobilenet_v2

from hybridvideo.config.model import InputConfig, ModelConfig, StemConfig
from hybridvideo.config.training import TrainRun
from hybridvideo.errors import UserError
from hybridvideo.models import create_model
from hybridvideo.models.contract import count_gmacs
from hybridvideo.models.hybrid import Hybrid
from hybridvideo.models.parts.inputs import ClipInput
from hybridvideo.models.parts.kinds import KINDS
from hybridvideo.models.parts.stem_weights import pad_like_tensorflow
from hybridvideo.models.parts.stems import LibraryStem, open_stem
from hybridvideo.tasks.train import build_model

MODES = ["rgb", "difference", "both", "two_stream", "correlation", "correlation_stream"]


def hybrid(**changes: Any) -> Hybrid:
    """A small one, with weights large enough for differences to show."""
    torch.manual_seed(0)
    base = {"frames": 8, "height": 32, "width": 32, "stem": {"widths": [8, 16]}, "position": "absolute"}
    model = create_model("hybrid", 3, **{**base, **changes})
    assert isinstance(model, Hybrid)
    torch.nn.init.normal_(model.head.classifier.weight)
    return model.eval()


def stage(block: str, **changes: Any) -> dict[str, Any]:
    reads = KINDS[block].reads if block in KINDS else ()
    sized = {"heads": 2, "window": [4, 4, 4]}
    own = {name: value for name, value in sized.items() if name in reads}
    position = {"position": "conv"} if block in KINDS and KINDS[block].mixers else {}
    return {"block": block, "depth": 2, **own, **position, **changes}


@pytest.mark.parametrize("block", sorted(KINDS))
@pytest.mark.parametrize("mode", MODES)
def test_every_block_works_with_every_input(block: str, mode: str) -> None:
    model = hybrid(stages=[stage(block), stage(block, merge=True)], input={"mode": mode})
    assert model(torch.randn(2, 3, 8, 32, 32)).shape == (2, 3)


@pytest.mark.parametrize("shape", [(1, 32, 32), (3, 40, 24), (11, 50, 70)])
def test_other_input_sizes_work(shape: tuple[int, int, int]) -> None:
    model = hybrid(stages=[stage("window3d"), stage("divided", merge=True)])
    assert model(torch.randn(1, 3, *shape)).shape == (1, 3)


@torch.no_grad()
def test_the_control_cannot_see_the_order_of_frames() -> None:
    stages = [stage(block) for block in KINDS]
    x = torch.randn(1, 3, 8, 32, 32)
    shuffled = x[:, :, torch.randperm(8)]
    for mode in MODES:
        control = hybrid(stages=stages, time=False, input={"mode": mode})
        assert torch.allclose(control(x), control(shuffled), atol=1e-4)
    whole = hybrid(stages=stages)
    assert not torch.allclose(whole(x), whole(shuffled), atol=1e-2)


def test_in_the_control_a_frame_reaches_only_its_own_features() -> None:
    control = hybrid(stages=[stage(block) for block in KINDS], time=False)
    x = torch.randn(1, 3, 8, 32, 32, requires_grad=True)
    control.forward_features(x)[:, 3].square().sum().backward()
    touched = x.grad.abs().sum((0, 1, 3, 4)) > 0  # type: ignore[union-attr]
    assert touched.tolist() == [i == 3 for i in range(8)]


def test_differences_are_clipped_steps_between_neighbours() -> None:
    x = torch.tensor([0.0, 0.1, 0.9, 0.9]).view(1, 1, 4, 1, 1).expand(1, 3, 4, 2, 2)
    (difference,) = ClipInput(InputConfig("difference", gain=2.0, limit=1.0))(x)
    assert torch.allclose(difference[0, 0, :, 0, 0], torch.tensor([0.2, 1.0, 0.0]))
    frames, beside = ClipInput(InputConfig("two_stream"))(x)
    assert frames.shape == beside.shape == difference.shape
    (both,) = ClipInput(InputConfig("both"))(x)
    assert both.shape == (1, 6, 3, 2, 2)


def test_a_still_clip_of_one_frame_has_no_difference() -> None:
    (difference,) = ClipInput(InputConfig("difference"))(torch.randn(1, 3, 1, 4, 4))
    assert difference.shape == (1, 3, 1, 4, 4) and not difference.any()


@pytest.mark.parametrize(
    ("name", "stride", "channels"),
    [
        ("timm/resnet18", 16, 256),
        ("timm/mobilenetv3_small_100", 32, 576),
        ("timm/convnext_atto", 16, 160),
        ("torchvision/resnet18", 32, 512),
        ("torchvision/mobilenet_v2", 16, 96),
        ("torchvision/shufflenet_v2_x0_5", 16, 96),
    ],
)
@pytest.mark.parametrize("padding", ["own", "same"])
def test_library_cnns_are_stems(name: str, stride: int, channels: int, padding: str) -> None:
    model = hybrid(stem={"name": name, "stride": stride, "padding": padding})
    grid = model.forward_stem(torch.randn(1, 3, 2, 64, 96))
    assert grid.shape == (1, 2, 64 // stride, 96 // stride, channels)


@pytest.mark.parametrize(
    ("name", "stride", "channels", "sizes"),
    [
        ("timm/vit_tiny_patch16_224", 16, 192, [(112, 112), (96, 160)]),
        ("timm/swin_tiny_patch4_window7_224", 16, 384, [(112, 112), (224, 224)]),
        ("timm/levit_128s", 16, 128, [(112, 112), (224, 224)]),
        ("timm/visformer_tiny", 16, 192, [(112, 112), (96, 160)]),
        ("timm/coatnet_nano_rw_224", 16, 256, [(224, 224)]),
        ("timm/botnet26t_256", 16, 1024, [(112, 112), (256, 256)]),
        ("timm/maxvit_tiny_tf_224", 16, 256, [(224, 224)]),
        ("timm/vit_small_r26_s32_224", 32, 384, [(224, 224)]),
        ("timm/mambaout_femto", 16, 192, [(112, 112), (97, 161)]),
        ("timm/inception_v3", 32, 2048, [(224, 224)]),
        ("torchvision/swin_t", 16, 384, [(112, 112), (96, 160)]),
        ("torchvision/maxvit_t", 16, 256, [(224, 224)]),
    ],
)
@torch.no_grad()
def test_networks_made_for_one_size_are_built_for_the_size_that_is_wanted(
    name: str, stride: int, channels: int, sizes: list[tuple[int, int]]
) -> None:
    for height, width in sizes:
        stem = open_stem(StemConfig(name, stride=stride), height, width)
        assert isinstance(stem, LibraryStem) and (stem.channels, stem.stride) == (channels, stride)
        grid = stem.eval()(torch.randn(1, 3, height, width))
        assert grid.shape[1] == channels and grid.isfinite().all()
        assert all(abs(side / stride - cells) <= 2 for side, cells in zip((height, width), grid.shape[2:], strict=True))


def test_a_stride_is_measured_where_unpadded_convolutions_do_not_hide_it() -> None:
    stem = open_stem(StemConfig("torchvision/squeezenet1_1", stride=8), 32, 32)
    assert stem(torch.randn(1, 3, 32, 32)).shape == (1, 256, 3, 3)


@pytest.mark.parametrize(
    ("name", "stride", "size", "said"),
    [
        ("timm/vit_tiny_patch16_224", 32, 224, "no feature map of stride 32, but of 16; choose another stride"),
        ("timm/maxvit_tiny_tf_224", 32, 112, "for frames of 112x112: .*; for 224x224 it can"),
        ("torchvision/vit_b_32", 32, 224, "returns tokens and has no feature map; use a vision transformer of timm"),
        ("timm/efficientformerv2_s0", 32, 112, "for frames of 112x112: .*; for 224x224 it can"),
    ],
)
def test_what_cannot_be_a_stem_gives_the_reason_and_for_what_size_it_can(
    name: str, stride: int, size: int, said: str
) -> None:
    with pytest.raises(UserError, match=said) as caught:
        open_stem(StemConfig(name, stride=stride), size, size)
    assert "\n" not in str(caught.value)


def test_a_stem_for_one_size_of_frame_reports_that_of_another() -> None:
    stem = {"name": "timm/vit_tiny_patch16_224", "stride": 16}
    model = hybrid(stem=stem, height=64, width=96)
    assert model(torch.randn(1, 3, 2, 64, 96)).shape == (1, 3)
    with pytest.raises(UserError, match="frames of 64x64; stem timm/vit_tiny_patch16_224 is built for 64x96"):
        model(torch.randn(1, 3, 2, 64, 64))


@torch.no_grad()
def test_so_does_one_that_only_its_numbers_stop() -> None:
    stem = open_stem(StemConfig("timm/mvitv2_tiny", stride=32), 64, 64).eval()
    assert stem(torch.randn(1, 3, 64, 64)).shape == (1, 768, 2, 2)
    with pytest.raises(UserError, match=r"frames of 256x288; stem timm/mvitv2_tiny is built for .* and does not take"):
        stem(torch.randn(1, 3, 256, 288))


def test_a_stem_without_a_first_convolution_of_three_channels_cannot_see_both() -> None:
    with pytest.raises(UserError, match=r"input\.mode both needs a stem whose first layer is a convolution"):
        hybrid(stem={"name": "timm/csatv2", "stride": 16}, input={"mode": "both"}, height=64, width=64)


def test_every_trained_parameter_of_a_cut_network_is_used() -> None:
    model = hybrid(stem={"name": "timm/vit_tiny_patch16_224", "stride": 16}, height=64, width=64).train()
    model(torch.randn(1, 3, 2, 64, 64)).sum().backward()
    assert all(parameter.grad is not None for parameter in model.stem.parameters() if parameter.requires_grad)


def test_a_stem_of_random_weights_is_noted() -> None:
    (note,) = hybrid(stem={"name": "torchvision/resnet18"}).notes
    assert note.startswith("stem torchvision/resnet18 starts from random weights; give model.changes.stem.weights hub")
    assert hybrid().notes == ()


def test_training_says_that_a_stem_is_random(capsys: pytest.CaptureFixture[str]) -> None:
    changes = {"stem": {"name": "timm/resnet18"}, "height": 64, "width": 64}
    build_model(TrainRun(model=ModelConfig("hybrid", changes)), ("a", "b"), shown=True)
    assert "stem timm/resnet18 starts from random weights" in capsys.readouterr().err


@torch.no_grad()
def test_weights_from_a_file_reach_the_stem(tmp_path: Path) -> None:
    peer = mobilenet_v2(weights=None).eval()
    save_file(peer.state_dict(), tmp_path / "w.safetensors")
    torch.save(peer.state_dict(), tmp_path / "w.pth")
    x = torch.randn(1, 3, 64, 64)
    for file in ("w.safetensors", "w.pth"):
        model = hybrid(stem={"name": "torchvision/mobilenet_v2", "weights": str(tmp_path / file)})
        features = model.forward_stem(x[:, :, None])[0, 0].permute(2, 0, 1)
        assert torch.allclose(features, peer.features(x)[0], atol=1e-5)


def test_unfit_weights_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "w.safetensors"
    state = mobilenet_v2(weights=None).state_dict()
    save_file({key: value for key, value in state.items() if key != "features.0.0.weight"}, file)
    with pytest.raises(UserError, match=r"1 missing, 0 unexpected, 0 of another shape \(first: features.0.0.weight\)"):
        hybrid(stem={"name": "torchvision/mobilenet_v2", "weights": str(file)})
    with pytest.raises(UserError, match="no weights file"):
        hybrid(stem={"name": "torchvision/mobilenet_v2", "weights": str(tmp_path / "none.pth")})
    file.write_bytes(b"not weights")
    with pytest.raises(UserError, match="cannot be read as weights"):
        hybrid(stem={"name": "torchvision/mobilenet_v2", "weights": str(file)})


def test_only_the_classifier_of_a_stems_weights_may_have_another_size(tmp_path: Path) -> None:
    file = tmp_path / "w.safetensors"
    save_file(mobilenet_v2(weights=None, num_classes=7).state_dict(), file)
    assert hybrid(stem={"name": "torchvision/mobilenet_v2", "weights": str(file)})
    state = mobilenet_v2(weights=None).state_dict()
    for other in (torch.ones(()), torch.ones(5), torch.ones(0)):
        save_file({**state, "features.0.1.weight": other}, file)
        with pytest.raises(UserError, match=r"1 of another shape \(first: features.0.1.weight\)"):
            hybrid(stem={"name": "torchvision/mobilenet_v2", "weights": str(file)})


@pytest.mark.parametrize("activation", get_args(get_type_hints(StemConfig)["activation"]))
def test_a_small_stem_has_every_activation(activation: str) -> None:
    assert hybrid(stem={"widths": [8, 8], "activation": activation})(torch.randn(2, 3, 2, 16, 16)).isfinite().all()


def test_a_pickle_that_runs_code_is_refused(tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> tuple[Any, tuple[str]]:
            return exec, (f"open({str(tmp_path / 'ran')!r}, 'w')",)

    torch.save({"a": Payload()}, tmp_path / "w.pth")
    with pytest.raises(UserError, match="cannot be read as weights"):
        hybrid(stem={"name": "torchvision/mobilenet_v2", "weights": str(tmp_path / "w.pth")})
    assert not (tmp_path / "ran").exists()


def test_same_padding_adds_the_odd_pixel_right_and_below() -> None:
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 1, 3, stride=2, padding=1, bias=False))
    torch.nn.init.ones_(model[0].weight)
    pad_like_tensorflow(model)
    out = model(torch.arange(16.0).view(1, 1, 4, 4))
    assert out.flatten().tolist() == [45.0, 39.0, 66.0, 50.0]


def test_a_frozen_stem_gets_no_gradient_and_keeps_its_statistics() -> None:
    stem = {"name": "torchvision/mobilenet_v2", "frozen": True}
    model = hybrid(stem=stem, stages=[stage("spatial", depth=1)]).train()
    before = {name: value.clone() for name, value in model.stem.state_dict().items()}
    model(torch.randn(2, 3, 2, 64, 64)).sum().backward()
    assert all(parameter.grad is None for parameter in model.stem.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.stem.state_dict().items())


@pytest.mark.parametrize("kept", ["train", "eval"])
def test_batchnorm_of_a_trained_stem_can_keep_its_statistics(kept: str) -> None:
    model = hybrid(stem={"name": "torchvision/mobilenet_v2", "batchnorm": kept}).train()
    before = model.stem.state_dict()["stems.0.trunk.features.0.1.running_mean"].clone()
    model(torch.randn(2, 3, 2, 64, 64))
    after = model.stem.state_dict()["stems.0.trunk.features.0.1.running_mean"]
    assert torch.equal(before, after) == (kept == "eval")


def test_the_head_alone_needs_only_pooled_features() -> None:
    stem = {"name": "torchvision/mobilenet_v2", "frozen": True}
    model = hybrid(stem=stem, position="none", head={"pool": ["mean", "max", "min"]})
    assert model.forward_frozen(torch.randn(2, 3, 4, 64, 64)).shape == (2, 3 * 1280)


def test_the_first_predictions_are_even() -> None:
    logits = create_model("hybrid_micro", 8)(torch.randn(4, 3, 8, 64, 64))
    assert torch.allclose(logits.softmax(1), torch.full((4, 8), 1 / 8), atol=0.06)


@pytest.mark.parametrize("block", ["window3d", "spatial", "temporal", "joint", "divided"])
def test_queries_keys_and_values_start_as_three_matrices(block: str) -> None:
    model = hybrid(stages=[stage(block, depth=1, heads=4)], dim=96)
    bound = (6 / (96 + 96)) ** 0.5
    for branch in model.stages[0].blocks[0].branches:  # type: ignore[index, union-attr]
        for matrix in branch.inner.qkv.weight.chunk(3):
            assert 0.95 * bound < matrix.abs().max() <= bound
            assert abs(matrix.std() * 3**0.5 / bound - 1) < 0.05


def test_gmacs_of_attention_and_linear_layers_are_counted() -> None:
    model = hybrid(position="none", stages=[stage("joint", depth=1, position="none", mlp_ratio=2)])
    tokens, dim = 8 * 8 * 8, 16
    stem = 8 * (16 * 16 * 8 * 27 + 8 * 8 * 16 * 72)
    block = tokens * dim * dim * (3 + 1 + 4) + 2 * tokens * tokens * dim
    assert count_gmacs(model) * 1e9 == stem + block + 16 * 3


def test_bad_settings_are_named() -> None:
    for changes, message in [
        ({"stages": [{"block": "windw3d"}]}, r"stages\[0\].block is 'windw3d' \(did you mean 'window3d'\?\)"),
        ({"stages": [{"blok": "window3d"}]}, r"unknown setting stages\[0\].blok .did you mean 'block'"),
        ({"stem": {"name": "resnet50"}}, "give small, patch, coatnet, timm/NAME"),
        ({"stem": {"name": "timm/resnet5"}}, "timm has no model 'resnet5' .did you mean"),
        ({"stem": {"name": "torchvision/resnet5"}}, "torchvision has no classification model"),
        ({"stem": {"name": "timm/resnet18", "stride": 5}}, "no feature map of stride 5"),
        ({"head": {"pool": ["avg"]}}, "head.pool|pool"),
        ({"drop_path": "much"}, "drop_path"),
    ]:
        with pytest.raises(UserError, match=message):
            hybrid(**changes)


@pytest.mark.shared
@torch.no_grad()
def test_the_real_pretrained_stem_needs_same_padding(shared: Path) -> None:
    """On a bright square the padded networks differ; only `same` is the network the weights were made for."""
    weights = str(shared / "weights" / "mobilenet_v2_imagenet.safetensors")
    settings = {"name": "torchvision/mobilenet_v2", "weights": weights, "mean": [0.5] * 3, "std": [0.5] * 3}
    model = hybrid(stem={**settings, "padding": "same"})
    assert model.normalisation.mean == (0.5, 0.5, 0.5)
    other = hybrid(stem={**settings, "padding": "own"})
    x = torch.randn(1, 3, 1, 96, 96)
    assert not torch.allclose(model.forward_stem(x), other.forward_stem(x), atol=1e-2)


@pytest.mark.parametrize(
    ("name", "clip", "most"), [("hybrid_tiny", (3, 8, 112, 112), 3.0), ("hybrid_base", (3, 16, 224, 224), 89.0)]
)
def test_the_flagship_stays_within_its_budget(name: str, clip: tuple[int, int, int, int], most: float) -> None:
    with torch.device("meta"):
        assert 0.8 * most < count_gmacs(create_model(name, 400), clip) <= most


@pytest.mark.parametrize("name", ["hybrid_micro", "hybrid_tiny", "hybrid_small", "hybrid_base"])
def test_every_size_matches_frames_and_its_control_does_not(name: str) -> None:
    with torch.device("meta"):
        for time in (True, False):
            model = create_model(name, 6, time=time)
            assert isinstance(model, Hybrid)
            assert model.input.config.mode.startswith("correlation") == time
