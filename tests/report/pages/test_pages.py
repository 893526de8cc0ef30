"""Pages: whole, self-contained, escaped, and true to the numbers they are built from."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hybridvideo.report.environment import environment_facts
from hybridvideo.report.history import of_kind, read_metrics
from hybridvideo.report.pages.demo_page import Arm, Findings, demo_page, in_pairs, reverse_share
from hybridvideo.report.pages.evaluation_page import evaluation_page
from hybridvideo.report.pages.features_page import clip_groups, features_page
from hybridvideo.report.pages.predictions_page import predictions_page
from hybridvideo.report.pages.scan_page import scan_page
from hybridvideo.report.pages.training_page import training_page
from hybridvideo.report.sections.settings import MadeWith
from tests.report.examples import MOTIONS, Page, metrics, prediction, results, samples, scanned, unreadable

ENVIRONMENT = {"python": "3.11", "device": "cpu"}
PLACES = {label: place for place, label in enumerate(MOTIONS)}


def control_confusion() -> np.ndarray[Any, Any]:
    """Half right, half called the reverse."""
    counts = np.eye(8, dtype=int) * 5
    for one, other in (("left", "right"), ("up", "down"), ("clockwise", "anticlockwise"), ("approach", "recede")):
        counts[PLACES[one], PLACES[other]] = counts[PLACES[other], PLACES[one]] = 5
    return counts


def demo(path: Path) -> Path:
    hybrid = Arm("The hybrid", results(MOTIONS, np.eye(8, dtype=int) * 10), metrics())
    control = Arm("The control", results(MOTIONS, control_confusion()), metrics())
    findings = Findings(
        timings={"render": 20.0, "train": 60.0},
        samples=samples(),
        predictions=[prediction("a b.mp4"), unreadable("empty.mp4")],
        features_ND=np.random.default_rng(0).normal(size=(16, 5)),
        feature_labels=MOTIONS * 2,
    )
    made_with = MadeWith(ENVIRONMENT, "model:\n  name: hybrid_micro\n")
    return demo_page(path, {"training videos": 480}, hybrid, control, findings, made_with)


def evaluation(path: Path) -> Path:
    rows = [[8, 2, 0], [1, 9, 0], [0, 0, 0]]
    given = results(["a", "b", "<i>c"], rows, num_videos=21, num_failed=1, failures=[unreadable("bad.mp4")])
    made_with = MadeWith(ENVIRONMENT, "x: 1")
    return evaluation_page(path, given, samples(), made_with, scores=[0.5, 0.9], correct=[True, False])


def training(path: Path) -> Path:
    given = results(["fight", "normal"], [[9, 1], [2, 8]])
    return training_page(path, metrics(), given, samples(), MadeWith(ENVIRONMENT, "x: 1"))


def predictions(path: Path) -> Path:
    rows = [prediction("ä b.mp4"), unreadable("<script>.mp4", "no <video> stream")]
    return predictions_page(path, rows, samples(), {"source": "folder"}, MadeWith(ENVIRONMENT))


def extraction(path: Path) -> Path:
    rows = [{"path": f"{i % 3}.mp4", "status": "ok", "start": 0.0, "end": 1.0} for i in range(9)]
    return features_page(path, {"stage": "head"}, np.eye(9), [*rows, unreadable("bad.mp4")], MadeWith(ENVIRONMENT))


def scan(path: Path) -> Path:
    rows = [scanned("a.mp4"), scanned("b.mp4", "partial", "cut off"), scanned("<b>.mp4", "unreadable", "file is empty")]
    return scan_page(path, rows, {"table": "scan.parquet"}, MadeWith(ENVIRONMENT))


PAGES = {
    "demo": demo,
    "evaluation": evaluation,
    "training": training,
    "prediction": predictions,
    "extraction": extraction,
    "scan": scan,
}


@pytest.fixture(scope="module", params=PAGES)
def document(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = PAGES[request.param](tmp_path_factory.mktemp("pages") / "report.html")
    return path.read_text(encoding="utf-8")


def test_a_page_loads_nothing_and_runs_nothing(document: str) -> None:
    seen = Page(document)
    assert not {"script", "link", "iframe", "object", "embed"} & {tag for tag, _ in seen.tags}
    for _, attributes in seen.tags:
        assert not any(name.startswith("on") for name in attributes)
        for name in ("src", "href", "srcset", "data"):
            assert (attributes.get(name) or "#").startswith(("#", "data:image/"))
    assert not re.search(r"https?:|@import|url\((?!#)", document)


def test_a_page_is_well_formed_with_unique_sections_that_its_links_reach(document: str) -> None:
    seen = Page(document)
    assert seen.open == []
    sections = [attributes["id"] for tag, attributes in seen.tags if tag == "section"]
    assert len(sections) == len(set(sections)) >= 2
    assert [a["href"] for tag, a in seen.tags if tag == "a"] == [f"#{name}" for name in sections]


def test_every_figure_has_a_caption_and_a_text_for_those_who_cannot_see_it(document: str) -> None:
    tags = [tag for tag, _ in Page(document).tags]
    assert tags.count("figure") == tags.count("figcaption")
    drawings = [attributes for tag, attributes in Page(document).tags if tag == "svg"]
    assert all(drawing.get("aria-label") for drawing in drawings)
    assert all(a.get("alt") for tag, a in Page(document).tags if tag == "img")


def test_the_environment_is_on_every_page(document: str) -> None:
    assert "3.11" in Page(document).words


def test_the_demo_tells_both_accuracies_chance_and_what_the_control_confuses(tmp_path: Path) -> None:
    words = Page(demo(tmp_path / "demo.html").read_text(encoding="utf-8")).words
    for told in ("100.0\u00a0%", "50.0\u00a0%", "12.5\u00a0%", "100\u00a0% of the control's mistakes name the reverse"):
        assert told in words


def test_in_pairs_puts_each_motion_next_to_its_reverse_and_keeps_every_count() -> None:
    ordered = in_pairs(results([*MOTIONS, "still"], np.arange(81).reshape(9, 9)))
    assert ordered.labels[:4] == ("left", "right", "up", "down") and ordered.labels[-1] == "still"
    left, down = ordered.labels.index("left"), ordered.labels.index("down")
    assert ordered.confusion[left][down] == 9 * PLACES["left"] + PLACES["down"]


def test_the_share_of_reversals_is_of_the_mistakes_alone() -> None:
    confusion = control_confusion()
    confusion[PLACES["left"], PLACES["up"]] = 40
    assert reverse_share(results(MOTIONS, confusion)) == 0.5
    assert reverse_share(results(MOTIONS, np.eye(8, dtype=int))) is None


def test_metrics_are_read_even_if_the_last_line_is_cut_off(tmp_path: Path) -> None:
    lines = [json.dumps(row) for row in metrics()]
    (tmp_path / "metrics.jsonl").write_text("\n".join([*lines, '{"kind": "step", "st']), encoding="utf-8")
    assert read_metrics(tmp_path / "metrics.jsonl") == metrics()


def test_of_a_step_written_twice_by_a_resumed_run_the_later_line_counts() -> None:
    rows = [{"kind": "step", "step": step, "loss": loss} for step, loss in [(1, 9.0), (2, 8.0), (2, 7.0), (1, 6.0)]]
    assert [row["loss"] for row in of_kind(rows, "step")] == [6.0, 7.0]


def test_a_run_without_an_epoch_or_without_validation_has_a_page(tmp_path: Path) -> None:
    assert "No epoch" in training_page(tmp_path / "a.html", []).read_text(encoding="utf-8")
    bare = [{key: value for key, value in row.items() if not key.startswith("val_")} for row in metrics()]
    assert "Validation accuracy" not in training_page(tmp_path / "b.html", bare).read_text(encoding="utf-8")


def test_top_5_is_left_out_when_it_says_nothing(tmp_path: Path) -> None:
    few = evaluation(tmp_path / "few.html").read_text(encoding="utf-8")
    many = evaluation_page(tmp_path / "many.html", results(MOTIONS, np.eye(8, dtype=int)))
    assert "top-5" not in few and "top-5" in many.read_text(encoding="utf-8")


def test_an_evaluation_without_one_readable_video_has_a_page(tmp_path: Path) -> None:
    nothing = {name: None for name in ("top1", "top5", "mean_class_accuracy")}
    unknown = {f"{name}_interval": [float("nan")] * 2 for name in nothing}
    given = results(["a", "b"], [[0, 0], [0, 0]], **nothing, **unknown, num_videos=1, num_failed=1,
                    failures=[unreadable("bad.mp4")])  # fmt: skip
    words = Page(evaluation_page(tmp_path / "a.html", given).read_text(encoding="utf-8")).words
    assert "the file is empty" in words


def test_four_hundred_classes_fit_in_half_a_megabyte(tmp_path: Path) -> None:
    labels = [f"class {i}" for i in range(400)]
    page = evaluation_page(tmp_path / "a.html", results(labels, np.eye(400, dtype=int) * 50))
    assert page.stat().st_size < 500_000


def test_a_bulk_job_of_many_files_lists_the_first_three_hundred(tmp_path: Path) -> None:
    page = predictions_page(tmp_path / "a.html", [prediction(f"{i}.mp4") for i in range(1000)])
    words = Page(page.read_text(encoding="utf-8")).words
    assert "The first 300 of 1000 are listed." in words and "299.mp4" in words and "300.mp4" not in words


def test_a_job_in_which_nothing_could_be_read_has_a_page(tmp_path: Path) -> None:
    failed = [unreadable("a.mp4"), unreadable("b.mp4")]
    for page in (
        predictions_page(tmp_path / "p.html", failed),
        features_page(tmp_path / "e.html", {}, np.zeros((0, 4)), failed),
    ):
        assert "2 files could not be read" in page.read_text(encoding="utf-8")


def test_clips_are_coloured_by_label_then_by_file_then_by_folder() -> None:
    assert clip_groups([{"path": "a.mp4", "label": "x"}, {"path": "b.mp4", "label": None}])[0] == ["x", "unknown"]
    assert clip_groups([{"path": "d/a.mp4"}, {"path": "d/b.mp4"}]) == (["a.mp4", "b.mp4"], "file")
    many = [{"path": f"{'de'[i % 2]}/{i}.mp4"} for i in range(60)]
    assert clip_groups(many)[1] == "folder"
    assert clip_groups([{"path": f"d/{i}.mp4"} for i in range(60)]) == (None, "")


def test_the_environment_is_a_flat_table_of_texts() -> None:
    facts = environment_facts()
    names = "hybridvideo torch torchvision av accelerate timm device cpu python platform"
    assert {*names.split(), "FFmpeg of av"} <= set(facts)
    assert all(isinstance(value, str) and value for value in facts.values())


def test_a_page_is_made_whatever_others_wrote_into_the_metrics(tmp_path: Path) -> None:
    odd = ["null", "{}", "[" * 100_000, '{"kind": "epoch", "step": 1}', '{"kind": "epoch", "step": [], "epoch": 0}',
           '{"kind": "epoch", "step": 9, "epoch": 0, "seconds": "x", "bad_clips": [], "val_top1": 1e200}']  # fmt: skip
    (tmp_path / "metrics.jsonl").write_text("\n".join(odd), encoding="utf-8")
    page = training_page(tmp_path / "report.html", read_metrics(tmp_path / "metrics.jsonl"))
    assert "1 epoch" in Page(page.read_text(encoding="utf-8")).words
