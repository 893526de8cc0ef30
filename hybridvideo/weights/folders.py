"""Checkpoint folders on disk: where a run keeps them, and how one is complete or absent.

A folder is written aside, flushed to disk, renamed:

    last.new   being written      last   the newest complete one      last.old   the one before it, for a moment
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hybridvideo.documents import read_yaml
from hybridvideo.errors import UserError
from hybridvideo.files import flush

WEIGHTS, CARD = "model.safetensors", "model.json"
COMPLETE = ".complete"


@contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """Yields an empty folder to fill; when the block ends well it takes the place of `folder`."""
    new, old = folder.with_name(folder.name + ".new"), folder.with_name(folder.name + ".old")
    settle(folder)
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    yield new
    for path in sorted(new.rglob("*")):
        flush(path)
    flush(new)
    (new / COMPLETE).touch()
    flush(new)
    if folder.exists():
        folder.rename(old)
    new.rename(folder)
    flush(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def settle(folder: Path) -> None:
    """Finish or undo what an interrupted `replacing` left behind."""
    new, old = folder.with_name(folder.name + ".new"), folder.with_name(folder.name + ".old")
    if not folder.exists():
        if (new / COMPLETE).exists():
            new.rename(folder)
        elif old.exists():
            old.rename(folder)
    if folder.exists():
        shutil.rmtree(old, ignore_errors=True)


def find_checkpoint(path: str | Path, which: str | None = None) -> Path:
    """The checkpoint folder meant by a run folder or a checkpoint folder.

    Args:
        path: a run folder (of `hybridvideo train`) or a checkpoint folder.
        which: "last" or "best" of a run folder; default: the one its config keeps.

    Raises:
        UserError: no such folder, or no complete checkpoint in it.
    """
    folder = Path(path)
    if not folder.exists():
        raise UserError(f"no folder {folder}; give a run folder made by `hybridvideo train`, or a checkpoint folder")
    if (folder / CARD).is_file():
        return folder
    checkpoints = folder / "checkpoints"
    choices = [which] if which else [kept(folder), "last"]
    for choice in choices:
        settle(checkpoints / choice)
        if (checkpoints / choice / CARD).is_file():
            return checkpoints / choice
    raise UserError(f"no complete checkpoint in {folder}; expected {checkpoints / choices[0]} with {CARD} in it")


def kept(run: Path) -> str:
    """Which checkpoint a run's config keeps: last or best."""
    path = run / "config.yaml"
    if not path.exists():
        return "last"  # a folder of checkpoints without its config is still usable
    settings = read_yaml(path, "mend it, or give the checkpoint folder itself")
    section = settings.get("train") if isinstance(settings, dict) else None
    return "best" if isinstance(section, dict) and section.get("keep") == "best" else "last"
