"""The same samples in the same order, whatever the workers, the processes and the point of resuming."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch

from hybridvideo.config.data import AugmentConfig, ClipConfig, FrameConfig, Normalisation
from hybridvideo.data.dataset import PADDING, ClipDataset
from hybridvideo.data.device import device_batches, normalise
from hybridvideo.data.loader import EpochOrder, train_loader, view_loader
from hybridvideo.data.manifest import Manifest, Row
from hybridvideo.data.processes.workers import each
from hybridvideo.data.sampling import uniform_starts
from hybridvideo.data.transforms import TrainTransform, ViewTransform
from hybridvideo.data.views import ViewDataset, views_of
from hybridvideo.errors import UserError

CPU = torch.device("cpu")
FRAME = FrameConfig(16, 16)


def write_noise_video(path: Path, seed: int) -> None:
    import av

    noise = np.random.default_rng(seed)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 32, 24, "yuv420p"
        for _ in range(12):
            frame = noise.integers(0, 256, (24, 32, 3), dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Five videos, the fourth of which is none."""
    folder = tmp_path_factory.mktemp("videos")
    names = [f"{number}.mp4" for number in range(5)]
    for number, name in enumerate(names):
        write_noise_video(folder / name, number)
    (folder / "3.mp4").write_bytes(b"")
    return Manifest(tuple(Row(name, number) for number, name in enumerate(names)), tuple("abcde"), folder)


def clips(manifest: Manifest, seed: int = 7) -> ClipDataset:
    return ClipDataset(manifest, ClipConfig(frames=4), TrainTransform(FRAME, AugmentConfig()), seed)


def views(manifest: Manifest) -> ViewDataset:
    return ViewDataset(manifest, ClipConfig(frames=4), ViewTransform(FRAME, 3), partial(uniform_starts, clips=2))


def same(one: Any, other: Any) -> bool:
    """Whether two values of a batch are the same, to the last bit."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def equal(one: list[dict[str, Any]], other: list[dict[str, Any]]) -> bool:
    """Whether two runs gave the same batches, to the last bit."""
    return len(one) == len(other) and all(
        a.keys() == b.keys() and all(same(a[name], b[name]) for name in a) for a, b in zip(one, other, strict=True)
    )


# ---- order


def order(num_samples: int = 10, batch_size: int = 4, **options: Any) -> EpochOrder:
    return EpochOrder(num_samples, 0, batch_size=batch_size, **options)


def test_an_epoch_is_a_permutation_and_keeps_its_short_last_batch() -> None:
    batches = list(order(epoch=3))
    assert [len(batch) for batch in batches] == [4, 4, 2] and len(order()) == 3
    assert sorted(index for batch in batches for _, index in batch) == list(range(10))
    assert {epoch for batch in batches for epoch, _ in batch} == {3}


def test_the_order_follows_from_seed_and_epoch() -> None:
    assert list(order(epoch=1)) == list(order(epoch=1))
    assert order(100, epoch=1).indices() != order(100, epoch=2).indices()
    assert order(100).indices() != EpochOrder(100, 1, batch_size=4).indices()
    assert order(shuffle=False).indices() == list(range(10))


def test_order_resumed_at_batch_k_equals_the_tail() -> None:
    whole = list(order(25, epoch=2))
    for start in range(len(whole) + 1):
        resumed = order(25, epoch=2, start_batch=start)
        assert list(resumed) == whole[start:] and len(resumed) == len(whole) - start


def test_set_epoch_moves_on_and_forgets_the_point_of_resuming() -> None:
    moved = order(epoch=0, start_batch=2)
    moved.set_epoch(1)
    assert list(moved) == list(order(epoch=1))


@pytest.mark.parametrize("world", [2, 4])
@pytest.mark.parametrize("num_samples", [8, 9, 10, 11, 13])
def test_any_number_of_ranks_sees_the_global_batches_of_one(num_samples: int, world: int) -> None:
    ranks = [list(order(num_samples, rank=rank, world=world)) for rank in range(world)]
    for whole, *parts in zip(order(num_samples), *ranks, strict=True):
        assert all(parts)  # no rank is without a step
        together = [key for part in parts for key in part if key[1] != PADDING]
        assert together == whole
        sizes = [sum(index != PADDING for _, index in part) for part in parts]
        assert max(sizes) - min(sizes) <= 1
        assert all(len(part) == max(size, 1) for part, size in zip(parts, sizes, strict=True))


def test_a_batch_that_processes_cannot_share_is_refused() -> None:
    with pytest.raises(UserError, match="multiple of 3"):
        order(batch_size=4, world=3)
    with pytest.raises(UserError, match="nothing to load"):
        order(0)


# ---- training loader


def test_workers_epochs_and_resuming_do_not_change_a_bit(manifest: Manifest) -> None:
    def run(workers: int) -> list[list[dict[str, Any]]]:
        sequence = EpochOrder(5, 7, batch_size=2)
        loader = train_loader(clips(manifest), sequence, workers=workers)
        epochs = []
        for epoch, start in ((0, 0), (1, 0), (1, 2)):
            sequence.set_epoch(epoch, start)
            epochs.append(list(device_batches(loader, CPU)))
        sequence.set_epoch(0)
        next(iter(loader))  # an epoch that is broken off leaves nothing behind
        sequence.set_epoch(1)
        epochs.append(list(loader))
        return epochs

    alone, helped = run(0), run(2)
    assert all(equal(a, b) for a, b in zip(alone, helped, strict=True))
    assert equal(alone[1][2:], alone[2]) and equal(alone[1], alone[3]) and not equal(alone[0], alone[1])


def test_a_batch_says_which_of_its_clips_are_good(manifest: Manifest) -> None:
    (batch,) = train_loader(clips(manifest), EpochOrder(5, 0, batch_size=8, shuffle=False), workers=0)
    assert batch["clip"].shape == (5, 3, 4, 16, 16) and batch["clip"].dtype == torch.uint8
    assert batch["ok"].tolist() == [True, True, True, False, True]
    assert batch["label"].tolist() == batch["index"].tolist() == [0, 1, 2, 3, 4]
    assert batch["status"][0] == "ok" and batch["status"][3] != "ok" and batch["reason"][3]


def test_padding_is_a_batch_of_its_own(manifest: Manifest) -> None:
    sequence = EpochOrder(5, 0, batch_size=4, rank=1, world=2, shuffle=False)
    batches = list(train_loader(clips(manifest), sequence, workers=0))
    assert [batch["index"].tolist() for batch in batches] == [[2, 3], [PADDING]]
    assert batches[1]["ok"].tolist() == [False] and batches[1]["status"] == ["padding"]


# ---- view loader


def test_view_batches_hold_all_views_video_after_video(manifest: Manifest) -> None:
    (batch,) = view_loader(views(manifest), batch_videos=8, workers=0)
    assert batch["counts"].tolist() == [6, 6, 6, 0, 6]
    got = list(views_of(batch))
    assert len(got) == 24 and all(view.shape == (4, 16, 16, 3) and view.dtype == torch.uint8 for view in got)
    alone = [view_loader(views(manifest.subset([index])), workers=0) for index in (0, 1, 2, 4)]
    assert same(got, [view for loader in alone for batch in loader for view in views_of(batch)])
    assert len(batch["start"][0]) == 2 and batch["start"][3] == ()


def test_a_batch_of_unreadable_videos_has_no_view(manifest: Manifest) -> None:
    (batch,) = view_loader(views(manifest.subset([3])), workers=0)
    assert not list(views_of(batch)) and batch["counts"].tolist() == [0]


@pytest.mark.parametrize("world", [1, 2, 3, 7])
def test_each_video_goes_to_one_rank_once(manifest: Manifest, world: int) -> None:
    shares = [
        [index for batch in view_loader(views(manifest), workers=0, rank=rank, world=world) for index in batch["index"]]
        for rank in range(world)
    ]
    assert [int(index) for index in shares[0]] == list(range(0, 5, world))
    assert sorted(int(index) for share in shares for index in share) == list(range(5))


def test_views_do_not_depend_on_workers(manifest: Manifest) -> None:
    alone = list(view_loader(views(manifest), batch_videos=2, workers=0))
    assert equal(alone, list(view_loader(views(manifest), batch_videos=2, workers=2)))


# ---- workers that fail


class Deadly(ClipDataset):
    """Its items 1 and 4 kill whoever reads them, and item 2 takes for ever, as a native decoder may."""

    def __getitem__(self, key: tuple[int, int]) -> Any:
        if key[1] in (1, 4):
            os.kill(os.getpid(), signal.SIGSEGV)
        if key[1] == 2:
            time.sleep(60)
        return super().__getitem__(key)


class DeadlyViews(ViewDataset):
    """Its item 1 kills whoever reads it."""

    def __getitem__(self, index: int) -> Any:
        if index == 1:
            os.kill(os.getpid(), signal.SIGSEGV)
        return super().__getitem__(index)


def deadly(manifest: Manifest) -> Deadly:
    return Deadly(manifest, ClipConfig(frames=4), TrainTransform(FRAME, AugmentConfig()), 7)


def test_videos_that_kill_or_hang_are_bad_videos_in_every_epoch_and_the_others_are_unchanged(
    manifest: Manifest,
) -> None:
    sequence = EpochOrder(5, 7, batch_size=2)
    with train_loader(deadly(manifest), sequence, workers=2, deadline=0.5) as loader:
        for epoch in (0, 1):
            sequence.set_epoch(epoch)
            got = list(device_batches(loader, CPU))
            good = list(device_batches(train_loader(clips(manifest), sequence, workers=0), CPU))
            assert [batch["index"].tolist() for batch in got] == [batch["index"].tolist() for batch in good]
            rows = {index: row for batch in got for index, *row in rows_of(batch)}
            wanted = {index: row for batch in good for index, *row in rows_of(batch)}
            assert {index: row[0] for index, row in rows.items()} == {
                0: "ok", 1: "crashed", 2: "timeout", 3: wanted[3][0], 4: "crashed",
            }  # fmt: skip
            assert all(not rows[index][1] and not rows[index][2].any() for index in (1, 2, 4))
            assert torch.equal(rows[0][2], wanted[0][2])


def rows_of(batch: dict[str, Any]) -> Iterator[tuple[int, str, bool, torch.Tensor]]:
    yield from zip(batch["index"].tolist(), batch["status"], batch["ok"].tolist(), batch["clip"], strict=True)


def test_a_video_that_kills_its_decoder_is_a_row_of_an_evaluation(manifest: Manifest) -> None:
    dataset = DeadlyViews(manifest, ClipConfig(frames=4), ViewTransform(FRAME, 3), partial(uniform_starts, clips=2))
    with view_loader(dataset, batch_videos=2, workers=2) as loader:
        batches = list(loader)
    assert [status for batch in batches for status in batch["status"]][:3] == ["ok", "crashed", "ok"]
    assert [count for batch in batches for count in batch["counts"].tolist()] == [6, 0, 6, 0, 6]


def processes() -> set[psutil.Process]:
    """The workers of this process, the server that starts them started."""
    list(each(os.getpgid, [0], workers=1))
    server = psutil.Process().children()
    return {process for process in psutil.Process().children(recursive=True) if process not in server}


def test_a_killed_worker_costs_no_clip(manifest: Manifest) -> None:
    sequence = EpochOrder(40, 0, batch_size=2)
    dataset = clips(manifest.subset([0, 1] * 20))
    with train_loader(dataset, sequence, workers=1) as loader:
        before = processes()
        batches = device_batches(loader, CPU)
        got = [next(batches)]
        (worker,) = processes() - before
        os.kill(worker.pid, signal.SIGKILL)
        got += batches
    assert equal(got, list(train_loader(dataset, sequence, workers=0)))


def test_closing_leaves_no_process_and_the_loader_can_be_used_again(manifest: Manifest) -> None:
    before = processes()
    loader = train_loader(clips(manifest), EpochOrder(5, 0, batch_size=2), workers=2)
    first = list(loader)
    assert len(processes() - before) == 2
    loader.close()
    assert processes() <= before
    assert equal(first, list(loader)) and len(loader) == 3
    loader.close()


def test_an_unexpected_error_in_a_worker_reaches_the_caller(manifest: Manifest) -> None:
    sequence = EpochOrder(7, 0, batch_size=2, shuffle=False)  # two samples more than there are
    with pytest.raises(IndexError):
        list(device_batches(train_loader(clips(manifest), sequence, workers=1), CPU))


# ---- memory layout


@pytest.mark.parametrize("workers", [0, 1])
def test_channels_are_last_in_memory_from_the_video_to_the_device(manifest: Manifest, workers: int) -> None:
    with train_loader(clips(manifest), EpochOrder(5, 0, batch_size=5), workers=workers) as loader:
        (batch,) = device_batches(loader, CPU)
    assert batch["clip"].is_contiguous(memory_format=torch.channels_last_3d)
    normalised = normalise(batch["clip"], Normalisation(), batch["contrast"])
    assert normalised.is_contiguous(memory_format=torch.channels_last_3d)


def test_clips_from_one_pass_are_clips_of_the_batch(manifest: Manifest) -> None:
    transform = TrainTransform(FRAME, AugmentConfig(repeats=3))
    dataset = ClipDataset(manifest, ClipConfig(frames=4), transform, 7)
    (batch,) = train_loader(dataset, EpochOrder(5, 0, batch_size=5, shuffle=False), workers=0)
    assert batch["index"].tolist() == [index for index in range(5) for _ in range(3)]
    assert batch["clip"].shape == (15, 3, 4, 16, 16) and batch["ok"].sum() == 12
