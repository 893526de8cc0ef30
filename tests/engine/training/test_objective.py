"""The loop trains for any objective: reconstruction, two losses; without a folder, in several processes, resumed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from hybridvideo.config.training import OptimConfig
from hybridvideo.engine.training.checkpoint import Saved
from hybridvideo.engine.training.log import Log
from hybridvideo.engine.training.loop import Fitted, fit
from hybridvideo.engine.training.objective import Best, Objective
from hybridvideo.engine.training.run import State
from hybridvideo.errors import TooMuchBadData, UserError
from hybridvideo.models import create_pretraining
from tests.engine.training.fits import MemoryFeeds, Reconstruction, TwoHeads, TwoLosses, phase, plan
from tests.engine.training.processes import in_processes


def pretraining() -> nn.Module:
    """A tiny VideoMAE, which has no layer groups."""
    torch.manual_seed(0)
    sizes = {"dim": 16, "depth": 1, "heads": 2, "decoder_dim": 16, "decoder_depth": 1, "decoder_heads": 2}
    return create_pretraining("videomae_small", frames=4, height=16, width=16, patch=[2, 8, 8], **sizes)


def fitted(kind: str, *, bad: tuple[int, ...] = (), **settings: Any) -> Fitted:
    """A short training for an objective."""
    accelerator = Accelerator(cpu=True)
    model = pretraining() if kind == "reconstruction" else TwoHeads()
    objective: Objective = TwoLosses()
    if kind == "reconstruction":
        objective = Reconstruction(model.normalisation, (2, 8, 8))  # type: ignore[arg-type]
    for layer in model.modules():
        if isinstance(layer, nn.Dropout):
            layer.p = 0.0  # drawn otherwise in other processes
    return fit(model, plan(**settings), objective, MemoryFeeds(accelerator, bad=bad), accelerator=accelerator)


def test_a_fit_leaves_no_trace_but_the_trained_model_and_its_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    model, accelerator = pretraining(), Accelerator(cpu=True)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    objective = Reconstruction(model.normalisation, (2, 8, 8))  # type: ignore[arg-type]
    done = fit(model, plan(phase(4), optim=OptimConfig(lr=1e-2)), objective, MemoryFeeds(accelerator))
    assert done.model is model and any(not torch.equal(before[n], value) for n, value in model.state_dict().items())
    assert [row["epoch"] for row in done.epochs] == [0, 1, 2, 3]
    assert done.epochs[-1]["train_loss"] < done.epochs[0]["train_loss"]
    assert [row["train_visible"] for row in done.epochs] == [0.5] * 4
    assert done.state.best == min(row["val_error"] for row in done.epochs) and done.epochs[0]["val_videos"] == 4
    assert list(tmp_path.iterdir()) == [] and capfd.readouterr() == ("", "")


def test_both_of_two_losses_are_trained_and_logged() -> None:
    done = fitted("two losses")
    for row in done.epochs:
        assert row["train_loss"] == pytest.approx(row["train_main"] + 0.5 * row["train_second"], rel=1e-5)
    untrained = TwoHeads()
    for name, value in done.model.state_dict().items():
        if name.endswith("weight"):
            assert not torch.equal(value, untrained.state_dict()[name]), name


def in_one(rank: int, kind: str, bad: tuple[int, ...], settings: dict[str, Any]) -> tuple[Any, ...]:
    done = fitted(kind, bad=bad, **settings)
    return done.model.state_dict(), done.epochs, done.state.step


@pytest.mark.parametrize("kind", ["reconstruction", "two losses"])
def test_two_processes_train_for_any_objective_as_one_does(tmp_path: Path, kind: str) -> None:
    bad, settings = (3, 7), {"accumulate": 2}
    alone, epochs, steps = in_one(0, kind, bad, settings)
    for weights, rows, taken in in_processes(in_one, 2, tmp_path, kind, bad, settings):
        assert taken == steps and all(torch.allclose(weights[name], alone[name], atol=1e-4) for name in alone)
        for row, expected in zip(rows, epochs, strict=True):
            assert row.keys() == expected.keys() and row["clips_seen"] == expected["clips_seen"]
            losses = [name for name in row if name.startswith(("train_", "val_"))]
            assert [row[n] for n in losses] == pytest.approx([expected[n] for n in losses], rel=1e-3)


class Memory:
    """Keeps a run in memory. It stops after so many saves, as a crash would."""

    def __init__(self, saves: int | None = None) -> None:
        self.saves, self.kept = saves, dict[str, Any]()
        self.best: list[int] = []

    def load(self, evaluated: nn.Module, raw: nn.Module | None) -> tuple[State, dict[str, Any]] | None:
        if not self.kept:
            return None
        evaluated.load_state_dict(self.kept["weights"])
        return self.kept["state"], self.kept["memory"]

    def save(self, saved: Saved, best: bool) -> None:
        import copy

        weights = saved.evaluated.state_dict()
        self.kept = copy.deepcopy({"weights": weights, "state": saved.state, "memory": saved.memory})
        self.best += [saved.state.step] if best else []
        if self.saves is not None:
            self.saves -= 1
            if not self.saves:
                self.saves = None
                raise InterruptedError

    def refuse(self, why: str) -> UserError:
        return UserError(why)


def test_a_resumed_fit_remembers_what_the_objective_remembers() -> None:
    def trained(keeper: Memory) -> tuple[Fitted, Reconstruction]:
        model = pretraining()
        objective = Reconstruction(model.normalisation, (2, 8, 8))  # type: ignore[arg-type]
        settings = plan(phase(3), checkpoint_every=2)
        return fit(model, settings, objective, MemoryFeeds(Accelerator(cpu=True)), keeper=keeper), objective

    whole, expected = trained(Memory())
    stopped = Memory(saves=3)
    with pytest.raises(InterruptedError):
        trained(stopped)
    assert stopped.kept["state"].batch not in (0, 3)  # in the middle of an epoch
    resumed, objective = trained(stopped)
    assert objective.seen == expected.seen == 3 * 10 and len(resumed.epochs) < 3
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name


def test_the_best_is_the_lowest_where_lower_is_better() -> None:
    class Falling(TwoLosses):
        def __init__(self, *values: float | None) -> None:
            self.values = iter(values)

        def validate(self, model: Any, batches: Any, gather: Any) -> Any:
            assert sum(len(batch["counts"]) for batch in batches) == 4
            return {"val_right": next(self.values)}

    for higher, expected in ((True, [3, 9]), (False, [3, 6, 12])):
        keeper, objective = Memory(), Falling(-3.0, -4.0, 1.0, -5.0, float("nan"), None)
        objective.best = type(TwoLosses.best)("val_right", higher)
        feeds = MemoryFeeds(Accelerator(cpu=True))
        fit(TwoHeads(), plan(phase(6)), objective, feeds, keeper=keeper)
        assert keeper.best == expected


def test_too_many_unreadable_videos_stop_a_fit_without_a_folder() -> None:
    with pytest.raises(TooMuchBadData, match=r"training videos cannot be read, .*; repair them or raise data.max_bad$"):
        fitted("two losses", bad=(0, 1, 2, 3, 4, 5))


def test_a_log_of_ones_own_hears_all_lines() -> None:
    class Heard(Log):
        def __init__(self) -> None:
            self.kinds: list[str] = []

        def write(self, line: dict[str, Any]) -> None:
            self.kinds.append(line["kind"])

    log = Heard()
    feeds = MemoryFeeds(Accelerator(cpu=True))
    fit(TwoHeads(), plan(phase(1)), TwoLosses(), feeds, log=log)
    assert log.kinds == ["step", "step", "step", "epoch", "end"]


def test_fits_of_other_precisions_follow_each_other_in_one_process() -> None:
    for precision in ("fp32", "bf16", "fp32"):
        model = TwoHeads()
        done = fit(model, plan(phase(1), precision=precision), TwoLosses(), MemoryFeeds(Accelerator(cpu=True)))
        assert done.state.step == 3 and {p.dtype for p in model.parameters()} == {torch.float32}


def test_a_best_that_validation_does_not_return_is_an_error_and_not_a_run_without_a_best() -> None:
    objective = TwoLosses()
    objective.best = Best("val_rihgt")
    with pytest.raises(UserError, match="best is 'val_rihgt', which its validation does not return; it returns val_r"):
        fit(TwoHeads(), plan(phase(1)), objective, MemoryFeeds(Accelerator(cpu=True)))


def test_any_module_can_be_fitted() -> None:
    class Plain(nn.Module):
        """Has neither layer groups nor exempt parameters."""

        def __init__(self) -> None:
            super().__init__()
            self.inner = TwoHeads()

        def forward(self, x_BCTHW: Tensor) -> Any:
            return self.inner(x_BCTHW)

    assert fit(Plain(), plan(phase(1)), TwoLosses(), MemoryFeeds(Accelerator(cpu=True))).state.step == 3
