"""A quarantine table that is not what a scan wrote is one line; one that is a little otherwise is read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hybridvideo.data.corpus.quarantine import quarantined
from hybridvideo.data.manifest import Manifest, Row
from hybridvideo.errors import UserError

ROW = {"path": "a.mp4", "status": "missing", "reason": "gone", "bytes": None, "mtime_ns": None, "checksum": None}


def table(folder: Path, notes: Any = None, **columns: Any) -> Path:
    """A scan's table of one missing file, with other values in some columns."""
    made = pa.table({name: columns.get(name, pa.array([value])) for name, value in ROW.items()})
    notes = {"root": str(folder)} if notes is None else notes
    path = folder / "scan.parquet"
    pq.write_table(made.replace_schema_metadata({"hybridvideo": json.dumps(notes)}), path)
    return path


def held(folder: Path, path: Path) -> dict[int, tuple[str, str]]:
    return quarantined(path, Manifest((Row("a.mp4", None),), (), folder))


def test_columns_of_another_width_are_read(tmp_path: Path) -> None:
    wide = {"path": pa.array(["a.mp4"], pa.large_string()), "status": pa.array(["missing"]).dictionary_encode(),
            "bytes": pa.array([None], pa.int32()), "reason": pa.array([None], pa.string())}  # fmt: skip
    assert held(tmp_path, table(tmp_path)) == {0: ("missing", "gone")}
    assert held(tmp_path, table(tmp_path, **wide)) == {0: ("missing", "")}


@pytest.mark.parametrize(
    "columns",
    [
        {"status": pa.array([None], pa.string())},
        {"status": pa.array([["missing"]])},
        {"status": pa.array([3])},
        {"status": pa.array([{"class_path": "os.system"}])},
        {"status": pa.array(["nosuch\x1b[2J"])},
        {"path": pa.array([None], pa.string())},
        {"path": pa.array([""])},
        {"path": pa.array(["a\0b"])},
        {"path": pa.array([["a.mp4"]])},
        {"path": pa.array([b"\xff"])},
        {"bytes": pa.array(["many"])},
        {"bytes": pa.array([float("nan")])},
        {"bytes": pa.array([2**64 - 1], pa.uint64())},
        {"mtime_ns": pa.array([[1]])},
        {"reason": pa.array([["a"]])},
        {"checksum": pa.array([{"a": 1}])},
        {"notes": []},
        {"notes": 3},
        {"notes": {"root": None}},
        {"notes": {"root": ["/"]}},
        {"notes": {"root": 3}},
        {"notes": {"root": "/", "a": {"class_path": "os.system"}}},
        {"notes": {"root": "a\0b"}},
    ],
)
def test_odd_values_are_one_line(tmp_path: Path, columns: dict[str, Any]) -> None:
    path = table(tmp_path, **columns)
    with pytest.raises(UserError) as refused:
        held(tmp_path, path)
    assert str(path) in str(refused.value) and str(refused.value).isprintable()
