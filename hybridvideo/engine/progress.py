"""Progress of long work: a bar on a terminal; a plain line now and then if the output is a file or a pipe."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from hybridvideo.text import shown

SECONDS_BETWEEN_LINES = 15.0


class Advance(Protocol):
    """Called as work is done."""

    def __call__(self, steps: int = 1, note: str = "") -> None: ...


@contextmanager
def progress(label: str, total: int, visible: bool = True, done: int = 0) -> Iterator[Advance]:
    """A context that yields `advance(steps, note)`; `visible=False` (all processes but the first) shows nothing."""
    if not visible or total == 0:
        yield lambda steps=1, note="": None
    elif sys.stderr.isatty():
        yield from bar(label, total, done)
    else:
        yield lines(label, total, done)


def bar(label: str, total: int, done: int) -> Iterator[Advance]:
    """A rich progress bar on standard error."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as moving:
        task = moving.add_task(shown(label), total=total, completed=done, note="")

        def advance(steps: int = 1, note: str = "") -> None:
            moving.update(task, advance=steps, note=shown(note))

        yield advance


def lines(label: str, total: int, done: int) -> Advance:
    """Print a line every SECONDS_BETWEEN_LINES, the first after that time, so that short work prints nothing."""
    printed = time.monotonic()

    def advance(steps: int = 1, note: str = "") -> None:
        nonlocal done, printed
        done += steps
        if time.monotonic() - printed > SECONDS_BETWEEN_LINES:
            printed = time.monotonic()
            print(shown(f"{label}: {done}/{total} {note}".rstrip()), file=sys.stderr, flush=True)

    return advance
