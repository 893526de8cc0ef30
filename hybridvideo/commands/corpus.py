"""Commands that check a corpus of videos and make it fast to read."""

from __future__ import annotations

from typing import Literal

from hybridvideo.config.jobs import WHOLE_VIDEO, Decoding, Job


def scan(
    source: str,
    out: str = "scan.parquet",
    decode: Literal["full", "index"] = "full",
    short: int = 2,
    backend: str = "auto",
    labelled: bool = False,
    root: str | None = None,
    decoding: Decoding = Decoding(deadline=WHOLE_VIDEO),
    job: Job = Job(max_bad=0.5),
) -> int:
    """Check every video of a corpus: what decodes, what does not, and why. Can be interrupted and continued.

    The table is the quarantine that `data.quarantine` of training and evaluation, and `--quarantine` of the bulk jobs,
    expect.

    Args:
        source: a folder of videos or a list of any kind.
        out: .parquet, .csv or .jsonl file, or a folder; only a Parquet table can be a quarantine. `-` writes JSON lines
            to standard output and keeps nothing.
        decode: full decodes every frame; index reads packets and one frame, which is quick and finds less.
        short: videos with fewer frames are reported as short.
        backend: decoder: auto, or one of those that `doctor` lists.
        labelled: the list has labels; they become a column.
        root: folder that relative paths of a list start from; default: the folder of the list.
    """
    from hybridvideo.tasks.scan import ScanSettings, run_scan

    return run_scan(source, out, ScanSettings(decode, short, backend), labelled, root, decoding, job)


def prepare(
    source: str,
    out: str | None = None,
    short_side: int = 256,
    gop: int = 16,
    crf: float = 20.0,
    audio: Literal["drop", "keep"] = "drop",
    root: str | None = None,
    annotations: str | None = None,
    videos: str | None = None,
    max_bad: float = Job.max_bad,
    overwrite: bool = False,
    decoding: Decoding = Decoding(deadline=WHOLE_VIDEO),
) -> int:
    """Copy videos so that training clips load fast; with `kinetics400` as SOURCE, write a checked list of its clips.

    Args:
        source: a folder of videos or a list of any kind; `kinetics400` with --annotations and --videos.
        out: folder for the copies, manifest.csv and prepare.parquet; with kinetics400 the list, .csv or .parquet.
        short_side: pixels of the copies' shorter side; smaller videos keep their size.
        gop: frames from one key frame to the next.
        crf: quality of the copies; lower is better and larger.
        audio: drop or keep the sound.
        root: folder that relative paths of a list start from; default: the folder of the list.
        annotations: with kinetics400, the official CSV.
        videos: with kinetics400, the folder of the downloaded clips, in any layout.
        max_bad: share of the videos that may have no copy, or of the clips no file; above it the exit code is 3.
        overwrite: start over, even if --out holds copies of another recipe.
    """
    from hybridvideo.data.corpus.copies import Recipe
    from hybridvideo.tasks.prepare import run_preparation

    recipe = Recipe(short_side, gop, crf, audio)
    return run_preparation(source, out, recipe, root, annotations, videos, decoding, max_bad, overwrite)
