"""Each evaluation has a folder of its own, and one is never replaced by another."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hybridvideo import cli
from hybridvideo.config.evaluation import EvalConfig
from hybridvideo.data.manifest import read_manifest
from hybridvideo.engine.multiview import VideoResult
from hybridvideo.engine.scoring import row_of
from hybridvideo.files import locked
from hybridvideo.tasks.evaluate import say
from hybridvideo.weights.load_model import load_model
from tests.engine.training.runs import run, settings
from tests.report.examples import results_json


@pytest.fixture(scope="module")
def shared_run(motion: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(tmp_path_factory.mktemp("evaluate") / "run", settings(motion, train={"epochs": 1}))


@pytest.fixture
def trained(shared_run: Path, tmp_path: Path) -> Path:
    """The run, with no evaluation but its own."""
    (tmp_path / "run").symlink_to(shared_run)
    for folder in shared_run.glob("evaluation-*"):
        folder.rename(tmp_path / f"before-{folder.name}")
    return tmp_path / "run"


def evaluate(trained: Path, source: Path, *options: object) -> int:
    given = ("evaluate", trained, "--data.manifest", source, "--data.workers", 0, *options)
    return cli.main([str(argument) for argument in given])


def folders(trained: Path) -> dict[str, dict[str, Any]]:
    return {path.name: json.loads((path / "results.json").read_text()) for path in trained.glob("evaluation-*")}


def test_each_list_views_checkpoint_and_precision_has_a_folder_that_its_name_tells(trained: Path, motion: Path) -> None:
    for options in ([], ["--eval.clips", 3, "--eval.crops", 3], ["--checkpoint", "best"], ["--precision", "bf16"]):
        assert evaluate(trained, motion / "test", *options) == 0
    assert evaluate(trained, motion / "val") == 0
    assert set(folders(trained)) == {
        "evaluation-test-2x1", "evaluation-test-3x3", "evaluation-test-2x1-best", "evaluation-test-2x1-bf16",
        "evaluation-val-2x1",
    }  # fmt: skip
    assert (trained / "evaluation" / "results.json").is_file()


def test_what_the_name_does_not_tell_is_numbered_and_the_same_again_replaces_itself(
    trained: Path, motion: Path, tmp_path: Path
) -> None:
    lists = [write_list(tmp_path / name / "some.csv", motion / "test", order) for name, order in (("a", 1), ("b", -1))]
    calls = [(lists[0],), (lists[1],), (lists[0], "--eval.average", "logits")]
    for call in [*calls, *calls]:
        assert evaluate(trained, *call) == 0
    found = folders(trained)
    assert set(found) == {"evaluation-some-2x1", "evaluation-some-2x1-2", "evaluation-some-2x1-3"}
    assert [found[name]["list"] for name in sorted(found)] == [str(lists[0]), str(lists[1]), str(lists[0])]
    assert found["evaluation-some-2x1-3"]["protocol"]["average"] == "logits"
    lists[0].write_text(lists[0].read_text().replace(",up", ",down"))
    assert evaluate(trained, lists[0]) == 0
    assert len(folders(trained)) == 4


def write_list(file: Path, videos: Path, order: int) -> Path:
    """Both lists have the same name; the videos are in another order."""
    file.parent.mkdir()
    rows = sorted(f"{path},{path.parent.name}" for path in videos.rglob("*.*"))[::order]
    file.write_text("\n".join(["path,label", *rows]))
    return file


@pytest.mark.parametrize(
    ("options", "of_another"),
    [
        (["--eval.clips", 1], "protocol"), (["--eval.average", "logits"], "protocol"),
        (["--precision", "bf16"], "protocol"), (["--data.manifest", "val"], "list"), (["--checkpoint", "best"], ""),
    ],
)  # fmt: skip
def test_a_folder_that_is_named_is_never_given_to_another_evaluation(
    options: list[object], of_another: str, trained: Path, motion: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    out = tmp_path / "out"
    assert evaluate(trained, motion / "test", "--out", out) == 0
    before = (out / "results.json").read_bytes()
    more = [motion / "val" if option == "val" else option for option in options]
    code = evaluate(trained, motion / "test", "--out", out, *more)
    if not of_another:  # after one epoch, best and last are the same weights
        assert code == 0
        return
    error = capsys.readouterr().err
    assert code == 2 and f"holds the evaluation of another {of_another}; give another --out" in error
    assert (out / "results.json").read_bytes() == before and not list(out.glob(".lock"))


def test_of_another_program_s_results_nothing_is_overwritten(trained: Path, motion: Path, tmp_path: Path) -> None:
    for text in ("{", "[]", '{"top1": 1}'):
        (tmp_path / "results.json").write_text(text)
        assert evaluate(trained, motion / "test", "--out", tmp_path) == 2
        assert (tmp_path / "results.json").read_text() == text


def test_two_at_once_have_two_folders_or_the_second_is_reported(
    trained: Path, motion: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with locked(trained / "evaluation-test-2x1" / ".lock", "evaluate"):
        assert evaluate(trained, motion / "test") == 0
    assert (trained / "evaluation-test-2x1-2" / "results.json").is_file()
    with locked(tmp_path / "out" / ".lock", "evaluate"):
        assert evaluate(trained, motion / "test", "--out", tmp_path / "out") == 2
    assert "is using it; give another --out" in capsys.readouterr().err


@pytest.mark.parametrize(("classes", "told"), [(2, False), (5, False), (6, True)])
def test_top_5_is_reported_of_more_than_five_classes_only(
    classes: int, told: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    say(results_json(list("abcdef")[:classes], np.eye(classes, dtype=int)), EvalConfig(), Path("x/report.html"))
    said = capsys.readouterr().out
    assert ("top-5" in said) == told and "top-1" in said


def test_of_no_readable_video_no_accuracy_is_reported(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.mp4").write_text("no video")
    (tmp_path / "list.csv").write_text("path,label\nbad.mp4,left\n")
    assert evaluate(trained, tmp_path / "list.csv") == 0
    said = capsys.readouterr().out
    assert "1 videos, 1 unreadable" in said and "top-1" not in said
    assert "None of 1 videos could be read" in (trained / "evaluation-list-2x1" / "report.html").read_text()


def test_a_video_without_finite_scores_was_named_nothing(trained: Path, motion: Path) -> None:
    model, manifest = load_model(trained), read_manifest(motion / "val")
    outputs_VK = torch.tensor([[float("nan")] * len(manifest.labels)])
    row = row_of(VideoResult(0, 0, "ok", "", outputs_VK, (0.0,), (1.0,)), manifest, model, EvalConfig())
    assert row["predicted"] is None and row["predicted_name"] is None and len(row["scores"]) == len(manifest.labels)
