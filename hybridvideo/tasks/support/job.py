"""A bulk job as it is asked for: what it makes of its inputs, and how it runs."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from hybridvideo.config.jobs import Precision
from hybridvideo.data.processes.workers import DEADLINE
from hybridvideo.errors import UserError


@dataclass(frozen=True)
class Job:
    """How a bulk job runs. join: also beside others that make the same table. overwrite: all anew, in its place."""

    workers: int = 2
    device: str = "auto"
    precision: Precision = "fp32"
    max_bad: float = 1.0
    deadline: float = DEADLINE
    quarantine: str | None = None
    join: bool = False
    overwrite: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.max_bad <= 1:
            raise UserError(f"max_bad is {self.max_bad}; give a share from 0 to 1")


@dataclass(frozen=True)
class Work:
    """What a bulk job makes of its inputs.

    label: for the progress. notes: where the rows come from, for the table. schema: its columns, among them `path`,
    `status`, `bytes` and `mtime_ns`. compute: rows of inputs, one after another in the order in which it takes their
    indices; each row has its input's `index`. rows_of: how many rows an input has whose first row is this. listed:
    columns that come from the list, not from the file. free: notes, besides those of `identity`, that make no other
    job. held: status and reason of the inputs that a quarantine keeps closed, by index; None where none was given.
    """

    label: str
    notes: dict[str, Any]
    schema: pa.Schema
    compute: Callable[[Iterable[int]], Iterable[dict[str, Any]]]
    rows_of: Callable[[dict[str, Any]], int] = lambda row: 1
    listed: Callable[[int], dict[str, Any]] = lambda index: {}
    free: tuple[str, ...] = ()
    held: Mapping[int, tuple[str, str]] | None = None

    def by_input(self, rows: Iterable[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
        """The rows of one input after another, each as soon as it is complete."""
        waiting = iter(rows)
        for first in waiting:
            yield [first, *itertools.islice(waiting, self.rows_of(first) - 1)]
