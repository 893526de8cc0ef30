"""The page of an extraction job: features in the plane, clips, files that could not be read, settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath

import numpy as np
import numpy.typing as npt

from hybridvideo.report.contact_sheet import Sample
from hybridvideo.report.page import Section, page, write_page
from hybridvideo.report.pages.predictions_page import job_lead, summary_blocks
from hybridvideo.report.results import Failure, Rows
from hybridvideo.report.sections.settings import UNSTATED, MadeWith, setting_blocks
from hybridvideo.report.sections.videos import contact_blocks, feature_blocks, unreadable_blocks

GROUPS_BY_FILE = 24
"""With more files than this, a scatter is coloured by folder."""


def features_page(
    path: str | Path,
    summary: Mapping[str, object],
    features_ND: npt.ArrayLike,
    rows: Rows,
    made_with: MadeWith = UNSTATED,
    *,
    samples: Sequence[Sample] = (),
    title: str = "Features",
    mark: str = "",
) -> Path:
    """Write the page of an extraction job.

    rows: one per clip (`path`, `status`, `start`, `end`, and `label` if it is known); an unreadable file has one row,
    whose `start` is None. features_ND: one row per clip, in their order.
    """
    features = np.asarray(features_ND)
    read = [row for row in rows if row["start"] is not None]
    failures = [Failure.of(row) for row in rows if row["start"] is None]
    assert len(features) == len(read), f"{len(features)} features for {len(read)} clips"
    groups, coloured_by = clip_groups(read)
    files = len({str(row["path"]) for row in read})
    shape = {"clips": len(read), "files": files, "numbers per clip": features.shape[1] if features.ndim == 2 else 0}
    sections = [
        Section("Summary", summary_blocks({**shape, **summary})),
        Section("Features", feature_blocks(features, groups, coloured_by)),
        Section("Clips", contact_blocks(samples, "of the clips")),
        Section("Unreadable files", unreadable_blocks(failures)),
        Section("Settings", setting_blocks(made_with)),
    ]
    return write_page(path, page(title, job_lead("clips turned into features", read, failures), sections, mark=mark))


def clip_groups(rows: Rows) -> tuple[list[str] | None, str]:
    """Choose what to colour clips by, and its name: the label if it is known, else the file, else the folder."""
    if any(row.get("label") is not None for row in rows):
        return ["unknown" if row.get("label") is None else str(row["label"]) for row in rows], "label"
    files = [PurePath(str(row["path"])) for row in rows]
    if len(set(files)) <= GROUPS_BY_FILE:
        return short_names(files), "file"
    folders = short_names([file.parent for file in files])
    return (folders, "folder") if len(set(folders)) > 1 else (None, "")


def short_names(paths: Sequence[PurePath]) -> list[str]:
    """Return the last parts of the paths, or complete paths if two share theirs."""
    names = [path.name for path in paths]
    return names if len(set(names)) == len(set(paths)) else [str(path) for path in paths]
