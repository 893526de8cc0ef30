"""A part is whole or made again, whatever a power cut or a bad disk has made of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from hybridvideo.errors import UserError
from hybridvideo.tasks.support.part_files import Parts
from tests.tasks.cheap import lines, run, write_texts
from tests.tasks.support.test_table_job import interrupt, rows_of

INPUTS, DONE = 64, 41  # two inputs a piece: 20 whole pieces, and half of one

SPOILT: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "zeros": lambda content: bytes(len(content)),
    "junk": lambda content: bytes(range(256)) * 4,
    "cut in its first line": lambda content: content[:9],
    "cut behind its first line": lambda content: content[: content.index(b"\n") + 1],
    "cut before the line end": lambda content: content[:-1],
    "cut in the middle": lambda content: content[: len(content) // 2],
    "one letter changed": lambda content: content.replace(b"text", b"tent", 1),
    "other keys": lambda content: b'{"rows": []}\n{"nothing": 1}\n',
    "no object": lambda content: b"[1, 2]\n3\n",
    "another's": lambda content: b'{"crc32": 0, "inputs": [7]}\n',
    "not UTF-8": lambda content: b'{"crc32": "\xff"}\n',
}


@pytest.fixture
def texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    texts = write_texts(tmp_path / "texts", INPUTS)
    interrupt(DONE, monkeypatch, texts, tmp_path / "out.parquet", tmp_path / "log")
    return texts


@pytest.mark.parametrize("how", SPOILT)
def test_a_damaged_part_is_made_again(how: str, texts: Path, tmp_path: Path) -> None:
    part = sorted((tmp_path / "out.parquet.parts").glob("part-*"))[5]
    part.write_bytes(SPOILT[how](part.read_bytes()))
    finished = run(texts, tmp_path / "out.parquet", tmp_path / "log")
    assert finished.inputs == INPUTS - DONE + 2 and len(lines(tmp_path / "log")) == INPUTS + 2
    run(texts, tmp_path / "expected.parquet", tmp_path / "log2")
    assert rows_of(tmp_path / "out.parquet") == rows_of(tmp_path / "expected.parquet")


@pytest.mark.parametrize("cut", range(0, 130, 13))
def test_a_part_cut_anywhere_is_made_again(cut: int, texts: Path, tmp_path: Path) -> None:
    part = sorted((tmp_path / "out.parquet.parts").glob("part-*"))[-1]
    part.write_bytes(part.read_bytes()[:cut])
    assert run(texts, tmp_path / "out.parquet", tmp_path / "log").inputs == INPUTS - DONE + 1


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\x00", b"[]", b'{"job": "cheap"'])
def test_a_damaged_job_json_loses_nothing(content: bytes, texts: Path, tmp_path: Path) -> None:
    (tmp_path / "out.parquet.parts" / "job.json").write_bytes(content)
    with pytest.raises(UserError, match="holds the work of another job; give that job's command"):
        run(texts, tmp_path / "out.parquet", tmp_path / "log", precision="bf16")
    assert run(texts, tmp_path / "out.parquet", tmp_path / "log").inputs == INPUTS - DONE


def test_files_that_are_not_parts_are_left_out_of_it(texts: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out.parquet.parts"
    (folder / ".part-half.new").write_text("half")
    (folder / "notes.txt").write_text("mine")
    assert run(texts, tmp_path / "out.parquet", tmp_path / "log").inputs == INPUTS - DONE


def test_pieces_cover_every_list_completely(tmp_path: Path) -> None:
    for inputs in (0, 1, 7, 31, 32, 33, 1000, 4096, 100_003):
        parts = Parts(tmp_path, "job", "list", inputs)
        members = [index for piece in parts.pieces for index in parts.members(piece)]
        assert members == list(range(inputs)) and parts.size <= 128


def test_any_text_comes_back_as_it_was(tmp_path: Path) -> None:
    parts = Parts(tmp_path, "job", "list", 40)
    row = {"index": 3, "path": "line\u2028end\x85 \n\r\x0c動画", "feature": [0.1, float("nan"), 1e-30]}
    parts.write(3, [row], {3: (1, 2)})
    assert json.dumps(parts.read(3)) == json.dumps([row]) and parts.covered(3) == {3: (1, 2)}
