"""A run's folder is one run's: one process at a time, and gone on with only as the run that it is."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from hybridvideo import cli
from hybridvideo.config.training import TrainRun
from hybridvideo.errors import EnvironmentFault, HybridVideoError, UserError
from hybridvideo.files import locked
from hybridvideo.tasks.support.run_folder import new_run_folder, write_run_config
from hybridvideo.tasks.train import naming_full_disk, naming_lost_process
from tests.engine.training.runs import run, settings
from tests.engine.training.test_loop import lines

Rows = list[list[str]]


@pytest.fixture
def listed(motion: Path, tmp_path: Path) -> Path:
    """A CSV of the training videos with a group each, for tests that change it."""
    rows = [
        [str(file), file.parent.name, f"g{i % 3}"] for i, file in enumerate(sorted((motion / "train").rglob("*.*")))
    ]
    write(tmp_path / "list.csv", rows)
    return tmp_path / "list.csv"


def write(path: Path, rows: Rows) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["path", "label", "group"], *rows])


def read(path: Path) -> Rows:
    with path.open(newline="") as file:
        return list(csv.reader(file))[1:]


def plan(motion: Path, listing: Path, epochs: int = 1) -> TrainRun:
    return settings(motion, data={"train": str(listing), "val": ""}, train={"epochs": epochs})


def renamed(rows: Rows) -> Rows:
    return [[path, "leap" if label == "left" else label, group] for path, label, group in rows]


def relabelled(rows: Rows) -> Rows:
    return [[path, "right" if i == 3 else label, group] for i, (path, label, group) in enumerate(rows)]


def regrouped(rows: Rows) -> Rows:
    return [[path, label, "g9" if i == 0 else group] for i, (path, label, group) in enumerate(rows)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (renamed, r"class 4 was 'left' and is 'leap'"),
        (
            relabelled,
            r"1 rows differ, first: row 4 was .*\(label approach, group g0\) and is .*\(label right, group g0\)",
        ),
        (regrouped, r"1 rows differ, first: row 1 was .*group g0\) and is .*group g9\)"),
        (lambda rows: rows[::-1], r"24 rows are in another order, first: row 1 was "),
        (lambda rows: rows[:20] + rows[21:], r"it had 24 rows and has 23, first difference in row 21"),
        (lambda rows: [*rows, rows[0]], r"it had 24 rows and has 25, first difference in row 25"),
        (lambda rows: rows[:-3], r"it had 8 classes and has 7"),
    ],
)
def test_a_list_that_is_not_as_it_was_is_refused(
    motion: Path, tmp_path: Path, listed: Path, change: Callable[[Rows], Rows], message: str
) -> None:
    folder = run(tmp_path / "run", plan(motion, listed))
    rows = read(listed)
    write(listed, change(rows))
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match=message) as error:
        run(folder, plan(motion, listed, 2), resume=True)
    assert "\n" not in str(error.value) and "cannot resume" in str(error.value)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    write(listed, rows)
    run(folder, plan(motion, listed, 2), resume=True)


def test_a_validation_list_that_is_not_as_it_was_is_refused(motion: Path, tmp_path: Path) -> None:
    val = tmp_path / "val.csv"
    write(val, [[str(file), file.parent.name, ""] for file in sorted((motion / "val").rglob("*.*"))])
    folder = run(tmp_path / "run", settings(motion, data={"val": str(val)}, train={"epochs": 1}))
    write(val, read(val)[1:])
    with pytest.raises(UserError, match=r"val.csv is not as it was: it had 8 rows and has 7"):
        run(folder, settings(motion, data={"val": str(val)}, train={"epochs": 2}), resume=True)


def test_fewer_epochs_than_were_run_are_refused(motion: Path, tmp_path: Path) -> None:
    folder = run(tmp_path / "run", settings(motion, train={"epochs": 3}))
    text = (folder / "config.yaml").read_text()
    with pytest.raises(UserError, match=r"in epoch 3 already, and train.epochs is 2; give --train.epochs 3 or more"):
        run(folder, settings(motion, train={"epochs": 2}), resume=True)
    assert (folder / "config.yaml").read_text() == text
    run(folder, settings(motion, train={"epochs": 3}), resume=True)
    assert [row["epoch"] for row in lines(folder, "epoch")] == [0, 1, 2] and len(lines(folder, "end")) == 1


def test_a_run_folder_is_one_processs_at_a_time(motion: Path, tmp_path: Path) -> None:
    folder = run(tmp_path / "run", settings(motion, train={"epochs": 1}))
    assert not (folder / ".lock").exists()
    for resume, there in ((True, folder), (False, tmp_path / "new")):
        with (
            locked(there / ".lock", "train"),
            pytest.raises(UserError, match=r"train, process \d+ on .* is using"),
        ):
            run(there, settings(motion, train={"epochs": 2}), resume=resume)
    assert yaml.safe_load((folder / "config.yaml").read_text())["train"]["epochs"] == 1


def test_resuming_needs_only_the_run_folder(
    motion: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = run(tmp_path / "run", settings(motion, seed=3, train={"epochs": 1}))
    monkeypatch.chdir(tmp_path)
    assert cli.main(["train", "--resume", "run", "--train.epochs", "2"]) == 0
    assert cli.main(["train", "--train.epochs=3", f"--resume={folder}"]) == 0
    assert [row["epoch"] for row in lines(folder, "epoch")] == [0, 1, 2]
    assert yaml.safe_load((folder / "config.yaml").read_text())["train"]["epochs"] == 3
    for arguments, message in (
        (["--resume", "run", "--optim.lr", "0.5"], "optim.lr was 0.001 and is now 0.5"),
        (["--resume", "nowhere"], "nothing to resume in nowhere"),
        (["--resume", "run", "--config", "run/config.yaml"], "leave --config out"),
        (["--resume", "run", "--out", "other"], "give one of them"),
        (["--resume", "run", "--train.epochs", "1"], "it is in epoch 3 already, and train.epochs is 1"),
    ):
        assert cli.main(["train", *arguments]) == 2
        errors = capsys.readouterr().err
        assert message in errors and "Traceback" not in errors


def test_the_spacing_of_frames_that_was_used_is_reported_and_kept(
    motion: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = settings(motion, clip={"interval": None}, train={"epochs": 1})
    folder = run(tmp_path / "run", plan)
    assert "clips of 4 frames, every frame (stride 1)" in capsys.readouterr().err
    assert yaml.safe_load((folder / "config.yaml").read_text())["clip"]["stride"] == 1
    run(folder, plan, resume=True)
    run(tmp_path / "third", settings(motion, clip={"interval": None, "stride": 3}, train={"epochs": 1}))
    run(tmp_path / "timed", settings(motion, train={"epochs": 1}))
    said = capsys.readouterr().err
    assert "clips of 4 frames, one frame in 3 (stride 3)" in said and "clips of 4 frames, 0.1 s apart" in said


def test_a_tracker_or_a_precision_that_is_not_to_be_had_is_one_line(motion: Path, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"train.trackers\[0\] is 'tensorbord' \(did you mean 'tensorboard'\?\); give one of all, aim"
    ):
        run(tmp_path / "run", settings(motion, train={"trackers": ["tensorbord"]}))
    with pytest.raises(EnvironmentFault, match="comet_ml is not installed; install it or use"):
        run(tmp_path / "run", settings(motion, train={"trackers": ["comet_ml"]}))
    assert not (tmp_path / "run").exists()


def test_runs_that_start_at_once_get_folders_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert [str(new_run_folder(None, "x")) for _ in range(3)] == ["runs/x", "runs/x-2", "runs/x-3"]


@pytest.mark.parametrize(("before", "after"), [("lr: 0.001", "lr: 0.01"), ("batch_size: 5", "batch_size: 3")])
def test_a_config_that_was_edited_is_another_run(
    motion: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], before: str, after: str
) -> None:
    folder = run(tmp_path / "run", settings(motion, data={"val": ""}, train={"epochs": 1}))
    config = folder / "config.yaml"
    text = config.read_text().replace("\n  epochs: 1\n", "\n  epochs: 2\n")
    assert f" {before}\n" in text
    config.write_text(text.replace(f" {before}\n", f" {after}\n"))
    assert cli.main(["train", "--resume", str(folder)]) == 2
    was, now = before.split(": ")[1], after.split(": ")[1]
    assert f"{before.split(':')[0]} was {was} and is now {now}" in capsys.readouterr().err
    config.write_text(text)
    assert cli.main(["train", "--resume", str(folder)]) == 0
    assert len(lines(folder, "epoch")) == 2  # which may be edited


def test_a_run_of_relative_paths_is_resumed_from_any_folder(
    motion: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").symlink_to(motion)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    run(Path("run"), settings(motion, data={"train": "here/train", "val": "here/val"}, train={"epochs": 1}))
    for epochs, folder in enumerate(("elsewhere", ".", "run"), 2):
        monkeypatch.chdir(tmp_path / folder)
        assert cli.main(["train", "--resume", os.path.relpath(tmp_path / "run"), "--train.epochs", str(epochs)]) == 0
    assert len(lines(tmp_path / "run", "epoch")) == 4


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.pt"])
def test_a_damaged_file_of_the_checkpoint_is_named(motion: Path, tmp_path: Path, name: str) -> None:
    folder = run(tmp_path / "run", settings(motion, data={"val": ""}, train={"epochs": 1}))
    file = folder / "checkpoints" / "last" / name
    for damage in (lambda: file.write_bytes(file.read_bytes()[:999]), lambda: file.write_bytes(b""), file.unlink):
        damage()
        with pytest.raises(UserError, match=rf"{name} is damaged \(\w.*\); restore it, or start a new run"):
            run(folder, settings(motion, data={"val": ""}, train={"epochs": 2}), resume=True)


@pytest.mark.parametrize("change", [{"epoch": -1}, {"batch": 99}])
def test_a_state_that_cannot_be_is_one_line(motion: Path, tmp_path: Path, change: dict[str, int]) -> None:
    folder = run(tmp_path / "run", settings(motion, data={"val": ""}, train={"epochs": 1}))
    state = folder / "checkpoints" / "last" / "state.json"
    state.write_text(json.dumps(json.loads(state.read_text()) | change))
    with pytest.raises(UserError, match=r"cannot resume from .*restore it"):
        run(folder, settings(motion, data={"val": ""}, train={"epochs": 3}), resume=True)


def test_a_full_disk_under_a_run_says_how_it_continues(tmp_path: Path) -> None:
    full = OSError(28, "No space left on device", "x")
    with pytest.raises(EnvironmentFault, match=r"then give the same command again$"), naming_full_disk(tmp_path):
        raise full
    write_run_config(tmp_path, TrainRun())
    with pytest.raises(EnvironmentFault, match=rf"then continue with --resume {tmp_path}$"), naming_full_disk(tmp_path):
        raise full


def test_the_loss_of_another_process_is_one_line() -> None:
    with pytest.raises(HybridVideoError, match="another process of this training has ended"), naming_lost_process():
        raise RuntimeError("[gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:8080")
    with pytest.raises(RuntimeError, match="shape"), naming_lost_process():
        raise RuntimeError("shape")


def test_a_list_of_one_class_is_reported_before_what_the_other_list_lacks(motion: Path, tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "left").symlink_to(motion / "train" / "left")
    with pytest.raises(UserError, match=r"has one class \(left\)"):
        run(tmp_path / "run", settings(motion, data={"train": str(tmp_path / "one")}))
