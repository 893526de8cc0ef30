"""The training loop: what a run leaves, that a stopped run is the run that was not, and what bad input does to it."""

from __future__ import annotations

import json
import math
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file

from hybridvideo.engine.training import loop
from hybridvideo.engine.training.average import MovingAverage
from hybridvideo.engine.training.step import take_step
from hybridvideo.errors import HybridVideoError, Preempted, TooMuchBadData, UserError
from tests.engine.training.runs import lines, run, same, settings, weights

MANY = {
    "model": {"changes": {"head": {"norm": "batch"}}}, "augment": {"mixup": 0.8, "cutmix": 1.0},
    "optim": {"ema": 0.9}, "train": {"accumulate": 2},
}  # fmt: skip


def stop_after(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    """Ctrl-C comes during that step."""
    asked = iter(range(1, 10_000))

    def interrupted(*arguments: Any, **named: Any) -> Any:
        if next(asked) == steps:
            signal.raise_signal(signal.SIGINT)
        return take_step(*arguments, **named)

    monkeypatch.setattr(loop, "take_step", interrupted)


def test_a_run_leaves_all_it_promises(motion: Path, tmp_path: Path) -> None:
    folder = run(tmp_path / "run", settings(motion, train={"trackers": ["tensorboard"]}))
    for name in ("config.yaml", "environment.json", "metrics.jsonl", "report.html", "tensorboard",
                 "checkpoints/last/model.safetensors", "checkpoints/last/state.json", "checkpoints/best/model.json",
                 "evaluation/results.json", "evaluation/scores.parquet", "evaluation/report.html"):  # fmt: skip
        assert (folder / name).exists(), name
    epochs = lines(folder, "epoch")
    assert [row["clips_seen"] for row in epochs] == [24, 48]
    assert all(0 <= row["val_top1"] <= 1 for row in epochs)
    assert len(lines(folder, "step")) == 10


def test_the_same_seed_gives_the_same_weights(motion: Path, tmp_path: Path) -> None:
    first, again, other = (
        run(tmp_path / name, settings(motion, seed=seed)) for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    assert same(weights(first), weights(again))
    assert not same(weights(first), weights(other))


@pytest.mark.parametrize("steps", [2, 5, 7])
@pytest.mark.parametrize("changes", [{}, MANY])
def test_a_resumed_run_is_the_run_that_was_not_stopped(
    motion: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: int, changes: dict[str, Any]
) -> None:
    plan = settings(motion, **changes)
    whole = run(tmp_path / "whole", plan)
    with monkeypatch.context() as patch:
        stop_after(patch, min(steps, 3) if changes else steps)
        with pytest.raises(Preempted, match="continue with --resume"):
            run(tmp_path / "stopped", plan)
    resumed = run(tmp_path / "stopped", plan, resume=True)
    assert same(weights(whole), weights(resumed))
    timed = ("seconds", "clips_per_second", "time")
    untimed = [[{k: v for k, v in row.items() if k not in timed} for row in lines(folder, "epoch")]
               for folder in (whole, resumed)]  # fmt: skip
    assert untimed[0] == untimed[1]
    assert [row["step"] for row in lines(resumed, "step")] == [row["step"] for row in lines(whole, "step")]


def test_resuming_with_other_settings_is_refused(motion: Path, tmp_path: Path) -> None:
    folder = run(tmp_path / "run", settings(motion, train={"epochs": 1}))
    with pytest.raises(UserError, match=r"optim\.lr was 0.001 and is now 0.1"):
        run(folder, settings(motion, optim={"lr": 0.1}), resume=True)
    with pytest.raises(UserError, match="already holds a run; add --resume"):
        run(folder, settings(motion))
    longer = run(folder, settings(motion, train={"epochs": 2}), resume=True)
    assert len(lines(longer, "epoch")) == 2


def test_accumulated_batches_make_the_step_of_one_large_batch(motion: Path, tmp_path: Path) -> None:
    still = {"model": {"changes": {"drop_path": 0.0, "head": {"dropout": 0.0}}}}
    large = run(tmp_path / "large", settings(motion, **still, train={"batch_size": 12, "epochs": 1}))
    small = run(tmp_path / "small", settings(motion, **still, train={"batch_size": 6, "accumulate": 2, "epochs": 1}))
    for name, value in weights(large).items():
        assert torch.allclose(value, weights(small)[name], atol=1e-4), name


def test_an_unreadable_video_is_listed_and_has_no_weight(motion: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(motion, data)
    victim = sorted((data / "train" / "left").iterdir())[0]
    victim.write_bytes(b"no video")  # an empty one would be found before the run starts
    folder = run(tmp_path / "run", settings(data, train={"epochs": 1}))
    (epoch,) = lines(folder, "epoch")
    assert epoch["bad_clips"] == 1 and epoch["clips_seen"] == 23
    (bad,) = [json.loads(line) for line in (folder / "bad_videos.jsonl").read_text().splitlines()]
    assert bad["path"] == f"left/{victim.name}" and bad["status"] == "unreadable" and bad["reason"]
    with pytest.raises(TooMuchBadData, match=f"{victim.name}: unreadable"):
        run(tmp_path / "strict", settings(data, data={"bad": "fail"}))
    with pytest.raises(TooMuchBadData, match="1 of 24 training videos cannot be read"):
        run(tmp_path / "few", settings(data, data={"max_bad": 0.01}))


def test_missing_files_stop_a_run_before_it_starts(motion: Path, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("no/such.mp4 0\nnor/this.mp4 1\n")
    with pytest.raises(TooMuchBadData, match=r"2 of 2 files of .* are missing"):
        run(tmp_path / "run", settings(motion, data={"train": str(tmp_path / "list.txt"), "val": ""}))
    assert not (tmp_path / "run").exists()


def test_steps_that_are_not_finite_are_left_out_and_then_stop_the_run(
    motion: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = torch.nn.utils.clip_grad_norm_
    calls = iter(range(100))
    monkeypatch.setattr(
        torch.nn.utils, "clip_grad_norm_",
        lambda *arguments: torch.tensor(float("nan")) if next(calls) == 2 else real(*arguments),
    )  # fmt: skip
    folder = run(tmp_path / "once", settings(motion))
    assert [row["step"] for row in lines(folder, "skipped")] == [3]
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", lambda *arguments: torch.tensor(float("inf")))
    with pytest.raises(HybridVideoError, match="not finite in 3 steps in a row"):
        run(tmp_path / "often", settings(motion, train={"max_skipped_steps": 2}))


def test_the_moving_average_is_what_is_saved(motion: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Recomputed by hand from the weights after each step, which the average does not touch."""
    trained: list[dict[str, torch.Tensor]] = []
    real = MovingAverage.follow

    def noted(self: MovingAverage, model: torch.nn.Module, step: int, skip: torch.Tensor) -> None:
        trained.append({name: value.clone() for name, value in model.state_dict().items()})
        real(self, model, step, skip)

    monkeypatch.setattr(MovingAverage, "follow", noted)
    plain = run(tmp_path / "plain", settings(motion))
    averaged = run(tmp_path / "average", settings(motion, optim={"ema": 0.6}))
    assert len(trained) == 10 and same(weights(plain), trained[-1])
    assert same(load_file(averaged / "checkpoints" / "last" / "training.safetensors"), trained[-1])
    average = trained[0]
    for step, after in enumerate(trained[1:], start=1):
        decay = min(0.6, 1 - (1 + step) ** (-2 / 3))
        average = {name: decay * value + (1 - decay) * after[name] for name, value in average.items()}
    assert not same(average, trained[-1])
    for name, value in weights(averaged).items():
        assert torch.allclose(value, average[name], atol=1e-6), name


def test_bf16_trains_and_fp16_asks_for_a_gpu(motion: Path, tmp_path: Path) -> None:
    AcceleratorState._reset_state(True)  # of the runs before, in fp32
    try:
        folder = run(tmp_path / "run", settings(motion, train={"precision": "bf16"}))
    finally:
        AcceleratorState._reset_state(True)
    assert all(math.isfinite(row["train_loss"]) and math.isfinite(row["val_loss"]) for row in lines(folder, "epoch"))
    assert not lines(folder, "skipped")
    with pytest.raises(UserError, match="fp16 needs a GPU; use bf16 or fp32"):
        run(tmp_path / "half", settings(motion, train={"precision": "fp16"}))


def test_a_run_of_the_version_before_phases_continues(motion: Path, tmp_path: Path) -> None:
    """Its state has fewer fields, its optimizer other settings, and its counters are on the CPU."""
    plan = settings(motion, data={"val": ""}, train={"epochs": 2})
    folder = run(tmp_path / "run", settings(motion, data={"val": ""}, train={"epochs": 1}))
    last = folder / "checkpoints" / "last"
    state = json.loads((last / "state.json").read_text())
    del state["scalar_sums"]
    (last / "state.json").write_text(json.dumps(state))
    memory = torch.load(last / "optimizer.pt", weights_only=True)
    del memory["objective"]
    for group in memory["optimizer"]["param_groups"]:
        group["lr_scale"], group["fused"] = group.pop("shares")[0], None
    torch.save(memory, last / "optimizer.pt")
    started = json.loads((folder / "started.json").read_text())
    del started["run"]["phases"]
    (folder / "started.json").write_text(json.dumps(started))
    resumed, whole = run(folder, plan, resume=True), run(tmp_path / "whole", plan)
    assert [row["epoch"] for row in lines(resumed, "epoch")] == [row["epoch"] for row in lines(whole, "epoch")]
    assert weights(resumed).keys() == weights(whole).keys()
    assert all(bool(value.isfinite().all()) for value in weights(resumed).values())


def test_a_memory_of_other_parameters_is_refused_in_one_line(motion: Path, tmp_path: Path) -> None:
    plan = settings(motion, data={"val": ""}, train={"epochs": 1})
    folder = run(tmp_path / "run", plan)
    file = folder / "checkpoints" / "last" / "optimizer.pt"
    memory = torch.load(file, weights_only=True)
    memory["optimizer"]["param_groups"].pop()
    torch.save(memory, file)
    with pytest.raises(UserError, match=r"cannot resume from .*what the optimizer remembers does not fit: its groups"):
        run(folder, settings(motion, data={"val": ""}, train={"epochs": 2}), resume=True)
