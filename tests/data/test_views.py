"""All fixed views of a video, from frames decoded once; a bad file is an item that says so."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from hybridvideo.config.data import ClipConfig
from hybridvideo.data import reading
from hybridvideo.data.decode import Framing
from hybridvideo.data.manifest import Manifest, read_manifest
from hybridvideo.data.sampling import sliding_starts, uniform_starts
from hybridvideo.data.transforms import ViewTransform
from hybridvideo.data.views import ViewDataset, collate_views, views_of
from hybridvideo.engine.multiview import by_video
from tests.data.test_dataset import FRAME, Damaged, manifest, numbers
from tests.videos import blank, write_video

__all__ = ["manifest"]  # the fixture


def views(manifest: Manifest, clips: int = 1, crops: int = 1, **rule: Any) -> ViewDataset:
    clip = ClipConfig(**{"frames": 8, **rule})
    return ViewDataset(manifest, clip, ViewTransform(FRAME, crops), partial(uniform_starts, clips=clips))


def cut(*items: Any) -> list[torch.Tensor]:
    """The views of some items, each (C, T, H, W)."""
    return [view.permute(3, 0, 1, 2) for view in views_of(collate_views(items))]


def test_views_come_in_clip_then_crop_order_and_cover_both_ends(manifest: Manifest) -> None:
    item = views(manifest, clips=3, crops=3)[0]
    found = cut(item)
    assert len(found) == 9 and all(view.shape == (3, 8, 32, 32) and view.dtype == torch.uint8 for view in found)
    shown = [numbers(view) for view in found]
    assert [run[0] for run in shown] == [0, 0, 0, 16, 16, 16, 32, 32, 32]
    assert all(run == list(range(run[0], run[0] + 8)) for run in shown)
    assert item["start"] == pytest.approx((0.0, 1.6, 3.2)) and item["end"] == pytest.approx((0.8, 2.4, 4.0))


def test_the_frames_of_all_views_are_decoded_once_and_travel_once(
    manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[list[int]] = []

    class Counting(reading.VideoReader):
        def frames_at(self, indices: Any, framing: Any) -> Any:
            calls.append(list(indices))
            return super().frames_at(indices, framing)

    monkeypatch.setattr(reading, "VideoReader", Counting)
    item = views(manifest, clips=10, crops=3, stride=2)[0]
    assert len(calls) == 1 and calls[0] == sorted(set(calls[0]))
    assert len(item["frames"]) == len(calls[0]) <= 40 < 10 * 8


def test_each_view_equals_that_of_a_data_set_with_one_clip(manifest: Manifest) -> None:
    many, one = cut(views(manifest, clips=3)[0]), cut(views(manifest, clips=1)[0])
    assert torch.equal(many[1], one[0])


def test_the_three_crops_are_the_ends_and_the_centre(manifest: Manifest) -> None:
    item = views(manifest, crops=3)[0]
    assert item["frames"].shape[1:] == (32, 42, 3) and item["corners"].tolist() == [[0, 0], [0, 5], [0, 10]]


def test_videos_of_a_batch_may_differ_in_size(manifest: Manifest) -> None:
    good, gone = views(manifest, clips=2)[0], views(manifest, clips=2)[4]
    batch = collate_views([gone, good])
    assert batch["counts"].tolist() == [0, 2] and batch["status"] == ["missing", "ok"]
    assert all(map(torch.equal, cut(gone, good), cut(good)))


def test_too_short_videos_have_all_their_views(manifest: Manifest) -> None:
    item = views(manifest, clips=2)[1]
    assert item["status"] == "ok" and len(cut(item)) == 2 and item["end"] == pytest.approx((0.3, 0.3))


def test_an_unreadable_video_has_no_views_but_a_reason(manifest: Manifest) -> None:
    item = views(manifest, clips=2)[4]
    assert not cut(item) and item["status"] == "missing" and item["reason"]
    assert (item["start"], item["end"], item["label"], item["index"]) == ((), (), 0, 4)


def test_frames_scaled_as_rgb_need_not_be_in_memory_together(
    manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    uniform = partial(uniform_starts, clips=4)

    def views_rgb() -> Any:
        return ViewDataset(manifest, ClipConfig(8), ViewTransform(replace(FRAME, scaling="rgb"), 3), uniform)[0]

    whole = views_rgb()
    monkeypatch.setattr(reading, "PART", 5)
    assert torch.equal(views_rgb()["frames"], whole["frames"])
    assert (whole["frames"].int() - views(manifest, clips=4, crops=3)[0]["frames"]).abs().max() <= 3


def test_a_video_in_quarantine_is_not_opened(manifest: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "VideoReader", None)
    data = views(manifest)
    data.quarantine[0] = ("crashed", "ended the decoder twice")
    assert (data[0]["status"], data[0]["reason"]) == ("crashed", "ended the decoder twice")


def test_a_damaged_video_gives_views_of_what_is_readable(manifest: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    class Breaking(Damaged):
        def frames_at(self, indices: Any, framing: Any) -> Any:
            return self.clips_at([(indices, framing)])[0]

    monkeypatch.setattr(reading, "VideoReader", Breaking)
    item = views(manifest, clips=2)[0]
    assert item["status"] == "partial" and "20 of 40" in item["reason"]
    assert [numbers(view)[0] for view in cut(item)] == [0, 12]


def test_a_clip_of_a_damaged_video_does_not_depend_on_the_other_clips(tmp_path: Path) -> None:
    """Two of four meet the damage; those that do not are what they are alone."""
    path = blank(write_video(tmp_path / "a.mp4", 120, container_options={"movflags": "faststart"}), 0.5, 0.7)
    clip, framer = ClipConfig(frames=8), lambda size: Framing(size=(32, 32))

    starts = partial(uniform_starts, clips=4)
    union = reading.decode_union(path, clip, starts, framer)
    apart = reading.decode_clips(path, clip, starts, [framer] * 4)
    found = set()
    for k in range(4):
        alone = reading.decode_clips(path, clip, lambda *length, k=k: [starts(*length)[k]], [framer])
        found.add(alone.status)
        assert torch.equal(union.frames[0][union.positions_KT[k]], alone.frames[0])
        assert torch.equal(apart.frames[k], alone.frames[0])
        assert union.sampled.start[k] == apart.sampled.start[k] == alone.sampled.start[0]
    assert union.status == apart.status == "partial" and found == {"ok", "partial"}


def test_videos_of_a_batch_may_differ_in_their_number_of_views(manifest: Manifest) -> None:
    """Sliding windows: ten in a video of 4 seconds, one in a video of 0.3 seconds; none in a missing one."""
    clip, crops = ClipConfig(frames=8), ViewTransform(FRAME, 3)
    data = ViewDataset(manifest, clip, crops, partial(sliding_starts, overlap=0.55))
    batch = collate_views([data[0], data[4], data[1]])
    assert batch["counts"].tolist() == [30, 0, 3]
    assert [len(starts) for starts in batch["start"]] == [10, 0, 1]
    shown = [numbers(view.permute(3, 0, 1, 2))[0] for view in views_of(batch)]
    assert shown[0] == 0 and shown[29] == 32 and len(shown) == 33
    model = torch.arange(33.0)[:, None]
    results = list(by_video(batch, model))
    assert [result.outputs_VK.flatten().tolist() for result in results] == [
        list(range(30)), [], list(range(30, 33)),
    ]  # fmt: skip


def test_windows_that_damage_leaves_no_room_for_are_left_out(
    manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Breaking(Damaged):
        def frames_at(self, indices: Any, framing: Any) -> Any:
            return self.clips_at([(indices, framing)])[0]

    monkeypatch.setattr(reading, "VideoReader", Breaking)
    item = ViewDataset(manifest, ClipConfig(frames=8), ViewTransform(FRAME, 1), sliding_starts)[0]
    assert item["status"] == "partial" and "20 of 40" in item["reason"]
    assert item["start"] == pytest.approx((0.0, 0.8, 1.2)) and len(item["positions"]) == 3
    assert [numbers(view)[0] for view in cut(item)] == [0, 8, 12]


def test_an_unexpected_error_is_not_taken_for_a_bad_video(manifest: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(path: Path, index: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(reading, "VideoReader", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        views(manifest)[0]


def test_a_path_that_the_user_typed_may_lead_anywhere_and_one_in_a_list_may_not(
    manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "list.txt").write_text(f"../{manifest.root.name}/long.mp4 a\n")
    (tmp_path.parent / manifest.root.name).exists() or (tmp_path.parent / manifest.root.name).symlink_to(manifest.root)
    monkeypatch.chdir(tmp_path)
    typed = read_manifest(f"../{manifest.root.name}/long.mp4", labelled=False)
    assert views(typed)[0]["status"] == "ok"
    listed = views(read_manifest("list.txt"))[0]
    assert listed["status"] == "refused" and "outside the data root" in listed["reason"]
