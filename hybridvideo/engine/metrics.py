"""Figures of predictions: accuracies with confidence intervals, and the confusion matrix.

A video with a score that is not finite counts as wrong, and is in no column of the matrix.

N videos   K classes
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Scores = NDArray[np.floating]
Labels = NDArray[np.integer]
Interval = tuple[float, float]
Z95 = 1.959964


def in_top(scores_NK: Scores, labels_N: Labels, k: int) -> NDArray[np.bool_]:
    """Return whether the true class is among the k with the highest scores; ties go to the lower index."""
    order_NK = np.argsort(-scores_NK, axis=1, kind="stable")
    return (order_NK[:, :k] == labels_N[:, None]).any(1) & np.isfinite(scores_NK).all(1)


def confusion_matrix(predicted_N: Labels, labels_N: Labels, num_classes: int) -> NDArray[np.int64]:
    """(K, K) counts, rows true, columns predicted."""
    matrix = np.zeros((num_classes, num_classes), np.int64)
    np.add.at(matrix, (labels_N, predicted_N), 1)
    return matrix


def class_accuracies(correct_K: Labels, totals_K: Labels) -> NDArray[np.float64]:
    """(K,) recall of each class; NaN for a class without videos."""
    return np.where(totals_K > 0, correct_K / np.maximum(totals_K, 1), np.nan)


def mean_class_accuracy(correct_K: Labels, totals_K: Labels) -> float:
    """Return the mean recall of the classes that occur."""
    present = class_accuracies(correct_K, totals_K)[totals_K > 0]
    return float(present.mean()) if len(present) else 0.0


def wilson_interval(correct: int, total: int) -> Interval:
    """Return the 95 % interval of a proportion (Wilson 1927); (0, 1) if nothing was seen."""
    if total == 0:
        return 0.0, 1.0
    share, spread = correct / total, Z95**2 / total
    middle = (share + spread / 2) / (1 + spread)
    half = Z95 * math.sqrt(share * (1 - share) / total + spread / (4 * total)) / (1 + spread)
    return max(0.0, middle - half), min(1.0, middle + half)


def mean_class_interval(correct_K: Labels, totals_K: Labels) -> Interval:
    """Return the 95 % interval of mean-class accuracy: normal, from the smoothed variance of each class's recall."""
    seen = totals_K > 0
    if not seen.any():
        return 0.0, 1.0
    # (x + 1) / (n + 2) keeps the variance of a class without mistakes above zero
    smoothed = (correct_K[seen] + 1) / (totals_K[seen] + 2)
    error = math.sqrt(float((smoothed * (1 - smoothed) / totals_K[seen]).sum())) / int(seen.sum())
    accuracy = mean_class_accuracy(correct_K, totals_K)
    return max(0.0, accuracy - Z95 * error), min(1.0, accuracy + Z95 * error)


@dataclass(frozen=True)
class Accuracy:
    """All figures of one evaluation; accuracies are fractions."""

    top1: float
    top5: float
    mean_class_accuracy: float
    top1_interval: Interval
    top5_interval: Interval
    mean_class_accuracy_interval: Interval
    confusion: list[list[int]]
    per_class: list[dict[str, object]]


def accuracy(scores_NK: Scores, labels_N: Labels, names: Sequence[str]) -> Accuracy:
    """Return the figures of N videos, given scores and true classes; N may be 0."""
    scores_NK = scores_NK.reshape(-1, len(names))
    total = len(labels_N)
    top1, top5 = (int(in_top(scores_NK, labels_N, k).sum()) for k in (1, min(5, len(names))))
    named_N = np.isfinite(scores_NK).all(1)
    confusion_KK = confusion_matrix(np.argmax(scores_NK[named_N], 1), labels_N[named_N], len(names))
    correct_K, totals_K = np.diag(confusion_KK), np.bincount(labels_N, minlength=len(names))
    recalls = class_accuracies(correct_K, totals_K)
    return Accuracy(
        top1=top1 / max(total, 1),
        top5=top5 / max(total, 1),
        mean_class_accuracy=mean_class_accuracy(correct_K, totals_K),
        top1_interval=wilson_interval(top1, total),
        top5_interval=wilson_interval(top5, total),
        mean_class_accuracy_interval=mean_class_interval(correct_K, totals_K),
        confusion=confusion_KK.tolist(),
        per_class=[
            {"label": name, "videos": int(videos), "accuracy": None if np.isnan(recall) else float(recall)}
            for name, videos, recall in zip(names, totals_K, recalls, strict=True)
        ],
    )
