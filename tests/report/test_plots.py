"""Figures: they take the page's colours, hold no outside reference, and show what they claim."""

from __future__ import annotations

import math
import re

import numpy as np

from hybridvideo.report.plots.bars import accuracy_bars, score_histogram, stage_bars
from hybridvideo.report.plots.confusion import confused_pairs, confusion_matrix
from hybridvideo.report.plots.curves import Line, curves
from hybridvideo.report.plots.features import feature_scatter, principal_plane
from hybridvideo.report.plots.figure import shortened
from hybridvideo.report.results import Accuracy
from hybridvideo.report.style import THEME


def texts(svg: str) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]*)</text>", svg)


def test_a_figure_takes_its_colours_from_the_page_and_names_nothing_outside() -> None:
    svg = curves([Line("loss", [1, 2, 3], [3.0, 2.0, 1.0])], x="step", y="loss")
    assert svg.startswith("<svg role=") and svg.endswith("</svg>")
    assert "var(--accent)" in svg and "var(--soft)" in svg
    assert "http" not in svg
    assert not any(light in svg for light, _ in THEME.values())


def test_the_same_figure_is_drawn_the_same_twice() -> None:
    bars = [Accuracy("a", 0.5, [0.4, 0.6])]
    first, second = (re.sub(r'="[^"]*"', "", accuracy_bars(bars, chance=0.1)) for _ in range(2))
    assert first == second


def test_labels_are_text_even_if_they_look_like_formulae_or_markup() -> None:
    svg = confusion_matrix([[1, 0], [1, 1]], ["$x^2$ <b>", "日本語"])
    assert "$x^2$ &lt;b&gt;" in texts(svg) and "日本語" in texts(svg)


def test_points_that_are_not_finite_are_left_out_of_curves() -> None:
    lines = [Line("loss", [1, 2, 3], [3.0, math.nan, math.inf])]
    assert "<svg" in curves(lines, x="step", y="loss")


def test_accuracy_bars_write_each_accuracy_and_the_chance_level() -> None:
    written = texts(accuracy_bars([Accuracy("hybrid", 0.975, [0.95, 0.99]), Accuracy("control", 0.5)], chance=0.125))
    assert {"hybrid", "97.5 %", "control", "50.0 %", "chance 12.5 %"} <= set(written)


def test_a_confusion_matrix_of_few_classes_writes_counts_of_many_neither_counts_nor_names() -> None:
    written = texts(confusion_matrix([[17, 3], [0, 20]], ["a", "b"]))
    assert {"17", "3", "20", "a", "b"} <= set(written) and written.count("0") == 0
    many = [f"class {i}" for i in range(400)]
    svg = confusion_matrix(np.eye(400, dtype=int).tolist(), many)
    assert not set(many) & set(texts(svg)) and len(svg) < 200_000


def test_confused_pairs_are_the_most_frequent_mistakes_first() -> None:
    pairs = confused_pairs([[5, 4, 1], [0, 10, 0], [2, 0, 8]], ["a", "b", "c"], most=2)
    assert pairs == [("a", "b", 4, 0.4), ("c", "a", 2, 0.2)]
    assert confused_pairs([[3, 0], [0, 0]], ["a", "b"]) == []


def test_the_principal_plane_keeps_distances_of_points_that_lie_in_a_plane() -> None:
    rng = np.random.default_rng(0)
    plane = rng.normal(size=(20, 2))
    places, held = principal_plane(plane @ np.linalg.qr(rng.normal(size=(9, 2)))[0].T + 5)
    between = np.linalg.norm(plane[:, None] - plane[None], axis=-1)
    assert np.allclose(np.linalg.norm(places[:, None] - places[None], axis=-1), between)
    assert held > 0.999


def test_features_that_are_equal_one_wide_or_not_finite_are_still_drawn() -> None:
    assert "<svg" in feature_scatter(np.ones((4, 3)))
    assert "<svg" in feature_scatter(np.arange(5.0)[:, None], ["a", "b", "a", "b", "a"])
    assert "2 clips" in feature_scatter([[1.0, 2.0], [math.nan, 0.0], [2.0, 1.0]], ["a", "b", "c"])


def test_a_scatter_of_many_clips_draws_at_most_two_thousand() -> None:
    svg = feature_scatter(np.random.default_rng(0).normal(size=(5000, 4)))
    assert svg.count("<use") < 2100


def test_scores_outside_the_range_and_no_right_answer_make_a_histogram() -> None:
    assert "<svg" in score_histogram([0.0, 1.0, 1.0000001], [False, False, False])


def test_stage_bars_write_how_long_each_took() -> None:
    assert {"train", "1 min 5 s"} <= set(texts(stage_bars({"render": 0.0, "train": 65.0})))


def test_a_long_label_is_cut_and_its_line_breaks_go() -> None:
    assert shortened("a\nb") == "a b"
    assert len(shortened("x" * 100)) == 22


def test_a_label_is_text_whatever_it_looks_like() -> None:
    labels = ["_hidden", "#2c69d1", 'xmlns="x" xlink:href', "a\x1b[2J\u202e"]
    assert [*labels[:3], r"a\x1b[2J\u202e"] == texts(feature_scatter(np.eye(4), labels))[-4:]


def test_steps_of_an_axis_are_whole_numbers() -> None:
    written = texts(curves([Line("loss", [1, 2, 3], [3.0, 2.0, 1.0])], x="step", y="loss"))
    assert written[: written.index("step")] == ["1", "2", "3"]
