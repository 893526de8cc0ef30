"""What a video gives follows from the file and (seed, epoch, index); a bad file is an item that says so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hybridvideo.config import AugmentConfig, ClipConfig, FrameConfig
from hybridvideo.data import dataset as dataset_module
from hybridvideo.data.dataset import PADDING, ClipDataset, ViewDataset, sample_generator
from hybridvideo.data.manifest import Manifest, Row
from hybridvideo.data.transforms import TrainTransform, ViewTransform
from hybridvideo.errors import VideoError

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


def clips(manifest: Manifest, seed: int = 0, augment: AugmentConfig | None = None, **rule: Any) -> ClipDataset:
    augment = augment or AugmentConfig(crop="none", flip=0.0)
    return ClipDataset(manifest, ClipConfig(**{"frames": 8, **rule}), TrainTransform(FRAME, augment), seed)


def views(manifest: Manifest, clips: int = 1, crops: int = 1, **rule: Any) -> ViewDataset:
    clip = ClipConfig(**{"frames": 8, **rule})
    return ViewDataset(manifest, clip, ViewTransform(FRAME, crops), clips)


# ---- training


def test_a_clip_is_a_run_of_frames_at_its_stride(manifest: Manifest) -> None:
    item = clips(manifest, stride=3)[(0, 0)]
    assert item["clip"].shape == (3, 8, 32, 32) and item["clip"].dtype == torch.uint8
    assert item["clip"].is_contiguous()
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


# ---- testing


def test_views_come_in_clip_then_crop_order_and_cover_both_ends(manifest: Manifest) -> None:
    item = views(manifest, clips=3, crops=3)[0]
    assert item["views"].shape == (9, 3, 8, 32, 32) and item["views"].is_contiguous()
    shown = [numbers(view) for view in item["views"]]
    assert [run[0] for run in shown] == [0, 0, 0, 16, 16, 16, 32, 32, 32]
    assert all(run == list(range(run[0], run[0] + 8)) for run in shown)
    assert item["start"] == pytest.approx((0.0, 1.6, 3.2)) and item["end"] == pytest.approx((0.8, 2.4, 4.0))


def test_the_frames_of_all_views_are_decoded_once(manifest: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[list[int]] = []

    class Counting(dataset_module.VideoReader):  # type: ignore[misc,valid-type]
        def frames_at(self, indices: Any) -> Any:
            calls.append(list(indices))
            return super().frames_at(indices)

    monkeypatch.setattr(dataset_module, "VideoReader", Counting)
    views(manifest, clips=10, crops=3, stride=2)[0]
    assert len(calls) == 1 and calls[0] == sorted(set(calls[0]))


def test_each_view_equals_that_of_a_data_set_with_one_clip(manifest: Manifest) -> None:
    many, one = views(manifest, clips=3)[0]["views"], views(manifest, clips=1)[0]["views"]
    assert torch.equal(many[1], one[0])


def test_too_short_videos_have_all_their_views(manifest: Manifest) -> None:
    item = views(manifest, clips=2)[1]
    assert item["status"] == "ok" and item["views"].shape[0] == 2 and item["end"] == pytest.approx((0.3, 0.3))


def test_an_unreadable_video_has_no_views_but_a_reason(manifest: Manifest) -> None:
    item = views(manifest, clips=2)[4]
    assert item["views"].shape == (0, 3, 8, 32, 32) and item["status"] == "missing" and item["reason"]
    assert (item["start"], item["end"], item["label"], item["index"]) == ((), (), 0, 4)


# ---- damage and faults


class Damaged:
    """A reader whose video breaks off: 40 frames promised, 20 there."""

    def __init__(self, path: Path) -> None:
        self.times, self.status, self.reason = np.arange(40) / FPS, "ok", ""
        self.info = type("Info", (), {"fps": float(FPS)})

    def __enter__(self) -> Damaged:
        return self

    def __exit__(self, *error: object) -> None: ...

    def frames_at(self, indices: list[int]) -> Any:
        if self.status == "ok":
            self.times, self.status = self.times[:20], "partial"
            raise VideoError("partial", "20 of 40 frames can be decoded")
        assert max(indices) < 20
        frames = torch.tensor(indices, dtype=torch.uint8) * 5 + 10
        return type("Clip", (), {"frames_TCHW": frames[:, None, None, None].expand(-1, 3, 48, 64)})


def test_a_damaged_video_is_sampled_within_what_is_readable(
    manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dataset_module, "VideoReader", Damaged)
    item = views(manifest, clips=2)[0]
    assert item["status"] == "partial" and "20 of 40" in item["reason"]
    assert [numbers(view)[0] for view in item["views"]] == [0, 12]
    clip = clips(manifest)[(0, 0)]
    assert clip["ok"] and clip["status"] == "partial" and max(numbers(clip["clip"])) < 20


def test_an_unexpected_error_is_not_taken_for_a_bad_video(manifest: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(path: Path) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(dataset_module, "VideoReader", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        clips(manifest)[(0, 0)]
    with pytest.raises(RuntimeError, match="a bug"):
        views(manifest)[0]
