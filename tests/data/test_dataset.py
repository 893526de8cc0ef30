"""What a video gives follows from the file and (seed, epoch, index); a bad file is an item that says so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hybridvideo.config.data import AugmentConfig, ClipConfig, FrameConfig
from hybridvideo.data import reading
from hybridvideo.data.dataset import PADDING, ClipDataset, ClipItem, sample_generator
from hybridvideo.data.manifest import Manifest, Row
from hybridvideo.data.transforms import TrainTransform
from hybridvideo.errors import VideoError
from tests.videos import blank, write_video

FRAME = FrameConfig(32, 32)
FPS = 10
LENGTHS = {"long.mp4": 40, "short.mp4": 3, "one.mp4": 1}


def write_counting_video(path: Path, frames: int) -> None:
    """A video of 64 x 48 pixels whose frame i is grey of level 10 + 5 i: every frame says which one it is."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.options = {"crf": "4"}
        for index in range(frames):
            grey = np.full((48, 64, 3), 10 + 5 * index, dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(grey, format="rgb24")))
        container.mux(stream.encode(None))


def numbers(clip_CTHW: torch.Tensor) -> list[int]:
    """Which frames a clip shows."""
    return ((clip_CTHW.float().mean((0, 2, 3)) - 10) / 5).round().int().tolist()


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    folder = tmp_path_factory.mktemp("videos")
    for name, frames in LENGTHS.items():
        write_counting_video(folder / name, frames)
    (folder / "text.mp4").write_text("no video at all\n" * 50)
    names = [*LENGTHS, "text.mp4", "gone.mp4"]
    return Manifest(tuple(Row(name, label % 2) for label, name in enumerate(names)), ("a", "b"), folder)


def clips(
    manifest: Manifest, seed: int = 0, augment: AugmentConfig | None = None, bad: Any = "retry", **rule: Any
) -> Any:
    augment = augment or AugmentConfig(crop="none", flip=0.0)
    return ClipDataset(manifest, ClipConfig(**{"frames": 8, **rule}), TrainTransform(FRAME, augment), seed, bad=bad)


# ---- training


def test_a_clip_is_a_run_of_frames_at_its_stride(manifest: Manifest) -> None:
    item = clips(manifest, stride=3)[(0, 0)]
    assert item["clip"].shape == (3, 8, 32, 32) and item["clip"].dtype == torch.uint8
    assert item["clip"].permute(1, 2, 3, 0).is_contiguous()  # channels are last in memory
    assert (item["label"], item["index"], item["ok"], item["status"]) == (0, 0, True, "ok")
    assert set(np.diff(numbers(item["clip"]))) == {3}


def test_an_interval_is_in_seconds(manifest: Manifest) -> None:
    item = clips(manifest, interval=0.2, train_start="first")[(0, 0)]
    assert numbers(item["clip"]) == [0, 2, 4, 6, 8, 10, 12, 14]


def test_a_clip_depends_on_seed_epoch_and_index_alone(manifest: Manifest) -> None:
    augment = AugmentConfig()
    first = clips(manifest, 3, augment)[(5, 0)]["clip"]
    torch.manual_seed(1)
    again = clips(manifest, 3, augment)
    again[(1, 1)], again[(5, 1)]
    assert torch.equal(first, again[(5, 0)]["clip"])
    assert not torch.equal(first, again[(6, 0)]["clip"])
    assert not torch.equal(first, clips(manifest, 4, augment)[(5, 0)]["clip"])


def test_random_starts_differ_from_epoch_to_epoch_and_fixed_ones_do_not(manifest: Manifest) -> None:
    assert len({numbers(clips(manifest)[(epoch, 0)]["clip"])[0] for epoch in range(8)}) > 3
    centre = clips(manifest, train_start="centre")
    assert [numbers(centre[(epoch, 0)]["clip"])[0] for epoch in range(3)] == [16, 16, 16]


def test_short_video_repeats_its_last_frame_or_starts_again(manifest: Manifest) -> None:
    assert numbers(clips(manifest)[(0, 1)]["clip"]) == [0, 1, 2, 2, 2, 2, 2, 2]
    assert numbers(clips(manifest, pad="loop")[(0, 1)]["clip"]) == [0, 1, 2, 0, 1, 2, 0, 1]
    one = clips(manifest)[(0, 2)]
    assert one["ok"] and numbers(one["clip"]) == [0] * 8


def test_an_unreadable_video_is_a_blank_item_with_its_reason(manifest: Manifest) -> None:
    for index, label in ((3, 1), (4, 0)):
        item = clips(manifest)[(0, index)]
        assert not item["ok"] and item["status"] != "ok" and item["reason"] and "\n" not in item["reason"]
        assert item["clip"].shape == (3, 8, 32, 32) and not item["clip"].any() and item["label"] == label
    assert clips(manifest)[(0, 4)]["status"] == "missing"


def test_padding_is_a_blank_item_without_label(manifest: Manifest) -> None:
    item = clips(manifest)[(0, PADDING)]
    assert (item["ok"], item["status"], item["label"], item["index"]) == (False, "padding", -1, -1)


def test_neighbouring_samples_draw_unrelated_numbers() -> None:
    draws = [
        torch.rand((), generator=sample_generator(seed, epoch, index)).item()
        for seed in range(4)
        for epoch in range(4)
        for index in range(8)
    ]
    assert len(set(draws)) == 128 and 0.4 < np.mean(draws) < 0.6


# ---- damage and faults


def test_a_clip_of_a_damaged_video_does_not_depend_on_what_was_read_before(tmp_path: Path) -> None:
    path = blank(write_video(tmp_path / "a.mp4", 120, container_options={"movflags": "faststart"}), 0.5, 0.7)
    manifest = Manifest((Row(str(path), 0, None),), ("one",), tmp_path)
    going_on = clips(manifest)
    shown = [going_on[(epoch, 0)] for epoch in range(12)]
    assert {item["status"] for item in shown} == {"ok", "partial"}
    for epoch, item in enumerate(shown):
        alone = clips(manifest)[(epoch, 0)]
        assert item["status"] == alone["status"] and torch.equal(item["clip"], alone["clip"])


class Damaged:
    """A reader whose video breaks off: 40 frames promised, 20 there."""

    fps = float(FPS)

    def __init__(self, path: Path, index: object = None) -> None:
        self.times, self.status, self.reason = np.arange(40) / FPS, "ok", ""

    def __enter__(self) -> Damaged:
        return self

    def __exit__(self, *error: object) -> None: ...

    def forget(self) -> None: ...

    def clips_at(self, shots: list[Any], exact: bool = True) -> list[Any]:
        if self.status == "ok":
            self.times, self.status, self.reason = self.times[:20], "partial", "20 of 40 frames can be decoded"
            raise VideoError("partial", self.reason)
        return [self._clip(*shot) for shot in shots]

    def _clip(self, indices: list[int], framer: Any) -> Any:
        assert max(indices) < 20
        height, width = framer((48, 64)).size
        frames = torch.tensor(indices, dtype=torch.uint8) * 5 + 10
        return type("Clip", (), {"frames_TCHW": frames[:, None, None, None].expand(-1, 3, height, width)})


def test_a_damaged_video_is_sampled_within_what_is_readable(
    manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "VideoReader", Damaged)
    clip = clips(manifest)[(0, 0)]
    assert clip["ok"] and clip["status"] == "partial" and max(numbers(clip["clip"])) < 20
    assert "20 of 40" in clip["reason"]


def test_a_damaged_video_is_left_out_under_skip(manifest: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "VideoReader", Damaged)
    clip = clips(manifest, bad="skip")[(0, 0)]
    assert not clip["ok"] and clip["status"] == "partial" and not clip["clip"].any()


def test_a_video_in_quarantine_is_not_opened(manifest: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "VideoReader", None)
    data = clips(manifest)
    data.quarantine[0] = ("timeout", "no answer in 120 s")
    item = data[(0, 0)]
    assert (item["ok"], item["status"], item["reason"]) == (False, "timeout", "no answer in 120 s")


def test_an_unexpected_error_is_not_taken_for_a_bad_video(manifest: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(path: Path, index: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(reading, "VideoReader", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        clips(manifest)[(0, 0)]


# ---- repeated augmentation


def test_repeats_are_clips_of_one_video_from_one_pass(manifest: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Path] = []

    class Counting(reading.VideoReader):
        def __init__(self, path: Path, index: Any) -> None:
            opened.append(path)
            super().__init__(path, index=index)

    monkeypatch.setattr(reading, "VideoReader", Counting)
    items: list[ClipItem] = clips(manifest, augment=AugmentConfig(repeats=4))[(0, 0)]
    assert len(opened) == 1 and len(items) == 4
    assert all(item["ok"] and item["index"] == 0 for item in items)
    assert len({numbers(item["clip"])[0] for item in items}) > 1
    assert len({item["clip"].float().mean().item() for item in items}) == 4


def test_the_first_repeat_is_the_clip_without_repeats(manifest: Manifest) -> None:
    one, many = clips(manifest, augment=AugmentConfig()), clips(manifest, augment=AugmentConfig(repeats=2))
    assert torch.equal(one[(3, 0)]["clip"], many[(3, 0)][0]["clip"])


def test_repeats_of_a_bad_video_are_the_same_number_of_blank_items(manifest: Manifest) -> None:
    items = clips(manifest, augment=AugmentConfig(repeats=3))[(0, 4)]
    assert [(item["ok"], item["status"]) for item in items] == [(False, "missing")] * 3


# ---- where scaling is done


@pytest.mark.parametrize("crop", ["resized", "jitter", "none"])
def test_scaling_in_the_decoder_gives_what_scaling_rgb_gives(manifest: Manifest, crop: Any) -> None:
    augment = AugmentConfig(crop=crop)
    clip = ClipConfig(8)
    for epoch in range(4):
        both = [
            ClipDataset(manifest, clip, TrainTransform(FrameConfig(32, 32, scaling=scaling), augment), 0)[(epoch, 0)]
            for scaling in ("decoder", "rgb")
        ]
        inside, outside = (item["clip"].float() for item in both)  # type: ignore[call-overload]
        assert (inside - outside).abs().max() <= 3  # grey frames: no edges
