"""A run of several phases: the arithmetic of its steps, what trains in each, and that it can be stopped anywhere."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from accelerate import Accelerator
from torch import Tensor, nn

from hybridvideo import cli
from hybridvideo.config.data import ClipConfig, FrameConfig
from hybridvideo.config.model import ModelConfig
from hybridvideo.config.training import OptimConfig, TrainRun
from hybridvideo.engine.training import loop
from hybridvideo.engine.training.loop import fit
from hybridvideo.engine.training.objective import Loss
from hybridvideo.engine.training.phases import Phase, Position, Timetable, phases_of
from hybridvideo.errors import Preempted, UserError
from hybridvideo.parsing import parsed, plain
from tests.engine.training.fits import MemoryFeeds, TwoHeads, TwoLosses, phase, plan
from tests.engine.training.processes import in_processes
from tests.engine.training.runs import lines, run, same, settings, weights
from tests.engine.training.test_loop import stop_after
from tests.engine.training.test_objective import Memory

OPTIM = OptimConfig(lr=1.0, warmup_epochs=1.0, final_lr=0.0)


def timetable(*phases: Phase, batches: tuple[int, ...], accumulate: int = 1) -> Timetable:
    return Timetable(phases, batches, accumulate, OPTIM)


# --- arithmetic -------------------------------------------------------------------------------------------------------


def test_positions_go_through_all_batches_of_all_epochs_in_order() -> None:
    table = timetable(phase(2), phase(1), phase(3), batches=(5, 3, 4), accumulate=2)
    found = [table.position(step) for step in range(table.first_steps()[-1] + 2)]
    expected = [
        Position(number, epoch, batch)
        for number, (epochs, batches) in enumerate((((0, 1), 5), ((2,), 3), ((3, 4, 5), 4)))
        for epoch in epochs
        for batch in range(0, batches, 2)
    ]
    assert found == [*expected, Position(2, 6, 0), Position(2, 6, 0)]
    assert [table.phase_of(epoch) for epoch in range(7)] == [0, 0, 1, 2, 2, 2, 2]
    assert [table.batches_until(epoch, 1) for epoch in range(7)] == [1, 6, 11, 14, 18, 22, 26]


def test_one_schedule_spans_phases_without_a_rate_of_their_own() -> None:
    one = timetable(phase(6), batches=(4,))
    three = timetable(phase(1), phase(3), phase(2), batches=(4, 4, 4))
    assert [three.rate(step) for step in range(24)] == [one.rate(step) for step in range(24)]


def test_a_phase_with_a_rate_starts_a_schedule_that_lasts_until_the_next() -> None:
    table = timetable(phase(2), phase(1, lr=0.5), phase(2), phase(1, lr=0.1), batches=(4, 4, 2, 4))
    rates = [table.rate(step) for step in range(8 + 4 + 4 + 4)]
    assert rates[3] == 1.0 and rates[7] == pytest.approx(0)  # a warm-up of an epoch, then down to 0
    assert rates[8] == 0.5 / 4 and rates[11] == 0.5 and rates[15] == pytest.approx(0)
    assert 0 < rates[14] < rates[13] < rates[12] == 0.5
    assert rates[16:] == [pytest.approx(0.1 * (step + 1) / 4) for step in range(4)]


def test_drop_moves_from_its_first_value_to_its_last_within_a_phase() -> None:
    table = timetable(phase(1, drop=(0.0, 1.0)), phase(1, drop=(0.5, 0.5)), batches=(5, 2))
    assert [table.drop(step) for step in range(7)] == [0, 0.25, 0.5, 0.75, 1, 0.5, 0.5]


def test_settings_without_phases_are_one_phase() -> None:
    config = TrainRun()
    assert phases_of(config) == (Phase(10, config.clip, config.frame, 16),) and config.epochs == 10


def test_a_phase_changes_only_what_it_names() -> None:
    text = """
    clip: {frames: 8, stride: 4}
    frame: {height: 112, width: 112, short_side: 128}
    train: {epochs: 5}
    phases:
    - {epochs: 1, groups: {head: 1.0}}
    - {epochs: 2, clip: {frames: 4, interval: 0.2}, frame: {height: 56, width: 56}, batch_size: 32, drop: [0, 1]}
    - {lr: 0.1}
    """
    config = parsed(TrainRun, yaml.safe_load(text))
    first, second, third = phases_of(config)
    assert (first.epochs, second.epochs, third.epochs, config.epochs) == (1, 2, 2, 5)
    assert first.clip == third.clip == ClipConfig(8, stride=4) and first.groups == {"head": 1.0}
    assert second.clip == ClipConfig(4, interval=0.2) and second.frame == FrameConfig(56, 56, short_side=64)
    assert (second.batch_size, second.drop, second.lr, third.lr, third.groups) == (32, (0, 1), None, 0.1, None)
    assert parsed(TrainRun, plain(config)) == config


@pytest.mark.parametrize(
    ("phases", "message"),
    [
        ([{}, {"epochs": 1}], r"phases\[0\].epochs is missing; only the last phase may leave it out"),
        ([{"epochs": 10}, {}], r"take 10 epochs and train.epochs is 10; give more, or set phases\[1\].epochs"),
        ([{"epochs": 0}], "epochs of a phase is 0; give 1 or more"),
        ([{"groups": {"head": 0.0}}], "no group of a phase trains"),
        ([{"groups": {"head": -1.0}}], "groups.head of a phase is -1.0"),
        ([{"drop": 2.0}], "drop of a phase is 2.0; give factors from 0 to 1"),
        ([{"clip": {"frames": 0}}], "clip.frames of a phase is 0"),
        ([{"clip": {"interval": 0.0}}], "clip.interval of a phase is 0.0"),
        ([{"clip": {"stride": 0}}], "clip.stride of a phase is 0"),
        ([{"clip": {"interval": 0.1, "stride": 1}}], "of a phase are both set"),
        ([{"frame": {"height": 0}}], "frame.height of a phase is 0; give 8 or more"),
        ([{"lr": -1.0}], "lr of a phase is -1.0"),
    ],
)
def test_phases_that_cannot_be_are_one_line(phases: list[Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        parsed(TrainRun, {"phases": phases})


# --- runs -------------------------------------------------------------------------------------------------------------


class Seen(TwoLosses):
    """Also notes the shape of the clips of each batch, and which parameters train."""

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []
        self.training: list[set[str]] = []

    def loss(self, trainee: nn.Module, batch: Any, place: Any) -> Loss:
        self.shapes.append(tuple(batch["clip"].shape))
        model = trainee.network
        assert isinstance(model, TwoHeads)
        names = {name.split(".")[0] for name, value in model.named_parameters() if value.requires_grad}
        self.training.append(names)
        return super().loss(trainee, batch, place)


def state_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


HEAD_FIRST = (phase(1, groups={"head": 1.0}), phase(1, lr=1e-4))
UNFREEZING = (phase(1, groups={"head": 1.0}), phase(1, groups={"head": 1.0, "stem": 0.1}), phase(1))
CURRICULUM = tuple(
    phase(1, clip=ClipConfig(frames=frames), frame=FrameConfig(side, side), drop=(0.0, 1.0))
    for frames, side in ((2, 8), (4, 16), (6, 24))
)
MULTIGRID = tuple(
    phase(1, clip=ClipConfig(frames=frames), frame=FrameConfig(side, side), batch_size=batch)
    for frames, side, batch in ((2, 8, 10), (4, 8, 5), (4, 16, 2)) * 2
)


def test_a_frozen_group_keeps_its_weights_and_its_statistics() -> None:
    model, objective = TwoHeads(), Seen()
    before = state_of(model)
    fit(model, plan(HEAD_FIRST[0], optim=OptimConfig(weight_decay=0.5)), objective, MemoryFeeds(Accelerator(cpu=True)))
    after = state_of(model)
    for name, value in before.items():
        assert torch.equal(value, after[name]) == name.startswith(("stem", "norm")), name
    assert objective.training == [{"head", "second"}] * 3
    assert all(value.requires_grad for value in model.parameters())  # as it was


def test_groups_are_unfrozen_one_after_another_at_their_own_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    rates: list[set[float]] = []
    real = loop.set_learning_rate

    def noted(optimizer: torch.optim.Optimizer, lr: float, number: int) -> None:
        real(optimizer, lr, number)
        rates.append({round(group["lr"] / lr, 6) for group in optimizer.param_groups})

    monkeypatch.setattr(loop, "set_learning_rate", noted)
    objective = Seen()
    fit(TwoHeads(), plan(*UNFREEZING), objective, MemoryFeeds(Accelerator(cpu=True)))
    everything = {"stem", "norm", "head", "second"}
    assert objective.training == [{"head", "second"}] * 3 + [everything] * 6
    assert rates == [{0.0, 1.0}] * 3 + [{0.1, 1.0}] * 3 + [{1.0}] * 3


@pytest.mark.parametrize(
    ("phases", "batches"), [(CURRICULUM, [4, 4, 2] * 3), (MULTIGRID, [10, 5, 5, 2, 2, 2, 2, 2] * 2)]
)
def test_clips_have_the_size_and_batches_of_their_phase(phases: tuple[Phase, ...], batches: list[int]) -> None:
    objective, model, feeds = Seen(), TwoHeads(), MemoryFeeds(Accelerator(cpu=True))
    done = fit(model, plan(*phases), objective, feeds)
    expected = [(part.clip.frames, part.frame.height, part.frame.width) for part in phases]
    assert (
        feeds.shapes == expected and [key for key, _ in itertools.groupby(s[2:] for s in objective.shapes)] == expected
    )
    assert [shape[0] for shape in objective.shapes] == batches
    assert [row["clips_seen"] for row in done.epochs] == [10 * (i + 1) for i in range(len(phases))]
    assert model.drop.p == 0.1  # as it was


@pytest.mark.parametrize(("phases", "every"), [(HEAD_FIRST, 1), (UNFREEZING, 2), (CURRICULUM, 3), (MULTIGRID[1:4], 4)])
def test_a_run_resumed_anywhere_in_any_phase_is_the_run_that_was_not_stopped(
    phases: tuple[Phase, ...], every: int
) -> None:
    def trained(keeper: Memory) -> dict[str, Tensor]:
        settings = plan(*phases, checkpoint_every=1)
        return fit(
            TwoHeads(), settings, TwoLosses(), MemoryFeeds(Accelerator(cpu=True)), keeper=keeper
        ).model.state_dict()

    whole = trained(Memory())
    for saves in itertools.count(1, every):
        stopped = Memory(saves)
        try:
            trained(stopped)
            break
        except InterruptedError:
            assert same(whole, trained(stopped)), saves
    assert saves > 8


def of_phases(rank: int, names: tuple[str, ...]) -> list[dict[str, Tensor]]:
    accelerator = Accelerator(cpu=True)
    found = []
    for phases in ((*HEAD_FIRST, phase(1, clip=ClipConfig(frames=6))), UNFREEZING):
        model = TwoHeads()
        model.drop.p = 0.0
        feeds = MemoryFeeds(accelerator, bad=(4,))
        found.append(fit(model, plan(*phases), TwoLosses(), feeds, accelerator=accelerator).model.state_dict())
    return found


def test_two_processes_go_through_phases_as_one_does(tmp_path: Path) -> None:
    alone = of_phases(0, ())
    for found in in_processes(of_phases, 2, tmp_path, ()):
        for ours, expected in zip(found, alone, strict=True):
            for name, value in expected.items():
                assert torch.allclose(ours[name], value, atol=1e-4), name


def test_groups_that_are_not_the_models_are_one_line() -> None:
    for groups, message in (
        ({"hed": 1.0}, r"phases\[0\].groups has 'hed' \(did you mean 'head'\?\); give some of stem, head, others"),
        ({"stem": 1.0}, r"phases\[0\].groups trains stem, which the model's settings freeze"),
    ):
        model = TwoHeads()
        for layer in (model.stem, model.norm):
            layer.requires_grad_(False)
        with pytest.raises(UserError, match=message):
            fit(model, plan(phase(1, groups=groups)), TwoLosses(), MemoryFeeds(Accelerator(cpu=True)))


# --- from a config file -----------------------------------------------------------------------------------------------

PHASES = """
phases:
- epochs: 1
  groups: {head: 1.0}
- epochs: 1
  clip: {frames: 2}
  frame: {height: 24, width: 24}
  batch_size: 8
  lr: 0.01
- groups: {others: 1.0, stem: 0.1}
  drop: [0.5, 1.0]
"""


def test_a_config_file_describes_a_run_of_phases_and_it_resumes(
    motion: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = plain(settings(motion, train={"epochs": 3})) | yaml.safe_load(PHASES)
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(config))
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert cli.main(["train", "--config", str(tmp_path / "run.yaml"), "--out", str(whole)]) == 0
    assert [row["epoch"] for row in lines(whole, "step")] == [0] * 5 + [1] * 3 + [2] * 5
    assert [row["clips_seen"] for row in lines(whole, "epoch")] == [24, 48, 72] and (whole / "report.html").exists()
    assert max(row["lr"] for row in lines(whole, "step")) == pytest.approx(0.01)
    plan = parsed(TrainRun, config)
    with monkeypatch.context() as patch:
        stop_after(patch, 6)
        with pytest.raises(Preempted, match="stopped in epoch 2, after step 6"):
            run(stopped, plan)
    with pytest.raises(UserError, match="phases was"):
        run(stopped, settings(motion, train={"epochs": 3}, phases=[{"epochs": 3}]), resume=True)
    assert cli.main(["train", "--resume", str(stopped)]) == 0
    for which in ("last", "best"):
        assert same(weights(whole, which), weights(stopped, which))


def test_phases_keep_the_outputs_of_a_frozen_stem_by_their_size(motion: Path, tmp_path: Path) -> None:
    frozen: dict[str, Any] = {
        "clip": {"train_start": "centre"},
        "augment": {"crop": "none"},
        "model": {"changes": {"stem": {"frozen": True}, "drop_path": 0.0, "head": {"dropout": 0.0}}},
        "phases": [{"epochs": 1, "clip": {"frames": 2}}, {"epochs": 1, "groups": {"head": 1.0}}],
    }
    cached = run(tmp_path / "cached", settings(motion, **frozen, data={"cache": str(tmp_path / "cache")}))
    assert len(list((tmp_path / "cache").glob("*.safetensors"))) == 2 * 24 + 8
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hybridvideo.tasks.train.can_be_kept", lambda *arguments: False)
        straight = run(tmp_path / "straight", settings(motion, **frozen))
    for name, value in weights(straight).items():
        assert torch.allclose(value, weights(cached)[name], atol=1e-5), name
    frozen["phases"][1]["groups"] = {"stem": 1.0}
    with pytest.raises(UserError, match="groups trains stem, which the model's settings freeze for the whole run"):
        run(tmp_path / "refused", settings(motion, **frozen))
    assert not (tmp_path / "refused").exists()


def test_a_size_that_the_model_does_not_take_is_refused_before_the_run(motion: Path, tmp_path: Path) -> None:
    plan = settings(motion, phases=[{"frame": {"height": 40, "width": 40}}])
    model = ModelConfig("videomae_small", changes={"dim": 16, "depth": 1, "heads": 2})
    whole = replace(plan, model=model, frame=FrameConfig(32, 32))
    with pytest.raises(UserError, match=r"phases\[0\]: clips of 4 frames of 40x40 do not fit videomae_small"):
        run(tmp_path / "run", whole)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"augment": {"repeats": 2}}, r"train.batch_size 5 is not a multiple of augment.repeats 2"),
        (
            {"augment": {"repeats": 2}, "train": {"batch_size": 4}, "phases": [{"epochs": 1}, {"batch_size": 3}]},
            r"phases\[1\].batch_size 3 is not a multiple of augment.repeats 2",
        ),
    ],
)
def test_batches_that_cannot_be_made_are_refused_before_the_run(
    changes: dict[str, Any], message: str, motion: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        run(tmp_path / "run", settings(motion, **changes))
    assert not (tmp_path / "run").exists()
