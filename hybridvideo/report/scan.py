"""The page of a scan: how healthy a corpus is, what it holds, which files are bad, and what to do next."""

from __future__ import annotations

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
    duration,
    facts,
    page,
    paragraph,
    percent,
    readable,
    table,
    write_page,
)
from hybridvideo.report.sections import Rows, setting_blocks, unreadable_blocks

MOST_KINDS = 12
"""Most lines of a table of codecs or sizes."""
LENGTHS = (1, 2, 5, 10, 20, 30, 60, 300, 1800)
"""Seconds between the bars of the durations."""
SLOWEST = 10

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
    path: str | Path, rows: Rows, summary: Mapping[str, object], notes: Mapping[str, Any], *, title: str = "Scan"
) -> Path:
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
    count = "Every file is usable" if not bad else f"{readable(len(bad))} of {readable(len(rows))} files are unusable"
    some = f"; {readable(len(partial))} more are damaged and used in part" if partial else ""
    return write_page(path, page(title, f"{count}{some}.", sections))


def next_steps(rows: Rows, scanned: str) -> list[str]:
    """A sentence for each thing there is to do; none for a healthy corpus."""
    counts = Counter(str(row["status"]) for row in rows)
    bad = sum(count for status, count in counts.items() if status not in USABLE)
    wanted = [
        (bad, f"unusable: add `--data.quarantine {scanned}` to train and evaluate, `--quarantine {scanned}` to predict "
              "and extract; these files are then not opened, and stay counted. One that is mended is tried again."),
        (counts["missing"], "listed, but not there: fetch them, or name their folder with --root (--data.root in "
                            "training)."),
        (counts["partial"], "damaged: training uses what decodes. Fetch them again if you can."),
        (counts["short"], "with fewer frames than --short says: they are used, and clips of them padded (`clip.pad`)."),
        (counts["timeout"], "past the deadline: if they are long, scan with a longer --deadline."),
        (counts["unsupported"], "not decoded here: transcode them with another program."),
        (len(identical(rows)), "with the same bytes as another file of the list: see that none stands in both training "
                               "and validation."),
    ]  # fmt: skip
    return [f"{count} {'file' if count == 1 else 'files'} {sentence}" for count, sentence in wanted if count]


def identical(rows: Rows) -> list[Mapping[str, Any]]:
    """Files whose content an earlier row has too."""
    seen: set[str] = set()
    again = []
    for row in rows:
        if row["checksum"] and row["bytes"]:
            if row["checksum"] in seen:
                again.append(row)
            seen.add(row["checksum"])
    return again


# ---- health ----------------------------------------------------------------------------------------------------------


def scan_cards(rows: Rows) -> Html:
    """The corpus in a few numbers."""
    usable = [row for row in rows if row["status"] in USABLE]
    length = sum(row["duration"] for row in usable)
    size = sum(row["bytes"] or 0 for row in rows)
    bad = len(rows) - len(usable)
    frames = sum(row["decoded"] or 0 for row in usable)
    return cards(
        card("usable", percent(len(usable) / len(rows)), f"{readable(len(usable))} files", tone="good"),
        card("unusable", readable(bad), percent(bad / len(rows)), tone="bad" if bad else None),
        card("usable video", duration(length), f"{readable(frames)} frames decoded" if frames else "not decoded"),
        card("size", _size(size), f"{_size(size / len(rows))} a file"),
    )


def _size(count: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


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
         f"{row['duration'] / row['seconds']:.3g}x", _shape(row), str(row["codec"]))
        for row in timed[:SLOWEST]
    ]  # fmt: skip
    header = ("file", "took", "length", "real time", "size", "codec")
    return (box(table(header, lines, numbers=(1, 2, 3)), title="Slowest to decode, for their length"),) if lines else ()
