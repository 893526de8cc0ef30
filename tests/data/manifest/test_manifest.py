"""Every kind of list gives the same rows; labels go by name; a wrong list is refused in one line."""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hybridvideo.data.manifest import (
    Manifest,
    Row,
    kinetics400_labels,
    label_names,
    read_manifest,
    write_manifest,
)
from hybridvideo.errors import UserError

ROWS = (Row("run/a b.mp4", 1), Row("jump/c.mp4", 0))


def put(path: Path, text: str = "x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def refusal(source: Path, **options: object) -> str:
    """The message with which a source is refused: always one line."""
    with pytest.raises(UserError) as caught:
        read_manifest(source, **options)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ---- kinds of lists


def test_class_folders_give_sorted_labels_and_files_at_any_depth(tmp_path: Path) -> None:
    for name in ("run/z.mp4", "run/deep/er/b.MKV", "jump/a.webm", "jump/notes.txt", ".cache/x.mp4"):
        put(tmp_path / name)
    manifest = read_manifest(tmp_path)
    assert manifest.labels == ("jump", "run")
    assert [(row.path, row.label) for row in manifest.rows] == [
        ("jump/a.webm", 0),
        ("run/deep/er/b.MKV", 1),
        ("run/z.mp4", 1),
    ]
    assert manifest.file(1) == tmp_path / "run/deep/er/b.MKV" and not manifest.missing()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("header.csv", "path,label\nrun/a b.mp4,run\njump/c.mp4,jump\n"),
        ("aliases.csv", '\ufeffclass,ignored,Video_Path\nrun,1,"run/a b.mp4"\njump,2,jump/c.mp4\n\n'),
        ("bare.csv", "run/a b.mp4,run\r\njump/c.mp4,jump\r\n"),
        ("spaces.csv", "run/a b.mp4 run\njump/c.mp4 jump\n"),
        ("list.txt", "# a comment\nrun/a b.mp4 run\n\n  jump/c.mp4\tjump\n"),
    ],
)
def test_every_text_form_gives_the_same_rows(tmp_path: Path, name: str, text: str) -> None:
    manifest = read_manifest(put(tmp_path / name, text))
    assert (manifest.rows, manifest.labels, manifest.root) == (ROWS, ("jump", "run"), tmp_path)


def test_parquet_gives_the_same_rows_and_integer_labels_are_indices(tmp_path: Path) -> None:
    paths = [row.path for row in ROWS]
    pq.write_table(pa.table({"video": paths, "label": ["run", "jump"]}), tmp_path / "names.parquet")
    pq.write_table(pa.table({"file": paths, "label": [1, 0], "group": ["g", None]}), tmp_path / "numbers.pq")
    assert read_manifest(tmp_path / "names.parquet").rows == ROWS
    numbers = read_manifest(tmp_path / "numbers.pq", labels=["jump", "run"])
    assert [row.label for row in numbers.rows] == [1, 0] and [row.group for row in numbers.rows] == ["g", None]


def test_a_label_with_spaces_follows_a_tab(tmp_path: Path) -> None:
    manifest = read_manifest(put(tmp_path / "list.txt", "a b.mp4\thigh jump\n'c'.mp4\tlow \"jump\"\n"))
    assert manifest.labels == ("high jump", 'low "jump"')
    assert [row.path for row in manifest.rows] == ["a b.mp4", "'c'.mp4"]


def test_relative_paths_start_at_the_list_or_at_the_given_root(tmp_path: Path) -> None:
    listed = put(tmp_path / "lists/list.txt", "a.mp4 0\n/abs/b.mp4 1\n")
    assert read_manifest(listed).file(0) == tmp_path / "lists/a.mp4"
    assert read_manifest(listed, root=tmp_path / "videos").file(0) == tmp_path / "videos/a.mp4"
    assert read_manifest(listed, root=tmp_path / "videos").file(1) == Path("/abs/b.mp4")


# ---- bulk input


def test_bulk_folder_gives_all_videos_below_it_and_nothing_else(tmp_path: Path) -> None:
    for name in ("b.mp4", "a/ü c.mov", "a/notes.txt", "frames.zip"):
        put(tmp_path / name)
    (tmp_path / "a/loop").symlink_to(tmp_path)
    (tmp_path / "gone.mp4").symlink_to(tmp_path / "nowhere.mp4")
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "ring.mp4").symlink_to(tmp_path / "ring.mp4")
    os.mkfifo(tmp_path / "pipe.mp4")
    manifest = read_manifest(tmp_path, labelled=False)
    assert [row.path for row in manifest.rows] == ["a/ü c.mov", "b.mp4", "gone.mp4", "pipe.mp4", "ring.mp4"]
    assert manifest.missing() == ["gone.mp4", "ring.mp4"] and {row.label for row in manifest.rows} == {None}


def test_bulk_list_takes_paths_with_spaces_and_ignores_labels(tmp_path: Path) -> None:
    for name in ("a b.mp4", "c.mp4", "odd 3"):
        put(tmp_path / name)
    listed = put(tmp_path / "list.txt", "a b.mp4\nc.mp4 17\nodd 3\ngone.mp4 2\nalso gone.mp4\n")
    manifest = read_manifest(listed, labelled=False)
    assert [row.path for row in manifest.rows] == ["a b.mp4", "c.mp4", "odd 3", "gone.mp4", "also gone.mp4"]
    assert manifest.missing() == ["gone.mp4", "also gone.mp4"]


def test_bulk_table_needs_a_path_column_only(tmp_path: Path) -> None:
    listed = put(tmp_path / "list.csv", "filename,score\na.mp4,1\n")
    assert read_manifest(listed, labelled=False).rows == (Row("a.mp4"),)
    assert read_manifest(put(tmp_path / "one.csv", "path\na.mp4\n"), labelled=False).rows == (Row("a.mp4"),)


@pytest.mark.parametrize("labelled", [True, False])
def test_a_single_video_is_one_unlabelled_row(tmp_path: Path, labelled: bool) -> None:
    video = put(tmp_path / "a b.mp4")
    manifest = read_manifest(video, labelled=labelled)
    assert manifest.rows == (Row(str(video)),) and manifest.file(0) == video


# ---- labels


def test_labels_by_name_follow_the_given_order_not_the_lists(tmp_path: Path) -> None:
    listed = put(tmp_path / "val.txt", "a.mp4 run\nb.mp4 2\n")
    manifest = read_manifest(listed, labels=["run", "jump", "sit"])
    assert [row.label for row in manifest.rows] == [0, 2]
    assert manifest.counts() == {"run": 1, "jump": 0, "sit": 1}


def test_a_name_made_of_digits_is_a_name_before_it_is_an_index(tmp_path: Path) -> None:
    listed = put(tmp_path / "list.txt", "a.mp4 2\n")
    assert read_manifest(listed, labels=["1", "2", "10"]).rows[0].label == 1


def test_integer_labels_without_names_count_up_to_the_highest(tmp_path: Path) -> None:
    manifest = read_manifest(put(tmp_path / "list.txt", "a.mp4 10\nb.mp4 2\n"))
    assert manifest.labels == tuple(map(str, range(11))) and [row.label for row in manifest.rows] == [10, 2]


def test_unknown_or_impossible_labels_are_refused_with_their_place(tmp_path: Path) -> None:
    listed = put(tmp_path / "list.csv", "path,label\na.mp4,jump\nb.mp4,jmup\n")
    message = refusal(listed, labels=["jump", "run"])
    assert "line 3" in message and "'jmup'" in message and "did you mean 'jump'" in message
    assert "0 to 1" in refusal(put(tmp_path / "high.txt", "a.mp4 2\n"), labels=["jump", "run"])
    assert "line 1" in refusal(put(tmp_path / "low.txt", "a.mp4 -1\n"), labels=["jump", "run"])
    assert "not a class index" in refusal(put(tmp_path / "id.txt", "a.mp4 1700000000\n"))
    assert "twice" in refusal(put(tmp_path / "twice.txt", "a.mp4 0\n"), labels=["jump", "jump"])


# ---- refusals


def test_sources_without_videos_are_refused(tmp_path: Path) -> None:
    assert "does not exist" in refusal(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    assert "is empty" in refusal(tmp_path / "empty")
    assert "is empty" in refusal(tmp_path / "empty", labelled=False)
    put(tmp_path / "text/readme.txt")
    assert "contains no video" in refusal(tmp_path / "text")
    assert "contains no video" in refusal(tmp_path / "text", labelled=False)
    put(tmp_path / "classes/run/a.mp4")
    (tmp_path / "classes/jump").mkdir()
    assert "classes/jump" in refusal(tmp_path / "classes")
    put(tmp_path / "stray/a.mp4")
    assert "outside a class folder" in refusal(tmp_path / "stray")
    assert "lists no video" in refusal(put(tmp_path / "none.txt", "# nothing\n\n"))
    assert "lists no video" in refusal(put(tmp_path / "header.csv", "path,label\n"))


def test_wrong_tables_are_refused_with_the_columns_found(tmp_path: Path) -> None:
    assert "clip_id, label" in refusal(put(tmp_path / "a.csv", "clip_id,label\nx,0\n"))
    assert "path, kind" in refusal(put(tmp_path / "b.csv", "path,kind\nx.mp4,0\n"))
    assert "Parquet" in refusal(put(tmp_path / "c.parquet", "no table"))
    pq.write_table(pa.table({"clip": ["a"]}), tmp_path / "d.parquet")
    assert "its columns are clip" in refusal(tmp_path / "d.parquet", labelled=False)
    (tmp_path / "e.bin").write_bytes(b"\xff\xfe\x00")
    assert "UTF-8" in refusal(tmp_path / "e.bin")


def test_rows_without_label_are_refused_with_their_place(tmp_path: Path) -> None:
    assert "line 2" in refusal(put(tmp_path / "a.txt", "a.mp4 0\nb.mp4\n"))
    assert "line 2" in refusal(put(tmp_path / "b.txt", "a.mp4 0\nmy b.mp4\n"))
    assert "line 3" in refusal(put(tmp_path / "c.csv", "path,label\na.mp4,0\nb.mp4\n"))
    assert "line 2" in refusal(put(tmp_path / "d.csv", "path,label\n,0\n"))


def test_several_labels_on_a_line_are_refused(tmp_path: Path) -> None:
    assert "one label per line" in refusal(put(tmp_path / "a.txt", "a b.mp4 0 3\n"))


def test_one_path_with_two_labels_is_refused(tmp_path: Path) -> None:
    message = refusal(put(tmp_path / "a.txt", "a.mp4 0\nb.mp4 1\na.mp4 1\n"))
    assert "line 1" in message and "line 3" in message
    assert len(read_manifest(put(tmp_path / "b.txt", "a.mp4 0\na.mp4 0\n"))) == 2


# ---- names


def test_spellings_of_a_class_meet_where_the_names_are_given(tmp_path: Path) -> None:
    text = "a.mp4\tarm_wrestling\nb.mp4\tmassaging_persons_head\nc.mp4\thurling sport\n"
    manifest = read_manifest(put(tmp_path / "list.txt", text), labels="kinetics400")
    names = [manifest.labels[row.label] for row in manifest.rows if row.label is not None]
    assert names == ["arm wrestling", "massaging person's head", "hurling (sport)"]


def test_spellings_are_not_guessed(tmp_path: Path) -> None:
    two = put(tmp_path / "two.txt", "a.mp4 Run\nb.mp4 run\n")
    assert "spell a class in one way" in refusal(two, labels=["run", "sit"])
    assert read_manifest(two).labels == ("Run", "run")
    near = put(tmp_path / "near.txt", "a.mp4 RUN\n")
    assert "'RUN'" in refusal(near, labels=["Run", "run"])


def test_numbers_of_another_order_are_mapped_by_name(tmp_path: Path) -> None:
    listed = put(tmp_path / "list.txt", "a.mp4 0\nb.mp4 2\n")
    order = put(tmp_path / "order.txt", "sit\t2\nrun_fast\t0\njump\t1\n")
    assert label_names(order) == ("run_fast", "jump", "sit")
    manifest = read_manifest(listed, labels=["jump", "run fast", "sit"], order=order)
    assert [row.label for row in manifest.rows] == [1, 2]
    assert read_manifest(listed, order=order).labels == ("run_fast", "jump", "sit")
    assert "allow 0 to 1" in refusal(listed, labels=["a", "b"], order=["a", "b"])
    assert "not among" in refusal(listed, labels=["x", "y", "z"], order=order)


def test_label_files_are_names_or_numbered_names(tmp_path: Path) -> None:
    assert label_names(put(tmp_path / "a.txt", "run fast\njump\n")) == ("run fast", "jump")
    assert label_names(put(tmp_path / "b.json", '{"\\"run\\"": 1, "jump": 0}')) == ("jump", "run")
    for text in ("run\t0\njump\t2\n", "run\tx\n", '{"a": [1]}'):
        with pytest.raises(UserError, match="not a list of class names"):
            label_names(put(tmp_path / "c.txt", text))
    with pytest.raises(UserError, match="kinetics400"):
        label_names("kinetics4000")


def test_the_400_names_ship_with_the_package() -> None:
    names = kinetics400_labels()
    assert len(set(names)) == 400 and names == tuple(sorted(names)) and names[0] == "abseiling"


# ---- using a manifest


def test_groups_gather_rows_and_a_row_without_group_is_its_own() -> None:
    rows = (Row("a", 0, "g"), Row("b", 1), Row("c", 0, "g"))
    assert Manifest(rows, ("0", "1"), Path()).groups() == {"g": [0, 2], "b": [1]}


def test_a_manifest_knows_whether_its_root_was_named(tmp_path: Path) -> None:
    listed = put(tmp_path / "list.txt", "a.mp4 0\n")
    assert not read_manifest(listed).root_given and read_manifest(listed, root=tmp_path).subset([0]).root_given


def test_a_written_manifest_reads_back_to_the_same_files(tmp_path: Path) -> None:
    rows = (Row("a, b.mp4", 1, "g"), Row("ü.mp4", 0, None))
    manifest = Manifest(rows, ("jump high", "run"), tmp_path)
    write_manifest(manifest, tmp_path / "all.csv")
    assert read_manifest(tmp_path / "all.csv") == manifest
    (tmp_path / "folds").mkdir()
    write_manifest(manifest.subset([1]), tmp_path / "folds/one.csv")
    again = read_manifest(tmp_path / "folds/one.csv", labels=manifest.labels)
    assert again.file(0) == tmp_path / "ü.mp4" and again.rows[0].label == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["all.csv", "folds"]
