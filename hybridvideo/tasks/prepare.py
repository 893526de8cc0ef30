"""`hybridvideo prepare SRC --out DST`: copies of a corpus that load fast, resumable; the originals are never touched.

DST/.../NAME.mp4        the copies, each complete or absent, in the folders of the list
DST/manifest.csv        the list of the copies, with the labels and groups of the originals
DST/prepare.parquet     one row per original: status and reason, sizes, frames
DST/.prepare/           recipe.json (how copies are made) and done.jsonl (what was done, from what): a second call
                        continues there, and copies again whatever has changed
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections import Counter
from collections.abc import Generator, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from hybridvideo.config.jobs import Decoding
from hybridvideo.data.corpus.copies import (
    ASIDE,
    Copy,
    Made,
    Pairs,
    Recipe,
    check_encoder,
    loading_seconds,
    target_names,
    transcode,
)
from hybridvideo.data.decode.known import SUFFIX
from hybridvideo.data.manifest import Manifest, read_manifest, write_manifest
from hybridvideo.data.processes.workers import Lost, each
from hybridvideo.data.reading import listed_file
from hybridvideo.documents import load_json, read_bytes, read_json_object
from hybridvideo.engine.preemption import stopping_at_once
from hybridvideo.engine.progress import progress
from hybridvideo.errors import TooMuchBadData, UserError, VideoError
from hybridvideo.files import append_line, locked, write_json, write_text, writing
from hybridvideo.parsing import parsed, short_repr
from hybridvideo.report.environment import environment_facts
from hybridvideo.tasks.prepare_kinetics import prepare_kinetics_list
from hybridvideo.tasks.support.output_table import write_table
from hybridvideo.text import encodable, shown

MANIFEST = "manifest.csv"
KINETICS = "kinetics400"  # as the source: make its list
KEPT = ("ok", "partial")
TRY_AGAIN = ("timeout", "crashed", "missing")  # may be otherwise the next time
MEASURED_VIDEOS, MEASURED_SECONDS = 8, 60.0
SHOWN = 10  # reasons on the terminal
LARGEST_LEDGER = 2**29  # bytes, of about 300 a video
AGAIN = "remove that file, or give another --out"

SCHEMA = pa.schema(
    [
        ("path", pa.string()),
        ("source", pa.string()),
        ("copy", pa.string()),
        ("status", pa.string()),
        ("reason", pa.string()),
        ("frames", pa.int64()),
        ("width", pa.int64()),
        ("height", pa.int64()),
        ("seconds", pa.float64()),
        ("bytes_before", pa.int64()),
        ("bytes_after", pa.int64()),
    ]
)


@dataclass(frozen=True)
class Done:
    """A line of done.jsonl: an original as it was, its copy's path below DST, and the result."""

    source: str
    size: int
    changed: int  # st_mtime_ns
    copy: str
    made: Made

    def holds(self, plan: Planned, out: Path) -> bool:
        """Return whether the work on this original still holds."""
        same = (self.source, self.size, self.changed, self.copy) == (plan.source, plan.size, plan.changed, plan.copy)
        if not same or self.made.status in TRY_AGAIN:
            return False
        copy = out / self.copy
        return self.made.status not in KEPT or (copy.is_file() and copy.stat().st_size == self.made.bytes_after)


@dataclass(frozen=True)
class Planned:
    """An original as it is now, and the path of its copy. refused: why it may not be opened."""

    source: str
    size: int
    changed: int
    copy: str
    refused: str = ""


def run_preparation(
    source: str,
    out: str | None,
    recipe: Recipe,
    root: str | None,
    annotations: str | None,
    videos: str | None,
    decoding: Decoding,
    max_bad: float,
    overwrite: bool,
) -> int:
    """Run the command: copies of a corpus, or the list of Kinetics-400."""
    if annotations is None and videos is None and (source != KINETICS or os.path.exists(source)):
        if out is None:
            raise UserError("give --out FOLDER for the copies")
        return prepare_copies(source, out, recipe, root, decoding, max_bad, overwrite)
    if source != KINETICS or annotations is None or videos is None:
        call = f"prepare {KINETICS} --annotations CSV --videos FOLDER"
        raise UserError(f"give `{call}`, or another source without these two options")
    return prepare_kinetics_list(annotations, videos, out, max_bad)


def prepare_copies(
    source: str, out: str, recipe: Recipe, root: str | None, decoding: Decoding, max_bad: float, overwrite: bool
) -> int:
    """Copy what `source` lists, and report the results. Raise Preempted if the user stops it."""
    check_encoder()
    manifest = read_source(source, root)
    folder = Path(out)
    plans = plan_copies(manifest, Path(source), folder)
    with open_folder(folder, recipe, overwrite) as ledger:
        done = make_copies(plans, folder, recipe, ledger, decoding)
        made = [Made("refused", plan.refused) if plan.refused else done[plan.source].made for plan in plans]
        kept = [index for index, result in enumerate(made) if result.status in KEPT]
        write_results(folder, manifest, plans, made, kept, recipe)
    lines = summary(folder, plans, made, measure(plans, made, folder))
    if kept:
        lines += [f"wrote {folder / MANIFEST}", f"next: {next_command(manifest, folder / MANIFEST)}"]
    print("\n".join(map(shown, lines)))
    failed = len(made) - len(kept)
    if failed > max_bad * len(made):
        raise TooMuchBadData(f"{failed} of {len(made)} videos have no copy, more than --max-bad {max_bad} allows")
    return 0


# ---- what is to be done


def read_source(source: str, root: str | None) -> Manifest:
    """Return the videos of any list or folder, with labels if each has one."""
    try:
        return read_manifest(source, root=root)
    except UserError as error:
        manifest = read_manifest(source, root=root, labelled=False)  # fails if it is not a list at all
        if not (Path(source).is_dir() or len(manifest) == 1):
            print(shown(f"continuing without labels: {error}"), file=sys.stderr)
        return manifest


def plan_copies(manifest: Manifest, source: Path, out: Path) -> list[Planned]:
    """Plan one copy per row. Raise UserError if one could touch an original."""
    inside = os.path.realpath(out)
    if source.is_dir() and is_under(inside, os.path.realpath(source)):
        raise UserError(f"--out {out} is inside {source}, which is never written to; give a folder outside it")
    plans, copies = [], dict[str, str]()
    for index, name in enumerate(target_names(short_paths(manifest))):
        file = os.path.abspath(manifest.file(index))
        if is_under(os.path.realpath(file), inside):
            raise UserError(f"{file} lies in --out {out}, to which copies are written; give another folder")
        refused = why_refused(manifest, index)
        now = (-1, -1) if refused else _size_and_change(file)
        plans.append(Planned(file, *now, copies.setdefault(file, name), refused))
    return plans


def why_refused(manifest: Manifest, index: int) -> str:
    """Return why a row's path must not be followed; "" if it may."""
    try:
        listed_file(manifest, index)
    except VideoError as error:
        return error.reason
    return ""


def short_paths(manifest: Manifest) -> list[str]:
    """Return the rows' paths for naming copies: as listed, or relative to their common folder if all are absolute."""
    paths = [row.path for row in manifest.rows]
    if not all(map(os.path.isabs, paths)) and manifest.root != Path():
        return paths
    shared = os.path.commonpath([os.path.dirname(os.path.abspath(path)) for path in paths])
    return [os.path.relpath(os.path.abspath(path), shared) for path in paths]


def is_under(path: str, folder: str) -> bool:
    """Return whether a resolved path is the resolved folder or inside it."""
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def _size_and_change(file: str) -> tuple[int, int]:
    try:
        status = os.stat(file)
    except (OSError, ValueError):
        return -1, -1
    return status.st_size, status.st_mtime_ns


@contextlib.contextmanager
def open_folder(out: Path, recipe: Recipe, overwrite: bool) -> Iterator[Path]:
    """Yield the record of finished work in a folder of copies made by this recipe; locked meanwhile."""
    notes = out / ".prepare"
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out} is a file; give a folder")
    if out.is_dir() and not notes.is_dir() and any(out.iterdir()):
        raise UserError(f"--out {out} holds files that `prepare` did not write; give an empty or new folder")
    with locked(notes / "lock", "prepare"):
        if overwrite:
            with writing(notes):
                (notes / "done.jsonl").unlink(missing_ok=True)
        elif changes := other_recipe(notes / "recipe.json", asdict(recipe)):
            raise UserError(f"{out} holds copies of another recipe ({changes}); give another --out or --overwrite")
        write_json(notes / "recipe.json", asdict(recipe))
        yield notes / "done.jsonl"


def other_recipe(file: Path, now: dict[str, Any]) -> str:
    """Return what differs from the recorded recipe; "" if nothing does, or none is recorded."""
    if not file.exists():
        return ""
    then = read_json_object(file, AGAIN)
    now = json.loads(json.dumps(now))
    return ", ".join(
        f"{key} {short_repr(then.get(key))} there, {short_repr(now[key])} now"
        for key in now
        if then.get(key) != now[key]
    )


# ---- doing it


def make_copies(plans: list[Planned], out: Path, recipe: Recipe, ledger: Path, decoding: Decoding) -> dict[str, Done]:
    """Return the result for each original, by path. Raise Preempted if the user stops it; finished work is kept."""
    done = read_done(ledger)
    wanted = {plan.source: plan for plan in plans if not plan.refused}
    waiting = {name: plan for name, plan in wanted.items() if not (name in done and done[name].holds(plan, out))}
    if len(waiting) < len(wanted):
        print(f"{len(wanted) - len(waiting)} of {len(wanted)} originals were done before", file=sys.stderr)
    index = str(out / MANIFEST) + SUFFIX
    copies = [Copy(plan.source, str(out / plan.copy), recipe, index) for plan in waiting.values()]
    with contextlib.ExitStack() as stack:
        stopped = f"stopped; what is done stays in {out}; run the same command to continue"
        stack.enter_context(stopping_at_once(stopped))  # at once, since each copy is complete or absent
        folders = {(out / plan.copy).parent for plan in waiting.values()}
        for folder in folders:
            make_folder(folder, out)
        stack.callback(_remove_asides, folders)
        advance = stack.enter_context(progress("prepare", len(wanted), done=len(wanted) - len(waiting)))
        made = stack.enter_context(contextlib.closing(_made(copies, decoding)))
        for plan, result in zip(waiting.values(), made, strict=True):
            done[plan.source] = Done(plan.source, plan.size, plan.changed, plan.copy, result)
            append_line(ledger, json.dumps(asdict(done[plan.source])))
            advance(1)
    return done


def _made(copies: list[Copy], decoding: Decoding) -> Generator[Made, None, None]:
    for copy, result in zip(copies, each(transcode, copies, **asdict(decoding)), strict=True):
        if isinstance(result, Lost):
            result = Made(result.status, result.reason, bytes_before=max(_size_and_change(copy.source)[0], 0))
        yield result


def make_folder(folder: Path, out: Path) -> None:
    """Make a folder below `out`. Raise UserError if a link leads elsewhere."""
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    if not is_under(os.path.realpath(folder), os.path.realpath(out)):
        raise UserError(f"{folder} leads out of {out} by a link; remove the link")


def _remove_asides(folders: set[Path]) -> None:
    """Remove what this call or an earlier one did not complete."""
    for folder in folders:
        for aside in folder.glob(f".*{ASIDE}"):
            with contextlib.suppress(OSError):
                aside.unlink(missing_ok=True)


def read_done(ledger: Path) -> dict[str, Done]:
    """Return the latest entry of each original; lines damaged by a crash are dropped from the file."""
    if not ledger.exists():
        return {}
    lines = read_bytes(ledger, AGAIN, LARGEST_LEDGER).split(b"\n")
    whole = [(line, done) for line in lines[:-1] if (done := _as_done(line)) is not None]
    if len(whole) < len(lines) - 1 or lines[-1]:
        write_text(ledger, b"".join(line + b"\n" for line, _ in whole).decode())
    return {done.source: done for _, done in whole}


def _as_done(line: bytes) -> Done | None:
    try:
        return parsed(Done, load_json(line, "", "", any_name=True))
    except UserError:
        return None


# ---- what is left behind


def write_results(
    out: Path, manifest: Manifest, plans: list[Planned], made: list[Made], kept: list[int], recipe: Recipe
) -> None:
    """Write the list of the copies and the table of all originals."""
    rows = [
        {
            "path": encodable(row.path),
            "source": encodable(plan.source),
            "copy": encodable(plan.copy) if result.status in KEPT else None,
            **asdict(result),
        }
        for row, plan, result in zip(manifest.rows, plans, made, strict=True)
    ]
    facts = {"recipe": asdict(recipe), "environment": environment_facts()}
    write_table(out / "prepare.parquet", rows, SCHEMA, facts)
    copies = tuple(replace(manifest.rows[index], path=plans[index].copy) for index in kept)
    write_manifest(Manifest(copies, manifest.labels, out), out / MANIFEST)


def measure(plans: list[Planned], made: list[Made], out: Path) -> tuple[list[float], list[float]] | None:
    """Return seconds per training clip before and after, for some copies; None if there is nothing to measure."""
    whole = {plan.source: str(out / plan.copy) for plan, done in zip(plans, made, strict=True) if done.status == "ok"}
    pairs = list(whole.items())[:: max(1, len(whole) // MEASURED_VIDEOS)][:MEASURED_VIDEOS]
    if not pairs:
        return None
    (seconds,) = each(loading_seconds, [Pairs(tuple(pairs))], workers=1, deadline=MEASURED_SECONDS)
    return None if isinstance(seconds, Lost) else seconds


def summary(
    out: Path, plans: list[Planned], made: list[Made], speeds: tuple[list[float], list[float]] | None
) -> list[str]:
    """Return the lines for the terminal."""
    counts = Counter(result.status for result in made)
    there = counts["ok"] + counts["partial"]
    partial = f", {counts['partial']} partial" if counts["partial"] else ""
    lines = [f"{there} of {len(made)} videos have a copy{partial}"]
    told = [
        f"  {encodable(plan.source)}: {result.status}: {result.reason}"
        for plan, result in zip(plans, made, strict=True)
        if result.status != "ok"
    ]
    lines += told[:SHOWN] + [f"  ... {len(told) - SHOWN} more in {out / 'prepare.parquet'}"] * (len(told) > SHOWN)
    if there:
        before, after = (
            sum(
                {
                    plan.source: getattr(result, name)
                    for plan, result in zip(plans, made, strict=True)
                    if result.status in KEPT
                }.values()
            )
            for name in ("bytes_before", "bytes_after")
        )
        lines.append(f"size: {before / 1e6:.1f} MB before, {after / 1e6:.1f} MB after, {after / before:.2f} times")
    if speeds is not None:
        slow, fast = (len(seconds) / sum(seconds) for seconds in speeds)
        lines.append(
            f"loading: {slow:.1f} clips/s before, {fast:.1f} after, {fast / slow:.1f} times "
            f"({len(speeds[0])} clips of 32 frames at short side 224, one process)"
        )
    return lines


def next_command(manifest: Manifest, copies: Path) -> str:
    """Return the command to run next."""
    if any(row.label is not None for row in manifest.rows):
        return f"hybridvideo train --data.train {copies}"
    parts = [row.path.split("/") for row in manifest.rows]
    if {"train", "val"} <= {part[0] for part in parts} and all(len(part) > 2 for part in parts):
        return f"hybridvideo train --data.train {copies.parent / 'train'} --data.val {copies.parent / 'val'}"
    return f"hybridvideo predict RUN {copies}"
