"""Which frame a clip holds depends on the file and the index alone, in damaged files too; else it is said.

`pytest tests/data/decode/test_agreement.py --mutations 5000` tries more files, `python -m tools.fuzz_decode` too.
"""

from __future__ import annotations

import struct
from functools import partial
from pathlib import Path

import pytest

from hybridvideo.data.decode import VideoReader
from hybridvideo.data.processes.workers import each
from hybridvideo.errors import VideoError
from tests.data.decode.agreement import sources, tried
from tests.videos import blank, numbers, write_video

ANOTHER = ("in the place of", "lacks", "instead of")
OTHER_PIXELS = 0.02  # of the files, of these codecs: damage that FFmpeg's decoder conceals without a word
CONCEALING = ("vp8", "h264", "hevc", "open_gop", "fragments", "b_frames", "faststart")


def found(seed: int, folder: Path, files: list[Path]) -> list[str]:
    source, _, lines = tried(seed, folder, files)
    return [f"seed {seed}, {source}: {line}" for line in lines]


def test_no_way_of_asking_gives_another_frame_for_the_one_that_reading_through_gives(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    seeds = range(request.config.getoption("--mutations") // 4)
    job = partial(found, folder=tmp_path, files=sources(tmp_path))
    results = list(each(job, seeds, workers=2, deadline=60))
    assert [line for lines in results for line in lines if any(what in line for what in ANOTHER)] == []
    assert [line for lines in results for line in lines if not any(name in line for name in CONCEALING)] == []
    assert sum(bool(lines) for lines in results) <= OTHER_PIXELS * len(seeds)


def test_an_index_of_an_avi_that_lies_is_not_trusted(tmp_path: Path) -> None:
    """One entry lost: whoever seeks by the table counts one too few from there on."""
    path = write_video(tmp_path / "lies.avi", 60, codec="mpeg4", b_frames=0, gop=12)
    data = bytearray(path.read_bytes())
    table = data.rindex(b"idx1")
    del data[table + 8 + 16 * 20 : table + 8 + 16 * 21]
    struct.pack_into("<I", data, table + 4, struct.unpack_from("<I", data, table + 4)[0] - 16)
    path.write_bytes(data)
    for index in (50, 30, 59, 12):
        with VideoReader(path) as reader:
            shown = numbers(reader.frames_at([index]).frames_TCHW)
        with VideoReader(path) as reader:
            assert shown == numbers(reader.frames_at(range(len(reader.times))).frames_TCHW)[index : index + 1]


def test_a_key_flag_that_lies_is_not_trusted(tmp_path: Path) -> None:
    """Frames that lean on others, listed as those that decoding can start at."""
    path = write_video(tmp_path / "lies.mp4", 60, gop=60, b_frames=0, codec="mpeg4")
    data = bytearray(path.read_bytes())
    place = data.index(b"stss")
    assert struct.unpack_from(">II", data, place + 8) == (1, 1)
    struct.pack_into(">I", data, place + 12, 31)
    path.write_bytes(data)
    with VideoReader(path) as reader:
        assert numbers(reader.frames_at([45]).frames_TCHW) == [45]


def test_after_damage_is_met_every_order_gives_the_same_pixels(tmp_path: Path) -> None:
    path = blank(write_video(tmp_path / "hole.mp4", 60, container_options={"movflags": "faststart"}), 0.5, 0.6)
    with VideoReader(path) as reader:
        reader.check()
        through = reader.frames_at(range(reader.info.frames)).frames_TCHW
        assert reader.status == "partial"
        for index in (40, 3, 30, 31, 20):
            assert (reader.frames_at([index]).frames_TCHW[0] == through[index]).all()


def test_indices_of_times_that_are_no_longer_true_are_refused_once(tmp_path: Path) -> None:
    """Looking at the size of the first frame may find that it does not decode: what was counted before is void."""
    path = blank(write_video(tmp_path / "late.mp4", 60, gop=10), 0.0, 0.15)
    with VideoReader(path) as reader:
        promised = len(reader.times)
        assert reader.info.frames < promised
        with pytest.raises(VideoError, match="partial"):
            reader.frames_at([promised - 1])
        assert len(reader.frames_at([reader.info.frames - 1])) == 1
