"""A run folder belongs to one run: it is locked during training, and resumed only with the same settings and lists.

.lock            held by the first process, released by its death
config.yaml      the settings, as they were and will be run
started.json     the settings once more, for a config.yaml that was edited, and the folder it was started in
lists/*.parquet  the rows of the lists in their order, with the labels: what `--resume` must find unchanged
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from hybridvideo.config.training import TrainRun
from hybridvideo.data.manifest import Manifest
from hybridvideo.engine.training.checkpoint import settle_run
from hybridvideo.engine.training.run import State
from hybridvideo.errors import HybridVideoError, UserError
from hybridvideo.files import locked, replacing_file, write_json
from hybridvideo.parsing import plain
from hybridvideo.report.environment import environment_facts
from hybridvideo.tasks.support.output_table import printable
from hybridvideo.tasks.support.run_folder import ENVIRONMENT, new_run_folder, run_to_resume, write_run_config
from hybridvideo.tasks.support.start_record import read_started, same_setting, write_started
from hybridvideo.text import one_line

LOCK, LISTS = ".lock", "lists"

# What may differ between a run and its resumption without making it another run.
FREE_TO_CHANGE = {
    ("train", "epochs"),
    ("train", "log_every"),
    ("train", "checkpoint_every"),
    ("train", "trackers"),
    ("train", "keep"),
    ("data", "workers"),
    ("data", "deadline"),
    ("data", "quarantine"),
    ("data", "max_bad"),
    ("data", "bad"),
    ("data", "cache"),
    ("device",),
}


@contextmanager
def run_folder(
    run: TrainRun, lists: dict[str, Manifest], out: str | None, name: str, resume: bool
) -> Iterator[tuple[Path, bool]]:
    """Yield the run's folder, locked until the block ends, and whether it holds a checkpoint to resume from.

    The first process chooses, holds and writes it; an error there is an error everywhere. Raises UserError if
    another process uses it, or if it is to be resumed and was made from other settings or lists.
    """
    with ExitStack() as held:
        choice: list[Any] = [None]
        if PartialState().is_main_process:
            try:
                folder = run_to_resume(out, name) if resume else new_run_folder(out, name)
                held.enter_context(locked(folder / LOCK, "train"))
                choice = [(folder, open_run(folder, run, lists, resume))]
            except HybridVideoError as error:
                choice = [error]
        broadcast_object_list(choice)
        if isinstance(choice[0], HybridVideoError):
            raise choice[0]
        yield choice[0]


def open_run(folder: Path, run: TrainRun, lists: dict[str, Manifest], resume: bool) -> bool:
    """Check what is resumed, write what describes the run; return whether there is a checkpoint to resume from."""
    state = settle_run(folder / "checkpoints") if resume else None
    if resume:
        check_same_run(folder, run)
        check_same_lists(folder, run, lists)
        check_epochs(folder, run, state)
    write_lists(folder, lists)
    write_started(folder, run)
    write_run_config(folder, run)
    write_json(folder / ENVIRONMENT, environment_facts())
    return state is not None


# --- settings ---------------------------------------------------------------------------------------------------------


def with_spacing(run: TrainRun) -> TrainRun:
    """Return the settings with a frame spacing: every frame, unless another is set."""
    if run.clip.interval is None and run.clip.stride is None:
        return replace(run, clip=replace(run.clip, stride=1))
    return run


def check_same_run(folder: Path, run: TrainRun) -> None:
    """Raise UserError for the first setting that matters and differs from the run's own."""
    started = read_started(folder)
    before, now = plain(with_spacing(started.run)), plain(run)
    for section, value in now.items():
        for key, new in value.items() if isinstance(value, dict) else [(None, value)]:
            old = before[section][key] if key else before[section]
            place = (section, key) if key else (section,)
            if place not in FREE_TO_CHANGE and not same_setting(place, old, new, started.folder):
                raise UserError(
                    f"cannot resume {folder}: {'.'.join(place)} was {old!r} and is now {new!r}; "
                    "use the run's settings, or start a new run without --resume"
                )


def check_epochs(folder: Path, run: TrainRun, state: State | None) -> None:
    """Raise UserError if the run is already beyond the requested epochs."""
    done = state.epoch + (state.batch > 0) if state is not None else 0
    if run.epochs < done:
        raise UserError(
            f"cannot resume {folder}: it is in epoch {done} already, and train.epochs is {run.epochs}; "
            f"give --train.epochs {done} or more"
        )


# --- lists ------------------------------------------------------------------------------------------------------------


def write_lists(folder: Path, lists: dict[str, Manifest]) -> None:
    """Write the lists the run is trained and validated on, as they were read."""
    for name, manifest in lists.items():
        with replacing_file(folder / LISTS / f"{name}.parquet") as aside:
            pq.write_table(table_of(manifest), aside, compression="zstd")


def table_of(manifest: Manifest) -> pa.Table:
    """Return the rows of a list, in order, with its labels and its folder."""
    notes = {"labels": json.dumps(manifest.labels), "root": str(manifest.root)}
    return pa.Table.from_pylist([printable(vars(row)) for row in manifest.rows]).replace_schema_metadata(notes)


def check_same_lists(folder: Path, run: TrainRun, lists: dict[str, Manifest]) -> None:
    """Raise UserError if a list's content or order has changed since the run started."""
    for name, manifest in lists.items():
        path = folder / LISTS / f"{name}.parquet"
        if not path.exists():
            continue  # stopped before it was written, or made by a version that did not
        labels, before, now = *read_table(path), table_of(manifest)
        change = changed_labels(labels, manifest.labels) or changed_rows(before, now, labels)
        if change:
            raise UserError(
                f"cannot resume {folder}: {getattr(run.data, name)} is not as it was: {change}; "
                "restore the list, or start a new run without --resume"
            )


def read_table(path: Path) -> tuple[tuple[str, ...], pa.Table]:
    """Return the labels and rows that `write_lists` wrote. Raise UserError if the file is damaged."""
    try:
        table = pq.read_table(path)
        return tuple(json.loads(table.schema.metadata[b"labels"])), table
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} cannot be read ({one_line(error)}); remove it to resume without checking the list"
        ) from error


def changed_labels(before: tuple[str, ...], now: tuple[str, ...]) -> str | None:
    """Describe how the classes differ; "" if they do not."""
    for number, (old, new) in enumerate(zip(before, now, strict=False)):
        if old != new:
            return f"class {number} was {old!r} and is {new!r}"
    if len(before) != len(now):
        return f"it had {len(before)} classes and has {len(now)}"
    return None


def changed_rows(before: pa.Table, now: pa.Table, labels: tuple[str, ...]) -> str | None:
    """Describe how the rows differ; "" if they do not."""
    if before.equals(now):
        return None
    old, new = before.to_pylist(), now.to_pylist()
    differing = [i for i, (a, b) in enumerate(zip(old, new, strict=False)) if a != b]
    if len(old) != len(new):
        first = differing[0] if differing else min(len(old), len(new))
        return f"it had {len(old)} rows and has {len(new)}, first difference in row {first + 1}"
    if not differing:
        return None
    a, b = (described(rows[differing[0]], labels) for rows in (old, new))
    kind = "rows differ" if sorted(map(str, old)) != sorted(map(str, new)) else "rows are in another order"
    return f"{len(differing)} {kind}, first: row {differing[0] + 1} was {a} and is {b}"


def described(row: dict[str, Any], labels: tuple[str, ...]) -> str:
    """Describe a row: its path and the list's other columns."""
    columns = {**row, "label": labels[row["label"]] if row["label"] is not None else None}
    path = columns.pop("path")
    return f"{path} ({', '.join(f'{key} {value}' for key, value in columns.items() if value)})"
