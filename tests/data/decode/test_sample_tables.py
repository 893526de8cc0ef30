"""Promises of MP4 and MOV tables: what is believed, what is not, and what good files may say."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import pytest

from hybridvideo.data.decode import VideoReader, sample_tables
from hybridvideo.errors import VideoError
from tests.videos import cut, write_video


def box(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I4s", 8 + len(content), kind) + content


def words(*numbers: int) -> bytes:
    return struct.pack(f">{len(numbers)}I", *numbers)


def track(*parts: bytes) -> bytes:
    return box(b"trak", box(b"mdia", box(b"minf", box(b"stbl", b"".join(parts)))))


def movie(*tracks: bytes, more: bytes = b"") -> bytes:
    return box(b"ftyp", b"isom" + words(0)) + box(b"moov", b"".join(tracks)) + more


SAMPLES = box(b"stsz", words(0, 1, 50_000_000))
EDITS = box(b"edts", box(b"elst", words(0, 900) + words(1000, 0, 65536) * 900))


def refusal(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    try:
        sample_tables.check(str(path))
    except VideoError as error:
        return error.status
    return ""


def test_tables_that_promise_more_than_the_file_holds_are_not_believed(tmp_path: Path) -> None:
    packed = zlib.compress(box(b"moov", track(SAMPLES)))
    compressed = box(b"cmov", box(b"dcom", b"zlib") + box(b"cmvd", words(1000) + packed))
    lies = {
        "one size for all": movie(track(SAMPLES)),
        "of the second track": movie(track(box(b"stsz", words(0, 9, 5))), track(SAMPLES)),
        "half bytes": movie(track(box(b"stz2", words(0, 4, 9_000_000) + bytes(4_500_000)))),
        "sound in one chunk": movie(track(box(b"stts", words(0, 1, 2**31, 2)), SAMPLES)),
        "compressed": box(b"ftyp", words(0)) + box(b"moov", compressed),
        "runs": movie(more=box(b"moof", box(b"traf", box(b"trun", words(0, 60_000)))) * 50),
        "edits": movie(box(b"trak", EDITS + box(b"mdia", box(b"minf", box(b"stbl", box(b"stsz", words(0, 9, 9000))))))),
        "boxes in a long box": words(1) + b"ftyp" + struct.pack(">Q", 16) + movie(track(SAMPLES)),
    }
    found = {name: refusal(tmp_path / "a.mp4", data) for name, data in lies.items()}
    assert set(found.values()) == {"unreadable", "refused"}, found
    assert [name for name, status in found.items() if status == "refused"] == ["half bytes", "edits"]


def test_what_good_files_say_is_believed(tmp_path: Path) -> None:
    sound = track(
        box(b"stts", words(0, 1, 86_400_000, 1)),
        box(b"stsc", words(0, 1, 1, 1000, 1)),
        box(b"stsz", words(0, 1, 86_400_000)),
        box(b"stco", words(0, 21_094) + bytes(4 * 21_094)),
    )  # half an hour of plain sound
    good = [
        movie(sound),
        movie(track(box(b"stsz", words(0, 0, 2**31) + bytes(400)))),  # a table that is cut off
        movie(track(box(b"stsz", words(0, 144_000, 90_000)))),  # an hour of DV, cut off
        b"\0\0\0\x08ftyp\0\0\0\x04moov",
        b"\0\0\0\0ftyp",
        movie()[:-3],
    ]
    assert [refusal(tmp_path / "a.mp4", data) for data in good] == [""] * len(good)


@pytest.mark.parametrize("flags", ["faststart", "frag_keyframe+empty_moov", "frag_every_frame+default_base_moof"])
def test_whole_and_cut_files_pass(tmp_path: Path, flags: str) -> None:
    path = write_video(tmp_path / "a.mp4", 40, container_options={"movflags": flags})
    for file in (path, cut(path, 0.6)):
        assert refusal(tmp_path / "again.mp4", file.read_bytes()) == ""


def test_a_million_packets_of_a_byte_each_are_refused_before_they_are_decoded(tmp_path: Path) -> None:
    """Matroska's lacing: 256 in a block, some 260 bytes of the file."""
    path = write_video(tmp_path / "laced.mkv", 12)
    block = b"\xa3\x41\x05" + b"\x81\x00\x00\x84\xff" + b"x" * 256
    cluster = b"\xe7\x81\x00" + block * 3000
    path.write_bytes(path.read_bytes() + b"\x1f\x43\xb6\x75\x01" + struct.pack(">Q", len(cluster))[1:] + cluster)
    data = bytearray(path.read_bytes())
    place = data.index(b"\x18\x53\x80\x67") + 4
    data[place : place + 8] = b"\x01" + struct.pack(">Q", len(data) - place - 8)[1:]
    path.write_bytes(data)
    with pytest.raises(VideoError, match="packets in a file of this size"):
        VideoReader(path)
