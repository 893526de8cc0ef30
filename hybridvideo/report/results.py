"""What an evaluation found, read from results.json, and the files that could not be read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hybridvideo.report.numbers import known

Row = Mapping[str, Any]  # one line of a table that a job has written
Rows = Sequence[Row]

MEASURES = {"top1": "top-1", "top5": "top-5", "mean_class_accuracy": "mean class accuracy"}
TOP5_FROM = 6
"""Fewest classes for which top-5 is meaningful: of five classes or fewer it is always 1."""


@dataclass(frozen=True)
class Accuracy:
    """A named accuracy with its confidence interval; fractions."""

    name: str
    value: float
    interval: Sequence[float] | None = None


@dataclass(frozen=True)
class ClassAccuracy:
    """Videos of a class, and the fraction classified correctly; None without a video."""

    label: str
    videos: int
    accuracy: float | None

    @classmethod
    def of(cls, row: Row) -> ClassAccuracy:
        """Read a class in results.json."""
        return cls(str(row["label"]), int(row["videos"]), row["accuracy"])


@dataclass(frozen=True)
class Failure:
    """A file without a result, and why."""

    path: str
    status: str
    reason: str

    @classmethod
    def of(cls, row: Row) -> Failure:
        """Read a row of a table or of the failures in results.json."""
        return cls(str(row["path"]), str(row["status"]), str(row.get("reason") or ""))


@dataclass(frozen=True)
class Results:
    """The figures of one evaluation."""

    labels: tuple[str, ...]
    num_videos: int
    num_failed: int
    measured: Mapping[str, Accuracy]
    """By the names in MEASURES; without those that are not known."""
    confusion: Sequence[Sequence[int]]
    """Videos by true class (rows) and predicted class (columns)."""
    per_class: tuple[ClassAccuracy, ...] = ()
    failures: tuple[Failure, ...] = ()
    seconds: float | None = None
    videos_per_second: float | None = None
    model: str | None = None
    checkpoint: str | None = None
    protocol: Mapping[str, object] | None = None

    @classmethod
    def of(cls, results: Mapping[str, Any]) -> Results:
        """Read the content of a results.json."""
        measured = {
            name: Accuracy(title, results[name], results.get(f"{name}_interval"))
            for name, title in MEASURES.items()
            if known(results[name])
        }
        return cls(
            labels=tuple(results["labels"]),
            num_videos=int(results["num_videos"]),
            num_failed=int(results["num_failed"]),
            measured=measured,
            confusion=results["confusion"],
            per_class=tuple(map(ClassAccuracy.of, results["per_class"])),
            failures=tuple(map(Failure.of, results["failures"])),
            seconds=results.get("seconds"),
            videos_per_second=results.get("videos_per_second"),
            model=results.get("model"),
            checkpoint=results.get("checkpoint"),
            protocol=results.get("protocol"),
        )

    @property
    def judged(self) -> int:
        """Videos that the accuracies cover: those that could be read."""
        return self.num_videos - self.num_failed

    @property
    def chance(self) -> float:
        """Top-1 accuracy of guessing."""
        return 1 / len(self.labels)

    @property
    def top1(self) -> Accuracy | None:
        """Top-1 accuracy; None without a video."""
        return self.measured.get("top1")

    @property
    def shows_top5(self) -> bool:
        """Whether top-5 accuracy is meaningful for these classes."""
        return len(self.labels) >= TOP5_FROM

    @property
    def accuracies(self) -> tuple[Accuracy, ...]:
        """The accuracies worth showing; none without a video that could be read."""
        if not self.judged:
            return ()
        return tuple(value for name, value in self.measured.items() if name != "top5" or self.shows_top5)
