"""The page of an evaluation: accuracy with intervals, mistakes, certainty, clips, unreadable files, settings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hybridvideo.report.contact_sheet import Sample
from hybridvideo.report.page import Section, page, write_page
from hybridvideo.report.results import Results
from hybridvideo.report.sections.accuracy import accuracy_blocks, mistakes_blocks, named_correctly, score_blocks
from hybridvideo.report.sections.settings import UNSTATED, MadeWith, setting_blocks
from hybridvideo.report.sections.videos import contact_blocks, unreadable_blocks


def evaluation_page(
    path: str | Path,
    results: Results,
    samples: Sequence[Sample] = (),
    made_with: MadeWith = UNSTATED,
    *,
    scores: Sequence[float] = (),
    correct: Sequence[bool] | None = None,
    title: str | None = None,
    mark: str = "",
) -> Path:
    """Write the page of an evaluation.

    scores: of the predicted label, for each video that was read; correct: whether that label is right.
    """
    name = f"Evaluation of {results.model}" if results.model else "Evaluation"
    sections = [
        Section("Accuracy", accuracy_blocks(results)),
        Section("Mistakes", mistakes_blocks(results)),
        Section("Certainty", score_blocks(scores, correct)),
        Section("Clips", contact_blocks(samples, "test clips, picked so that mistakes are seen")),
        Section("Unreadable files", unreadable_blocks(results.failures)),
        Section("Settings", setting_blocks(made_with, protocol_of(results))),
    ]
    lead = f"{named_correctly(results, 'videos')}, {len(results.labels)} classes."
    return write_page(path, page(title or name, lead, sections, mark=mark))


def protocol_of(results: Results) -> dict[str, object]:
    """Return what was evaluated, and how."""
    identity = {"model": results.model, "checkpoint": results.checkpoint}
    return {**{name: value for name, value in identity.items() if value}, **(results.protocol or {})}
