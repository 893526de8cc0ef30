"""Conformer: two branches that need each other's couplings and could do without each other's heads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import hybridvideo as hv
from hybridvideo.engine.training.classification import loss_terms
from hybridvideo.errors import UserError
from hybridvideo.models import create_model
from hybridvideo.models.conformer import Conformer
from hybridvideo.models.contract import AfterFrozen, Outputs

SMALL: dict[str, Any] = {
    "frames": 4,
    "height": 32,
    "width": 32,
    "input": {"mode": "rgb"},
    "stem": {"widths": (8, 16)},
    "widths": (16, 32),
    "depths": (1, 1),
    "dim": 24,
    "patch": (1, 4, 4),
    "transformer": {"heads": 2},
    "drop_path": 0.0,
}


def small(num_classes: int = 3, **changes: Any) -> Conformer:
    torch.manual_seed(0)
    model = create_model("conformer_tiny", num_classes, **{**SMALL, **changes})
    assert isinstance(model, Conformer)
    return model


def heads(model: Conformer, x: Tensor) -> dict[str, Tensor]:
    return model.branch_logits(model.forward_features(x))


@pytest.mark.parametrize("class_token", [True, False])
def test_training_supervises_both_heads_and_testing_sums_them(class_token: bool) -> None:
    model, x = small(class_token=class_token), torch.randn(2, 3, 4, 32, 32)
    out = model.train()(x)
    assert isinstance(out, Outputs) and not out.supervised
    conv, attention = out.auxiliary["logits_conv"], out.auxiliary["logits_attention"]
    assert torch.allclose(out.logits, conv + attention)
    terms = loss_terms(out, torch.eye(3)[:2])
    assert list(terms) == ["cross_entropy_conv", "cross_entropy_attention"]
    with torch.no_grad():
        alone = heads(model.eval(), x)
        assert torch.allclose(model(x), alone["conv"] + alone["attention"], atol=1e-6)


def test_a_head_alone_reads_its_own_branch_alone() -> None:
    model, x = small().eval(), torch.randn(1, 3, 4, 32, 32)
    before = heads(model, x)
    with torch.no_grad():
        model.head.classifier.weight[:, :32].add_(1.0)  # the columns of the convolution
    after = heads(model, x)
    assert torch.equal(after["attention"], before["attention"]) and not torch.allclose(after["conv"], before["conv"])


class Cut(nn.Module):
    """A coupling that nothing passes."""

    def __init__(self, coupling: nn.Module) -> None:
        super().__init__()
        self.coupling = coupling

    def forward(self, *inputs: Any) -> Tensor:
        out: Tensor = self.coupling(*inputs) * 0
        return out


@torch.no_grad()
@pytest.mark.parametrize("coupling", ["to_tokens", "to_conv"])
def test_cutting_a_coupling_changes_both_heads(coupling: str) -> None:
    model, x = small().eval(), torch.randn(2, 3, 4, 32, 32)
    before = heads(model, x)
    block = model.stages[0][0]  # type: ignore[index]
    setattr(block, coupling, Cut(getattr(block, coupling)))
    for name, logits in heads(model, x).items():
        assert not torch.allclose(logits, before[name], atol=1e-5), name


@pytest.mark.parametrize(("head", "other"), [("conv", "attention"), ("attention", "conv")])
def test_gradients_of_each_head_cross_to_the_other_branch(head: str, other: str) -> None:
    model = small()
    model.train()(torch.randn(2, 3, 4, 32, 32)).auxiliary[f"logits_{head}"].square().sum().backward()
    block = model.stages[0][0]  # type: ignore[index]
    reached = [parameter.grad for parameter in getattr(block, other).parameters()]
    assert all(grad is not None and grad.abs().sum() > 0 for grad in reached)


def bars(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """A bar that moves right, left or not at all."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 3
    start = torch.randint(0, 32, (count,), generator=generator)
    shift = torch.arange(4)[None] * torch.tensor([4, -4, 0])[labels][:, None]
    columns = (start[:, None] + shift) % 32
    x_BTW = torch.stack([(torch.arange(32) - column).remainder(32) < 6 for column in columns.flatten()]).view(-1, 4, 32)
    return x_BTW[:, None, :, None].expand(-1, 3, -1, 32, -1).float(), labels


def test_each_head_alone_learns_and_so_does_their_sum() -> None:
    model = small(dropout=0.0, stem={"widths": (16, 24)})
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(40):
        x, labels = bars(24, step)
        terms = loss_terms(model.train()(x), torch.eye(3)[labels])
        optimiser.zero_grad()
        torch.stack([term.mean() for term in terms.values()]).sum().backward()
        optimiser.step()
    x, labels = bars(60, 1000)
    with torch.no_grad():
        found = {**heads(model.eval(), x), "sum": model(x)}
    for name, logits in found.items():
        assert (logits.argmax(1) == labels).float().mean() > 0.6, name  # chance is 1/3


@torch.no_grad()
def test_the_control_cannot_tell_the_order_of_frames_and_the_model_can() -> None:
    for time in (True, False):
        model, x = small(time=time, patch=(2, 4, 4)).eval(), torch.randn(2, 3, 4, 32, 32)
        assert torch.allclose(model(x), model(x[:, :, [2, 0, 3, 1]]), atol=1e-5) is (not time)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["temporal", "spatial", "joint", "divided"])
def test_the_transformer_is_of_any_kind_and_tokens_of_any_number_of_frames(kind: str) -> None:
    for patch in ((1, 4, 4), (2, 2, 2)):
        model = small(transformer={"block": kind, "heads": 2}, patch=patch).eval()
        for clip in ((4, 32, 32), (1, 32, 32), (5, 40, 24)):
            assert model(torch.randn(1, 3, *clip)).isfinite().all()


def test_intermediates_hold_both_branches_and_features_are_class_tokens() -> None:
    x = torch.randn(2, 3, 4, 32, 32)
    for class_token, shape in ((True, (2, 4, 1, 1, 56)), (False, (2, 4, 2, 2, 56))):
        model = small(class_token=class_token).eval()
        grids = model.forward_intermediates(x, model.stage_names)
        assert [grid.shape[2:] for grid in grids] == [(8, 8, 16), (2, 2, 16 + 24), (2, 2, 32 + 24)]
        assert model.forward_features(x).shape == shape


def test_groups_go_from_the_stem_through_the_blocks_to_the_heads_and_tables_do_not_decay() -> None:
    model = small()
    assert [name for name, _ in model.layer_groups()] == ["stem", "stage1.0", "stage2.0", "head"]
    assert model.no_weight_decay() == {"position.space_CHW", "position.time_CT"}


def test_maps_of_both_branches_can_be_read_and_choices_inside_have_their_cost() -> None:
    model = small(transformer={"block": "choice", "heads": 2}, class_token=False)
    maps = model.eval().readings(torch.randn(2, 3, 4, 32, 32))
    assert maps["stages.0.0.conv_map"].shape == (2, 4, 8, 8)
    assert maps["stages.1.0.attention_map"].shape == (2, 4, 2, 2)
    out = model.train()(torch.randn(2, 3, 4, 32, 32))
    assert set(out.auxiliary) == {"logits_conv", "logits_attention", "cost_paths"} and not out.supervised
    assert out.auxiliary["cost_paths"].shape == (2,)


def test_a_frozen_stem_leaves_both_losses() -> None:
    model = small(stem={"widths": (8, 16), "frozen": True}).train()
    x = torch.randn(2, 3, 4, 32, 32)
    assert model.has_frozen_part()
    out = AfterFrozen(model)(model.forward_frozen(x))
    assert isinstance(out, Outputs) and set(out.auxiliary) == {"logits_conv", "logits_attention"}
    assert all(not parameter.requires_grad for parameter in model.stem.parameters())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"depths": (1,)}, "2 widths and 1 depths"),
        ({"transformer": {"depth": 3}}, "transformer.depth has no meaning"),
        ({"transformer": {"block": "window3d"}}, "class_token false"),
        ({"transformer": {"block": "divded"}}, "did you mean 'divided'"),
        ({"transformer": {"heads": 5}}, "do not divide into 5 heads"),
    ],
)
def test_settings_that_do_not_fit_are_one_line(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        small(**changes)
    assert "\n" not in str(caught.value)


def test_a_saved_model_is_the_same_model(tmp_path: Path) -> None:
    model, x = (
        small(class_token=False, transformer={"block": "window3d", "heads": 2}).eval(),
        torch.randn(1, 3, 4, 32, 32),
    )
    model.save(tmp_path / "saved", labels=["a", "b", "c"])
    loaded = hv.load_model(tmp_path / "saved")
    with torch.no_grad():
        assert torch.equal(loaded.eval()(x), model(x))
