"""As a library: clips for a loop of one's own, features as arrays."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

import hybridvideo as hv
from hybridvideo.config.data import AugmentConfig, Normalisation
from hybridvideo.data.api import ClipsOfVideos
from hybridvideo.errors import UserError
from tests.engine.training.runs import TINY_MODEL
from tests.videos import numbers, write_video


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of three videos; one of them is none."""
    folder = tmp_path_factory.mktemp("videos")
    for name in ("jump/a.mp4", "jump/b.mp4", "run/c.mp4", "run/d.mp4", "run/e.mp4"):
        (folder / name).parent.mkdir(exist_ok=True)
        write_video(folder / name, frames=20)
    (folder / "jump/bad.mp4").write_text("no video")
    return folder


def clips(videos: Path, train: bool = True, seed: int = 0) -> ClipsOfVideos:
    return hv.dataset(videos, frames=4, size=(16, 24), stride=2, train=train, seed=seed)


def test_an_item_is_a_clip_or_gives_the_reason_it_is_none(videos: Path) -> None:
    dataset = clips(videos)
    good, bad = dataset[0], dataset[2]
    assert dataset.classes == ("jump", "run") and len(dataset) == 6
    assert good["clip"].shape == (3, 4, 16, 24) and good["clip"].dtype == torch.uint8
    assert (good["path"], good["label"], good["index"], good["ok"], good["status"]) == ("jump/a.mp4", 0, 0, True, "ok")
    assert not bad["ok"] and bad["status"] != "ok" and bad["reason"] and not bad["clip"].any() and bad["label"] == 0
    assert dataset[-1]["path"] == "run/e.mp4"
    with pytest.raises(IndexError):
        dataset[6]


def test_without_training_the_clip_is_the_middle_of_the_complete_picture(videos: Path) -> None:
    dataset = hv.dataset(videos, frames=4, size=(32, 96), stride=2)
    assert numbers(dataset[0]["clip"].transpose(0, 1)) == numbers(dataset[0]["clip"].transpose(0, 1))
    assert numbers(dataset[0]["clip"].transpose(0, 1))[0] in (6, 7)
    dataset.set_epoch(5)
    assert torch.equal(dataset[0]["clip"], hv.dataset(videos, frames=4, size=(32, 96), stride=2)[0]["clip"])


def test_random_clips_follow_from_seed_epoch_and_index(videos: Path) -> None:
    one, other, third = clips(videos), pickle.loads(pickle.dumps(clips(videos))), clips(videos, seed=1)
    assert torch.equal(one[3]["clip"], other[3]["clip"]) and not torch.equal(one[3]["clip"], third[3]["clip"])
    one.set_epoch(1)
    assert not torch.equal(one[3]["clip"], other[3]["clip"])
    other.set_epoch(1)
    assert torch.equal(one[3]["clip"], other[3]["clip"])


def test_a_plain_dataloader_takes_it_with_workers_that_stay(videos: Path) -> None:
    dataset = clips(videos)
    loader = DataLoader(
        dataset, batch_size=4, num_workers=1, persistent_workers=True, multiprocessing_context="forkserver"
    )
    for epoch in (0, 1):
        dataset.set_epoch(epoch)
        first, second = loader
        assert first["clip"].shape == (4, 3, 4, 16, 24) and first["ok"].tolist() == [True, True, False, True]
        assert first["path"][1] == "jump/b.mp4" and second["label"].tolist() == [1, 1]
        assert torch.equal(first["clip"][3], dataset[3]["clip"])


def test_the_loader_gives_every_video_once_in_another_order_each_epoch(videos: Path) -> None:
    with hv.loader(clips(videos), batch_size=4, workers=1) as loader:
        epochs = [[index for batch in loader for index in batch["index"].tolist()] for _ in range(3)]
        loader.set_epoch(1)
        again = next(iter(loader))
    assert len(loader) == 2 and all(sorted(epoch) == list(range(6)) for epoch in epochs)
    assert epochs[0] != epochs[1] and again["index"].tolist() == epochs[1][:4]
    assert again["path"] == [clips(videos).clips.manifest.rows[index].path for index in epochs[1][:4]]
    dataset = clips(videos)
    dataset.set_epoch(1)
    assert torch.equal(again["clip"][0], dataset[epochs[1][0]]["clip"])
    fixed = hv.loader(clips(videos, train=False), batch_size=6, workers=0)
    assert next(iter(fixed))["index"].tolist() == list(range(6))


def test_normalised_clips_are_what_the_model_takes(videos: Path) -> None:
    model = hv.create_model(TINY_MODEL["name"], 2, **TINY_MODEL["changes"], num_frames=4, image_size=16)  # type: ignore[call-overload, arg-type]
    dataset = hv.dataset(videos, frames=4, size=16, train=True, augment=AugmentConfig(contrast=(2.0,)))
    (plain,) = hv.loader(dataset, batch_size=6, workers=0, shuffle=False)
    (ready,) = hv.loader(dataset, batch_size=6, workers=0, shuffle=False, normalise=model)
    mean, std = (torch.tensor(part).view(3, 1, 1, 1) for part in (model.normalisation.mean, model.normalisation.std))
    expected = 2 * (plain["clip"] / 255 - mean) / std
    torch.testing.assert_close(ready["clip"][ready["ok"]], expected[plain["ok"]], atol=1e-5, rtol=1e-5)
    assert model(ready["clip"]).shape == (6, 2) and plain["clip"].dtype == torch.uint8
    (also,) = hv.loader(dataset, batch_size=6, workers=0, shuffle=False, normalise=Normalisation())
    assert also["clip"].dtype == torch.float32


def test_processes_share_the_batches(videos: Path) -> None:
    shares = [hv.loader(clips(videos), batch_size=4, workers=0, rank=rank, world=2) for rank in (0, 1)]
    indices = [index for share in shares for batch in share for index in batch["index"].tolist()]
    assert sorted(indices) == list(range(6))


def test_paths_without_labels_are_a_dataset_too(videos: Path) -> None:
    dataset = hv.dataset([videos / "run/c.mp4", videos / "run/gone.mp4"], frames=4, size=16)
    assert dataset.classes == () and dataset[0]["label"] == -1 and dataset[0]["ok"]
    assert dataset[1]["status"] == "missing"


def test_wrong_settings_are_one_line(videos: Path) -> None:
    with pytest.raises(UserError, match="repeats"):
        hv.dataset(videos, train=True, augment=AugmentConfig(repeats=2))
    with pytest.raises(UserError, match="workers is -1"):
        hv.loader(clips(videos), workers=-1)
    with pytest.raises(UserError, match="multiple of 2"):
        hv.loader(clips(videos), batch_size=3, world=2)
    with pytest.raises(UserError, match="does not exist"):
        hv.dataset(videos / "nowhere")


def test_features_are_lists_or_arrays(videos: Path) -> None:
    model = hv.create_model(TINY_MODEL["name"], 2, **TINY_MODEL["changes"], num_frames=4, image_size=16)  # type: ignore[call-overload, arg-type]
    paths = [videos / "run/c.mp4", videos / "jump/bad.mp4"]
    lists, arrays = (list(hv.extract(model, paths, workers=0, as_numpy=chosen)) for chosen in (False, True))
    assert isinstance(arrays[0]["feature"], np.ndarray) and arrays[0]["feature"].dtype == np.float32
    assert arrays[0]["feature"].ndim == 1 and arrays[0]["feature"].tolist() == lists[0]["feature"]
    assert arrays[-1]["feature"] is None and arrays[-1]["status"] != "ok"
