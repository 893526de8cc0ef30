"""The page of a scan: how healthy a corpus is, what it contains, which files are bad, and what to do next."""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

from hybridvideo.errors import USABLE
from hybridvideo.report.markup import (
    Cell,
    Html,
    Markup,
    bar,
    box,
    card,
    cards,
    columns,
    facts,
    paragraph,
    table,
)
from hybridvideo.report.numbers import percent, readable
from hybridvideo.report.page import Section, page, write_page
from hybridvideo.report.results import Failure, Row, Rows
from hybridvideo.report.sections.settings import UNSTATED, MadeWith, setting_blocks
from hybridvideo.report.sections.videos import unreadable_blocks
from hybridvideo.text import duration

MOST_KINDS = 12
"""Most lines of a table of codecs or sizes."""
LENGTHS = (1, 2, 5, 10, 20, 30, 60, 300, 1800)
"""Seconds between the bars of the durations."""
SLOWEST = 10
MOST_REASONS = 3
"""Most reasons for a status that are spelled out."""

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
    "crashed": "crashed its decoding process, twice",
}


ADVICE = {
    "refused": "refused, not opened for safety: {reasons}. For links, scan the folder they lead to, or a list of "
    "absolute paths.",
    "unreadable": "from which nothing decodes: {reasons}. Download them again, and check that they are videos.",
    "missing": "listed, but not there: download them, or give their folder with --root (--data.root in training).",
    "no_video": "without a video stream: take them off the list.",
    "partial": "damaged: training uses what decodes. Download them again if you can.",
    "short": "with fewer frames than --short: they are used, and their clips are padded (`clip.pad`).",
    "timeout": "past the deadline: if they are long, scan with a longer --deadline.",
    "crashed": "crashed their decoding process, twice: take them off the list.",
    "unsupported": "not decoded here: {reasons}. Transcode them with another program.",
}
"""What to do about the files of a status."""
IDENTICAL = "with the same bytes as another file of the list: make sure that none is in both training and validation."


def scan_page(
    path: str | Path,
    rows: Rows,
    summary: Mapping[str, object],
    made_with: MadeWith = UNSTATED,
    *,
    title: str = "Scan",
    mark: str = "",
) -> Path:
    """Write the page of a scan. rows: those of its table, with `seconds`."""
    bad = [Failure.of(row) for row in rows if row["status"] not in USABLE]
    partial = [Failure.of(row) for row in rows if row["status"] == "partial"]
    steps = next_steps(rows, str(summary["table"]))
    sections = [
        Section("Health", (scan_cards(rows), status_box(rows))),
        Section("What to do next", (box(*map(paragraph, steps)),) if steps else ()),
        Section("Bad files", unreadable_blocks(bad)),
        Section("Damaged files", unreadable_blocks(partial)),
        Section("What the corpus holds", corpus_blocks(rows)),
        Section("Slow files", slow_blocks(rows)),
        Section("Settings", (box(facts(summary), title="Scan"), *setting_blocks(made_with))),
    ]
    healthy = "Every file is usable" if rows else "No file"
    count = f"{readable(len(bad))} of {readable(len(rows))} files are unusable" if bad else healthy
    some = f"; {readable(len(partial))} more are damaged and used in part" if partial else ""
    return write_page(path, page(title, f"{count}{some}.", sections, mark=mark))


def next_steps(rows: Rows, scanned: str) -> list[str]:
    """Return a sentence for each thing to do; none for a healthy corpus. scanned: the table of the scan."""
    counts = Counter(str(row["status"]) for row in rows)
    bad = sum(count for status, count in counts.items() if status not in USABLE)
    wanted = [
        (0 if bad == len(rows) else bad, f"unusable: {quarantine_advice(scanned)}"),
        *((counts[status], advice.format(reasons=reasons(rows, status))) for status, advice in ADVICE.items()),
        (len(identical(rows)), IDENTICAL),
    ]
    steps = [f"{readable(count)} {'file' if count == 1 else 'files'} {sentence}" for count, sentence in wanted if count]
    return ["No file can be used:", *steps] if rows and bad == len(rows) else steps


def quarantine_advice(scanned: str) -> str:
    """Say how training and the bulk jobs leave out what a scan found unusable."""
    where = shlex.quote(scanned)
    if Path(scanned).suffix != ".parquet":
        return "scan again with --out NAME.parquet for a table that training and bulk jobs take as their quarantine."
    return (
        f"add `--data.quarantine {where}` to train and evaluate, `--quarantine {where}` to predict and extract; these "
        "files are then not opened, and stay counted. Files that you repair are tried again."
    )


def reasons(rows: Rows, status: str) -> str:
    """Return the reasons for a status, most frequent first: `file is empty (7); a named pipe (2)`."""
    counts = Counter(without_name(str(row["reason"])) for row in rows if row["status"] == status)
    listed = "; ".join(f"{reason} ({readable(count)})" for reason, count in counts.most_common(MOST_REASONS))
    return listed + ("; ..." if len(counts) > MOST_REASONS else "")


def without_name(reason: str) -> str:
    """Return a reason without the quoted file name at its start."""
    return re.sub(r"""^(['"])(?:\\.|(?!\1).)*\1:? *""", "", reason) or "no reason known"


def identical(rows: Rows) -> list[Row]:
    """Return files with the same content as a file in an earlier row; a file that is listed twice is one file."""
    first: dict[str, str] = {}
    again = []
    for row in rows:
        if row["checksum"] and row["bytes"] and first.setdefault(row["checksum"], row["path"]) != row["path"]:
            again.append(row)
    return again


# ---- health ----------------------------------------------------------------------------------------------------------


def scan_cards(rows: Rows) -> Html:
    """Show the corpus in a few numbers."""
    usable = [row for row in rows if row["status"] in USABLE]
    length = sum(row["duration"] or 0 for row in usable)
    sizes = [row["bytes"] for row in rows if row["bytes"] is not None]
    bad = len(rows) - len(usable)
    frames = sum(row["decoded"] or 0 for row in usable)
    each = f"{size_of(sum(sizes) / len(sizes))} per file" if sizes else "no file is there"
    good = "good" if usable else None
    return cards(
        card("usable", share_of(len(usable), len(rows)), f"{readable(len(usable))} files", tone=good),
        card("unusable", readable(bad), share_of(bad, len(rows)), tone="bad" if bad else None),
        card("usable video", duration(length), f"{readable(frames)} frames decoded" if frames else "not decoded"),
        card("size", size_of(sum(sizes)), each),
    )


def share_of(count: int, total: int) -> str:
    """Format a part of a total; a dash without a total."""
    return percent(count / total if total else None)


def size_of(count: float) -> str:
    """Format bytes with a decimal unit."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 999.5:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{readable(count)} TB"


def status_box(rows: Rows) -> Html:
    """Count the files by status, with its meaning."""
    counts = Counter(str(row["status"]) for row in rows)
    lines: list[Sequence[Cell | Markup]] = [
        (status, counts[status], bar(counts[status] / len(rows)), percent(counts[status] / len(rows)), meaning)
        for status, meaning in MEANINGS.items()
        if counts[status]
    ]
    return box(table(("status", "files", "", "share", "meaning"), lines, numbers=(1, 3)), title="Status")


# ---- what the corpus holds -------------------------------------------------------------------------------------------


def corpus_blocks(rows: Rows) -> tuple[Html, ...]:
    """Show codecs, sizes, frame rates and durations of the files that could be opened."""
    known = [row for row in rows if row["codec"]]
    if not known:
        return ()
    return (
        columns(
            lengths_box(known),
            counts_box("Codec and pixel format", (f"{row['codec']}, {row['pixel_format']}" for row in known)),
            counts_box("Size", (shape_of(row) for row in known)),
            counts_box("Frames per second", (rate_of(row) for row in known)),
        ),
    )


def shape_of(row: Row) -> str:
    """Format width, height and rotation."""
    return f"{row['width']} x {row['height']}" + (f", turned {row['rotation']}°" if row["rotation"] else "")


def rate_of(row: Row) -> str:
    """Format the frame rate, and say if it is not constant."""
    return f"{row['fps']:.2f}".rstrip("0").rstrip(".") + ("" if row["regular"] else ", uneven")


def counts_box(title: str, values: Iterable[str]) -> Html:
    """Count values, most frequent first."""
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
    """Count videos by duration, from the first range that has one to the last."""
    edges = (0, *LENGTHS, float("inf"))
    counts = [sum(low <= row["duration"] < high for row in rows) for low, high in pairwise(edges)]
    filled = [i for i, count in enumerate(counts) if count]
    lines: list[Sequence[Cell | Markup]] = [
        (range_of(edges[i], edges[i + 1]), counts[i], bar(counts[i] / max(counts)))
        for i in range(filled[0], filled[-1] + 1)
    ]
    return box(table(("", "files", ""), lines, numbers=(1,)), title="Duration")


def range_of(low: float, high: float) -> str:
    """Format a range of durations."""
    if high == float("inf"):
        return f"{length_of(low)} or more"
    return f"{length_of(low)} to {length_of(high)}" if low else f"under {length_of(high)}"


def length_of(seconds: float) -> str:
    """Format the edge of a range in seconds or minutes."""
    return f"{seconds:g} s" if seconds < 60 else f"{seconds / 60:g} min"


def slow_blocks(rows: Rows) -> tuple[Html, ...]:
    """List the files that took longest to decode for their length."""
    timed = [row for row in rows if row.get("seconds") and row["duration"]]
    timed.sort(key=lambda row: float(row["seconds"]) / float(row["duration"]), reverse=True)
    lines = [
        (
            str(row["path"]),
            f"{row['seconds']:.2f} s",
            duration(row["duration"]),
            f"{readable(row['duration'] / row['seconds'])}x",
            shape_of(row),
            str(row["codec"]),
        )
        for row in timed[:SLOWEST]
    ]
    header = ("file", "took", "length", "real time", "size", "codec")
    return (box(table(header, lines, numbers=(1, 2, 3)), title="Slowest to decode, for their length"),) if lines else ()
