"""Videos that cannot be read: a run is judged while it runs, and continues once they are repaired."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from accelerate import Accelerator

from hybridvideo.engine.training.unreadable import BadVideos, too_many
from hybridvideo.errors import TooMuchBadData
from tests.engine.training.runs import lines, run, same, settings, weights


@pytest.fixture
def data(motion: Path, tmp_path: Path) -> Path:
    return shutil.copytree(motion, tmp_path / "data")


def break_videos(folder: Path, count: int) -> list[Path]:
    """The first so many are no videos any more."""
    victims = sorted(folder.rglob("*.*"))[:count]
    for victim in victims:
        victim.write_bytes(b"no video")
    return victims


def state_of(folder: Path) -> dict[str, Any]:
    state: dict[str, Any] = json.loads((folder / "checkpoints" / "last" / "state.json").read_text())
    return state


@pytest.mark.parametrize("max_bad", [0.1, 0.5])
def test_a_run_stops_as_soon_as_more_are_unreadable_than_allowed(data: Path, tmp_path: Path, max_bad: float) -> None:
    break_videos(data / "train", 20)
    with pytest.raises(TooMuchBadData, match=r"of 24 training videos cannot be read, more than data.max_bad") as error:
        run(tmp_path / "run", settings(data, train={"batch_size": 4, "epochs": 9}, data={"max_bad": max_bad}))
    unreadable = int(str(error.value).split()[0])
    assert 24 * max_bad < unreadable <= 24 * max_bad + 4
    assert len((tmp_path / "run" / "bad_videos.jsonl").read_text().splitlines()) == unreadable
    state = state_of(tmp_path / "run")
    assert state["epoch"] == 0 and state["batch"] < 6 and not lines(tmp_path / "run", "epoch")


def test_a_stopped_run_continues_once_its_videos_are_repaired(data: Path, motion: Path, tmp_path: Path) -> None:
    victims = break_videos(data / "train", 12)
    plan = settings(data, train={"batch_size": 4})
    with pytest.raises(TooMuchBadData, match="continue with --resume"):
        run(tmp_path / "run", plan)
    with pytest.raises(TooMuchBadData, match="continue with --resume"):
        run(tmp_path / "run", plan, resume=True)
    before = state_of(tmp_path / "run")["clips_seen"]
    for victim in victims:
        shutil.copy(motion / victim.relative_to(data), victim)
    run(tmp_path / "run", plan, resume=True)
    second = lines(tmp_path / "run", "epoch")[1]
    assert second["bad_clips"] == 0 and second["clips_seen"] >= before + 24


def test_a_list_of_which_nothing_can_be_read_is_not_trained_on_whatever_is_allowed(data: Path, tmp_path: Path) -> None:
    break_videos(data / "train", 24)
    with pytest.raises(TooMuchBadData, match="24 of 24 training videos cannot be read, so there is nothing to learn"):
        run(tmp_path / "run", settings(data, data={"max_bad": 1.0}, train={"epochs": 50}))
    assert state_of(tmp_path / "run")["epoch"] == 0


@pytest.mark.parametrize(("broken", "max_bad"), [(2, 0.2), (8, 1.0)])
def test_too_many_unreadable_validation_videos_stop_a_run_that_can_go_on(
    data: Path, motion: Path, tmp_path: Path, broken: int, max_bad: float
) -> None:
    victims = break_videos(data / "val", broken)
    plan = settings(data, data={"max_bad": max_bad})
    with pytest.raises(TooMuchBadData, match=f"{broken} of 8 validation videos cannot be read, .*first: .*unreadable"):
        run(tmp_path / "run", plan)
    assert not lines(tmp_path / "run", "epoch")
    for victim in victims:
        shutil.copy(motion / victim.relative_to(data), victim)
    resumed, whole = run(tmp_path / "run", plan, resume=True), run(tmp_path / "whole", plan)
    assert same(weights(resumed), weights(whole))
    assert [row["val_top1"] for row in lines(resumed, "epoch")] == [row["val_top1"] for row in lines(whole, "epoch")]


def test_a_video_that_is_listed_often_counts_once() -> None:
    class Row:
        def __init__(self, path: str) -> None:
            self.path = path

    rows = [Row("a"), Row("a"), Row("a"), Row("b"), Row("c"), Row("d")]
    bad = BadVideos(Accelerator(cpu=True), rows, {}, "retry", 0.25)
    batch = {"members": [0, 1, 2, 3, 4, -1], "status": ["timeout"] * 3 + ["ok", "partial", "padding"]}
    bad.note(batch | {"reason": [""] * 6})
    assert bad.new == 1 and not bad.too_many(1)
    assert set(bad.bad) == {"a", "c"} and bad.listed == 4
    bad.note({"members": [3], "status": ["unreadable"], "reason": ["why"]})
    assert bad.too_many(bad.new)
    bad.share()
    assert bad.new == 0 and bad.too_many() and "2 of 4 training videos" in bad.verdict("there")


def test_the_limit_is_a_share_and_never_all() -> None:
    assert not too_many(0, 3, 0.0) and too_many(1, 3, 0.0)
    assert not too_many(5, 100, 0.05) and too_many(6, 100, 0.05)
    assert not too_many(99, 100, 1.0) and too_many(100, 100, 1.0)
