"""The test of sight: what its table says is what was measured."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

from hybridvideo.data.synthetic.noise import SHAPES
from hybridvideo.models import create_model

SPEC = importlib.util.spec_from_file_location("see_motion", Path(__file__).parents[2] / "tools" / "see_motion.py")
assert SPEC is not None and SPEC.loader is not None
tool = importlib.util.module_from_spec(SPEC)
sys.modules["see_motion"] = tool  # dataclasses look their module up
SPEC.loader.exec_module(tool)


def test_batches_have_every_class_and_splits_differ() -> None:
    trial = tool.Trial(side=24, frames=2)
    x, classes = tool.batch_of(trial, "train", 0, 12)
    assert x.shape == (12, 3, 2, 24, 24) and classes.bincount().tolist() == [2] * len(SHAPES)
    assert abs(x.mean()) < 0.05 and 0.5 < x.std() < 1
    assert not torch.equal(x, tool.batch_of(trial, "test", 0, 12)[0])


class Knowing(torch.nn.Module):
    """Names the clips in the order in which they come, `wrong` of every six wrongly."""

    def __init__(self, wrong: int) -> None:
        super().__init__()
        self.wrong = wrong

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        said = torch.arange(len(x)) % 6
        said[said < self.wrong] += 1
        return torch.nn.functional.one_hot(said, 6).float()


@pytest.mark.parametrize("wrong", [0, 2, 5])
def test_accuracy_counts_all_tested_clips(wrong: int) -> None:
    trial = tool.Trial(side=12, frames=2, batch=12, tested=30)
    assert tool.accuracy(Knowing(wrong), trial) == pytest.approx(1 - wrong / 6)


def test_training_lowers_the_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    trial = tool.Trial(clips=12 * 40, side=24, frames=2, batch=12, lr=3e-3)
    torch.manual_seed(0)
    model = create_model("hybrid", 6, stem={"widths": [8, 16]}, input={"mode": "correlation"}, frames=2)
    trial_of_few = tool.Trial(side=24, frames=2, batch=12, tested=12)
    x, classes = tool.batch_of(trial, "train", 0, 12)
    loss = lambda: float(torch.nn.functional.cross_entropy(model.eval()(x), classes).detach())  # noqa: E731
    before = loss()
    monkeypatch.setattr(tool, "batch_of", lambda *_arguments: (x, classes))
    tool.train(model, trial)
    assert loss() < 0.7 * before and tool.accuracy(model, trial_of_few) > 0.5


def test_the_table_has_a_line_for_the_model_and_its_control(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = {"clips": 24, "batch": 12, "tested": 12, "side": 16, "frames": 2}
    arguments = ["see_motion.py", "hybrid_micro", *(f"--{name}={value}" for name, value in sizes.items())]
    monkeypatch.setattr(sys, "argv", arguments)
    monkeypatch.setattr(torch, "set_num_threads", lambda _count: None)  # of the other tests too
    tool.main()
    head, model, control = capsys.readouterr().out.splitlines()
    assert "accuracy" in head and model.startswith("hybrid_micro ") and control.startswith("hybrid_micro, time: false")
    assert model.split()[2:4] == ["0.167", "24"]


def test_scenes_have_every_class_and_a_split_has_scenes_of_its_own() -> None:
    trial = tool.Trial(of="scenes", side=24, frames=4)
    x, classes = tool.batch_of(trial, "train", 0, 16)
    assert x.shape == (16, 3, 4, 24, 24) and classes.bincount().tolist() == [2] * 8
    assert tool.num_classes(trial) == 8 and 0.3 < x.std() < 2
    assert (x[:, :, 0] - x[:, :, -1]).abs().mean() > 0.1  # something moves
    assert not torch.equal(x, tool.batch_of(trial, "test", 0, 16)[0])
