"""Towers: two networks that meet once, at the end, and of which either will do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import hybridvideo as hv
from hybridvideo.config.data import Normalisation
from hybridvideo.engine.training.classification import loss_terms
from hybridvideo.errors import UserError
from hybridvideo.models import create_model
from hybridvideo.models.contract import Outputs
from hybridvideo.models.parts.towers import Align
from hybridvideo.models.towers import Towers, renormalised
from tests.models.test_conformer import bars

SMALL: dict[str, Any] = {
    "frames": 4,
    "height": 32,
    "width": 32,
    "conv": {
        "input": {"mode": "rgb"},
        "stem": {"widths": (8, 16)},
        "stages": [{"block": "conv3d", "depth": 1}],
        "drop_path": 0.0,
    },
    "attention": {
        "stem": {"widths": (8, 16, 24)},
        "dim": 24,
        "stages": [{"block": "divided", "depth": 2, "heads": 2}],
        "drop_path": 0.0,
    },
}
RULES = ("concatenate", "sum", "gate")


def small(rule: str = "concatenate", align: str = "bilinear", **changes: Any) -> Towers:
    torch.manual_seed(0)
    model = create_model("towers_tiny", 3, **{**SMALL, "fusion": {"rule": rule, "align": align}, **changes})
    assert isinstance(model, Towers)
    return model


def clip(*shape: int) -> Tensor:
    return torch.randn(*(shape or (2, 3, 4, 32, 32)), generator=torch.Generator().manual_seed(1))


@torch.no_grad()
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(("tower", "other"), [("conv", "attention"), ("attention", "conv")])
def test_a_tower_alone_does_not_know_the_other_and_together_they_do(rule: str, tower: str, other: str) -> None:
    model = small(rule).eval()
    alone, together = model.branch_logits(clip())[tower], model(clip())
    for parameter in getattr(model, other).parameters():
        parameter.add_(0.3)
    assert torch.equal(model.branch_logits(clip())[tower], alone)
    assert not torch.allclose(model(clip()), together)


@torch.no_grad()
@pytest.mark.parametrize(("value", "tower"), [(1.0, "conv"), (0.0, "attention")])
def test_a_gate_of_0_or_1_is_one_tower_alone(value: float, tower: str) -> None:
    gate = {"kind": "fixed", "value": value}
    same_grids = {**SMALL["attention"], "stem": {"widths": (8, 16)}}  # an interpolation would change the mean
    model = small(fusion={"rule": "gate", "gate": gate}, attention=same_grids).eval()
    assert torch.allclose(model(clip()), model.branch_logits(clip())[tower], atol=1e-6)


@torch.no_grad()
def test_concatenated_logits_are_the_sum_of_the_two_with_one_bias() -> None:
    model = small(attention={**SMALL["attention"], "stem": {"widths": (8, 16)}}).eval()
    alone = model.branch_logits(clip())
    assert torch.allclose(model(clip()), alone["conv"] + alone["attention"] - model.classifier.bias, atol=1e-6)


@pytest.mark.parametrize("rule", RULES)
def test_training_supervises_the_fused_logits_and_either_tower(rule: str) -> None:
    model = small(rule)
    out = model.train()(clip())
    assert isinstance(out, Outputs)
    terms = loss_terms(out, torch.eye(3)[:2])
    assert list(terms) == ["cross_entropy", "cross_entropy_conv", "cross_entropy_attention"]
    terms["cross_entropy"].sum().backward()  # the fused logits alone reach both towers
    for tower in (model.conv, model.attention):
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in tower.stem.parameters())
    assert isinstance(small(rule, supervise=False).train()(clip()), Tensor)


def test_either_tower_alone_learns_and_so_do_both_together() -> None:
    model = small()
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(60):
        x, labels = bars(24, step)
        terms = loss_terms(model.train()(x), torch.eye(3)[labels])
        optimiser.zero_grad()
        torch.stack([term.mean() for term in terms.values()]).sum().backward()
        optimiser.step()
    x, labels = bars(60, 1000)
    with torch.no_grad():
        found = {**model.eval().branch_logits(x), "fused": model(x)}
    for name, logits in found.items():
        assert (logits.argmax(1) == labels).float().mean() > 0.6, name  # chance is 1/3


def test_grids_of_one_size_need_no_alignment_and_others_come_to_the_finer() -> None:
    x = clip(2, 3, 4, 4, 8)
    for way in ("bilinear", "transposed"):
        assert Align(8, (1, 1), way)(x, (3, 4, 4)) is x and not list(Align(8, (1, 1), way).parameters())
        assert Align(8, (2, 2), way)(x, (3, 8, 8)).shape == (2, 3, 8, 8, 8)
        assert Align(8, (2, 2), way)(x, (6, 9, 7)).shape == (2, 6, 9, 7, 8)  # not the size it was built for
    uniform = torch.full((1, 2, 2, 2, 3), 5.0)
    assert torch.allclose(Align(3, (2, 2), "bilinear")(uniform, (4, 4, 4)), torch.tensor(5.0))
    model = small(align="transposed")
    assert model.align.up is not None and model.align.up.weight.shape == (24, 24, 2, 2)
    assert model.eval().forward_features(clip()).shape == (2, 4, 8, 8, 16 + 24)


@torch.no_grad()
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("align", ["bilinear", "transposed"])
def test_other_clips_than_built_for_and_one_frame(rule: str, align: str) -> None:
    model = small(rule, align, attention={**SMALL["attention"], "position": "absolute"}).eval()
    for shape in ((1, 3, 1, 32, 32), (1, 3, 7, 40, 24), (1, 3, 2, 9, 33)):
        assert model(clip(*shape)).isfinite().all()
        assert all(grid.isfinite().all() for grid in model.forward_intermediates(clip(*shape), model.stage_names))


@torch.no_grad()
def test_the_control_cannot_tell_the_order_of_frames_and_the_model_can() -> None:
    for time in (True, False):
        model, x = small(time=time).eval(), clip()
        assert torch.allclose(model(x), model(x[:, :, [2, 0, 3, 1]]), atol=1e-5) is (not time)


def test_stages_and_groups_are_named_by_tower_and_ordered_by_depth() -> None:
    model = small(attention={**SMALL["attention"], "position": "absolute"})
    assert model.stage_names == ["stem", "conv.stem", "conv.stage1", "attention.stem", "attention.stage1"]
    names = [name for name, _ in model.layer_groups()]
    assert names[:2] == ["conv.stem", "attention.stem"] and names[-1] == "head"
    for tower in ("conv", "attention"):
        assert names.index(f"{tower}.stem") < names.index(f"{tower}.stage1")
    assert model.no_weight_decay() == {"attention.position.space_CHW", "attention.position.time_CT"}


def test_the_gate_and_a_map_of_each_tower_can_be_read() -> None:
    seen = small("gate").eval().readings(clip())
    assert seen["map.conv"].shape == (2, 4, 8, 8) and seen["map.attention"].shape == (2, 4, 4, 4)
    assert ((seen["fusion.gate.values"] > 0) & (seen["fusion.gate.values"] < 1)).all()


def test_a_frozen_stem_of_one_tower_stays_as_it_is() -> None:
    model = small(conv={**SMALL["conv"], "stem": {"widths": (8, 16), "frozen": True}})
    model.train()(clip()).logits.sum().backward()
    assert all(parameter.grad is None for parameter in model.conv.stem.parameters())
    assert all(parameter.grad is not None for parameter in model.attention.stem.parameters())


@torch.no_grad()
def test_each_tower_sees_the_clip_in_the_normalisation_of_its_own_weights() -> None:
    halves, imagenet = Normalisation((0.5,) * 3, (0.5,) * 3), Normalisation()
    pixels = torch.rand(2, 4, 8, 8, 3)
    given, wanted = ((pixels - torch.tensor(each.mean)) / torch.tensor(each.std) for each in (imagenet, halves))
    assert torch.allclose(renormalised(given, imagenet, halves), wanted, atol=1e-5)
    assert renormalised(given, imagenet, imagenet) is given
    model = small().eval()
    model.attention.normalisation = halves
    twin = create_model("towers_tiny", 3, **model.settings()).eval()
    twin.load_state_dict(model.state_dict())
    assert isinstance(twin, Towers) and twin.attention.normalisation == halves
    assert torch.equal(twin(clip()), model(clip()))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"conv": {**SMALL["conv"], "frames": 3}}, "conv.frames is 3; set frames"),
        ({"attention": {**SMALL["attention"], "head": {"hidden": 4}}}, "attention.head has no meaning"),
        ({"fusion": {"rule": "product"}}, "fusion.rule"),
        ({"conv": {"stages": [{"block": "convolution"}]}}, "give one of|did you mean"),
    ],
)
def test_settings_that_do_not_fit_are_one_line(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        small(**changes)
    assert "\n" not in str(caught.value)


def test_a_saved_model_is_the_same_model(tmp_path: Path) -> None:
    model = small("gate", "transposed").eval()
    model.save(tmp_path / "saved", labels=["a", "b", "c"])
    with torch.no_grad():
        assert torch.equal(hv.load_model(tmp_path / "saved").eval()(clip()), model(clip()))
