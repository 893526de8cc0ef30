"""Kinetics as people have it: the official rows find their files, other lists go by name, nothing is guessed."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from hybridvideo.data.manifest import kinetics400_labels, read_manifest
from hybridvideo.data.manifest.kinetics import match_files, name_of_clip, official_clips
from hybridvideo.errors import UserError

HEADER = "label,youtube_id,time_start,time_end,split"
CSV = f"{HEADER},is_cc\nabseiling,--aaaaaaaaa,417,427,val,0\narm wrestling,bbbbbb_0001,1,11,val,1\n"


def put(path: Path, text: str = "x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def found(text: str, *paths: str) -> tuple[str, ...]:
    """The file of each row, "" for none."""
    return match_files(official_clips(Path("k.csv"), text), paths).paths


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("--aaaaaaaaa_000417_000427.mp4", "bbbbbb_0001_000001_000011.mp4"),  # CVDF, flat
        ("val/abseiling/--aaaaaaaaa_000417_000427.mp4", "val/arm wrestling/bbbbbb_0001_000001_000011.mp4"),
        ("--aaaaaaaaa.mp4", "bbbbbb_0001.webm"),
        ("--aaaaaaaaa_417_427.MKV", "bbbbbb_0001_1_11.mp4.webm"),
        ("--aaaaaaaaa_000417.mp4", "arm_wrestling/bbbbbb_0001_000001.mp4"),
    ],
)
def test_a_row_finds_its_file_in_every_layout(tmp_path: Path, first: str, second: str) -> None:
    put(tmp_path / "videos" / first)
    put(tmp_path / "videos" / second)
    listed = put(tmp_path / "val.csv", CSV)
    manifest = read_manifest(listed, root=tmp_path / "videos", labels="kinetics400")
    assert [row.path for row in manifest.rows] == [first, second] and not manifest.missing()
    assert [manifest.labels[row.label or 0] for row in manifest.rows] == ["abseiling", "arm wrestling"]
    assert read_manifest(listed, root=tmp_path / "videos").labels == ("abseiling", "arm wrestling")


def test_rows_without_a_file_stay_and_are_missing(tmp_path: Path) -> None:
    put(tmp_path / "--aaaaaaaaa.mp4")
    manifest = read_manifest(put(tmp_path / "val.csv", CSV))
    assert len(manifest) == 2 and manifest.missing() == ["bbbbbb_0001_000001_000011.mp4"]


def test_other_seconds_of_the_same_video_are_another_clip() -> None:
    assert found(CSV, "--aaaaaaaaa_000418_000428.mp4", "bbbbbb_0001_000002.mp4") == ("", "")
    matched = match_files(
        official_clips(Path("k.csv"), CSV), ["--aaaaaaaaa_000418_000428.mp4", "ccccccccccc.mp4", "x.mp4"]
    )
    assert matched.other_times == ("--aaaaaaaaa_000418_000428.mp4",)
    assert matched.unlisted == ("ccccccccccc.mp4", "x.mp4")


def test_a_name_without_seconds_is_taken_only_where_one_row_has_its_id() -> None:
    twice = CSV + "archery,--aaaaaaaaa,100,110,val,0\n"
    assert found(twice, "--aaaaaaaaa.mp4") == ("", "", "")
    assert found(twice, "--aaaaaaaaa.mp4", "--aaaaaaaaa_100_110.mp4") == ("", "", "--aaaaaaaaa_100_110.mp4")


def test_repaired_copies_and_the_own_class_come_first() -> None:
    name = "--aaaaaaaaa_000417_000427.mp4"
    matched = match_files(official_clips(Path("k.csv"), CSV), [f"val/{name}", f"replacement/{name}"])
    assert matched.paths[0] == f"replacement/{name}" and matched.copies == (f"val/{name}",)
    assert found(CSV, f"archery/{name}", f"Abseiling/{name}", "--aaaaaaaaa.mp4")[0] == f"Abseiling/{name}"


def test_test_lists_without_labels_are_input_for_predict_only(tmp_path: Path) -> None:
    listed = put(tmp_path / "test.csv", "youtube_id,time_start,time_end,split\n--aaaaaaaaa,1,11,test\n")
    put(tmp_path / "--aaaaaaaaa_000001_000011.mp4")
    assert read_manifest(listed, labelled=False).rows[0].path == "--aaaaaaaaa_000001_000011.mp4"
    with pytest.raises(UserError, match="without labels"):
        read_manifest(listed)


def test_a_list_without_its_videos_advises_what_to_give(tmp_path: Path) -> None:
    listed = put(tmp_path / "val.csv", CSV)
    with pytest.raises(UserError, match=r"data\.root"):
        read_manifest(listed)
    with pytest.raises(UserError, match="no folder"):
        read_manifest(listed, root=tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("row", "message"),
    [("a,short,1,2,val", "line 2: 'short' is not a YouTube id"), ("a,--aaaaaaaaa,x,2,val", "line 2: its times")],
)
def test_wrong_rows_are_refused_with_their_place(tmp_path: Path, row: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_manifest(put(tmp_path / "val.csv", f"{HEADER}\n{row}\n"), root=tmp_path)


def test_names_that_are_not_clips_are_left_alone() -> None:
    assert name_of_clip("short.mp4") is None and name_of_clip("a video of mine.mp4") is None
    named = name_of_clip("x/-_aaaaaaaaa_000000_000010.mp4")
    assert named is not None and (named.youtube_id, named.start, named.end) == ("-_aaaaaaaaa", 0, 10)
    assert named.file_name == "-_aaaaaaaaa_000000_000010.mp4"


@pytest.mark.shared
def test_uniformers_numbers_agree_with_the_official_labels(shared: Path) -> None:
    folder = shared / "data" / "annotations"
    names = kinetics400_labels()
    order = folder / "k400_uniformer_order.txt"
    manifest = read_manifest(folder / "k400_val_uniformer.csv", labels="kinetics400", order=order)
    with (folder / "k400_val_official.csv").open(newline="") as file:
        official = {row["youtube_id"]: row["label"] for row in csv.DictReader(file)}
    agree = sum(official.get(row.path.removesuffix(".mp4")) == names[row.label or 0] for row in manifest.rows)
    assert (len(manifest), agree) == (19787, 19787)


@pytest.mark.shared
def test_the_official_validation_list_is_read_completely(shared: Path, tmp_path: Path) -> None:
    put(tmp_path / "0wR5jVB-WPk_000417_000427.mp4")
    listed = shared / "data" / "annotations" / "k400_val_official.csv"
    manifest = read_manifest(listed, root=tmp_path, labels="kinetics400")
    assert len(manifest) == 19906 and min(manifest.counts().values()) > 0 and len(manifest.missing()) == 19905


@pytest.mark.shared
def test_lists_of_mmaction2_are_read_or_refused_with_advice(shared: Path) -> None:
    folder = shared / "data" / "annotations" / "mmaction2_examples"
    assert [row.label for row in read_manifest(folder / "video_test_list.txt").rows] == [0, 0]
    several = read_manifest(folder / "video_test_list_multi_label.txt", several=True)
    assert [row.labels for row in several.rows] == [(0, 3), (0, 2, 4)]
    for name in ("rawframe_test_list.txt", "rawframe_test_list_with_offset.txt", "rawvideo_test_anno.txt"):
        with pytest.raises(UserError, match="list the video files"):
            read_manifest(folder / name)
    for name in ("rawvideo_test_anno.json", "video_text_test_list.json"):
        with pytest.raises(UserError, match="is JSON"):
            read_manifest(folder / name)
