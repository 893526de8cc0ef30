"""The page of a proof: what failed first, then every check with its figures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from hybridvideo.report.markup import Html, Markup, box, card, cards, facts, folded, preformatted, table
from hybridvideo.report.markup import text as escaped
from hybridvideo.report.page import Section, page
from hybridvideo.report.page import write_page as write

Checks = Sequence[Mapping[str, Any]]
TITLES = {
    "models": "Models against the CPU",
    "peers": "Speed and memory against other implementations",
    "suspicions": "Suspicions",
    "training": "Training",
    "loading": "Loading",
    "inference": "Inference",
    "compile": "torch.compile",
}


def write_page(path: Path, document: Mapping[str, Any]) -> None:
    """One self-contained HTML file."""
    checks: Checks = document["checks"]
    failed = set(document["failed"])
    sections = [Section("Result", (counts(document), *failures([c for c in checks if c["name"] in failed])))]
    for room, members in groupby(checks, lambda check: str(check["name"]).split("/")[0]):
        sections.append(Section(TITLES.get(room, room), tuple(blocks(list(members)))))
    about = {"command": document["command"], "date": document["date"], "seconds": document["seconds"]}
    sections.append(Section("Machine", (box(facts({**about, **document["machine"]})),)))
    where = document["machine"].get("GPU") or document["machine"].get("device", "an unknown device")
    write(path, page("Proof on a device", f"{len(checks)} checks on {where}, {document['date']}.", sections))


def counts(document: Mapping[str, Any]) -> Html:
    """How many of each, as cards."""
    failed, skipped = len(document["failed"]), len(document["skipped"])
    passed = sum(check["status"] == "ok" for check in document["checks"])
    return cards(
        card("passed", str(passed), tone="good"),
        card("failed or not reached", str(failed), tone="bad" if failed else "good"),
        card("skipped", str(skipped), tone="second"),
    )


def failures(checks: Checks) -> Iterator[Html]:
    """What failed, and why."""
    for check in checks:
        details = [escaped(check["summary"])]
        if check["trace"]:
            details.append(folded("Traceback", preformatted(check["trace"])))
        yield box(*details, title=check["name"], kind="notice")


def blocks(checks: Checks) -> Iterator[Html]:
    """A table of checks, and the figures of each behind a line."""
    rows = [
        (check["name"], tag(check["status"]), check["summary"], check["settles"], round(check["seconds"], 1))
        for check in checks
    ]
    yield table(("check", "status", "finding", "what it settles", "seconds"), rows, numbers=[4])
    for check in checks:
        if check["figures"]:
            command = {"command": check["command"]}
            yield folded(check["name"], facts({**dict(flat(check["figures"])), **command}))


def flat(figures: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, object]]:
    """Nested figures under joined names."""
    for name, value in figures.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{name}, ")
        else:
            yield f"{prefix}{name}", value


def tag(status: str) -> Markup:
    """The status in its colour."""
    kind = {"ok": "good", "failed": "bad"}.get(status, "")
    return Markup(Html(f'<span class="tag {kind}">{escaped(status)}</span>'))
