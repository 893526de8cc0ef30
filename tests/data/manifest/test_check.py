"""What a list says against the disk: found by the reader's own rules, before anything is decoded."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hybridvideo.config.data import AugmentConfig, ClipConfig, DataConfig, FrameConfig
from hybridvideo.config.training import TrainRun
from hybridvideo.data.dataset import ClipDataset
from hybridvideo.data.manifest import read_manifest
from hybridvideo.data.manifest.check import check_files
from hybridvideo.data.transforms import TrainTransform
from hybridvideo.errors import TooMuchBadData
from hybridvideo.tasks.train import check_lists


def put(path: Path, text: str = "x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def test_missing_duplicate_and_unlisted_files_are_found_without_opening_any(tmp_path: Path) -> None:
    for name in ("v/a.mp4", "v/b.mp4", "v/new.mp4", "v/notes.txt", "elsewhere/c.mp4"):
        put(tmp_path / name)
    (tmp_path / "v/link.mp4").symlink_to(tmp_path / "v/b.mp4")
    text = "v/a.mp4 0\nv/../v/a.mp4 0\nv/b.mp4 1\nv/link.mp4 1\nv/gone.mp4 1\nnowhere/x.mp4 0\n"
    report = check_files(read_manifest(put(tmp_path / "list.txt", text), labels=["run", "jump", "sit"]))
    assert report.missing == ("v/gone.mp4", "nowhere/x.mp4")
    assert report.duplicates == (("v/a.mp4", "v/../v/a.mp4"), ("v/b.mp4", "v/link.mp4"))
    assert report.unlisted == ("v/new.mp4",) and report.counts == {"run": 3, "jump": 3, "sit": 0}
    assert report.lines() == [
        "4 of 6 files are there; 3 classes of 0 to 3 rows, 1 of them without any: sit",
        "2 missing: v/gone.mp4, nowhere/x.mp4",
        "2 listed twice: v/a.mp4 = v/../v/a.mp4, v/b.mp4 = v/link.mp4",
        "1 beside them but not listed: v/new.mp4",
    ]


def test_files_that_the_reader_would_refuse_are_counted_with_its_reason(tmp_path: Path) -> None:
    folder = tmp_path / "videos"
    for name in ("run/good.mp4", "jump/also good.mp4", "../store/x.mp4"):
        put(folder / name)
    (folder / "run/inner.mp4").symlink_to(folder / "jump/also good.mp4")
    (folder / "run/outer.mp4").symlink_to(tmp_path / "store/x.mp4")
    (folder / "run/dangling.mp4").symlink_to(tmp_path / "store/gone.mp4")
    (folder / "run/empty.mp4").touch()
    os.mkfifo(folder / "run/pipe.mp4")
    (folder / "linked").symlink_to(tmp_path / "store")
    report = check_files(read_manifest(folder))
    reasons = dict(report.refused)
    assert report.missing == ("run/dangling.mp4",) and report.unusable == 5
    assert set(reasons) == {"run/outer.mp4", "run/empty.mp4", "run/pipe.mp4", "linked/x.mp4"}
    assert "outside the data root" in reasons["run/outer.mp4"] and "/ holds every file" in reasons["linked/x.mp4"]
    assert reasons["run/empty.mp4"] == "file is empty" and "a named pipe" in reasons["run/pipe.mp4"]
    assert report.lines()[0].startswith("3 of 8 files are there")
    # what it says is what the reader says
    dataset = ClipDataset(read_manifest(folder), ClipConfig(2), TrainTransform(FrameConfig(16, 16), AugmentConfig()), 0)
    items = [dataset[0, index] for index in range(len(dataset))]
    said = {dataset.manifest.rows[index].path: item["reason"] for index, item in enumerate(items)}  # type: ignore[call-overload]
    assert {path: said[path] for path in reasons} == reasons
    assert f"a link to '{tmp_path}/store/gone.mp4', which does not exist" in said["run/dangling.mp4"]


@pytest.mark.parametrize("root", ["/", "parent"])
def test_a_root_that_holds_a_folder_lets_its_links_lead_anywhere_there(tmp_path: Path, root: str) -> None:
    put(tmp_path / "store/x.mp4")
    (tmp_path / "videos/run").mkdir(parents=True)
    (tmp_path / "videos/run/outer.mp4").symlink_to(tmp_path / "store/x.mp4")
    manifest = read_manifest(tmp_path / "videos", root="/" if root == "/" else tmp_path)
    assert check_files(manifest).unusable == 0 and manifest.labels == ("run",)
    assert manifest.file(0).read_text() == (tmp_path / "store/x.mp4").read_text()
    put(tmp_path / "elsewhere/a.mp4")
    apart = read_manifest(tmp_path / "videos", root=tmp_path / "elsewhere")
    assert check_files(apart).unusable == 1 and apart.rows[0].path == "run/outer.mp4"


def test_two_clips_of_one_youtube_video_are_noted(tmp_path: Path) -> None:
    text = "x/AAAAAAAAAAA_000001_000011.mp4 0\nAAAAAAAAAAA_000020_000030.mp4 0\nBBBBBBBBBBB_000020_000030.mp4 0\n"
    report = check_files(read_manifest(put(tmp_path / "list.txt", text)))
    assert report.same_video == (("x/AAAAAAAAAAA_000001_000011.mp4", "AAAAAAAAAAA_000020_000030.mp4"),)


def test_class_folders_of_links_that_lead_nowhere_stop_a_run_before_it_begins(tmp_path: Path) -> None:
    for name in ("run/a.mp4", "jump/b.mp4"):
        put(tmp_path / "store" / name)
        (tmp_path / "videos" / name).parent.mkdir(parents=True)
        (tmp_path / "videos" / name).symlink_to(tmp_path / "store" / name)
    run = TrainRun(data=DataConfig(train=str(tmp_path / "videos")))
    with pytest.raises(
        TooMuchBadData, match=r"2 of 2 files of .* \(first: .*outside the data root.*/ holds.*data\.root"
    ):
        check_lists(run, read_manifest(run.data.train), None)
    assert "2 of 2 files are there" in check_lists(run, read_manifest(run.data.train, root="/"), None)[0]
