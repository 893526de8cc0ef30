"""Tables come back as they were written, and say whose they are or nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from hybridvideo.errors import UserError
from hybridvideo.tasks.support.output_table import notes_beside, read_notes, read_rows, write_table

SCHEMA = pa.schema(
    [("path", pa.string()), ("reason", pa.string()), ("label", pa.string()), ("score", pa.float64()),
     ("count", pa.int64()), ("regular", pa.bool_()), ("words", pa.list_(pa.string())),
     ("feature", pa.list_(pa.float64(), 2))]
)  # fmt: skip
ROWS: list[dict[str, Any]] = [
    dict(zip(SCHEMA.names, cells, strict=True))
    for cells in [
        ('a "b", c\n\u2028.mp4', "", "x", 0.1, 2**53 + 1, True, ["a", "b,\n"], [1e-300, 0.30000000000000004]),
        ("動画.mp4", "why", None, None, None, False, [], None),
        ("", "", "0", -0.0, 0, None, ["", "x"], [1.0, 2.0]),
    ]
]


@pytest.mark.parametrize("name", ["t.parquet", "t.csv", "t.jsonl"])
def test_every_cell_comes_back(name: str, tmp_path: Path) -> None:
    write_table(tmp_path / name, ROWS, SCHEMA, {"job": "test", "labels": ["ü"]})
    assert list(read_rows(tmp_path / name, SCHEMA)) == ROWS
    assert read_notes(tmp_path / name) == {"job": "test", "labels": ["ü"]}


@pytest.mark.parametrize("name", ["t.parquet", "t.csv", "t.jsonl"])
@pytest.mark.parametrize("cut", [0, 1, 40, -1])
def test_a_table_that_is_incomplete_is_nobodys(name: str, cut: int, tmp_path: Path) -> None:
    write_table(tmp_path / name, ROWS, SCHEMA, {"job": "test"})
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:cut])
    assert read_notes(tmp_path / name) is None
    (tmp_path / name).unlink()
    assert read_notes(tmp_path / name) is None


@pytest.mark.parametrize("notes", [b"", b"[]", b"{", b'{"job": "test"}', b'{"table": 3}', b"\xff"])
def test_provenance_that_is_not_this_tables_is_not_believed(notes: bytes, tmp_path: Path) -> None:
    write_table(tmp_path / "t.csv", ROWS, SCHEMA, {"job": "test"})
    notes_beside(tmp_path / "t.csv").write_bytes(notes)
    assert read_notes(tmp_path / "t.csv") is None


def test_a_csv_cell_may_be_long(tmp_path: Path) -> None:
    schema = pa.schema([("path", pa.string()), ("feature", pa.list_(pa.float64()))])
    rows = [{"path": "a", "feature": [1 / 3] * 20_000}]
    write_table(tmp_path / "t.csv", rows, schema, {})
    assert list(read_rows(tmp_path / "t.csv", schema)) == rows
    assert len(json.dumps(rows[0]["feature"])) > 131_072  # what the csv module allows by itself


def test_a_damaged_page_of_a_parquet_table_is_noticed(tmp_path: Path) -> None:
    rows = [row | {"count": number} for number in range(200) for row in ROWS]
    write_table(tmp_path / "t.parquet", rows, SCHEMA, {"job": "test"})
    whole = (tmp_path / "t.parquet").read_bytes()
    footer = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    for place in range(4, footer, footer // 25):
        (tmp_path / "t.parquet").write_bytes(whole[:place] + bytes([whole[place] ^ 0x5A]) + whole[place + 1 :])
        try:
            unharmed = (
                read_notes(tmp_path / "t.parquet") is None or list(read_rows(tmp_path / "t.parquet", SCHEMA)) == rows
            )
        except (OSError, ValueError) as error:
            raise AssertionError(f"a byte at {place} was not noticed") from error
        assert unharmed, f"a byte at {place} changed a row"


def test_tables_of_one_stem_keep_their_provenance(tmp_path: Path) -> None:
    for name in ("t.csv", "t.jsonl", "t.parquet", "t.csv", "t.jsonl"):
        write_table(tmp_path / name, ROWS, SCHEMA, {"job": name})
        there = [path.name for path in tmp_path.glob("t.*") if path.suffix != ".json"]
        assert {name: read_notes(tmp_path / name) for name in there} == {name: {"job": name} for name in there}
    assert json.loads((tmp_path / "t.provenance.json").read_text())["job"] == "t.csv"


@pytest.mark.parametrize("content", ["[" * 100_000, "null", "{}", '{"path": 3}'])
def test_a_sealed_table_of_anything_is_one_line(content: str, tmp_path: Path) -> None:
    table = tmp_path / "t.jsonl"
    table.write_text(content + "\n")
    with pytest.raises(UserError, match="not as it was written"):
        list(read_rows(table, pa.schema([("path", pa.string()), ("score", pa.float64())])))
