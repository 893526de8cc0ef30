"""Six real files, damaged at random in every way a disk, a network or a liar can: a clip or a typed error comes out.

`pytest tests/data/decode/test_fuzz.py --mutations 5000` tries more than the usual number; each is named by its seed.
Every file is read in a process that has a deadline and little memory, so that a hang, a crash or an allocation by the
word of a header would be seen.
"""

from __future__ import annotations

import random
import resource
from collections import Counter
from functools import partial
from pathlib import Path

import pytest
import torch

from hybridvideo.data.decode import Framing, VideoReader
from hybridvideo.data.processes.workers import each
from hybridvideo.errors import STATUSES, VideoError
from tests.data.decode.mutations import ANYWHERE

FILES = (
    "mmaction2_tests/test.avi",  # MPEG-4 with gaps in time
    "torchcodec/h265_video.mp4",
    "torchcodec/test_non_zero_start.mp4",  # H.264
    "odd/seven_frames.webm",  # VP9
    "odd/mpeg2.mpg",
    "odd/h264_interlaced.ts",
)
DEADLINE = 30.0  # seconds a file; a good one takes 0.1
MEMORY = 1536 * 2**20  # bytes of address space beyond what the process has at first
MOST_BYTES = 300_000  # longer files are cut to this


Outcome = tuple[str, str, int]  # status, reason, frames


def read(seed: int, folder: Path, sources: list[Path]) -> Outcome:
    """Damage a file and read it as a loader does: some frames, a scaled clip, the whole."""
    draw = random.Random(seed)
    source = draw.choice(sources)
    data = bytearray(source.read_bytes()[:MOST_BYTES])
    for _ in range(draw.choice((1, 1, 2, 3))):
        draw.choice(ANYWHERE)(data, draw)
    path = folder / f"{seed}{source.suffix}"
    path.write_bytes(data)
    limit_memory()
    try:
        return look(path, draw)
    except VideoError as error:
        assert error.status in STATUSES and error.reason and "\n" not in error.reason
        return error.status, error.reason, 0
    finally:
        path.unlink()


def look(path: Path, draw: random.Random) -> Outcome:
    with VideoReader(path) as reader:
        try:
            frames = len(reader.times)
            reader.frames_at(sorted(draw.sample(range(frames), min(4, frames))), Framing(size=(32, 48)))
        except VideoError as error:
            if error.status != "partial":
                raise
        info = reader.check()
        clip = reader.frames_at([0, info.frames // 2, info.frames - 1])
        assert clip.frames_TCHW.shape == (3, 3, info.height, info.width) and clip.frames_TCHW.dtype == torch.uint8
        assert clip.times_T[0] == 0.0 and list(clip.times_T) == sorted(clip.times_T)
        return reader.status, reader.reason, info.frames


def limit_memory() -> None:
    """Once in each process."""
    if resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY, resource.RLIM_INFINITY))


def outcomes(seeds: range, folder: Path, shared: Path) -> list[Outcome]:
    sources = [shared / "data" / "clips" / name for name in FILES]
    found = each(partial(read, folder=folder, sources=sources), seeds, workers=2, deadline=DEADLINE)
    results = []
    for seed, outcome in zip(seeds, found, strict=True):
        assert isinstance(outcome, tuple), f"seed {seed}: {outcome}"
        results.append(outcome)
    return results


@pytest.mark.shared
def test_every_damaged_file_gives_a_clip_or_a_typed_error(
    shared: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    number = request.config.getoption("--mutations")
    results = outcomes(range(number), tmp_path, shared)
    counts = Counter(status for status, _, _ in results)
    assert set(counts) <= set(STATUSES) - {"timeout", "crashed"}
    assert counts["ok"] and counts["partial"] and counts["unreadable"], (
        counts
    )  # the damage is neither too mild nor total


@pytest.mark.shared
def test_the_same_damage_gives_the_same_answer(shared: Path, tmp_path: Path) -> None:
    assert outcomes(range(40), tmp_path, shared) == outcomes(range(40), tmp_path, shared)
