"""Each figure of each page is the one that its table gives: tables are made, pages rendered, figures counted again."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hybridvideo.engine.metrics import accuracy
from hybridvideo.report.numbers import percent, readable
from hybridvideo.report.pages.demo_page import Arm, Findings, demo_page
from hybridvideo.report.pages.evaluation_page import evaluation_page
from hybridvideo.report.pages.features_page import features_page
from hybridvideo.report.pages.predictions_page import predictions_page
from hybridvideo.report.pages.scan_page import next_steps, scan_page
from hybridvideo.report.pages.training_page import training_page
from hybridvideo.report.results import Results
from hybridvideo.text import duration
from tests.report.examples import Page, prediction, scanned, unreadable


def words_of(page: Path) -> str:
    return Page(page.read_text(encoding="utf-8")).words


def card_of(page: Path, name: str) -> tuple[str, str]:
    """Value and note of the card of that name."""
    found = re.search(
        rf'<div class="name">{name}</div><div class="value">([^<]*)</div>(?:<div class="note">([^<]*)</div>)?',
        page.read_text(encoding="utf-8"),
    )
    assert found, f"no card {name}"
    return found[1], found[2] or ""


# ---- training --------------------------------------------------------------------------------------------------------


def epoch(number: int, seconds: float, clips: int, **changes: Any) -> dict[str, Any]:
    """A line as the loop writes it: seconds and clips of the whole run up to here."""
    line = {"kind": "epoch", "epoch": number, "step": 10 * (number + 1), "train_loss": 1.0 / (number + 1),
            "seconds": seconds, "clips_seen": clips, "clips_per_second": clips / seconds, "bad_clips": 2,
            "val_top1": 0.5, "val_top5": 1.0, "val_loss": 0.7}  # fmt: skip
    return line | changes


def test_the_time_of_a_run_is_that_of_its_last_line(tmp_path: Path) -> None:
    rows = [epoch(number, 10.0 * (number + 1), 100 * (number + 1)) for number in range(12)]
    page = training_page(tmp_path / "a.html", rows)
    assert f"12 epochs in {duration(120)} of training." in words_of(page)
    assert card_of(page, "epochs") == ("12", "120 steps") and card_of(page, "clips seen")[0] == readable(1200)


@pytest.mark.parametrize(
    ("totals", "speed"),
    [([(10.0, 100)], "10"), ([(10.0, 100), (15.0, 300)], "40"), ([(5.0, 900), (25.0, 950), (26.0, 2650)], "1700")],
)
def test_the_speed_of_the_last_epoch_is_its_own(
    totals: list[tuple[float, int]], speed: str, tmp_path: Path
) -> None:  # fmt: skip
    rows = [epoch(number, seconds, clips) for number, (seconds, clips) in enumerate(totals)]
    assert card_of(training_page(tmp_path / "a.html", rows), "speed")[0] == speed


def test_of_a_run_resumed_within_an_epoch_steps_and_times_are_counted_once(tmp_path: Path) -> None:
    again = [epoch(1, 23.0, 200), {"kind": "resume", "step": 10}, epoch(1, 21.0, 200)]
    page = training_page(tmp_path / "a.html", [epoch(0, 10.0, 100), *again, epoch(2, 30.0, 300)])
    assert "3 epochs in 30 s of training." in words_of(page)
    assert card_of(page, "speed")[0] == readable(100 / 9)


def test_no_speed_is_invented_for_a_log_whose_first_lines_are_gone(tmp_path: Path) -> None:
    page = training_page(tmp_path / "a.html", [epoch(4, 50.0, 500)])
    assert "5 epochs in 50 s" in words_of(page) and card_of(page, "speed")[0] == "–"


def test_figures_that_do_not_exist_are_dashes_and_steps_left_out_are_counted(tmp_path: Path) -> None:
    rows = [epoch(0, 10.0, 100), *({"kind": "skipped", "step": step, "samples": [1]} for step in (12, 13, 13)),
            epoch(1, 20.0, 100, train_loss=None, val_top1=None, val_loss=None)]  # fmt: skip
    page = training_page(tmp_path / "a.html", rows)
    assert card_of(page, "training loss")[0] == "–" and card_of(page, "validation top-1")[0] == "–"
    assert card_of(page, "best top-1") == (percent(0.5), "epoch 1, one view")
    assert card_of(page, "epochs") == ("2", "20 steps, 2 left out")
    assert card_of(page, "speed")[0] == "0" and "2 videos were not read completely" in words_of(page)


def test_the_best_epoch_is_the_first_of_the_highest(tmp_path: Path) -> None:
    rows = [epoch(number, number + 1.0, 9, val_top1=share) for number, share in enumerate((0.2, 0.6, 0.6, 0.4))]
    page = training_page(tmp_path / "a.html", rows)
    assert card_of(page, "best top-1") == (percent(0.6), "epoch 2, one view")
    assert card_of(page, "validation top-1")[0] == percent(0.4)


def test_top_5_that_is_always_right_is_not_drawn(tmp_path: Path) -> None:
    always = [epoch(number, number + 1.0, 9) for number in range(2)]
    assert "top-5" not in words_of(training_page(tmp_path / "a.html", always))
    assert "top-5" in words_of(training_page(tmp_path / "b.html", [*always, epoch(2, 3.0, 9, val_top5=0.9)]))


# ---- evaluation ------------------------------------------------------------------------------------------------------


def evaluated(labels: list[str], truths: list[int], scores: list[list[float]], failed: int = 0) -> Results:
    """Results computed from the rows of a table."""
    scores_NK = np.array(scores, float).reshape(-1, len(labels))
    figures = vars(accuracy(scores_NK, np.array(truths, int), labels))
    given = {
        **figures,
        "labels": labels,
        "num_videos": len(truths) + failed,
        "num_failed": failed,
        "failures": [unreadable(f"{i}.mp4") for i in range(failed)],
        "seconds": 4.0,
        "videos_per_second": (len(truths) + failed) / 4.0,
        "protocol": {},
    }
    return Results.of(given)


def test_an_evaluation_counted_again_from_its_scores(tmp_path: Path) -> None:
    scores_NK = np.random.default_rng(1).dirichlet(np.ones(7), 4000)
    truths = np.random.default_rng(2).integers(0, 6, 4000)  # class 6 has no video
    page = evaluation_page(tmp_path / "a.html", evaluated(list("abcdefg"), truths.tolist(), scores_NK.tolist(), 3))
    top = np.argsort(-scores_NK, axis=1)
    right = top[:, 0] == truths
    assert card_of(page, "top-1")[0] == percent(right.mean())
    assert card_of(page, "top-5")[0] == percent((top[:, :5] == truths[:, None]).any(1).mean())
    assert card_of(page, "mean class accuracy")[0] == percent(
        float(np.mean([right[truths == c].mean() for c in range(6)]))
    )
    assert card_of(page, "videos") == ("4 000", "3 more could not be read")
    assert card_of(page, "time") == ("4.0 s", "1001 videos per second")
    words = words_of(page)
    assert f"{percent(right.mean())} of 4000 videos named correctly" in words and "1 without a video" in words
    wrong = Counter(zip(truths[~right].tolist(), top[~right, 0].tolist(), strict=True))
    (true, called), count = wrong.most_common(1)[0]
    assert f"{'abcdefg'[true]}{'abcdefg'[called]}{count}" in words


@pytest.mark.parametrize("classes", [1, 2, 5])
def test_top_5_is_not_shown_for_five_classes_or_fewer(classes: int, tmp_path: Path) -> None:
    labels = list("abcde")[:classes]
    page = evaluation_page(tmp_path / "a.html", evaluated(labels, [0, 0], np.eye(5)[:2, :classes].tolist()))
    assert "top-5" not in page.read_text(encoding="utf-8")


def test_an_evaluation_of_nothing_readable_claims_no_accuracy(tmp_path: Path) -> None:
    page = evaluation_page(tmp_path / "a.html", evaluated(["a", "b"], [], [], failed=4))
    words = words_of(page)
    assert "None of 4 videos could be read" in words and "%" not in words.replace("95 %", "")
    assert card_of(page, "videos") == ("0", "4 more could not be read")


# ---- bulk jobs -------------------------------------------------------------------------------------------------------


def test_predictions_counted_again_from_their_table(tmp_path: Path) -> None:
    rows = [prediction(f"{i}.mp4", label=f"class {i % 23}") for i in range(100)] + [unreadable("same.mp4")] * 2
    rows += [{**prediction("cut.mp4", label="class 0"), "status": "partial"}]
    words = words_of(predictions_page(tmp_path / "a.html", rows))
    assert "101 videos classified; 2 files could not be read, 1 file only read in part." in words
    counts = Counter(row["label"] for row in rows if row["label"])
    most = counts.most_common(20)
    assert all(f"{label}{count}{percent(count / 101, 0)}" in words for label, count in most)
    rest = 101 - sum(count for _, count in most)
    assert f"3 other labels{rest}{percent(rest / 101, 0)}" in words


def test_features_counted_again_from_their_table(tmp_path: Path) -> None:
    rows = [{"path": f"{i // 4}.mp4", "status": "ok" if i else "partial", "start": 0.0, "end": 1.0} for i in range(12)]
    page = features_page(tmp_path / "a.html", {}, np.eye(12, 5), [*rows, unreadable("x.mp4")])
    words = words_of(page)
    assert "12 clips turned into features; 1 file could not be read, 1 file only read in part." in words
    assert "clips12" in words and "files3" in words and "numbers per clip5" in words


def test_files_of_one_name_in_two_folders_have_two_colours(tmp_path: Path) -> None:
    rows = [{"path": f"{folder}/_clip.mp4", "status": "ok", "start": 0.0, "end": 1.0} for folder in "ab"]
    words = words_of(features_page(tmp_path / "a.html", {}, np.eye(2), rows))
    assert "a/_clip.mp4" in words and "b/_clip.mp4" in words


def test_a_job_of_no_rows_has_a_page(tmp_path: Path) -> None:
    assert "0 videos classified; every file was read." in words_of(predictions_page(tmp_path / "a.html", []))
    assert "0 clips" in words_of(features_page(tmp_path / "b.html", {}, np.zeros((0, 3)), []))
    assert "No file." in words_of(scan_page(tmp_path / "c.html", [], {"table": "t.parquet"}))


# ---- scan ------------------------------------------------------------------------------------------------------------


def test_a_scan_counted_again_from_its_table(tmp_path: Path) -> None:
    rows = [scanned(f"{i}.mp4", bytes=999_700, decoded=1000 + i) for i in range(7)]
    rows += [scanned("cut.mp4", "partial", "cut", bytes=200)]
    rows += [scanned("empty.mp4", "unreadable", "file is empty", bytes=0)]
    rows += [scanned("gone.mp4", "missing", "'gone.mp4': no such file")] * 2
    page = scan_page(tmp_path / "a.html", rows, {"table": "t.parquet"})
    assert card_of(page, "usable") == (percent(8 / 11), "8 files")
    assert card_of(page, "unusable") == ("3", percent(3 / 11))
    assert card_of(page, "usable video") == (duration(8 * 0.4), f"{readable(7 * 1000 + 21 + 10)} frames decoded")
    assert card_of(page, "size") == ("7 MB", "778 kB per file")  # of nine files that are there
    words = words_of(page)
    assert "3 of 11 files are unusable; 1 more are damaged and used in part." in words
    for status, count in (("ok", 7), ("partial", 1), ("unreadable", 1), ("missing", 2)):
        assert f"{status}{count}{percent(count / 11)}" in words
    assert "h264, yuv420p8" in words and "64 x 488" in words and "under 1 s8" in words and "258" in words


def test_sizes_and_speeds_are_never_written_with_a_power_of_ten(tmp_path: Path) -> None:
    rows = [scanned("a.mp4", bytes=999_999_999, duration=5000.0, seconds=0.5), scanned("b.mp4", bytes=999.6)]
    assert "e+" not in words_of(scan_page(tmp_path / "a.html", rows, {"table": "t.parquet"}))


def test_a_file_that_is_listed_twice_is_not_a_copy_of_itself() -> None:
    rows = [scanned("a.mp4", checksum="x"), scanned("a.mp4", checksum="x")]
    assert next_steps(rows, "t.parquet") == []
    assert "1 file with the same bytes" in next_steps([*rows, scanned("b.mp4", checksum="x")], "t.parquet")[0]


def test_if_nothing_can_be_used_the_reasons_and_the_remedies_are_listed() -> None:
    rows = [scanned(f"{i}.mp4", "refused", f"'{i}.mp4' leads outside the data root '/x'; list it") for i in range(3)]
    rows += [scanned("it's.mp4", "unreadable", "file is empty")]
    first, *steps = next_steps(rows, "t.parquet")
    assert first == "No file can be used:" and not any("quarantine" in step for step in steps)
    assert steps[0].startswith("3 files refused, not opened for safety: leads outside the data root '/x'; list it (3).")
    assert steps[1].startswith("1 file from which nothing decodes: file is empty (1).")


@pytest.mark.parametrize(("table", "advice"), [("t.csv", "--out NAME.parquet"), ("t.jsonl", "--out NAME.parquet"),
                                               ("my t.parquet", "--data.quarantine 'my t.parquet'")])  # fmt: skip
def test_only_a_parquet_table_is_advised_as_a_quarantine(table: str, advice: str) -> None:
    (step,) = next_steps([scanned("a.mp4"), scanned("b.mp4", "crashed", "x")], table)[:1]
    assert advice in step and (f"quarantine {table}" in step) is False


# ---- demo ------------------------------------------------------------------------------------------------------------


def test_the_demo_counted_again_from_its_results(tmp_path: Path) -> None:
    labels = ["left", "right", "up"]
    truths = [0, 1, 2, 0, 1, 2, 0, 1]
    called = [0, 1, 2, 1, 0, 2, 2, 1]  # of three mistakes two name the reverse
    hybrid = Arm("H", evaluated(labels, truths, np.eye(3)[truths].tolist()), [epoch(0, 1.0, 9)])
    control = Arm("C", evaluated(labels, truths, np.eye(3)[called].tolist()), [epoch(0, 1.0, 9)])
    page = demo_page(tmp_path / "a.html", {"videos": 8}, hybrid, control, Findings({"a": 20.0, "b": 70.0}))
    words = words_of(page)
    assert f"H names {percent(1.0)} of 8 held-out videos" in words and f"removed: {percent(5 / 8)}" in words
    assert f"Guessing: {percent(1 / 3)}" in words and "67\xa0% of the control's mistakes name the reverse" in words
    assert f"together {duration(90)}" in words and card_of(page, "C")[0] == percent(5 / 8)
