"""Metrics against torchmetrics and by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import multiclass_accuracy, multiclass_confusion_matrix

from hybridvideo.engine.metrics import accuracy, in_top, mean_class_interval, wilson_interval
from hybridvideo.engine.multiview import averaged

rng = np.random.default_rng(0)
SCORES, LABELS = rng.random((200, 7)), rng.integers(0, 7, 200)


def test_accuracies_equal_torchmetrics() -> None:
    ours = accuracy(SCORES, LABELS, list("abcdefg"))
    scores, labels = torch.from_numpy(SCORES), torch.from_numpy(LABELS)
    for figure, settings in [(ours.top1, {"average": "micro"}), (ours.top5, {"average": "micro", "top_k": 5}),
                             (ours.mean_class_accuracy, {"average": "macro"})]:  # fmt: skip
        assert figure == pytest.approx(float(multiclass_accuracy(scores, labels, 7, **settings)), abs=1e-6)
    assert ours.confusion == multiclass_confusion_matrix(scores, labels, 7).tolist()


def test_classes_without_a_video_do_not_count() -> None:
    figures = accuracy(np.array([[0.9, 0.1, 0.0], [0.2, 0.8, 0.0]]), np.array([0, 0]), ["a", "b", "c"])
    assert figures.mean_class_accuracy == 0.5 and figures.top1 == 0.5
    assert [row["accuracy"] for row in figures.per_class] == [0.5, None, None]


def test_without_a_video_there_is_no_accuracy() -> None:
    figures = accuracy(np.zeros((0, 3)), np.zeros(0, int), ["a", "b", "c"])
    assert figures.top1 == 0.0 and figures.top1_interval == (0.0, 1.0)


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf])
def test_a_video_with_nan_scores_is_wrong_whatever_its_class(odd: float) -> None:
    scores = np.array([[odd, odd, odd], [odd, 0.9, 0.1], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    figures = accuracy(scores, np.array([0, 1, 1, 2]), ["a", "b", "c"])
    assert figures.top1 == figures.top5 == 0.5 and figures.mean_class_accuracy == pytest.approx((0 + 0.5 + 1) / 3)
    assert figures.confusion == [[0, 0, 0], [0, 1, 0], [0, 0, 1]]
    assert [(row["videos"], row["accuracy"]) for row in figures.per_class] == [(1, 0.0), (2, 0.5), (1, 1.0)]


def test_ties_go_to_the_first_class() -> None:
    assert in_top(np.array([[0.5, 0.5]]), np.array([0]), 1).all()
    assert not in_top(np.array([[0.5, 0.5]]), np.array([1]), 1).any()


def test_wilson_interval_has_the_textbook_values() -> None:
    assert wilson_interval(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert wilson_interval(10, 10)[1] == pytest.approx(1.0) and wilson_interval(10, 10)[0] < 0.75


def test_intervals_cover_what_they_promise() -> None:
    truth, covered = 0.7, [0, 0]
    for _ in range(400):
        correct = rng.binomial(30, truth, 3)
        low, high = wilson_interval(int(correct.sum()), 90)
        covered[0] += low <= truth <= high
        low, high = mean_class_interval(correct, np.full(3, 30))
        covered[1] += low <= truth <= high
    assert all(0.91 < count / 400 <= 0.99 for count in covered), covered


def test_views_are_averaged_as_asked() -> None:
    logits = torch.tensor([[4.0, 0.0], [0.0, 1.0]])
    assert torch.allclose(averaged(logits, "softmax"), logits.softmax(1).mean(0))
    assert torch.allclose(averaged(logits, "logits"), torch.tensor([2.0, 0.5]).softmax(0))
