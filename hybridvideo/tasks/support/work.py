"""The work of a bulk job: from inputs to rows."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import pyarrow as pa

Row: TypeAlias = dict[str, Any]


class RowsInOrder(Protocol):
    """Computes the rows of inputs one after another, in the order in which it takes their indices."""

    def __call__(self, *, order: Iterable[int]) -> Iterable[Row]: ...


def one_row(first: Row) -> int:
    """Return 1: every input has one row."""
    return 1


def nothing_listed(index: int) -> Row:
    """Return no columns: none come from the list."""
    return {}


@dataclass(frozen=True)
class BulkWork:
    """The work of a bulk job: from inputs to rows.

    label: for the progress bar. notes: where the rows come from, for the table. schema: its columns, among them
    `path`, `status`, `bytes` and `mtime_ns`. compute: rows of inputs, each with its input's `index`. rows_of: how many
    rows an input has, from its first row. listed: columns that come from the list, not from the file. free: notes,
    besides those in `job_identity`, that do not make it another job. held: status and reason of the inputs that a
    quarantine keeps closed, by index; None without a quarantine.
    """

    label: str
    notes: dict[str, Any]
    schema: pa.Schema
    compute: RowsInOrder
    rows_of: Callable[[Row], int] = one_row
    listed: Callable[[int], Row] = nothing_listed
    free: tuple[str, ...] = ()
    held: Mapping[int, tuple[str, str]] | None = None

    def by_input(self, order: Iterable[int]) -> Iterator[list[Row]]:
        """Yield the rows of each input as soon as they are complete."""
        return self.grouped(self.compute(order=order))

    def grouped(self, rows: Iterable[Row]) -> Iterator[list[Row]]:
        """Group rows by input."""
        waiting = iter(rows)
        for first in waiting:
            yield [first, *itertools.islice(waiting, self.rows_of(first) - 1)]
