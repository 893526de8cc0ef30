"""A step: what is left of one that is left out, what clips weigh, what is mixed with what."""

from __future__ import annotations

import copy
import math
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from torch import Tensor

from hybridvideo.engine.training import loop
from hybridvideo.engine.training.classification import Classification
from hybridvideo.engine.training.objective import Place
from hybridvideo.engine.training.step import Outcome, Trainee
from hybridvideo.tasks import train as task
from tests.engine.training.runs import lines, run, settings, still, weights

# the power, so that what BatchNorm takes away has a gradient all the same, which AdamW does not blow up from rounding
BATCHNORM = {"changes": {"head": {"norm": "batch", "power": 0.5}}}


def everything(trainee: Trainee) -> dict[str, Any]:
    """All that a step may change. What the optimizer remembers of its first step, if that was skipped, is zeros."""
    average = trainee.average.module.state_dict() if trainee.average is not None else {}
    optimizer = trainee.optimizer.state_dict()
    optimizer["state"] = {i: kept for i, kept in optimizer["state"].items() if any(map(torch.any, kept.values()))}
    return copy.deepcopy({"model": trainee.model.state_dict(), "average": average, "optimizer": optimizer})


def taken(outcome: Outcome | None) -> bool:
    """Whether a step was taken."""
    return outcome is not None and not outcome.numbers[2]


def differences(a: Any, b: Any, place: str = "") -> Iterator[str]:
    """Where two nests of tensors and numbers are not equal to the last bit."""
    if isinstance(a, dict) and a.keys() == b.keys():
        for name, value in a.items():
            yield from differences(value, b[name], f"{place}.{name}")
    elif isinstance(a, list | tuple):
        for i, pair in enumerate(zip(a, b, strict=True)):
            yield from differences(*pair, f"{place}.{i}")
    elif not (torch.equal(a, b) if isinstance(a, Tensor) else a == b):
        yield place  # among them what one of them has not


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[tuple[dict[str, Any], dict[str, Any], Outcome | None]]:
    """Of each step of the runs to come: everything before it and after it, and what came of it."""
    noted = []
    real = loop.take_step

    def noting(trainee: Trainee, *arguments: Any, **named: Any) -> Outcome | None:
        before = everything(trainee)
        outcome = real(trainee, *arguments, **named)
        noted.append((before, everything(trainee), outcome))
        return outcome

    monkeypatch.setattr(loop, "take_step", noting)
    return noted


def spoil(monkeypatch: pytest.MonkeyPatch, *batches: tuple[int, int], value: float = math.nan) -> None:
    """One clip of these (epoch, batch) gives the model `value` in place of its pixels."""
    real = Classification.mixed

    def broken(objective: Classification, batch: Any, place: Place) -> tuple[Tensor, Tensor]:
        inputs, targets = real(objective, batch, place)
        if (place.epoch, place.batch) in batches:
            inputs[1] = value
        return inputs, targets

    monkeypatch.setattr(Classification, "mixed", broken)


@pytest.mark.parametrize(
    ("broken", "accumulate", "value"), [(0, 1, math.nan), (4, 1, math.inf), (0, 3, math.inf), (2, 3, math.nan)]
)
def test_a_step_left_out_leaves_everything_as_it_was(
    motion: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: list[Any], broken: int, accumulate: int,
    value: float,
) -> None:  # fmt: skip
    spoil(monkeypatch, (0, broken), value=value)
    changes = {"model": BATCHNORM, "optim": {"ema": 0.9}, "train": {"epochs": 1, "accumulate": accumulate}}
    folder = run(tmp_path / "run", settings(motion, data={"val": ""}, **changes))
    out = broken // accumulate
    for number, (before, after, step) in enumerate(steps):
        assert taken(step) == (number != out)
        assert bool(list(differences(before, after))) == (number != out)
    clips = [5, 5, 5, 5, 4][out * accumulate : (out + 1) * accumulate]
    (epoch,) = lines(folder, "epoch")
    assert epoch["skipped_steps"] == 1 and epoch["clips_seen"] == 24 - sum(clips) and 1 < epoch["train_loss"] < 4
    (skipped,) = lines(folder, "skipped")
    assert skipped["step"] == out + 1 and len(skipped["samples"]) == sum(clips)
    assert all(bool(value.isfinite().all()) for value in weights(folder).values())
    (end,) = lines(folder, "end")
    assert end["skipped_steps"] == 1


def test_a_step_is_left_out_that_only_the_statistics_show_to_be_not_finite(
    motion: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: list[Any]
) -> None:
    """The variance of what is normalised overflows: the layer gives its bias, and the loss is that of any model."""
    forward = torch.nn.BatchNorm1d.forward
    calls = iter(range(100))

    def overflowing(layer: torch.nn.BatchNorm1d, x: Tensor) -> Tensor:
        return forward(layer, x * 1e25 if next(calls) == 2 else x)

    monkeypatch.setattr(torch.nn.BatchNorm1d, "forward", overflowing)
    folder = run(tmp_path / "run", settings(motion, data={"val": ""}, model={"changes": {"head": {"norm": "batch"}}},
                                            train={"epochs": 1}))  # fmt: skip
    assert [taken(step) for _, _, step in steps] == [True, True, False, True, True]
    assert not list(differences(*steps[2][:2]))
    assert all(bool(value.isfinite().all()) for value in weights(folder).values())


def test_the_gradient_scaler_hears_of_a_step_left_out(
    motion: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: list[Any]
) -> None:
    make, scales = task.make_accelerator, []

    def with_scaler(*arguments: Any) -> Any:
        accelerator = make(*arguments)
        accelerator.state._mixed_precision = "fp16"
        accelerator.native_amp, accelerator.scaler = True, torch.amp.GradScaler("cpu", init_scale=1024.0)
        return accelerator

    def noting(real: Callable[..., Outcome | None]) -> Callable[..., Outcome | None]:
        def noted(trainee: Trainee, *arguments: Any, **named: Any) -> Outcome | None:
            step = real(trainee, *arguments, **named)
            scales.append(trainee.accelerator.scaler.get_scale())
            return step

        return noted

    monkeypatch.setattr(task, "make_accelerator", with_scaler)
    monkeypatch.setattr(loop, "take_step", noting(loop.take_step))
    spoil(monkeypatch, (0, 1), (0, 3))
    try:
        run(tmp_path / "run", settings(motion, data={"val": ""}, model=BATCHNORM, train={"epochs": 1}))
    finally:
        AcceleratorState._reset_state(True)
    assert [taken(step) for _, _, step in steps] == [True, False, True, False, True]
    assert [bool(list(differences(before, after))) for before, after, _ in steps] == [True, False, True, False, True]
    assert scales == [1024.0, 512.0, 512.0, 256.0, 256.0]


def test_each_clip_of_a_step_weighs_the_same_however_few_of_its_batch_could_be_read(
    motion: Path, tmp_path: Path, steps: list[Any]
) -> None:
    data = tmp_path / "data"
    shutil.copytree(motion, data)
    for victim in sorted((data / "train").rglob("*.*"))[:9]:
        victim.write_bytes(b"")
    plans = [{"batch_size": 24}, {"batch_size": 6, "accumulate": 4}, {"batch_size": 1, "accumulate": 24}]
    runs = []
    for number, plan in enumerate(plans):
        changes = still(train={"epochs": 1, **plan}, data={"max_bad": 0.9, "val": ""})
        runs.append(weights(run(tmp_path / str(number), settings(data, **changes))))
    for other in runs[1:]:
        for name, value in runs[0].items():
            assert torch.allclose(value, other[name], atol=1e-5), name
    losses = [float(outcome.numbers[0]) for _, _, outcome in steps if outcome is not None]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@pytest.mark.parametrize("batch_size", [23, 1])
def test_a_batch_of_one_clip_trains_with_batchnorm_in_the_head(
    motion: Path, tmp_path: Path, batch_size: int, steps: list[Any]
) -> None:
    changes = {"model": BATCHNORM, "train": {"epochs": 1, "batch_size": batch_size}}
    folder = run(tmp_path / "run", settings(motion, **changes))
    (epoch,) = lines(folder, "epoch")
    assert epoch["clips_seen"] == 24 and not epoch["skipped_steps"]
    assert weights(folder)["head.norm.num_batches_tracked"] == (1 if batch_size == 23 else 0)
    assert all(list(differences(before["model"], after["model"])) for before, after, _ in steps)


def test_clips_that_cannot_be_read_are_not_in_the_statistics(motion: Path, tmp_path: Path) -> None:
    """A list with bad videos in its only batch, and the list without them: the same step."""
    data, bad = tmp_path / "data", tmp_path / "bad"
    for folder in (data, bad):
        shutil.copytree(motion, folder)
    for victim in sorted((bad / "train").rglob("*.*"))[1:20:3]:
        victim.write_bytes(b"no video")
        (data / victim.relative_to(bad)).unlink()
    changes = still(model=BATCHNORM, train={"epochs": 1, "batch_size": 24}, data={"max_bad": 0.9, "val": ""})
    whole, holed = (weights(run(tmp_path / f"of {f.name}", settings(f, **changes, augment={"crop": "none"},
                                                                     clip={"train_start": "first"})))
                    for f in (data, bad))  # fmt: skip
    for name, value in whole.items():
        # The gradient of a key's bias is zero but for rounding, of which Adam makes a whole step.
        parts = [0, 2] if name.endswith("qkv.bias") else [0, 1, 2] if "qkv" in name else [0]
        ours, theirs = (tensor.chunk(3) if "qkv" in name else (tensor,) for tensor in (value, holed[name]))
        assert all(torch.allclose(ours[part], theirs[part], atol=1e-5) for part in parts), name


def test_a_step_of_which_no_clip_can_be_read_is_left_out(motion: Path, tmp_path: Path, steps: list[Any]) -> None:
    data = tmp_path / "data"
    shutil.copytree(motion, data)
    for victim in sorted((data / "train").rglob("*.*"))[1:]:
        victim.write_bytes(b"")
    folder = run(tmp_path / "run", settings(data, model=BATCHNORM, train={"epochs": 1}, data={"max_bad": 1.0}))
    changed = [bool(list(differences(before, after))) for before, after, _ in steps]
    assert sum(changed) == 1
    assert {row["why"] for row in lines(folder, "skipped")} == {"no clip could be read"}
    (epoch,) = lines(folder, "epoch")
    assert epoch["clips_seen"] == 1 and epoch["skipped_steps"] == 4 and epoch["bad_clips"] == 23
