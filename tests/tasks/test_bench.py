"""`bench loader` reports what a clip costs by stage and how long a model waits, on the user's own videos."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hybridvideo import cli
from hybridvideo.tasks.bench import STAGES
from tests.videos import write_video

SMALL = ("--clip.frames", "4", "--clip.stride", "2", "--frame.height", "16", "--frame.width", "16", "--clips", "8")


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    folder = tmp_path / "videos"
    folder.mkdir()
    for name in ("a.mp4", "b.mkv", "c.mp4"):
        write_video(folder / name, 30)
    return folder


def figures(videos: Path, *options: str) -> dict[str, object]:
    out = videos.parent / "bench.json"
    assert cli.main(["bench", "loader", str(videos), *SMALL, "--out", str(out), *options]) == 0
    found: dict[str, object] = json.loads(out.read_text())
    return found


def test_every_stage_has_its_share(videos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = figures(videos, "--workers", "1", "--rate", "50")
    stages = found["stage_ms_per_clip"]
    assert isinstance(stages, dict) and list(stages) == list(STAGES)
    assert all(stages[name] > 0 for name in ("open", "decode", "convert", "transform", "other", "collate"))
    said = capsys.readouterr().out
    assert "clips/s" in said and "waits" in said and "cores needed to feed it" in said


def test_a_model_slower_than_the_loader_hardly_waits_and_a_faster_one_does(videos: Path) -> None:
    slow, fast = (figures(videos, "--workers", "1", "--rate", rate) for rate in ("20", "100000"))
    assert slow["waiting"] < fast["waiting"]  # type: ignore[operator]


def test_a_real_model_may_take_the_clips(videos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figures(videos, "--workers", "0", "--model", "hybrid_micro", "--device", "cpu")
    assert "hybrid_micro training" in capsys.readouterr().out


def test_unreadable_videos_are_counted_and_only_they_are_errors(
    videos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for file in videos.iterdir():
        if file.name != "a.mp4":
            file.write_text("no video")
    assert figures(videos, "--workers", "0")["unreadable"] in range(1, 8)
    (videos / "a.mp4").write_text("no video")
    assert cli.main(["bench", "loader", str(videos), *SMALL, "--workers", "0"]) == 3
    assert "none of 8 clips could be read" in capsys.readouterr().err


@pytest.mark.parametrize("option", [("--clips", "0"), ("--rate", "-1"), ("--workers", "-1")])
def test_impossible_numbers_are_refused(
    videos: Path, option: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["bench", "loader", str(videos), *option]) == 2
    assert "give" in capsys.readouterr().err
