"""The command line: what is offered, and one line for what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from hybridvideo import cli
from hybridvideo.commands.options import Command
from hybridvideo.config.training import TrainRun
from hybridvideo.errors import Preempted


def fails(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 2) -> str:
    """The one line a wrong call gives."""
    assert cli.main(list(arguments)) == code
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1, error
    return error


def test_the_commands_are_these() -> None:
    assert list(cli.COMMANDS) == [
        "demo", "doctor", "models", "scan", "prepare", "train", "convert", "evaluate", "predict", "extract", "bench",
    ]  # fmt: skip


@pytest.mark.parametrize("name", list(cli.COMMANDS))
def test_every_command_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        cli.main([name, "--help"])
    assert left.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith(f"usage: hybridvideo {name}") and "  -h, --help" in text


def test_a_config_file_is_read_and_options_come_on_top(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("optim: {lr: 1e-4}\nclip: {frames: 33, interval: 0.0625}\nmodel: {changes: {stages: []}}\n")
    options = cli.parse("train", ["--config", str(file), "--optim.weight-decay", "0.1", "--train.epochs=3", "--resume"])
    run = options["run"]
    assert isinstance(run, TrainRun) and options["resume"] == "" and options["name"] == "mine"
    assert run.optim.lr == 1e-4 and run.optim.weight_decay == 0.1 and run.train.epochs == 3
    assert run.clip.frames == 33 and run.model.changes == {"stages": []}


def test_settings_of_the_model_can_be_changed_one_by_one(tmp_path: Path) -> None:
    run = cli.parse("train", ["--model.changes.drop_path", "0.1"])["run"]
    assert run.model.changes == {"drop_path": 0.1}


def test_unknown_names_are_answered_with_the_nearest(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("optim: {lrr: 1}\n")
    assert "did you mean 'train'?" in fails(capsys, "trian")
    assert "did you mean '--model.name'?" in fails(capsys, "train", "--modl.name", "x")
    assert "a.yaml: unknown setting optim.lrr (did you mean 'lr'?)" in fails(capsys, "train", "--config", str(file))
    assert "did you mean 'hybrid_base'" in fails(
        capsys, "train", "--data.train", str(videos(tmp_path)), "--model.name", "hybrid_bas",
        "--out", str(tmp_path / "r"), "--train.trackers", "[]",
    )  # fmt: skip


def videos(folder: Path) -> Path:
    """Class folders with files in them; nothing opens them in these tests."""
    for name in ("a", "b"):
        (folder / "videos" / name).mkdir(parents=True, exist_ok=True)
        (folder / "videos" / name / "1.mp4").write_bytes(b"0")
    return folder / "videos"


def test_wrong_values_are_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    empty, textual = tmp_path / "empty", tmp_path / "textual"
    empty.mkdir()
    textual.mkdir()
    (textual / "note.txt").write_text("no video")
    listing = tmp_path / "list.txt"
    listing.write_text("a.mp4 0\nb.mp4\n")
    broken = tmp_path / "broken.yaml"
    broken.write_text("optim: [")
    for arguments, message in [
        (["train"], "no training list"),
        (["train", "--config", "nope.yaml"], "no config file 'nope.yaml'"),
        (["train", "--config", str(broken)], "is not YAML"),
        (["train", "--optim.lr", "fast"], "optim.lr"),
        (["train", "--train.epochs", "0"], "train.epochs is 0; give 1 or more"),
        (["train", "--clip.interval", "0.1", "--clip.stride", "2"], "both set"),
        (["train", "--data.train", str(tmp_path / "none")], "none"),
        (["train", "--data.train", str(empty)], "empty"),
        (["train", "--data.train", str(textual)], "textual"),
        (["train", "--data.train", str(listing)], "list.txt"),
        (["evaluate", str(tmp_path / "norun")], "no folder"),
        (["predict", str(empty), str(textual)], "no complete checkpoint"),
        (["models", "resnet*"], "no model matches"),
    ]:
        assert message in fails(capsys, *arguments), arguments


def test_an_unexpected_error_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> int:
        raise RuntimeError("a fault of ours")

    monkeypatch.setitem(cli.COMMANDS, "doctor", Command(broken))
    with pytest.raises(RuntimeError, match="a fault of ours"):
        cli.main(["doctor"])


def test_ctrl_c_is_not_a_traceback(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted() -> int:
        raise KeyboardInterrupt

    monkeypatch.setitem(cli.COMMANDS, "doctor", Command(interrupted))
    assert cli.main(["doctor"]) == 130
    assert capsys.readouterr().err == "\nstopped\n"


def test_a_job_that_was_stopped_and_saved_is_not_an_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped() -> int:
        raise Preempted("stopped at epoch 3; saved; continue with --resume")

    monkeypatch.setitem(cli.COMMANDS, "doctor", Command(stopped))
    assert cli.main(["doctor"]) == 75
    assert capsys.readouterr().err == "stopped at epoch 3; saved; continue with --resume\n"
