"""The examples run as they stand: without a guard, each thing once."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

import hybridvideo as hv
from hybridvideo.config.data import ClipConfig, FrameConfig, Preprocessing
from hybridvideo.config.evaluation import EvalConfig
from hybridvideo.models.card import ModelCard, write_checkpoint
from tests.engine.training.runs import TINY_MODEL

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"


@pytest.fixture(scope="module")
def checkpoint(motion: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    labels = tuple(sorted(path.name for path in (motion / "test").iterdir()))
    model = hv.create_model(TINY_MODEL["name"], len(labels), **TINY_MODEL["changes"], num_frames=4, image_size=16)  # type: ignore[call-overload, arg-type]
    preprocessing = Preprocessing(ClipConfig(4, stride=2), FrameConfig(16, 16), model.normalisation)
    card = ModelCard(TINY_MODEL["name"], labels, model.settings(), preprocessing, EvalConfig(clips=2))  # type: ignore[arg-type]
    write_checkpoint(folder, model.state_dict(), card)
    return folder


def said(name: str, *arguments: object, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    """What an example prints."""
    monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    return capsys.readouterr().out


def test_a_script_without_a_guard_classifies_each_video_once(checkpoint: Path, motion: Path) -> None:
    command = [sys.executable, EXAMPLES / "classify_folder.py", checkpoint, motion / "test"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, text=True, capture_output=True)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    files = sorted(str(path.relative_to(motion / "test")) for path in (motion / "test").rglob("*.*"))
    assert [line.partition(":")[0] for line in done.stdout.splitlines()] == files


def test_neighbours_begin_with_the_video_itself(
    checkpoint: Path, motion: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    video = sorted((motion / "test").rglob("*.*"))[3].relative_to(motion / "test")
    arguments = (checkpoint, motion / "test", video)
    lines = said("nearest_neighbours.py", *arguments, monkeypatch=monkeypatch, capsys=capsys).splitlines()
    assert len(lines) == 5 and lines[0].startswith("1.000 ")
    assert any(line.endswith(str(video)) for line in lines if line.startswith("1.000"))


def test_a_video_that_is_not_below_the_folder_is_an_error_in_one_line(checkpoint: Path, motion: Path) -> None:
    video = next((motion / "test").rglob("*.*"))  # as a shell completes it, not as the table has it
    command = [sys.executable, EXAMPLES / "nearest_neighbours.py", checkpoint, motion / "test", video]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, text=True, capture_output=True)
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "give its path below" in done.stderr


def test_a_loop_of_ones_own_trains(
    motion: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    lines = said("own_training_loop.py", motion / "train", 2, monkeypatch=monkeypatch, capsys=capsys).splitlines()
    assert len(lines) == 2 and all("over 24 clips" in line for line in lines)
    classes = tuple(sorted(path.name for path in (motion / "train").iterdir()))
    assert hv.load_model(tmp_path / "own_model").labels == classes


def test_an_objective_of_your_own_trains(
    motion: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = said("own_objective.py", motion / "train", 2, monkeypatch=monkeypatch, capsys=capsys).splitlines()
    assert len(lines) == 2
    for epoch, line in enumerate(lines):
        assert re.fullmatch(rf"epoch {epoch}: loss \d\.\d{{3}}, forwards or backwards [01]\.\d{{3}}", line), line


def test_examples_are_short_and_have_no_guard() -> None:
    examples = sorted(EXAMPLES.glob("*.py"))
    assert len(examples) == 4
    for example in examples:
        assert example.read_text().count("\n") < 70 and "__main__" not in example.read_text()
