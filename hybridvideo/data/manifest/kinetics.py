"""The official Kinetics CSVs, whose rows name YouTube clips, and the files that people have for them.

    label,youtube_id,time_start,time_end,split        400, 600 and 700; is_cc may follow; a test list has no label

A clip's file is found below a folder of videos by its name, whatever the folders are called:

    ID_000417_000427.mp4     CVDF (train/, val/, and replacement/, which has priority over a damaged copy), torchvision
    ID_417_427.mp4           the same with short numbers
    ID_000417.mp4            without the end
    ID.mp4                   used if the list has only one clip of that video; otherwise it could be any of them

with any video extension, or two (`ID.mp4.webm`). A file with other times is another clip and is not used.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hybridvideo.data.manifest.class_folders import videos_under
from hybridvideo.data.manifest.columns import Cells, cell, column, csv_rows
from hybridvideo.data.manifest.names import plain_name
from hybridvideo.data.manifest.rows import Entry, is_video
from hybridvideo.errors import UserError

ID_NAMES = ("youtube_id",)
FILE = re.compile(r"(?P<id>[\w-]{11})(?:_(?P<start>\d{1,6})(?:_(?P<end>\d{1,6}))?)?", re.ASCII)
YOUTUBE_ID = re.compile(r"[\w-]{11}", re.ASCII)


@dataclass(frozen=True)
class Named:
    """What a file name contains: the YouTube id and the clip's seconds, None if the name leaves them out."""

    youtube_id: str
    start: int | None
    end: int | None

    @property
    def file_name(self) -> str:
        """The clip's file name by CVDF and torchvision."""
        return f"{self.youtube_id}_{self.start or 0:06d}_{self.end or 0:06d}.mp4"


@dataclass(frozen=True)
class KineticsClip:
    """A row of an official CSV."""

    named: Named
    label: str | None
    place: str


@dataclass(frozen=True)
class Matched:
    """Official rows and the files found for them.

    paths: one per clip, relative to the folder; "" if there is none. copies: further files of clips that have one.
    other_times: files of a listed id that are another clip, or could be.
    """

    clips: tuple[KineticsClip, ...]
    paths: tuple[str, ...]
    copies: tuple[str, ...]
    other_times: tuple[str, ...]
    unlisted: tuple[str, ...]

    def entries(self) -> list[Entry]:
        """One per row; a clip without a file keeps the name its file would have."""
        return [
            Entry(path or clip.named.file_name, (clip.label,) if clip.label else (), None, clip.place)
            for clip, path in zip(self.clips, self.paths, strict=True)
        ]


def is_official(names: Sequence[str]) -> bool:
    """Whether a CSV's header is that of an official Kinetics list."""
    return column(names, ID_NAMES) is not None


def name_of_clip(path: str) -> Named | None:
    """Parse a file's name; None if it does not consist of a YouTube id."""
    stem = os.path.basename(path)
    while is_video(stem):
        stem = os.path.splitext(stem)[0]
    found = FILE.fullmatch(stem)
    if found is None:
        return None
    return Named(found["id"], *(None if found[part] is None else int(found[part]) for part in ("start", "end")))


def official_clips(source: Path, text: str) -> list[KineticsClip]:
    """Return the rows of an official CSV. Raises UserError for rows without an id or with invalid times."""
    rows = csv_rows(source, text)
    header = rows[0][1] if rows else []
    youtube_id = column(header, ID_NAMES)
    label, start, end = (column(header, (name,)) for name in ("label", "time_start", "time_end"))
    if youtube_id is None or start is None or end is None:
        wanted = "youtube_id, time_start and time_end"
        raise UserError(f"{source} has no columns {wanted}; give a Kinetics CSV as it is published")
    return [_clip(row, youtube_id, start, end, label) for row in rows[1:]]


def _clip(row: Cells, youtube_id: int, start: int, end: int, label: int | None) -> KineticsClip:
    place, cells = row
    name = cell(cells, youtube_id)
    if not YOUTUBE_ID.fullmatch(name):
        raise UserError(f"{place}: {name!r} is not a YouTube id of 11 characters; correct or remove the row")
    try:
        times = [int(float(cell(cells, column))) for column in (start, end)]
    except (ValueError, OverflowError):
        raise UserError(f"{place}: its times are not numbers; give time_start and time_end in seconds") from None
    return KineticsClip(Named(name, *times), cell(cells, label) or None, place)


def match_files(clips: Sequence[KineticsClip], paths: Iterable[str]) -> Matched:
    """Find the file of each clip among `paths` by its name."""
    of_id: dict[str, list[tuple[Named, str]]] = {}
    for path in paths:
        named = name_of_clip(path)
        of_id.setdefault(named.youtube_id if named else "", []).append((named or Named("", None, None), path))
    times_listed = Counter(clip.named.youtube_id for clip in clips)
    taken, copies, listed = [], [], set(times_listed)
    for clip in clips:
        alone = times_listed[clip.named.youtube_id] == 1
        found = _files_of(clip, of_id.get(clip.named.youtube_id, ()), alone)
        taken.append(found[0] if found else "")
        copies += found[1:]
    used = {*taken, *copies}
    left = [(youtube_id, path) for youtube_id, files in of_id.items() for _, path in files if path not in used]
    return Matched(
        tuple(clips),
        tuple(taken),
        copies=tuple(sorted(set(copies))),
        other_times=tuple(sorted(path for youtube_id, path in left if youtube_id in listed)),
        unlisted=tuple(sorted(path for youtube_id, path in left if youtube_id not in listed)),
    )


def _files_of(clip: KineticsClip, files: Iterable[tuple[Named, str]], alone: bool) -> list[str]:
    """Files of a clip, the best first: by how complete the name is, then repaired copies, then its class's folder."""
    exact = (clip.named.start, clip.named.end)
    ranks = {exact: 0, (clip.named.start, None): 1} | ({(None, None): 2} if alone else {})
    ranked = []
    for named, path in files:
        rank = ranks.get((named.start, named.end))
        if rank is not None:
            folders = path.split("/")[:-1]
            own = clip.label is not None and plain_name(clip.label) in map(plain_name, folders)
            ranked.append((rank, "replacement" not in folders, not own, path))
    return [path for *_, path in sorted(ranked)]


def read_official(source: Path, text: str, root: Path, root_given: bool, labelled: bool) -> list[Entry]:
    """Return entries of an official CSV with their files below `root`; clips without a file are kept, and missing."""
    clips = official_clips(source, text)
    if labelled and clips and not any(clip.label for clip in clips):
        raise UserError(f"{source} is a Kinetics test list without labels; only predict and extract can use it")
    if not root.is_dir():
        raise UserError(f"no folder {root} with the videos of {source}")
    matched = match_files(clips, videos_under(root))
    if clips and not root_given and not any(matched.paths):
        raise UserError(
            f"{source} lists YouTube clips, but none of their files is below {root}; give the folder of the videos "
            "(data.root in train and evaluate, --root in scan and prepare), or make a list with "
            "`hybridvideo prepare kinetics400`"
        )
    return [entry if labelled else Entry(entry.path, (), None, entry.place) for entry in matched.entries()]
