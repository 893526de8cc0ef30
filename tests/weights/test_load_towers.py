"""Towers start from two networks, each from a source of its own, whatever either was trained for."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor

from hybridvideo.config.data import Normalisation
from hybridvideo.config.training import TrainRun
from hybridvideo.errors import UserError
from hybridvideo.models import create_model
from hybridvideo.models.hybrid import Hybrid
from hybridvideo.models.towers import Towers
from hybridvideo.parsing import parsed
from hybridvideo.tasks.support.start_record import moved_path, same_setting
from hybridvideo.tasks.train import build_model
from hybridvideo.weights.load_weights import load_weights
from tests.models.baselines.test_baselines import randomised

CONV: dict[str, Any] = {"input": {"mode": "rgb"}, "stem": {"name": "timm/resnet10t", "stride": 32}, "stages": []}
ATTENTION: dict[str, Any] = {
    "stem": {"widths": (8, 16, 24), "norm": "batch", "activation": "relu"},
    "dim": 24,
    "position": "absolute",
    "stages": [{"block": "divided", "depth": 1, "heads": 2}],
    "drop_path": 0.0,
}
SIZE: dict[str, Any] = {"frames": 4, "height": 64, "width": 64}


def towers(num_classes: int = 3) -> Towers:
    torch.manual_seed(0)
    model = create_model("towers_tiny", num_classes, **SIZE, conv=CONV, attention=ATTENTION)
    assert isinstance(model, Towers)
    return model.eval()


def hybrid(num_classes: int = 7) -> Hybrid:
    """Trained elsewhere, for other classes and with another normalisation."""
    torch.manual_seed(1)
    model = create_model("hybrid", num_classes, **SIZE, **ATTENTION)
    assert isinstance(model, Hybrid)
    model.normalisation = Normalisation((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    return cast(Hybrid, randomised(model)).eval()


def clip() -> Tensor:
    return torch.randn(1, 3, 4, 64, 64)


@torch.no_grad()
def test_each_tower_sees_a_clip_as_the_network_it_came_from_does(tmp_path: Path) -> None:
    resnet, transformer, model, x = randomised(timm.create_model("resnet10t")), hybrid(), towers(), clip()
    save_file(resnet.state_dict(), tmp_path / "resnet.safetensors")
    transformer.save(tmp_path / "transformer")
    classifier = model.classifier.weight.clone()
    sources = {"conv": str(tmp_path / "resnet.safetensors"), "attention": str(tmp_path / "transformer")}
    report = load_weights(model, sources, head="replace")
    grids = model.forward_intermediates(x, ["conv.stem", "attention.stage1"])
    maps = cast(Any, resnet).forward_intermediates(x[0].transpose(0, 1), intermediates_only=True)
    wanted = maps[-1].permute(0, 2, 3, 1)
    assert torch.allclose(grids[0][0], wanted, atol=1e-5 * float(wanted.abs().max()))
    pixels = x * torch.tensor(Normalisation().std).view(3, 1, 1, 1) + torch.tensor(Normalisation().mean).view(
        3, 1, 1, 1
    )
    (own,) = transformer.forward_intermediates((pixels - 0.5) / 0.5, ["stage1"])
    assert torch.allclose(grids[1], own, atol=1e-4 * float(own.abs().max()))
    assert torch.equal(model.classifier.weight, classifier)
    assert not report.missing and {"classifier.weight", "classifier.bias"} <= set(report.fresh)
    names = {name for name, _ in model.state_dict().items()}
    assert {*report.matched, *report.fresh} == names
    assert "conv" in report.layout and model.normalisation == Normalisation()


@torch.no_grad()
def test_one_tower_may_start_alone() -> None:
    model, transformer = towers(), hybrid()
    before = {name: value.clone() for name, value in model.conv.state_dict().items()}
    load_weights(model, {"attention": transformer.state_dict()}, head="drop")  # type: ignore[dict-item]
    assert all(torch.equal(value, before[name]) for name, value in model.conv.state_dict().items())
    assert torch.equal(model.attention.project.weight, transformer.project.weight)


def test_what_does_not_fit_is_one_line_and_changes_nothing(tmp_path: Path) -> None:
    model, resnet = towers(), timm.create_model("resnet10t").state_dict()
    save_file(resnet, tmp_path / "resnet.safetensors")
    conv = str(tmp_path / "resnet.safetensors")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for network, sources, head, said in (
        (model, {"conv": conv}, "strict", "head=replace"),
        (model, {"conv": conv, "atention": conv}, "replace", "did you mean 'attention'"),
        (model, {"conv": conv, "attention": conv}, "replace", "no layout known|does not fit"),
        (model, {"conv": conv, "attention": str(tmp_path / "none.pth")}, "replace", "none.pth"),
        (hybrid(), {"conv": conv}, "replace", "is one network; give one source"),
    ):
        with pytest.raises(UserError, match=said) as caught:
            load_weights(network, sources, head=head)  # type: ignore[arg-type]
        assert "\n" not in str(caught.value)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_training_starts_from_a_source_for_each(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    resnet = randomised(timm.create_model("resnet10t"))
    save_file(resnet.state_dict(), tmp_path / "resnet.safetensors")
    settings = {
        "clip": {"frames": 4},
        "frame": {"height": 64, "width": 64},
        "model": {
            "name": "towers_tiny",
            "changes": {"conv": CONV, "attention": ATTENTION},
            "weights": {"conv": str(tmp_path / "resnet.safetensors")},
            "head": "replace",
        },
    }
    model = build_model(parsed(TrainRun, settings), ("a", "b"), shown=True)
    assert isinstance(model, Towers)
    assert f"conv {tmp_path / 'resnet.safetensors'}: 84 tensors loaded" in capsys.readouterr().err
    wanted: Any = resnet.conv1[0].weight
    assert torch.equal(dict(model.conv.named_parameters())["stem.stems.0.trunk.model.conv1.0.weight"], wanted)


def test_a_run_that_is_resumed_elsewhere_finds_both(tmp_path: Path) -> None:
    (tmp_path / "a.pth").touch()
    there = {"conv": str(tmp_path / "a.pth"), "attention": "timm:vit_tiny_patch16_224"}
    relative = {"conv": "a.pth", "attention": "timm:vit_tiny_patch16_224"}
    assert moved_path(relative, str(tmp_path)) == there and moved_path(there, str(tmp_path)) is None
    place = ("model", "weights")
    assert same_setting(place, relative, {**relative, "conv": there["conv"]}, str(tmp_path))
    assert not same_setting(place, relative, {**relative, "conv": "b.pth"}, str(tmp_path))
    assert not same_setting(place, relative, "a.pth", str(tmp_path))


@torch.no_grad()
@pytest.mark.parametrize(("class_token", "registers"), [(True, 0), (True, 2), (False, 0), (False, 2)])
@pytest.mark.parametrize("frames", [1, 4])
def test_a_tower_sees_a_still_clip_as_its_image_vit_does(class_token: bool, registers: int, frames: int) -> None:
    """The block's path in time starts as identity, and two frames of a tubelet are one image."""
    tokens = {"img_size": 64, "depth": 2, "reg_tokens": registers, "no_embed_class": registers > 0}
    vit: Any = randomised(timm.create_model("vit_tiny_patch16_224", **tokens))
    attention = {
        "stem": {"name": "patch", "widths": [192], "patch": [1 if frames == 1 else 2, 16, 16]},
        "dim": None,
        "position": "absolute",
        "class_token": class_token,
        "registers": registers,
        "stages": [{"block": "divided", "depth": 2, "heads": 3, "norm_eps": 1e-6}],
        "norm_eps": 1e-6,
    }
    size = {"frames": frames, "height": 64, "width": 64}
    model = create_model("towers_tiny", 3, **size, conv=CONV, attention=attention).eval()
    load_weights(model, {"attention": vit.state_dict()}, head="replace")  # type: ignore[dict-item]
    if not class_token:  # which the image network's other tokens attend to
        vit.cls_token, vit.pos_embed = None, torch.nn.Parameter(vit.pos_embed[:, -16:])
        vit.num_prefix_tokens, vit.no_embed_class = registers, True
    image = torch.randn(1, 3, 64, 64)
    still = image[:, :, None].expand(-1, -1, frames, -1, -1)
    assert isinstance(model, Towers)
    _, last = model.grids(still.permute(0, 2, 3, 4, 1))
    features = vit.forward_features(image)
    wanted = features[:, 0] if class_token else features[:, registers:].mean(1)
    assert torch.allclose(last.mean((1, 2, 3)), wanted, atol=1e-5 * float(wanted.abs().max()))
    grids = model.forward_intermediates(still, ["attention.stem", "attention.stage1"])
    assert all(grid.shape[2:4] == (4, 4) for grid in grids)


def test_one_file_for_both_towers_is_refused_with_the_way_to_give_it_to_one() -> None:
    net = timm.create_model("resnet26", num_classes=3)
    with pytest.raises(UserError, match="give it to one tower"):
        load_weights(create_model("towers_tiny", 3), net.state_dict())
