"""Find and read the intended checkpoint: a run keeps two, and a writer may be swapping them meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from hybridvideo.documents import LARGEST_JSON, read_bytes, read_yaml
from hybridvideo.errors import HybridVideoError, UserError
from hybridvideo.folders import is_complete, new_of, old_of
from hybridvideo.models.card import CARD

T = TypeVar("T")


def find_checkpoint(path: str | Path, which: str | None = None) -> Path:
    """Return the checkpoint folder for a run folder or a checkpoint folder.

    Args:
        path: a run folder (written by `hybridvideo train`) or a checkpoint folder.
        which: "last" or "best" of a run folder; default: the one its config keeps.

    Raises:
        UserError: no such folder, or no complete checkpoint in it.
    """
    folder = Path(path)
    if not folder.exists() and present(folder) is None:
        raise UserError(f"no folder {folder}; give a run folder made by `hybridvideo train`, or a checkpoint folder")
    choices = [which] if which else [kept_by(folder), "last"]
    for choice in (folder, *(folder / "checkpoints" / name for name in choices)):
        if (found := present(choice)) is not None:
            return found
    expected = folder / "checkpoints" / choices[0]
    raise UserError(f"no complete checkpoint in {folder}; expected {expected} with {CARD} in it")


def read_checkpoint(path: str | Path, which: str | None, read: Callable[[Path], T]) -> T:
    """Return what `read` makes of the intended checkpoint folder, with matching weights and card.

    If a writer swaps the folder meanwhile, it is read again. Raises UserError as `find_checkpoint` does.
    """
    while True:
        folder = find_checkpoint(path, which)
        before = card_file(folder)
        try:
            result = read(folder)
        except (OSError, HybridVideoError):
            if card_file(folder) == before:
                raise
            continue
        after = card_file(folder) or card_file(find_checkpoint(path, which))
        if before is not None and after is not None and before.text == after.text:
            return result


def present(folder: Path) -> Path | None:
    """Return a checkpoint folder, or the one in its place while a process swaps it, or after one died doing so."""
    if (folder / CARD).is_file():
        return folder
    if is_complete(new_of(folder)):
        return new_of(folder)
    if (old_of(folder) / CARD).is_file():
        return old_of(folder)
    return folder if (folder / CARD).is_file() else None  # the swap may have ended between these looks


@dataclass(frozen=True)
class CardFile:
    """A checkpoint's card on disk; each save writes a new file."""

    inode: int
    modified: int
    text: bytes


def card_file(folder: Path) -> CardFile | None:
    """Return the card of a folder; None if it is gone."""
    try:
        facts = (folder / CARD).stat()
        return CardFile(facts.st_ino, facts.st_mtime_ns, read_bytes(folder / CARD, "", LARGEST_JSON))
    except (OSError, UserError):
        return None


def kept_by(run: Path) -> str:
    """Return which checkpoint a run's config keeps: last or best."""
    path = run / "config.yaml"
    if not path.exists():
        return "last"  # a folder of checkpoints without its config is still usable
    settings = read_yaml(path, "correct it, or give the checkpoint folder itself")
    section = settings.get("train") if isinstance(settings, dict) else None
    return "best" if isinstance(section, dict) and section.get("keep") == "best" else "last"
