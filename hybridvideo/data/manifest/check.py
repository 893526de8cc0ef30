"""A list compared with what is on disk, before any decoding: unusable, duplicate and unlisted files, and counts."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from hybridvideo.data.decode import guard
from hybridvideo.data.manifest.kinetics import name_of_clip
from hybridvideo.data.manifest.rows import Manifest, is_video
from hybridvideo.data.reading import listed_file
from hybridvideo.errors import VideoError

NAMES_SHOWN = 3


@dataclass(frozen=True)
class FileReport:
    """Facts about the files of a list. Paths are as listed; `unlisted` ones relative to the list's root.

    missing: no file, or a dangling link. refused: files that the reader will not open, with its reason: they lead
    outside the root, are not regular files, are empty or may not be read. duplicates: rows of the same file.
    same_video: rows of different files of one YouTube id (file names as in Kinetics). unlisted: videos in the folders
    of listed files that are in no row. counts: rows of each class.
    """

    rows: int
    missing: tuple[str, ...]
    refused: tuple[tuple[str, str], ...]
    duplicates: tuple[tuple[str, ...], ...]
    same_video: tuple[tuple[str, ...], ...]
    unlisted: tuple[str, ...]
    counts: dict[str, int]
    first_fault: str = ""

    @property
    def unusable(self) -> int:
        """Rows whose file cannot be opened."""
        return len(self.missing) + len(self.refused)

    def lines(self) -> list[str]:
        """Lines for a terminal, one per kind of finding."""
        there = self.rows - self.unusable
        lines = [f"{there} of {self.rows} files are there" + (f"; {_classes(self.counts)}" if self.counts else "")]
        for what, found in (
            ("missing", self.missing),
            ("that cannot be opened", [f"{path} ({reason})" for path, reason in self.refused]),
            ("listed twice", [" = ".join(paths) for paths in self.duplicates]),
            ("of the same YouTube video", [" and ".join(paths) for paths in self.same_video]),
            ("in the same folders but not listed", self.unlisted),
        ):
            if found:
                lines.append(f"{len(found)} {what}: {shortened(found)}")
        return lines


def check_files(manifest: Manifest) -> FileReport:
    """Check the files of a list by the reader's own rules: each folder is listed once, no file is opened."""
    files = [os.path.normpath(manifest.file(index)) for index in range(len(manifest))]
    folders = {folder: _videos_in(folder) for folder in {os.path.dirname(file) for file in files}}
    faults = _faults(manifest)
    of_file, of_video = dict[str, list[str]](), dict[str, dict[str, str]]()
    for file, row in zip(files, manifest.rows, strict=True):
        folder, name = os.path.split(file)
        real = folders[folder].get(name, file)
        of_file.setdefault(real, []).append(row.path)
        named = name_of_clip(name)
        if named is not None and named.start is not None:
            of_video.setdefault(named.youtube_id, {}).setdefault(real, row.path)
    listed = set(files) | set(of_file)
    there = ((os.path.join(folder, name), real) for folder, names in folders.items() for name, real in names.items())
    unlisted = sorted(path for path, real in there if path not in listed and real not in listed)
    return FileReport(
        len(manifest),
        tuple(path for path, fault in faults if fault.status == "missing"),
        tuple((path, fault.reason) for path, fault in faults if fault.status != "missing"),
        tuple(tuple(paths) for paths in of_file.values() if len(paths) > 1),
        tuple(tuple(paths.values()) for paths in of_video.values() if len(paths) > 1),
        tuple(os.path.relpath(path, manifest.root) for path in unlisted),
        manifest.counts(),
        faults[0][1].reason if faults else "",
    )


def _faults(manifest: Manifest) -> list[tuple[str, VideoError]]:
    """Rows that the reader would not open, with its error; folders are resolved once, not for each file."""

    @cache
    def allowed(folder: str) -> bool:
        try:
            guard.inside(folder, manifest.root, strict=manifest.root_given)
        except VideoError:
            return False
        return True

    def fault(index: int, path: str) -> VideoError | None:
        file = os.fspath(manifest.file(index))
        try:
            plain = os.path.basename(path) not in ("", "..") and not _is_link(file) and allowed(os.path.dirname(path))
            guard.regular_file(file if plain else listed_file(manifest, index))
        except VideoError as error:
            return error
        return None

    found = ((row.path, fault(index, row.path)) for index, row in enumerate(manifest.rows))
    return [(path, error) for path, error in found if error is not None]


def _is_link(file: str) -> bool:
    try:
        return stat.S_ISLNK(os.lstat(file).st_mode)
    except (OSError, ValueError):
        return False


def shortened(found: Sequence[str]) -> str:
    """Return the first few, and an ellipsis if there are more."""
    return ", ".join(found[:NAMES_SHOWN]) + (", ..." if len(found) > NAMES_SHOWN else "")


def _videos_in(folder: str) -> dict[str, str]:
    """Videos in a folder, each with the file that it resolves to; dangling links are left out."""
    try:
        with os.scandir(folder) as entries:
            videos = [entry for entry in entries if is_video(entry.name) and entry.is_file()]
        return {video.name: os.path.realpath(video.path) if video.is_symlink() else video.path for video in videos}
    except (OSError, ValueError):
        return {}  # its rows are missing


def _classes(counts: dict[str, int]) -> str:
    """`400 classes of 35 to 50 rows`, and those without any."""
    low, high = min(counts.values()), max(counts.values())
    empty = [name for name, count in counts.items() if not count]
    text = f"{len(counts)} classes of {low if low == high else f'{low} to {high}'} rows"
    return text + (f", {len(empty)} of them without any: {shortened(empty)}" if empty else "")
