"""The page of a scan: how healthy a corpus is, what it holds, which files are bad, and what to do next."""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from hybridvideo.errors import USABLE
from hybridvideo.report.page import (
    Cell,
    Html,
    Markup,
    Section,
    bar,
    box,
    card,
    cards,
    columns,
    facts,
    page,
    paragraph,
    percent,
    readable,
    table,
    write_page,
)
from hybridvideo.report.sections import Rows, setting_blocks, unreadable_blocks
from hybridvideo.text import duration

MOST_KINDS = 12
"""Most lines of a table of codecs or sizes."""
LENGTHS = (1, 2, 5, 10, 20, 30, 60, 300, 1800)
"""Seconds between the bars of the durations."""
SLOWEST = 10
MOST_REASONS = 3
"""Most reasons of a kind of fault that are told in words."""

MEANINGS = {
    "ok": "every promised frame decodes",
    "partial": "damaged or cut off; used as far as it decodes",
    "short": "few frames; clips are padded",
    "no_video": "no video stream in it",
    "unreadable": "nothing decodes",
    "unsupported": "a codec or pixel format that is not decoded here",
    "refused": "not opened, for safety",
    "missing": "listed, but not there",
    "timeout": "took longer than the deadline, twice",
    "crashed": "ended its decoding process, twice",
}


def scan_page(
    path: str | Path, rows: Rows, summary: Mapping[str, object], notes: Mapping[str, Any], *, title: str = "Scan",
    mark: str = "",
) -> Path:  # fmt: skip
    """rows: as in the table of a scan, with `seconds`. notes: its provenance, with `environment`."""
    bad = [row for row in rows if row["status"] not in USABLE]
    partial = [row for row in rows if row["status"] == "partial"]
    steps = next_steps(rows, str(summary["table"]))
    sections = [
        Section("Health", (scan_cards(rows), status_box(rows))),
        Section("What to do next", (box(*map(paragraph, steps)),) if steps else ()),
        Section("Bad files", unreadable_blocks(bad)),
        Section("Damaged files", unreadable_blocks(partial)),
        Section("What the corpus holds", corpus_blocks(rows)),
        Section("Slow files", slow_blocks(rows)),
        Section("Settings", (box(facts(summary), title="Scan"), *setting_blocks(notes.get("environment"), None))),
    ]
    healthy = "Every file is usable" if rows else "No file"
    count = f"{readable(len(bad))} of {readable(len(rows))} files are unusable" if bad else healthy
    some = f"; {readable(len(partial))} more are damaged and used in part" if partial else ""
    return write_page(path, page(title, f"{count}{some}.", sections, mark=mark))


def next_steps(rows: Rows, scanned: str) -> list[str]:
    """A sentence for each thing there is to do; none for a healthy corpus. scanned: the table of the scan."""
    counts = Counter(str(row["status"]) for row in rows)
    bad = sum(count for status, count in counts.items() if status not in USABLE)
    wanted = [
        (0 if bad == len(rows) else bad, f"unusable: {quarantine_advice(scanned)}"),
        (counts["refused"], f"refused, not opened for safety: {reasons(rows, 'refused')}. Of links, scan the folder "
                            "they lead to, or a list of absolute paths."),
        (counts["unreadable"], f"of which nothing decodes: {reasons(rows, 'unreadable')}. Fetch them again, and see "
                               "that they are videos."),
        (counts["missing"], "listed, but not there: fetch them, or name their folder with --root (--data.root in "
                            "training)."),
        (counts["no_video"], "without a video stream: take them off the list."),
        (counts["partial"], "damaged: training uses what decodes. Fetch them again if you can."),
        (counts["short"], "with fewer frames than --short says: they are used, and clips of them padded (`clip.pad`)."),
        (counts["timeout"], "past the deadline: if they are long, scan with a longer --deadline."),
        (counts["crashed"], "ended their decoding process, twice: take them off the list."),
        (counts["unsupported"], f"not decoded here: {reasons(rows, 'unsupported')}. Transcode them with another "
                                "program."),
        (len(identical(rows)), "with the same bytes as another file of the list: see that none stands in both training "
                               "and validation."),
    ]  # fmt: skip
    steps = [f"{readable(count)} {'file' if count == 1 else 'files'} {sentence}" for count, sentence in wanted if count]
    return ["No file can be used:", *steps] if rows and bad == len(rows) else steps


def quarantine_advice(scanned: str) -> str:
    """How training and the bulk jobs leave out what a scan found unusable."""
    where = shlex.quote(scanned)
    if Path(scanned).suffix != ".parquet":
        return "scan again with --out NAME.parquet for a table that training and bulk jobs take as their quarantine."
    return (
        f"add `--data.quarantine {where}` to train and evaluate, `--quarantine {where}` to predict and extract; these "
        "files are then not opened, and stay counted. One that is mended is tried again."
    )


def reasons(rows: Rows, status: str) -> str:
    """Why files have a status, most frequent first: `file is empty (7), a named pipe, not a regular file (2)`."""
    counts = Counter(without_name(str(row["reason"])) for row in rows if row["status"] == status)
    told = "; ".join(f"{reason} ({readable(count)})" for reason, count in counts.most_common(MOST_REASONS))
    return told + ("; ..." if len(counts) > MOST_REASONS else "")


def without_name(reason: str) -> str:
    """A reason without the quoted file name that it begins with."""
    return re.sub(r"""^(['"])(?:\\.|(?!\1).)*\1:? *""", "", reason) or "no reason known"


def identical(rows: Rows) -> list[Mapping[str, Any]]:
    """Files whose content another file of an earlier row has too; a file that is listed twice is one file."""
    first: dict[str, str] = {}
    again = []
    for row in rows:
        if row["checksum"] and row["bytes"] and first.setdefault(row["checksum"], row["path"]) != row["path"]:
            again.append(row)
    return again


# ---- health ----------------------------------------------------------------------------------------------------------


def scan_cards(rows: Rows) -> Html:
    """The corpus in a few numbers."""
    usable = [row for row in rows if row["status"] in USABLE]
    length = sum(row["duration"] or 0 for row in usable)
    sizes = [row["bytes"] for row in rows if row["bytes"] is not None]
    bad = len(rows) - len(usable)
    frames = sum(row["decoded"] or 0 for row in usable)
    each = f"{_size(sum(sizes) / len(sizes))} a file" if sizes else "no file is there"
    good = "good" if usable else None
    return cards(
        card("usable", _share(len(usable), len(rows)), f"{readable(len(usable))} files", tone=good),
        card("unusable", readable(bad), _share(bad, len(rows)), tone="bad" if bad else None),
        card("usable video", duration(length), f"{readable(frames)} frames decoded" if frames else "not decoded"),
        card("size", _size(sum(sizes)), each),
    )


def _share(count: int, total: int) -> str:
    return percent(count / total if total else None)


def _size(count: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 999.5:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{readable(count)} TB"


def status_box(rows: Rows) -> Html:
    """How many files have which status, and what it means."""
    counts = Counter(str(row["status"]) for row in rows)
    lines: list[Sequence[Cell | Markup]] = [
        (status, counts[status], bar(counts[status] / len(rows)), percent(counts[status] / len(rows)), meaning)
        for status, meaning in MEANINGS.items()
        if counts[status]
    ]
    return box(table(("status", "files", "", "share", "meaning"), lines, numbers=(1, 3)), title="Status")


# ---- what the corpus holds -------------------------------------------------------------------------------------------


def corpus_blocks(rows: Rows) -> tuple[Html, ...]:
    """Codecs, sizes, frame rates and durations of the files that could be opened."""
    known = [row for row in rows if row["codec"]]
    if not known:
        return ()
    return (
        columns(
            lengths_box(known),
            counts_box("Codec and pixel format", (f"{row['codec']}, {row['pixel_format']}" for row in known)),
            counts_box("Size", (_shape(row) for row in known)),
            counts_box("Frames a second", (_rate(row) for row in known)),
        ),
    )


def _shape(row: Mapping[str, Any]) -> str:
    return f"{row['width']} x {row['height']}" + (f", turned {row['rotation']}°" if row["rotation"] else "")


def _rate(row: Mapping[str, Any]) -> str:
    return f"{row['fps']:.2f}".rstrip("0").rstrip(".") + ("" if row["regular"] else ", uneven")


def counts_box(title: str, values: Iterable[str]) -> Html:
    """How often each value comes, most frequent first."""
    counts = Counter(values)
    total = sum(counts.values())
    lines: list[Sequence[Cell | Markup]] = [
        (value, count, bar(count / total)) for value, count in counts.most_common(MOST_KINDS)
    ]
    rest = counts.most_common()[MOST_KINDS:]
    if rest:
        others = sum(count for _, count in rest)
        lines.append((f"{len(rest)} others", others, bar(others / total)))
    return box(table(("", "files", ""), lines, numbers=(1,)), title=title)


def lengths_box(rows: Rows) -> Html:
    """How long the videos are; ranges without one between others stay."""
    edges = (0, *LENGTHS, float("inf"))
    counts = [sum(low <= row["duration"] < high for row in rows) for low, high in pairwise(edges)]
    filled = [i for i, count in enumerate(counts) if count]
    lines: list[Sequence[Cell | Markup]] = [
        (_range(edges[i], edges[i + 1]), counts[i], bar(counts[i] / max(counts)))
        for i in range(filled[0], filled[-1] + 1)
    ]
    return box(table(("", "files", ""), lines, numbers=(1,)), title="Duration")


def _range(low: float, high: float) -> str:
    if high == float("inf"):
        return f"{_length(low)} or more"
    return f"{_length(low)} to {_length(high)}" if low else f"under {_length(high)}"


def _length(seconds: float) -> str:
    return f"{seconds:g} s" if seconds < 60 else f"{seconds / 60:g} min"


def slow_blocks(rows: Rows) -> tuple[Html, ...]:
    """Files that took longest for their length, where that stands out."""
    timed = [row for row in rows if row.get("seconds") and row["duration"]]
    timed.sort(key=lambda row: float(row["seconds"]) / float(row["duration"]), reverse=True)
    lines = [
        (str(row["path"]), f"{row['seconds']:.2f} s", duration(row["duration"]),
         f"{readable(row['duration'] / row['seconds'])}x", _shape(row), str(row["codec"]))
        for row in timed[:SLOWEST]
    ]  # fmt: skip
    header = ("file", "took", "length", "real time", "size", "codec")
    return (box(table(header, lines, numbers=(1, 2, 3)), title="Slowest to decode, for their length"),) if lines else ()
