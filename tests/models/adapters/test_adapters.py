"""Adapters: they start as the image network, train alone, see motion, and ZeroI2V's merge exactly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from hybridvideo.errors import UserError
from hybridvideo.models import create_model
from hybridvideo.models.contract import VideoModel, count_gmacs, count_parameters, count_trained
from hybridvideo.models.hybrid import Hybrid
from hybridvideo.weights.load_model import load_model
from hybridvideo.weights.load_weights import load_weights
from tests.models.baselines.test_baselines import randomised

KINDS = ("st", "aim", "zeroi2v")


def adapted(kind: str, block: str = "spatial", **changes: Any) -> Hybrid:
    torch.manual_seed(0)
    adapter = {"kind": kind, "dim": 8, **changes.pop("adapter", {})}
    stem = {"name": "patch", "widths": [48], "patch": [1, 16, 16]}
    stages = [{"block": block, "depth": 3, "heads": 3, "norm_eps": 1e-6}]
    size = {"frames": 4, "height": 64, "width": 64, "stages": stages, "stem": stem, "adapter": adapter}
    model = create_model("vit_base", 7, **{**size, **changes})
    assert isinstance(model, Hybrid)
    return model


def clip(frames: int = 4) -> Tensor:
    return torch.randn(2, 3, frames, 64, 64)


def train(model: VideoModel, steps: int = 3) -> None:
    """A few large steps of all that trains."""
    model.train()
    nn.init.normal_(model.get_parameter("head.classifier.weight"))
    optimiser = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.3)
    for _ in range(steps):
        optimiser.zero_grad()
        model(clip()).square().mean().backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
    model.eval()


@torch.no_grad()
@pytest.mark.parametrize("block", ["spatial", "divided"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_still_clip_and_a_frame_are_named_as_timm_names_the_image(kind: str, block: str) -> None:
    net = timm.create_model("vit_small_patch16_224", depth=3, embed_dim=48, num_heads=3, img_size=64, num_classes=7)
    net, model = randomised(net).double().eval(), adapted(kind, block).double().eval()
    report = load_weights(model, net.state_dict())
    assert any(".adapter" in name for name in report.fresh)
    image = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    for frames in (1, 4):
        still = image[:, :, None].expand(-1, -1, frames, -1, -1)
        assert torch.allclose(model(still), net(image), atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_frozen_stays_and_adapters_and_head_learn(kind: str) -> None:
    stem, stages = {"name": "timm/resnet10t", "stride": 32}, [{"block": "spatial", "depth": 2, "heads": 2}]
    model = adapted(kind, stem=stem, dim=16, stages=stages, class_token=False, head={"norm": "batch"})
    before = {name: value.clone() for name, value in model.state_dict().items()}
    train(model)
    for name, value in model.state_dict().items():
        learns = ".adapter" in name or name == "position.time_CT" or name.startswith("head.")
        assert torch.equal(value, before[name]) is not learns, name


@pytest.mark.parametrize("kind", KINDS)
def test_few_parameters_train_and_they_are_counted(kind: str) -> None:
    model = adapted(kind)
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    trained = (".adapter", "head.", "position.time_CT")
    assert all(any(part in name for part in trained) for name in names) and count_trained(model) > 1000
    assert count_trained(model) < 0.2 * count_parameters(model)
    assert count_trained(adapted(kind, adapter={"dim": 16})) > 1.5 * count_trained(model)


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_trained_adapters_see_other_frames_and_without_time_they_do_not(kind: str) -> None:
    x, other = clip(), clip()
    other[:, :, 0] = x[:, :, 0]
    for time in (True, False):
        model = adapted(kind, time=time).eval()
        for name, parameter in model.named_parameters():
            if ".adapter" in name:
                nn.init.normal_(parameter, std=0.3)
        first, of_other = model.forward_features(x)[:, 0], model.forward_features(other)[:, 0]
        assert torch.allclose(first, of_other, atol=1e-4) is not time


@pytest.mark.parametrize("kind", KINDS)
def test_trained_adapters_see_the_order_of_frames(kind: str) -> None:
    model, x = adapted(kind), clip()
    train(model)
    with torch.no_grad():
        assert not torch.allclose(model(x), model(x[:, :, [1, 3, 0, 2]]), atol=1e-4)


@torch.no_grad()
def test_untrained_zeroi2v_already_sees_the_neighbouring_frames_and_no_others() -> None:
    model = adapted("zeroi2v", stages=[{"block": "spatial", "depth": 1, "heads": 3}]).eval()
    x, other = clip(5), clip(5)
    for changed, seen in ((1, True), (2, False)):
        one = x.clone()
        one[:, :, changed] = other[:, :, changed]
        assert torch.allclose(model.forward_features(x)[:, 0], model.forward_features(one)[:, 0], atol=1e-5) is not seen


def test_merging_linear_adapters_is_exact_and_leaves_the_cost_of_the_image_network() -> None:
    model = adapted("zeroi2v").double()
    start = model.state_dict()["stages.0.blocks.0.mlp.inner.fc2.bias"].clone()
    nn.init.normal_(model.get_parameter("stages.0.blocks.0.mlp.inner.fc2.bias"))
    for name, parameter in model.named_parameters():
        if ".adapter" in name:
            nn.init.normal_(parameter, std=0.2)
    x = clip().double()
    model.eval()
    with torch.no_grad():
        trained = model(x)
        model.merge()
        assert torch.allclose(model(x), trained, atol=1e-12, rtol=1e-9)
    assert not any(".adapter" in name for name in model.state_dict())
    assert not torch.equal(model.state_dict()["stages.0.blocks.0.mlp.inner.fc2.bias"], start)
    plain = create_model("vit_base", 7, **{**model.settings(), "adapter": {"kind": "none"}})
    assert count_gmacs(model.float()) == count_gmacs(plain) and count_parameters(model) == count_parameters(plain)
    with pytest.raises(UserError, match="no linear adapters to merge"):
        model.merge()


@pytest.mark.parametrize("kind", [*KINDS, "merged"])
def test_adapters_are_saved_and_loaded_with_the_model(kind: str, tmp_path: Path) -> None:
    model = adapted("zeroi2v" if kind == "merged" else kind)
    train(model)
    if kind == "merged":
        model.merge()
    model.save(tmp_path / "model")
    loaded = load_model(tmp_path / "model")
    x = clip()
    with torch.no_grad():
        assert torch.equal(loaded(x), model(x))
    assert count_trained(loaded) == count_trained(model)


def test_a_hybrid_with_windows_takes_adapters_in_its_attention_blocks_alone() -> None:
    stages = [{"block": "window3d", "depth": 1, "heads": 2}, {"block": "joint", "depth": 1, "heads": 2}]
    model = create_model("hybrid", 3, frames=4, height=32, width=32, stages=stages, adapter={"kind": "aim"})
    adapters = {name.split(".adapter")[0] for name in model.state_dict() if ".adapter" in name}
    assert adapters and all(name.startswith("stages.1.") for name in adapters)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"stages": [{"block": "temporal", "heads": 3}]}, "has no block to go into"),
        ({"stages": [{"block": "spatial", "heads": 3, "mlp_ratio": 0.0}]}, "has no block to go into"),
        ({"adapter": {"kind": "zeroi2v", "heads": 2}}, "twice that is more than the 3 heads"),
        ({"adapter": {"kind": "zeroi2v"}, "stages": [{"block": "joint", "heads": 3}]}, "spatial or divided blocks"),
        ({"adapter": {"kind": "st", "kernel": [3, 3, 3]}}, "with class tokens it has one row and column"),
        ({"adapter": {"kind": "st", "kernel": [2, 1, 1]}}, "three odd numbers"),
        ({"adapter": {"kind": "aim", "merged": True}}, "only zeroi2v merges"),
    ],
)
def test_what_cannot_be_adapted_is_refused_in_one_line(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        adapted("aim", **changes)
    with pytest.raises(UserError, match="no linear adapters to merge"):
        adapted("st").merge()


@torch.no_grad()
@pytest.mark.parametrize("relative", ["table", "mlp"])
@pytest.mark.parametrize("kind", KINDS)
def test_attention_with_relative_positions_keeps_them(kind: str, relative: str) -> None:
    stages = [{"block": "spatial", "depth": 1, "heads": 2, "relative": relative}]
    shared = {"frames": 3, "height": 32, "width": 32, "stages": stages}
    torch.manual_seed(0)
    plain = create_model("hybrid", 3, **shared).eval()
    for name, parameter in plain.named_parameters():
        if "relative" in name:
            nn.init.normal_(parameter)
    model = create_model("hybrid", 3, **shared, adapter={"kind": kind}).eval()
    model.load_state_dict(plain.state_dict(), strict=False)
    still = torch.randn(1, 3, 1, 32, 32).expand(-1, -1, 3, -1, -1)
    assert torch.allclose(model(still), plain(still), atol=1e-5)
