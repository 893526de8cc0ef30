"""The pages of jobs: titles name the job, summaries count all inputs, a page shows the state of its table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hybridvideo.report.page import page, write_page
from hybridvideo.tasks.support.table_job import Finished
from hybridvideo.tasks.support.write_page import job_summary, job_title, keep_page, last_part, write_training_page
from tests.report.examples import Page


def finished(rows: list[dict[str, Any]], now: int, seconds: float) -> Finished:
    failed = len({row["index"] for row in rows if row["status"] == "unreadable"})
    notes = {"model": "hybrid", "checkpoint": "runs/a/checkpoints/best", "source": "clips",
             "views": {"clips": 2, "crops": 1}}  # fmt: skip
    return Finished(Path("t.parquet"), rows, now, failed, seconds, notes)


def rows_of(inputs: int, bad: int, clips: int = 1) -> list[dict[str, Any]]:
    good = [{"index": index, "status": "ok"} for index in range(inputs - bad) for _ in range(clips)]
    return good + [{"index": index, "status": "unreadable"} for index in range(inputs - bad, inputs)]


def test_a_job_that_went_on_counts_all_its_inputs_and_the_speed_of_this_call() -> None:
    summary = job_summary(finished(rows_of(975, 7), 935, 10.0))
    assert (summary["inputs"], summary["unreadable"], summary["inputs done this time"]) == (975, 7, 935)
    assert summary["videos per second"] == 93.5


def test_a_job_done_in_one_call_has_no_other_count() -> None:
    summary = job_summary(finished(rows_of(4, 1, clips=3), 4, 2.0))
    assert summary["inputs"] == 4 and summary["videos per second"] == 2.0
    assert "inputs done this time" not in summary


def test_a_page_of_features_names_their_stage() -> None:
    extraction = finished(rows_of(4, 1), 4, 2.0)
    assert "stage" not in job_summary(extraction)
    extraction.provenance["stage"] = "stage1"
    assert job_summary(extraction)["stage"] == "stage1"


@pytest.mark.parametrize("rows", [[], rows_of(3, 3)])
def test_a_job_with_nothing_left_to_do_claims_no_speed(rows: list[dict[str, Any]]) -> None:
    summary = job_summary(finished(rows, 0, 0.0))
    assert summary["inputs"] == len(rows) and "videos per second" not in summary


def test_titles_name_the_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "a" / "checkpoints" / "best").mkdir(parents=True)
    assert job_title("Predictions", finished([], 0, 0.0)) == "Predictions: clips by a, best"
    assert last_part("hf:owner/name") == "hf:owner/name" and last_part("runs/../runs") == "runs"
    assert last_part(".") == tmp_path.name and last_part("/") == "/"


def test_a_page_older_than_its_table_is_written_again(tmp_path: Path) -> None:
    table, made = tmp_path / 'a "table" <ü>.parquet', list[str]()

    def write(path: Path, mark: str) -> None:
        made.append(path.name)
        write_page(path, page("Title", "lead", [], mark=mark))

    for text, expected in (("1", 1), ("1", 1), ("22", 2), ("22", 2)):
        if not table.exists() or table.read_text() != text:
            table.write_text(text)
        assert keep_page(table, True, write) == tmp_path / "report.html"
        assert made == ["report.html"] * expected
    other = tmp_path / "b.csv"
    other.write_text("x")
    assert keep_page(other, True, write) == keep_page(other, True, write) == tmp_path / "b.csv.report.html"
    assert set(path.name for path in tmp_path.iterdir()) == {table.name, "b.csv", "report.html", "b.csv.report.html"}


def test_a_training_page_shows_the_config_and_environment_of_its_run_folder(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("seed: 12345\n", encoding="utf-8")
    (tmp_path / "environment.json").write_text('{"torch": "9.9"}', encoding="utf-8")
    line = {"kind": "epoch", "epoch": 2, "step": 30, "train_loss": 0.5}
    (tmp_path / "metrics.jsonl").write_text(json.dumps(line) + "\n", encoding="utf-8")
    words = Page(write_training_page(tmp_path, None, [], None).read_text(encoding="utf-8")).words
    assert "seed: 12345" in words and "9.9" in words and "3 epochs" in words
