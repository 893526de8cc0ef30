"""The demo's videos: real, repeatable, and telling nothing but by their motion."""

from __future__ import annotations

import json
from pathlib import Path

import av
import numpy as np
import pytest

from hybridvideo.data.synthetic import CLASSES, MOTIONS, Motion, render_clip, render_dataset
from hybridvideo.data.synthetic.encode import ENCODINGS, encode
from hybridvideo.data.synthetic.scenes import DRIFT, PHASES, draw_scene
from hybridvideo.errors import UserError

COUNTS = {"train": 2, "val": 1, "test": 1}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("videos") / "set"
    render_dataset(path, **COUNTS, seed=3, workers=0)
    return path


def videos(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.glob("*/*/*"))}


def test_each_class_has_its_videos_in_each_split(folder: Path) -> None:
    for split, count in COUNTS.items():
        for label in CLASSES:
            assert sorted(path.stem for path in (folder / split / label).iterdir()) == [
                f"{number:04d}" for number in range(count)
            ]


def test_every_file_decodes_to_all_its_frames(folder: Path) -> None:
    for path in folder.glob("*/*/*"):
        split, label, name = path.relative_to(folder).parts
        frames, rate, _ = render_clip(label, seed=3, split=split, number=int(Path(name).stem))
        with av.open(str(path)) as container:
            assert float(container.streams.video[0].average_rate or 0) == pytest.approx(rate, rel=0.01)
            decoded = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        assert np.shape(decoded) == frames.shape
        assert np.abs(np.asarray(decoded, np.float32) - frames).mean() < 20  # and they are the frames rendered


def test_the_same_arguments_give_the_same_bytes_whatever_the_workers(folder: Path, tmp_path: Path) -> None:
    render_dataset(tmp_path / "again", **COUNTS, seed=3, workers=2)
    assert videos(tmp_path / "again") == videos(folder)


def test_another_seed_split_or_number_gives_another_video() -> None:
    first, _, _ = render_clip("left", seed=0, split="train", number=0)
    for seed, split, number in ((1, "train", 0), (0, "test", 0), (0, "train", 1)):
        other, _, _ = render_clip("left", seed=seed, split=split, number=number)
        assert not np.array_equal(other, first)


@pytest.mark.parametrize("motion", MOTIONS, ids=lambda motion: motion.forward)
def test_a_motion_and_its_reverse_are_the_same_frames_in_the_other_order(motion: Motion) -> None:
    forward, *rest = render_clip(motion.forward, seed=5, split="test", number=7)
    backward, *same = render_clip(motion.backward, seed=5, split="test", number=7)
    assert np.array_equal(backward, forward[::-1]) and rest == same
    assert not np.array_equal(backward, forward)


def test_the_class_turns_its_own_phase_and_no_other() -> None:
    for motion in MOTIONS:
        rng = np.random.default_rng(0)
        scene = draw_scene(rng, motion)
        seconds = (len(scene.phases["size"]) - 1) / scene.rate
        turned = {name: (values[-1] - values[0]) / seconds for name, values in scene.phases.items()}
        assert turned[motion.phase] >= motion.rate[0]
        assert all(abs(turned[name]) <= DRIFT for name in PHASES if name != motion.phase)


def test_at_every_frame_place_angle_and_size_are_spread_alike_in_all_classes() -> None:
    for motion in MOTIONS:
        rng = np.random.default_rng(1)
        scenes = [draw_scene(rng, motion) for _ in range(800)]
        for name in PHASES:
            for t in (0, 5, -1):
                spread = np.sort([scene.phases[name][t] % 1 for scene in scenes])
                gap = np.abs(spread - (np.arange(800) + 0.5) / 800).max()  # Kolmogorov-Smirnov against uniform
                assert gap < 0.07, (motion.forward, name, t)


def test_a_linear_classifier_of_single_frames_stays_near_chance() -> None:
    thumbnails, labels = [], []
    for number in range(24):
        for index, motion in enumerate(MOTIONS):  # a motion and its reverse share their frames: four kinds
            frames, _, _ = render_clip(motion.forward, seed=2, split="train", number=number)
            rows, columns = (np.linspace(0, side - 1, 8).astype(int) for side in frames.shape[1:3])
            thumbnails.append(frames[len(frames) // 2][np.ix_(rows, columns)].ravel() / 255.0)
            labels.append(index)
    x, y = np.stack([*thumbnails]), np.eye(4)[labels]
    x = np.hstack([x - x.mean(0), np.ones((len(x), 1))])
    train, held_out = slice(0, 64), slice(64, None)
    weights = np.linalg.solve(x[train].T @ x[train] + 5 * np.eye(x.shape[1]), x[train].T @ y[train])
    accuracy = (np.argmax(x[held_out] @ weights, 1) == np.asarray(labels)[held_out]).mean()
    assert accuracy < 0.45  # chance is 0.25


def test_codecs_containers_sizes_and_rates_vary() -> None:
    scenes = [draw_scene(np.random.default_rng(seed), MOTIONS[0]) for seed in range(60)]
    assert {scene.encoding.codec for scene in scenes} == {"libx264", "mpeg4", "libvpx-vp9", "libx265", "mjpeg"}
    assert len({scene.encoding.extension for scene in scenes}) == 5
    assert len({(scene.width, scene.height) for scene in scenes}) == 5
    assert len({scene.rate for scene in scenes}) == 3


def test_every_encoding_decodes_and_h264_has_b_frames(tmp_path: Path) -> None:
    frames, rate, _ = render_clip("up", seed=0, split="val", number=0)
    for encoding in ENCODINGS:
        path = tmp_path / f"video.{encoding.extension}"
        encode(path, frames, rate, encoding)
        with av.open(str(path)) as container:
            kinds = [frame.pict_type for frame in container.decode(video=0)]
        assert len(kinds) == len(frames)
        if encoding.codec == "libx264":
            assert av.video.frame.PictureType.B in kinds


def test_a_complete_folder_is_left_as_it_is(folder: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    calls: list[tuple[int, int]] = []
    render_dataset(folder, **COUNTS, seed=3, workers=0, progress=lambda *step: calls.append(step))
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    assert not calls


def test_an_interrupted_rendering_is_continued(folder: Path, tmp_path: Path) -> None:
    class Interrupted(Exception):
        pass

    def stop(_done: int, _total: int) -> None:
        raise Interrupted

    with pytest.raises(Interrupted):
        render_dataset(tmp_path / "set", **COUNTS, seed=3, workers=0, progress=stop)
    assert not (tmp_path / "set" / "dataset.json").exists()
    steps: list[tuple[int, int]] = []
    render_dataset(tmp_path / "set", **COUNTS, seed=3, workers=0, progress=lambda *step: steps.append(step))
    assert steps[-1] == (32, 32) and videos(tmp_path / "set") == videos(folder)
    assert json.loads((tmp_path / "set" / "dataset.json").read_text())["seed"] == 3


def test_a_folder_of_something_else_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="other arguments"):
        render_dataset(folder, **COUNTS, seed=4, workers=0)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="not empty"):
        render_dataset(tmp_path, **COUNTS, seed=3, workers=0)
