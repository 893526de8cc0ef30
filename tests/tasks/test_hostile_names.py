"""Names of files and classes are shown by every command and page, and never obeyed; tables keep them as they are."""

from __future__ import annotations

import csv
import json
import shutil
import unicodedata
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from transformers import VideoMAEConfig, VideoMAEForVideoClassification

from hybridvideo import cli
from hybridvideo.engine.progress import progress
from hybridvideo.text import HIDDEN
from tests.engine.training.runs import run, settings
from tests.report.examples import Page

ACTS = "\x1b]0;owned\x07\x1b[2J\x9b31m\nINJECTED\r\u202e\u200b\u2028<script>alert(1)<img src=x>[red]&amp;'\":boom:"
FILE, CLASS = f"file{ACTS}", f"class{ACTS}"


@pytest.fixture(scope="module")
def corpus(motion: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders and files of hostile names; one file is no video."""
    folder = tmp_path_factory.mktemp("hostile") / f"corpus{ACTS}"
    videos = sorted((motion / "test").rglob("*.*"))
    for number, video in enumerate(videos):
        target = folder / f"{CLASS}{number % 2}" / f"{FILE}{number}{video.suffix}"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(video, target)
    (folder / f"{CLASS}0" / f"{FILE}.mp4").write_text("no video")
    return folder


@pytest.fixture(scope="module")
def trained(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    changes = {"data": {"train": str(corpus), "val": str(corpus), "max_bad": 1.0}, "train": {"epochs": 1}}
    return run(tmp_path_factory.mktemp("hostile") / "run", settings(corpus, **changes))


def call(*arguments: object) -> int:
    return cli.main([str(argument) for argument in arguments])


def acting(text: str) -> set[str]:
    """The characters of a text that do something, other than its own ends of line."""
    return {character for character in text if unicodedata.category(character) in HIDDEN} - {"\n"}


def check_terminal(capfd: pytest.CaptureFixture[str]) -> str:
    """What was printed; it must act in no way."""
    said = "".join(capfd.readouterr())
    assert not acting(said) and "\nINJECTED" not in said, said
    return said


def check_page(page: Path) -> None:
    document = page.read_text(encoding="utf-8")
    assert not acting(document) and "\nINJECTED" not in document
    seen = Page(document)
    assert "script" not in {tag for tag, _ in seen.tags}
    assert not [a for tag, a in seen.tags if tag == "img" and not (a["src"] or "").startswith("data:image/")]
    assert r"\x1b]0;owned\x07\x1b[2J\x9b31m\nINJECTED" in seen.words and "<script>alert(1)<img src=x>" in seen.words


def test_training_and_its_page(trained: Path, corpus: Path, capfd: pytest.CaptureFixture[str]) -> None:
    check_page(trained / "report.html")
    labels = json.loads((trained / "evaluation" / "results.json").read_text())["labels"]
    assert labels == [f"{CLASS}0", f"{CLASS}1"]
    (corpus / f"{CLASS}0" / f"again{ACTS}.mp4").symlink_to(corpus / f"nowhere{ACTS}.mp4")
    try:
        out = f"{trained.parent}/other{ACTS}"
        call("train", "--data.train", corpus, "--data.max_bad", 0, "--out", out, "--train.trackers", "[]")
    finally:
        (corpus / f"{CLASS}0" / f"again{ACTS}.mp4").unlink()
    assert r"\x1b]0;owned\x07" in check_terminal(capfd)


def test_evaluate(trained: Path, corpus: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / f"out{ACTS}"
    assert call("evaluate", trained, "--data.manifest", corpus, "--data.workers", 0, "--out", out) == 0
    assert r"unreadable: class\x1b]0;owned\x07" in check_terminal(capfd)
    check_page(out / "report.html")
    rows = pq.read_table(out / "scores.parquet").to_pylist()
    assert {row["label_name"] for row in rows} == {f"{CLASS}0", f"{CLASS}1"}


@pytest.mark.parametrize("command", ["predict", "extract"])
def test_bulk_jobs(
    command: str, trained: Path, corpus: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / f"out{ACTS}.csv"
    assert call(command, trained, corpus, "--workers", 0, "--out", out) == 0
    assert r"\x1b]0;owned\x07" in check_terminal(capfd).replace("\n", "")
    check_page(out.with_suffix(".report.html"))
    with out.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert f"{CLASS}0/{FILE}.mp4" in {row["path"] for row in rows}
    assert command == "extract" or {row["label"] for row in rows} <= {f"{CLASS}0", f"{CLASS}1", ""}


def test_scan(corpus: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / f"out{ACTS}.parquet"
    assert call("scan", corpus, "--labelled", "--workers", 0, "--out", out) == 0
    assert r"\x1b]0;owned\x07" in check_terminal(capfd)
    check_page(out.with_suffix(".report.html"))
    assert f"{CLASS}0" in {row["label"] for row in pq.read_table(out).to_pylist()}


def test_prepare(corpus: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert call("prepare", corpus, "--workers", 0, "--out", tmp_path / f"copies{ACTS}") == 0
    assert r"\x1b]0;owned\x07" in check_terminal(capfd)


def test_convert_and_weights_of_others(tmp_path: Path, corpus: Path, capfd: pytest.CaptureFixture[str]) -> None:
    config = VideoMAEConfig(
        image_size=32, patch_size=16, num_frames=4, hidden_size=16, num_hidden_layers=1, num_attention_heads=4,
        intermediate_size=32, use_mean_pooling=True, id2label={0: f"{CLASS}0", 1: f"{CLASS}1", 2: "c"},
    )  # fmt: skip
    folder = tmp_path / f"weights{ACTS}"
    VideoMAEForVideoClassification(config).save_pretrained(folder)
    capfd.readouterr()  # of transformers
    assert call("convert", folder, tmp_path / f"converted{ACTS}") == 0
    assert r"class\x1b]0;owned\x07" in check_terminal(capfd)
    few = ("--eval.clips", 1, "--eval.crops", 1, "--workers", 0)
    assert call("predict", folder, corpus, "--out", tmp_path / "p.parquet", *few) == 0
    check_terminal(capfd)


def test_doctor_in_a_folder_of_such_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / f"here{ACTS}").mkdir()
    monkeypatch.chdir(tmp_path / f"here{ACTS}")
    monkeypatch.setenv("COLUMNS", "1000")
    monkeypatch.setattr("hybridvideo.tasks.doctor.CHECKS", tuple(_checks("disk", "writing")))
    call("doctor")
    assert "owned" in check_terminal(capfd)


def _checks(*names: str) -> Any:
    from hybridvideo.tasks import doctor

    return (getattr(doctor, name) for name in names)


@pytest.mark.parametrize(
    "arguments",
    [
        (ACTS,), ("models", ACTS), ("scan", ACTS), ("predict", ACTS, ACTS), ("evaluate", ACTS),
        ("convert", ACTS, "out"), ("train", "--config", ACTS), ("train", f"--{ACTS}", "1"),
        ("train", "--optim.lr", ACTS), ("bench", "loader", ACTS), ("prepare", ACTS, "--out", "out"),
        ("extract", ACTS, ACTS, f"--{ACTS}"),
    ],
    ids=lambda arguments: arguments[0] if arguments[0] != ACTS else "command",
)  # fmt: skip
def test_an_error_is_one_line_that_acts_in_no_way(
    arguments: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert call(*arguments) == 2
    said = check_terminal(capfd)
    assert said.startswith("error: ") and said.count("\n") == 1 and "owned" in said


def test_notes_of_progress_neither_act_nor_style(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("hybridvideo.engine.progress.SECONDS_BETWEEN_LINES", -1.0)
    with progress(f"label{ACTS}", 2) as advance:
        advance(1, f"note{ACTS}")
    said = check_terminal(capfd)
    assert said.count("\n") == 1 and "[red]" in said
