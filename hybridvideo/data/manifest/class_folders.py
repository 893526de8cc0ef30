"""Folders of videos: all below one, or one folder per class."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from hybridvideo.data.manifest.rows import Entry, is_video
from hybridvideo.errors import UserError

SPLITS = frozenset(("train", "training", "val", "valid", "validation", "test", "testing", "holdout", "replacement"))


def videos_under(folder: Path) -> Iterator[str]:
    """Yield paths with a video's extension below `folder`, relative to it and sorted.

    Links are followed, each folder once. A dangling or circular link, a pipe or a device is a path too: reading it
    reports what it is. Raises UserError for a folder that may not be read.
    """
    yield from sorted(_walk(folder, "", set()))


def _walk(folder: Path, inside: str, seen: set[str]) -> Iterator[str]:
    real = os.path.realpath(folder)
    if real in seen:
        return  # a link back to a folder above
    seen.add(real)
    for name in _names_in(folder):
        if os.path.isdir(folder / name):  # False, not an error, for a link that leads to itself
            yield from _walk(folder / name, f"{inside}{name}/", seen)
        elif is_video(name):
            yield inside + name


def _names_in(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError as error:
        what = f"folder {folder} cannot be read ({error.strerror})"
        raise UserError(f"{what}; make it readable, or move it away") from None


def plain_folder(folder: Path) -> list[Entry]:
    """Return every video below the folder, without labels."""
    entries = [Entry(path, (), None, str(folder / path)) for path in videos_under(folder)]
    if not entries:
        raise UserError(_no_video(folder))
    return entries


def class_folders(folder: Path) -> list[Entry]:
    """Return the videos of each class folder; a folder of splits or of videos without a class is refused."""
    there = sorted(folder.iterdir())
    inside = [entry.name for entry in there if entry.is_dir() and not entry.name.startswith(".")]
    stray = [entry.name for entry in there if entry.is_file() and is_video(entry)]
    if stray:
        raise UserError(
            f"{folder} contains {stray[0]!r} outside a class folder; put each video in a folder named after its class, "
            "or give a list (Kinetics as it is downloaded: `hybridvideo prepare kinetics400`)"
        )
    if not inside:
        raise UserError(_no_video(folder) + ", each in a folder named after its class")
    if all(name.lower() in SPLITS for name in inside):
        raise UserError(f"{folder} contains {', '.join(inside)}, which are not classes; give one of them")
    entries: list[Entry] = []
    for name in inside:
        videos = list(videos_under(folder / name))
        if not videos:
            raise UserError(f"class folder {folder / name} contains no video; put videos in it or remove it")
        entries += [Entry(f"{name}/{path}", (name,), None, str(folder / name / path)) for path in videos]
    return entries


def _no_video(folder: Path) -> str:
    how = "contains no video (by extension: .mp4, .mkv, .webm ...)" if any(folder.iterdir()) else "is empty"
    return f"folder {folder} {how}; give a folder with videos"
