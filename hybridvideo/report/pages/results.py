"""One function per page: what a job leaves in its folder -> `report.html`, one file that opens anywhere.

Each gives the path it wrote. Texts and tables are escaped; whatever is missing leaves its section out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath

import numpy as np
import numpy.typing as npt

from hybridvideo.documents import read_json_object
from hybridvideo.report.contact_sheet import Sample
from hybridvideo.report.history import curve_blocks, read_metrics, step_blocks, training_cards, training_lead
from hybridvideo.report.page import (
    Html,
    Section,
    box,
    columns,
    facts,
    page,
    percent,
    readable,
    table,
    write_page,
)
from hybridvideo.report.pages.demo import (
    Arm,
    demo_confusion,
    demo_curves,
    demo_lead,
    demo_predictions,
    demo_result,
    demo_time,
)
from hybridvideo.report.sections import (
    Results,
    Rows,
    accuracy_blocks,
    contact_blocks,
    feature_block,
    histogram_block,
    mistakes_blocks,
    named_correctly,
    prediction_table,
    setting_blocks,
    unreadable_blocks,
)

GROUPS_BY_FILE = 24
"""With more files than this, a scatter is coloured by folder."""


# ---- training --------------------------------------------------------------------------------------------------------


def training_page(
    path: str | Path,
    run: str | Path | Rows,
    results: Results | None = None,
    samples: Sequence[Sample] = (),
    environment: Mapping[str, str] | None = None,
    config: str | None = None,
    *,
    title: str = "Training",
) -> Path:
    """Curves, speed, the evaluation if there is one, clips, settings.

    run: a run folder, or the rows of its metrics.jsonl. Of a folder, `environment.json` and `config.yaml` are read
    where they are not given.
    """
    if isinstance(run, (str, Path)):
        folder = Path(run)
        rows: Rows = read_metrics(folder / "metrics.jsonl")
        environment = environment or _json_facts(folder / "environment.json")
        config = config or _text_of(folder / "config.yaml")
    else:
        rows = run
    sections = [
        Section("Summary", training_cards(rows)),
        Section("Curves", curve_blocks(rows, results)),
        Section("Accuracy", accuracy_blocks(results) if results else ()),
        Section("Mistakes", mistakes_blocks(results) if results else ()),
        Section("Clips", contact_blocks(samples, "validation clips, picked so that mistakes are seen")),
        Section("Unreadable files", unreadable_blocks(results["failures"]) if results else ()),
        Section("Speed and steps", step_blocks(rows)),
        Section("Settings", setting_blocks(environment, config, results.get("protocol") if results else None)),
    ]
    return write_page(path, page(title, training_lead(rows, results), sections))


def _text_of(file: Path) -> str | None:
    return file.read_text(encoding="utf-8") if file.is_file() else None


def _json_facts(file: Path) -> dict[str, str] | None:
    if not file.exists():
        return None
    return {key: str(value) for key, value in read_json_object(file, "remove it for a page without it").items()}


# ---- evaluation ------------------------------------------------------------------------------------------------------


def evaluation_page(
    path: str | Path,
    results: Results,
    samples: Sequence[Sample] = (),
    environment: Mapping[str, str] | None = None,
    config: str | None = None,
    *,
    scores: Sequence[float] = (),
    correct: Sequence[bool] | None = None,
    title: str | None = None,
    mark: str = "",
) -> Path:
    """Accuracy with intervals, confusion, classes, clips, files that could not be read, settings.

    results: as in results.json. scores: of the predicted label, for each video that was read; correct: whether that
    label is right.
    """
    name = f"Evaluation of {results['model']}" if results.get("model") else "Evaluation"
    histogram = histogram_block(scores, correct)
    identity = {key: results[key] for key in ("model", "checkpoint") if results.get(key)}
    sections = [
        Section("Accuracy", accuracy_blocks(results)),
        Section("Mistakes", mistakes_blocks(results)),
        Section("Certainty", (histogram,) if histogram else ()),
        Section("Clips", contact_blocks(samples, "test clips, picked so that mistakes are seen")),
        Section("Unreadable files", unreadable_blocks(results["failures"])),
        Section("Settings", setting_blocks(environment, config, {**identity, **results.get("protocol", {})})),
    ]
    lead = f"{named_correctly(results, 'videos')}, {len(results['labels'])} classes."
    return write_page(path, page(title or name, lead, sections, mark=mark))


# ---- bulk jobs -------------------------------------------------------------------------------------------------------


def prediction_page(
    path: str | Path,
    rows: Rows,
    samples: Sequence[Sample] = (),
    summary: Mapping[str, object] | None = None,
    environment: Mapping[str, str] | None = None,
    config: str | None = None,
    *,
    title: str = "Predictions",
    mark: str = "",
) -> Path:
    """The videos with their labels, how often each label came, how sure the model was, and what could not be read.

    rows: `path`, `status`, `reason`, `label`, `score`, `topk_labels`, `topk_scores`; a row without a
    label was unreadable.
    """
    named = [row for row in rows if row.get("label") is not None]
    failed = [row for row in rows if row.get("label") is None]
    counted = Counter(str(row["label"]) for row in named)
    histogram = histogram_block([float(row["score"]) for row in named])
    counts = table(("label", "videos", "share"), _label_counts(counted), numbers=(1, 2))
    at_a_glance = [*([box(counts, title="Labels")] if counted else []), *([histogram] if histogram else [])]
    sections = [
        Section("Summary", (*_summary(summary), *([columns(*at_a_glance)] if at_a_glance else []))),
        Section("Clips", contact_blocks(samples, "of the videos")),
        Section("Unreadable files", unreadable_blocks(failed)),
        Section("Videos", (prediction_table(named),) if named else ()),
        Section("Settings", setting_blocks(environment, config)),
    ]
    return write_page(path, page(title, done("videos classified", named, failed), sections, mark=mark))


def _label_counts(counted: Counter[str], most: int = 20) -> list[tuple[str, int, str]]:
    total = sum(counted.values())
    lines = [(label, count, percent(count / total, 0)) for label, count in counted.most_common(most)]
    rest = total - sum(count for _, count, _ in lines)
    return [*lines, (f"{len(counted) - most} other labels", rest, percent(rest / total, 0))] if rest else lines


def _summary(summary: Mapping[str, object] | None) -> tuple[Html, ...]:
    return (box(facts(summary)),) if summary else ()


def done(what: str, read: Rows, failed: Rows) -> str:
    """What a bulk job did, in a sentence; a file that could not be read has one row."""
    partial = len({str(row["path"]) for row in read if row["status"] == "partial"})
    faults = [(len(failed), "could not be read"), (partial, "only read in part")]
    said = [f"{readable(count)} {'file' if count == 1 else 'files'} {fault}" for count, fault in faults if count]
    return f"{readable(len(read))} {what}; {', '.join(said) or 'every file was read'}."


def extraction_page(
    path: str | Path,
    summary: Mapping[str, object],
    features_ND: npt.ArrayLike,
    rows: Rows,
    environment: Mapping[str, str] | None = None,
    config: str | None = None,
    *,
    samples: Sequence[Sample] = (),
    title: str = "Features",
    mark: str = "",
) -> Path:
    """The features in the plane and what they were made from.

    rows: one per clip (`path`, `status`, `start`, `end`, and `label` where it is known); an unreadable file has one
    row, whose `start` is None. features_ND: one row per clip, in their order.
    """
    features = np.asarray(features_ND)
    read = [row for row in rows if row["start"] is not None]
    failed = [row for row in rows if row["start"] is None]
    assert len(features) == len(read), f"{len(features)} features for {len(read)} clips"
    groups, coloured_by = clip_groups(read)
    scatter = feature_block(features, groups, coloured_by)
    files = len({str(row["path"]) for row in read})
    shape = {"clips": len(read), "files": files, "numbers per clip": features.shape[1] if features.ndim == 2 else 0}
    sections = [
        Section("Summary", _summary({**shape, **summary})),
        Section("Features", (scatter,) if scatter else ()),
        Section("Clips", contact_blocks(samples, "of the clips")),
        Section("Unreadable files", unreadable_blocks(failed)),
        Section("Settings", setting_blocks(environment, config)),
    ]
    return write_page(path, page(title, done("clips turned into features", read, failed), sections, mark=mark))


def clip_groups(rows: Rows) -> tuple[list[str] | None, str]:
    """What to colour clips by, and its name: the label where it is known, else the file, else the folder."""
    if any(row.get("label") is not None for row in rows):
        return ["unknown" if row.get("label") is None else str(row["label"]) for row in rows], "label"
    files = [PurePath(str(row["path"])) for row in rows]
    if len(set(files)) <= GROUPS_BY_FILE:
        return short_names(files), "file"
    folders = short_names([file.parent for file in files])
    return (folders, "folder") if len(set(folders)) > 1 else (None, "")


def short_names(paths: Sequence[PurePath]) -> list[str]:
    """Last parts of the paths, or all of them where two share theirs."""
    names = [path.name for path in paths]
    return names if len(set(names)) == len(set(paths)) else [str(path) for path in paths]


# ---- the demo --------------------------------------------------------------------------------------------------------


def demo_page(
    path: str | Path,
    summary: Mapping[str, object],
    hybrid: Arm,
    control: Arm,
    *,
    timings: Mapping[str, float],
    samples: Sequence[Sample] = (),
    predictions: Rows = (),
    features_ND: npt.ArrayLike | None = None,
    feature_labels: Sequence[str] | None = None,
    environment: Mapping[str, str] | None = None,
    config: str | None = None,
    title: str = "Demo: motion that no single frame shows",
) -> Path:
    """The whole path on generated videos: the hybrid beside a control that has no path between frames.

    timings: seconds per stage, in order. features_ND: one row per clip, with its class in `feature_labels`.
    """
    scatter = feature_block(features_ND, feature_labels, "true motion") if features_ND is not None else None
    sections = [
        Section("Result", demo_result(hybrid, control)),
        Section("What each confuses", demo_confusion(hybrid, control)),
        Section("Training", demo_curves(hybrid, control)),
        Section("Clips", contact_blocks(samples, "held-out clips with the hybrid's answer")),
        Section("Features", (scatter,) if scatter else ()),
        Section("Classified files", demo_predictions(predictions)),
        Section("Time and data", demo_time(summary, timings)),
        Section("Settings", setting_blocks(environment, config, hybrid.results.get("protocol"))),
    ]
    return write_page(path, page(title, demo_lead(hybrid, control), sections))
