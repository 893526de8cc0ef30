"""The commands on real files, good and bad, from a trained run."""

from __future__ import annotations

import csv
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import hybridvideo as hv
from hybridvideo import cli
from hybridvideo.config.evaluation import EvalConfig
from hybridvideo.data.manifest import read_manifest
from hybridvideo.engine.preemption import StopRequest
from hybridvideo.engine.scoring import score_list
from hybridvideo.tasks.support.work import BulkWork
from tests.engine.training.runs import run, settings
from tests.videos import write_video


@pytest.fixture(scope="module")
def trained(motion: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(tmp_path_factory.mktemp("trained") / "run", settings(motion, train={"epochs": 1}))


@pytest.fixture
def mixed(motion: Path, tmp_path: Path) -> Path:
    """Good videos, one with a difficult name, among files that are none."""
    folder = tmp_path / "mixed"
    (folder / "deeper").mkdir(parents=True)
    good = sorted((motion / "test").rglob("*.*"))
    shutil.copy(good[0], folder / f"good{good[0].suffix}")
    shutil.copy(good[1], folder / "deeper" / f"ein Clip, (größer) 'x' – 動画{good[1].suffix}")
    (folder / "empty.mp4").touch()
    (folder / "text.mp4").write_text("this is no video")
    (folder / "cut.mp4").write_bytes(good[0].read_bytes()[: good[0].stat().st_size // 3])
    return folder


def call(*arguments: object) -> int:
    return cli.main([str(argument) for argument in arguments])


def rows_of(path: Path) -> list[dict[str, Any]]:
    return pq.read_table(path).to_pylist()


@pytest.mark.parametrize("option", [("--workers", -1), ("--top_k", 0), ("--max_bad", 5), ("--deadline", 0)])
def test_a_number_that_cannot_be_is_reported_in_one_line(
    trained: Path, mixed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], option: tuple[str, float]
) -> None:
    assert call("predict", trained, mixed, "--out", tmp_path / "out.csv", *option) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("error: ") and "; give " in said


def test_every_input_is_a_row_with_its_class_or_its_reason(trained: Path, mixed: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    assert call("predict", trained, mixed, "--out", out, "--top_k", 3) == 0
    rows = {Path(row["path"]).name.partition(".")[0]: row for row in rows_of(out)}
    assert len(rows) == 5
    for name in ("good", "ein Clip, (größer) 'x' – 動画"):
        row = rows[name]
        assert row["status"] == "ok" and row["label"] == row["topk_labels"][0] and len(row["topk_labels"]) == 3
        assert row["score"] == pytest.approx(row["topk_scores"][0]) and row["score"] >= row["topk_scores"][2]
    for name in ("empty", "text"):
        assert rows[name]["status"] == "unreadable" and rows[name]["reason"] and rows[name]["label"] is None
    notes = json.loads(pq.read_schema(out).metadata[b"hybridvideo"])
    assert notes["model"] == "hybrid" and len(notes["weights_sha256"]) == 64 and notes["views"]["clips"] == 2
    assert (tmp_path / "out.report.html").exists() and not (tmp_path / "out.parquet.parts").exists()


def test_any_name_and_shape_of_a_file_is_a_row(trained: Path, motion: Path, tmp_path: Path) -> None:
    good = sorted((motion / "test").rglob("*.*"))[0]
    (tmp_path / "odd").mkdir()
    for name in (b"line\xe2\x80\xa8separator.mp4", b"new\nline\x0c.mp4", b"not utf8 \xff.mp4"):
        shutil.copy(good, os.fsencode(tmp_path / "odd") + b"/" + name)
    write_video(tmp_path / "odd" / "wide.mp4", 4, size=(4096, 2), b_frames=0)
    for name in ("o.parquet", "o.csv", "o.jsonl"):
        assert call("predict", trained, tmp_path / "odd", "--out", tmp_path / name, "--workers", 0) == 0
    rows = {row["path"]: row for row in rows_of(tmp_path / "o.parquet")}
    assert {path: row["status"] for path, row in rows.items()} == {
        "line\u2028separator.mp4": "ok", "new\nline\x0c.mp4": "ok", r"not utf8 \udcff.mp4": "unsupported",
        "wide.mp4": "refused",
    }  # fmt: skip
    assert "4096x2" in rows["wide.mp4"]["reason"]


def test_csv_and_json_lines_say_the_same_as_parquet(trained: Path, mixed: Path, tmp_path: Path) -> None:
    for name in ("o.parquet", "o.csv", "o.jsonl"):
        assert call("predict", trained, mixed, "--out", tmp_path / name) == 0
    rows = rows_of(tmp_path / "o.parquet")
    lines = [json.loads(line) for line in (tmp_path / "o.jsonl").read_text().splitlines()]
    with (tmp_path / "o.csv").open(newline="") as file:
        cells = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == [line["path"] for line in lines] == [cell["path"] for cell in cells]
    assert [row["label"] for row in rows] == [line["label"] for line in lines] == [c["label"] or None for c in cells]
    assert json.loads((tmp_path / "o.provenance.json").read_text())["job"] == "predict"


def test_another_extension_is_refused(trained: Path, mixed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("predict", trained, mixed, "--out", "out.xlsx") == 2
    assert "give .parquet, .csv, .jsonl, or a folder" in capsys.readouterr().err


def test_features_have_a_fixed_size_and_their_time(trained: Path, mixed: Path, tmp_path: Path) -> None:
    assert call("extract", trained, mixed, "--out", tmp_path / "folder", "--eval.clips", 3) == 0
    out = tmp_path / "folder" / "features.parquet"
    schema = pq.read_schema(out)
    assert str(schema.field("feature").type) == "fixed_size_list<element: float>[8]"
    rows = rows_of(out)
    good = [row for row in rows if "good" in row["path"]]
    assert len(good) == 3 and all(len(row["feature"]) == 8 and row["start"] < row["end"] for row in good)
    assert [row["start"] for row in good] == sorted(row["start"] for row in good)
    (empty,) = [row for row in rows if "empty" in row["path"]]
    assert empty["feature"] is None and empty["start"] is None and empty["status"] == "unreadable"
    assert (tmp_path / "folder" / "report.html").exists()


def test_features_of_a_stage_are_its_mean(trained: Path, motion: Path, tmp_path: Path) -> None:
    video = sorted((motion / "test").rglob("*.*"))[0]
    model = hv.load_model(trained)
    rows = list(hv.extract(model, [video], stage="stage1", views=EvalConfig(clips=1), workers=0))
    head = list(hv.extract(model, [video], views=EvalConfig(clips=1), workers=0))
    assert len(rows) == len(head) == 1 and len(rows[0]["feature"]) == 8
    assert call("extract", trained, video, "--stage", "stage9", "--out", tmp_path / "f.parquet") == 2


@pytest.mark.parametrize("job", [("predict",), ("extract", "--eval.clips", 2)], ids=["predict", "extract"])
def test_a_stopped_job_continues_and_gives_the_same_rows(
    job: tuple[object, ...], trained: Path, motion: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    whole, stopped = tmp_path / "whole.parquet", tmp_path / "stopped.parquet"
    command = (job[0], trained, motion / "test", *job[1:], "--workers", 0)
    assert call(*command, "--out", whole) == 0
    asked = iter([False] * 3 + [True])
    with monkeypatch.context() as patch:
        patch.setattr(StopRequest, "requested", property(lambda self: next(asked), lambda self, value: None), False)
        assert call(*command, "--out", stopped) == 75
    assert not stopped.exists() and (tmp_path / "stopped.parquet.parts").is_dir()
    read: list[int] = []
    real = BulkWork.by_input
    with monkeypatch.context() as patch:
        patch.setattr(BulkWork, "by_input", lambda *given: (read.append(1) or rows for rows in real(*given)))
        assert call(*command, "--out", stopped) == 0
    assert len(read) == 4
    assert rows_of(stopped) == rows_of(whole)
    assert "continuing after 4 of 8 inputs" in capsys.readouterr().err


def test_parts_of_another_job_stay_until_they_are_to_be_replaced(
    trained: Path, motion: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.parquet"
    with monkeypatch.context() as patch:
        patch.setattr(StopRequest, "requested", property(lambda self: True, lambda self, value: None), False)
        assert call("predict", trained, motion / "test", "--out", out, "--workers", 0) == 75
    another = ("predict", trained, motion / "test", "--out", out, "--workers", 0, "--eval.clips", 1)
    assert call(*another) == 2
    assert "the work of another job (views.clips 2 there, 1 now)" in capsys.readouterr().err
    assert len(list((tmp_path / "out.parquet.parts").glob("part-*"))) == 1
    assert call(*another, "--overwrite") == 0 and len(rows_of(out)) == 8


def test_more_bad_inputs_than_allowed_is_exit_code_3(trained: Path, mixed: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    assert call("predict", trained, mixed, "--out", out, "--max-bad", 0.2) == 3
    assert len(rows_of(out)) == 5


@pytest.mark.parametrize("job", ["predict", "extract"])
def test_rows_of_a_quarantine_follow_it(job: str, trained: Path, motion: Path, tmp_path: Path) -> None:
    source, scan, out = motion / "test", tmp_path / "scan.parquet", tmp_path / "out.parquet"
    assert call("scan", source, "--out", scan, "--workers", 0) == 0
    scanned = pq.read_table(scan)

    def bad_after(*bad: int) -> set[int]:
        rows = [row | ({"status": "unreadable", "reason": "by hand"} if index in bad else {})
                for index, row in enumerate(scanned.to_pylist())]  # fmt: skip
        pq.write_table(pa.Table.from_pylist(rows, schema=scanned.schema), scan)
        command = (job, trained, source, "--out", out, "--workers", 0, "--eval.clips", 1)
        assert call(*command, "--quarantine", scan) == 0
        assert call(*command) == 2  # what a quarantine has kept closed is no answer of a job without
        return {index for index, row in enumerate(rows_of(out)) if row["reason"] == "by hand"}

    for bad in ({0, 3}, {3, 5}, set[int](), {1}):
        assert bad_after(*bad) == bad


@pytest.mark.parametrize("outs", [("both", "both"), ("o.csv", "o.jsonl")], ids=["folder", "name"])
def test_jobs_that_share_a_folder_or_a_name_keep_their_pages(
    outs: tuple[str, str], trained: Path, mixed: Path, tmp_path: Path
) -> None:
    (tmp_path / "both").mkdir()
    jobs = dict(zip(("predict", "extract"), outs, strict=True))
    for job, out in [*jobs.items()] * 2:
        assert call(job, trained, mixed, "--out", tmp_path / out, "--workers", 0, "--eval.clips", 1) == 0
    pages = [page.read_text() for page in tmp_path.rglob("*report.html")]
    assert sorted(page.partition("<h1>")[2].partition(":")[0] for page in pages) == ["Features", "Predictions"]


def test_an_evaluation_does_not_replace_the_page_of_the_run(trained: Path, motion: Path) -> None:
    page = (trained / "report.html").read_bytes()
    command = ("evaluate", trained, "--data.manifest", motion / "test", "--out", trained, "--data.workers", 0)
    assert call(*command) == 0 and call(*command) == 0
    assert (trained / "report.html").read_bytes() == page
    assert "Evaluation" in (trained / "scores.parquet.report.html").read_text()


def test_an_evaluation_with_a_quarantine_that_has_changed_is_another(
    trained: Path, motion: Path, tmp_path: Path
) -> None:
    scan = tmp_path / "scan.parquet"
    assert call("scan", motion / "test", "--out", scan, "--workers", 0) == 0
    command = ("evaluate", trained, "--data.manifest", motion / "test", "--data.quarantine", scan,
               "--out", tmp_path / "e", "--data.workers", 0)  # fmt: skip
    assert call(*command) == 0 and call(*command) == 0
    scanned = pq.read_table(scan)
    rows = [row | {"status": "unreadable", "reason": "by hand"} for row in scanned.to_pylist()]
    pq.write_table(pa.Table.from_pylist(rows[:1] + scanned.to_pylist()[1:], schema=scanned.schema), scan)
    assert call(*command) == 2


def test_a_folder_of_bad_files_alone_is_a_table_of_reasons(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "text.mp4").write_text("no video")
    for job in ("predict", "extract"):
        assert call(job, trained, tmp_path / "bad", "--out", tmp_path / f"{job}.parquet") == 0
        (row,) = rows_of(tmp_path / f"{job}.parquet")
        assert row["status"] == "unreadable" and (tmp_path / f"{job}.report.html").exists()


def test_evaluation_does_not_depend_on_batches_or_workers(trained: Path, motion: Path) -> None:
    model = hv.load_model(trained)
    manifest = read_manifest(motion / "test", labels=model.labels)
    scores = []
    for batch_size, workers in ((1, 0), (7, 0), (16, 2)):
        views = EvalConfig(clips=3, crops=3, batch_size=batch_size)
        rows = score_list(model, manifest, views, workers=workers).rows
        scores.append(torch.tensor([row["scores"] for row in rows]))
    assert torch.allclose(scores[0], scores[1], atol=1e-6) and torch.allclose(scores[0], scores[2], atol=1e-6)


def test_an_evaluation_counts_each_video_once_and_names_the_unreadable(
    trained: Path, motion: Path, tmp_path: Path
) -> None:
    files = sorted((motion / "test").rglob("*.*"))
    bad = tmp_path / "bad.mp4"
    bad.write_text("no video")
    lines = [f"{file} {file.parent.name}" for file in files[:4]] + [f"{bad} left", f"{tmp_path / 'gone.mp4'} up"]
    (tmp_path / "list.txt").write_text("\n".join(lines))
    out = tmp_path / "eval"
    assert call("evaluate", trained, "--data.manifest", tmp_path / "list.txt", "--out", out, "--eval.crops", 3) == 0
    results = json.loads((out / "results.json").read_text())
    assert results["num_videos"] == 6 and results["num_failed"] == 2
    assert {failure["status"] for failure in results["failures"]} == {"unreadable", "missing"}
    assert sum(map(sum, results["confusion"])) == 4
    assert results["protocol"]["clips"] == 2 and results["protocol"]["crops"] == 3
    rows = rows_of(out / "scores.parquet")
    assert [row["path"] for row in rows] == [line.rsplit(" ", 1)[0] for line in lines]
    assert sum(rows[0]["scores"]) == pytest.approx(1.0, abs=1e-5) and rows[4]["scores"] is None
    correct = sum(row["predicted"] == row["label"] for row in rows[:4])
    assert results["top1"] == correct / 4
    same = ("evaluate", trained, "--data.manifest", tmp_path / "list.txt", "--out", out, "--eval.crops", 3)
    assert call(*same, "--data.max_bad", 0.1) == 3


def test_labels_of_a_list_must_be_those_of_the_model(
    trained: Path, motion: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "list.txt").write_text("a.mp4 leftt\n")
    assert call("evaluate", trained, "--data.manifest", tmp_path / "list.txt") == 2
    assert "did you mean 'left'" in capsys.readouterr().err
    (tmp_path / "list.txt").write_text("a.mp4 8\n")
    assert call("evaluate", trained, "--data.manifest", tmp_path / "list.txt") == 2
