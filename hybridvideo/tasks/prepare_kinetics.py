"""`hybridvideo prepare kinetics400`: from the official CSV and a folder of downloaded clips to a checked list."""

from __future__ import annotations

import os
from pathlib import Path

from hybridvideo.data.manifest import Manifest, kinetics400_labels, read_manifest, videos_under, write_manifest
from hybridvideo.data.manifest.check import check_files, shortened
from hybridvideo.data.manifest.kinetics import Matched, match_files, official_clips
from hybridvideo.data.manifest.lists import read_text
from hybridvideo.errors import TooMuchBadData, UserError
from hybridvideo.files import write_text, writing
from hybridvideo.text import encodable, shown


def prepare_kinetics_list(annotations: str, videos: str, out: str | None, max_bad: float = 1.0) -> int:
    """Find the file of each row of the CSV, report what is wrong, write the list of those that were found."""
    source, folder, table = Path(annotations), Path(videos), output_list(annotations, out)
    matched = match(source, folder)
    manifest = read_manifest(
        source, root=folder, labels=kinetics400_labels(), labelled=has_labels(matched), format="kinetics"
    )
    there = [index for index, path in enumerate(matched.paths) if path]
    if not there:
        raise UserError(
            f"none of the {len(manifest)} clips of {source} has a file below {folder}; "
            f"files are named like {matched.clips[0].named.file_name} or {matched.clips[0].named.youtube_id}.mp4"
        )
    kept = manifest.subset(there)
    print("\n".join(map(shown, findings(manifest, matched, kept))))
    write_lists(table, kept, matched)
    print("\n".join(map(shown, advice(table, kept, len(manifest)))))
    missing = len(manifest) - len(there)
    if missing > max_bad * len(manifest):
        raise TooMuchBadData(f"{missing} of {len(manifest)} clips are missing, more than --max-bad {max_bad} allows")
    return 0


def output_list(annotations: str, out: str | None) -> Path:
    """Return --out FILE, or NAME.csv in a folder or here; never the annotations themselves."""
    name = f"kinetics400-{Path(annotations).stem}.csv"
    table = Path(name) if out is None else Path(out) if Path(out).suffix and not Path(out).is_dir() else Path(out, name)
    if table.suffix.lower() not in (".csv", ".parquet", ".pq"):
        raise UserError(f"--out {table} has no known extension; give .csv, .parquet or a folder")
    if table.exists() and os.path.samefile(table, annotations):
        raise UserError(f"--out {table} is the annotations; give another name")
    return table


def match(source: Path, folder: Path) -> Matched:
    """Match the rows of the CSV with the files below the folder. Raise UserError if either is unsuitable."""
    if not source.is_file():
        raise UserError(f"no file {source}; give the CSV of Kinetics-400 with --annotations")
    if not folder.is_dir():
        raise UserError(f"no folder {folder}; give the folder of the downloaded clips with --videos")
    text = read_text(source)
    clips = official_clips(source, text)
    if not clips:
        raise UserError(f"{source} lists no clip; give a CSV with rows")
    return match_files(clips, videos_under(folder))


def has_labels(matched: Matched) -> bool:
    """Return whether the CSV has labels; a test list has none."""
    return any(clip.label for clip in matched.clips)


def findings(manifest: Manifest, matched: Matched, kept: Manifest) -> list[str]:
    """Return what is wrong, with examples: one line per kind of finding."""
    missing = [clip.named.file_name for clip, path in zip(matched.clips, matched.paths, strict=True) if not path]
    report = check_files(kept)
    lines = [f"{len(kept)} of {len(manifest)} clips have a file below {manifest.root}"]
    for what, found in (
        ("missing", missing),
        ("links to nothing", report.missing),
        ("that cannot be opened", [f"{path} ({reason})" for path, reason in report.refused]),
        ("listed twice", [" = ".join(paths) for paths in report.duplicates]),
        ("of the same YouTube video", [" and ".join(paths) for paths in report.same_video]),
        ("further copies, left out", matched.copies),
        ("of a listed video but another part of it, left out", matched.other_times),
        ("not in the list", matched.unlisted),
        ("whose names are not UTF-8, which cannot be listed", unreadable_names(matched)),
    ):
        if found:
            lines.append(f"{len(found)} {what}: {shortened(found)}")
    return lines + classes(kept)


def unreadable_names(matched: Matched) -> list[str]:
    """Return the names of files that UTF-8 cannot represent."""
    return [name for name in (*matched.unlisted, *matched.other_times, *matched.copies) if encodable(name) != name]


def classes(kept: Manifest) -> list[str]:
    """Return lines on class counts and on classes without a video."""
    counts = kept.counts()
    if not any(counts.values()):
        return []
    empty = [name for name, count in counts.items() if not count]
    present = [count for count in counts.values() if count]
    lines = [f"{len(present)} of {len(counts)} classes, {min(present)} to {max(present)} clips each"]
    return lines + ([f"{len(empty)} classes without a clip: {shortened(empty)}"] if empty else [])


def write_lists(table: Path, kept: Manifest, matched: Matched) -> None:
    """Write the list of the clips found and, next to it, the names of those missing."""
    write_manifest(kept, table)
    missing = [clip.named.file_name for clip, path in zip(matched.clips, matched.paths, strict=True) if not path]
    missing_list = table.with_suffix(".missing.txt")
    if missing:
        write_text(missing_list, "".join(f"{name}\n" for name in missing))
    else:
        with writing(missing_list):
            missing_list.unlink(missing_ok=True)


def advice(table: Path, kept: Manifest, listed: int) -> list[str]:
    """Return lines on where the results are and what to run next."""
    lines = [f"wrote {table}" + (f", {table.with_suffix('.missing.txt')}" if len(kept) < listed else "")]
    lines.append(f"next: hybridvideo prepare {table} --out FOLDER    copies that load faster")
    if any(row.label is not None for row in kept.rows):
        return [*lines, f"      hybridvideo train --data.train {table} --data.labels kinetics400"]
    return [*lines, f"      hybridvideo predict RUN {table}"]
