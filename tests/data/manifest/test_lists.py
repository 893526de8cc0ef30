"""Lists as other software writes them are told apart by their content, and no text is too odd to be refused."""

from __future__ import annotations

import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hybridvideo.data.manifest import Manifest, Row, read_manifest, write_manifest
from hybridvideo.data.manifest.check import check_files
from hybridvideo.errors import UserError
from tests.data.manifest.test_manifest import put, refusal

# ---- lists of other software


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("a.mp4 3\nb c.mp4 0\n", [("a.mp4", 3), ("b c.mp4", 0)]),  # mmaction2, PySlowFast
        ("d/a b.mp4,3\nc.mp4,0\n", [("d/a b.mp4", 3), ("c.mp4", 0)]),  # PySlowFast with commas, UniFormer
        ('"a, b.mp4",3\nc.mp4, 0\n', [("a, b.mp4", 3), ("c.mp4", 0)]),
        ("a, b.mp4 3\nc,d.mp4 0\n", [("a, b.mp4", 3), ("c,d.mp4", 0)]),
        ("train/0001 3\ntrain/0002 0\n", [("train/0001", 3), ("train/0002", 0)]),
        ("train/0001,3\ntrain/0002,0\n", [("train/0001", 3), ("train/0002", 0)]),
    ],
)
def test_spaces_and_commas_are_distinguished_by_the_lines(
    tmp_path: Path, text: str, rows: list[tuple[str, int]]
) -> None:
    for name in ("list.txt", "list.csv"):
        manifest = read_manifest(put(tmp_path / name, text))
        assert [(row.path, row.label) for row in manifest.rows] == rows


def test_lines_that_can_be_read_in_two_ways_need_a_format(tmp_path: Path) -> None:
    listed = put(tmp_path / "list.txt", "old.mp4 new.mp4,3\n")
    assert "format spaces or commas" in refusal(listed)
    assert read_manifest(listed, format="commas").rows[0].path == "old.mp4 new.mp4"
    assert read_manifest(listed, format="spaces").rows[0].path == "old.mp4"
    assert "line 1" in refusal(put(tmp_path / "mixed.txt", "a.mp4 3\nb.mp4,3\n"))
    assert "no list format 'tsv'" in refusal(listed, format="tsv")


def test_a_table_is_known_by_its_columns_whatever_it_is_called(tmp_path: Path) -> None:
    assert read_manifest(put(tmp_path / "list.txt", "path,label\na.mp4,run\n")).labels == ("run",)
    pq.write_table(pa.table({"path": ["a.mp4"], "label": ["run"]}), tmp_path / "table.data")
    assert read_manifest(tmp_path / "table.data").labels == ("run",)


def test_several_labels_are_read_where_they_are_wanted_and_refused_elsewhere(tmp_path: Path) -> None:
    listed = put(tmp_path / "list.txt", "a.mp4 1 3\nb.mp4 0\na.mp4 2\n")
    manifest = read_manifest(listed, several=True)
    assert [(row.label, row.labels) for row in manifest.rows] == [(None, (1, 3)), (None, (0,)), (None, (2,))]
    assert manifest.counts() == {"0": 1, "1": 1, "2": 1, "3": 1}
    assert "2 labels" in refusal(listed)
    write_manifest(manifest, tmp_path / "again.txt", "spaces")
    assert (tmp_path / "again.txt").read_text() == "a.mp4 1 3\nb.mp4 0\na.mp4 2\n"
    with pytest.raises(UserError, match="several"):
        write_manifest(manifest, tmp_path / "again.csv")


@pytest.mark.parametrize("line", ["imgs 5 127", "imgs 2 5 127", "video_parts 1 2 0"])
def test_lists_of_frames_are_refused_with_advice(tmp_path: Path, line: str) -> None:
    assert "list the video files" in refusal(put(tmp_path / "list.txt", f"{line}\n{line}\n"), several=True)
    (tmp_path / "frames").mkdir()
    assert "names a folder" in refusal(put(tmp_path / "short.txt", "frames 3\n"))


def test_json_is_refused_with_advice(tmp_path: Path) -> None:
    assert "is JSON" in refusal(put(tmp_path / "a.json", '[{"video_dir": "x", "label": 1}]'))
    assert read_manifest(put(tmp_path / "b.txt", "[x] a.mp4 0\n")).rows[0].path == "[x] a.mp4"


def test_columns_without_a_header_must_be_two(tmp_path: Path) -> None:
    assert "name them in a header" in refusal(put(tmp_path / "a.csv", "a.mp4,run,g\n"))


def test_a_folder_of_splits_is_refused(tmp_path: Path) -> None:
    for name in ("train/run/a.mp4", "val/run/b.mp4"):
        put(tmp_path / name)
    assert "train, val" in refusal(tmp_path)
    assert read_manifest(tmp_path / "val").labels == ("run",)


@pytest.mark.parametrize(("format", "text"), [("spaces", "a.mp4 1\nd/b.mp4 0\n"), ("commas", "a.mp4,1\nd/b.mp4,0\n")])
def test_lists_for_other_software_read_back(tmp_path: Path, format: str, text: str) -> None:
    manifest = Manifest((Row("a.mp4", 1), Row("d/b.mp4", 0)), ("jump", "run"), tmp_path)
    write_manifest(manifest, tmp_path / "list.txt", format)
    assert (tmp_path / "list.txt").read_text() == text
    assert read_manifest(tmp_path / "list.txt", labels=manifest.labels) == manifest
    with pytest.raises(UserError, match="use the format csv"):
        write_manifest(Manifest((Row("a, b.mp4", 0),), ("x",), tmp_path), tmp_path / "list.txt", format)
    assert (tmp_path / "list.txt").read_text() == text and len(list(tmp_path.iterdir())) == 1


def test_a_parquet_list_reads_back(tmp_path: Path) -> None:
    manifest = Manifest((Row("a, b.mp4", 1, "g"), Row("c.mp4", 0)), ("jump", "run"), tmp_path)
    write_manifest(manifest, tmp_path / "list.parquet")
    assert read_manifest(tmp_path / "list.parquet") == manifest


# ---- hostile lists

PIECES = [
    *("a.mp4", "b c.mkv", ",", " ", "\t", "\n", '"', "0", "-1", "run", "{", "[", "youtube_id", "path", "label", "#"),
    *("9" * 5000, "[" * 20000, "x" * 5000, "../", "/", "²", "\udc80", "time_start,time_end", "\r", "\ufeff", "é"),
]


def test_any_text_is_read_or_refused_in_one_line(tmp_path: Path) -> None:
    generator = random.Random(0)
    listed = tmp_path / "list.csv"
    outcomes = set()
    for _ in range(700):
        text = "".join(generator.choices(PIECES, k=generator.randint(1, 12)))
        listed.write_bytes(text.encode("utf-8", "surrogateescape"))
        labelled, several = generator.random() < 0.7, generator.random() < 0.5
        try:
            format = generator.choice([None, None, None, "csv", "kinetics", "spaces", "commas"])
            manifest = read_manifest(listed, labelled=labelled, several=several, format=format)
        except UserError as error:
            assert "\n" not in str(error)
            outcomes.add("refused")
        else:
            check_files(manifest).lines()
            outcomes.add("read")
    assert outcomes == {"read", "refused"}
