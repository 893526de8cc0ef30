"""`prepare kinetics400`: from the official CSV and the downloaded clips to a checked list."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from hybridvideo.data.manifest import read_manifest
from tests.tasks.test_prepare import call, fails

NAMES = ("0wR5jVB-WPk_000417_000427.mp4", "3caPS4FHFF8.mp4")


@pytest.fixture
def official(tmp_path: Path) -> Path:
    """Four rows; two of them have a file, one of those a repaired copy; one stray file."""
    for name in ("val/" + NAMES[0], "replacement/" + NAMES[0], NAMES[1], "stray.mp4", "3yaoNwz99xM_000001_000011.mp4"):
        (tmp_path / "k400" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "k400" / name).write_bytes(b"x")
    rows = ["0wR5jVB-WPk,417,427", "3caPS4FHFF8,36,46", "3yaoNwz99xM,62,72", "6IbvOJxXnOo,47,57"]
    listed = tmp_path / "val.csv"
    listed.write_text("label,youtube_id,time_start,time_end,split\n" + "".join(f"archery,{row},val\n" for row in rows))
    return listed


def test_kinetics_goes_from_the_csv_to_a_checked_list(
    official: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    videos, out = tmp_path / "k400", tmp_path / "lists" / "val.csv"
    assert call("kinetics400", "--annotations", official, "--videos", videos, "--out", out) == 0
    manifest = read_manifest(out, labels="kinetics400")
    assert [manifest.file(i) for i in range(2)] == [videos / "replacement" / NAMES[0], videos / NAMES[1]]
    assert {manifest.labels[row.label or 0] for row in manifest.rows} == {"archery"}
    assert out.with_suffix(".missing.txt").read_text().splitlines() == [
        "3yaoNwz99xM_000062_000072.mp4", "6IbvOJxXnOo_000047_000057.mp4"
    ]  # fmt: skip
    said = capsys.readouterr().out
    for line in ("2 of 4 clips have a file", "2 missing", "1 further copies", "1 of a listed video but another part",
                 "1 not in the list: stray.mp4", "1 of 400 classes", f"train --data.train {out}"):  # fmt: skip
        assert line in said


def test_kinetics_lists_are_written_where_they_are_wanted(official: Path, tmp_path: Path) -> None:
    arguments = ("kinetics400", "--annotations", official, "--videos", tmp_path / "k400")
    assert call(*arguments, "--out", tmp_path / "k400/val.parquet") == 0
    assert [row.path for row in read_manifest(tmp_path / "k400/val.parquet").rows] == [
        "replacement/" + NAMES[0],
        NAMES[1],
    ]
    (tmp_path / "folder").mkdir()
    assert call(*arguments, "--out", tmp_path / "folder", "--max-bad", 0.4) == 3
    with (tmp_path / "folder/kinetics400-val.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 2


def test_kinetics_says_what_is_missing_to_begin(
    official: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    annotations, videos = ("--annotations", official), ("--videos", tmp_path / "k400")
    for arguments, message in [
        (("kinetics400",), "--annotations CSV --videos FOLDER"),
        (("kinetics400", *annotations), "--annotations CSV --videos FOLDER"),
        (("kinetics400", *annotations, "--videos", "nowhere"), "no folder nowhere"),
        (("kinetics400", "--annotations", "nothing.csv", *videos), "no file nothing.csv"),
        (("kinetics400", *annotations, "--videos", "empty"), "none of the 4 clips"),
        (("kinetics400", *annotations, *videos, "--out", official), "is the annotations"),
        (("kinetics400", *annotations, *videos, "--out", "list.txt"), "no known extension"),
        ((tmp_path / "k400",), "give --out FOLDER"),
    ]:
        assert message in fails(capsys, *arguments), arguments
    (tmp_path / "list.csv").write_text("path,label\na.mp4,archery\n")
    assert "no columns youtube_id, time_start and time_end" in fails(
        capsys, "kinetics400", "--annotations", "list.csv", *videos
    )
    official.write_text(official.read_text().replace("archery", "archerie"))
    assert "did you mean 'archery'" in fails(capsys, "kinetics400", *annotations, *videos)
