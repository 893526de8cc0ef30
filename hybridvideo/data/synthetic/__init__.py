"""A small data set of real encoded videos, rendered on the spot: eight motions of textured objects.

An object has a place across the frame, a place down the frame, an angle and a size. Each of the four is a phase on a
circle: what leaves the frame on one side enters on the other, and what has come near fades into one far away. A clip
starts each of them anywhere with equal probability; its class turns one of them, and the others drift a little. So in
every frame, whatever the class, place, angle and size are uniform and independent: no single frame reveals the class.
A second object does the same half a circle ahead, so that one of the two always shows the complete motion. A motion and
its reverse are the same rendered frames, background and noise included, in opposite order: no unordered set of frames
distinguishes them. Only motion is left, and the background moves too, in its own way.

    textures -> scenes (frames of a clip) -> encode (files) -> here (the data set)
"""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path

from hybridvideo.data.synthetic.encode import encode
from hybridvideo.data.synthetic.scenes import CLASSES, MOTIONS, SPLITS, Motion, render_clip
from hybridvideo.documents import read_json
from hybridvideo.errors import UserError

__all__ = ["CLASSES", "MOTIONS", "SPLITS", "Motion", "render_clip", "render_dataset"]

Progress = Callable[[int, int], None]  # (videos done, videos in all)
GENERATOR = 1
"""Increased whenever the same arguments begin to produce other videos."""


@dataclass(frozen=True)
class Arguments:
    """What determines a data set; kept in it as `dataset.json`."""

    train: int
    val: int
    test: int
    seed: int
    generator: int = GENERATOR


def _write_pair(folder: Path, split: str, motion: Motion, number: int, seed: int) -> None:
    """Render one scene and write its two videos, one per direction; existing files stay."""
    frames, rate, encoding = render_clip(motion.forward, seed=seed, split=split, number=number)
    for label, ordered in ((motion.forward, frames), (motion.backward, frames[::-1])):
        path = folder / split / label / f"{number:04d}.{encoding.extension}"
        if not path.exists():
            encode(path, ordered, rate, encoding)


def _write_pairs(folder: Path, jobs: list[tuple[str, Motion, int]], seed: int) -> int:
    """Do the jobs; return how many videos they have."""
    for split, motion, number in jobs:
        _write_pair(folder, split, motion, number, seed)
    return 2 * len(jobs)


def _jobs(folder: Path, arguments: Arguments) -> Iterator[tuple[str, Motion, int]]:
    """Yield every (split, motion, number) of which a video is missing."""
    for split in SPLITS:
        present = {name: {path.stem for path in (folder / split / name).glob("[0-9]*")} for name in CLASSES}
        for number in range(getattr(arguments, split)):
            for motion in MOTIONS:
                if f"{number:04d}" not in present[motion.forward] & present[motion.backward]:
                    yield split, motion, number


def _is_complete(folder: Path, arguments: Arguments) -> bool:
    """Whether the folder holds this data set. Raises UserError if it holds another one, complete or not."""
    for name, complete in (("dataset.json", True), ("dataset.json.part", False)):
        if (folder / name).exists():
            if read_json(folder / name, "give an empty folder") != asdict(arguments):
                raise UserError(f"{folder} holds a data set of other arguments; give an empty folder")
            return complete
    if folder.exists() and any(folder.iterdir()):
        raise UserError(f"{folder} is not empty and holds no rendered data set; give an empty folder")
    return False


def render_dataset(
    folder: Path, *, train: int, val: int, test: int, seed: int, workers: int, progress: Progress | None = None
) -> None:
    """Write `folder`/{train,val,test}/<class>/<number>.<extension>, `train`, `val` and `test` videos per class.

    Each video is determined by (seed, split, class, number) alone. A complete folder is left as it is, an interrupted
    one is continued. `workers` processes render (0: this one); `progress(done, total)` gets numbers of videos.
    Raises UserError if the folder holds anything else.
    """
    arguments = Arguments(train, val, test, seed)
    if _is_complete(folder, arguments):
        return
    for split, label in itertools.product(SPLITS, CLASSES):
        (folder / split / label).mkdir(parents=True, exist_ok=True)
    record = folder / "dataset.json.part"
    record.write_text(json.dumps(asdict(arguments)))
    total = len(CLASSES) * (train + val + test)
    jobs = list(_jobs(folder, arguments))
    done = total - 2 * len(jobs)
    for written in _write_all(folder, jobs, seed, workers):
        done += written
        if progress is not None:
            progress(done, total)
    os.replace(record, folder / "dataset.json")


def _write_all(folder: Path, jobs: list[tuple[str, Motion, int]], seed: int, workers: int) -> Iterator[int]:
    """Do the jobs, a few at a time, here or in `workers` processes; yield how many videos were written."""
    portions = [jobs[i : i + 8] for i in range(0, len(jobs), 8)]
    if workers == 0:
        yield from (_write_pairs(folder, portion, seed) for portion in portions)
        return
    # spawn: a fork of a process in which torch has started threads can hang
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        futures = [pool.submit(_write_pairs, folder, portion, seed) for portion in portions]
        for future in as_completed(futures):
            yield future.result()
