"""Classification trains everything that a model says it should: further classifiers and costs, in any kind of run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn

from hybridvideo.config.data import AugmentConfig, Normalisation
from hybridvideo.config.training import OptimConfig
from hybridvideo.data.dataset import collate_clips
from hybridvideo.engine.training.classification import Classification, clip_losses, loss_terms
from hybridvideo.engine.training.loop import Fitted, fit
from hybridvideo.engine.training.objective import Place
from hybridvideo.models.contract import Outputs
from tests.engine.training.fits import Clips, MemoryFeeds, phase, plan
from tests.engine.training.processes import in_processes
from tests.engine.training.runs import lines, run, settings

LABELS = ("a", "b", "c", "d")


class Auxiliary(nn.Module):
    """Two classifiers whose sum are the logits, a cost, and an entry that no loss knows."""

    def __init__(self, supervised: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.supervised = nn.Conv3d(3, 8, 3, 2, 1), supervised
        self.first, self.second, self.price = nn.Linear(8, 4), nn.Linear(8, 4), nn.Linear(8, 1)

    def forward(self, x_BCTHW: Tensor) -> Tensor | Outputs:
        features_BC = self.stem(x_BCTHW).relu().mean((2, 3, 4))
        first_BK, second_BK = self.first(features_BC), self.second(features_BC)
        if not self.training:
            return first_BK + second_BK
        cost_B = 0.1 * self.price(features_BC).square()[:, 0]
        parts = {"logits_first": first_BK, "logits_second": second_BK, "cost_price": cost_B, "gate": features_BC}
        return Outputs(first_BK + second_BK, parts, self.supervised)


def objective(**augment: Any) -> Classification:
    return Classification(LABELS, Normalisation(), AugmentConfig(**augment), smoothing=0.1)


def batch_of(bad: tuple[int, ...] = ()) -> Any:
    clips = Clips(phase(), 8, bad)
    batch = collate_clips([clips[0, index] for index in range(8)])
    return {**batch, "counts": batch["ok"].tolist()}


PLACE = Place(seed=0, epoch=0, batch=0, rank=0, clips=(8,))


def test_the_terms_are_the_cross_entropies_of_all_logits_and_the_costs() -> None:
    logits, second, cost = torch.randn(3, 4), torch.randn(3, 4), torch.rand(3)
    targets = torch.rand(3, 4).softmax(1)
    of_logits, of_second = (F.cross_entropy(part, targets, reduction="none") for part in (logits, second))
    auxiliary = {"logits_second": second, "cost_path": cost, "gate": torch.rand(3, 7)}
    terms = loss_terms(Outputs(logits, auxiliary), targets)
    assert list(terms) == ["cross_entropy", "cross_entropy_second", "cost_path"]
    for term, expected in zip(terms.values(), (of_logits, of_second, cost), strict=True):
        assert torch.equal(term, expected)
    assert list(loss_terms(Outputs(logits, auxiliary, supervised=False), targets)) == list(terms)[1:]
    assert torch.equal(loss_terms(logits, targets)["cross_entropy"], of_logits)
    assert torch.allclose(clip_losses(Outputs(logits, auxiliary), targets), of_logits + of_second + cost)


@pytest.mark.parametrize("augment", [{}, {"mixup": 0.8, "cutmix": 1.0}])
@pytest.mark.parametrize("bad", [(), (2, 5)])
def test_every_head_sees_the_same_mixed_targets_of_the_readable_clips(augment: Any, bad: tuple[int, ...]) -> None:
    model, task, batch = Auxiliary().train(), objective(**augment), batch_of(bad)
    loss = task.loss(model, batch, PLACE)
    inputs, targets = task.mixed(batch, PLACE)
    readable = [i for i in range(8) if i not in bad]
    found = model(inputs).auxiliary
    for name in ("first", "second"):
        expected = F.cross_entropy(found[f"logits_{name}"][readable], targets[readable], reduction="sum")
        assert torch.allclose(loss.scalars[f"cross_entropy_{name}"], expected, rtol=1e-5)
    assert torch.allclose(loss.scalars["cost_price"], found["cost_price"][readable].sum(), rtol=1e-5)
    assert torch.allclose(loss.sum, sum(loss.scalars.values(), torch.zeros(())), rtol=1e-6)


def test_logits_alone_are_one_term_that_is_not_logged_twice() -> None:
    loss = objective().loss(Auxiliary().eval(), batch_of(), PLACE)
    assert loss.scalars == {} and loss.sum > 0


def trained(**changes: Any) -> Fitted:
    accelerator = Accelerator(cpu=True)
    feeds = MemoryFeeds(accelerator, bad=(3, 7))
    steps = plan(optim=OptimConfig(lr=1e-2, ema=0.9), **changes)
    return fit(Auxiliary(), steps, objective(mixup=0.8), feeds, accelerator=accelerator)


def test_a_run_logs_each_term_and_validates_by_the_logits() -> None:
    for row in trained(accumulate=2).epochs:
        terms = [row[f"train_{name}"] for name in ("cross_entropy_first", "cross_entropy_second", "cost_price")]
        assert row["train_loss"] == pytest.approx(sum(terms), rel=1e-5)
        assert 0 <= row["val_top1"] <= 1


def in_one(rank: int) -> list[dict[str, Any]]:
    return trained(accumulate=2).epochs


def test_two_processes_sum_the_terms_as_one_does(tmp_path: Path) -> None:
    alone = in_one(0)
    for rows in in_processes(in_one, 2, tmp_path):
        for row, expected in zip(rows, alone, strict=True):
            names = [name for name in expected if name.startswith("train_")]
            assert [row[name] for name in names] == pytest.approx([expected[name] for name in names], rel=1e-3)


def test_outputs_come_out_of_a_compiled_graph() -> None:
    torch._dynamo.reset()
    model, x = Auxiliary().train(), torch.randn(2, 3, 4, 16, 16)
    found, expected = torch.compile(model, fullgraph=True, backend="eager")(x), model(x)
    assert torch.allclose(found.logits, expected.logits) and found.auxiliary.keys() == expected.auxiliary.keys()
    assert not found.supervised


@pytest.mark.parametrize("frozen", [False, True])
def test_a_conformer_trains_by_both_its_heads_from_a_cached_stem_too(
    motion: Path, tmp_path: Path, frozen: bool
) -> None:
    changes = {
        "input": {"mode": "rgb"},
        "stem": {"widths": [8, 16], "frozen": frozen},
        "widths": [16, 32],
        "depths": [1, 1],
        "dim": 16,
        "transformer": {"heads": 2},
    }
    job = settings(motion, model={"name": "conformer_tiny", "changes": changes}, optim={"ema": 0.9})
    folder = run(tmp_path / "run", replace(job, model=replace(job.model, changes=changes)))
    for row in lines(folder, "epoch"):
        heads = row["train_cross_entropy_conv"] + row["train_cross_entropy_attention"]
        assert row["train_loss"] == pytest.approx(heads, rel=1e-5) and row["val_top1"] is not None
